package vrrp

import (
	"encoding/hex"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
)

var (
	group4 = netip.MustParseAddr("224.0.0.18")
	group6 = netip.MustParseAddr("ff02::12")
	link1  = netip.MustParseAddr("fe80::1")
	vip6   = netip.MustParseAddr("fe80::100")
)

// vector is an advert and its bytes, added up by hand: the sums stand beside them.
type vector struct {
	name     string
	advert   Advert
	src, dst netip.Addr
	form     ChecksumForm
	hex      string
}

var vectors = []vector{
	{
		// 2133+9601+0001+0a00+0064 = c199, complement 3e66
		name:   "version 2",
		advert: Advert{Version: 2, VRID: 51, Priority: 150, Interval: time.Second, Addrs: []netip.Addr{vip}},
		src:    ip1, dst: group4,
		hex: "21 33 96 01 00 01 3e 66  0a 00 00 64  00 00 00 00 00 00 00 00",
	},
	{
		// 2133+9601+0101+0a00+0064 = c299; "secret12" 7365+6372+6574+3132 = 16d7d; together 23016 -> 3018, complement cfe7
		name: "version 2 with a password",
		advert: Advert{
			Version: 2, VRID: 51, Priority: 150, AuthType: AuthPassword, Auth: Password("secret12"),
			Interval: time.Second, Addrs: []netip.Addr{vip},
		},
		src: ip1, dst: group4,
		hex: "21 33 96 01 01 01 cf e7  0a 00 00 64  73 65 63 72 65 74 31 32",
	},
	{
		// 2133+0000+0005 = 2138, complement dec7
		name:   "version 2 that leaves, without addresses",
		advert: Advert{Version: 2, VRID: 51, Priority: 0, Interval: 5 * time.Second},
		src:    ip1, dst: group4,
		hex: "21 33 00 00 00 05 de c7  00 00 00 00 00 00 00 00",
	},
	{
		// 3133+6401+0064+0a00+0064 = 9ffc, complement 6003
		name:   "version 3 IPv4 plain",
		advert: Advert{Version: 3, VRID: 51, Priority: 100, Interval: time.Second, Addrs: []netip.Addr{vip}},
		src:    ip1, dst: group4, form: ChecksumPlain,
		hex: "31 33 64 01 00 64 60 03  0a 00 00 64",
	},
	{
		// 9ffc and the pseudo header 0a00+0001+e000+0012+0070+000c = ea8f; together 18a8b -> 8a8c, complement 7573
		name:   "version 3 IPv4 with a pseudo header",
		advert: Advert{Version: 3, VRID: 51, Priority: 100, Interval: time.Second, Addrs: []netip.Addr{vip}},
		src:    ip1, dst: group4,
		hex: "31 33 64 01 00 64 75 73  0a 00 00 64",
	},
	{
		// 10 ms and 40.95 s are the ends: 0001 and 0fff. 3101+0101+0fff+0a00+0064 = 4c65, complement b39a
		name:   "version 3 longest interval",
		advert: Advert{Version: 3, VRID: 1, Priority: 1, Interval: 40950 * time.Millisecond, Addrs: []netip.Addr{vip}},
		src:    ip1, dst: group4, form: ChecksumPlain,
		hex: "31 01 01 01 0f ff b3 9a  0a 00 00 64",
	},
	{
		// 31ff+ff02+0001+0a00+0064+0a00+0065 = 145cb -> 45cc, complement ba33
		name:   "version 3 owner, 10 ms, two addresses",
		advert: Advert{Version: 3, VRID: 255, Priority: 255, Interval: 10 * time.Millisecond, Addrs: []netip.Addr{vip, vip.Next()}},
		src:    ip1, dst: group4, form: ChecksumPlain,
		hex: "31 ff ff 02 00 01 ba 33  0a 00 00 64  0a 00 00 65",
	},
	{
		// 3133+6401+0064+fe80+0100 = 19518; pseudo header fe80+0001+ff02+0012+0018+0070 = 1fe1d; together 39335 -> 9338, complement 6cc7
		name:   "version 3 IPv6",
		advert: Advert{Version: 3, VRID: 51, Priority: 100, Interval: time.Second, Addrs: []netip.Addr{vip6}},
		src:    link1, dst: group6,
		hex: "31 33 64 01 00 64 6c c7  fe 80 00 00 00 00 00 00 00 00 00 00 00 00 01 00",
	},
}

