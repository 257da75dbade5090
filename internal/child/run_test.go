package child

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// sh is a command for /bin/sh.
func sh(script string, args ...string) Command {
	return Command{Argv: append([]string{"/bin/sh", "-c", script, "sh"}, args...)}
}

// file writes a file for a test and returns its path.
func file(t *testing.T, name, content string, mode os.FileMode) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestRunExit(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name   string
		cmd    Command
		code   int
		signal syscall.Signal
		err    string // "" for success
	}{
		{"success", sh("exit 0"), 0, 0, ""},
		{"found in PATH", Command{Argv: []string{"true"}}, 0, 0, ""},
		{"arguments", sh(`[ "$1" = "a b" ] && [ "$2" = "" ] && [ $# = 2 ]`, "a b", ""), 0, 0, ""},
		{"failure", sh("exit 3"), 3, 0, "run /bin/sh: exit status 3"},
		{"failure with a reason", sh("echo one >&2; echo two words >&2; echo >&2; exit 1"), 1, 0, "run /bin/sh: exit status 1: two words"},
		{"126", sh("exit 126"), 126, 0, "run /bin/sh: exit status 126 (a command was found but could not be run)"},
		{"127", sh("exit 127"), 127, 0, "run /bin/sh: exit status 127 (a command was not found)"},
		{"signal", sh("kill -KILL $$"), -1, syscall.SIGKILL, "run /bin/sh: killed by signal 9 (killed)"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			before := time.Now()
			res, err := Run(t.Context(), tt.cmd)
			if got := text(err); got != tt.err {
				t.Errorf("error %q, want %q", got, tt.err)
			}
			var exit *ExitError
			if err != nil && !errors.As(err, &exit) {
				t.Errorf("error is a %T, want *ExitError", err)
			}
			if res.Code != tt.code || res.Signal != tt.signal || res.TimedOut {
				t.Errorf("got code %d, signal %v, timed out %v; want %d, %v, false", res.Code, res.Signal, res.TimedOut, tt.code, tt.signal)
			}
			if res.Started.Before(before) || res.Duration <= 0 || res.Started.Add(res.Duration).After(time.Now()) {
				t.Errorf("started %v, took %v: not within the test", res.Started, res.Duration)
			}
		})
	}
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// TestCannotStart has one case for every way a program can fail to start, and Check must foresee each that it can.
func TestCannotStart(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	plain := file(t, "plain", "#!/bin/sh\n", 0o644)
	noInterp := file(t, "nointerp", "#!/nonexistent/python9 -u\n", 0o755)
	crlf := file(t, "crlf", "#!/bin/sh\r\nexit 0\r\n", 0o755)
	noEnv := file(t, "noenv", "#!/usr/bin/env no-such-program-here\n", 0o755)
	noLine := file(t, "noline", "exit 0\n", 0o755)
	empty := file(t, "empty", "", 0o755)
	loop := filepath.Join(dir, "loop")
	dangling := filepath.Join(dir, "dangling")
	for link, target := range map[string]string{loop: "loop", dangling: "../gone/away"} {
		if err := os.Symlink(target, link); err != nil {
			t.Fatal(err)
		}
	}
	deleted := file(t, "deleted", "#!/bin/sh\n", 0o755)
	if _, err := Run(t.Context(), Command{Argv: []string{deleted}}); err != nil {
		t.Fatalf("before it was deleted: %v", err)
	}
	if err := os.Remove(deleted); err != nil {
		t.Fatal(err)
	}
	busy := file(t, "busy", "#!/bin/sh\n", 0o755)
	writer, err := os.OpenFile(busy, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { writer.Close() }) // later than the parallel cases

	tests := []struct {
		name  string
		cmd   Command
		want  string // in the error
		is    error
		check string // in Check's error; "=": as want; "": Check can't see it
	}{
		{"no program", Command{}, "no program given", nil, "="},
		{"empty program", Command{Argv: []string{""}}, "no program given", nil, "="},
		{"missing", Command{Argv: []string{dir + "/gone/x"}}, dir + "/gone: no such file or directory", fs.ErrNotExist, "="},
		{"not in PATH", Command{Argv: []string{"no-such-program-here"}}, "is in none of /usr/local/sbin:", fs.ErrNotExist, "="},
		{"relative", Command{Argv: []string{"./x"}}, `"./x" is neither an absolute path nor a plain name`, nil, "="},
		{"deleted later", Command{Argv: []string{deleted}}, deleted + ": no such file or directory", fs.ErrNotExist, "="},
		{"dangling link", Command{Argv: []string{dangling}}, filepath.Join(dir, "../gone") + ": no such file", fs.ErrNotExist, "="},
		{"link loop", Command{Argv: []string{loop}}, "too many levels of symbolic links", syscall.ELOOP, "="},
		{"not executable", Command{Argv: []string{plain}}, plain + " is not executable (-rw-r--r--, owner ", fs.ErrPermission, "="},
		{"directory", Command{Argv: []string{dir}}, dir + " is a directory", fs.ErrPermission, "="},
		{"file as directory", Command{Argv: []string{plain + "/x"}}, plain + " is not a directory", syscall.ENOTDIR, "="},
		{"bad interpreter", Command{Argv: []string{noInterp}}, `names the interpreter "/nonexistent/python9": /nonexistent: no such file`, fs.ErrNotExist, "="},
		{"carriage return", Command{Argv: []string{crlf}}, `names the interpreter "/bin/sh\r"`, fs.ErrNotExist, "="},
		{"env cannot find it", Command{Argv: []string{noEnv}}, "exit status 127", nil, "no-such-program-here is in none of"},
		{"no #! line", Command{Argv: []string{noLine}}, "neither a program nor a script with a #! line", syscall.ENOEXEC, "="},
		{"empty file", Command{Argv: []string{empty}}, "neither a program nor a script", syscall.ENOEXEC, "="},
		{"unknown user", Command{Argv: []string{"/bin/sh"}, User: "no-such-user"}, `run /bin/sh as no-such-user: no such user "no-such-user"`, nil, "="},
		{"unknown group", Command{Argv: []string{"/bin/sh"}, Group: "no-such-group"}, `no such group "no-such-group"`, nil, "="},
		{"missing directory", Command{Argv: []string{"/bin/sh"}, Dir: "/nonexistent"}, "enter directory /nonexistent: no such file", fs.ErrNotExist, "="},
		{"relative directory", Command{Argv: []string{"/bin/sh"}, Dir: "x"}, `working directory "x" is not an absolute path`, nil, "="},
		{"NUL", Command{Argv: []string{"/bin/sh", "a\x00b"}}, "has a NUL byte", nil, "="},
		{"fork and exec fail", Command{Argv: []string{"/bin/sh", strings.Repeat("x", 256<<10)}}, "argument list too long", syscall.E2BIG, "="},
		{"being written", Command{Argv: []string{busy}}, "text file busy", syscall.ETXTBSY, ""},
	}
	if os.Geteuid() != 0 {
		closed := filepath.Join(dir, "closed")
		if err := os.Mkdir(closed, 0o600); err != nil {
			t.Fatal(err)
		}
		tests = append(tests, []struct {
			name  string
			cmd   Command
			want  string
			is    error
			check string
		}{
			{"closed directory", Command{Argv: []string{closed + "/x"}}, "directory " + closed + " cannot be entered by", fs.ErrPermission, "="},
			{"user without the right", Command{Argv: []string{"/bin/sh"}, User: "root"}, "operation not permitted", fs.ErrPermission, "cannot tell"},
			{"missing for another user", Command{Argv: []string{dir + "/gone"}, User: "root"}, "operation not permitted", fs.ErrPermission, "no such file"},
		}...)
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			res, err := Run(t.Context(), tt.cmd)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Run: error %v, want one with %q", err, tt.want)
			}
			var start *StartError
			if tt.check == "=" && !errors.As(err, &start) {
				t.Errorf("Run: error is a %T, want *StartError", err)
			}
			if tt.is != nil && !errors.Is(err, tt.is) {
				t.Errorf("Run: error %v is not %v", err, tt.is)
			}
			if res.Code == 0 {
				t.Error("Run: code 0 for a program that didn't run")
			}
			want := tt.check
			if want == "=" {
				want = tt.want
			}
			switch err := Check(tt.cmd); {
			case want == "" && err != nil:
				t.Errorf("Check: %v, want nil", err)
			case want != "" && (err == nil || !strings.Contains(err.Error(), want)):
				t.Errorf("Check: error %v, want one with %q", err, want)
			}
		})
	}
}

