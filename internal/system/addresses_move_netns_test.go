//go:build netns

package system

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"pgvrrp/internal/conf"
	"pgvrrp/internal/system/nstest"
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

// What the kernel did not take off is not forgotten: the next try takes it.
func TestAddressesThatStay(t *testing.T) {
	self := bare(t)
	a := openAddresses(t, self, AddressesOptions{})
	x, y, z := vip("eth0", "192.0.2.101/32"), vip("eth0", "2001:db8::102/128"), vip("eth0", "192.0.2.103/32")
	set := func(list ...conf.Address) error {
		_, err := a.Add(Set{Owner: "VI_1", Addresses: list})
		return err
	}
	refused := func(f func() error) {
		t.Helper()
		nstest.Without(t, unix.CAP_NET_ADMIN, func() {
			if err := f(); !errors.Is(err, unix.EPERM) {
				t.Fatalf("got %v, want that it is not permitted", err)
			}
		})
	}
	if err := set(x, y, z); err != nil {
		t.Fatal(err)
	}
	refused(func() error { return set(x, y) })
	refused(func() error { return set(x) })
	expectShown(t, self, "192.0.2.1/24", "192.0.2.101/32", "192.0.2.103/32", "2001:db8::102/128")
	if err := set(x); err != nil {
		t.Fatal(err)
	}
	expectShown(t, self, "192.0.2.1/24", "192.0.2.101/32")

	end := a.Move([]conf.Address{x})
	if err := a.Remove(Set{Owner: "VI_1"}); err != nil {
		t.Fatal(err)
	}
	refused(end)
	expectShown(t, self, "192.0.2.1/24", "192.0.2.101/32")
	if err := end(); err != nil {
		t.Fatal(err)
	}
	expectShown(t, self, "192.0.2.1/24")
}

// An address may come and go in what the kernel dropped: after that all of them are looked at.
func TestAddressLostUnseen(t *testing.T) {
	self := bare(t)
	a := openAddresses(t, self, AddressesOptions{})
	var m *Monitor
	self.Do(t, func() {
		var err error
		if m, err = OpenMonitor(MonitorOptions{ReceiveBuffer: 2048}); err != nil {
			t.Fatal(err)
		}
	})
	defer m.Close()
	lost := make(chan []conf.Address, 10)
	a.Watch(m, func(_ string, missing []conf.Address) { lost <- missing })
	var batch strings.Builder // nobody reads yet
	for k := range 100 {
		fmt.Fprintf(&batch, "addr add 198.51.100.%d/32 dev eth0\n", k)
	}
	ipBatch(t, self, batch.String())
	x := vip("eth0", "192.0.2.101/32")
	if _, err := a.Add(Set{Owner: "VI_1", Addresses: []conf.Address{x}}); err != nil {
		t.Fatal(err)
	}
	self.Run(t, "ip", "addr", "del", "192.0.2.101/32", "dev", "eth0")
	if _, err := a.Add(Set{Owner: "VI_0", Addresses: []conf.Address{vip("eth9", "192.0.2.102/32")}}); err == nil {
		t.Fatal("an address on an interface that is not there: got no error")
	} // and nobody took it away
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- m.Run(ctx) }()
	select {
	case got := <-lost:
		if len(got) != 1 || got[0] != x {
			t.Errorf("got %v lost, want %v", got, x)
		}
	case <-time.After(5 * time.Second):
		t.Error("nobody was told")
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if len(lost) > 0 {
		t.Errorf("got %v lost, too", <-lost)
	}
}
