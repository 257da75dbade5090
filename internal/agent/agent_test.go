package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"pgvrrp/internal/agent/core"
	"pgvrrp/internal/control"
	"pgvrrp/internal/postgres"
	"pgvrrp/internal/promote"
)

// trace is what happened, line by line.
type trace struct {
	mu    sync.Mutex
	lines []string
}

func (r *trace) add(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lines = append(r.lines, fmt.Sprintf(format, args...))
}

func (r *trace) take() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := r.lines
	r.lines = nil
	return out
}

// fakeKeeper is a disk.
type fakeKeeper struct {
	*trace
	mu    sync.Mutex
	files map[string]string
	fail  error
}

// kept is what is on disk under a name.
func (k *fakeKeeper) kept(name string) string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.files[name]
}

func (k *fakeKeeper) Keep(name string, v any) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	text, err := json.Marshal(v)
	if err == nil {
		err = k.fail
	}
	if err != nil {
		k.add("keep %s: %v", name, err)
		return err
	}
	k.files[name] = string(text)
	if name != markName {
		k.add("keep %s %s", name, text)
	}
	return nil
}

func (k *fakeKeeper) Kept(name string, v any) (bool, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	text, ok := k.files[name]
	if !ok {
		return false, nil
	}
	return true, json.Unmarshal([]byte(text), v)
}

// fakeServer is a server that does what it is told at once.
type fakeServer struct {
	*trace
	now   func() time.Duration
	mu    sync.Mutex
	s     core.Server
	block map[core.Kind]chan struct{}
	fail  map[core.Kind]error
	seen  postgres.Glance
	blind bool // its files can't be read
	disk  error
}

func (f *fakeServer) Facts() postgres.Glance {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.seen
}

func (f *fakeServer) set(change func(*core.Server)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change(&f.s)
}

func (f *fakeServer) Look(context.Context) (core.Server, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := f.s
	s.At, s.Whole = f.now(), s.Pos.LSN
	return s, !f.blind
}

func (f *fakeServer) Do(ctx context.Context, a core.Action) (core.Result, error) {
	f.add("begin %s", a.Kind)
	if b := f.block[a.Kind]; b != nil {
		select {
		case <-b:
		case <-ctx.Done():
			f.add("broken off %s", a.Kind)
			return core.Result{}, ctx.Err()
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.fail[a.Kind]; err != nil {
		f.add("failed %s", a.Kind)
		return core.Result{}, err
	}
	f.add("end %s", a.Kind)
	switch a.Kind {
	case core.Hold:
		f.s.SSN = core.SSN{Hold: true}.String()
	case core.WriteSSN:
		f.s.SSN = a.SSN.String()
	case core.Stop:
		f.s.Running, f.s.Answering, f.s.Postmaster = false, false, 0
	case core.StartStandby:
		f.s.Running, f.s.Answering, f.s.InRecovery, f.s.Postmaster = true, true, true, 0
	}
	return core.Result{SystemID: f.s.SystemID, Pos: f.s.Pos}, nil
}

func (f *fakeServer) Call(_ context.Context, a core.Action) (core.Result, error) {
	f.add("call %s", a.Kind)
	if a.Kind == core.AfterPromote {
		f.set(func(s *core.Server) { s.RewindReady = true })
	}
	return core.Result{}, nil
}
func (f *fakeServer) Settled() error                       { f.add("settled"); return nil }
func (f *fakeServer) Upkeep(context.Context, Upkeep) error { return nil }
func (f *fakeServer) Disk(context.Context) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.disk
}
func (f *fakeServer) Version() string { return "15" }
func (f *fakeServer) Work() string    { return "" }

// fakeVrrpd holds one connection at a time.
type fakeVrrpd struct {
	unparks atomic.Int32 // that fail
	*trace
	mu      sync.Mutex
	down    bool
	events  chan control.AgentEvent
	cut     chan struct{}
	nodes   []string
	hellos  int
	ruled   func(control.RuleRequest)
	verdict []string
	deaf    int // verdicts that get no answer
	words   int // to other agents
}

func (v *fakeVrrpd) Agent(ctx context.Context, h control.AgentHello, f func(control.AgentEvent) error) error {
	v.mu.Lock()
	down, cut := v.down, v.cut
	v.hellos++
	v.mu.Unlock()
	if down {
		return errors.New("no such file")
	}
	v.add("hello %s resource %s system %d version %s port %d", h.Node, h.Resource, h.SystemID, h.Version, h.Port)
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-cut:
			return io.EOF
		case ev := <-v.events:
			if err := f(ev); err != nil {
				return err
			}
		}
	}
}

func (v *fakeVrrpd) AgentEligible(_ context.Context, q control.EligibleRequest) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.deaf > 0 {
		v.deaf--
		return errors.New("no answer")
	}
	v.verdict = append(v.verdict, fmt.Sprintf("%t %s", q.Eligible, q.Reason))
	return nil
}

func (v *fakeVrrpd) Status(context.Context) (control.Status, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.down {
		return control.Status{}, errors.New("no such file")
	}
	q := &control.Quorum{Node: "n1"}
	for k, n := range v.nodes {
		q.Voters = append(q.Voters, control.Voter{ID: n, Node: n, Addresses: []string{fmt.Sprintf("10.78.0.%d", k+1)}})
	}
	q.Voters = append(q.Voters, control.Voter{ID: "w1", Node: "w1", Witness: true, Addresses: []string{"10.78.0.21"}})
	return control.Status{Quorum: q}, nil
}

