package instance

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"runtime"
	"sync"
	"time"

	"pgvrrp/internal/conf"
	"pgvrrp/internal/control"
	"pgvrrp/internal/quiet"
	"pgvrrp/internal/vrrp"
)

// Network is the host's network as one instance uses it. No method blocks for longer than a system call.
type Network interface {
	// Send sends one VRRP payload.
	Send(payload []byte, source, destination netip.Addr, ttl int) error
	// SetAddresses makes the kernel hold exactly want of the instance's virtual addresses. Safe to repeat; it does as much as
	// it can.
	SetAddresses(want []conf.Address) error
	// Missing are those of the addresses set last that the kernel does not hold.
	Missing() ([]conf.Address, error)
	// SetRoutes makes the kernel hold exactly these of the instance's virtual routes and rules, and names those that it does not
	// hold. Safe to repeat; it does as much as it can.
	SetRoutes(routes []conf.Route, rules []conf.Rule) (missing []string, err error)
	// RenewAddresses restarts the kernel lifetime of the addresses that SetAddresses put there.
	RenewAddresses() error
	// Announce tells the LAN that the addresses are here, now and again while they are held.
	Announce(addrs []conf.Address)
	// Trust says until when, on Options.BootTime, no other router can have taken over. No announcement leaves later without another word.
	Trust(until time.Duration)
	// AnnounceAgain repeats that because somebody else was heard, or had taken an address off.
	AnnounceAgain()
	// StopAnnouncing returns after the last announcement has left.
	StopAnnouncing()
}

// Hooks takes the states in their order; it never blocks.
type Hooks interface {
	Post(HookEvent)
}

// HookEvent is one state for the notify programs.
type HookEvent struct {
	State    string // as in package control
	Seq      uint64
	Priority uint8
	At       time.Time
	Deadline time.Duration // 0: none
	// Contention marks notify_master_rx_lower_pri, which is no change of state.
	Contention bool
	// LineOnly is for the FIFOs alone: no program is run for it.
	LineOnly bool
}

// Options are what an instance needs from the daemon.
type Options struct {
	Config  conf.Instance
	Network Network
	Hooks   Hooks
	Log     *slog.Logger
	// OnTransition is called on the loop for each transition; it must not block.
	OnTransition func(control.Event)
	// Grants decides mastership; nil: plain VRRP does.
	Grants Grants
	// Group is the sync group that decides on mastership of all its members together; nil: none. Not with Grants.
	Group Group
	// NewTimer makes the loop's timer; nil: one of package time.
	NewTimer func() quiet.Timer
	// BootTime is a clock that goes on while the machine is suspended; nil: one that does not.
	BootTime func() time.Duration
}

// advertQueue is how many adverts may wait while the loop is in a system call; more are counted and dropped.
const advertQueue = 16

// heard is what the loop must know of an accepted advert.
type heard struct {
	from     netip.Addr
	priority uint8
	interval time.Duration
}

// repetition is an advert that is heard again and again by a backup, which has nothing to do for it but to restart its timer. The
// loop is not woken for it: it steps the newest one when its timer fires, or before anything else.
type repetition struct {
	of    heard
	known bool      // such adverts need not wake the loop
	at    time.Time // of the newest one that it was not woken for; zero: none
}

