//go:build netns

package child

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"os/user"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

func requireRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() == 0 {
		return
	}
	if os.Getenv("CI") != "" || os.Getenv("PGVRRP_REQUIRE") != "" {
		t.Fatal("needs root")
	}
	t.Skip("needs root")
}

// TestNothingOfOursInHook gives a process all that vrrpd may have by its configuration or its unit, starts a hook from it as an
// unprivileged user, and reads in /proc that nothing of it is left.
func TestNothingOfOursInHook(t *testing.T) {
	requireRoot(t)
	const marker = "PGVRRP_TEST_HOSTILE"
	if os.Getenv(marker) == "" {
		cmd := exec.Command("/proc/self/exe", "-test.run=^"+t.Name()+"$", "-test.v")
		cmd.Env = append(os.Environ(), marker+"=1")
		cmd.SysProcAttr = &syscall.SysProcAttr{AmbientCaps: []uintptr{unix.CAP_NET_ADMIN, unix.CAP_SYS_NICE}}
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return
	}
	disadvantage(t)
	for _, c := range []Command{{User: "nobody"}, {User: "nobody", Group: "daemon"}, {}} {
		t.Run(c.User+":"+c.Group, func(t *testing.T) {
			p := inspectChild(t, c)
			assertNothingOfOurs(t, p, c)
			var want unix.CPUSet
			if err := unix.SchedGetaffinity(1, &want); err != nil {
				t.Fatal(err)
			}
			if p.affinity != want {
				t.Errorf("CPUs %v, want those of process 1, %v", p.affinity, want)
			}
			if p.ioprio>>13 == 1 {
				t.Errorf("I/O priority %#x, want none", p.ioprio)
			}
			if got := p.status["VmLck"]; got != "0 kB" {
				t.Errorf("locked memory %s, want 0 kB", got)
			}
			if !slices.Equal(p.fds, []string{"0", "1", "2"}) {
				t.Errorf("descriptors %q, want 0 1 2", p.fds)
			}
		})
	}
}

// assertNothingOfOurs looks at what anyone may read of a process.
func assertNothingOfOurs(t *testing.T, p proc, c Command) {
	t.Helper()
	for _, set := range []string{"CapInh", "CapPrm", "CapEff", "CapAmb"} {
		got := strings.Trim(p.status[set], "0")
		if c.User == "" && (set == "CapPrm" || set == "CapEff") {
			continue // root has what the bounding set allows
		}
		if got != "" {
			t.Errorf("%s %s, want none", set, p.status[set])
		}
	}
	for _, f := range []string{"SigBlk", "SigIgn", "SigCgt"} {
		if strings.Trim(p.status[f], "0") != "" {
			t.Errorf("%s %s, want none", f, p.status[f])
		}
	}
	if p.policy != "0" || p.nice != "0" {
		t.Errorf("policy %s, nice %s; want SCHED_OTHER, 0", p.policy, p.nice)
	}
	if p.oom != "0" {
		t.Errorf("oom_score_adj %s, want 0", p.oom)
	}
	if got := p.status["Umask"]; got != "0022" {
		t.Errorf("umask %s, want 0022", got)
	}
	assertLimits(t, p)
	assertIdentity(t, p, c)
}