func (v *fakeVrrpd) Pledge(_ context.Context, q control.PledgeReport) error {
	v.add("pledge %d timeline %d at %d", q.Epoch, q.TLI, q.LSN)
	return nil
}

func (v *fakeVrrpd) Advanced(context.Context, control.AdvanceReport) error { return nil }

func (v *fakeVrrpd) SetRule(_ context.Context, q control.RuleRequest) error {
	v.add("set rule epoch %d version %d S=%v", q.Epoch, q.Version, q.S)
	if v.ruled != nil {
		v.ruled(q)
	}
	return nil
}

func (v *fakeVrrpd) GiveBack(_ context.Context, q control.GiveBackRequest) error {
	v.add("give back %d: %s", q.Epoch, q.Reason)
	return nil
}

func (v *fakeVrrpd) ReadLog(context.Context, string) (control.Resource, error) {
	return control.Resource{}, errors.New("not asked for")
}

func (v *fakeVrrpd) Park(_ context.Context, q control.ParkRequest) error {
	v.add("park %d %t", q.Epoch, q.On)
	if !q.On && v.unparks.Add(-1) >= 0 {
		return errors.New("busy")
	}
	return nil
}
func (v *fakeVrrpd) Tell(_ context.Context, m control.AgentMessage) error {
	v.mu.Lock()
	v.words++
	v.mu.Unlock()
	if !strings.Contains(m.Text, `"kind":"state"`) {
		v.add("tell %s %s", m.To, m.Text)
	}
	return nil
}
func (v *fakeVrrpd) Init(context.Context, control.InitRequest) error   { v.add("init"); return nil }
func (v *fakeVrrpd) Pause(context.Context, control.PauseRequest) error { v.add("pause"); return nil }
func (v *fakeVrrpd) Set(context.Context, control.SetRequest) error     { v.add("set"); return nil }

// bench is an agent in virtual time with everything around it.
type bench struct {
	*Agent
	*trace
	t      *testing.T
	keeper *fakeKeeper
	server *fakeServer
	vrrpd  *fakeVrrpd
	stop   func()
}

// newBench runs an agent beside a primary on n1; it must be called within synctest.Test.
func newBench(t *testing.T, change func(*bench)) *bench {
	t.Helper()
	start := time.Now()
	now := func() time.Duration { return time.Hour + time.Since(start) }
	r := &trace{}
	b := &bench{trace: r, t: t, keeper: &fakeKeeper{trace: r, files: map[string]string{}}}
	b.server = &fakeServer{trace: r, now: now, block: map[core.Kind]chan struct{}{}, s: core.Server{
		Running: true, Answering: true, SystemID: 7, Pos: core.Position{TLI: 1, LSN: 1000},
	}}
	b.vrrpd = &fakeVrrpd{trace: r, events: make(chan control.AgentEvent), cut: make(chan struct{}), nodes: []string{"n1", "n2", "n3"}}
	if change != nil {
		change(b)
	}
	var err error
	b.Agent, err = New(Options{
		Settings: promote.Settings{Resource: "pg", Port: 5432, Rewind: true, Reclone: true}, Keeper: b.keeper, Database: b.server, Vrrpd: b.vrrpd, Now: now,
		Log: slog.New(slog.DiscardHandler), Family: NewFamily(5432),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- b.Run(ctx) }()
	b.stop = func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("run: %v", err)
		}
	}
	return b
}

// now is the resource in the hands of this node, its lease running for d.
func (b *bench) mine(epoch uint64, phase string, version uint64, d time.Duration, s ...string) control.Resource {
	return control.Resource{
		Name: "pg", SystemID: 7, Epoch: epoch, Phase: phase, Holder: "n1", Mine: true, Live: d > 0, Deadline: int64(b.o.Now() + d),
		Rule: control.Rule{Holder: "n1", S: append([]string{}, s...), Version: version},
	}
}

func (b *bench) say(r control.Resource) { b.vrrpd.events <- control.AgentEvent{Resource: &r} }

// pass lets time go while the agents of these nodes are heard.
func (b *bench) pass(d time.Duration, nodes ...string) {
	for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(core.TellEvery) {
		for _, n := range nodes {
			b.vrrpd.events <- control.AgentEvent{Message: &control.AgentMessage{From: n, Text: `{"kind":"state","state":{"role":"standby"}}`}}
		}
	}
	synctest.Wait()
}

func (b *bench) want(what string, want ...string) {
	b.t.Helper()
	if d := cmp.Diff(want, b.take()); d != "" {
		b.t.Errorf("%s: -want +got\n%s", what, d)
	}
}

