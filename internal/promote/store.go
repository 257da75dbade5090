package promote

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"pgvrrp/internal/files"
	"pgvrrp/internal/postgres"
)

// Store is the state directory: the newest state of each virtual router, locks, markers and the history of decisions.
type Store struct {
	dir  string
	data string // names the data directory in file names
}

// OpenStore opens the state directory dir for the server in dataDir; dir must exist and be writable, but for a file system that is read-only now:
// a primary is stopped from there, too.
func OpenStore(dir, dataDir string) (*Store, error) {
	if err := unix.Access(dir, unix.R_OK|unix.W_OK|unix.X_OK); err != nil && !errors.Is(err, unix.EROFS) {
		return nil, fmt.Errorf("open state directory %s: %w", dir, err)
	}
	sum := sha256.Sum256([]byte(filepath.Clean(dataDir)))
	return &Store{dir, fileName(filepath.Base(dataDir)) + "-" + hex.EncodeToString(sum[:4])}, nil
}

// fileName makes any instance name a file name of its own.
func fileName(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '_', c == '-', c == '.' && i > 0:
			b.WriteByte(c)
		default:
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}

func (s *Store) path(name string) string { return filepath.Join(s.dir, name) }

// write replaces a file whole. With sync it is on disk before write returns.
func (s *Store) write(name string, v any, sync bool) error {
	text, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("write %s: %w", s.path(name), err)
	}
	if err := files.Replace(s.path(name), append(text, '\n'), 0o600, files.Options{Durable: sync}); err != nil {
		return fmt.Errorf("write %s: %w", s.path(name), err)
	}
	return nil
}

// read fills v; found is false if the file is not there.
func (s *Store) read(name string, v any) (found bool, err error) {
	text, err := os.ReadFile(s.path(name))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err == nil {
		err = json.Unmarshal(text, v)
	}
	if err != nil {
		return false, fmt.Errorf("read %s: %w", s.path(name), err)
	}
	return true, nil
}

func (s *Store) remove(name string, sync bool) error {
	if err := os.Remove(s.path(name)); err != nil {
		if _, lerr := os.Lstat(s.path(name)); !errors.Is(lerr, fs.ErrNotExist) { // of what is not there a read-only file system complains, too
			return fmt.Errorf("remove %s: %w", s.path(name), err)
		}
	}
	if !sync {
		return nil
	}
	return files.SyncDir(s.dir)
}

// Process names one process beyond the reuse of its number, and orders processes by their start.
type Process struct {
	Boot   string `json:"boot"`
	Leader uint64 `json:"leader_ticks"` // start of the hook's process group: the daemon's moment, even behind a wrapper script
	Start  uint64 `json:"start_ticks"`  // our own start, clock ticks since boot (proc(5), stat field 22)
	PID    int    `json:"pid"`
}

// ThisProcess reads /proc of this process.
func ThisProcess() (Process, error) {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return Process{}, fmt.Errorf("read boot id: %w", err)
	}
	p := Process{Boot: string(bytes.TrimSpace(boot)), PID: os.Getpid()}
	if p.Start, _, err = procStat(p.PID); err != nil {
		return Process{}, err
	}
	// Daemons give each hook a process group of its own, so its leader is the hook or the script around it. A leader that
	// also leads a session is a daemon or a shell and says nothing about the hook.
	p.Leader = p.Start
	if group := syscall.Getpgrp(); group != p.PID {
		if start, session, err := procStat(group); err == nil && session != group {
			p.Leader = start
		}
	}
	return p, nil
}

// procStat reads a process's start and session.
func procStat(pid int) (start uint64, session int, err error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, 0, fmt.Errorf("read start of process %d: %w", pid, err)
	}
	// The second field is the program's name in parentheses and may hold anything.
	fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
	if len(fields) < 20 {
		return 0, 0, fmt.Errorf("read start of process %d: short /proc/%d/stat", pid, pid)
	}
	session, err = strconv.Atoi(fields[3])
	if err == nil {
		start, err = strconv.ParseUint(fields[19], 10, 64)
	}
	if err != nil {
		return 0, 0, fmt.Errorf("read start of process %d: %w", pid, err)
	}
	return start, session, nil
}

