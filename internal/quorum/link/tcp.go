package link

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"pgvrrp/internal/quiet"
	"pgvrrp/internal/quorum/trust"
)

const (
	// dialTimeout bounds a dial whose caller gives no earlier deadline.
	dialTimeout = 2 * time.Second
	// stagger is the head start of one link before the next is tried beside it (as in RFC 8305).
	stagger = 20 * time.Millisecond
	// helloTimeout is how long a connection may take to say who it is.
	helloTimeout = 2 * time.Second
	// userTimeout is how long TCP waits for an acknowledgement before the connection fails (RFC 5482).
	userTimeout = time.Second
	// goodbyeTimeout is how long Close may try to tell the other side.
	goodbyeTimeout = 100 * time.Millisecond
	// maxNameless bounds the connections that have not said who they are, maxNamelessFrom those of one address.
	maxNameless     = 128
	maxNamelessFrom = 16
)

// keepAlive finds a dead peer of an idle connection in two to three seconds; of a busy one, userTimeout does.
func keepAlive() net.KeepAliveConfig {
	return net.KeepAliveConfig{Enable: true, Idle: time.Second, Interval: time.Second, Count: 2}
}

// Conn is a stream to or from one run of one voter.
type Conn struct {
	*tls.Conn
	raw   net.Conn
	peer  Self
	link  *peerLink // that it goes by; nil if its address is not in the configuration
	owner *Network
	layer *streamLayer // of raft's streams
	once  sync.Once
}

// PeerOf tells which run of which voter is at the other end of a connection of Dial, Handle or Raft.
func PeerOf(c net.Conn) (Self, bool) {
	if c, ok := c.(*Conn); ok {
		return c.peer, true
	}
	return Self{}, false
}

// Close says goodbye, for at most goodbyeTimeout, and closes the connection.
func (c *Conn) Close() error {
	var err error
	c.once.Do(func() {
		c.owner.forget(c)
		// On a dead link the goodbye of crypto/tls would wait five seconds for room in the socket's buffer.
		t := time.AfterFunc(goodbyeTimeout, func() { _ = c.raw.Close() })
		err = c.Conn.Close()
		t.Stop()
	})
	return err
}

// sever closes the connection at once.
func (c *Conn) sever() {
	c.owner.forget(c)
	_ = c.raw.Close()
}

// keep notes an open connection. It says no if the network was closed, or the peer removed or started anew, while the
// hello was under way: whoever closes connections because of that did not see this one.
func (n *Network) keep(c *Conn) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed || n.mute.Load() != nil || n.view.Load().peers[c.peer.ID] == nil || n.sender(c.peer.ID).present() != c.peer {
		return false
	}
	n.conns[c] = struct{}{}
	return true
}

func (n *Network) forget(c *Conn) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.conns, c)
}

// closeConns closes the connections that which names.
func (n *Network) closeConns(which func(*Conn) bool) {
	n.mu.Lock()
	var out []*Conn
	for c := range n.conns {
		if which(c) {
			out = append(out, c)
		}
	}
	n.mu.Unlock()
	for _, c := range out {
		c.sever()
	}
}

// clientConfigs makes the TLS configurations for one peer when they are first needed.
func (n *Network) clientConfigs(peer string) func(protocol string) (*tls.Config, error) {
	base := sync.OnceValues(func() (*tls.Config, error) { return n.o.Key.Client(n.o.Self.ID, peer) })
	return func(protocol string) (*tls.Config, error) {
		c, err := base()
		if err != nil {
			return nil, err
		}
		c = c.Clone()
		c.NextProtos = []string{protocol}
		return c, nil
	}
}

// Dial opens a stream for calls to a voter. id is "n1@INCARNATION", or "n1" for whichever incarnation answers: only
// before the bootstrap, when none is known, is that the right question. The error is or wraps a *RefusedError if the
// voter was reached.
func (n *Network) Dial(ctx context.Context, id string) (net.Conn, error) {
	c, err := n.dial(ctx, id, trust.ProtocolRPC, nil)
	if err != nil {
		return nil, err
	}
	return c, nil
}

// attempt is how one link did.
type attempt struct {
	link *peerLink
	conn *Conn
	err  error
}

