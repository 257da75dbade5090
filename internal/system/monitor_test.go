package system

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// lines prints events for comparison.
func lines(events []Event) string {
	var b strings.Builder
	for _, e := range events {
		switch e.Kind {
		case LinkChanged:
			fmt.Fprintf(&b, "link %d %s up=%v\n", e.Link.Index, e.Link.Name, e.Link.Up)
		case LinkRemoved:
			fmt.Fprintf(&b, "link %d %s removed\n", e.Link.Index, e.Link.Name)
		default:
			kind := map[EventKind]string{AddressAdded: "added", AddressChanged: "changed", AddressRemoved: "removed"}[e.Kind]
			fmt.Fprintf(&b, "address %s on %s %s\n", e.Address.Prefix, e.Address.Interface, kind)
		}
	}
	return b.String()
}

func newTestMonitor() *Monitor {
	return &Monitor{
		log: slog.New(slog.DiscardHandler), links: map[int]*linkState{}, names: map[string]int{},
		listeners: map[int]func([]Event){},
	}
}

func kernelAddr(index int, prefix string, flags uint32) KernelAddress {
	return KernelAddress{Index: index, Prefix: netip.MustParsePrefix(prefix), Flags: flags}
}

func TestReplace(t *testing.T) {
	m := newTestMonitor()
	eth0 := Link{Index: 2, Name: "eth0", Up: true, Admin: true, Carrier: true, MAC: net.HardwareAddr{2, 0, 0, 0, 0, 1}}
	eth1 := Link{Index: 3, Name: "eth1"}
	steps := []struct {
		name      string
		links     []Link
		addresses []KernelAddress
		want      string
	}{
		{"first", []Link{eth0, eth1}, []KernelAddress{kernelAddr(2, "192.0.2.1/24", 0), kernelAddr(3, "192.0.2.5/24", 0)},
			"link 2 eth0 up=true\nlink 3 eth1 up=false\naddress 192.0.2.1/24 on eth0 added\naddress 192.0.2.5/24 on eth1 added\n"},
		{"nothing changed", []Link{eth0, eth1}, []KernelAddress{kernelAddr(2, "192.0.2.1/24", 0), kernelAddr(3, "192.0.2.5/24", 0)}, ""},
		{"address replaced", []Link{eth0, eth1}, []KernelAddress{kernelAddr(2, "192.0.2.2/24", 0), kernelAddr(3, "192.0.2.5/24", 0)},
			"address 192.0.2.1/24 on eth0 removed\naddress 192.0.2.2/24 on eth0 added\n"},
		{"flags changed", []Link{eth0, eth1}, []KernelAddress{kernelAddr(2, "192.0.2.2/24", 1), kernelAddr(3, "192.0.2.5/24", 0)},
			"address 192.0.2.2/24 on eth0 changed\n"},
		{"made anew", []Link{eth0, {Index: 7, Name: "eth1", Up: true}}, []KernelAddress{kernelAddr(2, "192.0.2.2/24", 1)},
			"address 192.0.2.5/24 on eth1 removed\nlink 3 eth1 removed\nlink 7 eth1 up=true\n"},
		{"renamed", []Link{eth0, {Index: 7, Name: "lan0", Up: true}}, []KernelAddress{kernelAddr(2, "192.0.2.2/24", 1)},
			"link 7 eth1 removed\nlink 7 lan0 up=true\n"},
		{"all gone", nil, nil, "address 192.0.2.2/24 on eth0 removed\nlink 2 eth0 removed\nlink 7 lan0 removed\n"},
	}
	for _, tt := range steps {
		if diff := cmp.Diff(lines(m.replace(tt.links, tt.addresses)), tt.want); diff != "" {
			t.Errorf("%s: got - want +\n%s", tt.name, diff)
		}
	}
	if len(m.links) != 0 || len(m.names) != 0 {
		t.Errorf("got %v and %v left, want nothing", m.links, m.names)
	}
}

