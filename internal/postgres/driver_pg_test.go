//go:build pg

package postgres

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// driven is a node with its driver.
type driven struct {
	*node
	*Driver
	name string
}

// drive connects a driver to a running node.
func drive(n *node, name string) *driven {
	n.t.Helper()
	d := &driven{n, NewDriver(n.Server), name}
	n.t.Cleanup(d.Close)
	if err := d.Connect(n.ctx()); err != nil {
		n.t.Fatal(err)
	}
	return d
}

// target is how others follow this node.
func (d *driven) target(as string) Target {
	return Target{Host: "127.0.0.1", Port: d.port, User: "postgres", Application: as, Options: map[string]string{"connect_timeout": "3"}}
}

// standbyNamed makes a standby that follows up under its own name.
func (d *driven) standbyNamed(name, more string) *driven {
	d.t.Helper()
	n := d.standby(more)
	b := drive(n, name)
	b.follow(d)
	return b
}

func (d *driven) follow(up *driven) {
	d.t.Helper()
	began := time.Now()
	to := up.target(d.name)
	to.Timeline = up.view().Timeline
	if err := d.Follow(d.ctx(), to); err != nil {
		d.t.Fatal(err)
	}
	d.t.Logf("%s streams from %s after %v", d.name, up.name, time.Since(began))
}

func (d *driven) fence() Report {
	d.t.Helper()
	began := time.Now()
	r, err := d.Fence(d.ctx(), FenceOptions{})
	if err != nil {
		d.t.Fatal(err)
	}
	d.t.Logf("%s fenced after %v: %+v", d.name, time.Since(began), r)
	return r
}

func (d *driven) view() PrimaryView {
	d.t.Helper()
	v, err := d.View(d.ctx())
	if err != nil {
		d.t.Fatal(err)
	}
	return v
}

func (d *driven) setSync(names ...string) {
	d.t.Helper()
	began := time.Now()
	if err := d.SetSync(d.ctx(), names); err != nil {
		d.t.Fatal(err)
	}
	d.t.Logf("%s: list %v set after %v", d.name, names, time.Since(began))
}

// pidOf is a process of the server by its kind.
func (d *driven) pidOf(kind string) int {
	d.t.Helper()
	var pid int
	if _, err := fmt.Sscan(d.query("SELECT pid::text FROM pg_stat_activity WHERE backend_type = '"+kind+"'"), &pid); err != nil {
		d.t.Fatal(err)
	}
	return pid
}

// commit is a client's commit under way.
type commit struct {
	done    chan error
	warning atomic.Bool
	took    time.Duration
}

// commit writes a row by a session of the server's own settings.
func (d *driven) commit(row string) *commit {
	d.t.Helper()
	cfg, err := pgx.ParseConfig(fmt.Sprintf("host=%s port=%d user=postgres dbname=postgres application_name=client", d.root, d.port))
	if err != nil {
		d.t.Fatal(err)
	}
	c := &commit{done: make(chan error, 1)}
	cfg.OnNotice = func(_ *pgconn.PgConn, n *pgconn.Notice) { c.warning.Store(n.Severity == "WARNING") }
	conn, err := pgx.ConnectConfig(d.ctx(), cfg)
	if err != nil {
		d.t.Fatal(err)
	}
	ctx := d.ctx()
	go func() {
		defer closeConn(conn)
		began := time.Now()
		_, err := conn.Exec(ctx, "INSERT INTO t VALUES ($1)", row)
		c.took = time.Since(began)
		c.done <- err
	}()
	return c
}

// awaitWaiting waits until so many clients wait for standbys.
func (d *driven) awaitWaiting(count int) {
	d.t.Helper()
	d.await(fmt.Sprintf("%d waiting commits", count), func() (bool, string) {
		v, err := d.View(d.ctx())
		return err == nil && v.Waiting == count, fmt.Sprintf("%+v %v", v, err)
	})
}

func (c *commit) acknowledged(t *testing.T) {
	t.Helper()
	select {
	case err := <-c.done:
		if err != nil || c.warning.Load() {
			t.Fatalf("commit: got %v, warning %v", err, c.warning.Load())
		}
	case <-time.After(10 * time.Second):
		t.Fatal("commit: not acknowledged")
	}
}

func (c *commit) pending(t *testing.T) {
	t.Helper()
	select {
	case err := <-c.done:
		t.Fatalf("commit: ended with %v, warning %v, want that it waits", err, c.warning.Load())
	default:
	}
}

// trio is a primary and two standbys that stream, with a table.
func trio(t *testing.T, more string) (a, b, c *driven) {
	t.Helper()
	n := newNode(t, more).start()
	a = drive(n, "a")
	a.sql("CREATE TABLE t (v text)")
	return a, a.standbyNamed("b", more), a.standbyNamed("c", more)
}

