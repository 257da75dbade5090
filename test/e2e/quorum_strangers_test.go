//go:build e2e

package e2e

import (
	"crypto/rand"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"pgvrrp/internal/control"
	"pgvrrp/test/lab"
)

const quorumPort = 3741

// What a voter must not take for the word of another: garbage, what was said before, another key, another cluster, and a state
// directory that is not what it was.
func TestQuorumStrangers(t *testing.T) {
	t.Parallel()
	a := newAssembly(t, threeVoters(), assemblyOptions{
		resources: []string{"vip plain", "pg postgresql"},
		instances: func(name string, priority int) []fmt.Stringer {
			return append(twins("nopreempt")(name, priority), router{Name: "VI_PG", VRID: 60, Interval: "0.1", VIPs: []string{lab.VIP(5).String() + "/24"}}.with(priority, "quorum pg", `notify_master "/usr/bin/true" root`))
		},
	})
	a.step("start", a.starts)
	a.step("a PostgreSQL cluster without agents", a.noAgent)
	a.step("garbage", a.garbage)
	a.step("what was said before", a.replay)
	a.step("another key", a.otherKey)
	a.step("another cluster", a.otherCluster)
	a.step("a state directory from a backup", a.restored)
	a.step("an empty state directory", a.emptied)
	a.step("a full disk", a.fullDisk)
}

// noAgent is a resource of kind postgresql that nobody speaks for.
func (a *assembly) noAgent(t *testing.T) {
	holder := a.whole()
	for _, name := range a.dataNodes() {
		r := a.resource(name, "pg")
		if r.Eligible || !strings.Contains(r.Ineligible, "no agent is connected") || r.Epoch != 0 || r.Missing == "" {
			t.Errorf("%s: got %+v, want it not eligible for want of an agent, and what is missing", name, r)
		}
		if out := run(t, a.host(name), "vrrpd", "status"); !strings.Contains(out, "no agent is connected") || !strings.Contains(out, "pg waits: ") {
			t.Errorf("%s: status does not say so:\n%s", name, out)
		}
		if i := instance(t, a.host(name), "VI_PG"); i.State != control.StateBackup {
			t.Errorf("%s: got %s, want BACKUP", name, describe(i))
		}
	}
	t.Logf("%s: %s; %s", holder, a.resource(holder, "pg").Ineligible, a.resource(holder, "pg").Missing)
	if who := holders(a.l, lab.VIP(5)); len(who) > 0 {
		t.Errorf("%v have the address of the cluster", who)
	}
}

// says waits until a host's vrrpd has logged words since from.
func (a *assembly) says(name string, from int, words string) {
	a.t.Helper()
	p := a.host(name).Proc("vrrpd")
	eventually(a.t, patience, fmt.Sprintf("%s logs %q", name, words), func() (bool, string) {
		log := logOf(a.t, p)[from:]
		return strings.Contains(log, words), tail(log, 8)
	})
	for line := range strings.Lines(logOf(a.t, p)[from:]) {
		if strings.Contains(line, words) {
			a.t.Logf("%s: %s", name, strings.TrimSpace(line))
			return
		}
	}
}

// said is how much a host's vrrpd has logged.
func (a *assembly) said(name string) int { return len(logOf(a.t, a.host(name).Proc("vrrpd"))) }

// undisturbed checks that the same voters run, with the same holder in the same epoch.
func (a *assembly) undisturbed(holder string, since time.Time, epoch uint64, f func()) {
	a.t.Helper()
	pids := func() (all []int) {
		for _, name := range a.names() {
			all = append(all, a.host(name).Proc("vrrpd").PID())
		}
		return all
	}
	before := pids()
	f()
	a.stays(holder, since, 500*time.Millisecond)
	if len(a.running()) != len(a.names()) || !slices.Equal(before, pids()) {
		a.t.Fatalf("running: %v", a.running())
	}
	if got := a.whole(); got != holder {
		a.t.Errorf("holder: got %s, want %s", got, holder)
	}
	if got := a.resource(holder, "vip").Epoch; got != epoch {
		a.t.Errorf("epoch: got %d, want %d", got, epoch)
	}
}

