//go:build netns

package system

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"pgvrrp/internal/conf"
	"pgvrrp/internal/system/nstest"
)

// ipBatch runs many commands by one `ip -batch`.
func ipBatch(t *testing.T, h *nstest.Host, commands string) {
	t.Helper()
	h.Do(t, func() {
		cmd := exec.Command("ip", "-batch", "-")
		cmd.Stdin = strings.NewReader(commands)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("run ip -batch: %v\n%s", err, out)
		}
	})
}

// ipAddr is one address as `ip -d -j addr` shows it.
type ipAddr struct {
	Family        string `json:"family"`
	Local         string `json:"local"`
	Address       string `json:"address"` // of the peer
	Prefixlen     int    `json:"prefixlen"`
	Broadcast     string `json:"broadcast"`
	Scope         string `json:"scope"`
	Label         string `json:"label"`
	Valid         uint32 `json:"valid_life_time"`
	Preferred     uint32 `json:"preferred_life_time"`
	Deprecated    bool   `json:"deprecated"`
	Tentative     bool   `json:"tentative"`
	Nodad         bool   `json:"nodad"`
	Home          bool   `json:"home"`
	Mngtmpaddr    bool   `json:"mngtmpaddr"`
	NoPrefixRoute bool   `json:"noprefixroute"`
	Autojoin      bool   `json:"autojoin"`
	Secondary     bool   `json:"secondary"`

	tag uint8 // IFA_PROTO, which iproute2 before 6.4 does not show
}

// shown are the addresses of an interface as another program sees them, but for the kernel's link-local ones.
func shown(t *testing.T, h *nstest.Host, iface string) map[string]ipAddr {
	t.Helper()
	var links []struct {
		Ifindex  int      `json:"ifindex"`
		AddrInfo []ipAddr `json:"addr_info"`
	}
	if err := json.Unmarshal([]byte(h.Run(t, "ip", "-d", "-j", "addr", "show", "dev", iface)), &links); err != nil {
		t.Fatal(err)
	}
	var nl *rtnl
	h.Do(t, func() {
		var err error
		if nl, err = openRTNL(); err != nil {
			t.Fatal(err)
		}
	})
	defer nl.close()
	raw, err := nl.dumpAddresses()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]ipAddr{}
	for _, l := range links {
		for _, a := range l.AddrInfo {
			if a.Local == "" || a.Scope == "link" && strings.Contains(a.Local, "ff:fe") {
				continue
			}
			key := fmt.Sprintf("%s/%d", a.Local, a.Prefixlen)
			for _, k := range raw {
				if k.Index == l.Ifindex && k.Prefix.String() == key {
					a.tag = k.Protocol
				}
			}
			got[key] = a
		}
	}
	return got
}

func keys(m map[string]ipAddr) []string {
	var k []string
	for key := range m {
		k = append(k, key)
	}
	slices.Sort(k)
	return k
}

func openAddresses(t *testing.T, h *nstest.Host, options AddressesOptions) *Addresses {
	t.Helper()
	var a *Addresses
	h.Do(t, func() {
		var err error
		if a, err = OpenAddresses(options); err != nil {
			t.Fatal(err)
		}
	})
	t.Cleanup(func() { _ = a.nl.close() })
	return a
}

// bare is a host with eth0, which has 192.0.2.1/24 and nothing else that is shown.
func bare(t *testing.T) *nstest.Host {
	t.Helper()
	self, peer := nstest.Self(t), nstest.New(t)
	nstest.Veth(t, self, "eth0", peer, "eth0")
	self.Run(t, "ip", "addr", "add", "192.0.2.1/24", "dev", "eth0")
	return self
}

func expectShown(t *testing.T, h *nstest.Host, want ...string) {
	t.Helper()
	slices.Sort(want)
	if diff := cmp.Diff(keys(shown(t, h, "eth0")), want); diff != "" {
		t.Errorf("addresses of eth0: got - want +\n%s", diff)
	}
}

