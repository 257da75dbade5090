package promote

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"pgvrrp/internal/postgres"
)

// RejoinMode says how to bring a server back that can't follow as it is.
type RejoinMode string

// The modes. Auto rewinds, and clones if that can't be done, each if the settings allow it.
const (
	RejoinAuto    RejoinMode = ""
	RejoinRewind  RejoinMode = "rewind"
	RejoinReclone RejoinMode = "reclone"
)

// still says whether work behind a hook is still wanted: nil, an *OvertakenError, or why that can't be known.
type still func() error

// Follow is the long work behind a BACKUP: it ends when the server streams from the VIP, and rewinds or clones it when its
// WAL has diverged. It gives way to any state but BACKUP. With an instance of "" that is any virtual router's.
func (e *Engine) Follow(ctx context.Context, instance string) Outcome {
	start := time.Now()
	out := Outcome{Event: Event{Name: instance, State: Backup}}
	told, err := e.Store.Mark()
	if err != nil {
		out.fail(ctx, err)
		return out
	}
	// One that is about to give way holds the lock for a moment more; one that goes on does our work.
	lctx, cancel := context.WithTimeoutCause(ctx, 3*time.Second, errors.New("another rejoin is at work"))
	defer cancel()
	unlock, err := e.Store.lockRejoin(lctx, following, instance, nil)
	if err != nil {
		out.Result, out.Note = Nothing, err.Error()
		return out
	}
	defer unlock()
	wanted := func() error {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		if instance == "" {
			return e.Store.NoneSince(told, Backup)
		}
		return e.Store.StillIn(instance, Backup)
	}
	out.Steps, err = e.follow(ctx, wanted)
	out.Result = Done
	if err != nil {
		out.fail(ctx, err)
	}
	out.Took = time.Since(start)
	e.note("follow", out)
	return out
}

// rebuildTries is how often a rebuild that failed is tried again while a primary is there; then somebody has to look.
const rebuildTries = 3

func (e *Engine) follow(ctx context.Context, wanted still) (steps []string, err error) {
	var stuck time.Time
	var position postgres.Position
	tries, last := 0, ""
	say := func(text string) {
		if text != last {
			e.Log.Info("following the VIP", "reason", text)
			last = text
		}
	}
	const soon = 10 * time.Millisecond
	wait := soon
	for ; ; pause(ctx, wait) {
		wait = min(wait+wait/2, time.Second)
		if err := wanted(); err != nil {
			return steps, err
		}
		f := e.lookAtVIP(ctx)
		l := f.Local
		stands := f.VIP.Reach == Primary
		if l.Role != RoleStandby || !stands || l.Position != position { // one that replays its own WAL first asks for none
			stuck, position = time.Time{}, l.Position
		}
		switch {
		case e.streams(f):
			if err := e.settled(); err != nil {
				return steps, err
			}
			return append(steps, "streams from the VIP"), nil
		case stands && l.SystemID != 0 && f.VIP.SystemID != l.SystemID:
			return steps, &RefusedError{fmt.Sprintf("%s belongs to another cluster: its system identifier is %d, ours %d", f.VIP.where(), f.VIP.SystemID, l.SystemID)}
		case l.Role == RolePrimary || l.Role == RoleRecovering:
			return steps, &RefusedError{"the server is " + describe(l)}
		case l.Role == RoleUnknown:
			return steps, errors.New("the server can't be observed: " + l.Problem)
		case stands && (l.Diverged || l.Phase == PhaseRewinding):
			if l.Diverged && l.Phase != PhaseRewinding {
				why := fmt.Sprintf("its WAL ends at %s, which is not in the history of %s, %s", l.Position, f.VIP.where(), f.VIP.Position)
				if err := e.Store.SetRebuild(Rebuild{Phase: PhaseDiverged, Why: why}); err != nil {
					return steps, err
				}
				say("diverged: " + why)
			}
			done, err := e.rebuild(ctx, RejoinAuto, e.Settings.VIP, f, wanted)
			steps = append(steps, done...)
			if err == nil {
				wait = soon
				continue
			}
			var over *OvertakenError
			var refused *RefusedError
			var source *sourceError
			if !errors.As(err, &source) {
				tries++
			}
			if tries == rebuildTries || errors.As(err, &over) || errors.As(err, &refused) {
				return steps, err
			}
			e.Log.Warn("rebuild failed, trying again", "reason", err)
			wait = 5 * time.Second
		case l.Role == RoleDown && l.Phase != PhaseRewinding && l.Phase != PhaseDiverged && !l.Diverged:
			return steps, &RefusedError{"the server is not running any more"}
		case l.Role == RoleStandby && stands && l.Upstream == e.Settings.VIP.String():
			if stuck.IsZero() {
				stuck = time.Now()
			}
			if time.Since(stuck) > e.Settings.Timeouts.Streaming {
				if l.Streaming {
					return steps, fmt.Errorf("streams, but for %s the history of %s could not be read, so that nobody knows whether its WAL has diverged", e.Settings.Timeouts.Streaming, f.VIP.where())
				}
				return steps, fmt.Errorf("has not diverged, but does not stream from %s for %s: see the server's log; if WAL that it needs was removed there, pgnotify rejoin --reclone", f.VIP.where(), e.Settings.Timeouts.Streaming)
			}
			say("not streaming yet")
		case !stands:
			say(fmt.Sprintf("no primary at the VIP: %s %s", f.VIP.Reach, f.VIP.Reason))
		default:
			say("the server is " + describe(l))
		}
	}
}

