//go:build e2e

package e2e

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"pgvrrp/internal/control"
	"pgvrrp/test/lab"
)

// A hundred adverts a second: they are evenly spaced, nobody's drift adds up, and the backup, which may wait for 36 ms only, keeps
// calm. A machine that itself stood still for longer than that proves nothing; then it is tried again.
func TestVRRPHundredAdvertsASecond(t *testing.T) {
	const interval, count, tries = 10 * time.Millisecond, 200, 5
	l := newLab(t, 2)
	n1, n2 := l.Host("n1"), l.Host("n2")
	r := fast(0)
	r.Interval = "0.01"
	startVrrpd(t, n1, file("", r.with(150)))
	waitState(t, n1, "VI_51", control.StateMaster)
	startVrrpd(t, n2, file("", r.with(100)))
	waitInstance(t, n2, "VI_51", "follows n1", func(i control.Instance) bool { return i.State == control.StateBackup && i.Master != "" })
	c := capture(t, l)
	evenOnce := false
	for try := 1; ; try++ {
		seq1, seq2 := instance(t, n1, "VI_51").Seq, instance(t, n2, "VI_51").Seq
		start, load := time.Now(), lab.ReadLoad()
		var frames []lab.Frame
		eventually(t, patience, "200 adverts", func() (bool, string) {
			frames = c.Frames(both(claim("n1", 51), func(f *lab.Frame) bool { return f.At.After(start) }))
			return len(frames) >= count, fmt.Sprint(len(frames))
		})
		frames = frames[:count]
		var gaps []time.Duration
		for k := 1; k < count; k++ {
			gaps = append(gaps, frames[k].At.Sub(frames[k-1].At))
		}
		longest := slices.Max(gaps)
		slices.Sort(gaps)
		median, mean := gaps[len(gaps)/2], frames[count-1].At.Sub(frames[0].At)/(count-1)
		i1, i2 := instance(t, n1, "VI_51"), instance(t, n2, "VI_51")
		t.Logf("spaced %s in the median, %s in the mean, %s at most (%s)", median, mean, longest, load)
		calm := i1.Seq == seq1 && i2.Seq == seq2
		if !calm && longest <= 3*interval {
			t.Logf("a transition although no gap was longer than %s: %s; %s", longest, describe(i1), describe(i2))
		}
		even := median > interval-time.Millisecond && median < interval+time.Millisecond
		evenOnce = evenOnce || even
		if calm && even && mean < interval+interval/10 {
			break
		}
		if try == tries {
			// Where somebody waits for a processor all the time, so does now and then a master that is to speak every 10 ms, for longer than a backup does for it.
			if busy := load.CPUStalled > 25; !busy || !evenOnce {
				t.Fatalf("never calm in %d tries: %s; %s", tries, describe(i1), describe(i2))
			}
			break
		}
		waitState(t, n1, "VI_51", control.StateMaster)
		waitState(t, n2, "VI_51", control.StateBackup)
	}
	for _, f := range c.Frames(claim("n1", 51)) {
		if f.VRRP.Interval != interval {
			t.Fatalf("interval on the wire: got %s, want %s", f.VRRP.Interval, interval)
		}
	}
	kill(t, n1, "vrrpd")
	waitState(t, n2, "VI_51", control.StateMaster)
}

// The longest intervals that the wire can carry. An owner speaks at once, so that nobody has to wait for two minutes.
func TestVRRPLongestInterval(t *testing.T) {
	l := newLab(t, 2)
	n1, n2 := l.Host("n1"), l.Host("n2")
	v3 := router{VRID: 3, Interval: "40.95", VIPs: []string{"10.77.0.103/24"}}
	v2 := router{VRID: 2, Version: 2, Interval: "255", VIPs: []string{"10.77.0.102/24"}}
	c, start := capture(t, l), time.Now()
	startVrrpd(t, n2, file("", v3.with(100), v2.with(100)))
	startVrrpd(t, n1, file("", v3.with(255), v2.with(255)))
	if f := waitFrame(t, c, start, "advert", claim("n1", 3)); f.VRRP.Interval != 4095*10*time.Millisecond {
		t.Errorf("version 3: got %s, want 40.95s", f.VRRP.Interval)
	}
	if f := waitFrame(t, c, start, "advert", claim("n1", 2)); f.VRRP.Interval != 255*time.Second {
		t.Errorf("version 2: got %s, want 255s", f.VRRP.Interval)
	}
	for _, name := range []string{"VI_3", "VI_2"} {
		waitInstance(t, n2, name, "follows n1", func(i control.Instance) bool { return i.State == control.StateBackup && i.Master == "10.77.0.1" })
	}
	// Its goodbye must not be waited for that long: the skew of priority 100 is 25 s in version 3, and 0.6 s in version 2.
	stop(t, n1, "vrrpd", endTime)
	waitState(t, n2, "VI_2", control.StateMaster)
	constantly(t, time.Second, "version 3 waits for its skew", func() (bool, string) {
		i := instance(t, n2, "VI_3")
		return i.State == control.StateBackup, describe(i)
	})
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	rows := adverts(t, c.File, "eth.src == "+n1.MAC(lab.LAN).String()+" && vrrp")
	if len(rows) < 4 {
		t.Errorf("got %d adverts, want 4", len(rows))
	}
	for _, row := range rows {
		if text := row.complaint(); text != "" || row["vrrp.version"] == "3" && row["vrrp.short_adver_int"] != "4095" || row["vrrp.version"] == "2" && row["vrrp.adver_int"] != "255" {
			t.Errorf("tshark: got %v, complaint %q", row, text)
		}
	}
}