// Instance is one running vrrp_instance.
type Instance struct {
	opt     Options
	log     *slog.Logger
	receive receiver // on the receiving goroutine

	adverts chan heard
	calls   chan func(now time.Time)
	done    chan struct{}

	// owned by the loop
	cfg          conf.Instance
	router       *vrrp.Router
	want         []conf.Address // what the kernel should hold for us now
	packet       []byte
	destinations []netip.Addr
	carried      []netip.Addr // the addresses in our adverts
	advert       vrrp.Advert
	signer       *vrrp.Signer // auth_hmac; nil: not used
	known        bool         // the surroundings were told
	around       Surroundings
	source       netip.Addr // the last valid one: a last advert still leaves from it
	startAt      time.Time  // not before this; zero: no delay
	started      bool
	putBacks     int
	putBackSince time.Time
	fault        string // what the router was told last
	priority     uint8  // likewise
	told         uint8  // the effective priority that the FIFOs know
	hookSeq      uint64 // the MASTER event whose hook the addresses wait for; 0: none
	hookBy       time.Time
	renewAt      time.Time // when the lifetime of the addresses is restarted; zero: they have none
	againAt      time.Time // when addresses that could not be set are tried again; zero: they are set
	sending      setback
	holding      setback
	doubt        vrrp.Doubt // what the router was told of both last
	routing      bool       // the routes and rules should be there
	routed       bool       // some of them may be
	routesAgain  time.Time  // when routes that could not be set are tried again; zero: they are set

	member vrrp.Member // what Group was told last; owned by the loop

	// gated, owned by the loop
	refused   bool         // addresses were not set because the lease has lapsed
	serving   bool         // what Grants was told last
	reported  eligibility  // likewise
	freed     []chan error // revocations that wait for the same
	heldUntil time.Time    // when a hold ends and we may be granted mastership again; zero: not held

	ordersMu sync.Mutex
	orders   []order
	ended    bool          // no more orders are taken
	ordered  chan struct{} // orders has some

	timer    quiet.Timer
	due      time.Time // the earliest deadline
	wakes    time.Time // what the timer is set to; zero: it is not, or has fired
	listened bool      // a late timer has been put off once already
	listenBy time.Time // until when
	thawed   bool      // we were stopped for so long that another router may have taken over
	stepped  time.Time // when the router was stepped last

	began     time.Time     // of Run
	woke      time.Duration // on BootTime: when the loop was woken last
	suspended time.Duration // how much BootTime is ahead of the time since began
	slept     time.Duration // how long the machine was suspended since the timer was in time

	mu     sync.Mutex // guards status and what feeds it
	status status
	again  repetition
}

// New makes an instance that does nothing until Run.
func New(opt Options) (*Instance, error) {
	if opt.NewTimer == nil {
		opt.NewTimer = quiet.NewTimer
	}
	if opt.BootTime == nil {
		began := time.Now()
		opt.BootTime = func() time.Duration { return time.Since(began) }
	}
	router, err := vrrp.NewRouter(routerConfig(&opt.Config, netip.Addr{}, &opt))
	if err != nil {
		return nil, fmt.Errorf("vrrp_instance %s: %w", opt.Config.Name, err)
	}
	i := &Instance{
		opt:      opt,
		log:      opt.Log.With("instance", opt.Config.Name, "vrid", opt.Config.VRID, "interface", opt.Config.Interface),
		adverts:  make(chan heard, advertQueue),
		calls:    make(chan func(time.Time), 16),
		done:     make(chan struct{}),
		ordered:  make(chan struct{}, 1),
		cfg:      opt.Config,
		router:   router,
		priority: opt.Config.Priority,
		told:     opt.Config.Priority,
	}
	i.destinations, i.carried = destinations(&i.cfg), addresses(&i.cfg)
	i.around.Verdict.Priority = opt.Config.Priority
	if i.signer, err = newSigner(&i.cfg); err == nil {
		err = i.receive.configure(&i.cfg, netip.Addr{})
	}
	if err != nil {
		return nil, fmt.Errorf("vrrp_instance %s: %w", opt.Config.Name, err)
	}
	i.status.configure(&i.cfg)
	i.status.waiting = "the state of " + i.cfg.Interface
	return i, nil
}

// Name is the vrrp_instance's name.
func (i *Instance) Name() string { return i.opt.Config.Name }

