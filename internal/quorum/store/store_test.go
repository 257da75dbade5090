package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/raft"

	"pgvrrp/internal/quorum/record"
)

// fast opens dir without waiting for the disk.
func fast(t testing.TB, dir string) *Store {
	t.Helper()
	return open(t, dir, Options{NoSync: true})
}

func open(t testing.TB, dir string, o Options) *Store {
	t.Helper()
	s, err := Open(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func closed(t testing.TB, s *Store) {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

func wantError(t testing.TB, err error, parts ...string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error, want one with %q", parts)
	}
	for _, p := range parts {
		if !strings.Contains(err.Error(), p) {
			t.Errorf("error %q lacks %q", err, p)
		}
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestIdentityStaysAndStartsGrow(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "b")
	s := open(t, dir, Options{})
	first := s.Identity()
	if len(first.Incarnation) != 16 || first.Starts != 1 || first.Cluster != "" || !s.Empty() {
		t.Errorf("identity %+v, empty %v", first, s.Empty())
	}
	for name, want := range map[string]fs.FileMode{dir: 0o700 | fs.ModeDir, filepath.Dir(dir): 0o700 | fs.ModeDir, filepath.Join(dir, fileName): 0o600} {
		info, err := os.Stat(name)
		must(t, err)
		if info.Mode() != want {
			t.Errorf("mode of %s is %v, want %v", name, info.Mode(), want)
		}
	}
	info, err := os.Stat(filepath.Join(dir, fileName))
	must(t, err)
	if info.Size() != room {
		t.Errorf("size %d, want %d", info.Size(), room)
	}
	closed(t, s)
	closed(t, s)
	s = fast(t, dir)
	if got, want := s.Identity(), (Identity{Incarnation: first.Incarnation, Starts: 2}); got != want {
		t.Errorf("identity %+v, want %+v", got, want)
	}
	other := fast(t, t.TempDir())
	if other.Identity().Incarnation == first.Incarnation {
		t.Error("two directories have one incarnation")
	}
}

func TestSecondOpenIsRefused(t *testing.T) {
	dir := t.TempDir()
	s := fast(t, dir)
	_, err := Open(dir, Options{})
	wantError(t, err, dir, "another vrrpd uses it")
	wantError(t, Reset(dir, "test"), "another vrrpd uses it")
	closed(t, s)
	// The other lock alone: a process that has the file open but not the directory.
	db, err := openDB(filepath.Join(dir, fileName), Options{})
	must(t, err)
	defer db.Close()
	_, err = Open(dir, Options{})
	wantError(t, err, "another vrrpd uses it")
}

func TestFirstStartAfterACrash(t *testing.T) {
	whole := t.TempDir()
	must(t, create(whole, Options{NoSync: true}))
	b, err := os.ReadFile(filepath.Join(whole, fileName))
	must(t, err)
	for _, n := range []int{0, 1, 4095, 4096, 3 * 4096, len(b) / 2, len(b)} {
		dir := t.TempDir()
		must(t, os.WriteFile(filepath.Join(dir, newName), b[:n], 0o600))
		s := fast(t, dir)
		if id := s.Identity(); id.Starts != 1 || !s.Empty() {
			t.Errorf("after %d bytes: %+v, empty %v", n, id, s.Empty())
		}
		if _, err := os.Stat(filepath.Join(dir, newName)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("after %d bytes: %v", n, err)
		}
	}
	// Renamed, and not yet counted.
	s := fast(t, whole)
	if id := s.Identity(); id.Starts != 1 {
		t.Errorf("starts %d, want 1", id.Starts)
	}
}

func TestClusterIsSetOnce(t *testing.T) {
	dir := t.TempDir()
	s := fast(t, dir)
	wantError(t, s.SetCluster(""), "no id")
	must(t, s.SetCluster("c1"))
	must(t, s.SetCluster("c2")) // nothing of c1 is here
	closed(t, s)
	s = fast(t, dir)
	if c := s.Identity().Cluster; c != "" {
		t.Errorf("cluster %q was joined in name alone, and is kept", c)
	}
	must(t, s.SetCluster("c3"))
	must(t, s.SetUint64(keyCurrentTerm, 1))
	must(t, s.SetCluster("c3"))
	wantError(t, s.SetCluster("c4"), "c3", "c4")
	closed(t, s)
	s = fast(t, dir)
	if c := s.Identity().Cluster; c != "c3" {
		t.Errorf("cluster %q, want c3", c)
	}
}

func TestEmptyUntilRaftWrites(t *testing.T) {
	for _, tc := range []struct {
		name  string
		do    func(s *Store) error
		empty bool
	}{
		{"term 0", func(s *Store) error { return s.SetUint64(keyCurrentTerm, 0) }, true},
		{"term", func(s *Store) error { return s.SetUint64(keyCurrentTerm, 1) }, false},
		{"vote", func(s *Store) error { return s.SetUint64(keyLastVoteTerm, 1) }, false},
		{"entry", func(s *Store) error { return s.StoreLog(&raft.Log{Index: 1, Term: 1}) }, false},
		{"snapshot", func(s *Store) error { return takeSnapshot(s, 5, 1, "x") }, false},
		{"seal", func(s *Store) error { return s.PutSealed("r", 1) }, true},
		{"bootstrap", func(s *Store) error { return s.Bootstrap("c", conf("a")) }, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := fast(t, t.TempDir())
			must(t, tc.do(s))
			if s.Empty() != tc.empty {
				t.Errorf("empty %v, want %v", s.Empty(), tc.empty)
			}
		})
	}
}

func conf(ids ...string) raft.Configuration {
	var c raft.Configuration
	for _, id := range ids {
		c.Servers = append(c.Servers, raft.Server{ID: raft.ServerID(id), Address: raft.ServerAddress(id)})
	}
	return c
}

func TestBootstrapIsWhole(t *testing.T) {
	dir := t.TempDir()
	s := fast(t, dir)
	must(t, s.Bootstrap("c1", conf("a@1", "b@2")))
	wantError(t, s.Bootstrap("c1", conf("a@1")), "a log already")
	closed(t, s)
	s = fast(t, dir)
	var l raft.Log
	must(t, s.GetLog(1, &l))
	term, err := s.GetUint64(keyCurrentTerm)
	must(t, err)
	if s.Identity().Cluster != "c1" || term != 1 || l.Type != raft.LogConfiguration || l.Term != 1 {
		t.Errorf("cluster %q, term %d, entry %+v", s.Identity().Cluster, term, l)
	}
	if diff := cmp.Diff(conf("a@1", "b@2"), raft.DecodeConfiguration(l.Data)); diff != "" {
		t.Error(diff)
	}
	if has, err := raft.HasExistingState(s, s, s.Snapshots()); err != nil || !has {
		t.Errorf("raft sees no state: %v", err)
	}
}

func entries(from, to, term uint64) []*raft.Log {
	var all []*raft.Log
	for k := from; k <= to; k++ {
		all = append(all, &raft.Log{Index: k, Term: term, Type: raft.LogCommand, Data: fmt.Appendf(nil, "%d in %d", k, term),
			AppendedAt: time.Date(2026, 1, 2, 3, 4, 5, int(k), time.UTC)})
	}
	return all
}

func bounds(t testing.TB, s *Store) [2]uint64 {
	t.Helper()
	first, err := s.FirstIndex()
	must(t, err)
	last, err := s.LastIndex()
	must(t, err)
	return [2]uint64{first, last}
}

func TestLogAsRaftWantsIt(t *testing.T) {
	s := fast(t, t.TempDir())
	if !s.IsMonotonic() {
		t.Error("not monotonic")
	}
	if got := bounds(t, s); got != [2]uint64{0, 0} {
		t.Errorf("empty log is %v", got)
	}
	var l raft.Log
	if err := s.GetLog(1, &l); err != raft.ErrLogNotFound { //nolint:errorlint // raft compares it so
		t.Errorf("missing entry: %v", err)
	}
	must(t, s.StoreLogs(nil))
	must(t, s.StoreLogs(entries(1, 10, 1)))
	want := raft.Log{Index: 11, Term: 2, Type: raft.LogConfiguration, Data: []byte("d"), Extensions: []byte("e"), AppendedAt: time.Unix(5, 6).UTC()}
	must(t, s.StoreLog(&want))
	must(t, s.GetLog(11, &l))
	if diff := cmp.Diff(want, l); diff != "" {
		t.Error(diff)
	}
	zero := raft.Log{Index: 12}
	must(t, s.StoreLog(&zero))
	must(t, s.GetLog(12, &l))
	if !l.AppendedAt.IsZero() || l.Data != nil || l.Extensions != nil {
		t.Errorf("zero entry is %+v", l)
	}

	for _, tc := range []struct {
		name      string
		low, high uint64
		want      [2]uint64
		err       string
	}{
		{"nothing below", 0, 0, [2]uint64{1, 12}, ""},
		{"nothing above", 13, 20, [2]uint64{1, 12}, ""},
		{"upside down", 5, 4, [2]uint64{1, 12}, ""},
		{"a gap", 5, 6, [2]uint64{1, 12}, "leaves a gap"},
		{"front", 0, 3, [2]uint64{4, 12}, ""},
		{"front exactly", 4, 4, [2]uint64{5, 12}, ""},
		{"end", 11, 12, [2]uint64{5, 10}, ""},
		{"beyond the end", 10, 99, [2]uint64{5, 9}, ""},
		{"all", 5, 9, [2]uint64{0, 0}, ""},
		{"all of nothing", 1, 99, [2]uint64{0, 0}, ""},
	} {
		err := s.DeleteRange(tc.low, tc.high)
		if (err == nil) != (tc.err == "") || err != nil && !strings.Contains(err.Error(), tc.err) {
			t.Errorf("%s: %v, want %q", tc.name, err, tc.err)
		}
		if got := bounds(t, s); got != tc.want {
			t.Errorf("%s: log is %v, want %v", tc.name, got, tc.want)
		}
	}

	must(t, s.StoreLogs(entries(100, 102, 3))) // after a snapshot
	for _, tc := range []struct {
		name string
		logs []*raft.Log
	}{
		{"gap", entries(104, 105, 3)},
		{"twice", entries(102, 103, 3)},
		{"gap within", append(entries(103, 103, 3), entries(105, 105, 3)...)},
		{"index 0", []*raft.Log{{}}},
	} {
		if err := s.StoreLogs(tc.logs); err == nil || !strings.Contains(err.Error(), "does not follow") {
			t.Errorf("%s: %v", tc.name, err)
		}
		if got := bounds(t, s); got != [2]uint64{100, 102} {
			t.Errorf("%s: log is %v", tc.name, got)
		}
	}
	if err := s.Trouble(); err != nil {
		t.Errorf("a refused entry is no failed write: %v", err)
	}
}

func TestStableAsRaftWantsIt(t *testing.T) {
	dir := t.TempDir()
	s := fast(t, dir)
	v, err := s.Get([]byte("x"))
	if len(v) != 0 || err != nil {
		t.Errorf("missing key: %q, %v", v, err)
	}
	n, err := s.GetUint64([]byte("x"))
	if n != 0 || err != nil {
		t.Errorf("missing number: %d, %v", n, err)
	}
	must(t, s.Set([]byte("a"), []byte("b")))
	must(t, s.Set([]byte("e"), nil))
	must(t, s.SetUint64([]byte("n"), 1<<63))
	closed(t, s)
	s = fast(t, dir)
	v, err = s.Get([]byte("a"))
	if string(v) != "b" || err != nil {
		t.Errorf("%q, %v", v, err)
	}
	n, err = s.GetUint64([]byte("n"))
	if n != 1<<63 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	if _, err := s.GetUint64([]byte("a")); err == nil {
		t.Error("one byte is a number")
	}
}

func takeSnapshot(s *Store, index, term uint64, state string) error {
	k, err := s.Snapshots().Create(1, index, term, conf("a@1"), index-1, nil)
	if err != nil {
		return err
	}
	for _, b := range []byte(state) {
		if _, err := k.Write([]byte{b}); err != nil {
			return err
		}
	}
	if err := k.Close(); err != nil {
		return err
	}
	return k.Close()
}

func list(t testing.TB, s *Store) []string {
	t.Helper()
	all, err := s.Snapshots().List()
	must(t, err)
	var got []string
	for _, m := range all {
		m2, r, err := s.Snapshots().Open(m.ID)
		must(t, err)
		b, err := io.ReadAll(r)
		must(t, err)
		if diff := cmp.Diff(m, m2); diff != "" {
			t.Error(diff)
		}
		if m.Size != int64(len(b)) || m.Version != 1 {
			t.Errorf("size %d of %d, version %d", m.Size, len(b), m.Version)
		}
		got = append(got, fmt.Sprintf("%d/%d %s %d", m.Index, m.Term, b, m.ConfigurationIndex))
	}
	return got
}

func TestSnapshots(t *testing.T) {
	dir := t.TempDir()
	s := fast(t, dir)
	if got := list(t, s); got != nil {
		t.Errorf("none are %v", got)
	}
	must(t, s.StoreLogs(entries(1, 30, 1)))
	must(t, takeSnapshot(s, 10, 1, "ten"))
	must(t, takeSnapshot(s, 30, 1, "thirty"))
	must(t, takeSnapshot(s, 20, 1, ""))
	if diff := cmp.Diff([]string{"30/1 thirty 29", "20/1  19"}, list(t, s)); diff != "" {
		t.Error(diff)
	}
	must(t, takeSnapshot(s, 30, 1, "again"))
	k, err := s.Snapshots().Create(1, 40, 1, conf("a"), 1, nil)
	must(t, err)
	_, err = k.Write([]byte("no"))
	must(t, err)
	must(t, k.Cancel())
	must(t, k.Close())
	_, err = k.Write([]byte("no"))
	wantError(t, err, "closed")
	closed(t, s)
	s = fast(t, dir)
	if diff := cmp.Diff([]string{"30/1 again 29", "30/1 thirty 29"}, list(t, s)); diff != "" {
		t.Error(diff)
	}
	_, _, err = s.Snapshots().Open("no")
	wantError(t, err, "none")
	_, err = s.Snapshots().Create(0, 1, 1, conf("a"), 1, nil)
	wantError(t, err, "version 0")
	k, err = s.Snapshots().Create(1, 40, 1, conf("a"), 1, nil)
	must(t, err)
	_, err = k.Write(make([]byte, maxSnapshot+1))
	wantError(t, err, "longer than")
}

func TestSnapshotTakesTheLogThatDoesNotLeadToIt(t *testing.T) {
	for _, tc := range []struct {
		name        string
		index, term uint64
		want        [2]uint64
	}{
		{"our own", 5, 1, [2]uint64{3, 10}},
		{"our own, at the end", 10, 1, [2]uint64{3, 10}},
		{"our own, cut before", 2, 1, [2]uint64{3, 10}},
		{"sent, beyond the end", 11, 1, [2]uint64{0, 0}},
		{"sent, another entry there", 7, 2, [2]uint64{0, 0}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir := t.TempDir()
			s := fast(t, dir)
			must(t, s.StoreLogs(entries(1, 10, 1)))
			must(t, takeSnapshot(s, 2, 1, "x"))
			must(t, s.DeleteRange(1, 2))
			must(t, takeSnapshot(s, tc.index, tc.term, "y"))
			if got := bounds(t, s); got != tc.want {
				t.Errorf("log is %v, want %v", got, tc.want)
			}
			closed(t, s)
			s = fast(t, dir)
			if tc.want[0] == 0 {
				must(t, s.StoreLogs(entries(tc.index+1, tc.index+2, 3)))
			}
		})
	}
}

func TestWordsAreKept(t *testing.T) {
	dir := t.TempDir()
	s := fast(t, dir)
	must(t, s.PutSealed("a", 5))
	must(t, s.PutSealed("a", 4))
	must(t, s.PutSealed("b", 1))
	must(t, s.PutPromised("a", 9))
	must(t, s.PutPromised("a", 8))
	must(t, s.PutLongest(time.Second))
	must(t, s.PutLongest(time.Millisecond))
	for range 2 {
		got := []uint64{s.Sealed("a"), s.Sealed("b"), s.Sealed("c"), s.Promised("a"), s.Promised("b"), uint64(s.Longest())}
		if want := []uint64{5, 1, 0, 9, 0, uint64(time.Second)}; !slices.Equal(got, want) {
			t.Errorf("got %v, want %v", got, want)
		}
		closed(t, s)
		s = fast(t, dir)
	}
}

func TestAdmit(t *testing.T) {
	inc := func(k int) string { return fmt.Sprintf("%016x", k) }
	for _, tc := range []struct {
		name string
		seen []Seen
		x    Seen
		want string
	}{
		{"never seen", nil, Seen{inc(1), 1, 1, 0}, ""},
		{"the same run", []Seen{{inc(1), 3, 7, 0}}, Seen{inc(1), 3, 7, 0}, ""},
		{"a later start", []Seen{{inc(1), 3, 7, 0}}, Seen{inc(1), 4, 8, 0}, ""},
		{"far later", []Seen{{inc(1), 3, 7, 0}}, Seen{inc(1), 400, 7, 0}, ""},
		{"an earlier start", []Seen{{inc(1), 3, 7, 0}}, Seen{inc(1), 2, 8, 0}, "restored from a backup"},
		{"the same start in another run", []Seen{{inc(1), 3, 7, 0}}, Seen{inc(1), 3, 8, 0}, "copied"},
		{"another directory", []Seen{{inc(1), 3, 7, 0}}, Seen{inc(2), 1, 8, 0}, ""},
		{"back to the one before", []Seen{{inc(1), 3, 7, 0}, {inc(2), 1, 8, 0}}, Seen{inc(1), 4, 9, 0}, ""},
		{"back to an old copy of the one before", []Seen{{inc(1), 3, 7, 0}, {inc(2), 1, 8, 0}}, Seen{inc(1), 2, 9, 0}, "restored from a backup"},
		{"a later start with as many words", []Seen{{inc(1), 3, 7, 20}}, Seen{inc(1), 4, 8, 20}, ""},
		{"a later start with fewer words", []Seen{{inc(1), 3, 7, 20}}, Seen{inc(1), 4, 8, 19}, "restored from a backup"},
		{"a much later start with fewer words", []Seen{{inc(1), 3, 7, 20}}, Seen{inc(1), 400, 8, 19}, "begins with 19 words, and told of 20"},
		{"no incarnation", nil, Seen{"", 1, 1, 0}, "incomplete"},
		{"no start", nil, Seen{inc(1), 0, 1, 0}, "incomplete"},
		{"no boot", nil, Seen{inc(1), 1, 0, 0}, "incomplete"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir := t.TempDir()
			s := fast(t, dir)
			must(t, s.Admit("other", Seen{inc(1), 1000, 1, 0}))
			for _, x := range tc.seen {
				must(t, s.Admit("n1", x))
			}
			for range 2 {
				err := s.Admit("n1", tc.x)
				if (err == nil) != (tc.want == "") {
					t.Errorf("%v, want %q", err, tc.want)
				}
				if tc.want != "" {
					wantError(t, err, "n1", tc.want)
				}
				var outlived *OutlivedError
				if final := errors.As(err, &outlived); final != (err != nil && !strings.Contains(tc.want, "incomplete")) {
					t.Errorf("%v: final is %t", err, final)
				}
				closed(t, s)
				s = fast(t, dir)
			}
		})
	}
}

