package raftlog

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
	"pgregory.net/rapid"

	"pgvrrp/internal/quorum/lease"
	"pgvrrp/internal/quorum/record"
	"pgvrrp/internal/quorum/store"
)

// situation makes a view from text. Members are "n1@a", with "-" behind it if dead, "=" if it answers and its log has all,
// "<" if it answers and its log has not all, and "?" in front if it has no vote. Others that answer are named in others,
// with "+" behind if they were part of this cluster and "!" if of another.
func situation(members, others string, file ...string) *view {
	v := &view{self: "n1@a", file: voters(file...), cluster: "c", last: 100, alive: map[raft.ServerID]bool{}, stuck: map[raft.ServerID]bool{},
		hellos: map[string]Hello{}, later: map[string]bool{}, holders: map[string]bool{}, settled: true}
	for _, m := range strings.Fields(members) {
		s := raft.Server{}
		if strings.HasPrefix(m, "?") {
			m, s.Suffrage = m[1:], raft.Nonvoter
		}
		name := strings.TrimRight(m, "-=<")
		s.ID, s.Address = raft.ServerID(name), raft.ServerAddress(name)
		v.members = append(v.members, s)
		v.alive[s.ID] = !strings.HasSuffix(m, "-")
		id, incarnation := splitID(s.ID)
		if strings.HasSuffix(m, "=") {
			v.hellos[id] = Hello{ID: id, Incarnation: incarnation, Cluster: "c", Last: 99}
		}
		if strings.HasSuffix(m, "<") {
			v.hellos[id] = Hello{ID: id, Incarnation: incarnation, Cluster: "c", Last: 50}
		}
	}
	for _, o := range strings.Fields(others) {
		h := Hello{Empty: true}
		name := strings.TrimRight(o, "+!")
		switch o[len(name):] {
		case "+":
			h.Empty, h.Cluster = false, "c"
		case "!":
			h.Empty, h.Cluster = false, "d"
		}
		h.ID, h.Incarnation = splitID(raft.ServerID(name))
		v.hellos[h.ID] = h
	}
	return v
}

