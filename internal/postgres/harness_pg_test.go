//go:build pg

package postgres

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"pgvrrp/internal/child"
)

// must ends the test, or skips it where nothing demands that it can run.
func must(t *testing.T, what string) {
	t.Helper()
	if os.Getenv("CI") != "" || os.Getenv("PGVRRP_REQUIRE") != "" {
		t.Fatal(what)
	}
	t.Skip(what)
}

// binDirs are the installed versions' programs, oldest first; PGVRRP_PG_BINDIRS (separated by colons) adds more.
func binDirs(t *testing.T) []string {
	t.Helper()
	var all []string
	for _, pattern := range []string{"/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin"} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, found...)
	}
	all = append(all, filepath.SplitList(os.Getenv("PGVRRP_PG_BINDIRS"))...)
	return slices.DeleteFunc(all, func(d string) bool { _, err := os.Stat(filepath.Join(d, "initdb")); return err != nil })
}

// mainBin is the newest version that has every program.
func mainBin(t *testing.T) string {
	t.Helper()
	for _, d := range slices.Backward(binDirs(t)) {
		if _, err := os.Stat(filepath.Join(d, "pg_rewind")); err == nil {
			return d
		}
	}
	must(t, "no PostgreSQL is installed")
	return ""
}

// runAs is who runs the servers: initdb refuses root.
func runAs(t *testing.T) (name string, uid, gid int) {
	t.Helper()
	if os.Geteuid() != 0 {
		return "", os.Geteuid(), os.Getegid()
	}
	u, err := user.Lookup("postgres")
	if err != nil {
		must(t, "no user postgres: "+err.Error())
	}
	uid, _ = strconv.Atoi(u.Uid)
	gid, _ = strconv.Atoi(u.Gid)
	return u.Username, uid, gid
}

