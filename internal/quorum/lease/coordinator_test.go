package lease

import (
	"slices"
	"strings"
	"testing"
	"time"

	"pgvrrp/internal/quorum/record"
)

type coordinatorTest struct {
	*testing.T
	c *Coordinator
}

// newTestCoordinator leads since long, and n1 and n2 are heard.
func newTestCoordinator(t *testing.T, r record.Resource) *coordinatorTest {
	c := &coordinatorTest{t, NewCoordinator(CoordinatorOptions{Resource: "r", Boot: 8, Params: params})}
	c.c.Step(0, Event{Kind: Configured, Configuration: five})
	c.c.Step(0, Event{Kind: Leading, On: true})
	c.c.Step(t0, heardFrom("n2", Message{Kind: Report, Incarnation: "b"}))
	c.c.Step(t0, heardFrom("n1", Message{Kind: Renew, Epoch: r.Epoch}))
	c.c.Step(t0, knows(r))
	c.c.Step(t0, heardFrom("n1", Message{Kind: Renew, Epoch: r.Epoch}))
	return c
}

func (c *coordinatorTest) answer(now time.Duration, k MessageKind, m Message, from ...string) []Action {
	var all []Action
	m.Kind = k
	for _, f := range from {
		all = append(all, slices.Clone(c.c.Step(now, heardFrom(f, m)))...)
	}
	return all
}

// asks runs until it asks.
func (c *coordinatorTest) asks(until time.Duration, k MessageKind) (time.Duration, Message) {
	c.Helper()
	for range 200 {
		at := c.c.Wake()
		if at > until {
			break
		}
		a := slices.Clone(c.c.Step(at, Event{Kind: Tick}))
		for _, n := range []string{"n2", "n3"} {
			c.c.Step(at, heardFrom(n, Message{Kind: Report, Incarnation: map[string]string{"n2": "b", "n3": "c"}[n]}))
		}
		for _, x := range a {
			if x.Kind == Send && x.Message.Kind == k {
				return at, x.Message
			}
		}
	}
	return 0, Message{}
}

func TestCoordinatorAsksFirst(t *testing.T) {
	c := newTestCoordinator(t, active(3, 3, n1, n2))
	if got := c.c.Wake(); got != t0+400*ms {
		t.Fatalf("got a wish to wake at %v, want after the lease", got-t0)
	}
	a := slices.Clone(c.c.Step(t0+400*ms, Event{Kind: Tick}))
	if got := len(only(a, Send)); got != 5 {
		t.Fatalf("got %d questions, want one to each voter", got)
	}
	m := a[0].Message
	if m.Kind != SealQuery || m.Epoch != 3 || m.Config != five.Config || m.Boot != 8 {
		t.Errorf("got %+v", m)
	}
	none(t, c.answer(t0+401*ms, WouldSeal, m, "n2", "n3"))
	none(t, c.answer(t0+401*ms, WouldSeal, m, "n2")) // twice is once
	a = c.answer(t0+402*ms, WouldSeal, m, "w1")
	none(t, a, Submit)
	if got := len(only(a, Send)); got != 5 || a[0].Message.Kind != SealIt || a[0].Message.Seq == m.Seq {
		t.Fatalf("got %+v, want all told to seal", a)
	}
	seal := a[0].Message
	none(t, c.answer(t0+403*ms, Sealed, seal, "n2", "n3"), Submit)
	none(t, c.answer(t0+403*ms, Sealed, m, "w2"), Submit) // an answer to another question
	cmd := one(t, c.answer(t0+404*ms, Sealed, seal, "w1"), Submit).Command
	if cmd.Op != record.Begin || cmd.Epoch != 4 || cmd.Cause != record.BySeals {
		t.Errorf("got %+v", cmd)
	}
	none(t, c.answer(t0+404*ms, Sealed, seal, "w2"), Submit)
	none(t, c.c.Step(t0+405*ms, Event{Kind: Submitted, Err: errIO}), Submit)
	one(t, c.c.Step(c.c.Wake(), Event{Kind: Tick}), Submit) // the outcome is unknown: the log decides
}

