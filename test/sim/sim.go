package sim

import (
	"fmt"
	"io"
	"net/netip"
	"time"

	"pgvrrp/internal/quorum/lease"
	"pgvrrp/internal/quorum/record"
	"pgvrrp/internal/vrrp"
	"pgvrrp/test/clock"
	"pgvrrp/test/sim/seeded"
)

const resource = "main"

// Topology is which hosts there are.
type Topology string

// The topologies.
const (
	A Topology = "A" // three data nodes, two witnesses
	B Topology = "B" // three data nodes, one witness with two votes
	D Topology = "D" // two data nodes, one witness
)

// Options choose what a seed does not.
type Options struct {
	Length   time.Duration // virtual; default a minute
	Topology Topology      // default: by seed
	Policy   lease.Policy  // default: by seed
	Plant    Plant
	Profile  string    // of faults; default: by seed
	Trace    io.Writer // a line for each thing that matters
	Steady   bool      // nobody sets the wall clocks

	script func(*Sim) // in the place of the profile's faults
}

// Result is what came of one seed.
type Result struct {
	Seed     uint64
	Topology Topology
	Policy   lease.Policy
	Profile  string
	Err      error // the first broken invariant
	At       time.Duration
	Grants   int           // epochs granted
	Held     time.Duration // for how long a host answered
	Frozen   int           // extensions without a majority
	Changes  int           // memberships committed
	Excused  int           // heals without a holder, because nobody of the rule was there
	Missing  string        // what the leader said of the last such
	Events   int
}

// Sim is one run.
type Sim struct {
	r       seeded.Random
	q       seeded.Queue[event]
	now     int64
	o       Options
	plant   Plant
	profile profile
	params  lease.Params // of voters, candidates and coordinators
	real    lease.Params // of the holders
	policy  lease.Policy
	res     Result

	hosts  []*host
	voters []*voter
	links  []bool // cut, by from*len(hosts)+to
	chaos  bool
	churn  int

	// the log
	state    record.State
	index    uint64
	term     uint64
	versions []*record.Resource
	leader   *voter
	pending  []entry
	electAt  int64
	lost     int64

	free     []*packet
	winners  map[uint64]record.Resource
	sealed   uint64 // the highest epoch that ended by seals
	since    int64
	grace    int64 // a gap that is no failure, at the end of a quiet
	answered int64 // the last instant at which somebody answered
}

// packet is a datagram on its way.
type packet struct {
	from, to *voter // of a message
	m        lease.Message
	advert   bool
	priority uint8
	src, dst *host
}

func source(k int) netip.Addr { return netip.AddrFrom4([4]byte{10, 0, 0, byte(k + 1)}) }

// Run plays a seed.
func Run(seed uint64, o Options) Result {
	s := &Sim{r: seeded.Random(seed * 0x9e3779b97f4a7c15), o: o, plant: o.Plant, winners: map[uint64]record.Resource{}}
	s.res.Seed = seed
	if s.o.Length == 0 {
		s.o.Length = time.Minute
	}
	s.setup()
	for s.res.Err == nil && s.q.Len() > 0 {
		at, ev := s.q.Pop()
		if at > int64(s.o.Length) {
			break
		}
		if s.since != 0 {
			s.res.Held += time.Duration(at - s.now)
		}
		s.now = at
		s.res.Events++
		switch {
		case ev.h != nil:
			if ev.h.run == ev.run {
				ev.h.timer()
			}
		case ev.pkt != nil:
			s.arrive(ev.pkt)
		default:
			ev.fn()
		}
		s.check()
	}
	return s.res
}

// event is something that happens. The two frequent kinds have no closure.
type event struct {
	h   *host // a timer, of its run
	run uint64
	pkt *packet
	fn  func()
}

func (s *Sim) at(d time.Duration, f func()) { s.q.Push(s.now+int64(d), event{fn: f}) }

func (s *Sim) tracing() bool { return s.o.Trace != nil }

func (s *Sim) trace(format string, args ...any) {
	if s.o.Trace != nil {
		fmt.Fprintf(s.o.Trace, "%12v "+format+"\n", append([]any{time.Duration(s.now)}, args...)...)
	}
}

func (s *Sim) fail(format string, args ...any) {
	if s.res.Err == nil {
		s.res.Err, s.res.At = fmt.Errorf(format, args...), time.Duration(s.now)
		s.trace("FAILED: %v", s.res.Err)
	}
}

