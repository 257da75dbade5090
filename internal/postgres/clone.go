package postgres

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"golang.org/x/sys/unix"

	"pgvrrp/internal/child"
	"pgvrrp/internal/files"
)

// cloneReserve is what must be free beside the size of the source: the WAL that comes with the backup.
const cloneReserve = 64 << 20

// NewDir proposes a directory for Clone beside the data directory, where Swap can take it from. Nothing is created.
func (s *Server) NewDir() string { return s.real + ".new" }

// Clone copies the server at o.Conninfo into a new directory by pg_basebackup, with a fast checkpoint, the WAL included, and makes the copy one that
// starts as a standby. The directory must not exist or be empty; after any failure it is removed again, with the tablespaces' that were made. Settings are the source's, but for
// those that we manage: the copy has none of the source's upstream and synchronous standbys. Swap puts ours in.
//
// Before the copy the source is asked for its size and tablespaces, over the same kind of connection: a full disk and a tablespace for which
// o.Tablespaces has no place are refused then. A full disk is syscall.ENOSPC in the error's chain.
func Clone(ctx context.Context, o CloneOptions) error {
	if err := clone(ctx, o); err != nil {
		return fmt.Errorf("clone into %s: %w", o.Dir, err)
	}
	return nil
}

func clone(ctx context.Context, o CloneOptions) (err error) {
	if !filepath.IsAbs(o.Dir) {
		return errors.New("want an absolute path")
	}
	uid, gid := os.Geteuid(), os.Getegid()
	runAs := ""
	if o.User != "" {
		u, err := user.Lookup(o.User)
		if err != nil {
			return err
		}
		want, erru := strconv.Atoi(u.Uid)
		group, errg := strconv.Atoi(u.Gid)
		if err := errors.Join(erru, errg); err != nil {
			return err
		}
		if want != uid {
			runAs = o.User
		}
		uid, gid = want, group
	}
	src, err := surveySource(ctx, o.Conninfo)
	if err != nil {
		return fmt.Errorf("ask the source for its size: %w", err)
	}
	dirs := []string{o.Dir}
	args := []string{"--pgdata", o.Dir, "--dbname", o.Conninfo, "--wal-method", "stream", "--checkpoint", "fast", "--progress", "--no-password", "--label", "pgnotify"}
	for _, t := range src.tablespaces {
		to := o.Tablespaces[t.path]
		if !filepath.IsAbs(to) {
			return fmt.Errorf("the source has a tablespace at %s: name a place for its copy, an absolute path, or clone by hand", t.path)
		}
		dirs = append(dirs, to)
		args = append(args, "--tablespace-mapping", escapeMapping(t.path)+"="+escapeMapping(to))
	}
	if o.MaxRate > 0 { // pg_basebackup takes 32 kB to 1 GB a second
		args = append(args, "--max-rate", strconv.FormatInt(min(max(o.MaxRate/1024, 32), 1<<20), 10))
	}
	need := []int64{src.size}
	for _, t := range src.tablespaces {
		need = append(need, t.size)
	}
	var made []string
	defer func() {
		if err == nil {
			return
		}
		for _, d := range made {
			if rmErr := os.RemoveAll(d); rmErr != nil {
				err = fmt.Errorf("%w; and what was copied could not be removed: %w", err, rmErr)
			}
		}
	}()
	for _, d := range dirs {
		if err := makeEmptyDir(d, uid, gid); err != nil {
			return err
		}
		made = append(made, d)
	}
	if err := checkFree(dirs, need); err != nil {
		return err
	}
	out := &progressWriter{report: func(p progressLine) {
		if o.Progress != nil {
			o.Progress(p.done, p.total)
		}
	}}
	_, err = child.Run(ctx, child.Command{
		Argv: append([]string{filepath.Join(o.BinDir, "pg_basebackup")}, args...),
		User: runAs, Dir: "/", Stdout: out, Stderr: out,
	})
	out.flush()
	if err != nil {
		err = fmt.Errorf("%w: %s", err, out.message())
		if strings.Contains(out.message(), "No space left on device") {
			err = fmt.Errorf("%w: %w", syscall.ENOSPC, err)
		}
		return err
	}
	// It has the source's upstream and synchronous standbys.
	managed := map[string]string{}
	if o.Hold {
		managed = fenced()
	}
	content, err := renderConf(managed)
	if err != nil {
		return err
	}
	if err := writeFile(filepath.Join(o.Dir, includeName), content, 0o600, uid, gid); err != nil {
		return err
	}
	if err := stripAuto(filepath.Join(o.Dir, autoName), uid, gid); err != nil {
		return err
	}
	if err := os.Remove(filepath.Join(o.Dir, passName)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	// Whoever starts the copy must get a standby.
	return writeFile(filepath.Join(o.Dir, standbySignal), nil, 0o600, uid, gid)
}

// stripAuto takes the settings that we manage out of a postgresql.auto.conf that no server uses yet.
func stripAuto(path string, uid, gid int) error {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var kept strings.Builder
	for line := range strings.Lines(string(b)) {
		name, _, err := parseConfLine(strings.TrimRight(line, "\n"))
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		if !slices.Contains(managedNames, name) {
			kept.WriteString(line)
		}
	}
	if kept.Len() == len(b) {
		return nil
	}
	return writeFile(path, []byte(kept.String()), 0o600, uid, gid)
}

// escapeMapping escapes what separates the two paths of a tablespace mapping.
func escapeMapping(path string) string { return strings.ReplaceAll(path, "=", `\=`) }

// makeEmptyDir makes a directory, or takes an empty one.
func makeEmptyDir(dir string, uid, gid int) error {
	entries, err := os.ReadDir(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if err := os.Mkdir(dir, 0o700); err != nil {
			return err
		}
	case err != nil:
		return err
	case len(entries) > 0:
		return fmt.Errorf("%s is not empty", dir)
	}
	if os.Geteuid() != 0 {
		return nil
	}
	if err := os.Lchown(dir, uid, gid); err != nil {
		if len(entries) == 0 {
			err = errors.Join(err, os.Remove(dir))
		}
		return err
	}
	return nil
}

// checkFree compares what each file system has free for us with what will go there.
func checkFree(dirs []string, need []int64) error {
	type total struct{ need, free int64 }
	byDev := map[uint64]total{}
	for i, d := range dirs {
		var fs unix.Statfs_t
		var st unix.Stat_t
		if err := errors.Join(unix.Statfs(d, &fs), unix.Stat(d, &st)); err != nil {
			return fmt.Errorf("ask for free space of %s: %w", d, err)
		}
		t := byDev[st.Dev]
		t.free = math.MaxInt64
		if b, size := fs.Bavail, uint64(fs.Bsize); size > 0 && b < math.MaxInt64/size {
			t.free = int64(b * size)
		}
		t.need += need[i]
		if i == 0 {
			t.need += cloneReserve
		}
		byDev[st.Dev] = t
		if t.need > t.free {
			return fmt.Errorf("%w: the copy needs %d MB in %s, %d MB are free", syscall.ENOSPC, t.need>>20, d, t.free>>20)
		}
	}
	return nil
}

// survey is what a base backup would bring.
type survey struct {
	size        int64 // bytes of the data directory
	tablespaces []tablespace
}

type tablespace struct {
	path string
	size int64 // bytes
}

// surveySource begins a base backup, reads its two leading result sets (where it starts, and the tablespaces with their sizes: "53.4 Streaming
// Replication Protocol", BASE_BACKUP) and breaks it off.
func surveySource(ctx context.Context, conninfo string) (survey, error) {
	c, err := dialReplication(ctx, conninfo)
	if err != nil {
		return survey{}, err
	}
	defer func() {
		// A goodbye would wait for the data that we don't want.
		_ = c.Conn().SetDeadline(time.Now())
		closeConn(c)
	}()
	command := "BASE_BACKUP LABEL 'pgnotify survey' PROGRESS FAST NOWAIT"
	if versionNum(c.ParameterStatus("server_version")) >= 150000 {
		command = "BASE_BACKUP (LABEL 'pgnotify survey', PROGRESS, CHECKPOINT 'fast', WAIT false)"
	}
	mrr := c.Exec(ctx, command)
	for n := 0; mrr.NextResult(); n++ {
		r := mrr.ResultReader()
		if n == 0 {
			for r.NextRow() {
			}
			continue
		}
		return readSurvey(r)
	}
	if err := mrr.Close(); err != nil {
		return survey{}, err
	}
	return survey{}, errors.New("BASE_BACKUP: no list of tablespaces in the answer")
}

func readSurvey(r *pgconn.ResultReader) (survey, error) {
	var v survey
	for r.NextRow() {
		row := r.Values()
		if len(row) != 3 {
			return survey{}, fmt.Errorf("BASE_BACKUP: want 3 columns (got %d)", len(row))
		}
		size := int64(0)
		if row[2] != nil {
			kb, err := strconv.ParseInt(string(row[2]), 10, 53)
			if err != nil {
				return survey{}, fmt.Errorf("BASE_BACKUP: size: %w", err)
			}
			size = kb * 1024
		}
		if row[0] == nil {
			v.size += size
		} else {
			v.tablespaces = append(v.tablespaces, tablespace{string(row[1]), size})
		}
	}
	slices.SortFunc(v.tablespaces, func(a, b tablespace) int { return strings.Compare(a.path, b.path) })
	return v, nil
}

// MountPoint reports whether a directory, given without symbolic links, is on another file system than its parent: it can't be renamed.
func MountPoint(dir string) (bool, error) {
	var own, up unix.Stat_t
	if err := errors.Join(unix.Stat(dir, &own), unix.Stat(filepath.Dir(dir), &up)); err != nil {
		return false, fmt.Errorf("ask for the file system of %s and of its parent: %w", dir, err)
	}
	return own.Dev != up.Dev, nil
}

// OldTime is how the time is written in the name of what Swap puts aside.
const OldTime = "20060102T150405Z"

// StartsAsStandby reports whether a data directory that is not in use has standby.signal.
func StartsAsStandby(dir string) bool {
	_, err := os.Lstat(filepath.Join(dir, standbySignal))
	return err == nil
}

// Swap puts a copy that Clone made in the place of the data directory of the stopped server, and keeps what was there as <data directory>.old-<UTC
// time>, whose path it returns. This node's configuration files and standby.signal are put into the copy first. It must be of the same cluster,
// version and owner, and on the same file system; a data directory that is a mount point can't be swapped. After an error the data is where it was.
func (s *Server) Swap(newDir string) (old string, err error) {
	if old, err = s.swap(newDir, time.Now()); err != nil {
		return "", fmt.Errorf("swap %s for %s: %w", s.cfg.DataDir, newDir, err)
	}
	return old, nil
}

func (s *Server) swap(newDir string, now time.Time) (string, error) {
	if err := s.mustBeDown(); err != nil {
		return "", err
	}
	v, err := readVersion(newDir)
	if err != nil {
		return "", err
	}
	if v != s.version {
		return "", fmt.Errorf("the copy has version %d, want %d", v, s.version)
	}
	if o, err := ownerOf(newDir); err != nil || o != s.owner {
		return "", errors.Join(err, fmt.Errorf("the copy belongs to %s, want %s", o.name, s.owner.name))
	}
	fresh, err := readControl(newDir)
	if err != nil {
		return "", err
	}
	if mine, err := s.Control(); err != nil {
		s.log.Warn("control file of the old data directory is unreadable, its cluster cannot be compared", "reason", err)
	} else if mine.SystemID != fresh.SystemID {
		return "", fmt.Errorf("the copy is of another cluster: its system identifier is %d, want %d", fresh.SystemID, mine.SystemID)
	}
	parent := filepath.Dir(s.real)
	mounted, err := MountPoint(s.real)
	var up, copied unix.Stat_t
	if err := errors.Join(err, unix.Stat(parent, &up), unix.Stat(newDir, &copied)); err != nil {
		return "", err
	}
	switch {
	case mounted:
		return "", fmt.Errorf("%s is a mount point and cannot be renamed; use a directory below it as the data directory", s.real)
	case copied.Dev != up.Dev:
		return "", fmt.Errorf("the copy is on another file system than %s", parent)
	}
	saved, err := s.ownConfig()
	if err != nil {
		return "", err
	}
	if err := s.restoreConfig(saved, newDir); err != nil {
		return "", err
	}
	if err := s.writeFile(filepath.Join(newDir, standbySignal), nil, 0o600); err != nil {
		return "", err
	}
	old := s.real + ".old-" + now.UTC().Format(OldTime)
	if _, err := os.Lstat(old); err == nil {
		return "", fmt.Errorf("%s is there already", old)
	}
	if err := os.Rename(s.real, old); err != nil {
		if errors.Is(err, syscall.EBUSY) || errors.Is(err, syscall.EXDEV) {
			err = fmt.Errorf("%w (a mount point cannot be renamed)", err)
		}
		return "", err
	}
	if err := os.Rename(newDir, s.real); err != nil {
		return "", errors.Join(err, os.Rename(old, s.real))
	}
	if err := files.SyncDir(parent); err != nil {
		return "", err
	}
	return old, s.unmarkRewind()
}
