package system

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"time"
)

// Why Read could not give a packet's payload. The packet is consumed; reading goes on.
var (
	// ErrTruncated: the packet is shorter than its header says, or longer than the buffer.
	ErrTruncated = errors.New("packet is truncated")
	// ErrHeader: the IPv4 header is not one: version, header length, total length or protocol is wrong.
	ErrHeader = errors.New("wrong IPv4 header")
)

// Meta is what the IP layer says about a received packet.
type Meta struct {
	Src, Dst netip.Addr // without zone; Index tells the link
	TTL      int        // TTL or hop limit, -1 if the kernel did not tell
	Index    int        // of the interface that received it
	At       time.Time  // when it was read
}

// splitIPv4 splits a packet as a raw socket delivers it into the payload and what its header says. The meta is
// as complete as the packet allows, also with an error.
func splitIPv4(b []byte) (payload []byte, meta Meta, err error) {
	const minHeader = 20
	meta.TTL = -1
	if len(b) < minHeader {
		return nil, meta, ErrTruncated
	}
	meta.Src = netip.AddrFrom4([4]byte(b[12:16]))
	meta.Dst = netip.AddrFrom4([4]byte(b[16:20]))
	meta.TTL = int(b[8])
	header := int(b[0]&0xf) * 4
	total := int(binary.BigEndian.Uint16(b[2:4]))
	switch {
	case b[0]>>4 != 4, header < minHeader, total < header, b[9] != vrrpProtocol:
		return nil, meta, ErrHeader
	case total > len(b):
		return nil, meta, ErrTruncated
	}
	// Anything behind the total length is link padding.
	return b[header:total], meta, nil
}
