package agent

import (
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"pgvrrp/internal/agent/core"
	"pgvrrp/internal/control"
	"pgvrrp/internal/postgres"
)

// TestREST asks as load balancers and exporters do; the codes are those of Patroni's documentation.
func TestREST(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, func(b *bench) {
			b.server.s.Pos = core.Position{TLI: 3, LSN: 10 << 20}
			b.server.block[core.StartStandby] = make(chan struct{}) // it does not come up again
		})
		defer b.stop()
		synctest.Wait()
		b.vrrpd.ruled = func(q control.RuleRequest) {
			go b.say(b.mine(q.Epoch, "active", q.Version+1, time.Hour, q.S...))
		}
		g := postgres.Glance{Answered: true}
		h := &REST{Agent: b.Agent, Glance: func() postgres.Glance { return g }, Version: "1.0", Scope: "pg", Log: slog.New(slog.DiscardHandler)}
		ask := func(method, path string) *httptest.ResponseRecorder {
			w := httptest.NewRecorder()
			h.ServeHTTP(w, httptest.NewRequest(method, path, nil))
			return w
		}
		check := func(what string, want map[string]int) {
			t.Helper()
			for path, code := range want {
				for _, method := range []string{http.MethodGet, http.MethodHead, http.MethodOptions} {
					w := ask(method, path)
					if w.Code != code || (w.Body.Len() > 0) != (method == http.MethodGet) {
						t.Errorf("%s: %s %s: got %d and %d bytes, want %d", what, method, path, w.Code, w.Body.Len(), code)
					}
				}
			}
		}
		b.say(b.mine(0, "", 0, 0))
		synctest.Wait()
		check("before init", map[string]int{"/": 503, "/primary": 503, "/leader": 503, "/replica": 503, "/health": 200, "/liveness": 200, "/nonsense": 404})

		b.say(control.Resource{Name: "pg", SystemID: 7, Epoch: 2, Phase: "electing", Rule: control.Rule{Holder: "n1", Version: 1}})
		time.Sleep(time.Second)
		b.say(b.mine(2, "granted", 1, time.Hour))
		time.Sleep(time.Second)
		synctest.Wait()
		check("holder", map[string]int{
			"/": 200, "/primary": 200, "/read-write": 200, "/master": 200, "/leader": 200, "/replica": 503, "/replica?lag=1GB": 503, "/read-only": 200, "/sync": 503,
			"/async": 503, "/read-only-sync": 200, "/quorum": 503, "/standby-leader": 503, "/health": 200, "/readiness": 200, "/liveness": 200, "/patroni": 200,
		})
		var d struct {
			State, Role string
			Timeline    uint32
			Xlog        struct{ Location uint64 }
			Patroni     struct{ Scope, Name string }
			Unlocked    bool   `json:"cluster_unlocked"`
			System      string `json:"database_system_identifier"`
			Version     int    `json:"server_version"`
		}
		if err := json.Unmarshal(ask(http.MethodGet, "/patroni").Body.Bytes(), &d); err != nil {
			t.Fatal(err)
		}
		if d.State != "running" || d.Role != "primary" || d.Timeline != 3 || d.Xlog.Location != 10<<20 || d.Patroni.Scope != "pg" || d.Patroni.Name != "n1" || d.Unlocked || d.System != "7" || d.Version != 150000 {
			t.Errorf("document: got %+v", d)
		}
		metrics := ask(http.MethodGet, "/metrics").Body.String()
		for _, line := range []string{
			`patroni_primary{scope="pg",name="n1"} 1`, `patroni_replica{scope="pg",name="n1"} 0`, `patroni_xlog_location{scope="pg",name="n1"} 10485760`,
			`patroni_postgres_timeline{scope="pg",name="n1"} 3`, `patroni_cluster_unlocked{scope="pg",name="n1"} 0`, `pgnotify_epoch{scope="pg",name="n1"} 2`,
			"# TYPE patroni_postgres_running gauge",
		} {
			if !strings.Contains(metrics, line+"\n") {
				t.Errorf("metrics do not have %q:\n%s", line, metrics)
			}
		}
		if w := ask(http.MethodPost, "/primary"); w.Code != http.StatusNotImplemented {
			t.Errorf("POST: got %d", w.Code)
		}

		// vrrpd dies, or hangs: nobody says that the lease is over.
		b.say(b.mine(2, "active", 2, 400*time.Millisecond))
		time.Sleep(300 * time.Millisecond)
		check("lease runs", map[string]int{"/primary": 200, "/leader": 200, "/readiness": 200})
		time.Sleep(200 * time.Millisecond)
		check("lease ran out", map[string]int{"/": 503, "/primary": 503, "/read-write": 503, "/leader": 503, "/read-only": 503})

		// The same node as a standby of n2, half a megabyte behind.
		b.server.set(func(s *core.Server) { s.InRecovery, s.Upstream, s.Conninfo = true, "n2", "n2" })
		g.Receive, g.Replay = 10<<20, 10<<20-512<<10
		b.say(control.Resource{Name: "pg", SystemID: 7, Epoch: 5, Phase: "active", Holder: "n2", Timeline: 3, Rule: control.Rule{Holder: "n2", S: []string{"n1"}, Version: 9}})
		b.vrrpd.events <- control.AgentEvent{Message: &control.AgentMessage{From: "n2", Text: `{"kind":"state","state":{"role":"primary","timeline":3,"lsn":"0/A00000"}}`}}
		time.Sleep(300 * time.Millisecond)
		synctest.Wait()
		check("synchronous standby", map[string]int{
			"/": 503, "/primary": 503, "/leader": 503, "/replica": 200, "/replica?lag=1MB": 200, "/replica?lag=100kB": 503, "/replica?lag=524288": 200, "/replica?lag=x": 503,
			"/replica?replication_state=streaming": 200, "/read-only": 200, "/sync": 200, "/synchronous": 200, "/async": 503, "/read-only-sync": 200, "/health": 200,
			"/readiness": 200, "/readiness?lag=1kB": 503, "/readiness?lag=1kB&mode=write": 200,
		})
		lag := func(what string, want, replay int64) {
			t.Helper()
			s, err := b.Status(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			for _, n := range s.Nodes {
				if got := n.Lag; n.Node == "n1" && (got == nil) != (want < 0) || got != nil && *got != want {
					t.Errorf("%s: lag of %s: got %v, want %d", what, n.Node, got, want)
				}
				if got := n.ReplayLag; n.Node == "n1" && (got == nil) != (replay < 0) || got != nil && *got != replay {
					t.Errorf("%s: replay lag of %s: got %v, want %d", what, n.Node, got, replay)
				}
			}
		}
		b.server.set(func(*core.Server) { b.server.seen = g })
		lag("synchronous standby", 0, 512<<10)
		b.vrrpd.events <- control.AgentEvent{Message: &control.AgentMessage{From: "n2", Text: `{"kind":"state","state":{"role":"primary","timeline":4,"lsn":"0/A00000"}}`}}
		synctest.Wait()
		check("the holder is on another timeline", map[string]int{"/replica?lag=1GB": 503, "/replica": 200})
		lag("the holder is on another timeline", -1, -1)
		b.vrrpd.events <- control.AgentEvent{Message: &control.AgentMessage{From: "n2", Text: `{"kind":"state","state":{"role":"primary","timeline":3,"lsn":"0/A00000"}}`}}
		time.Sleep(core.HeardFor - time.Millisecond)
		check("the holder was heard", map[string]int{"/replica?lag=1GB": 200})
		time.Sleep(time.Millisecond)
		// What it said last stays as it is, however far it has gone since.
		check("the holder is not heard any more", map[string]int{"/replica": 200, "/replica?lag=1GB": 503, "/read-only?lag=1GB": 503, "/readiness": 503})
		lag("the holder is not heard any more", -1, -1)
		b.server.set(func(s *core.Server) { s.Running, s.Answering, s.Upstream = false, false, "" })
		time.Sleep(300 * time.Millisecond)
		synctest.Wait()
		check("down", map[string]int{"/replica": 503, "/health": 503, "/readiness": 503, "/read-only": 503, "/liveness": 200})
	})
}

func TestLagBytes(t *testing.T) {
	for text, want := range map[string]int64{"0": 0, "1048576": 1 << 20, "16kB": 16 << 10, "64MB": 64 << 20, "1GB": 1 << 30, "2tb": 2 << 40} {
		if got, ok := lagBytes(text); !ok || got != want {
			t.Errorf("%s: got %d, %t", text, got, ok)
		}
	}
	for _, text := range []string{"", "x", "-1", "1XB", "99999999999GB"} {
		if got, ok := lagBytes(text); ok {
			t.Errorf("%q: got %d, want a refusal", text, got)
		}
	}
}
