package promote

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"pgvrrp/internal/postgres"
)

// fakeServer is a PostgreSQL server in memory. It notes each call that changes something, and prints itself as sorted lines.
type fakeServer struct {
	mu         sync.Mutex
	calls      []string
	running    bool
	answering  bool
	primary    bool
	position   postgres.Position
	upstream   string
	streams    func(upstream string) bool // may a walreceiver stream from there?
	incomplete bool
	lastWAL    postgres.Position
	history    postgres.History

	fail map[string]error         // by call
	slow map[string]time.Duration // by call
	on   map[string]func()        // by call, after it
	dir  string
}

func (f *fakeServer) String() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	lines := []string{
		fmt.Sprintf("position %s", f.position), fmt.Sprintf("primary %t", f.primary), fmt.Sprintf("running %t", f.running),
		fmt.Sprintf("upstream %s", conninfoHost(f.upstream)),
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

func (f *fakeServer) did() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return strings.Join(f.calls, ", ")
}

// call notes a call, takes its time and fails as told.
func (f *fakeServer) call(ctx context.Context, name string, then func()) error {
	if d := f.slow[name]; d > 0 {
		pause(ctx, d)
	}
	f.mu.Lock()
	f.calls = append(f.calls, name)
	err := f.fail[name]
	if err == nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if err == nil && then != nil {
		then()
	}
	f.mu.Unlock()
	if g := f.on[name]; g != nil {
		g()
	}
	return err
}

func (f *fakeServer) Facts(context.Context) (postgres.Facts, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.fail["facts"]; err != nil {
		return postgres.Facts{}, err
	}
	p := postgres.Facts{
		Running: f.running, Answering: f.running && f.answering, InRecovery: !f.primary, StandbySignal: !f.primary, SystemID: cluster,
		Timeline: f.position.Timeline, LSN: f.position.LSN, ReplayLSN: f.position.LSN, PrimaryConninfo: f.upstream,
	}
	if f.running && !f.answering {
		p.Problem = fmt.Errorf("ask the server: %w", postgres.ErrNotReady)
	}
	if p.Answering && !f.primary && f.upstream != "" && f.streams != nil && f.streams(conninfoHost(f.upstream)) {
		p.Upstream.Status = "streaming"
	}
	return p, nil
}

func (f *fakeServer) LastWAL(context.Context) (postgres.Position, error) { return f.lastWAL, nil }
func (f *fakeServer) RewindIncomplete() bool                             { return f.incomplete }

func (f *fakeServer) History(postgres.Timeline) (postgres.History, error) {
	if f.history == nil {
		return nil, os.ErrNotExist
	}
	return f.history, nil
}

func (f *fakeServer) StartStandby(ctx context.Context) error {
	return f.call(ctx, "start-standby", func() { f.running, f.answering, f.primary = true, true, false })
}

func (f *fakeServer) StartAsIs(ctx context.Context) error {
	return f.call(ctx, "start-as-is", func() { f.running, f.answering = true, true })
}

func (f *fakeServer) Stop(ctx context.Context, mode postgres.StopMode) error {
	return f.call(ctx, "stop "+string(mode), func() { f.running = false })
}

func (f *fakeServer) Promote(ctx context.Context) (postgres.Timeline, postgres.LSN, error) {
	err := f.call(ctx, "promote", func() { f.primary = true; f.position.Timeline++ })
	return f.position.Timeline, f.position.LSN, err
}

func (f *fakeServer) SwitchWAL(ctx context.Context) error  { return f.call(ctx, "switch-wal", nil) }
func (f *fakeServer) Checkpoint(ctx context.Context) error { return f.call(ctx, "checkpoint", nil) }
func (f *fakeServer) ResetAuto(ctx context.Context) error  { return f.call(ctx, "reset-auto", nil) }

func (f *fakeServer) SetUpstream(ctx context.Context, conninfo string) error {
	return f.call(ctx, "upstream "+conninfoHost(conninfo), func() { f.upstream = conninfo })
}

func (f *fakeServer) ClearUpstream(ctx context.Context) error {
	return f.call(ctx, "upstream none", func() { f.upstream = "" })
}

func (f *fakeServer) RewindReady(ctx context.Context, _ string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.fail["rewind-ready"]
}

func (f *fakeServer) Rewind(ctx context.Context, _ string, _ postgres.Progress) error {
	return f.call(ctx, "rewind", func() { f.position = at(2, 300); f.lastWAL = f.position })
}

func (f *fakeServer) NewDir() string { return f.dir + ".new" }

func (f *fakeServer) Swap(dir string) (string, error) {
	err := f.call(context.Background(), "swap", func() {
		f.position, f.incomplete = at(2, 300), false
		f.lastWAL = f.position
	})
	return f.dir + ".old", err
}

// fakeNetwork answers for the other servers, each at its address.
type fakeNetwork struct {
	mu    sync.Mutex
	hosts map[string]*fakeHost
	asked map[string]int
	holds bool // the VIP is here
}

