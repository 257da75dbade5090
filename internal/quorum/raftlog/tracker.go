package raftlog

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"pgvrrp/internal/quorum/lease"
	"pgvrrp/internal/quorum/store"
)

// membership is one configuration entry of our log.
type membership struct {
	index uint64 // 0: none
	c     raft.Configuration
	// ours: this entry or an earlier one has us as a voter. Before, the memberships name an earlier incarnation of this
	// voter, in whose place it must not act: that one's word is not known here.
	ours bool
}

// tracker follows the memberships in our log. Raft tells the newest one without its index, and not before it has
// answered for having it.
type tracker struct {
	self raft.ServerID
	now  func() time.Duration
	tell func(lease.Configuration)

	// mu is held while the log is written, so that what is told follows what is on disk.
	mu        sync.Mutex
	list      []membership // ascending; only the first may be committed, unless all are
	committed uint64       // the highest index known to be
	since     time.Duration
	told      lease.Configuration

	current atomic.Pointer[membership]
}

func newTracker(self raft.ServerID, now func() time.Duration, tell func(lease.Configuration)) *tracker {
	return &tracker{self: self, now: now, tell: tell}
}

// newest is the membership that our log ends with; the zero value if there is none. It does not wait.
func (t *tracker) newest() membership {
	if m := t.current.Load(); m != nil {
		return *m
	}
	return membership{}
}

// settled reports whether the newest membership is known to be committed, and since when.
func (t *tracker) settled() (m membership, since time.Duration, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	m = t.newest()
	return m, t.since, m.index != 0 && t.committed >= m.index
}

// load reads what is on disk: the newest snapshot's membership, which is committed, and the entries after it.
func (t *tracker) load(s Store) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	all, err := s.Snapshots().List()
	if err != nil {
		return err
	}
	if len(all) > 0 {
		t.committed, t.since = all[0].ConfigurationIndex, t.now()
		t.push(all[0].ConfigurationIndex, all[0].Configuration)
	}
	first, err := s.FirstIndex()
	if err != nil {
		return err
	}
	last, err := s.LastIndex()
	if err != nil {
		return err
	}
	for k := first; k != 0 && k <= last; k++ {
		var e raft.Log
		if err := s.GetLog(k, &e); err != nil {
			return err
		}
		m, err := configurations([]*raft.Log{&e})
		if err != nil {
			return err
		}
		for _, m := range m {
			if m.index > t.committed {
				t.push(m.index, m.c)
			}
		}
	}
	t.publish()
	return nil
}

// configurations are those among entries.
func configurations(entries []*raft.Log) ([]membership, error) {
	var all []membership
	for _, e := range entries {
		switch e.Type {
		case raft.LogConfiguration:
			c, err := store.DecodeConfiguration(e.Data)
			if err != nil {
				return nil, fmt.Errorf("log entry %d: %w", e.Index, err)
			}
			all = append(all, membership{index: e.Index, c: c})
		case raft.LogAddPeerDeprecated, raft.LogRemovePeerDeprecated:
			return nil, fmt.Errorf("log entry %d: %w", e.Index, errors.New("a membership in an old format"))
		}
	}
	return all, nil
}

func (t *tracker) push(index uint64, c raft.Configuration) {
	m := membership{index: index, c: c, ours: votes(c, t.self)}
	if n := len(t.list); n > 0 {
		m.ours = m.ours || t.list[n-1].ours
	}
	t.list = append(t.list, m)
}

func votes(c raft.Configuration, id raft.ServerID) bool {
	return slices.ContainsFunc(c.Servers, func(s raft.Server) bool { return s.ID == id && s.Suffrage == raft.Voter })
}

// appended takes what was just written. The caller holds mu, and so for truncated and installed.
func (t *tracker) appended(all []membership) {
	for _, m := range all {
		t.push(m.index, m.c)
	}
	t.publish()
}

// truncated forgets what was in the end of the log that is gone. A committed entry is never taken back: if it is not in
// the log any more, a snapshot stands for it.
func (t *tracker) truncated(low, last uint64) {
	t.list = slices.DeleteFunc(t.list, func(m membership) bool { return m.index >= low && m.index > last && m.index > t.committed })
	t.publish()
}

// installed takes the membership of a snapshot, which is committed; the log now ends at last.
func (t *tracker) installed(index uint64, c raft.Configuration, last uint64) {
	var before, after []membership
	for _, m := range t.list {
		switch {
		case m.index > index && m.index <= last:
			after = append(after, m)
		case m.index <= index && m.index <= t.committed:
			before = append(before, m)
		}
	}
	// What was not known to be committed may be another entry than the one at its index in the leader's log.
	t.list = before
	if n := len(before); n == 0 || before[n-1].index != index {
		t.push(index, c)
	}
	for _, m := range after {
		t.push(m.index, m.c)
	}
	t.commitLocked(index)
	t.publish()
}

// commit is told that entry index is committed.
func (t *tracker) commit(index uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.commitLocked(index)
	t.publish()
}

func (t *tracker) commitLocked(index uint64) {
	if index > t.committed {
		t.committed, t.since = index, t.now()
	}
	// Of the committed ones the newest is enough.
	for len(t.list) > 1 && t.list[1].index <= t.committed {
		t.list = t.list[1:]
	}
}

// publish tells the newest membership if that has changed.
func (t *tracker) publish() {
	if len(t.list) == 0 {
		t.current.Store(nil)
		t.say(lease.Configuration{})
		return
	}
	m := t.list[len(t.list)-1]
	t.current.Store(&m)
	if !m.ours {
		t.say(lease.Configuration{})
		return
	}
	c := lease.Configuration{Config: lease.Config{Index: m.index, Digest: digest(m.c)}, Voters: voterIDs(m.c)}
	if m.index <= t.committed {
		c.Committed, c.Since = true, t.since
	}
	t.say(c)
}

func (t *tracker) say(c lease.Configuration) {
	if c.Config == t.told.Config && c.Committed == t.told.Committed {
		return
	}
	t.told = c
	t.tell(c)
}

// voterIDs are the ids of c's voters, sorted.
func voterIDs(c raft.Configuration) []string {
	var ids []string
	for _, s := range c.Servers {
		if s.Suffrage == raft.Voter {
			id, _ := splitID(s.ID)
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids
}

// digest is the same for the same members with the same rights, in any order.
func digest(c raft.Configuration) uint64 {
	lines := make([]string, len(c.Servers))
	for k, s := range c.Servers {
		lines[k] = fmt.Sprintf("%d %s\n", s.Suffrage, s.ID)
	}
	slices.Sort(lines)
	h := sha256.New()
	for _, line := range lines {
		h.Write([]byte(line))
	}
	return binary.BigEndian.Uint64(h.Sum(nil))
}
