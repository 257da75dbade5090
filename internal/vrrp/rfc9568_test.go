package vrrp

import (
	"net/netip"
	"testing"
	"time"
)

// The tests of this file are named after the section of RFC 9568 that they hold us to.

func TestRFC9568_5_1_1_3_TTLIs255(t *testing.T) {
	f := filter4()
	for ttl := -1; ttl <= 256; ttl++ {
		p := packet(t, vectors[4])
		p.TTL = ttl
		var a Advert
		_, got := f.Check(&a, p)
		if want := map[bool]Reject{true: Accepted, false: RejectTTL}[ttl == 255]; got != want {
			t.Errorf("TTL %d: got %v, want %v", ttl, got, want)
		}
	}
}

func TestRFC9568_5_1_2_3_HopLimitIs255(t *testing.T) {
	f := filter6()
	p := packet(t, vectors[7])
	p.TTL = 254
	var a Advert
	if _, got := f.Check(&a, p); got != RejectTTL {
		t.Errorf("got %v, want %v", got, RejectTTL)
	}
}

func TestRFC9568_5_2_1_Version(t *testing.T) {
	if got := vectors[4].bytes(t)[0] >> 4; got != 3 {
		t.Errorf("got version %d on the wire, want 3", got)
	}
}

func TestRFC9568_5_2_2_UnknownTypeIsDiscarded(t *testing.T) {
	for typ := range byte(16) {
		b := vectors[4].bytes(t)
		b[0] = 0x30 | typ
		var a Advert
		_, got := Decode(&a, seal(b, ip1, group4, ChecksumPseudoHeader), ip1, group4)
		if want := map[bool]Reject{true: Accepted, false: RejectType}[typ == 1]; got != want {
			t.Errorf("type %d: got %v, want %v", typ, got, want)
		}
	}
}

func TestRFC9568_5_2_5_CountOfZeroIsIgnored(t *testing.T) {
	b := []byte{0x31, 51, 100, 0, 0, 100, 0, 0}
	var a Advert
	if _, got := Decode(&a, seal(b, ip1, group4, ChecksumPlain), ip1, group4); got != RejectNoAddresses {
		t.Errorf("got %v, want %v", got, RejectNoAddresses)
	}
}

func TestRFC9568_5_2_6_ReserveIsZeroAndIgnored(t *testing.T) {
	b := vectors[4].bytes(t)
	if b[4]&0xf0 != 0 {
		t.Errorf("sent % x, want zero bits", b[4])
	}
	b[4] |= 0xf0
	var a Advert
	_, r := Decode(&a, seal(b, ip1, group4, ChecksumPseudoHeader), ip1, group4)
	if r != Accepted || a.Interval != time.Second {
		t.Errorf("got %v and interval %v, want accepted and 1s", r, a.Interval)
	}
}

func TestRFC9568_5_2_7_IntervalIsTwelveBitsOfCentiseconds(t *testing.T) {
	for _, d := range []time.Duration{10 * time.Millisecond, time.Second, 2560 * time.Millisecond, 40950 * time.Millisecond} {
		in := Advert{Version: 3, VRID: 1, Priority: 1, Interval: d, Addrs: []netip.Addr{vip}}
		b, err := AppendAdvert(nil, &in, ip1, group4, ChecksumPlain)
		if err != nil {
			t.Fatal(err)
		}
		var out Advert
		if _, r := Decode(&out, b, ip1, group4); r != Accepted || out.Interval != d {
			t.Errorf("%v: got %v and %v", d, r, out.Interval)
		}
	}
}

func TestRFC9568_5_2_8_Checksum(t *testing.T) {
	for _, tt := range []struct {
		name string
		v    vector
		want ChecksumForms
	}{
		{"IPv4 has no pseudo header", vectors[3], 1 << ChecksumPlain},
		{"IPv4 as RFC 5798 was read", vectors[4], 1 << ChecksumPseudoHeader},
		{"IPv6 has the pseudo header of RFC 8200", vectors[7], bothForms},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var a Advert
			if got, r := Decode(&a, tt.v.bytes(t), tt.v.src, tt.v.dst); r != Accepted || got != tt.want {
				t.Errorf("got %v and forms %b, want accepted and %b", r, got, tt.want)
			}
		})
	}
}

func TestRFC9568_6_1_SkewTimeAndActiveDownInterval(t *testing.T) {
	for _, tt := range []struct {
		name       string
		priority   uint8
		interval   time.Duration
		skew, down time.Duration
	}{
		{"default", 100, time.Second, 609375 * time.Microsecond, 3609375 * time.Microsecond},
		{"priority 254", 254, time.Second, 7812500, 3007812500},
		{"owner", 255, time.Second, 3906250, 3003906250},
		{"lowest priority", 1, time.Second, 996093750, 3996093750},
		{"10 ms", 100, 10 * time.Millisecond, 6093750, 36093750},
		{"longest", 1, 40950 * time.Millisecond, 40790039062, 163640039062},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := skewTime(3, tt.priority, tt.interval); got != tt.skew {
				t.Errorf("Skew_Time: got %v, want %v", got, tt.skew)
			}
			if got := activeDownInterval(3, tt.priority, tt.interval, 3); got != tt.down {
				t.Errorf("Active_Down_Interval: got %v, want %v", got, tt.down)
			}
		})
	}
}

