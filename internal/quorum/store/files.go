package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"pgvrrp/internal/files"
)

// makeDir makes dir and what is missing above it, for the owner alone.
func makeDir(dir string) error {
	info, err := os.Stat(dir)
	switch {
	case err == nil && info.IsDir():
		return nil
	case err == nil:
		return fmt.Errorf("%s is not a directory", dir)
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	parent := filepath.Dir(dir)
	if err := makeDir(parent); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return files.SyncDir(parent)
}

// lockDir takes the lock of dir. The database has its own, but not while it is made or moved.
func lockDir(dir string) (*os.File, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	for deadline := time.Now().Add(lockWait); ; {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		switch {
		case err == nil:
			return f, nil
		case errors.Is(err, unix.EINTR):
			continue
		case !errors.Is(err, unix.EWOULDBLOCK):
			err = fmt.Errorf("lock it: %w", err)
		case time.Now().Before(deadline):
			<-time.After(10 * time.Millisecond)
			continue
		default:
			err = errInUse
		}
		return nil, errors.Join(err, f.Close())
	}
}

// Reset moves the database of dir away, as quorum.db.old- and the time, with reason in a file beside it. The next Open makes
// a new one, with another incarnation: the voter has to be added to the quorum again. No process may have dir open.
func Reset(dir, reason string) error {
	fail := func(err error) error { return fmt.Errorf("reset state directory %s: %w", dir, err) }
	lock, err := lockDir(dir)
	if err != nil {
		return fail(err)
	}
	defer lock.Close()
	path := filepath.Join(dir, fileName)
	if _, err := os.Stat(path); err != nil {
		return fail(err)
	}
	stem := path + ".old-" + time.Now().UTC().Format("20060102T150405Z")
	old := stem
	for k := 2; ; k++ {
		if _, err := os.Lstat(old); errors.Is(err, fs.ErrNotExist) {
			break
		} else if err != nil {
			return fail(err)
		}
		old = fmt.Sprintf("%s-%d", stem, k)
	}
	if err := os.WriteFile(old+".why", []byte(strings.TrimSpace(reason)+"\n"), 0o600); err != nil {
		return fail(err)
	}
	if err := os.Rename(path, old); err != nil {
		return fail(err)
	}
	if err := files.SyncDir(dir); err != nil {
		return fail(err)
	}
	return nil
}

// Adopt makes the database of the directory from that of dir, which has none. No process may have either open.
func Adopt(dir, from string) error {
	fail := func(err error) error { return fmt.Errorf("adopt %s in %s: %w", from, dir, err) }
	lock, err := lockDir(dir)
	if err != nil {
		return fail(err)
	}
	defer lock.Close()
	path := filepath.Join(dir, fileName)
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		return fail(errors.Join(err, errors.New("there is a database already")))
	}
	if err := os.Rename(filepath.Join(from, fileName), path); err != nil {
		return fail(err)
	}
	if err := files.SyncDir(dir); err != nil {
		return fail(err)
	}
	return os.RemoveAll(from)
}
