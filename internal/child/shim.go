package child

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Between our fork and the program stands a short run of our own executable, the shim. os/exec alone cannot do what is needed:
// limits and the oom score belong to the process and cannot be undone between Go's fork and its exec; and done by the parent
// from outside they need a capability that vrrpd doesn't have as soon as the child has another user (prlimit(2),
// CAP_SYS_RESOURCE). A shell could neither clear ignored signals nor capabilities and
// would turn "cannot be started" into an exit status. It costs about 2 ms.
//
// The parent death signal is not among the things set: it fires when the thread that forked ends, and Go ends threads at will.

// shimName is argv[0] of the shim, and what turns our executable into it.
const shimName = "pgvrrp-child"

// reportFD is where the shim tells how far it came; it closes on exec.
const reportFD = 3

// What the shim says on reportFD. Silence means that it died.
const (
	saidReady   = "+" // next is the exec; what follows is an error after all
	saidUnknown = "?" // a check that we have no right to make
)

// The shim lives in init, and not in a function for main to call, because a main that forgot the call would start itself over
// and over again; and so that tests, which have a main of their own, run what the programs run.
func init() {
	if len(os.Args) >= 8 && os.Args[0] == shimName {
		// Init functions run locked to the main thread, so that what is set per thread is set on the one that execs.
		runtime.LockOSThread()
		shim(os.Args)
	}
}

func shimArgs(mode string, c Command, id identity) []string {
	args := []string{shimName, mode, id.name, "-", "-", "-", c.Dir}
	if id.change {
		args[3], args[4] = strconv.Itoa(id.uid), strconv.Itoa(id.gid)
		if id.groups != nil {
			var s []string
			for _, g := range id.groups {
				s = append(s, strconv.Itoa(g))
			}
			args[5] = strings.Join(s, ",")
		}
	}
	return append(args, c.Argv...)
}

// shim drops what is ours and becomes the program, or says why not; it doesn't return. It leaves by the bare system call, since
// nothing that could want to run at exit is its own.
func shim(args []string) {
	report := os.NewFile(reportFD, "report")
	fail := func(prefix, text string, err error) {
		var errno syscall.Errno
		errors.As(err, &errno)
		_, _ = fmt.Fprintf(report, "%s%d\n%s", prefix, int(errno), text)
		syscall.Exit(1)
	}
	mode, who, dir, argv := args[1], args[2], args[6], args[7:]
	if who == "" {
		who = "uid " + strconv.Itoa(os.Geteuid())
	}

	// A script that its user can't read can't be run either, but we may see that it is one.
	var head []byte
	if mode == "check" && strings.HasPrefix(argv[0], "/") {
		head, _ = readHead(argv[0])
	}

	if err := unprivilege(args[3], args[4], args[5]); err != nil {
		if mode == "check" && errors.Is(err, syscall.EPERM) {
			if err := inspect(argv[0], &inspector{who: who, blind: true, head: head}); err != nil {
				fail("", err.Error(), err)
			}
			fail(saidUnknown, "only root can tell", syscall.EPERM)
		}
		fail("", err.Error(), err)
	}
	if dir == "" {
		dir = "/"
	}
	if err := syscall.Chdir(dir); err != nil {
		fail("", "enter directory "+dir+": "+err.Error(), err)
	}
	path, err := findProgram(argv[0])
	if err != nil {
		fail("", err.Error(), err)
	}
	if mode == "check" {
		if err := inspect(path, &inspector{who: who, head: head}); err != nil {
			fail("", err.Error(), err)
		}
		_, _ = io.WriteString(report, saidReady)
		syscall.Exit(0)
	}

	if err := closeOnExec(); err != nil {
		fail("", "close inherited descriptors: "+err.Error(), err)
	}
	if err := resetSignals(); err != nil {
		fail("", "reset signals: "+err.Error(), err)
	}
	_, _ = io.WriteString(report, saidReady)
	env := syscall.Environ()
	err = syscall.Exec(path, argv, env)
	// Somebody still writes the file, as an installer or another thread's fork does for an instant.
	for try := 0; errors.Is(err, syscall.ETXTBSY) && try < 10; try++ {
		<-time.After(10 * time.Millisecond)
		err = syscall.Exec(path, argv, env)
	}
	text := err.Error()
	if why := inspect(path, &inspector{who: who}); why != nil {
		text = why.Error() // "no such file" may mean the interpreter, "permission denied" some directory above
	} else if errors.Is(err, syscall.EAGAIN) {
		text = "the limit on processes of " + who + " is reached: " + text
	}
	fail("", text, err)
}

