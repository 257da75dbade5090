package gratarp

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Link is what an announcement needs to know of an interface.
type Link struct {
	Index  int
	MAC    net.HardwareAddr // 6 bytes, or none
	NoARP  bool             // neighbours do not resolve addresses there: nothing is announced
	Router bool             // it forwards IPv6, which the Router flag tells
}

// Sender sends frames in order and goes on behind a failure; *Conn is one.
type Sender interface {
	Send([]Frame) (sent int, err error)
}

// Options are what an Announcer needs.
type Options struct {
	Sender Sender
	Links  func(name string) (Link, bool) // the present state of an interface; asked at every batch, must not block
	Log    *slog.Logger                   // nil: silent
	Now    func() time.Duration           // the clock of Trust; nil: time since New, which stands still while the machine is suspended
}

// Stats counts since the start.
type Stats struct {
	ARP    uint64 // gratuitous ARP packets sent
	NA     uint64 // neighbour advertisements sent
	Failed uint64 // packets of either kind that could not be sent
}

// Announcer repeats the announcements of all virtual routers of a process. It is safe for concurrent use.
type Announcer struct {
	options Options
	pacer   pacer
	wake    chan struct{} // holds one
	arp     atomic.Uint64
	na      atomic.Uint64
	failed  atomic.Uint64

	mu  sync.Mutex
	due map[*Instance]time.Time // when each wants to be called
}

// New makes an announcer. Without Run only first batches go out.
func New(options Options) *Announcer {
	if options.Log == nil {
		options.Log = slog.New(slog.DiscardHandler)
	}
	if options.Now == nil {
		began := time.Now()
		options.Now = func() time.Duration { return time.Since(began) }
	}
	return &Announcer{
		options: options, wake: make(chan struct{}, 1),
		pacer: pacer{next: map[paceKey]time.Time{}}, due: map[*Instance]time.Time{},
	}
}

// Group has all announcements on its interfaces, each of which is in one group only, wait for each other.
type Group struct {
	Interfaces            []string      // at least one
	Interval, GNAInterval time.Duration // between two ARP packets or neighbour advertisements; 0: each interface by itself
}

// SetGroups has these groups in the place of the former ones.
func (a *Announcer) SetGroups(groups []Group) {
	of := map[string]Group{}
	for _, g := range groups {
		for _, name := range g.Interfaces {
			of[name] = g
		}
	}
	a.pacer.mu.Lock()
	defer a.pacer.mu.Unlock()
	a.pacer.groups = of
}

// Stats reads the counters.
func (a *Announcer) Stats() Stats {
	return Stats{ARP: a.arp.Load(), NA: a.na.Load(), Failed: a.failed.Load()}
}

// Run sends what is due after a first batch, until ctx ends, which is no error.
func (a *Announcer) Run(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-a.wake:
		case <-timer.C:
		}
		if next := a.runDue(ctx); !next.IsZero() {
			timer.Reset(time.Until(next))
		} else {
			timer.Stop()
		}
	}
}

// runDue calls the instances whose time has come and returns the next time.
func (a *Announcer) runDue(ctx context.Context) time.Time {
	now := time.Now()
	a.mu.Lock()
	var ready []*Instance
	for i, at := range a.due {
		if !now.Before(at) {
			ready = append(ready, i)
		}
	}
	a.mu.Unlock()
	for _, i := range ready {
		if ctx.Err() != nil {
			break
		}
		i.tick()
	}
	var next time.Time
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, at := range a.due {
		next = earliest(next, at)
	}
	return next
}

// setDue says when an instance wants to be called; zero: never.
func (a *Announcer) setDue(i *Instance, at time.Time) {
	a.mu.Lock()
	if at.IsZero() {
		delete(a.due, i)
	} else {
		a.due[i] = at
	}
	a.mu.Unlock()
	select {
	case a.wake <- struct{}{}:
	default:
	}
}

