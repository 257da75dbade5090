//go:build e2e

package e2e

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"pgvrrp/test/lab"
)

// plainChecksum has tshark expect version 3's checksum on IPv4 without a pseudo header (RFC 9568), as v3_checksum_as_v2 sends
// it; its default is RFC 5798's.
const plainChecksum = "vrrp.v3_checksum_as_in_v2:TRUE"

// advertFields are what tshark is asked about each advert. The last four say whether it complains.
var advertFields = []string{
	"frame.number", "vrrp.virt_rtr_id", "vrrp.version", "vrrp.prio", "vrrp.addr_count",
	"eth.src", "eth.dst", "ip.src", "ipv6.src", "ip.dst", "ipv6.dst", "ip.ttl", "ipv6.hlim", "ip.dsfield", "ipv6.tclass",
	"vrrp.auth_type", "vrrp.auth_string", "vrrp.adver_int", "vrrp.short_adver_int", "vrrp.ip_addr", "vrrp.ipv6_addr",
	"ip.checksum.status", "vrrp.checksum.status", "_ws.expert.message", "_ws.malformed",
}

// advertRow is one advert as tshark sees it, by field.
type advertRow map[string]string

func adverts(t *testing.T, file, filter string, preferences ...string) []advertRow {
	t.Helper()
	var rows []advertRow
	for _, values := range tshark(t, file, filter, preferences, advertFields...) {
		row := advertRow{}
		for k, f := range advertFields {
			row[f] = values[k]
		}
		rows = append(rows, row)
	}
	return rows
}

// complaint is what tshark dislikes about an advert.
func (r advertRow) complaint() string {
	var all []string
	for field, good := range map[string]string{"_ws.expert.message": "", "_ws.malformed": "", "vrrp.checksum.status": "1"} {
		if r[field] != good {
			all = append(all, field+" "+r[field])
		}
	}
	if r["ip.src"] != "" && r["ip.checksum.status"] != "1" {
		all = append(all, "ip.checksum.status "+r["ip.checksum.status"])
	}
	slices.Sort(all)
	return strings.Join(all, "; ")
}

