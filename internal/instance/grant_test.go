package instance

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"pgvrrp/internal/conf"
	"pgvrrp/internal/control"
	"pgvrrp/internal/vrrp"
)

// grants writes down what it is told among the lines of its host.
type grants struct {
	*host
	lapsed    atomic.Bool
	lapsesOn  string // Live turns false when a line of the host has this in it
	onRequest func()
}

func (g *grants) Request(reason string) {
	g.say("request: %s", reason)
	g.mu.Lock()
	answer := g.onRequest
	g.mu.Unlock()
	if answer != nil {
		answer()
	}
}

func (g *grants) GiveUp(reason string) { g.say("give up: %s", reason) }

func (g *grants) Eligible(ok bool, reason string, priority uint8) {
	if ok {
		g.say("eligible %d", priority)
	} else {
		g.say("not eligible %d: %s", priority, reason)
	}
}

func (g *grants) Serving(on bool) { g.say("serving %t", on) }

func (g *grants) Live() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.lapsesOn != "" && strings.Contains(strings.Join(g.lines, "\n"), g.lapsesOn) {
		g.lapsed.Store(true)
	}
	return !g.lapsed.Load()
}

func (g *grants) lapseOn(line string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.lapsesOn = line
}

// beginGated runs a gated instance inside a synctest bubble, as begin does.
func beginGated(t *testing.T, c conf.Instance) (*Instance, *grants, context.CancelFunc) {
	t.Helper()
	g := &grants{host: &host{start: time.Now()}}
	i, err := New(Options{Config: c, Network: g, Hooks: g, Log: slog.New(slog.DiscardHandler), Grants: g})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	go i.Run(ctx)
	t.Cleanup(func() { cancel(); <-i.done })
	i.Surround(ctx, fine)
	synctest.Wait()
	return i, g, cancel
}

// beginGranted is a gated instance that was granted mastership and serves.
func beginGranted(t *testing.T, c conf.Instance) (*Instance, *grants, context.CancelFunc) {
	t.Helper()
	i, g, cancel := beginGated(t, c)
	grant(t, i, "epoch 1")
	if s := i.Status().State; s != control.StateMaster {
		t.Fatalf("after a grant: %s", s)
	}
	g.take()
	return i, g, cancel
}

func grant(t *testing.T, i *Instance, reason string) {
	t.Helper()
	if err := i.Grant(t.Context(), reason); err != nil {
		t.Fatal(err)
	}
	synctest.Wait()
}

func revoke(t *testing.T, i *Instance, reason string) {
	t.Helper()
	if err := i.Revoke(t.Context(), reason); err != nil {
		t.Fatal(err)
	}
	synctest.Wait()
}

const (
	sends    = "send priority 100 from 192.0.2.1 to 224.0.0.18 ttl 255"
	goodbyes = "send priority 0 from 192.0.2.1 to 224.0.0.18 ttl 255"
	sets     = "addresses [192.0.2.100/24]"
)

// wantAt is want for lines of one instant.
func wantAt(t *testing.T, g *grants, at string, lines ...string) {
	t.Helper()
	for k := range lines {
		lines[k] = at + " " + lines[k]
	}
	want(t, g.host, lines...)
}

func TestAGatedInstanceIsMasterByGrantAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i, g, stop := beginGated(t, config())
		if !i.Gated() {
			t.Error("not gated")
		}
		wantAt(t, g, " 0.000", "not eligible 100: waits for the state of eth0", "hook BACKUP 100 seq=1", "eligible 100")
		time.Sleep(8 * time.Second)
		want(t, g.host, " 3.609 request: no advert for 3.609s (Active_Down_Timer)", " 7.219 request: no advert for 7.219s (Active_Down_Timer)")
		if s := i.Status(); s.State != control.StateBackup || s.Waiting != "" {
			t.Errorf("state %s, waits for %q", s.State, s.Waiting)
		}
		grant(t, i, "epoch 1")
		wantAt(t, g, " 8.000", sends, sets, "announce 1", "serving true", "hook MASTER 100 seq=2")
		if s := i.Status(); s.State != control.StateMaster || s.Reason != "epoch 1" {
			t.Errorf("state %s: %s", s.State, s.Reason)
		}
		grant(t, i, "epoch 1")
		revoke(t, i, "epoch 1 is over")
		wantAt(t, g, " 8.000", "stop announcing", "addresses []", "serving false", goodbyes, "hook BACKUP 100 seq=3")
		revoke(t, i, "epoch 1 is over")
		wantAt(t, g, " 8.000")
		grant(t, i, "epoch 2")
		g.take()
		stop()
		wantAt(t, g, " 8.000", "stop announcing", "addresses []", "serving false", goodbyes,
			"not eligible 100: stopped", "give up: vrrpd stops", "hook STOP 100 seq=5")
		if err := i.Grant(context.Background(), "epoch 3"); !errors.Is(err, errStopped) {
			t.Errorf("grant after the end: %v", err)
		}
		if err := i.Revoke(context.Background(), "epoch 3 is over"); err != nil {
			t.Errorf("revoke after the end: %v", err)
		}
		wantAt(t, g, " 8.000")
	})
}

