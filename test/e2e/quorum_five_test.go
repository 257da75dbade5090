//go:build e2e

package e2e

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"pgvrrp/internal/control"
	"pgvrrp/test/lab"
)

// everyCase reports whether all is wanted, and not only what differs in kind.
func everyCase() bool { return os.Getenv("PGVRRP_ALL") != "" }

// Three data nodes and two witnesses: any two hosts may fail at once, and the third after them.
func TestQuorumFiveVoters(t *testing.T) {
	t.Parallel()
	a := newAssembly(t, fiveVoters(), assemblyOptions{})
	a.step("start", a.starts)
	a.oneFails()
	a.linksFail()
	a.moves()
	a.pairsFailFive()
	a.step("two data nodes one after the other", a.twoInTurn)
	a.step("one after the other until the last data node is alone", a.theLast)
	a.step("frozen by the standby that is left", a.frozen)
	a.step("a dead standby that is still in the rule", a.notFrozen)
	a.powerOutage()
}

func (a *assembly) starts(t *testing.T) {
	holder := a.begin() // mostly n1, whose priority is the highest; if its disk writes the promise in time
	waitHolder(t, a.l, a.vip, holder)
	waitHolder(t, a.l, lab.VIP(2), holder)
	run(t, a.l.Client(), "ping", "-n", "-c", "2", "-i", "0.05", "-W", "1", a.vip.String())
	for _, name := range a.names() {
		h := a.host(name)
		var q control.Quorum
		if err := json.Unmarshal([]byte(run(t, h, "vrrpd", "quorum", "status", "--json")), &q); err != nil || q.Node != name || q.Witness != a.voter(name).witness {
			t.Errorf("%s: quorum status --json: got node %q, witness %t, %v", name, q.Node, q.Witness, err)
		}
		for _, words := range []string{holder, "active", fmt.Sprintf("%d of %d votes needed", a.votes()/2+1, a.votes())} {
			if out := run(t, h, "vrrpd", "status"); !strings.Contains(out, words) {
				t.Errorf("%s: status does not say %q:\n%s", name, words, out)
			}
		}
		if !q.Witness {
			if q.Guard != "nftables" || q.GuardError != "" {
				t.Errorf("%s: got guard %s (%s)", name, q.Guard, q.GuardError)
			}
			eventually(t, patience, name+" knows of no trouble", func() (bool, string) {
				q := a.ask(name)
				return q != nil && len(q.Trouble) == 0, fmt.Sprintf("%+v", q)
			})
			continue
		}
		process := readFile(h, fmt.Sprintf("/proc/%d/status", h.Proc("vrrpd").PID()))
		if !strings.Contains(process, "CapEff:\t0000000000000000") || strings.Contains(process, "Uid:\t0\t") {
			t.Errorf("%s: the witness has privileges:\n%s", name, process)
		}
	}
}

// oneFails are the ends of the holder and of the leader of the log, alone and together.
func (a *assembly) oneFails() {
	a.step("the holder is killed", func(t *testing.T) {
		holder, since := a.whole(), lab.ReadLoad()
		at := a.killed(holder)
		next := a.next(at, since, holder)
		a.lapsed(holder, at)
		h := a.host(holder)
		tables := func() string { return run(t, h, "nft", "list", "tables") }
		if !strings.Contains(tables(), "vrrpd") {
			t.Errorf("the guard of a killed vrrpd is gone: %q", tables())
		}
		out := run(t, h, "vrrpd", "cleanup", "-f", vrrpdConf)
		if strings.Contains(tables(), "vrrpd") || holds(h, a.vip) || holds(h, lab.VIP(2)) {
			t.Errorf("after cleanup (%q): tables %q, the host holds %t %t", out, tables(), holds(h, a.vip), holds(h, lab.VIP(2)))
		}
		a.start(holder)
		a.unmoved(next)
	})
	a.step("the holder is killed and started at once", func(t *testing.T) {
		holder := a.whole()
		before, at := a.resource(holder, "vip").Epoch, time.Now()
		a.killed(holder)
		a.start(holder)
		// An epoch is never resumed; but the new run gives the old one's back, so that nobody waits for its lease.
		next := ""
		eventually(t, patience, "another epoch is active", func() (bool, string) {
			for _, name := range a.dataNodes() {
				if q := a.ask(name); q != nil && q.Resources[0].Live && q.Resources[0].Epoch > before {
					next = name
				}
			}
			return next != "", "nobody is live"
		})
		first, err := a.probe.WaitFor(within(t, patience), next, at)
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%s holds, and answered first %d ms after the end of %s", next, first.At.Sub(at).Milliseconds(), holder)
		a.unmoved(next)
	})
	a.step("power loss of the holder", func(*testing.T) {
		holder, since := a.whole(), lab.ReadLoad()
		at := a.off(holder)
		next := a.next(at, since, holder)
		a.back(holder)
		a.unmoved(next)
	})
	a.step("the holder stands still", a.standsStill)
	a.step("the leader of the log is killed", func(*testing.T) {
		r, at := a.roles(), time.Now()
		a.killed(r.leader)
		a.stays(r.holder, at, time.Second)
		a.start(r.leader)
		a.unmoved(r.holder)
	})
	a.step("power loss of the leader of the log", func(*testing.T) {
		r := a.roles()
		at := a.off(r.leader)
		a.stays(r.holder, at, time.Second)
		a.back(r.leader)
		a.unmoved(r.holder)
	})
	a.step("power loss of the holder and of the leader of the log", func(*testing.T) {
		r, since := a.witnessLeads(), lab.ReadLoad()
		at := a.off(r.holder, r.leader)
		next := a.next(at, since, r.holder)
		a.back(r.holder, r.leader)
		a.unmoved(next)
	})
	a.step("the holder and the leader of the log are killed", func(*testing.T) {
		r, since := a.roles(), lab.ReadLoad()
		at := a.killed(r.holder, r.leader)
		next := a.next(at, since, r.holder)
		a.start(r.holder, r.leader)
		a.unmoved(next)
	})
}

