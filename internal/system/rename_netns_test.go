//go:build netns

package system

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"

	"pgvrrp/internal/conf"
	"pgvrrp/internal/system/nstest"
)

// renamed are the ways in which eth0 becomes lan0, with its addresses and routes (while it is up, since kernel 6.2).
var renamed = []struct {
	name  string
	after func(*testing.T, *nstest.Host)
}{
	{"no interface has the name", func(*testing.T, *nstest.Host) {}},
	{"another interface has the name", func(t *testing.T, h *nstest.Host) { device(t, h, "eth0") }},
}

// device makes an interface that is up.
func device(t *testing.T, h *nstest.Host, name string) {
	t.Helper()
	peer := fmt.Sprintf("peer%d", devices.Add(1))
	h.Run(t, "ip", "link", "add", name, "type", "veth", "peer", "name", peer)
	h.Run(t, "ip", "link", "set", peer, "up")
	h.Run(t, "ip", "link", "set", name, "up")
}

var devices atomic.Int32

// withEth0 is a host with eth0, which has 192.0.2.1/24.
func withEth0(t *testing.T) *nstest.Host {
	t.Helper()
	h := nstest.New(t)
	device(t, h, "eth0")
	h.Run(t, "ip", "addr", "add", "192.0.2.1/24", "dev", "eth0")
	return h
}

func wantHolds(t *testing.T, h *nstest.Host, iface string, want ...string) {
	t.Helper()
	if got := keys(shown(t, h, iface)); !slices.Equal(got, want) {
		t.Errorf("%s holds %q, want %q", iface, got, want)
	}
}

// An interface that is renamed takes its addresses along. They are removed there, and nothing else is.
func TestRemoveAfterRename(t *testing.T) {
	set := Set{Owner: "VI_1", Addresses: []conf.Address{vip("eth0", "192.0.2.101/32"), vip("eth0", "2001:db8::102/128")}}
	for _, tt := range renamed {
		t.Run(tt.name, func(t *testing.T) {
			h := withEth0(t)
			a := openAddresses(t, h, AddressesOptions{})
			if _, err := a.Add(set); err != nil {
				t.Fatal(err)
			}
			h.Run(t, "ip", "link", "set", "eth0", "name", "lan0")
			tt.after(t, h)
			h.Run(t, "ip", "addr", "add", "192.0.2.50/32", "dev", "lan0")
			if err := a.Remove(Set{Owner: set.Owner}); err != nil {
				t.Fatal(err)
			}
			wantHolds(t, h, "lan0", "192.0.2.1/24", "192.0.2.50/32")
		})
	}
	t.Run("added again where the name is now", func(t *testing.T) {
		h := withEth0(t)
		a := openAddresses(t, h, AddressesOptions{})
		for _, after := range []func(){
			func() {
				h.Run(t, "ip", "link", "set", "eth0", "name", "lan0")
				renamed[1].after(t, h)
			},
			func() {},
		} {
			if _, err := a.Add(set); err != nil {
				t.Fatal(err)
			}
			after()
		}
		wantHolds(t, h, "lan0", "192.0.2.1/24")
		wantHolds(t, h, "eth0", "192.0.2.101/32", "2001:db8::102/128")
		if err := a.Remove(Set{Owner: set.Owner}); err != nil {
			t.Fatal(err)
		}
		wantHolds(t, h, "eth0")
	})
	t.Run("another owner knows it by the new name", func(t *testing.T) {
		h := withEth0(t)
		a := openAddresses(t, h, AddressesOptions{})
		other := Set{Owner: "VI_2", Addresses: []conf.Address{vip("lan0", "192.0.2.101/32")}}
		if _, err := a.Add(set); err != nil {
			t.Fatal(err)
		}
		h.Run(t, "ip", "link", "set", "eth0", "name", "lan0")
		if _, err := a.Add(other); err != nil {
			t.Fatal(err)
		}
		if err := a.Remove(Set{Owner: set.Owner}); err != nil {
			t.Fatal(err)
		}
		wantHolds(t, h, "lan0", "192.0.2.1/24", "192.0.2.101/32")
		if err := a.Remove(Set{Owner: other.Owner}); err != nil {
			t.Fatal(err)
		}
		wantHolds(t, h, "lan0", "192.0.2.1/24")
	})
}