func TestEligible(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &grants{host: &host{start: time.Now()}}
		i, err := New(Options{Config: config(), Network: g, Hooks: g, Log: slog.New(slog.DiscardHandler), Grants: g})
		if err != nil {
			t.Fatal(err)
		}
		i.StartAfter(time.Now().Add(2 * time.Second))
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		go i.Run(ctx)
		for _, s := range []Surroundings{
			but(func(s *Surroundings) { s.Verdict.Pending = "the first result of script chk" }),
			but(func(s *Surroundings) { s.Link.Up = false }),
			fine,
			fine,
		} {
			i.Surround(ctx, s)
		}
		wantAt(t, g, " 0.000",
			"not eligible 100: waits for the state of eth0",
			"not eligible 100: waits for the first result of script chk",
			"not eligible 100: interface eth0 is down",
			"not eligible 100: waits for vrrp_startup_delay or vrrp_delay_after_boot")
		grant(t, i, "epoch 1")
		wantAt(t, g, " 0.000", "give up: not started")
		time.Sleep(2 * time.Second)
		wantAt(t, g, " 2.000", "hook BACKUP 100 seq=1", "eligible 100")
		i.Surround(ctx, but(func(s *Surroundings) { s.Verdict.Priority = 90 }))
		wantAt(t, g, " 2.000", "eligible 90")
		i.Surround(ctx, but(func(s *Surroundings) { s.Verdict.Priority, s.Verdict.Fault = 90, "script chk failed" }))
		wantAt(t, g, " 2.000", "hook FAULT 90 seq=2", "not eligible 90: script chk failed")
		grant(t, i, "epoch 2")
		wantAt(t, g, " 2.000", "give up: script chk failed")
		i.Surround(ctx, fine)
		wantAt(t, g, " 2.000", "hook BACKUP 100 seq=3", "eligible 100")
		i.Surround(ctx, but(func(s *Surroundings) { s.Verdict.Pending = "the first result of script new" }))
		wantAt(t, g, " 2.000", "not eligible 100: waits for the first result of script new")
		grant(t, i, "epoch 3")
		wantAt(t, g, " 2.000", "give up: waits for the first result of script new")
		i.Surround(ctx, fine)
		wantAt(t, g, " 2.000", "eligible 100")
	})
}

// TestAFaultGivesTheGrantBack: after we said that we are not to be granted it again.
func TestAFaultGivesTheGrantBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i, g, stop := beginGranted(t, config())
		defer stop()
		i.Surround(t.Context(), but(func(s *Surroundings) { s.Verdict.Fault = "script chk failed" }))
		wantAt(t, g, " 0.000", "stop announcing", "addresses []", "serving false", goodbyes,
			"not eligible 100: script chk failed", "give up: script chk failed", "hook FAULT 100 seq=3")
	})
}

func TestReleaseOfAGatedInstance(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := config()
		i, g, stop := beginGranted(t, c)
		defer stop()
		if err := i.Release(t.Context(), 30*time.Second); err != nil {
			t.Fatal(err)
		}
		wantAt(t, g, " 0.000", "stop announcing", "addresses []", "serving false", goodbyes,
			"not eligible 100: released for 30s: by an operator", "give up: released for 30s: by an operator", "hook BACKUP 100 seq=3")
		for range 29 { // somebody else is master
			i.Receive(advert(t, c, 50), time.Now())
			time.Sleep(c.AdvertInterval)
		}
		grant(t, i, "epoch 2")
		wantAt(t, g, "29.000", "give up: released for 30s: by an operator")
		i.Receive(advert(t, c, 50), time.Now())
		time.Sleep(2 * time.Second)
		want(t, g.host, "30.000 eligible 100") // at once, and without a word that the master is gone

		if err := i.Release(t.Context(), 30*time.Second); err != nil {
			t.Fatal(err)
		}
		wantAt(t, g, "31.000", "not eligible 100: released for 30s: by an operator")
		if err := i.Release(t.Context(), 0); err != nil {
			t.Fatal(err)
		}
		wantAt(t, g, "31.000", "eligible 100")
	})
}

