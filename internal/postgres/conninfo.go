package postgres

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"pgvrrp/internal/quiet"
)

const (
	applicationName = "pgnotify"

	// connectTimeout bounds a connection attempt whose conninfo names no connect_timeout.
	connectTimeout = 2 * time.Second
)

// clientOnly are libpq's connection parameters that concern the client alone and that pgx does not know: it would hand them to the server, which
// refuses them ("35.1.2 Parameter Key Words" of the manual, 13 to 18). What bounds a connection in time is our context.
var clientOnly = []string{
	"hostaddr", "fallback_application_name", "keepalives", "keepalives_idle", "keepalives_interval", "keepalives_count", "tcp_user_timeout",
	"replication", "gssencmode", "gssdelegation", "gsslib", "krbsrvname", "sslcompression", "sslcertmode", "sslcrl", "sslcrldir", "sslnegotiation",
	"requirepeer", "require_auth", "channel_binding", "ssl_min_protocol_version", "ssl_max_protocol_version", "load_balance_hosts",
	"min_protocol_version", "max_protocol_version", "scram_client_key", "scram_server_key", "sslkeylogfile", "client_encoding",
}

// isURI reports which of libpq's two forms a connection string has.
func isURI(conninfo string) bool {
	return strings.HasPrefix(conninfo, "postgres://") || strings.HasPrefix(conninfo, "postgresql://")
}

// quoteConninfo makes the value of a keyword.
func quoteConninfo(v string) string {
	return "'" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(v) + "'"
}

// withDefault gives a connection string a parameter that it does not name.
func withDefault(conninfo, key, value string) (string, error) {
	if !isURI(conninfo) {
		// Of a keyword that occurs twice libpq and pgx take the last.
		return strings.TrimSpace(key + "=" + quoteConninfo(value) + " " + conninfo), nil
	}
	u, err := url.Parse(conninfo)
	if err != nil {
		if ue := new(url.Error); errors.As(err, &ue) {
			err = ue.Err // without the text, which could hold a password
		}
		return "", fmt.Errorf("parse connection URI: %w", err)
	}
	q := u.Query()
	switch {
	case q.Has(key), key == "port" && u.Port() != "", key == "host" && u.Hostname() != "", key == "user" && u.User.Username() != "":
		return conninfo, nil
	case key == "dbname":
		if strings.Trim(u.Path, "/") == "" {
			u.Path = "/" + value
		}
	default:
		q.Set(key, value)
		u.RawQuery = q.Encode()
	}
	return u.String(), nil
}

// connConfig makes pgx's configuration from a libpq connection string.
func connConfig(conninfo string, params map[string]string) (*pgx.ConnConfig, error) {
	cfg, err := pgx.ParseConfig(conninfo)
	if err != nil {
		return nil, fmt.Errorf("parse connection string: %w", err)
	}
	if addr := cfg.RuntimeParams["hostaddr"]; addr != "" {
		if cfg.Host == "" || strings.HasPrefix(cfg.Host, "/") {
			return nil, fmt.Errorf("parse connection string: hostaddr=%s needs a host name or address beside it", addr)
		}
		cfg.LookupFunc = func(context.Context, string) ([]string, error) { return []string{addr}, nil }
	}
	for _, k := range clientOnly {
		delete(cfg.RuntimeParams, k)
	}
	if cfg.ConnectTimeout == 0 || cfg.ConnectTimeout > connectTimeout && !strings.Contains(conninfo, "connect_timeout") {
		cfg.ConnectTimeout = connectTimeout
	}
	cfg.RuntimeParams["application_name"] = applicationName
	for k, v := range params {
		cfg.RuntimeParams[k] = v
	}
	loud := cfg.DialFunc
	cfg.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
		c, err := loud(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		return quiet.Conn(c), nil
	}
	cfg.DefaultQueryExecMode = pgx.QueryExecModeExec // one round trip a query, no prepared statements: for sessions that ask once
	return cfg, nil
}

// sessionParams are the settings of our own SQL sessions. A session of ours must never wait for a standby.
func sessionParams(statementTimeout time.Duration) map[string]string {
	return map[string]string{
		"synchronous_commit": "local",
		"search_path":        "pg_catalog",
		"statement_timeout":  fmt.Sprint(statementTimeout.Milliseconds()),
		"lock_timeout":       "2000",
		"client_encoding":    "UTF8",
		"DateStyle":          "ISO",
	}
}

// dial opens an SQL session anywhere.
func dial(ctx context.Context, conninfo string, params map[string]string) (*pgx.Conn, error) {
	return dialMode(ctx, conninfo, params, pgx.QueryExecModeExec)
}

