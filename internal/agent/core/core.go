package core

import (
	"fmt"
	"slices"
	"time"
)

// never is a Wake that stands for no deadline.
const never = time.Duration(1<<63 - 1)

// Crash is what happens when the active holder's PostgreSQL dies.
type Crash string

// The ways.
const (
	Failover Crash = "failover" // give the epoch back at once
	Restart  Crash = "restart"  // start it first, then give the epoch back and prefer this node
)

// Times are the delays of the machine.
type Times struct {
	First    time.Duration // how long a new holder waits for its first standby
	Gone     time.Duration // without a stream a standby is lost
	Stalled  time.Duration // without progress, too
	Silent   time.Duration // without a word of its agent, too: it could neither take over nor keep a holder that has lost the voters
	Settle   time.Duration // so long a standby must stream before it may enter S
	Grow     time.Duration // so long it may take to enter S while commits wait for it
	Copies   time.Duration // how long it waits for as many as min_copies asks for
	Activate time.Duration // from a grant to its SetRule
	Retry    time.Duration // after a failure
	Ask      time.Duration // between two looks at a holder that isn't ready
	Stuck    time.Duration // without a stream from a holder that is there
	Relink   time.Duration // without one, before the holder is looked for on every link
	Flap     time.Duration // wait after the second loss of a standby; doubles with each
	FlapMax  time.Duration
	Forget   time.Duration // so long a loss counts
	Renew    time.Duration // how often a holder renews its rule while a node is missing
	Switch   time.Duration // patience of each step of a switchover
	Restart  time.Duration // how long a holder that crashed may take to answer again, where on_crash is restart
	Orphan   time.Duration // without any view a primary is put on hold
}

// TellEvery is how often an agent tells the others of its node at least.
const TellEvery = 500 * time.Millisecond

// HeardFor is how long a node counts as heard after a word of its agent: two of them may be lost.
const HeardFor = 3 * TellEvery

// Defaults are the times that the design names; a lost standby is out within 300 ms.
func Defaults() Times {
	return Times{
		First: 300 * time.Millisecond, Copies: 2 * time.Second, Gone: 100 * time.Millisecond, Stalled: 200 * time.Millisecond, Silent: HeardFor, Settle: 50 * time.Millisecond,
		Grow: 300 * time.Millisecond, Activate: 5 * time.Second, Retry: 100 * time.Millisecond, Ask: 10 * time.Millisecond, Stuck: 10 * time.Second, Relink: time.Second,
		Flap: time.Second, FlapMax: time.Minute, Forget: 2 * time.Minute, Renew: 10 * time.Second, Switch: time.Second, Restart: time.Minute, Orphan: 500 * time.Millisecond,
	}
}

// Options are what an agent is.
type Options struct {
	Node     string        // the application_name of its walreceiver
	Peers    []string      // the other data nodes
	OnCrash  Crash         // "" is Failover
	Rewind   bool          // pg_rewind may be used
	Clone    bool          // a new copy may be made
	Archiver time.Duration // how long a server that is shut down is left to its archiver; 0: 30 s
	Times    Times         // zero: Defaults
}

// Agent is the machine beside one PostgreSQL.
type Agent struct {
	o   Options
	t   Times
	now time.Duration
	out []Action

	promise   uint64 // fsynced, as the next four
	attempted uint64
	marker    Marker
	mark      Position
	markAt    time.Duration

	view     View
	seen     bool
	start    time.Duration // of the first step
	started  bool
	deadline time.Duration
	held     uint64 // epoch that was live here
	burnt    uint64 // never acted for again
	told     bool   // the server was told to promote, and was seen neither down nor promoted since
	doubt    bool   // a former run may have told it

	srv   Server
	known bool // srv is a look that began after the last action
	since time.Duration

	ids     uint64
	busy    Action // of the queue; ID 0: idle
	busyAt  time.Duration
	hold    uint64 // a Hold behind it
	retryAt time.Duration
	calls   [Say - ReportPledge + 1]call
	wake    time.Duration

	fenced   fence
	pledging fence // what the report under way tells of; a server that is down has no postmaster
	reported fence
	grant    grant
	ruling   ruling
	rule     Rule
	active   uint64 // epoch whose rule this process knows to be ours
	timeline uint32 // on which it became so
	opened   uint64
	flag     bool // the checkpointer has certainly told all backends to wait
	grow     grow
	growAt   time.Duration // after one that failed
	peers    []peer
	lookAt   time.Duration // the last look at the standbys
	flushed  uint64        // the flushed position of the look before: what is inserted beyond it, no walsender sends
	renewed  time.Duration
	followed uint64 // the newest epoch in which this server may have streamed from the holder
	follow   follow
	read     read
	work     rebuild
	copies   copies
	change   change // switchover
	giving   giving
	gave     giving // the last that vrrpd has taken
	away     away   // maintenance, shutdown
	broken   string
	restored bool          // that is why
	beyond   uint32        // timeline that the standby went by at the last fence without having WAL of it
	anew     uint64        // the postmaster that did: it is stopped
	archives time.Duration // since when the server is left to its archiver
	inVain   bool          // the server was started, and what it has does not make it consistent
	fails    int           // starts in a row
	failedAt time.Duration // the first of them
	failure  string        // of the last
	darkAt   time.Duration // since when the server lives and does not answer, at a holder that crashed and is to restart
	unseen   string        // why the server could not be looked at for long; "": it can
	disk     string        // why its disk takes no writes; "": it does
	ssnErr   string        // of the last change of synchronous_standby_names
	keepErr  string        // of the last write of what may not be forgotten
	verdict  Action
}

