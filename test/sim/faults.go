package sim

import (
	"fmt"
	"time"

	"pgvrrp/internal/quorum/lease"
	"pgvrrp/internal/quorum/record"
	"pgvrrp/internal/vrrp"
	"pgvrrp/test/sim/seeded"
)

// profile says how much of each fault there is.
type profile struct {
	name           string
	weights        [faults]int
	every          time.Duration // between two faults, at most
	loss, late     float64       // datagrams
	lag            float64       // applies
	lagged         time.Duration // at most
	push           float64       // a record goes to all by datagram
	apply          time.Duration // a commit's way to a follower, at most
	interrupt      float64       // a pause before an action
	interruptGuard float64       // a pause inside the guard's call
	pause          time.Duration // at most
	slowCall       float64       // the guard's call takes as long as is not noticed
	wire           time.Duration // a datagram's way, at most
	disk, commit   time.Duration // at most
	readd          float64       // an absent voter comes back, at each heartbeat
}

const (
	fPause = iota
	fRestart
	fPower
	fCut
	fPartition
	fJoin
	fLeader
	fMembers
	fEligible
	fGiveUp
	fEmpty
	fDisk
	fPaused
	faults
)

// profiles are the kinds; all is the most frequent.
var profiles = []string{"all", "all", "network", "processes", "members", "calm", "leases", "clocks", "late", "seals"}

func profileOf(r *seeded.Random, name string) profile {
	p := profile{every: 650 * time.Millisecond, loss: 0.02, late: 0.02, lag: 0.1, apply: 20 * time.Millisecond, interrupt: 0.0005, interruptGuard: 0.003, pause: 1500 * time.Millisecond, readd: 0.1,
		lagged: 300 * time.Millisecond, push: 0.9, slowCall: 0.03, wire: 2 * time.Millisecond, disk: 6 * time.Millisecond, commit: 5 * time.Millisecond}
	if name == "" {
		name = seeded.Pick(r, profiles...)
	}
	p.name = name
	switch name {
	case "all":
		p.weights = [faults]int{fPause: 8, fRestart: 4, fPower: 2, fCut: 8, fPartition: 4, fJoin: 6, fLeader: 3, fMembers: 3, fEligible: 2, fGiveUp: 2, fEmpty: 1, fDisk: 2, fPaused: 1}
	case "network":
		p.weights = [faults]int{fPause: 1, fCut: 8, fPartition: 6, fJoin: 6, fLeader: 3, fMembers: 1, fGiveUp: 1}
		p.late = 0.05
	case "processes":
		p.weights = [faults]int{fPause: 10, fRestart: 8, fPower: 3, fJoin: 2, fCut: 1, fLeader: 2, fEmpty: 1, fDisk: 4}
		p.interrupt, p.interruptGuard = 0.003, 0.02
	case "members":
		p.weights = [faults]int{fPause: 3, fRestart: 2, fCut: 6, fPartition: 4, fJoin: 5, fLeader: 4, fMembers: 14, fEmpty: 2}
		p.readd, p.lag = 0.3, 0.3
	case "calm":
		p.weights = [faults]int{fPause: 2, fRestart: 1, fCut: 2, fJoin: 3, fLeader: 1, fMembers: 1, fGiveUp: 1, fEligible: 1, fPower: 1}
		p.every = 4 * time.Second
	case "leases": // epochs that are known late, seals that are needed, voters that forget
		p.weights = [faults]int{fPause: 6, fRestart: 10, fCut: 10, fPartition: 3, fJoin: 8, fLeader: 3, fGiveUp: 1}
		p.lag, p.apply, p.late = 0.7, 300*time.Millisecond, 0.08
	case "clocks": // all clocks at their extremes, guards that shut as late as they may, and all else fast
		p.weights = [faults]int{fPause: 20, fCut: 5, fPartition: 3, fJoin: 6, fLeader: 1}
		p.wire, p.disk, p.commit, p.apply, p.slowCall, p.lag = 300*time.Microsecond, 300*time.Microsecond, 1200*time.Microsecond, time.Millisecond, 0.3, 0
	case "late": // epochs that follow one another while acknowledgements are on their way
		p.weights = [faults]int{fPause: 3, fCut: 10, fPartition: 2, fJoin: 8, fLeader: 1, fGiveUp: 14, fRestart: 1}
		p.late = 0.25
	case "seals": // records that are known much too late, and voters that restart
		p.weights = [faults]int{fPause: 2, fRestart: 20, fCut: 8, fPartition: 2, fJoin: 6, fLeader: 2}
		p.lag, p.apply, p.push, p.lagged = 0.95, 100*time.Millisecond, 0.1, 1500*time.Millisecond
	case "still": // for a script: the network does nothing by itself
		p.loss, p.late, p.lag = 0, 0, 0
	default:
		panic("no such profile: " + name)
	}
	return p
}

