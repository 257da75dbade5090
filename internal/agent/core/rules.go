package core

import (
	"cmp"
	"slices"
	"time"
)

// peer is another node as the holder sees it.
type peer struct {
	name    string
	streams bool
	since   time.Duration // of streams
	has     uint64
	moved   time.Duration // when it last moved on, or had nothing to wait for
	heard   time.Duration // its agent, or when we could not have heard it
	losses  []time.Duration
	leaving bool
	asked   bool // and waits for an answer
	let     bool // it can't stream from here as it is, and can't be rebuilt while the rule names it
	begs    bool // or before there is a newer rule
}

func (a *Agent) peer(name string) *peer {
	for k := range a.peers {
		if a.peers[k].name == name {
			return &a.peers[k]
		}
	}
	return nil
}

// watch follows the standbys from look to look.
func (a *Agent) watch() {
	gap := a.now - a.lookAt
	a.lookAt = a.now
	if !a.primary() {
		a.flushed = 0
		for k := range a.peers {
			p := &a.peers[k]
			p.streams, p.since, p.moved, p.heard = false, a.now, a.now, a.now
		}
		return
	}
	for k := range a.peers {
		p := &a.peers[k]
		p.heard = min(a.now, p.heard+max(0, gap-a.t.Gone)) // what was said while nobody looked may still wait for us
		s, there := a.srv.standby(p.name)
		streams := there && s.Streaming
		if streams != p.streams {
			p.streams, p.since = streams, a.now
			p.let = p.let && !streams
		}
		if streams && (s.has() > p.has || s.has() >= a.flushed) {
			p.moved = a.now
		}
		if gap > a.t.Gone { // nobody looked: that is no loss of theirs
			p.moved = a.now
			if !streams {
				p.since = a.now
			}
		}
		p.has = s.has()
	}
	a.flushed = a.srv.Pos.LSN
}

// unheard reports whether the agent of a standby is gone, though its server may stream on.
func (a *Agent) unheard(p *peer) bool {
	due := p.heard + a.t.Silent
	a.at(due)
	return a.now >= due && !a.blind()
}

// blind reports whether nobody has looked at the standbys lately, because this process, the machine or the server was stopped or slow.
// Then no time that has passed is a standby's fault.
func (a *Agent) blind() bool { return a.now > a.lookAt+a.t.Gone }

// lost reports whether a member of S is to go.
func (a *Agent) lost(name string) bool {
	p := a.peer(name)
	if p == nil || p.leaving || p.let || slices.Contains(a.rule.Gone, name) || a.unheard(p) {
		return true
	}
	if a.blind() {
		return false
	}
	if !p.streams {
		a.at(p.since + a.t.Gone)
		return a.now >= p.since+a.t.Gone
	}
	if p.has < a.flushed {
		a.at(p.moved + a.t.Stalled)
	}
	return a.now >= p.moved+a.t.Stalled
}

// damped is until when a standby that keeps coming and going stays out.
func (a *Agent) damped(p *peer) time.Duration {
	p.losses = slices.DeleteFunc(p.losses, func(t time.Duration) bool { return a.now >= t+a.t.Forget })
	n := len(p.losses)
	if n < 2 {
		return 0
	}
	wait := a.t.Flap
	for range min(n-2, 30) {
		if wait = 2 * wait; wait >= a.t.FlapMax {
			wait = a.t.FlapMax
			break
		}
	}
	return p.losses[n-1] + wait
}

// ruling is what this process has proposed in an epoch.
type ruling struct {
	epoch uint64
	own   bool   // a SetRule of this process was committed in it: none of a former process can be any more
	tried uint64 // the highest version that may come of a proposal
	nudge bool   // the SSN became looser
}

// setting is the SSN for a rule with this S. With fewer copies than wanted nothing is acknowledged.
func (a *Agent) setting(s []string) SSN { return SSN{Names: s, Hold: len(s) < a.atLeast()} }

// settled reports whether the rule that we know is the one in the log: no proposal of this or a former process can still replace it.
// Only then may a running SSN become looser.
func (a *Agent) settled() bool {
	return a.ruling.epoch == a.view.Epoch && a.ruling.own && a.rule.Version >= a.ruling.tried && a.slot(SetRule).act.ID == 0
}

// setRule proposes s on the newest version known. Its outcome may never be known; then nothing is concluded, and a proposal on the
// same version decides.
func (a *Agent) setRule(s []string) {
	g := &a.grant
	act := Action{Kind: SetRule, Epoch: a.view.Epoch, Ver: a.rule.Version, Names: slices.Clone(s), TLI: a.srv.Pos.TLI}
	if g.epoch == a.view.Epoch && g.tli == act.TLI {
		act.LSN, act.Parent = g.lsn, g.parent
	}
	if a.ask(act) {
		a.ruling.tried = max(a.ruling.tried, act.Ver+1)
		a.renewed = a.now
	}
}

