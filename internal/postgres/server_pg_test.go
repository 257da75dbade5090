//go:build pg

package postgres

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"pgvrrp/internal/child"
)

// controlText reads pg_controldata's output.
func (n *node) controlText() map[string]string {
	n.t.Helper()
	m := map[string]string{}
	for line := range strings.Lines(run(n.t, filepath.Join(n.BinDir(), "pg_controldata"), "-D", n.DataDir())) {
		k, v, _ := strings.Cut(line, ":")
		m[strings.TrimSpace(k)] = strings.TrimSpace(v)
	}
	return m
}

func onOff(b bool) string { return map[bool]string{true: "on", false: "off"}[b] }

func (n *node) compareControl(state State) {
	n.t.Helper()
	c, err := n.Control()
	if err != nil {
		n.t.Fatal(err)
	}
	want := n.controlText()
	if c.State != state {
		n.t.Errorf("state: got %q, want %q", c.State, state)
	}
	for k, got := range map[string]string{
		"pg_control version number":            fmt.Sprint(c.ControlVersion),
		"Catalog version number":               fmt.Sprint(c.CatalogVersion),
		"Database system identifier":           fmt.Sprint(c.SystemID),
		"Database cluster state":               string(c.State),
		"Latest checkpoint location":           c.CheckpointLSN.String(),
		"Latest checkpoint's REDO location":    c.RedoLSN.String(),
		"Latest checkpoint's TimeLineID":       fmt.Sprint(c.Timeline),
		"Latest checkpoint's PrevTimeLineID":   fmt.Sprint(c.PrevTimeline),
		"Latest checkpoint's full_page_writes": onOff(c.FullPageWrites),
		"Minimum recovery ending location":     c.MinRecoveryLSN.String(),
		"Min recovery ending loc's timeline":   fmt.Sprint(c.MinRecoveryTimeline),
		"Backup start location":                c.BackupStartLSN.String(),
		"Backup end location":                  c.BackupEndLSN.String(),
		"End-of-backup record required":        map[bool]string{true: "yes", false: "no"}[c.BackupEndRequired],
		"wal_level setting":                    c.WALLevel,
		"wal_log_hints setting":                onOff(c.WALLogHints),
		"max_connections setting":              fmt.Sprint(c.MaxConnections),
		"max_worker_processes setting":         fmt.Sprint(c.MaxWorkerProcesses),
		"max_wal_senders setting":              fmt.Sprint(c.MaxWALSenders),
		"max_prepared_xacts setting":           fmt.Sprint(c.MaxPreparedXacts),
		"max_locks_per_xact setting":           fmt.Sprint(c.MaxLocksPerXact),
		"Database block size":                  fmt.Sprint(c.BlockSize),
		"WAL block size":                       fmt.Sprint(c.WALBlockSize),
		"Bytes per WAL segment":                fmt.Sprint(c.WALSegmentSize),
		"Data page checksum version":           map[bool]string{true: "1", false: "0"}[c.DataChecksums],
		"Time of latest checkpoint":            c.CheckpointTime.Local().Format("Mon Jan _2 15:04:05 2006"),
	} {
		if got != want[k] {
			n.t.Errorf("%s: got %q, want %q", k, got, want[k])
		}
	}
}

