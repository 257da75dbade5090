package quorum

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hashicorp/raft"

	"pgvrrp/internal/conf"
	"pgvrrp/internal/control"
	"pgvrrp/internal/quiet"
	"pgvrrp/internal/quorum/lease"
	"pgvrrp/internal/quorum/link"
	"pgvrrp/internal/quorum/raftlog"
	"pgvrrp/internal/quorum/record"
	"pgvrrp/internal/quorum/store"
)

// member is one voter: its disk, its links, its part of the log, and the machines, which one loop owns.
type member struct {
	n     *Node
	id    string
	log   *raftlog.Log
	lg    *slog.Logger
	store *store.Store
	net   *link.Network
	rpc   *callers

	datagrams     chan datagram
	dropped       atomic.Uint64 // datagrams, because the loop was behind
	full          atomic.Bool   // the disk, when it was last asked
	calls         chan func(now time.Duration)
	done          chan struct{} // closed when the loop has ended
	configuration atomic.Pointer[lease.Configuration]
	wake          chan struct{} // configuration has changed
	writes        chan func()   // what goes to disk, in order
	clock         *quiet.Clock

	due atomic.Int64 // when the loop's timer is set to, since boot

	machines map[string]*machines // by resource; the map never changes
	order    []*machines

	// owned by the loop
	leading bool
	local   []datagram // for our own machines
	config  *lease.Configuration
	timer   quiet.Timer
	pushAt  time.Duration // when an election's record is sent around again; 0: none runs
}

// machines are those of one resource.
type machines struct {
	name        string
	kind        record.Kind
	voter       *lease.Voter
	coordinator *lease.Coordinator
	holder      *lease.Holder    // nil on a witness
	candidate   *lease.Candidate // nil on a witness
	rec         *record.Resource

	liveUntil atomic.Int64 // time since boot, 0: not live

	// owned by the loop, on a data node
	opened   uint64 // the epoch whose guard is open
	renewals uint64 // of the lease here
	granted  uint64 // the epoch that the host was told of
	eligible bool   // the instances
	why      string
	priority uint8
	agent    *agent
	gone     time.Duration // when the last agent went; 0: it never did
	parked   bool          // the agent wants the addresses off while the lease runs on
	told     lease.Event   // the last Eligible
	idle     bool
	init     bool // its making is under way
}

// agent is one connection of pgnotify.
type agent struct {
	hello    control.Agent
	ok       bool
	why      string
	messages chan control.AgentMessage
	spoke    bool // since silence was looked for last
	silent   int  // so many times in a row it had not
}

type datagram struct {
	from    string
	payload []byte
	message lease.Message // if payload is nil
}

// The sizes of the queues: a burst of every voter's messages for some resources, and what one event may call for.
const (
	datagramQueue = 1024
	callQueue     = 256
)

func openMember(n *Node, id, dir string, port uint16, listen []netip.Addr) (_ *member, err error) {
	m := &member{n: n, id: id, lg: n.log.With("voter", id), datagrams: make(chan datagram, datagramQueue), calls: make(chan func(time.Duration), callQueue),
		done: make(chan struct{}), wake: make(chan struct{}, 1), writes: make(chan func(), callQueue), machines: map[string]*machines{}}
	defer func() {
		if err != nil {
			m.close()
		}
	}()
	if m.store, err = store.Open(dir, store.Options{Log: m.lg}); err != nil {
		return nil, err
	}
	identity := m.store.Identity()
	if m.clock, err = quiet.OpenClock(); err != nil {
		return nil, err
	}
	m.net, err = link.Open(link.Options{
		Self:  link.Self{ID: id, Incarnation: identity.Incarnation, Starts: identity.Starts, Boot: n.boot, Words: identity.Words},
		Words: m.store.Words, OnWords: m.store.Heard, Outlived: m.store.Outlived(), OnOutlived: m.outlived,
		Cluster: func() string { return m.store.Identity().Cluster }, Peers: peersOf(n.o.File), Key: n.key,
		Directory: directory{m.store}, Listen: listenOn(listen), Port: port, Now: n.o.Now, NewTimer: m.clock.NewTimer, Log: n.log, OnDatagram: m.arrived,
	})
	if err != nil {
		return nil, err
	}
	m.rpc = &callers{net: m.net}
	voters := votersOf(n.o.File)
	var self raftlog.Voter
	for _, v := range voters {
		if v.ID == id {
			self = v
		}
	}
	m.log, err = raftlog.New(raftlog.Options{
		Store: m.store, Transport: newTransport(m.net.Raft(), m.lg), Self: self, Voters: voters, Now: n.o.Now, Log: m.lg,
		OnRecord:        func(r *record.Resource) { m.post(func(now time.Duration) { m.known(now, r) }) },
		OnLeading:       func(on bool) { m.post(func(now time.Duration) { m.led(now, on) }) },
		OnConfiguration: m.configured, Peer: m, Holder: m.holderNow, Priority: n.priorityNow, UpSince: m.net.UpSince,
		Lapse: n.params.Wait(n.params.Hold()),
	})
	if err != nil {
		return nil, err
	}
	now := n.o.Now()
	for _, r := range n.o.File.Resources {
		m.machines[r.Name] = m.newMachines(r, now, identity.Incarnation)
		m.order = append(m.order, m.machines[r.Name])
	}
	// Whatever is acknowledged from now on, the next start must be silent for so long, also with a shorter lease in its file.
	if err := m.store.PutLongest(n.params.Hold()); err != nil {
		return nil, err
	}
	return m, nil
}

