//go:build e2e

package e2e

import (
	"encoding/json"
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

// reload puts a file in place, sends SIGHUP and waits until the file is in force or refused. It returns why it was refused.
func reload(t *testing.T, h *lab.Host, config string) string {
	t.Helper()
	writeFile(t, h, vrrpdConf, config, 0o644)
	p := h.Proc("vrrpd")
	count := func() int {
		log := logOf(t, p)
		return strings.Count(log, "msg=reloaded") + strings.Count(log, "reload refused")
	}
	before := count()
	signal(t, h, "vrrpd", syscall.SIGHUP)
	eventually(t, patience, "the reload is done", func() (bool, string) {
		return count() > before, "no line in the log"
	})
	return status(t, h).ConfigError
}

func mustReload(t *testing.T, h *lab.Host, config string) {
	t.Helper()
	if text := reload(t, h, config); text != "" {
		t.Fatalf("reload refused: %s", text)
	}
}

func TestVRRPReload(t *testing.T) {
	l := newLab(t, 2)
	n1, n2 := l.Host("n1"), l.Host("n2")
	vip := func(n int) string { return fmt.Sprintf("10.77.0.%d/24", n) }
	addr := func(n int) netip.Addr { return netip.AddrFrom4([4]byte{10, 77, 0, byte(n)}) }
	a := router{VRID: 1, Priority: 150, Interval: "0.1", VIPs: []string{vip(101)}}
	b := router{VRID: 2, Priority: 150, Interval: "0.1", VIPs: []string{vip(102)}}
	steady := router{VRID: 3, Priority: 150, Interval: "1", VIPs: []string{vip(103)}}
	startVrrpd(t, n1, file("", a, b, steady))
	startVrrpd(t, n2, file("", a.with(100), b.with(100), steady.with(100)))
	for _, name := range []string{"VI_1", "VI_2", "VI_3"} {
		waitState(t, n1, name, control.StateMaster)
		waitInstance(t, n2, name, "follows", func(i control.Instance) bool { return i.State == control.StateBackup && i.Master != "" })
	}
	c := capture(t, l)
	// Every reload leaves what it doesn't concern alone, on both hosts.
	before := map[string]control.Instance{"n1": instance(t, n1, "VI_3"), "n2": instance(t, n2, "VI_3")}
	unconcerned := func(t *testing.T) {
		t.Helper()
		for _, h := range []*lab.Host{n1, n2} {
			if i := instance(t, h, "VI_3"); i.Seq != before[h.Name()].Seq || !i.Since.Equal(before[h.Name()].Since) {
				t.Errorf("VI_3 on %s: got %s since %s, want it as before", h.Name(), describe(i), i.Since)
			}
		}
	}
	// same fails if an instance of n1 has made a transition since.
	same := func(t *testing.T, name string, seq uint64) {
		t.Helper()
		if i := instance(t, n1, name); i.Seq != seq {
			t.Errorf("%s: a transition more: %s", name, describe(i))
		}
		unconcerned(t)
	}
	advertises := func(t *testing.T, vrid uint8, what string, as func(*lab.Advert) bool) {
		t.Helper()
		waitFrame(t, c, time.Now(), what, both(claim("n1", vrid), func(f *lab.Frame) bool { return as(f.VRRP) }))
	}

	t.Run("nothing changed", func(t *testing.T) {
		seq := instance(t, n1, "VI_1").Seq
		for range 3 {
			mustReload(t, n1, file("", a, b, steady))
		}
		same(t, "VI_1", seq)
	})
	t.Run("priority", func(t *testing.T) {
		seq := instance(t, n1, "VI_1").Seq
		a.Priority = 200
		mustReload(t, n1, file("", a, b, steady))
		advertises(t, 1, "new priority", func(v *lab.Advert) bool { return v.Priority == 200 })
		same(t, "VI_1", seq)
		if i := instance(t, n1, "VI_1"); i.Priority != 200 || i.ConfiguredPriority != 200 {
			t.Errorf("status: got %s", describe(i))
		}
	})
	t.Run("advert_int", func(t *testing.T) {
		seq, seq2 := instance(t, n1, "VI_1").Seq, instance(t, n2, "VI_1").Seq
		a.Interval = "0.2"
		mustReload(t, n1, file("", a, b, steady))
		advertises(t, 1, "new interval", func(v *lab.Advert) bool { return v.Interval == 200*time.Millisecond })
		same(t, "VI_1", seq)
		// The backup learns it.
		waitClaims(t, c, time.Now(), "n1", 1, 5)
		if i := instance(t, n2, "VI_1"); i.Seq != seq2 {
			t.Errorf("the backup made a transition: %s", describe(i))
		}
	})
	t.Run("address added", func(t *testing.T) {
		seq, at := instance(t, n1, "VI_1").Seq, time.Now()
		a.VIPs = []string{vip(101), vip(111)}
		mustReload(t, n1, file("", a, b, steady))
		waitHolder(t, l, addr(111), "n1")
		waitHolder(t, l, addr(101), "n1")
		waitFrame(t, c, at, "announcement", lab.Announcement("n1", addr(111)))
		advertises(t, 1, "both addresses", func(v *lab.Advert) bool { return slices.Equal(v.Addrs, []netip.Addr{addr(101), addr(111)}) })
		same(t, "VI_1", seq)
	})
	t.Run("address removed", func(t *testing.T) {
		seq := instance(t, n1, "VI_1").Seq
		a.VIPs = []string{vip(111)}
		mustReload(t, n1, file("", a, b, steady))
		waitHolder(t, l, addr(101), "")
		waitHolder(t, l, addr(111), "n1")
		advertises(t, 1, "the other address", func(v *lab.Advert) bool { return slices.Equal(v.Addrs, []netip.Addr{addr(111)}) })
		same(t, "VI_1", seq)
	})
	t.Run("address moved to another instance", func(t *testing.T) {
		seq, seq2 := instance(t, n1, "VI_1").Seq, instance(t, n1, "VI_2").Seq
		a.VIPs, b.VIPs = []string{vip(101)}, []string{vip(102), vip(111)}
		planned(t, n1, file("", a, b, steady), "unchanged, without an advert or a hook: VI_3",
			"change VI_1 virtual_ipaddress", "change VI_2 virtual_ipaddress", "move 10.77.0.111/24 on eth0")
		watch, at := watchHoldings(t, l), time.Now()
		mustReload(t, n1, file("", a, b, steady))
		waitFrame(t, c, at, "announcement", lab.Announcement("n1", addr(111)))
		if gaps := watch.lost("n1", addr(111), at); gaps > 0 {
			t.Errorf("the address was off the interface %d times while it moved", gaps)
		}
		waitHolder(t, l, addr(111), "n1")
		waitHolder(t, l, addr(101), "n1")
		same(t, "VI_1", seq)
		same(t, "VI_2", seq2)
		// And it is b's now: with a gone it stays.
		mustReload(t, n1, file("", b, steady))
		waitHolder(t, l, addr(101), "n2")
		waitHolder(t, l, addr(111), "n1")
		mustReload(t, n1, file("", a, b, steady))
		waitHolder(t, l, addr(101), "n1")
		waitHolder(t, l, addr(111), "n1")
	})
	t.Run("instance added", func(t *testing.T) {
		seq := instance(t, n1, "VI_1").Seq
		planned(t, n1, file("", a, b, steady, router{VRID: 4, Priority: 150, Interval: "0.1", VIPs: []string{vip(104)}}),
			"unchanged, without an advert or a hook: VI_1, VI_2, VI_3", "add VI_4")
		mustReload(t, n1, file("", a, b, steady, router{VRID: 4, Priority: 150, Interval: "0.1", VIPs: []string{vip(104)}}))
		waitState(t, n1, "VI_4", control.StateMaster)
		waitHolder(t, l, addr(104), "n1")
		same(t, "VI_1", seq)
	})
	t.Run("instance removed", func(t *testing.T) {
		seq, at := instance(t, n1, "VI_1").Seq, time.Now()
		mustReload(t, n1, file("", a, b, steady))
		waitFrame(t, c, at, "goodbye", goodbye("n1", 4))
		waitHolder(t, l, addr(104), "")
		if _, ok := find(status(t, n1), "VI_4"); ok {
			t.Error("it is still in status")
		}
		same(t, "VI_1", seq)
	})
	t.Run("instance renamed", func(t *testing.T) {
		// Its name is what hooks and operators know it by: another one is another instance, on the same virtual router.
		a.Name = "renamed"
		mustReload(t, n1, file("", a, b, steady))
		waitState(t, n1, "renamed", control.StateMaster)
		waitHolder(t, l, addr(101), "n1")
		if _, ok := find(status(t, n1), "VI_1"); ok {
			t.Error("the old name is still in status")
		}
		a.Name = ""
		mustReload(t, n1, file("", a, b, steady))
		waitState(t, n1, "VI_1", control.StateMaster)
		unconcerned(t)
	})
	t.Run("order of the file", func(t *testing.T) {
		seq := instance(t, n1, "VI_1").Seq
		mustReload(t, n1, file("", steady, b, a))
		same(t, "VI_1", seq)
	})
	t.Run("lower than the peer", func(t *testing.T) {
		a.Priority = 50
		mustReload(t, n1, file("", a, b, steady))
		waitHolder(t, l, addr(101), "n2")
		waitState(t, n1, "VI_1", control.StateBackup)
		a.Priority = 200
		mustReload(t, n1, file("", a, b, steady))
		waitHolder(t, l, addr(101), "n1")
		unconcerned(t)
	})
	t.Run("another virtual router under the same name", func(t *testing.T) {
		at := time.Now()
		moved := a
		moved.VRID, moved.Name = 9, "VI_1"
		mustReload(t, n1, file("", moved, b, steady))
		waitFrame(t, c, at, "goodbye", goodbye("n1", 1))
		waitState(t, n1, "VI_1", control.StateMaster)
		waitFrame(t, c, at, "advert", claim("n1", 9))
		mustReload(t, n1, file("", a, b, steady))
		waitState(t, n1, "VI_1", control.StateMaster)
		waitHolder(t, l, addr(101), "n1")
		unconcerned(t)
	})
	for name, bad := range map[string]string{
		"a missing word":  strings.Replace(file("", a, b, steady), "virtual_router_id 2", "virtual_router_id", 1),
		"no file":         "",
		"ours is strict":  strings.Replace(file("", a, b, steady), "virtual_router_id 2", "virtual_router_id 2\n  vip_after_notify never", 1),
		"a plain slip":    strings.Replace(file("", a, b, steady), vip(102), "10.77.0.300/24", 1),
		"half written":    file("", a, b) + "vrrp_instance VI_3 {\n  interface eth0\n",
		"a brace is open": file("", a, b) + "vrrp_instance VI_3 {\n  interface eth0\n  vip_after_notify 5\n  virtual_router_id 3\n",
	} {
		t.Run("refused: "+name, func(t *testing.T) {
			was := status(t, n1)
			if bad != "" {
				writeFile(t, n1, "/etc/new.conf", bad, 0o644)
				res := try(t, n1, "vrrpd", "plan", "-f", "/etc/new.conf")
				if res.Code != 1 || !strings.Contains(res.Stderr, "a reload would be refused: /etc/new.conf") {
					t.Errorf("plan: got exit code %d, %s%s", res.Code, res.Stdout, res.Stderr)
				}
			}
			if name == "no file" {
				run(t, n1, "mv", vrrpdConf, vrrpdConf+".away")
				p := n1.Proc("vrrpd")
				refused := strings.Count(logOf(t, p), "reload refused")
				signal(t, n1, "vrrpd", syscall.SIGHUP)
				eventually(t, patience, "refused", func() (bool, string) { return strings.Count(logOf(t, p), "reload refused") > refused, "" })
			} else {
				reload(t, n1, bad)
			}
			is := status(t, n1)
			if !strings.Contains(is.ConfigError, vrrpdConf) {
				t.Errorf("status: got config error %q, want one with the file's name", is.ConfigError)
			}
			if !strings.Contains(run(t, n1, "vrrpd", "status"), "refused") {
				t.Error("the table does not say that the reload was refused")
			}
			for k, i := range was.Instances {
				if j := is.Instances[k]; j.Name != i.Name || j.Seq != i.Seq || j.State != i.State || j.Priority != i.Priority {
					t.Errorf("changed: %s, then %s", describe(i), describe(j))
				}
			}
			mustReload(t, n1, file("", a, b, steady))
			unconcerned(t)
		})
	}
	for _, vip := range []int{101, 102, 103, 111} {
		waitHolder(t, l, addr(vip), "n1")
	}
	for _, h := range l.Hosts() {
		stop(t, h, "vrrpd", endTime)
		for _, n := range []int{101, 102, 103, 104, 111} {
			if holds(h, addr(n)) {
				t.Errorf("%s is still on %s", addr(n), h.Name())
			}
		}
	}
}

// planned asks for the plan of a file, demands a line of its text, and its steps as "action name keywords".
func planned(t *testing.T, h *lab.Host, config, line string, want ...string) {
	t.Helper()
	writeFile(t, h, "/etc/new.conf", config, 0o644)
	if out := run(t, h, "vrrpd", "plan", "-f", "/etc/new.conf"); !strings.Contains(out, line+"\n") {
		t.Errorf("plan: no line %q in\n%s", line, out)
	}
	var p control.Plan
	if err := json.Unmarshal([]byte(run(t, h, "vrrpd", "plan", "-f", "/etc/new.conf", "--json")), &p); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, s := range p.Steps {
		got = append(got, strings.TrimSpace(s.Action+" "+s.Name+" "+strings.Join(s.Keywords, " ")))
	}
	if !slices.Equal(got, want) {
		t.Errorf("plan: got %q, want %q", got, want)
	}
}
