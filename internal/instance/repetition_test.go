package instance

import (
	"testing"
	"testing/synctest"
	"time"

	"pgvrrp/internal/conf"
	"pgvrrp/internal/control"
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
