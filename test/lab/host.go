package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// Host is a machine of the lab. Its disks (/etc, /var/lib, /var/log, changed programs) outlive power loss; /run, /tmp
// and /dev/shm don't. A power loss does not lose what was written without fsync: the kernel, and its cache, live on.
type Host struct {
	l     *Lab
	name  string
	index int

	boot sync.Mutex  // serialises Boot and PowerLoss
	mute atomic.Bool // its links were cut by PowerLoss

	mu    sync.Mutex
	ctl   *client // nil without power
	ns    *namespace
	init  *running
	procs map[string]*Proc
}

func newHost(l *Lab, s HostSpec) *Host {
	return &Host{l: l, name: s.Name, index: s.Index, procs: map[string]*Proc{}}
}

// Name returns n1, n2 … or what HostSpec said.
func (h *Host) Name() string { return h.name }

// Index returns the last part of the host's addresses.
func (h *Host) Index() int { return h.index }

func (h *Host) dir(sub ...string) string {
	return filepath.Join(append([]string{h.l.dir, "hosts", h.name}, sub...)...)
}

// LogDir returns the directory on the machine with one file per spawned process.
func (h *Host) LogDir() string { return filepath.Join(h.l.dir, "logs", h.name) }

func (h *Host) up() (*client, *namespace, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.ctl == nil || h.init.ended() {
		return nil, nil, fmt.Errorf("host %s: %w", h.name, errHostDown)
	}
	return h.ctl, h.ns, nil
}

// Up reports whether the host has power.
func (h *Host) Up() bool { _, _, err := h.up(); return err == nil }

// Boot gives the host power: new namespaces, new kernel state, the old disks. No service starts by itself.
func (h *Host) Boot(ctx context.Context) (err error) {
	h.boot.Lock()
	defer h.boot.Unlock()
	if h.Up() {
		return fmt.Errorf("boot %s: it is up", h.name)
	}
	wrap := func(err error) error { return fmt.Errorf("boot %s: %w", h.name, err) }
	// A host that switched itself off (reboot(2) ends its first process) has left its cables.
	if err := h.clean(); err != nil {
		return wrap(err)
	}
	for _, d := range []string{h.dir("root"), h.dir("disk", "lib"), h.dir("disk", "log"), h.LogDir()} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return wrap(err)
		}
	}
	cfg := hostConfig{
		Name: h.name, Root: h.dir("root"), Disk: h.dir("disk"), RAM: filepath.Join(h.l.dir, "ram", h.name),
		Hosts: h.l.hostsFile(h), Lower: filepath.Join(h.l.dir, "over"), Binds: map[string]string{"/run/shared": h.l.SharedDir()},
	}
	for inside, outside := range h.l.opts.Binds {
		if cfg.Binds[inside], err = filepath.Abs(outside); err != nil {
			return wrap(err)
		}
	}
	for inside := range h.l.opts.Programs {
		if dir := filepath.Dir(inside); !slices.Contains(cfg.Over, dir) {
			cfg.Over = append(cfg.Over, dir)
		}
	}
	arg, err := json.Marshal(cfg)
	if err != nil {
		return wrap(err)
	}
	log, err := os.OpenFile(filepath.Join(h.LogDir(), "init.log"), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		return wrap(err)
	}
	defer log.Close()
	ours, theirs, err := socketPair()
	if err != nil {
		return wrap(err)
	}
	defer theirs.Close()
	null, err := os.Open(os.DevNull)
	if err != nil {
		ours.close()
		return wrap(err)
	}
	defer null.Close()
	init, err := h.l.ctl.spawn(ctx, spawnRequest{Argv: []string{initName, string(arg)}, Env: agentEnv(), Boot: true}, null, log, log, theirs)
	if err != nil {
		ours.close()
		return wrap(err)
	}
	theirs.Close()
	ctl, warnings, err := newClient(ctx, ours, h.name)
	if err != nil {
		_ = h.l.ctl.kill(ctx, init.pid, unix.SIGKILL)
		return wrap(err)
	}
	for _, w := range warnings {
		h.l.log.Warn(w, "host", h.name)
	}
	ns, err := openNamespace(fmt.Sprintf("/proc/%d/ns/net", ctl.pid))
	if err == nil {
		err = h.plugIn(ns, ctl.pid)
	}
	if err != nil {
		ns.close()
		ctl.close()
		_ = h.l.ctl.kill(ctx, init.pid, unix.SIGKILL)
		return wrap(err)
	}
	h.mu.Lock()
	h.ctl, h.ns, h.init = ctl, ns, init
	h.mu.Unlock()
	h.mute.Store(false)
	h.l.log.Debug("booted", "host", h.name)
	return nil
}

