package link

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"pgvrrp/internal/quorum/record"
	"pgvrrp/internal/quorum/trust"
)

func TestSendOnEveryLink(t *testing.T) {
	l := newLab(t)
	peers := l.peers(2, 2)
	a, b := l.start(0, peers, nil), l.start(1, peers, nil)
	known(t, a, b)
	a.Send("n2", []byte("one"))
	if diff, want := b.take(t), (got{"n1", a.o.Self.Boot, "one"}); diff != want {
		t.Errorf("got %+v, want %+v", diff, want)
	}
	b.Send("n1", nil)
	if diff, want := a.take(t), (got{"n2", b.o.Self.Boot, ""}); diff != want {
		t.Errorf("got %+v, want %+v", diff, want)
	}
	eventually(t, "the second copy", func() bool {
		s := b.Status()
		return s[0].Received+s[1].Received == 1 && s[0].Duplicates+s[1].Duplicates == 1
	})
	eventually(t, "both links to be up", func() bool { return a.ups("n2") == 2 && b.ups("n1") == 2 })
	for _, s := range a.Status() {
		if s.Sent != 1 || s.SendErrors != 0 || s.LastError != "" || s.RTT <= 0 || s.RTT > 5*time.Second || s.Peer != "n2" ||
			s.Since < time.Hour || s.Unsent != 0 {
			t.Errorf("status %+v", s)
		}
		if s.Local != l.addr(0, s.index(t, l)) || s.Remote.Addr() != l.addr(1, s.index(t, l)) {
			t.Errorf("from %v to %v", s.Local, s.Remote)
		}
	}
	if len(b.got)+len(a.got) != 0 {
		t.Error("a payload came twice")
	}
	for r := range numReasons {
		if r != NotAdmitted && b.rejects(r) != 0 {
			t.Errorf("%d rejects for %v", b.rejects(r), r)
		}
	}
	// The line comes after the state.
	eventually(t, "two lines about links that came up", func() bool { return len(a.log.lines("link is up")) >= 2 })
	if got := len(a.log.lines("link is up")); got != 2 {
		t.Errorf("%d lines about links that came up, want 2", got)
	}
}

// index is the LAN that a link's remote address is in.
func (s LinkStatus) index(t *testing.T, l *lab) int {
	t.Helper()
	return int(s.Remote.Addr().As4()[1]) - 100
}

func TestUnequalLinks(t *testing.T) {
	l := newLab(t)
	peers := l.peers(2, 1)
	a, b := l.start(0, peers, nil), l.start(1, peers, nil)
	eventually(t, "all links to be up", func() bool { return a.ups("n2") == 1 && b.ups("n1") == 2 })
	a.Send("n2", []byte("to one"))
	if got := b.take(t); got.payload != "to one" {
		t.Errorf("got %+v", got)
	}
	b.Send("n1", []byte("to two"))
	if got := a.take(t); got.payload != "to two" {
		t.Errorf("got %+v", got)
	}
	for _, s := range append(a.Status(), b.Status()...) {
		if s.Local.IsValid() || s.Sent != 1 {
			t.Errorf("status %+v", s)
		}
	}
}

func TestTwoVotesOnOneHost(t *testing.T) {
	l := newLab(t)
	peers := l.peers(1, 1)
	second := netip.AddrPortFrom(l.addr(0, 0), l.port+1)
	peers = append(peers, Peer{ID: "n1/2", Addrs: []netip.Addr{second.Addr()}, Port: second.Port()})
	a, b, c := l.start(0, peers, nil), l.start(1, peers, nil), l.start(2, peers, nil)
	eventually(t, "all links to be up", func() bool {
		return a.ups("n2") == 1 && a.ups("n1/2") == 1 && b.ups("n1") == 1 && b.ups("n1/2") == 1 && c.ups("n1") == 1 && c.ups("n2") == 1
	})
	b.Send("n1/2", []byte("x"))
	if got := c.take(t); got.from != "n2" {
		t.Errorf("got %+v", got)
	}
	c.Send("n2", []byte("y"))
	if got := b.take(t); got.from != "n1/2" {
		t.Errorf("got %+v", got)
	}
	if len(a.got) != 0 {
		t.Error("the first vote got what was for the second or from it")
	}
}

