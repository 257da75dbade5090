package promote

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"time"

	"pgvrrp/internal/postgres"
)

// Observer looks at our own server.
type Observer interface {
	Facts(ctx context.Context) (postgres.Facts, error)
	LastWAL(ctx context.Context) (postgres.Position, error)
	History(tli postgres.Timeline) (postgres.History, error)
	RewindIncomplete() bool
}

// Lifecycle starts and stops it.
type Lifecycle interface {
	StartStandby(ctx context.Context) error
	StartAsIs(ctx context.Context) error
	Stop(ctx context.Context, mode postgres.StopMode) error
}

// Promoter makes it a primary.
type Promoter interface {
	Promote(ctx context.Context) (postgres.Timeline, postgres.LSN, error)
	SwitchWAL(ctx context.Context) error
	Checkpoint(ctx context.Context) error
}

// Streamer says where it streams from.
type Streamer interface {
	SetUpstream(ctx context.Context, conninfo string) error
	ClearUpstream(ctx context.Context) error
	ResetAuto(ctx context.Context) error
}

// Rebuilder makes its data directory anew.
type Rebuilder interface {
	RewindReady(ctx context.Context, conninfo string) error
	Rewind(ctx context.Context, conninfo string, progress postgres.Progress) error
	NewDir() string
	Swap(newDir string) (old string, err error)
}

// Server is our own server; *postgres.Server is one.
type Server interface {
	Observer
	Lifecycle
	Promoter
	Streamer
	Rebuilder
}

// Ask says whether vrrpd still holds the event for the present state; nil if no vrrpd started us.
type Ask func(ctx context.Context, ev Event) error

// Engine carries plans out on one server.
type Engine struct {
	Settings Settings
	Server   Server
	Network  Network
	Store    *Store
	Vrrpd    Ask
	Clone    func(ctx context.Context, o postgres.CloneOptions) error
	BinDir   string
	// Detach starts this program again with other arguments, in a session of its own that outlives us.
	Detach   func(args ...string) error
	Log      *slog.Logger
	Progress func(what string) (set postgres.Progress, end func())
}

// Outcome is how an event or a command ended.
type Outcome struct {
	Event  Event
	Seq    uint64
	Steps  []string // that were carried out
	Note   string
	Result string // done, nothing, refused, overtaken, failed
	Err    error  // the reason, nil for done and nothing
	Took   time.Duration
}

// The results of an Outcome.
const (
	Done      = "done"
	Nothing   = "nothing"
	Refused   = "refused"
	Overtaken = "overtaken"
	Failed    = "failed"
)

// advancingFor is how long a standby that catches up may stand still before it counts as unable to.
const advancingFor = time.Second

// staleAfter is how old "unreachable" may be when we promote: asking a dead host again costs a whole deadline.
const staleAfter = time.Second

// retryEvery paces looking again while something is about to change.
const retryEvery = 15 * time.Millisecond

