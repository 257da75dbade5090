package conf

import "slices"

// groupDraft is a vrrp_sync_group on its way.
type groupDraft struct {
	SyncGroup
	at      origin
	members []member
	listed  bool // a group block stood there
}

type member struct {
	name string
	at   origin
}

func groupKeywords() [][]keyword[groupDraft] {
	hook := func(of func(h *Hooks) *Command) func(s *statement, g *groupDraft) {
		return func(s *statement, g *groupDraft) { hookLine(s, of(&g.Hooks)) }
	}
	return [][]keyword[groupDraft]{{
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
	},
		not[groupDraft](unsupported, true, "the members do not follow it; track it in each vrrp_instance",
			"track_interface", "track_script", "track_file", "track_process", "track_bfd"),
		not[groupDraft](unsupported, false, "nothing is written to a FIFO; use notify", "notify_priority_changes"),
		not[groupDraft](skipped, false, "weighted trackers count for each instance alone", "sync_group_tracking_weight", "global_tracking"),
		not[groupDraft](skipped, false, "vrrpd sends no e-mail; use notify", "smtp_alert"),
	}
}

// beginGroup parses a vrrp_sync_group block.
func beginGroup(s *statement, p *parser) {
	g := &groupDraft{at: s.origin(), SyncGroup: SyncGroup{Pos: s.words[0].pos, Name: s.text(0)}}
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
	s.bad(word{pos: s.words[0].pos},
		"recognised but not supported by this version: the members do not move together, and the group's hooks do not run")
	p.groups = append(p.groups, g)
	parseBlock(p, s, p.group, g)
}

// finishGroups settles the members once all instances are known.
func (p *parser) finishGroups() {
	taken := map[string]string{}
	for _, g := range p.groups {
		for _, m := range g.members {
			exists := p.instanceNames[m.name] != nil
			switch other, grouped := taken[m.name]; {
			case !exists:
				p.report(Error, m.at, m.name, "no vrrp_instance of this name, expected one in the file; ignored")
			case grouped:
				p.report(Error, m.at, m.name, "instance is in vrrp_sync_group %s already, expected one group; ignored", other)
			default:
				taken[m.name] = g.Name
				g.Members = append(g.Members, m.name)
			}
		}
		switch len(g.Members) {
		case 0:
			p.report(Error, g.at, g.Name, "group has no member, expected at least two; it is ignored")
			continue
		case 1:
			p.report(Error, g.at, g.Name, "group has one member only, expected at least two")
		}
		p.cfg.SyncGroups = append(p.cfg.SyncGroups, g.SyncGroup)
	}
}
