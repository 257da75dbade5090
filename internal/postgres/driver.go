package postgres

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

const (
	// fastPoll is how often a step on the way of a failover looks whether the server has done it. A look costs 0.1 to 0.2 ms.
	fastPoll = 500 * time.Microsecond

	// queryGrace is how much longer than its caller a query may take.
	queryGrace = 100 * time.Millisecond

	// pingTimeout is how long an idle session may take to answer before it is given up for a new one.
	pingTimeout = 250 * time.Millisecond
)

// Driver drives one server over sessions that stay open, so that a failover pays for no connection: one session acts, one looks, one commits probes.
// One that speaks the replication protocol is open while it is needed. A session that was lost is opened again by the next call that needs it. None
// of them ever waits for a standby, but for the probe. The role must be a superuser.
//
// Calls are safe for concurrent use. Those that act wait for each other, those that look wait for each other, and a look never waits for an act.
// Each is bounded by its context, give or take a tenth of a second, and what has none by the statement_timeout of 5 s.
type Driver struct {
	s                *Server
	act, look, probe *session
	ident            *identSession
	replies          map[int]reply             // of the walsenders at the last look, by process number; used under look's turn
	replays          atomic.Pointer[replaying] // at the last question to a standby; nil: none was asked
	written          atomic.Pointer[written]   // at the last look at a primary; nil: there was none
	onDisk           atomic.Pointer[onDisk]    // at the last look that read them; nil: they are to be read
}

// NewDriver makes a driver; nothing is opened yet.
func NewDriver(s *Server) *Driver {
	return &Driver{
		s:     s,
		act:   newSession(s, "local"),
		look:  &session{s: s, commit: "local", turn: newTurn(), looks: true},
		probe: newSession(s, "on"),
		ident: &identSession{s: s, turn: newTurn()},
	}
}

// Close ends the sessions; the next call opens them again.
func (d *Driver) Close() {
	for _, x := range []*session{d.act, d.look, d.probe} {
		x.close()
	}
	d.ident.close()
}

// Connect opens every session that is not open, so that the next act need not.
func (d *Driver) Connect(ctx context.Context) error {
	for _, x := range []*session{d.act, d.look, d.probe} {
		if err := x.use(ctx, func(context.Context, *pgx.Conn) error { return nil }); err != nil {
			return fmt.Errorf("connect: %w", err)
		}
	}
	if _, err := d.ident.identify(ctx); err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	return nil
}

// errLost means that our session could not be opened or was lost; the server may restart its processes.
var errLost = errors.New("no session")

// turn lets one caller after the other have a session.
type turn chan struct{}

func newTurn() turn { return make(turn, 1) }

func (t turn) take(ctx context.Context) error {
	select {
	case t <- struct{}{}:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for our session: %w", context.Cause(ctx))
	}
}

func (t turn) give() { <-t }

// session is an SQL session that is opened when it is needed.
type session struct {
	s      *Server
	commit string // synchronous_commit
	turn   turn
	looks  bool // nothing but questions is asked: they may be asked twice
	conn   *pgx.Conn
}

func newSession(s *Server, commit string) *session {
	return &session{s: s, commit: commit, turn: newTurn()}
}

// use runs f with the session, which answered a moment ago; one that only looks is not asked first whether it lives, and f runs again in a new one
// if it does not. While f runs and does not see the connection lost, the server has not restarted, not even after a crash of one of its processes.
// Queries of f get a context of their own, see patient.
func (x *session) use(ctx context.Context, f func(q context.Context, conn *pgx.Conn) error) error {
	if err := x.turn.take(ctx); err != nil {
		return err
	}
	defer x.turn.give()
	if x.looks && x.conn != nil {
		err := x.run(ctx, f)
		if !errors.Is(err, errLost) || ctx.Err() != nil {
			return err
		}
		x.drop()
	}
	if err := x.open(ctx); err != nil {
		if refused(err) {
			return err
		}
		return fmt.Errorf("%w: %w", errLost, err)
	}
	return x.run(ctx, f)
}

func (x *session) run(ctx context.Context, f func(q context.Context, conn *pgx.Conn) error) error {
	q, done := patient(ctx)
	defer done()
	err := f(q, x.conn)
	if err != nil && x.conn.IsClosed() {
		err = fmt.Errorf("%w: %w", errLost, err)
	}
	return err
}

func (x *session) open(ctx context.Context) error {
	if x.conn != nil {
		ping, cancel := context.WithTimeout(ctx, pingTimeout)
		err := x.conn.Ping(ping)
		cancel()
		if err == nil {
			return nil
		}
		x.s.log.Debug("our session is lost", "reason", err)
		x.drop()
	}
	// The same few questions all the time: planning them anew would cost more than the answers.
	conn, err := x.s.connectWith(ctx, x.s.stayingParams(x.commit), pgx.QueryExecModeCacheStatement)
	if err != nil {
		return err
	}
	x.conn = conn
	return nil
}

