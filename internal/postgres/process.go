package postgres

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"pgvrrp/internal/quiet"
)

const (
	pidFileName = "postmaster.pid"

	// userHZ is the unit of process start times in /proc, the same on every architecture that we build for.
	userHZ = 100

	// startSlack is how far the start time in postmaster.pid and the kernel's may be apart: both are rounded to seconds, and the boot time in
	// /proc/stat moves when the clock is set.
	startSlack = 3 * time.Second
)

// pidFile is postmaster.pid: src/include/utils/pidfile.h names its lines.
type pidFile struct {
	pid       int
	dataDir   string
	started   time.Time
	port      int
	socketDir string
	status    string // starting, stopping, ready, standby; "" while the server has not come so far
}

// parsePIDFile reads the content of postmaster.pid; all lines but the first may be missing while the server starts.
func parsePIDFile(b []byte) (pidFile, error) {
	lines := strings.Split(strings.TrimRight(string(b), "\n"), "\n")
	pid, err := strconv.Atoi(strings.TrimSpace(lines[0]))
	if err != nil || pid == 0 {
		return pidFile{}, fmt.Errorf("first line: want a process number (got %.40q)", lines[0])
	}
	p := pidFile{pid: pid}
	line := func(n int) string {
		if n <= len(lines) {
			return strings.TrimSpace(lines[n-1])
		}
		return ""
	}
	p.dataDir, p.socketDir, p.status = line(2), line(5), line(8)
	if t, err := strconv.ParseInt(line(3), 10, 64); err == nil {
		p.started = time.Unix(t, 0)
	}
	p.port, _ = strconv.Atoi(line(4)) // only used to find a lock file
	return p, nil
}

// readFile is os.ReadFile for a small file that is read many times a second, with a third of the system calls.
func readFile(path string) (_ []byte, err error) {
	defer func() {
		if err != nil {
			err = &fs.PathError{Op: "read", Path: path, Err: err}
		}
	}()
	fd, err := again(func() (int, error) { return unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0) })
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	b := make([]byte, 0, 9<<10) // pg_control has 8 kB
	for {
		n, err := again(func() (int, error) { return unix.Read(fd, b[len(b):cap(b)]) })
		if n <= 0 || err != nil {
			return b, err
		}
		if b = b[:len(b)+n]; len(b) == cap(b) {
			b = slices.Grow(b, cap(b))
		}
	}
}

// again makes a system call until no signal interrupts it.
func again(call func() (int, error)) (n int, err error) {
	for {
		if n, err = call(); !errors.Is(err, unix.EINTR) {
			return n, err
		}
	}
}

// readPIDFile returns fs.ErrNotExist if there is none.
func (s *Server) readPIDFile() (pidFile, error) {
	path := filepath.Join(s.cfg.DataDir, pidFileName)
	b, err := readFile(path)
	if err != nil {
		return pidFile{}, err
	}
	p, err := parsePIDFile(b)
	if err != nil {
		return pidFile{}, fmt.Errorf("read %s: %w", path, err)
	}
	return p, nil
}

// procInfo is what the kernel says of a process.
type procInfo struct {
	pid, parent int
	comm        string
	dead        bool   // a zombie or about to vanish
	ticks       uint64 // start time in ticks since boot: with pid it names a process for ever
	asleep      bool   // interruptibly: not in the middle of reading or writing
	cpu         uint64 // ticks of processor time used
}

// readProc reads /proc/PID/stat, which everybody may; fs.ErrNotExist if there is no such process.
func readProc(pid int) (procInfo, error) {
	path := fmt.Sprintf("/proc/%d/stat", pid)
	b := make([]byte, 1024) // 52 fields, one of them a name of 64 bytes at most
	n, err := quiet.ReadProc(path, b)
	if errors.Is(err, syscall.ESRCH) {
		err = fs.ErrNotExist
	}
	if err != nil {
		return procInfo{}, fmt.Errorf("read %s: %w", path, err)
	}
	b = b[:n]
	open, end := bytes.IndexByte(b, '('), bytes.LastIndexByte(b, ')')
	if open < 0 || end < open {
		return procInfo{}, fmt.Errorf("parse /proc/%d/stat", pid)
	}
	f := strings.Fields(string(b[end+1:])) // from field 3 of proc_pid_stat(5) on
	if len(f) < 20 {
		return procInfo{}, fmt.Errorf("parse /proc/%d/stat", pid)
	}
	p := procInfo{pid: pid, comm: string(b[open+1 : end]), dead: strings.Contains("ZXx", f[0]), asleep: f[0] == "S"}
	if p.parent, err = strconv.Atoi(f[1]); err != nil {
		return procInfo{}, fmt.Errorf("parse /proc/%d/stat: %w", pid, err)
	}
	user, uerr := strconv.ParseUint(f[11], 10, 64)
	kernel, kerr := strconv.ParseUint(f[12], 10, 64)
	p.ticks, err = strconv.ParseUint(f[19], 10, 64)
	if err := errors.Join(err, uerr, kerr); err != nil {
		return procInfo{}, fmt.Errorf("parse /proc/%d/stat: %w", pid, err)
	}
	p.cpu = user + kernel
	return p, nil
}

