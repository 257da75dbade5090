package lease

import (
	"slices"
	"strings"
	"testing"
	"time"

	"pgvrrp/internal/quorum/record"
)

const t0 = time.Minute

type holderTest struct {
	*testing.T
	h *Holder
}

// newTestHolder is n1, granted epoch 3 at t0 by an active record with S.
func newTestHolder(t *testing.T, s []record.Member, change ...func(*HolderOptions)) (*holderTest, []Action) {
	t.Helper()
	o := HolderOptions{Resource: "r", Self: n1, Boot: 5, Params: params, Hold: params.Hold(), Policy: Freeze, Peers: []string{"n2", "n3"}, Activate: 5 * time.Second}
	for _, c := range change {
		c(&o)
	}
	h := NewHolder(o)
	h.Step(t0, Event{Kind: Configured, Configuration: five})
	h.Step(t0, Event{Kind: Eligible, On: true})
	a := slices.Clone(h.Step(t0, knows(active(3, 3, n1, s...))))
	return &holderTest{t, h}, a
}

// ack answers a round for some voters.
func (h *holderTest) ack(now time.Duration, m Message, from ...string) []Action {
	var all []Action
	for _, f := range from {
		all = append(all, slices.Clone(h.h.Step(now, heardFrom(f, Message{Kind: Renewed, Epoch: m.Epoch, Seq: m.Seq, Boot: m.Boot, Config: m.Config})))...)
	}
	return all
}

func (h *holderTest) tick(now time.Duration) []Action {
	return slices.Clone(h.h.Step(now, Event{Kind: Tick}))
}

// report is a sign of life of a peer.
func (h *holderTest) report(now time.Duration, m record.Member) []Action {
	return slices.Clone(h.h.Step(now, heardFrom(m.Node, Message{Kind: Report, Incarnation: m.Incarnation})))
}

func TestHolderCountsFromSendTime(t *testing.T) {
	h, a := newTestHolder(t, nil, func(o *HolderOptions) { o.Policy = Stop })
	m := sent(t, a, Renew)
	if m.Hold != params.Hold() || m.Config != five.Config || m.Boot != 5 || m.Epoch != 3 {
		t.Errorf("got %+v", m)
	}
	none(t, h.ack(t0+90*ms, m, "n1", "w1"), Extend)
	e := one(t, h.ack(t0+99*ms, m, "w2"), Extend)
	if e.Deadline != t0+400*ms || e.Epoch != 3 {
		t.Errorf("got deadline %v after the start, want 400ms after the sending", e.Deadline-t0)
	}
	none(t, h.ack(t0+99*ms, m, "n2"), Extend) // more than a majority changes nothing
	if !h.h.Live(t0+399*ms) || h.h.Live(t0+400*ms) {
		t.Error("got live at another time than before the deadline")
	}
}

func TestHolderAcknowledgementsThatDoNotCount(t *testing.T) {
	h, a := newTestHolder(t, nil)
	m := sent(t, a, Renew)
	h.ack(t0+ms, m, "n1", "n2")
	for name, change := range map[string]func(*Message){
		"another epoch":      func(m *Message) { m.Epoch = 2 },
		"another run":        func(m *Message) { m.Boot = 6 },
		"another membership": func(m *Message) { m.Config.Index++ },
		"another round":      func(m *Message) { m.Seq++ },
		"a round of old":     func(m *Message) { m.Seq -= 8 },
	} {
		other := m
		change(&other)
		if a := h.ack(t0+ms, other, "n3", "w1", "w2"); len(only(a, Extend)) > 0 {
			t.Errorf("%s: got live", name)
		}
	}
	none(t, h.ack(t0+ms, m, "n2", "n1"), Extend)   // twice is once
	none(t, h.ack(t0+ms, m, "x1", "n3/2"), Extend) // no voters
	one(t, h.ack(t0+ms, m, "w2"), Extend)
}

