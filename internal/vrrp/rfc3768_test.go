package vrrp

import (
	"net/netip"
	"testing"
	"time"
)

// The tests of this file are named after the section of RFC 3768 (or, for passwords, RFC 2338) that they hold us to.

func TestRFC3768_5_2_3_TTLIs255(t *testing.T) {
	f := filter2()
	p := packet(t, vectors[1])
	p.TTL = 254
	var a Advert
	if _, got := f.Check(&a, p); got != RejectTTL {
		t.Errorf("got %v, want %v", got, RejectTTL)
	}
}

func TestRFC3768_5_3_1_Version(t *testing.T) {
	if got := vectors[0].bytes(t)[0]; got != 0x21 {
		t.Errorf("got first byte %#x, want 0x21", got)
	}
}

func TestRFC3768_5_3_2_UnknownTypeIsDiscarded(t *testing.T) {
	b := vectors[0].bytes(t)
	b[0] = 0x22
	var a Advert
	if _, got := Decode(&a, seal(b, ip1, group4, ChecksumPlain), ip1, group4); got != RejectType {
		t.Errorf("got %v, want %v", got, RejectType)
	}
}

func TestRFC3768_5_3_6_UnknownAuthenticationIsDiscarded(t *testing.T) {
	for typ := range 256 {
		b := vectors[0].bytes(t)
		b[4] = byte(typ)
		var a Advert
		_, got := Decode(&a, seal(b, ip1, group4, ChecksumPlain), ip1, group4)
		if want := map[bool]Reject{true: Accepted, false: RejectAuthType}[typ <= AuthPassword]; got != want {
			t.Errorf("type %d: got %v, want %v", typ, got, want)
		}
	}
}

func TestRFC3768_5_3_7_IntervalIsOneByteOfSeconds(t *testing.T) {
	for s := 1; s <= 255; s++ {
		in := Advert{Version: 2, VRID: 1, Priority: 1, Interval: time.Duration(s) * time.Second, Addrs: []netip.Addr{vip}}
		b, err := AppendAdvert(nil, &in, ip1, group4, ChecksumPseudoHeader)
		if err != nil {
			t.Fatal(err)
		}
		var out Advert
		if _, r := Decode(&out, b, ip1, group4); r != Accepted || out.Interval != in.Interval {
			t.Errorf("%d s: got %v and %v", s, r, out.Interval)
		}
	}
}

// The checksum covers the authentication data and knows no pseudo header, whatever form is configured for version 3.
func TestRFC3768_5_3_8_Checksum(t *testing.T) {
	v := vectors[1]
	for _, form := range []ChecksumForm{ChecksumPseudoHeader, ChecksumPlain} {
		b, err := AppendAdvert(nil, &v.advert, v.src, v.dst, form)
		if err != nil || string(b) != string(v.bytes(t)) {
			t.Errorf("form %d: got % x, %v; want % x", form, b, err, v.bytes(t))
		}
	}
	b := v.bytes(t)
	b[len(b)-1]++
	var a Advert
	if _, got := Decode(&a, b, v.src, v.dst); got != RejectChecksum {
		t.Errorf("changed authentication data: got %v, want %v", got, RejectChecksum)
	}
}

func TestRFC3768_5_3_10_AuthenticationDataIsZeroOnTransmission(t *testing.T) {
	a := vectors[0].advert
	a.Auth = Password("secret")
	b, err := AppendAdvert(nil, &a, ip1, group4, ChecksumPseudoHeader)
	if err != nil || string(b) != string(vectors[0].bytes(t)) {
		t.Errorf("got % x, %v; want zeros", b, err)
	}
}

func TestRFC3768_5_3_10_AuthenticationDataIsIgnoredOnReception(t *testing.T) {
	b := vectors[0].bytes(t)
	copy(b[12:], "whatever")
	var a Advert
	if _, r := Decode(&a, seal(b, ip1, group4, ChecksumPlain), ip1, group4); r != Accepted || a.Auth != [8]byte{} {
		t.Errorf("got %v and %q, want accepted and nothing", r, a.Auth)
	}
}

func TestRFC2338_5_3_10_SimpleTextPassword(t *testing.T) {
	f := filter2()
	var a Advert
	if _, got := f.Check(&a, packet(t, vectors[1])); got != Accepted {
		t.Errorf("right password: got %v", got)
	}
	f.Auth = Password("secret1") // compared in full: no prefix will do
	if _, got := f.Check(&a, packet(t, vectors[1])); got != RejectAuth {
		t.Errorf("prefix of the password: got %v, want %v", got, RejectAuth)
	}
}

