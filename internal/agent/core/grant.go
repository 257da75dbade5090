package core

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

// grant is how far the grant of an epoch has come here.
type grant struct {
	epoch    uint64
	server   uint64 // the postmaster: another one has not seen what was done for the grant
	since    time.Duration
	keep     bool // a running Rule.Holder: nothing is promoted, S stays
	tli      uint32
	lsn      uint64 // switch point
	parent   uint32 // the timeline that was left there
	end      uint64 // of the end-of-recovery record; 0: not promoted
	promoted time.Duration
	reserved bool
	picked   bool
	s        []string
}

// giving is an epoch on its way back.
type giving struct {
	epoch       uint64
	reason      string
	prefer      string
	stop, clean bool // still to do: stop what was promoted, remove what was reserved
}

// granted carries out a grant: reserve, promote, choose S, SetRule. The SSN and the address follow once that is committed.
func (a *Agent) granted() {
	v, g := &a.view, &a.grant
	if g.epoch != v.Epoch {
		if a.attempted >= v.Epoch {
			a.abandon("a former run of the agent has tried this epoch already")
			return
		}
		*g = grant{epoch: v.Epoch, server: a.srv.Postmaster, since: a.now, tli: v.Timeline}
		a.ruling = ruling{epoch: v.Epoch}
		if !a.srv.InRecovery {
			if !a.rightful() {
				a.abandon("PostgreSQL runs as a primary that was never activated")
				return
			}
			g.keep, g.picked, g.tli, g.s = true, true, a.srv.Pos.TLI, a.rule.there()
			a.flag = len(g.s) > 0
			a.say("granted epoch %d: PostgreSQL runs, the rule stays %v", v.Epoch, a.rule.S)
		}
	}
	// How long the replay before the end of recovery may take is for PromoteTo to know.
	due := max(g.since, g.promoted) + a.t.Activate
	if a.now >= due {
		a.abandon(fmt.Sprintf("not active within %v of the grant", a.t.Activate))
		return
	}
	a.at(due)
	if a.srv.Postmaster != g.server || g.end != 0 && a.srv.InRecovery {
		a.abandon("PostgreSQL was restarted during the grant")
		return
	}
	switch {
	case !g.keep && g.end == 0:
		a.promote()
	case !a.onHold():
		return // it is being put on hold
	case !g.picked:
		a.pick()
	default:
		a.setRule(g.s)
	}
}

// promote takes the standby through the steps before pg_promote.
func (a *Agent) promote() {
	v, g := &a.view, &a.grant
	switch {
	case a.marker != NoMarker || a.broken != "":
		a.abandon(a.unfit())
	case !a.fence():
	case a.old(a.fenced.pos):
		a.abandon(a.broken)
	case a.attempted < v.Epoch:
		a.do(Action{Kind: PersistAttempt, Epoch: v.Epoch})
	case !g.reserved:
		var numbers []uint32
		for t := uint32(2); t < g.tli; t++ {
			numbers = append(numbers, t)
		}
		a.do(Action{Kind: Reserve, TLI: g.tli, Epoch: v.Epoch, Numbers: numbers})
	case !a.onHold():
	default:
		a.told = true
		a.do(Action{Kind: PromoteTo, TLI: g.tli, Epoch: v.Epoch})
	}
}

// pending stops a standby that was told to promote and has not done it, or may have been told by a former run: the promotion can still
// come. In another epoch, or without what was reserved, it would take a number that is not its own. It reports whether there is one.
func (a *Agent) pending() bool {
	s := &a.srv
	if !s.Running || s.Answering && !s.InRecovery {
		a.told, a.doubt = false, false
	}
	if !a.told && !(a.doubt && s.Answering) {
		return false
	}
	a.say("PostgreSQL was told to promote, and is still a standby: it is stopped, so that it can't do so later")
	a.do(Action{Kind: Stop})
	return true
}

// promoted takes the outcome of Reserve and PromoteTo.
func (a *Agent) promoted(act Action, d Done) {
	g := &a.grant
	switch {
	case act.Epoch != a.view.Epoch || act.Epoch != g.epoch:
		// Its epoch is over: what came of it is seen, and is not rightful.
	case d.Err != nil:
		a.abandon(fmt.Sprintf("%v to timeline %d: %v", act.Kind, act.TLI, d.Err))
	case act.Kind == Reserve:
		g.reserved, g.since = true, a.now // after many elections that came to nothing there are many files to write
	case d.Result.TLI != g.tli:
		a.abandon(fmt.Sprintf("PostgreSQL chose timeline %d instead of %d", d.Result.TLI, g.tli))
	default:
		g.lsn, g.end, g.promoted, g.parent = d.Result.SwitchLSN, max(d.Result.EndLSN, 1), a.now, a.fenced.pos.TLI
	}
}

