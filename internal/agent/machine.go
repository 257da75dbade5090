package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"pgvrrp/internal/agent/core"
	"pgvrrp/internal/files"
	"pgvrrp/internal/postgres"
	"pgvrrp/internal/promote"
)

// Machine is the local PostgreSQL server, or the place where one shall be. What Do is asked for comes one after the other; all else
// may be called at any time.
type Machine struct {
	Settings promote.Settings
	Store    *promote.Store
	Config   postgres.Config
	Log      *slog.Logger
	Now      func() time.Duration // since boot

	// Copy makes a copy of a server; the default is postgres.Clone. BinDir finds the programs for a server_version_num.
	Copy   func(context.Context, postgres.CloneOptions) error
	BinDir func(version int) string

	family *family
	work   atomic.Pointer[string] // what takes long, in words

	mu       sync.Mutex
	srv      *postgres.Server
	drv      *postgres.Driver
	disk     *files.Probe
	seen     postgres.Glance // the last look that was answered
	at       time.Duration   // when that was, or when it was promoted
	promotes bool            // it is being promoted
	known    map[uint32][]core.Fork
	life     postgres.Life // the one that known belongs to
	last     sight
	effort   postgres.Effort // of the startup process of a server that takes no sessions
	unopened string          // why what is in the data directory can't be taken for a server
	idle     time.Duration   // since then it did next to nothing
	weighed  time.Duration   // when it was looked at
}

// The patience of single acts.
const (
	lookTime   = time.Second            // a look
	silence    = time.Second            // a server that answered so long ago, and runs on, may just be busy
	proofTime  = 200 * time.Millisecond // ProveSSN
	probeTime  = time.Second            // a probe of another node's server
	followTime = 300 * time.Millisecond // from a new upstream to its first answer; the looks tell the rest
	killAfter  = 500 * time.Millisecond // a walreceiver that does not end
	aliveTime  = 5 * time.Second        // a start with an upstream, until the postmaster lives
	waitTime   = 30 * time.Second       // a startup process that does nothing for so long waits for WAL that does not come
)

// Open opens the server; a missing or empty data directory is none, and no error.
func (m *Machine) Open() error {
	_, _, err := m.open()
	return err
}

// open is the server, opened now if it is not yet; nil without data. Whoever waits for the disk here holds nobody up.
func (m *Machine) open() (*postgres.Server, *postgres.Driver, error) {
	if srv, drv := m.server(); srv != nil {
		return srv, drv, nil
	}
	empty, err := isEmpty(m.Config.DataDir)
	if err != nil || empty {
		return nil, nil, err
	}
	srv, err := postgres.Open(m.Config)
	if err != nil {
		return nil, nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.srv == nil {
		m.srv, m.drv = srv, postgres.NewDriver(srv)
	}
	return m.srv, m.drv, nil
}

// isEmpty reports whether there are no data: what we have written there ourselves is none.
func isEmpty(dir string) (bool, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return true, nil
	}
	if err != nil {
		return false, fmt.Errorf("look into data directory: %w", err)
	}
	return !slices.ContainsFunc(entries, func(e os.DirEntry) bool {
		return e.Name() != "lost+found" && !slices.Contains(postgres.OurFiles, e.Name())
	}), nil
}

// present is the server as the disk has it now: data may have come since, by a late mount.
func (m *Machine) present() (*postgres.Server, *postgres.Driver, error) {
	srv, drv, err := m.open()
	text := ""
	if err != nil {
		text = err.Error()
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if text != "" && text != m.unopened {
		m.Log.Warn("there is something in the data directory, and it is no server's", "reason", err)
	}
	m.unopened = text
	return srv, drv, err
}

// gone reports whether the data are not there any more, nor anybody who works with them, and forgets the server then.
func (m *Machine) gone() bool {
	empty, err := isEmpty(m.Config.DataDir)
	if err != nil || !empty {
		return false
	}
	m.mu.Lock()
	drv := m.drv
	gone := m.srv != nil && (m.seen.Life == (postgres.Life{}) || m.seen.Life.Gone())
	if gone {
		m.srv, m.drv, m.known, m.seen = nil, nil, nil, postgres.Glance{}
	}
	m.mu.Unlock()
	if gone {
		m.Log.Warn("the data directory is gone or was emptied", "directory", m.Config.DataDir)
		drv.Close()
	}
	return gone
}

// server is the server, nil if there is no data.
func (m *Machine) server() (*postgres.Server, *postgres.Driver) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.srv, m.drv
}

