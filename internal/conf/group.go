package conf

import "slices"

// groupDraft is a vrrp_sync_group on its way.
type groupDraft struct {
	SyncGroup
	tracking
	at      origin
	members []member
	listed  bool // a group block stood there
	tells   bool // notify_priority_changes was given
}

type member struct {
	name string
	at   origin
}

func groupKeywords() [][]keyword[groupDraft] {
	hook := func(of func(h *Hooks) *Command) func(s *statement, g *groupDraft) {
		return func(s *statement, g *groupDraft) { hookLine(s, of(&g.Hooks)) }
	}
	return append([][]keyword[groupDraft]{
		{
			{name: "group", max: 0, set: func(s *statement, g *groupDraft) {
				if g.listed {
					s.bad(word{pos: s.words[0].pos}, "members are given already, expected one group block; this one is ignored")
					s.p.skipBlock()
					return
				}
				g.listed = true
				s.p.values(s, func(s *statement) {
					for _, w := range s.words[1:] {
						if slices.ContainsFunc(g.members, func(m member) bool { return m.name == w.text }) {
							s.report(Lint, w, "member is given twice, expected it once; ignored")
							continue
						}
						g.members = append(g.members, member{w.text, origin{w.pos, s.line.via, s.name()}})
					}
				})
			}},
			{name: "notify", need: 1, max: -1, set: hook(func(h *Hooks) *Command { return &h.Notify })},
			{name: "notify_master", need: 1, max: -1, set: hook(func(h *Hooks) *Command { return &h.Master })},
			{name: "notify_backup", need: 1, max: -1, set: hook(func(h *Hooks) *Command { return &h.Backup })},
			{name: "notify_fault", need: 1, max: -1, set: hook(func(h *Hooks) *Command { return &h.Fault })},
			{name: "notify_stop", need: 1, max: -1, set: hook(func(h *Hooks) *Command { return &h.Stop })},
			{name: "sync_group_tracking_weight", max: 0, set: plain(func(g *groupDraft) { g.TrackingWeight = true })},
			{name: "notify_priority_changes", max: 1, set: boolean(func(g *groupDraft, v bool) { g.NotifyPriorityChanges, g.tells = v, true })},
			{name: "global_tracking", max: 0, set: func(s *statement, g *groupDraft) {
				s.report(Lint, word{pos: s.words[0].pos}, "it does nothing any more: what the group tracks counts for every member")
				g.GlobalTracking = true
			}},
		},
		not[groupDraft](skipped, false, "vrrpd sends no e-mail; use notify", "smtp_alert"),
	}, trackKeywords(func(g *groupDraft) *tracking { return &g.tracking })...)
}

// beginGroup parses a vrrp_sync_group block.
func beginGroup(s *statement, p *parser) {
	g := &groupDraft{at: s.origin(), SyncGroup: SyncGroup{
		Pos: s.words[0].pos, Name: s.text(0), NotifyPriorityChanges: p.g.notifyPriorityChanges}}
	if g.Name == "" {
		s.bad(s.arg(0), "name is missing, expected vrrp_sync_group NAME; the block is skipped")
		p.skipBlock()
		return
	}
	for _, other := range p.groups {
		if other.Name == g.Name {
			s.bad(s.arg(0), "vrrp_sync_group of this name exists already (at %s), expected a name of its own; this one is ignored", other.At())
			p.skipBlock()
			return
		}
	}
	p.groups = append(p.groups, g)
	parseBlock(p, s, p.group, g)
}

// finishGroups settles the members once all instances are known, and what the groups track. It gives each member's group.
func (p *parser) finishGroups() map[string]*groupDraft {
	of := map[string]*groupDraft{}
	for _, g := range p.groups {
		for _, m := range g.members {
			d := p.instanceNames[m.name]
			switch other := of[m.name]; {
			case d == nil:
				p.report(Error, m.at, m.name, "no vrrp_instance of this name, expected one in the file; ignored")
			case other != nil:
				p.report(Error, m.at, m.name, "instance is in vrrp_sync_group %s already, expected one group; ignored", other.Name)
			case d.Quorum != "":
				// Its fellows cannot go where it goes by a grant, and it cannot go where they go without one.
				p.report(Fatal, m.at, m.name, "instance asks for a grant of %s, expected no group: all instances with one resource get its grant together", d.Quorum)
			default:
				of[m.name] = g
				d.SyncGroup = g.Name
				if _, given := d.seen["notify_priority_changes"]; g.tells && !given {
					d.NotifyPriorityChanges = g.NotifyPriorityChanges
				}
				g.Members = append(g.Members, m.name)
			}
		}
		r := p.resolve("the group", &g.tracking)
		g.TrackInterfaces, g.TrackScripts, g.TrackFiles, g.TrackProcesses = r.interfaces, r.scripts, r.files, r.processes
		switch len(g.Members) {
		case 0:
			p.report(Error, g.at, g.Name, "group has no member, expected at least two; it is ignored")
			continue
		case 1:
			p.report(Error, g.at, g.Name, "group has one member only, expected at least two")
		}
		p.cfg.SyncGroups = append(p.cfg.SyncGroups, g.SyncGroup)
	}
	return of
}
