package lab

import (
	"encoding/hex"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestParse(t *testing.T) {
	const (
		ether4   = "01005e000012 027700000001 0800"
		etherV6  = "333300000001 027700000001 86dd"
		etherA   = "ffffffffffff 027700000001 0806"
		ipv4head = "45c0 0020 0000 0000 ff70 0000 0a4d0001 e0000012"
		ipv6head = "60000000 0020 3a ff fe800000000000000000000000000001 ff020000000000000000000000000001"
	)
	tests := []struct {
		name  string
		hex   string
		check func(f *Frame) bool
	}{
		{"vrrp v3", ether4 + ipv4head + "31336401 000a 0000 0a4d0064", func(f *Frame) bool {
			a := f.VRRP
			return a != nil && a.Version == 3 && a.Type == 1 && a.VRID == 51 && a.Priority == 100 && a.Interval == 100*time.Millisecond &&
				slices.Equal(a.Addrs, []netip.Addr{VIP(1)}) && f.TTL == 255 && f.Src.String() == "10.77.0.1"
		}},
		{"vrrp v2", ether4 + ipv4head + "21336401 0001 0000 0a4d0064", func(f *Frame) bool { return f.VRRP != nil && f.VRRP.Version == 2 && f.VRRP.Interval == time.Second }},
		{"vrrp with more addresses announced than there", ether4 + ipv4head + "313364ff 000a 0000 0a4d0064", func(f *Frame) bool { return f.VRRP != nil && len(f.VRRP.Addrs) == 1 }},
		{"gratuitous arp", etherA + "0001 0800 06 04 0001 027700000001 0a4d0064 000000000000 0a4d0064", func(f *Frame) bool {
			return f.ARP != nil && f.Announces(VIP(1)) && !f.Announces(VIP(2))
		}},
		{"arp request", etherA + "0001 0800 06 04 0001 027700000001 0a4d0001 000000000000 0a4d0064", func(f *Frame) bool { return f.ARP != nil && !f.Announces(VIP(1)) }},
		{"unsolicited neighbour advertisement", etherV6 + ipv6head + "8800 0000 20000000 fd770000000000000000000000000100 0201 027700000001", func(f *Frame) bool {
			return f.NA != nil && f.NA.Override && f.Announces(VIP6(1))
		}},
		{"solicited neighbour advertisement", etherV6 + ipv6head + "8800 0000 60000000 fd770000000000000000000000000100 0201 027700000001", func(f *Frame) bool {
			return f.NA != nil && !f.Announces(VIP6(1))
		}},
		{"short frame", "0102", func(f *Frame) bool { return f.EtherType == 0 }},
		{"short ip", ether4 + "4500", func(f *Frame) bool { return f.VRRP == nil && !f.Src.IsValid() }},
		{"ip header longer than the packet", ether4 + "4fc0 0020 0000 0000 ff70 0000 0a4d0001 e0000012", func(f *Frame) bool { return f.VRRP == nil }},
		{"total length shorter than the header", ether4 + "45c0 0010 0000 0000 ff70 0000 0a4d0001 e0000012 31336401 000a 0000", func(f *Frame) bool { return f.VRRP == nil }},
		{"short arp", etherA + "0001 0800 06 04", func(f *Frame) bool { return f.ARP == nil }},
		{"padding is not payload", ether4 + "45c0 0014 0000 0000 ff70 0000 0a4d0001 e0000012 31336401 000a 0000 0a4d0064", func(f *Frame) bool { return f.VRRP == nil }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			raw, err := hex.DecodeString(strings.ReplaceAll(tt.hex, " ", ""))
			if err != nil {
				t.Fatal(err)
			}
			f := &Frame{Raw: raw}
			f.parse()
			if !tt.check(f) {
				t.Errorf("got %s; vrrp %+v arp %+v na %+v", f, f.VRRP, f.ARP, f.NA)
			}
		})
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte{})
	f.Fuzz(func(_ *testing.T, raw []byte) {
		fr := &Frame{Raw: raw}
		fr.parse()
		_ = fr.String()
	})
}

func TestAddresses(t *testing.T) {
	h := newHost(nil, HostSpec{Name: "w1", Index: 21})
	tests := []struct{ name, got, want string }{
		{"lan", h.Addr(LAN).String(), "10.77.0.21"},
		{"interconnect", h.Addr(Interconnect).String(), "10.78.0.21"},
		{"lan v6", h.Addr6(LAN).String(), "fd77::21"},
		{"interconnect v6", h.Addr6(Interconnect).String(), "fd78::21"},
		{"mac", h.MAC(Interconnect).String(), "02:4e:00:00:00:15"},
		{"vip", VIP(2).String(), "10.77.0.101"},
		{"vip v6", VIP6(2).String(), "fd77::101"},
		{"disk lib", newHost(&Lab{dir: "/d"}, HostSpec{Name: "n1"}).DiskPath("/var/lib/x/../y"), "/d/hosts/n1/disk/lib/y"},
		{"disk etc", newHost(&Lab{dir: "/d"}, HostSpec{Name: "n1"}).DiskPath("etc/passwd"), "/d/hosts/n1/disk/etc/passwd"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if tt.got != tt.want {
				t.Errorf("got %s, want %s", tt.got, tt.want)
			}
		})
	}
}

func TestProbeReport(t *testing.T) {
	at := func(ms int) time.Time { return time.Unix(1000, int64(ms)*int64(time.Millisecond)) }
	p := &Probe{asked: make([]time.Time, 6), answers: []Answer{
		{0, at(0), "a", "n1"}, {1, at(1), "a", "n1"}, {2, at(2), "a", "n1"}, {2, at(3), "b", "n2"}, {4, at(100), "b", "n2"}, {4, at(100), "b", "n2"}, {5, at(101), "02:00:5e:00:01:33", ""},
	}}
	r, err := p.Report()
	if err != nil {
		t.Fatal(err)
	}
	who := []string{}
	for _, h := range r.Holdings {
		who = append(who, h.Who)
	}
	if want := []string{"n1", "n2", "02:00:5e:00:01:33"}; !slices.Equal(who, want) {
		t.Errorf("holdings: got %v, want %v", who, want)
	}
	if r.Unanswered != 1 || len(r.Double) != 2 || r.Double[0].Question != 2 {
		t.Errorf("got %+v", r)
	}
	if gaps := p.Gaps(50 * time.Millisecond); len(gaps) != 1 || gaps[0].Who != "n2 -> n2" {
		t.Errorf("gaps: got %+v", gaps)
	}
}
