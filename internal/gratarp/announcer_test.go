package gratarp

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// wire is a Sender that writes down what it gets: one line for each address and time, with the number of packets.
type wire struct {
	start  time.Time
	mu     sync.Mutex
	lines  []string
	counts []int
	err    error
	onSend func()
}

func (w *wire) Send(frames []Frame) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.onSend != nil {
		w.onSend()
	}
	if w.err != nil {
		return 0, w.err
	}
	for _, f := range frames {
		var addr netip.Addr
		if f.Data[12] == 0x08 {
			addr, _ = netip.AddrFromSlice(f.Data[28:32])
		} else {
			addr, _ = netip.AddrFromSlice(f.Data[22:38])
		}
		line := fmt.Sprintf("%v %v on %d", time.Since(w.start), addr, f.Index)
		if n := len(w.lines); n > 0 && w.lines[n-1] == line {
			w.counts[n-1]++
			continue
		}
		w.lines, w.counts = append(w.lines, line), append(w.counts, 1)
	}
	return len(frames), nil
}

// take returns the lines so far and forgets them.
func (w *wire) take() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var b strings.Builder
	for i, l := range w.lines {
		fmt.Fprintf(&b, "%s x%d\n", l, w.counts[i])
	}
	w.lines, w.counts = nil, nil
	return b.String()
}

// lan is a running announcer on a fake LAN in virtual time.
type lan struct {
	*wire
	*Announcer
	mu    sync.Mutex
	links map[string]Link
	log   bytes.Buffer
}

func (l *lan) set(name string, link Link) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.links[name] = link
}

func newLAN(t *testing.T) *lan {
	t.Helper()
	l := &lan{wire: &wire{start: time.Now()}, links: map[string]Link{
		"eth0": {Index: 2, MAC: mac}, "eth1": {Index: 3, MAC: mac}, "tun0": {Index: 4, NoARP: true},
		"ib0": {Index: 5, MAC: make(net.HardwareAddr, 20)},
	}}
	l.Announcer = New(Options{
		Sender: l.wire, Log: slog.New(slog.NewTextHandler(&l.log, nil)),
		Links: func(name string) (Link, bool) {
			l.mu.Lock()
			defer l.mu.Unlock()
			link, ok := l.links[name]
			return link, ok
		},
	})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- l.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("got %v from Run, want none", err)
		}
	})
	return l
}

// Instance is one whose owner is trusted for long.
func (l *lan) Instance(name string, timing Timing) *Instance {
	return master(l.Announcer.Instance(name, timing))
}

func master(i *Instance) *Instance {
	trust(i, 1000*time.Hour)
	return i
}

// trust is a word of the owner's that is good from now on.
func trust(i *Instance, d time.Duration) { i.Trust(i.a.options.Now() + d) }

// after lets time pass and returns what was sent in it.
func (l *lan) after(d time.Duration) string {
	time.Sleep(d)
	synctest.Wait()
	return l.take()
}

func targets(list ...string) []Target {
	var out []Target
	for _, s := range list {
		addr, iface, _ := strings.Cut(s, "@")
		if iface == "" {
			iface = "eth0"
		}
		out = append(out, Target{netip.MustParseAddr(addr), iface})
	}
	return out
}

// keepalivedDefaults are what keepalived does without any garp_ keyword.
var keepalivedDefaults = Timing{
	MasterDelay: 5 * time.Second, MasterRepeat: 5, MasterRefreshRepeat: 1,
	LowerPrioDelay: 5 * time.Second, LowerPrioRepeat: 5,
}

func expect(t *testing.T, what, got string, want ...string) {
	t.Helper()
	joined := strings.Join(want, "\n")
	if joined != "" {
		joined += "\n"
	}
	if diff := cmp.Diff(got, joined); diff != "" {
		t.Errorf("%s: got - want +\n%s", what, diff)
	}
}

