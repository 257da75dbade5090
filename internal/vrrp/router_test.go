package vrrp

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestNewRouterErrors(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(*Config)
		want   string
	}{
		{"version", func(c *Config) { c.Version = 1 }, "version 1: want 2 or 3"},
		{"VRID", func(c *Config) { c.VRID = 0 }, "virtual router id 0: want 1 to 255"},
		{"priority", priority(0), "priority 0: want 1 to 255"},
		{"no interval", every(0), "advertisement interval 0s: version 3 wants steps of 10ms, 10ms to 40.95s"},
		{"negative interval", every(-time.Second), "advertisement interval -1s"},
		{"version 2 interval", func(c *Config) { c.Version, c.AdvertInterval = 2, 100*time.Millisecond }, "version 2 wants whole seconds, 1 to 255"},
		{"no adverts", func(c *Config) { c.DownTimerAdverts = 0 }, "down timer of 0 adverts: want 1 to 100"},
		{"too many adverts", func(c *Config) { c.DownTimerAdverts = 101 }, "down timer of 101 adverts: want 1 to 100"},
		{"preempt delay", func(c *Config) { c.PreemptDelay = 1001 * time.Second }, "preempt delay 16m41s: want 0s to 16m40s"},
		{"negative preempt delay", func(c *Config) { c.PreemptDelay = -1 }, "preempt delay -1ns"},
		{"notify retry", func(c *Config) { c.NotifyRetry = -1 }, "notify retry -1ns: want 0s or more"},
		{"an owner that needs a grant", func(c *Config) { c.Priority, c.Gated = PriorityOwner, true }, "priority 255: an address owner takes mastership without asking"},
		{"version 2 on IPv6", func(c *Config) { c.Version, c.Source = 2, link1 }, "source fe80::1: version 2 knows IPv4 only"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := NewRouter(config(tt.change))
			if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.HasPrefix(err.Error(), "configure virtual router ") {
				t.Errorf("got %v, want configure virtual router …: %s", err, tt.want)
			}
		})
	}
	_, err := NewRouter(Config{})
	if got := strings.Count(err.Error(), "\n") + 1; got != 4 {
		t.Errorf("got %d mistakes, want all 4: %v", got, err)
	}
}

func TestLateTick(t *testing.T) {
	t.Run("a little late: no drift", func(t *testing.T) {
		m := newActive(t)
		due := m.r.Deadline()
		for range 100 {
			due = due.Add(time.Second)
			m.now = m.r.Deadline().Add(40 * time.Millisecond)
			m.want(m.step(Event{Kind: Tick}), "SendAdvert 100")
			if got := m.r.Deadline(); !got.Equal(due) {
				t.Fatalf("next advert at %v, want at %v", got.Sub(epoch), due.Sub(epoch))
			}
		}
	})
	t.Run("a minute late: no burst", func(t *testing.T) {
		m := newActive(t)
		m.wait(time.Minute)
		m.want(m.step(Event{Kind: Tick}), "SendAdvert 100")
		m.want(m.step(Event{Kind: Tick}))
		m.wantIn(time.Second)
	})
	t.Run("the waiting advert goes before the Tick", func(t *testing.T) {
		m := newBackup(t)
		m.wait(time.Minute)
		m.want(m.hear(ip3, 150))
		m.want(m.step(Event{Kind: Tick}))
		m.wantState(Backup)
	})
	t.Run("a Tick without a deadline", func(t *testing.T) {
		m := newMachine(t, config())
		m.want(m.step(Event{Kind: Tick}))
		m.step(Event{Kind: FaultRaised, Reason: "disk"})
		m.step(Event{Kind: Startup})
		m.wait(time.Hour)
		m.want(m.step(Event{Kind: Tick}))
		m.wantState(Fault)
	})
}

func TestStatus(t *testing.T) {
	m := newBackup(t)
	if got := m.r.LastHeard(); got != (Heard{}) {
		t.Errorf("got %+v, want nothing heard", got)
	}
	m.wait(time.Second)
	m.step(Event{Kind: Received, From: ip3.WithZone(""), Priority: 150, Interval: 2 * time.Second})
	want := Heard{From: ip3, Priority: 150, Interval: 2 * time.Second, At: set(m.now)}
	if got := m.r.LastHeard(); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if got := m.r.MasterInterval(); got != 2*time.Second {
		t.Errorf("got interval %v, want 2s", got)
	}
	m.step(Event{Kind: Release, Hold: time.Minute})
	if got, want := m.r.HeldUntil(), m.now.Add(time.Minute); !got.Equal(want) {
		t.Errorf("got held until %v, want %v", got, want)
	}
	if got := m.r.FaultReason(); got != "" {
		t.Errorf("got fault %q, want none", got)
	}
}

