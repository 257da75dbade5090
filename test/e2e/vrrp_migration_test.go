//go:build e2e

package e2e

import (
	"fmt"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"pgvrrp/internal/control"
	"pgvrrp/test/lab"
)

// migration is one pair of nodes with a configuration of its own that moves from keepalived to vrrpd and back.
type migration struct {
	name string
	// config is the same file for both daemons; the first node has priority 150, the second 100.
	config func(s *migration, self, peer *lab.Host, priority int) string
	// interval is advert_int: how long nothing may happen hangs on it.
	interval  time.Duration
	nopreempt bool
	vips      []netip.Addr
	prepare   func(t *testing.T, h *lab.Host)
	check     func(t *testing.T, s *migration)

	vrid     int
	nodes    [2]*lab.Host
	priority [2]int
	watch    *holdings
}

// instance is a vrrp_instance of the pair on eth0.
func (s *migration) instance(name string, vrid, priority, version int, vip netip.Addr, lines ...string) router {
	r := router{Name: name, VRID: vrid, Version: version, Priority: priority, Interval: fmt.Sprint(s.interval.Seconds()), VIPs: []string{vip.String() + "/24"}, Lines: lines}
	if vip.Is6() {
		r.VIPs = []string{fmt.Sprintf("fe80::77:%d/64", vrid), vip.String() + "/64"}
	}
	return r
}

// plain makes a config of one instance with more lines.
func plain(version int, lines ...string) func(*migration, *lab.Host, *lab.Host, int) string {
	return func(s *migration, self, peer *lab.Host, priority int) string {
		var all []string
		for _, line := range lines {
			all = append(all, strings.NewReplacer("SELF", self.Addr(lab.LAN).String(), "PEER", peer.Addr(lab.LAN).String()).Replace(line))
		}
		return file("", s.instance("VI_1", s.vrid, priority, version, s.vips[0], all...))
	}
}

// served says whether one node of the pair has every address and the other none.
func (s *migration) served(want int) (bool, string) {
	for _, vip := range s.vips {
		for k, h := range s.nodes {
			// The watch may learn it later, and would count it for the next step.
			if on := holds(h, vip); on != (k == want) || s.watch.has(h.Name(), vip) != on {
				return false, fmt.Sprintf("%s: %s on %s: %t", s.name, vip, h.Name(), k != want)
			}
		}
	}
	return true, ""
}

// has says whether it knows that a host has an address.
func (w *holdings) has(host string, addr netip.Addr) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	_, ok := w.now[holding{host, addr}]
	return ok
}

// takeovers are the moments since a time at which one of the nodes got an address of the site.
func (w *holdings) takeovers(addr netip.Addr, since time.Time) (n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for k, from := range w.now {
		if k.addr == addr && !from.Before(since) {
			n++
		}
	}
	for _, s := range w.past {
		if s.addr == addr && !s.from.Before(since) {
			n++
		}
	}
	return n
}

// migrations are all pairs, which take their steps together.
type migrations []*migration

// The nodes of a pair: the first one serves when a way begins.
const first, second = 0, 1

func (all migrations) served(serves func(*migration) int) func() (bool, string) {
	return func() (bool, string) {
		for _, s := range all {
			if ok, got := s.served(serves(s)); !ok {
				return false, got
			}
		}
		return true, ""
	}
}

// step does one thing to one node of each pair, and sees the addresses on the nodes that should serve then: moved at most once,
// and never on two.
func (all migrations) step(t *testing.T, what string, do func(), serves func(*migration) int) {
	t.Helper()
	since := time.Now()
	do()
	eventually(t, patience, what, all.served(serves))
	for _, s := range all {
		tolerated := 50 * time.Millisecond // between two notices that this process reads late
		if strings.HasSuffix(what, preempts) && !s.nopreempt {
			tolerated = handOver
		}
		for _, vip := range s.vips {
			if n := s.watch.takeovers(vip, since); n > 1 {
				t.Errorf("%s: %s: %s moved %d times", s.name, what, vip, n)
			}
		}
		if two := s.watch.overlaps(t, s.vips, since, tolerated); len(two) > 0 {
			t.Errorf("%s: %s: two holders: %s", s.name, what, strings.Join(two, "; "))
		}
	}
}

const preempts = "on the old master starts"