// schedule alternates faults and quiet; at the end of each quiet somebody must answer.
func (s *Sim) schedule() {
	var round func()
	round = func() {
		s.chaos = true
		s.faultLater()
		s.at(s.r.Between(8*time.Second, 14*time.Second), func() {
			s.heal()
			s.at(5*time.Second, func() {
				s.healed()
				round()
			})
		})
	}
	s.at(5*time.Second, func() {
		s.healed()
		round()
	})
}

func (s *Sim) faultLater() {
	s.at(s.r.Between(50*time.Millisecond, s.profile.every), func() {
		if s.chaos {
			s.fault()
			s.faultLater()
		}
	})
}

// heal ends all faults; datagrams go on being lost, late and doubled.
func (s *Sim) heal() {
	s.trace("heal")
	s.chaos, s.churn = false, 0
	clear(s.links)
	for _, h := range s.hosts {
		h.badDisk, h.slowDisk = false, false
		switch {
		case !h.powered:
			h.powerOn()
		case !h.up:
			h.start()
		case h.paused():
			h.pausedUntil = s.now
			h.work()
		}
		s.setFault(h, false)
	}
	var resume func()
	resume = func() {
		if !s.chaos {
			s.operator(record.Resume)
			s.at(100*time.Millisecond, resume)
		}
	}
	resume()
}

// healed is the end of a quiet.
func (s *Sim) healed() {
	n := 0
	for _, h := range s.hosts {
		if h.answers() {
			n++
		}
	}
	if n == 1 || s.now-s.answered < s.grace {
		return // datagrams are lost all the time: it may just have changed hands
	}
	missing := "nobody leads the log"
	if s.leader != nil && s.leader.leads {
		missing = s.leader.coord.Missing(s.leader.h.clock())
	}
	for _, h := range s.hosts {
		if h.data && s.state.Get(resource).Rule.Has(h.self()) {
			r := s.state.Get(resource)
			s.fail("nobody answers 5s after the faults ended; the record: epoch %d, %v, %s, rule %v; missing: %s", r.Epoch, r.Phase, r.Holder, r.Rule, missing)
			return
		}
	}
	s.res.Excused++
	s.res.Missing = missing
	if missing == "" {
		s.fail("nobody of the rule %v is there, and the leader does not say so", s.state.Get(resource).Rule)
	}
}

// operator submits a command by hand.
func (s *Sim) operator(op record.Op) {
	r := s.state.Get(resource)
	if r.Paused == (op == record.Pause) {
		return
	}
	if s.leader != nil && s.leader.leads {
		s.propose(s.leader, record.Command{Op: op, Resource: resource}, func(error) {})
	}
}

func (s *Sim) setFault(h *host, on bool) {
	if !h.data || h.fault == on {
		return
	}
	h.fault = on
	kind := vrrp.FaultCleared
	if on {
		kind = vrrp.FaultRaised
	}
	h.push(item{m: theRouter, vev: vrrp.Event{Kind: kind, Reason: "a check failed"}})
	h.work()
}

func (s *Sim) setLink(a, b int, cut bool) { s.links[a*len(s.hosts)+b] = cut }

