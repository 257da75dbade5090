package lab

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// The names under which the program runs again as a first process. A host's processes never see them, nor an
// environment variable of the lab's.
const (
	keeperName = "pgvrrp-lab-keeper"
	initName   = "pgvrrp-lab-init"
)

// agentPath is the search path inside hosts, and of every program that the lab starts in one.
const agentPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// Main turns the process into the first process of a lab or of a host, if it was started as one, and then never
// returns. Call it before anything else in main or TestMain.
func Main() {
	if len(os.Args) != 2 {
		return
	}
	switch os.Args[0] {
	case keeperName:
		os.Exit(keeperMain(os.Args[1]))
	case initName:
		os.Exit(initMain(os.Args[1]))
	}
}

// keeperConfig is the keeper's only argument, as JSON.
type keeperConfig struct {
	Dir string `json:"dir"` // the lab's directory, removed when the lab is gone
	// Cache is removed too if the lab's owner dies without a farewell.
	Cache string `json:"cache,omitempty"`
}

// keeperMain is process 1 of the lab: its pid namespace holds every process of the lab, its network namespace is the
// switch, its mount namespace has what outlives a host. Descriptor 3 is the control socket; when the other end closes,
// for whatever reason, everything goes.
func keeperMain(arg string) int {
	var cfg keeperConfig
	a, err := newAgent(arg, &cfg)
	if err == nil {
		err = keeperSetup(cfg)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "keeper:", err)
		return 1
	}
	farewell := a.serve(nil)
	a.forgetConnections()

	// Everything in the namespace but us, the hosts with their own first process included. The reaper runs until
	// there are no children left.
	_ = unix.Kill(-1, unix.SIGKILL)
	a.waitAllGone()
	_ = unix.Unmount(filepath.Join(cfg.Dir, "ram"), unix.MNT_DETACH)
	code := 0
	if err := os.RemoveAll(cfg.Dir); err != nil {
		fmt.Fprintln(os.Stderr, "keeper:", err)
		code = 1
	}
	if !farewell && cfg.Cache != "" {
		if err := os.RemoveAll(cfg.Cache); err != nil {
			code = 1
		}
	}
	return code
}

func keeperSetup(cfg keeperConfig) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := unix.Sethostname([]byte("switch")); err != nil {
		return fmt.Errorf("set host name: %w", err)
	}
	ram := filepath.Join(cfg.Dir, "ram")
	if err := unix.Mount("tmpfs", ram, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0755"); err != nil {
		return fmt.Errorf("mount tmpfs on %s: %w", ram, err)
	}
	if err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	// A switch has no addresses: its bridges must not send neighbour or listener reports of their own.
	for _, key := range []string{"all", "default"} {
		if err := os.WriteFile("/proc/sys/net/ipv6/conf/"+key+"/disable_ipv6", []byte("1"), 0); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("silence the switch: %w", err)
		}
	}
	return nil
}

// initMain is process 1 of a host.
func initMain(arg string) int {
	var cfg hostConfig
	a, err := newAgent(arg, &cfg)
	if err != nil {
		fmt.Fprintln(os.Stderr, "init:", err)
		return 1
	}
	warnings, err := setupHost(cfg)
	if err != nil {
		_ = a.wire.send(message{Err: err.Error()})
		return 1
	}
	a.serve(warnings)
	return 0 // the rest of the host dies with us
}

// agent starts, signals and reaps.
type agent struct {
	wire *wire

	mu       sync.Mutex
	spawned  *sync.Cond     // a child was made, or we are leaving
	requests map[int]uint64 // pid -> request
	hosts    map[int]bool   // pids of hosts' first processes
	children uint64         // made so far
	leaving  bool
	idle     bool // the reaper found no child
}