// TestOutOfDescriptors is the failure before the fork.
func TestOutOfDescriptors(t *testing.T) {
	var old unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &old); err != nil {
		t.Fatal(err)
	}
	probe, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	lowest := probe.Fd()
	probe.Close()
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: uint64(lowest) + 1, Max: old.Max}); err != nil {
		t.Fatal(err)
	}
	res, err := Run(t.Context(), sh("exit 0"))
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &old); err != nil {
		t.Fatal(err)
	}
	var start *StartError
	if !errors.As(err, &start) || !errors.Is(err, syscall.EMFILE) || res.Code != -1 {
		t.Errorf("got %v, code %d; want a *StartError for too many open files", err, res.Code)
	}
	if _, err := Run(t.Context(), sh("exit 0")); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

func TestCheckAccepts(t *testing.T) {
	t.Parallel()
	script := file(t, "script", "#! /bin/sh -e\nexit 1\n", 0o755)
	env := file(t, "env", "#!/usr/bin/env sh\nexit 1\n", 0o755)
	nested := file(t, "nested", "#!"+script+"\n", 0o755)
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(script, link); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"/bin/sh", "sh", script, env, nested, link, "/bin/../bin/sh"} {
		if err := Check(Command{Argv: []string{name}}); err != nil {
			t.Errorf("Check(%s): %v", name, err)
		}
	}
}