type call struct {
	act   Action
	retry time.Duration
}

// fence is a server cut off for an epoch: it lasts as long as the postmaster.
type fence struct {
	epoch, postmaster uint64
	pos, whole        Position
	sysid             uint64
}

// New makes the machine of an agent that has just started.
func New(o Options, m Marks) *Agent {
	if o.Times == (Times{}) {
		o.Times = Defaults()
	}
	if o.OnCrash == "" {
		o.OnCrash = Failover
	}
	if o.Archiver == 0 {
		o.Archiver = 30 * time.Second
	}
	a := &Agent{o: o, t: o.Times, promise: m.Promise, attempted: m.Attempted, marker: m.Marker, mark: m.Mark, wake: never}
	a.followed = m.Promise // whatever the former process followed, it did so under its promise
	a.doubt = m.Attempted != 0 && m.Attempted == m.Promise
	// Whatever it told the holder: it is back, or tells it again.
	a.away = away{Away: m.Away, back: !m.Away.On}
	for _, p := range o.Peers {
		a.peers = append(a.peers, peer{name: p})
	}
	return a
}

// Wake is when the machine wants a Tick; the time of the last Step is what it counts from.
func (a *Agent) Wake() time.Duration { return a.wake }

// Step takes one event. The actions are valid until the next Step.
func (a *Agent) Step(now time.Duration, ev Event) []Action {
	a.now, a.out, a.wake = now, a.out[:0], never
	if !a.started {
		a.started, a.start, a.away.since = true, now, now
	}
	switch ev := ev.(type) {
	case View:
		a.newView(ev)
	case Lease:
		if ev.Epoch == a.view.Epoch && ev.Deadline > a.deadline {
			a.deadline = ev.Deadline
		}
	case *Server:
		if ev.At > a.since { // one that began in the very instant in which an action ended may have seen what was before it
			a.look(ev)
		}
	case Done:
		a.done(ev)
	case Wish:
		a.wish(ev)
	case Leaving:
		if p := a.peer(ev.Node); p != nil && ev.Why != "" {
			p.let, p.asked, p.begs = true, true, true
		} else if p != nil {
			p.leaving, p.asked = ev.On, ev.On
		}
	case Heard:
		if p := a.peer(ev.Node); p != nil {
			p.heard = now
		}
	case Attached:
		a.reported, a.slot(ReportPledge).act = fence{}, Action{} // it may have been given before
		a.verdict = Action{}
		for k := range a.peers { // nobody could be heard without it
			a.peers[k].heard = now
		}
	}
	a.plan()
	a.judge()
	return a.out
}

func (a *Agent) newView(v View) {
	if o := &a.view; a.seen && (v.Epoch < o.Epoch || v.Epoch == o.Epoch && (v.Rule.Version < o.Rule.Version || v.Phase.order() < o.Phase.order())) {
		return // an older one
	}
	if v.Epoch != a.view.Epoch {
		a.deadline, a.grow = 0, grow{}
		a.follow.tries = 0 // what was stuck behind one holder may well stream from the next, or be rewound to it
		for k := range a.peers {
			p := &a.peers[k]
			p.leaving, p.asked, p.let = false, false, false // whoever is away tells each holder, and may have told another one that it is back
		}
	}
	if v.Live {
		a.deadline = max(a.deadline, v.Deadline)
	}
	a.view, a.seen = v, true
	if v.Rule.Version >= a.rule.Version {
		a.rule = v.Rule
	}
	if v.Mine && v.Phase == Active && v.Epoch != a.burnt {
		a.activate(v.Epoch)
	}
}

