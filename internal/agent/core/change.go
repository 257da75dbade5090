package core

import (
	"slices"
	"time"
)

// change is a switchover under way, at the holder.
type change struct {
	to    string
	epoch uint64
	step  changeStep
	since time.Duration // of the step
	end   uint64        // of the shutdown checkpoint
	bad   error
	seen  bool // the candidate has it
}

type changeStep uint8

const (
	changeCheckpoint changeStep = iota + 1
	changeCatchUp
	changeDrop
	changeStop
	changeConfirm
)

// away is a server that an operator has.
type away struct {
	Away
	told  uint64 // epoch whose holder knows
	since time.Duration
	back  bool // the holder is to know that it is over, or was never so in this run
}

// Away tells how far an operator has the server, for the machine that comes after this one.
func (a *Agent) Away() Away { return a.away.Away }

// down reports whether a stopped server stays so.
func (w *away) down() bool { return w.On }

func (a *Agent) wish(w Wish) {
	switch w.Kind {
	case Switchover:
		a.switchover(w.Node)
	case MaintenanceOn, Shutdown:
		if w.Kind == MaintenanceOn && a.acks() {
			a.say("no maintenance of the holder: switch over first")
			return
		}
		a.away = away{Away: Away{On: true, Shut: w.Kind == Shutdown}, told: a.away.told, since: a.now}
	case GiveBack:
		a.unseen = w.Why
		if a.live() {
			a.release("", w.Why)
		}
		if g := &a.giving; g.epoch != 0 && g.epoch == a.view.Epoch { // whatever is left to do for it: the server may never be seen again
			a.ask(Action{Kind: Release, Epoch: g.epoch, Text: g.reason})
		}
	case Disk:
		a.disk = w.Why
	case MaintenanceOff:
		if a.away.On {
			a.away = away{back: true}
		}
	}
}

// leave does what an operator's having the server needs; it reports whether there is nothing else to do.
func (a *Agent) leave() bool {
	w, v := &a.away, &a.view
	if w.back && v.Phase == Active && a.heldByOther() {
		a.ask(Action{Kind: Leave, Node: v.Holder, Epoch: v.Epoch})
	}
	if !w.On {
		return false
	}
	// A holder whose agent was restarted has forgotten, and may have taken this node into the rule again.
	if a.heldByOther() && v.Phase == Active && (w.told != v.Epoch || slices.Contains(a.rule.S, a.o.Node)) && a.streaming() {
		a.ask(Action{Kind: Leave, Node: v.Holder, Epoch: v.Epoch, On: true})
		if w.Shut && a.now < w.since+3*a.t.Switch {
			a.at(w.since + 3*a.t.Switch)
			return false
		}
	}
	if !w.Shut {
		return false
	}
	if a.srv.Running && !w.Gone {
		w.Gone = true
		a.do(Action{Kind: Stop, Fast: true, Handover: a.acks()}) // whoever takes over need not wait for the archiver
		return true
	}
	if !a.srv.Running && a.live() {
		a.release("", "PostgreSQL on "+a.o.Node+" was stopped by an operator")
		a.giveUp()
	}
	if a.srv.Archives && !a.archiving() {
		a.do(Action{Kind: Stop})
	}
	return w.Gone
}

func (a *Agent) leftBy(act Action, d Done) {
	switch {
	case d.Err != nil:
	case act.Text != "":
		a.read.let = act.Epoch
	case act.On && a.away.On: // else it is over, and the next one is told anew
		a.away.told, a.slot(Leave).retry = act.Epoch, a.now+a.t.Retry // what it comes to is seen a moment later
	case act.On:
	default:
		a.away.back = false
	}
}