// Deliver takes a hook's event: it becomes the newest state first, before anything is waited for, and is dropped as soon
// as another becomes it.
func (e *Engine) Deliver(ctx context.Context, ev Event) Outcome {
	start := time.Now()
	out := Outcome{Event: ev}
	finish := func() Outcome {
		out.Took = time.Since(start)
		e.note("notify", out)
		if ev.State == Master && (out.Result == Refused || out.Result == Failed) {
			if err := e.Detach(Behind("retry", ev.Name)...); err != nil {
				e.Log.Error("it will not be tried again", "reason", err)
			}
		}
		return out
	}
	me, err := ThisProcess()
	if err != nil {
		out.Result, out.Err = Failed, err
		return finish()
	}
	rec, err := e.Store.Deliver(ctx, ev, me)
	if err != nil {
		e.stepDown(ctx, &out, err)
		return finish()
	}
	out.Seq = rec.Seq
	ctx, cancel := watch(ctx, 5*time.Millisecond, func() error { return e.Store.StillNewest(rec) })
	defer cancel()

	d := drive{engine: e, ev: ev, rec: rec, settled: time.Now().Add(e.Settings.Settle)}
	if ev.State == Master {
		d.ask(ctx) // the questions run while we wait for the lock and for the settle time
	}
	if ev.State != Deleted {
		lock := func() (unlock func(), err error) {
			return e.lock(ctx, ev.words(), func() error { return e.unusable(ev) })
		}
		unlock, err := lock()
		if err != nil && e.stepDown(ctx, &out, err) && errors.Is(err, errLate) {
			if unlock, err = lock(); err != nil { // whoever was at work has no primary to work with any more
				out.fail(ctx, err)
			}
		}
		if err != nil {
			if ev.State == Backup && errors.Is(err, errLate) {
				if err := e.Detach(Behind("follow", ev.Name)...); err != nil {
					e.Log.Error("the VIP will not be followed", "reason", err)
				}
			}
			return finish()
		}
		defer unlock()
		out.Result, out.Err = "", nil
	}
	d.run(ctx, &out)
	return finish()
}

// errLate is why a lock was not waited for any longer.
var errLate = errors.New("another pgnotify did not finish in time")

// lock takes the data directory, and waits for it no longer than it may.
func (e *Engine) lock(ctx context.Context, what string, while func() error) (unlock func(), err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, e.Settings.Timeouts.Lock, errLate)
	defer cancel()
	return e.Store.Lock(ctx, what, while)
}

// retryPause is how long work behind a MASTER that came to nothing waits before each try.
const retryPause = 5 * time.Second

// Retry is the work behind a MASTER that was refused or failed: without vip_after_notify nobody else would try again, and the VIP would stay where there
// is no primary. It ends with the promotion, or when MASTER is not the newest state any more.
func (e *Engine) Retry(ctx context.Context, instance string) Outcome {
	start := time.Now()
	out := Outcome{Event: Event{Name: instance, State: Master}}
	rec, err := e.Store.Newest(instance)
	if err == nil && rec.State != Master {
		err = &OvertakenError{rec}
	}
	if err != nil {
		out.fail(ctx, err)
		return out
	}
	wanted := func() error { return e.Store.StillNewest(rec) }
	unlock, err := e.Store.LockRetry(ctx, rec)
	if err != nil {
		out.Result, out.Note = Nothing, err.Error()
		e.Log.Info("MASTER is not tried again", "instance", instance, "reason", err)
		return out
	}
	defer unlock()
	ctx, end := watch(ctx, 50*time.Millisecond, func() error {
		var over *OvertakenError
		if err := wanted(); errors.As(err, &over) {
			return err
		}
		return nil // a look that failed is not the end: each try looks again
	})
	defer end()
	out.Event.Type, out.Event.Priority, out.Seq = rec.Type, rec.Priority, rec.Seq
	for last := ""; ; {
		pause(ctx, retryPause)
		try := out
		err := e.work(ctx, "MASTER "+instance, wanted, func() error {
			d := drive{engine: e, ev: out.Event, rec: rec, settled: time.Now().Add(e.Settings.Settle)}
			d.run(ctx, &try)
			return nil
		})
		if err != nil {
			try.fail(ctx, err)
		}
		if ctx.Err() == nil && (try.Result == Refused || try.Result == Failed) {
			if text := try.Err.Error(); text != last {
				e.Log.Warn("MASTER, but no primary; trying again", "instance", instance, "every", retryPause, "reason", text)
				last = text
			}
			continue
		}
		try.Took = time.Since(start)
		e.note("retry", try)
		return try
	}
}