// PowerLoss cuts the host's links, so that no last packet gets out, and then kills every process at once. It returns
// the time between the two. The disks stay.
func (h *Host) PowerLoss(ctx context.Context) (time.Time, error) {
	h.boot.Lock()
	defer h.boot.Unlock()
	if !h.Up() {
		return time.Time{}, fmt.Errorf("cut power of %s: %w", h.name, errHostDown)
	}
	if err := h.silence(); err != nil {
		return time.Time{}, fmt.Errorf("cut power of %s: %w", h.name, err)
	}
	return h.die(ctx)
}

// PowerLoss takes several hosts away at the same instant: all links are cut before the first process is killed.
func (l *Lab) PowerLoss(ctx context.Context, names ...string) (time.Time, error) {
	var hosts []*Host
	for _, name := range names {
		h := l.Host(name)
		h.boot.Lock()
		defer h.boot.Unlock()
		if !h.Up() {
			return time.Time{}, fmt.Errorf("cut power of %s: %w", name, errHostDown)
		}
		hosts = append(hosts, h)
	}
	for _, h := range hosts {
		if err := h.silence(); err != nil {
			return time.Time{}, fmt.Errorf("cut power of %s: %w", h.name, err)
		}
	}
	at := time.Now()
	var g errgroup.Group
	for _, h := range hosts {
		g.Go(func() error { _, err := h.die(ctx); return err })
	}
	return at, g.Wait()
}

// die kills every process of a silent host at once. The caller holds boot.
func (h *Host) die(ctx context.Context) (time.Time, error) {
	wrap := func(err error) error { return fmt.Errorf("cut power of %s: %w", h.name, err) }
	_, ns, err := h.up()
	if err != nil {
		return time.Time{}, wrap(err)
	}
	at := time.Now()
	if err := h.l.ctl.kill(ctx, h.init.pid, unix.SIGKILL); err != nil {
		return at, wrap(err)
	}
	_ = ns.do(forgetOrphans)
	// The kernel reports the first process's end only when all others of its namespace are gone.
	if _, err := h.init.wait(ctx); err != nil {
		return at, wrap(err)
	}
	if err := h.clean(); err != nil {
		return at, wrap(err)
	}
	h.l.log.Debug("lost power", "host", h.name)
	return at, nil
}

// clean lets go of a host whose processes are gone.
func (h *Host) clean() error {
	h.drop()
	return h.unplug()
}

// drop lets go of the host without asking it.
func (h *Host) drop() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.ctl != nil {
		h.ns.close()
		h.ctl.close()
	}
	h.ctl, h.ns, h.init = nil, nil, nil
}

// Pause stops every process of the host at once (SIGSTOP to all: the kernel holds off new processes meanwhile), as a
// hypervisor would; unlike there the host's kernel goes on: it answers ARP and acknowledges TCP, and its timers run.
// What Run and Spawn start afterwards runs.
func (h *Host) Pause(ctx context.Context) error { return h.signalAll(ctx, "pause", unix.SIGSTOP) }

// Resume lets every process of the host go on.
func (h *Host) Resume(ctx context.Context) error { return h.signalAll(ctx, "resume", unix.SIGCONT) }

