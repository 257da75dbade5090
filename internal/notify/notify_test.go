package notify

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgvrrp/internal/child"
	"pgvrrp/internal/conf"
)

func command(argv ...string) conf.Command { return conf.Command{Argv: argv} }

// allHooks is every hook, with arguments of its own.
func allHooks() conf.Hooks {
	return conf.Hooks{
		Notify: command("any", "x"), Master: command("master", "m 1"), Backup: command("backup"), Fault: command("fault"),
		Stop: command("stop"), Deleted: command("deleted"), MasterRxLowerPri: command("rx"),
	}
}

// fake runs programs in virtual time and writes down what it is told to run.
type fake struct {
	t     *testing.T
	start time.Time
	takes map[string]time.Duration // by program
	deaf  map[string]time.Duration // how long a program goes on after it is told to stop
	code  map[string]int

	mu      sync.Mutex
	lines   []string
	running int
}

func newFake(t *testing.T) *fake {
	return &fake{t: t, start: time.Now(), takes: map[string]time.Duration{}, deaf: map[string]time.Duration{}, code: map[string]int{}}
}

func (f *fake) note(format string, args ...any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.lines = append(f.lines, fmt.Sprintf("%.1f ", time.Since(f.start).Seconds())+fmt.Sprintf(format, args...))
}

func (f *fake) run(ctx context.Context, c child.Command) (child.Result, error) {
	if err := ctx.Err(); err != nil {
		f.note("not started: %s", c)
		return child.Result{Code: -1}, &child.StartError{Command: c, Err: err}
	}
	f.mu.Lock()
	f.running++
	if f.running > 1 {
		f.t.Error("two hooks at once")
	}
	f.mu.Unlock()
	f.note("start %s", c)
	if c.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, c.Timeout)
		defer cancel()
	}
	timer := time.NewTimer(f.takes[c.Argv[0]])
	defer timer.Stop()
	defer func() {
		f.mu.Lock()
		f.running--
		f.mu.Unlock()
	}()
	select {
	case <-timer.C:
	case <-ctx.Done():
		if d := min(f.deaf[c.Argv[0]], c.Grace); d > 0 {
			<-time.After(d)
		}
		f.note("killed %s", c.Argv[0])
		return child.Result{Code: -1}, &child.ExitError{Command: c, Err: ctx.Err()}
	}
	f.note("end %s", c.Argv[0])
	if code := f.code[c.Argv[0]]; code != 0 {
		return child.Result{Code: code}, &child.ExitError{Command: c, Result: child.Result{Code: code}}
	}
	return child.Result{}, nil
}

func (f *fake) result(r Result) {
	text := fmt.Sprintf("result %d %s code %d", r.Event.Seq, r.Event.State, r.Code)
	if r.Superseded {
		text += " superseded"
	}
	if r.Err != nil {
		text += " error"
	}
	f.note("%s", text)
}

func (f *fake) expect(want ...string) {
	f.t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	if !slices.Equal(f.lines, want) {
		f.t.Errorf("got\n\t%s\nwant\n\t%s", strings.Join(f.lines, "\n\t"), strings.Join(want, "\n\t"))
	}
}

// story runs a queue in virtual time.
func story(t *testing.T, hooks conf.Hooks, opt Options, tell func(f *fake, q *Queue)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t)
		opt.Run, opt.OnResult = f.run, f.result
		q := New(hooks, opt)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			_ = q.Run(ctx)
		}()
		tell(f, q)
		cancel()
		<-done
	})
}

func ev(seq uint64, state string) Event {
	return Event{Seq: seq, Kind: Instance, Name: "VI 1", State: state, Priority: 150}
}