func newAgent(arg string, cfg any) (*agent, error) {
	// Being process 1, a signal that nobody asked for must not end us; ignoring it outright would be inherited.
	unwanted := make(chan os.Signal, 1)
	signal.Notify(unwanted, unix.SIGINT, unix.SIGTERM, unix.SIGHUP, unix.SIGQUIT, unix.SIGUSR1, unix.SIGUSR2, unix.SIGPIPE)
	go func() {
		for range unwanted {
		}
	}()
	if err := json.Unmarshal([]byte(arg), cfg); err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	unix.CloseOnExec(3)
	w, err := newWire(os.NewFile(3, "control"))
	if err != nil {
		return nil, err
	}
	os.Clearenv()
	if err := os.Setenv("PATH", agentPath); err != nil {
		return nil, err
	}
	a := &agent{wire: w, requests: map[int]uint64{}, hosts: map[int]bool{}}
	a.spawned = sync.NewCond(&a.mu)
	unix.Umask(0o022)
	return a, os.Chdir("/")
}

// serve says hello and then answers until the other end is gone; it reports whether that end said farewell.
func (a *agent) serve(warnings []string) (farewell bool) {
	go a.reap()
	if err := a.wire.send(message{PID: os.Getpid(), Extra: warnings}); err != nil {
		return false
	}
	for {
		var r request
		_, files, err := a.wire.receive(&r)
		switch {
		case errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET):
			return farewell
		case err != nil:
			fmt.Fprintln(os.Stderr, "agent:", err)
			return false
		}
		switch {
		case r.Spawn != nil:
			a.spawn(r.ID, r.Spawn, files)
		case r.Kill != nil:
			m := message{ID: r.ID}
			if err := unix.Kill(r.Kill.PID, syscall.Signal(r.Kill.Signal)); err != nil {
				m.Err = err.Error()
			}
			_ = a.wire.send(m)
		default:
			farewell = true
			_ = a.wire.send(message{ID: r.ID})
		}
		closeAll(files)
	}
}

func (a *agent) spawn(id uint64, s *spawnRequest, files []*os.File) {
	// The answer is sent before the lock is given up, so that it stands before the news of the end.
	a.mu.Lock()
	defer a.mu.Unlock()
	pid, err := forkExec(s, files)
	if err != nil {
		_ = a.wire.send(message{ID: id, Err: err.Error()})
		return
	}
	a.requests[pid] = id
	a.children++
	a.idle = false
	if s.Boot {
		a.hosts[pid] = true
	}
	a.spawned.Signal()
	_ = a.wire.send(message{ID: id, PID: pid})
}

func forkExec(s *spawnRequest, files []*os.File) (int, error) {
	if len(s.Argv) == 0 || len(files) < 3 {
		return 0, errors.New("start program: no arguments or descriptors")
	}
	attr := &syscall.ProcAttr{Dir: s.Dir, Env: s.Env, Sys: &syscall.SysProcAttr{Setsid: true}}
	for _, f := range files {
		attr.Files = append(attr.Files, f.Fd())
	}
	path := "/proc/self/exe"
	if s.Boot {
		attr.Sys.Cloneflags = unix.CLONE_NEWPID | unix.CLONE_NEWNS | unix.CLONE_NEWNET | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC
	} else {
		var err error
		if path, err = exec.LookPath(s.Argv[0]); err != nil {
			return 0, fmt.Errorf("start %s: %w", s.Argv[0], err)
		}
		home := "/root"
		if s.User != "" && s.User != "root" {
			cred, dir, err := credential(s.User)
			if err != nil {
				return 0, fmt.Errorf("start %s: %w", s.Argv[0], err)
			}
			attr.Sys.Credential, home = cred, dir
		} else {
			s.User = "root"
		}
		attr.Env = append([]string{"PATH=" + agentPath, "LANG=C.UTF-8", "HOME=" + home, "USER=" + s.User, "LOGNAME=" + s.User}, s.Env...)
		if attr.Dir == "" {
			attr.Dir = "/"
		}
	}
	pid, err := syscall.ForkExec(path, s.Argv, attr)
	if err != nil {
		return 0, fmt.Errorf("start %s: %w", s.Argv[0], err)
	}
	return pid, nil
}

