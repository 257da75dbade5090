package postgres

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Fork is one line of a timeline history file: the WAL up to SwitchLSN was written on Timeline, what follows on the next line's or the file's own.
type Fork struct {
	Timeline  Timeline
	SwitchLSN LSN
	Reason    string
}

// History is a timeline's ancestry, oldest first, without the timeline itself. Timeline 1 has an empty one; so has a number that was only reserved,
// by a file of comments.
type History []Fork

// ParseHistory reads a timeline history file ("25.3.6 Timelines" in the manual, readTimeLineHistory in the server): comments, and lines of a parent
// timeline, a tab, the switch point and a reason. Parents must ascend.
func ParseHistory(r io.Reader) (History, error) {
	var h History
	sc := bufio.NewScanner(r)
	for n := 1; sc.Scan(); n++ {
		line := strings.TrimSpace(sc.Text())
		if line == "" || line[0] == '#' {
			continue
		}
		num, rest := cutSpace(line)
		tli, err := strconv.ParseUint(num, 10, 32)
		if err != nil || tli == 0 {
			return nil, fmt.Errorf("parse history line %d: want a timeline number (got %q)", n, num)
		}
		at, reason := cutSpace(rest)
		lsn, err := ParseLSN(at)
		if err != nil {
			return nil, fmt.Errorf("parse history line %d: want a switch point: %w", n, err)
		}
		if len(h) > 0 && h[len(h)-1].Timeline >= Timeline(tli) {
			return nil, fmt.Errorf("parse history line %d: timeline %d does not ascend", n, tli)
		}
		h = append(h, Fork{Timeline(tli), lsn, reason})
	}
	if err := sc.Err(); err != nil {
		return nil, fmt.Errorf("parse history: %w", err)
	}
	return h, nil
}

// cutSpace splits at the first run of blanks.
func cutSpace(s string) (head, tail string) {
	i := strings.IndexAny(s, " \t")
	if i < 0 {
		return s, ""
	}
	return s[:i], strings.TrimLeft(s[i:], " \t")
}

// Switch finds where the WAL of tli ends in this history.
func (h History) Switch(tli Timeline) (LSN, bool) {
	for _, f := range h {
		if f.Timeline == tli {
			return f.SwitchLSN, true
		}
	}
	return 0, false
}

// check refuses a history that cannot belong to tli.
func (h History) check(tli Timeline) error {
	if len(h) > 0 && h[len(h)-1].Timeline >= tli {
		return fmt.Errorf("history of timeline %d names timeline %d as its parent", tli, h[len(h)-1].Timeline)
	}
	return nil
}

// Diverged reports whether a server whose WAL ends at mine holds WAL that is not in the history of theirTimeline, and so cannot follow it without
// pg_rewind or a new copy: its timeline is later, is no ancestor, or it went past the point where that ancestor was left. An unknown position is
// taken as diverged. On the same timeline positions can't tell, and the answer is false: the same number taken twice is not seen here.
func Diverged(mine Position, theirs History, theirTimeline Timeline) bool {
	switch {
	case mine.Timeline == 0 || mine.LSN == 0 || mine.Timeline > theirTimeline:
		return true
	case mine.Timeline == theirTimeline:
		return false
	}
	at, ok := theirs.Switch(mine.Timeline)
	return !ok || mine.LSN > at
}

func historyFile(tli Timeline) string { return fmt.Sprintf("%08X.history", tli) }

// History reads the history file of tli from pg_wal, without the server. Timeline 1 has none and an empty history; for a later one a missing file is
// fs.ErrNotExist.
func (s *Server) History(tli Timeline) (History, error) {
	if tli <= 1 {
		return nil, nil
	}
	path := filepath.Join(s.cfg.DataDir, "pg_wal", historyFile(tli))
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read history of timeline %d: %w", tli, err)
	}
	defer f.Close()
	h, err := ParseHistory(f)
	if err == nil {
		err = h.check(tli)
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return h, nil
}
