package instance

import (
	"net/netip"
	"slices"
	"time"

	"pgvrrp/internal/conf"
	"pgvrrp/internal/control"
	"pgvrrp/internal/vrrp"
)

const (
	keptTransitions = 16
	keptPeers       = 16 // strangers beyond that replace the one heard longest ago
)

// status is what the loop and the receiver leave for readers, guarded by Instance.mu.
type status struct {
	base           control.Instance // what the file says
	seq            uint64
	state          string
	since          time.Time
	reason         string
	fault          string // what keeps us in FAULT now; it may have changed since the transition
	priority       uint8
	source         netip.Addr
	waiting        string
	doubt          string // what a BACKUP waits for before it takes over
	heldUntil      time.Time
	held           map[string]bool // by address with prefix length
	complainedSend time.Time
	addressesWait  bool // for the hook of vip_after_notify
	addressErr     error
	routesHeld     map[string]bool // by name
	routeErr       error
	due            time.Time // the loop's next deadline
	sendErr        string
	trackers       []control.Tracker
	hook           *control.Hook
	transitions    []control.Transition
	peers          []peer
	counters       control.Counters
	hooks          control.HookCounters
	rejected       [vrrp.NumRejects]uint64
	troubles       map[string]*trouble // by kind
	unicast        bool
	begun          time.Time // when INIT was left first

	addressMismatches uint64 // adverts taken with another list of addresses than ours
}

// peer is a router of our VRID: heard, or configured.
type peer struct {
	addr     netip.Addr
	priority uint8
	interval time.Duration
	heard    time.Time
	odd      vrrp.Warnings
	stale    bool   // warning is not about odd
	warning  string // odd in words
}

// configure takes what the file says; what was seen stays.
func (s *status) configure(c *conf.Instance) {
	s.base = control.Instance{
		Name: c.Name, Interface: c.Interface, VRID: c.VRID, Version: c.Version, Family: family(c),
		ConfiguredPriority: c.Priority, AdvertInterval: c.AdvertInterval.Seconds(), Preempt: c.Preempt,
		VMAC: c.VMAC.Name, NoAccept: c.NoAccept && c.Priority != 255,
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
	for _, name := range routeNames(c.Routes, c.Rules) {
		s.base.Routes = append(s.base.Routes, control.Route{Route: name})
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
	for _, p := range peers { // strangers that were heard
		if !p.heard.IsZero() && len(s.peers) < keptPeers && !slices.ContainsFunc(s.peers, func(q peer) bool { return q.addr == p.addr }) {
			s.peers = append(s.peers, p)
		}
	}
	if s.state == "" {
		s.state, s.since = control.StateInit, time.Now()
	}
	if s.seq == 0 {
		s.priority = c.Priority
	}
	s.transport(c)
}

func (s *status) transition(t control.Transition) {
	if s.begun.IsZero() {
		s.begun = t.At
	}
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

// set notes what became of an attempt to hold want: after a failed removal the addresses are held still.
func (s *status) set(want, missing []conf.Address, err error) {
	s.addressErr = err
	if len(want) == 0 && err != nil {
		return
	}
	s.held = make(map[string]bool, len(want))
	for _, a := range want {
		s.held[a.Prefix.String()] = !slices.ContainsFunc(missing, func(m conf.Address) bool { return m.Prefix == a.Prefix && m.Interface == a.Interface })
	}
}

// heard notes an advert of a router of our VRID; it allocates only for a new one.
func (s *status) heard(from netip.Addr, priority uint8, interval time.Duration, at time.Time, odd vrrp.Warnings) *peer {
	s.counters.AdvertsReceived++
	if priority == vrrp.PriorityLeaving {
		s.counters.PriorityZeroReceived++
	}
	k, oldest := -1, 0
	for n := range s.peers {
		if s.peers[n].addr == from {
			k = n
			break
		}
		if s.peers[n].heard.Before(s.peers[oldest].heard) {
			oldest = n
		}
	}
	switch {
	case k >= 0:
	case len(s.peers) < keptPeers:
		k = len(s.peers)
		s.peers = append(s.peers, peer{addr: from})
	default:
		k = oldest
		s.peers[k] = peer{addr: from}
	}
	p := &s.peers[k]
	p.priority, p.interval, p.heard = priority, interval, at
	if p.odd != odd {
		p.odd, p.stale = odd, true
	}
	return p
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
	if s.doubt != "" && s.state == control.StateBackup {
		out.Waiting = s.doubt
	}
	if s.addressesWait {
		out.Waiting = "the notify program's exit code (vip_after_notify)"
	}
	if s.routeErr != nil {
		out.Waiting = s.routeErr.Error()
	}
	if s.addressErr != nil {
		out.Waiting = s.addressErr.Error()
	}
	if s.sendErr != "" && s.state == control.StateMaster {
		out.Waiting = "adverts cannot be sent " + s.sendErr
	}
	if s.heldUntil.After(time.Now()) {
		until := s.heldUntil
		out.HeldUntil = &until
	}
	out.Addresses = slices.Clone(s.base.Addresses)
	for k := range out.Addresses {
		out.Addresses[k].Held = s.held[out.Addresses[k].Address]
	}
	out.Routes = s.routes()
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
	out.Counters.AddressMismatches = s.addressMismatches
	out.Hooks = s.hooks
	out.Troubles = s.listTroubles(time.Now())
	for r, n := range s.rejected {
		if n > 0 {
			if out.Counters.Rejected == nil {
				out.Counters.Rejected = map[string]uint64{}
			}
			out.Counters.Rejected[vrrp.Reject(r).String()] = n
		}
	}
	return out
}
