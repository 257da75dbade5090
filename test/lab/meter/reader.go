package meter

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// ReaderConfig says what is read. Only Conninfo and Dial are needed.
type ReaderConfig struct {
	Name     string // for reports
	Conninfo string
	Dial     DialFunc
	Query    string        // default: one row of the meter's table
	Interval time.Duration // between two queries, default 10 ms
	Timeout  time.Duration // of a query, default 1 s
}

// Reader runs a query again and again on one server and books what fails.
type Reader struct {
	cfg    ReaderConfig
	cancel context.CancelFunc
	done   chan struct{}

	mu         sync.Mutex
	reads      int
	last       time.Time
	failures   []ReadFailure
	reconnects []ReadFailure
	longest    time.Duration
}

// ReadFailure is a query that failed, or a stretch without a server.
type ReadFailure struct {
	At time.Time // when it failed
	// Back is the next success; zero if there was none.
	Back time.Time
	Err  string
}

// ReaderReport is the result of a reader.
type ReaderReport struct {
	Name  string
	Reads int
	// Reconnects are stretches that began with PostgreSQL's own word that it goes away (57P01, 57P02, 57P03):
	// a server that is restarted does that.
	Reconnects []ReadFailure
	// Failures are all others.
	Failures []ReadFailure
	// Longest is the longest stretch without a result outside the two lists.
	Longest time.Duration
}

// String is one line for people.
func (r ReaderReport) String() string {
	s := fmt.Sprintf("%s: %d reads, %d reconnects, %d failures, longest wait %.0f ms", r.Name, r.Reads, len(r.Reconnects), len(r.Failures), float64(r.Longest)/1e6)
	for _, f := range r.Failures {
		s += fmt.Sprintf("\n  %s %s", f.At.Format("15:04:05.000"), f.Err)
	}
	return s
}

// StartReader begins to read and returns after the first result. The caller calls Stop.
func StartReader(ctx context.Context, cfg ReaderConfig) (*Reader, error) {
	if cfg.Query == "" {
		cfg.Query = "SELECT n FROM meter LIMIT 1"
	}
	if cfg.Interval <= 0 {
		cfg.Interval = 10 * time.Millisecond
	}
	if cfg.Timeout <= 0 {
		cfg.Timeout = time.Second
	}
	pg, err := pgconn.ParseConfig(cfg.Conninfo)
	if err != nil {
		return nil, fmt.Errorf("start reader %s: %w", cfg.Name, err)
	}
	if cfg.Dial == nil {
		return nil, fmt.Errorf("start reader %s: no Dial", cfg.Name)
	}
	rctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	r := &Reader{cfg: cfg, cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(r.done)
		r.loop(rctx, pg)
	}()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		r.mu.Lock()
		reads := r.reads
		r.mu.Unlock()
		if reads > 0 {
			break
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			rep := r.Stop()
			text := "no answer"
			if n := len(rep.Failures); n > 0 {
				text = rep.Failures[n-1].Err
			}
			return nil, fmt.Errorf("start reader %s: %w: %s", cfg.Name, ctx.Err(), text)
		}
	}
	// What failed before the first result is the start's, not the server's.
	r.mu.Lock()
	r.failures, r.reconnects, r.longest = nil, nil, 0
	r.mu.Unlock()
	return r, nil
}

// Stop ends the reader.
func (r *Reader) Stop() ReaderReport {
	r.cancel()
	<-r.done
	r.mu.Lock()
	defer r.mu.Unlock()
	return ReaderReport{Name: r.cfg.Name, Reads: r.reads, Reconnects: r.reconnects, Failures: r.failures, Longest: r.longest}
}

func (r *Reader) loop(ctx context.Context, pg *pgconn.Config) {
	var s *session
	var down *ReadFailure // the open stretch
	leaving := false      // it began with the server's word
	book := func(err error) {
		if ctx.Err() != nil {
			return
		}
		if down == nil {
			down = &ReadFailure{At: time.Now(), Err: err.Error()}
			leaving = restarting(err)
		}
	}
	closeStretch := func(back time.Time) {
		if down == nil {
			return
		}
		down.Back = back
		r.mu.Lock()
		if leaving {
			r.reconnects = append(r.reconnects, *down)
		} else {
			r.failures = append(r.failures, *down)
		}
		r.mu.Unlock()
		down = nil
	}
	defer func() {
		closeStretch(time.Time{})
		if s != nil {
			s.close()
		}
	}()
	for ctx.Err() == nil {
		err := func() error {
			qctx, cancel := context.WithTimeout(ctx, r.cfg.Timeout)
			defer cancel()
			if s == nil {
				var err error
				if s, err = open(qctx, pg, r.cfg.Dial, r.cfg.Timeout, nil); err != nil {
					s = nil
					return err
				}
			}
			stop := context.AfterFunc(qctx, s.abort)
			defer stop()
			_, err := s.pg.Exec(context.Background(), r.cfg.Query).ReadAll()
			if err != nil && qctx.Err() != nil {
				err = fmt.Errorf("no result within %s: %w", r.cfg.Timeout, err)
			}
			return err
		}()
		now := time.Now()
		if err != nil {
			book(err)
			if s != nil && s.pg.IsClosed() {
				s.abort()
				s = nil
			}
		} else {
			r.mu.Lock()
			if down == nil && !r.last.IsZero() {
				r.longest = max(r.longest, now.Sub(r.last))
			}
			r.reads++
			r.last = now
			r.mu.Unlock()
			closeStretch(now)
		}
		select {
		case <-time.After(r.cfg.Interval):
		case <-ctx.Done():
		}
	}
}

// restarting reports whether an error is the server's own announcement of a restart, or, on a fresh connection, that it
// is in the middle of one.
func restarting(err error) bool {
	var pgErr *pgconn.PgError
	if errors.As(err, &pgErr) {
		switch pgErr.Code {
		case "57P01", "57P02", "57P03":
			return true
		}
		return false
	}
	return errors.Is(err, syscall.ECONNREFUSED)
}
