//go:build e2e

package e2e

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"pgvrrp/internal/control"
	"pgvrrp/test/lab"
	"pgvrrp/test/lab/meter"
)

// TestAgentTakesOver: a running primary becomes a cluster of three by init and two empty hosts, and its power loss costs no commit.
func TestAgentTakesOver(t *testing.T) {
	t.Parallel()
	s := newTrio(t, nil)
	out := run(t, s.l.Host("n1"), "pgnotify", "init")
	t.Logf("init: %s", strings.TrimSpace(out))
	holder := s.whole()
	t.Logf("whole, holder %s", holder)
	t.Log(run(t, s.l.Host(holder), "pgnotify", "status"))
	m, err := meter.Start(within(t, patience), meter.Config{
		Conninfo: s.pg.MeterConninfo(lab.VIP(1).String()), Dial: s.l.Client().Dial, Writers: 4, Interval: 5 * time.Millisecond,
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.WaitAck(within(t, longPatience), time.Now().Add(2*time.Second)); err != nil {
		t.Fatal(err)
	}
	since := m.Mark("power loss of " + holder)
	if _, err := s.l.Host(holder).PowerLoss(within(t, patience)); err != nil {
		t.Fatal(err)
	}
	if _, err := m.WaitAck(within(t, longPatience), since.Add(time.Second)); err != nil {
		t.Fatal(err)
	}
	next := s.whole(holder)
	t.Logf("next holder %s; %s", next, lab.ReadLoad())
	if next == holder {
		t.Errorf("%s is still the holder", holder)
	}
	r, err := m.Report(within(t, patience))
	if err != nil {
		t.Fatal(err)
	}
	t.Log(r)
	if len(r.Lost) > 0 || r.Unknown > 0 || r.Acked == 0 {
		t.Errorf("acknowledged %d, lost %d, never written %d; want none but the first", r.Acked, len(r.Lost), r.Unknown)
	}
	if err := s.l.Host(holder).Boot(within(t, patience)); err != nil {
		t.Fatal(err)
	}
	s.start(s.l.Host(holder))
	s.whole()
	for _, n := range []string{"n1", "n2", "n3"} {
		t.Log(n + "\n" + run(t, s.l.Host(n), "pgnotify", "explain"))
	}
	t.Log(s.insist(func() *lab.Host { return s.l.Host("n1") }, "pgnotify", "switchover"))
	s.whole()
	t.Log(run(t, s.l.Host("n1"), "pgnotify", "history"))
}

// TestAgentSurvives: what dies alone, and what an operator asks for.
func TestAgentSurvives(t *testing.T) {
	t.Parallel()
	const archiver = "/run/archiver-waits" // while it is there, archive_command does not end
	s := newTrio(t, map[string]string{"archive_mode": "on", "archive_command": "while [ -e " + archiver + " ]; do sleep 0.01; done"})
	run(t, s.l.Host("n1"), "pgnotify", "init")
	holder := s.whole()
	s.standsOpen(holder)
	m, err := meter.Start(within(t, 10*time.Minute), meter.Config{
		Conninfo: s.pg.MeterConninfo(lab.VIP(1).String()), Dial: s.l.Client().Dial, Writers: 4, Interval: 5 * time.Millisecond,
	})
	if err != nil {
		t.Fatal(err)
	}
	longest := func(since time.Time) time.Duration {
		var d time.Duration
		for _, o := range m.Outages() {
			if o.End.After(since) {
				d = max(d, o.Duration)
			}
		}
		return d
	}
	act := func(name string, f func()) {
		t.Helper()
		since := m.Mark(name)
		f()
		if _, err := m.WaitAck(within(t, longPatience), time.Now()); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		holder = s.whole()
		t.Logf("%s: holder %s, longest outage %s; %s", name, holder, longest(since).Round(time.Millisecond), lab.ReadLoad())
	}
	standby := func() string {
		for _, n := range []string{"n3", "n2", "n1"} {
			if n != holder {
				return n
			}
		}
		return ""
	}
	act("kill -9 of the holder's postmaster", func() {
		pid, err := s.pg.PID(holder)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.l.Host(holder).Signal(within(t, patience), pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		sleep(time.Second)
	})
	act("the holder's agent is restarted", func() {
		signal(t, s.l.Host(holder), "agent", syscall.SIGKILL)
		if _, err := s.l.Host(holder).Proc("agent").Wait(within(t, patience)); err != nil {
			t.Fatal(err)
		}
		if err := s.startAgent(s.l.Host(holder)); err != nil {
			t.Fatal(err)
		}
		sleep(time.Second)
	})
	act("the holder's agent hangs", func() {
		old, other, since := holder, standby(), time.Now()
		signal(t, s.l.Host(old), "agent", syscall.SIGSTOP)
		eventually(t, 5*time.Second, "another node holds", func() (bool, string) {
			st, err := s.status(other)
			if err != nil {
				return false, err.Error()
			}
			return st.Resource.Phase == "active" && st.Resource.Holder != old, fmt.Sprintf("%+v", st.Resource)
		})
		t.Logf("another node holds after %s", time.Since(since).Round(time.Millisecond))
		signal(t, s.l.Host(old), "agent", syscall.SIGCONT)
	})
	act("the holder's vrrpd is stopped for a while", func() {
		h := s.l.Host(holder)
		signal(t, h, "vrrpd", syscall.SIGSTOP)
		sleep(time.Second)
		s.onHold(holder)
		signal(t, h, "vrrpd", syscall.SIGCONT)
		sleep(time.Second)
	})
	act("the holder's files can't be read", func() { // as when its disk has failed
		h, old := s.l.Host(holder), holder
		lock := s.pg.DataDir + "/postmaster.pid"
		run(t, h, "sh", "-c", "mv "+lock+" "+lock+".aside && mkdir "+lock)
		eventually(t, longPatience, "another node holds", func() (bool, string) {
			st, err := s.status(old)
			if err != nil {
				return false, err.Error()
			}
			return st.Resource.Phase == "active" && st.Resource.Holder != old, fmt.Sprintf("%+v", st.Resource)
		})
		if _, err := m.WaitAck(within(t, longPatience), time.Now()); err != nil {
			t.Fatal(err)
		}
		if out := run(t, h, "pgnotify", "explain"); !strings.Contains(out, "could not be looked at") {
			t.Errorf("explain: got %s, want that %s could not be looked at", out, old)
		}
		run(t, h, "sh", "-c", "rmdir "+lock+" && mv "+lock+".aside "+lock)
	})
	act("the holder's disk takes no WAL", func() { // sessions answer on; it is a pipe that nobody reads which the write waits for
		h, old, probe := s.l.Host(holder), holder, s.pg.DataDir+"/pg_wal/pgnotify.probe"
		run(t, h, "sh", "-ec", fmt.Sprintf("test -s %[1]s && mkfifo -m 0666 %[1]s.pipe && mv %[1]s.pipe %[1]s", probe)) // the agent may be about to write it anew
		eventually(t, longPatience, "another node holds", func() (bool, string) {
			st, err := s.status(old)
			if err != nil {
				return false, err.Error()
			}
			return st.Resource.Phase == "active" && st.Resource.Holder != old, fmt.Sprintf("%+v", st.Resource)
		})
		if said := logOf(t, h.Proc("agent")); !strings.Contains(said, "takes no writes") {
			t.Errorf("the agent of %s says nothing of its disk: %s", old, tail(said, 20))
		}
		run(t, h, "sh", "-ec", "timeout 5 cat "+probe+" >/dev/null; rm "+probe)
	})
	act("a standby's power, then that of every witness", func() {
		name := standby()
		if _, err := s.l.Host(name).PowerLoss(within(t, patience)); err != nil {
			t.Fatal(err)
		}
		s.loseWitnesses(t, holder, name)
		if err := s.l.Host(name).Boot(within(t, patience)); err != nil {
			t.Fatal(err)
		}
		s.start(s.l.Host(name))
	})
	act("every cable of the interconnect is pulled", func() {
		since := time.Now()
		for _, n := range []string{"n1", "n2", "n3"} {
			if err := s.l.Host(n).CutLinks(lab.Interconnect); err != nil {
				t.Fatal(err)
			}
		}
		// The walreceivers give up after wal_receiver_timeout, 2 s, and the standbys look for the holder a second later.
		eventually(t, 8*time.Second, "both standbys stream over the LAN and are in the rule", func() (bool, string) {
			st, err := s.status(holder)
			if err != nil {
				return false, err.Error()
			}
			hosts, err := s.pg.SQL(t.Context(), holder, "SELECT string_agg(host(client_addr), ' ') FROM pg_stat_replication WHERE state = 'streaming'")
			return err == nil && len(st.Resource.Rule.S) == 2 && strings.Count(hosts, "10.77.") == 2, fmt.Sprint(hosts, err, st.Resource.Rule)
		})
		t.Logf("streaming over the other link after %s", time.Since(since).Round(time.Millisecond))
		for _, n := range []string{"n1", "n2", "n3"} {
			if err := s.l.Host(n).HealLinks(lab.Interconnect); err != nil {
				t.Fatal(err)
			}
		}
	})
	act("maintenance of a standby", func() {
		h := s.l.Host(standby())
		t.Log(run(t, h, "pgnotify", "maintenance", "on"))
		t.Log(run(t, h, "pgnotify", "status"))
		t.Log(run(t, h, "pgnotify", "maintenance", "off"))
	})
	act("stop and start of a standby", func() {
		h := s.l.Host(standby())
		t.Log(run(t, h, "pgnotify", "stop"))
		t.Log(run(t, h, "pgnotify", "start"))
	})
	act("promote, and archive_command hangs", func() {
		old := s.l.Host(holder)
		writeFile(t, old, archiver, "", 0o644)
		t.Log(s.insist(func() *lab.Host { return s.l.Host(standby()) }, "pgnotify", "promote"))
		if _, err := m.WaitAck(within(t, longPatience), time.Now()); err != nil {
			t.Fatal(err)
		}
		if out := run(t, old, "pgnotify", "explain"); !strings.Contains(out, holder+": PostgreSQL is shut down, and its archiver still at work") {
			t.Errorf("explain: got %s, want that %s waits for its archiver", out, holder)
		}
		run(t, old, "rm", archiver)
	})
	act("the holder does not hear the leader of the log, and loses a standby", func() {
		var v control.Status
		eventually(t, patience, "another node leads the log", func() (bool, string) {
			var err error
			v, err = s.q.Vrrpd(t.Context(), holder)
			return err == nil && v.Quorum != nil && v.Quorum.Leader != "" && v.Quorum.Leader != holder, fmt.Sprintf("%+v, %v", v.Quorum, err)
		})
		if err := s.l.Partition([]string{holder}, []string{v.Quorum.Leader}); err != nil {
			t.Fatal(err)
		}
		gone := ""
		for _, n := range []string{"n1", "n2", "n3"} {
			if n != holder && n != v.Quorum.Leader {
				gone = n
			}
		}
		if _, err := s.l.Host(gone).PowerLoss(within(t, patience)); err != nil {
			t.Fatal(err)
		}
		if _, err := m.WaitAck(within(t, longPatience), time.Now().Add(300*time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		if err := s.l.Heal(); err != nil {
			t.Fatal(err)
		}
		if err := s.l.Host(gone).Boot(within(t, patience)); err != nil {
			t.Fatal(err)
		}
		s.start(s.l.Host(gone))
	})
	act("pause and resume", func() {
		h := s.l.Host(standby())
		t.Log(run(t, h, "pgnotify", "pause", "--reason", "a test"))
		t.Log(run(t, h, "pgnotify", "explain"))
		t.Log(run(t, h, "pgnotify", "resume"))
		t.Log(run(t, h, "pgnotify", "set", "min_copies", "2"))
		t.Log(run(t, h, "pgnotify", "status"))
		t.Log(run(t, h, "pgnotify", "set", "min_copies", "1"))
	})
	res, err := s.l.Host(holder).Run(within(t, patience), "pgnotify", "doctor")
	t.Logf("doctor: %v\n%s", err, res.Stdout)
	r, err := m.Report(within(t, patience))
	if err != nil {
		t.Fatal(err)
	}
	t.Log(r)
	if len(r.Lost) > 0 || r.Unknown > 0 || r.Acked == 0 {
		t.Errorf("acknowledged %d, lost %d, never written %d; want none but the first", r.Acked, len(r.Lost), r.Unknown)
	}
}

// standsOpen: what a transaction that stands open has written is flushed and sent when somebody commits. No standby is behind because of that, and all
// stay in the rule.
func (s *trio) standsOpen(holder string) {
	s.t.Helper()
	rule := func() control.Rule {
		now, err := s.status(holder)
		if err != nil {
			s.t.Fatal(err)
		}
		return now.Resource.Rule
	}
	for try := 1; ; try++ { // a standby whose disk stalls meanwhile is put out rightly
		s.whole()
		before := rule()
		if _, err := s.pg.SQL(within(s.t, patience), holder, "BEGIN; CREATE TABLE stands_open(); SELECT pg_sleep(1); ROLLBACK"); err != nil {
			s.t.Fatal(err)
		}
		after := rule()
		if after.Version == before.Version {
			return
		}
		if try == 3 {
			s.t.Fatalf("the rule was %+v before a transaction that stood open, and is %+v", before, after)
		}
	}
}

// insist runs a command that may be refused or aborted because a standby stalls in that moment.
func (s *trio) insist(at func() *lab.Host, argv ...string) string {
	s.t.Helper()
	for try := 1; ; try++ {
		res, err := at().Run(within(s.t, longPatience), argv...)
		if err == nil {
			return res.Stdout
		}
		if try == 3 {
			s.t.Fatal(err)
		}
		s.t.Logf("again: %v", err)
		s.whole()
	}
}

// onHold waits until a server acknowledges nothing.
func (s *trio) onHold(name string) {
	s.t.Helper()
	eventually(s.t, patience, name+" is on hold", func() (bool, string) {
		got, err := s.pg.SQL(s.t.Context(), name, "SHOW synchronous_standby_names")
		return err == nil && strings.Contains(got, "pgnotify_hold"), fmt.Sprint(got, err)
	})
}

func sleep(d time.Duration) { <-time.After(d) }

// TestAgentOutages: the primary is cut off with writes on their way, and everything loses its power at once.
func TestAgentOutages(t *testing.T) {
	s := newTrio(t, nil)
	run(t, s.l.Host("n1"), "pgnotify", "init")
	holder := s.whole()
	m, err := meter.Start(within(t, 10*time.Minute), meter.Config{
		Conninfo: s.pg.MeterConninfo(lab.VIP(1).String()), Dial: s.l.Client().Dial, Writers: 8, Interval: 2 * time.Millisecond,
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.WaitAck(within(t, longPatience), time.Now().Add(time.Second)); err != nil {
		t.Fatal(err)
	}
	since := m.Mark("the primary is cut off")
	old := holder
	if err := s.l.Isolate([]string{old}); err != nil {
		t.Fatal(err)
	}
	if _, err := m.WaitAck(within(t, longPatience), since.Add(time.Second)); err != nil {
		t.Fatal(err)
	}
	s.onHold(old)
	// What it writes now is nobody's: it must not come back.
	if _, err := s.pg.SQL(within(t, patience), old, "SET synchronous_commit = local; CREATE TABLE ghost (); CHECKPOINT"); err != nil {
		t.Logf("ghost: %v", err)
	}
	healed := time.Now()
	if err := s.l.Heal(); err != nil {
		t.Fatal(err)
	}
	holder = s.whole()
	t.Logf("healed: whole after %s, holder %s", time.Since(healed).Round(time.Millisecond), holder)
	for _, n := range []string{"n1", "n2", "n3"} {
		if got, err := s.pg.SQL(within(t, patience), n, "SELECT count(*) FROM pg_class WHERE relname = 'ghost'"); err != nil || strings.TrimSpace(got) != "0" {
			t.Errorf("%s: %q ghosts, %v", n, got, err)
		}
	}
	all := []string{"n1", "n2", "n3", "w1", "w2"}
	if _, err := s.l.PowerLoss(within(t, patience), all...); err != nil {
		t.Fatal(err)
	}
	m.Mark("everything without power")
	for k := range all { // the last holder comes last
		n := all[(slices.Index(all, holder)+1+k)%len(all)]
		if err := s.l.Host(n).Boot(within(t, patience)); err != nil {
			t.Fatal(err)
		}
		s.start(s.l.Host(n))
		sleep(500 * time.Millisecond)
	}
	back := time.Now()
	holder = s.whole()
	t.Logf("power is back: whole after %s, holder %s", time.Since(back).Round(time.Millisecond), holder)
	if _, err := m.WaitAck(within(t, longPatience), time.Now()); err != nil {
		t.Fatal(err)
	}
	r, err := m.Report(within(t, patience))
	if err != nil {
		t.Fatal(err)
	}
	t.Log(r)
	if len(r.Lost) > 0 || r.Unknown > 0 || r.Acked == 0 {
		t.Errorf("acknowledged %d, lost %d, never written %d; want none but the first", r.Acked, len(r.Lost), r.Unknown)
	}
	holder = s.whole()
	client := http.Client{Transport: &http.Transport{DialContext: s.l.Client().Dial, DisableKeepAlives: true}}
	for _, n := range []string{"n1", "n2", "n3"} {
		for path, atHolder := range map[string]bool{"primary": true, "replica": false, "sync": false} {
			want := map[bool]int{true: 200, false: 503}[atHolder == (n == holder)]
			eventually(t, 2*longPatience, fmt.Sprintf("%s /%s answers %d", n, path, want), func() (bool, string) { // a standby that stalled is taken back after a while
				resp, err := client.Get(fmt.Sprintf("http://%s:8008/%s", s.l.Host(n).Addr(lab.LAN), path))
				if err != nil {
					return false, err.Error()
				}
				resp.Body.Close()
				return resp.StatusCode == want, resp.Status
			})
		}
	}
}
