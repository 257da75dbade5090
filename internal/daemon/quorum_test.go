package daemon

import (
	"context"
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
	"sync"
	"syscall"
	"testing"
	"time"

	"pgvrrp/internal/conf"
	"pgvrrp/internal/instance"
	"pgvrrp/internal/quiet"
)

// quorumOf is a quorum block on the loopback interface with further lines, of which this host is node. The key and the state
// directory are in dir.
func quorumOf(t *testing.T, dir, node string, lines ...string) string {
	t.Helper()
	key := filepath.Join(dir, "quorum.key")
	if _, err := os.Stat(key); err != nil {
		if err := WriteKey(key); err != nil {
			t.Fatal(err)
		}
	}
	return fmt.Sprintf("quorum {\nnode %s\nkey_file %s\nstate_dir %s\nvoter n1 127.3.7.1\nvoter n2 127.3.7.2\nwitness w1 127.3.7.3\n%s\n}\n", node, key, dir, strings.Join(lines, "\n"))
}

// openQuorum opens the quorum extension of a file, and does not run it.
func openQuorum(t *testing.T, text string) *grants {
	t.Helper()
	config, found, _ := load(t, text)
	if conf.ExitCode(found, false) == conf.ExitCannot {
		t.Fatal(found)
	}
	g, err := openGrants(Options{Log: slog.New(slog.DiscardHandler), RunDir: t.TempDir()}, config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { g.close(false) })
	return g
}

// runs has run go on until the test ends.
func runs(t *testing.T, run func(context.Context) error) context.Context {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return ctx
}

// freePort is a line with a port that no voter of quorumOf uses.
func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.3.7.3:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return fmt.Sprintf("port %d", l.Addr().(*net.TCPAddr).Port)
}

// What a reload cannot put in force it refuses, and plan says the same.
func TestReloadOfTheQuorumBlock(t *testing.T) {
	dir, port := t.TempDir(), freePort(t)
	block := func(lines ...string) string {
		return quorumOf(t, dir, "w1", append([]string{port, "resource vip plain"}, lines...)...)
	}
	d := &Daemon{grants: openQuorum(t, block()), config: &conf.Config{}}
	for _, tt := range []struct{ name, text, want string }{
		{"nothing", block(), ""},
		{"another policy", block("no_quorum_policy stop"), ""},
		{"another user of the agent", block("agent_user pg"), ""},
		{"a witness more", block("witness w2 127.3.7.4"), ""},
		{"a data node more", block("voter n3 127.3.7.4"), ""},
		{"another address elsewhere", strings.Replace(block(), "127.3.7.2", "127.3.7.5", 1), ""},
		{"another address here", strings.Replace(block(), "127.3.7.3", "127.3.7.5", 1), "changes of witness in the quorum block need a restart of vrrpd"},
		{"no grants any more", block("no_quorum_policy ignore"), "changes of no_quorum_policy in the quorum block need a restart of vrrpd"},
		{"a resource more", block("resource other plain"), "changes of resource in the quorum block need a restart of vrrpd"},
		{"another lease", block("lease 1"), "changes of lease in the quorum block need a restart of vrrpd"},
		{"no block", "", "the quorum block cannot be removed without a restart of vrrpd"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			config, found, file := load(t, tt.text)
			if got := d.refusal(candidate{config: config, found: found}); got != tt.want {
				t.Errorf("reload: got %q, want %q", got, tt.want)
			}
			if tt.want == "" {
				return
			}
			if p, err := d.Plan(t.Context(), file); err != nil || p.Refused != tt.want {
				t.Errorf("plan: got %q, %v, want %q", p.Refused, err, tt.want)
			}
		})
	}
}

// Two instances share a resource, and what fails and comes back does so for both at once. What the quorum hears last is how it is.
func TestEligibleTogether(t *testing.T) {
	g := openQuorum(t, quorumOf(t, t.TempDir(), "n1", freePort(t), "guard lifetime", "resource vip plain")+vi(1, "192.0.2.1/24", "quorum vip")+vi(2, "192.0.2.2/24", "quorum vip"))
	ctx := runs(t, g.Run)
	both := []*gated{}
	for k := range 2 {
		m := &gated{g: g, resource: "vip", instance: &instance.Instance{}}
		g.resources["vip"].members[fmt.Sprintf("VI_%d", k+1)] = m
		both = append(both, m)
	}
	for round := range 4000 {
		ok := round%2 == 1
		var wait sync.WaitGroup
		for _, m := range both {
			wait.Go(func() { m.Eligible(ok, "interface eth0 is down", 100) })
		}
		wait.Wait()
		if r := g.Status(ctx).Resources[0]; r.Eligible != ok {
			t.Fatalf("round %d: both instances said %t, the quorum has %t (%s)", round, ok, r.Eligible, r.Ineligible)
		}
	}
}