// before reports whether p was started before q in the same boot.
func (p Process) before(q Process) bool {
	if p.Boot != q.Boot {
		return false
	}
	if p.Leader != p.Start && p.Leader < q.Start && p.Leader != q.Leader {
		return true
	}
	if p.Start != q.Start {
		return p.Start < q.Start
	}
	return p.PID < q.PID
}

func (p Process) alive() bool {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil || string(bytes.TrimSpace(boot)) != p.Boot {
		return false
	}
	start, _, err := procStat(p.PID)
	return err == nil && start == p.Start
}

// Record is the newest state delivered for one virtual router.
type Record struct {
	Seq      uint64    `json:"seq"`
	Type     string    `json:"type"`
	Name     string    `json:"name"`
	State    string    `json:"state"`
	Priority int       `json:"priority"`
	At       time.Time `json:"at"`
	Process  Process   `json:"process"`
}

// OvertakenError says that a newer state was delivered.
type OvertakenError struct{ By Record }

func (e *OvertakenError) Error() string {
	return fmt.Sprintf("%s came at %s (number %d)", e.By.State, e.By.At.Format("15:04:05.000"), e.By.Seq)
}

func hookFile(name string) string { return "hook-" + fileName(name) + ".json" }

// Deliver makes ev the newest state of its virtual router, on disk. A hook that was started before the one that wrote the
// newest state is late: then the error is an *OvertakenError and nothing is written. Of a MASTER the start of its process
// group counts, so that it is late too when a wrapper script held it up.
func (s *Store) Deliver(ctx context.Context, ev Event, by Process) (Record, error) {
	unlock, err := s.flock(ctx, hookFile(ev.Name)+".lock", nil)
	if err != nil {
		return Record{}, err
	}
	defer unlock()
	var last Record
	if _, err := s.read(hookFile(ev.Name), &last); err != nil {
		return Record{}, err
	}
	order := by
	if ev.State != Master {
		order.Leader = order.Start // stepping down late does no harm; being taken for late by mistake would
	}
	if order.before(last.Process) {
		return Record{}, &OvertakenError{last}
	}
	r := Record{Seq: last.Seq + 1, Type: ev.Type, Name: ev.Name, State: ev.State, Priority: ev.Priority, At: time.Now(), Process: by}
	if err := s.writeRecord(r); err != nil {
		return Record{}, err
	}
	return r, nil
}

// recordSize is what a record is filled up to: a sector of a disk, which is written whole or not at all.
const recordSize = 512

// writeRecord puts a record on disk. Where there is no room for the file that is to replace the last one, it is written over that: a state that is not
// noted overtakes nothing, and what works behind a hook goes by an older one.
func (s *Store) writeRecord(r Record) error {
	path := s.path(hookFile(r.Name))
	text, err := json.Marshal(r)
	if err == nil {
		text = append(text, bytes.Repeat([]byte(" "), max(0, recordSize-1-len(text)))...)
		text = append(text, '\n')
		err = files.Replace(path, text, 0o600, files.Options{Durable: true})
	}
	if err != nil && overwrite(path, text) != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

// overwrite writes a record over another of the same size.
func overwrite(path string, text []byte) (err error) {
	f, err := os.OpenFile(path, os.O_WRONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if info, err := f.Stat(); err != nil || info.Size() != recordSize || len(text) != recordSize {
		return errors.Join(err, errors.New("not a record of that size"))
	}
	if _, err := f.WriteAt(text, 0); err != nil {
		return err
	}
	return f.Sync()
}

// Newest reads the newest state of a virtual router; the zero Record if none was ever delivered.
func (s *Store) Newest(name string) (Record, error) {
	var r Record
	_, err := s.read(hookFile(name), &r)
	return r, err
}

// StillNewest is nil while r is the newest state, an *OvertakenError after that, or says why it could not be checked.
func (s *Store) StillNewest(r Record) error {
	now, err := s.Newest(r.Name)
	if err != nil {
		return err
	}
	if now.Seq != r.Seq {
		return &OvertakenError{now}
	}
	return nil
}

// StillIn is nil while the newest state of the virtual router is that one, whoever delivered it.
func (s *Store) StillIn(name, state string) error {
	r, err := s.Newest(name)
	if err != nil {
		return err
	}
	if r.State != state {
		return &OvertakenError{r}
	}
	return nil
}

// Mark is what the virtual routers were told up to a moment: the number of each one's newest state, by its file. Times would not do: a
// clock that is set back makes a newer state look older.
type Mark map[string]uint64

// Mark notes the moment for NoneSince.
func (s *Store) Mark() (Mark, error) {
	m := Mark{}
	return m, s.records(func(file string, r Record) error {
		m[file] = r.Seq
		return nil
	})
}

// NoneSince is nil while no virtual router was told another state than that one since then: for work that belongs to none.
func (s *Store) NoneSince(then Mark, state string) error {
	return s.records(func(file string, r Record) error {
		if r.Seq != then[file] && r.State != state {
			return &OvertakenError{r}
		}
		return nil
	})
}

// records gives the newest state of each virtual router to fn, up to its first error. One that can't be read hides no other.
func (s *Store) records(fn func(file string, r Record) error) error {
	files, err := filepath.Glob(s.path("hook-*.json"))
	if err != nil {
		return fmt.Errorf("look for newer states: %w", err)
	}
	var unread []error
	for _, file := range files {
		var r Record
		if _, err := s.read(filepath.Base(file), &r); err != nil {
			unread = append(unread, err)
		} else if err := fn(filepath.Base(file), r); err != nil {
			return err
		}
	}
	return errors.Join(unread...)
}

// watch returns a context that is cancelled, with the error as its cause, soon after wanted gives one.
func watch(ctx context.Context, every time.Duration, wanted func() error) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	go func() {
		tick := time.NewTicker(every)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			if err := wanted(); err != nil {
				cancel(err)
				return
			}
		}
	}()
	return ctx, func() { cancel(context.Canceled) }
}

