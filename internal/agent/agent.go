package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"pgvrrp/internal/agent/core"
	"pgvrrp/internal/control"
	"pgvrrp/internal/postgres"
	"pgvrrp/internal/promote"
	"pgvrrp/internal/quiet"
)

// Stream is the connection on which vrrpd tells of the resource, and on which the agent speaks for the server.
type Stream interface {
	Agent(ctx context.Context, h control.AgentHello, f func(control.AgentEvent) error) error
	AgentEligible(ctx context.Context, q control.EligibleRequest) error
	Status(ctx context.Context) (control.Status, error)
}

// Log is what changes or reads the record of the resource.
type Log interface {
	Pledge(ctx context.Context, q control.PledgeReport) error
	Advanced(ctx context.Context, q control.AdvanceReport) error
	SetRule(ctx context.Context, q control.RuleRequest) error
	GiveBack(ctx context.Context, q control.GiveBackRequest) error
	ReadLog(ctx context.Context, resource string) (control.Resource, error)
}

// Orders are for vrrpd itself, the log's settings and the other agents.
type Orders interface {
	Park(ctx context.Context, q control.ParkRequest) error
	Tell(ctx context.Context, m control.AgentMessage) error
	Init(ctx context.Context, q control.InitRequest) error
	Pause(ctx context.Context, q control.PauseRequest) error
	Set(ctx context.Context, q control.SetRequest) error
}

// Vrrpd is vrrpd's control socket; *control.Client is one.
type Vrrpd interface {
	Stream
	Log
	Orders
}

// Database is the local server; *Machine is one.
type Database interface {
	// Look is not ok if nothing can be said.
	Look(ctx context.Context) (s core.Server, ok bool)
	// Do carries out an action of the queue, Call one that runs beside it.
	Do(ctx context.Context, a core.Action) (core.Result, error)
	Call(ctx context.Context, a core.Action) (core.Result, error)
	// Settled: the server streams, and old data may go.
	Settled() error
	Upkeep(ctx context.Context, u Upkeep) error
	// Disk writes a little where the WAL is, and waits until that is on disk.
	Disk(ctx context.Context) error
	Version() string
	Work() string
}

// Options are what an agent works with.
type Options struct {
	Settings promote.Settings
	Keeper   Keeper
	Database Database
	Vrrpd    Vrrpd
	Now      func() time.Duration // since boot, by CLOCK_BOOTTIME
	Log      *slog.Logger
	// NewTimer makes the loops' timers; nil: quiet.NewTimer.
	NewTimer func() quiet.Timer
	// Note keeps a line of the history; nil: none is kept.
	Note func(promote.Entry) error
	// Ready is told once the agent looks after the server; nil: nobody.
	Ready func()
	Times core.Times // zero: the defaults
	// Family is where the servers of the nodes are; the Machine has the same.
	Family *Family
}

// Family is who the data nodes are and where their servers listen.
type Family = family

// NewFamily knows nobody yet; port is our own server's, and everybody's until they say otherwise.
func NewFamily(port int) *Family { return newFamily(port) }

// SetFamily tells a machine where the other nodes' servers are.
func (m *Machine) SetFamily(f *Family) { m.family = f }