func TestRFC9568_6_4_1_StartupOfTheOwner(t *testing.T) {
	m := newMachine(t, config(owner))
	m.want(m.step(Event{Kind: Startup}),
		"SendAdvert 255", "AddAddresses", "Announce", "Initialize -> Active (started as the address owner (priority 255))")
	m.wantIn(time.Second)
}

func TestRFC9568_6_4_1_StartupOfAnotherRouter(t *testing.T) {
	m := newMachine(t, config())
	m.want(m.step(Event{Kind: Startup}), "Initialize -> Backup (started)")
	m.wantIn(3609375 * time.Microsecond)
	if got := m.r.MasterInterval(); got != time.Second {
		t.Errorf("Active_Adver_Interval: got %v, want ours, 1s", got)
	}
}

func TestRFC9568_6_4_2_Shutdown(t *testing.T) {
	m := newBackup(t)
	m.want(m.step(Event{Kind: Shutdown}), "RemoveAddresses", "Backup -> Initialize (shut down)")
}

func TestRFC9568_6_4_2_ActiveDownTimerFires(t *testing.T) {
	m := newBackup(t)
	m.want(m.tick(), "SendAdvert 100", "AddAddresses", "Announce", "Backup -> Active (no advert for 3.609s (Active_Down_Timer))")
	m.wantIn(time.Second)
}

func TestRFC9568_6_4_2_PriorityZeroSetsTheTimerToSkewTime(t *testing.T) {
	m := newBackup(t)
	m.wait(time.Second)
	m.want(m.hear(ip3, 0))
	m.wantIn(609375 * time.Microsecond)
	m.want(m.tick(), "SendAdvert 100", "AddAddresses", "Announce", "Backup -> Active (10.0.0.3 left (priority 0))")
}

func TestRFC9568_6_4_2_PriorityZeroAfterLearning(t *testing.T) {
	m := newBackup(t)
	m.step(Event{Kind: Received, From: ip3, Priority: 200, Interval: 10 * time.Second})
	m.wait(time.Second)
	m.step(Event{Kind: Received, From: ip3, Priority: 0, Interval: 10 * time.Second})
	m.wantIn(6093750 * time.Microsecond) // the skew is the Active router's interval scaled
}

func TestRFC9568_6_4_2_AcceptsEqualAndHigherPriority(t *testing.T) {
	for _, p := range []uint8{100, 101, 255} {
		m := newBackup(t)
		m.wait(time.Second)
		m.want(m.hear(ip1, p))
		m.wantIn(3609375 * time.Microsecond)
	}
}

func TestRFC9568_6_4_2_LearnsTheActiveRoutersInterval(t *testing.T) {
	m := newBackup(t)
	m.step(Event{Kind: Received, From: ip3, Priority: 200, Interval: 2 * time.Second})
	if got := m.r.MasterInterval(); got != 2*time.Second {
		t.Errorf("Active_Adver_Interval: got %v, want 2s", got)
	}
	m.wantIn(2 * 3609375 * time.Microsecond)
	m.tick()
	m.wantState(Active)
	m.wantIn(time.Second) // Active advertises at its own
	if got := m.r.MasterInterval(); got != time.Second {
		t.Errorf("Active_Adver_Interval when Active: got %v, want 1s", got)
	}
}

func TestRFC9568_6_4_2_DiscardsLowerPriority(t *testing.T) {
	m := newBackup(t)
	for range 3 {
		m.wait(time.Second)
		m.want(m.step(Event{Kind: Received, From: ip3, Priority: 99, Interval: 9 * time.Second}))
	}
	if got := m.r.MasterInterval(); got != time.Second {
		t.Errorf("learned %v from a discarded advert", got)
	}
	m.wantIn(609375 * time.Microsecond)
	m.want(m.tick(), "SendAdvert 100", "AddAddresses", "Announce", "Backup -> Active (preempted 10.0.0.3: it has priority 99, ours is 100)")
}

func TestRFC9568_6_4_2_PreemptModeFalseAcceptsLowerPriority(t *testing.T) {
	m := newBackup(t, noPreempt)
	for range 10 {
		m.wait(time.Second)
		m.want(m.hear(ip3, 1))
		m.wantIn(3609375 * time.Microsecond)
	}
}

// "Note: A router that owns the IPvX addresses always preempts, independent of the setting of this flag" (6.1).
func TestRFC9568_6_1_OwnerAlwaysPreempts(t *testing.T) {
	m := newMachine(t, config(owner, noPreempt, func(c *Config) { c.PreemptDelay = time.Minute }))
	m.step(Event{Kind: Startup})
	m.step(Event{Kind: AddressLost}) // the way for an owner to be a Backup
	m.wantState(Backup)
	m.want(m.hear(ip3, 254))
	m.wantIn(3003906250)
	m.tick()
	m.wantState(Active)
}

