package quorum

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"pgvrrp/internal/conf"
	"pgvrrp/internal/control"
	"pgvrrp/internal/quiet"
	"pgvrrp/internal/quorum/raftlog"
	"pgvrrp/internal/quorum/trust"
)

// cluster is a set of voters in this process, each with two addresses on the loopback interface.
type cluster struct {
	t     *testing.T
	file  *conf.Quorum
	dir   string
	nodes map[string]*running
}

type running struct {
	node *Node
	host *testHost
	stop context.CancelFunc
	done chan error
}

// testHost is a data node whose instances do at once what they are told.
type testHost struct {
	mu      sync.Mutex
	granted map[string]bool
	changed chan struct{}
	lost    []string
}

func (h *testHost) set(resource string, on bool) {
	h.mu.Lock()
	h.granted[resource] = on
	h.mu.Unlock()
	select {
	case h.changed <- struct{}{}:
	default:
	}
}
func (h *testHost) Grant(resource, _ string)               { h.set(resource, true) }
func (h *testHost) Revoke(resource, _ string, done func()) { h.set(resource, false); go done() }
func (h *testHost) Lost(resource, reason string)           { h.lost = append(h.lost, resource+": "+reason) }
func (h *testHost) holds(resource string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.granted[resource]
}

// freePort is a port that no address of the loopback interface uses, with its successor.
func freePort(t *testing.T) int {
	t.Helper()
	for range 50 {
		l, err := net.Listen("tcp", "0.0.0.0:0")
		if err != nil {
			t.Fatal(err)
		}
		port := l.Addr().(*net.TCPAddr).Port
		m, err := net.Listen("tcp", fmt.Sprintf("0.0.0.0:%d", port+1))
		l.Close()
		if err == nil {
			m.Close()
			return port
		}
	}
	t.Fatal("no free port")
	return 0
}

// newCluster has data nodes n1… and witnesses w1…; one with two votes is written "w1*2".
func newCluster(t *testing.T, resources []conf.Resource, names ...string) *cluster {
	t.Helper()
	dir := t.TempDir()
	key := filepath.Join(dir, "quorum.key")
	if err := trust.WriteKey(key); err != nil {
		t.Fatal(err)
	}
	q := &conf.Quorum{KeyFile: key, Port: freePort(t), Lease: 400 * time.Millisecond, Policy: conf.PolicyFreeze, Guard: conf.GuardNone, AgentUser: "postgres", Resources: resources}
	for k, name := range names {
		name, two := strings.CutSuffix(name, "*2")
		v := conf.Voter{Name: name, Witness: strings.HasPrefix(name, "w"), Votes: 1, Addrs: []netip.Addr{
			netip.AddrFrom4([4]byte{127, 1, 7, byte(k + 1)}), netip.AddrFrom4([4]byte{127, 2, 7, byte(k + 1)}),
		}}
		if two {
			v.Votes = 2
		}
		q.Voters = append(q.Voters, v)
	}
	c := &cluster{t: t, file: q, dir: dir, nodes: map[string]*running{}}
	t.Cleanup(func() {
		for name := range c.nodes {
			c.stop(name)
		}
	})
	return c
}

func (c *cluster) start(name string) *running { return c.startWith(name, func(*conf.Quorum) {}) }

