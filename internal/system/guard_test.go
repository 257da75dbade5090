package system

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"
)

// fakeGuardKernel is a kernel on a clock of its own.
type fakeGuardKernel struct {
	now      time.Duration
	before   []time.Duration // how long the next changes take before the kernel carries them out
	fail     []error         // what the next changes fail with; nil: they work
	gone     bool            // another program has removed the tables
	builds   int
	guarded  map[netip.Addr]bool
	until    map[netip.Addr]time.Duration // of what was opened
	removed  bool
	closed   bool
	failWith error // for build and remove
}

func (k *fakeGuardKernel) build(l guardLayout) error {
	if k.failWith != nil {
		return k.failWith
	}
	k.builds++
	k.gone, k.guarded, k.until = false, map[netip.Addr]bool{}, map[netip.Addr]time.Duration{}
	for _, a := range l.addresses {
		k.guarded[a] = true
	}
	return nil
}

func pop[T any](list *[]T) (v T) {
	if len(*list) > 0 {
		v, *list = (*list)[0], (*list)[1:]
	}
	return v
}

func (k *fakeGuardKernel) change(c guardChange) error {
	k.now += pop(&k.before)
	if err := pop(&k.fail); err != nil {
		return err
	}
	if k.gone {
		return &ackError{errno: unix.ENOENT}
	}
	guarded, until := maps.Clone(k.guarded), maps.Clone(k.until)
	for _, a := range c.guard {
		guarded[a] = true
	}
	for _, a := range c.shut {
		delete(until, a)
	}
	for _, a := range c.renew {
		if until[a] <= k.now {
			return &ackError{errno: unix.ENOENT}
		}
		delete(until, a)
	}
	for _, a := range c.open {
		if until[a] > k.now {
			return &ackError{errno: unix.EEXIST}
		}
		until[a] = k.now + c.timeout
	}
	for _, a := range c.unguard {
		if !guarded[a] {
			return &ackError{errno: unix.ENOENT}
		}
		delete(guarded, a)
	}
	k.guarded, k.until = guarded, until
	return nil
}

func (k *fakeGuardKernel) remove() error { k.removed = true; return k.failWith }
func (k *fakeGuardKernel) close() error  { k.closed = true; return nil }

// String is the state, a line each: what is guarded, and for how many more milliseconds it is open.
func (k *fakeGuardKernel) String() string {
	if k.gone {
		return "gone\n"
	}
	var b strings.Builder
	for _, a := range slices.SortedFunc(maps.Keys(k.guarded), netip.Addr.Compare) {
		if until := k.until[a]; until > k.now {
			fmt.Fprintf(&b, "%s %d\n", a, (until-k.now)/time.Millisecond)
		} else {
			fmt.Fprintf(&b, "%s shut\n", a)
		}
	}
	return b.String()
}

func addresses(list ...string) (a []netip.Addr) {
	for _, s := range list {
		a = append(a, netip.MustParseAddr(s))
	}
	return a
}

const ms = time.Millisecond

