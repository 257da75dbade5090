//go:build e2e

package e2e

import (
	"fmt"
	"testing"
	"time"

	"pgvrrp/internal/control"
	"pgvrrp/test/lab"
)

// hookDelay is how long a MASTER hook is held up in TestPGFlap.
const hookDelay = 5 * time.Second

// slowHook is a hook that is late: it sleeps before it runs pgnotify, for as long as a file says.
const slowHook = "#!/bin/sh\nif [ \"$3\" = MASTER ]; then sleep \"$(cat /etc/pgnotify/delay)\"; fi\nexec /usr/bin/pgnotify notify \"$@\"\n"

// TestPGFlap has n2 become MASTER and BACKUP again before its MASTER hook has come to promote. Nothing but the flap speaks
// against a promotion: the server of n1, which holds the address, is down, and n3 has no more WAL than n2. So the end of
// each case is that n2 is promoted when it is MASTER in earnest.
func TestPGFlap(t *testing.T) {
	t.Parallel()
	bothDaemons(t, flapStory)
}

func flapStory(t *testing.T, d daemon) {
	s := newSite(t, siteOptions{
		daemon: d,
		conf: func(conf string) string {
			conf = replace(t, conf, "@n1 priority 100", "@n1 priority 150") // which takes the address back
			return replace(t, conf, "\"/usr/bin/pgnotify notify\" postgres", "\"/usr/bin/late-hook\" postgres")
		},
		more: map[string]string{"/usr/bin/late-hook": lateHook(t)},
	})
	delay := func(d time.Duration) {
		writeFile(t, s.host("n2"), "/etc/pgnotify/delay", d.String(), 0o644)
	}
	for _, name := range s.names() {
		writeFile(t, s.host(name), "/etc/pgnotify/delay", "0s", 0o644)
	}
	s.step("begin", func(t *testing.T) {
		skip := len(s.history("n1"))
		s.start("n1")
		// Nothing is left to do if BACKUP was overtaken before it did anything.
		s.decided("n1", skip, "MASTER", func(e entry) bool { return hook("MASTER")(e) && (e.Outcome == "done" || e.Outcome == "nothing") })
		s.start("n2") // and none on n3, which is there to be asked
		s.streaming("n1", "n2", "n3")
		if err := s.pg.Stop(within(t, patience), "n1", "fast"); err != nil {
			t.Fatal(err)
		}
	})
	toml := sampleFile(t, "three-node-sync", "pgnotify.toml")
	for _, tt := range []struct {
		name  string
		delay time.Duration
		toml  string
	}{
		{"hook delayed by 5 s", hookDelay, toml},
		// (2): the tie-break of equal priorities ends within the settle time.
		{"within the settle time", 0, replace(t, toml, `settle = "50ms"`, `settle = "1500ms"`)},
	} {
		s.step(tt.name, func(t *testing.T) {
			s.install(s.host("n2"), tt.toml)
			delay(tt.delay)
			before, skip := s.allPromotes(), len(s.history("n2"))
			at := time.Now()
			s.flap("n2", "n1")
			flapped := time.Since(at)
			e := s.decided("n2", skip, "MASTER", hook("MASTER"))
			if e.Outcome != "overtaken" && e.Outcome != "refused" {
				t.Errorf("the late MASTER hook: %s", e)
			}
			late := max(tt.delay, flapped)
			if took := time.Since(at); took < late {
				t.Errorf("the MASTER hook was through after %s, want %s and more: it was not late", took, late)
			}
			s.ended("n2", "late-hook", "sleep")
			s.decided("n2", skip, "BACKUP", hook("BACKUP"))
			if got := s.promotesSince(before); len(got) > 0 {
				t.Errorf("promote requests after a flap: %v, want none", got)
			}
			if s.role("n2") != "standby" {
				t.Errorf("n2 is %s", s.role("n2"))
			}
		})
	}
	s.step("in earnest", func(t *testing.T) {
		s.install(s.host("n2"), replace(t, toml, `settle = "50ms"`, `settle = "700ms"`))
		delay(0)
		before, skip := s.allPromotes(), len(s.history("n2"))
		s.stop("n1")
		e := s.decided("n2", skip, "MASTER", func(e entry) bool { return hook("MASTER")(e) && e.Outcome == "done" })
		if e.Took < 0.7 {
			t.Errorf("n2 was promoted after %.3f s, before the settle time of 0.7 s was over: %s", e.Took, e)
		}
		eventually(t, patience, "the server's log has one promote request, on n2", func() (bool, string) {
			got := s.promotesSince(before)
			return got["n2"] == 1 && len(got) == 1, fmt.Sprint(got)
		})
	})
}

// flap makes a host MASTER for a moment, by a partition of the service LAN.
func (s *site) flap(host, master string) {
	s.t.Helper()
	if err := s.l.Partition([]string{host}, []string{master}, lab.LAN); err != nil {
		s.t.Fatal(err)
	}
	s.waitState(host, control.StateMaster)
	if err := s.l.Heal(); err != nil {
		s.t.Fatal(err)
	}
	s.waitState(host, control.StateBackup)
}
