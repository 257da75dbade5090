package vrrp

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
)

// filter4 lets in vectors[4], filter2 vectors[1], filter6 vectors[7]: each is the policy of 10.0.0.2 or fe80::2.
func filter4() Filter {
	return Filter{Version: 3, VRID: 51, Interval: time.Second, Source: ip2, Group: group4, Addrs: []netip.Addr{vip}}
}

func filter2() Filter {
	return Filter{
		Version: 2, VRID: 51, AuthType: AuthPassword, Auth: Password("secret12"), Interval: time.Second,
		Source: ip2, Group: group4, Addrs: []netip.Addr{vip},
	}
}

func filter6() Filter {
	return Filter{
		Version: 3, VRID: 51, IPv6: true, Interval: time.Second,
		Source: netip.MustParseAddr("fe80::2"), Group: group6, Addrs: []netip.Addr{vip6},
	}
}

func filterUnicast() Filter {
	f := filter4()
	f.Unicast, f.Group = true, netip.Addr{}
	f.Peers = []Peer{{ip1, -1, -1}, {ip3, 64, 128}}
	return f
}

// packet is a vector on the wire.
func packet(t testing.TB, v vector) Packet {
	return Packet{Payload: v.bytes(t), Src: v.src, Dst: v.dst, TTL: TTL}
}

// unicast is vectors[4] sent by unicast from src.
func unicast(t testing.TB, src netip.Addr, ttl int) Packet {
	t.Helper()
	b, err := AppendAdvert(nil, &vectors[4].advert, src, ip2, ChecksumPseudoHeader)
	if err != nil {
		t.Fatal(err)
	}
	return Packet{Payload: b, Src: src, Dst: ip2, TTL: ttl}
}

