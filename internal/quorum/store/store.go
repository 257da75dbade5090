package store

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"pgvrrp/internal/files"
	"pgvrrp/internal/quorum/record"
)

const (
	fileName = "quorum.db"
	newName  = fileName + ".new" // a first start that has not come to its end
	format   = 2

	probeName = "probe" // what Check writes

	// room is written when the file is made, so that a disk that fills up later does not stop the voter: the log is cut
	// long before it needs more.
	room = 4 << 20

	lockWait = 500 * time.Millisecond
)

// The buckets.
var (
	metaBucket     = []byte("meta")
	logBucket      = []byte("log")    // index → entry
	stableBucket   = []byte("stable") // raft's own keys
	snapBucket     = []byte("snapshots")
	sealedBucket   = []byte("sealed")   // resource → epoch
	promisedBucket = []byte("promised") // resource → epoch
	seenBucket     = []byte("seen")     // peer → its incarnations
	buckets        = [][]byte{metaBucket, logBucket, stableBucket, snapBucket, sealedBucket, promisedBucket, seenBucket}
)

// The keys of metaBucket.
var (
	formatKey      = []byte("format")
	incarnationKey = []byte("incarnation")
	startsKey      = []byte("starts")
	clusterKey     = []byte("cluster")
	longestKey     = []byte("longest")
	wordsKey       = []byte("words")
	outlivedKey    = []byte("outlived")
)

// Raft's keys, whose presence says that it has run.
var (
	keyCurrentTerm  = []byte("CurrentTerm")
	keyLastVoteTerm = []byte("LastVoteTerm")
)

// Options are how to open a store.
type Options struct {
	Log    *slog.Logger // nil: silent
	NoSync bool         // for tests alone: nothing waits for the disk, and no room is kept
	// ReadOnly opens what is there, and neither makes nor counts anything.
	ReadOnly bool
}

// Identity is which state directory this is.
type Identity struct {
	Cluster     string // "": part of none yet
	Incarnation string // 16 hex digits, chosen when the directory was first used
	Starts      uint64 // how often it was opened, from 1
	Words       uint64 // how many it had given when it was opened; see Store.Words
}

// Store is an open state directory. Safe for concurrent use.
type Store struct {
	dir, path string
	log       *slog.Logger
	db        *bbolt.DB
	lock      *os.File

	identity atomic.Pointer[Identity]
	outlived atomic.Pointer[string] // nil: as far as is known it is not
	failed   atomic.Pointer[error]

	words words
	given atomic.Uint64 // on disk

	admission sync.Mutex // one Admit at a time
	seen      map[string][]Seen

	hearing sync.Mutex
	told    map[string]told // by peer: the words of its run, on disk or not yet

	probe *files.Probe
}

// Open opens the state directory dir, and makes it at its first use. The start is counted on disk before Open returns. A
// directory that another process has open is an error, and so is a damaged file.
func Open(dir string, o Options) (*Store, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	s := &Store{dir: dir, path: filepath.Join(dir, fileName), log: o.Log, told: map[string]told{}, probe: files.NewProbe(filepath.Join(dir, probeName))}
	if err := s.open(o); err != nil {
		_ = s.Close()
		return nil, fmt.Errorf("open state directory %s: %w", dir, err)
	}
	return s, nil
}

func (s *Store) open(o Options) (err error) {
	if !o.ReadOnly {
		if err := makeDir(s.dir); err != nil {
			return err
		}
	}
	if s.lock, err = lockDir(s.dir); err != nil {
		return err
	}
	if !o.ReadOnly {
		err = s.prepare(o)
	} else {
		_, err = os.Stat(s.path)
	}
	if err != nil {
		return err
	}
	db, err := openDB(s.path, o)
	if errors.Is(err, bolterrors.ErrTimeout) {
		return errInUse
	}
	if err == nil {
		s.db = db
		err = s.guarded(s.load)
	}
	if err != nil {
		return damaged(s.path, err)
	}
	if o.ReadOnly {
		return nil
	}
	return s.start()
}

// prepare makes the file at the first start.
func (s *Store) prepare(o Options) error {
	if err := os.Remove(filepath.Join(s.dir, newName)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove what a first start left: %w", err)
	}
	_, err := os.Stat(s.path)
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := create(s.dir, o); err != nil {
		return fmt.Errorf("make %s: %w", s.path, err)
	}
	s.log.Info("state directory is new", "dir", s.dir)
	return nil
}