func TestGuard(t *testing.T) {
	const vip, vip6, other = "192.0.2.100", "2001:db8::100", "192.0.2.200"
	refused := &ackError{errno: unix.EPERM}
	type step struct {
		do      func(g *Guard, k *fakeGuardKernel) error
		want    string // the kernel's state
		wantErr error
	}
	open := func(until time.Duration, list ...string) func(*Guard, *fakeGuardKernel) error {
		return func(g *Guard, _ *fakeGuardKernel) error { return g.Open(addresses(list...), until) }
	}
	refresh := func(until time.Duration, list ...string) func(*Guard, *fakeGuardKernel) error {
		return func(g *Guard, _ *fakeGuardKernel) error { return g.Refresh(addresses(list...), until) }
	}
	shut := func(list ...string) func(*Guard, *fakeGuardKernel) error {
		return func(g *Guard, _ *fakeGuardKernel) error { return g.Shut(addresses(list...)) }
	}
	pass := func(d time.Duration) func(*Guard, *fakeGuardKernel) error {
		return func(_ *Guard, k *fakeGuardKernel) error { k.now += d; return nil }
	}
	flush := func(_ *Guard, k *fakeGuardKernel) error { k.gone = true; return nil }
	check := func(g *Guard, _ *fakeGuardKernel) error { return g.Check() }
	// during makes the next changes slow, each before the kernel carries it out.
	during := func(act func(*Guard, *fakeGuardKernel) error, delays ...time.Duration) func(*Guard, *fakeGuardKernel) error {
		return func(g *Guard, k *fakeGuardKernel) error { k.before = delays; return act(g, k) }
	}
	failing := func(act func(*Guard, *fakeGuardKernel) error, errs ...error) func(*Guard, *fakeGuardKernel) error {
		return func(g *Guard, k *fakeGuardKernel) error { k.fail = errs; return act(g, k) }
	}
	const allShut = vip + " shut\n" + other + " shut\n" + vip6 + " shut\n"

	tests := []struct {
		name  string
		steps []step
	}{
		{"shut at first", []step{{pass(0), allShut, nil}}},
		{"open, refreshed, lapsed, open again", []step{
			{open(400*ms, vip, vip6), "192.0.2.100 400\n192.0.2.200 shut\n2001:db8::100 400\n", nil},
			{pass(100 * ms), "192.0.2.100 300\n192.0.2.200 shut\n2001:db8::100 300\n", nil},
			{refresh(500*ms, vip, vip6), "192.0.2.100 400\n192.0.2.200 shut\n2001:db8::100 400\n", nil},
			{pass(400 * ms), allShut, nil},
			{refresh(900*ms, vip, vip6), allShut, ErrLapsed},
			{refresh(900*ms, vip, vip6), allShut, ErrLapsed},
			{open(900*ms, vip), "192.0.2.100 400\n192.0.2.200 shut\n2001:db8::100 shut\n", nil},
		}},
		{"the time is rounded down", []step{
			{open(400*ms-1, vip), "192.0.2.100 399\n192.0.2.200 shut\n2001:db8::100 shut\n", nil},
		}},
		{"an address once each and as it is in packets", []step{
			{open(400*ms, vip, "::ffff:192.0.2.100", vip), "192.0.2.100 400\n192.0.2.200 shut\n2001:db8::100 shut\n", nil},
			{refresh(500*ms, vip, vip), "192.0.2.100 500\n192.0.2.200 shut\n2001:db8::100 shut\n", nil},
		}},
		{"one that is shut spoils a refresh of many", []step{
			{open(400*ms, vip), "192.0.2.100 400\n192.0.2.200 shut\n2001:db8::100 shut\n", nil},
			{refresh(500*ms, vip, other), allShut, ErrLapsed},
		}},
		{"never opened, never refreshed", []step{{refresh(500*ms, vip), allShut, ErrLapsed}}},
		{"opened while open", []step{
			{open(400*ms, vip), "192.0.2.100 400\n192.0.2.200 shut\n2001:db8::100 shut\n", nil},
			{open(300*ms, vip), "192.0.2.100 300\n192.0.2.200 shut\n2001:db8::100 shut\n", nil},
		}},
		{"no address", []step{{open(400 * ms), allShut, nil}, {refresh(400 * ms), allShut, nil}, {shut(), allShut, nil}}},
		{"a deadline in the past shuts", []step{
			{pass(400 * ms), allShut, nil},
			{open(800*ms, vip), "192.0.2.100 400\n192.0.2.200 shut\n2001:db8::100 shut\n", nil},
			{refresh(399*ms, vip), allShut, ErrLapsed},
			{open(400*ms, vip), allShut, ErrLapsed},
		}},
		{"a deadline within a tick is over", []step{
			{open(400*ms, vip), "192.0.2.100 400\n192.0.2.200 shut\n2001:db8::100 shut\n", nil},
			{refresh(10*ms-1, vip), allShut, ErrLapsed},
			{open(10*ms, vip), "192.0.2.100 10\n192.0.2.200 shut\n2001:db8::100 shut\n", nil},
		}},
		{"shut twice", []step{
			{open(400*ms, vip, other), "192.0.2.100 400\n192.0.2.200 400\n2001:db8::100 shut\n", nil},
			{shut(vip), "192.0.2.100 shut\n192.0.2.200 400\n2001:db8::100 shut\n", nil},
			{shut(vip), "192.0.2.100 shut\n192.0.2.200 400\n2001:db8::100 shut\n", nil},
			{refresh(400*ms, vip), "192.0.2.100 shut\n192.0.2.200 400\n2001:db8::100 shut\n", ErrLapsed},
		}},

		{"a slow call is made again, to the same deadline", []step{
			{during(open(400*ms, vip), 11*ms), "192.0.2.100 389\n192.0.2.200 shut\n2001:db8::100 shut\n", nil},
			{during(refresh(400*ms, vip), 100*ms, 50*ms), "192.0.2.100 239\n192.0.2.200 shut\n2001:db8::100 shut\n", nil},
		}},
		{"10 ms are not slow", []step{
			{during(open(400*ms, vip), 10*ms), "192.0.2.100 400\n192.0.2.200 shut\n2001:db8::100 shut\n", nil},
		}},
		{"slow three times", []step{
			{during(open(400*ms, vip), 11*ms, 12*ms, 13*ms), allShut, errGuardSlow},
			{refresh(800*ms, vip), allShut, ErrLapsed},
		}},
		{"asleep past the deadline", []step{
			{open(400*ms, vip), "192.0.2.100 400\n192.0.2.200 shut\n2001:db8::100 shut\n", nil},
			{pass(300 * ms), "192.0.2.100 100\n192.0.2.200 shut\n2001:db8::100 shut\n", nil},
			// The kernel's element is gone when the call gets there.
			{during(refresh(700*ms, vip), time.Second), allShut, ErrLapsed},
			// Here it is opened, and shut when the process looks at its clock.
			{during(open(1700*ms, vip), time.Second), allShut, ErrLapsed},
		}},

		{"refused by the kernel", []step{
			{open(400*ms, vip), "192.0.2.100 400\n192.0.2.200 shut\n2001:db8::100 shut\n", nil},
			{failing(refresh(500*ms, vip), refused), allShut, refused},
			{failing(open(500*ms, vip), refused), allShut, refused},
			{open(400*ms, vip), "192.0.2.100 400\n192.0.2.200 shut\n2001:db8::100 shut\n", nil},
			{failing(shut(vip), refused), "192.0.2.100 400\n192.0.2.200 shut\n2001:db8::100 shut\n", refused},
		}},

		{"a firewall's reload while open", []step{
			{open(400*ms, vip), "192.0.2.100 400\n192.0.2.200 shut\n2001:db8::100 shut\n", nil},
			{open(500*ms, other), "192.0.2.100 400\n192.0.2.200 500\n2001:db8::100 shut\n", nil},
			{flush, "gone\n", nil},
			{refresh(450*ms, vip), "192.0.2.100 450\n192.0.2.200 shut\n2001:db8::100 shut\n", nil},
			{refresh(550*ms, other), "192.0.2.100 450\n192.0.2.200 550\n2001:db8::100 shut\n", nil},
			{pass(600 * ms), allShut, nil},
			{refresh(1000*ms, vip), allShut, ErrLapsed},
		}},
		{"a firewall's reload, and a lease that lapsed", []step{
			{open(400*ms, vip), "192.0.2.100 400\n192.0.2.200 shut\n2001:db8::100 shut\n", nil},
			{open(500*ms, other), "192.0.2.100 400\n192.0.2.200 500\n2001:db8::100 shut\n", nil},
			{flush, "gone\n", nil},
			{pass(450 * ms), "gone\n", nil},
			{refresh(800*ms, vip), allShut, ErrLapsed},
			{refresh(800*ms, other), "192.0.2.100 shut\n192.0.2.200 350\n2001:db8::100 shut\n", nil},
			{refresh(800*ms, vip), "192.0.2.100 shut\n192.0.2.200 350\n2001:db8::100 shut\n", ErrLapsed},
		}},
		{"a firewall's reload while shut", []step{
			{open(400*ms, other), "192.0.2.100 shut\n192.0.2.200 400\n2001:db8::100 shut\n", nil},
			{flush, "gone\n", nil},
			{check, allShut, nil},
			{check, allShut, nil},
			{refresh(400*ms, vip), allShut, ErrLapsed},
			{refresh(500*ms, other), "192.0.2.100 shut\n192.0.2.200 500\n2001:db8::100 shut\n", nil},
			{flush, "gone\n", nil},
			{refresh(400*ms, vip), allShut, ErrLapsed},
			{flush, "gone\n", nil},
			{shut(other), allShut, nil},
			{flush, "gone\n", nil},
			{refresh(500*ms, other), allShut, ErrLapsed},
			{flush, "gone\n", nil},
			{open(500*ms, other), "192.0.2.100 shut\n192.0.2.200 500\n2001:db8::100 shut\n", nil},
		}},

		{"configured anew", []step{
			{open(400*ms, vip, other), "192.0.2.100 400\n192.0.2.200 400\n2001:db8::100 shut\n", nil},
			{func(g *Guard, _ *fakeGuardKernel) error {
				return g.Configure(addresses(vip, "192.0.2.44", "192.0.2.44"))
			}, "192.0.2.44 shut\n192.0.2.100 400\n", nil},
			{func(g *Guard, _ *fakeGuardKernel) error { return g.Configure(addresses("192.0.2.44", vip)) }, "192.0.2.44 shut\n192.0.2.100 400\n", nil},
			{flush, "gone\n", nil},
			{func(g *Guard, _ *fakeGuardKernel) error { return g.Configure(addresses(vip)) }, "192.0.2.100 shut\n", nil},
			{refresh(500*ms, vip), "192.0.2.100 500\n", nil},
			{failing(func(g *Guard, _ *fakeGuardKernel) error { return g.Configure(nil) }, refused), "192.0.2.100 500\n", refused},
			{func(g *Guard, _ *fakeGuardKernel) error { return g.Configure(nil) }, "", nil},
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			k := &fakeGuardKernel{}
			g, err := newGuard(GuardOptions{Addresses: addresses(vip, vip6, other), Now: func() time.Duration { return k.now }}, k)
			if err != nil {
				t.Fatal(err)
			}
			for i, s := range tt.steps {
				if err := s.do(g, k); !errors.Is(err, s.wantErr) {
					t.Errorf("step %d: got error %v, want %v", i+1, err, s.wantErr)
				}
				if diff := cmp.Diff(k.String(), s.want); diff != "" {
					t.Fatalf("step %d: got - want +\n%s", i+1, diff)
				}
			}
		})
	}
}

