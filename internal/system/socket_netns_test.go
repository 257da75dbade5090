//go:build netns

package system

import (
	"bytes"
	"context"
	"errors"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"pgvrrp/internal/system/nstest"
)

// Adverts of version 3 with a right checksum over pseudo header and payload: VRID 51, priority 100, 1 s, one address.
var (
	// 192.0.2.100, from 192.0.2.1 to 224.0.0.18.
	advert4 = []byte{0x31, 51, 100, 1, 0, 100, 0x05, 0x72, 192, 0, 2, 100}
	// fe80::100, from fe80::a to ff02::12.
	advert6 = []byte{0x31, 51, 100, 1, 0, 100, 0x6c, 0xbe, 0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0}
)

// pair is this process's host and a peer on one cable: eth0 in both, 192.0.2.1 and .2, fe80::a and fe80::b.
func pair(t *testing.T) (self, peer *nstest.Host) {
	self, peer = nstest.Self(t), nstest.New(t)
	nstest.Veth(t, self, "eth0", peer, "eth0")
	for i, h := range []*nstest.Host{self, peer} {
		h.Run(t, "ip", "addr", "add", []string{"192.0.2.1/24", "192.0.2.2/24"}[i], "dev", "eth0")
		h.Run(t, "ip", "addr", "add", []string{"fe80::a/64", "fe80::b/64"}[i], "dev", "eth0", "nodad")
		h.Run(t, "ip", "addr", "add", []string{"2001:db8::1/64", "2001:db8::2/64"}[i], "dev", "eth0", "nodad")
	}
	return self, peer
}

func openReceiver(t *testing.T, h *nstest.Host, c ReceiverConfig) *Receiver {
	t.Helper()
	var r *Receiver
	h.Do(t, func() {
		var err error
		if r, err = OpenReceiver(c); err != nil {
			t.Fatal(err)
		}
	})
	t.Cleanup(func() { _ = r.Close() })
	return r
}

func openTestSender(t *testing.T, h *nstest.Host, c SenderConfig) *Sender {
	t.Helper()
	var s *Sender
	h.Do(t, func() {
		var err error
		if s, err = OpenSender(c); err != nil {
			t.Fatal(err)
		}
	})
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// received is one result of Read.
type received struct {
	payload []byte
	meta    Meta
	err     error
}

// read reads one packet, or fails the test after two seconds.
func read(t *testing.T, r *Receiver) received {
	t.Helper()
	got, ok := tryRead(t, r, 2*time.Second)
	if !ok {
		t.Fatal("no packet")
	}
	return got
}

func tryRead(t *testing.T, r *Receiver, within time.Duration) (received, bool) {
	t.Helper()
	if err := r.cur.Load().file.SetReadDeadline(time.Now().Add(within)); err != nil {
		t.Fatal(err)
	}
	payload, meta, err := r.Read(make([]byte, 4096))
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return received{}, false
	}
	return received{payload, meta, err}, true
}

var (
	group4 = netip.MustParseAddr("224.0.0.18")
	group6 = netip.MustParseAddr("ff02::12")
	self4  = netip.MustParseAddr("192.0.2.1")
	peer4  = netip.MustParseAddr("192.0.2.2")
	self6  = netip.MustParseAddr("fe80::a")
	peer6  = netip.MustParseAddr("fe80::b")
)