func TestAddressFlags(t *testing.T) {
	self := bare(t)
	a := openAddresses(t, self, AddressesOptions{})
	p, forever := netip.MustParsePrefix, uint32(forEver)
	tests := []struct {
		name     string
		addr     conf.Address
		lifetime time.Duration
		want     ipAddr
	}{
		{"IPv4 single", conf.Address{Prefix: p("192.0.2.100/32"), PreferredLft: -2}, 0,
			ipAddr{Family: "inet", Local: "192.0.2.100", Prefixlen: 32, Scope: "global", Label: "eth0", Valid: forever, Preferred: forever}},
		{"IPv4 subnet", conf.Address{Prefix: p("198.51.100.1/24"), Scope: 253, Label: "eth0:7", Broadcast: netip.MustParseAddr("198.51.100.255"), NoPrefixRoute: true, PreferredLft: -2}, 0,
			ipAddr{Family: "inet", Local: "198.51.100.1", Prefixlen: 24, Broadcast: "198.51.100.255", Scope: "link", Label: "eth0:7", NoPrefixRoute: true, Valid: forever, Preferred: forever}},
		{"IPv4 peer", conf.Address{Prefix: p("198.51.100.1/32"), Peer: p("203.0.113.9/30"), PreferredLft: -2}, 0,
			ipAddr{Family: "inet", Local: "198.51.100.1", Address: "203.0.113.9", Prefixlen: 30, Scope: "global", Label: "eth0", Valid: forever, Preferred: forever}},
		{"IPv4 of the interface's subnet", conf.Address{Prefix: p("192.0.2.100/24"), PreferredLft: -2}, 0,
			ipAddr{Family: "inet", Local: "192.0.2.100", Prefixlen: 24, Scope: "global", Label: "eth0", Secondary: true, Valid: forever, Preferred: forever}},
		{"IPv4 with lifetime", conf.Address{Prefix: p("192.0.2.100/32"), PreferredLft: -2}, 90 * time.Second,
			ipAddr{Family: "inet", Local: "192.0.2.100", Prefixlen: 32, Scope: "global", Label: "eth0", Valid: 90, Preferred: 90}},
		{"IPv6 single", conf.Address{Prefix: p("2001:db8::100/128"), PreferredLft: -2}, 0,
			ipAddr{Family: "inet6", Local: "2001:db8::100", Prefixlen: 128, Scope: "global", Nodad: true, Deprecated: true, Valid: forever}},
		{"IPv6 subnet", conf.Address{Prefix: p("2001:db8::100/64"), PreferredLft: -2, Home: true, NoPrefixRoute: true}, 0,
			ipAddr{Family: "inet6", Local: "2001:db8::100", Prefixlen: 64, Scope: "global", Nodad: true, Home: true, NoPrefixRoute: true, Valid: forever, Preferred: forever}},
		{"IPv6 temporary addresses", conf.Address{Prefix: p("2001:db8::100/64"), PreferredLft: -2, MngTmpAddr: true}, 0,
			ipAddr{Family: "inet6", Local: "2001:db8::100", Prefixlen: 64, Scope: "global", Nodad: true, Mngtmpaddr: true, Valid: forever, Preferred: forever}},
		{"IPv6 link-local", conf.Address{Prefix: p("fe80::100/64"), PreferredLft: -2, Scope: 253}, 0,
			ipAddr{Family: "inet6", Local: "fe80::100", Prefixlen: 64, Scope: "link", Nodad: true, Valid: forever, Preferred: forever}},
		{"IPv6 multicast group", conf.Address{Prefix: p("ff05::77/128"), PreferredLft: -1, AutoJoin: true}, 0,
			ipAddr{Family: "inet6", Local: "ff05::77", Prefixlen: 128, Scope: "site", Nodad: true, Autojoin: true, Valid: forever, Preferred: forever}},
		{"IPv6 with lifetimes", conf.Address{Prefix: p("2001:db8::100/64"), PreferredLft: 30}, 90 * time.Second,
			ipAddr{Family: "inet6", Local: "2001:db8::100", Prefixlen: 64, Scope: "global", Nodad: true, Valid: 90, Preferred: 30}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tt.addr.Interface = "eth0"
			tt.want.tag = AddressProtocol
			set := Set{Owner: "VI_1", Addresses: []conf.Address{tt.addr}, Lifetime: tt.lifetime}
			result, err := a.Add(set)
			if err != nil {
				t.Fatal(err)
			}
			if len(result.Added) != 1 || len(result.Adopted)+len(result.Removed) != 0 {
				t.Errorf("got %+v, want one added", result)
			}
			got := shown(t, self, "eth0")[fmt.Sprintf("%s/%d", tt.want.Local, tt.want.Prefixlen)]
			// A second may have passed.
			if tt.lifetime > 0 && got.Valid == tt.want.Valid-1 {
				got.Valid++
				got.Preferred++
			}
			if diff := cmp.Diff(got, tt.want, cmp.AllowUnexported(ipAddr{})); diff != "" {
				t.Errorf("got - want +\n%s", diff)
			}
			if missing, err := a.Check("VI_1"); err != nil || len(missing) != 0 {
				t.Errorf("got %v missing and error %v, want none", missing, err)
			}
			if err := a.Remove(set); err != nil {
				t.Fatal(err)
			}
			expectShown(t, self, "192.0.2.1/24")
		})
	}
}

