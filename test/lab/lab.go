package lab

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// Names of the files and directories that labs make, all in the temporary directory.
const (
	dirPattern   = "pgvrrp-lab-*"
	cachePattern = "pgvrrp-labcache-*"
	lockName     = "pgvrrp-lab.lock"
	// cacheEnv names a directory for what several labs of one run share; RunTests sets it.
	cacheEnv = "PGVRRP_LAB_CACHE"
)

// HostSpec is a host that doesn't fit the row n1, n2, n3 …
type HostSpec struct {
	Name string // at most 10 letters and digits
	// Index is the last part of its addresses, 1..199.
	Index int
}

// Options say what the lab is made of. The zero value of each field is a sensible choice.
type Options struct {
	// Hosts is the number of data hosts: n1 … nN with the indices 1 … N.
	Hosts int
	// Extra hosts, for instance {"w1", 21}.
	Extra []HostSpec
	// Programs are put over the hosts' own: path inside -> path outside, for instance
	// "/usr/sbin/vrrpd" -> "build/vrrpd". The file is copied once.
	Programs map[string]string
	// Binds are directories of the machine that every host sees, writable: path inside -> path outside. /run/shared
	// (SharedDir) is always there.
	Binds map[string]string
	// Networks is how many networks there are besides the two, see Network; the client is on none of them.
	Networks int
	// Dir is where the lab's directory is made (default: environment variable PGVRRP_LAB_DIR, else the temporary
	// directory). The disks of the hosts are in it: on a tmpfs such as /dev/shm labs come and go faster, and fsync
	// costs nothing, which no measurement should be made with.
	Dir string
	// Machine is what labs of one process share that may stand beside each other (default: this one wants the machine for itself).
	Machine *Machine
	// Log gets what the lab does (default: nothing but "waiting for another lab" on standard error).
	Log *slog.Logger
}

// Lab is a set of hosts on two networks or more. Its methods may be called from several goroutines.
type Lab struct {
	log    *slog.Logger
	dir    string
	opts   Options
	lock   *Machine // nil: not taken
	keeper *exec.Cmd
	ctl    *client
	sw     *namespace // the switch
	hosts  []*Host
	client *Host

	mu       sync.Mutex
	cuts     map[cut]bool
	stop     func() bool // forgets the end of New's context
	captures []*Capture
	probes   []*Probe
	closing  sync.Once
	closeErr error
}

// New makes the lab and boots its hosts. New waits for other labs on this machine to go, unless they share a Machine.
// The end of ctx closes the lab. The caller closes it in any case; should the caller die without, even by SIGKILL, the
// kernel tells the lab's first process, and that removes everything.
func New(ctx context.Context, opts Options) (l *Lab, err error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("make lab: root is needed")
	}
	l = &Lab{log: opts.Log, opts: opts, cuts: map[cut]bool{}}
	waitLog := l.log
	if l.log == nil {
		l.log = slog.New(slog.DiscardHandler)
		waitLog = slog.New(slog.NewTextHandler(os.Stderr, nil))
	}
	specs, err := opts.specs()
	if err != nil {
		return nil, fmt.Errorf("make lab: %w", err)
	}
	m := opts.Machine
	if m == nil {
		m = &Machine{}
	}
	if err = m.take(ctx, waitLog); err != nil {
		return nil, fmt.Errorf("make lab: %w", err)
	}
	l.lock = m
	begun := l // a return with an error is without it
	defer func() {
		if err != nil {
			err = errors.Join(err, begun.Close())
		}
	}()
	sweep(baseDir(opts.Dir))
	if l.dir, err = os.MkdirTemp(baseDir(opts.Dir), dirPattern); err != nil {
		return nil, fmt.Errorf("make lab: %w", err)
	}
	if err = l.startKeeper(ctx); err != nil {
		return nil, fmt.Errorf("make lab: %w", err)
	}
	if err = l.makeSwitch(); err != nil {
		return nil, fmt.Errorf("make lab: %w", err)
	}
	if err = l.copyPrograms(); err != nil {
		return nil, fmt.Errorf("make lab: %w", err)
	}
	l.client = newHost(l, HostSpec{Name: "client", Index: clientIndex})
	for _, s := range specs {
		l.hosts = append(l.hosts, newHost(l, s))
	}
	var g errgroup.Group
	for _, h := range append([]*Host{l.client}, l.hosts...) {
		g.Go(func() error { return h.Boot(ctx) })
	}
	if err = g.Wait(); err != nil {
		return nil, fmt.Errorf("make lab: %w", err)
	}
	l.mu.Lock()
	l.stop = context.AfterFunc(ctx, func() { _ = l.Close() })
	l.mu.Unlock()
	return l, nil
}

