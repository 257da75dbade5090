//go:build netns

package system

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/net/icmp"
	xipv4 "golang.org/x/net/ipv4"
	xipv6 "golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"

	"pgvrrp/internal/quiet"
	"pgvrrp/internal/system/nstest"
)

// Two hosts on a cable. The first one has node addresses and, in most tests, virtual ones, which are guarded.
var (
	guardNode4, guardNode6 = netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")
	guardPeer4, guardPeer6 = netip.MustParseAddr("192.0.2.2"), netip.MustParseAddr("2001:db8::2")
	guardVIP4, guardVIP6   = netip.MustParseAddr("192.0.2.100"), netip.MustParseAddr("2001:db8::100")

	guardVIPs  = []netip.Addr{guardVIP4, guardVIP6}
	guardNodes = []netip.Addr{guardNode4, guardNode6}
)

// guardHosts are the two hosts, both on eth0. vips is which of them has the virtual addresses: 0 or 1.
func guardHosts(t *testing.T, vips int) [2]*nstest.Host {
	t.Helper()
	nstest.Require(t, "nft", "ip")
	hosts := [2]*nstest.Host{nstest.New(t), nstest.New(t)}
	nstest.Veth(t, hosts[0], "eth0", hosts[1], "eth0")
	ipBatch(t, hosts[0], "addr add 192.0.2.1/24 dev eth0\naddr add 2001:db8::1/64 dev eth0 nodad\n")
	ipBatch(t, hosts[1], "addr add 192.0.2.2/24 dev eth0\naddr add 2001:db8::2/64 dev eth0 nodad\n")
	ipBatch(t, hosts[vips], "addr add 192.0.2.100/24 dev eth0\naddr add 2001:db8::100/64 dev eth0 nodad\n")
	return hosts
}

// neighbours makes the peer know the first host's addresses for ever, so that only the packets themselves are tested.
func neighbours(t *testing.T, hosts [2]*nstest.Host) {
	t.Helper()
	mac := hardwareAddress(t, hosts[0])
	var b strings.Builder
	for _, a := range slices.Concat(guardVIPs, guardNodes) {
		fmt.Fprintf(&b, "neigh replace %s lladdr %s dev eth0 nud permanent\n", a, mac)
	}
	ipBatch(t, hosts[1], b.String())
}

func hardwareAddress(t *testing.T, h *nstest.Host) (mac net.HardwareAddr) {
	t.Helper()
	h.Do(t, func() {
		l, err := netlink.LinkByName("eth0")
		if err != nil {
			t.Fatal(err)
		}
		mac = l.Attrs().HardwareAddr
	})
	return mac
}

func openGuard(t *testing.T, h *nstest.Host, o GuardOptions) *Guard {
	t.Helper()
	var g *Guard
	h.Do(t, func() {
		var err error
		if g, err = OpenGuard(o); err != nil {
			t.Fatal(err)
		}
	})
	t.Cleanup(func() { _ = g.kernel.close() })
	return g
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// ping is one echo request. The kernel answers it while it gets it.
type ping struct {
	sent     time.Duration // BootTime before
	answered bool
}

// pinger sends echo requests to one address.
type pinger struct {
	conn *icmp.PacketConn
	to   net.Addr
	kind icmp.Type
	id   int

	mu    sync.Mutex
	pings []ping
	wake  chan struct{} // for each answer
}

var pingers int

func newPinger(t *testing.T, h *nstest.Host, to netip.Addr) *pinger {
	t.Helper()
	pingers++
	p := &pinger{to: &net.IPAddr{IP: to.AsSlice()}, kind: xipv4.ICMPTypeEcho, id: pingers, wake: make(chan struct{}, 1)}
	network, wildcard, reply := "ip4:icmp", "0.0.0.0", icmp.Type(xipv4.ICMPTypeEchoReply)
	proto := unix.IPPROTO_ICMP
	if to.Is6() {
		network, wildcard, reply, p.kind, proto = "ip6:ipv6-icmp", "::", xipv6.ICMPTypeEchoReply, xipv6.ICMPTypeEchoRequest, unix.IPPROTO_ICMPV6
	}
	h.Do(t, func() {
		var err error
		if p.conn, err = icmp.ListenPacket(network, wildcard); err != nil {
			t.Fatal(err)
		}
	})
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		buf := make([]byte, 1500)
		for {
			n, _, err := p.conn.ReadFrom(buf)
			if err != nil {
				return
			}
			m, err := icmp.ParseMessage(proto, buf[:n])
			if err != nil || m.Type != reply {
				continue
			}
			echo, ok := m.Body.(*icmp.Echo)
			if !ok || echo.ID != p.id {
				continue
			}
			p.mu.Lock()
			p.pings[echo.Seq].answered = true
			p.mu.Unlock()
			select {
			case p.wake <- struct{}{}:
			default:
			}
		}
	}()
	t.Cleanup(func() { _ = p.conn.Close(); <-ended })
	return p
}

func (p *pinger) send(t *testing.T) {
	t.Helper()
	p.mu.Lock()
	seq := len(p.pings)
	p.pings = append(p.pings, ping{sent: quiet.BootTime()})
	p.mu.Unlock()
	b, err := (&icmp.Message{Type: p.kind, Body: &icmp.Echo{ID: p.id, Seq: seq}}).Marshal(nil)
	if err != nil {
		t.Error(err)
		return
	}
	// Without an entry for the neighbour, or from a shut address of our own, the kernel may say so.
	_, _ = p.conn.WriteTo(b, p.to)
}

// all are the pings so far, after the last ones had time to be answered.
func (p *pinger) all() []ping {
	<-time.After(50 * time.Millisecond)
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.pings)
}

func (p *pinger) answers() (n int) {
	for _, ping := range p.all() {
		if ping.answered {
			n++
		}
	}
	return n
}