var errInUse = errors.New("another vrrpd uses it")

// errVersion is a file of another version of this program, which is not damaged.
var errVersion = errors.New("it was written by another version of vrrpd")

// damaged says what to do about a file that can't be read. Permissions and the like are no damage.
func damaged(path string, err error) error {
	if errors.Is(err, errVersion) || errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("read %s: %w", path, err)
	}
	return fmt.Errorf("%s is damaged: %w; keep vrrpd stopped, move the file away and start vrrpd: this voter then comes back as a new one, and the others give it the log", path, err)
}

// Close gives the directory free. It may be called again.
func (s *Store) Close() error {
	var err error
	if s.db != nil {
		err = s.db.Close()
	}
	if s.lock != nil {
		err = errors.Join(err, s.lock.Close())
		s.lock = nil
	}
	if err != nil {
		return fmt.Errorf("close %s: %w", s.path, err)
	}
	return nil
}

// create makes a whole file under another name first: after a crash at any point there is either none or a good one.
func create(dir string, o Options) (err error) {
	path := filepath.Join(dir, newName)
	defer func() {
		if err != nil {
			_ = os.Remove(path)
		}
	}()
	db, err := openDB(path, o)
	if err != nil {
		return err
	}
	var id [8]byte
	if _, err := rand.Read(id[:]); err != nil {
		return errors.Join(err, db.Close())
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		for _, name := range buckets {
			if _, err := tx.CreateBucket(name); err != nil {
				return err
			}
		}
		m := tx.Bucket(metaBucket)
		if err := putUint(m, formatKey, format); err != nil {
			return err
		}
		return put(m, incarnationKey, []byte(hex.EncodeToString(id[:])))
	})
	if err = errors.Join(err, db.Close()); err != nil {
		return err
	}
	if !o.NoSync {
		if err := fill(path); err != nil {
			return err
		}
		if err := files.NewProbe(filepath.Join(dir, probeName)).Write(context.Background()); err != nil {
			return err
		}
	}
	if err := os.Rename(path, filepath.Join(dir, fileName)); err != nil || o.NoSync {
		return err
	}
	return files.SyncDir(dir)
}

// fill writes the file once more, with zeros behind it up to room: it may have holes, too.
func fill(path string) (err error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if _, err := f.Write(append(b, make([]byte, max(0, room-len(b)))...)); err != nil {
		return err
	}
	return f.Sync()
}

// openDB opens a database file. The library panics at some kinds of damage.
func openDB(path string, o Options) (db *bbolt.DB, err error) {
	var file *os.File
	defer func() {
		if r := recover(); r != nil {
			db, err = nil, fmt.Errorf("%v", r)
		}
		if err != nil && file != nil {
			_ = file.Close() // and with it the lock, if the library did not
		}
	}()
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	db, err = bbolt.Open(path, 0o600, &bbolt.Options{
		Timeout: lockWait, ReadOnly: o.ReadOnly, NoSync: o.NoSync, NoGrowSync: o.NoSync, FreelistType: bbolt.FreelistArrayType,
		OpenFile: func(name string, flag int, mode os.FileMode) (*os.File, error) {
			var err error
			file, err = os.OpenFile(name, flag, mode)
			return file, err
		},
	})
	if err != nil {
		return nil, err
	}
	err = db.View(func(tx *bbolt.Tx) error {
		info, err := file.Stat()
		if err == nil && info.Size() < tx.Size() {
			err = fmt.Errorf("it ends at byte %d, before %d", info.Size(), tx.Size())
		}
		return err
	})
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return db, nil
}