func TestVRRPWire(t *testing.T) {
	l := newLab(t, 2)
	n1, n2 := l.Host("n1"), l.Host("n2")
	mac, self := n1.MAC(lab.LAN).String(), n1.Addr(lab.LAN).String()
	link, peer6 := linkLocal(t, n1).String(), n2.Addr6(lab.LAN).String()
	many := func(format string, from, n int) (lines []string) {
		for k := range n {
			lines = append(lines, fmt.Sprintf(format, from+k))
		}
		return lines
	}
	const multicast, multicast6 = "01:00:5e:00:00:12", "33:33:00:00:00:12"
	tests := []struct {
		name        string
		router      router
		preferences []string
		want        advertRow
	}{
		{"v2", router{VRID: 1, Version: 2, Priority: 254, Interval: "1", VIPs: []string{"10.77.0.101/24"}}, nil,
			advertRow{"vrrp.version": "2", "eth.dst": multicast, "ip.src": self, "ip.dst": "224.0.0.18", "vrrp.auth_type": "0", "vrrp.adver_int": "1", "vrrp.ip_addr": "10.77.0.101"}},
		{"v2 PASS", router{VRID: 2, Version: 2, Priority: 254, Interval: "1", VIPs: []string{"10.77.0.102/24"}, Lines: []string{"authentication {", "auth_type PASS", "auth_pass sesame", "}"}}, nil,
			advertRow{"vrrp.version": "2", "eth.dst": multicast, "ip.dst": "224.0.0.18", "vrrp.auth_type": "1", "vrrp.auth_string": "sesame", "vrrp.ip_addr": "10.77.0.102"}},
		{"v2 unicast", router{VRID: 3, Version: 2, Priority: 254, Interval: "1", VIPs: []string{"10.77.0.103/24"}, Lines: []string{"unicast_peer {", "10.77.0.2", "}"}}, nil,
			advertRow{"vrrp.version": "2", "eth.dst": n2.MAC(lab.LAN).String(), "ip.src": self, "ip.dst": "10.77.0.2"}},
		{"v2 twenty addresses", router{VRID: 4, Version: 2, Priority: 255, Interval: "1", VIPs: many("10.77.1.%d/32", 1, 20)}, nil,
			advertRow{"vrrp.version": "2", "vrrp.addr_count": "20", "vrrp.adver_int": "1"}},
		{"v3", router{VRID: 5, Priority: 150, Interval: "0.1", VIPs: []string{"10.77.0.105/24"}}, nil,
			advertRow{"vrrp.version": "3", "eth.dst": multicast, "ip.src": self, "ip.dst": "224.0.0.18", "vrrp.short_adver_int": "10", "vrrp.ip_addr": "10.77.0.105"}},
		{"v3 checksum of RFC 9568", router{VRID: 6, Priority: 150, Interval: "0.1", VIPs: []string{"10.77.0.106/24"}, Lines: []string{"v3_checksum_as_v2"}}, []string{plainChecksum},
			advertRow{"vrrp.version": "3", "eth.dst": multicast, "vrrp.short_adver_int": "10", "vrrp.ip_addr": "10.77.0.106"}},
		{"v3 unicast", router{VRID: 7, Priority: 150, Interval: "0.2", VIPs: []string{"10.77.0.107/24"}, Lines: []string{"unicast_src_ip 10.77.0.1", "unicast_peer {", "10.77.0.2", "}"}}, nil,
			advertRow{"vrrp.version": "3", "eth.dst": n2.MAC(lab.LAN).String(), "ip.dst": "10.77.0.2", "vrrp.short_adver_int": "20"}},
		{"v3 owner", router{VRID: 8, Priority: 255, Interval: "0.5", VIPs: []string{"10.77.0.108/24"}}, nil,
			advertRow{"vrrp.version": "3", "vrrp.prio": "255", "vrrp.short_adver_int": "50"}},
		{"v3 another group", router{VRID: 9, Priority: 150, Interval: "0.1", VIPs: []string{"10.77.0.109/24"}, Lines: []string{"mcast_dst_ip 239.77.0.18"}}, nil,
			advertRow{"eth.dst": "01:00:5e:4d:00:12", "ip.dst": "239.77.0.18"}},
		{"v3 255 addresses", router{VRID: 10, Priority: 150, Interval: "0.1", VIPs: many("10.77.2.%d/32", 1, 255), Lines: []string{"garp_master_repeat 1", "garp_master_delay 0"}}, nil,
			advertRow{"vrrp.version": "3", "vrrp.addr_count": "255"}},
		{"v3 IPv6", router{VRID: 11, Priority: 150, Interval: "0.1", VIPs: []string{"fe80::77:11/64", "fd77::1:11/64"}}, nil,
			advertRow{"vrrp.version": "3", "eth.dst": multicast6, "ipv6.src": link, "ipv6.dst": "ff02::12", "vrrp.addr_count": "2", "vrrp.short_adver_int": "10", "vrrp.ipv6_addr": "fe80::77:11,fd77::1:11"}},
		{"v3 IPv6 unicast", router{VRID: 12, Priority: 150, Interval: "0.1", VIPs: []string{"fe80::77:12/64"}, Lines: []string{"unicast_src_ip fd77::1", "unicast_peer {", peer6, "}"}}, nil,
			advertRow{"vrrp.version": "3", "eth.dst": n2.MAC(lab.LAN).String(), "ipv6.src": "fd77::1", "ipv6.dst": peer6}},
		{"v3 IPv6 with IPv4 excluded", router{VRID: 13, Priority: 150, Interval: "0.1", VIPs: []string{"fe80::77:13/64"}, Lines: []string{"virtual_ipaddress_excluded {", "10.77.0.113/24", "}"}}, nil,
			advertRow{"vrrp.addr_count": "1", "vrrp.ipv6_addr": "fe80::77:13"}},
	}
	c := capture(t, l)
	var blocks []fmt.Stringer
	for _, tt := range tests {
		blocks = append(blocks, tt.router)
	}
	start := time.Now()
	startVrrpd(t, n1, file("", blocks...))

	// Three adverts of each, the last of GARP's second batch, and the goodbyes.
	for _, tt := range tests {
		waitClaims(t, c, start, "n1", uint8(tt.router.VRID), 3)
	}
	const batches = 2 * 5
	announced := []netip.Addr{netip.MustParseAddr("10.77.0.105"), netip.MustParseAddr("10.77.0.108"), netip.MustParseAddr("10.77.0.113"),
		netip.MustParseAddr("fe80::77:11"), netip.MustParseAddr("fd77::1:11")}
	eventually(t, patience, "two batches of announcements", func() (bool, string) {
		for _, vip := range announced {
			if n := len(c.Frames(lab.Announcement("n1", vip))); n < batches {
				return false, fmt.Sprintf("%d for %s", n, vip)
			}
		}
		return true, ""
	})
	stop(t, n1, "vrrpd", endTime)
	for _, tt := range tests {
		waitFrame(t, c, start, tt.name+": goodbye", goodbye("n1", uint8(tt.router.VRID)))
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}

	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			// From n1 alone: a host that speaks no VRRP quotes a unicast advert in its ICMP refusal.
			rows := adverts(t, c.File, fmt.Sprintf("eth.src == %s && vrrp.virt_rtr_id == %d", mac, tt.router.VRID), tt.preferences...)
			if len(rows) < 4 {
				t.Fatalf("got %d adverts, want 4 and more", len(rows))
			}
			want := advertRow{"eth.src": mac, "vrrp.prio": strconv.Itoa(tt.router.Priority)}
			if tt.want["ipv6.dst"] != "" || strings.Contains(tt.router.VIPs[0], ":") {
				want["ipv6.hlim"], want["ipv6.tclass"] = "255", "0x000000c0"
			} else {
				want["ip.ttl"], want["ip.dsfield"] = "255", "0xc0"
			}
			for k, v := range tt.want {
				want[k] = v
			}
			for i, row := range rows {
				if text := row.complaint(); text != "" {
					t.Errorf("tshark complains about frame %s: %s", row["frame.number"], text)
				}
				if i == len(rows)-1 {
					want["vrrp.prio"] = "0"
				}
				for field, v := range want {
					if row[field] != v {
						t.Errorf("frame %s: %s: got %q, want %q", row["frame.number"], field, row[field], v)
					}
				}
			}
		})
	}
	t.Run("gratuitous ARP", func(t *testing.T) { wireARP(t, c, n1, announced) })
	t.Run("unsolicited neighbour advertisement", func(t *testing.T) { wireNA(t, c, n1, announced) })
	t.Run("nothing else is complained about", func(t *testing.T) {
		filter := fmt.Sprintf("eth.src == %s && (_ws.expert || _ws.malformed) && !(vrrp.virt_rtr_id == 6)", mac)
		for _, row := range tshark(t, c.File, filter, nil, "frame.number", "_ws.col.Info", "_ws.expert.message") {
			t.Errorf("tshark complains about frame %s", strings.Join(row, ": "))
		}
	})
}