// reaches says whether a host gets an answer: one within two seconds if it is wanted, none to five pings if not.
func reaches(t *testing.T, h *nstest.Host, to netip.Addr, want bool) {
	t.Helper()
	p := newPinger(t, h, to)
	if !want {
		for range 5 {
			p.send(t)
			<-time.After(5 * time.Millisecond)
		}
		if got := p.answers(); got != 0 {
			t.Errorf("%s answered %d pings of 5, want none", to, got)
		}
		return
	}
	tick, timeout := time.NewTicker(20*time.Millisecond), time.After(2*time.Second)
	defer tick.Stop()
	for {
		p.send(t)
		select {
		case <-p.wake:
			return
		case <-tick.C:
		case <-timeout:
			t.Errorf("%s answers no ping, want an answer", to)
			return
		}
	}
}

func reachesAll(t *testing.T, h *nstest.Host, to []netip.Addr, want bool) {
	t.Helper()
	for _, a := range to {
		reaches(t, h, a, want)
	}
}

// echoServer answers on a TCP port of all addresses of a host with what it gets.
func echoServer(t *testing.T, h *nstest.Host) (port uint16) {
	t.Helper()
	var l net.Listener
	h.Do(t, func() {
		var err error
		if l, err = net.Listen("tcp", "[::]:0"); err != nil {
			t.Fatal(err)
		}
	})
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				_, _ = io.Copy(c, c)
			}()
		}
	}()
	return netip.MustParseAddrPort(l.Addr().String()).Port()
}

func dial(t *testing.T, h *nstest.Host, from, to netip.Addr, port uint16, within time.Duration) (net.Conn, error) {
	t.Helper()
	var c net.Conn
	var err error
	h.Do(t, func() {
		d := net.Dialer{Timeout: within}
		if from.IsValid() {
			d.LocalAddr = &net.TCPAddr{IP: from.AsSlice()}
		}
		c, err = d.Dial("tcp", netip.AddrPortFrom(to, port).String())
	})
	if err == nil {
		t.Cleanup(func() { _ = c.Close() })
	}
	return c, err
}

// connects says whether a TCP connection can be had from a host, within two seconds if it is wanted.
func connects(t *testing.T, h *nstest.Host, from, to netip.Addr, port uint16, want bool) {
	t.Helper()
	within := 2 * time.Second
	if !want {
		within = 150 * time.Millisecond
	}
	_, err := dial(t, h, from, to, port, within)
	if got := err == nil; got != want {
		t.Errorf("connection from %v to %s port %d: got %v, want %v", from, to, port, err, want)
	}
	if timeout, ok := errors.AsType[net.Error](err); !want && err != nil && !(ok && timeout.Timeout()) {
		t.Errorf("connection to %s: got %v, want silence", to, err)
	}
}

// sendFrame writes an Ethernet frame to the cable.
func sendFrame(t *testing.T, h *nstest.Host, frame []byte) {
	t.Helper()
	h.Do(t, func() {
		l, err := netlink.LinkByName("eth0")
		must(t, err)
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		must(t, err)
		defer unix.Close(fd)
		must(t, unix.Sendto(fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: l.Attrs().Index}))
	})
}

