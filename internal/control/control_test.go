package control_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"pgvrrp/internal/control"
)

type daemon struct {
	mu     sync.Mutex // the race detector does not see that a call over the socket comes after what was set before it
	status control.Status
	refuse error

	events   chan control.Event
	released chan string
	path     string // of the socket
}

func (d *daemon) set(f func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f()
}

func (d *daemon) Status(context.Context) control.Status {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.status
}

func (d *daemon) Plan(_ context.Context, file string) (control.Plan, error) {
	if file == "/none" {
		return control.Plan{}, errors.New("no such file")
	}
	return control.Plan{File: file, Running: "/etc/vrrpd/vrrpd.conf", Steps: []control.PlanStep{{Action: control.PlanChange, Kind: "instance", Name: "VI_1", Keywords: []string{"priority"}}}}, nil
}

func (d *daemon) Release(_ context.Context, instance string, hold time.Duration) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.refuse != nil {
		return d.refuse
	}
	d.released <- instance + " " + hold.String()
	return nil
}

func (d *daemon) Subscribe() (<-chan control.Event, func()) { return d.events, func() {} }

// serve runs a server for the test and returns its daemon, a client and a way to stop it.
func serve(t *testing.T) (*daemon, *control.Client, func()) {
	t.Helper()
	d := &daemon{events: make(chan control.Event, 4), released: make(chan string, 4)}
	path := filepath.Join(t.TempDir(), "run", "c.sock")
	d.path = path
	s, err := control.Listen(path, d, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	stop := func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
		if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("socket left behind: %v", err)
		}
		ended <- nil
	}
	t.Cleanup(stop)
	c := control.NewClient(path)
	t.Cleanup(c.Close)
	return d, c, stop
}

func TestStatusRoundTrip(t *testing.T) {
	d, c, _ := serve(t)
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	want := control.Status{Node: "n1", PID: 7, Started: at, Instances: []control.Instance{{
		Name: "VI_1", State: control.StateMaster, Seq: 3, Since: at, Priority: 100, Interface: "eth0",
		Addresses: []control.Address{{Address: "192.0.2.1/24", Interface: "eth0", Held: true}},
		Peers:     []control.Peer{{Address: "192.0.2.2"}},
		LastHook:  &control.Hook{State: control.StateMaster, Seq: 3, At: at, Duration: 0.5},
		Counters:  control.Counters{Rejected: map[string]uint64{"checksum": 2}},
	}}}
	d.set(func() { d.status = want })
	got, err := c.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if _, err := c.Instance(t.Context(), "VI_2"); err == nil || !strings.Contains(err.Error(), `no instance "VI_2"`) {
		t.Errorf("unknown instance: got %v", err)
	}
}

