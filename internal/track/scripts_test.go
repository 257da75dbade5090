package track

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"pgvrrp/internal/child"
	"pgvrrp/internal/conf"
)

func script(name string, change ...func(*conf.Script)) conf.Script {
	s := conf.Script{
		Name: name, Command: conf.Command{Argv: []string{name}}, Interval: time.Second, Timeout: time.Second, Rise: 1, Fall: 1,
	}
	for _, f := range change {
		f(&s)
	}
	return s
}

// answer is what a scripted run does.
type answer struct {
	takes time.Duration
	deaf  time.Duration // how long it goes on after its time is up
	err   func(child.Command) error
	code  int
	hangs time.Duration // it outlives SIGKILL by that
}

func exits(code int) answer { return answer{code: code} }

func starts(err error) answer {
	return answer{err: func(c child.Command) error { return &child.StartError{Command: c, Err: err} }}
}

// fake runs scripts in virtual time; each run takes the next answer, the last for ever.
type fake struct {
	t     *testing.T
	begin time.Time

	mu      sync.Mutex
	answers map[string][]answer
	active  map[string]bool
	lines   []string
}

func newFake(t *testing.T) *fake {
	return &fake{t: t, begin: time.Now(), answers: map[string][]answer{}, active: map[string]bool{}}
}

func (f *fake) at() string { return fmt.Sprintf("%.2f ", time.Since(f.begin).Seconds()) }

func (f *fake) note(line string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.lines = append(f.lines, f.at()+line)
}

func (f *fake) run(ctx context.Context, c child.Command) (child.Result, error) {
	name := c.Argv[0]
	f.note("run " + c.String())
	f.mu.Lock()
	if f.active[name] {
		f.t.Errorf("%stwo runs of %s at once", f.at(), name)
	}
	f.active[name] = true
	var a answer
	if list := f.answers[name]; len(list) > 0 {
		a = list[0]
		if len(list) > 1 {
			f.answers[name] = list[1:]
		}
	}
	f.mu.Unlock()
	free := func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.active[name] = false
	}
	timer := time.NewTimer(a.takes)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
		<-time.After(min(a.deaf, c.Grace))
		exit := &child.ExitError{Command: c, Err: ctx.Err(), Result: child.Result{Code: -1}}
		if a.hangs > 0 {
			gone := make(chan struct{})
			go func() {
				<-time.After(a.hangs)
				free()
				close(gone)
			}()
			exit.Gone = gone
			return exit.Result, exit
		}
		free()
		return exit.Result, exit
	}
	defer free()
	if a.err != nil {
		return child.Result{Code: -1}, a.err(c)
	}
	if a.code != 0 {
		r := child.Result{Code: a.code}
		return r, &child.ExitError{Command: c, Result: r}
	}
	return child.Result{}, nil
}

// during runs scripts in virtual time for d, and returns the changes of state.
func during(t *testing.T, d time.Duration, cfg []conf.Script, answers map[string][]answer, also func(f *fake, s *Scripts)) []string {
	t.Helper()
	var lines []string
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t)
		f.answers = answers
		s := NewScripts(cfg, slog.New(slog.DiscardHandler), f.run)
		s.Subscribe(func(st Status) { f.note(fmt.Sprintf("%s %s %s", st.Name, st.State, st.Reason)) })
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- s.Run(ctx) }()
		if also != nil {
			also(f, s)
		}
		<-time.After(d - time.Since(f.begin) - time.Nanosecond)
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("Run: %v", err)
		}
		lines = f.lines
	})
	return lines
}

// changes leaves out the runs.
func changes(lines []string) []string {
	return slices.DeleteFunc(lines, func(s string) bool { return strings.Contains(s, " run ") && !strings.Contains(s, "run a:") })
}

func expect(t *testing.T, got, want []string) {
	t.Helper()
	for i, s := range got {
		got[i] = strings.TrimSpace(s)
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n\t%s\nwant\n\t%s", strings.Join(got, "\n\t"), strings.Join(want, "\n\t"))
	}
}