func TestCoordinatorAnswersThatDoNotCount(t *testing.T) {
	for name, change := range map[string]func(*Message){
		"another question":   func(m *Message) { m.Seq-- },
		"another run":        func(m *Message) { m.Boot = 9 },
		"another membership": func(m *Message) { m.Config.Digest++ },
	} {
		t.Run(name, func(t *testing.T) {
			c := newTestCoordinator(t, active(3, 3, n1, n2))
			m := c.c.Step(t0+400*ms, Event{Kind: Tick})[0].Message
			change(&m)
			if a := c.answer(t0+401*ms, WouldSeal, m, "n1", "n2", "n3", "w1", "w2"); sends(a, SealIt) {
				t.Error("got seals asked for")
			}
		})
	}
	t.Run("no voter", func(t *testing.T) {
		c := newTestCoordinator(t, active(3, 3, n1, n2))
		m := c.c.Step(t0+400*ms, Event{Kind: Tick})[0].Message
		if a := c.answer(t0+401*ms, WouldSeal, m, "x1", "x2", "x3", "x4", "x5"); sends(a, SealIt) {
			t.Error("got seals asked for")
		}
	})
}

func TestCoordinatorSealsNotWhileRenewalsAreSeen(t *testing.T) {
	c := newTestCoordinator(t, active(3, 3, n1, n2))
	for at := 100 * ms; at < 3*time.Second; at += 100 * ms {
		c.c.Step(t0+at, heardFrom("n1", Message{Kind: Renew, Epoch: 3}))
		none(t, c.c.Step(t0+at+99*ms, Event{Kind: Tick}))
	}
	t.Run("a question is dropped", func(t *testing.T) {
		c := newTestCoordinator(t, active(3, 3, n1, n2))
		m := c.c.Step(t0+400*ms, Event{Kind: Tick})[0].Message
		c.answer(t0+401*ms, WouldSeal, m, "n2", "n3")
		c.c.Step(t0+401*ms, heardFrom("n1", Message{Kind: Renew, Epoch: 3}))
		none(t, c.answer(t0+402*ms, WouldSeal, m, "w1"))
	})
	t.Run("so are seals that nobody has given", func(t *testing.T) {
		c := newTestCoordinator(t, active(3, 3, n1, n2))
		m := c.c.Step(t0+400*ms, Event{Kind: Tick})[0].Message
		seal := c.answer(t0+401*ms, WouldSeal, m, "n2", "n3", "w1")[0].Message
		c.answer(t0+402*ms, Wait, seal, "n2", "n3", "w1")
		c.c.Step(t0+403*ms, heardFrom("n1", Message{Kind: Renew, Epoch: 3}))
		none(t, c.c.Step(t0+700*ms, Event{Kind: Tick}))
	})
	t.Run("seals that are given stand", func(t *testing.T) {
		c := newTestCoordinator(t, active(3, 3, n1, n2))
		m := c.c.Step(t0+400*ms, Event{Kind: Tick})[0].Message
		seal := c.answer(t0+401*ms, WouldSeal, m, "n2", "n3", "w1")[0].Message
		c.answer(t0+402*ms, Sealed, seal, "n2")
		c.c.Step(t0+403*ms, heardFrom("n1", Message{Kind: Renew, Epoch: 3}))
		one(t, c.answer(t0+404*ms, Sealed, seal, "n3", "w1"), Submit)
	})
	t.Run("a renewal of an older epoch is none", func(t *testing.T) {
		c := newTestCoordinator(t, active(3, 3, n1, n2))
		c.c.Step(t0+300*ms, heardFrom("n1", Message{Kind: Renew, Epoch: 2}))
		if a := c.c.Step(t0+400*ms, Event{Kind: Tick}); !sends(a, SealQuery) {
			t.Errorf("got %+v, want a question", a)
		}
	})
}

// TestCoordinatorAsksNotAgainAtOnce: a voter has sealed for another coordinator, so that a renewal does not end the question. The lease is let run out, and
// until then no turn wakes the next.
func TestCoordinatorAsksNotAgainAtOnce(t *testing.T) {
	c := newTestCoordinator(t, active(3, 3, n1, n2))
	m := c.c.Step(t0+400*ms, Event{Kind: Tick})[0].Message
	none(t, c.answer(t0+401*ms, Sealed, m, "w1"))
	none(t, c.c.Step(t0+410*ms, heardFrom("n1", Message{Kind: Renew, Epoch: 3})))
	if got := c.c.Wake(); got != t0+810*ms {
		t.Errorf("got a wish to wake at %v, want after the lease that was renewed", got-t0)
	}
	if got := c.c.Step(t0+810*ms, Event{Kind: Tick}); !sends(got, SealQuery) {
		t.Errorf("got %+v, want all asked again", got)
	}
}

