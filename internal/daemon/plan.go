package daemon

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"pgvrrp/internal/conf"
	"pgvrrp/internal/control"
	"pgvrrp/internal/notify"
	"pgvrrp/internal/system"
	"pgvrrp/internal/track"
)

// difference is what a reload changes: apply carries it out, and steps tells of it.
type difference struct {
	running, next *conf.Config
	keep          []kept          // they stay the same virtual router, changed or not
	gone          []conf.Instance // in the order in which they run
	fresh         []conf.Instance // in the order of the file
	moves         []move
}

// kept is an instance that goes on: what runs, and what next says of it.
type kept struct{ was, is conf.Instance }

// move is an address that one instance loses and another one gets. Both go on, or the first one ends.
type move struct {
	address  conf.Address
	from, to string
}

// differ compares what runs with next. The instances that run, and those that shall run, are given as they are completed for this
// host: one that could not be started is not among the first.
func differ(running *conf.Config, instances []conf.Instance, next *conf.Config, wanted []conf.Instance) difference {
	d := difference{running: running, next: next}
	place, stays := placesOf(wanted), make([]bool, len(wanted))
	for k := range instances {
		was := &instances[k]
		n, there := place[was.Name]
		if !there || !becomes(was, &wanted[n]) {
			d.gone = append(d.gone, *was)
			continue
		}
		d.keep = append(d.keep, kept{*was, wanted[n]})
		stays[n] = true
	}
	for k := range wanted {
		if !stays[k] {
			d.fresh = append(d.fresh, wanted[k])
		}
	}
	d.moves = d.findMoves()
	return d
}

// placesOf says where each instance stands, by its name.
func placesOf(instances []conf.Instance) map[string]int {
	place := make(map[string]int, len(instances))
	for k := range instances {
		place[instances[k].Name] = k
	}
	return place
}

// becomes says whether next is the virtual router was under the same name, so that it may be put in force without a stop.
func becomes(was, next *conf.Instance) bool {
	return next.Name == was.Name && next.SameVirtualRouter(was) && placeOf(next) == placeOf(was) &&
		next.Version == was.Version && next.Quorum == was.Quorum && sameVMAC(was, next) && (next.Priority == 255) == (was.Priority == 255) &&
		(next.SyncGroup == "") == (was.SyncGroup == "")
}

// findMoves finds the addresses that go from one instance to another that goes on. Of one that needs a grant nothing moves: its
// addresses must be off before the grant is given back.
func (d *difference) findMoves() (all []move) {
	type place struct {
		iface  string
		prefix netip.Prefix
	}
	at := func(a conf.Address) place { return place{a.Interface, a.Prefix} }
	has := func(c *conf.Instance, p place) bool {
		return slices.ContainsFunc(held(c), func(a conf.Address) bool { return at(a) == p })
	}
	gains := map[place]string{}
	for k := range d.keep {
		for _, a := range held(&d.keep[k].is) {
			if d.keep[k].is.Quorum == "" && !has(&d.keep[k].was, at(a)) {
				gains[at(a)] = d.keep[k].is.Name
			}
		}
	}
	lose := func(was, is *conf.Instance) {
		for _, a := range held(was) {
			if to := gains[at(a)]; to != "" && was.Quorum == "" && (is == nil || !has(is, at(a))) {
				all = append(all, move{a, was.Name, to})
			}
		}
	}
	for k := range d.keep {
		lose(&d.keep[k].was, &d.keep[k].is)
	}
	for k := range d.gone {
		lose(&d.gone[k], nil)
	}
	return all
}

// moving are the addresses of moves.
func (d *difference) moving() (all []conf.Address) {
	for _, m := range d.moves {
		all = append(all, m.address)
	}
	return all
}

// atStart are the keywords that are looked at when vrrpd starts, and not again.
var atStart = []string{"vrrp_rt_priority", "vrrp_priority", "vrrp_cpu_affinity", "vrrp_no_swap", "net_namespace"}

