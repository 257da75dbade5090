package postgres

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

const (
	queryTimeout = 5 * time.Second // statement_timeout of short statements
	promotePoll  = time.Millisecond

	// sqlStateNotInRecovery is object_not_in_prerequisite_state: pg_promote on a primary, recovery functions after promotion.
	sqlStateNotInRecovery = "55000"
)

// conninfo is the connection string of an SQL session on this server.
func (s *Server) conninfo() (string, error) {
	ci := s.cfg.Conninfo
	if ci == "" {
		ci = "host=/run/postgresql dbname=postgres"
	}
	port := s.cfg.Port
	if port == 0 {
		port = 5432
		if c, err := readConf(s.cfg.ConfigFile); err == nil {
			if v, ok := c.value("port"); ok {
				if n, err := strconv.Atoi(v); err == nil {
					port = n
				}
			}
		}
	}
	ci, err := withDefault(ci, "port", strconv.Itoa(port))
	if err != nil {
		return "", err
	}
	// The role of an operating system user has its name (peer authentication). pgx would take the user that we were.
	if ci, err = withDefault(ci, "user", s.owner.name); err != nil {
		return "", err
	}
	return withDefault(ci, "dbname", "postgres")
}

// connect opens an SQL session and makes sure that it is this server that answers and not another one on the same port. statementTimeout 0 = none.
func (s *Server) connect(ctx context.Context, statementTimeout time.Duration) (*pgx.Conn, error) {
	return s.connectWith(ctx, sessionParams(statementTimeout), pgx.QueryExecModeExec)
}

func (s *Server) connectWith(ctx context.Context, params map[string]string, mode pgx.QueryExecMode) (*pgx.Conn, error) {
	ci, err := s.conninfo()
	if err != nil {
		return nil, err
	}
	conn, err := dialMode(ctx, ci, params, mode)
	if err != nil {
		return nil, err
	}
	var dir *string // only a superuser and members of pg_read_all_settings see it
	var id int64
	err = conn.QueryRow(ctx, `SELECT (SELECT setting FROM pg_settings WHERE name = 'data_directory'), (SELECT system_identifier FROM pg_control_system())`).Scan(&dir, &id)
	if err == nil && dir != nil && !sameFile(*dir, s.cfg.DataDir) {
		err = fmt.Errorf("the server that answers at %s has the data directory %s, not %s", addrOf(conn.Config()), *dir, s.cfg.DataDir)
	}
	if err == nil {
		var c ControlData
		if c, err = s.Control(); err == nil && c.SystemID != uint64(id) {
			err = fmt.Errorf("the server that answers at %s has system identifier %d, not %d", addrOf(conn.Config()), uint64(id), c.SystemID)
		}
	}
	if err != nil {
		closeConn(conn)
		return nil, err
	}
	return conn, nil
}

func addrOf(c *pgx.ConnConfig) string {
	_, addr := pgconn.NetworkAddress(c.Host, c.Port)
	return addr
}

// do runs one statement in a session of its own.
func (s *Server) do(ctx context.Context, act string, statementTimeout time.Duration, sql string) error {
	conn, err := s.connect(ctx, statementTimeout)
	if err == nil {
		defer closeConn(conn)
		_, err = conn.Exec(ctx, sql)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", act, err)
	}
	return nil
}

// Checkpoint runs CHECKPOINT, which takes as long as writing every dirty buffer does; ctx bounds it.
func (s *Server) Checkpoint(ctx context.Context) error {
	return s.do(ctx, "checkpoint", 0, "CHECKPOINT")
}

// SwitchWAL ends the current WAL segment on a primary, so that the archive gets it.
func (s *Server) SwitchWAL(ctx context.Context) error {
	return s.do(ctx, "switch WAL segment", queryTimeout, "SELECT pg_switch_wal()")
}

// Promote makes a standby the primary: pg_promote(false), then one look a millisecond until the server is out of recovery. It returns the timeline
// and the flushed position of the new primary. A server that is a primary already is left alone and is no error.
func (s *Server) Promote(ctx context.Context) (Timeline, LSN, error) {
	conn, err := s.connect(ctx, 0)
	if err != nil {
		return 0, 0, fmt.Errorf("promote: %w", err)
	}
	defer closeConn(conn)
	standby, err := inRecovery(ctx, conn)
	if err != nil {
		return 0, 0, fmt.Errorf("promote: %w", err)
	}
	if standby {
		var sent bool
		err := conn.QueryRow(ctx, "SELECT pg_promote(false)").Scan(&sent)
		var pe *pgconn.PgError
		switch {
		case errors.As(err, &pe) && pe.Code == sqlStateNotInRecovery: // somebody else was quicker
		case err != nil:
			return 0, 0, fmt.Errorf("promote: %w", err)
		case !sent:
			return 0, 0, errors.New("promote: the server could not signal its postmaster")
		}
		tick := time.NewTicker(promotePoll)
		defer tick.Stop()
		for {
			if standby, err = inRecovery(ctx, conn); err != nil {
				return 0, 0, fmt.Errorf("promote: wait for the end of recovery: %w", err)
			}
			if !standby {
				break
			}
			select {
			case <-ctx.Done():
				return 0, 0, fmt.Errorf("promote: wait for the end of recovery: %w", context.Cause(ctx))
			case <-tick.C:
			}
		}
	}
	tli, lsn, err := primaryPosition(ctx, conn)
	if err != nil {
		return 0, 0, fmt.Errorf("promote: %w", err)
	}
	return tli, lsn, nil
}

