package raftlog

import (
	"errors"
	"runtime"

	"github.com/hashicorp/raft"
)

// storage is the store as raft gets it. It tells the tracker of each membership once that is on disk and before raft
// answers for it.
//
// Raft goes on after some errors of its store with a state in memory that is not what is on disk, and panics at others.
// Here any error but a missing entry ends the goroutine that gets it, and the Log with it: raft's deferred calls answer
// whoever waits with a failure, a leader stops leading, and the process lives.
type storage struct {
	Store
	members *tracker
	fail    func(error)
}

func (s *storage) check(err error) error {
	if err == nil || errors.Is(err, raft.ErrLogNotFound) {
		return err
	}
	s.fail(err)
	runtime.Goexit()
	return err
}

// IsMonotonic implements raft.MonotonicLogStore.
func (s *storage) IsMonotonic() bool {
	m, ok := s.Store.(raft.MonotonicLogStore)
	return ok && m.IsMonotonic()
}

func (s *storage) FirstIndex() (uint64, error) {
	n, err := s.Store.FirstIndex()
	return n, s.check(err)
}

func (s *storage) LastIndex() (uint64, error) {
	n, err := s.Store.LastIndex()
	return n, s.check(err)
}

func (s *storage) GetLog(index uint64, l *raft.Log) error { return s.check(s.Store.GetLog(index, l)) }

func (s *storage) StoreLog(l *raft.Log) error { return s.StoreLogs([]*raft.Log{l}) }

func (s *storage) StoreLogs(logs []*raft.Log) error {
	all, err := configurations(logs)
	if err == nil {
		err = s.held(func() error {
			if err := s.Store.StoreLogs(logs); err != nil {
				return err
			}
			if len(all) > 0 {
				s.members.appended(all)
			}
			return nil
		})
	}
	return s.check(err)
}

func (s *storage) DeleteRange(low, high uint64) error {
	return s.check(s.held(func() error {
		if err := s.Store.DeleteRange(low, high); err != nil {
			return err
		}
		last, err := s.Store.LastIndex()
		if err != nil {
			return err
		}
		s.members.truncated(low, last)
		return nil
	}))
}

func (s *storage) held(fn func() error) error {
	s.members.mu.Lock()
	defer s.members.mu.Unlock()
	return fn()
}

func (s *storage) Set(key, value []byte) error { return s.check(s.Store.Set(key, value)) }

func (s *storage) Get(key []byte) ([]byte, error) {
	v, err := s.Store.Get(key)
	return v, s.check(err)
}

func (s *storage) SetUint64(key []byte, n uint64) error { return s.check(s.Store.SetUint64(key, n)) }

func (s *storage) GetUint64(key []byte) (uint64, error) {
	n, err := s.Store.GetUint64(key)
	return n, s.check(err)
}

func (s *storage) snapshots() raft.SnapshotStore {
	return &snapshots{SnapshotStore: s.Store.Snapshots(), s: s}
}

type snapshots struct {
	raft.SnapshotStore
	s *storage
}

func (x *snapshots) Create(version raft.SnapshotVersion, index, term uint64, c raft.Configuration, configurationIndex uint64, trans raft.Transport) (raft.SnapshotSink, error) {
	sink, err := x.SnapshotStore.Create(version, index, term, c, configurationIndex, trans)
	if err != nil {
		return nil, err
	}
	return &snapshotSink{SnapshotSink: sink, s: x.s, index: configurationIndex, c: c.Clone()}, nil
}

type snapshotSink struct {
	raft.SnapshotSink
	s     *storage
	index uint64
	c     raft.Configuration
}

func (k *snapshotSink) Close() error {
	return k.s.check(k.s.held(func() error {
		if err := k.SnapshotSink.Close(); err != nil {
			return err
		}
		last, err := k.s.Store.LastIndex()
		if err != nil {
			return err
		}
		k.s.members.installed(k.index, k.c, last)
		return nil
	}))
}
