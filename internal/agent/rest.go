package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"pgvrrp/internal/postgres"
)

// REST answers load balancers and monitoring as Patroni's REST API does (its documentation, "Patroni REST API"): same paths, codes and
// keys. It only reads.
type REST struct {
	Agent   *Agent
	Glance  func() postgres.Glance
	Version string // of pgnotify
	Scope   string // the resource
	Log     *slog.Logger
}

// restTime bounds an answer: a loop that takes longer does not run properly.
const restTime = time.Second

// defaultLag is the lag that readiness takes without a word on it: Patroni's maximum_lag_on_failover.
const defaultLag = 1 << 20

// Run serves at an address until ctx ends.
func (h *REST) Run(ctx context.Context, at netip.AddrPort) error {
	// The address may be one that comes later.
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", at.String())
	for err != nil {
		h.Log.Warn("HTTP interface", "reason", err)
		t := time.NewTimer(5 * time.Second)
		select {
		case <-ctx.Done():
			t.Stop()
			return nil
		case <-t.C:
		}
		l, err = lc.Listen(ctx, "tcp", at.String())
	}
	srv := &http.Server{
		Handler: h, ReadTimeout: 5 * time.Second, WriteTimeout: 10 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10,
		ErrorLog: slog.NewLogLogger(h.Log.Handler(), slog.LevelDebug),
	}
	stop := context.AfterFunc(ctx, func() { srv.Close() })
	defer stop()
	if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve HTTP at %s: %w", at, err)
	}
	return nil
}

// ServeHTTP answers GET with a document, HEAD and OPTIONS with the code alone.
func (h *REST) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body := r.Method == http.MethodGet
	if !body && r.Method != http.MethodHead && r.Method != http.MethodOptions {
		w.WriteHeader(http.StatusNotImplemented)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), restTime)
	defer cancel()
	s, err := h.Agent.Status(ctx)
	if err != nil {
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	v := h.look(s)
	path := strings.TrimSuffix(r.URL.Path, "/")
	if path == "/metrics" {
		w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
		if body {
			_, _ = w.Write([]byte(v.metrics(h))) // the scraper that hung up has no use for an error
		}
		return
	}
	if path == "/cluster" {
		write(w, http.StatusOK, body, v.cluster(h))
		return
	}
	code := http.StatusServiceUnavailable
	ok, known := v.healthy(path, r.URL.Query().Get)
	if ok {
		code = http.StatusOK
	}
	if !known {
		code = http.StatusNotFound
	}
	write(w, code, body, v.document(h))
}

func write(w http.ResponseWriter, code int, body bool, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	if body {
		_ = json.NewEncoder(w).Encode(v) // as above
	}
}

// health is one look for one answer.
type health struct {
	s       Status
	g       postgres.Glance
	self    NodeStatus
	running bool
	primary bool // out of recovery, and the active holder with a lease that runs
	replica bool
	sync    bool
}

func (h *REST) look(s Status) health {
	v := health{s: s, g: h.Glance()}
	for _, n := range s.Nodes {
		if n.Node == s.Node {
			v.self = n
		}
	}
	v.running = v.self.Role == "primary" || v.self.Role == "standby"
	v.primary = v.self.Role == "primary" && s.Open
	v.replica = v.self.Role == "standby"
	v.sync = v.replica && v.self.SyncState == "sync"
	return v
}

// behind is how far replay is behind the holder in bytes; -1 if that is not known: the holder was not heard lately, or has another history.
func (v *health) behind(received bool) int64 {
	at := v.g.Replay
	if received {
		at = max(v.g.Receive, v.g.Replay)
	}
	for _, n := range v.s.Nodes {
		if n.Holder && n.Role == "primary" && n.Heard {
			if lag := v.self.behind(n.NodeState, uint64(at)); lag != nil {
				return *lag
			}
		}
	}
	return -1
}

// within reports whether a standby is not further behind than the query allows; without a word on it def counts, below 0 anything.
func (v *health) within(text string, def int64, received bool) bool {
	limit := def
	if text != "" {
		n, ok := lagBytes(text)
		if !ok {
			return false
		}
		limit = n
	}
	if limit < 0 {
		return true
	}
	lag := v.behind(received)
	return lag >= 0 && lag <= limit
}

