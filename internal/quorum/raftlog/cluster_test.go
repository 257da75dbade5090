package raftlog

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"

	"pgvrrp/internal/quorum/lease"
	"pgvrrp/internal/quorum/record"
	"pgvrrp/internal/quorum/store"
)

// cluster is some voters with real stores, in a bubble: time passes only while all wait.
type cluster struct {
	t     *testing.T
	dir   string
	began time.Time
	tune  func(*raft.Config)
	file  []Voter
	nodes map[string]*node // those that run

	mu     sync.Mutex
	cut    map[string]bool // out of everybody's reach
	parted [][2]string

	out sync.Mutex
	log bytes.Buffer // of all
}

// Write implements io.Writer for the log.
func (c *cluster) Write(b []byte) (int, error) {
	c.out.Lock()
	defer c.out.Unlock()
	fmt.Fprintf(&c.log, "%9.3f ", time.Since(c.began).Seconds())
	return c.log.Write(b)
}

// logger is a voter's, without the time of day.
func (c *cluster) logger(id string) *slog.Logger {
	h := slog.NewTextHandler(c, &slog.HandlerOptions{Level: slog.LevelDebug, ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}})
	return slog.New(h).With("voter", id)
}

// node is one run of one voter.
type node struct {
	c      *cluster
	id     string
	self   raft.ServerID
	store  *store.Store
	disk   *disk
	trans  *raft.InmemTransport
	log    *Log
	cancel context.CancelFunc
	done   chan error
	reach  map[*node]bool // owned by wire

	holder atomic.Value                  // string
	gate   atomic.Pointer[chan struct{}] // OnRecord waits until it is closed

	mu      sync.Mutex
	configs []lease.Configuration
	records []*record.Resource
	leading []bool
}

// disk is a store that can be told to fail.
type disk struct {
	*store.Store
	fail atomic.Bool
}

var errDisk = errors.New("no space left on device")

func (d *disk) broken() error {
	if d.fail.Load() {
		return errDisk
	}
	return nil
}

func (d *disk) StoreLog(l *raft.Log) error { return errors.Join(d.broken(), d.Store.StoreLog(l)) }

func (d *disk) StoreLogs(logs []*raft.Log) error {
	if err := d.broken(); err != nil {
		return err
	}
	return d.Store.StoreLogs(logs)
}

func (d *disk) SetUint64(key []byte, n uint64) error {
	if err := d.broken(); err != nil {
		return err
	}
	return d.Store.SetUint64(key, n)
}

func (d *disk) Set(key, value []byte) error {
	if err := d.broken(); err != nil {
		return err
	}
	return d.Store.Set(key, value)
}

// voters makes a file: "n1" is a data node, "w1" a witness, "w1/2" its second vote.
func voters(ids ...string) []Voter {
	var all []Voter
	for _, id := range ids {
		name, _, _ := strings.Cut(id, "/")
		all = append(all, Voter{ID: id, Node: name, Witness: strings.HasPrefix(id, "w")})
	}
	return all
}

// inBubble runs f with a cluster of the file's voters, none of which runs yet.
func inBubble(t *testing.T, file []Voter, f func(t *testing.T, c *cluster)) {
	t.Helper()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		c := &cluster{t: t, dir: dir, began: time.Now(), file: file, nodes: map[string]*node{}, cut: map[string]bool{}}
		defer func() {
			// All at once: nobody waits for an heir that goes too.
			c.mu.Lock()
			for _, n := range c.nodes {
				c.cut[n.id] = true
			}
			c.mu.Unlock()
			for _, n := range c.nodes {
				n.cancel()
			}
			for _, n := range slices.Collect(maps.Values(c.nodes)) {
				if err := c.stop(n.id); err != nil {
					t.Errorf("%s ends with %v", n.id, err)
				}
			}
			time.Sleep(20 * time.Second) // what waits for an answer gives up
			if t.Failed() {
				t.Log("\n" + c.log.String())
			}
		}()
		f(t, c)
	})
}

func (c *cluster) now() time.Duration { return time.Since(c.began) + time.Hour }

func (c *cluster) path(id string) string {
	return filepath.Join(c.dir, strings.ReplaceAll(id, "/", "-"))
}

// start runs voters of the file.
func (c *cluster) start(ids ...string) {
	c.t.Helper()
	for _, id := range ids {
		c.startOne(id)
	}
}