func TestPrimaryLife(t *testing.T) {
	t.Parallel()
	n := newNode(t, "")
	n.compareControl(StateShutDown)
	if f := n.facts(); f.Running || f.Answering || f.InRecovery || f.SystemID == 0 || f.Timeline != 1 {
		t.Errorf("stopped: got %+v", f)
	}
	if _, _, err := n.Promote(n.ctx()); err == nil {
		t.Error("promote of a stopped server: want an error")
	}
	if err := n.Stop(n.ctx(), Fast); err != nil {
		t.Errorf("stop of a stopped server: %v", err)
	}
	if _, err := n.LastWAL(n.ctx()); err != nil {
		t.Errorf("end of WAL: %v", err)
	}
	n.start()
	n.compareControl(StateInProduction)
	if err := n.StartAsIs(n.ctx()); err != nil {
		t.Errorf("start of a running server: %v", err)
	}
	if err := n.StartStandby(n.ctx()); !errors.Is(err, ErrRunning) {
		t.Errorf("start of a running primary as standby: got %v, want ErrRunning", err)
	}
	if _, err := n.LastWAL(n.ctx()); !errors.Is(err, ErrRunning) {
		t.Errorf("end of WAL of a running server: got %v", err)
	}
	if _, err := n.Swap("/x"); !errors.Is(err, ErrRunning) {
		t.Errorf("swap of a running server: got %v", err)
	}
	f := n.facts()
	pid, running, err := n.Process()
	if !f.Primary() || f.PID != pid || !running || err != nil || f.LSN == 0 || f.Timeline != 1 || f.CheckpointTimeline != 1 || f.Version/10000 != n.Version() || f.Problem != nil {
		t.Errorf("running: got %+v, %d, %v, %v", f, pid, running, err)
	}
	if tli, lsn, err := n.Promote(n.ctx()); tli != 1 || lsn == 0 || err != nil {
		t.Errorf("promote of a primary: got %d, %s, %v, want timeline 1", tli, lsn, err)
	}
	for name, err := range map[string]error{"switch": n.SwitchWAL(n.ctx()), "checkpoint": n.Checkpoint(n.ctx()), "reload": n.Reload(n.ctx())} {
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	// Nothing of ours in the postmaster: its own session, no descriptor but its own.
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	if fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:])); fields[3] != strconv.Itoa(pid) {
		t.Errorf("session of the postmaster: got %s, want its own, %d", fields[3], pid)
	}
	n.stop()
	n.compareControl(StateShutDown)
	if left, err := n.processes(); len(left) > 0 || err != nil {
		t.Errorf("left behind: %v, %v", left, err)
	}
	// The end of a clean shutdown by pg_control alone is that of the last record.
	c, err := n.Control()
	if err != nil {
		t.Fatal(err)
	}
	if last, err := n.LastWAL(n.ctx()); err != nil || last != (Position{1, c.EndLSN()}) {
		t.Errorf("end of WAL: got %s, %v, want %s", last, err, c.EndLSN())
	}
	n.start()
	n.sql("CREATE TABLE t AS SELECT generate_series(1, 1000)")
	want := n.facts().LSN
	if err := n.Stop(n.ctx(), Immediate); err != nil {
		t.Fatal(err)
	}
	n.compareControl(StateInProduction)
	if last, err := n.LastWAL(n.ctx()); err != nil || last.Timeline != 1 || last.LSN < want {
		t.Errorf("end of WAL after a crash: got %s, %v, want at least %s", last, err, want)
	}
	n.start()
	n.sql("SELECT 1 FROM t")
}