// race has one winner; who comes later loses.
type race struct {
	mu   sync.Mutex
	over bool
}

func (r *race) win() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.over {
		return false
	}
	r.over = true
	return true
}

// dial tries the peer's links, those that are up first, each a little after the one before or when that has failed.
func (n *Network) dial(ctx context.Context, to, protocol string, layer *streamLayer) (*Conn, error) {
	id, incarnation := target(to)
	p := n.view.Load().peers[id]
	if p == nil {
		return nil, fmt.Errorf("dial voter %q: it is not in the configuration", to)
	}
	if why := n.takesNoPart(); why != "" {
		return nil, fmt.Errorf("dial voter %s: this voter takes no part: %s", id, why)
	}
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	links := p.ups()
	results := make(chan attempt, len(links))
	var r race
	started, ended := 0, 0
	start := func() {
		l := links[started]
		started++
		go func() {
			c, err := n.connect(ctx, p, l, incarnation, protocol)
			if err == nil {
				c.layer = layer
				if !r.win() {
					_ = c.Close()
					err = context.Canceled
				}
			}
			results <- attempt{l, c, err}
		}()
	}
	start()
	next := time.NewTimer(stagger)
	defer next.Stop()
	var errs []error
	for {
		select {
		case <-next.C:
			if started < len(links) {
				start()
				next.Reset(stagger)
			}
		case a := <-results:
			ended++
			if a.err == nil {
				a.link.note(nil)
				return n.dialed(a.conn)
			}
			a.link.note(a.err)
			errs = append(errs, fmt.Errorf("%s: %w", a.link.remote.Addr(), a.err))
			var refused *RefusedError
			if errors.As(a.err, &refused) {
				// Another link leads to the same refusal.
				n.refusalsOf(id).say(n.o.Now(), refused.Reason, refused.words())
				n.warn("no connection with voter", id, refused.Reason, "error", a.err)
				if !r.win() {
					break // the winner's result is under way
				}
				return nil, fmt.Errorf("dial voter %s: %w", id, a.err)
			}
			switch {
			case started < len(links):
				start()
				next.Reset(stagger)
			case ended == started:
				return nil, fmt.Errorf("dial voter %s: %w", id, joined(errs))
			}
		case <-ctx.Done():
			if !r.win() {
				for a := range results {
					if a.err == nil {
						return n.dialed(a.conn)
					}
				}
			}
			return nil, fmt.Errorf("dial voter %s: %w", id, joined(append(errs, ctx.Err())))
		}
	}
}

// dialFor is dial with a timeout, dialTimeout if it is 0.
func (n *Network) dialFor(to string, timeout time.Duration, protocol string, layer *streamLayer) (*Conn, error) {
	if timeout <= 0 {
		timeout = dialTimeout
	}
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	return n.dial(ctx, to, protocol, layer)
}

// dialed hands out a connection if it may still be.
func (n *Network) dialed(c *Conn) (*Conn, error) {
	if !n.keep(c) {
		c.sever()
		return nil, fmt.Errorf("dial voter %s: %w", c.peer.ID, net.ErrClosed)
	}
	if c.layer != nil && c.layer.closed() {
		c.sever()
		return nil, fmt.Errorf("dial voter %s: %w", c.peer.ID, net.ErrClosed)
	}
	return c, nil
}

// joinedError is errors.Join on one line.
type joinedError []error

func (e joinedError) Unwrap() []error { return e }

func (e joinedError) Error() string {
	var s []string
	for _, err := range e {
		s = append(s, err.Error())
	}
	return strings.Join(s, "; ")
}

func joined(errs []error) error {
	if len(errs) == 1 {
		return errs[0]
	}
	return joinedError(errs)
}