// stop ends a daemon on the same node of every pair, and start runs one.
func (all migrations) stop(t *testing.T, d daemon, node int) {
	t.Helper()
	at := time.Now()
	for _, s := range all {
		signal(t, s.nodes[node], string(d), syscall.SIGTERM)
	}
	for _, s := range all {
		waitEnd(t, s.nodes[node], string(d), at, endTime)
	}
}

func (all migrations) start(t *testing.T, d daemon, node int) {
	t.Helper()
	for _, s := range all {
		d.start(t, s.nodes[node], s.config(s, s.nodes[node], s.nodes[1-node], s.priority[node]))
	}
}

// migrate is the way there (from keepalived to vrrpd) or back, node by node, the backup first.
func (all migrations) migrate(t *testing.T, from, to daemon) {
	t.Helper()
	always := func(k int) func(*migration) int { return func(*migration) int { return k } }
	all.step(t, fmt.Sprintf("%s on the backup stops", from), func() { all.stop(t, from, second) }, always(first))
	all.step(t, fmt.Sprintf("%s on the backup starts", to), func() {
		all.start(t, to, second)
		// One that did not hear the other would take over.
		constantly(t, 3*time.Second+skew(100, time.Second)+slack, fmt.Sprintf("the backup's %s hears the master's %s", to, from), all.served(always(first)))
	}, always(first))
	all.step(t, fmt.Sprintf("%s on the master stops", from), func() { all.stop(t, from, first) }, always(second))
	all.step(t, fmt.Sprintf("%s "+preempts, to), func() { all.start(t, to, first) }, func(s *migration) int {
		if s.nopreempt {
			return second
		}
		return first
	})
	for _, s := range all {
		if s.nopreempt { // it goes on with the node that serves as the first
			s.nodes[first], s.nodes[second] = s.nodes[second], s.nodes[first]
			s.priority[first], s.priority[second] = s.priority[second], s.priority[first]
		}
	}
}

