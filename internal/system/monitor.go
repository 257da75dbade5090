package system

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Link is a network interface as it was last seen.
type Link struct {
	Index    int
	Name     string
	Up       bool             // administratively up and running: packets pass
	Admin    bool             // administratively up
	Carrier  bool             // the cable, or what stands for it, is in
	MAC      net.HardwareAddr // not to be written to; empty on a link without
	MTU      int              // bytes
	NoARP    bool
	Loopback bool
}

// Reason says why the link is not Up; "" if it is.
func (l Link) Reason() string {
	switch {
	case l.Up:
		return ""
	case !l.Admin:
		return "administratively down"
	case !l.Carrier:
		return "no carrier"
	default:
		return "not running"
	}
}

func (l Link) equal(o Link) bool {
	mac := bytes.Equal(l.MAC, o.MAC)
	return mac && l.Index == o.Index && l.Name == o.Name && l.Up == o.Up && l.Admin == o.Admin && l.Carrier == o.Carrier &&
		l.MTU == o.MTU && l.NoARP == o.NoARP && l.Loopback == o.Loopback
}

// EventKind says what changed.
type EventKind uint8

// The kinds of events.
const (
	LinkChanged    EventKind = iota // Link is new or different
	LinkRemoved                     // Link is gone; an interface made anew, or renamed, is removed first
	AddressAdded                    // Address is new
	AddressChanged                  // Address has other flags, scope, protocol or label
	AddressRemoved                  // Address is gone
	Resynced                        // the kernel dropped changes, and all was read again: something may have come and gone unseen
)

// Event is one change.
type Event struct {
	Kind    EventKind
	Link    Link          // the link, also that of the address as far as known
	Address KernelAddress // for the three address kinds
}

// MonitorOptions are what a Monitor may be told.
type MonitorOptions struct {
	Log           *slog.Logger // nil: silent
	ReceiveBuffer int          // bytes of kernel memory for changes that were not read yet; 0: 8 MiB
}

// Monitor follows the links and addresses of a network namespace.
type Monitor struct {
	log  *slog.Logger
	dump *rtnl
	list func() ([]Link, []KernelAddress, error) // all that there is
	file *os.File
	raw  syscall.RawConn

	behind bool          // the kernel dropped changes, and not everything was read again; Run's
	closed chan struct{} // closed by Close
	close  func()

	mu        sync.Mutex
	links     map[int]*linkState
	names     map[string]int
	listeners map[int]func([]Event)
	nextID    int
	resyncs   uint64
}

// linkState is a link with its addresses in the kernel's order.
type linkState struct {
	Link
	addresses []KernelAddress
}

// OpenMonitor subscribes to changes and reads the present state, so that Link and PrimaryAddress answer at once.
// It concerns the network namespace of the calling thread. Changes are noticed only while Run runs.
func OpenMonitor(options MonitorOptions) (*Monitor, error) {
	if options.Log == nil {
		options.Log = slog.New(slog.DiscardHandler)
	}
	if options.ReceiveBuffer == 0 {
		options.ReceiveBuffer = 8 << 20
	}
	dump, err := openRTNL()
	if err != nil {
		return nil, fmt.Errorf("monitor links: %w", err)
	}
	m := &Monitor{
		log: options.Log, dump: dump,
		links: map[int]*linkState{}, names: map[string]int{}, listeners: map[int]func([]Event){}, closed: make(chan struct{}),
	}
	m.list = m.dumpAll
	m.close = sync.OnceFunc(func() { close(m.closed) })
	if err := m.subscribe(options.ReceiveBuffer); err != nil {
		_ = dump.close()
		return nil, fmt.Errorf("monitor links: %w", err)
	}
	// After the subscription, so that nothing falls between.
	if err := m.begin(); err != nil {
		_ = m.Close()
		return nil, fmt.Errorf("monitor links: %w", err)
	}
	return m, nil
}

// A list that cannot be had because of all the changes, say a host that sets up hundreds of interfaces at its boot, is tried for again:
// at the start for a while, later for as long as it takes.
const (
	beginWithin = 5 * time.Second
	resyncAgain = 100 * time.Millisecond // then twice as long each time
	resyncMost  = 2 * time.Second
)

// begin reads the present state.
func (m *Monitor) begin() error {
	late := time.Now().Add(beginWithin)
	for {
		_, err := m.resync()
		if !errors.Is(err, errChanged) || time.Now().After(late) {
			return err
		}
		<-time.After(resyncAgain)
	}
}

func (m *Monitor) subscribe(buffer int) error {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	const groups = unix.RTMGRP_LINK | unix.RTMGRP_IPV4_IFADDR | unix.RTMGRP_IPV6_IFADDR
	if err = setReceiveBuffer(fd, buffer); err == nil {
		err = unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: groups})
	}
	if err != nil {
		_ = unix.Close(fd)
		return err
	}
	m.file = os.NewFile(uintptr(fd), "rtnetlink")
	if m.raw, err = m.file.SyscallConn(); err != nil {
		_ = m.file.Close()
	}
	return err
}

