package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"pgvrrp/internal/child"
	"pgvrrp/internal/conf"
	"pgvrrp/internal/control"
	"pgvrrp/internal/instance"
	"pgvrrp/internal/quiet"
	"pgvrrp/internal/quorum"
	"pgvrrp/internal/system"
)

// grants is the daemon's side of the quorum extension: it joins the instances that share a resource to one, and the kernel's
// guard to the lease.
type grants struct {
	*quorum.Node
	log     *slog.Logger
	guard   *system.Guard // nil: none, or none that works
	kind    string        // the guard in force
	witness bool          // there is no instance
	owner   string        // whose the guard is
	reboot  func(reason string)

	judging sync.Mutex // held from a verdict until the quorum has it, so that the last one told is the newest; before mu

	mu        sync.Mutex
	file      *conf.Quorum
	resources map[string]*shared
	speaker   speaker
}

// speaker is who was last seen to have the name of agent_user: an agent says something many times a second.
type speaker struct {
	name string
	uid  uint32
	at   time.Time
}

// speakerFor is how long a name stands for a user without a look into the user database.
const speakerFor = time.Minute

// shared is a resource and the instances that need its grant.
type shared struct {
	name    string
	vips    []netip.Addr
	opened  []netip.Addr      // by the lease here, until its deadline
	members map[string]*gated // by instance
	granted bool
	reason  string
}

// gated is one instance as its resource sees it.
type gated struct {
	g        *grants
	resource string
	instance *instance.Instance
	eligible bool
	why      string
	priority uint8
	vips     []netip.Addr
	stuck    bool // it has ended, and its addresses could not be removed
}

// openGrants opens the quorum extension with the guard shut. It returns nil if the file has no quorum block.
func openGrants(o Options, config *conf.Config) (_ *grants, err error) {
	if config.Quorum == nil {
		return nil, nil
	}
	self, err := config.Node(hostName())
	if err != nil {
		return nil, fmt.Errorf("%s: %w", config.Quorum.At(), err)
	}
	g := &grants{log: o.Log, owner: guardOwner(o.RunDir), file: config.Quorum, kind: config.Quorum.Guard, resources: map[string]*shared{}}
	g.reboot = g.runReboot
	g.collect(config)
	var trouble string
	var guard quorum.Guard
	if g.witness = len(config.Instances) == 0; g.witness {
		g.kind = conf.GuardNone
	} else if g.kind == conf.GuardNFTables {
		g.guard, err = system.OpenGuard(system.GuardOptions{Log: o.Log, Addresses: g.all(), Owner: g.owner})
		if err == nil {
			guard = kernelGuard{g}
		} else {
			g.kind, trouble = conf.GuardLifetime, fmt.Sprintf("guard nftables does not work here, in force is lifetime: %v", err)
			o.Log.Error("guard", "error", err, "in_force", g.kind)
		}
	}
	defer func() {
		if err != nil {
			g.close(true) // what a former run left has not been removed yet, and may stand behind it
		}
	}()
	g.Node, err = quorum.Open(quorum.Options{File: config.Quorum, Self: self, Now: quiet.BootTime, Log: o.Log, Host: g, Guard: guard, Kind: g.kind, Trouble: trouble})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", config.Quorum.At(), err)
	}
	return g, nil
}

// guardOwner is what tells the guard of this vrrpd's runs from another's.
func guardOwner(runDir string) string {
	if abs, err := filepath.Abs(runDir); err == nil {
		return abs
	}
	return runDir
}

// close takes the guard away, unless addresses may be left behind it.
func (g *grants) close(unclean bool) {
	if g.Node != nil {
		g.Node.Close()
	}
	if g.guard == nil {
		return
	}
	if unclean {
		g.log.Error("the guard stays: virtual addresses may be left behind it; vrrpd cleanup removes both")
		return
	}
	if err := g.guard.Close(); err != nil {
		g.log.Error("remove the guard", "error", err)
	}
}

// look makes the guard anew, shut, if somebody removed it.
func (g *grants) look() {
	if g.guard == nil {
		return
	}
	if err := g.guard.Check(); err != nil {
		g.log.Error("look at the guard", "error", err)
	}
}

// collect notes which addresses belong to which resource.
func (g *grants) collect(config *conf.Config) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, r := range config.Quorum.Resources {
		if g.resources[r.Name] == nil {
			g.resources[r.Name] = &shared{name: r.Name, members: map[string]*gated{}}
		}
		g.resources[r.Name].vips = guarded(config, r.Name)
	}
}

// guarded are the addresses of a resource; "": of all resources.
func guarded(config *conf.Config, resource string) (all []netip.Addr) {
	if !gates(config.Quorum) {
		return nil
	}
	for k := range config.Instances {
		if c := &config.Instances[k]; c.Quorum != "" && (resource == "" || c.Quorum == resource) {
			all = append(all, bare(c)...)
		}
	}
	return all
}

// bare are the addresses of an instance as the guard knows them.
func bare(c *conf.Instance) (all []netip.Addr) {
	for _, a := range held(c) {
		all = append(all, a.Prefix.Addr())
	}
	return all
}

