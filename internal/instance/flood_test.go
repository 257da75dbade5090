package instance

import (
	"context"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"pgvrrp/internal/control"
	"pgvrrp/internal/quiet"
)

// flooded is a network on which, once it is on, the queue is full again whenever we have told the LAN of the addresses again, and that takes
// until the next advert is an occasion for it, too.
type flooded struct {
	*host
	on     atomic.Bool
	refill func()
	pause  time.Duration
}

func (f *flooded) AnnounceAgain() {
	if f.on.Load() {
		f.refill()
		time.Sleep(f.pause)
	}
}

// Whoever sends adverts without an end keeps a master neither from being revoked nor from ending, nor from looking at its lease.
func TestAFloodHoldsNothingUp(t *testing.T) {
	const patience = 10 * time.Minute
	for _, tt := range []struct {
		name string
		end  func(*Instance, *grants, context.CancelFunc) (done <-chan struct{})
	}{
		{"revoke", func(i *Instance, _ *grants, _ context.CancelFunc) <-chan struct{} {
			done := make(chan struct{})
			revoked := i.PostRevoke("in a test")
			go func() { <-revoked; close(done) }()
			return done
		}},
		{"stop", func(i *Instance, _ *grants, cancel context.CancelFunc) <-chan struct{} {
			cancel()
			return i.done
		}},
		{"a lapsed lease", func(i *Instance, g *grants, _ context.CancelFunc) <-chan struct{} {
			g.lapsed.Store(true)
			done := make(chan struct{})
			go func() {
				for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(time.Second) {
					if i.Status().State == control.StateBackup {
						close(done)
						return
					}
				}
			}()
			return done
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := config()
				c.LowerPrioNoAdvert = true // an answer would put the timer off
				g := &grants{host: &host{start: time.Now()}}
				f := &flooded{host: g.host, pause: c.AdvertInterval / 2}
				i, err := New(Options{Config: c, Network: f, Hooks: g, Log: slog.New(slog.DiscardHandler), Grants: g})
				if err != nil {
					t.Fatal(err)
				}
				f.refill = func() {
					for len(i.adverts) < cap(i.adverts) {
						i.adverts <- heard{peerA, 50, c.AdvertInterval}
					}
				}
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				go i.Run(ctx)
				i.Surround(ctx, fine)
				synctest.Wait()
				grant(t, i, "in a test")
				if got := i.Status().State; got != control.StateMaster {
					t.Fatalf("got %s, want MASTER", got)
				}
				f.on.Store(true)
				f.refill()
				g.take()
				time.Sleep(patience)
				if sent := strings.Count(strings.Join(g.take(), "\n"), "send priority 100"); sent < 10 {
					t.Errorf("sent %d adverts of our own in %s, want many", sent, patience)
				}
				select {
				case <-tt.end(i, g, cancel):
				case <-time.After(patience):
					t.Errorf("nothing has happened for %s", patience)
				}
				f.on.Store(false)
				cancel()
				<-i.done
			})
		})
	}
}

// setTimer counts how often it is set.
type setTimer struct {
	quiet.Timer
	n int
}

func (s *setTimer) Reset(d time.Duration) { s.n++; s.Timer.Reset(d) }

// A timer that is set already is not set anew by each advert: what is due would never be its turn while more of them wait.
func TestTheTimerIsSetOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i, _, turn := still(t)
		s := &setTimer{Timer: i.timer}
		i.timer = s
		lower := func() {
			now := time.Now()
			i.listenFirst(now)
			i.received(now, heard{peerA, 50, time.Second})
			i.arm()
		}
		for range 3 {
			lower()
		}
		if s.n != 0 {
			t.Errorf("set %d times by adverts that move no deadline, want 0", s.n)
		}
		time.Sleep(20 * time.Second) // late: the first advert has us listen
		for range 5 {
			lower()
			time.Sleep(listenMost / 4)
		}
		if s.n != 1 {
			t.Errorf("set %d times for listening, want 1", s.n)
		}
		turn()
		if got := i.Status().State; got != control.StateMaster || s.n != 2 {
			t.Errorf("got %s and the timer set %d times, want MASTER and 2", got, s.n)
		}
	})
}
