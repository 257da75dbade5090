package core

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// rig plays one agent by hand: what it asks for is listed, and answered by the test.
type rig struct {
	t    *testing.T
	a    *Agent
	now  time.Duration
	srv  Server
	view View
	mute []string // agents that say nothing any more
	todo []Action
	log  []string
}

func newRig(t *testing.T, m Marks) *rig {
	return &rig{t: t, now: time.Hour, a: New(Options{Node: "n1", Peers: []string{"n2", "n3"}, Rewind: true, Clone: true}, m),
		srv: Server{Running: true, Answering: true, Postmaster: 1, InRecovery: true, SystemID: 7, Pos: Position{1, 100}, SSN: SSN{Hold: true}.String()}}
}

// give delivers an event and returns what the agent asks for.
func (r *rig) give(ev Event) []Action {
	r.now += time.Millisecond
	return r.deliver(ev)
}

func (r *rig) deliver(ev Event) []Action {
	var out []Action
	for _, x := range r.a.Step(r.now, ev) {
		if x.Kind != Say && x.Kind != Eligible {
			out = append(out, x)
			r.log = append(r.log, x.String())
		}
	}
	r.todo = append(r.todo, out...)
	return out
}

// server is what a look at it sees; unless a test says something else, its WAL ends with a record.
func (r *rig) server() Server {
	s := r.srv
	s.At = r.now
	if s.Whole == 0 {
		s.Whole = s.Pos.LSN
	}
	return s
}

func (r *rig) look() []Action {
	s := r.server()
	return r.give(&s)
}

func (r *rig) show() []Action {
	v := r.view
	v.SystemID, v.Deadline = 7, r.now+time.Hour
	return r.give(v)
}

// end is the outcome of the oldest action of a kind that is under way.
func (r *rig) end(k Kind, res Result, err error) []Action {
	r.t.Helper()
	i := slices.IndexFunc(r.todo, func(x Action) bool { return x.Kind == k })
	if i < 0 {
		r.t.Fatalf("no %v is under way; so far: %s", k, strings.Join(r.log, " | "))
	}
	x := r.todo[i]
	r.todo = slices.Delete(r.todo, i, i+1)
	s := r.server()
	return r.give(Done{ID: x.ID, Result: res, Err: err, Unknown: err != nil, Server: &s})
}

func (r *rig) under(k Kind) *Action {
	for i := range r.todo {
		if r.todo[i].Kind == k {
			return &r.todo[i]
		}
	}
	return nil
}

func (r *rig) want(k Kind) Action {
	r.t.Helper()
	x := r.under(k)
	if x == nil {
		r.t.Fatalf("got no %v; so far: %s", k, strings.Join(r.log, " | "))
	}
	return *x
}

func (r *rig) wantNot(k Kind) {
	r.t.Helper()
	if x := r.under(k); x != nil {
		r.t.Fatalf("got %v; so far: %s", x, strings.Join(r.log, " | "))
	}
}

// pass lets time go, with looks at the server and words of the other agents in between.
func (r *rig) pass(d time.Duration) {
	for end := r.now + d; r.now < end; r.now += 20 * time.Millisecond {
		for _, n := range []string{"n2", "n3"} {
			if !slices.Contains(r.mute, n) {
				r.deliver(Heard{Node: n})
			}
		}
		r.look()
	}
}

func streams(name string, flush uint64, priority int) Standby {
	return Standby{Name: name, Streaming: true, Sent: flush, Flush: flush, Priority: priority}
}

// readies ends what comes before a rewind or a copy, the marker or the server's stop, if that is under way.
func (r *rig) readies() bool {
	switch {
	case r.under(PersistMarker) != nil:
		r.end(PersistMarker, Result{}, nil)
	case r.under(Stop) != nil:
		r.srv.Running, r.srv.Answering, r.srv.Postmaster = false, false, 0
		r.end(Stop, Result{}, nil)
	default:
		return false
	}
	return true
}

// holder is an agent whose server is the active holder with the rule {n1; S}, at the moment when all is in force.
func holder(t *testing.T, s ...string) *rig {
	r := newRig(t, Marks{Promise: 5, Attempted: 5})
	r.srv.InRecovery, r.srv.Pos, r.srv.RewindReady = false, Position{3, 200}, true
	r.srv.SSN = SSN{Names: s}.String()
	for k, n := range s {
		r.srv.Standbys = append(r.srv.Standbys, streams(n, 200, k+1))
	}
	r.view = View{Epoch: 5, Phase: Active, Holder: "n1", Mine: true, Live: true, Timeline: 3, Rule: Rule{Holder: "n1", S: s, Version: 9},
		Ledger: []Timeline{{TLI: 3, SwitchLSN: 150, Epoch: 5, Node: "n1"}}, SyncNum: 2, MinCopies: 1}
	r.look()
	r.show()
	// What a former process proposed is ruled out first.
	if x := r.want(SetRule); !slices.Equal(x.Names, s) || x.Ver != 9 {
		t.Fatalf("got %v, want the same rule on version 9", x)
	}
	r.end(SetRule, Result{}, nil)
	r.view.Rule.Version = 10
	r.show()
	r.want(Open)
	r.todo = nil
	return r
}

// While an epoch is active the mark is written each second, and vrrpd is told that there is more; in an election the disk has other things to do.
func TestMarkEachSecond(t *testing.T) {
	r := newRig(t, Marks{Promise: 5})
	r.srv.Conninfo, r.srv.Upstream = "n2", "n2"
	r.view = View{Epoch: 5, Phase: Active, Holder: "n2", Rule: Rule{Holder: "n2", S: []string{"n1"}, Version: 3}}
	r.look()
	r.show()
	r.srv.Pos.LSN += 100
	r.srv.Whole = r.srv.Pos.LSN
	r.pass(1100 * time.Millisecond)
	r.want(PersistMark)
	r.wantNot(Advanced)
	r.end(PersistMark, Result{}, nil)
	r.want(Advanced)
}

func TestPledgeOfStandby(t *testing.T) {
	r := newRig(t, Marks{Promise: 4})
	r.srv.Conninfo, r.srv.Upstream = "n2", "n2"
	r.view = View{Epoch: 5, Phase: Electing, Rule: Rule{Holder: "n2", S: []string{"n1"}, Version: 3}}
	r.look()
	r.show()
	r.want(PersistPromise)
	r.wantNot(Fence) // before the promise is on disk
	r.end(PersistPromise, Result{}, nil)
	r.want(Fence)
	r.srv.Conninfo, r.srv.Upstream = "", ""
	r.end(Fence, Result{SystemID: 7, Pos: Position{1, 120}}, nil)
	r.want(PersistMark)
	r.wantNot(ReportPledge)
	r.end(PersistMark, Result{}, nil)
	if x := r.want(ReportPledge); x.Epoch != 5 || x.Pos != (Position{1, 120}) {
		t.Errorf("got %v", x)
	}
	r.end(ReportPledge, Result{}, nil)
	r.srv.Postmaster = 2 // a restart makes the report void
	r.look()
	r.want(Fence)
}

// TestLateAnswerToAPledge: it is for what was told, and not for what the server is by then.
func TestLateAnswerToAPledge(t *testing.T) {
	start := func(t *testing.T) *rig {
		r := newRig(t, Marks{Promise: 5, Mark: Position{1, 120}})
		r.view = View{Epoch: 5, Phase: Electing, Rule: Rule{Holder: "n1", S: []string{"n2"}, Version: 3}}
		return r
	}
	fenced := func(r *rig, lsn uint64) {
		r.end(Fence, Result{SystemID: 7, Pos: Position{1, lsn}}, nil)
		if r.under(PersistMark) != nil {
			r.end(PersistMark, Result{}, nil)
		}
	}
	want := func(t *testing.T, r *rig, lsn uint64) {
		t.Helper()
		if x := r.want(ReportPledge); x.Epoch != 5 || x.Pos != (Position{1, lsn}) {
			t.Errorf("got %v, want LSN %d", x, lsn)
		}
	}
	pledges := func(t *testing.T) *rig {
		t.Helper()
		r := start(t)
		r.look()
		r.show()
		fenced(r, 120)
		want(t, r, 120)
		return r
	}
	t.Run("the server was restarted", func(t *testing.T) {
		r := pledges(t)
		r.srv.Postmaster = 2
		r.look()
		fenced(r, 130)
		r.end(ReportPledge, Result{}, nil)
		want(t, r, 130)
		r.end(ReportPledge, Result{}, nil)
		r.pass(100 * time.Millisecond)
		r.wantNot(ReportPledge)
	})
	t.Run("the server was started", func(t *testing.T) {
		r := start(t)
		r.srv = Server{Clean: true, SystemID: 7, Pos: Position{1, 120}}
		r.look()
		r.show()
		want(t, r, 120)
		r.srv = Server{Running: true, Answering: true, Postmaster: 2, InRecovery: true, SystemID: 7, Pos: Position{1, 120}, SSN: SSN{Hold: true}.String()}
		r.end(StartStandby, Result{}, nil)
		r.end(ReportPledge, Result{}, nil)
		fenced(r, 130)
		want(t, r, 130)
	})
	t.Run("vrrpd has forgotten it", func(t *testing.T) {
		r := pledges(t)
		before := r.todo
		r.todo = nil
		r.give(Attached{})
		want(t, r, 120)
		r.give(Done{ID: before[0].ID})
		r.end(ReportPledge, Result{}, errors.New("timeout"))
		r.pass(100 * time.Millisecond)
		want(t, r, 120)
	})
}

func TestOldCopyIsNotRecruited(t *testing.T) {
	r := newRig(t, Marks{Promise: 5, Mark: Position{1, 500}})
	r.view = View{Epoch: 5, Phase: Electing, Rule: Rule{Holder: "n1", Version: 3}}
	r.look()
	r.show()
	r.end(Fence, Result{SystemID: 7, Pos: Position{1, 120}}, nil)
	r.pass(time.Second)
	r.wantNot(ReportPledge)
	if why := r.a.unfit(); !strings.Contains(why, "an old copy was restored") {
		t.Errorf("got %q", why)
	}
}