// stepDown ends an event that could not be noted or have the data to itself, for want of space or because another pgnotify is at work. Who is to step
// down does so nevertheless: a primary is stopped, and no more.
func (e *Engine) stepDown(ctx context.Context, out *Outcome, why error) (stopped bool) {
	out.fail(ctx, why)
	switch out.Event.State {
	case Backup, Fault, Stop:
	default:
		return false
	}
	if out.Result != Failed {
		return false
	}
	e.Store.endRetry() // it goes by what is noted
	l := e.local(ctx)
	if !l.leads() {
		return false
	}
	words := fmt.Sprintf("stop %s fast: it is %s", e.Settings.Node, describe(l))
	e.Log.Error("stepping down without more ado", "step", words, "reason", why)
	if err := e.stop(ctx); err != nil {
		out.Err = fmt.Errorf("%w; %s: %w", why, words, err)
		return false
	}
	out.Steps = append(out.Steps, words)
	return true
}

// unusable ends a MASTER's waiting for the lock when the data is being rewound: the lock will not be free in time.
func (e *Engine) unusable(ev Event) error {
	if ev.State != Master {
		return nil
	}
	r, err := e.Store.Rebuild()
	if err != nil {
		return err
	}
	if r.Phase == PhaseRewinding {
		return &RefusedError{"the data directory is being rewound: " + r.Why}
	}
	return nil
}

// RefusedError is a refusal with its reason.
type RefusedError struct{ Reason string }

func (e *RefusedError) Error() string { return e.Reason }

func (o *Outcome) fail(ctx context.Context, err error) {
	var over *OvertakenError
	var refused *RefusedError
	switch {
	case errors.As(err, &over), errors.As(context.Cause(ctx), &over):
		o.Result, o.Err = Overtaken, fmt.Errorf("%s was overtaken: %w", o.Event.words(), over)
	case errors.As(err, &refused):
		o.Result, o.Err = Refused, err
	case ctx.Err() != nil && errors.Is(context.Cause(ctx), context.Canceled):
		o.Result, o.Err = Overtaken, errors.New("interrupted")
	default:
		o.Result, o.Err = Failed, err
	}
}

func (e *Engine) note(command string, o Outcome) {
	entry := Entry{
		At: time.Now().Add(-o.Took), Command: command, Type: o.Event.Type, Name: o.Event.Name, State: o.Event.State, Priority: o.Event.Priority,
		Seq: o.Seq, Steps: o.Steps, Outcome: o.Result, Reason: o.Note, Took: o.Took.Seconds(),
	}
	args := []any{"command", command, "outcome", o.Result, "took", o.Took.Round(time.Millisecond)}
	if o.Event.State != "" {
		args = append(args, "instance", o.Event.Name, "to", o.Event.State, "priority", o.Event.Priority, "seq", o.Seq)
	}
	if o.Err != nil {
		entry.Reason = o.Err.Error()
	}
	switch {
	case o.Event.ByHand: // whoever asked is told
	case o.Result == Overtaken: // as it should be: a newer state is at work
		e.Log.Info("event", append(args, "reason", entry.Reason)...)
	case o.Err != nil:
		e.Log.Error("event", append(args, "reason", entry.Reason)...)
	default:
		e.Log.Info("event", append(args, "steps", strings.Join(o.Steps, "; "), "reason", o.Note)...)
	}
	if err := e.Store.Append(entry); err != nil {
		e.Log.Warn("history", "reason", err)
	}
}

// drive is one event on its way: look, decide, act, until there is nothing left to do.
type drive struct {
	engine  *Engine
	ev      Event
	rec     Record // zero for a command by hand
	told    Mark   // what the virtual routers were told when a command by hand began; nil: nothing overtakes it
	settled time.Time

	first chan survey // the questions asked at the start
	heard *survey

	position postgres.Position // of the last look
	moved    time.Time         // when it last changed, or when catching up began
	caughtUp bool              // upstream is not the VIP, for the time being
}

func (d *drive) ask(ctx context.Context) {
	d.first = make(chan survey, 1)
	go func() { d.first <- d.engine.askAll(ctx, d.engine.targets()) }()
}

