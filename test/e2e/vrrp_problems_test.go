//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"pgvrrp/internal/control"
	"pgvrrp/test/lab"
)

// apart is two hosts that do not hear each other: vrrpd on n1, and keepalived beside it on n2 as the control, with the same file.
func apart(t *testing.T) (l *lab.Lab, n1, n2 *lab.Host) {
	t.Helper()
	l = newLab(t, 2)
	if err := l.Partition([]string{"n1"}, []string{"n2"}); err != nil {
		t.Fatal(err)
	}
	return l, l.Host("n1"), l.Host("n2")
}

// checks runs vrrpd check and keepalived -t over a file on a host each.
func checks(t *testing.T, n1, n2 *lab.Host, text string, args ...string) (ours, theirs lab.Result) {
	t.Helper()
	writeFile(t, n1, vrrpdConf, text, 0o644)
	writeFile(t, n2, keepalivedConf, text, 0o644)
	return try(t, n1, append([]string{"vrrpd", "check", "-f", vrrpdConf}, args...)...), try(t, n2, "/usr/sbin/keepalived", "-t", "-f", keepalivedConf)
}

// Problem 10: a hook that cannot run is found before it is needed. Problem 11: what keepalived takes without a word is named with
// its place. keepalived's own check says of all of them that they are clean.
func TestPain10HookThatCannotRun(t *testing.T) {
	_, n1, n2 := apart(t)
	writeFile(t, n1, "/etc/vrrpd/private", shebang, 0o700)
	writeFile(t, n2, "/etc/vrrpd/private", shebang, 0o700)
	const secure = "script_user root\n  enable_script_security"
	for _, tt := range []struct {
		name, line, want string
		strict           bool // it is suspicious, not wrong: --strict makes it count
		theirs           int
	}{
		{"user of a hook", "notify_master /bin/true nosuchuser", "nosuchuser", false, 0},
		{"hook that is missing", "notify_master /etc/vrrpd/missing", "/etc/vrrpd/missing", false, 0},
		{"hook that its user may not run", "notify_master /etc/vrrpd/private nobody", "/etc/vrrpd/private", false, -1}, // it crashes
		{"words behind nopreempt", "nopreempt true", "nopreempt", true, 0},
		{"unquoted arguments of a hook", "notify_master /bin/true root root one two", "notify_master", true, 0},
		{"a password that is cut", "authentication {\n  auth_type PASS\n  auth_pass 123456789\n}", "auth_pass", true, 5},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := fast(100, tt.line)
			r.Version, r.Interval = 2, "1"
			text := strings.Replace(file(secure, r), "vrrp_version 3", "vrrp_version 2", 1)
			var args []string
			if tt.strict {
				args = []string{"--strict"}
			}
			ours, theirs := checks(t, n1, n2, text, args...)
			if ours.Code == 0 || !strings.Contains(ours.Stdout, tt.want) || !strings.Contains(ours.Stdout, vrrpdConf+":") {
				t.Errorf("vrrpd check: got %d, %q, want an error with the place that names %s", ours.Code, ours.Stdout, tt.want)
			}
			if theirs.Code != tt.theirs {
				t.Errorf("the control: keepalived -t: got %d, want %d: %s", theirs.Code, tt.theirs, theirs.Stderr)
			}
		})
	}
}