// load reads every value once: what can't be read is noticed at the start and not in the middle of an election.
func (s *Store) load() error {
	return s.db.View(func(tx *bbolt.Tx) error {
		for _, name := range buckets {
			if tx.Bucket(name) == nil {
				return fmt.Errorf("it has no part %q", name)
			}
		}
		m := tx.Bucket(metaBucket)
		if v, err := getUint(m, formatKey); err != nil || v != format {
			return errors.Join(err, errVersion)
		}
		incarnation, err := get(m, incarnationKey)
		if err != nil || len(incarnation) != 16 {
			return errors.Join(err, errors.New("the incarnation is missing"))
		}
		cluster, err := get(m, clusterKey)
		if err != nil {
			return err
		}
		starts, err := getUint(m, startsKey)
		if err != nil {
			return err
		}
		given, err := getUint(m, wordsKey)
		if err != nil {
			return err
		}
		outlived, err := get(m, outlivedKey)
		if err != nil {
			return err
		}
		if outlived != nil {
			s.outlived.Store(new(string(outlived)))
		}
		s.given.Store(given)
		s.identity.Store(&Identity{Cluster: string(cluster), Incarnation: string(incarnation), Starts: starts, Words: given})
		all, err := listSnapshots(tx.Bucket(snapBucket))
		if err != nil {
			return err
		}
		newest := uint64(0)
		if len(all) > 0 {
			newest = all[0].Index
		}
		if err := checkLog(tx.Bucket(logBucket), newest); err != nil {
			return err
		}
		stable := tx.Bucket(stableBucket)
		if err := stable.ForEach(func(k, v []byte) error { _, err := unsum(v); return err }); err != nil {
			return err
		}
		if err := s.words.load(tx); err != nil {
			return err
		}
		return s.loadSeen(tx)
	})
}

// start counts this start. A cluster that was joined in name alone is forgotten: nothing of it is here, and it may be gone.
func (s *Store) start() error {
	id := *s.identity.Load()
	id.Starts++
	err := s.write(fmt.Sprintf("count start %d", id.Starts), func(tx *bbolt.Tx) error {
		m := tx.Bucket(metaBucket)
		empty, err := raftEmpty(tx)
		if err != nil {
			return err
		}
		if empty && id.Cluster != "" {
			id.Cluster = ""
			if err := m.Delete(clusterKey); err != nil {
				return err
			}
		}
		return putUint(m, startsKey, id.Starts)
	})
	if err != nil {
		return err
	}
	s.identity.Store(&id)
	return nil
}

// Identity is which directory and which start of it this is. It does not wait.
func (s *Store) Identity() Identity { return *s.identity.Load() }

// Trouble is the failed write after which nothing is written any more; nil if there was none.
func (s *Store) Trouble() error {
	if err := s.failed.Load(); err != nil {
		return *err
	}
	return nil
}

// Words is how many times this directory has given its word: written something that its voter then told others, or may have told. It only
// grows, and is on disk with the word itself, so that a copy of the directory has fewer unless nothing was lost. Starts and what
// was seen of others are no words: a copy does not grow up by being started.
func (s *Store) Words() uint64 { return s.given.Load() }

// Outlived is why this directory is known to be an old copy: it has forgotten what its voter said, and its voter must take no part
// any more. "" if nothing is known of that.
func (s *Store) Outlived() string {
	if why := s.outlived.Load(); why != nil {
		return *why
	}
	return ""
}

// PutOutlived writes that it is. Only Reset ends it.
func (s *Store) PutOutlived(why string) error {
	if s.Outlived() != "" {
		return nil
	}
	s.outlived.Store(&why)
	return s.write("note that the directory is an old copy", func(tx *bbolt.Tx) error {
		return put(tx.Bucket(metaBucket), outlivedKey, []byte(why))
	})
}

// update is write of a word.
func (s *Store) update(act string, fn func(tx *bbolt.Tx) error) error {
	given := uint64(0)
	err := s.write(act, func(tx *bbolt.Tx) error {
		if err := fn(tx); err != nil {
			return err
		}
		m := tx.Bucket(metaBucket)
		was, err := getUint(m, wordsKey)
		if err != nil {
			return err
		}
		given = was + 1
		return putUint(m, wordsKey, given)
	})
	for err == nil {
		// Two may come back in another order than they were written in.
		if was := s.given.Load(); was >= given || s.given.CompareAndSwap(was, given) {
			break
		}
	}
	return err
}

// write runs fn and has its changes on disk, all or none of them.
func (s *Store) write(act string, fn func(tx *bbolt.Tx) error) error {
	if err := s.Trouble(); err != nil {
		return fmt.Errorf("%s in %s: not after a failed write: %w", act, s.path, err)
	}
	var refused error
	err := s.guarded(func() error {
		return s.db.Update(func(tx *bbolt.Tx) error {
			// Whoever waited for its turn behind the write that failed must not write either.
			if refused = s.Trouble(); refused == nil {
				refused = fn(tx)
			}
			return refused
		})
	})
	if err == nil {
		return nil
	}
	err = fmt.Errorf("%s in %s: %w", act, s.path, err)
	if refused == nil && !errors.Is(err, bolterrors.ErrDatabaseNotOpen) {
		s.failed.CompareAndSwap(nil, &err)
		s.log.Error("state directory: nothing is written any more", "error", err)
	}
	return err
}