func (v vector) bytes(t testing.TB) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(v.hex, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func equalAdverts(a, b Advert) bool {
	aa, ba := a.Addrs, b.Addrs
	a.Addrs, b.Addrs = nil, nil
	return a.Version == b.Version && a.VRID == b.VRID && a.Priority == b.Priority && a.AuthType == b.AuthType &&
		a.Auth == b.Auth && a.Interval == b.Interval && slices.Equal(aa, ba)
}

func TestVectors(t *testing.T) {
	for _, v := range vectors {
		t.Run(v.name, func(t *testing.T) {
			want := v.bytes(t)
			got, err := AppendAdvert([]byte("head"), &v.advert, v.src, v.dst, v.form)
			if err != nil {
				t.Fatal(err)
			}
			if string(got) != "head"+string(want) {
				t.Errorf("encode: got % x, want % x", got[4:], want)
			}
			var a Advert
			forms, r := Decode(&a, want, v.src, v.dst)
			if r != Accepted || !forms.Has(v.form) {
				t.Fatalf("decode: got %v and forms %b, want accepted in form %d", r, forms, v.form)
			}
			if !equalAdverts(a, v.advert) {
				t.Errorf("decode: got %+v, want %+v", a, v.advert)
			}
		})
	}
}

func TestDecodeToleratesPadding(t *testing.T) {
	for _, v := range vectors {
		t.Run(v.name, func(t *testing.T) {
			var a Advert
			if _, r := Decode(&a, append(v.bytes(t), "ethernet padding"...), v.src, v.dst); r != Accepted {
				t.Errorf("got %v, want accepted", r)
			}
		})
	}
}

func TestDecodeRejectsEveryTruncation(t *testing.T) {
	for _, v := range vectors {
		t.Run(v.name, func(t *testing.T) {
			b := v.bytes(t)
			for n := range b {
				want := RejectLength
				if n < headerLen {
					want = RejectTooShort
				}
				var a Advert
				if _, got := Decode(&a, b[:n], v.src, v.dst); got != want {
					t.Errorf("%d bytes: got %v, want %v", n, got, want)
				}
			}
		})
	}
}

func TestDecodeRejectsEveryFlippedBit(t *testing.T) {
	for _, v := range vectors {
		t.Run(v.name, func(t *testing.T) {
			for i := range len(v.bytes(t)) * 8 {
				b := v.bytes(t)
				b[i/8] ^= 1 << (i % 8)
				var a Advert
				if forms, r := Decode(&a, b, v.src, v.dst); r == Accepted && forms.Has(v.form) {
					t.Errorf("bit %d of byte %d: accepted", i%8, i/8)
				}
			}
		})
	}
}

func TestDecodeReusesMemory(t *testing.T) {
	v := vectors[0]
	a := Advert{Addrs: make([]netip.Addr, 0, 4)}
	first := &a.Addrs[:1][0]
	if _, r := Decode(&a, v.bytes(t), v.src, v.dst); r != Accepted {
		t.Fatal(r)
	}
	if &a.Addrs[0] != first {
		t.Error("got new memory, want the caller's")
	}
}

func TestMostAddresses(t *testing.T) {
	for _, tt := range []struct {
		name     string
		version  Version
		src, dst netip.Addr
		addr     netip.Addr
		want     int
	}{
		{"version 2", 2, ip1, group4, vip, 8 + 255*4 + 8},
		{"version 3 IPv4", 3, ip1, group4, vip, 8 + 255*4},
		{"version 3 IPv6", 3, link1, group6, netip.MustParseAddr("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"), 8 + 255*16},
	} {
		t.Run(tt.name, func(t *testing.T) {
			in := Advert{Version: tt.version, VRID: 1, Priority: 1, Interval: time.Second}
			for range MaxAddrs {
				in.Addrs = append(in.Addrs, tt.addr)
			}
			b, err := AppendAdvert(nil, &in, tt.src, tt.dst, ChecksumPseudoHeader)
			if err != nil {
				t.Fatal(err)
			}
			if len(b) != tt.want {
				t.Errorf("got %d bytes, want %d", len(b), tt.want)
			}
			var out Advert
			if _, r := Decode(&out, b, tt.src, tt.dst); r != Accepted || !equalAdverts(in, out) {
				t.Errorf("got %v and %d addresses back, want all", r, len(out.Addrs))
			}
		})
	}
}

func TestAppendAdvertErrors(t *testing.T) {
	for _, tt := range []struct {
		name     string
		change   func(*Advert)
		src, dst netip.Addr
		want     string
	}{
		{"no such version", func(a *Advert) { a.Version = 4 }, ip1, group4, "version 4: want 2 or 3"},
		{"VRID 0", func(a *Advert) { a.VRID = 0 }, ip1, group4, "virtual router id 0: want 1 to 255"},
		{"no addresses in version 3", func(a *Advert) { a.Addrs = nil }, ip1, group4, "no addresses: version 3 wants at least one"},
		{"too many addresses", func(a *Advert) { a.Addrs = slices.Repeat([]netip.Addr{vip}, 256) }, ip1, group4, "256 addresses: want at most 255"},
		{"address of another family", func(a *Advert) { a.Addrs = []netip.Addr{vip6} }, ip1, group4, "address fe80::100: want the family of source 10.0.0.1"},
		{"no address at all", func(a *Advert) { a.Addrs = []netip.Addr{{}} }, ip1, group4, "address invalid IP: want the family"},
		{"version 2 on IPv6", func(a *Advert) { a.Version = 2 }, link1, group6, "source fe80::1: version 2 knows IPv4 only"},
		{"two families", func(*Advert) {}, ip1, group6, "source 10.0.0.1 and destination ff02::12: want two addresses of one family"},
		{"no source", func(*Advert) {}, netip.Addr{}, group4, "want two addresses of one family"},
		{"authentication header", func(a *Advert) { a.Version, a.AuthType = 2, 2 }, ip1, group4, "authentication type 2: want 0 or 1"},
		{"version 2 part of a second", func(a *Advert) { a.Version, a.Interval = 2, 1500*time.Millisecond }, ip1, group4, "advertisement interval 1.5s: version 2 wants whole seconds, 1 to 255"},
		{"version 2 too long", func(a *Advert) { a.Version, a.Interval = 2, 256*time.Second }, ip1, group4, "advertisement interval 4m16s"},
		{"version 3 too short", func(a *Advert) { a.Interval = 5 * time.Millisecond }, ip1, group4, "advertisement interval 5ms: version 3 wants steps of 10ms, 10ms to 40.95s"},
		{"version 3 no step", func(a *Advert) { a.Interval = 15 * time.Millisecond }, ip1, group4, "advertisement interval 15ms"},
		{"version 3 too long", func(a *Advert) { a.Interval = 40960 * time.Millisecond }, ip1, group4, "advertisement interval 40.96s"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a := Advert{Version: 3, VRID: 51, Priority: 100, Interval: time.Second, Addrs: []netip.Addr{vip}}
			tt.change(&a)
			got, err := AppendAdvert([]byte("head"), &a, tt.src, tt.dst, ChecksumPseudoHeader)
			if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.HasPrefix(err.Error(), "encode advert of virtual router ") {
				t.Errorf("got %v, want encode advert of virtual router …: %s", err, tt.want)
			}
			if string(got) != "head" {
				t.Errorf("got %q, want dst unchanged", got)
			}
		})
	}
}

