package system

import (
	"bytes"
	"errors"
	"net/netip"
	"testing"
)

// ipv4 is a packet with a header of 20 bytes: total length 28, TTL 255, protocol 112, 192.0.2.1 to 224.0.0.18.
var ipv4 = []byte{
	0x45, 0xc0, 0x00, 0x1c, 0x00, 0x01, 0x00, 0x00, 0xff, 0x70, 0x00, 0x00, 192, 0, 2, 1, 224, 0, 0, 18,
	0x31, 0x01, 0x64, 0x00, 0x00, 0x64, 0x00, 0x00,
}

// with returns ipv4 with bytes replaced and then cut to or padded to size.
func with(size int, bytes map[int]byte) []byte {
	b := make([]byte, max(size, len(ipv4)))
	copy(b, ipv4)
	for i, v := range bytes {
		b[i] = v
	}
	return b[:size]
}

func TestSplitIPv4(t *testing.T) {
	src, dst := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("224.0.0.18")
	tests := []struct {
		name    string
		packet  []byte
		want    []byte
		wantTTL int
		wantErr error
	}{
		{"plain", ipv4, ipv4[20:], 255, nil},
		{"other TTL", with(28, map[int]byte{8: 64}), ipv4[20:], 64, nil},
		{"link padding", with(46, nil), ipv4[20:], 255, nil},
		{"IP options", with(28, map[int]byte{0: 0x46}), ipv4[24:], 255, nil},
		{"no payload", with(20, map[int]byte{3: 20}), []byte{}, 255, nil},
		{"empty", nil, nil, -1, ErrTruncated},
		{"19 bytes", with(19, nil), nil, -1, ErrTruncated},
		{"cut", with(27, nil), nil, 255, ErrTruncated},
		{"header cut", with(22, map[int]byte{0: 0x46, 3: 24}), nil, 255, ErrTruncated},
		{"version 6", with(28, map[int]byte{0: 0x65}), nil, 255, ErrHeader},
		{"header length 16", with(28, map[int]byte{0: 0x44}), nil, 255, ErrHeader},
		{"total below header", with(28, map[int]byte{3: 19}), nil, 255, ErrHeader},
		{"another protocol", with(28, map[int]byte{9: 51}), nil, 255, ErrHeader},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, meta, err := splitIPv4(tt.packet)
			if !errors.Is(err, tt.wantErr) {
				t.Fatalf("got error %v, want %v", err, tt.wantErr)
			}
			if !bytes.Equal(got, tt.want) {
				t.Errorf("got payload % x, want % x", got, tt.want)
			}
			if meta.TTL != tt.wantTTL {
				t.Errorf("got TTL %d, want %d", meta.TTL, tt.wantTTL)
			}
			if tt.wantTTL >= 0 && (meta.Src != src || meta.Dst != dst) {
				t.Errorf("got %s to %s, want %s to %s", meta.Src, meta.Dst, src, dst)
			}
		})
	}
}

func FuzzSplitIPv4(f *testing.F) {
	f.Add(ipv4)
	f.Add([]byte{0x4f})
	f.Fuzz(func(t *testing.T, b []byte) {
		payload, _, err := splitIPv4(b)
		if err == nil && len(payload)+20 > len(b) {
			t.Errorf("got %d bytes of payload out of %d", len(payload), len(b))
		}
	})
}

func TestCheckInterfaceName(t *testing.T) {
	tests := []struct {
		name, iface string
		want        bool
	}{
		{"short", "e", true},
		{"usual", "eth0.100", true},
		{"15 bytes", "abcdefghijklmno", true},
		{"16 bytes", "abcdefghijklmnop", false},
		{"empty", "", false},
		{"path", "../x", false},
		{"alias", "eth0:1", false},
		{"space", "eth 0", false},
		{"dots", "..", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if err := CheckInterfaceName(tt.iface); (err == nil) != tt.want {
				t.Errorf("got %v, want possible: %v", err, tt.want)
			}
		})
	}
}
