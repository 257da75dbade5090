package instance

import (
	"net"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"pgvrrp/internal/conf"
	"pgvrrp/internal/control"
	"pgvrrp/internal/vrrp"
)

// adverted is an advert of peerA, bent by change, in the form and to the destination that c wants.
func adverted(t *testing.T, c conf.Instance, change func(*vrrp.Advert), form vrrp.ChecksumForm) vrrp.Packet {
	t.Helper()
	a := vrrp.Advert{Version: vrrp.Version(c.Version), VRID: c.VRID, Priority: 50, Interval: c.AdvertInterval, Addrs: []netip.Addr{vip.Addr()}}
	if change != nil {
		change(&a)
	}
	dst := netip.MustParseAddr("224.0.0.18")
	if c.Unicast {
		dst = self
	}
	b, err := vrrp.AppendAdvert(nil, &a, peerA, dst, form)
	if err != nil {
		t.Fatal(err)
	}
	return vrrp.Packet{Payload: b, Src: peerA, Dst: dst, TTL: 255, Clock: time.Now()}
}

// Each fault on the wire is named, with the setting that mends it, the last sender, and for how long it goes on.
func TestTroubles(t *testing.T) {
	other := netip.MustParseAddr("192.0.2.200")
	pseudo := vrrp.ChecksumPseudoHeader
	bent := func(change func(*vrrp.Advert)) func(*testing.T, conf.Instance) vrrp.Packet {
		return func(t *testing.T, c conf.Instance) vrrp.Packet { return adverted(t, c, change, pseudo) }
	}
	v2 := func(c *conf.Instance) { c.Version = 2 }
	for _, tt := range []struct {
		name   string
		change func(*conf.Instance)
		packet func(*testing.T, conf.Instance) vrrp.Packet
		kind   string
		says   string
	}{
		{"another group with our VRID", nil, bent(func(a *vrrp.Advert) { a.Addrs = []netip.Addr{other} }), control.TroubleClash, "give one of the two groups another virtual_router_id"},
		{"another group of another version", nil, bent(func(a *vrrp.Advert) { a.Version, a.Addrs = 2, []netip.Addr{other} }), control.TroubleClash, "speaks VRRP version 2, we speak 3"},
		{"another list", nil, bent(func(a *vrrp.Advert) { a.Addrs = append(a.Addrs, other) }), control.TroubleAddresses, "set the same virtual_ipaddress"},
		{"another interval, version 3", nil, bent(func(a *vrrp.Advert) { a.Interval *= 2 }), control.TroubleInterval, "every 2s, we every 1s; set the same advert_int"},
		{"another interval, version 2", v2, bent(func(a *vrrp.Advert) { a.Interval *= 2 }), control.TroubleInterval, "set the same advert_int"},
		{"another version", nil, bent(func(a *vrrp.Advert) { a.Version = 2 }), control.TroubleVersion, "set the same vrrp_version"},
		{"checksum form", nil, func(t *testing.T, c conf.Instance) vrrp.Packet { return adverted(t, c, nil, vrrp.ChecksumPlain) }, control.TroubleChecksumForm, "set v3_checksum_as_v2"},
		{"password", func(c *conf.Instance) { c.Version, c.Password, c.HasPassword = 2, "one", true }, bent(func(a *vrrp.Advert) { a.AuthType, a.Auth = vrrp.AuthPassword, vrrp.Password("two") }),
			control.TroubleAuth, "set the same auth_pass"},
		{"no password", func(c *conf.Instance) { c.Version, c.Password, c.HasPassword = 2, "one", true }, bent(nil), control.TroubleAuth, "set the same authentication block"},
		{"priority", nil, bent(func(a *vrrp.Advert) { a.Priority = 100 }), control.TroublePriority, "priority 100 as we have"},
		{"TTL", nil, func(t *testing.T, c conf.Instance) vrrp.Packet {
			p := adverted(t, c, nil, pseudo)
			p.TTL = 64
			return p
		}, control.TroubleTTL, "TTL 64 instead of 255"},
		{"sender that is no peer", func(c *conf.Instance) {
			c.Unicast, c.Peers = true, []conf.Peer{{Addr: other, MinTTL: -1, MaxTTL: -1}}
		}, bent(nil), control.TroublePeer, "192.0.2.2 is not a unicast_peer of ours; add it there"},
		{"refused sender that is no peer", func(c *conf.Instance) {
			c.Unicast, c.CheckUnicastSrc, c.Peers = true, true, []conf.Peer{{Addr: other, MinTTL: -1, MaxTTL: -1}}
		}, bent(nil), control.TroublePeer, "192.0.2.2 is not a unicast_peer of ours; add it there"},
		{"multicast for unicast", func(c *conf.Instance) { c.Unicast, c.Peers = true, []conf.Peer{{Addr: peerA, MinTTL: -1, MaxTTL: -1}} },
			func(t *testing.T, c conf.Instance) vrrp.Packet { c.Unicast = false; return adverted(t, c, nil, pseudo) }, control.TroubleDestination, "set unicast_peer on both or on neither"},
		{"our own address", nil, func(t *testing.T, c conf.Instance) vrrp.Packet {
			p := adverted(t, c, nil, pseudo)
			p.Src = self
			return p
		}, control.TroubleOwnAddress, "another machine has our address"},
		{"a second owner", func(c *conf.Instance) { c.Priority = 255 }, bent(func(a *vrrp.Advert) { a.Priority = 255 }), control.TroubleSecondOwner, "set another priority"},
		{"rubbish", nil, func(t *testing.T, c conf.Instance) vrrp.Packet {
			p := adverted(t, c, nil, pseudo)
			p.Payload = p.Payload[:9]
			return p
		}, control.TroubleMalformed, "too short for its 1 addresses"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := config()
				if tt.change != nil {
					tt.change(&c)
				}
				i, _, stop := begin(t, c)
				defer stop()
				first := time.Now()
				for range 3 {
					i.Receive(tt.packet(t, c), time.Now())
					time.Sleep(2 * time.Second)
				}
				synctest.Wait()
				all := i.Status().Troubles
				if len(all) != 1 && !(len(all) == 2 && all[1].Kind == control.TroubleNeverHeard) {
					t.Fatalf("got %+v, want one", all)
				}
				got := all[0]
				if got.Kind != tt.kind || !got.Now || got.Notice || got.Count != 3 || !got.First.Equal(first) || !got.Last.Equal(first.Add(4*time.Second)) ||
					!strings.Contains(got.Text, tt.says) || got.Setting == "" {
					t.Errorf("got %+v, want %s: … %s …", got, tt.kind, tt.says)
				}
				if peer := got.Peer; peer != peerA.String() && tt.kind != control.TroubleOwnAddress {
					t.Errorf("got peer %s", peer)
				}
				time.Sleep(goesOn)
				synctest.Wait()
				if got := i.Status().Troubles[0]; got.Now && !got.Notice {
					t.Errorf("%s after it was last seen: it still goes on", goesOn)
				}
			})
		})
	}
}

