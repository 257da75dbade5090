//go:build netns

package system

import (
	"bytes"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"pgvrrp/internal/conf"
	"pgvrrp/internal/system/nstest"
)

func sysctl(t *testing.T, h *nstest.Host, key string) (value string) {
	t.Helper()
	h.Do(t, func() {
		var err error
		if value, err = ReadSysctl(key); err != nil {
			value = err.Error()
		}
	})
	return value
}

func TestSysctls(t *testing.T) {
	h := nstest.New(t)
	other := nstest.New(t)
	nstest.Veth(t, h, "eth0", other, "eth0")
	nstest.Veth(t, h, "eth1", other, "eth1")
	const dir = "net/ipv4/conf/"
	h.Sysctl(t, "2", "ipv4", "conf", "all", "rp_filter")
	h.Sysctl(t, "1", "ipv4", "conf", "eth1", "rp_filter")
	h.Sysctl(t, "0", "ipv4", "conf", "eth0", "rp_filter")
	file := filepath.Join(t.TempDir(), "sysctls.json")
	open := func() *Sysctls {
		s, err := OpenSysctls(nil, file)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	s := open()
	want := func(what string, values map[string]string) {
		t.Helper()
		for key, want := range values {
			if got := sysctl(t, h, dir+key); got != want {
				t.Errorf("%s: %s is %s, want %s", what, key, got, want)
			}
		}
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Error(err)
		}
	}
	h.Do(t, func() {
		must(s.Set("a", dir+"eth0/arp_ignore", "1"))
		must(s.Set("b", dir+"eth0/arp_ignore", "1"))
		must(s.Set("b", dir+"eth0/arp_filter", "0")) // it is
		must(s.ReverseFilters("a"))
		must(s.ReverseFilters("a"))
	})
	set := map[string]string{"eth0/arp_ignore": "1", "all/rp_filter": "0", "eth0/rp_filter": "2", "eth1/rp_filter": "2", "lo/rp_filter": "2"}
	want("set", set)
	h.Do(t, func() { must(s.Release("a")) })
	was := map[string]string{"eth0/arp_ignore": "1", "all/rp_filter": "2", "eth0/rp_filter": "0", "eth1/rp_filter": "1", "lo/rp_filter": "0"}
	want("one owner has gone", was)
	h.Do(t, func() { must(s.ReverseFilters("a")) })
	h.Run(t, "ip", "link", "del", "eth1")
	h.Sysctl(t, "1", "ipv4", "conf", "lo", "rp_filter") // by somebody else

	// After a kill.
	s = open()
	h.Do(t, func() {
		if got := s.Leftovers(); !slices.Contains(got, dir+"all/rp_filter") || !slices.Contains(got, dir+"eth0/arp_ignore") || slices.Contains(got, dir+"lo/rp_filter") {
			t.Errorf("left %q", got)
		}
		_, err := s.Cleanup()
		must(err)
	})
	want("cleaned up", map[string]string{"eth0/arp_ignore": "0", "all/rp_filter": "2", "eth0/rp_filter": "0", "lo/rp_filter": "1"})
	if s := open(); len(s.saved) > 0 {
		t.Errorf("still listed: %v", s.saved)
	}
}