// arpRequestFrame asks for an IPv4 address.
func arpRequestFrame(_ *testing.T, mac net.HardwareAddr, sender, target netip.Addr) []byte {
	b := slices.Concat([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, mac, []byte{0x08, 0x06, 0, 1, 0x08, 0, 6, 4, 0, arpRequest})
	return slices.Concat(b, mac, sender.AsSlice(), make([]byte, 6), target.AsSlice())
}

// solicitationFrame asks for an IPv6 address.
func solicitationFrame(t *testing.T, mac net.HardwareAddr, sender, target netip.Addr) []byte {
	t.Helper()
	t16 := target.As16()
	group := slices.Concat(netip.MustParseAddr("ff02::1:ff00:0").AsSlice()[:13], t16[13:])
	body := slices.Concat(make([]byte, 4), target.AsSlice(), []byte{1, 1}, mac)
	m, err := (&icmp.Message{Type: xipv6.ICMPTypeNeighborSolicitation, Body: &icmp.RawBody{Data: body}}).Marshal(icmp.IPv6PseudoHeader(sender.AsSlice(), group))
	must(t, err)
	b := slices.Concat([]byte{0x33, 0x33}, group[12:], mac, []byte{0x86, 0xdd, 0x60, 0, 0, 0})
	b = binary.BigEndian.AppendUint16(b, uint16(len(m)))
	return slices.Concat(b, []byte{unix.IPPROTO_ICMPV6, 255}, sender.AsSlice(), group, m)
}

// isARPFrom matches ARP packets that say who has an address.
func isARPFrom(a netip.Addr) func([]byte) bool {
	return func(f []byte) bool {
		return len(f) >= 42 && f[12] == 0x08 && f[13] == 0x06 && bytes.Equal(f[14+arpSender:][:4], a.AsSlice())
	}
}

// isAdvertisement matches neighbour advertisements for an address.
func isAdvertisement(a netip.Addr) func([]byte) bool {
	return func(f []byte) bool {
		return len(f) >= 78 && f[12] == 0x86 && f[13] == 0xdd && f[20] == unix.IPPROTO_ICMPV6 && f[54] == ndAdvertising &&
			bytes.Equal(f[54+ndTarget:][:16], a.AsSlice())
	}
}

// resolves says whether the first host answers questions for its addresses: ARP, or neighbour discovery. An answer may need some questions,
// because the host hears of a new address on another thread.
func resolves(t *testing.T, hosts [2]*nstest.Host, a netip.Addr, want bool) {
	t.Helper()
	mac := hardwareAddress(t, hosts[1])
	c := hosts[1].Capture(t, "eth0")
	frame, match, sender := arpRequestFrame, isARPFrom(a), guardPeer4
	if a.Is6() {
		frame, match, sender = solicitationFrame, isAdvertisement(a), guardPeer6
	}
	tries := 20
	if !want {
		tries = 1
	}
	got := false
	for i := 0; i < tries && !got; i++ {
		sendFrame(t, hosts[1], frame(t, mac, sender, a))
		got = len(c.Take(t, 1, 100*time.Millisecond, match)) == 1
	}
	if got != want {
		t.Errorf("answer to a question for %s: got %v, want %v", a, got, want)
	}
}

func resolvesAll(t *testing.T, hosts [2]*nstest.Host, list []netip.Addr, want bool) {
	t.Helper()
	for _, a := range list {
		resolves(t, hosts, a, want)
	}
}

func TestGuardOpenAndShut(t *testing.T) {
	hosts := guardHosts(t, 0)
	port := echoServer(t, hosts[0])
	expect := func(when string, vips []netip.Addr, want bool) {
		t.Helper()
		t.Log(when)
		resolvesAll(t, hosts, vips, want)
		reachesAll(t, hosts[1], vips, want)
		for _, a := range vips {
			connects(t, hosts[1], netip.Addr{}, a, port, want)
		}
	}
	expect("without guard", guardVIPs, true)
	neighbours(t, hosts)
	g := openGuard(t, hosts[0], GuardOptions{Addresses: guardVIPs})
	expect("shut at first", guardVIPs, false)
	expect("other addresses", guardNodes, true)
	must(t, g.Open(guardVIPs, quiet.BootTime()+time.Minute))
	expect("open", guardVIPs, true)
	must(t, g.Shut(guardVIPs[:1]))
	expect("one of them shut", guardVIPs[:1], false)
	expect("the other one open", guardVIPs[1:], true)
	must(t, g.Shut(guardVIPs))
	must(t, g.Shut(guardVIPs))
	expect("shut", guardVIPs, false)
	expect("other addresses", guardNodes, true)
	must(t, g.Open(guardVIPs, quiet.BootTime()+time.Minute))
	expect("open again", guardVIPs, true)
	must(t, g.Close())
	expect("without guard again", guardVIPs, true)
}

// A link-local virtual address, RFC 9568's first one of every IPv6 router, is guarded on every link.
func TestGuardLinkLocal(t *testing.T) {
	hosts := guardHosts(t, 0)
	vip := netip.MustParseAddr("fe80::100")
	hosts[0].Run(t, "ip", "addr", "add", "fe80::100/64", "dev", "eth0", "nodad")
	resolves(t, hosts, vip, true)
	g := openGuard(t, hosts[0], GuardOptions{Addresses: []netip.Addr{vip.WithZone("eth0")}})
	resolves(t, hosts, vip, false)
	must(t, g.Open([]netip.Addr{vip}, quiet.BootTime()+time.Minute))
	resolves(t, hosts, vip, true)
}

// What a host says unasked when its hardware address changes: nothing of a shut address.
func TestGuardUnsolicited(t *testing.T) {
	hosts := guardHosts(t, 0)
	hosts[0].Sysctl(t, "1", "ipv4", "conf", "eth0", "arp_notify")
	hosts[0].Sysctl(t, "1", "ipv6", "conf", "eth0", "ndisc_notify")
	g := openGuard(t, hosts[0], GuardOptions{Addresses: guardVIPs})
	// said are the addresses told of until the last one that is not guarded was.
	said := func(mac string) map[string]bool {
		c := hosts[1].Capture(t, "eth0")
		hosts[0].Run(t, "ip", "link", "set", "eth0", "address", mac)
		got := map[string]bool{}
		c.Take(t, 1000, 500*time.Millisecond, func(f []byte) bool {
			for _, a := range slices.Concat(guardNodes, guardVIPs) {
				if isARPFrom(a)(f) && a.Is4() || isAdvertisement(a)(f) && a.Is6() {
					got[a.String()] = true
				}
			}
			return false
		})
		return got
	}
	tests := []struct {
		name string
		do   func()
		vips bool
	}{
		{"shut", func() {}, false},
		{"open", func() { must(t, g.Open(guardVIPs, quiet.BootTime()+time.Minute)) }, true},
	}
	for i, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tt.do()
			got := said(fmt.Sprintf("02:00:00:00:00:%02x", i+1))
			for _, a := range guardNodes {
				if !got[a.String()] {
					t.Errorf("nothing was said of %s", a)
				}
			}
			for _, a := range guardVIPs {
				if got[a.String()] != tt.vips {
					t.Errorf("said of %s: got %v, want %v", a, got[a.String()], tt.vips)
				}
			}
		})
	}
}

// The kernel alone shuts at the deadline, and not before.
func TestGuardDeadline(t *testing.T) {
	hosts := guardHosts(t, 0)
	neighbours(t, hosts)
	g := openGuard(t, hosts[0], GuardOptions{Addresses: guardVIPs})
	for _, lease := range []time.Duration{50 * time.Millisecond, 173 * time.Millisecond, 400 * time.Millisecond} {
		t.Run(lease.String(), func(t *testing.T) {
			p := []*pinger{newPinger(t, hosts[1], guardVIP4), newPinger(t, hosts[1], guardVIP6)}
			deadline := quiet.BootTime() + lease
			must(t, g.Open(guardVIPs, deadline))
			tick := time.NewTicker(time.Millisecond)
			defer tick.Stop()
			for quiet.BootTime() < deadline+200*time.Millisecond {
				for _, p := range p {
					p.send(t)
				}
				<-tick.C
			}
			for i, p := range p {
				last, late := time.Duration(0), 0
				for _, ping := range p.all() {
					switch {
					case ping.answered && ping.sent > deadline:
						t.Errorf("%s: a ping of %s after the deadline was answered", guardVIPs[i], ping.sent-deadline)
					case !ping.answered && ping.sent < deadline-50*time.Millisecond:
						t.Errorf("%s: a ping of %s before the deadline was not answered", guardVIPs[i], deadline-ping.sent)
					case ping.sent > deadline:
						late++
					}
					if ping.answered {
						last = ping.sent
					}
				}
				t.Logf("%s: last answer to a ping of %s before the deadline, none to %d behind it", guardVIPs[i], deadline-last, late)
				if last == 0 || late == 0 {
					t.Errorf("%s: last answer at %s, %d pings behind the deadline, want some of both", guardVIPs[i], last, late)
				}
			}
		})
	}
}

