package vrrp

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// Packet is an IP packet of protocol 112 as it came in.
type Packet struct {
	Payload  []byte     // without the IP header
	Src, Dst netip.Addr // zones are ignored
	TTL      int        // TTL or hop limit; -1 if unknown, which fails a check of it
	Clock    time.Time  // wall clock when it came in; for auth_hmac alone, which with the zero time takes nothing for fresh
}

// Peer is a unicast peer and the TTLs its packets may have.
type Peer struct {
	Addr           netip.Addr
	MinTTL, MaxTTL int // -1: not checked
}

// Filter is what one virtual router lets in. It keeps no state but HMAC's; the caller changes Source and Owner as they change.
type Filter struct {
	Version  Version
	VRID     uint8
	IPv6     bool
	Checksum ChecksumForm  // version 3 on IPv4
	AuthType uint8         // version 2: AuthNone or AuthPassword
	Auth     [8]byte       // version 2: see Password
	HMAC     *Verifier     // auth_hmac; nil: not used
	Interval time.Duration // ours; version 2 rejects another, version 3 warns

	Source        netip.Addr // our own address: what comes from it is our echo; zero: not known yet
	Owner         bool       // our priority is 255
	IgnoreAdverts bool       // owner_ignore_adverts (RFC 9568 section 7.1): an owner listens to nobody

	Unicast     bool
	Group       netip.Addr // multicast: the group; zero: any
	Peers       []Peer     // unicast
	CheckSource bool       // unicast: reject senders that are not in Peers

	Addrs []netip.Addr // our virtual addresses as we send them; nil: not compared (skip_check_adv_addr)
}

// Check decodes p into a if it is an advert for this virtual router, and else says why not. It looks in keepalived's
// order, so that the first thing wrong is the one an operator of both would be told: header, VRID, own address, family,
// TTL, version, auth_hmac, authentication, version 2's interval, type, length, checksum, destination, owner, sender. The warnings
// are those of an accepted advert.
func (f *Filter) Check(a *Advert, p Packet) (Warnings, Reject) {
	src, dst := plain(p.Src), plain(p.Dst)
	if len(p.Payload) < headerLen {
		return 0, RejectTooShort
	}
	peer := f.peer(src)
	switch version := Version(p.Payload[0] >> 4); {
	case p.Payload[1] != f.VRID:
		return 0, RejectVRID
	case src.IsValid() && src == plain(f.Source):
		return 0, RejectOwnAddress
	case !src.IsValid() || src.Is6() != f.IPv6 || dst.Is6() != f.IPv6:
		return 0, RejectFamily
	case !f.ttlFits(p.TTL, dst, peer):
		return 0, RejectTTL
	case version != f.Version:
		return 0, RejectVersion
	}
	var warnings Warnings
	if f.HMAC != nil {
		var r Reject
		if warnings, r = f.checkHMAC(p, src, peer); r != Accepted {
			return 0, r
		}
	}
	if f.Version == 2 {
		if r := f.checkV2(p.Payload); r != Accepted {
			return 0, r
		}
	}
	forms, r := Decode(a, p.Payload, src, dst)
	switch {
	case r != Accepted:
		return 0, r
	case !forms.Has(f.Checksum):
		return 0, RejectChecksumForm
	case dst.IsMulticast() == f.Unicast || !f.Unicast && f.Group.IsValid() && dst != plain(f.Group):
		return 0, RejectDestination
	case f.Owner && f.IgnoreAdverts:
		return 0, RejectOwner
	case f.Unicast && f.CheckSource && peer == nil:
		return 0, RejectPeer
	}
	if f.Unicast && peer == nil {
		warnings |= WarnStranger
	}
	return warnings | f.warnings(a), Accepted
}

// checkHMAC judges the trailer. What is signed must come from a peer with unicast: its stamps need somebody to belong to.
func (f *Filter) checkHMAC(p Packet, src netip.Addr, peer *Peer) (Warnings, Reject) {
	end := advertLen(f.Version, p.Payload, f.IPv6)
	switch {
	case len(p.Payload) < end:
		return 0, RejectLength
	case f.Unicast && peer == nil && trailer(p.Payload, end) != nil:
		return 0, RejectPeer
	}
	return f.HMAC.check(p.Payload, end, f.Version, f.VRID, src, f.Unicast, p.Clock)
}

// checkV2 is what RFC 3768 section 7.1 wants of a version 2 header beyond what Decode looks at.
func (f *Filter) checkV2(payload []byte) Reject {
	if payload[4] != f.AuthType {
		return RejectAuthType
	}
	if f.AuthType == AuthPassword {
		at := headerLen + int(payload[3])*4
		if len(payload) < at+authLen {
			return RejectLength
		}
		if [authLen]byte(payload[at:]) != f.Auth {
			return RejectAuth
		}
	}
	if interval(2, payload) != f.Interval {
		return RejectInterval
	}
	return Accepted
}

