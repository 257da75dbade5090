package conf

import (
	"fmt"
	"strings"
)

// String is the route in ip-route(8)'s words. Two routes that differ have different ones.
func (r Route) String() string {
	var b strings.Builder
	add := func(format string, args ...any) { fmt.Fprintf(&b, format, args...) }
	if r.Type != "unicast" {
		add("%s ", r.Type)
	}
	switch {
	case r.To.Bits() > 0:
		add("%s", r.To)
	case r.To.Addr().Is6():
		add("default inet6")
	default:
		add("default")
	}
	hop := func(h NextHop) {
		if h.Via.IsValid() {
			add(" via %s", h.Via)
		}
		if h.Interface != "" {
			add(" dev %s", h.Interface)
		}
		if h.OnLink {
			add(" onlink")
		}
	}
	hop(NextHop{Via: r.Via, Interface: r.Interface, OnLink: r.OnLink})
	if r.Source.IsValid() {
		add(" src %s", r.Source)
	}
	if r.Table != tableMain {
		add(" table %d", r.Table)
	}
	if r.Metric != 0 {
		add(" metric %d", r.Metric)
	}
	if r.Scope >= 0 {
		add(" scope %d", r.Scope)
	}
	if r.Protocol != 0 {
		add(" proto %d", r.Protocol)
	}
	if r.MTU != 0 {
		add(" mtu")
		if r.MTULock {
			add(" lock")
		}
		add(" %d", r.MTU)
	}
	if r.AdvMSS != 0 {
		add(" advmss %d", r.AdvMSS)
	}
	for _, h := range r.NextHops {
		add(" nexthop")
		hop(h)
		add(" weight %d", h.Weight)
	}
	return b.String()
}

// String is the rule in ip-rule(8)'s words. Two rules that differ have different ones.
func (r Rule) String() string {
	words := []string{"rule"}
	add := func(format string, args ...any) { words = append(words, fmt.Sprintf(format, args...)) }
	if r.IPv6 {
		add("inet6")
	}
	if r.Not {
		add("not")
	}
	if r.From.IsValid() {
		add("from %s", r.From)
	}
	if r.To.IsValid() {
		add("to %s", r.To)
	}
	if r.IIF != "" {
		add("iif %s", r.IIF)
	}
	if r.OIF != "" {
		add("oif %s", r.OIF)
	}
	if r.TOS != 0 {
		add("tos %d", r.TOS)
	}
	if r.HasFWMark {
		add("fwmark %#x/%#x", r.FWMark, r.FWMask)
	}
	if r.Preference != 0 {
		add("preference %d", r.Preference)
	}
	switch r.Action {
	case "table":
		add("table %d", r.Table)
	case "goto":
		add("goto %d", r.Goto)
	default:
		add("%s", r.Action)
	}
	return strings.Join(words, " ")
}
