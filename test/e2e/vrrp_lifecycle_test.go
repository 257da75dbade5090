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

// pair starts vrrpd with the same router on n1 (priority 150) and n2 (100) and waits until n1 is the master.
func pair(t *testing.T, l *lab.Lab, r router) {
	t.Helper()
	startVrrpd(t, l.Host("n1"), file("", r.with(150)))
	waitState(t, l.Host("n1"), r.name(), control.StateMaster)
	startVrrpd(t, l.Host("n2"), file("", r.with(100)))
	waitInstance(t, l.Host("n2"), r.name(), "follows n1", func(i control.Instance) bool {
		return i.State == control.StateBackup && i.Master == l.Host("n1").Addr(lab.LAN).String()
	})
	waitHolder(t, l, lab.VIP(1), "n1")
}

// skew is how long a Backup of version 3 waits after a goodbye (RFC 9568 section 6.1).
func skew(priority int, interval time.Duration) time.Duration {
	return time.Duration(256-priority) * interval / 256
}

func TestVRRPStopGivesAway(t *testing.T) {
	l := newLab(t, 2)
	n1 := l.Host("n1")
	r := fast(0)
	r.Interval = "0.5" // a skew that is worth measuring
	pair(t, l, r)
	watch, c, at := watchHoldings(t, l), capture(t, l), time.Now()
	took := stop(t, n1, "vrrpd", endTime)
	if holds(n1, lab.VIP(1)) {
		t.Error("the address is still there after the end")
	}
	bye := waitFrame(t, c, at, "goodbye", goodbye("n1", 51))
	next := waitFrame(t, c, bye.At, "takeover", claim("n2", 51))
	// The timer can fire up to its resolution early in the capture's eyes.
	want := skew(100, 500*time.Millisecond)
	if d := next.At.Sub(bye.At); d < want-5*time.Millisecond || d > want+slack {
		t.Errorf("n2 took over %s after the goodbye, want %s", d, want)
	}
	waitHolder(t, l, lab.VIP(1), "n2")
	if two := watch.overlaps(t, []netip.Addr{lab.VIP(1)}, at, handOver); len(two) > 0 {
		t.Errorf("two holders: %v", two)
	}
	if n := len(c.Frames(goodbye("n1", 51))); n != 1 {
		t.Errorf("got %d goodbyes, want 1", n)
	}
	t.Logf("exit after %s", took)
	// SIGINT, as from a terminal, is no different.
	at = time.Now()
	signal(t, l.Host("n2"), "vrrpd", syscall.SIGINT)
	waitEnd(t, l.Host("n2"), "vrrpd", at, endTime)
	waitFrame(t, c, at, "goodbye", goodbye("n2", 51))
	waitHolder(t, l, lab.VIP(1), "")
}

func TestVRRPSilentDeath(t *testing.T) {
	l := newLab(t, 2)
	r := fast(0)
	pair(t, l, r)
	c := capture(t, l)
	at := time.Now()
	waitFrame(t, c, at, "advert", claim("n1", 51))
	kill(t, l.Host("n1"), "vrrpd")
	next := waitFrame(t, c, at, "takeover", claim("n2", 51))
	last, ok := c.Last(time.Time{}, claim("n1", 51))
	want := 300*time.Millisecond + skew(100, 100*time.Millisecond)
	if d := next.At.Sub(last.At); !ok || d < want-5*time.Millisecond || d > want+slack {
		t.Errorf("n2 took over %s after the last advert, want %s", d, want)
	}
	garp := waitFrame(t, c, next.At, "announcement", lab.Announcement("n2", lab.VIP(1)))
	if d := garp.At.Sub(next.At); d > slack {
		t.Errorf("announced %s after the first advert", d)
	}
}

