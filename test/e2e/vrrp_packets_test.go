//go:build e2e

package e2e

import (
	"fmt"
	"strings"
	"testing"

	"pgvrrp/internal/control"
	"pgvrrp/test/lab"
)

// Packets that are no adverts of ours: a master and a backup count each by its reason, say so once a minute, and stay what
// they are. Every packet would end a mastership, or hand it over, if it were believed.
func TestVRRPBadPackets(t *testing.T) {
	l := newLab(t, 3)
	n1, n2, n3 := l.Host("n1"), l.Host("n2"), l.Host("n3")
	pass := []string{"authentication {", "auth_type PASS", "auth_pass sesame", "}"}
	v2 := router{VRID: 21, Version: 2, Interval: "1", VIPs: []string{"10.77.0.121/24"}}
	v2pass := router{VRID: 22, Version: 2, Interval: "1", VIPs: []string{"10.77.0.122/24"}, Lines: pass}
	v3 := router{VRID: 31, Interval: "0.1", VIPs: []string{"10.77.0.131/24"}}
	v6 := router{VRID: 36, Interval: "0.1", VIPs: []string{"fe80::77:36/64"}}
	unicast := func(self, peer string) router {
		return router{VRID: 41, Interval: "0.1", VIPs: []string{"10.77.0.141/24"}, Lines: []string{"check_unicast_src", "unicast_src_ip " + self, "unicast_peer {", peer + " min_ttl 250", "}"}}
	}
	const prio1, prio2 = 254, 250 // the shortest wait for version 2
	startVrrpd(t, n1, file("", v2.with(prio1), v2pass.with(prio1), v3.with(prio1), v6.with(prio1), unicast("10.77.0.1", "10.77.0.2").with(prio1)))
	startVrrpd(t, n2, file("", v2.with(prio2), v2pass.with(prio2), v3.with(prio2), v6.with(prio2), unicast("10.77.0.2", "10.77.0.1").with(prio2)))
	all := []string{"VI_21", "VI_22", "VI_31", "VI_36", "VI_41"}
	for _, name := range all {
		waitState(t, n1, name, control.StateMaster)
		waitInstance(t, n2, name, "follows", func(i control.Instance) bool { return i.State == control.StateBackup && i.Master != "" })
	}
	link := linkLocal(t, n3).String()
	six := []string{"fe80::77:36"}
	tests := []struct {
		name   string
		packet packet
		reason string
		// where it is counted: an instance, or "" for the link
		instance string
		hosts    []*lab.Host // default both
	}{
		{"v2 wrong checksum", packet{VRID: 21, Version: 2, BadSum: true}, "checksum", "VI_21", nil},
		{"v2 wrong interval", packet{VRID: 21, Version: 2, Interval: 2}, "interval", "VI_21", nil},
		{"v2 wrong version", packet{VRID: 21, Version: 3}, "version", "VI_21", nil},
		{"v2 with a password", packet{VRID: 21, Version: 2, Password: "x"}, "auth_type", "VI_21", nil},
		{"v2 TTL", packet{VRID: 21, Version: 2, TTL: 254}, "ttl", "VI_21", nil},
		{"v2 addresses missing", packet{VRID: 21, Version: 2, Count: ptr(9)}, "length", "VI_21", nil},
		{"v2 cut short", packet{VRID: 21, Version: 2, Cut: 12}, "length", "VI_21", nil},
		{"v2 another type", packet{VRID: 21, Version: 2, Type: 2}, "type", "VI_21", nil},
		{"PASS without a password", packet{VRID: 22, Version: 2}, "auth_type", "VI_22", nil},
		{"PASS wrong password", packet{VRID: 22, Version: 2, Password: "secret"}, "auth", "VI_22", nil},
		{"PASS longer password", packet{VRID: 22, Version: 2, Password: "sesame2"}, "auth", "VI_22", nil},
		{"v3 wrong checksum", packet{VRID: 31, BadSum: true}, "checksum", "VI_31", nil},
		{"v3 the other checksum", packet{VRID: 31, Plain: true}, "checksum_form", "VI_31", nil},
		{"v3 wrong version", packet{VRID: 31, Version: 2}, "version", "VI_31", nil},
		{"v3 version from the future", packet{VRID: 31, Version: 4}, "version", "VI_31", nil},
		{"v3 TTL", packet{VRID: 31, TTL: 1}, "ttl", "VI_31", nil},
		{"v3 addresses missing", packet{VRID: 31, Count: ptr(200)}, "length", "VI_31", nil},
		{"v3 no addresses", packet{VRID: 31, Addrs: []string{}}, "no_addresses", "VI_31", nil},
		{"v3 another type", packet{VRID: 31, Type: 9}, "type", "VI_31", nil},
		{"v3 goodbye, forged", packet{VRID: 31, Priority: ptr(0), BadSum: true}, "checksum", "VI_31", nil},
		{"v3 unicast", packet{VRID: 31, Dst: "10.77.0.1"}, "vrid", "", []*lab.Host{n1}},
		{"IPv6 wrong checksum", packet{VRID: 36, Src: link, Addrs: six, BadSum: true}, "checksum", "VI_36", nil},
		{"IPv6 hop limit", packet{VRID: 36, Src: link, Addrs: six, TTL: 64}, "ttl", "VI_36", nil},
		{"IPv6 version 2", packet{VRID: 36, Src: link, Addrs: six, Version: 2}, "version", "VI_36", nil},
		{"unicast stranger", packet{VRID: 41, Dst: "10.77.0.1", Addrs: []string{"10.77.0.141"}}, "peer", "VI_41", []*lab.Host{n1}},
		{"unicast peer from afar", packet{VRID: 41, Src: "10.77.0.2", Dst: "10.77.0.1", Addrs: []string{"10.77.0.141"}, TTL: 9}, "ttl", "VI_41", []*lab.Host{n1}},
		{"another VRID", packet{VRID: 99}, "vrid", "", nil},
		{"VRID 0", packet{VRID: 0}, "vrid", "", nil},
		{"shorter than a header", packet{VRID: 31, Cut: 7}, "too_short", "", nil},
		{"one byte", packet{VRID: 31, Cut: 1}, "too_short", "", nil},
		{"IPv6 shorter than a header", packet{VRID: 36, Src: link, Addrs: six, Cut: 5}, "too_short", "", nil},
		{"oversized", packet{VRID: 31, Pad: 20000, BadSum: true}, "truncated", "", nil},
	}
	before := map[string]control.Status{"n1": status(t, n1), "n2": status(t, n2)}
	rejected := func(s control.Status, instance, reason string) uint64 {
		if instance != "" {
			i, _ := find(s, instance)
			return i.Counters.Rejected[reason]
		}
		var sum uint64
		for _, link := range s.Links {
			sum += link.Rejected[reason]
		}
		return sum
	}
	const times = 7
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			hosts := tt.hosts
			if hosts == nil {
				hosts = []*lab.Host{n1, n2}
			}
			was := map[string]control.Status{"n1": status(t, n1), "n2": status(t, n2)}
			tt.packet.send(t, n3, times)
			for _, h := range hosts {
				want := rejected(was[h.Name()], tt.instance, tt.reason) + times
				eventually(t, patience, "counted on "+h.Name(), func() (bool, string) {
					s := status(t, h)
					i, _ := find(s, tt.instance)
					return rejected(s, tt.instance, tt.reason) == want, fmt.Sprintf("%d of %d, %v, %+v", rejected(s, tt.instance, tt.reason), want, i.Counters.Rejected, s.Links)
				})
			}
		})
	}
	// Bytes behind a good advert are Ethernet's padding, or a later version's business: no reason to reject it.
	t.Run("padding is accepted", func(t *testing.T) {
		heard := instance(t, n2, "VI_31").Counters.AdvertsReceived
		packet{VRID: 31, Pad: 18, Priority: ptr(1), Addrs: []string{"10.77.0.131"}}.send(t, n3, 1)
		waitInstance(t, n2, "VI_31", "hears it", func(i control.Instance) bool {
			for _, p := range i.Peers {
				if p.Address == n3.Addr(lab.LAN).String() {
					return i.Counters.AdvertsReceived > heard
				}
			}
			return false
		})
	})
	for _, h := range []*lab.Host{n1, n2} {
		for _, name := range all {
			was, _ := find(before[h.Name()], name)
			if is := instance(t, h, name); is.Seq != was.Seq || is.State != was.State {
				t.Errorf("%s: %s, then %s", h.Name(), describe(was), describe(is))
			}
		}
		// One line for each reason and instance, however many packets came.
		lines := map[string]int{}
		for line := range strings.Lines(logOf(t, h.Proc("vrrpd"))) {
			if !strings.Contains(line, `msg="packet rejected"`) && !strings.Contains(line, `msg="packet for no instance"`) {
				continue
			}
			var key []string
			for _, word := range strings.Fields(line) {
				if strings.HasPrefix(word, "instance=") || strings.HasPrefix(word, "reason=") || strings.HasPrefix(word, "msg=") {
					key = append(key, word)
				}
			}
			lines[strings.Join(key, " ")]++
		}
		if len(lines) < 10 {
			t.Errorf("%s: got log lines %v, want one for each reason", h.Name(), lines)
		}
		for key, n := range lines {
			if n != 1 {
				t.Errorf("%s: %q was logged %d times within a minute", h.Name(), key, n)
			}
		}
		if out := run(t, h, "vrrpd", "status"); !strings.Contains(out, "checksum") {
			t.Errorf("%s: the table does not tell of rejected packets: %s", h.Name(), out)
		}
	}
}