func TestDefaults(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLAN(t)
		i := l.Instance("VI_1", keepalivedDefaults)
		if err := i.Announce(targets("192.0.2.100", "2001:db8::64@eth1")); err != nil {
			t.Fatal(err)
		}
		expect(t, "at once", l.take(), "0s 192.0.2.100 on 2 x5", "0s 2001:db8::64 on 3 x5")
		expect(t, "before the delay", l.after(4999*time.Millisecond))
		expect(t, "second batch", l.after(time.Millisecond), "5s 192.0.2.100 on 2 x5", "5s 2001:db8::64 on 3 x5")
		expect(t, "later", l.after(time.Hour))
		if got, want := l.Stats(), (Stats{ARP: 10, NA: 10}); got != want {
			t.Errorf("got %+v, want %+v", got, want)
		}
	})
}

// TestOwnerThatIsNotHeard: what was planned does not leave when its owner has not said for long that it is master, as after a time in which the whole
// process was stopped, nor without a lease. It leaves with the owner's next word, unless that is to stop.
func TestOwnerThatIsNotHeard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLAN(t)
		live := true
		timing := Timing{MasterRepeat: 1, MasterDelay: 5 * time.Second, MasterRefresh: 10 * time.Second, MasterRefreshRepeat: 1}
		i := l.Announcer.Instance("VI_1", timing)
		i.Gate(func() bool { return live })
		if err := i.Announce(targets("192.0.2.1")); err != nil {
			t.Fatal(err)
		}
		expect(t, "before any word", l.after(0))
		trust(i, 3*time.Second)
		expect(t, "at once", l.after(0), "0s 192.0.2.1 on 2 x1")
		expect(t, "the second batch", l.after(6*time.Second))
		trust(i, 3*time.Second)
		expect(t, "the next word", l.after(0), "6s 192.0.2.1 on 2 x1")
		expect(t, "the refresh", l.after(7*time.Second))
		live = false
		trust(i, 3*time.Second)
		expect(t, "without a lease", l.after(time.Second))
		live = true
		trust(i, 3*time.Second)
		expect(t, "with one", l.after(0), "14s 192.0.2.1 on 2 x1")
		expect(t, "another refresh", l.after(20*time.Second))
		i.Stop()
		trust(i, 3*time.Second)
		expect(t, "stopped", l.after(20*time.Second))
	})
}

// TestOwnerThatIsNotHeardAnyMore: what a batch had not sent when its owner's word ran out comes with the next, and all of it.
func TestOwnerThatIsNotHeardAnyMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLAN(t)
		var many []Target
		for n := range chunk {
			many = append(many, Target{netip.AddrFrom4([4]byte{10, 0, 0, byte(n)}), "eth0"})
		}
		i := l.Announcer.Instance("VI_1", Timing{MasterRepeat: 3, MasterDelay: time.Minute})
		sent := func(what string, packets, once int) {
			t.Helper()
			got := strings.Count(l.after(time.Second), "\n")
			if arps := l.Stats().ARP; arps != uint64(packets) || got != once {
				t.Errorf("%s: %d packets so far, the last to %d addresses; want %d and %d", what, arps, got, packets, once)
			}
		}
		if err := i.Announce(many); err != nil {
			t.Fatal(err)
		}
		sent("before any word", 0, 0)
		l.onSend = func() { trust(i, 0) } // it is the last one
		trust(i, time.Second)
		sent("a word for a moment", chunk, chunk)
		trust(i, time.Second)
		sent("once more", 2*chunk, chunk)
		l.onSend = nil
		trust(i, time.Second)
		sent("the rest", 3*chunk, chunk)
		trust(i, time.Hour)
		sent("nothing is left", 3*chunk, 0)
		time.Sleep(time.Minute)
		sent("the second batch", 6*chunk, 3*chunk)
	})
}

func TestEveryAddressOnceBeforeAnyTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLAN(t)
		i := l.Instance("VI_1", Timing{MasterRepeat: 2})
		if err := i.Announce(targets("192.0.2.1", "192.0.2.2")); err != nil {
			t.Fatal(err)
		}
		expect(t, "at once", l.take(), "0s 192.0.2.1 on 2 x1", "0s 192.0.2.2 on 2 x1", "0s 192.0.2.1 on 2 x1", "0s 192.0.2.2 on 2 x1")
	})
}

func TestRefresh(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLAN(t)
		i := l.Instance("VI_1", Timing{MasterRepeat: 1, MasterRefresh: 60 * time.Second, MasterRefreshRepeat: 2})
		if err := i.Announce(targets("192.0.2.1")); err != nil {
			t.Fatal(err)
		}
		expect(t, "three minutes", l.after(180*time.Second),
			"0s 192.0.2.1 on 2 x1", "1m0s 192.0.2.1 on 2 x2", "2m0s 192.0.2.1 on 2 x2", "3m0s 192.0.2.1 on 2 x2")
		i.Stop()
		expect(t, "after Stop", l.after(time.Hour))
		// Taking over again starts anew.
		if err := i.Announce(targets("192.0.2.1")); err != nil {
			t.Fatal(err)
		}
		expect(t, "again", l.after(time.Minute), "1h3m0s 192.0.2.1 on 2 x1", "1h4m0s 192.0.2.1 on 2 x2")
	})
}

func TestContention(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLAN(t)
		timing := keepalivedDefaults
		timing.LowerPrioDelay, timing.LowerPrioRepeat = time.Second, 2
		i := l.Instance("VI_1", timing)
		again := func() {
			t.Helper()
			if err := i.AnnounceAgain(); err != nil {
				t.Fatal(err)
			}
		}
		again()
		expect(t, "not active", l.after(time.Minute))
		if err := i.Announce(targets("192.0.2.1")); err != nil {
			t.Fatal(err)
		}
		l.take()
		l.after(10 * time.Second)
		again()
		expect(t, "contention", l.after(10*time.Second), "1m10s 192.0.2.1 on 2 x2", "1m11s 192.0.2.1 on 2 x2")
		// A peer that goes on at 10 ms is answered ten times a second, and the second batch comes after the last.
		for range 20 {
			again()
			time.Sleep(10 * time.Millisecond)
		}
		expect(t, "flood", l.after(10*time.Second),
			"1m20s 192.0.2.1 on 2 x2", "1m20.1s 192.0.2.1 on 2 x2", "1m21.1s 192.0.2.1 on 2 x2")
		i.Stop()
		again()
		expect(t, "stopped", l.after(time.Minute))
	})
}

// TestContentionThatGoesOn: with an interval between packets, adverts that come before a batch has ended, and the second batches that they
// bring, leave no address out.
func TestContentionThatGoesOn(t *testing.T) {
	for _, every := range []time.Duration{time.Second, 1500 * time.Millisecond} {
		t.Run(every.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLAN(t)
				i := l.Instance("VI_1", Timing{MasterRepeat: 1, LowerPrioDelay: 1200 * time.Millisecond, LowerPrioRepeat: 2, Interval: 300 * time.Millisecond})
				many := targets("192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.4", "192.0.2.5", "192.0.2.6", "192.0.2.7")
				if err := i.Announce(many); err != nil {
					t.Fatal(err)
				}
				l.after(time.Minute)
				for range 40 {
					if err := i.AnnounceAgain(); err != nil {
						t.Fatal(err)
					}
					time.Sleep(every)
				}
				got := l.take()
				var least, most int
				for _, m := range many {
					n := strings.Count(got, m.Addr.String()+" ")
					if least, most = min(least, n), max(most, n); m == many[0] {
						least = n
					}
				}
				if least < 15 || most-least > 2 {
					t.Errorf("got %d to %d packets for an address:\n%s", least, most, got)
				}
			})
		})
	}
}

