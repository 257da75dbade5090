//go:build netns

package system

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"pgvrrp/internal/system/nstest"
)

// heard is a ProcessHandler that writes down what it hears of one program.
type heard struct {
	mu      sync.Mutex
	resyncs chan struct{}
	events  []string
	pid     int
	changed chan struct{}
}

func (h *heard) note(pid int, what string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if pid == h.pid {
		h.events = append(h.events, what)
		select {
		case h.changed <- struct{}{}:
		default:
		}
	}
}

func (h *heard) Resync()              { h.resyncs <- struct{}{} }
func (h *heard) Forked(parent, _ int) { h.note(parent, "fork") }
func (h *heard) Execed(pid int)       { h.note(pid, "exec") }
func (h *heard) Exited(pid int)       { h.note(pid, "exit") }

// follow is FollowProcesses with a socket that is opened in the network namespace of the process that started this one, if the
// kernel does not let us enter that of process 1. buffer is its size in bytes; 0: the usual one.
func follow(ctx context.Context, h ProcessHandler, buffer int) error {
	file, err := openConnector()
	if err != nil {
		fd := -1
		err := inNetNamespace(cmp.Or(os.Getenv("PGVRRP_FOLLOW"), fmt.Sprintf("/proc/%d/ns/net", os.Getppid())), func() (err error) {
			fd, err = connectorSocket()
			return err
		})
		if err != nil {
			return err
		}
		file = os.NewFile(uintptr(fd), "connector")
	}
	defer file.Close()
	if buffer > 0 {
		raw, err := file.SyscallConn()
		if err != nil {
			return err
		}
		if err := errors.Join(raw.Control(func(fd uintptr) { err = setReceiveBuffer(int(fd), buffer) }), err); err != nil {
			return err
		}
	}
	defer context.AfterFunc(ctx, func() { _ = file.SetReadDeadline(time.Unix(1, 0)) })()
	return (&connector{file: file, buf: make([]byte, 1<<16)}).follow(ctx, h)
}

// firstPIDs says whether this is the first PID namespace, whose inode has a number of its own (linux/proc_ns.h).
func firstPIDs() bool {
	name, err := os.Readlink("/proc/self/ns/pid")
	return err == nil && name == "pid:[4026531836]"
}

// TestFollowProcesses: forks, execs and exits are told; in a container it is said that they are not.
func TestFollowProcesses(t *testing.T) {
	nstest.Require(t)
	h := &heard{resyncs: make(chan struct{}, 16), changed: make(chan struct{}, 1)}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	ended := make(chan error, 1)
	go func() { ended <- follow(ctx, h, 0) }()
	select {
	case <-h.resyncs:
	case err := <-ended:
		if !firstPIDs() && errors.Is(err, ErrNoProcessEvents) {
			return
		}
		t.Fatal(err)
	}
	cmd := exec.Command("/bin/sh", "-c", "read x; /bin/true; read x")
	in, err := cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	pid := cmd.Process.Pid
	h.mu.Lock()
	h.pid = pid
	h.mu.Unlock()
	p, err := ReadProcess(pid)
	for end := time.Now().Add(5 * time.Second); err == nil && len(p.Argv) == 0 && time.Now().Before(end); p, err = ReadProcess(pid) {
		runtime.Gosched() // Start returns in the middle of execve(2)
	}
	if err != nil || p.Name != "sh" || !slices.Equal(p.Argv, []string{"/bin/sh", "-c", "read x; /bin/true; read x"}) {
		t.Errorf("got %+v, %v", p, err)
	}
	if all, err := Processes(); err != nil || !slices.Contains(all, pid) || !slices.Contains(all, os.Getpid()) {
		t.Errorf("%d is not among %d processes: %v", pid, len(all), err)
	}
	if _, err := in.Write([]byte("x\nx\n")); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	deadline := time.After(5 * time.Second)
	for {
		h.mu.Lock()
		got := strings.Join(h.events, " ")
		h.mu.Unlock()
		// Its exec may have been told before we knew its number.
		if strings.HasSuffix(got, "fork exit") {
			break
		}
		select {
		case <-h.changed:
		case <-deadline:
			t.Fatalf("got %q", got)
		}
	}
	if _, err := ReadProcess(pid); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a process that is gone: got %v, want %v", err, os.ErrNotExist)
	}
	stop()
	<-ended
}

// children is a ProcessHandler that knows our children as package track does. It is slow to begin with.
type children struct {
	begin chan struct{} // closed when it may hear of the first
	begun chan struct{} // closed when it waits for that
	wait  func()

	mu   sync.Mutex
	pids map[int]bool
	seen map[int]bool // that have ended
}

func (c *children) Resync() {
	c.mu.Lock()
	defer c.mu.Unlock()
	clear(c.pids) // the test has none when it lets us go on
}