func TestRFC3768_6_1_SkewTimeAndMasterDownInterval(t *testing.T) {
	for _, tt := range []struct {
		name       string
		priority   uint8
		interval   time.Duration
		skew, down time.Duration
	}{
		{"priority 150", 150, time.Second, 414062500, 3414062500},
		{"priority 100", 100, time.Second, 609375000, 3609375000},
		{"the skew doesn't scale", 100, 10 * time.Second, 609375000, 30609375000},
		{"owner", 255, time.Second, 3906250, 3003906250},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := skewTime(2, tt.priority, tt.interval); got != tt.skew {
				t.Errorf("Skew_Time: got %v, want %v", got, tt.skew)
			}
			if got := activeDownInterval(2, tt.priority, tt.interval, 3); got != tt.down {
				t.Errorf("Master_Down_Interval: got %v, want %v", got, tt.down)
			}
		})
	}
}

func TestRFC3768_6_4_1_StartupOfTheOwner(t *testing.T) {
	m := newMachine(t, config(version2, owner))
	m.want(m.step(Event{Kind: Startup}),
		"SendAdvert 255", "AddAddresses", "Announce", "Initialize -> Active (started as the address owner (priority 255))")
}

func TestRFC3768_6_4_1_StartupOfAnotherRouter(t *testing.T) {
	m := newMachine(t, config(version2, priority(150)))
	m.want(m.step(Event{Kind: Startup}), "Initialize -> Backup (started)")
	m.wantIn(3414062500)
}

func TestRFC3768_6_4_2_MasterDownTimerFires(t *testing.T) {
	m := newBackup(t, version2, priority(150))
	m.want(m.tick(), "SendAdvert 150", "AddAddresses", "Announce", "Backup -> Active (no advert for 3.414s (Active_Down_Timer))")
}

func TestRFC3768_6_4_2_PriorityZeroSetsTheTimerToSkewTime(t *testing.T) {
	m := newBackup(t, version2, every(10*time.Second))
	m.hear(ip3, 0)
	m.wantIn(609375 * time.Microsecond)
}

func TestRFC3768_6_4_2_NeverLearnsAnInterval(t *testing.T) {
	m := newBackup(t, version2)
	m.step(Event{Kind: Received, From: ip3, Priority: 200, Interval: 5 * time.Second})
	m.wantIn(3609375 * time.Microsecond)
}

func TestRFC3768_6_4_2_PreemptMode(t *testing.T) {
	m := newBackup(t, version2)
	m.wait(time.Second)
	m.hear(ip3, 99)
	m.wantIn(2609375 * time.Microsecond)

	m = newBackup(t, version2, noPreempt)
	m.wait(time.Second)
	m.hear(ip3, 99)
	m.wantIn(3609375 * time.Microsecond)
}

func TestRFC3768_6_4_3_Shutdown(t *testing.T) {
	m := newActive(t, version2)
	m.want(m.step(Event{Kind: Shutdown}), "SendAdvert 0", "RemoveAddresses", "Active -> Initialize (shut down)")
}

func TestRFC3768_6_4_3_PriorityZeroIsAnsweredAtOnce(t *testing.T) {
	m := newActive(t, version2)
	m.wait(300 * time.Millisecond)
	m.want(m.hear(ip3, 0), "SendAdvert 100")
	m.wantIn(time.Second)
}

func TestRFC3768_6_4_3_GivesWay(t *testing.T) {
	m := newActive(t, version2)
	m.want(m.hear(ip1, 101), "RemoveAddresses", "Active -> Backup (10.0.0.1 has priority 101, ours is 100)")
	m.wantIn(3609375 * time.Microsecond)

	m = newActive(t, version2)
	m.want(m.hear(ip3, 100), "RemoveAddresses", "Active -> Backup (10.0.0.3 has priority 100 as we have, and the greater address)")
}

// RFC 3768 discards a lower priority in silence; that is lower_prio_no_advert, and as in keepalived not the default.
func TestRFC3768_6_4_3_LowerPriorityIsDiscarded(t *testing.T) {
	m := newActive(t, version2, noAnswer)
	m.wait(300 * time.Millisecond)
	m.want(m.hear(ip3, 99), "AnnounceAgain", "Contention")
	m.wantIn(700 * time.Millisecond)
}

func TestRFC3768_7_1_IntervalMismatchIsDiscarded(t *testing.T) {
	f := filter2()
	f.Interval = 2 * time.Second
	var a Advert
	if _, got := f.Check(&a, packet(t, vectors[1])); got != RejectInterval {
		t.Errorf("got %v, want %v", got, RejectInterval)
	}
}