func TestIPv6(t *testing.T) {
	if c, err := net.ListenPacket("udp6", "[::1]:0"); err != nil {
		t.Skipf("no IPv6 here: %v", err)
	} else {
		c.Close()
	}
	l := newLab(t)
	at := []netip.Addr{netip.IPv6Loopback()}
	peers := []Peer{{"n1", at, l.port}, {"n2", at, l.port + 1}}
	a, b := l.start(0, peers, nil), l.start(1, peers, nil)
	eventually(t, "the link to be up", func() bool { return a.ups("n2") == 1 && b.ups("n1") == 1 })
	a.Send("n2", []byte("six"))
	if got := b.take(t); got.payload != "six" {
		t.Errorf("got %+v", got)
	}
}

func TestPayloadSize(t *testing.T) {
	l := newLab(t)
	peers := l.peers(1, 1)
	a, b := l.start(0, peers, nil), l.start(1, peers, nil)
	known(t, a, b)
	large := strings.Repeat("x", MaxPayload)
	a.Send("n2", []byte(large))
	if got := b.take(t); got.payload != large {
		t.Errorf("got %d bytes", len(got.payload))
	}
	a.Send("n2", []byte(large+"x"))
	a.Send("n2", []byte(large+"x"))
	a.Send("n9", []byte("to nobody"))
	if got := a.Status()[0].Unsent; got != 2 {
		t.Errorf("unsent: got %d, want 2", got)
	}
	if got := len(a.log.lines("payload cannot be sent")); got != 1 {
		t.Errorf("%d lines in the log, want 1", got)
	}
}

func TestBeforeBootstrap(t *testing.T) {
	l := newLab(t)
	peers := l.peers(1, 1)
	none, cluster := "", "cluster-1"
	empty := func(o *Options) {}
	a, b := l.open(0, peers, empty), l.open(1, peers, empty)
	a.cluster.Store(&none)
	b.cluster.Store(&none)
	a.run(t)
	b.run(t)
	eventually(t, "the link to be up", func() bool { return a.ups("n2") == 1 && b.ups("n1") == 1 })
	a.Send("n2", []byte("too early"))
	if s := a.Status()[0]; s.Sent != 0 || s.Unsent != 1 {
		t.Errorf("status %+v", s)
	}
	a.cluster.Store(&cluster)
	a.Send("n2", []byte("too early for n2"))
	eventually(t, "n2 to refuse it", func() bool { return b.rejects(NoCluster) == 1 })
	b.cluster.Store(&cluster)
	a.Send("n2", []byte("now"))
	if got := b.take(t); got.payload != "now" {
		t.Errorf("got %+v", got)
	}
	if got := b.log.lines("no cluster"); len(got) != 0 {
		t.Errorf("the log complains: %v", got)
	}
}

func TestOtherCluster(t *testing.T) {
	l := newLab(t)
	peers := l.peers(1, 1)
	a, b := l.open(0, peers, nil), l.open(1, peers, nil)
	other := "cluster-2"
	b.cluster.Store(&other)
	a.run(t)
	b.run(t)
	eventually(t, "both to refuse", func() bool { return a.rejects(OtherCluster) > 2 && b.rejects(OtherCluster) > 2 })
	if a.ups("n2")+b.ups("n1") != 0 || len(a.dir.asked)+len(b.dir.asked) != 0 {
		t.Error("they talked")
	}
	for _, v := range []*voter{a, b} {
		if got := len(v.log.lines("other cluster")); got != 1 {
			t.Errorf("%d lines in the log of %s, want 1", got, v.o.Self.ID)
		}
	}
}

// forger sends what it likes from a voter's address.
type forger struct {
	t      *testing.T
	conn   *net.UDPConn
	sealer *trust.Sealer
	to     *net.UDPAddr
}

func (l *lab) forger(key trust.Key, from, to netip.Addr) *forger {
	l.t.Helper()
	c, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(from, l.port)))
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { c.Close() })
	s, err := key.Sealer()
	if err != nil {
		l.t.Fatal(err)
	}
	return &forger{l.t, c, s, net.UDPAddrFromAddrPort(netip.AddrPortFrom(to, l.port))}
}

func (f *forger) send(b []byte) {
	f.t.Helper()
	if _, err := f.conn.WriteToUDP(b, f.to); err != nil {
		f.t.Fatal(err)
	}
}

// make is a valid datagram of n2 to v, unless change makes it another.
func (f *forger) make(v *voter, seq uint64, change func(*datagram)) []byte {
	n2 := self("n2")
	d := datagram{
		kind: data, cluster: tagOf("cluster-1"), starts: n2.Starts, boot: n2.Boot, toBoot: v.o.Self.Boot, seq: seq,
		from: []byte("n2"), incarnation: []byte(n2.Incarnation), to: []byte(v.o.Self.ID), payload: fmt.Append(nil, seq),
	}
	if change != nil {
		change(&d)
	}
	return f.sealer.Seal(d.append(nil))
}