// globals gives the keywords of global_defs that differ, and those of them that a reload leaves as they are.
func (d *difference) globals() (now, later []string) {
	for _, word := range d.running.Globals.Changes(&d.next.Globals) {
		if slices.Contains(atStart, word) {
			later = append(later, word)
		} else {
			now = append(now, word)
		}
	}
	return now, later
}

// unchanged are the instances that notice nothing.
func (d *difference) unchanged() (names []string) {
	for _, k := range d.keep {
		if k.was.Equal(&k.is) {
			names = append(names, k.is.Name)
		}
	}
	return names
}

// steps are what apply does, in its order. The states are those of the instances that run; one that has not left INIT was told of
// no state, so that its end is told to nobody.
func (d *difference) steps(states map[string]string) []control.PlanStep {
	p := &steps{all: []control.PlanStep{}}
	if now, _ := d.globals(); len(now) > 0 {
		p.add(control.PlanChange, "global_defs", "", "", now...)
	}
	d.programSteps(p)
	had, wants := macvlansOf(d.running), macvlansOf(d.next)
	for _, v := range wants {
		k := slices.IndexFunc(had, func(o system.Macvlan) bool { return o.Name == v.Name })
		text := fmt.Sprintf("%s over %s", v.MAC, v.Parent)
		switch {
		case k < 0:
			p.add(control.PlanAdd, "vmac", v.Name, text)
		case !sameMacvlan(had[k], v):
			p.add(control.PlanChange, "vmac", v.Name, text)
		}
	}
	for _, k := range d.keep {
		if words := k.was.Changes(&k.is); len(words) > 0 {
			p.add(control.PlanChange, "instance", k.is.Name, consequence(&k, states[k.is.Name]), words...)
		}
	}
	for _, m := range d.moves {
		text := fmt.Sprintf("from %s to %s in one step", m.from, m.to)
		switch {
		case states[m.from] != control.StateMaster:
			text = fmt.Sprintf("from %s to %s; it is not held here", m.from, m.to)
		case states[m.to] != control.StateMaster:
			text = fmt.Sprintf("from %s to %s, which is not MASTER here: it goes off", m.from, m.to)
		}
		p.add(control.PlanMove, "address", m.address.Prefix.String()+" on "+m.address.Interface, text)
	}
	for k := range d.gone {
		d.goneSteps(p, &d.gone[k], states[d.gone[k].Name])
	}
	for k := range d.fresh {
		c := &d.fresh[k]
		p.add(control.PlanAdd, "instance", c.Name, fmt.Sprintf("virtual_router_id %d on %s, priority %d", c.VRID, c.Interface, c.Priority))
		state := notify.Backup
		if c.Priority == 255 {
			state = notify.Master
		}
		p.hooks(c.Hooks, "instance", c.Name, state, "unless it starts in FAULT")
	}
	d.groupSteps(p)
	for _, v := range had {
		if !slices.ContainsFunc(wants, func(o system.Macvlan) bool { return o.Name == v.Name }) {
			p.add(control.PlanRemove, "vmac", v.Name, "")
		}
	}
	if !d.running.Quorum.Equal(d.next.Quorum) {
		p.add(control.PlanChange, "quorum", "", "")
	}
	if d.next.Globals.FIFOStatesOnReload {
		p.add(control.PlanRun, "fifo", "", "a line with the state of each instance and sync group that stays in it (fifo_write_vrrp_states_on_reload)")
	}
	return p.all
}

// consequence is what a change of an instance may lead to beyond itself.
func consequence(k *kept, state string) string {
	var all []string
	if k.is.Priority != k.was.Priority {
		all = append(all, fmt.Sprintf("priority %d to %d: another node may become master, or this one", k.was.Priority, k.is.Priority))
	}
	if state == control.StateMaster && !slices.EqualFunc(held(&k.was), held(&k.is), func(a, b conf.Address) bool { return a.Prefix == b.Prefix && a.Interface == b.Interface }) {
		text := "its addresses are set and announced anew"
		if k.is.Quorum != "" && len(k.was.Addresses) > 0 && !slices.ContainsFunc(held(&k.was), func(a conf.Address) bool {
			return slices.ContainsFunc(held(&k.is), func(b conf.Address) bool { return a.Prefix.Addr() == b.Prefix.Addr() })
		}) {
			text += "; none stays that could tell of the lease, so that resource " + k.is.Quorum + " is given back, and granted anew"
		}
		all = append(all, text)
	}
	return strings.Join(all, "; ")
}

