package raftlog

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"
	"sync/atomic"

	"github.com/hashicorp/raft"

	"pgvrrp/internal/quorum/record"
)

// maxState bounds a snapshot that is read.
const maxState = 16 << 20

// machine is the state of the log as raft's FSM. Raft calls it from one goroutine.
type machine struct {
	state     atomic.Pointer[record.State] // replaced, never changed
	changed   func(*record.Resource)
	committed func(index uint64)
	log       *slog.Logger
}

var (
	_ raft.FSM                = (*machine)(nil)
	_ raft.ConfigurationStore = (*machine)(nil)
)

func newMachine(changed func(*record.Resource), log *slog.Logger) *machine {
	m := &machine{changed: changed, log: log}
	m.state.Store(&record.State{})
	return m
}

// Apply implements raft.FSM. The answer is nil or the error.
func (m *machine) Apply(e *raft.Log) any {
	c, err := record.DecodeCommand(e.Data)
	if err != nil {
		// The same on every voter: it changes nothing.
		m.log.Error("log entry", "index", e.Index, "error", err)
		return fmt.Errorf("log entry %d: %w", e.Index, err)
	}
	next := &record.State{Resources: maps.Clone(m.state.Load().Resources)}
	if err := next.Apply(e.Index, c); err != nil {
		return err
	}
	m.state.Store(next)
	m.changed(next.Get(c.Resource))
	return nil
}

// StoreConfiguration implements raft.ConfigurationStore: the membership of entry index is committed.
func (m *machine) StoreConfiguration(index uint64, _ raft.Configuration) { m.committed(index) }

// Snapshot implements raft.FSM.
func (m *machine) Snapshot() (raft.FSMSnapshot, error) { return snapshot{m.state.Load()}, nil }

// Restore implements raft.FSM.
func (m *machine) Restore(r io.ReadCloser) error {
	b, err := io.ReadAll(io.LimitReader(r, maxState))
	if err != nil {
		return fmt.Errorf("read the state of the log: %w", err)
	}
	s, err := record.Decode(b)
	if err != nil {
		return err
	}
	m.state.Store(s)
	for _, name := range slices.Sorted(maps.Keys(s.Resources)) {
		m.changed(s.Get(name))
	}
	return nil
}

type snapshot struct{ s *record.State }

// Persist implements raft.FSMSnapshot.
func (x snapshot) Persist(sink raft.SnapshotSink) error {
	b, err := x.s.Encode()
	if err == nil {
		_, err = sink.Write(b)
	}
	if err != nil {
		return errors.Join(err, sink.Cancel())
	}
	return sink.Close()
}

// Release implements raft.FSMSnapshot.
func (snapshot) Release() {}