// unmoved waits until all is well again, with the same holder: the epoch decides, not who comes back.
func (a *assembly) unmoved(holder string) {
	a.t.Helper()
	if got := a.whole(); got != holder {
		a.t.Errorf("holder: got %s, want %s", got, holder)
	}
	if got := whoAnswers(a.t, a.l, lab.VIP(2)); got != holder {
		a.t.Errorf("the second instance of the resource: got %s, want %s", got, holder)
	}
}

// standsStill stops the holder's vrrpd for a while: the kernel shuts the address without it.
func (a *assembly) standsStill(t *testing.T) {
	holder := a.whole()
	h, client := a.host(holder), a.l.Client()
	c, err := a.l.Capture(lab.CaptureOptions{All: true})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	// Not only ARP: packets, too, to a client that keeps the holder's hardware address.
	run(t, client, "ip", "neigh", "replace", a.vip.String(), "lladdr", h.MAC(lab.LAN).String(), "nud", "permanent", "dev", "eth0")
	defer run(t, client, "ip", "neigh", "del", a.vip.String(), "dev", "eth0")
	ping := spawn(t, client, "ping", lab.Command{Argv: []string{"ping", "-n", "-i", "0.01", "-w", "2", a.vip.String()}})
	before := strings.Count(logOf(t, ping), "bytes from")
	eventually(t, patience, "the address answers to ping", func() (bool, string) {
		return strings.Count(logOf(t, ping), "bytes from") > before+10, logOf(t, ping)
	})
	since, at := lab.ReadLoad(), time.Now()
	signal(t, h, "vrrpd", syscall.SIGSTOP)
	next := a.next(at, since, holder)
	renewed, ok := c.Last(time.Time{}, func(f *lab.Frame) bool { return f.Host == holder && isRenewal(f) })
	if !ok {
		t.Fatal("no renewal was captured")
	}
	a.lapsed(holder, renewed.At)
	if _, err := ping.Wait(within(t, patience)); err != nil {
		t.Fatal(err)
	}
	reply, ok := c.Last(time.Time{}, func(f *lab.Frame) bool { // with the kernel's time, unlike what ping prints
		return f.Host == holder && f.Protocol == syscall.IPPROTO_ICMP && len(f.Raw) > 34 && f.Raw[34] == 0
	})
	if late := reply.At.Sub(renewed.At); !ok || late > leaseTime+kernelLag {
		t.Errorf("packets were answered for %s after the last renewal, want at most %s", late, leaseTime+kernelLag)
	} else {
		t.Logf("packets were answered for %d ms after the last renewal, which came %d ms before the stop", late.Milliseconds(), at.Sub(renewed.At).Milliseconds())
	}
	constantly(t, time.Until(at.Add(10*time.Second)), "the next one answers", func() (bool, string) {
		who := a.answering()
		return who == next, who
	})
	signal(t, h, "vrrpd", syscall.SIGCONT)
	waitState(t, h, "VI_51", control.StateBackup)
	a.unmoved(next)
}

