package record

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"
)

var (
	n1 = Member{"n1", "a"}
	n2 = Member{"n2", "b"}
	n3 = Member{"n3", "c"}
)

func initPlain() Command {
	return Command{Op: Init, Resource: "r", Kind: Plain, Rule: Rule{S: []Member{n1, n2, n3}}}
}
func initPG() Command {
	return Command{Op: Init, Resource: "r", Kind: PostgreSQL, SystemID: 7, Rule: Rule{Holder: n1}}
}
func begin(e uint64) Command { return Command{Op: Begin, Resource: "r", Epoch: e, Cause: BySeals} }
func grant(e uint64, m Member, tli uint32) Command {
	return Command{Op: Grant, Resource: "r", Epoch: e, Member: m, Boot: 5, Hold: time.Second, TLI: tli}
}
func rule(e, ver uint64, m Member, s ...Member) Command {
	return Command{Op: SetRule, Resource: "r", Epoch: e, Ver: ver, Member: m, Boot: 5, S: s}
}
func (c Command) with(change func(*Command)) Command { change(&c); return c }
func used(tli uint32, lsn uint64) func(*Command) {
	return func(c *Command) { c.TLI, c.SwitchLSN = tli, lsn }
}

func after(t *testing.T, cs ...Command) *State {
	t.Helper()
	s := &State{}
	for k, c := range cs {
		if err := s.Apply(uint64(k+1), c); err != nil {
			t.Fatalf("entry %d: %v", k+1, err)
		}
	}
	return s
}

func TestApplyRefuses(t *testing.T) {
	released := []Command{initPlain()}
	electing := append(released[:1:1], begin(2))
	granted := append(electing[:2:2], grant(2, n1, 0))
	active := append(granted[:3:3], rule(2, 1, n1, n2))
	paused := Command{Op: Pause, Resource: "r"}
	pgGranted := []Command{initPG(), begin(2), grant(2, n1, 4)}
	pgTwice := append(pgGranted[:3:3], rule(2, 1, n1, n2).with(used(4, 100)), begin(3), grant(3, n2, 5), begin(4), grant(4, n1, 6))
	for _, tt := range []struct {
		name   string
		before []Command
		c      Command
		want   string
	}{
		{"init twice", released, initPlain(), "initialized already"},
		{"init without a name", nil, initPlain().with(func(c *Command) { c.Resource = "" }), "needs a name"},
		{"init of no kind", nil, initPlain().with(func(c *Command) { c.Kind = "x" }), "unknown kind"},
		{"init of nobody", nil, initPlain().with(func(c *Command) { c.Rule = Rule{} }), "nobody would ever"},
		{"init of PostgreSQL without an identifier", nil, initPG().with(func(c *Command) { c.SystemID = 0 }), "system identifier"},
		{"init of PostgreSQL with two truths", nil, initPG().with(func(c *Command) { c.Rule.S = []Member{n2} }), "system identifier"},
		{"anything without a resource", nil, begin(2), "no such resource"},
		{"unknown command", released, Command{Op: "x", Resource: "r"}, "unknown command"},
		{"begin of the same epoch", electing, begin(2), "the epoch is 2"},
		{"begin of a later epoch", released, begin(3), "the epoch is 1"},
		{"begin while paused", append(active[:4:4], paused), begin(3), "paused"},
		{"begin by a release that was not", active, begin(3).with(func(c *Command) { c.Cause = ByRelease }), "not released"},
		{"begin without a cause", active, begin(3).with(func(c *Command) { c.Cause = "" }), "unknown cause"},
		{"grant of an older epoch", electing, grant(1, n1, 0), "the epoch is 2"},
		{"grant when released", released, grant(1, n1, 0), "released already"},
		{"second grant", granted, grant(2, n2, 0), "granted already"},
		{"grant of an active epoch", active, grant(2, n2, 0), "active already"},
		{"grant while paused", append(electing[:2:2], paused), grant(2, n1, 0), "paused"},
		{"grant to no run", electing, grant(2, n1, 0).with(func(c *Command) { c.Boot = 0 }), "not named"},
		{"grant without a hold", electing, grant(2, n1, 0).with(func(c *Command) { c.Hold = 0 }), "not named"},
		{"grant outside the rule", append(active[:4:4], begin(3)), grant(3, n3, 0), "not in the rule"},
		{"grant to another state directory", electing, grant(2, Member{"n1", "z"}, 0), "not in the rule"},
		{"grant of PostgreSQL without a timeline", []Command{initPG(), begin(2)}, grant(2, n1, 0), "reserves a timeline"},
		{"grant of a timeline once more", append(pgGranted[:3:3], begin(3)), grant(3, n1, 4), "not above 4"},
		{"set-rule when electing", electing, rule(2, 1, n1), "electing"},
		{"set-rule of an older epoch", append(active[:4:4], begin(3), grant(3, n2, 0)), rule(2, 2, n1), "the epoch is 3"},
		{"set-rule by another", granted, rule(2, 1, n2), "n1 holds it"},
		{"set-rule by another run", granted, rule(2, 1, n1).with(func(c *Command) { c.Boot = 6 }), "another run"},
		{"set-rule by another state directory", granted, rule(2, 1, Member{"n1", "z"}), "another state directory"},
		{"set-rule of another version", active, rule(2, 1, n1), "version 2"},
		{"set-rule with the holder", granted, rule(2, 1, n1, n1), "other nodes"},
		{"set-rule with nobody's name", granted, rule(2, 1, n1, Member{}), "other nodes"},
		{"set-rule with a node twice", granted, rule(2, 1, n1, n2, Member{"n2", "z"}), "twice"},
		{"set-rule with an unknown timeline", pgGranted, rule(2, 1, n1).with(used(5, 100)), "timeline 4 was granted"},
		{"set-rule without a timeline", pgGranted, rule(2, 1, n1), "timeline 4 was granted"},
		{"set-rule without the place of the switch", pgGranted, rule(2, 1, n1).with(used(4, 0)), "not named"},
		{"old timeline by a holder that was not the rule's", pgTwice[:6:6], rule(3, 2, n2).with(used(4, 0)), "timeline 5 was granted"},
		{"a reserved timeline of an older grant", pgTwice, rule(4, 2, n1).with(used(5, 100)), "timeline 6 was granted"},
		{"a timeline older than the last one used", pgTwice, rule(4, 2, n1).with(used(3, 0)), "timeline 6 was granted"},
		{"release of an older epoch", active, Command{Op: Release, Resource: "r", Epoch: 1, Member: n1}, "the epoch is 2"},
		{"release when electing", electing, Command{Op: Release, Resource: "r", Epoch: 2, Member: n1}, "electing"},
		{"release by another", active, Command{Op: Release, Resource: "r", Epoch: 2, Member: n2}, "n1 holds it"},
		{"negative settings", active, Command{Op: Set, Resource: "r", SyncNum: -1}, "not be negative"},
		{"more copies than there will be", active, Command{Op: Set, Resource: "r", SyncNum: 2, MinCopies: 4}, "with sync_num 2 a commit has at most 3 copies, and min_copies 4 would"},
		{"more copies than by default", active, Command{Op: Set, Resource: "r", MinCopies: 4}, "with sync_num 2 a commit has at most 3 copies"},
		{"fewer standbys than copies need", active, Command{Op: Set, Resource: "r", SyncNum: 1, MinCopies: 3}, "with sync_num 1 a commit has at most 2 copies"},
		{"init with more copies than there will be", nil, initPG().with(func(c *Command) { c.SyncNum, c.MinCopies = 1, 3 }), "with sync_num 1 a commit has at most 2 copies"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := after(t, tt.before...)
			before, _ := s.Encode()
			err := s.Apply(99, tt.c)
			var conflict *Conflict
			if !errors.As(err, &conflict) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want a conflict with %q", err, tt.want)
			}
			if got, _ := s.Encode(); !bytes.Equal(got, before) {
				t.Errorf("got %s, want it as it was: %s", got, before)
			}
		})
	}
}