// unprivilege gives up everything of ours that would survive execve(2), then becomes the user. What can always be given up
// must succeed; what is only a disadvantage (a raised nice value, a lowered hard limit) may need a privilege to undo and is
// left if it can't be. Each call is made only if needed, for a sandbox may forbid it.
func unprivilege(uid, gid, groups string) error {
	if err := resetOOMScore(); err != nil {
		return fmt.Errorf("reset oom score: %w", err)
	}
	if err := resetLimits(); err != nil {
		return err
	}
	if err := resetScheduling(); err != nil {
		return fmt.Errorf("reset scheduling: %w", err)
	}
	syscall.Umask(0o022)
	if groups != "-" {
		var list []int
		for s := range strings.SplitSeq(groups, ",") {
			n, err := strconv.Atoi(s)
			if err != nil {
				return err
			}
			list = append(list, n)
		}
		if err := syscall.Setgroups(list); err != nil {
			return fmt.Errorf("set groups %s: %w", groups, err)
		}
	}
	if gid != "-" {
		n, err := strconv.Atoi(gid)
		if err != nil {
			return err
		}
		if err := syscall.Setresgid(n, n, n); err != nil {
			return fmt.Errorf("change to group %s: %w", gid, err)
		}
	}
	if uid != "-" {
		n, err := strconv.Atoi(uid)
		if err != nil {
			return err
		}
		if err := syscall.Setresuid(n, n, n); err != nil {
			return fmt.Errorf("change to user %s: %w", uid, err)
		}
	}
	if err := resetCapabilities(); err != nil {
		return fmt.Errorf("drop capabilities: %w", err)
	}
	return nil
}

const oomFile = "/proc/self/oom_score_adj"

func resetOOMScore() error {
	b, err := os.ReadFile(oomFile)
	if err != nil {
		return err
	}
	score, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		return err
	}
	if score == 0 {
		return nil
	}
	f, err := os.OpenFile(oomFile, os.O_WRONLY, 0)
	if err == nil {
		_, err = f.WriteString("0")
		f.Close()
	}
	if score > 0 {
		return nil // lowering it needs CAP_SYS_RESOURCE
	}
	return err
}

// defaultLimits is what a program gets: the limits of process 1, which the kernel and the distribution made, but for the two
// that systemd raises for itself, with what it gives a service instead (systemd-system.conf(5), DefaultLimitNOFILE= and
// DefaultLimitMEMLOCK=). Where process 1 is hidden, they are the kernel's own, and those that it computes are left alone.
func defaultLimits() map[int]unix.Rlimit {
	const inf = ^uint64(0)
	limits := map[int]unix.Rlimit{
		unix.RLIMIT_CPU: {Cur: inf, Max: inf}, unix.RLIMIT_FSIZE: {Cur: inf, Max: inf}, unix.RLIMIT_DATA: {Cur: inf, Max: inf},
		unix.RLIMIT_STACK: {Cur: 8 << 20, Max: inf}, unix.RLIMIT_CORE: {Cur: 0, Max: inf}, unix.RLIMIT_RSS: {Cur: inf, Max: inf},
		unix.RLIMIT_NOFILE: {Cur: 1024, Max: 524288}, unix.RLIMIT_MEMLOCK: {Cur: 8 << 20, Max: 8 << 20},
		unix.RLIMIT_AS: {Cur: inf, Max: inf}, unix.RLIMIT_LOCKS: {Cur: inf, Max: inf},
		unix.RLIMIT_MSGQUEUE: {Cur: 819200, Max: 819200}, unix.RLIMIT_NICE: {}, unix.RLIMIT_RTPRIO: {},
		unix.RLIMIT_RTTIME: {Cur: inf, Max: inf},
	}
	text, err := os.ReadFile("/proc/1/limits")
	if err != nil {
		return limits
	}
	for resource, l := range parseLimits(text) {
		if want, ok := limits[resource]; ok && (resource == unix.RLIMIT_NOFILE || resource == unix.RLIMIT_MEMLOCK) {
			l = unix.Rlimit{Cur: min(l.Cur, want.Cur), Max: min(l.Max, want.Max)}
		}
		limits[resource] = l
	}
	return limits
}