func isPing(d *datagram) { d.kind, d.stream, d.payload = ping, 1, make([]byte, pingPayload) }

func TestForgedAndReplayed(t *testing.T) {
	l := newLab(t)
	peers := l.peers(2, 2, 1)
	v := l.start(0, peers, nil)
	f := l.forger(l.key, l.addr(1, 0), l.addr(0, 0))
	second := l.forger(l.key, l.addr(1, 1), l.addr(0, 1))
	stranger := l.forger(newKey(t), l.addr(7, 0), l.addr(0, 0))
	wrong := l.forger(newKey(t), l.addr(2, 0), l.addr(0, 0))

	// The first datagram makes the run known; only the directory's answer makes it welcome.
	f.send(f.make(v, 1, isPing))
	eventually(t, "n2 to be admitted", func() bool { return v.sender("n2").present() == self("n2") })
	first := f.make(v, 10, nil)
	f.send(first)
	if got := v.take(t); got.payload != "10" || got.boot != self("n2").Boot {
		t.Errorf("got %+v", got)
	}

	var counts [numReasons]uint64
	counts[NotAdmitted] = 1
	expect := func(what string, r Reason) {
		t.Helper()
		counts[r]++
		eventually(t, fmt.Sprintf("%s to be counted as %v", what, r), func() bool { return v.rejects(r) == counts[r] })
		for r := range numReasons {
			if got := v.rejects(r); got != counts[r] {
				t.Fatalf("after %s: %d rejects for %v, want %d", what, got, r, counts[r])
			}
		}
	}
	f.send(first)
	expect("the same bytes again", Replay)
	f.send(f.make(v, 9, nil))
	expect("a lower number", Replay)
	second.send(first)
	eventually(t, "the copy by the other link", func() bool { return v.Status()[1].Duplicates == 1 })
	second.send(first)
	expect("the copy by the other link again", Replay)
	f.send(f.make(v, 2, isPing))
	f.send(f.make(v, 2, isPing))
	expect("a ping again", Replay)

	stranger.send(stranger.make(v, 11, nil))
	expect("another key from nowhere", BadMAC)
	wrong.send(wrong.make(v, 11, nil))
	expect("another key from n3's address", BadMAC)
	changed := f.make(v, 11, nil)
	changed[35] ^= 1
	f.send(changed)
	expect("a changed byte", BadMAC)
	f.send(f.make(v, 11, nil)[:40])
	expect("a short one", Malformed)
	f.send(nil)
	expect("an empty one", Malformed)
	f.send(bytes.Repeat([]byte{0x16}, 1400))
	expect("garbage", Malformed)
	f.send(make([]byte, maxDatagram+1))
	expect("an oversized one", TooLarge)
	f.send(make([]byte, 60000))
	expect("a huge one", TooLarge)
	f.send(f.make(v, 11, func(d *datagram) { d.to = []byte("n3") }))
	expect("one for another voter", OtherVoter)
	f.send(f.make(v, 11, func(d *datagram) { d.from = []byte("n9") }))
	expect("one from no voter", UnknownVoter)
	f.send(f.make(v, 11, func(d *datagram) { d.from = []byte("n1") }))
	expect("one from ourselves", UnknownVoter)
	f.send(f.make(v, 11, func(d *datagram) { d.cluster = tagOf("cluster-2") }))
	expect("another cluster", OtherCluster)
	f.send(f.make(v, 11, func(d *datagram) { d.cluster = clusterTag{} }))
	expect("no cluster", NoCluster)
	f.send(f.make(v, 11, func(d *datagram) { d.toBoot++ }))
	expect("one for an earlier run", OtherRun)
	f.send(f.make(v, 11, func(d *datagram) { d.boot++ }))
	expect("another run of the same start", TwoRuns)

	f.send(f.make(v, 1, func(d *datagram) { isPing(d); d.starts, d.boot = 2, 2222 }))
	expect("the first of the next start", NotAdmitted)
	eventually(t, "the next start to be admitted", func() bool { return v.sender("n2").present().Starts == 2 })
	f.send(f.make(v, 12, nil))
	expect("one of the start before", OldStart)
	f.send(f.make(v, 2, func(d *datagram) { d.starts, d.boot = 2, 2222 }))
	if got := v.take(t); got.payload != "2" || got.boot != 2222 {
		t.Errorf("got %+v", got)
	}
	if len(v.got) != 0 {
		t.Error("a refused payload was handed on")
	}
	// Where it came from decides who is blamed.
	for i, want := range []map[string]uint64{
		{"bad mac": 1, "malformed": 3}, {"replay": 1}, {"bad mac": 1},
	} {
		for r, n := range want {
			if got := v.Status()[i].Rejected[r]; got != n {
				t.Errorf("link %d: %d rejects for %s, want %d", i, got, r, n)
			}
		}
	}
	if got := v.Addresses()[0].Rejected["bad mac"]; got != 1 {
		t.Errorf("%d bad macs from nobody's address, want 1", got)
	}
	if got := len(v.log.lines("datagram is refused")); got == 0 || got > 20 {
		t.Errorf("%d lines in the log", got)
	}
	if got := len(v.log.lines("reason=replay")); got != 1 {
		t.Errorf("%d lines about replays, want 1", got)
	}
}