func (c *cluster) startOne(id string) *node {
	c.t.Helper()
	n := &node{c: c, id: id, done: make(chan error, 1)}
	n.holder.Store("")
	var err error
	if n.store, err = store.Open(c.path(id), store.Options{NoSync: true}); err != nil {
		c.t.Fatal(err)
	}
	n.disk = &disk{Store: n.store}
	n.self = serverID(id, n.store.Identity().Incarnation)
	_, n.trans = raft.NewInmemTransport(raft.ServerAddress(n.self))
	k := slices.IndexFunc(c.file, func(v Voter) bool { return v.ID == id })
	n.log, err = New(Options{
		Store: n.disk, Transport: n.trans, Self: c.file[k], Voters: c.file, Now: c.now, Log: c.logger(id),
		OnRecord: func(r *record.Resource) {
			if gate := n.gate.Load(); gate != nil {
				<-*gate
			}
			n.mu.Lock()
			defer n.mu.Unlock()
			n.records = append(n.records, r)
		},
		OnLeading: func(on bool) {
			n.mu.Lock()
			defer n.mu.Unlock()
			n.leading = append(n.leading, on)
		},
		OnConfiguration: func(cfg lease.Configuration) {
			n.mu.Lock()
			defer n.mu.Unlock()
			n.configs = append(n.configs, cfg)
		},
		Peer: n, Holder: func() string { return n.holder.Load().(string) },
		Priority: func() int { return 100 - k }, // the last of the file has the lowest
	})
	if err != nil {
		c.t.Fatal(err)
	}
	n.log.tune = c.tune
	var ctx context.Context
	ctx, n.cancel = context.WithCancel(context.Background())
	c.mu.Lock()
	delete(c.cut, id)
	c.nodes[id] = n
	c.mu.Unlock()
	c.wire()
	go func() { n.done <- n.log.Run(ctx) }()
	return n
}

// stop ends a voter and waits for that.
func (c *cluster) stop(id string) error {
	c.t.Helper()
	n := c.nodes[id]
	n.cancel()
	err := <-n.done
	c.mu.Lock()
	delete(c.nodes, id)
	c.mu.Unlock()
	c.wire()
	if err := n.store.Close(); err != nil {
		c.t.Error(err)
	}
	return err
}

// crash takes a voter out of everybody's reach, and then ends it.
func (c *cluster) crash(ids ...string) {
	c.t.Helper()
	c.isolate(ids...)
	for _, id := range ids {
		_ = c.stop(id)
	}
}

// isolate takes voters out of everybody's reach.
func (c *cluster) isolate(ids ...string) {
	c.mu.Lock()
	for _, id := range ids {
		c.cut[id] = true
	}
	c.mu.Unlock()
	c.wire()
}

// lead makes a voter the leader.
func (c *cluster) lead(id string) {
	c.t.Helper()
	n := c.nodes[id]
	c.until(id+" leads", func() bool {
		l := c.leader()
		if l != nil && l != n {
			_ = l.log.move(c.t.Context(), l.log.raft.Load(), raft.Server{ID: n.self, Address: raft.ServerAddress(n.self)})
		}
		return l == n
	})
}

// part takes two voters out of each other's reach.
func (c *cluster) part(a, b string) {
	c.mu.Lock()
	c.parted = append(c.parted, [2]string{a, b})
	c.mu.Unlock()
	c.wire()
}

// apart reports whether two voters are out of each other's reach. The caller holds mu.
func (c *cluster) apart(a, b string) bool {
	return c.cut[a] || c.cut[b] || slices.Contains(c.parted, [2]string{a, b}) || slices.Contains(c.parted, [2]string{b, a})
}

func (c *cluster) heal() {
	c.mu.Lock()
	clear(c.cut)
	c.parted = nil
	c.mu.Unlock()
	c.wire()
}

// admits is what the links do: each remembers the runs of the others.
func (c *cluster) admits(a, b *node) error {
	id := b.store.Identity()
	return a.store.Admit(b.id, store.Seen{Incarnation: id.Incarnation, Starts: id.Starts, Boot: record.Boot(id.Starts)})
}

// wire connects whoever is in reach of one another.
func (c *cluster) wire() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, a := range c.nodes {
		reach := map[*node]bool{}
		for _, b := range c.nodes {
			reach[b] = a != b && !c.apart(a.id, b.id) && c.admits(a, b) == nil && c.admits(b, a) == nil
			if reach[b] && !a.reach[b] {
				a.trans.Connect(raft.ServerAddress(b.self), b.trans)
			}
		}
		for b := range a.reach {
			if a.reach[b] && !reach[b] {
				a.trans.Disconnect(raft.ServerAddress(b.self))
			}
		}
		a.reach = reach
	}
}

// Hello implements Peers.
func (n *node) Hello(ctx context.Context, id string) (Hello, error) {
	n.c.mu.Lock()
	to, cut := n.c.nodes[id], n.c.apart(id, n.id)
	n.c.mu.Unlock()
	switch {
	case to == nil:
		return Hello{}, errors.New("connection refused")
	case cut:
		<-ctx.Done()
		return Hello{}, ctx.Err()
	}
	if err := errors.Join(n.c.admits(n, to), n.c.admits(to, n)); err != nil {
		return Hello{}, err
	}
	return to.log.Hello(), nil
}