func TestGuardRefresh(t *testing.T) {
	const lease, every = 400 * time.Millisecond, 100 * time.Millisecond
	hosts := guardHosts(t, 0)
	neighbours(t, hosts)
	g := openGuard(t, hosts[0], GuardOptions{Addresses: guardVIPs})
	must(t, g.Open(guardVIPs, quiet.BootTime()+lease))
	p := []*pinger{newPinger(t, hosts[1], guardVIP4), newPinger(t, hosts[1], guardVIP6)}
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	next := quiet.BootTime() + every
	for end := quiet.BootTime() + 3*lease; quiet.BootTime() < end; <-tick.C {
		if now := quiet.BootTime(); now >= next {
			must(t, g.Refresh(guardVIPs, now+lease))
			next = now + every
		}
		for _, p := range p {
			p.send(t)
		}
	}
	for i, p := range p {
		// Before 6.17 a packet may miss the element just while it is replaced.
		if all, n := p.all(), p.answers(); n < len(all)-2 {
			t.Errorf("%s: %d of %d pings answered, want all while it is refreshed", guardVIPs[i], n, len(all))
		}
	}
	<-time.After(lease + every)
	reachesAll(t, hosts[1], guardVIPs, false)
	for range 2 {
		if err := g.Refresh(guardVIPs, quiet.BootTime()+lease); !errors.Is(err, ErrLapsed) {
			t.Errorf("got %v from Refresh after the lease, want ErrLapsed", err)
		}
		reachesAll(t, hosts[1], guardVIPs, false)
	}
	must(t, g.Open(guardVIPs, quiet.BootTime()+time.Minute))
	reachesAll(t, hosts[1], guardVIPs, true)
	must(t, g.Shut(guardVIPs[:1]))
	if err := g.Refresh(guardVIPs, quiet.BootTime()+time.Minute); !errors.Is(err, ErrLapsed) {
		t.Errorf("got %v from Refresh of a shut address, want ErrLapsed", err)
	}
	reachesAll(t, hosts[1], guardVIPs, false)
}

// How long one renewal takes. Only a log: it depends on the machine.
func TestGuardRefreshCost(t *testing.T) {
	host := nstest.New(t)
	for _, n := range []int{1, 2, 20} {
		var list []netip.Addr
		for i := range n {
			list = append(list, netip.AddrFrom4([4]byte{192, 0, 2, byte(100 + i)}))
		}
		g := openGuard(t, host, GuardOptions{Addresses: list})
		must(t, g.Open(list, quiet.BootTime()+time.Minute))
		took := make([]time.Duration, 2000)
		for i := range took {
			start := time.Now()
			must(t, g.Refresh(list, quiet.BootTime()+time.Minute))
			took[i] = time.Since(start)
		}
		slices.Sort(took)
		t.Logf("Refresh of %d addresses: p50 %s, p99 %s, max %s", n, took[len(took)/2], took[len(took)*99/100], took[len(took)-1])
	}
}

func TestGuardConcurrent(t *testing.T) {
	hosts := guardHosts(t, 0)
	neighbours(t, hosts)
	g := openGuard(t, hosts[0], GuardOptions{Addresses: guardVIPs})
	var group sync.WaitGroup
	for i, act := range []func() error{
		func() error { return g.Open(guardVIPs[:1], quiet.BootTime()+time.Minute) },
		func() error { return g.Open(guardVIPs[1:], quiet.BootTime()+time.Minute) },
		func() error { return g.Shut(guardVIPs[1:]) },
		g.Check,
	} {
		group.Go(func() {
			for range 200 {
				if err := act(); err != nil {
					t.Errorf("act %d: %v", i, err)
				}
			}
		})
	}
	group.Wait()
	must(t, g.Shut(guardVIPs[1:]))
	reaches(t, hosts[1], guardVIP4, true)
	reaches(t, hosts[1], guardVIP6, false)
}

// A connection that stands is cut like a new one; one to the node's own address lives on.
func TestGuardEstablished(t *testing.T) {
	hosts := guardHosts(t, 0)
	neighbours(t, hosts)
	port := echoServer(t, hosts[0])
	g := openGuard(t, hosts[0], GuardOptions{Addresses: guardVIPs})
	must(t, g.Open(guardVIPs, quiet.BootTime()+time.Minute))
	conns := map[netip.Addr]net.Conn{}
	for _, a := range slices.Concat(guardVIPs, guardNodes) {
		c, err := dial(t, hosts[1], netip.Addr{}, a, port, 2*time.Second)
		must(t, err)
		conns[a] = c
	}
	// echoed reports whether a byte comes back in time.
	echoed := func(c net.Conn, within time.Duration) bool {
		must(t, c.SetDeadline(time.Now().Add(within)))
		if _, err := c.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		_, err := io.ReadFull(c, make([]byte, 1))
		return err == nil
	}
	for a, c := range conns {
		if !echoed(c, 2*time.Second) {
			t.Errorf("%s does not echo while open", a)
		}
	}
	must(t, g.Shut(guardVIPs))
	for _, a := range guardVIPs {
		if echoed(conns[a], 300*time.Millisecond) {
			t.Errorf("%s echoes while shut", a)
		}
	}
	for _, a := range guardNodes {
		if !echoed(conns[a], 2*time.Second) {
			t.Errorf("%s, a node address, does not echo", a)
		}
	}
	must(t, g.Open(guardVIPs, quiet.BootTime()+time.Minute))
	for _, a := range guardVIPs {
		// TCP sends again what was lost.
		if !echoed(conns[a], 5*time.Second) {
			t.Errorf("%s does not echo when open again", a)
		}
	}
}

