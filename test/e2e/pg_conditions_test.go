//go:build e2e

package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"pgvrrp/internal/control"
	"pgvrrp/test/lab"
)

// TestPGConditions is about what a MASTER hook looks at before it promotes, the third and the fourth of the four conditions:
// no other primary, and no standby with more WAL; TestPGFlap is about the first two. A hook that refuses says why, and its
// node gives way to another.
func TestPGConditions(t *testing.T) {
	t.Parallel()
	var toml string
	s := newSite(t, siteOptions{
		daemon: vrrpd,
		conf: func(conf string) string {
			return replace(t, conf, "    vip_after_notify 30", "    vip_after_notify 30\n    notify_retry 3")
		},
		toml: func(sample string) string {
			toml = sample + "\n[timeouts]\nhandover = \"1500ms\"\n"
			return toml
		},
	})
	primary := "n1"
	s.step("begin", func(t *testing.T) {
		s.begin("n1")
		s.measure()
		s.read("n2", "n3")
	})
	s.step("another primary at the VIP alone", func(t *testing.T) {
		// n2 has one way to each peer, and the one to n1 is cut: only the VIP tells that there is a primary.
		one := strings.NewReplacer(`, "10.77.0.1"]`, `]`, `, "10.77.0.2"]`, `]`, `, "10.77.0.3"]`, `]`).Replace(toml)
		s.install(s.host("n2"), one)
		if err := s.l.Partition([]string{"n1"}, []string{"n2"}, lab.Interconnect); err != nil {
			t.Fatal(err)
		}
		s.says("n2", 1, "VIP at 10.77.0.100 answers as a primary", "promote")
		if err := s.l.Heal(); err != nil {
			t.Fatal(err)
		}
		s.install(s.host("n2"), toml)
		// And the other way round.
		s.deafen("n2")
		s.says("n2", 1, "n1 at 10.7", "promote")
		s.letGo("n2")
		s.streaming("n1", "n2")
	})
	s.step("another primary: refuse, FAULT, the next one", func(t *testing.T) {
		// The daemon of n1 is gone, its server lives, and even holds the address.
		before, skip := s.allPromotes(), len(s.history("n2"))
		at := s.m.Mark("vrrpd of n1 is killed")
		s.release("n3", time.Minute) // its timer is only 35 ms behind n2's
		kill(t, s.host("n1"), "vrrpd")
		e := s.decided("n2", skip, "MASTER refused", refusedHook("MASTER"))
		s.release("n3", 0)
		if !strings.Contains(e.Reason, "answers as a primary") {
			t.Errorf("n2 refused because of %q, want another primary", e.Reason)
		}
		i := waitInstance(t, s.host("n2"), pgInstance, "FAULT", func(i control.Instance) bool { return i.State == control.StateFault })
		// The hook of FAULT may be over already, and be the last one.
		if i.Hooks.Failed == 0 || !strings.Contains(i.Reason, "exit status 1") {
			t.Errorf("n2's hooks: got %+v and %q, want one that failed with exit code 1", i.Hooks, i.Reason)
		}
		if !strings.Contains(i.Reason, "answers as a primary") {
			t.Errorf("n2's vrrpd is in FAULT because of %q, want what the hook said", i.Reason)
		}
		s.waitState("n3", control.StateMaster)
		if got := s.promotesSince(before); len(got) > 0 {
			t.Errorf("promote requests while n1 is primary: %v", got)
		}
		s.ack(time.Now())
		if o := s.outage(at); o > 2*time.Second {
			t.Errorf("the client of n1 had an outage of %s", o)
		}
		at = s.powerLoss("n1")
		s.ack(at)
		primary = s.waitPrimary("n2", "n3")
		t.Logf("%s took over %d ms after the power loss of n1; %s", primary, s.outage(at).Milliseconds(), lab.ReadLoad())
		s.comesBack("n1", primary)
		s.calm(primary)
	})
	s.step("a peer that lets nobody in", func(t *testing.T) {
		s.makePrimary(&primary, "n1")
		s.admit("n3", "reject")
		s.says("n2", 1, "can't tell whether n3", "promote")
		skip := len(s.history("n2"))
		s.release("n3", time.Minute)
		at := s.powerLoss("n1")
		e := s.decided("n2", skip, "MASTER refused", refusedHook("MASTER"))
		s.release("n3", 0)
		if !strings.Contains(e.Reason, "can't tell whether n3") {
			t.Errorf("n2 refused because of %q, want that it can't tell", e.Reason)
		}
		primary = s.waitPrimary("n3")
		s.admit("n3", "") // n2 is the only standby left
		s.ack(at)
		s.comesBack("n1", primary)
		s.calm(primary)
	})
	s.step("a peer that wants another password", func(t *testing.T) {
		s.sql(primary, "SET password_encryption = 'scram-sha-256'; ALTER ROLE replicator PASSWORD 'right'")
		s.admit(primary, "scram-sha-256")
		s.says("n2", 1, "can't tell whether", "promote")
		pass := func(word string) {
			writeFile(t, s.host("n2"), "/var/lib/postgresql/.pgpass", "*:*:*:*:"+word+"\n", 0o600)
			run(t, s.host("n2"), "chown", "postgres:", "/var/lib/postgresql/.pgpass")
		}
		pass("wrong")
		s.says("n2", 1, "can't tell whether", "promote")
		s.says("n2", 1, "password authentication failed", "promote")
		pass("right")
		s.says("n2", 1, "answers as a primary", "promote")
		s.admit(primary, "")
	})
	s.step("a standby has more WAL and gives it", func(t *testing.T) {
		s.makePrimary(&primary, "n1")
		s.holdBack("n2")
		s.release("n3", time.Minute)
		skip, at := len(s.history("n2")), s.powerLoss("n1")
		s.ack(at)
		primary = s.waitPrimary("n2", "n3")
		e := s.decided("n2", skip, "MASTER", hook("MASTER"))
		s.release("n3", 0)
		if primary != "n2" || !e.did("receive from n3") {
			t.Errorf("%s is the primary, and n2 did %s; want n2 after it received from n3", primary, e)
		}
		s.letGo("n2")
		s.comesBack("n1", primary)
		s.calm(primary)
	})
	s.step("a standby has more WAL and can't give it", func(t *testing.T) {
		s.makePrimary(&primary, "n1")
		s.holdBack("n2")
		s.forgetWAL("n1", "n3", "n2")
		s.release("n3", time.Minute)
		skip, at := len(s.history("n2")), s.powerLoss("n1")
		e := s.decided("n2", skip, "MASTER refused", refusedHook("MASTER"))
		s.release("n3", 0)
		if !strings.Contains(e.Reason, "holds more WAL than n2") {
			t.Errorf("n2 refused because of %q, want that n3 has more", e.Reason)
		}
		primary = s.waitPrimary("n3")
		t.Logf("n3 took over %d ms after the power loss of n1; %s", time.Since(at).Milliseconds(), lab.ReadLoad())
		s.comesBack("n1", primary)
		s.ack(at) // by n1, the only one that can stream
		s.letGo("n2")
		s.pgnotify("n2", 0, "rejoin", "--reclone")
		s.calm(primary)
	})
	s.step("nothing is lost", func(t *testing.T) {
		s.lossless()
		s.unread("n2", "n3")
	})
}