func (h *Host) signalAll(ctx context.Context, what string, sig syscall.Signal) error {
	ctl, _, err := h.up()
	if err == nil {
		err = ctl.kill(ctx, -1, sig)
	}
	if err != nil && !errors.Is(err, errNoProcess) {
		return fmt.Errorf("%s %s: %w", what, h.name, err)
	}
	return nil
}

// Command is a program to run in a host.
type Command struct {
	Argv []string
	// User by name in the host; "" is root. The program gets all of the user's groups.
	User string
	// Dir is its working directory, "/" by default.
	Dir string
	// Env is added to PATH, LANG, HOME, USER and LOGNAME.
	Env   []string
	Stdin string
}

// Result is what became of it.
type Result struct {
	Stdout, Stderr string
	Code           int // exit code, -1 if a signal ended it
	Signal         syscall.Signal
}

// ExitError is the error of a command that ran and failed.
type ExitError struct {
	Argv []string
	Result
}

func (e *ExitError) Error() string {
	how := fmt.Sprintf("exit code %d", e.Code)
	if e.Code < 0 {
		how = e.Signal.String()
	}
	out := strings.TrimSpace(e.Stderr)
	if out == "" {
		out = strings.TrimSpace(e.Stdout)
	}
	if len(out) > 2000 {
		out = "… " + out[len(out)-2000:]
	}
	return fmt.Sprintf("run %s: %s: %s", strings.Join(e.Argv, " "), how, out)
}

// Run runs a program in the host as root, to its end. It fails with an *ExitError, and a full Result, if the program
// does. Children that it leaves behind live on.
func (h *Host) Run(ctx context.Context, argv ...string) (Result, error) {
	return h.Do(ctx, Command{Argv: argv})
}

// RunAs is Run as another user.
func (h *Host) RunAs(ctx context.Context, user string, argv ...string) (Result, error) {
	return h.Do(ctx, Command{Argv: argv, User: user})
}

// Do is Run with everything said. At the end of ctx the program's process group is killed.
func (h *Host) Do(ctx context.Context, c Command) (Result, error) {
	ctl, _, err := h.up()
	if err != nil {
		return Result{Code: -1}, fmt.Errorf("run %s: %w", strings.Join(c.Argv, " "), err)
	}
	res, err := ctl.run(ctx, c)
	if err != nil {
		return res, fmt.Errorf("host %s: %w", h.name, err)
	}
	return res, nil
}

// Proc is a program in the background.
type Proc struct {
	Name string
	// LogFile is the machine's path of the file with its output; it is kept over power loss and later starts.
	LogFile string
	r       *running
}

// PID is the process's number inside the host.
func (p *Proc) PID() int { return p.r.pid }

// Done is closed when it has ended.
func (p *Proc) Done() <-chan struct{} { return p.r.done }

// Wait returns how it ended.
func (p *Proc) Wait(ctx context.Context) (Result, error) {
	ws, err := p.r.wait(ctx)
	if err != nil {
		return Result{Code: -1}, fmt.Errorf("wait for %s: %w", p.Name, err)
	}
	return resultOf(ws), nil
}

// Running reports whether it has not ended yet.
func (p *Proc) Running() bool {
	return !p.r.ended()
}

// Spawn starts a program in the background. A name is used again only after its last bearer has ended; the output is
// appended to the same file.
func (h *Host) Spawn(ctx context.Context, name string, argv ...string) (*Proc, error) {
	return h.SpawnCommand(ctx, name, Command{Argv: argv})
}

