package data

import (
	"slices"
	"time"

	"pgvrrp/internal/agent/core"
	"pgvrrp/internal/quorum/record"
	"pgvrrp/test/sim/seeded"
)

// profile says which faults a seed has, and how often.
type profile struct {
	name    string
	every   time.Duration // mean time between faults
	weights []int         // by place in faults
	unknown float64       // commands of the log with an unknown outcome
	lag     float64       // records that a node hears of late
	trip    float64       // actions in whose middle the agent or the power goes
	crash   core.Crash
	rewind  bool
	times   core.Times
}

// faults are all there are. Each has its own end.
func (s *Sim) faults() []func() {
	r := &s.r
	any := func() *node { return s.nodes[r.Intn(3)] }
	holder := func() *node {
		if n := s.node(s.record().Holder.Node); n != nil && r.Chance(0.7) {
			return n
		}
		return any()
	}
	return []func(){
		func() { s.powerLoss(holder(), r.Between(100*time.Millisecond, 4*time.Second)) },
		func() { // two at the same instant
			a, b := any(), any()
			s.powerLoss(a, r.Between(100*time.Millisecond, 6*time.Second))
			s.powerLoss(b, r.Between(100*time.Millisecond, 6*time.Second))
		},
		func() { holder().kill() },
		func() { holder().restartAgent(r.Between(20*time.Millisecond, 3*time.Second)) },
		func() { holder().pauseAgent(r.Between(10*time.Millisecond, 3*time.Second)) },
		func() { holder().restartVrrpd() },
		func() { s.cutLog(holder(), r.Between(50*time.Millisecond, 5*time.Second)) },
		func() {
			s.outage = true
			s.at(r.Between(100*time.Millisecond, 3*time.Second), func() { s.outage = false })
		},
		func() { s.cutStream(any(), any(), r.Between(50*time.Millisecond, 4*time.Second)) },
		func() { s.isolate(holder(), r.Between(50*time.Millisecond, 6*time.Second)) },
		func() {
			to := ""
			if r.Chance(0.5) {
				to = any().name
			}
			holder().toAgent(core.Wish{Kind: core.Switchover, Node: to})
		},
		func() {
			n := any()
			n.toAgent(core.Wish{Kind: seeded.Pick(r, core.MaintenanceOn, core.MaintenanceOn, core.Shutdown)})
			s.at(r.Between(200*time.Millisecond, 5*time.Second), func() { n.toAgent(core.Wish{Kind: core.MaintenanceOff}) })
		},
		func() {
			_ = s.apply(record.Command{Op: record.Pause, Resource: resource})
			s.at(r.Between(100*time.Millisecond, 3*time.Second), func() { _ = s.apply(record.Command{Op: record.Resume, Resource: resource}) })
		},
		func() { // old WAL goes
			for _, n := range s.nodes {
				if n.pg.primary && r.Chance(0.5) {
					n.disk.removed = max(n.disk.removed, n.disk.durable-r.Intn(50))
				}
			}
		},
		func() { s.loseDisk(any()) },
		func() { // the holder loses the voters and one standby; the other one dies a little later, and comes back without the voters
			h := holder()
			a, b := s.nodes[(h.k+1)%3], s.nodes[(h.k+2)%3]
			if r.Chance(0.5) {
				a, b = b, a
			}
			s.cutLog(h, 6*time.Second)
			s.cutStream(h, a, 6*time.Second)
			s.at(r.Between(500*time.Millisecond, 3*time.Second), func() {
				s.powerLoss(b, r.Between(20*time.Millisecond, 300*time.Millisecond))
				s.cutLog(b, r.Between(time.Second, 4*time.Second))
			})
		},
		func() { // a standby's connection breaks, and the primary does not see it
			if c := any().pg.receiver; c != nil {
				s.breakDown(c)
			}
		},
		func() { // the holder goes when somebody has just taken its data
			for _, n := range s.nodes {
				if h := s.node(s.record().Holder.Node); n.marker != core.NoMarker && h != nil && h != n {
					seeded.Pick(r, h.kill, func() { s.powerLoss(h, r.Between(100*time.Millisecond, 4*time.Second)) }, func() { s.isolate(h, r.Between(500*time.Millisecond, 4*time.Second)) })()
					return
				}
			}
		},
	}
}

var profiles = []struct {
	name    string
	weights []int
}{
	{"power", []int{6, 3, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 2}},
	{"process", []int{0, 0, 5, 5, 4, 2, 1, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1, 2}},
	{"network", []int{1, 0, 1, 1, 1, 1, 4, 1, 4, 5, 0, 0, 0, 0, 0, 1, 4, 2}},
	{"operator", []int{1, 0, 1, 1, 0, 0, 1, 0, 1, 1, 6, 4, 1, 1, 0, 0, 0, 0}},
	{"grants", []int{2, 0, 5, 2, 4, 4, 5, 1, 0, 2, 1, 0, 0, 0, 0, 1, 0, 3}},
	{"all", []int{3, 1, 3, 3, 2, 1, 2, 1, 2, 3, 2, 1, 1, 1, 1, 1, 2, 2}},
}

func (s *Sim) chooseProfile() profile {
	x := profiles[s.r.Intn(len(profiles))]
	for _, y := range profiles {
		if y.name == s.o.Profile {
			x = y
		}
	}
	times := core.Defaults()
	if s.r.Chance(0.5) { // whoever waits long rarely gets into trouble
		times.Stuck, times.Renew, times.Copies = 500*time.Millisecond, time.Second, 500*time.Millisecond
	}
	return profile{name: x.name, times: times, weights: x.weights, every: seeded.Pick(&s.r, 300*time.Millisecond, 700*time.Millisecond, 1500*time.Millisecond), unknown: seeded.Pick(&s.r, 0, 0.03, 0.2),
		trip:  seeded.Pick(&s.r, 0, 0.003, 0.02),
		crash: seeded.Pick(&s.r, core.Failover, core.Failover, core.Restart), rewind: !s.r.Chance(0.1)}
}