// TestTimeoutKillsGroup: SIGTERM reaches the program and what it has started, and the program may say goodbye.
func TestTimeoutKillsGroup(t *testing.T) {
	t.Parallel()
	c := sh(`trap 'echo bye; exit 0' TERM; sleep 1000 & echo $!; wait`)
	var out bytes.Buffer
	c.Stdout, c.Timeout = &out, 700*time.Millisecond
	res, err := Run(t.Context(), c)
	if !errors.Is(err, context.DeadlineExceeded) || !res.TimedOut {
		t.Errorf("got %v, timed out %v; want a deadline's error", err, res.TimedOut)
	}
	if !strings.HasPrefix(text(err), "run /bin/sh: timed out after ") {
		t.Errorf("error %q", err)
	}
	if res.Code != 0 {
		t.Errorf("code %d, want 0: it left by itself, though too late", res.Code)
	}
	pid, bye, _ := strings.Cut(out.String(), "\n")
	if bye != "bye\n" {
		t.Errorf("output %q, want the farewell too", out.String())
	}
	assertGone(t, pid)
}

// TestGraceKills: what ignores SIGTERM is killed after the grace time, also if only the program itself listens to it.
func TestGraceKills(t *testing.T) {
	t.Parallel()
	tests := []struct{ name, script string }{
		{"program ignores", `trap '' TERM; echo $$; while :; do sleep 1000; done`},
		{"its child ignores", `(trap '' TERM; exec sleep 1000) & echo $!; wait`},
		{"stopped", `echo $$; kill -STOP $$`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var out bytes.Buffer
			c := sh(tt.script)
			c.Stdout, c.Timeout, c.Grace = &out, 700*time.Millisecond, 150*time.Millisecond
			res, err := Run(t.Context(), c)
			if !res.TimedOut || res.Code != -1 || res.Signal == 0 {
				t.Errorf("got %+v, %v; want a timeout and a signal", res, err)
			}
			assertGone(t, strings.TrimSpace(out.String()))
		})
	}
}