// Problem 12: behind an unknown block the instance goes on. Problem 8: a check that is defined further down counts. keepalived loses
// what stands behind the block, and is master in spite of the check.
func TestPain12UnknownBlock(t *testing.T) {
	_, n1, n2 := apart(t)
	writeFile(t, n1, checkDir+"bad", shebang+"exit 1\n", 0o755)
	writeFile(t, n2, checkDir+"bad", shebang+"exit 1\n", 0o755)
	later := block("vrrp_script bad {\n  script " + checkDir + "bad\n}\n")
	closed := router{VRID: 52, Interval: "0.1", Priority: 100, VIPs: []string{lab.VIP(2).String() + "/24"}, Lines: []string{"virtual_ipaddress_excluded {", "  " + lab.VIP(4).String() + "/24", "}", "frobnicate {", "  on yes", "}"}}
	tracked := router{VRID: 53, Interval: "0.1", Priority: 100, VIPs: []string{lab.VIP(3).String() + "/24"}, Lines: []string{"track_script {", "  bad", "}"}}
	text := file("script_user root", fast(100), tracked, closed, later)
	startVrrpd(t, n1, text)
	waitState(t, n1, "VI_52", control.StateMaster)
	waitState(t, n1, "VI_53", control.StateFault)
	for k, want := range map[int]bool{1: true, 2: true, 3: false, 4: true} {
		eventually(t, patience, fmt.Sprintf("VIP %d", k), func() (bool, string) { return holds(n1, lab.VIP(k)) == want, fmt.Sprintf("want it held: %t", want) })
	}
	// keepalived: the instance without the block's rest has no address, which version 3 doesn't allow, so the file is refused; and
	// without that instance the failed check keeps nobody from being master.
	if _, theirs := checks(t, n1, n2, text); theirs.Code == 0 {
		t.Errorf("the control: keepalived -t: got 0")
	}
	startKeepalived(t, n2, strings.Replace(text, closed.String(), "", 1))
	eventually(t, patience, "the control: keepalived is master of VI_53", func() (bool, string) { return holds(n2, lab.VIP(3)), logOf(t, n2.Proc("keepalived")) })
}

