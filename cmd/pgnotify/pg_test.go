//go:build pg

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"pgvrrp/internal/control"
	"pgvrrp/internal/promote"
)

// The cluster: three servers on 127.0.0.11 to .13 with one port, and a VIP, 127.0.0.100, that is a forwarder of ours.
type cluster struct {
	t     *testing.T
	dir   string
	bin   string // pgnotify
	pgbin string
	port  int
	cred  *syscall.Credential // nil: we are no root and own everything ourselves
	nodes map[string]*node
	vip   *forwarder
}

type node struct {
	c    *cluster
	name string
	addr string
	dir  string
	data string
	toml string
}

const vipAddress = "127.0.0.100"

// newCluster makes n1, a primary, and n2 and n3, its standbys by the VIP.
func newCluster(t *testing.T, names ...string) *cluster {
	t.Helper()
	bins, err := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	if err != nil || len(bins) == 0 {
		missing(t, "no PostgreSQL under /usr/lib/postgresql")
	}
	dir, err := os.MkdirTemp("", "pgnotify-")
	if err != nil {
		t.Fatal(err)
	}
	c := &cluster{t: t, dir: dir, pgbin: filepath.Dir(bins[len(bins)-1]), nodes: map[string]*node{}, bin: filepath.Join(dir, "pgnotify")}
	if os.Geteuid() == 0 {
		u, err := user.Lookup("postgres")
		if err != nil {
			missing(t, "no user postgres: "+err.Error())
		}
		uid, _ := strconv.Atoi(u.Uid)
		gid, _ := strconv.Atoi(u.Gid)
		c.cred = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
		if err := errors.Join(os.Chmod(dir, 0o755), os.Chown(dir, uid, gid)); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		for _, n := range c.nodes {
			n.kill()
		}
		endBehind(t, dir)
		if t.Failed() {
			for _, n := range c.nodes {
				t.Logf("%s log:\n%s", n.name, tail(n.log(), 3000))
			}
			if h, err := os.ReadFile(filepath.Join(dir, "pgnotify.log")); err == nil {
				t.Logf("pgnotify log:\n%s", tail(string(h), 6000))
			}
		}
		os.RemoveAll(dir)
	})
	prepare := exec.Command("go", "build", "-o", c.bin, ".")
	if built := os.Getenv("PGVRRP_BIN"); built != "" {
		prepare = exec.Command("cp", filepath.Join(built, "pgnotify"), c.bin)
	}
	if out, err := prepare.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", prepare.Args, err, out)
	}
	l, err := net.Listen("tcp", vipAddress+":0")
	if err != nil {
		t.Fatal(err)
	}
	c.port = l.Addr().(*net.TCPAddr).Port
	c.vip = &forwarder{port: c.port}
	l.Close()
	t.Cleanup(func() { c.vip.to("") })
	for i, name := range []string{"n1", "n2", "n3"} {
		n := &node{c: c, name: name, addr: fmt.Sprintf("127.0.0.%d", 11+i), dir: filepath.Join(dir, name)}
		n.data, n.toml = filepath.Join(n.dir, "data"), filepath.Join(n.dir, "pgnotify.toml")
		c.nodes[name] = n
	}
	for _, name := range []string{"n1", "n2", "n3"} {
		c.nodes[name].configure()
	}
	n1 := c.nodes["n1"]
	c.must("initdb", "-k", "-U", "postgres", "--auth=trust", "-D", n1.data)
	n1.pgctl("start")
	n1.sql("CREATE ROLE replicator LOGIN SUPERUSER REPLICATION")
	n1.sql("CREATE TABLE t (x text)")
	c.vip.to(n1.addr)
	for _, name := range names {
		n := c.nodes[name]
		c.must("pg_basebackup", "-X", "stream", "-c", "fast", "-h", n1.addr, "-p", fmt.Sprint(c.port), "-U", "replicator", "-D", n.data)
		n.run(0, "start")
		n.run(0, "rejoin")
	}
	return c
}