func (s *Sim) fault() {
	total := 0
	for _, w := range s.profile.weights {
		total += w
	}
	n, kind := s.r.Intn(total), 0
	for n >= s.profile.weights[kind] {
		n -= s.profile.weights[kind]
		kind++
	}
	h := seeded.Pick(&s.r, s.hosts...)
	switch kind {
	case fPause:
		d := s.r.Between(0, s.profile.pause)
		s.trace("fault: %s is stopped for %v", h.name, d)
		h.pause(d)
	case fRestart:
		if !h.up {
			return
		}
		s.trace("fault: %s restarts", h.name)
		s.restart(h)
	case fPower:
		if !h.powered {
			return
		}
		s.trace("fault: %s loses power", h.name)
		h.powerOff()
		s.at(s.r.Between(500*time.Millisecond, 8*time.Second), func() {
			if !h.powered {
				h.powerOn()
			}
		})
	case fCut:
		oneWay, out := s.r.Chance(0.5), s.r.Chance(0.5)
		s.trace("fault: %s is cut off from some (one way: %v, out: %v)", h.name, oneWay, out)
		for b := range s.hosts {
			if b == h.k || s.r.Chance(0.33) {
				continue
			}
			if !oneWay || out {
				s.setLink(h.k, b, true)
			}
			if !oneWay || !out {
				s.setLink(b, h.k, true)
			}
		}
	case fPartition:
		side := s.r.Next()
		s.trace("fault: partition %b", side%(1<<len(s.hosts)))
		for a := range s.hosts {
			for b := range s.hosts {
				s.setLink(a, b, side>>a&1 != side>>b&1)
			}
		}
	case fJoin:
		s.trace("fault: all links work")
		clear(s.links)
	case fLeader:
		if s.leader != nil {
			but := s.leader
			if s.r.Chance(0.3) {
				but = nil
			}
			s.depose()
			s.elect(but)
		}
	case fMembers:
		s.churn += 1 + s.r.Intn(3)
	case fEligible:
		s.trace("fault: %s fault %v", h.name, !h.fault)
		s.setFault(h, !h.fault)
	case fGiveUp:
		s.giveUp(h)
	case fEmpty:
		s.empty(h)
	case fDisk:
		h.slowDisk, h.badDisk = s.r.Chance(0.5), s.r.Chance(0.5)
	case fPaused:
		op := record.Pause
		if s.state.Get(resource).Paused {
			op = record.Resume
		}
		s.operator(op)
	}
}

func (s *Sim) restart(h *host) {
	h.stop()
	run := h.run
	s.at(s.r.Between(20*time.Millisecond, 300*time.Millisecond), func() {
		if h.run == run && h.powered && !h.up {
			h.start()
		}
	})
}

// giveUp is an operator's order: the addresses first, then the grant.
func (s *Sim) giveUp(h *host) {
	if !h.data || !h.up {
		return
	}
	prefer := ""
	if p := seeded.Pick(&s.r, s.hosts...); p.data && p != h {
		prefer = p.name
	}
	s.giveUpFor(h, prefer)
}

func (s *Sim) giveUpFor(h *host, prefer string) {
	s.trace("fault: %s gives up for %q", h.name, prefer)
	h.push(item{m: theRouter, vev: vrrp.Event{Kind: vrrp.Revoked, Reason: "by hand"}})
	h.push(item{m: theHolder, ev: lease.Event{Kind: lease.GiveUp, Reason: "by hand", Prefer: prefer}})
	h.work()
}

// empty takes a host's state directories away, if a majority that has its own stays.
func (s *Sim) empty(h *host) {
	left, all := 0, 0
	var cfg *config
	for _, v := range s.voters {
		if v.cfg != nil && (cfg == nil || v.cfg.newer(cfg)) {
			cfg = v.cfg
		}
	}
	for c := cfg; c != nil; c = c.parent {
		left, all = 0, len(c.voters)
		for _, k := range c.voters {
			if v := s.voters[k]; !v.empty && v.h != h && (v.cfg == c || v.cfg == cfg) {
				left++
			}
		}
		if left < all/2+1 {
			return
		}
		if c.committed {
			break
		}
	}
	for _, v := range s.voters {
		if v.empty {
			return // one at a time
		}
	}
	s.trace("fault: the state of %s is lost", h.name)
	h.stop()
	h.empties()
	s.restart(h)
}

func (r Result) String() string {
	return fmt.Sprintf("seed %d (topology %s, %s, %s): %d grants, held %v, %d frozen, %v at %v", r.Seed, r.Topology, r.Policy, r.Profile, r.Grants, r.Held, r.Frozen, r.Err, r.At)
}