// connect opens a stream by one link, hello included.
func (n *Network) connect(ctx context.Context, p *peer, l *peerLink, incarnation, protocol string) (*Conn, error) {
	config, err := p.tls(protocol)
	if err != nil {
		return nil, err
	}
	d := net.Dialer{KeepAliveConfig: keepAlive(), Control: control}
	d.SetMultipathTCP(false)
	if l.local.addr.IsValid() {
		d.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(l.local.addr, 0))
	}
	raw, err := d.DialContext(ctx, "tcp", l.remote.String())
	if err != nil {
		return nil, cause(err)
	}
	raw = quiet.Conn(raw)
	t := tls.Client(raw, config)
	if err := t.HandshakeContext(ctx); err != nil {
		_ = raw.Close()
		return nil, n.handshakeError(p.id, err)
	}
	stop := context.AfterFunc(ctx, func() { _ = raw.Close() })
	peer, err := n.greet(t, p.id, incarnation, protocol)
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		_ = raw.Close()
		if ctx.Err() != nil {
			err = fmt.Errorf("no answer to the hello: %w", ctx.Err())
		}
		return nil, err
	}
	return &Conn{Conn: t, raw: raw, peer: peer, link: l, owner: n}, nil
}

// cause is the innermost of a dial's error: our messages name the address themselves.
func cause(err error) error {
	var call *os.SyscallError
	if errors.As(err, &call) {
		return call
	}
	var op *net.OpError
	if errors.As(err, &op) {
		return op.Err
	}
	return err
}

// handshakeError makes a refusal of a failed handshake that is about keys or names.
func (n *Network) handshakeError(id string, err error) error {
	if text := trust.Explain(err); text != "" {
		var remote *net.OpError
		return &RefusedError{
			Peer: id, ByPeer: errors.As(err, &remote) && remote.Op == "remote error", Reason: OtherKey, Detail: text,
		}
	}
	for _, alert := range []string{"tls: no application protocol", "tls: client requested unsupported application protocols"} {
		if strings.Contains(err.Error(), alert) {
			return &RefusedError{Peer: id, Reason: OtherVersion, Detail: errHelloVersion.Error()}
		}
	}
	return fmt.Errorf("TLS handshake: %w", err)
}

// hello is this voter's own.
func (n *Network) hello() hello {
	return hello{self: n.o.Self, cluster: n.o.Cluster()}
}

// greet is the dialer's part of the hello.
func (n *Network) greet(t *tls.Conn, id, incarnation, protocol string) (Self, error) {
	refuse := func(r Reason, format string, args ...any) (Self, error) {
		return Self{}, &RefusedError{Peer: id, Reason: r, Detail: fmt.Sprintf(format, args...)}
	}
	if got := t.ConnectionState().NegotiatedProtocol; got != protocol {
		return refuse(OtherVersion, "it does not know the protocol %q", protocol)
	}
	own := n.hello()
	own.wantID, own.wantIncarnation = id, incarnation
	if _, err := t.Write(own.append(nil)); err != nil {
		return Self{}, fmt.Errorf("send hello: %w", cause(err))
	}
	h, err := readHello(t)
	switch {
	case errors.Is(err, errHelloVersion):
		return refuse(OtherVersion, "%v", err)
	case errors.Is(err, errHello):
		return refuse(Malformed, "%v", err)
	case err != nil:
		// With TLS 1.3 the acceptor judges our certificate after our side of the handshake is done.
		return Self{}, n.handshakeError(id, fmt.Errorf("read hello: %w", err))
	}
	if h.reason != None {
		refused := &RefusedError{Peer: id, ByPeer: true, Reason: h.reason, Detail: h.detail, Cluster: h.cluster}
		if refused.outlived() {
			n.outlive(refused)
		}
		return Self{}, refused
	}
	if h.self.ID != id {
		return refuse(OtherVoter, "its certificate names %s, its hello %s", id, h.self.ID)
	}
	if incarnation != "" && h.self.Incarnation != incarnation {
		return refuse(OtherIncarnation, "its state directory is %s, not %s", h.self.Incarnation, incarnation)
	}
	if r, text := clusters(own.cluster, h.cluster, protocol); r != None {
		return Self{}, &RefusedError{Peer: id, Reason: r, Detail: text, Cluster: h.cluster}
	}
	if r, err := n.admit(h.self); r != None {
		return refuse(r, "%v", err)
	}
	return h.self, nil
}

const resetAdvice = "vrrpd quorum reset, on the one whose state directory is from elsewhere, makes it a new voter"

// clusters compares the two sides' cluster ids. The log is for members of one cluster only; calls also serve to become
// a member.
func clusters(own, other, protocol string) (Reason, string) {
	switch {
	case own == other && own != "":
		return None, ""
	case own != "" && other != "":
		return OtherCluster, fmt.Sprintf("it belongs to cluster %s, this voter to %s; %s", other, own, resetAdvice)
	case protocol != trust.ProtocolRaft:
		return None, ""
	case own == "":
		return NoCluster, "this voter belongs to no cluster yet"
	default:
		return NoCluster, "it belongs to no cluster yet"
	}
}