func TestStopKillsAFrozenServer(t *testing.T) {
	t.Parallel()
	n := newNode(t, "").start()
	pid := n.facts().PID
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := timeoutContext(t, time.Second)
	defer cancel()
	if err := n.Stop(ctx, Fast); err == nil || !strings.Contains(err.Error(), "still there") {
		t.Errorf("fast: got %v, want an error that it is still there", err)
	}
	ctx, cancel = timeoutContext(t, 2*time.Second)
	defer cancel()
	if err := n.Stop(ctx, Immediate); err != nil {
		t.Errorf("immediate: %v", err)
	}
	if left, err := n.processes(); len(left) > 0 || err != nil {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// TestSilentCallerHoldsUpNoStop: the process that waits for the first packet of a client which has connected to a server that stops, and which can say
// no more because the virtual address has gone.
func TestSilentCallerHoldsUpNoStop(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		mode  StopMode
		limit time.Duration
		left  State
	}{
		{Fast, 15 * time.Second, StateShutDown},         // PostgreSQL itself would wait for authentication_timeout, 60 s
		{Immediate, 4 * time.Second, StateInProduction}, // and kill it after 5 s
	} {
		t.Run(string(tt.mode), func(t *testing.T) {
			t.Parallel()
			n := newNode(t, "").start()
			postmaster := n.facts().PID
			own, err := processTitle(postmaster)
			if err != nil {
				t.Fatal(err)
			}
			child := func(meant func(title string) bool) (pid int) {
				all, err := n.processes()
				if err != nil {
					t.Error(err)
				}
				for _, p := range all {
					if title, err := processTitle(p.pid); err == nil && p.parent == postmaster && meant(title) {
						pid = p.pid
					}
				}
				return pid
			}
			// The checkpointer keeps the server stopping until there is a caller.
			checkpointer := child(func(title string) bool { return strings.Contains(title, ": checkpointer") })
			if checkpointer == 0 {
				t.Fatal("no checkpointer")
			}
			thaw := n.freeze(checkpointer)
			stopped := make(chan error, 1)
			ctx := n.ctx()
			go func() { stopped <- n.Stop(ctx, tt.mode) }()
			n.await("a server that stops", func() (bool, string) {
				f, err := n.readPIDFile()
				return f.status == "stopping", fmt.Sprint(f, err)
			})
			c, err := net.Dial("tcp4", fmt.Sprintf("127.0.0.1:%d", n.port))
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			n.await("the caller's process, or its end", func() (bool, string) {
				err := c.SetReadDeadline(time.Now().Add(time.Millisecond))
				if err == nil {
					_, err = c.Read(make([]byte, 1))
				}
				return !errors.Is(err, os.ErrDeadlineExceeded) || child(func(title string) bool { return title == own }) != 0, fmt.Sprint(err)
			})
			began := time.Now()
			thaw()
			if err := <-stopped; err != nil {
				t.Fatal(err)
			}
			if took := time.Since(began); took > tt.limit {
				t.Errorf("the stop took %v more", took)
			}
			n.compareControl(tt.left)
		})
	}
}

// TestHandoverWaitsForNoArchiver: whoever takes over need not wait for archive_command.
func TestHandoverWaitsForNoArchiver(t *testing.T) {
	t.Parallel()
	for _, how := range []string{"by signal", "by systemd"} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			dir := place(t)
			hold, archived := filepath.Join(dir, "hold"), filepath.Join(dir, "archived")
			if err := os.WriteFile(hold, nil, 0o644); err != nil {
				t.Fatal(err)
			}
			n := newNode(t, fmt.Sprintf("archive_mode = on\narchive_command = 'while [ -e %s ]; do sleep 0.05; done; echo %%f >>%s'\n", hold, archived))
			if how == "by systemd" {
				n.moveConfig()
				n.fakeSystemd(fmt.Sprintf(`case "$*" in
*show*) if [ -e '%[1]s/postmaster.pid' ]; then echo active; else echo inactive; fi ;;
*--no-block*) (sleep 0.1; kill -INT $(head -n1 '%[1]s/postmaster.pid')) >/dev/null 2>&1 & ;;
*) echo "Access denied" >&2; exit 4 ;;
esac
`, n.DataDir()))
			}
			if err := n.StartAsIs(n.ctx()); err != nil {
				t.Fatal(err)
			}
			if yes, err := n.Archiving(); yes || err != nil {
				t.Errorf("archiving while it runs: got %t, %v", yes, err)
			}
			n.sql("CREATE TABLE t()")
			if err := n.Stop(n.ctx(), Handover); err != nil {
				t.Fatal(err)
			}
			if yes, err := n.Archiving(); !yes || err != nil {
				t.Errorf("archiving: got %t, %v, want that it is", yes, err)
			}
			n.compareControl(StateShutDown)
			if _, running, err := n.Process(); !running || err != nil {
				t.Errorf("the server runs: got %t, %v, want that its postmaster waits for the archiver", running, err)
			}
			ctx, cancel := timeoutContext(t, 100*time.Millisecond)
			defer cancel()
			if err := n.Stop(ctx, Fast); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("fast stop: got %v, want that it waits for the archiver", err)
			}
			if err := os.Remove(hold); err != nil {
				t.Fatal(err)
			}
			n.stop()
			if b, err := os.ReadFile(archived); err != nil || len(b) == 0 {
				t.Errorf("archived: got %q, %v, want the last segment", b, err)
			}
			if yes, err := n.Archiving(); yes || err != nil {
				t.Errorf("archiving when stopped: got %t, %v", yes, err)
			}
		})
	}
}

func TestStartFailureShowsTheLog(t *testing.T) {
	t.Parallel()
	n := newNode(t, "shared_buffers = 'nonsense'")
	err := n.StartAsIs(n.ctx())
	if err == nil || !strings.Contains(err.Error(), `invalid value for parameter "shared_buffers"`) {
		t.Errorf("got %v, want the server's own message", err)
	}
}