func TestHolderLateAckOfAnOldRound(t *testing.T) {
	h, a := newTestHolder(t, nil, func(o *HolderOptions) { o.Policy = Stop })
	first := sent(t, a, Renew)
	second := sent(t, h.tick(t0+100*ms), Renew)
	h.ack(t0+101*ms, second, "n1", "n2", "n3")
	none(t, h.ack(t0+150*ms, first, "n1", "n2", "n3"), Extend) // moves nothing back
	if _, deadline, by := h.h.Deadline(); deadline != t0+500*ms || by != ByMajority {
		t.Errorf("got deadline %v, %v", deadline-t0, by)
	}
	third := sent(t, h.tick(t0+200*ms), Renew)
	none(t, h.ack(t0+201*ms, third, "n1", "n2"), Lapse, Extend)
	a = h.ack(t0+500*ms, third, "n3") // would prolong, but the lease has run out
	if l := one(t, a, Lapse); l.Epoch != 3 || !strings.Contains(l.Reason, "3 of 5 votes are needed, heard n1, n2") {
		t.Errorf("got %+v", l)
	}
	none(t, a, Extend)
}

func TestHolderAnAckAfterItsOwnDeadlineGivesNothing(t *testing.T) {
	h, a := newTestHolder(t, nil)
	none(t, h.ack(t0+400*ms, sent(t, a, Renew), "n1", "n2", "n3"), Extend)
}

func TestHolderEpochIsNeverUsedAgain(t *testing.T) {
	h, a := newTestHolder(t, nil, func(o *HolderOptions) { o.Policy = Stop })
	m := sent(t, a, Renew)
	h.ack(t0+ms, m, "n1", "n2", "n3")
	a = h.tick(t0 + 400*ms)
	one(t, a, Lapse)
	none(t, a, Submit) // the addresses are still there
	a = h.h.Step(t0+401*ms, Event{Kind: Idle, On: true})
	if c := one(t, a, Submit).Command; c.Op != record.Release || c.Epoch != 3 {
		t.Errorf("got %v, want the release of epoch 3", c)
	}
	none(t, h.ack(t0+402*ms, m, "w1", "w2"))
	none(t, h.h.Step(t0+403*ms, knows(active(4, 3, n1, n2))), Send, Extend)
	none(t, h.h.Step(t0+403*ms, knows(active(5, 4, n2, n1))))
	sent(t, h.h.Step(t0+404*ms, knows(active(6, 5, n1, n2))), Renew)
}

func TestHolderWaitsForIdleBeforeTheNextEpoch(t *testing.T) {
	h, a := newTestHolder(t, nil)
	h.ack(t0+ms, sent(t, a, Renew), "n1", "n2", "n3")
	a = h.h.Step(t0+2*ms, knows(active(9, 5, n1)))
	one(t, a, Lapse)
	none(t, a, Send)
	sent(t, h.h.Step(t0+3*ms, Event{Kind: Idle, On: true}), Renew)
}

func TestHolderGrantsOfOthers(t *testing.T) {
	for name, r := range map[string]record.Resource{
		"another node":            active(4, 4, n2),
		"another run":             func() record.Resource { r := active(4, 4, n1); r.HolderBoot = 6; return r }(),
		"another state directory": active(4, 4, record.Member{Node: "n1", Incarnation: "z"}),
		"electing":                in(active(4, 4, n1), record.Electing),
	} {
		t.Run(name, func(t *testing.T) {
			h := NewHolder(HolderOptions{Resource: "r", Self: n1, Boot: 5, Params: params, Hold: params.Hold()})
			h.Step(t0, Event{Kind: Configured, Configuration: five})
			none(t, h.Step(t0, knows(r)), Send, Extend)
		})
	}
}

func TestHolderReleaseByARestartedNode(t *testing.T) {
	h := NewHolder(HolderOptions{Resource: "r", Self: n1, Boot: 6, Params: params, Hold: params.Hold()})
	c := one(t, h.Step(t0, knows(active(4, 4, n1))), Submit).Command
	if c.Op != record.Release || c.Epoch != 4 || c.Member != n1 {
		t.Errorf("got %v, want the release of the former run's epoch", c)
	}
	none(t, h.Step(t0+ms, Event{Kind: Tick}))
	none(t, h.Step(t0+2*ms, Event{Kind: Submitted, Err: errIO}), Submit)
	one(t, h.Step(h.Wake(), Event{Kind: Tick}), Submit)
	none(t, h.Step(t0+time.Second, knows(in(active(5, 4, n1), record.Released))))
	if h.Wake() != never {
		t.Errorf("got a wish to wake at %v", h.Wake())
	}
}