// limitName is how proc_pid_limits(5) calls a limit.
func limitName(resource int) string {
	return [...]string{
		unix.RLIMIT_CPU: "Max cpu time", unix.RLIMIT_FSIZE: "Max file size", unix.RLIMIT_DATA: "Max data size",
		unix.RLIMIT_STACK: "Max stack size", unix.RLIMIT_CORE: "Max core file size", unix.RLIMIT_RSS: "Max resident set",
		unix.RLIMIT_NPROC: "Max processes", unix.RLIMIT_NOFILE: "Max open files", unix.RLIMIT_MEMLOCK: "Max locked memory",
		unix.RLIMIT_AS: "Max address space", unix.RLIMIT_LOCKS: "Max file locks", unix.RLIMIT_SIGPENDING: "Max pending signals",
		unix.RLIMIT_MSGQUEUE: "Max msgqueue size", unix.RLIMIT_NICE: "Max nice priority", unix.RLIMIT_RTPRIO: "Max realtime priority",
		unix.RLIMIT_RTTIME: "Max realtime timeout",
	}[resource]
}

// parseLimits reads proc_pid_limits(5).
func parseLimits(text []byte) map[int]unix.Rlimit {
	value := func(b []byte) (uint64, error) {
		if string(b) == "unlimited" {
			return ^uint64(0), nil
		}
		return strconv.ParseUint(string(b), 10, 64)
	}
	limits := make(map[int]unix.Rlimit)
	for line := range bytes.SplitSeq(text, []byte("\n")) {
		for resource := unix.RLIMIT_CPU; resource <= unix.RLIMIT_RTTIME; resource++ {
			rest, ok := bytes.CutPrefix(line, []byte(limitName(resource)+" "))
			f := bytes.Fields(rest)
			if !ok || len(f) < 2 {
				continue
			}
			cur, err1 := value(f[0])
			max, err2 := value(f[1])
			if err1 == nil && err2 == nil {
				limits[resource] = unix.Rlimit{Cur: cur, Max: max}
			}
		}
	}
	return limits
}

func resetLimits() error {
	for resource, want := range defaultLimits() {
		var have unix.Rlimit
		if err := unix.Prlimit(0, resource, nil, &have); err != nil {
			return fmt.Errorf("read limit %q: %w", limitName(resource), err)
		}
		// A file limit that the runtime has raised is put back by syscall.Exec unless we have set one.
		if have == want && resource != unix.RLIMIT_NOFILE {
			continue
		}
		err := unix.Prlimit(0, resource, &want, nil)
		if errors.Is(err, syscall.EPERM) && want.Max > have.Max {
			want.Max = have.Max // only CAP_SYS_RESOURCE raises it
			want.Cur = min(want.Cur, want.Max)
			err = unix.Prlimit(0, resource, &want, nil)
		}
		if err != nil {
			return fmt.Errorf("set limit %q: %w", limitName(resource), err)
		}
	}
	return nil
}

const defaultTimerSlack = 50000 // ns, PR_SET_TIMERSLACK(2const)