func TestFenceAndFollow(t *testing.T) {
	t.Parallel()
	a := drive(newNode(t, "").start(), "a")
	a.sql("CREATE TABLE t (v text)")
	b := a.standbyNamed("b", "")
	var took []time.Duration
	for i := range 10 {
		a.commit(fmt.Sprint("before", i)).acknowledged(t)
		began := time.Now()
		r := b.fence()
		took = append(took, time.Since(began))
		end := a.view().FlushLSN
		if r.SystemID == 0 || r.SystemID != a.facts().SystemID || r.Timeline != 1 || r.Primary || r.LSN > end || r.Paused {
			t.Fatalf("report: got %+v, the primary is at %s", r, end)
		}
		a.commit(fmt.Sprint("after", i)).acknowledged(t)
		if v, err := b.Fence(b.ctx(), FenceOptions{}); err != nil || v.Position != r.Position || v.Life != r.Life {
			t.Fatalf("again: got %+v, %v, want %+v", v, err, r)
		}
		if got := b.query("SELECT count(*)::text FROM pg_stat_activity WHERE backend_type = 'walreceiver'"); got != "0" {
			t.Fatalf("walreceivers: got %s", got)
		}
		b.follow(a)
		if _, err := a.Barrier(a.ctx(), []string{"b"}); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("fenced in %v", took)
	b.fence()
	// It survives a restart, with everything else that the file holds.
	b.stop()
	if err := b.StartStandby(b.ctx()); err != nil {
		t.Fatal(err)
	}
	a.commit("while b restarts").acknowledged(t)
	r := b.fence()
	if v := b.view(); v.SyncNames != holdNames || !v.InRecovery || r.Receive != 0 || r.LSN == 0 || r.LSN != r.Replay {
		t.Errorf("after a restart: got %+v, %+v", v, r)
	}
	if m, err := b.Managed(); err != nil || m["primary_conninfo"] != "" || m["restore_command"] != "" || m["synchronous_standby_names"] != holdNames {
		t.Errorf("file: got %v, %v", m, err)
	}
	// A stopped server is written to alone.
	b.stop()
	if _, err := b.Fence(b.ctx(), FenceOptions{}); !errors.Is(err, ErrNotRunning) {
		t.Errorf("stopped: got %v, want ErrNotRunning", err)
	}
	if _, err := b.StoppedReport(); !errors.Is(err, ErrNotClean) {
		t.Errorf("report of a stopped standby: got %v, want ErrNotClean", err)
	}
	if err := b.Follow(b.ctx(), a.target("b")); err != nil {
		t.Error(err)
	}
	if err := b.StartStandby(b.ctx()); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Barrier(a.ctx(), []string{"b"}); err != nil {
		t.Error(err)
	}
	// The report of a clean stop is what everybody else has.
	a.stop()
	r, err := a.StoppedReport()
	if got := b.fence(); err != nil || !r.Primary || r.Position != got.Position || r.SystemID != got.SystemID {
		t.Errorf("report of a stopped primary: got %+v, %v, the standby's is %+v", r, err, got)
	}
	a.start()
	a.crash()
	if _, err := a.StoppedReport(); !errors.Is(err, ErrNotClean) {
		t.Errorf("report of a crashed primary: got %v, want ErrNotClean", err)
	}
}

// TestFenceRacesAConnection fences while the standby is somewhere on its way to an upstream: nothing may come from there afterwards.
func TestFenceRacesAConnection(t *testing.T) {
	t.Parallel()
	a := drive(newNode(t, "").start(), "a")
	a.sql("CREATE TABLE t (v text)")
	b := a.standbyNamed("b", "wal_retrieve_retry_interval = 20ms")
	b.fence()
	for i := range 12 {
		if err := b.WriteFollow(a.target("b")); err != nil {
			t.Fatal(err)
		}
		if err := b.Reload(b.ctx()); err != nil {
			t.Fatal(err)
		}
		<-time.After(time.Duration(i) * 1500 * time.Microsecond)
		r := b.fence()
		a.commit(fmt.Sprint(i)).acknowledged(t)
		<-time.After(60 * time.Millisecond) // three times as long as the startup process waits before it tries again
		if v, err := b.ident.identify(b.ctx()); err != nil || v.LSN != r.LSN || v.Timeline != r.Timeline {
			t.Fatalf("round %d: got %+v, %v, reported %+v", i, v, err, r)
		}
		a.await("the walsender's end", func() (bool, string) { n := len(a.view().Named("b")); return n == 0, fmt.Sprint(n) })
	}
}

func TestFencePrimary(t *testing.T) {
	t.Parallel()
	a := drive(newNode(t, "").start(), "a")
	a.sql("CREATE TABLE t (v text)")
	r := a.fence()
	if !r.Primary || r.Timeline != 1 || r.LSN < a.view().FlushLSN || r.Life.PID != a.facts().PID {
		t.Errorf("got %+v, is at %s", r, a.view().FlushLSN)
	}
	c := a.commit("held")
	a.awaitWaiting(1)
	c.pending(t)
	if err := a.ProveHeld(a.ctx()); err != nil {
		t.Error(err)
	}
	c.pending(t)
	if got := a.view().Waiting; got != 1 {
		t.Errorf("waiting: got %d, want the client alone", got)
	}
	if err := a.Follow(a.ctx(), a.target("a")); err == nil || !strings.Contains(err.Error(), "it is a primary") {
		t.Errorf("follow: got %v", err)
	}
	a.setSync()
	c.acknowledged(t)
}

// TestFenceBehindReplay: what holds up replay must not keep the walreceiver alive.
func TestFenceBehindReplay(t *testing.T) {
	t.Parallel()
	a := drive(newNode(t, "").start(), "a")
	a.sql("CREATE TABLE t (v text)")
	for name, hold := range map[string]func(b *driven) (release func()){
		"query": func(b *driven) func() {
			conn := b.session()
			if _, err := conn.Exec(b.ctx(), "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM t"); err != nil {
				b.t.Fatal(err)
			}
			a.sql("ALTER TABLE t ADD COLUMN c" + fmt.Sprint(time.Now().UnixNano()) + " int")
			b.await("the conflict", func() (bool, string) {
				w := b.query("SELECT coalesce(wait_event, '') FROM pg_stat_activity WHERE backend_type = 'startup'")
				return strings.HasPrefix(w, "Recovery") && w != "RecoveryWalStream" || w == "relation", w
			})
			return func() { closeConn(conn) }
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := a.standbyNamed("b_"+name, "max_standby_streaming_delay = -1\nmax_standby_archive_delay = -1\n")
			b.t = t
			release := hold(b)
			a.sql("INSERT INTO t (v) SELECT repeat('x', 1000) FROM generate_series(1, 20000)") // more than a segment
			end, err := a.Barrier(a.ctx(), []string{b.name})
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := timeoutContext(t, 3*time.Second)
			defer cancel()
			r, err := b.Fence(ctx, FenceOptions{})
			if !errors.Is(err, ErrNotDrained) || r.Receive < end || r.Replay >= end || r.Paused {
				t.Fatalf("behind: got %+v, %v, want ErrNotDrained at %s", r, err, end)
			}
			t.Log(err)
			a.await("the walsender's end", func() (bool, string) { n := len(a.view().Named(b.name)); return n == 0, fmt.Sprint(n) })
			release()
			r = b.fence()
			if r.LSN < end || r.LSN != max(r.Receive, r.Replay) || r.Paused {
				t.Errorf("drained: got %+v, want at least %s", r, end)
			}
			b.follow(a)
		})
	}
}

