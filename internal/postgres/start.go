package postgres

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"pgvrrp/internal/child"
)

const (
	standbySignal  = "standby.signal"
	recoverySignal = "recovery.signal"

	readyPoll = 20 * time.Millisecond
	stopPoll  = 5 * time.Millisecond

	// startTimeout and stopTimeout are for contexts without a deadline.
	startTimeout = 60 * time.Second
	stopTimeout  = 60 * time.Second

	// killAfter is how long an immediate stop waits for the postmaster before it kills every process: the postmaster itself gives its children 5 s
	// (SIGKILL_CHILDREN_AFTER_SECS).
	killAfter = 6 * time.Second

	logTail = 8 << 10 // bytes of the server's log in an error
)

// StopMode is how to stop.
type StopMode string

const (
	// Fast ends all sessions, writes a shutdown checkpoint and lets the standbys that stream receive all of it.
	Fast StopMode = "fast"
	// Handover is Fast for a primary whose successor waits: it does not wait for an archiver that takes long, see Archiving.
	Handover StopMode = "handover"
	// Immediate ends every process at once; the next start runs crash recovery.
	Immediate StopMode = "immediate"
)

// unit is the distribution's systemd unit of this data directory, "" if there is none or systemd does not run.
func (s *Server) unit() string {
	if fi, err := os.Lstat(s.at.booted); err != nil || !fi.IsDir() {
		return ""
	}
	has := func(name string) bool {
		for _, d := range s.at.units {
			if _, err := os.Stat(filepath.Join(d, name)); err == nil {
				return true
			}
		}
		return false
	}
	v := strconv.Itoa(s.version)
	switch {
	case s.cluster != "":
		if has("postgresql@.service") {
			return "postgresql@" + v + "-" + s.cluster + ".service"
		}
	case sameFile(s.cfg.DataDir, "/var/lib/pgsql/"+v+"/data"):
		if has("postgresql-" + v + ".service") {
			return "postgresql-" + v + ".service"
		}
	case sameFile(s.cfg.DataDir, "/var/lib/pgsql/data"):
		if has("postgresql.service") {
			return "postgresql.service"
		}
	}
	return ""
}

// startCommand is what starts the server: the configured command, or pg_ctl. Never the distribution's unit: we are the owner of the data directory,
// whom systemd does not obey without a polkit rule, and a start must not hang on D-Bus and polkit.
func (s *Server) startCommand(wait time.Duration) child.Command {
	if len(s.cfg.Start) > 0 {
		return child.Command{Argv: s.cfg.Start}
	}
	args := []string{"start", "-D", s.cfg.DataDir, "-s", "-l", s.cfg.StartLog, "-w", "-t", strconv.Itoa(int(math.Ceil(wait.Seconds())))}
	if !sameFile(filepath.Dir(s.cfg.ConfigFile), s.cfg.DataDir) {
		args = append(args, "-o", "-c config_file="+shellQuote(s.cfg.ConfigFile)) // pg_ctl hands it to a shell
	}
	return s.program("pg_ctl", args...)
}

// StartStandby ends what a dead postmaster left, makes standby.signal, durably, removes what Unreserve does, sets aside what pg_wal has of timelines that
// the server never reached, and starts it, then waits until it takes sessions. A standby that runs already is only waited for; a primary that runs is ErrRunning. When ctx ends first the server
// is left starting and the error is ErrNotReady.
func (s *Server) StartStandby(ctx context.Context) error {
	_, running, err := s.Process()
	if err != nil {
		return fmt.Errorf("start as standby: %w", err)
	}
	if running {
		if _, err := os.Lstat(filepath.Join(s.cfg.DataDir, standbySignal)); err != nil {
			return fmt.Errorf("start as standby: %w, and not as a standby", ErrRunning)
		}
		return s.start(ctx)
	}
	if err := s.endLeft(ctx); err != nil {
		return fmt.Errorf("start as standby: %w", err)
	}
	if err := s.setAside(ctx); err != nil {
		return fmt.Errorf("start as standby: %w", err)
	}
	if _, err := s.Unreserve(); err != nil {
		return fmt.Errorf("start as standby: %w", err)
	}
	if s.cfg.Hold {
		if err := s.writeManaged(change{set: map[string]string{"synchronous_standby_names": holdNames}}); err != nil {
			return fmt.Errorf("start as standby: %w", err)
		}
	}
	if err := s.markStandby(); err != nil {
		return fmt.Errorf("start as standby: %w", err)
	}
	return s.start(ctx)
}

