package daemon

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"pgvrrp/internal/conf"
	"pgvrrp/internal/control"
	"pgvrrp/internal/gratarp"
	"pgvrrp/internal/instance"
	"pgvrrp/internal/notify"
	"pgvrrp/internal/quiet"
	"pgvrrp/internal/system"
)

// unit is one instance with all that belongs to it.
type unit struct {
	d        *Daemon
	log      *slog.Logger
	config   conf.Instance // with every address's interface filled in
	instance *instance.Instance
	gated    *gated  // nil: mastership needs no grant
	member   *member // of a sync group; nil: of none
	hooks    *hooks
	network  *network
	heard    bool // its adverts are listened for
	deleted  bool // it goes because the file no longer has it

	cancel context.CancelFunc
	off    chan struct{} // closed once its addresses are off
	done   chan struct{} // closed once its last hooks are done, too
}

func (d *Daemon) newUnit(c conf.Instance, startAt time.Time, secure bool) (*unit, error) {
	u := &unit{d: d, log: d.log.With("instance", c.Name), config: c, off: make(chan struct{}), done: make(chan struct{})}
	u.network = &network{d: d, name: c.Name, port: port{wireInterface(&c), c.IPv6, wireInterface(&c) != c.Interface}, lifetime: c.VIPLifetime, keepExisting: c.Priority == 255,
		announcer: d.announcer.Instance(c.Name, gratarp.Timing(c.Garp))}
	u.hooks = newHooks(u.log, d, notify.Instance, c.Name, c.Hooks, secure, func(h control.Hook, err error) {
		u.instance.HookDone(context.Background(), h, err)
	})
	var err error
	o := instance.Options{Config: c, Network: u.network, Hooks: u.hooks, Log: d.log, OnTransition: d.hub.publish, NewTimer: d.clock.NewTimer, BootTime: quiet.BootTime}
	if u.gated = d.grants.join(&c); u.gated != nil {
		o.Grants = u.gated
		u.network.announcer.Gate(u.gated.Live)
	}
	if c.SyncGroup != "" {
		u.member = &member{groups: &d.groups}
		o.Group = u.member
	}
	u.instance, err = instance.New(o)
	if err != nil {
		return nil, err
	}
	if u.member != nil {
		u.member.instance = u.instance
	}
	if !startAt.IsZero() {
		u.instance.StartAfter(startAt)
	}
	return u, nil
}

// complete gives the instances of a configuration as they run on this host.
func (d *Daemon) complete(config *conf.Config) []conf.Instance {
	all := make([]conf.Instance, len(config.Instances))
	for k, c := range config.Instances {
		c = withInterfaces(c)
		if d.grants != nil && d.grants.kind == conf.GuardLifetime && c.Quorum != "" && (c.VIPLifetime == 0 || c.VIPLifetime > conf.GuardedLifetime) {
			c.VIPLifetime = conf.GuardedLifetime // the guard that is in force lives by it, though the file may ask for another one
		}
		all[k] = c
	}
	return all
}

// withInterfaces fills in the interface that each address stands on: dev or its default, or a VMAC there.
func withInterfaces(c conf.Instance) conf.Instance {
	for _, list := range []*[]conf.Address{&c.Addresses, &c.Excluded} {
		*list = slices.Clone(*list)
		for k := range *list {
			a := &(*list)[k]
			if a.Interface == "" {
				a.Interface = c.Interface
			}
			if a.VMAC {
				a.Interface, a.VMAC = vmacFor(&c, a).Name, false
			}
		}
	}
	return c
}

// held are all addresses of an instance, whether adverts carry them or not.
func held(c *conf.Instance) []conf.Address {
	full := withInterfaces(*c)
	return append(full.Addresses, full.Excluded...)
}

// start runs the instance until stop; its hooks wait for after.
func (u *unit) start(ctx context.Context, after <-chan struct{}) {
	ctx, u.cancel = context.WithCancel(context.WithoutCancel(ctx))
	u.hooks.start(after)
	if u.gated != nil {
		u.gated.enter(u.instance)
	}
	go func() {
		defer close(u.done)
		_ = u.instance.Run(ctx) // its only end is stop's
		if u.gated != nil {
			u.gated.leave()
		}
		u.d.wire.forget(&u.config, u.instance)
		u.hooks.end(u.deleted) // before anything of an instance that follows it
		close(u.off)
		u.hooks.finish()
	}()
}

// stop stops units at once, waits until their addresses are off, and has them forgotten.
func (d *Daemon) stop(units []*unit) error {
	if len(units) == 0 {
		return nil
	}
	for _, u := range units {
		u.cancel()
	}
	late := time.NewTimer(stopInstances)
	defer late.Stop()
	var names []string
	for k, u := range units {
		select {
		case <-u.off:
			names = append(names, u.config.Name)
		case <-late.C:
			return fmt.Errorf("stop %d of %d instances: not done within %s, first %s", len(units)-k, len(units), stopInstances, u.config.Name)
		}
	}
	if err := d.addresses.Forget(names...); err != nil {
		d.log.Warn("list of addresses for cleanup not written", "error", err)
	}
	return nil
}

// gone reports whether the last hooks are done.
func (u *unit) gone() bool {
	select {
	case <-u.done:
		return true
	default:
		return false
	}
}

// lastHooks is closed when those of the newest unit of this name are done; nil: there is none.
func lastHooks(leaving []*unit, name string) <-chan struct{} {
	for _, u := range slices.Backward(leaving) {
		if u.config.Name == name {
			return u.done
		}
	}
	return nil
}

