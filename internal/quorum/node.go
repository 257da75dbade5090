package quorum

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"pgvrrp/internal/conf"
	"pgvrrp/internal/quorum/lease"
	"pgvrrp/internal/quorum/link"
	"pgvrrp/internal/quorum/record"
	"pgvrrp/internal/quorum/trust"
)

// Host carries out on a data node what a lease decides. No method blocks.
type Host interface {
	// Grant lets the resource's instances become master.
	Grant(resource, reason string)
	// Revoke takes their addresses off; done is called once they are.
	Revoke(resource, reason string, done func())
	// Lost is called when the majority was lost and no_quorum_policy is suicide.
	Lost(resource, reason string)
}

// Guard shuts a resource's addresses in the kernel at a deadline, whether this process runs or not. Deadlines are times since
// boot, by CLOCK_BOOTTIME.
type Guard interface {
	Open(resource string, deadline time.Duration) error
	// Refresh moves the deadline of what is open. It fails if that has run out meanwhile.
	Refresh(resource string, deadline time.Duration) error
	Shut(resource string) error
}

// Options are what the daemon gives.
type Options struct {
	File *conf.Quorum
	Self conf.Voter
	Now  func() time.Duration // since boot, by CLOCK_BOOTTIME
	Log  *slog.Logger
	Host Host // not needed on a witness
	// Guard may be nil: none. Kind is the one in force: nftables, lifetime or none.
	Guard Guard
	Kind  string
	// Trouble is what the daemon wants shown beside the guard.
	Trouble string
}

// Node is one process of the quorum.
type Node struct {
	o       Options
	log     *slog.Logger
	params  lease.Params
	key     trust.Key
	boot    record.Boot
	members []*member // one for each vote
	tasks   *errgroup.Group
	ended   chan struct{} // closed when Run has returned
	closing sync.Once
	watch   watchers

	priority atomic.Uint32 // the highest of our instances

	mu   sync.Mutex
	file *conf.Quorum
}

// voterIDs are the ids of one line of the file: a node with two votes is two voters.
func voterIDs(v conf.Voter) []string {
	ids := []string{v.Name}
	for k := 2; k <= v.Votes; k++ {
		ids = append(ids, v.Name+"/"+strconv.Itoa(k))
	}
	return ids
}

// peersOf are all voters of the file as the links know them.
func peersOf(q *conf.Quorum) []link.Peer {
	var all []link.Peer
	for _, v := range q.Voters {
		for k, id := range voterIDs(v) {
			all = append(all, link.Peer{ID: id, Addrs: v.Addrs, Port: uint16(q.Port + k)})
		}
	}
	return all
}

// dataNodes are the names of the voters that may hold a resource.
func dataNodes(q *conf.Quorum) []string {
	var all []string
	for _, v := range q.Voters {
		if !v.Witness {
			all = append(all, v.Name)
		}
	}
	return all
}

func otherDataNodes(q *conf.Quorum, self string) []string {
	return slices.DeleteFunc(dataNodes(q), func(name string) bool { return name == self })
}

// Open reads the key and the state directory and binds the addresses. On a data node the guard must be shut and the addresses of
// a former run off before: a record that names a former run is released at once.
func Open(o Options) (_ *Node, err error) {
	n := &Node{o: o, log: o.Log, params: lease.Defaults(o.File.Lease), file: o.File, ended: make(chan struct{})}
	if n.key, err = trust.ReadKey(o.File.KeyFile); err != nil {
		return nil, err
	}
	if n.boot, err = newBoot(); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			n.Close()
		}
	}()
	for k, id := range voterIDs(o.Self) {
		dir := o.File.StateDir
		if k > 0 {
			dir = filepath.Join(dir, strconv.Itoa(k+1))
		}
		m, err := openMember(n, id, dir, uint16(o.File.Port+k), o.Self.Addrs)
		if err != nil {
			return nil, err
		}
		n.members = append(n.members, m)
	}
	return n, nil
}

func newBoot() (record.Boot, error) {
	var b [8]byte
	for {
		if _, err := rand.Read(b[:]); err != nil {
			return 0, fmt.Errorf("choose a boot id: %w", err)
		}
		if v := binary.BigEndian.Uint64(b[:]); v != 0 {
			return record.Boot(v), nil
		}
	}
}

// Close gives up what Open took. Run does so at its end.
func (n *Node) Close() {
	n.closing.Do(func() {
		for _, m := range n.members {
			m.close()
		}
	})
}

// Ended waits for the end of Run, which takes leaveTime and a little more at most.
func (n *Node) Ended() {
	late := time.NewTimer(2 * leaveTime)
	defer late.Stop()
	select {
	case <-n.ended:
	case <-late.C:
		n.log.Error("the quorum extension does not end")
	}
}

// Late is how far behind its work the loop is.
func (n *Node) Late() time.Duration {
	late := time.Duration(0)
	for _, m := range n.members {
		if at := time.Duration(m.due.Load()); at != 0 {
			late = max(late, n.o.Now()-at)
		}
	}
	return late
}

// data is the member that speaks for the data node; nil on a witness.
func (n *Node) data() *member {
	if n.o.Self.Witness || len(n.members) == 0 {
		return nil
	}
	return n.members[0]
}