func TestStalePIDDoesNotStopAStart(t *testing.T) {
	t.Parallel()
	n := newNode(t, "").start()
	n.crash()
	pidPath := filepath.Join(n.DataDir(), pidFileName)
	lockPath := filepath.Join(n.root, fmt.Sprintf(".s.PGSQL.%d.lock", n.port))
	for name, other := range map[string]func() int{
		"another program": func() int { return sleeper(t).Process.Pid },
		"a zombie":        func() int { return zombie(t) },
		"another server":  func() int { return newNode(t, "").start().facts().PID },
	} {
		t.Run(name, func(t *testing.T) {
			pid := strconv.Itoa(other())
			for _, path := range []string{pidPath, lockPath} {
				b, err := os.ReadFile(path)
				if err != nil {
					t.Fatal(err)
				}
				_, rest, _ := bytes.Cut(b, []byte("\n"))
				if err := os.WriteFile(path, append([]byte(pid+"\n"), rest...), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if _, running, err := n.Process(); running || err != nil {
				t.Fatalf("process: got %v, %v, want not running", running, err)
			}
			// The server alone does not start.
			var out strings.Builder
			alone := n.program("postgres", "-D", n.DataDir())
			alone.Stderr, alone.Timeout = &out, 5*time.Second
			if _, err := child.Run(n.ctx(), alone); err == nil || !strings.Contains(out.String(), "lock file") {
				t.Errorf("the server without us: got %v, %s, want that it refuses", err, out.String())
			}
			if err := n.StartStandby(n.ctx()); err != nil {
				t.Fatal(err)
			}
			if f := n.facts(); !f.Answering || !f.InRecovery {
				t.Errorf("got %+v", f)
			}
			n.crash()
		})
	}
}

// TestEndOfWhatADeadPostmasterLeft: a backend that computes, and an archiver in archive_command, do not notice that their postmaster has gone. A start ends
// them, and so do an immediate stop and a rewind.
func TestEndOfWhatADeadPostmasterLeft(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		conf func(hold string) string
		busy func(n *node, begun string)
		end  func(n, other *node) error
	}{
		{"backend and standby", nil, (*node).compute, func(n, _ *node) error { return n.StartStandby(n.ctx()) }},
		{"archiver and standby", archiving, (*node).archive, func(n, _ *node) error { return n.StartStandby(n.ctx()) }},
		{"backend and as is", nil, (*node).compute, func(n, _ *node) error { return n.StartAsIs(n.ctx()) }},
		{"archiver and stop", archiving, (*node).archive, func(n, _ *node) error { return n.Stop(n.ctx(), Immediate) }},
		{"backend and rewind", nil, (*node).compute, func(n, other *node) error { return n.Rewind(n.ctx(), other.upstream(), nil) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			hold, conf := filepath.Join(place(t), "hold"), ""
			if err := os.WriteFile(hold, nil, 0o644); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { os.Remove(hold) }) // upon which archive_command ends
			if tt.conf != nil {
				conf = tt.conf(hold)
			}
			n := newNode(t, conf).start()
			other := newNode(t, "").start()
			tt.busy(n, hold+".begun")
			if err := syscall.Kill(n.facts().PID, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			n.await("the one that does not notice", func() (bool, string) {
				_, running, err := n.Process()
				left, lerr := n.processes()
				return !running && len(left) == 1, fmt.Sprint(running, pids(left), err, lerr)
			})
			began := time.Now()
			if err := tt.end(n, other); err != nil {
				t.Fatal(err)
			}
			if took := time.Since(began); took > 15*time.Second {
				t.Errorf("it took %v", took)
			}
			if f := other.facts(); !f.Answering {
				t.Errorf("another server: got %+v", f)
			}
		})
	}
}

// archiving has archive_command wait for the end of hold.
func archiving(hold string) string {
	return fmt.Sprintf("archive_mode = on\narchive_command = 'touch %s.begun; while [ -e %s ]; do sleep 0.05; done'\n", hold, hold)
}

// archive waits until the archiver is in archive_command.
func (n *node) archive(begun string) {
	n.t.Helper()
	n.sql("CREATE TABLE t()")
	n.sql("SELECT pg_switch_wal()")
	n.await("archive_command", func() (bool, string) {
		_, err := os.Stat(begun)
		return err == nil, fmt.Sprint(err)
	})
}

// compute has a backend do something that takes for ever and needs nobody.
func (n *node) compute(string) {
	n.t.Helper()
	conn := n.session()
	ctx, cancel := context.WithCancel(n.t.Context())
	done := make(chan struct{})
	n.t.Cleanup(func() { cancel(); <-done })
	go func() {
		defer close(done)
		defer closeConn(conn)
		_, err := conn.Exec(ctx, "SELECT count(*) FROM (SELECT generate_series(1, 1e11::bigint)) AS s")
		n.t.Logf("the query ended: %v", err)
	}()
	n.await("the query", func() (bool, string) {
		at := n.query("SELECT coalesce(max(state), '') FROM pg_stat_activity WHERE query LIKE 'SELECT count(*) FROM (SELECT generate%'")
		return at == "active", at
	})
}

// asServer makes a process one of the servers' user: those of others PostgreSQL does not take for itself.
func asServer(t *testing.T) *syscall.SysProcAttr {
	t.Helper()
	if os.Geteuid() != 0 {
		return nil
	}
	_, uid, gid := runAs(t)
	return &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}
}

