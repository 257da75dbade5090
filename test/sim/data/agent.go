package data

import (
	"errors"
	"slices"
	"time"

	"pgvrrp/internal/agent/core"
	"pgvrrp/internal/quorum/record"
)

// node is one host: vrrpd, the agent, PostgreSQL and a disk.
type node struct {
	s           *Sim
	k           int
	name        string
	up          bool
	power       int   // how often it lost power
	archives    int64 // until when the archiver of a server that is shut down is at work
	robbedAt    int64
	incarnation int
	joined      string // the incarnation that the voters' membership names
	disk        disk
	pg          postgres
	tries       int
	held        bool // the last SSN that was written is the hold

	// vrrpd
	vrrpd     bool
	log       bool // it reaches the voters
	boot      record.Boot
	known     int // version of the record
	holding   uint64
	granted   int64
	burnt     uint64
	until     int64 // of the lease
	report    report
	eligible  bool
	vip       uint64
	activated uint64 // the newest epoch whose first rule was ours

	// the agent
	agent       *core.Agent
	agentUp     bool
	agentGone   int64
	run         int
	queue       []core.Action
	working     bool
	cancelled   uint64
	pausedUntil int64
	pausedAt    int64
	wakes       uint64
	lastAt      int64 // of the events on their way to it the last
	leaves      []core.Action
	lastVerdict int64

	// its state directory
	promise, attempted uint64
	marker             core.Marker
	mark               core.Position
	synced             uint64 // the promise that survives a loss of power
}

func (n *node) startAgent() {
	s := n.s
	if n.agentUp || !n.up {
		return
	}
	n.run++
	n.agentUp, n.queue, n.working, n.pausedUntil, n.leaves = true, nil, false, 0, nil
	n.eligible = false
	var peers []string
	for _, p := range s.nodes {
		if p != n {
			peers = append(peers, p.name)
		}
	}
	var away core.Away
	if n.agent != nil && !s.healed { // at the end every operator says off
		was := n.agent.Away()
		away.On = was.On && !was.Shut // maintenance is on disk
	}
	n.agent = core.New(core.Options{Node: n.name, Peers: peers, OnCrash: s.profile.crash, Rewind: s.profile.rewind, Clone: true, Times: s.profile.times},
		core.Marks{Promise: n.promise, Attempted: n.attempted, Marker: n.marker, Mark: n.mark, Away: away})
	s.trace("%s: the agent starts: promise %d, attempted %d, marker %q", n.name, n.promise, n.attempted, n.marker)
	n.report = report{}
	s.at(s.r.Between(time.Millisecond, 20*time.Millisecond), n.ofRun(n.poll))
	s.at(s.r.Between(time.Millisecond, 30*time.Millisecond), n.ofRun(n.show))
	n.gossip()
}

// gossip tells the other agents again and again that this one lives.
func (n *node) gossip() {
	s := n.s
	for _, x := range s.nodes {
		if x != n && n.vrrpd && x.vrrpd && s.linked(n, x) && n.pausedUntil <= s.now {
			s.at(time.Millisecond, x.ofRun(func() { x.event(core.Heard{Node: n.name}) }))
		}
	}
	s.at(core.TellEvery, n.ofRun(n.gossip))
}

// ofRun is f unless the agent has ended meanwhile.
func (n *node) ofRun(f func()) func() {
	run := n.run
	return func() {
		if n.agentUp && n.run == run {
			f()
		}
	}
}

func (n *node) stopAgent() {
	if n.agentUp {
		n.s.trace("%s: the agent ends", n.name)
		n.agentUp, n.agentGone, n.report = false, n.s.now, report{}
		n.run++
	}
}

// poll looks at the server again and again.
func (n *node) poll() {
	f := n.facts()
	// A look takes its time: what it tells may be older than the outcome of an action that comes before it.
	n.s.at(n.s.r.Soon(100*time.Microsecond, 3*time.Millisecond, 60*time.Millisecond), n.ofRun(func() { n.event(f) }))
	n.s.at(n.s.r.Soon(15*time.Millisecond, 35*time.Millisecond, 200*time.Millisecond), n.ofRun(n.poll))
}

// toAgent delivers an event a little later, or once the agent is not stopped any more.
func (n *node) toAgent(ev core.Event) {
	if !n.agentUp {
		return
	}
	// A socket keeps the order.
	at := max(n.s.now+int64(n.s.r.Soon(50*time.Microsecond, time.Millisecond, 20*time.Millisecond)), n.lastAt+1)
	n.lastAt = at
	n.s.at(time.Duration(at-n.s.now), n.ofRun(func() { n.event(ev) }))
}