func TestVRRPKilled(t *testing.T) {
	vip := lab.VIP(1)
	leftovers := func(t *testing.T) (*lab.Lab, *lab.Host) {
		l := newLab(t, 2)
		n1 := l.Host("n1")
		r := fast(150)
		r.VIPs = append(r.VIPs, "10.77.0.120/32 dev eth1", "10.77.0.121/24 label eth0:v")
		six := router{VRID: 52, Priority: 150, Interval: "0.1", VIPs: []string{"fe80::77:1/64", "fd77::100/128"}}
		// Addresses of somebody else, in the same subnet too.
		run(t, n1, "ip", "addr", "add", "10.77.0.180/24", "dev", "eth0")
		run(t, n1, "ip", "addr", "add", "fd77::180/64", "dev", "eth0")
		startVrrpd(t, n1, file("", r, six))
		waitState(t, n1, "VI_51", control.StateMaster)
		waitState(t, n1, "VI_52", control.StateMaster)
		kill(t, n1, "vrrpd")
		for _, a := range []string{"10.77.0.100", "10.77.0.120", "10.77.0.121", "fe80::77:1", "fd77::100"} {
			if !holds(n1, netip.MustParseAddr(a)) {
				t.Errorf("%s: gone with the killed vrrpd, want it left", a)
			}
		}
		return l, n1
	}
	clean := func(t *testing.T, h *lab.Host) {
		t.Helper()
		for _, a := range []string{"10.77.0.100", "10.77.0.120", "10.77.0.121", "fe80::77:1", "fd77::100"} {
			if holds(h, netip.MustParseAddr(a)) {
				t.Errorf("%s: still there", a)
			}
		}
		for _, a := range []netip.Addr{netip.MustParseAddr("10.77.0.180"), netip.MustParseAddr("fd77::180"), h.Addr(lab.LAN), h.Addr6(lab.LAN), h.Addr(lab.Interconnect), linkLocal(t, h)} {
			if !holds(h, a) {
				t.Errorf("%s: gone, and it was not ours", a)
			}
		}
	}
	t.Run("cleanup", func(t *testing.T) {
		_, n1 := leftovers(t)
		want := "10.77.0.100/24 on eth0"
		if out := run(t, n1, "vrrpd", "cleanup", "-f", vrrpdConf, "--dry-run"); !strings.Contains(out, "would remove "+want) || strings.Contains(out, "180") {
			t.Errorf("dry run: got %q", out)
		}
		if !holds(n1, vip) {
			t.Error("a dry run removed the address")
		}
		out := run(t, n1, "vrrpd", "cleanup", "-f", vrrpdConf)
		if !strings.Contains(out, "removed "+want) || strings.Count(out, "removed") != 5 {
			t.Errorf("got %q, want five addresses removed, among them %s", out, want)
		}
		clean(t, n1)
		if out := run(t, n1, "vrrpd", "cleanup", "-f", vrrpdConf); out != "" {
			t.Errorf("again: got %q, want nothing", out)
		}
	})
	t.Run("cleanup without a file", func(t *testing.T) {
		_, n1 := leftovers(t)
		run(t, n1, "rm", vrrpdConf)
		res := try(t, n1, "vrrpd", "cleanup", "-f", vrrpdConf)
		if res.Code != 1 || !strings.Contains(res.Stderr, vrrpdConf) {
			t.Errorf("got exit code %d, %q, want 1 and the file's name", res.Code, res.Stderr)
		}
		clean(t, n1)
	})
	t.Run("cleanup without a list", func(t *testing.T) {
		_, n1 := leftovers(t)
		run(t, n1, "rm", "-rf", "/run/vrrpd")
		run(t, n1, "vrrpd", "cleanup", "-f", vrrpdConf)
		clean(t, n1)
	})
	t.Run("cleanup beside a vrrpd that runs", func(t *testing.T) {
		l := newLab(t, 2)
		pair(t, l, fast(0))
		res := try(t, l.Host("n1"), "vrrpd", "cleanup", "-f", vrrpdConf)
		if res.Code != 1 || !strings.Contains(res.Stderr, "stop it first") {
			t.Errorf("got exit code %d, %q", res.Code, res.Stderr)
		}
		if got := holders(l, vip); !slices.Equal(got, []string{"n1"}) {
			t.Errorf("the address is on %v, want n1", got)
		}
	})
	t.Run("restart beside a new master", func(t *testing.T) {
		l, n1 := leftovers(t)
		n2 := l.Host("n2")
		startVrrpd(t, n2, file("", fast(100)))
		waitState(t, n2, "VI_51", control.StateMaster)
		if got := holders(l, vip); !slices.Equal(got, []string{"n1", "n2"}) {
			t.Errorf("the address is on %v, want both: the killed one cannot give it away", got)
		}
		// It is gone before vrrpd answers, not only when the instance has listened for a while.
		startVrrpd(t, n1, file("", fast(150, "nopreempt")))
		waitInstance(t, n1, "VI_51", "takes part", func(i control.Instance) bool { return i.State == control.StateBackup })
		clean(t, n1)
		waitHolder(t, l, vip, "n2")
		if n := instance(t, n1, "VI_51").Counters.BecameMaster; n != 0 {
			t.Errorf("n1 became master %d times", n)
		}
	})
	t.Run("the kernel's own clock", func(t *testing.T) {
		// vip_lifetime: the kernel takes the address off when nobody renews it.
		l := newLab(t, 1)
		n1 := l.Host("n1")
		startVrrpd(t, n1, file("", fast(150, "vip_lifetime 2")))
		waitHolder(t, l, vip, "n1")
		constantly(t, 3500*time.Millisecond, "it is renewed", func() (bool, string) { return holds(n1, vip), "gone" })
		kill(t, n1, "vrrpd")
		eventually(t, 3*time.Second+slack, "the address is gone", func() (bool, string) { return !holds(n1, vip), "still there" })
	})
	t.Run("restart alone", func(t *testing.T) {
		l, n1 := leftovers(t)
		startVrrpd(t, n1, file("", fast(150)))
		waitState(t, n1, "VI_51", control.StateMaster)
		waitHolder(t, l, vip, "n1")
		stop(t, n1, "vrrpd", endTime)
		waitHolder(t, l, vip, "")
		for _, a := range []string{"10.77.0.120", "10.77.0.121", "fe80::77:1", "fd77::100"} {
			if holds(n1, netip.MustParseAddr(a)) {
				t.Errorf("%s: still there, though the new file doesn't have it", a)
			}
		}
	})
}