func routerConfig(c *conf.Instance, source netip.Addr, opt *Options) vrrp.Config {
	return vrrp.Config{
		Version:              vrrp.Version(c.Version),
		VRID:                 c.VRID,
		Priority:             c.Priority,
		AdvertInterval:       c.AdvertInterval,
		DownTimerAdverts:     c.DownTimerAdverts,
		Preempt:              c.Preempt,
		PreemptDelay:         c.PreemptDelay,
		HigherPrioSendAdvert: c.HigherPrioSendAdvert,
		LowerPrioNoAdvert:    c.LowerPrioNoAdvert,
		Source:               source,
		AddressesAfterNotify: c.VIPAfterNotify > 0,
		NotifyRetry:          c.NotifyRetry,
		Gated:                opt.Grants != nil,
		Grouped:              opt.Group != nil,
		TimerExpiredBackup:   uint8(c.TimerExpiredBackup),
	}
}

func destinations(c *conf.Instance) []netip.Addr {
	if !c.Unicast {
		return []netip.Addr{c.Group}
	}
	var all []netip.Addr
	for _, p := range c.Peers {
		all = append(all, p.Addr)
	}
	return all
}

// Run is the loop. It returns after ctx ended, the mastership was given away, the addresses are off and the STOP event is posted.
func (i *Instance) Run(ctx context.Context) error {
	defer close(i.done)
	i.timer = i.opt.NewTimer()
	defer i.timer.Stop()
	i.suspended, i.began = i.opt.BootTime(), time.Now()
	i.report(i.woken())
	i.arm()
	for {
		select {
		case <-ctx.Done():
			now := i.woken()
			i.catchUp()
			i.step(now, vrrp.Event{Kind: vrrp.Shutdown, Reason: "vrrpd stops"})
			i.report(now)
			i.removeLeft()
			i.finish()
			return nil
		case <-i.ordered:
			now := i.woken()
			i.catchUp()
			i.obey(now)
			i.forget()
		case h := <-i.adverts:
			now := i.woken()
			i.catchUp()
			i.lapse(now)
			i.listenFirst(now) // the advert may be the first thing that we notice after a pause
			i.received(now, h)
		case f := <-i.calls:
			now := i.woken()
			i.catchUp()
			i.lapse(now)
			f(now)
			i.forget()
		case <-i.timer.C():
			i.fired(i.woken())
		}
		i.settle()
		i.report(time.Now())
		i.arm()
	}
}

// woken is the time at which the loop has something to do.
func (i *Instance) woken() time.Time {
	i.woke = i.opt.BootTime() // first: if we are stopped between the two clocks, nobody is trusted for too long, and that is no suspension
	now := time.Now()
	if ahead := i.woke - now.Sub(i.began); ahead > i.suspended {
		i.slept += ahead - i.suspended
		i.suspended = ahead
	}
	return now
}

// peersWait is the least time after an advert of ours in which no other router takes over.
func (i *Instance) peersWait() time.Duration {
	return time.Duration(i.cfg.DownTimerAdverts) * i.cfg.AdvertInterval
}

// A timer that is so late means that we were stopped; then the adverts that came meanwhile, which lie in the socket, are read
// before our own timer speaks. Otherwise a paused standby would take a living master for silent.
// The longer we were away, the busier whoever stopped us may still be.
const (
	stalled    = 50 * time.Millisecond
	listenTime = 10 * time.Millisecond // at least
	listenMost = 5 * listenTime        // a tenth of the time that we were late, but no more than this
)

// fired is what the loop's timer is for.
func (i *Instance) fired(now time.Time) {
	i.wakes = time.Time{}
	i.lapse(now) // before a single advert more
	late := i.listenFirst(now)
	if i.router.State() == vrrp.Backup {
		runtime.Gosched() // whoever reads the socket goes first: what lies there is no silence
	}
	i.catchUp()
	i.drain()
	due := i.deadline()
	if !late && !due.Equal(i.due) {
		// We had listened for the sake of an earlier deadline, and may have been stopped once more while we did.
		i.due, i.listened = due, false
		late = i.listenFirst(now)
	}
	if late {
		// What we had heard before the pause may have moved the deadline. We listen nevertheless, unless that is far.
		i.due, i.listened = due, i.listened && due.Before(i.listenBy)
		return
	}
	// A backup that has heard the master meanwhile has nothing to do.
	if now := time.Now(); !now.Before(i.deadline()) {
		i.thawed, i.slept = false, 0
		i.tick(now)
	}
}

