package cells

import (
	"slices"
	"strings"
	"testing"
	"time"
)

// TestTable: the table has what it must have, once, and nobody plays a role that the topology lacks.
func TestTable(t *testing.T) {
	all := All()
	t.Logf("%d cells", len(all))
	seen := map[string]bool{}
	for _, c := range all {
		id := c.ID()
		if seen[id] {
			t.Errorf("%s stands there twice", id)
		}
		seen[id] = true
		if found, err := Find(id); err != nil || found.ID() != id {
			t.Errorf("find %s: got %s, %v", id, found.ID(), err)
		}
		has := map[Role]bool{Primary: true, Standby: true, Next: true, Witness: true, Witness2: c.Topology.Witnesses > 1}
		for _, r := range []Role{Second, Better, Lesser, Other} {
			has[r] = c.Topology.Nodes > 2
		}
		played := map[Role]bool{}
		for _, r := range c.Victims {
			if !has[r] || played[r] {
				t.Errorf("%s: role %q of topology %s", id, r, c.Topology.Name)
			}
			played[r] = true
		}
		if c.Kind == Everything && len(c.Victims) != c.Topology.Nodes+c.Topology.Witnesses {
			t.Errorf("%s: %d hosts come back of %d", id, len(c.Victims), c.Topology.Nodes+c.Topology.Witnesses)
		}
	}
	for _, topology := range []string{"A", "B"} {
		for _, f := range Faults() {
			for _, victims := range [][]Role{{Primary, Next}, {Primary, Other}, {Standby, Primary}, {Standby, Second}} {
				for _, gap := range []time.Duration{2 * time.Second, 20 * time.Second} {
					want(t, all, topology, f, gap, victims)
				}
			}
			for _, victims := range [][]Role{{Primary, Better}, {Primary, Lesser}, {Standby, Second}, {Witness, Primary}, {Witness, Standby}} {
				want(t, all, topology, f, 0, victims)
			}
		}
	}
	if _, err := Find("no such cell"); err == nil {
		t.Error("a cell that is not there was found")
	}
}

func want(t *testing.T, all []Cell, topology string, f Fault, gap time.Duration, victims []Role) {
	t.Helper()
	if !slices.ContainsFunc(all, func(c Cell) bool {
		return c.Topology.Name == topology && c.Fault == f && c.Gap == gap && c.Kind == Faulty && slices.Equal(c.Victims, victims)
	}) {
		t.Errorf("no cell of topology %s, %s, gap %s, %v", topology, f, gap, victims)
	}
}

// TestReturns: the data nodes come back in every order, in every topology, first or last among the witnesses.
func TestReturns(t *testing.T) {
	for _, topology := range Topologies() {
		orders := map[string]bool{}
		for _, c := range All() {
			if c.Topology != topology || c.Kind != Everything {
				continue
			}
			var order []string
			for _, r := range c.Victims {
				if r == Second {
					r = Standby // which of the two is by seed
				}
				if r != Witness && r != Witness2 {
					order = append(order, string(r))
				}
			}
			orders[strings.Join(order, ", ")] = true
		}
		if len(orders) != topology.Nodes {
			t.Errorf("topology %s: the data nodes come back in the orders %v, want the primary at each of %d places", topology.Name, orders, topology.Nodes)
		}
	}
}

// TestPlacement: over seeds every node is primary, and the survivor is not always the one with the highest priority.
func TestPlacement(t *testing.T) {
	c := All()[0]
	primaries, better := map[string]int{}, map[bool]int{}
	for seed := range uint64(200) {
		s := newSite(c.Topology, Options{Seed: seed})
		roles := s.cast(c)
		primaries[roles[Primary]]++
		better[roles[Better] == roles[Standby]]++
		if s.priorities[roles[Better]] <= s.priorities[roles[Lesser]] {
			t.Fatalf("seed %d: %v, priorities %v", seed, roles, s.priorities)
		}
	}
	for _, n := range []string{"n1", "n2", "n3"} {
		if primaries[n] < 40 {
			t.Errorf("%s is primary for %d of 200 seeds", n, primaries[n])
		}
	}
	if better[true] < 60 || better[false] < 60 {
		t.Errorf("the first standby has the higher priority for %d of 200 seeds", better[true])
	}
}
