package data

import (
	"fmt"
	"io"
	"slices"
	"time"

	"pgvrrp/internal/agent/core"
	"pgvrrp/internal/quorum/record"
	"pgvrrp/test/sim/seeded"
)

const (
	resource = "pg"
	system   = 4711
)

// Options choose what a seed does not.
type Options struct {
	Chaos   time.Duration // faults for so long; default 20 s
	Heal    time.Duration // and so long at most until every node streams again; default 90 s
	Plant   Plant
	Profile string    // of faults; default: by seed
	Trace   io.Writer // a line for each thing that matters
}

// Result is what came of one seed.
type Result struct {
	Seed    uint64
	Profile string
	Err     error // the first broken invariant
	At      time.Duration
	Events  int
	Epochs  uint64
	Acked   int
	Grown   int // standbys that entered the rule
	Rewinds int
	Clones  int
	Kept    int // grants to a running primary
	Healed  time.Duration
}

// String is the result in a line.
func (r Result) String() string {
	s := fmt.Sprintf("seed %d %s: %d epochs, %d commits, %d grown, %d rewinds, %d clones, %d kept, healed in %v", r.Seed, r.Profile, r.Epochs, r.Acked, r.Grown, r.Rewinds,
		r.Clones, r.Kept, r.Healed)
	if r.Err != nil {
		s += fmt.Sprintf(": at %v: %v", r.At, r.Err)
	}
	return s
}

// Sim is one run.
type Sim struct {
	r       seeded.Random
	q       seeded.Queue[func()]
	now     int64
	o       Options
	plant   Plant
	profile profile
	res     Result
	nodes   []*node
	cuts    [3][3]bool
	chaos   bool
	healed  bool
	robbed  bool // a disk was lost, with its copies

	state    record.State
	index    uint64
	versions []*record.Resource
	outage   bool

	ids    uint32 // of records
	pms    uint64
	acked  []*commit
	used   map[uint32]*promotion
	promos []*promotion
	ended  bool
	probe  *commit

	// the coordinator
	seals     int
	firstAt   int64
	grantedAt int64
	failed    []*node
}

// promotion is one end of recovery.
type promotion struct {
	epoch uint64
	node  *node
	tli   uint32
	path  wal
	at    int
}

// contains reports whether k is below the switch points that lead to the promotion's timeline.
func (p *promotion) contains(k *commit) bool {
	if k.r.tli == p.tli {
		return true
	}
	at, ok := forkAt(&p.path, k.r.tli)
	return ok && k.at < at
}

// Run plays a seed.
func Run(seed uint64, o Options) Result {
	s := &Sim{r: seeded.Random(seed * 0x9e3779b97f4a7c15), o: o, plant: o.Plant, used: map[uint32]*promotion{}, chaos: true}
	s.res.Seed = seed
	if s.o.Chaos == 0 {
		s.o.Chaos = 20 * time.Second
	}
	if s.o.Heal == 0 {
		s.o.Heal = 90 * time.Second
	}
	s.setup()
	end := int64(s.o.Chaos + s.o.Heal)
	for s.res.Err == nil && !s.ended && s.q.Len() > 0 {
		at, do := s.q.Pop()
		if at > end {
			s.now = end
			s.fail("I7: %v after all faults have healed not every node streams: %s", s.o.Heal, s.why())
			break
		}
		s.now = at
		if s.res.Events++; s.res.Events > 3_000_000 {
			s.fail("the machines don't come to rest")
		}
		do()
	}
	s.res.Epochs = s.versions[len(s.versions)-1].Epoch
	return s.res
}