// isRenewal reports whether a frame is a datagram by which a holder renews its lease.
func isRenewal(f *lab.Frame) bool {
	const headers, fixed = 14 + 20 + 8, 64
	b := f.Raw
	if f.Protocol != syscall.IPPROTO_UDP || len(b) < headers+fixed || string(b[headers:headers+4]) != "vrqd" || b[headers+5] != 0 {
		return false
	}
	b = b[headers+fixed:]
	for range 3 { // from, incarnation, to
		if len(b) < 1 || len(b) < 1+int(b[0]) {
			return false
		}
		b = b[1+b[0]:]
	}
	return len(b) > 2 && binary.BigEndian.Uint16(b) > 0 && b[2] == 1
}

// linksFail are cuts.
func (a *assembly) linksFail() {
	var done time.Time // since when the cut is in force
	cut := func(f func(holder string) error) (holder string, at time.Time, since lab.Load) {
		a.t.Helper()
		holder, since = a.whole(), lab.ReadLoad()
		at = time.Now()
		if err := f(holder); err != nil {
			a.t.Fatal(err)
		}
		done = time.Now()
		return holder, at, since
	}
	heal := func() {
		a.t.Helper()
		if err := a.l.Heal(); err != nil {
			a.t.Fatal(err)
		}
	}
	minority := map[string]func(holder string) error{
		"the holder is cut off":          func(h string) error { return a.l.Isolate([]string{h}) },
		"the holder hears nobody":        func(h string) error { return a.l.CutOneWay(a.l.Names(h), []string{h}) },
		"nobody hears the holder":        func(h string) error { return a.l.CutOneWay([]string{h}, a.l.Names(h)) },
		"the holder with one witness":    func(h string) error { return a.l.Isolate([]string{h, "w1"}) },
		"the holder's cables are pulled": func(h string) error { return a.host(h).CutLinks() },
	}
	for _, name := range []string{"the holder is cut off", "the holder hears nobody", "nobody hears the holder", "the holder with one witness", "the holder's cables are pulled"} {
		a.step(name, func(*testing.T) {
			holder, at, since := cut(minority[name])
			next := a.next(at, since, holder)
			a.lapsed(holder, done)
			heal()
			if err := a.host(holder).HealLinks(); err != nil {
				a.t.Fatal(err)
			}
			a.unmoved(next)
		})
	}
	a.step("the interconnect is cut", func(t *testing.T) {
		holder, at, _ := cut(func(string) error {
			for _, h := range a.l.Hosts() {
				if err := h.CutLinks(lab.Interconnect); err != nil {
					return err
				}
			}
			return nil
		})
		a.stays(holder, at, 1500*time.Millisecond)
		if q := a.ask(holder); q == nil || !strings.Contains(fmt.Sprint(q.Trouble), "is down") {
			t.Errorf("status does not tell that links are down: %+v", q)
		}
		for _, h := range a.l.Hosts() {
			if err := h.HealLinks(lab.Interconnect); err != nil {
				t.Fatal(err)
			}
		}
		a.unmoved(holder)
	})
	a.step("the service LAN of the holder is cut", func(t *testing.T) {
		holder, at, since := cut(func(h string) error { return a.host(h).CutLinks(lab.LAN) })
		next := a.next(at, since, holder)
		waitState(t, a.host(holder), "VI_51", control.StateFault)
		if r := a.resource(holder, "vip"); r.Eligible || r.Ineligible == "" {
			t.Errorf("%s: got eligible %t (%s), want why not", holder, r.Eligible, r.Ineligible)
		}
		if err := a.host(holder).HealLinks(lab.LAN); err != nil {
			t.Fatal(err)
		}
		a.unmoved(next)
	})
	a.step("the holder hears witnesses alone", func(t *testing.T) {
		holder, at, _ := cut(func(h string) error { return a.l.Partition([]string{h}, without(a.dataNodes(), h)) })
		a.stays(holder, at, 1500*time.Millisecond)
		heal()
		a.unmoved(holder)
	})
	a.step("the holder and the leader of the log don't hear each other", func(t *testing.T) {
		r := a.roles()
		holder, at, _ := cut(func(h string) error { return a.l.Partition([]string{h}, []string{r.leader}) })
		a.stays(holder, at, 1500*time.Millisecond)
		heal()
		a.unmoved(holder)
	})
	a.step("the cut flaps", func(t *testing.T) {
		rounds := 8
		if everyCase() {
			rounds = 60
		}
		for n := range rounds {
			holder := a.answering()
			if holder == "" {
				holder = a.dataNodes()[n%3]
			}
			if err := a.l.Isolate([]string{holder}); err != nil {
				t.Fatal(err)
			}
			a.pause(time.Duration(100+137*n%600) * time.Millisecond)
			heal()
			a.pause(time.Duration(50+211*n%400) * time.Millisecond)
		}
		a.whole()
	})
}