func TestSendReceive(t *testing.T) {
	self, peer := pair(t)
	wide4, wide6 := netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("2001:db8::2")
	tests := []struct {
		name     string
		receiver ReceiverConfig
		payload  []byte
		src, dst netip.Addr
		ttl      int
	}{
		{"multicast IPv4", ReceiverConfig{Group: group4}, advert4, self4, group4, 255},
		{"multicast IPv4, another group", ReceiverConfig{Group: netip.MustParseAddr("239.1.2.3")}, advert4, self4, netip.MustParseAddr("239.1.2.3"), 255},
		{"multicast IPv4, wrong TTL arrives", ReceiverConfig{Group: group4}, advert4, self4, group4, 7},
		{"multicast IPv4, a source that is not ours", ReceiverConfig{Group: group4}, advert4, netip.MustParseAddr("192.0.2.77"), group4, 255},
		{"multicast IPv6", ReceiverConfig{IPv6: true, Group: group6}, advert6, self6, group6, 255},
		{"multicast IPv6, wrong hop limit arrives", ReceiverConfig{IPv6: true, Group: group6}, advert6, self6, group6, 64},
		{"unicast IPv4", ReceiverConfig{Source: peer4}, advert4, self4, peer4, 255},
		{"unicast IPv4, any of ours", ReceiverConfig{}, advert4, self4, peer4, 64},
		{"unicast IPv6 link-local", ReceiverConfig{IPv6: true, Source: peer6}, advert6, self6, peer6, 255},
		{"unicast IPv6", ReceiverConfig{IPv6: true, Source: wide6}, advert6, wide4, wide6, 255},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tt.receiver.Interface = "eth0"
			r := openReceiver(t, peer, tt.receiver)
			s := openTestSender(t, self, SenderConfig{Interface: "eth0", IPv6: tt.receiver.IPv6})
			if err := s.Send(tt.payload, tt.src, tt.dst, tt.ttl); err != nil {
				t.Fatal(err)
			}
			got := read(t, r)
			if got.err != nil {
				t.Fatal(got.err)
			}
			if !bytes.Equal(got.payload, tt.payload) {
				t.Errorf("got payload % x, want % x", got.payload, tt.payload)
			}
			if time.Since(got.meta.At) > time.Second {
				t.Errorf("got time %s, want now", got.meta.At)
			}
			got.meta.At = time.Time{}
			if want := (Meta{Src: tt.src, Dst: tt.dst, TTL: tt.ttl, Index: r.Index()}); got.meta != want {
				t.Errorf("got %+v, want %+v", got.meta, want)
			}
		})
	}
}

// What arrives on another interface, for another group or for another of our addresses is not heard.
func TestReceiverHearsOnlyItsOwn(t *testing.T) {
	self, peer := pair(t)
	nstest.Veth(t, self, "eth1", peer, "eth1")
	peer.Run(t, "ip", "addr", "add", "192.0.2.3/32", "dev", "eth0")
	mcast := openReceiver(t, peer, ReceiverConfig{Interface: "eth0", Group: group4})
	mcast1 := openReceiver(t, peer, ReceiverConfig{Interface: "eth1", Group: group4})
	ucast := openReceiver(t, peer, ReceiverConfig{Interface: "eth0", Source: peer4})
	s0 := openTestSender(t, self, SenderConfig{Interface: "eth0"})
	s1 := openTestSender(t, self, SenderConfig{Interface: "eth1"})
	own := openReceiver(t, self, ReceiverConfig{Interface: "eth0", Group: group4})

	send := func(s *Sender, id byte, dst netip.Addr) {
		t.Helper()
		if err := s.Send([]byte{id}, self4, dst, 255); err != nil {
			t.Fatal(err)
		}
	}
	send(s0, 1, netip.MustParseAddr("224.0.0.19"))
	send(s0, 2, netip.MustParseAddr("192.0.2.3"))
	send(s0, 3, peer4)
	send(s1, 4, group4)
	send(s0, 5, group4)
	tests := []struct {
		name string
		r    *Receiver
		want []byte
	}{
		{"multicast eth0", mcast, []byte{5}},
		{"multicast eth1", mcast1, []byte{4}},
		{"unicast", ucast, []byte{3}},
		{"the sending host", own, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var got []byte
			for {
				p, ok := tryRead(t, tt.r, 100*time.Millisecond)
				if !ok {
					break
				}
				got = append(got, p.payload...)
			}
			if !bytes.Equal(got, tt.want) {
				t.Errorf("got %v, want %v", got, tt.want)
			}
		})
	}
}