// schedule draws the next fault, until all heal.
func (s *Sim) schedule() {
	if s.now == 0 {
		s.at(s.o.Chaos, s.heal)
		s.at(seeded.Pick(&s.r, 2*time.Second, s.r.Between(20*time.Millisecond, time.Second)), s.schedule)
		return
	}
	if !s.chaos {
		return
	}
	faults := s.faults()
	total := 0
	for _, w := range s.profile.weights {
		total += w
	}
	k := s.r.Intn(total)
	for f, w := range s.profile.weights {
		if k < w {
			faults[f]()
			break
		}
		k -= w
	}
	s.at(s.r.Between(0, 2*s.profile.every), s.schedule)
}

// heal ends all faults.
func (s *Sim) heal() {
	s.trace("all faults heal")
	s.chaos, s.outage = false, false
	s.cuts = [3][3]bool{}
	for _, n := range s.nodes {
		n.log = true
		if !n.up {
			s.powerOn(n)
		}
		if !n.vrrpd {
			n.startVrrpd()
		}
		n.startAgent()
		n.toAgent(core.Wish{Kind: core.MaintenanceOff})
	}
	if s.record().Paused {
		_ = s.apply(record.Command{Op: record.Resume, Resource: resource})
	}
	s.healed = true
	s.settle()
}

func (s *Sim) powerLoss(n *node, d time.Duration) {
	if !n.up {
		return
	}
	s.trace("%s loses power", n.name)
	n.stopAgent()
	n.up = false
	n.stopPG(false)
	n.up, n.vrrpd, n.holding, n.until, n.vip = false, false, 0, 0, 0
	n.power++
	n.archives = 0
	n.disk.clean = false
	// What was not fsynced is gone.
	n.promise, n.disk.file = n.synced, n.disk.synced
	n.truncate(n.disk.durable)
	n.lie()
	s.at(d, func() { s.powerOn(n) })
}

// lie is what a disk does that loses what it called flushed: the files are ahead of the WAL, and the server is never consistent by what it has. No
// protocol copes with it on a node whose copy counts, or is about to.
func (n *node) lie() {
	counts := slices.Contains(n.s.record().Rule.Members(), n.self()) || slices.ContainsFunc(n.s.nodes, func(x *node) bool {
		return slices.Contains(x.disk.file.ssn.Names, n.name) || slices.Contains(x.disk.synced.ssn.Names, n.name)
	})
	if d := &n.disk; n.power%4 == 3 && !d.none && !counts {
		d.minimum, d.minTLI, d.minHistory = max(d.minimum, len(d.wal.recs)+2), max(d.minTLI, d.wal.tli()), d.wal.forks
	}
}

func (s *Sim) powerOn(n *node) {
	if n.up {
		return
	}
	if d := n.robbedAt + int64(5*time.Second) - s.now; n.robbedAt != 0 && d > 0 {
		s.at(time.Duration(d), func() { s.powerOn(n) }) // nobody replaces a disk, and joins, in less
		return
	}
	s.trace("%s has power", n.name)
	n.up, n.joined = true, n.self().Incarnation
	n.startVrrpd()
	n.startAgent()
}

func (n *node) kill() {
	if n.pg.pm != 0 {
		n.stopPG(false)
	}
}

func (n *node) restartAgent(d time.Duration) {
	n.stopAgent()
	n.s.at(d, n.startAgent)
}

func (n *node) pauseAgent(d time.Duration) {
	if n.agentUp && n.pausedUntil <= n.s.now {
		n.s.trace("%s: the agent is stopped for %v", n.name, d)
		n.pausedAt, n.pausedUntil = n.s.now, n.s.now+int64(d)
	}
}

// restartVrrpd: the run that held an epoch is over.
func (n *node) restartVrrpd() {
	if !n.up || !n.vrrpd {
		return
	}
	n.s.trace("%s: vrrpd restarts", n.name)
	n.holding, n.until, n.vip = 0, 0, 0
	n.startVrrpd()
}

func (s *Sim) cutLog(n *node, d time.Duration) {
	s.trace("%s is cut off from the voters", n.name)
	n.log = false
	s.at(d, func() { n.log = true })
}

func (s *Sim) cutStream(a, b *node, d time.Duration) {
	s.trace("%s and %s are cut off from each other", a.name, b.name)
	s.cuts[a.k][b.k], s.cuts[b.k][a.k] = true, true
	s.at(d, func() { s.cuts[a.k][b.k], s.cuts[b.k][a.k] = false, false })
}

func (s *Sim) isolate(n *node, d time.Duration) {
	s.cutLog(n, d)
	for _, x := range s.nodes {
		if x != n {
			s.cutStream(n, x, d)
		}
	}
}

// loseDisk: the node comes back with nothing, and as another member. Somebody of the rule must be left.
func (s *Sim) loseDisk(n *node) {
	r := s.record()
	others := 0
	for _, m := range r.Rule.Members() {
		if x := s.node(m.Node); x != n && x.self() == m {
			others++
		}
	}
	if others == 0 || (r.Phase == record.Granted || r.Phase == record.Active) && r.Holder.Node == n.name {
		return // a holder's last proposal may make it the only one
	}
	s.trace("%s loses its disk", n.name)
	s.powerLoss(n, 5*time.Second)
	n.incarnation++
	s.robbed, n.robbedAt = true, s.now
	n.disk = disk{none: true, files: map[uint32]bool{}}
	n.promise, n.synced, n.attempted, n.marker, n.mark = 0, 0, 0, core.NoMarker, core.Position{}
}
