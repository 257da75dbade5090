//go:build netns

package daemon

import (
	"errors"
	"log/slog"
	"maps"
	"testing"

	"pgvrrp/internal/conf"
	"pgvrrp/internal/system"
	"pgvrrp/internal/system/nstest"
)

// Two VMACs need the same settings of the host: they stay as long as either of them does, and are put back with the last one.
func TestVMACsShareSettings(t *testing.T) {
	for _, stays := range []string{"vrrp.51", "vrrp.52"} {
		t.Run(stays, func(t *testing.T) {
			h, other := nstest.New(t), nstest.New(t)
			nstest.Veth(t, h, "eth0", other, "eth0")
			h.Sysctl(t, "1", "ipv4", "conf", "all", "rp_filter")
			h.Sysctl(t, "0", "ipv4", "conf", "eth0", "rp_filter")
			config := func(names ...string) *conf.Config {
				c := &conf.Config{}
				for _, name := range names {
					mac := conf.MAC{0, 0, 0x5e, 0, 1, name[6]}
					c.Instances = append(c.Instances, conf.Instance{Name: name, Interface: "eth0", VMAC: conf.VMAC{Use: true, Name: name, MAC: mac, LinkGroup: -1}})
				}
				return c
			}
			read := func(vmacs ...string) map[string]string {
				got := map[string]string{}
				for _, key := range append([]string{"all/rp_filter", "eth0/rp_filter", "eth0/arp_ignore", "eth0/arp_filter"}, vmacs...) {
					var err error
					if got[key], err = system.ReadSysctl("net/ipv4/conf/" + key); err != nil {
						t.Error(err)
					}
				}
				return got
			}
			was := map[string]string{"all/rp_filter": "1", "eth0/rp_filter": "0", "eth0/arp_ignore": "0", "eth0/arp_filter": "0"}
			set := map[string]string{"all/rp_filter": "0", "eth0/rp_filter": "1", "eth0/arp_ignore": "1", "eth0/arp_filter": "1"}
			h.Do(t, func() {
				p, err := openPremises(slog.New(slog.DiscardHandler), t.TempDir())
				if err != nil {
					t.Fatal(err)
				}
				p.furnish(config("vrrp.51", "vrrp.52"))
				if got := read(); !maps.Equal(got, set) {
					t.Errorf("with both: %v", got)
				}
				if err := p.clear(config(stays)); err != nil {
					t.Error(err)
				}
				if got := read(); !maps.Equal(got, set) {
					t.Errorf("with %s alone: %v", stays, got)
				}
				// Somebody sets it again, and a new VMAC comes: one that is there checks nothing, nevertheless.
				if err := system.WriteSysctl("net/ipv4/conf/all/rp_filter", "1"); err != nil {
					t.Error(err)
				}
				p.furnish(config(stays, "vrrp.53"))
				set[stays+"/rp_filter"], set["vrrp.53/rp_filter"] = "0", "0"
				if got := read(stays+"/rp_filter", "vrrp.53/rp_filter"); !maps.Equal(got, set) {
					t.Errorf("with a new one: %v", got)
				}
				if err := errors.Join(p.clear(&conf.Config{}), p.close()); err != nil {
					t.Error(err)
				}
				if got := read(); !maps.Equal(got, was) {
					t.Errorf("with none: %v", got)
				}
			})
		})
	}
}
