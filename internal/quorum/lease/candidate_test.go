package lease

import (
	"testing"
	"time"

	"pgvrrp/internal/quorum/record"
)

// newTestCandidate is n2, long after its start, and eligible.
func newTestCandidate(change ...func(*CandidateOptions)) *Candidate {
	o := CandidateOptions{Resource: "r", Self: n2, Boot: 7, Params: params, Hold: params.Hold()}
	for _, c := range change {
		c(&o)
	}
	c := NewCandidate(o)
	c.Step(0, knows(active(3, 3, n1, n2)))
	c.Step(0, Event{Kind: Stored, What: Promise, Epoch: 3})
	c.Step(t0, Event{Kind: Eligible, On: true, Priority: 120})
	return c
}

func peerRenewal(epoch uint64) Message {
	return Message{Kind: PeerRenew, Resource: "r", Epoch: epoch, Seq: 4, Boot: 5, Hold: params.Hold()}
}

var electing4 = in(active(4, 4, n1, n2), record.Electing)

func TestCandidatePledges(t *testing.T) {
	c := newTestCandidate()
	a := c.Step(t0, knows(electing4))
	if s := one(t, a, Store); s.What != Promise || s.Epoch != 4 {
		t.Errorf("got %+v, want the promise stored", s)
	}
	none(t, a, Send)
	m := sent(t, c.Step(t0+5*ms, Event{Kind: Stored, What: Promise, Epoch: 4}), Report)
	if m.Epoch != 4 || m.Boot != 7 || m.Hold != params.Hold() || m.Incarnation != "b" || !m.OK || m.Priority != 120 {
		t.Errorf("got %+v", m)
	}
	m = sent(t, c.Step(c.Wake(), Event{Kind: Tick}), Report) // the first may be lost
	if m.Epoch != 4 {
		t.Errorf("got %+v", m)
	}
}

func TestCandidatePromiseThatIsNotStored(t *testing.T) {
	c := newTestCandidate()
	c.Step(t0, knows(electing4))
	none(t, c.Step(t0, Event{Kind: Stored, What: Promise, Epoch: 4, Err: errIO}), Store)
	if m := sent(t, c.Step(t0+200*ms, Event{Kind: Eligible}), Report); m.Epoch != 0 {
		t.Errorf("got a pledge for %d, want none", m.Epoch)
	}
	c = newTestCandidate()
	c.Step(t0, knows(electing4))
	c.Step(t0, Event{Kind: Stored, What: Promise, Epoch: 4, Err: errIO})
	for range 5 {
		if len(only(c.Step(c.Wake(), Event{Kind: Tick}), Store)) == 1 {
			return
		}
	}
	t.Error("got no second try to store the promise")
}

// TestCandidateWakeNeverSpins: the time for another try may pass while there is nothing to try.
func TestCandidateWakeNeverSpins(t *testing.T) {
	c := newTestCandidate()
	c.Step(t0, knows(electing4))
	c.Step(t0, Event{Kind: Stored, What: Promise, Epoch: 4, Err: errIO})
	c.Step(t0, knows(in(active(5, 4, n1, n2), record.Released)))
	now := t0
	for range 100 {
		now = max(now, c.Wake())
		c.Step(now, Event{Kind: Tick})
	}
	if now < t0+time.Second {
		t.Errorf("got a hundred ticks in %v", now-t0)
	}
}

func TestCandidateAcknowledgesAFrozenHolder(t *testing.T) {
	c := newTestCandidate()
	m := sent(t, c.Step(t0, heardFrom("n1", peerRenewal(3))), PeerOK)
	if m.Epoch != 3 || m.Seq != 4 || m.Boot != 5 {
		t.Errorf("got %+v", m)
	}
	for _, tt := range []struct {
		name string
		c    *Candidate
		from string
		m    Message
	}{
		{"a lower epoch than promised", newTestCandidate(func(o *CandidateOptions) { o.Promised = 9 }), "n1", peerRenewal(8)},
		{"a lower epoch than the record's", newTestCandidate(), "n1", peerRenewal(2)},
		{"ourselves", newTestCandidate(), "n2", peerRenewal(3)},
		{"no record yet", NewCandidate(CandidateOptions{Params: params}), "n1", peerRenewal(3)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if a := tt.c.Step(t0, heardFrom(tt.from, tt.m)); sends(a, PeerOK) {
				t.Errorf("got %+v, want no acknowledgement", a)
			}
		})
	}
}

func TestCandidateRefusesWhileThePromiseIsWritten(t *testing.T) {
	c := newTestCandidate()
	c.Step(t0, knows(electing4))
	if a := c.Step(t0, heardFrom("n1", peerRenewal(3))); sends(a, PeerOK) {
		t.Errorf("got %+v, want no acknowledgement", a)
	}
}

func TestCandidatePledgeWaitsAfterAPeerAck(t *testing.T) {
	c := newTestCandidate()
	c.Step(t0, heardFrom("n1", peerRenewal(3)))
	c.Step(t0+10*ms, knows(electing4))
	c.Step(t0+11*ms, Event{Kind: Stored, What: Promise, Epoch: 4})
	pledgedAt := time.Duration(0)
	for range 1000 {
		at := c.Wake()
		for _, a := range c.Step(at, Event{Kind: Tick}) {
			if a.Kind == Send && a.Message.Kind == Report && a.Message.Epoch == 4 {
				pledgedAt = at
			}
		}
		if pledgedAt != 0 {
			break
		}
	}
	if pledgedAt != t0+wait {
		t.Errorf("got a pledge %v after the acknowledgement, want %v", pledgedAt-t0, wait)
	}
}