// run carries the event out. The caller holds the lock.
func (d *drive) run(ctx context.Context, out *Outcome) {
	defer func() {
		// After a promotion this is left to the work behind it; nobody must wait for it.
		if d.caughtUp && out.Result != Done {
			if err := d.engine.setUpstream(context.WithoutCancel(ctx), d.engine.Settings.VIP); err != nil {
				d.engine.Log.Error("point the server at the VIP again", "reason", err)
			}
		}
	}()
	var later error // to be told when all is done
	defer func() {
		if later != nil && out.Err == nil {
			out.Result, out.Err = Failed, later
		}
	}()
	var waiting [WaitCatchUp + 1]time.Time
	last, said := "", time.Time{}
	for looks := 0; ; {
		f := d.look(ctx)
		plan := Decide(f, d.ev)
		if plan.Refusal != "" {
			if ctx.Err() != nil {
				out.fail(ctx, context.Cause(ctx))
				return
			}
			if until := d.patience(plan.Wait, &waiting); time.Now().Before(until) {
				if plan.Refusal != last && time.Since(said) > time.Second { // two reasons may take turns
					d.engine.Log.Info("waiting", "instance", d.ev.Name, "to", d.ev.State, "reason", plan.Refusal)
					last, said = plan.Refusal, time.Now()
				}
				pause(ctx, min(retryEvery, time.Until(until)))
				continue
			}
			out.Result, out.Err = Refused, &RefusedError{plan.Refusal}
			if f.Overtaken != "" {
				out.Result = Overtaken
			}
			return
		}
		if len(plan.Steps) == 0 {
			out.Note = plan.Note
			if out.Result = Nothing; len(out.Steps) > 0 {
				out.Result = Done
			}
			return
		}
		for _, s := range plan.Steps {
			err := d.step(ctx, s)
			if err != nil && soft(err) && s.Act != ActCatchUp {
				later, err = fmt.Errorf("%s: %w", s.Words, err), nil
			}
			if err != nil {
				out.fail(ctx, fmt.Errorf("%s: %w", s.Words, err))
				return
			}
			out.Steps = append(out.Steps, s.Words)
		}
		out.Result = Done
		if !plan.Again {
			return
		}
		if looks++; looks > 5 {
			out.Result, out.Err = Failed, errors.New("the server does not come to rest: each look asks for another step")
			return
		}
	}
}

// patience is until when a refusal of this kind may be looked at again. A command by hand does not wait for others.
func (d *drive) patience(w Wait, since *[WaitCatchUp + 1]time.Time) time.Time {
	if since[w].IsZero() {
		since[w] = time.Now()
	}
	switch {
	case w == WaitStart:
		return since[w].Add(d.engine.Settings.Timeouts.Start)
	case w == WaitHandover && d.ev.ByHand:
		return time.Time{}
	case w == WaitHandover || w == WaitCatchUp:
		return since[w].Add(d.engine.Settings.Timeouts.Handover)
	}
	return time.Time{}
}

func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// look gathers what Decide needs for this event, and no more: a BACKUP on a primary must not wait for anybody's answer.
// Our own position is read after the others': it only grows, so a later reading never hides WAL that another has.
func (d *drive) look(ctx context.Context) Facts {
	e := d.engine
	f := e.facts()
	f.Local = e.local(ctx)
	switch {
	case d.ev.State == Master && f.Local.Role == RoleStandby:
		d.survey(ctx)
		d.heard.into(&f)
		if f.VIP.Moves {
			here, err := e.Network.Holds(e.Settings.VIP)
			f.VIP.Moves = err != nil || !here // else that is we ourselves: promoting replays all that is left
		}
		f.Local = e.local(ctx)
		f.Local.Advancing = d.advancing(f.Local.Position)
		f.Settled = d.ev.ByHand || !time.Now().Before(d.settled)
	case d.ev.State == Backup && !f.Local.leads():
		f.VIP = e.askAll(ctx, map[string][]netip.Addr{vipName: {e.Settings.VIP}}).answers[vipName]
		e.compare(ctx, &f)
	}
	f.Overtaken = d.overtaken(ctx)
	return f
}