func (n *node) event(ev core.Event) {
	if n.pausedUntil > n.s.now {
		n.s.at(time.Duration(n.pausedUntil-n.s.now), n.ofRun(func() { n.event(ev) }))
		return
	}
	n.step(ev)
}

func (n *node) step(ev core.Event) {
	s := n.s
	out := slices.Clone(n.agent.Step(time.Duration(s.now), ev))
	for _, a := range out {
		if s.tracing() {
			s.trace("%s: %v", n.name, a)
		}
		if a.Kind.Call() {
			n.call(a)
		} else {
			n.queue = append(n.queue, a)
		}
	}
	n.work()
	if wake := n.agent.Wake(); wake < 1<<62 {
		n.wakes++
		mark := n.wakes
		s.at(max(wake-time.Duration(s.now), 0), n.ofRun(func() {
			if n.wakes == mark {
				n.event(core.Tick{})
			}
		}))
	}
}

func (n *node) explain() []string {
	if n.agent == nil {
		return nil
	}
	return n.agent.Explain()
}

var (
	errStopped  = errors.New("cancelled")
	errNobody   = errors.New("not reachable")
	errGarbage  = errors.New("the source is not ready")
	errNotFound = errors.New("not done in time")
)

// done reports an action with what the server looks like after it.
func (n *node) done(a core.Action, res core.Result, err error) {
	f := n.facts()
	n.toAgent(core.Done{ID: a.ID, Err: err, Result: res, Server: f})
}

// work carries out the queue: strictly one action after the other.
func (n *node) work() {
	if n.working || len(n.queue) == 0 {
		return
	}
	s := n.s
	a := n.queue[0]
	n.queue = n.queue[1:]
	n.working = true
	run := n.run
	n.trip(s.profile.trip)
	finish := func(res core.Result, err error) {
		if n.run != run || !n.agentUp {
			return
		}
		if err != nil {
			s.trace("%s: %v: %v", n.name, a, err)
		}
		n.working = false
		n.done(a, res, err)
		n.work()
	}
	// later continues a slow action. An agent that has ended may have begun it for good, or not; the next one begins when it is over.
	later := func(d time.Duration, f func()) {
		pm := n.power
		var g func()
		g = func() {
			if n.power != pm || !n.up {
				return
			}
			if n.run == run && n.pausedUntil > s.now {
				s.at(time.Duration(n.pausedUntil-s.now), g)
				return
			}
			if n.run != run && (n.run > run+1 || s.r.Chance(0.5)) {
				return
			}
			f()
		}
		s.at(d, g)
	}
	n.perform(a, later, finish)
}

// trip has the agent or the power go in the middle of what is about to begin.
func (n *node) trip(p float64) {
	s := n.s
	if !s.chaos || s.now < int64(time.Second) || !s.r.Chance(p) {
		return
	}
	s.at(s.r.Between(0, 20*time.Millisecond), n.ofRun(func() {
		if s.r.Chance(0.3) {
			s.powerLoss(n, s.r.Between(50*time.Millisecond, 3*time.Second))
		} else {
			n.restartAgent(s.r.Between(0, time.Second))
		}
	}))
}

type (
	later  func(time.Duration, func())
	finish func(core.Result, error)
)

