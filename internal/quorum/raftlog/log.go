package raftlog

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
	"golang.org/x/sync/semaphore"

	"pgvrrp/internal/quorum/lease"
	"pgvrrp/internal/quorum/record"
	"pgvrrp/internal/quorum/store"
)

// Store is what a voter has on disk; *store.Store is one.
type Store interface {
	raft.LogStore
	raft.StableStore
	Snapshots() raft.SnapshotStore
	Identity() store.Identity
	Empty() bool
	Outlived() string
	SetCluster(id string) error
	Bootstrap(cluster string, c raft.Configuration) error
}

// Peers asks other voters.
type Peers interface {
	// Hello asks voter id who it is. It returns when ctx ends, at the latest.
	Hello(ctx context.Context, id string) (Hello, error)
}

// Voter is one voter of the configuration file.
type Voter struct {
	ID      string // the node, or "w1/2" for a second vote
	Node    string
	Witness bool
}

// Hello is how a voter answers who it is.
type Hello struct {
	ID            string   `json:"id"`
	Incarnation   string   `json:"incarnation"`
	Cluster       string   `json:"cluster,omitempty"` // "": part of none
	Starts        uint64   `json:"starts"`
	Empty         bool     `json:"empty,omitempty"`         // never part of a log: no entry, no vote
	Configuration []string `json:"configuration,omitempty"` // the newest membership in its log; nil: none
	Leader        string   `json:"leader,omitempty"`        // the voter that it follows; "": none
	Last          uint64   `json:"last,omitempty"`          // the index of its last entry
	Priority      int      `json:"priority,omitempty"`      // of its node's instances: one with a low one leads the log before one with a high one
}

// Options are what a Log is made of. Store, Transport, Self, Voters, Now and Peer are needed.
type Options struct {
	Store     Store
	Transport raft.Transport // at the address "id@incarnation"; Run closes it if it can be
	Self      Voter
	Voters    []Voter       // of the file, ourselves among them
	Timeout   time.Duration // without a leader until an election, and without a majority until a leader gives up; 300 ms if 0

	// CommitTimeout is after which time at most twice over a follower learns that the last entry is committed, if no other
	// comes; 250 ms if 0.
	CommitTimeout time.Duration

	Now func() time.Duration // since boot, by CLOCK_BOOTTIME
	Log *slog.Logger         // nil: silent

	// OnRecord gets each change in the order of the log, and every record after a snapshot. The log waits for it.
	OnRecord func(*record.Resource)
	// OnLeading is told when we lead and have all that was ever committed, and when no longer.
	OnLeading func(on bool)
	// OnConfiguration gets the newest membership in our log, committed or not, before we answer for having it: from then
	// on this voter must act by no other. The zero value means that this voter counts in none yet. It is called with the
	// log held, so it must not wait, nor call the Log.
	OnConfiguration func(lease.Configuration)

	Peer Peers
	// Holder is the node that holds an active resource, "" if there is none, besides those that the log itself names.
	Holder func() string
	// Priority is that of this node's instances, for Hello; nil: 0.
	Priority func() int
	// Lapse is how long after its last word a holder that is dead is still named by the log, if others can take over.
	Lapse time.Duration
	// UpSince is since when, by Now, the network to a voter has been up, 0 if it is not; nil: 0.
	UpSince func(id string) time.Duration
}

// Log is one voter's part of the log. Safe for concurrent use.
type Log struct {
	o         Options
	log       *slog.Logger
	self      raft.ServerID
	transport *transport
	machine   *machine
	members   *tracker
	tune      func(*raft.Config) // for tests

	raft     atomic.Pointer[raft.Raft] // nil until it runs, and after
	leading  atomic.Bool               // with all of the log
	leadFrom atomic.Int64              // since when, by Now
	refused  atomic.Int64              // when raft last took no command because of a transfer of the leadership, by Now
	asked    *semaphore.Weighted       // one for each question that raft has not answered
	waiting  atomic.Pointer[string]    // what for, before raft runs

	failing sync.Once
	failure atomic.Pointer[error]
	failed  chan struct{} // closed when the store has failed

	mu        sync.Mutex
	turn      chan struct{} // closed when another leads, or none
	voters    []Voter
	hellos    map[string]heard         // by voter id: the last answers
	elsewhere map[string]elsewhere     // by voter id: who said last that it is part of another cluster
	asking    map[string]bool          // a Hello is under way
	tried     map[string]time.Duration // when to try to add a voter again
	added     map[raft.ServerID]time.Duration
	changing  sync.Mutex // one change of the membership at a time

	// owned by reconcile
	electing map[string]electing // by resource
	transfer time.Duration       // not before
}