// The way of docs/keepalived-compat.md from keepalived to vrrpd with the same file, node by node on a live LAN, and back, for the
// kinds of configuration that there are. A hand-over by preemption is the one moment in which two kernels have the address, until
// the old master has heard the new one's advert.
func TestVRRPMigration(t *testing.T) {
	t.Parallel()
	const fast, slow = 500 * time.Millisecond, time.Second
	fifoLines := func(t *testing.T, s *migration) {
		t.Helper()
		for k, want := range []string{"BACKUP MASTER BACKUP MASTER BACKUP MASTER", "BACKUP BACKUP MASTER BACKUP BACKUP MASTER BACKUP"} {
			content := readFile(s.nodes[k], "/run/lines")
			var states []string
			stops := 0
			for line := range strings.Lines(content) {
				var name, state string
				var priority int
				if n, err := fmt.Sscanf(line, "INSTANCE %q %s %d", &name, &state, &priority); n != 3 || name != "VI_1" || priority != s.priority[k] {
					t.Errorf("%s on %s: got line %q (%v)", s.name, s.nodes[k].Name(), line, err)
				}
				if state == control.StateStop {
					stops++ // keepalived ends its script before that can read it
				} else {
					states = append(states, state)
				}
			}
			if got := strings.Join(states, " "); got != want || stops == 0 {
				t.Errorf("%s: the FIFO's lines on %s of keepalived, vrrpd and keepalived: got %s and %d STOP, want %s and the STOP of vrrpd", s.name, s.nodes[k].Name(), got, stops, want)
			}
		}
	}
	sites := migrations{
		{name: "v2", interval: slow, config: plain(2)},
		{name: "v3", interval: fast, config: plain(3)},
		{name: "PASS", interval: slow, config: plain(2, "authentication {", "  auth_type PASS", "  auth_pass s3cr#t and more", "}")},
		{name: "unicast", interval: fast, config: plain(3, "unicast_src_ip SELF", "unicast_peer {", "  PEER", "}", "check_unicast_src")},
		{name: "PASS unicast", interval: slow, config: plain(2, "authentication {", "  auth_type PASS", "  auth_pass pass", "}", "unicast_src_ip SELF", "unicast_peer {", "  PEER", "}", "nopreempt"), nopreempt: true},
		{name: "sync group", interval: fast, vips: []netip.Addr{{}, {}}, config: func(s *migration, self, peer *lab.Host, priority int) string {
			in := s.instance("IN", s.vrid, priority, 3, s.vips[1])
			return file("", s.instance("OUT", s.vrid, priority, 3, s.vips[0]),
				block(strings.Replace(in.String(), "interface eth0", "interface eth1", 1)), block("vrrp_sync_group G {\n  group {\n    OUT\n    IN\n  }\n}\n"))
		}},
		{name: "IPv6", interval: fast, config: plain(3)},
		{name: "nopreempt", interval: fast, config: plain(3, "nopreempt"), nopreempt: true},
		{name: "tracking", interval: fast, config: func(s *migration, self, peer *lab.Host, priority int) string {
			return "track_file drain {\n  file /etc/vrrpd/drain\n  weight 1\n}\nvrrp_script well {\n  script /etc/vrrpd/well\n  interval 1\n  weight -20\n}\n" +
				file("script_user root", s.instance("VI_1", s.vrid, priority, 3, s.vips[0], "track_interface {", "  eth1 weight 5", "}", "track_script {", "  well", "}", "track_file {", "  drain", "}"))
		}, prepare: func(t *testing.T, h *lab.Host) {
			writeFile(t, h, "/etc/vrrpd/drain", "0\n", 0o644)
			writeFile(t, h, "/etc/vrrpd/well", shebang+"exit 0\n", 0o755)
		}},
		{name: "FIFO", interval: fast, config: func(s *migration, self, peer *lab.Host, priority int) string {
			return file("script_user root\n  vrrp_notify_fifo /run/fifo\n  vrrp_notify_fifo_script /etc/vrrpd/reader", s.instance("VI_1", s.vrid, priority, 3, s.vips[0]))
		}, prepare: func(t *testing.T, h *lab.Host) {
			writeFile(t, h, "/etc/vrrpd/reader", shebang+"exec cat \"$1\" >>/run/lines\n", 0o755)
		}, check: fifoLines},
	}
	l := newLab(t, 2*len(sites))
	watch := watchHoldings(t, l)
	for k, s := range sites {
		s.vrid, s.watch, s.priority = 10+k, watch, [2]int{150, 100}
		s.nodes = [2]*lab.Host{l.Host(fmt.Sprintf("n%d", 2*k+1)), l.Host(fmt.Sprintf("n%d", 2*k+2))}
		switch {
		case s.name == "IPv6":
			s.vips = []netip.Addr{lab.VIP6(k + 1)}
		case len(s.vips) == 2:
			s.vips = []netip.Addr{lab.VIP(k + 1), netip.AddrFrom4([4]byte{10, 78, 0, byte(100 + k)})}
		default:
			s.vips = []netip.Addr{lab.VIP(k + 1)}
		}
		for _, h := range s.nodes {
			if s.prepare != nil {
				s.prepare(t, h)
			}
		}
	}
	// keepalived ends its FIFO's script before that has read what was written last.
	fifoRead := func(count int) {
		t.Helper()
		h := sites[len(sites)-1].nodes[second]
		eventually(t, patience, fmt.Sprintf("the FIFO's script on %s has read %d states", h.Name(), count), func() (bool, string) {
			got := readFile(h, "/run/lines")
			return strings.Count(got, "\n")-strings.Count(got, " STOP ") >= count, got
		})
	}
	sites.start(t, keepalived, first)
	eventually(t, patience, "keepalived on the first nodes is alone", sites.served(func(*migration) int { return first }))
	sites.start(t, keepalived, second)
	fifoRead(1)
	sites.migrate(t, keepalived, vrrpd)
	for _, s := range sites {
		for k, want := range []string{control.StateMaster, control.StateBackup} {
			for _, i := range status(t, s.nodes[k]).Instances {
				i = waitState(t, s.nodes[k], i.Name, want)
				if len(i.Counters.Rejected) > 0 {
					t.Errorf("%s on %s: rejected %v", s.name, s.nodes[k].Name(), i.Counters.Rejected)
				}
			}
		}
	}
	sites.migrate(t, vrrpd, keepalived)
	fifoRead(7)
	sites.stop(t, keepalived, second)
	sites.stop(t, keepalived, first)
	for _, s := range sites {
		if s.check != nil {
			s.check(t, s)
		}
	}
}