// survey asks everyone: the first time all of them while the settle time passes, then again whoever was there.
func (d *drive) survey(ctx context.Context) {
	e := d.engine
	if d.heard == nil {
		if d.first == nil {
			d.ask(ctx)
		}
		first := <-d.first
		d.heard = &first
		settled := d.settled // zero by hand
		for name, a := range first.answers {
			if at := first.asked[name].Add(standstill); a.Reach == Standby && at.After(settled) {
				settled = at
			}
		}
		pause(ctx, time.Until(settled))
	}
	fresh := e.refresh(ctx, *d.heard, staleAfter)
	d.heard = &fresh
}

func (d *drive) advancing(p postgres.Position) bool {
	if p != d.position {
		d.position, d.moved = p, time.Now()
	}
	return time.Since(d.moved) < advancingFor
}

// overtaken says why our event is not the newest one any more, "" if it is. A check that fails counts as overtaken.
func (d *drive) overtaken(ctx context.Context) string {
	if err := context.Cause(ctx); err != nil {
		return err.Error()
	}
	if err := d.stillNewest(); err != nil {
		return err.Error()
	}
	return ""
}

// stillNewest is nil while nothing newer was delivered. A command by hand needs no state, but gives way to one that comes meanwhile: its hook waits, perhaps
// not long enough, and would find a primary where there must be none.
func (d *drive) stillNewest() error {
	switch {
	case !d.ev.ByHand:
		return d.engine.Store.StillNewest(d.rec)
	case d.told != nil:
		var over *OvertakenError
		if err := d.engine.Store.NoneSince(d.told, d.ev.State); errors.As(err, &over) {
			return err
		} // one that can't be read is no reason to leave the cluster without a primary: an operator asked
	}
	return nil
}

func (e *Engine) facts() Facts {
	return Facts{Node: e.Settings.Node, VIPAddr: e.Settings.VIP}
}

// local is one look at our own server.
func (e *Engine) local(ctx context.Context) Local {
	f, err := e.Server.Facts(ctx)
	if err != nil {
		return Local{Role: RoleUnknown, Problem: err.Error()}
	}
	l := Local{SystemID: f.SystemID, Position: f.Position(), Upstream: conninfoHost(f.PrimaryConninfo), Streaming: f.Upstream.Status == "streaming"}
	switch {
	case !f.Running:
		l.Role = RoleDown
		if f.ControlErr != nil {
			l.Role, l.Problem = RoleUnknown, f.ControlErr.Error()
		}
	case f.Answering && f.InRecovery:
		l.Role = RoleStandby
	case f.Answering:
		l.Role = RolePrimary
	default:
		l.Role = RoleRecovering
		if f.StandbySignal {
			l.Role = RoleStarting
		}
		l.Problem, l.NotReady = "no reason given", errors.Is(f.Problem, postgres.ErrNotReady)
		if f.Problem != nil {
			l.Problem = f.Problem.Error()
		}
	}
	rebuild, err := e.Store.Rebuild()
	if err == nil {
		l.Phase, l.PhaseWhy = rebuild.Phase, rebuild.Why
		l.Promoting, err = e.Store.Promoting()
	}
	if err != nil { // a marker that can't be read must be taken for the worst
		l.Phase, l.PhaseWhy = PhaseRewinding, err.Error()
	}
	if e.Server.RewindIncomplete() {
		l.Phase, l.PhaseWhy = PhaseRewinding, postgres.ErrRewindIncomplete.Error()
	}
	return l
}

// ConninfoHost is the host that a connection string names, "" if it names none or can't be read.
func ConninfoHost(conninfo string) string { return conninfoHost(conninfo) }

func conninfoHost(conninfo string) string {
	pairs, err := parseConninfo(conninfo)
	if err != nil {
		return ""
	}
	for _, p := range pairs {
		if p.key == "host" {
			return p.value
		}
	}
	return ""
}