func votersOf(q *conf.Quorum) []raftlog.Voter {
	var all []raftlog.Voter
	for _, v := range q.Voters {
		for _, id := range voterIDs(v) {
			all = append(all, raftlog.Voter{ID: id, Node: v.Name, Witness: v.Witness})
		}
	}
	return all
}

// activateTime is how long whoever is granted an epoch has until its rule is in the log (T_promote of the design).
const activateTime = 5 * time.Second

func (m *member) newMachines(r conf.Resource, now time.Duration, incarnation string) *machines {
	n, p := m.n, m.n.params
	x := &machines{name: r.Name, kind: record.Kind(r.Kind), why: "no instance of this node uses it", idle: true}
	x.voter = lease.NewVoter(lease.VoterOptions{Resource: r.Name, Params: p, Start: now, Sealed: m.store.Sealed(r.Name), Longest: m.store.Longest()})
	x.coordinator = lease.NewCoordinator(lease.CoordinatorOptions{Resource: r.Name, Boot: n.boot, Params: p, Start: now})
	if n.o.Self.Witness {
		return x
	}
	self := record.Member{Node: n.o.Self.Name, Incarnation: incarnation}
	hold := p.Hold()
	if n.o.Kind == "lifetime" {
		hold = p.LifetimeHold()
	}
	x.holder = lease.NewHolder(lease.HolderOptions{Resource: r.Name, Self: self, Boot: n.boot, Params: p, Hold: hold,
		Policy: lease.Policy(n.o.File.Policy), Peers: otherDataNodes(n.o.File, self.Node), Activate: activateTime})
	x.candidate = lease.NewCandidate(lease.CandidateOptions{Resource: r.Name, Self: self, Boot: n.boot, Params: p, Hold: hold, Start: now,
		Promised: m.store.Promised(r.Name), Longest: m.store.Longest(), Agent: x.kind == record.PostgreSQL})
	return x
}

// configure gives the machines what a reload may change for them.
func (m *member) configure(file *conf.Quorum) {
	m.post(func(time.Duration) {
		for _, r := range m.order {
			if r.holder != nil {
				r.holder.Configure(lease.Policy(file.Policy), otherDataNodes(file, m.n.o.Self.Name))
			}
		}
	})
}

func (m *member) close() {
	if m.net != nil {
		m.net.Close()
	}
	if m.clock != nil {
		_ = m.clock.Close() // its task may have closed it
	}
	if m.store != nil {
		if err := m.store.Close(); err != nil {
			m.lg.Warn("close the state directory", "error", err)
		}
	}
}

// start runs the member's tasks.
func (m *member) start(ctx context.Context) {
	tasks := m.n.tasks
	m.net.Handle(m.serve)
	tasks.Go(func() error { return m.clock.Run(ctx) })
	tasks.Go(func() error { return m.net.Run(ctx) })
	tasks.Go(func() error { return m.log.Run(ctx) })
	tasks.Go(func() error { return m.write(ctx) })
	tasks.Go(func() error { return m.loop(ctx) })
	tasks.Go(func() error { return m.probe(ctx) })
	tasks.Go(func() error { m.keep(ctx); return nil })
	tasks.Go(func() error { return m.rpc.run(ctx) })
}