// gates reports whether mastership needs a grant at all.
func gates(q *conf.Quorum) bool { return q != nil && q.Policy != conf.PolicyIgnore }

func (g *grants) all() []netip.Addr {
	g.mu.Lock()
	defer g.mu.Unlock()
	var all []netip.Addr
	for _, s := range g.resources {
		all = append(all, s.vips...)
	}
	return append(all, g.stuck()...)
}

// stuck are the addresses of instances that have ended and could not remove them. The caller holds mu.
func (g *grants) stuck() (all []netip.Addr) {
	for _, s := range g.resources {
		for _, m := range s.members {
			if m.stuck {
				all = append(all, m.vips...)
			}
		}
	}
	return all
}

// clean reports whether every instance that has ended has removed its addresses.
func (g *grants) clean() bool {
	if g == nil {
		return true
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.stuck()) == 0
}

func (g *grants) vips(resource string) []netip.Addr {
	g.mu.Lock()
	defer g.mu.Unlock()
	if s := g.resources[resource]; s != nil {
		return s.vips
	}
	return nil
}

// kernelGuard is the guard by resource.
type kernelGuard struct{ g *grants }

// Open implements quorum.Guard.
func (k kernelGuard) Open(resource string, deadline time.Duration) error {
	vips := k.g.vips(resource)
	err := k.g.guard.Open(vips, deadline)
	k.g.opens(resource, vips, err)
	return err
}

// Refresh implements quorum.Guard. An address that a reload has added since is opened, once the kernel has said of the others that the
// lease had not lapsed.
func (k kernelGuard) Refresh(resource string, deadline time.Duration) error {
	vips, opened := k.g.vips(resource), k.g.openedBefore(resource)
	added := slices.DeleteFunc(slices.Clone(vips), func(a netip.Addr) bool { return slices.Contains(opened, a) })
	if len(added) == len(vips) {
		added = nil // none that could tell of the lease: then these do, by being shut
	}
	stay := slices.DeleteFunc(slices.Clone(vips), func(a netip.Addr) bool { return slices.Contains(added, a) })
	err := k.g.guard.Refresh(stay, deadline)
	if err == nil {
		err = k.g.guard.Open(added, deadline)
	}
	k.g.opens(resource, vips, err)
	return err
}

// Shut implements quorum.Guard.
func (k kernelGuard) Shut(resource string) error {
	k.g.opens(resource, nil, nil)
	return k.g.guard.Shut(k.g.vips(resource))
}

