package vrrp

import (
	"net/netip"
	"testing"
	"time"
)

// What keepalived adds to the RFCs or does instead, and what we add to keepalived.

func TestDownTimerAdverts(t *testing.T) {
	for _, tt := range []struct {
		version Version
		adverts int
		want    time.Duration
	}{
		{2, 1, 1609375 * time.Microsecond},
		{2, 10, 10609375 * time.Microsecond},
		{3, 1, 1609375 * time.Microsecond},
		{3, 100, 100609375 * time.Microsecond},
	} {
		m := newBackup(t, func(c *Config) { c.Version, c.DownTimerAdverts = tt.version, tt.adverts })
		m.wantIn(tt.want)
	}
}

// TestPreemptDelay: the first advert of a lower priority starts the delay, adverts are accepted while it runs, and then
// the timer is left to fire.
func TestPreemptDelay(t *testing.T) {
	m := newBackup(t, func(c *Config) { c.PreemptDelay = 5 * time.Second })
	m.wait(time.Second)
	m.want(m.hear(ip3, 50))
	m.wantIn(3609375 * time.Microsecond)
	for range 4 {
		m.wait(time.Second)
		m.hear(ip3, 50)
		m.wantIn(3609375 * time.Microsecond)
	}
	m.wait(time.Second) // five seconds after the first
	m.hear(ip3, 50)
	m.wantIn(2609375 * time.Microsecond)
	m.want(m.tick(), "SendAdvert 100", "AddAddresses", "Announce", "Backup -> Active (preempted 10.0.0.3: it has priority 50, ours is 100)")
}

func TestPreemptDelayStartsAnewAfterAHigherPriority(t *testing.T) {
	m := newBackup(t, func(c *Config) { c.PreemptDelay = 5 * time.Second })
	m.hear(ip3, 50)
	m.wait(3 * time.Second)
	m.hear(ip3, 150)
	m.wait(3 * time.Second)
	m.hear(ip3, 50)
	m.wait(3 * time.Second)
	m.hear(ip3, 50) // nine seconds after the very first, three after the last first
	m.wantIn(3609375 * time.Microsecond)
}

// TestPreemptDelayDoesNotDelayASilentPeersEnd: it is about preempting, not about taking over.
func TestPreemptDelayDoesNotDelayASilentPeersEnd(t *testing.T) {
	m := newBackup(t, func(c *Config) { c.PreemptDelay = time.Minute })
	m.hear(ip3, 50)
	m.want(m.tick(), "SendAdvert 100", "AddAddresses", "Announce", "Backup -> Active (no advert for 3.609s (Active_Down_Timer))")
}

func TestHigherPrioSendAdvert(t *testing.T) {
	m := newActive(t, lastAdvert)
	m.want(m.hear(ip1, 150), "SendAdvert 100", "RemoveAddresses", "Active -> Backup (10.0.0.1 has priority 150, ours is 100)")
}

// TestContentionFlood: what piled up in the socket while we were stalled gets one answer, and a peer that goes on gets
// one for each of its adverts.
func TestContentionFlood(t *testing.T) {
	m := newActive(t)
	contention := []string{"SendAdvert 100", "AnnounceAgain", "Contention"}
	m.want(m.hear(ip3, 50), contention...)
	if got, want := m.did[2].Seq, m.r.Seq(); got != want {
		t.Errorf("contention of transition %d, want %d", got, want)
	}
	for range 1000 {
		m.wait(time.Microsecond)
		m.want(m.hear(ip3, 50))
	}
	for range 10 {
		m.wait(time.Second - time.Millisecond)
		m.want(m.hear(ip3, 50), contention...)
	}
}

func TestSecondOwnerIsSettledByAddress(t *testing.T) {
	m := newMachine(t, config(owner))
	m.step(Event{Kind: Startup})
	m.want(m.hear(ip1, 255), "SendAdvert 255", "AnnounceAgain", "Contention")
	m.want(m.hear(ip3, 255), "RemoveAddresses", "Active -> Backup (10.0.0.3 has priority 255 as we have, and the greater address)")
	m.wait(time.Second)
	m.hear(ip3, 255)
	m.wantIn(3003906250)
}

