package agent

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"pgvrrp/internal/agent/core"
	"pgvrrp/internal/control"
	"pgvrrp/internal/promote"
	"pgvrrp/internal/quiet"
)

// served is an agent in real time behind a socket.
func served(t *testing.T) (*Client, *fakeVrrpd, *Server) {
	t.Helper()
	r := &trace{}
	v := &fakeVrrpd{trace: r, events: make(chan control.AgentEvent), cut: make(chan struct{}), nodes: []string{"n1", "n2"}}
	a, err := New(Options{
		Settings: promote.Settings{Resource: "pg"}, Keeper: &fakeKeeper{trace: r, files: map[string]string{}}, Vrrpd: v, Log: slog.New(slog.DiscardHandler), Family: NewFamily(5432),
		Database: &fakeServer{trace: r, now: quiet.BootTime, s: core.Server{Running: true, Answering: true, InRecovery: true, SystemID: 7}},
	})
	if err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(t.TempDir(), "agent.sock")
	s, err := Listen(socket, a, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(socket, a, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), "another agent answers") {
		t.Errorf("a second listener: got %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 2)
	go func() { ended <- a.Run(ctx) }()
	go func() { ended <- s.Run(ctx) }()
	c := NewClient(socket)
	t.Cleanup(func() {
		c.Close()
		cancel()
		for range 2 {
			if err := <-ended; err != nil {
				t.Error(err)
			}
		}
	})
	v.events <- control.AgentEvent{Resource: &control.Resource{Name: "pg"}}
	return c, v, s
}

func TestSocket(t *testing.T) {
	c, v, s := served(t)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	st, err := c.Status(ctx)
	if err != nil || st.Node != "n1" || !st.Connected || len(st.Nodes) != 2 || st.Nodes[0].Role != "standby" {
		t.Errorf("status: got %+v, %v", st, err)
	}
	for name, tt := range map[string]struct {
		q    Request
		want string
	}{
		"switchover":  {Request{}, "nobody is the holder"},
		"set":         {Request{Key: "nonsense", Value: 1}, "no such key"},
		"init":        {Request{}, "PostgreSQL is a standby here"},
		"start":       {Request{}, "is not initialized"},
		"nonsense":    {Request{}, "404"},
		"maintenance": {Request{On: false}, ""},
		"pause":       {Request{On: true, Reason: "why"}, ""},
	} {
		text, err := c.Order(ctx, name, tt.q)
		switch {
		case tt.want == "" && (err != nil || text == ""):
			t.Errorf("%s: got %q, %v, want a word", name, text, err)
		case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)):
			t.Errorf("%s: got %v, want %q", name, err, tt.want)
		}
	}
	if found, err := c.Doctor(ctx); err != nil || len(found) == 0 {
		t.Errorf("doctor: got %v, %v, want at least that n2 is not heard", found, err)
	}
	// A hook waits as long as its caller.
	hctx, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
	defer cancel()
	if _, err := c.Order(hctx, "hook", Request{State: "MASTER"}); err == nil {
		t.Error("MASTER was answered without a grant")
	}
	if _, err := c.Order(ctx, "hook", Request{State: "BACKUP"}); err != nil {
		t.Errorf("BACKUP: %v", err)
	}
	v.mu.Lock()
	hellos := v.hellos
	v.mu.Unlock()
	if hellos != 1 {
		t.Errorf("got %d connections to vrrpd, want one", hellos)
	}

	// Who is neither root nor us may look and nothing else.
	order := s.order("stop", func(context.Context, Request) (answer, error) {
		t.Error("the order of a stranger was carried out")
		return answer{}, nil
	})
	for name, cred := range map[string]*unix.Ucred{"stranger": {Uid: 4242}, "unknown": nil} {
		w := httptest.NewRecorder()
		r := httptest.NewRequest(http.MethodPost, "/v1/stop", strings.NewReader("{}"))
		order(w, r.WithContext(control.WithCaller(r.Context(), cred)))
		if w.Code != http.StatusForbidden {
			t.Errorf("%s: got %d", name, w.Code)
		}
	}
	nobody := NewClient(filepath.Join(t.TempDir(), "none.sock"))
	var gone *NotRunningError
	if _, err := nobody.Status(ctx); !errors.As(err, &gone) || !strings.Contains(err.Error(), "pgnotify.service") {
		t.Errorf("without an agent: got %v", err)
	}
}
