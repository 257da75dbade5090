package postgres

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
)

// identity is the answer to IDENTIFY_SYSTEM.
type identity struct {
	SystemID uint64
	Timeline Timeline
	LSN      LSN
}

// simple runs one replication command that answers with one row.
func simple(ctx context.Context, c *pgconn.PgConn, command string) ([][]byte, error) {
	results, err := c.Exec(ctx, command).ReadAll()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", command, err)
	}
	if len(results) != 1 || len(results[0].Rows) != 1 {
		return nil, fmt.Errorf("%s: want one row in the answer", command)
	}
	return results[0].Rows[0], nil
}

func identify(ctx context.Context, c *pgconn.PgConn) (identity, error) {
	row, err := simple(ctx, c, "IDENTIFY_SYSTEM")
	if err != nil {
		return identity{}, err
	}
	if len(row) < 3 {
		return identity{}, fmt.Errorf("IDENTIFY_SYSTEM: want at least 3 columns (got %d)", len(row))
	}
	id, err := strconv.ParseUint(string(row[0]), 10, 64)
	if err != nil {
		return identity{}, fmt.Errorf("IDENTIFY_SYSTEM: system identifier: %w", err)
	}
	tli, err := strconv.ParseUint(string(row[1]), 10, 32)
	if err != nil {
		return identity{}, fmt.Errorf("IDENTIFY_SYSTEM: timeline: %w", err)
	}
	lsn, err := ParseLSN(string(row[2]))
	if err != nil {
		return identity{}, fmt.Errorf("IDENTIFY_SYSTEM: %w", err)
	}
	return identity{id, Timeline(tli), lsn}, nil
}

// Probe asks another server who it is over a physical replication connection ("53.4 Streaming Replication Protocol"), so that it needs no more in
// pg_hba.conf than streaming does. An error means that no answer came: it does not mean that there is no primary.
func Probe(ctx context.Context, conninfo string) (Remote, error) {
	c, err := dialReplication(ctx, conninfo)
	if err != nil {
		return Remote{}, fmt.Errorf("probe server: %w", err)
	}
	defer closeConn(c)
	r, err := probe(ctx, c)
	if err != nil {
		return Remote{}, fmt.Errorf("probe server at %s: %w", r.Addr, err)
	}
	return r, nil
}

// ProbeHistory is Probe, and FetchHistory of the timeline that the server is on, over the same connection.
func ProbeHistory(ctx context.Context, conninfo string) (Remote, History, error) {
	c, err := dialReplication(ctx, conninfo)
	if err != nil {
		return Remote{}, nil, fmt.Errorf("probe server: %w", err)
	}
	defer closeConn(c)
	r, err := probe(ctx, c)
	if err != nil {
		return Remote{}, nil, fmt.Errorf("probe server at %s: %w", r.Addr, err)
	}
	h, err := fetchHistory(ctx, c, r.Timeline)
	return r, h, err
}

func probe(ctx context.Context, c *pgconn.PgConn) (Remote, error) {
	r := Remote{Addr: remoteAddr(c)}
	r.Version = versionNum(c.ParameterStatus("server_version"))
	if r.Version == 0 {
		return r, fmt.Errorf("unknown server version %q", c.ParameterStatus("server_version"))
	}
	show := "SHOW in_hot_standby"
	if r.Version < 140000 {
		show = "SHOW transaction_read_only" // off on a primary, see dialReplication
	}
	row, err := simple(ctx, c, show)
	if err != nil {
		return r, err
	}
	switch v := string(bytes.TrimSpace(row[0])); v {
	case "on":
		r.InRecovery = true
	case "off":
	default:
		return r, fmt.Errorf("%s: want on or off (got %q)", show, v)
	}
	id, err := identify(ctx, c)
	if err != nil {
		return r, err
	}
	r.SystemID, r.Timeline, r.LSN = id.SystemID, id.Timeline, id.LSN
	return r, nil
}

func remoteAddr(c *pgconn.PgConn) string {
	if a, ok := c.Conn().RemoteAddr().(*net.TCPAddr); ok {
		return a.String()
	}
	return c.Conn().RemoteAddr().String()
}

// versionNum turns "15.18 (Debian …)" or "18beta1" into server_version_num, 0 if it can't.
func versionNum(text string) int {
	text, _, _ = strings.Cut(text, " ")
	major, minor, _ := strings.Cut(text, ".")
	n := strings.IndexFunc(major, func(r rune) bool { return r < '0' || r > '9' })
	if n < 0 {
		n = len(major)
	}
	v, err := strconv.Atoi(major[:n])
	if err != nil || v < 10 {
		return 0
	}
	m, _ := strconv.Atoi(minor) // none in a beta
	return v*10000 + m
}

// FetchHistory asks another server for the history of a timeline, over a physical replication connection. Timeline 1 has an empty one.
func FetchHistory(ctx context.Context, conninfo string, tli Timeline) (History, error) {
	if tli <= 1 {
		return nil, nil
	}
	c, err := dialReplication(ctx, conninfo)
	if err != nil {
		return nil, fmt.Errorf("fetch history of timeline %d: %w", tli, err)
	}
	defer closeConn(c)
	return fetchHistory(ctx, c, tli)
}

func fetchHistory(ctx context.Context, c *pgconn.PgConn, tli Timeline) (History, error) {
	if tli <= 1 {
		return nil, nil
	}
	row, err := simple(ctx, c, fmt.Sprintf("TIMELINE_HISTORY %d", tli))
	if err == nil && len(row) != 2 {
		err = errors.New("want two columns in the answer")
	}
	var h History
	if err == nil {
		if h, err = ParseHistory(bytes.NewReader(row[1])); err == nil {
			err = h.check(tli)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("fetch history of timeline %d from %s: %w", tli, remoteAddr(c), err)
	}
	return h, nil
}
