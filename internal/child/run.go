package child

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// dieWait is how long we wait for a program to end after SIGKILL; only one that hangs in the kernel needs longer.
const dieWait = time.Second

// groupPoll is how often we look whether the group of a stopped program is empty.
const groupPoll = 10 * time.Millisecond

// Run runs a program to its end. The error is nil only for exit status 0, else a *StartError or an *ExitError.
//
// When the context ends or the timeout passes, the whole process group gets SIGTERM and, after the grace time, SIGKILL; Run
// returns at the latest a second later, even if the program hangs in the kernel (ExitError.Gone). Run waits for the program
// itself only: what it leaves running, in its group or outside, lives on, and is never signalled once the program has ended by
// itself.
func Run(ctx context.Context, c Command) (Result, error) {
	if c.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, c.Timeout)
		defer cancel()
	}
	started := time.Now()
	fail := func(err error) (Result, error) {
		return Result{
			Code: -1, Started: started, Duration: time.Since(started), TimedOut: errors.Is(err, context.DeadlineExceeded),
		}, &StartError{c, err}
	}
	if err := ctx.Err(); err != nil {
		return fail(err)
	}
	if err := validate(c); err != nil {
		return fail(err)
	}
	id, err := identify(ctx, c)
	if err != nil {
		return fail(err)
	}
	return run(ctx, c, id, "run")
}

func run(ctx context.Context, c Command, id identity, mode string) (res Result, err error) {
	res = Result{Code: -1, Started: time.Now()}
	defer func() { res.Duration = time.Since(res.Started) }()
	cannot := func(err error) (Result, error) { return res, &StartError{c, err} }

	stdio, err := newStdio(c)
	if err != nil {
		return cannot(err)
	}
	defer stdio.close()
	p, reportR, err := launch(c, id, mode, stdio)
	if err != nil {
		return cannot(err)
	}
	defer reportR.Close()
	stdio.started()
	report := make(chan []byte, 1)
	go func() {
		b, _ := io.ReadAll(io.LimitReader(reportR, 8<<10))
		report <- b
	}()
	exited := make(chan struct{})
	go func() {
		defer close(exited)
		awaitExit(p.Pid)
	}()

	var killed error // the context's, if we ended it
	trim := time.NewTicker(trimInterval)
	defer trim.Stop()
	for running := true; running; {
		select {
		case <-exited:
			running = false
		case <-trim.C:
			stdio.trim()
		case <-ctx.Done():
			running = false
			select {
			case <-exited: // it was first
			default:
				killed = ctx.Err()
				res.TimedOut = errors.Is(killed, context.DeadlineExceeded)
				stop(p.Pid, c.grace(), exited)
			}
		}
	}
	// The program stays a zombie up to here, so that its number, and its group's, cannot become another's.
	exit := &ExitError{Command: c, Err: killed, pid: p.Pid}
	select {
	case <-exited:
	default:
		gone := make(chan struct{})
		go func() {
			defer close(gone)
			<-exited
			_, _ = p.Wait()
		}()
		exit.Gone = gone
		_ = stdio.finish()
		res.Duration = time.Since(res.Started)
		res.Stderr = stdio.tail()
		exit.Result = res
		return res, exit
	}
	state, err := p.Wait()
	res.Duration = time.Since(res.Started)
	outErr := stdio.finish()
	res.Stderr = stdio.tail()
	if err != nil {
		return cannot(fmt.Errorf("wait for process %d: %w", p.Pid, err))
	}
	ws, _ := state.Sys().(syscall.WaitStatus)
	if ws.Signaled() {
		res.Signal = ws.Signal()
	}

	text, ready := bytes.CutPrefix(<-report, []byte(saidReady))
	if killed == nil && (!ready || len(text) > 0) {
		return cannot(startFailure(text, res))
	}
	res.Code = state.ExitCode()
	if killed == nil && res.Code == 0 && outErr == nil {
		return res, nil
	}
	if killed == nil && res.Code == 0 {
		exit.Err = outErr
	}
	exit.Result = res
	return res, exit
}

