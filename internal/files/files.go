package files

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
)

// Options say how a file is replaced. The zero value is one that belongs to us and need not outlive the kernel.
type Options struct {
	Durable bool         // content and name are on disk at the end (fsync(2))
	Owner   *Owner       // nil: us
	Before  func() error // runs when only the name is missing; its error leaves the old file
}

// Owner is a user and a group by number.
type Owner struct{ UID, GID int }

// Replace puts a file, of that mode whatever the umask, in the place of what bears its name, in one step (rename(2)). A symbolic link there is replaced
// and never followed, and nothing is written into a file that somebody else may have open. After an error the old file is as it was, but for one of the
// last fsync: then it may be either.
func Replace(path string, content []byte, mode fs.FileMode, o Options) (err error) {
	dir, name := filepath.Split(path)
	f, err := os.CreateTemp(filepath.Clean(dir), "."+name+".*.tmp")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = f.Close()
			_ = os.Remove(f.Name())
		}
	}()
	_, err = f.Write(content)
	if err == nil {
		err = f.Chmod(mode)
	}
	if err == nil && o.Owner != nil {
		err = f.Chown(o.Owner.UID, o.Owner.GID)
	}
	if err == nil && o.Durable {
		err = f.Sync()
	}
	if err == nil {
		err = f.Close()
	}
	if err == nil && o.Before != nil {
		err = o.Before()
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err == nil && o.Durable {
		err = SyncDir(dir)
	}
	return err
}

// SyncDir makes the names in a directory durable: files that were made there, renamed or removed.
func SyncDir(dir string) (err error) {
	d, err := os.Open(filepath.Clean(dir))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	return d.Sync()
}