// assertGone waits for a process to go: its new parent may take a moment to reap it.
func assertGone(t *testing.T, pid string) {
	t.Helper()
	n, err := strconv.Atoi(pid)
	if err != nil {
		t.Fatalf("no process number: %q", pid)
	}
	deadline := time.Now().Add(5 * time.Second)
	for time.Now().Before(deadline) {
		b, err := os.ReadFile("/proc/" + pid + "/stat")
		if err != nil || strings.HasPrefix(string(b[bytes.LastIndexByte(b, ')')+1:]), " Z") {
			return
		}
		runtime.Gosched()
	}
	_ = syscall.Kill(n, syscall.SIGKILL)
	t.Errorf("process %s still runs", pid)
}

func TestCancel(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	pr, pw := io.Pipe()
	go func() {
		_, _ = pr.Read(make([]byte, 1)) // it runs
		cancel()
		_, _ = io.Copy(io.Discard, pr)
	}()
	c := sh("echo up; exec sleep 1000")
	c.Stdout = pw
	res, err := Run(ctx, c)
	var exit *ExitError
	if !errors.As(err, &exit) || !errors.Is(err, context.Canceled) || res.TimedOut || res.Signal != syscall.SIGTERM {
		t.Errorf("got %+v, %v; want stopped by SIGTERM, cancelled", res, err)
	}
	if !strings.HasPrefix(text(err), "run /bin/sh: stopped after ") {
		t.Errorf("error %q", err)
	}
	if _, err := Run(ctx, sh("exit 0")); !errors.Is(err, context.Canceled) {
		t.Errorf("with a dead context: %v", err)
	}
}

// TestDaemonLivesOn is pg_ctl start: the program ends, what it left behind goes on, with our pipes or without, in its group or in
// another, while the context ends.
func TestDaemonLivesOn(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		stdout bool
		script string
	}{
		{"same group", false, `%`},
		{"own session", false, `setsid sh -c '%' _ "$1" "$2"`},
		{"holds our pipe", true, `%`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			in, alive := filepath.Join(dir, "in"), filepath.Join(dir, "alive")
			for _, f := range []string{in, alive} {
				if err := syscall.Mkfifo(f, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			// It writes to its standard error after we have left: that must not kill it.
			daemon := strings.ReplaceAll(tt.script, "%", `read x <"$1"; echo more >&2; echo alive >"$2"`)
			c := sh("echo hi; echo err >&2; ("+daemon+") & exit 0", in, alive)
			var out bytes.Buffer
			if tt.stdout {
				c.Stdout = &out
			}
			ctx, cancel := context.WithCancel(t.Context())
			c.Timeout = 10 * time.Second
			res, err := Run(ctx, c)
			cancel()
			if err != nil || res.TimedOut {
				t.Fatalf("Run: %+v, %v", res, err)
			}
			if res.Duration > 5*time.Second {
				t.Errorf("took %v: it waited for the daemon", res.Duration)
			}
			if res.Stderr != "err\n" || tt.stdout && out.String() != "hi\n" {
				t.Errorf("stderr %q, stdout %q", res.Stderr, out.String())
			}
			if err := os.WriteFile(in, []byte("go\n"), 0); err != nil {
				t.Fatal(err)
			}
			got, err := os.ReadFile(alive)
			if err != nil || string(got) != "alive\n" {
				t.Errorf("the daemon said %q, %v", got, err)
			}
		})
	}
}

