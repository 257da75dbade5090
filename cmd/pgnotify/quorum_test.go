package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"pgvrrp/internal/agent"
	"pgvrrp/internal/control"
	"pgvrrp/internal/promote"
)

func TestQuorumCheck(t *testing.T) {
	bytes := func(n int64) *int64 { return &n }
	// n2, 900 bytes behind n1 in replay, as it says of itself.
	with := func(change func(st *agent.Status, holder, own *agent.NodeStatus)) agent.Status {
		st := agent.Status{Node: "n2", Connected: true, Resource: control.Resource{Name: "pg", Holder: "n1", Epoch: 3, Phase: "active"}, Nodes: []agent.NodeStatus{
			{NodeState: agent.NodeState{Node: "n1", Role: "primary", TLI: 3}, Heard: true, Holder: true},
			{NodeState: agent.NodeState{Node: "n2", Role: "standby", TLI: 3, Upstream: "n1"}, Heard: true, Lag: bytes(0), ReplayLag: bytes(900)},
		}}
		if change != nil {
			change(&st, &st.Nodes[0], &st.Nodes[1])
		}
		return st
	}
	tests := []struct {
		name string
		st   agent.Status
		role string
		lag  int64
		want string // "" = healthy
	}{
		{"standby", with(nil), "standby", -1, ""},
		{"standby, want primary", with(nil), "primary", -1, "want a primary"},
		{"standby that is being promoted", with(func(st *agent.Status, _, _ *agent.NodeStatus) { st.Doing = "promote" }), "primary", -1, ""},
		{"lag", with(nil), "standby", 900, ""},
		{"too much lag", with(nil), "standby", 899, "lags 900 bytes"},
		{"cut off", with(func(_ *agent.Status, holder, own *agent.NodeStatus) {
			holder.Heard, own.Lag, own.ReplayLag = false, nil, nil
		}), "standby", 1 << 40, "the lag can't be told: the holder, n1, is not heard"},
		{"cut off, lag not looked at", with(func(_ *agent.Status, holder, own *agent.NodeStatus) {
			holder.Heard, own.Lag, own.ReplayLag = false, nil, nil
		}), "standby", -1, ""},
		{"does not stream", with(func(_ *agent.Status, _, own *agent.NodeStatus) { own.Upstream = "" }), "any", 900, "does not stream"},
		{"another timeline", with(func(_ *agent.Status, _, own *agent.NodeStatus) { own.TLI, own.ReplayLag = 2, nil }), "any", 900, "on timeline 2, the holder, n1, on 3"},
		{"no holder", with(func(st *agent.Status, holder, own *agent.NodeStatus) {
			st.Resource.Holder, holder.Holder, own.ReplayLag = "", false, nil
		}), "standby", 900, "nobody is the holder"},
		{"granted, with a lease that runs", with(func(st *agent.Status, holder, own *agent.NodeStatus) {
			st.Resource.Holder, st.Resource.Mine, st.Resource.Live = "n2", true, true
			holder.Holder, own.Holder, own.ReplayLag, own.Upstream = false, true, nil, ""
		}), "standby", 900, ""},
		{"at work", with(func(_ *agent.Status, _, own *agent.NodeStatus) { own.Role, own.Work = "down", "rewind" }), "primary", 0, ""},
		{"down", with(func(_ *agent.Status, _, own *agent.NodeStatus) { own.Role = "down" }), "any", -1, "PostgreSQL is down"},
		{"unknown", with(func(st *agent.Status, _, _ *agent.NodeStatus) { st.Node = "n3" }), "any", -1, "does not know its own node"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := judge(tt.st, tt.role, tt.lag)
			if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}

func TestQuorumExplain(t *testing.T) {
	st := agent.Status{Node: "n1", Refused: "no such file", Explain: []string{"waits"}, Resource: control.Resource{Missing: "n2"}, Nodes: []agent.NodeStatus{
		{NodeState: agent.NodeState{Node: "n1", Explain: []string{"as its word went out"}}},
		{NodeState: agent.NodeState{Node: "n2", Explain: []string{"streams"}}},
		{NodeState: agent.NodeState{Node: "n3"}, Heard: true},
	}}
	want := explanation{Vrrpd: "not connected: no such file", Missing: "n2", Warnings: []string{}, Nodes: []nodeWords{
		{"n1", []string{"waits"}}, {"n2", []string{"its agent is not heard; what it said last:", "streams"}}, {"n3", []string{}},
	}}
	if d := cmp.Diff(want, explainQuorum(st)); d != "" {
		t.Errorf("-want +got\n%s", d)
	}
}

// The ledger is the agent's to tell: of one that has none yet it is empty, without an agent it is not known.
func TestHistoryHasTheLedger(t *testing.T) {
	dir := t.TempDir()
	check(t, errors.Join(os.Mkdir(filepath.Join(dir, "data"), 0o700),
		os.WriteFile(filepath.Join(dir, "pgnotify.toml"), []byte("resource = \"pg\"\n[postgres]\ndata_dir = \""+filepath.Join(dir, "data")+"\"\n"), 0o600)))
	socket := filepath.Join(dir, "agent.sock")
	history := func(flags ...string) string {
		t.Helper()
		h := fakeHost(dir)
		var out, errs bytes.Buffer
		h.stdout, h.stderr = &out, &errs
		args := []string{"pgnotify", "--config", filepath.Join(dir, "pgnotify.toml"), "--state-dir", filepath.Join(dir, "state"), "--agent-socket", socket, "history"}
		if code := run(t.Context(), append(args, flags...), h); code != 0 {
			t.Fatalf("exit code %d: %s", code, &errs)
		}
		return out.String()
	}
	if got, want := history("--json"), "{\n  \"ledger\": null,\n  \"entries\": []\n}\n"; got != want {
		t.Errorf("without an agent: got %q, want %q", got, want)
	}
	l, err := net.Listen("unix", socket)
	check(t, err)
	var ledger []control.Timeline
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(agent.Status{Resource: control.Resource{Ledger: ledger}})
	})}
	go func() { _ = server.Serve(l) }()
	t.Cleanup(func() { server.Close() })
	if got, want := history("--json"), "{\n  \"ledger\": [],\n  \"entries\": []\n}\n"; got != want {
		t.Errorf("not initialized: got %q, want %q", got, want)
	}
	ledger = []control.Timeline{{TLI: 2, Parent: 1, SwitchLSN: 100, Epoch: 3, Node: "n1"}}
	var d decisions
	check(t, json.Unmarshal([]byte(history("--json")), &d))
	if diff := cmp.Diff(decisions{Ledger: ledger, Entries: []promote.Entry{}}, d); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
	if got := history(); !strings.Contains(got, "TIMELINE") || !strings.Contains(got, "no decisions yet") {
		t.Errorf("got %q, want a table of timelines, and no decisions", got)
	}
}