// Agent is one agent. All fields below in are the loop's.
type Agent struct {
	o     Options
	marks *marks
	first core.Marks
	in    chan func()
	stop  chan struct{} // closed when the loop has ended
	kick  chan struct{} // a look is wanted now
	pace  atomic.Int64  // between two looks
	queue *queue

	core       *core.Agent
	timer      quiet.Timer
	known      keptFamily
	unkept     bool // known is not on disk
	resource   control.Resource
	connected  bool
	refused    string // why vrrpd does not take us
	reattach   context.CancelFunc
	hello      control.AgentHello
	server     core.Server
	looked     bool
	last       map[string]NodeState // of the others, by what they said
	verdict    core.Action
	opened     uint64
	orders     sync.Mutex    // of maintenance on and off, with what they leave on disk
	parked     uint64        // the epoch whose address was taken off for a planned stop
	parkedAt   time.Duration // when
	dropping   uint64        // the epoch whose address the next stop takes off; the queue's
	hungSince  time.Duration // the server lives and does not answer since then; 0: it answers
	turned     time.Duration // the last turn of the loop
	unseenFrom time.Duration // since when nobody could look at the server, while we ran
	ailing     string        // why the disk of the WAL takes no writes; "": it does
	said       []saying
	saidNext   int
	waiters    []*waiter
	asks       map[uint64]chan message // questions to other agents
	askNext    uint64
	lefts      map[string][]chan struct{} // who waits for the Left of a holder
	told       NodeState                  // what the others know of us
	tellAt     time.Duration
	fresh      bool // we have just connected, and know nothing of the others
	telling    atomic.Bool
	upkeepAt   time.Duration
	upkeeping  atomic.Bool
	calls      errgroup.Group
	ctx        context.Context // of the run
}

// saying is one line of what the machine said.
type saying struct {
	n    int
	text string
}

// waiter waits until cond, which runs on the loop, says that it is over.
type waiter struct {
	cond func() (done bool, err error)
	got  chan error
}

// errAgain: the data nodes are others, and the machine is made anew.
var errAgain = errors.New("the data nodes have changed")

// New makes an agent from what is on disk. It does nothing before Run.
func New(o Options) (*Agent, error) {
	m, first, err := openMarks(o.Keeper)
	if err != nil {
		return nil, err
	}
	if o.NewTimer == nil {
		o.NewTimer = quiet.NewTimer
	}
	if o.Now == nil {
		o.Now = quiet.BootTime
	}
	if o.Note == nil {
		o.Note = func(promote.Entry) error { return nil }
	}
	a := &Agent{
		o: o, marks: m, first: first, in: make(chan func(), 1024), stop: make(chan struct{}), kick: make(chan struct{}, 1),
		last: map[string]NodeState{}, asks: map[uint64]chan message{}, lefts: map[string][]chan struct{}{},
	}
	if _, err := o.Keeper.Kept(familyName, &a.known); err != nil {
		o.Log.Warn("what was known of the nodes is lost, vrrpd will tell", "reason", err)
		a.known = keptFamily{}
	}
	return a, nil
}

// firstStatus is how long the start waits for vrrpd to tell who the nodes are.
const firstStatus = 500 * time.Millisecond

// Run looks after the server until ctx ends. PostgreSQL runs on after it.
func (a *Agent) Run(ctx context.Context) error {
	defer close(a.stop)
	sctx, cancel := context.WithTimeout(ctx, firstStatus)
	k, err := a.family(sctx)
	cancel()
	switch {
	case err == nil:
		if err := a.remember(k); err != nil {
			return err
		}
	case a.known.Self == "":
		a.o.Log.Warn("vrrpd does not tell who the nodes are, and was never here: waiting", "reason", err)
	default:
		a.o.Log.Warn("vrrpd does not tell who the nodes are, going on with what it told before", "reason", err)
	}
	for {
		err := a.session(ctx)
		if !errors.Is(err, errAgain) {
			return err
		}
		a.o.Log.Info("the data nodes have changed, beginning anew", "nodes", slices.Sorted(maps.Keys(a.known.Nodes)))
		// As after a restart: what counts is on disk. But nobody restarted the agent: what an operator has stopped stays so.
		away := a.core.Away()
		if a.marks, a.first, err = openMarks(a.o.Keeper); err != nil {
			return err
		}
		a.first.Away = away
	}
}