// ruled takes the outcome of a SetRule.
func (a *Agent) ruled(act Action, d Done) {
	if d.Err != nil {
		return
	}
	if act.Ver+1 > a.rule.Version {
		a.rule = Rule{Holder: a.o.Node, S: act.Names, Version: act.Ver + 1}
	}
	if act.Epoch != a.view.Epoch {
		return
	}
	if a.ruling.epoch == act.Epoch {
		a.ruling.own = true
	}
	if a.burnt != act.Epoch && a.active != act.Epoch {
		a.activate(act.Epoch)
		a.timeline = act.TLI
		a.say("epoch %d is active: timeline %d, the rule is {%s; %v}", act.Epoch, act.TLI, a.o.Node, act.Names)
	}
}

// activate notes that an epoch is active here. A rule that stayed with its grant names standbys whose streams their pledges have ended, and
// which are on their way back now: what they missed before is no loss of theirs.
func (a *Agent) activate(epoch uint64) {
	if a.active == epoch {
		return
	}
	a.active = epoch
	for k := range a.peers {
		if p := &a.peers[k]; !p.streams {
			p.since = a.now
		}
	}
}

// grow is a standby on its way into S.
type grow struct {
	name    string
	since   time.Duration
	step    growStep
	barrier uint64
	failed  bool
}

type growStep uint8

const (
	growProbe growStep = iota // FIRST 2 (s, hold), and a commit seen waiting
	growWrite                 // the SSN with s in front
	growProof                 // every walsender has it
	growFlush                 // s has everything up to the barrier
	growRule                  // SetRule
)

// manage keeps the rule and the SSN of an active epoch.
func (a *Agent) manage() {
	v := &a.view
	if a.ruling.epoch != v.Epoch {
		a.ruling = ruling{epoch: v.Epoch}
		a.timeline = a.srv.Pos.TLI
		a.grow = grow{}
	}
	running, ours := ParseSSN(a.srv.SSN)
	if !a.flag && ours && len(a.rule.S) > 0 && !running.Hold && running.Covers(a.rule.S) {
		a.flag = true // it was proved before the rule named them
	}
	if !ours || !running.Covers(a.rule.S) {
		a.do(Action{Kind: WriteSSN, SSN: a.setting(a.rule.S)})
		return
	}
	if !a.ruling.own {
		// What a former process proposed may still come. A proposal of ours on the same version rules that out.
		a.setRule(a.rule.there())
		return
	}
	if a.switching() {
		return
	}
	if want, same := a.want(); !same || !a.settled() {
		a.setRule(want)
		return
	}
	if a.growing() {
		return
	}
	if to := a.setting(a.rule.S); a.srv.SSN != to.String() {
		a.do(Action{Kind: WriteSSN, SSN: to})
		a.ruling.nudge = true
		return
	}
	if a.opened != v.Epoch && a.atLeast() > 0 && !a.flag && a.setting(a.rule.S).Hold {
		a.do(Action{Kind: ProveSSN, SSN: a.setting(a.rule.S), Probe: true}) // too few copies: do commits wait already?
		return
	}
	if a.opened != v.Epoch {
		a.opened = v.Epoch
		a.tell(Action{Kind: Open, Epoch: v.Epoch})
	}
	if a.ruling.nudge {
		a.ruling.nudge = false
		a.do(Action{Kind: Nudge}) // waiting commits are let go with the next reply only; the opening need not wait for that
		return
	}
	if !a.srv.RewindReady {
		a.ask(Action{Kind: AfterPromote, Epoch: v.Epoch})
	}
	if a.startGrow() {
		return
	}
	a.renew()
}

// want is the S that the rule should name now; same reports whether it does. Losing a standby ends a Grow that is not in the log's
// hands yet.
func (a *Agent) want() (s []string, same bool) {
	for _, n := range a.rule.S {
		if !a.lost(n) {
			s = append(s, n)
		}
	}
	for _, n := range a.rule.S {
		// Too few copies: whoever is lost stays, and commits wait. Who has to be rebuilt goes all the same, and commits wait, too.
		if p := a.peer(n); len(s) < a.atLeast() && !slices.Contains(s, n) && p != nil && !p.let && !slices.Contains(a.rule.Gone, n) {
			s = append(s, n)
		}
	}
	if len(s) > a.syncNum() && len(s) > a.atLeast() && !a.view.Paused {
		s = s[:max(a.syncNum(), a.atLeast())] // sync_num was lowered
	}
	same = len(s) == len(a.rule.S)
	if same {
		s = a.rule.S
	} else {
		for _, n := range a.rule.S {
			if p := a.peer(n); p != nil && !p.leaving && !p.let && !slices.Contains(s, n) && a.slot(SetRule).act.ID == 0 && a.lost(n) {
				if k := len(p.losses); k == 0 || a.now > p.losses[k-1]+a.t.Stalled {
					p.losses = append(p.losses, a.now)
					why := "lost"
					if p.streams && a.unheard(p) {
						why = "not heard, though it streams"
					}
					a.say("%s is %s: out of the rule", n, why)
				}
			}
		}
		if a.grow.step != growRule {
			a.grow = grow{}
		}
	}
	if g := &a.grow; g.name != "" && g.step == growRule {
		switch {
		case slices.Contains(a.rule.S, g.name):
			if a.settled() {
				*g = grow{}
			}
		case a.lost(g.name):
			*g = grow{}
		default:
			s, same = append([]string{g.name}, s...), false
		}
	}
	return s, same
}

