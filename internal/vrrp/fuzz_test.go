package vrrp

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"testing"
	"time"
)

// fuzzDecode: whatever the bytes are, Decode doesn't panic, and what it accepts is an advert that encodes to the same
// bytes again, but for the bits that a receiver must ignore.
func fuzzDecode(f *testing.F, version Version, src, dst netip.Addr) {
	for _, v := range vectors {
		f.Add(v.bytes(f))
		f.Add(append(v.bytes(f), 0, 0, 0, 0))
	}
	f.Add([]byte{})
	f.Add([]byte{byte(version)<<4 | 1, 1, 100, 255, 0, 100, 0, 0})
	mapped := netip.MustParseAddr("::ffff:48.48.48.48").As16()
	f.Add(append([]byte{byte(version)<<4 | 1, 1, 100, 1, 0, 100, 0, 0}, mapped[:]...))
	f.Fuzz(func(t *testing.T, b []byte) {
		b = slices.Clone(b)
		if len(b) >= headerLen {
			b[0] = byte(version)<<4 | b[0]&0x0f
			end := headerLen + int(b[3])*4
			if src.Is6() {
				end = headerLen + int(b[3])*16
			}
			if version == 2 {
				end += authLen
			}
			if b[6]&1 == 0 && end <= len(b) { // half of them get past the checksum
				seal(b[:end], src, dst, ChecksumForm(b[7]&1))
			}
		}
		var a Advert
		forms, r := Decode(&a, b, src, dst)
		if r >= NumRejects {
			t.Fatalf("got reject %d, beyond the last", r)
		}
		if r != Accepted {
			if forms != 0 {
				t.Fatalf("rejected with %v and yet a right checksum %b", r, forms)
			}
			return
		}
		if a.Version != version || a.VRID == 0 || checkInterval(a.Version, a.Interval) != nil || len(a.Addrs) != int(b[3]) {
			t.Fatalf("accepted %+v", a)
		}
		if slices.ContainsFunc(a.Addrs, netip.Addr.Is4In6) {
			return // its priority counts, as with any list that differs from ours; to send an IPv4 address over IPv6 is refused
		}
		form := ChecksumPseudoHeader
		if !forms.Has(form) {
			form = ChecksumPlain
		}
		out, err := AppendAdvert(nil, &a, src, dst, form)
		if err != nil {
			t.Fatalf("accepted what can't be sent: %v", err)
		}
		var again Advert
		if _, r := Decode(&again, out, src, dst); r != Accepted || !equalAdverts(a, again) {
			t.Fatalf("got %v and %+v back, want %+v", r, again, a)
		}
		if len(out) > len(b) || string(out[headerLen:headerLen+len(a.Addrs)*4]) != string(b[headerLen:headerLen+len(a.Addrs)*4]) {
			t.Fatalf("got % x back, want % x", out, b)
		}
	})
}

func FuzzDecodeV2(f *testing.F)     { fuzzDecode(f, 2, ip1, group4) }
func FuzzDecodeV3IPv4(f *testing.F) { fuzzDecode(f, 3, ip1, group4) }
func FuzzDecodeV3IPv6(f *testing.F) { fuzzDecode(f, 3, link1, group6) }