// lagBytes reads 1048576, 16kB, 64MB, 1GB.
func lagBytes(s string) (int64, bool) {
	unit := int64(1)
	for suffix, n := range map[string]int64{"kb": 1 << 10, "mb": 1 << 20, "gb": 1 << 30, "tb": 1 << 40} {
		if strings.HasSuffix(strings.ToLower(s), suffix) {
			s, unit = s[:len(s)-2], n
			break
		}
	}
	n, err := strconv.ParseInt(strings.TrimSpace(s), 10, 64)
	if err != nil || n < 0 || n > 1<<62/unit {
		return 0, false
	}
	return n * unit, true
}

// healthy answers a path; known is false for one that is none of ours.
func (v *health) healthy(path string, query func(string) string) (ok, known bool) {
	streams := v.self.Upstream != ""
	replica := v.replica && (query("replication_state") == "" || query("replication_state") == "streaming" && streams)
	switch path {
	case "", "/primary", "/read-write", "/master":
		return v.primary, true
	case "/leader":
		return v.s.Resource.Mine && v.s.Resource.Live, true
	case "/standby-leader", "/standby_leader":
		return false, true
	case "/replica":
		return replica && v.within(query("lag"), -1, false), true
	case "/read-only":
		return v.primary || replica && v.within(query("lag"), -1, false), true
	case "/sync", "/synchronous":
		return v.sync, true
	case "/read-only-sync":
		return v.primary || v.sync, true
	case "/quorum":
		return false, true // a commit waits for all of the synchronous standbys here, not for some
	case "/read-only-quorum":
		return v.primary, true
	case "/async", "/asynchronous":
		return replica && !v.sync && v.within(query("lag"), -1, false), true
	case "/health":
		return v.running, true
	case "/patroni":
		return true, true
	case "/liveness":
		return true, true // the loop has answered
	case "/readiness":
		return v.primary || v.replica && streams && v.within(query("lag"), defaultLag, query("mode") == "write"), true
	}
	return false, false
}

func (v *health) state() string {
	switch {
	case v.running:
		return "running"
	case v.self.Role == "starting":
		return "starting"
	}
	return "stopped"
}

func (v *health) role() string {
	if v.self.Role == "primary" {
		return "primary"
	}
	return "replica"
}

// document has the keys of GET /patroni.
func (v *health) document(h *REST) map[string]any {
	r := v.s.Resource
	d := map[string]any{
		"state": v.state(), "role": v.role(),
		"database_system_identifier": strconv.FormatUint(v.self.SystemID, 10),
		"patroni":                    map[string]any{"version": h.Version, "scope": h.Scope, "name": v.s.Node},
	}
	if r.Phase != "active" {
		d["cluster_unlocked"] = true
	}
	if r.Paused {
		d["pause"] = true
	}
	if v.s.Connected {
		d["dcs_last_seen"] = v.s.At.Unix()
	}
	if !v.running {
		return d
	}
	d["timeline"] = v.self.TLI
	d["server_version"] = serverVersion(v.self.Version)
	if v.self.Role == "primary" {
		d["xlog"] = map[string]any{"location": v.self.lsn()}
	} else {
		d["xlog"] = map[string]any{"received_location": uint64(max(v.g.Receive, v.g.Replay)), "replayed_location": uint64(v.g.Replay), "replayed_timestamp": nil, "paused": v.g.Paused}
		if v.self.Upstream != "" {
			d["replication_state"] = "streaming"
		}
	}
	var replication []map[string]any
	for _, w := range v.g.Walsenders {
		replication = append(replication, map[string]any{
			"application_name": w.Name, "client_addr": w.Addr, "state": w.State, "sync_state": w.SyncState, "sync_priority": w.SyncPriority,
		})
	}
	if replication != nil {
		d["replication"] = replication
	}
	return d
}

// serverVersion makes server_version_num of a major version.
func serverVersion(major string) int {
	n, err := strconv.Atoi(major)
	if err != nil {
		return 0
	}
	return n * 10000
}

