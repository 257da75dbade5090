package daemon

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"pgvrrp/internal/conf"
)

// TestVMACs: which VMACs an instance has, and where its addresses and adverts are.
func TestVMACs(t *testing.T) {
	four, six, other := conf.Address{Prefix: netip.MustParsePrefix("192.0.2.100/24")}, conf.Address{Prefix: netip.MustParsePrefix("fe80::1/64")},
		conf.Address{Prefix: netip.MustParsePrefix("198.51.100.1/24"), Interface: "eth1"}
	on := func(a conf.Address) conf.Address { a.VMAC = true; return a }
	use := conf.VMAC{Use: true, Name: "vrrp.51", MAC: conf.MAC{0, 0, 0x5e, 0, 1, 51}, LinkGroup: -1, AddrPrefix: "vrrp"}
	base, long := use, conf.VMAC{LinkGroup: -1, AddrPrefix: "averylongprefix"}
	base.XmitBase = true
	tests := []struct {
		name      string
		vmac      conf.VMAC
		addresses []conf.Address
		want      string // adverts; addresses; VMACs
	}{
		{"none", conf.VMAC{}, []conf.Address{four, other}, "eth0; eth0 eth1;"},
		{"all", use, []conf.Address{on(four), other}, "vrrp.51; vrrp.51 eth1; vrrp.51@eth0(00:00:5e:00:01:33)"},
		{"adverts on the interface", base, []conf.Address{on(four)}, "eth0; vrrp.51; vrrp.51@eth0(00:00:5e:00:01:33)"},
		{"another family", use, []conf.Address{on(four), on(six)},
			"vrrp.51; vrrp.51 vrrp.51.248b; vrrp.51@eth0(00:00:5e:00:01:33) vrrp.51.248b@eth0(00:00:5e:00:02:33)"},
		{"another interface alone, long prefix", long, []conf.Address{four, on(other)},
			"eth0; eth0 averylo.51.3f35; averylo.51.3f35@eth1(00:00:5e:00:01:33)"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := conf.Instance{Name: "VI_1", Interface: "eth0", VRID: 51, VMAC: tt.vmac, Addresses: tt.addresses}
			full := withInterfaces(c)
			var devices, vmacs []string
			for _, a := range withInterfaces(full).Addresses { // twice is once
				devices = append(devices, a.Interface)
			}
			for _, v := range vmacsOf(&c) {
				vmacs = append(vmacs, fmt.Sprintf("%s@%s(%s)", v.Name, v.Parent, v.MAC))
			}
			got := strings.TrimSpace(wireInterface(&c) + "; " + strings.Join(devices, " ") + "; " + strings.Join(vmacs, " "))
			if got != tt.want {
				t.Errorf("got  %s\nwant %s", got, tt.want)
			}
		})
	}
}

// TestFilterRules: the owner of its addresses accepts what comes for them.
func TestFilterRules(t *testing.T) {
	address := func(s string) []conf.Address { return []conf.Address{{Prefix: netip.MustParsePrefix(s)}} }
	config := &conf.Config{Instances: []conf.Instance{
		{Name: "a", Interface: "eth0", NoAccept: true, Priority: 100, Addresses: address("192.0.2.2/24"), Excluded: address("fd00::1/64")},
		{Name: "b", Interface: "eth0", NoAccept: true, Priority: 255, Addresses: address("192.0.2.3/24")},
		{Name: "c", Interface: "eth0", Priority: 100, Addresses: address("192.0.2.4/24"), VMAC: conf.VMAC{Use: true, Name: "v2"}},
		{Name: "d", Interface: "eth0", NoAccept: true, Priority: 100, Addresses: address("192.0.2.1/24"), VMAC: conf.VMAC{Use: true, Name: "v1", XmitBase: true}},
	}}
	if got, want := fmt.Sprint(filterRules(config)), "{[192.0.2.1 192.0.2.2 fd00::1] [v1 v2]}"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}