// post has f run on the loop.
func (m *member) post(f func(now time.Duration)) {
	select {
	case m.calls <- f:
	case <-m.done:
	}
}

// arrived takes a datagram on a receiving goroutine.
func (m *member) arrived(from string, _ record.Boot, _ time.Duration, payload []byte) {
	select {
	case m.datagrams <- datagram{from: from, payload: payload}:
	default:
		m.dropped.Add(1) // as the network does; the sender sends again
	}
}

// outlived ends the voter, whose directory is an old copy, and has that on disk first: no later start of it takes part, however many
// words it has by then.
func (m *member) outlived(why string) {
	err := fmt.Errorf("its state directory is an old copy: %s", why)
	m.log.End(errors.Join(err, m.store.PutOutlived(why)))
}

// configured takes the newest membership, before the log answers for having it: the voters' next word is by it.
func (m *member) configured(c lease.Configuration) {
	m.configuration.Store(&c)
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

// write carries out what goes to disk, one after the other.
func (m *member) write(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case f := <-m.writes:
			f()
		}
	}
}

// How often the disk is asked, how long it may take, and how often in a row it may fail.
const (
	probeEvery = time.Second
	probeTime  = 2 * time.Second
	probeFails = 2
)

// probe ends a voter whose disk does not answer: its links and the log's heartbeats need none, so that it would look well, and could
// lead the log without ever getting anything into it.
func (m *member) probe(ctx context.Context) error {
	next := m.clock.NewTimer()
	defer next.Stop()
	next.Reset(probeEvery)
	for fails := 0; ; {
		select {
		case <-ctx.Done():
			return nil
		case <-next.C():
			next.Reset(probeEvery)
		}
		bound, cancel := context.WithTimeout(ctx, probeTime)
		err := m.store.Check(bound)
		cancel()
		m.full.Store(errors.Is(err, syscall.ENOSPC))
		switch {
		case err == nil:
			fails = 0
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, syscall.ENOSPC) && m.store.Trouble() == nil:
			fails = 0 // it answers; room for the log's next entries was set aside
			m.lg.Warn("the disk of the state directory is full", "error", err)
		default:
			fails++
			m.lg.Warn("the disk of the state directory does not answer", "error", err)
			if fails >= probeFails {
				return fmt.Errorf("voter %s: %w", m.id, err)
			}
		}
	}
}

// keepEvery is how old what the disk knows of the other voters' words may get.
const keepEvery = time.Second

// keep writes what was heard of them, if it is news: a copy of a directory is known by the words that it lacks.
func (m *member) keep(ctx context.Context) {
	next := m.clock.NewTimer()
	defer next.Stop()
	next.Reset(keepEvery)
	for {
		select {
		case <-ctx.Done():
		case <-next.C():
			next.Reset(keepEvery)
		}
		if err := m.store.KeepHeard(); err != nil {
			m.lg.Warn("write to the state directory", "error", err)
		}
		if ctx.Err() != nil {
			return
		}
	}
}

// loop owns the machines.
func (m *member) loop(ctx context.Context) error {
	defer close(m.done)
	m.timer = m.clock.NewTimer()
	defer m.timer.Stop()
	m.timer.Reset(0)
	for {
		select {
		case <-ctx.Done():
			return nil
		case d := <-m.datagrams:
			m.turn(func(now time.Duration) { m.received(now, d) })
		case f := <-m.calls:
			m.turn(f)
		case <-m.wake:
			m.turn(func(time.Duration) {})
		case <-m.timer.C():
			m.turn(m.tick)
		}
		m.arm()
	}
}

// turn handles one thing, after the newest membership and before what it made us say to ourselves.
func (m *member) turn(f func(now time.Duration)) {
	if c := m.configuration.Load(); c != m.config {
		m.config = c
		now := m.n.o.Now()
		for _, r := range m.order {
			m.all(now, r, lease.Event{Kind: lease.Configured, Configuration: c})
		}
		m.n.watch.notify() // whom the rule names may have lost its state directory
	}
	f(m.n.o.Now())
	for len(m.local) > 0 {
		d := m.local[0]
		m.local = m.local[1:]
		m.received(m.n.o.Now(), d)
	}
}

