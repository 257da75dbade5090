package lab

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"time"
)

// Frame is one frame as it entered the switch from a host. The parser here is the tests' own and knows only header
// fields, so that a mistake in the code under test doesn't hide itself.
type Frame struct {
	At     time.Time // the kernel's receive time stamp
	Bridge Bridge
	Host   string // whose cable it came through
	Raw    []byte // with the Ethernet header

	SrcMAC, DstMAC net.HardwareAddr
	EtherType      uint16
	Src, Dst       netip.Addr // of the IP header
	Protocol       uint8      // of the IP header; IPv6 extension headers are not followed
	TTL            uint8      // or hop limit

	VRRP *Advert
	ARP  *ARP
	NA   *NeighborAdvert
}

// Advert is a VRRP advertisement's header, of version 2 or 3.
type Advert struct {
	Version, Type, VRID, Priority, Count uint8
	Interval                             time.Duration
	Addrs                                []netip.Addr
}

// ARP is an ARP packet for IPv4 over Ethernet.
type ARP struct {
	Op        uint16 // 1 request, 2 reply
	SenderMAC net.HardwareAddr
	SenderIP  netip.Addr
	TargetMAC net.HardwareAddr
	TargetIP  netip.Addr
}

// NeighborAdvert is an ICMPv6 neighbour advertisement.
type NeighborAdvert struct {
	Target    netip.Addr
	Solicited bool
	Override  bool
}

const (
	etherIPv4 = 0x0800
	etherARP  = 0x0806
	etherIPv6 = 0x86dd

	protoICMPv6 = 58
	protoVRRP   = 112
)

// parse fills in what the raw frame says; a frame that is cut short stays with what could be read.
func (f *Frame) parse() {
	b := f.Raw
	if len(b) < 14 {
		return
	}
	f.DstMAC, f.SrcMAC, f.EtherType = net.HardwareAddr(b[0:6]), net.HardwareAddr(b[6:12]), binary.BigEndian.Uint16(b[12:])
	b = b[14:]
	switch f.EtherType {
	case etherARP:
		if len(b) >= 28 && binary.BigEndian.Uint16(b) == 1 && binary.BigEndian.Uint16(b[2:]) == etherIPv4 {
			f.ARP = &ARP{
				Op: binary.BigEndian.Uint16(b[6:]), SenderMAC: net.HardwareAddr(b[8:14]), SenderIP: netip.AddrFrom4([4]byte(b[14:18])),
				TargetMAC: net.HardwareAddr(b[18:24]), TargetIP: netip.AddrFrom4([4]byte(b[24:28])),
			}
		}
	case etherIPv4:
		if len(b) < 20 {
			return
		}
		size, total := int(b[0]&15)*4, int(binary.BigEndian.Uint16(b[2:]))
		f.TTL, f.Protocol = b[8], b[9]
		f.Src, f.Dst = netip.AddrFrom4([4]byte(b[12:16])), netip.AddrFrom4([4]byte(b[16:20]))
		if size < 20 || len(b) < size || total < size {
			return
		}
		f.parseIP(b[size:min(total, len(b))])
	case etherIPv6:
		if len(b) < 40 {
			return
		}
		f.Protocol, f.TTL = b[6], b[7]
		f.Src, f.Dst = netip.AddrFrom16([16]byte(b[8:24])), netip.AddrFrom16([16]byte(b[24:40]))
		f.parseIP(b[40:min(40+int(binary.BigEndian.Uint16(b[4:])), len(b))])
	}
}

func (f *Frame) parseIP(b []byte) {
	switch {
	case f.Protocol == protoVRRP && len(b) >= 8:
		a := &Advert{Version: b[0] >> 4, Type: b[0] & 15, VRID: b[1], Priority: b[2], Count: b[3]}
		if a.Version == 2 {
			a.Interval = time.Duration(b[5]) * time.Second
		} else {
			a.Interval = time.Duration(binary.BigEndian.Uint16(b[4:])&0xfff) * 10 * time.Millisecond
		}
		size := 4
		if f.EtherType == etherIPv6 {
			size = 16
		}
		for i, rest := 0, b[8:]; i < int(a.Count) && len(rest) >= size; i, rest = i+1, rest[size:] {
			addr, _ := netip.AddrFromSlice(rest[:size])
			a.Addrs = append(a.Addrs, addr)
		}
		f.VRRP = a
	case f.Protocol == protoICMPv6 && len(b) >= 24 && b[0] == 136:
		f.NA = &NeighborAdvert{Target: netip.AddrFrom16([16]byte(b[8:24])), Solicited: b[4]&0x40 != 0, Override: b[4]&0x20 != 0}
	}
}

// Announces reports whether the frame tells everybody that its sender has the address: a gratuitous ARP (request or
// reply) or an unsolicited neighbour advertisement.
func (f *Frame) Announces(vip netip.Addr) bool {
	if f.ARP != nil {
		return f.ARP.SenderIP == vip && f.ARP.TargetIP == vip
	}
	return f.NA != nil && !f.NA.Solicited && f.NA.Target == vip
}

// String is one line for reports.
func (f *Frame) String() string {
	s := fmt.Sprintf("%s %s %s %s > %s", f.At.Format("15:04:05.000000"), f.Bridge, f.Host, f.SrcMAC, f.DstMAC)
	switch {
	case f.VRRP != nil:
		return s + fmt.Sprintf(" vrrp%d %s > %s vrid %d prio %d interval %s %v", f.VRRP.Version, f.Src, f.Dst, f.VRRP.VRID, f.VRRP.Priority, f.VRRP.Interval, f.VRRP.Addrs)
	case f.ARP != nil:
		return s + fmt.Sprintf(" arp op %d %s is at %s, asks %s", f.ARP.Op, f.ARP.SenderIP, f.ARP.SenderMAC, f.ARP.TargetIP)
	case f.NA != nil:
		return s + fmt.Sprintf(" na %s override %t", f.NA.Target, f.NA.Override)
	case f.Src.IsValid():
		return s + fmt.Sprintf(" %s > %s protocol %d", f.Src, f.Dst, f.Protocol)
	}
	return s + fmt.Sprintf(" type %#04x", f.EtherType)
}