// TestWithUnitPrivileges is the same with no more capabilities than vrrpd's unit has: those to change limits are not
// among them.
func TestWithUnitPrivileges(t *testing.T) {
	requireRoot(t)
	const marker = "PGVRRP_TEST_UNIT"
	again := func(stage string) *exec.Cmd {
		cmd := exec.Command("/proc/self/exe", "-test.run=^"+t.Name()+"$", "-test.v")
		t.Setenv(marker, stage)
		cmd.Env = os.Environ()
		return cmd
	}
	switch os.Getenv(marker) {
	case "":
		cmd := again("1")
		cmd.SysProcAttr = &syscall.SysProcAttr{AmbientCaps: []uintptr{unix.CAP_NET_ADMIN, unix.CAP_SYS_NICE}}
		if out, err := cmd.CombinedOutput(); err != nil || !bytes.Contains(out, []byte("every stage was reached")) {
			t.Fatalf("%v\n%s", err, out)
		}
		return
	case "1":
		disadvantage(t)
		runtime.LockOSThread() // it execs, and the rest of the process goes
		keep := []int{
			unix.CAP_NET_ADMIN, unix.CAP_NET_RAW, unix.CAP_NET_BROADCAST, unix.CAP_SETUID, unix.CAP_SETGID, unix.CAP_KILL,
			unix.CAP_SYS_NICE, unix.CAP_IPC_LOCK, unix.CAP_DAC_READ_SEARCH, unix.CAP_DAC_OVERRIDE, unix.CAP_CHOWN,
		}
		for c := 0; c <= unix.CAP_LAST_CAP; c++ {
			if !slices.Contains(keep, c) {
				_ = unix.Prctl(unix.PR_CAPBSET_DROP, uintptr(c), 0, 0, 0)
			}
		}
		cmd := again("2")
		t.Fatal(syscall.Exec(cmd.Path, cmd.Args, cmd.Env))
	}
	if capable(t, unix.CAP_SYS_RESOURCE) || capable(t, unix.CAP_SYS_ADMIN) {
		t.Fatal("too many capabilities left")
	}
	for _, c := range []Command{{User: "nobody"}, {User: "nobody", Group: "daemon"}, {}} {
		var p proc
		p.parse(t, func(name string) string {
			var out bytes.Buffer
			c := c
			c.Argv, c.Stdout = []string{"cat", "/proc/self/" + name}, &out
			if _, err := Run(t.Context(), c); err != nil {
				t.Fatal(err)
			}
			return out.String()
		})
		assertNothingOfOurs(t, p, c)
	}

	// A limit on processes that we can't lift holds for the hook's user, not for root.
	if err := unix.Setrlimit(unix.RLIMIT_NPROC, &unix.Rlimit{}); err != nil {
		t.Fatal(err)
	}
	_, err := Run(t.Context(), Command{Argv: []string{"true"}, User: "nobody"})
	var start *StartError
	if !errors.As(err, &start) || !errors.Is(err, syscall.EAGAIN) || !strings.Contains(err.Error(), "the limit on processes of nobody is reached") {
		t.Errorf("with no process allowed: %v", err)
	}
	t.Log("every stage was reached")
}

