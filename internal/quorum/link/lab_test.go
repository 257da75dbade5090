package link

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pgvrrp/internal/quorum/record"
	"pgvrrp/internal/quorum/trust"
)

// labs keeps the addresses of two tests apart.
var labs atomic.Uint32

// lab is a few voters on loopback addresses: voter i has 127.(100+k).LAB.(i+1) on LAN k.
type lab struct {
	t    *testing.T
	key  trust.Key
	net  byte
	port uint16
}

func newLab(t *testing.T) *lab {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return &lab{
		t: t, key: newKey(t), net: byte(uint32(os.Getpid())*16 + labs.Add(1)),
		port: l.Addr().(*net.TCPAddr).AddrPort().Port(),
	}
}

func newKey(t testing.TB) trust.Key {
	t.Helper()
	path := filepath.Join(t.TempDir(), "key")
	if err := trust.WriteKey(path); err != nil {
		t.Fatal(err)
	}
	k, err := trust.ReadKey(path)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func (l *lab) addr(voter, lan int) netip.Addr {
	return netip.AddrFrom4([4]byte{127, byte(100 + lan), l.net, byte(voter + 1)})
}

func (l *lab) addrs(voter, lans int) []netip.Addr {
	var all []netip.Addr
	for k := range lans {
		all = append(all, l.addr(voter, k))
	}
	return all
}

// peers are voters n1, n2 … with so many LANs each.
func (l *lab) peers(lans ...int) []Peer {
	var all []Peer
	for i, k := range lans {
		all = append(all, Peer{ID: fmt.Sprintf("n%d", i+1), Addrs: l.addrs(i, k), Port: l.port})
	}
	return all
}

// self is a voter in its first start.
func self(id string) Self {
	return Self{ID: id, Incarnation: "inc-" + strings.ReplaceAll(id, "/", "-"), Starts: 1, Boot: record.Boot(1000 + uint64(id[len(id)-1]))}
}

// directory admits what refuse does not refuse, and remembers whom it was asked about.
type directory struct {
	mu     sync.Mutex
	asked  []Self
	refuse func(Self) error
}

func (d *directory) Admit(peer Self) error {
	d.mu.Lock()
	d.asked = append(d.asked, peer)
	refuse := d.refuse
	d.mu.Unlock()
	if refuse != nil {
		return refuse(peer)
	}
	return nil
}

func (d *directory) set(refuse func(Self) error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.refuse = refuse
}

// logbook is a slog destination that tests can read while it is written.
type logbook struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logbook) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

// lines are those that contain text.
func (l *logbook) lines(text string) []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var found []string
	for line := range strings.Lines(l.b.String()) {
		if strings.Contains(line, text) {
			found = append(found, line)
		}
	}
	return found
}

type got struct {
	from    string
	boot    record.Boot
	payload string
}

// voter is a Network that runs.
type voter struct {
	*Network
	t       *testing.T
	dir     *directory
	log     *logbook
	cluster atomic.Pointer[string]
	got     chan got
	cancel  context.CancelFunc
	ended   chan error
}

func (v *voter) stop() {
	v.cancel()
	<-v.ended
}

// options are voter i's (from 0) of the lab. change may be nil.
func (l *lab) options(v *voter, i int, peers []Peer, change func(*Options)) Options {
	start := time.Now()
	cluster := "cluster-1"
	v.dir, v.log, v.got = &directory{}, &logbook{}, make(chan got, 4096)
	v.cluster.Store(&cluster)
	o := Options{
		Self: self(peers[i].ID), Cluster: func() string { return *v.cluster.Load() }, Peers: peers, Key: l.key,
		Directory: v.dir, Listen: peers[i].Addrs, Port: peers[i].Port, Ping: 20 * time.Millisecond,
		Now: func() time.Duration { return time.Hour + time.Since(start) },
		Log: slog.New(slog.NewTextHandler(v.log, nil)),
		OnDatagram: func(from string, boot record.Boot, _ time.Duration, payload []byte) {
			v.got <- got{from, boot, string(payload)}
		},
	}
	if change != nil {
		change(&o)
	}
	return o
}

func (l *lab) open(i int, peers []Peer, change func(*Options)) *voter {
	l.t.Helper()
	v := &voter{}
	n, err := Open(l.options(v, i, peers, change))
	if err != nil {
		l.t.Fatal(err)
	}
	v.Network = n
	return v
}

func (l *lab) start(i int, peers []Peer, change func(*Options)) *voter {
	l.t.Helper()
	v := l.open(i, peers, change)
	v.run(l.t)
	return v
}

func (v *voter) run(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	v.cancel, v.ended = cancel, make(chan error, 1)
	go func() {
		v.ended <- v.Run(ctx)
		close(v.ended)
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-v.ended; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
}

// eventually waits for something that other goroutines bring about.
func eventually(t *testing.T, what string, done func() bool) {
	t.Helper()
	tick, timeout := time.NewTicker(2*time.Millisecond), time.After(10*time.Second)
	defer tick.Stop()
	for !done() {
		select {
		case <-tick.C:
		case <-timeout:
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

// known waits until two voters can send to each other.
func known(t *testing.T, a, b *voter) {
	t.Helper()
	eventually(t, "the voters to know each other", func() bool {
		return a.sender(b.o.Self.ID).present() == b.o.Self && b.sender(a.o.Self.ID).present() == a.o.Self
	})
}

func (v *voter) take(t *testing.T) got {
	t.Helper()
	select {
	case g := <-v.got:
		return g
	case <-time.After(10 * time.Second):
		t.Fatal("no datagram came")
		return got{}
	}
}

// rejects are all counters of a voter together.
func (v *voter) rejects(r Reason) uint64 {
	var sum uint64
	for _, l := range v.Status() {
		sum += l.Rejected[r.String()]
	}
	for _, l := range v.Addresses() {
		sum += l.Rejected[r.String()]
	}
	return sum
}

// ups are how many links to a peer are up.
func (v *voter) ups(peer string) int {
	up := 0
	for _, l := range v.Status() {
		if l.Peer == peer && l.Up {
			up++
		}
	}
	return up
}
