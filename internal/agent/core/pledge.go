package core

import (
	"fmt"
	"time"
)

// down: PostgreSQL does not run.
func (a *Agent) down() {
	v := &a.view
	if a.away.down() {
		return // an operator has it
	}
	if a.change.stopping(v.Epoch) {
		a.afterStop()
		return
	}
	if a.live() && a.active == v.Epoch {
		if a.o.OnCrash != Restart || a.srv.NoData || a.fails > 1 {
			a.release("", "PostgreSQL on "+a.o.Node+" died")
			a.giveUp()
		} else {
			a.dark()
		}
	} else if a.live() && (a.grant.epoch == v.Epoch || a.fails > 0 || !a.srv.Clean) {
		a.abandon("PostgreSQL died")
		if a.giveUp() {
			return
		}
	}
	if a.archiving() {
		if due := a.archives + a.t.Switch; a.now >= due { // before, whoever is to take over is at it
			a.reportStopped()
		} else {
			a.at(due)
		}
		return
	}
	switch {
	case a.srv.NoData:
		a.copyAgain("there is no data directory")
		return
	case a.srv.SystemID != 0 && !a.sameSystem():
		return // another cluster's data: nothing of it is touched
	case a.marker == Rewinding || a.marker == Cloning:
		a.copyAgain("a rewind or a copy was not finished")
		return
	case a.marker == Rewound && (a.fails > 3 || a.follow.tries >= 2 && !a.rule.Has(a.o.Node)) &&
		a.copyAgain("what was rewound or copied does not start, or does not stream"):
		return
	case a.marker == Rewound && !a.rule.Has(a.o.Node):
		a.startRebuilt()
		return
	case a.fails > 3 && a.view.Phase == Active && a.heldByOther() && a.failing(startPatience) && a.copyAgain("PostgreSQL does not start: "+a.failure):
		return
	case a.inVain && a.view.Phase == Active && a.heldByOther():
		a.copyAgain(inconsistent)
		return
	}
	if !a.reportStopped() {
		a.startStandby("")
	}
}

// startPatience is how long a server that does not start is tried again before its data is taken for bad: it may be its settings, and then a copy is of no use.
const startPatience = 2 * time.Minute

// failing reports whether no start has succeeded for as long.
func (a *Agent) failing(long time.Duration) bool {
	due := a.failedAt + long
	a.at(due)
	return a.now >= due
}

// reportStopped pledges with a server that is down: what was shut down cleanly is known from its control file, and the report need not wait for the
// start. It reports whether the mark is to be written first.
func (a *Agent) reportStopped() bool {
	v := &a.view
	if v.Phase != Electing || !a.srv.Clean || a.rule.Holder != a.o.Node || a.reported.epoch == v.Epoch || a.broken != "" || !a.sameSystem() {
		return false
	}
	if a.old(a.srv.Pos) {
		return false
	}
	if a.srv.Pos != a.mark {
		a.do(Action{Kind: PersistMark, Pos: a.srv.Pos})
		return true
	}
	a.tellPledge(fence{epoch: v.Epoch}, a.srv.SystemID, a.srv.Pos)
	return false
}

// tellPledge reports what the server has, and keeps what that tells of until it is answered.
func (a *Agent) tellPledge(f fence, sysid uint64, pos Position) {
	if a.ask(Action{Kind: ReportPledge, Epoch: a.view.Epoch, SystemID: sysid, Pos: pos}) {
		a.pledging = f
	}
}

// archiving reports whether a server that is shut down is left to its archiver, which a start ends. It has pledged meanwhile if the rule calls it the
// holder, and if this node is to go on, it is granted that.
func (a *Agent) archiving() bool {
	if !a.srv.Archives {
		a.archives = 0
		return false
	}
	if a.archives == 0 {
		a.archives = a.now
	}
	due := a.archives + a.o.Archiver
	a.at(due)
	return a.now < due && !a.live()
}

// startRebuilt starts what was rewound or copied: it must stream before it is consistent, and from a server that has the minimum
// recovery point. From another one PostgreSQL would panic half-way, with WAL that looks well to the holder.
func (a *Agent) startRebuilt() {
	v := &a.view
	if !a.heldByOther() || v.Phase != Active {
		return
	}
	s := a.holderSeen(v.Holder)
	if s == nil {
		return
	}
	if a.follow.reason = diverged(a.srv.Pos, a.srv.History, s, v.Ledger); a.follow.reason != "" {
		a.rebuild(s)
		return
	}
	a.startStandby(v.Holder)
}

