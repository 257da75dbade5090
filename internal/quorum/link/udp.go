package link

import (
	"context"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// local is one own address, or the socket of a family for which the routing table chooses one.
type local struct {
	index  int
	addr   netip.Addr // invalid: any
	is4    bool
	needed atomic.Bool

	socket   atomic.Pointer[socket]
	rejected counters

	mu  sync.Mutex
	err string
}

func newLocal(index int, addr netip.Addr, is4 bool) *local {
	return &local{index: index, addr: addr, is4: is4}
}

var errNotBound = errors.New("own address is not bound")

// bind opens the sockets of l: both or none.
func (l *local) bind(port uint16) (err error) {
	defer func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.err = ""
		if err != nil {
			l.err = err.Error()
		}
	}()
	s := &socket{}
	family, at := "4", netip.AddrPortFrom(l.addr, port)
	if !l.is4 {
		family = "6"
	}
	if !l.addr.IsValid() {
		at = netip.AddrPortFrom(netip.IPv6Unspecified(), 0)
		if l.is4 {
			at = netip.AddrPortFrom(netip.IPv4Unspecified(), 0)
		}
	}
	lc := net.ListenConfig{Control: control, KeepAliveConfig: keepAlive()}
	lc.SetMultipathTCP(false)
	c, err := lc.ListenPacket(context.Background(), "udp"+family, at.String())
	if err != nil {
		return err
	}
	if err = s.open(c.(*net.UDPConn)); err != nil {
		_ = c.Close()
		return err
	}
	if l.addr.IsValid() {
		t, err := lc.Listen(context.Background(), "tcp"+family, at.String())
		if err != nil {
			_ = s.udp.Close()
			return err
		}
		s.tcp = t.(*net.TCPListener)
	}
	l.socket.Store(s)
	return nil
}

// drop closes s, if it is still what l has bound, because of err.
func (l *local) drop(s *socket, err error) {
	if s == nil || !l.socket.CompareAndSwap(s, nil) {
		return
	}
	s.gone.Store(true)
	_ = s.udp.Close()
	if s.tcp != nil {
		_ = s.tcp.Close()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.err = err.Error()
}

// send sends b and never waits: a full socket buffer is an error.
func (l *local) send(b []byte, to netip.AddrPort) error {
	s := l.socket.Load()
	if s == nil {
		return errNotBound
	}
	return s.send(b, to)
}

// Send sends payload to a voter, on every link, and never waits. Each copy has the same number, so that the voter takes
// one of them. What cannot be sent is lost, as a datagram may be, and counted: before the bootstrap, to a voter whose
// present run is not known yet (a ping tells it), above MaxPayload, to who is no peer, or from a voter that takes no part.
func (n *Network) Send(to string, payload []byte) {
	p := n.view.Load().peers[to]
	if p == nil {
		return
	}
	boot := n.sender(to).present().Boot
	tag := n.tag()
	if len(payload) > MaxPayload || boot == 0 || tag == (clusterTag{}) || n.mute.Load() != nil {
		p.out.unsent.Add(1)
		if len(payload) > MaxPayload {
			n.warn("payload cannot be sent", to, TooLarge, "bytes", len(payload))
		}
		return
	}
	out := p.out
	out.tx.Lock()
	defer out.tx.Unlock()
	out.buf = n.seal(out.buf[:0], datagram{kind: data, cluster: tag, toBoot: boot, to: p.name, payload: payload})
	for _, l := range p.links {
		if n.transmit(l, out.buf) {
			l.sent.Add(1)
		}
	}
}

// seal adds a datagram of this voter with the next number to b.
func (n *Network) seal(b []byte, d datagram) []byte {
	d.starts, d.boot, d.words, d.given = n.o.Self.Starts, n.o.Self.Boot, n.o.Self.Words, n.o.Words()
	d.from, d.incarnation = n.id, n.incarnation
	d.seq = n.seq.Add(1)
	return n.sealer.Seal(d.append(b))
}

func (n *Network) transmit(l *peerLink, b []byte) bool {
	err := l.local.send(b, l.remote)
	if err != nil {
		l.sendErrors.Add(1)
	}
	l.note(err)
	return err == nil
}

// prober pings every link and says which are down.
type prober struct {
	n     *Network
	buf   []byte
	last  time.Duration // the tick before
	awake time.Duration // when we last came back from a pause; no link is down before it had time to answer
}

// tick pings every link, but those on which the peer's pings show that each of us hears the other: of two voters, that with the
// lower id pings, and tells the other what came of it. all leaves none out.
func (p *prober) tick(all bool) {
	n := p.n
	now := n.o.Now()
	if p.last == 0 || now-p.last > pingsLost*n.o.Ping {
		p.awake = now
	}
	p.last = now
	tag := n.tag()
	for _, peer := range n.view.Load().order {
		boot := n.sender(peer.id).present().Boot
		for k, l := range peer.links {
			if l.expire(now, p.awake, pingsLost*n.o.Ping) {
				n.log.Info("link is down", "peer", peer.id, "address", l.remote.Addr())
				n.abandon(peer, l)
			}
			answered, told := l.word(now, n.o.Ping)
			if told && peer.id < n.o.Self.ID && !all {
				continue
			}
			var payload [pingPayload]byte
			binary.BigEndian.PutUint64(payload[:], uint64(now))
			binary.BigEndian.PutUint64(payload[8:], uint64(answered))
			p.buf = n.seal(p.buf[:0], datagram{
				kind: ping, cluster: tag, toBoot: boot, stream: uint16(k + 1), to: peer.name, payload: payload[:],
			})
			n.transmit(l, p.buf)
		}
	}
}

// losses ends what is said to voters that are lost. It returns when the next one will be, unless it is heard or the next tick comes
// first: 0.
func (p *prober) losses() (next time.Duration) {
	n := p.n
	now := n.o.Now()
	if now > p.last+n.o.Ping {
		return 0 // we are late, perhaps because we were stopped: the tick that is due looks first what is so
	}
	for _, peer := range n.view.Load().order {
		at := n.sender(peer.id).expire(now, p.awake, pingsLost*n.o.Ping)
		if at != 0 && at < p.last+n.o.Ping && (next == 0 || at < next) {
			next = at
		}
	}
	return next
}

// word is how long the last ping's answer took, 0 if none came, and whether the peer's last ping told that it has ours.
func (l *peerLink) word(now, every time.Duration) (answered time.Duration, told bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	// A ping that is late by half an interval is no reason to do without its word.
	fresh := every + every/2
	if l.ponged != 0 && now-l.ponged < fresh {
		answered = l.last
	}
	return answered, l.told != 0 && now-l.told < fresh
}

// expire makes l down if nothing answered for limit, and reports that it did.
func (l *peerLink) expire(now, awake, limit time.Duration) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.up || now-max(l.proved, awake) <= limit {
		return false
	}
	l.up, l.since = false, now
	return true
}

