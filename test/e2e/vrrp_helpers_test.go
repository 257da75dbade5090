//go:build e2e

package e2e

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"pgvrrp/test/lab"
)

// router is one vrrp_instance on its way into a configuration file. Zero fields are left to their defaults.
type router struct {
	Name     string // default VI_ and the VRID
	VRID     int
	Version  int
	Priority int
	Interval string   // advert_int
	VIPs     []string // lines of virtual_ipaddress
	Lines    []string // more lines
}

func (r router) name() string {
	if r.Name != "" {
		return r.Name
	}
	return fmt.Sprintf("VI_%d", r.VRID)
}

func (r router) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "vrrp_instance %s {\n  state BACKUP\n  interface eth0\n  virtual_router_id %d\n", r.name(), r.VRID)
	if r.Version != 0 {
		fmt.Fprintf(&b, "  version %d\n", r.Version)
	}
	if r.Priority != 0 {
		fmt.Fprintf(&b, "  priority %d\n", r.Priority)
	}
	if r.Interval != "" {
		fmt.Fprintf(&b, "  advert_int %s\n", r.Interval)
	}
	for _, line := range r.Lines {
		fmt.Fprintf(&b, "  %s\n", line)
	}
	b.WriteString("  virtual_ipaddress {\n")
	for _, vip := range r.VIPs {
		fmt.Fprintf(&b, "    %s\n", vip)
	}
	b.WriteString("  }\n}\n")
	return b.String()
}

// with is r with another priority and more lines.
func (r router) with(priority int, lines ...string) router {
	r.Priority = priority
	r.Lines = append(slices.Clone(r.Lines), lines...)
	return r
}

// file is a configuration of version 3 with more global lines and these blocks.
func file(globals string, blocks ...fmt.Stringer) string {
	var b strings.Builder
	fmt.Fprintf(&b, "global_defs {\n  vrrp_version 3\n  %s\n}\n", globals)
	for _, block := range blocks {
		b.WriteString(block.String())
	}
	return b.String()
}

// block is a part of a file as it stands.
type block string

func (b block) String() string { return string(b) }

// fast is the instance of most tests: version 3, ten adverts a second, VIP(1).
func fast(priority int, lines ...string) router {
	return router{VRID: 51, Priority: priority, Interval: "0.1", VIPs: []string{lab.VIP(1).String() + "/24"}, Lines: lines}
}

// holdings records from the kernels' own notices which host has which address when, so that no overlap is too short to be
// seen.
type holdings struct {
	mu     sync.Mutex
	now    map[holding]time.Time // since when
	past   []span
	failed error
}

type holding struct {
	host string
	addr netip.Addr
}

// span is a time in which a host had an address.
type span struct {
	holding
	from, to time.Time
}

func watchHoldings(t *testing.T, l *lab.Lab) *holdings {
	t.Helper()
	w := &holdings{now: map[holding]time.Time{}}
	for _, h := range l.Hosts() {
		w.watch(t, h)
	}
	return w
}