// One way is enough to be dropped: a shut address neither gets a packet that needs no answer, nor sends one unasked.
func TestGuardOneWay(t *testing.T) {
	hosts := guardHosts(t, 0)
	neighbours(t, hosts)
	mac := hardwareAddress(t, hosts[1])
	ipBatch(t, hosts[0], fmt.Sprintf("neigh replace %[1]s lladdr %[3]s dev eth0 nud permanent\nneigh replace %[2]s lladdr %[3]s dev eth0 nud permanent\n",
		guardPeer4, guardPeer6, mac))
	g := openGuard(t, hosts[0], GuardOptions{Addresses: guardVIPs})
	listen := func(h *nstest.Host, a netip.Addr) (c net.PacketConn) {
		h.Do(t, func() {
			var err error
			c, err = net.ListenPacket("udp", netip.AddrPortFrom(a, 0).String())
			must(t, err)
		})
		t.Cleanup(func() { _ = c.Close() })
		return c
	}
	for i, vip := range guardVIPs {
		ours, theirs := listen(hosts[0], vip), listen(hosts[1], []netip.Addr{guardPeer4, guardPeer6}[i])
		got := func(from, to net.PacketConn, within time.Duration) bool {
			t.Helper()
			// The kernel refuses to send what a rule drops.
			_, _ = from.WriteTo([]byte("x"), to.LocalAddr())
			must(t, to.SetReadDeadline(time.Now().Add(within)))
			_, _, err := to.ReadFrom(make([]byte, 1))
			return err == nil
		}
		if got(ours, theirs, 100*time.Millisecond) {
			t.Errorf("a packet from %s left while it was shut", vip)
		}
		if got(theirs, ours, 100*time.Millisecond) {
			t.Errorf("a packet to %s was received while it was shut", vip)
		}
		must(t, g.Open(guardVIPs, quiet.BootTime()+time.Minute))
		if !got(ours, theirs, 2*time.Second) {
			t.Errorf("no packet from %s left while it was open", vip)
		}
		if !got(theirs, ours, 2*time.Second) {
			t.Errorf("no packet to %s was received while it was open", vip)
		}
		must(t, g.Shut(guardVIPs))
	}
}

// A host learns who asks it. It does not hear who asks for a shut address.
func TestGuardHearsNoQuestion(t *testing.T) {
	hosts := guardHosts(t, 0)
	g := openGuard(t, hosts[0], GuardOptions{Addresses: guardVIPs})
	mac := net.HardwareAddr{2, 0, 0, 0, 0, 0x55}
	asker := addresses("192.0.2.55", "2001:db8::55")
	frames := []func(*testing.T, net.HardwareAddr, netip.Addr, netip.Addr) []byte{arpRequestFrame, solicitationFrame}
	for i, vip := range guardVIPs {
		// learned asks for both of the host's addresses: the second question shows that the first has been heard, if at all.
		learned := func(n byte) bool {
			t.Helper()
			first, second := asker[i].AsSlice(), asker[i].AsSlice()
			first[len(first)-1], second[len(second)-1] = n, n+1
			from, marker := netip.MustParseAddr(net.IP(first).String()), netip.MustParseAddr(net.IP(second).String())
			tick, timeout := time.NewTicker(10*time.Millisecond), time.After(2*time.Second)
			defer tick.Stop()
			sendFrame(t, hosts[1], frames[i](t, mac, from, vip))
			for {
				sendFrame(t, hosts[1], frames[i](t, mac, marker, guardNodes[i]))
				known := hosts[0].Run(t, "ip", "neigh", "show", "dev", "eth0")
				if strings.Contains(known, marker.String()+" ") {
					return strings.Contains(known, from.String()+" ")
				}
				select {
				case <-tick.C:
				case <-timeout:
					t.Fatalf("got neighbours %q, want %s, which asked for %s", known, marker, guardNodes[i])
				}
			}
		}
		if learned(0x20) {
			t.Errorf("the host learned who asked for %s, which is shut", vip)
		}
		must(t, g.Open(guardVIPs, quiet.BootTime()+time.Minute))
		if !learned(0x30) {
			t.Errorf("the host did not learn who asked for %s, which is open", vip)
		}
		must(t, g.Shut(guardVIPs))
	}
}

// An advertisement for a shut address does not leave from another address either.
func TestGuardAdvertisement(t *testing.T) {
	hosts := guardHosts(t, 0)
	g := openGuard(t, hosts[0], GuardOptions{Addresses: guardVIPs})
	var conn *icmp.PacketConn
	hosts[0].Do(t, func() {
		var err error
		conn, err = icmp.ListenPacket("ip6:ipv6-icmp", guardNode6.String())
		must(t, err)
	})
	t.Cleanup(func() { _ = conn.Close() })
	mac := hardwareAddress(t, hosts[0])
	body := slices.Concat([]byte{0x20, 0, 0, 0}, guardVIP6.AsSlice(), []byte{2, 1}, mac)
	m, err := (&icmp.Message{Type: xipv6.ICMPTypeNeighborAdvertisement, Body: &icmp.RawBody{Data: body}}).Marshal(nil)
	must(t, err)
	left := func(within time.Duration) bool {
		c := hosts[1].Capture(t, "eth0")
		_, _ = conn.WriteTo(m, &net.IPAddr{IP: net.ParseIP("ff02::1"), Zone: "eth0"})
		return len(c.Take(t, 1, within, isAdvertisement(guardVIP6))) == 1
	}
	hosts[0].Do(t, func() { // the zone is a name of that host's
		if left(100 * time.Millisecond) {
			t.Error("an advertisement left for a shut address")
		}
		must(t, g.Open(guardVIPs, quiet.BootTime()+time.Minute))
		if !left(2 * time.Second) {
			t.Error("no advertisement left for an open address")
		}
	})
}

