package link

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
	"golang.org/x/sys/unix"

	"pgvrrp/internal/quorum/trust"
)

// echo answers each call with who called and what was said.
func echo(_ context.Context, from Self, c net.Conn) {
	var b [64]byte
	for {
		n, err := c.Read(b[:])
		if err != nil {
			return
		}
		if _, err := fmt.Fprintf(c, "%s says %s", from.RaftID(), b[:n]); err != nil {
			return
		}
	}
}

// say sends text and returns the answer.
func say(t *testing.T, c net.Conn, text string) string {
	t.Helper()
	if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatal(err)
	}
	var b [64]byte
	n, err := c.Read(b[:])
	if err != nil {
		t.Fatal(err)
	}
	return string(b[:n])
}

// refusedAs checks that err is a refusal for the reason r.
func refusedAs(t *testing.T, err error, r Reason, byPeer bool) {
	t.Helper()
	var refused *RefusedError
	if !errors.As(err, &refused) {
		t.Fatalf("got %v, want a refusal", err)
	}
	if refused.Reason != r || refused.ByPeer != byPeer {
		t.Errorf("got %q (by the peer: %v), want %v (%v)", err, refused.ByPeer, r, byPeer)
	}
}

func TestCalls(t *testing.T) {
	l := newLab(t)
	peers := l.peers(2, 2)
	a, b := l.start(0, peers, nil), l.start(1, peers, nil)
	b.Handle(echo)
	for _, id := range []string{"n2", b.o.Self.RaftID()} {
		c, err := a.Dial(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		if got, want := say(t, c, "hello"), "n1@inc-n1 says hello"; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
		if peer, ok := PeerOf(c); !ok || peer != b.o.Self {
			t.Errorf("the other end is %+v", peer)
		}
		c.Close()
	}
	known(t, a, b)
	eventually(t, "the connections to be forgotten", func() bool {
		a.mu.Lock()
		defer a.mu.Unlock()
		b.mu.Lock()
		defer b.mu.Unlock()
		return len(a.conns)+len(b.conns)+a.nameless+b.nameless+len(b.waiting) == 0
	})
	if _, ok := PeerOf(&net.TCPConn{}); ok {
		t.Error("a connection of somebody else has a peer")
	}
	if _, err := a.Dial(t.Context(), "n9"); err == nil || !strings.Contains(err.Error(), "not in the configuration") {
		t.Errorf("dial an unknown voter: got %v", err)
	}
	if _, err := a.Dial(t.Context(), "n1"); err == nil {
		t.Error("dialed itself")
	}
	_, err := a.Dial(t.Context(), "n2@another")
	refusedAs(t, err, OtherIncarnation, true)
	// The network's end ends a call.
	c, err := a.Dial(t.Context(), "n2")
	if err != nil {
		t.Fatal(err)
	}
	say(t, c, "x")
	b.stop()
	if _, err := c.Read(make([]byte, 1)); err == nil {
		t.Error("the call goes on")
	}
	if _, err := b.Dial(t.Context(), "n1"); err == nil {
		t.Error("a closed network dials")
	}
}

func TestNotReady(t *testing.T) {
	l := newLab(t)
	peers := l.peers(1, 1)
	a, b := l.start(0, peers, nil), l.start(1, peers, nil)
	_, err := a.Dial(t.Context(), "n2")
	refusedAs(t, err, NotReady, true)
	_, err = a.Raft().Dial(raft.ServerAddress(b.o.Self.RaftID()), time.Second)
	refusedAs(t, err, NotReady, true)
}

// about are the lines about connections in v's log that contain text.
func about(v *voter, text string) int {
	n := 0
	for _, line := range v.log.lines("connection") {
		if strings.Contains(line, text) {
			n++
		}
	}
	return n
}

func TestHelloRefusals(t *testing.T) {
	other, none := "cluster-2", ""
	for _, tc := range []struct {
		name   string
		peers  func(*lab) (a, b []Peer)
		change func(a, b *voter) (ao, bo func(*Options))
		raft   bool // dial for the log, not for a call
		want   Reason
		byPeer bool
		logA   string
		logB   string
	}{
		{
			name: "other cluster",
			change: func(_, b *voter) (func(*Options), func(*Options)) {
				return nil, func(*Options) { b.cluster.Store(&other) }
			},
			want: OtherCluster, byPeer: true,
			logA: "n2 belongs to cluster cluster-2, n1 to cluster-1", logB: "n2 belongs to cluster cluster-2, n1 to cluster-1",
		},
		{
			name: "log without a cluster there", raft: true,
			change: func(_, b *voter) (func(*Options), func(*Options)) {
				return nil, func(*Options) { b.cluster.Store(&none) }
			},
			want: NoCluster, byPeer: true, logA: "belongs to no cluster yet", logB: "belongs to no cluster yet",
		},
		{
			name: "log without a cluster on either side", raft: true,
			change: func(a, b *voter) (func(*Options), func(*Options)) {
				return func(*Options) { a.cluster.Store(&none) }, func(*Options) { b.cluster.Store(&none) }
			},
			want: NoCluster, byPeer: true, logA: "belongs to no cluster yet", logB: "belongs to no cluster yet",
		},
		{
			name: "other key",
			change: func(_, b *voter) (func(*Options), func(*Options)) {
				return nil, func(o *Options) { o.Key = newKey(b.t) }
			},
			want: OtherKey, logA: "every voter needs the same key file", logB: "its key file is another one",
		},
		{
			name:  "voter that is not in the peer's configuration",
			peers: func(l *lab) ([]Peer, []Peer) { return l.peers(1, 1), []Peer{{}, l.peers(1, 1)[1]} },
			want:  UnknownVoter, byPeer: true, logA: "n1 is not in the configuration of n2", logB: "n1 is not in the configuration of n2",
		},
		{
			name: "address of another voter",
			peers: func(l *lab) ([]Peer, []Peer) {
				b := l.peers(1, 1)
				b[1].ID = "n3"
				return l.peers(1, 1), b
			},
			want: OtherKey, logB: "it takes our address for another voter's",
		},
		{
			name: "refused by the peer's directory",
			change: func(_, b *voter) (func(*Options), func(*Options)) {
				return nil, func(*Options) { b.dir.set(func(Self) error { return errors.New("a restored snapshot") }) }
			},
			want: NotAdmitted, byPeer: true, logA: "a restored snapshot", logB: "a restored snapshot",
		},
		{
			name: "refused by our directory",
			change: func(a, _ *voter) (func(*Options), func(*Options)) {
				return func(*Options) { a.dir.set(func(Self) error { return errors.New("a restored snapshot") }) }, nil
			},
			want: NotAdmitted, logA: "a restored snapshot",
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			l := newLab(t)
			pa, pb := l.peers(1, 1), l.peers(1, 1)
			if tc.peers != nil {
				pa, pb = tc.peers(l)
			}
			a, b := &voter{t: t}, &voter{t: t}
			var ao, bo func(*Options)
			if tc.change != nil {
				ao, bo = tc.change(a, b)
			}
			if pb[0].ID == "" {
				pb = []Peer{{ID: "n9", Addrs: l.addrs(8, 1), Port: l.port}, pb[1]}
			}
			// One ping at the start; the rest of what is refused is connections.
			quiet := func(f func(*Options)) func(*Options) {
				return func(o *Options) {
					o.Ping = time.Hour
					if f != nil {
						f(o)
					}
				}
			}
			for v, o := range map[*voter]Options{a: l.options(a, 0, pa, quiet(ao)), b: l.options(b, 1, pb, quiet(bo))} {
				n, err := Open(o)
				if err != nil {
					t.Fatal(err)
				}
				v.Network = n
				v.run(t)
			}
			b.Handle(echo)
			b.Raft()
			dial := func() error {
				if tc.raft {
					_, err := a.Raft().Dial(raft.ServerAddress(b.o.Self.RaftID()), 5*time.Second)
					return err
				}
				_, err := a.Dial(t.Context(), "n2")
				return err
			}
			err := dial()
			if tc.name == "address of another voter" {
				// Our side sees the wrong name in the certificate itself.
				if err == nil || !strings.Contains(err.Error(), `check certificate of n2: it names "n3"`) {
					t.Errorf("got %v", err)
				}
				eventually(t, "one line in n3's log", func() bool { return about(b, tc.logB) == 1 })
				return
			}
			refusedAs(t, err, tc.want, tc.byPeer)
			if err := dial(); err == nil {
				t.Error("the second dial is taken")
			}
			if tc.logA != "" {
				eventually(t, "one line in n1's log", func() bool { return about(a, tc.logA) == 1 })
			}
			if tc.logB != "" {
				eventually(t, "one line in n2's log", func() bool { return about(b, tc.logB) == 1 })
				eventually(t, "n2 to count both", func() bool { return b.rejects(tc.want) >= 2 })
			}
		})
	}
}