// disadvantage sets what a hook must not have.
func disadvantage(t *testing.T) {
	t.Helper()
	must := func(what string, err error) {
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
	const inf = ^uint64(0)
	for resource, l := range map[int]unix.Rlimit{
		unix.RLIMIT_NOFILE: {Cur: 4000, Max: 5000}, unix.RLIMIT_MEMLOCK: {Cur: inf, Max: inf}, unix.RLIMIT_CORE: {Cur: inf, Max: inf},
		unix.RLIMIT_RTTIME: {Cur: 5e6, Max: 6e6}, unix.RLIMIT_RTPRIO: {Cur: 50, Max: 60}, unix.RLIMIT_NICE: {Cur: 30, Max: 40},
		unix.RLIMIT_NPROC: {Cur: 3000, Max: 3000}, unix.RLIMIT_FSIZE: {Cur: 1 << 30, Max: 1 << 31}, unix.RLIMIT_STACK: {Cur: 1 << 20, Max: 16 << 20},
		unix.RLIMIT_SIGPENDING: {Cur: 99, Max: 999}, unix.RLIMIT_DATA: {Cur: 1 << 40, Max: 1 << 41},
	} {
		if !capable(t, unix.CAP_SYS_RESOURCE) {
			var have unix.Rlimit
			must(limitName(resource), unix.Getrlimit(resource, &have))
			l = unix.Rlimit{Cur: min(l.Cur, have.Max), Max: min(l.Max, have.Max)}
		}
		must(limitName(resource), unix.Setrlimit(resource, &l))
	}
	score := "-900"
	if !capable(t, unix.CAP_SYS_RESOURCE) {
		score = "300" // a container's root may only raise it, and take that back
	}
	must("oom", os.WriteFile(oomFile, []byte(score), 0))
	must("mlockall", unix.Mlockall(unix.MCL_CURRENT|unix.MCL_FUTURE))
	if _, err := syscall.Dup(1); err != nil {
		t.Fatal(err)
	}
	signal.Ignore(syscall.SIGHUP, syscall.SIGPIPE, syscall.SIGTERM, syscall.SIGCHLD)
	syscall.Umask(0o177)
	tasks, err := os.ReadDir("/proc/self/task")
	must("threads", err)
	var one unix.CPUSet
	one.Set(0)
	for _, task := range tasks {
		tid, _ := strconv.Atoi(task.Name())
		must("ioprio", errnoOf(unix.RawSyscall(unix.SYS_IOPRIO_SET, 1, uintptr(tid), 1<<13|2)))
		must("affinity", unix.SchedSetaffinity(tid, &one))
		must("nice", unix.Setpriority(unix.PRIO_PROCESS, tid, -5))
		must("SCHED_RR", unix.SchedSetAttr(tid, &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_RR, Priority: 10, Nice: -5}, 0))
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	attr, err := unix.SchedGetAttr(0, 0)
	must("read policy", err)
	status, err := os.ReadFile("/proc/thread-self/status")
	must("read status", err)
	if attr.Policy != unix.SCHED_RR || !bytes.Contains(status, []byte("CapAmb:\t0000000000801000")) {
		t.Fatalf("not disadvantaged: policy %d, %s", attr.Policy, status)
	}
}

func errnoOf(_, _ uintptr, errno syscall.Errno) error {
	if errno != 0 {
		return errno
	}
	return nil
}

func assertIdentity(t *testing.T, p proc, c Command) {
	t.Helper()
	uid, gid := "0", "0"
	var groups []string
	if c.User != "" {
		u, err := user.Lookup(c.User)
		if err != nil {
			t.Fatal(err)
		}
		uid, gid = u.Uid, u.Gid
		if groups, err = u.GroupIds(); err != nil {
			t.Fatal(err)
		}
	} else {
		groups = strings.Fields(p.status["Groups"])
	}
	if c.Group != "" {
		g, err := user.LookupGroup(c.Group)
		if err != nil {
			t.Fatal(err)
		}
		gid = g.Gid
		groups = append(groups, gid)
	}
	if got, want := p.status["Uid"], strings.Join([]string{uid, uid, uid, uid}, "\t"); got != want {
		t.Errorf("uid %q, want %q", got, want)
	}
	if got, want := p.status["Gid"], strings.Join([]string{gid, gid, gid, gid}, "\t"); got != want {
		t.Errorf("gid %q, want %q", got, want)
	}
	got := strings.Fields(p.status["Groups"])
	slices.Sort(got)
	slices.Sort(groups)
	if !slices.Equal(got, slices.Compact(groups)) {
		t.Errorf("groups %q, want %q", got, groups)
	}
}

// TestOtherUser has what only root can see: the ways in which another user can't run a program.
func TestOtherUser(t *testing.T) {
	requireRoot(t)
	dir, err := os.MkdirTemp("/var/tmp", "child")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	nobody, err := user.Lookup("nobody")
	if err != nil {
		t.Fatal(err)
	}
	gid, _ := strconv.Atoi(nobody.Gid)
	put := func(name, content string, mode os.FileMode, gid int) string {
		path := filepath.Join(dir, name)
		for _, err := range []error{
			os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(content), 0o600), os.Chown(path, 0, gid), os.Chmod(path, mode),
		} {
			if err != nil {
				t.Fatal(err)
			}
		}
		return path
	}
	elf, err := os.ReadFile("/bin/true")
	if err != nil {
		t.Fatal(err)
	}
	closed := filepath.Dir(put("closed/in/x", "#!/bin/sh\n", 0o755, 0))
	if err := os.Chmod(filepath.Dir(closed), 0o700); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(dir, "link")
	if err := os.Symlink("closed/in/x", link); err != nil {
		t.Fatal(err)
	}
	const script = "#!/bin/sh\n[ $(id -un) = nobody ]\n"
	tests := []struct{ name, path, want string }{
		{"fine", put("fine", script, 0o755, 0), ""},
		{"by its group", put("group", script, 0o750, gid), ""},
		{"program that can't be read", put("elf", string(elf), 0o711, 0), ""},
		{"closed directory", closed + "/x", "directory " + filepath.Dir(closed) + " cannot be entered by nobody (drwx------, owner 0:0): permission denied"},
		{"closed directory by a link", link, "directory " + filepath.Dir(closed) + " cannot be entered by nobody"},
		{"root's alone", put("root", script, 0o744, 0), "/root is not executable by nobody (-rwxr--r--, owner 0:0): permission denied"},
		{"script that can't be read", put("unread", script, 0o711, 0), "/unread is a script and not readable by nobody (-rwx--x--x, owner 0:0): permission denied"},
		{"interpreter out of reach", put("far", "#!"+closed+"/x\n", 0o755, 0), "/far names the interpreter"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := Command{Argv: []string{tt.path}, User: "nobody"}
			_, err := Run(t.Context(), c)
			if (err == nil) != (tt.want == "") {
				t.Errorf("Run: %v", err)
			}
			var start *StartError
			// A script without read permission is started: it is the shell that can't read it.
			if err != nil && tt.name != "script that can't be read" && (!errors.As(err, &start) || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("Run: %v, want %q", err, tt.want)
			}
			err = Check(c)
			if text(err) != "" && tt.want == "" || !strings.Contains(text(err), tt.want) {
				t.Errorf("Check: %v, want %q", err, tt.want)
			}
			if err != nil && !errors.Is(err, fs.ErrPermission) {
				t.Errorf("Check: %v is not a permission error", err)
			}
			if err := Check(Command{Argv: []string{tt.path}}); err != nil {
				t.Errorf("as root: %v", err)
			}
		})
	}
}

