package sim

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"

	"pgvrrp/internal/quorum/record"
)

var raftRuns = flag.Int("sim.raft", 5, "how many `runs` of the real Raft TestRaft makes")

// TestRaft applies the record's commands through the real Raft, in virtual time, with leaders that are killed or cut off. It is
// not the same in each run of a seed: Raft draws its own time-outs.
func TestRaft(t *testing.T) {
	grants, acked, unknown, conflicts, kills := 0, 0, 0, 0, 0
	for seed := range uint64(*raftRuns) {
		synctest.Test(t, func(t *testing.T) {
			c := newCluster(t, seed)
			c.run(20 * time.Second)
			grants, acked, unknown, conflicts, kills = grants+c.grants, acked+len(c.acked), unknown+c.unknown, conflicts+c.conflicts, kills+c.kills
		})
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
	t.Logf("%d runs: %d commands acknowledged, %d with an unknown outcome, %d refused, %d grants, %d leaders killed", *raftRuns, acked, unknown, conflicts, grants, kills)
	if grants == 0 || unknown == 0 || conflicts == 0 || kills == 0 {
		t.Error("the runs had no grants, conflicts, kills or unknown outcomes: nothing was tested")
	}
}

// applied is one entry as a state machine saw it.
type applied struct {
	index uint64
	cmd   string
	ok    bool
}

// machineOf is the record's state behind Raft.
type machineOf struct {
	mu      sync.Mutex
	state   *record.State
	history []applied
}

func (m *machineOf) Apply(l *raft.Log) any {
	m.mu.Lock()
	defer m.mu.Unlock()
	c, err := record.DecodeCommand(l.Data)
	if err == nil {
		err = m.state.Apply(l.Index, c)
	}
	m.history = append(m.history, applied{l.Index, fmt.Sprintf("%v by %v %d", c, c.Member, c.Boot), err == nil})
	return err
}

func (m *machineOf) get() *record.Resource {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.state.Get(resource)
}

type snapshot []byte

func (s snapshot) Release() {}
func (s snapshot) Persist(sink raft.SnapshotSink) error {
	if _, err := sink.Write(s); err != nil {
		return errors.Join(err, sink.Cancel())
	}
	return sink.Close()
}

func (m *machineOf) Snapshot() (raft.FSMSnapshot, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	b, err := m.state.Encode()
	return snapshot(b), err
}

func (m *machineOf) Restore(r io.ReadCloser) error {
	b, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	s, err := record.Decode(b)
	if err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.state, m.history = s, nil
	return nil
}

type raftNode struct {
	id    string
	store *raft.InmemStore
	snaps *raft.InmemSnapshotStore
	trans *raft.InmemTransport
	fsm   *machineOf
	raft  *raft.Raft // nil: down
}

type cluster struct {
	*testing.T
	r     *rand.Rand
	nodes []*raftNode
	cut   map[[2]int]bool

	mu                                sync.Mutex
	acked                             []applied
	all                               map[uint64]applied // by index, of every state machine
	grants, unknown, conflicts, kills int
}

func newCluster(t *testing.T, seed uint64) *cluster {
	c := &cluster{T: t, r: rand.New(rand.NewPCG(seed, 1)), cut: map[[2]int]bool{}, all: map[uint64]applied{}}
	n := 3 + c.r.IntN(3)
	var servers []raft.Server
	for k := range n {
		id := fmt.Sprintf("n%d", k+1)
		c.nodes = append(c.nodes, &raftNode{id: id, store: raft.NewInmemStore(), snaps: raft.NewInmemSnapshotStore()})
		servers = append(servers, raft.Server{ID: raft.ServerID(id), Address: raft.ServerAddress(id)})
	}
	for k, node := range c.nodes {
		_, trans := raft.NewInmemTransport(raft.ServerAddress(node.id))
		if err := raft.BootstrapCluster(c.config(k), node.store, node.store, node.snaps, trans, raft.Configuration{Servers: servers}); err != nil {
			t.Fatal(err)
		}
	}
	for k := range c.nodes {
		c.start(k)
	}
	return c
}

func (c *cluster) config(k int) *raft.Config {
	conf := raft.DefaultConfig()
	conf.LocalID = raft.ServerID(c.nodes[k].id)
	conf.HeartbeatTimeout, conf.ElectionTimeout, conf.LeaderLeaseTimeout, conf.CommitTimeout = 300*time.Millisecond, 300*time.Millisecond, 300*time.Millisecond, 50*time.Millisecond
	conf.LogOutput = io.Discard
	// A follower that takes a snapshot and has an uncommitted tail longer than TrailingLogs is sent it again without end.
	conf.SnapshotThreshold, conf.TrailingLogs, conf.SnapshotInterval = 50, 150, time.Second
	return conf
}

// start is the start of a node with what its stores hold, and an empty state machine.
func (c *cluster) start(k int) {
	n := c.nodes[k]
	_, n.trans = raft.NewInmemTransportWithTimeout(raft.ServerAddress(n.id), 100*time.Millisecond)
	n.fsm = &machineOf{state: &record.State{}}
	var err error
	if n.raft, err = raft.NewRaft(c.config(k), n.fsm, n.store, n.store, n.snaps, n.trans); err != nil {
		c.Fatal(err)
	}
	c.links()
}

func (c *cluster) stop(k int) {
	n := c.nodes[k]
	if err := n.raft.Shutdown().Error(); err != nil {
		c.Error(err)
	}
	c.collect(n)
	n.raft = nil
	_ = n.trans.Close()
	c.links()
}

// collect keeps what a state machine has seen, and compares it with the others.
func (c *cluster) collect(n *raftNode) {
	n.fsm.mu.Lock()
	defer n.fsm.mu.Unlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, a := range n.fsm.history {
		if old, ok := c.all[a.index]; ok && old != a {
			c.Errorf("entry %d: %s saw %+v, another %+v", a.index, n.id, a, old)
		}
		c.all[a.index] = a
	}
}

// links makes the transports what cut says.
func (c *cluster) links() {
	for a, n := range c.nodes {
		if n.raft == nil && n.trans == nil {
			continue
		}
		for b, m := range c.nodes {
			if a == b || m.trans == nil {
				continue
			}
			if n.raft == nil || m.raft == nil || c.cut[[2]int{a, b}] {
				n.trans.Disconnect(raft.ServerAddress(m.id))
			} else {
				n.trans.Connect(raft.ServerAddress(m.id), m.trans)
			}
		}
	}
}

func (c *cluster) leader() int {
	return slices.IndexFunc(c.nodes, func(n *raftNode) bool { return n.raft != nil && n.raft.State() == raft.Leader })
}

func (c *cluster) run(length time.Duration) {
	end := time.Now().Add(length)
	var wg sync.WaitGroup
	var mu sync.Mutex // of nodes and cut
	for k := range 3 {
		r := rand.New(rand.NewPCG(c.r.Uint64(), uint64(k)))
		wg.Go(func() {
			for time.Now().Before(end) {
				time.Sleep(time.Duration(1+r.IntN(60)) * time.Millisecond)
				mu.Lock()
				var leaders []*raftNode
				for _, n := range c.nodes {
					if n.raft != nil && n.raft.State() == raft.Leader {
						leaders = append(leaders, n)
					}
				}
				var n *raftNode
				var node *raft.Raft
				var fsm *machineOf
				if len(leaders) > 0 {
					n = leaders[r.IntN(len(leaders))]
					node, fsm = n.raft, n.fsm
				}
				mu.Unlock()
				if node != nil {
					c.submit(r, node, fsm, k)
				}
			}
		})
	}
	for time.Now().Before(end) {
		time.Sleep(time.Duration(50+c.r.IntN(600)) * time.Millisecond)
		mu.Lock()
		c.fault()
		mu.Unlock()
	}
	wg.Wait()
	c.cut = map[[2]int]bool{}
	for k, n := range c.nodes {
		if n.raft == nil {
			c.start(k)
		}
	}
	c.links()
	c.finish()
}

func (c *cluster) fault() {
	down := 0
	for k, n := range c.nodes {
		if n.raft != nil {
			continue
		}
		if down++; c.r.IntN(2) == 0 {
			c.start(k)
			return
		}
	}
	switch c.r.IntN(6) {
	case 0, 1:
		if k := c.leader(); k >= 0 && down < (len(c.nodes)-1)/2 {
			c.kills++
			c.stop(k)
		}
	case 2: // a leader, or anybody, is cut off
		k := c.leader()
		if k < 0 || c.r.IntN(3) == 0 {
			k = c.r.IntN(len(c.nodes))
		}
		way := c.r.IntN(3)
		for b := range c.nodes {
			if b == k || c.r.IntN(4) == 0 {
				continue
			}
			if way != 1 {
				c.cut[[2]int{k, b}] = true
			}
			if way != 2 {
				c.cut[[2]int{b, k}] = true
			}
		}
		c.links()
	case 3, 4:
		c.cut = map[[2]int]bool{}
		c.links()
	case 5:
		if k := c.leader(); k >= 0 {
			go func(r *raft.Raft) { _ = r.LeadershipTransfer().Error() }(c.nodes[k].raft)
		}
	}
}

// submit proposes what the record, as this node knows it, may want next: some of it is out of date.
func (c *cluster) submit(r *rand.Rand, node *raft.Raft, fsm *machineOf, who int) {
	members := []record.Member{{Node: "n1", Incarnation: "a"}, {Node: "n2", Incarnation: "b"}, {Node: "n3", Incarnation: "c"}}
	self, boot := members[who], record.Boot(who+1)
	rec := fsm.get()
	cmd := record.Command{Resource: resource, Member: self, Boot: boot}
	switch {
	case rec == nil:
		cmd = record.Command{Op: record.Init, Resource: resource, Kind: record.Plain, Rule: record.Rule{S: members}}
	case rec.Phase == record.Electing:
		cmd.Op, cmd.Epoch, cmd.Hold = record.Grant, rec.Epoch, time.Second
	case rec.Phase == record.Released:
		cmd = record.Command{Op: record.Begin, Resource: resource, Epoch: rec.Epoch + 1, Cause: record.ByRelease}
	case rec.Holder == self && r.IntN(3) > 0:
		cmd.Op, cmd.Epoch, cmd.Ver = record.SetRule, rec.Epoch, rec.RuleVer
		for _, m := range members {
			if m != self && r.IntN(4) > 0 {
				cmd.S = append(cmd.S, m)
			}
		}
	case rec.Holder == self:
		cmd.Op, cmd.Epoch = record.Release, rec.Epoch
	case r.IntN(8) == 0:
		cmd = record.Command{Op: record.Begin, Resource: resource, Epoch: rec.Epoch + 1, Cause: record.BySeals}
	default:
		return
	}
	b, err := cmd.Encode()
	if err != nil {
		c.Error(err)
		return
	}
	f := node.Apply(b, 100*time.Millisecond)
	err = f.Error()
	c.mu.Lock()
	defer c.mu.Unlock()
	var conflict *record.Conflict
	switch {
	case errors.Is(err, raft.ErrNotLeader):
	case err != nil:
		c.unknown++
	case f.Response() == nil:
		c.acked = append(c.acked, applied{f.Index(), fmt.Sprintf("%v by %v %d", cmd, cmd.Member, cmd.Boot), true})
	default:
		if e, ok := f.Response().(error); !ok || !errors.As(e, &conflict) {
			c.Errorf("%v: got %v, want a conflict", cmd, f.Response())
		}
		c.conflicts++
	}
}

// finish waits until all have applied the same, and looks at all of it.
func (c *cluster) finish() {
	deadline := time.Now().Add(30 * time.Second)
	settled := func() bool {
		k := c.leader()
		if k < 0 || c.nodes[k].raft.Barrier(time.Second).Error() != nil {
			return false
		}
		time.Sleep(200 * time.Millisecond) // for the followers to hear of the commit
		last := c.nodes[k].raft.LastIndex()
		return !slices.ContainsFunc(c.nodes, func(n *raftNode) bool { return n.raft.AppliedIndex() < last || n.raft.LastIndex() != last })
	}
	for !settled() {
		if time.Now().After(deadline) {
			for _, n := range c.nodes {
				c.Errorf("the nodes have not come to one state within 30s: %s has applied %d of %d, %v", n.id, n.raft.AppliedIndex(), n.raft.LastIndex(), n.raft.State())
			}
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	synctest.Wait()
	var first []byte
	for _, n := range c.nodes {
		b, err := n.fsm.state.Encode()
		if err != nil {
			c.Fatal(err)
		}
		if first == nil {
			first = b
		}
		if !bytes.Equal(b, first) {
			c.Errorf("%s holds %s, %s holds %s", n.id, b, c.nodes[0].id, first)
		}
		c.collect(n)
	}
	for k, n := range c.nodes {
		if n.raft != nil {
			c.stop(k)
		}
	}
	for _, a := range c.acked {
		if got := c.all[a.index]; got != a {
			c.Errorf("acknowledged: %+v; the log has %+v", a, got)
		}
	}
	c.linear()
}

// linear plays the log again: the same outcomes, one grant per epoch.
func (c *cluster) linear() {
	indexes := make([]uint64, 0, len(c.all))
	for k := range c.all {
		indexes = append(indexes, k)
	}
	slices.Sort(indexes)
	granted := map[string]string{}
	epoch := uint64(0)
	for _, k := range indexes {
		a := c.all[k]
		if !a.ok {
			continue
		}
		var e uint64
		var who string
		if _, err := fmt.Sscanf(a.cmd, "grant "+resource+" epoch %d to %s", &e, &who); err == nil {
			key := fmt.Sprint(e)
			if old, ok := granted[key]; ok {
				c.Errorf("epoch %d was granted twice: %s, %s", e, old, a.cmd)
			}
			granted[key] = a.cmd
			if e < epoch {
				c.Errorf("epoch %d was granted after epoch %d", e, epoch)
			}
			epoch = e
			c.grants++
		}
	}
}
