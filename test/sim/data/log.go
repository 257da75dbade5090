package data

import (
	"errors"
	"slices"
	"time"

	"pgvrrp/internal/agent/core"
	"pgvrrp/internal/quorum/record"
)

// The log and the leases are oracles. A command is applied once, or not, or late; who sent it may never hear. A lease ends before
// the next epoch begins; whoever had it may hear of that late.

var (
	errRefused = errors.New("refused by the log")
	errUnknown = errors.New("no answer")
	errLease   = errors.New("this node's lease does not run")
)

const lease = 400 * time.Millisecond

func (n *node) self() record.Member {
	return record.Member{Node: n.name, Incarnation: string(rune('a' + n.incarnation))}
}

// reach reports whether n has a majority of the voters.
func (s *Sim) reach(n *node) bool { return n.up && n.vrrpd && n.log && !s.outage }

// propose takes a command to the log. answer is called once, or never.
func (s *Sim) propose(n *node, c record.Command, answer func(err error, unknown bool)) {
	done := false
	once := func(err error, unknown bool) {
		if !done {
			done = true
			answer(err, unknown)
		}
	}
	s.at(s.r.Between(500*time.Millisecond, 1500*time.Millisecond), func() { once(errUnknown, true) })
	there, back := s.r.Between(time.Millisecond, 6*time.Millisecond), s.r.Between(200*time.Microsecond, 3*time.Millisecond)
	lost := false
	switch {
	case !s.reach(n):
		if s.r.Chance(0.5) {
			return // it never left, and nobody says so
		}
		there, lost = s.r.Between(0, 6*time.Second), true // in a queue that moves on some day
	case s.chaos && s.r.Chance(s.profile.unknown):
		switch s.r.Intn(3) {
		case 0:
			return
		case 1:
			there = s.r.Between(0, 5*time.Second)
		default:
			lost = true
		}
	}
	s.at(there, func() {
		if s.outage && s.chaos {
			s.at(s.r.Between(0, 3*time.Second), func() { _ = s.apply(c) }) // late: whether it still fits is the log's matter
			return
		}
		err := s.apply(c)
		if !lost {
			s.at(back, func() { once(err, false) })
		}
	})
}

func (s *Sim) apply(c record.Command) error {
	s.index++
	before := s.record()
	err := s.state.Apply(s.index, c)
	if s.tracing() {
		s.trace("log %d: %v: %v", s.index, c, err)
	}
	if err != nil {
		return err
	}
	s.plant.applied(s, c)
	r := s.state.Get(resource)
	s.versions = append(s.versions, r)
	if c.Op == record.SetRule {
		n := s.node(c.Member.Node)
		if before.Phase == record.Granted {
			n.activated = r.Epoch
			if c.TLI != 0 && r.Ledger[len(r.Ledger)-1].SwitchLSN == 0 {
				s.res.Kept++
			}
		}
		if len(r.Rule.S) > len(before.Rule.S) && before.Phase == record.Active {
			s.res.Grown++
		}
		s.checkRule()
	}
	if c.Op == record.Grant && !s.plant.GrantRules && r.Rule.String() != before.Rule.String() {
		s.fail("a grant changed the rule from %v to %v", before.Rule, r.Rule)
	}
	s.checkSSN()
	v := len(s.versions)
	for _, n := range s.nodes {
		if s.reach(n) {
			s.at(n.lag(), func() { n.learn(v) })
		}
	}
	return nil
}

// lag is how long a record takes to a node.
func (n *node) lag() time.Duration {
	if n.s.chaos && n.s.r.Chance(n.s.profile.lag) {
		return n.s.r.Between(0, 2*time.Second)
	}
	return n.s.r.Between(300*time.Microsecond, 8*time.Millisecond)
}

// learn brings a node's vrrpd to version v of the record.
func (n *node) learn(v int) {
	if !n.up || !n.vrrpd || v <= n.known {
		return
	}
	n.known = v
	r := n.s.versions[v-1]
	if r.Holds(n.name, n.boot) && n.holding != r.Epoch {
		n.holding, n.granted, n.until = r.Epoch, n.s.now, 0
		n.renew()
	}
	if n.holding != 0 && !r.Holds(n.name, n.boot) {
		n.holding, n.until = 0, 0
	}
	n.show()
}