// share has a row of n1 on all three.
func (c *cluster) share(row string) {
	c.nodes["n1"].insert(row)
	c.nodes["n2"].has(row)
	c.nodes["n3"].has(row)
}

func missing(t *testing.T, what string) {
	t.Helper()
	if os.Getenv("CI") != "" || os.Getenv("PGVRRP_REQUIRE") != "" {
		t.Fatal(what)
	}
	t.Skip(what)
}

func tail(s string, n int) string { return s[max(0, len(s)-n):] }

func (c *cluster) command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=" + c.pgbin + ":/usr/bin:/bin", "LANG=C"}
	if c.cred != nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: c.cred}
	}
	return cmd
}

func (c *cluster) must(program string, args ...string) {
	c.t.Helper()
	// A file, because a server that stays would hold a pipe open.
	f, err := os.CreateTemp(c.dir, "out")
	if err != nil {
		c.t.Fatal(err)
	}
	defer f.Close()
	cmd := c.command(c.t.Context(), filepath.Join(c.pgbin, program), args...)
	cmd.Stdout, cmd.Stderr = f, f
	if err := cmd.Run(); err != nil {
		text, _ := os.ReadFile(f.Name())
		c.t.Fatalf("%s %v: %v\n%s", program, args, err, text)
	}
}

func (n *node) configure() {
	c := n.c
	conf := fmt.Sprintf(`data_directory = '%[1]s'
hba_file = '%[2]s/pg_hba.conf'
listen_addresses = '%[3]s'
port = %[4]d
unix_socket_directories = '%[2]s'
cluster_name = '%[5]s'
fsync = off
wal_log_hints = on
hot_standby = on
wal_keep_size = 256MB
max_wal_senders = 20
shared_buffers = 16MB
dynamic_shared_memory_type = mmap
wal_retrieve_retry_interval = 100ms
wal_receiver_timeout = 2s
wal_sender_timeout = 2s
logging_collector = on
log_directory = '%[2]s/log'
log_filename = 'server.log'
include_if_exists = '%[1]s/pgnotify.conf'
`, n.data, n.dir, n.addr, c.port, n.name)
	toml := fmt.Sprintf(`node = "%[1]s"
[postgres]
data_dir = "%[2]s"
config_file = "%[3]s/postgresql.conf"
bin_dir = "%[4]s"
port = %[5]d
conninfo = "host=%[3]s dbname=postgres user=postgres"
[hook]
vip = "%[6]s"
peers = { n1 = ["127.0.0.11"], n2 = ["127.0.0.12"], n3 = ["127.0.0.13"] }
[log]
file = "%[7]s/pgnotify.log"
[timeouts]
handover = "3s"
`, n.name, n.data, n.dir, c.pgbin, c.port, vipAddress, c.dir)
	hba := "local all all trust\nhost all all 127.0.0.0/8 trust\nhost replication all 127.0.0.0/8 trust\n"
	if err := os.Mkdir(n.dir, 0o755); err != nil {
		c.t.Fatal(err)
	}
	for name, text := range map[string]string{"postgresql.conf": conf, "pg_hba.conf": hba, "pgnotify.toml": toml} {
		mode := os.FileMode(0o644)
		if name == "pgnotify.toml" {
			mode = 0o600 // root's own: the work behind a hook must not need to read it
		}
		if err := os.WriteFile(filepath.Join(n.dir, name), []byte(text), mode); err != nil {
			c.t.Fatal(err)
		}
	}
	if c.cred != nil {
		if err := os.Chown(n.dir, int(c.cred.Uid), int(c.cred.Gid)); err != nil {
			c.t.Fatal(err)
		}
	}
}

func (n *node) pgctl(verb string) {
	n.c.t.Helper()
	n.c.must("pg_ctl", verb, "-w", "-D", n.data, "-l", filepath.Join(n.dir, "start.log"), "-o", "-c config_file="+n.dir+"/postgresql.conf")
}

// cmd is pgnotify on this node, as root if we are: it becomes the owner by itself.
func (n *node) cmd(args ...string) *exec.Cmd {
	cmd := exec.Command(n.c.bin, append([]string{"-c", n.toml, "--state-dir", filepath.Join(n.dir, "state"), "--log-level", "debug"}, args...)...)
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=/usr/bin:/bin", "LANG=C"}
	return cmd
}