// StartAsIs starts the server as what its files make it: with standby.signal a standby, else a primary. It, too, ends what a dead postmaster left.
// Otherwise as StartStandby.
func (s *Server) StartAsIs(ctx context.Context) error { return s.start(ctx) }

// markStandby makes the next start one in standby mode.
func (s *Server) markStandby() error {
	path := filepath.Join(s.cfg.DataDir, standbySignal)
	if _, err := os.Lstat(path); err == nil {
		return nil
	}
	return s.writeFile(path, nil, 0o600)
}

func (s *Server) start(ctx context.Context) error {
	ctx, cancel := withDefaultTimeout(ctx, startTimeout)
	defer cancel()
	if s.RewindIncomplete() {
		return fmt.Errorf("start %s: %w", s.cfg.DataDir, ErrRewindIncomplete)
	}
	_, running, err := s.Process()
	if err != nil {
		return fmt.Errorf("start %s: %w", s.cfg.DataDir, err)
	}
	if running {
		return s.awaitReady(ctx)
	}
	if err := s.endLeft(ctx); err != nil {
		return fmt.Errorf("start %s: %w", s.cfg.DataDir, err)
	}
	if err := s.clearStale(); err != nil {
		return fmt.Errorf("start %s: %w", s.cfg.DataDir, err)
	}
	deadline, _ := ctx.Deadline()
	cmd := s.startCommand(time.Until(deadline))
	if err := s.prepareLog(); err != nil {
		return fmt.Errorf("start %s: %w", s.cfg.DataDir, err)
	}
	logs := s.logPositions()
	s.log.Info("starting PostgreSQL", "command", cmd.String())
	runErr := s.runStart(ctx, cmd)
	_, running, err = s.Process()
	if err != nil {
		return fmt.Errorf("start %s: %w", s.cfg.DataDir, err)
	}
	if !running {
		if runErr == nil {
			runErr = fmt.Errorf("%s ended well, but no server runs", cmd.Argv[0])
		}
		if tail := s.logSince(logs); tail != "" {
			return fmt.Errorf("start %s: %w; the server's log ends with:\n%s", s.cfg.DataDir, runErr, tail)
		}
		return fmt.Errorf("start %s: %w", s.cfg.DataDir, runErr)
	}
	if err := s.awaitReady(ctx); err != nil {
		if tail := s.logSince(logs); tail != "" {
			err = fmt.Errorf("%w; the server's log ends with:\n%s", err, tail)
		}
		return err
	}
	return nil
}

// runStart runs what starts the server. It isn't broken off before the postmaster shows in its lock file: until then nobody could tell whether one is
// about to come up.
func (s *Server) runStart(ctx context.Context, cmd child.Command) error {
	deadline, _ := ctx.Deadline()
	run, cancel := context.WithDeadline(context.WithoutCancel(ctx), deadline)
	defer cancel()
	done := make(chan struct{})
	defer close(done)
	go func() {
		select {
		case <-done:
			return
		case <-ctx.Done():
		}
		tick := time.NewTicker(readyPoll)
		defer tick.Stop()
		for {
			if _, running, err := s.Process(); err == nil && running {
				cancel()
				return
			}
			select {
			case <-done:
				return
			case <-tick.C:
			}
		}
	}()
	_, err := child.Run(run, cmd)
	return err
}

func withDefaultTimeout(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, d)
}