// A sender of another program that loops its multicast back must not make us hear ourselves.
func TestReceiverDropsLooped(t *testing.T) {
	self, _ := pair(t)
	for _, ipv6 := range []bool{false, true} {
		group, src, level, name := group4, self4, unix.SOL_IP, unix.IP_MULTICAST_LOOP
		if ipv6 {
			group, src, level, name = group6, self6, unix.SOL_IPV6, unix.IPV6_MULTICAST_LOOP
		}
		r := openReceiver(t, self, ReceiverConfig{Interface: "eth0", IPv6: ipv6, Group: group})
		s := openTestSender(t, self, SenderConfig{Interface: "eth0", IPv6: ipv6})
		if err := unix.SetsockoptInt(s.fd, level, name, 1); err != nil {
			t.Fatal(err)
		}
		if err := s.Send([]byte{1}, src, group, 255); err != nil {
			t.Fatal(err)
		}
		if got, ok := tryRead(t, r, 100*time.Millisecond); ok {
			t.Errorf("got our own packet %+v, want none", got)
		}
		// The same without the filter proves that the test would see it.
		var fd int
		if err := r.cur.Load().raw.Control(func(f uintptr) { fd = int(f) }); err != nil {
			t.Fatal(err)
		}
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DETACH_FILTER, 0); err != nil {
			t.Fatal(err)
		}
		if err := s.Send([]byte{2}, src, group, 255); err != nil {
			t.Fatal(err)
		}
		if got := read(t, r); got.err != nil {
			t.Error(got.err)
		}
	}
}

func TestSenderNeverReceives(t *testing.T) {
	self, peer := pair(t)
	s := openTestSender(t, self, SenderConfig{Interface: "eth0"})
	r := openReceiver(t, self, ReceiverConfig{Interface: "eth0", Source: self4})
	p := openTestSender(t, peer, SenderConfig{Interface: "eth0"})
	if err := p.Send(advert4, peer4, self4, 255); err != nil {
		t.Fatal(err)
	}
	read(t, r) // so it has arrived
	if n, _, err := unix.Recvfrom(s.fd, make([]byte, 100), unix.MSG_DONTWAIT); !errors.Is(err, unix.EAGAIN) {
		t.Errorf("got %d bytes and error %v, want %v", n, err, unix.EAGAIN)
	}
}

// TestSendPastDeadPeers: what waits for the ARP of peers that are not there keeps nothing from the one that is.
func TestSendPastDeadPeers(t *testing.T) {
	self, peer := pair(t)
	r := openReceiver(t, peer, ReceiverConfig{Interface: "eth0"})
	s := openTestSender(t, self, SenderConfig{Interface: "eth0"})
	dead := []netip.Addr{netip.MustParseAddr("192.0.2.98"), netip.MustParseAddr("192.0.2.99")}
	for n := range 1000 {
		for _, to := range dead {
			if err := s.Send(advert4, self4, to, 255); err != nil {
				t.Fatalf("packet %d: %v", n, err)
			}
		}
		if err := s.Send(advert4, self4, peer4, 255); err != nil {
			t.Fatalf("packet %d: %v", n, err)
		}
		if got := read(t, r); got.err != nil {
			t.Fatalf("packet %d: %v", n, got.err)
		}
	}
}

func TestSentPacketsDissect(t *testing.T) {
	nstest.Require(t, "tshark")
	self, peer := pair(t)
	capture := peer.Capture(t, "eth0")
	s4 := openTestSender(t, self, SenderConfig{Interface: "eth0"})
	s6 := openTestSender(t, self, SenderConfig{Interface: "eth0", IPv6: true})
	if err := s4.Send(advert4, self4, group4, 255); err != nil {
		t.Fatal(err)
	}
	if err := s6.Send(advert6, self6, group6, 255); err != nil {
		t.Fatal(err)
	}
	frames := capture.Take(t, 2, 2*time.Second, func(f []byte) bool {
		return len(f) > 34 && (f[12] == 0x08 && f[23] == vrrpProtocol || f[12] == 0x86 && f[20] == vrrpProtocol)
	})
	got := nstest.Dissect(t, frames, "eth.dst", "ip.src", "ip.dst", "ip.ttl", "ip.dsfield", "ip.checksum.status",
		"ipv6.src", "ipv6.dst", "ipv6.hlim", "ipv6.tclass", "vrrp.version", "vrrp.virt_rtr_id", "vrrp.prio")
	want := "01:00:5e:00:00:12\t192.0.2.1\t224.0.0.18\t255\t0xc0\t1\t\t\t\t\t3\t51\t100\n" +
		"33:33:00:00:00:12\t\t\t\t\t\tfe80::a\tff02::12\t255\t0x000000c0\t3\t51\t100\n"
	if got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
}