func TestReplayAfterOurRestart(t *testing.T) {
	l := newLab(t)
	peers := l.peers(1, 1)
	f := l.forger(l.key, l.addr(1, 0), l.addr(0, 0))
	v := l.start(0, peers, nil)
	f.send(f.make(v, 1, isPing))
	eventually(t, "n2 to be admitted", func() bool { return v.sender("n2").present() == self("n2") })
	captured := f.make(v, 10, nil)
	f.send(captured)
	v.take(t)
	v.stop()

	// The new run remembers no numbers, and n2 is still in the same start.
	w := l.start(0, peers, func(o *Options) { o.Self.Starts, o.Self.Boot = 2, 4242 })
	f.send(f.make(w, 11, isPing))
	eventually(t, "n2 to be admitted again", func() bool { return w.sender("n2").present() == self("n2") })
	f.send(captured)
	eventually(t, "the captured datagram to be refused", func() bool { return w.rejects(OtherRun) == 1 })
	f.send(f.make(w, 12, nil))
	if got := w.take(t); got.payload != "12" {
		t.Errorf("got %+v", got)
	}
}

func TestDirectoryRefuses(t *testing.T) {
	l := newLab(t)
	peers := l.peers(1, 1)
	a, b := l.open(0, peers, nil), l.open(1, peers, nil)
	a.dir.set(func(Self) error { return errors.New("restored from a copy") })
	a.run(t)
	b.run(t)
	eventually(t, "n1 to refuse", func() bool { return a.rejects(NotAdmitted) > 5 && len(a.log.lines("restored from a copy")) > 0 })
	if a.ups("n2") != 0 {
		t.Error("the link is up")
	}
	b.Send("n1", []byte("x"))
	a.dir.set(nil)
	// Asked again after a second: the directory changes its mind when the log does.
	eventually(t, "the link to be up", func() bool { return a.ups("n2") == 1 })
	if len(a.got) != 0 {
		t.Error("a payload of a refused voter was handed on")
	}
	if got := len(a.log.lines("restored from a copy")); got != 1 {
		t.Errorf("%d lines in the log, want 1", got)
	}
}

// A directory that waits for a sick disk delays none of the voters that are known.
func TestSlowDirectory(t *testing.T) {
	l := newLab(t)
	peers := l.peers(1, 1, 1)
	a, b := l.start(0, peers, nil), l.start(1, peers, nil)
	known(t, a, b)
	release := make(chan struct{})
	asked := make(chan struct{})
	a.dir.set(func(s Self) error {
		if s.ID == "n3" {
			close(asked)
			<-release
		}
		return nil
	})
	f := l.forger(l.key, l.addr(2, 0), l.addr(0, 0))
	f.send(f.make(a, 1, func(d *datagram) { isPing(d); d.from = []byte("n3") }))
	<-asked
	for i := range 50 {
		b.Send("n1", fmt.Append(nil, i))
		if got := a.take(t); got.payload != fmt.Sprint(i) {
			t.Errorf("got %+v, want %d", got, i)
		}
	}
	close(release)
}

// dropped is how many datagrams the kernel has dropped at the sockets of a port: the last column of /proc/net/udp (proc_net(5)).
func dropped(t *testing.T, port uint16) (n int) {
	t.Helper()
	text, err := os.ReadFile("/proc/net/udp")
	if err != nil {
		t.Error(err)
	}
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		if !strings.HasSuffix(f[1], fmt.Sprintf(":%04X", port)) {
			continue
		}
		k, err := strconv.Atoi(f[len(f)-1])
		if err != nil {
			t.Error(err)
		}
		n += k
	}
	return n
}

