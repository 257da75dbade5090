package vrrp

import (
	"testing"
	"time"
)

func TestGatedAsksAgain(t *testing.T) {
	const down = 3609375 * time.Microsecond // priority 100, 1 s
	m := newBackup(t, gated)
	m.wantIn(down)
	m.want(m.tick(), "Request (no advert for 3.609s (Active_Down_Timer))")
	m.want(m.step(Event{Kind: Tick}))
	m.wantIn(down)
	m.want(m.tick(), "Request (no advert for 7.219s (Active_Down_Timer))")
	m.wait(time.Second)
	m.want(m.hear(ip3, 50)) // of any priority: nobody is preempted
	m.wantIn(down)
	m.want(m.tick(), "Request (no advert for 3.609s (Active_Down_Timer))")
	m.wantState(Backup)
}

func TestGatedHearsPriorityZero(t *testing.T) {
	m := newBackup(t, gated)
	m.wait(time.Second)
	m.want(m.hear(ip3, 0), "Request (10.0.0.3 left (priority 0))")
	m.wantIn(3609375 * time.Microsecond)
	m.wait(499 * time.Millisecond)
	m.want(m.hear(ip3, 0)) // too soon: after the skew
	m.wantIn(609375 * time.Microsecond)
	m.want(m.tick(), "Request (10.0.0.3 left (priority 0))")
	m.wait(500 * time.Millisecond)
	m.want(m.hear(ip1, 0), "Request (10.0.0.1 left (priority 0))")

	for range 1000 { // a flood, for a second
		m.wait(time.Millisecond)
		m.step(Event{Kind: Tick})
		m.hear(ip1, 0)
	}
	if got := m.requests; got != 5 {
		t.Errorf("got %d requests, want the 3 above and 2 in a second of flood", got)
	}
}

func TestGatedIgnoresPreemption(t *testing.T) {
	m := newBackup(t, gated, func(c *Config) { c.PreemptDelay = 2 * time.Second })
	for range 10 {
		m.wait(time.Second)
		m.want(m.hear(ip3, 1))
		m.want(m.step(Event{Kind: Tick}))
	}
	m.step(Event{Kind: PriorityChanged, Priority: 254})
	for range 10 {
		m.wait(time.Second)
		m.want(m.hear(ip3, 1))
		m.want(m.step(Event{Kind: Tick}))
	}
}

func TestGrantedWhereItIsOfNoUse(t *testing.T) {
	for _, tt := range []struct {
		name string
		m    func(t *testing.T) *machine
		want []string
	}{
		{"not started", func(t *testing.T) *machine { return newMachine(t, config(gated)) }, []string{"GiveUp (not started)"}},
		{"stopped", func(t *testing.T) *machine {
			m := newGranted(t)
			m.step(Event{Kind: Shutdown})
			return m
		}, []string{"GiveUp (not started)"}},
		{"Fault", func(t *testing.T) *machine {
			m := newBackup(t, gated)
			m.step(Event{Kind: FaultRaised, Reason: "disk"})
			return m
		}, []string{"GiveUp (disk)"}},
		{"held", func(t *testing.T) *machine {
			m := newBackup(t, gated)
			m.step(Event{Kind: Release, Hold: time.Minute, Reason: "by an operator"})
			m.wait(59 * time.Second)
			return m
		}, []string{"GiveUp (released for 1m0s: by an operator)"}},
		{"Active", func(t *testing.T) *machine { return newGranted(t) }, nil},
		{"plain", func(t *testing.T) *machine { return newBackup(t) }, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := tt.m(t)
			before := m.r.State()
			m.want(m.step(Event{Kind: Granted, Reason: "epoch 7"}), tt.want...)
			m.wantState(before)
		})
	}
}

func TestGrantedAfterAHold(t *testing.T) {
	for name, end := range map[string]func(*machine){
		"over":  func(m *machine) { m.wait(time.Minute) },
		"ended": func(m *machine) { m.step(Event{Kind: Release}) },
	} {
		t.Run(name, func(t *testing.T) {
			m := newBackup(t, gated)
			m.step(Event{Kind: Release, Hold: time.Minute})
			end(m)
			m.want(m.step(Event{Kind: Granted}), "SendAdvert 100", "AddAddresses", "Announce", "Backup -> Active (mastership was granted)")
		})
	}
}

