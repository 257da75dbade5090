package gratarp

import (
	"testing"
	"time"
)

func TestGroupPacesItsInterfacesTogether(t *testing.T) {
	a := New(Options{})
	a.SetGroups([]Group{{Interfaces: []string{"eth0", "eth1"}, Interval: time.Second}})
	t0 := time.Unix(1, 0)
	for _, tc := range []struct {
		name     string
		iface    string
		ipv6     bool
		interval time.Duration
		after    time.Duration
		want     bool
	}{
		{"the first", "eth0", false, 0, 0, true},
		{"the other waits, though it has no interval of its own", "eth1", false, 0, 0, false},
		{"no member", "eth2", false, 0, 0, true},
		{"IPv6 has no interval in the group", "eth1", true, time.Minute, 0, true},
		{"nor does it share one", "eth0", true, time.Minute, 0, true},
		{"its own counts", "eth0", true, time.Minute, time.Second, false},
		{"when the interval is over", "eth1", false, 0, time.Second, true},
		{"now the first waits", "eth0", false, 0, time.Second, false},
	} {
		if ok, at := a.pacer.take(tc.iface, tc.ipv6, tc.interval, t0.Add(tc.after)); ok != tc.want || !ok && !at.After(t0) {
			t.Errorf("%s: %t at %s, want %t", tc.name, ok, at, tc.want)
		}
	}
	a.SetGroups(nil)
	if ok, _ := a.pacer.take("eth0", false, 0, t0); !ok {
		t.Error("without the group it still waits")
	}
}
