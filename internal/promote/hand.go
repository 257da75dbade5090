package promote

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"pgvrrp/internal/postgres"
)

// Preview looks and decides as ev would if it were delivered now and had settled, and changes nothing.
func (e *Engine) Preview(ctx context.Context, ev Event) (Facts, Plan) {
	d := drive{engine: e, ev: ev} // without a record: none that was delivered counts as newer
	f := d.look(ctx)
	return f, Decide(f, ev)
}

// spares reports that a command has nothing to do or must not do it, and leaves that in out: then the work that runs behind a hook goes on.
func (e *Engine) spares(ctx context.Context, out *Outcome, plan func(ctx context.Context) Plan) bool {
	if _, alive := e.Store.living(activityRejoin); !alive || plan == nil {
		return false
	}
	p := plan(ctx)
	if len(p.Steps) > 0 || p.Wait == WaitStart || p.Wait == WaitCatchUp { // a command by hand waits for these alone
		return false
	}
	out.end(p)
	return true
}

// takeRejoin ends work that still runs behind a hook, which would undo what is asked for here, and begins it again at the end.
func (e *Engine) takeRejoin(ctx context.Context, command string, out *Outcome) (unlock func(), err error) {
	ended, release, err := e.Store.TakeRejoin(ctx, command+" by hand", e.Settings.Timeouts.Lock)
	if err != nil {
		e.resume(ended, command, out)
		return nil, err
	}
	return func() {
		release()
		e.resume(ended, command, out)
	}, nil
}

// resume begins work behind a hook again that a command by hand has ended, but for what the command did itself, or what would undo it.
func (e *Engine) resume(ended activity, command string, out *Outcome) {
	switch {
	case !ended.behind(),
		command == "stop",
		command == "demote" && len(out.Steps) > 0,
		(command == "promote" || command == "switchover") && out.Result == Done:
		return
	}
	work := "follow"
	if ended.What == retrying {
		work = "retry"
	}
	if err := e.Detach(Behind(work, ended.Instance)...); err != nil {
		e.Log.Error("work behind a hook was ended and is not begun again", "work", ended.What, "reason", err)
	}
}

// hand runs one command of an operator with the data directory to itself and writes it into the history. plan is what it would do as things are now.
// One that makes a primary is broken off when a virtual router is told to be none.
func (e *Engine) hand(ctx context.Context, command string, ev Event, plan func(ctx context.Context) Plan, run func(ctx context.Context, d *drive, out *Outcome)) Outcome {
	start := time.Now()
	out := Outcome{Event: ev}
	d := drive{engine: e, ev: ev}
	if ev.State == Master {
		var err error
		if d.told, err = e.Store.Mark(); err != nil {
			e.Log.Warn("not every state that was delivered can be read", "reason", err)
		}
		var end context.CancelFunc
		ctx, end = watch(ctx, 50*time.Millisecond, d.stillNewest)
		defer end()
	}
	err := func() error {
		if e.spares(ctx, &out, plan) {
			return nil
		}
		release, err := e.takeRejoin(ctx, command, &out)
		if err != nil {
			return err
		}
		defer release()
		unlock, err := e.lock(ctx, command+" by hand", nil)
		if err != nil {
			return err
		}
		defer unlock()
		run(ctx, &d, &out)
		return nil
	}()
	if err != nil {
		out.fail(ctx, err)
	}
	out.Took = time.Since(start)
	e.note(command, out)
	return out
}

// Promote is the MASTER row by hand: it waits for nobody, and refuses while another primary answers.
func (e *Engine) Promote(ctx context.Context) Outcome {
	ev := Event{State: Master, ByHand: true}
	plan := func(ctx context.Context) Plan {
		_, p := e.Preview(ctx, ev)
		return p
	}
	return e.hand(ctx, "promote", ev, plan, func(ctx context.Context, d *drive, out *Outcome) { d.run(ctx, out) })
}

// DemotePlan is what Demote would do.
func DemotePlan(f Facts) Plan {
	switch f.Local.Role {
	case RolePrimary, RoleRecovering:
		return Decide(f, Event{State: Backup, ByHand: true})
	case RoleUnknown:
		return refuse(WaitNone, "the server on %s can't be observed: %s", f.Node, f.Local.Problem)
	}
	return nothing("the server on %s is %s", f.Node, describe(f.Local))
}