func TestCoordinatorWaits(t *testing.T) {
	c := newTestCoordinator(t, active(3, 3, n1, n2))
	m := c.c.Step(t0+400*ms, Event{Kind: Tick})[0].Message
	m.Hold = 30 * ms
	none(t, c.answer(t0+401*ms, Wait, m, "n2"))
	if a := c.c.Step(t0+431*ms, Event{Kind: Tick}); len(only(a, Send)) != 0 {
		t.Errorf("got %+v, want no question before the time is over", a)
	}
	at, again := c.asks(t0+450*ms, SealQuery)
	if at != t0+432*ms || again.Seq != m.Seq {
		t.Errorf("got the question again at %v, want when the voter said", at-t0)
	}
}

func TestCoordinatorMembershipMustBeOld(t *testing.T) {
	hold := active(3, 3, n1, n2)
	hold.Hold = 2200 * ms
	for _, tt := range []struct {
		name string
		r    record.Resource
		want time.Duration // after it was committed; 0: never
		open bool
	}{
		{"W_t", active(3, 3, n1, n2), wait, false},
		{"by the holder's hold", hold, params.Wait(2200 * ms), false},
		{"not committed", active(3, 3, n1, n2), 0, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := newTestCoordinator(t, tt.r)
			since := t0 + 350*ms
			cfg := *five
			cfg.Index, cfg.Since, cfg.Committed = 11, since, !tt.open
			c.c.Step(since, Event{Kind: Configured, Configuration: &cfg})
			at, m := c.asks(t0+10*time.Second, SealQuery)
			if tt.open {
				if at != 0 {
					t.Errorf("got a question at %v, want none", at-t0)
				}
				return
			}
			if at < since+tt.want || at > since+tt.want+60*ms || m.Config != cfg.Config {
				t.Errorf("got a question at %v after the membership, want %v", at-since, tt.want)
			}
		})
	}
	t.Run("a new one voids what was said", func(t *testing.T) {
		c := newTestCoordinator(t, active(3, 3, n1, n2))
		m := c.c.Step(t0+400*ms, Event{Kind: Tick})[0].Message
		seal := c.answer(t0+401*ms, WouldSeal, m, "n2", "n3", "w1")[0].Message
		c.answer(t0+402*ms, Sealed, seal, "n2", "n3")
		cfg := *five
		cfg.Index, cfg.Since = 11, t0+402*ms
		c.c.Step(t0+402*ms, Event{Kind: Configured, Configuration: &cfg})
		none(t, c.answer(t0+403*ms, Sealed, seal, "w1"), Submit)
		seal.Config = cfg.Config
		none(t, c.answer(t0+403*ms, Sealed, seal, "n2", "n3", "w1"), Submit)
	})
}

func TestCoordinatorNeedsContact(t *testing.T) {
	c := newTestCoordinator(t, active(3, 3, n1, n3)) // n2 alone is heard
	for at := 400 * ms; at < 3*time.Second; at += 50 * ms {
		none(t, c.c.Step(t0+at, Event{Kind: Tick}))
	}
	if got, want := c.c.Missing(t0+3*time.Second), "n1 is not heard; n3 is not heard"; !strings.Contains(got, want) {
		t.Errorf("got %q, want it to say %q", got, want)
	}
	if a := c.c.Step(t0+3*time.Second, heardFrom("n3", Message{Kind: Report, Incarnation: "c"})); len(a) > 0 && !sends(a, SealQuery) {
		t.Errorf("got %+v", a)
	}
	if at, _ := c.asks(t0+4*time.Second, SealQuery); at == 0 {
		t.Error("got no question with n3 there")
	}
	t.Run("another state directory is not contact", func(t *testing.T) {
		c := newTestCoordinator(t, active(3, 3, n1, record.Member{Node: "n2", Incarnation: "z"}))
		none(t, c.c.Step(t0+400*ms, Event{Kind: Tick}))
		if got := c.c.Missing(t0 + 400*ms); !strings.Contains(got, "n2 has lost its state directory") {
			t.Errorf("got %q", got)
		}
	})
}

