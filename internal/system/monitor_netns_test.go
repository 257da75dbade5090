//go:build netns

package system

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"pgvrrp/internal/system/nstest"
)

// watched is a running monitor of a host with all its events.
type watched struct {
	*Monitor
	events chan Event
}

// watch runs a monitor until the test ends.
func watch(t *testing.T, h *nstest.Host, options MonitorOptions) *watched {
	t.Helper()
	w := &watched{events: make(chan Event, 10000)}
	h.Do(t, func() {
		var err error
		if w.Monitor, err = OpenMonitor(options); err != nil {
			t.Fatal(err)
		}
	})
	w.Subscribe(func(events []Event) {
		for _, e := range events {
			w.events <- e
		}
	})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- w.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("got %v from Run, want none", err)
		}
		_ = w.Close()
	})
	return w
}

// until returns the printed events up to the first that matches.
func (w *watched) until(t *testing.T, match func(Event) bool) string {
	t.Helper()
	var got []Event
	timeout := time.After(5 * time.Second)
	for {
		select {
		case e := <-w.events:
			got = append(got, e)
			if match(e) {
				return lines(got)
			}
		case <-timeout:
			t.Fatalf("event missing after\n%s", lines(got))
		}
	}
}

func linkIs(name string, up bool) func(Event) bool {
	return func(e Event) bool { return e.Kind == LinkChanged && e.Link.Name == name && e.Link.Up == up }
}

func linkGone(name string) func(Event) bool {
	return func(e Event) bool { return e.Kind == LinkRemoved && e.Link.Name == name }
}

func addressIs(kind EventKind, prefix string) func(Event) bool {
	return func(e Event) bool { return e.Kind == kind && e.Address.Prefix == netip.MustParsePrefix(prefix) }
}