// streams reports whether our server is a standby of the primary at the VIP, for good. A diverged one streams for moments too, up to where the
// timelines part, again and again; and as long as it likes from a server at the VIP that is promoted only then, behind our end.
func (e *Engine) streams(f Facts) bool {
	l := f.Local
	return l.Role == RoleStandby && l.Streaming && l.Agrees && l.Upstream == e.Settings.VIP.String() && l.Phase != PhaseRewinding
}

// lookAtVIP is our own server and the VIP.
func (e *Engine) lookAtVIP(ctx context.Context) Facts {
	f := e.facts()
	f.Local = e.local(ctx)
	f.VIP = e.askAll(ctx, map[string][]netip.Addr{vipName: {e.Settings.VIP}}).answers[vipName]
	var err error
	if f.VIPHere, err = e.Network.Holds(e.Settings.VIP); err != nil {
		f.VIP.Reach, f.VIP.Reason = CantTell, err.Error()
	}
	e.compare(ctx, &f)
	return f
}

// settled tells that the server streams or was promoted, so that its data is good.
func (e *Engine) settled() error {
	return e.Store.Settle(e.Log, e.Settings.DataDir, e.Settings.KeepOldData)
}

// Settle ends the rebuild that is noted, because the new data serve, and removes the old ones unless they are to be kept. Old data that can't be
// removed are a warning.
func (s *Store) Settle(log *slog.Logger, dataDir string, keepOld bool) error {
	r, err := s.Rebuild()
	if err != nil || r.Phase == PhaseNone {
		return err
	}
	s.RemoveUnused(log, dataDir)
	if err := s.SetRebuild(Rebuild{}); err != nil || r.Old == "" || keepOld {
		return err
	}
	log.Info("removing the old data", "directory", r.Old)
	if err := RemoveBeside(dataDir, r.Old); err != nil {
		log.Warn("remove the old data", "reason", err)
	}
	return nil
}

func (e *Engine) removeBeside(dir string) error { return RemoveBeside(e.Settings.DataDir, dir) }