// SpawnCommand is Spawn with everything said.
func (h *Host) SpawnCommand(ctx context.Context, name string, c Command) (*Proc, error) {
	wrap := func(err error) error { return fmt.Errorf("host %s: spawn %s: %w", h.name, name, err) }
	ctl, _, err := h.up()
	if err != nil {
		return nil, wrap(err)
	}
	h.mu.Lock()
	old := h.procs[name]
	h.mu.Unlock()
	if old != nil && old.Running() {
		return nil, wrap(fmt.Errorf("it runs already as process %d", old.PID()))
	}
	file := filepath.Join(h.LogDir(), name+".log")
	log, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		return nil, wrap(err)
	}
	defer log.Close()
	stdin, err := memFile("stdin", c.Stdin)
	if err != nil {
		return nil, wrap(err)
	}
	defer stdin.Close()
	r, err := ctl.spawn(ctx, spawnRequest{Argv: c.Argv, Env: c.Env, Dir: c.Dir, User: c.User}, stdin, log, log)
	if err != nil {
		return nil, wrap(err)
	}
	p := &Proc{Name: name, LogFile: file, r: r}
	h.mu.Lock()
	h.procs[name] = p
	h.mu.Unlock()
	return p, nil
}

// Proc returns the last process spawned under a name, nil if there was none.
func (h *Host) Proc(name string) *Proc {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.procs[name]
}

// Kill sends a signal to a spawned process.
func (h *Host) Kill(ctx context.Context, name string, sig syscall.Signal) error {
	p := h.Proc(name)
	if p == nil || !p.Running() {
		return fmt.Errorf("host %s: kill %s: it is not running", h.name, name)
	}
	return h.Signal(ctx, p.PID(), sig)
}

// KillAll sends a signal to every running process whose spawn name matches a shell pattern (path.Match), and returns
// their names.
func (h *Host) KillAll(ctx context.Context, pattern string, sig syscall.Signal) ([]string, error) {
	h.mu.Lock()
	var names []string
	for name, p := range h.procs {
		ok, err := path.Match(pattern, name)
		if err != nil {
			h.mu.Unlock()
			return nil, fmt.Errorf("host %s: kill %s: %w", h.name, pattern, err)
		}
		if ok && p.Running() {
			names = append(names, name)
		}
	}
	h.mu.Unlock()
	slices.Sort(names)
	var errs []error
	for _, name := range names {
		if err := h.Kill(ctx, name, sig); err != nil && !errors.Is(err, errNoProcess) {
			errs = append(errs, err)
		}
	}
	return names, errors.Join(errs...)
}

// Signal sends a signal to a process by its number inside the host; a negative number is a process group.
func (h *Host) Signal(ctx context.Context, pid int, sig syscall.Signal) error {
	ctl, _, err := h.up()
	if err == nil {
		err = ctl.kill(ctx, pid, sig)
	}
	if err != nil {
		return fmt.Errorf("host %s: send %s to %d: %w", h.name, sig, pid, err)
	}
	return nil
}

// Process is one line of a host's process table.
type Process struct {
	PID  int // inside the host
	Name string
	Args []string
}

// Processes returns the host's processes but its first.
func (h *Host) Processes() ([]Process, error) {
	ctl, _, err := h.up()
	if err != nil {
		return nil, err
	}
	proc := fmt.Sprintf("/proc/%d/root/proc", ctl.pid)
	entries, err := os.ReadDir(proc)
	if err != nil {
		return nil, fmt.Errorf("host %s: list processes: %w", h.name, err)
	}
	var list []Process
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == 1 {
			continue
		}
		comm, err := os.ReadFile(filepath.Join(proc, e.Name(), "comm"))
		if err != nil {
			continue // it has just ended
		}
		args, _ := os.ReadFile(filepath.Join(proc, e.Name(), "cmdline"))
		list = append(list, Process{PID: pid, Name: strings.TrimSpace(string(comm)), Args: strings.Split(strings.TrimRight(string(args), "\x00"), "\x00")})
	}
	return list, nil
}

// Dial connects from inside the host, to a literal address; network is "tcp" or "unix" (a socket in the host's own
// file system). It fits pgconn.Config.DialFunc and http.Transport.DialContext.
func (h *Host) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	ctl, ns, err := h.up()
	if err != nil {
		return nil, err
	}
	if network == "unix" {
		var d net.Dialer
		return d.DialContext(ctx, "unix", fmt.Sprintf("/proc/%d/root%s", ctl.pid, address))
	}
	return ns.dial(ctx, address)
}