// ttlFits: 255 or nothing for a multicast packet, and for unicast what the peer's line says (keepalived checks it only
// if asked, since peers may be behind a router).
func (f *Filter) ttlFits(ttl int, dst netip.Addr, peer *Peer) bool {
	if dst.IsMulticast() || !f.Unicast {
		return ttl == TTL
	}
	if peer == nil {
		return true
	}
	return (peer.MinTTL < 0 || ttl >= peer.MinTTL) && (peer.MaxTTL < 0 || ttl >= 0 && ttl <= peer.MaxTTL)
}

// peer finds the unicast peer with this address; nil if it is none.
func (f *Filter) peer(src netip.Addr) *Peer {
	for i := range f.Peers {
		if plain(f.Peers[i].Addr) == src {
			return &f.Peers[i]
		}
	}
	return nil
}

func (f *Filter) warnings(a *Advert) Warnings {
	var w Warnings
	if a.Interval != f.Interval {
		w |= WarnInterval
	}
	if f.Addrs != nil && !sameAddrs(a.Addrs, f.Addrs) {
		w |= WarnAddresses
		if len(a.Addrs) > 0 && len(f.Addrs) > 0 && !slices.ContainsFunc(a.Addrs, func(x netip.Addr) bool { return slices.Contains(f.Addrs, x) }) {
			w |= WarnForeign
		}
	}
	if f.Owner && a.Priority == PriorityOwner {
		w |= WarnSecondOwner
	}
	return w
}

// Foreign reports whether a packet that was rejected comes from a group of its own that uses our VRID: it names virtual addresses,
// and not one of them is ours. It guesses where the packet can't be decoded, and is no reason to take or to reject anything.
func (f *Filter) Foreign(p Packet) bool {
	size := 4
	if f.IPv6 {
		size = 16
	}
	if len(p.Payload) < headerLen || len(f.Addrs) == 0 {
		return false
	}
	count := int(p.Payload[3])
	if count == 0 || len(p.Payload) < headerLen+count*size {
		return false
	}
	for k := range count {
		a, _ := netip.AddrFromSlice(p.Payload[headerLen+k*size:][:size])
		if slices.Contains(f.Addrs, a) {
			return false
		}
	}
	return true
}

// sameAddrs compares two lists in any order.
func sameAddrs(a, b []netip.Addr) bool {
	if len(a) != len(b) {
		return false
	}
	if slices.Equal(a, b) {
		return true
	}
	contains := func(a, b []netip.Addr) bool {
		for _, x := range b {
			if !slices.Contains(a, x) {
				return false
			}
		}
		return true
	}
	return contains(a, b) && contains(b, a)
}