func TestVRRPAddressRemovedBySomebody(t *testing.T) {
	l := newLab(t, 2)
	n1, n2 := l.Host("n1"), l.Host("n2")
	r := fast(100)
	r.VIPs = append(r.VIPs, "10.77.0.130/24 no_track")
	startVrrpd(t, n1, file("", r))
	waitState(t, n1, "VI_51", control.StateMaster)
	// Better, but polite: it takes over only from somebody who gives way.
	startVrrpd(t, n2, file("", r.with(150, "nopreempt")))
	waitInstance(t, n2, "VI_51", "follows n1", func(i control.Instance) bool { return i.State == control.StateBackup && i.Master != "" })
	watch, c := watchHoldings(t, l), capture(t, l)
	remove := func(addr string) time.Time {
		t.Helper()
		at := time.Now()
		run(t, n1, "ip", "addr", "del", addr+"/24", "dev", "eth0")
		return at
	}
	back := func(addr string, at time.Time) {
		t.Helper()
		eventually(t, patience, addr+" is back", func() (bool, string) { return holds(n1, netip.MustParseAddr(addr)), "gone" })
	}

	seq := instance(t, n1, "VI_51").Seq
	at := remove("10.77.0.100")
	back("10.77.0.100", at)
	waitFrame(t, c, at, "announced again", lab.Announcement("n1", lab.VIP(1)))
	waitInstance(t, n1, "VI_51", "counts it", func(i control.Instance) bool { return i.Counters.AddressesPutBack == 1 })

	// A no_track address is put back as often as it goes.
	for range 8 {
		back("10.77.0.130", remove("10.77.0.130"))
	}
	if i := instance(t, n1, "VI_51"); i.Seq != seq {
		t.Errorf("a transition though the address came back: %s", describe(i))
	}

	// Removed again and again: somebody is at war with us. We give way to a peer that may be able to hold it.
	fought := time.Now()
	eventually(t, patience, "n1 gives way", func() (bool, string) {
		try(t, n1, "ip", "addr", "del", "10.77.0.100/24", "dev", "eth0")
		i := instance(t, n1, "VI_51")
		return i.Seq > seq, describe(i)
	})
	waitFrame(t, c, fought, "goodbye", goodbye("n1", 51))
	waitFrame(t, c, fought, "takeover by n2", claim("n2", 51))
	i := instance(t, n1, "VI_51")
	k := slices.IndexFunc(i.Transitions, func(x control.Transition) bool { return x.Seq == seq+1 })
	if k < 0 || i.Transitions[k].To != control.StateBackup || !strings.Contains(i.Transitions[k].Reason, "10.77.0.100") {
		t.Errorf("got transitions %+v, want one to BACKUP that names the address", i.Transitions)
	}
	waitHolder(t, l, lab.VIP(1), "n2")
	if two := watch.overlaps(t, []netip.Addr{lab.VIP(1)}, fought, handOver); len(two) > 0 {
		t.Errorf("two holders: %v", two)
	}
}