// flock takes a lock that dies with this process and that no child inherits. while, if not nil, may end the waiting.
func (s *Store) flock(ctx context.Context, name string, while func() error) (unlock func(), err error) {
	f, err := os.OpenFile(s.path(name), os.O_RDWR|os.O_CREATE|syscall.O_CLOEXEC, 0o600)
	if errors.Is(err, unix.EROFS) {
		f, err = os.Open(s.path(name))
	}
	if err != nil {
		return nil, fmt.Errorf("open lock: %w", err)
	}
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { f.Close() }, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			f.Close()
			return nil, fmt.Errorf("lock %s: %w", s.path(name), err)
		}
		if while != nil {
			if err := while(); err != nil {
				f.Close()
				return nil, err
			}
		}
		select {
		case <-ctx.Done():
			f.Close()
			return nil, fmt.Errorf("wait for lock %s: %w", s.path(name), context.Cause(ctx))
		case <-tick.C:
		}
	}
}

// errTaken is tryLock's that somebody else has the lock.
var errTaken = errors.New("somebody else has the lock")

// tryLock is flock for who does not wait.
func (s *Store) tryLock(name string) (unlock func(), err error) {
	return s.flock(context.Background(), name, func() error { return errTaken })
}

func (s *Store) dataLock() string { return "data-" + s.data + ".lock" }

// Lock takes the data directory for one pgnotify; what is told to those who wait.
func (s *Store) Lock(ctx context.Context, what string, while func() error) (unlock func(), err error) {
	release, err := s.flock(ctx, s.dataLock(), while)
	if err != nil {
		if holder := s.activity(activityWork); holder != "" {
			return nil, fmt.Errorf("%w (at work: %s)", err, holder)
		}
		return nil, err
	}
	done := s.begin(activityWork, activity{What: what})
	return func() { done(); release() }, nil
}

// What work is called that runs behind a hook and gives way to whoever works by hand.
const (
	following = "follow the VIP"
	retrying  = "become the primary"
)

// TakeRejoin is lockRejoin for somebody who works by hand: work behind a hook is asked to end, also one that only begins while we wait, which a
// rewind under way does only when it is done; another one by hand is not disturbed, and a second is enough for it. What has ended is for the caller to
// begin again, also after an error.
func (s *Store) TakeRejoin(ctx context.Context, what string, patience time.Duration) (ended activity, unlock func(), err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, patience, errors.New("another rejoin is at work"))
	defer cancel()
	seen := time.Now() // work behind a hook, or nobody yet: who has just taken the lock has not said so
	unlock, err = s.lockRejoin(ctx, what, "", func() error {
		var a activity
		found, err := s.read("data-"+s.data+"."+activityRejoin+".json", &a)
		switch {
		case err != nil:
			return err
		case !found || !a.Process.alive() || !a.behind():
			if time.Since(seen) > time.Second {
				return fmt.Errorf("wait for lock %s: another rejoin is at work", s.path(s.rejoinLock()))
			}
			return nil
		}
		seen = time.Now()
		if a.Process == ended.Process {
			return nil
		}
		if err := syscall.Kill(a.Process.PID, syscall.SIGTERM); err != nil && !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("end the work behind a hook (process %d): %w", a.Process.PID, err)
		}
		ended = a
		return nil
	})
	if at := s.activity(activityRejoin); err != nil && at != "" {
		err = fmt.Errorf("%w (%s)", err, at)
	}
	return ended, unlock, err
}