func (n *node) run(code int, args ...string) string {
	n.c.t.Helper()
	var out bytes.Buffer
	cmd := n.cmd(args...)
	cmd.Stdout, cmd.Stderr = &out, &out
	start := time.Now()
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		n.c.t.Fatal(err)
	}
	if got := cmd.ProcessState.ExitCode(); got != code {
		n.c.t.Fatalf("%s: pgnotify %v: exit code %d, want %d\n%s", n.name, args, got, code, out.String())
	}
	n.c.t.Logf("%s: pgnotify %v: %d in %s", n.name, args, code, time.Since(start).Round(time.Millisecond))
	return out.String()
}

func (n *node) hook(code int, state string) string {
	n.c.t.Helper()
	return n.run(code, "notify", "INSTANCE", "VI_PG", state, "100")
}

func (n *node) sql(query string) string {
	n.c.t.Helper()
	out, err := n.trySQL(query)
	if err != nil {
		n.c.t.Fatalf("%s: %s: %v", n.name, query, err)
	}
	return out
}

func (n *node) trySQL(query string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	out, err := n.c.command(ctx, filepath.Join(n.c.pgbin, "psql"), "-XAtq", "-h", n.dir, "-p", fmt.Sprint(n.c.port), "-U", "postgres", "-d", "postgres", "-c", query).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	return strings.TrimSpace(string(out)), nil
}

// kill ends the server as a power loss does, without a word.
func (n *node) kill() {
	text, err := os.ReadFile(filepath.Join(n.data, "postmaster.pid"))
	if err != nil {
		return
	}
	first, _, _ := strings.Cut(string(text), "\n")
	pid, err := strconv.Atoi(first)
	if err != nil || pid <= 1 {
		return
	}
	children, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	_ = syscall.Kill(pid, syscall.SIGKILL)
	for _, f := range strings.Fields(string(children)) {
		if child, err := strconv.Atoi(f); err == nil {
			_ = syscall.Kill(child, syscall.SIGKILL)
		}
	}
}

func (n *node) log() string {
	var all strings.Builder
	for _, name := range []string{"start.log", "log/server.log"} {
		text, _ := os.ReadFile(filepath.Join(n.dir, name))
		all.Write(text)
	}
	return all.String()
}

func (n *node) promotions() int { return strings.Count(n.log(), "received promote request") }

func (n *node) primary() bool {
	out, err := n.trySQL("SELECT pg_is_in_recovery()")
	return err == nil && out == "f"
}

func (n *node) streams() bool {
	out, err := n.trySQL("SELECT status FROM pg_stat_wal_receiver")
	return err == nil && out == "streaming"
}

func (c *cluster) eventually(what string, ok func() bool) {
	c.t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			c.t.Fatalf("never came true: %s", what)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// has waits until a row is on a node.
func (n *node) has(row string) {
	n.c.t.Helper()
	n.c.eventually(n.name+" has "+row, func() bool {
		out, err := n.trySQL("SELECT count(*) FROM t WHERE x = '" + row + "'")
		return err == nil && out == "1"
	})
}

func (n *node) insert(row string) {
	n.c.t.Helper()
	n.sql("INSERT INTO t VALUES ('" + row + "')")
}

func (n *node) history() []promote.Entry {
	n.c.t.Helper()
	var all decisions
	out, err := n.cmd("history", "--json").Output()
	if err == nil {
		err = json.Unmarshal(out, &all)
	}
	if err != nil {
		n.c.t.Fatal(err)
	}
	return all.Entries
}

// forwarder is the VIP: it listens there and forwards to whoever holds it.
type forwarder struct {
	port int
	mu   sync.Mutex
	l    net.Listener
	open []net.Conn
}

// to moves the VIP; "" takes it away. Connections through it break, as they do when an address moves.
func (f *forwarder) to(addr string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.l != nil {
		f.l.Close()
		f.l = nil
	}
	for _, c := range f.open {
		c.Close()
	}
	f.open = nil
	if addr == "" {
		return
	}
	l, err := net.Listen("tcp", net.JoinHostPort(vipAddress, strconv.Itoa(f.port)))
	if err != nil {
		panic(err)
	}
	f.l = l
	go func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", net.JoinHostPort(addr, strconv.Itoa(f.port)))
			if err != nil {
				if tcp, ok := in.(*net.TCPConn); ok {
					_ = tcp.SetLinger(0)
				}
				in.Close()
				continue
			}
			f.mu.Lock()
			f.open = append(f.open, in, out)
			f.mu.Unlock()
			for _, p := range [][2]net.Conn{{in, out}, {out, in}} {
				go func() {
					_, _ = io.Copy(p[0], p[1])
					p[0].Close()
					p[1].Close()
				}()
			}
		}
	}()
}