// Demote makes a primary a standby of the VIP; anything else is left alone.
func (e *Engine) Demote(ctx context.Context) Outcome {
	ev := Event{State: Backup, ByHand: true}
	plan := func(ctx context.Context) Plan { return DemotePlan(e.LookAtServer(ctx)) }
	return e.hand(ctx, "demote", ev, plan, func(ctx context.Context, d *drive, out *Outcome) {
		if p := plan(ctx); len(p.Steps) == 0 {
			out.end(p)
			return
		}
		d.run(ctx, out)
	})
}

// end closes an outcome whose plan has no steps.
func (o *Outcome) end(p Plan) {
	o.Result, o.Note = Nothing, p.Note
	if p.Refusal != "" {
		o.Result, o.Err = Refused, &RefusedError{p.Refusal}
	}
}

// StartPlan is what Start would do. As is, a server without standby.signal comes up as a primary: then everybody is asked
// first, as before a promotion.
func StartPlan(f Facts, asIs, signal bool) Plan {
	l := f.Local
	switch {
	case l.Role == RoleUnknown:
		return refuse(WaitNone, "the server on %s can't be observed: %s", f.Node, l.Problem)
	case l.Role != RoleDown:
		return nothing("the server on %s is %s", f.Node, describe(l))
	case l.Phase == PhaseRewinding:
		return refuse(WaitNone, "the data directory of %s was left half rewound: %s; pgnotify rejoin --reclone makes a new copy", f.Node, l.PhaseWhy)
	case !asIs:
		return do(false, f.startStandby("start the server as a standby"))
	case signal:
		return do(false, Step{Act: ActStartAsIs, Words: "start the server as it is, a standby: standby.signal is there"})
	}
	if l.Phase == PhaseRewound {
		return refuse(WaitNone, "the data directory of %s was rebuilt and nobody has seen it stream since, it must not start as a primary: %s", f.Node, l.PhaseWhy)
	}
	for _, a := range append([]Answer{f.VIP}, f.Peers...) {
		switch a.Reach {
		case Primary:
			return refuse(WaitNone, "%s answers as a primary, %s: started as it is, this server would be a second one", a.where(), a.Position)
		case Undecided, CantTell, NotProbed:
			return refuse(WaitNone, "can't tell whether %s is a primary: %s", a.where(), a.Reason)
		case Standby, Unreachable:
		}
	}
	return do(false, Step{Act: ActStartAsIs, Words: "start the server as it is, a primary: there is no standby.signal"})
}

// LookToStart gathers what StartPlan needs.
func (e *Engine) LookToStart(ctx context.Context, asIs bool) (f Facts, signal bool, err error) {
	f = e.facts()
	f.Local = e.local(ctx)
	for _, name := range []string{"standby.signal", "recovery.signal"} {
		_, err := os.Lstat(filepath.Join(e.Settings.DataDir, name))
		signal = signal || err == nil
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return f, false, fmt.Errorf("look for %s: %w", name, err)
		}
	}
	if asIs && !signal && f.Local.Role == RoleDown {
		e.askAll(ctx, e.targets()).into(&f)
	}
	return f, signal, nil
}

// Start starts the server, as a standby unless asIs.
func (e *Engine) Start(ctx context.Context, asIs bool) Outcome {
	plan := func(ctx context.Context) Plan {
		f, signal, err := e.LookToStart(ctx, asIs)
		if err != nil {
			return refuse(WaitNone, "%v", err)
		}
		return StartPlan(f, asIs, signal)
	}
	return e.hand(ctx, "start", Event{ByHand: true}, plan, func(ctx context.Context, _ *drive, out *Outcome) {
		f, signal, err := e.LookToStart(ctx, asIs)
		if err != nil {
			out.fail(ctx, err)
			return
		}
		e.carry(ctx, StartPlan(f, asIs, signal), out)
	})
}

