package conf

import (
	"slices"
	"time"
)

// garpGroupDraft is a garp_group on its way.
type garpGroupDraft struct{ GarpGroup }

func garpGroupKeywords() [][]keyword[garpGroupDraft] {
	interval := func(set func(g *garpGroupDraft, v time.Duration)) func(s *statement, g *garpGroupDraft) {
		return func(s *statement, g *garpGroupDraft) {
			if v, ok := s.seconds(s.arg(0), time.Microsecond, maxSeconds, "ignored"); ok {
				set(g, v)
			}
		}
	}
	add := func(s *statement, g *garpGroupDraft, w word) {
		name, ok := s.interfaceName(w, "ignored")
		switch {
		case !ok:
		case slices.Contains(g.Interfaces, name):
			s.report(Lint, w, "interface is given twice, expected it once; ignored")
		case slices.ContainsFunc(s.p.cfg.GarpGroups, func(other GarpGroup) bool { return slices.Contains(other.Interfaces, name) }):
			s.bad(w, "interface is in another garp_group already, expected one; ignored")
		default:
			g.Interfaces = append(g.Interfaces, name)
		}
	}
	return [][]keyword[garpGroupDraft]{{
		{name: "garp_interval", need: 1, max: 1, set: interval(func(g *garpGroupDraft, v time.Duration) { g.Interval = v })},
		{name: "gna_interval", need: 1, max: 1, set: interval(func(g *garpGroupDraft, v time.Duration) { g.GNAInterval = v })},
		{name: "interface", need: 1, max: 1, set: func(s *statement, g *garpGroupDraft) { add(s, g, s.arg(0)) }},
		{name: "interfaces", max: 0, set: func(s *statement, g *garpGroupDraft) {
			s.p.values(s, func(s *statement) {
				for _, w := range s.words[1:] {
					add(s, g, w)
				}
			})
		}},
	}}
}

// beginGarpGroup parses a garp_group block.
func beginGarpGroup(s *statement, p *parser) {
	g := &garpGroupDraft{GarpGroup{Pos: s.words[0].pos}}
	at := s.origin()
	parseBlock(p, s, p.garpGroup, g)
	switch {
	case len(g.Interfaces) == 0:
		p.report(Error, at, "", "group has no interface, expected interface or interfaces; it is ignored")
		return
	case g.Interval == 0 && g.GNAInterval == 0:
		p.report(Error, at, "", "group has no interval, expected garp_interval or gna_interval; it is ignored")
		return
	}
	p.cfg.GarpGroups = append(p.cfg.GarpGroups, g.GarpGroup)
}

// linkDelays reads interface_up_down_delays: lines INTERFACE DOWN [UP].
func linkDelays(s *statement, p *parser) {
	p.values(s, func(s *statement) {
		name, ok := s.interfaceName(s.arg(0), "ignored")
		if !ok {
			return
		}
		if s.args() == 1 {
			s.bad(s.arg(1), "delay is missing, expected INTERFACE DOWN [UP] in seconds; ignored")
			return
		}
		d := LinkDelay{Pos: s.arg(0).pos, Interface: name}
		if d.Down, ok = s.seconds(s.arg(1), 0, 255*time.Second, "ignored"); !ok {
			return
		}
		if s.args() == 2 {
			s.report(Lint, s.arg(1), "up delay is not given and 0, as in keepalived, whose manual says that it were the down delay")
		} else if d.Up, ok = s.seconds(s.arg(2), 0, 255*time.Second, "ignored"); !ok {
			return
		}
		s.surplus(3)
		i := slices.IndexFunc(p.cfg.LinkDelays, func(other LinkDelay) bool { return other.Interface == name })
		if i >= 0 {
			s.report(Lint, s.arg(0), "interface is given already (at %s), expected it once; the last one counts", p.cfg.LinkDelays[i].At())
			p.cfg.LinkDelays[i] = d
			return
		}
		p.cfg.LinkDelays = append(p.cfg.LinkDelays, d)
	})
}

// checkLinkDelays looks for links that may be down for so long that a peer takes over before we notice.
func (p *parser) checkLinkDelays() {
	for _, l := range p.cfg.LinkDelays {
		for _, d := range p.instances {
			if limit := d.AdvertInterval * time.Duration(d.DownTimerAdverts-1); d.Interface == l.Interface && l.Down >= limit && l.Down > 0 {
				p.report(Lint, origin{Pos: l.Pos, keyword: "interface_up_down_delays"}, secondsText(l.Down),
					"vrrp_instance %s would become MASTER before its link counts as down, expected a down delay below %s", d.Name, secondsText(limit))
			}
		}
	}
}