// processTitle is what ps(1) shows of a process, with a zero byte after each word.
func processTitle(pid int) (string, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	return string(b), err
}

// unsent tells how much a process has written to its TCP connections that the other ends have not taken, as proc(5) writes it, "" if nothing.
func unsent(pid int) string {
	dir := fmt.Sprintf("/proc/%d/", pid)
	open, err := os.ReadDir(dir + "fd")
	if err != nil {
		return "" // it has gone
	}
	var all []string
	for _, table := range []string{"net/tcp", "net/tcp6"} {
		b, err := os.ReadFile(dir + table)
		if err != nil {
			continue // without IPv6 there is one alone
		}
		queues := map[string]string{} // by the inode of the socket
		for line := range strings.Lines(string(b)) {
			if f := strings.Fields(line); len(f) > 9 && !strings.HasPrefix(f[4], "00000000:") {
				queues[f[9]], _, _ = strings.Cut(f[4], ":")
			}
		}
		for _, fd := range open {
			name, _ := os.Readlink(dir + "fd/" + fd.Name()) // "" if it is closed by now
			if q, ok := queues[strings.TrimSuffix(strings.TrimPrefix(name, "socket:["), "]")]; ok {
				all = append(all, q)
			}
		}
	}
	return strings.Join(all, " ")
}

// started is when the process was started, by the present time of day.
func (p procInfo) started() (time.Time, error) {
	boot, err := bootTime()
	return boot.Add(time.Duration(p.ticks) * (time.Second / userHZ)), err
}

func bootTime() (time.Time, error) {
	b, err := os.ReadFile("/proc/stat")
	if err != nil {
		return time.Time{}, err
	}
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(line, "btime "); ok {
			t, err := strconv.ParseInt(strings.TrimSpace(v), 10, 64)
			if err != nil {
				return time.Time{}, fmt.Errorf("parse /proc/stat: %w", err)
			}
			return time.Unix(t, 0), nil
		}
	}
	return time.Time{}, errors.New("parse /proc/stat: no btime")
}

func isPostgresName(name string) bool {
	name = strings.TrimSuffix(name, " (deleted)") // upgraded under the running server
	base := filepath.Base(name)
	return base == "postgres" || base == "postmaster"
}

// isPostgres reports whether a process runs the server's program.
func (p procInfo) isPostgres() bool {
	if isPostgresName(p.comm) {
		return true
	}
	exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", p.pid)) // refused to other users than the process's and root
	return err == nil && isPostgresName(exe)
}

// worksIn reports whether a process has dir as its working directory, as every process of a server has its data directory; known is false if
// the kernel does not tell us. One that is ending has given its memory and its files back, then its working directory, before it is a zombie.
func (p procInfo) worksIn(dir string) (yes, known bool) {
	there, err := os.Stat(fmt.Sprintf("/proc/%d/cwd", p.pid))
	if errors.Is(err, fs.ErrNotExist) {
		return false, true
	}
	if err != nil {
		return false, false
	}
	here, err := os.Stat(dir)
	if err != nil {
		return false, false
	}
	return os.SameFile(there, here), true
}

// verdict is what has become of the process that postmaster.pid names.
type verdict struct {
	life Life   // zero: the server does not run
	why  string // the reason for that
}