func TestVRRPFaults(t *testing.T) {
	tests := []struct {
		name        string
		break_, fix func(t *testing.T, l *lab.Lab)
		reason      string
	}{
		{"cable pulled", func(t *testing.T, l *lab.Lab) {
			if err := l.Host("n1").CutLinks(lab.LAN); err != nil {
				t.Fatal(err)
			}
		}, func(t *testing.T, l *lab.Lab) {
			if err := l.Host("n1").HealLinks(lab.LAN); err != nil {
				t.Fatal(err)
			}
		}, "eth0 is down"},
		{"link set down", func(t *testing.T, l *lab.Lab) {
			run(t, l.Host("n1"), "ip", "link", "set", "eth0", "down")
		}, func(t *testing.T, l *lab.Lab) {
			run(t, l.Host("n1"), "ip", "link", "set", "eth0", "up")
		}, "eth0 is down"},
		{"source address removed", func(t *testing.T, l *lab.Lab) {
			// The kernel takes the others of the subnet with the primary one, unless told otherwise.
			run(t, l.Host("n1"), "sysctl", "-qw", "net.ipv4.conf.eth0.promote_secondaries=1")
			run(t, l.Host("n1"), "ip", "addr", "del", "10.77.0.1/24", "dev", "eth0")
		}, func(t *testing.T, l *lab.Lab) {
			run(t, l.Host("n1"), "ip", "addr", "add", "10.77.0.1/24", "dev", "eth0")
		}, "no IPv4 address on eth0"},
		{"tracked interface down", func(t *testing.T, l *lab.Lab) {
			if err := l.Host("n1").CutLinks(lab.Interconnect); err != nil {
				t.Fatal(err)
			}
		}, func(t *testing.T, l *lab.Lab) {
			if err := l.Host("n1").HealLinks(lab.Interconnect); err != nil {
				t.Fatal(err)
			}
		}, "eth1"},
		{"tracked interface missing", func(t *testing.T, l *lab.Lab) {
			run(t, l.Host("n1"), "ip", "link", "set", "eth1", "down")
			run(t, l.Host("n1"), "ip", "link", "set", "eth1", "name", "gone")
		}, func(t *testing.T, l *lab.Lab) {
			run(t, l.Host("n1"), "ip", "link", "set", "gone", "name", "eth1")
			run(t, l.Host("n1"), "ip", "link", "set", "eth1", "up")
		}, "eth1"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			l := newLab(t, 2)
			n1 := l.Host("n1")
			pair(t, l, fast(0, "track_interface {", "  eth1", "}"))
			watch, at := watchHoldings(t, l), time.Now()
			tt.break_(t, l)
			i := waitState(t, n1, "VI_51", control.StateFault)
			if !strings.Contains(i.Reason, tt.reason) {
				t.Errorf("reason: got %q, want it to tell of %s", i.Reason, tt.reason)
			}
			waitHolder(t, l, lab.VIP(1), "n2")
			tt.fix(t, l)
			waitState(t, n1, "VI_51", control.StateMaster)
			waitHolder(t, l, lab.VIP(1), "n1")
			waitState(t, l.Host("n2"), "VI_51", control.StateBackup)
			if two := watch.overlaps(t, []netip.Addr{lab.VIP(1)}, at, handOver); len(two) > 0 {
				t.Errorf("two holders: %v", two)
			}
			var states []string
			for _, x := range instance(t, n1, "VI_51").Transitions {
				states = append(states, x.To)
			}
			if want := []string{"BACKUP", "MASTER", "FAULT", "BACKUP", "MASTER"}; !slices.Equal(states, want) {
				t.Errorf("transitions: got %v, want %v", states, want)
			}
		})
	}
}

// The instance's own interface goes and comes back with another number, as the port of a container or a VPN does.
func TestVRRPInterfaceMadeAnew(t *testing.T) {
	l := newLab(t, 2)
	n1, n2 := l.Host("n1"), l.Host("n2")
	vip := netip.MustParseAddr("10.79.0.100")
	r := router{VRID: 51, Interval: "0.1", VIPs: []string{"10.79.0.100/24"}}
	text := func(priority int) string {
		return strings.ReplaceAll(file("dynamic_interfaces", r.with(priority)), "interface eth0", "interface lan0")
	}
	plug := func(h *lab.Host) {
		run(t, h, "ip", "link", "add", "link", "eth0", "name", "lan0", "type", "macvlan", "mode", "bridge")
		run(t, h, "ip", "addr", "add", fmt.Sprintf("10.79.0.%d/24", h.Index()), "dev", "lan0")
		run(t, h, "ip", "link", "set", "lan0", "up")
	}
	plug(n2)
	// It is missing from the start on n1.
	startVrrpd(t, n1, text(150))
	startVrrpd(t, n2, text(100))
	i := waitState(t, n1, "VI_51", control.StateFault)
	if !strings.Contains(i.Reason, "lan0 does not exist") {
		t.Errorf("reason: got %q", i.Reason)
	}
	eventually(t, patience, "n2 holds", func() (bool, string) { return holds(n2, vip), fmt.Sprint(holders(l, vip)) })
	for round := range 2 {
		plug(n1)
		waitState(t, n1, "VI_51", control.StateMaster)
		waitInstance(t, n2, "VI_51", "hears n1", func(i control.Instance) bool { return i.State == control.StateBackup && i.Master == "10.79.0.1" })
		eventually(t, patience, "n1 alone holds", func() (bool, string) {
			got := holders(l, vip)
			return slices.Equal(got, []string{"n1"}), fmt.Sprint(got)
		})
		run(t, n1, "ip", "link", "del", "lan0")
		waitState(t, n1, "VI_51", control.StateFault)
		eventually(t, patience, "n2 holds", func() (bool, string) { return holds(n2, vip), fmt.Sprint(holders(l, vip), round) })
	}
	// It hears, too: as a backup on the new interface it follows n2.
	stop(t, n1, "vrrpd", endTime)
	startVrrpd(t, n1, text(50))
	plug(n1)
	waitInstance(t, n1, "VI_51", "hears n2", func(i control.Instance) bool { return i.State == control.StateBackup && i.Master == "10.79.0.2" })
}

