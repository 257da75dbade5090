package sim

import (
	"errors"
	"hash/fnv"
	"slices"
	"time"

	"pgvrrp/internal/quorum/lease"
	"pgvrrp/internal/quorum/record"
	"pgvrrp/test/sim/seeded"
)

// The log is an oracle: one linearizable list of commands, with the outcomes that Raft can give. A leader is elected by a majority
// that it reaches and whose logs are no newer than its own; it commits while it reaches a majority; a deposed one believes in
// itself for a while. What a leader has taken and not committed is there or not when the next one is elected. A submitter may
// get an error for a command that is committed.

var (
	errDisk    = errors.New("input/output error")
	errLeader  = errors.New("not the leader")
	errUnknown = errors.New("no answer: the outcome is unknown")
)

// config is one membership in the log.
type config struct {
	term      uint64
	id        lease.Config
	voters    []int // by place in Sim.voters
	names     []string
	committed bool
	parent    *config
}

func (c *config) majority() int { return len(c.voters)/2 + 1 }

func (c *config) has(v *voter) bool { return slices.Contains(c.voters, v.k) }

// newer is by the place in the log.
func (c *config) newer(o *config) bool {
	if o == nil {
		return true
	}
	return c.term > o.term || c.term == o.term && c.id.Index > o.id.Index
}

func (s *Sim) newConfig(voters []int, parent *config) *config {
	c := &config{term: s.term, voters: voters, parent: parent}
	h := fnv.New64a()
	for _, k := range voters {
		c.names = append(c.names, s.voters[k].name)
		_, _ = h.Write([]byte(s.voters[k].name + " "))
	}
	// An entry that is cut off leaves its index to another one.
	c.id = lease.Config{Index: s.index + 1, Digest: h.Sum64()}
	return c
}

// entry is a command that a leader has taken.
type entry struct {
	cmd   record.Command
	reply func(error)
	at    int64
}

// proposal is one Submit of a machine. It has one outcome for the submitter, whatever happens in the log.
type proposal struct {
	h    *host
	run  uint64
	m    machine
	slot int
	done bool
}

func (s *Sim) outcome(p *proposal, err error) {
	if p.done || p.h.run != p.run {
		return
	}
	p.done = true
	p.h.push(item{m: p.m, slot: p.slot, ev: lease.Event{Kind: lease.Submitted, Err: err}})
	p.h.work()
}

// submit takes a command to the leader: the coordinator's own log takes it, a holder asks whom it believes to lead.
func (s *Sim) submit(h *host, m machine, slot int, cmd record.Command) {
	p := &proposal{h: h, run: h.run, m: m, slot: slot}
	to := h.ids[slot]
	if m == theHolder {
		to = s.leader
		if to == nil || s.r.Chance(0.05) {
			to = nil
			for _, v := range s.voters {
				if v.leads && (to == nil || s.r.Chance(0.5)) {
					to = v
				}
			}
		}
	}
	s.at(time.Second, func() { s.outcome(p, errUnknown) })
	if to == nil {
		s.at(s.r.Between(time.Millisecond, 300*time.Millisecond), func() { s.outcome(p, errLeader) })
		return
	}
	there, back := s.trip(h, to.h)
	if there < 0 {
		return
	}
	s.at(there, func() {
		if !to.h.up || to.h.paused() {
			return
		}
		s.propose(to, cmd, func(err error) {
			if back >= 0 && s.linked(to.h, h) {
				s.at(back, func() { s.outcome(p, err) })
			}
		})
	})
}

// trip is the time to another host and back by TCP: it is slow rather than lossy. Negative: no answer comes.
func (s *Sim) trip(a, b *host) (there, back time.Duration) {
	if a == b {
		return 10 * time.Microsecond, 10 * time.Microsecond
	}
	there, back = s.r.Between(100*time.Microsecond, 2*time.Millisecond), s.r.Between(100*time.Microsecond, 2*time.Millisecond)
	if s.r.Chance(0.02) {
		there += s.r.Between(0, 600*time.Millisecond)
	}
	if s.r.Chance(0.02) {
		back += s.r.Between(0, 600*time.Millisecond)
	}
	if !s.linked(a, b) {
		return -1, -1
	}
	if !s.linked(b, a) || s.chaos && s.r.Chance(0.02) {
		back = -1
	}
	return there, back
}

// propose is a command at v, which may lead.
func (s *Sim) propose(v *voter, cmd record.Command, reply func(error)) {
	switch {
	case !v.leads:
		reply(errLeader)
	case v != s.leader:
		// Deposed, and doesn't know it: nothing of it is ever committed.
		s.at(s.r.Between(0, 400*time.Millisecond), func() { reply(errLeader) })
	default:
		s.pending = append(s.pending, entry{cmd, reply, s.now})
		term := s.term
		d := s.r.Between(time.Millisecond, s.profile.commit)
		if v.h.slowDisk {
			d = s.r.Between(5*time.Millisecond, 500*time.Millisecond)
		}
		s.at(d, func() {
			if s.term == term && s.leader == v && s.reaches(v) {
				s.commit()
			}
		})
	}
}