func TestApplyStory(t *testing.T) {
	s := &State{}
	index := uint64(0)
	do := func(c Command) *Resource {
		t.Helper()
		index++
		b, err := c.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if c, err = DecodeCommand(b); err != nil {
			t.Fatal(err)
		}
		if err := s.Apply(index, c); err != nil {
			t.Fatal(err)
		}
		if got := s.Get("r").Index; got != index {
			t.Errorf("got index %d, want %d", got, index)
		}
		return s.Get("r")
	}
	want := func(r *Resource, epoch uint64, phase Phase, rule string, ver uint64) {
		t.Helper()
		if r.Epoch != epoch || r.Phase != phase || r.Rule.String() != rule || r.RuleVer != ver {
			t.Errorf("got epoch %d, %v, rule %v version %d, want %d, %v, %s, %d", r.Epoch, r.Phase, r.Rule, r.RuleVer, epoch, phase, rule, ver)
		}
	}
	first := do(initPG())
	want(first, 1, Released, "{n1;}", 1)
	want(do(begin(2)), 2, Electing, "{n1;}", 1)
	want(do(grant(2, n1, 2)), 2, Granted, "{n1;}", 1)
	want(do(rule(2, 1, n1).with(used(1, 0))), 2, Active, "{n1;}", 2) // n1 never stopped: timeline 2 is not used
	want(do(rule(2, 2, n1, n2, n3)), 2, Active, "{n1; n2, n3}", 3)
	want(do(begin(3)), 3, Electing, "{n1; n2, n3}", 3)
	want(do(grant(3, n2, 3)), 3, Granted, "{n1; n2, n3}", 3) // a grant does not touch the rule
	want(do(begin(4)), 4, Electing, "{n1; n2, n3}", 3)
	want(do(grant(4, n3, 4)), 4, Granted, "{n1; n2, n3}", 3)
	want(do(rule(4, 3, n3, n1).with(used(4, 100)).with(func(c *Command) { c.Parent = 1 })), 4, Active, "{n3; n1}", 4)
	r := do(Command{Op: Release, Resource: "r", Epoch: 4, Member: Member{"n3", "z"}, Prefer: "n1"}) // also with another state directory
	want(r, 4, Released, "{n3; n1}", 4)
	if r.Prefer != "n1" {
		t.Errorf("got preferred %q, want n1", r.Prefer)
	}
	do(begin(5).with(func(c *Command) { c.Cause = ByRelease }))
	r = do(grant(5, n1, 5))
	if !r.Holds("n1", 5) || r.Holds("n1", 6) || r.Holds("n2", 5) || r.Prefer != "" {
		t.Errorf("got holder %v %d, preferred %q", r.Holder, r.HolderBoot, r.Prefer)
	}
	r = do(rule(5, 4, n1, n3).with(used(5, 200)))
	for k, want := range []Timeline{{2, 0, 0, 2, "n1"}, {3, 0, 0, 3, "n2"}, {4, 1, 100, 4, "n3"}, {5, 4, 200, 5, "n1"}} {
		if got := r.Ledger[k]; got != want {
			t.Errorf("ledger entry %d: got %+v, want %+v", k, got, want)
		}
	}
	do(Command{Op: Pause, Resource: "r"})
	if r = do(Command{Op: Resume, Resource: "r"}); r.Paused {
		t.Error("got paused, want it resumed")
	}
	if r = do(Command{Op: Set, Resource: "r", SyncNum: 2, MinCopies: 1}); r.SyncNum != 2 || r.MinCopies != 1 {
		t.Errorf("got sync_num %d, min_copies %d", r.SyncNum, r.MinCopies)
	}
	for _, set := range [][2]int{{1, 2}, {0, 3}, {7, 0}, {2, 3}} {
		if r = do(Command{Op: Set, Resource: "r", SyncNum: set[0], MinCopies: set[1]}); r.SyncNum != set[0] || r.MinCopies != set[1] {
			t.Errorf("got sync_num %d, min_copies %d, want %v", r.SyncNum, r.MinCopies, set)
		}
	}
	want(first, 1, Released, "{n1;}", 1) // a record that was read stays as it is

	b, err := s.Encode()
	if err != nil {
		t.Fatal(err)
	}
	again, err := Decode(b)
	if err != nil {
		t.Fatal(err)
	}
	if b2, _ := again.Encode(); !bytes.Equal(b, b2) {
		t.Errorf("got %s after a snapshot, want %s", b2, b)
	}
}