func TestNextChange(t *testing.T) {
	five := []string{"n1", "n2", "n3", "w1", "w1/2"}
	for _, tc := range []struct {
		name            string
		members, others string
		file            []string
		change          func(v *view)
		want            string
	}{
		{"all well", "n1@a n2@a= n3@a=", "", five[:3], nil, ""},
		{"five, two dead", "n1@a n2@a- n3@a= w1@a= w1/2@a-", "", five, nil, "remove n2@a"},
		{"four, one dead", "n1@a n3@a= w1@a= w1/2@a-", "", five, nil, "remove w1/2@a"},
		{"four, two dead", "n1@a n3@a= w1@a- w1/2@a-", "", five, nil, ""},
		{"five, one dead", "n1@a n2@a- n3@a= w1@a= w1/2@a=", "", five, nil, ""},
		{"five, three dead", "n1@a n2@a- n3@a- w1@a- w1/2@a=", "", five, nil, ""},
		{"three, one dead", "n1@a n2@a- n3@a=", "", five[:3], nil, ""},
		{"two, one dead", "n1@a n2@a-", "", five[:2], nil, ""},
		{"the dead one holds", "n1@a n2@a- n3@a= w1@a=", "", five, func(v *view) { v.holders["n2"] = true }, ""},
		{"one of two dead holds", "n1@a n2@a- n3@a- w1@a= w1/2@a=", "", five, func(v *view) { v.holders["n2"] = true }, ""},
		{"two of six dead, and another holds", "n1@a n2@a- n3@a- w1@a= w1/2@a= n4@a=", "", five, func(v *view) { v.holders["n1"] = true }, "remove n2@a"},
		{"the dead one is not in the file any more", "n1@a n2@a= n3@a= x@a-", "", five[:3], nil, "remove x@a"},
		{"who lives stays, in the file or not", "n1@a n2@a= n3@a= x@a=", "", five[:3], nil, ""},

		{"emptied", "n1@a n2@a- n3@a=", "n2@b", five[:3], nil, "remove n2@a"},
		{"emptied, the majority is not there without it", "n1@a n2@a- n3@a- w1@a= w1/2@a=", "n2@b", five, func(v *view) { v.holders["n3"], v.alive["w1@a"] = true, false }, ""},
		{"emptied, one of two", "n1@a n2@a-", "n2@b", five[:2], nil, ""},
		{"emptied, and it holds", "n1@a n2@a- n3@a=", "n2@b", five[:3], func(v *view) { v.holders["n2"] = true }, ""},
		{"both directories answer", "n1@a n2@a n3@a=", "n2@b", five[:3], nil, ""},
		{"emptied before it had its vote", "n1@a n3@a= ?n2@a-", "n2@b", five[:3], nil, "remove n2@a"},
		{"the other directory is of another cluster", "n1@a n2@a- n3@a=", "n2@b!", five[:3], nil, ""},
		{"a former directory is back", "n1@a n2@b- n3@a=", "n2@a+", five[:3], nil, "remove n2@b"},

		{"back after its removal", "n1@a n3@a= w1@a=", "n2@a+", five[:4], nil, "add n2@a"},
		{"back, empty", "n1@a n3@a= w1@a=", "n2@b", five[:4], nil, "add n2@b"},
		{"back, of another cluster", "n1@a n3@a= w1@a=", "n2@b!", five[:4], nil, ""},
		{"back, and tried a moment ago", "n1@a n3@a= w1@a=", "n2@a+", five[:4], func(v *view) { v.later["n2"] = true }, ""},
		{"two are back", "n1@a n3@a= w1@a=", "w1/2@a+ n2@a+", five, nil, "add n2@a"},
		{"two are back, one has no vote yet", "n1@a n3@a= w1@a= ?n2@a<", "w1/2@a+", five, nil, ""},
		{"back, and the membership has just changed", "n1@a n3@a= w1@a=", "n2@a+", five[:4], func(v *view) { v.settled = false }, ""},
		{"not in the file", "n1@a n2@a= n3@a=", "x@a", five[:3], nil, ""},

		{"has read the log", "n1@a n3@a= ?n2@a=", "", five[:3], nil, "promote n2@a"},
		{"has read the log a moment ago", "n1@a n3@a= ?n2@a=", "", five[:3], func(v *view) { v.settled = false }, ""},
		{"has read the log, and with it there were no majority", "n1@a n3@a- ?n2@a= w1@a-", "", five[:4], func(v *view) { v.alive["n1@a"] = false }, ""},
		{"reads the log", "n1@a n3@a= ?n2@a<", "", five[:3], nil, ""},
		{"is stuck", "n1@a n3@a= ?n2@a<", "", five[:3], func(v *view) { v.stuck["n2@a"] = true }, "remove n2@a"},
		{"does not answer, its log does", "n1@a n3@a= ?n2@a", "", five[:3], nil, ""},
		{"died before it had its vote", "n1@a n3@a= ?n2@a-", "", five[:3], nil, "remove n2@a"},
		{"without a vote, and out of the file", "n1@a n3@a= ?x@a<", "", five[:3], nil, "remove x@a"},
		{"the dead go first", "n1@a n2@a- n3@a= w1@a= w1/2@a- ?n4@a=", "", append(five, "n4"), nil, "remove n2@a"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			v := situation(tc.members, tc.others, tc.file...)
			if tc.change != nil {
				tc.change(v)
			}
			got := ""
			if c := v.next(); c.kind != noChange {
				got = fmt.Sprintf("%v %s", c.kind, c.id)
			}
			if got != tc.want {
				t.Errorf("%q, want %q", got, tc.want)
			}
		})
	}
}

