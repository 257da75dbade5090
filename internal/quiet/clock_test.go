package quiet

import (
	"context"
	"math/rand/v2"
	"sync"
	"testing"
	"time"
)

func runClock(t *testing.T) *Clock {
	t.Helper()
	c, err := OpenClock()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- c.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return c
}

// Timers that are set, set anew and stopped in any order fire once each, none before its time.
func TestClock(t *testing.T) {
	c := runClock(t)
	const seed = 1
	var wg sync.WaitGroup
	for k := range 200 {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(seed, uint64(k)))
			timer := c.NewTimer()
			for range 20 {
				d := time.Duration(r.IntN(int(4 * time.Millisecond)))
				switch r.IntN(4) {
				case 0:
					timer.Reset(time.Hour)
				case 1:
					timer.Reset(0)
					timer.Stop()
				}
				began := time.Now()
				timer.Reset(d)
				at := <-timer.C()
				if took := time.Since(began); took < d || at.Before(began.Add(d)) {
					t.Errorf("timer %d: set to %v, fired after %v", k, d, took)
				}
				select {
				case <-timer.C():
					t.Errorf("timer %d fired twice", k)
				default:
				}
			}
		})
	}
	wg.Wait()
	if n := len(c.timers); n != 0 {
		t.Errorf("%d timers are left", n)
	}
}

// A stopped timer does not fire, whether its time had come or not, and one that is set to an earlier time does then.
func TestClockStops(t *testing.T) {
	c := runClock(t)
	a, b := c.NewTimer(), c.NewTimer()
	a.Reset(time.Millisecond)
	b.Reset(2 * time.Millisecond)
	<-b.C()
	a.Stop() // it has fired, and nobody has looked
	a.Reset(time.Hour)
	b.Reset(time.Millisecond)
	<-b.C()
	select {
	case <-a.C():
		t.Error("a stopped timer fired")
	default:
	}
	a.Reset(-time.Second)
	<-a.C()
}

// After the clock's end timers may be used, and do nothing.
func TestClockEnds(t *testing.T) {
	c, err := OpenClock()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	timer := c.NewTimer()
	timer.Reset(time.Hour)
	cancel()
	if err := c.Run(ctx); err != nil {
		t.Error(err)
	}
	timer.Reset(0)
	timer.Stop()
}
