package store

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"testing"

	"github.com/hashicorp/raft"
	"pgregory.net/rapid"

	"pgvrrp/internal/quorum/record"
)

// model is a store in memory.
type model struct {
	log      map[uint64]raft.Log
	stable   map[string]string
	sealed   map[string]uint64
	promised map[string]uint64
	seen     map[string][]Seen
	snaps    []string // newest first
	snapAt   uint64
	starts   uint64
}

func (m *model) bounds() [2]uint64 {
	keys := slices.Sorted(maps.Keys(m.log))
	if len(keys) == 0 {
		return [2]uint64{}
	}
	return [2]uint64{keys[0], keys[len(keys)-1]}
}

func TestStoreIsItsModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		dir, err := os.MkdirTemp(t.TempDir(), "")
		must(t, err)
		s, err := Open(dir, Options{NoSync: true})
		must(t, err)
		defer func() { _ = s.Close() }()
		m := &model{log: map[uint64]raft.Log{}, stable: map[string]string{}, sealed: map[string]uint64{}, promised: map[string]uint64{},
			seen: map[string][]Seen{}, starts: 1}
		name := rapid.SampledFrom([]string{"a", "b", "c"})
		small := rapid.Uint64Range(1, 12)
		rt.Repeat(map[string]func(*rapid.T){
			"append": func(rt *rapid.T) {
				from := m.bounds()[1] + 1
				if from == 1 {
					from = m.snapAt + 1
				}
				n, term := rapid.Uint64Range(1, 5).Draw(rt, "n"), small.Draw(rt, "term")
				logs := entries(from, from+n-1, term)
				must(t, s.StoreLogs(logs))
				for _, l := range logs {
					m.log[l.Index] = *l
				}
			},
			"append wrongly": func(rt *rapid.T) {
				b := m.bounds()
				if b[1] == 0 {
					rt.Skip()
				}
				at := rapid.Uint64Range(1, b[1]+9).Filter(func(k uint64) bool { return k != b[1]+1 }).Draw(rt, "at")
				if err := s.StoreLogs(entries(at, at, 1)); err == nil {
					rt.Fatalf("%d after %d", at, b[1])
				}
			},
			"cut the end": func(rt *rapid.T) {
				b := m.bounds()
				if b[1] == 0 {
					rt.Skip()
				}
				// As raft does: never into what a snapshot stands for.
				low := rapid.Uint64Range(max(b[0], m.snapAt+1), max(b[1], m.snapAt+1)).Draw(rt, "low")
				must(t, s.DeleteRange(low, b[1]))
				maps.DeleteFunc(m.log, func(k uint64, _ raft.Log) bool { return k >= low })
			},
			"cut the front": func(rt *rapid.T) {
				b := m.bounds()
				if m.snapAt == 0 || b[1] == 0 {
					rt.Skip()
				}
				high := rapid.Uint64Range(0, min(m.snapAt, b[1])).Draw(rt, "high")
				must(t, s.DeleteRange(0, high))
				maps.DeleteFunc(m.log, func(k uint64, _ raft.Log) bool { return k <= high })
			},
			"snapshot": func(rt *rapid.T) {
				index, term := rapid.Uint64Range(m.snapAt+1, m.snapAt+10).Draw(rt, "index"), small.Draw(rt, "term")
				must(t, takeSnapshot(s, index, term, fmt.Sprint(index)))
				m.snaps = append([]string{fmt.Sprintf("%d/%d %d %d", index, term, index, index-1)}, m.snaps...)
				m.snaps, m.snapAt = m.snaps[:min(2, len(m.snaps))], index
				if b := m.bounds(); b[1] < index || m.log[index].Term != term && b[0] <= index {
					clear(m.log)
				}
			},
			"set": func(rt *rapid.T) {
				k, v := name.Draw(rt, "key"), rapid.String().Draw(rt, "value")
				must(t, s.Set([]byte(k), []byte(v)))
				m.stable[k] = v
			},
			"seal": func(rt *rapid.T) {
				k, n := name.Draw(rt, "resource"), small.Draw(rt, "epoch")
				must(t, s.PutSealed(k, n))
				m.sealed[k] = max(m.sealed[k], n)
			},
			"word": func(rt *rapid.T) {
				was := s.Words()
				must(t, s.PutWord("say nothing"))
				if got := s.Words(); got != was+1 {
					rt.Fatalf("words %d after %d", got, was)
				}
			},
			"promise": func(rt *rapid.T) {
				k, n := name.Draw(rt, "resource"), small.Draw(rt, "epoch")
				must(t, s.PutPromised(k, n))
				m.promised[k] = max(m.promised[k], n)
			},
			"admit": func(rt *rapid.T) {
				k := name.Draw(rt, "peer")
				x := Seen{fmt.Sprint(rapid.IntRange(1, 10).Draw(rt, "incarnation")), small.Draw(rt, "starts"), record.Boot(small.Draw(rt, "boot")), small.Draw(rt, "words")}
				all := m.seen[k]
				at := slices.IndexFunc(all, func(o Seen) bool { return o.Incarnation == x.Incarnation })
				same := at >= 0 && x.Starts == all[at].Starts && x.Boot == all[at].Boot
				ok := at < 0 || same || x.Starts > all[at].Starts && x.Words >= all[at].Words
				if err := s.Admit(k, x); (err == nil) != ok {
					rt.Fatalf("admit %v after %v: %v", x, all, err)
				}
				if ok && !same {
					if at >= 0 {
						all = slices.Delete(slices.Clone(all), at, at+1)
					}
					all = append(slices.Clone(all), x)
					m.seen[k] = all[max(0, len(all)-8):]
				}
			},
			"hear": func(rt *rapid.T) {
				k, boot, words := name.Draw(rt, "peer"), record.Boot(small.Draw(rt, "boot")), small.Draw(rt, "words")
				if !slices.ContainsFunc(m.seen[k], func(o Seen) bool { return o.Boot == boot }) {
					return // nothing is heard of a run that was not admitted
				}
				s.Heard(k, boot, words)
				must(t, s.KeepHeard())
				m.seen[k] = slices.Clone(m.seen[k])
				for at := range m.seen[k] {
					if o := &m.seen[k][at]; o.Boot == boot {
						o.Words = max(o.Words, words)
					}
				}
			},
			"open again": func(rt *rapid.T) {
				given := s.Words()
				must(t, s.Close())
				s, err = Open(dir, Options{NoSync: true})
				must(t, err)
				m.starts++
				if got := s.Identity().Words; got != given || s.Words() != given {
					rt.Fatalf("words %d and %d after a start, want %d", got, s.Words(), given)
				}
			},
			"": func(rt *rapid.T) {
				b := m.bounds()
				if got := bounds(t, s); got != b {
					rt.Fatalf("log is %v, want %v", got, b)
				}
				for k := b[0]; k != 0 && k <= b[1]; k++ {
					var l raft.Log
					must(t, s.GetLog(k, &l))
					if w := m.log[k]; l.Term != w.Term || string(l.Data) != string(w.Data) || !l.AppendedAt.Equal(w.AppendedAt) {
						rt.Fatalf("entry %d is %+v, want %+v", k, l, w)
					}
				}
				for _, k := range []string{"a", "b", "c"} {
					v, err := s.Get([]byte(k))
					must(t, err)
					if string(v) != m.stable[k] || s.Sealed(k) != m.sealed[k] || s.Promised(k) != m.promised[k] {
						rt.Fatalf("%s: %q %d %d, want %q %d %d", k, v, s.Sealed(k), s.Promised(k), m.stable[k], m.sealed[k], m.promised[k])
					}
				}
				if got := list(t, s); !slices.Equal(got, m.snaps) {
					rt.Fatalf("snapshots %v, want %v", got, m.snaps)
				}
				if got := s.Identity().Starts; got != m.starts {
					rt.Fatalf("starts %d, want %d", got, m.starts)
				}
			},
		})
	})
}