func TestRiseAndFall(t *testing.T) {
	t.Parallel()
	riseFall := func(rise, fall int) func(*conf.Script) {
		return func(s *conf.Script) { s.Rise, s.Fall = rise, fall }
	}
	initFail := func(s *conf.Script) { s.InitFail = true }
	ok, bad := exits(0), exits(2)
	const failed = "FAILED run a: exit status 2"
	tests := []struct {
		name    string
		script  conf.Script
		answers []answer
		want    []string
	}{
		{"one success is enough at first", script("a", riseFall(3, 1)), []answer{ok}, []string{"0.00 a OK"}},
		{"one failure too", script("a", riseFall(1, 3)), []answer{bad, ok}, []string{"0.00 a " + failed, "1.00 a OK"}},
		{"fall", script("a", riseFall(1, 3)), []answer{ok, bad, bad, ok, bad, bad, bad}, []string{"0.00 a OK", "6.00 a " + failed}},
		{"rise", script("a", riseFall(3, 1)), []answer{bad, ok, ok, bad, ok, ok, ok}, []string{"0.00 a " + failed, "6.00 a OK"}},
		{"init_fail", script("a", riseFall(2, 1), initFail), []answer{ok}, []string{"1.00 a OK"}},
		{"init_fail and failing", script("a", initFail), []answer{bad, bad, ok}, []string{"2.00 a OK"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got := during(t, 10*time.Second, []conf.Script{tt.script}, map[string][]answer{"a": tt.answers}, nil)
			expect(t, changes(got), tt.want)
		})
	}
}

// TestNoAnswer has a case for each way in which a check can fail to be one: none of them may pass for success or, tracked in
// reverse, for a failure.
func TestNoAnswer(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name   string
		answer answer
		want   string
	}{
		{"missing", starts(os.ErrNotExist), "0.00 a UNABLE run a: file does not exist"},
		{"not executable", starts(os.ErrPermission), "0.00 a UNABLE run a: permission denied"},
		{"fork fails", starts(syscall.EAGAIN), "0.00 a UNABLE run a: resource temporarily unavailable"},
		{"126", exits(126), "0.00 a UNABLE run a: exit status 126 (a command was found but could not be run)"},
		{"127", exits(127), "0.00 a UNABLE run a: exit status 127 (a command was not found)"},
		{"signal", answer{err: func(c child.Command) error {
			return &child.ExitError{Command: c, Result: child.Result{Code: -1, Signal: syscall.SIGSEGV}}
		}}, "0.00 a UNABLE run a: killed by signal 11 (segmentation fault)"},
		{"hung", answer{takes: time.Hour}, "1.00 a UNABLE timed out after 1s"},
		{"hung and deaf", answer{takes: time.Hour, deaf: time.Hour}, "1.00 a UNABLE timed out after 1s"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got := changes(during(t, 10*time.Second, []conf.Script{script("a")}, map[string][]answer{"a": {tt.answer}}, nil))
			expect(t, got, []string{tt.want})
		})
	}
}

func TestTiming(t *testing.T) {
	t.Parallel()
	interval := func(i, timeout time.Duration) func(*conf.Script) {
		return func(s *conf.Script) { s.Interval, s.Timeout = i, timeout }
	}
	tests := []struct {
		name    string
		d       time.Duration
		scripts []conf.Script
		answers map[string][]answer
		want    []string
	}{
		{
			"from start to start", 4 * time.Second, []conf.Script{script("a")}, map[string][]answer{"a": {{takes: 400 * time.Millisecond}}},
			[]string{"0.00 run a", "0.40 a OK", "1.00 run a", "2.00 run a", "3.00 run a"},
		},
		{
			"longer than the interval", 5 * time.Second, []conf.Script{script("a", interval(time.Second, 3*time.Second))},
			map[string][]answer{"a": {{takes: 2 * time.Second}}},
			[]string{"0.00 run a", "2.00 a OK", "2.00 run a", "4.00 run a"},
		},
		{
			"killed, and not started again before it has gone", 3 * time.Second, []conf.Script{script("a", interval(time.Second, 500*time.Millisecond))},
			map[string][]answer{"a": {{takes: time.Hour, deaf: 800 * time.Millisecond}, {}}},
			[]string{"0.00 run a", "0.50 a UNABLE timed out after 500ms", "1.30 run a", "1.30 a OK", "2.30 run a"},
		},
		{
			"no timeout means the interval", 2 * time.Second, []conf.Script{script("a", interval(time.Second, 0))},
			map[string][]answer{"a": {{takes: time.Hour}}},
			[]string{"0.00 run a", "1.00 a UNABLE timed out after 1s", "1.00 run a"},
		},
		{
			"staggered", time.Second, []conf.Script{script("a"), script("b"), script("c", interval(4*time.Second, time.Second)), script("d", interval(200*time.Millisecond, time.Second))},
			nil,
			[]string{
				"0.00 run a", "0.00 a OK", "0.15 run d", "0.15 d OK", "0.25 run b", "0.25 b OK", "0.35 run d", "0.50 run c", "0.50 c OK",
				"0.55 run d", "0.75 run d", "0.95 run d",
			},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got := during(t, tt.d, tt.scripts, tt.answers, nil)
			expect(t, got, tt.want)
		})
	}
}

