package instance

import (
	"maps"
	"net/netip"
	"slices"
	"time"

	"pgvrrp/internal/conf"
	"pgvrrp/internal/control"
)

const (
	keptTransitions = 16
	keptPeers       = 16 // strangers beyond that replace the one heard longest ago
)

// status is what the loop and the receiver leave for readers, guarded by Instance.mu.
type status struct {
	base          control.Instance // what the file says
	seq           uint64
	state         string
	since         time.Time
	reason        string
	fault         string // what keeps us in FAULT now; it may have changed since the transition
	priority      uint8
	source        netip.Addr
	waiting       string
	heldUntil     time.Time
	held          bool
	addressesWait bool // for the hook of vip_after_notify
	addressErr    error
	sendErr       string
	trackers      []control.Tracker
	hook          *control.Hook
	transitions   []control.Transition
	peers         []peer
	counters      control.Counters
	rejected      map[string]uint64
}

// peer is a router of our VRID: heard, or configured.
type peer struct {
	addr     netip.Addr
	priority uint8
	interval time.Duration
	heard    time.Time
	warning  string
}

// configure takes what the file says; what was seen stays.
func (s *status) configure(c *conf.Instance) {
	s.base = control.Instance{
		Name: c.Name, Interface: c.Interface, VRID: c.VRID, Version: c.Version, Family: family(c),
		ConfiguredPriority: c.Priority, AdvertInterval: c.AdvertInterval.Seconds(), Preempt: c.Preempt,
	}
	s.base.Addresses = nil
	for _, list := range [][]conf.Address{c.Addresses, c.Excluded} {
		for _, a := range list {
			dev := a.Interface
			if dev == "" {
				dev = c.Interface
			}
			s.base.Addresses = append(s.base.Addresses, control.Address{Address: a.Prefix.String(), Interface: dev})
		}
	}
	peers := s.peers
	s.peers = nil
	for _, p := range c.Peers {
		k := slices.IndexFunc(peers, func(q peer) bool { return q.addr == p.Addr })
		if k >= 0 {
			s.peers = append(s.peers, peers[k])
		} else {
			s.peers = append(s.peers, peer{addr: p.Addr})
		}
	}
	if s.state == "" {
		s.state, s.since = control.StateInit, time.Now()
	}
	if s.seq == 0 {
		s.priority = c.Priority
	}
	if s.rejected == nil {
		s.rejected = map[string]uint64{}
	}
}

func (s *status) transition(t control.Transition) {
	if t.To == control.StateMaster {
		s.counters.BecameMaster++
	}
	if t.From == control.StateMaster {
		s.counters.LeftMaster++
	}
	s.seq, s.state, s.since, s.reason, s.priority = t.Seq, t.To, t.At, t.Reason, t.Priority
	if len(s.transitions) == keptTransitions {
		copy(s.transitions, s.transitions[1:])
		s.transitions = s.transitions[:keptTransitions-1]
	}
	s.transitions = append(s.transitions, t)
}

// heard notes an advert of a router of our VRID; it allocates only for a new one.
func (s *status) heard(from netip.Addr, priority uint8, interval time.Duration, at time.Time, warning string) (news bool) {
	s.counters.AdvertsReceived++
	oldest := 0
	for k := range s.peers {
		p := &s.peers[k]
		if p.addr == from {
			news = p.warning != warning
			p.priority, p.interval, p.heard, p.warning = priority, interval, at, warning
			return news
		}
		if p.heard.Before(s.peers[oldest].heard) {
			oldest = k
		}
	}
	p := peer{addr: from, priority: priority, interval: interval, heard: at, warning: warning}
	if len(s.peers) < keptPeers {
		s.peers = append(s.peers, p)
	} else {
		s.peers[oldest] = p
	}
	return warning != ""
}

// Status is the instance as the control socket shows it.
func (i *Instance) Status() control.Instance {
	i.mu.Lock()
	defer i.mu.Unlock()
	s := &i.status
	out := s.base
	out.State, out.Seq, out.Since, out.Reason, out.Priority = s.state, s.seq, s.since, s.reason, s.priority
	if s.state == control.StateFault && s.fault != "" {
		out.Reason = s.fault
	}
	out.Waiting, out.Trackers = s.waiting, slices.Clone(s.trackers)
	if s.source.IsValid() {
		out.Source = s.source.String()
	}
	if s.addressesWait {
		out.Waiting = "the notify program's exit code (vip_after_notify)"
	}
	if s.held && s.addressErr != nil {
		out.Waiting = s.addressErr.Error()
	}
	if s.heldUntil.After(time.Now()) {
		until := s.heldUntil
		out.HeldUntil = &until
	}
	out.Addresses = slices.Clone(s.base.Addresses)
	for k := range out.Addresses {
		out.Addresses[k].Held = s.held && s.addressErr == nil
	}
	out.Peers = make([]control.Peer, 0, len(s.peers))
	var newest time.Time
	for _, p := range s.peers {
		out.Peers = append(out.Peers, control.Peer{Address: p.addr.String(), Priority: p.priority, Interval: p.interval.Seconds(), Heard: p.heard, Warning: p.warning})
		if s.state == control.StateBackup && p.priority > 0 && p.heard.After(newest) && p.heard.After(s.since.Add(-time.Minute)) {
			newest, out.Master = p.heard, p.addr.String()
		}
	}
	if s.hook != nil {
		h := *s.hook
		out.LastHook = &h
	}
	out.Transitions = slices.Clone(s.transitions)
	out.Counters = s.counters
	out.Counters.Rejected = maps.Clone(s.rejected)
	return out
}