func TestGuardErrors(t *testing.T) {
	k := &fakeGuardKernel{}
	var log bytes.Buffer
	options := GuardOptions{Addresses: addresses("192.0.2.100"), Now: func() time.Duration { return k.now }, Log: slog.New(slog.NewTextHandler(&log, nil))}
	g, err := newGuard(options, k)
	if err != nil {
		t.Fatal(err)
	}
	vip, stranger := addresses("192.0.2.100"), addresses("192.0.2.1")
	fault := fs.ErrInvalid
	tests := []struct {
		name string
		do   func() error
		want string
	}{
		{"open a stranger", func() error { return g.Open(stranger, time.Second) }, "open guarded addresses [192.0.2.1]: 192.0.2.1 is not guarded"},
		{"refresh a stranger", func() error { return g.Refresh(stranger, time.Second) }, "refresh guarded addresses [192.0.2.1]: 192.0.2.1 is not guarded"},
		{"shut a stranger", func() error { return g.Shut(stranger) }, "shut guarded addresses [192.0.2.1]: 192.0.2.1 is not guarded"},
		{"refresh what is shut", func() error { return g.Refresh(vip, time.Second) }, "refresh guarded addresses [192.0.2.100]: the lease has lapsed"},
		{"slow", func() error {
			k.before = []time.Duration{11 * ms, 11 * ms, 11 * ms}
			return g.Open(vip, time.Second)
		}, "open guarded addresses [192.0.2.100]: the kernel took longer than 10ms, 3 times"},
		{"neither open nor shut", func() error {
			k.fail = []error{fault, fault}
			return g.Open(vip, time.Second)
		}, "open guarded addresses [192.0.2.100]: invalid argument\nnot shut: invalid argument"},
		{"removed and not to be made again", func() error {
			k.gone, k.failWith = true, fault
			return g.Shut(vip)
		}, "shut guarded addresses [192.0.2.100]: not shut: make the removed guard again: invalid argument"},
		{"removed and not to be made again for a lease", func() error { return g.Open(vip, 2*time.Second) },
			"open guarded addresses [192.0.2.100]: not shut: make the removed guard again: invalid argument"},
		{"still removed at a check", g.Check, "check guard: make the removed guard again: invalid argument"},
		{"closed with a fault", g.Close, "remove guard: invalid argument"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := tt.do()
			if got := fmt.Sprint(err); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
	if !k.removed || !k.closed {
		t.Error("Close left the kernel's half")
	}
	if got := strings.Count(log.String(), "the guard was slow"); got != 3 {
		t.Errorf("got %d warnings of slowness, want 3:\n%s", got, log.String())
	}
	if _, err := newGuard(options, k); !errors.Is(err, fault) {
		t.Errorf("got %v from a kernel that cannot, want %v", err, fault)
	}
}

// Whatever is called, however slow, whoever removes the tables: nothing is open for longer than its last deadline and the 10 ms of a
// call that is not slow, and nothing that lapsed or was shut is open again without Open.
func TestGuardNeverOpenTooLong(t *testing.T) {
	all := addresses("192.0.2.100", "192.0.2.200", "2001:db8::100")
	rapid.Check(t, func(t *rapid.T) {
		k := &fakeGuardKernel{}
		g, err := newGuard(GuardOptions{Addresses: all, Now: func() time.Duration { return k.now }}, k)
		if err != nil {
			t.Fatal(err)
		}
		allowed := map[netip.Addr]time.Duration{} // how long we asked for
		delay := rapid.OneOf(rapid.Just(time.Duration(0)), rapid.Map(rapid.IntRange(0, 30), func(n int) time.Duration { return time.Duration(n) * ms }),
			rapid.Map(rapid.IntRange(0, 1000), func(n int) time.Duration { return time.Duration(n) * ms }))
		some := func() []netip.Addr { return rapid.SliceOfN(rapid.SampledFrom(all), 1, 3).Draw(t, "addresses") }
		deadline := func() time.Duration { return k.now + time.Duration(rapid.IntRange(-50, 400).Draw(t, "left"))*ms }
		pauses := func() { k.before = rapid.SliceOfN(delay, 0, 4).Draw(t, "pauses") }
		shut := func(list []netip.Addr) {
			for _, a := range list {
				allowed[a] = 0
			}
		}
		result := func(list []netip.Addr, d time.Duration, err error) {
			shut(list)
			if err == nil {
				for _, a := range list {
					allowed[a] = d
				}
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"open": func(*rapid.T) {
				list, d := some(), deadline()
				pauses()
				result(list, d, g.Open(list, d))
			},
			"refresh": func(t *rapid.T) {
				list, d := some(), deadline()
				lapsed := slices.ContainsFunc(list, func(a netip.Addr) bool { return allowed[a] <= k.now })
				pauses()
				err := g.Refresh(list, d)
				// A call that is not slow opens for its pause longer than it was asked to; so late a refresh may still be in time.
				late := slices.ContainsFunc(list, func(a netip.Addr) bool { return allowed[a] > k.now-guardSlow-ms })
				if lapsed && err == nil && !late {
					t.Fatalf("refreshed what had lapsed: %v", list)
				}
				result(list, d, err)
			},
			"shut": func(*rapid.T) {
				list := some()
				pauses()
				if g.Shut(list) == nil {
					shut(list)
				}
			},
			"flush": func(*rapid.T) { k.gone = true },
			"check": func(*rapid.T) { _ = g.Check() },
			"pass":  func(t *rapid.T) { k.now += delay.Draw(t, "time") },
			"": func(t *rapid.T) {
				for a, until := range k.until {
					if !k.gone && until > k.now && until > allowed[a]+guardSlow {
						t.Fatalf("%v is open until %s, %s too long", a, until, until-allowed[a])
					}
				}
			},
		})
	})
}

func TestGuardMissing(t *testing.T) {
	tests := []struct {
		err  error
		want bool
	}{
		{nil, false},
		{&ackError{errno: unix.ENOENT}, true},
		{&ackError{errno: unix.EINVAL}, true}, // no nf_tables
		{&ackError{errno: unix.EOPNOTSUPP}, true},
		{&ackError{errno: unix.EAFNOSUPPORT}, true},
		{&ackError{errno: unix.EPERM}, false},
	}
	for _, tt := range tests {
		if got := guardMissing(tt.err); got != tt.want {
			t.Errorf("%v: got %v, want %v", tt.err, got, tt.want)
		}
	}
}