// TestOutlived: a voter that is told that its directory is an old copy says and takes nothing any more, not even with those who would talk
// to it. One that knows it from the start, neither; both still ping.
func TestOutlived(t *testing.T) {
	l := newLab(t)
	peers := l.peers(1, 1, 1)
	var all []*voter
	var told atomic.Pointer[string]
	for i := range peers {
		v := &voter{t: t}
		n, err := Open(l.options(v, i, peers, func(o *Options) {
			if i == 0 {
				o.OnOutlived = func(why string) { told.Store(&why) }
			}
		}))
		if err != nil {
			t.Fatal(err)
		}
		v.Network = n
		all = append(all, v)
	}
	n1, n2, n3 := all[0], all[1], all[2]
	n2.dir.set(func(who Self) error {
		if who.ID == "n1" {
			return fmt.Errorf("%w: fewer words", ErrOutlived)
		}
		return nil
	})
	for _, v := range all {
		v.Handle(echo)
		v.run(t)
	}
	eventually(t, "n3 to hear n1, whom nobody has told yet", func() bool {
		n1.Send("n3", []byte("word"))
		return len(n3.got) > 0
	})
	c, err := n1.Dial(t.Context(), "n3")
	if err != nil {
		t.Fatal(err)
	}
	_, err = n1.Dial(t.Context(), "n2")
	refusedAs(t, err, Outlived, true)
	if why := told.Load(); why == nil || !strings.Contains(*why, "voter n2 refuses this one") || !strings.Contains(*why, "fewer words") {
		t.Errorf("told %v, want who refuses and why", why)
	}
	if _, err := c.Read(make([]byte, 1)); err == nil {
		t.Error("a connection of before is still open")
	}
	if _, err := n1.Dial(t.Context(), "n3"); err == nil || !strings.Contains(err.Error(), "takes no part: voter n2 refuses this one") {
		t.Errorf("dial n3: got %v", err)
	}
	_, err = n3.Dial(t.Context(), "n1")
	refusedAs(t, err, NoPart, true)
	for len(n3.got) > 0 {
		<-n3.got
	}
	before := n1.Status()[1].Unsent
	n1.Send("n3", []byte("word"))
	if got := n1.Status()[1].Unsent; got != before+1 {
		t.Errorf("%d payloads were not sent, want %d", got, before+1)
	}
	eventually(t, "n1 to drop what n3 says", func() bool {
		n3.Send("n1", []byte("word"))
		return n1.rejects(NoPart) > 0
	})
	if len(n1.got) > 0 {
		t.Error("n1 takes a word")
	}
	eventually(t, "their links to be up all the same", func() bool { return n3.Status()[0].Up && n1.Status()[1].Up })

	// A later run, which knows it from the start.
	n1.stop()
	again := &voter{t: t}
	n, err := Open(l.options(again, 0, peers, func(o *Options) { o.Self.Starts, o.Self.Boot, o.Outlived = 2, 77, *told.Load() }))
	if err != nil {
		t.Fatal(err)
	}
	again.Network = n
	again.run(t)
	if _, err := again.Dial(t.Context(), "n3"); err == nil || !strings.Contains(err.Error(), "takes no part") {
		t.Errorf("dial n3 in the next run: got %v", err)
	}
	eventually(t, "n3 to be refused by the next run", func() bool {
		_, err := n3.Dial(t.Context(), "n1")
		var refused *RefusedError
		return errors.As(err, &refused) && refused.Reason == NoPart
	})
}