func TestConcurrentSend(t *testing.T) {
	l := newLab(t)
	peers := l.peers(2, 2)
	a, b := l.open(0, peers, nil), &voter{}
	const senders, each = 4, 100
	var arrived [senders]chan int
	for i := range arrived {
		arrived[i] = make(chan int, each)
	}
	var last sync.Map
	n, err := Open(l.options(b, 1, peers, func(o *Options) {
		o.OnDatagram = func(_ string, _ record.Boot, _ time.Duration, payload []byte) {
			var s, i int
			if _, err := fmt.Sscan(string(payload), &s, &i); err != nil {
				t.Errorf("payload %q: %v", payload, err)
				return
			}
			if before, ok := last.Swap(s, i); ok && before.(int) >= i {
				t.Errorf("sender %d: %d after %d", s, i, before)
			}
			arrived[s] <- i
		}
	}))
	if err != nil {
		t.Fatal(err)
	}
	b.Network = n
	a.run(t)
	b.run(t)
	known(t, a, b)
	var all sync.WaitGroup
	for s := range senders {
		all.Go(func() {
			for i := range each {
				a.Send("n2", fmt.Appendf(nil, "%d %d", s, i))
				select {
				case got := <-arrived[s]:
					if got != i {
						t.Errorf("sender %d: got %d, want %d", s, got, i)
					}
				case <-time.After(2 * time.Second):
					// On a busy machine the kernel may drop a datagram on one link, and the next one come by it before this one does by the other.
					if dropped(t, a.o.Port) == 0 {
						t.Errorf("sender %d: %d was lost", s, i)
						return
					}
					t.Logf("sender %d: %d was dropped by the kernel", s, i)
				}
			}
		})
	}
	// Reloads meanwhile lose nothing.
	for range 20 {
		if err := a.SetPeers(peers); err != nil {
			t.Error(err)
		}
		a.Status()
	}
	all.Wait()
}

// tick drives the prober of a network without sockets by a clock of its own.
func TestLinkGoesDown(t *testing.T) {
	l := newLab(t)
	peers := l.peers(1, 2)
	var now time.Duration
	v := &voter{}
	n, err := newNetwork(l.options(v, 0, peers, func(o *Options) {
		o.Ping = 100 * time.Millisecond
		o.Now = func() time.Duration { return now }
	}))
	if err != nil {
		t.Fatal(err)
	}
	v.Network = n
	p := prober{n: n}
	pong := func(link int, rtt time.Duration) {
		t.Helper()
		d := datagram{kind: pong, payload: make([]byte, pongPayload)}
		d.payload[1] = byte(link + 1)
		stamp := uint64(now - rtt)
		for i := range 8 {
			d.payload[2+i] = byte(stamp >> (56 - 8*i))
		}
		n.ponged(n.view.Load().peers["n2"], &d, now)
	}
	ups := func(want ...bool) {
		t.Helper()
		for i, s := range n.Status() {
			if s.Up != want[i] {
				t.Errorf("at %v link %d is up: %v, want %v", now, i, s.Up, want[i])
			}
		}
	}
	now = time.Hour
	p.tick(false)
	ups(false, false)
	pong(0, 8*time.Millisecond)
	pong(1, time.Millisecond)
	ups(true, true)
	for range 3 {
		now += 100 * time.Millisecond
		p.tick(false)
		ups(true, true)
	}
	pong(1, 9*time.Millisecond)
	now += 100 * time.Millisecond
	p.tick(false)
	ups(false, true)
	s := n.Status()
	if s[0].Since != now || s[1].Since != time.Hour {
		t.Errorf("since %v and %v", s[0].Since, s[1].Since)
	}
	if s[0].RTT != 8*time.Millisecond || s[1].RTT != 2*time.Millisecond {
		t.Errorf("RTT %v and %v, want 8ms and 2ms", s[0].RTT, s[1].RTT)
	}
	if got := len(v.log.lines("link is down")); got != 1 {
		t.Errorf("%d lines about a link that went down, want 1", got)
	}
	// After a pause every link has the time to answer that it always has.
	now += time.Minute
	p.tick(false)
	ups(false, true)
	for range 3 {
		now += 100 * time.Millisecond
		p.tick(false)
		ups(false, true)
	}
	now += 100 * time.Millisecond
	p.tick(false)
	ups(false, false)
	// What is no answer to a ping of ours changes nothing.
	pong(0, -time.Millisecond)
	pong(1, maxRTT+1)
	pong(7, time.Millisecond)
	ups(false, false)
	pong(0, 200*time.Millisecond)
	ups(true, false)
	if s := n.Status()[0]; s.SendErrors == 0 || s.LastError != errNotBound.Error() {
		t.Errorf("without a socket: %d errors, the last %q", s.SendErrors, s.LastError)
	}
}