func TestCoordinatorWant(t *testing.T) {
	c := newTestCoordinator(t, active(3, 3, n1, n2))
	none(t, c.c.Step(t0+150*ms, heardFrom("n2", Message{Kind: Want}))) // the holder was heard just now
	if a := c.c.Step(t0+250*ms, heardFrom("n2", Message{Kind: Want})); !sends(a, SealQuery) {
		t.Errorf("got %+v, want a question before the lease is over", a)
	}
}

func pledged(epoch uint64, m record.Member, change ...func(*Message)) Event {
	x := Message{Kind: Report, Epoch: epoch, Boot: 5, Hold: params.Hold(), Incarnation: m.Incarnation, OK: true, Priority: 100}
	for _, c := range change {
		c(&x)
	}
	return heardFrom(m.Node, x)
}

func TestCoordinatorReleased(t *testing.T) {
	c := newTestCoordinator(t, active(3, 3, n1, n2))
	cmd := one(t, c.c.Step(t0+ms, knows(in(active(4, 3, n1, n2), record.Released))), Submit).Command
	if cmd.Op != record.Begin || cmd.Cause != record.ByRelease || cmd.Epoch != 4 {
		t.Errorf("got %+v", cmd)
	}
	none(t, c.c.Step(t0+2*ms, Event{Kind: Submitted}), Submit)
	none(t, c.c.Step(t0+time.Second, Event{Kind: Tick}), Submit) // the record follows
}

func electingCoordinator(t *testing.T, change ...func(*record.Resource)) *coordinatorTest {
	r := in(active(4, 4, n1, n2, n3), record.Electing)
	for _, f := range change {
		f(&r)
	}
	c := newTestCoordinator(t, active(3, 3, n1, n2, n3))
	none(t, c.c.Step(t0, knows(r)))
	return c
}

func TestCoordinatorWaits20msForBetter(t *testing.T) {
	c := electingCoordinator(t)
	c.c.Step(t0, pledged(3, n1)) // there, and has not pledged yet
	none(t, c.c.Step(t0+ms, pledged(4, n2)))
	if got := c.c.Wake(); got != t0+21*ms {
		t.Errorf("got a wish to wake at %v", got-t0)
	}
	none(t, c.c.Step(t0+20*ms, Event{Kind: Tick}))
	cmd := one(t, c.c.Step(t0+21*ms, Event{Kind: Tick}), Submit).Command
	if cmd.Op != record.Grant || cmd.Member != n2 || cmd.Boot != 5 || cmd.Epoch != 4 || cmd.Hold != params.Hold() || cmd.TLI != 0 {
		t.Errorf("got %+v", cmd)
	}
	t.Run("not if all have pledged", func(t *testing.T) {
		c := electingCoordinator(t)
		one(t, c.c.Step(t0+ms, pledged(4, n2)), Submit)
	})
	t.Run("the better one within that time", func(t *testing.T) {
		c := electingCoordinator(t)
		c.c.Step(t0, pledged(3, n1))
		c.c.Step(t0+ms, pledged(4, n2))
		if cmd := one(t, c.c.Step(t0+5*ms, pledged(4, n1)), Submit).Command; cmd.Member != n1 {
			t.Errorf("got %+v, want n1, of the same priority and the first by name", cmd)
		}
	})
}