// listening reports whether we wait for what came during a pause, or begins to.
func (i *Instance) listening(now time.Time) bool {
	return i.listenFirst(now) || i.listened && now.Before(i.listenBy)
}

// listenFirst puts a late timer off: once, and again if we were stopped while we listened for as long as a peer waits.
func (i *Instance) listenFirst(now time.Time) bool {
	late, least := now.Sub(i.due)+i.slept, stalled
	if i.listened {
		late, least = now.Sub(i.listenBy)+i.slept, max(stalled, i.peersWait())
	}
	if i.due.IsZero() || late < least {
		return false
	}
	i.slept = 0
	listen := min(max(late/10, listenTime), listenMost)
	// A gated master that was replaced meanwhile has no lease any more: that says it, and not an advert.
	i.thawed = !i.Gated() && i.router.State() == vrrp.Active && late >= i.peersWait()
	if i.thawed && late >= i.peersWait()+i.cfg.AdvertInterval && i.cfg.TimerExpiredBackup == 0 {
		// Whoever waited for us has taken over. If the whole machine stood still, nothing of that lies in the socket. With
		// timer_expired_backup the router steps back anyway.
		listen = i.cfg.AdvertInterval + listenMost
	}
	i.listened, i.listenBy = true, now.Add(listen) // and no longer, however many adverts come
	return true
}

// received hands an advert on. A master that was stopped for as long as a peer waits, and then hears another one, has been
// replaced: whatever the priorities say, it must not send a single advert more as master.
func (i *Instance) received(now time.Time, h heard) {
	if i.thawed && h.priority != vrrp.PriorityLeaving {
		i.thawed = false
		i.step(now, vrrp.Event{Kind: vrrp.Stalled, Reason: fmt.Sprintf("stopped for a while, and %s is master meanwhile", h.from)})
	}
	i.step(now, vrrp.Event{Kind: vrrp.Received, From: h.from, Priority: h.priority, Interval: h.interval})
	// Whoever else decides on mastership is told of every advert, and one that we may preempt may start a delay.
	followed := h.priority >= i.router.EffectivePriority() || !i.cfg.Preempt
	if i.opt.Grants == nil && i.opt.Group == nil && h.priority != vrrp.PriorityLeaving && followed && i.router.State() == vrrp.Backup {
		i.mu.Lock()
		i.again = repetition{of: h, known: true}
		i.mu.Unlock()
	}
}

// repeated reports whether an advert is one that the loop need not be woken for, and notes it then. The caller holds mu.
func (i *Instance) repeated(h heard, at time.Time) bool {
	if !i.again.known || i.again.of != h {
		return false
	}
	i.again.at = at
	return true
}

// catchUp steps the advert that the loop was not woken for, if there is one. What comes next happened later.
func (i *Instance) catchUp() {
	i.mu.Lock()
	again := i.again
	i.again.at = time.Time{}
	i.mu.Unlock()
	if again.at.IsZero() {
		return
	}
	if again.at.Before(i.stepped) {
		again.at = i.stepped
	}
	i.received(again.at, again.of)
}

// forget has the next advert wake the loop: it may mean something else now.
func (i *Instance) forget() {
	i.mu.Lock()
	i.again.known = false
	i.mu.Unlock()
}

// settle ends a repetition that means something to a router which is no backup any more, and steps what came meanwhile.
func (i *Instance) settle() {
	if i.router.State() != vrrp.Backup {
		i.forget()
	}
	i.mu.Lock()
	missed := !i.again.known && !i.again.at.IsZero()
	i.mu.Unlock()
	if missed {
		i.catchUp()
		i.settle()
	}
}

