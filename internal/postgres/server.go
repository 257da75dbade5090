package postgres

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"pgvrrp/internal/child"
)

// The major versions that we know.
const (
	MinVersion = 13
	MaxVersion = 18
)

// Config says which server.
type Config struct {
	DataDir    string   // required, absolute
	BinDir     string   // "" = from PG_VERSION, at Debian's and Fedora's places
	ConfigFile string   // "" = postgresql.conf in the data directory, else Debian's /etc/postgresql/V/NAME/postgresql.conf
	Conninfo   string   // libpq keywords or URI of an SQL session on this server; "" = host=/run/postgresql dbname=postgres
	Port       int      // 0 = the port in Conninfo, else in the configuration file, else 5432
	Start      []string // program and arguments; empty = pg_ctl
	Stop       []string // empty = a signal, and systemd for a unit that it thinks active; the environment holds PGNOTIFY_STOP_MODE
	StartLog   string   // where pg_ctl sends the server's first messages; "" = Debian's log file, else log/pgnotify-start.log in the data directory
	Hold       bool     // under quorum: the server starts on hold, and a rewound or swapped-in directory has no upstream; see WriteFence
	StateDir   string   // where a rewind is marked as under way; "" = beside the data directory, which its owner must then be able to write to
	Log        *slog.Logger
}

// Server is one PostgreSQL server on this host. Its methods are safe for concurrent use, but that nobody starts, stops, rewinds or swaps it at the same
// time is the caller's to see to.
type Server struct {
	cfg     Config
	log     *slog.Logger
	real    string // the data directory without symbolic links
	version int
	owner   owner
	at      layout
	cluster string     // Debian's name of the cluster, "" if the configuration does not live under /etc/postgresql
	files   sync.Mutex // reading, changing and writing our include file is one step
}

type owner struct {
	name     string
	uid, gid int
}

// layout is where distributions put things; tests have their own.
type layout struct {
	debianEtc, debianLib, debianLog string

	booted    string   // what sd_booted(3) looks at
	units     []string // directories of systemd's units
	systemctl string
}

func hostLayout() layout {
	return layout{
		debianEtc: "/etc/postgresql", debianLib: "/usr/lib/postgresql", debianLog: "/var/log/postgresql",
		booted:    "/run/systemd/system",
		units:     []string{"/etc/systemd/system", "/run/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system"},
		systemctl: "systemctl",
	}
}

// Open checks the data directory, its version and owner, and finds the programs and the configuration file. It starts nothing and needs no running
// server.
func Open(cfg Config) (*Server, error) { return open(cfg, hostLayout()) }

func open(cfg Config, at layout) (*Server, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if !filepath.IsAbs(cfg.DataDir) {
		return nil, fmt.Errorf("open data directory %q: want an absolute path", cfg.DataDir)
	}
	cfg.DataDir = filepath.Clean(cfg.DataDir)
	s := &Server{cfg: cfg, log: cfg.Log, at: at}
	var err error
	if s.owner, err = ownerOf(cfg.DataDir); err != nil {
		return nil, err
	}
	if s.real, err = filepath.EvalSymlinks(cfg.DataDir); err != nil {
		return nil, fmt.Errorf("open data directory: %w", err)
	}
	if s.version, err = readVersion(cfg.DataDir); err != nil {
		return nil, err
	}
	if err := s.findBin(at); err != nil {
		return nil, err
	}
	if err := s.findConfig(at); err != nil {
		return nil, err
	}
	if s.cfg.StartLog == "" {
		s.cfg.StartLog = filepath.Join(s.cfg.DataDir, "log", "pgnotify-start.log")
		if s.cluster != "" {
			if fi, err := os.Stat(at.debianLog); err == nil && fi.IsDir() {
				s.cfg.StartLog = filepath.Join(at.debianLog, fmt.Sprintf("postgresql-%d-%s.log", s.version, s.cluster))
			}
		}
	}
	return s, nil
}

