package conf

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// The numbers that iproute2 knows without its tables.
const (
	tableLocal, tableMain, tableDefault = 255, 254, 253

	protocolKeepalived = 18
)

// options walks through the words of a route or a rule.
type options struct {
	s    *statement
	i    int
	keep bool // false: the line is dropped
}

func (o *options) more() bool { return o.i < o.s.args() }

func (o *options) next() word {
	o.i++
	return o.s.arg(o.i - 1)
}

// drop reports what makes the whole line unusable.
func (o *options) drop(w word, format string, args ...any) {
	o.s.bad(w, format+"; the line is dropped", args...)
	o.keep = false
}

// value is the word after an option.
func (o *options) value(option word) (word, bool) {
	if !o.more() {
		o.drop(option, "value is missing, expected one after the option")
		return word{}, false
	}
	return o.next(), true
}

func (o *options) number(option word, low, high int64) (int, bool) {
	w, ok := o.value(option)
	if !ok {
		return 0, false
	}
	v, err := strconv.ParseInt(w.text, 0, 64)
	if err != nil || v < low || v > high {
		o.drop(w, "not a number of the range, expected %d to %d", low, high)
		return 0, false
	}
	return int(v), true
}

func (o *options) address(option word) netip.Addr {
	w, ok := o.value(option)
	if !ok {
		return netip.Addr{}
	}
	a, err := netip.ParseAddr(w.text)
	if err != nil || a.Zone() != "" {
		o.drop(w, "malformed address, expected an IPv4 or IPv6 address")
	}
	return a
}

// prefix reads ADDRESS[/LENGTH], default or any.
func (o *options) prefix(w word, ipv6 bool) netip.Prefix {
	if w.text == "default" || w.text == "any" || w.text == "all" {
		if ipv6 {
			return netip.PrefixFrom(netip.IPv6Unspecified(), 0)
		}
		return netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	}
	p, err := netip.ParsePrefix(w.text)
	if err != nil {
		var a netip.Addr
		if a, err = netip.ParseAddr(w.text); err == nil && a.Zone() == "" {
			p = netip.PrefixFrom(a, a.BitLen())
		} else {
			o.drop(w, "malformed network, expected ADDRESS[/PREFIX] or default")
			return netip.Prefix{}
		}
	}
	if p != p.Masked() {
		o.s.report(Lint, w, "host part is not zero, expected %s", p.Masked())
	}
	return p.Masked()
}

func (o *options) device(option word) string {
	w, ok := o.value(option)
	if !ok {
		return ""
	}
	name, ok := o.s.interfaceName(w, "the line is dropped")
	o.keep = o.keep && ok
	return name
}

// table reads the number or name of a routing table.
func (o *options) table(option word) int {
	w, ok := o.value(option)
	if !ok {
		return 0
	}
	switch w.text {
	case "main":
		return tableMain
	case "local":
		return tableLocal
	case "default":
		return tableDefault
	}
	v, err := strconv.ParseUint(w.text, 0, 32)
	if err != nil || v == 0 {
		o.drop(w, "unknown table, expected main, local, default or a number: vrrpd reads no iproute2 tables")
	}
	return int(v)
}

// inet takes a word that only says the family.
func (o *options) inet() {
	if o.more() && (o.s.text(o.i) == "inet" || o.s.text(o.i) == "inet6") {
		o.i++
	}
}

var routeTypes = func() []string { return []string{"unicast", "blackhole", "unreachable", "prohibit", "throw"} }