func credential(name string) (*syscall.Credential, string, error) {
	u, err := user.Lookup(name)
	if err != nil {
		return nil, "", err
	}
	uid, err := strconv.ParseUint(u.Uid, 10, 32)
	if err != nil {
		return nil, "", fmt.Errorf("user %s: %w", name, err)
	}
	gid, err := strconv.ParseUint(u.Gid, 10, 32)
	if err != nil {
		return nil, "", fmt.Errorf("user %s: %w", name, err)
	}
	c := &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	more, err := u.GroupIds()
	if err != nil {
		return nil, "", fmt.Errorf("groups of user %s: %w", name, err)
	}
	for _, g := range more {
		if n, err := strconv.ParseUint(g, 10, 32); err == nil {
			c.Groups = append(c.Groups, uint32(n))
		}
	}
	return c, u.HomeDir, nil
}

// reap collects every child and every orphan that the kernel gives us.
func (a *agent) reap() {
	for {
		a.mu.Lock()
		made := a.children
		a.mu.Unlock()
		var ws syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &ws, 0, nil)
		if errors.Is(err, syscall.EINTR) {
			continue
		}
		a.mu.Lock()
		if err != nil {
			if a.children != made {
				a.mu.Unlock()
				continue // one was made after we looked
			}
			// No child, so no orphan can come either, until we make the next one.
			a.idle = true
			a.spawned.Broadcast()
			if a.leaving {
				a.mu.Unlock()
				return
			}
			a.spawned.Wait()
			a.mu.Unlock()
			continue
		}
		id, ours := a.requests[pid]
		delete(a.requests, pid)
		delete(a.hosts, pid)
		a.mu.Unlock()
		if ours {
			_ = a.wire.send(message{ID: id, PID: pid, Exited: true, Status: uint32(ws)})
		}
	}
}

// forgetConnections makes the hosts' kernels give up closed connections at once, see forgetOrphans.
func (a *agent) forgetConnections() {
	a.mu.Lock()
	defer a.mu.Unlock()
	for pid := range a.hosts {
		if ns, err := openNamespace(fmt.Sprintf("/proc/%d/ns/net", pid)); err == nil {
			_ = ns.do(forgetOrphans)
			ns.close()
		}
	}
}

func (a *agent) waitAllGone() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.leaving = true
	for !a.idle {
		a.spawned.Wait()
	}
}

// hostConfig is a host's first process's only argument, as JSON. Paths are those of the machine.
type hostConfig struct {
	Name  string `json:"name"`
	Root  string `json:"root"`  // an empty directory on which the host's root is put together
	Disk  string `json:"disk"`  // what survives power loss
	RAM   string `json:"ram"`   // the same on a tmpfs of the lab's, for file systems that can't carry an overlay
	Hosts string `json:"hosts"` // content of /etc/hosts
	// Lower is a directory of the lab's whose files appear over the machine's: Lower/usr/bin/x as /usr/bin/x.
	Lower string            `json:"lower"`
	Over  []string          `json:"over"`  // directories that Lower has files for
	Binds map[string]string `json:"binds"` // inside -> outside, writable
}

// Directories of the machine's /etc that a host must not see, for it would take them for its own.
var foreignConfig = []string{"postgresql", "keepalived", "vrrpd", "pgnotify"}

