package vrrp

import (
	"testing"
	"time"
)

// A Backup that has failed to hold the addresses leaves them to whoever is Active, and takes over only from silence.
func TestDoubtAddresses(t *testing.T) {
	for name, change := range map[string]func(*Config){
		"higher priority": priority(200), "owner": owner,
		"preempt delay": func(c *Config) { c.PreemptDelay = time.Second },
	} {
		t.Run(name, func(t *testing.T) {
			m := newActive(t, change)
			m.step(Event{Kind: Doubted, Doubt: DoubtAddresses})
			m.step(Event{Kind: FaultRaised, Reason: "no such device"})
			m.step(Event{Kind: FaultCleared})
			m.wantState(Backup)
			for range 20 {
				m.wait(time.Second)
				m.want(m.hear(ip3, 50))
				m.want(m.step(Event{Kind: Tick}))
			}
			m.tick()
			m.wantState(Active)
		})
	}
	m := newBackup(t)
	m.step(Event{Kind: Doubted, Doubt: DoubtAddresses})
	m.step(Event{Kind: Doubted})
	m.wait(time.Second)
	m.hear(ip3, 50)
	m.wantIn(2609375 * time.Microsecond) // preempts as ever
}

// A Backup that has failed to send becomes Active only once an advert has left.
func TestDoubtSending(t *testing.T) {
	const takes = "Backup -> Active (preempted 10.0.0.3: it has priority 50, ours is 100)"
	probing := func(t *testing.T, change ...func(*Config)) *machine {
		m := newBackup(t, change...)
		m.step(Event{Kind: Doubted, Doubt: DoubtSending})
		for range 3 {
			m.wait(time.Second)
			m.want(m.hear(ip3, 50))
		}
		m.want(m.tick(), "SendAdvert 100")
		return m
	}
	m := probing(t)
	m.wantIn(1609375 * time.Microsecond)
	m.want(m.tick(), "SendAdvert 100")
	m.want(m.step(Event{Kind: Doubted, Doubt: DoubtAddresses}), "SendAdvert 100", "AddAddresses", "Announce", takes)

	m = probing(t)
	m.want(m.hear(ip3, 150)) // the one after that is followed
	m.want(m.step(Event{Kind: Doubted}))
	m.wantState(Backup)

	m = probing(t, func(c *Config) { c.Grouped = true })
	if m.r.Ready() {
		t.Error("ready before an advert has left")
	}
	got := m.r.Step(m.now, Event{Kind: Doubted})
	if len(got) != 1 || got[0].Kind != Request || !m.r.Ready() {
		t.Errorf("grouped, when one has left: got %v", got)
	}

	m = newBackup(t, gated)
	m.step(Event{Kind: Doubted, Doubt: DoubtSending})
	m.want(m.tick(), "Request (no advert for 3.609s (Active_Down_Timer))")

	m = newActive(t, owner)
	m.step(Event{Kind: Doubted, Doubt: DoubtSending})
	m.step(Event{Kind: FaultRaised})
	m.want(m.step(Event{Kind: FaultCleared}), "Fault -> Backup (nothing tracked is failed any more)")
}

// A Backup whose checks have not reported takes over in the moment in which they have, if it would have before.
func TestDoubtChecks(t *testing.T) {
	m := newBackup(t)
	m.want(m.step(Event{Kind: Doubted, Doubt: DoubtChecks}))
	for range 3 {
		m.want(m.tick())
	}
	m.want(m.step(Event{Kind: Doubted, Doubt: DoubtSending})) // another doubt is left
	m.want(m.tick(), "SendAdvert 100")
	m.step(Event{Kind: Doubted})
	m.wantState(Active)

	m = newBackup(t)
	m.step(Event{Kind: Doubted, Doubt: DoubtChecks})
	m.want(m.tick())
	m.hear(ip3, 150)
	m.want(m.step(Event{Kind: Doubted}))
	m.wantIn(3609375 * time.Microsecond) // of the master that came meanwhile

	m = newBackup(t)
	m.step(Event{Kind: Doubted, Doubt: DoubtChecks})
	m.want(m.tick())
	m.step(Event{Kind: Release, Hold: time.Minute})
	m.want(m.step(Event{Kind: Doubted}))
	m.wantIn(time.Minute) // an operator's word counts
	m.tick()
	m.wantState(Active)

	m = newActive(t)
	m.want(m.step(Event{Kind: Doubted, Doubt: DoubtChecks}))
	m.want(m.tick(), "SendAdvert 100")

	m = newBackup(t, func(c *Config) { c.Grouped = true })
	m.r.Step(m.r.Deadline(), Event{Kind: Tick})
	if !m.r.Ready() {
		t.Fatal("not ready")
	}
	m.step(Event{Kind: Doubted, Doubt: DoubtChecks})
	if m.r.Ready() {
		t.Error("its sync group counts on it before its checks have reported")
	}
	m.r.Step(m.r.Deadline(), Event{Kind: Doubted})
	if !m.r.Ready() {
		t.Error("not ready after they have")
	}
}