// awaitReady waits until a running server takes a session of ours.
func (s *Server) awaitReady(ctx context.Context) error {
	tick := time.NewTicker(readyPoll)
	defer tick.Stop()
	var last error
	for {
		f, err := s.readPIDFile()
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("start %s: %w", s.cfg.DataDir, err)
		}
		_, running, err := s.Process()
		if err != nil {
			return fmt.Errorf("start %s: %w", s.cfg.DataDir, err)
		}
		if !running {
			return fmt.Errorf("start %s: the server ended: %w", s.cfg.DataDir, ErrNotRunning)
		}
		switch f.status {
		case "standby":
			return fmt.Errorf("start %s: the standby runs but takes no sessions: hot_standby is off: %w", s.cfg.DataDir, ErrNotReady)
		case "ready":
			conn, err := s.connect(ctx, queryTimeout)
			if err == nil {
				closeConn(conn)
				return nil
			}
			if refused(err) {
				return fmt.Errorf("start %s: the server runs, but refuses our session: %w", s.cfg.DataDir, err)
			}
			last = err
		default:
			last = fmt.Errorf("it says %q in %s", f.status, pidFileName)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("start %s: %w: %w", s.cfg.DataDir, ErrNotReady, last)
		case <-tick.C:
		}
	}
}

// refused reports whether a server answered that our kind of session is wrong, which waiting does not mend: class 28 (invalid authorization) or 3D
// (invalid catalog name) of the error codes.
func refused(err error) bool {
	var pe *pgconn.PgError
	return errors.As(err, &pe) && (strings.HasPrefix(pe.Code, "28") || strings.HasPrefix(pe.Code, "3D"))
}

// prepareLog makes the directory of the start log if it is ours to make.
func (s *Server) prepareLog() error {
	dir := filepath.Dir(s.cfg.StartLog)
	if filepath.Dir(dir) != s.cfg.DataDir {
		return nil
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		if errors.Is(err, fs.ErrExist) {
			return nil
		}
		return fmt.Errorf("make the directory of the start log: %w", err)
	}
	return s.give(dir)
}

// logPositions notes how long the files are that the server may write its messages to.
func (s *Server) logPositions() map[string]int64 {
	pos := map[string]int64{s.cfg.StartLog: 0}
	for path := range pos {
		if fi, err := os.Stat(path); err == nil {
			pos[path] = fi.Size()
		}
	}
	for _, path := range s.collectedLogs() {
		if fi, err := os.Stat(path); err == nil {
			pos[path] = fi.Size()
		}
	}
	return pos
}

// collectedLogs reads current_logfiles, which the logging collector keeps.
func (s *Server) collectedLogs() []string {
	b, err := os.ReadFile(filepath.Join(s.cfg.DataDir, "current_logfiles"))
	if err != nil {
		return nil
	}
	var all []string
	for line := range strings.Lines(string(b)) {
		kind, path, ok := strings.Cut(strings.TrimSpace(line), " ")
		if !ok || kind != "stderr" {
			continue
		}
		if !filepath.IsAbs(path) {
			path = filepath.Join(s.cfg.DataDir, path)
		}
		all = append(all, path)
	}
	return all
}

// logSince returns the end of what the server has logged since.
func (s *Server) logSince(pos map[string]int64) string {
	var b strings.Builder
	for _, path := range append([]string{s.cfg.StartLog}, s.collectedLogs()...) {
		b.WriteString(fileTail(path, pos[path]))
	}
	return strings.TrimSpace(b.String())
}

// fileTail reads the end of a file, but nothing before from.
func fileTail(path string, from int64) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil || fi.Size() < from {
		return ""
	}
	cut := fi.Size()-from > logTail
	if cut {
		from = fi.Size() - logTail
	}
	b, err := io.ReadAll(io.NewSectionReader(f, from, fi.Size()-from))
	if err != nil {
		return ""
	}
	if cut {
		if i := bytes.IndexByte(b, '\n'); i >= 0 {
			b = b[i+1:]
		}
	}
	return string(b)
}