func TestArguments(t *testing.T) {
	t.Parallel()
	noDeleted := allHooks()
	withDeleted := allHooks()
	withDeleted.SendDeleted = true
	tests := []struct {
		name  string
		hooks conf.Hooks
		event Event
		want  []string
	}{
		{"master", allHooks(), ev(1, Master), []string{"master 'm 1'", "any x INSTANCE 'VI 1' MASTER 150"}},
		{"backup", allHooks(), ev(1, Backup), []string{"backup", "any x INSTANCE 'VI 1' BACKUP 150"}},
		{"fault", allHooks(), ev(1, Fault), []string{"fault", "any x INSTANCE 'VI 1' FAULT 150"}},
		{"stop", allHooks(), ev(1, Stop), []string{"stop", "any x INSTANCE 'VI 1' STOP 150"}},
		{"deleted", withDeleted, ev(1, Deleted), []string{"deleted", "any x INSTANCE 'VI 1' DELETED 150"}},
		{"deleted without notify_deleted", noDeleted, ev(1, Deleted), []string{"fault", "any x INSTANCE 'VI 1' FAULT 150"}},
		{"lower priority", allHooks(), ev(1, RxLowerPri), []string{"rx"}},
		{"group", allHooks(), Event{Kind: Group, Name: "G", State: Master}, []string{"master 'm 1'", "any x GROUP G MASTER 0"}},
		{"generic only", conf.Hooks{Notify: command("any")}, ev(1, Master), []string{"any INSTANCE 'VI 1' MASTER 150"}},
		{"specific only", conf.Hooks{Backup: command("backup")}, ev(1, Backup), []string{"backup"}},
		{"none", conf.Hooks{}, ev(1, Master), nil},
		{"none for this state", conf.Hooks{Backup: command("backup")}, ev(1, Master), nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			story(t, tt.hooks, Options{}, func(f *fake, q *Queue) {
				q.Post(tt.event)
				synctest.Wait()
				var got []string
				for _, line := range f.lines {
					if _, cmd, ok := strings.Cut(line, " start "); ok {
						got = append(got, cmd)
					}
				}
				if !slices.Equal(got, tt.want) {
					t.Errorf("got %q, want %q", got, tt.want)
				}
				if last := f.lines[len(f.lines)-1]; !strings.HasSuffix(last, tt.event.State+" code 0") {
					t.Errorf("last %q, want a good result", last)
				}
			})
		})
	}
}

// TestNewestStateWins is the flap that promoted a node after it had gone back to BACKUP.
func TestNewestStateWins(t *testing.T) {
	t.Parallel()
	hooks := conf.Hooks{Notify: command("any"), Fault: command("fault")}
	story(t, hooks, Options{}, func(f *fake, q *Queue) {
		f.takes["any"] = 5 * time.Second
		f.takes["fault"] = time.Second
		q.Post(ev(1, Backup))
		<-time.After(time.Second)
		q.Post(ev(2, Master))
		<-time.After(time.Second)
		q.Post(ev(3, Backup))
		q.Post(ev(4, Fault))
		<-time.After(3500 * time.Millisecond) // fault runs
		q.Post(ev(5, Backup))
		<-time.After(10 * time.Second)
		f.expect(
			"0.0 start any INSTANCE 'VI 1' BACKUP 150",
			"2.0 result 2 MASTER code 0 superseded",
			"2.0 result 3 BACKUP code 0 superseded",
			"5.0 end any",
			"5.0 result 1 BACKUP code 0",
			"5.0 start fault",
			"6.0 end fault",
			"6.0 result 4 FAULT code 0 superseded", // its generic hook would have been late
			"6.0 start any INSTANCE 'VI 1' BACKUP 150",
			"11.0 end any",
			"11.0 result 5 BACKUP code 0",
		)
	})
}

// TestLowerPriority: hearing a lower priority is told when there is nothing more important.
func TestLowerPriority(t *testing.T) {
	t.Parallel()
	hooks := conf.Hooks{Notify: command("any"), MasterRxLowerPri: command("rx")}
	story(t, hooks, Options{}, func(f *fake, q *Queue) {
		f.takes["any"], f.takes["rx"] = 2*time.Second, 2*time.Second
		q.Post(ev(1, Master))
		q.Post(ev(1, RxLowerPri))
		<-time.After(time.Second)
		q.Post(ev(1, RxLowerPri)) // replaces the one that waits
		<-time.After(2 * time.Second)
		q.Post(ev(1, RxLowerPri))
		q.Post(ev(2, Backup)) // drops that, and stops the one that runs
		<-time.After(10 * time.Second)
		f.expect(
			"0.0 start any INSTANCE 'VI 1' MASTER 150",
			"1.0 result 1 MASTER_RX_LOWER_PRI code 0 superseded",
			"2.0 end any",
			"2.0 result 1 MASTER code 0",
			"2.0 start rx",
			"3.0 result 1 MASTER_RX_LOWER_PRI code 0 superseded",
			"3.0 killed rx",
			"3.0 result 1 MASTER_RX_LOWER_PRI code -1 superseded error",
			"3.0 start any INSTANCE 'VI 1' BACKUP 150",
			"5.0 end any",
			"5.0 result 2 BACKUP code 0",
		)
	})
}

