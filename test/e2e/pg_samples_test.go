//go:build e2e

package e2e

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"pgvrrp/test/lab"
)

// samplePassword is the replicator's and the client's in the tests of the samples.
const samplePassword = "not so secret"

// newSampleSite makes a site of whole directories of etc: every file as it stands, the same on every node, with only those
// lines added that are the operator's own.
func newSampleSite(t *testing.T, vrrp, rest string, hosts int) *site {
	t.Helper()
	s := newSite(t, siteOptions{
		daemon: vrrpd, hosts: hosts, sample: rest, conf: func(string) string { return sampleFile(t, vrrp, "vrrpd.conf") },
		pg: lab.PostgresOptions{Stopped: true, Password: samplePassword},
	})
	for _, h := range s.l.Hosts() {
		// Another version than the one that the samples name has another directory.
		here := func(name string) string {
			return strings.ReplaceAll(sampleFile(t, rest, name), sampleData, s.pg.DataDir)
		}
		writeFile(t, h, pgnotifyToml, here("pgnotify.toml"), 0o644)
		path := h.DiskPath(s.pg.ConfDir + "/postgresql.conf")
		fresh, _, _ := strings.Cut(readHostFile(t, path), "\n# the lab's\n")
		own := "\n# our own\nunix_socket_directories = '/run/postgresql'\nshared_buffers = '32MB'\ncluster_name = '" + h.Name() + "'\n"
		for _, key := range slices.Sorted(maps.Keys(serverLog)) {
			own += key + " = '" + serverLog[key] + "'\n"
		}
		if err := os.WriteFile(path, []byte(fresh+own+here("postgresql.conf")), 0o600); err != nil {
			t.Fatal(err)
		}
		hba := sampleFile(t, rest, "pg_hba.conf") + "# our own\nhost meter app 10.77.0.0/24 scram-sha-256\n"
		if err := os.WriteFile(h.DiskPath(s.pg.ConfDir+"/pg_hba.conf"), []byte(hba), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := s.pg.Start(within(t, patience), h.Name()); err != nil {
			t.Fatal(err)
		}
	}
	s.peer = true
	return s
}

// TestPGSamples runs the directories of etc that are about PostgreSQL as they stand.
func TestPGSamples(t *testing.T) {
	t.Parallel()
	t.Run("two-node-async", func(t *testing.T) {
		s := newSampleSite(t, "two-node-async", "two-node-async", 2)
		s.step("begin", func(t *testing.T) {
			s.begin("n1")
			s.measure()
			s.read("n2")
		})
		s.step("power loss and return, each way", func(t *testing.T) {
			for _, dead := range []string{"n1", "n2"} {
				other := s.names(dead)[0]
				at := s.powerLoss(dead)
				s.ack(at)
				t.Logf("outage by power loss of %s: %d ms; %s", dead, s.outage(at).Milliseconds(), lab.ReadLoad())
				s.waitPrimary(other)
				s.comesBack(dead, other)
			}
		})
		s.step("end", func(t *testing.T) {
			// Asynchronous: what the other had not yet received is gone, as the file says; nothing else may be.
			r, err := s.m.Report(within(t, patience))
			if err != nil {
				t.Fatal(err)
			}
			s.m = nil
			t.Log(r)
			if len(r.Lost) > r.Acked/10 || r.FailedFound > 0 || r.Unknown > 0 {
				t.Errorf("acknowledged %d, lost %d, there although failed %d, never written %d", r.Acked, len(r.Lost), r.FailedFound, r.Unknown)
			}
			s.unread("n2")
		})
	})
	t.Run("read-only-vip and three-node-sync", func(t *testing.T) {
		s := newSampleSite(t, "read-only-vip", "three-node-sync", 3)
		reading := lab.VIP(2)
		primary, reader := "n1", ""
		// onStandby waits until the second address is on a standby, and on no other host.
		onStandby := func(among ...string) {
			eventually(s.t, patience, fmt.Sprintf("%s is on one of %v", reading, among), func() (bool, string) {
				on := holders(s.l, reading)
				if len(on) == 1 && slices.Contains(among, on[0]) {
					reader = on[0]
					return true, ""
				}
				return false, fmt.Sprint(on)
			})
			if got := whoAnswers(s.t, s.l, reading); got != reader || s.role(reader) != "standby" {
				s.t.Errorf("%s answers for %s, want %s; %s is %s, want standby", got, reading, reader, reader, s.role(reader))
			}
		}
		s.step("begin", func(t *testing.T) {
			s.begin("n1")
			s.measure()
			onStandby("n2", "n3")
			s.pgnotify(primary, 0, "check", "--role", "primary")
		})
		s.step("the standby with it dies", func(t *testing.T) {
			dead := reader
			at := s.powerLoss(dead)
			onStandby(s.names(primary, dead)...)
			t.Logf("%s moved %d ms after the power loss of %s; %s", reading, time.Since(at).Milliseconds(), dead, lab.ReadLoad())
			s.comesBack(dead, primary)
		})
		s.step("the standby with it lags", func(t *testing.T) {
			late := reader
			s.sql(late, "SELECT pg_wal_replay_pause()")
			s.sql(primary, "SELECT count(pg_logical_emit_message(false, 'lag', repeat('x', 1000000))) FROM generate_series(1, 20)")
			at := time.Now()
			onStandby(s.names(primary, late)...)
			t.Logf("%s moved %d ms after %s began to lag; %s", reading, time.Since(at).Milliseconds(), late, lab.ReadLoad())
			s.says(late, 1, "lags", "check", "--role", "standby", "--max-lag", "16MB")
			s.sql(late, "SELECT pg_wal_replay_resume()")
			eventually(t, patience, late+" is healthy again", func() (bool, string) {
				res := try(t, s.host(late), "/usr/bin/pgnotify", "check", "--role", "standby", "--max-lag", "16MB")
				return res.Code == 0, res.Stderr
			})
		})
		s.step("the primary dies", func(t *testing.T) {
			at := s.powerLoss(primary)
			s.ack(at)
			t.Logf("outage by power loss: %d ms; %s", s.outage(at).Milliseconds(), lab.ReadLoad())
			dead := primary
			primary = s.waitPrimary(s.names(dead)...)
			onStandby(s.names(primary, dead)...)
			s.comesBack(dead, primary)
			onStandby(s.names(primary)...)
		})
		s.step("planned switchover, with its own user and password", func(t *testing.T) {
			to := "n1"
			s.says(primary, 0, to+" is the primary at the VIP", "switchover", "--to", to, "--instance", pgInstance)
			primary = s.waitPrimary(to)
			s.streaming(primary, s.names(primary)...)
		})
		s.step("nothing is lost", func(*testing.T) { s.lossless() })
	})
}

// TestPGDebian is a failover and a return with the configuration where Debian's pg_createcluster puts it.
func TestPGDebian(t *testing.T) {
	t.Parallel()
	s := newSite(t, siteOptions{daemon: vrrpd, pg: lab.PostgresOptions{DebianLayout: true}})
	s.step("begin", func(t *testing.T) {
		s.begin("n1")
		s.measure()
		s.read("n2", "n3")
	})
	s.step("failover and return by rewind", func(t *testing.T) {
		ghost, at := s.ghost("n1")
		s.ack(at)
		primary := s.waitPrimary("n2", "n3")
		skip := len(s.history("n1"))
		s.comesBack("n1", primary)
		if e := s.decided("n1", skip, "rewound", func(e entry) bool { return e.Command == "follow" && e.Outcome == "done" }); !e.did(rewound) {
			t.Errorf("n1 came back by %q, want a rewind", e.Steps)
		}
		s.gone(ghost, s.names()...)
		s.says("n1", 0, "done", "rejoin", "--reclone")
		s.streaming(primary, s.names(primary)...)
		want := s.pg.ConfDir + "/postgresql.conf"
		for _, name := range s.names() {
			if got := s.sql(name, "SHOW config_file"); got != want || !strings.HasPrefix(want, "/etc/postgresql/") {
				t.Errorf("%s: config_file %s, want %s", name, got, want)
			}
			if got := s.sql(name, "SELECT name FROM pg_file_settings WHERE error IS NOT NULL"); got != "" {
				t.Errorf("%s: settings with errors: %s", name, got)
			}
		}
	})
	s.step("nothing is lost", func(t *testing.T) {
		s.lossless()
		s.unread("n2", "n3")
	})
}