// Instance announces the addresses of one virtual router.
type Instance struct {
	a    *Announcer
	name string
	gate func() bool // nil: open
	// stopping breaks off a batch that another goroutine is sending.
	stopping atomic.Bool
	until    atomic.Int64 // of the clock: how long our owner is to be trusted
	held     atomic.Bool  // something is due, and waits for the owner's next word

	mu       sync.Mutex // held while packets leave
	schedule schedule
	due      []int
	frames   []Frame
	cache    []cached // by target
}

// cached is a target's frame and what it was made from.
type cached struct {
	link  Link
	frame []byte
}

// Instance makes the announcer of one virtual router; name is for the log.
func (a *Announcer) Instance(name string, timing Timing) *Instance {
	return &Instance{a: a, name: name, schedule: schedule{timing: timing}}
}

// Gate has everything wait for the owner's next word unless open says yes at the moment when it is to leave. It is for one who has not announced
// anything yet; open may be called by any goroutine.
func (i *Instance) Gate(open func() bool) { i.gate = open }

// Trust is the word of an owner that it is master, and until when, on Options.Now, nobody else can have become it: till then packets may leave. Later
// they wait for the next word. A process that was stopped, and runs on, finds its timers due before its owner has seen that it was replaced meanwhile;
// one packet then takes the addresses away from the new master. For the same reason until counts from a time before the others were told, not after.
func (i *Instance) Trust(until time.Duration) {
	i.until.Store(int64(until))
	if i.held.Swap(false) {
		i.a.setDue(i, time.Now())
	}
}

func (i *Instance) trusted() bool {
	return i.a.options.Now() < time.Duration(i.until.Load()) && (i.gate == nil || i.gate())
}

// SetTiming changes the timing, for what is planned from now on.
func (i *Instance) SetTiming(timing Timing) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.schedule.timing = timing
}

// Announce is for taking over: the first batch leaves before it returns, as far as the intervals and the owner's word allow;
// the rest follows from Run until Stop. The error joins what could not be sent, and the plan stands nevertheless. Announce,
// AnnounceAgain and Stop of one instance are for one goroutine.
func (i *Instance) Announce(targets []Target) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.stopping.Store(false)
	if !slices.Equal(i.schedule.targets, targets) || len(i.cache) != len(targets) {
		i.cache = make([]cached, len(targets))
		targets = slices.Clone(targets)
	} else {
		targets = i.schedule.targets
	}
	now := time.Now()
	i.schedule.announce(now, targets)
	return i.send(now)
}

// AnnounceAgain is for contention, a lower-priority advertisement heard while active: a batch now and a second
// one later. It does nothing after Stop, and at most ten times a second.
func (i *Instance) AnnounceAgain() error {
	i.mu.Lock()
	defer i.mu.Unlock()
	now := time.Now()
	i.schedule.announceAgain(now)
	return i.send(now)
}

// Stop ends all announcing: once it returns, no further packet leaves.
func (i *Instance) Stop() {
	i.stopping.Store(true)
	i.mu.Lock()
	defer i.mu.Unlock()
	i.schedule.stop()
	i.held.Store(false)
	i.a.setDue(i, time.Time{})
}

// tick is Run's call.
func (i *Instance) tick() {
	i.mu.Lock()
	defer i.mu.Unlock()
	if err := i.send(time.Now()); err != nil {
		i.a.options.Log.Warn("addresses not announced", "instance", i.name, "error", err)
	}
}

// hold has what is due wait for the owner's next word.
func (i *Instance) hold() {
	i.a.setDue(i, time.Time{})
	i.held.Store(true)
}

// chunk is how many frames leave between two looks at stopping: some 100 µs.
const chunk = 64

// send sends what is due. The caller holds mu.
func (i *Instance) send(now time.Time) error {
	if !i.schedule.active {
		return nil
	}
	if !i.trusted() {
		i.hold()
		return nil
	}
	due, next := i.schedule.step(now, i.a.pacer.take, i.due[:0])
	i.due = due
	left, err := i.sendTargets(due)
	if len(left) > 0 {
		i.schedule.putBack(left)
		i.hold()
	} else {
		i.a.setDue(i, next)
	}
	return err
}