func TestFilter(t *testing.T) {
	v2, v2auth, v3plain, v3, v6 := vectors[0], vectors[1], vectors[3], vectors[4], vectors[7]
	other := netip.MustParseAddr("10.0.0.99")
	set := func(f func(*Filter)) func(*Filter) { return f }
	bend := func(p Packet, i int, x byte) Packet {
		p.Payload[i] = x
		seal(p.Payload, p.Src, p.Dst, ChecksumPseudoHeader)
		return p
	}
	with := func(p Packet, f func(*Packet)) Packet { f(&p); return p }

	for _, tt := range []struct {
		name    string
		filter  Filter
		change  func(*Filter)
		packet  Packet
		want    Reject
		warn    Warnings
		explain string // part of the sentence
	}{
		{name: "version 2", filter: filter2(), packet: packet(t, v2auth)},
		{name: "version 3", filter: filter4(), packet: packet(t, v3)},
		{name: "version 3 plain", filter: filter4(), change: set(func(f *Filter) { f.Checksum = ChecksumPlain }), packet: packet(t, v3plain)},
		{name: "IPv6", filter: filter6(), packet: packet(t, v6)},
		{name: "IPv6 with zones", filter: filter6(), packet: with(packet(t, v6), func(p *Packet) { p.Src, p.Dst = p.Src.WithZone("eth0"), p.Dst.WithZone("eth0") })},
		{name: "mapped addresses", filter: filter4(), packet: with(packet(t, v3), func(p *Packet) { p.Src = netip.AddrFrom16(p.Src.As16()) })},
		{name: "unicast", filter: filterUnicast(), packet: unicast(t, ip1, 3)},
		{name: "unicast from anybody", filter: filterUnicast(), packet: unicast(t, other, 3), warn: WarnStranger, explain: "10.0.0.99 is not a unicast_peer of ours; add it there, or set check_unicast_src"},
		{name: "source not known yet", filter: filter4(), change: set(func(f *Filter) { f.Source = netip.Addr{} }), packet: packet(t, v3)},
		{name: "any group", filter: filter4(), change: set(func(f *Filter) { f.Group = netip.Addr{} }), packet: packet(t, v3)},

		{name: "too short", filter: filter4(), packet: with(packet(t, v3), func(p *Packet) { p.Payload = p.Payload[:7] }), want: RejectTooShort, explain: "10.0.0.1 sent 7 bytes"},
		{name: "empty", filter: filter4(), packet: with(packet(t, v3), func(p *Packet) { p.Payload = nil }), want: RejectTooShort, explain: "10.0.0.1 sent 0 bytes"},
		{name: "another VRID", filter: filter4(), packet: bend(packet(t, v3), 1, 52), want: RejectVRID, explain: "virtual_router_id 52, ours is 51"},
		{name: "own address", filter: filter4(), change: set(func(f *Filter) { f.Source = ip1 }), packet: packet(t, v3), want: RejectOwnAddress, explain: "our own address 10.0.0.1"},
		{name: "IPv6 packet for IPv4", filter: filter4(), packet: packet(t, v6), want: RejectFamily, explain: "wrong address family"},
		{name: "IPv4 packet for IPv6", filter: filter6(), packet: packet(t, v3), want: RejectFamily, explain: "wrong address family"},
		{name: "no source", filter: filter4(), packet: with(packet(t, v3), func(p *Packet) { p.Src = netip.Addr{} }), want: RejectFamily, explain: "wrong address family"},
		{name: "TTL 254", filter: filter4(), packet: with(packet(t, v3), func(p *Packet) { p.TTL = 254 }), want: RejectTTL, explain: "TTL 254 instead of 255"},
		{name: "TTL unknown", filter: filter4(), packet: with(packet(t, v3), func(p *Packet) { p.TTL = -1 }), want: RejectTTL, explain: "TTL -1"},
		{name: "IPv6 hop limit 64", filter: filter6(), packet: with(packet(t, v6), func(p *Packet) { p.TTL = 64 }), want: RejectTTL, explain: "TTL 64"},
		{name: "version 2 for 3", filter: filter4(), packet: packet(t, v2), want: RejectVersion, explain: "10.0.0.1 speaks VRRP version 2, we speak 3"},
		{name: "version 3 for 2", filter: filter2(), packet: packet(t, v3), want: RejectVersion, explain: "speaks VRRP version 3, we speak 2"},
		{name: "no password, we have one", filter: filter2(), packet: packet(t, v2), want: RejectAuthType, explain: "authentication type 0, we use 1"},
		{name: "password, we have none", filter: filter2(), change: set(func(f *Filter) { f.AuthType = AuthNone }), packet: packet(t, v2auth), want: RejectAuthType, explain: "authentication type 1, we use 0"},
		{name: "authentication header", filter: filter2(), packet: bend(packet(t, v2auth), 4, 2), want: RejectAuthType, explain: "authentication type 2"},
		{name: "wrong password", filter: filter2(), packet: bend(packet(t, v2auth), 19, 'x'), want: RejectAuth, explain: "another password; set the same auth_pass"},
		{name: "password cut off", filter: filter2(), packet: with(packet(t, v2auth), func(p *Packet) { p.Payload = p.Payload[:19] }), want: RejectLength, explain: "too short for its 1 addresses"},
		{name: "version 2 interval", filter: filter2(), packet: bend(packet(t, v2auth), 5, 2), want: RejectInterval, explain: "10.0.0.1 advertises every 2s, we every 1s; set the same advert_int"},
		{name: "version 3 interval 0", filter: filter4(), packet: bend(packet(t, v3), 5, 0), want: RejectInterval, explain: "interval of 0"},
		{name: "type 2", filter: filter4(), packet: bend(packet(t, v3), 0, 0x32), want: RejectType, explain: "VRRP type 2"},
		{name: "count too great", filter: filter4(), packet: bend(packet(t, v3), 3, 4), want: RejectLength, explain: "12 bytes: too short for its 4 addresses"},
		{name: "no addresses", filter: filter4(), packet: bend(packet(t, v3), 3, 0), want: RejectNoAddresses, explain: "without addresses"},
		{name: "checksum", filter: filter4(), packet: with(packet(t, v3), func(p *Packet) { p.Payload[6]++ }), want: RejectChecksum, explain: "10.0.0.1 sent a wrong checksum"},
		{name: "plain checksum", filter: filter4(), packet: packet(t, v3plain), want: RejectChecksumForm, explain: "peer 10.0.0.1 uses the RFC 9568 checksum; set v3_checksum_as_v2"},
		{name: "checksum with a pseudo header", filter: filter4(), change: set(func(f *Filter) { f.Checksum = ChecksumPlain }), packet: packet(t, v3), want: RejectChecksumForm, explain: "unset v3_checksum_as_v2"},
		{name: "unicast for multicast", filter: filter4(), packet: unicast(t, ip1, 255), want: RejectDestination, explain: "by unicast to 10.0.0.2, we use multicast"},
		{name: "unicast for multicast with a low TTL", filter: filter4(), packet: unicast(t, ip1, 64), want: RejectTTL, explain: "TTL 64"},
		{name: "multicast for unicast", filter: filterUnicast(), packet: packet(t, v3), want: RejectDestination, explain: "to the group 224.0.0.18, we have unicast_peer"},
		{name: "another group", filter: filter4(), change: set(func(f *Filter) { f.Group = netip.MustParseAddr("224.0.0.19") }), packet: packet(t, v3), want: RejectDestination, explain: "group 224.0.0.18, ours is 224.0.0.19"},
		{name: "owner that ignores", filter: filter4(), change: set(func(f *Filter) { f.Owner, f.IgnoreAdverts = true, true }), packet: packet(t, v3), want: RejectOwner, explain: "owner_ignore_adverts"},
		{name: "no owner ignores nobody", filter: filter4(), change: set(func(f *Filter) { f.IgnoreAdverts = true }), packet: packet(t, v3)},
		{name: "unicast peer with its TTL", filter: filterUnicast(), packet: unicast(t, ip3, 64)},
		{name: "unicast below min_ttl", filter: filterUnicast(), packet: unicast(t, ip3, 63), want: RejectTTL, explain: "TTL 63, outside its min_ttl 64 and max_ttl 128"},
		{name: "unicast above max_ttl", filter: filterUnicast(), packet: unicast(t, ip3, 129), want: RejectTTL, explain: "TTL 129, outside"},
		{name: "unicast unknown TTL, max_ttl alone", filter: filterUnicast(), change: set(func(f *Filter) { f.Peers[1].MinTTL = -1 }), packet: unicast(t, ip3, -1), want: RejectTTL, explain: "outside"},
		{name: "checked source", filter: filterUnicast(), change: set(func(f *Filter) { f.CheckSource = true }), packet: unicast(t, ip1, 1)},
		{name: "no peer of ours", filter: filterUnicast(), change: set(func(f *Filter) { f.CheckSource = true }), packet: unicast(t, other, 255), want: RejectPeer, explain: "10.0.0.99 is not a unicast_peer"},

		{name: "warns of the interval", filter: filter4(), change: set(func(f *Filter) { f.Interval = 2 * time.Second }), packet: packet(t, v3), warn: WarnInterval, explain: "10.0.0.1 advertises every 1s, we every 2s"},
		{name: "warns of the addresses", filter: filter4(), change: set(func(f *Filter) { f.Addrs = []netip.Addr{other} }), packet: packet(t, v3), warn: WarnAddresses | WarnForeign, explain: "10.0.0.1 uses virtual_router_id 51 for other addresses: it [10.0.0.100], we [10.0.0.99]; give one of the two groups another"},
		{name: "warns of more addresses", filter: filter4(), change: set(func(f *Filter) { f.Addrs = append(f.Addrs, other) }), packet: packet(t, v3), warn: WarnAddresses, explain: "10.0.0.1 has other virtual addresses: it [10.0.0.100], we [10.0.0.100 10.0.0.99]; set the same virtual_ipaddress"},
		{name: "warns of no addresses", filter: filter4(), change: set(func(f *Filter) { f.Addrs = []netip.Addr{} }), packet: packet(t, v3), warn: WarnAddresses, explain: "other virtual addresses"},
		{name: "doesn't compare addresses", filter: filter4(), change: set(func(f *Filter) { f.Addrs = nil }), packet: packet(t, v3)},
		{name: "owner hears a lower priority", filter: filter4(), change: set(func(f *Filter) { f.Owner = true }), packet: packet(t, v3)},
		{name: "warns of a second owner", filter: filter4(), change: set(func(f *Filter) { f.Owner = true }), packet: bend(packet(t, v3), 2, 255), warn: WarnSecondOwner, explain: "10.0.0.1 has priority 255 as we have"},
		{
			name: "warns of all", filter: filter4(), packet: bend(packet(t, v3), 2, 255), warn: WarnInterval | WarnAddresses | WarnForeign | WarnSecondOwner,
			change:  func(f *Filter) { f.Owner, f.Interval, f.Addrs = true, time.Minute, []netip.Addr{other} },
			explain: "we every 1m0s; set the same advert_int; 10.0.0.1 uses virtual_router_id 51 for other",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := tt.filter
			if tt.change != nil {
				tt.change(&f)
			}
			var a Advert
			warn, got := f.Check(&a, tt.packet)
			if got != tt.want || warn != tt.warn {
				t.Fatalf("got %v with warnings %b, want %v with %b", got, warn, tt.want, tt.warn)
			}
			text := f.Explain(tt.packet, got)
			if warn != 0 {
				text = f.ExplainWarnings(&a, tt.packet.Src, warn)
			}
			if !strings.Contains(text, tt.explain) || strings.Contains(text, "secret") {
				t.Errorf("got %q, want … %s …, and no password", text, tt.explain)
			}
		})
	}
}

