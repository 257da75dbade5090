//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"slices"
	"testing"
	"time"

	"pgvrrp/internal/control"
	"pgvrrp/test/lab"
)

// TestPGTie has the spare n3 die as the primary while n1 and n2, of equal priority, both stand by: both may become MASTER at
// once for a moment, and exactly one server may be asked to promote. PGVRRP_RUNS says how often (default 3).
func TestPGTie(t *testing.T) {
	t.Parallel()
	bothDaemons(t, func(t *testing.T, d daemon) {
		runs := envInt(t, "PGVRRP_RUNS", 3)
		s := newSite(t, siteOptions{daemon: d})
		primary := "n1"
		s.step("begin", func(t *testing.T) {
			s.begin("n1")
			s.measure()
		})
		ties := 0
		var outages []time.Duration
		s.step("runs", func(t *testing.T) {
			for n := range runs {
				s.makePrimary(&primary, "n3")
				tie, outage := s.tie(n + 1)
				if outages = append(outages, outage); tie {
					ties++
				}
				primary = s.waitPrimary("n1", "n2")
				s.comesBack("n3", primary)
			}
		})
		s.step("nothing is lost", func(*testing.T) { s.lossless() })
		slices.Sort(outages)
		t.Logf("%s: %d runs, in %d of them n1 and n2 were both MASTER; outage %d to %d ms, median %d ms; %s", d, runs, ties,
			outages[0].Milliseconds(), outages[len(outages)-1].Milliseconds(), outages[len(outages)/2].Milliseconds(), lab.ReadLoad())
	})
}

// tie takes the power of n3, the primary, away and counts the promotions that follow.
func (s *site) tie(run int) (both bool, outage time.Duration) {
	s.t.Helper()
	before := s.allPromotes()
	skip := map[string]int{"n1": len(s.history("n1")), "n2": len(s.history("n2"))}
	at := s.powerLoss("n3")
	s.ack(at)
	primary := s.waitPrimary("n1", "n2")
	other := without([]string{"n1", "n2"}, primary)[0]
	s.streaming(primary, other)
	// Whoever lost the tie has said so before it counts: its hook was overtaken, and it follows.
	s.waitState(other, control.StateBackup)
	s.ended(other, "pgnotify")
	if got := s.promotesSince(before); len(got) != 1 || got[primary] != 1 {
		s.t.Errorf("run %d: promote requests %v, want one on %s", run, got, primary)
	}
	masters := 0
	for name, n := range skip {
		if s.wasMaster(name, at, n) {
			masters++
		}
	}
	outage = s.outage(at)
	line := fmt.Sprintf("%s run %d: %s is the primary after %d ms, MASTER on %d nodes; %s", s.daemon, run, primary, outage.Milliseconds(), masters, lab.ReadLoad())
	s.t.Log(line)
	if os.Getenv("PGVRRP_RUNS") != "" {
		fmt.Println(line) // long runs are watched
	}
	return masters > 1, outage
}

// wasMaster reports whether a host was MASTER since a time: by vrrpd's own word, or because its hook was run.
func (s *site) wasMaster(host string, since time.Time, skip int) bool {
	s.t.Helper()
	if s.daemon == vrrpd {
		return slices.ContainsFunc(instance(s.t, s.host(host), pgInstance).Transitions, func(tr control.Transition) bool {
			return tr.To == control.StateMaster && tr.At.After(since)
		})
	}
	list := s.history(host)
	return slices.ContainsFunc(list[min(skip, len(list)):], hook("MASTER"))
}