// seal puts the right checksum into a packet that was bent by hand.
func seal(b []byte, src, dst netip.Addr, form ChecksumForm) []byte {
	b[6], b[7] = 0, 0
	var sum uint32
	if b[0]>>4 == 3 && (src.Is6() || form == ChecksumPseudoHeader) {
		sum = pseudoHeader(src, dst, len(b))
	}
	c := ^fold(add(sum, b))
	b[6], b[7] = byte(c>>8), byte(c)
	return b
}

func TestDecodeRejects(t *testing.T) {
	v2, v2auth, v3, v6 := vectors[0], vectors[1], vectors[4], vectors[7]
	set := func(i int, x byte) func([]byte) []byte {
		return func(b []byte) []byte { b[i] = x; return b }
	}
	for _, tt := range []struct {
		name   string
		v      vector
		change func([]byte) []byte
		dst    netip.Addr // instead of the vector's
		want   Reject
	}{
		{name: "version 1", v: v2, change: set(0, 0x11), want: RejectVersion},
		{name: "version 4", v: v3, change: set(0, 0x41), want: RejectVersion},
		{name: "type 2", v: v3, change: set(0, 0x32), want: RejectType},
		{name: "VRID 0", v: v3, change: set(1, 0), want: RejectVRID},
		{name: "more addresses than bytes", v: v3, change: set(3, 2), want: RejectLength},
		{name: "fewer addresses: the sum no longer fits", v: v2, change: set(3, 0), want: RejectChecksum},
		{name: "version 3 without addresses", v: v3, change: set(3, 0), want: RejectNoAddresses},
		{name: "version 3 interval 0", v: v3, change: set(5, 0), want: RejectInterval},
		{name: "version 3 interval 0 with reserved bits", v: v3, change: func(b []byte) []byte { b[4], b[5] = 0xf0, 0; return b }, want: RejectInterval},
		{name: "version 2 interval 0", v: v2, change: set(5, 0), want: RejectInterval},
		{name: "version 2 authentication header", v: v2, change: set(4, 2), want: RejectAuthType},
		{name: "version 2 checksum", v: v2auth, change: set(19, 'x'), want: RejectChecksum},
		{name: "version 3 checksum", v: v3, change: set(6, 0x76), want: RejectChecksum},
		{name: "IPv6 checksum", v: v6, change: set(7, 0), want: RejectChecksum},
		{name: "IPv6 to another destination", v: v6, dst: netip.MustParseAddr("ff02::1"), want: RejectChecksum},
		{name: "IPv6 has no plain form", v: v6, change: func(b []byte) []byte { return seal(b, ip1, ip2, ChecksumPlain) }, want: RejectChecksum},
		{name: "two families", v: v3, dst: group6, want: RejectFamily},
		{name: "empty", v: v3, change: func([]byte) []byte { return nil }, want: RejectTooShort},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := tt.v.bytes(t)
			if tt.change != nil {
				b = tt.change(b)
			}
			dst := tt.v.dst
			if tt.dst.IsValid() {
				dst = tt.dst
			}
			var a Advert
			if _, got := Decode(&a, b, tt.v.src, dst); got != tt.want {
				t.Errorf("got %v, want %v", got, tt.want)
			}
		})
	}
}