// baseDir is where directories of labs are made.
func baseDir(dir string) string {
	return cmp.Or(dir, os.Getenv("PGVRRP_LAB_DIR"), os.TempDir())
}

func (o Options) specs() ([]HostSpec, error) {
	var specs []HostSpec
	if most := mostNetworks - len(Bridges()); o.Networks < 0 || o.Networks > most {
		return nil, fmt.Errorf("%d more networks: want 0 to %d", o.Networks, most)
	}
	for i := 1; i <= o.Hosts; i++ {
		specs = append(specs, HostSpec{Name: fmt.Sprintf("n%d", i), Index: i})
	}
	specs = append(specs, o.Extra...)
	names, indices := map[string]bool{"client": true, "switch": true}, map[int]bool{}
	for _, s := range specs {
		if s.Name == "" || len(s.Name) > 10 || strings.Trim(s.Name, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" {
			return nil, fmt.Errorf("host %q: a name is 1 to 10 small letters, digits or dashes", s.Name)
		}
		if s.Index < 1 || s.Index >= clientIndex {
			return nil, fmt.Errorf("host %s: index %d is not in 1..%d", s.Name, s.Index, clientIndex-1)
		}
		if names[s.Name] || indices[s.Index] {
			return nil, fmt.Errorf("host %s: name or index %d is taken", s.Name, s.Index)
		}
		names[s.Name], indices[s.Index] = true, true
	}
	return specs, nil
}

// Machine is the lock on the machine that labs of one process may hold together. The zero value is ready; it must not be copied.
type Machine struct {
	mu   sync.Mutex
	file *os.File
	labs int
}

// take waits until no other process has a lab here, and counts one more of ours.
func (m *Machine) take(ctx context.Context, log *slog.Logger) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.labs == 0 {
		f, err := lockMachine(ctx, log)
		if err != nil {
			return err
		}
		m.file = f
	}
	m.labs++
	return nil
}

// give counts one less; the last one lets others in.
func (m *Machine) give() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.labs--; m.labs > 0 {
		return nil
	}
	return m.file.Close()
}

// lockMachine waits for the machine's lab lock. The descriptor is close-on-exec, so that no child keeps the lock.
func lockMachine(ctx context.Context, log *slog.Logger) (*os.File, error) {
	dir := "/run/lock"
	if fi, err := os.Stat(dir); err != nil || !fi.IsDir() {
		dir = os.TempDir()
	}
	f, err := os.OpenFile(filepath.Join(dir, lockName), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open lab lock: %w", err)
	}
	said := false
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			_ = f.Truncate(0)
			_, _ = f.WriteAt([]byte(fmt.Sprintf("%d\n", os.Getpid())), 0)
			return f, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) {
			f.Close()
			return nil, fmt.Errorf("lock %s: %w", f.Name(), err)
		}
		if !said {
			said = true
			pid, _ := io.ReadAll(io.NewSectionReader(f, 0, 32))
			log.Info("waiting for another lab on this machine", "lock", f.Name(), "pid", strings.TrimSpace(string(pid)))
		}
		select {
		case <-ctx.Done():
			f.Close()
			return nil, fmt.Errorf("wait for the lab lock: %w", ctx.Err())
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// sweep removes directories of labs whose every process was killed at once. A living one holds a lock on its own.
func sweep(parent string) {
	for _, pattern := range []string{dirPattern, cachePattern} {
		dirs, _ := filepath.Glob(filepath.Join(parent, pattern))
		for _, dir := range dirs {
			f, err := os.Open(filepath.Join(dir, ".alive"))
			if err != nil {
				continue // being made or being removed
			}
			if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil {
				_ = os.RemoveAll(dir)
			}
			f.Close()
		}
	}
}

// markAlive makes and locks the file by which sweep knows that a directory is in use.
func markAlive(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, ".alive"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", f.Name(), err)
	}
	return f, nil
}