func (s *Sim) setup() {
	s.res.Topology = s.o.Topology
	if s.res.Topology == "" {
		s.res.Topology = seeded.Pick(&s.r, A, A, B, D)
	}
	s.policy = s.o.Policy
	if s.policy == "" {
		s.policy = seeded.Pick(&s.r, lease.Freeze, lease.Freeze, lease.Stop)
	}
	s.res.Policy = s.policy
	s.profile = profileOf(&s.r, s.o.Profile)
	s.res.Profile = s.profile.name
	s.real = lease.Defaults(400 * time.Millisecond)
	s.params = s.real
	if s.plant.NoDrift {
		s.params.Drift = 0
	}
	s.index, s.term = 1, 1

	names := map[Topology][]string{A: {"n1", "n2", "n3", "w1", "w2"}, B: {"n1", "n2", "n3", "w1"}, D: {"n1", "n2", "w1"}}[s.res.Topology]
	var members []record.Member
	lifetimes := s.r.Chance(0.15)
	s.grace = int64(2 * time.Second)
	if lifetimes {
		s.grace = int64(5 * time.Second) // what is acknowledged to a holder without a guard lasts for 2.7 s
	}
	for k, name := range names {
		h := &host{s: s, k: k, name: name, data: name[0] == 'n', powered: true, incarnation: 1, priority: uint8(100 + 10*k)}
		h.ppm = int64(s.r.Intn(20001) - 10000)
		if s.r.Chance(0.5) {
			h.ppm = int64(20000*s.r.Intn(2) - 10000)
		}
		h.late = s.r.Between(0, s.real.Margin/2)
		if h.lifetime = lifetimes && h.data && s.r.Chance(0.7); h.lifetime {
			h.late = s.r.Between(0, 2200*time.Millisecond)
		}
		if s.r.Chance(0.5) {
			h.late = s.real.Margin / 2
		}
		h.offset = s.r.Between(0, 30*24*time.Hour)
		if !s.o.Steady { // from no draw of the seed: a run has the same course with and without
			h.walls = clock.Steps{Seed: s.res.Seed<<8 + uint64(k), Every: time.Duration(500+100*k) * time.Millisecond}
		}
		s.hosts = append(s.hosts, h)
		slots := 1
		if s.res.Topology == B && !h.data {
			slots = 2
		}
		for slot := range slots {
			v := &voter{k: len(s.voters), name: name, h: h, slot: slot}
			if slot > 0 {
				v.name = fmt.Sprintf("%s/%d", name, slot+1)
			}
			h.ids = append(h.ids, v)
			s.voters = append(s.voters, v)
		}
		if h.data {
			members = append(members, h.self())
		}
	}
	s.links = make([]bool, len(s.hosts)*len(s.hosts))
	if s.profile.name == "clocks" {
		for _, h := range s.hosts {
			h.late = s.real.Margin / 2
			h.ppm = 10000
			if h.data {
				h.ppm = int64(20000*s.r.Intn(2) - 10000)
			}
		}
	}
	all := make([]int, len(s.voters))
	for k := range all {
		all[k] = k
	}
	cfg := s.newConfig(all, nil)
	cfg.committed = true
	s.index++
	for _, v := range s.voters {
		v.cfg, v.committed = cfg, true
	}
	s.pending = append(s.pending, entry{cmd: record.Command{Op: record.Init, Resource: resource, Kind: record.Plain, Rule: record.Rule{S: members}}, reply: func(error) {}})
	s.commit()
	for _, h := range s.hosts {
		s.at(s.r.Between(0, 300*time.Millisecond), h.start)
	}
	s.electAt = int64(400 * time.Millisecond)
	s.at(0, s.heartbeat)
	if s.o.script != nil {
		s.o.script(s)
		return
	}
	s.schedule()
}

func (s *Sim) linked(a, b *host) bool { return a == b || !s.links[a.k*len(s.hosts)+b.k] }

// send puts a datagram of a voter on the network.
func (s *Sim) send(from *voter, to string, m *lease.Message) {
	if to == lease.Everyone {
		for _, v := range s.voters {
			s.sendTo(from, v, m)
		}
		return
	}
	for _, v := range s.voters {
		if v.name == to {
			s.sendTo(from, v, m)
		}
	}
}

func (s *Sim) sendTo(from, to *voter, m *lease.Message) {
	n := 1
	if from.h != to.h {
		if !s.linked(from.h, to.h) || s.r.Chance(s.profile.loss) {
			return
		}
		if s.r.Chance(0.01) {
			n = 2
		}
	}
	for range n {
		p := s.packet()
		p.from, p.to, p.src, p.dst = from, to, from.h, to.h
		p.m = *m
		s.q.Push(s.now+int64(s.delay(from.h, to.h)), event{pkt: p})
	}
}

func (s *Sim) delay(a, b *host) time.Duration {
	if a == b {
		return 10 * time.Microsecond
	}
	d := s.r.Between(100*time.Microsecond, s.profile.wire)
	if s.r.Chance(s.profile.late) {
		d += s.r.Between(0, 600*time.Millisecond)
	}
	return d
}