// readVersion reads PG_VERSION and refuses versions that we don't know.
func readVersion(dataDir string) (int, error) {
	path := filepath.Join(dataDir, "PG_VERSION")
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, fmt.Errorf("open data directory %s: not a PostgreSQL data directory: %w", dataDir, err)
	}
	if err != nil {
		return 0, fmt.Errorf("open data directory %s: %w", dataDir, err)
	}
	text := strings.TrimSpace(string(b))
	v, err := strconv.Atoi(text)
	if err != nil || v < MinVersion || v > MaxVersion {
		return 0, fmt.Errorf("open data directory %s: unsupported PostgreSQL version %.20q, want %d to %d", dataDir, text, MinVersion, MaxVersion)
	}
	return v, nil
}

func ownerOf(dataDir string) (owner, error) {
	fi, err := os.Stat(dataDir)
	if err != nil {
		return owner{}, fmt.Errorf("open data directory: %w", err)
	}
	if !fi.IsDir() {
		return owner{}, fmt.Errorf("open data directory %s: not a directory", dataDir)
	}
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok {
		return owner{}, fmt.Errorf("open data directory %s: no owner known", dataDir)
	}
	o := owner{uid: int(st.Uid), gid: int(st.Gid)}
	u, err := user.LookupId(strconv.Itoa(o.uid))
	if err != nil {
		return owner{}, fmt.Errorf("open data directory %s: look up its owner: %w", dataDir, err)
	}
	o.name = u.Username
	return o, nil
}

// findBin looks for the server's programs of exactly our version.
func (s *Server) findBin(at layout) error {
	places := []string{s.cfg.BinDir}
	if s.cfg.BinDir == "" {
		v := strconv.Itoa(s.version)
		places = []string{filepath.Join(at.debianLib, v, "bin"), "/usr/pgsql-" + v + "/bin", "/usr/bin", "/usr/local/pgsql/bin"}
	}
	for _, p := range places {
		if fi, err := os.Stat(filepath.Join(p, "postgres")); err == nil && fi.Mode().IsRegular() && fi.Mode()&0o111 != 0 {
			s.cfg.BinDir = p
			return nil
		}
	}
	return fmt.Errorf("find programs of PostgreSQL %d: no executable \"postgres\" in %s", s.version, strings.Join(places, ", "))
}

// findConfig looks for postgresql.conf in the data directory, then for Debian's cluster of this data directory.
func (s *Server) findConfig(at layout) error {
	if s.cfg.ConfigFile == "" {
		inside := filepath.Join(s.cfg.DataDir, "postgresql.conf")
		if _, err := os.Stat(inside); err == nil {
			s.cfg.ConfigFile = inside
			return nil
		}
		found, err := filepath.Glob(filepath.Join(at.debianEtc, strconv.Itoa(s.version), "*", "postgresql.conf"))
		if err != nil {
			return fmt.Errorf("find configuration of %s: %w", s.cfg.DataDir, err)
		}
		for _, path := range found {
			c, err := readConf(path)
			if err != nil {
				s.log.Warn("skip configuration file", "file", path, "reason", err)
				continue
			}
			if dir, ok := c.value("data_directory"); ok && sameFile(dir, s.cfg.DataDir) {
				s.cfg.ConfigFile = path
				break
			}
		}
		if s.cfg.ConfigFile == "" {
			return fmt.Errorf("find configuration of %s: no postgresql.conf in it, and none under %s/%d names it as data_directory", s.cfg.DataDir, at.debianEtc, s.version)
		}
	} else if _, err := os.Stat(s.cfg.ConfigFile); err != nil {
		return fmt.Errorf("find configuration of %s: %w", s.cfg.DataDir, err)
	}
	if dir := filepath.Dir(s.cfg.ConfigFile); filepath.Dir(dir) == filepath.Join(at.debianEtc, strconv.Itoa(s.version)) {
		s.cluster = filepath.Base(dir)
	}
	return nil
}

// sameFile reports whether two paths name one existing file.
func sameFile(a, b string) bool {
	fa, erra := os.Stat(a)
	fb, errb := os.Stat(b)
	return erra == nil && errb == nil && os.SameFile(fa, fb)
}