// Explain says in an operator's words why p was rejected with r, and where there is one, what to do. It never tells a
// password. It is for the log, not for the packet path: it allocates.
func (f *Filter) Explain(p Packet, r Reject) string {
	src := plain(p.Src)
	var version Version
	var header [headerLen]byte
	copy(header[:], p.Payload)
	if len(p.Payload) > 0 {
		version = Version(p.Payload[0] >> 4)
	}
	switch r {
	case Accepted:
		return fmt.Sprintf("advert of %v accepted", src)
	case RejectTooShort:
		return fmt.Sprintf("%v sent %d bytes: too short for VRRP", src, len(p.Payload))
	case RejectVRID:
		return fmt.Sprintf("%v sent virtual_router_id %d, ours is %d", src, header[1], f.VRID)
	case RejectOwnAddress:
		return fmt.Sprintf("advert from our own address %v: the network loops it back, or another machine has our address", src)
	case RejectFamily:
		return fmt.Sprintf("%v sent to %v in the wrong address family; set native_ipv6 or the virtual addresses alike", src, p.Dst)
	case RejectTTL:
		if peer := f.peer(src); peer != nil && f.Unicast && !p.Dst.IsMulticast() {
			return fmt.Sprintf("%v sent with TTL %d, outside its min_ttl %d and max_ttl %d; set unicast_ttl there, or the limits of its line in unicast_peer", src, p.TTL, peer.MinTTL, peer.MaxTTL)
		}
		return fmt.Sprintf("%v sent with TTL %d instead of 255: it is not on this link, so that a router forwards it or somebody forges it", src, p.TTL)
	case RejectVersion:
		return fmt.Sprintf("%v speaks VRRP version %d, we speak %d; set the same vrrp_version", src, version, f.Version)
	case RejectAuthMissing:
		return fmt.Sprintf("%v does not sign its adverts; set the same auth_hmac block, or until all have it mode permissive", src)
	case RejectAuthMalformed:
		return fmt.Sprintf("%v signs its adverts in another way than auth_hmac", src)
	case RejectAuthStale:
		return fmt.Sprintf("%v signed with a clock that is %s ours, outside of time_window; synchronise the clocks, or it is a replay", src, f.skew(p))
	case RejectAuthKey:
		return fmt.Sprintf("%v signed with key %d, which is not ours; add it to the auth_hmac block", src, f.trailer(p)[1])
	case RejectAuthHMAC:
		return fmt.Sprintf("%v signed with another key %d, or somebody changed its advert; set the same key", src, f.trailer(p)[1])
	case RejectAuthReplay:
		return fmt.Sprintf("%v sent a signed advert that is not newer than its last one: a replay, or its clock was set back", src)
	case RejectAuthType:
		return fmt.Sprintf("%v uses authentication type %d, we use %d; set the same authentication block", src, header[4], f.AuthType)
	case RejectAuth:
		return fmt.Sprintf("%v sent another password; set the same auth_pass", src)
	case RejectInterval:
		if version == 3 {
			return fmt.Sprintf("%v sent an advertisement interval of 0", src)
		}
		return fmt.Sprintf("%v advertises every %v, we every %v; set the same advert_int", src, interval(2, header[:]), f.Interval)
	case RejectType:
		return fmt.Sprintf("%v sent VRRP type %d: not an advertisement", src, header[0]&0x0f)
	case RejectLength:
		return fmt.Sprintf("%v sent %d bytes: too short for its %d addresses", src, len(p.Payload), header[3])
	case RejectNoAddresses:
		return fmt.Sprintf("%v sent a version 3 advert without addresses", src)
	case RejectChecksum:
		return fmt.Sprintf("%v sent a wrong checksum; if it is a Cisco or Juniper router, try v3_checksum_as_v2 there or here", src)
	case RejectChecksumForm:
		if f.Checksum == ChecksumPseudoHeader {
			return fmt.Sprintf("peer %v uses the RFC 9568 checksum; set v3_checksum_as_v2", src)
		}
		return fmt.Sprintf("peer %v uses the RFC 5798 checksum with a pseudo header; unset v3_checksum_as_v2", src)
	case RejectDestination:
		switch {
		case f.Unicast:
			return fmt.Sprintf("%v sent to the group %v, we have unicast_peer; set unicast_peer on both or on neither", src, p.Dst)
		case p.Dst.IsMulticast():
			return fmt.Sprintf("%v sent to the group %v, ours is %v; set the same mcast_dst_ip or vrrp_mcast_group", src, p.Dst, f.Group)
		default:
			return fmt.Sprintf("%v sent by unicast to %v, we use multicast; set unicast_peer on both or on neither", src, p.Dst)
		}
	case RejectOwner:
		return fmt.Sprintf("%v advertises too, but we own the addresses (owner_ignore_adverts)", src)
	case RejectPeer:
		return fmt.Sprintf("%v is not a unicast_peer of ours; add it there, or give its group another virtual_router_id", src)
	default:
		return fmt.Sprintf("%v: %v", src, r)
	}
}

// trailer gives the trailer of p, or 28 zeros if there is none.
func (f *Filter) trailer(p Packet) []byte {
	if len(p.Payload) >= headerLen {
		if t := trailer(p.Payload, advertLen(f.Version, p.Payload, f.IPv6)); t != nil {
			return t
		}
	}
	return make([]byte, TrailerLen)
}

// skew says how far the clock of a sender is from ours.
func (f *Filter) skew(p Packet) string {
	off := secondsAfter(stampOf(p.Clock), binary.BigEndian.Uint64(f.trailer(p)[4:]))
	if off < 0 {
		return fmt.Sprintf("%v ahead of", time.Duration(-off)*time.Second)
	}
	return fmt.Sprintf("%v behind", time.Duration(off)*time.Second)
}

// ExplainWarnings says in an operator's words what is odd about the advert a of src. As Explain, it is for the log.
func (f *Filter) ExplainWarnings(a *Advert, src netip.Addr, w Warnings) string {
	var s []string
	if w&WarnInterval != 0 {
		s = append(s, fmt.Sprintf("%v advertises every %v, we every %v; set the same advert_int", plain(src), a.Interval, f.Interval))
	}
	switch {
	case w&WarnForeign != 0:
		s = append(s, fmt.Sprintf("%v uses virtual_router_id %d for other addresses: it %v, we %v; give one of the two groups another virtual_router_id", plain(src), f.VRID, a.Addrs, f.Addrs))
	case w&WarnAddresses != 0:
		s = append(s, fmt.Sprintf("%v has other virtual addresses: it %v, we %v; set the same virtual_ipaddress", plain(src), a.Addrs, f.Addrs))
	}
	if w&WarnSecondOwner != 0 {
		s = append(s, fmt.Sprintf("%v has priority 255 as we have: only one can own the addresses; set another priority", plain(src)))
	}
	if w&WarnClock != 0 {
		s = append(s, fmt.Sprintf("the clock of %v is more than half of time_window from ours; synchronise the clocks", plain(src)))
	}
	if w&WarnStranger != 0 {
		s = append(s, fmt.Sprintf("%v is not a unicast_peer of ours; add it there, or set check_unicast_src so that it is not listened to", plain(src)))
	}
	return strings.Join(s, "; ")
}
