package sim

import (
	"fmt"
	"time"

	"pgvrrp/internal/quorum/lease"
	"pgvrrp/internal/quorum/record"
	"pgvrrp/internal/vrrp"
	"pgvrrp/test/clock"
)

const never = int64(1) << 62

// machine names one machine of a host.
type machine uint8

const (
	theVoter machine = iota
	theCoordinator
	theHolder
	theCandidate
	theRouter
	theClock // a timer: whoever wants a tick
)

// item is one event on its way to one machine.
type item struct {
	m    machine
	slot int // of the voter and the coordinator
	ev   lease.Event
	vev  vrrp.Event
}

// disk is what a voter has fsynced.
type disk struct {
	sealed, promise   uint64
	longest, longest2 time.Duration // of the voter, of the candidate
}

type write struct {
	slot  int
	cand  bool
	what  lease.Stores
	epoch uint64
	hold  time.Duration
	done  bool
}

// voter is one voter's place in the log: an id, its machines, its disk.
type voter struct {
	k     int // by place in sim.voters
	name  string
	h     *host
	slot  int
	disk  disk
	voter *lease.Voter
	coord *lease.Coordinator

	cfg       *config // the newest membership in its log; nil: its directory is empty
	committed bool    // which it knows to be committed
	known     int     // how many versions of the record it has applied
	empty     bool    // its directory was emptied, and it is not a member with the new one yet
	gone      bool    // empty, and its old self is out of the membership
	leads     bool    // it believes so
	term      uint64
	run, seen uint64 // for a planted bug: the highest epoch heard in this run
}

// host is one machine with one daemon.
type host struct {
	s    *Sim
	k    int
	name string
	data bool
	ids  []*voter

	// the clock
	ppm    int64
	origin int64
	offset time.Duration
	walls  clock.Steps // the time of day, which somebody sets

	// the kernel
	powered  bool
	addr     bool
	guard    int64         // open until; 0: shut
	epoch    uint64        // for which it was opened
	by       lease.Mode    // and by whose word, the last time
	late     time.Duration // after the deadline the guard may still be open for so long
	lifetime bool          // no guard: the address has a lifetime

	// the process
	up          bool
	run         uint64 // its number
	boot        record.Boot
	incarnation int
	pausedUntil int64
	local       ring // before anything else
	inbox       ring
	rest        []lease.Action // of an interrupted Step
	restOf      machine
	restSlot    int
	vrest       []vrrp.Action
	call        guardCall
	busy        bool
	timerAt     int64
	spins       int
	writes      []*write
	slowDisk    bool
	badDisk     bool

	holder   *lease.Holder
	cand     *lease.Candidate
	router   *vrrp.Router
	rec      *record.Resource // what the holder knows
	idle     bool             // as the candidate was told
	eligible bool
	fault    bool
	granted  uint64        // the router was told of it
	sent     lease.Message // the last renewal
	priority uint8
	told     bool
}

// ring is a queue of items that keeps its memory.
type ring struct {
	q    []item
	head int
}

func (r *ring) push(i item) { r.q = append(r.q, i) }
func (r *ring) empty() bool { return r.head == len(r.q) }
func (r *ring) len() int    { return len(r.q) - r.head }
func (r *ring) clear()      { clear(r.q); r.q, r.head = r.q[:0], 0 }
func (r *ring) pop() item {
	i := r.q[r.head]
	r.q[r.head] = item{}
	if r.head++; r.head == len(r.q) {
		r.q, r.head = r.q[:0], 0
	}
	return i
}

// guardCall is where the setting of the guard was interrupted.
type guardCall struct {
	stage    int // 0: not
	epoch    uint64
	by       lease.Mode
	deadline time.Duration
	read     time.Duration
	tries    int
	paused   bool
}

func (h *host) self() record.Member {
	return record.Member{Node: h.name, Incarnation: fmt.Sprintf("%s.%d", h.name, h.incarnation)}
}

// clock is the host's CLOCK_BOOTTIME.
func (h *host) clock() time.Duration { return h.clockAt(h.s.now) }

