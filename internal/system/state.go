package system

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"

	"pgvrrp/internal/conf"
	"pgvrrp/internal/files"
)

// StateFile is where the daemon lists the addresses that it may have added, for Cleanup after it was killed.
const StateFile = "/run/vrrpd/addresses.json"

// StateEntry is one address in the state file.
type StateEntry struct {
	Owner     string       `json:"owner"` // the virtual router
	Interface string       `json:"interface"`
	Index     int          `json:"index,omitempty"` // of the interface, which may be renamed; 0: it was not there
	Address   netip.Prefix `json:"address"`
	Existed   bool         `json:"existed,omitempty"` // was there before us
}

// state is the file's content.
type state struct {
	Version   int          `json:"version"`
	Addresses []StateEntry `json:"addresses"`
}

const stateVersion = 1

// stateFile is the state file and what it says. Its user serialises the calls.
type stateFile struct {
	path    string
	entries []StateEntry
	index   map[stateKey]int // place in entries
	former  map[string]bool  // owners that only a former run knew
	lost    bool             // what a former run had listed could not be read
}

// openStateFile reads the file of a former run; none is as good as an empty one. One that makes no sense is put aside, so that
// it keeps nobody from cleaning up, and reported; then our tag alone tells what is ours.
func openStateFile(path string, log *slog.Logger) (*stateFile, error) {
	s := &stateFile{path: path, former: map[string]bool{}}
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read state file: %w", err)
	}
	var st state
	if err = json.Unmarshal(b, &st); err == nil && st.Version != stateVersion {
		err = fmt.Errorf("version %d, want %d", st.Version, stateVersion)
	}
	if err != nil {
		log.Warn("state file put aside", "file", path, "as", path+".bad", "error", err)
		if err := os.Rename(path, path+".bad"); err != nil {
			return nil, fmt.Errorf("put garbled state file aside: %w", err)
		}
		s.lost = true
		return s, nil
	}
	s.entries, s.index = st.Addresses, indexOf(st.Addresses)
	for _, e := range s.entries {
		s.former[e.Owner] = true
	}
	return s, nil
}

// stateKey is one entry's place in the index.
type stateKey struct {
	owner string
	id    addressID
}

func (e StateEntry) id() addressID { return addressID{e.Interface, e.Address} }

func indexOf(entries []StateEntry) map[stateKey]int {
	index := make(map[stateKey]int, len(entries))
	for place, e := range entries {
		index[stateKey{e.Owner, e.id()}] = place
	}
	return index
}

// covers reports whether every address of the sets is declared, in this run and for the interface of today. indexes are those
// of the interfaces that are there.
func (s *stateFile) covers(sets []Set, indexes map[string]int) bool {
	for _, set := range sets {
		if s.former[set.Owner] {
			return false
		}
		for _, addr := range set.Addresses {
			place, listed := s.index[stateKey{set.Owner, idOf(addr)}]
			if now := indexes[addr.Interface]; !listed || now != 0 && s.entries[place].Index != now {
				return false
			}
		}
	}
	return true
}

// declare lists the sets. What an owner had listed stays listed until forget, because it may still stand; existed
// tells whether an address that was not listed before is somebody else's.
func (s *stateFile) declare(sets []Set, indexes map[string]int, existed func(conf.Address) bool) error {
	entries := slices.Clone(s.entries)
	index, ours := indexOf(entries), s.added()
	for _, set := range sets {
		for _, addr := range set.Addresses {
			key := stateKey{set.Owner, idOf(addr)}
			now := indexes[addr.Interface]
			if place, listed := index[key]; listed {
				if now != 0 {
					entries[place].Index = now
				}
				continue
			}
			index[key] = len(entries)
			entries = append(entries, StateEntry{
				Owner: set.Owner, Interface: key.id.iface, Index: now, Address: key.id.prefix,
				Existed: !ours[key.id] && existed(addr),
			})
		}
	}
	return s.write(entries, func() {
		for _, set := range sets {
			delete(s.former, set.Owner)
		}
	})
}

// forget takes owners out.
func (s *stateFile) forget(owners []string) error {
	entries := slices.DeleteFunc(slices.Clone(s.entries), func(e StateEntry) bool { return slices.Contains(owners, e.Owner) })
	if len(entries) == len(s.entries) {
		return nil
	}
	return s.write(entries, func() {
		for _, o := range owners {
			delete(s.former, o)
		}
	})
}

// listed are all addresses of the file, also by the names that their interfaces have now, and whether it can be believed to
// list all.
func (s *stateFile) listed(names map[int]string) (all map[addressID]bool, complete bool) {
	all = map[addressID]bool{}
	for _, e := range s.entries {
		all[e.id()] = true
		if name, ok := names[e.Index]; ok {
			all[addressID{name, e.Address}] = true
		}
	}
	return all, !s.lost
}

// forgetFormer takes out what only a former run knew.
func (s *stateFile) forgetFormer() error {
	entries := slices.DeleteFunc(slices.Clone(s.entries), func(e StateEntry) bool { return s.former[e.Owner] })
	if len(entries) == len(s.entries) {
		return s.removeIfEmpty()
	}
	if err := s.write(entries, func() { clear(s.former) }); err != nil {
		return err
	}
	return s.removeIfEmpty()
}

// added are the addresses that we added, as far as the file can tell.
func (s *stateFile) added() map[addressID]bool {
	added := map[addressID]bool{}
	for _, e := range s.entries {
		if !e.Existed {
			added[e.id()] = true
		}
	}
	return added
}

// removeIfEmpty removes a file that lists nothing.
func (s *stateFile) removeIfEmpty() error {
	if len(s.entries) > 0 {
		return nil
	}
	if err := os.Remove(s.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove state file: %w", err)
	}
	return nil
}

// write replaces the file in one step: a reader, or we after a crash, find the old or the new list. /run does not
// outlive the kernel, as the addresses do not, so nothing is synced to a disk.
func (s *stateFile) write(entries []StateEntry, done func()) error {
	err := func() error {
		b, err := json.MarshalIndent(state{stateVersion, entries}, "", "\t")
		if err != nil {
			return err
		}
		if err := os.MkdirAll(filepath.Dir(s.path), 0o755); err != nil {
			return err
		}
		return files.Replace(s.path, append(b, '\n'), 0o600, files.Options{})
	}()
	if err != nil {
		return fmt.Errorf("write state file %s: %w", s.path, err)
	}
	s.entries, s.index = entries, indexOf(entries)
	done()
	return nil
}