func (n *node) perform(a core.Action, later later, finish finish) {
	s, d := n.s, &n.disk
	none := core.Result{}
	disk := s.r.Soon(200*time.Microsecond, 4*time.Millisecond, 60*time.Millisecond)
	switch a.Kind {
	case core.PersistPromise:
		later(disk, func() {
			n.promise = max(n.promise, a.Epoch)
			if !s.plant.VolatilePromise {
				n.synced = n.promise
			}
			finish(none, nil)
		})
	case core.PersistAttempt:
		later(disk, func() { n.attempted = max(n.attempted, a.Epoch); finish(none, nil) })
	case core.PersistMarker:
		later(disk, func() {
			n.marker = a.Marker
			if a.Marker == core.NoMarker {
				n.mark = a.Pos
			}
			finish(none, nil)
		})
	case core.PersistMark:
		later(disk, func() { n.mark = a.Pos; finish(none, nil) })
	case core.Hold:
		n.include(include{s.plant.hold(n), d.file.conninfo}, later, finish)
	case core.WriteSSN:
		n.held = false
		n.include(include{a.SSN, d.file.conninfo}, later, finish)
	case core.Follow:
		n.include(include{d.file.ssn, a.Node}, later, finish)
	case core.Fence:
		n.fence(later, finish)
	case core.Reserve:
		later(disk, func() {
			if !s.plant.NoReserve {
				for _, t := range a.Numbers {
					if _, ok := d.files[t]; !ok {
						d.files[t] = false
					}
				}
				if t := d.nextTimeline(); t != a.TLI {
					finish(none, errNotFound)
					return
				}
			}
			finish(none, nil)
		})
	case core.Unreserve:
		later(disk, func() { d.sweep(); finish(none, nil) })
	case core.PromoteTo:
		n.promote(a, later, finish)
	case core.ProveSSN:
		n.prove(a, s.now+int64(200*time.Millisecond), later, finish)
	case core.Nudge:
		later(s.r.Between(100*time.Microsecond, time.Millisecond), func() {
			if n.pg.primary && !n.pg.closing {
				n.write(nil)
			}
			finish(none, nil)
		})
	case core.StartStandby:
		n.startStandby(a, later, finish)
	case core.Stop:
		n.archives = 0
		n.stop(a, finish)
	case core.Rewind:
		n.rewind(a, later, finish)
	case core.Clone:
		n.clone(a, later, finish)
	case core.DropVIP:
		later(time.Millisecond, func() { n.vip = 0; finish(none, nil) })
	default:
		s.fail("unknown action %v", a)
	}
}

// include writes the include file, has it on disk, then reloads.
func (n *node) include(to include, later later, finish finish) {
	s := n.s
	if n.disk.none || n.disk.garbage {
		later(time.Millisecond, func() { finish(core.Result{}, errDown) })
		return
	}
	n.disk.file = to
	later(s.r.Soon(500*time.Microsecond, 4*time.Millisecond, 100*time.Millisecond), func() {
		n.disk.file, n.disk.synced = to, to
		n.reload()
		s.checkSSN()
		later(s.r.Between(500*time.Microsecond, 4*time.Millisecond), func() {
			if n.pg.pm == 0 {
				finish(core.Result{}, errDown)
				return
			}
			finish(core.Result{}, nil)
		})
	})
}

func (n *node) fence(later later, finish finish) {
	s, pm := n.s, n.pg.pm
	if pm == 0 || !n.pg.answering || n.pg.primary {
		later(time.Millisecond, func() { finish(core.Result{}, errDown) })
		return
	}
	to := n.disk.file
	to.conninfo = ""
	n.disk.file = to
	later(s.r.Soon(500*time.Microsecond, 4*time.Millisecond, 60*time.Millisecond), func() {
		n.disk.file, n.disk.synced = to, to
		n.reload()
		later(s.r.Soon(time.Millisecond, 4*time.Millisecond, 100*time.Millisecond), func() {
			if n.pg.pm != pm || !n.pg.answering {
				finish(core.Result{}, errDown)
				return
			}
			n.disk.durable = len(n.disk.wal.recs)
			res := core.Result{SystemID: n.disk.system, Pos: core.Position{TLI: n.disk.wal.tli(), LSN: lsn(n.disk.durable)}, Beyond: n.disk.beyond()}
			if s.plant.HalfRecords {
				res.Pos.LSN += n.half()
			}
			if s.plant.BlindFence {
				res.Beyond = 0
			}
			finish(res, nil)
		})
	})
}

// promote is pg_promote and a wait that has an end. PostgreSQL does what it was told whatever becomes of whoever told it.
func (n *node) promote(a core.Action, later later, finish finish) {
	s, pm, power := n.s, n.pg.pm, n.power
	d := s.r.Soon(10*time.Millisecond, 40*time.Millisecond, 600*time.Millisecond)
	if s.chaos && s.r.Chance(0.03) {
		d = s.r.Between(time.Second, 8*time.Second) // there is much to replay
	}
	over := false
	end := func(res core.Result, err error) {
		if !over {
			over = true
			finish(res, err)
		}
	}
	later(3*time.Second, func() { end(core.Result{}, errNotFound) })
	s.at(d, func() {
		p, d := &n.pg, &n.disk
		if n.power != power || p.pm != pm || pm == 0 || !p.answering || p.primary {
			later(0, func() { end(core.Result{}, errDown) })
			return
		}
		if c := p.receiver; c != nil {
			s.closeDown(c, true)
		}
		for _, c := range p.senders {
			s.closeUp(c)
		}
		d.durable = len(d.wal.recs)
		if b := d.beyond(); b != 0 {
			s.fail("I7: %s panics at its promotion: it goes by timeline %d, and has no WAL of it", n.name, b)
			return
		}
		at, tli := len(d.wal.recs), d.nextTimeline()
		s.ids++
		d.wal.add(rec{tli, s.ids})
		d.files[tli] = true
		d.durable = at + 1
		p.primary, p.ready = true, false
		s.trace("%s: promoted to timeline %d at %d", n.name, tli, at)
		s.promoted(n, a.Epoch)
		later(time.Millisecond, func() { end(core.Result{TLI: tli, SwitchLSN: lsn(at), EndLSN: lsn(at + 1)}, nil) })
	})
}

