package lease

import (
	"time"

	"pgvrrp/internal/quorum/record"
)

// CandidateOptions are what a data node is.
type CandidateOptions struct {
	Resource string
	Self     record.Member
	Boot     record.Boot
	Params   Params
	Hold     time.Duration // how long after its sending a renewal may have effect here: Params.Hold or LifetimeHold
	Start    time.Duration // when this run began
	Promised uint64        // from disk
	Longest  time.Duration // from disk: the longest Hold ever acknowledged
	Agent    bool          // a report needs the pledge of what stands behind the resource, too
}

// Candidate speaks for a data node of one resource that may be granted it: it pledges for a new epoch, tells all voters that it
// lives, and acknowledges the lease of a frozen holder until it has pledged for a higher epoch. It takes Tick, Received
// (PeerRenew), Known, Stored, Eligible, Pledged and Idle.
type Candidate struct {
	o   CandidateOptions
	rec *record.Resource

	promise  uint64 // no lease of a lower epoch is acknowledged any more
	promised uint64 // the part of it that is on disk
	storing  bool
	peer     uint64        // the epoch of the last lease acknowledged in this run
	peerAt   time.Duration // of that
	peerWait time.Duration
	longest  time.Duration
	holding  bool // longest is being stored
	idle     bool
	eligible bool
	why      string
	priority uint8
	told     uint64 // the epoch that the last report pledged for
	next     time.Duration
	retryAt  time.Duration
	agent    Pledge // its newest

	out actions
}

// NewCandidate makes a candidate that is not eligible yet.
func NewCandidate(o CandidateOptions) *Candidate {
	return &Candidate{o: o, promise: o.Promised, promised: o.Promised, longest: max(o.Longest, o.Params.Hold()), idle: true, why: "not started yet",
		// A lease that was acknowledged before the start may still last.
		peerAt: o.Start, peerWait: o.Params.Wait(max(o.Longest, o.Params.Hold()))}
}

// Beacon is how often a candidate tells that it lives.
func (p Params) Beacon() time.Duration { return p.Lease / 2 }

// Wake is when the machine wants a Tick.
func (c *Candidate) Wake() time.Duration {
	at := c.next
	if c.pledging() && c.promised == c.promise && c.idle && c.agentPledged() {
		at = min(at, c.peerAt+c.peerWait)
	}
	if c.mustStore() {
		at = min(at, c.retryAt)
	}
	return at
}

// mustStore reports whether a promise is to go to disk, at retryAt at the earliest.
func (c *Candidate) mustStore() bool {
	return c.promised < c.promise && !c.storing && c.rec != nil && c.rec.Phase != record.Released
}

func (c *Candidate) agentPledged() bool { return !c.o.Agent || c.agent.Epoch >= c.promise }

// pledging reports whether an election waits for our report.
func (c *Candidate) pledging() bool {
	return c.rec != nil && c.rec.Phase == record.Electing && c.told < c.rec.Epoch
}

// Promised is the epoch for which the node has pledged, on disk.
func (c *Candidate) Promised() uint64 { return c.promised }

// Step takes one event. The actions are valid until the next Step.
func (c *Candidate) Step(now time.Duration, ev Event) []Action {
	c.out = c.out[:0]
	switch ev.Kind {
	case Known:
		if c.rec == nil || ev.Record.Index > c.rec.Index {
			c.rec = ev.Record
		}
		if c.released(c.peer) {
			c.peerWait = 0 // its holder had nothing running any more when it released
		}
	case Eligible:
		if c.eligible != ev.On || c.why != ev.Reason || c.priority != ev.Priority {
			c.next, c.told = now, 0 // tell it at once
		}
		c.eligible, c.why, c.priority = ev.On, ev.Reason, ev.Priority
	case Idle:
		c.idle = ev.On
	case Pledged:
		c.agent = ev.Pledge
	case Stored:
		c.stored(now, ev)
	case Received:
		if ev.Message.Kind == PeerRenew {
			c.peerRenew(now, ev.From, ev.Message)
		}
	}
	c.pledge(now)
	c.report(now)
	return c.out
}

func (c *Candidate) stored(now time.Duration, ev Event) {
	switch ev.What {
	case Promise:
		c.storing = false
		if ev.Err == nil {
			c.promised = max(c.promised, ev.Epoch)
		} else {
			c.retryAt = now + c.o.Params.Every()
		}
	case Hold:
		c.holding = false
		if ev.Err == nil {
			c.longest = max(c.longest, ev.Hold)
		}
	}
}

// peerRenew lets a frozen holder live on, unless a higher epoch is known here.
func (c *Candidate) peerRenew(now time.Duration, from string, m *Message) {
	if m.Epoch < c.promise || c.rec == nil || m.Epoch < c.rec.Epoch || c.released(m.Epoch) || from == c.o.Self.Node {
		return // our own lease ends with Idle, and needs no waiting for
	}
	if m.Hold > c.longest {
		if !c.holding {
			c.holding = true
			c.out = append(c.out, Action{Kind: Store, What: Hold, Hold: m.Hold})
		}
		return
	}
	wait := c.o.Params.Wait(m.Hold)
	if until := c.peerAt + c.peerWait; until > now+wait {
		wait = until - now
	}
	c.peer, c.peerAt, c.peerWait = max(c.peer, m.Epoch), now, wait
	c.out.send(from, Message{Kind: PeerOK, Resource: c.o.Resource, Epoch: m.Epoch, Seq: m.Seq, Boot: m.Boot})
}

// released reports whether the epoch ended by its holder's own word.
func (c *Candidate) released(epoch uint64) bool {
	return c.rec != nil && c.rec.Phase == record.Released && c.rec.Epoch == epoch
}

// pledge answers an election: from now on no lease of a lower epoch is acknowledged.
func (c *Candidate) pledge(now time.Duration) {
	if c.rec == nil || c.rec.Phase == record.Released {
		return
	}
	c.promise = max(c.promise, c.rec.Epoch)
	if c.mustStore() && now >= c.retryAt {
		c.storing = true
		c.out = append(c.out, Action{Kind: Store, What: Promise, Epoch: c.promise})
	}
}

// report tells all voters how we are: at once after a pledge, and again and again.
func (c *Candidate) report(now time.Duration) {
	pledged := uint64(0)
	if c.promised == c.promise && c.idle && c.agentPledged() && now >= c.peerAt+c.peerWait {
		pledged = c.promised
	}
	due := now >= c.next || c.pledging() && pledged >= c.rec.Epoch
	if !due {
		return
	}
	every := c.o.Params.Beacon()
	if c.rec != nil && c.rec.Phase == record.Electing {
		every = c.o.Params.Every() / 4 // a report may be lost
	}
	c.next = now + every
	c.told = pledged
	c.out.send(Everyone, Message{
		Kind: Report, Resource: c.o.Resource, Epoch: pledged, Boot: c.o.Boot, Hold: c.o.Hold, Incarnation: c.o.Self.Incarnation,
		OK: c.eligible, Text: c.why, Priority: c.priority, SystemID: c.agent.SystemID, TLI: c.agent.TLI, LSN: c.agent.LSN,
	})
}