// packet is a new one: a message that was handed over may still be looked at by a process that is stopped.
func (s *Sim) packet() *packet {
	if n := len(s.free); n > 0 {
		p := s.free[n-1]
		s.free = s.free[:n-1]
		*p = packet{}
		return p
	}
	return &packet{}
}

func (s *Sim) advertise(from *host, priority uint8) {
	for _, h := range s.hosts {
		if h == from || !h.data || !s.linked(from, h) || s.r.Chance(s.profile.loss) {
			continue
		}
		p := s.packet()
		p.advert, p.priority, p.src, p.dst = true, priority, from, h
		s.q.Push(s.now+int64(s.delay(from, h)), event{pkt: p})
	}
}

func (s *Sim) arrive(p *packet) {
	h := p.dst
	if !h.up || !s.linked(p.src, h) {
		s.free = append(s.free, p)
		return
	}
	switch {
	case p.advert:
		s.plant.heard(s, p)
		h.push(item{m: theRouter, vev: vrrp.Event{Kind: vrrp.Received, From: source(p.src.k), Priority: p.priority, Interval: time.Second}})
	case p.m.Kind == lease.Push:
		if !p.to.empty {
			h.record(p.to, s.versions[p.m.Epoch-1])
		}
	case p.to.empty:
		// An empty directory answers nothing.
	case s.plant.arrive(s, p):
		h.received(p.to, p.from.name, &p.m)
	}
	h.work()
	if h.inbox.empty() && h.local.empty() {
		s.free = append(s.free, p)
	}
}

// extended looks at a lease that is prolonged.
func (s *Sim) extended(h *host, a *lease.Action) {
	_, _, by := h.holder.Deadline()
	if by != lease.ByMajority {
		s.res.Frozen++
	} else if a.Epoch <= s.sealed {
		s.fail("%s: a majority renewed epoch %d, which a majority has sealed", h.name, a.Epoch)
	}
	if w, ok := s.winners[a.Epoch]; !ok || w.Holder.Node != h.name {
		s.fail("%s is live in epoch %d, which it was never granted", h.name, a.Epoch)
	}
}

// applied looks at a change of the record.
func (s *Sim) applied(before, r *record.Resource, cmd record.Command) {
	if before == nil {
		return
	}
	if r.Epoch < before.Epoch || r.Epoch > before.Epoch+1 || r.RuleVer < before.RuleVer {
		s.fail("the record went from epoch %d to %d, rule version %d to %d", before.Epoch, r.Epoch, before.RuleVer, r.RuleVer)
	}
	switch cmd.Op {
	case record.Begin:
		if cmd.Cause == record.BySeals {
			s.sealed = before.Epoch
			for _, h := range s.hosts {
				if (h.answers() || h.live()) && h.by == lease.ByMajority && h.epoch <= s.sealed {
					s.fail("epoch %d ended by seals while %s is live in epoch %d %v", before.Epoch, h.name, h.epoch, h.by)
				}
			}
		}
	case record.Grant:
		s.res.Grants++
		if w, ok := s.winners[r.Epoch]; ok {
			s.fail("epoch %d was granted to %s and to %s", r.Epoch, w.Holder, r.Holder)
		}
		s.winners[r.Epoch] = *r
		if !before.Rule.Has(cmd.Member) {
			s.fail("epoch %d was granted to %s, which is not in the rule %v", r.Epoch, cmd.Member, before.Rule)
		}
		if r.Rule.String() != before.Rule.String() {
			s.fail("a grant changed the rule from %v to %v", before.Rule, r.Rule)
		}
		// Whoever is still live in an older epoch would be beside the new one.
		for _, h := range s.hosts {
			if h.answers() || h.live() {
				s.fail("epoch %d was granted to %s while %s is live in epoch %d %v", r.Epoch, r.Holder, h.name, h.epoch, h.by)
			}
		}
	case record.SetRule:
		if w := s.winners[r.Epoch]; w.Holder != cmd.Member {
			s.fail("%s set the rule of epoch %d, which %s holds", cmd.Member, r.Epoch, w.Holder)
		}
	}
}

// check looks at every instant that something happens at; nothing opens in between.
func (s *Sim) check() {
	var answers, live *host
	for _, h := range s.hosts {
		if !h.data || h.guard <= s.now {
			continue
		}
		if h.addr {
			if answers != nil {
				s.fail("%s (epoch %d) and %s (epoch %d) answer for the virtual address", answers.name, answers.epoch, h.name, h.epoch)
			}
			answers = h
		}
		if h.live() {
			if live != nil {
				s.fail("%s and %s are live", live.name, h.name)
			}
			live = h
		}
	}
	s.since = 0
	if answers != nil {
		s.since, s.answered = s.now, s.now
	}
}