func (a *Agent) startStandby(node string) {
	if node != "" {
		a.followed, a.read = a.view.Epoch, read{}
	}
	a.do(Action{Kind: StartStandby, Node: node, Epoch: a.view.Epoch})
}

func (a *Agent) sameSystem() bool {
	return a.view.SystemID == 0 || a.srv.SystemID == a.view.SystemID
}

// heldByOther reports whether another node holds the epoch.
func (a *Agent) heldByOther() bool {
	v := &a.view
	return (v.Phase == Granted || v.Phase == Active) && v.Holder != "" && v.Holder != a.o.Node
}

// silent: the postmaster lives and takes no sessions: it starts, or hangs, which whoever carries out the actions ends with a stop.
func (a *Agent) silent() {
	v, f := &a.view, &a.follow
	if a.srv.Recovers && a.live() && a.active == v.Epoch && a.o.OnCrash != Restart && !v.Paused {
		// The postmaster would have it back as a primary some day: others can take over now.
		a.say("PostgreSQL on %s crashed and restarts by itself: it is stopped, so that another node can take over", a.o.Node)
		a.do(Action{Kind: Stop})
		return
	}
	if a.live() && a.active == v.Epoch && a.o.OnCrash == Restart && !v.Paused {
		a.dark()
		return
	}
	switch {
	case a.away.On || !a.heldByOther() || v.Phase != Active:
		return
	case a.marker == NoMarker && a.srv.Waits:
		a.inVain = true
		a.do(Action{Kind: Stop})
		return
	case a.marker != Rewound:
		return
	}
	// It can't answer before it has streamed, and replayed what may take long.
	switch {
	case f.node != v.Holder || f.epoch != v.Epoch:
		a.do(Action{Kind: Stop}) // another holder took over: it is started to stream from that
	case !a.srv.Idle:
		f.since = a.now
	case a.now < f.since+a.t.Stuck:
		a.at(f.since + a.t.Stuck)
	default:
		f.tries++
		a.do(Action{Kind: Stop})
	}
}

// dark begins the time that a holder that crashed has until it answers again, where it is to restart.
func (a *Agent) dark() {
	if a.darkAt == 0 {
		a.darkAt = a.now
	}
	a.at(a.darkAt + a.t.Restart)
}

// overdue gives the epoch back when that time is over, though the start still goes on.
func (a *Agent) overdue() {
	if v := &a.view; a.darkAt == 0 || !a.live() || a.active != v.Epoch || v.Paused {
		return
	}
	due := a.darkAt + a.t.Restart
	a.at(due)
	if a.now >= due {
		a.release("", fmt.Sprintf("PostgreSQL on %s crashed and has not answered for %v", a.o.Node, (a.now-a.darkAt).Round(time.Second)))
	}
}

// ailing gives the epoch back of a server whose disk takes no writes, as soon as somebody else has everything and may take over.
func (a *Agent) ailing() {
	if a.disk != "" && a.acks() && !a.view.Paused && len(a.rule.there()) > 0 {
		a.release("", a.disk)
	}
}

// runsPrimary: the server is out of recovery.
func (a *Agent) runsPrimary() {
	v := &a.view
	switch {
	case a.live() && a.active == v.Epoch:
		a.manage()
	case a.live():
		a.granted()
	case !a.rightful():
		// Promoted by hand, or in an epoch that never became active, or replaced: its WAL is kept, its being a primary is not.
		if a.away.On || a.promotedNow() && a.onHold() {
			return
		}
		a.do(Action{Kind: Stop})
	case v.Phase == Electing && a.onHold():
		a.pledge()
	}
}

// promotedNow reports whether the server was promoted for the epoch that is ours, by vrrpd's last word. That the deadline of that word
// has passed is no reason to stop it: the next word is late, or says that the epoch is over.
func (a *Agent) promotedNow() bool {
	v, g := &a.view, &a.grant
	return v.Mine && v.Live && v.Phase == Granted && a.burnt != v.Epoch && g.epoch == v.Epoch && g.end != 0 && g.server == a.srv.Postmaster
}