// renew keeps the lease as long as the voters know of no higher epoch.
func (n *node) renew() {
	s, epoch, boot := n.s, n.holding, n.boot
	if epoch == 0 || !n.up || !n.vrrpd {
		return
	}
	r := s.record()
	switch {
	case n.burnt == epoch:
		return
	case n.until != 0 && n.until <= s.now:
		n.lapse()
		return
	case s.reach(n) && r.Holds(n.name, n.boot) && r.Epoch == epoch && !n.silent():
		first := n.until == 0
		n.until = s.now + int64(lease)
		if first {
			n.show()
		} else {
			n.toAgent(core.Lease{Epoch: epoch, Deadline: time.Duration(n.until)})
		}
		if r.Phase == record.Granted && s.now-n.granted > int64(7*time.Second) {
			n.lapse()
			return
		}
	}
	s.at(100*time.Millisecond, func() {
		if n.boot == boot && n.holding == epoch {
			n.renew()
		}
	})
}

// silent reports whether the agent has been away for too long.
func (n *node) silent() bool {
	return !n.agentUp && n.s.now-n.agentGone > int64(2*time.Second) || n.agentUp && n.pausedUntil > n.s.now+int64(0) && n.s.now-n.pausedAt > int64(2*time.Second)
}

// lapse ends the epoch here, and releases it once the log can be reached.
func (n *node) lapse() {
	s, epoch := n.s, n.holding
	n.burnt, n.until, n.holding = max(n.burnt, epoch), 0, 0
	n.vip = 0
	n.show()
	n.giveBack(epoch, "", "lapsed", func(error, bool) {})
	_ = s
}

func (n *node) giveBack(epoch uint64, prefer, why string, answer func(error, bool)) {
	n.burnt, n.until, n.vip = max(n.burnt, epoch), 0, 0
	if n.holding == epoch {
		n.holding = 0
	}
	n.s.propose(n, record.Command{Op: record.Release, Resource: resource, Epoch: epoch, Member: n.self(), Boot: n.boot, Prefer: prefer, Why: why}, answer)
}

func (n *node) startVrrpd() {
	n.boot++
	old := n.known
	n.vrrpd, n.known, n.holding, n.until, n.report = true, 0, 0, 0, report{}
	// What its log holds is committed as far as the leader says; before that it knows what a snapshot says.
	n.learn(max(1, old-n.s.r.Intn(8)))
	n.catchUp()
	if n.agentUp {
		n.toAgent(core.Attached{})
	}
}

// catchUp brings the node to the newest record now and then, as heartbeats do.
func (n *node) catchUp() {
	boot := n.boot
	n.s.at(n.s.r.Between(30*time.Millisecond, 100*time.Millisecond), func() {
		if n.boot != boot || !n.vrrpd || !n.up {
			return
		}
		if n.s.reach(n) {
			v := len(n.s.versions)
			n.s.at(n.lag(), func() { n.learn(v) })
			// A record that names a former run of ours is released.
			if r := n.s.record(); r.Holder == n.self() && (r.Phase == record.Granted || r.Phase == record.Active) && (r.HolderBoot != n.boot || r.Epoch <= n.burnt) && n.s.r.Chance(0.3) {
				n.s.propose(n, record.Command{Op: record.Release, Resource: resource, Epoch: r.Epoch, Member: n.self(), Boot: n.boot, Why: "of a former run"}, func(error, bool) {})
			}
		}
		n.catchUp()
	})
}