// drain handles what was heard before the timer fired: an advert that waits in the queue is no silence. What comes while it does
// is left for later, so that a flood keeps nobody from being obeyed.
func (i *Instance) drain() {
	for range advertQueue {
		select {
		case h := <-i.adverts:
			i.received(i.woken(), h)
		default:
			return
		}
	}
}

func (i *Instance) tick(now time.Time) {
	if !i.startAt.IsZero() && !now.Before(i.startAt) {
		i.startAt = time.Time{}
		i.evaluate(now)
	}
	if i.hookSeq != 0 && !now.Before(i.hookBy) {
		i.hookDone(now, i.hookSeq, fmt.Errorf("not finished within %s", i.cfg.VIPAfterNotify))
	}
	if !i.renewAt.IsZero() && !now.Before(i.renewAt) {
		i.renew(now)
	}
	if !i.againAt.IsZero() && !now.Before(i.againAt) {
		i.setAgain(now)
	}
	if !i.routesAgain.IsZero() && !now.Before(i.routesAgain) {
		i.setRoutes(i.routing)
	}
	i.step(now, vrrp.Event{Kind: vrrp.Tick})
	for _, s := range []*setback{&i.sending, &i.holding} {
		if !s.until.IsZero() && !now.Before(s.until) {
			*s = setback{unproved: s.unproved}
		}
	}
	i.evaluate(now)
}

// deadline is when the loop has something to do; zero: never.
func (i *Instance) deadline() time.Time {
	next := i.router.Deadline()
	for _, d := range [...]time.Time{i.startAt, i.hookBy, i.renewAt, i.againAt, i.routesAgain, i.heldUntil, i.sending.until, i.holding.until} {
		if !d.IsZero() && (next.IsZero() || d.Before(next)) {
			next = d
		}
	}
	return next
}

// arm sets the loop's one timer to the earliest deadline.
func (i *Instance) arm() {
	next := i.deadline()
	i.listened = i.listened && next.Equal(i.due)
	i.due = next
	i.mu.Lock()
	i.status.due = next
	i.mu.Unlock()
	wakes := next
	if i.listened {
		wakes = i.listenBy
	}
	switch {
	case next.IsZero():
		i.wakes = next
		i.timer.Stop()
	case !wakes.Equal(i.wakes): // else it is on its way, and would be late for ever if each advert set it anew
		i.wakes = wakes
		i.timer.Reset(max(time.Until(wakes), 1)) // not at once: whoever reads the socket goes first
	}
}

// Late is how long the loop is behind its own deadline.
func (i *Instance) Late() time.Duration {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.status.due.IsZero() {
		return 0
	}
	return max(0, time.Since(i.status.due))
}

// call runs f on the loop; false if the loop has ended or ctx ends first.
func (i *Instance) call(ctx context.Context, f func(now time.Time)) bool {
	select {
	case i.calls <- f:
		return true
	case <-i.done:
	case <-ctx.Done():
	}
	return false
}

// Release gives mastership away and stays off it for hold; 0 ends a running hold.
func (i *Instance) Release(ctx context.Context, hold time.Duration) error {
	done := make(chan struct{})
	if !i.call(ctx, func(now time.Time) {
		i.step(now, vrrp.Event{Kind: vrrp.Release, Hold: hold, Reason: "by an operator"})
		close(done)
	}) {
		return fmt.Errorf("release %s: the instance has stopped", i.Name())
	}
	select {
	case <-done:
		return nil
	case <-i.done:
		return fmt.Errorf("release %s: the instance has stopped", i.Name())
	case <-ctx.Done():
		return fmt.Errorf("release %s: %w", i.Name(), ctx.Err())
	}
}

// HookDone reports the outcome of the notify programs of one event; h is shown in status.
func (i *Instance) HookDone(ctx context.Context, h control.Hook, err error) {
	i.mu.Lock()
	i.status.hook = &h
	CountHook(&i.status.hooks, h, err)
	i.mu.Unlock()
	i.call(ctx, func(now time.Time) { i.hookDone(now, h.Seq, err) })
}

