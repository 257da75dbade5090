package quorum

import (
	"testing"
	"time"

	"pgvrrp/internal/conf"
	"pgvrrp/internal/control"
	"pgvrrp/internal/quorum/record"
)

// TestAParkedAddressBelongsToItsAgent: the next one knows nothing of the stop that it was for.
func TestAParkedAddressBelongsToItsAgent(t *testing.T) {
	c := newCluster(t, []conf.Resource{{Name: "pg", Kind: conf.KindPostgreSQL}}, "n1")
	n := c.start("n1").node
	m := n.members[0]
	parked := func(change func(r *machines)) (is bool) {
		t.Helper()
		if err := m.ask(func(time.Duration) error {
			change(m.machines["pg"])
			is = m.machines["pg"].parked
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		return is
	}
	hello := control.AgentHello{Node: "n1", Resource: "pg", SystemID: 7, Version: "15"}
	_, detach, err := n.Attach(hello, 1)
	if err != nil {
		t.Fatal(err)
	}
	if !parked(func(r *machines) { r.parked = true }) {
		t.Fatal("not parked")
	}
	detach()
	if !parked(func(*machines) {}) {
		t.Error("the end of an agent let the address come back: its server may be stopping")
	}
	_, detach, err = n.Attach(hello, 2)
	if err != nil {
		t.Fatal(err)
	}
	defer detach()
	if parked(func(*machines) {}) {
		t.Error("the address stays away for ever")
	}
}

func TestReplaced(t *testing.T) {
	rule := record.Rule{Holder: record.Member{Node: "n1", Incarnation: "a"}, S: []record.Member{{Node: "n2", Incarnation: "b"}}}
	for _, tt := range []struct {
		x    record.Member
		want bool
	}{
		{record.Member{Node: "n2", Incarnation: "b"}, false},
		{record.Member{Node: "n2", Incarnation: "c"}, true},
		{record.Member{Node: "n1", Incarnation: "c"}, true},
		{record.Member{Node: "n3", Incarnation: "c"}, false},
	} {
		if got := replaced(rule, tt.x); got != tt.want {
			t.Errorf("%+v: got %t, want %t", tt.x, got, tt.want)
		}
	}
}