// RemoveBeside removes a directory that we made beside the data directory, and no other.
func RemoveBeside(dataDir, dir string) error {
	name, copied := filepath.Base(filepath.Clean(dataDir)), filepath.Base(dir)
	place, err := placeOf(dataDir)
	if err != nil {
		return err
	}
	if !strings.HasPrefix(copied, name) {
		name = filepath.Base(place)
	}
	if filepath.Clean(dir) == place || !isBeside(dataDir, dir) || len(copied) <= len(name) || !strings.HasPrefix(copied, name) {
		return fmt.Errorf("remove %s: it is not a directory of ours beside %s", dir, dataDir)
	}
	return os.RemoveAll(dir)
}

// work takes the data directory for one change.
func (e *Engine) work(ctx context.Context, what string, wanted still, change func() error) error {
	unlock, err := e.lock(ctx, what, wanted)
	if err != nil {
		return err
	}
	defer unlock()
	if err := wanted(); err != nil {
		return err
	}
	return change()
}

func (e *Engine) startFollowing(ctx context.Context, wanted still) error {
	return e.work(ctx, "start as a standby", wanted, func() error {
		if err := e.act(ctx, ActSetUpstream); err != nil {
			return err
		}
		return e.act(ctx, ActStartStandby)
	})
}

// rebuild makes the data directory follow from again: by pg_rewind, else by a new copy. It returns with the server started
// as a standby; follow sees that it streams.
func (e *Engine) rebuild(ctx context.Context, mode RejoinMode, from netip.Addr, f Facts, wanted still) (steps []string, err error) {
	rewind := mode == RejoinRewind || mode == RejoinAuto && e.Settings.Rewind
	clone := mode == RejoinReclone || mode == RejoinAuto && e.Settings.Reclone
	if f.Local.Twin && rewind {
		if mode == RejoinRewind {
			return nil, &RefusedError{fmt.Sprintf("its timeline has the number of %s's and is another one, which pg_rewind can't tell; only a new copy helps: pgnotify rejoin --reclone", f.VIP.where())}
		}
		rewind = false
	}
	if f.Local.Phase == PhaseRewinding {
		if mode == RejoinRewind {
			return nil, &RefusedError{"an earlier rewind was broken off: " + f.Local.PhaseWhy + "; only a new copy helps: pgnotify rejoin --reclone"}
		}
		rewind = false
	}
	var why error
	if rewind {
		if why = e.rewind(ctx, from, wanted); why == nil {
			return []string{"rewound to the history of " + from.String()}, nil
		}
		var over *OvertakenError
		var refused *RefusedError
		var source *sourceError
		if errors.As(why, &over) || errors.As(why, &refused) || errors.As(why, &source) || ctx.Err() != nil {
			return nil, why
		}
		e.Log.Warn("rewind failed", "reason", why)
	}
	if !clone {
		if why != nil {
			return nil, &RefusedError{fmt.Sprintf("%v; a new copy is not allowed here: pgnotify rejoin --reclone makes one", why)}
		}
		return nil, &RefusedError{"its WAL has diverged, and the settings allow neither rewind nor a new copy: pgnotify rejoin --rewind or --reclone"}
	}
	if err := e.clone(ctx, from, wanted); err != nil {
		return nil, errors.Join(why, err)
	}
	return []string{"cloned anew from " + from.String()}, nil
}

// sourceError says that the server to rewind from could not be asked: that says nothing about ours, and no copy would be any better.
type sourceError struct{ error }

func (e *sourceError) Unwrap() error { return e.error }

// mayPass reports whether an answer to RewindReady may be another one soon: anything but that a rewind is not possible or not permitted.
func mayPass(err error) bool {
	code := postgres.SQLState(err) // classes 28 and 42: who may connect, and what they may do ("Appendix A" in the manual)
	return err != nil && !errors.Is(err, postgres.ErrNotRewindable) && !strings.HasPrefix(code, "28") && !strings.HasPrefix(code, "42")
}

