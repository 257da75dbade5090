package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"pgvrrp/test/lab/meter"
)

// PostgresOptions describe a primary and its standbys. The zero value of each field is a sensible choice.
type PostgresOptions struct {
	// Version is the server's major version; default: environment variable PG, else 15.
	Version int
	// BinDir has the server's programs, as hosts see it; default: where Debian and Fedora put the version's.
	BinDir string
	// Primary is the host with the primary; default the first.
	Primary string
	// Standbys are the hosts with standbys; default every other one of n1 … nN. An empty list, not nil, is none.
	Standbys []string
	// Upstream is where standbys stream from, a VIP for instance; default the primary's interconnect address.
	Upstream string
	// Synchronous is synchronous_standby_names on every node, for instance "ANY 1 (n1, n2, n3)".
	Synchronous string
	// Settings are appended to postgresql.conf, after the lab's own.
	Settings map[string]string
	// Password, if set, makes the network's connections need it (scram-sha-256): the roles app and replicator have
	// it, and postgres's ~/.pgpass. Default: trust.
	Password string
	// DebianLayout keeps the configuration in /etc/postgresql/VERSION/main, as Debian's pg_createcluster makes it.
	DebianLayout bool
	// Stopped leaves the servers stopped.
	Stopped bool
}

// Cluster is the lab's PostgreSQL. Its servers run as postgres, outlive whoever started them, and log to
// /var/log/postgresql. Database meter holds the meter's table, owned by role app; replicator may replicate.
type Cluster struct {
	Version  int
	BinDir   string
	DataDir  string // the same in each host
	ConfDir  string // where postgresql.conf is
	Port     int
	Password string
	Nodes    []string // primary first

	l    *Lab
	opts PostgresOptions
}

const clusterName = "main"

// InitPostgres makes a primary and standbys that are copies of it, and starts them, the primary first. With a VIP as
// Upstream the standbys wait for somebody to take it.
func (l *Lab) InitPostgres(ctx context.Context, opts PostgresOptions) (*Cluster, error) {
	c, err := l.initPostgres(ctx, opts)
	if err != nil {
		return nil, fmt.Errorf("set up postgresql: %w", err)
	}
	return c, nil
}

func (l *Lab) initPostgres(ctx context.Context, opts PostgresOptions) (*Cluster, error) {
	c := &Cluster{l: l, opts: opts, Version: opts.Version, Port: 5432, Password: opts.Password}
	if c.Version == 0 {
		c.Version = 15
		if env := os.Getenv("PG"); env != "" {
			var err error
			if c.Version, err = strconv.Atoi(env); err != nil {
				return nil, fmt.Errorf("environment variable PG: %w", err)
			}
		}
	}
	c.BinDir = opts.BinDir
	for _, dir := range []string{fmt.Sprintf("/usr/lib/postgresql/%d/bin", c.Version), fmt.Sprintf("/usr/pgsql-%d/bin", c.Version)} {
		if _, err := os.Stat(filepath.Join(dir, "initdb")); c.BinDir == "" && err == nil {
			c.BinDir = dir
		}
	}
	if c.BinDir == "" {
		return nil, fmt.Errorf("the machine has no PostgreSQL %d server", c.Version)
	}
	c.DataDir = fmt.Sprintf("/var/lib/postgresql/%d/%s", c.Version, clusterName)
	c.ConfDir = c.DataDir
	if opts.DebianLayout {
		c.ConfDir = fmt.Sprintf("/etc/postgresql/%d/%s", c.Version, clusterName)
	}
	if c.opts.Primary == "" {
		if len(l.hosts) == 0 {
			return nil, errors.New("the lab has no host")
		}
		c.opts.Primary = l.hosts[0].name
	}
	if opts.Standbys == nil {
		for i := 1; i <= l.opts.Hosts; i++ {
			if name := fmt.Sprintf("n%d", i); name != c.opts.Primary {
				c.opts.Standbys = append(c.opts.Standbys, name)
			}
		}
	}
	if c.opts.Upstream == "" {
		c.opts.Upstream = l.Host(c.opts.Primary).Addr(Interconnect).String()
	}
	c.Nodes = append([]string{c.opts.Primary}, c.opts.Standbys...)

	template, err := c.template(ctx)
	if err != nil {
		return nil, err
	}
	var g errgroup.Group
	for _, name := range c.Nodes {
		g.Go(func() error {
			if err := c.install(ctx, l.Host(name), template); err != nil {
				return fmt.Errorf("host %s: %w", name, err)
			}
			if opts.Stopped || name != c.opts.Primary {
				return nil
			}
			return c.Start(ctx, name)
		})
	}
	if err := g.Wait(); err != nil || opts.Stopped {
		return c, err
	}
	for _, name := range c.opts.Standbys {
		g.Go(func() error { return c.Start(ctx, name) })
	}
	return c, g.Wait()
}