func TestCallBeforeBootstrap(t *testing.T) {
	l := newLab(t)
	peers := l.peers(1, 1)
	none := ""
	a, b := l.open(0, peers, nil), l.start(1, peers, nil)
	a.cluster.Store(&none)
	a.run(t)
	b.Handle(echo)
	c, err := a.Dial(t.Context(), "n2")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if got, want := say(t, c, "empty?"), "n1@inc-n1 says empty?"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestRaftStreams(t *testing.T) {
	l := newLab(t)
	peers := l.peers(1, 1)
	a, b := l.start(0, peers, nil), l.start(1, peers, nil)
	as, bs := a.Raft(), b.Raft()
	if got, want := as.Addr().String(), "n1@inc-n1"; got != want {
		t.Errorf("address: got %q, want %q", got, want)
	}
	for _, tc := range []struct{ address, want string }{
		{"n2", "no incarnation is named"}, {"n2@", "no incarnation is named"}, {"", "no incarnation is named"},
		{"n9@x", "not in the configuration"}, {"n2@emptied", "the state directory of n2 is inc-n2, not \"emptied\""},
	} {
		if _, err := as.Dial(raft.ServerAddress(tc.address), time.Second); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("dial %q: got %v, want it to say %q", tc.address, err, tc.want)
		}
	}
	c, err := as.Dial("n2@inc-n2", 0)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	in, err := bs.Accept()
	if err != nil {
		t.Fatal(err)
	}
	if peer, _ := PeerOf(in); peer != a.o.Self {
		t.Errorf("accepted %+v", peer)
	}
	if _, err := io.WriteString(c, "x"); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(in, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}

	// Another transport takes over: the one before ends with all that it had.
	next := b.Raft()
	if _, err := bs.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("accept at the old transport: got %v", err)
	}
	if _, err := bs.Dial("n1@inc-n1", time.Second); !errors.Is(err, net.ErrClosed) {
		t.Errorf("dial from the old transport: got %v", err)
	}
	if _, err := c.Read(make([]byte, 1)); err == nil {
		t.Error("a stream of the old transport goes on")
	}
	c, err = as.Dial("n2@inc-n2", 0)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := next.Accept(); err != nil {
		t.Fatal(err)
	}
	if err := next.Close(); err != nil {
		t.Error(err)
	}
	_, err = as.Dial("n2@inc-n2", 0)
	refusedAs(t, err, NotReady, true)
	b.stop()
	if _, err := b.Raft().Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("accept at a closed network: got %v", err)
	}
}

