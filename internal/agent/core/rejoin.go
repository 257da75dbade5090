package core

import "time"

// follow is whom this server streams from.
type follow struct {
	epoch      uint64
	node       string
	postmaster uint64
	since      time.Duration // told to, or last seen streaming, or getting on without
	relinks    bool          // told to once more, at another address
	at         uint64        // how far it was
	tries      int           // times that it was stuck behind this holder
	spared     int           // rewinds in a row that failed and left the data as it was
	source     *Source       // of the last look, not used yet
	asked      time.Duration
	unseen     string // why the holder's server could not be asked, the last time
	reason     string // why it does not follow
	unready    string // why the holder is not ready for a rewind, unless it only has to make its checkpoint
}

// read is a reading of the log behind a barrier, begun after this server was cut off from whatever it followed.
type read struct {
	id      uint64 // of the call; 0: not asked for
	done    bool
	epoch   uint64
	version uint64
	begged  bool   // the holder for a newer rule
	let     uint64 // epoch whose holder has let us go since
}

// copies are those that were made or tried since this server streamed last.
type copies struct {
	tried uint64 // how many
	epoch uint64 // of the last
	next  time.Duration
	err   string // of the last; "": it was made, and the server does not stream
}

// Between two copies: after one that failed, and after one that was made and is of no use. Each doubles with the next, up to copyMost.
const (
	copyAfter = time.Second
	copyAnew  = time.Minute
	copyMost  = 10 * time.Minute
)

// copied takes note of one that has ended.
func (a *Agent) copied(err error) {
	c, pause := &a.copies, copyAnew
	if c.err = ""; err != nil {
		c.err, pause = brief(err), copyAfter
	}
	for range min(c.tried, 20) {
		pause = min(2*pause, copyMost)
	}
	c.tried++
	c.epoch, c.next = a.work.epoch, a.now+pause
}

// mayCopy reports whether a copy may be made now. Whoever holds a new epoch may be a better source, but for a server that does not start.
func (a *Agent) mayCopy() bool {
	c := &a.copies
	if a.now >= c.next || a.fails <= 3 && c.epoch != a.view.Epoch {
		return true
	}
	a.at(c.next)
	return false
}

// rebuild is a rewind or a copy under way.
type rebuild struct {
	epoch     uint64
	node      string
	rewind    bool
	fresh     bool          // there are no data here
	was       Marker        // before
	begun     bool          // the data directory may have changed
	over      time.Duration // since when its epoch is over
	cancelled bool
}

// followHolder brings a standby behind the holder of the epoch.
func (a *Agent) followHolder() {
	v, f := &a.view, &a.follow
	x := v.Holder
	if f.epoch == v.Epoch && f.node == x && f.postmaster == a.srv.Postmaster && a.srv.Conninfo == x {
		a.behind()
		return
	}
	if a.srv.Conninfo != x && !a.fence() {
		return
	}
	s := a.holderSeen(x)
	if s == nil {
		return
	}
	pos := a.srv.Pos
	if a.srv.Conninfo == "" {
		pos = a.fenced.pos
	}
	f.reason = diverged(pos, a.srv.History, s, v.Ledger)
	if a.broken != "" {
		f.reason = a.broken
	}
	switch {
	case f.reason != "" && a.srv.Conninfo != "":
		// It may be only that it received more since: cut off, it can be compared.
		a.do(Action{Kind: Fence, Epoch: v.Epoch})
	case f.reason != "":
		a.rebuild(s)
	case f.tries >= 2 && v.Phase == Active && a.srv.Conninfo == "" && a.mayCopy(): // else it tries on
		f.reason = "nothing stands against following " + x + ", and it does not stream: the WAL that it needs is gone"
		a.rebuild(s)
	case a.srv.Conninfo == x && a.srv.Upstream == x:
		a.followed, a.read = v.Epoch, read{} // a former process told it to
		a.follows(v.Epoch, x)
	default:
		a.followed, a.read = v.Epoch, read{}
		a.do(Action{Kind: Follow, Node: x, Epoch: v.Epoch})
	}
}

// follows takes note that the server that runs now is a standby of node since now; what was tried before is kept.
func (a *Agent) follows(epoch uint64, node string) {
	f := &a.follow
	if f.relinks && f.epoch == epoch && f.node == node && f.postmaster == a.srv.Postmaster {
		f.relinks = false // it has been without a stream for as long as before
		return
	}
	*f = follow{epoch: epoch, node: node, postmaster: a.srv.Postmaster, since: a.now, tries: f.tries, spared: f.spared}
}

// holderSeen is the holder's server if it was just seen as a primary of this epoch; if not, it is looked at. What was seen counts
// once.
func (a *Agent) holderSeen(x string) *Source {
	f := &a.follow
	s := f.source
	f.source = nil
	if a.isHolder(s) {
		return s
	}
	due := f.asked + a.t.Ask
	if f.unready != "" || a.now < a.copies.next {
		due = f.asked + 10*a.t.Retry // nothing that passes in a moment, and each look costs the holder a session
	}
	if f.asked != 0 && a.now < due {
		a.at(due)
		return nil
	}
	a.ask(Action{Kind: Look, Node: x})
	return nil
}