// wireARP checks the announcements of RFC 5227's kind: 5 at once and 5 more after 5 s, as keepalived sends them, behind the
// advert.
func wireARP(t *testing.T, c *lab.Capture, h *lab.Host, vips []netip.Addr) {
	for _, vip := range vips {
		if vip.Is6() {
			continue
		}
		frames := c.Frames(lab.Announcement(h.Name(), vip))
		checkBatches(t, vip, frames)
		rows := tshark(t, c.File, "arp.src.proto_ipv4 == "+vip.String()+" && arp.dst.proto_ipv4 == "+vip.String(), nil,
			"eth.src", "eth.dst", "arp.opcode", "arp.src.hw_mac", "arp.dst.hw_mac", "arp.isgratuitous", "_ws.malformed")
		want := []string{h.MAC(lab.LAN).String(), "ff:ff:ff:ff:ff:ff", "1", h.MAC(lab.LAN).String(), "ff:ff:ff:ff:ff:ff", "1", ""}
		if len(rows) != len(frames) {
			t.Errorf("%s: tshark sees %d gratuitous ARP packets, want %d", vip, len(rows), len(frames))
		}
		for _, row := range rows {
			if !slices.Equal(row, want) {
				t.Errorf("%s: got %q, want %q", vip, row, want)
			}
		}
	}
}

