//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"pgvrrp/internal/control"
	"pgvrrp/test/lab"
)

// TestPGBoot is about nodes that come up: all of them in some order after a loss of power, and one whose server is down, or
// has left a lock file that says otherwise.
func TestPGBoot(t *testing.T) {
	t.Parallel()
	s := newSite(t, siteOptions{daemon: vrrpd})
	s.step("begin", func(*testing.T) { s.begin("n1") })
	s.step("the server is down when MASTER comes", func(t *testing.T) {
		s.measure()
		if err := s.pg.Stop(within(t, patience), "n2", "fast"); err != nil {
			t.Fatal(err)
		}
		s.ack(s.m.Mark("n2's server is stopped")) // n3 has what n2 has not
		s.release("n3", time.Minute)              // its timer is only 35 ms behind n2's
		skip, at := len(s.history("n2")), s.powerLoss("n1")
		s.ack(at)
		primary := s.waitPrimary("n2", "n3")
		e := s.decided("n2", skip, "MASTER", hook("MASTER"))
		s.release("n3", 0)
		if primary != "n2" || !e.did("standby.signal") || !e.did("promote n2") {
			t.Errorf("%s is the primary, and n2 did %s; want n2 started as a standby and then promoted", primary, e)
		}
		t.Logf("outage %d ms; %s", s.outage(at).Milliseconds(), lab.ReadLoad())
		s.comesBack("n1", primary)
		s.lossless()
	})
	s.step("a lock file whose number belongs to another process", func(t *testing.T) {
		for host, user := range map[string]string{"n3": "postgres", "n1": "root"} {
			primary := s.waitPrimary("n2")
			s.powerLoss(host)
			h := s.host(host)
			boot(t, h)
			p, err := h.SpawnCommand(t.Context(), "stranger", lab.Command{Argv: []string{"/usr/bin/sleep", "600"}, User: user})
			if err != nil {
				t.Fatal(err)
			}
			path := h.DiskPath(s.pg.DataDir + "/postmaster.pid")
			_, rest, _ := strings.Cut(readHostFile(t, path), "\n")
			if err := os.WriteFile(path, fmt.Appendf(nil, "%d\n%s", p.PID(), rest), 0o600); err != nil {
				t.Fatal(err)
			}
			s.start(host)
			s.streaming(primary, host)
			if !p.Running() {
				t.Errorf("%s: the process that had the number was ended", host)
			}
		}
	})
	for i, order := range orders("n1", "n2", "n3") {
		if i != 2 && i != 5 && os.Getenv("PGVRRP_ALL") == "" {
			continue
		}
		s.step(fmt.Sprint("all lose power, one comes back after the other ", order), func(t *testing.T) {
			was := s.waitPrimary(s.names()...)
			s.measure()
			s.acked(20)
			s.m.Stop(within(t, patience))
			// Alone a node can't know what the others have: what it promises is only what it has itself.
			s.caughtUp(was, s.names(was)...)
			s.blackout()
			before := s.allPromotes()
			for k, name := range order {
				skip := len(s.history(name))
				boot(t, s.host(name))
				s.start(name)
				if k == 0 {
					s.decided(name, skip, "MASTER", func(e entry) bool { return hook("MASTER")(e) && e.Outcome == "done" })
				} else {
					s.streaming(order[0], name)
				}
			}
			if got := s.waitPrimary(order[0]); s.promotesSince(before)[got] != 1 || len(s.promotesSince(before)) != 1 {
				t.Errorf("promote requests: %v, want one on %s", s.promotesSince(before), order[0])
			}
			s.lossless()
		})
		s.step(fmt.Sprint("all lose power with a client at work, servers start at boot, daemons in the order ", order), func(t *testing.T) {
			s.measure()
			s.acked(20)
			s.m.Mark("loss of power everywhere")
			s.blackout()
			before := s.allPromotes()
			var g errgroup.Group
			for _, name := range order {
				g.Go(func() error {
					if err := s.host(name).Boot(within(t, patience)); err != nil {
						return err
					}
					return s.pg.Start(within(t, patience), name)
				})
			}
			if err := g.Wait(); err != nil {
				t.Fatal(err)
			}
			s.start(order[0])
			s.waitState(order[0], control.StateMaster)
			s.start(order[1])
			s.start(order[2])
			primary := s.waitSettled()
			if got := s.promotesSince(before); got[primary] != 1 || len(got) != 1 {
				t.Errorf("promote requests: %v, want one on %s", got, primary)
			}
			s.ack(s.m.Mark("settled"))
			s.lossless()
		})
	}
}

// waitSettled waits until one node holds the address and is the primary, and all others stream from it.
func (s *site) waitSettled() string {
	s.t.Helper()
	primary := ""
	eventually(s.t, longPatience, "one primary, at the VIP, after its hook", func() (bool, string) {
		on, list := holders(s.l, s.vip), s.primaries()
		if len(on) == 1 && len(list) == 1 && on[0] == list[0] {
			primary = on[0]
			return true, ""
		}
		return false, fmt.Sprintf("the VIP is on %v, primaries are %v", on, list)
	})
	s.streaming(primary, s.names(primary)...)
	return primary
}

// blackout takes the power of every host at once.
func (s *site) blackout() {
	s.t.Helper()
	s.unread(s.names()...)
	if _, err := s.l.PowerLoss(within(s.t, patience), s.names()...); err != nil {
		s.t.Fatal(err)
	}
}

// orders are all orders of three names.
func orders(a, b, c string) [][]string {
	return [][]string{{a, b, c}, {a, c, b}, {b, a, c}, {b, c, a}, {c, a, b}, {c, b, a}}
}