// TestCandidatePledgesAfterARelease: a holder that released has nothing running any more, so its lease need not run out.
func TestCandidatePledgesAfterARelease(t *testing.T) {
	for _, tt := range []struct {
		name   string
		record record.Resource
		waits  bool
	}{
		{"the epoch acknowledged", in(active(4, 3, n1, n2), record.Released), false},
		{"another one, by an operator's word", in(active(4, 4, n1, n2), record.Released), true},
		{"none: it is active", active(4, 3, n1, n2), true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := newTestCandidate()
			c.Step(t0, heardFrom("n1", peerRenewal(3)))
			c.Step(t0+ms, knows(tt.record))
			if a := c.Step(t0+2*ms, heardFrom("n1", peerRenewal(3))); sends(a, PeerOK) != (tt.record.Phase == record.Active) {
				t.Errorf("a late renewal: got %+v", a)
			}
			electing := in(active(5, tt.record.Epoch+1, n1, n2), record.Electing)
			c.Step(t0+3*ms, knows(electing))
			a := c.Step(t0+4*ms, Event{Kind: Stored, What: Promise, Epoch: electing.Epoch})
			if pledges := sends(a, Report) && sent(t, a, Report).Epoch == electing.Epoch; pledges == tt.waits {
				t.Errorf("got a pledge at once: %t, want %t", pledges, !tt.waits)
			}
		})
	}
	// The wait after a start is for a lease of which nothing is known any more.
	c := NewCandidate(CandidateOptions{Resource: "r", Self: n2, Boot: 7, Params: params, Hold: params.Hold(), Start: t0, Longest: params.Hold()})
	c.Step(t0, knows(in(active(3, 3, n1, n2), record.Released)))
	c.Step(t0, knows(electing4))
	a := c.Step(t0+ms, Event{Kind: Stored, What: Promise, Epoch: 4})
	if sends(a, Report) && sent(t, a, Report).Epoch == 4 {
		t.Error("pledges at once after a start")
	}
}

func TestCandidatePledgeWaitsAfterAStart(t *testing.T) {
	c := NewCandidate(CandidateOptions{Resource: "r", Self: n2, Boot: 7, Params: params, Hold: params.Hold(), Start: t0, Longest: 2200 * ms})
	c.Step(t0, knows(electing4))
	c.Step(t0, Event{Kind: Stored, What: Promise, Epoch: 4})
	for _, tt := range []struct {
		at   time.Duration
		want uint64
	}{{params.Wait(2200*ms) - 1, 0}, {params.Wait(2200 * ms), 4}} {
		if m := sent(t, c.Step(t0+tt.at, Event{Kind: Eligible, On: tt.want > 0}), Report); m.Epoch != tt.want {
			t.Errorf("at %v: got a pledge for %d, want %d", tt.at, m.Epoch, tt.want)
		}
	}
}

func TestCandidateStoresALongerHoldFirst(t *testing.T) {
	c := newTestCandidate()
	m := peerRenewal(3)
	m.Hold = 2200 * ms
	a := c.Step(t0, heardFrom("n1", m))
	if s := one(t, a, Store); s.What != Hold || s.Hold != 2200*ms {
		t.Errorf("got %+v", s)
	}
	if sends(a, PeerOK) {
		t.Error("got an acknowledgement before it is on disk")
	}
	c.Step(t0, Event{Kind: Stored, What: Hold, Hold: 2200 * ms})
	sent(t, c.Step(t0, heardFrom("n1", m)), PeerOK)
}

func TestCandidatePledgesOnlyWhenIdle(t *testing.T) {
	c := newTestCandidate()
	c.Step(t0, Event{Kind: Idle})
	c.Step(t0, knows(electing4))
	if a := c.Step(t0, Event{Kind: Stored, What: Promise, Epoch: 4}); sends(a, Report) {
		t.Errorf("got %+v, want no report: the addresses are still here", a)
	}
	if m := sent(t, c.Step(t0+ms, Event{Kind: Idle, On: true}), Report); m.Epoch != 4 {
		t.Errorf("got a pledge for %d", m.Epoch)
	}
}

func TestCandidateNeedsItsAgentsPledge(t *testing.T) {
	c := newTestCandidate(func(o *CandidateOptions) { o.Agent = true })
	c.Step(t0, knows(electing4))
	if a := c.Step(t0, Event{Kind: Stored, What: Promise, Epoch: 4}); sends(a, Report) {
		t.Errorf("got %+v, want no report: PostgreSQL has not pledged", a)
	}
	if a := c.Step(t0, Event{Kind: Pledged, Pledge: Pledge{Epoch: 3}}); sends(a, Report) {
		t.Errorf("got %+v, want no report: that was another epoch", a)
	}
	m := sent(t, c.Step(t0, Event{Kind: Pledged, Pledge: Pledge{Epoch: 4, SystemID: 7, TLI: 2, LSN: 100}}), Report)
	if m.Epoch != 4 || m.SystemID != 7 || m.TLI != 2 || m.LSN != 100 {
		t.Errorf("got %+v", m)
	}
}

func TestCandidateDoesNotPledgeForAReleasedEpoch(t *testing.T) {
	c := newTestCandidate()
	none(t, c.Step(t0, knows(in(active(4, 4, n1, n2), record.Released))), Store)
}