func TestRelease(t *testing.T) {
	d, c, _ := serve(t)
	if err := c.Connect(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := c.Release(t.Context(), "VI_1", 30*time.Second); err != nil {
		t.Fatal(err)
	}
	if got, want := <-d.released, "VI_1 30s"; got != want {
		t.Errorf("released %q, want %q", got, want)
	}
	if err := c.MayRelease(t.Context(), "VI_1"); err != nil {
		t.Errorf("may release: %v", err)
	}
	if len(d.released) > 0 {
		t.Error("asking gave it away")
	}
	if code := control.ReleaseAs(t, d, 4242, `{"instance":"VI_1","ask":true}`); code != http.StatusForbidden {
		t.Errorf("another user may: status %d, want 403", code)
	}
	d.set(func() { d.refuse = errors.New("no instance VI_9") })
	if err := c.Release(t.Context(), "VI_9", 0); err == nil || err.Error() != "no instance VI_9" {
		t.Errorf("refused call: got %v", err)
	}
	d.set(func() { d.refuse = nil })
	if err := c.Release(t.Context(), "VI_1", -time.Second); err == nil || !strings.Contains(err.Error(), "must not be negative") {
		t.Errorf("negative hold: got %v", err)
	}
}

func TestEventsEndWithTheServer(t *testing.T) {
	d, c, stop := serve(t)
	want := control.Event{Instance: "VI_1", Transition: control.Transition{Seq: 1, From: "BACKUP", To: "MASTER", Reason: "no advert"}}
	ready := make(chan struct{})
	got := make(chan control.Event, 1)
	ended := make(chan error, 1)
	go func() {
		ended <- c.Events(t.Context(), func() { close(ready) }, func(e control.Event) error { got <- e; return nil })
	}()
	<-ready
	d.events <- want
	if e := <-got; e != want {
		t.Errorf("event %+v, want %+v", e, want)
	}
	stop()
	if err := <-ended; err == nil {
		t.Error("Events returned nil after the server stopped")
	}
}

func TestASlowReaderIsCutOff(t *testing.T) {
	d, c, _ := serve(t)
	close(d.events)
	if err := c.Events(t.Context(), nil, func(control.Event) error { return nil }); !errors.Is(err, io.EOF) {
		t.Errorf("got %v, want io.EOF", err)
	}
}

func TestListenReplacesAStaleSocketOnly(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c.sock")
	log := slog.New(slog.DiscardHandler)
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := control.Listen(path, &daemon{}, log)
	if err != nil {
		t.Fatalf("stale socket: %v", err)
	}
	if _, err := control.Listen(path, &daemon{}, log); err == nil || !strings.Contains(err.Error(), "another vrrpd answers there") {
		t.Errorf("live socket: got %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Run(ctx); err != nil {
		t.Error(err)
	}
}

func TestGarbageIsRefused(t *testing.T) {
	for _, tc := range []struct {
		name, method, path, body string
		want                     int
	}{
		{"unknown call", "GET", "/v2/status", "", http.StatusNotFound},
		{"wrong method", "GET", "/v1/release", "", http.StatusNotFound},
		{"no JSON", "POST", "/v1/release", "VI_1", http.StatusBadRequest},
		{"unknown field", "POST", "/v1/release", `{"instance":"VI_1","holds":1}`, http.StatusBadRequest},
	} {
		t.Run(tc.name, func(t *testing.T) {
			d, socket := &daemon{}, filepath.Join(t.TempDir(), "c.sock")
			s, err := control.Listen(socket, d, slog.New(slog.DiscardHandler))
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			ended := make(chan error, 1)
			go func() { ended <- s.Run(ctx) }()
			defer func() { cancel(); <-ended }()
			got := control.RawCall(t, socket, tc.method, tc.path, tc.body)
			if got != tc.want {
				t.Errorf("status %d, want %d", got, tc.want)
			}
		})
	}
}

func TestNobodyListens(t *testing.T) {
	c := control.NewClient(filepath.Join(t.TempDir(), "none.sock"))
	if _, err := c.Status(t.Context()); err == nil || !strings.Contains(err.Error(), "none.sock") {
		t.Errorf("got %v, want an error that names the socket", err)
	}
	if err := c.Connect(t.Context()); err == nil {
		t.Error("Connect to nothing succeeded")
	}
}

// TestEventsOutliveTheReadTimeout would fail if the deadline for reading a request ended the stream.
func TestEventsOutliveTheReadTimeout(t *testing.T) {
	if testing.Short() {
		t.Skip("takes six seconds")
	}
	d, c, _ := serve(t)
	got := make(chan control.Event, 1)
	go func() {
		_ = c.Events(t.Context(), func() {
			time.AfterFunc(6*time.Second, func() { d.events <- control.Event{Instance: "VI_1"} })
		}, func(e control.Event) error { got <- e; return nil })
	}()
	select {
	case <-got:
	case <-time.After(10 * time.Second):
		t.Error("no event after six seconds of silence")
	}
}

func (d *daemon) Quorum() control.QuorumCalls { return nil }

func TestPlan(t *testing.T) {
	_, c, _ := serve(t)
	p, err := c.Plan(t.Context(), "new.conf") // relative to the caller, not to vrrpd
	if err != nil {
		t.Fatal(err)
	}
	if !filepath.IsAbs(p.File) || filepath.Base(p.File) != "new.conf" || len(p.Steps) != 1 || p.Steps[0].Keywords[0] != "priority" {
		t.Errorf("got %+v", p)
	}
	if _, err := c.Plan(t.Context(), "/none"); err == nil || err.Error() != "no such file" {
		t.Errorf("got %v", err)
	}
}

// TestConnectIsKept: a caller that gives root up after Connect goes on with that connection, however late the end of an answer comes.
func TestConnectIsKept(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	var conns atomic.Int32
	parsed := make(chan struct{}, 1)
	server := &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, `{}`)
			_ = http.NewResponseController(w).Flush()
			select {
			case <-parsed: // the client has gone on without the end
			case <-time.After(50 * time.Millisecond):
			}
		}),
		ConnState: func(_ net.Conn, s http.ConnState) {
			if s == http.StateNew {
				conns.Add(1)
			}
		},
	}
	go func() { _ = server.Serve(l) }()
	defer server.Close()
	c := control.NewClient(socket)
	defer c.Close()
	if err := c.Connect(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Status(t.Context()); err != nil {
		t.Fatal(err)
	}
	parsed <- struct{}{}
	if err := c.Release(t.Context(), "VI", 0); err != nil {
		t.Fatal(err)
	}
	if got := conns.Load(); got != 1 {
		t.Errorf("%d connections, want the one of Connect", got)
	}
}