// raft's own transport on top: its address is what the membership has, and a call passes both ways.
func TestRaftTransport(t *testing.T) {
	l := newLab(t)
	peers := l.peers(2, 2)
	a, b := l.start(0, peers, nil), l.start(1, peers, nil)
	transport := func(v *voter) *raft.NetworkTransport {
		tr := raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{
			Stream: v.Raft(), MaxPool: 2, Timeout: 5 * time.Second, Logger: hclog.NewNullLogger(),
		})
		t.Cleanup(func() { tr.Close() })
		return tr
	}
	at, bt := transport(a), transport(b)
	if got, want := at.LocalAddr(), raft.ServerAddress("n1@inc-n1"); got != want {
		t.Errorf("local address: got %q, want %q", got, want)
	}
	go func() {
		for {
			select {
			case rpc := <-bt.Consumer():
				v := rpc.Command.(*raft.RequestVoteRequest)
				rpc.Respond(&raft.RequestVoteResponse{Term: v.Term + 1, Granted: true}, nil)
			case <-t.Context().Done():
				return
			}
		}
	}()
	for term := range uint64(3) {
		var resp raft.RequestVoteResponse
		if err := at.RequestVote("n2@inc-n2", bt.LocalAddr(), &raft.RequestVoteRequest{Term: term}, &resp); err != nil {
			t.Fatal(err)
		}
		if !resp.Granted || resp.Term != term+1 {
			t.Errorf("got %+v", resp)
		}
	}
	if err := at.RequestVote("n2@gone", "n2@gone", &raft.RequestVoteRequest{}, &raft.RequestVoteResponse{}); err == nil {
		t.Error("another incarnation gives its vote")
	}
}

