package daemon

import (
	"errors"
	"fmt"
	"hash/fnv"
	"log/slog"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"pgvrrp/internal/conf"
	"pgvrrp/internal/system"
)

// premises are what instances need of the host besides addresses and routes, from their start to their end: interfaces with a
// virtual MAC address (use_vmac), a packet filter (no_accept), and settings of interfaces (promote_secondaries). Only what the
// file asks for is there. The main task alone changes them.
type premises struct {
	log      *slog.Logger
	macvlans *system.Macvlans
	sysctls  *system.Sysctls
	filter   system.Filter

	mu       sync.Mutex // guards what follows
	unclosed string     // why the packet filter is not in force; "" if it is, or is not wanted
	unseen   bool       // the last look at it failed
	vmacs    map[string]system.Macvlan
	rules    system.FilterRules
	wanted   map[string][]system.Macvlan // by instance
}

// openPremises opens what a former run may have left, too.
func openPremises(log *slog.Logger, runDir string) (*premises, error) {
	sysctls, err := system.OpenSysctls(log, filepath.Join(runDir, "sysctls.json"))
	if err != nil {
		return nil, err
	}
	// The directory is locked, so that it stands for one vrrpd.
	macvlans, err := system.OpenMacvlans("vrrpd " + runDir)
	if err != nil {
		return nil, err
	}
	p := &premises{log: log, macvlans: macvlans, sysctls: sysctls, vmacs: map[string]system.Macvlan{}}
	p.filter.Owner = filterOwner(runDir)
	return p, nil
}

// filterOwner tells the packet filters of several vrrpd apart; "" is that of the usual run directory.
func filterOwner(runDir string) string {
	if runDir == DefaultRunDir {
		return ""
	}
	return runDir
}

// wireInterface is where the adverts of c go out and come in.
func wireInterface(c *conf.Instance) string {
	if c.VMAC.Use && !c.VMAC.XmitBase {
		return c.VMAC.Name
	}
	return c.Interface
}

// vmacFor is the VMAC that an address stands on, whose interface is filled in: the instance's, if interface and family are its,
// else one for that interface and family.
func vmacFor(c *conf.Instance, a *conf.Address) system.Macvlan {
	ipv6 := a.Prefix.Addr().Is6()
	if c.VMAC.Use && a.Interface == c.Interface && ipv6 == c.IPv6 {
		return ownVMAC(c)
	}
	mac := conf.MAC{0, 0, 0x5e, 0, 1, c.VRID}
	if ipv6 {
		mac[4] = 2
	}
	h := fnv.New32a()
	fmt.Fprint(h, c.Name, " ", a.Interface, " ", ipv6)
	tail := fmt.Sprintf(".%d.%04x", c.VRID, h.Sum32()&0xffff)
	prefix := c.VMAC.AddrPrefix
	return system.Macvlan{Name: prefix[:min(len(prefix), 15-len(tail))] + tail, Parent: a.Interface, MAC: mac, Group: -1}
}

func ownVMAC(c *conf.Instance) system.Macvlan {
	return system.Macvlan{Name: c.VMAC.Name, Parent: c.Interface, MAC: c.VMAC.MAC, Group: c.VMAC.LinkGroup}
}

// vmacsOf are all VMACs of an instance as the file has it, and not as withInterfaces completes it.
func vmacsOf(c *conf.Instance) (all []system.Macvlan) {
	if c.VMAC.Use {
		all = append(all, ownVMAC(c))
	}
	for _, list := range [][]conf.Address{c.Addresses, c.Excluded} {
		for _, a := range list {
			if a.Interface == "" {
				a.Interface = c.Interface
			}
			if !a.VMAC {
				continue
			}
			if v := vmacFor(c, &a); !slices.ContainsFunc(all, func(o system.Macvlan) bool { return o.Name == v.Name }) {
				all = append(all, v)
			}
		}
	}
	return all
}

// macvlansOf are all VMACs of a configuration, each once.
func macvlansOf(config *conf.Config) (all []system.Macvlan) {
	seen := map[string]bool{}
	for k := range config.Instances {
		for _, v := range vmacsOf(&config.Instances[k]) {
			if !seen[v.Name] {
				seen[v.Name] = true
				all = append(all, v)
			}
		}
	}
	return all
}

func sameMacvlan(a, b system.Macvlan) bool {
	return a.Name == b.Name && a.Parent == b.Parent && a.MAC.String() == b.MAC.String() && a.Group == b.Group
}