func TestGrant(t *testing.T) {
	r := newRig(t, Marks{Promise: 5})
	r.view = View{Epoch: 5, Phase: Granted, Holder: "n1", Mine: true, Live: true, Timeline: 4, Rule: Rule{Holder: "n2", S: []string{"n1"}, Version: 3},
		Ledger: []Timeline{{TLI: 3, SwitchLSN: 50, Epoch: 3, Node: "n2"}, {TLI: 4, Epoch: 5, Node: "n1"}}, SyncNum: 2}
	r.look()
	r.show()
	r.end(Fence, Result{SystemID: 7, Pos: Position{1, 100}}, nil)
	r.want(PersistAttempt)
	r.end(PersistAttempt, Result{}, nil)
	if x := r.want(Reserve); !slices.Equal(x.Numbers, []uint32{2, 3}) || x.TLI != 4 {
		t.Errorf("got %v %v", x, x.Numbers)
	}
	r.end(Reserve, Result{}, nil)
	r.want(PromoteTo)
	r.srv.InRecovery, r.srv.Pos = false, Position{4, 101}
	r.end(PromoteTo, Result{TLI: 4, SwitchLSN: 100, EndLSN: 101}, nil)
	r.pass(100 * time.Millisecond)
	r.wantNot(SetRule) // the first standby is waited for
	// A word that goes beyond what was sent is no proof; the end of recovery is.
	r.srv.Standbys = []Standby{{Name: "n3", Streaming: true, Sent: 90, Flush: 400}}
	r.look()
	r.wantNot(SetRule)
	r.srv.Standbys = []Standby{streams("n3", 101, 0)}
	r.look()
	if x := r.want(ProveSSN); !x.Probe || !x.SSN.IsHold() {
		t.Errorf("got %v, want a look whether commits wait", x)
	}
	r.end(ProveSSN, Result{}, nil)
	if x := r.want(SetRule); !slices.Equal(x.Names, []string{"n3"}) || x.TLI != 4 || x.LSN != 100 || x.Parent != 1 || x.Ver != 3 {
		t.Errorf("got %v", x)
	}
	r.pass(50 * time.Millisecond)
	r.wantNot(WriteSSN) // before the log has it
	r.end(SetRule, Result{}, nil)
	if x := r.want(WriteSSN); x.SSN.String() != "FIRST 1 (n3)" {
		t.Errorf("got %v", x)
	}
	r.wantNot(Open) // before it is in force
	r.srv.SSN = "FIRST 1 (n3)"
	r.srv.Standbys[0].Priority = 1
	r.end(WriteSSN, Result{}, nil)
	r.end(Nudge, Result{}, nil)
	r.want(Open)
}

func TestGrantAlone(t *testing.T) {
	for _, c := range []struct {
		name   string
		copies int
		after  time.Duration
		ssn    string // in force in the end
	}{
		{"one copy is enough", 1, 350 * time.Millisecond, ""},
		{"two copies: active, and on hold", 2, 2100 * time.Millisecond, "FIRST 1 (pgnotify_hold)"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, Marks{Promise: 5})
			r.view = View{Epoch: 5, Phase: Granted, Holder: "n1", Mine: true, Live: true, Timeline: 2, Rule: Rule{Holder: "n1", Version: 3}, MinCopies: c.copies,
				Ledger: []Timeline{{TLI: 2, Epoch: 5, Node: "n1"}}}
			r.look()
			r.show()
			r.end(Fence, Result{SystemID: 7, Pos: Position{1, 100}}, nil)
			r.end(PersistAttempt, Result{}, nil)
			r.end(Reserve, Result{}, nil)
			r.srv.InRecovery, r.srv.Pos = false, Position{2, 101}
			r.end(PromoteTo, Result{TLI: 2, SwitchLSN: 100, EndLSN: 101}, nil)
			r.pass(c.after - 100*time.Millisecond)
			r.wantNot(SetRule)
			r.pass(120 * time.Millisecond)
			if x := r.want(SetRule); len(x.Names) != 0 {
				t.Errorf("got %v", x)
			}
			r.end(SetRule, Result{}, nil)
			if x := r.under(WriteSSN); x != nil {
				r.srv.SSN = x.SSN.String()
				r.end(WriteSSN, Result{}, nil)
			}
			if r.srv.SSN != c.ssn {
				t.Errorf("got %q, want %q", r.srv.SSN, c.ssn)
			}
		})
	}
}

// TestLateWordDuringGrant: a server that was just promoted is not stopped because vrrpd's word on the lease comes late; on hold it waits.
func TestLateWordDuringGrant(t *testing.T) {
	r := newRig(t, Marks{Promise: 5})
	r.view = View{SystemID: 7, Epoch: 5, Phase: Granted, Holder: "n1", Mine: true, Live: true, Timeline: 2, Rule: Rule{Holder: "n2", S: []string{"n1"}, Version: 3},
		Ledger: []Timeline{{TLI: 2, Epoch: 5, Node: "n1"}}}
	r.view.Deadline = r.now + 200*time.Millisecond
	r.look()
	r.give(r.view)
	r.end(Fence, Result{SystemID: 7, Pos: Position{1, 100}}, nil)
	r.end(PersistAttempt, Result{}, nil)
	r.end(Reserve, Result{}, nil)
	r.srv.InRecovery, r.srv.Pos = false, Position{2, 101}
	r.end(PromoteTo, Result{TLI: 2, SwitchLSN: 100, EndLSN: 101}, nil)
	r.pass(400 * time.Millisecond)
	r.wantNot(Stop)
	r.wantNot(SetRule) // nor is it ours to rule meanwhile
	r.view.Deadline = r.now + time.Hour
	r.give(r.view)
	r.want(SetRule)
	r.view.Mine, r.view.Live, r.view.Phase, r.view.Epoch, r.view.Holder = false, false, Electing, 6, ""
	r.give(r.view)
	r.end(SetRule, Result{}, errors.New("refused"))
	r.end(PersistPromise, Result{}, nil)
	r.want(Stop) // it never became active
}

func TestGivesUpGrant(t *testing.T) {
	start := func(t *testing.T) *rig {
		r := newRig(t, Marks{Promise: 5})
		r.view = View{Epoch: 5, Phase: Granted, Holder: "n1", Mine: true, Live: true, Timeline: 2, Rule: Rule{Holder: "n1", Version: 3}, Ledger: []Timeline{{TLI: 2, Epoch: 5, Node: "n1"}}}
		r.look()
		r.show()
		r.end(Fence, Result{SystemID: 7, Pos: Position{1, 100}}, nil)
		r.end(PersistAttempt, Result{}, nil)
		r.end(Reserve, Result{}, nil)
		return r
	}
	t.Run("wrong timeline", func(t *testing.T) {
		r := start(t)
		r.srv.InRecovery = false
		r.end(PromoteTo, Result{TLI: 3, SwitchLSN: 100, EndLSN: 101}, nil)
		r.want(Stop)
		r.wantNot(Release) // before it is stopped and cleaned up
		r.srv.Running, r.srv.Answering, r.srv.InRecovery, r.srv.Postmaster = false, false, true, 0
		r.end(Stop, Result{}, nil)
		r.wantNot(Release)
		r.end(Unreserve, Result{}, nil)
		r.want(Release)
	})
	t.Run("not for files that take long to write", func(t *testing.T) {
		r := newRig(t, Marks{Promise: 5})
		r.view = View{Epoch: 5, Phase: Granted, Holder: "n1", Mine: true, Live: true, Timeline: 2, Rule: Rule{Holder: "n1", Version: 3}, Ledger: []Timeline{{TLI: 2, Epoch: 5, Node: "n1"}}}
		r.look()
		r.show()
		r.end(Fence, Result{SystemID: 7, Pos: Position{1, 100}}, nil)
		r.end(PersistAttempt, Result{}, nil)
		r.want(Reserve)
		r.now += 10 * time.Second
		r.end(Reserve, Result{}, nil)
		r.want(PromoteTo)
	})
	t.Run("restarted before it was promoted", func(t *testing.T) {
		r := start(t)
		r.srv.Postmaster = 2 // its start swept away what was reserved
		r.look()
		r.end(PromoteTo, Result{}, errors.New("gone"))
		r.wantNot(Unreserve) // a promotion that still comes would take any number
		r.end(Stop, Result{}, nil)
		r.wantNot(PromoteTo)
	})
	t.Run("tried by a former run", func(t *testing.T) {
		r := newRig(t, Marks{Promise: 5, Attempted: 5})
		r.view = View{Epoch: 5, Phase: Granted, Holder: "n1", Mine: true, Live: true, Timeline: 2, Rule: Rule{Holder: "n1", Version: 3}}
		r.look()
		r.show()
		r.look()
		r.wantNot(Unreserve) // its promotion may still come
		r.srv.Running, r.srv.Answering, r.srv.Postmaster = false, false, 0
		r.end(Stop, Result{}, nil)
		r.end(Unreserve, Result{}, nil)
		r.want(Release)
	})
}

func TestRunningHolderKeepsItsRule(t *testing.T) {
	r := newRig(t, Marks{Promise: 5})
	r.srv.InRecovery, r.srv.Pos = false, Position{3, 200}
	r.view = View{Epoch: 6, Phase: Granted, Holder: "n1", Mine: true, Live: true, Timeline: 9, Rule: Rule{Holder: "n1", S: []string{"n3", "n2"}, Version: 4},
		Ledger: []Timeline{{TLI: 3, SwitchLSN: 150, Epoch: 5, Node: "n1"}, {TLI: 9, Epoch: 6, Node: "n1"}}}
	r.look()
	r.show()
	r.end(PersistPromise, Result{}, nil)
	r.look()
	if x := r.want(SetRule); !slices.Equal(x.Names, []string{"n3", "n2"}) || x.TLI != 3 || x.LSN != 0 {
		t.Errorf("got %v, want the same S on the timeline that runs", x)
	}
	r.wantNot(PromoteTo)
	// The standbys lost their streams when they pledged, a while ago. From now on they have as long to return as after any other loss.
	r.pass(150 * time.Millisecond)
	r.srv.RewindReady = true
	r.end(SetRule, Result{}, nil)
	r.view.Phase, r.view.Rule = Active, Rule{Holder: "n1", S: []string{"n3", "n2"}, Version: 5}
	r.show()
	r.srv.SSN = "FIRST 2 (n3, n2)"
	r.end(WriteSSN, Result{}, nil)
	r.pass(60 * time.Millisecond)
	r.want(Open)
	r.wantNot(SetRule)
	r.end(Nudge, Result{}, nil)
	r.srv.Standbys = []Standby{streams("n3", 200, 1)}
	r.pass(80 * time.Millisecond)
	if x := r.want(SetRule); !slices.Equal(x.Names, []string{"n3"}) {
		t.Errorf("got %v, want n2 out of the rule: it has not returned", x)
	}
}

func TestShrink(t *testing.T) {
	r := holder(t, "n3", "n2")
	r.srv.Standbys = r.srv.Standbys[1:] // n3 is gone
	r.pass(60 * time.Millisecond)
	r.wantNot(SetRule)
	r.pass(80 * time.Millisecond)
	if x := r.want(SetRule); !slices.Equal(x.Names, []string{"n2"}) || x.Ver != 10 {
		t.Fatalf("got %v", x)
	}
	r.wantNot(WriteSSN)
	// Nobody knows what became of it: the SSN stays, the same version is asked for again.
	r.end(SetRule, Result{}, errors.New("no answer"))
	r.pass(100 * time.Millisecond)
	r.wantNot(WriteSSN)
	if x := r.want(SetRule); x.Ver != 10 {
		t.Fatalf("got %v, want version 10 again", x)
	}
	r.end(SetRule, Result{}, nil)
	if x := r.want(WriteSSN); x.SSN.String() != "FIRST 1 (n2)" {
		t.Fatalf("got %v", x)
	}
	r.srv.SSN = "FIRST 1 (n2)"
	r.end(WriteSSN, Result{}, nil)
	r.want(Nudge)
}

