package daemon

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"pgvrrp/internal/control"
)

type metricsSource struct{ control.Daemon }

func (metricsSource) Status(context.Context) control.Status { return control.Status{Node: "n1"} }

func TestMetricsPort(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	if m, err := listenMetrics("", nil, log); m != nil || err != nil {
		t.Errorf("without an address: got %v, %v", m, err)
	}
	m, err := listenMetrics("127.0.0.1:0", metricsSource{}, log)
	if err != nil {
		t.Fatal(err)
	}
	at := m.listener.Addr().String()
	if _, err := listenMetrics(at, metricsSource{}, log); err == nil || !strings.Contains(err.Error(), "listen for metrics") {
		t.Errorf("twice: got %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- m.run(ctx) }()
	client := http.Client{Timeout: 5 * time.Second}
	for _, tt := range []struct {
		method, path string
		code         int
		body         string
	}{
		{http.MethodGet, "/metrics", http.StatusOK, `vrrpd_info{node="n1",version=""} 1`},
		{http.MethodGet, "/v1/status", http.StatusNotFound, ""}, // nothing else is to be had there
		{http.MethodPost, "/v1/release", http.StatusNotFound, ""},
		{http.MethodPost, "/metrics", http.StatusMethodNotAllowed, ""},
	} {
		req, err := http.NewRequestWithContext(ctx, tt.method, "http://"+at+tt.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		r, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(r.Body)
		r.Body.Close()
		if err != nil || r.StatusCode != tt.code || !strings.Contains(string(b), tt.body) {
			t.Errorf("%s %s: got %d, %v, %q", tt.method, tt.path, r.StatusCode, err, b)
		}
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
