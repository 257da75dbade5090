package link

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"pgvrrp/internal/quiet"
	"pgvrrp/internal/quorum/record"
	"pgvrrp/internal/quorum/trust"
)

// Peer is one voter of the configuration.
type Peer struct {
	ID    string
	Addrs []netip.Addr // one for each LAN, in the same order on every voter
	Port  uint16       // TCP and UDP
}

// Self is one run of one voter, as it presents itself.
type Self struct {
	ID          string      // the node, or "w1/2" for a second vote
	Incarnation string      // of the state directory
	Starts      uint64      // how often that directory was started, from 1
	Boot        record.Boot // of this run, never 0
	Words       uint64      // that the directory had given before this run
}

// RaftID is the voter's id and address in the log's configuration: an emptied state directory is another server.
func (s Self) RaftID() string { return s.ID + "@" + s.Incarnation }

// check says why s is not a voter.
func (s Self) check() error {
	if err := trust.CheckName(s.ID); err != nil {
		return err
	}
	if err := trust.CheckName(s.Incarnation); err != nil {
		return fmt.Errorf("incarnation of %s: %w", s.ID, err)
	}
	if s.Starts == 0 || s.Boot == 0 {
		return fmt.Errorf("voter %s has no start or no boot id", s.ID)
	}
	return nil
}

// Directory remembers which incarnation and start of each voter was seen last.
type Directory interface {
	// Admit says whether to talk to this run of a voter; the error is the reason not to, for the operator. It is asked
	// at every hello and once for each run that sends datagrams, from several goroutines; it may wait for the disk. An error
	// that is ErrOutlived is final: the voter is told, and takes no part any more.
	Admit(peer Self) error
}

// ErrOutlived is what a Directory returns for a state directory that has forgotten what its voter said.
var ErrOutlived = errors.New("the state directory is an old copy")

// DefaultPing is how often each link of each peer is probed.
const DefaultPing = 100 * time.Millisecond

// pingsLost is how many intervals without an answer make a link down.
const pingsLost = 3

// Options are what a Network is made of. All but Ping, NewTimer, Log, Words, OnWords, Outlived, OnOutlived and OnDatagram are needed.
type Options struct {
	Self    Self
	Cluster func() string // the cluster's id of at most trust.MaxName bytes, "" until bootstrapped; it must not wait
	Peers   []Peer        // the voters of the configuration; an entry for this voter itself is skipped
	Key     trust.Key

	Directory Directory
	Listen    []netip.Addr // own addresses, one for each LAN, in the order of the peers'
	Port      uint16
	Ping      time.Duration        // DefaultPing if 0
	Now       func() time.Duration // since boot, by CLOCK_BOOTTIME
	NewTimer  func() quiet.Timer   // quiet.NewTimer if nil
	Log       *slog.Logger

	// Words is how many words this voter's directory has given by now, and OnWords gets those that another one's has, when
	// they are more than before: each datagram tells, what it says among them. They must not wait. Both may be nil.
	Words   func() uint64
	OnWords func(from string, boot record.Boot, words uint64)

	// Outlived is why this voter's own directory is known to be an old copy, "" if it isn't; OnOutlived is called when another
	// voter shows that it is, and may wait for the disk. Such a voter says and takes nothing any more: what it would say could
	// deny what it said before. It still pings and answers pings, so that both sides see what is the matter.
	Outlived   string
	OnOutlived func(why string)

	// OnDatagram gets each payload once, from several goroutines, and must not wait. at is when it arrived, by Now. The
	// payload is the callee's.
	OnDatagram func(from string, boot record.Boot, at time.Duration, payload []byte)
}