// drop gives the connection up without waiting for anything.
func (x *session) drop() {
	if x.conn != nil && !x.conn.IsClosed() {
		_ = x.conn.PgConn().Conn().SetDeadline(time.Now())
		closeConn(x.conn)
	}
	x.conn = nil
}

func (x *session) close() {
	x.turn <- struct{}{}
	defer x.turn.give()
	if x.conn != nil {
		closeConn(x.conn)
	}
	x.conn = nil
}

// patient is a context that ends queryGrace after ctx: a query that is broken off costs the session, and those of ours are short.
func patient(ctx context.Context) (context.Context, context.CancelFunc) {
	q, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() {
		t := time.NewTimer(queryGrace)
		defer t.Stop()
		select {
		case <-q.Done():
		case <-t.C:
			cancel(context.Cause(ctx))
		}
	})
	return q, func() { stop(); cancel(nil) }
}

// stayingParams are the settings of a session that stays: nothing may end it while it is idle.
func (s *Server) stayingParams(commit string) map[string]string {
	p := sessionParams(queryTimeout)
	p["synchronous_commit"] = commit
	p["idle_in_transaction_session_timeout"] = "0"
	p["default_transaction_read_only"] = "off"
	if s.version >= 14 {
		p["idle_session_timeout"] = "0"
	}
	if s.version >= 17 {
		p["transaction_timeout"] = "0"
	}
	return p
}

// identSession is a logical replication connection, which the ordinary lines of pg_hba.conf let in. It takes one of max_wal_senders.
type identSession struct {
	s    *Server
	turn turn
	conn *pgconn.PgConn
}

// identify asks for the system identifier, the timeline and the end of the WAL: of a primary what it flushed, of a standby the greatest of received and
// replayed on the timeline of the last record that it replayed.
func (x *identSession) identify(ctx context.Context) (identity, error) {
	if err := x.turn.take(ctx); err != nil {
		return identity{}, err
	}
	defer x.turn.give()
	if x.conn != nil {
		short, cancel := context.WithTimeout(ctx, pingTimeout)
		id, err := identify(short, x.conn)
		cancel()
		if err == nil {
			return id, nil
		}
		x.drop()
	}
	if err := x.open(ctx); err != nil {
		return identity{}, err
	}
	id, err := identify(ctx, x.conn)
	if err != nil {
		x.drop()
	}
	return id, err
}

// ready opens the session, so that the next question need not.
func (x *identSession) ready(ctx context.Context) error {
	if err := x.turn.take(ctx); err != nil {
		return err
	}
	defer x.turn.give()
	if x.conn != nil && !x.conn.IsClosed() {
		return nil
	}
	return x.open(ctx)
}

func (x *identSession) open(ctx context.Context) error {
	ci, err := x.s.conninfo()
	if err != nil {
		return err
	}
	params := map[string]string{"replication": "database"}
	if x.s.version >= 14 {
		params["idle_session_timeout"] = "0"
	}
	cfg, err := connConfig(ci, params)
	if err != nil {
		return err
	}
	if x.conn, err = pgconn.ConnectConfig(ctx, &cfg.Config); err != nil {
		return fmt.Errorf("open a replication session: %w", inOneLine(err))
	}
	return nil
}

// rest ends the session for as long as nobody asks, unless somebody does just now.
func (x *identSession) rest() {
	select {
	case x.turn <- struct{}{}:
		defer x.turn.give()
	default:
		return
	}
	if x.conn != nil {
		closeConn(x.conn)
		x.conn = nil
	}
}

func (x *identSession) drop() {
	if x.conn != nil && !x.conn.IsClosed() {
		_ = x.conn.Conn().SetDeadline(time.Now())
		closeConn(x.conn)
	}
	x.conn = nil
}

func (x *identSession) close() {
	x.turn <- struct{}{}
	defer x.turn.give()
	x.drop()
}

// poll looks until done says so; its last state goes into the error when ctx ends first.
func poll(ctx context.Context, look func() (done bool, state string, err error)) error {
	tick := time.NewTicker(fastPoll)
	defer tick.Stop()
	for last := ""; ; {
		done, state, err := look()
		switch {
		case err != nil && ctx.Err() != nil && last != "":
			return fmt.Errorf("%w: %s", context.Cause(ctx), last)
		case err != nil:
			return err
		case done:
			return nil
		}
		last = state
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: %s", context.Cause(ctx), last)
		case <-tick.C:
		}
	}
}