func TestUnknownSourceLosesEveryTie(t *testing.T) {
	m := newActive(t, func(c *Config) { c.Source = netip.Addr{} })
	m.hear(ip1, 100)
	m.wantState(Backup)
}

func TestOwnEchoIsNoAdvert(t *testing.T) {
	m := newActive(t)
	m.want(m.hear(ip2, 200))
	m.want(m.hear(ip2, 50))
	m.wantState(Active)
	if got := m.r.LastHeard(); !got.At.IsZero() {
		t.Errorf("got %+v, want nothing heard", got)
	}
}

func TestSourceChanged(t *testing.T) {
	m := newActive(t)
	m.want(m.step(Event{Kind: SourceChanged, From: netip.MustParseAddr("10.0.0.4")}))
	m.hear(ip3, 100)
	m.wantState(Active)
	m.step(Event{Kind: SourceChanged, From: ip1})
	m.hear(ip3, 100)
	m.wantState(Backup)
}

func TestPriorityChanged(t *testing.T) {
	t.Run("Active advertises it at the next interval", func(t *testing.T) {
		m := newActive(t)
		m.wait(300 * time.Millisecond)
		m.want(m.step(Event{Kind: PriorityChanged, Priority: 80}))
		m.wantIn(700 * time.Millisecond)
		m.want(m.tick(), "SendAdvert 80")
		m.want(m.hear(ip1, 90), "RemoveAddresses", "Active -> Backup (10.0.0.1 has priority 90, ours is 80)")
	})
	t.Run("Backup moves the end of its timer", func(t *testing.T) {
		m := newBackup(t)
		m.wait(time.Second)
		m.want(m.step(Event{Kind: PriorityChanged, Priority: 200}))
		m.wantIn(3218750*time.Microsecond - time.Second)
		m.hear(ip3, 0)
		m.step(Event{Kind: PriorityChanged, Priority: 128})
		m.wantIn(500 * time.Millisecond)
	})
	t.Run("Backup then preempts", func(t *testing.T) {
		m := newBackup(t)
		m.hear(ip3, 150)
		m.step(Event{Kind: PriorityChanged, Priority: 200})
		m.wait(time.Second)
		m.hear(ip3, 150)
		m.want(m.tick(), "SendAdvert 200", "AddAddresses", "Announce", "Backup -> Active (preempted 10.0.0.3: it has priority 150, ours is 200)")
	})
	t.Run("an owner's doesn't change", func(t *testing.T) {
		m := newMachine(t, config(owner))
		m.step(Event{Kind: PriorityChanged, Priority: 80})
		if got := m.r.EffectivePriority(); got != 255 {
			t.Errorf("got %d, want 255", got)
		}
	})
	t.Run("nobody becomes an owner or leaves by it", func(t *testing.T) {
		m := newBackup(t)
		m.step(Event{Kind: PriorityChanged, Priority: 255})
		m.step(Event{Kind: PriorityChanged, Priority: 0})
		if got := m.r.EffectivePriority(); got != 100 {
			t.Errorf("got %d, want 100", got)
		}
	})
}