// StopPlan is what Stop would do.
func StopPlan(f Facts) Plan {
	switch f.Local.Role {
	case RoleDown:
		return nothing("the server on %s is not running", f.Node)
	case RoleUnknown:
		return refuse(WaitNone, "the server on %s can't be observed: %s", f.Node, f.Local.Problem)
	}
	return do(false, Step{Act: ActStop, Words: fmt.Sprintf("stop %s fast: it is %s", f.Node, describe(f.Local))})
}

// Stop stops the server.
func (e *Engine) Stop(ctx context.Context) Outcome {
	return e.hand(ctx, "stop", Event{ByHand: true}, nil, func(ctx context.Context, _ *drive, out *Outcome) { // one that a follower has stopped it starts again
		e.carry(ctx, StopPlan(e.LookAtServer(ctx)), out)
	})
}

// LookAtServer is one look at our own server alone.
func (e *Engine) LookAtServer(ctx context.Context) Facts {
	f := e.facts()
	f.Local = e.local(ctx)
	return f
}

func (e *Engine) carry(ctx context.Context, p Plan, out *Outcome) {
	if len(p.Steps) == 0 {
		out.end(p)
		return
	}
	for _, s := range p.Steps {
		if err := e.act(ctx, s.Act); err != nil {
			out.fail(ctx, fmt.Errorf("%s: %w", s.Words, err))
			return
		}
		out.Steps = append(out.Steps, s.Words)
	}
	out.Result = Done
}

// RejoinPlan is what Rejoin would do.
func RejoinPlan(f Facts, mode RejoinMode, s Settings) Plan {
	l := f.Local
	begin := fmt.Sprintf("stop %s, rewind it", f.Node)
	if l.Role == RoleDown {
		begin = "rewind " + f.Node
	}
	rewind := Step{Words: fmt.Sprintf("%s by pg_rewind once %s has checkpointed, start it as a standby of the VIP", begin, f.VIP.where())}
	clone := Step{Words: fmt.Sprintf("copy %s into a new directory, stop %s, swap the directories (the old one is kept until the new standby streams), start it as a standby of the VIP", f.VIP.where(), f.Node)}
	switch {
	case l.Role == RoleUnknown:
		return refuse(WaitNone, "the server on %s can't be observed: %s", f.Node, l.Problem)
	case mode == RejoinAuto && l.Role == RoleStandby && l.Streaming && l.Agrees && l.Upstream == f.VIPAddr.String() && l.Phase == PhaseNone:
		return nothing("%s is a standby and streams from the VIP %s", f.Node, f.VIPAddr)
	case f.VIP.Reach != Primary:
		return refuse(WaitNone, "no primary answers at the VIP %s (%s): there is nothing to rejoin", f.VIPAddr, strings.TrimSpace(string(f.VIP.Reach)+" "+f.VIP.Reason))
	case l.SystemID != 0 && l.SystemID != f.VIP.SystemID:
		return refuse(WaitNone, "%s belongs to another cluster: its system identifier is %d, ours %d", f.VIP.where(), f.VIP.SystemID, l.SystemID)
	case f.VIPHere, l.Role == RolePrimary && l.Position == f.VIP.Position:
		return refuse(WaitNone, "%s is the primary at the VIP itself", f.Node)
	case mode == RejoinReclone:
		return do(false, clone)
	case l.Phase == PhaseRewinding && mode == RejoinRewind:
		return refuse(WaitNone, "an earlier rewind was broken off: %s; only a new copy helps: pgnotify rejoin --reclone", l.PhaseWhy)
	case l.Phase == PhaseRewinding && !s.Reclone:
		return refuse(WaitNone, "an earlier rewind was broken off: %s; pgnotify rejoin --reclone makes a new copy", l.PhaseWhy)
	case l.Phase == PhaseRewinding:
		return do(false, clone)
	case mode == RejoinRewind:
		return do(false, rewind)
	case l.Role == RolePrimary || l.Role == RoleRecovering:
		return f.stopToRejoin(s)
	case l.Diverged && s.Rewind:
		if s.Reclone {
			rewind.Words += "; if that fails, clone it"
		}
		return do(false, rewind)
	case l.Diverged && s.Reclone:
		return do(false, clone)
	case l.Diverged:
		return refuse(WaitNone, "the WAL of %s has diverged, and the settings allow neither rewind nor a new copy: pgnotify rejoin --rewind or --reclone", f.Node)
	}
	return do(false, Step{Act: ActStartStandby, Words: fmt.Sprintf("stream from the VIP %s, as a standby", f.VIPAddr)})
}