// family asks vrrpd who the nodes are.
func (a *Agent) family(ctx context.Context) (keptFamily, error) {
	s, err := a.o.Vrrpd.Status(ctx)
	if err != nil {
		return keptFamily{}, err
	}
	if s.Quorum == nil {
		return keptFamily{}, errors.New("ask vrrpd for the nodes: its file has no quorum block")
	}
	k := nodesOf(s.Quorum)
	if a.o.Settings.Node != "" && a.o.Settings.Node != k.Self {
		return keptFamily{}, fmt.Errorf("ask vrrpd for the nodes: this node is %s there and %s in %s", k.Self, a.o.Settings.Node, a.o.Settings.File)
	}
	return k, nil
}

// remember keeps who the nodes are.
func (a *Agent) remember(k keptFamily) error {
	a.o.Family.set(k)
	old, err := json.Marshal(a.known)
	if err != nil {
		return err
	}
	now, err := json.Marshal(k)
	if err != nil {
		return err
	}
	a.known = k
	if a.unkept = a.unkept || string(old) != string(now); !a.unkept {
		return nil
	}
	err = a.o.Keeper.Keep(familyName, k)
	a.unkept = err != nil
	return err
}

// session runs until ctx ends or the nodes are others.
func (a *Agent) session(ctx context.Context) error {
	set := a.o.Settings
	a.o.Family.set(a.known)
	a.core = core.New(core.Options{
		Node: a.known.Self, Peers: a.known.peers(), OnCrash: core.Crash(set.OnCrash), Rewind: set.Rewind, Clone: set.Reclone, Times: a.o.Times, Archiver: set.Timeouts.Stop,
	}, a.first)
	if a.first.Away.On {
		a.o.Log.Info("an operator has the server: it is left alone until pgnotify maintenance off, or start")
	}
	machine := a.core
	a.queue = newQueue(a.carryOut, func(d core.Done) { a.post(func() { a.stepOf(machine, d) }) })
	a.looked, a.resource, a.connected, a.opened, a.parked, a.dropping = false, control.Resource{}, false, 0, 0, 0
	a.pace.Store(int64(paceBusy))

	tasks, ctx := errgroup.WithContext(ctx)
	a.ctx = ctx
	if a.ailing != "" {
		a.step(core.Wish{Kind: core.Disk, Why: a.ailing}) // the machine before knew
	}
	tasks.Go(func() error { return a.queue.run(ctx) })
	tasks.Go(func() error { return a.watch(ctx) })
	tasks.Go(func() error { return a.attach(ctx) })
	tasks.Go(func() error { return a.nodes(ctx) })
	tasks.Go(func() error { return a.disk(ctx) })
	tasks.Go(func() error { return a.loop(ctx) })
	err := tasks.Wait()
	if cerr := a.calls.Wait(); err == nil {
		err = cerr
	}
	return err
}

// post has f run on the loop.
func (a *Agent) post(f func()) {
	select {
	case a.in <- f:
	case <-a.stop:
	}
}