// store is the node's state directory.
func (n *node) store() *promote.Store {
	n.c.t.Helper()
	s, err := promote.OpenStore(filepath.Join(n.dir, "state"), n.data)
	if err != nil {
		n.c.t.Fatal(err)
	}
	return s
}

// followed is how often the work behind a BACKUP has come to its end.
func (n *node) followed() (times int) {
	n.c.t.Helper()
	for _, e := range n.history() {
		if e.Command == "follow" && e.Outcome == "done" {
			times++
		}
	}
	return times
}

// rebuilt leaves the marker of a rebuild.
func (n *node) rebuilt(p promote.Phase) {
	n.c.t.Helper()
	if err := n.store().SetRebuild(promote.Rebuild{Phase: p, Why: "left by the test"}); err != nil {
		n.c.t.Fatal(err)
	}
	if cred := n.c.cred; cred != nil {
		found, _ := filepath.Glob(filepath.Join(n.dir, "state", "*"))
		for _, f := range found {
			_ = os.Lchown(f, int(cred.Uid), int(cred.Gid))
		}
	}
}

// fakeVrrpd holds the VIP on whoever asks and runs the hooks of a release.
type fakeVrrpd struct {
	c       *cluster
	release func()
}

func (f *fakeVrrpd) Status(context.Context) control.Status {
	return control.Status{Instances: []control.Instance{{
		Name: "VI_PG", State: control.StateMaster, Seq: 1, Addresses: []control.Address{{Address: vipAddress + "/24", Held: true}},
	}}}
}

func (f *fakeVrrpd) Plan(context.Context, string) (control.Plan, error) { return control.Plan{}, nil }

func (f *fakeVrrpd) Release(context.Context, string, time.Duration) error {
	go f.release()
	return nil
}

func (f *fakeVrrpd) Subscribe() (<-chan control.Event, func()) {
	return make(chan control.Event), func() {}
}

