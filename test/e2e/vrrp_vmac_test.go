//go:build e2e

package e2e

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"pgvrrp/internal/control"
	"pgvrrp/test/lab"
)

// standsOn is the interface of a host that has an address, "" for none.
func standsOn(t *testing.T, h *lab.Host, addr netip.Addr) string {
	t.Helper()
	all, err := kernelAddresses(h)
	if err != nil {
		t.Fatal(err)
	}
	for dev, list := range all {
		if slices.ContainsFunc(list, func(p netip.Prefix) bool { return p.Addr() == addr }) {
			return dev
		}
	}
	return ""
}

// sysctlOf reads a setting of a host's kernel.
func sysctlOf(t *testing.T, h *lab.Host, key string) string {
	t.Helper()
	return strings.TrimSpace(run(t, h, "cat", "/proc/sys/net/ipv4/conf/"+key))
}

// TestVMACBesideKeepalived: vrrpd and keepalived share virtual MAC addresses, and a takeover in either direction changes nothing
// for a neighbour. With it what a virtual router asks of its host besides: routes, rules, closed addresses, settings.
func TestVMACBesideKeepalived(t *testing.T) {
	l := newLab(t, 2)
	n1, n2, client := l.Host("n1"), l.Host("n2"), l.Client()
	vip, closed, vip6 := lab.VIP(1), lab.VIP(2), netip.MustParseAddr("fd77::1:53")
	four := router{VRID: 51, Interval: "0.1", VIPs: []string{vip.String() + "/24"}, Lines: []string{"use_vmac"}}
	six := router{VRID: 53, Interval: "0.1", VIPs: []string{"fe80::77:53/64", vip6.String() + "/64"}, Lines: []string{"use_vmac vr6"}}
	shut := router{VRID: 52, Interval: "0.1", VIPs: []string{closed.String() + "/24"}, Lines: []string{
		"no_accept", "promote_secondaries",
		"virtual_routes {", fmt.Sprintf("  10.200.0.0/16 via %s dev eth0 src %s table 100", client.Addr(lab.LAN), closed), "}",
		"virtual_rules {", fmt.Sprintf("  from %s table 100 preference 100", closed), "}",
	}}
	plain := router{VRID: 54, Interval: "0.1", VIPs: []string{lab.VIP(4).String() + "/24"}}
	// An interface of n1 alone that comes and goes.
	lone := block("vrrp_instance LONE {\n  interface base0\n  virtual_router_id 60\n  advert_int 0.1\n  use_vmac\n  virtual_ipaddress {\n    10.99.0.100/24\n  }\n}\n")
	config := file("dynamic_interfaces", four.with(150), six.with(150), shut.with(150), plain.with(150), lone)
	run(t, n1, "sh", "-c", "echo 2 >/proc/sys/net/ipv4/conf/all/rp_filter; echo 0 >/proc/sys/net/ipv4/conf/eth0/promote_secondaries")

	// reaches asks an address twice, with what the client remembers of its MAC address.
	reaches := func(addr netip.Addr) bool {
		return try(t, client, "ping", "-n", "-c", "2", "-i", "0.1", "-W", "1", addr.String()).Code == 0
	}
	settings := map[string]string{"all/rp_filter": "2", "eth0/rp_filter": "0", "eth0/arp_ignore": "0", "eth0/arp_filter": "0", "eth0/arp_announce": "0", "eth0/promote_secondaries": "0"}
	restored := func(what string) {
		t.Helper()
		if got := run(t, n1, "ip", "-o", "link", "show", "type", "macvlan"); got != "" {
			t.Errorf("%s: left %s", what, got)
		}
		for key, want := range settings {
			if got := sysctlOf(t, n1, key); got != want {
				t.Errorf("%s: %s is %s, want %s", what, key, got, want)
			}
		}
		if got := run(t, n1, "nft", "list", "tables"); strings.Contains(got, "vrrpd") {
			t.Errorf("%s: left %s", what, got)
		}
		if got := run(t, n1, "ip", "rule", "show", "pref", "100") + run(t, n1, "ip", "route", "show", "table", "all", "proto", "212"); got != "" {
			t.Errorf("%s: left %s", what, got)
		}
	}
	master := func(names ...string) {
		t.Helper()
		for _, name := range names {
			waitState(t, n1, name, control.StateMaster)
		}
		eventually(t, patience, "the addresses stand on the VMACs", func() (bool, string) {
			got := fmt.Sprint(standsOn(t, n1, vip), " ", standsOn(t, n1, vip6), " ", standsOn(t, n1, closed))
			return got == "vrrp.51 vr6 eth0", got
		})
	}
	startVrrpd(t, n1, config)
	master("VI_51", "VI_52", "VI_53", "VI_54")

	// The same is not asked of keepalived: it asks for the client's MAC address in the virtual address's name from its own.
	virtual := func(what string) {
		t.Helper()
		for addr, want := range map[netip.Addr]string{vip: "00:00:5e:00:01:33", vip6: "00:00:5e:00:02:35"} {
			if got := run(t, client, "ip", "neigh", "show", "to", addr.String(), "dev", "eth0"); !strings.Contains(got, want) {
				t.Errorf("%s: %s is at %s, want %s", what, addr, got, want)
			}
		}
	}
	t.Run("settings", func(t *testing.T) {
		for key, want := range map[string]string{"all/rp_filter": "0", "eth0/rp_filter": "2", "vrrp.51/rp_filter": "0", "eth0/arp_ignore": "1", "eth0/promote_secondaries": "1"} {
			if got := sysctlOf(t, n1, key); got != want {
				t.Errorf("%s is %s, want %s", key, got, want)
			}
		}
	})
	t.Run("the virtual MAC address answers", func(t *testing.T) {
		for _, addr := range []netip.Addr{vip, vip6} {
			run(t, n1, "ip", "neigh", "flush", "dev", "eth0")
			if !reaches(addr) {
				t.Errorf("%s does not answer", addr)
			}
		}
		virtual("at first")
	})
	t.Run("closed address", func(t *testing.T) {
		if reaches(closed) {
			t.Error("it answers")
		}
		if got := run(t, client, "ip", "neigh", "show", "to", closed.String(), "dev", "eth0"); !strings.Contains(got, n1.MAC(lab.LAN).String()) {
			t.Errorf("it is not found: %s", got)
		}
	})
	t.Run("routes", func(t *testing.T) {
		rule := func() string { return strings.TrimSpace(run(t, n1, "ip", "rule", "show", "pref", "100")) }
		there := func() (bool, string) {
			got := rule() + " " + run(t, n1, "ip", "route", "show", "table", "100")
			return strings.Contains(got, "lookup 100") && strings.Contains(got, fmt.Sprintf("10.200.0.0/16 via %s dev eth0", client.Addr(lab.LAN))), got
		}
		eventually(t, patience, "route and rule are there", there)
		run(t, n1, "ip", "route", "del", "table", "100", "10.200.0.0/16")
		eventually(t, patience, "the route is put back", there)
		run(t, n1, "ip", "rule", "del", "pref", "100")
		eventually(t, patience, "the rule is put back", there)
		if i := instance(t, n1, "VI_52"); len(i.Routes) != 2 || !i.Routes[0].Held || !i.Routes[1].Held || i.Counters.RoutesPutBack != 2 {
			t.Errorf("status: %+v, %d put back", i.Routes, i.Counters.RoutesPutBack)
		}
		// It deletes as long as it finds one.
		run(t, n1, "ip", "route", "flush", "table", "100")
		eventually(t, patience, "the route is put back after a flush", there)
		if i := instance(t, n1, "VI_52"); i.State != control.StateMaster || i.Counters.RoutesPutBack > 4 {
			t.Errorf("after a flush: %s, %d put back", i.State, i.Counters.RoutesPutBack)
		}
		run(t, n1, "vrrpd", "release", "--for", "1s", "VI_52")
		eventually(t, patience, "a BACKUP has neither", func() (bool, string) {
			got := rule() + run(t, n1, "ip", "route", "show", "table", "100")
			return got == "", got
		})
		waitState(t, n1, "VI_52", control.StateMaster)
	})
	t.Run("the interface comes and goes", func(t *testing.T) {
		waitState(t, n1, "LONE", control.StateFault)
		for range 2 {
			run(t, n1, "ip", "link", "add", "base0", "type", "veth", "peer", "name", "base1")
			run(t, n1, "sh", "-c", "ip addr add 10.99.0.1/24 dev base0 && ip link set base1 up && ip link set base0 up")
			waitState(t, n1, "LONE", control.StateMaster)
			eventually(t, patience, "the address is on the VMAC", func() (bool, string) {
				got := standsOn(t, n1, netip.MustParseAddr("10.99.0.100"))
				return got == "vrrp.60", got
			})
			run(t, n1, "ip", "link", "del", "base0")
			waitState(t, n1, "LONE", control.StateFault)
		}
		run(t, n1, "ip", "link", "add", "vrrp.60", "type", "veth", "peer", "name", "nobody")
		run(t, n1, "ip", "link", "add", "base0", "type", "veth", "peer", "name", "base1")
		run(t, n1, "sh", "-c", "ip addr add 10.99.0.1/24 dev base0 && ip link set base1 up && ip link set base0 up")
		waitInstance(t, n1, "LONE", "says that its VMAC's name is taken", func(i control.Instance) bool {
			return i.State == control.StateFault && strings.Contains(i.Reason, "an interface of this name is there already and not ours")
		})
		run(t, n1, "ip", "link", "del", "vrrp.60")
		waitState(t, n1, "LONE", control.StateMaster)
		run(t, n1, "ip", "link", "del", "base0")
		waitState(t, n1, "LONE", control.StateFault)
	})
	t.Run("reload", func(t *testing.T) {
		seqs := func() (all []uint64) {
			for _, name := range []string{"VI_51", "VI_53", "VI_54"} {
				all = append(all, instance(t, n1, name).Seq)
			}
			return all
		}
		before := seqs()
		bare := shut
		bare.Lines = nil
		mustReload(t, n1, file("dynamic_interfaces", four.with(150), six.with(150), bare.with(150), plain.with(150), lone))
		eventually(t, patience, "the address is open", func() (bool, string) { return reaches(closed), "" })
		if got := sysctlOf(t, n1, "eth0/promote_secondaries"); got != "0" {
			t.Errorf("promote_secondaries is %s", got)
		}
		mustReload(t, n1, config)
		if reaches(closed) {
			t.Error("the address is open still")
		}
		if got := seqs(); !slices.Equal(got, before) {
			t.Errorf("other instances moved: %v, were at %v", got, before)
		}
	})

	startKeepalived(t, n2, file("", four.with(100), six.with(100)))
	both := []string{"VI_51", "VI_53"}
	peer := func(state string) {
		t.Helper()
		for _, name := range both {
			eventually(t, patience, name+" of keepalived is "+state, func() (bool, string) {
				got := keepalivedStateOf(t, n2, name)
				return got == state, got
			})
		}
	}
	peer("BACKUP")
	constantly(t, time.Second, "each hears the other", func() (bool, string) {
		got := keepalivedStateOf(t, n2, "VI_51") + keepalivedStateOf(t, n2, "VI_53") + instance(t, n1, "VI_51").State + instance(t, n1, "VI_53").State
		return got == "BACKUPBACKUPMASTERMASTER", got
	})
	moved := func(what string) {
		t.Helper()
		for _, addr := range []netip.Addr{vip, vip6} {
			eventually(t, patience, fmt.Sprintf("%s: %s answers", what, addr), func() (bool, string) { return reaches(addr), "" })
		}
	}
	stop(t, n1, "vrrpd", endTime)
	peer("MASTER")
	moved("to keepalived")
	restored("stopped")
	startVrrpd(t, n1, config)
	master(both...)
	peer("BACKUP")
	moved("to vrrpd")
	virtual("back at vrrpd")

	waitState(t, n1, "VI_52", control.StateMaster)
	signal(t, n1, "vrrpd", syscall.SIGKILL)
	peer("MASTER")
	out := run(t, n1, "vrrpd", "cleanup", "-f", vrrpdConf)
	for _, want := range []string{"VMAC vrrp.51", "VMAC vr6", "rule from " + closed.String(), "setting net/ipv4/conf/all/rp_filter"} {
		if !strings.Contains(out, want) {
			t.Errorf("cleanup says nothing of %q: %s", want, out)
		}
	}
	restored("killed and cleaned up")
	moved("after the kill")

	t.Run("net_namespace", func(t *testing.T) {
		inside := strings.Replace(file("", router{VRID: 70, Interval: "0.1", VIPs: []string{"10.98.0.100/24"}, Lines: []string{"use_vmac"}}), "global_defs", "net_namespace blue\nglobal_defs", 1)
		writeFile(t, n1, vrrpdConf, inside, 0o644)
		if got := try(t, n1, "vrrpd", "run", "-f", vrrpdConf); got.Code != 1 || !strings.Contains(got.Stderr, "no such file") {
			t.Errorf("without the namespace: exit code %d: %s", got.Code, got.Stderr)
		}
		run(t, n1, "ip", "netns", "add", "blue")
		run(t, n1, "sh", "-c", "ip link add blue0 type veth peer name eth0 netns blue && ip link set blue0 up && ip -n blue addr add 10.98.0.1/24 dev eth0 && ip -n blue link set eth0 up")
		startVrrpd(t, n1, inside)
		waitState(t, n1, "VI_70", control.StateMaster)
		if got := run(t, n1, "ip", "-n", "blue", "-o", "addr", "show", "dev", "vrrp.70"); !strings.Contains(got, "10.98.0.100/24") {
			t.Errorf("the address is not there: %s", got)
		}
		signal(t, n1, "vrrpd", syscall.SIGKILL)
		eventually(t, patience, "cleanup works there, too", func() (bool, string) {
			got := try(t, n1, "vrrpd", "cleanup", "-f", vrrpdConf)
			return strings.Contains(got.Stdout, "VMAC vrrp.70"), got.Stdout + got.Stderr
		})
		if got := run(t, n1, "ip", "-n", "blue", "-o", "link", "show", "type", "macvlan"); got != "" {
			t.Errorf("left: %s", got)
		}
	})
}