// After a kill the state file tells of the interface, whatever it is called now. Another vrrpd's address is not touched, be it
// the same one on another interface.
func TestCleanupAfterRename(t *testing.T) {
	for _, tt := range renamed {
		t.Run(tt.name, func(t *testing.T) {
			h := withEth0(t)
			device(t, h, "eth1")
			another := openAddresses(t, h, AddressesOptions{})
			if _, err := another.Add(Set{Owner: "VI_9", Addresses: []conf.Address{vip("eth1", "fe80::1/64"), vip("eth1", "192.0.2.109/32")}}); err != nil {
				t.Fatal(err)
			}
			file := filepath.Join(t.TempDir(), "addresses.json")
			killed := openAddresses(t, h, AddressesOptions{StateFile: file})
			set := Set{Owner: "VI_1", Addresses: []conf.Address{vip("eth0", "192.0.2.101/32"), vip("eth0", "fe80::1/64"), vip("late0", "192.0.2.103/32")}}
			if err := killed.Declare(set); err != nil {
				t.Fatal(err)
			}
			device(t, h, "late0") // it comes after Declare
			if _, err := killed.Add(set); err != nil {
				t.Fatal(err)
			}
			h.Run(t, "ip", "link", "set", "eth0", "name", "lan0")
			h.Run(t, "ip", "link", "set", "late0", "name", "lan1")
			tt.after(t, h)

			a := openAddresses(t, h, AddressesOptions{StateFile: file})
			left, err := a.Leftovers(t.Context(), set.Addresses)
			if err != nil || len(left) != 3 {
				t.Errorf("left %v and error %v, want three", left, err)
			}
			if _, err := a.Cleanup(t.Context(), set.Addresses); err != nil {
				t.Fatal(err)
			}
			wantHolds(t, h, "lan0", "192.0.2.1/24")
			wantHolds(t, h, "lan1")
			wantHolds(t, h, "eth1", "192.0.2.109/32", "fe80::1/64")
			if _, err := os.Stat(file); !os.IsNotExist(err) {
				t.Errorf("the list is left: %v", err)
			}
		})
	}
}

// Routes stay with their interface, too.
func TestRoutesAfterRename(t *testing.T) {
	to, via := netip.MustParsePrefix, netip.MustParseAddr
	set := RouteSet{Owner: "VI_1", Routes: []conf.Route{
		{Type: "unicast", To: to("10.1.0.0/16"), Via: via("192.0.2.9"), Interface: "eth0", Table: 254, Scope: -1},
		{Type: "unicast", To: to("10.2.0.0/16"), Table: 254, Scope: -1, NextHops: []conf.NextHop{{Via: via("192.0.2.8"), Interface: "eth0", Weight: 1}, {Via: via("192.0.2.9"), Interface: "eth0", Weight: 1}}},
		{Type: "unicast", To: to("2001:db8:1::/48"), Interface: "eth0", Table: 254, Scope: -1},
		{Type: "unicast", To: to("10.3.0.0/16"), Interface: "lo", Table: 254, Scope: -1},
	}}
	for _, tt := range renamed {
		for _, how := range []string{"set", "removed", "killed"} {
			t.Run(tt.name+", "+how, func(t *testing.T) {
				h := withEth0(t)
				file := filepath.Join(t.TempDir(), "routes.json")
				r := openRoutes(t, h, file)
				h.Run(t, "ip", "link", "set", "eth0", "name", "tmp0")
				if err := r.Declare(set); err != nil { // eth0 is not there yet
					t.Fatal(err)
				}
				h.Run(t, "ip", "link", "set", "tmp0", "name", "eth0")
				if missing, err := r.Set(set); err != nil || len(missing) > 0 {
					t.Fatalf("missing %q: %v", missing, err)
				}
				h.Run(t, "ip", "link", "set", "eth0", "name", "lan0")
				tt.after(t, h)
				switch how {
				case "set":
					_, _ = r.Set(set) // most of it cannot be
					if got := h.Run(t, "ip", "route", "show", "dev", "lan0", "proto", "212"); got != "" {
						t.Errorf("left on lan0: %s", got)
					}
					if _, err := r.Set(RouteSet{Owner: set.Owner}); err != nil {
						t.Error(err)
					}
				case "removed":
					if _, err := r.Set(RouteSet{Owner: set.Owner}); err != nil {
						t.Error(err)
					}
				case "killed":
					next := openRoutes(t, h, file)
					left, err := next.Leftovers(nil)
					if err != nil || len(left) != len(set.Routes) {
						t.Errorf("left %q: %v", left, err)
					}
					removed, err := next.Cleanup(nil)
					if err != nil || len(removed) != len(set.Routes) {
						t.Errorf("removed %q: %v", removed, err)
					}
				}
				if got := ours(t, h); len(got) > 0 {
					t.Errorf("left: %q", got)
				}
			})
		}
	}
}