type heard struct {
	Hello
	at time.Duration
}

type elsewhere struct {
	cluster string
	at      time.Duration
}

// electing is an election that was seen.
type electing struct {
	epoch uint64
	since time.Duration
}

// NotLeader says that nothing was done because this voter does not lead the log.
type NotLeader struct{ Leader string } // the voter that leads; "": not known

// Error names the leader.
func (e *NotLeader) Error() string {
	if e.Leader == "" {
		return "this voter does not lead the log, and knows of nobody who does"
	}
	return fmt.Sprintf("this voter does not lead the log, %s does", e.Leader)
}

// Unknown says that a command may or may not be carried out, now or later.
type Unknown struct{ Err error }

// Error tells why.
func (e *Unknown) Error() string { return fmt.Sprintf("the outcome is not known: %v", e.Err) }

// Unwrap is the reason.
func (e *Unknown) Unwrap() error { return e.Err }

// New makes a Log that Run starts.
func New(o Options) (*Log, error) {
	if o.Store == nil || o.Transport == nil || o.Now == nil || o.Peer == nil {
		return nil, errors.New("make the log: no store, transport, clock or peers are given")
	}
	if o.Timeout == 0 {
		o.Timeout = 300 * time.Millisecond
	}
	if o.CommitTimeout == 0 {
		o.CommitTimeout = 250 * time.Millisecond
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.OnRecord == nil {
		o.OnRecord = func(*record.Resource) {}
	}
	if o.OnLeading == nil {
		o.OnLeading = func(bool) {}
	}
	if o.OnConfiguration == nil {
		o.OnConfiguration = func(lease.Configuration) {}
	}
	if o.UpSince == nil {
		o.UpSince = func(string) time.Duration { return 0 }
	}
	if o.Holder == nil {
		o.Holder = func() string { return "" }
	}
	if o.Priority == nil {
		o.Priority = func() int { return 0 }
	}
	self := serverID(o.Self.ID, o.Store.Identity().Incarnation)
	if at := o.Transport.LocalAddr(); string(at) != string(self) {
		return nil, fmt.Errorf("make the log: the transport is at %q, not at %q", at, self)
	}
	l := &Log{
		o: o, log: o.Log, self: self, asked: semaphore.NewWeighted(questions), failed: make(chan struct{}), turn: make(chan struct{}),
		hellos: map[string]heard{}, elsewhere: map[string]elsewhere{}, asking: map[string]bool{}, tried: map[string]time.Duration{},
		added: map[raft.ServerID]time.Duration{}, electing: map[string]electing{},
	}
	if err := l.SetVoters(o.Voters); err != nil {
		return nil, err
	}
	l.transport = newTransport(o.Transport, o.Now, o.Timeout/beats, l.follows)
	l.machine = newMachine(o.OnRecord, l.log)
	l.members = newTracker(self, o.Now, o.OnConfiguration)
	l.machine.committed = l.members.commit
	return l, nil
}

// SetVoters replaces the voters of the file. New ones are added once they answer; those that are gone stay members until
// they are removed.
func (l *Log) SetVoters(voters []Voter) error {
	ids := map[string]bool{}
	for _, v := range voters {
		switch {
		case v.ID == "" || strings.Contains(v.ID, "@"):
			return fmt.Errorf("set the voters of the log: %q is no voter's id", v.ID)
		case ids[v.ID]:
			return fmt.Errorf("set the voters of the log: %s is given twice", v.ID)
		}
		ids[v.ID] = true
	}
	if !ids[l.o.Self.ID] {
		return fmt.Errorf("set the voters of the log: %s itself is not among them", l.o.Self.ID)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.voters = slices.Clone(voters)
	return nil
}

func (l *Log) file() []Voter {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.voters // never changed, only replaced
}

func serverID(id, incarnation string) raft.ServerID { return raft.ServerID(id + "@" + incarnation) }

// splitID is the voter's id and its incarnation.
func splitID(s raft.ServerID) (id, incarnation string) {
	id, incarnation, _ = strings.Cut(string(s), "@")
	return id, incarnation
}

// helloEvery is how often other voters are asked, while that matters; calm times that, while all are there.
const (
	helloEvery = 200 * time.Millisecond
	calm       = 2
)

// deadAfter is how long a voter is out of contact until it counts as dead.
const deadAfter = time.Second

// leaveTime bounds how long the end waits for another leader, and stopTime how long for raft: requests to voters that don't
// answer run for as long as the transport lets them.
const (
	leaveTime = time.Second
	stopTime  = 3 * time.Second
)

// Run founds or joins the quorum, and then is a voter until ctx ends, the store fails or End is called. With a store that is known to
// be an old copy it only waits for ctx. It runs once. After an error another Log may be made, on a store that was opened again
// and with another transport.
func (l *Log) Run(ctx context.Context) error {
	err := l.run(ctx)
	if err != nil {
		return fmt.Errorf("log of voter %s: %w", l.o.Self.ID, err)
	}
	return nil
}

func (l *Log) run(ctx context.Context) error {
	defer l.transport.close()
	if why := l.o.Store.Outlived(); why != "" {
		l.log.Error("the voter takes no part", "reason", why)
		l.waiting.Store(&why)
		<-ctx.Done()
		return nil
	}
	if err := l.found(ctx); err != nil {
		return err
	}
	if ctx.Err() != nil {
		return nil
	}
	if err := l.members.load(l.o.Store); err != nil {
		return err
	}
	if l.atHome(ctx); ctx.Err() != nil {
		return nil
	}
	led := make(chan bool)
	r, err := l.start(led)
	if err != nil {
		return err
	}
	l.raft.Store(r)

	var tasks sync.WaitGroup
	inner, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	states := make(chan bool, 1)
	tasks.Go(func() { l.watch(inner, r, led, states) })
	tasks.Go(func() { l.lead(inner, r, states) })
	tasks.Go(func() { l.reconcile(inner, r) })
	select {
	case <-ctx.Done():
		bound, cancel := context.WithTimeout(inner, leaveTime)
		l.StepDown(bound)
		cancel()
	case <-l.failed:
	}
	l.raft.Store(nil)
	stop()
	bound, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*l.o.Timeout) // a leader without a majority gives up after one
	if l.asked.Acquire(bound, questions) == nil {
		defer l.asked.Release(questions)
	}
	cancel()
	err = l.Trouble()
	l.transport.close()
	down := make(chan error, 1)
	go func() { down <- r.Shutdown().Error() }()
	late := time.NewTimer(stopTime)
	defer late.Stop()
	select {
	case e := <-down:
		err = errors.Join(err, e)
		tasks.Wait()
	case <-late.C:
		// A write that never returns. Whoever waits for us must not wait for it too.
		err = errors.Join(err, fmt.Errorf("stop: raft does not end within %v, the disk may hang", stopTime))
	}
	return err
}

// start makes raft. It panics at some errors, and the storage ends the goroutine of whoever gets an error from it.
func (l *Log) start(led chan<- bool) (*raft.Raft, error) {
	c := raft.DefaultConfig()
	c.LocalID = l.self
	c.HeartbeatTimeout, c.ElectionTimeout, c.LeaderLeaseTimeout = l.o.Timeout, l.o.Timeout, l.o.Timeout
	c.CommitTimeout = l.o.CommitTimeout
	c.ShutdownOnRemove = false
	c.SnapshotThreshold, c.TrailingLogs, c.SnapshotInterval = snapshotThreshold, trailingLogs, snapshotInterval
	c.NoLegacyTelemetry = true
	c.NotifyCh = led
	if l.tune != nil {
		l.tune(c)
	}
	c.Logger = Logger(l.log)
	disk := &storage{Store: l.o.Store, members: l.members, fail: l.fail}
	type result struct {
		r   *raft.Raft
		err error
	}
	done := make(chan result, 1)
	go func() {
		res := result{err: errors.New("start: raft did not start")}
		defer func() {
			if p := recover(); p != nil {
				res.err = fmt.Errorf("start: %v", p)
			}
			if err := l.Trouble(); err != nil {
				res.err = err
			}
			done <- res
		}()
		r, err := raft.NewRaft(c, l.machine, disk, disk, disk.snapshots(), l.transport)
		if err != nil {
			err = fmt.Errorf("start: %w", err)
		}
		res = result{r, err}
	}()
	res := <-done
	if res.err != nil && res.r != nil {
		_ = res.r.Shutdown().Error()
	}
	return res.r, res.err
}

// The log is cut often: the state is a few kilobytes.
const (
	snapshotThreshold = 1024
	trailingLogs      = 256
	snapshotInterval  = 30 * time.Second
)

// End ends Run with an error.
func (l *Log) End(err error) { l.fail(err) }

// fail ends Run.
func (l *Log) fail(err error) {
	l.failing.Do(func() {
		l.failure.Store(&err)
		close(l.failed)
	})
}

// Trouble is why the store can't be used any more; nil if it can.
func (l *Log) Trouble() error {
	if err := l.failure.Load(); err != nil {
		return *err
	}
	return nil
}

// Waiting says what this voter waits for before it takes part in a log; "" if it does.
func (l *Log) Waiting() string {
	if s := l.waiting.Load(); s != nil {
		return *s
	}
	return ""
}

// Hello is this voter's answer to the others.
func (l *Log) Hello() Hello {
	id := l.o.Store.Identity()
	h := Hello{ID: l.o.Self.ID, Incarnation: id.Incarnation, Cluster: id.Cluster, Starts: id.Starts, Empty: l.o.Store.Empty(),
		Priority: l.o.Priority()}
	for _, s := range l.members.newest().c.Servers {
		h.Configuration = append(h.Configuration, string(s.ID))
	}
	h.Leader, _ = l.Leader()
	if r := l.raft.Load(); r != nil {
		h.Last = r.LastIndex()
	}
	return h
}

// Leader is the voter that leads the log, "" if none is known, and whether that is this one.
func (l *Log) Leader() (id string, ours bool) {
	r := l.raft.Load()
	if r == nil {
		return "", false
	}
	_, server := r.LeaderWithID()
	id, _ = splitID(server)
	return id, server == l.self
}

// follows reports whether a server is a member of the newest membership, which we lead in that term. Not just after raft took no command because of a
// transfer: it may not end one to a server that is silent before its try with entries there ends.
func (l *Log) follows(s raft.ServerID, term uint64) bool {
	r := l.raft.Load()
	at := l.refused.Load()
	return r != nil && r.State() == raft.Leader && r.CurrentTerm() == term && (at == 0 || l.o.Now()-time.Duration(at) > refusedFor) &&
		slices.ContainsFunc(l.members.newest().c.Servers, func(m raft.Server) bool { return m.ID == s })
}

// refusedFor is longer than anybody waits until he asks raft again.
const refusedFor = time.Second

// transferring notes it if an error says that raft takes no command because of a transfer.
func (l *Log) transferring(err error) bool {
	is := errors.Is(err, raft.ErrLeadershipTransferInProgress)
	if is {
		l.refused.Store(int64(l.o.Now()))
	}
	return is
}

// Turn is a channel that is closed when Leader may say something else than when Turn was called.
func (l *Log) Turn() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.turn
}