func TestDialWithOneLinkDown(t *testing.T) {
	l := newLab(t)
	peers := l.peers(2, 2)
	// n2's first address is never bound.
	squatter, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(l.addr(1, 0), l.port)))
	if err != nil {
		t.Fatal(err)
	}
	defer squatter.Close()
	a, b := l.start(0, peers, nil), l.start(1, peers, nil)
	b.Handle(echo)
	c, err := a.Dial(t.Context(), "n2")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if got := remote(c.(*Conn).raw).Addr(); got != l.addr(1, 1) {
		t.Errorf("by %v, want %v", got, l.addr(1, 1))
	}
	if got := c.LocalAddr().(*net.TCPAddr).AddrPort().Addr(); got != l.addr(0, 1) {
		t.Errorf("from %v, want %v", got, l.addr(0, 1))
	}
	eventually(t, "the second link to be up", func() bool { return a.ups("n2") == 1 })
	if got := a.view.Load().peers["n2"].ups()[0].remote.Addr(); got != l.addr(1, 1) {
		t.Errorf("the next dial tries %v first", got)
	}
	// None at all: every link is in the error.
	b.stop()
	_, err = a.Dial(t.Context(), "n2")
	if err == nil || !strings.Contains(err.Error(), l.addr(1, 0).String()) || !strings.Contains(err.Error(), l.addr(1, 1).String()) ||
		!strings.Contains(err.Error(), "connection refused") || !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("got %v", err)
	}
}

// A link that no longer answers pings gives its connections up at once if there is another.
func TestConnectionsLeaveADeadLink(t *testing.T) {
	l := newLab(t)
	peers := l.peers(2, 2)
	a, b := l.start(0, peers, nil), l.start(1, peers, nil)
	b.Handle(echo)
	eventually(t, "both links to be up", func() bool { return a.ups("n2") == 2 && b.ups("n1") == 2 })
	c, err := a.Dial(t.Context(), "n2")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	say(t, c, "x")
	if got := remote(c.(*Conn).raw).Addr(); got != l.addr(1, 0) {
		t.Fatalf("by %v, want %v", got, l.addr(1, 0))
	}
	// Datagrams on the first LAN go nowhere, while TCP would wait.
	s := b.locals[0].socket.Load()
	s.udp.Close()
	squatter, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(l.addr(1, 0), l.port)))
	if err != nil {
		t.Fatal(err)
	}
	if err := c.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, unix.ETIMEDOUT) {
		t.Errorf("read: got %v", err)
	}
	eventually(t, "the link to be down", func() bool { return a.ups("n2") == 1 && b.ups("n1") == 1 })
	if c, err = a.Dial(t.Context(), "n2"); err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	say(t, c, "y")
	if got := remote(c.(*Conn).raw).Addr(); got != l.addr(1, 1) {
		t.Errorf("by %v, want %v", got, l.addr(1, 1))
	}
	squatter.Close()
	eventually(t, "both links to be up again", func() bool { return a.ups("n2") == 2 && b.ups("n1") == 2 })
	say(t, c, "still there")
}

func TestRestartClosesOldConnections(t *testing.T) {
	l := newLab(t)
	peers := l.peers(1, 1)
	a, b := l.start(0, peers, nil), l.start(1, peers, nil)
	b.Handle(echo)
	c, err := a.Dial(t.Context(), "n2")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	say(t, c, "x")
	next := b.o.Self
	next.Starts, next.Boot = 2, 2222
	if r, err := a.admit(next); r != None {
		t.Fatal(err)
	}
	if _, err := c.Read(make([]byte, 1)); err == nil {
		t.Error("the connection to the run before goes on")
	}
	// That run itself is refused from now on, although the directory has nothing against it.
	_, err = a.Dial(t.Context(), "n2")
	refusedAs(t, err, OldStart, false)
}