// sendTargets returns what is left of due because its owner is not trusted any more.
func (i *Instance) sendTargets(due []int) (left []int, err error) {
	left = due
	links := map[string]Link{}
	failed := map[string]error{} // by interface
	var errs []error
	frames := i.frames[:0]
	var arps, nas uint64
	flush := func() {
		sent, err := i.a.options.Sender.Send(frames)
		// Which of them failed is not told; the kinds are counted in order.
		lost := uint64(len(frames) - sent)
		i.a.failed.Add(lost)
		n := min(nas, lost)
		i.a.na.Add(nas - n)
		i.a.arp.Add(arps - min(arps, lost-n))
		if err != nil && len(errs) == 0 {
			errs = append(errs, err)
		}
		frames, arps, nas = frames[:0], 0, 0
	}
	for k, n := range due {
		t := i.schedule.targets[n]
		if failed[t.Interface] != nil {
			i.a.failed.Add(1)
			continue
		}
		link, known := links[t.Interface]
		if !known {
			var ok bool
			if link, ok = i.a.options.Links(t.Interface); !ok {
				failed[t.Interface] = fmt.Errorf("announce %s on %s: no such interface", t.Addr, t.Interface)
				i.a.failed.Add(1)
				continue
			}
			links[t.Interface] = link
		}
		if link.NoARP {
			continue
		}
		frame, err := i.frame(n, link)
		if err != nil {
			failed[t.Interface] = fmt.Errorf("announce on %s: %w", t.Interface, err)
			i.a.failed.Add(1)
			continue
		}
		if frames = append(frames, Frame{link.Index, frame}); t.Addr.Is4() {
			arps++
		} else {
			nas++
		}
		if len(frames) == chunk {
			switch {
			case i.stopping.Load():
				return nil, nil
			case !i.trusted():
				return left, errors.Join(errs...)
			}
			flush()
			left = due[k+1:]
		}
	}
	if len(frames) > 0 && !i.stopping.Load() {
		flush()
	}
	i.frames = frames[:0]
	for _, name := range sortedNames(failed) {
		errs = append(errs, failed[name])
	}
	return nil, errors.Join(errs...)
}

// frame is the packet of a target, made anew only if the interface changed.
func (i *Instance) frame(n int, link Link) ([]byte, error) {
	c := &i.cache[n]
	if c.frame != nil && bytes.Equal(c.link.MAC, link.MAC) && c.link.Router == link.Router {
		return c.frame, nil
	}
	var b []byte
	var err error
	if addr := i.schedule.targets[n].Addr; addr.Is4() {
		b, err = GARP(link.MAC, addr)
	} else {
		b, err = NA(link.MAC, addr, link.Router)
	}
	*c = cached{link, b}
	return b, err
}

func sortedNames(m map[string]error) []string {
	names := make([]string, 0, len(m))
	for n := range m {
		names = append(names, n)
	}
	slices.Sort(names)
	return names
}

// paceKey is what an interval counts for: all instances on an interface share it, per kind of packet.
type paceKey struct {
	iface string
	ipv6  bool
}

// pacer keeps the intervals between packets.
type pacer struct {
	mu     sync.Mutex
	next   map[paceKey]time.Time
	groups map[string]Group // by interface
}

// take is a take.
func (p *pacer) take(iface string, ipv6 bool, interval time.Duration, now time.Time) (bool, time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	key := paceKey{iface, ipv6}
	if g, ok := p.groups[iface]; ok {
		own := g.Interval
		if ipv6 {
			own = g.GNAInterval
		}
		if own > 0 {
			key, interval = paceKey{g.Interfaces[0], ipv6}, own
		}
	}
	if interval <= 0 {
		return true, time.Time{}
	}
	if at := p.next[key]; now.Before(at) {
		return false, at
	}
	p.next[key] = now.Add(interval)
	return true, time.Time{}
}
