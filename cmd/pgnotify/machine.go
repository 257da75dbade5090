package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"log/syslog"
	"os"
	"path/filepath"
	"strconv"
	"syscall"

	ufcli "github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"

	"pgvrrp/internal/child"
	"pgvrrp/internal/cli"
	"pgvrrp/internal/postgres"
	"pgvrrp/internal/promote"
)

// machine is what a command touches outside itself; tests have one of their own.
type machine struct {
	stdout, stderr io.Writer
	getenv         func(string) string
	becomeOwner    func(dataDir string) error
	openServer     func(postgres.Config) (promote.Server, string, error) // and its directory of programs
	network        promote.Network
	clone          func(context.Context, postgres.CloneOptions) error
	behind         bool // we are the work behind a hook, and have its settings on standard input
}

func host() machine {
	return machine{
		stdout: os.Stdout, stderr: os.Stderr, getenv: os.Getenv, becomeOwner: postgres.BecomeOwner,
		openServer: func(c postgres.Config) (promote.Server, string, error) {
			s, err := postgres.Open(c)
			if err != nil {
				return nil, "", err
			}
			return s, s.BinDir(), nil
		},
		network: promote.RealNetwork{}, clone: postgres.Clone,
	}
}

// session is one command at work: settings read, log open, owner of the data, state directory open.
type session struct {
	machine
	settings promote.Settings
	store    *promote.Store
	log      *slog.Logger
	global   []string // the flags that work behind us needs too
}

// open prepares a command that works on an existing data directory.
func (h machine) open(c *ufcli.Context) (*session, error) {
	s, err := h.settings(c)
	if err != nil {
		return nil, err
	}
	dir := cli.String(c, "state-dir")
	place, err := promote.OwnersPlace(dir, s.settings.DataDir)
	if err != nil {
		return nil, s.failed(err)
	}
	if empty, _ := isEmpty(s.settings.DataDir); empty && place == s.settings.DataDir && exists(dir) {
		place = dir // nothing is mounted there yet: what can be noted is
	}
	if err := prepareStateDir(dir, place); err != nil {
		return nil, s.failed(err)
	}
	if err := h.becomeOwner(place); err != nil {
		return nil, s.failed(err)
	}
	if err := promote.FinishSwap(dir, s.settings.DataDir); err != nil {
		return nil, s.failed(err)
	}
	if err := s.ready(c, dir); err != nil {
		return nil, s.failed(err)
	}
	return s, nil
}

// settings reads the settings and opens the log, which under keepalived is the only way to say anything.
func (h machine) settings(c *ufcli.Context) (*session, error) {
	file := cli.String(c, "config")
	s := &session{machine: h, global: []string{
		"--config", file, "--state-dir", cli.String(c, "state-dir"), "--socket", cli.String(c, "socket"),
		"--log-level", cli.String(c, "log-level"), "--log-format", cli.String(c, "log-format"),
	}}
	var err error
	if s.log, err = cli.Logger(c, logWriter(h.stderr)); err != nil {
		return nil, err
	}
	if h.behind {
		s.settings, err = readHandedOver(file)
	} else {
		s.settings, err = promote.Load(file)
	}
	if err != nil {
		return nil, s.failed(err)
	}
	return s, nil
}

// readHandedOver reads the settings that detach put into our standard input.
func readHandedOver(file string) (promote.Settings, error) {
	text, err := io.ReadAll(os.Stdin)
	if err != nil {
		return promote.Settings{}, fmt.Errorf("read settings: %w", err)
	}
	host, err := os.Hostname()
	if err != nil {
		return promote.Settings{}, fmt.Errorf("ask for the host name: %w", err)
	}
	return promote.Parse(file, text, host)
}

// failed logs an error where nobody reads what the program prints.
func (s *session) failed(err error) error {
	if muted(s.stderr) {
		s.log.Error("failed", "reason", err)
	}
	return err
}

// ready opens the state directory and the log file once we are the owner.
func (s *session) ready(c *ufcli.Context, dir string) (err error) {
	if s.settings.LogFile != "" {
		if s.log, err = cli.Logger(c, s.sink()); err != nil {
			return err
		}
	}
	s.store, err = promote.OpenStore(dir, s.settings.DataDir)
	return err
}

// sink is where the log goes.
func (s *session) sink() io.Writer {
	w := logWriter(s.stderr)
	if s.settings.LogFile != "" {
		w = io.MultiWriter(w, &logFile{path: s.settings.LogFile})
	}
	return w
}

