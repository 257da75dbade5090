package gratarp

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"

	"github.com/mdlayher/arp"
)

const (
	etherHeader   = 14
	etherTypeARP  = 0x0806
	etherTypeIPv6 = 0x86dd
)

var broadcast = net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

// appendEther appends an Ethernet header.
func appendEther(b []byte, dst, src net.HardwareAddr, etherType uint16) []byte {
	b = append(append(b, dst...), src...)
	return binary.BigEndian.AppendUint16(b, etherType)
}

// GARP is the Ethernet frame of a gratuitous ARP: a broadcast request from mac with the address as sender and
// target, and the broadcast address as target hardware address, as keepalived sends it.
func GARP(mac net.HardwareAddr, addr netip.Addr) ([]byte, error) {
	if len(mac) != 6 {
		return nil, fmt.Errorf("build gratuitous ARP for %s: %q is not an Ethernet address", addr, mac.String())
	}
	p, err := arp.NewPacket(arp.OperationRequest, mac, addr, broadcast, addr)
	if err != nil {
		return nil, fmt.Errorf("build gratuitous ARP for %s: %w", addr, err)
	}
	payload, err := p.MarshalBinary()
	if err != nil {
		return nil, fmt.Errorf("build gratuitous ARP for %s: %w", addr, err)
	}
	b := make([]byte, 0, etherHeader+len(payload))
	return append(appendEther(b, broadcast, mac, etherTypeARP), payload...), nil
}

// NA is the Ethernet frame of an unsolicited neighbour advertisement (RFC 4861 section 4.4): from the address
// itself to all nodes, hop limit 255, Override set, Router as given, with the target's link-layer address.
func NA(mac net.HardwareAddr, addr netip.Addr, router bool) ([]byte, error) {
	addr = addr.WithZone("")
	if len(mac) != 6 {
		return nil, fmt.Errorf("build neighbour advertisement for %s: %q is not an Ethernet address", addr, mac.String())
	}
	if !addr.Is6() || addr.Is4In6() {
		return nil, fmt.Errorf("build neighbour advertisement for %s: not an IPv6 address", addr)
	}
	const (
		ipHeader      = 40
		icmpLength    = 24 + 8 // advertisement and one option
		nextICMPv6    = 58
		advertisement = 136
		flagRouter    = 0x80
		flagOverride  = 0x20
		optionTarget  = 2 // target link-layer address
	)
	allNodes := [16]byte{0: 0xff, 1: 0x02, 15: 1}
	from := addr.As16()
	b := make([]byte, 0, etherHeader+ipHeader+icmpLength)
	b = appendEther(b, net.HardwareAddr{0x33, 0x33, 0, 0, 0, 1}, mac, etherTypeIPv6)
	b = append(b, 0x60, 0, 0, 0, 0, icmpLength, nextICMPv6, 255)
	b = append(append(b, from[:]...), allNodes[:]...)
	icmp := len(b)
	flags := byte(flagOverride)
	if router {
		flags |= flagRouter
	}
	b = append(b, advertisement, 0, 0, 0, flags, 0, 0, 0)
	b = append(b, from[:]...)
	b = append(append(b, optionTarget, 1), mac...)

	// RFC 8200 section 8.1: addresses, length, next header, then the message.
	sum := checksum(b[etherHeader+8:icmp]) + icmpLength + nextICMPv6 + checksum(b[icmp:])
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	binary.BigEndian.PutUint16(b[icmp+2:], ^uint16(sum))
	return b, nil
}

// checksum is the sum of 16-bit words, not yet folded; b has an even length.
func checksum(b []byte) (sum uint32) {
	for i := 0; i < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	return sum
}
