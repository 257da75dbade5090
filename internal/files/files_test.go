package files_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"pgvrrp/internal/files"
)

// Painful problem 24 of keepalived's users: /tmp is everybody's. Whatever stands there under the name, nothing but that name is touched.
func TestReplaceFollowsNothing(t *testing.T) {
	dir := t.TempDir()
	victim, path := filepath.Join(dir, "victim"), filepath.Join(dir, "told")
	if err := os.WriteFile(victim, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, plant := range map[string]func() error{
		"nothing":         func() error { return nil },
		"a symbolic link": func() error { return os.Symlink(victim, path) },
		"a dangling link": func() error { return os.Symlink(filepath.Join(dir, "new"), path) },
		"a hard link":     func() error { return os.Link(victim, path) },
		"a file":          func() error { return os.WriteFile(path, []byte("old"), 0o666) },
	} {
		t.Run(name, func(t *testing.T) {
			_ = os.Remove(path)
			if err := plant(); err != nil {
				t.Fatal(err)
			}
			if err := files.Replace(path, []byte("told"), 0o640, files.Options{Durable: true}); err != nil {
				t.Fatal(err)
			}
			info, err := os.Lstat(path)
			if err != nil || info.Mode() != 0o640 {
				t.Errorf("got %v, %v, want a file of mode 0640", info.Mode(), err)
			}
			if text, err := os.ReadFile(path); err != nil || string(text) != "told" {
				t.Errorf("got %q, %v", text, err)
			}
			if text, err := os.ReadFile(victim); err != nil || string(text) != "precious" {
				t.Errorf("the victim: %q, %v", text, err)
			}
			if all, _ := filepath.Glob(filepath.Join(dir, ".*")); len(all) > 0 {
				t.Errorf("left behind: %q", all)
			}
		})
	}
	if err := os.Mkdir(filepath.Join(dir, "d"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := files.Replace(filepath.Join(dir, "d"), []byte("x"), 0o640, files.Options{}); err == nil {
		t.Error("a directory was replaced")
	}
	if all, _ := filepath.Glob(filepath.Join(dir, ".*")); len(all) > 0 {
		t.Errorf("left behind: %q", all)
	}
}

// The mode is the one that was asked for, none at all included.
func TestReplaceMode(t *testing.T) {
	path := filepath.Join(t.TempDir(), "told")
	for _, mode := range []fs.FileMode{0, 0o600, 0o666} {
		if err := files.Replace(path, nil, mode, files.Options{}); err != nil {
			t.Fatal(err)
		}
		if info, err := os.Stat(path); err != nil || info.Mode() != mode {
			t.Errorf("got %v, %v, want mode %o", info.Mode(), err, mode)
		}
	}
}

// Before runs when the content is there and its name is not; its error leaves the old file, and nothing else.
func TestReplaceBefore(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "pgnotify.conf")
	if err := os.WriteFile(path, []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	failed := errors.New("no")
	before := func() error {
		made, err := filepath.Glob(filepath.Join(dir, ".pgnotify.conf.*.tmp"))
		if err != nil || len(made) != 1 {
			t.Fatalf("got %q, %v, want one file", made, err)
		}
		if text, err := os.ReadFile(made[0]); err != nil || string(text) != "new" {
			t.Errorf("got %q, %v", text, err)
		}
		return failed
	}
	if err := files.Replace(path, []byte("new"), 0o600, files.Options{Before: before}); !errors.Is(err, failed) {
		t.Errorf("got %v, want what Before says", err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 {
		t.Errorf("got %v, %v, want the old file alone", entries, err)
	}
	if text, err := os.ReadFile(path); err != nil || string(text) != "old" {
		t.Errorf("got %q, %v, want the old content", text, err)
	}
}

func TestErrors(t *testing.T) {
	none := filepath.Join(t.TempDir(), "none")
	if err := files.Replace(filepath.Join(none, "x"), nil, 0o600, files.Options{}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Replace: got %v, want %v", err, fs.ErrNotExist)
	}
	if err := files.SyncDir(none); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("SyncDir: got %v, want %v", err, fs.ErrNotExist)
	}
}