// startWith starts a node whose file is another one.
func (c *cluster) startWith(name string, change func(file *conf.Quorum)) *running {
	c.t.Helper()
	file := *c.file
	file.StateDir = filepath.Join(c.dir, name)
	change(&file)
	k := slices.IndexFunc(file.Voters, func(v conf.Voter) bool { return v.Name == name })
	h := &testHost{granted: map[string]bool{}, changed: make(chan struct{}, 1)}
	level := slog.LevelInfo
	log := slog.New(slog.NewTextHandler(logWriter{c.t, name}, &slog.HandlerOptions{Level: level}))
	n, err := Open(Options{File: &file, Self: file.Voters[k], Now: quiet.BootTime, Log: log, Host: h, Kind: conf.GuardNone})
	if err != nil {
		c.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	r := &running{node: n, host: h, stop: cancel, done: make(chan error, 1)}
	go func() { r.done <- n.Run(ctx) }()
	for _, res := range file.Resources {
		n.Eligible(res.Name, true, "", uint8(100-k))
	}
	c.nodes[name] = r
	return r
}

func (c *cluster) stop(name string) {
	c.t.Helper()
	r := c.nodes[name]
	if r == nil {
		return
	}
	delete(c.nodes, name)
	for _, res := range c.file.Resources {
		r.node.GiveUp(res.Name, "stopped", "")
	}
	r.stop()
	select {
	case err := <-r.done:
		if err != nil {
			c.t.Errorf("%s: %v", name, err)
		}
	case <-time.After(10 * time.Second):
		c.t.Fatalf("%s does not stop", name)
	}
}

// await waits until ok, looking again whenever a node has changed.
func (c *cluster) await(what string, ok func() bool) {
	c.t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		if time.Now().After(deadline) {
			for name, r := range c.nodes {
				c.t.Logf("%s: %+v", name, r.node.Status(context.Background()))
			}
			c.t.Fatalf("not within 20 s: %s", what)
		}
		<-tick.C
	}
}

// holder is the one node that serves the resource; it fails the test if there are two.
func (c *cluster) holder(resource string) string {
	var all []string
	for name, r := range c.nodes {
		if r.host.holds(resource) && r.node.Live(resource) {
			all = append(all, name)
		}
	}
	if len(all) > 1 {
		c.t.Fatalf("two holders: %v", all)
	}
	if len(all) == 1 {
		return all[0]
	}
	return ""
}

func (c *cluster) resource(name, resource string) control.Resource {
	r, err := c.nodes[name].node.Resource(resource)
	if err != nil {
		c.t.Fatal(err)
	}
	return r
}

type logWriter struct {
	t    *testing.T
	name string
}

func (w logWriter) Write(b []byte) (int, error) {
	if testing.Verbose() {
		fmt.Printf("%s %s", w.name, b)
	}
	return len(b), nil
}

var plain = []conf.Resource{{Name: "vip", Kind: conf.KindPlain}}

func TestOneHolder(t *testing.T) {
	c := newCluster(t, plain, "n1", "n2", "n3", "w1", "w2")
	for _, v := range c.file.Voters {
		c.start(v.Name)
	}
	c.await("somebody holds the resource", func() bool { return c.holder("vip") != "" })
	first := c.holder("vip") // mostly n1, whose priority is the highest; if its disk writes the promise in time
	c.await("both standbys are in the rule", func() bool { return len(c.resource(first, "vip").Rule.S) == 2 })

	began := time.Now()
	c.stop(first)
	c.await("another one holds it", func() bool { return c.holder("vip") != "" })
	t.Logf("clean stop to the next holder: %v", time.Since(began))
	second := c.holder("vip")
	c.start(first)
	c.await("the first is back in the rule", func() bool { return slices.Contains(c.resource(second, "vip").Rule.S, first) })
	if got := c.holder("vip"); got != second {
		t.Errorf("holder after the return of %s: got %q, want %s: the epoch decides, not the priority", first, got, second)
	}
}