func (s *Sim) at(d time.Duration, f func()) { s.q.Push(s.now+int64(d), f) }

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
	s.profile = s.chooseProfile()
	s.res.Profile = s.profile.name
	for k := range 3 {
		n := &node{s: s, k: k, name: fmt.Sprintf("n%d", k+1), up: true, vrrpd: true, incarnation: 1, log: true}
		n.disk.files = map[uint32]bool{}
		n.joined = n.self().Incarnation
		s.nodes = append(s.nodes, n)
	}
	first := s.nodes[s.r.Intn(3)]
	for range 5 {
		s.ids++
		first.disk.wal.add(rec{1, s.ids})
	}
	first.disk.durable, first.disk.system = 5, system
	for _, n := range s.nodes {
		if n == first {
			continue
		}
		if s.r.Chance(0.5) {
			n.disk.none = true
			continue
		}
		n.disk.wal.copyOf(&first.disk.wal, 5)
		n.disk.durable, n.disk.system = 5, system
	}
	// The servers run already, or don't, as their user left them.
	first.startPG()
	first.pg.primary, first.pg.answering, first.pg.ready = true, true, true
	for _, n := range s.nodes {
		if n != first && !n.disk.none && s.r.Chance(0.5) {
			n.disk.file.conninfo = first.name
			n.disk.synced = n.disk.file
			n.startPG()
		}
	}
	syncNum, copies := seeded.Pick(&s.r, 2, 2, 2, 1), seeded.Pick(&s.r, 1, 1, 1, 2)
	s.index = 1
	err := s.state.Apply(1, record.Command{Op: record.Init, Resource: resource, Kind: record.PostgreSQL, SystemID: system, Rule: record.Rule{Holder: first.self()},
		SyncNum: syncNum, MinCopies: copies})
	if err != nil {
		s.fail("init: %v", err)
	}
	s.versions = append(s.versions, s.state.Get(resource))
	for _, n := range s.nodes {
		n.startVrrpd()
		n.startAgent()
	}
	s.at(10*time.Millisecond, s.coordinate)
	for _, n := range s.nodes {
		s.at(s.r.Between(0, 20*time.Millisecond), n.client)
	}
	s.schedule()
}

func (s *Sim) node(name string) *node {
	for _, n := range s.nodes {
		if n.name == name {
			return n
		}
	}
	return nil
}

func (s *Sim) linked(a, b *node) bool { return a == b || a.up && b.up && !s.cuts[a.k][b.k] }

func (s *Sim) record() *record.Resource { return s.versions[len(s.versions)-1] }

// client keeps commits coming on whatever runs as a primary.
func (n *node) client() {
	s := n.s
	every := s.r.Between(2*time.Millisecond, 30*time.Millisecond)
	if s.r.Chance(0.02) {
		every = s.r.Between(0, 3*time.Second) // a quiet time
	}
	s.at(every, n.client)
	if !n.up || n.pg.pm == 0 || !n.pg.primary || !n.pg.answering || n.pg.closing || len(n.pg.waiting) > 20 {
		return
	}
	k := &commit{epoch: n.activated}
	n.write(k)
	if s.healed && s.probe == nil && n.vip == s.record().Epoch {
		s.probe = k
	}
}

// ack tells a client that its commit is safe.
func (s *Sim) ack(n *node, k *commit) {
	if k.acked {
		return
	}
	k.acked, k.epoch = true, n.activated
	s.acked = append(s.acked, k)
	s.res.Acked++
	if !n.disk.wal.has(k.at, k.r) {
		s.fail("%s acknowledges a commit that it does not have", n.name)
	}
	for _, p := range s.promos {
		if p.epoch > k.epoch && !p.contains(k) {
			s.fail("I4: %s acknowledges in epoch %d commit %d at %d of timeline %d; %s was promoted in epoch %d to timeline %d without it", n.name, k.epoch, k.r.id, k.at, k.r.tli,
				p.node.name, p.epoch, p.tli)
		}
	}
	copies := 0
	for _, x := range s.nodes {
		if x.holds(k) {
			copies++
		}
	}
	if !s.robbed && copies < s.record().MinCopies && n.vip == s.record().Epoch && k.epoch == n.vip {
		s.fail("I9: %s acknowledges commit %d, which is on %d nodes and should be on %d", n.name, k.r.id, copies, s.record().MinCopies)
	}
	for _, m := range s.record().Rule.Members() {
		if x := s.node(m.Node); x.self() == m && !x.holds(k) {
			s.fail("I8: %s acknowledges commit %d at %d of timeline %d, and %s of the rule %v does not have it", n.name, k.r.id, k.at, k.r.tli, x.name, s.record().Rule)
		}
	}
}

// holds reports whether n's disk has k.
func (n *node) holds(k *commit) bool {
	return !n.disk.none && !n.disk.garbage && !n.disk.broken() && k.at < n.disk.durable && n.disk.wal.has(k.at, k.r)
}