// TestOrdersKeepTheirOrder: however many wait while the loop is busy, and nobody who posts them waits.
func TestOrdersKeepTheirOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i, g, stop := beginGated(t, config())
		defer stop()
		g.take()
		i.call(t.Context(), func(time.Time) { time.Sleep(time.Second) })
		synctest.Wait()
		var all []<-chan error
		for range 20 {
			all = append(all, i.PostGrant("odd"), i.PostRevoke("even"))
		}
		all = append(all, i.PostGrant("last"))
		for _, done := range all {
			if err := <-done; err != nil {
				t.Fatal(err)
			}
		}
		s := i.Status()
		if s.State != control.StateMaster || s.Reason != "last" || s.Counters.BecameMaster != 21 || s.Counters.LeftMaster != 20 {
			t.Errorf("%s (%s), %d times master, left %d times", s.State, s.Reason, s.Counters.BecameMaster, s.Counters.LeftMaster)
		}
	})
}

// TestGrantsMayPostFromTheLoop: an answer to a request may be there before the request returns.
func TestGrantsMayPostFromTheLoop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i, g, stop := beginGated(t, config())
		defer stop()
		g.mu.Lock()
		g.onRequest = func() { i.PostGrant("epoch 1") }
		g.mu.Unlock()
		time.Sleep(4 * time.Second)
		synctest.Wait()
		if s := i.Status(); s.State != control.StateMaster {
			t.Errorf("state %s", s.State)
		}
	})
}

// TestALapsedLease: whatever wakes the loop first, the addresses are off before anything else happens.
func TestALapsedLease(t *testing.T) {
	gone := []string{"stop announcing", "addresses []", "serving false", goodbyes, "hook BACKUP 100 seq=3"}
	for _, tc := range []struct {
		name string
		wake func(*testing.T, *Instance)
		at   string
		more []string
	}{
		{"the advert timer", func(*testing.T, *Instance) { time.Sleep(600 * time.Millisecond) }, " 1.000", nil},
		{"an advert", func(t *testing.T, i *Instance) { i.Receive(advert(t, config(), 200), time.Now()) }, " 0.500", nil},
		{"an address is lost", func(t *testing.T, i *Instance) { i.AddressesLost(t.Context(), []netip.Prefix{vip}) }, " 0.500", nil},
		{"a reload", func(t *testing.T, i *Instance) {
			if err := i.Configure(t.Context(), config()); err != nil {
				t.Error(err)
			}
		}, " 0.500", nil},
		{"a fault", func(t *testing.T, i *Instance) {
			i.Surround(t.Context(), but(func(s *Surroundings) { s.Link.Up = false }))
		}, " 0.500", []string{"hook FAULT 100 seq=4", "not eligible 100: interface eth0 is down"}},
		{"an operator", func(t *testing.T, i *Instance) {
			if err := i.Release(t.Context(), time.Minute); err != nil {
				t.Error(err)
			}
		}, " 0.500", []string{"not eligible 100: released for 1m0s: by an operator"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				i, g, stop := beginGranted(t, config())
				defer stop()
				time.Sleep(500 * time.Millisecond)
				g.lapsed.Store(true)
				tc.wake(t, i)
				wantAt(t, g, tc.at, append(append([]string(nil), gone...), tc.more...)...)
				grant(t, i, "epoch 1") // which lapsed before it came
				revoke(t, i, "epoch 1 is over")
				want(t, g.host)
			})
		})
	}
}

// TestALeaseThatLapsesInATakeover: the lease runs out while we are at it.
func TestALeaseThatLapsesInATakeover(t *testing.T) {
	for _, tc := range []struct {
		lapsesOn string
		want     []string
	}{
		{"send", []string{sends}},
		{"addresses [1", []string{sends, sets}},
	} {
		t.Run(tc.lapsesOn, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				i, g, stop := beginGated(t, config())
				defer stop()
				g.take()
				g.lapseOn(tc.lapsesOn)
				grant(t, i, "epoch 1")
				wantAt(t, g, " 0.000", append(tc.want, "hook MASTER 100 seq=2", "stop announcing", "addresses []", goodbyes, "hook BACKUP 100 seq=3")...)
				if s := i.Status(); s.State != control.StateBackup || s.Reason != lapsed {
					t.Errorf("%s: %s", s.State, s.Reason)
				}
			})
		})
	}
}