// Run runs until ctx ends. The instances must have left before: what is still granted then is released in the log, within
// the time that ctx's end leaves (a second at most).
func (n *Node) Run(ctx context.Context) error {
	defer close(n.ended)
	base, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	n.tasks, base = errgroup.WithContext(base)
	for _, m := range n.members {
		m.start(base)
	}
	select {
	case <-ctx.Done():
		n.leave()
	case <-base.Done():
	}
	stop()
	ended := make(chan error, 1)
	go func() { ended <- n.tasks.Wait() }()
	late := time.NewTimer(endTime)
	defer late.Stop()
	var err error
	select {
	case err = <-ended:
		n.Close()
	case <-late.C:
		// A write that never returns, and a Close would not either. Whoever waits for us must not wait for it too.
		n.closing.Do(func() {})
		err = fmt.Errorf("the voter's tasks do not end within %v, the disk of %s may hang", endTime, n.o.File.StateDir)
	}
	if err != nil && !errors.Is(err, context.Canceled) {
		return fmt.Errorf("quorum: %w", err)
	}
	return nil
}

// endTime is how long the tasks may take to end: longer than the log waits for its own.
const endTime = 5 * time.Second

// leaveTime is how long a stop waits for the release of what we hold, and for the log's leader to be another.
const leaveTime = time.Second

func (n *Node) leave() {
	ctx, cancel := context.WithTimeout(context.Background(), leaveTime)
	defer cancel()
	if m := n.data(); m != nil {
		m.settled(ctx)
	}
	for _, m := range n.members {
		m.stepDown(ctx)
	}
}

// Request says that the master of a resource seems gone: its lease is looked at, not its silence believed.
func (n *Node) Request(resource string) {
	if m := n.data(); m != nil {
		m.post(func(now time.Duration) { m.want(resource) })
	}
}

// GiveUp gives the resource back. The addresses are off. Prefer may name the node that is to be next.
func (n *Node) GiveUp(resource, reason, prefer string) {
	if m := n.data(); m != nil {
		m.post(func(now time.Duration) {
			if r := m.machines[resource]; r != nil && r.holder != nil {
				m.hold(now, r, lease.Event{Kind: lease.GiveUp, Reason: reason, Prefer: prefer})
			}
		})
	}
}

// Eligible says whether the instances of a resource could be master now, why not, and their priority.
func (n *Node) Eligible(resource string, ok bool, reason string, priority uint8) {
	if m := n.data(); m != nil {
		m.post(func(now time.Duration) { m.instances(now, resource, ok, reason, priority) })
	}
}

// Live reports whether this node may have the resource's addresses up. Whoever was told that it may not is told nothing else until the next grant: a
// renewal that comes later is none.
func (n *Node) Live(resource string) bool {
	m := n.data()
	if m == nil {
		return false
	}
	r := m.machines[resource] // the map never changes
	if r == nil {
		return false
	}
	for {
		until := r.liveUntil.Load()
		if until > int64(n.o.Now()) {
			return true
		}
		if until == 0 || r.liveUntil.CompareAndSwap(until, 0) {
			return false
		}
	}
}

// Reconfigure takes over what a reload may change: the other voters and their addresses, the policy and its command, the agent's
// user. What it refuses changes nothing.
func (n *Node) Reconfigure(file *conf.Quorum) error {
	if keys := n.NeedsRestart(file); len(keys) > 0 {
		return fmt.Errorf("reload the quorum block: changes of %s need a restart of vrrpd", strings.Join(keys, ", "))
	}
	for _, m := range n.members {
		// Neither refuses what conf has read.
		if err := errors.Join(m.log.SetVoters(votersOf(file)), m.net.SetPeers(peersOf(file))); err != nil {
			return fmt.Errorf("reload the quorum block: %w", err)
		}
		m.configure(file)
	}
	n.mu.Lock()
	n.file = file
	n.mu.Unlock()
	return nil
}

// NeedsRestart gives the keywords of what differs in file and Reconfigure refuses: besides what conf tells, our own line, because
// we listen on its addresses from the start on.
func (n *Node) NeedsRestart(file *conf.Quorum) []string {
	keys := n.current().NeedsRestart(file)
	own := slices.ContainsFunc(file.Voters, func(v conf.Voter) bool {
		return v.Name == n.o.Self.Name && slices.Equal(v.Addrs, n.o.Self.Addrs)
	})
	key := "voter"
	if n.o.Self.Witness {
		key = "witness"
	}
	if !own && !slices.Contains(keys, key) {
		keys = append(keys, key)
	}
	return keys
}

func (n *Node) current() *conf.Quorum {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.file
}

// priorityNow is the highest priority of our instances: the lower it is, the sooner we lead the log.
func (n *Node) priorityNow() int { return int(n.priority.Load()) }

// watchers are told of every change of a resource.
type watchers struct {
	mu   sync.Mutex
	subs []chan struct{}
}

// subscribe returns a channel that gets a value after each change; several changes may be one value.
func (w *watchers) subscribe() (changed <-chan struct{}, cancel func()) {
	c := make(chan struct{}, 1)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.subs = append(w.subs, c)
	return c, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.subs = slices.DeleteFunc(w.subs, func(x chan struct{}) bool { return x == c })
	}
}

func (w *watchers) notify() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, c := range w.subs {
		select {
		case c <- struct{}{}:
		default:
		}
	}
}

// Changes tells after each change of a resource, until cancel.
func (n *Node) Changes() (changed <-chan struct{}, cancel func()) { return n.watch.subscribe() }

// addresses of this voter, as the file has them.
func listenOn(v []netip.Addr) []netip.Addr { return slices.Clone(v) }
