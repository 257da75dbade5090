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

// TestSyncGroupMovesTogether: a firewall's two sides, each with an address. When the link of one side dies, both go.
func TestSyncGroupMovesTogether(t *testing.T) {
	l := newLab(t, 2)
	n1, n2 := l.Host("n1"), l.Host("n2")
	outside, inside := lab.VIP(1), netip.MustParseAddr("10.78.0.100")
	config := func(priority int, more ...string) string {
		side := func(name, dev string, vrid int, vip netip.Addr) block {
			return block(fmt.Sprintf("vrrp_instance %s {\n  interface %s\n  virtual_router_id %d\n  priority %d\n  advert_int 0.1\n  virtual_ipaddress {\n    %s/24\n  }\n}\n",
				name, dev, vrid, priority, vip))
		}
		return file("script_user root\n  fifo_write_vrrp_states_on_reload\n  vrrp_notify_fifo /run/fifo\n  vrrp_notify_fifo_script /etc/vrrpd/reader\n  startup_script \"/etc/vrrpd/program start\"\n  shutdown_script \"/etc/vrrpd/program stop\"", side("OUT", "eth0", 51, outside), side("IN", "eth1", 52, inside),
			block("vrrp_sync_group VG {\n  group {\n    OUT\n    IN\n  }\n  notify /etc/vrrpd/hook\n"+strings.Join(more, "\n")+"}\n"))
	}
	hook := "#!/bin/sh\necho \"$@\" >>/run/states\n"
	for _, h := range l.Hosts() {
		writeFile(t, h, "/etc/vrrpd/hook", hook, 0o755)
		writeFile(t, h, "/etc/vrrpd/reader", "#!/bin/sh\nexec cat \"$1\" >>/run/lines\n", 0o755)
	}
	writeFile(t, n1, "/etc/vrrpd/program", "#!/bin/sh\necho $1 with $(ip -o address | grep -c '10.7[78].0.100/24') >>/run/programs\n", 0o755)
	writeFile(t, n2, "/etc/vrrpd/program", "#!/bin/sh\n", 0o755)
	startVrrpd(t, n1, config(150))
	waitGroup(t, n1, control.StateMaster)
	startVrrpd(t, n2, config(100))
	waitGroup(t, n2, control.StateBackup)
	both := func(t *testing.T, h *lab.Host, state string) {
		t.Helper()
		waitGroup(t, h, state)
		for _, name := range []string{"OUT", "IN"} {
			waitState(t, h, name, state)
		}
	}
	held := func(t *testing.T, want string) {
		t.Helper()
		for _, vip := range []netip.Addr{outside, inside} {
			eventually(t, patience, fmt.Sprintf("%s is on %s alone", vip, want), func() (bool, string) {
				got := holders(l, vip)
				return slices.Equal(got, []string{want}), fmt.Sprint(got)
			})
		}
	}
	held(t, "n1")
	for _, tc := range []struct {
		name string
		side lab.Bridge
	}{{"outside", lab.LAN}, {"inside", lab.Interconnect}} {
		t.Run(tc.name, func(t *testing.T) {
			if err := n1.CutLinks(tc.side); err != nil {
				t.Fatal(err)
			}
			both(t, n1, control.StateFault)
			both(t, n2, control.StateMaster)
			held(t, "n2")
			if err := n1.HealLinks(tc.side); err != nil {
				t.Fatal(err)
			}
			both(t, n1, control.StateMaster)
			both(t, n2, control.StateBackup)
			held(t, "n1")
		})
	}
	t.Run("release", func(t *testing.T) {
		run(t, n1, "vrrpd", "release", "--for", "3s", "IN")
		both(t, n2, control.StateMaster)
		held(t, "n2")
		both(t, n1, control.StateMaster)
		held(t, "n1")
	})
	t.Run("reload", func(t *testing.T) {
		before := []uint64{instance(t, n1, "OUT").Seq, instance(t, n1, "IN").Seq}
		var lines string
		eventually(t, patience, "the FIFO's script has read what came before", func() (bool, string) {
			lines = readFile(n1, "/run/lines")
			all := strings.Split(strings.TrimSuffix(lines, "\n"), "\n")
			newest := slices.Sorted(slices.Values(all[max(0, len(all)-3):]))
			return slices.Equal(newest, []string{`GROUP "VG" MASTER 0`, `INSTANCE "IN" MASTER 150`, `INSTANCE "OUT" MASTER 150`}), lines
		})
		mustReload(t, n1, config(150, "  notify_master /etc/vrrpd/hook\n"))
		eventually(t, patience, "the FIFO is told of the states that stay", func() (bool, string) {
			more := strings.TrimPrefix(readFile(n1, "/run/lines"), lines)
			return more == "GROUP \"VG\" MASTER 0\nINSTANCE \"OUT\" MASTER 150\nINSTANCE \"IN\" MASTER 150\n", more
		})
		constantly(t, 500*time.Millisecond, "nothing moves", func() (bool, string) {
			now := []uint64{instance(t, n1, "OUT").Seq, instance(t, n1, "IN").Seq}
			return slices.Equal(now, before), fmt.Sprint(now)
		})
	})
	signal(t, n1, "vrrpd", syscall.SIGTERM)
	held(t, "n2")
	eventually(t, patience, "the hook was told that it stops", func() (bool, string) {
		content, err := n1.ReadFile("/run/states")
		return err == nil && strings.HasSuffix(string(content), "GROUP VG STOP 0\n"), string(content)
	})
	content, err := n1.ReadFile("/run/states")
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, patience, "the FIFO's script has read all", func() (bool, string) {
		lines := readFile(n1, "/run/lines")
		for _, want := range []string{"INSTANCE \"OUT\" BACKUP 150", "INSTANCE \"IN\" MASTER 150", "GROUP \"VG\" MASTER 0", "GROUP \"VG\" FAULT 0", "INSTANCE \"IN\" STOP 150", "GROUP \"VG\" STOP 0"} {
			if !strings.Contains(lines, want+"\n") {
				return false, want + " is missing in " + lines
			}
		}
		return true, ""
	})
	eventually(t, patience, "both programs were run, without an address", func() (bool, string) {
		got := readFile(n1, "/run/programs")
		return got == "start with 0\nstop with 0\n", got
	})
	for _, want := range []string{"GROUP VG MASTER 0", "GROUP VG FAULT 0"} {
		if !strings.Contains(string(content), want) {
			t.Errorf("the hook was not told %q:\n%s", want, content)
		}
	}
}