// TestALeaseThatLapsesMeanwhile: addresses were live when they were set and are not when that is done.
func TestALeaseThatLapsesMeanwhile(t *testing.T) {
	for _, tc := range []struct {
		name string
		set  func(*testing.T, *Instance, *grants)
		at   string
	}{
		{"put back", func(t *testing.T, i *Instance, g *grants) {
			g.lapseOn("addresses")
			i.AddressesLost(t.Context(), []netip.Prefix{vip})
		}, " 0.000"},
		{"a reload", func(t *testing.T, i *Instance, g *grants) {
			g.lapseOn("addresses")
			if err := i.Configure(t.Context(), config()); err != nil {
				t.Error(err)
			}
		}, " 0.000"},
		{"tried again", func(t *testing.T, i *Instance, g *grants) {
			fail(g, errors.New("no buffer space available"))
			i.AddressesLost(t.Context(), []netip.Prefix{vip})
			synctest.Wait()
			g.take()
			fail(g, nil)
			g.lapseOn("addresses")
			time.Sleep(addressRetry)
		}, " 1.000"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := config()
				c.AdvertInterval = 10 * time.Second
				i, g, stop := beginGranted(t, c)
				defer stop()
				tc.set(t, i, g)
				wantAt(t, g, tc.at, sets, "stop announcing", "addresses []", "serving false", goodbyes, "hook BACKUP 100 seq=3")
			})
		})
	}
}

// TestALeaseThatLapsesBeforeTheRenewal: an advert is heard first, or together with the timer.
func TestALeaseThatLapsesBeforeTheRenewal(t *testing.T) {
	for range 20 {
		synctest.Test(t, func(t *testing.T) {
			c := config()
			c.VIPLifetime, c.AdvertInterval = 2*time.Second, 40*time.Second
			i, g, stop := beginGranted(t, c)
			defer stop()
			g.lapseOn("announce again")
			i.call(t.Context(), func(time.Time) { time.Sleep(510 * time.Millisecond) })
			i.Receive(advert(t, c, 50), time.Now())
			time.Sleep(time.Second)
			wantAt(t, g, " 0.510", sends, "announce again", "hook MASTER_RX_LOWER_PRI 100 seq=2",
				"stop announcing", "addresses []", "serving false", goodbyes, "hook BACKUP 100 seq=3")
		})
	}
}

// TestTheLifetimeIsRenewedUnderALiveLeaseOnly: the kernel takes the addresses off whatever becomes of us.
func TestTheLifetimeIsRenewedUnderALiveLeaseOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := config()
		c.VIPLifetime, c.AdvertInterval = 2*time.Second, 40*time.Second
		_, g, stop := beginGranted(t, c)
		defer stop()
		time.Sleep(1100 * time.Millisecond)
		want(t, g.host, " 0.500 renew", " 1.000 renew")
		g.lapsed.Store(true)
		time.Sleep(30 * time.Second)
		wantAt(t, g, " 1.500", "stop announcing", "addresses []", "serving false", goodbyes, "hook BACKUP 100 seq=3")
	})
}

func TestAGrantThatWaitsForTheHook(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := config()
		c.VIPAfterNotify, c.AdvertInterval = 30*time.Second, 40*time.Second
		i, g, stop := beginGated(t, c)
		defer stop()
		g.take()
		grant(t, i, "epoch 1")
		wantAt(t, g, " 0.000", sends, "hook MASTER 100 seq=2")
		time.Sleep(time.Second)
		i.HookDone(t.Context(), control.Hook{Seq: 2}, nil)
		wantAt(t, g, " 1.000", sets, "announce 1", "serving true")

		revoke(t, i, "epoch 1 is over")
		grant(t, i, "epoch 2")
		g.take()
		g.lapsed.Store(true) // the hook took too long
		i.HookDone(t.Context(), control.Hook{Seq: 4}, nil)
		wantAt(t, g, " 1.000", "stop announcing", "addresses []", goodbyes, "hook BACKUP 100 seq=5")

		g.lapsed.Store(false)
		grant(t, i, "epoch 3")
		g.take()
		i.HookDone(t.Context(), control.Hook{Seq: 6}, errors.New("run /bin/false: exit code 1"))
		failed := "the hook failed: run /bin/false: exit code 1"
		wantAt(t, g, " 1.000", "stop announcing", "addresses []", goodbyes, "not eligible 100: "+failed, "give up: "+failed, "hook FAULT 100 seq=7")
	})
}

