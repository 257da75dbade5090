package agent

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"pgvrrp/internal/agent/core"
	"pgvrrp/internal/postgres"
	"pgvrrp/internal/promote"
)

// newPlace is a machine whose data directory is not there; fill makes one of a server that never ran.
func newPlace(t *testing.T) (m *Machine, fill func(dir string)) {
	t.Helper()
	dir := t.TempDir()
	data, bin := filepath.Join(dir, "data"), filepath.Join(dir, "bin")
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	check(os.Mkdir(bin, 0o755))
	for _, name := range []string{"postgres", "pg_ctl", "pg_rewind", "pg_basebackup", "pg_controldata"} {
		check(os.WriteFile(filepath.Join(bin, name), []byte("#!/bin/sh\nexit 1\n"), 0o755))
	}
	store, err := promote.OpenStore(dir, data)
	check(err)
	f := NewFamily(5432)
	f.set(keptFamily{Self: "n1", Nodes: map[string][]netip.Addr{"n1": {netip.MustParseAddr("127.0.0.1")}, "n2": {netip.MustParseAddr("127.0.0.2")}}})
	m = &Machine{
		Store: store, Log: slog.New(slog.DiscardHandler), Now: func() time.Duration { return time.Hour }, BinDir: func(int) string { return bin },
		Config: postgres.Config{DataDir: data, BinDir: bin, StateDir: dir},
	}
	m.SetFamily(f)
	return m, func(dir string) {
		t.Helper()
		check(os.MkdirAll(filepath.Join(dir, "global"), 0o700))
		check(os.WriteFile(filepath.Join(dir, "PG_VERSION"), []byte("15\n"), 0o600))
		check(os.WriteFile(filepath.Join(dir, "postgresql.conf"), nil, 0o600))
	}
}

// TestDataThatComeAndGo: whether there are data is seen at each look, not once.
func TestDataThatComeAndGo(t *testing.T) {
	m, fill := newPlace(t)
	data := m.Config.DataDir
	look := func(want bool) {
		t.Helper()
		if s, ok := m.Look(t.Context()); !ok || s.NoData == want {
			t.Errorf("got %+v, %t, want data: %t", s, ok, want)
		}
	}
	if err := m.Open(); err != nil {
		t.Fatal(err)
	}
	look(false)
	fill(data)
	look(true)
	// Emptied, but for what a start had written there.
	for _, err := range []error{os.RemoveAll(data), os.Mkdir(data, 0o700), os.WriteFile(filepath.Join(data, "pgnotify.conf"), nil, 0o600)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	look(false)
	if _, err := m.Do(t.Context(), core.Action{Kind: core.StartStandby}); err == nil || !strings.Contains(err.Error(), "there is no data directory") {
		t.Errorf("start: got %v", err)
	}
	fill(data)
	look(true)
	if err := os.RemoveAll(data); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Do(t.Context(), core.Action{Kind: core.StartStandby}); err == nil {
		t.Error("started what is not there")
	}
	if _, err := os.Stat(data); err == nil {
		t.Error("a start wrote to a data directory that is gone")
	}
	look(false)
}

// TestCopyInPlaceOfNothing: a copy takes the place of a directory that is gone or holds no data, and never that of data that came meanwhile.
func TestCopyInPlaceOfNothing(t *testing.T) {
	tests := []struct {
		name   string
		before func(data string, fill func(string)) error // it is looked at after that
		during func(data string, fill func(string)) error
		err    string
	}{
		{"only our own files are there", func(data string, _ func(string)) error {
			return errors.Join(os.Mkdir(data, 0o700), os.WriteFile(filepath.Join(data, "pgnotify.conf"), nil, 0o600))
		}, nil, ""},
		{"they came before", nil, nil, "has data by now"},
		{"they came while it was made", func(string, func(string)) error { return nil }, func(data string, fill func(string)) error { fill(data); return nil }, "has data by now"},
		{"something else came", func(data string, _ func(string)) error {
			return errors.Join(os.Mkdir(data, 0o700), os.WriteFile(filepath.Join(data, "README"), nil, 0o600))
		}, nil, "not a PostgreSQL data directory"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m, fill := newPlace(t)
			data, made := m.Config.DataDir, 0
			m.Copy = func(_ context.Context, o postgres.CloneOptions) error {
				made++
				fill(o.Dir)
				if tt.during != nil {
					return tt.during(data, fill)
				}
				return nil
			}
			if tt.before == nil {
				fill(data)
			} else if err := tt.before(data, fill); err != nil {
				t.Fatal(err)
			}
			r, err := m.Do(t.Context(), core.Action{Kind: core.Clone, Node: "n2", Fresh: true})
			if tt.err == "" {
				if err != nil {
					t.Fatal(err)
				}
				if s, ok := m.Look(t.Context()); !ok || s.NoData {
					t.Errorf("got %+v, %t, want the copy", s, ok)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), tt.err) || !r.Whole || tt.during == nil && made > 0 {
				t.Errorf("got %+v, %v after %d copies, want %q and what was there as it was", r, err, made, tt.err)
			}
			if all, err := filepath.Glob(data + ".*"); err != nil || len(all) > 0 {
				t.Errorf("left: %v, %v", all, err)
			}
		})
	}
}