func (h *host) clockAt(real int64) time.Duration {
	t := real - h.origin
	return h.offset + time.Duration(t+t/1_000_000*h.ppm+t%1_000_000*h.ppm/1_000_000)
}

// real is the first instant at which the host's clock shows at least c.
func (h *host) real(c time.Duration) int64 {
	if c >= time.Duration(never) {
		return never
	}
	d := int64(c - h.offset)
	t := h.origin + int64(float64(d)*1e6/float64(1_000_000+h.ppm))
	for h.clockAt(t) < c {
		t++
	}
	return t
}

// wall is what the router is given as the time: its monotonic reading is the same clock, and its time of day is any.
func (h *host) wall() time.Time {
	t := h.walls.At(h.clock())
	if h.s.plant.WallRouter {
		return t.Round(0)
	}
	return t
}

// reads is what the process takes for the time since boot.
func (h *host) reads() time.Duration { return h.clock() + h.wrong() }

// wrong is how far off that is.
func (h *host) wrong() time.Duration {
	if h.s.plant.WallLease {
		return h.walls.Off(h.clock())
	}
	return 0
}

// answers reports whether packets to the virtual address get an answer here.
func (h *host) answers() bool { return h.addr && h.guard > h.s.now }

// live reports whether the process runs, believes that it is live, and the kernel does, too.
func (h *host) live() bool {
	return h.up && h.s.now >= h.pausedUntil && h.guard > h.s.now && h.holder != nil && h.holder.Live(h.reads())
}

// start is the start of the process: first the sweep, then the machines.
func (h *host) start() {
	s := h.s
	h.addr, h.guard = false, 0
	h.up, h.pausedUntil, h.timerAt, h.told = true, 0, never, false
	h.run++
	h.boot = record.Boot(s.r.Next() | 1)
	h.idle, h.eligible, h.granted, h.rec = true, false, 0, nil
	now := h.reads()
	start := now
	if s.plant.NoQuarantine {
		start -= time.Minute
	}
	for _, v := range h.ids {
		d := v.disk
		if s.plant.ForgetSeal {
			d.sealed = 0
		}
		v.leads = false
		v.voter = lease.NewVoter(lease.VoterOptions{Resource: resource, Params: s.params, Start: start, Sealed: d.sealed, Longest: d.longest})
		v.coord = lease.NewCoordinator(lease.CoordinatorOptions{Resource: resource, Boot: h.boot, Params: s.params, Start: now})
	}
	if h.data {
		v := h.ids[0]
		var peers []string
		for _, p := range s.hosts {
			if p.data && p != h {
				peers = append(peers, p.name)
			}
		}
		hold := s.real.Hold()
		if h.lifetime {
			hold = s.real.LifetimeHold()
		}
		h.holder = lease.NewHolder(lease.HolderOptions{Resource: resource, Self: h.self(), Boot: h.boot, Params: s.real, Hold: hold, Policy: s.policy, Peers: peers,
			Activate: 5 * time.Second})
		h.cand = lease.NewCandidate(lease.CandidateOptions{Resource: resource, Self: h.self(), Boot: h.boot, Params: s.params, Hold: hold, Start: start,
			Promised: v.disk.promise, Longest: v.disk.longest2})
		var err error
		h.router, err = vrrp.NewRouter(vrrp.Config{Version: 3, VRID: 1, Priority: h.priority, AdvertInterval: time.Second, DownTimerAdverts: 3, Preempt: true,
			Source: source(h.k), Gated: true})
		if err != nil {
			panic(err)
		}
		h.local.push(item{m: theRouter, vev: vrrp.Event{Kind: vrrp.Startup}})
		if h.fault {
			h.local.push(item{m: theRouter, vev: vrrp.Event{Kind: vrrp.FaultRaised, Reason: "a check failed"}})
		}
	}
	for _, v := range h.ids {
		// The log is on disk, but what of it is committed shows only when a leader is heard: the record may be an older one.
		v.known = min(v.known, s.r.Intn(v.known+2))
		v.committed = false
		h.configured(v)
		h.learn(v)
	}
	h.work()
}

