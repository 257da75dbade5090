package postgres

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"pgvrrp/internal/files"
)

// setAside takes out of pg_wal what a stopped server has of timelines that it never reached: the history file and the segments of one that has no record
// here of its own, or whose server was killed before the history was written. They come from a primary that went while it sent the copy of the old
// timeline's WAL that its first segment begins with, or from a promotion that was broken off. PostgreSQL would take the newest history for the one to
// go by, and reads the newest timeline's segment first, so that half a segment hides a whole one, and it would never be consistent; a promotion would
// name the timeline as its parent. Segments are renamed to .partial, as PostgreSQL does with those of a timeline that ended, and go with a later
// checkpoint; a history gets the same ending. All is durable then.
func (s *Server) setAside(ctx context.Context) error {
	moved, err := s.unreached(ctx)
	if err != nil {
		return fmt.Errorf("set aside timelines that were never reached: %w", err)
	}
	if len(moved) > 0 {
		s.log.Warn("set aside WAL of timelines that the server has never reached", "files", moved, "ending", partial)
	}
	return nil
}

// partial is the ending that PostgreSQL gives to a segment that is not whole.
const partial = ".partial"

func (s *Server) unreached(ctx context.Context) (moved []string, err error) {
	if _, err := os.Lstat(filepath.Join(s.cfg.DataDir, "backup_label")); !errors.Is(err, fs.ErrNotExist) {
		return nil, err // what was copied or rewound gets its WAL from the source
	}
	c, err := s.Control()
	if err != nil {
		return nil, err
	}
	base := max(c.Timeline, c.MinRecoveryTimeline)
	named, _, err := s.histories()
	if err != nil {
		return nil, err
	}
	newest, err := s.newestReached(ctx, base, named, c)
	if err != nil {
		return nil, err
	}
	wal := filepath.Join(s.cfg.DataDir, "pg_wal")
	entries, err := os.ReadDir(wal)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		tli, err := segmentTimeline(e.Name())
		if k := slices.IndexFunc(named, func(t Timeline) bool { return historyFile(t) == e.Name() }); k >= 0 {
			tli, err = named[k], nil
		}
		if err != nil || tli <= newest {
			continue
		}
		if err := os.Rename(filepath.Join(wal, e.Name()), filepath.Join(wal, e.Name()+partial)); err != nil {
			return moved, err
		}
		moved = append(moved, e.Name())
	}
	return moved, files.SyncDir(wal)
}

// newestReached is the newest of these timelines that goes on from base and has a record here, base itself if there is none.
func (s *Server) newestReached(ctx context.Context, base Timeline, named []Timeline, c ControlData) (Timeline, error) {
	var needs LSN // a descendant has it
	if c.MinRecoveryTimeline == base {
		needs = c.MinRecoveryLSN
	}
	if c.Timeline == base {
		needs = max(needs, c.RedoLSN)
	}
	for _, tli := range slices.Backward(named) {
		if tli <= base {
			break
		}
		h, err := s.History(tli)
		if err != nil {
			return 0, err
		}
		if at, ok := h.Switch(base); !ok || at < needs {
			continue
		}
		switch line, err := s.dump(ctx, tli, h[len(h)-1].SwitchLSN, c, "--limit", "1"); {
		case err != nil:
			return 0, err
		case line != "":
			return tli, nil
		}
	}
	return base, nil
}