func (s *Store) view(act string, fn func(tx *bbolt.Tx) error) error {
	if err := s.guarded(func() error { return s.db.View(fn) }); err != nil {
		if errors.Is(err, raft.ErrLogNotFound) {
			return raft.ErrLogNotFound // raft compares it
		}
		return fmt.Errorf("%s in %s: %w", act, s.path, err)
	}
	return nil
}

// guarded turns a panic of the library and a read error of the mapped file into an error.
func (s *Store) guarded(fn func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%v", r)
		}
	}()
	return fn()
}

// raftEmpty reports whether raft never wrote anything.
func raftEmpty(tx *bbolt.Tx) (bool, error) {
	for _, name := range [][]byte{logBucket, snapBucket} {
		if k, _ := tx.Bucket(name).Cursor().First(); k != nil {
			return false, nil
		}
	}
	for _, key := range [][]byte{keyCurrentTerm, keyLastVoteTerm} {
		if v, err := getUint(tx.Bucket(stableBucket), key); err != nil || v != 0 {
			return false, err
		}
	}
	return true, nil
}

// Empty reports whether there is no log, no snapshot, no term and no vote: the voter was never part of a cluster. If the
// disk can't be read it is not empty.
func (s *Store) Empty() bool {
	var empty bool
	err := s.view("look for a log", func(tx *bbolt.Tx) (err error) {
		empty, err = raftEmpty(tx)
		return err
	})
	return err == nil && empty
}

// SetCluster makes the directory a part of cluster id. Another one can be set only as long as the store is empty.
func (s *Store) SetCluster(id string) error {
	if id == "" {
		return errors.New("set the cluster: no id")
	}
	return s.setCluster("set the cluster", id, func(tx *bbolt.Tx, was string) error {
		empty, err := raftEmpty(tx)
		if err == nil && was != "" && was != id && !empty {
			err = fmt.Errorf("it is part of cluster %s, not of %s", was, id)
		}
		return err
	})
}

// Bootstrap makes the first entry of a new log, the membership c, in cluster id: all of it or nothing. The store must be empty.
func (s *Store) Bootstrap(id string, c raft.Configuration) error {
	if id == "" {
		return errors.New("bootstrap: no cluster id")
	}
	entry := raft.Log{Index: 1, Term: 1, Type: raft.LogConfiguration, Data: raft.EncodeConfiguration(c)}
	return s.setCluster("bootstrap", id, func(tx *bbolt.Tx, _ string) error {
		if empty, err := raftEmpty(tx); err != nil || !empty {
			return errors.Join(err, errors.New("there is a log already"))
		}
		if err := putUint(tx.Bucket(stableBucket), keyCurrentTerm, 1); err != nil {
			return err
		}
		return tx.Bucket(logBucket).Put(key64(1), encodeLog(&entry))
	})
}

func (s *Store) setCluster(act, id string, with func(tx *bbolt.Tx, was string) error) error {
	err := s.update(act, func(tx *bbolt.Tx) error {
		m := tx.Bucket(metaBucket)
		was, err := get(m, clusterKey)
		if err != nil {
			return err
		}
		if err := with(tx, string(was)); err != nil {
			return err
		}
		if bytes.Equal(was, []byte(id)) {
			return nil
		}
		return put(m, clusterKey, []byte(id))
	})
	if err != nil {
		return err
	}
	for {
		old := s.identity.Load()
		now := *old
		now.Cluster = id
		if s.identity.CompareAndSwap(old, &now) {
			return nil
		}
	}
}

// Check writes 4 KiB beside the database and waits for the disk, or for ctx. A write that never returns is found here: the
// links and the log's heartbeats don't touch the disk. It fails too if an earlier write did.
func (s *Store) Check(ctx context.Context) error {
	if err := s.Trouble(); err != nil {
		return err
	}
	if err := s.probe.Write(ctx); err != nil {
		return fmt.Errorf("check the disk of %s: %w", s.dir, err)
	}
	return nil
}

// Seen is one run of a peer's state directory.
type Seen struct {
	Incarnation string
	Starts      uint64
	Boot        record.Boot
	Words       uint64 // at its start; of what is remembered the most that it told
}