func resetScheduling() error {
	attr, err := unix.SchedGetAttr(0, 0)
	if err != nil {
		return err
	}
	if attr.Policy != unix.SCHED_NORMAL {
		if err := setNormal(); err != nil {
			return err
		}
	}
	// The raw call answers 20 minus the nice value.
	if raw, err := unix.Getpriority(unix.PRIO_PROCESS, 0); err != nil {
		return err
	} else if raw != 20 {
		if err := unix.Setpriority(unix.PRIO_PROCESS, 0, 0); err != nil && raw > 20 {
			return err
		}
	}
	const whoProcess, classShift = 1, 13
	prio, _, errno := unix.RawSyscall(unix.SYS_IOPRIO_GET, whoProcess, 0, 0)
	if class := prio >> classShift; errno == 0 && (class == 1 || class == 3 || class == 2 && prio&7 != 4) {
		if _, _, errno := unix.RawSyscall(unix.SYS_IOPRIO_SET, whoProcess, 0, 0); errno != 0 && class == 1 {
			return fmt.Errorf("reset I/O priority: %w", errno)
		}
	}
	var ours, theirs unix.CPUSet
	if unix.SchedGetaffinity(0, &ours) == nil && unix.SchedGetaffinity(1, &theirs) == nil && ours != theirs {
		_ = unix.SchedSetaffinity(0, &theirs) // a cpuset of the service may forbid all of them
	}
	if slack, err := unix.PrctlRetInt(unix.PR_GET_TIMERSLACK, 0, 0, 0, 0); err == nil && slack != defaultTimerSlack {
		_ = unix.Prctl(unix.PR_SET_TIMERSLACK, defaultTimerSlack, 0, 0, 0)
	}
	return nil
}

// setNormal gives the calling thread the normal scheduling policy; anyone may.
func setNormal() error {
	var param int32 // struct sched_param
	if _, _, errno := unix.RawSyscall(unix.SYS_SCHED_SETSCHEDULER, 0, unix.SCHED_NORMAL, uintptr(unsafe.Pointer(&param))); errno != 0 {
		return errno
	}
	return nil
}

// resetCapabilities leaves a program of root what execve(2) gives root, and everyone else nothing. The bounding set stays: it
// isn't a capability that a program has, and sudo in a hook needs it.
func resetCapabilities() error {
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil && !errors.Is(err, syscall.EINVAL) {
		return err
	}
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if os.Geteuid() == 0 {
		if err := unix.Capget(&hdr, &data[0]); err != nil {
			return err
		}
		data[0].Inheritable, data[1].Inheritable = 0, 0
	}
	return unix.Capset(&hdr, &data[0])
}

// closeOnExec marks every descriptor but the standard three: Go opens its own so, but what we were started with may be open.
func closeOnExec() error {
	err := unix.CloseRange(3, ^uint(0)>>1, unix.CLOSE_RANGE_CLOEXEC)
	if err == nil {
		return nil
	}
	// Before Linux 5.11.
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return err
	}
	for _, e := range entries {
		if fd, err := strconv.Atoi(e.Name()); err == nil && fd > 2 {
			syscall.CloseOnExec(fd)
		}
	}
	return nil
}

// resetSignals makes every signal unblocked and its action the default: both a blocked and an ignored signal survive execve(2),
// and a service manager or nohup(1) may have started us with some. By raw calls, since os/signal can't touch what was ignored
// at our start.
func resetSignals() error {
	const setSize = 8 // bytes of the kernel's sigset_t
	var action [64]byte
	for sig := uintptr(1); sig <= 64; sig++ {
		if sig == uintptr(syscall.SIGKILL) || sig == uintptr(syscall.SIGSTOP) {
			continue
		}
		// All zero is SIG_DFL without flags, in whatever order an architecture has the fields.
		if _, _, errno := unix.RawSyscall6(unix.SYS_RT_SIGACTION, sig, uintptr(unsafe.Pointer(&action)), 0, setSize, 0, 0); errno != 0 {
			return errno
		}
	}
	var mask uint64
	const setMask = 2 // SIG_SETMASK
	if _, _, errno := unix.RawSyscall6(unix.SYS_RT_SIGPROCMASK, setMask, uintptr(unsafe.Pointer(&mask)), 0, setSize, 0, 0); errno != 0 {
		return errno
	}
	return nil
}
