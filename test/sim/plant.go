package sim

import (
	"pgvrrp/internal/quorum/lease"
)

// Plant is a bug put into a run, to see that the checks find it. Each changes what the machines are told, never the machines.
type Plant struct {
	NoDrift      bool // voters wait for the lease as if all clocks were alike
	FromReceipt  bool // an acknowledgement counts from when it comes
	ForgetSeal   bool // seals are not on disk
	NoQuarantine bool // a voter answers at once after its start
	InProcess    bool // the kernel does not shut the guard by itself
	TwoPauses    bool // the guard's call is stopped at both of its weak points
	AnyConfig    bool // the membership of a message is not compared
	ConfigAge    bool // a new membership may seal at once
	OldAcks      bool // acknowledgements of older epochs and rounds count
	OldEpochs    bool // voters acknowledge epochs below the ones they know
	NoQuery      bool // sealing without asking first
	WallRouter   bool // the router compares times of day
	WallLease    bool // leases are counted by the time of day
	Preempt      bool // priority decides once a node is heard again
}

// toHolder changes what the holder is told.
func (p *Plant) toHolder(h *host, ev lease.Event) lease.Event {
	if ev.Kind != lease.Received || ev.Message.Kind != lease.Renewed {
		return ev
	}
	m := *ev.Message
	switch {
	case p.FromReceipt:
		m.Seq = h.sent.Seq
	case p.OldAcks && m.Epoch < h.sent.Epoch:
		m.Seq, m.Epoch, m.Config = h.sent.Seq, h.sent.Epoch, h.sent.Config
	case p.OldEpochs:
		m.Epoch = h.sent.Epoch
	default:
		return ev
	}
	ev.Message = &m
	return ev
}

// heard is for an advert that has arrived.
func (p *Plant) heard(s *Sim, k *packet) {
	if p.Preempt && k.dst.priority > k.priority && !k.dst.fault {
		s.giveUpFor(k.src, k.dst.name)
	}
}

// arrive changes a datagram that has arrived; false drops it.
func (p *Plant) arrive(s *Sim, k *packet) bool {
	if p.AnyConfig && k.to.cfg != nil && k.m.Config != (lease.Config{}) {
		k.m.Config = k.to.cfg.id
	}
	if p.NoQuery && k.m.Kind == lease.SealQuery {
		k.m.Kind = lease.WouldSeal
		s.sendTo(k.to, k.from, &k.m)
		return false
	}
	if p.OldEpochs && k.m.Kind == lease.Renew && k.m.Epoch > k.to.disk.sealed {
		if k.to.run != k.to.h.run {
			k.to.run, k.to.seen = k.to.h.run, 0
		}
		if n := k.to.known; n > 0 {
			k.to.seen = max(k.to.seen, s.versions[n-1].Epoch)
		}
		k.to.seen = max(k.to.seen, k.m.Epoch)
		k.m.Epoch = k.to.seen
	}
	return true
}
