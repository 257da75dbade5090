package instance

import (
	"log/slog"
	"maps"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"pgvrrp/internal/conf"
	"pgvrrp/internal/vrrp"
)

// signed is a configuration with auth_hmac and these keys, of which the first signs.
func signed(mode string, ids ...uint8) conf.Instance {
	c := config()
	c.HMAC = conf.HMAC{ActiveKey: ids[0], Mode: mode, Window: 5 * time.Second}
	for _, id := range ids {
		c.HMAC.Keys = append(c.HMAC.Keys, conf.HMACKey{ID: id, Secret: []byte(strings.Repeat(string(rune('a'+id)), 32))})
	}
	return c
}

func TestHMAC(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sender, out, stop := begin(t, signed(conf.HMACEnforce, 1))
		defer stop()
		time.Sleep(4 * time.Second)
		synctest.Wait()

		in := &host{start: time.Now()}
		c := signed(conf.HMACEnforce, 1)
		receiver, err := New(Options{Config: c, Network: in, Hooks: in, Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		go receiver.Run(t.Context())
		s := fine
		s.Source = peerA
		receiver.Surround(t.Context(), s)
		synctest.Wait()

		packet := func(b []byte) vrrp.Packet {
			return vrrp.Packet{Payload: b, Src: self, Dst: netip.MustParseAddr("224.0.0.18"), TTL: 255, Clock: time.Now()}
		}
		newest := func() []byte {
			synctest.Wait()
			out.mu.Lock()
			defer out.mu.Unlock()
			return out.packets[len(out.packets)-1]
		}
		want := func(when string, accepted uint64, rejected map[string]uint64) {
			t.Helper()
			synctest.Wait()
			got := receiver.Status().Counters
			if got.AdvertsReceived != accepted || !maps.Equal(got.Rejected, rejected) {
				t.Errorf("%s: accepted %d, rejected %v, want %d and %v", when, got.AdvertsReceived, got.Rejected, accepted, rejected)
			}
		}
		first := newest()
		receiver.Receive(packet(first), time.Now())
		want("a signed advert", 1, map[string]uint64{})
		receiver.Receive(packet(first), time.Now())
		want("the same again", 1, map[string]uint64{"auth_replay": 1})
		receiver.Receive(packet(first[:len(first)-vrrp.TrailerLen]), time.Now())
		want("without its trailer", 1, map[string]uint64{"auth_replay": 1, "auth_missing": 1})

		// Keys change by reloads: first all know the new one, then it signs, then the old one goes.
		if err := receiver.Configure(t.Context(), signed(conf.HMACEnforce, 2, 1)); err != nil {
			t.Fatal(err)
		}
		receiver.Receive(packet(first), time.Now())
		want("replayed after a reload", 1, map[string]uint64{"auth_replay": 2, "auth_missing": 1})
		time.Sleep(time.Second)
		receiver.Receive(packet(newest()), time.Now())
		want("the old key", 2, map[string]uint64{"auth_replay": 2, "auth_missing": 1})
		if err := sender.Configure(t.Context(), signed(conf.HMACEnforce, 2, 1)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		last := newest()
		receiver.Receive(packet(last), time.Now())
		want("the new key", 3, map[string]uint64{"auth_replay": 2, "auth_missing": 1})

		bad := signed(conf.HMACEnforce, 2)
		bad.HMAC.ActiveKey = 9
		if err := receiver.Configure(t.Context(), bad); err == nil {
			t.Error("an active key that is none of the keys was taken")
		}
		receiver.Receive(packet(last[:len(last)-vrrp.TrailerLen]), time.Now())
		want("without its trailer after a bad reload", 3, map[string]uint64{"auth_replay": 2, "auth_missing": 2})

		if err := receiver.Configure(t.Context(), signed(conf.HMACPermissive, 2)); err != nil {
			t.Fatal(err)
		}
		receiver.Receive(packet(last[:len(last)-vrrp.TrailerLen]), time.Now())
		want("permissive", 4, map[string]uint64{"auth_replay": 2, "auth_missing": 2})
	})
}

func TestOwnerIgnoresAdverts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, ignores := range []bool{false, true} {
			c := config()
			c.Priority, c.OwnerIgnoreAdverts = 255, ignores
			i, _, stop := begin(t, c)
			i.Receive(advert(t, c, 255), time.Now()) // of the greater address
			synctest.Wait()
			if got := i.Status().State == "MASTER"; got != ignores {
				t.Errorf("ignores %t: in %s", ignores, i.Status().State)
			}
			stop()
			synctest.Wait()
		}
	})
}

func TestALateTimerGoesToBackup(t *testing.T) {
	for _, tc := range []struct {
		name    string
		expired int
		want    string
	}{{"without timer_expired_backup", 0, "MASTER"}, {"with it", 200, "BACKUP"}} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := config()
				c.Preempt, c.TimerExpiredBackup = false, tc.expired
				i, h, stop := begin(t, c)
				defer stop()
				time.Sleep(4 * time.Second)
				synctest.Wait()
				h.take()
				i.call(t.Context(), func(time.Time) { time.Sleep(10 * time.Second) }) // the loop stands still
				time.Sleep(10*time.Second + listenMost + time.Millisecond)
				synctest.Wait()
				if s := i.Status(); s.State != tc.want {
					t.Errorf("in %s (%s), want %s", s.State, s.Reason, tc.want)
				}
			})
		})
	}
}