// judge decides whether the process that a pid file names is the postmaster of our data directory.
func (s *Server) judge(f pidFile) (verdict, error) {
	single := f.pid < 0 // a server in single-user mode writes its number negated
	pid := max(f.pid, -f.pid)
	var v verdict
	p, err := readProc(pid)
	if errors.Is(err, fs.ErrNotExist) {
		v.why = fmt.Sprintf("process %d has gone", pid)
		return v, nil
	}
	if err != nil {
		return v, fmt.Errorf("look at process %d of %s: %w", pid, pidFileName, err)
	}
	switch {
	case p.dead:
		v.why = fmt.Sprintf("process %d is a zombie", pid)
		return v, nil
	case !p.isPostgres():
		v.why = fmt.Sprintf("process %d is now %q", pid, p.comm)
		return v, nil
	}
	if here, known := p.worksIn(s.cfg.DataDir); known {
		if !here {
			v.why = fmt.Sprintf("process %d is ending, or is now a PostgreSQL of another data directory", pid)
			return v, nil
		}
	} else if f.started.IsZero() {
		return v, fmt.Errorf("look at process %d of %s: it is a PostgreSQL, and whether ours cannot be told (not its user, no start time in the file)", pid, pidFileName)
	} else if started, err := p.started(); err != nil {
		return v, fmt.Errorf("look at process %d of %s: %w", pid, pidFileName, err)
	} else if d := started.Sub(f.started).Abs(); d > startSlack {
		return v, fmt.Errorf("look at process %d of %s: it is a PostgreSQL, and whether ours cannot be told (not its user, it started at %s, the file says %s)", pid, pidFileName,
			started.UTC().Format(time.RFC3339), f.started.UTC().Format(time.RFC3339))
	}
	if single {
		return v, fmt.Errorf("process %d works on %s in single-user mode", pid, s.cfg.DataDir)
	}
	v.life = Life{p.pid, p.ticks}
	return v, nil
}

// Process finds the postmaster by postmaster.pid. A file whose process has gone, is a zombie, or is now another program or the server of another data
// directory is stale: not running. If that can't be decided, the answer is an error and no guess.
func (s *Server) Process() (pid int, running bool, err error) {
	l, err := s.Life()
	return l.PID, l != Life{}, err
}

// processes lists the PostgreSQL processes that work in the data directory, the postmaster and what a dead one left.
func (s *Server) processes() ([]procInfo, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	var all []procInfo
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		p, err := readProc(pid)
		if err != nil || p.dead || !p.isPostgres() {
			continue // gone meanwhile, or none of ours
		}
		if here, known := p.worksIn(s.cfg.DataDir); known && here {
			all = append(all, p)
		}
	}
	return all, nil
}

// titled is a process with its title.
type titled struct {
	procInfo
	title string
}

// children lists the processes of a postmaster that lives.
func (s *Server) children(postmaster int) (all []titled, err error) {
	found, err := s.processes()
	for _, p := range found {
		if title, err := processTitle(p.pid); err == nil && p.parent == postmaster {
			all = append(all, titled{p, title})
		}
	}
	return all, err
}

// leftPatience is how long what a dead postmaster left may take to end before it is killed.
const leftPatience = time.Second

// endLeft ends what a dead postmaster left. Most of it notices by itself; a backend that computes and an archiver in archive_command do not, and would
// keep the next server down. What does not go even if killed is left to those that need the data directory for themselves.
func (s *Server) endLeft(ctx context.Context) error {
	tick := time.NewTicker(stopPoll)
	defer tick.Stop()
	sent := syscall.Signal(0)
	for began := time.Now(); ; {
		left, err := s.orphans()
		if err != nil || len(left) == 0 {
			return err
		}
		sig := syscall.SIGQUIT // an archiver in archive_command does not take it
		if waited := time.Since(began); waited > 2*leftPatience {
			return nil
		} else if waited > leftPatience {
			sig = syscall.SIGKILL
		}
		if sig != sent {
			s.log.Warn("ending processes that a dead postmaster left", "pids", pids(left), "signal", sig.String())
			for _, p := range left {
				if err := signalChild(p.parent, p.pid, sig); err != nil {
					return err
				}
			}
			sent = sig
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for the end of processes %s, which a dead postmaster left: %w", pids(left), context.Cause(ctx))
		case <-tick.C:
		}
	}
}

// orphans are the processes that a dead postmaster left. A postmaster's title is its command line, and theirs is not; one that lives is the parent of
// all of its own. So nobody who starts the server at this moment is among them.
func (s *Server) orphans() ([]procInfo, error) {
	all, err := s.processes()
	if err != nil {
		return nil, err
	}
	var left []procInfo
	for _, p := range all {
		title, err := processTitle(p.pid)
		// One that is about to vanish has no title any more: it is waited for.
		if err == nil && (title == "" || strings.HasPrefix(title, "postgres: ")) && !slices.ContainsFunc(all, func(o procInfo) bool { return o.pid == p.parent }) {
			left = append(left, p)
		}
	}
	return left, nil
}