func (l *Log) turned() {
	l.mu.Lock()
	defer l.mu.Unlock()
	close(l.turn)
	l.turn = make(chan struct{})
}

// State is what the log holds here, as far as it was read. It is never changed.
func (l *Log) State() *record.State { return l.machine.state.Load() }

// Resource is one record; nil if there is none. It is never changed.
func (l *Log) Resource(name string) *record.Resource { return l.State().Get(name) }

// enqueueTime bounds how long a command waits for its turn.
const enqueueTime = time.Second

// Apply carries out c if we lead, and returns when it is committed and done here. The error is a *NotLeader if c is
// certainly not in the log, a *record.Conflict if it is but found something else than it expects, and an *Unknown if
// that can't be said: ctx ended, or we don't lead any more.
func (l *Log) Apply(ctx context.Context, c record.Command) error {
	b, err := c.Encode()
	if err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	r := l.raft.Load()
	leader, ours := l.Leader()
	if r == nil || !ours {
		return &NotLeader{leader}
	}
	var answer error
	err = l.await(ctx, func() error {
		f := r.Apply(b, enqueueTime)
		if err := f.Error(); err != nil {
			return err
		}
		answer, _ = f.Response().(error)
		return nil
	})
	if err != nil {
		return l.outcome(err)
	}
	return answer
}

// questions is how many raft may be asked at once: more than there ever are, so that all of them together mean that none is open.
const questions = 1 << 30

// await asks raft something and returns its answer, or ctx's end. Raft answers as long as it runs, at the latest when we lead no more, and
// forgets some of what is open when it is shut down (hashicorp/raft 1.8.0, runFSM): so run shuts it down when nothing is.
func (l *Log) await(ctx context.Context, ask func() error) error {
	if err := l.asked.Acquire(ctx, 1); err != nil {
		return err
	}
	done := make(chan error, 1)
	go func() {
		defer l.asked.Release(1)
		done <- ask()
	}()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// outcome says what raft's error means.
func (l *Log) outcome(err error) error {
	l.transferring(err)
	switch {
	case errors.Is(err, raft.ErrNotLeader), errors.Is(err, raft.ErrLeadershipTransferInProgress), errors.Is(err, raft.ErrEnqueueTimeout):
		leader, ours := l.Leader()
		if ours {
			leader = ""
		}
		return &NotLeader{leader}
	default:
		return &Unknown{err}
	}
}
