package postgres

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"pgvrrp/internal/child"
)

// LastWAL finds the end of the WAL that a stopped server has in pg_wal, by pg_waldump from the last checkpoint on: all of it will be replayed at the
// next start. It is what Diverged needs of a server that crashed, and of a standby that had received more than it replayed.
func (s *Server) LastWAL(ctx context.Context) (Position, error) {
	if _, running, err := s.Process(); err != nil || running {
		return Position{}, errors.Join(err, fmt.Errorf("find the end of WAL: %w", ErrRunning))
	}
	c, err := s.Control()
	if err != nil {
		return Position{}, fmt.Errorf("find the end of WAL: %w", err)
	}
	tlis, err := s.walTimelines()
	if err != nil {
		return Position{}, fmt.Errorf("find the end of WAL: %w", err)
	}
	// The latest timeline that descends from the checkpoint's and has a record counts.
	for _, tli := range slices.Backward(tlis) {
		from := c.RedoLSN
		switch {
		case tli < c.Timeline:
			continue
		case tli > c.Timeline:
			h, err := s.History(tli)
			if err != nil {
				return Position{}, fmt.Errorf("find the end of WAL: %w", err)
			}
			if at, ok := h.Switch(c.Timeline); !ok || at < c.RedoLSN {
				continue
			}
			from = h[len(h)-1].SwitchLSN
		}
		end, err := s.dumpEnd(ctx, tli, from, c)
		if err != nil {
			return Position{}, fmt.Errorf("find the end of WAL: %w", err)
		}
		if end > 0 {
			return Position{tli, end}, nil
		}
	}
	return Position{}, fmt.Errorf("find the end of WAL: no record from the last checkpoint (%s on timeline %d) on", c.RedoLSN, c.Timeline)
}

// walTimelines lists the timelines that pg_wal has segments of, ascending.
func (s *Server) walTimelines() ([]Timeline, error) {
	entries, err := os.ReadDir(filepath.Join(s.cfg.DataDir, "pg_wal"))
	if err != nil {
		return nil, err
	}
	var all []Timeline
	for _, e := range entries {
		if tli, err := segmentTimeline(e.Name()); err == nil && !slices.Contains(all, tli) {
			all = append(all, tli)
		}
	}
	slices.Sort(all)
	return all, nil
}

// waldumpRecord is what a line of pg_waldump must say to us.
var waldumpRecord = regexp.MustCompile(`^rmgr: (\S+) +len \(rec/tot\): +\d+/ *(\d+), tx: +\d+, lsn: ([0-9A-F]+/[0-9A-F]+), prev [0-9A-F]+/[0-9A-F]+, desc: (\S+)`)

// dumpEnd runs over the WAL of one timeline and returns the end of its last record, 0 if it has none.
func (s *Server) dumpEnd(ctx context.Context, tli Timeline, from LSN, c ControlData) (LSN, error) {
	line, err := s.dump(ctx, tli, from, c)
	if line == "" || err != nil {
		return 0, err
	}
	m := waldumpRecord.FindStringSubmatch(line)
	if m == nil {
		return 0, fmt.Errorf("pg_waldump: unknown output %.200q", line)
	}
	length, err := strconv.ParseUint(m[2], 10, 32)
	if err != nil {
		return 0, fmt.Errorf("pg_waldump: %w", err)
	}
	at, err := ParseLSN(m[3])
	if err != nil {
		return 0, fmt.Errorf("pg_waldump: %w", err)
	}
	end := recordEnd(at, uint32(length), c.WALBlockSize, c.WALSegmentSize)
	if m[1] == "XLOG" && m[4] == "SWITCH" { // the rest of the segment belongs to it
		size := LSN(c.WALSegmentSize)
		end = (end + size - 1) / size * size
	}
	return end, nil
}

// noRecord is what pg_waldump says of WAL that has no record at or behind a place, and of a segment that was made and never written to.
var noRecord = regexp.MustCompile(`could not find a valid record after|WAL segment size must be|invalid WAL segment size`)

