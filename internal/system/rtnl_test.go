package system

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"pgvrrp/internal/conf"
)

// littleEndian skips golden bytes of messages in host byte order elsewhere.
func littleEndian(t *testing.T) {
	t.Helper()
	if binary.NativeEndian.Uint16([]byte{1, 0}) != 1 {
		t.Skip("golden bytes are little-endian")
	}
}

func unhex(t *testing.T, lines ...string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(strings.Join(lines, ""), " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestAddRequest(t *testing.T) {
	littleEndian(t)
	p := netip.MustParsePrefix
	tests := []struct {
		name     string
		addr     conf.Address
		lifetime time.Duration
		want     []string
	}{
		{"IPv4", conf.Address{Prefix: p("192.0.2.100/32"), PreferredLft: -2}, 0, []string{
			"02 20 00 00 05000000",
			"0800 0200 c0000264",                            // IFA_LOCAL
			"0800 0100 c0000264",                            // IFA_ADDRESS
			"0800 0800 00000000",                            // IFA_FLAGS
			"1400 0600 ffffffff ffffffff 00000000 00000000", // IFA_CACHEINFO
			"0500 0b00 d4 000000",                           // IFA_PROTO
		}},
		{"IPv4, everything", conf.Address{
			Prefix: p("192.0.2.100/24"), Peer: p("192.0.2.9/30"), Scope: 253, Broadcast: netip.MustParseAddr("192.0.2.255"),
			Label: "eth0:1", NoPrefixRoute: true, AutoJoin: true, PreferredLft: 5, Home: true, MngTmpAddr: true,
		}, 1500 * time.Millisecond, []string{
			"02 1e 00 fd 05000000",
			"0800 0200 c0000264",
			"0800 0100 c0000209",
			"0800 0800 00060000",
			"0800 0400 c00002ff",          // IFA_BROADCAST
			"0b00 0300 657468303a3100 00", // IFA_LABEL
			"1400 0600 02000000 02000000 00000000 00000000",
			"0500 0b00 d4 000000",
		}},
		{"IPv6 /128 is deprecated", conf.Address{Prefix: p("2001:db8::64/128"), PreferredLft: -2}, 0, []string{
			"0a 80 02 00 05000000",
			"1400 0200 20010db8000000000000000000000064",
			"1400 0100 20010db8000000000000000000000064",
			"0800 0800 02000000",
			"1400 0600 00000000 ffffffff 00000000 00000000",
			"0500 0b00 d4 000000",
		}},
		{"IPv6, everything", conf.Address{Prefix: p("2001:db8::64/64"), Home: true, MngTmpAddr: true, PreferredLft: -1}, 2 * time.Second, []string{
			"0a 40 12 00 05000000",
			"1400 0200 20010db8000000000000000000000064",
			"1400 0100 20010db8000000000000000000000064",
			"0800 0800 12010000",
			"1400 0600 02000000 02000000 00000000 00000000",
			"0500 0b00 d4 000000",
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := addRequest(5, tt.addr, tt.lifetime, unix.NLM_F_CREATE)
			if got.kind != unix.RTM_NEWADDR || got.flags != unix.NLM_F_CREATE {
				t.Errorf("got type %d and flags %#x", got.kind, got.flags)
			}
			if diff := cmp.Diff(hex.Dump(got.body), hex.Dump(unhex(t, tt.want...))); diff != "" {
				t.Errorf("got - want +\n%s", diff)
			}
		})
	}
}

func TestDeleteRequest(t *testing.T) {
	littleEndian(t)
	got := deleteRequest(5, netip.MustParsePrefix("192.0.2.100/24"), netip.Addr{})
	want := unhex(t, "02 18 00 00 05000000", "0800 0200 c0000264", "0800 0100 c0000264")
	if got.kind != unix.RTM_DELADDR || hex.Dump(got.body) != hex.Dump(want) {
		t.Errorf("got type %d\n%swant\n%s", got.kind, hex.Dump(got.body), hex.Dump(want))
	}
}

func TestLifetimes(t *testing.T) {
	v4, v6, single := netip.MustParsePrefix("192.0.2.1/32"), netip.MustParsePrefix("2001:db8::1/64"), netip.MustParsePrefix("2001:db8::1/128")
	tests := []struct {
		name                     string
		prefix                   netip.Prefix
		preferredLft             int
		lifetime                 time.Duration
		wantValid, wantPreferred uint32
	}{
		{"IPv4", v4, -2, 0, forEver, forEver},
		{"IPv4 with lifetime", v4, -2, 2 * time.Second, 2, 2},
		{"a fraction is rounded up", v4, -2, time.Millisecond, 1, 1},
		{"IPv6 subnet", v6, -2, 0, forEver, forEver},
		{"IPv6 /128", single, -2, 0, forEver, 0},
		{"IPv6 /128 preferred for ever", single, -1, 0, forEver, forEver},
		{"preferred given", v6, 30, 0, forEver, 30},
		{"preferred 0 given", v4, 0, 0, forEver, 0},
		{"preferred above valid", v6, 30, 2 * time.Second, 2, 2},
		{"very long", v4, -2, 1<<63 - 1, forEver - 1, forEver - 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			valid, preferred := lifetimes(conf.Address{Prefix: tt.prefix, PreferredLft: tt.preferredLft}, tt.lifetime)
			if valid != tt.wantValid || preferred != tt.wantPreferred {
				t.Errorf("got %d and %d, want %d and %d", valid, preferred, tt.wantValid, tt.wantPreferred)
			}
		})
	}
}