func TestStdio(t *testing.T) {
	t.Parallel()
	t.Run("input and output", func(t *testing.T) {
		t.Parallel()
		var out bytes.Buffer
		want := strings.Repeat("0123456789\n", 40000) // more than a pipe holds
		_, err := Run(t.Context(), Command{Argv: []string{"cat"}, Stdin: strings.NewReader(want), Stdout: &out})
		if err != nil || out.String() != want {
			t.Errorf("got %d bytes, %v; want %d", out.Len(), err, len(want))
		}
	})
	t.Run("input not read", func(t *testing.T) {
		t.Parallel()
		c := sh("exit 0")
		c.Stdin = strings.NewReader(strings.Repeat("x", 1<<20))
		if _, err := Run(t.Context(), c); err != nil {
			t.Error(err)
		}
	})
	t.Run("nothing given", func(t *testing.T) {
		t.Parallel()
		if _, err := Run(t.Context(), sh(`read x && exit 1; echo lost; [ "$(readlink /proc/$$/fd/1)" = /dev/null ]`)); err != nil {
			t.Error(err)
		}
	})
	t.Run("one writer for both", func(t *testing.T) {
		t.Parallel()
		var out bytes.Buffer
		c := sh("for i in 1 2 3; do echo o$i; echo e$i >&2; done")
		c.Stdout, c.Stderr = &out, &out
		res, err := Run(t.Context(), c)
		if got, want := out.String(), "o1\ne1\no2\ne2\no3\ne3\n"; err != nil || got != want || res.Stderr != "" {
			t.Errorf("got %q, %v, tail %q; want %q", got, err, res.Stderr, want)
		}
	})
	t.Run("files", func(t *testing.T) {
		t.Parallel()
		f, err := os.Create(filepath.Join(t.TempDir(), "out"))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		c := sh("echo o; echo e >&2")
		c.Stdout, c.Stderr = f, f
		_, err = Run(t.Context(), c)
		got, _ := os.ReadFile(f.Name())
		if err != nil || string(got) != "o\ne\n" {
			t.Errorf("got %q, %v", got, err)
		}
	})
	t.Run("reopened", func(t *testing.T) {
		t.Parallel()
		var out bytes.Buffer
		c := sh("echo o >/dev/stdout; echo e >/dev/stderr")
		c.Stdout = &out
		res, err := Run(t.Context(), c)
		if err != nil || out.String() != "o\n" || res.Stderr != "e\n" {
			t.Errorf("got %q and %q, %v", out.String(), res.Stderr, err)
		}
	})
	t.Run("tail", func(t *testing.T) {
		t.Parallel()
		res, err := Run(t.Context(), sh("yes 0123456 | head -c 3000000 >&2; echo end >&2"))
		if err != nil || len(res.Stderr) != tailSize || !strings.HasSuffix(res.Stderr, "0123456\nend\n") {
			t.Errorf("%d bytes ending in %q, %v", len(res.Stderr), lastLine(res.Stderr), err)
		}
	})
	t.Run("writer fails", func(t *testing.T) {
		t.Parallel()
		c := sh("yes | head -c 300000; exit 0") // it must not hang or be killed for that
		c.Stdout = failingWriter{}
		res, err := Run(t.Context(), c)
		if res.Code != 0 || text(err) != "run /bin/sh: deliver its output: disk full" {
			t.Errorf("got %+v, %v", res, err)
		}
	})
	t.Run("writer hangs", func(t *testing.T) {
		t.Parallel()
		hang := make(chan struct{})
		defer close(hang)
		c := sh("echo x")
		c.Stdout = hangingWriter(hang)
		if _, err := Run(t.Context(), c); text(err) != "run /bin/sh: its output could not be delivered" {
			t.Errorf("got %v", err)
		}
	})
}

type failingWriter struct{}

func (failingWriter) Write([]byte) (int, error) { return 0, errors.New("disk full") }

type hangingWriter chan struct{}

func (h hangingWriter) Write(b []byte) (int, error) { <-h; return len(b), nil }

// TestTrim: a program that writes without end takes no memory for it, and the tail is right.
func TestTrim(t *testing.T) {
	t.Parallel()
	f, err := newCapture()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	s := &stdio{capture: f}
	for range 8 {
		if _, err := f.Write(bytes.Repeat([]byte("y"), trimSize)); err != nil {
			t.Fatal(err)
		}
		s.trim()
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		t.Fatal(err)
	}
	if got := st.Blocks * 512; got > 3*trimSize {
		t.Errorf("%d bytes in memory, want at most %d", got, 3*trimSize)
	}
	if got := s.tail(); got != strings.Repeat("y", tailSize) {
		t.Errorf("tail %d bytes, want %d times y", len(got), tailSize)
	}
	if _, err := f.Write([]byte("x")); !errors.Is(err, syscall.EPERM) {
		t.Errorf("write after the end: %v, want EPERM", err)
	}
}