func TestSecure(t *testing.T) {
	requireRoot(t)
	base, err := os.MkdirTemp("/etc", "child")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(base) })
	const script = "#!/bin/sh\n"
	tests := []struct {
		name  string
		setup func(dir, hook string) error
		want  string
	}{
		{"fine", func(string, string) error { return nil }, ""},
		{"group may write", func(_, hook string) error { return os.Chmod(hook, 0o775) }, "can be written by group"},
		{"anyone may write", func(_, hook string) error { return os.Chmod(hook, 0o757) }, "can be written by anyone"},
		{"another owner", func(_, hook string) error { return os.Chown(hook, 1, 0) }, "is owned by user 1, not root"},
		{"directory of another", func(dir, _ string) error { return os.Chown(dir, 1, 0) }, "is owned by user 1, not root"},
		{"directory open", func(dir, _ string) error { return os.Chmod(dir, 0o777|os.ModeSticky) }, "can be written by anyone"},
		{"link to an open place", func(dir, hook string) error {
			open := filepath.Join(dir, "open")
			return errors.Join(os.Mkdir(open, 0o755), os.Rename(hook, filepath.Join(open, "x")), os.Chmod(open, 0o777), os.Symlink("open/x", hook))
		}, "/open can be written by anyone"},
		{"interpreter open", func(dir, hook string) error {
			interp := filepath.Join(dir, "interp")
			return errors.Join(os.WriteFile(interp, []byte(script), 0o755), os.Chmod(interp, 0o777), os.WriteFile(hook, []byte("#!"+interp+"\n"), 0o755))
		}, "/interp can be written by anyone"},
	}
	for i, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := filepath.Join(base, strconv.Itoa(i))
			hook := filepath.Join(dir, "hook")
			for _, err := range []error{os.Mkdir(dir, 0o755), os.Chmod(base, 0o755), os.WriteFile(hook, []byte(script), 0o755), tt.setup(dir, hook)} {
				if err != nil {
					t.Fatal(err)
				}
			}
			for _, who := range []string{"", "root", "0"} {
				err := Secure(Command{Argv: []string{hook}, User: who})
				if (err == nil) != (tt.want == "") || !strings.Contains(text(err), tt.want) {
					t.Errorf("user %q: %v, want %q", who, err, tt.want)
				}
			}
			if err := Secure(Command{Argv: []string{hook}, User: "nobody"}); err != nil {
				t.Errorf("as nobody: %v", err)
			}
		})
	}
}