// wireNA checks unsolicited neighbour advertisements (RFC 4861 section 7.2.6).
func wireNA(t *testing.T, c *lab.Capture, h *lab.Host, vips []netip.Addr) {
	for _, vip := range vips {
		if vip.Is4() {
			continue
		}
		frames := c.Frames(lab.Announcement(h.Name(), vip))
		checkBatches(t, vip, frames)
		rows := tshark(t, c.File, "icmpv6.type == 136 && icmpv6.nd.na.target_address == "+vip.String()+" && icmpv6.nd.na.flag.s == 0", nil,
			"eth.src", "eth.dst", "ipv6.src", "ipv6.dst", "ipv6.hlim", "icmpv6.nd.na.flag.o", "icmpv6.opt.linkaddr", "icmpv6.checksum.status", "_ws.expert.message", "_ws.malformed")
		mac := h.MAC(lab.LAN).String()
		want := []string{mac, "33:33:00:00:00:01", vip.String(), "ff02::1", "255", "1", mac, "1", "", ""}
		if len(rows) != len(frames) {
			t.Errorf("%s: tshark sees %d neighbour advertisements, want %d", vip, len(rows), len(frames))
		}
		for _, row := range rows {
			if !slices.Equal(row, want) {
				t.Errorf("%s: got %q, want %q", vip, row, want)
			}
		}
	}
}

func checkBatches(t *testing.T, vip netip.Addr, frames []lab.Frame) {
	t.Helper()
	if len(frames) != 10 {
		t.Errorf("%s: got %d announcements, want 5 and 5", vip, len(frames))
		return
	}
	if d := frames[4].At.Sub(frames[0].At); d > slack {
		t.Errorf("%s: the first five took %s", vip, d)
	}
	if d := frames[5].At.Sub(frames[0].At); d < 5*time.Second-2*slack || d > 5*time.Second+2*slack {
		t.Errorf("%s: the second batch came after %s, want 5s", vip, d)
	}
}

// TestVRRPWireControl has tshark complain: a test of its silence would otherwise prove nothing.
func TestVRRPWireControl(t *testing.T) {
	l := newLab(t, 2)
	n1 := l.Host("n1")
	c := capture(t, l)
	tests := []struct {
		name        string
		packet      packet
		preferences []string
		good        bool
	}{
		{"good v2", packet{VRID: 1, Version: 2}, nil, true},
		{"good v2 PASS", packet{VRID: 2, Version: 2, Password: "x"}, nil, true},
		{"good v3", packet{VRID: 3}, nil, true},
		{"good v3 of RFC 9568", packet{VRID: 4, Plain: true}, []string{plainChecksum}, true},
		{"good v3 IPv6", packet{VRID: 5, Src: linkLocal(t, n1).String(), Addrs: []string{"fe80::1"}}, nil, true},
		{"v2 checksum", packet{VRID: 11, Version: 2, BadSum: true}, nil, false},
		{"v3 checksum", packet{VRID: 12, BadSum: true}, nil, false},
		{"v3 checksum of RFC 9568", packet{VRID: 13, Plain: true, BadSum: true}, []string{plainChecksum}, false},
		{"v3 of RFC 9568 taken for RFC 5798", packet{VRID: 14, Plain: true}, nil, false},
		{"v3 of RFC 5798 taken for RFC 9568", packet{VRID: 15}, []string{plainChecksum}, false},
		{"v3 IPv6 checksum", packet{VRID: 16, Src: linkLocal(t, n1).String(), Addrs: []string{"fe80::1"}, BadSum: true}, nil, false},
		{"v3 cut short", packet{VRID: 17, Count: ptr(9)}, nil, false},
	}
	for _, tt := range tests {
		start := time.Now()
		tt.packet.send(t, n1, 1)
		waitFrame(t, c, start, tt.name, lab.AdvertFrom("n1", tt.packet.VRID))
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			rows := adverts(t, c.File, fmt.Sprintf("vrrp.virt_rtr_id == %d", tt.packet.VRID), tt.preferences...)
			if len(rows) != 1 {
				t.Fatalf("got %d adverts, want 1", len(rows))
			}
			if text := rows[0].complaint(); (text == "") != tt.good {
				t.Errorf("complaint: got %q, want good %t", text, tt.good)
			}
		})
	}
}