// A word that was told is remembered at once, and on disk once it is kept; what another run told is not of this one.
func TestHeard(t *testing.T) {
	dir := t.TempDir()
	s := fast(t, dir)
	run := Seen{"a", 1, 7, 5}
	must(t, s.Admit("n1", run))
	words := s.Words()
	s.Heard("n1", 7, 9)
	s.Heard("n1", 7, 8) // a ping that was overtaken
	s.Heard("n2", 7, 100)
	wantError(t, s.Admit("n1", Seen{"a", 2, 8, 8}), "begins with 8 words, and told of 9")
	must(t, s.Admit("n1", run))
	if got := s.Told("n1"); got != 9 || s.Told("n3") != 0 {
		t.Errorf("told of %d words, want 9", got)
	}
	must(t, s.KeepHeard())
	must(t, s.KeepHeard())
	if got := s.Words(); got != words {
		t.Errorf("%d words, want %d as before: what is remembered of others is none", got, words)
	}
	closed(t, s)
	s = fast(t, dir)
	wantError(t, s.Admit("n1", Seen{"a", 2, 8, 8}), "begins with 8 words, and told of 9")
	s.Heard("n1", 6, 50) // of a run that nobody admitted
	must(t, s.KeepHeard())
	must(t, s.Admit("n1", Seen{"a", 2, 8, 9}))
	closed(t, s)
}

