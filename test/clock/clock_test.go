package clock

import (
	"testing"
	"time"
)

func TestAt(t *testing.T) {
	day := time.Date(2026, 3, 4, 5, 6, 7, 890, time.UTC)
	a, b := At(time.Hour, day), At(time.Hour+time.Second, day.Add(-2*time.Hour))
	if got := b.Sub(a); got != time.Second || !a.Before(b) || b.Before(a) || !a.Add(time.Second).Equal(b) {
		t.Errorf("by the monotonic clock: got %v, want %v", got, time.Second)
	}
	if got := b.Round(0).Sub(a.Round(0)); got != -2*time.Hour || !b.Round(0).Before(a.Round(0)) {
		t.Errorf("by the wall clock: got %v, want %v", got, -2*time.Hour)
	}
	if !a.Round(0).Equal(day) || a.Unix() != day.Unix() || a.Nanosecond() != 890 {
		t.Errorf("got %v, want %v", a, day)
	}
	// As the standard library's own behave.
	now := time.Now()
	if c := At(0, now.Round(0)); !c.Round(0).Equal(now.Round(0)) {
		t.Errorf("got %v, want %v", c, now)
	}
}

func TestSteps(t *testing.T) {
	s := Steps{Seed: 7, Every: time.Second}
	seen := map[time.Duration]int{}
	steps := 0
	for mono := time.Duration(0); mono < 100*time.Second; mono += 10 * time.Millisecond {
		off := s.Off(mono)
		seen[off]++
		if mono > 0 && off != s.Off(mono-10*time.Millisecond) {
			steps++
		}
		if off > span || off < -span {
			t.Fatalf("at %v: off by %v", mono, off)
		}
		if got := s.At(mono).Sub(s.At(0)); got != mono {
			t.Fatalf("at %v: the monotonic clock shows %v", mono, got)
		}
	}
	if seen[0] == 0 || seen[span] == 0 || seen[-span] == 0 || len(seen) < 20 || steps < 60 {
		t.Errorf("got %d steps to %d places, want many, and both ends", steps, len(seen))
	}
	if got := (Steps{}).Off(time.Hour); got != 0 {
		t.Errorf("a clock that is never set: off by %v", got)
	}
}