// engine opens the server.
func (s *session) engine() (*promote.Engine, error) {
	srv, bin, err := s.openServer(s.config())
	if err != nil {
		return nil, err
	}
	return &promote.Engine{
		Settings: s.settings, Server: srv, BinDir: bin, Network: s.network, Store: s.store, Clone: s.clone, Log: s.log,
		Vrrpd: promote.FromEnv(s.getenv).Ask(), Detach: s.detach, Progress: s.progress,
	}, nil
}

func (s *session) config() postgres.Config {
	p := s.settings
	return postgres.Config{
		DataDir: p.DataDir, BinDir: p.BinDir, ConfigFile: p.ConfigFile, Conninfo: p.Conninfo, Port: p.Port, Start: p.Start, Stop: p.Stop,
		StateDir: s.store.Dir(), Log: s.log,
	}
}

func (s *session) progress(what string) (postgres.Progress, func()) {
	p := cli.NewProgress(s.stderr, what)
	return p.Set, p.Close
}

// openEngine is open and engine in one.
func (h machine) openEngine(c *ufcli.Context) (*session, *promote.Engine, error) {
	s, err := h.open(c)
	if err != nil {
		return nil, nil, err
	}
	e, err := s.engine()
	if err != nil {
		return nil, nil, s.failed(err)
	}
	return s, e, nil
}

// report prints how a command by hand ended.
func (s *session) report(o promote.Outcome) error {
	for i, step := range o.Steps {
		fmt.Fprintf(s.stdout, "%d. %s: done\n", i+1, step)
	}
	if o.Result == promote.Nothing {
		fmt.Fprintln(s.stdout, "nothing to do: "+o.Note)
	} else if o.Note != "" {
		fmt.Fprintln(s.stdout, o.Note)
	}
	return o.Err
}

// plan prints a plan for --dry-run; a refusal is a failure there too.
func (s *session) plan(p promote.Plan) error {
	if p.Refusal != "" {
		return errors.New("refused: " + p.Refusal)
	}
	_, err := io.WriteString(s.stdout, p.String())
	return err
}

// prepareStateDir makes the state directory for the owner of the data while we are root.
func prepareStateDir(dir, dataDir string) error {
	_, err := os.Stat(dir)
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return fmt.Errorf("make state directory: %w", err)
	}
	info, err := os.Stat(dataDir)
	if err != nil {
		return fmt.Errorf("open data directory: %w", err)
	}
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("make state directory: %w", err)
	}
	if owner, ok := info.Sys().(*syscall.Stat_t); ok && os.Geteuid() == 0 {
		if err := os.Lchown(dir, int(owner.Uid), int(owner.Gid)); err != nil {
			return fmt.Errorf("give state directory to the owner of the data: %w", err)
		}
	}
	return nil
}

// muted reports whether what we print goes nowhere, as keepalived has it.
func muted(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	if err != nil {
		return true
	}
	null, err := os.Stat(os.DevNull)
	return err == nil && os.SameFile(info, null)
}

// logWriter is stderr, or syslog if that goes nowhere.
func logWriter(stderr io.Writer) io.Writer {
	if muted(stderr) {
		if w, err := syslog.New(syslog.LOG_DAEMON|syslog.LOG_INFO, "pgnotify"); err == nil {
			return w
		}
	}
	return stderr
}

// logFile appends each line to a file, opened for each: it is the data owner's by then, and may be rotated at any time.
type logFile struct{ path string }

func (l *logFile) Write(line []byte) (int, error) {
	f, err := os.OpenFile(l.path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o640)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	return f.Write(line)
}

// detach starts this program again, in a session of its own so that it outlives us and whoever ends our process group. It
// gets the settings handed over, because their file may be root's, whom we are no more.
func (s *session) detach(args ...string) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("start work behind: %w", err)
		}
	}()
	self, err := os.Executable()
	if err != nil {
		return err
	}
	fd, err := unix.MemfdCreate("pgnotify.toml", unix.MFD_CLOEXEC)
	if err != nil {
		return err
	}
	settings := os.NewFile(uintptr(fd), "pgnotify.toml")
	defer settings.Close()
	if _, err := settings.Write(s.settings.Text); err != nil {
		return err
	}
	if _, err := settings.Seek(0, io.SeekStart); err != nil {
		return err
	}
	return child.Detach(context.Background(), child.Command{
		Argv: append(append([]string{self}, s.global...), args...), Env: os.Environ(), Stdin: settings,
	})
}

func atoiByte(s string) (int, error) {
	n, err := strconv.ParseUint(s, 10, 8)
	return int(n), err
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func parent(path string) string { return filepath.Dir(filepath.Clean(path)) }