func TestMonitor(t *testing.T) {
	self, peer := pair(t)
	w := watch(t, self, MonitorOptions{})
	l, ok := w.Link("eth0")
	if !ok || !l.Up || l.Loopback || l.NoARP || len(l.MAC) != 6 || l.MTU != 1500 || l.Index == 0 {
		t.Errorf("got %+v, %v", l, ok)
	}
	if lo, ok := w.Link("lo"); !ok || !lo.Loopback {
		t.Errorf("got %+v, %v", lo, ok)
	}
	if _, ok := w.Link("eth9"); ok {
		t.Error("got a link that is not there")
	}
	primary := func(ipv6 bool, want string) {
		t.Helper()
		got, ok := w.PrimaryAddress("eth0", ipv6)
		if !ok || got != netip.MustParseAddr(want) {
			t.Errorf("got %v, %v, want %v", got, ok, want)
		}
	}
	primary(false, "192.0.2.1")
	if got, ok := w.PrimaryAddress("eth0", true); !ok || !got.IsLinkLocalUnicast() {
		t.Errorf("got %v, %v, want a link-local address", got, ok)
	}

	t.Run("cable", func(t *testing.T) {
		peer.Run(t, "ip", "link", "set", "eth0", "down")
		w.until(t, linkIs("eth0", false))
		if l, _ := w.Link("eth0"); l.Reason() != "no carrier" {
			t.Errorf("got %q, want no carrier", l.Reason())
		}
		peer.Run(t, "ip", "link", "set", "eth0", "up")
		w.until(t, linkIs("eth0", true))
	})
	t.Run("down and up", func(t *testing.T) {
		self.Run(t, "ip", "link", "set", "eth0", "down")
		w.until(t, linkIs("eth0", false))
		if l, _ := w.Link("eth0"); l.Reason() != "administratively down" {
			t.Errorf("got %q, want administratively down", l.Reason())
		}
		self.Run(t, "ip", "link", "set", "eth0", "up")
		w.until(t, linkIs("eth0", true))
	})
	t.Run("addresses", func(t *testing.T) {
		self.Run(t, "ip", "addr", "add", "192.0.2.7/24", "dev", "eth0")
		w.until(t, addressIs(AddressAdded, "192.0.2.7/24"))
		primary(false, "192.0.2.1")
		if !w.HasAddress(netip.MustParseAddr("192.0.2.7")) {
			t.Error("got 192.0.2.7 as absent")
		}
		self.Sysctl(t, "1", "ipv4", "conf", "eth0", "promote_secondaries")
		self.Run(t, "ip", "addr", "del", "192.0.2.1/24", "dev", "eth0")
		w.until(t, addressIs(AddressChanged, "192.0.2.7/24"))
		primary(false, "192.0.2.7")
		if w.HasAddress(netip.MustParseAddr("192.0.2.1")) {
			t.Error("got 192.0.2.1 as present")
		}
	})
	t.Run("link-local", func(t *testing.T) {
		self.Run(t, "ip", "addr", "flush", "dev", "eth0")
		self.Run(t, "ip", "addr", "add", "fe80::a/64", "dev", "eth0", "nodad")
		w.until(t, addressIs(AddressAdded, "fe80::a/64"))
		primary(true, "fe80::a")
	})
	t.Run("MAC", func(t *testing.T) {
		self.Run(t, "ip", "link", "set", "eth0", "address", "02:00:00:00:00:42")
		w.until(t, func(e Event) bool { return e.Kind == LinkChanged && e.Link.MAC.String() == "02:00:00:00:00:42" })
	})
	t.Run("renamed", func(t *testing.T) {
		self.Run(t, "ip", "link", "set", "eth0", "down")
		self.Run(t, "ip", "link", "set", "eth0", "name", "lan0")
		w.until(t, linkGone("eth0"))
		w.until(t, linkIs("lan0", false))
		self.Run(t, "ip", "link", "set", "lan0", "name", "eth0")
		self.Run(t, "ip", "link", "set", "eth0", "up")
		w.until(t, linkIs("eth0", true))
	})
	// A port that leaves a bridge is reported by RTM_DELLINK of the bridge family, and is still there.
	t.Run("bridge port", func(t *testing.T) {
		self.Run(t, "ip", "link", "add", "br7", "type", "bridge")
		t.Cleanup(func() { self.Run(t, "ip", "link", "del", "br7") })
		self.Run(t, "ip", "link", "set", "eth0", "master", "br7")
		self.Run(t, "ip", "link", "set", "eth0", "nomaster")
		self.Run(t, "ip", "addr", "add", "192.0.2.9/24", "dev", "eth0")
		got := w.until(t, addressIs(AddressAdded, "192.0.2.9/24"))
		if _, ok := w.Link("eth0"); !ok || strings.Contains(got, "eth0 removed") {
			t.Errorf("got eth0 as removed:\n%s", got)
		}
	})
	t.Run("made anew", func(t *testing.T) {
		before, _ := w.Link("eth0")
		self.Run(t, "ip", "link", "del", "eth0")
		got := w.until(t, linkGone("eth0"))
		if !strings.Contains(got, "address 192.0.2.9/24 on eth0 removed") {
			t.Errorf("got no removal of the address:\n%s", got)
		}
		if _, ok := w.Link("eth0"); ok {
			t.Error("got a removed link")
		}
		nstest.Veth(t, self, "eth0", peer, "eth0")
		w.until(t, linkIs("eth0", true))
		if after, _ := w.Link("eth0"); after.Index == before.Index {
			t.Errorf("got index %d again", after.Index)
		}
	})
	if got := w.Resyncs(); got != 0 {
		t.Errorf("got %d resyncs, want 0", got)
	}
}

// The kernel drops changes when the monitor is too slow, and says so by ENOBUFS: everything is read again.
func TestMonitorResyncs(t *testing.T) {
	self, _ := pair(t)
	var log bytes.Buffer
	var m *Monitor
	self.Do(t, func() {
		var err error
		m, err = OpenMonitor(MonitorOptions{ReceiveBuffer: 2048, Log: slog.New(slog.NewTextHandler(&log, nil))})
		if err != nil {
			t.Fatal(err)
		}
	})
	defer m.Close()
	// Nobody reads yet.
	var batch strings.Builder
	fmt.Fprintln(&batch, "addr del 192.0.2.1/24 dev eth0")
	for i := range 100 {
		fmt.Fprintf(&batch, "addr add 198.51.100.%d/32 dev eth0\n", i)
	}
	for i := range 50 {
		fmt.Fprintf(&batch, "addr del 198.51.100.%d/32 dev eth0\n", i)
	}
	ipBatch(t, self, batch.String())

	seen := map[netip.Prefix]bool{}
	ready := make(chan struct{})
	m.Subscribe(func(events []Event) {
		for _, e := range events {
			switch e.Kind {
			case AddressAdded:
				seen[e.Address.Prefix] = true
			case AddressRemoved:
				delete(seen, e.Address.Prefix)
			}
			if addressIs(AddressAdded, "192.0.2.3/24")(e) {
				close(ready)
			}
		}
	})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- m.Run(ctx) }()
	self.Run(t, "ip", "addr", "add", "192.0.2.3/24", "dev", "eth0")
	select {
	case <-ready:
	case <-time.After(5 * time.Second):
		t.Error("event missing")
	}
	cancel()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	if m.Resyncs() == 0 {
		t.Error("got no resync, so the test tested nothing")
	}
	if !strings.Contains(log.String(), "the kernel dropped link changes") {
		t.Errorf("got log %q", log.String())
	}
	for i := range 100 {
		p := netip.MustParsePrefix(fmt.Sprintf("198.51.100.%d/32", i))
		if want := i >= 50; seen[p] != want {
			t.Errorf("got %s present %v, want %v", p, seen[p], want)
		}
	}
	if got, ok := m.PrimaryAddress("eth0", false); !ok || got != netip.MustParseAddr("192.0.2.3") && got != netip.MustParseAddr("198.51.100.50") {
		t.Errorf("got %v, %v", got, ok)
	}
}

