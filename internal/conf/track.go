package conf

import (
	"fmt"
	"slices"
)

// trackLine reads NAME [weight W [reverse|noreverse]], a line of a track_ block. weighted says whether a weight stood
// there, forward whether noreverse did. Where something is wrong with the weight the line counts without it: failure then
// means Fault.
func (s *statement) trackLine(limit int64, noreverse bool) (t Tracked, weighted, forward bool) {
	t = Tracked{Pos: s.arg(0).pos, Name: s.text(0)}
	const counts = "ignored, so that failure means FAULT"
	if s.args() == 1 {
		return t, false, false
	}
	if w := s.arg(1); w.text != "weight" {
		s.bad(w, "unknown option, expected weight; %s", counts)
		return t, false, false
	}
	if s.args() == 2 {
		s.bad(s.arg(1), "weight has no value, expected a whole number from %d to %d; %s", -limit, limit, counts)
		return t, false, false
	}
	w := s.arg(2)
	if limit == 253 && (w.text == "254" || w.text == "-254") {
		s.bad(w, "out of range, expected a whole number from -253 to 253; using 253 of that sign")
		w.text = w.text[:len(w.text)-1] + "3"
	}
	v, ok := s.number(w, -limit, limit, counts)
	if !ok {
		return t, false, false
	}
	t.Weight = int(v)
	switch w := s.arg(3); {
	case s.args() <= 3:
	case w.text == "reverse":
		t.Reverse = true
	case w.text == "noreverse" && noreverse:
		forward = true
	case noreverse:
		s.bad(w, "unknown option, expected reverse or noreverse; ignored")
	default:
		s.bad(w, "unknown option, expected reverse; ignored")
	}
	s.surplus(4)
	return t, true, forward
}

// tracking is what an instance or a group tracks, on its way.
type tracking struct {
	interfaces, scripts, files, processes, others []trackedDraft
}

// trackedDraft is a line of a track_ block on its way.
type trackedDraft struct {
	Tracked
	at       origin
	weighted bool // it has a weight of its own
	forward  bool // noreverse stood there
	early    bool // its block did not exist yet
}

// trackKeywords are the track_ blocks, which instances and groups have alike.
func trackKeywords[T any](of func(*T) *tracking) [][]keyword[T] {
	lines := func(limit int64, noreverse bool, what string, list func(*tracking) *[]trackedDraft, known func(p *parser, name string) bool) func(*statement, *T) {
		return func(s *statement, t *T) {
			all := list(of(t))
			s.p.values(s, func(s *statement) {
				if s.name() == "track_interface" {
					if _, ok := s.interfaceName(s.arg(0), "ignored"); !ok {
						return
					}
				}
				line, weighted, forward := s.trackLine(limit, noreverse)
				if slices.ContainsFunc(*all, func(other trackedDraft) bool { return other.Name == line.Name }) {
					s.bad(s.arg(0), "%s is tracked twice, expected it once; the second is ignored", what)
					return
				}
				*all = append(*all, trackedDraft{
					Tracked: line, weighted: weighted, forward: forward, early: !known(s.p, line.Name), at: origin{s.arg(0).pos, s.line.via, s.name()}})
			})
		}
	}
	always := func(*parser, string) bool { return true }
	own := []keyword[T]{
		{name: "track_interface", max: 0, set: lines(253, false, "interface",
			func(t *tracking) *[]trackedDraft { return &t.interfaces }, always)},
		{name: "track_script", max: 0, set: lines(253, true, "script",
			func(t *tracking) *[]trackedDraft { return &t.scripts }, func(p *parser, name string) bool { return p.scriptNames[name] != nil })},
		{name: "track_file", max: 0, set: lines(254, true, "file",
			func(t *tracking) *[]trackedDraft { return &t.files }, func(p *parser, name string) bool { return p.fileNames[name] != nil })},
		{name: "track_process", max: 0, set: lines(254, true, "process",
			func(t *tracking) *[]trackedDraft { return &t.processes }, func(p *parser, name string) bool { return p.processNames[name] != nil })},
	}
	// A check that cannot be made has failed.
	bfd := not[T](unsupported, false, "what it tracks counts as failed, because it cannot be checked", "track_bfd")
	bfd[0].set = lines(253, true, "BFD instance", func(t *tracking) *[]trackedDraft { return &t.others }, always)
	return [][]keyword[T]{own, bfd}
}

// trackable is what a track_ line can refer to.
type trackable struct {
	kind    string // the keyword of the block
	at      Pos
	weight  int
	reverse bool
	used    *bool
}

// script, file and process find what a line refers to; nil if there is none, or it is unusable.
func (p *parser) scriptOf(name string) *trackable {
	if d := p.scriptNames[name]; d != nil {
		return &trackable{"vrrp_script", d.Pos, d.Weight, d.Reverse, &d.used}
	}
	return nil
}