func (a *Agent) look(s *Server) {
	if s.At < a.since {
		return // it began before the last action took effect
	}
	if a.known && s.Postmaster != a.srv.Postmaster {
		a.flag = a.flag && s.Postmaster == 0
	}
	if a.restored && (s.Postmaster != a.srv.Postmaster || s.Pos != a.srv.Pos) { // it may be other data now
		a.broken, a.restored = "", false
	}
	a.srv, a.known, a.unseen = *s, true, ""
	a.srv.History, a.srv.Standbys = slices.Clone(s.History), slices.Clone(s.Standbys)
	if s.Answering {
		a.fails, a.inVain, a.darkAt = 0, false, 0
	}
	a.watch()
}

// live reports whether this node may act as the holder of the view's epoch now.
func (a *Agent) live() bool {
	v := &a.view
	return a.seen && v.Mine && v.Live && a.now < a.deadline && (v.Phase == Granted || v.Phase == Active) && v.Epoch != a.burnt && a.promise <= v.Epoch
}

// acks reports whether the server may acknowledge commits.
func (a *Agent) acks() bool { return a.live() && a.active == a.view.Epoch && a.promise == a.view.Epoch }

// primary reports whether the server is up and not in recovery.
func (a *Agent) primary() bool { return a.srv.Answering && !a.srv.InRecovery }

// streaming reports whether the server receives from a node that it was told to follow.
func (a *Agent) streaming() bool {
	return a.known && a.srv.Answering && a.srv.InRecovery && a.srv.Upstream != ""
}

// at wants a Tick at t. What is due already waits for something else.
func (a *Agent) at(t time.Duration) {
	if t > a.now {
		a.wake = min(a.wake, t)
	}
}

// do puts an action on the queue. There is never more than one on its way, and a Hold behind it: nothing overtakes.
func (a *Agent) do(act Action) {
	a.ids++
	act.ID = a.ids
	a.busy, a.busyAt = act, a.now
	a.out = append(a.out, act)
}

func (a *Agent) slot(k Kind) *call { return &a.calls[k-ReportPledge] }

// ask begins a call, one of a kind at a time.
func (a *Agent) ask(act Action) bool {
	c := a.slot(act.Kind)
	if c.act.ID != 0 {
		return false
	}
	if a.now < c.retry {
		a.at(c.retry)
		return false
	}
	a.ids++
	act.ID = a.ids
	c.act = act
	a.out = append(a.out, act)
	return true
}

// tell is a call without an outcome.
func (a *Agent) tell(act Action) {
	a.ids++
	act.ID = a.ids
	a.out = append(a.out, act)
}

func (a *Agent) say(format string, args ...any) {
	a.tell(Action{Kind: Say, Text: fmt.Sprintf(format, args...)})
}

// persists: such an action writes what may not be forgotten.
func (k Kind) persists() bool { return k >= PersistPromise && k <= PersistMark }

// changesServer: after such an action, what was seen of the server is old.
func (k Kind) changesServer() bool {
	return !k.persists() && k != ProveSSN && k != Nudge
}

func (a *Agent) done(d Done) {
	var act Action
	switch {
	case d.ID != 0 && d.ID == a.hold:
		act, a.hold = Action{ID: d.ID, Kind: Hold}, 0
	case d.ID != 0 && d.ID == a.busy.ID:
		act, a.busy = a.busy, Action{}
	default:
		for k := range a.calls {
			if c := &a.calls[k]; d.ID != 0 && c.act.ID == d.ID {
				act = c.act
				c.act = Action{}
				if d.Err != nil {
					c.retry = a.now + a.t.Retry/2
				}
				a.called(act, d)
				break
			}
		}
		if d.Server != nil {
			a.look(d.Server)
		}
		return
	}
	if act.Kind.changesServer() {
		a.known = false
		if d.Server == nil {
			a.since = a.now
		}
	}
	if d.Server != nil {
		a.since = max(a.since, d.Server.At)
		a.look(d.Server)
	}
	if d.Err != nil && act.Kind != Reserve && act.Kind != PromoteTo && !(act.Kind == ProveSSN && a.grow.name != "") {
		a.retryAt = a.now + a.t.Retry // those are not tried again, and what follows is urgent
	}
	a.finished(act, d)
}