func TestHolderRefusals(t *testing.T) {
	for _, tt := range []struct {
		name  string
		m     Message
		lapse bool
	}{
		{"sealed", Message{Refusal: IsSealed, Epoch: 3, Boot: 5}, true},
		{"a higher one sealed", Message{Refusal: IsSealed, Epoch: 4, Boot: 5}, true},
		{"a lower one sealed", Message{Refusal: IsSealed, Epoch: 2, Boot: 5}, false},
		{"to another run", Message{Refusal: IsSealed, Epoch: 3, Boot: 6}, false},
		{"a higher epoch is known", Message{Refusal: IsOld, Epoch: 4, Boot: 5}, true},
		{"the same epoch", Message{Refusal: IsOld, Epoch: 3, Boot: 5}, false},
		{"another membership", Message{Refusal: OtherConfig, Epoch: 3, Boot: 5}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h, a := newTestHolder(t, nil)
			h.ack(t0+ms, sent(t, a, Renew), "n1", "n2", "n3")
			tt.m.Kind = Refused
			a = h.h.Step(t0+2*ms, heardFrom("w1", tt.m))
			if got := len(only(a, Lapse)) > 0; got != tt.lapse {
				t.Errorf("got lapse %v, want %v", got, tt.lapse)
			}
			if tt.m.Refusal == IsSealed && tt.lapse {
				if c := one(t, h.h.Step(t0+3*ms, Event{Kind: Idle, On: true}), Submit).Command; c.Op != record.Release || c.Prefer != "n1" {
					t.Errorf("got %+v, want a new epoch asked for", c)
				}
			}
		})
	}
}

// frozenHolder has a majority at t0, and at t0+200ms it has none.
func frozenHolder(t *testing.T, s []record.Member, change ...func(*HolderOptions)) (*holderTest, []Action) {
	t.Helper()
	h, a := newTestHolder(t, s, change...)
	h.ack(t0+ms, sent(t, a, Renew), "n1", "n2", "w1")
	none(t, h.tick(t0+100*ms), Extend)
	return h, h.tick(t0 + 200*ms)
}

func peerOK(m Message) Message {
	m.Kind = PeerOK
	return m
}

func TestHolderFreezeNeedsEverybodyOfS(t *testing.T) {
	h, a := frozenHolder(t, []record.Member{n2, n3})
	m := sent(t, a, PeerRenew)
	if m.Hold != params.Hold() || m.Epoch != 3 {
		t.Errorf("got %+v", m)
	}
	none(t, h.h.Step(t0+201*ms, heardFrom("n2", peerOK(m))), Extend)
	none(t, h.h.Step(t0+201*ms, heardFrom("n2", peerOK(m))), Extend)
	e := one(t, h.h.Step(t0+390*ms, heardFrom("n3", peerOK(m))), Extend)
	if e.Deadline != t0+600*ms {
		t.Errorf("got deadline %v, want it counted from the sending", e.Deadline-t0)
	}
	if _, _, by := h.h.Deadline(); by != ByPeers {
		t.Errorf("got %v", by)
	}
	old := m
	old.Seq-- // that round asked no peers
	none(t, h.h.Step(t0+391*ms, heardFrom("n2", peerOK(old))), Extend)
}

func TestHolderFreezeWithoutOneOfS(t *testing.T) {
	h, a := frozenHolder(t, []record.Member{n2, n3})
	h.h.Step(t0+201*ms, heardFrom("n2", peerOK(sent(t, a, PeerRenew))))
	h.tick(t0 + 300*ms)
	if l := one(t, h.tick(t0+400*ms), Lapse); !strings.Contains(l.Reason, "not every node that could take over agreed (n2, n3)") {
		t.Errorf("got %q", l.Reason)
	}
}

func TestHolderFreezeWithSEmpty(t *testing.T) {
	h, a := frozenHolder(t, nil)
	if e := one(t, a, Extend); e.Deadline != t0+600*ms {
		t.Errorf("got deadline %v", e.Deadline-t0)
	}
	if sends(a, PeerRenew) {
		t.Error("got a question to nobody")
	}
	for at := 300 * ms; at < 3*time.Second; at += 100 * ms {
		none(t, h.tick(t0+at), Lapse)
	}
	if _, _, by := h.h.Deadline(); by != ByNone {
		t.Errorf("got %v", by)
	}
}