// TestFilterOrder breaks one more thing at a time, from the last check to the first: each hides those behind it, in
// keepalived's order.
func TestFilterOrder(t *testing.T) {
	f := filterUnicast()
	f.CheckSource, f.Owner = true, true
	p := unicast(t, netip.MustParseAddr("10.0.0.99"), 255)
	var a Advert
	step := func(name string, want Reject, change func()) {
		t.Helper()
		change()
		if _, got := f.Check(&a, p); got != want {
			t.Errorf("%s: got %v, want %v", name, got, want)
		}
	}
	reseal := func(form ChecksumForm) { seal(p.Payload, p.Src, p.Dst, form) }
	step("sender", RejectPeer, func() {})
	step("owner", RejectOwner, func() { f.IgnoreAdverts = true })
	step("destination", RejectDestination, func() { p.Dst = group4; reseal(ChecksumPseudoHeader) })
	step("checksum form", RejectChecksumForm, func() { reseal(ChecksumPlain) })
	step("checksum", RejectChecksum, func() { p.Payload[7]++ })
	step("length", RejectLength, func() { p.Payload[3] = 9 })
	step("type", RejectType, func() { p.Payload[0] = 0x37 })
	step("version", RejectVersion, func() { p.Payload[0] = 0x27 })
	step("interval", RejectInterval, func() { f.Version, f.AuthType, p.Payload[4] = 2, 0, 0; p.Payload[5] = 9 })
	step("authentication type", RejectAuthType, func() { f.AuthType = 1 })
	step("TTL", RejectTTL, func() { p.TTL = 1 })
	step("family", RejectFamily, func() { f.IPv6 = true })
	step("own address", RejectOwnAddress, func() { f.Source = p.Src })
	step("VRID", RejectVRID, func() { f.VRID = 1 })
	step("too short", RejectTooShort, func() { p.Payload = p.Payload[:5] })
}