// Other programs see what is there, by nft list ruleset: our chains are before connection tracking.
func TestGuardListed(t *testing.T) {
	nstest.Require(t, "nft")
	host := nstest.New(t)
	g := openGuard(t, host, GuardOptions{Addresses: guardVIPs})
	must(t, g.Open(guardVIPs, quiet.BootTime()+time.Hour))
	got := host.Run(t, "nft", "-n", "list", "ruleset")
	for _, want := range []string{
		"type filter hook input priority -300; policy accept;",
		"type filter hook output priority -300; policy accept;",
		"table inet vrrpd {",
		"table arp vrrpd {",
		"elements = { 2001:db8::100 timeout ",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("got no %q in\n%s", want, got)
		}
	}
	t.Log(got)
}

// On the host itself a shut address is as silent as from outside.
func TestGuardFromTheHostItself(t *testing.T) {
	hosts := guardHosts(t, 0)
	port := echoServer(t, hosts[0])
	g := openGuard(t, hosts[0], GuardOptions{Addresses: guardVIPs})
	expect := func(want bool) {
		t.Helper()
		for i, vip := range guardVIPs {
			connects(t, hosts[0], netip.Addr{}, vip, port, want)
			connects(t, hosts[0], guardNodes[i], vip, port, want)
			connects(t, hosts[0], vip, guardNodes[i], port, want)
			connects(t, hosts[0], netip.Addr{}, guardNodes[i], port, true)
		}
	}
	expect(false)
	must(t, g.Open(guardVIPs, quiet.BootTime()+time.Minute))
	expect(true)
}

// A host on backup guards addresses that it does not have. It reaches them on the host that has them, and learns when that changes.
func TestGuardOnBackup(t *testing.T) {
	hosts := guardHosts(t, 1)
	openGuard(t, hosts[0], GuardOptions{Addresses: guardVIPs})
	reachesAll(t, hosts[0], guardVIPs, true)

	entry := func() string { return hosts[0].Run(t, "ip", "neigh", "show", guardVIP4.String(), "dev", "eth0") }
	other := net.HardwareAddr{2, 0, 0, 0, 0, 0x77}
	if got := entry(); strings.Contains(got, other.String()) {
		t.Fatalf("got neighbour %q, want the cable's other end", got)
	}
	// The entry is locked for a while against flapping.
	hosts[0].Sysctl(t, "0", "ipv4", "neigh", "eth0", "locktime")
	sendFrame(t, hosts[1], arpRequestFrame(t, other, guardVIP4, guardVIP4))
	timeout, tick := time.After(2*time.Second), time.NewTicker(10*time.Millisecond)
	defer tick.Stop()
	for !strings.Contains(entry(), other.String()) {
		select {
		case <-tick.C:
		case <-timeout:
			t.Fatalf("got neighbour %q after an announcement, want %s", entry(), other)
		}
	}
}

// Forwarded packets are none of the guard's business, even to and from guarded addresses.
func TestGuardForwards(t *testing.T) {
	hosts := guardHosts(t, 1)
	third := nstest.New(t)
	nstest.Veth(t, hosts[0], "eth1", third, "eth1")
	ipBatch(t, hosts[0], "addr add 198.51.100.1/24 dev eth1\naddr add 2001:db8:1::1/64 dev eth1 nodad\n")
	ipBatch(t, third, "addr add 198.51.100.2/24 dev eth1\naddr add 2001:db8:1::2/64 dev eth1 nodad\n"+
		"route add default via 198.51.100.1\nroute add default via 2001:db8:1::1\n")
	ipBatch(t, hosts[1], "route add default via 192.0.2.1\nroute add default via 2001:db8::1\n")
	hosts[0].Sysctl(t, "1", "ipv4", "ip_forward")
	hosts[0].Sysctl(t, "1", "ipv6", "conf", "all", "forwarding")
	openGuard(t, hosts[0], GuardOptions{Addresses: guardVIPs})
	reachesAll(t, third, guardVIPs, true)
}

// A new run takes over what the last one left, shut, and at no moment does a packet pass.
func TestGuardReplaced(t *testing.T) {
	hosts := guardHosts(t, 0)
	neighbours(t, hosts)
	first := openGuard(t, hosts[0], GuardOptions{Addresses: guardVIPs})
	must(t, first.Open(guardVIPs, quiet.BootTime()+time.Minute))
	reachesAll(t, hosts[1], guardVIPs, true)
	second := openGuard(t, hosts[0], GuardOptions{Addresses: guardVIPs})
	reachesAll(t, hosts[1], guardVIPs, false)
	if got := hosts[0].Run(t, "nft", "list", "tables"); got != "table inet vrrpd\ntable arp vrrpd\n" {
		t.Errorf("got tables %q, want ours once", got)
	}

	p := []*pinger{newPinger(t, hosts[1], guardVIP4), newPinger(t, hosts[1], guardVIP6)}
	stop, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for i := 0; i < 60000; i++ { // a sequence number has 16 bits
			select {
			case <-stop:
				return
			default:
				p[i%2].send(t)
			}
		}
	}()
	for range 200 {
		openGuard(t, hosts[0], GuardOptions{Addresses: guardVIPs})
	}
	close(stop)
	<-ended
	for i, p := range p {
		if n := p.answers(); n != 0 {
			t.Errorf("%s: %d of %d pings answered while the guard was replaced, want none", guardVIPs[i], n, len(p.all()))
		} else {
			t.Logf("%s: %d pings", guardVIPs[i], len(p.all()))
		}
	}
	// The old run cannot renew its lease.
	if err := first.Refresh(guardVIPs, quiet.BootTime()+time.Minute); !errors.Is(err, ErrLapsed) {
		t.Errorf("got %v from the old run's Refresh, want ErrLapsed", err)
	}
	must(t, second.Open(guardVIPs, quiet.BootTime()+time.Minute))
	reachesAll(t, hosts[1], guardVIPs, true)
}