// TestNoChangeLosesTheMajority checks of any situation: after the change, a majority of the voters is alive if one was before,
// at least one stays, and what was said about the dead and the holder is so.
func TestNoChangeLosesTheMajority(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		v := situation("", "", "n1", "n2", "n3", "n4", "n5", "w1", "w1/2")
		for k, f := range v.file {
			s := raft.Server{ID: serverID(f.ID, "a"), Suffrage: raft.ServerSuffrage(rapid.SampledFrom([]int{0, 0, 0, 1}).Draw(t, "suffrage"))}
			if k == 0 {
				s.Suffrage = raft.Voter
			}
			if k > 0 && rapid.IntRange(0, 3).Draw(t, "member") == 0 {
				continue
			}
			v.members = append(v.members, s)
			v.alive[s.ID] = k == 0 || rapid.Bool().Draw(t, "alive")
			v.stuck[s.ID] = rapid.Bool().Draw(t, "stuck")
			if k > 0 && rapid.Bool().Draw(t, "holds") {
				v.holders[f.Node] = true
			}
		}
		for _, f := range v.file[1:] {
			if rapid.Bool().Draw(t, "answers") {
				v.hellos[f.ID] = Hello{ID: f.ID, Incarnation: rapid.SampledFrom([]string{"a", "b"}).Draw(t, "incarnation"),
					Cluster: rapid.SampledFrom([]string{"c", "d"}).Draw(t, "cluster"), Last: uint64(rapid.IntRange(50, 100).Draw(t, "last"))}
			}
		}
		n, alive := v.voters()
		c := v.next()
		if c.kind == noChange || alive < majority(n) {
			return
		}
		after := *v
		k := slices.IndexFunc(v.members, func(s raft.Server) bool { return s.ID == c.id })
		after.members = slices.Clone(v.members)
		switch c.kind {
		case add:
			after.members = append(after.members, raft.Server{ID: c.id, Suffrage: raft.Nonvoter})
		case promote:
			after.members[k].Suffrage = raft.Voter
		case remove:
			after.members = slices.Delete(after.members, k, k+1)
		}
		id, _ := splitID(c.id)
		n2, alive2 := after.voters()
		if alive2 < majority(n2) || n2 < 1 || c.id == v.self {
			t.Fatalf("%v %s: %d of %d voters alive, were %d of %d", c.kind, c.id, alive2, n2, alive, n)
		}
		if c.kind == remove && n2 < n && (v.alive[c.id] || v.holders[v.node(id)]) {
			t.Fatalf("%v removes a voter that is alive, or of a holder", c.id)
		}
		if c.kind == remove && n2 < n && n2 < 3 {
			if h, ok := v.hellos[id]; !ok || h.Incarnation == "a" {
				t.Fatalf("%v leaves %d voters", c.id, n2)
			}
		}
	})
}

func conf(ids ...string) raft.Configuration {
	var c raft.Configuration
	for _, id := range ids {
		s := raft.Server{}
		if strings.HasPrefix(id, "?") {
			id, s.Suffrage = id[1:], raft.Nonvoter
		}
		s.ID, s.Address = raft.ServerID(id), raft.ServerAddress(id)
		c.Servers = append(c.Servers, s)
	}
	return c
}

func TestDigest(t *testing.T) {
	base := digest(conf("a@1", "b@2", "?c@3"))
	if digest(conf("?c@3", "b@2", "a@1")) != base {
		t.Error("the order counts")
	}
	for _, other := range []raft.Configuration{conf("a@1", "b@2", "c@3"), conf("a@1", "b@2"), conf("a@1", "b@3", "?c@3"), conf()} {
		if digest(other) == base {
			t.Errorf("%v is the same", other)
		}
	}
	if got := voterIDs(conf("w1/2@2", "b@2", "a@1", "?c@3")); !slices.Equal(got, []string{"a", "b", "w1/2"}) {
		t.Errorf("voters %v", got)
	}
}

// told collects what a tracker tells, as "index committed?", "-" for none.
type told struct{ all []string }

func (x *told) tell(c lease.Configuration) {
	s := "-"
	if c.Index != 0 {
		s = fmt.Sprint(c.Index)
	}
	if c.Committed {
		s += "c"
	}
	x.all = append(x.all, s)
}

func (x *told) want(t *testing.T, want ...string) {
	t.Helper()
	if !slices.Equal(x.all, want) {
		t.Errorf("told %v, want %v", x.all, want)
	}
	x.all = nil
}

func TestTracker(t *testing.T) {
	var x told
	now := time.Second
	tr := newTracker("a@1", func() time.Duration { return now }, x.tell)
	all := conf("a@1", "b@1", "c@1")
	appended := func(index uint64, c raft.Configuration) { tr.appended([]membership{{index: index, c: c}}) }

	appended(1, all)
	x.want(t, "1")
	if _, _, ok := tr.settled(); ok {
		t.Error("it is committed")
	}
	now = 2 * time.Second
	tr.commit(1)
	x.want(t, "1c")
	if m, since, ok := tr.settled(); !ok || since != now || m.index != 1 {
		t.Errorf("%v since %v, %v", m, since, ok)
	}
	tr.commit(1)
	x.want(t)
	appended(5, conf("a@1", "b@1"))
	x.want(t, "5")
	tr.truncated(4, 3) // another leader has other entries
	x.want(t, "1c")
	appended(5, conf("b@1", "c@1"))
	x.want(t, "5")
	tr.truncated(1, 6) // the log is cut at the front
	x.want(t)
	tr.commit(5)
	x.want(t, "5c")
	tr.truncated(1, 0) // all of it is gone: a snapshot stands for it
	x.want(t)
	tr.installed(5, conf("b@1", "c@1"), 9) // our own snapshot
	x.want(t)
	appended(10, conf("a@1", "b@1", "c@1"))
	x.want(t, "10")
	tr.installed(5, conf("b@1", "c@1"), 12) // our own snapshot, while a newer one is not committed
	x.want(t)
	tr.installed(9, conf("b@1"), 0) // one that the leader sent, and the log is gone
	x.want(t, "9c")
	tr.installed(20, all, 0)
	x.want(t, "20c")
	appended(30, conf("a@1", "b@1"))
	appended(31, all)
	x.want(t, "30", "31")
	tr.commit(30)
	x.want(t)
	tr.truncated(31, 30)
	x.want(t, "30c")
}

