package store

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/hashicorp/raft"
	"go.etcd.io/bbolt"
)

const (
	keepSnapshots = 2
	maxSnapshot   = 16 << 20 // the state is a few kilobytes
)

// Snapshots are in the same file as the log: one transaction takes a snapshot in and the entries out that it stands for, so
// that no crash leaves a log which does not follow from it.

// Snapshots is the store as a raft.SnapshotStore.
func (s *Store) Snapshots() raft.SnapshotStore { return snapshots{s} }

type snapshots struct{ s *Store }

// A snapshot's key is index[8] term[8] number[8], and its value
//
//	version[1] configuration index[8] len[4] configuration len[4] state crc[4]
const snapKey = 24

func encodeSnapshot(m *raft.SnapshotMeta, state []byte) []byte {
	b := []byte{byte(m.Version)}
	b = binary.BigEndian.AppendUint64(b, m.ConfigurationIndex)
	b = appendBytes(b, raft.EncodeConfiguration(m.Configuration))
	b = appendBytes(b, state)
	return sum(b)
}

var errClosedSink = errors.New("the snapshot is closed already")

var errSnapshot = errors.New("snapshot is malformed")

func decodeSnapshot(key, b []byte) (m *raft.SnapshotMeta, state []byte, err error) {
	if b, err = unsum(b); err != nil {
		return nil, nil, err
	}
	if len(key) != snapKey || len(b) < 9 {
		return nil, nil, errSnapshot
	}
	m = &raft.SnapshotMeta{
		Version: raft.SnapshotVersion(b[0]), ID: snapshotID(key), Index: binary.BigEndian.Uint64(key), Term: binary.BigEndian.Uint64(key[8:]),
		ConfigurationIndex: binary.BigEndian.Uint64(b[1:]),
	}
	configuration, b, ok := takeBytes(b[9:])
	if !ok {
		return nil, nil, errSnapshot
	}
	if state, b, ok = takeBytes(b); !ok || len(b) != 0 {
		return nil, nil, errSnapshot
	}
	if m.Configuration, err = DecodeConfiguration(configuration); err != nil {
		return nil, nil, err
	}
	m.Size = int64(len(state))
	return m, state, nil
}

// DecodeConfiguration reads a membership of the log. Raft's own function panics at a malformed one.
func DecodeConfiguration(b []byte) (c raft.Configuration, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%v", r)
		}
	}()
	return raft.DecodeConfiguration(b), nil
}

func snapshotKey(index, term, n uint64) []byte {
	return append(append(key64(index), key64(term)...), key64(n)...)
}

func snapshotID(key []byte) string { return fmt.Sprintf("%x", key) }

// listSnapshots reads all, the newest first.
func listSnapshots(b *bbolt.Bucket) ([]*raft.SnapshotMeta, error) {
	var all []*raft.SnapshotMeta
	c := b.Cursor()
	for k, v := c.Last(); k != nil; k, v = c.Prev() {
		m, _, err := decodeSnapshot(k, v)
		if err != nil {
			return nil, fmt.Errorf("snapshot %x: %w", k, err)
		}
		all = append(all, m)
	}
	return all, nil
}

// List implements raft.SnapshotStore.
func (x snapshots) List() (all []*raft.SnapshotMeta, err error) {
	err = x.s.view("list snapshots", func(tx *bbolt.Tx) (err error) {
		all, err = listSnapshots(tx.Bucket(snapBucket))
		return err
	})
	return all, err
}

// Open implements raft.SnapshotStore.
func (x snapshots) Open(id string) (m *raft.SnapshotMeta, r io.ReadCloser, err error) {
	err = x.s.view("open snapshot "+id, func(tx *bbolt.Tx) error {
		c := tx.Bucket(snapBucket).Cursor()
		for k, v := c.First(); k != nil; k, v = c.Next() {
			if snapshotID(k) != id {
				continue
			}
			var state []byte
			var err error
			if m, state, err = decodeSnapshot(k, v); err != nil {
				return err
			}
			r = io.NopCloser(bytes.NewReader(state))
			return nil
		}
		return errors.New("there is none")
	})
	return m, r, err
}

// Create implements raft.SnapshotStore. Nothing is on disk before the sink is closed.
func (x snapshots) Create(version raft.SnapshotVersion, index, term uint64, c raft.Configuration, configurationIndex uint64, _ raft.Transport) (raft.SnapshotSink, error) {
	if version != 1 {
		return nil, fmt.Errorf("make snapshot: version %d is unknown", version)
	}
	return &sink{s: x.s, meta: raft.SnapshotMeta{Version: version, Index: index, Term: term, Configuration: c.Clone(), ConfigurationIndex: configurationIndex}}, nil
}

type sink struct {
	s      *Store
	meta   raft.SnapshotMeta
	id     string
	state  []byte
	closed bool
}

// ID is the snapshot's name, once it is closed.
func (k *sink) ID() string { return k.id }

func (k *sink) Write(b []byte) (int, error) {
	if k.closed {
		return 0, errClosedSink
	}
	if len(k.state)+len(b) > maxSnapshot {
		return 0, fmt.Errorf("write snapshot: it is longer than %d bytes", maxSnapshot)
	}
	k.state = append(k.state, b...)
	return len(b), nil
}

// Cancel implements raft.SnapshotSink.
func (k *sink) Cancel() error {
	k.closed = true
	return nil
}

// Close implements raft.SnapshotSink: the snapshot is on disk, and the log follows from it.
func (k *sink) Close() error {
	if k.closed {
		return nil
	}
	k.closed = true
	m := &k.meta
	return k.s.update(fmt.Sprintf("write snapshot of entry %d", m.Index), func(tx *bbolt.Tx) error {
		b := tx.Bucket(snapBucket)
		n, err := b.NextSequence()
		if err != nil {
			return err
		}
		key := snapshotKey(m.Index, m.Term, n)
		if err := b.Put(key, encodeSnapshot(m, k.state)); err != nil {
			return err
		}
		k.id = snapshotID(key)
		if err := pruneSnapshots(b); err != nil {
			return err
		}
		return cutLog(tx.Bucket(logBucket), m.Index, m.Term)
	})
}

// pruneSnapshots deletes all but the newest ones.
func pruneSnapshots(b *bbolt.Bucket) error {
	var old [][]byte
	c := b.Cursor()
	n := 0
	for k, _ := c.Last(); k != nil; k, _ = c.Prev() {
		if n++; n > keepSnapshots {
			old = append(old, bytes.Clone(k))
		}
	}
	for _, k := range old {
		if err := b.Delete(k); err != nil {
			return err
		}
	}
	return nil
}

// cutLog deletes a log that doesn't lead to the snapshot's entry: it ends before it, or has another one there. That is so of
// a snapshot which the leader sent, never of our own.
func cutLog(b *bbolt.Bucket, index, term uint64) error {
	first, last := firstIndex(b), lastIndex(b)
	if first == 0 {
		return nil
	}
	if last >= index {
		v := b.Get(key64(index))
		if v == nil {
			return nil // cut before, by an earlier snapshot
		}
		var l raft.Log
		if err := decodeLog(v, &l); err != nil {
			return err
		}
		if l.Term == term {
			return nil
		}
	}
	return deleteRange(b, first, last)
}
