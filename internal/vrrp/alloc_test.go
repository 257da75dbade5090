package vrrp

import (
	"net/netip"
	"testing"
	"time"
)

// TestNoAllocations: the packet path and a steady router make no garbage, so that no collection ever delays an advert.
func TestNoAllocations(t *testing.T) {
	for _, v := range vectors {
		b := v.bytes(t)
		var a Advert
		Decode(&a, b, v.src, v.dst) // makes room for the addresses
		mustNotAllocate(t, "decode "+v.name, func() { Decode(&a, b, v.src, v.dst) })

		buf := make([]byte, 0, len(b))
		mustNotAllocate(t, "encode "+v.name, func() {
			if _, err := AppendAdvert(buf, &v.advert, v.src, v.dst, v.form); err != nil {
				t.Fatal(err)
			}
		})
	}

	var a Advert
	for name, tt := range map[string]struct {
		f Filter
		p Packet
	}{
		"version 2":               {filter2(), packet(t, vectors[1])},
		"version 3":               {filter4(), packet(t, vectors[4])},
		"IPv6 with a zone":        {filter6(), Packet{Payload: vectors[7].bytes(t), Src: link1.WithZone("eth0"), Dst: group6, TTL: TTL}},
		"unicast":                 {filterUnicast(), unicast(t, ip3, 100)},
		"rejected":                {filter4(), packet(t, vectors[3])},
		"other addresses, warned": {Filter{Version: 3, VRID: 51, Addrs: []netip.Addr{ip1}}, packet(t, vectors[4])},
	} {
		tt.f.Check(&a, tt.p)
		mustNotAllocate(t, "filter "+name, func() { tt.f.Check(&a, tt.p) })
	}

	active := newActive(t)
	mustNotAllocate(t, "Active ticks", func() {
		active.now = active.r.Deadline()
		if n := len(active.r.Step(active.now, Event{Kind: Tick})); n != 1 {
			t.Fatalf("got %d actions, want an advert", n)
		}
	})
	mustNotAllocate(t, "Active in contention", func() {
		active.wait(time.Millisecond)
		active.r.Step(active.now, Event{Kind: Received, From: ip1, Priority: 1, Interval: time.Second})
	})

	granted := newGranted(t)
	mustNotAllocate(t, "gated Active ticks", func() {
		granted.now = granted.r.Deadline()
		if n := len(granted.r.Step(granted.now, Event{Kind: Tick})); n != 1 {
			t.Fatalf("got %d actions, want an advert", n)
		}
	})
	for name, priority := range map[string]uint8{"a higher": 200, "a lower": 50, "a leaving": 0} {
		mustNotAllocate(t, "gated Active hears "+name, func() {
			granted.wait(time.Second)
			if n := len(granted.r.Step(granted.now, Event{Kind: Received, From: ip3, Priority: priority, Interval: time.Second})); n == 0 {
				t.Fatal("got no answer")
			}
		})
	}

	waits := newBackup(t, gated)
	for name, priority := range map[string]uint8{"a higher": 200, "a lower": 50} {
		mustNotAllocate(t, "gated Backup hears "+name, func() {
			waits.wait(time.Millisecond)
			if n := len(waits.r.Step(waits.now, Event{Kind: Received, From: ip3, Priority: priority, Interval: time.Second})); n != 0 {
				t.Fatalf("got %d actions, want none", n)
			}
			waits.r.Step(waits.now, Event{Kind: Tick})
			waits.r.Deadline()
		})
	}

	backup := newBackup(t)
	for name, priority := range map[string]uint8{"follows": 200, "discards": 50, "hears priority 0": 0} {
		mustNotAllocate(t, "Backup "+name, func() {
			backup.wait(time.Millisecond)
			if n := len(backup.r.Step(backup.now, Event{Kind: Received, From: ip3, Priority: priority, Interval: time.Second})); n != 0 {
				t.Fatalf("got %d actions, want none", n)
			}
			backup.r.Step(backup.now, Event{Kind: Tick})
			backup.r.Deadline()
		})
	}
}

func mustNotAllocate(t *testing.T, name string, f func()) {
	t.Helper()
	if got := testing.AllocsPerRun(100, f); got != 0 {
		t.Errorf("%s: got %v allocations a run, want 0", name, got)
	}
}