// until waits for done, for at most a minute of the bubble's time.
func (c *cluster) until(what string, done func() bool) {
	c.t.Helper()
	for deadline := time.Now().Add(time.Minute); ; {
		synctest.Wait()
		if done() {
			return
		}
		if time.Now().After(deadline) {
			c.t.Fatalf("never: %s\n%s", what, c)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// never has time pass, in which done must stay false.
func (c *cluster) never(what string, during time.Duration, done func() bool) {
	c.t.Helper()
	for deadline := time.Now().Add(during); time.Now().Before(deadline); {
		synctest.Wait()
		if done() {
			c.t.Fatalf("it is: %s\n%s", what, c)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// String is the cluster in a failed test.
func (c *cluster) String() string {
	var b strings.Builder
	for _, id := range slices.Sorted(maps.Keys(c.nodes)) {
		n := c.nodes[id]
		leader, _ := n.log.Leader()
		fmt.Fprintf(&b, "%s: leader %q, members %v, waits for %q, trouble %v\n", n.self, leader, n.members(), n.log.Waiting(), n.log.Trouble())
		if leader == id {
			fmt.Fprintf(&b, "    %+v\n", n.log.Members())
		}
	}
	return b.String()
}

// leader is the running voter that leads with all of the log; nil if there is none.
func (c *cluster) leader() *node {
	for _, n := range c.nodes {
		c.mu.Lock()
		cut := c.cut[n.id]
		c.mu.Unlock()
		if !cut && n.log.leading.Load() {
			return n
		}
	}
	return nil
}

func (c *cluster) waitLeader() *node {
	c.t.Helper()
	var l *node
	c.until("a leader", func() bool { l = c.leader(); return l != nil })
	return l
}

// members are the newest membership here: "n1 n2 (n3)", those without a vote in parentheses, "-" if there is none.
func (n *node) members() string {
	var all []string
	for _, s := range n.log.members.newest().c.Servers {
		id, _ := splitID(s.ID)
		if s.Suffrage != raft.Voter {
			id = "(" + id + ")"
		}
		all = append(all, id)
	}
	slices.Sort(all)
	return strings.Join(all, " ")
}

// waitMembers waits until the leader and all that are in its membership have that one.
func (c *cluster) waitMembers(want string) {
	c.t.Helper()
	c.until("members "+want, func() bool {
		l := c.leader()
		if l == nil || l.members() != want {
			return false
		}
		for _, n := range c.nodes {
			c.mu.Lock()
			cut := c.cut[n.id]
			c.mu.Unlock()
			if !cut && slices.Contains(l.log.Hello().Configuration, string(n.self)) && (n.members() != want || !n.config().Committed) {
				return false
			}
		}
		return true
	})
}

func (n *node) config() lease.Configuration {
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.configs) == 0 {
		return lease.Configuration{}
	}
	return n.configs[len(n.configs)-1]
}

// initialize puts a plain resource into the log.
func (c *cluster) initialize(name string, nodes ...string) error {
	var rule record.Rule
	for _, n := range nodes {
		rule.S = append(rule.S, record.Member{Node: n, Incarnation: "i"})
	}
	return c.waitLeader().log.Apply(context.Background(), record.Command{Op: record.Init, Resource: name, Kind: record.Plain, Rule: rule})
}

// activate has a node hold a resource that is in the log.
func (c *cluster) activate(name, node string) {
	c.t.Helper()
	rec := c.waitLeader().log.Resource(name)
	m := record.Member{Node: node, Incarnation: "i"}
	cause := record.BySeals
	if rec.Phase == record.Released {
		cause = record.ByRelease
	}
	for _, cmd := range []record.Command{
		{Op: record.Begin, Epoch: rec.Epoch + 1, Cause: cause},
		{Op: record.Grant, Epoch: rec.Epoch + 1, Member: m, Boot: 1, Hold: time.Second},
		{Op: record.SetRule, Epoch: rec.Epoch + 1, Member: m, Boot: 1, Ver: rec.RuleVer, S: rec.Rule.S[1:]},
	} {
		cmd.Resource = name
		if cmd.Op == record.SetRule {
			cmd.S = nil
			for _, o := range append(rec.Rule.S, rec.Rule.Holder) {
				if o.Node != node && o.Node != "" {
					cmd.S = append(cmd.S, o)
				}
			}
		}
		c.apply(cmd)
	}
}

// apply puts a command into the log, whoever leads.
func (c *cluster) apply(cmd record.Command) {
	c.t.Helper()
	var err error
	c.until(cmd.String(), func() bool {
		l := c.leader()
		if l == nil {
			return false
		}
		err = l.log.Apply(context.Background(), cmd)
		var not *NotLeader
		return !errors.As(err, &not)
	})
	if err != nil {
		c.t.Fatalf("%v: %v", cmd, err)
	}
}

func copyDir(t *testing.T, from, to string) {
	t.Helper()
	if err := os.RemoveAll(to); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
}
