package link

import (
	"testing"
	"time"

	"pgvrrp/internal/quorum/record"
)

func TestSender(t *testing.T) {
	const own record.Boot = 77
	type in struct {
		inc    string // "" for a
		starts uint64 // 0 for 5
		boot   record.Boot
		toBoot record.Boot // 0 for own
		kind   kind
		stream uint16
		seq    uint64
		local  int
		at     time.Duration
	}
	type out struct {
		fresh  bool
		reason Reason
		ask    bool
	}
	fresh, duplicate := out{fresh: true}, out{}
	reject := func(r Reason) out { return out{reason: r} }
	type step struct {
		admit *Self // instead of a datagram
		in    in
		want  out
	}
	admitted := func(inc string, starts uint64, boot record.Boot, want Reason) step {
		return step{admit: &Self{ID: "n2", Incarnation: inc, Starts: starts, Boot: boot}, want: reject(want)}
	}
	first := admitted("a", 5, 50, None)
	ask := out{reason: NotAdmitted, ask: true}
	for _, tc := range []struct {
		name  string
		steps []step
	}{
		{"unknown run is asked about, once a second", []step{
			{in: in{seq: 1}, want: ask},
			{in: in{seq: 2, at: askAgain - 1}, want: reject(NotAdmitted)},
			{in: in{seq: 3, at: askAgain}, want: ask},
			{in: in{seq: 4, at: askAgain, starts: 6, boot: 60}, want: ask},
			first,
			{in: in{seq: 1}, want: fresh},
		}},
		{"increasing numbers", []step{
			first,
			{in: in{seq: 1}, want: fresh}, {in: in{seq: 2}, want: fresh}, {in: in{seq: 9}, want: fresh},
			{in: in{seq: 9}, want: reject(Replay)}, {in: in{seq: 8}, want: reject(Replay)}, {in: in{seq: 1}, want: reject(Replay)},
			{in: in{seq: 10}, want: fresh},
		}},
		{"copies by a second link are no replays, once", []step{
			first,
			{in: in{seq: 1, local: 0}, want: fresh}, {in: in{seq: 1, local: 1}, want: duplicate},
			{in: in{seq: 2, local: 0}, want: fresh}, {in: in{seq: 3, local: 0}, want: fresh},
			{in: in{seq: 2, local: 1}, want: duplicate}, {in: in{seq: 3, local: 1}, want: duplicate},
			{in: in{seq: 3, local: 1}, want: reject(Replay)}, {in: in{seq: 2, local: 1}, want: reject(Replay)},
			{in: in{seq: 4, local: 1}, want: fresh}, {in: in{seq: 4, local: 0}, want: duplicate},
			{in: in{seq: 4, local: 0}, want: reject(Replay)},
		}},
		{"each stream has its own numbers", []step{
			first,
			{in: in{seq: 20}, want: fresh},
			{in: in{kind: ping, stream: 1, seq: 10}, want: fresh},
			{in: in{kind: ping, stream: 2, seq: 9}, want: fresh},
			{in: in{kind: ping, stream: 1, seq: 9}, want: reject(Replay)},
			{in: in{kind: ping, stream: 1, seq: 10, local: 1}, want: reject(Replay)},
			{in: in{kind: pong, stream: pongStream | 1, seq: 3}, want: fresh},
		}},
		{"older start", []step{
			first,
			{in: in{starts: 4, boot: 40, seq: 99}, want: reject(OldStart)},
			admitted("a", 4, 40, OldStart),
			{in: in{seq: 1}, want: fresh},
		}},
		{"newer start begins its numbers anew, the older one is over", []step{
			first,
			{in: in{seq: 100}, want: fresh},
			{in: in{starts: 6, boot: 60, seq: 1}, want: ask},
			// Until the directory has answered, the older run goes on.
			{in: in{seq: 101}, want: fresh},
			admitted("a", 6, 60, None),
			{in: in{starts: 6, boot: 60, seq: 2}, want: fresh},
			{in: in{seq: 102}, want: reject(OldStart)},
		}},
		{"two runs of one start", []step{
			first,
			{in: in{boot: 51, seq: 1}, want: reject(TwoRuns)},
			admitted("a", 5, 51, TwoRuns),
			{in: in{seq: 1}, want: fresh},
		}},
		{"other incarnation must be admitted, whatever its start", []step{
			first,
			{in: in{inc: "b", starts: 1, boot: 90, seq: 1}, want: ask},
			admitted("b", 1, 90, None),
			{in: in{inc: "b", starts: 1, boot: 90, seq: 2}, want: fresh},
			{in: in{inc: "a", seq: 500}, want: ask},
		}},
		{"other incarnation must know this run of ours", []step{
			{in: in{kind: ping, stream: 1, toBoot: 76, seq: 1}, want: ask},
			first,
			{in: in{inc: "b", starts: 9, boot: 90, toBoot: 76, kind: ping, stream: 1, seq: 1}, want: reject(OtherRun)},
			{in: in{inc: "b", starts: 9, boot: 90, kind: ping, stream: 1, seq: 2}, want: ask},
			// A later start of the same one need not: its number tells.
			{in: in{starts: 6, boot: 60, toBoot: 76, kind: ping, stream: 1, seq: 1}, want: ask},
		}},
		{"a replay brings no earlier incarnation back", []step{
			first,
			{in: in{kind: ping, stream: 1, seq: 100}, want: fresh},
			admitted("b", 1, 90, None),
			{in: in{kind: ping, stream: 1, seq: 100}, want: reject(Replay)},
			{in: in{inc: "b", starts: 1, boot: 90, seq: 1}, want: fresh},
			{in: in{kind: ping, stream: 1, seq: 101}, want: ask},
		}},
		{"numbers survive a change of incarnation and back", []step{
			first,
			{in: in{seq: 100}, want: fresh},
			admitted("b", 1, 90, None),
			admitted("a", 5, 50, None),
			{in: in{seq: 100}, want: reject(Replay)},
			{in: in{seq: 101}, want: fresh},
			admitted("b", 1, 90, None),
			{in: in{inc: "a", starts: 4, boot: 40, seq: 1}, want: reject(OldStart)},
			{in: in{inc: "a", boot: 51, seq: 1}, want: reject(TwoRuns)},
		}},
		{"addressed to an earlier run of ours", []step{
			first,
			{in: in{toBoot: 76, seq: 5}, want: reject(OtherRun)},
			{in: in{kind: pong, stream: pongStream | 1, toBoot: 76, seq: 5}, want: reject(OtherRun)},
			{in: in{kind: ping, stream: 1, toBoot: 76, seq: 5}, want: fresh},
			{in: in{seq: 5}, want: fresh},
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var s sender
			for i, st := range tc.steps {
				if st.admit != nil {
					if _, got := s.admit(*st.admit); got != st.want.reason {
						t.Errorf("step %d: admit: got %v, want %v", i, got, st.want.reason)
					}
					continue
				}
				d := datagram{
					kind: st.in.kind, starts: st.in.starts, boot: st.in.boot, toBoot: st.in.toBoot, stream: st.in.stream, seq: st.in.seq,
					from: []byte("n2"), incarnation: []byte(st.in.inc),
				}
				if d.starts == 0 {
					d.starts = 5
				}
				if d.boot == 0 {
					d.boot = 50
				}
				if d.toBoot == 0 {
					d.toBoot = own
				}
				if len(d.incarnation) == 0 {
					d.incarnation = []byte("a")
				}
				var got out
				got.fresh, got.reason, got.ask = s.check(&d, own, st.in.local, st.in.at)
				if got != st.want {
					t.Errorf("step %d: got %+v, want %+v", i, got, st.want)
				}
			}
		})
	}
}