func TestReadErrors(t *testing.T) {
	self, peer := pair(t)
	r := openReceiver(t, peer, ReceiverConfig{Interface: "eth0", Group: group4})
	s := openTestSender(t, self, SenderConfig{Interface: "eth0"})
	if err := s.Send(advert4, self4, group4, 255); err != nil {
		t.Fatal(err)
	}
	payload, meta, err := r.Read(make([]byte, 25))
	if !errors.Is(err, ErrTruncated) || payload != nil {
		t.Errorf("got % x and error %v, want %v", payload, err, ErrTruncated)
	}
	if meta.Src != self4 || meta.Index != r.Index() {
		t.Errorf("got %+v, want the source and the interface", meta)
	}
	if _, _, err := r.Read(nil); err == nil {
		t.Error("got no error for an empty buffer")
	}
}

func TestCloseUnblocksRead(t *testing.T) {
	_, peer := pair(t)
	for _, ipv6 := range []bool{false, true} {
		r := openReceiver(t, peer, ReceiverConfig{Interface: "eth0", IPv6: ipv6})
		ended := make(chan error)
		go func() {
			_, _, err := r.Read(make([]byte, 100))
			ended <- err
		}()
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
		select {
		case err := <-ended:
			if !errors.Is(err, os.ErrClosed) {
				t.Errorf("got %v, want %v", err, os.ErrClosed)
			}
		case <-time.After(2 * time.Second):
			t.Fatal("Read still waits")
		}
		if err := r.Reopen(); !errors.Is(err, os.ErrClosed) {
			t.Errorf("got %v from Reopen, want %v", err, os.ErrClosed)
		}
		if err := r.Close(); err != nil {
			t.Errorf("got %v from a second Close, want none", err)
		}
	}
	s := openTestSender(t, peer, SenderConfig{Interface: "eth0"})
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.Send(advert4, peer4, group4, 255); !errors.Is(err, os.ErrClosed) {
		t.Errorf("got %v from Send, want %v", err, os.ErrClosed)
	}
}

// Sockets live through down and up. For an interface that was made anew they need Reopen, and a waiting Read
// goes on by itself.
func TestSocketsSurviveTheirInterface(t *testing.T) {
	for _, ipv6 := range []bool{false, true} {
		t.Run(map[bool]string{false: "IPv4", true: "IPv6"}[ipv6], func(t *testing.T) {
			self, peer := pair(t)
			group, src, payload := group4, self4, advert4
			if ipv6 {
				group, src, payload = group6, self6, advert6
			}
			r := openReceiver(t, peer, ReceiverConfig{Interface: "eth0", IPv6: ipv6, Group: group})
			s := openTestSender(t, self, SenderConfig{Interface: "eth0", IPv6: ipv6})
			address := func() {
				if ipv6 {
					self.Run(t, "ip", "addr", "replace", "fe80::a/64", "dev", "eth0", "nodad")
				}
			}

			self.Run(t, "ip", "link", "set", "eth0", "down")
			if err := s.Send(payload, src, group, 255); err == nil {
				t.Error("got no error on an interface that is down")
			}
			peer.Run(t, "ip", "link", "set", "eth0", "down")
			peer.Run(t, "ip", "link", "set", "eth0", "up")
			self.Run(t, "ip", "link", "set", "eth0", "up")
			self.WaitUp(t, "eth0")
			peer.WaitUp(t, "eth0")
			address()
			if err := s.Send(payload, src, group, 255); err != nil {
				t.Fatal(err)
			}
			if got := read(t, r); got.err != nil || !bytes.Equal(got.payload, payload) {
				t.Fatalf("got % x and error %v after down and up", got.payload, got.err)
			}

			waiting := make(chan received, 1)
			if err := r.cur.Load().file.SetReadDeadline(time.Time{}); err != nil {
				t.Fatal(err)
			}
			go func() {
				payload, meta, err := r.Read(make([]byte, 100))
				waiting <- received{payload, meta, err}
			}()
			self.Run(t, "ip", "link", "del", "eth0")
			err := s.Send(payload, src, group, 255)
			if !errors.Is(err, unix.ENODEV) && !errors.Is(err, unix.ENXIO) {
				t.Errorf("got %v on a removed interface, want %v or %v", err, unix.ENODEV, unix.ENXIO)
			}
			nstest.Veth(t, self, "eth0", peer, "eth0")
			address()
			self.Do(t, func() { err = s.Reopen() })
			if err != nil {
				t.Fatal(err)
			}
			peer.Do(t, func() { err = r.Reopen() })
			if err != nil {
				t.Fatal(err)
			}
			if err := s.Send(payload, src, group, 255); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
			defer cancel()
			select {
			case got := <-waiting:
				if got.err != nil || !bytes.Equal(got.payload, payload) {
					t.Errorf("got % x and error %v after re-creation", got.payload, got.err)
				}
			case <-ctx.Done():
				t.Error("no packet after re-creation")
			}
		})
	}
}

