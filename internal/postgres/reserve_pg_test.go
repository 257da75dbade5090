//go:build pg

package postgres

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// grant does to a standby what a grant of timeline want does.
func (d *driven) grant(ledger []Timeline, want Timeline) Promoted {
	d.t.Helper()
	d.fence()
	if _, err := d.Reserve(ledger, want); err != nil {
		d.t.Fatal(err)
	}
	began := time.Now()
	p, err := d.PromoteTo(d.ctx(), want)
	if err != nil {
		d.t.Fatal(err)
	}
	d.t.Logf("%s promoted to %d in %v: %+v", d.name, want, time.Since(began), p)
	return p
}

// must1 gives the value of a call that must not fail.
func must1[T any](v T, err error) func(t *testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// TestReservedTimelines goes through grants on every node, with numbers that were given and not used between.
func TestReservedTimelines(t *testing.T) {
	t.Parallel()
	a, b, c := trio(t, "")
	a.commit("first").acknowledged(t)
	if _, err := a.Barrier(a.ctx(), []string{"b", "c"}); err != nil {
		t.Fatal(err)
	}
	a.crash()
	rb := b.fence()
	// Number 2 was given to somebody who did not come to use it, 3 is ours.
	if _, err := b.PromoteTo(b.ctx(), 3); !errors.Is(err, ErrWrongTimeline) {
		t.Fatalf("without the reservation: got %v, want ErrWrongTimeline", err)
	}
	if f := b.facts(); !f.InRecovery {
		t.Fatal("it was promoted all the same")
	}
	if made, err := b.Reserve([]Timeline{2, 3}, 3); err != nil || !slices.Equal(made, []Timeline{2}) {
		t.Fatalf("reserve: got %v, %v", made, err)
	}
	if made, err := b.Reserve([]Timeline{2, 3}, 3); err != nil || len(made) != 0 {
		t.Errorf("reserve again: got %v, %v", made, err)
	}
	p, err := b.PromoteTo(b.ctx(), 3)
	if err != nil || p.Timeline != 3 || p.Parent != 1 || p.SwitchLSN < rb.LSN || p.EndLSN <= p.SwitchLSN {
		t.Fatalf("promote: got %+v, %v, reported %+v", p, err, rb)
	}
	if again, err := b.PromoteTo(b.ctx(), 3); err != nil || again.SwitchLSN != p.SwitchLSN {
		t.Errorf("promote again: got %+v, %v", again, err)
	}
	if _, err := b.PromoteTo(b.ctx(), 4); !errors.Is(err, ErrWrongTimeline) {
		t.Errorf("promote to another: got %v, want ErrWrongTimeline", err)
	}
	if err := b.ProveHeld(b.ctx()); err != nil {
		t.Error(err)
	}
	c.follow(b)
	if err := b.AwaitFlushed(b.ctx(), []string{"c"}, p.EndLSN); err != nil {
		t.Fatal(err)
	}
	if kind, err := c.historyKind(2); kind != historyReserved || err != nil {
		t.Errorf("the follower's file of 2: got %d, %v, want the reserved one", kind, err)
	}
	if removed, err := c.Unreserve(); err != nil || len(removed) != 0 {
		t.Errorf("below the real one: removed %v, %v", removed, err)
	}
	b.setSync("c")
	b.commit("second").acknowledged(t)

	// a comes back: rewound, with the reserved file of its source.
	if err := b.Checkpoint(b.ctx()); err != nil {
		t.Fatal(err)
	}
	if err := a.Rewind(a.ctx(), b.upstream(), nil); err != nil {
		t.Fatal(err)
	}
	if err := a.WriteFollow(b.target("a")); err != nil {
		t.Fatal(err)
	}
	if err := a.StartStandby(a.ctx()); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Barrier(b.ctx(), []string{"a", "c"}); err != nil {
		t.Fatal(err)
	}
	// The next two, and each node stands a restart with the files that it has. a must not hear of how b ends.
	a.fence()
	p = c.grant([]Timeline{2, 3, 4, 5}, 5)
	if p.Parent != 3 {
		t.Errorf("parent: got %d, want 3", p.Parent)
	}
	b.stop()
	a.follow(c)
	for _, n := range []*driven{a, c} {
		n.stop()
	}
	c.start()
	if err := a.StartStandby(a.ctx()); err != nil {
		t.Fatal(err)
	}
	// b wrote a shutdown checkpoint that nobody has.
	if h, err := c.History(5); err != nil || !Diverged(Position{3, must1(b.Control())(t).EndLSN()}, h, 5) {
		t.Errorf("b has not diverged from %+v, %v", h, err)
	}
	if err := b.Rewind(b.ctx(), c.upstream(), nil); err != nil {
		t.Fatal(err)
	}
	if err := b.WriteFollow(c.target("b")); err != nil {
		t.Fatal(err)
	}
	if err := b.StartStandby(b.ctx()); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Barrier(c.ctx(), []string{"a", "b"}); err != nil {
		t.Fatal(err)
	}
	for _, n := range []*driven{a, b, c} {
		if got := n.query("SELECT string_agg(v, ',' ORDER BY v) FROM t"); got != "first,second" {
			t.Errorf("%s: rows: got %q", n.name, got)
		}
	}
}

// TestLeftOverReservation: with it a standby does not come up, so that the start removes it.
func TestLeftOverReservation(t *testing.T) {
	t.Parallel()
	a := drive(newNode(t, "").start(), "a")
	b := a.standbyNamed("b", "")
	b.fence()
	if made, err := b.Reserve(nil, 4); err != nil || !slices.Equal(made, []Timeline{2, 3}) {
		t.Fatalf("reserve: got %v, %v", made, err)
	}
	foreign := filepath.Join(b.DataDir(), "pg_wal", "00000005.history")
	if err := os.WriteFile(foreign, []byte("# somebody else's\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	old := filepath.Join(b.DataDir(), "pg_wal", ".00000003.history.123.tmp")
	if err := os.WriteFile(old, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(old, time.Now(), time.Now().Add(-time.Hour)); err != nil {
		t.Fatal(err)
	}
	b.stop()
	// The server by itself does not take sessions.
	ctx, cancel := timeoutContext(t, 3*time.Second)
	defer cancel()
	if err := b.StartAsIs(ctx); err == nil {
		t.Error("start with reserved timelines: want that it does not come up")
	}
	b.crash()
	if err := b.StartStandby(b.ctx()); err != nil {
		t.Fatal(err)
	}
	b.follow(a)
	for path, want := range map[string]bool{b.historyPath(2): false, b.historyPath(3): false, old: false, foreign: true} {
		if _, err := os.Stat(path); (err == nil) != want {
			t.Errorf("%s: got %v, want there %v", filepath.Base(path), err, want)
		}
	}
	// One that is really taken can't be wanted; a reservation of ours for the wanted number goes.
	if _, err := b.Reserve(nil, 5); !errors.Is(err, ErrWrongTimeline) {
		t.Errorf("taken: got %v, want ErrWrongTimeline", err)
	}
	if _, err := b.Reserve([]Timeline{2}, 0); err != nil {
		t.Error(err)
	}
	b.fence()
	if p := b.grant(nil, 2); p.Timeline != 2 {
		t.Errorf("got %+v", p)
	}
	if _, err := os.Stat(b.historyPath(3)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("3: got %v", err)
	}
}

// TestPromoteWhilePaused: promotion ends a pause and replays all that was received.
// TestManyReservations promotes after more elections came to nothing than anybody should see.
func TestManyReservations(t *testing.T) {
	t.Parallel()
	b := drive(newNode(t, "").start(), "a").standbyNamed("b", "")
	if _, err := b.Reserve(nil, maxReserve+3); err == nil || !strings.Contains(err.Error(), "see the runbook") {
		t.Errorf("more than there may be: got %v", err)
	}
	const want = 12000
	b.fence()
	began := time.Now()
	made, err := b.Reserve(nil, want)
	if err != nil || len(made) != want-2 {
		t.Fatalf("reserve: got %d, %v, want %d", len(made), err, want-2)
	}
	t.Logf("reserved %d in %v", len(made), time.Since(began))
	named, reserved, err := b.histories()
	if err != nil || len(named) != 0 || !slices.Equal(reserved, made) {
		t.Errorf("got %d files that name a parent and %d reserved ones, %v", len(named), len(reserved), err)
	}
	if temps := must1(filepath.Glob(filepath.Join(b.DataDir(), "pg_wal", ".*.tmp")))(t); len(temps) != 0 {
		t.Errorf("got %d files left over", len(temps))
	}
	if removed, err := b.Unreserve(); err != nil || !slices.Equal(removed, made) {
		t.Errorf("given up: removed %d, %v", len(removed), err)
	}
	// As the runbook has it done by hand: what is there need not be ours.
	for n := Timeline(2); n < want/2; n++ {
		if err := b.createFile(b.historyPath(n), []byte("# written by hand\n")); err != nil {
			t.Fatal(err)
		}
	}
	if p := b.grant(nil, want); p.Timeline != want || p.Parent != 1 {
		t.Errorf("got %+v", p)
	}
}

func TestPromoteWhilePaused(t *testing.T) {
	t.Parallel()
	a := drive(newNode(t, "").start(), "a")
	a.sql("CREATE TABLE t (v text)")
	b := a.standbyNamed("b", "")
	b.sql("SELECT pg_wal_replay_pause()")
	a.commit("seen").acknowledged(t)
	end, err := a.Barrier(a.ctx(), []string{"b"})
	if err != nil {
		t.Fatal(err)
	}
	a.crash()
	began := time.Now()
	p, err := b.PromoteTo(b.ctx(), 2)
	if err != nil || p.SwitchLSN < end {
		t.Fatalf("promote: got %+v, %v, want at least %s", p, err, end)
	}
	t.Logf("promoted out of a pause in %v", time.Since(began))
	if got := b.query("SELECT string_agg(v, ',') FROM t"); got != "seen" {
		t.Errorf("rows: got %q", got)
	}
}

// TestKilledWhilePromoting: it comes back as a standby on either timeline, and the grant can be done or given up.
func TestKilledWhilePromoting(t *testing.T) {
	t.Parallel()
	a := drive(newNode(t, "").start(), "a")
	a.sql("CREATE TABLE t (v text)")
	names := map[Timeline]int{}
	for i, delay := range []time.Duration{0, 2 * time.Millisecond, 5 * time.Millisecond, 8 * time.Millisecond, 12 * time.Millisecond, 20 * time.Millisecond} {
		b := a.standbyNamed("b", "")
		b.fence()
		if _, err := b.Reserve([]Timeline{2, 3}, 4); err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 1)
		go func() {
			_, err := b.PromoteTo(b.ctx(), 4)
			done <- err
		}()
		<-time.After(delay)
		b.crash()
		err := <-done
		// Given up: it starts as a standby.
		if err := b.StartStandby(b.ctx()); err != nil {
			t.Fatalf("round %d: start: %v", i, err)
		}
		r := b.fence()
		names[r.Timeline]++
		t.Logf("killed after %v: %v; then %+v", delay, err, r.Position)
		switch r.Timeline {
		case 1:
			// Whatever the promotion had made by then is out of the way; the number is free here, though the ledger may call it spent.
			if kind, err := b.historyKind(4); kind != historyNone || err != nil || r.Beyond != 0 {
				t.Errorf("history of 4: %d, %v; beyond: %d", kind, err, r.Beyond)
			}
			b.grant([]Timeline{2, 3, 4}, 5)
		case 4:
			b.grant([]Timeline{2, 3, 4}, 5)
		default:
			t.Errorf("timeline: got %d, want 1 or 4", r.Timeline)
		}
		if err := b.Stop(b.ctx(), Immediate); err != nil {
			t.Fatal(err)
		}
	}
	t.Log("ended on", names)
}

// TestHoldIsCarried: neither a clone nor a rewound server has what its source has for itself.
func TestHoldIsCarried(t *testing.T) {
	t.Parallel()
	a, b, c := trio(t, "")
	_ = c
	a.crash()
	b.grant(nil, 2)
	if _, err := b.Reserve([]Timeline{2, 3}, 0); err != nil {
		t.Fatal(err)
	}
	b.setSync()
	b.sql("INSERT INTO t SELECT repeat('b', 100) FROM generate_series(1, 1000)")
	if err := b.Checkpoint(b.ctx()); err != nil {
		t.Fatal(err)
	}
	// What belongs to b alone.
	if err := os.WriteFile(b.passPath(), []byte("*:*:*:*:b\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, uid, gid := runAs(t)
	if err := os.Chown(b.passPath(), uid, gid); err != nil {
		t.Fatal(err)
	}
	b.sql("ALTER SYSTEM SET primary_conninfo = 'host=bs_own'")
	b.sql("ALTER SYSTEM SET work_mem = '5MB'")
	b.sql("ALTER SYSTEM SET recovery_min_apply_delay = 0")
	name, _, _ := runAs(t)
	for _, hold := range []bool{false, true} {
		dir := filepath.Join(place(t), "d")
		if err := Clone(a.ctx(), CloneOptions{BinDir: a.BinDir(), Conninfo: b.upstream(), Dir: dir, User: name, Hold: hold}); err != nil {
			t.Fatal(err)
		}
		m, err := readFlat(filepath.Join(dir, includeName))
		if err != nil || m["primary_conninfo"] != "" || hold != (m["synchronous_standby_names"] == holdNames) || hold != (len(m) > 0) {
			t.Errorf("clone, hold %v: got %v, %v", hold, m, err)
		}
		auto, err := readFlat(filepath.Join(dir, autoName))
		if err != nil || len(auto) != 1 || auto["work_mem"] != "5MB" {
			t.Errorf("clone: %s: got %v, %v", autoName, auto, err)
		}
		if _, err := os.Stat(filepath.Join(dir, passName)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("clone: password file: got %v", err)
		}
	}
	// A rewound one, under quorum.
	a.cfg.Hold = true
	if err := a.WriteFollow(Target{Host: "as_own", Password: "as own"}); err != nil {
		t.Fatal(err)
	}
	if err := a.Rewind(a.ctx(), b.upstream(), nil); err != nil {
		t.Fatal(err)
	}
	if m, err := a.Managed(); err != nil || m["primary_conninfo"] != "" || m["synchronous_standby_names"] != holdNames {
		t.Errorf("rewound: got %v, %v", m, err)
	}
	if _, err := os.Stat(a.passPath()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("rewound: password file: got %v", err)
	}
	if _, err := os.Stat(a.keptConfig()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("rewound: kept configuration: got %v", err)
	}
	if kind, err := a.historyKind(3); err != nil || kind != historyReserved {
		t.Logf("the source's reserved file is not brought: %d, %v", kind, err)
	}
	// It takes no sessions before it has what its source had at the end of the rewind.
	if err := a.WriteFollow(b.target("a")); err != nil {
		t.Fatal(err)
	}
	if err := a.StartStandby(a.ctx()); err != nil {
		t.Fatal(err)
	}
	if v := a.view(); v.SyncNames != holdNames {
		t.Errorf("rewound and started: got %+v", v)
	}
}

// TestPowerLossWhileRewinding: the configuration of the source, which is then in the data directory, does not become our own.
func TestPowerLossWhileRewinding(t *testing.T) {
	t.Parallel()
	a := newNode(t, "")
	b := newNode(t, "work_mem = 7MB").start()
	if err := b.Checkpoint(b.ctx()); err != nil {
		t.Fatal(err)
	}
	saved, err := a.saveConfig()
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(a.keepConfig(saved), a.writeFile(a.rewindMarker(), nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	own := mustRead(t, a.ConfigFile())
	if err := os.WriteFile(a.ConfigFile(), mustRead(t, b.ConfigFile()), 0o600); err != nil {
		t.Fatal(err)
	}
	name, _, _ := runAs(t)
	if err := Clone(a.ctx(), CloneOptions{BinDir: a.BinDir(), Conninfo: b.upstream(), Dir: a.NewDir(), User: name}); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Swap(a.NewDir()); err != nil {
		t.Fatal(err)
	}
	if got := mustRead(t, a.ConfigFile()); string(got) != string(own) {
		t.Errorf("configuration: got %s\nwant our own", got)
	}
	if _, err := os.Stat(a.keptConfig()); a.RewindIncomplete() || !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("left behind: incomplete %v, %v", a.RewindIncomplete(), err)
	}
	if err := a.StartStandby(a.ctx()); err != nil && !strings.Contains(err.Error(), "not accept") {
		t.Fatal(err)
	}
}

// TestGlanceWhilePromoting: a server answers every look while its recovery ends. One that did not would lose the grant it is promoted for.
func TestGlanceWhilePromoting(t *testing.T) {
	a := drive(newNode(t, "").start(), "a")
	a.sql("CREATE TABLE t (v text)")
	b := a.standbyNamed("b", "")
	a.crash()
	b.fence()
	ctx, cancel := context.WithCancel(b.ctx())
	defer cancel()
	var lookers sync.WaitGroup
	// Several take turns, so that always one is between two of its questions.
	for range 4 {
		lookers.Go(func() {
			for ctx.Err() == nil {
				g, err := b.Glance(b.ctx())
				if err != nil || !g.Answered {
					t.Errorf("look: answered %t, %v", g.Answered, err)
					return
				}
				if !g.InRecovery {
					return
				}
			}
		})
	}
	if _, err := b.PromoteTo(b.ctx(), 2); err != nil {
		cancel()
		t.Error(err)
	}
	lookers.Wait()
}