func TestDeadlines(t *testing.T) {
	t.Parallel()
	hooks := conf.Hooks{Notify: command("any"), Master: command("master"), Backup: command("backup")}
	story(t, hooks, Options{Timeout: 4 * time.Second}, func(f *fake, q *Queue) {
		f.takes["any"], f.takes["master"], f.takes["backup"] = time.Second, 2500*time.Millisecond, time.Hour
		// the queue's timeout is for each program
		q.Post(ev(1, Backup))
		<-time.After(time.Second)
		// the event's deadline is for all of it, waiting included
		e := ev(2, Master)
		e.Deadline = 6 * time.Second
		q.Post(e)
		<-time.After(20 * time.Second)
		e = ev(3, Master)
		e.Deadline = 2 * time.Second
		q.Post(e)
		<-time.After(20 * time.Second)
		f.expect(
			"0.0 start backup",
			"4.0 killed backup",
			"4.0 result 1 BACKUP code -1 superseded error", // the generic one would be late
			"4.0 start master",
			"6.5 end master",
			"6.5 start any INSTANCE 'VI 1' MASTER 150",
			"7.0 killed any",
			"7.0 result 2 MASTER code -1 error",
			"21.0 start master",
			"23.0 killed master",
			"23.0 result 3 MASTER code -1 error",
		)
	})
}

// TestBothRunAndCount: the generic hook runs although the specific one failed, and the result is the failure.
func TestBothRunAndCount(t *testing.T) {
	t.Parallel()
	story(t, allHooks(), Options{}, func(f *fake, q *Queue) {
		f.code["master"] = 7
		q.Post(ev(1, Master))
		synctest.Wait()
		f.code["master"], f.code["any"] = 0, 3
		q.Post(ev(2, Master))
		synctest.Wait()
		f.expect(
			"0.0 start master 'm 1'", "0.0 end master", "0.0 start any x INSTANCE 'VI 1' MASTER 150", "0.0 end any",
			"0.0 result 1 MASTER code 7 error",
			"0.0 start master 'm 1'", "0.0 end master", "0.0 start any x INSTANCE 'VI 1' MASTER 150", "0.0 end any",
			"0.0 result 2 MASTER code 3 error",
		)
	})
}

func TestStop(t *testing.T) {
	t.Parallel()
	hooks := conf.Hooks{Notify: command("any"), Stop: command("stop")}
	t.Run("while a hook runs", func(t *testing.T) {
		t.Parallel()
		story(t, hooks, Options{}, func(f *fake, q *Queue) {
			f.takes["any"], f.takes["stop"], f.deaf["any"] = time.Hour, 100*time.Millisecond, 200*time.Millisecond
			q.Post(ev(1, Master))
			<-time.After(time.Second)
			q.Post(ev(2, Backup))
			r := q.Stop(context.Background(), ev(3, Stop))
			q.Post(ev(4, Master)) // too late
			synctest.Wait()
			if r.Code != -1 || r.Err == nil || !strings.Contains(r.Err.Error(), "notify: ") || strings.Contains(r.Err.Error(), "notify_stop") {
				t.Errorf("got %+v, want that the generic hook failed", r)
			}
			f.expect(
				"0.0 start any INSTANCE 'VI 1' MASTER 150",
				"1.0 result 2 BACKUP code 0 superseded",
				"1.2 killed any",
				"1.2 result 1 MASTER code -1 error",
				"1.2 start stop",
				"1.3 end stop",
				"1.3 start any INSTANCE 'VI 1' STOP 150",
				"2.0 killed any", // a second in all
				"2.0 result 3 STOP code -1 error",
			)
		})
	})
	t.Run("after the end of Run", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			f := newFake(t)
			q := New(hooks, Options{Run: f.run, OnResult: f.result})
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			if err := q.Run(ctx); !errors.Is(err, context.Canceled) {
				t.Errorf("Run: %v", err)
			}
			if r := q.Stop(context.Background(), ev(1, Stop)); r.Err != nil {
				t.Errorf("got %+v, want success", r)
			}
			f.expect("0.0 start stop", "0.0 end stop", "0.0 start any INSTANCE 'VI 1' STOP 150", "0.0 end any", "0.0 result 1 STOP code 0")
			if err := q.Run(t.Context()); err != nil {
				t.Errorf("Run after Stop: %v", err)
			}
		})
	})
	t.Run("the one before does not end", func(t *testing.T) {
		t.Parallel()
		story(t, hooks, Options{StopGrace: 10 * time.Second}, func(f *fake, q *Queue) {
			f.takes["any"], f.deaf["any"] = time.Hour, 5*time.Second
			q.Post(ev(1, Master))
			synctest.Wait()
			before := time.Now()
			r := q.Stop(context.Background(), ev(2, Stop))
			if took := time.Since(before); took != time.Second || !errors.Is(r.Err, context.DeadlineExceeded) || r.Code != -1 {
				t.Errorf("after %v: %+v", took, r)
			}
			<-time.After(10 * time.Second)
		})
	})
	t.Run("it does not end itself", func(t *testing.T) {
		t.Parallel()
		story(t, hooks, Options{}, func(f *fake, q *Queue) {
			f.takes["stop"], f.deaf["stop"] = time.Hour, time.Hour
			before := time.Now()
			r := q.Stop(context.Background(), ev(2, Stop))
			if took := time.Since(before); took > time.Second+stopMargin || r.Err == nil {
				t.Errorf("after %v: %+v", took, r)
			}
		})
	})
}