// stopToRejoin is the plan for a server that runs as a primary: where its WAL ends shows when it has stopped, and what follows hangs on that.
func (f Facts) stopToRejoin(s Settings) Plan {
	stop := Step{Act: ActStop, Words: fmt.Sprintf("stop %s fast: it is %s", f.Node, describe(f.Local))}
	f.Local.Role = RoleDown
	next := RejoinPlan(f, RejoinAuto, s)
	if next.Refusal != "" {
		return next
	}
	then := next.Steps[0].Words
	if !f.Local.Diverged {
		f.Local.Diverged = true
		if p := RejoinPlan(f, RejoinAuto, s); p.Refusal != "" {
			then += "; if its WAL has diverged then, leave it stopped: " + p.Refusal
		} else {
			then += "; if its WAL has diverged then, " + p.Steps[0].Words
		}
	}
	return do(false, stop, Step{Words: then})
}

// LookToRejoin gathers what RejoinPlan needs.
func (e *Engine) LookToRejoin(ctx context.Context) Facts {
	f := e.lookAtVIP(ctx)
	if f.VIP.Reach == Primary && f.Local.Role == RolePrimary {
		f.Local = e.local(ctx) // compare positions of the same moment when it is we who answer at the VIP
	}
	return f
}

// Rejoin brings the server back as a standby of the VIP and returns when it streams.
func (e *Engine) Rejoin(ctx context.Context, mode RejoinMode) Outcome {
	start := time.Now()
	out := Outcome{Event: Event{ByHand: true}}
	err := e.rejoin(ctx, mode, &out)
	if err != nil {
		out.fail(ctx, err)
	}
	out.Took = time.Since(start)
	e.note("rejoin", out)
	return out
}

func (e *Engine) rejoin(ctx context.Context, mode RejoinMode, out *Outcome) error {
	if e.spares(ctx, out, func(ctx context.Context) Plan { return RejoinPlan(e.LookToRejoin(ctx), mode, e.Settings) }) {
		return nil
	}
	unlock, err := e.takeRejoin(ctx, "rejoin", out)
	if err != nil {
		return err
	}
	defer unlock()
	wanted := func() error { return context.Cause(ctx) }
	f := e.LookToRejoin(ctx)
	plan := RejoinPlan(f, mode, e.Settings)
	if len(plan.Steps) == 0 {
		out.end(plan)
		return nil
	}
	if plan.Steps[0].Act == ActStop {
		if err := e.work(ctx, "stop to rejoin", wanted, func() error { return e.stop(ctx) }); err != nil {
			return err
		}
		out.Steps = append(out.Steps, plan.Steps[0].Words)
		f = e.LookToRejoin(ctx)
		if plan = RejoinPlan(f, mode, e.Settings); plan.Refusal != "" {
			return &RefusedError{plan.Refusal}
		}
	}
	if mode != RejoinAuto || f.Local.Diverged || f.Local.Phase == PhaseRewinding {
		steps, err := e.rebuild(ctx, mode, e.Settings.VIP, f, wanted)
		out.Steps = append(out.Steps, steps...)
		if err != nil {
			return err
		}
	} else {
		if err := e.startFollowing(ctx, wanted); err != nil {
			return err
		}
		out.Steps = append(out.Steps, plan.Steps[0].Words)
	}
	if err := e.awaitStreaming(ctx); err != nil {
		return err
	}
	out.Result = Done
	return nil
}

// awaitStreaming waits until the server streams from the primary at the VIP, and then ends the rebuild.
func (e *Engine) awaitStreaming(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, e.Settings.Timeouts.Streaming)
	defer cancel()
	for {
		f := e.lookAtVIP(ctx)
		if e.streams(f) {
			return e.settled()
		}
		if ctx.Err() != nil {
			return fmt.Errorf("the server is %s, but does not stream from a primary at %s whose history it shares, after %s: see its log", describe(e.local(context.WithoutCancel(ctx))), e.Settings.VIP, e.Settings.Timeouts.Streaming)
		}
		pause(ctx, 50*time.Millisecond)
	}
}