// view is what vrrpd shows.
func (n *node) view(v int) core.View {
	r := n.s.versions[v-1]
	out := core.View{SystemID: r.SystemID, Epoch: r.Epoch, Phase: core.Phase(r.Phase), Timeline: r.TLI, Paused: r.Paused, SyncNum: r.SyncNum, MinCopies: r.MinCopies,
		Mine: r.Holds(n.name, n.boot), Rule: core.Rule{Holder: r.Rule.Holder.Node, Version: r.RuleVer}}
	if r.Phase == record.Granted || r.Phase == record.Active {
		out.Holder = r.Holder.Node
	}
	for _, m := range r.Rule.S {
		out.Rule.S = append(out.Rule.S, m.Node)
	}
	for _, m := range r.Rule.Members() {
		if n.s.node(m.Node).joined != m.Incarnation {
			out.Rule.Gone = append(out.Rule.Gone, m.Node)
		}
	}
	for _, t := range r.Ledger {
		out.Ledger = append(out.Ledger, core.Timeline(t))
	}
	if out.Mine && n.holding == r.Epoch && n.until > n.s.now {
		out.Live, out.Deadline = true, time.Duration(n.until)
	}
	return n.s.plant.view(n, out)
}

func (n *node) show() {
	if n.known > 0 && n.agentUp {
		n.toAgent(n.view(n.known))
	}
}

// report is what a node's vrrpd tells the coordinator.
type report struct {
	epoch  uint64
	pos    core.Position
	system uint64
}

// coordinate is the coordinator, which never dies here: it holds no right.
func (s *Sim) coordinate() {
	s.at(s.r.Between(3*time.Millisecond, 15*time.Millisecond), s.coordinate)
	r := s.record()
	if s.outage || r.Paused {
		return
	}
	contact := func(n *node) bool { return s.reach(n) && n.agentUp && n.pausedUntil <= s.now && r.Rule.Has(n.self()) }
	switch r.Phase {
	case record.Released:
		if slices.ContainsFunc(s.nodes, contact) {
			_ = s.apply(record.Command{Op: record.Begin, Resource: resource, Epoch: r.Epoch + 1, Cause: record.ByRelease, Why: r.Why})
		}
	case record.Granted, record.Active:
		h := s.node(r.Holder.Node)
		until := h.until
		if h.holding != r.Epoch {
			until = 0
		}
		if h.holding != r.Epoch && h.boot == r.HolderBoot && h.burnt < r.Epoch && s.now-s.grantedAt < int64(lease) {
			return // it does not know yet
		}
		if until+int64(30*time.Millisecond) < s.now && s.now-s.grantedAt > int64(lease) && slices.ContainsFunc(s.nodes, contact) {
			s.seals++
			if s.seals > 3 { // the voters are asked
				s.seals = 0
				_ = s.apply(record.Command{Op: record.Begin, Resource: resource, Epoch: r.Epoch + 1, Cause: record.BySeals, Why: "no renewal"})
			}
			return
		}
		s.seals = 0
	case record.Electing:
		s.elect(r, contact)
	}
}

func (s *Sim) elect(r *record.Resource, contact func(*node) bool) {
	var best *node
	missing := false
	rank := func(n *node) int {
		switch {
		case slices.Contains(s.failed, n):
			return 0
		case n.name == r.Prefer:
			return 2
		}
		return 1
	}
	for _, n := range s.nodes {
		if !contact(n) || !n.eligible {
			continue
		}
		if n.report.epoch != r.Epoch || n.report.system != system {
			missing = true
			continue
		}
		better := best == nil
		if !better {
			a, b := n.report.pos, best.report.pos
			switch {
			case rank(n) != rank(best):
				better = rank(n) > rank(best)
			case a.TLI != b.TLI:
				better = a.TLI > b.TLI
			default:
				better = a.LSN > b.LSN
			}
		}
		if better {
			best = n
		}
	}
	if best == nil {
		s.firstAt = 0
		return
	}
	if s.firstAt == 0 {
		s.firstAt = s.now
	}
	if missing && best.name != r.Prefer && s.now < s.firstAt+int64(20*time.Millisecond) {
		return
	}
	s.firstAt, s.grantedAt = 0, s.now
	if !slices.Contains(s.failed, best) {
		s.failed = append(s.failed, best)
	}
	_ = s.apply(record.Command{Op: record.Grant, Resource: resource, Epoch: r.Epoch, Member: best.self(), Boot: best.boot, Hold: lease,
		TLI: max(r.LastTimeline(), best.report.pos.TLI) + 1, Why: r.Why})
}