// isHolder reports whether what was looked at is the holder's server, as a primary of this epoch.
func (a *Agent) isHolder(s *Source) bool {
	v := &a.view
	if s == nil || s.Node != v.Holder || s.InRecovery || v.SystemID != 0 && s.SystemID != v.SystemID {
		return false
	}
	// A holder that was not promoted keeps its timeline: the log says so with its first SetRule.
	return s.TLI == v.Timeline || v.Timeline == 0 || v.Phase == Granted && v.Rule.Holder == v.Holder
}

func (a *Agent) looked(act Action, d Done) {
	if a.change.looked(act, d.Result.Source) {
		return
	}
	a.follow.asked, a.follow.unseen = a.now, ""
	if d.Err != nil {
		a.follow.unseen = d.Err.Error()
		return
	}
	a.follow.source = d.Result.Source
}

// behind watches a standby that was told to follow.
func (a *Agent) behind() {
	v, f := &a.view, &a.follow
	if a.srv.Upstream == v.Holder {
		f.since, f.tries, f.spared, f.reason = a.now, 0, 0, ""
		a.copies = copies{}
		if a.marker != NoMarker && v.Phase == Active {
			a.broken = ""
			a.do(Action{Kind: PersistMarker, Pos: a.srv.whole()})
		}
		return
	}
	if a.srv.Pos.LSN > f.at {
		f.at, f.since = a.srv.Pos.LSN, a.now // by restore_command, it may be
	}
	if due := f.since + a.t.Stuck; a.now < due {
		a.at(due)
		a.relink()
		return
	}
	// It does not come: look again what it has and what the holder has.
	f.tries++
	a.do(Action{Kind: Fence, Epoch: v.Epoch})
}

// relink looks for the holder on every link when it does not stream for a moment, and follows it at the address that answers, if that is another one.
func (a *Agent) relink() {
	v, f := &a.view, &a.follow
	s := f.source
	f.source = nil
	if a.isHolder(s) && s.Via != "" && s.Via != a.srv.Via {
		a.say("%s does not answer at %s and does at %s: following it there", v.Holder, a.srv.Via, s.Via)
		f.relinks = true
		a.do(Action{Kind: Follow, Node: v.Holder, Epoch: v.Epoch})
		return
	}
	if due := max(f.since, f.asked) + a.t.Relink; a.now < due {
		a.at(due)
		return
	}
	a.ask(Action{Kind: Look, Node: v.Holder})
}

// replaceable reports whether this server's data may be given up for the holder's: its epoch is Active, and the rule does not name us.
func (a *Agent) replaceable() bool {
	v := &a.view
	return v.Phase == Active && a.heldByOther() && !a.rule.Has(a.o.Node) && v.Epoch == a.promise && !a.away.On
}

// mayRebuild: replaceable in a log that was read behind a barrier since we were cut off, no rule that names us can come, and the holder
// has let us go: the walsender of a connection that is dead, and that it does not know to be, counts no longer. The server must be down
// or fenced when it is asked.
func (a *Agent) mayRebuild() bool {
	if !a.replaceable() {
		return false
	}
	if !a.read.done {
		if a.read.id == 0 && a.ask(Action{Kind: ReadLog}) {
			a.read.id = a.ids
		}
		return false
	}
	return !a.awaitsRule() && a.read.let == a.view.Epoch
}

func (a *Agent) readLog(act Action, d Done) {
	if a.read.id != act.ID {
		return
	}
	a.read.id = 0
	if v := d.Result.View; d.Err == nil && v != nil {
		a.newView(*v)
		a.read = read{done: true, epoch: v.Epoch, version: v.Rule.Version, let: a.read.let}
	}
}

// rebuild is the ladder below following: rewind once the holder is ready for it, else copy. s is the holder as it was just seen.
func (a *Agent) rebuild(s *Source) {
	f := &a.follow
	a.letGo()
	if !a.mayRebuild() {
		return
	}
	rewind := a.o.Rewind && a.marker == NoMarker && !a.srv.NoData && f.tries < 2 && a.fails <= 3
	switch {
	case rewind && !s.RewindReady:
		f.unready = s.Unready
		return // the next look may find it so
	case !rewind && !a.o.Clone:
		f.reason += "; rewind and copy are switched off, or have failed"
		return
	case !rewind && !a.mayCopy():
		return
	}
	a.work = rebuild{epoch: a.view.Epoch, node: s.Node, rewind: rewind, fresh: a.srv.NoData, was: a.marker}
	how := "copied from "
	if rewind {
		how = "rewound to "
	}
	a.say("the data directory is %s%s: %s", how, s.Node, f.reason)
	a.rebuilding()
}