func TestVRRPStopsInBoundedTime(t *testing.T) {
	slow := writeHook("trap '' TERM; sleep 60")
	tests := []struct {
		name string
		// play starts vrrpd on n1, n2 and brings them to the point where they are stopped.
		play func(t *testing.T, l *lab.Lab)
	}{
		{"master and backup", func(t *testing.T, l *lab.Lab) { pair(t, l, fast(0)) }},
		{"while it starts", func(t *testing.T, l *lab.Lab) {
			for _, h := range l.Hosts() {
				startVrrpd(t, h, file("", fast(100)))
			}
		}},
		{"before it answers", func(t *testing.T, l *lab.Lab) {
			for _, h := range l.Hosts() {
				writeFile(t, h, vrrpdConf, file("", fast(100)), 0o644)
				p := spawn(t, h, "vrrpd", lab.Command{Argv: vrrpdRun()})
				// Until its first line: before that the runtime itself is not ready for a signal.
				eventually(t, patience, "vrrpd logs", func() (bool, string) { return logOf(t, p) != "" || !p.Running(), "" })
			}
		}},
		{"a hook hangs", func(t *testing.T, l *lab.Lab) {
			for _, h := range l.Hosts() {
				slow(t, h)
			}
			pair(t, l, fast(0, "notify_master "+hookPath))
		}},
		{"the stop hook hangs", func(t *testing.T, l *lab.Lab) {
			for _, h := range l.Hosts() {
				slow(t, h)
			}
			pair(t, l, fast(0, "notify_stop "+hookPath))
		}},
		{"a check hangs", func(t *testing.T, l *lab.Lab) {
			for _, h := range l.Hosts() {
				slow(t, h)
				startVrrpd(t, h, file("", block("vrrp_script hang {\n  script "+hookPath+"\n  interval 1\n  timeout 50\n}\n"), fast(100, "track_script {", "  hang", "}")))
			}
		}},
		{"the link is down", func(t *testing.T, l *lab.Lab) {
			pair(t, l, fast(0))
			for _, h := range l.Hosts() {
				run(t, h, "ip", "link", "set", "eth0", "down")
			}
		}},
		{"the interface is gone", func(t *testing.T, l *lab.Lab) {
			pair(t, l, fast(0))
			for _, h := range l.Hosts() {
				run(t, h, "ip", "link", "del", "eth0")
			}
		}},
		{"somebody watches", func(t *testing.T, l *lab.Lab) {
			pair(t, l, fast(0))
			for _, h := range l.Hosts() {
				// A reader that never reads on.
				c, err := h.Dial(t.Context(), "unix", control.DefaultSocket)
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { c.Close() })
				fmt.Fprintf(c, "GET /v1/events HTTP/1.1\r\nHost: x\r\n\r\n")
				spawn(t, h, "watch", lab.Command{Argv: []string{"vrrpd", "status", "--watch", "--json"}})
			}
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			l := newLab(t, 2)
			tt.play(t, l)
			start := time.Now()
			for _, h := range l.Hosts() {
				signal(t, h, "vrrpd", syscall.SIGTERM)
			}
			for _, h := range l.Hosts() {
				waitEnd(t, h, "vrrpd", start, endTime+slack)
				if holds(h, lab.VIP(1)) {
					t.Errorf("%s: the address is still there", h.Name())
				}
				// Nothing of ours lives on.
				eventually(t, patience, "no process is left", func() (bool, string) {
					list, err := h.Processes()
					if err != nil {
						t.Fatal(err)
					}
					for _, p := range list {
						if strings.Contains(strings.Join(p.Args, " "), hookPath) {
							return false, fmt.Sprint(p)
						}
					}
					return true, ""
				})
			}
		})
	}
}

// What makes an instance wait: vrrp_startup_delay, and preempt_delay from the first advert of a lower priority on.
func TestVRRPDelays(t *testing.T) {
	l := newLab(t, 2)
	n1, n2 := l.Host("n1"), l.Host("n2")
	startVrrpd(t, n2, file("", fast(100)))
	waitHolder(t, l, lab.VIP(1), "n2")
	begin := time.Now()
	startVrrpd(t, n1, file("vrrp_startup_delay 1", fast(150, "preempt_delay 1")))
	if i := instance(t, n1, "VI_51"); i.State != control.StateInit || !strings.Contains(i.Waiting, "vrrp_startup_delay") {
		t.Errorf("at first: got %s", describe(i))
	}
	i := waitState(t, n1, "VI_51", control.StateMaster)
	if d := i.Transitions[0].At.Sub(begin); d < time.Second {
		t.Errorf("took part %s after the start, want vrrp_startup_delay of 1s", d)
	}
	if d := i.Since.Sub(i.Transitions[0].At); d < time.Second || d > time.Second+3*slack {
		t.Errorf("took over %s after it heard n2, want preempt_delay of 1s", d)
	}
	waitHolder(t, l, lab.VIP(1), "n1")
	// Neither holds up a takeover from a dead master.
	stop(t, n1, "vrrpd", endTime)
	waitHolder(t, l, lab.VIP(1), "n2")
	startVrrpd(t, n1, file("", fast(150, "preempt_delay 1000")))
	waitState(t, n1, "VI_51", control.StateBackup)
	kill(t, n2, "vrrpd")
	waitState(t, n1, "VI_51", control.StateMaster)
}