// TestAPausedGatedMaster: it looks at its lease and at nothing else, however long it was stopped and whoever is heard.
func TestAPausedGatedMaster(t *testing.T) {
	for _, tc := range []struct {
		name   string
		lapsed bool
		want   []string
	}{
		{"lapsed", true, []string{"10.500 stop announcing", "10.500 addresses []", "10.500 serving false", "10.500 " + goodbyes, "10.500 hook BACKUP 100 seq=3"}},
		{"live", false, []string{"10.505 " + sends, "10.505 announce again", "10.505 hook MASTER_RX_LOWER_PRI 100 seq=2", "11.505 " + sends}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				i, g, stop := beginGranted(t, config())
				defer stop()
				time.Sleep(500 * time.Millisecond)
				i.call(t.Context(), func(time.Time) {
					time.Sleep(10 * time.Second)
					g.lapsed.Store(tc.lapsed)
				})
				time.Sleep(10 * time.Second)
				time.Sleep(listenTime / 2)
				i.Receive(advert(t, config(), 50), time.Now())
				time.Sleep(1100 * time.Millisecond)
				want(t, g.host, tc.want...)
			})
		})
	}
}

// fail has the kernel refuse to set addresses; nil: no more.
func fail(g *grants, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.failSet = err
}

// TestAddressesThatWillNotGo: neither the grant nor the end of a revocation may be told while the kernel holds them.
func TestAddressesThatWillNotGo(t *testing.T) {
	stuck := errors.New("no buffer space available")
	const reason = "the virtual addresses can't be removed: no buffer space available"

	t.Run("given up", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			i, g, stop := beginGranted(t, config())
			defer stop()
			fail(g, stuck)
			if err := i.Release(t.Context(), time.Second/2); err != nil {
				t.Fatal(err)
			}
			wantAt(t, g, " 0.000", "stop announcing", "addresses []", goodbyes, "not eligible 100: "+reason, "give up: released for 500ms: by an operator", "hook BACKUP 100 seq=3")
			grant(t, i, "epoch 2")
			wantAt(t, g, " 0.000", "give up: "+reason)
			time.Sleep(1500 * time.Millisecond)
			wantAt(t, g, " 1.000", "addresses []")
			fail(g, nil)
			time.Sleep(time.Second)
			wantAt(t, g, " 2.000", "addresses []", "serving false", "eligible 100")
		})
	})
	t.Run("revoked", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			i, g, stop := beginGranted(t, config())
			defer stop()
			fail(g, stuck)
			done := i.PostRevoke("epoch 1 is over")
			ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
			defer cancel()
			if err := i.Revoke(ctx, "epoch 1 is over"); !errors.Is(err, context.DeadlineExceeded) || !strings.HasPrefix(err.Error(), "revoke VI_1: ") {
				t.Errorf("got %v", err)
			}
			wantAt(t, g, " 0.000", "stop announcing", "addresses []", goodbyes, "hook BACKUP 100 seq=3", "not eligible 100: "+reason)
			fail(g, nil)
			if err := <-done; err != nil {
				t.Error(err)
			}
			wantAt(t, g, " 1.000", "addresses []", "serving false", "eligible 100")
		})
	})
	t.Run("revoked, then granted", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			i, g, stop := beginGranted(t, config())
			defer stop()
			fail(g, stuck)
			i.PostRevoke("epoch 1 is over")
			grant(t, i, "epoch 2")
			wantAt(t, g, " 0.000", "stop announcing", "addresses []", goodbyes, "hook BACKUP 100 seq=3", "not eligible 100: "+reason, "give up: "+reason)
			fail(g, nil)
			time.Sleep(time.Second)
			wantAt(t, g, " 1.000", "addresses []", "serving false", "eligible 100")
		})
	})
	t.Run("given up, then revoked", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			i, g, stop := beginGranted(t, config())
			defer stop()
			fail(g, stuck)
			i.Surround(t.Context(), but(func(s *Surroundings) { s.Verdict.Fault = "script chk failed" }))
			done := i.PostRevoke("the lease has lapsed")
			synctest.Wait()
			g.take()
			fail(g, nil)
			if err := <-done; err != nil {
				t.Error(err)
			}
			wantAt(t, g, " 1.000", "addresses []", "serving false") // and no grant is given up that isn't ours
		})
	})
	t.Run("until shortly before the end", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			i, g, stop := beginGranted(t, config())
			fail(g, stuck)
			stop()
			synctest.Wait()
			wantAt(t, g, " 0.000", "stop announcing", "addresses []", goodbyes, "not eligible 100: stopped", "give up: vrrpd stops", "hook STOP 100 seq=3")
			fail(g, nil)
			if err := <-i.PostRevoke("epoch 1 is over"); err != nil {
				t.Error(err)
			}
			wantAt(t, g, " 0.100", "addresses []", "serving false")
		})
	})
	t.Run("to the end", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			i, g, stop := beginGranted(t, config())
			fail(g, stuck)
			done := i.PostRevoke("epoch 1 is over")
			synctest.Wait()
			g.take()
			stop()
			synctest.Wait()
			wantAt(t, g, " 0.000", "stop announcing", "addresses []", "hook STOP 100 seq=4", "not eligible 100: stopped")
			for _, d := range []<-chan error{done, i.PostRevoke("again")} {
				if err := <-d; !errors.Is(err, errHeld) {
					t.Errorf("got %v, want %v", err, errHeld)
				}
			}
		})
	})
}