// The log is led by a standby, whoever has to be elected: mostly by the one that is least likely to hold something next (raftlog's heirs),
// unless the voters are too slow to be told.
func TestAStandbyLeads(t *testing.T) {
	c := newCluster(t, plain, "n1", "n2", "n3", "n4") // with falling priorities
	for _, v := range c.file.Voters {
		c.start(v.Name)
	}
	leader := func() string {
		for name, r := range c.nodes {
			if _, ours := r.node.members[0].log.Leader(); ours {
				return name
			}
		}
		return ""
	}
	c.await("a standby leads, and all the others are in the rule", func() bool {
		l, h := leader(), c.holder("vip")
		return l != "" && h != "" && l != h && len(c.resource(h, "vip").Rule.S) == 3
	})
	holder, first := c.holder("vip"), leader()
	want := ""
	for _, name := range []string{"n4", "n3", "n2", "n1"} {
		if want == "" && name != first && name != holder {
			want = name
		}
	}
	c.await("the leader knows their priorities", func() bool {
		return !slices.ContainsFunc(c.nodes[first].node.members[0].log.Members(), func(m raftlog.Member) bool { return !m.Self && m.Priority == 0 })
	})
	c.stop(first)
	c.await("another standby leads", func() bool { return leader() != "" && leader() != holder })
	t.Logf("after %s, with %s as holder: %s leads; the best is %s", first, holder, leader(), want)
}

// A reload is in force whole, or it is refused and changes nothing.
func TestReconfigure(t *testing.T) {
	c := newCluster(t, plain, "n1", "n2", "w1")
	without := func(name string, voters []conf.Voter) []conf.Voter {
		return slices.DeleteFunc(slices.Clone(voters), func(v conf.Voter) bool { return v.Name == name })
	}
	for _, name := range []string{"n1", "w1"} {
		c.startWith(name, func(q *conf.Quorum) { q.Voters = without("n2", q.Voters) })
	}
	n1 := c.nodes["n1"].node
	whole := *n1.current()
	whole.Voters = c.file.Voters
	for _, tt := range []struct {
		name, want string
		change     func(q *conf.Quorum)
	}{
		{"our own line goes", "changes of voter", func(q *conf.Quorum) { q.Voters = without("n1", q.Voters) }},
		{"another address of ours", "changes of voter", func(q *conf.Quorum) {
			q.Voters = slices.Clone(q.Voters)
			q.Voters[0].Addrs = q.Voters[0].Addrs[:1]
		}},
		{"a resource more", "changes of resource", func(q *conf.Quorum) {
			q.Resources = append(slices.Clone(q.Resources), conf.Resource{Name: "more", Kind: conf.KindPlain})
		}},
		{"no lease any more", "changes of no_quorum_policy", func(q *conf.Quorum) { q.Policy = conf.PolicyIgnore }},
	} {
		next := whole
		tt.change(&next)
		if err := n1.Reconfigure(&next); err == nil || !strings.Contains(err.Error(), tt.want+" need a restart") {
			t.Errorf("%s: got %v, want a refusal because of %s", tt.name, err, tt.want)
		}
		s := n1.Status(t.Context())
		if len(s.Voters) != 2 || s.Policy != conf.PolicyFreeze {
			t.Errorf("%s: after the refusal got %d voters and policy %s, want those from before", tt.name, len(s.Voters), s.Policy)
		}
	}

	// Alone in its rule it would stay for ever under freeze.
	c.await("n1 holds the resource alone", func() bool { return c.holder("vip") == "n1" && c.resource("n1", "vip").Phase == "active" })
	next := *n1.current()
	next.Policy = conf.PolicyStop
	if err := n1.Reconfigure(&next); err != nil {
		t.Fatal(err)
	}
	c.stop("w1")
	c.await("n1 goes with its lease", func() bool { return c.holder("vip") == "" })

	c.startWith("w1", func(q *conf.Quorum) { q.Voters = without("n2", q.Voters) })
	c.start("n2")
	for _, name := range []string{"n1", "w1"} {
		next := *c.nodes[name].node.current()
		next.Voters = c.file.Voters
		if err := c.nodes[name].node.Reconfigure(&next); err != nil {
			t.Fatal(err)
		}
	}
	c.await("the further data node is in the rule", func() bool {
		return c.holder("vip") == "n1" && slices.Equal(c.resource("n1", "vip").Rule.S, []string{"n2"})
	})
}
