package main

import (
	"strings"
	"testing"
	"time"

	"pgvrrp/test/matrix/cells"
)

// TestMarkdown: every verdict has its line in the order of the table, one that failed says so, and the newest of a cell counts.
func TestMarkdown(t *testing.T) {
	all := cells.All()
	b := &book{Seed: 7, Version: "vrrpd v1", PostgreSQL: "15.1", Kernel: "6.1"}
	for _, k := range []int{len(all) - 1, 1, 0} {
		b.add(cells.Verdict{Cell: all[k], Failures: []string{"lost | gone\nmore"}, Acked: 5, Lost: 1})
	}
	b.add(cells.Verdict{Cell: all[1], Outages: []time.Duration{700 * time.Millisecond, time.Second}, Whole: 3 * time.Second, Rungs: []string{"n1 rewind"}, Acked: 10})
	got := b.markdown()
	for _, want := range []string{
		"1 of 3 cells hold; 20 commits acknowledged, 2 lost", "vrrpd v1; PostgreSQL 15.1; Linux 6.1; seed 7",
		`**FAILS**: lost \| gone |`, "| holds | out 0.70 s, 1.00 s | 3.00 s | n1 rewind | 10 | 0 |", "## A: ", "## D: ",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
	if strings.Contains(got, "## B: ") || strings.Index(got, "## A: ") > strings.Index(got, "## D: ") {
		t.Errorf("topologies: got\n%s", got)
	}
	if !b.has(all[0]) || b.has(all[2]) {
		t.Error("has: want the first, not the third")
	}
}

func TestChoose(t *testing.T) {
	for _, tt := range []struct {
		name string
		s    settings
		want func(cells.Cell) bool
	}{
		{"all", settings{}, func(cells.Cell) bool { return true }},
		{"topologies", settings{topology: "AD"}, func(c cells.Cell) bool { return c.Topology.Name != "B" }},
		{"fault and gap", settings{fault: "split", gap: "20s"}, func(c cells.Cell) bool { return c.Fault == cells.Split && c.Gap == 20*time.Second }},
		{"order", settings{order: "pgbench"}, func(c cells.Cell) bool { return c.Kind == cells.Bench }},
		{"one", settings{cell: cells.All()[3].ID()}, func(c cells.Cell) bool { return c.ID() == cells.All()[3].ID() }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := tt.s.choose()
			if err != nil {
				t.Fatal(err)
			}
			count := 0
			for _, c := range cells.All() {
				if tt.want(c) {
					count++
				}
			}
			if len(got) != count || count == 0 {
				t.Errorf("got %d cells, want %d", len(got), count)
			}
			for _, c := range got {
				if !tt.want(c) {
					t.Errorf("got %s", c.ID())
				}
			}
		})
	}
	if _, err := (&settings{order: "nothing of the kind"}).choose(); err == nil {
		t.Error("no cell fits: want an error")
	}
	if got, err := (&settings{n: 2}).choose(); err != nil || len(got) != 2 {
		t.Errorf("-n 2: got %d, %v", len(got), err)
	}
}
