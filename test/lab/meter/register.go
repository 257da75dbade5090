package meter

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// RegisterSchema makes the table of registers, which must exist before. Each row is a number that only grows.
const RegisterSchema = `CREATE TABLE register (run text NOT NULL, k int NOT NULL, v bigint NOT NULL, PRIMARY KEY (run, k))`

const (
	createSQL    = "INSERT INTO register (run, k, v) VALUES ($1, $2::int, 0) ON CONFLICT DO NOTHING"
	incrementSQL = "UPDATE register SET v = v + 1 WHERE run = $1 AND k = $2::int RETURNING v"
	readSQL      = "SELECT v FROM register WHERE run = $1 AND k = $2::int"
)

// RegisterOp is one operation of a client of Registers, with its times since the start.
type RegisterOp struct {
	Client, Key  int
	Read         bool // else it added one
	Call, Return time.Duration
	Value        int64 // after it; nothing if it is not Known
	// Known says that the answer came, without a warning. What is not known may have happened at any time after Call, or never; a
	// read of that kind, and what failed for certain, is left out.
	Known bool
}

// Registers are clients that add one to numbers and read them, with the patience that a Meter has.
type Registers struct {
	m    *Meter
	keys int

	mu  sync.Mutex
	ops []RegisterOp
}

// StartRegisters begins with cfg.Writers clients on so many registers. Each client stays with one register and adds and reads in turn.
func StartRegisters(ctx context.Context, cfg Config, keys int) (*Registers, error) {
	if keys < 1 {
		return nil, fmt.Errorf("start registers: %d registers", keys)
	}
	m, err := newMeter(cfg)
	if err != nil {
		return nil, err
	}
	r := &Registers{m: m, keys: keys}
	m.spawn(ctx, r.client)
	return r, nil
}

// Run is the name under which the registers stand in the table.
func (r *Registers) Run() string { return r.m.run }

// Since is a moment as the times of the operations are.
func (r *Registers) Since(t time.Time) time.Duration { return t.Sub(r.m.start) }

// Stop ends the clients and returns what they did.
func (r *Registers) Stop(ctx context.Context) []RegisterOp {
	r.m.Stop(ctx)
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.ops
}

func (r *Registers) client(ctx context.Context, w *writer) {
	key, n := w.id%r.keys, 0
	accept := func(s *session) error {
		if s.recovery {
			return errors.New("server is in recovery: " + s.identity)
		}
		// Of no effect but once, so that it may be repeated.
		return r.exec(s, createSQL, key).Err
	}
	w.loop(ctx, accept, func(s *session) bool {
		n++
		return r.operate(s, RegisterOp{Client: w.id, Key: key, Read: n%2 == 0})
	})
}

func (r *Registers) exec(s *session, sql string, key int) *pgconn.Result {
	args := [][]byte{[]byte(r.m.run), strconv.AppendInt(nil, int64(key), 10)}
	return s.pg.ExecParams(context.Background(), sql, args, nil, nil, nil).Read()
}

// operate runs one operation and books what came of it; ok says that the session can be used again.
func (r *Registers) operate(s *session, op RegisterOp) (ok bool) {
	sql := incrementSQL
	if op.Read {
		sql = readSQL
	}
	op.Call = time.Since(r.m.start)
	res := r.exec(s, sql, op.Key)
	op.Return = time.Since(r.m.start)
	err := res.Err
	if err == nil {
		if len(res.Rows) != 1 {
			err = fmt.Errorf("register %d: %d rows", op.Key, len(res.Rows))
		} else {
			op.Value, err = strconv.ParseInt(string(res.Rows[0][0]), 10, 64)
		}
	}
	var pgErr *pgconn.PgError
	certain := errors.As(err, &pgErr) && pgErr.SeverityUnlocalized == "ERROR" || err != nil && pgconn.SafeToRetry(err)
	if err != nil {
		r.m.note(err.Error())
	}
	op.Known = err == nil && s.warning.Load() == nil
	if op.Known || !op.Read && !certain {
		r.mu.Lock()
		r.ops = append(r.ops, op)
		r.mu.Unlock()
	}
	if pgErr != nil && certain {
		return pgErr.Code != "25006" // read-only: not a primary any more
	}
	return err == nil
}