func TestSenderForgetsQuestions(t *testing.T) {
	var s sender
	for i := range uint64(10 * maxAsked) {
		d := datagram{starts: i + 1, boot: 1, seq: 1, from: []byte("n2"), incarnation: []byte("a")}
		if _, _, ask := s.check(&d, 1, 0, 0); !ask {
			t.Fatalf("run %d is not asked about", i)
		}
		if len(s.asked) > maxAsked {
			t.Fatalf("remembers %d questions", len(s.asked))
		}
	}
}

func TestLimiter(t *testing.T) {
	var l limiter
	for _, tc := range []struct {
		at   time.Duration
		peer string
		r    Reason
		want bool
	}{
		{time.Second, "n1", BadMAC, true},
		{2 * time.Second, "n1", BadMAC, false},
		{2 * time.Second, "n1", Replay, true},
		{2 * time.Second, "n2", BadMAC, true},
		{time.Second + time.Minute - 1, "n1", BadMAC, false},
		{time.Second + time.Minute, "n1", BadMAC, true},
	} {
		if got := l.allow(tc.at, "x", tc.peer, tc.r); got != tc.want {
			t.Errorf("at %v, %s, %v: got %v, want %v", tc.at, tc.peer, tc.r, got, tc.want)
		}
	}
	if !l.allow(2*time.Second, "y", "n1", BadMAC) {
		t.Error("another text is held back")
	}
}

func TestReasonsHaveNames(t *testing.T) {
	seen := map[string]bool{}
	for r := range numReasons + 1 {
		if r.String() == "" || seen[r.String()] {
			t.Errorf("reason %d is called %q", r, r.String())
		}
		seen[r.String()] = true
	}
}