// Every word counts, none twice, and a start is none.
func TestWords(t *testing.T) {
	dir := t.TempDir()
	s := fast(t, dir)
	for k, word := range []func() error{
		func() error { return s.PutSealed("r", 5) },
		func() error { return s.PutPromised("r", 5) },
		func() error { return s.PutLongest(time.Second) },
		func() error { return s.SetUint64(keyCurrentTerm, 3) },
		func() error { return s.SetCluster("c") },
		func() error { return s.StoreLogs(entries(1, 3, 1)) },
		func() error { return s.DeleteRange(3, 3) },
	} {
		before := s.Words()
		must(t, word())
		if got := s.Words(); got != before+1 {
			t.Errorf("word %d: %d words, want %d", k, got, before+1)
		}
	}
	before := s.Words()
	must(t, s.PutSealed("r", 4))
	must(t, s.PutSealed("r", 5))
	if got := s.Words(); got != before {
		t.Errorf("%d words after a seal that was there, want %d", got, before)
	}
	copied := t.TempDir()
	b, err := os.ReadFile(filepath.Join(dir, fileName))
	must(t, err)
	must(t, os.WriteFile(filepath.Join(copied, fileName), b, 0o600))
	must(t, s.PutSealed("r", 6))
	closed(t, s)
	for range 3 {
		c := fast(t, copied)
		if got := c.Identity().Words; got != before {
			t.Errorf("the copy begins with %d words, want %d however often it starts", got, before)
		}
		closed(t, c)
	}
}