func TestDecodeRefuses(t *testing.T) {
	for _, text := range []string{"", "{", `{"resources":{"r":null}}`, `{"resources":{"r":{"name":"q"}}}`, `{"resources":{"r":{"name":"r","phase":"x"}}}`} {
		if s, err := Decode([]byte(text)); err == nil {
			t.Errorf("%s: got %+v, want an error", text, s)
		}
	}
	if _, err := DecodeCommand([]byte("{")); err == nil {
		t.Error("got no error for half a command")
	}
}

// FuzzApply: whatever comes, the state stays one that holds what the package promises.
func FuzzApply(f *testing.F) {
	f.Add([]byte{0, 1, 2, 3, 1, 2, 3})
	f.Fuzz(func(t *testing.T, ops []byte) {
		s := after(t, initPG())
		for k, b := range ops {
			old := s.Get("r")
			m := []Member{n1, n2, n3, {"n1", "z"}}[b>>3&3]
			c := []Command{begin(old.Epoch + 1), grant(old.Epoch, m, old.LastTimeline()+uint32(b>>5&1)), rule(old.Epoch, old.RuleVer, m, n2).with(used(old.TLI, uint64(k+1))),
				{Op: Release, Resource: "r", Epoch: old.Epoch, Member: m}, rule(old.Epoch, old.RuleVer-uint64(b>>6), m, n1, n3), begin(uint64(b >> 3)), grant(uint64(b>>3), m, 9),
				{Op: Pause, Resource: "r"}}[b&7]
			if err := s.Apply(uint64(k+2), c); err != nil {
				if s.Get("r") != old {
					t.Fatalf("%v: changed the state in spite of %v", c, err)
				}
				continue
			}
			r := s.Get("r")
			if r.Epoch < old.Epoch || r.Epoch > old.Epoch+1 || r.RuleVer < old.RuleVer || r.Epoch == old.Epoch && old.Holder != (Member{}) && r.Holder != old.Holder {
				t.Fatalf("%v: went from %+v to %+v", c, old, r)
			}
			if r.Phase == Granted && !r.Rule.Has(r.Holder) {
				t.Fatalf("%v: %v is not in the rule %v", c, r.Holder, r.Rule)
			}
			for j := 1; j < len(r.Ledger); j++ {
				if r.Ledger[j].TLI <= r.Ledger[j-1].TLI {
					t.Fatalf("%v: timeline %d twice", c, r.Ledger[j].TLI)
				}
			}
		}
	})
}