// Network sends and receives for one voter. Safe for concurrent use.
type Network struct {
	o           Options
	log         *slog.Logger
	sealer      *trust.Sealer
	server      *tls.Config
	id          []byte   // Self.ID and
	incarnation []byte   // Self.Incarnation, as datagrams have them
	locals      []*local // own addresses in order, then the two that belong to no address: IPv4, IPv6

	seq     atomic.Uint64 // of the last datagram; one counter for all, so that it survives every reload
	cluster atomic.Pointer[clusterName]
	view    atomic.Pointer[view]
	handler atomic.Pointer[func(context.Context, Self, net.Conn)]
	raft    atomic.Pointer[streamLayer]
	quiet   limiter
	mute    atomic.Pointer[string] // why this voter takes no part; nil: it does

	senders    sync.Map     // voter id → *sender; none is forgotten on a reload, nor are its numbers
	refused    sync.Map     // voter id → *refusals
	strangeAt  atomic.Int64 // when something strange was refused last; 0: never
	admissions chan Self
	wake       chan struct{} // a voter was admitted: ping now

	reload sync.Mutex // SetPeers

	mu       sync.Mutex
	closed   bool
	conns    map[*Conn]struct{}
	waiting  map[netip.Addr]int // connections that have not said who they are
	nameless int
}

type clusterName struct {
	name string
	tag  clusterTag
}

// view is the configuration of peers; it is replaced as a whole.
type view struct {
	peers  map[string]*peer
	order  []*peer
	byAddr map[netip.Addr][]*peerLink
}

type peer struct {
	id    string
	name  []byte // id
	links []*peerLink
	tls   func(protocol string) (*tls.Config, error)
	out   *outbox
}

// outbox is what a peer's sendings share, and goes on over a reload.
type outbox struct {
	tx     sync.Mutex // keeps the order of numbers and sendings the same
	buf    []byte
	unsent atomic.Uint64
}

// peerLink is one way to a peer.
type peerLink struct {
	peer   string
	index  int
	local  *local
	remote netip.AddrPort

	sent, received, duplicates, sendErrors atomic.Uint64
	rejected                               counters

	mu      sync.Mutex
	up      bool
	since   time.Duration
	proved  time.Duration // when something came that the peer could send only because it had heard us by this link
	told    time.Duration // when the peer's ping was that
	ponged  time.Duration // when the last answer to a ping of ours came, and how long it took; the next ping tells
	last    time.Duration
	rtt     time.Duration // smoothed
	lastErr string
}

type counters [numReasons]atomic.Uint64

// byName are the counters that are not 0; nil if all are.
func (c *counters) byName() map[string]uint64 {
	var m map[string]uint64
	for r := range c {
		if n := c[r].Load(); n > 0 {
			if m == nil {
				m = map[string]uint64{}
			}
			m[Reason(r).String()] = n
		}
	}
	return m
}

// LinkStatus is one link to one peer. Times are by Options.Now.
type LinkStatus struct {
	Peer       string
	Local      netip.Addr // invalid: the routing table chooses
	Remote     netip.AddrPort
	Up         bool          // heard in both directions within the last three intervals
	Since      time.Duration // when Up changed last
	RTT        time.Duration // smoothed; 0 before the first answer
	LastError  string        // of sending or dialing; "" after the next success
	Refused    string        // why the peer and this voter do not talk to each other, in words; "" if nothing was refused lately
	Sent       uint64        // datagrams with payload
	SendErrors uint64
	Received   uint64            // datagrams with payload that came first by this link
	Duplicates uint64            // those that another link had brought already
	Rejected   map[string]uint64 // datagrams and connections, by Reason
	Unsent     uint64            // of the peer: payloads for which it was not known well enough, or which were too large
}

// AddressStatus is one own address.
type AddressStatus struct {
	Addr     netip.Addr
	Bound    bool
	Error    string            // why not, if not Bound
	Rejected map[string]uint64 // what came from nobody's address, by Reason
}