// The files of etc run as they stand, the same on every node, and elect one master. pgnotify's part in them is another test's.
func TestVRRPSamples(t *testing.T) {
	t.Parallel()
	stub := map[string]string{"/usr/bin/pgnotify": "/bin/true"}
	tests := []struct {
		file   string
		hosts  int
		before func(t *testing.T, l *lab.Lab)
		// addresses that one host has, by the instance that it is master of
		want   map[string][]string
		master string // who has them, "" for anybody
	}{
		{file: "vrrpd.conf.example", hosts: 2, want: map[string][]string{"VI_1": {"10.77.0.100"}}, master: "n1"},
		{file: "unicast/vrrpd.conf", hosts: 3, want: map[string][]string{"VI_1": {"10.77.0.100"}}, master: "n1"},
		{file: "ipv6/vrrpd.conf", hosts: 2, want: map[string][]string{"VI_6": {"fe80::77:100", "2001:db8:77::100", "10.77.0.100"}}, master: "n1", before: func(t *testing.T, l *lab.Lab) {
			run(t, l.Client(), "ip", "-6", "route", "add", "2001:db8:77::/64", "dev", "eth0")
		}},
		{file: "gateway-ping/vrrpd.conf", hosts: 2, want: map[string][]string{"VI_1": {"10.77.0.100"}}, master: "n1", before: func(t *testing.T, l *lab.Lab) {
			run(t, l.Client(), "ip", "addr", "add", "10.77.0.254/24", "dev", "eth0")
		}},
		{file: "two-node-async/vrrpd.conf", hosts: 2, want: map[string][]string{"VI_PG": {"10.77.0.100"}}},
		{file: "three-node-sync/vrrpd.conf", hosts: 3, want: map[string][]string{"VI_PG": {"10.77.0.100"}}},
		{file: "read-only-vip/vrrpd.conf", hosts: 3, want: map[string][]string{"VI_PG": {"10.77.0.100"}, "VI_READ": {"10.77.0.101"}}},
	}
	for _, tt := range tests {
		t.Run(strings.TrimSuffix(tt.file, "/vrrpd.conf"), func(t *testing.T) {
			l := newLab(t, tt.hosts, stub)
			text := sampleFile(t, filepath.Dir(tt.file), filepath.Base(tt.file))
			if tt.before != nil {
				tt.before(t, l)
			}
			for _, h := range l.Hosts() {
				writeFile(t, h, vrrpdConf, text, 0o644)
				if res := try(t, h, "vrrpd", "check", "-f", vrrpdConf, "--strict"); res.Code != 0 {
					t.Errorf("check --strict on %s: exit code %d: %s", h.Name(), res.Code, res.Stdout)
				}
			}
			// Together, as after a power cut; the election decides.
			watch, begin := watchHoldings(t, l), time.Now()
			for k, h := range l.Hosts() {
				spawn(t, h, "vrrpd", lab.Command{Argv: vrrpdRun()})
				if k == 0 && tt.master != "" {
					time.Sleep(time.Second) // they are nopreempt: the 0.2 s between the priorities are less than a busy machine's delays
				}
			}
			for _, h := range l.Hosts() {
				waitAnswers(t, h, h.Proc("vrrpd"))
			}
			elected := func(except string) string {
				t.Helper()
				master := ""
				for name, addrs := range tt.want {
					eventually(t, patience, name+" has one master", func() (bool, string) {
						masters, backups := []string{}, 0
						for _, h := range l.Hosts() {
							if h.Name() == except {
								continue
							}
							switch instance(t, h, name).State {
							case control.StateMaster:
								masters = append(masters, h.Name())
							case control.StateBackup:
								backups++
							}
						}
						if len(masters) == 1 {
							master = masters[0]
						}
						up := len(l.Hosts())
						if except != "" {
							up--
						}
						return len(masters) == 1 && backups == up-1, fmt.Sprintf("masters %v, %d backups", masters, backups)
					})
					for _, a := range addrs {
						waitHolder(t, l, netip.MustParseAddr(a), master)
					}
				}
				return master
			}
			got := elected("")
			if tt.master != "" && got != tt.master {
				t.Errorf("the master is %s, want %s", got, tt.master)
			}
			var addrs []netip.Addr
			for _, list := range tt.want {
				for _, a := range list {
					addrs = append(addrs, netip.MustParseAddr(a))
				}
			}
			// Once more with the master gone, for the samples that wait no longer than the tests may.
			if tt.master == "" {
				watch.died(got, powerLoss(t, l.Host(got)))
				elected(got)
			}
			if two := watch.overlaps(t, addrs, begin, handOver); len(two) > 0 {
				t.Errorf("two holders: %v", two)
			}
		})
	}
}