func (m *member) tick(now time.Duration) {
	for _, r := range m.order {
		m.all(now, r, lease.Event{Kind: lease.Tick})
	}
	if m.pushAt != 0 && now >= m.pushAt {
		m.pushAt = 0
		for _, r := range m.order {
			m.push(now, r)
		}
	}
}

// arm sets the timer to when the first machine wants a Tick.
func (m *member) arm() {
	now := m.n.o.Now()
	at := now + time.Hour
	for _, r := range m.order {
		at = min(at, r.coordinator.Wake())
		if r.holder != nil {
			at = min(at, r.holder.Wake(), r.candidate.Wake())
		}
	}
	if m.pushAt != 0 {
		at = min(at, m.pushAt)
	}
	m.due.Store(int64(max(at, now)))
	m.timer.Reset(max(0, at-now))
}

// all gives an event to every machine of a resource. The holder is first: what is over is over before anybody is told of it.
func (m *member) all(now time.Duration, r *machines, ev lease.Event) {
	if r.holder != nil {
		m.hold(now, r, ev)
		m.stand(now, r, ev)
	}
	m.vote(now, r, ev)
	m.coordinate(now, r, ev)
}

func (m *member) vote(now time.Duration, r *machines, ev lease.Event) {
	m.carry(r, r.voter.Step(now, ev), m.vote)
}

func (m *member) coordinate(now time.Duration, r *machines, ev lease.Event) {
	m.carry(r, r.coordinator.Step(now, ev), m.coordinate)
}

func (m *member) stand(now time.Duration, r *machines, ev lease.Event) {
	m.carry(r, r.candidate.Step(now, ev), m.stand)
}

// hold steps the holder and, if it is live and active, has the instances take over.
func (m *member) hold(now time.Duration, r *machines, ev lease.Event) {
	m.carry(r, r.holder.Step(now, ev), m.hold)
	epoch, _, _ := r.holder.Deadline()
	if epoch != 0 && epoch == r.opened && epoch != r.granted && r.rec != nil && r.rec.Epoch == epoch && r.rec.Phase == record.Active && r.eligible && !r.parked {
		r.granted = epoch
		m.n.o.Host.Grant(r.name, fmt.Sprintf("granted epoch %d (%s)", epoch, r.rec.Why))
	}
}

// carry does what a machine asks for; back is the step that its outcome goes to.
func (m *member) carry(r *machines, actions []lease.Action, back func(time.Duration, *machines, lease.Event)) {
	for k := range actions {
		a := &actions[k]
		switch a.Kind {
		case lease.Send:
			m.send(a.To, a.Message)
		case lease.Store:
			m.save(r, *a, back)
		case lease.Extend:
			m.extend(r, a.Epoch, a.Deadline)
		case lease.Lapse:
			m.lapse(r, a)
		case lease.Submit:
			m.submit(r, a.Command, back)
		case lease.Say:
			m.lg.Info("lease", "resource", r.name, "reason", a.Reason)
		}
	}
}

func (m *member) send(to string, msg lease.Message) {
	if to == m.id {
		m.local = append(m.local, datagram{from: m.id, message: msg})
		return
	}
	b, err := msg.Append(nil)
	if err != nil {
		m.lg.Error("send", "error", err)
		return
	}
	if to != lease.Everyone {
		m.net.Send(to, b)
		return
	}
	for _, p := range peersOf(m.n.current()) {
		if p.ID == m.id {
			m.local = append(m.local, datagram{from: m.id, message: msg})
		} else {
			m.net.Send(p.ID, b)
		}
	}
}

// save writes to disk; what follows from it is said after that.
func (m *member) save(r *machines, a lease.Action, back func(time.Duration, *machines, lease.Event)) {
	w := func() {
		var err error
		switch a.What {
		case lease.Seal:
			err = m.store.PutSealed(r.name, a.Epoch)
		case lease.Promise:
			err = m.store.PutPromised(r.name, a.Epoch)
		case lease.Hold:
			err = m.store.PutLongest(a.Hold)
		}
		if err != nil {
			m.lg.Error("write to the state directory", "resource", r.name, "error", err)
		}
		m.post(func(now time.Duration) {
			back(now, r, lease.Event{Kind: lease.Stored, What: a.What, Epoch: a.Epoch, Hold: a.Hold, Err: err})
		})
	}
	select {
	case m.writes <- w:
	case <-m.done:
	}
}

