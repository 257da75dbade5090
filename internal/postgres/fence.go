package postgres

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	passName = "pgnotify.pass"

	// retryWait is what the startup process waits in once it has read all that is on disk and no walreceiver runs; the name is the same from 13 to 18.
	retryWait = "RecoveryRetrieveRetryInterval"

	// reconnectPoll is how often a lost session is opened again while the server restarts.
	reconnectPoll = 10 * time.Millisecond
)

var (
	// ErrNotDrained means that a standby listens to nobody any more, but has not replayed all that it has.
	ErrNotDrained = errors.New("not all received WAL has been replayed")
	// ErrReceiverRuns means that a walreceiver does not end: the standby may still confirm what it receives.
	ErrReceiverRuns = errors.New("the walreceiver does not end")
	// ErrNotClean means that a stopped server was not shut down cleanly as a primary, so that its control file does not say where its WAL ends.
	ErrNotClean = errors.New("was not shut down cleanly as a primary")
)

// Life names one life of the postmaster; the zero value is none.
type Life struct {
	PID   int
	Ticks uint64 // start time in clock ticks since boot
}

// Gone reports whether that postmaster has ended, by the kernel alone: no file of the server is read. The zero value was none, and is not gone.
func (l Life) Gone() bool {
	if l == (Life{}) {
		return false
	}
	p, err := readProc(l.PID)
	return errors.Is(err, fs.ErrNotExist) || err == nil && !l.is(p)
}

// goesOn reports whether that postmaster is known to live.
func (l Life) goesOn() bool {
	p, err := readProc(l.PID)
	return err == nil && l.is(p)
}

func (l Life) is(p procInfo) bool { return !p.dead && p.ticks == l.Ticks }

// Life tells which postmaster runs, the zero Life if none.
func (s *Server) Life() (Life, error) {
	f, err := s.readPIDFile()
	if errors.Is(err, fs.ErrNotExist) {
		return Life{}, nil
	}
	if err != nil {
		return Life{}, err
	}
	v, err := s.judge(f)
	return v.life, err
}

// Report is what a server holds once it listens to nobody. It is worth something only as long as its Life goes on.
type Report struct {
	SystemID uint64
	Position      // the end of its WAL, and the timeline that owns it
	Primary  bool // not in recovery; it is on hold
	Receive  LSN  // standby: flushed by walreceivers in this life, 0 if none ran
	Replay   LSN  // standby
	Paused   bool // standby: replay is paused
	// Beyond is a later timeline that pg_wal has the history of and no WAL that can be replayed, 0 if there is none: its primary went while the standby
	// began to stream from it. PostgreSQL goes by that history until it is started anew with StartStandby, and must not be promoted before: the timeline
	// would be the new one's parent, and half a segment of it hides what is there of the present one.
	Beyond Timeline
	Life   Life // of the postmaster; zero for a stopped server
}

// FenceOptions says how far a fence goes.
type FenceOptions struct {
	// KillAfter is how long a walreceiver may take to end before it is killed, upon which the standby restarts its processes; 0 = it is not killed.
	KillAfter time.Duration
}

func (s *Server) passPath() string { return filepath.Join(s.cfg.DataDir, passName) }

