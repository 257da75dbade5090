package core

import (
	"slices"
	"testing"
)

func TestSSN(t *testing.T) {
	for _, c := range []struct {
		name string
		ssn  SSN
		want string
	}{
		{"nobody", SSN{}, ""},
		{"hold", SSN{Hold: true}, "FIRST 1 (pgnotify_hold)"},
		{"one", SSN{Names: []string{"n2"}}, "FIRST 1 (n2)"},
		{"newest first", SSN{Names: []string{"n3", "n2"}}, "FIRST 2 (n3, n2)"},
		{"probe", SSN{Names: []string{"n2"}, Hold: true}, "FIRST 2 (n2, pgnotify_hold)"},
		{"quoted", SSN{Names: []string{"db-1", `a"b`, "2x", "N1"}}, `FIRST 4 ("db-1", "a""b", "2x", "N1")`},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := c.ssn.String(); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
			got, ok := ParseSSN(c.want)
			if !ok || !slices.Equal(got.Names, c.ssn.Names) || got.Hold != c.ssn.Hold {
				t.Errorf("parsed: got %+v, %t", got, ok)
			}
		})
	}
	for _, foreign := range []string{"*", "n2", "ANY 1 (n2, n3)", "FIRST 1 (n2, n3)", "FIRST 2 (n2", "FIRST 0 ()", `FIRST 1 ("n2)`, "1 (n2)", "FIRST 1 (*)"} {
		if got, ok := ParseSSN(foreign); ok {
			t.Errorf("%q: got %+v, want it not to be ours", foreign, got)
		}
	}
}

func TestCovers(t *testing.T) {
	for _, c := range []struct {
		ssn   SSN
		names []string
		want  bool
	}{
		{SSN{}, nil, true},
		{SSN{}, []string{"n2"}, false},
		{SSN{Hold: true}, []string{"n2"}, true},
		{SSN{Names: []string{"n2"}}, []string{"n2", "n3"}, false},
		{SSN{Names: []string{"n3", "n2"}}, []string{"n2"}, true},
	} {
		if got := c.ssn.Covers(c.names); got != c.want {
			t.Errorf("%q covers %v: got %t", c.ssn, c.names, got)
		}
	}
}

func TestDiverged(t *testing.T) {
	src := &Source{Node: "n2", TLI: 5, LSN: 900, History: []Fork{{1, 100}, {3, 400}}}
	ledger := []Timeline{{TLI: 3, SwitchLSN: 100}, {TLI: 4}, {TLI: 5, SwitchLSN: 400}}
	for _, c := range []struct {
		name string
		mine Position
		own  []Fork
		src  *Source
		want bool
	}{
		{"on an ancestor, before the switch", Position{3, 300}, []Fork{{1, 100}}, src, false},
		{"at the switch", Position{3, 400}, []Fork{{1, 100}}, src, false},
		{"past the switch", Position{3, 401}, []Fork{{1, 100}}, src, true},
		{"four timelines behind", Position{1, 50}, nil, src, false},
		{"same timeline", Position{5, 800}, []Fork{{1, 100}, {3, 400}}, src, false},
		{"same timeline, ahead", Position{5, 901}, []Fork{{1, 100}, {3, 400}}, src, true},
		{"same number, other branch", Position{5, 800}, []Fork{{1, 100}, {3, 350}}, src, true},
		{"a timeline that was given up", Position{4, 410}, []Fork{{1, 100}, {3, 390}}, src, true},
		{"later timeline", Position{6, 950}, []Fork{{1, 100}, {3, 400}, {5, 910}}, src, true},
		{"nothing known", Position{}, nil, src, true},
		{"the ledger disagrees", Position{1, 50}, nil, &Source{Node: "n2", TLI: 3, LSN: 200, History: []Fork{{1, 90}}}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := diverged(c.mine, c.own, c.src, ledger); (got != "") != c.want {
				t.Errorf("got %q, want %t", got, c.want)
			}
		})
	}
}