// finished takes the outcome of an action of the queue.
func (a *Agent) finished(act Action, d Done) {
	ok := d.Err == nil
	if act.Kind.persists() {
		if a.keepErr = ""; !ok {
			a.keepErr = brief(d.Err)
		}
	}
	switch act.Kind {
	case PersistPromise:
		if ok {
			a.promise = max(a.promise, act.Epoch)
		}
	case PersistAttempt:
		if ok {
			a.attempted = max(a.attempted, act.Epoch)
		}
	case PersistMarker:
		if ok {
			a.marker = act.Marker
			if act.Marker == NoMarker {
				a.mark = act.Pos
			}
		}
	case PersistMark:
		if ok {
			a.mark, a.markAt = act.Pos, a.now
			if a.view.Phase == Active { // an election is noted anyway, and must not wait for the disk
				a.ask(Action{Kind: Advanced})
			}
		}
	case Fence:
		if ok {
			a.fencedAt(d.Result)
		}
	case Reserve, PromoteTo:
		a.promoted(act, d)
	case Unreserve:
		a.giving.clean = false
	case WriteSSN:
		if a.ssnErr = ""; !ok {
			a.ssnErr = brief(d.Err)
		}
		if !act.SSN.Hold && len(act.SSN.Names) == 0 {
			a.flag = false
		}
		a.wrote(ok)
	case ProveSSN:
		a.proved(act, d)
	case StartStandby:
		if ok {
			a.flag = true // the hold was in the file before the start
			if act.Node != "" {
				a.follows(act.Epoch, act.Node)
			}
		} else {
			if a.fails++; a.fails == 1 {
				a.failedAt = a.now
			}
			a.failure = brief(d.Err)
			a.retryAt = a.now + a.t.Retry*time.Duration(min(a.fails*a.fails, 100))
		}
	case Stop:
		a.stoppedAt(act, d)
	case Follow:
		if ok {
			a.follows(act.Epoch, act.Node)
		}
	case Rewind, Clone:
		a.rebuilt(act, d)
	}
}

// called takes the outcome of a call.
func (a *Agent) called(act Action, d Done) {
	switch act.Kind {
	case ReportPledge:
		if d.Err == nil {
			a.reported = a.pledging
		}
	case SetRule:
		a.ruled(act, d)
	case Release:
		if d.Err != nil {
			a.slot(Release).retry = a.now + a.t.Retry
		} else if a.giving.epoch == act.Epoch {
			a.gave, a.giving = a.giving, giving{}
			a.slot(Release).retry = a.now + a.t.Retry // vrrpd is at it, and shows it in a moment
		}
	case Look:
		a.looked(act, d)
	case ReadLog:
		a.readLog(act, d)
	case Checkpoint:
		a.change.checkpoint(d.Err)
	case AfterPromote:
		a.slot(AfterPromote).retry = a.now + 10*a.t.Retry
	case Leave:
		a.leftBy(act, d)
	}
}

// plan does what is due. What comes first matters: the hold before anything, the promise before whatever follows from an epoch,
// the end of a failed grant before the next.
func (a *Agent) plan() {
	v := &a.view
	if a.live() {
		a.held = v.Epoch
		a.at(a.deadline)
	} else if a.held != 0 && a.held == v.Epoch && a.burnt != v.Epoch && !(v.Mine && v.Live) {
		// vrrpd says so. A deadline alone that has passed, because we slept or did not hear, is a reason for the hold and no more.
		a.burnt = v.Epoch
		a.say("epoch %d is over here: the lease does not run", v.Epoch)
	}
	if c := &a.change; c.to != "" && (c.epoch != v.Epoch || a.burnt == v.Epoch) {
		a.say("switchover to %s aborted: epoch %d is over", c.to, c.epoch)
		*c = change{}
	}
	a.putOnHold()
	a.cancelRebuild()
	a.answerLeaves()
	a.overdue()
	a.ailing()
	a.handBack()
	if a.busy.ID != 0 || a.hold != 0 || !a.seen || v.Epoch == 0 || !a.known {
		return
	}
	if a.now < a.retryAt {
		a.at(a.retryAt)
		return
	}
	if v.Epoch < a.promise {
		return // the log is behind what we promised: see Explain
	}
	if a.pending() {
		return
	}
	if v.Epoch > a.promise {
		a.do(Action{Kind: PersistPromise, Epoch: v.Epoch})
		return
	}
	if a.giveUp() || a.leave() || a.rebuilding() || a.busy.ID != 0 {
		return
	}
	switch {
	case a.srv.NoData || !a.srv.Running:
		a.down()
	case !a.srv.Answering:
		a.silent()
	case v.SystemID != 0 && a.srv.SystemID != v.SystemID:
		// another cluster's data: nothing of it is touched
	case !a.srv.InRecovery:
		a.runsPrimary()
	default:
		a.runsStandby()
	}
	if a.busy.ID == 0 {
		a.remember()
	}
}