// TestHangsInKernel: a run that outlives SIGKILL is not joined by a second, and goes on failing.
func TestHangsInKernel(t *testing.T) {
	t.Parallel()
	sc := script("a", func(s *conf.Script) { s.Fall = 4 })
	answers := map[string][]answer{"a": {{}, {takes: time.Hour, hangs: 5500 * time.Millisecond}, {}}}
	got := during(t, 10*time.Second, []conf.Script{sc}, answers, func(_ *fake, s *Scripts) {
		<-time.After(4500 * time.Millisecond)
		if st := s.Status()[0]; !st.Hangs || st.State != OK || st.Failures != 3 {
			t.Errorf("at 4.5 s: %+v", st)
		}
	})
	expect(t, got, []string{
		"0.00 run a", "0.00 a OK", "1.00 run a",
		"5.00 a UNABLE run a: stopped after 0s and it does not die: process 0 hangs in the kernel", // 2 s: timeout, then one a second
		"7.50 run a", "7.50 a OK", "8.50 run a", "9.50 run a",
	})
}

func TestReplace(t *testing.T) {
	t.Parallel()
	a := script("a")
	b := script("b", func(s *conf.Script) { s.Fall = 3 })
	answers := map[string][]answer{"b": {exits(0), exits(1)}, "slow": {{takes: time.Hour, deaf: 700 * time.Millisecond}}}
	got := during(t, 6*time.Second, []conf.Script{a, b}, answers, func(_ *fake, s *Scripts) {
		<-time.After(1600 * time.Millisecond)
		// a is gone, b only moved in the file and has other weights, c is new
		moved := b
		moved.Pos.Line, moved.Command.Pos.Line, moved.Weight = 7, 7, 3
		s.Replace([]conf.Script{script("c"), moved})
		if state, reason := s.State("a"); state != Unable || reason != "not defined" {
			t.Errorf("a: %v %q", state, reason)
		}
		<-time.After(time.Second) // 2.6
		// b's program changes: its state stays until the first result, which needs no rise or fall; c hangs when it is replaced
		other := b
		other.Command.Argv = []string{"slow"}
		other.Timeout = 2 * time.Second
		s.Replace([]conf.Script{script("c"), other})
		if state, _ := s.State("b"); state != OK {
			t.Errorf("b: %v, want OK kept", state)
		}
		<-time.After(time.Second) // 3.6: slow runs since 3.1
		again := b
		again.Command.Argv = []string{"slow", "x"}
		again.Timeout = 2 * time.Second
		s.Replace([]conf.Script{script("c"), again}) // must wait for slow to go, at 4.3
		s.Replace([]conf.Script{script("c"), again})
	})
	expect(t, got, []string{
		"0.00 run a", "0.00 a OK", "0.50 run b", "0.50 b OK", "1.00 run a", "1.50 run b",
		"1.60 run c", "1.60 c OK", "2.50 run b", "2.60 run c",
		"3.10 run slow", "3.60 run c", "4.60 run c", "4.80 run slow x", "5.60 run c",
	})
}

func TestSubscribe(t *testing.T) {
	t.Parallel()
	n := 0
	during(t, 5*time.Second, []conf.Script{script("a")}, map[string][]answer{"a": {exits(0), exits(1), exits(0)}}, func(_ *fake, s *Scripts) {
		cancel := s.Subscribe(func(st Status) {
			n++
			if state, _ := s.State(st.Name); state != st.State {
				t.Errorf("told %v, asked %v", st.State, state) // and asking does not block
			}
		})
		<-time.After(1500 * time.Millisecond)
		cancel()
	})
	if n != 2 {
		t.Errorf("told %d times, want 2", n)
	}
}

func TestStatus(t *testing.T) {
	t.Parallel()
	answers := map[string][]answer{"a": {{takes: 300 * time.Millisecond}, {takes: 100 * time.Millisecond, code: 2}}}
	during(t, 3*time.Second, []conf.Script{script("a"), script("b", func(s *conf.Script) { s.InitFail = true })}, answers, func(f *fake, s *Scripts) {
		if got := s.Status(); got[0].State != Unknown || got[0].Code != -1 || got[1].State != Failed || got[1].Reason == "" {
			t.Errorf("at first: %+v", got)
		}
		<-time.After(1500 * time.Millisecond)
		got := s.Status()[0]
		want := Status{
			Name: "a", State: Failed, Reason: "run a: exit status 2", Since: f.begin.Add(1100 * time.Millisecond), Runs: 2, Failures: 1, Code: 2,
			LastError: "run a: exit status 2", LastRun: f.begin.Add(time.Second), LastDuration: 100 * time.Millisecond, MaxDuration: 300 * time.Millisecond,
		}
		if got != want {
			t.Errorf("got %+v, want %+v", got, want)
		}
	})
}