func TestVersion2OnIPv6IsNoAdvert(t *testing.T) {
	var a Advert
	if _, got := Decode(&a, vectors[0].bytes(t), link1, group6); got != RejectFamily {
		t.Errorf("got %v, want %v", got, RejectFamily)
	}
}

// TestBothChecksumsCanFit: where the pseudo header adds up to zero nobody can tell the forms apart.
func TestBothChecksumsCanFit(t *testing.T) {
	src, dst := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("245.255.255.130") // 0a00+0001+f5ff+ff82+0070+000c = 1fffe -> ffff
	a := Advert{Version: 3, VRID: 51, Priority: 100, Interval: time.Second, Addrs: []netip.Addr{vip}}
	b, err := AppendAdvert(nil, &a, src, dst, ChecksumPlain)
	if err != nil {
		t.Fatal(err)
	}
	forms, r := Decode(&a, b, src, dst)
	if r != Accepted || !forms.Has(ChecksumPlain) || !forms.Has(ChecksumPseudoHeader) {
		t.Errorf("got %v and forms %b, want accepted in both", r, forms)
	}
}

func TestMappedAndZonedAddresses(t *testing.T) {
	a := Advert{Version: 3, VRID: 51, Priority: 100, Interval: time.Second, Addrs: []netip.Addr{netip.MustParseAddr("::ffff:10.0.0.100")}}
	got, err := AppendAdvert(nil, &a, netip.MustParseAddr("::ffff:10.0.0.1"), group4, ChecksumPseudoHeader)
	if err != nil || string(got) != string(vectors[4].bytes(t)) {
		t.Errorf("mapped: got % x, %v; want that of IPv4", got, err)
	}
	a.Addrs = []netip.Addr{vip6.WithZone("eth0")}
	got, err = AppendAdvert(nil, &a, link1.WithZone("eth0"), group6, ChecksumPseudoHeader)
	if err != nil || string(got) != string(vectors[7].bytes(t)) {
		t.Errorf("zoned: got % x, %v; want that without a zone", got, err)
	}
}

func TestPeekVRID(t *testing.T) {
	if id, ok := PeekVRID(vectors[0].bytes(t)); id != 51 || !ok {
		t.Errorf("got %d, %v; want 51, true", id, ok)
	}
	if id, ok := PeekVRID(vectors[0].bytes(t)[:7]); id != 0 || ok {
		t.Errorf("seven bytes: got %d, %v; want 0, false", id, ok)
	}
}

func TestPassword(t *testing.T) {
	for in, want := range map[string]string{
		"":           "\x00\x00\x00\x00\x00\x00\x00\x00",
		"1111":       "1111\x00\x00\x00\x00",
		"secret12":   "secret12",
		"secret1234": "secret12",
	} {
		if got := Password(in); string(got[:]) != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
}