// dump has pg_waldump write the records of a timeline from a place on, and returns the last whole line, "" if there is no record. Which segments to
// read is said by name: told a directory alone, it takes the segment size from any file there, also from one that is all zeros yet.
func (s *Server) dump(ctx context.Context, tli Timeline, from LSN, c ControlData, args ...string) (string, error) {
	dir := filepath.Join(s.cfg.DataDir, "pg_wal")
	first, end := "", ""
	for at := from; ; at += LSN(c.WALSegmentSize) {
		name, err := segmentFile(tli, at, c.WALSegmentSize)
		if err != nil {
			return "", err
		}
		if _, err := os.Stat(filepath.Join(dir, name)); errors.Is(err, fs.ErrNotExist) {
			break
		} else if err != nil {
			return "", err
		}
		first, end = cmp.Or(first, name), name
	}
	if first == "" {
		s.log.Debug("no WAL record", "timeline", tli, "from", from.String(), "reason", "its segment is not there")
		return "", nil
	}
	last := &lastLineWriter{}
	var errs tailWriter
	cmd := s.program("pg_waldump", append(args, "--path", dir, "--start", from.String(), first, end)...)
	cmd.Stdout, cmd.Stderr = last, &errs
	// It ends with an error where the WAL ends; a record that it printed is whole and has a right CRC.
	_, err := child.Run(ctx, cmd)
	var exit *child.ExitError
	if err != nil && (!errors.As(err, &exit) || ctx.Err() != nil || exit.Result.Signal != 0) {
		return "", err
	}
	if last.line == "" {
		why := strings.TrimSpace(errs.String())
		if !noRecord.MatchString(why) {
			return "", fmt.Errorf("pg_waldump from %s of timeline %d on: %s", from, tli, why)
		}
		s.log.Debug("no WAL record", "timeline", tli, "from", from.String(), "reason", why)
	}
	return last.line, nil
}

// segmentFile is the name of the segment that holds lsn.
func segmentFile(tli Timeline, lsn LSN, size uint32) (string, error) {
	if size == 0 || 1<<32%uint64(size) != 0 {
		return "", fmt.Errorf("a WAL segment size of %d bytes, want a power of two", size)
	}
	no, perID := uint64(lsn)/uint64(size), 1<<32/uint64(size)
	return fmt.Sprintf("%08X%08X%08X", tli, no/perID, no%perID), nil
}

// lastLineWriter keeps the last whole line.
type lastLineWriter struct {
	rest []byte
	line string
}

func (w *lastLineWriter) Write(p []byte) (int, error) {
	w.rest = append(w.rest, p...)
	if i := bytes.LastIndexByte(w.rest, '\n'); i >= 0 {
		j := bytes.LastIndexByte(w.rest[:i], '\n')
		w.line = string(w.rest[j+1 : i])
		w.rest = append(w.rest[:0], w.rest[i+1:]...)
	}
	return len(p), nil
}

// tailWriter keeps the end of what is written, 4 KiB or less.
type tailWriter struct{ b []byte }

func (w *tailWriter) Write(p []byte) (int, error) {
	w.b = append(w.b, p...)
	if n := len(w.b) - 4096; n > 0 {
		w.b = append(w.b[:0], w.b[n:]...)
	}
	return len(p), nil
}

func (w *tailWriter) String() string { return string(w.b) }

// progressWriter splits the output of pg_rewind and pg_basebackup at line ends and carriage returns, reports what is progress and keeps the rest.
type progressWriter struct {
	rest   []byte
	text   tailWriter
	report func(progressLine)
	line   func(string)
}

// progressLine is one report of progress.
type progressLine struct {
	done, total int64 // bytes
	spaces      int   // tablespaces in total, 0 = not said
}

var progressText = regexp.MustCompile(`^\s*(\d+)/(\d+) kB \(\d+%\)(?: copied)?(?:, \d+/(\d+) tablespaces?)?`)

func parseProgress(line string) (progressLine, bool) {
	m := progressText.FindStringSubmatch(line)
	if m == nil {
		return progressLine{}, false
	}
	done, errd := strconv.ParseInt(m[1], 10, 53)
	total, errt := strconv.ParseInt(m[2], 10, 53)
	if errd != nil || errt != nil {
		return progressLine{}, false
	}
	spaces, _ := strconv.Atoi(m[3]) // "" = not said
	return progressLine{done * 1024, total * 1024, spaces}, true
}

func (w *progressWriter) Write(p []byte) (int, error) {
	w.rest = append(w.rest, p...)
	for {
		n, token, err := bufio.ScanLines(bytes.ReplaceAll(w.rest, []byte("\r"), []byte("\n")), false)
		if err != nil || n == 0 {
			return len(p), err
		}
		w.take(string(token))
		w.rest = w.rest[n:]
	}
}

// flush takes what came without a line end.
func (w *progressWriter) flush() {
	w.take(string(w.rest))
	w.rest = nil
}

func (w *progressWriter) take(line string) {
	if strings.TrimSpace(line) == "" {
		return
	}
	if p, ok := parseProgress(line); ok {
		if w.report != nil {
			w.report(p)
		}
		return
	}
	if w.line != nil {
		w.line(line)
	}
	_, _ = w.text.Write([]byte(line + "\n"))
}

// message is why the program failed, on one line: what it calls an error, else all it said.
func (w *progressWriter) message() string {
	lines := strings.Split(strings.TrimSpace(w.text.String()), "\n")
	var errs []string
	for _, l := range lines {
		if strings.Contains(l, "error: ") || strings.Contains(l, "fatal: ") {
			errs = append(errs, strings.TrimSpace(l))
		}
	}
	if len(errs) == 0 {
		errs = lines
	}
	return strings.Join(errs, "; ")
}