// TestGrantOfARunningPrimary: hold, promise on disk, pledge, rule, setting, open; in this order, and the hook waits for its end.
func TestGrantOfARunningPrimary(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, nil)
		defer b.stop()
		synctest.Wait()
		b.want("start", `keep nodes {"self":"n1","nodes":{"n1":["10.78.0.1"],"n2":["10.78.0.2"],"n3":["10.78.0.3"]}}`,
			"hello n1 resource pg system 7 version 15 port 5432")
		b.vrrpd.ruled = func(q control.RuleRequest) {
			go b.say(b.mine(q.Epoch, "active", q.Version+1, 400*time.Millisecond, q.S...))
		}
		electing := control.Resource{Name: "pg", SystemID: 7, Epoch: 2, Phase: "electing", Rule: control.Rule{Holder: "n1", Version: 1}}
		b.say(electing)
		time.Sleep(100 * time.Millisecond)
		synctest.Wait()
		b.want("electing", "begin hold", "end hold", `keep agent {"promise":2}`, "pledge 2 timeline 1 at 1000")
		hook := make(chan error, 1)
		go func() {
			_, err := b.Hook(t.Context(), "MASTER")
			hook <- err
		}()
		synctest.Wait()
		select {
		case err := <-hook:
			t.Fatalf("the hook ended before the grant: %v", err)
		default:
		}
		b.say(b.mine(2, "granted", 1, 400*time.Millisecond))
		time.Sleep(afterwards / 2)
		synctest.Wait()
		b.want("granted", "set rule epoch 2 version 1 S=[]", "begin write SSN", "end write SSN", "begin nudge", "end nudge")
		time.Sleep(afterwards)
		synctest.Wait()
		b.want("a moment later", "call after promote")
		if err := <-hook; err != nil {
			t.Errorf("hook: %v", err)
		}
		// vrrpd stands still: the deadline counts, and nobody needs to tell.
		time.Sleep(500 * time.Millisecond)
		synctest.Wait()
		b.want("vrrpd stands still", "begin hold", "end hold")
	})
}

// TestPromiseThatCanNotBeKept: an epoch whose promise is not on disk is not pledged for.
func TestPromiseThatCanNotBeKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, func(b *bench) { b.server.s.SSN = core.SSN{Hold: true}.String() })
		defer b.stop()
		synctest.Wait()
		b.take()
		b.keeper.mu.Lock()
		b.keeper.fail = errors.New("disk full")
		b.keeper.mu.Unlock()
		b.say(control.Resource{Name: "pg", SystemID: 7, Epoch: 2, Phase: "electing", Rule: control.Rule{Holder: "n1", Version: 1}})
		time.Sleep(time.Second)
		synctest.Wait()
		got := b.take()
		if len(got) < 2 || slices.ContainsFunc(got, func(l string) bool { return !strings.HasPrefix(l, "keep agent: disk full") }) {
			t.Errorf("got %q, want tries to keep the promise and nothing else", got)
		}
		b.keeper.mu.Lock()
		b.keeper.fail = nil
		b.keeper.mu.Unlock()
		time.Sleep(time.Second)
		synctest.Wait()
		b.want("the disk has room again", `keep agent {"promise":2}`, "pledge 2 timeline 1 at 1000")
	})
}

// TestReconnect: a lost connection is tried again within 100 ms, and what is new is told.
func TestReconnect(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, nil)
		defer b.stop()
		synctest.Wait()
		b.say(b.mine(0, "", 0, 0))
		synctest.Wait()
		b.take()
		v := b.vrrpd
		v.mu.Lock()
		v.down = true
		close(v.cut)
		v.cut = make(chan struct{})
		v.hellos = 0
		v.mu.Unlock()
		time.Sleep(10 * time.Second)
		synctest.Wait()
		v.mu.Lock()
		if v.hellos < 95 || v.hellos > 120 {
			t.Errorf("got %d tries in 10 s, want one each 100 ms", v.hellos)
		}
		v.down, v.verdict, v.deaf = false, nil, 3
		v.mu.Unlock()
		if s, err := b.Status(t.Context()); err != nil || s.Connected || s.Refused != "no such file" {
			t.Errorf("got %+v, %v, want the refusal", s, err)
		}
		time.Sleep(100 * time.Millisecond)
		b.say(b.mine(0, "", 0, 0))
		time.Sleep(time.Second)
		synctest.Wait()
		b.want("again", "hello n1 resource pg system 7 version 15 port 5432")
		v.mu.Lock()
		defer v.mu.Unlock()
		if !slices.Equal(slices.Compact(v.verdict), []string{"true "}) {
			t.Errorf("verdicts: got %q, want the same again and again", v.verdict)
		}
	})
}

// TestVerdictIsToldAgain: vrrpd that stood still may take an old one for the newest.
func TestVerdictIsToldAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, nil)
		defer b.stop()
		synctest.Wait()
		b.say(b.mine(0, "", 0, 0))
		time.Sleep(10 * time.Second)
		synctest.Wait()
		v := b.vrrpd
		v.mu.Lock()
		v.verdict = []string{"false an old one"}
		v.mu.Unlock()
		time.Sleep(core.TellEvery)
		synctest.Wait()
		v.mu.Lock()
		defer v.mu.Unlock()
		if want := []string{"false an old one", "true "}; !slices.Equal(v.verdict, want) {
			t.Errorf("got %q, want %q", v.verdict, want)
		}
	})
}

// TestVrrpdHearsOfTheAgent: each half second, whatever its server does, and with no other agent to talk to.
func TestVrrpdHearsOfTheAgent(t *testing.T) {
	for _, nodes := range [][]string{{"n1"}, {"n1", "n2"}} {
		synctest.Test(t, func(t *testing.T) {
			busy := make(chan struct{})
			b := newBench(t, func(b *bench) {
				b.vrrpd.nodes = nodes
				b.server.block = map[core.Kind]chan struct{}{core.Hold: busy}
			})
			defer b.stop()
			defer close(busy)
			synctest.Wait()
			b.say(control.Resource{Name: "pg", SystemID: 7, Epoch: 2, Phase: "electing", Rule: control.Rule{Holder: "n1", Version: 1}})
			synctest.Wait()
			heard := func() int {
				b.vrrpd.mu.Lock()
				defer b.vrrpd.mu.Unlock()
				return len(b.vrrpd.verdict) + b.vrrpd.words
			}
			for range 5 {
				before := heard()
				time.Sleep(time.Second)
				synctest.Wait()
				if n := heard() - before; n < 2 {
					t.Errorf("nodes %v: vrrpd heard %d words in a second", nodes, n)
				}
			}
		})
	}
}