func TestPeerThatNeverAnswers(t *testing.T) {
	l := newLab(t)
	peers := l.peers(1, 1)
	a := l.start(0, peers, nil)
	mute, err := net.Listen("tcp4", netip.AddrPortFrom(l.addr(1, 0), l.port).String())
	if err != nil {
		t.Fatal(err)
	}
	defer mute.Close()
	server, err := l.key.Server("n2")
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name  string
		serve func(net.Conn)
	}{
		{"to TLS", func(net.Conn) {}},
		{"to the hello", func(c net.Conn) { _ = tls.Server(c, server).Handshake() }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			taken := make(chan net.Conn, 1)
			go func() {
				if c, err := mute.Accept(); err == nil {
					tc.serve(c)
					taken <- c
				}
			}()
			ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
			defer cancel()
			start := time.Now()
			_, err := a.Dial(ctx, "n2")
			if !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("got %v", err)
			}
			if took := time.Since(start); took > 5*time.Second {
				t.Errorf("took %v", took)
			}
			(<-taken).Close()
		})
	}
}

// The second link gets its chance while the first one is still silent.
func TestStagger(t *testing.T) {
	l := newLab(t)
	peers := l.peers(2, 2)
	mute, err := net.Listen("tcp4", netip.AddrPortFrom(l.addr(1, 0), l.port).String())
	if err != nil {
		t.Fatal(err)
	}
	defer mute.Close()
	if err := mute.(*net.TCPListener).SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	// Without pings after the first, which nobody hears, neither link is up: the dial would begin with that one.
	rare := func(o *Options) { o.Ping = time.Hour }
	a, b := l.start(0, peers, rare), l.start(1, peers, rare)
	b.Handle(echo)
	c, err := a.Dial(t.Context(), "n2")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if got := remote(c.(*Conn).raw).Addr(); got != l.addr(1, 1) {
		t.Errorf("by %v, want %v", got, l.addr(1, 1))
	}
	say(t, c, "x")
	// The loser is closed.
	lost, err := mute.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer lost.Close()
	if err := lost.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, lost); errors.Is(err, context.DeadlineExceeded) {
		t.Error("the loser is still open")
	}
}

