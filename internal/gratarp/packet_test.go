package gratarp

import (
	"encoding/hex"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var mac = net.HardwareAddr{0x02, 0, 0, 0, 0, 0x0a}

func TestFrames(t *testing.T) {
	tests := []struct {
		name  string
		build func() ([]byte, error)
		want  []string
	}{
		{"gratuitous ARP", func() ([]byte, error) { return GARP(mac, netip.MustParseAddr("192.0.2.100")) }, []string{
			"ffffffffffff 02000000000a 0806",
			"0001 0800 06 04 0001",
			"02000000000a c0000264",
			"ffffffffffff c0000264",
		}},
		{"neighbour advertisement", func() ([]byte, error) { return NA(mac, netip.MustParseAddr("2001:db8::64"), false) }, []string{
			"333300000001 02000000000a 86dd",
			"60000000 0020 3a ff",
			"20010db8000000000000000000000064",
			"ff020000000000000000000000000001",
			"88 00 f85b 20000000",
			"20010db8000000000000000000000064",
			"02 01 02000000000a",
		}},
		{"neighbour advertisement of a router", func() ([]byte, error) { return NA(mac, netip.MustParseAddr("fe80::1%eth0"), true) }, []string{
			"333300000001 02000000000a 86dd",
			"60000000 0020 3a ff",
			"fe800000000000000000000000000001",
			"ff020000000000000000000000000001",
			"88 00 d791 a0000000",
			"fe800000000000000000000000000001",
			"02 01 02000000000a",
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := tt.build()
			if err != nil {
				t.Fatal(err)
			}
			want, err := hex.DecodeString(strings.ReplaceAll(strings.Join(tt.want, ""), " ", ""))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(hex.Dump(got), hex.Dump(want)); diff != "" {
				t.Errorf("got - want +\n%s", diff)
			}
		})
	}
}

func TestFrameErrors(t *testing.T) {
	long := make(net.HardwareAddr, 20) // InfiniBand
	tests := []struct {
		name  string
		build func() ([]byte, error)
		want  string
	}{
		{"ARP without MAC", func() ([]byte, error) { return GARP(nil, netip.MustParseAddr("192.0.2.1")) }, "not an Ethernet address"},
		{"ARP with a long MAC", func() ([]byte, error) { return GARP(long, netip.MustParseAddr("192.0.2.1")) }, "not an Ethernet address"},
		{"ARP for IPv6", func() ([]byte, error) { return GARP(mac, netip.MustParseAddr("::1")) }, "build gratuitous ARP for ::1: invalid IPv4 address"},
		{"NA without MAC", func() ([]byte, error) { return NA(nil, netip.MustParseAddr("::1"), false) }, "not an Ethernet address"},
		{"NA for IPv4", func() ([]byte, error) { return NA(mac, netip.MustParseAddr("192.0.2.1"), false) }, "not an IPv6 address"},
		{"NA for a mapped address", func() ([]byte, error) { return NA(mac, netip.MustParseAddr("::ffff:192.0.2.1"), false) }, "not an IPv6 address"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := tt.build(); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}