func TestUnknownShrinkIsDecidedByTheLog(t *testing.T) {
	r := holder(t, "n3", "n2")
	r.srv.Standbys = r.srv.Standbys[1:]
	r.pass(150 * time.Millisecond)
	r.end(SetRule, Result{}, errors.New("no answer"))
	// A version beyond the one that was tried: nothing of ours can still come.
	r.view.Rule = Rule{Holder: "n1", S: []string{"n2"}, Version: 11}
	r.show()
	r.look()
	if x := r.want(WriteSSN); x.SSN.String() != "FIRST 1 (n2)" {
		t.Fatalf("got %v", x)
	}
}

func TestStalledStandbyIsLost(t *testing.T) {
	r := holder(t, "n3", "n2")
	r.srv.Pos.LSN, r.srv.Standbys[1].Sent, r.srv.Standbys[1].Flush = 210, 210, 210 // n3 stays at 200
	r.pass(100 * time.Millisecond)
	r.wantNot(SetRule)
	r.pass(150 * time.Millisecond)
	if x := r.want(SetRule); !slices.Equal(x.Names, []string{"n2"}) {
		t.Fatalf("got %v", x)
	}
}

func TestPledgeDropsPendingLooserSSN(t *testing.T) {
	r := holder(t, "n2")
	r.srv.Standbys = nil
	r.pass(150 * time.Millisecond)
	r.want(SetRule)
	r.view.Epoch, r.view.Phase, r.view.Mine, r.view.Live, r.view.Holder = 6, Electing, false, false, ""
	r.show()
	r.want(Hold)
	r.srv.SSN = SSN{Hold: true}.String()
	r.end(Hold, Result{}, nil)
	r.end(PersistPromise, Result{}, nil)
	r.end(SetRule, Result{}, nil) // committed in the epoch that is over
	r.pass(200 * time.Millisecond)
	r.wantNot(WriteSSN)
}

func TestGrowFromNothing(t *testing.T) {
	r := holder(t)
	r.srv.Standbys = []Standby{streams("n2", 200, 0)}
	r.pass(100 * time.Millisecond)
	if x := r.want(WriteSSN); x.SSN.String() != "FIRST 2 (n2, pgnotify_hold)" {
		t.Fatalf("got %v", x)
	}
	r.srv.SSN, r.srv.Standbys[0].Priority = "FIRST 2 (n2, pgnotify_hold)", 1
	r.end(WriteSSN, Result{}, nil)
	if x := r.want(ProveSSN); !x.Probe {
		t.Fatalf("got %v", x)
	}
	r.end(ProveSSN, Result{}, nil)
	if x := r.want(WriteSSN); x.SSN.String() != "FIRST 1 (n2)" {
		t.Fatalf("got %v", x)
	}
	r.srv.SSN = "FIRST 1 (n2)"
	r.end(WriteSSN, Result{}, nil)
	r.end(ProveSSN, Result{Barrier: 230}, nil)
	r.look()
	r.wantNot(SetRule) // n2 is at 200
	r.srv.Pos.LSN, r.srv.Standbys[0] = 230, streams("n2", 230, 1)
	r.look()
	if x := r.want(SetRule); !slices.Equal(x.Names, []string{"n2"}) {
		t.Fatalf("got %v", x)
	}
}

// TestBusyCheckpointerIsNoFaultOfAStandby: whether commits wait, all sessions have from the checkpointer, which does not look in the middle of a checkpoint.
func TestBusyCheckpointerIsNoFaultOfAStandby(t *testing.T) {
	r := holder(t)
	r.srv.Standbys = []Standby{streams("n2", 200, 0)}
	r.pass(100 * time.Millisecond)
	for range 5 {
		r.srv.SSN, r.srv.Standbys[0].Priority = "FIRST 2 (n2, pgnotify_hold)", 1
		r.end(WriteSSN, Result{}, nil)
		r.end(ProveSSN, Result{}, errors.New("no commit waits"))
		r.look()
		if x := r.want(WriteSSN); x.SSN.String() != "" {
			t.Fatalf("got %v, want that commits go on", x)
		}
		r.srv.SSN, r.srv.Standbys[0].Priority = "", 0
		r.end(WriteSSN, Result{}, nil)
		for end := r.now + r.a.t.Flap; r.now < end+100*time.Millisecond && r.under(WriteSSN) == nil; r.pass(10 * time.Millisecond) {
			for _, k := range []Kind{Nudge, PersistMark} {
				if r.under(k) != nil {
					r.end(k, Result{}, nil)
				}
			}
			if r.now < end-100*time.Millisecond {
				r.wantNot(WriteSSN)
			}
		}
		if x := r.want(WriteSSN); x.SSN.String() != "FIRST 2 (n2, pgnotify_hold)" {
			t.Fatalf("got %v, want another try", x)
		}
	}
}

func TestGrowPutsTheNewOneInFront(t *testing.T) {
	r := holder(t, "n2")
	r.srv.Standbys = append(r.srv.Standbys, streams("n3", 200, 0))
	r.pass(100 * time.Millisecond)
	if x := r.want(WriteSSN); x.SSN.String() != "FIRST 2 (n3, n2)" {
		t.Fatalf("got %v", x)
	}
	r.srv.SSN = "FIRST 2 (n3, n2)"
	r.end(WriteSSN, Result{}, nil)
	if x := r.want(ProveSSN); x.Probe || x.SSN.String() != "FIRST 2 (n3, n2)" {
		t.Fatalf("got %v", x)
	}
	r.end(ProveSSN, Result{}, errors.New("n2 has not reloaded"))
	// Not proved: back to the rule, which is known to be the one in the log.
	if x := r.want(WriteSSN); x.SSN.String() != "FIRST 1 (n2)" {
		t.Fatalf("got %v", x)
	}
	r.wantNot(SetRule)
}

func TestFlappingStandbyWaits(t *testing.T) {
	a := New(Options{Node: "n1", Peers: []string{"n2"}}, Marks{})
	a.now = time.Hour
	p := a.peer("n2")
	for _, c := range []struct {
		losses int
		want   time.Duration
	}{{0, 0}, {1, 0}, {2, time.Second}, {3, 2 * time.Second}, {5, 8 * time.Second}, {9, time.Minute}, {40, time.Minute}} {
		p.losses = nil
		for range c.losses {
			p.losses = append(p.losses, a.now)
		}
		if got := max(a.damped(p)-a.now, 0); got != c.want {
			t.Errorf("%d losses: got %v, want %v", c.losses, got, c.want)
		}
	}
	a.now += a.t.Forget
	if got := a.damped(p); got != 0 || len(p.losses) != 0 {
		t.Errorf("after all are forgotten: got %v, %d losses", got, len(p.losses))
	}
}

func TestLeave(t *testing.T) {
	r := holder(t, "n3", "n2")
	r.give(Leaving{Node: "n2", On: true})
	if x := r.want(SetRule); !slices.Equal(x.Names, []string{"n3"}) {
		t.Fatalf("got %v", x)
	}
	r.end(SetRule, Result{}, nil)
	r.wantNot(Left)
	r.srv.SSN = "FIRST 1 (n3)"
	r.end(WriteSSN, Result{}, nil)
	r.look()
	if x := r.want(Left); x.Node != "n2" {
		t.Errorf("got %v", x)
	}
}

// TestMaintenanceIsToldAgain: what a holder was told once counts no longer when its rule names this node again, or when the word was for a maintenance that
// is over.
func TestMaintenanceIsToldAgain(t *testing.T) {
	on := func(t *testing.T) *rig {
		r := newRig(t, Marks{Promise: 5})
		r.srv.Conninfo, r.srv.Upstream = "n2", "n2"
		r.view = View{Epoch: 5, Phase: Active, Holder: "n2", Rule: Rule{Holder: "n2", S: []string{"n1"}, Version: 3}}
		r.look()
		r.show()
		r.end(Leave, Result{}, nil) // it was never away
		r.give(Wish{Kind: MaintenanceOn})
		if x := r.want(Leave); !x.On || x.Node != "n2" {
			t.Errorf("got %v %t, want the holder to be told", x, x.On)
		}
		return r
	}
	rule := func(r *rig, s ...string) {
		r.view.Rule.S, r.view.Rule.Version = s, r.view.Rule.Version+1
		r.show()
	}
	t.Run("the holder has forgotten", func(t *testing.T) {
		r := on(t)
		rule(r)
		r.end(Leave, Result{}, nil)
		r.pass(time.Second)
		r.wantNot(Leave)
		rule(r, "n1")
		if x := r.want(Leave); !x.On {
			t.Errorf("got %v, want that it is in maintenance", x)
		}
		rule(r)
		r.end(Leave, Result{}, nil)
		r.pass(time.Second)
		r.wantNot(Leave)
	})
	t.Run("on, off and on", func(t *testing.T) {
		r := on(t)
		r.give(Wish{Kind: MaintenanceOff})
		rule(r)
		r.end(Leave, Result{}, nil)
		if x := r.want(Leave); x.On {
			t.Errorf("got %v, want that it is back", x)
		}
		r.end(Leave, Result{}, nil)
		r.give(Wish{Kind: MaintenanceOn})
		if x := r.want(Leave); !x.On {
			t.Errorf("got %v, want that it is in maintenance", x)
		}
	})
}

// TestASpareTakesTheLostOnesPlace: with min_copies the lost one stays in the rule, and the spare must be able to come in.
func TestASpareTakesTheLostOnesPlace(t *testing.T) {
	r := holder(t, "n2")
	r.view.SyncNum, r.view.MinCopies = 1, 2
	r.show()
	r.srv.Standbys = append(r.srv.Standbys, streams("n3", 200, 0))
	r.pass(500 * time.Millisecond)
	r.wantNot(WriteSSN) // a spare
	r.srv.Standbys = r.srv.Standbys[1:]
	r.pass(300 * time.Millisecond)
	if x := r.want(WriteSSN); x.SSN.String() != "FIRST 2 (n3, n2)" {
		t.Fatalf("got %v, want the spare", x)
	}
}

// TestPaused: nobody is elected while an operator has paused the resource, so that nothing gives it up that need not.
func TestPaused(t *testing.T) {
	r := holder(t, "n2")
	r.view.Paused = true
	r.show()
	if said := fmt.Sprint(r.a.Step(r.now, Wish{Kind: Switchover, Node: "n2"})); !strings.Contains(said, "no switchover: the resource is paused") {
		t.Errorf("got %s", said)
	}
	r.pass(time.Second)
	r.wantNot(Checkpoint)
	r.srv.Answering, r.srv.Recovers, r.srv.Standbys = false, true, nil
	r.look()
	r.pass(time.Second)
	r.wantNot(Stop) // it is back by itself
}