func (s *Server) removePass() error {
	if err := os.Remove(s.passPath()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// fenced are the settings of a server that listens to nobody and acknowledges nothing.
func fenced() map[string]string {
	return map[string]string{
		"primary_conninfo": "", "primary_slot_name": "", "restore_command": "", "recovery_target_timeline": "latest", "synchronous_standby_names": holdNames,
	}
}

// WriteFence writes what Fence writes, durably: no upstream, no password, the hold. A running server is not told. It goes before every start of a server
// that is to wait for orders.
func (s *Server) WriteFence() error {
	if err := s.writeManaged(change{set: fenced(), before: s.removePass}); err != nil {
		return fmt.Errorf("write the fence: %w", err)
	}
	return nil
}

// Fence makes the server listen to nobody, across restarts, and puts it on hold, then reports what it holds.
//
// Of a standby it ends the walreceiver, however far replay is behind, and a pause of replay, and returns once the startup process has gone over all that
// is on disk with the new settings and waits for more: no walreceiver can run after that before Follow. ErrNotDrained comes with a Report of how far it
// is; ErrReceiverRuns means that it is not fenced. A server that is down, or goes down meanwhile, is ErrNotRunning: its file is written. All is safe to
// repeat.
func (d *Driver) Fence(ctx context.Context, o FenceOptions) (Report, error) {
	ctx, cancel := withDefaultTimeout(ctx, applyTimeout)
	defer cancel()
	began := time.Now()
	r, err := d.fence(ctx, o)
	if err != nil {
		return r, fmt.Errorf("fence: %w", err)
	}
	d.s.log.Debug("fenced", "position", r.Position.String(), "primary", r.Primary, "took", time.Since(began))
	return r, nil
}

func (d *Driver) fence(ctx context.Context, o FenceOptions) (Report, error) {
	octx, cancel := context.WithCancel(ctx)
	opened := make(chan struct{})
	defer func() { cancel(); <-opened }()
	go func() {
		defer close(opened)
		_ = d.ident.ready(octx) // who asks opens it if this failed, and says why
	}()
	if err := d.s.WriteFence(); err != nil {
		return Report{}, err
	}
	if err := d.s.Reload(ctx); err != nil {
		return Report{}, err
	}
	if err := d.s.winsError(); err != nil {
		return Report{}, err
	}
	f := fencing{d: d, o: o}
	for {
		var r Report
		err := d.act.use(ctx, func(q context.Context, conn *pgx.Conn) error {
			var err error
			r, err = f.observe(ctx, q, conn)
			return err
		})
		if !errors.Is(err, errLost) || ctx.Err() != nil {
			return r, err
		}
		// A standby whose walreceiver was killed restarts its processes; one that starts takes no sessions before it is consistent.
		life, lifeErr := d.s.Life()
		if lifeErr != nil {
			return Report{}, lifeErr
		}
		if life == (Life{}) {
			return Report{}, fmt.Errorf("%w: %w", ErrNotRunning, err)
		}
		d.s.log.Debug("fence: looking again", "reason", err)
		t := time.NewTimer(reconnectPoll)
		select {
		case <-ctx.Done():
			t.Stop()
			return Report{}, fmt.Errorf("%w: %w", context.Cause(ctx), err)
		case <-t.C:
		}
	}
}

// fencing is a fence under way, over lost sessions.
type fencing struct {
	d      *Driver
	o      FenceOptions
	ended  int       // the walreceiver that was told to end
	endAt  time.Time // when
	killed int       // the one that was killed
	asked  bool      // a pause of replay was ended, unless it stays
	stays  string    // why it does
}

// observe collects the whole proof within one life of one session.
//
// The proof that the startup process has the new settings and has read all: it was seen asleep in retryWait, was sent SIGHUP, which sets its latch, and
// is seen asleep there again, having slept anew. Between, it went over pg_wal to the end, asked for a walreceiver if it had an address (then it would
// wait for that one), and read its settings. That the file is one that the server takes is seen in our session's own settings.
func (f *fencing) observe(ctx, q context.Context, conn *pgx.Conn) (r Report, err error) {
	life, err := f.d.s.Life()
	if err != nil {
		return r, err
	}
	r.Life = life
	startup, kickedAt, kicked, told := 0, uint64(0), false, false
	var last standing
	err = poll(ctx, func() (bool, string, error) {
		before := sleepOf(startup)
		v, err := look(q, conn)
		if err != nil {
			return false, "", err
		}
		after := sleepOf(startup)
		last = v
		shown := f.d.s.shows(v, fenced())
		if !v.recovery {
			return shown, "the reload is not seen yet" + f.d.whyNotShown(v, fenced()), nil
		}
		if startup != v.startup {
			startup, kicked, told = v.startup, false, false
		}
		// The new file is on disk, so that the startup process can read it before the postmaster has come to say so.
		if !told {
			if err := signalChild(life.PID, startup, syscall.SIGHUP); err != nil {
				return false, "", err
			}
			told = true
		}
		if v.receiver != 0 {
			return false, fmt.Sprintf("walreceiver %d runs", v.receiver), f.end(life.PID, v.receiver)
		}
		state := fmt.Sprintf("received %s, replayed %s, the startup process waits in %q", v.receive, v.replay, v.wait)
		if v.paused {
			state += ", replay is paused" + f.stays
			if !f.asked {
				return false, state, f.resume(q, conn)
			}
		}
		if v.wait != retryWait || !before.asleep || before != after {
			return false, state, nil
		}
		if !kicked {
			kicked, kickedAt = true, after.count
			return false, state, signalChild(life.PID, startup, syscall.SIGHUP)
		}
		if !shown {
			state = "the reload is not seen yet" + f.d.whyNotShown(v, fenced())
		}
		return shown && after.count > kickedAt, state, nil
	})
	r.Primary, r.Receive, r.Replay, r.Paused = last.pid != 0 && !last.recovery, last.receive, last.replay, last.paused
	if err != nil {
		switch {
		case ctx.Err() == nil:
		case !f.d.s.shows(last, fenced()):
			err = fmt.Errorf("%w%s", err, f.d.s.fileErrors(conn))
		case !last.recovery:
		case last.receiver != 0:
			err = fmt.Errorf("%w: %w", ErrReceiverRuns, err)
		default:
			err = fmt.Errorf("%w: %w", ErrNotDrained, err)
		}
		return r, err
	}
	id, err := f.d.ident.identify(ctx)
	if err != nil {
		return r, err
	}
	// Still the same life of the server, and still what it was.
	v, err := look(q, conn)
	if err != nil {
		return r, err
	}
	if v.recovery != last.recovery || v.receiver != 0 || !f.d.s.shows(v, fenced()) {
		return r, errors.New("somebody else changes the server at the same time")
	}
	r.SystemID, r.Position = id.SystemID, Position{id.Timeline, id.LSN}
	if h, err := f.d.s.History(id.Timeline); err == nil && id.Timeline > 1 && len(h) == 0 {
		return r, fmt.Errorf("it runs on timeline %d, whose history file says that the number is only reserved", id.Timeline)
	}
	if v.recovery {
		named, _, err := f.d.s.histories()
		if err != nil {
			return r, err
		}
		if k := len(named); k > 0 && named[k-1] > id.Timeline {
			r.Beyond = named[k-1]
		}
	}
	return r, nil
}

// end tells the walreceiver to end. The startup process does so only once it has replayed all that was received, and it is no use to a frozen one.
func (f *fencing) end(postmaster, receiver int) error {
	switch {
	case receiver != f.ended:
		f.ended, f.endAt = receiver, time.Now()
		return signalChild(postmaster, receiver, syscall.SIGTERM)
	case f.o.KillAfter > 0 && f.killed != receiver && time.Since(f.endAt) >= f.o.KillAfter:
		f.killed = receiver
		f.d.s.log.Warn("killing a walreceiver that does not end", "pid", receiver, "after", time.Since(f.endAt))
		return signalChild(postmaster, receiver, syscall.SIGKILL)
	}
	return nil
}

// resume ends a pause of replay, which would keep the standby from replaying what it has for as long as somebody forgets it. Two kinds of pause stay, since
// their end would be that of recovery or of the server: one at a recovery target, and from PostgreSQL 14 on one because a setting is lower than the primary's.
func (f *fencing) resume(q context.Context, conn *pgx.Conn) error {
	c, err := f.d.s.Control()
	if err != nil {
		return err
	}
	tag, err := conn.Exec(q, `
SELECT pg_wal_replay_resume() WHERE pg_is_in_recovery()
   AND NOT EXISTS (SELECT FROM pg_settings WHERE name ~ '^recovery_target(_lsn|_name|_time|_xid)?$' AND setting <> '')
   AND current_setting('max_connections')::int >= $1::int AND current_setting('max_worker_processes')::int >= $2::int
   AND current_setting('max_wal_senders')::int >= $3::int AND current_setting('max_prepared_transactions')::int >= $4::int
   AND current_setting('max_locks_per_transaction')::int >= $5::int`, c.MaxConnections, c.MaxWorkerProcesses, c.MaxWALSenders, c.MaxPreparedXacts, c.MaxLocksPerXact)
	if err != nil {
		return fmt.Errorf("resume replay: %w", err)
	}
	f.asked = true
	if tag.RowsAffected() == 0 {
		f.stays = " and stays so: at its end recovery would end, or the server"
		return nil
	}
	f.d.s.log.Info("replay was paused, it goes on so that what was received counts")
	return nil
}

// signalChild signals a process of the postmaster; one that has gone meanwhile is no error.
func signalChild(postmaster, pid int, sig syscall.Signal) error {
	p, err := os.FindProcess(pid) // a pidfd: the number can't go to another process from here on
	if err != nil {
		return fmt.Errorf("signal process %d: %w", pid, err)
	}
	defer p.Release() //nolint:errcheck // gives back the descriptor
	info, err := readProc(pid)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("signal process %d: %w", pid, err)
	}
	if info.parent != postmaster {
		return nil
	}
	if err := p.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("signal process %d: %w", pid, err)
	}
	return nil
}