// putOnHold: whoever is not the active holder acknowledges nothing.
func (a *Agent) putOnHold() {
	if !a.srv.Answering || !a.known || a.hold != 0 {
		return
	}
	switch {
	case !a.seen || a.view.Epoch == 0:
		// A resource that is not initialized is no business of ours; without any word of vrrpd a primary is, unless this node was
		// never part of an election.
		if a.seen || a.srv.InRecovery || a.promise == 0 {
			return
		}
		if a.now < a.start+a.t.Orphan {
			a.at(a.start + a.t.Orphan)
			return
		}
	case a.acks():
		return
	}
	if s, ok := ParseSSN(a.srv.SSN); ok && s.IsHold() {
		return
	}
	if a.now < a.retryAt && a.busy.ID == 0 {
		a.at(a.retryAt)
		return
	}
	a.ids++
	a.hold = a.ids
	a.out = append(a.out, Action{ID: a.hold, Kind: Hold})
	a.grow = grow{}
}

// onHold reports whether the hold is in force.
func (a *Agent) onHold() bool {
	s, ok := ParseSSN(a.srv.SSN)
	return ok && s.IsHold()
}

// remember writes the LSN mark each second, when nothing more urgent is about to come.
func (a *Agent) remember() {
	if a.markAt == 0 {
		a.markAt = a.now
	}
	end := a.srv.whole()
	if a.view.Phase != Active || a.marker != NoMarker || !a.srv.Answering || a.broken != "" || end.before(a.mark) || end.LSN <= a.mark.LSN {
		return
	}
	if due := a.markAt + time.Second; a.now < due {
		a.at(due)
		return
	}
	a.do(Action{Kind: PersistMark, Pos: end})
}

// judge tells vrrpd whether this node may be granted the resource.
func (a *Agent) judge() {
	why := a.unfit()
	v := Action{Kind: Eligible, On: why == "", Text: why}
	if a.verdict.Kind == Eligible && a.verdict.On == v.On && a.verdict.Text == v.Text {
		return
	}
	if !a.known && a.srv.At != 0 {
		return // between an action and the next look nothing new is known
	}
	a.verdict = v
	a.tell(v)
}

// unfit says why this node must not be granted the resource; "" if it may.
func (a *Agent) unfit() string {
	switch {
	case !a.seen || a.srv.At == 0 && !a.known:
		return "PostgreSQL was not looked at yet"
	case a.view.Epoch < a.promise:
		return fmt.Sprintf("it promised epoch %d, and the log knows only %d", a.promise, a.view.Epoch)
	case a.keepErr != "" && (a.view.Epoch > a.promise || a.view.Phase == Electing && a.reported.epoch != a.view.Epoch):
		return "it can't write down what it promises: " + a.keepErr
	case a.marker == Rewinding:
		return "its data directory is being rewound"
	case a.marker == Cloning:
		return "its data directory is being copied"
	case a.marker == Rewound:
		return "its data directory was rewound or copied, and has not streamed since"
	case a.srv.NoData:
		return "it has no data directory"
	case a.broken != "":
		return a.broken
	case a.unseen != "":
		return a.unseen
	case a.disk != "":
		return a.disk
	case a.view.SystemID != 0 && a.srv.SystemID != 0 && a.srv.SystemID != a.view.SystemID:
		return fmt.Sprintf("its data directory has system identifier %d, the cluster's is %d", a.srv.SystemID, a.view.SystemID)
	case a.away.On:
		return "it is in maintenance"
	case !a.srv.Running && a.srv.Clean && a.rule.Holder == a.o.Node:
		return ""
	case !a.srv.Running:
		return "PostgreSQL does not run"
	case a.srv.Waits:
		return inconsistent
	case !a.srv.Answering:
		return "PostgreSQL does not answer"
	}
	return ""
}