func TestGuardConfigure(t *testing.T) {
	hosts := guardHosts(t, 0)
	neighbours(t, hosts)
	g := openGuard(t, hosts[0], GuardOptions{Addresses: guardVIPs})
	must(t, g.Open(guardVIPs, quiet.BootTime()+time.Minute))
	p := newPinger(t, hosts[1], guardVIP4)
	for range 20 {
		p.send(t)
		must(t, g.Configure([]netip.Addr{guardVIP4, guardNode4}))
		p.send(t)
		must(t, g.Configure(guardVIPs[:1]))
	}
	if n := p.answers(); n != 40 {
		t.Errorf("%d of 40 pings to the address that stays were answered, want all", n)
	}
	must(t, g.Configure([]netip.Addr{guardVIP4, guardNode4}))
	reaches(t, hosts[1], guardVIP4, true)
	reaches(t, hosts[1], guardNode4, false) // new, so shut
	reaches(t, hosts[1], guardVIP6, true)   // no longer guarded
	resolves(t, hosts, guardNode4, false)
	must(t, g.Refresh(guardVIPs[:1], quiet.BootTime()+time.Minute))
	must(t, g.Configure(guardVIPs))
	reaches(t, hosts[1], guardVIP4, true)
	reaches(t, hosts[1], guardNode4, true)
	reaches(t, hosts[1], guardVIP6, false) // guarded again, so shut
	must(t, g.Open(guardVIPs, quiet.BootTime()+time.Minute))
	reachesAll(t, hosts[1], guardVIPs, true)
	must(t, g.Configure(nil))
	reachesAll(t, hosts[1], slices.Concat(guardVIPs, guardNodes), true)
}

// foreignRules are a user's, by both ways of making them.
func foreignRules(t *testing.T, h *nstest.Host) (list func() string) {
	t.Helper()
	h.Run(t, "nft", "add table inet vrrpdx; add chain inet vrrpdx input { type filter hook input priority filter; policy drop; };"+
		" add set inet vrrpdx open4 { type ipv4_addr; elements = { 192.0.2.2 }; }; add rule inet vrrpdx input ip saddr @open4 accept;"+
		" add rule inet vrrpdx input meta l4proto ipv6-icmp accept; add table ip vrrpd; add table arp filter")
	return func() string {
		var b strings.Builder
		for _, table := range []string{"inet vrrpdx", "ip vrrpd", "arp filter"} {
			b.WriteString(h.Run(t, "nft", "list table "+table))
		}
		return b.String()
	}
}

func TestGuardRemoved(t *testing.T) {
	hosts := guardHosts(t, 0)
	neighbours(t, hosts)
	list := foreignRules(t, hosts[0])
	before := list()
	without := hosts[0].Run(t, "nft", "list", "tables")
	cleanup := func() (err error) {
		hosts[0].Do(t, func() { _, err = CleanupGuard("") })
		return err
	}
	tests := []struct {
		name  string
		after func(g *Guard) error
	}{
		{"Close", func(g *Guard) error { return g.Close() }},
		{"CleanupGuard", func(*Guard) error { return cleanup() }},
		{"CleanupGuard twice", func(*Guard) error { return errors.Join(cleanup(), cleanup()) }},
		{"Close after CleanupGuard", func(g *Guard) error { return errors.Join(cleanup(), g.Close()) }},
		{"CleanupGuard of half a guard", func(*Guard) error {
			hosts[0].Run(t, "nft", "delete table arp vrrpd")
			return cleanup()
		}},
		{"CleanupGuard of the other half", func(*Guard) error {
			hosts[0].Run(t, "nft", "delete table inet vrrpd")
			return cleanup()
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			g := openGuard(t, hosts[0], GuardOptions{Addresses: guardVIPs})
			if got := hosts[0].Run(t, "nft", "list", "tables"); got == without {
				t.Fatalf("got tables %q, want ours among them", got)
			}
			must(t, g.Open(guardVIPs, quiet.BootTime()+time.Minute))
			reachesAll(t, hosts[1], guardVIPs, true) // through the user's rules too
			must(t, tt.after(g))
			if got := hosts[0].Run(t, "nft", "list", "tables"); got != without {
				t.Errorf("got tables %q, want %q", got, without)
			}
			if got := list(); got != before {
				t.Errorf("the user's rules are now\n%s\nthey were\n%s", got, before)
			}
		})
	}
}

// A closed guard says so, and opens nothing.
func TestGuardClosed(t *testing.T) {
	host := nstest.New(t)
	g := openGuard(t, host, GuardOptions{Addresses: guardVIPs})
	must(t, g.Close())
	if err := g.Open(guardVIPs, quiet.BootTime()+time.Minute); !errors.Is(err, unix.EBADF) {
		t.Errorf("got %v from Open of a closed guard, want %v", err, unix.EBADF)
	}
}