// TestFencePausedReplay: a pause that somebody asked for and forgot ends, one whose end would be that of recovery or of the server does not.
func TestFencePausedReplay(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, primary, standby string
		pause                  func(a, b *driven)
		stays                  bool
	}{
		{"asked for", "", "", func(_, b *driven) { b.sql("SELECT pg_wal_replay_pause()") }, false},
		{"recovery target", "", "recovery_target_name = 'mark'\n", func(a, _ *driven) { a.sql("SELECT pg_create_restore_point('mark')") }, true},
		{"low setting", "max_connections = 50\n", "", func(a, b *driven) {
			if b.Version() < 14 {
				b.t.Skip("such a server ends")
			}
			a.stop()
			if err := os.WriteFile(a.ConfigFile(), append(mustRead(b.t, a.ConfigFile()), "max_connections = 110\n"...), 0o600); err != nil {
				b.t.Fatal(err)
			}
			a.start()
		}, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			a := drive(newNode(t, tt.primary).start(), "a")
			a.sql("CREATE TABLE t (v text)")
			b := a.standbyNamed("b", tt.standby)
			tt.pause(a, b)
			b.await("the pause", func() (bool, string) {
				paused := b.query("SELECT pg_is_wal_replay_paused()::text")
				return paused == "true", paused
			})
			a.commit("seen").acknowledged(t)
			end, err := a.Barrier(a.ctx(), []string{"b"})
			if err != nil {
				t.Fatal(err)
			}
			if !tt.stays {
				if r := b.fence(); r.LSN < end || r.Replay < end || r.Paused {
					t.Errorf("got %+v, want all replayed, %s", r, end)
				}
				if got := b.query("SELECT string_agg(v, ',') FROM t"); got != "seen" {
					t.Errorf("rows: got %q", got)
				}
				return
			}
			ctx, cancel := timeoutContext(t, 3*time.Second)
			defer cancel()
			if r, err := b.Fence(ctx, FenceOptions{}); !errors.Is(err, ErrNotDrained) || !strings.Contains(err.Error(), "stays so") || r.Receive < end || !r.Paused {
				t.Errorf("got %+v, %v, want ErrNotDrained at %s, and that the pause stays", r, err, end)
			}
			if f := b.facts(); !f.Answering || !f.InRecovery || !f.ReplayPaused {
				t.Errorf("got %+v, want a standby that is paused", f)
			}
		})
	}
}

