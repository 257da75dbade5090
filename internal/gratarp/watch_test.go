package gratarp

import (
	"net"
	"net/netip"
	"testing"

	"golang.org/x/net/bpf"
)

func TestClaims(t *testing.T) {
	mac := net.HardwareAddr{2, 0, 0, 0, 0, 9}
	vip, other := netip.MustParseAddr("192.0.2.100"), netip.MustParseAddr("192.0.2.9")
	frame := func(b []byte, err error) []byte {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	bent := func(b []byte, at int, v byte) []byte {
		b = append([]byte(nil), b...)
		b[at] = v
		return b
	}
	garp, probe := frame(GARP(mac, vip)), frame(Probe(mac, vip))
	var many []netip.Addr
	for k := range maxFiltered + 1 {
		many = append(many, netip.AddrFrom4([4]byte{10, 0, byte(k >> 8), byte(k)}))
	}
	for _, tt := range []struct {
		name   string
		frame  []byte
		watch  []netip.Addr
		passes bool // the kernel's filter
		claims bool
	}{
		{"announcement", garp, []netip.Addr{other, vip}, true, true},
		{"padded to the least length", append(append([]byte(nil), garp...), make([]byte, 18)...), []netip.Addr{vip}, true, true},
		{"of another address", garp, []netip.Addr{other}, false, true},
		{"nothing is watched", garp, nil, false, true},
		{"IPv6 is left out", garp, []netip.Addr{netip.MustParseAddr("2001:db8::1")}, false, true},
		{"the greatest filter", garp, append(many[:maxFiltered-1:maxFiltered-1], vip), true, true},
		{"more than the filter takes", garp, many, true, true},
		{"a probe claims nothing", probe, []netip.Addr{vip}, false, false},
		{"another protocol", bent(garp, 13, 0), []netip.Addr{vip}, false, false},
		{"another kind of hardware", bent(garp, arpKindsAt+1, 6), []netip.Addr{vip}, true, false},
		{"cut off", garp[:arpLength-1], []netip.Addr{vip}, true, false},
		{"no header", garp[:10], []netip.Addr{vip}, false, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			raw, err := claimFilter(tt.watch)
			if err != nil || len(raw) > 4096 {
				t.Fatalf("got %d instructions, %v", len(raw), err)
			}
			program, _ := bpf.Disassemble(raw)
			vm, err := bpf.NewVM(program)
			if err != nil {
				t.Fatal(err)
			}
			if n, err := vm.Run(tt.frame); err != nil || n > 0 != tt.passes {
				t.Errorf("the filter gives %d, %v, want passed %t", n, err, tt.passes)
			}
			addr, by, ok := claim(tt.frame)
			if ok != tt.claims || ok && (addr != vip || by.String() != mac.String()) {
				t.Errorf("got %s by %s, %t", addr, by, ok)
			}
		})
	}
	if _, err := Probe(mac, netip.MustParseAddr("2001:db8::1")); err == nil {
		t.Error("an ARP probe for an IPv6 address was made")
	}
	if _, err := Probe(mac[:5], vip); err == nil {
		t.Error("an ARP probe from half a MAC was made")
	}
	// RFC 5227 section 2.1.1: sender address 0, target hardware address 0, to all.
	if got := probe; net.HardwareAddr(got[:6]).String() != "ff:ff:ff:ff:ff:ff" || string(got[28:42]) != "\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\xc0\x00\x02\x64" || got[21] != 1 {
		t.Errorf("got %x", got)
	}
}
