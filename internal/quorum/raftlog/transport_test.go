package raftlog

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"
)

// noted is a transport that notes when requests come.
type noted struct {
	raft.Transport
	began time.Time
	mu    sync.Mutex
	at    map[string][]time.Duration
}

// of is when requests of a kind came to a server so far.
func (t *noted) of(kind string, id int) []time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Clone(t.at[fmt.Sprint(kind, " ", id)])
}

func (t *noted) AppendEntries(id raft.ServerID, _ raft.ServerAddress, args *raft.AppendEntriesRequest, _ *raft.AppendEntriesResponse) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	kind := "entries"
	if heartbeat(args) {
		kind = "heartbeat"
	}
	t.at[kind+" "+string(id)] = append(t.at[kind+" "+string(id)], time.Since(t.began))
	return nil
}

func TestHeartbeatsGoTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		under := &noted{began: time.Now(), at: map[string][]time.Duration{}}
		tr := newTransport(under, func() time.Duration { return time.Hour + time.Since(under.began) }, 75*time.Millisecond, nil)
		r := rand.New(rand.NewPCG(1, 2))
		var all sync.WaitGroup
		for k := range 4 {
			id := raft.ServerID(fmt.Sprint(k))
			waits := make([]time.Duration, 100)
			for k := range waits {
				waits[k] = 30*time.Millisecond + time.Duration(r.Int64N(int64(30*time.Millisecond))) // as raft's timers do
			}
			all.Go(func() {
				for _, d := range waits {
					time.Sleep(d)
					if err := tr.AppendEntries(id, "", &raft.AppendEntriesRequest{Term: 3}, nil); err != nil {
						t.Error(err)
					}
				}
			})
		}
		time.Sleep(10 * time.Millisecond)
		// An entry, and the word of what is committed, wait for nothing.
		for _, args := range []*raft.AppendEntriesRequest{
			{Term: 3, PrevLogEntry: 4, PrevLogTerm: 3}, {Term: 3, Entries: []*raft.Log{{}}}, {Term: 3, LeaderCommitIndex: 1},
		} {
			if err := tr.AppendEntries("0", "", args, nil); err != nil {
				t.Error(err)
			}
		}
		if got := under.of("entries", 0); len(got) != 3 || got[2] != 10*time.Millisecond {
			t.Errorf("entries at %v, want three at 10ms", got)
		}
		all.Wait()
		var want []time.Duration
		for k := range 100 {
			want = append(want, time.Duration(k+1)*75*time.Millisecond)
		}
		for k := range 4 {
			if got := under.of("heartbeat", k); !slices.Equal(got, want) {
				t.Errorf("heartbeats to %d at %v", k, got)
			}
		}

		ended := make(chan error)
		go func() { ended <- tr.AppendEntries("0", "", &raft.AppendEntriesRequest{Term: 3}, nil) }()
		time.Sleep(time.Millisecond)
		tr.close()
		if err := <-ended; !errors.Is(err, errClosed) {
			t.Errorf("a heartbeat that waits for its turn at the end: got %v, want %v", err, errClosed)
		}
	})
}

// silent is a transport on which followers answer only while they can.
type silent struct {
	noted
	answers atomic.Bool
}

func (t *silent) AppendEntries(id raft.ServerID, at raft.ServerAddress, args *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	if err := t.noted.AppendEntries(id, at, args, resp); err != nil || t.answers.Load() {
		return err
	}
	return errors.New("i/o timeout")
}

func (t *silent) InstallSnapshot(id raft.ServerID, _ raft.ServerAddress, _ *raft.InstallSnapshotRequest, _ *raft.InstallSnapshotResponse, _ io.Reader) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.at["snapshot "+string(id)] = append(t.at["snapshot "+string(id)], time.Since(t.began))
	return nil
}

// TestEntriesWaitForTheFollower: those for one whose last request had no answer go once a heartbeat has one, and end with the term, the
// membership and the transport.
func TestEntriesWaitForTheFollower(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var term atomic.Uint64
		term.Store(3)
		under := &silent{noted: noted{began: time.Now(), at: map[string][]time.Duration{}}}
		now := func() time.Duration { return time.Hour + time.Since(under.began) }
		tr := newTransport(under, now, 0, func(_ raft.ServerID, at uint64) bool { return at == term.Load() })
		entries := func(id raft.ServerID) error {
			return tr.AppendEntries(id, "", &raft.AppendEntriesRequest{Term: 3, Entries: []*raft.Log{{}}}, nil)
		}
		beat := func(id raft.ServerID) { _ = tr.AppendEntries(id, "", &raft.AppendEntriesRequest{Term: 3}, nil) }

		if entries("1") == nil {
			t.Error("entries were taken by a follower that does not answer")
		}
		ended := make(chan error, 2)
		go func() { ended <- entries("1") }()
		go func() { ended <- tr.InstallSnapshot("1", "", &raft.InstallSnapshotRequest{Term: 3}, nil, nil) }()
		time.Sleep(time.Minute)
		beat("1")
		synctest.Wait()
		if got := len(under.of("entries", 1)) + len(under.of("snapshot", 1)); got != 1 || len(ended) != 0 {
			t.Errorf("%d requests went to a silent follower, %d ended, want one and none", got, len(ended))
		}
		under.answers.Store(true)
		beat("2")
		synctest.Wait()
		if len(ended) != 0 {
			t.Error("another follower's answer was taken for this one's")
		}
		beat("1")
		for range 2 {
			if err := <-ended; err != nil {
				t.Errorf("after the follower's answer: %v", err)
			}
		}
		if err := entries("1"); err != nil {
			t.Errorf("entries for a follower that answers: %v", err)
		}

		under.answers.Store(false)
		beat("1")
		go func() { ended <- entries("1") }()
		synctest.Wait()
		term.Store(4)
		beat("1")
		if err := <-ended; !errors.Is(err, errUnwanted) {
			t.Errorf("entries of an old term: %v, want %v", err, errUnwanted)
		}
		// Who was silent in another term is asked, and not waited for.
		under.answers.Store(true)
		if err := tr.AppendEntries("1", "", &raft.AppendEntriesRequest{Term: 4, Entries: []*raft.Log{{}}}, nil); err != nil {
			t.Errorf("entries of the next term: %v", err)
		}
		under.answers.Store(false)
		beat("1") // late, of the old one
		if tr.silent("1") {
			t.Error("a request of the old term was taken for one of the new")
		}
		_ = tr.note("2", 3, errors.New("i/o timeout"))
		term.Store(3)
		go func() { ended <- entries("2") }()
		synctest.Wait()
		tr.close()
		if err := <-ended; !errors.Is(err, errClosed) {
			t.Errorf("entries at the end: %v, want %v", err, errClosed)
		}
	})
}
