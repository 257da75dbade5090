//go:build netns

package system

import (
	"slices"
	"sync"
	"testing"

	"pgvrrp/internal/conf"
)

// A reload that gives an address to another instance must not take it off the interface for a moment, whichever of the two is
// told first, and must leave nothing behind that nobody took.
func TestAddressesMove(t *testing.T) {
	self := bare(t)
	a := openAddresses(t, self, AddressesOptions{})
	w := watch(t, self, MonitorOptions{})
	var mu sync.Mutex
	var removed []string
	defer w.Subscribe(func(events []Event) {
		mu.Lock()
		defer mu.Unlock()
		for _, e := range events {
			if e.Kind == AddressRemoved {
				removed = append(removed, e.Address.Prefix.String())
			}
		}
	})()
	x, y, z := vip("eth0", "192.0.2.101/32"), vip("eth0", "2001:db8::102/128"), vip("eth0", "192.0.2.103/32")
	add := func(owner string, list ...conf.Address) {
		t.Helper()
		if _, err := a.Add(Set{Owner: owner, Addresses: list}); err != nil {
			t.Fatal(err)
		}
	}
	remove := func(owner string, list ...conf.Address) {
		t.Helper()
		if err := a.Remove(Set{Owner: owner, Addresses: list}); err != nil {
			t.Fatal(err)
		}
	}
	wantRemoved := func(want ...string) {
		t.Helper()
		self.Run(t, "ip", "addr", "add", "192.0.2.50/32", "dev", "eth0")
		self.Run(t, "ip", "addr", "del", "192.0.2.50/32", "dev", "eth0")
		w.until(t, addressIs(AddressRemoved, "192.0.2.50/32"))
		mu.Lock()
		defer mu.Unlock()
		if want = append(want, "192.0.2.50/32"); !slices.Equal(removed, want) {
			t.Errorf("got %q removed, want %q", removed, want)
		}
		removed = nil
	}

	add("VI_1", x, y)
	add("VI_2", z)
	// Two addresses cross: neither owner can be the first without the help.
	end := a.Move([]conf.Address{x, z})
	add("VI_1", y, z)
	add("VI_2", x)
	if err := end(); err != nil {
		t.Fatal(err)
	}
	wantRemoved()
	expectShown(t, self, "192.0.2.1/24", "192.0.2.101/32", "192.0.2.103/32", "2001:db8::102/128")

	// The former owner goes before the new one has it.
	end = a.Move([]conf.Address{x})
	remove("VI_2", x)
	add("VI_1", x, y, z)
	if err := end(); err != nil {
		t.Fatal(err)
	}
	wantRemoved()

	// Nobody takes it: it goes at the end, and what was not to move went at once.
	end = a.Move([]conf.Address{x})
	remove("VI_1", x, y, z)
	expectShown(t, self, "192.0.2.1/24", "192.0.2.101/32")
	if err := end(); err != nil {
		t.Fatal(err)
	}
	expectShown(t, self, "192.0.2.1/24")
	w.until(t, addressIs(AddressRemoved, "192.0.2.101/32"))
	mu.Lock()
	removed = nil
	mu.Unlock()

	// And afterwards all is as ever.
	add("VI_1", x)
	remove("VI_1", x)
	wantRemoved("192.0.2.101/32")
}