// Open binds every own address, for UDP and TCP. An address that cannot be bound yet is tried again by Run, as long as
// one could. Nothing is received before Run. Close it if Run is not called.
func Open(o Options) (*Network, error) {
	n, err := newNetwork(o)
	if err != nil {
		return nil, fmt.Errorf("open network of voter %s: %w", o.Self.ID, err)
	}
	var errs []error
	bound := false
	for _, l := range n.locals {
		if !l.needed.Load() {
			continue
		}
		err := l.bind(n.o.Port)
		switch {
		case err == nil && l.addr.IsValid():
			bound = true
		case err != nil:
			errs = append(errs, err)
		}
	}
	if !bound {
		n.Close()
		return nil, fmt.Errorf("open network of voter %s: %w", o.Self.ID, errors.Join(errs...))
	}
	for _, err := range errs {
		n.log.Warn("address is tried again each second", "error", err)
	}
	return n, nil
}

func newNetwork(o Options) (*Network, error) {
	if err := o.Self.check(); err != nil {
		return nil, err
	}
	switch {
	case o.Cluster == nil || o.Directory == nil || o.Now == nil:
		return nil, errors.New("no cluster, directory or clock is given")
	case o.Port == 0:
		return nil, errors.New("port is 0")
	case len(o.Listen) == 0:
		return nil, errors.New("no address to listen at")
	case o.Ping < 0:
		return nil, fmt.Errorf("ping interval %v is negative", o.Ping)
	}
	if o.Ping == 0 {
		o.Ping = DefaultPing
	}
	if o.NewTimer == nil {
		o.NewTimer = quiet.NewTimer
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Words == nil {
		o.Words = func() uint64 { return o.Self.Words }
	}
	sealer, err := o.Key.Sealer()
	if err != nil {
		return nil, err
	}
	server, err := o.Key.Server(o.Self.ID)
	if err != nil {
		return nil, err
	}
	n := &Network{
		o: o, log: o.Log.With("voter", o.Self.ID), sealer: sealer, server: server, id: []byte(o.Self.ID), incarnation: []byte(o.Self.Incarnation),
		admissions: make(chan Self, 64),
		wake:       make(chan struct{}, 1),
		conns:      map[*Conn]struct{}{},
		waiting:    map[netip.Addr]int{},
	}
	for k, a := range o.Listen {
		if !a.IsValid() || a.IsUnspecified() || a.IsMulticast() {
			return nil, fmt.Errorf("address %s cannot be listened at", a)
		}
		l := newLocal(k, a.Unmap(), a.Unmap().Is4())
		l.needed.Store(true)
		n.locals = append(n.locals, l)
	}
	for _, is4 := range []bool{true, false} {
		n.locals = append(n.locals, newLocal(len(n.locals), netip.Addr{}, is4))
	}
	if o.Outlived != "" {
		n.mute.Store(&o.Outlived)
	}
	n.view.Store(&view{})
	if err := n.SetPeers(o.Peers); err != nil {
		return nil, err
	}
	return n, nil
}

// routed is the socket for links whose own address the routing table chooses.
func (n *Network) routed(is4 bool) *local {
	if is4 {
		return n.locals[len(n.locals)-2]
	}
	return n.locals[len(n.locals)-1]
}

// SetPeers replaces the configuration of voters, all or nothing. Links that stay keep their state; connections with a
// voter that is gone are closed.
func (n *Network) SetPeers(peers []Peer) error {
	n.reload.Lock()
	defer n.reload.Unlock()
	old := n.view.Load()
	v := &view{peers: map[string]*peer{}, byAddr: map[netip.Addr][]*peerLink{}}
	var needed []*local
	now := n.o.Now()
	for _, c := range peers {
		if err := trust.CheckName(c.ID); err != nil {
			return fmt.Errorf("set peers: %w", err)
		}
		if c.ID == n.o.Self.ID {
			continue
		}
		if v.peers[c.ID] != nil {
			return fmt.Errorf("set peers: voter %s is given twice", c.ID)
		}
		if c.Port == 0 || len(c.Addrs) == 0 {
			return fmt.Errorf("set peers: voter %s has no port or no address", c.ID)
		}
		p := &peer{id: c.ID, name: []byte(c.ID)}
		if was := old.peers[c.ID]; was != nil {
			p.tls, p.out = was.tls, was.out
		} else {
			p.tls, p.out = n.clientConfigs(c.ID), &outbox{}
		}
		for k, a := range c.Addrs {
			if !a.IsValid() || a.IsUnspecified() || a.IsMulticast() || a.Zone() != "" {
				return fmt.Errorf("set peers: voter %s: address %s cannot be sent to", c.ID, a)
			}
			a = a.Unmap()
			from := n.routed(a.Is4())
			if len(c.Addrs) == len(n.o.Listen) && n.locals[k].is4 == a.Is4() {
				from = n.locals[k]
			}
			needed = append(needed, from)
			l := &peerLink{peer: c.ID, index: k, local: from, remote: netip.AddrPortFrom(a, c.Port), since: now}
			if was := old.link(c.ID, l); was != nil {
				l = was
			}
			p.links = append(p.links, l)
			v.byAddr[a] = append(v.byAddr[a], l)
		}
		v.peers[c.ID] = p
		v.order = append(v.order, p)
	}
	for _, l := range needed {
		l.needed.Store(true)
	}
	n.view.Store(v)
	n.closeConns(func(c *Conn) bool { return v.peers[c.peer.ID] == nil })
	return nil
}

// link is the link of v that is the same as l.
func (v *view) link(id string, l *peerLink) *peerLink {
	p := v.peers[id]
	if p == nil {
		return nil
	}
	for _, was := range p.links {
		if was.index == l.index && was.local == l.local && was.remote == l.remote {
			return was
		}
	}
	return nil
}

// linkFrom is the link that something from addr came by: id's if id is not "", else the one that fits best. It may be nil.
func (v *view) linkFrom(id string, from netip.AddrPort) *peerLink {
	var found *peerLink
	for _, l := range v.byAddr[from.Addr()] {
		if id != "" && l.peer != id {
			continue
		}
		if found == nil || l.remote == from {
			found = l
		}
	}
	return found
}

// Run receives, answers and probes until ctx ends; then every socket and connection is closed. It runs once.
func (n *Network) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var tasks sync.WaitGroup
	defer tasks.Wait()
	defer n.Close()
	// Receivers wait in the kernel; only closing their sockets ends them.
	stop := context.AfterFunc(ctx, n.Close)
	defer stop()

	serving := map[*socket]bool{}
	serve := func() {
		for _, l := range n.locals {
			s := l.socket.Load()
			if s == nil || serving[s] {
				continue
			}
			serving[s] = true
			tasks.Go(func() { n.receive(ctx, l, s) })
			if s.tcp != nil {
				tasks.Go(func() { n.accept(ctx, &tasks, l, s) })
			}
		}
		for s := range serving {
			if s.gone.Load() {
				delete(serving, s)
			}
		}
	}
	serve()
	tasks.Go(func() { n.admitAll(ctx) })

	pings, losses, binds := n.o.NewTimer(), n.o.NewTimer(), n.o.NewTimer()
	defer pings.Stop()
	defer losses.Stop()
	defer binds.Stop()
	p := &prober{n: n}
	expire := func() {
		if next := p.losses(); next != 0 {
			losses.Reset(max(0, next-n.o.Now()))
		}
	}
	tick := func(all bool) {
		p.tick(all)
		expire()
	}
	tick(true)
	due := n.o.Now() + n.o.Ping
	pings.Reset(n.o.Ping)
	binds.Reset(bindAgain)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-pings.C():
			tick(false)
			now := n.o.Now()
			if due += n.o.Ping; due <= now { // we are late: the beat begins anew
				due = now + n.o.Ping
			}
			pings.Reset(due - now)
		case <-n.wake:
			tick(true)
		case <-losses.C():
			expire()
		case <-binds.C():
			n.bindMissing()
			serve()
			binds.Reset(bindAgain)
		}
	}
}