// DataDir is the data directory as configured.
func (s *Server) DataDir() string { return s.cfg.DataDir }

// BinDir is where postgres, pg_ctl, pg_rewind and pg_basebackup are.
func (s *Server) BinDir() string { return s.cfg.BinDir }

// ConfigFile is the server's postgresql.conf.
func (s *Server) ConfigFile() string { return s.cfg.ConfigFile }

// Version is the major version from PG_VERSION, 13 to 18.
func (s *Server) Version() int { return s.version }

// Owner is whose the data directory is.
func (s *Server) Owner() (name string, uid, gid int) { return s.owner.name, s.owner.uid, s.owner.gid }

// BecomeOwner makes the whole process, all its threads, the owner of dataDir, with that user's groups, HOME, USER and LOGNAME, if it runs as root; it
// refuses any other user that is not the owner already, and a data directory that root owns. There is no way back.
func BecomeOwner(dataDir string) error {
	o, err := ownerOf(dataDir)
	if err != nil {
		return err
	}
	if o.uid == 0 {
		return fmt.Errorf("become owner of %s: it belongs to root, under whom PostgreSQL does not run", dataDir)
	}
	switch uid := os.Geteuid(); {
	case uid == o.uid:
		return nil
	case uid != 0:
		return fmt.Errorf("become owner of %s: it belongs to %s, run as that user or as root", dataDir, o.name)
	}
	u, err := user.LookupId(strconv.Itoa(o.uid))
	if err != nil {
		return fmt.Errorf("become owner of %s: %w", dataDir, err)
	}
	gid, err := strconv.Atoi(u.Gid)
	if err != nil {
		return fmt.Errorf("become owner of %s: %w", dataDir, err)
	}
	ids, err := u.GroupIds()
	if err != nil {
		return fmt.Errorf("become owner of %s: groups of %s: %w", dataDir, o.name, err)
	}
	groups := make([]int, 0, len(ids))
	for _, id := range ids {
		g, err := strconv.Atoi(id)
		if err != nil {
			return fmt.Errorf("become owner of %s: groups of %s: %w", dataDir, o.name, err)
		}
		groups = append(groups, g)
	}
	if err := syscall.Setgroups(groups); err != nil {
		return fmt.Errorf("become owner of %s: set groups: %w", dataDir, err)
	}
	if err := syscall.Setgid(gid); err != nil {
		return fmt.Errorf("become owner of %s: set group %d: %w", dataDir, gid, err)
	}
	if err := syscall.Setuid(o.uid); err != nil {
		return fmt.Errorf("become owner of %s: set user %s: %w", dataDir, o.name, err)
	}
	vars := map[string]string{"HOME": u.HomeDir, "USER": u.Username, "LOGNAME": u.Username}
	// os/user remembers who we were, and pgx takes the places of these files from there (libpq, "34.15 Environment Variables").
	for name, file := range map[string]string{
		"PGPASSFILE": ".pgpass", "PGSERVICEFILE": ".pg_service.conf", "PGSSLCERT": ".postgresql/postgresql.crt",
		"PGSSLKEY": ".postgresql/postgresql.key", "PGSSLROOTCERT": ".postgresql/root.crt",
	} {
		path := filepath.Join(u.HomeDir, file)
		if _, err := os.Stat(path); err == nil && os.Getenv(name) == "" {
			vars[name] = path
		}
	}
	for k, v := range vars {
		if err := os.Setenv(k, v); err != nil {
			return fmt.Errorf("become owner of %s: %w", dataDir, err)
		}
	}
	return nil
}

// program is a command of the server's bin directory, to be run as the owner.
func (s *Server) program(name string, args ...string) child.Command {
	c := child.Command{Argv: append([]string{filepath.Join(s.cfg.BinDir, name)}, args...), Dir: "/"}
	if os.Geteuid() == 0 {
		c.User = s.owner.name
	}
	return c
}

// give makes the owner own a file that we made.
func (s *Server) give(path string) error {
	if os.Geteuid() != 0 {
		return nil
	}
	return os.Lchown(path, s.owner.uid, s.owner.gid)
}
