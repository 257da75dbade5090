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

// halt takes the power of hosts at once, without which no majority is left: nobody answers until one of them is back, which is
// the first. It returns the next holder.
func (a *assembly) halt(hosts ...string) string {
	a.t.Helper()
	a.whole()
	at := a.off(hosts...)
	a.silent(at, time.Second)
	for _, name := range a.running() {
		a.blocked(name, fmt.Sprintf("no leader of the log: %d of %d votes are needed", a.votes()/2+1, a.votes()))
	}
	since := lab.ReadLoad()
	a.back(hosts[0])
	next := a.next(time.Now(), since, "nobody")
	a.back(hosts[1:]...)
	a.unmoved(next)
	return next
}

// Three data nodes and one witness with two votes.
func TestQuorumWitnessOfTwoVotes(t *testing.T) {
	t.Parallel()
	a := newAssembly(t, witnessOfTwoVotes(), assemblyOptions{})
	a.step("start", a.starts)
	a.step("power loss of the holder and a standby", func(*testing.T) { r := a.roles(); a.fall(r.holder, r.standbys[0]) })
	a.step("power loss of both standbys", func(*testing.T) { r := a.roles(); a.fall(r.standbys...) })
	a.step("power loss of the witness", func(*testing.T) { a.fall("w1") })
	a.step("power loss of the holder and the witness", func(*testing.T) { r := a.roles(); a.halt(r.holder, "w1") })
	a.step("power loss of the witness and a standby", func(*testing.T) { r := a.roles(); a.halt("w1", r.standbys[0]) })
	a.step("two data nodes one after the other", a.twoInTurn)
	if everyCase() {
		a.step("power loss of the witness and the holder", func(*testing.T) { r := a.roles(); a.halt("w1", r.holder) })
		a.step("power loss of a standby and the witness", func(*testing.T) { r := a.roles(); a.halt(r.standbys[1], "w1") })
		a.powerOutage()
	}
}

// Two data nodes and a witness.
func TestQuorumThreeVoters(t *testing.T) {
	t.Parallel()
	a := newAssembly(t, threeVoters(), assemblyOptions{})
	a.step("start", a.starts)
	a.step("power loss of the holder", func(*testing.T) { a.fall(a.roles().holder) })
	a.step("power loss of both data nodes", func(t *testing.T) {
		r := a.roles()
		if next := a.halt(r.standbys[0], r.holder); next != r.standbys[0] {
			t.Errorf("next holder: got %s, want %s, which came back first", next, r.standbys[0])
		}
	})
	a.step("power loss of the holder and the witness", func(t *testing.T) {
		r := a.roles()
		if next := a.halt("w1", r.holder); next != r.standbys[0] {
			t.Errorf("next holder: got %s, want %s", next, r.standbys[0])
		}
	})
	a.step("power loss of the standby and the witness", func(*testing.T) { r := a.roles(); a.halt(r.standbys[0], "w1") })
	a.step("the standby, then the witness", func(t *testing.T) {
		r := a.roles()
		a.off(r.standbys[0])
		a.left(r.holder)
		at := a.off("w1")
		a.stays(r.holder, at, 1500*time.Millisecond)
		at = time.Now()
		signal(t, a.host(r.holder), "vrrpd", syscall.SIGTERM) // a restart needs a majority
		waitEnd(t, a.host(r.holder), "vrrpd", at, leaveEnd)
		a.start(r.holder)
		a.silent(time.Now(), time.Second)
		since := lab.ReadLoad()
		a.back(r.standbys[0])
		if next := a.next(time.Now(), since, "nobody"); next != r.holder {
			t.Errorf("next holder: got %s, want %s, which the rule names alone", next, r.holder)
		}
		a.back("w1")
		a.unmoved(r.holder)
	})
	a.step("the holder is cut off", func(t *testing.T) {
		holder, since, at := a.whole(), lab.ReadLoad(), time.Now()
		if err := a.l.Isolate([]string{holder}); err != nil {
			t.Fatal(err)
		}
		done := time.Now()
		next := a.next(at, since, holder)
		a.lapsed(holder, done)
		if err := a.l.Heal(); err != nil {
			t.Fatal(err)
		}
		a.unmoved(next)
	})
	a.powerOutage()
	a.policies()
	a.guards()
}

