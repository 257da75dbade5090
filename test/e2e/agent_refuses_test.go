//go:build e2e

package e2e

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"pgvrrp/test/lab"
)

// TestAgentRefuses: a standby's data or state is not what it was. Its agent says so and changes nothing, the cluster goes on, and the
// node is back when that is put right.
func TestAgentRefuses(t *testing.T) {
	t.Parallel()
	s := newTrio(t, nil)
	run(t, s.l.Host("n1"), "pgnotify", "init")
	holder := s.whole()
	victim := "n3"
	if holder == victim {
		victim = "n2"
	}
	h, data := s.l.Host(victim), s.pg.DataDir
	parent := filepath.Dir(data)
	promise := strings.TrimSpace(run(t, h, "sh", "-c", "ls "+pgnotifyState+"/*.agent.json"))
	asPostgres := func(script string) string {
		t.Helper()
		return run(t, h, "/usr/bin/setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups", "sh", "-ec", script)
	}
	// off ends the agent and its server, as for work at the data directory.
	off := func() {
		t.Helper()
		run(t, h, "pgnotify", "stop")
		stop(t, h, "agent", leaveEnd)
	}
	// end ends an agent that may have ended by itself.
	end := func() {
		t.Helper()
		told := h.Kill(within(t, patience), "agent", syscall.SIGTERM)
		if _, err := h.Proc("agent").Wait(within(t, leaveEnd)); err != nil {
			t.Fatal(errors.Join(told, err))
		}
	}
	on := func() {
		t.Helper()
		if err := s.startAgent(h); err != nil {
			t.Fatal(err)
		}
	}
	listing := func() string {
		return run(t, h, "sh", "-c", "cd "+data+" && find . -type f ! -path './log/*' -exec md5sum {} + | sort -k2")
	}
	for _, tt := range []struct {
		name, spoil, mend string
		want              string // in explain, or in the log of an agent that ends
	}{
		{
			name:  "another cluster's data",
			spoil: fmt.Sprintf("mv %[1]s %[1]s.aside && %[2]s/initdb --no-sync -D %[1]s >/dev/null", data, s.pg.BinDir),
			mend:  fmt.Sprintf("rm -rf %[1]s && mv %[1]s.aside %[1]s", data),
			want:  "system identifier",
		},
		{
			name:  "data of a newer major version",
			spoil: fmt.Sprintf("cd %s && cp -p PG_VERSION ../version && echo 99 >PG_VERSION", data),
			mend:  fmt.Sprintf("mv %[1]s/version %[2]s/PG_VERSION", parent, data),
			want:  "99",
		},
		{
			name:  "a promise newer than the log",
			spoil: fmt.Sprintf(`cp -p %[1]s %[1]s.aside && sed -i 's/"promise": *[0-9]*/"promise": 999999/' %[1]s && grep -q 999999 %[1]s`, promise),
			mend:  fmt.Sprintf("mv %[1]s.aside %[1]s", promise),
			want:  "it promised epoch 999999, and the log knows only",
		},
		{
			name:  "a state that can't be read",
			spoil: fmt.Sprintf(`cp -p %[1]s %[1]s.aside && echo '{"promise": 1' >%[1]s`, promise),
			mend:  fmt.Sprintf("mv %[1]s.aside %[1]s", promise),
			want:  promise,
		},
	} {
		s.step(tt.name, func(t *testing.T) {
			off()
			asPostgres(tt.spoil)
			before := listing()
			on()
			eventually(t, patience, "the agent says why", func() (bool, string) {
				said := logOf(t, h.Proc("agent"))
				if h.Proc("agent").Running() {
					res, _ := h.Run(within(t, patience), "pgnotify", "explain")
					said = res.Stdout + res.Stderr
				}
				return strings.Contains(said, tt.want), said
			})
			// Long enough for a decision: the others are whole without it by then.
			s.whole(victim)
			if after := listing(); after != before {
				t.Errorf("the data directory has changed:\n%s\nbefore\n%s", after, before)
			}
			if h.Proc("agent").Running() {
				st, err := s.status(victim)
				if err != nil {
					t.Fatal(err)
				}
				for _, n := range st.Nodes {
					if n.Node == victim && (n.Promotable || n.InRule) {
						t.Errorf("%s is promotable %t, in the rule %t", victim, n.Promotable, n.InRule)
					}
				}
			}
			end()
			asPostgres(tt.mend)
			on()
			s.whole()
		})
	}
	s.step("not ours", func(t *testing.T) {
		off()
		run(t, h, "chown", "root:", data)
		on()
		eventually(t, patience, "the agent says why", func() (bool, string) {
			said := logOf(t, h.Proc("agent"))
			return strings.Contains(said, data) && strings.Contains(said, "permission denied"), said
		})
		s.whole(victim)
		end()
		run(t, h, "chown", "postgres:", data)
		on()
		s.whole()
	})
	s.step("vrrpd's state is lost", func(t *testing.T) {
		holder := s.l.Host(s.whole())
		before := status(t, holder).Quorum.Resources[0].Rule.Version
		stop(t, h, "vrrpd", leaveEnd)
		run(t, h, "sh", "-c", "rm -rf "+quorumState+"/*")
		spawn(t, h, "vrrpd", lab.Command{Argv: vrrpdRun()})
		began := time.Now()
		eventually(t, longPatience, "a new rule names it, by its new directory", func() (bool, string) {
			r := status(t, holder).Quorum.Resources[0].Rule
			return r.Version > before && len(r.Gone) == 0 && slices.Contains(r.S, victim), fmt.Sprintf("%+v", r)
		})
		s.whole()
		t.Logf("in the rule again, as a new voter, after %s", time.Since(began).Round(time.Millisecond))
	})
	s.step("a disk of some seconds ago", func(t *testing.T) {
		holder := s.whole()
		before := status(t, s.l.Host(holder)).Quorum.Resources[0].Rule
		run(t, h, "cp", "-a", quorumState, "/var/lib/image")
		for end := time.Now().Add(3 * time.Second); time.Now().Before(end); sleep(glance) {
			if _, err := s.pg.SQL(within(t, patience), holder, "CREATE TABLE IF NOT EXISTS since (at timestamptz); INSERT INTO since VALUES (now())"); err != nil {
				t.Fatal(err)
			}
		}
		if now := status(t, s.l.Host(holder)).Quorum.Resources[0].Rule; now.Version != before.Version {
			t.Fatalf("the rule has changed, which any directory of before would be known by: %+v, before %+v", now, before)
		}
		if _, err := h.PowerLoss(within(t, patience)); err != nil {
			t.Fatal(err)
		}
		if err := h.Boot(within(t, patience)); err != nil {
			t.Fatal(err)
		}
		run(t, h, "sh", "-c", fmt.Sprintf("rm -rf %[1]s && mv /var/lib/image %[1]s", quorumState))
		s.start(h)
		eventually(t, patience, "its vrrpd is told", func() (bool, string) {
			said := logOf(t, h.Proc("vrrpd"))
			return strings.Contains(said, "its state directory is an old copy"), tail(said, 20)
		})
		if _, err := h.Proc("vrrpd").Wait(within(t, leaveEnd)); err != nil {
			t.Fatal(err)
		}
		run(t, h, "vrrpd", "quorum", "reset", "-f", vrrpdConf)
		spawn(t, h, "vrrpd", lab.Command{Argv: vrrpdRun()})
		s.whole()
	})
	s.step("a full disk in the middle of a copy", func(t *testing.T) {
		off()
		used, err := strconv.Atoi(strings.Fields(run(t, h, "du", "-sm", data))[0])
		if err != nil {
			t.Fatal(err)
		}
		aside := "/var/lib/postgresql/aside"
		run(t, h, "sh", "-ec", fmt.Sprintf("mv %[1]s %[2]s; mkdir %[1]s; mount -t tmpfs -o size=%[3]dm tmpfs %[1]s; chown postgres: %[1]s", parent, aside, used/2))
		asPostgres(fmt.Sprintf("mkdir -m 0700 %s", data))
		on()
		eventually(t, longPatience, "the agent says why", func() (bool, string) {
			said := logOf(t, h.Proc("agent"))
			return strings.Contains(strings.ToLower(said), "no space left on device"), tail(said, 20)
		})
		s.whole(victim)
		stop(t, h, "agent", leaveEnd)
		if left := run(t, h, "ls", "-A", data); left != "" {
			t.Errorf("the unfinished copy stands where the data belongs: %q", left)
		}
		// With room again it goes on by itself.
		run(t, h, "mount", "-o", fmt.Sprintf("remount,size=%dm", 4*used+200), parent)
		on()
		s.whole()
		off()
		run(t, h, "sh", "-ec", fmt.Sprintf("umount -l %[1]s; rmdir %[1]s; mv %[2]s %[1]s", parent, aside))
		on()
		s.whole()
	})
	s.step("a rewind that loses its power", func(t *testing.T) {
		off()
		// Rows that nobody else has.
		asPostgres(fmt.Sprintf(`cd %[1]s && rm -f standby.signal && cp -p postgresql.auto.conf ../auto && : >postgresql.auto.conf
			%[2]s/pg_ctl -D . -w -o "-c synchronous_standby_names='' -c primary_conninfo='' -c port=6000 -c fsync=off" -l ../ghost.log start >/dev/null
			%[2]s/psql -qX -p 6000 -c "CREATE TABLE ghost AS SELECT g, repeat('x', 500) AS t FROM generate_series(1, 100000) g" postgres
			%[2]s/pg_ctl -D . -w -m fast stop >/dev/null; mv ../auto postgresql.auto.conf`, data, s.pg.BinDir))
		// Power goes at the first sight of pg_rewind, before its end.
		on()
		eventually(t, longPatience, "pg_rewind runs", func() (bool, string) {
			list, err := h.Processes()
			return slices.ContainsFunc(list, func(p lab.Process) bool { return p.Name == "pg_rewind" }), fmt.Sprintf("%v\n%s", err, tail(logOf(t, h.Proc("agent")), 30))
		})
		if _, err := h.PowerLoss(within(t, patience)); err != nil {
			t.Fatal(err)
		}
		if err := h.Boot(within(t, patience)); err != nil {
			t.Fatal(err)
		}
		s.start(h)
		s.whole()
		got, err := s.pg.SQL(within(t, patience), victim, "SELECT count(*) FROM pg_class WHERE relname = 'ghost'")
		if err != nil || got != "0" {
			t.Errorf("%s has %q tables that nobody else has (%v)", victim, got, err)
		}
		t.Log(run(t, h, "pgnotify", "history"))
	})
	if now := s.whole(); now != holder {
		t.Errorf("the holder is %s and was %s: what a standby refuses is no reason to move", now, holder)
	}
	s.step("a rewind whose source loses its power", func(t *testing.T) {
		h = s.l.Host(holder)
		if err := s.l.Isolate([]string{holder}); err != nil {
			t.Fatal(err)
		}
		source := s.whole(holder)
		for name, sql := range map[string]string{
			holder: "SET synchronous_commit = local; CREATE TABLE alone AS SELECT 1",
			source: "CREATE TABLE bulk AS SELECT g, repeat('x', 1000) AS t FROM generate_series(1, 300000) g", // so that it takes a moment
		} {
			if _, err := s.pg.SQL(within(t, 2*longPatience), name, sql); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.l.Heal(); err != nil {
			t.Fatal(err)
		}
		eventually(t, longPatience, "pg_rewind copies", func() (bool, string) {
			said := logOf(t, h.Proc("agent"))
			return strings.Contains(said, "pg_rewind: need to copy"), tail(said, 30)
		})
		if _, err := s.l.Host(source).PowerLoss(within(t, patience)); err != nil {
			t.Fatal(err)
		}
		began, third := time.Now(), without(without([]string{"n1", "n2", "n3"}, holder), source)[0]
		st, err := s.status(third)
		if err != nil {
			t.Fatal(err)
		}
		if slices.Contains(st.Resource.Rule.S, third) || st.Resource.Holder == third { // that may have gone on already
			now := s.whole(source)
			t.Logf("with %s instead of %s it is whole after %s", now, source, time.Since(began).Round(time.Millisecond))
		} else { // on a starved machine: it could not follow the bulk
			t.Logf("%s was not in the rule: nobody may take over from %s", third, source)
		}
		if err := s.l.Host(source).Boot(within(t, patience)); err != nil {
			t.Fatal(err)
		}
		s.start(s.l.Host(source))
		s.whole()
	})
}