func TestRevoked(t *testing.T) {
	m := newGranted(t)
	m.wait(10 * time.Second)
	m.want(m.step(Event{Kind: Revoked, Reason: "the lease has lapsed"}),
		"RemoveAddresses", "SendAdvert 0", "Active -> Backup (the lease has lapsed)")
	m.wantIn(3609375 * time.Microsecond) // asks only after silence
	m.want(m.step(Event{Kind: Revoked}))
	m.step(Event{Kind: FaultRaised})
	m.want(m.step(Event{Kind: Revoked}))
	m.want(m.step(Event{Kind: Shutdown}), "RemoveAddresses", "Fault -> Initialize (shut down)")
	m.want(m.step(Event{Kind: Revoked}))

	plain := newActive(t)
	plain.want(plain.step(Event{Kind: Revoked}))
	plain.wantState(Active)
}

// TestGatedAnswers: whatever the other's priority, a gated Active router stays, and answers twice in an interval at most.
func TestGatedAnswers(t *testing.T) {
	for _, tt := range []struct {
		name     string
		change   func(*Config)
		priority uint8
		want     []string
	}{
		{"higher", lastAdvert, 200, []string{"SendAdvert 100", "AnnounceAgain"}},
		{"equal, greater address", lastAdvert, 100, []string{"SendAdvert 100", "AnnounceAgain"}},
		{"lower", lastAdvert, 50, []string{"SendAdvert 100", "AnnounceAgain", "Contention"}},
		{"lower, no answer wanted", noAnswer, 50, []string{"AnnounceAgain", "Contention"}},
		{"higher, no answer to lower ones wanted", noAnswer, 200, []string{"SendAdvert 100", "AnnounceAgain"}},
		{"higher, addresses wait", afterNotify, 200, []string{"SendAdvert 100"}},
		{"an owner", lastAdvert, 255, []string{"SendAdvert 100", "AnnounceAgain"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := newGranted(t, tt.change)
			m.want(m.hear(ip3, tt.priority), tt.want...)
			m.wait(499 * time.Millisecond)
			m.want(m.hear(ip3, tt.priority))
			m.wait(time.Millisecond)
			m.want(m.hear(ip3, tt.priority), tt.want...)
			m.wantState(Active)
		})
	}
}

// TestGatedLeaves: the addresses go first, and the grant goes back.
func TestGatedLeaves(t *testing.T) {
	for _, tt := range []struct {
		ev   Event
		want []string
	}{
		{Event{Kind: FaultRaised, Reason: "disk"}, []string{"RemoveAddresses", "SendAdvert 0", "GiveUp (disk)", "Active -> Fault (disk)"}},
		{Event{Kind: Shutdown, Reason: "bye"}, []string{"RemoveAddresses", "SendAdvert 0", "GiveUp (bye)", "Active -> Initialize (bye)"}},
		{Event{Kind: AddressLost, Reason: "ip flush"}, []string{"RemoveAddresses", "SendAdvert 0", "GiveUp (ip flush)", "Active -> Backup (ip flush)"}},
		{Event{Kind: Release, Hold: time.Second}, []string{"RemoveAddresses", "SendAdvert 0", "GiveUp (released for 1s)", "Active -> Backup (released for 1s)"}},
		{Event{Kind: Stalled, Reason: "asleep"}, []string{"RemoveAddresses", "GiveUp (asleep)", "Active -> Backup (asleep)"}},
	} {
		t.Run(tt.ev.Kind.String(), func(t *testing.T) {
			m := newGranted(t)
			m.want(m.step(tt.ev), tt.want...)
			m.want(m.step(Event{Kind: Revoked})) // too late to matter
		})
	}
	t.Run("HookFailed", func(t *testing.T) {
		m := newGranted(t, afterNotify)
		m.want(m.step(Event{Kind: HookFailed, Seq: m.r.Seq(), Reason: "exit code 1"}), "RemoveAddresses", "SendAdvert 0",
			"GiveUp (the hook failed: exit code 1)", "Active -> Fault (the hook failed: exit code 1)")
	})
}

// TestGatedLostAddress: the grant that is given back must not come back before another node had its chance.
func TestGatedLostAddress(t *testing.T) {
	m := newGranted(t)
	m.step(Event{Kind: AddressLost, Reason: "ip flush"})
	m.wantIn(3609375 * time.Microsecond)
	if got, want := m.r.HeldUntil(), m.r.Deadline(); !got.Equal(want) || m.r.HoldReason() != "ip flush" {
		t.Errorf("got held until %v (%s), want until the down timer fires", got, m.r.HoldReason())
	}
	m.want(m.step(Event{Kind: Granted}), "GiveUp (ip flush)")
	m.want(m.tick(), "Request (nobody took over for 3.609s after a virtual address was lost)")
	m.step(Event{Kind: Granted})
	m.wantState(Active)
}