// watch follows a host; again after each boot.
func (w *holdings) watch(t *testing.T, h *lab.Host) {
	t.Helper()
	ch, done := make(chan netlink.AddrUpdate, 4096), make(chan struct{})
	err := h.NetDo(func() error {
		return netlink.AddrSubscribeWithOptions(ch, done, netlink.AddrSubscribeOptions{ListExisting: true, ReceiveBufferSize: 4 << 20, ReceiveBufferForceSize: true,
			ErrorCallback: func(err error) {
				w.mu.Lock()
				defer w.mu.Unlock()
				w.failed = errors.Join(w.failed, err)
			}})
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { close(done) })
	go func() {
		for u := range ch {
			at := time.Now()
			if addr, ok := netip.AddrFromSlice(u.LinkAddress.IP); ok {
				w.note(holding{h.Name(), addr.Unmap()}, u.NewAddr, at)
			}
		}
	}()
}

func (w *holdings) note(k holding, has bool, at time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	since, had := w.now[k]
	switch {
	case has && !had:
		w.now[k] = at
	case !has && had:
		delete(w.now, k)
		w.past = append(w.past, span{k, since, at})
	}
}

// lost counts how often a host let an address go since a time.
func (w *holdings) lost(host string, addr netip.Addr, since time.Time) (n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, s := range w.past {
		if s.host == host && s.addr == addr && s.to.After(since) {
			n++
		}
	}
	return n
}

// died says that a host has lost power: its kernel tells nothing any more.
func (w *holdings) died(host string, at time.Time) {
	w.mu.Lock()
	var gone []holding
	for k := range w.now {
		if k.host == host {
			gone = append(gone, k)
		}
	}
	w.mu.Unlock()
	for _, k := range gone {
		w.note(k, false, at)
	}
}

// overlaps are the times longer than tolerated, since a time, in which two hosts had one of the addresses.
func (w *holdings) overlaps(t *testing.T, addrs []netip.Addr, since time.Time, tolerated time.Duration) []string {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.failed != nil {
		t.Fatalf("watch addresses: %v", w.failed)
	}
	spans := slices.Clone(w.past)
	for k, from := range w.now {
		spans = append(spans, span{k, from, time.Now()})
	}
	var found []string
	for i, a := range spans {
		for _, b := range spans[i+1:] {
			if a.addr != b.addr || a.host == b.host || !slices.Contains(addrs, a.addr) {
				continue
			}
			from, to := a.from, a.to
			for _, x := range []time.Time{b.from, since} {
				if x.After(from) {
					from = x
				}
			}
			if b.to.Before(to) {
				to = b.to
			}
			if d := to.Sub(from); d > tolerated {
				found = append(found, fmt.Sprintf("%s on %s and %s for %s from %s", a.addr, a.host, b.host, d.Round(time.Millisecond), from.Format("15:04:05.000")))
			}
		}
	}
	return found
}

// packet is a VRRP packet of the tests' own making, so that the code under test does not judge itself. Zero fields make a
// good version 3 advert of priority 255 for 10.77.0.100.
type packet struct {
	VRID     uint8
	Version  uint8 // default 3
	Type     uint8 // default 1
	Priority *uint8
	Count    *uint8
	Interval uint16   // v3 centiseconds, default 10; v2 seconds, default 1
	Addrs    []string // default lab.VIP(1)
	Password string   // version 2
	Plain    bool     // version 3 on IPv4: checksum without pseudo header
	BadSum   bool
	Cut      int    // send only so many bytes; 0: all
	Pad      int    // bytes behind
	TTL      int    // default 255
	Dst      string // default the multicast group
	Src      string // default the host's own address
}

func ptr(v uint8) *uint8 { return &v }

// send sends a packet n times from a host.
func (p packet) send(t *testing.T, h *lab.Host, n int) {
	t.Helper()
	src, dst := h.Addr(lab.LAN), netip.MustParseAddr("224.0.0.18")
	if p.Src != "" {
		src = netip.MustParseAddr(p.Src)
	}
	if p.Dst != "" {
		dst = netip.MustParseAddr(p.Dst)
	}
	if src.Is6() && p.Dst == "" {
		dst = netip.MustParseAddr("ff02::12")
	}
	payload := p.bytes(src, dst)
	err := h.NetDo(func() error {
		for range n {
			if err := sendRaw(payload, src, dst, p.TTL); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatalf("send a raw packet from %s: %v", h.Name(), err)
	}
}

func (p packet) bytes(src, dst netip.Addr) []byte {
	version, kind, interval, priority := p.Version, p.Type, p.Interval, uint8(255)
	if version == 0 {
		version = 3
	}
	if kind == 0 {
		kind = 1
	}
	if interval == 0 {
		interval = 10
		if version == 2 {
			interval = 1
		}
	}
	if p.Priority != nil {
		priority = *p.Priority
	}
	addrs := p.Addrs
	if addrs == nil {
		addrs = []string{lab.VIP(1).String()}
	}
	count := uint8(len(addrs))
	if p.Count != nil {
		count = *p.Count
	}
	b := []byte{version<<4 | kind, p.VRID, priority, count}
	if version == 2 {
		auth := byte(0)
		if p.Password != "" {
			auth = 1
		}
		b = append(b, auth, byte(interval))
	} else {
		b = binary.BigEndian.AppendUint16(b, interval)
	}
	b = append(b, 0, 0)
	for _, a := range addrs {
		b = append(b, netip.MustParseAddr(a).AsSlice()...)
	}
	if version == 2 {
		var auth [8]byte
		copy(auth[:], p.Password)
		b = append(b, auth[:]...)
	}
	var pseudo []byte
	if version == 3 && (src.Is6() || !p.Plain) {
		pseudo = append(append(pseudo, src.AsSlice()...), dst.AsSlice()...)
		if src.Is6() {
			pseudo = binary.BigEndian.AppendUint32(pseudo, uint32(len(b)))
			pseudo = append(pseudo, 0, 0, 0, 112)
		} else {
			pseudo = append(pseudo, 0, 112)
			pseudo = binary.BigEndian.AppendUint16(pseudo, uint16(len(b)))
		}
	}
	binary.BigEndian.PutUint16(b[6:], checksum(append(pseudo, b...)))
	if p.BadSum {
		b[6] ^= 0x5a
	}
	b = append(b, make([]byte, p.Pad)...)
	if p.Cut > 0 {
		b = b[:p.Cut]
	}
	return b
}

// checksum is RFC 1071's.
func checksum(b []byte) uint16 {
	var sum uint32
	for i := 0; i < len(b); i += 2 {
		sum += uint32(b[i]) << 8
		if i+1 < len(b) {
			sum += uint32(b[i+1])
		}
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// sendRaw sends one packet of protocol 112 by eth0 of the thread's network namespace.
func sendRaw(payload []byte, src, dst netip.Addr, ttl int) error {
	if ttl == 0 {
		ttl = 255
	}
	family, level := unix.AF_INET, unix.IPPROTO_IP
	if src.Is6() {
		family, level = unix.AF_INET6, unix.IPPROTO_IPV6
	}
	fd, err := unix.Socket(family, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 112)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.BindToDevice(fd, "eth0"); err != nil {
		return err
	}
	link, err := netlink.LinkByName("eth0")
	if err != nil {
		return err
	}
	index := link.Attrs().Index
	options := map[int]int{unix.IP_HDRINCL: 1} // so that the source may be anybody's
	if src.Is6() {
		options = map[int]int{unix.IPV6_UNICAST_HOPS: ttl, unix.IPV6_MULTICAST_HOPS: ttl, unix.IPV6_FREEBIND: 1, unix.IPV6_MULTICAST_IF: index, unix.IPV6_TCLASS: 0xc0}
	}
	for name, value := range options {
		if err := unix.SetsockoptInt(fd, level, name, value); err != nil {
			return fmt.Errorf("set option %d: %w", name, err)
		}
	}
	if src.Is6() {
		zone := 0
		if src.IsLinkLocalUnicast() {
			zone = index
		}
		if err := unix.Bind(fd, &unix.SockaddrInet6{Addr: src.As16(), ZoneId: uint32(zone)}); err != nil {
			return err
		}
		return unix.Sendto(fd, payload, 0, &unix.SockaddrInet6{Addr: dst.As16(), ZoneId: uint32(index)})
	}
	if err := unix.SetsockoptIPMreqn(fd, unix.IPPROTO_IP, unix.IP_MULTICAST_IF, &unix.IPMreqn{Ifindex: int32(index)}); err != nil {
		return err
	}
	for _, b := range fragments(payload, src, dst, ttl) {
		if err := unix.Sendto(fd, b, 0, &unix.SockaddrInet4{Addr: dst.As4()}); err != nil {
			return err
		}
	}
	return nil
}

// fragments are the IPv4 packets of protocol 112 that carry a payload over an Ethernet.
func fragments(payload []byte, src, dst netip.Addr, ttl int) [][]byte {
	const most = 1480
	var packets [][]byte
	for offset := 0; offset == 0 || offset < len(payload); offset += most {
		part := payload[offset:min(offset+most, len(payload))]
		head := []byte{0x45, 0xc0}
		head = binary.BigEndian.AppendUint16(head, uint16(20+len(part)))
		head = binary.BigEndian.AppendUint16(head, 4711)
		flags := uint16(offset / 8)
		if offset+most < len(payload) {
			flags |= 0x2000 // more fragments
		}
		head = binary.BigEndian.AppendUint16(head, flags)
		head = append(append(append(head, byte(ttl), 112, 0, 0), src.AsSlice()...), dst.AsSlice()...)
		packets = append(packets, append(head, part...)) // the kernel fills in the checksum
	}
	return packets
}

// linkLocal is a host's own link-local address on the service LAN. The kernel makes it a moment after the link is up.
func linkLocal(t *testing.T, h *lab.Host) (addr netip.Addr) {
	t.Helper()
	eventually(t, patience, h.Name()+" has a link-local address", func() (bool, string) {
		all, err := kernelAddresses(h)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range all["eth0"] {
			if a := p.Addr().As16(); p.Addr().IsLinkLocalUnicast() && p.Addr().Is6() && a[11] == 0xff && a[12] == 0xfe {
				addr = p.Addr()
			}
		}
		return addr.IsValid(), fmt.Sprint(all["eth0"])
	})
	return addr
}

// tshark prints the given fields of a capture's frames that match a filter, one frame a row. Columns with several values
// have them joined by commas.
func tshark(t *testing.T, file, filter string, preferences []string, fields ...string) [][]string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	args := []string{"-n", "-r", file, "-Y", filter, "-T", "fields", "-E", "separator=|", "-E", "aggregator=,", "-o", "ip.check_checksum:TRUE"}
	for _, p := range preferences {
		args = append(args, "-o", p)
	}
	for _, f := range fields {
		args = append(args, "-e", f)
	}
	cmd := exec.CommandContext(ctx, "tshark", args...)
	var problems strings.Builder
	cmd.Stderr = &problems
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("tshark: %v: %s", err, problems.String())
	}
	var rows [][]string
	for line := range strings.Lines(string(out)) {
		row := strings.Split(strings.TrimRight(line, "\n"), "|")
		if len(row) != len(fields) {
			t.Fatalf("tshark: got %d columns in %q, want %d", len(row), line, len(fields))
		}
		rows = append(rows, row)
	}
	return rows
}
