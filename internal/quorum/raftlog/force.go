package raftlog

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/hashicorp/raft"

	"pgvrrp/internal/quorum/record"
)

// Force makes this voter the only member, in a cluster with another id, and returns once it leads. It is for a quorum that
// is lost: every entry of this voter's log counts as committed, and what it lacks is lost. The other voters can't talk
// to it any more until their state directories are reset; then they are added as new ones. It may be repeated.
func (l *Log) Force(ctx context.Context) error {
	fail := func(err error) error { return fmt.Errorf("force the membership to be %s alone: %w", l.o.Self.ID, err) }
	if l.raft.Load() == nil {
		return fail(errors.New("it is not part of a quorum"))
	}
	if m, _, ok := l.members.settled(); !ok || len(m.c.Servers) != 1 || !votes(m.c, l.self) {
		done := make(chan error, 1)
		select {
		case l.forces <- done:
		case <-ctx.Done():
			return fail(ctx.Err())
		}
		select {
		case err := <-done:
			if err != nil {
				return fail(err)
			}
		case <-ctx.Done():
			return fail(ctx.Err())
		}
	}
	tick := time.NewTicker(l.o.Timeout / 10)
	defer tick.Stop()
	for !l.leading.Load() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fail(ctx.Err())
		}
	}
	return nil
}

// replace does it on disk, with one write, while raft does not run.
func (l *Log) replace() error {
	state, m, err := readAll(l.o.Store)
	if err != nil {
		return err
	}
	b, err := state.Encode()
	if err != nil {
		return err
	}
	m.Configuration = raft.Configuration{Servers: []raft.Server{{Suffrage: raft.Voter, ID: l.self, Address: raft.ServerAddress(l.self)}}}
	m.ConfigurationIndex = m.Index
	var id [16]byte
	if _, err := rand.Read(id[:]); err != nil {
		return fmt.Errorf("choose a cluster id: %w", err)
	}
	return l.o.Store.Replace(hex.EncodeToString(id[:]), m, b)
}

// readAll is the state with every entry of the log carried out, and where that stands.
func readAll(s Store) (*record.State, raft.SnapshotMeta, error) {
	m := raft.SnapshotMeta{Version: 1}
	state := &record.State{}
	all, err := s.Snapshots().List()
	if err != nil {
		return nil, m, err
	}
	if len(all) > 0 {
		_, r, err := s.Snapshots().Open(all[0].ID)
		if err != nil {
			return nil, m, err
		}
		b, err := io.ReadAll(io.LimitReader(r, maxState))
		if err = errors.Join(err, r.Close()); err != nil {
			return nil, m, err
		}
		if state, err = record.Decode(b); err != nil {
			return nil, m, err
		}
		m.Index, m.Term = all[0].Index, all[0].Term
	}
	last, err := s.LastIndex()
	if err != nil {
		return nil, m, err
	}
	for k := m.Index + 1; k <= last; k++ {
		var e raft.Log
		if err := s.GetLog(k, &e); err != nil {
			return nil, m, fmt.Errorf("read log entry %d: %w", k, err)
		}
		m.Index, m.Term = e.Index, e.Term
		if e.Type != raft.LogCommand {
			continue
		}
		if c, err := record.DecodeCommand(e.Data); err == nil {
			_ = state.Apply(e.Index, c) // a conflict changes nothing, as ever
		}
	}
	if m.Index == 0 {
		return nil, m, errors.New("there is no log")
	}
	return state, m, nil
}
