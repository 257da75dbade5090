package instance

import (
	"log/slog"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"pgvrrp/internal/conf"
	"pgvrrp/internal/control"
	"pgvrrp/internal/quiet"
	"pgvrrp/internal/vrrp"
)

// A backup's loop is not woken for adverts like the last one; all that an advert means must be as if it were.
func TestRepeatedAdverts(t *testing.T) {
	const down = 3609375 * time.Microsecond
	for _, tc := range []struct {
		name   string
		change func(*conf.Instance)
		play   func(t *testing.T, i *Instance, hear func(priority uint8))
		want   []string // after five adverts of priority 150 at 0.000 to 4.000; now is 4.500
	}{
		{"silence is counted from the last one", nil, func(t *testing.T, i *Instance, hear func(uint8)) {
			time.Sleep(down - 500*time.Millisecond)
		}, []string{" 7.609 send priority 100 from 192.0.2.1 to 224.0.0.18 ttl 255", " 7.609 addresses [192.0.2.100/24]", " 7.609 announce 1", " 7.609 hook MASTER 100 seq=2"}},
		{"another one of them", nil, func(t *testing.T, i *Instance, hear func(uint8)) {
			hear(150)
			time.Sleep(down - time.Millisecond)
		}, nil},
		{"a goodbye", nil, func(t *testing.T, i *Instance, hear func(uint8)) {
			hear(0)
			time.Sleep(610 * time.Millisecond)
		}, []string{" 5.109 send priority 100 from 192.0.2.1 to 224.0.0.18 ttl 255", " 5.109 addresses [192.0.2.100/24]", " 5.109 announce 1", " 5.109 hook MASTER 100 seq=2"}},
		{"a lower priority is preempted by the timer that runs", nil, func(t *testing.T, i *Instance, hear func(uint8)) {
			for range 6 {
				hear(50)
				time.Sleep(500 * time.Millisecond)
			}
			time.Sleep(200 * time.Millisecond)
		}, []string{" 7.609 send priority 100 from 192.0.2.1 to 224.0.0.18 ttl 255", " 7.609 addresses [192.0.2.100/24]", " 7.609 announce 1", " 7.609 hook MASTER 100 seq=2"}},
		{"our priority rises above theirs", nil, func(t *testing.T, i *Instance, hear func(uint8)) {
			i.Surround(t.Context(), but(func(s *Surroundings) { s.Verdict.Priority = 200 }))
			synctest.Wait()
			for range 6 {
				hear(150)
				time.Sleep(500 * time.Millisecond)
			}
		}, []string{" 7.219 send priority 200 from 192.0.2.1 to 224.0.0.18 ttl 255", " 7.219 addresses [192.0.2.100/24]", " 7.219 announce 1", " 7.219 hook MASTER 200 seq=2"}},
		{"preempt_delay runs from the first one that is lower", func(c *conf.Instance) { c.PreemptDelay = 2 * time.Second }, func(t *testing.T, i *Instance, hear func(uint8)) {
			i.Surround(t.Context(), but(func(s *Surroundings) { s.Verdict.Priority = 200 }))
			synctest.Wait()
			for range 10 { // followed until 6.500; then the timer runs on
				hear(150)
				time.Sleep(500 * time.Millisecond)
			}
		}, []string{" 9.219 send priority 200 from 192.0.2.1 to 224.0.0.18 ttl 255", " 9.219 addresses [192.0.2.100/24]", " 9.219 announce 1", " 9.219 hook MASTER 200 seq=2"}},
		{"a master hears at once who it followed before", nil, func(t *testing.T, i *Instance, hear func(uint8)) {
			time.Sleep(down)
			hear(150)
			time.Sleep(time.Millisecond)
		}, []string{" 7.609 send priority 100 from 192.0.2.1 to 224.0.0.18 ttl 255", " 7.609 addresses [192.0.2.100/24]", " 7.609 announce 1", " 7.609 hook MASTER 100 seq=2",
			" 8.109 stop announcing", " 8.109 addresses []", " 8.109 hook BACKUP 100 seq=3"}},
		{"a fault, and back", nil, func(t *testing.T, i *Instance, hear func(uint8)) {
			i.Surround(t.Context(), but(func(s *Surroundings) { s.Link.Up = false }))
			synctest.Wait()
			hear(150)
			i.Surround(t.Context(), fine)
			synctest.Wait()
			time.Sleep(down - time.Millisecond)
		}, []string{" 4.500 hook FAULT 100 seq=2", " 4.500 hook BACKUP 100 seq=3"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := config()
				if tc.change != nil {
					tc.change(&c)
				}
				i, h, stop := begin(t, c)
				defer stop()
				h.take()
				hear := func(priority uint8) {
					i.Receive(advert(t, c, priority), time.Now())
					synctest.Wait()
				}
				for range 4 {
					hear(150)
					time.Sleep(time.Second)
				}
				hear(150)
				time.Sleep(500 * time.Millisecond)
				if n := len(i.adverts); n != 0 {
					t.Errorf("%d adverts wait", n)
				}
				if got := i.Status(); got.State != control.StateBackup || got.Counters.AdvertsReceived != 5 || got.Master != peerA.String() {
					t.Errorf("status %+v", got)
				}
				tc.play(t, i, hear)
				want(t, h, tc.want...)
			})
		})
	}
}