// Problem 17: nothing that goes wrong makes vrrpd busy. Each of these would be a loop without a pause somewhere: an interface that
// goes, packets that cannot be sent, a check and a hook that fail at once, a FIFO whose reader ends at once, garbage on the wire, and a
// client of the socket that does not read.
func TestPain17NoBusyLoop(t *testing.T) {
	l := newLab(t, 2)
	n1, n2 := l.Host("n1"), l.Host("n2")
	writeFile(t, n1, "/etc/vrrpd/ends", shebang+"exit 1\n", 0o755)
	run(t, n1, "ip", "link", "add", "late0", "type", "veth", "peer", "name", "late1")
	lost := strings.Replace(router{VRID: 52, Priority: 100, Interval: "0.1", VIPs: []string{"10.77.0.110/24 dev late0"}}.String(), "interface eth0", "interface eth1", 1)
	text := file("dynamic_interfaces\n  script_user root\n  notify_fifo /run/fifo\n  notify_fifo_script /etc/vrrpd/ends",
		block("vrrp_script ends {\n  script /etc/vrrpd/ends\n  interval 1\n  weight -1\n}\n"),
		fast(100, "notify /etc/vrrpd/ends", "track_script {", "  ends", "}"), block(lost))
	p := startVrrpd(t, n1, text)
	waitState(t, n1, "VI_51", control.StateMaster)
	waitState(t, n1, "VI_52", control.StateMaster)
	run(t, n1, "ip", "link", "del", "late0")
	run(t, n1, "nft", "add table ip mute; add chain ip mute out { type filter hook output priority 0; }; add rule ip mute out oifname eth1 ip protocol 112 drop")
	c, err := n1.Dial(t.Context(), "unix", control.DefaultSocket)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	fmt.Fprintf(c, "GET /v1/events HTTP/1.1\r\nHost: x\r\n\r\n")
	packet{VRID: 51, Cut: 5}.send(t, n2, 50)
	packet{VRID: 51, BadSum: true}.send(t, n2, 50)
	waitState(t, n1, "VI_52", control.StateFault)
	used := func() time.Duration {
		var sum time.Duration
		for line := range strings.Lines(run(t, n1, "sh", "-c", fmt.Sprintf("cat /proc/%d/task/*/schedstat 2>/dev/null; true", p.PID()))) {
			ns, err := strconv.ParseInt(strings.Fields(line)[0], 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			sum += time.Duration(ns)
		}
		return sum
	}
	start, before := time.Now(), used()
	constantly(t, 2*time.Second, "it goes on", func() (bool, string) { return p.Running(), "ended" })
	run(t, n1, "ip", "link", "del", "eth1")
	constantly(t, time.Second, "it goes on", func() (bool, string) { return p.Running(), "ended" })
	if share := float64(used()-before) / float64(time.Since(start)); share > 0.2 {
		t.Errorf("vrrpd used %.0f %% of a processor for nothing", 100*share)
	}
}

// Problem 24: nothing that vrrpd writes or listens to can be read or changed by anybody, and a password is nowhere to be seen.
// keepalived writes its state to /tmp, for everybody, with the password.
func TestPain24NobodyElseMayLook(t *testing.T) {
	_, n1, n2 := apart(t)
	r := router{VRID: 51, Version: 2, Priority: 255, Interval: "1", VIPs: []string{lab.VIP(1).String() + "/24"}, Lines: []string{"authentication {", "  auth_type PASS", "  auth_pass s3cr3t", "}"}}
	text := strings.Replace(file("script_user root\n  notify_fifo /run/fifo", r), "vrrp_version 3", "vrrp_version 2", 1)
	p := startVrrpd(t, n1, text, "--log-level", "debug")
	waitState(t, n1, "VI_51", control.StateMaster)
	for line := range strings.Lines(run(t, n1, "sh", "-c", "find /run/vrrpd /run/fifo /tmp /var/lib/vrrpd -newer "+vrrpdConf+" ! -type d -printf '%m %u %y %p\\n' 2>/dev/null; true")) {
		f := strings.Fields(line)
		if len(f) != 4 {
			t.Fatalf("find: %q", line)
		}
		mode, err := strconv.ParseUint(f[0], 8, 32)
		if err != nil {
			t.Fatal(err)
		}
		// The socket asks each caller who it is.
		if f[1] != "root" || os.FileMode(mode)&0o077 != 0 && f[2] != "s" || strings.HasPrefix(f[3], "/tmp") {
			t.Errorf("file %s", line)
		}
	}
	shown := run(t, n1, "vrrpd", "check", "--json", "-f", vrrpdConf) + run(t, n1, "vrrpd", "status", "--json") + logOf(t, p)
	if strings.Contains(shown, "s3cr3t") {
		t.Error("the password is shown")
	}
	if res := try(t, n1, "runuser", "-u", "nobody", "--", "vrrpd", "release", "VI_51"); res.Code == 0 {
		t.Errorf("nobody may release an instance: %q", res.Stdout)
	}
	startKeepalived(t, n2, text)
	signal(t, n2, "keepalived", syscall.SIGUSR1)
	eventually(t, patience, "the control: keepalived writes to /tmp", func() (bool, string) {
		return strings.Contains(readFile(n2, "/tmp/keepalived.data"), "s3cr3t"), readFile(n2, "/tmp/keepalived.data")
	})
}

// Problem 6, the control: what a keepalived that was killed leaves stays for good; TestVRRPKilled has our side. Problem 2, the control: a
// keepalived that was stopped for a while sends as a master before it listens; TestVRRPStalled has ours. Problem 20, the control: it
// gives the address away that somebody removed once; TestVRRPAddressRemovedBySomebody has ours. Problem 19, the control: it doesn't start
// without its interface; TestVRRPInterfaceMadeAnew has ours.
func TestPainControls(t *testing.T) {
	l := newLab(t, 2)
	n1, n2 := l.Host("n1"), l.Host("n2")
	vip := lab.VIP(1)
	startKeepalived(t, n1, file("", fast(150, "nopreempt")))
	waitHolder(t, l, vip, "n1")
	startKeepalived(t, n2, file("", fast(100, "nopreempt")))
	all := func(sig syscall.Signal) {
		t.Helper()
		list, err := n1.Processes()
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range list {
			if p.Name == "keepalived" {
				if err := n1.Signal(t.Context(), p.PID, sig); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	c := capture(t, l)
	frozen := func(after func()) {
		t.Helper()
		at := time.Now()
		all(syscall.SIGSTOP)
		waitFrame(t, c, at, "n2 takes over", claim("n2", 51))
		after()
	}
	t.Run("02 frozen", func(t *testing.T) {
		frozen(func() {
			thawed := time.Now()
			all(syscall.SIGCONT)
			waitFrame(t, c, thawed, "the thawed one advertises", claim("n1", 51))
			waitHolder(t, l, vip, "n1") // and takes its mastership back, in spite of nopreempt
		})
	})
	t.Run("20 an address that somebody removes", func(t *testing.T) {
		at := time.Now()
		run(t, n1, "ip", "addr", "del", vip.String()+"/24", "dev", "eth0")
		waitFrame(t, c, at, "goodbye", goodbye("n1", 51))
	})
	t.Run("06 killed", func(t *testing.T) {
		eventually(t, patience, "somebody holds it", func() (bool, string) { return len(holders(l, vip)) == 1, fmt.Sprint(holders(l, vip)) })
		if holds(n2, vip) {
			keepalived.stop(t, n2)
			waitHolder(t, l, vip, "n1")
			startKeepalived(t, n2, file("", fast(100, "nopreempt")))
		}
		frozen(func() {
			all(syscall.SIGKILL)
			eventually(t, patience, "both hold it", func() (bool, string) {
				got := holders(l, vip)
				return slices.Equal(got, []string{"n1", "n2"}), fmt.Sprint(got)
			})
		})
		if _, err := n1.Proc("keepalived").Wait(within(t, patience)); err != nil {
			t.Fatal(err)
		}
		constantly(t, time.Second, "they go on", func() (bool, string) { return len(holders(l, vip)) == 2, fmt.Sprint(holders(l, vip)) })
	})
	t.Run("19 no interface", func(t *testing.T) {
		writeFile(t, n1, keepalivedConf, strings.ReplaceAll(file("", fast(100)), "interface eth0", "interface eth7"), 0o644)
		res := try(t, n1, "/usr/sbin/keepalived", "-n", "-l", "-P", "-f", keepalivedConf, "-p", "/run/k2.pid", "-r", "/run/kv2.pid")
		if res.Code == 0 {
			t.Errorf("got exit code %d: %s", res.Code, res.Stderr)
		}
	})
}

// Problem 1: nobody hears anybody, because a firewall drops the packets. Both are master, as the protocol has it: under quorum neither could
// be without a majority (TestQuorumPartition). When the packets pass again one of them gives way at once. Problem 3: and the clients that
// have learned the wrong one follow. Problem 14: of equal priorities the greater address wins, and the log says so.
func TestPain01SplitBrainAndAfter(t *testing.T) {
	l := newLab(t, 2)
	n1, n2 := l.Host("n1"), l.Host("n2")
	client, vip := l.Client(), lab.VIP(1)
	// No second batch and no refresh of announcements: only the contention can have told the client. The last advert of the one that gives way
	// is what the other must have heard for that.
	const quiet = "vrrp_garp_master_delay 0\n  vrrp_higher_prio_send_advert"
	run(t, n1, "nft", "add table ip deaf; add chain ip deaf in { type filter hook input priority 0; }; add rule ip deaf in ip protocol 112 drop")
	run(t, n2, "nft", "add table ip deaf; add chain ip deaf in { type filter hook input priority 0; }; add rule ip deaf in ip protocol 112 drop")
	startVrrpd(t, n2, file(quiet, fast(100)))
	waitState(t, n2, "VI_51", control.StateMaster)
	startVrrpd(t, n1, file(quiet, fast(100)))
	waitState(t, n1, "VI_51", control.StateMaster)
	for _, h := range l.Hosts() {
		if i := instance(t, h, "VI_51"); len(i.Peers) != 0 || i.Counters.AdvertsReceived != 0 {
			t.Errorf("%s has heard %+v", h.Name(), i.Peers)
		}
	}
	// A client that believes the one that will give way, and uses it.
	run(t, client, "ip", "neigh", "replace", vip.String(), "lladdr", n1.MAC(lab.LAN).String(), "dev", "eth0", "nud", "reachable")
	// The one that will stay hears the other first: who gives way says nothing more, and it is the one that hears it that announces again.
	run(t, n2, "nft", "delete table ip deaf")
	waitInstance(t, n2, "VI_51", "has heard the other", func(i control.Instance) bool { return i.State == control.StateMaster && len(i.Peers) == 1 })
	run(t, n1, "nft", "delete table ip deaf")
	i := waitState(t, n1, "VI_51", control.StateBackup)
	if !strings.Contains(i.Reason, "greater address") {
		t.Errorf("reason: got %q, want it to tell of the tie", i.Reason)
	}
	eventually(t, patience, "the client follows", func() (bool, string) {
		out := run(t, client, "ip", "neigh", "show", "to", vip.String(), "dev", "eth0")
		return strings.Contains(out, n2.MAC(lab.LAN).String()), out
	})
	if got := holders(l, vip); !slices.Equal(got, []string{"n2"}) {
		t.Errorf("the address is on %v, want n2", got)
	}
}