// growing takes a standby a step further into S; it reports whether there is nothing else to do meanwhile.
func (a *Agent) growing() bool {
	g := &a.grow
	if g.name == "" {
		return false
	}
	if a.lost(g.name) || g.failed || a.now >= g.since+a.t.Grow || a.view.Paused {
		if p := a.peer(g.name); g.step == growProbe && !a.lost(g.name) {
			// No commit was seen to wait: the checkpointer, which has that from the setting, is busy. That is no fault of the standby.
			a.growAt = a.now + a.t.Flap
		} else if p != nil {
			p.losses = append(p.losses, a.now)
			a.say("%s does not keep up: not into the rule yet", g.name)
		}
		*g = grow{}
		return false
	}
	a.at(g.since + a.t.Grow)
	switch g.step {
	case growProbe:
		s := SSN{Names: []string{g.name}, Hold: true}
		if a.srv.SSN != s.String() {
			a.do(Action{Kind: WriteSSN, SSN: s})
		} else {
			a.do(Action{Kind: ProveSSN, SSN: s, Probe: true})
		}
	case growWrite:
		s := a.setting(append([]string{g.name}, a.rule.S...))
		if a.srv.SSN != s.String() {
			a.do(Action{Kind: WriteSSN, SSN: s})
			return true
		}
		g.step = growProof
		fallthrough
	case growProof:
		a.do(Action{Kind: ProveSSN, SSN: a.setting(append([]string{g.name}, a.rule.S...))})
	case growFlush:
		s, ok := a.srv.standby(g.name)
		if !ok || !s.Streaming || s.has() < g.barrier {
			return true
		}
		g.step = growRule
		a.setRule(append([]string{g.name}, a.rule.S...))
	case growRule:
	}
	return true
}

// proved takes the outcome of ProveSSN.
func (a *Agent) proved(act Action, d Done) {
	g := &a.grow
	if d.Err == nil && act.Probe {
		a.flag = true
	}
	if g.name == "" || act.Probe && g.step != growProbe || !act.Probe && g.step != growProof {
		return
	}
	switch {
	case d.Err != nil:
		g.failed = true
	case act.Probe:
		g.step = growWrite
	default:
		g.step, g.barrier = growFlush, d.Result.Barrier
	}
}

// wrote takes the outcome of WriteSSN.
func (a *Agent) wrote(ok bool) {
	if !ok {
		a.grow.failed = true
	}
}

// startGrow picks the standby that enters S next: of those that keep up, the one that has the most.
func (a *Agent) startGrow() bool {
	if a.view.Paused || a.present() >= a.syncNum() {
		return false
	}
	if a.now < a.growAt {
		a.at(a.growAt)
		return false
	}
	var best *peer
	for k := range a.peers {
		p := &a.peers[k]
		if !p.streams || p.leaving || p.let || a.unheard(p) || slices.Contains(a.rule.S, p.name) || p.has < a.grant.end {
			continue
		}
		if until := max(p.since+a.t.Settle, a.damped(p)); a.now < until {
			a.at(until)
			continue
		}
		if p.moved != a.now && a.now >= p.moved+a.t.Settle {
			continue // it lags
		}
		if best == nil || cmp.Compare(p.has, best.has) > 0 {
			best = p
		}
	}
	if best == nil {
		return false
	}
	a.grow = grow{name: best.name, since: a.now, step: growWrite}
	if !a.flag {
		a.grow.step = growProbe
	}
	return a.growing()
}

// present is how many of S are there: one that is lost, and stays for min_copies, keeps no spare from taking its place.
func (a *Agent) present() (n int) {
	for _, name := range a.rule.S {
		if !a.lost(name) {
			n++
		}
	}
	return n
}

// renew writes the same rule again while a node is missing, now and then and when one asks: whoever wants to rewind or copy its
// server waits until no proposal can be on its way that names it.
func (a *Agent) renew() {
	away, begs := false, false
	for k := range a.peers {
		p := &a.peers[k]
		away = away || !p.streams
		begs = begs || !p.streams && p.begs
	}
	if !away {
		return
	}
	if due := a.renewed + a.t.Renew; a.now < due && !begs {
		a.at(due)
		return
	}
	if a.setRule(a.rule.there()); a.renewed == a.now {
		for k := range a.peers {
			a.peers[k].begs = false
		}
	}
}

// answerLeaves tells a standby that wants to go that nothing waits for it any more.
func (a *Agent) answerLeaves() {
	if !a.acks() || !a.known {
		return
	}
	for k := range a.peers {
		p := &a.peers[k]
		if !p.asked || slices.Contains(a.rule.S, p.name) || !a.settled() || a.busy.ID != 0 {
			continue
		}
		if s, ok := ParseSSN(a.srv.SSN); ok && !slices.Contains(s.Names, p.name) {
			p.asked = false
			a.tell(Action{Kind: Left, Node: p.name})
		}
	}
}