// Close frees the sockets; it ends Run.
func (m *Monitor) Close() error {
	m.close()
	return errors.Join(m.file.Close(), m.dump.close())
}

// Subscribe has fn called with every batch of changes, in order and after Link and PrimaryAddress know of them,
// from Run's goroutine: fn must not block and must not keep the slice. The function returned ends that; a call
// under way may still finish.
func (m *Monitor) Subscribe(fn func([]Event)) (cancel func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	id := m.nextID
	m.nextID++
	m.listeners[id] = fn
	return func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		delete(m.listeners, id)
	}
}

// Run follows the changes until ctx ends, which is no error.
func (m *Monitor) Run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { _ = m.file.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	buf := make([]byte, 1<<16)
	for {
		events, err := m.next(ctx, buf)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("monitor links: %w", err)
		}
		m.publish(events)
	}
}

func (m *Monitor) publish(events []Event) {
	if len(events) == 0 {
		return
	}
	m.mu.Lock()
	ids := make([]int, 0, len(m.listeners))
	for id := range m.listeners {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	fns := make([]func([]Event), len(ids))
	for i, id := range ids {
		fns[i] = m.listeners[id]
	}
	m.mu.Unlock()
	for _, fn := range fns {
		fn(events)
	}
}

// next waits for changes and applies all that are there, up to a bound that keeps batches short.
func (m *Monitor) next(ctx context.Context, buf []byte) ([]Event, error) {
	if m.behind {
		return m.catchUp(ctx, buf)
	}
	const maxDatagrams = 256
	var events []Event
	wait := true
	for range maxDatagrams {
		b, err := readNews(m.raw, buf, wait)
		switch {
		case errors.Is(err, unix.EAGAIN):
			return events, nil
		case errors.Is(err, unix.ENOBUFS):
			// The kernel dropped changes. What we have is told before everything is read again.
			m.behind = true
			return events, nil
		case err != nil:
			return events, err
		}
		wait = false
		messages, err := syscall.ParseNetlinkMessage(b)
		if err != nil {
			return events, err
		}
		m.mu.Lock()
		for _, msg := range messages {
			events, err = m.apply(events, msg.Header.Type, msg.Data)
			if err != nil {
				// Not understanding one message must not blind us for the others.
				m.log.Warn("link change not understood", "type", msg.Header.Type, "error", err)
			}
		}
		m.mu.Unlock()
	}
	return events, nil
}

// catchUp reads everything again. A failure would make us blind, and whoever relies on us give up what it has, so it is tried until it
// works: what we know is old for so long, and no worse than that.
func (m *Monitor) catchUp(ctx context.Context, buf []byte) ([]Event, error) {
	for pause := resyncAgain; ; pause = min(2*pause, resyncMost) {
		if err := dropNews(m.raw, buf); err != nil {
			return nil, err
		}
		events, err := m.resync()
		if err == nil {
			m.behind = false
			m.mu.Lock()
			m.resyncs++
			m.mu.Unlock()
			m.log.Warn("the kernel dropped link changes: all links read again", "changes", len(events))
			return events, nil
		}
		if pause == resyncAgain {
			m.log.Error("the kernel dropped link changes, and the links cannot be read again: tried until they can", "error", err)
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-m.closed:
			return nil, os.ErrClosed
		case <-time.After(pause):
		}
	}
}

// apply brings one message into the state and appends what it changed. The caller holds mu.
func (m *Monitor) apply(events []Event, kind uint16, body []byte) ([]Event, error) {
	switch kind {
	case unix.RTM_NEWLINK, unix.RTM_DELLINK:
		l, ok, err := parseLink(body)
		if err != nil || !ok {
			return events, err
		}
		if kind == unix.RTM_DELLINK {
			return m.removeLink(events, l.Index), nil
		}
		return m.setLink(events, l), nil
	case unix.RTM_NEWADDR, unix.RTM_DELADDR:
		a, err := parseAddress(body)
		if err != nil {
			return events, err
		}
		if kind == unix.RTM_DELADDR {
			return m.removeAddress(events, a), nil
		}
		return m.setAddress(events, a), nil
	}
	return events, nil
}

func (m *Monitor) setLink(events []Event, l Link) []Event {
	s := m.links[l.Index]
	if s != nil && s.equal(l) {
		return events
	}
	if s == nil {
		s = &linkState{}
		m.links[l.Index] = s
	} else if s.Name != l.Name {
		// For those who know it by name it is gone, and another one came.
		events = append(events, Event{Kind: LinkRemoved, Link: s.Link})
		if m.names[s.Name] == l.Index {
			delete(m.names, s.Name)
		}
		for i := range s.addresses {
			s.addresses[i].Interface = l.Name
		}
	}
	s.Link = l
	m.names[l.Name] = l.Index
	return append(events, Event{Kind: LinkChanged, Link: l})
}

func (m *Monitor) removeLink(events []Event, index int) []Event {
	s := m.links[index]
	if s == nil {
		return events
	}
	for _, a := range s.addresses {
		events = append(events, Event{Kind: AddressRemoved, Link: s.Link, Address: a})
	}
	delete(m.links, index)
	if m.names[s.Name] == index {
		delete(m.names, s.Name)
	}
	return append(events, Event{Kind: LinkRemoved, Link: s.Link})
}

func (m *Monitor) setAddress(events []Event, a KernelAddress) []Event {
	s := m.links[a.Index]
	if s == nil {
		return events // an address of a link that is gone already
	}
	a.Interface = s.Name
	for i, old := range s.addresses {
		if old.key() != a.key() {
			continue
		}
		s.addresses[i] = a
		if old.Flags == a.Flags && old.Scope == a.Scope && old.Protocol == a.Protocol && old.Label == a.Label {
			return events // only its lifetime
		}
		return append(events, Event{Kind: AddressChanged, Link: s.Link, Address: a})
	}
	s.addresses = append(s.addresses, a)
	return append(events, Event{Kind: AddressAdded, Link: s.Link, Address: a})
}

func (m *Monitor) removeAddress(events []Event, a KernelAddress) []Event {
	s := m.links[a.Index]
	if s == nil {
		return events
	}
	i := slices.IndexFunc(s.addresses, func(o KernelAddress) bool { return o.key() == a.key() })
	if i < 0 {
		return events
	}
	old := s.addresses[i]
	s.addresses = slices.Delete(s.addresses, i, i+1)
	return append(events, Event{Kind: AddressRemoved, Link: s.Link, Address: old})
}

// resync reads all links and addresses and returns how they differ from what was known.
func (m *Monitor) resync() ([]Event, error) {
	links, addresses, err := m.list()
	if err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return append(m.replace(links, addresses), Event{Kind: Resynced}), nil
}

func (m *Monitor) dumpAll() ([]Link, []KernelAddress, error) {
	links, err := m.dump.dumpLinks()
	if err != nil {
		return nil, nil, err
	}
	addresses, err := m.dump.dumpAddresses()
	return links, addresses, err
}

// replace makes the state be what a dump says. The caller holds mu.
func (m *Monitor) replace(links []Link, addresses []KernelAddress) []Event {
	present := map[int]bool{}
	for _, l := range links {
		present[l.Index] = true
	}
	held := map[addressKey]bool{}
	for _, a := range addresses {
		held[a.key()] = true
	}
	var events []Event
	for _, index := range sortedKeys(m.links) {
		if !present[index] {
			events = m.removeLink(events, index)
			continue
		}
		for _, a := range slices.Clone(m.links[index].addresses) {
			if !held[a.key()] {
				events = m.removeAddress(events, a)
			}
		}
	}
	for _, l := range links {
		events = m.setLink(events, l)
	}
	for _, a := range addresses {
		events = m.setAddress(events, a)
	}
	// The dump's order is the kernel's, which decides what the primary address is.
	order := map[addressKey]int{}
	for i, a := range addresses {
		order[a.key()] = i
	}
	for _, s := range m.links {
		slices.SortStableFunc(s.addresses, func(a, b KernelAddress) int { return order[a.key()] - order[b.key()] })
	}
	return events
}

func sortedKeys[V any](m map[int]V) []int {
	keys := make([]int, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// Link is the interface of that name; ok is false if there is none.
func (m *Monitor) Link(name string) (l Link, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.byName(name)
	if s == nil {
		return Link{}, false
	}
	return s.Link, true
}

// byName needs mu to be held.
func (m *Monitor) byName(name string) *linkState {
	index, ok := m.names[name]
	if !ok {
		return nil
	}
	return m.links[index]
}

// Addresses are the addresses of the interface of that name, in the kernel's order.
func (m *Monitor) Addresses(name string) []KernelAddress {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.byName(name)
	if s == nil {
		return nil
	}
	return slices.Clone(s.addresses)
}

// HasAddress reports whether some interface holds addr, usable, in any prefix.
func (m *Monitor) HasAddress(addr netip.Addr) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	addr = addr.WithZone("")
	for _, s := range m.links {
		for _, a := range s.addresses {
			if a.Prefix.Addr() == addr && a.Usable() {
				return true
			}
		}
	}
	return false
}

// PrimaryAddress is the address that an advertisement out of the interface comes from: for IPv4 the first that
// is not a secondary one, of the widest scope; for IPv6 the first link-local one that is usable (RFC 9568
// section 5.1.2.1). Addresses in vips, and those that we added, are never it. ok is false if there is none.
func (m *Monitor) PrimaryAddress(name string, ipv6 bool, vips ...netip.Addr) (addr netip.Addr, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.byName(name)
	if s == nil {
		return netip.Addr{}, false
	}
	var best KernelAddress
	for _, a := range s.addresses {
		ip := a.Prefix.Addr()
		if ip.Is6() != ipv6 || a.Ours() || a.Secondary() || !a.Usable() || slices.Contains(vips, ip) {
			continue
		}
		if ipv6 && !ip.IsLinkLocalUnicast() {
			continue
		}
		if !ok || a.Scope < best.Scope {
			best, ok = a, true
		}
	}
	return best.Prefix.Addr(), ok
}

// Resyncs counts how often the kernel dropped changes and everything was read again.
func (m *Monitor) Resyncs() uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.resyncs
}