// reachable reports whether v answers Raft's calls of leader.
func (s *Sim) reachable(leader, v *voter) bool {
	return !v.empty && v.h.up && !v.h.paused() && s.linked(leader.h, v.h) && s.linked(v.h, leader.h)
}

// reaches reports whether v commits: a majority of its newest membership answers it and has its log.
func (s *Sim) reaches(v *voter) bool {
	if !v.h.up || v.h.paused() || v.empty {
		return false
	}
	n := 0
	for _, k := range v.cfg.voters {
		if s.reachable(v, s.voters[k]) {
			n++
		}
	}
	return n >= v.cfg.majority()
}

// commit applies what the leader has taken.
func (s *Sim) commit() {
	all := s.pending
	s.pending = nil
	for _, e := range all {
		s.apply(e)
	}
}

func (s *Sim) apply(e entry) {
	s.index++
	before := s.state.Get(resource)
	err := s.state.Apply(s.index, e.cmd)
	if s.tracing() {
		s.trace("log %d: %v: %v", s.index, e.cmd, err)
	}
	if err == nil {
		r := s.state.Get(resource)
		s.versions = append(s.versions, r)
		s.applied(before, r, e.cmd)
		s.spread()
	}
	e.reply(err)
}

// spread tells the voters of a new record: the leader at once, others soon or with a heartbeat, and by a Push.
func (s *Sim) spread() {
	l := s.leader
	if l == nil || !l.h.up {
		return
	}
	n := len(s.versions)
	for _, v := range s.voters {
		switch {
		case v == l:
			s.at(s.r.Between(50*time.Microsecond, time.Millisecond), func() { s.learns(v, n) })
		case !v.empty && s.reachable(l, v) && s.r.Chance(0.6):
			s.at(s.r.Between(200*time.Microsecond, s.profile.apply), func() { s.learns(v, n) })
		}
	}
	if !s.r.Chance(s.profile.push) {
		return
	}
	m := &lease.Message{Kind: lease.Push, Resource: resource, Epoch: uint64(n)}
	s.send(l, lease.Everyone, m)
}

// learns brings v to version n.
func (s *Sim) learns(v *voter, n int) {
	if v.empty || !v.h.up || n <= v.known {
		return
	}
	v.known = n
	v.h.learn(v)
	v.h.work()
}

// heartbeat is the leader's: it brings logs, memberships and commits to whom it reaches, and it takes decisions about members.
func (s *Sim) heartbeat() {
	s.at(s.r.Between(30*time.Millisecond, 60*time.Millisecond), s.heartbeat)
	l := s.leader
	if l == nil {
		if s.now >= s.electAt {
			s.elect(nil)
		}
		return
	}
	if !s.reaches(l) {
		if s.lost == 0 {
			s.lost = s.now
		}
		if s.now-s.lost > int64(300*time.Millisecond) {
			s.depose()
			s.electAt = s.now + int64(s.r.Between(50*time.Millisecond, 500*time.Millisecond))
		}
		return
	}
	s.lost = 0
	if len(s.pending) > 0 && s.now-s.pending[0].at > int64(time.Millisecond) {
		s.commit()
	}
	n := len(s.versions)
	for _, v := range s.voters {
		if v == l || v.empty && !v.gone || !l.cfg.has(v) || !v.h.up || !s.linked(l.h, v.h) {
			continue
		}
		term := s.term
		s.at(s.r.Between(100*time.Microsecond, 2*time.Millisecond), func() {
			if s.leader != l || s.term != term || !v.h.up || v.h.paused() || !s.linked(l.h, v.h) || !l.cfg.has(v) {
				return
			}
			s.append(l, v)
			lag := time.Duration(0)
			if s.r.Chance(s.profile.lag) {
				lag = s.r.Between(0, s.profile.lagged)
			}
			if v.known < n {
				s.at(lag, func() { s.learns(v, n) })
			}
		})
	}
	s.members(l)
}

// append brings v's log to the leader's.
func (s *Sim) append(l, v *voter) {
	if v.empty {
		if !v.gone {
			return
		}
		v.empty, v.gone = false, false
	}
	if v.cfg != l.cfg {
		v.cfg, v.committed = l.cfg, false
		v.h.configured(v)
	}
	if s.linked(v.h, l.h) {
		s.countConfig(l)
	}
	if l.cfg.committed && !v.committed {
		v.committed = true
		v.h.configured(v)
	}
	v.h.work()
}

// countConfig commits the leader's membership once a majority of it has it.
func (s *Sim) countConfig(l *voter) {
	c := l.cfg
	if c.committed || s.leader != l {
		return
	}
	n := 0
	for _, k := range c.voters {
		if s.voters[k].cfg == c {
			n++
		}
	}
	if n < c.majority() {
		return
	}
	c.committed = true
	s.index++
	s.res.Changes++
	s.trace("membership %v committed", c.names)
	l.committed = true
	l.h.configured(l)
	l.h.work()
	for _, v := range s.voters {
		if v.empty && !c.has(v) {
			v.gone = true
		}
	}
}