// routeLine reads a line of virtual_routes: ip-route(8)'s words, as far as a gateway or a source route needs them.
func routeLine(s *statement, d *instanceDraft) {
	o := &options{s: s, keep: true}
	r := Route{Pos: s.arg(0).pos, Type: "unicast", Table: tableMain, Scope: -1}
	ipv6 := slices.ContainsFunc(s.words[1:], func(w word) bool { return w.text == "inet6" || strings.Contains(w.text, ":") })
	typed := false
	for o.more() {
		w := o.next()
		switch w.text {
		case "inet", "inet6":
		case "src":
			r.Source = o.address(w)
		case "to":
			v, ok := o.value(w)
			if ok {
				r.To = o.prefix(v, ipv6)
			}
		case "via", "gw":
			if w.text == "gw" {
				s.report(Lint, w, "old word, expected via")
			}
			o.inet()
			r.Via = o.address(w)
		case "or": // an old way to write a second gateway
			second := o.address(w)
			if r.Via.IsValid() && second.IsValid() {
				r.NextHops = append(r.NextHops, NextHop{Via: r.Via, Weight: 1}, NextHop{Via: second, Weight: 1})
				r.Via = netip.Addr{}
			}
		case "dev", "oif":
			r.Interface = o.device(w)
		case "table":
			r.Table = o.table(w)
		case "metric", "priority", "preference":
			r.Metric, _ = o.number(w, 0, 1<<32-1)
		case "scope":
			v, ok := o.value(w)
			if !ok {
				continue
			}
			scope, ok := parseScope(v.text)
			if !ok {
				o.drop(v, "unknown scope, expected global, site, link, host, nowhere or 0 to 255")
			}
			r.Scope = int(scope)
		case "proto", "protocol":
			v, ok := o.value(w)
			if !ok {
				continue
			}
			names := map[string]int{"kernel": 2, "boot": 3, "static": 4, "keepalived": protocolKeepalived}
			n, known := names[v.text]
			if !known {
				u, err := strconv.ParseUint(v.text, 0, 8)
				if err != nil {
					o.drop(v, "unknown protocol, expected kernel, boot, static, keepalived or 0 to 255: vrrpd reads no iproute2 tables")
				}
				n = int(u)
			}
			r.Protocol = n
		case "mtu":
			if o.more() && s.text(o.i) == "lock" {
				o.i++
				r.MTULock = true
			}
			r.MTU, _ = o.number(w, 1, 1<<32-1)
		case "advmss":
			r.AdvMSS, _ = o.number(w, 1, 1<<32-1)
		case "onlink":
			r.OnLink = true
		case "append":
			r.Append = true
		case "no_track":
			r.NoTrack = true
		case "nexthop":
			r.NextHops = append(r.NextHops, o.nextHop())
		case "hoplimit", "rtt", "rttvar", "reordering", "window", "cwnd", "ssthresh", "rto_min", "initcwnd", "initrwnd", "quickack", "features", "congctl", "realms", "pref", "ttl-propagate", "fastopen_no_cookie":
			s.bad(w, "recognised but not supported by this version: the route is set without it")
			if o.more() && s.text(o.i) == "lock" {
				o.i++
			}
			o.value(w)
		case "tos", "dsfield", "from", "encap", "expires", "as", "vrf", "track_group":
			o.drop(w, "recognised but not supported by this version")
		default:
			switch {
			case slices.Contains(routeTypes(), w.text) && !typed && !r.To.IsValid():
				r.Type, typed = w.text, true
			case r.To.IsValid():
				o.drop(w, "unknown option of a route")
			default:
				r.To = o.prefix(w, ipv6)
			}
		}
		if !o.keep {
			return
		}
	}
	at := s.arg(0)
	families := []netip.Addr{r.Via, r.Source}
	for _, h := range r.NextHops {
		families = append(families, h.Via)
	}
	switch {
	case !r.To.IsValid():
		o.drop(at, "destination is missing, expected [to] ADDRESS/PREFIX or default")
	case slices.ContainsFunc(families, func(a netip.Addr) bool { return a.IsValid() && a.Is6() != r.To.Addr().Is6() }):
		o.drop(at, "addresses of two families, expected one")
	case r.Type != "unicast" && (r.Via.IsValid() || len(r.NextHops) > 0):
		o.drop(at, "a route of type %s has no gateway", r.Type)
	case r.Via.IsValid() && len(r.NextHops) > 0:
		o.drop(at, "via and nexthop exclude each other, expected one of the two")
	case r.Type == "unicast" && !r.Via.IsValid() && r.Interface == "" && len(r.NextHops) == 0:
		o.drop(at, "route goes nowhere, expected via, dev or nexthop")
	}
	if !o.keep {
		return
	}
	if r.Type == "unicast" && r.Interface == "" && !r.NoTrack && len(r.NextHops) == 0 {
		s.bad(at, "route has no dev, expected one, or no_track: its loss is not noticed")
		r.NoTrack = true
	}
	d.Routes = append(d.Routes, r)
}