func TestEnvironment(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "/run/secret")
	t.Setenv("LC_ALL", "de_DE.UTF-8")
	var out bytes.Buffer
	c := Command{Argv: []string{"env"}, Env: []string{"A=1", "LANG=C.UTF-8"}, Stdout: &out}
	if _, err := Run(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	id, err := lookup("", "")
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"A=1", "LANG=C.UTF-8", "PATH=" + searchPath}
	if id.name != "" {
		want = append(want, "USER="+id.name, "LOGNAME="+id.name, "HOME="+id.home)
	}
	got := strings.Fields(out.String())
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// TestNothingInherited has what any user can set up; TestNothingOfOursInHook has the rest.
func TestNothingInherited(t *testing.T) {
	leak, err := syscall.Dup(1) // dup clears close-on-exec
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(leak)
	signal.Ignore(syscall.SIGUSR1, syscall.SIGPIPE)
	defer signal.Reset(syscall.SIGUSR1, syscall.SIGPIPE)
	defer syscall.Umask(syscall.Umask(0o077))
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var old uint64
	block := uint64(1) << (syscall.SIGUSR2 - 1)
	sigprocmask(t, 0, &block, &old)
	defer sigprocmask(t, 2, &old, nil)

	p := inspectChild(t, Command{})
	for _, field := range []string{"SigBlk", "SigIgn", "SigCgt", "ShdPnd"} {
		if got := p.status[field]; strings.Trim(got, "0") != "" {
			t.Errorf("%s %s, want none", field, got)
		}
	}
	if got := p.status["Umask"]; got != "0022" {
		t.Errorf("umask %s, want 0022", got)
	}
	if want := []string{"0", "1", "2"}; !slices.Equal(p.fds, want) {
		t.Errorf("descriptors %q, want %q", p.fds, want)
	}
	if p.cwd != "/" {
		t.Errorf("working directory %s, want /", p.cwd)
	}
	if p.pgrp != p.pid || p.session != p.pid || p.tty != "0" {
		t.Errorf("process %s has group %s, session %s, terminal %s; want its own and none", p.pid, p.pgrp, p.session, p.tty)
	}
	assertLimits(t, p)
}

func sigprocmask(t *testing.T, how uintptr, set, old *uint64) {
	t.Helper()
	if _, _, errno := unix.RawSyscall6(unix.SYS_RT_SIGPROCMASK, how, uintptr(unsafe.Pointer(set)), uintptr(unsafe.Pointer(old)), 8, 0, 0); errno != 0 {
		t.Fatal(errno)
	}
}

// proc is what /proc says of a child.
type proc struct {
	pid, pgrp, session, tty, cwd string
	nice, policy, oom            string
	status                       map[string]string
	fds                          []string
	limits                       map[int]unix.Rlimit
	affinity                     unix.CPUSet
	ioprio                       uintptr
}