// sleep is how often a process has gone to sleep, and whether it sleeps.
type sleep struct {
	asleep bool
	count  uint64
}

// sleepOf reads /proc/PID/status (proc_pid_status(5)); the zero value if there is no such process.
func sleepOf(pid int) sleep {
	if pid == 0 {
		return sleep{}
	}
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return sleep{}
	}
	var v sleep
	for line := range strings.Lines(string(b)) {
		name, value, _ := strings.Cut(line, ":")
		switch value = strings.TrimSpace(value); name {
		case "State":
			v.asleep = strings.HasPrefix(value, "S")
		case "voluntary_ctxt_switches":
			if v.count, err = strconv.ParseUint(value, 10, 64); err != nil {
				return sleep{}
			}
		}
	}
	return v
}

// standing is one look at the server through a session that stays.
type standing struct {
	pid      int // of our backend; 0 = nothing was seen
	recovery bool
	loaded   time.Time // when our backend read the configuration
	settings map[string]string
	receiver int // process number of the walreceiver, 0 if none runs
	startup  int
	wait     string // wait_event of the startup process
	receive  LSN
	replay   LSN
	paused   bool // a pause is asked for or in effect
}

// watched are the settings that a look brings.
var watched = []string{"primary_conninfo", "primary_slot_name", "restore_command", "synchronous_standby_names"}