// admit has a host's server ask n2 for something before it lets replicator in: reject or scram-sha-256; "" is as it was.
func (s *site) admit(host, method string) {
	s.t.Helper()
	name := s.pg.ConfDir + "/pg_hba.conf"
	_, old, found := strings.Cut(readFile(s.host(host), name), "# as it was\n")
	if !found {
		old = readFile(s.host(host), name)
	}
	lines := "# as it was\n"
	if method != "" {
		lines = fmt.Sprintf("host replication replicator 10.77.0.2/32 %s\nhost replication replicator 10.78.0.2/32 %s\n", method, method) + lines
	}
	writeFile(s.t, s.host(host), name, lines+old, 0o640)
	run(s.t, s.host(host), "chown", "postgres:", name)
	s.sql(host, "SELECT pg_reload_conf()")
	want := "0"
	if method != "" {
		want = "2"
	}
	eventually(s.t, patience, "pg_hba.conf of "+host+" is in force", func() (bool, string) {
		// The postmaster reads it; whoever is in has a copy.
		got, err := s.query(host, "SELECT count(*) FROM pg_hba_file_rules WHERE address IN ('10.77.0.2', '10.78.0.2')")
		return got == want, fmt.Sprint(got, err)
	})
	s.t.Logf("%s asks n2 for %q", host, method)
}

// holdBack keeps the WAL of the VIP's primary from a standby; it hears and sees everything else.
func (s *site) holdBack(standby string) {
	s.t.Helper()
	s.deafen(standby)
	lsn := s.sql(standby, "SELECT pg_last_wal_receive_lsn()")
	// What the primary had sent by then still arrives.
	eventually(s.t, patience, standby+" receives no more", func() (bool, string) {
		got, err := s.query(standby, "SELECT count(*) FROM pg_stat_wal_receiver WHERE status = 'streaming'")
		return got == "0", fmt.Sprint(got, err)
	})
	held := s.sql(standby, "SELECT pg_last_wal_receive_lsn()")
	s.ack(s.m.Mark(standby + " is held back"))
	s.t.Logf("%s is held back: %s, then %s", standby, lsn, held)
}

// deafen cuts a host off from the VIP's server.
func (s *site) deafen(host string) {
	s.t.Helper()
	run(s.t, s.host(host), "nft", "add table ip held; add chain ip held out { type filter hook output priority 0 ; }; add rule ip held out ip daddr "+s.vip.String()+" tcp dport 5432 drop")
}

func (s *site) letGo(standby string) {
	s.t.Helper()
	run(s.t, s.host(standby), "nft", "delete", "table", "ip", "held")
}

// forgetWAL has a standby recycle the WAL that another one, held back, would need.
func (s *site) forgetWAL(primary, from, held string) {
	s.t.Helper()
	needs := s.sql(held, "SELECT to_hex((pg_last_wal_receive_lsn() - '0/0')::bigint >> 24)") // its segment of 16 MiB
	has := func() string {
		return s.sql(from, "SELECT count(*) FROM pg_ls_waldir() WHERE name ~ '^[0-9A-F]{24}$' AND right(name, 8) = lpad(upper('"+needs+"'), 8, '0')")
	}
	s.sql(from, "ALTER SYSTEM SET wal_keep_size = 0")
	s.sql(from, "SELECT pg_reload_conf()")
	for range 6 {
		s.sql(primary, "SELECT pg_switch_wal()")
		s.sql(primary, "CHECKPOINT")
		s.caughtUp(primary, from)
		s.sql(from, "CHECKPOINT")
		if has() == "0" {
			s.sql(from, "ALTER SYSTEM RESET wal_keep_size")
			s.sql(from, "SELECT pg_reload_conf()")
			return
		}
	}
	s.t.Fatalf("%s still has segment %s", from, needs)
}
