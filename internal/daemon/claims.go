package daemon

import (
	"bytes"
	"context"
	"maps"
	"net"
	"net/netip"
	"slices"
	"time"

	"pgvrrp/internal/gratarp"
	"pgvrrp/internal/instance"
)

// probeAfter is how long after a takeover the LAN is asked once who else has the addresses: by then the former master has taken
// its own off.
const probeAfter = time.Second

// claimant is an instance with an address on an interface.
type claimant struct {
	iface    string
	instance *instance.Instance
}

// listenForClaims has the watcher hear of every IPv4 address of the units. Only what this node holds counts, see claimed.
func (d *Daemon) listenForClaims() {
	if d.claims == nil {
		return
	}
	owners := map[netip.Addr][]claimant{}
	for _, u := range d.units {
		for _, a := range held(&u.config) {
			if addr := a.Prefix.Addr(); addr.Is4() {
				owners[addr] = append(owners[addr], claimant{a.Interface, u.instance})
			}
		}
	}
	d.claimants.Store(&owners)
	if err := d.claims.Watch(slices.Collect(maps.Keys(owners))); err != nil {
		d.log.Warn("duplicate addresses are not noticed", "error", err)
	}
}

// hearClaims runs the watcher. Without it the rest goes on: it only tells.
func (d *Daemon) hearClaims(ctx context.Context) {
	if d.claims == nil {
		return
	}
	if err := d.claims.Run(ctx, d.claimed); err != nil {
		d.log.Warn("duplicate addresses are not noticed any more", "error", err)
	}
}

// claimed tells the instances that another station claims an address. The MAC addresses of our own interfaces are no other's: a
// bridge or a macvlan may bring back what we said.
func (d *Daemon) claimed(addr netip.Addr, by net.HardwareAddr) {
	owners := d.claimants.Load()
	if owners == nil {
		return
	}
	for _, c := range (*owners)[addr] {
		if l, ok := d.monitor.Link(c.iface); !ok || !bytes.Equal(l.MAC, by) {
			c.instance.Claimed(addr, by, time.Now())
		}
	}
}

// probes is the one look after each takeover for somebody else with the addresses.
type probes struct {
	timer *time.Timer // nil: none is planned
}

// plan has the targets asked for, in place of what was planned before. The caller holds the lock of stop.
func (p *probes) plan(d *Daemon, name string, targets []gratarp.Target) {
	p.stop()
	p.timer = time.AfterFunc(probeAfter, func() {
		var frames []gratarp.Frame
		for _, t := range targets {
			link, ok := d.link(t.Interface)
			if !ok || link.NoARP || !t.Addr.Is4() {
				continue
			}
			if b, err := gratarp.Probe(link.MAC, t.Addr); err == nil {
				frames = append(frames, gratarp.Frame{Index: link.Index, Data: b})
			}
		}
		if _, err := d.packets.Send(frames); err != nil {
			d.log.Debug("probe for duplicate addresses", "instance", name, "error", err)
		}
	})
}

func (p *probes) stop() {
	if p.timer != nil {
		p.timer.Stop()
		p.timer = nil
	}
}
