package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"golang.org/x/net/netutil"

	"pgvrrp/internal/control"
)

// scrapeTime bounds one question of Prometheus, from its first byte to its answer.
const scrapeTime = 5 * time.Second

// maxScrapes is how many connections the port takes at once; further ones wait.
const maxScrapes = 4

// metricsPort serves GET /metrics, and nothing else, over TCP.
type metricsPort struct {
	listener net.Listener
	server   *http.Server
}

// listenMetrics opens the port; nil without one.
func listenMetrics(addr string, d control.Daemon, log *slog.Logger) (*metricsPort, error) {
	if addr == "" {
		return nil, nil
	}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("listen for metrics: %w", err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, r *http.Request) { control.ServeMetrics(w, r, d) })
	// Strangers may call: few at once, and none for long.
	s := &http.Server{Handler: mux, ReadTimeout: scrapeTime, WriteTimeout: scrapeTime, MaxHeaderBytes: 16 << 10,
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug)}
	s.SetKeepAlivesEnabled(false)
	return &metricsPort{netutil.LimitListener(l, maxScrapes), s}, nil
}

// run serves until ctx ends, which is no error.
func (m *metricsPort) run(ctx context.Context) error {
	defer context.AfterFunc(ctx, func() { m.server.Close() })()
	if err := m.server.Serve(m.listener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve metrics: %w", err)
	}
	return nil
}