func (m *Machine) mustServer() (*postgres.Server, *postgres.Driver, error) {
	srv, drv := m.server()
	if srv == nil {
		return nil, nil, fmt.Errorf("open %s: there is no data directory", m.Config.DataDir)
	}
	return srv, drv, nil
}

// Close ends the sessions with the server.
func (m *Machine) Close() {
	if _, drv := m.server(); drv != nil {
		drv.Close()
	}
}

// Version is the server's major version, "" without data.
func (m *Machine) Version() string {
	srv, _ := m.server()
	if srv == nil {
		return ""
	}
	return fmt.Sprint(srv.Version())
}

// Work says in words what takes long, "" if nothing does.
func (m *Machine) Work() string {
	if p := m.work.Load(); p != nil {
		return *p
	}
	return ""
}

// lifeNumber packs a postmaster's life into a number; pids are below 1<<22 (proc_sys_kernel(5), pid_max).
func lifeNumber(l postgres.Life) uint64 { return l.Ticks<<22 | uint64(l.PID)&(1<<22-1) }

// lifePID takes the process number out again.
func lifePID(n uint64) int { return int(n & (1<<22 - 1)) }

// Look looks at the server. It is not ok if nothing can be said: the server was there a moment ago, lives, and did not answer in time.
func (m *Machine) Look(ctx context.Context) (s core.Server, ok bool) {
	s.At = m.Now()
	srv, drv, _ := m.present()
	if srv == nil {
		s.NoData = true // what is there instead, if anything, keeps a copy from being made
		return s, true
	}
	lctx, cancel := context.WithTimeout(ctx, lookTime)
	defer cancel()
	g, err := drv.Glance(lctx)
	down := errors.Is(err, postgres.ErrNotRunning)
	if down && g.Control == (postgres.ControlData{}) && m.gone() {
		s.NoData = true
		return s, true
	}
	s.SystemID = g.Control.SystemID
	if !g.Answered && !down && g.Control.State == postgres.StateShutDown {
		// Whoever waits for its end need not wait for its archiver.
		var aerr error
		if s.Archives, aerr = srv.Archiving(); aerr != nil {
			m.Log.Debug("whether only the archiver is left can't be told", "reason", aerr)
		}
		down = s.Archives
	}
	switch {
	case g.Answered:
		m.answered(&s, srv, g)
	case down:
		s.Clean = g.Control.State == postgres.StateShutDown
		s.Pos = endOf(g.Control)
		s.History = m.history(srv, g.Life, s.Pos.TLI)
	case g.Life != (postgres.Life{}):
		s.Running, s.Postmaster, s.Recovers = true, lifeNumber(g.Life), g.Control.State == postgres.StateInCrashRecovery
		m.mu.Lock()
		// A promotion ends with a checkpoint's worth of fsync. On a slow disk it does not answer meanwhile, and whoever promotes it waits
		// for it with a deadline of its own.
		recent := m.seen.Life == g.Life && (m.promotes || s.At < m.at+silence)
		m.mu.Unlock()
		if recent && lctx.Err() != nil || ctx.Err() != nil {
			return s, false
		}
		m.Log.Debug("the server does not answer", "reason", err)
		idle := m.idleFor(srv, s.At)
		s.Idle, s.Waits = idle > 0, !s.Recovers && idle >= waitTime
	default:
		m.Log.Debug("the server can't be observed", "reason", err)
		m.mu.Lock()
		last := m.seen.Life
		m.mu.Unlock()
		return s, last.Gone() // then it is down, whatever its files say
	}
	return s, true
}