func TestCoordinatorWhoMayBeGranted(t *testing.T) {
	pg := func(r *record.Resource) { r.SystemID, r.Kind = 7, record.PostgreSQL }
	for _, tt := range []struct {
		name string
		r    func(*record.Resource)
		ev   Event
		want bool
	}{
		{"good", func(*record.Resource) {}, pledged(4, n2), true},
		{"pledged for another epoch", func(*record.Resource) {}, pledged(3, n2), false},
		{"not eligible", func(*record.Resource) {}, pledged(4, n2, func(m *Message) { m.OK = false }), false},
		{"no run", func(*record.Resource) {}, pledged(4, n2, func(m *Message) { m.Boot = 0 }), false},
		{"no hold", func(*record.Resource) {}, pledged(4, n2, func(m *Message) { m.Hold = 0 }), false},
		{"another state directory", func(*record.Resource) {}, pledged(4, record.Member{Node: "n2", Incarnation: "z"}), false},
		{"not in the rule", func(r *record.Resource) { r.Rule.S = nil }, pledged(4, n2), false},
		{"paused", func(r *record.Resource) { r.Paused = true }, pledged(4, n2), false},
		{"another PostgreSQL", pg, pledged(4, n2, func(m *Message) { m.SystemID = 8 }), false},
		{"its PostgreSQL", pg, pledged(4, n2, func(m *Message) { m.SystemID, m.TLI = 7, 3 }), true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := electingCoordinator(t, tt.r)
			a := only(c.c.Step(t0+ms, tt.ev), Submit)
			if got := len(a) == 1; got != tt.want {
				t.Fatalf("got granted %v, want %v", got, tt.want)
			}
			if tt.want && tt.name == "its PostgreSQL" && a[0].Command.TLI != 4 {
				t.Errorf("got timeline %d, want 4", a[0].Command.TLI)
			}
			if got := c.c.Wake(); got <= t0+ms {
				t.Errorf("got a wish to wake at %v, which is past", got)
			}
		})
	}
}

func TestCoordinatorChoosesTheBest(t *testing.T) {
	data := func(tli uint32, lsn uint64) func(*Message) {
		return func(m *Message) { m.TLI, m.LSN = tli, lsn }
	}
	prio := func(p uint8) func(*Message) { return func(m *Message) { m.Priority = p } }
	for _, tt := range []struct {
		name   string
		prefer string
		failed []string
		a, b   func(*Message) // of n1, n2
		want   string
	}{
		{"the name", "", nil, prio(100), prio(100), "n1"},
		{"the priority", "", nil, prio(100), prio(101), "n2"},
		{"the data before the priority", "", nil, data(1, 9), data(1, 10), "n2"},
		{"the timeline before the data", "", nil, data(1, 99), data(2, 10), "n2"},
		{"prefer", "n2", nil, data(3, 9), data(1, 1), "n2"},
		{"failed goes last", "", []string{"n1"}, data(3, 9), data(1, 1), "n2"},
		{"even if preferred", "n1", []string{"n1"}, data(3, 9), data(1, 1), "n2"},
		{"both failed", "", []string{"n1", "n2"}, prio(100), prio(101), "n2"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := electingCoordinator(t, func(r *record.Resource) { r.Prefer = tt.prefer })
			c.c.failed = tt.failed
			c.c.Step(t0, Event{Kind: Leading}) // hears both before it may act
			c.c.Step(t0+ms, pledged(4, n1, tt.a))
			c.c.Step(t0+ms, pledged(4, n2, tt.b))
			if cmd := one(t, c.c.Step(t0+2*ms, Event{Kind: Leading, On: true}), Submit).Command; cmd.Member.Node != tt.want {
				t.Errorf("got %v, want %s", cmd.Member, tt.want)
			}
		})
	}
	t.Run("the preferred one is waited for", func(t *testing.T) {
		for _, comes := range []bool{true, false} {
			c := electingCoordinator(t, func(r *record.Resource) { r.Prefer = "n2" })
			c.c.Step(t0, pledged(3, n2)) // there, and still at it
			none(t, c.c.Step(t0+ms, pledged(4, n1)))
			half := params.Lease / 2
			if got := c.c.Wake(); got != t0+ms+half {
				t.Errorf("got a wish to wake at %v", got-t0)
			}
			none(t, c.c.Step(t0+half, Event{Kind: Tick}))
			want, step := "n1", Event{Kind: Tick}
			if comes {
				want, step = "n2", pledged(4, n2)
			}
			if cmd := one(t, c.c.Step(t0+ms+half, step), Submit).Command; cmd.Member.Node != want {
				t.Errorf("got %v, want %s", cmd.Member, want)
			}
		}
	})
	t.Run("the preferred one at once", func(t *testing.T) {
		c := electingCoordinator(t, func(r *record.Resource) { r.Prefer = "n2" })
		c.c.Step(t0, pledged(3, n1))
		one(t, c.c.Step(t0+ms, pledged(4, n2)), Submit)
	})
}