// FuzzFilter: no policy and no packet makes Check panic, and what it accepts obeys the policy.
func FuzzFilter(f *testing.F) {
	for i, v := range vectors {
		f.Add(v.bytes(f), uint16(i), byte(51), 255)
	}
	f.Add([]byte{0x21}, uint16(0xffff), byte(0), -1)
	f.Fuzz(func(t *testing.T, b []byte, policy uint16, vrid byte, ttl int) {
		on := func(bit int) bool { return policy>>bit&1 == 1 }
		filter := Filter{
			Version: 3, VRID: vrid, Interval: time.Second, Checksum: ChecksumPseudoHeader,
			Source: ip2, Owner: on(0), IgnoreAdverts: on(1), Unicast: on(2), CheckSource: on(3),
			Peers: []Peer{{ip1, -1, 64}, {link1, 64, -1}},
		}
		if on(4) {
			filter.Version, filter.AuthType, filter.Auth = 2, AuthPassword, Password("secret12")
		}
		if on(5) {
			filter.Checksum = ChecksumPlain
		}
		if on(6) {
			filter.Group = group4
		}
		p := Packet{Payload: b, Src: ip1, Dst: group4, TTL: ttl}
		if filter.IPv6 = on(7); filter.IPv6 {
			p.Src, p.Dst, filter.Addrs = link1, group6, []netip.Addr{vip6}
		}
		if on(8) {
			p.Dst = ip2
		}
		if on(9) {
			p.Src = ip3
		}
		var a Advert
		warn, r := filter.Check(&a, p)
		if text := filter.Explain(p, r); text == "" {
			t.Fatalf("%v: no explanation", r)
		}
		if r != Accepted {
			if warn != 0 {
				t.Fatalf("rejected with %v and yet warnings %b", r, warn)
			}
			return
		}
		multicast := p.Dst.IsMulticast()
		switch {
		case a.Version != filter.Version, a.VRID != vrid, multicast == filter.Unicast, multicast && ttl != TTL,
			filter.Version == 2 && (a.Auth != filter.Auth || a.Interval != filter.Interval),
			filter.Unicast && filter.CheckSource && p.Src == ip3, filter.Owner && filter.IgnoreAdverts:
			t.Fatalf("accepted %+v in %+v against %+v", a, p, filter)
		}
		_ = filter.ExplainWarnings(&a, p.Src, warn)
	})
}

// FuzzRouter: each eight bytes are an event, and how long after the one before. The invariants are those of machine.check.
func FuzzRouter(f *testing.F) {
	event := func(kind EventKind, from, priority, interval byte, wait uint16, more ...byte) []byte {
		b := []byte{byte(kind), from, priority, interval, 0, 0, 0, 0}
		binary.BigEndian.PutUint16(b[4:], wait)
		return append(b, more...)
	}
	start := event(Startup, 0, 0, 0, 0)
	f.Add(uint16(0), byte(100), start)
	f.Add(uint16(0), byte(255), start)
	f.Add(uint16(0x3f), byte(100), append(start, event(Tick, 0, 0, 0, 4000, event(HookSucceeded, 0, 0, 0, 10, event(AddressLost, 0, 0, 0, 10)...)...)...))
	f.Add(uint16(0x15), byte(100), append(start, event(Tick, 0, 0, 0, 4000, event(HookFailed, 0, 0, 0, 10, event(Tick, 0, 0, 0, 10000)...)...)...))
	f.Add(uint16(2), byte(100), append(start, event(Received, 2, 150, 10, 500, event(Received, 2, 0, 10, 500, event(Tick, 0, 0, 0, 5000)...)...)...))
	f.Add(uint16(1), byte(1), append(start, event(FaultRaised, 0, 0, 0, 1, event(Release, 0, 20, 0, 1, event(FaultCleared, 0, 0, 0, 1)...)...)...))
	f.Fuzz(func(t *testing.T, policy uint16, priority byte, b []byte) {
		on := func(bit int) bool { return policy>>bit&1 == 1 }
		c := config(func(c *Config) {
			c.Priority = max(priority, 1)
			c.Preempt, c.HigherPrioSendAdvert, c.LowerPrioNoAdvert, c.AddressesAfterNotify = !on(0), on(1), on(2), on(3)
			c.DownTimerAdverts = 1 + int(policy>>12)
		})
		if on(4) {
			c.Version = 2
		}
		if on(5) {
			c.PreemptDelay = 3 * time.Second
		}
		m := newMachine(t, c)
		for ; len(b) >= 8; b = b[8:] {
			m.wait(time.Duration(binary.BigEndian.Uint16(b[4:])) * time.Millisecond)
			m.step(Event{
				Kind:     EventKind(b[0] % byte(Doubted+2)),
				From:     []netip.Addr{{}, ip1, ip2, ip3}[b[1]%4],
				Priority: b[2],
				Interval: time.Duration(b[3]) * centisecond,
				Hold:     time.Duration(b[2]) * time.Second,
				Seq:      m.r.Seq() - uint64(b[6]&1),
				Doubt:    Doubt(b[2] & 3),
			})
			if t.Failed() {
				return
			}
		}
	})
}