// launch starts the shim in a session of its own. What the shim has to say comes from the file; it ends when the program runs.
func launch(c Command, id identity, mode string, stdio *stdio) (*os.Process, *os.File, error) {
	reportR, reportW, err := os.Pipe()
	if err != nil {
		return nil, nil, err
	}
	defer reportW.Close()
	p, err := start(shimArgs(mode, c, id), &os.ProcAttr{
		Env:   environment(id, c.Env),
		Files: append(stdio.files[:], reportW), // its index is reportFD
		Sys:   &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		reportR.Close()
		return nil, nil, err
	}
	return p, reportR, nil
}

func (c Command) grace() time.Duration {
	if c.Grace > 0 {
		return c.Grace
	}
	return DefaultGrace
}

// reported is an error that the shim sent us.
type reported struct {
	text  string
	errno syscall.Errno
	tell  error
}

func (e *reported) Error() string { return e.text }
func (e *reported) Unwrap() []error {
	var errs []error
	if e.errno != 0 {
		errs = append(errs, e.errno)
	}
	if e.tell != nil {
		errs = append(errs, e.tell)
	}
	return errs
}

// startFailure makes an error of what the shim said before it ended.
func startFailure(text []byte, res Result) error {
	text, unknown := bytes.CutPrefix(text, []byte(saidUnknown))
	number, message, ok := strings.Cut(string(text), "\n")
	if !ok {
		err := errors.New("the process ended before the program was started")
		if res.Signal != 0 {
			err = fmt.Errorf("the process was killed by signal %d (%s) before the program was started", int(res.Signal), res.Signal)
		}
		if line := lastLine(res.Stderr); line != "" {
			err = fmt.Errorf("%w: %s", err, line)
		}
		return err
	}
	errno, _ := strconv.Atoi(number)
	e := &reported{text: message, errno: syscall.Errno(errno)}
	if unknown {
		e.text, e.tell = ErrCannotTell.Error()+": "+message, ErrCannotTell
	}
	return e
}

// start starts the shim. A real-time thread hands its policy on, and then the shim would live under our limit on real-time CPU
// time, so such a thread lets another do it: one that takes the normal policy and ends with its goroutine.
func start(argv []string, attr *os.ProcAttr) (*os.Process, error) {
	// The magic link still leads to us after an upgrade has replaced the file.
	const self = "/proc/self/exe"
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if sched, err := unix.SchedGetAttr(0, 0); err != nil || !realTime(sched.Policy) {
		return os.StartProcess(self, argv, attr)
	}
	type answer struct {
		p   *os.Process
		err error
	}
	ch := make(chan answer, 1)
	go func() {
		runtime.LockOSThread() // never unlocked
		_ = setNormal()        // the shim would do it too
		p, err := os.StartProcess(self, argv, attr)
		ch <- answer{p, err}
	}()
	a := <-ch
	return a.p, a.err
}

func realTime(policy uint32) bool {
	return policy == unix.SCHED_FIFO || policy == unix.SCHED_RR || policy == unix.SCHED_DEADLINE
}

// awaitExit returns when a child of ours has ended, and leaves it a zombie.
func awaitExit(pid int) {
	for {
		err := unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOWAIT, nil)
		if !errors.Is(err, syscall.EINTR) {
			return // ECHILD can only mean that somebody else has reaped it
		}
	}
}

// stop ends a process group in bounded time: SIGTERM, up to grace for all of its processes to go, SIGKILL, up to dieWait for the
// leader to end.
func stop(pid int, grace time.Duration, exited <-chan struct{}) {
	_ = syscall.Kill(-pid, syscall.SIGTERM)
	_ = syscall.Kill(-pid, syscall.SIGCONT) // a stopped process would never see it
	timer := time.NewTimer(grace)
	defer timer.Stop()
	poll := time.NewTicker(groupPoll)
	defer poll.Stop()
	for leader, over := exited, false; !over; {
		select {
		case <-leader:
			leader = nil
			over = !groupAlive(pid)
		case <-poll.C:
			over = leader == nil && !groupAlive(pid)
		case <-timer.C:
			over = true
		}
	}
	_ = syscall.Kill(-pid, syscall.SIGKILL)
	timer.Reset(dieWait)
	select {
	case <-exited:
	case <-timer.C:
	}
}

// groupAlive says whether a process of the group runs; kill(2) with signal 0 would count zombies.
func groupAlive(pgid int) bool {
	dir, err := os.Open("/proc")
	if err != nil {
		return false
	}
	defer dir.Close()
	names, _ := dir.Readdirnames(-1)
	for _, name := range names {
		if name[0] < '0' || name[0] > '9' {
			continue
		}
		b, err := os.ReadFile("/proc/" + name + "/stat")
		if err != nil {
			continue
		}
		// pid (comm) state ppid pgrp …; comm may have anything in it
		f := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:])
		if len(f) > 2 && string(f[2]) == strconv.Itoa(pgid) && f[0][0] != 'Z' && f[0][0] != 'X' {
			return true
		}
	}
	return false
}