// LockRetry takes the place of the one rejoin for the work behind a MASTER. The follower of the BACKUP before may have a copy to remove; one that tries
// already does our work.
func (s *Store) LockRetry(ctx context.Context, master Record) (unlock func(), err error) {
	start := time.Now()
	return s.lockRejoin(ctx, retrying, master.Name, func() error {
		if a, alive := s.living(activityRejoin); alive && a.What == retrying && time.Since(start) > time.Second { // and not one that has just been overtaken
			return errors.New("it is being tried already")
		}
		return s.StillNewest(master)
	})
}

func (s *Store) rejoinLock() string { return "data-" + s.data + ".rejoin.lock" }

// lockRejoin takes the place of the one rejoin at a time, for a virtual router or for none.
func (s *Store) lockRejoin(ctx context.Context, what, instance string, while func() error) (unlock func(), err error) {
	release, err := s.flock(ctx, s.rejoinLock(), while)
	if err != nil {
		return nil, err
	}
	done := s.begin(activityRejoin, activity{What: what, Instance: instance})
	return func() { done(); release() }, nil
}

// The two kinds of work that may be under way side by side.
const (
	activityWork   = "work"
	activityRejoin = "rejoin"
)

type activity struct {
	What     string    `json:"what"`
	Instance string    `json:"instance,omitempty"` // whose hook it runs behind
	Since    time.Time `json:"since"`
	Process  Process   `json:"process"`
}

// begin says what we do, to whoever asks. That it can't be said, on a full disk, must not keep a server from being stopped.
func (s *Store) begin(kind string, a activity) (done func()) {
	name := "data-" + s.data + "." + kind + ".json"
	var err error
	if a.Process, err = ThisProcess(); err == nil {
		a.Since = time.Now()
		err = s.write(name, a, false)
	}
	if err != nil {
		return func() {}
	}
	return func() { _ = s.remove(name, false) } // a left-over names a dead process and counts for nothing
}

// activity says in words what a living pgnotify of that kind does; "" if none is at work.
func (s *Store) activity(kind string) string {
	if a, alive := s.living(kind); alive {
		return a.String()
	}
	return ""
}

// living is what a living pgnotify of that kind does, if one is at work.
func (s *Store) living(kind string) (a activity, alive bool) {
	found, err := s.read("data-"+s.data+"."+kind+".json", &a)
	return a, err == nil && found && a.Process.alive()
}

// endRetry ends work that tries a MASTER again.
func (s *Store) endRetry() {
	if a, alive := s.living(activityRejoin); alive && a.What == retrying {
		_ = syscall.Kill(a.Process.PID, syscall.SIGTERM) // else it has ended
	}
}

// behind reports whether it runs behind a hook.
func (a activity) behind() bool { return a.What == following || a.What == retrying }

func (a activity) String() string {
	return fmt.Sprintf("%s since %s, process %d", a.What, a.Since.Format("15:04:05"), a.Process.PID)
}

// Busy says in words what a living pgnotify does with the data directory; "" if nothing.
func (s *Store) Busy() string {
	if a := s.activity(activityWork); a != "" {
		return a
	}
	return s.activity(activityRejoin)
}

// Rebuild is the marker of a data directory that is not as its last server left it.
type Rebuild struct {
	Phase Phase     `json:"phase"`
	Why   string    `json:"why"`
	Since time.Time `json:"since"`
	Old   string    `json:"old,omitempty"` // where the first clone put what was there
	// Copied: in the data directory is a copy that nobody has seen stream. Unused is one that the next copy has put aside, which is good for nothing.
	Copied bool   `json:"copied,omitempty"`
	Unused string `json:"unused,omitempty"`
}