type fakeHost struct {
	dead    bool          // no answer at all
	refused bool          // nothing listens
	err     error         // of the question
	delay   time.Duration // of the answer
	remote  postgres.Remote
	history postgres.History
	silent  bool // dies before it is asked for its history
}

func (n *fakeNetwork) set(addr string, h fakeHost) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.hosts[addr] = &h
}

func (n *fakeNetwork) host(addr string) fakeHost {
	n.mu.Lock()
	defer n.mu.Unlock()
	if h := n.hosts[addr]; h != nil {
		return *h
	}
	return fakeHost{refused: true}
}

func (n *fakeNetwork) Dial(ctx context.Context, address string) error {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return err
	}
	n.mu.Lock()
	n.asked[host]++
	n.mu.Unlock()
	h := n.host(host)
	switch {
	case h.dead:
		<-ctx.Done()
		return &net.OpError{Op: "dial", Err: context.DeadlineExceeded}
	case h.refused:
		return &net.OpError{Op: "dial", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}
	}
	return nil
}

func (n *fakeNetwork) Ask(ctx context.Context, conninfo string) (postgres.Remote, error) {
	h := n.host(conninfoHost(conninfo))
	if h.delay > 0 {
		pause(ctx, h.delay)
		if ctx.Err() != nil {
			return postgres.Remote{}, ctx.Err()
		}
	}
	h = n.host(conninfoHost(conninfo))
	return h.remote, h.err
}

func (n *fakeNetwork) History(ctx context.Context, conninfo string, _ postgres.Timeline) (postgres.History, error) {
	h := n.host(conninfoHost(conninfo))
	if h.silent {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return h.history, nil
}

func (n *fakeNetwork) Holds(netip.Addr) (bool, error) { return n.holds, nil }

func remote(standby bool, p postgres.Position) fakeHost {
	return fakeHost{remote: postgres.Remote{InRecovery: standby, SystemID: cluster, Timeline: p.Timeline, LSN: p.LSN, Version: 150000}}
}

type bench struct {
	*Engine
	server   *fakeServer
	network  *fakeNetwork
	detached []string
	cloned   int
}

// newBench is n1, a standby of a primary that is gone, with peers n2 and n3 that are off.
func newBench(t *testing.T) *bench {
	t.Helper()
	data := filepath.Join(t.TempDir(), "data")
	store, err := OpenStore(t.TempDir(), data)
	if err != nil {
		t.Fatal(err)
	}
	s, err := Parse("pgnotify.toml", []byte(`node = "n1"
[postgres]
data_dir = "`+data+`"
[hook]
vip = "10.0.0.100"
peers = { n1 = ["10.0.0.1"], n2 = ["10.0.0.2"], n3 = ["10.0.0.3"] }
`), "host")
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{
		server:  &fakeServer{running: true, answering: true, position: at(1, 100), lastWAL: at(1, 100), upstream: s.Upstream("10.0.0.100"), fail: map[string]error{}, slow: map[string]time.Duration{}, on: map[string]func(){}, dir: data},
		network: &fakeNetwork{hosts: map[string]*fakeHost{}, asked: map[string]int{}},
	}
	b.server.streams = func(upstream string) bool {
		h := b.network.host(upstream)
		return !h.dead && !h.refused && h.remote.Timeline >= b.server.position.Timeline
	}
	b.Engine = &Engine{
		Settings: s, Server: b.server, Network: b.network, Store: store, Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
		Detach:   func(args ...string) error { b.detached = append(b.detached, strings.Join(args, " ")); return nil },
		Progress: func(string) (postgres.Progress, func()) { return func(int64, int64) {}, func() {} },
		Clone: func(ctx context.Context, o postgres.CloneOptions) error {
			b.cloned++
			if err := os.Mkdir(o.Dir, 0o700); err != nil {
				return err
			}
			return b.server.call(ctx, "clone", nil)
		},
	}
	return b
}

func (b *bench) hook(ctx context.Context, state string) Outcome {
	return b.Deliver(ctx, Event{Type: "INSTANCE", Name: "VI_PG", State: state, Priority: 100})
}

func wantResult(t *testing.T, o Outcome, result, reason string) {
	t.Helper()
	text := ""
	if o.Err != nil {
		text = o.Err.Error()
	}
	if o.Result != result || !strings.Contains(text, reason) {
		t.Errorf("got %s %q, want %s with %q", o.Result, text, result, reason)
	}
}

func wantDid(t *testing.T, b *bench, want string) {
	t.Helper()
	if got := b.server.did(); got != want {
		t.Errorf("the server was told: %q, want %q", got, want)
	}
}

var (
	_ Server  = (*postgres.Server)(nil)
	_ Server  = (*fakeServer)(nil)
	_ Network = (*fakeNetwork)(nil)
)

var errFake = errors.New("as the test wants")