// setupHost runs in the new namespaces, before anything else does.
func setupHost(cfg hostConfig) (warnings []string, err error) {
	fail := func(what string, err error) ([]string, error) {
		return nil, fmt.Errorf("set up host %s: %s: %w", cfg.Name, what, err)
	}
	if err := unix.Sethostname([]byte(cfg.Name)); err != nil {
		return fail("set host name", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fail("make mounts private", err)
	}
	if err := unix.Mount("/", cfg.Root, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return fail("bind root", err)
	}
	if err := unix.MountSetattr(-1, cfg.Root, unix.AT_RECURSIVE, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}); err != nil {
		return fail("make root read-only", err)
	}
	in := func(path string) string { return filepath.Join(cfg.Root, path) }
	tmpfs := func(path, opts string) error {
		return unix.Mount("tmpfs", in(path), "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, opts)
	}

	// Own devices: the machine's watchdog, disks and consoles are none of the host's.
	if err := tmpfs("/run", "mode=0755"); err != nil {
		return fail("mount /run", err)
	}
	if err := setupDev(in); err != nil {
		return fail("mount /dev", err)
	}
	for _, dir := range []string{"/tmp", "/var/tmp"} {
		if err := tmpfs(dir, "mode=1777"); err != nil {
			return fail("mount "+dir, err)
		}
	}
	for inside, sub := range map[string]string{"/var/lib": "lib", "/var/log": "log"} {
		if err := unix.Mount(filepath.Join(cfg.Disk, sub), in(inside), "", unix.MS_BIND, ""); err != nil {
			return fail("mount "+inside, err)
		}
	}
	_, err = os.Stat(filepath.Join(cfg.Disk, "etc"))
	firstBoot := errors.Is(err, os.ErrNotExist)
	for _, dir := range append([]string{"/etc"}, cfg.Over...) {
		warning, err := overlay(cfg, dir, in(dir), mountOverlay)
		if err != nil {
			return fail("mount "+dir, err)
		}
		if warning != "" {
			warnings = append(warnings, warning)
		}
	}

	if err := unix.Mount("proc", in("/proc"), "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fail("mount /proc", err)
	}
	if err := unix.Mount("sysfs", in("/sys"), "sysfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC|unix.MS_RDONLY, ""); err != nil {
		return fail("mount /sys", err)
	}
	// Of the kernel's switches only those of the network are the host's own.
	for _, m := range []struct {
		source, target string
		flags          uintptr
	}{
		{in("/proc/sys"), in("/proc/sys"), unix.MS_BIND},
		{in("/proc/sys/net"), in("/proc/sys/net"), unix.MS_BIND},
		{"", in("/proc/sys"), unix.MS_BIND | unix.MS_REMOUNT | unix.MS_RDONLY},
		{in("/dev/null"), in("/proc/sysrq-trigger"), unix.MS_BIND},
	} {
		if err := unix.Mount(m.source, m.target, "", m.flags, ""); err != nil && !(errors.Is(err, os.ErrNotExist) && strings.HasSuffix(m.target, "trigger")) {
			return fail("mount "+m.target, err)
		}
	}
	for inside, outside := range cfg.Binds {
		if err := os.MkdirAll(in(inside), 0o755); err != nil {
			return fail("make "+inside, err)
		}
		if err := unix.Mount(outside, in(inside), "", unix.MS_BIND, ""); err != nil {
			return fail("mount "+inside, err)
		}
	}

	if err := os.Chdir(cfg.Root); err != nil {
		return fail("enter root", err)
	}
	if err := unix.PivotRoot(".", "."); err != nil {
		return fail("pivot root", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fail("leave the old root", err)
	}
	if err := os.Chdir("/"); err != nil {
		return fail("enter root", err)
	}
	if firstBoot {
		for _, dir := range foreignConfig {
			if err := os.RemoveAll("/etc/" + dir); err != nil {
				return fail("hide the machine's configuration", err)
			}
		}
	}
	if err := populate(cfg); err != nil {
		return fail("populate", err)
	}
	return warnings, nil
}

// setupDev puts together a /dev of harmless devices and then moves it into place.
func setupDev(in func(string) string) error {
	const flags = unix.MS_NOSUID
	stage := in("/run/.dev")
	if err := os.Mkdir(stage, 0o755); err != nil {
		return err
	}
	if err := unix.Mount("tmpfs", stage, "tmpfs", flags, "mode=0755"); err != nil {
		return err
	}
	for _, name := range []string{"null", "zero", "full", "random", "urandom", "tty", "net/tun"} {
		path := filepath.Join(stage, name)
		if _, err := os.Stat("/dev/" + name); err != nil {
			continue
		}
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, nil, 0o666); err != nil {
			return err
		}
		if err := unix.Mount("/dev/"+name, path, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("bind %s: %w", name, err)
		}
	}
	for _, dir := range []string{"pts", "shm"} {
		if err := os.Mkdir(filepath.Join(stage, dir), 0o755); err != nil {
			return err
		}
	}
	if err := unix.Mount("devpts", filepath.Join(stage, "pts"), "devpts", flags|unix.MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620"); err != nil {
		return fmt.Errorf("mount pts: %w", err)
	}
	// PostgreSQL's dynamic shared memory lives here and must die with the host.
	if err := unix.Mount("tmpfs", filepath.Join(stage, "shm"), "tmpfs", flags|unix.MS_NODEV, "mode=1777"); err != nil {
		return fmt.Errorf("mount shm: %w", err)
	}
	for link, target := range map[string]string{"ptmx": "pts/ptmx", "fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2"} {
		if err := os.Symlink(target, filepath.Join(stage, link)); err != nil {
			return err
		}
	}
	if err := unix.Mount(stage, in("/dev"), "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("move: %w", err)
	}
	return os.Remove(stage)
}

func mountOverlay(target, options string) error {
	return unix.Mount("overlay", target, "overlay", 0, options)
}

// overlay mounts the machine's directory dir, read-only, under the host's own changes: on disk if that file system
// can carry an overlay, else on the lab's tmpfs, else as a copy.
func overlay(cfg hostConfig, dir, target string, mount func(target, options string) error) (warning string, err error) {
	lower := dir
	if dir != "/etc" {
		lower = filepath.Join(cfg.Lower, dir) + ":" + dir
	}
	var last error
	for _, base := range []string{cfg.Disk, cfg.RAM} {
		upper, work := filepath.Join(base, dir), filepath.Join(base, ".work", dir)
		for _, d := range []string{upper, work} {
			if err := os.MkdirAll(d, 0o755); err != nil {
				return "", err
			}
		}
		if last = mount(target, "lowerdir="+lower+",upperdir="+upper+",workdir="+work); last == nil {
			return "", nil
		}
	}
	copied := filepath.Join(cfg.Disk, dir)
	if _, err := os.Stat(filepath.Join(copied, ".copied")); err != nil {
		for _, l := range []string{dir, filepath.Join(cfg.Lower, dir)} { // later ones win
			if _, err := os.Stat(l); err != nil {
				continue
			}
			cmd := exec.Command("cp", "-a", "--reflink=auto", l+"/.", copied)
			if out, err := cmd.CombinedOutput(); err != nil {
				return "", fmt.Errorf("no overlay (%w) and no copy: %w: %s", last, err, out)
			}
		}
		if err := os.WriteFile(filepath.Join(copied, ".copied"), nil, 0o600); err != nil {
			return "", err
		}
	}
	if err := unix.Mount(copied, target, "", unix.MS_BIND, ""); err != nil {
		return "", err
	}
	return fmt.Sprintf("no overlay on %s (%v): copied", dir, last), nil
}

// populate fills what a booting system fills: /run, and the few directories that packages would have made.
func populate(cfg hostConfig) error {
	if err := os.WriteFile("/etc/hostname", []byte(cfg.Name+"\n"), 0o644); err != nil {
		return err
	}
	if err := os.WriteFile("/etc/hosts", []byte(cfg.Hosts), 0o644); err != nil {
		return err
	}
	type dir struct {
		path  string
		mode  uint32 // as of chmod(2)
		owner string
	}
	dirs := []dir{{"/run/lock", 0o1777, ""}, {"/run/shared", 0o1777, ""}, {"/var/lib/misc", 0o755, ""}}
	if _, err := user.Lookup("postgres"); err == nil {
		dirs = append(dirs, dir{"/run/postgresql", 0o2775, "postgres"}, dir{"/var/lib/postgresql", 0o755, "postgres"}, dir{"/var/log/postgresql", 0o2775, "postgres"})
	}
	for _, d := range dirs {
		if err := os.MkdirAll(d.path, 0o755); err != nil {
			return err
		}
		if d.owner != "" {
			cred, _, err := credential(d.owner)
			if err != nil {
				return err
			}
			if err := os.Chown(d.path, int(cred.Uid), int(cred.Gid)); err != nil {
				return err
			}
		}
		if err := unix.Chmod(d.path, d.mode); err != nil {
			return err
		}
	}
	// Debian links /var/run to /run; where it doesn't, sockets must not land on the machine's.
	if fi, err := os.Lstat("/var/run"); err == nil && fi.IsDir() {
		if err := unix.Mount("/run", "/var/run", "", unix.MS_BIND, ""); err != nil {
			return err
		}
	}
	return nil
}