// extend moves the kernel's deadline first and ours after it: nobody believes longer than the kernel.
func (m *member) extend(r *machines, epoch uint64, deadline time.Duration) {
	over := func(why string) {
		r.liveUntil.Store(0)
		m.later(func(now time.Duration) { m.hold(now, r, lease.Event{Kind: lease.GiveUp, Reason: why}) })
	}
	renewed := r.opened == epoch
	until := r.liveUntil.Load()
	if renewed && until == 0 {
		over(seenLapsed)
		return
	}
	if !renewed {
		// From here on something of the resource is up: no pledge is told before it is off again.
		m.stand(m.n.o.Now(), r, lease.Event{Kind: lease.Idle, On: false})
	}
	if g := m.n.o.Guard; g != nil && !r.parked {
		var err error
		if renewed {
			err = g.Refresh(r.name, deadline)
		} else {
			err = g.Open(r.name, deadline)
		}
		if err != nil {
			over(fmt.Sprintf("the guard could not be set: %v", err))
			return
		}
	}
	if !renewed {
		r.liveUntil.Store(int64(deadline))
	} else if !r.liveUntil.CompareAndSwap(until, int64(deadline)) {
		over(seenLapsed)
		return
	}
	r.opened = epoch
	r.renewals++
	m.n.watch.notify()
}

// seenLapsed: the instances have taken the addresses off meanwhile, and wait for another grant.
const seenLapsed = "the lease was renewed too late: it had been seen to have lapsed"

// later runs f on the loop after what runs now. It must not wait for the loop, which is us.
func (m *member) later(f func(now time.Duration)) {
	m.n.tasks.Go(func() error { m.post(f); return nil })
}

// lapse shuts the guard, then takes the addresses off.
func (m *member) lapse(r *machines, a *lease.Action) {
	epoch, reason := a.Epoch, a.Reason
	r.liveUntil.Store(0)
	if g := m.n.o.Guard; g != nil {
		if err := g.Shut(r.name); err != nil {
			m.lg.Error("shut the guard", "resource", r.name, "error", err)
		}
	}
	r.granted, r.idle, r.parked = 0, false, false
	m.n.watch.notify()
	m.lg.Info("lease over", "resource", r.name, "epoch", epoch, "reason", reason)
	if a.Lost && m.n.current().Policy == string(lease.Suicide) {
		m.n.o.Host.Lost(r.name, reason)
	}
	m.stand(m.n.o.Now(), r, lease.Event{Kind: lease.Idle, On: false}) // also of an epoch that never was live: Revoke says when all is off
	m.n.o.Host.Revoke(r.name, reason, func() {
		m.post(func(now time.Duration) {
			r.idle = true
			m.stand(now, r, lease.Event{Kind: lease.Idle, On: true})
			m.hold(now, r, lease.Event{Kind: lease.Idle, On: true})
		})
	})
}

// park takes the addresses off behind a shut guard, or lets them come back with the next renewal.
func (m *member) park(now time.Duration, r *machines, on bool, off func()) {
	if r.parked = on; !on {
		r.opened = 0 // the next renewal opens the guard, and then the instances are granted
		if !r.eligible {
			m.hold(now, r, lease.Event{Kind: lease.GiveUp, Reason: "after a planned stop that did not come: " + r.why}) // none can be: another node may serve
		}
		return
	}
	if g := m.n.o.Guard; g != nil {
		if err := g.Shut(r.name); err != nil {
			m.lg.Error("shut the guard", "resource", r.name, "error", err)
		}
	}
	r.granted = 0
	m.n.o.Host.Revoke(r.name, "the agent prepares a planned stop", off)
	m.n.watch.notify()
}

// submitTime bounds how long the outcome of a command is waited for.
const submitTime = time.Second

func (m *member) submit(r *machines, c record.Command, back func(time.Duration, *machines, lease.Event)) {
	m.lg.Debug("submit", "command", c.String())
	m.n.tasks.Go(func() error {
		ctx, cancel := context.WithTimeout(context.Background(), submitTime)
		defer cancel()
		err := m.apply(ctx, c)
		if err != nil {
			m.lg.Debug("not in the log", "command", c.String(), "error", err)
		}
		m.post(func(now time.Duration) { back(now, r, lease.Event{Kind: lease.Submitted, Err: err}) })
		return nil
	})
}