// bindAgain is how often an address that could not be bound is tried again.
const bindAgain = time.Second

func (n *Network) bindMissing() {
	for _, l := range n.locals {
		if !l.needed.Load() || l.socket.Load() != nil {
			continue
		}
		n.mu.Lock()
		// Under the lock, so that nothing is bound after Close.
		if n.closed {
			n.mu.Unlock()
			return
		}
		err := l.bind(n.o.Port)
		n.mu.Unlock()
		if err == nil && l.addr.IsValid() {
			n.log.Info("address is bound", "address", l.addr)
		}
	}
}

// Close closes every socket and connection. It may be called again.
func (n *Network) Close() {
	n.mu.Lock()
	n.closed = true
	for _, l := range n.locals {
		l.drop(l.socket.Load(), net.ErrClosed)
	}
	n.mu.Unlock()
	if s := n.raft.Load(); s != nil {
		_ = s.Close()
	}
	n.closeConns(func(*Conn) bool { return true })
}

// admitAll asks the directory about runs that were seen in datagrams, away from the receivers: it may wait for the disk.
func (n *Network) admitAll(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case who := <-n.admissions:
			if reason, err := n.admit(who); reason != None {
				n.refusalsOf(who.ID).say(n.o.Now(), reason, fmt.Sprintf("it is refused (%s): %v", reason, err))
				n.warn("voter is refused", who.ID, reason, "error", err)
			}
		}
	}
}