// policies are what a holder without a majority does, but freeze.
func (a *assembly) policies() {
	// The standby dies and is out of the rule: under freeze the holder would go on without the witness.
	lose := func() (holder string, at time.Time) {
		a.t.Helper()
		r := a.roles()
		a.off(r.standbys[0])
		a.pause(1500 * time.Millisecond)
		at = a.off("w1")
		a.silent(at, 500*time.Millisecond)
		return r.holder, at
	}
	a.step("no_quorum_policy stop", func(t *testing.T) {
		a.reconfigure(assemblyOptions{lines: []string{"no_quorum_policy stop"}})
		holder, _ := lose()
		waitState(t, a.host(holder), "VI_51", control.StateBackup)
		since := lab.ReadLoad()
		a.back("w1")
		a.next(time.Now(), since, "nobody")
		a.back(without(a.dataNodes(), holder)...)
		a.whole()
	})
	a.step("no_quorum_policy suicide", func(t *testing.T) {
		const told = "/run/suicide"
		command := "/etc/vrrpd/reboot"
		for _, name := range a.dataNodes() {
			writeFile(t, a.host(name), command, shebang+"echo \"$(id -un) $*\" >> "+told+"\n", 0o755)
		}
		a.reconfigure(assemblyOptions{lines: []string{"no_quorum_policy suicide", `reboot_command "` + command + ` now"`}})
		holder, _ := lose()
		eventually(t, patience, "reboot_command runs", func() (bool, string) {
			got := readFile(a.host(holder), told)
			return strings.Contains(got, "root now"), got
		})
		a.back("w1")
		a.back(without(a.dataNodes(), holder)...)
		a.whole()
		if got := readFile(a.host(holder), told); got != "root now\n" {
			t.Errorf("reboot_command: got %q, want it once", got)
		}
		// Neither a stop nor a release is the loss of a majority.
		for _, name := range a.dataNodes() {
			run(t, a.host(name), "/usr/bin/rm", "-f", told)
		}
		next := a.whole()
		at := time.Now()
		signal(t, a.host(next), "vrrpd", syscall.SIGTERM)
		waitEnd(t, a.host(next), "vrrpd", at, leaveEnd)
		a.start(next)
		a.whole()
		for _, name := range a.dataNodes() {
			if got := readFile(a.host(name), told); got != "" {
				t.Errorf("%s: reboot_command ran at a stop: %q", name, got)
			}
		}
	})
}

// guards are the ways to shut an address but nftables.
func (a *assembly) guards() {
	// The last answer of a stopped holder, and who is next.
	freeze := func() (holder, next string, late time.Duration) {
		a.t.Helper()
		holder = a.whole()
		since, at := lab.ReadLoad(), time.Now()
		signal(a.t, a.host(holder), "vrrpd", syscall.SIGSTOP)
		first, err := a.probe.WaitForOther(within(a.t, patience), []string{holder}, at)
		if err != nil {
			a.t.Fatal(err)
		}
		last, _ := a.probe.Last(time.Time{}, holder)
		now := lab.ReadLoad()
		a.t.Logf("%s answered for %d ms more, %s answers %d ms after the stop; %s, stalled %.0f %%", holder, last.At.Sub(at).Milliseconds(), first.Who(), first.At.Sub(at).Milliseconds(), now, now.StalledSince(since))
		signal(a.t, a.host(holder), "vrrpd", syscall.SIGCONT)
		return holder, first.Who(), last.At.Sub(at)
	}
	loud := func(kind string) {
		a.t.Helper()
		for _, name := range a.dataNodes() {
			q := a.ask(name)
			if q.Guard != kind || !slices.ContainsFunc(q.Trouble, func(x string) bool { return strings.Contains(x, "guard "+kind) }) {
				a.t.Errorf("%s: got guard %s, trouble %q, want it to say what guard %s means", name, q.Guard, q.Trouble, kind)
			}
			if out := run(a.t, a.host(name), "vrrpd", "status"); !strings.Contains(out, "! guard "+kind) {
				a.t.Errorf("%s: status is silent on the guard:\n%s", name, out)
			}
		}
	}
	a.step("guard lifetime", func(t *testing.T) {
		a.reconfigure(assemblyOptions{lines: []string{"guard lifetime"}})
		loud("lifetime")
		_, next, late := freeze()
		if late < leaseTime || late > leaseTime+2300*time.Millisecond {
			t.Errorf("a stopped holder answered for %s, want it to end by the kernel's lifetime", late)
		}
		a.unmoved(next)
		since, at := lab.ReadLoad(), a.off(next)
		a.next(at, since, next)
		a.back(next)
		a.whole()
	})
	a.step("guard none", func(t *testing.T) {
		a.reconfigure(assemblyOptions{lines: []string{"guard none"}})
		loud("none")
		holder, since := a.whole(), lab.ReadLoad()
		at := a.off(holder)
		a.next(at, since, holder)
		a.back(holder)
		a.whole()
		if tables := run(t, a.host(holder), "nft", "list", "tables"); strings.Contains(tables, "vrrpd") {
			t.Errorf("there is a guard: %q", tables)
		}
	})
}

