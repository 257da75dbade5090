//go:build netns

package gratarp

import (
	"context"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"
)

// A station with our address that says nothing by itself is found by a probe; a real kernel answers.
func TestWatcherHearsTheAnswerToAProbe(t *testing.T) {
	_, peer, _, link := cable(t)
	vip := netip.MustParseAddr("192.0.2.100")
	fields := strings.Fields(peer.Run(t, "ip", "-br", "link", "show", "eth0")) // /sys may be another namespace's
	if len(fields) < 3 {
		t.Fatalf("got %q, want name, state and address", fields)
	}
	mac, err := net.ParseMAC(fields[2])
	if err != nil {
		t.Fatal(err)
	}
	w, err := OpenWatcher()
	if err != nil {
		t.Fatal(err)
	}
	type said struct {
		addr netip.Addr
		by   string
	}
	heard := make(chan said, 100)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- w.Run(ctx, func(a netip.Addr, by net.HardwareAddr) { heard <- said{a, by.String()} })
	}()
	if err := w.Watch([]netip.Addr{vip}); err != nil {
		t.Fatal(err)
	}
	c := open(t)
	send := func(b []byte, err error) {
		t.Helper()
		if err == nil {
			_, err = c.Send([]Frame{{link.Index, b}})
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	// What we say ourselves is not heard, and nobody has the address yet. Another address is not listened for.
	send(GARP(link.MAC, vip))
	send(Probe(link.MAC, vip))
	peer.Run(t, "ip", "addr", "add", "192.0.2.9/24", "dev", "eth0")
	send(Probe(link.MAC, netip.MustParseAddr("192.0.2.9")))
	peer.Run(t, "ip", "addr", "add", vip.String()+"/24", "dev", "eth0")
	send(Probe(link.MAC, vip))
	select {
	case got := <-heard:
		if want := (said{vip, mac.String()}); got != want {
			t.Errorf("got %v, want %v", got, want)
		}
	case <-time.After(5 * time.Second):
		t.Fatal("no answer was heard")
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if len(heard) != 0 {
		t.Errorf("heard more: %v", <-heard)
	}
}