// A list that cannot be had when the kernel has dropped changes is no end: it is tried for until it can, or until Run is to end.
func TestMonitorOutlastsFailedLists(t *testing.T) {
	for _, tt := range []struct {
		name  string
		fails int
		end   func(m *Monitor, cancel func()) // while it fails; nil: it does not go on for so long
		want  error
	}{
		{"for a while", 2, nil, nil},
		{"until the context ends", 1 << 30, func(_ *Monitor, cancel func()) { cancel() }, nil},
		{"until it is closed", 1 << 30, func(m *Monitor, _ func()) { _ = m.Close() }, os.ErrClosed},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := nstest.New(t)
			device(t, h, "eth0")
			var log bytes.Buffer
			var m *Monitor
			h.Do(t, func() {
				var err error
				m, err = OpenMonitor(MonitorOptions{ReceiveBuffer: 2048, Log: slog.New(slog.NewTextHandler(&log, nil))})
				if err != nil {
					t.Fatal(err)
				}
			})
			defer m.Close()
			tries := make(chan int, 10)
			n, list := 0, m.list
			m.list = func() ([]Link, []KernelAddress, error) {
				if n++; n <= tt.fails {
					select {
					case tries <- n:
					default:
					}
					return nil, nil, errChanged
				}
				return list()
			}
			here := make(chan struct{})
			m.Subscribe(func(events []Event) {
				if slices.ContainsFunc(events, addressIs(AddressAdded, "198.51.100.99/32")) {
					close(here)
				}
			})
			var batch strings.Builder // nobody reads yet
			for i := range 100 {
				fmt.Fprintf(&batch, "addr add 198.51.100.%d/32 dev eth0\n", i)
			}
			ipBatch(t, h, batch.String())
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			ended := make(chan error, 1)
			go func() { ended <- m.Run(ctx) }()
			for range 2 {
				select {
				case <-tries:
				case err := <-ended:
					t.Fatalf("Run ended with %v", err)
				case <-time.After(5 * time.Second):
					t.Fatal("not tried again")
				}
			}
			if tt.end == nil {
				select {
				case <-here:
				case err := <-ended:
					t.Fatalf("Run ended with %v", err)
				case <-time.After(5 * time.Second):
					t.Fatal("not read again")
				}
				cancel()
			} else {
				tt.end(m, cancel)
			}
			select {
			case err := <-ended:
				if !errors.Is(err, tt.want) {
					t.Errorf("got %v from Run, want %v", err, tt.want)
				}
			case <-time.After(5 * time.Second):
				t.Fatal("Run goes on")
			}
			if got := strings.Count(log.String(), "cannot be read again"); got != 1 {
				t.Errorf("logged %d times: %s", got, log.String())
			}
		})
	}
}

func TestMonitorEnds(t *testing.T) {
	self := nstest.Self(t)
	var m *Monitor
	self.Do(t, func() {
		var err error
		if m, err = OpenMonitor(MonitorOptions{}); err != nil {
			t.Fatal(err)
		}
	})
	ended := make(chan error)
	go func() { ended <- m.Run(context.Background()) }()
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-ended:
		if err == nil {
			t.Error("got no error from Run after Close")
		}
	case <-time.After(2 * time.Second):
		t.Error("Run goes on after Close")
	}
}

func TestForwarding(t *testing.T) {
	self, _ := pair(t)
	for _, want := range []bool{false, true, false} {
		self.Sysctl(t, map[bool]string{false: "0", true: "1"}[want], "ipv6", "conf", "eth0", "forwarding")
		self.Do(t, func() {
			if got, err := Forwarding("eth0"); err != nil || got != want {
				t.Errorf("got %v and error %v, want %v", got, err, want)
			}
		})
	}
	for _, name := range []string{"eth9", "../all"} {
		if got, err := Forwarding(name); err == nil || got {
			t.Errorf("got %v and error %v for %q, want an error", got, err, name)
		}
	}
}