func inRecovery(ctx context.Context, conn *pgx.Conn) (bool, error) {
	var b bool
	err := conn.QueryRow(ctx, "SELECT pg_is_in_recovery()").Scan(&b)
	return b, err
}

// primaryPosition asks for the running timeline by the name of the current WAL segment, since pg_control knows only that of the last checkpoint.
func primaryPosition(ctx context.Context, conn *pgx.Conn) (Timeline, LSN, error) {
	var file, at string
	if err := conn.QueryRow(ctx, "SELECT pg_walfile_name(pg_current_wal_lsn()), pg_current_wal_flush_lsn()::text").Scan(&file, &at); err != nil {
		return 0, 0, err
	}
	lsn, err := ParseLSN(at)
	if err != nil {
		return 0, 0, err
	}
	tli, err := segmentTimeline(file)
	return tli, lsn, err
}

// segmentTimeline reads the timeline in the name of a WAL segment.
func segmentTimeline(file string) (Timeline, error) {
	if len(file) == 24 && strings.Trim(file, "0123456789ABCDEF") == "" {
		if v, err := strconv.ParseUint(file[:8], 16, 32); err == nil {
			return Timeline(v), nil
		}
	}
	return 0, fmt.Errorf("parse WAL file name %q: want 24 hexadecimal digits", file)
}

// Facts looks at the server: at its process and files, and by SQL if it answers. That it is down or does not answer is a fact and no error; an error
// means that even that cannot be said.
func (s *Server) Facts(ctx context.Context) (Facts, error) {
	var f Facts
	var err error
	if f.PID, f.Running, err = s.Process(); err != nil {
		return Facts{}, err
	}
	f.Control, f.ControlErr = s.Control()
	_, err = os.Lstat(filepath.Join(s.cfg.DataDir, standbySignal))
	f.StandbySignal = err == nil
	_, err = os.Lstat(filepath.Join(s.cfg.DataDir, recoverySignal))
	f.InRecovery = f.StandbySignal || err == nil || f.Control.State.WasStandby()
	f.SystemID = f.Control.SystemID
	f.CheckpointTimeline = f.Control.Timeline
	f.Timeline, f.LSN = f.Control.EndTimeline(), max(f.Control.EndLSN(), f.Control.CheckpointLSN, f.Control.MinRecoveryLSN)
	if m, err := s.Managed(); err == nil {
		f.PrimaryConninfo = m["primary_conninfo"]
	}
	if !f.Running {
		return f, nil
	}
	conn, err := s.connect(ctx, queryTimeout)
	if err == nil {
		defer closeConn(conn)
		g := f
		if err = s.ask(ctx, conn, &g); err == nil {
			g.Answering = true
			return g, nil
		}
	}
	f.Problem = fmt.Errorf("ask the server: %w", err)
	if passing(err) {
		f.Problem = fmt.Errorf("%w: %w", ErrNotReady, f.Problem)
	}
	return f, nil
}

// passing reports whether it is the beginning or the end of a server that keeps it from taking a session: it says so, does not
// listen yet, or hung up.
func passing(err error) bool {
	if code := SQLState(err); code != "" {
		return StartsOrStops(code)
	}
	return HungUp(err) || errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED)
}

// ask fills in what SQL knows.
func (s *Server) ask(ctx context.Context, conn *pgx.Conn, f *Facts) error {
	var id int64
	var ckpt int32
	var file, flush, receive, replay *string
	var paused *bool
	var last *time.Time
	err := conn.QueryRow(ctx, `
SELECT r, current_setting('server_version_num')::int,
       (SELECT system_identifier FROM pg_control_system()), (SELECT timeline_id FROM pg_control_checkpoint()),
       CASE WHEN r THEN NULL ELSE pg_walfile_name(pg_current_wal_lsn()) END,
       CASE WHEN r THEN NULL ELSE pg_current_wal_flush_lsn()::text END,
       CASE WHEN r THEN pg_last_wal_receive_lsn()::text END, CASE WHEN r THEN pg_last_wal_replay_lsn()::text END,
       CASE WHEN r AND pg_is_in_recovery() THEN pg_is_wal_replay_paused() END, pg_last_xact_replay_timestamp(),
       current_setting('synchronous_standby_names')
FROM (SELECT pg_is_in_recovery() AS r OFFSET 0) AS q`).Scan(&f.InRecovery, &f.Version, &id, &ckpt, &file, &flush, &receive, &replay, &paused, &last, &f.SynchronousStandbyNames)
	if err != nil {
		return err
	}
	f.SystemID, f.CheckpointTimeline = uint64(id), Timeline(ckpt)
	if last != nil && f.InRecovery {
		f.LastReplay = last.UTC()
	}
	f.ReplayPaused = paused != nil && *paused
	if f.ReceiveLSN, err = optionalLSN(receive); err != nil {
		return err
	}
	if f.ReplayLSN, err = optionalLSN(replay); err != nil {
		return err
	}
	if f.InRecovery {
		err = s.askStandby(ctx, conn, f)
	} else {
		if f.LSN, err = optionalLSN(flush); err == nil && file != nil {
			f.Timeline, err = segmentTimeline(*file)
		}
	}
	if err != nil {
		return err
	}
	if f.ReplicationState, err = standbys(ctx, conn); err != nil {
		return err
	}
	if f.Settings, err = readSettings(ctx, conn); err != nil {
		return err
	}
	if v, ok := f.Settings["primary_conninfo"]; ok { // hidden from roles without pg_read_all_settings
		f.PrimaryConninfo = v.Value
	}
	return nil
}