// sameVMAC says whether two instances send and receive by the same interface.
func sameVMAC(a, b *conf.Instance) bool {
	return a.VMAC.Use == b.VMAC.Use && a.VMAC.Name == b.VMAC.Name && a.VMAC.MAC.String() == b.VMAC.MAC.String() &&
		a.VMAC.XmitBase == b.VMAC.XmitBase && a.VMAC.LinkGroup == b.VMAC.LinkGroup
}

// filterRules are what the instances want dropped.
func filterRules(config *conf.Config) (rules system.FilterRules) {
	for k := range config.Instances {
		c := &config.Instances[k]
		if c.NoAccept && c.Priority != 255 { // the owner's addresses are its own
			for _, a := range held(c) {
				rules.Closed = append(rules.Closed, a.Prefix.Addr())
			}
		}
		for _, v := range vmacsOf(c) {
			rules.Quiet = append(rules.Quiet, v.Name)
		}
	}
	slices.SortFunc(rules.Closed, netip.Addr.Compare)
	slices.Sort(rules.Quiet)
	rules.Closed, rules.Quiet = slices.Compact(rules.Closed), slices.Compact(rules.Quiet)
	return rules
}

// Owners of settings.
const (
	ownerVMAC    = "use_vmac "            // and the VMAC's name
	ownerPromote = "promote_secondaries " // and the interface's
)

// furnish makes everything be there that the instances of config want; what former ones wanted stays until clear. What is in the
// way is told by trouble, to the instances that it concerns.
func (p *premises) furnish(config *conf.Config) {
	rules := filterRules(config)
	wanted := map[string][]system.Macvlan{}
	for k := range config.Instances {
		c := &config.Instances[k]
		wanted[c.Name] = vmacsOf(c)
	}
	p.mu.Lock()
	p.wanted = wanted
	// Nothing is opened before clear: the instances that go have their addresses still.
	rules.Closed = slices.Compact(slices.SortedFunc(slices.Values(append(rules.Closed, p.rules.Closed...)), netip.Addr.Compare))
	p.mu.Unlock()
	p.filterBy(rules)
	for _, vmacs := range wanted {
		for _, v := range vmacs {
			if p.made(v) {
				continue // if somebody removed it, trouble sees to it
			}
			if err := p.ensure(v); err != nil {
				p.log.Debug("VMAC not there yet", "error", err)
			}
		}
	}
	p.promote(config)
}

// promote puts promote_secondaries in force: without it the kernel removes an interface's further addresses of a network with
// the first one.
func (p *premises) promote(config *conf.Config) {
	for _, name := range promoted(config) {
		err := p.sysctls.Set(ownerPromote+name, filepath.Join("net/ipv4/conf", name, "promote_secondaries"), "1")
		if err != nil {
			p.log.Debug("promote_secondaries not in force yet", "interface", name, "error", err) // it comes with its interface
		}
	}
}