// A guard that a killed run left is removed by its owner alone, and by nobody while another process runs with one.
func TestGuardOwner(t *testing.T) {
	hosts := guardHosts(t, 0)
	neighbours(t, hosts)
	const mine, theirs = "/run/vrrpd", "/run/other"
	open := func(owner string) (g *Guard, err error) {
		hosts[0].Do(t, func() { g, err = OpenGuard(GuardOptions{Addresses: guardVIPs, Owner: owner}) })
		return g, err
	}
	cleanup := func(owner string, want bool) {
		t.Helper()
		var removed bool
		var err error
		hosts[0].Do(t, func() { removed, err = CleanupGuard(owner) })
		if err != nil || removed != want {
			t.Errorf("CleanupGuard for %q: got %t, %v, want %t", owner, removed, err, want)
		}
		reachesAll(t, hosts[1], guardVIPs, want) // it was there before
	}
	running, err := open(mine)
	must(t, err)
	if _, err := open(theirs); !errors.Is(err, ErrGuardTaken) {
		t.Errorf("a second guard: got %v, want %v", err, ErrGuardTaken)
	}
	for _, owner := range []string{mine, theirs, ""} {
		cleanup(owner, false)
	}
	// The kernel closes what a killed process had open, and keeps the tables.
	must(t, running.claim.close())
	running.claim = nil
	cleanup(theirs, false)
	cleanup(mine, true)
	must(t, running.Close())

	again, err := open(theirs)
	must(t, err)
	must(t, again.Close())
	if got := hosts[0].Run(t, "nft", "list", "tables"); strings.Contains(got, "vrrpd") {
		t.Errorf("got tables %q after Close, want none of ours", got)
	}
	// Somebody without rights who sits on the name keeps nobody from anything.
	var squat int
	hosts[0].Do(t, func() {
		squat, err = unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		must(t, err)
		must(t, unix.Bind(squat, &unix.SockaddrUnix{Name: guardName}))
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, ^uintptr(0), 65534, ^uintptr(0)); errno != 0 { // of this thread alone
			t.Fatal(errno)
		}
		err = unix.Listen(squat, 1) // the kernel notes whose it is
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, ^uintptr(0), 0, ^uintptr(0)); errno != 0 {
			t.Fatal(errno)
		}
		must(t, err)
	})
	defer unix.Close(squat)
	third, err := open(mine)
	must(t, err)
	reachesAll(t, hosts[1], guardVIPs, false)
	must(t, third.Close())
}

// The user's firewall starts afresh, by `nft flush ruleset`.
func TestGuardFlushed(t *testing.T) {
	hosts := guardHosts(t, 0)
	neighbours(t, hosts)
	g := openGuard(t, hosts[0], GuardOptions{Addresses: guardVIPs})
	flush := func() { hosts[0].Run(t, "nft", "flush", "ruleset") }
	must(t, g.Open(guardVIPs, quiet.BootTime()+time.Minute))
	flush()
	must(t, g.Refresh(guardVIPs, quiet.BootTime()+300*time.Millisecond))
	reachesAll(t, hosts[1], guardVIPs, true)
	flush()
	<-time.After(320 * time.Millisecond)
	if err := g.Refresh(guardVIPs, quiet.BootTime()+time.Minute); !errors.Is(err, ErrLapsed) {
		t.Errorf("got %v from Refresh after the lease, want ErrLapsed", err)
	}
	reachesAll(t, hosts[1], guardVIPs, false)
	flush()
	reachesAll(t, hosts[1], guardVIPs, true)
	must(t, g.Check())
	reachesAll(t, hosts[1], guardVIPs, false)
	flush()
	must(t, g.Shut(guardVIPs))
	reachesAll(t, hosts[1], guardVIPs, false)
}

// A process that slept between its clock and the kernel notices. The clock here jumps at the second reading.
func TestGuardSlowCall(t *testing.T) {
	hosts := guardHosts(t, 0)
	neighbours(t, hosts)
	tests := []struct {
		name   string
		jumps  []time.Duration // behind each call; a call reads the clock before and after
		err    error
		within time.Duration // how long it is open at most, by the real clock
	}{
		{"in time", nil, nil, 400 * time.Millisecond},
		{"once", []time.Duration{250 * time.Millisecond}, nil, 150 * time.Millisecond},
		{"always", []time.Duration{20 * time.Millisecond, 20 * time.Millisecond, 20 * time.Millisecond}, errGuardSlow, 0},
		{"past the deadline", []time.Duration{time.Second}, ErrLapsed, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			jumped, reads, jumps := time.Duration(0), 0, tt.jumps
			g := openGuard(t, hosts[0], GuardOptions{Addresses: guardVIPs, Now: func() time.Duration {
				if reads++; reads%2 == 0 && len(jumps) > 0 {
					jumped, jumps = jumped+jumps[0], jumps[1:]
				}
				return quiet.BootTime() + jumped
			}})
			start := quiet.BootTime()
			if err := g.Open(guardVIPs, start+400*time.Millisecond); !errors.Is(err, tt.err) {
				t.Errorf("got %v, want %v", err, tt.err)
			}
			p := newPinger(t, hosts[1], guardVIP4)
			tick := time.NewTicker(5 * time.Millisecond)
			defer tick.Stop()
			for quiet.BootTime() < start+500*time.Millisecond {
				p.send(t)
				<-tick.C
			}
			last := time.Duration(0)
			for _, ping := range p.all() {
				if ping.answered {
					last = ping.sent - start
				}
			}
			if last > tt.within || tt.within > 0 && last < tt.within-60*time.Millisecond {
				t.Errorf("open for %s, want %s", last, tt.within)
			}
		})
	}
}

// Without the right to change the packet filter there is no guard, and the error says what failed.
func TestGuardRefused(t *testing.T) {
	host := nstest.New(t)
	host.Do(t, func() {
		head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var had [2]unix.CapUserData
		must(t, unix.Capget(&head, &had[0]))
		less := had
		less[0].Effective &^= 1 << unix.CAP_NET_ADMIN
		must(t, unix.Capset(&head, &less[0]))
		defer func() { must(t, unix.Capset(&head, &had[0])) }()
		_, err := OpenGuard(GuardOptions{Addresses: guardVIPs})
		want := "open guard: make nftables tables inet vrrpd and arp vrrpd: begin transaction: operation not permitted"
		if got := fmt.Sprint(err); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
		if _, err := CleanupGuard(""); !errors.Is(err, unix.EPERM) {
			t.Errorf("got %v from CleanupGuard, want %v", err, unix.EPERM)
		}
	})
}