// pick chooses S among the standbys that have the end-of-recovery record: those that are there, or, for a while, the first.
func (a *Agent) pick() {
	g := &a.grant
	var found []Standby
	for _, s := range a.srv.Standbys {
		if p := a.peer(s.Name); p != nil && !p.leaving && s.Streaming && s.has() >= g.end {
			found = append(found, s)
		}
	}
	slices.SortStableFunc(found, func(x, y Standby) int { return cmp.Compare(y.has(), x.has()) })
	if n := a.syncNum(); len(found) > n {
		found = found[:n]
	}
	// With fewer copies than min_copies asks for it becomes active, too, but on hold: those that must be rewound first can't come before.
	due := g.promoted + a.t.First
	if a.atLeast() > 0 {
		due = g.promoted + a.t.Copies
	}
	if len(found) < max(a.atLeast(), 1) && a.now < due {
		a.at(due)
		return
	}
	if len(found) > 0 && !a.flag {
		a.do(Action{Kind: ProveSSN, SSN: SSN{Hold: true}, Probe: true})
		return
	}
	g.s = nil
	for _, s := range found {
		g.s = append(g.s, s.Name)
	}
	g.picked = true
	a.setRule(g.s)
}

// abandon gives back an epoch that does not become active: stop what was promoted, remove what was reserved, then Release.
func (a *Agent) abandon(reason string) {
	if a.burnt == a.view.Epoch {
		return
	}
	a.burnt = a.view.Epoch
	mine := a.attempted == a.view.Epoch && !(a.grant.epoch == a.view.Epoch && a.grant.keep)
	a.giving = giving{epoch: a.view.Epoch, reason: reason, stop: mine, clean: mine}
	a.say("epoch %d is given up: %s", a.view.Epoch, reason)
	a.at(a.now + 1)
}

// release gives back an active epoch.
func (a *Agent) release(prefer, reason string) {
	if a.burnt == a.view.Epoch {
		return
	}
	a.burnt = a.view.Epoch
	a.giving = giving{epoch: a.view.Epoch, reason: reason, prefer: prefer}
	a.say("epoch %d is given back: %s", a.view.Epoch, reason)
	a.at(a.now + 1)
}

// giveUp goes on with an epoch on its way back. It reports whether everything else must wait for that; the Release itself is for
// nobody to wait for.
func (a *Agent) giveUp() bool {
	g := &a.giving
	if v := &a.view; g.epoch == 0 && a.burnt == v.Epoch && v.Mine && v.Live {
		*g = giving{epoch: v.Epoch, reason: "it was over for " + a.o.Node + " before"} // vrrpd goes on with an epoch that we do not
		if a.gave.epoch == v.Epoch {
			*g = a.gave
		}
	}
	if g.epoch == 0 {
		return false
	}
	if g.epoch != a.view.Epoch || a.view.Phase == Released || !a.view.Mine {
		*g = giving{} // what is left of it is cleaned up with every start
		return false
	}
	if g.stop && a.srv.Running && (!a.srv.Answering || !a.srv.InRecovery) {
		a.do(Action{Kind: Stop})
		return true
	}
	g.stop = false
	if g.clean = g.clean && !a.srv.NoData; g.clean {
		a.do(Action{Kind: Unreserve})
		return true
	}
	a.handBack()
	return false
}

// handBack has vrrpd take an epoch on its way back, again and again, once nothing is left to do for it here. What the queue is at may wait for the disk.
func (a *Agent) handBack() {
	g, v := &a.giving, &a.view
	if g.epoch != 0 && g.epoch == v.Epoch && v.Mine && v.Phase != Released && !g.stop && !g.clean {
		a.ask(Action{Kind: Release, Epoch: g.epoch, Node: g.prefer, Text: g.reason})
	}
}

func (a *Agent) syncNum() int {
	if a.view.SyncNum <= 0 {
		return 2
	}
	return a.view.SyncNum
}

// atLeast is how many standbys S must have.
func (a *Agent) atLeast() int { return max(a.view.MinCopies, 1) - 1 }