// askStandby finds the position of a standby. No function of PostgreSQL 18 or older tells the timeline being replayed: with a walreceiver it is the one
// received; without, IDENTIFY_SYSTEM knows it; failing that, pg_control as of the last restartpoint.
func (s *Server) askStandby(ctx context.Context, conn *pgx.Conn, f *Facts) error {
	f.LSN = max(f.ReceiveLSN, f.ReplayLSN)
	var minTLI *int32
	if err := conn.QueryRow(ctx, "SELECT min_recovery_end_timeline FROM pg_control_recovery()").Scan(&minTLI); err != nil {
		return err
	}
	f.Timeline = f.CheckpointTimeline
	if minTLI != nil {
		f.Timeline = max(f.Timeline, Timeline(*minTLI))
	}
	var err error
	if f.Upstream, _, err = upstream(ctx, conn); err != nil {
		return err
	}
	if f.Upstream.Timeline > 0 {
		f.Timeline = max(f.Timeline, f.Upstream.Timeline)
		return nil
	}
	ci, err := s.conninfo()
	if err != nil {
		return err
	}
	// A logical walsender matches the ordinary lines of pg_hba.conf.
	cfg, err := connConfig(ci, map[string]string{"replication": "database"})
	if err != nil {
		return err
	}
	c, err := pgconn.ConnectConfig(ctx, &cfg.Config)
	if err != nil {
		s.log.Debug("no replication connection to ourselves, timeline is that of the last restartpoint", "reason", err)
		return nil
	}
	defer closeConn(c)
	id, err := identify(ctx, c)
	if err != nil {
		s.log.Debug("no answer to IDENTIFY_SYSTEM, timeline is that of the last restartpoint", "reason", err)
		return nil
	}
	f.Timeline = max(f.Timeline, id.Timeline)
	return nil
}

func optionalLSN(s *string) (LSN, error) {
	if s == nil {
		return 0, nil
	}
	return ParseLSN(*s)
}

func standbys(ctx context.Context, conn *pgx.Conn) ([]Standby, error) {
	rows, err := conn.Query(ctx, `
SELECT coalesce(application_name, ''), coalesce(host(client_addr), ''), pid, coalesce(state, ''), coalesce(sync_state, ''), coalesce(sync_priority, 0),
       sent_lsn::text, write_lsn::text, flush_lsn::text, replay_lsn::text, coalesce(extract(epoch FROM replay_lag), 0)::float8
FROM pg_stat_replication WHERE application_name <> $1 ORDER BY application_name, pid`, applicationName)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var all []Standby
	for rows.Next() {
		var b Standby
		var lag float64
		var lsn [4]*string
		if err := rows.Scan(&b.Name, &b.Addr, &b.PID, &b.State, &b.SyncState, &b.SyncPriority, &lsn[0], &lsn[1], &lsn[2], &lsn[3], &lag); err != nil {
			return nil, err
		}
		for i, to := range []*LSN{&b.SentLSN, &b.WriteLSN, &b.FlushLSN, &b.ReplayLSN} {
			if *to, err = optionalLSN(lsn[i]); err != nil {
				return nil, err
			}
		}
		b.ReplayLag = time.Duration(lag * float64(time.Second))
		all = append(all, b)
	}
	return all, rows.Err()
}

func readSettings(ctx context.Context, conn *pgx.Conn) (map[string]Setting, error) {
	rows, err := conn.Query(ctx, "SELECT name, setting, source, coalesce(sourcefile, ''), coalesce(sourceline, 0), pending_restart FROM pg_settings WHERE name = ANY($1)", managedNames)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	all := map[string]Setting{}
	for rows.Next() {
		var name string
		var v Setting
		if err := rows.Scan(&name, &v.Value, &v.Source, &v.File, &v.Line, &v.PendingRestart); err != nil {
			return nil, err
		}
		all[name] = v
	}
	return all, rows.Err()
}