func (l *Lab) startKeeper(ctx context.Context) error {
	for _, d := range []string{"ram", "hosts", "over", "shared", "logs", "captures"} {
		if err := os.Mkdir(filepath.Join(l.dir, d), 0o755); err != nil {
			return err
		}
	}
	// MkdirTemp makes 0700; everybody inside may use the shared directory.
	if err := os.Chmod(l.SharedDir(), 0o1777); err != nil {
		return err
	}
	alive, err := markAlive(l.dir)
	if err != nil {
		return err
	}
	defer alive.Close()
	arg, err := json.Marshal(keeperConfig{Dir: l.dir, Cache: os.Getenv(cacheEnv)})
	if err != nil {
		return err
	}
	log, err := os.Create(filepath.Join(l.dir, "logs", "keeper.log"))
	if err != nil {
		return err
	}
	defer log.Close()
	ours, theirs, err := socketPair()
	if err != nil {
		return err
	}
	defer theirs.Close()
	// The keeper keeps descriptor 4, and with it the lock on the directory, open for as long as it lives.
	l.keeper = &exec.Cmd{
		Path: "/proc/self/exe", Args: []string{keeperName, string(arg)}, Env: agentEnv(), Dir: "/",
		Stdout: log, Stderr: log, ExtraFiles: []*os.File{theirs, alive},
		SysProcAttr: &unix.SysProcAttr{
			Setsid:     true, // no Ctrl-C for the keeper: it leaves when we have
			Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNS | unix.CLONE_NEWNET | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC,
		},
	}
	if err := l.keeper.Start(); err != nil {
		l.keeper = nil
		ours.close()
		return fmt.Errorf("start keeper: %w", err)
	}
	theirs.Close()
	if l.ctl, _, err = newClient(ctx, ours, "lab"); err != nil {
		text, _ := os.ReadFile(log.Name())
		return fmt.Errorf("start keeper: %w %s (is Main called first thing in main or TestMain?)", err, text)
	}
	return nil
}

// BinDir is where the programs under test are: PGVRRP_BIN, else beside the running program.
func BinDir() string {
	if d := os.Getenv("PGVRRP_BIN"); d != "" {
		return d
	}
	exe, err := os.Executable()
	if err != nil {
		return "bin"
	}
	return filepath.Dir(exe)
}

// agentEnv keeps first processes small, and those of a binary with the race detector from sleeping at their end.
func agentEnv() []string { return []string{"GOMAXPROCS=2", "GORACE=atexit_sleep_ms=0"} }

// copyPrograms fills the layer that lies over the machine's programs.
func (l *Lab) copyPrograms() error {
	for inside, outside := range l.opts.Programs {
		if !filepath.IsAbs(inside) || filepath.Dir(inside) == "/" {
			return fmt.Errorf("program %s: the path inside must be absolute and in a directory", inside)
		}
		if fi, err := os.Stat(filepath.Dir(inside)); err != nil || !fi.IsDir() {
			return fmt.Errorf("program %s: the machine has no directory %s", inside, filepath.Dir(inside))
		}
		to := filepath.Join(l.dir, "over", inside)
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			return err
		}
		if err := copyFile(outside, to, 0o755); err != nil {
			return err
		}
	}
	return nil
}

func copyFile(from, to string, mode os.FileMode) error {
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, mode)
	if err != nil {
		return err
	}
	_, err = io.Copy(dst, src)
	return errors.Join(err, dst.Close())
}

// Hosts returns the hosts in order, without the client.
func (l *Lab) Hosts() []*Host { return slices.Clone(l.hosts) }

// Host returns a host by its name, "client" included; it panics if there's none, for that's a misspelt test.
func (l *Lab) Host(name string) *Host {
	for _, h := range append([]*Host{l.client}, l.hosts...) {
		if h != nil && h.name == name {
			return h
		}
	}
	panic("lab: no host " + name)
}