func (m *Machine) answered(s *core.Server, srv *postgres.Server, g postgres.Glance) {
	m.mu.Lock()
	m.seen, m.at = g, s.At
	m.mu.Unlock()
	s.Running, s.Answering, s.Postmaster = true, true, lifeNumber(g.Life)
	s.InRecovery = g.InRecovery
	s.Pos, s.Whole = core.Position{TLI: g.Position.Timeline, LSN: uint64(g.Position.LSN)}, uint64(g.Whole)
	s.History = m.history(srv, g.Life, s.Pos.TLI)
	s.SSN = normal(g.SyncNames)
	s.RewindReady = !g.InRecovery && g.Control.Timeline == g.Position.Timeline
	if g.InRecovery {
		if host := promote.ConninfoHost(g.Conninfo); host != "" {
			s.Conninfo, s.Via = m.family.node(host), host
		}
		if g.Upstream.Status == "streaming" {
			s.Upstream = m.family.node(g.Upstream.Host)
		}
	}
	s.Standbys = standbys(g.Walsenders)
}

// idleFor is how long the startup process of a server that takes no sessions has been doing nothing: replay takes the processor or the disk, a
// restore_command is a process of its own, and one that waits for a disk does not sleep. It is looked at each second.
func (m *Machine) idleFor(srv *postgres.Server, now time.Duration) time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.weighed == 0 || now >= m.weighed+time.Second {
		e, err := srv.Effort()
		if err != nil {
			m.Log.Debug("whether the server waits can't be told", "reason", err)
		}
		o, since := m.effort, now-m.weighed
		m.effort, m.weighed = e, now
		same := e.PID != 0 && e.Life == o.Life && e.PID == o.PID && e.Moved == o.Moved
		if !same || !e.Idle || e.CPU-o.CPU > since/20 {
			m.idle = now
		}
	}
	if m.idle == m.weighed {
		return 0
	}
	return now - m.idle
}

// standbys makes one of all walsenders of a name: the one that was heard last.
func standbys(all []postgres.Walsender) []core.Standby {
	best := map[string]postgres.Walsender{}
	var names []string
	for _, w := range all {
		b, there := best[w.Name]
		if !there {
			names = append(names, w.Name)
		}
		if !there || w.State == "streaming" && b.State != "streaming" || w.State == b.State && w.ReplyAge < b.ReplyAge {
			best[w.Name] = w
		}
	}
	var out []core.Standby
	for _, n := range names {
		w := best[n]
		out = append(out, core.Standby{Name: n, Streaming: w.State == "streaming", Sent: uint64(w.SentLSN), Flush: uint64(w.FlushLSN), Priority: w.SyncPriority})
	}
	return out
}

// normal is a setting as the core writes it; one of another form stays as it is.
func normal(names string) string {
	if s, ok := core.ParseSSN(names); ok {
		return s.String()
	}
	return names
}