// freeze stops a master in the middle between two adverts, and not between two steps of one.
func freeze(t *testing.T, c *lab.Capture, h *lab.Host) {
	t.Helper()
	f := waitFrame(t, c, time.Now(), "advert", claim(h.Name(), 51))
	time.Sleep(time.Until(f.At.Add(50 * time.Millisecond)))
	signal(t, h, "vrrpd", syscall.SIGSTOP)
}

// goesQuietly has n1 go on, which freeze has stopped and n2 replaced: it gives way without a word.
func goesQuietly(t *testing.T, l *lab.Lab, c *lab.Capture, after time.Time) {
	t.Helper()
	n1, n2 := l.Host("n1"), l.Host("n2")
	signal(t, n1, "vrrpd", syscall.SIGCONT)
	waitState(t, n1, "VI_51", control.StateBackup)
	waitHolder(t, l, lab.VIP(1), "n2")
	if f, ok := c.First(after, claim("n1", 51)); ok {
		t.Errorf("it advertised before it listened: %s", f.String())
	}
	if i := instance(t, n2, "VI_51"); i.Seq != 2 {
		t.Errorf("n2 was disturbed: %+v", i.Transitions)
	}
}

// A log that nobody takes, as that of a journald or a disk that hangs, is no reason to stop: the lines are lost, and the master is one.
func TestVRRPLogNobodyTakes(t *testing.T) {
	l := newLab(t, 2)
	n1, n2 := l.Host("n1"), l.Host("n2")
	writeFile(t, n1, vrrpdConf, file("", fast(150)), 0o644)
	const full = `mkfifo -m 600 /run/log && exec 3<>/run/log && head -c 65536 /dev/zero >&3 && exec "$@" 2>&3`
	p := spawn(t, n1, "vrrpd", lab.Command{Argv: append([]string{"bash", "-c", full, "bash"}, vrrpdRun()...)})
	waitAnswers(t, n1, p)
	waitState(t, n1, "VI_51", control.StateMaster)
	startVrrpd(t, n2, file("", fast(100)))
	waitInstance(t, n2, "VI_51", "follows n1", func(i control.Instance) bool { return i.State == control.StateBackup && i.Master != "" })
	signal(t, n1, "vrrpd", syscall.SIGHUP)
	eventually(t, patience, "a reload", func() (bool, string) {
		s := status(t, n1)
		return s.Reloads.Done > 0, fmt.Sprint(s.Reloads)
	})
	stop(t, n1, "vrrpd", endTime+time.Second) // the last lines have a second
	waitState(t, n2, "VI_51", control.StateMaster)
}

