//go:build e2e

package e2e

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"pgvrrp/internal/control"
	"pgvrrp/test/lab"
)

// outageByPowerLoss is what three-node-sync promises at advert_int 0.1.
const outageByPowerLoss = 1500 * time.Millisecond

// TestPGFailover is the whole life of a cluster of three with etc/three-node-sync, under vrrpd and under keepalived, with a
// client that commits and others that read all through it.
func TestPGFailover(t *testing.T) { bothDaemons(t, failoverStory) }

func failoverStory(t *testing.T, d daemon) {
	s := newSite(t, siteOptions{daemon: d})
	primary := "n1"
	others := func() []string { return s.names(primary) }
	s.step("begin", func(t *testing.T) {
		s.begin("n1")
		s.measure()
		s.read("n1", "n2", "n3")
	})
	s.step("power loss of the primary", func(t *testing.T) {
		load, before := lab.ReadLoad(), s.allPromotes()
		at := s.powerLoss("n1")
		s.ack(at)
		primary = s.waitPrimary("n2", "n3")
		s.streaming(primary, s.names("n1", primary)...)
		if got := s.promotesSince(before); len(got) != 1 || got[primary] != 1 {
			t.Errorf("promote requests: got %v, want one on %s", got, primary)
		}
		s.inTime("outage by power loss, "+string(d), s.outage(at), outageByPowerLoss, load)
		s.neverRebuilt(at, s.names("n1")...)
		waitHolder(s.t, s.l, s.vip, primary)
	})
	s.step("the first comes back by itself", func(t *testing.T) {
		s.comesBack("n1", primary)
		s.read("n1")
	})
	s.step("diverged, rewound", func(t *testing.T) {
		s.makePrimary(&primary, "n1")
		ghost, at := s.ghost("n1")
		s.ack(at)
		primary = s.waitPrimary("n2", "n3")
		skip := len(s.history("n1"))
		s.comesBack("n1", primary)
		e := s.decided("n1", skip, "rewound", func(e entry) bool { return e.Command == "follow" && e.Outcome == "done" })
		if !e.rebuilt() {
			t.Errorf("n1 came back by %q, want a rewind", e.Steps)
		}
		if old := s.oldData("n1"); len(old) > 0 {
			t.Errorf("a rewind left %v", old)
		}
		s.caughtUp(primary, "n1")
		s.gone(ghost, s.names()...)
		s.read("n1")
	})
	s.step("rewind impossible, cloned", func(t *testing.T) {
		lost := primary
		// What pg_rewind may not read it can't bring back; found out only when it is needed.
		if _, err := s.psql(lost, "postgres", "REVOKE EXECUTE ON FUNCTION pg_read_binary_file(text, bigint, bigint, boolean) FROM replicator"); err != nil {
			t.Fatal(err)
		}
		s.caughtUp(lost, others()...)
		ghost, at := s.ghost(lost)
		s.ack(at)
		primary = s.waitPrimary(s.names(lost)...)
		skip := len(s.history(lost))
		s.comesBack(lost, primary)
		e := s.decided(lost, skip, "cloned", func(e entry) bool { return e.Command == "follow" && e.Outcome == "done" })
		if !e.did(cloned) {
			t.Errorf("%s came back by %q, want a clone", lost, e.Steps)
		}
		old := s.oldData(lost)
		if len(old) != 1 {
			t.Errorf("old data: got %v, want one directory", old)
		} else if v := readHostFile(t, filepath.Join(old[0], "PG_VERSION")); strings.TrimSpace(v) != fmt.Sprint(s.pg.Version) {
			t.Errorf("old data: PG_VERSION %q, want that of the old server", v)
		}
		s.caughtUp(primary, lost)
		s.gone(ghost, s.names()...)
		s.read(lost)
	})
	s.step("planned switchover", func(t *testing.T) {
		to := "n1"
		if primary == "n1" {
			to = "n2"
		}
		from := primary
		s.m.Mark("switchover")
		at := time.Now()
		s.switchover(&primary, to)
		s.ack(time.Now())
		s.t.Logf("outage by planned switchover from %s to %s, %s: %d ms; %s", from, primary, d, s.outage(at).Milliseconds(), lab.ReadLoad())
		s.streaming(primary, others()...)
		s.neverRebuilt(at, s.names()...)
	})
	s.step("FAULT", func(t *testing.T) {
		from := primary
		standby := s.names(from)[0]
		skip, server := len(s.history(from)), s.serverOf(from)
		s.unread(from)
		at := s.m.Mark("FAULT of " + from)
		if err := s.host(from).CutLinks(lab.LAN); err != nil {
			t.Fatal(err)
		}
		e := s.decided(from, skip, "FAULT", hook("FAULT"))
		if e.Outcome != "done" || !e.did("stop "+from) || !e.did("without upstream") {
			t.Errorf("FAULT on a primary: %s", e)
		}
		s.ack(at)
		primary = s.waitPrimary(s.names(from)...)
		s.t.Logf("outage by FAULT, %s: %d ms; %s", d, s.outage(at).Milliseconds(), lab.ReadLoad())
		if up := s.streamsFrom(from); up != "" {
			t.Errorf("%s in FAULT streams from %q, want nowhere", from, up)
		}
		if s.serverOf(from) == server || s.role(from) != "standby" {
			t.Errorf("%s in FAULT is %s, want it restarted as a standby", from, s.role(from))
		}
		// On a standby FAULT does nothing.
		if standby != primary {
			skip, server = len(s.history(standby)), s.serverOf(standby)
			s.unread(standby)
			if err := s.host(standby).CutLinks(lab.LAN); err != nil {
				t.Fatal(err)
			}
			if e := s.decided(standby, skip, "FAULT", hook("FAULT")); e.Outcome != "nothing" || s.serverOf(standby) != server {
				t.Errorf("FAULT on a standby: %s", e)
			}
			if err := s.host(standby).HealLinks(lab.LAN); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.host(from).HealLinks(lab.LAN); err != nil {
			t.Fatal(err)
		}
		s.streaming(primary, others()...)
		for _, name := range others() {
			if s.readers[name] == nil {
				s.read(name)
			}
		}
	})
	s.step("STOP", func(t *testing.T) {
		from := primary
		var e entry
		var at time.Time
		var took time.Duration
		for try := 1; ; try++ { // the last hooks have a second in all, which a slow disk may need
			s.sql(from, "CHECKPOINT")
			skip := len(s.history(from))
			at = s.m.Mark("STOP of " + from)
			took = s.stop(from)
			found := func() bool {
				l := s.history(from)
				l = l[min(skip, len(l)):]
				i := slices.IndexFunc(l, hook("STOP"))
				if i >= 0 {
					e = l[i]
				}
				return i >= 0
			}
			for end := time.Now().Add(5 * time.Second); !found() && time.Now().Before(end); {
				sleep(glance)
			}
			if e.Outcome == "done" || try == 3 {
				break
			}
			t.Logf("no time was left for STOP: %s", e)
			e = entry{}
			s.ack(at)
			primary = s.waitPrimary(s.names(from)...)
			s.start(from)
			s.streaming(primary, others()...)
			s.makePrimary(&primary, from)
		}
		if e.Outcome != "done" || !e.did("stop "+from) || !e.did("without upstream") {
			t.Errorf("STOP on a primary: %s", e)
		}
		s.ack(at)
		primary = s.waitPrimary(s.names(from)...)
		s.t.Logf("%s stopped in %d ms; outage by STOP: %d ms; %s", d, took.Milliseconds(), s.outage(at).Milliseconds(), lab.ReadLoad())
		if up := s.streamsFrom(from); up != "" || s.role(from) != "standby" {
			t.Errorf("%s after STOP is %s and streams from %q, want a standby without upstream", from, s.role(from), up)
		}
		s.start(from)
		s.streaming(primary, others()...)
		// On a standby STOP does nothing.
		standby := others()[0]
		skip, server := len(s.history(standby)), s.serverOf(standby)
		s.stop(standby)
		if e := s.decided(standby, skip, "STOP", hook("STOP")); e.Outcome != "nothing" || s.serverOf(standby) != server {
			t.Errorf("STOP on a standby: %s", e)
		}
		s.start(standby)
		s.streaming(primary, others()...)
	})
	s.step("DELETED", func(t *testing.T) {
		standby := others()[0]
		server := s.serverOf(standby)
		told := replace(t, s.conf, "    notify ", "    notify_deleted\n    notify ")
		s.reload(standby, told)
		skip := len(s.history(standby))
		s.reload(standby, replace(t, replace(t, told, "vrrp_instance "+pgInstance, "vrrp_instance VI_OTHER"), "virtual_router_id 51", "virtual_router_id 99"))
		if e := s.decided(standby, skip, "DELETED", hook("DELETED")); e.Outcome != "nothing" || len(e.Steps) > 0 || e.Name != pgInstance {
			t.Errorf("DELETED: %s", e)
		}
		s.reload(standby, s.conf)
		s.waitState(standby, control.StateBackup)
		if s.serverOf(standby) != server {
			t.Errorf("DELETED restarted the server of %s", standby)
		}
		s.streaming(primary, others()...)
	})
	s.step("nothing is lost", func(t *testing.T) {
		s.lossless()
		s.unread(s.names()...)
		s.noStandIns()
		for _, name := range s.names() {
			s.ended(name, "pgnotify")
		}
	})
	s.step("everything stops, in any order", func(*testing.T) { s.stopAll(primary) })
}

// switchover moves the primary by hand: by pgnotify under vrrpd, by priorities under keepalived.
func (s *site) switchover(primary *string, to string) {
	s.t.Helper()
	if s.daemon == vrrpd {
		s.says(*primary, 0, to+" is the primary at the VIP", "switchover", "--to", to)
		*primary = s.waitPrimary(to)
		return
	}
	// Lowering a priority moves nothing while the others have nopreempt.
	preempt := strings.ReplaceAll(s.conf, "    nopreempt", "    # nopreempt")
	for _, name := range s.names(*primary) {
		s.reload(name, preempt)
	}
	lowered := replace(s.t, preempt, "@"+*primary+" priority 1", "@"+*primary+" priority 5 #")
	from := *primary
	s.reload(from, lowered)
	*primary = s.waitPrimary(s.names(from)...)
	// And back to the file as it is; a standby of lower priority gains nothing by it.
	for _, name := range append(s.names(from), from) {
		s.reload(name, s.conf)
	}
}

// makePrimary moves the primary to a node, wherever it is.
func (s *site) makePrimary(primary *string, to string) {
	s.t.Helper()
	if *primary == to {
		return
	}
	rest := s.names(to)
	if s.daemon == vrrpd {
		for _, name := range append(without(rest, *primary), *primary) {
			s.release(name, time.Minute)
		}
	} else {
		for _, name := range append(without(rest, *primary), *primary) {
			s.stop(name)
		}
	}
	*primary = s.waitPrimary(to)
	for _, name := range rest {
		if s.daemon == vrrpd {
			s.release(name, 0)
		} else {
			s.start(name)
		}
	}
	s.calm(to)
}

// calm waits until every daemon is in the state that goes with its server's role, and every standby streams.
func (s *site) calm(primary string) {
	s.t.Helper()
	s.waitState(primary, control.StateMaster)
	for _, name := range s.names(primary) {
		s.waitState(name, control.StateBackup)
	}
	s.streaming(primary, s.names(primary)...)
}

// neverRebuilt checks that the servers of these hosts were neither rewound nor cloned since a time: they had nothing that the
// new primary has not.
func (s *site) neverRebuilt(since time.Time, hosts ...string) {
	s.t.Helper()
	for _, host := range hosts {
		for _, e := range s.history(host) {
			if e.At.After(since) && e.rebuilt() {
				s.t.Errorf("%s had to be rebuilt: %s", host, e)
			}
		}
	}
}

// stopAll ends daemons and servers in different orders on each node; each end is bounded, and nothing is started again.
func (s *site) stopAll(primary string) {
	s.t.Helper()
	standbys := s.names(primary)
	server := func(host string) {
		s.t.Helper()
		began := time.Now()
		if err := s.pg.Stop(within(s.t, patience), host, "fast"); err != nil {
			s.t.Fatal(err)
		}
		if took := time.Since(began); took > serverStop {
			s.t.Errorf("the server of %s stopped in %s, want %s at most", host, took, serverStop)
		}
	}
	s.stop(standbys[0])
	server(standbys[0])
	server(standbys[1])
	s.stop(standbys[1])
	server(primary)
	s.stop(primary)
	for _, name := range s.names() {
		s.ended(name, "postgres", "vrrpd", "keepalived", "pgnotify")
		if holds(s.host(name), s.vip) {
			s.t.Errorf("%s still has %s", name, s.vip)
		}
	}
}

// noStandIns checks that a copy under way never counted as the standby that it will be: a commit that only it has would be lost
// with the primary.
func (s *site) noStandIns() {
	s.t.Helper()
	for _, name := range s.names() {
		for line := range strings.Lines(s.saidBy(name)) {
			if strings.Contains(line, "START_REPLICATION SLOT \"pg_basebackup") && !strings.Contains(line, "pgnotify") {
				s.t.Errorf("%s took pg_basebackup for a synchronous standby: %s", name, line)
			}
		}
	}
}

func without(names []string, one string) []string {
	return slices.DeleteFunc(slices.Clone(names), func(n string) bool { return n == one })
}