func TestFault(t *testing.T) {
	t.Run("of an Active router", func(t *testing.T) {
		m := newActive(t)
		m.want(m.step(Event{Kind: FaultRaised, Reason: "interface eth0 is down"}),
			"SendAdvert 0", "RemoveAddresses", "Active -> Fault (interface eth0 is down)")
		m.want(m.hear(ip1, 1))
		if got := m.r.Deadline(); !got.IsZero() {
			t.Errorf("got deadline %v, want none", got)
		}
		m.wait(time.Hour)
		m.want(m.step(Event{Kind: FaultCleared}), "Fault -> Backup (nothing tracked is failed any more)")
		m.wantIn(3609375 * time.Microsecond)
	})
	t.Run("of a Backup", func(t *testing.T) {
		m := newBackup(t)
		m.want(m.step(Event{Kind: FaultRaised, Reason: "script chk_pg failed"}), "Backup -> Fault (script chk_pg failed)")
		m.want(m.step(Event{Kind: FaultCleared, Reason: "script chk_pg is well"}), "Fault -> Backup (script chk_pg is well)")
	})
	t.Run("a second one changes the text alone", func(t *testing.T) {
		m := newBackup(t)
		m.step(Event{Kind: FaultRaised, Reason: "disk"})
		m.want(m.step(Event{Kind: FaultRaised, Reason: "disk, network"}))
		if got, want := m.r.FaultReason(), "disk, network"; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	})
	t.Run("before Startup", func(t *testing.T) {
		m := newMachine(t, config(owner))
		m.want(m.step(Event{Kind: FaultRaised, Reason: "interface eth0 is down"}))
		m.want(m.step(Event{Kind: Startup}), "Initialize -> Fault (interface eth0 is down)")
	})
	t.Run("cleared before Startup", func(t *testing.T) {
		m := newMachine(t, config())
		m.step(Event{Kind: FaultRaised, Reason: "disk"})
		m.want(m.step(Event{Kind: FaultCleared}))
		m.want(m.step(Event{Kind: Startup}), "Initialize -> Backup (started)")
	})
	t.Run("an owner comes back as one", func(t *testing.T) {
		m := newMachine(t, config(owner))
		m.step(Event{Kind: Startup})
		m.step(Event{Kind: FaultRaised, Reason: "disk"})
		m.want(m.step(Event{Kind: FaultCleared}),
			"SendAdvert 255", "AddAddresses", "Announce", "Fault -> Active (nothing tracked is failed any more)")
	})
	t.Run("what was learned before is forgotten", func(t *testing.T) {
		m := newBackup(t)
		m.step(Event{Kind: Received, From: ip3, Priority: 200, Interval: 20 * time.Second})
		m.step(Event{Kind: FaultRaised, Reason: "disk"})
		m.step(Event{Kind: FaultCleared})
		m.wantIn(3609375 * time.Microsecond)
	})
	t.Run("a Shutdown ends it", func(t *testing.T) {
		m := newBackup(t)
		m.step(Event{Kind: FaultRaised, Reason: "disk"})
		m.want(m.step(Event{Kind: Shutdown}), "RemoveAddresses", "Fault -> Initialize (shut down)")
		m.want(m.step(Event{Kind: Startup}), "Initialize -> Fault (disk)")
	})
	t.Run("without a reason", func(t *testing.T) {
		m := newBackup(t)
		m.want(m.step(Event{Kind: FaultRaised}), "Backup -> Fault (a tracked object failed)")
	})
}

func TestAddressLost(t *testing.T) {
	m := newActive(t)
	m.want(m.step(Event{Kind: AddressLost, Reason: "10.0.0.100 was removed from eth0"}),
		"SendAdvert 0", "RemoveAddresses", "Active -> Backup (10.0.0.100 was removed from eth0)")
	m.wantIn(3609375 * time.Microsecond)
	m.want(m.tick(), "SendAdvert 100", "AddAddresses", "Announce",
		"Backup -> Active (nobody took over for 3.609s after a virtual address was lost)")
}

// TestAStalledActiveGoesWithoutAWord: another router has become Active while we were stopped.
func TestAStalledActiveGoesWithoutAWord(t *testing.T) {
	m := newActive(t)
	m.want(m.step(Event{Kind: Stalled, Reason: "stopped for 10s"}), "RemoveAddresses", "Active -> Backup (stopped for 10s)")
	m.wantIn(3609375 * time.Microsecond)
	m.want(m.step(Event{Kind: Stalled}))
}

func TestAddressLostAndAPeerTookOver(t *testing.T) {
	m := newActive(t)
	m.want(m.step(Event{Kind: AddressLost}), "SendAdvert 0", "RemoveAddresses", "Active -> Backup (a virtual address was lost)")
	m.wait(500 * time.Millisecond)
	m.hear(ip3, 150)
	m.wantIn(3609375 * time.Microsecond)
}

