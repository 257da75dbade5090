package daemon

import (
	"testing"
	"time"
)

func TestTidyOnceWhenItIsQuiet(t *testing.T) {
	start := time.Now()
	var x tidy
	for _, step := range []struct {
		after  time.Duration
		events uint64
		want   bool
	}{
		{0, 0, false}, // nothing has happened yet
		{time.Second, 2, false},
		{2 * time.Second, 2, false},
		{3 * time.Second, 7, false},
		{6*time.Second - 1, 7, false},
		{6 * time.Second, 7, true},
		{7 * time.Second, 7, false},
		{time.Minute, 7, false},
		{2 * time.Minute, 8, false},
		{2*time.Minute + tidyAfter, 8, true},
	} {
		if got := x.due(start.Add(step.after), step.events); got != step.want {
			t.Errorf("after %s, %d events: got %t, want %t", step.after, step.events, got, step.want)
		}
	}
}