// Client returns the host outside, 10.77.0.200, from which tests and the meter use the service.
func (l *Lab) Client() *Host { return l.client }

// Dir returns the lab's directory on the machine; Close removes it.
func (l *Lab) Dir() string { return l.dir }

// SharedDir returns the machine's path of what every host sees as /run/shared.
func (l *Lab) SharedDir() string { return filepath.Join(l.dir, "shared") }

// Names returns the names of all hosts but the given ones, the client included: the other side of a partition.
func (l *Lab) Names(except ...string) []string {
	names := []string{}
	for _, h := range append(l.Hosts(), l.client) {
		if !slices.Contains(except, h.name) {
			names = append(names, h.name)
		}
	}
	return names
}

// HostByMAC returns the name of the host whose interface has this address, "" if none has (a virtual MAC).
func (l *Lab) hostByMAC(mac [6]byte) string {
	for _, h := range append(l.Hosts(), l.client) {
		for _, b := range l.bridges() {
			if h.mac(b) == mac {
				return h.name
			}
		}
	}
	return ""
}

// Close removes the lab: every process, namespace, mount, interface and file. It may be called again.
func (l *Lab) Close() error {
	l.closing.Do(func() { l.closeErr = l.close() })
	return l.closeErr
}

func (l *Lab) close() error {
	var errs []error
	l.mu.Lock()
	if l.stop != nil {
		l.stop()
	}
	captures, probes := slices.Clone(l.captures), slices.Clone(l.probes)
	l.mu.Unlock()
	for _, p := range probes {
		p.Stop()
	}
	for _, c := range captures {
		errs = append(errs, c.Close())
	}
	hosts := l.Hosts()
	if l.client != nil {
		hosts = append(hosts, l.client)
	}
	for _, h := range hosts {
		h.drop()
	}
	l.sw.close()
	if l.ctl != nil {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		_, _ = l.ctl.call(ctx, request{}, nil) // farewell
		cancel()
		l.ctl.close()
	}
	if l.keeper != nil {
		gone := make(chan error, 1)
		go func() { gone <- l.keeper.Wait() }()
		select {
		case err := <-gone:
			if err != nil {
				errs = append(errs, fmt.Errorf("close lab: keeper: %w", err))
			}
		case <-time.After(20 * time.Second):
			// Its death ends everything in its namespace.
			errs = append(errs, errors.New("close lab: keeper did not leave, killed"), l.keeper.Process.Kill())
			<-gone //nolint:errcheck // how it died was our doing
		}
	}
	if l.dir != "" {
		if err := os.RemoveAll(l.dir); err != nil {
			errs = append(errs, fmt.Errorf("close lab: %w", err))
		}
	}
	if l.lock != nil {
		errs = append(errs, l.lock.give())
	}
	return errors.Join(errs...)
}

// hostsFile is /etc/hosts of every host: names lead to the service LAN, with -ic to the interconnect.
func (l *Lab) hostsFile(self *Host) string {
	var b strings.Builder
	fmt.Fprintf(&b, "127.0.0.1 localhost\n::1 localhost\n")
	for _, h := range append(slices.Clone(l.hosts), l.client) {
		if h == nil {
			continue
		}
		fmt.Fprintf(&b, "%s %s\n", h.Addr(LAN), h.name)
		if h != l.client {
			fmt.Fprintf(&b, "%s %s-ic\n", h.Addr(Interconnect), h.name)
		}
	}
	return b.String()
}

// VIP returns the n-th service address that tests use by convention, 10.77.0.(99+n) for IPv4: VIP(1) is 10.77.0.100.
func VIP(n int) netip.Addr { return netip.AddrFrom4([4]byte{10, 77, 0, byte(99 + n)}) }

// VIP6 returns fd77::(99+n), the decimal digits read as hexadecimal: VIP6(1) is fd77::100.
func VIP6(n int) netip.Addr { return netip.MustParseAddr(fmt.Sprintf("fd77::%d", 99+n)) }