// TestStopOfTheHolder: whoever takes over need not wait for the archiver, which is ended when its time is over.
func TestStopOfTheHolder(t *testing.T) {
	r := holder(t, "n2")
	r.give(Wish{Kind: Shutdown})
	if x := r.want(Stop); !x.Handover {
		t.Errorf("got %v, want one that does not wait for the archiver", x)
	}
	r.srv.Running, r.srv.Answering, r.srv.Postmaster, r.srv.Clean, r.srv.Archives, r.srv.Pos = false, false, 0, true, true, Position{3, 210}
	r.end(Stop, Result{Pos: Position{3, 210}, Clean: true}, nil)
	r.want(Release)
	r.end(Release, Result{}, nil)
	r.view.Epoch, r.view.Phase, r.view.Holder, r.view.Mine, r.view.Live = 6, Active, "n2", false, false
	r.show()
	r.end(PersistPromise, Result{}, nil)
	r.pass(29 * time.Second)
	r.wantNot(Stop)
	r.pass(2 * time.Second)
	r.want(Stop)
	r.wantNot(StartStandby)
}

func TestCrashOfTheHolder(t *testing.T) {
	r := holder(t, "n2")
	r.srv = Server{Postmaster: 0, SystemID: 7, Pos: Position{3, 200}}
	r.look()
	r.want(Release)
	r.want(StartStandby)
}

// restart_after_crash = on: the postmaster lives, and has the server back by itself after a crash recovery.
func TestServerThatRestartsByItself(t *testing.T) {
	crash := func(r *rig) {
		r.srv.Answering, r.srv.Recovers, r.srv.Standbys = false, true, nil
		r.look()
	}
	t.Run("failover", func(t *testing.T) {
		r := holder(t, "n2")
		crash(r)
		r.wantNot(Release) // before it is down
		r.srv = Server{SystemID: 7, Pos: Position{3, 200}}
		r.end(Stop, Result{}, nil)
		r.want(Release)
	})
	t.Run("restart", func(t *testing.T) {
		r := holder(t, "n2")
		r.a.o.OnCrash = Restart
		crash(r)
		r.pass(time.Second)
		r.wantNot(Stop)
		r.srv.Answering, r.srv.Recovers = true, false
		r.look()
		r.wantNot(Release)
		r.end(PersistMark, Result{}, nil)
		r.pass(200 * time.Millisecond)
		if x := r.want(SetRule); len(x.Names) != 0 {
			t.Errorf("got %v, want the standby that does not come back to be out", x)
		}
	})
	t.Run("restart that takes too long", func(t *testing.T) {
		r := holder(t, "n2")
		r.a.o.OnCrash = Restart
		crash(r)
		r.pass(50 * time.Second)
		r.wantNot(Release)
		r.pass(11 * time.Second)
		if x := r.want(Release); !strings.Contains(x.Text, "crashed and has not answered") {
			t.Errorf("got %v", x)
		}
		r.wantNot(Stop)
	})
	t.Run("a start that takes too long", func(t *testing.T) {
		r := holder(t, "n2")
		r.a.o.OnCrash = Restart
		r.srv = Server{SystemID: 7, Pos: Position{3, 200}}
		r.look()
		r.want(StartStandby)
		r.pass(50 * time.Second)
		r.wantNot(Release)
		r.pass(11 * time.Second)
		if x := r.want(Release); !strings.Contains(x.Text, "crashed and has not answered for 1m") {
			t.Errorf("got %v", x)
		}
	})
	t.Run("a standby recovers as it likes", func(t *testing.T) {
		r := newRig(t, Marks{Promise: 5})
		r.view = View{Epoch: 5, Phase: Active, Holder: "n2", Timeline: 1, Rule: Rule{Holder: "n2", Version: 3}}
		crash(r)
		r.show()
		r.pass(time.Second)
		r.wantNot(Stop)
	})
}

func TestLeaseOver(t *testing.T) {
	r := holder(t, "n2")
	r.view.Live = false
	r.show()
	r.want(Hold)
	r.wantNot(Stop)
	r.view.Live = true // never again in this epoch
	r.srv.SSN = SSN{Hold: true}.String()
	r.end(Hold, Result{}, nil)
	r.show()
	r.pass(100 * time.Millisecond)
	r.wantNot(WriteSSN)
	r.want(Release)
}

// diverged is a standby that is past the point where the active holder n2 left its timeline.
func divergedStandby(t *testing.T, rule ...string) (*rig, *Source) {
	r := newRig(t, Marks{Promise: 4})
	r.srv.Pos, r.srv.Conninfo = Position{2, 300}, ""
	r.srv.History = []Fork{{1, 50}}
	r.view = View{Epoch: 5, Phase: Active, Holder: "n2", Timeline: 3, Rule: Rule{Holder: "n2", S: rule, Version: 7},
		Ledger: []Timeline{{TLI: 2, SwitchLSN: 50, Epoch: 2, Node: "n1"}, {TLI: 3, SwitchLSN: 250, Epoch: 5, Node: "n2"}}}
	r.look()
	r.show()
	r.end(PersistPromise, Result{}, nil)
	r.end(Leave, Result{}, nil) // whatever the holder knew, it is back
	r.end(Fence, Result{SystemID: 7, Pos: Position{2, 300}}, nil)
	return r, &Source{Node: "n2", SystemID: 7, TLI: 3, LSN: 400, History: []Fork{{1, 50}, {2, 250}}, RewindReady: true}
}

// routine answers what a rejoining server asks of others and writes down, with success, src being the holder's server.
func (r *rig) routine(src *Source) {
	v := r.view
	v.SystemID = 7
	for _, x := range []struct {
		kind Kind
		res  Result
	}{{PersistPromise, Result{}}, {PersistMark, Result{}}, {Leave, Result{}}, {ReadLog, Result{View: &v}}, {Look, Result{Source: src}}} {
		if r.under(x.kind) != nil {
			r.end(x.kind, x.res, nil)
		}
	}
}

func TestRejoin(t *testing.T) {
	t.Run("rewind", func(t *testing.T) {
		r, src := divergedStandby(t)
		r.end(Look, Result{Source: src}, nil)
		r.want(ReadLog) // behind a barrier first
		r.wantNot(PersistMarker)
		v := r.view
		v.SystemID = 7
		r.end(ReadLog, Result{View: &v}, nil)
		r.pass(30 * time.Millisecond)
		r.end(Look, Result{Source: src}, nil)
		r.wantNot(PersistMarker) // the holder may count on what came from it before
		if x := r.want(Leave); x.Node != "n2" || x.Text == "" {
			t.Errorf("got %v", x)
		}
		r.end(Leave, Result{}, errors.New("no answer"))
		r.pass(100 * time.Millisecond)
		r.end(Look, Result{Source: src}, nil)
		r.wantNot(PersistMarker)
		r.end(Leave, Result{}, nil)
		r.pass(30 * time.Millisecond)
		r.end(Look, Result{Source: src}, nil)
		if x := r.want(PersistMarker); x.Marker != Rewinding {
			t.Fatalf("got %v", x)
		}
		r.wantNot(Stop)
		r.end(PersistMarker, Result{}, nil)
		r.wantNot(Rewind)
		r.srv.Running, r.srv.Answering, r.srv.Postmaster = false, false, 0
		r.end(Stop, Result{}, nil)
		r.want(Rewind)
		r.end(Rewind, Result{}, errors.New("broken"))
		// What a rewind leaves behind is garbage: a copy follows.
		r.pass(200 * time.Millisecond)
		r.end(Look, Result{Source: src}, nil)
		r.end(PersistMarker, Result{}, nil)
		r.want(Clone)
	})
	t.Run("a rewind that hangs is cancelled once its source holds no longer", func(t *testing.T) {
		for _, tt := range []struct {
			name   string
			view   View
			within time.Duration // 0: it is left alone
		}{
			{"another holder", View{Epoch: 6, Phase: Granted, Holder: "n3"}, 100 * time.Millisecond},
			{"no holder", View{Epoch: 6, Phase: Electing}, rewindGrace + 100*time.Millisecond},
			{"the same holder again", View{Epoch: 6, Phase: Active, Holder: "n2", Timeline: 3}, 0},
			{"the same epoch", View{}, 0},
		} {
			t.Run(tt.name, func(t *testing.T) {
				r, src := divergedStandby(t)
				for end := r.now + time.Minute; r.under(Rewind) == nil && r.now < end; {
					r.pass(20 * time.Millisecond)
					r.routine(src)
					r.readies()
				}
				r.want(Rewind)
				if tt.view.Epoch != 0 {
					tt.view.Rule, tt.view.Ledger, tt.view.SyncNum, tt.view.MinCopies = r.view.Rule, r.view.Ledger, 2, 1
					r.view = tt.view
					r.show()
				}
				if tt.view.Holder == "" && tt.view.Epoch != 0 {
					r.pass(rewindGrace / 2)
					r.wantNot(Cancel)
				}
				r.pass(max(tt.within, rewindGrace*2))
				if tt.within == 0 {
					r.wantNot(Cancel)
					return
				}
				if x := r.want(Cancel); x.Ref != r.want(Rewind).ID {
					t.Errorf("got %+v", x)
				}
				r.end(Rewind, Result{Whole: true}, errors.New("it got no further"))
				if x := r.want(PersistMarker); x.Marker != NoMarker || r.a.follow.spared != 0 {
					t.Errorf("got %v, %d rewinds spared: want what was there to count, and nothing against the next rewind", x, r.a.follow.spared)
				}
			})
		}
	})
	t.Run("a rewind that failed without a trace is tried again", func(t *testing.T) {
		r, src := divergedStandby(t)
		for try := range rewinds {
			for end := r.now + time.Minute; r.under(PersistMarker) == nil && r.now < end; {
				r.pass(20 * time.Millisecond)
				if r.under(StartStandby) != nil {
					r.srv.Running, r.srv.Answering, r.srv.Postmaster = true, true, uint64(2+try)
					r.end(StartStandby, Result{}, nil)
				}
				if r.under(Fence) != nil {
					r.end(Fence, Result{SystemID: 7, Pos: Position{2, 300}}, nil)
				}
				r.routine(src)
			}
			if x := r.want(PersistMarker); x.Marker != Rewinding {
				t.Fatalf("got %v", x)
			}
			r.end(PersistMarker, Result{}, nil)
			r.srv.Running, r.srv.Answering, r.srv.Postmaster = false, false, 0
			r.end(Stop, Result{}, nil)
			r.end(Rewind, Result{Whole: true}, errors.New("no connection to the source"))
			if try < rewinds-1 {
				if x := r.want(PersistMarker); x.Marker != NoMarker {
					t.Fatalf("got %v, want the data directory to count as it is", x)
				}
				r.end(PersistMarker, Result{}, nil)
			}
		}
		r.pass(200 * time.Millisecond)
		r.end(Look, Result{Source: src}, nil)
		if x := r.want(PersistMarker); x.Marker != Cloning {
			t.Errorf("got %v, want a copy in the end", x)
		}
	})
	t.Run("what was stuck behind a former holder is rewound", func(t *testing.T) {
		r, src := divergedStandby(t)
		r.a.follow.tries = 2
		r.end(Look, Result{}, errors.New("gone"))
		r.view.Epoch, r.view.Timeline, r.view.Rule.Version = 6, 3, 8
		r.show()
		r.end(PersistPromise, Result{}, nil)
		r.end(Fence, Result{SystemID: 7, Pos: Position{2, 300}}, nil)
		r.pass(120 * time.Millisecond)
		r.end(Look, Result{Source: src}, nil)
		v := r.view
		v.SystemID = 7
		r.end(ReadLog, Result{View: &v}, nil)
		r.pass(120 * time.Millisecond)
		r.end(Look, Result{Source: src}, nil)
		r.end(Leave, Result{}, nil)
		r.pass(120 * time.Millisecond)
		r.end(Look, Result{Source: src}, nil)
		if x := r.want(PersistMarker); x.Marker != Rewinding {
			t.Errorf("got %v, want a rewind", x)
		}
	})
	t.Run("not before the holder is ready", func(t *testing.T) {
		r, src := divergedStandby(t)
		src.RewindReady = false
		r.end(Look, Result{Source: src}, nil)
		v := r.view
		r.end(ReadLog, Result{View: &v}, nil)
		r.pass(30 * time.Millisecond)
		r.end(Look, Result{Source: src}, nil)
		r.end(Leave, Result{}, nil)
		r.pass(30 * time.Millisecond)
		r.end(Look, Result{Source: src}, nil)
		r.pass(100 * time.Millisecond)
		r.wantNot(PersistMarker)
	})
	t.Run("not while the rule names it", func(t *testing.T) {
		r, src := divergedStandby(t, "n1")
		r.end(Look, Result{Source: src}, nil)
		r.pass(100 * time.Millisecond)
		r.wantNot(ReadLog)
		r.wantNot(PersistMarker)
		if x := r.want(Leave); x.Text == "" {
			t.Errorf("got %v, want the reason why it must go", x)
		}
	})
	t.Run("not toward a holder that is only granted", func(t *testing.T) {
		r, src := divergedStandby(t)
		r.end(Look, Result{}, errors.New("gone"))
		r.view.Epoch, r.view.Phase, r.view.Timeline = 6, Granted, 3
		r.show()
		r.end(PersistPromise, Result{}, nil)
		r.end(Fence, Result{SystemID: 7, Pos: Position{2, 300}}, nil)
		r.pass(100 * time.Millisecond)
		r.end(Look, Result{Source: src}, nil)
		r.pass(100 * time.Millisecond)
		r.wantNot(ReadLog)
		r.wantNot(PersistMarker)
	})
	t.Run("follow if nothing stands against it", func(t *testing.T) {
		r, src := divergedStandby(t)
		src.History = []Fork{{1, 50}, {2, 300}}
		r.a.view.Ledger[1].SwitchLSN = 300
		r.end(Look, Result{Source: src}, nil)
		r.want(Follow)
	})
}