func TestAddressesReconcile(t *testing.T) {
	self := bare(t)
	a := openAddresses(t, self, AddressesOptions{})
	one, two, three := vip("eth0", "192.0.2.101/32"), vip("eth0", "2001:db8::102/128"), vip("eth0", "192.0.2.103/24")
	set := func(owner string, list ...conf.Address) Set { return Set{Owner: owner, Addresses: list} }
	add := func(want AddResult, s Set) {
		t.Helper()
		got, err := a.Add(s)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(got, want, cmp.Comparer(func(a, b conf.Address) bool { return a == b })); diff != "" {
			t.Errorf("got - want +\n%s", diff)
		}
	}
	list := func(a ...conf.Address) []conf.Address { return a }

	add(AddResult{Added: list(one, two)}, set("VI_1", one, two))
	expectShown(t, self, "192.0.2.1/24", "192.0.2.101/32", "2001:db8::102/128")
	// Again: nothing to do, and nothing to tell.
	add(AddResult{}, set("VI_1", one, two))
	// A changed set.
	add(AddResult{Added: list(three), Removed: list(one)}, set("VI_1", two, three))
	expectShown(t, self, "192.0.2.1/24", "192.0.2.103/24", "2001:db8::102/128")
	// Two owners of one address: it stays until both have let go.
	add(AddResult{Adopted: list(three)}, set("VI_2", three))
	if err := a.Remove(set("VI_1")); err != nil {
		t.Fatal(err)
	}
	expectShown(t, self, "192.0.2.1/24", "192.0.2.103/24")
	for range 2 {
		if err := a.Remove(set("VI_2", one, two, three)); err != nil {
			t.Fatal(err)
		}
		expectShown(t, self, "192.0.2.1/24")
	}
	// An address that is not held, but listed, goes: a Backup must not have it, whoever left it.
	self.Run(t, "ip", "addr", "add", "192.0.2.101/32", "dev", "eth0")
	self.Run(t, "ip", "addr", "add", "2001:db8::102/64", "dev", "eth0", "nodad")
	if err := a.Remove(set("VI_1", one, two)); err != nil {
		t.Fatal(err)
	}
	expectShown(t, self, "192.0.2.1/24")
	// So does one on an interface that is not there any more.
	if err := a.Remove(set("VI_1", vip("eth9", "192.0.2.101/32"))); err != nil {
		t.Fatal(err)
	}
}

// What a former run, or somebody else, left is adopted: it gets our tag, flags and lifetime.
func TestAddressesAdopt(t *testing.T) {
	self := bare(t)
	a := openAddresses(t, self, AddressesOptions{})
	self.Run(t, "ip", "addr", "add", "192.0.2.101/32", "dev", "eth0")
	self.Run(t, "ip", "addr", "add", "2001:db8::102/64", "dev", "eth0", "nodad")
	set := Set{Owner: "VI_1", Lifetime: 60 * time.Second, Addresses: []conf.Address{vip("eth0", "192.0.2.101/32"), vip("eth0", "2001:db8::102/128")}}
	result, err := a.Add(set)
	if err != nil {
		t.Fatal(err)
	}
	if len(result.Adopted) != 2 || len(result.Added) != 0 {
		t.Errorf("got %+v, want two adopted", result)
	}
	got := shown(t, self, "eth0")
	for _, key := range []string{"192.0.2.101/32", "2001:db8::102/64"} {
		if got[key].tag != AddressProtocol || got[key].Valid > 60 || got[key].Valid < 58 {
			t.Errorf("got %+v for %s, want our tag and lifetime", got[key], key)
		}
	}
	if err := a.Remove(set); err != nil {
		t.Fatal(err)
	}
	expectShown(t, self, "192.0.2.1/24")
}

