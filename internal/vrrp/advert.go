package vrrp

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"time"
)

// Protocol is VRRP's IP protocol number, TTL the only TTL or hop limit that a multicast advert may have (RFC 9568
// section 5.1.1.3): a router would have lowered it, so the sender is on this link.
const (
	Protocol = 112
	TTL      = 255
)

// Version is the VRRP version of a virtual router: 2 (RFC 3768) or 3 (RFC 5798, RFC 9568).
type Version uint8

// Authentication types of version 2 (RFC 2338 section 5.3.6). Type 2, the IP Authentication Header, is not spoken.
const (
	AuthNone     = 0
	AuthPassword = 1 // simple text: 8 bytes in clear, a guard against mistakes and no more
)

// PriorityLeaving and PriorityOwner are the two priorities with a meaning of their own (RFC 9568 section 5.2.4).
const (
	PriorityLeaving = 0
	PriorityOwner   = 255
)

// MaxAddrs is how many addresses an advert can carry: the count is one byte.
const MaxAddrs = 255

const (
	headerLen    = 8
	authLen      = 8
	typeAdvert   = 1
	centisecond  = 10 * time.Millisecond
	maxSeconds   = 255  // version 2: one byte
	maxCentiSecs = 4095 // version 3: twelve bits
)

// Advert is one VRRP advertisement. Priority 0 says that the sender leaves, 255 that it owns the addresses.
type Advert struct {
	Version  Version
	VRID     uint8
	Priority uint8
	AuthType uint8         // version 2: AuthNone or AuthPassword
	Auth     [8]byte       // version 2 authentication data; sent as zeros with AuthNone
	Interval time.Duration // Max Advertise Interval; version 2 whole seconds (1 to 255 s), version 3 centiseconds (10 ms to 40.95 s)
	Addrs    []netip.Addr  // the virtual addresses carried; Decode reuses the slice's memory
}

// Password makes authentication data of keepalived's auth_pass: zero padded, and cut to 8 bytes if longer.
func Password(s string) (auth [8]byte) {
	copy(auth[:], s)
	return auth
}

// PeekVRID gives the VRID of a payload that may be an advert, so that the reader can find the virtual router which
// then looks at all of it. It is false for a payload shorter than the header.
func PeekVRID(payload []byte) (uint8, bool) {
	if len(payload) < headerLen {
		return 0, false
	}
	return payload[1], true
}

// AppendAdvert appends a as it goes into an IP packet from src to to, and gives dst unchanged with an error if a can't
// be sent: a field out of its version's range or an address of another family. The family is that of src. Form counts
// for version 3 on IPv4 alone.
func AppendAdvert(dst []byte, a *Advert, src, to netip.Addr, form ChecksumForm) ([]byte, error) {
	src, to = plain(src), plain(to)
	if err := sendable(a, src, to); err != nil {
		return dst, fmt.Errorf("encode advert of virtual router %d: %w", a.VRID, err)
	}
	start := len(dst)
	dst = append(dst, byte(a.Version)<<4|typeAdvert, a.VRID, a.Priority, byte(len(a.Addrs)))
	if a.Version == 2 {
		dst = append(dst, a.AuthType, byte(a.Interval/time.Second))
	} else {
		dst = binary.BigEndian.AppendUint16(dst, uint16(a.Interval/centisecond))
	}
	dst = append(dst, 0, 0)
	for _, addr := range a.Addrs {
		if addr = addr.Unmap(); addr.Is4() {
			b := addr.As4()
			dst = append(dst, b[:]...)
		} else {
			b := addr.As16()
			dst = append(dst, b[:]...)
		}
	}
	if a.Version == 2 {
		var auth [authLen]byte
		if a.AuthType != AuthNone {
			auth = a.Auth
		}
		dst = append(dst, auth[:]...)
	}
	pdu := dst[start:]
	var sum uint32
	if a.Version == 3 && (src.Is6() || form == ChecksumPseudoHeader) {
		sum = pseudoHeader(src, to, len(pdu))
	}
	binary.BigEndian.PutUint16(pdu[6:], ^fold(add(sum, pdu)))
	return dst, nil
}

