//go:build pg

package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"pgvrrp/internal/agent/core"
	"pgvrrp/internal/child"
	"pgvrrp/internal/postgres"
	"pgvrrp/internal/promote"
	"pgvrrp/internal/quiet"
)

// pair is two machines on this host: n1 with data, n2 with none. Each is its own address of the loopback.
type pair struct {
	t    *testing.T
	user string
	n    map[string]*Machine
}

func must(t *testing.T, what string) {
	t.Helper()
	if os.Getenv("CI") != "" || os.Getenv("PGVRRP_REQUIRE") != "" {
		t.Fatal(what)
	}
	t.Skip(what)
}

func newestBin(t *testing.T) string {
	t.Helper()
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin/pg_rewind")
	if err != nil {
		t.Fatal(err)
	}
	if more, err := filepath.Glob("/usr/pgsql-*/bin/pg_rewind"); err == nil {
		found = append(found, more...)
	}
	if len(found) == 0 {
		must(t, "no PostgreSQL is installed")
	}
	return filepath.Dir(found[len(found)-1])
}

func newPair(t *testing.T) *pair {
	t.Helper()
	bin := newestBin(t)
	p := &pair{t: t, n: map[string]*Machine{}}
	dir, uid, gid := t.TempDir(), os.Geteuid(), os.Getegid()
	if uid == 0 {
		u, err := user.Lookup("postgres")
		if err != nil {
			must(t, "no user postgres: "+err.Error())
		}
		p.user = u.Username
		uid, _ = strconv.Atoi(u.Uid)
		gid, _ = strconv.Atoi(u.Gid)
		for d := dir; d != os.TempDir() && d != "/"; d = filepath.Dir(d) {
			if err := os.Chmod(d, 0o755); err != nil {
				t.Fatal(err)
			}
		}
	}
	mkdir := func(path string) string {
		if err := os.Mkdir(path, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Chown(path, uid, gid); err != nil {
			t.Fatal(err)
		}
		return path
	}
	family := keptFamily{Nodes: map[string][]netip.Addr{"n1": {netip.MustParseAddr("127.0.0.1")}, "n2": {netip.MustParseAddr("127.0.0.2")}}}
	ports := map[string]int{"n1": freePort(t), "n2": freePort(t)}
	for _, name := range []string{"n1", "n2"} {
		home := mkdir(filepath.Join(dir, name))
		state := mkdir(filepath.Join(home, "state"))
		data := filepath.Join(home, "data")
		set, err := promote.Parse("t", []byte(fmt.Sprintf("resource = \"pg\"\n[postgres]\ndata_dir = %q\nport = %d\nconninfo = \"host=%s user=postgres\"\n[replication]\nuser = \"postgres\"\n", data, ports[name], home)), name)
		if err != nil {
			t.Fatal(err)
		}
		store, err := promote.OpenStore(state, data)
		if err != nil {
			t.Fatal(err)
		}
		f := NewFamily(ports[name])
		k := family
		k.Self = name
		f.set(k)
		for n, port := range ports {
			f.tell(n, port)
		}
		m := &Machine{
			Settings: set, Store: store, Log: slog.New(slog.DiscardHandler), Now: quiet.BootTime, Copy: func(ctx context.Context, o postgres.CloneOptions) error {
				o.User = p.user
				if err := postgres.Clone(ctx, o); err != nil {
					return err
				}
				// The copy brings the source's own lines.
				return p.configure(o.Dir, home, ports[name], data)
			},
			BinDir: func(int) string { return bin },
			Config: postgres.Config{DataDir: data, BinDir: bin, Conninfo: set.Conninfo, Port: ports[name], StateDir: state, Log: slog.New(slog.DiscardHandler)},
		}
		m.SetFamily(f)
		p.n[name] = m
		t.Cleanup(func() {
			if srv, _ := m.server(); srv != nil {
				m.Close()
				_ = srv.Stop(context.Background(), postgres.Immediate)
			}
		})
	}
	data := p.n["n1"].Config.DataDir
	p.run(filepath.Join(bin, "initdb"), "-D", data, "-U", "postgres", "-A", "trust", "--no-sync", "-k")
	if err := p.configure(data, filepath.Dir(data), ports["n1"], data); err != nil {
		t.Fatal(err)
	}
	if err := p.n["n1"].Open(); err != nil {
		t.Fatal(err)
	}
	if err := p.n["n2"].Open(); err != nil {
		t.Fatal(err)
	}
	return p
}

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

func (p *pair) run(argv ...string) {
	p.t.Helper()
	var out strings.Builder
	if _, err := child.Run(p.t.Context(), child.Command{Argv: argv, User: p.user, Stdout: &out, Stderr: &out, Dir: "/"}); err != nil {
		p.t.Fatalf("%v: %s", err, out.String())
	}
}

// archiverWaits is a file beside a data directory: while it is there, archive_command does not end.
const archiverWaits = "archiver-waits"

// configure adds a server's own lines; of two for one setting the last counts.
func (p *pair) configure(dir, home string, port int, data string) error {
	lines := fmt.Sprintf("\nport = %d\nlisten_addresses = '127.0.0.1, 127.0.0.2'\nunix_socket_directories = '%s'\nwal_retrieve_retry_interval = '100ms'\nwal_level = replica\n"+
		"max_wal_senders = 10\nfsync = off\nwal_sender_timeout = '2s'\nwal_receiver_timeout = '2s'\narchive_mode = on\narchive_command = 'while [ -e %s ]; do sleep 0.01; done'\n"+
		"include_if_exists = '%s/pgnotify.conf'\n", port, home, filepath.Join(home, archiverWaits), data)
	f, err := os.OpenFile(filepath.Join(dir, "postgresql.conf"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	if _, err := f.WriteString(lines); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "pg_hba.conf"), []byte("local all all trust\nhost all all 127.0.0.0/8 trust\nhost replication all 127.0.0.0/8 trust\n"), 0o600)
}

// do carries out an action that must succeed.
func (p *pair) do(name string, a core.Action) core.Result {
	p.t.Helper()
	r, err := p.n[name].Do(p.t.Context(), a)
	if err != nil {
		p.t.Fatalf("%s: %v: %v", name, a, err)
	}
	return r
}

func (p *pair) look(name string) core.Server {
	p.t.Helper()
	s, ok := p.n[name].Look(p.t.Context())
	if !ok {
		p.t.Fatalf("%s: nothing can be said", name)
	}
	return s
}

// until looks until cond holds.
func (p *pair) until(name, what string, cond func(core.Server) bool) core.Server {
	p.t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(20 * time.Second); ; <-tick.C {
		s := p.look(name)
		if cond(s) {
			return s
		}
		if time.Now().After(end) {
			text, err := os.ReadFile(filepath.Join(p.n[name].Config.DataDir, "log", "pgnotify-start.log"))
			p.t.Fatalf("%s: not %s: %+v\n%s %v", name, what, s, text[max(0, len(text)-3000):], err)
		}
	}
}

// TestMachine carries out every action of the queue on real servers, in the order of a cluster's life.
func TestMachine(t *testing.T) {
	p := newPair(t)
	if s := p.look("n2"); !s.NoData {
		t.Fatalf("n2: got %+v, want no data", s)
	}
	if s := p.look("n1"); s.Running || !s.Clean || s.SystemID == 0 || s.Pos.TLI != 1 || s.Pos.LSN == 0 {
		t.Fatalf("n1 down: got %+v", s)
	}

	// n1: started as a standby on hold, fenced, promoted to a timeline that skips one.
	p.do("n1", core.Action{Kind: core.StartStandby})
	s := p.look("n1")
	if hold, ok := core.ParseSSN(s.SSN); !s.Answering || !s.InRecovery || !ok || !hold.IsHold() || s.Conninfo != "" || lifePID(s.Postmaster) == 0 {
		t.Fatalf("n1 started: got %+v", s)
	}
	r := p.do("n1", core.Action{Kind: core.Fence, Epoch: 2})
	if r.SystemID != s.SystemID || r.Pos != s.Pos {
		t.Errorf("fence: got %+v, want system %d and %v", r, s.SystemID, s.Pos)
	}
	p.do("n1", core.Action{Kind: core.Reserve, TLI: 3, Numbers: []uint32{2}})
	if r = p.do("n1", core.Action{Kind: core.PromoteTo, TLI: 3}); r.TLI != 3 || r.SwitchLSN == 0 || r.EndLSN <= r.SwitchLSN {
		t.Errorf("promote: got %+v", r)
	}
	s = p.look("n1")
	if s.InRecovery || s.Pos.TLI != 3 || !slices.Equal(s.History, []core.Fork{{TLI: 1, LSN: r.SwitchLSN}}) {
		t.Errorf("n1 promoted: got %+v", s)
	}
	// Nobody hears of a commit yet.
	p.do("n1", core.Action{Kind: core.ProveSSN, Probe: true})
	p.do("n1", core.Action{Kind: core.WriteSSN})
	if s = p.look("n1"); s.SSN != "" {
		t.Errorf("setting: got %q, want none", s.SSN)
	}
	if _, err := p.n["n1"].Call(t.Context(), core.Action{Kind: core.AfterPromote}); err != nil {
		t.Fatal(err)
	}
	if s = p.look("n1"); !s.RewindReady {
		t.Error("n1 has made a checkpoint and is not ready for a rewind")
	}
	if err := p.n["n1"].Upkeep(t.Context(), Upkeep{Peers: []string{"n2"}, Ledger: []uint32{2}}); err != nil {
		t.Fatal(err)
	}

	// n2: an empty place becomes a standby.
	d, err := p.n["n2"].Call(t.Context(), core.Action{Kind: core.Look, Node: "n1"})
	if err != nil || d.Source.InRecovery || d.Source.TLI != 3 || !d.Source.RewindReady || len(d.Source.History) != 1 {
		t.Fatalf("n1 from n2: got %+v, %v", d.Source, err)
	}
	p.do("n2", core.Action{Kind: core.Clone, Node: "n1"})
	p.do("n2", core.Action{Kind: core.StartStandby, Node: "n1"})
	p.until("n2", "streaming", func(s core.Server) bool { return s.Upstream == "n1" && s.Conninfo == "n1" && s.Pos.TLI == 3 })
	if err := p.n["n2"].Settled(); err != nil {
		t.Fatal(err)
	}
	s = p.until("n1", "seeing n2", func(s core.Server) bool { return len(s.Standbys) == 1 && s.Standbys[0].Streaming })
	if s.Standbys[0].Name != "n2" || s.Standbys[0].Priority != 0 {
		t.Errorf("standby: got %+v", s.Standbys[0])
	}

	// n2 enters the synchronous set.
	set := core.SSN{Names: []string{"n2"}}
	p.do("n1", core.Action{Kind: core.WriteSSN, SSN: set})
	r = p.do("n1", core.Action{Kind: core.ProveSSN, SSN: set})
	s = p.until("n1", "beyond the barrier", func(s core.Server) bool { return len(s.Standbys) == 1 && s.Standbys[0].Flush >= r.Barrier })
	if r.Barrier == 0 || s.SSN != set.String() || s.Standbys[0].Priority != 1 {
		t.Errorf("barrier %X, setting %q, standby %+v", r.Barrier, s.SSN, s.Standbys[0])
	}
	p.do("n1", core.Action{Kind: core.Nudge})

	// A standby keeps WAL for its peers too.
	if err := p.n["n2"].Upkeep(t.Context(), Upkeep{Peers: []string{"n1"}, Flushed: map[string]uint64{"n1": s.Pos.LSN}}); err != nil {
		t.Fatal(err)
	}

	// The standby is cut off and led back.
	p.do("n2", core.Action{Kind: core.Fence, Epoch: 3})
	if s = p.look("n2"); s.Upstream != "" || s.Conninfo != "" {
		t.Errorf("n2 fenced: got %+v", s)
	}
	p.do("n2", core.Action{Kind: core.Follow, Node: "n1"})
	p.until("n2", "streaming again", func(s core.Server) bool { return s.Upstream == "n1" })
	p.until("n1", "seeing n2 again", func(s core.Server) bool {
		return len(s.Standbys) == 1 && s.Standbys[0].Streaming && s.Standbys[0].Flush >= s.Pos.LSN
	})

	// n1 is stopped with its last checkpoint at n2, which takes over; n1 comes back as it is.
	archiver := filepath.Join(filepath.Dir(p.n["n1"].Config.DataDir), archiverWaits)
	if err := os.WriteFile(archiver, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	r = p.do("n1", core.Action{Kind: core.Stop, Handover: true})
	if !r.Clean || r.Pos.TLI != 3 {
		t.Errorf("stop: got %+v", r)
	}
	if s = p.look("n1"); s.Running || !s.Clean || !s.Archives || s.Pos != r.Pos {
		t.Errorf("n1 archives: got %+v, want one that does not run any more", s)
	}
	end := p.do("n2", core.Action{Kind: core.Fence, Epoch: 4})
	if end.Pos != r.Pos {
		t.Errorf("n2 ends at %v, n1 at %v", end.Pos, r.Pos)
	}
	p.do("n2", core.Action{Kind: core.Reserve, TLI: 4, Numbers: []uint32{2, 3}})
	p.do("n2", core.Action{Kind: core.PromoteTo, TLI: 4})
	p.do("n2", core.Action{Kind: core.WriteSSN})
	if _, err := p.n["n2"].Call(t.Context(), core.Action{Kind: core.AfterPromote}); err != nil {
		t.Fatal(err)
	}
	if err := p.n["n2"].Upkeep(t.Context(), Upkeep{Peers: []string{"n1"}, Ledger: []uint32{2, 3}}); err != nil {
		t.Fatal(err)
	}
	p.do("n1", core.Action{Kind: core.StartStandby, Node: "n2"}) // it waits for no archiver
	if err := os.Remove(archiver); err != nil {
		t.Fatal(err)
	}
	p.until("n1", "streaming from n2", func(s core.Server) bool { return s.Upstream == "n2" && s.Pos.TLI == 4 })

	// Both go their own way: n1 is rewound.
	p.do("n1", core.Action{Kind: core.Fence, Epoch: 5})
	p.do("n1", core.Action{Kind: core.Reserve, TLI: 5, Numbers: []uint32{2, 3, 4}})
	p.do("n1", core.Action{Kind: core.PromoteTo, TLI: 5})
	if _, err := p.n["n1"].Call(t.Context(), core.Action{Kind: core.Checkpoint}); err != nil {
		t.Fatal(err)
	}
	p.do("n1", core.Action{Kind: core.Stop})
	if s = p.look("n1"); s.Running || s.Clean {
		t.Errorf("n1 stopped at once: got %+v", s)
	}
	p.do("n1", core.Action{Kind: core.Rewind, Node: "n2"})
	p.do("n1", core.Action{Kind: core.StartStandby, Node: "n2"})
	p.until("n1", "streaming after the rewind", func(s core.Server) bool { return s.Upstream == "n2" && s.Pos.TLI == 4 })

	// And copied, with the old directory kept beside it.
	p.do("n1", core.Action{Kind: core.Stop, Fast: true})
	p.do("n1", core.Action{Kind: core.Clone, Node: "n2"})
	if err := p.configure(p.n["n1"].Config.DataDir, filepath.Dir(p.n["n1"].Config.DataDir), p.n["n1"].Config.Port, p.n["n1"].Config.DataDir); err != nil {
		t.Fatal(err)
	}
	p.do("n1", core.Action{Kind: core.StartStandby, Node: "n2"})
	p.until("n1", "streaming after the copy", func(s core.Server) bool { return s.Upstream == "n2" && s.Pos.TLI == 4 })
	if old, err := filepath.Glob(p.n["n1"].Config.DataDir + ".old-*"); err != nil || len(old) != 1 {
		t.Errorf("kept: got %v, %v, want one directory", old, err)
	}

	// A reserved number above the real one does not keep the server from starting.
	p.do("n1", core.Action{Kind: core.Fence, Epoch: 6})
	p.do("n1", core.Action{Kind: core.Reserve, TLI: 7, Numbers: []uint32{2, 3, 4, 5, 6}})
	p.do("n1", core.Action{Kind: core.Unreserve})
	p.do("n1", core.Action{Kind: core.Hold})
	p.do("n1", core.Action{Kind: core.Stop, Fast: true})
	p.do("n1", core.Action{Kind: core.StartStandby})
	for _, f := range p.n["n2"].Doctor(t.Context(), 2) {
		t.Log(f)
	}
}

// TestCopiesInARow: those that never streamed leave nothing behind, and a data directory that is gone is no obstacle.
func TestCopiesInARow(t *testing.T) {
	p := newPair(t)
	p.do("n1", core.Action{Kind: core.StartStandby})
	p.do("n1", core.Action{Kind: core.Fence, Epoch: 2})
	p.do("n1", core.Action{Kind: core.PromoteTo, TLI: 2})
	p.do("n1", core.Action{Kind: core.WriteSSN})
	if err := p.n["n1"].Upkeep(t.Context(), Upkeep{Peers: []string{"n2"}, Ledger: []uint32{2}}); err != nil {
		t.Fatal(err)
	}
	data := p.n["n2"].Config.DataDir
	kept := func(want int) {
		t.Helper()
		all, err := filepath.Glob(data + ".*")
		if err != nil || len(all) != want {
			t.Errorf("beside the data directory: %v, %v, want %d", all, err, want)
		}
	}
	p.do("n2", core.Action{Kind: core.Clone, Node: "n1", Fresh: true})
	for range 2 {
		<-time.After(time.Second) // what is put aside is named by the second
		p.do("n2", core.Action{Kind: core.Clone, Node: "n1"})
		kept(0)
	}
	if err := os.RemoveAll(data); err != nil {
		t.Fatal(err)
	}
	if s := p.look("n2"); !s.NoData {
		t.Errorf("removed: got %+v", s)
	}
	p.do("n2", core.Action{Kind: core.Clone, Node: "n1", Fresh: true})
	p.do("n2", core.Action{Kind: core.StartStandby, Node: "n1"})
	p.until("n2", "streaming", func(s core.Server) bool { return s.Upstream == "n1" })
	if err := p.n["n2"].Settled(); err != nil {
		t.Fatal(err)
	}
	// Data that served are kept.
	p.do("n2", core.Action{Kind: core.Stop, Fast: true})
	p.do("n2", core.Action{Kind: core.Clone, Node: "n1"})
	kept(1)
}

// TestDeathIsNoticed: the kernel tells of the postmaster's end, within milliseconds.
func TestDeathIsNoticed(t *testing.T) {
	p := newPair(t)
	p.do("n1", core.Action{Kind: core.StartStandby})
	pid := lifePID(p.look("n1").Postmaster)
	died := make(chan time.Time, 1)
	go awaitDeath(t.Context(), pid, func() { died <- time.Now() })
	process, err := os.FindProcess(pid)
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if err := process.Kill(); err != nil {
		t.Fatal(err)
	}
	select {
	case at := <-died:
		t.Logf("noticed after %s", at.Sub(began))
	case <-time.After(5 * time.Second):
		t.Fatal("not noticed")
	}
	if s := p.look("n1"); s.Running {
		t.Errorf("got %+v, want it down", s)
	}
	p.do("n1", core.Action{Kind: core.Stop}) // what it left behind is gone then
	p.do("n1", core.Action{Kind: core.StartStandby})
}

// TestStopNow: it needs no agent, and a node without data is no error.
func TestStopNow(t *testing.T) {
	p := newPair(t)
	p.do("n1", core.Action{Kind: core.StartStandby})
	for _, name := range []string{"n1", "n1", "n2"} {
		if err := p.n[name].StopNow(t.Context()); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if s := p.look("n1"); s.Running {
		t.Errorf("got %+v, want it down", s)
	}
}

// TestServerThatWaitsForWAL: a standby that has lost the WAL that it needs to be consistent is told from one that is busy, and from one that answers.
func TestServerThatWaitsForWAL(t *testing.T) {
	p := newPair(t)
	m := p.n["n1"]
	// Time goes faster here.
	const faster = 20
	began := quiet.BootTime()
	m.Now = func() time.Duration { return began + faster*(quiet.BootTime()-began) }
	sql := func(text string) {
		t.Helper()
		p.run(filepath.Join(m.Config.BinDir, "psql"), "-qX", "-v", "ON_ERROR_STOP=1", "-c", text, m.Config.Conninfo+fmt.Sprintf(" port=%d dbname=postgres", m.Config.Port))
	}
	p.do("n1", core.Action{Kind: core.StartStandby})
	p.do("n1", core.Action{Kind: core.Fence})
	p.do("n1", core.Action{Kind: core.PromoteTo, TLI: 2})
	sql("CHECKPOINT")
	sql("SET synchronous_commit = local; CREATE TABLE t AS SELECT generate_series(1, 1000)")
	sql("SELECT pg_switch_wal()")
	sql("SET synchronous_commit = local; INSERT INTO t SELECT generate_series(1, 1000)")
	p.do("n1", core.Action{Kind: core.Stop})
	p.do("n1", core.Action{Kind: core.StartStandby})
	sql("CHECKPOINT") // a restartpoint: the files have rows that the next segment brought
	if s := p.look("n1"); s.Waits || !s.Answering {
		t.Fatalf("got %+v, want it to answer", s)
	}
	p.do("n1", core.Action{Kind: core.Stop})
	c, err := m.srv.Control()
	if err != nil {
		t.Fatal(err)
	}
	gone := 0
	segments, err := filepath.Glob(filepath.Join(m.Config.DataDir, "pg_wal", "00000002*[0-9A-F]"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range segments {
		if n, err := strconv.ParseUint(filepath.Base(f)[16:], 16, 64); err != nil || n > uint64(c.RedoLSN)/uint64(c.WALSegmentSize) {
			gone++
			if err := errors.Join(err, os.Remove(f)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if gone == 0 {
		t.Fatalf("no segment to remove: %v, the last checkpoint begins at %s", segments, c.RedoLSN)
	}
	m.Settings.Timeouts.Start = 3 * time.Second
	p.do("n1", core.Action{Kind: core.StartStandby})
	at := m.Now()
	if s := p.look("n1"); s.Waits || s.Answering || !s.Running {
		t.Fatalf("got %+v, want it to live and not to answer", s)
	}
	e, err := m.srv.Effort()
	if err != nil || e.PID == 0 {
		t.Fatalf("effort: got %+v, %v", e, err)
	}
	p.until("n1", "waiting", func(s core.Server) bool { return s.Waits })
	if d := m.Now() - at; d < waitTime {
		t.Errorf("after %v, want at least %v", d, waitTime)
	}
	if err := syscall.Kill(e.PID, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	p.until("n1", "stopped, and so not asleep", func(s core.Server) bool { return !s.Waits })
	if err := syscall.Kill(e.PID, syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	p.do("n1", core.Action{Kind: core.Stop})
	if s := p.look("n1"); s.Waits {
		t.Errorf("down: got %+v", s)
	}
}

// TestSlowPromotion: a server that does not answer while it is promoted is not taken for a dead one.
func TestSlowPromotion(t *testing.T) {
	p := newPair(t)
	p.do("n1", core.Action{Kind: core.StartStandby})
	p.do("n1", core.Action{Kind: core.Hold})
	p.until("n1", "a standby on hold", func(s core.Server) bool { return s.InRecovery && s.SSN != "" })
	postmaster := lifePID(p.look("n1").Postmaster)
	family := processes(t, postmaster)
	send := func(sig syscall.Signal, to ...int) {
		for _, pid := range to {
			if err := syscall.Kill(pid, sig); err != nil && !errors.Is(err, syscall.ESRCH) {
				t.Fatal(err)
			}
		}
	}
	for _, pid := range family[1:] {
		if text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)); err == nil && strings.Contains(string(text), "startup") {
			send(syscall.SIGSTOP, pid)
		}
	}
	defer send(syscall.SIGCONT, family...)
	done := make(chan error, 1)
	go func() {
		_, err := p.n["n1"].Do(t.Context(), core.Action{Kind: core.PromoteTo, TLI: 2})
		done <- err
	}()
	// The file is there until the process that we stopped has read it.
	asked := filepath.Join(p.n["n1"].Config.DataDir, "promote")
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(20 * time.Second); ; <-tick.C {
		if _, err := os.Stat(asked); err == nil {
			break
		}
		if time.Now().After(end) {
			t.Fatal("pg_promote was not called")
		}
	}
	family = processes(t, postmaster)
	send(syscall.SIGSTOP, family...)
	for range 2 { // of a second each
		if s, ok := p.n["n1"].Look(t.Context()); ok {
			t.Errorf("got %+v, want that nothing can be said", s)
		}
	}
	send(syscall.SIGCONT, family...)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if s := p.look("n1"); !s.Answering || s.InRecovery {
		t.Errorf("got %+v, want a primary", s)
	}
}

// processes are a postmaster and its children, the postmaster first.
func processes(t *testing.T, postmaster int) []int {
	t.Helper()
	all := []int{postmaster}
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range stats {
		text, err := os.ReadFile(file)
		if err != nil {
			continue // it has just ended
		}
		// pid (name) state ppid
		f := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		if err == nil && len(f) > 1 && f[1] == strconv.Itoa(postmaster) {
			all = append(all, pid)
		}
	}
	return all
}

// TestDeadServerWhoseFilesCannotBeRead: the kernel's word is enough.
func TestDeadServerWhoseFilesCannotBeRead(t *testing.T) {
	p := newPair(t)
	m := p.n["n1"]
	p.do("n1", core.Action{Kind: core.StartStandby})
	s := p.look("n1")
	lock := filepath.Join(m.Config.DataDir, "postmaster.pid")
	if err := errors.Join(os.Remove(lock), os.Mkdir(lock, 0o700)); err != nil {
		t.Fatal(err)
	}
	// While it answers they are read now and then.
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		s, ok := m.Look(t.Context())
		if !ok {
			break
		}
		if !s.Answering || time.Now().After(end) {
			t.Fatalf("it lives, and its files can't be read: got %+v", s)
		}
	}
	if err := syscall.Kill(-lifePID(s.Postmaster), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		if s, ok := m.Look(t.Context()); ok {
			if s.Running || s.Clean {
				t.Errorf("got %+v", s)
			}
			break
		}
		if time.Now().After(end) {
			t.Fatal("nobody saw it die")
		}
	}
	if err := os.Remove(lock); err != nil {
		t.Fatal(err)
	}
}