func dialMode(ctx context.Context, conninfo string, params map[string]string, mode pgx.QueryExecMode) (*pgx.Conn, error) {
	cfg, err := connConfig(conninfo, params)
	if err != nil {
		return nil, err
	}
	cfg.DefaultQueryExecMode = mode
	defer reuseRefused(&cfg.Config)()
	c, err := pgx.ConnectConfig(ctx, cfg)
	return c, inOneLine(err)
}

// dialReplication opens a physical replication connection, which pg_hba.conf knows by the database "replication".
func dialReplication(ctx context.Context, conninfo string) (*pgconn.PgConn, error) {
	cfg, err := connConfig(conninfo, map[string]string{
		"replication": "true",
		// A standby is always read-only, whatever this says: with it a primary never is, and SHOW transaction_read_only tells one from the other.
		"default_transaction_read_only": "off",
	})
	if err != nil {
		return nil, err
	}
	defer reuseRefused(&cfg.Config)()
	c, err := pgconn.ConnectConfig(ctx, &cfg.Config)
	return c, inOneLine(err)
}

// lineError tells in one line what its error tells in several.
type lineError struct{ error }

// inOneLine is for errors of connecting, which have a line for each way that was tried, with and without TLS.
func inOneLine(err error) error {
	if err == nil || !strings.Contains(err.Error(), "\n") {
		return err
	}
	return lineError{err}
}

func (e lineError) Error() string {
	var lines []string
	for line := range strings.Lines(e.error.Error()) {
		if line = strings.TrimSpace(line); line != "" && !slices.Contains(lines, line) {
			lines = append(lines, line)
		}
	}
	return strings.Replace(strings.Join(lines, "; "), ":; ", ": ", 1)
}

func (e lineError) Unwrap() error { return e.error }

// reuseRefused has an attempt to connect go on over the connection on which the server has just refused TLS, as libpq does for sslmode=prefer. pgx
// would open another one for that, and each costs the server a process, at the very time when it has others to make. The call that it returns comes
// after the attempt.
func reuseRefused(cfg *pgconn.Config) (end func()) {
	r := &refusal{dial: cfg.DialFunc}
	cfg.DialFunc = r.connect
	return r.end
}

// refusal keeps a connection that is good for all but TLS.
type refusal struct {
	dial pgconn.DialFunc
	mu   sync.Mutex
	conn net.Conn
	addr string
	over bool
}

func (r *refusal) connect(ctx context.Context, network, addr string) (net.Conn, error) {
	r.mu.Lock()
	kept, same, over := r.conn, r.addr == addr, r.over
	r.conn = nil
	r.mu.Unlock()
	switch {
	case kept != nil && same && ctx.Err() == nil:
		return kept, nil
	case kept != nil:
		kept.Close()
	}
	c, err := r.dial(ctx, network, addr)
	if err != nil || over { // a request to cancel is a connection of its own
		return c, err
	}
	return &asking{Conn: c, refusal: r, addr: addr}, nil
}

func (r *refusal) end() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.over = true; r.conn != nil {
		r.conn.Close()
		r.conn = nil
	}
}

// sslRequest asks a server for TLS ("55.7 Message Formats" in the manual).
var sslRequest = []byte{0, 0, 0, 8, 4, 210, 22, 47}

// asking is a new connection. Whether the answer to a request for TLS was no, and nothing else was said, its end decides.
type asking struct {
	net.Conn
	refusal *refusal
	addr    string
	asked   bool
	no      bool
	more    bool
}

func (c *asking) Write(b []byte) (int, error) {
	if !c.asked && !c.more && bytes.Equal(b, sslRequest) {
		c.asked = true
	} else {
		c.more = true
	}
	return c.Conn.Write(b)
}

func (c *asking) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if c.asked && !c.more && n == 1 && b[0] == 'N' {
		c.no = true
	}
	return n, err
}

func (c *asking) Close() error {
	if r := c.refusal; c.no && !c.more {
		r.mu.Lock()
		defer r.mu.Unlock()
		if !r.over && r.conn == nil {
			r.conn, r.addr = c.Conn, c.addr
			return nil
		}
	}
	return c.Conn.Close()
}

// goodbyeTimeout is how long the other end may take to hang up; one that has just lost its power never does.
const goodbyeTimeout = 100 * time.Millisecond

// closeConn says goodbye, within a bound of its own because ctx may have ended.
func closeConn(c interface{ Close(context.Context) error }) {
	ctx, cancel := context.WithTimeout(context.Background(), goodbyeTimeout)
	defer cancel()
	_ = c.Close(ctx) // the session is over either way
}