// admit asks the directory about who and notes a yes.
func (n *Network) admit(who Self) (Reason, error) {
	if err := n.o.Directory.Admit(who); errors.Is(err, ErrOutlived) {
		return Outlived, err
	} else if err != nil {
		return NotAdmitted, err
	}
	changed, reason := n.sender(who.ID).admit(who)
	switch reason {
	case None:
	case TwoRuns:
		return reason, fmt.Errorf("another run with start %d of incarnation %s was seen", who.Starts, who.Incarnation)
	default:
		return reason, fmt.Errorf("a later start than %d of incarnation %s was seen", who.Starts, who.Incarnation)
	}
	if changed {
		n.refusalsOf(who.ID).clear()
		// It can send us nothing before it knows this run of ours.
		select {
		case n.wake <- struct{}{}:
		default:
		}
		n.log.Info("voter is admitted", "peer", who.ID, "incarnation", who.Incarnation, "starts", who.Starts)
		// What an earlier run left half open would only time out.
		n.closeConns(func(c *Conn) bool { return c.peer.ID == who.ID && c.peer != who })
	}
	return None, nil
}

// outlive ends this voter's part: refused shows that its directory is an old copy.
func (n *Network) outlive(refused *RefusedError) {
	why := refused.Error()
	if !n.mute.CompareAndSwap(nil, &why) {
		return
	}
	n.log.Error("the voter takes no part any more", "reason", why)
	if n.o.OnOutlived != nil {
		n.o.OnOutlived(why)
	}
	n.closeConns(func(*Conn) bool { return true })
}

// takesNoPart is why this voter says and takes nothing; "" if it does.
func (n *Network) takesNoPart() string {
	if why := n.mute.Load(); why != nil {
		return *why
	}
	return ""
}

func (n *Network) sender(id string) *sender {
	if s, ok := n.senders.Load(id); ok {
		return s.(*sender)
	}
	s, _ := n.senders.LoadOrStore(id, &sender{})
	return s.(*sender)
}

// Hearing is ctx for something that is said to a voter. It ends at once, with the cause ErrLost, when nothing is heard of that
// voter on any link for three ping intervals. One that this run has never heard is not lost.
func (n *Network) Hearing(ctx context.Context, id string) (context.Context, context.CancelFunc) {
	return n.sender(id).hear(ctx)
}