// A long partition, of instances with and without nopreempt: who got the address in it keeps it when it heals.
func TestQuorumPartition(t *testing.T) {
	t.Parallel()
	pair := func(_ string, priority int) []fmt.Stringer {
		return []fmt.Stringer{
			fast(priority, "nopreempt", "quorum vip"),
			router{VRID: 52, Interval: "0.1", VIPs: []string{lab.VIP(2).String() + "/24"}}.with(priority, "quorum web"),
			router{VRID: 53, Interval: "1", VIPs: []string{lab.VIP(3).String() + "/24"}}.with(priority, "quorum far", "preempt_delay 1"),
		}
	}
	a := newAssembly(t, threeVoters(), assemblyOptions{resources: []string{"vip plain", "web plain", "far plain"}, instances: pair})
	var others []*lab.Probe
	for _, vip := range []netip.Addr{lab.VIP(2), lab.VIP(3)} {
		p, err := a.l.ProbeEach(vip, 2*time.Millisecond, a.dataNodes()...)
		if err != nil {
			t.Fatal(err)
		}
		others = append(others, p)
	}
	all := func(host string) {
		t.Helper()
		for k := 1; k <= 3; k++ {
			waitHolder(t, a.l, lab.VIP(k), host)
		}
	}
	a.begin()
	for k, name := range []string{"VI_51", "VI_52", "VI_53"} {
		vip := lab.VIP(k + 1)
		eventually(t, patience, vip.String()+" is up", func() (bool, string) {
			on := holders(a.l, vip)
			return len(on) == 1, fmt.Sprint(on)
		})
		if holds(a.host("n2"), vip) { // its disk was faster
			run(t, a.host("n2"), "vrrpd", "release", name, "--for", "1s")
		}
	}
	all("n1")
	a.whole()
	since, at := lab.ReadLoad(), time.Now()
	if err := a.l.Isolate([]string{"n1"}); err != nil {
		t.Fatal(err)
	}
	done := time.Now()
	a.next(at, since, "n1")
	a.lapsed("n1", done)
	constantly(t, time.Until(at.Add(time.Minute)), "n2 alone answers", func() (bool, string) {
		who := a.answering()
		return who == "n2" || who == "n1" && time.Since(at) < time.Second || who == "" && time.Since(at) < takeover, who
	})
	before := instance(t, a.host("n2"), "VI_52").Seq
	if err := a.l.Heal(); err != nil {
		t.Fatal(err)
	}
	a.unmovedOne("n2")
	at = time.Now()
	a.stays("n2", at, 3*time.Second)
	all("n2")
	if after := instance(t, a.host("n2"), "VI_52"); after.Seq != before {
		t.Errorf("the heal disturbed n2: %+v", after.Transitions)
	}
	for _, p := range others {
		if r, err := p.Report(); err != nil || len(r.Double) > 0 {
			t.Errorf("two hosts answered at once: %+v, %v", r.Double, err)
		}
	}
}

// unmovedOne is unmoved for files without a second instance of the resource.
func (a *assembly) unmovedOne(holder string) {
	a.t.Helper()
	if got := a.whole(); got != holder {
		a.t.Errorf("holder: got %s, want %s", got, holder)
	}
}