// compare tells whether our WAL has left the history of the VIP's primary or is part of it. When neither can be known nothing
// changes, and the follower looks again.
func (e *Engine) compare(ctx context.Context, f *Facts) {
	if f.VIP.Reach != Primary || f.Local.SystemID == 0 || f.VIP.SystemID != f.Local.SystemID {
		return
	}
	mine, theirs := f.Local.Position, f.VIP.Position
	if f.Local.Role == RoleDown {
		at, err := e.Server.LastWAL(ctx)
		if err != nil {
			e.Log.Debug("end of WAL unknown", "reason", err)
			return
		}
		mine = at
	}
	if mine.Timeline == 0 || mine.LSN == 0 {
		return
	}
	// No longer than any other question: MASTER waits behind us if the primary dies in this very moment.
	hctx, cancel := context.WithTimeout(ctx, e.Settings.Timeouts.Connect+e.Settings.Timeouts.Probe)
	defer cancel()
	history, err := e.Network.History(hctx, e.Settings.Question(f.VIP.Addr.String()), theirs.Timeline)
	if err != nil {
		e.Log.Debug("history of the VIP's primary unknown", "reason", err)
		return
	}
	f.Local.Twin = f.Local.Role != RolePrimary && mine.Timeline == theirs.Timeline && e.twin(mine, theirs, history)
	f.Local.Diverged = f.Local.Twin || postgres.Diverged(mine, history, theirs.Timeline)
	f.Local.Agrees = !f.Local.Diverged
}

// twin reports whether our timeline and a primary's are two that only have a number in common, because each of two servers was promoted while the other
// was off: it began elsewhere, or we made it, or we have more of it than its primary, who was asked after we were looked at.
func (e *Engine) twin(mine, theirs postgres.Position, history postgres.History) bool {
	if mine.Timeline == 1 { // nobody was promoted to that
		return false
	}
	ours, err := e.Server.History(mine.Timeline)
	return e.made(mine.Timeline) || mine.LSN > theirs.LSN || err == nil && !slices.Equal(ours, history)
}

// step carries one step out. What can't be broken off safely goes on when the event is overtaken; whoever comes next waits
// for the lock.
func (d *drive) step(ctx context.Context, s Step) error {
	e := d.engine
	if err := context.Cause(ctx); err != nil {
		return err
	}
	e.Log.Info("step", "act", string(s.Act), "words", s.Words)
	switch s.Act {
	case ActPromote:
		return d.promote(ctx)
	case ActAfterPromote:
		if err := e.Detach(Behind("after-promote", d.ev.Name)...); err != nil {
			e.Log.Error("start CHECKPOINT behind the promotion", "reason", err) // the promotion stands
		}
		return nil
	case ActFollow:
		return e.Detach(Behind("follow", d.ev.Name)...)
	case ActCatchUp:
		d.caughtUp, d.moved = true, time.Now()
		return e.setUpstream(ctx, s.From)
	}
	return e.act(ctx, s.Act)
}

// Behind are the arguments of pgnotify for work that runs behind a hook of a virtual router.
func Behind(what, instance string) []string {
	args := []string{"behind"}
	if instance != "" {
		args = append(args, "--instance", instance)
	}
	return append(args, what)
}

// act carries out what needs nothing but the server.
func (e *Engine) act(ctx context.Context, a Act) error {
	t := e.Settings.Timeouts
	switch a {
	case ActSetUpstream:
		return e.setUpstream(ctx, e.Settings.VIP)
	case ActClearUpstream:
		return e.Server.ClearUpstream(ctx)
	case ActStop:
		return e.stop(ctx)
	case ActStartStandby:
		sctx, cancel := context.WithTimeout(ctx, t.Start)
		defer cancel()
		err := e.Server.StartStandby(sctx)
		if errors.Is(err, postgres.ErrNotReady) && ctx.Err() == nil {
			// It runs, as a standby; it may need WAL from the primary before it takes sessions.
			e.Log.Warn("the standby takes no sessions yet", "reason", err)
			err = nil
		}
		if err != nil {
			return err
		}
		return e.Store.SetPromoting(false)
	case ActStartAsIs:
		sctx, cancel := context.WithTimeout(ctx, t.Start)
		defer cancel()
		return e.Server.StartAsIs(sctx)
	}
	return fmt.Errorf("unknown act %q", a)
}