// That a directory is an old copy stays with it, and is no word.
func TestOutlived(t *testing.T) {
	dir := t.TempDir()
	s := fast(t, dir)
	must(t, s.PutSealed("r", 5))
	words := s.Words()
	must(t, s.PutOutlived("n1 says so"))
	must(t, s.PutOutlived("n2 too"))
	for range 2 {
		if got := s.Outlived(); got != "n1 says so" || s.Words() != words {
			t.Errorf("got %q and %d words, want the first reason and %d", got, s.Words(), words)
		}
		closed(t, s)
		s = fast(t, dir)
	}
	closed(t, s)
	must(t, Reset(dir, "by hand"))
	s = fast(t, dir)
	if got := s.Outlived(); got != "" {
		t.Errorf("the new directory is %q", got)
	}
	closed(t, s)
}

func TestAdmitRemembersTheLastOnes(t *testing.T) {
	dir := t.TempDir()
	s := fast(t, dir)
	for k := range maxSeen + 1 {
		must(t, s.Admit("n1", Seen{fmt.Sprint(k), 5, 1, 0}))
	}
	must(t, s.Admit("n1", Seen{"1", 6, 1, 0})) // and is the newest again
	must(t, s.Admit("n1", Seen{"new", 5, 1, 0}))
	closed(t, s)
	s = fast(t, dir)
	wantError(t, s.Admit("n1", Seen{"1", 5, 1, 0}), "backup")
	must(t, s.Admit("n1", Seen{"2", 1, 1, 0})) // forgotten
	if err := s.Admit("n1", Seen{strings.Repeat("x", 256), 1, 1, 0}); err == nil {
		t.Error("an incarnation that can't be written is accepted")
	}
}