// A packet that was accepted is accepted again without another look, unless anything about it or the configuration has changed.
func TestJudgedAgain(t *testing.T) {
	c := config()
	good := advert(t, c, 150)
	other := func(change func(*conf.Instance)) conf.Instance {
		c := config()
		change(&c)
		return c
	}
	changed := func(change func(*vrrp.Packet)) vrrp.Packet {
		p := good
		p.Payload = slices.Clone(p.Payload)
		change(&p)
		return p
	}
	for _, tc := range []struct {
		name   string
		config conf.Instance
		packet vrrp.Packet
		want   vrrp.Reject
	}{
		{"the same", c, changed(func(*vrrp.Packet) {}), vrrp.Accepted},
		{"one bit", c, changed(func(p *vrrp.Packet) { p.Payload[2] ^= 1 }), vrrp.RejectChecksum},
		{"shorter", c, changed(func(p *vrrp.Packet) { p.Payload = p.Payload[:11] }), vrrp.RejectLength},
		{"TTL", c, changed(func(p *vrrp.Packet) { p.TTL = 254 }), vrrp.RejectTTL},
		{"sender, which the checksum covers", c, changed(func(p *vrrp.Packet) { p.Src = self }), vrrp.RejectChecksum},
		{"VRID of ours", other(func(c *conf.Instance) { c.VRID = 52 }), good, vrrp.RejectVRID},
		{"version of ours", other(func(c *conf.Instance) { c.Version = 2 }), good, vrrp.RejectVersion},
		{"addresses of ours", other(func(c *conf.Instance) { c.Addresses = nil }), good, vrrp.Accepted},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var r receiver
			if err := r.configure(&c, netip.Addr{}); err != nil {
				t.Fatal(err)
			}
			for range 3 {
				if w, reject := r.check(good); reject != vrrp.Accepted || w != 0 || r.advert.Priority != 150 {
					t.Fatalf("at first: %v, warnings %v, %+v", reject, w, r.advert)
				}
			}
			if err := r.configure(&tc.config, netip.Addr{}); err != nil {
				t.Fatal(err)
			}
			w, reject := r.check(tc.packet)
			if reject != tc.want {
				t.Errorf("got %v, want %v", reject, tc.want)
			}
			if odd := tc.name == "addresses of ours"; (w != 0) != odd {
				t.Errorf("warnings %v", w)
			}
			if _, reject := r.check(good); tc.name == "one bit" && reject != vrrp.Accepted {
				t.Errorf("and the good one again: %v", reject)
			}
		})
	}
}

// A pause that begins after adverts for which the loop was not woken: with them the timer is hardly late, and a router that was paused
// must listen nevertheless before it takes over.
func TestAPauseAfterRepeatedAdverts(t *testing.T) {
	for _, tc := range []struct {
		name   string
		resume time.Duration // after the first advert; the last one before the pause comes at 3 s, and the timer with it is due at 6.609 s
		alive  bool          // the master's adverts wait in the socket
		want   string
	}{
		{"hardly late", 6620 * time.Millisecond, true, control.StateBackup},
		{"not quite due", 6600 * time.Millisecond, true, control.StateBackup},
		{"long past", 20 * time.Second, true, control.StateBackup},
		{"short", 4500 * time.Millisecond, true, control.StateBackup},
		{"hardly late, and the master is gone", 6620 * time.Millisecond, false, control.StateMaster},
		{"not quite due, and the master is gone", 6600 * time.Millisecond, false, control.StateMaster},
		{"short, and the master is gone", 4500 * time.Millisecond, false, control.StateBackup},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				i, hear, turn := still(t)
				start := time.Now()
				for range 3 {
					time.Sleep(time.Second)
					hear()
				}
				if n := len(i.adverts); n != 0 {
					t.Fatalf("%d adverts wait", n)
				}
				time.Sleep(tc.resume - time.Since(start))
				turn()
				for range int(listenTime/time.Millisecond) - 1 { // it is to wait for at least so long
					time.Sleep(time.Millisecond)
					turn()
				}
				if state := i.Status().State; state != control.StateBackup {
					t.Fatalf("%s before it has listened", state)
				}
				if tc.alive {
					hear()
				}
				time.Sleep(listenMost)
				turn()
				if got := i.Status().State; got != tc.want {
					t.Errorf("got %s, want %s", got, tc.want)
				}
			})
		})
	}
}

// still is a backup that has heard its master, whose loop is the test's, so that it can stand still: turn is what the loop does if its timer has
// fired.
func still(t *testing.T) (i *Instance, hear, turn func()) {
	t.Helper()
	c := config()
	h := &host{start: time.Now()}
	i, err := New(Options{Config: c, Network: h, Hooks: h, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	i.timer = quiet.NewTimer()
	i.known, i.around = true, fine
	i.evaluate(time.Now())
	i.arm()
	hear = func() { i.Receive(advert(t, c, 150), time.Now()) }
	hear()
	i.received(time.Now(), <-i.adverts)
	i.arm()
	return i, hear, func() {
		select {
		case <-i.timer.C():
			i.fired(time.Now())
			i.arm()
		default:
		}
	}
}

// A router that is paused again while it listens after a pause has heard of its master meanwhile, and listens once more.
func TestAPauseWhileListening(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i, hear, turn := still(t)
		for range 3 {
			time.Sleep(20 * time.Second)
			turn()
			hear()
			if state := i.Status().State; state != control.StateBackup {
				t.Fatalf("%s before it has listened", state)
			}
		}
		time.Sleep(20 * time.Second)
		turn()
		time.Sleep(listenMost)
		turn()
		if state := i.Status().State; state != control.StateMaster {
			t.Errorf("%s, with a master that is gone", state)
		}
	})
}