func TestEventsThatMakeNoSense(t *testing.T) {
	m := newMachine(t, config())
	for k := Tick; k <= Revoked+3; k++ {
		if k != Startup && k != FaultRaised {
			m.want(m.step(Event{Kind: k, From: ip3, Priority: 90, Hold: -1}))
		}
	}
	m.step(Event{Kind: Startup})
	m.want(m.step(Event{Kind: Startup}))
	m.want(m.step(Event{Kind: FaultCleared}))
	m.want(m.step(Event{Kind: AddressLost}))
	m.want(m.step(Event{Kind: HookSucceeded}))
	m.want(m.step(Event{Kind: HookFailed}))
	m.want(m.step(Event{Kind: Received})) // from nobody, leaving
}

func TestStartAgain(t *testing.T) {
	m := newActive(t)
	m.step(Event{Kind: Release, Hold: time.Hour})
	m.step(Event{Kind: Shutdown, Reason: "reload"})
	m.want(m.step(Event{Kind: Startup, Reason: "eth0 has an address"}), "Initialize -> Backup (eth0 has an address)")
	m.wantIn(3609375 * time.Microsecond)
}

func TestReconfigure(t *testing.T) {
	change := func(t *testing.T, m *machine, f ...func(*Config)) {
		t.Helper()
		if err := m.r.Reconfigure(config(f...)); err != nil {
			t.Fatal(err)
		}
		m.want(m.step(Event{Kind: Tick}))
	}
	t.Run("Active", func(t *testing.T) {
		m := newActive(t)
		m.wait(500 * time.Millisecond)
		change(t, m, every(2*time.Second), priority(150))
		m.wantIn(1500 * time.Millisecond)
		m.want(m.tick(), "SendAdvert 150")
		m.wantIn(2 * time.Second)
	})
	t.Run("Active, the shorter interval is over", func(t *testing.T) {
		m := newActive(t)
		m.wait(500 * time.Millisecond)
		if err := m.r.Reconfigure(config(every(100 * time.Millisecond))); err != nil {
			t.Fatal(err)
		}
		m.want(m.step(Event{Kind: Tick}), "SendAdvert 100")
		m.wantIn(100 * time.Millisecond)
	})
	t.Run("Backup", func(t *testing.T) {
		m := newBackup(t)
		m.wait(time.Second)
		change(t, m, every(2*time.Second), priority(128), func(c *Config) { c.DownTimerAdverts = 5 })
		m.wantIn(10 * time.Second) // 5 x 2 s and a skew of 1 s, one second ago
	})
	t.Run("Backup that learned keeps that", func(t *testing.T) {
		m := newBackup(t)
		m.step(Event{Kind: Received, From: ip3, Priority: 200, Interval: 4 * time.Second})
		change(t, m, every(2*time.Second))
		m.wantIn(4 * 3609375 * time.Microsecond)
	})
	t.Run("Backup that learned its own interval keeps that", func(t *testing.T) {
		m := newBackup(t)
		m.hear(ip3, 200)
		m.wait(900 * time.Millisecond)
		change(t, m, every(100*time.Millisecond))
		m.wantIn(2709375 * time.Microsecond) // 3 x 1 s and the skew, 0.9 s ago
	})
	t.Run("Backup that gave way to its own interval keeps that", func(t *testing.T) {
		m := newActive(t)
		m.hear(ip3, 200)
		m.wait(900 * time.Millisecond)
		change(t, m, every(100*time.Millisecond))
		m.wantIn(2709375 * time.Microsecond)
	})
	t.Run("Backup that heard nobody since its fault", func(t *testing.T) {
		m := newBackup(t)
		m.hear(ip3, 200)
		m.step(Event{Kind: FaultRaised})
		m.step(Event{Kind: FaultCleared})
		change(t, m, every(2*time.Second))
		m.wantIn(7218750 * time.Microsecond)
	})
	t.Run("version 2 Backup", func(t *testing.T) {
		m := newBackup(t, version2)
		m.hear(ip3, 150)
		change(t, m, version2, every(2*time.Second))
		m.wantIn(6609375 * time.Microsecond)
	})
	t.Run("after priority 0 the skew alone", func(t *testing.T) {
		m := newBackup(t)
		m.hear(ip3, 0)
		change(t, m, func(c *Config) { c.DownTimerAdverts = 9 })
		m.wantIn(609375 * time.Microsecond)
	})
	t.Run("errors change nothing", func(t *testing.T) {
		m := newBackup(t)
		for name, f := range map[string]func(*Config){
			"priority 0: want":        priority(0),
			"can't change while":      version2,
			"virtual router id 52: c": func(c *Config) { c.VRID = 52 },
			"whether it needs a gran": gated,
		} {
			if err := m.r.Reconfigure(config(f)); err == nil || !strings.Contains(err.Error(), name) {
				t.Errorf("got %v, want … %s …", err, name)
			}
		}
		m.wantIn(3609375 * time.Microsecond)
	})
}

func TestActionOrderLegend(t *testing.T) {
	for k := SendAdvert; k <= GiveUp; k++ {
		if s := order([]Action{{Kind: k, Priority: 1}}); s == "?" {
			t.Errorf("%v has no letter", k)
		}
	}
}