// NetDo runs fn on a thread inside the host's network namespace, so that netlink and sockets made by fn are the host's.
func (h *Host) NetDo(fn func() error) error {
	_, ns, err := h.up()
	if err != nil {
		return err
	}
	return ns.do(fn)
}

// WriteFile writes a file inside the host, making directories as needed; it is root's.
func (h *Host) WriteFile(name string, content []byte, mode os.FileMode) error {
	if err := h.writeFile(name, content, mode); err != nil {
		return fmt.Errorf("host %s: write %s: %w", h.name, name, err)
	}
	return nil
}

func (h *Host) writeFile(name string, content []byte, mode os.FileMode) error {
	root, err := h.openRoot()
	if err != nil {
		return err
	}
	defer root.Close()
	for i := 1; i < len(name); i++ {
		if name[i] != '/' {
			continue
		}
		parent, err := openIn(root, path.Dir(name[:i]), unix.O_PATH|unix.O_DIRECTORY, 0)
		if err != nil {
			return err
		}
		err = unix.Mkdirat(int(parent.Fd()), path.Base(name[:i]), 0o755)
		parent.Close()
		if err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("make %s: %w", name[:i], err)
		}
	}
	f, err := openIn(root, name, unix.O_WRONLY|unix.O_CREAT|unix.O_TRUNC, mode)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err == nil {
		err = f.Chmod(mode)
	}
	return errors.Join(err, f.Close())
}

// ReadFile reads a file as a process of the host would. Without power it reads the host's disks.
func (h *Host) ReadFile(name string) ([]byte, error) {
	b, err := h.readFile(name)
	if err != nil {
		return nil, fmt.Errorf("host %s: read %s: %w", h.name, name, err)
	}
	return b, nil
}

func (h *Host) readFile(name string) ([]byte, error) {
	root, err := h.openRoot()
	if errors.Is(err, errHostDown) {
		return os.ReadFile(h.DiskPath(name))
	}
	if err != nil {
		return nil, err
	}
	defer root.Close()
	f, err := openIn(root, name, unix.O_RDONLY, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(f)
}

// DiskPath returns the machine's path of a file on a host's disk, whether or not the host has power: below /var/lib,
// /var/log, or what the host has changed in /etc or beside Options.Programs.
func (h *Host) DiskPath(name string) string {
	clean := path.Clean("/" + name)
	if rest, ok := strings.CutPrefix(clean, "/var/lib"); ok {
		return h.dir("disk", "lib", rest)
	}
	if rest, ok := strings.CutPrefix(clean, "/var/log"); ok {
		return h.dir("disk", "log", rest)
	}
	// What a host changed in /etc is on the lab's tmpfs if the disk's file system can't carry an overlay.
	if h.l.ctl != nil {
		if ram := fmt.Sprintf("/proc/%d/root%s", h.l.ctl.pid, filepath.Join(h.l.dir, "ram", h.name, clean)); exists(ram) {
			return ram
		}
	}
	return h.dir("disk", clean)
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

func (h *Host) openRoot() (*os.File, error) {
	ctl, _, err := h.up()
	if err != nil {
		return nil, err
	}
	return os.OpenFile(fmt.Sprintf("/proc/%d/root", ctl.pid), unix.O_PATH|unix.O_DIRECTORY, 0)
}

// openIn opens a path below root; absolute links inside stay inside.
func openIn(root *os.File, name string, flags int, mode os.FileMode) (*os.File, error) {
	how := &unix.OpenHow{Flags: uint64(flags) | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT}
	if flags&unix.O_CREAT != 0 {
		how.Mode = uint64(mode.Perm())
	}
	fd, err := unix.Openat2(int(root.Fd()), name, how)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), name), nil
}
