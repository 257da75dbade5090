//go:build e2e

package e2e

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"pgvrrp/test/lab"
	"pgvrrp/test/matrix/cells"
)

// TestAgentMatrix runs a few cells of the double-failure matrix (make matrix runs all): each fault that leaves PostgreSQL running somewhere
// once, and two primaries in a row.
func TestAgentMatrix(t *testing.T) {
	lab.Require(t)
	o := cells.Options{Bin: filepath.Dir(program(t, "vrrpd")), Etc: filepath.Join("..", "..", "etc"), Seed: uint64(time.Now().UnixNano()), Machine: &machine}
	program(t, "pgnotify")
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	site, err := cells.Boot(ctx, cells.Topologies()[0], o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := site.Close(); err != nil {
			t.Error(err)
		}
	})
	for _, id := range []string{
		"A/power/primary, then the new primary/2s",
		"A/split/primary and better standby/at once",
		"A/daemons/primary and lesser standby/at once",
		"A/pause/a witness and the primary/at once",
	} {
		c, err := cells.Find(id)
		if err != nil {
			t.Fatal(err)
		}
		t.Run(id, func(t *testing.T) {
			v, err := site.Run(ctx, c)
			for try := 1; err != nil && try < 3; try++ { // it could not be prepared: a standby that stalled stays out for a while
				t.Log(err)
				if rerr := site.Recover(ctx); rerr != nil {
					t.Fatal(errors.Join(err, rerr))
				}
				v, err = site.Run(ctx, c)
			}
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("seed %d, placed %s, out %v, whole %s by %v, acknowledged %d, lost %d, took %s; %s, stalled %.0f %%",
				o.Seed, v.Placement, v.Outages, v.Whole, v.Rungs, v.Acked, v.Lost, v.Took, v.Load, v.Stalled)
			for _, f := range v.Failures {
				t.Error(f)
			}
		})
		if t.Failed() {
			dir := os.Getenv("PGVRRP_LAB_LOGS")
			if dir == "" {
				dir = filepath.Join(os.TempDir(), "pgvrrp-matrix-logs")
			}
			if err := site.SaveLogs(filepath.Join(dir, "TestAgentMatrix")); err != nil {
				t.Error(err)
			}
			t.Fatalf("logs of all processes are in %s", dir)
		}
	}
}