// TestFailoverAndReturn is the main story: the primary dies, the next one is promoted once, the third follows, the first comes
// back and moves on from where it had diverged, and a planned move brings it back into office.
func TestFailoverAndReturn(t *testing.T) {
	c := newCluster(t, "n2", "n3")
	n1, n2, n3 := c.nodes["n1"], c.nodes["n2"], c.nodes["n3"]
	c.share("before")

	t.Log("MASTER on a primary does nothing; on a standby it refuses while the primary answers")
	n1.hook(0, "MASTER")
	n2.hook(1, "MASTER")
	if out := n2.run(1, "promote"); !strings.Contains(out, "answers as a primary") {
		t.Errorf("promote: got %q", out)
	}
	if out := n2.run(1, "promote", "--dry-run"); !strings.Contains(out, "answers as a primary") {
		t.Errorf("promote --dry-run: got %q", out)
	}
	if n := n2.promotions() + n3.promotions(); n != 0 {
		t.Fatalf("%d promotions while the primary lives", n)
	}
	status := n1.run(0, "status")
	for _, want := range []string{"n1  ", "n2  ", "streaming", "is a primary already", "async"} {
		if want != "streaming" && !strings.Contains(status, want) {
			t.Errorf("status lacks %q:\n%s", want, status)
		}
	}

	t.Log("power loss of n1 with a row that nobody else has")
	n2.run(0, "stop")
	n3.run(0, "stop")
	n1.insert("lost")
	c.vip.to("")
	n1.kill()
	n2.run(0, "start")
	n3.run(0, "start")
	start := time.Now()
	n2.hook(0, "MASTER")
	t.Logf("MASTER hook took %s", time.Since(start))
	if !n2.primary() {
		t.Fatal("n2 is no primary when its MASTER hook has ended")
	}
	c.vip.to(n2.addr)
	n2.insert("after")
	n3.has("after")
	n2.hook(0, "MASTER")
	c.eventually("CHECKPOINT behind the promotion", func() bool {
		for _, e := range n2.history() {
			if e.Command == "after-promote" && e.Outcome == "done" {
				return true
			}
		}
		return false
	})

	t.Log("n1 comes back: it is never a primary again, and its row is taken back")
	n1.hook(0, "BACKUP")
	n1.has("after")
	c.eventually("n1 streams", n1.streams)
	if out := n1.sql("SELECT count(*) FROM t WHERE x = 'lost'"); out != "0" {
		t.Errorf("the diverged row is still there")
	}
	c.eventually("n1 was rewound and streamed", func() bool {
		for _, e := range n1.history() {
			if e.Command == "follow" && e.Outcome == "done" && strings.Contains(strings.Join(e.Steps, " "), "rewound") {
				return true
			}
		}
		return false
	})

	t.Log("a planned move: BACKUP on n2 and MASTER on n1 at the same moment")
	followed := n2.followed()
	both := make(chan error, 2)
	for n, state := range map[*node]string{n1: "MASTER", n2: "BACKUP"} {
		go func() {
			out, err := n.cmd("notify", "INSTANCE", "VI_PG", state, "100").CombinedOutput()
			if err != nil {
				err = fmt.Errorf("%s %s: %w: %s", n.name, state, err, out)
			}
			both <- err
		}()
	}
	c.vip.to("")
	for range 2 {
		if err := <-both; err != nil {
			t.Error(err)
		}
	}
	c.vip.to(n1.addr)
	n1.insert("moved")
	n2.has("moved")
	n3.has("moved")
	c.eventually("n2 streams", n2.streams)
	if a, b, d := n1.promotions(), n2.promotions(), n3.promotions(); a != 1 || b != 1 || d != 0 {
		t.Errorf("promotions: n1 %d, n2 %d, n3 %d, want 1, 1, 0", a, b, d)
	}

	t.Log("a planned move by hand: nothing diverges, and it need not wait until n2's hook has seen the rewound server stream")
	c.eventually("n2's hook is done", func() bool { return n2.followed() > followed })
	n2.rebuilt(promote.PhaseRewound)
	sock := filepath.Join(c.dir, "control.sock")
	srv, err := control.Listen(sock, &fakeVrrpd{c: c, release: func() {
		c.vip.to("")
		if out, err := n2.cmd("notify", "INSTANCE", "VI_PG", "MASTER", "100").CombinedOutput(); err != nil {
			t.Errorf("n2 MASTER: %v: %s", err, out)
		}
		c.vip.to(n2.addr)
		if out, err := n1.cmd("notify", "INSTANCE", "VI_PG", "BACKUP", "100").CombinedOutput(); err != nil {
			t.Errorf("n1 BACKUP: %v: %s", err, out)
		}
	}}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	var served sync.WaitGroup
	served.Go(func() { _ = srv.Run(ctx) })
	t.Cleanup(func() { stop(); served.Wait() })
	if out := n1.run(0, "--socket", sock, "switchover", "--to", "n2"); !strings.Contains(out, "n2 is the primary at the VIP") {
		t.Errorf("switchover: %q", out)
	}
	n2.insert("by hand")
	c.eventually("nothing is to be seen to on n2", func() bool {
		r, err := n2.store().Rebuild()
		return err == nil && r.Phase == promote.PhaseNone
	})
	n1.has("by hand")
	n3.has("by hand")
	for i, entries := 0, n1.history(); i < len(entries); i++ {
		if e := entries[len(entries)-1-i]; e.Command == "switchover" {
			break
		} else if strings.Contains(strings.Join(e.Steps, " "), "rewound") {
			t.Errorf("a planned move made a rewind necessary: %+v", e)
		}
	}
	n1.run(1, "--socket", sock, "switchover")

	t.Log("FAULT: stopped, and back as a standby without upstream")
	c.vip.to("")
	n1, n2 = n2, n1
	n1.hook(0, "FAULT")
	if out := n1.sql("SELECT pg_is_in_recovery(), current_setting('primary_conninfo')"); out != "t|" {
		t.Errorf("after FAULT: %q", out)
	}
	n1.hook(0, "FAULT")
	n1.hook(0, "DELETED")
	n1.run(0, "check", "--role", "standby")
	n1.run(1, "check", "--role", "primary")
}

func TestConditions(t *testing.T) {
	c := newCluster(t, "n2", "n3")
	n1, n2, n3 := c.nodes["n1"], c.nodes["n2"], c.nodes["n3"]
	c.share("one")

	t.Log("(4) a standby with less WAL is not promoted before it has the rest")
	n2.run(0, "stop")
	n1.insert("two")
	n3.has("two")
	c.vip.to("")
	n1.kill()
	n2.run(0, "start")
	if out := n2.run(0, "explain"); !strings.Contains(out, "condition 4, no standby with more WAL: FAILS, n3") {
		t.Errorf("explain: %q", out)
	}
	if out := n2.run(0, "promote", "--dry-run"); !strings.Contains(out, "1. receive from n3 at 127.0.0.13 what it has more") {
		t.Errorf("promote --dry-run: %q", out)
	}
	t.Log("(3) a check that can't run has failed: n3 does not let us in")
	hba := filepath.Join(n3.dir, "pg_hba.conf")
	good, _ := os.ReadFile(hba)
	if err := os.WriteFile(hba, []byte("local all all trust\nhost all all 127.0.0.0/8 trust\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	n3.sql("SELECT pg_reload_conf()")
	c.eventually("n3 shuts us out", func() bool { return strings.Contains(n2.run(1, "promote"), "can't tell whether n3") })
	if err := os.WriteFile(hba, good, 0o644); err != nil {
		t.Fatal(err)
	}
	n3.sql("SELECT pg_reload_conf()")

	t.Log("(3) a server that hangs may be a primary: SIGSTOP")
	pid, _ := os.ReadFile(filepath.Join(n3.data, "postmaster.pid"))
	first, _, _ := strings.Cut(string(pid), "\n")
	frozen, _ := strconv.Atoi(first)
	_ = syscall.Kill(frozen, syscall.SIGSTOP)
	if out := n2.run(1, "promote"); !strings.Contains(out, "can't tell yet whether n3") {
		t.Errorf("promote: %q", out)
	}
	_ = syscall.Kill(frozen, syscall.SIGCONT)
	n2.hook(0, "MASTER")
	c.vip.to(n2.addr)
	if out := n2.sql("SELECT count(*) FROM t WHERE x = 'two'"); out != "1" {
		t.Errorf("n2 was promoted without the row that n3 has")
	}
	n3.hook(0, "BACKUP")
	n2.insert("via n2")
	n3.has("via n2")
	if a, b := n2.promotions(), n3.promotions(); a != 1 || b != 0 {
		t.Errorf("promotions: n2 %d, n3 %d, want 1 and 0", a, b)
	}
	c.eventually("n2 forgets where it caught up", func() bool { return strings.Contains(n2.sql("SHOW primary_conninfo"), vipAddress) })
	n2, n3 = n3, n2

	t.Log("(1) a flap: MASTER waits, BACKUP overtakes it, nothing is promoted")
	n2.run(0, "stop")
	c.vip.to("")
	n3.run(0, "stop")
	n2.run(0, "start")
	good, err := os.ReadFile(n2.toml)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(n2.toml, []byte(strings.Replace(string(good), "[hook]\n", "[hook]\nsettle = \"10s\"\n", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	delivered := func() uint64 { r, _ := n2.store().Newest("VI_PG"); return r.Seq }
	was := delivered()
	late := n2.cmd("notify", "INSTANCE", "VI_PG", "MASTER", "100")
	late.Env = append(late.Env, "GODEBUG=")
	if err := late.Start(); err != nil {
		t.Fatal(err)
	}
	c.eventually("MASTER is delivered", func() bool { return delivered() > was })
	n2.hook(0, "BACKUP")
	if err := late.Wait(); err == nil {
		t.Errorf("the overtaken MASTER hook exited 0")
	}
	if err := os.WriteFile(n2.toml, good, 0o600); err != nil {
		t.Fatal(err)
	}
	if n2.primary() || n2.promotions() != 0 {
		t.Errorf("the overtaken MASTER hook promoted")
	}

	t.Log("a data directory left half rewound is no primary and is cloned anew")
	n3.run(0, "start", "--as-is")
	c.vip.to(n3.addr)
	n2.run(0, "stop")
	n2.rebuilt(promote.PhaseRewinding)
	n2.hook(1, "MASTER")
	n2.run(1, "start", "--as-is")
	n2.hook(0, "BACKUP")
	n3.insert("three")
	n2.has("three")
	olds, _ := filepath.Glob(n2.data + ".old-*")
	if len(olds) != 1 {
		t.Errorf("old data: got %v, want one directory", olds)
	}
}

// Two servers that were each made the primary while the other was off give their timelines one number, and both began it at the same place: whoever
// comes back second is seen to have diverged, and copied, which pg_rewind could not do.
func TestBothWereMadePrimary(t *testing.T) {
	c := newCluster(t, "n2", "n3")
	n1, n2, n3 := c.nodes["n1"], c.nodes["n2"], c.nodes["n3"]
	c.share("before")
	c.vip.to("")
	n1.run(0, "stop")
	n3.run(0, "stop")
	n2.hook(0, "MASTER")
	n2.insert("of n2")
	n2.kill()
	n1.run(0, "start")
	n1.hook(0, "MASTER")
	if got := n1.sql("SELECT pg_walfile_name(pg_current_wal_lsn())"); !strings.HasPrefix(got, "00000002") {
		t.Errorf("n1 writes %s, want timeline 2, as n2 did", got)
	}
	n1.insert("of n1")
	c.vip.to(n1.addr)
	n2.hook(0, "BACKUP")
	n3.hook(0, "BACKUP")
	for _, n := range []*node{n2, n3} {
		n.has("of n1")
		c.eventually(n.name+" streams", n.streams)
	}
	if out := n2.sql("SELECT count(*) FROM t WHERE x = 'of n2'"); out != "0" {
		t.Error("the row that only n2 had is still there")
	}
	if olds, _ := filepath.Glob(n2.data + ".old-*"); len(olds) != 1 {
		t.Errorf("old data of n2: got %v, want one directory", olds)
	}

	t.Log("n2 once more: what was copied is not what it made")
	n1.run(0, "stop")
	c.vip.to("")
	n2.hook(0, "MASTER")
	c.vip.to(n2.addr)
	n2.insert("in the end")
	n3.has("in the end")
}

// A MASTER that came to nothing is tried again until there is a primary, whatever is done by hand meanwhile.
func TestMasterIsTriedAgain(t *testing.T) {
	c := newCluster(t)
	n1 := c.nodes["n1"]
	c.vip.to("")
	n1.run(0, "stop")

	t.Log("PostgreSQL does not start, and an operator tries, too, before he mends it")
	conf := filepath.Join(n1.dir, "postgresql.conf")
	text, err := os.ReadFile(conf)
	check(t, err)
	check(t, os.WriteFile(conf, append(text, "nonsense = on\n"...), 0o644))
	n1.hook(1, "MASTER")
	c.eventually("it is tried again", func() bool { return n1.store().Busy() != "" })
	n1.run(1, "start")
	check(t, os.WriteFile(conf, text, 0o644))
	c.eventually("n1 is the primary", n1.primary)

	t.Log("its file system is mounted late, and so long nothing is there, or an empty directory of root's")
	for _, mountPoint := range []bool{false, true} {
		n1.run(0, "stop")
		check(t, os.Rename(n1.data, n1.data+".away"))
		if mountPoint {
			check(t, os.Mkdir(n1.data, 0o755))
		}
		n1.hook(1, "BACKUP")
		n1.hook(1, "MASTER")
		if mountPoint {
			check(t, os.Remove(n1.data))
		}
		check(t, os.Rename(n1.data+".away", n1.data))
		c.eventually("n1 is the primary", n1.primary)
	}

	t.Log("the state directory is full")
	n1.run(0, "demote")
	state := filepath.Join(n1.dir, "full")
	pgnotify := n1.cmd()
	script := fmt.Sprintf(`mount --make-rprivate /
mkdir %[1]s
mount -t tmpfs -o size=64k none %[1]s
chown --reference=%[2]s %[1]s
%[3]s notify INSTANCE VI_PG BACKUP 100
cat /dev/zero >%[1]s/ballast || true
if %[3]s notify INSTANCE VI_PG MASTER 100; then exit 1; fi
rm %[1]s/ballast
`, state, n1.data, strings.Join(append(pgnotify.Args, "--state-dir", state), " "))
	if out, err := exec.Command("/usr/bin/unshare", "--mount", "/bin/sh", "-ec", script).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	c.eventually("n1 is the primary", n1.primary)
}

func TestByHand(t *testing.T) {
	c := newCluster(t)
	n1, n2, n3 := c.nodes["n1"], c.nodes["n2"], c.nodes["n3"]

	t.Log("clone a whole new standby into no directory")
	if out := n2.run(0, "clone", "--from", "n1", "--dry-run"); !strings.Contains(out, "copy the source at 127.0.0.11") {
		t.Errorf("clone --dry-run: %q", out)
	}
	if _, err := os.Stat(n2.data); err == nil {
		t.Fatal("--dry-run made a directory")
	}
	n2.run(1, "clone", "--from", "n3")
	if _, err := os.Stat(n2.data); err == nil {
		t.Fatal("a failed clone left a directory")
	}
	n2.run(0, "clone", "--from", "n1")
	n1.insert("one")
	n2.has("one")
	t.Log("and over an existing one, from a standby by its address")
	n2.run(1, "clone", "--from", "127.0.0.13")
	n2.run(0, "clone", "--from", "127.0.0.11")
	n2.has("one")
	n3.run(0, "clone", "--from", "127.0.0.12")
	n3.has("one")
	n1.run(1, "clone", "--from", "n2")

	t.Log("idempotent")
	n2.run(0, "start")
	n2.run(0, "rejoin")
	n2.run(0, "demote")
	n1.run(0, "promote")
	n1.run(0, "check", "--role", "primary")
	n2.run(0, "check", "--role", "standby", "--max-lag", "16MB")
	n2.run(1, "switchover")
	if out := n1.run(1, "switchover", "--to", "n2"); !strings.Contains(out, "Under keepalived") {
		t.Errorf("switchover without vrrpd: %q", out)
	}
	n1.run(2, "switchover", "--to", "n9")

	t.Log("demote, then promote the other, then rejoin with a forced copy")
	if out := n1.run(0, "demote", "--dry-run"); !strings.Contains(out, "1. stop n1 fast") {
		t.Errorf("demote --dry-run: %q", out)
	}
	c.vip.to("")
	n1.run(0, "demote")
	n1.run(0, "stop")
	n1.run(0, "stop")
	n2.run(0, "promote")
	c.vip.to(n2.addr)
	n1.run(2, "start", "--as-is", "--dry-run", "x")
	n2.insert("two")
	n1.run(0, "rejoin", "--reclone")
	n1.has("two")
	n3.run(0, "rejoin")
	n3.has("two")
	n2.run(1, "rejoin")
}

func (f *fakeVrrpd) Quorum() control.QuorumCalls { return nil }
