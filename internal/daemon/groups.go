package daemon

import (
	"log/slog"
	"slices"
	"sync"
	"time"

	"pgvrrp/internal/conf"
	"pgvrrp/internal/control"
	"pgvrrp/internal/instance"
	"pgvrrp/internal/notify"
	"pgvrrp/internal/vrrp"
)

// groups are the sync groups. One lock guards them all: it is held for a look at a few members, and nobody who holds it
// waits for an instance, so that instances may report on their loops.
type groups struct {
	mu      sync.Mutex
	all     []*group
	leaving sync.WaitGroup // the last hooks of groups that are no more
}

// group is one vrrp_sync_group.
type group struct {
	log     *slog.Logger
	config  conf.SyncGroup
	hooks   *hooks
	members []*member // as in config; nil: it could not be started
	machine *vrrp.Group

	told  vrrp.State // of which the hooks were told last
	seq   uint64
	since time.Time
	hook  *control.Hook
	ran   control.HookCounters
}

// member is the place of an instance in its group.
type member struct {
	groups   *groups
	instance *instance.Instance

	// guarded by groups.mu
	group *group // nil: in none at the moment
	index int
	last  vrrp.Member // what it reported
}

// Report implements instance.Group.
func (m *member) Report(now vrrp.Member, reason string) {
	m.groups.mu.Lock()
	defer m.groups.mu.Unlock()
	m.last = now
	if g := m.group; g != nil {
		g.obeyed(g.machine.Update(m.index, now, reason))
	}
}

// obeyed passes orders on, and tells the hooks of the group's state if that is news.
func (g *group) obeyed(orders []vrrp.Order) {
	for _, o := range orders {
		if m := g.members[o.Member]; m != nil {
			m.instance.PostGroup(o.Event)
		}
	}
	// A member that a reload has replaced is no state that anybody could act on: it is back in a moment.
	if state := g.machine.State(); state != g.told && state != vrrp.Initialize {
		g.tell(state, groupState(state))
	}
}

func (g *group) tell(state vrrp.State, word string) {
	g.log.Info("transition of the sync group", "from", groupState(g.told), "to", word)
	g.told, g.since = state, time.Now()
	g.seq++
	g.hooks.Post(instance.HookEvent{State: word, Seq: g.seq, At: g.since})
}

func groupState(s vrrp.State) string {
	switch s {
	case vrrp.Active:
		return control.StateMaster
	case vrrp.Backup:
		return control.StateBackup
	case vrrp.Fault:
		return control.StateFault
	}
	return control.StateInit
}

// detach takes units that go out of their groups, so that their end moves nobody else.
func (gs *groups) detach(units []*unit) {
	gs.mu.Lock()
	defer gs.mu.Unlock()
	for _, u := range units {
		if u.member != nil {
			u.member.group = nil
		}
	}
}

// configure makes the groups of config of the units that run. Only groups with other members than before notice.
func (gs *groups) configure(d *Daemon, config *conf.Config, units []*unit) {
	gs.mu.Lock()
	defer gs.mu.Unlock()
	former := gs.all
	gs.all = nil
	for _, u := range units {
		if u.member != nil && !slices.ContainsFunc(config.SyncGroups, func(c conf.SyncGroup) bool { return slices.Contains(c.Members, u.config.Name) }) {
			u.member.group = nil
		}
	}
	for _, c := range config.SyncGroups {
		k := slices.IndexFunc(former, func(g *group) bool { return g.config.Name == c.Name })
		var g *group
		if k >= 0 {
			g = former[k]
			former = slices.Delete(former, k, k+1)
			g.hooks.configure(c.Hooks, config.Globals.EnableScriptSecurity)
		} else {
			g = gs.open(d, c, config.Globals.EnableScriptSecurity)
		}
		members := make([]*member, len(c.Members))
		for n, name := range c.Members {
			if k := slices.IndexFunc(units, func(u *unit) bool { return u.config.Name == name }); k >= 0 {
				members[n] = units[k].member
			}
		}
		same := slices.Equal(members, g.members)
		g.config = c
		if !same {
			g.seat(members)
		}
		gs.all = append(gs.all, g)
	}
	for _, g := range former {
		gs.leaving.Go(func() { g.end(true) })
	}
}