// accept takes connections until the socket is closed.
func (n *Network) accept(ctx context.Context, tasks *sync.WaitGroup, l *local, s *socket) {
	for {
		raw, err := s.tcp.Accept()
		if err != nil {
			if ctx.Err() != nil || s.gone.Load() {
				return
			}
			// Out of descriptors or memory. Anything worse ends at the next bind.
			n.log.Warn("accept connection", "address", l.addr, "error", err)
			if !errors.Is(err, unix.EMFILE) && !errors.Is(err, unix.ENFILE) && !errors.Is(err, unix.ENOBUFS) && !errors.Is(err, unix.ENOMEM) {
				l.drop(s, err)
				return
			}
			t := time.NewTimer(bindAgain)
			select {
			case <-ctx.Done():
			case <-t.C:
			}
			t.Stop()
			continue
		}
		from := remote(raw)
		if !n.enter(from.Addr()) {
			_ = raw.Close()
			n.rejectConn(l, "", from, Busy, errors.New("too many connections that have not said who they are"))
			continue
		}
		tasks.Go(func() { n.welcome(ctx, l, raw, from) })
	}
}

func remote(c net.Conn) netip.AddrPort {
	if a, ok := c.RemoteAddr().(*net.TCPAddr); ok {
		ap := a.AddrPort()
		return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
	}
	return netip.AddrPort{}
}

// enter counts a connection that has not said who it is; false if there are too many.
func (n *Network) enter(from netip.Addr) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.nameless >= maxNameless || n.waiting[from] >= maxNamelessFrom {
		return false
	}
	n.nameless++
	n.waiting[from]++
	return true
}

func (n *Network) leave(from netip.Addr) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.nameless--
	if n.waiting[from]--; n.waiting[from] == 0 {
		delete(n.waiting, from)
	}
}

// welcome is the acceptor's part of one connection, up to its end if it is one for calls.
func (n *Network) welcome(ctx context.Context, l *local, raw net.Conn, from netip.AddrPort) {
	c, protocol, err := n.identify(ctx, raw)
	n.leave(from.Addr())
	if err != nil {
		_ = raw.Close()
		var refused *RefusedError
		if errors.As(err, &refused) {
			n.rejectConn(l, refused.Peer, from, refused.Reason, err)
			return
		}
		switch {
		case ctx.Err() != nil, errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, unix.ECONNRESET),
			errors.Is(err, unix.EPIPE):
			// A dial that went by two links gives one of them up.
		case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.DeadlineExceeded):
			n.rejectConn(l, "", from, Silent, err)
		default:
			n.rejectConn(l, "", from, Malformed, err)
		}
		return
	}
	c.link = n.view.Load().linkFrom(c.peer.ID, from)
	if protocol == trust.ProtocolRaft {
		c.layer = n.raft.Load()
	}
	if !n.keep(c) {
		c.sever()
		return
	}
	if c.layer != nil {
		if !c.layer.offer(c) {
			c.sever()
		}
		return
	}
	defer c.Close()
	handler := n.handler.Load()
	if handler == nil {
		return
	}
	stop := context.AfterFunc(ctx, c.sever)
	defer stop()
	(*handler)(ctx, c.peer, c)
}