// Stop stops the server and waits until the postmaster and every process that worked in the data directory have gone. A server that is down already is
// no error. Fast sends away sessions and waits for the standbys that stream, 0.3 s for one that does not take the last WAL, as long for subscribers of
// logical changes, and for the archiver; if ctx ends first, the server is left stopping and the error says so. Handover is the same, but done when nobody
// but the archiver is left, unless the settings have a command that stops the server, which is waited for. Immediate does not give up: what does not go
// in 6 s, or in half the time that ctx has, is killed; so is after 1 s what a dead postmaster left.
func (s *Server) Stop(ctx context.Context, mode StopMode) error {
	ctx, cancel := withDefaultTimeout(ctx, stopTimeout)
	defer cancel()
	if mode != Fast && mode != Handover && mode != Immediate {
		return fmt.Errorf("stop %s: unknown mode %q", s.cfg.DataDir, mode)
	}
	pid, running, err := s.Process()
	if err != nil {
		return fmt.Errorf("stop %s: %w", s.cfg.DataDir, err)
	}
	ours, err := s.processes()
	if err != nil {
		return fmt.Errorf("stop %s: %w", s.cfg.DataDir, err)
	}
	if running {
		if err := s.sendStop(ctx, pid, mode); err != nil {
			return fmt.Errorf("stop %s: %w", s.cfg.DataDir, err)
		}
	} else if len(ours) == 0 {
		return nil
	} else if mode == Immediate {
		if err := s.endLeft(ctx); err != nil {
			return fmt.Errorf("stop %s: %w", s.cfg.DataDir, err)
		}
	}
	postmaster, procErr := readProc(pid) // pid 0 has no entry
	var kill <-chan time.Time
	if mode == Immediate {
		deadline, _ := ctx.Deadline()
		t := time.NewTimer(min(killAfter, time.Until(deadline)/2))
		defer t.Stop()
		kill = t.C
	}
	tick := time.NewTicker(stopPoll)
	defer tick.Stop()
	var left time.Time                    // since when only those are left that wait for somebody on the network; zero: not yet
	var walsenders, callers time.Duration // when they are next dismissed, after left
	stuck, looked := map[still]time.Time{}, time.Now()
	for {
		// The postmaster goes last in an orderly stop; only then look through all processes.
		if p, err := readProc(pid); procErr != nil || err != nil || p.dead || p.ticks != postmaster.ticks {
			if ours, err = s.processes(); err != nil {
				return fmt.Errorf("stop %s: %w", s.cfg.DataDir, err)
			}
			if len(ours) == 0 {
				s.settleUnit(ctx)
				return nil
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("stop %s: %w, still there: %s", s.cfg.DataDir, context.Cause(ctx), pids(ours))
		case <-kill:
			all, err := s.processes()
			if err != nil {
				return fmt.Errorf("stop %s: %w", s.cfg.DataDir, err)
			}
			s.log.Warn("killing PostgreSQL, it does not stop", "pids", pids(all))
			for _, p := range all {
				if err := syscall.Kill(p.pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
					return fmt.Errorf("stop %s: kill process %d: %w", s.cfg.DataDir, p.pid, err)
				}
			}
		case <-tick.C:
			if !running {
				continue
			}
			if left.IsZero() {
				if c, err := s.Control(); mode != Immediate && (err != nil || !c.State.Clean()) {
					// The shutdown checkpoint is not written yet.
					if err == nil && c.State != StateShuttingDown && time.Since(looked) > stuckPoll {
						stuck, looked = s.dismissStuck(pid, stuck), time.Now()
					}
					continue
				}
				left, walsenders, callers = time.Now(), walsenderGrace, callerGrace
			}
			since := time.Since(left)
			if mode != Immediate && since > walsenders {
				walsenders = since + walsenderGrace
				s.dismissWalsenders(pid)
			}
			if since > callers {
				callers = since + callerGrace
				s.dismissCallers(pid)
				if mode != Handover {
					continue
				}
				if archiving, err := s.Archiving(); err == nil && archiving {
					s.log.Info("PostgreSQL is shut down, and its archiver still at work", "pid", pid)
					return nil
				}
			}
		}
	}
}

// walsenderGrace is how long walsenders may take to send the shutdown checkpoint. One whose standby can't be reached any more, because the virtual
// address that it came by has gone, would take wal_sender_timeout.
const walsenderGrace = 300 * time.Millisecond

func (s *Server) dismissWalsenders(postmaster int) {
	meant := func(title string) bool { return strings.Contains(title, isWalsender) }
	s.dismiss(postmaster, meant, "a standby does not take the last WAL, going without it")
}

// stuckPoll is how often a stop that has not come to its checkpoint looks for walsenders that stand still: it looks through all processes.
const stuckPoll = 100 * time.Millisecond

// still is what does not change of a walsender that gets nowhere.
type still struct {
	pid     int
	title   string
	logical bool   // it sends logical changes
	unsent  string // what the other end has not taken, "" if that is nothing
}

// dismissStuck ends walsenders that have kept the checkpointer from its last checkpoint for walsenderGrace, and returns since when those that are left
// stand still; seen is what it returned before. Nobody else ends them, up to wal_sender_timeout or for ever: the checkpointer waits until each of them
// has promised to cause no more WAL. One that serves a standby does so when it has room to send in, so that only one whose socket is full can be at
// fault; one that streams logical changes never does, it goes when its subscriber has confirmed all of them, and resumes from its slot elsewhere.
func (s *Server) dismissStuck(postmaster int, seen map[still]time.Time) map[still]time.Time {
	own, err := processTitle(postmaster)
	if err != nil {
		return nil
	}
	all, err := s.children(postmaster)
	if err != nil {
		return nil
	}
	now := map[still]time.Time{}
	for _, p := range all {
		if p.title == own || p.title == "" {
			continue // it ends, or is a client's that connects: the checkpointer does not wait for those
		}
		if slices.ContainsFunc(lastOnes, func(kind string) bool { return strings.Contains(p.title, kind) }) {
			continue
		}
		if !strings.Contains(p.title, isWalsender) {
			return nil // a session or the like: the checkpointer has not begun
		}
		w := still{pid: p.pid, title: p.title, logical: s.sendsChanges(p.title)}
		if !w.logical {
			if w.unsent = unsent(p.pid); w.unsent == "" {
				continue
			}
		}
		if now[w] = time.Now(); !seen[w].IsZero() {
			now[w] = seen[w]
		}
	}
	for w, since := range now {
		if time.Since(since) < walsenderGrace {
			continue
		}
		why := "a standby does not take what it is sent, going without it"
		if w.logical {
			why = "a logical subscriber does not confirm all changes, going without it"
		}
		s.log.Warn(why, "pid", w.pid)
		_ = syscall.Kill(w.pid, syscall.SIGTERM)
		now[w] = time.Now() // one whose socket is full takes the second signal: upon the first it tries to say why
	}
	return now
}

// lastOnes are the processes, beside walsenders, that stay until after the shutdown checkpoint in one version or another.
var lastOnes = []string{": checkpointer", isArchiver, ": logger", ": stats collector", ": io worker"}

// sendsChanges tells the title of a walsender that sends logical changes: that of one which sends WAL ends with "streaming" and where it is, from the
// first byte on. Older versions leave the title at "idle"; one that really is idle ends without us.
func (s *Server) sendsChanges(title string) bool {
	if c, err := s.Control(); err != nil || c.WALLevel != "logical" {
		return false
	}
	title = strings.TrimRight(title, " \x00")
	return strings.HasSuffix(title, " START_REPLICATION") || strings.HasSuffix(title, " idle")
}

// callerGrace is how long a client that connects to a server that stops may take to be told so. One whose first packet can't arrive any more, because
// the virtual address that it came by has gone, would hold the stop up for authentication_timeout: the postmaster waits for the process that it has for
// it, and up to PostgreSQL 17 tells it nothing, or kills it after 5 s when the stop is an immediate one.
const callerGrace = 20 * time.Millisecond

func (s *Server) dismissCallers(postmaster int) {
	own, err := processTitle(postmaster)
	if err != nil || own == "" {
		return // it has ended
	}
	// A process of the server has the postmaster's title until it has read who calls.
	s.dismiss(postmaster, func(title string) bool { return title == own }, "a client connects and says nothing, going without it")
}

// Archiving reports whether the server is shut down but for its archiver, which archives what is left, however long archive_command takes: there are no
// sessions and will be none, and every standby that streamed has all of its WAL or was given up. Only a primary has one, or a standby with archive_mode
// = always.
func (s *Server) Archiving() (bool, error) {
	f, err := s.readPIDFile()
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	v, err := s.judge(f)
	if err != nil || v.life == (Life{}) || f.status != "stopping" {
		return false, err
	}
	if c, err := s.Control(); err != nil || !c.State.Clean() {
		return false, err
	}
	all, err := s.children(v.life.PID)
	is := func(kind string) bool {
		return slices.ContainsFunc(all, func(p titled) bool { return strings.Contains(p.title, kind) })
	}
	return is(isArchiver) && !is(isWalsender), err
}

// What the titles of processes have in them, behind "postgres: " and a cluster_name.
const (
	isWalsender = "walsender "
	isArchiver  = ": archiver"
)

// dismiss ends those children of the postmaster whose title is one that is meant.
func (s *Server) dismiss(postmaster int, meant func(title string) bool, why string) {
	all, err := s.children(postmaster)
	if err != nil {
		return
	}
	for _, p := range all {
		if meant(p.title) {
			s.log.Warn(why, "pid", p.pid)
			_ = syscall.Kill(p.pid, syscall.SIGTERM)
		}
	}
}

// sendStop asks the postmaster to stop. While systemd thinks the server's unit active it is asked first, so that a Restart= in it starts nothing;
// where it does not obey the owner of the data directory, the signal has to do.
func (s *Server) sendStop(ctx context.Context, pid int, mode StopMode) error {
	switch {
	case mode == Immediate: // no detours
	case len(s.cfg.Stop) > 0:
		cmd := child.Command{Argv: s.cfg.Stop, Env: []string{"PGNOTIFY_STOP_MODE=" + string(Fast)}}
		s.log.Info("stopping PostgreSQL", "command", cmd.String())
		if _, err := child.Run(ctx, cmd); err != nil {
			return err
		}
	default:
		s.stopUnit(ctx, mode)
	}
	if now, running, err := s.Process(); err != nil || !running || now != pid {
		return err
	}
	sig := syscall.SIGINT // the postmaster's fast shutdown
	if mode == Immediate {
		sig = syscall.SIGQUIT
	}
	s.log.Info("stopping PostgreSQL", "mode", string(mode), "pid", pid)
	if err := s.signal(pid, sig); err != nil && !errors.Is(err, ErrNotRunning) {
		return err
	}
	return nil
}

// unitWait bounds what systemd may hold a stop up: its answer to us, which a broken polkit delays by 25 s, and its own end of the unit.
const unitWait = 5 * time.Second

func (s *Server) systemctl(ctx context.Context, args ...string) (string, error) {
	var out bytes.Buffer
	_, err := child.Run(ctx, child.Command{Argv: append([]string{s.at.systemctl, "--no-ask-password"}, args...), Stdout: &out, Timeout: unitWait})
	return strings.TrimSpace(out.String()), err
}

// stopUnit has systemd stop the server's unit, if that is active.
func (s *Server) stopUnit(ctx context.Context, mode StopMode) {
	u := s.unit()
	if u == "" {
		return
	}
	if state, err := s.unitState(ctx, u); err != nil || state != "active" {
		return
	}
	s.log.Info("stopping PostgreSQL", "unit", u)
	args := []string{"stop", u}
	if mode == Handover {
		args = []string{"--no-block", "stop", u} // else it would wait for the archiver
	}
	if _, err := s.systemctl(ctx, args...); err != nil {
		s.log.Info("systemd does not stop the unit, stopping the server without it", "unit", u, "reason", err)
	} else if mode == Handover {
		s.awaitStopping(ctx)
	}
}

// awaitStopping waits until the server stops, or systemd has had its time.
func (s *Server) awaitStopping(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, unitWait)
	defer cancel()
	_ = poll(ctx, func() (bool, string, error) { // if it does not, it is told without systemd
		f, err := s.readPIDFile()
		return err != nil || f.status == "stopping", "", nil //nolint:nilerr // a server without the file has stopped
	})
}

func (s *Server) unitState(ctx context.Context, unit string) (string, error) {
	return s.systemctl(ctx, "show", "--property=ActiveState", "--value", unit)
}

// settleUnit waits until systemd has done with a unit whose server has gone: its ExecStop= would stop the next server in the same data directory.
func (s *Server) settleUnit(ctx context.Context) {
	u := s.unit()
	if u == "" {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, unitWait)
	defer cancel()
	tick := time.NewTicker(readyPoll)
	defer tick.Stop()
	for {
		if state, err := s.unitState(ctx, u); err != nil || (state != "active" && state != "deactivating") {
			return
		}
		select {
		case <-ctx.Done():
			s.log.Warn("systemd still thinks that the server runs", "unit", u)
			return
		case <-tick.C:
		}
	}
}
