package postgres

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	includeName = "pgnotify.conf"
	autoName    = "postgresql.auto.conf"

	// applyTimeout is how long a running server may take to show a setting after a reload; milliseconds are usual.
	applyTimeout = 5 * time.Second
)

// OurFiles are those in a data directory that are no part of the server's data.
var OurFiles = []string{includeName, passName}

// managedNames are the settings that may stand in our include file.
var managedNames = []string{
	"primary_conninfo", "primary_slot_name", "recovery_target_timeline", "restore_command", "recovery_min_apply_delay", "synchronous_standby_names",
}

func (s *Server) includePath() string { return filepath.Join(s.cfg.DataDir, includeName) }
func (s *Server) autoPath() string    { return filepath.Join(s.cfg.DataDir, autoName) }

// Managed reads our include file; it is empty if the file is not there yet.
func (s *Server) Managed() (map[string]string, error) {
	return readFlat(s.includePath())
}

// readFlat reads one file's settings without following includes; a missing file has none.
func readFlat(path string) (map[string]string, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return map[string]string{}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read settings: %w", err)
	}
	m := map[string]string{}
	for n, line := range strings.Split(string(b), "\n") {
		name, value, err := parseConfLine(line)
		if err != nil {
			return nil, fmt.Errorf("%s:%d: %w", path, n+1, err)
		}
		if name != "" {
			m[name] = value
		}
	}
	return m, nil
}

// IncludeError says why the server would not take our settings from our include file: an *IncludeError that names the line to add, or the file could
// not be read. It looks at the files only; a running server may have older ones loaded.
func (s *Server) IncludeError() error {
	c, err := readConf(s.cfg.ConfigFile)
	if err != nil {
		return fmt.Errorf("check include of %s: %w", includeName, err)
	}
	e := &IncludeError{ConfigFile: s.cfg.ConfigFile}
	q, err := quoteConf(s.includePath())
	if err != nil {
		return err
	}
	e.Line = "include_if_exists = " + q
	at := -1
	for path, n := range c.includes {
		if filepath.Base(path) == includeName && sameFile(filepath.Dir(path), s.cfg.DataDir) {
			at = max(at, n)
		}
	}
	if at < 0 {
		e.Cause = "it does not include " + s.includePath()
		return e
	}
	ours, err := s.Managed()
	if err != nil {
		return err
	}
	for _, v := range c.entries[at:] {
		_, written := ours[v.name]
		if (written || v.name == "primary_conninfo") && filepath.Base(v.file) != includeName {
			e.Cause = fmt.Sprintf("%s:%d sets %s behind the include of %s", v.file, v.line, v.name, includeName)
			return e
		}
	}
	return nil
}

// AutoOverrides lists the settings of postgresql.auto.conf (ALTER SYSTEM, pg_basebackup -R) that win over ours with another value: those in our file,
// and primary_conninfo in any case.
func (s *Server) AutoOverrides() (map[string]string, error) {
	auto, err := readFlat(s.autoPath())
	if err != nil {
		return nil, err
	}
	ours, err := s.Managed()
	if err != nil {
		return nil, err
	}
	maps.DeleteFunc(auto, func(name, value string) bool {
		mine, written := ours[name]
		if name == "primary_conninfo" && !written {
			return false
		}
		return !written || mine == value
	})
	return auto, nil
}

func (s *Server) overrideError(found map[string]string) error {
	if len(found) == 0 {
		return nil
	}
	e := &OverrideError{File: s.autoPath(), Settings: found}
	names := slices.Sorted(maps.Keys(found))
	ci, err := s.conninfo()
	if err != nil {
		return err
	}
	e.Fix = "psql " + shellQuote(ci)
	for _, n := range names {
		e.Fix += " -c " + shellQuote("ALTER SYSTEM RESET "+n)
	}
	e.Fix += ` -c "SELECT pg_reload_conf()"`
	return e
}

// ResetAuto removes from postgresql.auto.conf what AutoOverrides finds, by ALTER SYSTEM RESET, and reloads. With the server down, or if it may not, the
// error is an *OverrideError that names the command.
func (s *Server) ResetAuto(ctx context.Context) error {
	found, err := s.AutoOverrides()
	if err != nil || len(found) == 0 {
		return err
	}
	conn, err := s.connect(ctx, queryTimeout)
	if err != nil {
		return fmt.Errorf("%w (%w)", s.overrideError(found), err)
	}
	defer closeConn(conn)
	for _, n := range slices.Sorted(maps.Keys(found)) {
		if _, err := conn.Exec(ctx, "ALTER SYSTEM RESET "+pgx.Identifier{n}.Sanitize()); err != nil {
			return fmt.Errorf("%w (%w)", s.overrideError(found), err)
		}
		s.log.Info("removed a setting that overrode ours", "file", s.autoPath(), "setting", n, "value", found[n])
	}
	return s.Reload(ctx)
}

