//go:build netns

package system

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"pgvrrp/internal/conf"
	"pgvrrp/internal/system/nstest"
)

func openRoutes(t *testing.T, h *nstest.Host, file string) (r *Routes) {
	t.Helper()
	h.Do(t, func() {
		var err error
		if r, err = OpenRoutes(RoutesOptions{StateFile: file}); err != nil {
			t.Fatal(err)
		}
	})
	t.Cleanup(func() { _ = r.Close() })
	return r
}

// ours is what ip(8) shows of our routes and rules, without blanks at the ends.
func ours(t *testing.T, h *nstest.Host) (lines []string) {
	t.Helper()
	for _, family := range []string{"-4", "-6"} {
		out := h.Run(t, "ip", "-o", family, "route", "show", "table", "all", "proto", "212") + h.Run(t, "ip", family, "rule", "show", "proto", "212")
		for line := range strings.Lines(out) {
			line = strings.Join(strings.Fields(strings.ReplaceAll(line, "\\", " ")), " ")
			if !strings.Contains(line, ": ") || strings.HasSuffix(line, " proto 212") { // all rules are shown
				lines = append(lines, strings.TrimSuffix(line, " pref medium"))
			}
		}
	}
	return lines
}

func TestRoutes(t *testing.T) {
	h, other := nstest.New(t), nstest.New(t)
	nstest.Veth(t, h, "eth0", other, "eth0")
	h.Run(t, "ip", "addr", "add", "192.0.2.1/24", "dev", "eth0")
	h.Run(t, "ip", "addr", "add", "2001:db8::1/64", "dev", "eth0", "nodad")
	h.Run(t, "ip", "route", "add", "10.9.0.0/16", "via", "192.0.2.9")
	h.Run(t, "ip", "rule", "add", "from", "10.9.0.1", "pref", "90", "lookup", "90")
	state := filepath.Join(t.TempDir(), "routes.json")
	r := openRoutes(t, h, state)

	to, via := netip.MustParsePrefix, netip.MustParseAddr
	set := RouteSet{
		Owner: "VI_1",
		Routes: []conf.Route{
			{Type: "unicast", To: to("10.1.0.0/16"), Via: via("192.0.2.9"), Interface: "eth0", Source: via("192.0.2.1"), Table: 254, Metric: 5, Scope: -1, MTU: 1400, MTULock: true},
			{Type: "unicast", To: to("0.0.0.0/0"), Interface: "eth0", Table: 1000, Scope: -1},
			{Type: "unicast", To: to("10.2.0.0/16"), Table: 254, Scope: -1, NextHops: []conf.NextHop{{Via: via("192.0.2.8"), Weight: 1}, {Via: via("192.0.2.9"), Interface: "eth0", Weight: 3}}},
			{Type: "blackhole", To: to("10.3.0.0/16"), Table: 254, Scope: -1},
			{Type: "unicast", To: to("10.4.0.0/16"), Via: via("198.51.100.1"), Interface: "eth0", OnLink: true, Table: 254, Scope: -1},
			{Type: "unicast", To: to("2001:db8:1::/48"), Via: via("2001:db8::9"), Interface: "eth0", Table: 254, Scope: -1},
			{Type: "prohibit", To: to("2001:db8:2::/48"), Table: 254, Metric: 7, Scope: -1},
		},
		Rules: []conf.Rule{
			{From: to("192.0.2.100/32"), Preference: 100, Action: "table", Table: 1000},
			{To: to("10.5.0.0/16"), IIF: "eth0", Not: true, Preference: 101, Action: "nop"},
			{HasFWMark: true, FWMark: 7, FWMask: 0xff, Action: "table", Table: 50},
			{IPv6: true, From: to("2001:db8::/64"), Preference: 102, Action: "goto", Goto: 200},
		},
	}
	want := []string{
		"default dev eth0 table 1000 scope link",
		"10.1.0.0/16 via 192.0.2.9 dev eth0 src 192.0.2.1 metric 5 mtu lock 1400",
		"10.2.0.0/16 nexthop via 192.0.2.8 dev eth0 weight 1 nexthop via 192.0.2.9 dev eth0 weight 3",
		"blackhole 10.3.0.0/16",
		"10.4.0.0/16 via 198.51.100.1 dev eth0 onlink",
		"100: from 192.0.2.100 lookup 1000 proto 212",
		"101: not from all to 10.5.0.0/16 iif eth0 nop proto 212",
		"89: from all fwmark 0x7/0xff lookup 50 proto 212",
		"2001:db8:1::/48 via 2001:db8::9 dev eth0 metric 1024",
		"prohibit 2001:db8:2::/48 dev lo metric 7",
		"102: from 2001:db8::/64 goto 200 [unresolved] proto 212",
	}
	same := func(what string, want []string) {
		t.Helper()
		got := ours(t, h)
		for i, line := range got { // a detail of newer versions of ip(8)
			got[i] = strings.Replace(line, " error -13", "", 1)
		}
		slices.Sort(got)
		want = append([]string(nil), want...)
		slices.Sort(want)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: -want +got:\n%s", what, diff)
		}
	}
	put := func(set RouteSet) {
		t.Helper()
		if missing, err := r.Set(set); err != nil || len(missing) > 0 {
			t.Errorf("missing %q: %v", missing, err)
		}
	}
	if err := r.Declare(set); err != nil {
		t.Fatal(err)
	}
	put(set)
	same("set", want)
	put(set)
	same("set again", want)
	if missing, err := r.Missing("VI_1"); err != nil || len(missing) > 0 {
		t.Errorf("missing %q: %v", missing, err)
	}

	// What others remove is told, also what the kernel drops without a word.
	ctx, stop := context.WithCancel(t.Context())
	lost := make(chan []string, 16)
	watching := make(chan error, 1)
	go func() {
		var err error
		h.Do(t, func() { err = r.Watch(ctx, func(_ string, missing []string) { lost <- missing }) })
		watching <- err
	}()
	hears := func(want ...string) {
		t.Helper()
		for late := time.After(2 * lookEvery); ; {
			select {
			case got := <-lost:
				if slices.Equal(got, want) {
					return
				}
				t.Logf("heard %q", got)
			case <-late:
				t.Fatalf("not heard of %q", want)
			}
		}
	}
	h.Run(t, "ip", "route", "del", "blackhole", "10.3.0.0/16")
	hears("blackhole 10.3.0.0/16")
	put(set)
	h.Run(t, "ip", "rule", "del", "pref", "100")
	hears("rule from 192.0.2.100/32 preference 100 table 1000")
	put(set)
	h.Run(t, "ip", "addr", "del", "192.0.2.1/24", "dev", "eth0")
	h.Run(t, "ip", "addr", "add", "192.0.2.1/24", "dev", "eth0")
	hears(set.Routes[0].String(), set.Routes[1].String(), set.Routes[2].String(), set.Routes[4].String())
	put(set)
	same("put back", want)
	stop()
	if err := <-watching; err != nil {
		t.Error(err)
	}

	// A reload removes what is no longer wanted and touches nothing else.
	less := set
	less.Routes, less.Rules = set.Routes[:6], set.Rules[:3]
	put(less)
	same("fewer", slices.DeleteFunc(slices.Clone(want), func(s string) bool {
		return strings.HasPrefix(s, "prohibit 2001") || strings.HasPrefix(s, "102:")
	}))
	// What two want stays until the last one goes.
	put(RouteSet{Owner: "VI_2", Routes: set.Routes[3:4]})
	put(RouteSet{Owner: "VI_1"})
	same("another owner's", []string{"blackhole 10.3.0.0/16"})
	put(RouteSet{Owner: "VI_2"})
	same("none", nil)

	// Somebody else's is neither replaced nor removed.
	h.Run(t, "ip", "route", "replace", "10.9.0.0/16", "via", "192.0.2.9") // it went with the address
	foreign := RouteSet{Owner: "VI_1",
		Routes: []conf.Route{{Type: "unicast", To: to("10.9.0.0/16"), Via: via("192.0.2.8"), Table: 254, Scope: -1}, set.Routes[3]},
		Rules:  []conf.Rule{{From: to("10.9.0.1/32"), Preference: 90, Action: "table", Table: 90}}}
	missing, err := r.Set(foreign)
	if err == nil || !slices.Equal(missing, []string{foreign.Routes[0].String()}) {
		t.Errorf("missing %q: %v", missing, err)
	}
	same("beside others'", []string{"90: from 10.9.0.1 lookup 90 proto 212", "blackhole 10.3.0.0/16"})
	if _, err := r.Set(RouteSet{Owner: "VI_1"}); err != nil {
		t.Error(err)
	}
	if got := h.Run(t, "ip", "route", "show", "10.9.0.0/16") + h.Run(t, "ip", "rule", "show", "pref", "90"); !strings.Contains(got, "via 192.0.2.9") || !strings.Contains(got, "lookup 90") {
		t.Errorf("somebody else's: %s", got)
	}

	// A killed run: its list says what to remove, whatever the file says now.
	put(set)
	next := openRoutes(t, h, state)
	left, err := next.Leftovers(nil)
	if err != nil || len(left) != len(want) {
		t.Errorf("left %q: %v", left, err)
	}
	removed, err := next.Cleanup([]RouteSet{foreign})
	if err != nil || len(removed) != len(want) {
		t.Errorf("removed %q: %v", removed, err)
	}
	same("cleaned up", nil)
	if removed, err := next.Cleanup([]RouteSet{foreign}); err != nil || len(removed) > 0 {
		t.Errorf("removed again %q: %v", removed, err)
	}
	if _, err := os.Stat(state); !os.IsNotExist(err) {
		t.Errorf("the list is left: %v", err)
	}
	if got := h.Run(t, "ip", "route", "show", "10.9.0.0/16"); !strings.Contains(got, "via 192.0.2.9") {
		t.Errorf("somebody else's: %s", got)
	}
}

// What the kernel did not remove is not forgotten: the next try takes it.
func TestRoutesThatStay(t *testing.T) {
	h := bare(t)
	r := openRoutes(t, h, filepath.Join(t.TempDir(), "routes.json"))
	one := conf.Route{Type: "blackhole", To: netip.MustParsePrefix("10.1.0.0/16"), Table: 254, Scope: -1}
	other := conf.Route{Type: "blackhole", To: netip.MustParsePrefix("10.2.0.0/16"), Table: 254, Scope: -1}
	set := func(routes ...conf.Route) error {
		_, err := r.Set(RouteSet{Owner: "VI_1", Routes: routes})
		return err
	}
	if err := set(one, other); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		nstest.Without(t, unix.CAP_NET_ADMIN, func() {
			if err := set(one); !errors.Is(err, unix.EPERM) {
				t.Fatalf("got %v, want that it is not permitted", err)
			}
		})
	}
	for _, routes := range [][]conf.Route{{one}, {}} {
		if err := set(routes...); err != nil {
			t.Fatal(err)
		}
		if got := ours(t, h); len(got) != len(routes) {
			t.Errorf("got %q, want %d", got, len(routes))
		}
	}
}