// TestManyScripts keeps each to one run at a time.
func TestManyScripts(t *testing.T) {
	t.Parallel()
	var cfg []conf.Script
	for i := range 250 {
		cfg = append(cfg, script(fmt.Sprintf("s%d", i)))
	}
	got := during(t, 2*time.Second, cfg, nil, func(_ *fake, s *Scripts) {
		<-time.After(999 * time.Millisecond)
		for _, st := range s.Status() {
			if st.State != OK || st.Runs != 1 {
				t.Errorf("%s: %+v, want one run in the first second", st.Name, st)
			}
		}
	})
	if runs := len(got) - len(changes(got)); runs != 500 {
		t.Errorf("%d runs in 2 s, want 500", runs)
	}
}

// TestPrograms has real ones: each way in which a check can fail to run, and the others.
func TestPrograms(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	put := func(name, text string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	good := put("good", "#!/bin/sh\n", 0o755)
	deleted := put("deleted", "#!/bin/sh\n", 0o755)
	if err := os.Remove(deleted); err != nil {
		t.Fatal(err)
	}
	sh := func(text string) []string { return []string{"/bin/sh", "-c", text} }
	tests := []struct {
		name   string
		argv   []string
		user   conf.User
		secure bool
		state  State
		code   int
		reason string
	}{
		{"succeeds", []string{good}, conf.User{}, false, OK, 0, ""},
		{"found in PATH", []string{"true"}, conf.User{}, false, OK, 0, ""},
		{"fails", sh("echo no server >&2; exit 2"), conf.User{}, false, Failed, 2, "run /bin/sh: exit status 2: no server"},
		{"missing", []string{dir + "/none"}, conf.User{}, false, Unable, -1, "no such file or directory"},
		{"deleted later", []string{deleted}, conf.User{}, false, Unable, -1, "no such file or directory"},
		{"not executable", []string{put("plain", "#!/bin/sh\n", 0o644)}, conf.User{}, false, Unable, -1, "is not executable"},
		{"bad interpreter", []string{put("interp", "#!/none\n", 0o755)}, conf.User{}, false, Unable, -1, `names the interpreter "/none"`},
		{"typo", []string{"no-such-program"}, conf.User{}, false, Unable, -1, "no-such-program is in none of"},
		{"unknown user", []string{good}, conf.User{Name: "no-such-user"}, false, Unable, -1, "no such user"},
		{"unknown group", []string{good}, conf.User{Group: "no-such-group"}, false, Unable, -1, "no such group"},
		{"no program", nil, conf.User{}, false, Unable, -1, "no program given"},
		{"fork fails", []string{good, strings.Repeat("x", 256<<10)}, conf.User{}, false, Unable, -1, "argument list too long"},
		{"runs nothing", sh("exec /none"), conf.User{}, false, Unable, 127, "exit status 127"},
		{"can't run it", sh("exec " + dir), conf.User{}, false, Unable, 126, "exit status 126"},
		{"killed", sh("kill -SEGV $$"), conf.User{}, false, Unable, -1, "killed by signal 11"},
		{"hung", sh("sleep 1000"), conf.User{}, false, Unable, -1, "timed out after 300ms"},
		{"not secure", []string{good}, conf.User{}, true, Unable, -1, "is not secure"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			cfg := script("a", func(s *conf.Script) {
				s.Command.Argv, s.Command.User, s.Interval, s.Timeout = tt.argv, tt.user, time.Hour, 10*time.Second
				if tt.name == "hung" {
					s.Timeout = 300 * time.Millisecond
				}
			})
			s := NewScripts([]conf.Script{cfg}, slog.New(slog.DiscardHandler), child.Run)
			s.SetSecurity(tt.secure)
			told := make(chan Status, 1)
			s.Subscribe(func(st Status) { told <- st })
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error)
			go func() { done <- s.Run(ctx) }()
			got := <-told
			cancel()
			<-done
			if got.State != tt.state || got.Code != tt.code || !strings.Contains(got.Reason, tt.reason) || (got.Reason == "") != (tt.reason == "") {
				t.Errorf("got %v, code %d, %q; want %v, %d, %q", got.State, got.Code, got.Reason, tt.state, tt.code, tt.reason)
			}
			if got.LastDuration <= 0 {
				t.Error("no duration")
			}
		})
	}
}