// ask has f run on the loop and waits until it has.
func (a *Agent) ask(ctx context.Context, f func()) error {
	done := make(chan struct{})
	select {
	case a.in <- func() { f(); close(done) }:
	case <-a.stop:
		return errors.New("the agent has ended")
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	select {
	case <-done:
		return nil
	case <-a.stop:
		return errors.New("the agent has ended")
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// until waits until cond says that it is over. It runs on the loop, now and after each turn.
func (a *Agent) until(ctx context.Context, cond func() (done bool, err error)) error {
	w := &waiter{cond: cond, got: make(chan error, 1)}
	if err := a.ask(ctx, func() { a.waiters = append(a.waiters, w) }); err != nil {
		return err
	}
	select {
	case err := <-w.got:
		return err
	case <-a.stop:
		return errors.New("the agent has ended")
	case <-ctx.Done():
		a.post(func() { a.waiters = slices.DeleteFunc(a.waiters, func(x *waiter) bool { return x == w }) })
		return context.Cause(ctx)
	}
}

// upkeepEvery is how often slots and history files are looked after.
const (
	upkeepEvery = 2 * time.Second
	parkedTime  = 2 * time.Second  // after that an address that was taken off for a stop that never came returns
	hungTime    = 20 * time.Second // a server that lives and takes no session so long is stopped
	unseenTime  = 4 * time.Second  // one that can't be looked at so long, and half as long again while we surely ran, is given up
	diskEvery   = time.Second      // how often a holder's disk is asked whether it takes writes
	diskTime    = 2 * time.Second  // how long that may take
	diskFails   = 3                // so often in a row, and the epoch is given back
)

// loop owns the machine. It is all that steps it.
func (a *Agent) loop(ctx context.Context) error {
	a.timer = a.o.NewTimer()
	defer a.timer.Stop()
	a.timer.Reset(0)
	if a.o.Ready != nil {
		a.o.Ready()
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case f := <-a.in:
			f()
		case <-a.timer.C():
			a.step(core.Tick{})
		}
		if err := a.turn(); err != nil {
			return err
		}
	}
}

// turn is what follows every event.
func (a *Agent) turn() error {
	now := a.o.Now()
	a.waiters = slices.DeleteFunc(a.waiters, func(w *waiter) bool {
		done, err := w.cond()
		if done || err != nil {
			w.got <- err
		}
		return done || err != nil
	})
	a.setPace()
	a.gossip(now)
	a.upkeep(now)
	a.unpark(now)
	a.unhang(now)
	a.unseen(now)
	wake := a.core.Wake()
	a.timer.Reset(max(0, min(now+core.TellEvery, wake)-now))
	return nil
}

// stepOf is step for what a machine has asked for, which one that came after it knows nothing of.
func (a *Agent) stepOf(machine *core.Agent, ev core.Event) {
	if a.core == machine {
		a.step(ev)
	}
}

// step gives the machine an event and begins what it wants done.
func (a *Agent) step(ev core.Event) {
	for _, act := range a.core.Step(a.o.Now(), ev) {
		switch {
		case !act.Kind.Call():
			a.o.Log.Debug("action", "id", act.ID, "act", act.String())
			a.queue.push(act)
		default:
			a.begin(act)
		}
	}
}

// carryOut is an action of the queue, on its goroutine.
func (a *Agent) carryOut(ctx context.Context, act core.Action) core.Done {
	began := time.Now()
	d := core.Done{ID: act.ID}
	if act.Kind != core.Stop {
		a.dropping = 0
	}
	switch act.Kind {
	case core.PersistPromise, core.PersistAttempt, core.PersistMarker, core.PersistMark:
		if act.Kind == core.PersistMarker && act.Marker == core.NoMarker {
			// First: data that others count on must never be taken for a copy that nobody has used.
			if err := a.o.Database.Settled(); err != nil {
				a.o.Log.Warn("end a rebuild", "reason", err)
			}
		}
		d.Err = a.marks.persist(act)
	case core.DropVIP:
		a.dropping = act.Epoch // by the stop that follows
		a.lookAfter(ctx, &d)
	case core.Stop:
		dropped := a.dropSoon(ctx)
		d.Result, d.Err = a.o.Database.Do(ctx, act)
		dropped()
		a.lookAfter(ctx, &d)
	case core.Hold:
		hctx, cancel := context.WithTimeout(ctx, holdTime)
		d.Result, d.Err = a.o.Database.Do(hctx, act)
		cancel()
		if d.Err != nil && ctx.Err() == nil {
			d.Err = a.mustNotAnswer(ctx, d.Err)
		}
		a.lookAfter(ctx, &d)
	default:
		d.Result, d.Err = a.o.Database.Do(ctx, act)
		a.lookAfter(ctx, &d)
	}
	took := time.Since(began)
	switch {
	case d.Err != nil && ctx.Err() != nil:
		a.o.Log.Debug("broken off", "act", act.String(), "reason", d.Err)
	case d.Err != nil:
		a.o.Log.Warn("failed", "act", act.String(), "reason", d.Err, "took", took)
	case act.Kind != core.PersistMark:
		a.o.Log.Debug("done", "id", act.ID, "act", act.String(), "took", took)
	}
	return d
}

// farewell is how long after the beginning of a planned stop the address goes: until then the server tells its clients that it goes.
const farewell = 20 * time.Millisecond

// dropSoon takes the address off for a planned stop that begins now. Were it off before, nothing that the server says to those who are
// connected would arrive, and they would find out by silence; and until it is off, whoever connects is refused at once. The call that it
// returns, at the end of the stop, waits until it is off.
func (a *Agent) dropSoon(ctx context.Context) (wait func()) {
	epoch := a.dropping
	a.dropping = 0
	if epoch == 0 {
		return func() {}
	}
	stopped, off := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(off)
		t := time.NewTimer(farewell)
		defer t.Stop()
		select {
		case <-t.C:
		case <-stopped:
		}
		pctx, cancel := context.WithTimeout(ctx, orderTime)
		defer cancel()
		a.post(func() { a.parked, a.parkedAt = epoch, a.o.Now() })
		if err := a.o.Vrrpd.Park(pctx, control.ParkRequest{Resource: a.o.Settings.Resource, Epoch: epoch, On: true}); err != nil {
			a.o.Log.Warn("take the address off for a planned stop", "reason", err) // it goes with the epoch
		}
	}()
	return func() { close(stopped); <-off }
}

// holdTime is how long a server may take to be put on hold.
const holdTime = 2 * time.Second

// mustNotAnswer stops a primary that can't be put on hold: nobody may hear of a commit that it makes. One that was never ours, because
// nothing was ever promised here, is left alone.
func (a *Agent) mustNotAnswer(ctx context.Context, why error) error {
	s, ok := a.o.Database.Look(ctx)
	if a.marks.get().Promise == 0 || ok && (!s.Running || s.Answering && s.InRecovery) {
		return why
	}
	if hold, ok := core.ParseSSN(s.SSN); ok && s.Answering && hold.IsHold() {
		return why // it is on hold, whatever failed
	}
	a.o.Log.Error("the server can't be put on hold: stopping it", "reason", why)
	_, err := a.o.Database.Do(ctx, core.Action{Kind: core.Stop})
	return errors.Join(why, err)
}

// lookAfter adds to an outcome what the server is like after it.
func (a *Agent) lookAfter(ctx context.Context, d *core.Done) {
	s, ok := a.o.Database.Look(context.WithoutCancel(ctx))
	if !ok {
		a.lookNow()
		return
	}
	d.Server = &s
	a.post(func() { a.server, a.looked = s, true })
}

// orderTime is the patience with a call to vrrpd. A rule has less: commits may wait for it, and behind a leader that has just died there
// soon is another one.
const (
	orderTime = 2 * time.Second
	ruleTime  = 300 * time.Millisecond
)

// begin starts a call beside the queue.
func (a *Agent) begin(act core.Action) {
	switch act.Kind {
	case core.Say:
		a.say(act.Text)
		return
	case core.Open:
		a.opened = act.Epoch
		a.o.Log.Info("open: the rule is in force", "epoch", act.Epoch)
		return
	case core.Eligible:
		a.verdict = act
		a.tellVerdict()
		return
	case core.Cancel:
		a.queue.stop(act.Ref)
		return
	case core.Left:
		a.send(act.Node, message{Kind: kindLeft})
		return
	}
	act.Names, act.Numbers = slices.Clone(act.Names), slices.Clone(act.Numbers)
	machine := a.core
	a.calls.Go(func() error {
		began := time.Now()
		d := a.call(a.ctx, act)
		switch {
		case a.ctx.Err() != nil:
		case d.Err != nil:
			a.o.Log.Debug("call failed", "act", act.String(), "reason", d.Err, "took", time.Since(began))
		default:
			a.o.Log.Debug("call done", "act", act.String(), "took", time.Since(began))
		}
		a.post(func() { a.stepOf(machine, d) })
		return nil //nolint:nilerr // the machine takes the outcome
	})
}

// call carries out a call, on a goroutine of its own.
func (a *Agent) call(ctx context.Context, act core.Action) core.Done {
	d := core.Done{ID: act.ID}
	name := a.o.Settings.Resource
	octx, cancel := context.WithTimeout(ctx, orderTime)
	defer cancel()
	switch act.Kind {
	case core.ReportPledge:
		d.Err = a.o.Vrrpd.Pledge(octx, control.PledgeReport{Resource: name, Epoch: act.Epoch, SystemID: act.SystemID, TLI: act.Pos.TLI, LSN: act.Pos.LSN})
	case core.Advanced:
		d.Err = a.o.Vrrpd.Advanced(octx, control.AdvanceReport{Resource: name})
	case core.SetRule:
		rctx, cancel := context.WithTimeout(ctx, ruleTime)
		defer cancel()
		d.Err = a.o.Vrrpd.SetRule(rctx, control.RuleRequest{Resource: name, Epoch: act.Epoch, Version: act.Ver, S: append([]string{}, act.Names...), TLI: act.TLI, SwitchLSN: act.LSN, Parent: act.Parent})
		d.Unknown = d.Err != nil
	case core.Release:
		d.Err = a.o.Vrrpd.GiveBack(octx, control.GiveBackRequest{Resource: name, Epoch: act.Epoch, Prefer: act.Node, Reason: act.Text})
		d.Unknown = d.Err != nil
	case core.ReadLog:
		var r control.Resource
		if r, d.Err = a.o.Vrrpd.ReadLog(octx, name); d.Err == nil {
			v := viewOf(r)
			d.Result.View = &v
		}
	case core.Leave:
		d.Err = a.leave(octx, act)
	case core.Look:
		a.awaitWord(ctx, act.Node)
		d.Result, d.Err = a.o.Database.Call(ctx, act)
	case core.AfterPromote:
		// The clients come first: a new WAL segment and a checkpoint keep every disk busy.
		t := time.NewTimer(afterwards)
		defer t.Stop()
		select {
		case <-t.C:
			d.Result, d.Err = a.o.Database.Call(ctx, act)
		case <-ctx.Done():
			d.Err = context.Cause(ctx)
		}
	default:
		d.Result, d.Err = a.o.Database.Call(ctx, act)
	}
	return d
}

// afterwards is how long after the opening of an epoch its primary makes itself ready for the rewind of others.
const afterwards = 100 * time.Millisecond

// phases are the log's words.
var phases = [...]core.Phase{core.Released, core.Electing, core.Granted, core.Active}

// viewOf is what the machine needs to know of a resource.
func viewOf(r control.Resource) core.View {
	v := core.View{
		SystemID: r.SystemID, Epoch: r.Epoch, Holder: r.Holder, Mine: r.Mine, Live: r.Live, Deadline: time.Duration(r.Deadline), Timeline: r.Timeline,
		Rule: core.Rule{Holder: r.Rule.Holder, S: r.Rule.S, Version: r.Rule.Version, Gone: r.Rule.Gone}, Paused: r.Paused, SyncNum: r.SyncNum, MinCopies: r.MinCopies,
	}
	for _, p := range phases {
		if p.String() == r.Phase {
			v.Phase = p
		}
	}
	for _, t := range r.Ledger {
		v.Ledger = append(v.Ledger, core.Timeline(t))
	}
	return v
}

// sayings is how many lines are kept for those who wait for one.
const sayings = 64

// say writes what the machine says to the log file and the history.
func (a *Agent) say(text string) {
	a.o.Log.Info(text)
	a.said = append(a.said, saying{a.saidNext, text})
	a.saidNext++
	if len(a.said) > sayings {
		a.said = slices.Delete(a.said, 0, len(a.said)-sayings)
	}
	a.note("agent", text)
}

func (a *Agent) note(command, text string) {
	e := promote.Entry{At: time.Now(), Command: command, Outcome: promote.Done, Reason: text}
	a.calls.Go(func() error {
		if err := a.o.Note(e); err != nil {
			a.o.Log.Warn("history", "reason", err)
		}
		return nil
	})
}

// heard is the first line said since n that cond accepts.
func (a *Agent) heard(n int, cond func(string) bool) (string, bool) {
	for _, s := range a.said {
		if s.n >= n && cond(s.text) {
			return s.text, true
		}
	}
	return "", false
}

// tellVerdict sends the newest verdict; one that came meanwhile goes after it.
func (a *Agent) tellVerdict() {
	if !a.connected || a.telling.Swap(true) {
		return
	}
	v := a.verdict
	a.calls.Go(func() error {
		ctx, cancel := context.WithTimeout(a.ctx, orderTime)
		defer cancel()
		told := true
		if err := a.o.Vrrpd.AgentEligible(ctx, control.EligibleRequest{Resource: a.o.Settings.Resource, Eligible: v.On, Reason: v.Text}); err != nil {
			told = false
			a.o.Log.Debug("tell vrrpd the verdict", "reason", err)
			t := time.NewTimer(attachLast)
			defer t.Stop()
			select {
			case <-a.ctx.Done():
			case <-t.C:
			}
		}
		a.telling.Store(false)
		a.post(func() {
			if !told || a.verdict.On != v.On || a.verdict.Text != v.Text {
				a.tellVerdict()
			}
		})
		return nil
	})
}

// upkeep looks after slots and history files, beside the queue and only while that has nothing to do.
func (a *Agent) upkeep(now time.Duration) {
	if now < a.upkeepAt || !a.looked || !a.server.Answering || a.resource.Epoch == 0 || a.queue.now().ID != 0 || a.upkeeping.Swap(true) {
		return
	}
	a.upkeepAt = now + upkeepEvery
	u := Upkeep{Peers: a.known.peers(), Flushed: map[string]uint64{}}
	for n, s := range a.last {
		if s.heard(now) && s.TLI == a.server.Pos.TLI && slices.Contains(u.Peers, n) {
			u.Flushed[n] = s.lsn()
		}
	}
	if !a.server.InRecovery && a.resource.Mine {
		for _, t := range a.resource.Ledger {
			if t.TLI > 1 && t.TLI < a.server.Pos.TLI {
				u.Ledger = append(u.Ledger, t.TLI)
			}
		}
	}
	a.calls.Go(func() error {
		defer a.upkeeping.Store(false)
		ctx, cancel := context.WithTimeout(a.ctx, orderTime)
		defer cancel()
		if err := a.o.Database.Upkeep(ctx, u); err != nil {
			a.o.Log.Debug("upkeep", "reason", err)
		}
		return nil
	})
}

// unpark lets the address come back if the stop that it went for did not come.
func (a *Agent) unpark(now time.Duration) {
	if a.parked == 0 || now < a.parkedAt+parkedTime {
		return
	}
	epoch := a.parked
	if a.resource.Epoch != epoch || !a.resource.Mine || !a.looked || !a.server.Running {
		a.parked = 0
		return
	}
	if a.queue.now().ID != 0 {
		return // it is being stopped
	}
	a.parkedAt = now // if this fails, once more then
	a.o.Log.Info("the address comes back: the stop that it went for did not come", "epoch", epoch)
	a.calls.Go(func() error {
		ctx, cancel := context.WithTimeout(a.ctx, orderTime)
		defer cancel()
		if err := a.o.Vrrpd.Park(ctx, control.ParkRequest{Resource: a.o.Settings.Resource, Epoch: epoch, On: false}); err != nil {
			a.o.Log.Warn("let the address come back", "reason", err)
			return nil
		}
		a.post(func() {
			if a.parked == epoch {
				a.parked = 0
			}
		})
		return nil
	})
}

// unhang stops a server that lives and takes no sessions for long, unless it is starting.
func (a *Agent) unhang(now time.Duration) {
	if !a.looked || !a.server.Running || a.server.Answering || a.resource.Epoch == 0 || a.server.Recovers && !a.server.Idle {
		a.hungSince = 0
		return
	}
	if a.hungSince == 0 {
		a.hungSince = now
	}
	if now < a.hungSince+hungTime || a.queue.now().ID != 0 || !a.resource.Mine {
		return // whoever is not the holder harms nobody by being slow: a long recovery looks the same
	}
	a.hungSince = now
	a.o.Log.Error("PostgreSQL lives and takes no sessions: stopping it", "for", hungTime)
	a.queue.push(core.Action{Kind: core.Stop})
}

// unseen gives back the epoch of a server that can't be looked at: its files can't be read, or whoever looks waits for the disk. A server that answers, or
// is down, is seen several times a second.
func (a *Agent) unseen(now time.Duration) {
	gap := now - a.turned
	a.turned = now
	if r := &a.resource; !a.looked || !r.Mine || r.Paused || r.Phase != core.Active.String() || now < a.server.At+unseenTime {
		a.unseenFrom = 0
		return
	}
	if a.unseenFrom == 0 || gap > 2*core.TellEvery { // we have been stopped ourselves
		a.unseenFrom = now
	}
	if now < a.unseenFrom+unseenTime/2 {
		return
	}
	a.unseenFrom = now
	why := fmt.Sprintf("PostgreSQL on %s could not be looked at for %v: its disk may have failed", a.known.Self, (now - a.server.At).Round(time.Second))
	a.o.Log.Error(why)
	a.step(core.Wish{Kind: core.GiveBack, Why: why})
}

// disk gives back the epoch of a server whose disk takes no WAL any more: no commit ends there, while sessions that stand and files that are in memory
// look well. Without a standby that has everything nobody else could do better. It takes no other epoch until a write has ended.
func (a *Agent) disk(ctx context.Context) error {
	serves := func() bool {
		r := &a.resource
		return r.Mine && !r.Paused && r.Phase == core.Active.String() && len(r.Rule.S) > 0
	}
	tell := func(err error) {
		a.post(func() {
			if a.ailing = ""; err != nil {
				a.ailing = fmt.Sprintf("the disk of the WAL on %s takes no writes: %v", a.known.Self, err)
			}
			a.step(core.Wish{Kind: core.Disk, Why: a.ailing})
		})
	}
	next := a.o.NewTimer()
	defer next.Stop()
	next.Reset(diskEvery)
	for fails := 0; ; {
		select {
		case <-ctx.Done():
			return nil
		case <-next.C():
			next.Reset(diskEvery)
		}
		asked, known := false, false
		if err := a.ask(ctx, func() { asked, known = serves(), a.ailing != "" }); err != nil || !asked && !known {
			fails = 0
			continue
		}
		bound, cancel := context.WithTimeout(ctx, diskTime)
		err := a.o.Database.Disk(bound)
		cancel()
		switch {
		case ctx.Err() != nil:
			return nil
		case err == nil && known:
			a.o.Log.Info("the disk of the WAL takes writes again")
			tell(nil)
			fails = 0
		case err == nil:
			fails = 0
		case known:
		default:
			fails++
			a.o.Log.Warn("the disk of the WAL does not answer", "times", fails, "reason", err)
			if fails == diskFails {
				tell(err)
			}
		}
	}
}

// findings are what doctor tells of a server, if it can be examined.
func (a *Agent) findings(ctx context.Context) []postgres.Finding {
	d, ok := a.o.Database.(interface {
		Doctor(ctx context.Context, nodes int) []postgres.Finding
	})
	if !ok {
		return nil
	}
	nodes := 0
	if err := a.ask(ctx, func() { nodes = len(a.known.Nodes) }); err != nil {
		return nil
	}
	return d.Doctor(ctx, nodes)
}
