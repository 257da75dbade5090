package postgres

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

// TestLinger: what is not wanted any more goes on as long as it gets on.
func TestLinger(t *testing.T) {
	tests := []struct {
		name  string
		beats int  // one each second, from the beginning
		end   bool // with the last of them
		want  time.Duration
	}{
		{"hangs from the beginning", 0, false, 13 * time.Second},
		{"hangs before it is not wanted", 5, false, 13 * time.Second},
		{"gets on for a while", 15, false, 18 * time.Second},
		{"the rest is done here alone", 12, true, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
				defer cancel()
				began := time.Now()
				run, beat, end := linger(ctx, 3*time.Second)
				defer end()
				for range tt.beats {
					time.Sleep(time.Second)
					beat()
				}
				if tt.end {
					end()
				}
				select {
				case <-run.Done():
				case <-time.After(time.Hour):
				}
				if got := time.Since(began); tt.want > 0 && (got < tt.want || got > tt.want+time.Second) || tt.want == 0 && run.Err() != nil {
					t.Errorf("ended after %v, want %v", got, tt.want)
				}
			})
		})
	}
}
