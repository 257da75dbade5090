package vrrp

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"net/netip"
	"slices"
	"time"
)

// TrailerLen is how long the trailer of keepalived's auth_hmac (2.4) is. It stands behind the advert, and is covered
// neither by its address count nor, on IPv4, by its checksum; IPv6's checksum covers all of the payload.
//
//	0      type: 1, HMAC-SHA-256 cut to 128 bits
//	1      key id
//	2-3    0
//	4-7    seconds since 1970 (UTC)
//	8-9    binary fraction of the second
//	10-11  counter, for adverts of one instant
//	12-27  the first half of HMAC-SHA-256
//
// The HMAC is of 20 bytes (IP version 4 or 6, VRRP version, VRID, 0, and the source address, IPv4's with 12 zeros behind
// it), the advert with its checksum as zero, the first 12 bytes of the trailer, and 16 zeros.
const TrailerLen = 28

const (
	trailerType = 1 // HMAC-SHA-256 cut to 128 bits
	macLen      = 16
	pseudoLen   = 20

	checksumAt = 6 // in the advert

	// MulticastSenders is of how many senders a multicast virtual router remembers the last stamp.
	MulticastSenders = 4
)

// Bounds of auth_hmac.
const (
	MinHMACKey    = 32 // bytes
	MaxHMACKey    = 64
	MinHMACWindow = time.Second
	MaxHMACWindow = 300 * time.Second
)

// HMACMode is how strict a virtual router is about the trailer. One that is there must be right in each mode.
type HMACMode uint8

// The modes: enforce is the aim, the others are the way there.
const (
	HMACEnforce     HMACMode = iota // sign, and take nothing unsigned
	HMACPermissive                  // sign, and take unsigned adverts too
	HMACReceiveOnly                 // don't sign, and take unsigned adverts too
)

// HMACKey is a key of auth_hmac.
type HMACKey struct {
	ID     uint8  // 1 to 255
	Secret []byte // 32 to 64 bytes
}

// HMACConfig is auth_hmac.
type HMACConfig struct {
	Keys      []HMACKey // all are good for what comes in
	ActiveKey uint8     // signs what goes out
	Mode      HMACMode
	Monotonic bool          // anti_replay monotonic: no clocks are compared
	Window    time.Duration // whole seconds, 1 to 300: how far a sender's clock may be from ours; not with Monotonic
}

func (c HMACConfig) check() error {
	var errs []error
	bad := func(format string, args ...any) {
		errs = append(errs, fmt.Errorf("configure auth_hmac: "+format, args...))
	}
	active := false
	for i, k := range c.Keys {
		if k.ID == 0 {
			bad("key id 0: want 1 to 255")
		}
		if slices.ContainsFunc(c.Keys[:i], func(other HMACKey) bool { return other.ID == k.ID }) {
			bad("key %d twice", k.ID)
		}
		if len(k.Secret) < MinHMACKey || len(k.Secret) > MaxHMACKey {
			bad("key %d of %d bytes: want %d to %d", k.ID, len(k.Secret), MinHMACKey, MaxHMACKey)
		}
		active = active || k.ID == c.ActiveKey
	}
	if !active {
		bad("active key %d: want one of the keys", c.ActiveKey)
	}
	if c.Mode > HMACReceiveOnly {
		bad("mode %d: want 0 to %d", c.Mode, HMACReceiveOnly)
	}
	if !c.Monotonic && (c.Window < MinHMACWindow || c.Window > MaxHMACWindow || c.Window%time.Second != 0) {
		bad("window %v: want whole seconds, %v to %v", c.Window, MinHMACWindow, MaxHMACWindow)
	}
	return errors.Join(errs...)
}

// keyed is a key ready for use.
type keyed struct {
	id  uint8
	mac hash.Hash

	// What goes through the interface would be allocated anew for each packet.
	pseudo [pseudoLen]byte
	zeros  [macLen]byte
	sum    [sha256.Size]byte
}