// abandon closes the connections that go by l, a link that is down, if another one is up: whoever uses them dials
// again at once instead of waiting for TCP to give up.
func (n *Network) abandon(p *peer, l *peerLink) {
	other := false
	for _, o := range p.links {
		o.mu.Lock()
		other = other || o.up
		o.mu.Unlock()
	}
	if other {
		n.closeConns(func(c *Conn) bool { return c.link == l })
	}
}

// receive takes datagrams until the socket is closed. An error of the socket makes Run bind it anew.
func (n *Network) receive(ctx context.Context, l *local, s *socket) {
	err := s.receive(func(from netip.AddrPort, b []byte) { n.datagram(l, s, from, n.o.Now(), b) })
	if ctx.Err() == nil && !s.gone.Load() {
		n.log.Warn("address is bound again", "error", err)
		l.drop(s, err)
	}
}

// datagram takes one datagram. b is valid during the call.
func (n *Network) datagram(l *local, s *socket, from netip.AddrPort, at time.Duration, b []byte) {
	d, reason := openDatagram(n.sealer, b)
	v := n.view.Load()
	if reason == None {
		reason = n.meant(v, &d)
	}
	if reason != None {
		// Who sent it may be a lie, so it counts for the address that it came from.
		n.reject(l, v.linkFrom("", from), from, reason)
		return
	}
	p := v.peers[string(d.from)]
	via := v.linkFrom(p.id, from)
	fresh, reason, ask := n.sender(p.id).check(&d, n.o.Self.Boot, l.index, at)
	if reason == None && d.kind == data && n.mute.Load() != nil {
		reason = NoPart
	}
	if ask {
		select {
		case n.admissions <- Self{ID: p.id, Incarnation: string(d.incarnation), Starts: d.starts, Boot: d.boot, Words: d.words}:
		default:
			// So many at once that the next ping may ask again.
		}
	}
	if reason == None && n.o.OnWords != nil && n.sender(p.id).news(d.given) {
		n.o.OnWords(p.id, d.boot, d.given)
	}
	switch {
	case reason != None:
		n.reject(l, via, from, reason)
	case !fresh:
		if via != nil {
			via.duplicates.Add(1)
		}
	case d.kind == data:
		if via != nil {
			via.received.Add(1)
		}
		if n.o.OnDatagram != nil {
			n.o.OnDatagram(p.id, d.boot, at, append([]byte(nil), d.payload...))
		}
	case d.kind == ping:
		n.answer(p, s, from, &d)
		if via != nil && via.remote == from && via.local == l && d.toBoot == n.o.Self.Boot {
			n.toldBy(via, &d, at)
		}
	default:
		n.ponged(p, &d, at)
	}
}