// promoted are the interfaces of promote_secondaries.
func promoted(config *conf.Config) (names []string) {
	for k := range config.Instances {
		if c := &config.Instances[k]; c.PromoteSecondaries {
			for _, a := range held(c) {
				names = append(names, a.Interface)
			}
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

func (p *premises) filterBy(rules system.FilterRules) {
	err := p.filter.Set(rules)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.rules, p.unclosed = rules, ""
	if err != nil {
		p.unclosed = err.Error()
		p.log.Error("packet filter not in force", "error", err)
	}
}

// guarded reports whether there is a filter.
func (p *premises) guarded() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return !p.rules.Empty()
}

// look sees whether the filter still stands, and reports whether that has changed.
func (p *premises) look() (changed bool) {
	again, err := p.filter.Look()
	p.mu.Lock()
	defer p.mu.Unlock()
	if err != nil && !p.unseen {
		p.unseen = true
		return false // one query that failed is no reason to give way: the next look says
	}
	was := p.unclosed
	p.unclosed, p.unseen = "", err != nil
	if err != nil {
		p.unclosed = err.Error()
	}
	changed = p.unclosed != was
	switch {
	case err != nil && changed:
		p.log.Error("packet filter not in force", "error", err)
	case err == nil && again:
		p.log.Warn("another program removed our packet filter, putting it back")
	}
	return changed
}

// ensure makes a VMAC be there with all that it needs of its parent, or says why not.
func (p *premises) ensure(v system.Macvlan) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	owner := ownerVMAC + v.Name
	parent := filepath.Join("net/ipv4/conf", v.Parent)
	err := func() error {
		if now, err := system.ReadSysctl(parent + "/arp_ignore"); err != nil {
			return fmt.Errorf("interface %s does not exist", v.Parent)
		} else if now == "0" { // else it answers for other interfaces' addresses, with its own MAC address
			if err := p.sysctls.Set(owner, parent+"/arp_ignore", "1"); err != nil {
				return err
			}
		} else {
			p.sysctls.Join(owner, parent+"/arp_ignore") // another VMAC has had it changed
		}
		ours, err := p.macvlans.Names()
		if err != nil {
			return err
		}
		return errors.Join(
			p.sysctls.Set(owner, parent+"/arp_filter", "1"),
			// What answers from a virtual address leaves here; to ask for its way in that address's name would tell the
			// neighbour the wrong MAC address.
			p.sysctls.Set(owner, parent+"/arp_announce", "2"),
			p.sysctls.ReverseFilters(owner, ours...),
			p.macvlans.Ensure(v),
		)
	}()
	if err == nil {
		p.vmacs[v.Name] = v
	}
	return err
}

// clear removes what config does not want any more. Nobody uses it any more.
func (p *premises) clear(config *conf.Config) error {
	wanted := map[string]bool{}
	for _, v := range macvlansOf(config) {
		wanted[v.Name] = true
	}
	promoting := promoted(config)
	p.mu.Lock()
	used := len(p.vmacs) > 0
	for name := range p.vmacs {
		if !wanted[name] {
			delete(p.vmacs, name)
		}
	}
	p.mu.Unlock()
	var err error
	if used {
		_, err = p.macvlans.Remove(func(name string) bool { return wanted[name] })
	}
	gone := slices.DeleteFunc(p.sysctls.Owners(), func(o string) bool {
		if name, ok := strings.CutPrefix(o, ownerVMAC); ok {
			return wanted[name]
		}
		name, _ := strings.CutPrefix(o, ownerPromote)
		return slices.Contains(promoting, name)
	})
	err = errors.Join(err, p.sysctls.Release(gone...))
	p.filterBy(filterRules(config))
	return err
}

// sweep removes what a former run left.
func (p *premises) sweep() (removed []string, err error) {
	links, err := p.macvlans.Remove(func(string) bool { return false })
	for _, name := range links {
		removed = append(removed, "VMAC "+name)
	}
	keys, unset := p.sysctls.Cleanup()
	for _, key := range keys {
		removed = append(removed, "setting "+key)
	}
	return removed, errors.Join(err, unset, system.CleanupFilter(p.filter.Owner))
}

// leftovers is what sweep would remove.
func (p *premises) leftovers() (left []string, err error) {
	links, err := p.macvlans.Names()
	for _, name := range links {
		left = append(left, "VMAC "+name)
	}
	for _, key := range p.sysctls.Leftovers() {
		left = append(left, "setting "+key)
	}
	return left, err
}

// close puts everything back.
func (p *premises) close() error {
	return errors.Join(p.clear(&conf.Config{}), p.filter.Close(), p.macvlans.Close())
}

// furnishAgain is how soon it is seen again whether what an instance needs of the host can be made.
const furnishAgain = time.Second

// trouble is why the host is not ready for an instance; "" if it is. What is missing is made, as far as that is possible.
func (p *premises) trouble(c *conf.Instance, m *system.Monitor) string {
	p.mu.Lock()
	vmacs := p.wanted[c.Name]
	p.mu.Unlock()
	for _, v := range vmacs {
		link, ok := m.Link(v.Name)
		if ok && link.Admin && link.MAC.String() == v.MAC.String() && p.made(v) {
			continue
		}
		if _, parent := m.Link(v.Parent); !parent {
			return "interface " + v.Parent + " does not exist"
		}
		if err := p.ensure(v); err != nil {
			return err.Error()
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if c.NoAccept && c.Priority != 255 && p.unclosed != "" {
		return "no_accept is not in force: " + p.unclosed
	}
	return ""
}

// made says whether a VMAC was made by us as it is wanted now.
func (p *premises) made(v system.Macvlan) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	was, ok := p.vmacs[v.Name]
	return ok && sameMacvlan(was, v)
}

// sweepPremises removes what a former run left.
func (d *Daemon) sweepPremises() {
	removed, err := d.premises.sweep()
	if err != nil {
		d.log.Error("remove what a former run left", "error", err)
	}
	for _, what := range removed {
		d.log.Warn("removed or put back what a former run left", "what", what)
	}
}

// cleanupPremises removes what a killed vrrpd left, or only names it.
func cleanupPremises(o *CleanupOptions) (removed []string, err error) {
	p, err := openPremises(o.Log, o.RunDir)
	if err != nil {
		return nil, err
	}
	if o.DryRun {
		removed, err = p.leftovers()
	} else {
		removed, err = p.sweep()
	}
	return removed, errors.Join(err, p.macvlans.Close())
}