// rightful reports whether the running primary is the one that the rule's holder is: activated by a SetRule, and never stopped since.
func (a *Agent) rightful() bool {
	if a.rule.Holder != a.o.Node || !a.rule.Has(a.o.Node) {
		return false
	}
	if a.timeline != 0 && a.timeline == a.srv.Pos.TLI {
		return true
	}
	used, first := uint32(0), uint32(0)
	for _, t := range a.view.Ledger {
		if first == 0 {
			first = t.TLI
		}
		if t.SwitchLSN != 0 {
			used = t.TLI
		}
	}
	if used != 0 {
		return used == a.srv.Pos.TLI
	}
	return first == 0 || a.srv.Pos.TLI < first // older than the ledger
}

// runsStandby: the server is in recovery.
func (a *Agent) runsStandby() {
	v := &a.view
	switch {
	case a.marker == Rewound && a.rule.Has(a.o.Node):
		// The rule names it: it has streamed, though this agent did not see it.
		a.do(Action{Kind: PersistMarker, Pos: a.srv.whole()})
	case a.live() && a.active == v.Epoch:
		if a.change.stopping(v.Epoch) {
			a.afterStop()
			return
		}
		a.release(a.crashPrefer(), "PostgreSQL on "+a.o.Node+" was restarted")
	case a.live():
		a.granted()
	case v.Phase == Electing:
		a.pledge()
	case a.heldByOther():
		a.followHolder()
	}
}

func (a *Agent) crashPrefer() string {
	if a.o.OnCrash == Restart {
		return a.o.Node
	}
	return ""
}

// pledge reports what this server has, once it follows nobody of a lower epoch any more. The promise is on disk by now.
func (a *Agent) pledge() {
	v := &a.view
	if a.marker != NoMarker || a.broken != "" {
		return
	}
	if r := &a.reported; r.epoch == v.Epoch && r.postmaster == a.srv.Postmaster && *r == a.fenced {
		return
	}
	switch f := &a.fenced; {
	case a.srv.InRecovery && !a.fence():
		return
	case !a.srv.InRecovery && (f.epoch != v.Epoch || f.postmaster != a.srv.Postmaster):
		// It writes on, but what comes behind the hold is acknowledged to nobody. What it has flushed may end within a record.
		*f = fence{epoch: v.Epoch, postmaster: a.srv.Postmaster, pos: a.srv.Pos, whole: a.srv.whole(), sysid: a.srv.SystemID}
	}
	pos, end, sysid := a.fenced.pos, a.fenced.whole, a.fenced.sysid
	if a.old(pos) {
		return
	}
	if !end.before(a.mark) && end != a.mark {
		a.do(Action{Kind: PersistMark, Pos: end})
		return
	}
	a.tellPledge(a.fenced, sysid, pos)
}

// old reports whether a server whose WAL ends at pos has had more: it must not be granted anything, nor taken for what it was.
func (a *Agent) old(pos Position) bool {
	if !pos.before(a.mark) {
		return false
	}
	a.broken, a.restored = "its WAL ends in "+pos.String()+", and it had "+a.mark.String()+": an old copy was restored", true
	return true
}

// inconsistent is why a server that lives and can't be used is rewound or copied.
const inconsistent = "PostgreSQL waits for WAL that it does not have, and is not consistent without"

// fence reports whether the standby is cut off from any upstream for this epoch, and has it done if not.
func (a *Agent) fence() bool {
	if a.anew != 0 && a.anew == a.srv.Postmaster {
		a.say("PostgreSQL goes by timeline %d and has no WAL of it to replay: it is started anew, without", a.beyond)
		a.do(Action{Kind: Stop, Fast: true})
		return false
	}
	if a.fenced.epoch == a.view.Epoch && a.fenced.postmaster == a.srv.Postmaster && a.srv.Conninfo == "" {
		return true
	}
	a.do(Action{Kind: Fence, Epoch: a.view.Epoch})
	return false
}

func (a *Agent) fencedAt(r Result) {
	switch {
	case r.Beyond == 0:
		a.beyond, a.anew = 0, 0
	case r.Beyond != a.beyond || a.anew == a.srv.Postmaster:
		a.beyond, a.anew = r.Beyond, a.srv.Postmaster
		return
	default:
		a.broken = fmt.Sprintf("it goes by timeline %d, whose WAL it can't replay, also after a start", r.Beyond)
	}
	a.fenced = fence{epoch: a.promise, postmaster: a.srv.Postmaster, pos: r.Pos, whole: r.Pos, sysid: r.SystemID}
	a.follow = follow{tries: a.follow.tries, spared: a.follow.spared}
}