// cluster has the keys of GET /cluster.
func (v *health) cluster(h *REST) map[string]any {
	var members []map[string]any
	for _, n := range v.s.Nodes {
		role := "replica"
		switch {
		case n.Holder:
			role = "leader"
		case n.SyncState == "sync":
			role = "sync_standby"
		}
		m := map[string]any{"name": n.Node, "role": role, "state": "stopped", "timeline": n.TLI, "port": n.Port}
		switch {
		case !n.Heard:
			m["state"] = "unknown"
		case n.Upstream != "":
			m["state"] = "streaming"
		case n.Role == "primary" || n.Role == "standby":
			m["state"] = "running"
		}
		if n.Lag != nil {
			m["lag"] = *n.Lag
		}
		members = append(members, m)
	}
	return map[string]any{"members": members, "scope": h.Scope, "pause": v.s.Resource.Paused}
}

// metrics has the names of GET /metrics, and some of our own.
func (v *health) metrics(h *REST) string {
	var b strings.Builder
	labels := fmt.Sprintf(`{scope=%q,name=%q}`, h.Scope, v.s.Node)
	add := func(name, kind, help string, value any) {
		fmt.Fprintf(&b, "# HELP %s %s\n# TYPE %s %s\n%s%s %v\n", name, help, name, kind, name, labels, value)
	}
	flag := func(on bool) int {
		if on {
			return 1
		}
		return 0
	}
	r := v.s.Resource
	location, received, replayed := uint64(0), uint64(0), uint64(0)
	if v.self.Role == "primary" {
		location = v.self.lsn()
	}
	if v.replica {
		received, replayed = uint64(max(v.g.Receive, v.g.Replay)), uint64(v.g.Replay)
	}
	seen := int64(0)
	if v.s.Connected {
		seen = v.s.At.Unix()
	}
	add("patroni_postgres_running", "gauge", "Value is 1 if PostgreSQL is running, 0 otherwise.", flag(v.running))
	add("patroni_primary", "gauge", "Value is 1 if this node is the leader, 0 otherwise.", flag(v.primary))
	add("patroni_master", "gauge", "Value is 1 if this node is the leader, 0 otherwise.", flag(v.primary))
	add("patroni_xlog_location", "counter", "Current location of the WAL, 0 if this node is not the leader.", location)
	add("patroni_standby_leader", "gauge", "Always 0: there are no standby clusters.", 0)
	add("patroni_replica", "gauge", "Value is 1 if this node is a replica, 0 otherwise.", flag(v.replica))
	add("patroni_sync_standby", "gauge", "Value is 1 if this node is a synchronous standby, 0 otherwise.", flag(v.sync))
	add("patroni_quorum_standby", "gauge", "Always 0: a commit waits for all synchronous standbys.", 0)
	add("patroni_xlog_received_location", "counter", "Current location of the received WAL, 0 if this node is not a replica.", received)
	add("patroni_xlog_replayed_location", "counter", "Current location of the replayed WAL, 0 if this node is not a replica.", replayed)
	add("patroni_xlog_paused", "gauge", "Value is 1 if replay is paused, 0 otherwise.", flag(v.replica && v.g.Paused))
	add("patroni_postgres_streaming", "gauge", "Value is 1 if PostgreSQL is streaming, 0 otherwise.", flag(v.self.Upstream != ""))
	add("patroni_postgres_server_version", "gauge", "Version of PostgreSQL (if running), 0 otherwise.", serverVersion(v.self.Version))
	add("patroni_cluster_unlocked", "gauge", "Value is 1 if nobody is the active holder, 0 otherwise.", flag(r.Phase != "active"))
	add("patroni_postgres_timeline", "counter", "PostgreSQL timeline of this node.", v.self.TLI)
	add("patroni_dcs_last_seen", "gauge", "Epoch timestamp when vrrpd was last heard.", seen)
	add("patroni_is_paused", "gauge", "Value is 1 if elections are paused, 0 otherwise.", flag(r.Paused))
	add("pgnotify_epoch", "counter", "Fencing token of the resource; it grows with each grant.", r.Epoch)
	add("pgnotify_rule_standbys", "gauge", "How many standbys each commit waits for by the rule in the log.", len(r.Rule.S))
	add("pgnotify_rule_version", "counter", "Version of the rule.", r.Rule.Version)
	add("pgnotify_waiting_commits", "gauge", "Sessions that wait for a standby, at the last look.", v.g.Waiting)
	return b.String()
}
