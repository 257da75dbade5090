//go:build pg

package postgres

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

func (n *node) probe() Remote {
	n.t.Helper()
	r, err := Probe(n.ctx(), n.upstream())
	if err != nil {
		n.t.Fatal(err)
	}
	return r
}

// TestFailoverAndRewind is the life of two servers: stream, promote, diverge, rewind, follow, switch back.
func TestFailoverAndRewind(t *testing.T) {
	t.Parallel()
	a := newNode(t, "").start()
	a.sql("CREATE TABLE t (v text)")
	a.sql("INSERT INTO t VALUES ('shared')")
	b := a.standby("hot_standby_feedback = on")

	fa, fb := a.facts(), b.facts()
	if !fb.InRecovery || !fb.StandbySignal || fb.Upstream.Host != "127.0.0.1" || fb.Upstream.Port != a.port || fb.Upstream.Timeline != 1 || fb.SystemID != fa.SystemID {
		t.Errorf("standby: got %+v", fb)
	}
	if got := fb.Settings["primary_conninfo"]; got.Value != a.upstream() || got.File != b.includePath() || fb.PrimaryConninfo != a.upstream() {
		t.Errorf("upstream: got %+v, want %q from %s", got, a.upstream(), b.includePath())
	}
	if len(fa.ReplicationState) != 1 || fa.ReplicationState[0].Name != "x" || fa.ReplicationState[0].State != "streaming" || fa.ReplicationState[0].SyncState != "async" || fa.ReplicationState[0].Addr != "127.0.0.1" {
		t.Errorf("primary's standbys: got %+v", fa.ReplicationState)
	}
	if r := a.probe(); r.InRecovery || r.SystemID != fa.SystemID || r.Timeline != 1 || r.Version/10000 != a.Version() || r.Addr != fmt.Sprintf("127.0.0.1:%d", a.port) {
		t.Errorf("probe of the primary: got %+v", r)
	}
	if r := b.probe(); !r.InRecovery || r.Timeline != 1 || r.LSN != fb.LSN {
		t.Errorf("probe of the standby: got %+v, want LSN %s", r, fb.LSN)
	}
	b.compareControl(StateInArchiveRecovery)

	// Power loss of a, which has written more than b received.
	receiver, err := b.upstreamReceiver()
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(receiver, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	a.sql("INSERT INTO t SELECT repeat('lost', 1000) FROM generate_series(1, 5000)")
	a.crash()
	if err := syscall.Kill(receiver, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	b.await("the end of the crash of b's receiver", func() (bool, string) {
		f, err := b.Facts(b.ctx())
		return err == nil && f.Answering, fmt.Sprint(f, err)
	})
	if f := b.facts(); f.Timeline != 1 || f.LSN == 0 { // no walreceiver, so by IDENTIFY_SYSTEM
		t.Errorf("standby without upstream: got %s", f.Position())
	}
	began := time.Now()
	tli, lsn, err := b.Promote(b.ctx())
	t.Logf("promoted in %v", time.Since(began))
	if err != nil || tli != 2 || lsn == 0 {
		t.Fatalf("promote: got %d, %s, %v", tli, lsn, err)
	}
	if again, _, err := b.Promote(b.ctx()); again != 2 || err != nil {
		t.Errorf("promote again: got %d, %v", again, err)
	}
	if f := b.facts(); !f.Primary() || f.Timeline != 2 || f.StandbySignal {
		t.Errorf("promoted: got %+v", f)
	}
	b.sql("INSERT INTO t VALUES ('new')")
	if err := b.Checkpoint(b.ctx()); err != nil {
		t.Fatal(err)
	}
	if f := b.facts(); f.CheckpointTimeline != 2 {
		t.Errorf("checkpoint timeline: got %d, want 2", f.CheckpointTimeline)
	}

	// a has diverged.
	mine, err := a.LastWAL(a.ctx())
	if err != nil {
		t.Fatal(err)
	}
	h, err := b.History(2)
	if err != nil || len(h) != 1 || h[0].Timeline != 1 {
		t.Fatalf("history: got %+v, %v", h, err)
	}
	remote, err := FetchHistory(a.ctx(), b.upstream(), 2)
	if diff := cmp.Diff(h, remote); diff != "" || err != nil {
		t.Errorf("history over replication: %v (-file +fetched):\n%s", err, diff)
	}
	if !Diverged(mine, h, 2) {
		t.Errorf("a at %s has not diverged from %+v", mine, h)
	}
	keep := filepath.Join(a.DataDir(), "postgresql.conf")
	conf, err := os.ReadFile(keep)
	if err != nil {
		t.Fatal(err)
	}
	var steps int
	var done, total int64
	if err := a.Rewind(a.ctx(), b.upstream(), func(d, all int64) { steps, done, total = steps+1, d, all }); err != nil {
		t.Fatal(err)
	}
	if steps == 0 || done != total || total == 0 {
		t.Errorf("progress: got %d calls, the last %d of %d", steps, done, total)
	}
	if now, err := os.ReadFile(keep); string(now) != string(conf) || err != nil {
		t.Errorf("postgresql.conf is not our own any more: %v", err)
	}
	if a.RewindIncomplete() {
		t.Error("marked as incomplete")
	}
	if _, err := os.Stat(filepath.Join(a.DataDir(), standbySignal)); err != nil {
		t.Error(err)
	}
	if err := a.SetUpstream(a.ctx(), b.upstream()); err != nil {
		t.Fatal(err)
	}
	if err := a.StartStandby(a.ctx()); err != nil {
		t.Fatal(err)
	}
	a.awaitStreaming(b)
	if got := a.query("SELECT string_agg(v, ',' ORDER BY v) FROM t"); got != "new,shared" {
		t.Errorf("rows: got %.100q, want %q", got, "new,shared")
	}

	// A planned move back: b stops cleanly and has not diverged.
	b.stop()
	c, err := b.Control()
	if err != nil {
		t.Fatal(err)
	}
	end := Position{c.EndTimeline(), c.EndLSN()}
	if last, err := b.LastWAL(b.ctx()); err != nil || last != end {
		t.Errorf("end of WAL: got %s, %v, want %s", last, err, end)
	}
	if tli, _, err = a.Promote(a.ctx()); err != nil || tli != 3 {
		t.Fatalf("promote: got %d, %v, want 3", tli, err)
	}
	if h, err = FetchHistory(b.ctx(), a.upstream(), 3); err != nil {
		t.Fatal(err)
	}
	if Diverged(end, h, 3) {
		t.Errorf("b, cleanly stopped at %s, counts as diverged from %+v", end, h)
	}
	if err := b.SetUpstream(b.ctx(), a.upstream()); err != nil {
		t.Fatal(err)
	}
	if err := b.StartStandby(b.ctx()); err != nil {
		t.Fatal(err)
	}
	b.awaitStreaming(a)
	if f := b.facts(); f.Timeline != 3 {
		t.Errorf("timeline followed: got %d, want 3", f.Timeline)
	}
	b.stop()
	b.compareControl(StateShutDownInRecovery)
	if f := b.facts(); f.Running || !f.InRecovery || f.Timeline != 3 {
		t.Errorf("stopped standby: got %+v", f)
	}
	if last, err := b.LastWAL(b.ctx()); err != nil || last.Timeline != 3 || last.LSN < b.facts().LSN {
		t.Errorf("end of WAL of a stopped standby: got %s, %v, want timeline 3, at least %s", last, err, b.facts().LSN)
	}
}

// upstreamReceiver is the process number of the walreceiver.
func (n *node) upstreamReceiver() (int, error) {
	var pid int
	_, err := fmt.Sscan(n.query("SELECT pid::text FROM pg_stat_wal_receiver"), &pid)
	return pid, err
}

func TestSetUpstreamByReload(t *testing.T) {
	t.Parallel()
	a := newNode(t, "").start()
	b := a.standby("")
	pid := b.facts().PID
	began := time.Now()
	if err := b.ClearUpstream(b.ctx()); err != nil {
		t.Fatal(err)
	}
	t.Logf("cleared in %v", time.Since(began))
	b.await("the end of streaming", func() (bool, string) {
		f := b.facts()
		return f.Upstream.Status == "" && f.PrimaryConninfo == "", fmt.Sprintf("%+v", f.Upstream)
	})
	began = time.Now()
	if err := b.SetUpstream(b.ctx(), a.upstream()+" options='-c statement_timeout=0'"); err != nil {
		t.Fatal(err)
	}
	b.awaitStreaming(a)
	t.Logf("streams again after %v", time.Since(began))
	if f := b.facts(); f.PID != pid {
		t.Error("the server was restarted")
	}

	// What pg_basebackup -R and ALTER SYSTEM leave wins over our file.
	b.sql("ALTER SYSTEM SET primary_conninfo = 'host=auto'")
	var override *OverrideError
	if err := b.SetUpstream(b.ctx(), a.upstream()); !errors.As(err, &override) || override.Settings["primary_conninfo"] != "host=auto" {
		t.Errorf("override: got %v", err)
	}
	if err := b.ResetAuto(b.ctx()); err != nil {
		t.Fatal(err)
	}
	if err := b.SetUpstream(b.ctx(), a.upstream()); err != nil {
		t.Errorf("after the reset: %v", err)
	}
	b.awaitStreaming(a)

	// A running server that was started with the setting on its command line shows where it comes from.
	b.stop()
	b.cfg.Start = []string{filepath.Join(b.BinDir(), "pg_ctl"), "start", "-w", "-D", b.DataDir(), "-l", b.cfg.StartLog, "-o", "-c primary_conninfo=host=cmd"}
	if os.Geteuid() == 0 {
		name, _, _ := runAs(t)
		b.cfg.Start = append([]string{requireProgram(t, "setpriv"), "--reuid=" + name, "--clear-groups"}, b.cfg.Start...)
	}
	if err := b.StartStandby(b.ctx()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := timeoutContext(t, time.Second)
	defer cancel()
	if err := b.SetUpstream(ctx, a.upstream()); err == nil || !strings.Contains(err.Error(), "from command line") {
		t.Errorf("command line: got %v, want an error that names it", err)
	}
	b.cfg.Start = nil

	// No include line.
	conf := b.ConfigFile()
	text, err := os.ReadFile(conf)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(conf, []byte(strings.ReplaceAll(string(text), "include_if_exists", "#")), 0o600); err != nil {
		t.Fatal(err)
	}
	var include *IncludeError
	if err := b.SetUpstream(b.ctx(), a.upstream()); !errors.As(err, &include) || !strings.Contains(err.Error(), "include_if_exists = '"+b.DataDir()+"/pgnotify.conf'") {
		t.Errorf("include: got %v", err)
	}
}

// TestSessionsNeverWaitForStandbys: our sessions write with a synchronous standby that is not there.
func TestSessionsNeverWaitForStandbys(t *testing.T) {
	t.Parallel()
	n := newNode(t, "synchronous_standby_names = 'nobody'").start()
	ctx, cancel := timeoutContext(t, 5*time.Second)
	defer cancel()
	if err := n.do(ctx, "write", queryTimeout, "CREATE TABLE public.t AS SELECT 1"); err != nil {
		t.Error(err)
	}
	if f := n.facts(); f.SynchronousStandbyNames != "nobody" {
		t.Errorf("got %q", f.SynchronousStandbyNames)
	}
}

// TestFactsByLesserRoles: what a role may not see is unknown, and no error.
func TestFactsByLesserRoles(t *testing.T) {
	t.Parallel()
	a := newNode(t, "").start()
	a.sql("CREATE ROLE mon LOGIN IN ROLE pg_monitor")
	a.sql("CREATE ROLE plain LOGIN")
	b := a.standby("")
	a.await("the standby's first reply", func() (bool, string) {
		all := a.facts().ReplicationState
		return len(all) == 1 && all[0].FlushLSN != 0, fmt.Sprint(all)
	})
	for _, n := range []*node{a, b} {
		for _, role := range []string{"mon", "plain"} {
			n.cfg.Conninfo = "host=" + n.root + " user=" + role
			f := n.facts()
			if !f.Answering || f.Problem != nil || f.LSN == 0 || f.Timeline != 1 {
				t.Errorf("%s, standby %v: got %+v", role, n == b, f)
			}
			if want := map[bool]string{true: "streaming", false: "hidden"}[role == "mon"]; n == b && f.Upstream.Status != want {
				t.Errorf("%s: upstream: got %+v, want %q", role, f.Upstream, want)
			}
			if n == a && role == "mon" && (len(f.ReplicationState) != 1 || f.ReplicationState[0].FlushLSN == 0) {
				t.Errorf("%s: standbys: got %+v", role, f.ReplicationState)
			}
		}
	}
	if _, _, err := b.Promote(b.ctx()); err == nil || !strings.Contains(err.Error(), "permission denied") {
		t.Errorf("promote by a plain role: got %v", err)
	}
	a.cfg.Conninfo = "host=" + a.root + " user=nobody_at_all"
	if f := a.facts(); !f.Running || f.Answering || f.Problem == nil || errors.Is(f.Problem, ErrNotReady) {
		t.Errorf("unknown role: got %+v", f)
	}
	a.stop()
	began := time.Now()
	if err := a.StartAsIs(a.ctx()); err == nil || errors.Is(err, ErrNotReady) || !strings.Contains(err.Error(), "refuses our session") || time.Since(began) > 10*time.Second {
		t.Errorf("unknown role: start: got %v after %v, want the refusal at once", err, time.Since(began))
	}
}

func TestStartGivesUpAtTheDeadline(t *testing.T) {
	t.Parallel()
	n := newNode(t, "hot_standby = off")
	if err := n.StartStandby(n.ctx()); !errors.Is(err, ErrNotReady) || !strings.Contains(err.Error(), "hot_standby is off") {
		t.Errorf("got %v, want ErrNotReady that names hot_standby", err)
	}
	n.stop()
	// A backup whose end of recovery cannot come without an upstream takes no sessions yet.
	if err := os.WriteFile(n.ConfigFile(), []byte(fmt.Sprintf("port = %d\nunix_socket_directories = '%s'\nlisten_addresses = ''\nrestore_command = 'sleep 1000'\n", n.port, n.root)), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := timeoutContext(t, 2*time.Second)
	defer cancel()
	if err := n.StartStandby(ctx); !errors.Is(err, ErrNotReady) || !strings.Contains(err.Error(), "starting") {
		t.Errorf("got %v, want ErrNotReady that says starting", err)
	}
	if f := n.facts(); !f.Running || f.Answering || !errors.Is(f.Problem, ErrNotReady) {
		t.Errorf("starting: got %+v, want ErrNotReady", f)
	}
}

func TestRewindRefusals(t *testing.T) {
	t.Parallel()
	a := newNode(t, "checkpoint_timeout = 30min").start()
	b := a.standby("checkpoint_timeout = 30min")
	if err := a.Rewind(a.ctx(), b.upstream(), nil); !errors.Is(err, ErrRunning) {
		t.Errorf("running: got %v", err)
	}
	a.stop()
	if err := a.Rewind(a.ctx(), b.upstream(), nil); err == nil || !strings.Contains(err.Error(), "is a standby") {
		t.Errorf("from a standby: got %v", err)
	}
	if err := a.Rewind(a.ctx(), "host=127.0.0.1 port=1", nil); err == nil {
		t.Error("no source: want an error")
	}
	other := newNode(t, "")
	if err := os.RemoveAll(other.DataDir()); err != nil {
		t.Fatal(err)
	}
	initdb(t, other.BinDir(), other.DataDir())
	other = adopt(t, other.BinDir(), other.root, "")
	other.start()
	if err := a.Rewind(a.ctx(), other.upstream(), nil); !errors.Is(err, ErrNotRewindable) || !strings.Contains(err.Error(), "another cluster") {
		t.Errorf("another cluster: got %v", err)
	}
	// A crashed standby.
	b.crash()
	if err := b.Rewind(b.ctx(), a.upstream(), nil); !errors.Is(err, ErrNotRewindable) || !strings.Contains(err.Error(), "crashed as a standby") {
		t.Errorf("crashed standby: got %v", err)
	}
	// Neither checksums nor wal_log_hints.
	other.stop()
	conf, err := os.ReadFile(other.ConfigFile())
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(other.ConfigFile(), append(conf, "wal_log_hints = off\n"...), 0o600); err != nil {
		t.Fatal(err)
	}
	other.start()
	other.stop()
	if c, err := other.Control(); err == nil && c.DataChecksums {
		t.Skip("initdb turns checksums on")
	}
	if err := other.Rewind(other.ctx(), a.upstream(), nil); !errors.Is(err, ErrNotRewindable) || !strings.Contains(err.Error(), "wal_log_hints") {
		t.Errorf("no hints in the WAL: got %v", err)
	}
}

// TestRewindFailsHalfWay: then the server does not start, and a clone mends it.
func TestRewindFailsHalfWay(t *testing.T) {
	t.Parallel()
	a := newNode(t, "").start()
	b := a.standby("")
	a.crash()
	if _, _, err := b.Promote(b.ctx()); err != nil {
		t.Fatal(err)
	}
	if err := b.Checkpoint(b.ctx()); err != nil {
		t.Fatal(err)
	}
	a.start()
	a.sql("CREATE TABLE diverged AS SELECT generate_series(1, 1000)")
	for i := range 5 { // so that a has no file of the same number
		b.sql(fmt.Sprintf("CREATE TABLE filler%d AS SELECT 1", i))
	}
	b.sql("CREATE TABLE theirs AS SELECT repeat('y', 1000) FROM generate_series(1, 20000)")
	a.stop()
	// What is a directory here and a file there stops pg_rewind before it changes anything.
	block := filepath.Join(a.DataDir(), b.query("SELECT pg_relation_filepath('theirs')"))
	if err := os.Mkdir(block, 0o755); err != nil {
		t.Fatal(err)
	}
	err := a.Rewind(a.ctx(), b.upstream(), nil)
	if err == nil || errors.Is(err, ErrRewindIncomplete) || a.RewindIncomplete() || !strings.Contains(err.Error(), "theirs") && !strings.Contains(err.Error(), filepath.Base(block)) {
		t.Errorf("before the copy: got %v, incomplete %v", err, a.RewindIncomplete())
	}
	if err := os.Remove(block); err != nil {
		t.Fatal(err)
	}
	// One that dies while it copies.
	bin := a.cfg.BinDir
	a.cfg.BinDir = filepath.Join(a.root, "bin")
	if err := os.Mkdir(a.cfg.BinDir, 0o755); err != nil {
		t.Fatal(err)
	}
	// One that hangs before it copies, and is not wanted any more.
	if err := os.WriteFile(filepath.Join(a.cfg.BinDir, "pg_rewind"), []byte("#!/bin/sh\necho 'pg_rewind: reading source file list' >&2\nexec sleep 60\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	over, cancel := context.WithCancel(a.ctx())
	time.AfterFunc(time.Second, cancel)
	began := time.Now()
	if err = a.Rewind(over, b.upstream(), nil); err == nil || a.RewindIncomplete() || time.Since(began) < stallTime || time.Since(began) > 30*time.Second {
		t.Errorf("hangs: got %v after %v, incomplete %v", err, time.Since(began), a.RewindIncomplete())
	}
	if err := os.WriteFile(filepath.Join(a.cfg.BinDir, "pg_rewind"), []byte("#!/bin/sh\necho ' 1024/65536 kB (1%) copied' >&2\necho 'pg_rewind: error: out of luck' >&2\nexit 1\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	err = a.Rewind(a.ctx(), b.upstream(), nil)
	if !errors.Is(err, ErrRewindIncomplete) || !a.RewindIncomplete() || !strings.Contains(err.Error(), "out of luck") {
		t.Errorf("while it copies: got %v, incomplete %v", err, a.RewindIncomplete())
	}
	a.cfg.BinDir = bin
	for name, err := range map[string]error{"start": a.StartAsIs(a.ctx()), "standby": a.StartStandby(a.ctx()), "rewind": a.Rewind(a.ctx(), b.upstream(), nil)} {
		if !errors.Is(err, ErrRewindIncomplete) {
			t.Errorf("%s: got %v, want ErrRewindIncomplete", name, err)
		}
	}

	// Clone and swap.
	name, _, _ := runAs(t)
	var done, total int64
	opts := CloneOptions{BinDir: a.BinDir(), Conninfo: b.upstream(), Dir: a.NewDir(), User: name, Progress: func(d, all int64) { done, total = d, all }}
	if err := Clone(a.ctx(), opts); err != nil {
		t.Fatal(err)
	}
	if done == 0 || done != total {
		t.Errorf("progress: got %d of %d", done, total)
	}
	if err := Clone(a.ctx(), opts); err == nil || !strings.Contains(err.Error(), "is not empty") {
		t.Errorf("second clone: got %v", err)
	}
	if _, err := os.Stat(filepath.Join(a.NewDir(), "PG_VERSION")); err != nil {
		t.Errorf("the refused clone removed what was there: %v", err)
	}
	port := a.port
	old, err := a.Swap(a.NewDir())
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(old, a.DataDir()+".old-") || a.RewindIncomplete() {
		t.Errorf("got %s, incomplete %v", old, a.RewindIncomplete())
	}
	if _, err := os.Stat(filepath.Join(old, "PG_VERSION")); err != nil {
		t.Errorf("old data: %v", err)
	}
	if err := a.SetUpstream(a.ctx(), b.upstream()); err != nil {
		t.Fatal(err)
	}
	if err := a.StartStandby(a.ctx()); err != nil {
		t.Fatal(err)
	}
	a.awaitStreaming(b)
	if got := a.query("SHOW port"); got != fmt.Sprint(port) {
		t.Errorf("port: got %s, want our own, %d", got, port)
	}
}

func TestRewindWaitsForTheCheckpoint(t *testing.T) {
	t.Parallel()
	a := newNode(t, "checkpoint_timeout = 30min").start()
	b := a.standby("checkpoint_timeout = 30min\ncheckpoint_completion_target = 0.9")
	// Freeze b's checkpointer: the checkpoint that promotion asks for does not come.
	var pid int
	if _, err := fmt.Sscan(b.query("SELECT pid::text FROM pg_stat_activity WHERE backend_type = 'checkpointer'"), &pid); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	a.stop()
	tli, _, err := b.Promote(b.ctx())
	if err != nil || tli != 2 {
		t.Fatalf("promote: got %d, %v", tli, err)
	}
	if f := b.facts(); f.Timeline != 2 || f.CheckpointTimeline != 1 {
		t.Errorf("got timeline %d, checkpoint's %d, want 2 and 1", f.Timeline, f.CheckpointTimeline)
	}
	if err := a.Rewind(a.ctx(), b.upstream(), nil); !errors.Is(err, ErrNotCheckpointed) {
		t.Errorf("got %v, want ErrNotCheckpointed", err)
	}
	// Were it to crash now, its WAL would end on the timeline that pg_control does not know yet.
	b.sql("SELECT pg_logical_emit_message(true, 'x', 'y')")
	want := b.facts().LSN
	b.crash()
	if last, err := b.LastWAL(b.ctx()); err != nil || last.Timeline != 2 || last.LSN < want {
		t.Errorf("end of WAL: got %s, %v, want timeline 2, at least %s", last, err, want)
	}
	b.start()
	b.await("the checkpoint", func() (bool, string) {
		err := a.RewindReady(a.ctx(), b.upstream())
		return err == nil, fmt.Sprint(err)
	})
}

func TestSwapRefusals(t *testing.T) {
	t.Parallel()
	a := newNode(t, "")
	b := newNode(t, "")
	before, err := os.ReadDir(a.DataDir())
	if err != nil {
		t.Fatal(err)
	}
	copyDir := a.NewDir()
	run(t, "cp", "-a", b.DataDir(), copyDir)
	control := filepath.Join(copyDir, "global", "pg_control")
	for _, tt := range []struct {
		name, want string
		spoil      func() error
	}{
		{"garbled copy", "checksum", func() error { return writeAt(control, 50, 0xff) }},
		{"version", "version", func() error { return os.WriteFile(filepath.Join(copyDir, "PG_VERSION"), []byte("14\n"), 0o600) }},
		{"missing", "no such file", func() error { return os.Rename(copyDir, copyDir+".away") }},
	} {
		if err := tt.spoil(); err != nil {
			t.Fatal(err)
		}
		if _, err := a.Swap(copyDir); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want an error with %q", tt.name, err, tt.want)
		}
	}
	after, err := os.ReadDir(a.DataDir())
	if err != nil || len(after) != len(before) {
		t.Errorf("data directory: %d entries, had %d, %v", len(after), len(before), err)
	}
}

func writeAt(path string, off int64, b byte) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.WriteAt([]byte{b}, off)
	return err
}

func TestCloneRefusesTablespaces(t *testing.T) {
	t.Parallel()
	a := newNode(t, "").start()
	space := filepath.Join(a.root, "space=1")
	run(t, "mkdir", space)
	a.sql("CREATE TABLESPACE s LOCATION '" + space + "'")
	a.sql("CREATE TABLE t TABLESPACE s AS SELECT 1")
	name, _, _ := runAs(t)
	root := place(t)
	opts := CloneOptions{BinDir: a.BinDir(), Conninfo: a.upstream(), Dir: filepath.Join(root, "d"), User: name}
	if err := Clone(a.ctx(), opts); err == nil || !strings.Contains(err.Error(), "the source has a tablespace at "+space) {
		t.Errorf("unmapped: got %v", err)
	}
	if left, err := os.ReadDir(root); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	opts.Tablespaces = map[string]string{space: filepath.Join(root, "s")}
	if err := Clone(a.ctx(), opts); err != nil {
		t.Fatalf("mapped: %v", err)
	}
	if left, err := os.ReadDir(filepath.Join(root, "s")); err != nil || len(left) != 1 {
		t.Errorf("mapped: got %v, %v", left, err)
	}
}

func TestCloneFailures(t *testing.T) {
	t.Parallel()
	a := newNode(t, "").start()
	name, _, _ := runAs(t)
	root := place(t)
	opts := CloneOptions{BinDir: a.BinDir(), Conninfo: "host=127.0.0.1 port=1 connect_timeout=1", Dir: filepath.Join(root, "d"), User: name}
	if err := Clone(a.ctx(), opts); err == nil {
		t.Error("no source: want an error")
	}
	opts.Conninfo = a.upstream()
	opts.BinDir = root
	if err := Clone(a.ctx(), opts); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no program: got %v, want ErrNotExist", err)
	}
	opts.BinDir, opts.MaxRate = a.BinDir(), 1<<20
	ctx, cancel := timeoutContext(t, time.Second)
	defer cancel()
	if err := Clone(ctx, opts); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("cancelled: got %v, want DeadlineExceeded", err)
	}
	if left, err := os.ReadDir(root); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// smallDisk mounts a file system of so many bytes, in the tests' own mount namespace.
func smallDisk(t *testing.T, size int64) string {
	t.Helper()
	requireRoot(t)
	dir := filepath.Join(place(t), "small")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d,mode=0777", size)); err != nil {
		must(t, "mount: "+err.Error())
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Errorf("unmount: %v", err)
		}
	})
	return dir
}

func TestCloneOntoAFullDisk(t *testing.T) {
	t.Parallel()
	a := newNode(t, "").start()
	name, _, _ := runAs(t)
	disk := smallDisk(t, 16<<20)
	dir := filepath.Join(disk, "d")
	err := Clone(a.ctx(), CloneOptions{BinDir: a.BinDir(), Conninfo: a.upstream(), Dir: dir, User: name})
	if !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), "MB are free") {
		t.Errorf("too small: got %v, want ENOSPC before the copy", err)
	}
	if left, err := os.ReadDir(disk); err != nil || len(left) > 0 {
		t.Errorf("too small: left behind: %v, %v", left, err)
	}
	// Enough at first, then somebody else fills it.
	disk = smallDisk(t, 110<<20)
	dir = filepath.Join(disk, "d")
	filled := false
	err = Clone(a.ctx(), CloneOptions{BinDir: a.BinDir(), Conninfo: a.upstream(), Dir: dir, User: name, MaxRate: 8 << 20, Progress: func(int64, int64) {
		if !filled {
			filled = true
			if err := os.WriteFile(filepath.Join(disk, "other"), make([]byte, 100<<20), 0o600); !errors.Is(err, syscall.ENOSPC) && err != nil {
				t.Error(err)
			}
		}
	}})
	if !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), "No space left on device") {
		t.Errorf("filled: got %v, want ENOSPC", err)
	}
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("filled: left behind: %v", err)
	}
}

