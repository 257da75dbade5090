package conf

import "fmt"

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

func trackInterface(s *statement, d *instanceDraft) {
	s.p.values(s, func(s *statement) {
		if _, ok := s.interfaceName(s.arg(0), "ignored"); !ok {
			return
		}
		t, _, _ := s.trackLine(253, false)
		for _, other := range d.trackInterfaces {
			if other.Name == t.Name {
				s.bad(s.arg(0), "interface is tracked twice, expected it once; the second is ignored")
				return
			}
		}
		d.trackInterfaces = append(d.trackInterfaces, trackedDraft{Tracked: t, at: origin{s.arg(0).pos, s.line.via, s.name()}})
	})
}

func trackScript(s *statement, d *instanceDraft) {
	s.p.values(s, func(s *statement) {
		t, weighted, forward := s.trackLine(253, true)
		for _, other := range d.trackScripts {
			if other.Name == t.Name {
				s.bad(s.arg(0), "script is tracked twice, expected it once; the second is ignored")
				return
			}
		}
		d.trackScripts = append(d.trackScripts, trackedDraft{
			Tracked: t, weighted: weighted, forward: forward, early: s.p.scriptNames[t.Name] == nil, at: origin{s.arg(0).pos, s.line.via, s.name()}})
	})
}

// trackOther reads the tracking that is recognised and not supported: a check that cannot be made has failed.
func trackOther(s *statement, d *instanceDraft) {
	s.p.values(s, func(s *statement) {
		t, weighted, _ := s.trackLine(254, true)
		t.Name = s.name() + " " + t.Name
		t.Undefined = true
		t.Weight = min(max(t.Weight, -253), 253)
		d.trackScripts = append(d.trackScripts, trackedDraft{
			Tracked: t, weighted: weighted, other: true, at: origin{s.arg(0).pos, s.line.via, s.name()}})
	})
}

// trackedDraft is a line of a track_ block on its way.
type trackedDraft struct {
	Tracked
	at       origin
	weighted bool // it has a weight of its own
	forward  bool // noreverse stood there
	early    bool // its vrrp_script did not exist yet
	other    bool // a kind that is not supported
}

// resolveTracking fills in what only the whole file tells.
func (p *parser) resolveTracking(d *instanceDraft) {
	for _, t := range d.trackInterfaces {
		switch {
		case t.Name == d.Interface:
			p.report(Error, t.at, t.Name, "the instance's own interface is tracked anyway; ignored")
			continue
		case t.Weight != 0 && d.Priority == 255:
			p.report(Error, t.at, t.Name, "a weight cannot change the priority of an address owner (255); ignored")
			continue
		}
		d.TrackInterfaces = append(d.TrackInterfaces, t.Tracked)
	}
	for _, t := range d.trackScripts {
		if t.other {
			d.TrackScripts = append(d.TrackScripts, t.Tracked)
			continue
		}
		s := p.scriptNames[t.Name]
		if s == nil {
			t.Undefined = true
			consequence := "the instance stays in FAULT"
			if t.Weight != 0 {
				consequence = fmt.Sprintf("it counts as failed, with weight %d", t.Weight)
			}
			p.report(Error, t.at, t.Name, "no usable vrrp_script of this name, expected one in the file; %s", consequence)
			d.TrackScripts = append(d.TrackScripts, t.Tracked)
			continue
		}
		s.used = true
		if t.early {
			p.report(Lint, t.at, t.Name, "vrrp_script stands further down (at %s): keepalived would ignore this check", s.At())
		}
		if !t.weighted {
			t.Weight = s.Weight
		}
		t.Reverse = !t.forward && (t.Reverse || s.Reverse)
		if t.Weight != 0 && d.Priority == 255 {
			p.report(Error, t.at, t.Name, "a weight cannot change the priority of an address owner (255); ignored")
			continue
		}
		d.TrackScripts = append(d.TrackScripts, t.Tracked)
	}
}