// TestPostNeverBlocks, whatever the receiver of the results does.
func TestPostNeverBlocks(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t)
		hold := make(chan struct{})
		var results []Result
		q := New(conf.Hooks{Notify: command("any")}, Options{Run: f.run, OnResult: func(r Result) {
			<-hold
			results = append(results, r)
		}})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- q.Run(ctx) }()
		for i := range uint64(1000) {
			q.Post(ev(i, Backup))
		}
		synctest.Wait()
		close(hold)
		synctest.Wait()
		cancel()
		<-done
		if len(results) != 1000 {
			t.Fatalf("%d results for 1000 events", len(results))
		}
		slices.SortFunc(results, func(a, b Result) int { return int(a.Event.Seq) - int(b.Event.Seq) })
		for i, r := range results {
			if r.Event.Seq != uint64(i) {
				t.Fatalf("result %d is for event %d", i, r.Event.Seq)
			}
		}
		if last := results[999]; last.Superseded || last.Err != nil {
			t.Errorf("the newest: %+v, want it run", last)
		}
	})
}

// TestPrograms runs real ones: one case for each way in which a hook can fail to run, and what it is told in its environment.
func TestPrograms(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	script := func(name, text string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	ok := script("ok", "#!/bin/sh\n"+`echo "$# $1,$2,$3,$4 $VRRPD_SOCKET $VRRPD_INSTANCE $VRRPD_SEQ $EXTRA" >"`+dir+`/told"`+"\n", 0o755)
	deleted := script("deleted", "#!/bin/sh\n", 0o755)
	if err := os.Remove(deleted); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name    string
		command conf.Command
		opt     Options
		code    int
		want    string
	}{
		{"fine", command(ok), Options{Socket: "/run/s", Env: []string{"EXTRA=e"}}, 0, ""},
		{"missing", command(dir + "/none"), Options{}, -1, "notify: run " + dir + "/none: " + dir + "/none: no such file or directory"},
		{"deleted later", command(deleted), Options{}, -1, "no such file or directory"},
		{"not executable", command(script("plain", "#!/bin/sh\n", 0o644)), Options{}, -1, "is not executable"},
		{"bad interpreter", command(script("interp", "#!/none/sh\n", 0o755)), Options{}, -1, `names the interpreter "/none/sh"`},
		{"unknown user", conf.Command{Argv: []string{ok}, User: conf.User{Name: "no-such-user"}}, Options{}, -1, `no such user "no-such-user"`},
		{"unknown group", conf.Command{Argv: []string{ok}, User: conf.User{Group: "no-such-group"}}, Options{}, -1, `no such group "no-such-group"`},
		{"fork fails", command(ok, strings.Repeat("x", 256<<10)), Options{}, -1, "argument list too long"},
		{"fails", command("/bin/sh", "-c", "echo why >&2; exit 5"), Options{}, 5, "exit status 5: why"},
		{"runs nothing", command("/bin/sh", "-c", "exec /none"), Options{}, 127, "exit status 127"},
		{"killed", command("/bin/sh", "-c", "kill -9 $$"), Options{}, -1, "killed by signal 9"},
		{"hung", command("/bin/sh", "-c", "sleep 1000"), Options{Timeout: 50 * time.Millisecond}, -1, "timed out after"},
		{"hung and deaf", command("/bin/sh", "-c", "trap '' TERM; sleep 1000"), Options{Timeout: 50 * time.Millisecond, StopGrace: 50 * time.Millisecond}, -1, "timed out after"},
		{"not secure", command(ok), Options{Secure: true}, -1, "runs as root and is not secure"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			results := make(chan Result, 1)
			tt.opt.OnResult = func(r Result) { results <- r }
			q := New(conf.Hooks{Notify: tt.command}, tt.opt)
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error)
			go func() { done <- q.Run(ctx) }()
			q.Post(ev(42, Master))
			r := <-results
			cancel()
			<-done
			if r.Code != tt.code || r.Superseded || (r.Err == nil) != (tt.want == "") {
				t.Fatalf("got %+v, want code %d, error %q", r, tt.code, tt.want)
			}
			if r.Err != nil && !strings.Contains(r.Err.Error(), tt.want) {
				t.Errorf("error %v, want %q", r.Err, tt.want)
			}
			if tt.name == "fine" {
				got, err := os.ReadFile(dir + "/told")
				if want := "4 INSTANCE,VI 1,MASTER,150 /run/s VI 1 42 e\n"; err != nil || string(got) != want {
					t.Errorf("told %q, %v; want %q", got, err, want)
				}
				if r.Duration <= 0 {
					t.Error("no duration")
				}
			}
		})
	}
}
