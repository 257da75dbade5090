//go:build pg

package postgres

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestSlotsOnEveryNode(t *testing.T) {
	t.Parallel()
	more := "max_slot_wal_keep_size = 48MB\nmin_wal_size = 32MB\nmax_wal_size = 32MB\n"
	a := drive(newNode(t, more+"wal_keep_size = 0\n").start(), "a")
	a.sql("CREATE TABLE t (v text)")
	all, changes, err := a.Slots(a.ctx(), []string{"b", "C-1"})
	if err != nil || len(changes.Created) != 2 || len(all) != 2 || changes.Unbounded {
		t.Fatalf("create: got %+v, %+v, %v", all, changes, err)
	}
	b := drive(a.standby(more), "b")
	to := a.target("b")
	to.Slot = SlotName("b")
	if err := b.Follow(b.ctx(), to); err != nil {
		t.Fatal(err)
	}
	// With one that is not there it connects again and again, and is never let in.
	to.Slot = SlotName("nobody")
	ctx, cancel := timeoutContext(t, 3*time.Second)
	defer cancel()
	if err := b.Follow(ctx, to); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("without the slot: got %v, want that it does not stream", err)
	}
	to.Slot = SlotName("b")
	if err := b.Follow(b.ctx(), to); err != nil {
		t.Fatal(err)
	}
	slot := func(d *driven, node string) Slot {
		t.Helper()
		all, changes, err := d.Slots(d.ctx(), []string{"a", "b", "C-1"})
		if err != nil {
			t.Fatal(err)
		}
		if len(changes.Recreated)+len(changes.Dropped) > 0 {
			t.Logf("%s: %+v", d.name, changes)
		}
		i := slices.IndexFunc(all, func(s Slot) bool { return s.Node == node })
		if i < 0 {
			t.Fatalf("no slot of %s in %+v", node, all)
		}
		return all[i]
	}
	if s := slot(a, "b"); !s.Active || s.RestartLSN == 0 || s.Status != "reserved" {
		t.Errorf("in use: got %+v", s)
	}
	// A standby keeps WAL for the third node, and lets go of what that one has.
	first := slot(b, "C-1")
	if first.Active || first.RestartLSN == 0 {
		t.Fatalf("on a standby: got %+v", first)
	}
	a.sql("INSERT INTO t SELECT repeat('x', 1000) FROM generate_series(1, 5000)")
	end, err := a.Barrier(a.ctx(), []string{"b"})
	if err != nil {
		t.Fatal(err)
	}
	b.await("the replay", func() (bool, string) { f := b.facts(); return f.ReplayLSN >= end, f.ReplayLSN.String() })
	if got := slot(b, "C-1"); got.RestartLSN != first.RestartLSN || got.Kept == 0 {
		t.Errorf("before the advance: got %+v, want as before %+v", got, first)
	}
	for range 2 {
		if err := b.AdvanceSlots(b.ctx(), map[string]LSN{"C-1": end, "a": end + 1<<30, "nobody": end}); err != nil {
			t.Fatal(err)
		}
	}
	if got := slot(b, "C-1"); got.RestartLSN != end {
		t.Errorf("after the advance: got %+v, want %s", got, end)
	}
	if err := b.AdvanceSlots(b.ctx(), map[string]LSN{"C-1": first.RestartLSN}); err != nil {
		t.Errorf("backward: %v", err)
	}
	// One in use is left alone.
	if err := a.AdvanceSlots(a.ctx(), map[string]LSN{"b": end + 1<<30}); err != nil {
		t.Error(err)
	}
	// An absent node loses its slot rather than that the disk fills; it is made anew.
	a.await("the loss of the slot", func() (bool, string) {
		a.sql("INSERT INTO t SELECT repeat('x', 1000) FROM generate_series(1, 20000)")
		a.sql("SELECT pg_switch_wal()")
		a.sql("CHECKPOINT")
		s := a.query("SELECT wal_status FROM pg_replication_slots WHERE slot_name = '" + SlotName("C-1") + "'")
		return s == "lost", s
	})
	if s := slot(a, "C-1"); s.Status == "lost" || s.RestartLSN == 0 || s.Kept > 48<<20 {
		t.Errorf("made anew: got %+v", s)
	}
	// One of nobody's goes, but for those that are not ours.
	a.sql("SELECT pg_create_physical_replication_slot('pgnotify_gone'), pg_create_physical_replication_slot('backup')")
	all, changes, err = a.Slots(a.ctx(), []string{"a", "b", "C-1"})
	if err != nil || !slices.Equal(changes.Dropped, []string{"pgnotify_gone"}) || len(all) != 3 {
		t.Errorf("gone: got %+v, %+v, %v", all, changes, err)
	}
	// b's own, which it streams by, is not dropped even if b is no peer.
	if all, changes, err = a.Slots(a.ctx(), []string{"C-1"}); err != nil || slices.Contains(changes.Dropped, SlotName("b")) {
		t.Errorf("in use by no peer: got %+v, %+v, %v", all, changes, err)
	}
	if got := a.query("SELECT count(*)::text FROM pg_replication_slots WHERE slot_name = 'backup'"); got != "1" {
		t.Errorf("foreign slots: got %s", got)
	}
	a.sql("ALTER SYSTEM SET max_slot_wal_keep_size = -1")
	if err := a.Reload(a.ctx()); err != nil {
		t.Fatal(err)
	}
	a.await("the setting", func() (bool, string) {
		_, changes, err := a.Slots(a.ctx(), []string{"b", "C-1"})
		return err == nil && changes.Unbounded, fmt.Sprint(changes, err)
	})
}