func TestMacvlans(t *testing.T) {
	h, other := nstest.New(t), nstest.New(t)
	nstest.Veth(t, h, "eth0", other, "eth0")
	open := func(tag string) (m *Macvlans) {
		h.Do(t, func() {
			var err error
			if m, err = OpenMacvlans(tag); err != nil {
				t.Fatal(err)
			}
		})
		t.Cleanup(func() { _ = m.Close() })
		return m
	}
	m, rival := open("vrrpd /run/a"), open("vrrpd /run/b")
	v := Macvlan{Name: "vrrp.51", Parent: "eth0", MAC: conf.MAC{0, 0, 0x5e, 0, 1, 51}, Group: -1}
	ensure := func(m *Macvlans, v Macvlan) (err error) {
		h.Do(t, func() { err = m.Ensure(v) })
		return err
	}
	index := func() (n int) { n, _ = m.nl.index("vrrp.51"); return n }
	for range 2 {
		if err := ensure(m, v); err != nil {
			t.Fatal(err)
		}
	}
	first := index()
	out := h.Run(t, "ip", "-d", "link", "show", "vrrp.51")
	for _, want := range []string{"00:00:5e:00:01:33", "macvlan mode private", "alias vrrpd /run/a", "vrrp.51@eth0", "<BROADCAST,MULTICAST,UP,LOWER_UP>", "addrgenmode none"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in %s", want, out)
		}
	}
	if got := h.Run(t, "ip", "addr", "show", "dev", "vrrp.51"); strings.Contains(got, "inet") {
		t.Errorf("it has an address: %s", got)
	}
	for key, want := range map[string]string{"accept_local": "1", "arp_ignore": "1", "rp_filter": "0", "promote_secondaries": "1"} {
		if got := sysctl(t, h, "net/ipv4/conf/vrrp.51/"+key); got != want {
			t.Errorf("%s is %s, want %s", key, got, want)
		}
	}
	h.Run(t, "ip", "link", "set", "vrrp.51", "down")
	if err := ensure(m, v); err != nil || index() != first {
		t.Errorf("set up again: index %d, was %d: %v", index(), first, err)
	}
	v.MAC = conf.MAC{2, 0, 0, 0, 0, 51}
	if err := ensure(m, v); err != nil || index() == first {
		t.Errorf("another MAC address: index %d, was %d: %v", index(), first, err)
	}
	// Somebody else's of this name, and another's with this address.
	if err := ensure(rival, v); err == nil || !strings.Contains(err.Error(), "an interface of this name is there already and not ours") {
		t.Errorf("another's interface: %v", err)
	}
	again := v
	again.Name = "vrrp.52"
	if err := ensure(m, again); err == nil {
		t.Error("two of one MAC address")
	}
	again.Parent = "eth9"
	if err := ensure(m, again); err == nil || !strings.Contains(err.Error(), "make VMAC vrrp.52 on eth9: interface eth9: no such device") {
		t.Errorf("no parent: %v", err)
	}
	if names, err := rival.Names(); err != nil || len(names) > 0 {
		t.Errorf("another's: %q, %v", names, err)
	}
	if removed, err := rival.Remove(func(string) bool { return false }); err != nil || len(removed) > 0 {
		t.Errorf("another's: %q, %v", removed, err)
	}
	// What a killed run has just made has no alias yet.
	h.Run(t, "ip", "link", "add", "vrrp.9", "link", "eth0", "address", "00:00:5e:00:01:09", "type", "macvlan", "mode", "private")
	if err := ensure(m, Macvlan{Name: "vrrp.9", Parent: "eth0", MAC: conf.MAC{0, 0, 0x5e, 0, 1, 9}, Group: 7}); err != nil {
		t.Error(err)
	}
	if got := h.Run(t, "ip", "-d", "link", "show", "group", "7"); !strings.Contains(got, "vrrp.9@") {
		t.Errorf("group 7: %s", got)
	}
	removed, err := m.Remove(func(name string) bool { return name == "vrrp.9" })
	if err != nil || !slices.Equal(removed, []string{"vrrp.51"}) {
		t.Errorf("removed %q, %v", removed, err)
	}
	if names, err := m.Names(); err != nil || !slices.Equal(names, []string{"vrrp.9"}) {
		t.Errorf("left %q, %v", names, err)
	}
}