// TestOtherServer: the hello follows the server.
func TestOtherServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, func(b *bench) { b.server.s = core.Server{NoData: true} })
		defer b.stop()
		synctest.Wait()
		b.say(b.mine(0, "", 0, 0))
		synctest.Wait()
		b.server.set(func(s *core.Server) {
			*s = core.Server{Running: true, Answering: true, InRecovery: true, SystemID: 9, Pos: core.Position{TLI: 1, LSN: 5}}
		})
		time.Sleep(200 * time.Millisecond)
		synctest.Wait()
		b.want("copied", `keep nodes {"self":"n1","nodes":{"n1":["10.78.0.1"],"n2":["10.78.0.2"],"n3":["10.78.0.3"]}}`,
			"hello n1 resource pg system 0 version 15 port 5432", "hello n1 resource pg system 9 version 15 port 5432")
	})
}

// TestNodesChange: with other data nodes everything begins anew from what is on disk.
func TestNodesChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, func(b *bench) { b.vrrpd.nodes = []string{"n1", "n2"} })
		defer b.stop()
		synctest.Wait()
		b.say(b.mine(0, "", 0, 0))
		synctest.Wait()
		b.take()
		b.vrrpd.mu.Lock()
		b.vrrpd.nodes = []string{"n1", "n2", "n3"}
		b.vrrpd.mu.Unlock()
		time.Sleep(nodesEvery + 100*time.Millisecond)
		synctest.Wait()
		b.want("a third", `keep nodes {"self":"n1","nodes":{"n1":["10.78.0.1"],"n2":["10.78.0.2"],"n3":["10.78.0.3"]}}`, "hello n1 resource pg system 7 version 15 port 5432")
		s, err := b.Status(t.Context())
		if err != nil || len(s.Nodes) != 3 {
			t.Errorf("got %+v, %v, want three nodes", s.Nodes, err)
		}
	})
}

// TestOperatorHasTheServer: neither other data nodes nor a restart of the agent end maintenance; a restart alone ends a stop.
func TestOperatorHasTheServer(t *testing.T) {
	standby := core.Server{Running: true, Answering: true, InRecovery: true, SystemID: 7, Pos: core.Position{TLI: 1, LSN: 1000}}
	down := func(s *core.Server) { s.Running, s.Answering = false, false }
	other := func(b *bench) control.Resource {
		r := b.mine(3, "active", 1, time.Hour)
		r.Holder, r.Mine, r.Live, r.Rule.Holder = "n2", false, false, "n2"
		return r
	}
	started := func(b *bench) bool {
		b.say(other(b))
		time.Sleep(time.Second)
		synctest.Wait()
		return slices.Contains(b.take(), "begin start")
	}
	for _, stop := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			b := newBench(t, func(b *bench) { b.server.s, b.vrrpd.nodes = standby, []string{"n1", "n2"} })
			synctest.Wait()
			b.say(other(b))
			time.Sleep(time.Second)
			var err error
			if stop {
				_, err = b.Stop(t.Context())
			} else {
				_, err = b.Maintenance(t.Context(), true)
				b.server.set(down)
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := b.keeper.kept(maintenanceName) == `{"on":true}`; got == stop {
				t.Errorf("got it on disk: %v", got)
			}
			b.take()
			b.vrrpd.mu.Lock()
			b.vrrpd.nodes = []string{"n1", "n2", "n3"}
			b.vrrpd.mu.Unlock()
			time.Sleep(nodesEvery + 100*time.Millisecond)
			synctest.Wait()
			if started(b) {
				t.Error("it was started because the data nodes are others")
			}
			b.stop()
			disk := b.keeper.files
			b = newBench(t, func(b *bench) { b.keeper.files, b.server.s = disk, standby; down(&b.server.s) })
			defer b.stop()
			synctest.Wait()
			if got := started(b); got != stop {
				t.Errorf("after a restart of the agent: got it started %v, want %v", got, stop)
			}
			if _, err := b.Start(t.Context()); err != nil {
				t.Fatal(err)
			}
			if got := b.keeper.kept(maintenanceName); !stop && got != `{"on":false}` {
				t.Errorf("after start: got %q on disk", got)
			}
		})
	}
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, func(b *bench) { b.server.s = standby })
		defer b.stop()
		synctest.Wait()
		b.keeper.mu.Lock()
		b.keeper.fail = errors.New("disk full")
		b.keeper.mu.Unlock()
		if _, err := b.Maintenance(t.Context(), true); err == nil || b.core.Away().On {
			t.Errorf("got %v, in maintenance %v: a word that could be lost was given", err, b.core.Away().On)
		}
	})
}