func keyring(keys []HMACKey) []keyed {
	ring := make([]keyed, len(keys))
	for i, k := range keys {
		ring[i] = keyed{id: k.ID, mac: hmac.New(sha256.New, k.Secret)}
	}
	return ring
}

// sign gives the MAC of an advert from src with the first 12 bytes of its trailer. It is good until the next call.
func (k *keyed) sign(version Version, vrid uint8, src netip.Addr, pdu, trailer []byte) []byte {
	k.pseudo = [pseudoLen]byte{4, byte(version), vrid}
	if src.Is4() {
		a := src.As4()
		copy(k.pseudo[4:], a[:])
	} else {
		a := src.As16()
		k.pseudo[0] = 6
		copy(k.pseudo[4:], a[:])
	}
	k.mac.Reset()
	k.mac.Write(k.pseudo[:])
	k.mac.Write(pdu[:checksumAt])
	k.mac.Write(k.zeros[:2])
	k.mac.Write(pdu[checksumAt+2:])
	k.mac.Write(trailer[:TrailerLen-macLen])
	k.mac.Write(k.zeros[:])
	return k.mac.Sum(k.sum[:0])[:macLen]
}

// stampOf is a time as the trailer has it: seconds, fraction, and a counter of zero.
func stampOf(now time.Time) uint64 {
	return uint64(uint32(now.Unix()))<<32 | uint64(now.Nanosecond())<<16/1_000_000_000<<16
}

// after compares two stamps in serial arithmetic (RFC 1982): the seconds end in 2106.
func after(a, b uint64) bool { return int64(a-b) > 0 }

// secondsAfter is how many seconds a stamp lies after another.
func secondsAfter(a, b uint64) int64 { return int64(int32(uint32(a>>32) - uint32(b>>32))) }

// Signer signs the adverts of one virtual router. It is not safe for concurrent use.
type Signer struct {
	cfg   HMACConfig
	key   keyed
	stamp uint64 // of the last advert
	began bool
}

// NewSigner makes the signer of c. The error names all that is out of range.
func NewSigner(c HMACConfig) (*Signer, error) {
	s := &Signer{}
	return s, s.Reconfigure(c)
}

// Reconfigure takes other settings; the stamps go on. After an error nothing has changed.
func (s *Signer) Reconfigure(c HMACConfig) error {
	if err := c.check(); err != nil {
		return err
	}
	i := slices.IndexFunc(c.Keys, func(k HMACKey) bool { return k.ID == c.ActiveKey })
	s.cfg, s.key = c, keyring(c.Keys[i : i+1])[0]
	return nil
}

// Next begins another advert at the wall-clock time now: all its copies, one to each unicast peer, bear one stamp. Stamps
// grow even if the clock doesn't; only when a clock was set back by more than the window they follow it, because receivers
// would refuse what lies so far ahead.
func (s *Signer) Next(now time.Time) {
	clock := stampOf(now)
	ahead := secondsAfter(s.stamp, clock)
	switch {
	case !s.began, after(clock, s.stamp), !s.cfg.Monotonic && ahead > int64(s.cfg.Window/time.Second):
		s.stamp = clock
	default:
		s.stamp++
	}
	s.began = true
}

// AppendAdvert is the function of that name, with the trailer unless the mode is HMACReceiveOnly. Next comes before it.
func (s *Signer) AppendAdvert(dst []byte, a *Advert, src, to netip.Addr, form ChecksumForm) ([]byte, error) {
	start := len(dst)
	dst, err := AppendAdvert(dst, a, src, to, form)
	if err != nil || s.cfg.Mode == HMACReceiveOnly {
		return dst, err
	}
	src, to = plain(src), plain(to)
	end := len(dst)
	dst = append(dst, trailerType, s.key.id, 0, 0)
	dst = binary.BigEndian.AppendUint64(dst, s.stamp)
	dst = append(dst, s.key.sign(a.Version, a.VRID, src, dst[start:end], dst[end:])...)
	if src.Is6() { // the checksum of the upper layer covers the whole payload
		pdu := dst[start:]
		binary.BigEndian.PutUint16(pdu[checksumAt:], 0)
		binary.BigEndian.PutUint16(pdu[checksumAt:], ^fold(add(pseudoHeader(src, to, len(pdu)), pdu)))
	}
	return dst, nil
}

