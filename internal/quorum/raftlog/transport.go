package raftlog

import (
	"errors"
	"io"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// transport notes when a follower last answered, which raft keeps to itself, and has the heartbeats to all followers go at once.
type transport struct {
	raft.Transport
	now  func() time.Duration
	beat time.Duration // heartbeats go at multiples of it, by now; at once if 0

	ended  sync.Once
	closed chan struct{}

	mu      sync.Mutex
	answers map[raft.ServerID]time.Duration
}

var _ raft.WithPreVote = (*transport)(nil)

func newTransport(t raft.Transport, now func() time.Duration, beat time.Duration) *transport {
	return &transport{Transport: t, now: now, beat: beat, closed: make(chan struct{}), answers: map[raft.ServerID]time.Duration{}}
}

// beats is how many heartbeats fit into the time after which a follower gives its leader up. One that is lost is sent again by TCP
// after some 200 ms, which must come in time too.
const beats = 4

// heartbeat tells raft's heartbeats from other requests, as its own transport does.
func heartbeat(a *raft.AppendEntriesRequest) bool {
	return a.Term != 0 && a.PrevLogEntry == 0 && a.PrevLogTerm == 0 && len(a.Entries) == 0 && a.LeaderCommitIndex == 0
}

// errClosed is what a heartbeat gets that waited for its turn.
var errClosed = errors.New("the log's transport is closed")

// wait returns at the next beat. Raft has a heartbeat for each follower every tenth to fifth of its timeout, each by a timer of its
// own: far more often than it takes, and most of what a leader costs that has nothing else to do. A follower counts from the last
// heartbeat that it got, so that a dead leader is found out no later for it.
func (t *transport) wait() error {
	if t.beat <= 0 {
		return nil
	}
	next := time.NewTimer(t.beat - t.now()%t.beat)
	defer next.Stop()
	select {
	case <-next.C:
		return nil
	case <-t.closed:
		return errClosed
	}
}

// answered is when a server last did; ok is false if it never did.
func (t *transport) answered(id raft.ServerID) (at time.Duration, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	at, ok = t.answers[id]
	return at, ok
}

func (t *transport) note(id raft.ServerID, err error) error {
	if err == nil {
		t.mu.Lock()
		t.answers[id] = t.now()
		t.mu.Unlock()
	}
	return err
}

// AppendEntries implements raft.Transport. Each heartbeat is one; what is pipelined beside them need not be noted.
func (t *transport) AppendEntries(id raft.ServerID, at raft.ServerAddress, args *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	if heartbeat(args) {
		if err := t.wait(); err != nil {
			return err
		}
	}
	return t.note(id, t.Transport.AppendEntries(id, at, args, resp))
}

// InstallSnapshot implements raft.Transport.
func (t *transport) InstallSnapshot(id raft.ServerID, at raft.ServerAddress, args *raft.InstallSnapshotRequest, resp *raft.InstallSnapshotResponse, data io.Reader) error {
	return t.note(id, t.Transport.InstallSnapshot(id, at, args, resp, data))
}

// RequestPreVote implements raft.WithPreVote.
func (t *transport) RequestPreVote(id raft.ServerID, at raft.ServerAddress, args *raft.RequestPreVoteRequest, resp *raft.RequestPreVoteResponse) error {
	p, ok := t.Transport.(raft.WithPreVote)
	if !ok {
		return errors.New("the transport knows no pre-vote")
	}
	return p.RequestPreVote(id, at, args, resp)
}

// close ends the transport, whether raft was started on it or not.
func (t *transport) close() {
	t.ended.Do(func() {
		close(t.closed)
		if c, ok := t.Transport.(raft.WithClose); ok {
			_ = c.Close()
		}
	})
}