func TestTrackerOfANewIncarnation(t *testing.T) {
	var x told
	tr := newTracker("a@2", func() time.Duration { return 0 }, x.tell)
	tr.appended([]membership{{index: 1, c: conf("a@1", "b@1", "c@1")}})
	tr.commit(1)
	tr.appended([]membership{{index: 2, c: conf("b@1", "c@1")}, {index: 3, c: conf("b@1", "c@1", "?a@2")}})
	tr.commit(3)
	x.want(t)
	if tr.newest().index != 3 {
		t.Errorf("newest %v", tr.newest())
	}
	tr.appended([]membership{{index: 4, c: conf("b@1", "c@1", "a@2")}})
	x.want(t, "4")
	tr.truncated(4, 3)
	x.want(t, "-")
	tr.appended([]membership{{index: 5, c: conf("b@1", "c@1", "a@2")}})
	tr.commit(5)
	x.want(t, "5", "5c")
	tr.appended([]membership{{index: 6, c: conf("b@1", "c@1")}}) // it is removed: that is its own history now
	x.want(t, "6")
	tr.commit(6)
	x.want(t, "6c")
}

// TestTrackerFollowsTheLog does what raft does to a store, and compares with what the store's log says.
func TestTrackerFollowsTheLog(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		s, err := store.Open(t.TempDir(), store.Options{NoSync: true})
		if err != nil {
			rt.Fatal(err)
		}
		defer s.Close()
		var last lease.Configuration
		now := time.Duration(0)
		tr := newTracker("a@1", func() time.Duration { now++; return now }, func(c lease.Configuration) { last = c })
		st := &storage{Store: s, members: tr, fail: func(err error) { rt.Fatal(err) }}
		committed, snapped := uint64(0), uint64(0)
		memberships := map[uint64]raft.Configuration{}
		end := func() uint64 {
			n, err := s.LastIndex()
			if err != nil {
				rt.Fatal(err)
			}
			return max(n, snapped)
		}
		newest := func(upTo uint64) (uint64, raft.Configuration) {
			at := uint64(0)
			for k := range memberships {
				if k <= upTo {
					at = max(at, k)
				}
			}
			return at, memberships[at]
		}
		term := uint64(1)
		rt.Repeat(map[string]func(*rapid.T){
			"append": func(rt *rapid.T) {
				var logs []*raft.Log
				for k := range uint64(rapid.IntRange(1, 4).Draw(rt, "n")) {
					e := &raft.Log{Index: end() + 1 + k, Term: term}
					if e.Index == 1 || rapid.IntRange(0, 2).Draw(rt, "membership") == 0 {
						c := conf("a@1", fmt.Sprintf("b@%d", rapid.IntRange(1, 5).Draw(rt, "b")))
						e.Type, e.Data = raft.LogConfiguration, raft.EncodeConfiguration(c)
						memberships[e.Index] = c
					}
					logs = append(logs, e)
				}
				if err := st.StoreLogs(logs); err != nil {
					rt.Fatal(err)
				}
			},
			"commit": func(rt *rapid.T) {
				to := rapid.Uint64Range(committed, end()).Draw(rt, "to")
				for k := committed + 1; k <= to; k++ {
					if _, ok := memberships[k]; ok {
						tr.commit(k)
					}
				}
				committed = to
			},
			"cut the end": func(rt *rapid.T) {
				n, _ := s.LastIndex()
				if n <= committed {
					rt.Skip()
				}
				low := rapid.Uint64Range(committed+1, n).Draw(rt, "low")
				if err := st.DeleteRange(low, n); err != nil {
					rt.Fatal(err)
				}
				for k := low; k <= n; k++ {
					delete(memberships, k)
				}
				term++
			},
			"snapshot": func(rt *rapid.T) {
				if committed <= snapped {
					rt.Skip()
				}
				at, c := newest(committed)
				k, err := st.snapshots().Create(1, committed, term, c, at, nil)
				if err == nil {
					err = k.Close()
				}
				first, _ := s.FirstIndex()
				if n, _ := s.LastIndex(); err == nil && n > 0 {
					err = st.DeleteRange(first, min(committed, n))
				}
				if err != nil {
					rt.Fatal(err)
				}
				snapped = committed
				if n, _ := s.LastIndex(); n == 0 {
					for k := range memberships {
						if k > snapped {
							delete(memberships, k)
						}
					}
				}
			},
			"a snapshot is sent": func(rt *rapid.T) {
				n := end()
				index := rapid.Uint64Range(n+1, n+9).Draw(rt, "index")
				at := rapid.Uint64Range(max(1, committed), index).Draw(rt, "at")
				if known, c := newest(committed); known == at {
					memberships[at] = c
				} else {
					memberships[at] = conf("a@1", "d@1")
				}
				for k := range memberships {
					if k > at || k > committed && k < at {
						delete(memberships, k)
					}
				}
				k, err := st.snapshots().Create(1, index, term, memberships[at], at, nil)
				if err == nil {
					err = k.Close()
				}
				if err != nil {
					rt.Fatal(err)
				}
				committed, snapped = index, index
			},
			"start": func(rt *rapid.T) {
				tr = newTracker("a@1", func() time.Duration { now++; return now }, func(c lease.Configuration) { last = c })
				st.members, last = tr, lease.Configuration{}
				if err := tr.load(s); err != nil {
					rt.Fatal(err)
				}
				for k := range memberships {
					if k <= committed {
						tr.commit(k)
					}
				}
			},
			"": func(rt *rapid.T) {
				at, c := newest(^uint64(0))
				if at == 0 {
					return
				}
				if last.Index != at || last.Digest != digest(c) || last.Committed != (at <= committed) || tr.newest().index != at {
					rt.Fatalf("told %+v, want %d (committed up to %d)", last, at, committed)
				}
			},
		})
	})
}

