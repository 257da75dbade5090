package daemon

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgvrrp/internal/child"
	"pgvrrp/internal/conf"
	"pgvrrp/internal/control"
	"pgvrrp/internal/instance"
	"pgvrrp/internal/notify"
)

// Where a reload puts another instance in the place of one of its name, the programs of the one end before those of the other start.
func TestHooksFollowThoseOfTheirFormer(t *testing.T) {
	var mu sync.Mutex
	var said []string
	var run notify.RunFunc
	began := func() func() []string {
		said = nil
		start := time.Now()
		say := func(format string, args ...any) {
			mu.Lock()
			defer mu.Unlock()
			said = append(said, fmt.Sprintf("%4dms ", time.Since(start).Milliseconds())+fmt.Sprintf(format, args...))
		}
		run = func(_ context.Context, c child.Command) (child.Result, error) {
			say("%s begins", c.Argv[0])
			time.Sleep(600 * time.Millisecond)
			say("%s ends", c.Argv[0])
			return child.Result{}, nil
		}
		return func() []string {
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			return slices.Clone(said)
		}
	}
	unitOf := func(who string) *unit {
		program := func(state string) conf.Command { return conf.Command{Argv: []string{who + " " + state}} }
		u := &unit{config: conf.Instance{Name: "VI_1"}, done: make(chan struct{})}
		u.hooks = &hooks{kind: notify.Instance, name: "VI_1", fifos: &fifos{}, queue: notify.New(
			conf.Hooks{Backup: program("BACKUP"), Master: program("MASTER"), Deleted: program("DELETED"), Stop: program("STOP"), SendDeleted: true},
			notify.Options{Run: func(ctx context.Context, c child.Command) (child.Result, error) { return run(ctx, c) }})}
		return u
	}
	leave := func(u *unit, deleted bool) {
		u.hooks.Post(instance.HookEvent{State: control.StateStop})
		u.hooks.end(deleted)
		u.hooks.finish()
		close(u.done)
	}
	former := func() *unit {
		u := unitOf("old")
		u.hooks.start(nil)
		go leave(u, true)
		synctest.Wait()
		return u
	}
	synctest.Test(t, func(t *testing.T) {
		lines := began()
		old, u := former(), unitOf("new")
		u.hooks.start(lastHooks([]*unit{{config: conf.Instance{Name: "VI_2"}}, old}, "VI_1"))
		u.hooks.Post(instance.HookEvent{State: control.StateMaster})
		time.Sleep(1500 * time.Millisecond)
		want := []string{"   0ms old DELETED begins", " 600ms old DELETED ends", " 600ms new MASTER begins", "1200ms new MASTER ends"}
		if got := lines(); !slices.Equal(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
		leave(u, false)
	})
	synctest.Test(t, func(t *testing.T) {
		lines := began()
		old, u := former(), unitOf("new")
		u.hooks.start(lastHooks([]*unit{old}, "VI_1"))
		u.hooks.Post(instance.HookEvent{State: control.StateBackup})
		leave(u, false)
		want := []string{"   0ms old DELETED begins", " 600ms old DELETED ends", " 600ms new STOP begins"}
		if got := lines(); len(got) < 3 || !slices.Equal(got[:3], want) {
			t.Errorf("ended meanwhile: got %q, want %q", got, want)
		}
		time.Sleep(time.Second)
	})
	if lastHooks(nil, "VI_1") != nil {
		t.Error("something to wait for")
	}
}