// members proposes the next membership: an emptied voter goes, and comes back new.
func (s *Sim) members(l *voter) {
	if !l.cfg.committed || !l.leads || s.busyLog() {
		return
	}
	n := 0
	for _, k := range l.cfg.voters {
		if s.voters[k].cfg == l.cfg {
			n++
		}
	}
	if n < l.cfg.majority() {
		return // its own term has nothing committed yet
	}
	for _, v := range s.voters {
		if v.empty && l.cfg.has(v) {
			s.change(l, v)
			return
		}
	}
	for _, v := range s.voters {
		if !l.cfg.has(v) && v.h.up && (v.gone || !v.empty) && (!s.chaos || s.r.Chance(s.profile.readd)) {
			s.change(l, v)
			return
		}
	}
	if s.chaos && s.churn > 0 && len(l.cfg.voters) > 2 {
		s.churn--
		if v := s.voters[seeded.Pick(&s.r, l.cfg.voters...)]; v != l {
			s.change(l, v)
		}
	}
}

// busyLog reports whether a command is on its way: memberships wait for it, as the leader does both.
func (s *Sim) busyLog() bool { return len(s.pending) > 0 }

// change removes or adds v.
func (s *Sim) change(l, v *voter) {
	var voters []int
	for _, k := range l.cfg.voters {
		if k != v.k {
			voters = append(voters, k)
		}
	}
	if !l.cfg.has(v) {
		voters = append(voters, v.k)
		slices.Sort(voters)
	}
	c := s.newConfig(voters, l.cfg)
	l.cfg, l.committed = c, false
	s.trace("%s proposes %v", l.name, c.names)
	l.h.configured(l)
	l.h.work()
	// The others get it now and not with the next heartbeat.
	for _, k := range voters {
		w := s.voters[k]
		if w == l || w.empty && !w.gone || !w.h.up || !s.linked(l.h, w.h) {
			continue
		}
		term := s.term
		s.at(s.r.Between(100*time.Microsecond, 5*time.Millisecond), func() {
			if s.leader == l && s.term == term && l.cfg == c && w.h.up && !w.h.paused() && s.linked(l.h, w.h) {
				s.append(l, w)
			}
		})
	}
	s.countConfig(l)
}

// depose ends the leadership; the leader itself may learn of it later.
func (s *Sim) depose() {
	l := s.leader
	if l == nil {
		return
	}
	s.trace("%s leads no longer", l.name)
	s.leader, s.lost = nil, 0
	run, term := l.h.run, l.term
	var d time.Duration
	if s.r.Chance(0.5) {
		d = s.r.Between(0, 400*time.Millisecond)
	}
	s.at(d, func() {
		if l.h.run == run && l.term == term {
			s.resign(l)
		}
	})
}

func (s *Sim) resign(v *voter) {
	v.leads = false
	v.h.push(item{m: theCoordinator, slot: v.slot, ev: lease.Event{Kind: lease.Leading}})
	v.h.work()
}

// elect makes a leader of somebody who can be; not of but.
func (s *Sim) elect(but *voter) {
	var can []*voter
	for _, v := range s.voters {
		if v != but && s.electable(v) {
			can = append(can, v)
		}
	}
	if len(can) == 0 {
		s.electAt = s.now + int64(100*time.Millisecond)
		return
	}
	v := seeded.Pick(&s.r, can...)
	s.term++
	s.index++ // its no-op
	s.leader, s.lost, v.term = v, 0, s.term
	s.trace("%s leads in term %d", v.name, s.term)
	// What the last one took is in this one's log or isn't.
	pending := s.pending
	s.pending = nil
	for _, e := range pending {
		if s.r.Chance(0.5) {
			reply := e.reply
			if s.r.Chance(0.5) {
				e.reply = func(error) { reply(errUnknown) }
			}
			s.apply(e)
		} else {
			e.reply(errUnknown)
		}
	}
	v.known = len(s.versions)
	v.h.learn(v)
	v.committed = false
	s.countConfig(v)
	run, term := v.h.run, s.term
	s.at(s.r.Between(time.Millisecond, 6*time.Millisecond), func() {
		if v.h.run != run || s.term != term || s.leader != v {
			return
		}
		v.leads = true
		if v.cfg.committed && !v.committed {
			v.committed = true
			v.h.configured(v)
		}
		v.h.push(item{m: theCoordinator, slot: v.slot, ev: lease.Event{Kind: lease.Leading, On: true}})
		v.h.work()
	})
}

// electable: a majority of v's membership reaches it and has no newer log.
func (s *Sim) electable(v *voter) bool {
	if v.empty || v.cfg == nil || !v.h.up || v.h.paused() || !v.cfg.has(v) {
		return false
	}
	votes := 0
	for _, k := range v.cfg.voters {
		w := s.voters[k]
		if w == v || s.reachable(v, w) && !(w.cfg != nil && v.cfg != w.cfg && w.cfg.newer(v.cfg)) {
			votes++
		}
	}
	return votes >= v.cfg.majority()
}