// TestAddressesThatComeLate: nothing is served before they are there.
func TestAddressesThatComeLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i, g, stop := beginGated(t, config())
		defer stop()
		g.take()
		fail(g, errors.New("no buffer space available"))
		grant(t, i, "epoch 1")
		wantAt(t, g, " 0.000", sends, sets, "announce 1", "hook MASTER 100 seq=2")
		fail(g, nil)
		time.Sleep(time.Second)
		wantAt(t, g, " 1.000", sets, "announce 1", "serving true", sends)

		fail(g, errors.New("no buffer space available"))
		i.AddressesLost(t.Context(), []netip.Prefix{vip})
		synctest.Wait()
		g.take()
		g.lapsed.Store(true)
		fail(g, nil)
		time.Sleep(time.Second)
		wantAt(t, g, " 2.000", "stop announcing", "addresses []", "serving false", goodbyes, "hook BACKUP 100 seq=3")
	})
}

func TestAFightOverAddressesGivesTheGrantBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i, g, stop := beginGranted(t, config())
		defer stop()
		for range putBackLimit {
			i.AddressesLost(t.Context(), []netip.Prefix{vip})
			wantAt(t, g, " 0.000", sets, "announce again")
		}
		i.AddressesLost(t.Context(), []netip.Prefix{vip})
		reason := "another program removed 192.0.2.100/24, 6 times within 10s"
		wantAt(t, g, " 0.000", "stop announcing", "addresses []", "serving false", goodbyes,
			"not eligible 100: "+reason, "give up: "+reason, "hook BACKUP 100 seq=3")
		time.Sleep(4 * time.Second)
		want(t, g.host, " 3.609 request: nobody took over for 3.609s after a virtual address was lost", " 3.609 eligible 100")
	})
}

// TestAHigherPriorityDoesNotMoveAGatedMaster: nor does a reload that changes its own.
func TestAHigherPriorityDoesNotMoveAGatedMaster(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := config()
		i, g, stop := beginGranted(t, c)
		defer stop()
		i.Receive(advert(t, c, 200), time.Now())
		wantAt(t, g, " 0.000", sends, "announce again")
		c.Addresses = append(c.Addresses, conf.Address{Prefix: netip.MustParsePrefix("192.0.2.101/24")})
		if err := i.Configure(t.Context(), c); err != nil {
			t.Fatal(err)
		}
		wantAt(t, g, " 0.000", "addresses [192.0.2.100/24 192.0.2.101/24]", "announce 2")
		c.Quorum = "other"
		if err := i.Configure(t.Context(), c); err == nil || !strings.Contains(err.Error(), "quorum resource can't change") {
			t.Errorf("another resource: %v", err)
		}
		c.Quorum, c.Priority = "", vrrp.PriorityOwner
		if err := i.Configure(t.Context(), c); err == nil {
			t.Error("a gated instance became an address owner")
		}
	})
}

// TestOrdersToAPlainInstance: they mean nothing to it.
func TestOrdersToAPlainInstance(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i, h, stop := begin(t, config())
		defer stop()
		h.take()
		if i.Gated() {
			t.Error("gated")
		}
		grant(t, i, "epoch 1")
		revoke(t, i, "epoch 1 is over")
		want(t, h)
		time.Sleep(4 * time.Second)
		h.take()
		revoke(t, i, "epoch 1 is over")
		want(t, h)
	})
}