func (d *difference) goneSteps(p *steps, c *conf.Instance, state string) {
	text := "it gives its addresses away"
	if state != control.StateMaster {
		text = "it is " + state
	} else if c.Quorum != "" {
		text += "; resource " + c.Quorum + " is given back, for all instances that have it, and granted anew"
	}
	if slices.ContainsFunc(d.fresh, func(f conf.Instance) bool { return f.Name == c.Name }) {
		text += "; under its name comes another virtual router"
	}
	p.add(control.PlanRemove, "instance", c.Name, text)
	if state != "" && state != control.StateInit {
		p.hooks(c.Hooks, "instance", c.Name, notify.Deleted, "")
	}
}

// programSteps are the scripts, files and FIFOs.
func (d *difference) programSteps(p *steps) {
	before, after := d.running.Scripts, d.next.Scripts
	name := func(s *conf.Script) string { return s.Name }
	list(p, "script", before, after, name, track.SameScript, func(s *conf.Script) string { return strings.Join(s.Command.Argv, " ") })
	list(p, "track_file", d.running.TrackFiles, d.next.TrackFiles, func(f *conf.TrackFile) string { return f.Name },
		func(a, b conf.TrackFile) bool { return a.Equal(&b) }, func(f *conf.TrackFile) string { return f.Path })
	list(p, "track_process", d.running.TrackProcesses, d.next.TrackProcesses, func(t *conf.TrackProcess) string { return t.Name },
		func(a, b conf.TrackProcess) bool { return a.Equal(&b) }, func(t *conf.TrackProcess) string { return strings.Join(t.Process, " ") })
	list(p, "fifo", pipes(&d.running.Globals), pipes(&d.next.Globals), func(f *conf.FIFO) string { return f.Path },
		func(a, b conf.FIFO) bool { return a.Equal(&b) }, func(f *conf.FIFO) string { return strings.Join(f.Script.Argv, " ") })
}

// pipes are the FIFOs of a configuration.
func pipes(g *conf.Globals) (all []conf.FIFO) {
	for _, f := range []conf.FIFO{g.NotifyFIFO, g.VRRPNotifyFIFO} {
		if f.Path != "" {
			all = append(all, f)
		}
	}
	return all
}

// list tells what of one kind is stopped, changed and started.
func list[T any](p *steps, kind string, before, after []T, name func(*T) string, same func(a, b T) bool, text func(*T) string) {
	find := func(in []T, n string) *T {
		k := slices.IndexFunc(in, func(x T) bool { return name(&x) == n })
		if k < 0 {
			return nil
		}
		return &in[k]
	}
	for k := range before {
		if find(after, name(&before[k])) == nil {
			p.add(control.PlanStop, kind, name(&before[k]), "")
		}
	}
	for k := range after {
		switch was := find(before, name(&after[k])); {
		case was == nil:
			p.add(control.PlanStart, kind, name(&after[k]), text(&after[k]))
		case !same(*was, after[k]):
			p.add(control.PlanChange, kind, name(&after[k]), text(&after[k]))
		}
	}
}

