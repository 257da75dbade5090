package raftlog

import (
	"errors"
	"io"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// transport notes when a follower last answered: raft keeps that to itself.
type transport struct {
	raft.Transport
	now func() time.Duration

	ended sync.Once

	mu      sync.Mutex
	answers map[raft.ServerID]time.Duration
}

var _ raft.WithPreVote = (*transport)(nil)

func newTransport(t raft.Transport, now func() time.Duration) *transport {
	return &transport{Transport: t, now: now, answers: map[raft.ServerID]time.Duration{}}
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
		if c, ok := t.Transport.(raft.WithClose); ok {
			_ = c.Close()
		}
	})
}