func (p *parser) fileOf(name string) *trackable {
	if d := p.fileNames[name]; d != nil {
		return &trackable{"track_file", d.Pos, d.Weight, d.Reverse, &d.used}
	}
	return nil
}

func (p *parser) processOf(name string) *trackable {
	if d := p.processNames[name]; d != nil {
		return &trackable{"vrrp_track_process", d.Pos, d.Weight, d.Reverse, &d.used}
	}
	return nil
}

// resolved is tracking with all that the whole file tells.
type resolved struct {
	interfaces, scripts, files, processes []Tracked
}

// resolve fills in what only the whole file tells; whose says for whom what is undefined fails.
func (p *parser) resolve(whose string, t *tracking) (r resolved) {
	for _, t := range t.interfaces {
		r.interfaces = append(r.interfaces, t.Tracked)
	}
	each := func(kind string, lines []trackedDraft, find func(name string) *trackable) (list []Tracked) {
		for _, t := range lines {
			d := find(t.Name)
			if d == nil {
				t.Undefined = true
				consequence := whose + " stays in FAULT"
				if t.Weight != 0 {
					consequence = fmt.Sprintf("it counts as failed, with weight %d", t.Weight)
				}
				p.report(Error, t.at, t.Name, "no usable %s of this name, expected one in the file; %s", kind, consequence)
				list = append(list, t.Tracked)
				continue
			}
			*d.used = true
			if t.early {
				p.report(Lint, t.at, t.Name, "%s stands further down (at %s): keepalived would ignore this check", kind, d.at.At())
			}
			if !t.weighted {
				t.Weight = d.weight
			}
			t.Reverse = !t.forward && (t.Reverse || d.reverse)
			list = append(list, t.Tracked)
		}
		return list
	}
	r.scripts = each("vrrp_script", t.scripts, p.scriptOf)
	r.files = each("track_file", t.files, p.fileOf)
	r.processes = each("vrrp_track_process", t.processes, p.processOf)

	// What cannot be checked has failed.
	for _, t := range t.others {
		t.Name = t.at.keyword + " " + t.Name
		t.Undefined = true
		t.Weight = min(max(t.Weight, -253), 253)
		r.scripts = append(r.scripts, t.Tracked)
	}
	return r
}

// track settles what an instance tracks: its own lines, as far as owner and group let them count, and the group's.
func (p *parser) track(d *instanceDraft, g *groupDraft) {
	own := p.resolve("the instance", &d.tracking)
	own.interfaces = slices.DeleteFunc(own.interfaces, func(t Tracked) bool {
		if t.Name == d.Interface {
			p.report(Error, origin{Pos: t.Pos, keyword: "track_interface"}, t.Name, "the instance's own interface is tracked anyway; ignored")
			return true
		}
		return false
	})
	owner := d.Priority == 255
	ignored := func(keyword string, list []Tracked) []Tracked {
		return slices.DeleteFunc(list, func(t Tracked) bool {
			at := origin{Pos: t.Pos, keyword: keyword}
			switch {
			case t.Weight == 0:
				return false
			case owner:
				p.report(Error, at, t.Name, "a weight cannot change the priority of an address owner (255); ignored")
			case g != nil && !g.TrackingWeight:
				p.report(Error, at, t.Name, "a weight does not count in vrrp_sync_group %s, expected sync_group_tracking_weight in it; ignored", g.Name)
			default:
				return false
			}
			return true
		})
	}
	if g != nil && !g.TrackingWeight && !owner { // keepalived: an interface counts without its weight, anything else not at all
		for i := range own.interfaces {
			if t := &own.interfaces[i]; t.Weight != 0 {
				p.report(Error, origin{Pos: t.Pos, keyword: "track_interface"}, t.Name,
					"a weight does not count in vrrp_sync_group %s, expected sync_group_tracking_weight in it; failure means FAULT", g.Name)
				t.Weight = 0
			}
		}
	}
	d.TrackInterfaces = ignored("track_interface", own.interfaces)
	d.TrackScripts = ignored("track_script", own.scripts)
	d.TrackFiles = ignored("track_file", own.files)
	d.TrackProcesses = ignored("track_process", own.processes)
	if g == nil {
		return
	}
	// The group's own count for each member that doesn't track the same; nothing changes an owner's priority.
	add := func(list *[]Tracked, more []Tracked) {
		for _, t := range more {
			same := func(other Tracked) bool { return other.Name == t.Name }
			if !slices.ContainsFunc(*list, same) && (t.Weight == 0 || !owner) {
				*list = append(*list, t)
			}
		}
	}
	add(&d.TrackInterfaces, slices.DeleteFunc(slices.Clone(g.TrackInterfaces), func(t Tracked) bool { return t.Name == d.Interface }))
	add(&d.TrackScripts, g.TrackScripts)
	add(&d.TrackFiles, g.TrackFiles)
	add(&d.TrackProcesses, g.TrackProcesses)
}