// inspectChild runs a program with the rest of c and looks at it while it runs.
func inspectChild(t *testing.T, c Command) proc {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	pr, pw := io.Pipe()
	c.Argv = []string{"/bin/sh", "-c", "echo $$; exec sleep 1000"}
	c.Stdout = pw
	done := make(chan error, 1)
	go func() {
		_, err := Run(ctx, c)
		pw.CloseWithError(err)
		done <- err
	}()
	defer func() {
		cancel()
		<-done
	}()
	b := make([]byte, 32)
	n, err := pr.Read(b)
	if err != nil {
		t.Fatal(err)
	}
	p := proc{pid: strings.TrimSpace(string(b[:n]))}
	for readProc(t, p.pid, "comm") != "sleep\n" {
		runtime.Gosched() // between echo and exec
	}
	p.parse(t, func(name string) string { return readProc(t, p.pid, name) })
	if p.cwd, err = os.Readlink("/proc/" + p.pid + "/cwd"); err != nil {
		t.Fatal(err)
	}
	// The program may still have one of its libraries open, but not for long.
	for deadline := time.Now().Add(5 * time.Second); ; runtime.Gosched() {
		entries, err := os.ReadDir("/proc/" + p.pid + "/fd")
		if err != nil {
			t.Fatal(err)
		}
		p.fds = nil
		for _, e := range entries {
			p.fds = append(p.fds, e.Name())
		}
		if len(p.fds) <= 3 || time.Now().After(deadline) {
			break
		}
	}
	pid, _ := strconv.Atoi(p.pid)
	if err := unix.SchedGetaffinity(pid, &p.affinity); err != nil {
		t.Fatal(err)
	}
	var errno syscall.Errno
	if p.ioprio, _, errno = unix.RawSyscall(unix.SYS_IOPRIO_GET, 1, uintptr(pid), 0); errno != 0 {
		t.Fatal(errno)
	}
	return p
}