func TestCoordinatorRemembersWhoFailed(t *testing.T) {
	c := electingCoordinator(t)
	c.c.Step(t0+ms, knows(in(active(5, 4, n1, n2), record.Granted)))
	c.c.Step(t0+2*ms, knows(in(active(6, 5, n1, n2), record.Electing)))
	if !slices.Equal(c.c.failed, []string{"n1"}) {
		t.Errorf("got %v failed, want n1", c.c.failed)
	}
	c.c.Step(t0+3*ms, knows(active(7, 5, n2)))
	if len(c.c.failed) != 0 {
		t.Errorf("got %v failed, want them forgotten", c.c.failed)
	}
}

func TestCoordinatorRestsWhenGrantsComeToNothing(t *testing.T) {
	// in vain grants epoch after epoch, each given back at once, and returns when it last was.
	vain := func(c *coordinatorTest, at time.Duration, n int) (epoch uint64, _ time.Duration) {
		epoch = c.c.rec.Epoch
		for range n {
			epoch++
			c.c.Step(at, Event{Kind: Submitted})
			c.c.Step(at, knows(in(active(epoch*10, epoch, n1, n2), record.Electing)))
			at += ms
			c.c.Step(at, knows(in(active(epoch*10+1, epoch, n1, n2), record.Granted)))
			c.c.Step(at, heardFrom("n2", Message{Kind: Report, Incarnation: "b"}))
			c.c.Step(at, knows(in(active(epoch*10+2, epoch, n1, n2), record.Released)))
		}
		return epoch, at
	}
	for n, want := range map[int]time.Duration{1: 0, 2: 0, 3: 100 * ms, 4: 200 * ms, 5: 400 * ms, 9: 6400 * ms, 10: 10 * time.Second, 99: 10 * time.Second} {
		c := newTestCoordinator(t, active(3, 3, n1, n2))
		_, at := vain(c, t0, n)
		if want == 0 {
			if !c.c.flight {
				t.Errorf("got no election after %d, want one at once", n)
			}
			continue
		}
		if got := c.c.Wake(); got != at+want {
			t.Errorf("got a wish to wake %v after %d, want %v", got-at, n, want)
		}
		none(t, c.c.Step(at+want-ms, heardFrom("n2", Message{Kind: Report, Incarnation: "b"})), Submit)
		if got := c.c.Missing(at + ms); want > 200*ms && !strings.Contains(got, "grants in a row came to nothing") {
			t.Errorf("got %q missing", got)
		}
		if cmd := one(t, c.c.Step(at+want, Event{Kind: Tick}), Submit).Command; cmd.Op != record.Begin {
			t.Errorf("got %+v, want an election", cmd)
		}
	}
	now := func(name string, r record.Resource) {
		t.Run(name, func(t *testing.T) {
			c := newTestCoordinator(t, active(3, 3, n1, n2))
			_, at := vain(c, t0, 50)
			one(t, c.c.Step(at+ms, knows(r)), Submit)
		})
	}
	now("an operator's word", in(active(999, 54, n1, n2), record.Released))
	prefer := in(active(999, 53, n1, n2), record.Released)
	prefer.Prefer = "n2"
	now("somebody is preferred", prefer)
	t.Run("a new leader", func(t *testing.T) {
		c := newTestCoordinator(t, active(3, 3, n1, n2))
		_, at := vain(c, t0, 50)
		c.c.Step(at, Event{Kind: Leading})
		one(t, c.c.Step(at+ms, Event{Kind: Leading, On: true}), Submit)
	})
	t.Run("after an active one", func(t *testing.T) {
		c := newTestCoordinator(t, active(3, 3, n1, n2))
		epoch, at := vain(c, t0, 50)
		c.c.Step(at+ms, knows(active(998, epoch, n1, n2)))
		one(t, c.c.Step(at+2*ms, knows(in(active(999, epoch, n1, n2), record.Released))), Submit)
	})
	t.Run("a holder that died with its grant", func(t *testing.T) {
		c := newTestCoordinator(t, active(3, 3, n1, n2))
		_, at := vain(c, t0, 49)
		c.c.Step(at, knows(in(active(999, 53, n1, n2), record.Granted)))
		none(t, c.c.Step(at+500*ms, Event{Kind: Tick})) // a lease is over, and nobody is asked
		if got := c.c.Wake(); got != at+10*time.Second {
			t.Errorf("got a wish to wake after %v, want the end of the rest", got-at)
		}
		c.c.Step(at+10*time.Second-ms, heardFrom("n2", Message{Kind: Report, Incarnation: "b"}))
		if a := c.c.Step(at+10*time.Second, Event{Kind: Tick}); !sends(a, SealQuery) {
			t.Errorf("got %+v, want a question", a)
		}
	})
}