func TestSameAddrs(t *testing.T) {
	a, b, c := ip1, ip2, ip3
	for _, tt := range []struct {
		name string
		x, y []netip.Addr
		want bool
	}{
		{"empty", nil, nil, true},
		{"equal", []netip.Addr{a, b}, []netip.Addr{a, b}, true},
		{"other order", []netip.Addr{a, b, c}, []netip.Addr{c, a, b}, true},
		{"fewer", []netip.Addr{a}, []netip.Addr{a, b}, false},
		{"other", []netip.Addr{a, b}, []netip.Addr{a, c}, false},
		{"twice the same there", []netip.Addr{a, a}, []netip.Addr{a, b}, false},
		{"twice the same here", []netip.Addr{a, b}, []netip.Addr{a, a}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := sameAddrs(tt.x, tt.y); got != tt.want {
				t.Errorf("got %v, want %v", got, tt.want)
			}
		})
	}
}

func TestRejectStrings(t *testing.T) {
	seen := map[string]bool{}
	for r := range NumRejects {
		s := r.String()
		if s == "" || s == "unknown" || seen[s] || strings.Trim(s, "abcdefghijklmnopqrstuvwxyz_") != "" {
			t.Errorf("reject %d: got %q, want a word of its own", r, s)
		}
		seen[s] = true
		f := filter4()
		if got := f.Explain(Packet{}, r); got == "" {
			t.Errorf("%v: no explanation", r)
		}
	}
	if got := NumRejects.String(); got != "unknown" {
		t.Errorf("beyond the last: got %q, want unknown", got)
	}
}

// TestForeign: a packet that we don't take may show all the same that it is none of our group's.
func TestForeign(t *testing.T) {
	v3 := vectors[4]
	counts := func(n byte) Packet {
		p := packet(t, v3)
		p.Payload = slices.Clone(p.Payload)
		p.Payload[3] = n
		return p
	}
	for _, tt := range []struct {
		name   string
		filter Filter
		addrs  []netip.Addr
		packet Packet
		want   bool
	}{
		{"ours", filter4(), []netip.Addr{ip3, vip}, packet(t, v3), false},
		{"others", filter4(), []netip.Addr{ip3}, packet(t, v3), true},
		{"another version", filter2(), []netip.Addr{ip3}, packet(t, v3), true},
		{"we have none", filter4(), []netip.Addr{}, packet(t, v3), false},
		{"it has none", filter4(), []netip.Addr{ip3}, counts(0), false},
		{"cut off", filter4(), []netip.Addr{ip3}, counts(9), false},
		{"no header", filter4(), []netip.Addr{ip3}, Packet{}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.filter.Addrs = tt.addrs
			if got := tt.filter.Foreign(tt.packet); got != tt.want {
				t.Errorf("got %t, want %t", got, tt.want)
			}
		})
	}
}
