package promote

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"pgvrrp/internal/postgres"
)

func newStore(t *testing.T) *Store {
	t.Helper()
	s, err := OpenStore(t.TempDir(), "/srv/data")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestLateHooksAreDropped(t *testing.T) {
	const boot = "b"
	last := Process{Boot: boot, Leader: 1000, Start: 1000, PID: 50}
	tests := []struct {
		name  string
		state string
		by    Process
		late  bool
	}{
		{"started later", Master, Process{boot, 1001, 1001, 51}, false},
		{"started earlier", Master, Process{boot, 999, 999, 49}, true},
		{"started earlier, steps down", Backup, Process{boot, 999, 999, 49}, true},
		{"same tick, later number", Master, Process{boot, 1000, 1000, 51}, false},
		{"same tick, earlier number", Master, Process{boot, 1000, 1000, 49}, true},
		{"same process", Master, last, false},
		{"held up by its wrapper", Master, Process{boot, 500, 1500, 60}, true},
		{"held up by its wrapper, steps down", Backup, Process{boot, 500, 1500, 60}, false},
		{"wrapper started later", Master, Process{boot, 1001, 1500, 60}, false},
		{"another boot", Master, Process{"c", 1, 1, 1}, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newStore(t)
			if _, err := s.Deliver(t.Context(), Event{Name: "VI", State: Fault}, last); err != nil {
				t.Fatal(err)
			}
			r, err := s.Deliver(t.Context(), Event{Name: "VI", State: tt.state}, tt.by)
			var over *OvertakenError
			if late := errors.As(err, &over); late != tt.late || err != nil && !late {
				t.Errorf("got %v, want late %t", err, tt.late)
			}
			if !tt.late && r.Seq != 2 {
				t.Errorf("number %d, want 2", r.Seq)
			}
			if now, _ := s.Newest("VI"); tt.late && now.State != Fault {
				t.Errorf("a late hook changed the newest state to %s", now.State)
			}
		})
	}
	t.Run("children of one parent", func(t *testing.T) {
		s := newStore(t)
		for i, start := range []uint64{1000, 1001} {
			r, err := s.Deliver(t.Context(), Event{Name: "VI", State: Master}, Process{boot, 10, start, 50})
			if err != nil || r.Seq != uint64(i+1) {
				t.Errorf("got %+v, %v", r, err)
			}
		}
	})
}

// Numbers stay in order however many hooks come at once, each instance has its own, and names can't leave the directory.
func TestDeliverCountsEachInstance(t *testing.T) {
	s := newStore(t)
	me, err := ThisProcess()
	if err != nil {
		t.Fatal(err)
	}
	names := []string{"VI_1", "../VI_1", ".hidden", "with space/ä"}
	var wg sync.WaitGroup
	for range 10 {
		for _, name := range names {
			wg.Go(func() {
				if _, err := s.Deliver(t.Context(), Event{Name: name, State: Backup}, me); err != nil {
					t.Error(err)
				}
			})
		}
	}
	wg.Wait()
	for _, name := range names {
		if r, err := s.Newest(name); err != nil || r.Seq != 10 || r.Name != name {
			t.Errorf("%q: got %+v, %v, want number 10", name, r, err)
		}
	}
	files, err := filepath.Glob(filepath.Join(s.dir, "hook-*.json"))
	if err != nil || len(files) != len(names) {
		t.Errorf("got %v, %v", files, err)
	}
}

