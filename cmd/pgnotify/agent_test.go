package main

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"
)

// A server that the agent does not stop is stopped all the same before the host kills it.
func TestLeave(t *testing.T) {
	for name, tt := range map[string]struct {
		announced func(context.Context) (string, error)
		want      time.Duration // when it is stopped directly; 0: never
	}{
		"as it should be": {func(context.Context) (string, error) { return "PostgreSQL is stopped", nil }, 0},
		"refused": {func(context.Context) (string, error) {
			time.Sleep(time.Second)
			return "", errors.New("not initialized")
		}, time.Second},
		"without an end": {func(ctx context.Context) (string, error) { <-ctx.Done(); return "", ctx.Err() }, announceTime},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				began, at := time.Now(), time.Duration(0)
				leave(t.Context(), slog.New(slog.DiscardHandler), tt.announced, func(ctx context.Context) error {
					at = time.Since(began)
					if d, ok := ctx.Deadline(); !ok || d.Sub(began) != leaveTime {
						t.Errorf("got an end after %v, %v, want %v", d.Sub(began), ok, leaveTime)
					}
					return nil
				})
				if at != tt.want {
					t.Errorf("got it stopped after %v, want %v", at, tt.want)
				}
			})
		})
	}
}