// Verifier judges the trailers of the adverts for one virtual router. It remembers each sender's last stamp, and is not safe
// for concurrent use.
type Verifier struct {
	cfg     HMACConfig
	keys    []keyed
	senders []sender
	uses    uint64
}

// sender is what is remembered of one that signed right.
type sender struct {
	addr  netip.Addr
	stamp uint64
	used  uint64 // when, in uses
}

// NewVerifier makes the verifier of c. The error names all that is out of range.
func NewVerifier(c HMACConfig) (*Verifier, error) {
	v := &Verifier{}
	return v, v.Reconfigure(c)
}

// Reconfigure takes other settings; the senders' stamps stay, so that a reload lets nothing be replayed. After an error
// nothing has changed.
func (v *Verifier) Reconfigure(c HMACConfig) error {
	if err := c.check(); err != nil {
		return err
	}
	v.cfg, v.keys = c, keyring(c.Keys)
	return nil
}

// trailer gives what is behind the advert, whose length is end, if it is a trailer. The length alone tells: the padding of
// a frame is never as long.
func trailer(payload []byte, end int) []byte {
	if len(payload) != end+TrailerLen {
		return nil
	}
	return payload[end:]
}

// check judges the payload of which the first end bytes are the advert. It looks in keepalived's order; the sender's stamp
// moves with the last step alone, so that nobody without the key can move it.
func (v *Verifier) check(payload []byte, end int, version Version, vrid uint8, src netip.Addr, unicast bool, now time.Time) (Warnings, Reject) {
	t := trailer(payload, end)
	switch {
	case t == nil && v.cfg.Mode == HMACEnforce:
		return 0, RejectAuthMissing
	case t == nil:
		return 0, Accepted
	case t[0] != trailerType || t[2] != 0 || t[3] != 0:
		return 0, RejectAuthMalformed
	}
	stamp := binary.BigEndian.Uint64(t[4:])
	clock := stampOf(now)
	off, window := secondsAfter(clock, stamp), int64(v.cfg.Window/time.Second)
	if !v.cfg.Monotonic && (off > window || off < -window) {
		return 0, RejectAuthStale // before the MAC: a flood of old captures costs no digest
	}
	k := slices.IndexFunc(v.keys, func(k keyed) bool { return k.id == t[1] })
	if k < 0 {
		return 0, RejectAuthKey
	}
	if !hmac.Equal(t[TrailerLen-macLen:], v.keys[k].sign(version, vrid, src, payload[:end], t)) {
		return 0, RejectAuthHMAC
	}
	last, known := v.sender(src, unicast)
	// A mark outside the window only orders what the window refuses; without it a sender whose clock was set right counts again.
	if age := secondsAfter(clock, last.stamp); known && !v.cfg.Monotonic && (age > window || age < -window) {
		known = false
	}
	if known && !after(stamp, last.stamp) {
		return 0, RejectAuthReplay
	}
	last.stamp = stamp
	if !v.cfg.Monotonic && (off > window/2 || off < -window/2) {
		return WarnClock, Accepted
	}
	return 0, Accepted
}

// sender gives the memory of src, and whether it has been heard before. Of multicast senders the one that was silent for
// the longest gives its place.
func (v *Verifier) sender(src netip.Addr, unicast bool) (s *sender, known bool) {
	v.uses++
	oldest := 0
	for i := range v.senders {
		s := &v.senders[i]
		if s.addr == src {
			s.used = v.uses
			return s, true
		}
		if s.used < v.senders[oldest].used {
			oldest = i
		}
	}
	if !unicast && len(v.senders) >= MulticastSenders {
		v.senders[oldest] = sender{addr: src, used: v.uses}
		return &v.senders[oldest], false
	}
	v.senders = append(v.senders, sender{addr: src, used: v.uses})
	return &v.senders[len(v.senders)-1], false
}