// CloneSource resolves what --from names: a node of the settings, else an address.
func (s Settings) CloneSource(from string) (netip.Addr, error) {
	if from == s.Node {
		return netip.Addr{}, fmt.Errorf("%s is this node itself", from)
	}
	if addrs := s.Peers[from]; len(addrs) > 0 {
		return addrs[0], nil
	}
	a, err := address(from)
	if err != nil {
		return a, fmt.Errorf("%q is no node of %s and no address", from, s.File)
	}
	for _, own := range s.Peers[s.Node] {
		if own == a {
			return a, fmt.Errorf("%s is this node itself", from)
		}
	}
	return a, nil
}

// ClonePlan is what CloneFrom would do with an existing data directory.
func ClonePlan(f Facts, source Answer) Plan {
	l := f.Local
	switch {
	case source.Reach != Primary && source.Reach != Standby:
		return refuse(WaitNone, "%s can't be cloned: %s %s", source.where(), source.Reach, source.Reason)
	case l.Role == RoleUnknown:
		return refuse(WaitNone, "the server on %s can't be observed: %s", f.Node, l.Problem)
	case l.Role == RolePrimary || l.Role == RoleRecovering:
		return refuse(WaitNone, "the server on %s is %s; pgnotify demote or stop first", f.Node, describe(l))
	case l.SystemID != 0 && l.SystemID != source.SystemID:
		return refuse(WaitNone, "%s belongs to another cluster: its system identifier is %d, ours %d", source.where(), source.SystemID, l.SystemID)
	}
	return do(false,
		Step{Words: fmt.Sprintf("copy %s into a new directory beside the data directory", source.where())},
		Step{Words: fmt.Sprintf("stop %s if it runs, swap the directories and keep the old one", f.Node)},
		Step{Words: fmt.Sprintf("start it as a standby of the VIP %s", f.VIPAddr)})
}

// LookToClone gathers what ClonePlan needs.
func (e *Engine) LookToClone(ctx context.Context, from netip.Addr) (Facts, Answer) {
	f := e.facts()
	f.Local = e.local(ctx)
	return f, e.ask(ctx, "the source", from)
}

// CloneFrom makes the data directory a fresh copy of another server and starts it as a standby of the VIP.
func (e *Engine) CloneFrom(ctx context.Context, from netip.Addr) Outcome {
	start := time.Now()
	out := Outcome{Event: Event{ByHand: true}}
	err := func() error {
		if e.spares(ctx, &out, func(ctx context.Context) Plan { return ClonePlan(e.LookToClone(ctx, from)) }) {
			return nil
		}
		unlock, err := e.takeRejoin(ctx, "clone", &out)
		if err != nil {
			return err
		}
		defer unlock()
		plan := ClonePlan(e.LookToClone(ctx, from))
		if len(plan.Steps) == 0 {
			out.end(plan)
			return nil
		}
		if err := e.clone(ctx, from, func() error { return context.Cause(ctx) }); err != nil {
			return err
		}
		for _, s := range plan.Steps {
			out.Steps = append(out.Steps, s.Words)
		}
		out.Result = Done
		return e.afterClone(ctx, &out)
	}()
	if err != nil {
		out.fail(ctx, err)
	}
	out.Took = time.Since(start)
	e.note("clone", out)
	return out
}

// afterClone waits for streaming if there is a primary at the VIP to stream from.
func (e *Engine) afterClone(ctx context.Context, out *Outcome) error {
	if e.lookAtVIP(ctx).VIP.Reach != Primary {
		out.Note = "no primary answers at the VIP yet; the standby follows as soon as one does"
		return nil
	}
	return e.awaitStreaming(ctx)
}

// Fresh is a host without data: CloneFresh makes a whole standby of it.
type Fresh struct {
	Settings Settings
	Network  Network
	Store    *Store
	Clone    func(ctx context.Context, o postgres.CloneOptions) error
	BinDir   func(version int) string // where the programs of a server_version_num are, for settings without bin_dir
	User     string                   // who shall own the data
	Open     func() (*Engine, error)  // opens the new data directory
	Progress func(what string) (set postgres.Progress, end func())
}