// A proposal that names this node may be on its way as long as the version stands on which it was made.
func TestRebuildWaitsForTheNextVersion(t *testing.T) {
	r, src := divergedStandby(t)
	r.a.followed = 5 // it streamed from this very holder
	r.end(Look, Result{Source: src}, nil)
	v := r.view
	r.end(ReadLog, Result{View: &v}, nil)
	r.pass(30 * time.Millisecond)
	r.end(Look, Result{Source: src}, nil)
	r.end(Leave, Result{}, nil)
	r.pass(30 * time.Millisecond)
	r.end(Look, Result{Source: src}, nil)
	r.pass(30 * time.Millisecond)
	r.wantNot(PersistMarker)
	r.view.Rule.Version++
	r.show()
	r.end(Look, Result{Source: src}, nil)
	r.want(PersistMarker)
}

func TestRewoundStartsOnlyUnderItsSource(t *testing.T) {
	r := newRig(t, Marks{Promise: 5, Marker: Rewound})
	r.srv = Server{SystemID: 7, Pos: Position{3, 280}, History: []Fork{{1, 50}, {2, 250}}} // minimum recovery point
	r.view = View{Epoch: 5, Phase: Active, Holder: "n3", Timeline: 4, Rule: Rule{Holder: "n3", Version: 7}}
	r.look()
	r.show()
	r.end(Look, Result{Source: &Source{Node: "n3", SystemID: 7, TLI: 4, LSN: 400, History: []Fork{{1, 50}, {2, 250}, {3, 270}}}}, nil)
	r.wantNot(StartStandby) // n3 left timeline 3 before
	r.want(ReadLog)
}

// TestRewoundReplaysForLong: it takes no session before it has replayed all that was written meanwhile, which may be much. Only one that does nothing is
// stopped.
func TestRewoundReplaysForLong(t *testing.T) {
	r := newRig(t, Marks{Promise: 5, Marker: Rewound})
	r.srv = Server{SystemID: 7, Pos: Position{3, 260}, History: []Fork{{1, 50}, {2, 250}}}
	r.view = View{Epoch: 5, Phase: Active, Holder: "n3", Timeline: 4, Rule: Rule{Holder: "n3", Version: 7}}
	r.look()
	r.show()
	r.end(Look, Result{Source: &Source{Node: "n3", SystemID: 7, TLI: 4, LSN: 400, History: []Fork{{1, 50}, {2, 250}, {3, 270}}}}, nil)
	r.srv.Running, r.srv.Postmaster = true, 2
	r.end(StartStandby, Result{}, nil)
	r.pass(5 * time.Minute)
	r.wantNot(Stop)
	r.srv.Idle = true
	r.pass(r.a.t.Stuck - 100*time.Millisecond)
	r.wantNot(Stop)
	r.pass(200 * time.Millisecond)
	r.want(Stop)
}

func TestSwitchover(t *testing.T) {
	r := holder(t, "n3", "n2")
	r.give(Wish{Kind: Switchover, Node: "n2"})
	r.want(Checkpoint)
	r.end(Checkpoint, Result{}, nil)
	r.look()
	r.want(DropVIP)
	r.wantNot(Stop)
	r.end(DropVIP, Result{}, nil)
	if x := r.want(Stop); !x.Handover {
		t.Errorf("got %v, want one that does not wait for the archiver", x)
	}
	r.srv.Running, r.srv.Answering, r.srv.Postmaster, r.srv.Clean, r.srv.Pos = false, false, 0, true, Position{3, 210}
	r.end(Stop, Result{Pos: Position{3, 210}, Clean: true}, nil)
	r.wantNot(Release)
	r.end(Look, Result{Source: &Source{Node: "n2", TLI: 3, LSN: 205, InRecovery: true}}, nil)
	r.wantNot(Release) // n2 lacks the checkpoint
	r.pass(100 * time.Millisecond)
	r.end(Look, Result{Source: &Source{Node: "n2", TLI: 3, LSN: 210, InRecovery: true}}, nil)
	if x := r.want(Release); x.Node != "n2" {
		t.Errorf("got %v", x)
	}
}

// TestArchiverIsLeftToItsWork: a server that is shut down is not started while its archiver is at work, unless this node may have to go on.
func TestArchiverIsLeftToItsWork(t *testing.T) {
	left := func() *rig {
		r := holder(t, "n3", "n2")
		r.give(Wish{Kind: Switchover, Node: "n2"})
		r.end(Checkpoint, Result{}, nil)
		r.look()
		r.end(DropVIP, Result{}, nil)
		r.srv.Running, r.srv.Answering, r.srv.Postmaster, r.srv.Clean, r.srv.Archives, r.srv.Pos = false, false, 0, true, true, Position{3, 210}
		r.end(Stop, Result{Pos: Position{3, 210}, Clean: true}, nil)
		r.end(Look, Result{Source: &Source{Node: "n2", TLI: 3, LSN: 210, InRecovery: true}}, nil)
		r.end(Release, Result{}, nil)
		r.view.Epoch, r.view.Phase, r.view.Holder, r.view.Mine, r.view.Live = r.view.Epoch+1, Electing, "", false, false
		r.show()
		r.end(PersistPromise, Result{}, nil)
		r.look()
		r.pass(900 * time.Millisecond)
		r.wantNot(ReportPledge) // for the moment, whoever is to take over
		r.pass(200 * time.Millisecond)
		r.wantNot(StartStandby)
		if r.under(PersistMark) != nil {
			r.end(PersistMark, Result{}, nil)
			r.look()
		}
		r.want(ReportPledge) // its WAL ends where the control file says
		return r
	}
	t.Run("another node is active", func(t *testing.T) {
		r := left()
		r.view.Phase, r.view.Holder, r.view.Timeline, r.view.Rule = Active, "n2", 4, Rule{Holder: "n2", S: []string{"n3"}, Version: r.view.Rule.Version + 1}
		r.show()
		r.pass(28 * time.Second)
		r.wantNot(StartStandby)
		r.srv.Archives = false
		r.look()
		r.want(StartStandby)
	})
	t.Run("for ever", func(t *testing.T) {
		r := left()
		r.view.Phase, r.view.Holder, r.view.Timeline, r.view.Rule = Active, "n2", 4, Rule{Holder: "n2", S: []string{"n3"}, Version: r.view.Rule.Version + 1}
		r.show()
		r.pass(31 * time.Second)
		r.want(StartStandby)
	})
	t.Run("it is granted to this node", func(t *testing.T) {
		r := left()
		r.view.Phase, r.view.Holder, r.view.Mine, r.view.Live, r.view.Timeline = Granted, "n1", true, true, 4
		r.show()
		r.look()
		r.want(StartStandby)
	})
}