func TestOpenRefuses(t *testing.T) {
	l := newLab(t)
	for _, tc := range []struct {
		name   string
		change func(*Options)
		want   string
	}{
		{"no id", func(o *Options) { o.Self.ID = "" }, "voter id is empty"},
		{"bad id", func(o *Options) { o.Self.ID = "n@1" }, "impossible character"},
		{"no incarnation", func(o *Options) { o.Self.Incarnation = "" }, "incarnation of n1"},
		{"no start", func(o *Options) { o.Self.Starts = 0 }, "no start"},
		{"no boot", func(o *Options) { o.Self.Boot = 0 }, "no boot"},
		{"no key", func(o *Options) { o.Key = trust.Key{} }, "no key"},
		{"no cluster", func(o *Options) { o.Cluster = nil }, "no cluster"},
		{"no directory", func(o *Options) { o.Directory = nil }, "no cluster, directory"},
		{"no clock", func(o *Options) { o.Now = nil }, "clock"},
		{"no port", func(o *Options) { o.Port = 0 }, "port is 0"},
		{"no address", func(o *Options) { o.Listen = nil }, "no address"},
		{"any address", func(o *Options) { o.Listen = []netip.Addr{netip.IPv4Unspecified()} }, "cannot be listened at"},
		{"group address", func(o *Options) { o.Listen = []netip.Addr{netip.MustParseAddr("224.0.0.1")} }, "cannot be listened at"},
		{"address of another host", func(o *Options) { o.Listen = []netip.Addr{netip.MustParseAddr("192.0.2.1")} }, "cannot assign"},
		{"negative ping", func(o *Options) { o.Ping = -1 }, "negative"},
		{"peer without address", func(o *Options) { o.Peers = []Peer{{ID: "n2", Port: 1}} }, "no port or no address"},
		{"peer without port", func(o *Options) { o.Peers = []Peer{{ID: "n2", Addrs: l.addrs(1, 1)}} }, "no port or no address"},
		{"peer at any address", func(o *Options) {
			o.Peers = []Peer{{ID: "n2", Addrs: []netip.Addr{netip.IPv4Unspecified()}, Port: 1}}
		}, "cannot be sent to"},
		{"peer with a bad id", func(o *Options) { o.Peers = []Peer{{ID: "n 2", Addrs: l.addrs(1, 1), Port: 1}} }, "impossible character"},
		{"peer given twice", func(o *Options) { o.Peers = append(o.Peers, o.Peers[1]) }, "voter n2 is given twice"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			n, err := Open(l.options(&voter{}, 0, l.peers(1, 1), tc.change))
			if err == nil {
				n.Close()
				t.Fatal("opened")
			}
			if !strings.Contains(err.Error(), tc.want) || !strings.HasPrefix(err.Error(), "open network of voter ") {
				t.Errorf("got %q, want it to say %q", err, tc.want)
			}
		})
	}
	// Everything that was refused gave its sockets back.
	v := l.open(0, l.peers(1, 1), nil)
	v.Close()
	v.Close()
}

func TestAddressThatIsNotThereYet(t *testing.T) {
	l := newLab(t)
	peers := l.peers(2, 2)
	squatter, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(l.addr(0, 0), l.port)))
	if err != nil {
		t.Fatal(err)
	}
	defer squatter.Close()
	a, b := l.start(0, peers, nil), l.start(1, peers, nil)
	eventually(t, "the other link to be up", func() bool { return a.ups("n2") == 1 })
	at := a.Addresses()
	if at[0].Bound || !strings.Contains(at[0].Error, "address already in use") || !at[1].Bound || at[1].Error != "" {
		t.Errorf("addresses %+v", at)
	}
	a.Send("n2", []byte("by one link"))
	if got := b.take(t); got.payload != "by one link" {
		t.Errorf("got %+v", got)
	}
	if s := a.Status()[0]; s.Sent != 0 || s.SendErrors == 0 || s.LastError == "" {
		t.Errorf("status %+v", s)
	}
	squatter.Close()
	eventually(t, "both links to be up", func() bool { return a.ups("n2") == 2 })
	if at := a.Addresses(); !at[0].Bound || at[0].Error != "" {
		t.Errorf("addresses %+v", at)
	}
	if got := len(a.log.lines("address is bound")); got != 1 {
		t.Errorf("%d lines in the log, want 1", got)
	}
}