// clearStale removes a postmaster.pid, and the lock files of its sockets, whose process has gone. PostgreSQL itself copes only with numbers that nobody
// has, and one that nobody has now may be pg_ctl's own in a moment: after a reboot numbers are given out in the same order again. The file guards shared
// memory in which left-over processes could still work, so with any of those it stays.
func (s *Server) clearStale() error {
	path := filepath.Join(s.cfg.DataDir, pidFileName)
	f, err := s.readPIDFile()
	if errors.Is(err, fs.ErrNotExist) {
		return s.clearSocketLocks(pidFile{})
	}
	if err != nil {
		return err
	}
	v, err := s.judge(f)
	if err != nil {
		return err
	}
	if v.life != (Life{}) {
		return fmt.Errorf("%w: process %d", ErrRunning, v.life.PID)
	}
	left, err := s.processes()
	if err != nil {
		return err
	}
	if len(left) > 0 {
		return fmt.Errorf("the postmaster has gone (%s) and left processes that work in %s: %s", v.why, s.cfg.DataDir, pids(left))
	}
	if err := s.clearSocketLocks(f); err != nil {
		return err
	}
	s.log.Warn("removing a stale postmaster.pid", "file", path, "reason", v.why)
	if err := os.Remove(path); err != nil {
		return fmt.Errorf("remove stale %s: %w", pidFileName, err)
	}
	return nil
}

// clearSocketLocks removes stale lock files of our own sockets: those that name our data directory and a process that isn't our postmaster.
func (s *Server) clearSocketLocks(f pidFile) error {
	dirs := []string{f.socketDir}
	port := f.port
	if c, err := readConf(s.cfg.ConfigFile); err == nil {
		if v, ok := c.value("unix_socket_directories"); ok {
			for d := range strings.SplitSeq(v, ",") {
				dirs = append(dirs, strings.Trim(strings.TrimSpace(d), `"`))
			}
		}
		if v, ok := c.value("port"); ok && port == 0 {
			port, _ = strconv.Atoi(v) // 0 finds nothing
		}
	}
	slices.Sort(dirs)
	for _, d := range slices.Compact(dirs) {
		if !filepath.IsAbs(d) || port == 0 {
			continue
		}
		path := filepath.Join(d, fmt.Sprintf(".s.PGSQL.%d.lock", port))
		b, err := os.ReadFile(path)
		if err != nil {
			continue // none, or not ours to read
		}
		l, err := parsePIDFile(b)
		if err != nil || !sameFile(l.dataDir, s.cfg.DataDir) {
			continue // another server's; if it lives, PostgreSQL will say so
		}
		v, err := s.judge(l)
		if err != nil {
			return err
		}
		if v.life != (Life{}) {
			continue
		}
		s.log.Warn("removing a stale socket lock", "file", path, "reason", v.why)
		if err := os.Remove(path); err != nil {
			return fmt.Errorf("remove stale socket lock: %w", err)
		}
	}
	return nil
}

func pids(ps []procInfo) string {
	var b []string
	for _, p := range ps {
		b = append(b, strconv.Itoa(p.pid))
	}
	return strings.Join(b, ", ")
}

// Reload makes the server read its configuration files again. It goes by signal and needs no session.
func (s *Server) Reload(_ context.Context) error {
	pid, running, err := s.Process()
	if err != nil {
		return fmt.Errorf("reload: %w", err)
	}
	if !running {
		return fmt.Errorf("reload: %w", ErrNotRunning)
	}
	if err := s.signal(pid, syscall.SIGHUP); err != nil {
		return fmt.Errorf("reload: %w", err)
	}
	return nil
}

// signal signals the postmaster. The number could go to another process between our look and the signal, so that the process is held first and looked
// at again.
func (s *Server) signal(pid int, sig syscall.Signal) error {
	p, err := os.FindProcess(pid) // a pidfd
	if err != nil {
		return fmt.Errorf("signal process %d: %w", pid, err)
	}
	defer p.Release() //nolint:errcheck // gives back the descriptor
	now, running, err := s.Process()
	if err != nil {
		return err
	}
	if !running || now != pid {
		return ErrNotRunning
	}
	if err := p.Signal(sig); err != nil {
		if errors.Is(err, os.ErrProcessDone) {
			return ErrNotRunning
		}
		return fmt.Errorf("signal process %d: %w", pid, err)
	}
	return nil
}