// The owner of its addresses has them from elsewhere: they are neither tagged nor removed.
func TestAddressesKeepExisting(t *testing.T) {
	self := bare(t)
	a := openAddresses(t, self, AddressesOptions{})
	set := Set{Owner: "VI_1", KeepExisting: true, Addresses: []conf.Address{vip("eth0", "192.0.2.1/24"), vip("eth0", "192.0.2.101/32")}}
	if err := a.Remove(set); err != nil { // at start, before anything is held
		t.Fatal(err)
	}
	for range 2 {
		if _, err := a.Add(set); err != nil {
			t.Fatal(err)
		}
		got := shown(t, self, "eth0")
		if got["192.0.2.1/24"].tag == AddressProtocol || got["192.0.2.101/32"].tag != AddressProtocol {
			t.Errorf("got %+v, want only .101 to be ours", got)
		}
	}
	if err := a.Remove(set); err != nil {
		t.Fatal(err)
	}
	expectShown(t, self, "192.0.2.1/24")
}

func TestAddressesLifetime(t *testing.T) {
	self := bare(t)
	a := openAddresses(t, self, AddressesOptions{})
	w := watch(t, self, MonitorOptions{})
	lost := make(chan string, 10)
	a.Watch(w.Monitor, func(owner string, missing []conf.Address) { lost <- owner })
	set := Set{Owner: "VI_1", Lifetime: time.Second, Addresses: []conf.Address{vip("eth0", "192.0.2.101/32"), vip("eth0", "2001:db8::102/128")}}
	if _, err := a.Add(set); err != nil {
		t.Fatal(err)
	}
	// Renewed five times a second it outlives its lifetime, and a renewal is no event.
	ticker := time.NewTicker(200 * time.Millisecond)
	defer ticker.Stop()
	for range 12 {
		<-ticker.C
		if err := a.Renew("VI_1"); err != nil {
			t.Fatal(err)
		}
	}
	expectShown(t, self, "192.0.2.1/24", "192.0.2.101/32", "2001:db8::102/128")
	// As after SIGKILL, the kernel removes it.
	for range 2 {
		w.until(t, func(e Event) bool { return e.Kind == AddressRemoved })
	}
	expectShown(t, self, "192.0.2.1/24")
	if got := <-lost; got != "VI_1" {
		t.Errorf("got %q, want VI_1", got)
	}
	if err := a.Renew("VI_1"); err == nil {
		t.Error("got no error from renewing addresses that are gone")
	}
	expectShown(t, self, "192.0.2.1/24")
}

