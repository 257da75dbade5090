package cells

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"pgvrrp/test/lab"
	"pgvrrp/test/lab/meter"
	"pgvrrp/test/matrix/check"
)

const probeSchema = `CREATE TABLE probe (n bigint PRIMARY KEY, node text NOT NULL, tli text NOT NULL)`

// The timeline that the server writes on stands in the names of its WAL files.
const probeSQL = "INSERT INTO probe (n, node, tli) VALUES ($1::bigint, $2, substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8)) RETURNING tli"

// probeEvery is the pause between two writes, probePatience how long a connection may take to be made. A write may take for ever.
const (
	probeEvery    = 20 * time.Millisecond
	probePatience = 2 * time.Second
)

// prober keeps one write outstanding on every data node's own address, asked from inside the host: what is cut off is asked all the same.
type prober struct {
	pg    *lab.Cluster
	start time.Time
	stop  context.CancelFunc
	group sync.WaitGroup

	mu     sync.Mutex
	writes []check.Write // acknowledged
	rows   []meter.Row
}

func startProber(ctx context.Context, l *lab.Lab, q *lab.Quorum) *prober {
	p := &prober{pg: q.PG, start: time.Now()}
	ctx, p.stop = context.WithCancel(ctx)
	for k, name := range q.Nodes {
		p.group.Go(func() { p.node(ctx, l.Host(name), int64(k+1)*1e9) })
	}
	return p
}

// finish ends all writes and returns them.
func (p *prober) finish() ([]check.Write, []meter.Row) {
	p.stop()
	p.group.Wait()
	return p.writes, p.rows
}

func (p *prober) node(ctx context.Context, h *lab.Host, n int64) {
	for ctx.Err() == nil {
		conn, drop, err := p.connect(ctx, h)
		for err == nil && ctx.Err() == nil {
			n++
			err = p.write(ctx, h.Name(), conn, drop, n)
			pause(ctx, probeEvery)
		}
		if conn != nil {
			drop()
		}
		pause(ctx, probeEvery)
	}
}

// session is a connection and whether a WARNING came over it.
type session struct {
	*pgconn.PgConn
	warned atomic.Bool
}

// connect returns a connection and how to drop it without a word. It never sends a cancel request: that could turn a wait for a standby
// into a commit without one.
func (p *prober) connect(ctx context.Context, h *lab.Host) (*session, func(), error) {
	cfg, err := pgconn.ParseConfig(p.pg.MeterConninfo(h.Addr(lab.LAN).String()))
	if err != nil {
		return nil, nil, err
	}
	s := &session{}
	var raw net.Conn
	cfg.RuntimeParams["application_name"] = "probe"
	cfg.LookupFunc = func(_ context.Context, host string) ([]string, error) { return []string{host}, nil }
	cfg.DialFunc = func(ctx context.Context, network, address string) (net.Conn, error) {
		if raw != nil {
			return nil, errors.New("no cancel requests")
		}
		var err error
		raw, err = h.Dial(ctx, network, address)
		return raw, err
	}
	cfg.OnNotice = func(_ *pgconn.PgConn, n *pgconn.Notice) {
		if n.SeverityUnlocalized == "WARNING" {
			s.warned.Store(true)
		}
	}
	patience, cancel := context.WithTimeout(ctx, probePatience)
	defer cancel()
	s.PgConn, err = pgconn.ConnectConfig(patience, cfg)
	if err != nil {
		if raw != nil {
			raw.Close()
		}
		return nil, nil, err
	}
	return s, func() { raw.Close() }, nil
}

// write sends one row; an error says that the connection is of no use any more.
func (p *prober) write(ctx context.Context, node string, s *session, drop func(), n int64) error {
	defer context.AfterFunc(ctx, drop)()
	w := check.Write{N: n, Node: node, Sent: time.Since(p.start)}
	s.warned.Store(false)
	res := s.ExecParams(context.Background(), probeSQL, [][]byte{strconv.AppendInt(nil, n, 10), []byte(node)}, nil, nil, nil).Read()
	w.Acked = time.Since(p.start)
	var pgErr *pgconn.PgError
	outcome := meter.Indeterminate
	switch {
	case res.Err == nil && s.warned.Load():
		outcome = meter.Warned
	case res.Err == nil:
		tli, err := strconv.ParseUint(string(res.Rows[0][0]), 16, 32)
		if err != nil {
			return fmt.Errorf("read the timeline on %s: %w", node, err)
		}
		w.Timeline, outcome = uint32(tli), meter.Acked
	case errors.As(res.Err, &pgErr) && pgErr.SeverityUnlocalized == "ERROR", pgconn.SafeToRetry(res.Err):
		outcome = meter.Failed
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if outcome == meter.Acked {
		p.writes = append(p.writes, w)
	}
	p.rows = append(p.rows, meter.Row{N: n, Outcome: outcome})
	if pgErr != nil && pgErr.SeverityUnlocalized == "ERROR" {
		return nil
	}
	return res.Err
}

// pause waits, at most until ctx ends.
func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
