package system

import (
	"encoding/binary"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"pgvrrp/internal/conf"
)

// forEver is the kernel's infinite lifetime.
const forEver = 1<<32 - 1

// lifetimes are the valid and preferred lifetime of an address in seconds (RFC 4862 section 5.5.4). A deprecated
// address, preferred for 0 s, is never chosen as a source.
func lifetimes(addr conf.Address, lifetime time.Duration) (valid, preferred uint32) {
	valid, preferred = forEver, forEver
	if lifetime > 0 {
		// Rounded up without an overflow.
		valid = uint32(min((lifetime-1)/time.Second+1, forEver-1))
	}
	switch {
	case addr.PreferredLft >= 0:
		preferred = uint32(min(int64(addr.PreferredLft), forEver-1))
	case addr.PreferredLft == -2 && addr.Prefix.Addr().Is6() && addr.Prefix.IsSingleIP():
		preferred = 0
	}
	return valid, min(preferred, valid)
}

// addRequest is RTM_NEWADDR for an address.
func addRequest(index int, addr conf.Address, lifetime time.Duration, flags uint16) message {
	ne := binary.NativeEndian
	ip, peer, bits := addr.Prefix.Addr(), addr.Prefix.Addr(), addr.Prefix.Bits()
	if addr.Peer.IsValid() {
		peer, bits = addr.Peer.Addr(), addr.Peer.Bits()
	}
	var ifa uint32
	set := func(on bool, flag uint32) {
		if on {
			ifa |= flag
		}
	}
	set(addr.NoPrefixRoute, unix.IFA_F_NOPREFIXROUTE)
	set(addr.AutoJoin, unix.IFA_F_MCAUTOJOIN)
	if ip.Is6() {
		// A virtual address moves: a second of duplicate detection at each move would be an outage, and the
		// former holder may not have let go yet.
		ifa |= unix.IFA_F_NODAD
		set(addr.Home, unix.IFA_F_HOMEADDRESS)
		set(addr.MngTmpAddr, unix.IFA_F_MANAGETEMPADDR)
	}
	b := appendIfAddrmsg(ip, bits, uint8(ifa), addr.Scope, index)
	b = appendAttribute(b, unix.IFA_LOCAL, ip.AsSlice())
	b = appendAttribute(b, unix.IFA_ADDRESS, peer.AsSlice())
	b = appendAttribute(b, unix.IFA_FLAGS, ne.AppendUint32(nil, ifa))
	if ip.Is4() {
		if addr.Broadcast.IsValid() {
			b = appendAttribute(b, unix.IFA_BROADCAST, addr.Broadcast.AsSlice())
		}
		if addr.Label != "" {
			b = appendAttribute(b, unix.IFA_LABEL, append([]byte(addr.Label), 0))
		}
	}
	valid, preferred := lifetimes(addr, lifetime)
	cache := ne.AppendUint32(ne.AppendUint32(nil, preferred), valid)
	b = appendAttribute(b, unix.IFA_CACHEINFO, append(cache, make([]byte, unix.SizeofIfaCacheinfo-len(cache))...))
	b = appendAttribute(b, ifaProto, []byte{AddressProtocol})
	return message{kind: unix.RTM_NEWADDR, flags: flags, body: b}
}

// deleteRequest is RTM_DELADDR for exactly this address and prefix length.
func deleteRequest(index int, prefix netip.Prefix, peer netip.Addr) message {
	if !peer.IsValid() {
		peer = prefix.Addr()
	}
	b := appendIfAddrmsg(prefix.Addr(), prefix.Bits(), 0, 0, index)
	b = appendAttribute(b, unix.IFA_LOCAL, prefix.Addr().AsSlice())
	b = appendAttribute(b, unix.IFA_ADDRESS, peer.AsSlice())
	return message{kind: unix.RTM_DELADDR, body: b}
}

func appendIfAddrmsg(ip netip.Addr, bits int, flags, scope uint8, index int) []byte {
	family := byte(unix.AF_INET)
	if ip.Is6() {
		family = unix.AF_INET6
	}
	return binary.NativeEndian.AppendUint32([]byte{family, byte(bits), flags, scope}, uint32(index))
}