// mayStop is nil if the server may be stopped for what was begun when it was seen as was: not if it became a primary meanwhile.
func (e *Engine) mayStop(ctx context.Context, was Local) error {
	if now := e.local(ctx); now.leads() && !was.leads() || now.Role == RoleUnknown {
		return &RefusedError{fmt.Sprintf("the server on %s is not what it was when this began, it is left alone: it is %s", e.Settings.Node, describe(now))}
	}
	return nil
}

func (e *Engine) rewind(ctx context.Context, from netip.Addr, wanted still) error {
	source := e.Settings.Source(from.String(), "postgres")
	was, said := e.local(ctx), ""
	for began := time.Now(); ; {
		if err := wanted(); err != nil {
			return err
		}
		err := e.Server.RewindReady(ctx, source)
		if err == nil {
			break
		}
		if errors.Is(err, postgres.ErrNotCheckpointed) {
			began = time.Now()
		}
		err = fmt.Errorf("rewind from %s: %w", from, err)
		if !mayPass(err) {
			return err
		}
		if time.Since(began) > e.Settings.Timeouts.Streaming {
			return &sourceError{err}
		}
		if err.Error() != said {
			said = err.Error()
			e.Log.Info("waiting before the rewind", "reason", err)
		}
		pause(ctx, 200*time.Millisecond)
	}
	return e.work(ctx, "rewind from "+from.String(), wanted, func() error {
		if err := e.mayStop(ctx, was); err != nil {
			return err
		}
		if err := e.stop(ctx); err != nil {
			return err
		}
		why := fmt.Sprintf("pg_rewind from %s", from)
		if err := e.Store.SetRebuild(Rebuild{Phase: PhaseRewinding, Why: why}); err != nil {
			return err
		}
		set, end := e.Progress("rewind")
		// From here on it is finished, whatever comes: half rewound files are good for nothing.
		err := e.Server.Rewind(context.WithoutCancel(ctx), source, set)
		end()
		if err != nil {
			if !e.Server.RewindIncomplete() { // nothing was changed
				merr := e.Store.SetRebuild(Rebuild{Phase: PhaseDiverged, Why: "rewind failed: " + err.Error()})
				if err = fmt.Errorf("rewind from %s: %w", from, err); mayPass(e.Server.RewindReady(ctx, source)) && mayPass(err) {
					err = &sourceError{err}
				}
				return errors.Join(err, merr)
			}
			return errors.Join(fmt.Errorf("rewind from %s: %w", from, err), e.Store.SetRebuild(Rebuild{Phase: PhaseRewinding, Why: why + " failed: " + err.Error()}))
		}
		if err := e.Store.SetRebuild(Rebuild{Phase: PhaseRewound, Why: why}); err != nil {
			return err
		}
		if err := e.Store.Keep(keptTimeline, timeline{}); err != nil {
			return err
		}
		if err := e.act(context.WithoutCancel(ctx), ActSetUpstream); err != nil {
			return err
		}
		return e.act(ctx, ActStartStandby)
	})
}