// TestFenceFrozenReceiver: as long as it is there, it may confirm what it has received.
func TestFenceFrozenReceiver(t *testing.T) {
	t.Parallel()
	a := drive(newNode(t, "").start(), "a")
	a.sql("CREATE TABLE t (v text)")
	b := a.standbyNamed("b", "")
	b.freeze(b.pidOf("walreceiver"))
	ctx, cancel := timeoutContext(t, 3*time.Second)
	defer cancel()
	if r, err := b.Fence(ctx, FenceOptions{}); !errors.Is(err, ErrReceiverRuns) {
		t.Fatalf("got %+v, %v, want ErrReceiverRuns", r, err)
	}
	life, err := b.Life()
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	r, err := b.Fence(b.ctx(), FenceOptions{KillAfter: 50 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("fenced with a kill after %v: %+v", time.Since(began), r)
	if r.Receive != 0 || r.LSN == 0 || r.Life != life {
		t.Errorf("got %+v, want a report of the same postmaster, started afresh", r)
	}
	b.follow(a)

	// Where a crash ends the server, the fence is in its file.
	b.stop()
	if err := os.WriteFile(b.ConfigFile(), append(mustRead(t, b.ConfigFile()), "restart_after_crash = off\n"...), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := b.StartStandby(b.ctx()); err != nil {
		t.Fatal(err)
	}
	b.await("the stream", func() (bool, string) { return b.facts().Upstream.Status == "streaming", "" })
	b.freeze(b.pidOf("walreceiver"))
	if _, err := b.Fence(b.ctx(), FenceOptions{KillAfter: 50 * time.Millisecond}); !errors.Is(err, ErrNotRunning) {
		t.Errorf("without a restart: got %v, want ErrNotRunning", err)
	}
	if err := b.StartStandby(b.ctx()); err != nil {
		t.Fatal(err)
	}
	b.fence()
}

func mustRead(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestKilledInTheMiddle kills the postmaster at some moment of each act, starts the server again and has the act done.
func TestKilledInTheMiddle(t *testing.T) {
	t.Parallel()
	a := drive(newNode(t, "").start(), "a")
	a.sql("CREATE TABLE t (v text)")
	b := a.standbyNamed("b", "")
	acts := []struct {
		name string
		act  func(ctx context.Context) error
	}{
		{"fence", func(ctx context.Context) error { _, err := b.Fence(ctx, FenceOptions{}); return err }},
		{"follow", func(ctx context.Context) error { return b.Follow(ctx, a.target("b")) }},
		{"hold", func(ctx context.Context) error { return b.Hold(ctx) }},
		{"list", func(ctx context.Context) error { return b.SetSync(ctx, []string{"c", HoldName}) }},
		{"slots", func(ctx context.Context) error { _, _, err := b.Slots(ctx, []string{"a", "c"}); return err }},
	}
	for round := range 3 {
		for i, tt := range acts {
			done := make(chan error, 1)
			ctx, cancel := timeoutContext(t, 5*time.Second)
			go func() { done <- tt.act(ctx) }()
			<-time.After(time.Duration(round*len(acts)+i) * 300 * time.Microsecond)
			b.crash()
			began := time.Now()
			err := <-done
			cancel()
			t.Logf("%s, round %d: %v, %v after the crash", tt.name, round, err, time.Since(began))
			if took := time.Since(began); took > 4*time.Second {
				t.Errorf("%s: took %v to see that the server has gone", tt.name, took)
			}
			if err := b.StartStandby(b.ctx()); err != nil {
				t.Fatalf("start after %s: %v", tt.name, err)
			}
			if err := tt.act(b.ctx()); err != nil {
				t.Fatalf("%s after a restart: %v", tt.name, err)
			}
		}
	}
	m, err := b.Managed()
	if err != nil || m["synchronous_standby_names"] != `FIRST 2 ("c", pgnotify_hold)` || !strings.Contains(m["primary_conninfo"], fmt.Sprint(a.port)) {
		t.Errorf("file: got %v, %v", m, err)
	}
	if slots, _, err := b.Slots(b.ctx(), []string{"a", "c"}); err != nil || len(slots) != 2 {
		t.Errorf("slots: got %+v, %v", slots, err)
	}
}

// TestFullDisk: with no room for the new file the old one stays, the standby goes on, and nothing is half done.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	a := drive(newNode(t, "").start(), "a")
	a.sql("CREATE TABLE t (v text)")
	disk := smallDisk(t, 300<<20)
	_, uid, gid := runAs(t)
	if err := errors.Join(os.Chown(disk, uid, gid), os.Chmod(disk, 0o755)); err != nil {
		t.Fatal(err)
	}
	name, _, _ := runAs(t)
	if err := Clone(a.ctx(), CloneOptions{BinDir: a.BinDir(), Conninfo: a.upstream(), Dir: filepath.Join(disk, "d"), User: name, Hold: true}); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(filepath.Join(disk, "d", "postgresql.conf"), 0); err != nil {
		t.Fatal(err)
	}
	n := adopt(t, a.BinDir(), disk, "")
	if err := n.WriteFollow(Target{Host: "127.0.0.1", Port: a.port, User: "postgres", Application: "b", Password: "x"}); err != nil {
		t.Fatal(err)
	}
	if err := n.StartStandby(n.ctx()); err != nil {
		t.Fatal(err)
	}
	b := drive(n, "b")
	n.awaitStreaming(a.node)
	before := mustRead(t, n.includePath())
	fill := filepath.Join(disk, "fill")
	f, err := os.Create(fill)
	if err != nil {
		t.Fatal(err)
	}
	for size := 1 << 20; size > 0; {
		if _, err := f.Write(make([]byte, size)); err != nil {
			size /= 16
		}
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Fence(b.ctx(), FenceOptions{}); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("fence: got %v, want ENOSPC", err)
	}
	if err := b.SetSync(b.ctx(), []string{"x"}); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("list: got %v, want ENOSPC", err)
	}
	if _, err := b.Reserve([]Timeline{2, 3}, 4); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("reserve: got %v, want ENOSPC", err)
	}
	if now := mustRead(t, n.includePath()); string(now) != string(before) {
		t.Errorf("file: got %s\nwant %s", now, before)
	}
	if _, err := os.Stat(n.passPath()); err != nil {
		t.Errorf("password file: %v", err)
	}
	if f := n.facts(); f.Upstream.Status != "streaming" {
		t.Errorf("upstream: got %+v, want that it streams on", f.Upstream)
	}
	found := false
	for _, f := range b.Doctor(b.ctx(), 3) {
		found = found || f.Severity == Fault && f.Subject == "data directory"
	}
	if !found {
		t.Error("doctor does not find the full disk")
	}
	if err := os.Remove(fill); err != nil {
		t.Fatal(err)
	}
	if kind, err := b.historyKind(2); kind == historyNone {
		t.Logf("nothing reserved, %v", err)
	}
	b.fence()
	if _, err := os.Stat(n.passPath()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("password file: got %v, want that it is gone", err)
	}
	left, err := filepath.Glob(filepath.Join(n.DataDir(), ".*.tmp"))
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// TestPasswordFile: a walreceiver with the old address can't connect once the file has gone.
func TestPasswordFile(t *testing.T) {
	t.Parallel()
	a := drive(newNode(t, "").start(), "a")
	a.sql("CREATE TABLE t (v text)")
	b := a.standbyNamed("b", "")
	a.sql(`CREATE ROLE "re pl" LOGIN REPLICATION PASSWORD 'a:b\c d'`)
	hba := filepath.Join(a.DataDir(), "pg_hba.conf")
	if err := os.WriteFile(hba, append([]byte("host replication \"re pl\" 127.0.0.1/32 scram-sha-256\n"), mustRead(t, hba)...), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := a.Reload(a.ctx()); err != nil {
		t.Fatal(err)
	}
	to := a.target("b")
	to.User, to.Password = "re pl", `a:b\c d`
	if err := b.Follow(b.ctx(), to); err != nil {
		t.Fatal(err)
	}
	fi, err := os.Stat(b.passPath())
	if err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("password file: got %v, %v, want 0600", fi, err)
	}
	if ci := b.query("SHOW primary_conninfo"); strings.Contains(ci, `a:b`) || !strings.Contains(ci, b.passPath()) {
		t.Errorf("primary_conninfo: got %s", ci)
	}
	// The same by a file of the user's.
	mine := filepath.Join(b.root, "pass")
	if err := os.WriteFile(mine, []byte(`127.0.0.1:*:replication:re pl:a\:b\\c d`+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	b.fence()
	to.Password, to.PassFile = "", mine
	if err := b.Follow(b.ctx(), to); err != nil {
		t.Fatal(err)
	}
	b.fence()
	if _, err := os.Stat(b.passPath()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("password file: got %v, want that it is gone", err)
	}
	// The wrong password says so where it can be seen: no walreceiver.
	to.Password, to.PassFile = "wrong", ""
	ctx, cancel := timeoutContext(t, 3*time.Second)
	defer cancel()
	if err := b.Follow(ctx, to); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("wrong password: got %v, want that the time runs out", err)
	} else {
		t.Log(err)
	}
}

// TestSessions: a hung act does not hold up a look, a lost session is opened again, and an idle walsender of ours holds up no stop.
func TestSessions(t *testing.T) {
	t.Parallel()
	a := drive(newNode(t, "").start(), "a")
	a.view()
	var pid int
	if err := a.act.use(a.ctx(), func(_ context.Context, c *pgx.Conn) error { pid = int(c.PgConn().PID()); return nil }); err != nil {
		t.Fatal(err)
	}
	thaw := a.freeze(pid)
	ctx, cancel := timeoutContext(t, 10*time.Second)
	defer cancel()
	hung := make(chan error, 1)
	began := time.Now()
	go func() { hung <- a.Nudge(ctx) }()
	a.view()
	looked := time.Since(began)
	if err := <-hung; err != nil { // by a new session
		t.Errorf("act with a frozen session: %v", err)
	}
	if took := time.Since(began); took < pingTimeout && looked < pingTimeout {
		t.Errorf("the act ended after %s, and was not held up", took)
	}
	thaw()
	// Ended by somebody.
	a.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'pgnotify'")
	for range 2 {
		if err := a.Nudge(a.ctx()); err != nil {
			t.Error(err)
		}
		a.view()
		a.fence()
	}
	// Nobody of ours keeps the server up.
	began = time.Now()
	a.stop()
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("stop took %v", took)
	}
	if _, err := a.View(a.ctx()); err == nil {
		t.Error("a look at a stopped server: want an error")
	}
	a.start()
	a.view()
	// The start asked by a session of its own, whose backend may not have gone yet.
	count := "SELECT count(*)::text FROM pg_stat_activity WHERE application_name = 'pgnotify'"
	got := a.query(count)
	for end := time.Now().Add(5 * time.Second); got != "1" && time.Now().Before(end); got = a.query(count) {
		<-time.After(5 * time.Millisecond)
	}
	if got != "1" {
		t.Errorf("sessions: got %s, want only the one that was needed", got)
	}
}

// TestGlanceAgain: the files of a server that answers are read now and then. What they tell at its end, of another life and at the first checkpoint of a
// timeline is told at once.
func TestGlanceAgain(t *testing.T) {
	t.Parallel()
	a := drive(newNode(t, "").start(), "a")
	b := a.standbyNamed("b", "")
	look := func(d *driven) Glance {
		t.Helper()
		var g Glance
		for range 3 {
			var err error
			if g, err = d.Glance(d.ctx()); err != nil || !g.Answered {
				t.Fatalf("%s: answered %t, %v", d.name, g.Answered, err)
			}
		}
		if c, err := d.Control(); err != nil || g.Control.SystemID != c.SystemID {
			t.Errorf("%s: got %+v, %v, want %+v", d.name, g.Control, err, c)
		}
		return g
	}
	first := look(a)
	a.crash()
	if g, err := a.Glance(a.ctx()); !errors.Is(err, ErrNotRunning) || g.Life != (Life{}) || g.Answered || g.Control.State != StateInProduction {
		t.Errorf("after a crash: got %+v, %v, want ErrNotRunning", g, err)
	}
	a.start()
	if g := look(a); g.Life == first.Life || g.Life == (Life{}) {
		t.Errorf("started again: got life %v, the one before was %v", g.Life, first.Life)
	}
	if g := look(b); !g.InRecovery || g.Control.Timeline != 1 {
		t.Errorf("b: got %+v, want a standby on timeline 1", g)
	}
	b.fence()
	look(b)
	if _, err := b.PromoteTo(b.ctx(), 2); err != nil {
		t.Fatal(err)
	}
	if g := look(b); g.InRecovery || g.Position.Timeline != 2 {
		t.Errorf("b is promoted: got %+v", g)
	}
	b.sql("CHECKPOINT")
	if g := look(b); g.Control.Timeline != 2 {
		t.Errorf("b has had a checkpoint: got timeline %d of it, want 2", g.Control.Timeline)
	}
	b.stop()
	if g, err := b.Glance(b.ctx()); !errors.Is(err, ErrNotRunning) || g.Control.State != StateShutDown {
		t.Errorf("b is stopped: got %+v, %v, want it shut down", g, err)
	}
}

// TestGlanceOfAStandby: a look says what a replication session would, which is open while it is needed alone: up to version 15, all WAL that arrives
// wakes every walsender, and so would an idle one of ours, thousands of times a second.
func TestGlanceOfAStandby(t *testing.T) {
	t.Parallel()
	a := drive(newNode(t, "").start(), "a")
	a.sql("CREATE TABLE t (v text)")
	b, c := a.standbyNamed("b", ""), a.standbyNamed("c", "")
	ours := func(d *driven) string {
		return d.query("SELECT count(*)::text FROM pg_stat_activity WHERE backend_type = 'walsender' AND application_name = 'pgnotify'")
	}
	glance := func(d *driven, want Timeline) {
		t.Helper()
		g, err := d.Glance(d.ctx())
		if err != nil || !g.Answered {
			t.Fatalf("%s: answered %t, %v", d.name, g.Answered, err)
		}
		id, err := d.ident.identify(d.ctx())
		if at := (Position{id.Timeline, id.LSN}); err != nil || g.Position.Timeline != want || at != g.Position {
			t.Errorf("%s is at %s, %v, its replication session says %s, want timeline %d", d.name, g.Position, err, at, want)
		}
	}
	// rests waits until looks do without the session, and has one do so.
	rests := func(d *driven, want Timeline) {
		t.Helper()
		for end := time.Now().Add(5 * time.Second); ; {
			if _, err := d.Glance(d.ctx()); err != nil {
				t.Fatal(err)
			}
			if d.ident.conn == nil && ours(d) == "0" {
				break
			}
			if time.Now().After(end) {
				t.Fatalf("%s: %s replication sessions of ours stay open", d.name, ours(d))
			}
		}
		if g, err := d.Glance(d.ctx()); err != nil || d.ident.conn != nil || ours(d) != "0" {
			t.Errorf("%s: a look opened a replication session: %+v, %v", d.name, g, err)
		}
		glance(d, want)
		if g, err := d.Glance(d.ctx()); err != nil || d.ident.conn != nil {
			t.Errorf("%s: a look left a replication session open: %+v, %v", d.name, g, err)
		}
	}
	settle := func(up *driven, names ...string) {
		t.Helper()
		up.commit("x").acknowledged(t)
		if _, err := up.Barrier(up.ctx(), names); err != nil {
			t.Fatal(err)
		}
	}
	settle(a, "b", "c")
	rests(a, 1)
	rests(b, 1)
	rests(c, 1)
	// Without a walreceiver nobody but the session can tell.
	b.fence()
	glance(b, 1)
	if g, err := b.Glance(b.ctx()); err != nil || b.ident.conn == nil {
		t.Errorf("b is fenced: got %+v, %v, want the session open", g, err)
	}
	a.crash()
	c.fence()
	if _, err := b.PromoteTo(b.ctx(), 2); err != nil {
		t.Fatal(err)
	}
	glance(c, 1)
	c.follow(b)
	b.setSync("c")
	settle(b, "c")
	rests(b, 2)
	rests(c, 2)
	// Another life of the server has to be asked again.
	known := c.replays.Load()
	c.stop()
	if err := c.StartStandby(c.ctx()); err != nil {
		t.Fatal(err)
	}
	settle(b, "c")
	rests(c, 2)
	if now := c.replays.Load(); now == nil || known == nil || now.life == known.life || now.timeline != 2 {
		t.Errorf("what c replays: got %+v after a restart, %+v before", now, known)
	}
}

// TestNoStreamThatIsRefused: a standby that asks for what its primary does not have connects again and again, and no look takes that for a stream.
func TestNoStreamThatIsRefused(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, slot string
		refuse     func(a *driven)
	}{
		{"no such slot", "gone", func(*driven) {}},
		{"removed WAL", "", func(a *driven) {
			for range 3 {
				a.sql("SELECT pg_logical_emit_message(false, 'x', 'x'), pg_switch_wal()")
				if err := a.Checkpoint(a.ctx()); err != nil {
					a.t.Fatal(err)
				}
			}
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			a := drive(newNode(t, "wal_keep_size = 0\nmin_wal_size = 32MB\n").start(), "a")
			b := a.standbyNamed("b", "wal_retrieve_retry_interval = 5ms\n")
			b.stop()
			tt.refuse(a)
			to := a.target("b")
			to.Slot = tt.slot
			if err := b.Follow(b.ctx(), to); err != nil {
				t.Fatal(err)
			}
			if err := b.StartStandby(b.ctx()); err != nil {
				t.Fatal(err)
			}
			said := map[string]int{}
			attempts := map[int]bool{}
			b.await("many attempts", func() (bool, string) {
				for range 100 {
					v, err := b.see(b.ctx())
					if err != nil {
						t.Fatal(err)
					}
					if v.upstream != (Upstream{}) {
						said[v.upstream.Status]++
					}
					var pid int
					err = b.act.use(b.ctx(), func(q context.Context, conn *pgx.Conn) (err error) {
						var u Upstream
						if u, pid, err = upstream(q, conn); pid != 0 {
							said[u.Status]++
							attempts[pid] = true
						}
						return err
					})
					if err != nil {
						t.Fatal(err)
					}
				}
				return len(attempts) >= 40, fmt.Sprint(len(attempts))
			})
			t.Logf("looks at %d walreceivers: %v", len(attempts), said)
			if said["streaming"] != 0 || said[connecting] == 0 {
				t.Errorf("looks at %d walreceivers: %v, want some that connect and none that streams", len(attempts), said)
			}
		})
	}
}

// TestDriverOnEveryVersion goes over what a failover does, on each version that is installed.
func TestDriverOnEveryVersion(t *testing.T) {
	t.Parallel()
	dirs := binDirs(t)
	if len(dirs) == 0 {
		must(t, "no PostgreSQL is installed")
	}
	for _, bin := range dirs {
		name := strings.Fields(run(t, filepath.Join(bin, "postgres"), "--version"))[2]
		t.Run(name, func(t *testing.T) {
			root := place(t)
			initdb(t, bin, filepath.Join(root, "d"))
			a := drive(adopt(t, bin, root, "").start(), "a")
			a.sql("CREATE TABLE t (v text)")
			b, c := a.standbyNamed("b", ""), a.standbyNamed("c", "")
			if _, _, err := a.Slots(a.ctx(), []string{"b", "c"}); err != nil {
				t.Fatal(err)
			}
			to := a.target("c")
			to.Slot = SlotName("c")
			if err := c.Follow(c.ctx(), to); err != nil {
				t.Fatal(err)
			}
			a.setSync("b", HoldName)
			if err := a.ProveHeld(a.ctx()); err != nil {
				t.Fatal(err)
			}
			a.setSync("c", "b")
			if err := a.AwaitSync(a.ctx(), []string{"c", "b"}); err != nil {
				t.Fatal(err)
			}
			a.commit("x").acknowledged(t)
			a.crash()
			rb, rc := b.fence(), c.fence()
			if rb.Position != rc.Position || rb.Timeline != 1 {
				t.Errorf("reports: got %+v and %+v", rb, rc)
			}
			if _, err := b.Reserve([]Timeline{2, 3}, 3); err != nil {
				t.Fatal(err)
			}
			p, err := b.PromoteTo(b.ctx(), 3)
			if err != nil || p.Parent != 1 || p.SwitchLSN < rb.LSN {
				t.Fatalf("promote: got %+v, %v, reported %+v", p, err, rb)
			}
			if err := b.ProveHeld(b.ctx()); err != nil {
				t.Fatal(err)
			}
			c.follow(b)
			if err := b.AwaitFlushed(b.ctx(), []string{"c"}, p.EndLSN); err != nil {
				t.Fatal(err)
			}
			b.setSync("c")
			b.commit("y").acknowledged(t)
			slots, _, err := c.Slots(c.ctx(), []string{"a", "b"})
			if err != nil || len(slots) != 2 || slots[0].RestartLSN == 0 {
				t.Errorf("slots of a standby: got %+v, %v", slots, err)
			}
			if err := c.AdvanceSlots(c.ctx(), map[string]LSN{"a": p.EndLSN}); err != nil {
				t.Error(err)
			}
			for _, f := range b.Doctor(b.ctx(), 3) {
				if f.Subject == "server" {
					t.Error(f)
				}
			}
			if v := b.view(); v.Timeline != 3 || v.InRecovery || len(v.Walsenders) != 1 {
				t.Errorf("got %+v", v)
			}
		})
	}
}

// TestFenceInTheMiddleOfARecord: what was flushed or received may end within a record, and is less after a crash or a restart. What counts is what was
// replayed, and on a primary what is known to be whole.
func TestFenceInTheMiddleOfARecord(t *testing.T) {
	t.Parallel()
	a := drive(newNode(t, "wal_buffers = 256kB\n").start(), "a")
	b := a.standbyNamed("b", "")
	c := a.session()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_, _ = c.Exec(context.Background(), "SELECT pg_logical_emit_message(false, 'x', repeat('x', 200000000))") // one record; it ends with the server
	}()
	var whole LSN
	began := a.view().FlushLSN
	a.await("the record is on its way", func() (bool, string) {
		g, err := a.Glance(a.ctx())
		whole = max(whole, g.Whole)
		w := a.view().Named("b")
		return err == nil && len(w) == 1 && w[0].FlushLSN > began+1<<20, fmt.Sprintf("%+v %v", w, err)
	})
	a.freeze(a.view().Named("b")[0].PID)
	a.crash()
	<-ended
	r := b.fence()
	if r.Receive <= r.Replay {
		t.Fatalf("what it received ends with a record: %+v", r)
	}
	b.stop()
	if err := b.StartStandby(b.ctx()); err != nil {
		t.Fatal(err)
	}
	if again := b.fence(); again.LSN != r.Replay {
		t.Errorf("after a restart its WAL ends at %s, want %s", again.LSN, r.Replay)
	}
	if err := a.WriteFence(); err != nil {
		t.Fatal(err)
	}
	if err := a.StartStandby(a.ctx()); err != nil {
		t.Fatal(err)
	}
	after := a.fence()
	t.Logf("the primary was whole up to %s, and ends at %s; it had begun the record at %s", whole, after.LSN, began)
	if whole == 0 || after.LSN < whole {
		t.Errorf("the primary was whole up to %s, and its WAL ends at %s", whole, after.LSN)
	}
}