// SetUpstream makes the standby stream from conninfo, now if it runs and at its next start otherwise: primary_conninfo in our include file. If the
// server would not take the value from there, the value is written and the error says what wins: *IncludeError or *OverrideError.
func (s *Server) SetUpstream(ctx context.Context, conninfo string) error {
	return s.SetManaged(ctx, map[string]string{"primary_conninfo": conninfo, "recovery_target_timeline": "latest"})
}

// ClearUpstream makes the standby stream from nowhere.
func (s *Server) ClearUpstream(ctx context.Context) error { return s.SetUpstream(ctx, "") }

// SetManaged merges settings into our include file, replacing it as a whole and durably, then reloads a running server and waits until it shows them.
// A value "" is written as the empty string. Errors as with SetUpstream.
func (s *Server) SetManaged(ctx context.Context, settings map[string]string) error {
	for n := range settings {
		if !slices.Contains(managedNames, n) {
			return fmt.Errorf("set %s: not one of the settings that we manage", n)
		}
	}
	if err := s.writeManaged(change{set: settings}); err != nil {
		return err
	}
	if err := s.winsError(); err != nil {
		return err
	}
	_, running, err := s.Process()
	if err != nil || !running {
		return err
	}
	if err := s.Reload(ctx); err != nil {
		return err
	}
	return s.awaitSettings(ctx, settings)
}

// change is a change of our include file: what to set, and what to leave to the user's own configuration again.
type change struct {
	set    map[string]string
	drop   []string
	before func() error // run once the new content is on disk, before it takes effect; nil = nothing
}

// writeManaged makes a change durable: when it returns nil, the whole file has it after any crash. A running server is not told.
func (s *Server) writeManaged(c change) error {
	s.files.Lock()
	defer s.files.Unlock()
	all, err := s.Managed()
	if err != nil {
		return err
	}
	before := maps.Clone(all)
	maps.Copy(all, c.set)
	for _, n := range c.drop {
		delete(all, n)
	}
	if len(before) > 0 && maps.Equal(before, all) {
		if c.before != nil {
			if err := c.before(); err != nil {
				return err
			}
		}
		// The write that brought it there may have failed behind its rename.
		return syncFile(s.includePath())
	}
	content, err := renderConf(all)
	if err != nil {
		return err
	}
	// primary_conninfo may hold a password.
	return replaceFile(s.includePath(), content, 0o600, s.owner.uid, s.owner.gid, c.before)
}

// winsError says what else would win over our include file: *IncludeError or *OverrideError.
func (s *Server) winsError() error {
	if err := s.IncludeError(); err != nil {
		return err
	}
	found, err := s.AutoOverrides()
	if err != nil {
		return err
	}
	return s.overrideError(found)
}

// awaitSettings waits until a session sees the settings. A server that takes no sessions (still starting) reads the file anyway.
func (s *Server) awaitSettings(ctx context.Context, want map[string]string) error {
	ctx, cancel := context.WithTimeout(ctx, applyTimeout)
	defer cancel()
	conn, err := s.connect(ctx, queryTimeout)
	if err != nil {
		s.log.Info("settings written and reload sent, but no session to see them applied", "reason", err)
		return nil
	}
	defer closeConn(conn)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	var wrong []string
	for {
		got, err := readSettings(ctx, conn)
		if err != nil {
			return fmt.Errorf("wait for settings: %w%s", err, orNothing(wrong))
		}
		wrong = nil
		for _, n := range slices.Sorted(maps.Keys(want)) {
			v, ok := got[n]
			if !ok || v.Value == want[n] {
				continue
			}
			if v.PendingRestart {
				s.log.Warn("setting needs a restart", "setting", n, "value", want[n], "now", v.Value)
				continue
			}
			wrong = append(wrong, fmt.Sprintf("%s is %q, from %s %s", n, v.Value, v.Source, v.File))
		}
		if len(wrong) == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for settings: %w%s", context.Cause(ctx), orNothing(wrong))
		case <-tick.C:
		}
	}
}

func orNothing(wrong []string) string {
	if len(wrong) == 0 {
		return ""
	}
	return ": " + strings.Join(wrong, "; ")
}