// Rebuild reads the marker.
func (s *Store) Rebuild() (Rebuild, error) {
	var r Rebuild
	_, err := s.read("data-"+s.data+".rebuild.json", &r)
	return r, err
}

// replaced is the marker that another one takes the place of; what can't be read is none.
func (s *Store) replaced() Rebuild {
	r, err := s.Rebuild()
	if err != nil {
		return Rebuild{}
	}
	return r
}

// SetRebuild writes the marker to disk; PhaseNone removes it. What was put aside stays noted until then.
func (s *Store) SetRebuild(r Rebuild) error {
	if r.Phase == PhaseNone {
		return s.remove("data-"+s.data+".rebuild.json", true)
	}
	was := s.replaced()
	r.Old, r.Unused = cmp.Or(r.Old, was.Old), cmp.Or(r.Unused, was.Unused)
	r.Since = time.Now()
	return s.write("data-"+s.data+".rebuild.json", r, true)
}

// SetPromoting notes that a promotion was asked for. It needs not outlive the host: PostgreSQL starts as a standby.
func (s *Store) SetPromoting(on bool) error {
	if !on {
		return s.remove("data-"+s.data+".promoting.json", false)
	}
	return s.write("data-"+s.data+".promoting.json", struct{ Since time.Time }{time.Now()}, false)
}

// Promoting reports whether a promotion was asked for whose end nobody saw.
func (s *Store) Promoting() (bool, error) {
	var v struct{ Since time.Time }
	return s.read("data-"+s.data+".promoting.json", &v)
}

// Keep writes a value of this data directory to disk under a name: it is there after any crash once Keep has returned nil.
func (s *Store) Keep(name string, v any) error {
	return s.write("data-"+s.data+"."+name+".json", v, true)
}

// Kept reads what Keep wrote; found is false if it never did.
func (s *Store) Kept(name string, v any) (found bool, err error) {
	return s.read("data-"+s.data+"."+name+".json", v)
}

// cloning is the directory that a clone fills.
type cloning struct {
	Dir   string `json:"dir"`
	Whole bool   `json:"whole,omitempty"` // the copy is complete and on disk: it takes the data directory's place
	Why   string `json:"why,omitempty"`
}

func (s *Store) cloningFile() string { return "data-" + s.data + ".cloning.json" }

// SetCloning notes the directory that a clone fills, before it is made; "" once that is gone.
func (s *Store) SetCloning(dir string) error {
	if dir == "" {
		return s.remove(s.cloningFile(), true)
	}
	return s.write(s.cloningFile(), cloning{Dir: dir}, true)
}

// Cloning is the directory that an unfinished clone fills; "" if there is none.
func (s *Store) Cloning() (string, error) {
	c, err := s.cloning()
	return c.Dir, err
}

func (s *Store) cloning() (c cloning, err error) {
	_, err = s.read(s.cloningFile(), &c)
	return c, err
}

// Swapping notes that the whole copy in dir is about to take the data directory's place. Until Swapped, nobody knows which of the two is there.
func (s *Store) Swapping(dir, why string) error {
	was := s.replaced()
	if err := s.write(s.cloningFile(), cloning{Dir: dir, Whole: true, Why: why}, true); err != nil {
		return err
	}
	return s.SetRebuild(Rebuild{Phase: PhaseRewinding, Why: why + ", which did not take its place", Copied: was.Copied})
}

// Swapped notes that it has; old is where that is kept which was there before, "" if there was nothing.
func (s *Store) Swapped(old, why string) error {
	was := s.replaced()
	r := Rebuild{Phase: PhaseRewound, Why: why, Copied: true, Old: was.Old}
	switch {
	case old != "" && was.Copied && postgres.StartsAsStandby(old): // it was no primary, whatever somebody did by hand
		r.Unused = old
	case r.Old == "":
		r.Old = old
	}
	if err := s.SetRebuild(r); err != nil {
		return err
	}
	return s.SetCloning("")
}

// RemoveLeft removes what is good for nothing: an unfinished copy, and one that never streamed and was put aside.
func (s *Store) RemoveLeft(log *slog.Logger, dataDir string) error {
	s.RemoveUnused(log, dataDir)
	left, err := s.Cloning()
	if err == nil && left != "" {
		err = RemoveBeside(dataDir, left)
	}
	if err != nil {
		return fmt.Errorf("remove what an unfinished copy left: %w", err)
	}
	return nil
}