// setUpstream points the server at a host, first taking back what ALTER SYSTEM or pg_basebackup -R set above us.
func (e *Engine) setUpstream(ctx context.Context, host netip.Addr) error {
	to := e.Settings.Upstream(host.String())
	err := e.Server.SetUpstream(ctx, to)
	var over *postgres.OverrideError
	if errors.As(err, &over) {
		e.Log.Warn("settings that pgnotify manages were set by ALTER SYSTEM; taking them back", "reason", err)
		if err := e.Server.ResetAuto(ctx); err != nil {
			return err
		}
		err = e.Server.SetUpstream(ctx, to)
	}
	return err
}

// soft reports whether only the way upstream is wrong: then the other steps go on, because a server must still be stopped
// and come back as a standby, and the error is the event's in the end.
func soft(err error) bool {
	var include *postgres.IncludeError
	var over *postgres.OverrideError
	return errors.As(err, &include) || errors.As(err, &over)
}

// stop stops fast and, when that does not end in time, at once: a primary that is not to be one must not stay.
func (e *Engine) stop(ctx context.Context) error {
	fctx, cancel := context.WithTimeout(ctx, e.Settings.Timeouts.Stop)
	err := e.Server.Stop(fctx, postgres.Fast)
	cancel()
	if err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		e.Log.Warn("fast stop failed, stopping at once", "reason", err)
		ictx, cancel := context.WithTimeout(ctx, e.Settings.Timeouts.Stop)
		defer cancel()
		if err := e.Server.Stop(ictx, postgres.Immediate); err != nil {
			return err
		}
	}
	return e.Store.SetPromoting(false)
}

// promote checks a last time that the event is the newest, and promotes. From there on it can't be broken off: the next
// hook must find either a standby or a primary, not a server in between.
func (d *drive) promote(ctx context.Context) error {
	e := d.engine
	if err := e.Store.SetPromoting(true); err != nil {
		return err
	}
	if err := d.newest(ctx); err != nil {
		return errors.Join(err, e.Store.SetPromoting(false))
	}
	pctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), e.Settings.Timeouts.Promote)
	defer cancel()
	tli, lsn, err := e.Server.Promote(pctx)
	if err != nil {
		return err // the marker stays: the request may have been made
	}
	e.Log.Info("promoted", "timeline", tli, "lsn", lsn.String())
	if err := e.Store.Keep(keptTimeline, timeline{tli}); err != nil {
		e.Log.Warn("note the timeline", "reason", err) // the promotion stands
	}
	return e.Store.SetPromoting(false)
}

// timeline is kept of the one that was made here and is in the data directory; it goes with a rewind or a copy.
type timeline struct {
	Made postgres.Timeline `json:"made"`
}

const keptTimeline = "timeline"

// made reports whether this node made timeline tli of its data. What can't be read was not.
func (e *Engine) made(tli postgres.Timeline) bool {
	var t timeline
	_, err := e.Store.Kept(keptTimeline, &t)
	return err == nil && t.Made == tli
}

// newest is the first condition, at the last moment: our own state file, then vrrpd, then the file again because asking
// took time.
func (d *drive) newest(ctx context.Context) error {
	if err := d.stillNewest(); err != nil {
		return err
	}
	if d.engine.Vrrpd != nil && !d.ev.ByHand {
		actx, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		if err := d.engine.Vrrpd(actx, d.ev); err != nil {
			return &RefusedError{err.Error()}
		}
		return d.engine.Store.StillNewest(d.rec)
	}
	return nil
}
