package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"pgvrrp/internal/control"
)

// vrrpdSocket is a vrrpd that is master of VI_PG with the VIP, and answers what asks for a release with code and body.
type vrrpdSocket struct {
	path  string
	conns atomic.Int32
	asked chan control.ReleaseRequest
}

func newVrrpdSocket(t *testing.T, idle time.Duration, code int, body string) *vrrpdSocket {
	t.Helper()
	v := &vrrpdSocket{path: filepath.Join(t.TempDir(), "s"), asked: make(chan control.ReleaseRequest, 100)}
	l, err := net.Listen("unix", v.path)
	check(t, err)
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/status", func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(control.Status{Instances: []control.Instance{{
			Name: "VI_PG", State: control.StateMaster, Addresses: []control.Address{{Address: "10.0.0.100/24", Held: true}},
		}}})
	})
	mux.HandleFunc("POST /v1/release", func(w http.ResponseWriter, r *http.Request) {
		var q control.ReleaseRequest
		if err := json.NewDecoder(r.Body).Decode(&q); err != nil {
			t.Error(err)
		}
		w.WriteHeader(code)
		_, _ = io.WriteString(w, body)
		select {
		case v.asked <- q:
		default:
		}
	})
	server := &http.Server{Handler: mux, IdleTimeout: idle, ConnState: func(_ net.Conn, s http.ConnState) {
		if s == http.StateNew {
			v.conns.Add(1)
		}
	}}
	go func() { _ = server.Serve(l) }()
	t.Cleanup(func() { server.Close() })
	return v
}

// Whoever may not have the VIP given away learns it while the server still runs.
func TestSwitchoverWithoutTheRight(t *testing.T) {
	v := newVrrpdSocket(t, time.Minute, http.StatusForbidden, `{"error":"release: permission denied for uid 26, only root may"}`)
	for _, flags := range [][]string{nil, {"--dry-run"}} {
		t.Run(strings.Join(flags, " "), func(t *testing.T) {
			dir := t.TempDir()
			settings := filepath.Join(dir, "pgnotify.toml")
			check(t, os.WriteFile(settings, []byte(strings.ReplaceAll(testSettings, "DIR", dir)), 0o600))
			check(t, os.Mkdir(filepath.Join(dir, "data"), 0o700))
			check(t, os.WriteFile(filepath.Join(dir, "server.json"), []byte(`{"running":true,"primary":true,"timeline":1,"lsn":"0/64","standbys":["n2"]}`), 0o600))
			check(t, os.WriteFile(filepath.Join(dir, "network.json"), []byte(`{"10.0.0.2":"standby"}`), 0o600))
			h := fakeHost(dir)
			var out, errs bytes.Buffer
			h.stdout, h.stderr = &out, &errs
			args := append([]string{"pgnotify", "--config", settings, "--state-dir", filepath.Join(dir, "state"), "--socket", v.path, "switchover"}, flags...)
			if code := run(t.Context(), args, h); code != 1 {
				t.Errorf("exit code %d, want 1", code)
			}
			if want := "refused: vrrpd does not give the VIP 10.0.0.100 away: release: permission denied for uid 26, only root may"; !strings.Contains(errs.String(), want) {
				t.Errorf("got %q, want %q", errs.String(), want)
			}
			if calls, err := os.ReadFile(filepath.Join(dir, "calls")); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("the server was told: %q, %v", calls, err)
			}
		})
	}
}

// The connection that was made as root outlives the time after which vrrpd closes an idle one.
func TestMastershipKeepsItsConnection(t *testing.T) {
	v := newVrrpdSocket(t, 2*time.Second, http.StatusOK, `{}`)
	m := &mastership{client: control.NewClient(v.path), instance: "VI_PG", hold: time.Second}
	defer m.client.Close()
	check(t, m.client.Connect(t.Context()))
	check(t, m.MayRelease(t.Context()))
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	go m.keep(ctx, 20*time.Millisecond)
	for begun := time.Now(); time.Since(begun) < 3*time.Second; {
		if q := <-v.asked; !q.Ask || q.Instance != "VI_PG" {
			t.Fatalf("asked %+v", q)
		}
	}
	check(t, m.Release(t.Context()))
	if got := v.conns.Load(); got != 1 {
		t.Errorf("%d connections, want the one that was made first", got)
	}
}