// place is a short directory that the servers' user owns and can reach.
func place(t *testing.T) string {
	t.Helper()
	_, uid, gid := runAs(t)
	dir := t.TempDir()
	for d := dir; d != os.TempDir() && d != "/"; d = filepath.Dir(d) {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if os.Geteuid() == 0 {
		if err := os.Chown(dir, uid, gid); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// givenPorts are those of all servers so far: one that does not listen yet must not get another test's.
var givenPorts struct {
	sync.Mutex
	all map[int]bool
}

func freePort(t *testing.T) int {
	t.Helper()
	givenPorts.Lock()
	defer givenPorts.Unlock()
	for {
		l, err := net.Listen("tcp4", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		port := l.Addr().(*net.TCPAddr).Port
		l.Close()
		if givenPorts.all == nil {
			givenPorts.all = map[int]bool{}
		}
		if !givenPorts.all[port] {
			givenPorts.all[port] = true
			return port
		}
	}
}

// run runs a program as the servers' user.
func run(t *testing.T, argv ...string) string {
	t.Helper()
	name, _, _ := runAs(t)
	var out strings.Builder
	if _, err := child.Run(t.Context(), child.Command{Argv: argv, User: name, Stdout: &out, Stderr: &out, Dir: "/"}); err != nil {
		t.Fatalf("%v: %s", err, out.String())
	}
	return out.String()
}

// template is one initdb for all tests.
var template struct {
	sync.Once
	root, dir string
}

// TestMain runs the tests of root in a mount namespace of their own, with which the file systems that they mount vanish.
func TestMain(m *testing.M) {
	const mark = "PGVRRP_TEST_MOUNTS"
	if os.Geteuid() == 0 && os.Getenv(mark) == "" {
		c := exec.Command("/proc/self/exe", os.Args[1:]...)
		c.Args[0] = os.Args[0]
		c.Env = append(os.Environ(), mark+"=own")
		c.Stdin, c.Stdout, c.Stderr = os.Stdin, os.Stdout, os.Stderr
		c.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
		runtime.LockOSThread() // Pdeathsig is about the thread
		err := c.Run()
		var exit *exec.ExitError
		if err != nil && !errors.As(err, &exit) {
			fmt.Fprintln(os.Stderr, "run in a mount namespace:", err)
			os.Exit(1)
		}
		if !c.ProcessState.Exited() {
			fmt.Fprintln(os.Stderr, "the tests ended:", c.ProcessState)
			os.Exit(1)
		}
		os.Exit(c.ProcessState.ExitCode())
	}
	code := m.Run()
	if template.root != "" {
		os.RemoveAll(template.root)
	}
	os.Exit(code)
}

func initdb(t *testing.T, bin, dir string) {
	t.Helper()
	run(t, filepath.Join(bin, "initdb"), "-D", dir, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync")
}

// node is a server under test.
type node struct {
	*Server
	t    *testing.T
	port int
	root string // its directory, the data directory and the sockets below
}

const baseConf = `
listen_addresses = '127.0.0.1'
fsync = off
shared_buffers = 16MB
dynamic_shared_memory_type = mmap
wal_level = replica
wal_log_hints = on
hot_standby = on
wal_keep_size = 256MB
wal_retrieve_retry_interval = 100ms
wal_receiver_status_interval = 1s
logging_collector = off
`

// newNode makes a cluster of the main version; more goes into postgresql.conf. It is not started.
func newNode(t *testing.T, more string) *node {
	t.Helper()
	bin := mainBin(t)
	template.Do(func() {
		root, err := os.MkdirTemp("", "pgt")
		if err != nil {
			t.Fatal(err)
		}
		template.root = root
		_, uid, gid := runAs(t)
		if err := os.Chown(root, uid, gid); err != nil {
			t.Fatal(err)
		}
		template.dir = filepath.Join(root, "data")
		initdb(t, bin, template.dir)
	})
	root := place(t)
	data := filepath.Join(root, "d")
	run(t, "cp", "-a", template.dir, data)
	return adopt(t, bin, root, more)
}

// adopt configures and opens the data directory root/d.
func adopt(t *testing.T, bin, root, more string) *node {
	t.Helper()
	n := &node{t: t, port: freePort(t), root: root}
	data := filepath.Join(root, "d")
	conf := baseConf + fmt.Sprintf("port = %d\nunix_socket_directories = '%s'\n%s\ninclude_if_exists = '%s/pgnotify.conf'\n", n.port, root, more, data)
	f, err := os.OpenFile(filepath.Join(data, "postgresql.conf"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString(conf); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	n.open(bin)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := n.Stop(ctx, Immediate); err != nil {
			t.Errorf("clean up: %v", err)
		}
	})
	return n
}

func (n *node) open(bin string) {
	n.t.Helper()
	s, err := Open(Config{
		DataDir: filepath.Join(n.root, "d"), BinDir: bin, Conninfo: fmt.Sprintf("host=%s user=postgres dbname=postgres", n.root),
		Log: slog.New(slog.NewTextHandler(n.t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug})),
	})
	if err != nil {
		n.t.Fatal(err)
	}
	n.Server = s
}

// upstream is how others reach this node.
func (n *node) upstream() string {
	return fmt.Sprintf("host=127.0.0.1 port=%d user=postgres application_name=x connect_timeout=3 keepalives_idle=1", n.port)
}

func (n *node) ctx() context.Context {
	ctx, cancel := context.WithTimeout(n.t.Context(), 20*time.Second)
	n.t.Cleanup(cancel)
	return ctx
}

func (n *node) start() *node {
	n.t.Helper()
	if err := n.StartAsIs(n.ctx()); err != nil {
		n.t.Fatal(err)
	}
	return n
}

func (n *node) stop() {
	n.t.Helper()
	if err := n.Stop(n.ctx(), Fast); err != nil {
		n.t.Fatal(err)
	}
}

// crash kills every process of the server at once.
func (n *node) crash() {
	n.t.Helper()
	all, err := n.processes()
	if err != nil || len(all) == 0 {
		n.t.Fatalf("crash: %d processes, %v", len(all), err)
	}
	for _, p := range all {
		proc, err := os.FindProcess(p.pid)
		if err != nil {
			n.t.Fatal(err)
		}
		_ = proc.Kill() // may have gone with its parent
	}
	n.await("the crash", func() (bool, string) {
		left, err := n.processes()
		return err == nil && len(left) == 0, fmt.Sprint(pids(left), err)
	})
}

// freeze stops a process, until the end of the test at the latest.
func (n *node) freeze(pid int) (thaw func()) {
	n.t.Helper()
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		n.t.Fatal(err)
	}
	thaw = sync.OnceFunc(func() { _ = syscall.Kill(pid, syscall.SIGCONT) }) // it may have been killed meanwhile
	n.t.Cleanup(thaw)
	return thaw
}

// session is a client's, with the server's own settings.
func (n *node) session() *pgx.Conn {
	n.t.Helper()
	conn, err := pgx.Connect(n.ctx(), fmt.Sprintf("host=%s port=%d user=postgres dbname=postgres", n.root, n.port))
	if err != nil {
		n.t.Fatal(err)
	}
	return conn
}

func (n *node) sql(q string, args ...any) {
	n.t.Helper()
	conn := n.session()
	defer closeConn(conn)
	if _, err := conn.Exec(n.ctx(), q, args...); err != nil {
		n.t.Fatalf("%s: %v", q, err)
	}
}

// query runs a query that answers with one text.
func (n *node) query(q string) string {
	n.t.Helper()
	conn := n.session()
	defer closeConn(conn)
	var s string
	if err := conn.QueryRow(n.ctx(), q).Scan(&s); err != nil {
		n.t.Fatalf("%s: %v", q, err)
	}
	return s
}

func (n *node) facts() Facts {
	n.t.Helper()
	f, err := n.Facts(n.ctx())
	if err != nil {
		n.t.Fatal(err)
	}
	return f
}

// await looks until something has come true.
func (n *node) await(what string, f func() (bool, string)) {
	n.t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	timeout := time.After(20 * time.Second)
	for {
		ok, state := f()
		if ok {
			return
		}
		select {
		case <-timeout:
			n.t.Fatalf("waited for %s; now: %s", what, state)
		case <-tick.C:
		}
	}
}

// awaitStreaming waits until n streams and has replayed all that up has flushed.
func (n *node) awaitStreaming(up *node) {
	n.t.Helper()
	want := up.facts()
	n.await("streaming", func() (bool, string) {
		f, err := n.Facts(n.ctx())
		return err == nil && f.Upstream.Status == "streaming" && f.ReplayLSN >= want.LSN && f.Timeline == want.Timeline,
			fmt.Sprintf("%+v %v, want %s", f, err, want.Position())
	})
}

// standby clones n and starts the copy.
func (n *node) standby(more string) *node {
	n.t.Helper()
	root := place(n.t)
	name, _, _ := runAs(n.t)
	if err := Clone(n.ctx(), CloneOptions{BinDir: n.BinDir(), Conninfo: n.upstream(), Dir: filepath.Join(root, "d"), User: name}); err != nil {
		n.t.Fatal(err)
	}
	// The source's own lines must not count: an empty file, then ours.
	if err := os.Truncate(filepath.Join(root, "d", "postgresql.conf"), 0); err != nil {
		n.t.Fatal(err)
	}
	b := adopt(n.t, n.BinDir(), root, more)
	if err := b.SetUpstream(b.ctx(), n.upstream()); err != nil {
		n.t.Fatal(err)
	}
	if err := b.StartStandby(b.ctx()); err != nil {
		n.t.Fatal(err)
	}
	b.awaitStreaming(n)
	return b
}

func requireRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		must(t, "needs root")
	}
}

func requireProgram(t *testing.T, name string) string {
	t.Helper()
	p, err := exec.LookPath(name)
	if err != nil {
		must(t, err.Error())
	}
	return p
}

func timeoutContext(t *testing.T, d time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(t.Context(), d)
}

// createFile makes a file as the server would: it dies of a history file that it sees and may not read.
func (s *Server) createFile(path string, content []byte) error {
	temp := path + ".new"
	return errors.Join(os.WriteFile(temp, content, 0o600), s.give(temp), os.Rename(temp, path))
}