// look takes well under a millisecond.
func look(ctx context.Context, conn *pgx.Conn) (standing, error) {
	var v standing
	var values [4]string
	var receiver, startup *int
	var wait, receive, replay *string
	var paused *bool
	err := conn.QueryRow(ctx, `
SELECT pg_backend_pid(), r, pg_conf_load_time(), current_setting('primary_conninfo'), current_setting('primary_slot_name'), current_setting('restore_command'),
       current_setting('synchronous_standby_names'), a.receiver, a.startup, a.wait,
       CASE WHEN r THEN pg_last_wal_receive_lsn()::text END, CASE WHEN r THEN pg_last_wal_replay_lsn()::text END,
       CASE WHEN r AND pg_is_in_recovery() THEN pg_is_wal_replay_paused() END
FROM (SELECT pg_is_in_recovery() AS r OFFSET 0) AS q,
     (SELECT max(pid) FILTER (WHERE backend_type = 'walreceiver') AS receiver, max(pid) FILTER (WHERE backend_type = 'startup') AS startup,
             max(wait_event) FILTER (WHERE backend_type = 'startup') AS wait FROM pg_stat_activity) AS a`).
		Scan(&v.pid, &v.recovery, &v.loaded, &values[0], &values[1], &values[2], &values[3], &receiver, &startup, &wait, &receive, &replay, &paused)
	if err != nil {
		return standing{}, err
	}
	v.settings = map[string]string{}
	for i, n := range watched {
		v.settings[n] = values[i]
	}
	if receiver != nil {
		v.receiver = *receiver
	}
	if startup != nil {
		v.startup = *startup
	}
	if wait != nil {
		v.wait = *wait
	}
	v.paused = paused != nil && *paused
	if v.receive, err = optionalLSN(receive); err != nil {
		return standing{}, err
	}
	v.replay, err = optionalLSN(replay)
	return v, err
}

// shows reports whether a look shows what we wrote. Before 14 restore_command is read at the start alone.
func (s *Server) shows(v standing, want map[string]string) bool {
	for _, n := range watched {
		w, ok := want[n]
		if ok && v.settings[n] != w && (n != "restore_command" || s.version >= 14) {
			return false
		}
	}
	return v.pid != 0
}

// whyNotShown says which setting differs.
func (d *Driver) whyNotShown(v standing, want map[string]string) string {
	var b strings.Builder
	for _, n := range watched {
		w, ok := want[n]
		if !ok || v.settings[n] == w {
			continue
		}
		shown := v.settings[n]
		if n == "primary_conninfo" && shown != "" {
			shown = "set"
		}
		fmt.Fprintf(&b, "; %s is %q", n, shown)
	}
	return b.String()
}

// StoppedReport is the Report of a server that is down, from its control file alone: ErrNotClean unless it was shut down cleanly as a primary, since
// a standby may have more in pg_wal than the file says, and ErrRunning if it runs.
func (s *Server) StoppedReport() (Report, error) {
	if err := s.mustBeDown(); err != nil {
		return Report{}, fmt.Errorf("report the end of WAL: %w", err)
	}
	if s.RewindIncomplete() {
		return Report{}, fmt.Errorf("report the end of WAL: %w", ErrRewindIncomplete)
	}
	c, err := s.Control()
	if err != nil {
		return Report{}, fmt.Errorf("report the end of WAL: %w", err)
	}
	if c.State != StateShutDown || c.EndLSN() == 0 {
		return Report{}, fmt.Errorf("report the end of WAL: %w (%s)", ErrNotClean, c.State)
	}
	return Report{SystemID: c.SystemID, Position: Position{c.EndTimeline(), c.EndLSN()}, Primary: true}, nil
}