func (d *difference) groupSteps(p *steps) {
	find := func(in []conf.SyncGroup, name string) *conf.SyncGroup {
		k := slices.IndexFunc(in, func(g conf.SyncGroup) bool { return g.Name == name })
		if k < 0 {
			return nil
		}
		return &in[k]
	}
	for k := range d.running.SyncGroups {
		if g := &d.running.SyncGroups[k]; find(d.next.SyncGroups, g.Name) == nil {
			p.add(control.PlanRemove, "sync_group", g.Name, "")
			p.hooks(g.Hooks, "group", g.Name, notify.Deleted, "")
		}
	}
	for k := range d.next.SyncGroups {
		g := &d.next.SyncGroups[k]
		switch was := find(d.running.SyncGroups, g.Name); {
		case was == nil:
			p.add(control.PlanAdd, "sync_group", g.Name, "of "+strings.Join(g.Members, ", "))
		case !slices.Equal(was.Members, g.Members):
			p.add(control.PlanChange, "sync_group", g.Name, fmt.Sprintf("members %s to %s; it is MASTER again when each of them can be", strings.Join(was.Members, ", "), strings.Join(g.Members, ", ")))
		case !was.Equal(g):
			p.add(control.PlanChange, "sync_group", g.Name, "")
		}
	}
}

// steps collects.
type steps struct{ all []control.PlanStep }

func (p *steps) add(action, kind, name, text string, keywords ...string) {
	p.all = append(p.all, control.PlanStep{Action: action, Kind: kind, Name: name, Text: text, Keywords: keywords})
}

// hooks tells of the programs that a state runs.
func (p *steps) hooks(h conf.Hooks, kind, name, state, condition string) {
	for _, hook := range notify.HooksFor(h, state) {
		if len(hook.Command.Argv) == 0 {
			continue
		}
		text := fmt.Sprintf("%s of %s %s: %s", hook.Keyword, kind, name, strings.Join(hook.Command.Argv, " "))
		if condition != "" {
			text += ", " + condition
		}
		p.add(control.PlanRun, "hook", name, text)
	}
}

// refusal says why a reload with what was read changes nothing; "": it would be put in force.
func (d *Daemon) refusal(c candidate) string {
	if conf.ExitCode(c.found, false) == conf.ExitCannot {
		first := slices.IndexFunc(c.found, func(f conf.Diagnostic) bool { return f.Severity == conf.Fatal })
		return c.found[first].String()
	}
	for _, f := range c.found {
		switch {
		case f.Severity != conf.Error:
		case !c.known[f.Problem()]:
			return f.String() + "; what runs does not have this error"
		case c.strict:
			return f.String() + "; reload_check_config wants none"
		}
	}
	switch {
	case d.grants == nil && c.config.Quorum == nil:
		return ""
	case d.grants == nil:
		return "a quorum block cannot be added without a restart of vrrpd"
	case d.monitor == nil && len(c.config.Instances) > 0:
		return "a witness cannot get instances without a restart of vrrpd"
	case c.config.Quorum == nil:
		return "the quorum block cannot be removed without a restart of vrrpd"
	}
	if keys := d.grants.NeedsRestart(c.config.Quorum); len(keys) > 0 {
		return fmt.Sprintf("changes of %s in the quorum block need a restart of vrrpd", strings.Join(keys, ", "))
	}
	return ""
}

// Plan implements control.Daemon: it reads a file as a reload does, and goes no further.
func (d *Daemon) Plan(_ context.Context, file string) (control.Plan, error) {
	c := d.consider(file)
	p := control.Plan{File: file, Running: d.opt.File, Refused: d.refusal(c), Steps: []control.PlanStep{}}
	for _, f := range c.found {
		p.Findings = append(p.Findings, f.String())
	}
	if p.Refused != "" {
		return p, nil
	}
	d.mu.Lock()
	running, units := d.config, d.units
	instances := make([]conf.Instance, len(units))
	for k, u := range units {
		instances[k] = u.config
	}
	d.mu.Unlock()
	c.config.KeepVMACNames(running)
	states := map[string]string{}
	for k, u := range units {
		states[instances[k].Name] = u.instance.Status().State
	}
	change := differ(running, instances, c.config, d.complete(c.config))
	p.Steps, p.Unchanged = change.steps(states), change.unchanged()
	_, p.NeedsRestart = change.globals()
	return p, nil
}