// switchover begins one, or says why not.
func (a *Agent) switchover(to string) {
	refuse := func(why string) { a.say("no switchover: %s", why) }
	if !a.acks() || !a.primary() {
		refuse("this node is not the active holder")
		return
	}
	if a.view.Paused {
		refuse("the resource is paused, and nobody could take over: pgnotify resume first")
		return
	}
	if a.change.to != "" {
		refuse("there is one already, to " + a.change.to)
		return
	}
	if to == "" {
		best := uint64(0)
		for _, n := range a.rule.S {
			if p := a.peer(n); p != nil && p.streams && !a.lost(n) && p.has >= best {
				to, best = n, p.has
			}
		}
	}
	p := a.peer(to)
	switch {
	case to == "":
		refuse("no standby has all commits")
	case p == nil || !slices.Contains(a.rule.S, to):
		refuse(to + " does not have all commits: it is not in the rule")
	case !p.streams:
		refuse(to + " does not stream")
	case a.lost(to):
		refuse(to + " lags, leaves the rule, or its agent is not heard")
	default:
		a.change = change{to: to, epoch: a.view.Epoch, step: changeCheckpoint, since: a.now}
		a.say("switchover to %s: checkpoint first", to)
	}
}

func (c *change) checkpoint(err error) {
	if c.step == changeCheckpoint {
		if c.bad = err; err == nil {
			c.step = changeCatchUp
		}
	}
}

func (c *change) looked(act Action, s *Source) bool {
	if c.step != changeConfirm || act.Node != c.to {
		return false
	}
	c.seen = s != nil && s.LSN >= c.end
	return true
}

// stopping reports whether the server is down because of a switchover in epoch.
func (c *change) stopping(epoch uint64) bool { return c.step >= changeStop && c.epoch == epoch }

// switching goes on with a switchover up to the stop; it reports whether rules must wait for it. Up to the stop an abort just
// goes on.
func (a *Agent) switching() bool {
	c := &a.change
	if c.to == "" {
		return false
	}
	abort := func(why string) bool {
		a.say("switchover to %s aborted: %s", c.to, why)
		if c.step >= changeDrop {
			a.opened = 0 // the address comes back
		}
		*c = change{}
		return false
	}
	p := a.peer(c.to)
	switch {
	case !slices.Contains(a.rule.S, c.to) || a.lost(c.to):
		return abort("it is no longer in the rule, or does not stream")
	case c.bad != nil:
		return abort("checkpoint: " + c.bad.Error())
	case !a.settled():
		return false // a rule on its way is waited for first
	}
	switch c.step {
	case changeCheckpoint:
		if a.ask(Action{Kind: Checkpoint}) {
			c.since = a.now
		}
		if a.now >= c.since+60*a.t.Switch {
			return abort("the checkpoint takes too long")
		}
		return false // commits go on, and so does the rule
	case changeCatchUp:
		if c.since < a.slot(Checkpoint).retry {
			c.since = a.now
		}
		if p.has >= a.flushed || p.moved == a.now {
			c.step, c.since = changeDrop, a.now
			a.do(Action{Kind: DropVIP, Epoch: a.view.Epoch})
			return true
		}
		if a.now >= c.since+a.t.Switch {
			return abort("it lags")
		}
		a.at(c.since + a.t.Switch)
		return true
	case changeDrop:
		c.step, c.since = changeStop, a.now
		a.do(Action{Kind: Stop, Handover: true})
		return true
	}
	return true
}

// stoppedAt takes the outcome of Stop.
func (a *Agent) stoppedAt(_ Action, d Done) {
	if c := &a.change; c.step == changeStop {
		c.step, c.since, c.end = changeConfirm, a.now, d.Result.Pos.LSN
		if d.Err == nil && !d.Result.Clean {
			c.end = 1<<64 - 1 // no checkpoint that the candidate could have
		}
	}
}

// afterStop ends a switchover whose server is down: the candidate must have the shutdown checkpoint. If not, the old node is to go on.
func (a *Agent) afterStop() {
	c := &a.change
	end := func(prefer, why string) {
		*c = change{}
		a.release(prefer, why)
		a.giveUp()
	}
	switch {
	case !a.live():
	case a.srv.Running && c.step == changeStop:
		a.do(Action{Kind: Stop}) // the fast stop failed
	case c.seen:
		end(c.to, "switchover to "+c.to)
	case a.now >= c.since+a.t.Switch:
		end(a.o.Node, "switchover to "+c.to+" aborted: it does not have the shutdown checkpoint")
	default:
		a.at(c.since + a.t.Switch)
		a.ask(Action{Kind: Look, Node: c.to})
	}
}
