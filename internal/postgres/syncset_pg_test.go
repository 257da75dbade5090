//go:build pg

package postgres

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"pgvrrp/internal/child"
)

// TestGrowAndShrink takes two standbys in and puts them out again while a client commits.
func TestGrowAndShrink(t *testing.T) {
	t.Parallel()
	a, b, c := trio(t, "")
	stop := make(chan struct{})
	clients := make(chan error, 1)
	var longest time.Duration
	var commits int
	conn := a.session()
	go func() {
		defer closeConn(conn)
		for {
			select {
			case <-stop:
				clients <- nil
				return
			default:
			}
			began := time.Now()
			if _, err := conn.Exec(t.Context(), "INSERT INTO t VALUES ('x')"); err != nil {
				clients <- err
				return
			}
			longest = max(longest, time.Since(began))
			commits++
		}
	}()

	// The first: no commit may pass between the two lists.
	began := time.Now()
	a.setSync("b", HoldName)
	if err := a.ProveHeld(a.ctx()); err != nil {
		t.Fatal(err)
	}
	a.setSync("b")
	if err := a.AwaitSync(a.ctx(), []string{"b"}); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Barrier(a.ctx(), []string{"b"}); err != nil {
		t.Fatal(err)
	}
	t.Logf("grown from none to one in %v", time.Since(began))
	// The second, in front.
	began = time.Now()
	a.setSync("c", "b")
	if err := a.AwaitSync(a.ctx(), []string{"c", "b"}); err != nil {
		t.Fatal(err)
	}
	at, err := a.Barrier(a.ctx(), []string{"c"})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("grown from one to two in %v", time.Since(began))
	v := a.view()
	if v.SyncNames != `FIRST 2 ("c", "b")` || v.Timeline != 1 || len(v.Walsenders) != 2 || v.InsertLSN < v.FlushLSN || v.FlushLSN < at {
		t.Errorf("got %+v, barrier at %s", v, at)
	}
	for i, name := range []string{"c", "b"} {
		w := v.Named(name)
		if len(w) != 1 || w[0].SyncPriority != i+1 || w[0].SyncState != "sync" || w[0].State != "streaming" || w[0].FlushLSN < at && i == 0 || w[0].ReplyAge != 0 {
			t.Errorf("%s: got %+v", name, w)
		}
	}
	close(stop)
	if err := <-clients; err != nil {
		t.Fatal(err)
	}
	t.Logf("%d commits, the longest took %v", commits, longest)

	// One freezes: commits wait, no walsender has said anything new.
	thaw := c.freeze(c.pidOf("walreceiver"))
	held := a.commit("held")
	a.awaitWaiting(1)
	a.await("the age of the reply", func() (bool, string) {
		w := a.view().Named("c")
		return len(w) == 1 && w[0].ReplyAge > 50*time.Millisecond, fmt.Sprintf("%+v", w)
	})
	ctx, cancel := timeoutContext(t, 3*time.Second)
	defer cancel()
	if _, err := a.Barrier(ctx, []string{"b", "c"}); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "c is streaming and has flushed") {
		t.Errorf("barrier with a frozen standby: got %v", err)
	}
	held.pending(t)
	// Out with it: who waits is released at once.
	began = time.Now()
	a.setSync("b")
	if err := a.AwaitSync(a.ctx(), []string{"b"}); err != nil {
		t.Fatal(err)
	}
	if err := a.Nudge(a.ctx()); err != nil {
		t.Fatal(err)
	}
	held.acknowledged(t)
	t.Logf("released %v after the decision", time.Since(began))
	// The last one too.
	thaw2 := b.freeze(b.pidOf("walreceiver"))
	held = a.commit("held")
	a.awaitWaiting(1)
	began = time.Now()
	a.setSync()
	held.acknowledged(t)
	t.Logf("released %v after the decision to go on alone", time.Since(began))
	thaw()
	thaw2()
}