// RemoveUnused removes a copy that never streamed and was put aside. One that can't be removed stands in nobody's way.
func (s *Store) RemoveUnused(log *slog.Logger, dataDir string) {
	r, err := s.Rebuild()
	if err == nil && r.Unused != "" {
		err = RemoveBeside(dataDir, r.Unused)
	}
	if err != nil {
		log.Warn("remove a copy that never streamed", "reason", err)
	}
}

// Entry is one decision in the history.
type Entry struct {
	At       time.Time `json:"at"`
	Command  string    `json:"command"` // notify, promote, rejoin …
	Type     string    `json:"type,omitempty"`
	Name     string    `json:"name,omitempty"`
	State    string    `json:"state,omitempty"`
	Priority int       `json:"priority,omitempty"`
	Seq      uint64    `json:"seq,omitempty"`
	Steps    []string  `json:"steps,omitempty"`
	Outcome  string    `json:"outcome"` // done, nothing, refused, overtaken, failed
	Reason   string    `json:"reason,omitempty"`
	Took     float64   `json:"took_seconds"`
}

const historyFile, historyLimit = "history.jsonl", 1 << 20

// Append adds a decision to the history; of more than 1 MiB the older half moves to history.jsonl.1.
func (s *Store) Append(e Entry) error {
	line, err := json.Marshal(e)
	if err != nil {
		return fmt.Errorf("write history: %w", err)
	}
	if err := s.turnOver(); err != nil {
		return fmt.Errorf("turn over history: %w", err)
	}
	f, err := os.OpenFile(s.path(historyFile), os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("write history: %w", err)
	}
	defer f.Close()
	if _, err := f.Write(append(line, '\n')); err != nil {
		return fmt.Errorf("write history: %w", err)
	}
	return nil
}

// turnOver puts a history that is long enough aside. One process at a time: a second would put the new file in the place of what the first put aside.
func (s *Store) turnOver() error {
	long := func() bool {
		info, err := os.Stat(s.path(historyFile))
		return err == nil && info.Size() > historyLimit
	}
	if !long() {
		return nil
	}
	unlock, err := s.tryLock(historyFile + ".lock")
	if errors.Is(err, errTaken) {
		return nil
	}
	if err != nil {
		return err
	}
	defer unlock()
	if !long() {
		return nil
	}
	return os.Rename(s.path(historyFile), s.path(historyFile+".1"))
}

// History returns the last n decisions, oldest first. A line that a crash cut short is left out.
func (s *Store) History(n int) ([]Entry, error) {
	all := []Entry{}
	for _, name := range []string{historyFile + ".1", historyFile} {
		text, err := os.ReadFile(s.path(name))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read history: %w", err)
		}
		for line := range bytes.Lines(text) {
			var e Entry
			if json.Unmarshal(line, &e) == nil {
				all = append(all, e)
			}
		}
	}
	return all[max(0, len(all)-n):], nil
}

// Dir is the state directory.
func (s *Store) Dir() string { return s.dir }

// placeOf is the data directory's place, without symbolic links, whether it is there or not.
func placeOf(dataDir string) (string, error) {
	place, err := filepath.EvalSymlinks(dataDir)
	if errors.Is(err, fs.ErrNotExist) {
		last := filepath.Clean(dataDir)
		for range 40 { // links to nowhere: a swap was broken off
			to, lerr := os.Readlink(last)
			if lerr != nil {
				break
			}
			if !filepath.IsAbs(to) {
				to = filepath.Join(filepath.Dir(last), to)
			}
			last = to
		}
		place, err = filepath.EvalSymlinks(filepath.Dir(last))
		place = filepath.Join(place, filepath.Base(last))
	}
	if err != nil {
		return "", fmt.Errorf("find the place of %s: %w", dataDir, err)
	}
	return place, nil
}

// CopyPlace is placeOf a data directory beside which a copy is to be made that takes its place. A mount point can't be replaced: it is an error, so that
// nobody copies in vain.
func CopyPlace(dataDir string) (string, error) {
	place, err := placeOf(dataDir)
	if err != nil {
		return "", err
	}
	switch mounted, err := postgres.MountPoint(place); {
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return "", fmt.Errorf("find the place of %s: %w", dataDir, err)
	case mounted:
		return "", fmt.Errorf("%s is a mount point, and no copy can take its place: use a directory below it as the data directory", place)
	}
	return place, nil
}