func (gs *groups) open(d *Daemon, c conf.SyncGroup, secure bool) *group {
	g := &group{log: d.log.With("group", c.Name), since: time.Now()}
	g.hooks = newHooks(g.log, d, notify.Group, c.Name, c.Hooks, secure, func(h control.Hook, err error) {
		gs.mu.Lock()
		defer gs.mu.Unlock()
		g.hook = &h
		instance.CountHook(&g.ran, h, err)
	})
	g.hooks.start(nil)
	return g
}

// seat gives the group its members as they are. What they were told in another group, or with other members, is told anew.
func (g *group) seat(members []*member) {
	g.members = members
	g.machine = vrrp.NewGroup(g.config.Members...)
	var orders []vrrp.Order
	faults := make([]string, len(members))
	for k, m := range members {
		var last vrrp.Member
		if m != nil {
			m.group, m.index, last = g, k, m.last
		}
		orders = g.machine.Update(k, last, "the group has other members")
		for _, o := range orders {
			if o.Event.Kind == vrrp.GroupFault {
				faults[o.Member] = o.Event.Reason
			}
		}
	}
	// Only what the last one said was said with all members known.
	orders = slices.DeleteFunc(orders, func(o vrrp.Order) bool { return o.Event.Kind == vrrp.GroupFault })
	for k, fault := range faults {
		orders = append(orders, vrrp.Order{Member: k, Event: vrrp.Event{Kind: vrrp.GroupFault, Reason: fault}})
	}
	g.obeyed(orders)
}

// end runs the last hooks. A group that never had a state had no begin either.
func (g *group) end(deleted bool) {
	if g.seq > 0 {
		g.hooks.Post(instance.HookEvent{State: control.StateStop, Seq: g.seq + 1, At: time.Now()})
	}
	g.hooks.end(deleted)
	g.hooks.finish()
}

// finish tells the hooks of every group that vrrpd stops. The channel is closed when they are done.
func (gs *groups) finish() <-chan struct{} {
	gs.mu.Lock()
	all := gs.all
	gs.all = nil
	gs.mu.Unlock()
	done := make(chan struct{})
	for _, g := range all {
		gs.leaving.Go(func() { g.end(false) })
	}
	go func() {
		defer close(done)
		gs.leaving.Wait()
	}()
	return done
}

func (gs *groups) status() []control.Group {
	gs.mu.Lock()
	defer gs.mu.Unlock()
	var out []control.Group
	for _, g := range gs.all {
		s := control.Group{Name: g.config.Name, State: groupState(g.told), Since: g.since, Members: slices.Clone(g.config.Members), Hooks: g.ran}
		if g.hook != nil {
			h := *g.hook
			s.LastHook = &h
		}
		out = append(out, s)
	}
	return out
}

// fellows are the instances that move together with u, u among them.
func (u *unit) fellows() []*instance.Instance {
	if u.member == nil {
		return []*instance.Instance{u.instance}
	}
	gs := u.member.groups
	gs.mu.Lock()
	defer gs.mu.Unlock()
	if u.member.group == nil {
		return []*instance.Instance{u.instance}
	}
	var all []*instance.Instance
	for _, m := range u.member.group.members {
		if m != nil {
			all = append(all, m.instance)
		}
	}
	return all
}

// groupKey tells a group's number from that of an instance of its name.
func groupKey(name string) string { return "vrrp_sync_group " + name }

func (gs *groups) seqs() map[string]uint64 {
	gs.mu.Lock()
	defer gs.mu.Unlock()
	all := map[string]uint64{}
	for _, g := range gs.all {
		all[groupKey(g.config.Name)] = g.seq
	}
	return all
}

// restate writes the state of each group for the FIFOs that has none told since.
func (gs *groups) restate(before map[string]uint64) {
	gs.mu.Lock()
	defer gs.mu.Unlock()
	for _, g := range gs.all {
		if g.seq > 0 && g.seq == before[groupKey(g.config.Name)] {
			g.hooks.Post(instance.HookEvent{State: groupState(g.told), Seq: g.seq, At: time.Now(), LineOnly: true})
		}
	}
}