func (n *node) prove(a core.Action, limit int64, later later, finish finish) {
	s := n.s
	later(s.r.Between(200*time.Microsecond, 3*time.Millisecond), func() {
		p := &n.pg
		if p.pm == 0 || !p.primary || p.closing {
			finish(core.Result{}, errDown)
			return
		}
		if s.plant.NoBarrier && !a.Probe {
			finish(core.Result{}, nil)
			return
		}
		ok := true
		if a.Probe {
			ok = p.flag || s.plant.NoProbe
		} else {
			for _, c := range p.senders {
				if c.priority != slices.Index(a.SSN.Names, c.down.name)+1 {
					ok = false
				}
			}
		}
		switch {
		case ok:
			finish(core.Result{Barrier: lsn(n.write(nil))}, nil)
		case s.now >= limit:
			finish(core.Result{}, errNotFound)
		default:
			n.prove(a, limit, later, finish)
		}
	})
}

func (n *node) startStandby(a core.Action, later later, finish finish) {
	s, d := n.s, &n.disk
	later(s.r.Soon(5*time.Millisecond, 60*time.Millisecond, time.Second), func() {
		if n.pg.pm != 0 {
			finish(core.Result{}, nil)
			return
		}
		if d.none || d.broken() || s.chaos && s.r.Chance(0.03) {
			finish(core.Result{}, errDown)
			return
		}
		d.setAside()
		d.sweep()
		d.file = include{s.plant.hold(n), a.Node}
		d.synced = d.file
		n.startPG()
		later(s.r.Between(2*time.Millisecond, 60*time.Millisecond), func() { finish(core.Result{}, nil) })
	})
}

// stop is fast or immediate. A fast stop of a primary waits for its standbys to have the shutdown checkpoint. A signal that was sent
// is obeyed whatever becomes of whoever sent it.
func (n *node) stop(a core.Action, finish finish) {
	s, pm, power := n.s, n.pg.pm, n.power
	result := func() core.Result {
		return core.Result{Pos: core.Position{TLI: n.disk.wal.tli(), LSN: lsn(n.disk.durable)}, Clean: n.disk.clean}
	}
	s.at(s.r.Soon(time.Millisecond, 20*time.Millisecond, 300*time.Millisecond), func() {
		if n.power != power {
			return
		}
		p := &n.pg
		if p.pm != pm || pm == 0 {
			finish(result(), nil)
			return
		}
		if fast := a.Fast || a.Handover; !fast || !p.primary {
			n.stopPG(fast && p.answering)
			finish(result(), nil)
			return
		}
		p.closing, p.waiting = true, nil
		end := n.write(nil)
		limit := s.now + int64(2500*time.Millisecond)
		var wait func()
		wait = func() {
			if n.pg.pm != pm {
				finish(result(), nil)
				return
			}
			behind := n.disk.durable < end || slices.ContainsFunc(n.pg.senders, func(c *conn) bool { return c.open() && c.streaming && c.flush < end })
			if behind && s.now < limit {
				s.at(3*time.Millisecond, wait)
				return
			}
			n.stopPG(true)
			if a.Handover && s.r.Chance(0.2) {
				n.archives = s.now + int64(s.r.Between(0, 3*time.Second))
			}
			finish(result(), nil)
		}
		s.at(5*time.Millisecond, wait) // whatever becomes of the agent
	})
}