// TestMembershipIsToldBetweenTheDiskAndTheAnswer: raft answers after StoreLogs.
func TestMembershipIsToldBetweenTheDiskAndTheAnswer(t *testing.T) {
	s, err := store.Open(t.TempDir(), store.Options{NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	var seen []string
	tr := newTracker("a@1", func() time.Duration { return 0 }, func(c lease.Configuration) {
		last, err := s.LastIndex()
		seen = append(seen, fmt.Sprintf("%d with %d on disk, %v", c.Index, last, err))
	})
	st := &storage{Store: s, members: tr, fail: func(err error) { t.Error(err) }}
	for k, c := range []raft.Configuration{conf("a@1", "b@1"), conf("a@1")} {
		if err := st.StoreLog(&raft.Log{Index: uint64(k + 1), Term: 1, Type: raft.LogConfiguration, Data: raft.EncodeConfiguration(c)}); err != nil {
			t.Fatal(err)
		}
		if len(seen) != k+1 {
			t.Errorf("after entry %d: %q", k+1, seen)
		}
	}
	if want := []string{"1 with 1 on disk, <nil>", "2 with 2 on disk, <nil>"}; !slices.Equal(seen, want) {
		t.Errorf("told %q, want %q", seen, want)
	}
}

func TestStorageEndsTheGoroutineOfAFailure(t *testing.T) {
	s, err := store.Open(t.TempDir(), store.Options{NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	d := &disk{Store: s}
	bad := &raft.Log{Index: 1, Term: 1, Type: raft.LogConfiguration, Data: []byte("nonsense")}
	for _, tc := range []struct {
		name string
		do   func(st *storage)
		fail bool
	}{
		{"missing entry", func(st *storage) {
			if err := st.GetLog(5, &raft.Log{}); err != raft.ErrLogNotFound { //nolint:errorlint // raft compares it so
				t.Error(err)
			}
		}, false},
		{"entries", func(st *storage) { _ = st.StoreLog(&raft.Log{Index: 1}) }, true},
		{"term", func(st *storage) { _ = st.SetUint64([]byte("CurrentTerm"), 1) }, true},
		{"vote", func(st *storage) { _ = st.Set([]byte("LastVoteCand"), nil) }, true},
		{"a membership that is none", func(st *storage) { d.fail.Store(false); _ = st.StoreLog(bad) }, true},
		{"an old membership", func(st *storage) { _ = st.StoreLog(&raft.Log{Index: 1, Type: raft.LogRemovePeerDeprecated}) }, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			d.fail.Store(true)
			var failed error
			st := &storage{Store: d, members: newTracker("a@1", func() time.Duration { return 0 }, func(lease.Configuration) {}), fail: func(err error) { failed = err }}
			went := false
			done := make(chan struct{})
			go func() {
				defer close(done)
				tc.do(st)
				went = true
			}()
			<-done
			if went == tc.fail || (failed != nil) != tc.fail {
				t.Errorf("went on: %v, failed: %v", went, failed)
			}
			if !st.members.mu.TryLock() {
				t.Error("the log is still held")
			}
		})
	}
}

func TestMachineSkipsWhatItCannotRead(t *testing.T) {
	var changed []string
	m := newMachine(func(r *record.Resource) { changed = append(changed, r.Name) }, slog.New(slog.DiscardHandler))
	if err, _ := m.Apply(&raft.Log{Index: 7, Data: []byte("{")}).(error); err == nil || !strings.Contains(err.Error(), "log entry 7") {
		t.Errorf("%v", err)
	}
	b, err := record.Command{Op: record.Init, Resource: "r", Kind: record.Plain, Rule: record.Rule{S: []record.Member{{Node: "n"}}}}.Encode()
	if err != nil {
		t.Fatal(err)
	}
	before := m.state.Load()
	if got := m.Apply(&raft.Log{Index: 8, Data: b}); got != nil {
		t.Errorf("%v", got)
	}
	if before.Get("r") != nil || m.state.Load().Get("r").Index != 8 || !slices.Equal(changed, []string{"r"}) {
		t.Errorf("before %v, after %v, changed %v", before.Get("r"), m.state.Load().Get("r"), changed)
	}
}

func TestLoggerIsQuiet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b bytes.Buffer
		lg := Logger(slog.New(slog.NewTextHandler(&b, &slog.HandlerOptions{Level: slog.LevelInfo})))
		lg = lg.Named("x").With("k", "v")
		for range 3 {
			lg.Error("failed to heartbeat to", "peer", "n1@a", "error", errors.New("no route"))
		}
		lg.Error("failed to heartbeat to", "peer", "n2@a", "error", errors.New("no route"))
		lg.Warn("not so good", "servers", hclog.Fmt("%+v", []int{1}))
		lg.Info("much")
		lg.Debug("more")
		lg.StandardLogger(nil).Print("text")
		time.Sleep(quietTime)
		lg.Error("failed to heartbeat to", "peer", "n1@a", "error", errors.New("no route"))
		var got []string
		for line := range strings.Lines(b.String()) {
			_, line, _ = strings.Cut(strings.TrimSpace(line), " ")
			got = append(got, line)
		}
		want := []string{
			`level=WARN msg="failed to heartbeat to" component=raft k=v peer=n1@a error="no route"`,
			`level=WARN msg="failed to heartbeat to" component=raft k=v peer=n2@a error="no route"`,
			`level=INFO msg="not so good" component=raft k=v servers=[1]`,
			`level=WARN msg="failed to heartbeat to" component=raft k=v peer=n1@a error="no route"`,
		}
		if !slices.Equal(got, want) {
			t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	})
}

// A voter whose network has come back is dead only when its log stays silent; who was granted a resource holds it.
func TestAlive(t *testing.T) {
	var up time.Duration
	now := time.Minute
	l := &Log{self: "n1@a", added: map[raft.ServerID]time.Duration{}, o: Options{
		Now: func() time.Duration { return now }, UpSince: func(id string) time.Duration {
			if id != "n2" {
				t.Errorf("asked for %q", id)
			}
			return up
		},
	}}
	l.transport = newTransport(nil, l.o.Now, 0, l.follows)
	l.transport.followers["n2@a"] = follower{answered: now - 2*deadAfter}
	for _, tt := range []struct {
		name string
		up   time.Duration
		want bool
	}{
		{"cut off", 0, false},
		{"back", now - deadAfter/10, true},
		{"back for long, and silent", now - deadAfter, false},
	} {
		if up = tt.up; l.alive("n2@a") != tt.want {
			t.Errorf("%s: alive %t, want %t", tt.name, !tt.want, tt.want)
		}
	}
}
