package raftlog

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
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
		tr := newTransport(under, func() time.Duration { return time.Hour + time.Since(under.began) }, 75*time.Millisecond)
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