func TestSetPeers(t *testing.T) {
	l := newLab(t)
	peers := l.peers(1, 1, 1)
	a, b, c := l.start(0, peers, nil), l.start(1, peers, nil), l.start(2, peers, nil)
	eventually(t, "all links to be up", func() bool { return a.ups("n2") == 1 && a.ups("n3") == 1 })
	known(t, a, b)
	before := a.Status()[0]

	if err := a.SetPeers(append(peers[:2:2], peers[1])); err == nil {
		t.Error("a peer given twice is taken")
	}
	if got := len(a.Status()); got != 2 {
		t.Errorf("%d links after a refused reload, want 2", got)
	}

	if err := a.SetPeers(peers[:2]); err != nil {
		t.Fatal(err)
	}
	s := a.Status()
	if len(s) != 1 || s[0].Peer != "n2" || !s[0].Up || s[0].Since != before.Since {
		t.Errorf("status %+v, before %+v", s, before)
	}
	c.Send("n1", []byte("x"))
	eventually(t, "the removed voter to be refused", func() bool { return a.rejects(UnknownVoter) > 0 })

	// The numbers go on when it comes back, in both directions.
	if err := a.SetPeers(peers); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the link to be up again", func() bool { return a.ups("n3") == 1 && c.ups("n1") == 1 })
	known(t, a, c)
	a.Send("n3", []byte("y"))
	c.Send("n1", []byte("z"))
	if got := a.take(t); got.payload != "z" {
		t.Errorf("got %+v", got)
	}
	if got := c.take(t); got.payload != "y" {
		t.Errorf("got %+v", got)
	}
	if got := c.rejects(Replay); got != 0 {
		t.Errorf("%d replays", got)
	}
}

// A voter that starts is answered at once, not at the next ping: until then nothing can be sent to it.
func TestNewcomerIsKnownAtOnce(t *testing.T) {
	l := newLab(t)
	peers := l.peers(1, 1)
	rare := func(o *Options) { o.Ping = time.Hour }
	a := l.start(0, peers, rare)
	b := l.start(1, peers, rare)
	known(t, a, b)
	b.Send("n1", []byte("x"))
	if got := a.take(t); got.from != "n2" {
		t.Errorf("got %+v", got)
	}
	a.Send("n2", []byte("y"))
	if got := b.take(t); got.from != "n1" {
		t.Errorf("got %+v", got)
	}
}

func TestVoterComesBack(t *testing.T) {
	for _, tc := range []struct {
		name string
		next Self
	}{
		{"with its state directory", Self{ID: "n2", Incarnation: "inc-n2", Starts: 2, Boot: 2222}},
		{"with an empty one", Self{ID: "n2", Incarnation: "inc-new", Starts: 1, Boot: 2222}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			l := newLab(t)
			peers := l.peers(1, 1)
			a, b := l.start(0, peers, nil), l.start(1, peers, nil)
			known(t, a, b)
			b.stop()
			b = l.start(1, peers, func(o *Options) { o.Self = tc.next })
			known(t, a, b)
			b.Send("n1", []byte("back"))
			if got, want := a.take(t), (got{"n2", 2222, "back"}); got != want {
				t.Errorf("got %+v, want %+v", got, want)
			}
			a.Send("n2", []byte("welcome"))
			if got := b.take(t); got.payload != "welcome" {
				t.Errorf("got %+v", got)
			}
		})
	}
}

// bare is a network without sockets, with a clock of its own, and its prober.
func bare(t *testing.T, i int, now *time.Duration) (*Network, *prober) {
	t.Helper()
	l := newLab(t)
	n, err := newNetwork(l.options(&voter{}, i, l.peers(1, 1), func(o *Options) {
		o.Ping = 100 * time.Millisecond
		o.Now = func() time.Duration { return *now }
	}))
	if err != nil {
		t.Fatal(err)
	}
	return n, &prober{n: n}
}

func TestOneOfTwoPings(t *testing.T) {
	for _, tc := range []struct {
		name string
		i    int
		told time.Duration // how long ago the peer's ping came; 0: never
		all  bool
		want uint64
	}{
		{"the lower id", 0, 10 * time.Millisecond, false, 1},
		{"the higher id, told", 1, 10 * time.Millisecond, false, 0},
		{"the higher id, told late", 1, 140 * time.Millisecond, false, 0},
		{"the higher id, told too long ago", 1, 150 * time.Millisecond, false, 1},
		{"the higher id, never told", 1, 0, false, 1},
		{"the higher id, but all", 1, 10 * time.Millisecond, true, 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			now := time.Hour
			n, p := bare(t, tc.i, &now)
			l := n.view.Load().order[0].links[0]
			if tc.told != 0 {
				var d datagram
				d.payload = make([]byte, pingPayload)
				d.payload[pingPayload-1] = 200 // ns
				n.toldBy(l, &d, now-tc.told)
			}
			p.tick(tc.all)
			if got := l.sendErrors.Load(); got != tc.want { // there is no socket
				t.Errorf("%d pings, want %d", got, tc.want)
			}
		})
	}
}