// template returns the machine's path of a data directory as fresh from initdb, cleanly shut down, with roles,
// database and table. It is made once per run if the run shares a cache, else once per lab.
func (c *Cluster) template(ctx context.Context) (string, error) {
	base := os.Getenv(cacheEnv)
	if base == "" {
		base = c.l.dir
	}
	name := fmt.Sprintf("template-%d", c.Version)
	if c.Password != "" {
		name += "-scram"
	}
	dir := filepath.Join(base, name)
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	}
	h := c.l.Host(c.opts.Primary)
	const inside = "/var/lib/postgresql/template"
	run := func(stdin string, argv ...string) error {
		res, err := h.Do(ctx, Command{Argv: argv, User: "postgres", Stdin: stdin})
		if err == nil && strings.Contains(res.Stderr, "ERROR:") {
			err = fmt.Errorf("run %s: %s", argv[0], res.Stderr)
		}
		return err
	}
	pg := func(name string) string { return filepath.Join(c.BinDir, name) }
	if err := run("", pg("initdb"), "-D", inside, "-U", "postgres", "-A", "trust", "--no-sync", "--encoding=UTF8", "--locale=C"); err != nil {
		return "", err
	}
	password := ""
	if c.Password != "" {
		password = " PASSWORD '" + strings.ReplaceAll(c.Password, "'", "''") + "'"
	}
	// Single-user mode: one statement a line, no server to start and stop.
	roles := "CREATE ROLE app LOGIN" + password + "\nCREATE ROLE replicator LOGIN REPLICATION" + password + "\n"
	for _, f := range []string{"pg_ls_dir(text,boolean,boolean)", "pg_stat_file(text,boolean)", "pg_read_binary_file(text)", "pg_read_binary_file(text,bigint,bigint,boolean)"} {
		roles += "GRANT EXECUTE ON FUNCTION pg_catalog." + f + " TO replicator\n" // what pg_rewind asks of its source
	}
	roles += "CREATE DATABASE meter OWNER app\n"
	// A standby refuses to start with less than the primary had when it wrote the copied control file.
	single := []string{pg("postgres"), "--single", "-F", "-D", inside, "-c", "max_connections=20"}
	if err := run(roles, append(slices.Clone(single), "postgres")...); err != nil {
		return "", err
	}
	tables := strings.Join(strings.Fields(meter.Schema), " ") + "\nALTER TABLE meter OWNER TO app\n"
	if err := run(tables, append(slices.Clone(single), "meter")...); err != nil {
		return "", err
	}
	if err := copyTree(ctx, h.DiskPath(inside), dir+".new"); err != nil {
		return "", err
	}
	if err := os.RemoveAll(h.DiskPath(inside)); err != nil {
		return "", err
	}
	return dir, os.Rename(dir+".new", dir)
}

func copyTree(ctx context.Context, from, to string) error {
	if out, err := exec.CommandContext(ctx, "cp", "-a", "--reflink=auto", from, to).CombinedOutput(); err != nil {
		return fmt.Errorf("copy %s to %s: %w: %s", from, to, err, bytes.TrimSpace(out))
	}
	return nil
}