// pause lets time pass in which an outage lasts.
func (a *assembly) pause(d time.Duration) {
	select {
	case <-time.After(d):
	case <-a.t.Context().Done():
	}
}

// moves are what an operator or a check does.
func (a *assembly) moves() {
	moved := func(holder, next string, before uint64) {
		a.t.Helper()
		if after := a.resource(next, "vip").Epoch; after <= before { // more than one if the first grantee's disk was too slow
			a.t.Errorf("epoch: got %d after %d, want a later one", after, before)
		}
		if got := whoAnswers(a.t, a.l, lab.VIP(2)); got != next {
			a.t.Errorf("the second instance of the resource: got %s, want %s", got, next)
		}
	}
	a.step("release", func(t *testing.T) {
		holder, since := a.whole(), lab.ReadLoad()
		before, at := a.resource(holder, "vip").Epoch, time.Now()
		run(t, a.host(holder), "vrrpd", "release", "VI_52", "--for", "2s")
		next := a.next(at, since, holder)
		a.unmoved(next)
		moved(holder, next, before)
	})
	a.step("SIGTERM", func(t *testing.T) {
		holder, since := a.whole(), lab.ReadLoad()
		before, at := a.resource(holder, "vip").Epoch, time.Now()
		signal(t, a.host(holder), "vrrpd", syscall.SIGTERM)
		t.Logf("vrrpd ended after %d ms", waitEnd(t, a.host(holder), "vrrpd", at, leaveEnd).Milliseconds())
		next := a.next(at, since, holder)
		if tables := run(t, a.host(holder), "nft", "list", "tables"); strings.Contains(tables, "vrrpd") || holds(a.host(holder), a.vip) {
			t.Errorf("left behind: tables %q, address %t", tables, holds(a.host(holder), a.vip))
		}
		a.start(holder)
		a.unmoved(next)
		moved(holder, next, before)
	})
	a.step("reload", func(t *testing.T) {
		holder, at := a.whole(), time.Now()
		before := a.resource(holder, "vip").Epoch
		changed := a.o
		changed.instances = twins("nopreempt", "garp_master_refresh 60")
		former := a.o
		a.o = changed
		for _, name := range a.names() {
			mustReload(t, a.host(name), a.config(name))
		}
		a.stays(holder, at, 500*time.Millisecond)
		a.o = former
		for _, name := range a.names() {
			mustReload(t, a.host(name), a.config(name))
		}
		a.unmoved(holder)
		if after := a.resource(holder, "vip").Epoch; after != before {
			t.Errorf("epoch: got %d after %d", after, before)
		}
	})
	a.step("a check fails", func(t *testing.T) {
		holder, since := a.whole(), lab.ReadLoad()
		before, at := a.resource(holder, "vip").Epoch, time.Now()
		writeFile(t, a.host(holder), badFile, "", 0o644)
		next := a.next(at, since, holder)
		waitState(t, a.host(holder), "VI_51", control.StateFault)
		r := a.resource(holder, "vip")
		if r.Eligible || !strings.Contains(r.Ineligible, "good") {
			t.Errorf("%s: got eligible %t (%s), want the check's name", holder, r.Eligible, r.Ineligible)
		}
		run(t, a.host(holder), "/usr/bin/rm", badFile)
		a.unmoved(next)
		moved(holder, next, before)
	})
}

// fall takes the power of hosts at once, of which one may hold, and waits for what follows: somebody of the rule goes on.
func (a *assembly) fall(hosts ...string) {
	a.t.Helper()
	holder, since := a.whole(), lab.ReadLoad()
	at := a.off(hosts...)
	next := holder
	if slices.Contains(hosts, holder) {
		next = a.next(at, since, holder)
		at = time.Now()
	}
	if slices.Contains(hosts, next) {
		a.t.Fatalf("%s answers without power", next)
	}
	a.stays(next, at, time.Second)
	a.back(hosts...)
	a.unmoved(next)
}

// pairsFailFive takes every pair of hosts, whatever they are at that time.
func (a *assembly) pairsFailFive() {
	names := a.names()
	for i, one := range names {
		for _, other := range names[i+1:] {
			a.step("power loss of "+one+" and "+other, func(*testing.T) { a.fall(one, other) })
		}
	}
}

// left waits until the rule names the holder and these, and nobody else.
func (a *assembly) left(holder string, standbys ...string) {
	a.t.Helper()
	eventually(a.t, patience, fmt.Sprintf("the rule is %s with %v", holder, standbys), func() (bool, string) {
		r := a.resource(holder, "vip")
		slices.Sort(r.Rule.S)
		return r.Live && r.Rule.Holder == holder && slices.Equal(append([]string{}, r.Rule.S...), append([]string{}, standbys...)), fmt.Sprintf("%+v", r)
	})
}