// received hands a message to the machines that it concerns.
func (m *member) received(now time.Duration, d datagram) {
	msg := d.message
	if d.payload != nil {
		var err error
		if msg, err = lease.Decode(d.payload); err != nil {
			m.lg.Debug("datagram", "peer", d.from, "error", err)
			return
		}
	}
	r := m.machines[msg.Resource]
	if r == nil {
		return
	}
	ev := lease.Event{Kind: lease.Received, From: d.from, Message: &msg}
	switch msg.Kind {
	case lease.Renew:
		m.vote(now, r, ev)
		m.coordinate(now, r, ev)
	case lease.SealQuery, lease.SealIt:
		m.vote(now, r, ev)
	case lease.WouldSeal, lease.Wait, lease.Sealed, lease.Want:
		m.coordinate(now, r, ev)
	case lease.Report:
		m.coordinate(now, r, ev)
		if r.holder != nil {
			m.hold(now, r, ev)
		}
	case lease.Refused:
		m.coordinate(now, r, ev)
		if r.holder != nil {
			m.hold(now, r, ev)
		}
	case lease.Renewed, lease.PeerOK:
		if r.holder != nil {
			m.hold(now, r, ev)
		}
	case lease.PeerRenew:
		if r.candidate != nil {
			m.stand(now, r, ev)
		}
	case lease.Push:
		var p pushed
		if err := json.Unmarshal(msg.Record, &p); err != nil || p.Name != r.name {
			m.lg.Debug("pushed record", "peer", d.from, "error", err)
			return
		}
		if rec, ok := p.whole(r.rec); ok {
			m.known(now, rec)
		}
	}
}

// known takes a committed record: from our own log, or from the leader, which is ahead of it.
func (m *member) known(now time.Duration, rec *record.Resource) {
	r := m.machines[rec.Name]
	if r == nil || r.rec != nil && rec.Index <= r.rec.Index {
		return
	}
	if r.rec == nil || rec.Epoch != r.rec.Epoch || rec.Phase != r.rec.Phase {
		m.lg.Info("record", "resource", rec.Name, "epoch", rec.Epoch, "phase", rec.Phase.String(), "holder", rec.Holder.Node, "rule", rec.Rule.String(), "reason", rec.Why)
	}
	r.rec = rec
	m.push(now, r)
	m.all(now, r, lease.Event{Kind: lease.Known, Record: rec})
	m.n.watch.notify()
}

// push sends a record that we know as leader around: the log itself tells its followers with the next entry, or much later.
func (m *member) push(now time.Duration, r *machines) {
	if !m.leading || r.rec == nil {
		return
	}
	if r.rec.Phase == record.Electing || r.rec.Phase == record.Granted {
		m.pushAt = now + m.n.params.Every()/2
	}
	b, err := json.Marshal(shorten(r.rec))
	if err != nil {
		m.lg.Error("push a record", "error", err)
		return
	}
	msg := lease.Message{Kind: lease.Push, Resource: r.name, Epoch: r.rec.Epoch, Record: b}
	if b, err = msg.Append(nil); err != nil {
		return // too long for a datagram: the log brings it
	}
	for _, p := range peersOf(m.n.current()) {
		if p.ID != m.id {
			m.net.Send(p.ID, b)
		}
	}
}

// led is told when we lead the log, and have all of it, or no longer.
func (m *member) led(now time.Duration, on bool) {
	m.leading = on
	for _, r := range m.order {
		m.coordinate(now, r, lease.Event{Kind: lease.Leading, On: on})
		if on {
			m.push(now, r)
			m.found(r)
		}
	}
	m.n.watch.notify()
}

// found puts a plain resource into the log: any data node may be its first holder.
func (m *member) found(r *machines) {
	if r.kind != record.Plain || r.rec != nil || r.init {
		return
	}
	c := record.Command{Op: record.Init, Resource: r.name, Kind: record.Plain, Why: "made from the configuration file"}
	names := dataNodes(m.n.current())
	for _, v := range m.log.Members() {
		for _, name := range names {
			if v.ID == name && v.Incarnation != "" {
				c.Rule.S = append(c.Rule.S, record.Member{Node: name, Incarnation: v.Incarnation})
			}
		}
	}
	r.init = true
	m.submit(r, c, func(_ time.Duration, r *machines, ev lease.Event) {
		r.init = false
		if ev.Err != nil {
			m.lg.Warn("make a resource", "resource", r.name, "error", ev.Err)
			time.AfterFunc(time.Second, func() {
				m.post(func(time.Duration) {
					if m.leading {
						m.found(r)
					}
				})
			})
		}
	})
}

