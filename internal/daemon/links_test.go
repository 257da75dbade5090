package daemon

import (
	"testing"
	"testing/synctest"
	"time"

	"pgvrrp/internal/conf"
)

func TestLinksDelay(t *testing.T) {
	const down, up = 2 * time.Second, 5 * time.Second
	type look struct {
		after   time.Duration // since the look before
		up      bool
		present bool
		want    bool
	}
	for _, tc := range []struct {
		name  string
		iface string
		looks []look
		wakes int
	}{
		{"without a line", "eth1", []look{{0, true, true, true}, {0, false, true, false}, {0, true, true, true}}, 0},
		{"the first look counts", "eth0", []look{{0, false, true, false}}, 0},
		{"down", "eth0", []look{{0, true, true, true}, {0, false, true, true}, {down - 1, false, true, true}, {1, false, true, false}}, 1},
		{"up", "eth0", []look{{0, false, true, false}, {0, true, true, false}, {up - 1, true, true, false}, {1, true, true, true}}, 1},
		{"a short break", "eth0", []look{{0, true, true, true}, {0, false, true, true}, {down - 1, true, true, true}, {down, true, true, true}}, 1},
		{"a new break begins anew", "eth0", []look{{0, true, true, true}, {0, false, true, true}, {down - 1, true, true, true}, {0, false, true, true},
			{1, false, true, true}, {down - 1, false, true, false}}, 2},
		{"an interface that goes is down at once", "eth0", []look{{0, true, true, true}, {0, false, false, false}, {0, true, true, true}}, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				wakes := make(chan struct{}, 16)
				l := links{wake: func() { wakes <- struct{}{} }}
				l.configure([]conf.LinkDelay{{Interface: "eth0", Down: down, Up: up}})
				for n, look := range tc.looks {
					time.Sleep(look.after)
					if got := l.up(tc.iface, look.up, look.present); got != look.want {
						t.Errorf("look %d: %t, want %t", n, got, look.want)
					}
				}
				time.Sleep(time.Minute)
				if len(wakes) != tc.wakes {
					t.Errorf("%d wakes, want %d", len(wakes), tc.wakes)
				}
			})
		})
	}
}

// A reload that makes a wait longer, or shorter, while it runs: somebody looks when it is over.
func TestLinksDelayChanges(t *testing.T) {
	for _, tc := range []struct{ was, is, rest time.Duration }{{2 * time.Second, 5 * time.Second, 4 * time.Second}, {5 * time.Second, 2 * time.Second, time.Second}} {
		synctest.Test(t, func(t *testing.T) {
			var l links
			got, wakes := false, make(chan struct{}, 10)
			l.wake = func() { wakes <- struct{}{} }
			look := func() { got = l.up("eth0", true, true) }
			woken := func() {
				for synctest.Wait(); len(wakes) > 0; <-wakes {
					look()
				}
			}
			l.configure([]conf.LinkDelay{{Interface: "eth0", Up: tc.was}})
			l.up("eth0", false, true)
			look()
			time.Sleep(time.Second)
			l.configure([]conf.LinkDelay{{Interface: "eth0", Up: tc.is}})
			look()
			time.Sleep(tc.rest - 1)
			woken()
			if got {
				t.Errorf("%s to %s: up before the wait is over", tc.was, tc.is)
			}
			time.Sleep(time.Nanosecond)
			woken()
			if !got {
				t.Errorf("%s to %s: nobody looked when the wait was over", tc.was, tc.is)
			}
		})
	}
}

func TestStartDelay(t *testing.T) {
	for _, tc := range []struct {
		name                  string
		startup, boot, uptime time.Duration
		want                  time.Duration
	}{
		{"none", 0, 0, time.Minute, 0},
		{"after the start", 5 * time.Second, 0, time.Minute, 5 * time.Second},
		{"after the boot", 0, 90 * time.Second, time.Minute, 30 * time.Second},
		{"the longer counts", 40 * time.Second, 90 * time.Second, time.Minute, 40 * time.Second},
		{"long after the boot", 0, 90 * time.Second, time.Hour, 0},
	} {
		g := conf.Globals{StartupDelay: tc.startup, DelayAfterBoot: tc.boot}
		if got := max(startDelay(&g, tc.uptime), 0); got != tc.want {
			t.Errorf("%s: %s, want %s", tc.name, got, tc.want)
		}
	}
}
