//go:build e2e

package e2e

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"pgvrrp/test/lab"
)

// loseWitnesses takes the power of both witnesses away while pgbench runs. A standby is dead and out of the rule: what is left of the five
// votes are two, and no transaction may fail.
func (s *trio) loseWitnesses(t *testing.T, holder, gone string) {
	t.Helper()
	if now := s.whole(gone); now != holder {
		t.Fatalf("%s lost its power: the holder was %s and is %s", gone, holder, now)
	}
	bench := []string{filepath.Join(s.pg.BinDir, "pgbench"), "-h", lab.VIP(1).String(), "-p", fmt.Sprint(s.pg.Port), "-U", "app"}
	run(t, s.l.Client(), append(bench, "-i", "-q", "meter")...)
	before, err := s.q.Status(within(t, patience), holder)
	if err != nil {
		t.Fatal(err)
	}
	var out string
	var g errgroup.Group
	g.Go(func() error {
		res, err := s.l.Client().Run(within(t, longPatience), append(bench, "-n", "-N", "-c", "4", "-T", "3", "meter")...)
		out = res.Stdout + res.Stderr
		return err
	})
	sleep(500 * time.Millisecond)
	if _, err := s.l.PowerLoss(within(t, patience), "w1", "w2"); err != nil {
		t.Fatal(err)
	}
	if err := g.Wait(); err != nil || strings.Contains(out, "aborted") || s.pg.Version >= 15 && !strings.Contains(out, "number of failed transactions: 0 ") {
		t.Errorf("pgbench: %v\n%s", err, out)
	}
	after, err := s.q.Status(within(t, patience), holder)
	if err != nil || !after.Open || after.Resource.Epoch != before.Resource.Epoch {
		t.Errorf("%s: open %t in epoch %d, %v; want epoch %d to go on", holder, after.Open, after.Resource.Epoch, err, before.Resource.Epoch)
	}
	for _, w := range []string{"w1", "w2"} {
		if err := s.l.Host(w).Boot(within(t, patience)); err != nil {
			t.Fatal(err)
		}
		s.start(s.l.Host(w))
	}
}
