//go:build netns

package gratarp

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/netip"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"pgvrrp/internal/system/nstest"
)

func TestMain(m *testing.M) { nstest.Main(m) }

// cable is this process's host and a peer, with a capture at the peer's end.
func cable(t *testing.T) (self, peer *nstest.Host, capture *nstest.Capture, link Link) {
	t.Helper()
	self, peer = nstest.Self(t), nstest.New(t)
	nstest.Veth(t, self, "eth0", peer, "eth0")
	ifi, err := net.InterfaceByName("eth0")
	if err != nil {
		t.Fatal(err)
	}
	return self, peer, peer.Capture(t, "eth0"), Link{Index: ifi.Index, MAC: ifi.HardwareAddr}
}

func open(t *testing.T) *Conn {
	t.Helper()
	c, err := Open()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// announcements matches what we send and not what the kernel says by itself.
func announcements(mac net.HardwareAddr) func([]byte) bool {
	return func(f []byte) bool {
		return len(f) > etherHeader && bytes.Equal(f[6:12], mac) &&
			(f[12] == 0x08 && f[13] == 0x06 || f[12] == 0x86 && len(f) > 54 && f[54] == 136)
	}
}

func TestAnnouncementsDissect(t *testing.T) {
	nstest.Require(t, "tshark")
	_, _, capture, link := cable(t)
	a := New(Options{Sender: open(t), Links: func(string) (Link, bool) { return link, true }})
	i := master(a.Instance("VI_1", Timing{MasterRepeat: 1}))
	if err := i.Announce(targets("192.0.2.100", "2001:db8::64")); err != nil {
		t.Fatal(err)
	}
	link.Router = true
	if err := i.Announce(targets("fe80::64")); err != nil {
		t.Fatal(err)
	}
	frames := capture.Take(t, 3, 2*time.Second, announcements(link.MAC))
	mac := link.MAC.String()
	got := nstest.Dissect(t, frames, "eth.src", "eth.dst", "arp.opcode", "arp.src.hw_mac", "arp.src.proto_ipv4", "arp.dst.hw_mac",
		"arp.dst.proto_ipv4", "arp.isgratuitous")
	broadcast := "ff:ff:ff:ff:ff:ff"
	want := strings.Join([]string{mac, broadcast, "1", mac, "192.0.2.100", broadcast, "192.0.2.100", "1"}, "\t") + "\n" +
		strings.Repeat(mac+"\t33:33:00:00:00:01"+strings.Repeat("\t", 6)+"\n", 2)
	if diff := cmp.Diff(got, want); diff != "" {
		t.Errorf("ARP: got - want +\n%s", diff)
	}
	got = nstest.Dissect(t, frames[1:], "ipv6.src", "ipv6.dst", "ipv6.hlim", "icmpv6.type", "icmpv6.checksum.status", "icmpv6.nd.na.target_address",
		"icmpv6.nd.na.flag.r", "icmpv6.nd.na.flag.s", "icmpv6.nd.na.flag.o", "icmpv6.opt.type", "icmpv6.opt.linkaddr")
	row := func(addr, router string) string {
		return strings.Join([]string{addr, "ff02::1", "255", "136", "1", addr, router, "0", "1", "2", mac}, "\t") + "\n"
	}
	if diff := cmp.Diff(got, row("2001:db8::64", "0")+row("fe80::64", "1")); diff != "" {
		t.Errorf("NA: got - want +\n%s", diff)
	}
}

// A neighbour that knew another holder of the address learns the new one.
func TestNeighboursLearn(t *testing.T) {
	self, peer, _, link := cable(t)
	vips := []string{"192.0.2.100", "2001:db8::64"}
	peer.Run(t, "ip", "addr", "add", "192.0.2.2/24", "dev", "eth0")
	peer.Run(t, "ip", "addr", "add", "2001:db8::2/64", "dev", "eth0", "nodad")
	self.Run(t, "ip", "addr", "add", "192.0.2.100/32", "dev", "eth0")
	self.Run(t, "ip", "addr", "add", "2001:db8::64/128", "dev", "eth0", "nodad")
	for _, vip := range vips {
		peer.Run(t, "ip", "neigh", "replace", vip, "lladdr", "02:00:00:00:00:99", "dev", "eth0", "nud", "stale")
	}
	// Old entries are locked for a while against a burst of answers (arp(7), locktime).
	peer.Sysctl(t, "0", "ipv4", "neigh", "eth0", "locktime")
	a := New(Options{Sender: open(t), Links: func(string) (Link, bool) { return link, true }})
	if err := master(a.Instance("VI_1", Timing{MasterRepeat: 1})).Announce(targets(vips...)); err != nil {
		t.Fatal(err)
	}
	for _, vip := range vips {
		if got := peer.Run(t, "ip", "neigh", "show", vip, "dev", "eth0"); !strings.Contains(got, link.MAC.String()) {
			t.Errorf("got %q, want %s", got, link.MAC)
		}
	}
}

func TestFirstBatchIsFast(t *testing.T) {
	_, _, capture, link := cable(t)
	a := New(Options{Sender: open(t), Links: func(string) (Link, bool) { return link, true }})
	var many []Target
	for n := range 250 {
		many = append(many, Target{netip.AddrFrom4([4]byte{10, 0, 0, byte(n)}), "eth0"})
	}
	start := time.Now()
	if err := master(a.Instance("VI_1", keepalivedDefaults)).Announce(many); err != nil {
		t.Fatal(err)
	}
	t.Logf("250 addresses, 5 packets each, announced in %s", time.Since(start))
	one := master(a.Instance("VI_2", keepalivedDefaults))
	start = time.Now()
	if err := one.Announce(targets("192.0.2.1")); err != nil {
		t.Fatal(err)
	}
	t.Logf("one address announced in %s", time.Since(start))
	frames := capture.Take(t, 1255, 2*time.Second, announcements(link.MAC))
	if len(frames) != 1255 {
		t.Fatalf("got %d packets, want 1255", len(frames))
	}
	seen := map[byte]bool{}
	for _, f := range frames[:250] {
		seen[f.Data[31]] = true
	}
	if len(seen) != 250 {
		t.Errorf("got %d addresses in the first 250 packets, want each once", len(seen))
	}
	if got, want := a.Stats(), (Stats{ARP: 1255}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestSendFailures(t *testing.T) {
	self, peer, capture, link := cable(t)
	self.Run(t, "ip", "link", "add", "eth1", "type", "veth", "peer", "name", "eth2")
	t.Cleanup(func() { self.Run(t, "ip", "link", "del", "eth1") })
	down, err := net.InterfaceByName("eth1")
	if err != nil {
		t.Fatal(err)
	}
	c := open(t)
	frame, err := GARP(link.MAC, netip.MustParseAddr("192.0.2.1"))
	if err != nil {
		t.Fatal(err)
	}
	var frames []Frame
	for range 100 {
		frames = append(frames, Frame{down.Index, frame}, Frame{99999, frame}, Frame{link.Index, frame})
	}
	sent, err := c.Send(frames)
	if sent != 100 || !errors.Is(err, unix.ENETDOWN) || !errors.Is(err, unix.ENXIO) {
		t.Errorf("got %d sent and error %v, want 100, %v and %v", sent, err, unix.ENETDOWN, unix.ENXIO)
	}
	if got := capture.Take(t, 100, 2*time.Second, announcements(link.MAC)); len(got) != 100 {
		t.Errorf("got %d packets, want 100", len(got))
	}
	if _, err := c.Send([]Frame{{link.Index, frame[:10]}}); err == nil {
		t.Error("got no error for 10 bytes")
	}
	if sent, err := c.Send(nil); sent != 0 || err != nil {
		t.Errorf("got %d and error %v for nothing", sent, err)
	}
	// The socket serves an interface that is made anew.
	self.Run(t, "ip", "link", "del", "eth0")
	if _, err := c.Send([]Frame{{link.Index, frame}}); !errors.Is(err, unix.ENXIO) {
		t.Errorf("got %v, want %v", err, unix.ENXIO)
	}
	nstest.Veth(t, self, "eth0", peer, "eth0")
	ifi, err := net.InterfaceByName("eth0")
	if err != nil {
		t.Fatal(err)
	}
	if sent, err := c.Send([]Frame{{ifi.Index, frame}}); sent != 1 || err != nil {
		t.Errorf("got %d and error %v, want 1", sent, err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if sent, err := c.Send([]Frame{{ifi.Index, frame}}); sent != 0 || err == nil {
		t.Errorf("got %d and error %v after Close", sent, err)
	}
}

// After Stop returns no packet leaves, however busy Run was.
func TestNothingAfterStop(t *testing.T) {
	self, _, _, link := cable(t)
	// At our own end a packet is captured while the system call sends it.
	capture := self.Capture(t, "eth0")
	a := New(Options{Sender: open(t), Links: func(string) (Link, bool) { return link, true }})
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = a.Run(ctx) })
	defer running.Wait()
	defer cancel()
	i := master(a.Instance("VI_1", Timing{MasterRepeat: 3, MasterDelay: time.Millisecond, MasterRefresh: time.Millisecond, MasterRefreshRepeat: 3}))
	taken := uint64(0)
	for round := range 20 {
		var many []Target
		for n := range 200 {
			many = append(many, Target{netip.AddrFrom4([4]byte{10, byte(round), 0, byte(n)}), "eth0"})
		}
		if err := i.Announce(many); err != nil {
			t.Fatal(err)
		}
		// Some batches of Run's.
		for before := a.Stats().ARP; a.Stats().ARP < before+1000; {
			runtime.Gosched()
		}
		i.Stop()
		sent := a.Stats().ARP
		taken += uint64(len(capture.Take(t, int(sent-taken), 2*time.Second, announcements(link.MAC))))
		if taken != sent {
			t.Fatalf("round %d: got %d packets, want the %d that were sent", round, taken, sent)
		}
		if late := capture.Take(t, 1, 5*time.Millisecond, announcements(link.MAC)); len(late) > 0 || a.Stats().ARP != sent {
			t.Fatalf("round %d: a packet left after Stop", round)
		}
	}
}
