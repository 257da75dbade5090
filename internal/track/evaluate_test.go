package track

import (
	"testing"

	"pgvrrp/internal/conf"
)

func TestEvaluate(t *testing.T) {
	t.Parallel()
	states := map[string]State{"up": OK, "down": Failed, "new": Unknown, "sick": Unable}
	w := func(name string, weight int) conf.Tracked { return conf.Tracked{Name: name, Weight: weight} }
	r := func(name string, weight int) conf.Tracked {
		return conf.Tracked{Name: name, Weight: weight, Reverse: true}
	}
	undefined := func(weight int, reverse bool) conf.Tracked {
		return conf.Tracked{Name: "typo", Weight: weight, Reverse: reverse, Undefined: true}
	}
	tests := []struct {
		name    string
		base    uint8
		tracked []conf.Tracked
		want    Verdict
	}{
		{"nothing", 100, nil, Verdict{Priority: 100}},
		{"no weight, up", 100, []conf.Tracked{w("up", 0)}, Verdict{Priority: 100}},
		{"no weight, down", 100, []conf.Tracked{w("down", 0)}, Verdict{Priority: 100, Fault: "script down: why"}},
		{"no weight, unknown", 100, []conf.Tracked{w("new", 0)}, Verdict{Priority: 100, Pending: "script new"}},
		{"no weight, unable", 100, []conf.Tracked{w("sick", 0)}, Verdict{Priority: 100, Fault: "script sick: why"}},
		{"no weight, undefined", 100, []conf.Tracked{undefined(0, false)}, Verdict{Priority: 100, Fault: "script typo: not defined"}},
		{"reverse, up", 100, []conf.Tracked{r("up", 0)}, Verdict{Priority: 100, Fault: "script up: up, and tracked in reverse"}},
		{"reverse, down", 100, []conf.Tracked{r("down", 0)}, Verdict{Priority: 100}},
		{"reverse, unknown", 100, []conf.Tracked{r("new", 0)}, Verdict{Priority: 100, Pending: "script new"}},
		{"reverse, unable", 100, []conf.Tracked{r("sick", 0)}, Verdict{Priority: 100, Fault: "script sick: why"}},
		{"reverse, undefined", 100, []conf.Tracked{undefined(0, true)}, Verdict{Priority: 100, Fault: "script typo: not defined"}},
		{"+, up", 100, []conf.Tracked{w("up", 20)}, Verdict{Priority: 120}},
		{"+, down", 100, []conf.Tracked{w("down", 20)}, Verdict{Priority: 100}},
		{"+, unknown", 100, []conf.Tracked{w("new", 20)}, Verdict{Priority: 100}},
		{"+, unable", 100, []conf.Tracked{w("sick", 20)}, Verdict{Priority: 100}},
		{"+, undefined", 100, []conf.Tracked{undefined(20, false)}, Verdict{Priority: 100}},
		{"-, up", 100, []conf.Tracked{w("up", -20)}, Verdict{Priority: 100}},
		{"-, down", 100, []conf.Tracked{w("down", -20)}, Verdict{Priority: 80}},
		{"-, unknown", 100, []conf.Tracked{w("new", -20)}, Verdict{Priority: 80}},
		{"-, unable", 100, []conf.Tracked{w("sick", -20)}, Verdict{Priority: 80}},
		{"-, undefined", 100, []conf.Tracked{undefined(-20, false)}, Verdict{Priority: 80}},
		{"+ reverse, up", 100, []conf.Tracked{r("up", 20)}, Verdict{Priority: 80}},
		{"+ reverse, down", 100, []conf.Tracked{r("down", 20)}, Verdict{Priority: 100}},
		{"+ reverse, unable", 100, []conf.Tracked{r("sick", 20)}, Verdict{Priority: 80}},
		{"- reverse, up", 100, []conf.Tracked{r("up", -20)}, Verdict{Priority: 100}},
		{"- reverse, down", 100, []conf.Tracked{r("down", -20)}, Verdict{Priority: 120}},
		{"- reverse, unable", 100, []conf.Tracked{r("sick", -20)}, Verdict{Priority: 100}},
		{"sum", 100, []conf.Tracked{w("up", 20), w("down", -5), w("up", 7), w("down", 90)}, Verdict{Priority: 122}},
		{"at least 1", 10, []conf.Tracked{w("down", -253)}, Verdict{Priority: 1}},
		{"at most 254", 200, []conf.Tracked{w("up", 253)}, Verdict{Priority: 254}},
		{"the clamp is of the sum", 200, []conf.Tracked{w("up", 253), w("down", -253)}, Verdict{Priority: 200}},
		{"254 stays 254", 254, []conf.Tracked{w("up", 1)}, Verdict{Priority: 254}},
		{"owner", 255, []conf.Tracked{w("down", -20), w("up", 3)}, Verdict{Priority: 255}},
		{"owner at fault", 255, []conf.Tracked{w("down", 0)}, Verdict{Priority: 255, Fault: "script down: why"}},
		{
			"all are named", 100, []conf.Tracked{w("down", 0), w("new", 0), w("sick", 0), w("new", 0), w("down", -1)},
			Verdict{Priority: 99, Fault: "script down: why; script sick: why", Pending: "script new, script new"},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got := Evaluate(tt.base, Source{Kind: "script", Tracked: tt.tracked, State: func(name string) (State, string) {
				state, ok := states[name]
				if !ok {
					t.Errorf("state of %q asked for", name)
				}
				if state == OK || state == Unknown {
					return state, ""
				}
				return state, "why"
			}})
			if got != tt.want {
				t.Errorf("got %+v, want %+v", got, tt.want)
			}
		})
	}
}

func TestEvaluateSources(t *testing.T) {
	t.Parallel()
	down := func(string) (State, string) { return Failed, "down" }
	blank := func(string) (State, string) { return Failed, "" }
	got := Evaluate(
		100,
		Source{Kind: "interface", Tracked: []conf.Tracked{{Name: "eth1"}, {Name: "eth2", Weight: -10}}, State: down},
		Source{Kind: "script", Tracked: []conf.Tracked{{Name: "pg"}}, State: blank},
	)
	if want := (Verdict{Priority: 90, Fault: "interface eth1: down; script pg: failed"}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}