// history is the ancestry of a timeline. A real history file never changes.
func (m *Machine) history(srv *postgres.Server, life postgres.Life, tli uint32) []core.Fork {
	if tli <= 1 {
		return nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.life != life || m.known == nil {
		m.life, m.known = life, map[uint32][]core.Fork{}
	}
	if h, ok := m.known[tli]; ok {
		return h
	}
	h, err := srv.History(tli)
	if err != nil {
		m.Log.Debug("history of the server's timeline", "timeline", tli, "reason", err)
		return nil
	}
	forks := forksOf(h)
	if len(forks) > 0 {
		m.known[tli] = forks
	}
	return forks
}

func forksOf(h postgres.History) []core.Fork {
	var out []core.Fork
	for _, f := range h {
		out = append(out, core.Fork{TLI: f.Timeline, LSN: uint64(f.SwitchLSN)})
	}
	return out
}

// Do carries out an action of the queue.
func (m *Machine) Do(ctx context.Context, a core.Action) (core.Result, error) {
	if a.Kind == core.Clone {
		whole, err := m.clone(ctx, a.Node, a.Fresh)
		return core.Result{Whole: whole}, err
	}
	srv, drv, err := m.mustServer()
	if err != nil {
		return core.Result{}, err
	}
	switch a.Kind {
	case core.Hold:
		return core.Result{}, drv.Hold(ctx)
	case core.Fence:
		r, err := drv.Fence(ctx, postgres.FenceOptions{KillAfter: killAfter})
		end := r.LSN
		if !r.Primary {
			end = r.Replay // it has replayed all, but for the half of a record that what it received may end with: that is nobody's
		}
		return core.Result{SystemID: r.SystemID, Pos: core.Position{TLI: r.Timeline, LSN: uint64(end)}, Beyond: r.Beyond}, err
	case core.Reserve:
		_, err := srv.Reserve(a.Numbers, a.TLI)
		return core.Result{}, err
	case core.Unreserve:
		_, err := srv.Unreserve()
		return core.Result{}, err
	case core.PromoteTo:
		ctx, cancel := context.WithTimeout(ctx, m.Settings.Timeouts.Promote)
		defer cancel()
		m.promoting(true, false)
		p, err := drv.PromoteTo(ctx, a.TLI)
		m.promoting(false, err == nil)
		return core.Result{TLI: p.Timeline, SwitchLSN: uint64(p.SwitchLSN), EndLSN: uint64(p.EndLSN)}, err
	case core.WriteSSN:
		return core.Result{}, drv.SetSync(ctx, settingNames(a.SSN))
	case core.ProveSSN:
		return m.prove(ctx, drv, a)
	case core.Nudge:
		return core.Result{}, drv.Nudge(ctx)
	case core.Follow:
		return core.Result{}, m.follow(ctx, srv, drv, a.Node)
	case core.StartStandby:
		return core.Result{}, m.start(ctx, srv, drv, a.Node)
	case core.Stop:
		mode := postgres.Immediate
		switch {
		case a.Handover:
			mode = postgres.Handover
		case a.Fast:
			mode = postgres.Fast
		}
		return m.stop(ctx, srv, mode)
	case core.Rewind:
		err := m.rewind(ctx, srv, a.Node)
		return core.Result{Whole: err != nil && !srv.RewindIncomplete()}, err
	}
	return core.Result{}, fmt.Errorf("carry out %v: it is no action of the server", a.Kind)
}

// promoting tells the looks of a promotion under way, and whether the server has just answered.
func (m *Machine) promoting(on, answered bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.promotes = on
	if answered {
		m.at = m.Now()
	}
}

// settingNames are the names of a setting, in its order.
func settingNames(s core.SSN) []string {
	names := slices.Clone(s.Names)
	if s.Hold {
		names = append(names, postgres.HoldName)
	}
	return names
}

func (m *Machine) prove(ctx context.Context, drv *postgres.Driver, a core.Action) (core.Result, error) {
	pctx, cancel := context.WithTimeout(ctx, proofTime)
	defer cancel()
	if a.Probe {
		return core.Result{}, drv.ProveHeld(pctx)
	}
	if err := drv.AwaitSync(pctx, settingNames(a.SSN)); err != nil {
		return core.Result{}, err
	}
	if err := drv.Nudge(ctx); err != nil {
		return core.Result{}, err
	}
	v, err := drv.View(ctx)
	if err == nil && v.InRecovery {
		err = errors.New("read the end of the WAL: the server is in recovery")
	}
	return core.Result{Barrier: uint64(v.InsertLSN)}, err
}

// target is how to stream from a node.
func (m *Machine) target(node string) (postgres.Target, error) {
	addrs, port := m.family.at(node)
	if len(addrs) == 0 {
		return postgres.Target{}, fmt.Errorf("follow %s: vrrpd knows no address of it", node)
	}
	return m.Settings.Target(m.nodeName(), addrs[0].String(), port), nil
}

func (m *Machine) nodeName() string {
	m.family.mu.Lock()
	defer m.family.mu.Unlock()
	return m.family.self
}

// follow writes where to stream from. Whether it streams, the looks tell: the queue waits no longer than it usually takes.
func (m *Machine) follow(ctx context.Context, srv *postgres.Server, drv *postgres.Driver, node string) error {
	t, err := m.target(node)
	if err != nil {
		return err
	}
	fctx, cancel := context.WithTimeout(ctx, followTime)
	defer cancel()
	err = drv.Follow(fctx, t)
	if err == nil || fctx.Err() == nil {
		return err
	}
	if now, merr := srv.Managed(); merr == nil && promote.ConninfoHost(now["primary_conninfo"]) == t.Host && ctx.Err() == nil {
		m.Log.Info("not streaming yet", "node", node, "reason", err)
		return nil
	}
	return err
}

func (m *Machine) start(ctx context.Context, srv *postgres.Server, drv *postgres.Driver, node string) error {
	if err := m.endArchiver(ctx, srv); err != nil {
		return err
	}
	switch empty, err := isEmpty(m.Config.DataDir); {
	case err != nil:
		return err
	case empty:
		return fmt.Errorf("start: %s has no data", m.Config.DataDir) // and nothing of ours is written there
	}
	if life, err := srv.Life(); err != nil {
		return err
	} else if life == (postgres.Life{}) {
		if err := srv.WriteFence(); err != nil {
			return err
		}
		if node != "" {
			t, err := m.target(node)
			if err != nil {
				return err
			}
			if err := srv.WriteFollow(t); err != nil {
				return err
			}
		}
	}
	patience := m.Settings.Timeouts.Start
	if node != "" {
		patience = aliveTime // without what it is about to stream it may not be consistent, and then takes no session
	}
	sctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	err := srv.StartStandby(sctx)
	if errors.Is(err, postgres.ErrNotReady) && ctx.Err() == nil {
		m.Log.Info("PostgreSQL was started, and takes no sessions yet", "reason", err)
		err = nil
	}
	if err != nil {
		return err
	}
	m.Log.Info("PostgreSQL started", "upstream", node)
	if err := drv.Connect(sctx); err != nil {
		m.Log.Debug("sessions with the server", "reason", err) // whoever needs them opens them
	}
	return nil
}

// endArchiver ends the archiver of a server that is otherwise shut down.
func (m *Machine) endArchiver(ctx context.Context, srv *postgres.Server) error {
	archiving, err := srv.Archiving()
	if err != nil || !archiving {
		return err
	}
	m.Log.Warn("PostgreSQL is shut down, and its archiver is ended")
	_, err = m.stop(ctx, srv, postgres.Immediate)
	return err
}

// stop stops the server; one that takes too long, and is not to be an immediate one, ends as one.
func (m *Machine) stop(ctx context.Context, srv *postgres.Server, mode postgres.StopMode) (core.Result, error) {
	sctx, cancel := context.WithTimeout(ctx, m.Settings.Timeouts.Stop)
	err := srv.Stop(sctx, mode)
	cancel()
	if err != nil && mode != postgres.Immediate && ctx.Err() == nil {
		m.Log.Warn("the stop takes too long, stopping at once", "mode", string(mode), "reason", err)
		err = srv.Stop(ctx, postgres.Immediate)
	}
	if err != nil {
		return core.Result{}, err
	}
	c, err := srv.Control()
	if err != nil {
		return core.Result{}, err
	}
	return core.Result{Clean: c.State == postgres.StateShutDown, Pos: endOf(c)}, nil
}

// endOf is how far a server that is down has come, by its control file.
func endOf(c postgres.ControlData) core.Position {
	return core.Position{TLI: c.EndTimeline(), LSN: uint64(max(c.EndLSN(), c.CheckpointLSN, c.MinRecoveryLSN))}
}

// source is the connection string of pg_rewind and pg_basebackup.
func (m *Machine) source(node, dbname string) (string, error) {
	addrs, port := m.family.at(node)
	if len(addrs) == 0 {
		return "", fmt.Errorf("connect to %s: vrrpd knows no address of it", node)
	}
	s := m.Settings
	s.Port = port
	return s.Source(addrs[0].String(), dbname), nil
}

// progress tells how far something that takes long is.
func (m *Machine) progress(what string) (postgres.Progress, func()) {
	set := func(text string) { m.work.Store(&text) }
	set(what)
	return func(done, total int64) {
			text := fmt.Sprintf("%s: %d MB", what, done>>20)
			if total > 0 {
				text = fmt.Sprintf("%s: %d of %d MB", what, done>>20, total>>20)
			}
			set(text)
		}, func() {
			m.work.Store(nil)
		}
}

func (m *Machine) rewind(ctx context.Context, srv *postgres.Server, node string) error {
	if err := m.endArchiver(ctx, srv); err != nil {
		return err
	}
	ci, err := m.source(node, "postgres")
	if err != nil {
		return err
	}
	set, end := m.progress("rewind to " + node)
	defer end()
	// From the first byte on half rewound files are good for nothing: the end of the agent does not break it off, only a source that hangs and holds no longer.
	rctx, over := context.WithCancelCause(context.WithoutCancel(ctx))
	defer over(nil)
	defer context.AfterFunc(ctx, func() {
		if cause := context.Cause(ctx); errors.Is(cause, errOver) {
			over(cause)
		}
	})()
	if err := srv.Rewind(rctx, ci, set); err != nil {
		return fmt.Errorf("rewind to %s: %w", node, err)
	}
	return nil
}

// clone copies a node's server into a new directory, which takes the place of the data directory; what was there is kept.
// After an error, whole says that it is still there, as it was. A fresh copy replaces nothing: data that are there by now, by a late mount, end it.
func (m *Machine) clone(ctx context.Context, node string, fresh bool) (whole bool, err error) {
	srv, err := m.replaced(fresh)
	if err != nil {
		return true, err
	}
	if srv != nil {
		if err := m.endArchiver(ctx, srv); err != nil {
			return true, err
		}
	}
	place, err := promote.CopyPlace(m.Config.DataDir)
	if err != nil {
		return true, err
	}
	if err := m.Store.RemoveLeft(m.Log, m.Config.DataDir); err != nil {
		return true, err
	}
	ci, err := m.source(node, "")
	if err != nil {
		return true, err
	}
	dir, bin := place+".new-"+time.Now().UTC().Format(postgres.OldTime), m.Config.BinDir
	switch {
	case srv != nil:
		dir, bin = srv.NewDir(), srv.BinDir()
	case bin == "":
		version, err := m.versionOf(ctx, node)
		if err != nil {
			return true, err
		}
		bin = m.BinDir(version)
	}
	if err := m.Store.SetCloning(dir); err != nil {
		return true, err
	}
	set, end := m.progress("copy of " + node)
	defer end()
	if err := m.Copy(ctx, postgres.CloneOptions{BinDir: bin, Conninfo: ci, Dir: dir, Progress: set}); err != nil {
		return true, errors.Join(fmt.Errorf("copy %s: %w", node, err), promote.RemoveBeside(m.Config.DataDir, dir), m.Store.SetCloning(""))
	}
	if srv, err = m.replaced(fresh); err != nil {
		return true, errors.Join(err, promote.RemoveBeside(m.Config.DataDir, dir), m.Store.SetCloning(""))
	}
	why := "cloned from " + node
	if err := m.Store.Swapping(dir, why); err != nil {
		return false, err
	}
	old := ""
	if srv != nil {
		if old, err = srv.Swap(dir); err != nil {
			return false, err
		}
		m.Log.Info("data directory swapped", "old", old)
	} else if err := m.putInPlace(dir); err != nil {
		return false, fmt.Errorf("put the copy into its place: %w", err)
	}
	if err := m.Store.Swapped(old, why); err != nil {
		return false, err
	}
	if srv, err = m.swapped(); err != nil {
		return false, err
	}
	// The copy has the source's settings of ours.
	if err := srv.WriteFence(); err != nil {
		return false, err
	}
	m.Store.RemoveUnused(m.Log, m.Config.DataDir)
	return false, nil
}

// putInPlace is for a data directory that holds no data.
func (m *Machine) putInPlace(dir string) error {
	for _, name := range postgres.OurFiles {
		if err := os.Remove(filepath.Join(m.Config.DataDir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return promote.PutInPlace(dir, m.Config.DataDir)
}

// replaced is the server whose data a copy takes the place of, nil if there are none.
func (m *Machine) replaced(fresh bool) (*postgres.Server, error) {
	if !fresh {
		m.gone()
	}
	srv, _, err := m.present()
	if err == nil && fresh && srv != nil {
		err = fmt.Errorf("%s has data by now", m.Config.DataDir)
	}
	return srv, err
}

// swapped forgets what was seen of the data that were there before.
func (m *Machine) swapped() (*postgres.Server, error) {
	m.mu.Lock()
	m.known, m.seen = nil, postgres.Glance{}
	m.mu.Unlock()
	srv, _, err := m.open()
	return srv, err
}

// Settled tells that the server streams: its data is good, and what was kept may go if the settings say so.
func (m *Machine) Settled() error {
	return m.Store.Settle(m.Log, m.Config.DataDir, m.Settings.KeepOldData)
}

// Call carries out the calls that concern a server.
func (m *Machine) Call(ctx context.Context, a core.Action) (core.Result, error) {
	if a.Kind == core.Look {
		s, err := m.lookAt(ctx, a.Node)
		return core.Result{Source: s}, err
	}
	srv, _, err := m.mustServer()
	if err != nil {
		return core.Result{}, err
	}
	switch a.Kind {
	case core.Checkpoint:
		return core.Result{}, srv.Checkpoint(ctx)
	case core.AfterPromote:
		return core.Result{}, errors.Join(srv.SwitchWAL(ctx), srv.Checkpoint(ctx))
	}
	return core.Result{}, fmt.Errorf("call %v: it concerns no server", a.Kind)
}

// linkTime is how long a node's server may take on one link before it is asked on the next, too. A server that has just been promoted has
// other things to do than to make processes for questions that are asked twice.
const linkTime = 30 * time.Millisecond

// probe asks a node's server on one link after the other, beginning with the one that answered last; the first answer counts.
func (m *Machine) probe(ctx context.Context, node string) (r postgres.Remote, h postgres.History, at netip.Addr, port int, err error) {
	addrs, port := m.family.at(node)
	if len(addrs) == 0 {
		return r, nil, at, 0, fmt.Errorf("look at %s: vrrpd knows no address of it", node)
	}
	ctx, cancel := context.WithTimeout(ctx, probeTime)
	defer cancel()
	type answer struct {
		r    postgres.Remote
		h    postgres.History
		addr netip.Addr
		err  error
	}
	got := make(chan answer, len(addrs))
	s := m.Settings
	s.Port = port
	next, under := 0, 0
	ask := func() {
		a := addrs[next]
		next, under = next+1, under+1
		go func() {
			r, h, err := postgres.ProbeHistory(ctx, s.Question(a.String()))
			got <- answer{r, h, a, err}
		}()
	}
	ask()
	patience := time.NewTicker(linkTime)
	defer patience.Stop()
	var errs []error
	for under > 0 {
		select {
		case a := <-got:
			under--
			if a.err == nil {
				m.family.answered(node, a.addr)
				return a.r, a.h, a.addr, port, nil
			}
			errs = append(errs, a.err)
			if next < len(addrs) {
				ask()
			}
		case <-patience.C:
			if next < len(addrs) {
				ask()
			}
		}
	}
	return r, nil, at, 0, fmt.Errorf("look at %s: %w", node, errors.Join(errs...))
}

func (m *Machine) versionOf(ctx context.Context, node string) (int, error) {
	r, _, _, _, err := m.probe(ctx, node)
	return r.Version, err
}

// lookAt looks at a node's server. Whether it is ready for a rewind takes an SQL session there, and is asked only from the second look on at a
// primary: whoever can follow it does so after the first.
func (m *Machine) lookAt(ctx context.Context, node string) (*core.Source, error) {
	r, h, addr, port, err := m.probe(ctx, node)
	if err != nil {
		return nil, err
	}
	s := &core.Source{Node: node, Via: addr.String(), InRecovery: r.InRecovery, SystemID: r.SystemID, TLI: r.Timeline, LSN: uint64(r.LSN), History: forksOf(h)}
	srv, _ := m.server()
	if r.InRecovery || srv == nil {
		s.RewindReady = !r.InRecovery // there is nothing here to rewind
		return s, nil
	}
	this := sight{node, s.TLI}
	m.mu.Lock()
	again := m.last == this
	m.last = this
	m.mu.Unlock()
	if !again {
		return s, nil
	}
	set := m.Settings
	set.Port = port
	ctx, cancel := context.WithTimeout(ctx, probeTime)
	defer cancel()
	err = srv.RewindReady(ctx, set.Source(addr.String(), "postgres"))
	if s.RewindReady = err == nil; err != nil && !errors.Is(err, postgres.ErrNotCheckpointed) {
		s.Unready = err.Error()
	}
	return s, nil
}

// sight is a primary that was looked at.
type sight struct {
	node string
	tli  uint32
}

// Upkeep is what the server needs now and then: a slot for each peer, no more WAL kept for one than it lacks, and on a primary the
// history files that standbys ask for on their way through the ledger.
type Upkeep struct {
	Peers   []string
	Flushed map[string]uint64 // what each peer has
	Ledger  []uint32          // below our own timeline, of a primary; nil: nothing to do
}

// Upkeep sees to it.
func (m *Machine) Upkeep(ctx context.Context, u Upkeep) error {
	srv, drv, err := m.mustServer()
	if err != nil {
		return err
	}
	if len(u.Ledger) > 0 {
		if _, err := srv.Reserve(u.Ledger, 0); err != nil {
			return err
		}
	}
	if _, _, err := drv.Slots(ctx, u.Peers); err != nil {
		return err
	}
	flushed := map[string]postgres.LSN{}
	for n, lsn := range u.Flushed {
		flushed[n] = postgres.LSN(lsn)
	}
	return drv.AdvanceSlots(ctx, flushed)
}

// Disk writes 4 KiB beside the WAL. A full disk is PostgreSQL's to find: it ends then.
func (m *Machine) Disk(ctx context.Context) error {
	if srv, _ := m.server(); srv == nil {
		return nil
	}
	m.mu.Lock()
	if m.disk == nil {
		m.disk = files.NewProbe(filepath.Join(m.Config.DataDir, "pg_wal", "pgnotify.probe"))
	}
	disk := m.disk
	m.mu.Unlock()
	if err := disk.Write(ctx); err != nil && !errors.Is(err, syscall.ENOSPC) && !errors.Is(err, syscall.EDQUOT) {
		return err
	}
	return nil
}

// Doctor examines the server.
func (m *Machine) Doctor(ctx context.Context, nodes int) []postgres.Finding {
	_, drv, err := m.mustServer()
	if err != nil {
		return []postgres.Finding{{Severity: postgres.Fault, Subject: m.Config.DataDir, Problem: err.Error(), Fix: "The agent copies a server as soon as another node is the active holder."}}
	}
	return drv.Doctor(ctx, nodes)
}

// Facts are what the last look that was answered saw.
func (m *Machine) Facts() postgres.Glance {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.seen
}

// StopNow stops the server beside the agent's queue, whatever that waits for.
func (m *Machine) StopNow(ctx context.Context) error {
	srv, _ := m.server()
	if srv == nil {
		return nil
	}
	_, err := m.stop(ctx, srv, postgres.Fast)
	return err
}

// Restart starts a primary anew, for settings that wait for that.
func (m *Machine) Restart(ctx context.Context) error {
	srv, _, err := m.mustServer()
	if err != nil {
		return err
	}
	if _, err := m.stop(ctx, srv, postgres.Fast); err != nil {
		return err
	}
	sctx, cancel := context.WithTimeout(ctx, m.Settings.Timeouts.Start)
	defer cancel()
	return srv.StartAsIs(sctx)
}