// garbage comes to every port of every voter, from outside.
func (a *assembly) garbage(t *testing.T) {
	holder := a.whole()
	from := a.said(holder)
	client := a.l.Client()
	a.undisturbed(holder, time.Now(), a.resource(holder, "vip").Epoch, func() {
		for _, name := range a.names() {
			target := net.UDPAddrFromAddrPort(addrPort(a.host(name)))
			err := client.NetDo(func() error {
				c, err := net.DialUDP("udp", nil, target)
				if err != nil {
					return err
				}
				defer c.Close()
				for k := range 400 {
					b := make([]byte, (k*37)%1472)
					_, _ = rand.Read(b)
					if k%2 == 0 && len(b) > 6 {
						copy(b, "vrqd\x01\x00")
					}
					if _, err := c.Write(b); err != nil {
						return err
					}
				}
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			// Streams that never speak, and some that speak nonsense; more than a voter lets in at once.
			for k := range 80 {
				c, err := client.Dial(within(t, patience), "tcp", addrPort(a.host(name)).String())
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
				if k%2 == 0 {
					b := make([]byte, 64+k)
					_, _ = rand.Read(b)
					if k%4 == 0 {
						copy(b, "GET / HTTP/1.1\r\n\r\n")
					}
					_, _ = c.Write(b)
				}
			}
		}
		// A takeover meanwhile would be as fast as ever; the log's connections stand.
	})
	a.says(holder, from, "datagram is refused")
	a.says(holder, from, "connection is refused")
	if n := strings.Count(logOf(t, a.host(holder).Proc("vrrpd"))[from:], "is refused"); n > 100 {
		t.Errorf("%d lines of log for garbage", n)
	}
	next := holder
	since, at := lab.ReadLoad(), a.killed(holder)
	next = a.next(at, since, next)
	a.start(holder)
	a.unmoved(next)
}

// replay sends what the voters said to each other again, from another host, as it was.
func (a *assembly) replay(t *testing.T) {
	holder := a.whole()
	record := func() []lab.Frame {
		c, err := a.l.Capture(lab.CaptureOptions{Bridge: lab.LAN, All: true})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		at := time.Now()
		a.stays(holder, at, time.Second)
		return c.Frames(func(f *lab.Frame) bool { return f.Protocol == unix.IPPROTO_UDP && len(f.Raw) > 100 })
	}
	frames := record()
	renewals := 0
	for k := range frames {
		if isRenewal(&frames[k]) {
			renewals++
		}
	}
	if renewals < 5 {
		t.Fatalf("%d renewals in %d datagrams were captured", renewals, len(frames))
	}
	send := func() {
		t.Helper()
		client := a.l.Client()
		err := client.NetDo(func() error {
			link, err := net.InterfaceByName(lab.LAN.Interface())
			if err != nil {
				return err
			}
			fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			for range 3 {
				for _, f := range frames {
					b := slices.Clone(f.Raw)
					copy(b[6:12], client.MAC(lab.LAN)) // the switch must not think that the voter moved
					copy(b[14+20+6:], []byte{0, 0})    // no checksum: the kernel left it to a network card that isn't there
					if err := unix.Sendto(fd, b, 0, &unix.SockaddrLinklayer{Ifindex: link.Index}); err != nil {
						return err
					}
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	from := a.said("w1")
	a.undisturbed(holder, time.Now(), a.resource(holder, "vip").Epoch, send)
	t.Logf("%d datagrams, %d of them renewals, were sent three times again", len(frames), renewals)
	a.says("w1", from, "reason=replay")
	// The holder is gone: its old renewals must not stand for it.
	since := lab.ReadLoad()
	at := a.off(holder)
	send()
	next := a.next(at, since, holder)
	a.undisturbedBut(next, holder, send)
	a.back(holder)
	a.unmoved(next)
}

// undisturbedBut is undisturbed while a host is down.
func (a *assembly) undisturbedBut(holder, down string, f func()) {
	a.t.Helper()
	at := time.Now()
	f()
	a.stays(holder, at, 500*time.Millisecond)
	if len(a.running()) != len(a.names())-1 {
		a.t.Fatalf("running: %v, all but %s", a.running(), down)
	}
}

// standby stops the vrrpd of the data node that does not hold.
func (a *assembly) standby() (holder, standby string) {
	a.t.Helper()
	r := a.roles()
	stop(a.t, a.host(r.standbys[0]), "vrrpd", leaveEnd)
	return r.holder, r.standbys[0]
}

// otherKey starts a voter with another key.
func (a *assembly) otherKey(t *testing.T) {
	holder, standby := a.standby()
	h, at := a.host(standby), time.Now()
	from := a.said(holder)
	run(t, h, "vrrpd", "quorum", "keygen", "/etc/vrrpd/other.key")
	run(t, h, "/usr/bin/cp", "-p", "/etc/vrrpd/other.key", quorumKey)
	a.start(standby)
	a.says(holder, from, "other key")
	a.stays(holder, at, time.Second)
	eventually(t, patience, "status says that the voter is not heard", func() (bool, string) {
		q := a.ask(holder)
		if q == nil {
			return false, "no status"
		}
		return strings.Contains(fmt.Sprint(q.Trouble), "voter "+standby+" is not heard"), fmt.Sprint(q.Trouble)
	})
	for _, v := range a.ask(holder).Voters {
		if v.ID == standby {
			t.Logf("%s of %s: %+v", holder, standby, v.Links)
		}
	}
	if q := a.ask(standby); q.Resources[0].Missing == "" {
		t.Errorf("%s: it does not say what is missing: %+v", standby, q)
	} else {
		t.Logf("%s: %s; %q", standby, q.Resources[0].Missing, q.Trouble)
	}
	// A key that others may read, or that is none, is refused at the start.
	stop(t, h, "vrrpd", leaveEnd)
	for _, tt := range []struct{ content, mode, words string }{
		{a.key, "0644", quorumKey},
		{"no key at all\n", "0600", quorumKey},
	} {
		writeFile(t, h, quorumKey, tt.content, 0o600)
		run(t, h, "/usr/bin/chmod", tt.mode, quorumKey)
		res := try(t, h, vrrpdRun()...)
		if res.Code != 1 || !strings.Contains(res.Stderr, tt.words) {
			t.Errorf("key with mode %s: got exit code %d, %q", tt.mode, res.Code, res.Stderr)
		}
	}
	a.install(standby)
	a.start(standby)
	a.unmoved(holder)
}

// otherCluster starts a voter that was part of another cluster with the same names and the same key.
func (a *assembly) otherCluster(t *testing.T) {
	holder := a.whole()
	standby := without(a.dataNodes(), holder)[0]
	h, all := a.host(standby), append([]string{standby, holder}, a.witnesses()...) // the standby first: else it would take over
	for _, name := range all {
		stop(t, a.host(name), "vrrpd", leaveEnd)
		run(t, a.host(name), "/usr/bin/mv", quorumState, "/var/lib/first")
		a.install(name)
	}
	a.begin()
	for _, name := range all {
		stop(t, a.host(name), "vrrpd", leaveEnd)
		if name != standby {
			run(t, a.host(name), "/usr/bin/rm", "-rf", quorumState)
			run(t, a.host(name), "/usr/bin/mv", "/var/lib/first", quorumState)
		}
	}
	a.start(without(all, standby)...)
	eventually(t, patience, holder+" answers", func() (bool, string) {
		who := a.answering()
		return who == holder, who
	})
	from, at := a.said(holder), time.Now()
	a.start(standby)
	a.says(holder, from, "other cluster")
	a.stays(holder, at, time.Second)
	ours, theirs := a.ask(holder).Cluster, a.ask(standby).Cluster
	for name, peer := range map[string]string{holder: standby, standby: holder} {
		eventually(t, patience, "status of "+name+" names both clusters", func() (bool, string) {
			text := fmt.Sprint(a.ask(name).Trouble)
			return strings.Contains(text, "voter "+peer+" is not heard") && strings.Contains(text, ours) && strings.Contains(text, theirs), text
		})
	}
	stop(t, h, "vrrpd", leaveEnd)
	t.Log(strings.TrimSpace(run(t, h, "vrrpd", "quorum", "reset", "-f", vrrpdConf)))
	a.start(standby)
	a.unmoved(holder)
	run(t, h, "/usr/bin/rm", "-rf", "/var/lib/first")
}

// restored starts a voter on a copy of its state directory that it has outlived.
func (a *assembly) restored(t *testing.T) {
	holder, standby := a.standby()
	h, at := a.host(standby), time.Now()
	run(t, h, "/usr/bin/cp", "-a", quorumState, "/var/lib/backup")
	a.start(standby)
	a.unmoved(holder)
	stop(t, h, "vrrpd", leaveEnd)
	run(t, h, "/usr/bin/rm", "-rf", quorumState)
	run(t, h, "/usr/bin/mv", "/var/lib/backup", quorumState)
	from := a.said(holder)
	a.start(standby)
	a.says(holder, from, "restored from a backup")
	if res, err := h.Proc("vrrpd").Wait(within(t, patience)); err != nil || res.Code != 1 || !strings.Contains(logOf(t, h.Proc("vrrpd")), "its state directory is an old copy") {
		t.Errorf("%s: vrrpd ended with code %d (%v), want 1 and the reason", standby, res.Code, err)
	}
	a.start(standby) // as its unit would
	eventually(t, patience, standby+" takes no part", func() (bool, string) {
		q := a.ask(standby)
		if q == nil {
			return false, "it does not answer yet"
		}
		trouble := strings.Join(q.Trouble, "; ")
		return strings.Contains(trouble, "takes no part in the quorum") && strings.Contains(trouble, "restored from a backup"), trouble
	})
	a.stays(holder, at, time.Second)
	t.Logf("%s: %q", standby, a.ask(standby).Trouble)
	// It is no voter, and nobody waits for its word.
	at = a.off("w1")
	a.stays(holder, at, time.Second)
	if r := a.resource(holder, "vip"); !r.Live || !strings.Contains(r.By, "frozen: alone") {
		t.Errorf("got live %t %s, want alone", r.Live, r.By)
	}
	a.back("w1")
	stop(t, h, "vrrpd", leaveEnd)
	t.Log(strings.TrimSpace(run(t, h, "vrrpd", "quorum", "reset", "-f", vrrpdConf)))
	a.start(standby)
	a.whole()
}

// emptied starts voters on an empty state directory: each comes back as a new one.
func (a *assembly) emptied(t *testing.T) {
	r := a.roles()
	for _, name := range []string{r.standbys[0], "w1"} {
		incarnation := a.ask(name).Incarnation
		at := time.Now()
		stop(t, a.host(name), "vrrpd", leaveEnd)
		run(t, a.host(name), "/usr/bin/rm", "-rf", filepath.Join(quorumState, "quorum.db"))
		a.start(name)
		a.unmoved(r.holder)
		a.stays(r.holder, at, 100*time.Millisecond)
		if got := a.ask(name).Incarnation; got == incarnation {
			t.Errorf("%s: the incarnation is still %s", name, got)
		}
	}
	// The holder itself.
	stop(t, a.host(r.holder), "vrrpd", leaveEnd)
	run(t, a.host(r.holder), "/usr/bin/rm", "-rf", filepath.Join(quorumState, "quorum.db"))
	a.start(r.holder)
	a.unmoved(r.standbys[0])
}

// fullDisk fills the disk of a state directory.
func (a *assembly) fullDisk(t *testing.T) {
	holder, standby := a.standby()
	h, at := a.host(standby), time.Now()
	run(t, h, "/usr/bin/mv", quorumState, "/var/lib/mine")
	run(t, h, "/usr/bin/mkdir", "-m", "0700", quorumState)
	run(t, h, "/usr/bin/mount", "-t", "tmpfs", "-o", "size=6m,mode=0700", "none", quorumState)
	fill := func() { try(t, h, "/usr/bin/dd", "if=/dev/zero", "of="+quorumState+"/full", "bs=4k") }
	// A new voter finds no room.
	fill()
	res := try(t, h, vrrpdRun()...)
	if res.Code != 1 || !strings.Contains(res.Stderr, "no space left on device") || !strings.Contains(res.Stderr, quorumState) {
		t.Errorf("without room: got exit code %d, %q", res.Code, tail(res.Stderr, 3))
	}
	t.Log(tail(strings.TrimSpace(res.Stderr), 1))
	// One that had its room goes on: it is granted the resource, and gives it back.
	run(t, h, "/usr/bin/rm", quorumState+"/full")
	run(t, h, "/usr/bin/cp", "-a", "/var/lib/mine/.", quorumState)
	fill()
	a.start(standby)
	a.unmoved(holder)
	a.stays(holder, at, 100*time.Millisecond)
	since := lab.ReadLoad()
	at = a.off(holder)
	if next := a.next(at, since, holder); next != standby {
		t.Fatalf("next holder: got %s, want %s", next, standby)
	}
	a.back(holder)
	a.unmoved(standby)
	since, at = lab.ReadLoad(), time.Now()
	stop(t, h, "vrrpd", leaveEnd)
	// Not before: who was just back may still wait for the log, and the one that is started next would be granted the epoch again.
	if next := a.next(at, since, standby); next != holder {
		t.Fatalf("next holder: got %s, want %s", next, holder)
	}
	run(t, h, "/usr/bin/rm", quorumState+"/full")
	run(t, h, "/usr/bin/rm", "-rf", "/var/lib/mine")
	run(t, h, "/usr/bin/cp", "-a", quorumState, "/var/lib/mine")
	run(t, h, "/usr/bin/umount", quorumState)
	run(t, h, "/usr/bin/rmdir", quorumState)
	run(t, h, "/usr/bin/mv", "/var/lib/mine", quorumState)
	a.start(standby)
	a.unmoved(holder)
}

// addrPort is where a voter listens on the service LAN.
func addrPort(h *lab.Host) netip.AddrPort { return netip.AddrPortFrom(h.Addr(lab.LAN), quorumPort) }