// Look asks the source.
func (fr Fresh) Look(ctx context.Context, from netip.Addr) Answer {
	e := Engine{Settings: fr.Settings, Network: fr.Network}
	return e.ask(ctx, "the source", from)
}

// Plan is what Run would do.
func (fr Fresh) Plan(source Answer) Plan {
	if source.Reach != Primary && source.Reach != Standby {
		return refuse(WaitNone, "%s can't be cloned: %s %s", source.where(), source.Reach, source.Reason)
	}
	return do(false,
		Step{Words: fmt.Sprintf("copy %s into %s", source.where(), fr.Settings.DataDir)},
		Step{Words: fmt.Sprintf("start it as a standby of the VIP %s", fr.Settings.VIP)})
}

// Run makes the copy, starts it and waits until it streams if there is somebody to stream from.
func (fr Fresh) Run(ctx context.Context, from netip.Addr) Outcome {
	start := time.Now()
	out := Outcome{Event: Event{ByHand: true}}
	var e *Engine
	err := func() error {
		ended, unlock, err := fr.Store.TakeRejoin(ctx, "clone by hand", fr.Settings.Timeouts.Lock)
		if err != nil {
			return err
		}
		defer func() {
			unlock()
			if e != nil {
				e.resume(ended, "clone", &out)
			}
		}()
		source := fr.Look(ctx, from)
		plan := fr.Plan(source)
		if plan.Refusal != "" {
			out.end(plan)
			return nil
		}
		bin := fr.Settings.BinDir
		if bin == "" {
			bin = fr.BinDir(source.Version)
		}
		why := "cloned from " + from.String()
		if err := fr.Store.SetRebuild(Rebuild{Phase: PhaseRewinding, Why: why + ", which did not end"}); err != nil {
			return err
		}
		set, end := fr.Progress("clone")
		err = fr.Clone(ctx, postgres.CloneOptions{BinDir: bin, Conninfo: fr.Settings.Source(from.String(), ""), Dir: fr.Settings.DataDir, User: fr.User, Progress: set})
		end()
		if err != nil {
			return errors.Join(fmt.Errorf("clone from %s: %w", from, err), fr.Store.SetRebuild(Rebuild{}))
		}
		if err := fr.Store.SetRebuild(Rebuild{Phase: PhaseRewound, Why: why}); err != nil {
			return err
		}
		out.Steps = append(out.Steps, plan.Steps[0].Words)
		if e, err = fr.Open(); err != nil {
			return err
		}
		if err := e.startFollowing(ctx, func() error { return context.Cause(ctx) }); err != nil {
			return err
		}
		out.Steps = append(out.Steps, plan.Steps[1].Words)
		out.Result = Done
		return e.afterClone(ctx, &out)
	}()
	if err != nil {
		out.fail(ctx, err)
	}
	out.Took = time.Since(start)
	if e != nil {
		e.note("clone", out)
	}
	return out
}

// SwitchoverPlan checks that the primary could move away from here: to a node, or to any if to is "".
func (e *Engine) SwitchoverPlan(ctx context.Context, to string) Plan {
	f := e.Look(ctx)
	if f.Local.Role != RolePrimary {
		return refuse(WaitNone, "%s is %s: run this on the primary", f.Node, describe(f.Local))
	}
	srv, err := e.Server.Facts(ctx)
	if err != nil {
		return refuse(WaitNone, "the server on %s can't be observed: %v", f.Node, err)
	}
	streaming := map[string]bool{}
	for _, r := range srv.ReplicationState {
		streaming[r.Name] = r.State == "streaming"
	}
	ready := ""
	for _, a := range f.Peers {
		ok := a.Reach == Standby && a.SystemID == f.Local.SystemID && streaming[a.Name]
		if a.Name == to && !ok {
			return refuse(WaitNone, "%s can't take over: %s %s, streaming from here: %t", a.where(), a.Reach, a.Reason, streaming[a.Name])
		}
		if ok && (to == "" || a.Name == to) {
			ready = a.Name
		}
	}
	if ready == "" {
		return refuse(WaitNone, "no standby is reachable and streams from %s: nobody could take over", f.Node)
	}
	return do(false,
		Step{Words: "CHECKPOINT, so that the stop is short"},
		Step{Words: fmt.Sprintf("stop %s fast while it still has the VIP: every standby that streams receives all of its WAL, and nothing has to be rewound", f.Node)},
		Step{Words: "vrrpd gives the mastership of the VIP away; the hooks promote the next server and start this one as its standby"},
		Step{Words: "wait until another node answers as the primary at the VIP"})
}