func (c *children) Forked(parent, child int) {
	if parent != os.Getpid() {
		return
	}
	c.wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.pids[child] = true
}

func (c *children) Execed(int) {}

func (c *children) Exited(pid int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.pids, pid)
	c.seen[pid] = true
}

// TestProcessesLost: after an overflow nothing is left of what has ended meanwhile.
func TestProcessesLost(t *testing.T) {
	nstest.Require(t)
	c := &children{begin: make(chan struct{}), begun: make(chan struct{}), pids: map[int]bool{}, seen: map[int]bool{}}
	c.wait = sync.OnceFunc(func() { close(c.begun); <-c.begin })
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	ended := make(chan error, 1)
	go func() { ended <- follow(ctx, c, 8<<10) }() // some twenty news
	run := func() int {
		cmd := exec.Command("/bin/true")
		if err := cmd.Run(); err != nil {
			t.Fatal(err)
		}
		return cmd.Process.Pid
	}
	for begun := false; !begun; {
		run()
		select {
		case <-c.begun:
			begun = true
		case err := <-ended:
			if !firstPIDs() && errors.Is(err, ErrNoProcessEvents) {
				return
			}
			t.Fatal(err)
		default:
		}
	}
	// There is room for news of their beginnings, and none for those of their ends.
	in, out, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	var many []*exec.Cmd
	for range 50 {
		cmd := exec.Command("/bin/cat")
		cmd.Stdin = in
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		many = append(many, cmd)
	}
	out.Close()
	for _, cmd := range many {
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
	}
	close(c.begin)
	// It has worked off what was queued when it hears of one that ended later.
	heard := false
	for end := time.Now().Add(5 * time.Second); !heard && time.Now().Before(end); {
		pid := run()
		c.mu.Lock()
		heard = c.seen[pid]
		c.mu.Unlock()
	}
	stop()
	<-ended
	if !heard || len(c.pids) > 0 {
		t.Errorf("news come again: %v; children that have ended long since: %v", heard, c.pids)
	}
}

// TestNoProcessEvents: in namespaces of their own processes are not followed, and the error says why.
func TestNoProcessEvents(t *testing.T) {
	if os.Getenv("PGVRRP_FOLLOW") != "" {
		err := follow(t.Context(), &heard{resyncs: make(chan struct{}, 16)}, 0)
		if !errors.Is(err, ErrNoProcessEvents) && !errors.Is(err, os.ErrPermission) {
			t.Errorf("got %v, want %v", err, ErrNoProcessEvents)
		}
		t.Log(err)
		return
	}
	nstest.Require(t)
	for name, tt := range map[string]struct {
		attr syscall.SysProcAttr
		want string
	}{
		"a PID namespace": {syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID}, errNoAnswer.Error()},
		"a user namespace": {syscall.SysProcAttr{
			Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET,
			UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
			GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
		}, "denied"},
	} {
		t.Run(name, func(t *testing.T) {
			cmd := exec.Command(os.Args[0], "-test.run=^TestNoProcessEvents$", "-test.v")
			cmd.Env = append(os.Environ(), fmt.Sprintf("PGVRRP_FOLLOW=/proc/%d/ns/net", os.Getppid()))
			cmd.SysProcAttr = &tt.attr
			out, err := cmd.CombinedOutput()
			if err != nil || !strings.Contains(string(out), tt.want) {
				t.Errorf("got %v, want %q in\n%s", err, tt.want, out)
			}
		})
	}
}

// TestInNetNamespace: no thread stays in the other namespace, not even the first one, which cannot end.
func TestInNetNamespace(t *testing.T) {
	nstest.Require(t)
	threads := func() (all []string) {
		dirs, err := filepath.Glob("/proc/self/task/*/ns/net")
		if err != nil {
			t.Fatal(err)
		}
		for _, dir := range dirs {
			if name, err := os.Readlink(dir); err == nil { // a thread may have ended
				all = append(all, name)
			}
		}
		slices.Sort(all)
		return slices.Compact(all)
	}
	ours, other := threads(), fmt.Sprintf("/proc/%d/ns/net", os.Getppid())
	if len(ours) != 1 {
		t.Fatalf("our threads are in %q", ours)
	}
	var group errgroup.Group
	for range 64 {
		group.Go(func() error {
			return inNetNamespace(other, func() error {
				name, err := os.Readlink("/proc/thread-self/ns/net")
				if err == nil && name == ours[0] {
					err = errors.New("still in our own")
				}
				return err
			})
		})
	}
	if err := group.Wait(); err != nil {
		t.Error(err)
	}
	if now := threads(); !slices.Equal(now, ours) {
		t.Errorf("our threads are in %q, they were in %q", now, ours)
	}
	if err := inNetNamespace("/proc/self/nothing", nil); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v, want %v", err, os.ErrNotExist)
	}
}