// letGo tells an active holder that this server can't stream as it is. As long as the rule names us our data counts, and with
// min_copies the holder may keep us in it for ever; if it does not, nothing but our asking makes it write a newer one soon; and what
// came from us before must not make it take us into the rule again.
func (a *Agent) letGo() {
	if a.view.Phase != Active || !a.heldByOther() || a.away.On {
		return
	}
	waits, counts := a.awaitsRule() && !a.read.begged, a.read.done && a.read.let != a.view.Epoch
	if (waits || counts || a.rule.Has(a.o.Node)) && a.ask(Action{Kind: Leave, Node: a.view.Holder, Epoch: a.view.Epoch, On: true, Text: a.follow.reason}) {
		a.read.begged = a.read.begged || waits
	}
}

// awaitsRule reports that the log was read, and a rule that names us may still be on its way: it falls with the version that it was
// made on.
func (a *Agent) awaitsRule() bool {
	return a.read.done && a.view.Epoch <= a.followed && a.rule.Version <= a.read.version
}

// rebuilding goes on with a rewind or a copy; it reports whether there is one. The marker is on disk before the first byte changes.
func (a *Agent) rebuilding() bool {
	w := &a.work
	if w.node == "" {
		return false
	}
	want := Cloning
	if w.rewind {
		want = Rewinding
	}
	if !a.replaceable() || a.view.Epoch != w.epoch {
		x := *w
		*w = rebuild{}
		if !x.begun && (a.marker == Rewinding || x.fresh && a.marker == Cloning && x.was != Cloning) {
			a.do(Action{Kind: PersistMarker, Marker: x.was, Pos: a.mark}) // nothing was changed yet, and data may still come
		}
		return !x.begun
	}
	switch {
	case w.fresh && !w.begun && !a.srv.NoData: // data came, by a late mount: they are looked at first
		if a.marker != w.was {
			a.do(Action{Kind: PersistMarker, Marker: w.was, Pos: a.mark})
			break
		}
		*w = rebuild{}
		return false
	case a.marker != want:
		a.do(Action{Kind: PersistMarker, Marker: want})
	case a.srv.Running:
		a.do(Action{Kind: Stop, Fast: true})
	case w.rewind:
		w.begun = true
		a.do(Action{Kind: Rewind, Node: w.node})
	default:
		w.begun = true
		a.do(Action{Kind: Clone, Node: w.node, Fresh: w.fresh})
	}
	return true
}

// rewinds is how often a rewind is tried that fails without a trace: the source went away, or was not ready after all.
const rewinds = 3

// rebuilt takes the outcome of Rewind and Clone. A rewind that failed half-way leaves garbage: the marker stays, and a copy follows.
// One that failed before is tried again, behind whoever holds then.
func (a *Agent) rebuilt(act Action, d Done) {
	was, cancelled := a.work.was, a.work.cancelled
	if act.Kind == Clone && !(d.Err != nil && cancelled) {
		a.copied(d.Err)
	}
	a.work = rebuild{}
	a.follow.asked = 0
	if d.Err != nil {
		a.say("%v: %v", act, d.Err)
		if !cancelled {
			a.follow.spared++
		}
		if again := act.Kind == Clone || a.follow.spared < rewinds; again && d.Result.Whole && was != Rewinding && was != Cloning {
			a.do(Action{Kind: PersistMarker, Marker: was, Pos: a.mark}) // what is there may serve meanwhile
		}
		return
	}
	a.fails, a.follow.tries, a.follow.spared, a.broken = 0, 0, 0, ""
	a.do(Action{Kind: PersistMarker, Marker: Rewound})
}

// rewindGrace is how long a rewind is left alone whose source's epoch is over: it may well be granted the next one.
const rewindGrace = 2 * time.Second

// cancelRebuild stops a copy of a server that holds no longer, and a rewind to it if that hangs.
func (a *Agent) cancelRebuild() {
	w, v := &a.work, &a.view
	if a.busy.ID == 0 || w.cancelled {
		return
	}
	switch a.busy.Kind {
	case Clone:
		w.cancelled = v.Epoch != w.epoch || !a.replaceable()
	case Rewind:
		if v.Epoch == w.epoch || v.Holder == w.node {
			return
		}
		if w.over == 0 {
			w.over = a.now
		}
		if w.cancelled = v.Holder != "" || a.now >= w.over+rewindGrace; !w.cancelled {
			a.at(w.over + rewindGrace)
		}
	}
	if w.cancelled {
		a.tell(Action{Kind: Cancel, Ref: a.busy.ID})
	}
}

// copyAgain is for a server that can't run as it is: a new copy, once there is somebody to copy. It reports whether that may be now; else a start may as
// well be tried.
func (a *Agent) copyAgain(why string) bool {
	a.follow.reason = why
	a.letGo()
	if !a.replaceable() || !a.mayCopy() {
		return false
	}
	if s := a.holderSeen(a.view.Holder); s != nil {
		a.rebuild(s)
	}
	return a.o.Clone
}