// TestStopOfWhatIsNotInitialized: the agent leaves that server alone, and says so; the order is not carried out later.
func TestStopOfWhatIsNotInitialized(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, nil)
		defer b.stop()
		synctest.Wait()
		b.say(b.mine(0, "", 0, 0))
		synctest.Wait()
		began := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if _, err := b.Stop(ctx); err == nil || !strings.Contains(err.Error(), "not initialized") || time.Since(began) < initPatience || time.Since(began) > 2*initPatience {
			t.Errorf("got %v after %v, want it refused once vrrpd has had its time", err, time.Since(began))
		}
		if b.core.Away().On {
			t.Error("the server would be stopped after an init")
		}
	})
	// A vrrpd that has just started knows nothing of the log.
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, nil)
		defer b.stop()
		b.say(b.mine(0, "", 0, 0))
		synctest.Wait()
		got := make(chan error, 1)
		go func() { _, err := b.Stop(t.Context()); got <- err }()
		time.Sleep(time.Second)
		b.server.set(func(s *core.Server) { s.InRecovery, s.Upstream = true, "n2" })
		r := b.mine(3, "active", 1, time.Hour)
		r.Holder, r.Mine, r.Live, r.Rule.Holder = "n2", false, false, "n2"
		b.say(r)
		if err := <-got; err != nil {
			t.Errorf("got %v", err)
		}
	})
	// Nor one that came before vrrpd's word.
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, nil)
		defer b.stop()
		got := make(chan error, 1)
		go func() { _, err := b.Stop(t.Context()); got <- err }()
		synctest.Wait()
		if !b.core.Away().Shut {
			t.Error("got the order lost")
		}
		b.say(b.mine(0, "", 0, 0))
		if err := <-got; err == nil || b.core.Away().On {
			t.Errorf("got %v, a wish to have it stopped %v", err, b.core.Away().On)
		}
	})
}

// TestNodesAreKeptOnceTheDiskTakesThem: they are in force at once, and tried again until they are on disk.
func TestNodesAreKeptOnceTheDiskTakesThem(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, func(b *bench) { b.vrrpd.nodes = []string{"n1", "n2"} })
		defer b.stop()
		fail := func(err error) {
			b.keeper.mu.Lock()
			defer b.keeper.mu.Unlock()
			b.keeper.fail = err
		}
		synctest.Wait()
		b.say(b.mine(0, "", 0, 0))
		synctest.Wait()
		b.take()
		fail(errors.New("disk full"))
		b.vrrpd.mu.Lock()
		b.vrrpd.nodes = []string{"n1", "n2", "n3"}
		b.vrrpd.mu.Unlock()
		time.Sleep(nodesEvery)
		synctest.Wait()
		if s, err := b.Status(t.Context()); err != nil || len(s.Nodes) != 3 {
			t.Errorf("got %+v, %v, want three nodes", s.Nodes, err)
		}
		if got := b.keeper.kept(familyName); strings.Contains(got, "n3") {
			t.Errorf("got %s on a full disk", got)
		}
		fail(nil)
		b.take()
		time.Sleep(3 * nodesEvery)
		synctest.Wait()
		b.want("room again", `keep nodes {"self":"n1","nodes":{"n1":["10.78.0.1"],"n2":["10.78.0.2"],"n3":["10.78.0.3"]}}`)
	})
}

// TestWithoutVrrpd: a primary whose vrrpd never says a word is put on hold.
func TestWithoutVrrpd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, func(b *bench) {
			b.vrrpd.down = true
			b.keeper.files[marksName] = `{"promise":3}`
			b.keeper.files[familyName] = `{"self":"n1","nodes":{"n1":["10.78.0.1"],"n2":["10.78.0.2"]}}`
		})
		defer b.stop()
		time.Sleep(2 * time.Second)
		synctest.Wait()
		b.want("alone", "begin hold", "end hold")
	})
}

// TestNoHold: a primary that can't be put on hold is stopped, unless nothing was ever promised here or it is a standby.
func TestNoHold(t *testing.T) {
	for name, tt := range map[string]struct {
		promise string
		standby bool
		want    []string
	}{
		"promised":       {`{"promise":3}`, false, []string{"begin hold", "failed hold", "begin stop", "end stop"}},
		"never promised": {`{"promise":0}`, false, []string{"begin hold", "failed hold"}},
		"standby":        {`{"promise":3}`, true, []string{"begin hold", "failed hold"}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t, func(b *bench) {
					b.keeper.files[marksName] = tt.promise
					b.server.s.InRecovery = tt.standby
					b.server.fail = map[core.Kind]error{core.Hold: errors.New("no session")}
				})
				defer b.stop()
				synctest.Wait()
				b.take()
				if d := b.carryOut(t.Context(), core.Action{ID: 9, Kind: core.Hold}); d.Err == nil || d.ID != 9 || d.Server == nil {
					t.Errorf("got %+v, want a failure and a look", d)
				}
				b.want("hold", tt.want...)
			})
		})
	}
}

// TestMessages: a standby's leave reaches the machine, and the answer whoever waits for it.
func TestMessages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, nil)
		defer b.stop()
		synctest.Wait()
		b.take()
		left := make(chan error, 1)
		go func() {
			left <- b.leave(t.Context(), core.Action{Kind: core.Leave, Node: "n2", On: true, Text: "why"})
		}()
		synctest.Wait()
		b.want("leave", `tell n2 {"kind":"leave","on":true,"why":"why"}`)
		b.vrrpd.events <- control.AgentEvent{Message: &control.AgentMessage{From: "n3", Text: `{"kind":"left"}`}}
		b.vrrpd.events <- control.AgentEvent{Message: &control.AgentMessage{From: "n2", Text: `nonsense`}}
		synctest.Wait()
		select {
		case err := <-left:
			t.Fatalf("somebody else's answer counted: %v", err)
		default:
		}
		b.vrrpd.events <- control.AgentEvent{Message: &control.AgentMessage{From: "n2", Text: `{"kind":"left"}`}}
		if err := <-left; err != nil {
			t.Error(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := b.leave(ctx, core.Action{Kind: core.Leave, Node: "n2", On: true}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("without an answer: got %v", err)
		}
		b.take()
		b.vrrpd.events <- control.AgentEvent{Message: &control.AgentMessage{From: "n2", Text: `{"kind":"ask","id":5,"what":"switchover","to":"n2"}`}}
		b.vrrpd.events <- control.AgentEvent{Message: &control.AgentMessage{From: "n2", Text: `{"kind":"state","state":{"node":"n9","role":"standby","timeline":1,"lsn":"0/10","port":6000,"promotable":true}}`}}
		synctest.Wait()
		b.want("ask", `tell n2 {"kind":"answer","id":5,"error":"no switchover: this node is not the active holder"}`)
		s, err := b.Status(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		k := slices.IndexFunc(s.Nodes, func(n NodeStatus) bool { return n.Node == "n2" })
		if n := s.Nodes[k]; !n.Heard || n.LSN != "0/10" || n.Promotable || !strings.Contains(n.WhyNot, "does not name it") {
			t.Errorf("n2: got %+v, want its own word, and that the rule does not name it", n)
		}
		if _, port := b.o.Family.at("n2"); port != 6000 {
			t.Errorf("port of n2: got %d, want 6000", port)
		}
	})
}