// stop ends the process: what it has asked the disk for may be there or not.
func (h *host) stop() {
	if !h.up {
		return
	}
	h.up, h.holder, h.cand, h.router = false, nil, nil, nil
	h.run++
	if l := h.s.leader; l != nil && l.h == h {
		h.s.leader, h.s.lost = nil, 0
		h.s.electAt = h.s.now + int64(h.s.r.Between(200*time.Millisecond, 900*time.Millisecond))
	}
	for _, w := range h.writes {
		if !w.done && h.s.r.Chance(0.5) {
			h.written(w)
		}
	}
	h.writes = h.writes[:0]
	h.local.clear()
	h.inbox.clear()
	h.rest, h.vrest, h.call = h.rest[:0], h.vrest[:0], guardCall{}
	h.pausedUntil = 0
	for _, v := range h.ids {
		v.leads, v.voter, v.coord = false, nil, nil
	}
}

// powerOff takes kernel and process.
func (h *host) powerOff() {
	h.stop()
	h.powered, h.addr, h.guard = false, false, 0
}

// powerOn boots: the clock begins anew.
func (h *host) powerOn() {
	h.powered = true
	h.origin, h.offset = h.s.now, h.s.r.Between(time.Second, time.Minute)
	h.start()
}

// empties takes the state directories away, while the process is down.
func (h *host) empties() {
	h.incarnation++
	for _, v := range h.ids {
		member := false
		for _, w := range h.s.voters {
			member = member || w != v && w.cfg != nil && w.cfg.has(v)
		}
		v.disk, v.cfg, v.known, v.committed, v.empty, v.gone = disk{}, nil, 0, false, true, !member
	}
}

func (h *host) written(w *write) {
	d := &h.ids[w.slot].disk
	switch {
	case w.what == lease.Seal:
		d.sealed = max(d.sealed, w.epoch)
	case w.what == lease.Promise:
		d.promise = max(d.promise, w.epoch)
	case w.cand:
		d.longest2 = max(d.longest2, w.hold)
	default:
		d.longest = max(d.longest, w.hold)
	}
}

// pause stops the process for d, wherever it is.
func (h *host) pause(d time.Duration) {
	if !h.up {
		return
	}
	until := h.s.now + int64(d)
	if until <= h.pausedUntil {
		return
	}
	h.pausedUntil = until
	run := h.run
	h.s.at(d, func() {
		if h.run == run && h.s.now >= h.pausedUntil {
			h.work()
		}
	})
}

// interrupted draws whether the process stops just here.
func (h *host) interrupted(p float64) bool {
	if !h.s.chaos || !h.data || !h.s.r.Chance(p) {
		return false
	}
	h.pause(h.s.r.Between(0, h.s.profile.pause))
	return true
}

func (h *host) paused() bool { return h.s.now < h.pausedUntil }

// push puts an event before a machine.
func (h *host) push(i item) {
	if !h.up || h.inbox.len() > 2000 {
		return
	}
	h.inbox.push(i)
}

// work runs the process until it has nothing to do or is stopped.
func (h *host) work() {
	if h.busy {
		return
	}
	h.busy = true
	for h.up && !h.paused() {
		switch {
		case h.call.stage != 0:
			h.setGuard()
		case len(h.vrest) > 0:
			h.route(h.vrest)
		case len(h.rest) > 0:
			h.perform(h.restOf, h.restSlot, h.rest, true)
		case !h.local.empty():
			h.handle(h.local.pop())
		case !h.inbox.empty():
			h.handle(h.inbox.pop())
		default:
			h.busy = false
			h.arm()
			return
		}
	}
	h.busy = false
}