// want asks whoever leads to look at the lease of the master that we miss.
func (m *member) want(resource string) {
	if r := m.machines[resource]; r != nil {
		m.send(lease.Everyone, lease.Message{Kind: lease.Want, Resource: resource, Boot: m.n.boot})
	}
}

// instances takes the verdict of the node's instances.
func (m *member) instances(now time.Duration, resource string, ok bool, reason string, priority uint8) {
	r := m.machines[resource]
	if r == nil || r.holder == nil {
		return
	}
	r.eligible, r.why, r.priority = ok, reason, priority
	highest := uint8(0)
	for _, r := range m.order {
		highest = max(highest, r.priority)
	}
	m.n.priority.Store(uint32(highest))
	m.judge(now, r)
}

// agentReturns is how long the agent of a holder may be away, as a restart of it takes, before the resource goes elsewhere.
const agentReturns = 2 * time.Second

// judge tells the machines whether this node may be granted the resource.
func (m *member) judge(now time.Duration, r *machines) {
	ev := lease.Event{Kind: lease.Eligible, On: r.eligible, Reason: r.why, Priority: r.priority}
	mine := r.rec != nil && r.rec.Holds(m.n.o.Self.Name, m.n.boot)
	if r.kind == record.PostgreSQL && ev.On {
		switch {
		case r.agent == nil && mine && now < r.gone+agentReturns:
		case r.agent == nil:
			ev.On, ev.Reason = false, "no agent is connected (is pgnotify.service running?)"
		case !r.agent.ok:
			ev.On, ev.Reason = false, r.agent.why
		}
	}
	if ev.On {
		ev.Reason = ""
	}
	r.told = ev
	m.stand(now, r, ev)
	m.hold(now, r, ev)
	if mine && r.kind == record.PostgreSQL && r.agent == nil && now >= r.gone+agentReturns {
		m.hold(now, r, lease.Event{Kind: lease.GiveUp, Reason: "the agent is gone"})
	}
}

// holderNow is the node that holds an active resource, which the leader of the log had better not be; "" if there is none.
func (m *member) holderNow() string {
	for _, r := range m.log.State().Resources {
		if r.Phase == record.Active {
			return r.Holder.Node
		}
	}
	return ""
}

// settled waits until nothing of ours is held in the log, or ctx ends.
func (m *member) settled(ctx context.Context) {
	changed, cancel := m.n.watch.subscribe()
	defer cancel()
	for {
		clear := make(chan bool, 1)
		m.post(func(time.Duration) {
			ok := true
			for _, r := range m.order {
				ok = ok && (r.rec == nil || !r.rec.Holds(m.n.o.Self.Name, m.n.boot))
			}
			clear <- ok
		})
		select {
		case ok := <-clear:
			if ok {
				return
			}
		case <-m.done:
			return
		case <-ctx.Done():
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

// stepDown gives the leadership of the log to another voter before we go.
func (m *member) stepDown(ctx context.Context) { m.log.StepDown(ctx) }

// directory is the store as the links ask it.
type directory struct{ s *store.Store }

// Admit implements link.Directory.
func (d directory) Admit(peer link.Self) error {
	err := d.s.Admit(peer.ID, store.Seen{Incarnation: peer.Incarnation, Starts: peer.Starts, Boot: peer.Boot, Words: peer.Words})
	if outlived := (*store.OutlivedError)(nil); errors.As(err, &outlived) {
		return final{err}
	}
	return err
}

// final is an error of the store in the words of the links.
type final struct{ error }

func (final) Is(target error) bool { return target == link.ErrOutlived }

// transportTimeout bounds one request between two voters' logs.
const transportTimeout = time.Second

func newTransport(layer raft.StreamLayer, lg *slog.Logger) raft.Transport {
	return raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{Stream: layer, MaxPool: 3, Timeout: transportTimeout, Logger: raftlog.Logger(lg)})
}