// TestContentionWithoutRepeat: it takes nothing of the takeover's batch away.
func TestContentionWithoutRepeat(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLAN(t)
		i := l.Instance("VI_1", Timing{MasterRepeat: 1, Interval: time.Second})
		if err := errors.Join(i.Announce(targets("192.0.2.1", "192.0.2.2")), i.AnnounceAgain()); err != nil {
			t.Fatal(err)
		}
		expect(t, "takeover", l.after(time.Minute), "0s 192.0.2.1 on 2 x1", "1s 192.0.2.2 on 2 x1")
	})
}

func TestPacing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLAN(t)
		timing := Timing{MasterRepeat: 2, Interval: 10 * time.Millisecond, GNAInterval: 25 * time.Millisecond}
		one, two := l.Instance("VI_1", timing), l.Instance("VI_2", timing)
		if err := one.Announce(targets("192.0.2.1", "2001:db8::1")); err != nil {
			t.Fatal(err)
		}
		// The interval is the interface's: a second instance waits its turn, one on another interface does not.
		if err := two.Announce(targets("192.0.2.2", "192.0.2.3@eth1")); err != nil {
			t.Fatal(err)
		}
		expect(t, "first packets", l.take(), "0s 192.0.2.1 on 2 x1", "0s 2001:db8::1 on 2 x1")
		got := l.after(time.Second)
		at := map[string]bool{}
		for _, line := range strings.Split(strings.TrimSpace(got), "\n") {
			when, rest, _ := strings.Cut(line, " ")
			_, index, _ := strings.Cut(rest, " on ")
			key := when + " on " + index
			if strings.Contains(rest, ":") {
				key = when + " v6"
			}
			if at[key] {
				t.Errorf("got two packets at %s:\n%s", key, got)
			}
			at[key] = true
		}
		for addr, want := range map[string]int{"192.0.2.1 ": 1, "192.0.2.2 ": 2, "192.0.2.3 ": 2, "2001:db8::1 ": 1} {
			if n := strings.Count(got, addr); n != want {
				t.Errorf("got %d packets for %s, want %d:\n%s", n, addr, want, got)
			}
		}
		if !strings.Contains(got, "25ms 2001:db8::1 on 2") {
			t.Errorf("got no second advertisement after 25ms:\n%s", got)
		}
	})
}

func TestStopCancelsPaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLAN(t)
		i := l.Instance("VI_1", Timing{MasterRepeat: 5, MasterDelay: time.Second, Interval: 100 * time.Millisecond})
		if err := i.Announce(targets("192.0.2.1")); err != nil {
			t.Fatal(err)
		}
		expect(t, "paced", l.after(150*time.Millisecond), "0s 192.0.2.1 on 2 x1", "100ms 192.0.2.1 on 2 x1")
		i.Stop()
		i.Stop()
		expect(t, "after Stop", l.after(time.Minute))
	})
}

// Stop breaks off a batch that Run is sending, and returns only when the last packet has left. In real time: to
// wait for a mutex is not idleness to synctest.
func TestStopBreaksOff(t *testing.T) {
	l := newLAN(t)
	i := l.Instance("VI_1", Timing{MasterRepeat: 1, MasterDelay: time.Millisecond})
	var many []Target
	for n := range 10 * chunk {
		many = append(many, Target{netip.AddrFrom4([4]byte{10, 0, byte(n >> 8), byte(n)}), "eth0"})
	}
	sending, goOn := make(chan struct{}), make(chan struct{})
	sends := 0
	l.onSend = func() {
		if sends++; sends == 11 { // the first of the second batch
			close(sending)
			<-goOn
		}
	}
	if err := i.Announce(many); err != nil {
		t.Fatal(err)
	}
	<-sending
	stopped := make(chan struct{})
	go func() {
		i.Stop()
		close(stopped)
	}()
	for !i.stopping.Load() {
		runtime.Gosched()
	}
	select {
	case <-stopped:
		t.Error("Stop returned while a packet was leaving")
	default:
	}
	close(goOn)
	<-stopped
	if got, want := l.Stats().ARP, uint64(11*chunk); got != want {
		t.Errorf("got %d packets, want %d: the first batch and what was under way", got, want)
	}
}

