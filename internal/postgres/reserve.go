package postgres

import (
	"bytes"
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
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"golang.org/x/sys/unix"

	"pgvrrp/internal/files"
)

// reservedMark is in every history file that only reserves its number. A standby that fetches the file gets the mark with it.
const reservedMark = "# pgnotify: reserved timeline"

// maxReserve bounds how many files one call writes, maxTimeline the number wanted: elections that come to nothing take one of them every ten seconds.
const (
	maxReserve  = 100000
	maxTimeline = 1 << 20
)

// fewFiles is up to how many files are made durable one by one. Above that all that the file system has to write is waited for, once: it may be
// more than the files, and is less than a wait for each of thousands.
const fewFiles = 16

// ErrWrongTimeline means that a promotion would take or has taken another timeline than the one that was granted.
var ErrWrongTimeline = errors.New("wrong timeline")

// historyKind is what a history file is to us.
type historyKind int

const (
	historyNone     historyKind = iota // there is no such file
	historyReal                        // it names a parent
	historyReserved                    // ours: comments alone, with our mark
	historyForeign                     // comments alone, and not by us
)

func (s *Server) historyPath(tli Timeline) string {
	return filepath.Join(s.cfg.DataDir, "pg_wal", historyFile(tli))
}

func (s *Server) historyKind(tli Timeline) (historyKind, error) {
	b, err := os.ReadFile(s.historyPath(tli))
	if errors.Is(err, fs.ErrNotExist) {
		return historyNone, nil
	}
	if err != nil {
		return historyNone, err
	}
	h, err := ParseHistory(bytes.NewReader(b))
	if err != nil {
		return historyNone, fmt.Errorf("read %s: %w", s.historyPath(tli), err)
	}
	switch {
	case len(h) > 0:
		return historyReal, nil
	case bytes.Contains(b, []byte(reservedMark)):
		return historyReserved, nil
	}
	return historyForeign, nil
}

// histories lists the timelines that pg_wal has a history file of, ascending: those that name a parent, and those that only reserve a number.
func (s *Server) histories() (named, reserved []Timeline, err error) {
	entries, err := os.ReadDir(filepath.Join(s.cfg.DataDir, "pg_wal"))
	if err != nil {
		return nil, nil, err
	}
	for _, e := range entries { // by name: all have eight digits
		m := historyName.FindStringSubmatch(e.Name())
		if m == nil {
			continue
		}
		n, err := strconv.ParseUint(m[1], 16, 32)
		if err != nil {
			return nil, nil, err
		}
		switch kind, err := s.historyKind(Timeline(n)); {
		case err != nil:
			return nil, nil, err
		case kind == historyReal:
			named = append(named, Timeline(n))
		case kind == historyReserved:
			reserved = append(reserved, Timeline(n))
		}
	}
	return named, reserved, nil
}

// Reserve makes sure that a promotion takes timeline want: for every other number of the ledger, and every one below want, that pg_wal has no history
// file for, it writes one of comments alone, since PostgreSQL takes the next number that has no file. A file of ours for want itself goes; a real one is
// ErrWrongTimeline. A want of 0 reserves the ledger alone, as a primary needs it for those that follow it through those timelines. It returns what it
// made; all is durable then. A standby that has reserved numbers above its timeline must not be restarted before Unreserve.
func (s *Server) Reserve(ledger []Timeline, want Timeline) (made []Timeline, err error) {
	made, err = s.reserve(ledger, want)
	if err != nil {
		return made, fmt.Errorf("reserve timelines: %w", err)
	}
	return made, nil
}

func (s *Server) reserve(ledger []Timeline, want Timeline) (made []Timeline, err error) {
	if len(ledger) > maxTimeline || want > maxTimeline {
		return nil, fmt.Errorf("%d timelines and a wanted number of %d, want at most %d; see the runbook, timeline numbers lost", len(ledger), want, maxTimeline)
	}
	all := slices.Clone(ledger)
	for n := Timeline(2); n < want; n++ {
		all = append(all, n)
	}
	slices.Sort(all)
	dir := filepath.Join(s.cfg.DataDir, "pg_wal")
	if want > 1 {
		switch kind, err := s.historyKind(want); {
		case err != nil:
			return nil, err
		case kind == historyReserved:
			if err := os.Remove(s.historyPath(want)); err != nil {
				return nil, err
			}
		case kind != historyNone:
			return nil, fmt.Errorf("%w: %s is there already", ErrWrongTimeline, historyFile(want))
		}
	}
	var missing []Timeline
	for _, n := range slices.Compact(all) {
		if n < 2 || n == want {
			continue
		}
		switch kind, err := s.historyKind(n); {
		case err != nil:
			return nil, err
		case kind == historyNone:
			missing = append(missing, n)
		}
	}
	if len(missing) > maxReserve {
		return nil, fmt.Errorf("%d numbers below %d were granted and have no history file here, want at most %d: too many elections came to nothing; "+
			"end what made them fail, then see the runbook, timeline numbers lost", len(missing), want, maxReserve)
	}
	if made, err = s.createReserved(missing); err != nil {
		return made, err
	}
	// Also when all was there: a file of a call that broke off may not be durable.
	if err := files.SyncDir(dir); err != nil {
		return made, err
	}
	if len(made) > 0 {
		s.log.Debug("reserved timelines", "files", len(made), "first", made[0], "wanted", want)
	}
	return made, nil
}