func TestSilentAndNoisyConnections(t *testing.T) {
	l := newLab(t)
	peers := l.peers(1, 1)
	v := l.start(0, peers, nil)
	v.Handle(echo)
	at := netip.AddrPortFrom(l.addr(0, 0), l.port).String()
	dial := func() net.Conn {
		t.Helper()
		c, err := net.Dial("tcp4", at)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	ended := func(c net.Conn) {
		t.Helper()
		if err := c.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, c); err != nil && !errors.Is(err, unix.ECONNRESET) {
			t.Errorf("the connection goes on: %v", err)
		}
	}
	noisy := dial()
	if _, err := io.WriteString(noisy, "GET / HTTP/1.0\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	ended(noisy)
	eventually(t, "the noise to be counted", func() bool { return v.rejects(Malformed) == 1 })

	// With the right key, but another frame than a hello.
	config, err := l.key.Client("n2", "n1")
	if err != nil {
		t.Fatal(err)
	}
	for i, text := range []string{"\x00\x02\x01\x00", "\x00\x01\x09", "\xff\xff"} {
		config.NextProtos = []string{trust.ProtocolRPC}
		c := tls.Client(dial(), config)
		if _, err := io.WriteString(c, text); err != nil {
			t.Fatal(err)
		}
		ended(c)
		want := []struct {
			r Reason
			n uint64
		}{{Malformed, 2}, {OtherVersion, 1}, {Malformed, 3}}[i]
		eventually(t, "the frame to be counted", func() bool { return v.rejects(want.r) == want.n })
	}
	// A hello without a protocol, and one under another name than the certificate's.
	h := hello{self: self("n2"), cluster: "cluster-1", wantID: "n1"}
	lie := h
	lie.self.ID = "n3"
	for _, tc := range []struct {
		h      hello
		protos []string
		want   Reason
	}{{h, nil, OtherVersion}, {lie, []string{trust.ProtocolRPC}, OtherVoter}} {
		config.NextProtos = tc.protos
		c := tls.Client(dial(), config)
		if _, err := c.Write(tc.h.append(nil)); err != nil {
			t.Fatal(err)
		}
		answer, err := readHello(c)
		if err != nil {
			t.Fatal(err)
		}
		if answer.reason != tc.want {
			t.Errorf("got %v, want %v", answer.reason, tc.want)
		}
	}
	// They are counted after the answer.
	eventually(t, "both to be counted", func() bool { return v.rejects(OtherVersion) == 2 && v.rejects(OtherVoter) == 1 })
	// A protocol that this program does not know, as a later version may have one.
	before := v.rejects(OtherVersion)
	config.NextProtos = []string{"vrrpd-rpc-2"}
	if err := tls.Client(dial(), config).Handshake(); err == nil {
		t.Error("a handshake for an unknown protocol succeeded")
	} else if refused := (*RefusedError)(nil); !errors.As((&Network{}).handshakeError("n1", err), &refused) || refused.Reason != OtherVersion {
		t.Errorf("dialer: got %v, want %v", refused, OtherVersion)
	}
	eventually(t, "the protocol to be counted", func() bool { return v.rejects(OtherVersion) == before+1 })

	empty := func() bool {
		v.mu.Lock()
		defer v.mu.Unlock()
		return v.nameless == 0 && len(v.waiting) == 0
	}
	eventually(t, "all of them to be over", empty)

	// More silent ones than one address may have: the others of the configuration still get in.
	for range maxNamelessFrom + 3 {
		dial()
	}
	eventually(t, "the surplus to be refused", func() bool { return v.rejects(Busy) >= 3 })
	b := l.start(1, peers, nil)
	c, err := b.Dial(t.Context(), "n1")
	if err != nil {
		t.Fatal(err)
	}
	say(t, c, "x")
	c.Close()
	eventually(t, "the silent ones to be dropped", func() bool { return v.rejects(Silent) == maxNamelessFrom })
	eventually(t, "room again", empty)
	if got := len(v.log.lines("connection is refused")); got > 7 {
		t.Errorf("%d lines in the log", got)
	}
}

func TestSocketOptions(t *testing.T) {
	l := newLab(t)
	peers := l.peers(1, 1)
	a, b := l.start(0, peers, nil), l.start(1, peers, nil)
	accepted := make(chan net.Conn, 1)
	b.Handle(func(ctx context.Context, _ Self, c net.Conn) {
		accepted <- c
		<-ctx.Done()
	})
	c, err := a.Dial(t.Context(), "n2")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	get := func(c net.Conn, level, option int) int {
		t.Helper()
		raw, err := c.(*Conn).raw.(syscall.Conn).SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		var v int
		if cErr := raw.Control(func(fd uintptr) { v, err = unix.GetsockoptInt(int(fd), level, option) }); cErr != nil || err != nil {
			t.Fatal(cErr, err)
		}
		return v
	}
	for name, c := range map[string]net.Conn{"dialed": c, "accepted": <-accepted} {
		for _, o := range []struct {
			name          string
			level, option int
			want          int
		}{
			{"TCP_NODELAY", unix.IPPROTO_TCP, unix.TCP_NODELAY, 1},
			{"TCP_USER_TIMEOUT", unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, 1000},
			{"SO_KEEPALIVE", unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1},
			{"TCP_KEEPIDLE", unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, 1},
			{"TCP_KEEPINTVL", unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, 1},
			{"IP_TOS", unix.IPPROTO_IP, unix.IP_TOS, 0xc0},
			{"SO_PROTOCOL", unix.SOL_SOCKET, unix.SO_PROTOCOL, unix.IPPROTO_TCP},
		} {
			if got := get(c, o.level, o.option); got != o.want {
				t.Errorf("%s: %s: got %d, want %d", name, o.name, got, o.want)
			}
		}
	}
}

func TestRemovedPeerLosesItsConnections(t *testing.T) {
	l := newLab(t)
	peers := l.peers(1, 1)
	a, b := l.start(0, peers, nil), l.start(1, peers, nil)
	b.Handle(echo)
	c, err := a.Dial(t.Context(), "n2")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	say(t, c, "x")
	if err := b.SetPeers(peers[1:]); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Read(make([]byte, 1)); err == nil {
		t.Error("the connection goes on")
	}
	_, err = a.Dial(t.Context(), "n2")
	refusedAs(t, err, UnknownVoter, true)
}