// TestReloadsNeedProof: a list that a session shows is not yet one by which the checkpointer or a walsender goes.
func TestReloadsNeedProof(t *testing.T) {
	t.Parallel()
	a, b, _ := trio(t, "")
	thaw := a.freeze(a.pidOf("checkpointer"))
	if err := a.Hold(a.ctx()); err != nil {
		t.Fatal(err)
	}
	if got := a.query("SHOW synchronous_standby_names"); got != holdNames {
		t.Fatalf("list: got %q", got)
	}
	a.commit("passes").acknowledged(t) // although every session shows the hold
	ctx, cancel := timeoutContext(t, 3*time.Second)
	defer cancel()
	if err := a.ProveHeld(ctx); !errors.Is(err, ErrNotHeld) {
		t.Fatalf("with a frozen checkpointer: got %v, want ErrNotHeld", err)
	}
	thaw()
	began := time.Now()
	if err := a.ProveHeld(a.ctx()); err != nil {
		t.Fatal(err)
	}
	t.Logf("proven %v after the checkpointer goes on", time.Since(began))
	var took []time.Duration
	c := a.commit("held")
	a.awaitWaiting(1)
	for range 10 {
		began := time.Now()
		if err := a.ProveHeld(a.ctx()); err != nil {
			t.Fatal(err)
		}
		took = append(took, time.Since(began))
	}
	t.Logf("proven in %v", took)
	c.pending(t)
	if got := a.view().Waiting; got != 1 {
		t.Errorf("waiting: got %d, want the client alone", got)
	}

	// A walsender that does not run has not read the list.
	a.setSync("b")
	c.acknowledged(t)
	thaw = a.freeze(a.view().Named("b")[0].PID)
	a.setSync("c", "b")
	ctx, cancel = timeoutContext(t, 3*time.Second)
	defer cancel()
	err := a.AwaitSync(ctx, []string{"c", "b"})
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "of b has priority 1, want 2") {
		t.Errorf("with a frozen walsender: got %v", err)
	}
	thaw()
	if err := a.AwaitSync(a.ctx(), []string{"c", "b"}); err != nil {
		t.Error(err)
	}
	// With a list that waits for nobody in vain there is nothing to see.
	if err := a.ProveHeld(a.ctx()); err == nil || errors.Is(err, ErrNotHeld) || !strings.Contains(err.Error(), HoldName) {
		t.Errorf("without the hold: got %v", err)
	}
	a.fence()
	if err := a.AwaitSync(a.ctx(), []string{HoldName}); err != nil {
		t.Error(err)
	}
	_ = b
}

// TestSameName: whoever else streams under a standby's name would count for it.
func TestSameName(t *testing.T) {
	t.Parallel()
	a, _, _ := trio(t, "")
	a.setSync("c", "b")
	dir := filepath.Join(a.root, "wal")
	run(t, "mkdir", dir)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	cmd := a.program("pg_receivewal", "--directory", dir, "--synchronous", "--dbname", strings.ReplaceAll(a.upstream(), "application_name=x", "application_name=B"))
	go func() { _, err := child.Run(ctx, cmd); done <- err }()
	defer func() { cancel(); <-done }()
	a.await("the other", func() (bool, string) {
		all := a.view().Named("b")
		return len(all) == 2 && all[0].State == "streaming" && all[1].State == "streaming", fmt.Sprintf("%+v", all)
	})
	short, stop := timeoutContext(t, 3*time.Second)
	defer stop()
	if err := a.AwaitSync(short, []string{"c", "b"}); !errors.Is(err, ErrDuplicate) {
		t.Errorf("got %v, want ErrDuplicate", err)
	}
	found := false
	for _, f := range a.Doctor(a.ctx(), 3) {
		found = found || f.Severity == Fault && strings.EqualFold(f.Subject, "standby b")
	}
	if !found {
		t.Error("doctor does not find it")
	}
}

// TestWhatWinsOverUs: a list set elsewhere, and a file that the server does not take.
func TestWhatWinsOverUs(t *testing.T) {
	t.Parallel()
	a := drive(newNode(t, "").start(), "a")
	a.setSync()
	a.sql("ALTER SYSTEM SET synchronous_standby_names = 'dba'")
	var override *OverrideError
	if err := a.SetSync(a.ctx(), []string{"b"}); !errors.As(err, &override) || override.Settings["synchronous_standby_names"] != "dba" {
		t.Errorf("list: got %v", err)
	}
	if _, err := a.Fence(a.ctx(), FenceOptions{}); !errors.As(err, &override) {
		t.Errorf("fence: got %v", err)
	}
	if err := a.ResetAuto(a.ctx()); err != nil {
		t.Fatal(err)
	}
	a.setSync("b")
	conf := mustRead(t, a.ConfigFile())
	if err := os.WriteFile(a.ConfigFile(), append([]byte("nonsense_setting = 1\n"), conf...), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := timeoutContext(t, 3*time.Second)
	defer cancel()
	if err := a.Hold(ctx); err == nil || !strings.Contains(err.Error(), `synchronous_standby_names is "FIRST 1 (\"b\")"`) {
		t.Errorf("mistake in the file: got %v", err)
	} else {
		t.Log(err)
	}
	found := false
	for _, f := range a.Doctor(a.ctx(), 1) {
		found = found || strings.Contains(f.Problem, "nonsense_setting") || strings.Contains(f.Problem, "postgresql.conf:1")
	}
	if !found {
		t.Error("doctor does not find the mistake")
	}
	if err := os.WriteFile(a.ConfigFile(), conf, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := a.Hold(a.ctx()); err != nil {
		t.Error(err)
	}
	// What is written survives a restart, and is written to a stopped server too.
	a.stop()
	a.setSync("x", "y")
	a.start()
	if got := a.view().SyncNames; got != `FIRST 2 ("x", "y")` {
		t.Errorf("after a restart: got %q", got)
	}
}