// TestFilter: packets to closed addresses are dropped, neighbours are found, and a quiet interface doesn't say what it listens to.
func TestFilter(t *testing.T) {
	h, other := nstest.New(t), nstest.New(t)
	nstest.Veth(t, h, "eth0", other, "eth0")
	for _, a := range []string{"192.0.2.1/24", "192.0.2.100/24", "2001:db8::1/64", "2001:db8::100/64"} {
		nodad := []string{}
		if strings.Contains(a, ":") {
			nodad = []string{"nodad"}
		}
		h.Run(t, append([]string{"ip", "addr", "add", a, "dev", "eth0"}, nodad...)...)
	}
	other.Run(t, "ip", "addr", "add", "192.0.2.2/24", "dev", "eth0")
	other.Run(t, "ip", "addr", "add", "2001:db8::2/64", "dev", "eth0", "nodad")
	var f Filter
	do := func(fn func() error) {
		t.Helper()
		h.Do(t, func() {
			if err := fn(); err != nil {
				t.Fatal(err)
			}
		})
	}
	reach := func(addr string) bool {
		out := other.Run(t, "sh", "-c", fmt.Sprintf("ping -c1 -W0.3 %s >/dev/null && echo yes || echo no", addr))
		return strings.TrimSpace(out) == "yes"
	}
	check := func(what string, want map[string]bool) {
		t.Helper()
		for addr, want := range want {
			if got := reach(addr); got != want {
				t.Errorf("%s: %s answers: %v, want %v", what, addr, got, want)
			}
		}
	}
	closed := FilterRules{Closed: []netip.Addr{netip.MustParseAddr("192.0.2.100"), netip.MustParseAddr("2001:db8::100")}, Quiet: []string{"v0"}}
	do(func() error { return f.Set(closed) })
	do(func() error { return f.Set(closed) })
	check("closed", map[string]bool{"192.0.2.1": true, "192.0.2.100": false, "2001:db8::1": true, "2001:db8::100": false})
	for family, addr := range map[string]string{"-4": "192.0.2.100", "-6": "2001:db8::100"} {
		if got := other.Run(t, "ip", family, "neigh", "show", addr); !strings.Contains(got, "lladdr") {
			t.Errorf("%s is not found: %q", addr, got)
		}
	}
	c := other.Capture(t, "eth0")
	h.Run(t, "ip", "link", "add", "v0", "link", "eth0", "type", "macvlan", "mode", "private")
	h.Run(t, "ip", "link", "set", "v0", "addrgenmode", "none", "up")
	says := func(group string, want int) {
		t.Helper()
		h.Do(t, func() {
			r, err := OpenReceiver(ReceiverConfig{Interface: "v0", IPv6: strings.Contains(group, ":"), Group: netip.MustParseAddr(group)})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = r.Close() })
		})
		// A report of IGMP, or one of MLD behind a hop-by-hop header, about the group.
		addr := netip.MustParseAddr(group).AsSlice()
		got := c.Take(t, 1, 300*time.Millisecond, func(b []byte) bool {
			return bytes.Contains(b[14:], addr) && (b[12] == 8 && b[13] == 0 && b[23] == 2 || len(b) > 62 && b[12] == 0x86 && b[20] == 0 && (b[62] == 131 || b[62] == 143))
		})
		if len(got) != want {
			t.Errorf("%d reports about %s, want %d", len(got), group, want)
		}
	}
	says("224.0.0.18", 0)
	says("ff02::12", 0)
	h.Run(t, "ip", "addr", "add", "fe80::77/64", "dev", "v0", "nodad")
	says("ff02::14", 1)
	h.Run(t, "ip", "addr", "del", "fe80::77/64", "dev", "v0")
	do(func() error { return f.Set(FilterRules{Closed: closed.Closed}) })
	says("224.0.0.19", 1)
	says("ff02::13", 1)
	h.Run(t, "nft", "flush", "ruleset")
	check("flushed", map[string]bool{"192.0.2.100": true})
	var again bool
	do(func() (err error) { again, err = f.Look(); return err })
	if !again {
		t.Error("the loss was not noticed")
	}
	do(func() (err error) { again, err = f.Look(); return err })
	if again {
		t.Error("a loss was noticed that was none")
	}
	check("put back", map[string]bool{"192.0.2.100": false})
	do(func() error { return CleanupFilter("") })
	check("cleaned up", map[string]bool{"192.0.2.100": true})
	do(func() error { return CleanupFilter("") })
	do(func() error { return f.Set(FilterRules{Quiet: []string{"eth0"}}) })
	do(f.Close)
	if got := h.Run(t, "nft", "list", "tables"); strings.TrimSpace(got) != "" {
		t.Errorf("left: %s", got)
	}
}