func TestCoordinatorGivesAGrantTime(t *testing.T) {
	c := electingCoordinator(t)
	c.c.Step(t0+time.Second, knows(in(active(5, 4, n2, n1), record.Granted)))
	if got := c.c.Wake(); got != t0+1400*ms {
		t.Errorf("got a wish to wake at %v, want a lease after the grant", got-t0)
	}
}

func TestCoordinatorActsOnlyWhenItLeads(t *testing.T) {
	c := newTestCoordinator(t, active(3, 3, n1, n2))
	c.c.Step(t0, Event{Kind: Leading})
	none(t, c.c.Step(t0+time.Second, Event{Kind: Tick}))
	none(t, c.c.Step(t0+time.Second, heardFrom("n2", Message{Kind: Want})))
	if c.c.Wake() != never {
		t.Errorf("got a wish to wake at %v", c.c.Wake())
	}
	c.c.Step(t0+time.Second, heardFrom("n2", Message{Kind: Report, Incarnation: "b"}))
	if a := c.c.Step(t0+time.Second, Event{Kind: Leading, On: true}); !sends(a, SealQuery) {
		t.Errorf("got %+v, want it to go on from the record", a)
	}
}

func TestCoordinatorPausedSleeps(t *testing.T) {
	r := active(4, 3, n1, n2)
	r.Paused = true
	c := newTestCoordinator(t, active(3, 3, n1, n2))
	c.c.Step(t0, knows(r))
	none(t, c.c.Step(t0+time.Second, Event{Kind: Tick}))
	if got := c.c.Wake(); got != never {
		t.Errorf("got a wish to wake at %v, want none", got)
	}
	if got := c.c.Missing(t0 + time.Second); got != "paused by an operator" {
		t.Errorf("got %q", got)
	}
}

func TestCoordinatorMissing(t *testing.T) {
	c := newTestCoordinator(t, active(3, 3, n1, n2))
	if got := c.c.Missing(t0 + ms); got != "" {
		t.Errorf("got %q with a live holder", got)
	}
	m := c.c.Step(t0+400*ms, Event{Kind: Tick})[0].Message
	c.answer(t0+401*ms, WouldSeal, m, "n2")
	refused := m
	refused.Kind, refused.Refusal, refused.Config = Refused, OtherConfig, Config{9, 9}
	c.c.Step(t0+401*ms, heardFrom("w1", refused))
	c.answer(t0+401*ms, Wait, m, "w2")
	got := c.c.Missing(t0 + 402*ms)
	for _, want := range []string{"3 of 5 votes are needed, have 1 (n2)", "w1 refuses: another membership", "w2 waits"} {
		if !strings.Contains(got, want) {
			t.Errorf("got %q, want it to say %q", got, want)
		}
	}
	c = newTestCoordinator(t, in(active(3, 3, n1, n2), record.Granted))
	c.c.Step(t0+1100*ms, heardFrom("n1", Message{Kind: Renew, Epoch: 3}))
	if got := c.c.Missing(t0 + 1200*ms); got != "granted to n1 1.2s ago, which is not active yet" {
		t.Errorf("got %q", got)
	}
	c = electingCoordinator(t)
	c.c.Step(t0, pledged(3, n1))
	c.c.Step(t0, pledged(3, n2, func(m *Message) { m.OK, m.Text = false, "disk" }))
	if got := c.c.Missing(t0); !strings.Contains(got, "n1 has not pledged yet; n2 is not eligible: disk; n3 is not heard") {
		t.Errorf("got %q", got)
	}
	if got := NewCoordinator(CoordinatorOptions{}).Missing(t0); !strings.Contains(got, "not in the log yet") {
		t.Errorf("got %q", got)
	}
}