func TestAddressRemovedByOthers(t *testing.T) {
	self := bare(t)
	a := openAddresses(t, self, AddressesOptions{})
	w := watch(t, self, MonitorOptions{})
	type loss struct {
		owner   string
		missing []conf.Address
	}
	lost := make(chan loss, 100)
	cancel := a.Watch(w.Monitor, func(owner string, missing []conf.Address) { lost <- loss{owner, missing} })
	one, two := vip("eth0", "192.0.2.101/32"), vip("eth0", "2001:db8::102/128")
	set := Set{Owner: "VI_1", Addresses: []conf.Address{one, two}}

	// Our own comings and goings are not foreign.
	for range 20 {
		if _, err := a.Add(set); err != nil {
			t.Fatal(err)
		}
		if err := a.Remove(set); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := a.Add(set); err != nil {
		t.Fatal(err)
	}
	// Nor is an address that nobody holds.
	self.Run(t, "ip", "addr", "add", "192.0.2.50/32", "dev", "eth0")
	self.Run(t, "ip", "addr", "del", "192.0.2.50/32", "dev", "eth0")
	w.until(t, addressIs(AddressRemoved, "192.0.2.50/32"))

	for _, victim := range []conf.Address{one, two} {
		self.Run(t, "ip", "addr", "del", victim.Prefix.String(), "dev", "eth0")
		select {
		case got := <-lost:
			if got.owner != "VI_1" || len(got.missing) != 1 || got.missing[0] != victim {
				t.Errorf("got %+v, want %s of VI_1", got, victim.Prefix)
			}
		case <-time.After(5 * time.Second):
			t.Fatalf("removal of %s not reported", victim.Prefix)
		}
		missing, err := a.Check("VI_1")
		if err != nil || len(missing) != 1 {
			t.Errorf("got %v missing and error %v, want one", missing, err)
		}
		result, err := a.Add(set) // put back
		if err != nil || len(result.Added) != 1 {
			t.Errorf("got %+v and error %v, want one added", result, err)
		}
	}
	// With the interface all go.
	self.Run(t, "ip", "link", "del", "eth0")
	missing := 0
	for missing < 2 {
		select {
		case got := <-lost:
			missing = len(got.missing)
		case <-time.After(5 * time.Second):
			t.Fatal("removal with the interface not reported")
		}
	}
	if _, err := a.Add(set); !errors.Is(err, unix.ENODEV) || !strings.Contains(err.Error(), "add address 192.0.2.101/32 on eth0: no such device") {
		t.Errorf("got %v, want %v", err, unix.ENODEV)
	}
	if missing, err := a.Check("VI_1"); err != nil || len(missing) != 2 {
		t.Errorf("got %v missing and error %v, want both", missing, err)
	}
	cancel()
}

func TestAddressErrors(t *testing.T) {
	self := bare(t)
	a := openAddresses(t, self, AddressesOptions{})
	self.Sysctl(t, "1", "ipv6", "conf", "eth0", "disable_ipv6")
	set := Set{Owner: "VI_1", Addresses: []conf.Address{vip("eth0", "2001:db8::102/128"), vip("eth9", "192.0.2.102/32"), vip("eth0", "192.0.2.101/32")}}
	result, err := a.Add(set)
	for _, want := range []string{
		"add address 2001:db8::102/128 on eth0: permission denied: ", // and the kernel's own words
		"add address 192.0.2.102/32 on eth9: no such device",
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
	if len(result.Added) != 1 {
		t.Errorf("got %+v, want the third added in spite of the others", result)
	}
	missing, err := a.Check("VI_1")
	if err != nil || len(missing) != 2 {
		t.Errorf("got %v missing and error %v, want two", missing, err)
	}
	if err := a.nl.close(); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Check("VI_1"); err == nil {
		t.Error("got no error from a check that could not be made")
	}
}

func TestAddressesMany(t *testing.T) {
	self := bare(t)
	a := openAddresses(t, self, AddressesOptions{StateFile: filepath.Join(t.TempDir(), "addresses.json")})
	set := Set{Owner: "VI_1"}
	for i := range 500 {
		set.Addresses = append(set.Addresses, vip("eth0", fmt.Sprintf("10.1.%d.%d/32", i/250, i%250)))
	}
	if err := a.Declare(set); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	result, err := a.Add(set)
	t.Logf("500 addresses added in %s", time.Since(start))
	if err != nil || len(result.Added) != 500 {
		t.Fatalf("got %d added and error %v, want 500", len(result.Added), err)
	}
	start = time.Now()
	missing, err := a.Check("VI_1")
	t.Logf("500 addresses checked in %s", time.Since(start))
	if err != nil || len(missing) != 0 {
		t.Errorf("got %d missing and error %v, want 0", len(missing), err)
	}
	start = time.Now()
	if err := a.Remove(set); err != nil {
		t.Fatal(err)
	}
	t.Logf("500 addresses removed in %s", time.Since(start))
	expectShown(t, self, "192.0.2.1/24")
}

func TestCleanup(t *testing.T) {
	self := bare(t)
	file := filepath.Join(t.TempDir(), "addresses.json")
	killed := openAddresses(t, self, AddressesOptions{StateFile: file})
	set := Set{Owner: "VI_1", Addresses: []conf.Address{vip("eth0", "192.0.2.101/32"), vip("eth0", "2001:db8::102/128"), vip("lo", "192.0.2.103/32")}}
	if err := killed.Declare(set); err != nil {
		t.Fatal(err)
	}
	if _, err := killed.Add(set); err != nil {
		t.Fatal(err)
	}
	if err := killed.nl.close(); err != nil { // as SIGKILL leaves it
		t.Fatal(err)
	}
	self.Run(t, "ip", "addr", "add", "192.0.2.104/32", "dev", "eth0") // in the new configuration
	self.Run(t, "ip", "addr", "add", "192.0.2.105/32", "dev", "eth0") // not ours, not listed
	self.Run(t, "ip", "addr", "add", "192.0.2.101/24", "dev", "eth0") // not ours, another prefix

	a := openAddresses(t, self, AddressesOptions{StateFile: file})
	index, err := a.nl.index("eth0")
	if err != nil {
		t.Fatal(err)
	}
	other := addRequest(index, vip("eth0", "192.0.2.106/32"), 0, unix.NLM_F_CREATE) // another program's
	other.body[len(other.body)-4] = 18
	if outcomes, err := a.nl.exchange([]message{other}); err != nil || outcomes[0] != nil {
		t.Fatal(outcomes, err)
	}
	held := Set{Owner: "VI_9", Addresses: []conf.Address{vip("eth0", "192.0.2.109/32")}}
	if _, err := a.Add(held); err != nil {
		t.Fatal(err)
	}
	listed := []conf.Address{vip("eth0", "192.0.2.104/32"), vip("eth9", "192.0.2.104/32"), held.Addresses[0]}
	before := keys(shown(t, self, "eth0"))
	foretold, err := a.Leftovers(t.Context(), listed)
	if err != nil {
		t.Fatal(err)
	}
	expectShown(t, self, before...) // only looked at
	removed, err := a.Cleanup(t.Context(), listed)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(removed, foretold, cmp.Comparer(func(a, b KernelAddress) bool { return a == b })); diff != "" {
		t.Errorf("removed - foretold +\n%s", diff)
	}
	var got []string
	for _, k := range removed {
		got = append(got, k.Prefix.String()+" "+k.Interface)
	}
	slices.Sort(got)
	want := []string{"192.0.2.101/32 eth0", "192.0.2.103/32 lo", "192.0.2.104/32 eth0", "2001:db8::102/128 eth0"}
	if diff := cmp.Diff(got, want); diff != "" {
		t.Errorf("got - want +\n%s", diff)
	}
	expectShown(t, self, "192.0.2.1/24", "192.0.2.101/24", "192.0.2.105/32", "192.0.2.106/32", "192.0.2.109/32")
	// Again, with nothing left to do.
	if removed, err := a.Cleanup(t.Context(), nil); err != nil || len(removed) != 0 {
		t.Errorf("got %v and error %v, want nothing", removed, err)
	}
	if b, err := os.ReadFile(file); err != nil || strings.Contains(string(b), "VI_1") || !strings.Contains(string(b), "VI_9") {
		t.Errorf("got state %s and error %v, want VI_9 alone", b, err)
	}
	if err := a.Remove(held); err != nil {
		t.Fatal(err)
	}
	if err := a.Forget("VI_9"); err != nil {
		t.Fatal(err)
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(file); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v, want no state file after a clean end", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	b := openAddresses(t, self, AddressesOptions{})
	if _, err := b.Cleanup(ctx, []conf.Address{vip("eth0", "192.0.2.105/32")}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want %v", err, context.Canceled)
	}
}

// On a kernel without tags the state file alone tells what is ours.
func TestTaglessForeign(t *testing.T) {
	self := bare(t)
	file := filepath.Join(t.TempDir(), "addresses.json")
	a := openAddresses(t, self, AddressesOptions{StateFile: file})
	ours, theirs := vip("eth0", "192.0.2.101/32"), vip("eth0", "192.0.2.1/24")
	if err := a.Declare(Set{Owner: "VI_1", Addresses: []conf.Address{ours, theirs}}); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Add(Set{Owner: "VI_1", Addresses: []conf.Address{ours}}); err != nil {
		t.Fatal(err)
	}
	present, err := a.nl.dumpAddresses()
	if err != nil {
		t.Fatal(err)
	}
	for i := range present {
		present[i].Protocol = 0
	}
	if a.foreign(present, ours) || !a.foreign(present, theirs) {
		t.Errorf("got foreign %v and %v, want false and true", a.foreign(present, ours), a.foreign(present, theirs))
	}
	if err := a.Remove(Set{Owner: "VI_1"}); err != nil {
		t.Fatal(err)
	}
}