// TestAwaitWord: a look at a node that is being promoted waits for its word, but not for long, and any other one for nothing.
func TestAwaitWord(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, nil)
		defer b.stop()
		synctest.Wait()
		state := func(role string) {
			b.vrrpd.events <- control.AgentEvent{Message: &control.AgentMessage{From: "n2", Text: `{"kind":"state","state":{"node":"n2","role":"` + role + `"}}`}}
		}
		phase := func(holder, phase string) {
			b.say(control.Resource{Name: "pg", SystemID: 7, Epoch: 2, Phase: phase, Holder: holder, Rule: control.Rule{Holder: "n2", Version: 1}})
			synctest.Wait()
		}
		for _, tt := range []struct {
			name, holder, phase string
			role                string // that n2 says before, "" nothing
			says                string // after 10 ms
			want                time.Duration
		}{
			{name: "nothing was ever heard of it", holder: "n2", phase: "granted"},
			{name: "it says nothing", holder: "n2", phase: "granted", role: "standby", want: wordTime},
			{name: "it is the primary", holder: "n2", phase: "granted", role: "standby", says: "primary", want: 10 * time.Millisecond},
			{name: "it was the primary already", holder: "n2", phase: "granted", role: "primary"},
			{name: "its epoch is active", holder: "n2", phase: "active", role: "standby"},
			{name: "another one holds", holder: "n3", phase: "granted", role: "standby"},
		} {
			if tt.role != "" {
				state(tt.role)
			}
			phase(tt.holder, tt.phase)
			if tt.says != "" {
				go func() {
					time.Sleep(10 * time.Millisecond)
					state(tt.says)
				}()
			}
			began := time.Now()
			b.awaitWord(t.Context(), "n2")
			if got := time.Since(began); got != tt.want {
				t.Errorf("%s: got %v, want %v", tt.name, got, tt.want)
			}
		}
	})
}

// TestAddressGoesAndReturns: a planned stop takes the address off once the clients have been told; if the stop fails it returns.
func TestAddressGoesAndReturns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, nil)
		defer b.stop()
		synctest.Wait()
		b.take()
		parks := func() []string {
			synctest.Wait()
			return slices.DeleteFunc(b.take(), func(l string) bool { return !strings.HasPrefix(l, "park") && !strings.HasSuffix(l, " stop") })
		}
		drop := func() {
			t.Helper()
			if d := b.carryOut(t.Context(), core.Action{ID: 99, Kind: core.DropVIP, Epoch: 3}); d.Err != nil || d.ID != 99 || d.Server == nil {
				t.Errorf("got %+v", d)
			}
		}
		drop()
		b.carryOut(t.Context(), core.Action{ID: 100, Kind: core.Nudge})
		b.carryOut(t.Context(), core.Action{ID: 101, Kind: core.Stop})
		if got, want := parks(), []string{"begin stop", "end stop"}; !slices.Equal(got, want) {
			t.Errorf("a stop that the order was not for: got %q, want %q", got, want)
		}
		drop()
		b.carryOut(t.Context(), core.Action{ID: 102, Kind: core.Stop, Fast: true})
		if got, want := parks(), []string{"begin stop", "end stop", "park 3 true"}; !slices.Equal(got, want) {
			t.Errorf("a quick stop: got %q, want %q", got, want)
		}
		gate := make(chan struct{})
		b.server.block = map[core.Kind]chan struct{}{core.Stop: gate}
		b.server.fail = map[core.Kind]error{core.Stop: errors.New("it does not stop")}
		b.server.set(func(s *core.Server) { s.Running = true })
		b.say(b.mine(3, "active", 5, time.Minute))
		synctest.Wait()
		b.take()
		drop()
		ended := make(chan core.Done, 1)
		go func() { ended <- b.carryOut(t.Context(), core.Action{ID: 103, Kind: core.Stop, Fast: true}) }()
		time.Sleep(farewell - time.Millisecond)
		if got, want := parks(), []string{"begin stop"}; !slices.Equal(got, want) {
			t.Errorf("while the clients are told: got %q, want %q", got, want)
		}
		time.Sleep(2 * time.Millisecond)
		if got, want := parks(), []string{"park 3 true"}; !slices.Equal(got, want) {
			t.Errorf("after that: got %q, want %q", got, want)
		}
		close(gate)
		if d := <-ended; d.Err == nil {
			t.Error("a stop that failed: want an error")
		}
		parks()
		b.vrrpd.unparks.Store(1)
		for _, want := range [][]string{{"park 3 false"}, {"park 3 false"}, nil} { // once more when vrrpd did not take it
			time.Sleep(parkedTime + 2*core.TellEvery)
			if got := parks(); !slices.Equal(got, want) {
				t.Errorf("after a stop that failed: got %q, want %q", got, want)
			}
		}
	})
}

func TestQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &trace{}
		f := &fakeServer{trace: r, now: func() time.Duration { return 0 }, block: map[core.Kind]chan struct{}{
			core.WriteSSN: make(chan struct{}), core.Clone: make(chan struct{}), core.Fence: make(chan struct{}), core.Follow: make(chan struct{}),
		}}
		q := newQueue(func(ctx context.Context, a core.Action) core.Done {
			_, err := f.Do(ctx, a)
			return core.Done{ID: a.ID, Err: err}
		}, func(d core.Done) {
			whole := ""
			if d.Result.Whole {
				whole = ", nothing has changed"
			}
			r.add("done %d %v%s", d.ID, d.Err, whole)
		})
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go func() { _ = q.run(ctx) }() // it returns nil
		want := func(what string, lines ...string) {
			t.Helper()
			synctest.Wait()
			if d := cmp.Diff(lines, r.take()); d != "" {
				t.Errorf("%s: -want +got\n%s", what, d)
			}
		}
		q.push(core.Action{ID: 1, Kind: core.Fence})
		q.push(core.Action{ID: 2, Kind: core.Nudge})
		want("one after the other", "begin fence")
		q.push(core.Action{ID: 3, Kind: core.Hold})
		want("a hold does not break off a fence", []string(nil)...)
		close(f.block[core.Fence])
		want("a looser setting is dropped for the hold", "end fence", "done 1 <nil>", "done 2 "+errHeld.Error(), "begin hold", "end hold", "done 3 <nil>")
		q.push(core.Action{ID: 4, Kind: core.WriteSSN})
		want("a write", "begin write SSN")
		q.push(core.Action{ID: 5, Kind: core.Hold})
		want("is broken off by a hold", "broken off write SSN", "done 4 context canceled", "begin hold", "end hold", "done 5 <nil>")
		q.push(core.Action{ID: 6, Kind: core.Clone})
		want("a copy", "begin clone")
		q.stop(5)
		want("is not meant by another id", []string(nil)...)
		q.stop(6)
		want("is stopped", "broken off clone", "done 6 context canceled")
		q.push(core.Action{ID: 7, Kind: core.Follow, Epoch: 3})
		want("following", "begin follow")
		q.overtake(3)
		want("in this epoch", []string(nil)...)
		q.overtake(4)
		want("ends with the next", "broken off follow", "done 7 context canceled")
		q.push(core.Action{ID: 8, Kind: core.Follow, Epoch: 4})
		q.push(core.Action{ID: 9, Kind: core.Clone})
		q.stop(9)
		want("a copy that waits for its turn is stopped", "begin follow")
		close(f.block[core.Follow])
		want("and does not begin", "end follow", "done 8 <nil>", "done 9 "+errOver.Error()+", nothing has changed")
		q.push(core.Action{Kind: core.Stop})
		want("what has no id is not meant", "begin stop", "end stop", "done 0 <nil>")
		if q.now().ID != 0 {
			t.Errorf("at work: got %+v, want nothing", q.now())
		}
	})
}

func TestMarks(t *testing.T) {
	k := &fakeKeeper{trace: &trace{}, files: map[string]string{}}
	m, first, err := openMarks(k)
	if err != nil || first != (core.Marks{}) {
		t.Fatalf("got %+v, %v, want none", first, err)
	}
	for _, a := range []core.Action{
		{Kind: core.PersistPromise, Epoch: 4}, {Kind: core.PersistAttempt, Epoch: 4}, {Kind: core.PersistMarker, Marker: core.Rewinding},
		{Kind: core.PersistMark, Pos: core.Position{TLI: 2, LSN: 77}},
	} {
		if err := m.persist(a); err != nil {
			t.Fatal(err)
		}
	}
	want := core.Marks{Promise: 4, Attempted: 4, Marker: core.Rewinding, Mark: core.Position{TLI: 2, LSN: 77}}
	if _, got, err := openMarks(k); err != nil || got != want {
		t.Errorf("got %+v, %v, want %+v", got, err, want)
	}
	if err := m.persist(core.Action{Kind: core.PersistPromise, Epoch: 3}); err == nil {
		t.Error("a promise went back")
	}
	if err := m.persist(core.Action{Kind: core.Hold}); err == nil {
		t.Error("a hold was taken for a mark")
	}
	if err := m.persist(core.Action{Kind: core.PersistMarker, Pos: core.Position{TLI: 1, LSN: 5}}); err != nil {
		t.Fatal(err)
	}
	want.Marker, want.Mark = core.NoMarker, core.Position{TLI: 1, LSN: 5}
	if _, got, err := openMarks(k); err != nil || got != want {
		t.Errorf("got %+v, %v, want %+v", got, err, want)
	}
	k.fail = errors.New("disk full")
	if err := m.persist(core.Action{Kind: core.PersistPromise, Epoch: 9}); err == nil || m.now.Promise != 4 {
		t.Errorf("got %v, promise %d, want a failure and 4", err, m.now.Promise)
	}
	k.files[marksName] = "{"
	if _, _, err := openMarks(k); err == nil {
		t.Error("unreadable marks were taken")
	}
}

