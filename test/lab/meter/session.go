package meter

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"golang.org/x/sys/unix"
)

// DialFunc connects to a literal address; network is "tcp".
type DialFunc func(ctx context.Context, network, address string) (net.Conn, error)

// session is one connection to one server.
type session struct {
	pg  *pgconn.PgConn
	raw net.Conn
	// identity tells servers and starts of a server apart: cluster_name and the postmaster's start time.
	identity string
	recovery bool
	// warning is the text of the last WARNING since it was last cleared.
	warning atomic.Pointer[string]
}

const identify = "SELECT current_setting('cluster_name') || ' started ' || pg_postmaster_start_time()::text, pg_is_in_recovery()::text"

// open connects once. The end of ctx closes what is open so far. userTimeout is TCP_USER_TIMEOUT: sent data that stays
// unacknowledged for so long breaks the connection, and an idle one is probed each second.
// connected, if not nil, is told when the network part is done.
func open(ctx context.Context, base *pgconn.Config, dial DialFunc, userTimeout time.Duration, connected func()) (*session, error) {
	s := &session{}
	cfg := base.Copy()
	cfg.TLSConfig, cfg.Fallbacks, cfg.ConnectTimeout = nil, nil, 0
	cfg.LookupFunc = func(_ context.Context, host string) ([]string, error) { return []string{host}, nil }
	cfg.DialFunc = func(ctx context.Context, network, address string) (net.Conn, error) {
		if s.raw != nil {
			// A second connection would be for a cancel request, which must never follow a lost connection: it
			// could turn somebody's wait for a standby into a commit without one.
			return nil, errors.New("no cancel requests")
		}
		c, err := dial(ctx, network, address)
		if err != nil {
			return nil, err
		}
		if err := tune(c, userTimeout); err != nil {
			c.Close()
			return nil, err
		}
		s.raw = c
		if connected != nil {
			connected()
		}
		return c, nil
	}
	cfg.OnNotice = func(_ *pgconn.PgConn, n *pgconn.Notice) {
		if n.SeverityUnlocalized == "WARNING" || n.Severity == "WARNING" {
			s.warning.Store(&n.Message)
		}
	}
	pg, err := pgconn.ConnectConfig(ctx, cfg)
	if err != nil {
		return nil, err
	}
	s.pg = pg
	stop := context.AfterFunc(ctx, s.abort)
	defer stop()
	res, err := pg.Exec(context.Background(), identify).ReadAll()
	if err != nil {
		s.abort()
		return nil, err
	}
	if len(res) != 1 || len(res[0].Rows) != 1 {
		s.abort()
		return nil, fmt.Errorf("identify server: %d results", len(res))
	}
	s.identity, s.recovery = string(res[0].Rows[0][0]), string(res[0].Rows[0][1]) == "true"
	if !stop() { // aborted meanwhile
		return nil, context.Cause(ctx)
	}
	return s, nil
}

func tune(c net.Conn, userTimeout time.Duration) error {
	sc, ok := c.(syscall.Conn)
	if !ok {
		return nil
	}
	if _, ok := c.(*net.TCPConn); !ok {
		return nil
	}
	rc, err := sc.SyscallConn()
	if err != nil {
		return err
	}
	var setErr error
	err = rc.Control(func(fd uintptr) {
		for _, o := range [][3]int{
			{unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(userTimeout.Milliseconds())},
			{unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1},
			{unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, 1}, {unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, 1}, {unix.IPPROTO_TCP, unix.TCP_KEEPCNT, 2},
		} {
			setErr = errors.Join(setErr, unix.SetsockoptInt(int(fd), o[0], o[1], o[2]))
		}
	})
	return errors.Join(err, setErr)
}

// abort drops the connection at once, from any goroutine; what runs on it fails.
func (s *session) abort() {
	if t, ok := s.raw.(*net.TCPConn); ok {
		_ = t.SetLinger(0)
	}
	if s.raw != nil {
		s.raw.Close()
	}
}

// close says goodbye.
func (s *session) close() {
	ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
	defer cancel()
	_ = s.pg.Close(ctx)
}

func (s *session) prepare(sql string) error {
	_, err := s.pg.Prepare(context.Background(), "w", sql, nil)
	return err
}

func (s *session) insert(run string, n int64, writer int) error {
	args := [][]byte{[]byte(run), strconv.AppendInt(nil, n, 10), strconv.AppendInt(nil, int64(writer), 10)}
	return s.pg.ExecPrepared(context.Background(), "w", args, nil, nil).Read().Err
}

// connector makes sessions as a client in a hurry does: attempts overlap, so that one that hangs (no answer to ARP, a
// SYN to a dead address) doesn't hold up the next.
type connector struct {
	cfg         *pgconn.Config
	dial        DialFunc
	userTimeout time.Duration
	every       time.Duration // between the starts of two attempts
	// maxStarting bounds the sessions being started at the same time: each is a process of the server's, and a
	// server that is merely slow must not be made slower by those who wait for it.
	maxStarting int
	fail        func(error) // told of each failed attempt
}

// maxAttempts bounds the attempts under way, most of which are lost SYNs.
const maxAttempts = 32

// connect returns the first session that accept takes, nil at the end of ctx.
func (c *connector) connect(ctx context.Context, accept func(*session) error) *session {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // ends the attempts that lost
	type result struct {
		s   *session
		err error
	}
	results := make(chan result)
	start, running := time.Now(), 0
	var starting atomic.Int64
	attempt := func() {
		running++
		// Attempts are short at first; a machine under heavy load gets more time to start a session.
		patience := min(max(300*time.Millisecond, time.Since(start)/2), 2*time.Second)
		go func() {
			actx, cancel := context.WithTimeout(ctx, patience)
			defer cancel()
			counted := false
			s, err := open(actx, c.cfg, c.dial, c.userTimeout, func() {
				starting.Add(1)
				counted = true
			})
			if err == nil {
				stop := context.AfterFunc(actx, s.abort)
				err = accept(s)
				if !stop() && err == nil {
					err = context.Cause(actx)
				}
				if err != nil {
					s.close()
				}
			}
			if counted {
				starting.Add(-1)
			}
			select {
			case results <- result{s, err}:
			case <-ctx.Done():
				if err == nil {
					s.close()
				}
			}
		}()
	}
	tick := time.NewTicker(c.every)
	defer tick.Stop()
	attempt()
	for {
		select {
		case r := <-results:
			running--
			if r.err == nil {
				return r.s
			}
			c.fail(r.err)
		case <-tick.C:
			if running < maxAttempts && starting.Load() < int64(c.maxStarting) {
				attempt()
			}
		case <-ctx.Done():
			return nil
		}
	}
}