func TestDoctorOnAServer(t *testing.T) {
	t.Parallel()
	a := drive(newNode(t, "synchronous_commit = local\nrecovery_min_apply_delay = 1s\nmax_wal_senders = 3\nmax_replication_slots = 1\nlog_statement = all").start(), "a")
	a.sql(`CREATE ROLE "Off" LOGIN`)
	a.sql(`CREATE ROLE ok LOGIN`)
	a.sql(`ALTER ROLE "Off" SET synchronous_commit = off`)
	a.sql(`ALTER ROLE ok SET synchronous_commit = on`)
	a.sql(`ALTER DATABASE template1 SET synchronous_commit = remote_write`)
	a.sql(`ALTER ROLE ok IN DATABASE postgres SET synchronous_commit = local`)
	a.sql(`ALTER SYSTEM SET max_replication_slots = 10`)
	a.sql(`ALTER SYSTEM SET max_wal_senders = 4`) // not enough even so
	a.sql(`ALTER SYSTEM SET max_connections = 77`)
	if err := a.Reload(a.ctx()); err != nil {
		t.Fatal(err)
	}
	var all []Finding
	a.await("the pending restart", func() (bool, string) {
		all = a.Doctor(a.ctx(), 3)
		return slices.ContainsFunc(all, func(f Finding) bool { return strings.Contains(f.Subject, "max_connections") }), fmt.Sprint(all)
	})
	for _, want := range []struct {
		sev          Severity
		subject, fix string
	}{
		{Fault, "fsync", "fsync = on"},
		{Fault, "synchronous_commit", "synchronous_commit = on"},
		{Fault, "recovery_min_apply_delay", "= 0"},
		{Fault, "max_wal_senders", "= 10"},
		{Fault, "max_replication_slots", "= 10"},
		{Warning, `role "Off"`, `ALTER ROLE "Off" RESET synchronous_commit`},
		{Warning, `database "template1"`, `ALTER DATABASE "template1" RESET synchronous_commit`},
		{Warning, `role "ok" in database "postgres"`, `ALTER ROLE "ok" IN DATABASE "postgres" RESET synchronous_commit`},
		{Warning, "max_slot_wal_keep_size", "quarter"},
		{Warning, "wal_sender_timeout", "2s"},
		{Note, "log_statement", "ALTER ROLE"},
	} {
		if !slices.ContainsFunc(all, func(f Finding) bool {
			return f.Severity == want.sev && f.Subject == want.subject && strings.Contains(f.Fix, want.fix) && strings.HasSuffix(f.Fix, ".")
		}) {
			t.Errorf("missing: %s %s with a fix of %q in\n%v", want.sev, want.subject, want.fix, all)
		}
	}
	if slices.ContainsFunc(all, func(f Finding) bool {
		return f.Subject == `role "ok"` || f.Subject == "role of the agent" || f.Subject == "wal_log_hints"
	}) {
		t.Errorf("too many: %v", all)
	}
	if !slices.IsSortedFunc(all, func(x, y Finding) int {
		rank := []Severity{Fault, Warning, Note}
		return slices.Index(rank, x.Severity) - slices.Index(rank, y.Severity)
	}) {
		t.Errorf("not the worst first: %v", all)
	}
	for _, f := range all {
		t.Log(f)
		if f.Waits != (f.Subject == "max_replication_slots") {
			t.Errorf("waits for a restart alone: %t", f.Waits)
		}
	}
	a.stop()
	began := time.Now()
	if all = a.Doctor(a.ctx(), 3); !slices.ContainsFunc(all, func(f Finding) bool { return f.Subject == "server" && f.Severity == Fault }) {
		t.Errorf("stopped: got %v", all)
	}
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("took %v", took)
	}
}
