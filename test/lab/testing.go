package lab

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// T is what NewT uses of *testing.T.
type T interface {
	Helper()
	Name() string
	Cleanup(func())
	Failed() bool
	Log(args ...any)
	Fatalf(format string, args ...any)
	Skip(args ...any)
	Errorf(format string, args ...any)
	Context() context.Context
}

// logsEnv names a directory that gets the logs of a failed test's lab.
const logsEnv = "PGVRRP_LAB_LOGS"

// RunTests is TestMain for packages whose tests make labs: it calls Main, keeps what labs can share (a fresh
// PostgreSQL data directory to copy from) for the length of the run, and exits.
func RunTests(m interface{ Run() int }) {
	Main()
	os.Exit(runTests(m))
}

func runTests(m interface{ Run() int }) int {
	if os.Geteuid() != 0 || os.Getenv(cacheEnv) != "" {
		return m.Run()
	}
	dir, cleanup, err := ShareCache()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer cleanup()
	if err := os.Setenv(cacheEnv, dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

// ShareCache makes a directory for what several labs of one run share. RunTests does this; a program that makes several
// labs sets PGVRRP_LAB_CACHE to the result. Its lock tells later labs that it is in use; a directory whose owner was
// killed is removed by the lab that stood then, or by the next.
func ShareCache() (dir string, cleanup func(), err error) {
	dir, err = os.MkdirTemp(baseDir(""), cachePattern)
	if err != nil {
		return "", nil, fmt.Errorf("make cache for labs: %w", err)
	}
	alive, err := markAlive(dir)
	if err != nil {
		return "", nil, errors.Join(fmt.Errorf("make cache for labs: %w", err), os.RemoveAll(dir))
	}
	return dir, func() {
		_ = os.RemoveAll(dir)
		alive.Close()
	}, nil
}

// Require skips the test for want of root; with CI or PGVRRP_REQUIRE set it fails instead, because a check that can't
// run has failed.
func Require(t T) {
	t.Helper()
	if os.Geteuid() == 0 {
		return
	}
	if os.Getenv("CI") != "" || os.Getenv("PGVRRP_REQUIRE") != "" {
		t.Fatalf("this test needs root")
	}
	t.Skip("this test needs root")
}

// NewT makes a lab for one test. If the test fails, the logs of every process go to a directory below the one that
// PGVRRP_LAB_LOGS names, else their ends to the test's log. The lab goes with the test.
func NewT(t T, opts Options) *Lab {
	t.Helper()
	Require(t)
	l, err := New(context.WithoutCancel(t.Context()), opts)
	if err != nil {
		t.Fatalf("%v", err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			l.report(t)
		}
		if err := l.Close(); err != nil {
			t.Errorf("%v", err)
		}
	})
	return l
}

func (l *Lab) report(t T) {
	t.Helper()
	if base := os.Getenv(logsEnv); base != "" {
		name := strings.Map(func(r rune) rune {
			if strings.ContainsRune(`/\: `, r) {
				return '_'
			}
			return r
		}, t.Name())
		dir := filepath.Join(base, name+"-"+time.Now().UTC().Format("20060102T150405.000"))
		if err := l.SaveLogs(dir); err != nil {
			t.Log(err)
		}
		t.Log("logs of all processes are in " + dir)
		return
	}
	l.eachLog(func(label, path string) {
		b, err := os.ReadFile(path)
		if err != nil || len(b) == 0 {
			return
		}
		if len(b) > 6000 {
			b = append([]byte("…\n"), b[len(b)-6000:]...)
		}
		t.Log("---- " + label + "\n" + string(b))
	})
}

// eachLog calls fn for every spawned process's output and every file below the hosts' /var/log.
func (l *Lab) eachLog(fn func(label, path string)) {
	roots := [][2]string{{"", filepath.Join(l.dir, "logs")}}
	for _, h := range append(l.Hosts(), l.client) {
		roots = append(roots, [2]string{h.name + "/var/log", h.dir("disk", "log")})
	}
	for _, r := range roots {
		_ = filepath.WalkDir(r[1], func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.Type().IsRegular() {
				rel, _ := filepath.Rel(r[1], path)
				fn(filepath.Join(r[0], rel), path)
			}
			return nil
		})
	}
}

// SaveLogs copies every log and packet capture to a directory outside the lab. It ends the captures.
func (l *Lab) SaveLogs(dir string) error {
	var errs []error
	save := func(label, path string) {
		to := filepath.Join(dir, label)
		err := os.MkdirAll(filepath.Dir(to), 0o755)
		if err == nil {
			err = copyFile(path, to, 0o644)
		}
		errs = append(errs, err)
	}
	l.eachLog(save)
	l.mu.Lock()
	captures := append([]*Capture{}, l.captures...)
	l.mu.Unlock()
	for _, c := range captures {
		errs = append(errs, c.Close())
		save("captures/"+filepath.Base(c.File), c.File)
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("save logs: %w", err)
	}
	return nil
}

// Poll calls check at once and then every interval until it returns true, fails, or ctx ends; last says in the error
// what was still missing.
func Poll(ctx context.Context, every time.Duration, check func() (ok bool, last string, err error)) error {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		ok, last, err := check()
		if err != nil || ok {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("%w: %s", ctx.Err(), last)
		}
	}
}
