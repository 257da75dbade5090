package core

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Explain says in sentences what stands between this server and where it should be; a healthy one is told in one or two.
func (a *Agent) Explain() []string {
	wake := a.wake
	defer func() { a.wake = wake }() // asking changes nothing
	var out []string
	add := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	v := &a.view
	switch {
	case !a.seen:
		return []string{"vrrpd has not told anything yet"}
	case v.Epoch == 0:
		return []string{"the resource is not initialized: run pgnotify init on the node whose data is the truth"}
	}
	if why := a.unfit(); why != "" {
		add("not promotable: %s", why)
	} else if !a.rule.Has(a.o.Node) {
		add("not promotable: the rule is %s, and does not name this node", a.ruleText())
	} else {
		add("promotable: the rule %s names this node", a.ruleText())
	}
	if a.keepErr != "" {
		add("the state directory can't be written to: %s", a.keepErr)
	}
	if a.fails > 0 && !a.srv.Running {
		add("PostgreSQL does not start, %d times in a row: %s", a.fails, a.failure)
	}
	if a.srv.Archives {
		add("PostgreSQL is shut down, and its archiver still at work: it is started when that is done, at the latest after %v", a.o.Archiver)
	}
	if v.Paused {
		add("paused by an operator: no election, and the rule only shrinks")
	}
	switch {
	case v.Phase == Released || v.Phase == Electing:
		need := "all of its data is there alone"
		if len(a.rule.S) > 0 {
			need = "needs one of them"
		}
		text := fmt.Sprintf("epoch %d is %v: the rule is %s: %s", v.Epoch, v.Phase, a.ruleText(), need)
		switch {
		case a.reported.epoch == v.Epoch && a.rule.Has(a.o.Node):
			text += ", has heard this node"
		case a.reported.epoch == v.Epoch:
			text += "; this node has pledged, and does not count"
		default:
			text += "; this node has not pledged yet"
		}
		out = append(out, text)
	case a.acks():
		add("active holder of epoch %d on timeline %d: the rule is %s", v.Epoch, a.srv.Pos.TLI, a.ruleText())
		out = append(out, a.explainRule()...)
	case v.Mine && a.burnt == v.Epoch:
		add("epoch %d was this node's, and is over here: waiting for the next", v.Epoch)
	case v.Mine && v.Phase == Granted:
		add("granted epoch %d: %s", v.Epoch, a.explainGrant())
	case a.heldByOther():
		out = append(out, a.explainFollow()...)
	}
	if a.primary() && !a.acks() {
		add("PostgreSQL is a primary on hold: it acknowledges no commit")
	}
	return out
}

func (a *Agent) ruleText() string {
	return "{" + a.rule.Holder + "; " + strings.Join(a.rule.S, ", ") + "}"
}

func (a *Agent) explainGrant() string {
	g := &a.grant
	switch {
	case g.epoch != a.view.Epoch:
		return "not begun"
	case !g.keep && g.end == 0:
		return fmt.Sprintf("being promoted to timeline %d", g.tli)
	case !g.picked:
		return "waiting for the first standby that has the end of recovery"
	}
	return "the rule is on its way into the log"
}

// brief is an error in one line: what a server's log says of a start is long.
func brief(err error) string {
	text := strings.Join(strings.Fields(err.Error()), " ")
	if r := []rune(text); len(r) > 600 {
		text = string(r[:200]) + " ... " + string(r[len(r)-400:])
	}
	return text
}

func (a *Agent) explainRule() []string {
	var out []string
	if a.ssnErr != "" && a.srv.SSN != a.setting(a.rule.S).String() {
		out = append(out, fmt.Sprintf("commits may wait for nodes that are gone: synchronous_standby_names is %q, and can't be changed: %s", a.srv.SSN, a.ssnErr))
	}
	if !a.settled() {
		out = append(out, "the outcome of a proposal is not known: the setting in force stays the stricter one")
	}
	for k := range a.peers {
		p := &a.peers[k]
		switch {
		case slices.Contains(a.rule.S, p.name) && p.leaving:
			out = append(out, p.name+" leaves the rule")
		case slices.Contains(a.rule.S, p.name) && !p.streams:
			out = append(out, p.name+" is in the rule and does not stream")
		case slices.Contains(a.rule.S, p.name) && a.unheard(p):
			out = append(out, p.name+" is in the rule, and its agent is not heard")
		case slices.Contains(a.rule.S, p.name):
		case p.leaving:
			out = append(out, p.name+" is out of the rule: it is in maintenance")
		case !p.streams:
			out = append(out, p.name+" is out of the rule: it does not stream from here")
		case a.unheard(p):
			out = append(out, p.name+" is out of the rule: it streams, but its agent is not heard")
		case a.grow.name == p.name:
			out = append(out, p.name+" is on its way into the rule")
		case a.present() >= a.syncNum():
			out = append(out, p.name+" is a spare")
		case a.now < a.damped(p):
			out = append(out, fmt.Sprintf("%s is out of the rule for %v more: it was lost %d times", p.name, a.damped(p)-a.now, len(p.losses)))
		default:
			out = append(out, p.name+" is out of the rule: it lags")
		}
	}
	if len(a.rule.S) < a.atLeast() || slices.ContainsFunc(a.rule.S, a.lost) && len(a.rule.S) <= a.atLeast() {
		out = append(out, fmt.Sprintf("commits wait: min_copies is %d", a.view.MinCopies))
	}
	return out
}

func (a *Agent) explainFollow() []string {
	f, v := &a.follow, &a.view
	switch {
	case a.srv.Upstream == v.Holder:
		return []string{"streams from " + v.Holder}
	case f.reason == "" && f.unseen == "":
		return []string{"not streaming from " + v.Holder + " yet"}
	case f.reason == "":
		return []string{v.Holder + "'s server can't be asked: " + f.unseen}
	}
	out := []string{"can't stream from " + v.Holder + ": " + f.reason}
	if c := &a.copies; c.tried > 0 && a.work.node == "" {
		text := "a copy was made, and does not stream"
		if c.err != "" {
			text = "a copy failed: " + c.err
		}
		if d := c.next - a.now; d > 0 {
			text += fmt.Sprintf("; the next try in %v at the latest", d.Round(time.Second))
		}
		out = append(out, text)
	}
	switch {
	case f.unseen != "":
		out = append(out, v.Holder+"'s server can't be asked: "+f.unseen)
	case a.work.node != "" && a.work.rewind:
		out = append(out, "it is being rewound to "+a.work.node)
	case a.work.node != "":
		out = append(out, "it is being copied from "+a.work.node)
	case v.Phase != Active:
		out = append(out, "nothing is changed here before "+v.Holder+" is active")
	case a.rule.Has(a.o.Node):
		out = append(out, "nothing is changed here while the rule names this node")
	case a.awaitsRule():
		out = append(out, fmt.Sprintf("waiting for a rule after version %d: one that names this node may be on its way", a.read.version))
	case f.unready != "":
		out = append(out, v.Holder+"'s server can't be used for a rewind: "+f.unready)
	default:
		out = append(out, "waiting for the log, or for "+v.Holder+" to be ready for a rewind")
	}
	return out
}