// A state that can't be noted in a new file, for want of space, is noted in the place of the last one, if there is one.
func TestDeliverWithoutRoom(t *testing.T) {
	s := newStore(t)
	name := strings.Repeat("/", 78) // the name of the new file is too long then
	if _, err := s.Deliver(t.Context(), Event{Name: name, State: Master}, Process{}); err == nil {
		t.Error("noted where nothing was before")
	}
	if _, err := s.Deliver(t.Context(), Event{Name: "VI", State: Backup, Priority: 100}, Process{}); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(s.path(hookFile("VI")), s.path(hookFile(name))); err != nil {
		t.Fatal(err)
	}
	for i, state := range []string{Master, Backup, Master} {
		want, err := s.Deliver(t.Context(), Event{Name: name, State: state}, Process{})
		if err != nil {
			t.Fatal(err)
		}
		if got, err := s.Newest(name); err != nil || got.State != state || got.Seq != uint64(i+2) || s.StillNewest(want) != nil {
			t.Errorf("got %+v, %v, want number %d, %s", got, err, i+2, state)
		}
	}
	if err := os.WriteFile(s.path(hookFile(name)), []byte(`{"seq":1,"state":"BACKUP"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Deliver(t.Context(), Event{Name: name, State: Master}, Process{}); err == nil {
		t.Error("written over a file that is too small")
	}
}

// A state file that can't be read fails the check; it never counts as "nothing newer".
func TestGarbledStateFails(t *testing.T) {
	s := newStore(t)
	r, err := s.Deliver(t.Context(), Event{Name: "VI", State: Master}, Process{})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(s.dir, "hook-VI.json"), []byte(`{"seq": 1`), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.StillNewest(r); err == nil {
		t.Error("StillNewest: no error")
	}
	if _, err := s.Deliver(t.Context(), Event{Name: "VI", State: Master}, Process{}); err == nil {
		t.Error("Deliver: no error")
	}
	if err := s.NoneSince(nil, Master); err == nil {
		t.Error("NoneSince: no error")
	}
	if _, err := s.Mark(); err == nil {
		t.Error("Mark: no error")
	}
}

// A newer state counts although the clock was set back before it came; an older one does not, though it bears a later time.
func TestNoneSinceWithAClockSetBack(t *testing.T) {
	s := newStore(t)
	deliver := func(state string, ahead time.Duration) {
		t.Helper()
		r, err := s.Deliver(t.Context(), Event{Name: "VI", State: state}, Process{})
		if err != nil {
			t.Fatal(err)
		}
		r.At = r.At.Add(ahead)
		if err := s.write(hookFile("VI"), r, true); err != nil {
			t.Fatal(err)
		}
	}
	deliver(Master, 2*time.Hour) // told before, by a clock that was two hours ahead
	mark, err := s.Mark()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.NoneSince(mark, Backup); err != nil {
		t.Errorf("nothing was told since: got %v", err)
	}
	deliver(Backup, -2*time.Hour)
	if err := s.NoneSince(mark, Backup); err != nil {
		t.Errorf("the state that is wanted was told since: got %v", err)
	}
	deliver(Master, -2*time.Hour)
	var overtaken *OvertakenError
	if err := s.NoneSince(mark, Backup); !errors.As(err, &overtaken) {
		t.Errorf("another state was told since, by a clock two hours behind: got %v", err)
	}
}

func TestLock(t *testing.T) {
	s := newStore(t)
	unlock, err := s.Lock(t.Context(), "the first", nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeoutCause(t.Context(), 20*time.Millisecond, errors.New("too long"))
	defer cancel()
	if _, err := s.Lock(ctx, "the second", nil); err == nil || !strings.Contains(err.Error(), "too long (at work: the first") {
		t.Errorf("got %v", err)
	}
	if _, err := s.Lock(t.Context(), "the third", func() error { return errFake }); !errors.Is(err, errFake) {
		t.Errorf("got %v, want the waiting ended", err)
	}
	if got := s.Busy(); !strings.HasPrefix(got, "the first since") {
		t.Errorf("busy: %q", got)
	}
	unlock()
	if got := s.Busy(); got != "" {
		t.Errorf("busy: %q", got)
	}
	unlock, err = s.Lock(t.Context(), "the fourth", nil)
	if err != nil {
		t.Fatal(err)
	}
	unlock()
}

// The lock of a process that is killed is free at once, and its children do not have it.
func TestLockDiesWithItsProcess(t *testing.T) {
	if dir := os.Getenv("PROMOTE_TEST_LOCK"); dir != "" {
		s, err := OpenStore(dir, "/srv/data")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Lock(t.Context(), "the child", nil); err != nil {
			t.Fatal(err)
		}
		if err := exec.Command("/bin/sleep", "60").Start(); err != nil {
			t.Fatal(err)
		}
		fmt.Println("locked")
		time.Sleep(time.Minute)
		return
	}
	s := newStore(t)
	child := exec.Command(os.Args[0], "-test.run=^TestLockDiesWithItsProcess$")
	child.Env = append(os.Environ(), "PROMOTE_TEST_LOCK="+s.dir)
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	line := make([]byte, 6)
	if _, err := out.Read(line); err != nil || string(line) != "locked" {
		t.Fatalf("child says %q, %v", line, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := s.Lock(ctx, "we", nil); err == nil {
		t.Fatal("the child's lock was taken from it")
	}
	if err := child.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = child.Wait()
	ctx, cancel = context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	unlock, err := s.Lock(ctx, "we", nil)
	if err != nil {
		t.Fatalf("the lock outlived its process: %v", err)
	}
	unlock()
}

// Work behind a hook gives way to whoever works by hand, also when it takes its place only while that one waits; work by hand does not.
func TestTakeRejoin(t *testing.T) {
	s := newStore(t)
	for _, early := range []bool{true, false} {
		behind := exec.Command("/bin/sleep", "10")
		if err := behind.Start(); err != nil {
			t.Fatal(err)
		}
		start, _, err := procStat(behind.Process.Pid)
		me, err2 := ThisProcess()
		if err := errors.Join(err, err2); err != nil {
			t.Fatal(err)
		}
		release, err := s.flock(t.Context(), s.rejoinLock(), nil)
		if err != nil {
			t.Fatal(err)
		}
		saysSo := func() {
			a := activity{What: following, Since: time.Now(), Process: Process{Boot: me.Boot, Leader: start, Start: start, PID: behind.Process.Pid}}
			if err := s.write("data-"+s.data+"."+activityRejoin+".json", a, false); err != nil {
				t.Error(err)
			}
		}
		if early {
			saysSo()
		}
		taken := make(chan error, 1)
		go func() {
			_, unlock, err := s.TakeRejoin(t.Context(), "stop by hand", time.Minute)
			if err == nil {
				unlock()
			}
			taken <- err
		}()
		if !early {
			time.Sleep(100 * time.Millisecond) // so that the other one waits by now
			saysSo()
		}
		if err := behind.Wait(); err == nil || !strings.Contains(err.Error(), "terminated") {
			t.Errorf("early %t: the work behind a hook ended with %v, want it asked to", early, err)
		}
		release()
		if err := <-taken; err != nil {
			t.Errorf("early %t: %v", early, err)
		}
	}
	_, unlock, err := s.TakeRejoin(t.Context(), "clone by hand", time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	if _, _, err := s.TakeRejoin(t.Context(), "stop by hand", time.Minute); err == nil || !strings.Contains(err.Error(), "another rejoin is at work (clone by hand since") {
		t.Errorf("beside work by hand: got %v", err)
	}
}

func TestMarkers(t *testing.T) {
	s := newStore(t)
	if r, err := s.Rebuild(); err != nil || r.Phase != PhaseNone {
		t.Errorf("got %+v, %v, want none", r, err)
	}
	if err := s.SetRebuild(Rebuild{Phase: PhaseRewinding, Why: "x"}); err != nil {
		t.Fatal(err)
	}
	if r, err := s.Rebuild(); err != nil || r.Phase != PhaseRewinding || r.Why != "x" || r.Since.IsZero() {
		t.Errorf("got %+v, %v", r, err)
	}
	other, err := OpenStore(s.dir, "/other/data")
	if err != nil {
		t.Fatal(err)
	}
	if r, err := other.Rebuild(); err != nil || r.Phase != PhaseNone {
		t.Errorf("another data directory: got %+v, %v, want none", r, err)
	}
	for range 2 {
		if err := s.SetRebuild(Rebuild{}); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.write("data-"+s.data+".rebuild.json", "garbage", true); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Rebuild(); err == nil {
		t.Error("a garbled marker was read")
	}
}

// A marker that can't be read is taken for the worst.
func TestGarbledMarkerForbidsPromotion(t *testing.T) {
	b := newBench(t)
	if err := b.Store.write("data-"+b.Store.data+".rebuild.json", "garbage", true); err != nil {
		t.Fatal(err)
	}
	wantResult(t, b.hook(t.Context(), Master), Refused, "rebuild.json")
	wantDid(t, b, "")
}

func TestFinishSwap(t *testing.T) {
	const why = "cloned from n1"
	tests := []struct {
		name      string
		before    func(s *Store, data, fresh string) error
		there     string // what the data directory is afterwards
		phase     Phase
		forgotten bool   // there is no unfinished clone
		owner     string // of the data shows at the data directory, or at the copy
	}{
		{"no swap", func(_ *Store, data, _ string) error { return os.WriteFile(data, []byte("old"), 0o600) }, "old", PhaseNone, true, "data"},
		{"the copy is not whole", func(s *Store, _, fresh string) error {
			return errors.Join(s.SetCloning(fresh), os.WriteFile(fresh, []byte("part"), 0o600))
		}, "", PhaseNone, false, "data"},
		{"before the first rename", func(s *Store, data, fresh string) error {
			return errors.Join(s.Swapping(fresh, why), os.WriteFile(fresh, []byte("new"), 0o600), os.WriteFile(data, []byte("old"), 0o600))
		}, "old", PhaseRewinding, false, "data"},
		{"between the renames", func(s *Store, _, fresh string) error {
			return errors.Join(s.Swapping(fresh, why), os.WriteFile(fresh, []byte("new"), 0o600))
		}, "new", PhaseRewound, true, "data.new"},
		{"after the second rename", func(s *Store, data, fresh string) error {
			return errors.Join(s.Swapping(fresh, why), os.WriteFile(data, []byte("new"), 0o600))
		}, "new", PhaseRewound, true, "data"},
		{"both are gone", func(s *Store, _, fresh string) error { return s.Swapping(fresh, why) }, "", PhaseRewinding, false, "data"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			data := filepath.Join(t.TempDir(), "data")
			s, err := OpenStore(t.TempDir(), data)
			if err != nil {
				t.Fatal(err)
			}
			if err := tt.before(s, data, data+".new"); err != nil {
				t.Fatal(err)
			}
			if owner, err := OwnersPlace(s.dir, data); err != nil || filepath.Base(owner) != tt.owner {
				t.Errorf("the owner of the data shows at %s, %v, want %s", owner, err, tt.owner)
			}
			for range 2 { // and again
				if err := FinishSwap(s.dir, data); err != nil {
					t.Fatal(err)
				}
				text, err := os.ReadFile(data)
				if string(text) != tt.there || err != nil && !errors.Is(err, fs.ErrNotExist) {
					t.Errorf("the data directory is %q, %v, want %q", text, err, tt.there)
				}
				if r, err := s.Rebuild(); err != nil || r.Phase != tt.phase {
					t.Errorf("marker %+v, %v, want %q", r, err, tt.phase)
				}
				if left, err := s.Cloning(); err != nil || (left == "") != tt.forgotten {
					t.Errorf("unfinished clone %q, %v, want none: %t", left, err, tt.forgotten)
				}
			}
		})
	}
}

// A swap that somebody is at is not finished by another, also when he could not say what he does, or says so only now.
func TestFinishSwapLeavesOneAtWork(t *testing.T) {
	data := filepath.Join(t.TempDir(), "data")
	s, err := OpenStore(t.TempDir(), data)
	if err != nil {
		t.Fatal(err)
	}
	unlock, err := s.tryLock(s.dataLock())
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(s.Swapping(data+".new", "cloned from n1"), os.WriteFile(data+".new", []byte("new"), 0o600)); err != nil {
		t.Fatal(err)
	}
	for _, at := range []string{data + ".new", data} { // the copy is left where it is until the lock is free
		if err := FinishSwap(s.dir, data); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(at); err != nil {
			t.Error(err)
		}
		unlock()
	}
}

func TestRemoveBeside(t *testing.T) {
	dir := t.TempDir()
	e := Engine{Settings: Settings{DataDir: filepath.Join(dir, "data")}}
	for _, name := range []string{"data", "data.new", "other"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for name, ok := range map[string]bool{"data.new": true, "data": false, "other": false, "data/x": false, "../data.new": false} {
		if err := e.removeBeside(filepath.Join(dir, name)); (err == nil) != ok {
			t.Errorf("%s: got %v, want ok %t", name, err, ok)
		}
	}
}

// TestDataBehindASymbolicLink: copies stand beside where it leads, and a swap that was broken off leaves a link to nowhere.
func TestDataBehindASymbolicLink(t *testing.T) {
	far, near := t.TempDir(), t.TempDir()
	far, err := filepath.EvalSymlinks(far)
	if err != nil {
		t.Fatal(err)
	}
	data := filepath.Join(near, "15-main")
	if err := errors.Join(os.Symlink(filepath.Join(far, "data"), data), os.Mkdir(filepath.Join(far, "data.new"), 0o700), os.Mkdir(filepath.Join(far, "other"), 0o700)); err != nil {
		t.Fatal(err)
	}
	if got, err := CopyPlace(data); err != nil || got != filepath.Join(far, "data") {
		t.Errorf("got %s, %v", got, err)
	}
	if err := RemoveBeside(data, filepath.Join(far, "other")); err == nil {
		t.Error("removed what is not ours")
	}
	s, err := OpenStore(t.TempDir(), data)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Swapping(filepath.Join(far, "data.new"), "cloned from n1"); err != nil {
		t.Fatal(err)
	}
	if err := FinishSwap(s.dir, data); err != nil {
		t.Fatal(err)
	}
	if fi, err := os.Stat(data); err != nil || !fi.IsDir() {
		t.Errorf("the copy did not take the place: %v", err)
	}
	if err := os.Mkdir(filepath.Join(far, "data.new"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := RemoveBeside(data, filepath.Join(far, "data.new")); err != nil {
		t.Error(err)
	}
	if err := os.Symlink("data.old-20260101T000000Z", filepath.Join(far, "15-main")); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Mkdir(filepath.Join(far, "data.old-20260101T000000Z"), 0o700), os.Remove(data), os.Symlink(filepath.Join(far, "15-main"), data)); err != nil {
		t.Fatal(err)
	}
	if err := RemoveBeside(data, filepath.Join(far, "data.old-20260101T000000Z")); err == nil {
		t.Error("removed the data directory itself, behind two links")
	}
	if _, err := CopyPlace("/proc"); err == nil || !strings.Contains(err.Error(), "mount point") {
		t.Errorf("a mount point: got %v", err)
	}
}

func TestHistory(t *testing.T) {
	s := newStore(t)
	if all, err := s.History(5); err != nil || len(all) != 0 {
		t.Errorf("got %v, %v, want none", all, err)
	}
	for i := range 1800 {
		if err := s.Append(Entry{Command: "notify", Seq: uint64(i), Outcome: Done, Reason: strings.Repeat("x", 900)}); err != nil {
			t.Fatal(err)
		}
	}
	f, err := os.OpenFile(filepath.Join(s.dir, historyFile), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString(`{"command":"cut sho`); err != nil {
		t.Fatal(err)
	}
	f.Close()
	all, err := s.History(3)
	if err != nil {
		t.Fatal(err)
	}
	var got []uint64
	for _, e := range all {
		got = append(got, e.Seq)
	}
	if want := []uint64{1797, 1798, 1799}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	for _, name := range []string{historyFile, historyFile + ".1"} {
		if info, err := os.Stat(filepath.Join(s.dir, name)); err != nil || info.Size() > historyLimit+2000 {
			t.Errorf("%s: %v, %v, want at most 1 MiB", name, info, err)
		}
	}
}

// Who finds the history long while another turns it over leaves that to him, and nobody's half is lost when many come at once.
func TestHistoryIsTurnedOverOnce(t *testing.T) {
	s := newStore(t)
	long := strings.Repeat("x", 900)
	entries := 0
	add := func() {
		entries++
		if err := s.Append(Entry{Command: "notify", Outcome: Done, Reason: long}); err != nil {
			t.Fatal(err)
		}
	}
	size := func(name string) int64 {
		info, err := os.Stat(s.path(name))
		if err != nil {
			return 0
		}
		return info.Size()
	}
	for size(historyFile) <= historyLimit {
		add()
	}
	unlock, err := s.tryLock(historyFile + ".lock")
	if err != nil {
		t.Fatal(err)
	}
	add()
	if size(historyFile+".1") != 0 {
		t.Error("turned over while somebody else is at it")
	}
	unlock()
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			if err := s.Append(Entry{Command: "notify", Outcome: Done, Reason: long}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if all, err := s.History(entries + 100); err != nil || len(all) != entries+50 || size(historyFile+".1") <= historyLimit {
		t.Errorf("got %d entries, %v, want %d, and %d bytes were put aside", len(all), err, entries+50, size(historyFile+".1"))
	}
}

func TestThisProcess(t *testing.T) {
	p, err := ThisProcess()
	if err != nil {
		t.Fatal(err)
	}
	if p.PID != os.Getpid() || p.Start == 0 || p.Boot == "" || !p.alive() || p.before(p) {
		t.Errorf("got %+v", p)
	}
	p.Start++
	if p.alive() {
		t.Error("a number that another process has now counts as alive")
	}
	text, err := json.Marshal(p)
	if err != nil || !strings.Contains(string(text), `"start_ticks"`) {
		t.Errorf("got %s, %v", text, err)
	}
}

func TestStateDirMustBeUsable(t *testing.T) {
	if _, err := OpenStore(filepath.Join(t.TempDir(), "missing"), "/srv/data"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}

// TestCopiesThatNeverStream: of copies that are made one after the other, and never used, only the data from before the first and the last one stay.
func TestCopiesThatNeverStream(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	parent := t.TempDir()
	data := filepath.Join(parent, "data")
	s, err := OpenStore(t.TempDir(), data)
	if err != nil {
		t.Fatal(err)
	}
	made := time.Now().Add(time.Minute).UTC()
	fill := func(dir, what string) error {
		return errors.Join(os.Mkdir(dir, 0o700), os.WriteFile(filepath.Join(dir, "what"), []byte(what), 0o600), os.WriteFile(filepath.Join(dir, "standby.signal"), nil, 0o600))
	}
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	// swap is a copy that takes the place, killed at a step.
	swap := func(what string, killed int) {
		t.Helper()
		made = made.Add(time.Minute)
		old := data + ".old-" + made.Format(postgres.OldTime)
		check(s.RemoveLeft(log, data))
		check(fill(data+".new", what))
		check(s.Swapping(data+".new", "cloned from n1"))
		check(os.Rename(data, old))
		if killed != 1 {
			check(os.Rename(data+".new", data))
		}
		if killed == 1 || killed == 2 {
			check(FinishSwap(s.dir, data))
			return
		}
		check(s.Swapped(old, "cloned from n1"))
		if killed != 3 {
			check(s.RemoveLeft(log, data))
		}
	}
	left := func() (all []string) {
		entries, err := os.ReadDir(parent)
		check(err)
		for _, e := range entries {
			what, err := os.ReadFile(filepath.Join(parent, e.Name(), "what"))
			check(err)
			all = append(all, string(what))
		}
		return all
	}
	check(fill(data, "own"))
	for killed, what := range []string{"first", "second", "third", "fourth", "fifth"} {
		swap(what, killed)
		check(s.RemoveLeft(log, data)) // as the next copy would
		if got, want := left(), []string{what, "own"}; !slices.Equal(got, want) {
			t.Fatalf("killed at %d: got %v, want %v", killed, got, want)
		}
	}
	// A copy that was a primary, by whatever hand, is nothing that may go.
	check(os.Remove(filepath.Join(data, "standby.signal")))
	swap("sixth", 0)
	if got, want := left(), []string{"sixth", "own", "fifth"}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	// Once one streams, what was there before the first may go.
	check(s.Settle(log, data, false))
	if got, want := left(), []string{"sixth", "fifth"}; !slices.Equal(got, want) {
		t.Errorf("settled: got %v, want %v", got, want)
	}
	swap("seventh", 0)
	if got, want := left(), []string{"seventh", "fifth", "sixth"}; !slices.Equal(got, want) {
		t.Errorf("the data of a copy that streamed: got %v, want %v", got, want)
	}
}