// meant says why an authentic datagram is none of our business.
func (n *Network) meant(v *view, d *datagram) Reason {
	own := n.tag()
	switch {
	case string(d.to) != n.o.Self.ID:
		return OtherVoter
	case v.peers[string(d.from)] == nil:
		return UnknownVoter
	case own != (clusterTag{}) && d.cluster != (clusterTag{}) && own != d.cluster:
		return OtherCluster
	case d.kind == data && (own == (clusterTag{}) || d.cluster == (clusterTag{})):
		return NoCluster
	}
	return None
}

// answer sends a ping back to where it came from.
func (n *Network) answer(p *peer, s *socket, from netip.AddrPort, d *datagram) {
	var payload [pongPayload]byte
	binary.BigEndian.PutUint16(payload[:], d.stream)
	copy(payload[2:], d.payload)
	s.pong = n.seal(s.pong[:0], datagram{
		kind: pong, cluster: n.tag(), toBoot: d.boot, stream: pongStream | d.stream, to: p.name, payload: payload[:],
	})
	// A failure shows at the other side, as a ping without answer.
	_ = s.send(s.pong, from)
}

// maxRTT is far above any link on which a lease could live; a clock that jumped shows as more.
const maxRTT = 10 * time.Second

// ponged takes the answer to a ping of ours.
func (n *Network) ponged(p *peer, d *datagram, at time.Duration) {
	k := int(binary.BigEndian.Uint16(d.payload)) - 1
	rtt := at - time.Duration(binary.BigEndian.Uint64(d.payload[2:]))
	if k < 0 || k >= len(p.links) || rtt < 0 || rtt > maxRTT {
		return
	}
	l := p.links[k]
	l.mu.Lock()
	l.ponged, l.last = at, max(rtt, 1)
	l.mu.Unlock()
	n.proved(l, at, max(rtt, 1))
}

// toldBy takes the peer's word, in its ping, that it has had our answer to the ping before, and how soon.
func (n *Network) toldBy(l *peerLink, d *datagram, at time.Duration) {
	rtt := time.Duration(binary.BigEndian.Uint64(d.payload[8:]))
	if rtt <= 0 || rtt > maxRTT {
		return
	}
	l.mu.Lock()
	l.told = at
	l.mu.Unlock()
	n.proved(l, at, rtt)
}

// proved notes that l works in both directions.
func (n *Network) proved(l *peerLink, at, rtt time.Duration) {
	l.mu.Lock()
	rose := !l.up
	if rose {
		l.up, l.since = true, at
	}
	l.proved = max(l.proved, at)
	if l.rtt == 0 {
		l.rtt = rtt
	} else {
		l.rtt += (rtt - l.rtt) / 8
	}
	l.mu.Unlock()
	if rose {
		n.log.Info("link is up", "peer", l.peer, "address", l.remote.Addr(), "rtt", rtt)
	}
}

// reject counts a datagram that was dropped, and logs it if an operator should know.
func (n *Network) reject(l *local, via *peerLink, from netip.AddrPort, r Reason) {
	peer := ""
	if via != nil {
		via.rejected[r].Add(1)
		peer = via.peer
		n.refusalsOf(peer).drop(n.o.Now(), r)
	} else {
		l.rejected[r].Add(1)
	}
	if r.strange() {
		n.strangeAt.Store(int64(n.o.Now()))
	}
	switch r {
	case OtherRun, NoCluster, NotAdmitted, NoPart:
		// Normal after a start, and what the directory says is logged when it says it.
		return
	}
	n.warn("datagram is refused", peer, r, "from", from)
}

// control sets what every socket of ours has. All of it is best effort: a refusal leaves a working socket.
func control(network, _ string, c syscall.RawConn) error {
	return c.Control(func(fd uintptr) {
		// Internetwork control, as adverts have (RFC 2474 section 4.2.2.2), and the queueing discipline's first band.
		const class, priority = 0xc0, 6
		if network[len(network)-1] == '6' {
			_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_TCLASS, class)
		} else {
			_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_TOS, class)
		}
		_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_PRIORITY, priority)
		if network[:3] == "tcp" {
			_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(userTimeout.Milliseconds()))
		}
	})
}