func TestReset(t *testing.T) {
	dir := t.TempDir()
	wantError(t, Reset(filepath.Join(dir, "no"), "x"), "no")
	wantError(t, Reset(dir, "x"), fileName)
	var seen []string
	for k := range 3 {
		s := fast(t, dir)
		seen = append(seen, s.Identity().Incarnation)
		must(t, s.Bootstrap("c", conf("a")))
		closed(t, s)
		must(t, Reset(dir, fmt.Sprintf("reason %d", k)))
	}
	s := fast(t, dir)
	if id := s.Identity(); !s.Empty() || id.Starts != 1 || id.Cluster != "" || slices.Contains(seen, id.Incarnation) {
		t.Errorf("after reset: %+v, empty %v", id, s.Empty())
	}
	names, err := filepath.Glob(filepath.Join(dir, fileName+".old-*Z*"))
	must(t, err)
	if len(names) != 6 {
		t.Errorf("kept %v", names)
	}
	var why []string
	for _, n := range names {
		if strings.HasSuffix(n, ".why") {
			b, err := os.ReadFile(n)
			must(t, err)
			why = append(why, string(b))
		}
	}
	slices.Sort(why)
	if diff := cmp.Diff([]string{"reason 0\n", "reason 1\n", "reason 2\n"}, why); diff != "" {
		t.Error(diff)
	}
}