func TestHolderFreezeNeedsNodesOfUnknownRules(t *testing.T) {
	h, a := newTestHolder(t, nil)
	h.report(t0, n2)
	h.ack(t0+ms, sent(t, a, Renew), "n1", "n2")
	c := one(t, h.ack(t0+ms, sent(t, a, Renew), "w1"), Submit).Command
	if c.Op != record.SetRule || len(c.S) != 1 || c.S[0] != n2 || c.Ver != 3 {
		t.Fatalf("got %v, want a rule with n2", c)
	}
	h.h.Step(t0+50*ms, Event{Kind: Submitted, Err: errIO})
	h.tick(t0 + 100*ms)
	a = h.tick(t0 + 200*ms)
	none(t, a, Extend) // not alone: n2 may be in the rule
	e := one(t, h.h.Step(t0+201*ms, heardFrom("n2", peerOK(sent(t, a, PeerRenew)))), Extend)
	if e.Deadline != t0+600*ms {
		t.Errorf("got deadline %v", e.Deadline-t0)
	}
	r := active(4, 3, n1)
	h.h.Step(t0+202*ms, knows(func() record.Resource { r.RuleVer = 3; r.Paused = true; return r }())) // another change decides nothing
	if got := h.h.required(); !slices.Equal(got, []string{"n2"}) {
		t.Errorf("got %v needed, want n2", got)
	}
	h.h.Step(t0+203*ms, knows(active(5, 3, n1))) // another rule took the version: version 5, without n2
	if got := h.h.required(); len(got) != 0 {
		t.Errorf("got %v needed, want nobody", got)
	}
}

func TestHolderDoesNotFreeze(t *testing.T) {
	for _, tt := range []struct {
		name   string
		policy Policy
		phase  record.Phase
	}{
		{"by policy stop", Stop, record.Active},
		{"by policy suicide", Suicide, record.Active},
		{"before the epoch is active", Freeze, record.Granted},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := NewHolder(HolderOptions{Resource: "r", Self: n1, Boot: 5, Params: params, Hold: params.Hold(), Policy: tt.policy})
			h.Step(t0, Event{Kind: Configured, Configuration: five})
			h.Step(t0, Event{Kind: Eligible, On: true})
			r := in(active(3, 3, n1), tt.phase)
			r.Kind = record.PostgreSQL
			ht := &holderTest{t, h}
			ht.ack(t0+ms, sent(t, h.Step(t0, knows(r)), Renew), "n1", "n2", "n3")
			for at := 100 * ms; at < 400*ms; at += 100 * ms {
				if a := ht.tick(t0 + at); sends(a, PeerRenew) || len(only(a, Extend)) > 0 {
					t.Fatalf("got %+v", a)
				}
			}
			one(t, ht.tick(t0+400*ms), Lapse)
		})
	}
	t.Run("once it is not live", func(t *testing.T) {
		h, _ := newTestHolder(t, nil)
		for at := 100 * ms; at < time.Second; at += 100 * ms {
			none(t, h.tick(t0+at), Extend)
		}
	})
}

// A reload counts from the next round on.
func TestHolderAnotherPolicyAndOtherPeers(t *testing.T) {
	h, a := frozenHolder(t, nil)
	one(t, a, Extend)
	h.h.Configure(Stop, nil)
	none(t, h.tick(t0+300*ms), Extend)
	one(t, h.tick(t0+600*ms), Lapse)

	n4 := record.Member{Node: "n4", Incarnation: "d"}
	h, a = newTestHolder(t, []record.Member{n2, n3})
	h.h.Configure(Freeze, []string{"n2", "n4"})
	for _, m := range []record.Member{n2, n3, n4} {
		h.report(t0, m)
	}
	a = h.ack(t0, sent(t, a, Renew), "n1", "n2", "n3")
	if c := one(t, a, Submit).Command; !sameMembers(c.S, []record.Member{n2, n4}) {
		t.Errorf("got the rule %v, want n2 and n4", c.S)
	}
}