func TestRelease(t *testing.T) {
	release := Event{Kind: Release, Hold: 30 * time.Second}
	t.Run("a peer takes over", func(t *testing.T) {
		m := newActive(t)
		m.want(m.step(release), "SendAdvert 0", "RemoveAddresses", "Active -> Backup (released for 30s)")
		m.wantIn(30 * time.Second)
		for range 29 {
			m.wait(time.Second)
			m.want(m.hear(ip3, 50))
		}
		m.wantIn(3609375 * time.Microsecond)
		m.wait(time.Second) // the hold is over: a lower priority is preempted again
		m.hear(ip3, 50)
		m.wantIn(2609375 * time.Microsecond)
		m.want(m.tick(), "SendAdvert 100", "AddAddresses", "Announce", "Backup -> Active (preempted 10.0.0.3: it has priority 50, ours is 100)")
	})
	t.Run("nobody takes over", func(t *testing.T) {
		m := newActive(t)
		m.step(release)
		m.want(m.tick(), "SendAdvert 100", "AddAddresses", "Announce", "Backup -> Active (no advert for 30s (Active_Down_Timer))")
		if got := m.now.Sub(epoch); got != 33609375*time.Microsecond {
			t.Errorf("retaken at %v, want at 33.609375s", got)
		}
		if got := m.r.HeldUntil(); !got.IsZero() {
			t.Errorf("still held until %v", got)
		}
	})
	t.Run("a reason", func(t *testing.T) {
		m := newActive(t)
		m.want(m.step(Event{Kind: Release, Hold: time.Minute, Reason: "switchover to n2"}),
			"SendAdvert 0", "RemoveAddresses", "Active -> Backup (released for 1m0s: switchover to n2)")
	})
	t.Run("a Backup holds too", func(t *testing.T) {
		m := newBackup(t)
		m.want(m.step(release))
		m.hear(ip3, 0)
		m.wantIn(30 * time.Second)
	})
	t.Run("shorter than the timer", func(t *testing.T) {
		m := newActive(t)
		m.step(Event{Kind: Release, Hold: time.Second})
		m.wantIn(3609375 * time.Microsecond)
	})
	t.Run("cancelled", func(t *testing.T) {
		m := newActive(t)
		m.step(release)
		m.want(m.step(Event{Kind: Release}))
		m.wantIn(3609375 * time.Microsecond)
	})
	t.Run("cancelled while Active", func(t *testing.T) {
		m := newActive(t)
		m.want(m.step(Event{Kind: Release}))
		m.wantState(Active)
	})
	t.Run("an owner is held in Fault and out of it", func(t *testing.T) {
		m := newMachine(t, config(owner))
		m.step(Event{Kind: Startup})
		m.step(Event{Kind: FaultRaised, Reason: "disk"})
		m.want(m.step(release))
		m.step(Event{Kind: FaultCleared})
		m.wantState(Backup)
		m.wantIn(30 * time.Second)
	})
	t.Run("the preempt delay begins behind it", func(t *testing.T) {
		m := newBackup(t, func(c *Config) { c.PreemptDelay = 5 * time.Second })
		m.step(Event{Kind: Release, Hold: 10 * time.Second})
		m.wait(9 * time.Second)
		m.hear(ip3, 50)
		m.wait(time.Second)
		m.hear(ip3, 50)
		m.wait(4 * time.Second)
		m.hear(ip3, 50)
		m.wantIn(3609375 * time.Microsecond)
		m.wait(time.Second)
		m.hear(ip3, 50)
		m.wantIn(2609375 * time.Microsecond)
	})
}

