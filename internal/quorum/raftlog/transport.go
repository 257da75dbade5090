package raftlog

import (
	"errors"
	"io"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// transport notes when a follower last answered, which raft keeps to itself, has the heartbeats to all followers go at once, and has entries for one
// that does not answer wait until it does.
type transport struct {
	raft.Transport
	now    func() time.Duration
	beat   time.Duration                                  // heartbeats go at multiples of it, by now; at once if 0
	wanted func(follower raft.ServerID, term uint64) bool // whether it is still one of ours in that term

	ended  sync.Once
	closed chan struct{}

	mu        sync.Mutex
	followers map[raft.ServerID]follower
	tried     chan struct{} // closed and replaced when a request has ended
}

// follower is what the last requests to one came to.
type follower struct {
	answered time.Duration // the last time; 0: never
	silent   bool          // the last request of the term had no answer
	term     uint64
}

var _ raft.WithPreVote = (*transport)(nil)

func newTransport(t raft.Transport, now func() time.Duration, beat time.Duration, wanted func(raft.ServerID, uint64) bool) *transport {
	return &transport{
		Transport: t, now: now, beat: beat, wanted: wanted, closed: make(chan struct{}), followers: map[raft.ServerID]follower{}, tried: make(chan struct{}),
	}
}

// beats is how many heartbeats fit into the time after which a follower gives its leader up. One that is lost is sent again by TCP
// after some 200 ms, which must come in time too.
const beats = 4

// heartbeat tells raft's heartbeats from other requests, as its own transport does.
func heartbeat(a *raft.AppendEntriesRequest) bool {
	return a.Term != 0 && a.PrevLogEntry == 0 && a.PrevLogTerm == 0 && len(a.Entries) == 0 && a.LeaderCommitIndex == 0
}

// What a request gets that waited for its turn, or for its follower.
var (
	errClosed   = errors.New("the log's transport is closed")
	errUnwanted = errors.New("the follower does not answer, and is not led by us any more")
)

// atBeat returns at the next beat. Raft has a heartbeat for each follower every tenth to fifth of its timeout, each by a timer of its
// own: far more often than it takes, and most of what a leader costs that has nothing else to do. A follower counts from the last
// heartbeat that it got, so that a dead leader is found out no later for it.
func (t *transport) atBeat() error {
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

// heard returns when a follower that does not answer does so again, and at once if it was not asked in this term. Raft would pause ever
// longer between its tries with entries, up to 10 s, and let one that is back wait for the rest of that, and with it a commit that needs
// it. Its heartbeats go on, a few a second.
func (t *transport) heard(id raft.ServerID, term uint64) error {
	for {
		t.mu.Lock()
		f, tried := t.followers[id], t.tried
		t.mu.Unlock()
		switch {
		case !f.silent || f.term != term:
			return nil
		case !t.wanted(id, term):
			return errUnwanted // raft goes on with its heartbeats until this ends
		}
		select {
		case <-tried:
		case <-t.closed:
			return errClosed
		}
	}
}

// answered is when a server last did; ok is false if it never did.
func (t *transport) answered(id raft.ServerID) (at time.Duration, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	at = t.followers[id].answered
	return at, at != 0
}

// silent reports whether the last request to a server had no answer, in the last term in which it had any.
func (t *transport) silent(id raft.ServerID) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.followers[id].silent
}

// note takes what a request came to.
func (t *transport) note(id raft.ServerID, term uint64, err error) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	f := t.followers[id]
	if err == nil {
		f.answered = t.now()
	}
	if term >= f.term { // else it is one that was long under way
		f.term, f.silent = term, err != nil
	}
	t.followers[id] = f
	close(t.tried)
	t.tried = make(chan struct{})
	return err
}

// AppendEntries implements raft.Transport. Each heartbeat is one; what is pipelined beside them need not be noted.
func (t *transport) AppendEntries(id raft.ServerID, at raft.ServerAddress, args *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	var err error
	if heartbeat(args) {
		err = t.atBeat()
	} else {
		err = t.heard(id, args.Term)
	}
	if err != nil {
		return err
	}
	return t.note(id, args.Term, t.Transport.AppendEntries(id, at, args, resp))
}

// InstallSnapshot implements raft.Transport.
func (t *transport) InstallSnapshot(id raft.ServerID, at raft.ServerAddress, args *raft.InstallSnapshotRequest, resp *raft.InstallSnapshotResponse, data io.Reader) error {
	if err := t.heard(id, args.Term); err != nil {
		return err
	}
	return t.note(id, args.Term, t.Transport.InstallSnapshot(id, at, args, resp, data))
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