// lacks is an acknowledged commit that n does not have; nil if it has them all.
func (s *Sim) lacks(n *node) *commit {
	for _, k := range s.acked {
		if !n.holds(k) {
			return k
		}
	}
	return nil
}

// checkHas is I8 for one node, whose disk has just changed.
func (s *Sim) checkHas(n *node, when string) {
	if r := s.record(); r.Rule.Has(n.self()) {
		if k := s.lacks(n); k != nil {
			s.fail("I8: %s lacks commit %d at %d of timeline %d %s, and is in the rule %v", n.name, k.r.id, k.at, k.r.tli, when, r.Rule)
		}
	}
}

// checkRule is I8 for a new rule.
func (s *Sim) checkRule() {
	r := s.record()
	for _, m := range r.Rule.Members() {
		x := s.node(m.Node)
		if x.self() != m {
			continue
		}
		if k := s.lacks(x); k != nil {
			s.fail("I8: the rule became %v, and %s lacks commit %d at %d of timeline %d", r.Rule, x.name, k.r.id, k.at, k.r.tli)
		}
	}
}

// checkSSN is I5: what the active holder's server runs is the logged rule or stricter.
func (s *Sim) checkSSN() {
	r := s.record()
	if r.Phase != record.Active {
		return
	}
	n := s.node(r.Holder.Node)
	if n.pg.pm == 0 || !n.pg.primary || n.activated != r.Epoch || n.self() != r.Holder {
		return
	}
	var names []string
	for _, m := range r.Rule.S {
		names = append(names, m.Node)
	}
	if !n.pg.conf.ssn.Covers(names) {
		s.fail("I5: %s runs %q, looser than the logged rule %v", n.name, n.pg.conf.ssn, r.Rule)
	}
}

// promoted looks at the end of a recovery: I3 and I6.
func (s *Sim) promoted(n *node, epoch uint64) {
	w := &n.disk.wal
	p := &promotion{epoch: epoch, node: n, tli: w.tli(), path: wal{forks: slices.Clone(w.forks)}, at: len(w.recs)}
	if o := s.used[p.tli]; o != nil {
		s.fail("I6: timeline %d was used by %s in epoch %d, and now by %s in epoch %d", p.tli, o.node.name, o.epoch, n.name, epoch)
	}
	s.used[p.tli] = p
	s.promos = append(s.promos, p)
	for _, k := range s.acked {
		if k.epoch < epoch && !n.holds(k) {
			s.fail("I3: %s is promoted in epoch %d without commit %d at %d of timeline %d, acknowledged in epoch %d", n.name, epoch, k.r.id, k.at, k.r.tli, k.epoch)
			return
		}
	}
}

// why says what is not well after the heal; "" if all is.
func (s *Sim) why() string {
	r := s.record()
	if r.Phase != record.Active {
		return fmt.Sprintf("epoch %d is %v", r.Epoch, r.Phase)
	}
	h := s.node(r.Holder.Node)
	if !h.pg.primary || h.vip != r.Epoch {
		return fmt.Sprintf("%s does not serve epoch %d", h.name, r.Epoch)
	}
	for _, n := range s.nodes {
		if n == h {
			continue
		}
		c := n.pg.receiver
		if c == nil || c.up != h || !c.open() || c.stuck || !n.pg.answering {
			return fmt.Sprintf("%s does not stream from %s: %v", n.name, h.name, n.explain())
		}
		if n.marker != core.NoMarker {
			return fmt.Sprintf("%s has the marker %s", n.name, n.marker)
		}
	}
	if len(r.Rule.S) == 0 {
		return "nobody is in the rule"
	}
	if s.probe == nil || !s.probe.acked {
		return "no commit was acknowledged since"
	}
	return ""
}

// settle ends the run once all is well.
func (s *Sim) settle() {
	if s.why() == "" {
		s.res.Healed = time.Duration(s.now) - s.o.Chaos
		s.ended = true
		return
	}
	if s.probe != nil && !s.probe.acked {
		if h := s.node(s.record().Holder.Node); h == nil || !slices.Contains(h.pg.waiting, s.probe) {
			s.probe = nil // its server went
		}
	}
	s.at(50*time.Millisecond, s.settle)
}