// identify does handshake and hello of an accepted connection. A *RefusedError has been told to the other side if it
// could be.
func (n *Network) identify(ctx context.Context, raw net.Conn) (*Conn, string, error) {
	ctx, cancel := context.WithTimeout(ctx, helloTimeout)
	defer cancel()
	raw = quiet.Conn(raw)
	t := tls.Server(raw, n.server)
	if err := t.HandshakeContext(ctx); err != nil {
		return nil, "", n.handshakeError("", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = raw.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	cs := t.ConnectionState()
	name, protocol := trust.PeerName(cs), cs.NegotiatedProtocol
	h, err := readHello(t)
	var refused *RefusedError
	switch {
	case errors.Is(err, errHelloVersion):
		refused = &RefusedError{Peer: name, Reason: OtherVersion, Detail: err.Error()}
	case errors.Is(err, errHello):
		refused = &RefusedError{Peer: name, Reason: Malformed, Detail: err.Error()}
	case err != nil:
		return nil, "", n.handshakeError(name, fmt.Errorf("read hello of %s: %w", name, err))
	default:
		refused = n.judge(name, protocol, &h)
	}
	answer := n.hello()
	answer.wantID = name
	if refused != nil {
		answer.reason, answer.detail = refused.Reason, refused.Detail
	}
	if _, err := t.Write(answer.append(nil)); err != nil && refused == nil {
		return nil, "", fmt.Errorf("send hello to %s: %w", name, cause(err))
	}
	if refused != nil {
		_ = t.CloseWrite()
		return nil, "", refused
	}
	if !stop() {
		return nil, "", ctx.Err()
	}
	return &Conn{Conn: t, raw: raw, peer: h.self, owner: n}, protocol, nil
}

// judge says why an accepted connection is refused. The detail is read at the other side.
func (n *Network) judge(name, protocol string, h *hello) *RefusedError {
	refuse := func(r Reason, format string, args ...any) *RefusedError {
		return &RefusedError{Peer: name, Reason: r, Detail: fmt.Sprintf(format, args...)}
	}
	own := n.o.Self
	if n.view.Load().peers[name] == nil {
		return refuse(UnknownVoter, "%s is not in the configuration of %s", name, own.ID)
	}
	if h.self.ID != name {
		return refuse(OtherVoter, "the certificate names %s, the hello %s", name, h.self.ID)
	}
	if h.wantID != own.ID {
		return refuse(OtherVoter, "%s was called, this is %s", h.wantID, own.ID)
	}
	between, _ := clusters(n.o.Cluster(), h.cluster, protocol)
	if between == OtherCluster { // before what follows from it
		return refuse(between, "%s belongs to cluster %s, %s to %s; %s", own.ID, n.o.Cluster(), name, h.cluster, resetAdvice)
	}
	if h.wantIncarnation != own.Incarnation && (h.wantIncarnation != "" || protocol == trust.ProtocolRaft) {
		return refuse(OtherIncarnation, "the state directory of %s is %s, not %q", own.ID, own.Incarnation, h.wantIncarnation)
	}
	if why := n.takesNoPart(); why != "" {
		return refuse(NoPart, "%s takes no part: %s", own.ID, why)
	}
	if between != None {
		return refuse(between, "one of %s and %s belongs to no cluster yet", own.ID, name)
	}
	switch protocol {
	case trust.ProtocolRaft:
		if s := n.raft.Load(); s == nil || s.closed() {
			return refuse(NotReady, "%s does not keep the log yet", own.ID)
		}
	case trust.ProtocolRPC:
		if n.handler.Load() == nil {
			return refuse(NotReady, "%s takes no calls yet", own.ID)
		}
	default:
		return refuse(OtherVersion, "unknown protocol %q", protocol)
	}
	if r, err := n.admit(h.self); r != None {
		return refuse(r, "%v", err)
	}
	return nil
}

// rejectConn counts and logs a refused connection. peer is "" if the certificate did not name it.
func (n *Network) rejectConn(l *local, peer string, from netip.AddrPort, r Reason, err error) {
	v := n.view.Load()
	via := v.linkFrom(peer, from)
	if v.peers[peer] == nil {
		peer = ""
		if via != nil {
			peer = via.peer
		}
	}
	if via != nil {
		via.rejected[r].Add(1)
	} else {
		l.rejected[r].Add(1)
	}
	if r.strange() {
		n.strangeAt.Store(int64(n.o.Now()))
	}
	var refused *RefusedError
	if peer != "" && errors.As(err, &refused) {
		n.refusalsOf(peer).say(n.o.Now(), r, refused.words())
	}
	n.warn("connection is refused", peer, r, "from", from, "error", err)
}

// Handle sets who takes the calls of other voters; until then they are refused. f runs in a goroutine of its own for
// each connection, which is closed when f returns or the network ends; f must then return. ctx ends with the network.
func (n *Network) Handle(f func(ctx context.Context, from Self, c net.Conn)) {
	n.handler.Store(&f)
}