func (n *node) rewind(a core.Action, later later, finish finish) {
	s, d, x := n.s, &n.disk, n.s.node(a.Node)
	none := core.Result{}
	pm := x.pg.pm
	if n.pg.pm != 0 {
		s.fail("%s rewinds while PostgreSQL runs", n.name)
	}
	ready := func() bool {
		return s.linked(n, x) && x.pg.pm == pm && pm != 0 && x.pg.primary && !x.pg.closing && s.plant.ready(x)
	}
	if !ready() || s.chaos && s.r.Chance(0.05) {
		later(20*time.Millisecond, func() { finish(core.Result{Whole: true}, errGarbage) })
		return
	}
	d.garbage = true
	s.checkHas(n, "when its rewind begins")
	s.res.Rewinds++
	later(s.r.Between(50*time.Millisecond, 900*time.Millisecond), func() {
		if !ready() {
			finish(none, errNobody)
			return
		}
		common := 0
		for common < len(d.wal.recs) && x.disk.wal.has(common, d.wal.recs[common]) {
			common++
		}
		common = min(common, x.disk.durable)
		if common < x.disk.removed {
			finish(none, errNotFound)
			return
		}
		d.wal.cut(common)
		d.durable, d.garbage = common, false
		d.consistentFrom(&x.disk)
		d.files = map[uint32]bool{}
		for t, lines := range x.disk.files {
			d.files[t] = lines
		}
		finish(none, nil)
	})
}

// consistentFrom: what was made of x's files needs the WAL up to what x has by now.
func (d *disk) consistentFrom(x *disk) {
	d.minimum, d.minTLI, d.minHistory = x.durable, x.wal.recs[x.durable-1].tli, nil
	for _, f := range x.wal.forks {
		if f.LSN < lsn(x.durable) {
			d.minHistory = append(d.minHistory, f)
		}
	}
}

func (n *node) clone(a core.Action, later later, finish finish) {
	s, d, x := n.s, &n.disk, n.s.node(a.Node)
	none := core.Result{}
	pm := x.pg.pm
	if n.pg.pm != 0 {
		s.fail("%s is copied over while PostgreSQL runs", n.name)
	}
	s.res.Clones++
	until := s.now + int64(s.r.Between(200*time.Millisecond, 3*time.Second))
	var wait func()
	wait = func() {
		switch {
		case n.cancelled == a.ID:
			finish(core.Result{Whole: true}, errStopped)
		case !s.linked(n, x) || x.pg.pm != pm || pm == 0 || !x.pg.primary:
			finish(core.Result{Whole: true}, errNobody)
		case s.now < until:
			later(50*time.Millisecond, wait)
		default:
			d.none, d.garbage, d.system = false, false, x.disk.system
			d.wal.copyOf(&x.disk.wal, x.disk.durable)
			d.durable = x.disk.durable
			d.consistentFrom(&x.disk)
			d.files = map[uint32]bool{}
			if t := d.wal.tli(); t > 1 {
				d.files[t] = true
			}
			s.checkHas(n, "after it was copied")
			finish(none, nil)
		}
	}
	later(20*time.Millisecond, wait)
}