func TestStrings(t *testing.T) {
	for got, want := range map[string]string{
		Initialize.String():    "Initialize",
		Fault.String():         "Fault",
		State(9).String():      "unknown(9)",
		Tick.String():          "Tick",
		Release.String():       "Release",
		Stalled.String():       "Stalled",
		EventKind(99).String(): "unknown(99)",
		SendAdvert.String():    "SendAdvert",
		Contention.String():    "Contention",
		Granted.String():       "Granted",
		Revoked.String():       "Revoked",
		Request.String():       "Request",
		GiveUp.String():        "GiveUp",
		ActionKind(9).String(): "unknown(9)",
	} {
		if got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

// TestRandomEvents: whatever happens in whatever order, the invariants of machine.check hold.
func TestRandomEvents(t *testing.T) {
	t.Run("plain", func(t *testing.T) { randomEvents(t, false) })
	t.Run("gated", func(t *testing.T) { randomEvents(t, true) })
}

func randomEvents(t *testing.T, gated bool) {
	rapid.Check(t, func(rt *rapid.T) {
		draw := func() Config {
			c := drawConfig(rt, "config")
			if c.Gated = gated; gated {
				c.Priority = min(c.Priority, 254)
			}
			return c
		}
		m := newMachine(rt, draw())
		for range rapid.IntRange(1, 60).Draw(rt, "events") {
			m.wait(time.Duration(rapid.Int64Range(0, int64(5*time.Second)).Draw(rt, "wait")))
			if rapid.IntRange(0, 2).Draw(rt, "at the deadline") == 0 && m.r.Deadline().After(m.now) {
				m.now = m.r.Deadline()
			}
			if rapid.IntRange(0, 30).Draw(rt, "reconfigure") == 0 {
				c := draw()
				c.Version, c.AdvertInterval = m.r.cfg.Version, time.Duration(rapid.IntRange(1, 40).Draw(rt, "interval"))*time.Second
				if err := m.r.Reconfigure(c); err != nil {
					rt.Fatalf("Reconfigure: %v", err)
				}
			}
			ev := drawEvent(rt, m)
			if gated && m.r.State() != Active && rapid.IntRange(0, 3).Draw(rt, "grant") == 0 {
				ev.Kind = Granted
			}
			m.step(ev)
		}
		m.step(Event{Kind: Shutdown})
		if m.r.State() != Initialize || m.added {
			rt.Fatalf("after Shutdown: %v, addresses %v", m.r.State(), m.added)
		}
	})
}

func drawConfig(rt *rapid.T, name string) Config {
	flag := func() bool { return rapid.Bool().Draw(rt, name) }
	c := Config{
		Version:              rapid.SampledFrom([]Version{2, 3}).Draw(rt, "version"),
		VRID:                 51,
		Priority:             rapid.SampledFrom([]uint8{1, 50, 100, 254, 255}).Draw(rt, "priority"),
		AdvertInterval:       time.Duration(rapid.IntRange(1, 3).Draw(rt, "interval")) * time.Second,
		DownTimerAdverts:     rapid.IntRange(1, 4).Draw(rt, "adverts"),
		Preempt:              flag(),
		PreemptDelay:         time.Duration(rapid.IntRange(0, 4).Draw(rt, "delay")) * time.Second,
		HigherPrioSendAdvert: flag(),
		LowerPrioNoAdvert:    flag(),
		Source:               rapid.SampledFrom([]netip.Addr{{}, ip2}).Draw(rt, "source"),
		AddressesAfterNotify: flag(),
		NotifyRetry:          time.Duration(rapid.IntRange(0, 4).Draw(rt, "retry")) * time.Second,
	}
	if c.Version == 3 {
		c.AdvertInterval = rapid.SampledFrom([]time.Duration{10 * time.Millisecond, time.Second, 40950 * time.Millisecond}).Draw(rt, "v3 interval")
	}
	return c
}

func drawEvent(rt *rapid.T, m *machine) Event {
	return Event{
		Kind:     EventKind(rapid.IntRange(int(Tick), int(Revoked)+1).Draw(rt, "kind")),
		From:     rapid.SampledFrom([]netip.Addr{{}, ip1, ip2, ip3}).Draw(rt, "from"),
		Priority: rapid.SampledFrom([]uint8{0, 1, 50, 99, 100, 101, 254, 255}).Draw(rt, "priority"),
		Interval: rapid.SampledFrom([]time.Duration{0, 10 * time.Millisecond, time.Second, 40950 * time.Millisecond}).Draw(rt, "interval"),
		Hold:     time.Duration(rapid.IntRange(-1, 20).Draw(rt, "hold")) * time.Second,
		Seq:      m.r.Seq() - uint64(rapid.IntRange(0, 1).Draw(rt, "stale")),
		Reason:   rapid.SampledFrom([]string{"", "because"}).Draw(rt, "reason"),
	}
}