// createReserved makes the files of numbers, but for those that are there by now: the server itself may write the same one at any moment. What is in
// a file is durable before it has its name, so that a power loss leaves none that looks like somebody else's. The names are durable after files.SyncDir.
func (s *Server) createReserved(numbers []Timeline) (made []Timeline, err error) {
	var temps []string
	defer func() {
		for _, t := range temps {
			_ = os.Remove(t) // else Unreserve removes what is left
		}
	}()
	each := len(numbers) <= fewFiles
	for _, n := range numbers {
		f, err := os.CreateTemp(filepath.Dir(s.historyPath(n)), "."+historyFile(n)+".*.tmp")
		if err != nil {
			return nil, err
		}
		temps = append(temps, f.Name())
		_, err = fmt.Fprintf(f, "%s %d. The number was given to a promotion that this server has no part in.\n", reservedMark, n)
		err = errors.Join(err, f.Chmod(0o600), s.give(f.Name()))
		if each {
			err = errors.Join(err, f.Sync())
		}
		if err = errors.Join(err, f.Close()); err != nil {
			return nil, err
		}
	}
	if !each {
		if err := syncFS(filepath.Join(s.cfg.DataDir, "pg_wal")); err != nil {
			return nil, err
		}
	}
	for k, n := range numbers {
		switch err := os.Link(temps[k], s.historyPath(n)); {
		case err == nil:
			made = append(made, n)
		case !errors.Is(err, fs.ErrExist):
			return made, err
		}
	}
	return made, nil
}

// syncFS makes all that was written to the file system of a directory durable.
func syncFS(dir string) (err error) {
	d, err := os.Open(filepath.Clean(dir))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	return os.NewSyscallError("syncfs", unix.Syncfs(int(d.Fd())))
}

var (
	historyName = regexp.MustCompile(`^([0-9A-F]{8})\.history$`)
	tempName    = regexp.MustCompile(`^\.(pgnotify\.(conf|pass)|[0-9A-F]{8}\.history|standby\.signal)\.[0-9]+\.tmp$`)
)

// Unreserve removes the reserved files above every timeline that is really there, and temporary files that a killed process of ours left. It belongs
// after a promotion that was given up, and before every start as a standby, which such a file would keep from coming up. Files below stay: those
// that follow this server through them would ask for them. It returns what it removed; all is durable then.
func (s *Server) Unreserve() (removed []Timeline, err error) {
	removed, err = s.unreserve()
	if err != nil {
		return removed, fmt.Errorf("remove reserved timelines: %w", err)
	}
	return removed, nil
}

func (s *Server) unreserve() (removed []Timeline, err error) {
	c, err := s.Control()
	if err != nil {
		return nil, err
	}
	wal := filepath.Join(s.cfg.DataDir, "pg_wal")
	highest := max(c.Timeline, c.MinRecoveryTimeline)
	segments, err := s.walTimelines()
	if err != nil {
		return nil, err
	}
	if len(segments) > 0 {
		highest = max(highest, segments[len(segments)-1])
	}
	named, reserved, err := s.histories()
	if err != nil {
		return nil, err
	}
	if len(named) > 0 {
		highest = max(highest, named[len(named)-1])
	}
	for _, n := range reserved {
		if n <= highest {
			continue
		}
		if err := os.Remove(s.historyPath(n)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return removed, err
		}
		removed = append(removed, n)
	}
	for _, dir := range []string{wal, s.cfg.DataDir} {
		if err := removeTemps(dir); err != nil {
			return removed, err
		}
		if err := files.SyncDir(dir); err != nil {
			return removed, err
		}
	}
	if len(removed) > 0 {
		s.log.Debug("removed reserved timelines", "files", len(removed), "first", removed[0])
	}
	return removed, nil
}