func TestPrimaryAddress(t *testing.T) {
	tests := []struct {
		name      string
		addresses []KernelAddress
		ipv6      bool
		vips      []string
		want      string
	}{
		{"first", []KernelAddress{kernelAddr(2, "192.0.2.1/24", 0), kernelAddr(2, "198.51.100.1/24", 0)}, false, nil, "192.0.2.1"},
		{"none", []KernelAddress{kernelAddr(2, "fe80::a/64", 0)}, false, nil, ""},
		{"another interface's", []KernelAddress{kernelAddr(3, "192.0.2.1/24", 0)}, false, nil, ""},
		{"a VIP is not it", []KernelAddress{kernelAddr(2, "192.0.2.1/24", 0), kernelAddr(2, "198.51.100.1/24", 0)}, false, []string{"192.0.2.1"}, "198.51.100.1"},
		{"what we added is not it", []KernelAddress{{Index: 2, Prefix: netip.MustParsePrefix("192.0.2.9/32"), Protocol: AddressProtocol}}, false, nil, ""},
		{"a secondary is not it", []KernelAddress{kernelAddr(2, "192.0.2.2/24", unix.IFA_F_SECONDARY), kernelAddr(2, "192.0.2.1/24", 0)}, false, nil, "192.0.2.1"},
		{"the widest scope", []KernelAddress{{Index: 2, Prefix: netip.MustParsePrefix("169.254.0.1/16"), Scope: 253}, kernelAddr(2, "192.0.2.1/24", 0)}, false, nil, "192.0.2.1"},
		{"link-local", []KernelAddress{kernelAddr(2, "2001:db8::1/64", 0), kernelAddr(2, "fe80::a/64", 0)}, true, nil, "fe80::a"},
		{"tentative", []KernelAddress{kernelAddr(2, "fe80::a/64", unix.IFA_F_TENTATIVE), kernelAddr(2, "fe80::b/64", 0)}, true, nil, "fe80::b"},
		{"duplicate", []KernelAddress{kernelAddr(2, "fe80::a/64", unix.IFA_F_TENTATIVE|unix.IFA_F_DADFAILED)}, true, nil, ""},
		{"optimistic", []KernelAddress{kernelAddr(2, "fe80::a/64", unix.IFA_F_TENTATIVE|unix.IFA_F_OPTIMISTIC)}, true, nil, "fe80::a"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m := newTestMonitor()
			m.replace([]Link{{Index: 2, Name: "eth0"}, {Index: 3, Name: "eth1"}}, tt.addresses)
			var vips []netip.Addr
			for _, v := range tt.vips {
				vips = append(vips, netip.MustParseAddr(v))
			}
			got, ok := m.PrimaryAddress("eth0", tt.ipv6, vips...)
			if want, _ := netip.ParseAddr(tt.want); got != want || ok != (tt.want != "") {
				t.Errorf("got %v, %v, want %v", got, ok, want)
			}
		})
	}
}

func TestLinkReason(t *testing.T) {
	tests := []struct {
		name string
		link Link
		want string
	}{
		{"up", Link{Up: true, Admin: true, Carrier: true}, ""},
		{"down", Link{Carrier: true}, "administratively down"},
		{"cable out", Link{Admin: true}, "no carrier"},
		{"dormant", Link{Admin: true, Carrier: true}, "not running"},
	}
	for _, tt := range tests {
		if got := tt.link.Reason(); got != tt.want {
			t.Errorf("%s: got %q, want %q", tt.name, got, tt.want)
		}
	}
}

// Many changes at the time of the start are waited for, anything else that is wrong is not.
func TestMonitorBegins(t *testing.T) {
	for _, tt := range []struct {
		name  string
		err   error
		fails int
		want  error
		took  time.Duration
	}{
		{"at once", nil, 0, nil, 0},
		{"changes for a while", errChanged, 7, nil, 7 * resyncAgain},
		{"changes without an end", errChanged, 1 << 30, errChanged, beginWithin + resyncAgain},
		{"no right to", unix.EPERM, 1, unix.EPERM, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m, n, began := newTestMonitor(), 0, time.Now()
				m.list = func() ([]Link, []KernelAddress, error) {
					if n++; n <= tt.fails {
						return nil, nil, fmt.Errorf("list links: %w", tt.err)
					}
					return []Link{{Index: 2, Name: "eth0"}}, nil, nil
				}
				if err := m.begin(); !errors.Is(err, tt.want) {
					t.Errorf("got %v, want %v", err, tt.want)
				}
				if took := time.Since(began); took != tt.took {
					t.Errorf("took %s, want %s", took, tt.took)
				}
				if _, ok := m.Link("eth0"); ok != (tt.want == nil) {
					t.Errorf("eth0 is known: %t", ok)
				}
			})
		})
	}
}