// nextHop reads via ADDRESS, dev INTERFACE, weight N and onlink up to the next nexthop.
func (o *options) nextHop() NextHop {
	h := NextHop{Weight: 1}
	for o.keep && o.more() && o.s.text(o.i) != "nexthop" {
		switch w := o.next(); w.text {
		case "via":
			o.inet()
			h.Via = o.address(w)
		case "dev":
			h.Interface = o.device(w)
		case "weight":
			h.Weight, _ = o.number(w, 1, 256)
		case "onlink":
			h.OnLink = true
		default:
			o.drop(w, "unknown option of a nexthop, expected via, dev, weight or onlink")
		}
	}
	return h
}

// ruleLine reads a line of virtual_rules: ip-rule(8)'s words, as far as a source route needs them.
func ruleLine(s *statement, d *instanceDraft) {
	o := &options{s: s, keep: true}
	r := Rule{Pos: s.arg(0).pos}
	r.IPv6 = slices.ContainsFunc(s.words[1:], func(w word) bool { return w.text == "inet6" || strings.Contains(w.text, ":") })
	act := func(w word, action string) {
		if r.Action != "" {
			o.drop(w, "rule does %s already, expected one action", r.Action)
		}
		r.Action = action
	}
	for o.more() {
		w := o.next()
		switch w.text {
		case "inet", "inet6", "type":
		case "not":
			r.Not = true
		case "from":
			if v, ok := o.value(w); ok {
				r.From = o.prefix(v, r.IPv6)
			}
		case "to":
			if v, ok := o.value(w); ok {
				r.To = o.prefix(v, r.IPv6)
			}
		case "iif", "dev":
			r.IIF = o.device(w)
		case "oif":
			r.OIF = o.device(w)
		case "tos", "dsfield":
			r.TOS, _ = o.number(w, 0, 255)
		case "fwmark":
			v, ok := o.value(w)
			if !ok {
				continue
			}
			mark, mask, masked := strings.Cut(v.text, "/")
			m, err := strconv.ParseUint(mark, 0, 32)
			k, err2 := uint64(1<<32-1), error(nil)
			if masked {
				k, err2 = strconv.ParseUint(mask, 0, 32)
			}
			if err != nil || err2 != nil {
				o.drop(v, "malformed mark, expected MARK[/MASK]")
			}
			r.FWMark, r.FWMask, r.HasFWMark = uint32(m), uint32(k), true
		case "table", "lookup":
			act(w, "table")
			r.Table = o.table(w)
		case "preference", "priority", "order", "pref":
			r.Preference, _ = o.number(w, 0, 1<<32-1)
		case "goto":
			act(w, "goto")
			r.Goto, _ = o.number(w, 1, 1<<32-1)
		case "blackhole", "unreachable", "prohibit", "nop":
			act(w, w.text)
		case "no_track":
			r.NoTrack = true
		case "realms", "suppress_prefixlength", "sup_pl", "suppress_ifgroup", "sup_group", "tunnel-id", "uidrange", "l3mdev", "protocol",
			"ipproto", "ip_proto", "sport", "dport", "track_group":
			o.drop(w, "recognised but not supported by this version")
		default:
			o.drop(w, "unknown option of a rule")
		}
		if !o.keep {
			return
		}
	}
	at := s.arg(0)
	switch {
	case r.Action == "":
		o.drop(at, "rule does nothing, expected table, goto, blackhole, unreachable, prohibit or nop")
	case r.From.IsValid() && r.To.IsValid() && r.From.Addr().Is6() != r.To.Addr().Is6():
		o.drop(at, "addresses of two families, expected one")
	case r.Preference == 0:
		s.report(Lint, at, "rule has no preference, expected one: the order of rules without is that of their coming")
	case r.Action == "goto" && r.Goto <= r.Preference:
		o.drop(at, "goto %d goes back, expected a preference after %s", r.Goto, fmt.Sprint(r.Preference))
	}
	if o.keep {
		d.Rules = append(d.Rules, r)
	}
}