// A vrrpd that is stopped for a while and goes on, as in a virtual machine that is moved: what its socket has kept counts before
// its timers do.
func TestVRRPStalled(t *testing.T) {
	vip := lab.VIP(1)
	t.Run("backup", func(t *testing.T) {
		l := newLab(t, 2)
		n2 := l.Host("n2")
		pair(t, l, fast(0))
		c := capture(t, l)
		for range 5 {
			signal(t, n2, "vrrpd", syscall.SIGSTOP)
			after := waitClaims(t, c, time.Now(), "n1", 51, 6) // twice its Master_Down_Interval
			signal(t, n2, "vrrpd", syscall.SIGCONT)
			waitInstance(t, n2, "VI_51", "hears n1", func(i control.Instance) bool { return i.Peers[0].Heard.After(after) })
		}
		if i := instance(t, n2, "VI_51"); i.Seq != 1 || len(c.Frames(lab.AdvertFrom("n2", 51))) > 0 {
			t.Errorf("it became master: %+v", i.Transitions)
		}
	})
	t.Run("master, by a better one", func(t *testing.T) {
		l := newLab(t, 2)
		n1, n2 := l.Host("n1"), l.Host("n2")
		startVrrpd(t, n1, file("", fast(100)))
		waitHolder(t, l, vip, "n1")
		startVrrpd(t, n2, file("", fast(150, "nopreempt")))
		waitInstance(t, n2, "VI_51", "follows n1", func(i control.Instance) bool { return i.State == control.StateBackup && i.Master != "" })
		c := capture(t, l)
		freeze(t, c, n1)
		waitState(t, n2, "VI_51", control.StateMaster)
		after := waitClaims(t, c, time.Now(), "n2", 51, 5)
		goesQuietly(t, l, c, after)
	})
	t.Run("master, by a worse one", func(t *testing.T) {
		// It has been away for longer than the peer waits: the peer serves now, and the better one goes without a word.
		l := newLab(t, 2)
		n1, n2 := l.Host("n1"), l.Host("n2")
		pair(t, l, fast(0, "nopreempt"))
		c := capture(t, l)
		freeze(t, c, n1)
		waitState(t, n2, "VI_51", control.StateMaster)
		after := waitClaims(t, c, time.Now(), "n2", 51, 5)
		goesQuietly(t, l, c, after)
	})
	t.Run("master, and nothing in its socket", func(t *testing.T) {
		// As when a whole machine stood still.
		l := newLab(t, 2)
		n1, n2 := l.Host("n1"), l.Host("n2")
		r := fast(0, "nopreempt")
		r.Interval = "0.5"
		pair(t, l, r)
		c := capture(t, l)
		freeze(t, c, n1)
		if err := l.Partition([]string{"n1"}, []string{"n2"}); err != nil {
			t.Fatal(err)
		}
		waitState(t, n2, "VI_51", control.StateMaster)
		after := waitClaims(t, c, time.Now(), "n2", 51, 3) // more than any router waits, and one of its own interval
		if err := l.Heal(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Until(after.Add(300 * time.Millisecond))) // n2 is silent for another 200 ms
		goesQuietly(t, l, c, after)
	})
	t.Run("master, with an announcement due", func(t *testing.T) {
		// One gratuitous ARP of the old master would take the clients away from the new one.
		l := newLab(t, 2)
		n1, n2 := l.Host("n1"), l.Host("n2")
		pair(t, l, fast(0, "nopreempt", "garp_master_refresh 1"))
		c := capture(t, l)
		waitFrame(t, c, time.Now(), "refresh", lab.Announcement("n1", vip))
		freeze(t, c, n1)
		waitState(t, n2, "VI_51", control.StateMaster)
		after := waitClaims(t, c, time.Now(), "n2", 51, 12) // more than a second
		goesQuietly(t, l, c, after)
		waitFrame(t, c, time.Now(), "refresh of the new master", lab.Announcement("n2", vip))
		if f, ok := c.First(after, lab.Announcement("n1", vip)); ok {
			t.Errorf("it announced what it had lost: %s", f.String())
		}
	})
}

// A master that cannot carry its address, or is mute, is none: another node should serve. It takes over again once it can send, or when that node leaves.
func TestVRRPCannotServe(t *testing.T) {
	t.Parallel()
	l := newLab(t, 2)
	n1, n2 := l.Host("n1"), l.Host("n2")
	mute, carry := lab.VIP(1), lab.VIP(2)
	late := func(h *lab.Host) { run(t, h, "ip", "link", "add", "late0", "type", "veth", "peer", "name", "late1") }
	text := func(priority int) string {
		onLate := router{VRID: 52, Interval: "0.1", VIPs: []string{carry.String() + "/24 dev late0"}}
		return file("dynamic_interfaces", fast(priority), onLate.with(priority))
	}
	c := capture(t, l)
	late(n2)
	startVrrpd(t, n1, text(150))
	waitHolder(t, l, mute, "n1")
	startVrrpd(t, n2, text(100))
	watch, at := watchHoldings(t, l), time.Now()

	// n1 has no late0 for the address of VI_52 to stand on.
	i := waitState(t, n1, "VI_52", control.StateFault)
	if !strings.Contains(i.Reason, "late0") || i.Addresses[0].Held {
		t.Errorf("got %s, held %t", describe(i), i.Addresses[0].Held)
	}
	waitFrame(t, c, time.Time{}, "goodbye", goodbye("n1", 52))
	waitState(t, n2, "VI_52", control.StateMaster)
	if i := instance(t, n1, "VI_51"); i.State != control.StateMaster {
		t.Errorf("the other instance suffers: %s", describe(i))
	}

	// A packet filter that somebody loads without thought.
	run(t, n1, "nft", "add table ip mute; add chain ip mute out { type filter hook output priority 0; }; add rule ip mute out ip protocol 112 drop")
	i = waitState(t, n1, "VI_51", control.StateFault)
	if !strings.Contains(i.Reason, "cannot be sent") || i.Counters.SendErrors < 3 {
		t.Errorf("got %s, %d send errors", describe(i), i.Counters.SendErrors)
	}
	waitHolder(t, l, mute, "n2")

	run(t, n1, "nft", "delete table ip mute")
	late(n1)
	waitHolder(t, l, mute, "n1")
	// Whether an address can be set it cannot know before it takes over, so it leaves a master that serves alone.
	i = waitState(t, n1, "VI_52", control.StateBackup)
	if !strings.HasPrefix(i.Waiting, "the master to leave") {
		t.Errorf("got %s, waits for %q", describe(i), i.Waiting)
	}
	run(t, n2, "vrrpd", "release", "VI_52", "--for", "1s")
	waitInstance(t, n1, "VI_52", "holds its address", func(i control.Instance) bool { return i.State == control.StateMaster && i.Addresses[0].Held })
	eventually(t, patience, "it is on n1 alone", func() (bool, string) {
		got := holders(l, carry)
		return slices.Equal(got, []string{"n1"}), fmt.Sprint(got)
	})
	// They cannot tell each other: the new master is there when the old one has counted its failures, give or take.
	if two := watch.overlaps(t, []netip.Addr{mute, carry}, at, 2*handOver); len(two) > 0 {
		t.Errorf("two holders: %v", two)
	}
}