// arm sets the process's one timer.
func (h *host) arm() {
	at := time.Duration(never)
	for _, v := range h.ids {
		at = min(at, v.coord.Wake())
	}
	if h.data {
		at = min(at, h.holder.Wake(), h.cand.Wake())
		if d := h.router.Deadline(); !d.IsZero() {
			at = min(at, h.reads()+d.Sub(h.wall()))
		}
	}
	if at < time.Duration(never) {
		at -= h.wrong()
	}
	real := h.real(at)
	if real > h.s.now {
		h.spins = 0
	} else {
		// A tick that is due may do nothing once, but not go on being due.
		if h.spins++; h.spins > 20 {
			h.s.fail("a machine of %s spins: it wants a tick at %v, which is past: %s", h.name, at, h.due())
			return
		}
		real = h.s.now + int64(time.Microsecond)
	}
	if real >= never || h.timerAt > h.s.now && h.timerAt <= real {
		return
	}
	h.timerAt = real
	h.s.q.Push(real, event{h: h, run: h.run})
}

// due names the machines that want a tick now.
func (h *host) due() string {
	now, text := h.reads(), ""
	for _, v := range h.ids {
		if v.coord.Wake() <= now {
			text += " coordinator"
		}
	}
	if h.data && h.holder.Wake() <= now {
		text += " holder"
	}
	if h.data && h.cand.Wake() <= now {
		text += " candidate"
	}
	return text
}

func (h *host) timer() {
	if h.s.now != h.timerAt {
		return
	}
	h.timerAt = 0
	h.push(item{m: theClock})
	h.work()
}

// handle gives one event to its machine and carries out what it asks for.
func (h *host) handle(i item) {
	now := h.reads()
	switch i.m {
	case theClock:
		tick := lease.Event{Kind: lease.Tick}
		if h.data {
			if h.holder.Wake() <= now {
				h.local.push(item{m: theHolder, ev: tick})
			}
			if h.cand.Wake() <= now {
				h.local.push(item{m: theCandidate, ev: tick})
			}
			if d := h.router.Deadline(); !d.IsZero() && !d.After(h.wall()) {
				h.local.push(item{m: theRouter})
			}
		}
		for _, v := range h.ids {
			if v.coord.Wake() <= now {
				h.local.push(item{m: theCoordinator, slot: v.slot, ev: tick})
			}
		}
	case theVoter:
		h.perform(i.m, i.slot, h.ids[i.slot].voter.Step(now, i.ev), false)
	case theCoordinator:
		h.perform(i.m, i.slot, h.ids[i.slot].coord.Step(now, i.ev), false)
	case theHolder:
		if i.ev.Kind == lease.Known && (h.rec == nil || i.ev.Record.Index > h.rec.Index) {
			h.rec = i.ev.Record
		}
		actions := h.holder.Step(now, h.s.plant.toHolder(h, i.ev))
		for k := range actions {
			if actions[k].Kind == lease.Extend {
				h.s.extended(h, &actions[k])
			}
		}
		h.perform(i.m, 0, actions, false)
	case theCandidate:
		h.perform(i.m, 0, h.cand.Step(now, i.ev), false)
	case theRouter:
		h.route(h.router.Step(h.wall(), i.vev))
	}
}

// perform carries out the actions of one Step in their order. The process may be stopped before each.
func (h *host) perform(m machine, slot int, actions []lease.Action, again bool) {
	if again {
		h.rest = nil
	}
	for k := range actions {
		if h.paused() || !(again && k == 0) && h.interrupted(h.s.profile.interrupt) {
			h.rest = append([]lease.Action(nil), actions[k:]...)
			h.restOf, h.restSlot = m, slot
			return
		}
		h.do(m, slot, &actions[k])
		if !h.up {
			return
		}
	}
	if m == theHolder {
		h.activate()
	}
}

// activate tells the router of an epoch that is live and Active in the record.
func (h *host) activate() {
	epoch, _, _ := h.holder.Deadline()
	if epoch == 0 || epoch == h.granted || h.epoch != epoch || h.rec == nil || h.rec.Phase != record.Active || h.rec.Epoch != epoch || !h.rec.Holds(h.name, h.boot) {
		return
	}
	h.granted = epoch
	h.local.push(item{m: theRouter, vev: vrrp.Event{Kind: vrrp.Granted}})
}