func TestSwapOfAMountPoint(t *testing.T) {
	t.Parallel()
	a := newNode(t, "")
	disk := smallDisk(t, 100<<20)
	_, uid, gid := runAs(t)
	if err := errors.Join(os.Chown(disk, uid, gid), os.Chmod(disk, 0o700)); err != nil {
		t.Fatal(err)
	}
	run(t, "cp", "-a", a.DataDir()+"/.", disk)
	s, err := Open(Config{DataDir: disk, BinDir: a.BinDir()})
	if err != nil {
		t.Fatal(err)
	}
	run(t, "cp", "-a", a.DataDir(), s.NewDir())
	if _, err := s.Swap(s.NewDir()); err == nil || !strings.Contains(err.Error(), "is a mount point") {
		t.Errorf("got %v", err)
	}
	if _, err := s.Control(); err != nil {
		t.Errorf("data: %v", err)
	}
	// And a copy that is on another file system.
	run(t, "cp", "-a", a.DataDir(), filepath.Join(disk, "copy"))
	if _, err := a.Swap(filepath.Join(disk, "copy")); err == nil || !strings.Contains(err.Error(), "another file system") {
		t.Errorf("got %v", err)
	}
	if _, err := a.Control(); err != nil {
		t.Errorf("data: %v", err)
	}
}