// A link that only the other side pings is up, as long as its pings tell that our answers arrive.
func TestPingsOfTheOtherSideProveTheLink(t *testing.T) {
	l := newLab(t)
	peers := l.peers(1, 1)
	a, b := l.start(0, peers, nil), l.start(1, peers, nil)
	state := func(v *voter) (up bool, told, ponged, rtt time.Duration) {
		x := v.view.Load().order[0].links[0]
		x.mu.Lock()
		defer x.mu.Unlock()
		return x.up, x.told, x.ponged, x.rtt
	}
	eventually(t, "n2 to be told that it is heard", func() bool { _, told, _, _ := state(b); return told != 0 })
	_, first, _, _ := state(b)
	eventually(t, "n2 to have done without pings", func() bool {
		up, told, ponged, rtt := state(b)
		return up && told-max(first, ponged) > 2*pingsLost*b.o.Ping && rtt > 0
	})
	_, latest, _, _ := state(b)
	if up, told, _, _ := state(a); !up || latest-told < pingsLost*b.o.Ping {
		t.Errorf("n1: up %t, told at %v; want it up, and n2 silent until %v", up, told, latest)
	}
	// A ping that has no answer to tell of proves nothing.
	var d datagram
	d.payload = make([]byte, pingPayload)
	_, before, _, _ := state(a)
	a.toldBy(a.view.Load().order[0].links[0], &d, a.o.Now())
	if _, after, _, _ := state(a); after != before {
		t.Error("a ping without an answer to tell of is taken for one")
	}
}

func TestHearing(t *testing.T) {
	now := time.Hour
	n, p := bare(t, 0, &now)
	p.tick(false)
	s := n.sender("n2")
	if _, r := s.admit(self("n2")); r != None {
		t.Fatal(r)
	}
	seq := uint64(0)
	hear := func(change func(*datagram)) {
		t.Helper()
		seq++
		d := datagram{kind: data, cluster: tagOf("c"), starts: 1, boot: self("n2").Boot, toBoot: n.o.Self.Boot, seq: seq, incarnation: []byte(self("n2").Incarnation)}
		if change != nil {
			change(&d)
		}
		s.check(&d, n.o.Self.Boot, 0, now)
	}
	talk := func() context.Context {
		ctx, cancel := n.Hearing(t.Context(), "n2")
		t.Cleanup(cancel)
		return ctx
	}
	pass := func(d time.Duration) time.Duration {
		for step := min(d, 100*time.Millisecond); d > 0; d -= step {
			now += min(step, d)
			p.tick(false)
		}
		return p.losses()
	}
	ended := func(ctx context.Context, want error) {
		t.Helper()
		if got := context.Cause(ctx); !errors.Is(got, want) {
			t.Errorf("at %v: the context's end: got %v, want %v", now-time.Hour, got, want)
		}
	}
	first := talk()
	pass(time.Second)
	ended(first, nil) // never heard
	hear(nil)
	pass(300*time.Millisecond - 1)
	ended(first, nil)
	second := talk()
	if got, want := pass(1), time.Duration(0); got != want {
		t.Errorf("to be looked at again at %v", got)
	}
	ended(first, ErrLost)
	ended(second, ErrLost)
	ended(talk(), ErrLost)
	hear(func(d *datagram) { d.seq = 1 })
	ended(talk(), ErrLost) // a replay is nothing new
	hear(func(d *datagram) { d.kind, d.stream, d.toBoot = ping, 1, 0 })
	ended(talk(), ErrLost) // it does not know that we are there
	hear(nil)
	third := talk()
	ended(third, nil)

	// The end comes between two ticks.
	now += 50 * time.Millisecond
	hear(nil)
	now += 50 * time.Millisecond
	p.tick(false)
	if got := p.losses(); got != 0 {
		t.Errorf("to be looked at again at %v, before the next tick", got-now)
	}
	pass(200 * time.Millisecond)
	if got, want := p.losses()-now, 50*time.Millisecond; got != want {
		t.Errorf("to be looked at again in %v, want %v", got, want)
	}
	now += 50 * time.Millisecond
	p.losses()
	ended(third, ErrLost)

	// Whoever was stopped lets the others speak first.
	hear(nil)
	fourth := talk()
	now += time.Minute
	p.losses()
	ended(fourth, nil)
	p.tick(false)
	p.losses()
	ended(fourth, nil)
	pass(301 * time.Millisecond)
	ended(fourth, ErrLost)
}