// Mastership is the VIP's, which vrrpd gives away at our word.
type Mastership interface {
	MayRelease(ctx context.Context) error // would Release be allowed?
	Release(ctx context.Context) error
}

// Switchover moves the primary away. The server is stopped before the VIP is given away, so that all WAL arrives; if nobody has
// received it, or the VIP can't be given away, it is made the primary here again.
func (e *Engine) Switchover(ctx context.Context, to string, vip Mastership, wait time.Duration) (who string, out Outcome) {
	var since time.Time
	out = e.hand(ctx, "switchover", Event{State: Master, ByHand: true}, nil, func(ctx context.Context, d *drive, out *Outcome) {
		plan := e.SwitchoverPlan(ctx, to)
		if plan.Refusal != "" {
			out.end(plan)
			return
		}
		err := e.Server.Checkpoint(ctx)
		if err != nil {
			out.fail(ctx, err)
			return
		}
		out.Steps = append(out.Steps, plan.Steps[0].Words)
		// The last moment at which a refusal costs nothing: the locks and the CHECKPOINT, which a newer state breaks off, may have taken long.
		if err := d.stillNewest(); err != nil {
			out.fail(ctx, err)
			return
		}
		if err := vip.MayRelease(ctx); err != nil {
			out.fail(ctx, &RefusedError{fmt.Sprintf("the server goes on: vrrpd does not give the VIP away: %v", err)})
			return
		}
		since = time.Now()
		// Not to be broken off by an interrupt: it ends with the VIP given away, or with a primary here again, unless that is not to be one any more.
		ctx = context.WithoutCancel(ctx)
		if err = e.stop(ctx); err == nil {
			out.Steps = append(out.Steps, plan.Steps[1].Words)
			if err = e.received(ctx, to); err == nil {
				if err = vip.Release(ctx); err == nil {
					out.Steps = append(out.Steps, plan.Steps[2].Words)
					out.Result = Done
					return
				}
			}
		}
		out.fail(ctx, err)
		back := Outcome{Event: out.Event}
		d.run(ctx, &back)
		if back.Err != nil {
			out.Err = fmt.Errorf("%w; and %s is not the primary again: %w", out.Err, e.Settings.Node, back.Err)
		} else {
			out.Err = fmt.Errorf("%w; %s is the primary again", out.Err, e.Settings.Node)
		}
	})
	if out.Result != Done {
		return "", out
	}
	wctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	who, err := e.AwaitMove(wctx)
	if err == nil && to != "" && who != to {
		err = fmt.Errorf("%s took over, not %s: its priority is higher, or it did not hear %[2]s in time", who, to)
	}
	if err != nil {
		out.Result, out.Err = Failed, err
		return who, out
	}
	out.Took = time.Since(since)
	out.Steps = append(out.Steps, "wait until another node answers as the primary at the VIP")
	return who, out
}

// received waits a moment for proof that a standby, or the one named to, has our shutdown checkpoint.
func (e *Engine) received(ctx context.Context, to string) error {
	mine := e.local(ctx)
	if mine.Role != RoleDown {
		return fmt.Errorf("the server on %s is %s, want it stopped", e.Settings.Node, describe(mine))
	}
	targets := e.targets()
	delete(targets, vipName)
	if to != "" {
		targets = map[string][]netip.Addr{to: e.Settings.Peers[to]}
	}
	for end := time.Now().Add(2 * time.Second); ; pause(ctx, retryEvery) {
		for _, a := range e.askAll(ctx, targets).answers {
			if a.Reach == Standby && a.SystemID == mine.SystemID && a.Position.Compare(mine.Position) >= 0 { // ours is the end of the shutdown checkpoint
				return nil
			}
		}
		if time.Now().After(end) {
			return fmt.Errorf("no standby has received all WAL of %s (%s)", e.Settings.Node, mine.Position)
		}
	}
}