func TestHolderMajorityComesBack(t *testing.T) {
	h, a := frozenHolder(t, []record.Member{n2})
	h.h.Step(t0+201*ms, heardFrom("n2", peerOK(sent(t, a, PeerRenew))))
	a = h.tick(t0 + 300*ms)
	one(t, h.ack(t0+301*ms, sent(t, a, Renew), "n1", "w1", "w2"), Extend)
	if _, _, by := h.h.Deadline(); by != ByMajority {
		t.Errorf("got %v", by)
	}
	none(t, h.h.Step(t0+302*ms, heardFrom("n2", peerOK(sent(t, a, PeerRenew)))), Extend)
	if a := h.tick(t0 + 400*ms); sends(a, PeerRenew) {
		t.Error("got a question to peers with a majority there")
	}
}

func TestHolderNewMembership(t *testing.T) {
	h, a := newTestHolder(t, nil)
	old := sent(t, a, Renew)
	h.ack(t0+ms, old, "n1", "n2")
	three := &Configuration{Config: Config{11, 5}, Voters: []string{"n1", "n2", "n3"}}
	m := sent(t, h.h.Step(t0+2*ms, Event{Kind: Configured, Configuration: three}), Renew)
	if m.Config != three.Config {
		t.Errorf("got a renewal of %v, want the new membership at once", m.Config)
	}
	none(t, h.ack(t0+3*ms, m, "w1", "w2", "n1"), Extend) // no voters any more
	if e := one(t, h.ack(t0+3*ms, m, "n3"), Extend); e.Deadline != t0+402*ms {
		t.Errorf("got deadline %v", e.Deadline-t0)
	}
}

func TestHolderGivesUp(t *testing.T) {
	h, a := newTestHolder(t, nil)
	h.ack(t0+ms, sent(t, a, Renew), "n1", "n2", "n3")
	one(t, h.h.Step(t0+2*ms, Event{Kind: GiveUp, Reason: "by hand", Prefer: "n3"}), Lapse)
	c := one(t, h.h.Step(t0+3*ms, Event{Kind: Idle, On: true}), Submit).Command
	if c.Op != record.Release || c.Prefer != "n3" || c.Why != "released by n1: by hand" {
		t.Errorf("got %+v, want a release for n3 that says why", c)
	}
	none(t, h.h.Step(t0+4*ms, Event{Kind: GiveUp}))
}

func TestHolderGrantedAndNotActive(t *testing.T) {
	tli := uint32(0)
	start := func(t *testing.T) (*holderTest, []Action) {
		h := NewHolder(HolderOptions{Resource: "r", Self: n1, Boot: 5, Params: params, Hold: params.Hold(), Activate: 5 * time.Second})
		h.Step(t0, Event{Kind: Configured, Configuration: five})
		r := in(active(3, 3, n1), record.Granted)
		r.Kind, r.TLI = record.PostgreSQL, tli
		h.Step(t0, Event{Kind: Eligible, On: true})
		return &holderTest{t, h}, slices.Clone(h.Step(t0, knows(r)))
	}
	t.Run("too late", func(t *testing.T) {
		h, a := start(t)
		for at := time.Duration(0); at < 5*time.Second; at += 100 * ms {
			none(t, h.ack(t0+at+ms, sent(t, a, Renew), "n1", "n2", "n3"), Lapse)
			a = h.tick(t0 + at + 100*ms)
		}
		a = h.ack(t0+5001*ms, sent(t, a, Renew), "n1", "n2", "n3")
		if l := one(t, a, Lapse); !strings.Contains(l.Reason, "not active within 5s") {
			t.Errorf("got %q", l.Reason)
		}
	})
	t.Run("after many that came to nothing", func(t *testing.T) {
		tli = 2000
		defer func() { tli = 0 }()
		h, a := start(t)
		for at := time.Duration(0); at < 7*time.Second; at += 100 * ms {
			none(t, h.ack(t0+at+ms, sent(t, a, Renew), "n1", "n2", "n3"), Lapse)
			a = h.tick(t0 + at + 100*ms)
		}
		one(t, h.ack(t0+7001*ms, sent(t, a, Renew), "n1", "n2", "n3"), Lapse)
	})
	t.Run("not eligible", func(t *testing.T) {
		h, a := start(t)
		h.h.Step(t0+ms, Event{Kind: Eligible, Reason: "a check failed"})
		if l := one(t, h.ack(t0+ms, sent(t, a, Renew), "n1", "n2", "n3"), Lapse); !strings.Contains(l.Reason, "a check failed") {
			t.Errorf("got %q", l.Reason)
		}
	})
}