func TestOpenErrors(t *testing.T) {
	self, _ := pair(t)
	tests := []struct {
		name string
		open func() error
		want string
	}{
		{"no such interface", func() error { _, err := OpenReceiver(ReceiverConfig{Interface: "eth9"}); return err }, "receive VRRP on eth9: no such device"},
		{"long name", func() error { _, err := OpenReceiver(ReceiverConfig{Interface: "abcdefghijklmnop"}); return err }, "longer than 15 bytes"},
		{"group of the other family", func() error {
			_, err := OpenReceiver(ReceiverConfig{Interface: "eth0", Group: group6})
			return err
		}, "ff02::12 is of the wrong family"},
		{"group that is none", func() error {
			_, err := OpenReceiver(ReceiverConfig{Interface: "eth0", Group: self4})
			return err
		}, "192.0.2.1 is not a multicast group"},
		{"sender, no such interface", func() error { _, err := OpenSender(SenderConfig{Interface: "eth9"}); return err }, "send VRRP on eth9: no such device"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var err error
			self.Do(t, func() { err = tt.open() })
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}

func TestSendErrors(t *testing.T) {
	self, _ := pair(t)
	s4 := openTestSender(t, self, SenderConfig{Interface: "eth0"})
	s6 := openTestSender(t, self, SenderConfig{Interface: "eth0", IPv6: true})
	tests := []struct {
		name     string
		s        *Sender
		payload  []byte
		src, dst netip.Addr
		ttl      int
		want     string
	}{
		{"empty", s4, nil, self4, group4, 255, "0 bytes of payload"},
		{"too long", s4, make([]byte, 1<<16), self4, group4, 255, "65536 bytes of payload"},
		{"TTL 0", s4, advert4, self4, group4, 0, "TTL 0 is out of range"},
		{"TTL 256", s4, advert4, self4, group4, 256, "TTL 256 is out of range"},
		{"no source", s4, advert4, netip.Addr{}, group4, 255, "source invalid IP is of the wrong family"},
		{"IPv6 by IPv4", s4, advert4, self4, group6, 255, "destination is of the wrong family"},
		{"IPv4 by IPv6", s6, advert6, self6, group4, 255, "destination is of the wrong family"},
		{"IPv6 source that is not ours", s6, advert6, netip.MustParseAddr("fe80::77"), group6, 255, "send VRRP to ff02::12 on eth0: invalid argument"},
		{"larger than the link takes", s4, make([]byte, 2000), self4, group4, 255, "message too long"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := tt.s.Send(tt.payload, tt.src, tt.dst, tt.ttl)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}

func TestSendReadAllocateNothing(t *testing.T) {
	self, peer := pair(t)
	for _, ipv6 := range []bool{false, true} {
		group, src, payload := group4, self4, advert4
		if ipv6 {
			group, src, payload = group6, self6, advert6
		}
		r := openReceiver(t, peer, ReceiverConfig{Interface: "eth0", IPv6: ipv6, Group: group})
		s := openTestSender(t, self, SenderConfig{Interface: "eth0", IPv6: ipv6})
		buf := make([]byte, 4096)
		got := testing.AllocsPerRun(200, func() {
			if err := s.Send(payload, src, group, 255); err != nil {
				t.Fatal(err)
			}
			if _, _, err := r.Read(buf); err != nil {
				t.Fatal(err)
			}
		})
		if got != 0 {
			t.Errorf("got %v allocations per packet (IPv6 %v), want 0", got, ipv6)
		}
	}
}