// Painful problem 1 of keepalived's users: split brain behind a filter, with nothing that would tell.
func TestNeverHeard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := config()
		i, _, stop := begin(t, c)
		defer stop()
		time.Sleep(4 * time.Second)
		if got := i.Status().Troubles; len(got) != 0 {
			t.Errorf("too early: %+v", got)
		}
		time.Sleep(56 * time.Second)
		synctest.Wait()
		got := i.Status().Troubles
		if len(got) != 1 || got[0].Kind != control.TroubleNeverHeard || !got[0].Notice || !strings.Contains(got[0].Text, "for 1m0s, MASTER for 56s") {
			t.Errorf("got %+v", got)
		}
		i.Receive(adverted(t, c, nil, vrrp.ChecksumPseudoHeader), time.Now())
		if got := i.Status().Troubles; len(got) != 0 {
			t.Errorf("after an advert: %+v", got)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		c := config()
		c.Unicast, c.Peers = true, []conf.Peer{{Addr: peerA, MinTTL: -1, MaxTTL: -1}}
		i, _, stop := begin(t, c)
		defer stop()
		time.Sleep(time.Minute)
		synctest.Wait()
		if got := i.Status().Troubles; len(got) != 1 || !strings.HasPrefix(got[0].Text, "none of unicast_peer 192.0.2.2 ") {
			t.Errorf("got %+v", got)
		}
	})
}

// Painful problem 3: two machines have the address. It counts while it is ours, and not what the former master says.
func TestClaimed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i, _, stop := begin(t, config())
		defer stop()
		mac := net.HardwareAddr{2, 0, 0, 0, 0, 9}
		i.Claimed(vip.Addr(), mac, time.Now())
		if got := i.Status().Troubles; len(got) != 0 {
			t.Errorf("as BACKUP: %+v", got)
		}
		time.Sleep(3700 * time.Millisecond)
		synctest.Wait()
		i.Claimed(netip.MustParseAddr("192.0.2.9"), mac, time.Now())
		if got := i.Status().Troubles; len(got) != 0 {
			t.Errorf("of another address: %+v", got)
		}
		i.Claimed(vip.Addr(), mac, time.Now())
		got := i.Status().Troubles
		if len(got) != 1 || got[0].Kind != control.TroubleDuplicate || got[0].Peer != "02:00:00:00:00:09" || !strings.Contains(got[0].Text, "02:00:00:00:00:09 claims 192.0.2.100 by ARP") {
			t.Errorf("got %+v", got)
		}
	})
}

// A flood costs no more words than one packet a second.
func TestTroublesAreExplainedOnceASecond(t *testing.T) {
	var s status
	explained := 0
	start := time.Now()
	for k := range 1000 {
		s.note(control.TroubleTTL, "192.0.2.2", start.Add(time.Duration(k)*10*time.Millisecond), func() string { explained++; return "x" })
	}
	if got := s.troubles[control.TroubleTTL]; explained != 10 || got.count != 1000 {
		t.Errorf("explained %d times, counted %d", explained, got.count)
	}
}