func TestParseAddress(t *testing.T) {
	littleEndian(t)
	tests := []struct {
		name string
		body []byte
		want KernelAddress
		ok   bool
	}{
		{"IPv4", unhex(t, "02 18 80 00 05000000", "0800 0100 c0000201", "0800 0200 c0000201", "0800 0400 c00002ff",
			"0900 0300 6574683000 000000", "0800 0800 80000000", "1400 0600 0a000000 14000000 00000000 00000000", "0500 0b00 d4 000000"),
			KernelAddress{Index: 5, Prefix: netip.MustParsePrefix("192.0.2.1/24"), Broadcast: netip.MustParseAddr("192.0.2.255"),
				Label: "eth0", Flags: unix.IFA_F_PERMANENT, Protocol: AddressProtocol, ValidLft: 20, PreferredLft: 10}, true},
		{"IPv4 with peer", unhex(t, "02 20 80 fd 05000000", "0800 0100 c0000202", "0800 0200 c0000201"),
			KernelAddress{Index: 5, Prefix: netip.MustParsePrefix("192.0.2.1/32"), Peer: netip.MustParseAddr("192.0.2.2"),
				Scope: 253, Flags: unix.IFA_F_PERMANENT, ValidLft: forEver, PreferredLft: forEver}, true},
		{"IPv6", unhex(t, "0a 40 80 fd 05000000", "1400 0100 fe80000000000000000000000000000a", "0800 0800 82000000"),
			KernelAddress{Index: 5, Prefix: netip.MustParsePrefix("fe80::a/64"), Scope: 253,
				Flags: unix.IFA_F_PERMANENT | unix.IFA_F_NODAD, ValidLft: forEver, PreferredLft: forEver}, true},
		{"no padding behind the last", unhex(t, "02 18 80 00 05000000", "0800 0100 c0000201", "0500 0b00 d4"),
			KernelAddress{Index: 5, Prefix: netip.MustParsePrefix("192.0.2.1/24"), Flags: unix.IFA_F_PERMANENT,
				Protocol: AddressProtocol, ValidLft: forEver, PreferredLft: forEver}, true},
		{"empty", nil, KernelAddress{}, false},
		{"no address", unhex(t, "02 18 80 00 05000000"), KernelAddress{}, false},
		{"IPv6 in IPv4", unhex(t, "02 18 80 00 05000000", "1400 0100 fe80000000000000000000000000000a"), KernelAddress{}, false},
		{"prefix length 33", unhex(t, "02 21 80 00 05000000", "0800 0100 c0000201"), KernelAddress{}, false},
		{"attribute too long", unhex(t, "02 18 80 00 05000000", "0900 0100 c0000201"), KernelAddress{}, false},
		{"attribute of length 0", unhex(t, "02 18 80 00 05000000", "0000 0100 c0000201"), KernelAddress{}, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := parseAddress(tt.body)
			if (err == nil) != tt.ok {
				t.Fatalf("got error %v, want success: %v", err, tt.ok)
			}
			if tt.ok && got != tt.want {
				t.Errorf("got  %+v\nwant %+v", got, tt.want)
			}
		})
	}
}

func FuzzParseMessages(f *testing.F) {
	f.Add([]byte("\x02\x18\x80\x00\x05\x00\x00\x00\x08\x00\x01\x00\xc0\x00\x02\x01"))
	f.Add([]byte("\x00\x00\x01\x00\x02\x00\x00\x00\x43\x10\x01\x00\x00\x00\x00\x00\x09\x00\x03\x00eth0\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if a, err := parseAddress(b); err == nil && !a.Prefix.IsValid() {
			t.Errorf("got %+v without error", a)
		}
		if l, ok, err := parseLink(b); ok && (err != nil || l.Name == "") {
			t.Errorf("got %+v, %v", l, err)
		}
	})
}

func TestCheckSet(t *testing.T) {
	p := netip.MustParsePrefix
	tests := []struct {
		name string
		addr conf.Address
		want string
	}{
		{"good", conf.Address{Prefix: p("192.0.2.1/24"), Interface: "eth0"}, ""},
		{"no interface", conf.Address{Prefix: p("192.0.2.1/24")}, "interface name is empty"},
		{"no prefix", conf.Address{Interface: "eth0"}, "not an address with a prefix length"},
		{"mapped", conf.Address{Prefix: p("::ffff:192.0.2.1/128"), Interface: "eth0"}, "not an address"},
		{"peer", conf.Address{Prefix: p("192.0.2.1/24"), Peer: p("::1/128"), Interface: "eth0"}, "of the other family"},
		{"broadcast", conf.Address{Prefix: p("2001:db8::1/64"), Broadcast: netip.MustParseAddr("192.0.2.255"), Interface: "eth0"}, "does not go with it"},
		{"label", conf.Address{Prefix: p("192.0.2.1/24"), Label: "abcdefghijklmnop", Interface: "eth0"}, "label"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := check(Set{Owner: "VI_1", Addresses: []conf.Address{tt.addr}})
			if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}

// A dump that was interrupted by a change is tried again, a little later.
func TestTryDump(t *testing.T) {
	for _, tt := range []struct {
		name        string
		interrupted int
		err, want   error
		tries       int
	}{
		{"at once", 0, nil, nil, 1},
		{"interrupted", 4, nil, nil, 5},
		{"refused", 2, unix.EPERM, unix.EPERM, 3},
		{"without an end", 1 << 30, nil, errChanged, dumpTries},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				tries, began := 0, time.Now()
				err := tryDump(func() (bool, error) {
					if tries++; tries <= tt.interrupted {
						return true, nil
					}
					return false, tt.err
				})
				if !errors.Is(err, tt.want) || tries != tt.tries {
					t.Errorf("got %v after %d tries, want %v after %d", err, tries, tt.want, tt.tries)
				}
				if took, want := time.Since(began), time.Duration(tt.tries-1)*dumpPause; took != want {
					t.Errorf("took %s, want %s", took, want)
				}
			})
		})
	}
}