// clone copies into a new directory while the old one stays as it is, then swaps them.
func (e *Engine) clone(ctx context.Context, from netip.Addr, wanted still) error {
	if err := e.Store.RemoveLeft(e.Log, e.Settings.DataDir); err != nil {
		return err
	}
	if _, err := CopyPlace(e.Settings.DataDir); err != nil {
		return err
	}
	dir := e.Server.NewDir()
	if _, err := os.Lstat(dir); !errors.Is(err, os.ErrNotExist) { // what a clone of ours left is gone by now
		return &RefusedError{fmt.Sprintf("%s is in the way of the copy, and was not made by a clone that broke off: move it away", dir)}
	}
	was := e.local(ctx)
	if err := e.Store.SetCloning(dir); err != nil {
		return err
	}
	cctx, cancel := watch(ctx, 50*time.Millisecond, wanted) // gives way to a newer state
	defer cancel()
	set, end := e.Progress("clone")
	err := e.Clone(cctx, postgres.CloneOptions{BinDir: e.BinDir, Conninfo: e.Settings.Source(from.String(), ""), Dir: dir, Progress: set})
	end()
	if err != nil {
		if cause := context.Cause(cctx); cause != nil {
			err = cause
		}
		return errors.Join(fmt.Errorf("clone from %s: %w", from, err), e.removeBeside(dir), e.Store.SetCloning(""))
	}
	err = e.work(ctx, "swap in the clone from "+from.String(), wanted, func() error {
		before, err := e.Store.Rebuild()
		if err != nil {
			return err
		}
		if err := e.mayStop(ctx, was); err != nil {
			return errors.Join(err, e.removeBeside(dir), e.Store.SetCloning(""))
		}
		role := e.local(ctx).Role
		if err := e.stop(ctx); err != nil {
			return err
		}
		why := "cloned from " + from.String()
		if err := e.Store.Swapping(dir, why); err != nil {
			return err
		}
		old, err := e.Server.Swap(dir)
		if err != nil {
			return errors.Join(err, e.unswapped(context.WithoutCancel(ctx), dir, before, role))
		}
		e.Log.Info("data directory swapped", "old", old)
		if err := errors.Join(e.Store.Swapped(old, why), e.Store.Keep(keptTimeline, timeline{})); err != nil {
			return err
		}
		if err := e.act(context.WithoutCancel(ctx), ActSetUpstream); err != nil {
			return err
		}
		return e.act(ctx, ActStartStandby)
	})
	if err == nil {
		e.Store.RemoveUnused(e.Log, e.Settings.DataDir)
	}
	return err
}

// unswapped leaves the old data as it was when a copy could not take its place: the copy goes, and a standby runs again.
func (e *Engine) unswapped(ctx context.Context, dir string, before Rebuild, was Role) error {
	if _, err := os.Stat(e.Settings.DataDir); err != nil {
		return err // the copy may be all there is
	}
	errs := []error{e.removeBeside(dir), e.Store.SetCloning(""), e.Store.SetRebuild(before)}
	if was == RoleStandby || was == RoleStarting {
		errs = append(errs, e.act(ctx, ActStartStandby))
	}
	return errors.Join(errs...)
}

// AfterPromote is what goes behind a promotion: pg_switch_wal, so that the archive gets the last segment of the old
// timeline's tail, and a checkpoint, so that others can rewind from us and a crash recovers fast. A newer state ends it.
func (e *Engine) AfterPromote(ctx context.Context, instance string) Outcome {
	start := time.Now()
	out := Outcome{Event: Event{Name: instance, State: Master}}
	if instance != "" {
		wanted := func() error { return e.Store.StillIn(instance, Master) }
		if err := wanted(); err != nil {
			out.fail(ctx, err)
			return out
		}
		var cancel context.CancelFunc
		ctx, cancel = watch(ctx, 50*time.Millisecond, wanted)
		defer cancel()
	}
	var err error
	if to := e.local(ctx).Upstream; to != e.Settings.VIP.String() { // it caught up from another node; a primary has no use for it
		err = e.setUpstream(ctx, e.Settings.VIP)
	}
	if serr := e.Server.SwitchWAL(ctx); serr == nil {
		out.Steps = append(out.Steps, "pg_switch_wal")
	} else {
		err = errors.Join(err, serr)
	}
	if cerr := e.Server.Checkpoint(ctx); cerr == nil {
		out.Steps = append(out.Steps, "CHECKPOINT")
	} else {
		err = errors.Join(err, cerr)
	}
	if e.local(ctx).Role == RolePrimary { // rebuilt, and promoted before anybody saw it stream; or diverged, and the operator said that it counts
		err = errors.Join(err, e.settled())
	}
	out.Result = Done
	if err != nil {
		out.fail(ctx, err)
	}
	out.Took = time.Since(start)
	e.note("after-promote", out)
	return out
}
