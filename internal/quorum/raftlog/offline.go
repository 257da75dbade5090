package raftlog

import (
	"errors"
	"fmt"
	"io"
	"log/slog"

	"github.com/hashicorp/raft"

	"pgvrrp/internal/quorum/record"
	"pgvrrp/internal/quorum/store"
)

// Offline reads the log of a voter that does not run, with every entry that it has: the last of them may never have been
// committed. It returns the state and the ids of the newest membership.
func Offline(s Store) (*record.State, []string, error) {
	m := newMachine(func(*record.Resource) {}, slog.New(slog.DiscardHandler))
	from, members, err := restoreNewest(s, m)
	if err != nil {
		return nil, nil, fmt.Errorf("read the log: %w", err)
	}
	last, err := s.LastIndex()
	if err != nil {
		return nil, nil, fmt.Errorf("read the log: %w", err)
	}
	for index := from + 1; index <= last; index++ {
		var e raft.Log
		if err := s.GetLog(index, &e); err != nil {
			return nil, nil, fmt.Errorf("read entry %d of the log: %w", index, err)
		}
		switch e.Type {
		case raft.LogCommand:
			m.Apply(&e) // a conflict is an entry without effect
		case raft.LogConfiguration:
			if members, err = store.DecodeConfiguration(e.Data); err != nil {
				return nil, nil, fmt.Errorf("read entry %d of the log: %w", index, err)
			}
		}
	}
	var ids []string
	for _, v := range members.Servers {
		if v.Suffrage == raft.Voter {
			id, _ := splitID(v.ID)
			ids = append(ids, id)
		}
	}
	return m.state.Load(), ids, nil
}

// restoreNewest reads the newest snapshot, if there is one.
func restoreNewest(s Store, m *machine) (from uint64, c raft.Configuration, err error) {
	all, err := s.Snapshots().List()
	if err != nil || len(all) == 0 {
		return 0, c, err
	}
	meta, r, err := s.Snapshots().Open(all[0].ID)
	if err != nil {
		return 0, c, err
	}
	return meta.Index, meta.Configuration, errors.Join(m.Restore(r), r.Close())
}

// Found makes the log of an empty store: this voter as the only member, and a state to begin with.
func Found(s Store, id string, state *record.State) (cluster string, err error) {
	server := raft.ServerID(id + "@" + s.Identity().Incarnation)
	c := raft.Configuration{Servers: []raft.Server{{Suffrage: raft.Voter, ID: server, Address: raft.ServerAddress(server)}}}
	cluster = forcedPrefix + clusterID(c)
	if err := s.Bootstrap(cluster, c); err != nil {
		return "", err
	}
	sink, err := s.Snapshots().Create(raft.SnapshotVersionMax, 1, 1, c, 1, nil)
	if err != nil {
		return "", fmt.Errorf("found the log: %w", err)
	}
	b, err := state.Encode()
	if err == nil {
		_, err = io.Writer(sink).Write(b)
	}
	if err != nil {
		return "", fmt.Errorf("found the log: %w", errors.Join(err, sink.Cancel()))
	}
	if err := sink.Close(); err != nil {
		return "", fmt.Errorf("found the log: %w", err)
	}
	// The state is in the snapshot alone: who joins must not be sent the first entry in its place.
	if err := s.DeleteRange(1, 1); err != nil {
		return "", fmt.Errorf("found the log: %w", err)
	}
	return cluster, nil
}