// call carries out what runs beside the queue.
func (n *node) call(a core.Action) {
	s := n.s
	none := core.Result{}
	answer := func(res core.Result, err error, unknown bool) {
		n.toAgent(core.Done{ID: a.ID, Err: err, Unknown: unknown, Result: res})
	}
	answer = func(f func(core.Result, error, bool)) func(core.Result, error, bool) {
		run := n.run
		return func(res core.Result, err error, unknown bool) {
			if n.run == run && n.agentUp {
				f(res, err, unknown)
			}
		}
	}(answer)
	short := s.r.Soon(100*time.Microsecond, 2*time.Millisecond, 100*time.Millisecond)
	switch a.Kind {
	case core.ReportPledge:
		s.at(short, n.ofRun(func() {
			if !n.vrrpd || n.known == 0 || a.Epoch > s.versions[n.known-1].Epoch {
				answer(none, errRefused, false)
				return
			}
			n.report = report{epoch: a.Epoch, pos: a.Pos, system: a.SystemID}
			answer(none, nil, false)
		}))
	case core.SetRule:
		s.plant.setRule(n, a)
		n.trip(5 * s.profile.trip)
		s.at(short, n.ofRun(func() {
			if !n.vrrpd || n.holding != a.Epoch || n.until <= s.now {
				answer(none, errLease, false)
				return
			}
			c := record.Command{Op: record.SetRule, Resource: resource, Epoch: a.Epoch, Member: n.self(), Boot: n.boot, Ver: a.Ver, TLI: a.TLI, SwitchLSN: a.LSN, Parent: a.Parent}
			for _, name := range a.Names {
				c.S = append(c.S, n.member(name))
			}
			s.propose(n, c, func(err error, unknown bool) { answer(none, err, unknown) })
		}))
	case core.Release:
		s.at(short, n.ofRun(func() {
			if !n.vrrpd || n.known == 0 || s.versions[n.known-1].Epoch != a.Epoch || !s.versions[n.known-1].Holds(n.name, n.boot) {
				answer(none, errRefused, false)
				return
			}
			n.giveBack(a.Epoch, a.Node, a.Text, func(err error, unknown bool) { answer(none, err, unknown) })
			n.show()
		}))
	case core.Look:
		n.lookAt(a, answer)
	case core.ReadLog:
		d := s.r.Soon(time.Millisecond, 8*time.Millisecond, 500*time.Millisecond)
		s.at(d, n.ofRun(func() {
			switch {
			case s.plant.StaleRead && n.vrrpd && n.known > 0:
			case !s.reach(n):
				answer(none, errRefused, false)
				return
			default:
				n.learn(len(s.versions))
			}
			v := n.view(n.known)
			answer(core.Result{View: &v}, nil, false)
		}))
	case core.Advanced: // disks that are set back are not simulated
		s.at(short, n.ofRun(func() { answer(none, nil, false) }))
	case core.Checkpoint:
		s.at(s.r.Between(10*time.Millisecond, 300*time.Millisecond), n.ofRun(func() { answer(none, nil, false) }))
	case core.AfterPromote:
		pm := n.pg.pm
		s.at(s.r.Soon(10*time.Millisecond, 400*time.Millisecond, 3*time.Second), n.ofRun(func() {
			if n.pg.pm == pm && n.pg.primary && !n.pg.closing {
				n.pg.ready = true
				n.write(nil)
			}
			answer(none, nil, false)
		}))
	case core.Open:
		if n.holding == a.Epoch && n.until > s.now {
			n.vip = a.Epoch
			s.failed = s.failed[:0]
		}
	case core.Eligible:
		// In order: whoever carries it out sends one after the other.
		at := max(s.now+int64(short), n.lastVerdict+1)
		n.lastVerdict = at
		s.at(time.Duration(at-s.now), n.ofRun(func() { n.eligible = a.On }))
	case core.Leave:
		n.leaves = append(n.leaves, a)
		h := s.node(a.Node)
		if s.linked(n, h) {
			h.toAgent(core.Leaving{Node: n.name, On: a.On, Why: a.Text})
			if !a.On {
				n.left(a.Node, true)
			}
		}
		s.at(time.Second, n.ofRun(func() { n.left(a.Node, s.plant.NoLeave) }))
	case core.Left:
		x := s.node(a.Node)
		if s.linked(n, x) && x.agentUp {
			s.at(time.Millisecond, func() { x.left(n.name, true) })
		}
	case core.Cancel:
		n.cancelled = a.Ref
	}
}

// member is who a name in a proposal stands for: a member of the rule stays who it was, whatever has its name now.
func (n *node) member(name string) record.Member {
	for _, m := range n.s.versions[n.known-1].Rule.S {
		if m.Node == name {
			return m
		}
	}
	return record.Member{Node: name, Incarnation: n.s.node(name).joined}
}

// left ends a Leave.
func (n *node) left(holder string, ok bool) {
	for k, a := range n.leaves {
		if a.Node == holder {
			n.leaves = slices.Delete(n.leaves, k, k+1)
			err := errNobody
			if ok {
				err = nil
			}
			n.toAgent(core.Done{ID: a.ID, Err: err})
			return
		}
	}
}

func (n *node) lookAt(a core.Action, answer func(core.Result, error, bool)) {
	s, x := n.s, n.s.node(a.Node)
	if !s.linked(n, x) || x.pg.pm == 0 || !x.pg.answering {
		d := s.r.Between(time.Millisecond, 20*time.Millisecond)
		if !s.linked(n, x) {
			d = s.r.Between(300*time.Millisecond, 2*time.Second)
		}
		s.at(d, n.ofRun(func() { answer(core.Result{}, errNobody, false) }))
		return
	}
	f := x.facts()
	src := &core.Source{Node: x.name, InRecovery: f.InRecovery, SystemID: f.SystemID, TLI: f.Pos.TLI, LSN: f.Pos.LSN, History: f.History, RewindReady: s.plant.ready(x)}
	s.at(s.r.Soon(time.Millisecond, 6*time.Millisecond, 300*time.Millisecond), n.ofRun(func() { answer(core.Result{Source: src}, nil, false) }))
}