func (h *host) do(m machine, slot int, a *lease.Action) {
	s := h.s
	switch a.Kind {
	case lease.Send:
		if a.Message.Kind == lease.Renew {
			h.sent.Seq, h.sent.Epoch, h.sent.Config = a.Message.Seq, a.Message.Epoch, a.Message.Config
		}
		s.send(h.ids[slot], a.To, &a.Message)
	case lease.Store:
		h.store(m, slot, a)
	case lease.Extend:
		if h.idle {
			// The candidate must not pledge from here on.
			h.idle = false
			h.cand.Step(h.reads(), lease.Event{Kind: lease.Idle})
		}
		_, _, by := h.holder.Deadline()
		h.call = guardCall{stage: 1, epoch: a.Epoch, by: by, deadline: a.Deadline}
		h.setGuard()
	case lease.Lapse:
		s.trace("%s lapse %d: %s", h.name, a.Epoch, a.Reason)
		h.guard, h.call = 0, guardCall{}
		h.local.push(item{m: theRouter, vev: vrrp.Event{Kind: vrrp.Revoked}})
		h.local.push(item{m: theHolder, ev: lease.Event{Kind: lease.Idle, On: true}})
		h.idle = true
		h.local.push(item{m: theCandidate, ev: lease.Event{Kind: lease.Idle, On: true}})
	case lease.Submit:
		s.trace("%s submit %v", h.ids[slot].name, a.Command)
		s.submit(h, m, slot, a.Command)
	}
}

// setGuard is the call of the kernel's guard, instruction by instruction. The element's timeout is relative: the clock is read
// first. A refresh fails if the element is gone already.
func (h *host) setGuard() {
	c := &h.call
	for c.stage != 0 {
		switch c.stage {
		case 1: // read the clock
			c.read, c.stage = h.reads(), 2
			if c.deadline-c.read < 10*time.Millisecond {
				h.guardLost("the lease is over before the guard is set") // the kernel counts in ticks of up to 10 ms
				return
			}
		case 2: // the netlink call
			if h.epoch == c.epoch && h.guard <= h.s.now {
				h.guardLost("the guard has shut")
				return
			}
			h.epoch, h.by = c.epoch, c.by
			h.guard = h.real(h.clock()+(c.deadline-c.read)) + int64(h.late)
			if h.s.plant.InProcess {
				h.guard = never
			}
			c.stage = 3
		case 3: // read the clock again
			if late := h.reads() - c.read; late > h.s.real.Margin/2 {
				if c.tries++; c.tries == 3 {
					h.guardLost("the kernel is too slow")
					return
				}
				c.stage = 1
				break
			}
			c.stage = 0
			return
		}
		if c.stage == 2 && h.s.r.Chance(h.s.profile.slowCall) {
			// The kernel may take as long as is not noticed.
			h.pause(h.s.r.Between(0, h.s.real.Margin/2))
			return
		}
		// One stop in a call at most; two are beyond what the guard can do.
		if (!c.paused || h.s.plant.TwoPauses) && h.interrupted(h.s.profile.interruptGuard) {
			c.paused = true
			return
		}
	}
}

func (h *host) guardLost(why string) {
	h.guard, h.call = 0, guardCall{}
	h.local.push(item{m: theHolder, ev: lease.Event{Kind: lease.GiveUp, Reason: why}})
}

func (h *host) store(m machine, slot int, a *lease.Action) {
	s := h.s
	w := &write{slot: slot, cand: m == theCandidate, what: a.What, epoch: a.Epoch, hold: a.Hold}
	h.writes = append(h.writes, w)
	took := s.r.Between(200*time.Microsecond, s.profile.disk)
	if h.slowDisk {
		took = s.r.Between(10*time.Millisecond, 700*time.Millisecond)
	}
	run, bad := h.run, h.badDisk && s.r.Chance(0.5)
	s.at(took, func() {
		if h.run != run {
			return
		}
		w.done = true
		ev := lease.Event{Kind: lease.Stored, What: w.what, Epoch: w.epoch, Hold: w.hold}
		if bad {
			ev.Err = errDisk
			if s.r.Chance(0.5) {
				h.written(w)
			}
		} else {
			h.written(w)
		}
		for k, x := range h.writes {
			if x == w {
				h.writes = append(h.writes[:k], h.writes[k+1:]...)
				break
			}
		}
		h.push(item{m: m, slot: slot, ev: ev})
		h.work()
	})
}

