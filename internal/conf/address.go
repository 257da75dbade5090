package conf

import (
	"encoding/binary"
	"net/netip"
	"strconv"
	"strings"
)

// maxAddresses is what the count field of an advert can hold.
const maxAddresses = 255

// addressLine reads one line of virtual_ipaddress or virtual_ipaddress_excluded. It gives false if the address is dropped.
func (s *statement) addressLine() (Address, bool) {
	const dropped = "the address is dropped"
	w := s.arg(0)
	a := Address{Pos: w.pos, PreferredLft: -2}
	ip, length, slash := strings.Cut(w.text, "/")
	addr, err := netip.ParseAddr(ip)
	if err != nil || addr.Zone() != "" {
		s.bad(w, "malformed address, expected ADDRESS[/PREFIX]; %s", dropped)
		return a, false
	}
	bits := addr.BitLen()
	if slash {
		v, err := strconv.ParseUint(length, 10, 8)
		if err != nil || int(v) > bits {
			s.bad(w, "invalid prefix length, expected 0 to %d; using /%d", bits, bits)
		} else {
			bits = int(v)
		}
	}
	a.Prefix = netip.PrefixFrom(addr, bits)
	if addr.IsUnspecified() || addr.IsMulticast() || addr.IsLoopback() {
		s.report(Lint, w, "address that no host can share, expected a unicast address of a network")
	}

	keep := true
	var plainBroadcast *word // broadcast, to be checked once the peer is known
	for i := 1; i < s.args(); i++ {
		option := s.arg(i)
		value := func() (word, bool) {
			if i+1 >= s.args() {
				s.bad(option, "value is missing, expected one after the option; %s", dropped)
				keep = false
				return word{}, false
			}
			i++
			return s.arg(i), true
		}
		switch option.text {
		case "brd", "broadcast":
			v, ok := value()
			if !ok {
				continue
			}
			b, err := netip.ParseAddr(v.text)
			switch {
			case addr.Is6():
				s.bad(v, "IPv6 has no broadcast address; %s", dropped)
				keep = false
			case v.text == "+" || v.text == "-":
				if bits > 30 {
					s.bad(v, "prefix is too long for a broadcast address, expected at most /30; no broadcast address is set")
					continue
				}
				a.Broadcast = hostBits(a.Prefix, v.text == "+")
				plainBroadcast = &v
			case err != nil || !b.Is4():
				s.bad(v, "malformed broadcast address, expected an IPv4 address, + or -; %s", dropped)
				keep = false
			default:
				a.Broadcast = b
				plainBroadcast = &v
			}
		case "dev":
			v, ok := value()
			if !ok {
				continue
			}
			if a.Interface != "" {
				s.bad(v, "dev is given twice, expected it once; %s", dropped)
				keep = false
				continue
			}
			name, ok := s.interfaceName(v, dropped)
			a.Interface = name
			keep = keep && ok
		case "scope":
			v, ok := value()
			if !ok {
				continue
			}
			scope, ok := parseScope(v.text)
			switch {
			case !ok:
				s.bad(v, "unknown scope, expected global, site, link, host, nowhere or 0 to 255; ignored")
			case addr.Is6():
				s.bad(v, "IPv6 addresses have the scope that they show, expected no scope; ignored")
			default:
				a.Scope = scope
			}
		case "label":
			v, ok := value()
			if !ok {
				continue
			}
			if len(v.text) > 15 {
				s.bad(v, "label is too long, expected at most 15 characters; %s", dropped)
				keep = false
				continue
			}
			a.Label = v.text
		case "peer":
			v, ok := value()
			if !ok {
				continue
			}
			peer, err := netip.ParsePrefix(v.text)
			if err != nil {
				var alone netip.Addr
				if alone, err = netip.ParseAddr(v.text); err == nil {
					peer = netip.PrefixFrom(alone, alone.BitLen())
				}
			}
			switch {
			case err != nil || peer.Addr().Zone() != "":
				s.bad(v, "malformed peer address, expected ADDRESS[/PREFIX]; ignored")
			case peer.Addr().Is6() != addr.Is6():
				s.bad(v, "peer has another address family, expected that of the address; ignored")
			case a.Peer.IsValid():
				s.bad(v, "peer is given twice, expected it once; ignored")
			default:
				a.Peer = peer
			}
		case "preferred_lft":
			v, ok := value()
			if !ok {
				continue
			}
			if v.text == "forever" {
				a.PreferredLft = -1
				continue
			}
			n, err := strconv.ParseUint(v.text, 10, 31)
			if err != nil {
				s.bad(v, "invalid lifetime, expected forever or a whole number of seconds from 0 to 2147483647; ignored")
				continue
			}
			a.PreferredLft = int(n)
		case "home":
			a.Home = true
		case "-nodad":
			a.NoDAD = true
		case "mngtmpaddr":
			a.MngTmpAddr = true
		case "noprefixroute":
			a.NoPrefixRoute = true
		case "autojoin":
			a.AutoJoin = true
		case "no_track":
			a.NoTrack = true
		case "use_vmac":
			a.VMAC = true
		default:
			hint := nearest(option.text, []string{"brd", "broadcast", "dev", "scope", "label", "peer", "preferred_lft", "home",
				"-nodad", "mngtmpaddr", "noprefixroute", "autojoin", "no_track", "use_vmac"})
			if hint != "" {
				hint = ", did you mean " + hint + "?"
			}
			s.bad(option, "unknown option of an address%s; the address is kept without it", hint)
		}
	}
	if a.Peer.IsValid() {
		if plainBroadcast != nil {
			s.bad(*plainBroadcast, "broadcast and peer exclude each other; the broadcast address is ignored")
			a.Broadcast = netip.Addr{}
		}
		if slash {
			s.report(Lint, w, "prefix of an address with a peer is ignored, expected it at the peer")
			a.Prefix = netip.PrefixFrom(addr, addr.BitLen())
		}
	}
	return a, keep
}

// hostBits sets or clears the host part of an IPv4 prefix.
func hostBits(p netip.Prefix, set bool) netip.Addr {
	b := p.Addr().As4()
	n := binary.BigEndian.Uint32(b[:])
	mask := uint32(1)<<(32-p.Bits()) - 1
	if n &^= mask; set {
		n |= mask
	}
	binary.BigEndian.PutUint32(b[:], n)
	return netip.AddrFrom4(b)
}

// parseScope reads a name of rtnetlink's address scopes, or a number.
func parseScope(s string) (uint8, bool) {
	switch s {
	case "global":
		return 0, true
	case "site":
		return 200, true
	case "link":
		return 253, true
	case "host":
		return 254, true
	case "nowhere":
		return 255, true
	}
	v, err := strconv.ParseUint(s, 0, 8)
	return uint8(v), err == nil
}