func TestHolderRuleOfAPlainResource(t *testing.T) {
	z2 := record.Member{Node: "n2", Incarnation: "z"}
	for _, tt := range []struct {
		name   string
		policy Policy
		old    []record.Member
		heard  []record.Member
		later  time.Duration // after the reports
		want   []record.Member
		no     bool
	}{
		{"freeze: who is there", Freeze, nil, []record.Member{n3}, 0, []record.Member{n3}, false},
		{"freeze: without who is gone", Freeze, []record.Member{n2, n3}, []record.Member{n3}, 0, []record.Member{n3}, false},
		{"freeze: not heard for long", Freeze, []record.Member{n2, n3}, []record.Member{n2, n3}, params.Contact(), nil, false},
		{"freeze: nothing to change", Freeze, []record.Member{n3, n2}, []record.Member{n2, n3}, 0, nil, true},
		{"another state directory", Freeze, []record.Member{n2, n3}, []record.Member{z2, n3}, 0, []record.Member{z2, n3}, false},
		{"stop: everybody", Stop, []record.Member{n2}, []record.Member{n3}, params.Contact(), []record.Member{n2, n3}, false},
		{"stop: nothing to change", Stop, []record.Member{n2, n3}, nil, 0, nil, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h, a := newTestHolder(t, tt.old, func(o *HolderOptions) { o.Policy = tt.policy })
			for _, m := range tt.heard {
				h.report(t0-tt.later, m)
			}
			h.report(t0, n1) // ourselves
			a = h.ack(t0, sent(t, a, Renew), "n1", "n2", "n3")
			if tt.no {
				none(t, a, Submit)
				return
			}
			if c := one(t, a, Submit).Command; c.Op != record.SetRule || !sameMembers(c.S, tt.want) || c.Epoch != 3 || c.Ver != 3 || c.Member != n1 || c.Boot != 5 {
				t.Errorf("got %+v, want the rule %v", c, tt.want)
			}
			none(t, h.tick(t0+50*ms), Submit) // one at a time
		})
	}
}

func TestHolderWakeNeverSpins(t *testing.T) {
	h := NewHolder(HolderOptions{Resource: "r", Self: n1, Boot: 5, Params: params, Hold: params.Hold()})
	h.Step(t0, knows(active(3, 3, n1))) // the membership is not known yet
	if got := h.Wake(); got <= t0 {
		t.Errorf("got a wish to wake at %v, now it is %v", got, t0)
	}
	sent(t, h.Step(t0+ms, Event{Kind: Configured, Configuration: five}), Renew)
}

func TestHolderRoundsAfterAPause(t *testing.T) {
	h, a := newTestHolder(t, nil)
	h.ack(t0+ms, sent(t, a, Renew), "n1", "n2", "n3")
	sent(t, h.tick(t0+150*ms), Renew)
	if got := h.h.Wake(); got != t0+200*ms {
		t.Errorf("got the next round at %v, want 200ms: no drift", got-t0)
	}
	sent(t, h.tick(t0+390*ms), Renew)
	if got := h.h.Wake(); got <= t0+390*ms {
		t.Errorf("got the next round at %v, want no round twice", got-t0)
	}
}

// TestHolderRuling: for PostgreSQL another puts the rules into the log, and says so first.
func TestHolderRuling(t *testing.T) {
	h, a := newTestHolder(t, nil)
	h.ack(t0+ms, sent(t, a, Renew), "n1", "n2", "w1")
	h.h.Step(t0+2*ms, Event{Kind: Ruling, Ver: 3, Names: []string{"n3"}})
	h.tick(t0 + 100*ms)
	a = h.tick(t0 + 200*ms)
	none(t, a, Extend)
	none(t, h.h.Step(t0+201*ms, heardFrom("n2", peerOK(sent(t, a, PeerRenew)))), Extend)
	one(t, h.h.Step(t0+202*ms, heardFrom("n3", peerOK(sent(t, a, PeerRenew)))), Extend)
}