// Two hundred and fifty instances on one interface start, elect, fail over and come back.
func TestVRRPManyInstances(t *testing.T) {
	const count = 250
	l := newLab(t, 2)
	n1, n2 := l.Host("n1"), l.Host("n2")
	vip := func(k int) netip.Addr { return netip.AddrFrom4([4]byte{10, 77, 1, byte(k)}) }
	text := func(priority int) string {
		var blocks []fmt.Stringer
		for k := 1; k <= count; k++ {
			blocks = append(blocks, router{VRID: k, Priority: priority, Interval: "0.5", VIPs: []string{vip(k).String() + "/32"}})
		}
		return file("", blocks...)
	}
	// allOn waits until a host has every address and the other none.
	allOn := func(what, host string) {
		t.Helper()
		start := time.Now()
		eventually(t, 2*patience, what, func() (bool, string) {
			has := map[string]int{}
			for _, h := range l.Hosts() {
				all, err := kernelAddresses(h)
				if err != nil {
					continue
				}
				for _, p := range all["eth0"] {
					if a := p.Addr(); a.Is4() && a.As4()[2] == 1 {
						has[h.Name()]++
					}
				}
			}
			return has[host] == count && len(has) == 1, fmt.Sprint(has)
		})
		for _, k := range []int{1, count / 2, count} {
			if got := whoAnswers(t, l, vip(k)); got != host {
				t.Errorf("%s: %s answers for %s", what, got, vip(k))
			}
		}
		t.Logf("%s: after %s (%s)", what, time.Since(start).Round(time.Millisecond), lab.ReadLoad())
	}
	watch, begin := watchHoldings(t, l), time.Now()
	startVrrpd(t, n1, text(150))
	startVrrpd(t, n2, text(100))
	allOn("n1 is elected", "n1")
	watch.died("n1", powerLoss(t, n1))
	allOn("n1 dies", "n2")
	boot(t, n1)
	watch.watch(t, n1)
	startVrrpd(t, n1, text(150))
	allOn("n1 preempts", "n1")
	// A reload that changes one of them leaves the others alone.
	before := status(t, n1)
	mustReload(t, n1, strings.Replace(text(150), "priority 150", "priority 151", 1))
	for k, i := range status(t, n1).Instances {
		if i.Seq != before.Instances[k].Seq {
			t.Errorf("reload: %s, then %s", describe(before.Instances[k]), describe(i))
		}
	}
	took := stop(t, n1, "vrrpd", endTime)
	allOn("n1 is stopped", "n2")
	t.Logf("stopped in %s", took.Round(time.Millisecond))
	var addrs []netip.Addr
	for k := 1; k <= count; k++ {
		addrs = append(addrs, vip(k))
	}
	if two := watch.overlaps(t, addrs, begin, handOver); len(two) > 0 {
		t.Errorf("two holders: %v", two)
	}
	for _, i := range status(t, n2).Instances {
		if i.Counters.Overruns > 0 || i.Counters.SendErrors > 0 {
			t.Errorf("%s: %d overruns, %d send errors", i.Name, i.Counters.Overruns, i.Counters.SendErrors)
		}
	}
	stop(t, n2, "vrrpd", endTime)
}