// finish waits for the last hooks of stopped units.
func finish(units []*unit) error {
	late := time.NewTimer(stopHooks + stopHooks/4) // they bound themselves; this is for one that does not
	defer late.Stop()
	for _, u := range units {
		select {
		case <-u.done:
		case <-late.C:
			return fmt.Errorf("hooks of %s not done within %s", u.config.Name, stopHooks)
		}
	}
	return nil
}

// configure puts c in force; an instance that did not change does not notice.
func (u *unit) configure(ctx context.Context, c conf.Instance, secure bool) error {
	u.hooks.configure(c.Hooks, secure)
	if c.Equal(&u.config) {
		return nil
	}
	u.d.mu.Lock()
	u.config = c
	u.d.mu.Unlock()
	u.network.configure(&c)
	if err := u.instance.Configure(ctx, c); err != nil {
		return err
	}
	u.refresh(ctx)
	return nil
}

// refresh tells the instance how its interface and all that it tracks are now.
func (u *unit) refresh(ctx context.Context) {
	c := &u.config
	link, present := u.d.monitor.Link(c.Interface)
	l := instance.Link{Present: present, Up: u.d.links.up(c.Interface, link.Up, present)}
	again := hearAgain
	if present {
		again = furnishAgain
		l.Trouble = u.d.premises.trouble(c, u.d.monitor)
	}
	if present && l.Trouble == "" {
		again = hearAgain
		if !u.heard {
			if err := u.d.wire.listen(c, u.instance); err != nil {
				l.Trouble = err.Error()
			} else {
				u.heard = true
			}
		}
		if s, err := u.d.wire.sender(u.network.port); err != nil {
			l.Trouble = err.Error()
		} else {
			u.network.sender.Store(s)
		}
		if t := u.d.wire.trouble(c); t != "" {
			l.Trouble = t
		}
	}
	if l.Trouble != "" {
		u.d.recheck.in(again) // and see again
	}
	u.instance.Surround(ctx, instance.Surroundings{Link: l, Source: u.source(), Verdict: u.d.checks.verdict(c, u.d.monitor, &u.d.links)})
}

// source is where adverts come from: the address that the file names, if this host has it, or the interface's first.
func (u *unit) source() netip.Addr {
	if s := u.config.Source; s.IsValid() {
		if !u.d.monitor.HasAddress(s) {
			return netip.Addr{}
		}
		return s
	}
	var vips []netip.Addr
	for _, a := range held(&u.config) {
		vips = append(vips, a.Prefix.Addr())
	}
	if u.config.Priority == 255 {
		vips = nil // the owner's own address may well be the virtual one
	}
	a, _ := u.d.monitor.PrimaryAddress(u.config.Interface, u.config.IPv6, vips...)
	return a
}

// lost passes on that somebody took addresses off.
func (u *unit) lost(missing []conf.Address) {
	all := make([]netip.Prefix, len(missing))
	for k, a := range missing {
		all[k] = a.Prefix
	}
	u.instance.AddressesLost(context.Background(), all)
}

// network is the host's network for one instance.
type network struct {
	d            *Daemon
	name         string
	port         port
	keepExisting bool
	announcer    *gratarp.Instance
	sender       atomic.Pointer[system.Sender]

	mu       sync.Mutex
	lifetime time.Duration
	probes   probes
}

func (n *network) configure(c *conf.Instance) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.lifetime = c.VIPLifetime
	n.announcer.SetTiming(gratarp.Timing(c.Garp))
}

func (n *network) set(addrs []conf.Address) system.Set {
	n.mu.Lock()
	defer n.mu.Unlock()
	return system.Set{Owner: n.name, Addresses: addrs, Lifetime: n.lifetime, KeepExisting: n.keepExisting}
}

// Send implements instance.Network.
func (n *network) Send(payload []byte, source, destination netip.Addr, ttl int) error {
	s := n.sender.Load()
	if s == nil {
		return fmt.Errorf("no socket on %s yet", n.port.iface)
	}
	return s.Send(payload, source, destination, ttl)
}

// Trust implements instance.Network.
func (n *network) Trust(until time.Duration) { n.announcer.Trust(until) }

// SetAddresses implements instance.Network.
func (n *network) SetAddresses(want []conf.Address) error {
	if len(want) == 0 {
		return n.d.addresses.Remove(n.set(nil))
	}
	_, err := n.d.addresses.Add(n.set(want))
	return err
}

// SetRoutes implements instance.Network.
func (n *network) SetRoutes(routes []conf.Route, rules []conf.Rule) ([]string, error) {
	return n.d.routes.Set(system.RouteSet{Owner: n.name, Routes: routes, Rules: rules})
}

// Missing implements instance.Network.
func (n *network) Missing() ([]conf.Address, error) { return n.d.addresses.Check(n.name) }

// RenewAddresses implements instance.Network.
func (n *network) RenewAddresses() error { return n.d.addresses.Renew(n.name) }

// Announce implements instance.Network.
func (n *network) Announce(addrs []conf.Address) {
	targets := make([]gratarp.Target, len(addrs))
	for k, a := range addrs {
		targets[k] = gratarp.Target{Addr: a.Prefix.Addr(), Interface: a.Interface}
	}
	if err := n.announcer.Announce(targets); err != nil {
		n.d.log.Warn("announce addresses", "instance", n.name, "error", err)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.probes.plan(n.d, n.name, targets)
}

// AnnounceAgain implements instance.Network.
func (n *network) AnnounceAgain() {
	if err := n.announcer.AnnounceAgain(); err != nil {
		n.d.log.Warn("announce addresses", "instance", n.name, "error", err)
	}
}

// StopAnnouncing implements instance.Network.
func (n *network) StopAnnouncing() {
	n.mu.Lock()
	n.probes.stop()
	n.mu.Unlock()
	n.announcer.Stop()
}