func TestCheck(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, Options{})
	for range 3 {
		must(t, s.Check(t.Context()))
	}
	info, err := os.Stat(filepath.Join(dir, "probe"))
	must(t, err)
	if info.Size() != 4096 || info.Mode() != 0o600 {
		t.Errorf("probe has %d bytes, mode %v", info.Size(), info.Mode())
	}
	// A write that hangs: opening a pipe that nobody reads.
	must(t, os.Remove(filepath.Join(dir, "probe")))
	makePipe(t, filepath.Join(dir, "probe"))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	wantError(t, s.Check(ctx), "did not answer")
	wantError(t, s.Check(t.Context()), "waits since")
	f, err := os.Open(filepath.Join(dir, "probe")) // lets it go
	must(t, err)
	defer f.Close()
	for deadline := time.Now().Add(10 * time.Second); ; {
		err := s.Check(t.Context())
		if err == nil || !strings.Contains(err.Error(), "waits since") {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

func TestFailedWriteStopsAllWriting(t *testing.T) {
	s := fast(t, t.TempDir())
	must(t, s.StoreLogs(entries(1, 3, 1)))
	must(t, s.PutSealed("r", 1))
	// The disk takes nothing any more.
	must(t, s.db.Close())
	s.db = nil
	if err := s.StoreLogs(entries(4, 4, 1)); err == nil {
		t.Fatal("no error")
	}
	wantError(t, s.Trouble(), "append log entries 4 to 4", fileName)
	for name, err := range map[string]error{
		"seal": s.PutSealed("r", 2), "promise": s.PutPromised("r", 2), "hold": s.PutLongest(1), "set": s.Set([]byte("k"), nil),
		"admit": s.Admit("n", Seen{"i", 1, 1, 0}), "check": s.Check(t.Context()), "cluster": s.SetCluster("c"),
	} {
		if err == nil || !strings.Contains(err.Error(), "append log entries 4 to 4") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if s.Sealed("r") != 1 || s.Promised("r") != 0 || s.Longest() != 0 {
		t.Error("a word that is not on disk is told")
	}
}

func TestReadersBesideWriters(t *testing.T) {
	s := fast(t, t.TempDir())
	must(t, s.StoreLogs(entries(1, 100, 1)))
	var all sync.WaitGroup
	stop := make(chan struct{})
	for range 3 {
		all.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				b := bounds(t, s)
				var l raft.Log
				if err := s.GetLog(b[1], &l); err != nil && err != raft.ErrLogNotFound { //nolint:errorlint // as raft does
					t.Error(err)
				}
				if err := s.GetLog(b[0], &l); err == nil && !bytes.HasPrefix(l.Data, fmt.Appendf(nil, "%d ", l.Index)) {
					t.Errorf("entry %d is %q", l.Index, l.Data)
				}
				s.Sealed("r")
				s.Identity()
				s.Empty()
				if _, err := s.Snapshots().List(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Go(func() {
		for k := range uint64(200) {
			must(t, s.PutSealed("r", k))
			must(t, s.Admit("n", Seen{"i", k + 1, record.Boot(k + 1), k}))
		}
	})
	for k := uint64(101); k < 400; k++ {
		must(t, s.StoreLogs(entries(k, k, 1)))
		switch k % 10 {
		case 0:
			must(t, s.DeleteRange(0, k-60))
		case 5:
			must(t, s.DeleteRange(k, k))
			must(t, s.StoreLogs(entries(k, k, 2)))
		case 7:
			must(t, takeSnapshot(s, k-5, 1, "s"))
		}
	}
	close(stop)
	all.Wait()
}

// TestThroughput tells how fast the disk of the test is.
func TestThroughput(t *testing.T) {
	s := open(t, t.TempDir(), Options{})
	const n = 50
	var took []time.Duration
	for k := range uint64(n) {
		at := time.Now()
		must(t, s.StoreLogs(entries(k+1, k+1, 1)))
		took = append(took, time.Since(at))
	}
	slices.Sort(took)
	t.Logf("append of one entry: p50 %v, p90 %v, max %v", took[n/2], took[n*9/10], took[n-1])
	if err := s.Trouble(); err != nil {
		t.Error(err)
	}
}