func TestSwitchoverAborts(t *testing.T) {
	t.Run("before the stop it goes on", func(t *testing.T) {
		r := holder(t, "n3", "n2")
		r.give(Wish{Kind: Switchover, Node: "n2"})
		r.end(Checkpoint, Result{}, errors.New("disk full"))
		r.pass(100 * time.Millisecond)
		r.wantNot(Stop)
		r.wantNot(Release)
	})
	t.Run("with the address off it comes back", func(t *testing.T) {
		r := holder(t, "n3", "n2")
		r.give(Wish{Kind: Switchover, Node: "n2"})
		r.end(Checkpoint, Result{}, nil)
		r.look()
		r.give(Leaving{Node: "n2", On: true})
		r.end(DropVIP, Result{}, nil)
		r.wantNot(Stop)
		r.end(SetRule, Result{}, nil)
		r.srv.SSN = "FIRST 1 (n3)"
		r.end(WriteSSN, Result{}, nil)
		r.end(Nudge, Result{}, nil)
		r.want(Open)
	})
	t.Run("after the stop the old node is preferred", func(t *testing.T) {
		r := holder(t, "n2")
		r.give(Wish{Kind: Switchover})
		r.end(Checkpoint, Result{}, nil)
		r.look()
		r.end(DropVIP, Result{}, nil)
		r.srv.Running, r.srv.Answering, r.srv.Postmaster, r.srv.Clean = false, false, 0, true
		r.end(Stop, Result{Pos: Position{3, 210}, Clean: true}, nil)
		r.pass(1200 * time.Millisecond)
		if x := r.want(Release); x.Node != "n1" {
			t.Errorf("got %v", x)
		}
	})
}

func TestExplain(t *testing.T) {
	r := newRig(t, Marks{Promise: 5})
	if got := r.a.Explain()[0]; !strings.Contains(got, "has not told anything") {
		t.Errorf("got %q", got)
	}
	r.view = View{Epoch: 5, Phase: Electing, Rule: Rule{Holder: "n1", S: []string{"n2", "n3"}, Version: 3}}
	r.look()
	r.show()
	text := strings.Join(r.a.Explain(), "\n")
	for _, want := range []string{"promotable: the rule {n1; n2, n3} names this node", "epoch 5 is electing", "needs one of them", "has not pledged yet"} {
		if !strings.Contains(text, want) {
			t.Errorf("got %q, want %q in it", text, want)
		}
	}
}

// TestExplainsWhatCannotBeWritten: a node whose state directory is full can't pledge and says so; one that is the holder stays it.
func TestExplainsWhatCannotBeWritten(t *testing.T) {
	full := errors.New("write agent.json: no space left on device")
	for _, fails := range []Kind{PersistPromise, PersistMark} {
		r := newRig(t, Marks{Promise: 4})
		r.srv.Conninfo, r.srv.Upstream = "n2", "n2"
		r.view = View{Epoch: 5, Phase: Electing, Rule: Rule{Holder: "n2", S: []string{"n1"}, Version: 3}}
		r.look()
		r.show()
		for range 100 {
			r.pass(20 * time.Millisecond)
			switch {
			case r.under(fails) != nil:
				r.end(fails, Result{}, full)
			case r.under(PersistPromise) != nil:
				r.end(PersistPromise, Result{}, nil)
			case r.under(Fence) != nil:
				r.srv.Conninfo, r.srv.Upstream = "", ""
				r.end(Fence, Result{SystemID: 7, Pos: Position{1, 120}}, nil)
			}
		}
		r.wantNot(ReportPledge)
		explains(t, r, "not promotable: it can't write down what it promises: "+full.Error())
		for range 20 {
			r.pass(20 * time.Millisecond)
			for _, k := range []Kind{PersistPromise, PersistMark} {
				if r.under(k) != nil {
					r.end(k, Result{}, nil)
				}
			}
			if r.under(Fence) != nil {
				r.srv.Conninfo, r.srv.Upstream = "", ""
				r.end(Fence, Result{SystemID: 7, Pos: Position{1, 120}}, nil)
			}
		}
		r.want(ReportPledge)
		if why := r.a.unfit(); why != "" {
			t.Errorf("%v: got %q after it was written", fails, why)
		}
	}
	r := holder(t, "n2")
	r.a.keepErr = full.Error()
	if why := r.a.unfit(); why != "" {
		t.Errorf("the holder is not promotable any more: %s", why)
	}
	explains(t, r, full.Error())
}

// A look may be taken in the instant in which an action ends, and tell what was before it.
func TestLookOfTheSameInstantIsOld(t *testing.T) {
	r := holder(t, "n3", "n2")
	r.srv.Standbys = r.srv.Standbys[1:]
	r.pass(150 * time.Millisecond)
	r.end(SetRule, Result{}, nil)
	x := r.want(WriteSSN)
	r.todo = nil
	old := r.srv
	old.At = r.now
	s := r.srv
	s.At, s.SSN = r.now, "FIRST 1 (n2)"
	r.srv = s
	r.give(Done{ID: x.ID, Server: &s})
	nudge := r.want(Nudge)
	r.give(&old)
	r.give(Done{ID: nudge.ID})
	r.look()
	r.wantNot(WriteSSN)
}

// A standby in maintenance comes back while another node holds, and tells that one. Of the next epoch here it is a member again.
func TestLeavingEndsWithTheEpoch(t *testing.T) {
	r := holder(t, "n3")
	r.srv.Standbys = append(r.srv.Standbys, streams("n2", 200, 0))
	r.give(Leaving{Node: "n2", On: true})
	r.pass(200 * time.Millisecond)
	r.wantNot(WriteSSN)
	r.view.Epoch, r.view.Phase, r.view.Holder, r.view.Mine, r.view.Live = 7, Active, "n3", false, false
	r.show()
	r.view.Epoch, r.view.Holder, r.view.Mine, r.view.Live, r.view.Rule = 8, "n1", true, true, Rule{Holder: "n1", S: []string{"n3"}, Version: 12}
	r.show()
	r.a.promise = 8
	r.todo, r.a.busy, r.a.hold = nil, Action{}, 0
	r.look()
	r.pass(100 * time.Millisecond)
	r.end(SetRule, Result{}, nil)
	r.pass(100 * time.Millisecond)
	if x := r.want(WriteSSN); x.SSN.String() != "FIRST 2 (n2, n3)" {
		t.Errorf("got %v", x)
	}
}

// A promotion that was asked for and did not come may come later: nothing is promised, reported or followed before it can't.
func TestPendingPromotionIsStopped(t *testing.T) {
	t.Run("the epoch is over", func(t *testing.T) {
		r := newRig(t, Marks{Promise: 5})
		r.view = View{Epoch: 5, Phase: Granted, Holder: "n1", Mine: true, Live: true, Timeline: 2, Rule: Rule{Holder: "n1", Version: 3}, Ledger: []Timeline{{TLI: 2, Epoch: 5, Node: "n1"}}}
		r.look()
		r.show()
		r.end(Fence, Result{SystemID: 7, Pos: Position{1, 100}}, nil)
		r.end(PersistAttempt, Result{}, nil)
		r.end(Reserve, Result{}, nil)
		r.want(PromoteTo)
		r.view = View{Epoch: 6, Phase: Granted, Holder: "n2", Timeline: 3, Rule: Rule{Holder: "n1", Version: 3}}
		r.show()
		r.end(PromoteTo, Result{}, errors.New("not in time"))
		r.want(Stop)
		r.wantNot(PersistPromise)
		r.srv.Running, r.srv.Answering, r.srv.Postmaster = false, false, 0
		r.end(Stop, Result{}, nil)
		r.want(PersistPromise)
	})
	t.Run("a former run may have asked", func(t *testing.T) {
		r := newRig(t, Marks{Promise: 5, Attempted: 5})
		r.srv.Answering = false // it may be starting
		r.view = View{Epoch: 6, Phase: Electing, Rule: Rule{Holder: "n1", Version: 3}}
		r.look()
		r.wantNot(Stop)
		r.srv.Answering = true
		r.look()
		r.show()
		r.want(Stop)
		r.wantNot(Fence)
	})
	t.Run("it came", func(t *testing.T) {
		r := newRig(t, Marks{Promise: 5, Attempted: 5})
		r.srv.InRecovery, r.srv.Pos = false, Position{2, 101}
		r.view = View{Epoch: 5, Phase: Active, Holder: "n1", Mine: true, Live: true, Timeline: 2, Rule: Rule{Holder: "n1", Version: 4}, Ledger: []Timeline{{TLI: 2, SwitchLSN: 100, Epoch: 5, Node: "n1"}}}
		r.look()
		r.show()
		r.pass(100 * time.Millisecond)
		r.wantNot(Stop)
	})
}

// A standby whose agent and vrrpd have died streams on. It could neither be promoted nor answer a holder that has lost the voters.
func TestUnheardStandbyLeavesTheRule(t *testing.T) {
	r := holder(t, "n2", "n3")
	r.mute = []string{"n3"}
	r.pass(1200 * time.Millisecond)
	r.end(PersistMark, Result{}, nil)
	r.pass(150 * time.Millisecond)
	r.wantNot(SetRule)
	r.pass(300 * time.Millisecond)
	if x := r.want(SetRule); !slices.Equal(x.Names, []string{"n2"}) {
		t.Fatalf("got %v, want n3 out of the rule", x)
	}
	r.end(SetRule, Result{}, nil)
	r.want(WriteSSN)
	r.srv.SSN = SSN{Names: []string{"n2"}}.String()
	r.end(WriteSSN, Result{}, nil)
	r.end(Nudge, Result{}, nil)
	r.pass(time.Second)
	if text := strings.Join(r.a.Explain(), "; "); !strings.Contains(text, "n3 is out of the rule: it streams, but its agent is not heard") {
		t.Errorf("explain says %q", text)
	}
	r.wantNot(SetRule)

	r.mute = nil
	r.todo = nil
	r.pass(200 * time.Millisecond)
	if x := r.want(WriteSSN); !strings.HasPrefix(x.SSN.String(), "FIRST 2 (n3") {
		t.Fatalf("got %v, want n3 on its way into the rule", x)
	}
}

// TestTimelineWithoutWAL: a standby that goes by a timeline that it got no WAL of must neither pledge nor be promoted before it is started anew.
func TestTimelineWithoutWAL(t *testing.T) {
	beyond := Result{SystemID: 7, Pos: Position{1, 100}, Beyond: 3}
	startedAnew := func() *rig {
		r := newRig(t, Marks{Promise: 4, Mark: Position{1, 100}})
		r.view = View{Epoch: 5, Phase: Electing, Rule: Rule{Holder: "n2", S: []string{"n1"}, Version: 7}}
		r.look()
		r.show()
		r.end(PersistPromise, Result{}, nil)
		r.end(Fence, beyond, nil)
		if x := r.want(Stop); !x.Fast {
			t.Errorf("got %v, want a fast one", x)
		}
		r.wantNot(ReportPledge)
		r.srv.Running, r.srv.Answering, r.srv.Postmaster = false, false, 0
		r.end(Stop, Result{}, nil)
		r.srv.Running, r.srv.Answering, r.srv.Postmaster = true, true, 2
		r.end(StartStandby, Result{}, nil)
		r.look()
		return r
	}
	r := startedAnew()
	r.end(Fence, Result{SystemID: 7, Pos: Position{1, 100}}, nil)
	r.want(ReportPledge)
	r.wantNot(Stop)

	r = startedAnew()
	r.end(Fence, beyond, nil) // it did not help
	r.pass(time.Second)
	r.wantNot(ReportPledge)
	r.wantNot(Stop)
	if why := r.a.unfit(); !strings.Contains(why, "timeline 3") {
		t.Errorf("unfit: got %q", why)
	}
	// Once somebody else holds, it is rewound or copied.
	r.view.Phase, r.view.Holder, r.view.Timeline, r.view.Rule = Active, "n2", 2, Rule{Holder: "n2", Version: 8}
	r.show()
	r.end(Look, Result{Source: &Source{Node: "n2", SystemID: 7, TLI: 2, LSN: 400, History: []Fork{{1, 100}}, RewindReady: true}}, nil)
	r.want(ReadLog)
}