func TestInterfaces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLAN(t)
		i := l.Instance("VI_1", Timing{MasterRepeat: 1, MasterDelay: time.Second})
		err := i.Announce(targets("192.0.2.1@gone0", "192.0.2.2@tun0", "2001:db8::2@tun0", "192.0.2.3@ib0", "192.0.2.4"))
		for _, want := range []string{"announce 192.0.2.1 on gone0: no such interface", "announce on ib0: build gratuitous ARP for 192.0.2.3"} {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("got %v, want %q", err, want)
			}
		}
		expect(t, "in spite of the others", l.take(), "0s 192.0.2.4 on 2 x1")
		if got, want := l.Stats(), (Stats{ARP: 1, Failed: 2}); got != want {
			t.Errorf("got %+v, want %+v", got, want)
		}
		// Made anew meanwhile, with another address, and the missing one appeared.
		l.set("eth0", Link{Index: 9, MAC: net.HardwareAddr{2, 0, 0, 0, 0, 0xb}})
		l.set("gone0", Link{Index: 10, MAC: mac})
		expect(t, "second batch", l.after(time.Second), "1s 192.0.2.1 on 10 x1", "1s 192.0.2.4 on 9 x1")
		if got := l.log.String(); strings.Count(got, "\n") != 1 || !strings.Contains(got, "instance=VI_1") {
			t.Errorf("got log %q, want one line for the second batch", got)
		}
	})
}

func TestSendErrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLAN(t)
		l.wire.err = errors.New("send on interface 2: network is down")
		i := l.Instance("VI_1", keepalivedDefaults)
		if err := i.Announce(targets("192.0.2.1", "2001:db8::1")); !errors.Is(err, l.wire.err) {
			t.Errorf("got %v, want %v", err, l.wire.err)
		}
		if got, want := l.Stats(), (Stats{Failed: 10}); got != want {
			t.Errorf("got %+v, want %+v", got, want)
		}
		l.wire.mu.Lock()
		l.wire.err = nil
		l.wire.mu.Unlock()
		expect(t, "second batch", l.after(5*time.Second), "5s 192.0.2.1 on 2 x5", "5s 2001:db8::1 on 2 x5")
	})
}

func TestSetTiming(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLAN(t)
		i := l.Instance("VI_1", Timing{MasterRepeat: 1})
		i.SetTiming(Timing{MasterRepeat: 2, MasterDelay: time.Second})
		if err := i.Announce(targets("192.0.2.1")); err != nil {
			t.Fatal(err)
		}
		expect(t, "new timing", l.after(time.Minute), "0s 192.0.2.1 on 2 x2", "1s 192.0.2.1 on 2 x2")
	})
}

// A late or repeated step is harmless.
func TestStepLate(t *testing.T) {
	start := time.Unix(1000, 0)
	s := schedule{timing: Timing{MasterRepeat: 1, MasterDelay: time.Second, MasterRefresh: 10 * time.Second, MasterRefreshRepeat: 1}}
	always := func(string, bool, time.Duration, time.Time) (bool, time.Time) { return true, time.Time{} }
	s.announce(start, targets("192.0.2.1"))
	steps := []struct {
		at, wantNext time.Duration
		want         int
	}{
		{0, time.Second, 1},
		{0, time.Second, 0},
		{500 * time.Millisecond, time.Second, 0},
		{3 * time.Second, 10 * time.Second, 1},
		{3 * time.Second, 10 * time.Second, 0},
		{95 * time.Second, 105 * time.Second, 1}, // missed refreshes are not made up for
	}
	for _, tt := range steps {
		due, next := s.step(start.Add(tt.at), always, nil)
		if len(due) != tt.want || next.Sub(start) != tt.wantNext {
			t.Errorf("at %v: got %d packets and next %v, want %d and %v", tt.at, len(due), next.Sub(start), tt.want, tt.wantNext)
		}
	}
}