func (i *Instance) hookDone(now time.Time, seq uint64, err error) {
	if i.hookSeq == 0 || seq != i.hookSeq {
		return
	}
	i.hookSeq, i.hookBy = 0, time.Time{}
	if err == nil {
		i.step(now, vrrp.Event{Kind: vrrp.HookSucceeded, Seq: seq})
		return
	}
	i.step(now, vrrp.Event{Kind: vrrp.HookFailed, Seq: seq, Reason: err.Error()})
}

// StartAfter holds the instance in INIT until t. Call it before Run.
func (i *Instance) StartAfter(t time.Time) { i.startAt = t }

func family(c *conf.Instance) string {
	if c.IPv6 {
		return "IPv6"
	}
	return "IPv4"
}

// stepped is what a step was about.
type stepped struct {
	now    time.Time
	asked  bool // the router's timer has fired, and it may not take over by itself
	reason string
}

// step feeds the router and carries out its actions in their order.
func (i *Instance) step(now time.Time, ev vrrp.Event) {
	s := stepped{now: now, reason: ev.Reason}
	i.stepped = now
	for _, a := range i.router.Step(now, ev) {
		i.do(now, a)
		switch a.Kind {
		case vrrp.Request:
			s.asked, s.reason = true, a.Reason
		case vrrp.Transition:
			s.reason = a.Reason
		}
	}
	i.reportToGroup(s)
	if i.refused {
		i.lapse(now)
	}
	i.tellDoubt(now)
	i.mu.Lock()
	i.status.priority, i.status.heldUntil = i.router.EffectivePriority(), i.router.HeldUntil()
	i.status.addressesWait, i.status.fault = i.router.AddressesWait(), i.router.FaultReason()
	i.mu.Unlock()
}

// Configure puts another configuration of the same virtual router in force: its state and timers stay, its addresses and
// adverts change in one step.
func (i *Instance) Configure(ctx context.Context, c conf.Instance) error {
	if !c.SameVirtualRouter(&i.opt.Config) || c.Version != i.opt.Config.Version {
		return fmt.Errorf("reconfigure %s: it would be another virtual router", i.Name())
	}
	if c.Quorum != i.opt.Config.Quorum {
		return fmt.Errorf("reconfigure %s: its quorum resource can't change while it runs", i.Name())
	}
	result := make(chan error, 1)
	if !i.call(ctx, func(now time.Time) { result <- i.configure(now, c) }) {
		return fmt.Errorf("reconfigure %s: the instance has stopped", i.Name())
	}
	select {
	case err := <-result:
		return err
	case <-i.done:
		return fmt.Errorf("reconfigure %s: the instance has stopped", i.Name())
	}
}

func (i *Instance) configure(now time.Time, c conf.Instance) error {
	signer, err := newSigner(&c)
	if err != nil {
		return err
	}
	if err := i.router.Reconfigure(routerConfig(&c, i.around.Source, &i.opt)); err != nil {
		return err
	}
	if i.signer != nil && signer != nil {
		err = i.signer.Reconfigure(hmacConfig(&c)) // its stamps go on
	} else {
		i.signer = signer
	}
	if err = errors.Join(err, i.receive.configure(&c, i.around.Source)); err != nil {
		return err
	}
	i.cfg = c
	i.destinations, i.carried = destinations(&c), addresses(&c)
	i.mu.Lock()
	i.status.configure(&c)
	i.mu.Unlock()
	i.priority = c.Priority // what Reconfigure set; evaluate tells the router of the trackers again
	if i.router.State() == vrrp.Active && !i.router.AddressesWait() {
		if i.setAddresses(i.held()); i.lapse(now) {
			return nil
		}
		i.setRoutes(true)
		if len(i.want) > 0 {
			i.announce()
		} else {
			i.opt.Network.StopAnnouncing()
		}
	}
	return nil
}
