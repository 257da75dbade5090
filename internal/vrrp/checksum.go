package vrrp

import (
	"encoding/binary"
	"net/netip"
)

// ChecksumForm says whether a version 3 IPv4 checksum covers a pseudo header.
type ChecksumForm uint8

// The two readings of section 5.2.8. IPv6 always has the pseudo header, version 2 never.
const (
	ChecksumPseudoHeader ChecksumForm = iota // RFC 5798 as keepalived and FRR read it
	ChecksumPlain                            // RFC 9568, keepalived's v3_checksum_as_v2
)

// ChecksumForms is a set of forms: those that the checksum of an advert fits. Both can fit, when the pseudo header's
// own sum is zero.
type ChecksumForms uint8

// Has reports whether f is in the set.
func (s ChecksumForms) Has(f ChecksumForm) bool { return s&(1<<f) != 0 }

const bothForms ChecksumForms = 1<<ChecksumPseudoHeader | 1<<ChecksumPlain

// verify gives the forms in which the checksum of pdu is right. Where a version and family know one form only, that
// answers for both.
func verify(v Version, pdu []byte, src, dst netip.Addr) ChecksumForms {
	sum := add(0, pdu)
	ok := func(sum uint32) bool { return fold(sum) == 0xffff }
	var forms ChecksumForms
	switch {
	case v == 2:
		if ok(sum) {
			forms = bothForms
		}
	case src.Is6():
		if ok(sum + pseudoHeader(src, dst, len(pdu))) {
			forms = bothForms
		}
	default:
		if ok(sum) {
			forms |= 1 << ChecksumPlain
		}
		if ok(sum + pseudoHeader(src, dst, len(pdu))) {
			forms |= 1 << ChecksumPseudoHeader
		}
	}
	return forms
}

// pseudoHeader is the sum of RFC 8200 section 8.1's pseudo header, which for IPv4 adds up as UDP's does.
func pseudoHeader(src, dst netip.Addr, length int) uint32 {
	sum := uint32(Protocol + length)
	if src.Is4() {
		s, d := src.As4(), dst.As4()
		return add(add(sum, s[:]), d[:])
	}
	s, d := src.As16(), dst.As16()
	return add(add(sum, s[:]), d[:])
}

// add adds the 16 bit words of b, whose length is even: every part of an advert is. The longest advert (255 IPv6
// addresses) is far from overflowing.
func add(sum uint32, b []byte) uint32 {
	for ; len(b) >= 2; b = b[2:] {
		sum += uint32(binary.BigEndian.Uint16(b))
	}
	return sum
}

// fold makes the ones' complement sum of RFC 1071.
func fold(sum uint32) uint16 {
	for sum>>16 != 0 {
		sum = sum>>16 + sum&0xffff
	}
	return uint16(sum)
}