func TestRFC9568_6_4_3_Shutdown(t *testing.T) {
	m := newActive(t)
	m.want(m.step(Event{Kind: Shutdown}), "SendAdvert 0", "RemoveAddresses", "Active -> Initialize (shut down)")
}

func TestRFC9568_6_4_3_AdverTimerFires(t *testing.T) {
	m := newActive(t)
	for range 5 {
		m.wantIn(time.Second)
		m.want(m.tick(), "SendAdvert 100")
	}
}

func TestRFC9568_6_4_3_PriorityZeroIsAnsweredAtOnce(t *testing.T) {
	m := newActive(t)
	m.wait(300 * time.Millisecond)
	m.want(m.hear(ip3, 0), "SendAdvert 100")
	m.wantIn(time.Second)
}

// One that is repeated is answered twice in an interval at most, so that nobody makes a flood of it; the first always is, whatever
// we have just answered.
func TestRFC9568_6_4_3_PriorityZeroThatIsRepeated(t *testing.T) {
	for _, m := range []*machine{newActive(t), newGranted(t)} {
		m.want(m.hear(ip3, 50), "SendAdvert 100", "AnnounceAgain", "Contention")
		for range 3 {
			m.want(m.hear(ip3, 0), "SendAdvert 100")
			m.wantIn(time.Second)
			m.want(m.hear(ip3, 0))
			m.wait(499 * time.Millisecond)
			m.want(m.hear(ip1, 0))
			m.wantIn(501 * time.Millisecond)
			m.wait(time.Millisecond)
		}
		m.wantState(Active)
	}
}

func TestRFC9568_6_4_3_GivesWayToAHigherPriority(t *testing.T) {
	m := newActive(t)
	m.wait(300 * time.Millisecond)
	m.want(m.step(Event{Kind: Received, From: ip1, Priority: 150, Interval: 2 * time.Second}),
		"RemoveAddresses", "Active -> Backup (10.0.0.1 has priority 150, ours is 100)")
	m.wantIn(2 * 3609375 * time.Microsecond) // with the interval of the advert
}

func TestRFC9568_6_4_3_EqualPriorityGreaterAddressWins(t *testing.T) {
	m := newActive(t)
	m.want(m.hear(ip3, 100), "RemoveAddresses", "Active -> Backup (10.0.0.3 has priority 100 as we have, and the greater address)")
}

func TestRFC9568_6_4_3_EqualPrioritySmallerAddressLoses(t *testing.T) {
	m := newActive(t)
	m.want(m.hear(ip1, 100), "SendAdvert 100", "AnnounceAgain", "Contention")
	m.wantState(Active)
}

// Addresses are compared as unsigned integers, most significant byte first.
func TestRFC9568_6_4_3_AddressesCompareAsUnsigned(t *testing.T) {
	for _, tt := range []struct {
		name, ours, theirs string
		want               State
	}{
		{"last byte", "10.0.0.9", "10.0.0.10", Backup},
		{"first byte beyond 127", "100.0.0.1", "200.0.0.1", Backup},
		{"first byte beyond 127, ours", "200.0.0.1", "100.0.0.1", Active},
		{"IPv6", "fe80::1", "fe80::8000:0:0:0", Backup},
		{"IPv6 with a zone", "fe80::2%eth0", "fe80::1%eth1", Active},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := newActive(t, func(c *Config) { c.Source = netip.MustParseAddr(tt.ours) })
			m.hear(netip.MustParseAddr(tt.theirs), 100)
			m.wantState(tt.want)
		})
	}
}

func TestRFC9568_6_4_3_LowerPriorityIsAnsweredAtOnce(t *testing.T) {
	m := newActive(t)
	m.wait(300 * time.Millisecond)
	m.want(m.hear(ip3, 50), "SendAdvert 100", "AnnounceAgain", "Contention")
	m.wantState(Active)
	m.wantIn(time.Second)
}

func TestRFC9568_7_1_OwnerListensToNobody(t *testing.T) {
	f := filter4()
	f.Owner, f.IgnoreAdverts = true, true
	var a Advert
	if _, got := f.Check(&a, packet(t, vectors[4])); got != RejectOwner {
		t.Errorf("got %v, want %v", got, RejectOwner)
	}
}

func TestRFC9568_7_1_IntervalMismatchIsNoReasonToDiscard(t *testing.T) {
	f := filter4()
	f.Interval = 3 * time.Second
	var a Advert
	if warn, got := f.Check(&a, packet(t, vectors[4])); got != Accepted || warn != WarnInterval {
		t.Errorf("got %v and warnings %b, want accepted with %b", got, warn, WarnInterval)
	}
}

func TestRFC9568_7_1_AddressMismatchIsNoReasonToDiscard(t *testing.T) {
	f := filter4()
	f.Addrs = []netip.Addr{ip3}
	var a Advert
	if warn, got := f.Check(&a, packet(t, vectors[4])); got != Accepted || warn != WarnAddresses|WarnForeign {
		t.Errorf("got %v and warnings %b, want accepted with %b", got, warn, WarnAddresses|WarnForeign)
	}
}