// outvoted waits until the membership has so many votes.
func (a *assembly) outvoted(at string, votes int) {
	a.t.Helper()
	eventually(a.t, patience, fmt.Sprintf("%d votes", votes), func() (bool, string) {
		q := a.ask(at)
		return q != nil && q.Votes == votes, fmt.Sprintf("%+v", q)
	})
}

// twoInTurn takes the power of two holders, the second when the rule names the last data node alone.
func (a *assembly) twoInTurn(*testing.T) {
	r, since := a.roles(), lab.ReadLoad()
	second := a.next(a.off(r.holder), since, r.holder)
	third := without(r.standbys, second)[0]
	a.left(second, third)
	since = lab.ReadLoad()
	if got := a.next(a.off(second), since, second, r.holder); got != third {
		a.t.Fatalf("third holder: got %s, want %s", got, third)
	}
	a.left(third)
	a.back(second, r.holder)
	a.unmoved(third)
}

// theLast takes one host after the other until the holder is the only one left, which goes on; but not after a restart.
func (a *assembly) theLast(t *testing.T) {
	r := a.roles()
	for k, name := range r.standbys {
		a.off(name)
		a.left(r.holder, r.standbys[k+1:]...)
	}
	a.outvoted(r.holder, 3)
	at := time.Now()
	for _, name := range a.witnesses() {
		a.off(name)
		a.stays(r.holder, at, 1200*time.Millisecond)
	}
	if x := a.resource(r.holder, "vip"); !x.Live || !strings.Contains(x.By, "frozen: alone") {
		t.Errorf("got live %t %s, want frozen and alone", x.Live, x.By)
	}
	at = a.killed(r.holder)
	a.start(r.holder)
	a.silent(at, time.Second)
	a.blocked(r.holder, "no leader of the log")
	a.back(a.witnesses()[0])
	since := lab.ReadLoad()
	a.next(time.Now(), since, "nobody")
	a.back(append(r.standbys, a.witnesses()[1])...)
	a.unmoved(r.holder)
}

// frozen keeps the holder without a majority while every node that could take over agrees.
func (a *assembly) frozen(t *testing.T) {
	r := a.roles()
	a.off(r.standbys[0])
	a.left(r.holder, r.standbys[1])
	at := a.off(a.witnesses()...)
	a.stays(r.holder, at, 2*time.Second)
	if x := a.resource(r.holder, "vip"); !x.Live || !strings.Contains(x.By, "frozen: by every node") {
		t.Errorf("got live %t %s, want frozen by the standby", x.Live, x.By)
	}
	at = a.killed(r.standbys[1])
	a.silent(at, time.Second)
	a.start(r.standbys[1])
	a.back(a.witnesses()[0])
	a.next(time.Now(), lab.ReadLoad(), "nobody")
	a.back(r.standbys[0], a.witnesses()[1])
	a.whole()
}

// notFrozen lets the holder stop when a node that could take over does not answer.
func (a *assembly) notFrozen(*testing.T) {
	r := a.roles()
	at := a.off(append(a.witnesses(), r.standbys[0])...)
	a.silent(at, time.Second)
	a.blocked(r.holder, "no leader of the log")
	a.back(a.witnesses()[0])
	a.next(time.Now(), lab.ReadLoad(), "nobody")
	a.back(r.standbys[0], a.witnesses()[1])
	a.whole()
}

// powerOutage takes every host at once; they come back in several orders.
func (a *assembly) powerOutage() {
	names := a.names()
	reversed := slices.Clone(names)
	slices.Reverse(reversed)
	var odd, even []string // every second one first
	for k, name := range names {
		if k%2 == 1 {
			odd = append(odd, name)
		} else {
			even = append(even, name)
		}
	}
	for k, order := range [][]string{names, reversed, append(odd, even...)} {
		a.step(fmt.Sprintf("everything loses power, order %d", k+1), func(*testing.T) {
			a.whole()
			at := a.off(names...)
			a.silent(at, 200*time.Millisecond)
			votes := 0
			for _, name := range order {
				a.back(name)
				if votes += max(1, a.voter(name).votes); votes <= a.votes()/2 {
					constantly(a.t, 150*time.Millisecond, "nobody answers before a majority is up", func() (bool, string) {
						who := a.answering()
						return who == "", who
					})
				}
				a.pause(100 * time.Millisecond)
			}
			a.whole()
		})
	}
}