// sendable says why a can't be encoded.
func sendable(a *Advert, src, to netip.Addr) error {
	if !src.IsValid() || src.Is4() != to.Is4() {
		return fmt.Errorf("source %v and destination %v: want two addresses of one family", src, to)
	}
	if err := checkInterval(a.Version, a.Interval); err != nil {
		return err
	}
	switch {
	case a.Version == 2 && !src.Is4():
		return fmt.Errorf("source %v: version 2 knows IPv4 only", src)
	case a.Version == 2 && a.AuthType > AuthPassword:
		return fmt.Errorf("authentication type %d: want 0 or 1", a.AuthType)
	case a.VRID == 0:
		return fmt.Errorf("virtual router id 0: want 1 to 255")
	case len(a.Addrs) > MaxAddrs:
		return fmt.Errorf("%d addresses: want at most %d", len(a.Addrs), MaxAddrs)
	case a.Version == 3 && len(a.Addrs) == 0: // RFC 9568 section 5.2.5: nobody may listen to it
		return fmt.Errorf("no addresses: version 3 wants at least one")
	}
	for _, addr := range a.Addrs {
		if !addr.IsValid() || addr.Unmap().Is4() != src.Is4() {
			return fmt.Errorf("address %v: want the family of source %v", addr, src)
		}
	}
	return nil
}

// checkInterval says why d can't be an advertisement interval of version v, or that v is no version.
func checkInterval(v Version, d time.Duration) error {
	switch v {
	case 2:
		if d < time.Second || d > maxSeconds*time.Second || d%time.Second != 0 {
			return fmt.Errorf("advertisement interval %v: version 2 wants whole seconds, 1 to 255", d)
		}
	case 3:
		if d < centisecond || d > maxCentiSecs*centisecond || d%centisecond != 0 {
			return fmt.Errorf("advertisement interval %v: version 3 wants steps of 10ms, 10ms to 40.95s", d)
		}
	default:
		return fmt.Errorf("version %d: want 2 or 3", v)
	}
	return nil
}

// Decode reads the payload of an IP packet from src to dst into a. It judges the bytes alone, policy is Filter's: for
// version 3 on IPv4 it takes either checksum and says in the first result which of the two forms fit. Bytes behind the
// advert (Ethernet padding, trailers of other versions) are no error. After a reject a holds nothing of use.
func Decode(a *Advert, payload []byte, src, dst netip.Addr) (ChecksumForms, Reject) {
	src, dst = plain(src), plain(dst)
	if len(payload) < headerLen {
		return 0, RejectTooShort
	}
	a.Version = Version(payload[0] >> 4)
	a.VRID, a.Priority = payload[1], payload[2]
	a.AuthType, a.Auth, a.Addrs = AuthNone, [8]byte{}, a.Addrs[:0]

	switch {
	case a.Version != 2 && a.Version != 3:
		return 0, RejectVersion
	case !src.IsValid() || src.Is4() != dst.Is4() || a.Version == 2 && !src.Is4():
		return 0, RejectFamily
	case payload[0]&0x0f != typeAdvert:
		return 0, RejectType
	case a.VRID == 0:
		return 0, RejectVRID
	case a.Version == 2 && payload[4] > AuthPassword:
		return 0, RejectAuthType
	}

	size := 4
	if src.Is6() {
		size = 16
	}
	count := int(payload[3])
	end := advertLen(a.Version, payload, src.Is6())
	if len(payload) < end {
		return 0, RejectLength
	}
	if a.Version == 3 && count == 0 { // RFC 9568 section 5.2.5
		return 0, RejectNoAddresses
	}
	pdu := payload[:end]

	if a.Version == 2 && pdu[4] == AuthPassword {
		a.AuthType, a.Auth = AuthPassword, [authLen]byte(pdu[end-authLen:])
	}
	a.Interval = interval(a.Version, pdu)
	if a.Interval == 0 { // a Backup that learned it would take over at once, for ever
		return 0, RejectInterval
	}
	forms := verify(a.Version, pdu, src, dst)
	if forms == 0 && src.Is6() && trailer(payload, end) != nil {
		forms = verify(a.Version, payload, src, dst) // an authenticated advert: see TrailerLen
	}
	if forms == 0 {
		return 0, RejectChecksum
	}
	for b := pdu[headerLen:]; count > 0; count-- {
		if size == 4 {
			a.Addrs = append(a.Addrs, netip.AddrFrom4([4]byte(b)))
		} else {
			a.Addrs = append(a.Addrs, netip.AddrFrom16([16]byte(b)))
		}
		b = b[size:]
	}
	return forms, Accepted
}

// advertLen is how long the advert must be that begins with this header.
func advertLen(v Version, header []byte, ipv6 bool) int {
	size := 4
	if ipv6 {
		size = 16
	}
	n := headerLen + int(header[3])*size
	if v == 2 {
		n += authLen
	}
	return n
}

// interval reads the advertisement interval of a header. The four bits before version 3's are reserved: ignored.
func interval(v Version, header []byte) time.Duration {
	if v == 2 {
		return time.Duration(header[5]) * time.Second
	}
	return time.Duration(binary.BigEndian.Uint16(header[4:])&0x0fff) * centisecond
}

// plain takes the zone and the IPv4-in-IPv6 form from an address: the wire knows neither.
func plain(a netip.Addr) netip.Addr { return a.Unmap().WithZone("") }