func sleeper(t *testing.T) *exec.Cmd {
	t.Helper()
	c := exec.Command("sleep", "1000")
	c.SysProcAttr = asServer(t)
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Process.Kill(); _ = c.Wait() })
	return c
}

// zombie makes a process that has ended and that nobody has waited for.
func zombie(t *testing.T) int {
	t.Helper()
	c := exec.Command("true")
	c.SysProcAttr = asServer(t)
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Wait() })
	if err := unix.Waitid(unix.P_PID, c.Process.Pid, nil, unix.WEXITED|unix.WNOWAIT, nil); err != nil {
		t.Fatal(err)
	}
	return c.Process.Pid
}

func TestBadDataDirectories(t *testing.T) {
	t.Parallel()
	n := newNode(t, "")
	bin := n.BinDir()
	control := filepath.Join(n.DataDir(), "global", "pg_control")
	b, err := os.ReadFile(control)
	if err != nil {
		t.Fatal(err)
	}
	garbled := bytes.Clone(b)
	garbled[100] ^= 0xff
	if err := os.WriteFile(control, garbled, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := n.Control(); err == nil || !strings.Contains(err.Error(), "checksum does not match") {
		t.Errorf("garbled: got %v", err)
	}
	if f := n.facts(); f.ControlErr == nil || f.SystemID != 0 {
		t.Errorf("garbled: got facts %+v", f)
	}
	if err := n.StartAsIs(n.ctx()); err == nil || !strings.Contains(err.Error(), "control file") {
		t.Errorf("garbled: start: got %v", err)
	}
	if err := n.Rewind(n.ctx(), "host=127.0.0.1", nil); err == nil || !strings.Contains(err.Error(), "control file") {
		t.Errorf("garbled: rewind: got %v", err)
	}
	if err := os.WriteFile(filepath.Join(n.DataDir(), "PG_VERSION"), []byte("12\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(Config{DataDir: n.DataDir(), BinDir: bin}); err == nil || !strings.Contains(err.Error(), `unsupported PostgreSQL version "12"`) {
		t.Errorf("version: got %v", err)
	}
	if _, err := Open(Config{DataDir: n.DataDir() + "x", BinDir: bin}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing: got %v, want ErrNotExist", err)
	}
}

func TestAnotherServerOnOurPort(t *testing.T) {
	t.Parallel()
	n := newNode(t, "").start()
	root := place(t)
	run(t, "cp", "-a", template.dir, filepath.Join(root, "d"))
	s, err := Open(Config{DataDir: filepath.Join(root, "d"), BinDir: n.BinDir(), Port: n.port, Conninfo: "host=" + n.root + " user=postgres"})
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.Promote(n.ctx()); err == nil || !regexp.MustCompile(`has the data directory .*, not `).MatchString(err.Error()) {
		t.Errorf("got %v, want an error that names both data directories", err)
	}
}

// moveConfig gives a node Debian's layout, below its own directory.
func (n *node) moveConfig() {
	n.t.Helper()
	etc := filepath.Join(n.root, "e t'c", strconv.Itoa(n.Version()), "main") // pg_ctl hands the path to a shell
	_, uid, gid := runAs(n.t)
	if err := os.MkdirAll(etc, 0o755); err != nil {
		n.t.Fatal(err)
	}
	for _, name := range []string{"postgresql.conf", "pg_hba.conf", "pg_ident.conf"} {
		if err := os.Rename(filepath.Join(n.DataDir(), name), filepath.Join(etc, name)); err != nil {
			n.t.Fatal(err)
		}
	}
	conf := filepath.Join(etc, "postgresql.conf")
	b, err := os.ReadFile(conf)
	if err != nil {
		n.t.Fatal(err)
	}
	q := func(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }
	b = append(b, fmt.Sprintf("data_directory = %s\nhba_file = %s\nident_file = %s\n", q(n.DataDir()), q(etc+"/pg_hba.conf"), q(etc+"/pg_ident.conf"))...)
	if err := errors.Join(os.WriteFile(conf, b, 0o644), os.Chown(conf, uid, gid)); err != nil {
		n.t.Fatal(err)
	}
	s, err := open(Config{DataDir: n.DataDir(), BinDir: n.BinDir(), Conninfo: "host=" + n.root + " user=postgres", Log: n.log},
		layout{
			debianEtc: filepath.Join(n.root, "e t'c"), debianLog: filepath.Join(n.root, "none"),
			booted: filepath.Join(n.root, "booted"), units: []string{filepath.Join(n.root, "units")}, systemctl: filepath.Join(n.root, "systemctl"),
		})
	if err != nil {
		n.t.Fatal(err)
	}
	if s.ConfigFile() != conf {
		n.t.Fatalf("configuration: got %s, want %s", s.ConfigFile(), conf)
	}
	n.Server = s
}

// TestConfigOutsideOfTheDataDirectory starts, rewinds after a crash and follows with Debian's layout.
func TestConfigOutsideOfTheDataDirectory(t *testing.T) {
	t.Parallel()
	a := newNode(t, "").start()
	b := a.standby("")
	a.stop()
	a.moveConfig()
	if err := a.StartAsIs(a.ctx()); err != nil {
		t.Fatal(err)
	}
	b.awaitStreaming(a)
	a.crash()
	if _, _, err := b.Promote(b.ctx()); err != nil {
		t.Fatal(err)
	}
	if err := b.Checkpoint(b.ctx()); err != nil {
		t.Fatal(err)
	}
	if err := a.StartAsIs(a.ctx()); err != nil {
		t.Fatal(err)
	}
	a.sql("CREATE TABLE diverged AS SELECT generate_series(1, 1000)")
	a.crash()
	// As after a start as a standby that did not come far: pg_rewind's own recovery would refuse standby mode.
	if err := a.markStandby(); err != nil {
		t.Fatal(err)
	}
	if err := a.Rewind(a.ctx(), b.upstream(), nil); err != nil {
		t.Fatal(err)
	}
	if err := a.SetUpstream(a.ctx(), b.upstream()); err != nil {
		t.Fatal(err)
	}
	if err := a.StartStandby(a.ctx()); err != nil {
		t.Fatal(err)
	}
	a.awaitStreaming(b)
	f := a.facts()
	if !f.InRecovery || f.PrimaryConninfo != b.upstream() || f.Settings["primary_conninfo"].File != a.includePath() {
		t.Errorf("got %+v", f)
	}
}

// TestBecomeOwner runs itself again, since there is no way back.
func TestBecomeOwner(t *testing.T) {
	t.Parallel()
	if dir := os.Getenv("PGVRRP_TEST_BECOME"); dir != "" {
		if err := BecomeOwner(dir); err != nil {
			fmt.Println("error:", err)
			os.Exit(0)
		}
		tasks, err := filepath.Glob("/proc/self/task/*/status")
		if err != nil {
			fmt.Println("error:", err)
		}
		for _, path := range tasks {
			b, err := os.ReadFile(path)
			if err != nil {
				continue
			}
			for line := range strings.Lines(string(b)) {
				if strings.HasPrefix(line, "Uid:") || strings.HasPrefix(line, "Gid:") || strings.HasPrefix(line, "Groups:") {
					fmt.Println(strings.Join(strings.Fields(line), " "))
				}
			}
		}
		fmt.Println("HOME", os.Getenv("HOME"))
		os.Exit(0)
	}
	requireRoot(t)
	_, uid, gid := runAs(t)
	become := func(dir string) string {
		exe := filepath.Join(place(t), "t")
		// Not written by this process: what other tests fork just then has the file open for writing until its execve(2),
		// and for so long nobody can run it.
		if out, err := exec.Command("/usr/bin/cp", os.Args[0], exe).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		c := exec.Command(exe, "-test.run=^TestBecomeOwner$")
		c.Env = append(os.Environ(), "PGVRRP_TEST_BECOME="+dir)
		c.Dir = "/"
		out, err := c.CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		return string(out)
	}
	out := become(place(t))
	if n := strings.Count(out, "Uid:"); n < 2 || n != strings.Count(out, fmt.Sprintf("Uid: %d %d %d %d", uid, uid, uid, uid)) || n != strings.Count(out, fmt.Sprintf("Gid: %d %d %d %d", gid, gid, gid, gid)) {
		t.Errorf("got %s\nwant every thread to be %d:%d", out, uid, gid)
	}
	if strings.Contains(out, "HOME /root") || strings.Contains(out, "Groups: 0") {
		t.Errorf("got %s\nwant nothing of root", out)
	}
	if out := become(t.TempDir()); !strings.Contains(out, "belongs to root") {
		t.Errorf("root's directory: got %s", out)
	}
}

// TestSystemdDoesNotObey has a systemd that thinks the unit of the server active and refuses to stop it, as it does the owner of the data directory:
// the server is stopped fast all the same, not before systemd has done with the unit, and started again without it.
// fakeSystemd is a machine that systemd has booted, with the distribution's unit; script is its systemctl.
func (n *node) fakeSystemd(script string) {
	n.t.Helper()
	err := errors.Join(
		os.Mkdir(filepath.Join(n.root, "booted"), 0o755),
		os.Mkdir(filepath.Join(n.root, "units"), 0o755),
		os.WriteFile(filepath.Join(n.root, "units", "postgresql@.service"), nil, 0o644),
		os.WriteFile(filepath.Join(n.root, "systemctl"), []byte("#!/bin/sh\n"+script), 0o755),
	)
	if err != nil {
		n.t.Fatal(err)
	}
}

func TestSystemdDoesNotObey(t *testing.T) {
	t.Parallel()
	n := newNode(t, "")
	n.moveConfig()
	calls := filepath.Join(n.root, "calls")
	// Twice after the server has gone the unit is still "deactivating".
	n.fakeSystemd(fmt.Sprintf(`echo "$@" >>'%[1]s'
case "$*" in
*show*)
    if [ -e '%[2]s/postmaster.pid' ]; then echo active
    elif [ "$(grep -c gone '%[1]s')" -lt 2 ]; then echo gone >>'%[1]s'; echo deactivating
    else echo failed; fi ;;
*) echo "Access denied" >&2; exit 4 ;;
esac
`, calls, n.DataDir()))
	if err := n.StartAsIs(n.ctx()); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(calls); err == nil {
		t.Error("a start asked systemd")
	}
	n.sql("CREATE TABLE kept()")
	if err := n.Stop(n.ctx(), Fast); err != nil {
		t.Fatal(err)
	}
	if c, err := n.Control(); err != nil || !c.State.Clean() {
		t.Errorf("after a fast stop: got %v, %v, want a clean shutdown", c.State, err)
	}
	b, err := os.ReadFile(calls)
	if err != nil {
		t.Fatal(err)
	}
	unit := n.unit()
	show := "--no-ask-password show --property=ActiveState --value " + unit
	want := strings.Join([]string{show, "--no-ask-password stop " + unit, show, "gone", show, "gone", show, ""}, "\n")
	if diff := cmp.Diff(want, string(b)); diff != "" {
		t.Errorf("calls of systemctl (-want +got):\n%s", diff)
	}
	if err := n.StartStandby(n.ctx()); err != nil {
		t.Fatal(err)
	}
	if got := n.query("SELECT pg_is_in_recovery()::text"); got != "true" {
		t.Errorf("in recovery: got %s, want true", got)
	}
}