// isBeside reports whether dir stands beside the data directory, by its name or by where that leads.
func isBeside(dataDir, dir string) bool {
	if filepath.Dir(dir) == filepath.Dir(filepath.Clean(dataDir)) {
		return true
	}
	place, err := placeOf(dataDir)
	return err == nil && filepath.Dir(dir) == filepath.Dir(place)
}

// PutInPlace gives a copy the name of a data directory that is missing or empty.
func PutInPlace(dir, dataDir string) error {
	dataDir, err := CopyPlace(dataDir)
	if err != nil {
		return err
	}
	// rename(2) replaces an empty directory, which os.Rename refuses.
	if err := unix.Rename(dir, dataDir); err != nil {
		return fmt.Errorf("rename %s to %s: %w", dir, dataDir, err)
	}
	return files.SyncDir(filepath.Dir(dataDir))
}

// OwnersPlace is the directory whose owner the data's is: the data directory, or the copy that a swap which was killed between its renames left.
func OwnersPlace(stateDir, dataDir string) (string, error) {
	b, err := brokenOff(stateDir, dataDir)
	if err == nil && b.copied && !b.data {
		return b.Dir, nil
	}
	return dataDir, err
}

// FinishSwap ends a swap that was killed between its renames, when there is no data directory and its copy stands beside it, or after them.
// Only the owner of the data may call it: what it writes must be his.
func FinishSwap(stateDir, dataDir string) error {
	b, err := brokenOff(stateDir, dataDir)
	if err != nil || !b.unfinished() {
		return err
	}
	unlock, err := b.store.tryLock(b.store.dataLock())
	if errors.Is(err, errTaken) {
		return nil // it is being swapped at this moment
	}
	if err == nil {
		defer unlock()
		b, err = brokenOff(stateDir, dataDir) // what was seen before may have been a swap at work
	}
	if err != nil || !b.unfinished() {
		return err
	}
	if b.copied {
		err = PutInPlace(b.Dir, dataDir)
	}
	if err == nil {
		err = b.store.Swapped(b.store.putAside(dataDir), b.Why)
	}
	if err != nil {
		return fmt.Errorf("finish a swap that was broken off: %w", err)
	}
	return nil
}

// putAside is what a swap that was broken off has put aside since it began, "" if there is none.
func (s *Store) putAside(dataDir string) string {
	r, err := s.Rebuild()
	place, perr := placeOf(dataDir)
	if err != nil || perr != nil || r.Phase != PhaseRewinding {
		return ""
	}
	all, err := filepath.Glob(place + ".old-*")
	if err != nil {
		return ""
	}
	all = slices.DeleteFunc(all, func(old string) bool {
		at, err := time.Parse(postgres.OldTime, strings.TrimPrefix(old, place+".old-"))
		return err != nil || old == r.Old || at.Before(r.Since.Truncate(time.Second))
	})
	if len(all) != 1 { // after a clock that was ahead nobody can tell
		return ""
	}
	return all[0]
}

// broken is a swap that was broken off.
type broken struct {
	cloning
	store        *Store
	data, copied bool // are there
}

// unfinished: neither is what was there before there still, nor are both gone.
func (b broken) unfinished() bool { return b.store != nil && b.data != b.copied }

// brokenOff looks for a swap that was broken off; without one there is no store in the answer.
func brokenOff(stateDir, dataDir string) (b broken, err error) {
	s, err := OpenStore(stateDir, dataDir)
	if errors.Is(err, fs.ErrNotExist) {
		return b, nil // no state, no swap
	}
	if err != nil {
		return b, err
	}
	c, err := s.cloning()
	if err != nil || !c.Whole || !isBeside(dataDir, c.Dir) {
		return b, err
	}
	there := func(dir string) bool {
		_, lerr := os.Lstat(dir)
		if lerr != nil && !errors.Is(lerr, fs.ErrNotExist) {
			err = errors.Join(err, fmt.Errorf("finish a swap that was broken off: %w", lerr))
		}
		return lerr == nil
	}
	place, perr := placeOf(dataDir)
	if perr != nil {
		return b, perr
	}
	return broken{c, s, there(place), there(c.Dir)}, err
}