// The owner of its address (priority 255) has it by its own right: vrrpd takes it neither off at the end nor by cleanup.
func TestVRRPOwner(t *testing.T) {
	l := newLab(t, 2)
	n1, n2 := l.Host("n1"), l.Host("n2")
	self := n1.Addr(lab.LAN)
	r := router{VRID: 51, Interval: "0.1", VIPs: []string{self.String() + "/24"}}
	startVrrpd(t, n1, file("", r.with(255)))
	if i := waitState(t, n1, "VI_51", control.StateMaster); i.Seq != 1 {
		t.Errorf("an owner was something else first: %s", describe(i))
	}
	startVrrpd(t, n2, file("", r.with(100)))
	waitInstance(t, n2, "VI_51", "follows n1", func(i control.Instance) bool { return i.State == control.StateBackup && i.Master == self.String() })
	stop(t, n1, "vrrpd", endTime)
	if !holds(n1, self) {
		t.Error("SIGTERM took the owner's address")
	}
	stop(t, n2, "vrrpd", endTime)
	if holds(n2, self) {
		t.Error("n2 has kept it")
	}
	startVrrpd(t, n1, file("", r.with(255)))
	waitState(t, n1, "VI_51", control.StateMaster)
	kill(t, n1, "vrrpd")
	if out := run(t, n1, "vrrpd", "cleanup", "-f", vrrpdConf); out != "" || !holds(n1, self) {
		t.Errorf("cleanup: got %q, the address is there: %t", out, holds(n1, self))
	}
}

func TestVRRPRunRefused(t *testing.T) {
	l := newLab(t, 1)
	n1 := l.Host("n1")
	writeFile(t, n1, vrrpdConf, file("", fast(100)), 0o644)
	writeFile(t, n1, "/etc/vrrpd/bad.conf", "vrrp_instance VI_1 {\n  interface eth0\n  virtual_router_id\n}\n", 0o644)
	tests := []struct {
		name string
		argv []string
		want string
	}{
		{"not root", []string{"runuser", "-u", "nobody", "--", "vrrpd", "run", "-f", vrrpdConf}, "permission denied"},
		{"not root, with a socket of its own", []string{"runuser", "-u", "nobody", "--", "vrrpd", "run", "-f", vrrpdConf, "--socket", "/tmp/vrrpd.sock", "--run-dir", "/tmp/vrrpd"}, "operation not permitted"},
		{"no file", []string{"vrrpd", "run", "-f", "/etc/vrrpd/none.conf"}, "/etc/vrrpd/none.conf"},
		{"a bad file", []string{"vrrpd", "run", "-f", "/etc/vrrpd/bad.conf"}, "/etc/vrrpd/bad.conf:3:"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			ctx := within(t, patience)
			res, err := n1.Run(ctx, tt.argv...)
			if ctx.Err() != nil || res.Code != 1 || !strings.Contains(res.Stderr, tt.want) {
				t.Errorf("got exit code %d, %v, %q, want 1 and %q", res.Code, err, res.Stderr, tt.want)
			}
		})
	}
}

func TestVRRPSecondDaemonRefused(t *testing.T) {
	l := newLab(t, 2)
	n1 := l.Host("n1")
	pair(t, l, fast(0))
	before := instance(t, n1, "VI_51")
	res := try(t, n1, "vrrpd", "run", "-f", vrrpdConf)
	if res.Code != 1 || !strings.Contains(res.Stderr, "another vrrpd") {
		t.Errorf("got exit code %d, %q, want 1 and why", res.Code, res.Stderr)
	}
	if after := instance(t, n1, "VI_51"); after.Seq != before.Seq {
		t.Errorf("the first one changed: %s, then %s", describe(before), describe(after))
	}
	waitHolder(t, l, lab.VIP(1), "n1")
	// A socket that a killed one left is no obstacle.
	kill(t, n1, "vrrpd")
	startVrrpd(t, n1, file("", fast(150)))
	waitState(t, n1, "VI_51", control.StateMaster)
}