func TestFamily(t *testing.T) {
	f := NewFamily(5432)
	k := nodesOf(&control.Quorum{Node: "n1", Voters: []control.Voter{
		{Node: "n1", Addresses: []string{"10.78.0.1", "10.77.0.1"}}, {Node: "n2", Addresses: []string{"10.78.0.2", "10.77.0.2"}},
		{Node: "w1", Witness: true, Addresses: []string{"10.78.0.9"}}, {Node: "w1", Witness: true},
	}})
	if got := slices.Sorted(maps.Keys(k.Nodes)); !slices.Equal(got, []string{"n1", "n2"}) || !slices.Equal(k.peers(), []string{"n2"}) {
		t.Errorf("got %v, peers %v", got, k.peers())
	}
	f.set(k)
	f.answered("n2", k.Nodes["n2"][1])
	f.tell("n2", 6000)
	if addrs, port := f.at("n2"); port != 6000 || addrs[0].String() != "10.77.0.2" || addrs[1].String() != "10.78.0.2" {
		t.Errorf("n2 is at %v port %d", addrs, port)
	}
	if addrs, port := f.at("n1"); port != 5432 || len(addrs) != 2 {
		t.Errorf("n1 is at %v port %d", addrs, port)
	}
	for host, want := range map[string]string{"10.77.0.2": "n2", "10.78.0.1": "n1", "10.78.0.9": "10.78.0.9", "db": "db", "::ffff:10.77.0.2": "n2"} {
		if got := f.node(host); got != want {
			t.Errorf("%s: got %s, want %s", host, got, want)
		}
	}
}

// TestDiskThatTakesNoWrites: a holder whose disk stands still gives its epoch back, if somebody else has everything.
func TestDiskThatTakesNoWrites(t *testing.T) {
	gives := func(t *testing.T, fails int, spares ...string) (given bool) {
		t.Helper()
		synctest.Test(t, func(t *testing.T) {
			b := newBench(t, func(b *bench) {
				for _, n := range spares {
					b.server.s.Standbys = append(b.server.s.Standbys, core.Standby{Name: n, Streaming: true, Sent: 1000, Flush: 1000})
				}
			})
			defer b.stop()
			synctest.Wait()
			b.say(b.mine(3, "active", 1, time.Hour, spares...))
			b.pass(time.Second, spares...)
			b.server.mu.Lock()
			b.server.disk = errors.New("no answer")
			b.server.mu.Unlock()
			b.pass(time.Duration(fails)*diskEvery, spares...)
			b.server.mu.Lock()
			b.server.disk = nil
			b.server.mu.Unlock()
			b.pass(10*diskEvery, spares...)
			given = slices.ContainsFunc(b.take(), func(l string) bool {
				return strings.HasPrefix(l, "give back 3") && strings.Contains(l, "takes no writes")
			})
		})
		return given
	}
	if gives(t, diskFails-1, "n2") {
		t.Error("given back after a pause")
	}
	if !gives(t, diskFails+1, "n2") {
		t.Error("not given back")
	}
	if gives(t, 10*diskFails) {
		t.Error("given back, and nobody else has everything")
	}
}

// TestDeadDiskIsRememberedWhenTheNodesChange: the machine that begins anew knows it, and knows when it is over.
func TestDeadDiskIsRememberedWhenTheNodesChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, nil)
		defer b.stop()
		disk := func(err error) {
			b.server.mu.Lock()
			defer b.server.mu.Unlock()
			b.server.disk = err
		}
		want := func(what, want string) {
			t.Helper()
			time.Sleep(5 * diskEvery)
			synctest.Wait()
			b.vrrpd.mu.Lock()
			defer b.vrrpd.mu.Unlock()
			if v := b.vrrpd.verdict; v[len(v)-1] != want {
				t.Errorf("%s: got %q, want %q", what, v, want)
			}
		}
		const dead = "false the disk of the WAL on n1 takes no writes: no answer"
		synctest.Wait()
		b.say(b.mine(3, "active", 1, time.Hour, "n2"))
		time.Sleep(time.Second)
		disk(errors.New("no answer"))
		want("dead", dead)
		b.vrrpd.mu.Lock()
		b.vrrpd.nodes = []string{"n1", "n2"}
		b.vrrpd.mu.Unlock()
		time.Sleep(2 * nodesEvery)
		b.say(control.Resource{Name: "pg", SystemID: 7, Epoch: 4, Phase: "electing", Rule: control.Rule{Holder: "n1", S: []string{"n2"}, Version: 1}})
		want("dead, and the nodes are others", dead)
		disk(nil)
		want("it takes writes again", "true ")
	})
}

// TestServerThatCannotBeLookedAt: a holder whose files can't be read gives its epoch back; that this process was stopped is no reason.
func TestServerThatCannotBeLookedAt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, nil)
		defer b.stop()
		synctest.Wait()
		b.say(b.mine(3, "active", 1, time.Hour))
		time.Sleep(time.Second)
		synctest.Wait()
		b.take()
		b.server.mu.Lock()
		b.server.blind = true
		b.server.mu.Unlock()
		time.Sleep(unseenTime)
		synctest.Wait()
		if got := b.take(); slices.ContainsFunc(got, func(l string) bool { return strings.HasPrefix(l, "give back") }) {
			t.Errorf("too early: %q", got)
		}
		time.Sleep(unseenTime)
		synctest.Wait()
		if got := b.take(); !slices.ContainsFunc(got, func(l string) bool {
			return strings.HasPrefix(l, "give back 3") && strings.Contains(l, "could not be looked at")
		}) {
			t.Errorf("got %q, want the epoch given back", got)
		}
	})
}