// refusing is a kernel that won't take an address off.
type refusing struct{ instance.Network }

func (refusing) SetAddresses([]conf.Address) error { return syscall.ENOBUFS }
func (refusing) Missing() ([]conf.Address, error)  { return nil, nil }
func (refusing) StopAnnouncing()                   {}
func (refusing) SetRoutes([]conf.Route, []conf.Rule) ([]string, error) {
	return nil, nil
}

// Who may speak for PostgreSQL is who has the name in the user database, and nobody else, however often they ask; a reload that names another user counts
// at once.
func TestAgentUser(t *testing.T) {
	port := freePort(t)
	text := func(name string) string {
		return quorumOf(t, t.TempDir(), "n1", port, "guard lifetime", "agent_user "+name, "resource vip plain") + vi(1, "192.0.2.1/24", "quorum vip")
	}
	daemon, err := user.Lookup("daemon")
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.ParseUint(daemon.Uid, 10, 32)
	if err != nil {
		t.Fatal(err)
	}
	uid := uint32(n)
	g := openQuorum(t, text("daemon"))
	for range 3 {
		if !g.AgentUser(uid) || g.AgentUser(uid+1) || g.AgentUser(0) {
			t.Errorf("agent_user daemon: %d may %t, %d %t, 0 %t, want %d alone", uid, g.AgentUser(uid), uid+1, g.AgentUser(uid+1), g.AgentUser(0), uid)
		}
	}
	config, _, _ := load(t, text("bin"))
	g.mu.Lock()
	g.file = config.Quorum
	g.mu.Unlock()
	if g.AgentUser(uid) {
		t.Errorf("agent_user bin: %d of daemon may", uid)
	}
}

type noHooks struct{}

func (noHooks) Post(instance.HookEvent) {}

// By an instance that has ended and could not remove its addresses the node stays without the resource, says why, and gives no lease
// back in the log.
func TestAddressesLeftAtTheEnd(t *testing.T) {
	text := quorumOf(t, t.TempDir(), "n1", freePort(t), "guard lifetime", "resource vip plain") + vi(1, "192.0.2.1/24", "quorum vip")
	g := openQuorum(t, text)
	ctx := runs(t, g.Run)
	config, _, _ := load(t, text)
	m := g.join(&config.Instances[0])
	i, err := instance.New(instance.Options{Config: config.Instances[0], Network: refusing{}, Hooks: noHooks{}, Log: slog.New(slog.DiscardHandler), BootTime: quiet.BootTime, Grants: m})
	if err != nil {
		t.Fatal(err)
	}
	m.enter(i)
	running, end := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- i.Run(running) }()
	i.Surround(t.Context(), instance.Surroundings{Link: instance.Link{Present: true, Up: true}, Source: netip.MustParseAddr("192.0.2.9"), Verdict: instance.Verdict{Priority: 100}})
	for late := time.Now().Add(10 * time.Second); !g.Status(ctx).Resources[0].Eligible; time.Sleep(time.Millisecond) {
		if time.Now().After(late) {
			t.Fatal("the instance is not BACKUP")
		}
	}
	end()
	if err := <-done; err != nil {
		t.Error(err)
	}
	m.leave()
	if r := g.Status(ctx).Resources[0]; r.Eligible || !strings.Contains(r.Ineligible, "its addresses could not be removed") {
		t.Errorf("eligible %t: %s", r.Eligible, r.Ineligible)
	}
	if config, _, _ := load(t, strings.Replace(text, "192.0.2.1", "192.0.2.2", 1)); g.clean() || !slices.Contains(g.all(), netip.MustParseAddr("192.0.2.1")) {
		t.Errorf("clean %t, guarded %v", g.clean(), g.all())
	} else if g.collect(config); !slices.Contains(g.all(), netip.MustParseAddr("192.0.2.1")) || !slices.Contains(g.all(), netip.MustParseAddr("192.0.2.2")) {
		t.Errorf("after a reload: guarded %v", g.all())
	}
	select {
	case <-revoked(g):
		t.Error("a revocation is over although the addresses are there")
	case <-time.After(100 * time.Millisecond):
	}
}

func revoked(g *grants) <-chan struct{} {
	off := make(chan struct{})
	g.Revoke("vip", "its lease is over", func() { close(off) })
	return off
}