// install puts a copy of the template on a host's disk and configures it.
func (c *Cluster) install(ctx context.Context, h *Host, template string) error {
	data := h.DiskPath(c.DataDir)
	if _, err := os.Stat(data); err == nil {
		return fmt.Errorf("%s exists", c.DataDir)
	}
	uid, gid, err := ownerOf(template)
	if err != nil {
		return err
	}
	// The server's owner renames directories here when it clones.
	if err := os.MkdirAll(filepath.Dir(data), 0o755); err != nil {
		return err
	}
	if err := os.Chown(filepath.Dir(data), uid, gid); err != nil {
		return err
	}
	if err := copyTree(ctx, template, data); err != nil {
		return err
	}
	if c.opts.DebianLayout {
		// pg_createcluster adopts an existing data directory and moves its configuration to /etc.
		if _, err := h.Run(ctx, "pg_createcluster", strconv.Itoa(c.Version), clusterName, "--start-conf", "manual"); err != nil {
			return err
		}
	}
	put := func(dir, name, content string, add bool) error {
		path := h.DiskPath(filepath.Join(dir, name))
		flags := os.O_WRONLY | os.O_CREATE | os.O_TRUNC
		if add {
			flags = os.O_WRONLY | os.O_CREATE | os.O_APPEND
		}
		if dir != c.DataDir && strings.HasPrefix(dir, "/etc/") {
			// The host's /etc is an overlay in use: through the host, not beneath it.
			old := []byte{}
			if add {
				var err error
				if old, err = h.ReadFile(filepath.Join(dir, name)); err != nil {
					return err
				}
			}
			return h.WriteFile(filepath.Join(dir, name), append(old, content...), 0o644)
		}
		f, err := os.OpenFile(path, flags, 0o600)
		if err != nil {
			return err
		}
		_, err = f.WriteString(content)
		return errors.Join(err, f.Chown(uid, gid), f.Close())
	}
	if err := put(c.ConfDir, "postgresql.conf", c.config(h), true); err != nil {
		return err
	}
	if err := put(c.ConfDir, "pg_hba.conf", c.hba(), false); err != nil {
		return err
	}
	if c.Password != "" {
		content := "*:*:*:*:" + strings.NewReplacer(`\`, `\\`, ":", `\:`).Replace(c.Password) + "\n"
		if err := put("/var/lib/postgresql", ".pgpass", content, false); err != nil {
			return err
		}
	}
	if h.name == c.opts.Primary {
		return nil
	}
	if err := put(c.DataDir, "standby.signal", "", false); err != nil {
		return err
	}
	return put(c.DataDir, "pgnotify.conf", "primary_conninfo = '"+c.UpstreamConninfo(h.name)+"'\n", false)
}

func ownerOf(path string) (uid, gid int, err error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return 0, 0, fmt.Errorf("stat %s: %w", path, err)
	}
	return int(st.Uid), int(st.Gid), nil
}

// UpstreamConninfo is the connection string with which a host's standby streams.
func (c *Cluster) UpstreamConninfo(host string) string {
	return fmt.Sprintf("host=%s port=%d user=replicator application_name=%s connect_timeout=1 tcp_user_timeout=1500 keepalives_idle=1 keepalives_interval=1 keepalives_count=2",
		c.opts.Upstream, c.Port, host)
}

// config is what the lab adds to initdb's postgresql.conf.
func (c *Cluster) config(h *Host) string {
	settings := map[string]string{
		"listen_addresses": "*", "port": strconv.Itoa(c.Port), "unix_socket_directories": "/run/postgresql", "cluster_name": h.name,
		"wal_level": "replica", "max_wal_senders": "10", "max_replication_slots": "10", "hot_standby": "on", "hot_standby_feedback": "on",
		"wal_log_hints": "on", "full_page_writes": "on", "fsync": "on", "synchronous_commit": "on", "wal_keep_size": "512MB",
		"wal_sender_timeout": "2s", "wal_receiver_timeout": "1s", "wal_receiver_status_interval": "1s", "wal_retrieve_retry_interval": "100ms",
		"tcp_keepalives_idle": "1", "tcp_keepalives_interval": "1", "tcp_keepalives_count": "2", "tcp_user_timeout": "2000",
		"max_standby_streaming_delay": "2s", "restart_after_crash": "off",
		"synchronous_standby_names": c.opts.Synchronous,
		// Small: several servers share a machine.
		"shared_buffers": "32MB", "min_wal_size": "32MB", "max_wal_size": "512MB", "jit": "off",
		"logging_collector": "off", "log_destination": "stderr", "log_line_prefix": "%m [%p] %q%a ", "log_checkpoints": "on",
	}
	if c.Version >= 14 {
		settings["client_connection_check_interval"] = "1s"
	}
	maps.Copy(settings, c.opts.Settings)
	var b strings.Builder
	b.WriteString("\n# the lab's\n")
	for _, key := range slices.Sorted(maps.Keys(settings)) {
		fmt.Fprintf(&b, "%s = '%s'\n", key, strings.ReplaceAll(settings[key], "'", "''"))
	}
	fmt.Fprintf(&b, "include_if_exists = '%s/pgnotify.conf'\n", c.DataDir)
	return b.String()
}

func (c *Cluster) hba() string {
	method := "trust"
	if c.Password != "" {
		method = "scram-sha-256"
	}
	var b strings.Builder
	b.WriteString("local all all trust\nlocal replication all trust\nhost all all 127.0.0.1/32 trust\nhost all all ::1/128 trust\n")
	for _, network := range []string{"10.77.0.0/16", "10.78.0.0/16", "fd77::/16", "fd78::/16"} {
		fmt.Fprintf(&b, "host all all %s %s\nhost replication replicator %s %s\n", network, method, network, method)
	}
	return b.String()
}

// LogFile is the server's log inside each host.
func (c *Cluster) LogFile() string {
	return fmt.Sprintf("/var/log/postgresql/postgresql-%d-%s.log", c.Version, clusterName)
}

// pgctl returns the command line that starts or stops a server the way the layout wants it.
func (c *Cluster) pgctl(args ...string) []string {
	argv := []string{filepath.Join(c.BinDir, "pg_ctl"), "-D", c.DataDir, "-s", "-w", "-t", "30"}
	if c.opts.DebianLayout {
		argv = append(argv, "-o", "-c config_file="+c.ConfDir+"/postgresql.conf")
	}
	return append(argv, args...)
}

// Start starts a host's server as its files say, and waits until it answers.
func (c *Cluster) Start(ctx context.Context, host string) error {
	_, err := c.l.Host(host).RunAs(ctx, "postgres", c.pgctl("-l", c.LogFile(), "start")...)
	if err != nil {
		log, _ := c.l.Host(host).ReadFile(c.LogFile())
		return fmt.Errorf("start postgresql on %s: %w\n%s", host, err, log[max(0, len(log)-2000):])
	}
	return nil
}

// Stop stops a host's server; mode is fast, immediate or smart.
func (c *Cluster) Stop(ctx context.Context, host, mode string) error {
	if _, err := c.l.Host(host).RunAs(ctx, "postgres", c.pgctl("-m", mode, "stop")...); err != nil {
		return fmt.Errorf("stop postgresql on %s: %w", host, err)
	}
	return nil
}

// PID returns the postmaster's number inside the host, from its pid file.
func (c *Cluster) PID(host string) (int, error) {
	b, err := c.l.Host(host).ReadFile(c.DataDir + "/postmaster.pid")
	if err != nil {
		return 0, err
	}
	line, _, _ := strings.Cut(string(b), "\n")
	pid, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil {
		return 0, fmt.Errorf("host %s: read postmaster.pid: %w", host, err)
	}
	return pid, nil
}

// Connect returns a connection of the superuser to a host's server over its Unix socket.
func (c *Cluster) Connect(ctx context.Context, host, database string) (*pgconn.PgConn, error) {
	cfg, err := pgconn.ParseConfig(fmt.Sprintf("host=/run/postgresql port=%d user=postgres dbname=%s application_name=lab sslmode=disable", c.Port, database))
	if err != nil {
		return nil, err
	}
	cfg.DialFunc = c.l.Host(host).Dial
	conn, err := pgconn.ConnectConfig(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("connect to postgresql on %s: %w", host, err)
	}
	return conn, nil
}

// SQL runs statements on a host's server as superuser in database meter and returns the rows as psql -At does: columns
// parted by |, rows by newline.
func (c *Cluster) SQL(ctx context.Context, host, sql string) (string, error) {
	conn, err := c.Connect(ctx, host, "meter")
	if err != nil {
		return "", err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	results, err := conn.Exec(ctx, sql).ReadAll()
	if err != nil {
		return "", fmt.Errorf("query %s: %w", host, err)
	}
	var rows []string
	for _, r := range results {
		for _, row := range r.Rows {
			rows = append(rows, string(bytes.Join(row, []byte("|"))))
		}
	}
	return strings.Join(rows, "\n"), nil
}

// WaitStreaming waits until the named standbys stream from a host's server.
func (c *Cluster) WaitStreaming(ctx context.Context, primary string, standbys ...string) error {
	err := Poll(ctx, 10*time.Millisecond, func() (bool, string, error) {
		got, err := c.SQL(ctx, primary, "SELECT application_name FROM pg_stat_replication WHERE state = 'streaming' ORDER BY 1")
		if err != nil {
			return false, err.Error(), nil //nolint:nilerr // it may be starting
		}
		names := strings.Fields(got)
		for _, s := range standbys {
			if !slices.Contains(names, s) {
				return false, fmt.Sprintf("%s doesn't stream from %s, only %v", s, primary, names), nil
			}
		}
		return true, "", nil
	})
	if err != nil {
		return fmt.Errorf("wait for standbys: %w", err)
	}
	return nil
}

// MeterConninfo is the connection string of role app for a meter or reader at an address.
func (c *Cluster) MeterConninfo(address string) string {
	s := fmt.Sprintf("host=%s port=%d user=app dbname=meter sslmode=disable", address, c.Port)
	if c.Password != "" {
		s += " password='" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(c.Password) + "'"
	}
	return s
}