// UpSince is since when a link to a voter has been up without a break, the longest one; 0: none is.
func (n *Network) UpSince(id string) time.Duration {
	var since time.Duration
	p := n.view.Load().peers[id]
	if p == nil {
		return 0
	}
	for _, l := range p.links {
		l.mu.Lock()
		if l.up && (since == 0 || l.since < since) {
			since = l.since
		}
		l.mu.Unlock()
	}
	return since
}

// tag is the present cluster's.
func (n *Network) tag() clusterTag {
	name := n.o.Cluster()
	if c := n.cluster.Load(); c != nil && c.name == name {
		return c.tag
	}
	c := &clusterName{name: name, tag: tagOf(name)}
	n.cluster.Store(c)
	return c.tag
}

// Status tells of every link to every peer, in the order of the configuration.
func (n *Network) Status() []LinkStatus {
	var all []LinkStatus
	now := n.o.Now()
	for _, p := range n.view.Load().order {
		refused := n.refusalsOf(p.id).text(now)
		for _, l := range p.links {
			s := LinkStatus{
				Refused: refused,
				Peer:    p.id, Local: l.local.addr, Remote: l.remote,
				Sent: l.sent.Load(), SendErrors: l.sendErrors.Load(),
				Received: l.received.Load(), Duplicates: l.duplicates.Load(),
				Rejected: l.rejected.byName(), Unsent: p.out.unsent.Load(),
			}
			l.mu.Lock()
			s.Up, s.Since, s.RTT, s.LastError = l.up, l.since, l.rtt, l.lastErr
			l.mu.Unlock()
			all = append(all, s)
		}
	}
	return all
}

// Addresses tells of every own address, in the order of the configuration.
func (n *Network) Addresses() []AddressStatus {
	var all []AddressStatus
	for _, l := range n.locals[:len(n.o.Listen)] {
		l.mu.Lock()
		s := AddressStatus{Addr: l.addr, Bound: l.socket.Load() != nil, Rejected: l.rejected.byName()}
		if !s.Bound {
			s.Error = l.err
		}
		l.mu.Unlock()
		all = append(all, s)
	}
	return all
}

// note keeps the last error of sending or dialing.
func (l *peerLink) note(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lastErr = ""
	if err != nil {
		l.lastErr = err.Error()
	}
}

// warn logs at most once a minute for each text, peer ("" if it is none of ours) and reason.
func (n *Network) warn(text, peer string, r Reason, args ...any) {
	if n.quiet.allow(n.o.Now(), text, peer, r) {
		n.log.Warn(text, append([]any{"peer", peer, "reason", r.String()}, args...)...)
	}
}

// limiter keeps a log quiet.
type limiter struct {
	mu   sync.Mutex
	last map[limitKey]time.Duration
}

type limitKey struct {
	text   string
	peer   string
	reason Reason
}

// allow says whether a minute has passed since it said yes for this text, peer and reason. Callers use "" for whoever is not
// one of the peers, so what it remembers is bounded.
func (l *limiter) allow(now time.Duration, text, peer string, r Reason) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	k := limitKey{text, peer, r}
	if last, ok := l.last[k]; ok && now-last < time.Minute {
		return false
	}
	if l.last == nil {
		l.last = map[limitKey]time.Duration{}
	}
	l.last[k] = now
	return true
}

// ups are the links of p, those that are up first, each in the order of the configuration.
func (p *peer) ups() []*peerLink {
	links := slices.Clone(p.links)
	state := map[*peerLink]int{}
	for _, l := range links {
		l.mu.Lock()
		if !l.up {
			state[l] = 1
		}
		l.mu.Unlock()
	}
	slices.SortStableFunc(links, func(a, b *peerLink) int { return state[a] - state[b] })
	return links
}

// target splits "n1@incarnation"; without '@' any incarnation is meant.
func target(s string) (id, incarnation string) {
	id, incarnation, _ = strings.Cut(s, "@")
	return id, incarnation
}