// tempAge is how old a temporary file must be before it counts as left over.
const tempAge = time.Minute

func removeTemps(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !tempName.MatchString(e.Name()) {
			continue
		}
		if fi, err := e.Info(); err != nil || time.Since(fi.ModTime()) < tempAge {
			continue
		}
		if err := os.Remove(filepath.Join(dir, e.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// nextTimeline is the number that a promotion on top of tli would take by the files in pg_wal.
func (s *Server) nextTimeline(tli Timeline) (Timeline, error) {
	for n := tli + 1; ; n++ {
		_, err := os.Stat(s.historyPath(n))
		if errors.Is(err, fs.ErrNotExist) {
			return n, nil
		}
		if err != nil {
			return 0, err
		}
	}
}

// Promoted is what came of a promotion.
type Promoted struct {
	Timeline  Timeline
	Parent    Timeline // 0 of timeline 1
	SwitchLSN LSN      // where Timeline leaves Parent: the end of what was there before
	EndLSN    LSN      // flushed; behind the end-of-recovery record, so that who has it is on Timeline
}

// PromoteTo makes the standby the primary on timeline want, by pg_promote(false) and a look every half millisecond. It goes no further if want is not
// what the server would take, and if it is a primary already on another timeline: ErrWrongTimeline. A primary on want is left alone and is no error, so
// that the call can be repeated. The list of synchronous standbys must be on hold before. A pause of replay ends.
func (d *Driver) PromoteTo(ctx context.Context, want Timeline) (Promoted, error) {
	ctx, cancel := withDefaultTimeout(ctx, startTimeout)
	defer cancel()
	began := time.Now()
	var p Promoted
	err := d.act.use(ctx, func(q context.Context, conn *pgx.Conn) error {
		var err error
		p, err = d.promoteTo(ctx, q, conn, want)
		return err
	})
	if err != nil {
		return Promoted{}, fmt.Errorf("promote to timeline %d: %w", want, err)
	}
	d.s.log.Debug("promoted", "timeline", p.Timeline, "switch", p.SwitchLSN.String(), "took", time.Since(began))
	return p, nil
}

func (d *Driver) promoteTo(ctx, q context.Context, conn *pgx.Conn, want Timeline) (Promoted, error) {
	v, err := look(q, conn)
	if err != nil {
		return Promoted{}, err
	}
	if v.recovery {
		id, err := d.ident.identify(ctx)
		if err != nil {
			return Promoted{}, err
		}
		next, err := d.s.nextTimeline(id.Timeline)
		if err != nil {
			return Promoted{}, err
		}
		if next != want {
			return Promoted{}, fmt.Errorf("%w: it is on timeline %d and would take %d", ErrWrongTimeline, id.Timeline, next)
		}
		if !strings.Contains(v.settings["synchronous_standby_names"], HoldName) {
			return Promoted{}, fmt.Errorf("%w: synchronous_standby_names is %q", ErrNotHeld, v.settings["synchronous_standby_names"])
		}
		if v.paused { // it would be noticed only at the next of the looks that a pause takes each second
			if _, err := conn.Exec(q, "SELECT pg_wal_replay_resume() WHERE pg_is_in_recovery()"); err != nil {
				return Promoted{}, err
			}
		}
		var sent bool
		err = conn.QueryRow(q, "SELECT pg_promote(false)").Scan(&sent)
		var pe *pgconn.PgError
		switch {
		case errors.As(err, &pe) && pe.Code == sqlStateNotInRecovery: // somebody else was quicker
		case err != nil:
			return Promoted{}, err
		case !sent:
			return Promoted{}, errors.New("the server could not signal its postmaster")
		}
		err = poll(ctx, func() (bool, string, error) {
			standby, err := inRecovery(q, conn)
			return !standby, "it is still in recovery", err
		})
		if err != nil {
			return Promoted{}, err
		}
	}
	tli, lsn, err := primaryPosition(q, conn)
	if err != nil {
		return Promoted{}, err
	}
	if tli != want {
		return Promoted{}, fmt.Errorf("%w: it is a primary on timeline %d", ErrWrongTimeline, tli)
	}
	h, err := d.s.History(tli)
	if err != nil {
		return Promoted{}, err
	}
	if tli == 1 {
		return Promoted{Timeline: tli, EndLSN: lsn}, nil
	}
	if len(h) == 0 {
		return Promoted{}, fmt.Errorf("timeline %d has no parent in its history file", tli)
	}
	last := h[len(h)-1]
	return Promoted{Timeline: tli, Parent: last.Timeline, SwitchLSN: last.SwitchLSN, EndLSN: lsn}, nil
}
