package store

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"github.com/hashicorp/raft"
	"go.etcd.io/bbolt"
)

var (
	_ raft.LogStore          = (*Store)(nil)
	_ raft.MonotonicLogStore = (*Store)(nil)
	_ raft.StableStore       = (*Store)(nil)
)

// checkLog reads every entry: they follow one another, and the snapshot of entry newest, without a gap.
func checkLog(b *bbolt.Bucket, newest uint64) error {
	if first := firstIndex(b); first > newest+1 {
		return fmt.Errorf("the log begins with entry %d, and no snapshot stands for what was before", first)
	}
	var last uint64
	return b.ForEach(func(k, v []byte) error {
		var l raft.Log
		if err := decodeLog(v, &l); err != nil {
			return fmt.Errorf("log entry %x: %w", k, err)
		}
		if len(k) != 8 || binary.BigEndian.Uint64(k) != l.Index || last != 0 && l.Index != last+1 {
			return fmt.Errorf("log entry %d follows %d", l.Index, last)
		}
		last = l.Index
		return nil
	})
}

func firstIndex(b *bbolt.Bucket) uint64 {
	if k, _ := b.Cursor().First(); len(k) == 8 {
		return binary.BigEndian.Uint64(k)
	}
	return 0
}

func lastIndex(b *bbolt.Bucket) uint64 {
	if k, _ := b.Cursor().Last(); len(k) == 8 {
		return binary.BigEndian.Uint64(k)
	}
	return 0
}

// IsMonotonic implements raft.MonotonicLogStore: entries follow one another without a gap.
func (s *Store) IsMonotonic() bool { return true }

// FirstIndex implements raft.LogStore.
func (s *Store) FirstIndex() (n uint64, err error) {
	err = s.view("find the first log entry", func(tx *bbolt.Tx) error {
		n = firstIndex(tx.Bucket(logBucket))
		return nil
	})
	return n, err
}

// LastIndex implements raft.LogStore.
func (s *Store) LastIndex() (n uint64, err error) {
	err = s.view("find the last log entry", func(tx *bbolt.Tx) error {
		n = lastIndex(tx.Bucket(logBucket))
		return nil
	})
	return n, err
}

// GetLog implements raft.LogStore. The error is raft.ErrLogNotFound itself if there is no such entry.
func (s *Store) GetLog(index uint64, l *raft.Log) error {
	return s.view(fmt.Sprintf("read log entry %d", index), func(tx *bbolt.Tx) error {
		v := tx.Bucket(logBucket).Get(key64(index))
		if v == nil {
			return raft.ErrLogNotFound
		}
		var e raft.Log
		if err := decodeLog(v, &e); err != nil {
			return err
		}
		if e.Index != index {
			return errEntry
		}
		*l = e
		return nil
	})
}

// StoreLog implements raft.LogStore.
func (s *Store) StoreLog(l *raft.Log) error { return s.StoreLogs([]*raft.Log{l}) }

// StoreLogs implements raft.LogStore: all of them, with one write, or none. The first must follow the last entry that is
// there; into an empty log any may go.
func (s *Store) StoreLogs(logs []*raft.Log) error {
	if len(logs) == 0 {
		return nil
	}
	return s.update(fmt.Sprintf("append log entries %d to %d", logs[0].Index, logs[len(logs)-1].Index), func(tx *bbolt.Tx) error {
		b := tx.Bucket(logBucket)
		b.FillPercent = 0.9 // they only come at the end
		last := lastIndex(b)
		for _, l := range logs {
			if l.Index == 0 || last != 0 && l.Index != last+1 {
				return fmt.Errorf("entry %d does not follow %d", l.Index, last)
			}
			last = l.Index
			if err := b.Put(key64(l.Index), encodeLog(l)); err != nil {
				return err
			}
		}
		return nil
	})
}

// DeleteRange implements raft.LogStore: the entries from low to high, which must be at the log's front or at its end.
func (s *Store) DeleteRange(low, high uint64) error {
	return s.update(fmt.Sprintf("delete log entries %d to %d", low, high), func(tx *bbolt.Tx) error {
		b := tx.Bucket(logBucket)
		first, last := firstIndex(b), lastIndex(b)
		if first == 0 || low > high || high < first || low > last {
			return nil
		}
		if low > first && high < last {
			return fmt.Errorf("that leaves a gap: the log is %d to %d", first, last)
		}
		return deleteRange(b, max(low, first), min(high, last))
	})
}

func deleteRange(b *bbolt.Bucket, low, high uint64) error {
	for k := low; k <= high; k++ {
		if err := b.Delete(key64(k)); err != nil {
			return err
		}
	}
	return nil
}

// Set implements raft.StableStore. To set what is there already is no word, and not written: Raft does so with its term at each start, and a
// copy of the directory must not grow up by being started.
func (s *Store) Set(key, value []byte) error {
	if s.Trouble() == nil { // after a failed write nothing on disk is relied on
		was, err := s.Get(key)
		if err == nil && was != nil && bytes.Equal(was, value) {
			return nil
		}
	}
	return s.update(fmt.Sprintf("set %s", key), func(tx *bbolt.Tx) error { return put(tx.Bucket(stableBucket), key, value) })
}

// Get implements raft.StableStore: nil if there is no such key.
func (s *Store) Get(key []byte) (v []byte, err error) {
	err = s.view(fmt.Sprintf("read %s", key), func(tx *bbolt.Tx) (err error) {
		v, err = get(tx.Bucket(stableBucket), key)
		return err
	})
	return v, err
}

// SetUint64 implements raft.StableStore.
func (s *Store) SetUint64(key []byte, n uint64) error { return s.Set(key, key64(n)) }

// GetUint64 implements raft.StableStore: 0 if there is no such key.
func (s *Store) GetUint64(key []byte) (n uint64, err error) {
	err = s.view(fmt.Sprintf("read %s", key), func(tx *bbolt.Tx) (err error) {
		n, err = getUint(tx.Bucket(stableBucket), key)
		return err
	})
	return n, err
}