// TestServerThatIsNeverConsistent: it lives and takes no session, and nothing that it has makes it consistent.
func TestServerThatIsNeverConsistent(t *testing.T) {
	r := newRig(t, Marks{Promise: 5})
	r.srv.Answering = false
	r.view = View{Epoch: 5, Phase: Electing, Rule: Rule{Holder: "n2", S: []string{"n1"}, Version: 7}}
	r.srv.Waits = true
	r.look()
	r.show()
	r.pass(time.Second)
	r.wantNot(Stop) // nobody has what it lacks
	r.view.Phase, r.view.Holder, r.view.Timeline = Active, "n2", 1
	r.srv.Waits = false
	r.look()
	r.show()
	r.pass(time.Minute)
	r.wantNot(Stop) // a long recovery
	if r.under(Leave) != nil {
		r.end(Leave, Result{}, nil) // whatever the holder knew, it is back
	}
	r.srv.Waits = true
	r.pass(10 * time.Millisecond)
	r.srv.Running, r.srv.Postmaster, r.srv.Waits = false, 0, false
	r.end(Stop, Result{}, nil)
	// The rule names it: the holder is asked to let it go, and nothing of it is touched before.
	if x := r.want(Leave); !strings.Contains(x.Text, "not consistent") {
		t.Errorf("got %v", x)
	}
	r.pass(time.Second)
	r.wantNot(StartStandby)
	r.wantNot(PersistMarker)
	r.end(Leave, Result{}, nil)
	r.view.Rule = Rule{Holder: "n2", Version: 8}
	r.show()
	for end := r.now + time.Minute; r.under(PersistMarker) == nil && r.now < end; {
		r.pass(20 * time.Millisecond)
		if r.under(ReadLog) != nil {
			v := r.view
			v.SystemID = 7
			r.end(ReadLog, Result{View: &v}, nil)
		}
		if r.under(Look) != nil {
			r.end(Look, Result{Source: &Source{Node: "n2", SystemID: 7, TLI: 1, LSN: 400, RewindReady: true}}, nil)
		}
		if r.under(Leave) != nil { // it may have followed in this epoch: a rule that names it could be on its way
			r.end(Leave, Result{}, nil)
			r.view.Rule.Version++
			r.show()
		}
	}
	if x := r.want(PersistMarker); x.Marker != Rewinding {
		t.Errorf("got %v, want a rewind first", x)
	}
}

// A walsender of a dead connection looks as if its standby streamed. Once that has said that it is rebuilt, it enters the rule with a new stream only.
func TestLetGoIsNotTakenBackByAnOldStream(t *testing.T) {
	r := holder(t)
	r.srv.Standbys = []Standby{streams("n3", 200, 0)}
	r.look()
	r.give(Leaving{Node: "n3", On: true, Why: "it left timeline 3"})
	if x := r.want(Left); x.Node != "n3" {
		t.Errorf("got %v", x)
	}
	r.srv.Pos.LSN = 210
	r.srv.Standbys[0] = streams("n3", 210, 0) // a reply that was on its way
	r.pass(200 * time.Millisecond)
	r.wantNot(WriteSSN)
	r.srv.Standbys = nil
	r.pass(50 * time.Millisecond)
	r.end(SetRule, Result{}, nil) // the newer rule that n3 waits for
	r.view.Rule.Version++
	r.show()
	r.srv.Standbys = []Standby{streams("n3", 210, 0)}
	r.pass(200 * time.Millisecond)
	if x := r.want(WriteSSN); !slices.Contains(x.SSN.Names, "n3") {
		t.Errorf("got %v", x)
	}
}

// After a time in which this process or machine was stopped, the first event may be one that tells nothing of the standbys.
func TestNobodyIsLostWhileAsleep(t *testing.T) {
	r := holder(t, "n2", "n3")
	r.pass(time.Second)
	r.mute = []string{"n2", "n3"}
	r.now += 10 * time.Second
	r.give(Lease{Epoch: 5, Deadline: r.now + time.Hour})
	r.wantNot(SetRule)
	r.look()
	r.end(PersistMark, Result{}, nil)
	r.pass(time.Second)
	r.wantNot(SetRule)
}

// TestOldCopyIsNotGranted: a server that was shut down cleanly, and whose data is older than what it had, reports nothing and is not promoted.
func TestOldCopyIsNotGranted(t *testing.T) {
	stopped := Server{SystemID: 7, Clean: true, Pos: Position{1, 90}}
	t.Run("stopped", func(t *testing.T) {
		r := newRig(t, Marks{Promise: 5, Mark: Position{1, 100}})
		r.srv = stopped
		r.view = View{Epoch: 5, Phase: Electing, Rule: Rule{Holder: "n1", S: []string{"n2"}, Version: 7}}
		r.look()
		r.show()
		r.pass(time.Second)
		r.wantNot(ReportPledge)
		if why := r.a.unfit(); !strings.Contains(why, "an old copy was restored") {
			t.Errorf("unfit: got %q", why)
		}
	})
	t.Run("granted before it was seen", func(t *testing.T) {
		r := newRig(t, Marks{Promise: 5, Mark: Position{1, 100}})
		r.srv.Pos = Position{1, 90}
		r.view = View{Epoch: 5, Phase: Granted, Holder: "n1", Mine: true, Live: true, Timeline: 2, Rule: Rule{Holder: "n1", S: []string{"n2"}, Version: 7}}
		r.look()
		r.show()
		r.end(Fence, Result{SystemID: 7, Pos: Position{1, 90}}, nil)
		r.pass(time.Second)
		r.wantNot(PromoteTo)
		if x := r.want(Release); !strings.Contains(x.Text, "an old copy was restored") {
			t.Errorf("got %v", x)
		}
	})
	t.Run("the right data is back", func(t *testing.T) {
		r := newRig(t, Marks{Promise: 5, Mark: Position{1, 100}})
		r.srv = stopped
		r.view = View{Epoch: 5, Phase: Electing, Rule: Rule{Holder: "n1", S: []string{"n2"}, Version: 7}}
		r.look()
		r.show()
		r.srv.Pos = Position{1, 120}
		r.end(StartStandby, Result{}, errors.New("exit status 1"))
		r.pass(200 * time.Millisecond)
		r.end(PersistMark, Result{}, nil)
		r.want(ReportPledge)
	})
	t.Run("complete", func(t *testing.T) {
		r := newRig(t, Marks{Promise: 5, Mark: Position{1, 90}})
		r.srv = stopped
		r.view = View{Epoch: 5, Phase: Electing, Rule: Rule{Holder: "n1", S: []string{"n2"}, Version: 7}}
		r.look()
		r.show()
		r.want(ReportPledge)
	})
}

// TestHalfARecordIsNoMark: what a primary has flushed may end within a record, and after a crash its WAL ends before that.
func TestHalfARecordIsNoMark(t *testing.T) {
	r := holder(t, "n2", "n3")
	r.srv.Pos.LSN, r.srv.Whole = 500, 480
	r.pass(2 * time.Second)
	if x := r.want(PersistMark); x.Pos.LSN != 480 {
		t.Errorf("got %v, want a mark at the last whole record", x)
	}
	r.end(PersistMark, Result{}, nil)
	r.srv.Pos.LSN = 600
	r.pass(2 * time.Second)
	r.wantNot(PersistMark)
}

func explains(t *testing.T, r *rig, want string) {
	t.Helper()
	if got := strings.Join(r.a.Explain(), "; "); !strings.Contains(got, want) {
		t.Errorf("explain says %q, want %q in it", got, want)
	}
}

// TestCopiesPause: one that failed is tried again after a second, then two; one that was of no use after more.
func TestCopiesPause(t *testing.T) {
	r := newRig(t, Marks{Promise: 4, Marker: Cloning})
	r.srv = Server{SystemID: 7, Pos: Position{1, 100}}
	r.view = View{Epoch: 5, Phase: Active, Holder: "n2", Timeline: 3, Rule: Rule{Holder: "n2", Version: 7}}
	src := &Source{Node: "n2", SystemID: 7, TLI: 3, LSN: 400, History: []Fork{{1, 150}}, RewindReady: true}
	// upTo has time pass until a copy begins.
	upTo := func() time.Duration {
		t.Helper()
		began := r.now
		for r.under(Clone) == nil {
			if r.now > began+time.Hour {
				t.Fatalf("no copy in an hour: %s", strings.Join(r.a.Explain(), "; "))
			}
			r.pass(20 * time.Millisecond)
			if r.under(Leave) != nil {
				r.view.Rule.Version++ // the holder answers with a newer rule
				r.show()
			}
			r.routine(src)
			switch {
			case r.under(PersistMarker) != nil:
				r.end(PersistMarker, Result{}, nil)
			case r.under(StartStandby) != nil:
				r.end(StartStandby, Result{}, errors.New("port in use"))
			}
		}
		return r.now - began
	}
	r.look()
	r.show()
	between := func(what string, got, least, most time.Duration) {
		t.Helper()
		if got < least || got > most {
			t.Errorf("%s: after %v, want %v to %v", what, got, least, most)
		}
	}
	between("the first", upTo(), 0, time.Second)
	for _, d := range []time.Duration{time.Second, 2 * time.Second, 4 * time.Second} {
		r.end(Clone, Result{}, errors.New("disk full"))
		explains(t, r, "a copy failed: disk full; the next try in")
		between("after one that failed", upTo(), d, d+500*time.Millisecond)
	}
	// The copy is made, and does not start.
	r.end(Clone, Result{}, nil)
	between("after one that does not start", upTo(), 8*time.Minute, 8*time.Minute+15*time.Second)
	r.end(Clone, Result{}, nil)
	r.view.Epoch++ // another holder does not help there
	r.view.Holder, src.Node = "n3", "n3"
	r.show()
	between("the next", upTo(), 9*time.Minute, 11*time.Minute)
}