func waitGroup(t *testing.T, h *lab.Host, state string) {
	t.Helper()
	eventually(t, patience, fmt.Sprintf("the group is %s on %s", state, h.Name()), func() (bool, string) {
		g := status(t, h).Groups
		return len(g) == 1 && g[0].State == state, fmt.Sprintf("%+v", g)
	})
}

// TestHMACBetweenTwo: two that share a key hear each other, by multicast and unicast; who has another key is not heard.
func TestHMACBetweenTwo(t *testing.T) {
	l := newLab(t, 2)
	n1, n2 := l.Host("n1"), l.Host("n2")
	key := func(id int, c string) string {
		return fmt.Sprintf("    key %d %s\n", id, strings.Repeat(c, 32))
	}
	hmac := func(active int, keys ...string) string {
		return fmt.Sprintf("auth_hmac {\n%s    active_key %d\n  }", strings.Join(keys, ""), active)
	}
	follows := func(i control.Instance) bool { return i.State == control.StateBackup && i.Master != "" }
	startVrrpd(t, n1, file("", fast(150, hmac(1, key(1, "a")))))
	startVrrpd(t, n2, file("", fast(100, hmac(1, key(1, "a")))))
	waitState(t, n1, "VI_51", control.StateMaster)
	waitInstance(t, n2, "VI_51", "follows", follows)

	// A new key in three reloads of each, without a takeover.
	before := instance(t, n2, "VI_51").Seq
	for _, step := range []string{hmac(1, key(1, "a"), key(2, "b")), hmac(2, key(1, "a"), key(2, "b")), hmac(2, key(2, "b"))} {
		mustReload(t, n2, file("", fast(100, step)))
		mustReload(t, n1, file("", fast(150, step)))
	}
	constantly(t, time.Second, "the backup follows", func() (bool, string) {
		i := instance(t, n2, "VI_51")
		return follows(i) && i.Seq == before, describe(i)
	})
	if r := instance(t, n2, "VI_51").Counters.Rejected; len(r) > 0 {
		t.Errorf("rejected while the key changed: %v", r)
	}

	// A stranger's adverts, unsigned and of the highest priority, move nobody.
	packet{VRID: 51}.send(t, n2, 5)
	waitInstance(t, n1, "VI_51", "has rejected them", func(i control.Instance) bool { return i.Counters.Rejected["auth_missing"] >= 5 })
	if i := instance(t, n1, "VI_51"); i.State != control.StateMaster {
		t.Errorf("after unsigned adverts: %s", describe(i))
	}

	// With another key it hears nobody, and says why.
	mustReload(t, n2, file("", fast(100, hmac(2, key(2, "c")))))
	i := waitState(t, n2, "VI_51", control.StateMaster)
	if i.Counters.Rejected["auth_hmac"] == 0 {
		t.Errorf("another key: rejected %v, want auth_hmac", i.Counters.Rejected)
	}
	mustReload(t, n2, file("", fast(100, hmac(2, key(2, "b")))))
	waitInstance(t, n2, "VI_51", "follows again", follows)

	unicast := func(priority int, peer *lab.Host) string {
		return file("", fast(priority, hmac(2, key(2, "b")), fmt.Sprintf("unicast_peer {\n    %s\n  }", peer.Addr(lab.LAN))))
	}
	mustReload(t, n1, unicast(150, n2))
	mustReload(t, n2, unicast(100, n1))
	waitState(t, n1, "VI_51", control.StateMaster)
	waitInstance(t, n2, "VI_51", "follows by unicast", follows)
}