// route carries out the actions of the router.
func (h *host) route(actions []vrrp.Action) {
	h.vrest = nil
	for k := range actions {
		if k > 0 && h.interrupted(h.s.profile.interrupt) {
			h.vrest = append([]vrrp.Action(nil), actions[k:]...)
			return
		}
		switch a := &actions[k]; a.Kind {
		case vrrp.SendAdvert:
			h.s.advertise(h, a.Priority)
		case vrrp.AddAddresses:
			h.addr = true
		case vrrp.RemoveAddresses:
			h.addr = false
		case vrrp.Request:
			h.s.send(h.ids[0], lease.Everyone, &lease.Message{Kind: lease.Want, Resource: resource, Boot: h.boot})
		case vrrp.GiveUp:
			h.local.push(item{m: theHolder, ev: lease.Event{Kind: lease.GiveUp, Reason: a.Reason}})
		}
	}
	on := h.router.State() == vrrp.Backup || h.router.State() == vrrp.Active
	if on != h.eligible || !h.told {
		h.eligible, h.told = on, true
		ev := lease.Event{Kind: lease.Eligible, On: on, Priority: h.priority, Reason: h.router.FaultReason()}
		h.local.push(item{m: theHolder, ev: ev})
		h.local.push(item{m: theCandidate, ev: ev})
	}
}

// learn tells the machines of v what v has applied.
func (h *host) learn(v *voter) {
	if v.known == 0 {
		return
	}
	h.record(v, h.s.versions[v.known-1])
}

func (h *host) record(v *voter, r *record.Resource) {
	ev := lease.Event{Kind: lease.Known, Record: r}
	if h.data {
		h.push(item{m: theHolder, ev: ev})
	}
	h.push(item{m: theVoter, slot: v.slot, ev: ev})
	if h.data {
		h.push(item{m: theCandidate, ev: ev})
	}
	h.push(item{m: theCoordinator, slot: v.slot, ev: ev})
}

// configured tells the machines of v the newest membership in its log.
func (h *host) configured(v *voter) {
	if v.cfg == nil || !h.up {
		return
	}
	c := &lease.Configuration{Config: v.cfg.id, Voters: v.cfg.names, Committed: v.committed, Since: h.reads()}
	ev := lease.Event{Kind: lease.Configured, Configuration: c}
	h.push(item{m: theVoter, slot: v.slot, ev: ev})
	if h.data {
		h.push(item{m: theHolder, ev: ev})
	}
	if h.s.plant.ConfigAge {
		old := *c
		old.Since -= time.Minute
		ev.Configuration = &old
	}
	h.push(item{m: theCoordinator, slot: v.slot, ev: ev})
}

// received is a datagram at v.
func (h *host) received(v *voter, from string, m *lease.Message) {
	ev := lease.Event{Kind: lease.Received, From: from, Message: m}
	to := func(t machine) { h.push(item{m: t, slot: v.slot, ev: ev}) }
	switch m.Kind {
	case lease.Renew:
		to(theVoter)
		to(theCoordinator)
	case lease.SealQuery, lease.SealIt:
		to(theVoter)
	case lease.Renewed:
		if h.data {
			to(theHolder)
		}
	case lease.Refused:
		if h.data {
			to(theHolder)
		}
		to(theCoordinator)
	case lease.WouldSeal, lease.Wait, lease.Sealed, lease.Want:
		to(theCoordinator)
	case lease.PeerRenew:
		if h.data {
			to(theCandidate)
		}
	case lease.PeerOK:
		if h.data {
			to(theHolder)
		}
	case lease.Report:
		if h.data {
			to(theHolder)
		}
		to(theCoordinator)
	}
}