// TestAFailedCopyLeavesWhatIsThere: nothing was changed, so that the server serves on, and the holder is not asked all the time.
func TestAFailedCopyLeavesWhatIsThere(t *testing.T) {
	r, src := divergedStandby(t)
	r.a.o.Rewind = false
	copies, starts, looks, ups := 0, 0, 0, 0
	for end := r.now + 10*time.Minute; r.now < end; {
		r.pass(20 * time.Millisecond)
		if r.under(Look) != nil {
			looks++
		}
		r.routine(src)
		switch {
		case r.readies():
		case r.under(Clone) != nil:
			copies++
			r.end(Clone, Result{Whole: true}, errors.New("/data is a mount point"))
		case r.under(StartStandby) != nil:
			starts++
			r.srv.Running, r.srv.Answering, r.srv.Postmaster = true, true, uint64(10+starts)
			r.end(StartStandby, Result{}, nil)
		case r.under(Fence) != nil:
			r.end(Fence, Result{SystemID: 7, Pos: Position{2, 300}}, nil)
		}
		if r.srv.Answering {
			ups++
		}
	}
	if copies < 5 || copies > 12 || starts < copies-1 || looks > 1500 || ups < 28000 {
		t.Errorf("in ten minutes %d copies, %d starts, %d looks at the holder, and the server was up in %d of 30000 looks: %s; %s", copies, starts, looks, ups, strings.Join(r.log, " | "), strings.Join(r.a.Explain(), "; "))
	}
	explains(t, r, "a copy failed: /data is a mount point")
}

// TestAServerThatDoesNotStart is not copied for a mistake in its settings, and says what it is.
func TestAServerThatDoesNotStart(t *testing.T) {
	r := newRig(t, Marks{Promise: 5})
	r.srv = Server{SystemID: 7, Pos: Position{1, 100}}
	r.view = View{Epoch: 5, Phase: Active, Holder: "n2", Timeline: 3, Rule: Rule{Holder: "n2", Version: 7}}
	r.look()
	r.show()
	began, starts := r.now, 0
	for r.under(Look) == nil && r.now < began+time.Hour {
		if r.under(StartStandby) != nil {
			starts++
			r.end(StartStandby, Result{}, errors.New("pg_ctl: exit status 1; the server's log ends with:\nFATAL:  could not create any TCP/IP sockets"))
			explains(t, r, "PostgreSQL does not start")
			explains(t, r, "could not create any TCP/IP sockets")
		}
		r.pass(50 * time.Millisecond)
	}
	if d := r.now - began; d < startPatience || d > startPatience+15*time.Second || starts < 10 {
		t.Errorf("the data was taken for bad after %v and %d starts, want %v", d, starts, startPatience)
	}
}

// TestAStandbyThatGetsOnIsLeftAlone: it may take its WAL from the archive, without a stream.
func TestAStandbyThatGetsOnIsLeftAlone(t *testing.T) {
	r := newRig(t, Marks{Promise: 5})
	r.srv.Conninfo = "n2"
	r.view = View{Epoch: 5, Phase: Active, Holder: "n2", Timeline: 1, Rule: Rule{Holder: "n2", Version: 7}}
	r.look()
	r.show()
	for range 10 {
		r.pass(20 * time.Millisecond)
		r.routine(&Source{Node: "n2", SystemID: 7, TLI: 1, LSN: 4000})
		if r.under(Follow) != nil {
			r.end(Follow, Result{}, nil)
		}
	}
	r.todo = nil
	for range 60 {
		r.srv.Pos.LSN += 10
		r.pass(time.Second)
		if r.under(PersistMark) != nil {
			r.end(PersistMark, Result{}, nil)
		}
	}
	r.wantNot(Fence)
	for range 12 {
		r.pass(time.Second)
		if r.under(PersistMark) != nil {
			r.end(PersistMark, Result{}, nil)
		}
	}
	r.want(Fence)
}

// TestWhatCannotBeLookedAtIsGivenBack, though the queue waits for its disk.
func TestWhatCannotBeLookedAtIsGivenBack(t *testing.T) {
	r := holder(t, "n2", "n3")
	r.give(Wish{Kind: GiveBack, Why: "its disk may have failed"})
	if x := r.want(Release); x.Epoch != 5 || x.Text != "its disk may have failed" {
		t.Errorf("got %v", x)
	}
	if why := r.a.unfit(); why != "its disk may have failed" {
		t.Errorf("unfit: got %q", why)
	}
	r.end(Release, Result{}, nil)
	r.look()
	if why := r.a.unfit(); why != "" {
		t.Errorf("seen again: got %q", why)
	}
}

// TestADiskThatTakesNoWrites: its node takes no epoch until it does again, however often its server is seen.
func TestADiskThatTakesNoWrites(t *testing.T) {
	r := holder(t, "n2", "n3")
	r.give(Wish{Kind: Disk, Why: "no answer"})
	if x := r.want(Release); x.Epoch != 5 || x.Text != "no answer" {
		t.Errorf("got %v", x)
	}
	r.end(Release, Result{}, nil)
	r.look()
	if why := r.a.unfit(); why != "no answer" {
		t.Errorf("unfit: got %q", why)
	}
	r.give(Wish{Kind: Disk})
	if why := r.a.unfit(); why != "" {
		t.Errorf("it answers again: got %q", why)
	}
}

// TestADeadDiskIsGivenBackLater: the verdict stays, whatever kept the epoch from being given back when it came.
func TestADeadDiskIsGivenBackLater(t *testing.T) {
	dead := Wish{Kind: Disk, Why: "no answer"}
	wantBack := func(t *testing.T, r *rig) {
		t.Helper()
		if x := r.want(Release); x.Epoch != 5 || x.Text != "no answer" {
			t.Errorf("got %v", x)
		}
	}
	t.Run("vrrpd said nothing for a moment", func(t *testing.T) {
		r := holder(t, "n2", "n3")
		r.now += 2 * time.Hour
		r.give(dead)
		r.wantNot(Release)
		r.show()
		wantBack(t, r)
	})
	t.Run("the queue waits for the same disk, and vrrpd does not answer", func(t *testing.T) {
		r := holder(t, "n2", "n3")
		r.srv.Pos.LSN, r.srv.Standbys = 300, []Standby{streams("n2", 300, 1), streams("n3", 300, 2)}
		r.pass(1100 * time.Millisecond)
		r.want(PersistMark)
		r.give(dead)
		for range 3 {
			wantBack(t, r)
			r.end(Release, Result{}, errors.New("timeout"))
			r.wantNot(Release)
			r.pass(2 * r.a.t.Retry)
		}
		r.view.Phase, r.view.Holder, r.view.Mine, r.view.Live = Released, "", false, false
		r.show()
		r.end(Release, Result{}, errors.New("timeout"))
		r.pass(time.Second)
		r.wantNot(Release)
	})
	t.Run("paused", func(t *testing.T) {
		r := holder(t, "n2", "n3")
		r.view.Paused = true
		r.show()
		r.give(dead)
		r.wantNot(Release)
		r.view.Paused = false
		r.show()
		wantBack(t, r)
	})
	t.Run("nobody else has everything", func(t *testing.T) {
		r := holder(t)
		r.give(dead)
		r.wantNot(Release)
		r.view.Rule = Rule{Holder: "n1", S: []string{"n2"}, Version: 11, Gone: []string{"n2"}}
		r.show()
		r.wantNot(Release)
		r.view.Rule.Gone = nil
		r.show()
		wantBack(t, r)
	})
}

// TestASettingThatCannotBeLoosened: whoever looks must be told that commits wait.
func TestASettingThatCannotBeLoosened(t *testing.T) {
	r := holder(t, "n2", "n3")
	r.srv.Standbys = r.srv.Standbys[1:]
	r.pass(150 * time.Millisecond)
	r.end(SetRule, Result{}, nil)
	r.view.Rule.S, r.view.Rule.Version = []string{"n3"}, r.view.Rule.Version+1
	r.show()
	r.end(WriteSSN, Result{}, errors.New("syntax error in postgresql.conf"))
	explains(t, r, "can't be changed: syntax error in postgresql.conf")
}

// TestStreamUsesEveryLink: a standby whose link to the holder is gone follows at the address that answers, without being cut off; one whose holder
// answers where it is told to stream from is left alone, and in the end looked at anew.
func TestStreamUsesEveryLink(t *testing.T) {
	const first, second = "10.78.0.2", "10.77.0.2"
	start := func(t *testing.T) *rig {
		r := newRig(t, Marks{Promise: 5})
		r.srv.Pos, r.srv.Conninfo, r.srv.Via, r.srv.Upstream = Position{3, 300}, "n2", first, "n2"
		r.srv.History = []Fork{{1, 50}}
		r.view = View{Epoch: 5, Phase: Active, Holder: "n2", Timeline: 3, Rule: Rule{Holder: "n2", S: []string{"n1"}, Version: 9}, SyncNum: 2, MinCopies: 1}
		r.look()
		r.show()
		src := &Source{Node: "n2", SystemID: 7, TLI: 3, LSN: 400, History: []Fork{{1, 50}}, Via: first}
		for range 50 {
			r.pass(20 * time.Millisecond)
			r.routine(src)
		}
		r.wantNot(Look)
		r.srv.Upstream = ""
		r.pass(900 * time.Millisecond)
		r.wantNot(Look)
		r.pass(200 * time.Millisecond)
		r.want(Look)
		return r
	}
	answer := func(r *rig, via string) {
		r.end(Look, Result{Source: &Source{Node: "n2", SystemID: 7, TLI: 3, LSN: 400, History: []Fork{{1, 50}}, Via: via}}, nil)
	}
	t.Run("another address", func(t *testing.T) {
		r := start(t)
		answer(r, second)
		if x := r.want(Follow); x.Node != "n2" || x.Epoch != 5 {
			t.Errorf("got %v", x)
		}
		r.srv.Via = second
		r.end(Follow, Result{}, nil)
		r.srv.Upstream = "n2"
		r.pass(5 * time.Second)
		for _, k := range []Kind{Fence, Look, Follow} {
			r.wantNot(k)
		}
	})
	t.Run("the same address", func(t *testing.T) {
		r := start(t)
		looks := 0
		for end := r.now + 8*time.Second; r.now < end; r.pass(20 * time.Millisecond) {
			if r.under(Look) != nil {
				looks++
				answer(r, first)
			}
		}
		r.wantNot(Follow)
		if looks < 6 || looks > 9 {
			t.Errorf("%d looks in 8 s, want one each second", looks)
		}
	})
	t.Run("whatever address, it is looked at anew in the end", func(t *testing.T) {
		r := start(t)
		via := []string{second, first}
		for end := r.now + r.a.t.Stuck; r.under(Fence) == nil && r.now < end; r.pass(20 * time.Millisecond) {
			if r.under(Look) != nil {
				answer(r, via[0])
			}
			if r.under(Follow) != nil {
				r.srv.Via = via[0]
				via[0], via[1] = via[1], via[0]
				r.end(Follow, Result{}, nil)
			}
		}
		r.want(Fence)
	})
	t.Run("no primary any more", func(t *testing.T) {
		r := start(t)
		r.end(Look, Result{Source: &Source{Node: "n2", SystemID: 7, TLI: 3, InRecovery: true, Via: second}}, nil)
		r.wantNot(Follow)
	})
}