func readProc(t *testing.T, pid, name string) string {
	t.Helper()
	b, err := os.ReadFile("/proc/" + pid + "/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// parse takes from /proc what one may read of any process.
func (p *proc) parse(t *testing.T, read func(name string) string) {
	t.Helper()
	p.status = map[string]string{}
	for line := range strings.Lines(read("status")) {
		k, v, _ := strings.Cut(line, ":")
		p.status[k] = strings.TrimSpace(v)
	}
	stat := read("stat")
	f := strings.Fields(stat[strings.LastIndexByte(stat, ')')+1:])
	const first = 3 // the number of f[0] in proc_pid_stat(5)
	p.pgrp, p.session, p.tty, p.nice, p.policy = f[5-first], f[6-first], f[7-first], f[19-first], f[41-first]
	p.oom = strings.TrimSpace(read("oom_score_adj"))
	p.limits = parseLimits([]byte(read("limits")))
}

// assertLimits wants the limits of defaultLimits, as far as our hard ones allow them.
func assertLimits(t *testing.T, p proc) {
	t.Helper()
	if len(p.limits) != 16 {
		t.Fatalf("%d limits, want 16", len(p.limits))
	}
	for resource, want := range defaultLimits() {
		var ours unix.Rlimit
		if err := unix.Getrlimit(resource, &ours); err != nil {
			t.Fatal(err)
		}
		if !capable(t, unix.CAP_SYS_RESOURCE) {
			want.Max = min(want.Max, ours.Max)
			want.Cur = min(want.Cur, want.Max)
		}
		if got := p.limits[resource]; got != want {
			t.Errorf("%s %+v, want %+v", limitName(resource), got, want)
		}
	}
}

func capable(t *testing.T, bit int) bool {
	t.Helper()
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&hdr, &data[0]); err != nil {
		t.Fatal(err)
	}
	return data[bit/32].Effective&(1<<(bit%32)) != 0
}

func TestParseLimits(t *testing.T) {
	t.Parallel()
	got := parseLimits([]byte(`Limit                     Soft Limit           Hard Limit           Units     
Max cpu time              unlimited            unlimited            seconds   
Max core file size        0                    unlimited            bytes     
Max open files            1073741816           1073741816           files     
Max realtime timeout      10000                20000                us        
Max nonsense              1                    2                    bytes     
Max nice priority         x                    0                    
`))
	const inf = ^uint64(0)
	want := map[int]unix.Rlimit{
		unix.RLIMIT_CPU: {Cur: inf, Max: inf}, unix.RLIMIT_CORE: {Cur: 0, Max: inf},
		unix.RLIMIT_NOFILE: {Cur: 1073741816, Max: 1073741816}, unix.RLIMIT_RTTIME: {Cur: 10000, Max: 20000},
	}
	if len(got) != len(want) {
		t.Errorf("got %v, want %v", got, want)
	}
	for k, v := range want {
		if got[k] != v {
			t.Errorf("%s: got %+v, want %+v", limitName(k), got[k], v)
		}
	}
}

// TestStopIsBounded: a program that even SIGKILL does not end costs the grace time and dieWait, no more.
func TestStopIsBounded(t *testing.T) {
	t.Parallel()
	p, err := os.StartProcess("/bin/sleep", []string{"sleep", "1000"}, &os.ProcAttr{Sys: &syscall.SysProcAttr{Setsid: true}})
	if err != nil {
		t.Fatal(err)
	}
	before := time.Now()
	stop(p.Pid, 100*time.Millisecond, make(chan struct{})) // it never ends
	if took := time.Since(before); took < 100*time.Millisecond+dieWait || took > 10*time.Second {
		t.Errorf("took %v, want about %v", took, 100*time.Millisecond+dieWait)
	}
	if _, err := p.Wait(); err != nil {
		t.Error(err)
	}
	e := &ExitError{Command: sh(""), Result: Result{TimedOut: true, Duration: 3 * time.Second}, Err: context.DeadlineExceeded, Gone: make(chan struct{}), pid: 7}
	if got, want := e.Error(), "run /bin/sh: timed out after 3s and it does not die: process 7 hangs in the kernel"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// TestManyAtOnce mixes the outcomes, and leaves neither a zombie nor a descriptor.
func TestManyAtOnce(t *testing.T) {
	before := descriptors(t)
	var wg sync.WaitGroup
	for i := range 40 {
		wg.Go(func() {
			c := sh("exit $1", strconv.Itoa(i%3))
			if i%4 == 3 {
				c = sh("sleep 1000")
				c.Timeout = 30 * time.Millisecond
			}
			var out bytes.Buffer
			c.Stdout, c.Stdin = &out, strings.NewReader("x")
			res, err := Run(t.Context(), c)
			switch {
			case i%4 == 3 && !res.TimedOut:
				t.Errorf("%d: %v, want a timeout", i, err)
			case i%4 != 3 && res.Code != i%3:
				t.Errorf("%d: %v, want exit status %d", i, err, i%3)
			}
		})
	}
	wg.Wait()
	if after := descriptors(t); after > before+2 {
		t.Errorf("%d descriptors open, %d before", after, before)
	}
	var info unix.Siginfo
	if err := unix.Waitid(unix.P_ALL, 0, &info, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil); err == nil && info.Signo != 0 {
		t.Error("a zombie is left")
	}
}

func descriptors(t *testing.T) int {
	t.Helper()
	e, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(e)
}

func TestString(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		argv []string
		want string
	}{
		{nil, ""},
		{[]string{"/bin/x", "-a", "b=c", "d:e@f"}, "/bin/x -a b=c d:e@f"},
		{[]string{"/bin/x y", "", "it's", "$HOME"}, `'/bin/x y' '' 'it'\''s' '$HOME'`},
	} {
		if got := (Command{Argv: tt.argv}).String(); got != tt.want {
			t.Errorf("got %s, want %s", got, tt.want)
		}
	}
}

func TestSecureRefuses(t *testing.T) {
	t.Parallel()
	path := file(t, "hook", "#!/bin/sh\n", 0o755)
	// The temporary directory is open to all or not root's, whoever runs the test.
	if err := Secure(Command{Argv: []string{path}}); err == nil || !strings.HasPrefix(err.Error(), path+" runs as root and is not secure: /") {
		t.Errorf("got %v", err)
	}
	if err := Secure(Command{Argv: []string{path}, User: "nobody"}); err != nil {
		t.Errorf("as nobody: %v", err)
	}
	if err := Secure(Command{Argv: []string{path}, User: "no-such-user"}); err == nil {
		t.Error("an unknown user is fine")
	}
	if err := Secure(Command{Argv: []string{"/nonexistent/hook"}}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing: %v", err)
	}
	if err := Secure(Command{Argv: []string{"/bin/sh"}}); err != nil {
		t.Errorf("/bin/sh: %v", err)
	}
}