func TestAddressesAfterNotify(t *testing.T) {
	takeover := []string{"SendAdvert 100", "Backup -> Active (no advert for 3.609s (Active_Down_Timer))"}
	failed := []string{"SendAdvert 0", "RemoveAddresses", "Active -> Fault (the hook failed: exit status 1)"}
	ok := func(m *machine) Event { return Event{Kind: HookSucceeded, Seq: m.r.Seq()} }
	fail := func(m *machine) Event { return Event{Kind: HookFailed, Seq: m.r.Seq(), Reason: "exit status 1"} }

	t.Run("the hook succeeds", func(t *testing.T) {
		m := newBackup(t, afterNotify)
		m.want(m.tick(), takeover...)
		for range 3 {
			m.want(m.tick(), "SendAdvert 100") // adverts don't wait
		}
		m.want(m.step(ok(m)), "AddAddresses", "Announce")
		m.want(m.step(ok(m)))
		m.want(m.step(fail(m)))
		m.wantState(Active)
	})
	t.Run("the hook fails", func(t *testing.T) {
		m := newActive(t, afterNotify)
		m.want(m.step(fail(m)), failed...)
		m.wantIn(10 * time.Second)
		if got, want := m.r.FaultReason(), "the hook failed: exit status 1"; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
		m.want(m.tick(), "Fault -> Backup (tries again 10s after the hook failed)")
		m.wantIn(3609375 * time.Microsecond)
		m.want(m.tick(), takeover...)
	})
	t.Run("a tracker's fault stands behind the hook's", func(t *testing.T) {
		m := newActive(t, afterNotify)
		m.step(fail(m))
		m.want(m.step(Event{Kind: FaultRaised, Reason: "disk"}))
		if got := m.r.Deadline(); !got.IsZero() {
			t.Errorf("got deadline %v, want none", got)
		}
		if got, want := m.r.FaultReason(), "disk; the hook failed: exit status 1"; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
		m.wait(time.Minute)
		m.want(m.step(Event{Kind: Tick}))
		m.want(m.step(Event{Kind: FaultCleared}), "Fault -> Backup (nothing tracked is failed any more)")
	})
	t.Run("a tracker's fault ends before the hook's", func(t *testing.T) {
		m := newActive(t, afterNotify)
		m.step(fail(m))
		m.step(Event{Kind: FaultRaised, Reason: "disk"})
		m.wait(3 * time.Second)
		m.want(m.step(Event{Kind: FaultCleared}))
		m.wantIn(7 * time.Second)
		m.want(m.tick(), "Fault -> Backup (tries again 10s after the hook failed)")
	})
	t.Run("a higher priority comes first", func(t *testing.T) {
		m := newActive(t, afterNotify)
		late := ok(m)
		m.want(m.hear(ip1, 150), "RemoveAddresses", "Active -> Backup (10.0.0.1 has priority 150, ours is 100)")
		m.want(m.step(late))
		m.tick()
		m.wantState(Active)
		m.want(m.step(late)) // still about the first takeover
		late.Kind = HookFailed
		m.want(m.step(late))
		m.want(m.step(ok(m)), "AddAddresses", "Announce")
	})
	t.Run("a lower priority doesn't announce what isn't there", func(t *testing.T) {
		m := newActive(t, afterNotify)
		m.want(m.hear(ip1, 50), "SendAdvert 100", "Contention")
		m.step(ok(m))
		m.wait(time.Second)
		m.want(m.hear(ip1, 50), "SendAdvert 100", "AnnounceAgain", "Contention")
	})
	t.Run("an address that isn't there can't be lost", func(t *testing.T) {
		m := newActive(t, afterNotify)
		m.want(m.step(Event{Kind: AddressLost}))
		m.wantState(Active)
	})
	t.Run("release, fault and shutdown while it waits", func(t *testing.T) {
		m := newActive(t, afterNotify)
		m.want(m.step(Event{Kind: Release, Hold: time.Minute}), "SendAdvert 0", "RemoveAddresses", "Active -> Backup (released for 1m0s)")
		m = newActive(t, afterNotify)
		m.want(m.step(Event{Kind: FaultRaised, Reason: "disk"}), "SendAdvert 0", "RemoveAddresses", "Active -> Fault (disk)")
		m = newActive(t, afterNotify)
		m.want(m.step(Event{Kind: Shutdown}), "SendAdvert 0", "RemoveAddresses", "Active -> Initialize (shut down)")
	})
	t.Run("a hook's result means nothing without it", func(t *testing.T) {
		m := newActive(t)
		m.want(m.step(ok(m)))
		m.want(m.step(fail(m)))
		m.wantState(Active)
	})
	t.Run("an owner waits too", func(t *testing.T) {
		m := newMachine(t, config(owner, afterNotify))
		m.want(m.step(Event{Kind: Startup}), "SendAdvert 255", "Initialize -> Active (started as the address owner (priority 255))")
		m.want(m.step(fail(m)), failed...)
		m.want(m.tick(), "SendAdvert 255", "Fault -> Active (tries again 10s after the hook failed)")
	})
	t.Run("without a reason", func(t *testing.T) {
		m := newActive(t, afterNotify)
		m.want(m.step(Event{Kind: HookFailed, Seq: m.r.Seq()}), "SendAdvert 0", "RemoveAddresses", "Active -> Fault (the hook failed)")
	})
}
