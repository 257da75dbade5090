package system

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"pgvrrp/internal/files"
)

// sysctlDir is where the kernel's settings are (proc_sys(5)).
const sysctlDir = "/proc/sys"

// Sysctls changes settings of the kernel for several owners and puts them back. It is safe for concurrent use, on threads of one
// network namespace.
type Sysctls struct {
	path string

	mu    sync.Mutex
	saved []savedSysctl // in the order of their change
}

// savedSysctl is a setting that we changed.
type savedSysctl struct {
	Key    string   `json:"key"` // below /proc/sys
	Was    string   `json:"was"`
	Set    string   `json:"set"`
	owners []string // who wants it so; none: a former run did
}

// OpenSysctls reads what a former run has changed and not put back, if file lists that. "" keeps no list.
func OpenSysctls(log *slog.Logger, file string) (*Sysctls, error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	s := &Sysctls{path: file}
	if file == "" {
		return s, nil
	}
	b, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read list of settings: %w", err)
	}
	if err := json.Unmarshal(b, &s.saved); err != nil {
		s.saved = nil
		log.Warn("list of changed settings put aside, they stay as they are", "file", file, "as", file+".bad", "error", err)
		if err := os.Rename(file, file+".bad"); err != nil {
			return nil, fmt.Errorf("put garbled list of settings aside: %w", err)
		}
	}
	return s, nil
}

// ReadSysctl reads a setting; key is a path below /proc/sys.
func ReadSysctl(key string) (string, error) {
	b, err := os.ReadFile(filepath.Join(sysctlDir, key))
	if err != nil {
		return "", fmt.Errorf("read setting %s: %w", key, err)
	}
	return strings.TrimSpace(string(b)), nil
}

// WriteSysctl writes a setting for good.
func WriteSysctl(key, value string) error {
	if err := os.WriteFile(filepath.Join(sysctlDir, key), []byte(value), 0); err != nil {
		return fmt.Errorf("write setting %s: %w", key, err)
	}
	return nil
}

// Set gives a setting a value until the owner releases it, and writes down before what it was. One that has the value already
// is left alone, and stays as it is at the end, unless another owner gave it.
func (s *Sysctls) Set(owner, key, value string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	now, err := ReadSysctl(key)
	if err != nil {
		return err
	}
	k := slices.IndexFunc(s.saved, func(x savedSysctl) bool { return x.Key == key })
	if k < 0 {
		if now == value {
			return nil
		}
		s.saved = append(s.saved, savedSysctl{Key: key, Was: now, Set: value})
		k = len(s.saved) - 1
		if err := s.write(); err != nil {
			s.saved = s.saved[:k]
			return err
		}
	}
	s.saved[k].own(owner)
	if now == value {
		return nil
	}
	return WriteSysctl(key, value)
}

// Join has a setting that was changed already stay so until this owner releases it, too. One that was not changed is left alone.
func (s *Sysctls) Join(owner, key string) { s.join(owner, func(k string) bool { return k == key }) }

func (s *Sysctls) join(owner string, which func(key string) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for k := range s.saved {
		if x := &s.saved[k]; which(x.Key) {
			x.own(owner)
		}
	}
}

func (x *savedSysctl) own(owner string) {
	if !slices.Contains(x.owners, owner) {
		x.owners = append(x.owners, owner)
	}
}

// Release puts back what nobody but the owners given wants changed. What somebody else has changed meanwhile, or what is gone
// with its interface, is left alone.
func (s *Sysctls) Release(owners ...string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.putBack(func(x *savedSysctl) bool {
		had := len(x.owners) > 0
		x.owners = slices.DeleteFunc(x.owners, func(o string) bool { return slices.Contains(owners, o) })
		return had && len(x.owners) == 0
	})
}

// Owners are all who want settings changed.
func (s *Sysctls) Owners() (all []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, x := range s.saved {
		all = append(all, x.owners...)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// Cleanup puts back what a former run has changed, and returns the settings.
func (s *Sysctls) Cleanup() (keys []string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.former(), s.putBack(func(x *savedSysctl) bool { return len(x.owners) == 0 })
}

// Leftovers is what Cleanup would put back.
func (s *Sysctls) Leftovers() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.former()
}

func (s *Sysctls) former() (keys []string) {
	for _, x := range s.saved {
		if now, err := ReadSysctl(x.Key); len(x.owners) == 0 && err == nil && now == x.Set {
			keys = append(keys, x.Key)
		}
	}
	return keys
}

// putBack puts back what done chooses, the last change first. The caller holds mu.
func (s *Sysctls) putBack(done func(*savedSysctl) bool) error {
	var errs []error
	var left []savedSysctl
	for k := len(s.saved) - 1; k >= 0; k-- {
		x := s.saved[k]
		if !done(&x) {
			left = append(left, x)
			continue
		}
		now, err := ReadSysctl(x.Key)
		if err == nil && now == x.Set {
			err = WriteSysctl(x.Key, x.Was)
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs, left = append(errs, err), append(left, x)
		}
	}
	slices.Reverse(left)
	if len(left) == len(s.saved) {
		s.saved = left
		return errors.Join(errs...)
	}
	s.saved = left
	return errors.Join(append(errs, s.write())...)
}

// write replaces the list. The caller holds mu.
func (s *Sysctls) write() error {
	if s.path == "" {
		return nil
	}
	var err error
	if len(s.saved) == 0 {
		if err = os.Remove(s.path); errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
	} else {
		var b []byte
		if b, err = json.MarshalIndent(s.saved, "", "\t"); err == nil {
			err = files.Replace(s.path, append(b, '\n'), 0o600, files.Options{})
		}
	}
	if err != nil {
		return fmt.Errorf("write list of settings %s: %w", s.path, err)
	}
	return nil
}
