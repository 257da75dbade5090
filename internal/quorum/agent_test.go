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

// TestASilentAgentIsGone: one that was stopped keeps its connection, and speaks for nothing.
func TestASilentAgentIsGone(t *testing.T) {
	c := newCluster(t, []conf.Resource{{Name: "pg", Kind: conf.KindPostgreSQL}}, "n1")
	n := c.start("n1").node
	m := n.members[0]
	hello := control.AgentHello{Node: "n1", Resource: "pg", SystemID: 7, Version: "15", Eligible: true}
	messages, detach, err := n.Attach(hello, 1)
	if err != nil {
		t.Fatal(err)
	}
	// listened is whether it is there after so many times of listening.
	listened := func(times int) (there bool, why string) {
		t.Helper()
		if err := m.ask(func(now time.Duration) error {
			r := m.machines["pg"]
			r.eligible = true
			for range times {
				if r.agent != nil {
					m.heard(now, r, r.agent)
				}
			}
			m.judge(now, r)
			there, why = r.agent != nil, r.told.Reason
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		return there, why
	}
	for name, say := range map[string]func() error{
		"a verdict": func() error { return n.AgentEligible("pg", true, "") },
		"a word to another agent": func() error {
			_ = n.Tell(t.Context(), control.AgentMessage{Resource: "pg", To: "n2"}) // whether it arrives or not
			return nil
		},
	} {
		for range 3 {
			if err := say(); err != nil {
				t.Fatal(err)
			}
			if there, why := listened(silences - 2); !there || why != "" {
				t.Fatalf("%s: the agent is taken for gone: %s", name, why)
			}
		}
	}
	if there, why := listened(silences); there || why == "" {
		t.Fatalf("a silent agent speaks for the server: %t, %q", there, why)
	}
	if _, open := <-messages; open {
		t.Error("its connection stays")
	}
	if _, again, err := n.Attach(hello, 1); err != nil {
		t.Errorf("it does not come back: %v", err)
	} else {
		defer again()
	}
	detach() // of the connection that ended
	if there, why := listened(1); !there || why != "" {
		t.Errorf("the end of the old connection ends the new one: %t, %q", there, why)
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
