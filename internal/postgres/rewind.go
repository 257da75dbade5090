package postgres

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"pgvrrp/internal/child"
	"pgvrrp/internal/files"
)

// maxConfigFile bounds the configuration files that are carried over a rewind or a swap.
const maxConfigFile = 1 << 20

// sourceTime is how long the source of a rewind may take for a question: one that hangs is no source.
const sourceTime = 5 * time.Second

// stallTime is how long a rewind that is not wanted any more may get on no further before it is broken off. One that gets on ends soon, and needs no copy.
const stallTime = 3 * time.Second

// RewindReady returns nil once the source of a rewind is a primary of our cluster whose last checkpoint is on the timeline that it runs on. Before
// that pg_rewind up to 15 takes both servers to be on one timeline and does nothing, and a later one may stamp the wrong timeline on its target: the
// error then is ErrNotCheckpointed. A source of another cluster is ErrNotRewindable.
func (s *Server) RewindReady(ctx context.Context, conninfo string) error {
	ci, err := withDefault(conninfo, "dbname", "postgres")
	if err != nil {
		return fmt.Errorf("look at the source of the rewind: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, sourceTime)
	defer cancel()
	conn, err := dial(ctx, ci, sessionParams(queryTimeout))
	if err != nil {
		return fmt.Errorf("look at the source of the rewind: %w", err)
	}
	defer closeConn(conn)
	return s.rewindReady(ctx, conn)
}

func (s *Server) rewindReady(ctx context.Context, conn *pgx.Conn) error {
	mine, err := s.Control()
	if err != nil {
		return err
	}
	var standby bool
	var version int
	var id int64
	var ckpt int32
	if err := conn.QueryRow(ctx, `SELECT pg_is_in_recovery(), current_setting('server_version_num')::int, (SELECT system_identifier FROM pg_control_system()),
(SELECT timeline_id FROM pg_control_checkpoint())`).Scan(&standby, &version, &id, &ckpt); err != nil {
		return fmt.Errorf("look at the source of the rewind: %w", err)
	}
	switch {
	case uint64(id) != mine.SystemID:
		return fmt.Errorf("%w: its system identifier is %d, that of the source %d: another cluster", ErrNotRewindable, mine.SystemID, uint64(id))
	case version/10000 != s.version:
		return fmt.Errorf("%w: its version is %d, that of the source %d", ErrNotRewindable, s.version, version/10000)
	case standby:
		return errors.New("the source of the rewind is a standby, want the primary")
	}
	tli, _, err := primaryPosition(ctx, conn)
	if err != nil {
		return fmt.Errorf("look at the source of the rewind: %w", err)
	}
	if tli != Timeline(ckpt) {
		return fmt.Errorf("%w: it runs on timeline %d, its last checkpoint is on %d", ErrNotCheckpointed, tli, ckpt)
	}
	return nil
}

// rewindMarker says that the data directory is being rewound; it stands outside because pg_rewind removes what its source does not have.
func (s *Server) rewindMarker() string {
	if s.cfg.StateDir != "" {
		return filepath.Join(s.cfg.StateDir, "rewinding"+strings.ReplaceAll(s.real, "/", "-"))
	}
	return s.real + ".rewinding"
}

// RewindIncomplete reports whether an earlier Rewind was interrupted after it had begun to change files: then the server is not started until Swap has
// put a new copy in its place.
func (s *Server) RewindIncomplete() bool {
	_, err := os.Lstat(s.rewindMarker())
	return !errors.Is(err, fs.ErrNotExist)
}

// Rewind takes back, by pg_rewind, what the stopped server wrote since its history left that of the primary at conninfo, and leaves it to be started
// with StartStandby: standby.signal is there. It takes no sessions before it has streamed what its source had at the end. The role at conninfo needs to
// be a superuser or to have pg_rewind's functions granted. Our configuration files stay as they were. What a dead postmaster left is ended first.
// progress may be nil.
//
// ErrNotRewindable and ErrNotCheckpointed are found before anything is touched. If pg_rewind fails once it has begun to change files, the directory is
// useless and marked so, see RewindIncomplete. When ctx ends nothing is begun any more, and what is under way is broken off once it gets on no further.
func (s *Server) Rewind(ctx context.Context, conninfo string, progress Progress) error {
	if err := s.rewind(ctx, conninfo, progress); err != nil {
		return fmt.Errorf("rewind %s: %w", s.cfg.DataDir, err)
	}
	return nil
}

func (s *Server) rewind(ctx context.Context, conninfo string, progress Progress) error {
	whole := context.WithoutCancel(ctx) // what is done here alone ends by itself
	if err := s.endLeft(whole); err != nil {
		return err
	}
	if err := s.mustBeDown(); err != nil {
		return err
	}
	if s.RewindIncomplete() {
		return ErrRewindIncomplete
	}
	c, err := s.Control()
	if err != nil {
		return err
	}
	switch {
	case !c.Rewindable():
		return fmt.Errorf("%w: neither wal_log_hints nor data checksums are on", ErrNotRewindable)
	case !c.FullPageWrites:
		return fmt.Errorf("%w: full_page_writes is off", ErrNotRewindable)
	case c.State.WasStandby() && !c.State.Clean():
		// Recovery in single-user mode does not know of timelines and could run past the fork.
		return fmt.Errorf("%w: it crashed as a standby (%s); start it as a standby and stop it first", ErrNotRewindable, c.State)
	case c.BackupStartLSN != 0 || c.BackupEndRequired:
		return fmt.Errorf("%w: it is a base backup whose recovery has not ended", ErrNotRewindable)
	}
	ci, err := withDefault(conninfo, "dbname", "postgres")
	if err != nil {
		return err
	}
	if err := s.RewindReady(ctx, ci); err != nil {
		return err
	}
	if err := s.clearStale(); err != nil {
		return err
	}
	if err := s.removeSockets(); err != nil {
		return err
	}
	saved, err := s.saveConfig()
	if err != nil {
		return err
	}
	args := []string{"--target-pgdata", s.cfg.DataDir, "--source-server", ci, "--progress"}
	outside := !sameFile(filepath.Dir(s.cfg.ConfigFile), s.cfg.DataDir)
	if outside && s.version >= 15 {
		args = append(args, "--config-file", s.cfg.ConfigFile)
	}
	if v := s.restoreCommand(); v != "" && (!outside || s.version >= 15) {
		args = append(args, "--restore-target-wal")
	}
	if outside && s.version < 15 && !c.State.Clean() {
		return fmt.Errorf("%w: pg_rewind %d cannot recover a crashed server whose postgresql.conf is outside of the data directory", ErrNotRewindable, s.version)
	}
	// Whatever ends us, our configuration goes into the copy that takes the place of what is left.
	if err := s.keepConfig(saved); err != nil {
		return err
	}
	// From here to the end nobody may start this server, least of all as a primary.
	if err := s.writeFile(s.rewindMarker(), nil, 0o600); err != nil {
		return err
	}
	short := s.version < 16 && c.State.WasStandby() && c.MinRecoveryTimeline > c.Timeline
	if !c.State.Clean() || short {
		// Single-user mode, in which pg_rewind runs crash recovery, refuses standby mode.
		for _, name := range []string{standbySignal, recoverySignal} {
			if err := os.Remove(filepath.Join(s.cfg.DataDir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
	}
	if short {
		if err := s.endTimeline(whole, c); err != nil {
			return errors.Join(err, s.markStandby(), s.unmarkRewind()) // whole, and a standby again
		}
	}
	changed := false
	run, beat, end := linger(ctx, stallTime)
	defer end()
	out := &progressWriter{
		report: func(p progressLine) {
			changed = true
			beat()
			if progress != nil {
				progress(p.done, p.total)
			}
		},
		line: func(l string) {
			s.log.Debug("pg_rewind", "says", l)
			if beat(); strings.Contains(l, "syncing target") { // its source has given all
				end()
			}
			changed = changed || strings.Contains(l, "need to copy")
		},
	}
	cmd := s.program("pg_rewind", args...)
	cmd.Stdout, cmd.Stderr = out, out
	_, runErr := child.Run(run, cmd)
	out.flush()
	if runErr != nil && changed {
		// The configuration is this node's own and goes into the copy that takes the place of what is left.
		return errors.Join(fmt.Errorf("%w (%w: %s)", ErrRewindIncomplete, runErr, out.message()), s.restoreConfig(saved, s.cfg.DataDir))
	}
	// Not changed, or done: the directory is whole.
	if err := s.restoreConfig(saved, s.cfg.DataDir); err != nil {
		return err
	}
	if err := s.markStandby(); err != nil {
		return err
	}
	if err := s.unmarkRewind(); err != nil {
		return err
	}
	if runErr != nil {
		return fmt.Errorf("%w: %s", runErr, out.message())
	}
	if err := flushSource(whole, ci); err != nil {
		s.log.Info("the rewound server may take some seconds to come up: what its source has written last is not flushed yet", "reason", err)
	}
	return nil
}

// linger is a context that ends only after ctx has, and once nobody has called beat for so long; after end it does not end at all.
func linger(ctx context.Context, patience time.Duration) (_ context.Context, beat, end func()) {
	lctx, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	beats, ended := make(chan struct{}, 1), make(chan struct{})
	go func() {
		select {
		case <-ctx.Done():
		case <-ended:
			return
		}
		t := time.NewTimer(patience)
		defer t.Stop()
		for {
			select {
			case <-ended:
				return
			case <-beats:
				t.Reset(patience)
			case <-t.C:
				cancel(fmt.Errorf("it got no further for %v, and is not wanted any more", patience))
				return
			}
		}
	}()
	return lctx, func() {
		select {
		case beats <- struct{}{}:
		default:
		}
	}, sync.OnceFunc(func() { close(ended) })
}

// endTimeline makes a checkpoint on the timeline that a stopped standby is on, by a start and stop in single-user mode, where nobody can connect: whoever
// was promoted and died before its first checkpoint has none there. Up to version 15 pg_rewind takes the timeline of the last checkpoint for the one that
// its target is on, and does not find the record at which the two servers parted. What this writes goes with the rewind. The signal files must be gone.
func (s *Server) endTimeline(ctx context.Context, c ControlData) error {
	args := []string{"--single", "-D", s.cfg.DataDir, "-c", "config_file=" + s.cfg.ConfigFile, "-c", "logging_collector=off", "-c", "log_destination=stderr"}
	cmd := s.program("postgres", append(args, "template1")...)
	out := &tailWriter{}
	cmd.Stdout, cmd.Stderr = out, out
	s.log.Info("making a checkpoint on the timeline that is to be rewound, for pg_rewind", "timeline", c.MinRecoveryTimeline)
	if _, err := child.Run(ctx, cmd); err != nil {
		return fmt.Errorf("make a checkpoint on timeline %d in single-user mode: %w: %s", c.MinRecoveryTimeline, err, strings.TrimSpace(out.String()))
	}
	switch now, err := s.Control(); {
	case err != nil:
		return err
	case now.State != StateShutDown || now.Timeline != c.MinRecoveryTimeline:
		return fmt.Errorf("make a checkpoint on timeline %d in single-user mode: the server is %s, and its last checkpoint on timeline %d", c.MinRecoveryTimeline, now.State, now.Timeline)
	}
	return nil
}

// flushSource has the source flush its WAL up to now. The rewound server is consistent only once it has replayed up to where the source had inserted
// at the end, and on an idle source nothing but a snapshot each 15 s flushes what pg_rewind's own reading wrote last.
func flushSource(ctx context.Context, conninfo string) error {
	ctx, cancel := context.WithTimeout(ctx, sourceTime)
	defer cancel()
	conn, err := dial(ctx, conninfo, sessionParams(queryTimeout))
	if err != nil {
		return err
	}
	defer closeConn(conn)
	return nudge(ctx, conn)
}

// unmarkRewind says that the data directory is whole again.
func (s *Server) unmarkRewind() error {
	if err := os.Remove(s.rewindMarker()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := files.SyncDir(filepath.Dir(s.rewindMarker())); err != nil {
		return err
	}
	return os.RemoveAll(s.keptConfig())
}

// keptConfig is where our configuration is kept while a rewind is under way.
func (s *Server) keptConfig() string { return s.rewindMarker() + ".conf" }

// keepConfig writes our configuration outside of the data directory, durably.
func (s *Server) keepConfig(saved []savedFile) error {
	dir := s.keptConfig()
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("keep configuration: %w", err)
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return fmt.Errorf("keep configuration: %w", err)
	}
	if err := s.give(dir); err != nil {
		return fmt.Errorf("keep configuration: %w", err)
	}
	if err := s.restoreConfig(saved, dir); err != nil {
		return err
	}
	return files.SyncDir(filepath.Dir(dir))
}

// ownConfig is our configuration: what was kept if a rewind broke off, since then the data directory may hold that of its source.
func (s *Server) ownConfig() ([]savedFile, error) {
	if !s.RewindIncomplete() {
		return s.saveConfig()
	}
	dir := s.keptConfig()
	var all []savedFile
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		fi, err := e.Info()
		if err != nil {
			return err
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		all = append(all, savedFile{rel, b, fi.Mode().Perm()})
		return nil
	})
	if errors.Is(err, fs.ErrNotExist) {
		return s.saveConfig() // marked by a version of ours that kept nothing
	}
	if err != nil {
		return nil, fmt.Errorf("read the kept configuration: %w", err)
	}
	return all, nil
}

// mustBeDown refuses while any process of the server lives.
func (s *Server) mustBeDown() error {
	pid, running, err := s.Process()
	if err != nil {
		return err
	}
	if running {
		return fmt.Errorf("%w: process %d", ErrRunning, pid)
	}
	left, err := s.processes()
	if err != nil {
		return err
	}
	if len(left) > 0 {
		return fmt.Errorf("%w: processes %s work in the data directory", ErrRunning, pids(left))
	}
	return nil
}

// restoreCommand is the restore_command that the server would use.
func (s *Server) restoreCommand() string {
	if auto, err := readFlat(s.autoPath()); err == nil {
		if v, ok := auto["restore_command"]; ok {
			return v
		}
	}
	if c, err := readConf(s.cfg.ConfigFile); err == nil {
		v, _ := c.value("restore_command")
		return v
	}
	return ""
}

// removeSockets removes left-over sockets, at which pg_rewind stops.
func (s *Server) removeSockets() error {
	found, err := filepath.Glob(filepath.Join(s.cfg.DataDir, ".s.PGSQL.*"))
	if err != nil {
		return err
	}
	for _, path := range found {
		if err := os.Remove(path); err != nil {
			return fmt.Errorf("remove left-over socket: %w", err)
		}
	}
	return nil
}

// savedFile is a configuration file of ours, by its path within the data directory.
type savedFile struct {
	path    string
	content []byte
	mode    fs.FileMode
}

// localFiles are the settings that name files which belong to the node and not to the cluster.
var localFiles = []string{"hba_file", "ident_file", "ssl_cert_file", "ssl_key_file", "ssl_ca_file", "ssl_crl_file"}

// saveConfig reads the configuration files that lie in the data directory: they are this node's own, and pg_rewind and pg_basebackup would bring
// those of the source. Our include file is among them even if there is none, and under quorum it is one without upstream, on hold.
func (s *Server) saveConfig() ([]savedFile, error) {
	paths, err := filepath.Glob(filepath.Join(s.cfg.DataDir, "*.conf"))
	if err != nil {
		return nil, err
	}
	if c, err := readConf(s.cfg.ConfigFile); err == nil {
		paths = append(paths, c.files...)
		for _, name := range localFiles {
			v, ok := c.value(name)
			if !ok || v == "" {
				if v = map[string]string{"ssl_cert_file": "server.crt", "ssl_key_file": "server.key"}[name]; v == "" {
					continue
				}
			}
			if !filepath.IsAbs(v) {
				v = filepath.Join(s.cfg.DataDir, v)
			}
			paths = append(paths, v)
		}
	}
	seen := map[string]bool{}
	var all []savedFile
	for _, path := range paths {
		rel, err := filepath.Rel(s.cfg.DataDir, filepath.Clean(path))
		if err != nil || rel == ".." || strings.HasPrefix(rel, "../") || seen[rel] {
			continue
		}
		seen[rel] = true
		fi, err := os.Lstat(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("save configuration: %w", err)
		}
		if !fi.Mode().IsRegular() || fi.Size() > maxConfigFile {
			continue // pg_rewind leaves symbolic links as they are
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("save configuration: %w", err)
		}
		if rel == includeName && s.cfg.Hold {
			continue
		}
		all = append(all, savedFile{rel, b, fi.Mode().Perm()})
	}
	if s.cfg.Hold || !slices.ContainsFunc(all, func(f savedFile) bool { return f.path == includeName }) {
		managed := map[string]string{}
		if s.cfg.Hold {
			managed = fenced()
		}
		content, err := renderConf(managed)
		if err != nil {
			return nil, fmt.Errorf("save configuration: %w", err)
		}
		all = append(all, savedFile{includeName, content, 0o600})
	}
	return all, nil
}

// restoreConfig writes saved configuration files into a data directory, and removes the password file, which is the source's.
func (s *Server) restoreConfig(saved []savedFile, dataDir string) error {
	for _, f := range saved {
		path := filepath.Join(dataDir, f.path)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return fmt.Errorf("restore configuration: %w", err)
		}
		if err := s.give(filepath.Dir(path)); err != nil {
			return fmt.Errorf("restore configuration: %w", err)
		}
		if err := s.writeFile(path, f.content, f.mode); err != nil {
			return fmt.Errorf("restore configuration: %w", err)
		}
	}
	if err := os.Remove(filepath.Join(dataDir, passName)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("restore configuration: %w", err)
	}
	return nil
}