// opens notes which addresses of a resource are open; none after an error.
func (g *grants) opens(resource string, vips []netip.Addr, err error) {
	if err != nil {
		vips = nil
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if s := g.resources[resource]; s != nil {
		s.opened = vips
	}
}

func (g *grants) openedBefore(resource string) []netip.Addr {
	g.mu.Lock()
	defer g.mu.Unlock()
	if s := g.resources[resource]; s != nil {
		return s.opened
	}
	return nil
}

// reconfigure takes over what a reload may change, or nothing. Until reconfigured, the addresses are guarded that were, and those that
// will be: those of an instance that goes, or needs no grant any more, are up until it has stopped, and those of one that needs its
// first grant may be up already.
func (g *grants) reconfigure(config *conf.Config) error {
	if g.guard != nil {
		if err := g.guard.Configure(append(g.all(), guarded(config, "")...)); err != nil {
			return err
		}
	}
	if err := g.Reconfigure(config.Quorum); err != nil {
		if g.guard != nil {
			err = errors.Join(err, g.guard.Configure(g.all()))
		}
		return err
	}
	g.collect(config)
	g.mu.Lock()
	g.file = config.Quorum
	g.mu.Unlock()
	return nil
}

// reconfigured is the end of a reload: what no instance with a resource has any more is guarded no longer.
func (g *grants) reconfigured() {
	if g.guard == nil {
		return
	}
	if err := g.guard.Configure(g.all()); err != nil {
		g.log.Error("the guard still shuts addresses that nobody guards", "error", err)
	}
}

// join makes the Grants of an instance; nil if it needs none.
func (g *grants) join(c *conf.Instance) *gated {
	if g == nil || c.Quorum == "" || !gates(g.file) {
		return nil
	}
	return &gated{g: g, resource: c.Quorum, why: "it has not started", vips: bare(c)}
}

// enter makes the instance count from now on, leave no longer.
func (m *gated) enter(i *instance.Instance) {
	m.instance = i
	m.g.mu.Lock()
	m.g.resources[m.resource].members[i.Name()] = m
	m.g.mu.Unlock()
	m.g.judge(m.resource)
}

// leave is called when the instance has ended. One whose addresses could not be removed stays: by it the lease of this node is not
// given back in the log, nor the guard taken away, while they may be up.
func (m *gated) leave() {
	left := <-m.instance.PostRevoke("it has ended")
	m.g.mu.Lock()
	s := m.g.resources[m.resource]
	if left != nil {
		m.eligible, m.why, m.stuck = false, left.Error(), true
		m.g.log.Error("this node stays without the resource until vrrpd is started anew, and the guard, if there is one, in front of the addresses",
			"resource", m.resource, "instance", m.instance.Name(), "reason", left)
	} else if s.members[m.instance.Name()] == m {
		delete(s.members, m.instance.Name())
	}
	m.g.mu.Unlock()
	m.g.judge(m.resource)
}

// judge tells the quorum whether this node may be granted a resource: if every instance that shares it may be master.
func (g *grants) judge(resource string) {
	g.judging.Lock()
	defer g.judging.Unlock()
	g.mu.Lock()
	s := g.resources[resource]
	ok, priority := len(s.members) > 0, uint8(0)
	why := []string{}
	for name, m := range s.members {
		if !m.eligible {
			ok = false
			why = append(why, name+": "+m.why)
		}
		if priority == 0 || m.priority < priority {
			priority = m.priority
		}
	}
	slices.Sort(why)
	if len(s.members) == 0 {
		why = append(why, "no instance of this node uses it")
	}
	g.mu.Unlock()
	g.Node.Eligible(resource, ok, strings.Join(why, "; "), priority)
}

// Request implements instance.Grants.
func (m *gated) Request(reason string) {
	m.g.log.Debug("master missed", "resource", m.resource, "reason", reason)
	m.g.Node.Request(m.resource)
}

// GiveUp implements instance.Grants.
func (m *gated) GiveUp(reason string) { m.g.Node.GiveUp(m.resource, reason, "") }

// Eligible implements instance.Grants. An instance that comes while its resource is held here joins in.
func (m *gated) Eligible(ok bool, reason string, priority uint8) {
	m.g.mu.Lock()
	s := m.g.resources[m.resource]
	if ok && !m.eligible && s.granted && m.instance != nil {
		m.instance.PostGrant(s.reason) // under the lock, so that no older revocation overtakes it
	}
	m.eligible, m.why, m.priority = ok, reason, priority
	m.g.mu.Unlock()
	m.g.judge(m.resource)
}

// Serving implements instance.Grants.
func (m *gated) Serving(bool) {}

// Live implements instance.Grants.
func (m *gated) Live() bool { return m.g.Node.Live(m.resource) }

// become notes whether a resource is granted and tells its instances, under the lock: what is posted to them is the newest.
func (g *grants) become(resource string, granted bool, reason string, post func(*instance.Instance)) {
	g.mu.Lock()
	defer g.mu.Unlock()
	s := g.resources[resource]
	if s == nil {
		return
	}
	s.granted, s.reason = granted, reason
	for _, m := range s.members {
		post(m.instance)
	}
}

// Grant implements quorum.Host.
func (g *grants) Grant(resource, reason string) {
	g.become(resource, true, reason, func(i *instance.Instance) { i.PostGrant(reason) })
}

// Revoke implements quorum.Host.
func (g *grants) Revoke(resource, reason string, done func()) {
	var off []<-chan error
	g.become(resource, false, "", func(i *instance.Instance) { off = append(off, i.PostRevoke(reason)) })
	go func() { // ends with the instances, whose addresses the kernel may refuse to take off for a while
		for _, c := range off {
			if err := <-c; err != nil {
				// Then the lease must stay ours in the log: the kernel's guard alone keeps the address from answering.
				g.log.Error("revoke", "resource", resource, "error", err)
				return
			}
		}
		done()
	}()
}

// Lost implements quorum.Host.
func (g *grants) Lost(resource, reason string) {
	g.reboot(fmt.Sprintf("resource %s: %s", resource, reason))
}

// rebootTimeout bounds reboot_command.
const rebootTimeout = time.Minute

// runReboot carries out no_quorum_policy suicide: the file's command, never a system call of ours.
func (g *grants) runReboot(reason string) {
	g.mu.Lock()
	c := g.file.RebootCommand
	g.mu.Unlock()
	g.log.Error("no_quorum_policy suicide: running reboot_command", "reason", reason, "command", strings.Join(c.Argv, " "))
	go func() {
		_, err := child.Run(context.Background(), child.Command{Argv: c.Argv, User: c.User.Name, Group: c.User.Group, Timeout: rebootTimeout})
		if err != nil {
			g.log.Error("reboot_command", "error", err)
		}
	}()
}

// AgentUser implements control.QuorumCalls.
func (g *grants) AgentUser(uid uint32) bool {
	g.mu.Lock()
	name, known := g.file.AgentUser, g.speaker
	g.mu.Unlock()
	now := time.Now()
	if known.name == name && known.uid == uid && now.Sub(known.at) < speakerFor {
		return true
	}
	u, err := user.Lookup(name)
	if err != nil || u.Uid != strconv.FormatUint(uint64(uid), 10) {
		return false
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.speaker = speaker{name, uid, now}
	return true
}

// Quorum implements control.Daemon.
func (d *Daemon) Quorum() control.QuorumCalls {
	if d.grants == nil {
		return nil
	}
	return d.grants
}
