package meter

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"golang.org/x/sync/errgroup"
)

// Schema makes the table that a meter writes to; it must exist before.
const Schema = `CREATE TABLE meter (run text NOT NULL, n bigint NOT NULL, writer int NOT NULL,
	at timestamptz NOT NULL DEFAULT clock_timestamp(), PRIMARY KEY (run, n))`

const insertSQL = "INSERT INTO meter (run, n, writer) VALUES ($1, $2::bigint, $3::int)"

// Config says what is measured. Only Conninfo and Dial are needed.
type Config struct {
	// Conninfo names the service as libpq does, with a literal address.
	Conninfo string
	Dial     DialFunc
	// Writers run at the same time (default 4), each with its own connection and a pause of Interval between two
	// transactions (default 2 ms).
	Writers  int
	Interval time.Duration
	// Threshold is the shortest stretch without an acknowledged commit that is reported (default 50 ms).
	Threshold time.Duration
	// Attempt is the time between the starts of two overlapping attempts to connect (default 20 ms).
	Attempt time.Duration
	// Hang is how long a statement may take before the writer looks, on a second connection, whether another server
	// answers meanwhile (default 100 ms).
	Hang time.Duration
	// UserTimeout is TCP_USER_TIMEOUT (default 1.5 s); StatementTimeout gives a statement up in any case (default 30 s).
	UserTimeout, StatementTimeout time.Duration
	Log                           *slog.Logger // default: none
}

// Meter commits one row after the other, each a transaction of its own.
//
// It behaves as a sensible pool with tcp_user_timeout does, so that it measures the service and not a client's patience.
// A statement that hangs is not simply waited for: after Config.Hang a second connection is tried beside it. If that
// reaches a primary that is not the server the statement hangs on, the old connection is dropped and its row's fate is
// indeterminate; if it reaches the same server, the commit is merely slow and is waited for.
type Meter struct {
	cfg    Config
	run    string
	pg     *pgconn.Config
	cancel context.CancelFunc
	group  errgroup.Group
	start  time.Time
	next   atomic.Int64
	last   atomic.Int64 // time of the last acknowledgement, ns since start

	mu      sync.Mutex
	end     time.Time
	stopped bool
	acked   []ack
	warned  map[int64]string
	failed  map[int64]string
	unknown map[int64]string
	marks   []mark
	errs    []event
	servers []event
}

type ack struct {
	n           int64
	at, latency time.Duration // at: since start
}

type mark struct {
	name string
	at   time.Time
}

type event struct {
	at   time.Time
	text string
}

// maxEvents bounds what is kept of failed attempts.
const maxEvents = 100000

// Start begins to write and returns after the first acknowledged commit. The caller calls Stop.
func Start(ctx context.Context, cfg Config) (*Meter, error) {
	m, err := newMeter(cfg)
	if err != nil {
		return nil, err
	}
	m.spawn(ctx, m.loop)
	if _, err := m.WaitAck(ctx, m.start); err != nil {
		stopCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		m.Stop(stopCtx)
		return nil, fmt.Errorf("start meter: no commit: %w", err)
	}
	return m, nil
}

// spawn runs every client.
func (m *Meter) spawn(ctx context.Context, loop func(context.Context, *writer)) {
	ctx, m.cancel = context.WithCancel(context.WithoutCancel(ctx))
	for i := range m.cfg.Writers {
		m.group.Go(func() error { loop(ctx, &writer{m: m, id: i}); return nil })
	}
}

func newMeter(cfg Config) (*Meter, error) {
	for _, d := range []struct {
		field *time.Duration
		value time.Duration
	}{
		{&cfg.Interval, 2 * time.Millisecond}, {&cfg.Threshold, 50 * time.Millisecond}, {&cfg.Attempt, 20 * time.Millisecond},
		{&cfg.Hang, 100 * time.Millisecond}, {&cfg.UserTimeout, 1500 * time.Millisecond}, {&cfg.StatementTimeout, 30 * time.Second},
	} {
		if *d.field <= 0 {
			*d.field = d.value
		}
	}
	if cfg.Writers <= 0 {
		cfg.Writers = 4
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	pg, err := pgconn.ParseConfig(cfg.Conninfo)
	if err != nil {
		return nil, fmt.Errorf("start meter: %w", err)
	}
	if cfg.Dial == nil {
		return nil, errors.New("start meter: no Dial")
	}
	if _, ok := pg.RuntimeParams["application_name"]; !ok {
		pg.RuntimeParams["application_name"] = "meter"
	}
	id := make([]byte, 8)
	_, _ = rand.Read(id) // never fails
	return &Meter{
		cfg: cfg, run: hex.EncodeToString(id), pg: pg, start: time.Now(),
		warned: map[int64]string{}, failed: map[int64]string{}, unknown: map[int64]string{},
	}, nil
}

// Run is the name under which the rows stand in the table.
func (m *Meter) Run() string { return m.run }

// Mark names what happens from now on; outages are tied to it.
func (m *Meter) Mark(name string) time.Time {
	now := time.Now()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.marks = append(m.marks, mark{name, now})
	return now
}

// Acked returns the number of acknowledged commits so far.
func (m *Meter) Acked() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.acked)
}

// WaitAck waits for an acknowledgement at or after a time and returns when the last one was.
func (m *Meter) WaitAck(ctx context.Context, after time.Time) (time.Time, error) {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		if last := m.last.Load(); last > 0 {
			if at := m.start.Add(time.Duration(last)); !at.Before(after) {
				return at, nil
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			m.mu.Lock()
			defer m.mu.Unlock()
			text := "nothing was tried"
			if n := len(m.errs); n > 0 {
				text = m.errs[n-1].text
			}
			return time.Time{}, fmt.Errorf("wait for a commit: %w; last error: %s", ctx.Err(), text)
		}
	}
}

// Stop ends the writers. Statements under way get until the end of ctx, at most two seconds; then they are
// indeterminate.
func (m *Meter) Stop(ctx context.Context) {
	m.mu.Lock()
	if m.stopped {
		m.mu.Unlock()
		return
	}
	m.stopped = true
	m.end = time.Now()
	m.mu.Unlock()
	m.cancel()
	_ = m.group.Wait()
}

func (m *Meter) note(text string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.errs) < maxEvents {
		m.errs = append(m.errs, event{time.Now(), text})
	}
}

// writer is one client.
type writer struct {
	m  *Meter
	id int
}

func (w *writer) connector() *connector {
	return &connector{cfg: w.m.pg, dial: w.m.cfg.Dial, userTimeout: w.m.cfg.UserTimeout, every: w.m.cfg.Attempt, maxStarting: 4, fail: func(err error) { w.m.note(err.Error()) }}
}

// usable takes a primary and makes it ready.
func usable(s *session) error {
	if s.recovery {
		return errors.New("server is in recovery: " + s.identity)
	}
	return s.prepare(insertSQL)
}

func (m *Meter) loop(ctx context.Context, w *writer) {
	w.loop(ctx, usable, func(s *session) bool { return m.commit(s, m.next.Add(1), w.id) })
}

// loop keeps a session that accept takes and runs one transaction after the other on it; ok says that the session can be used again.
func (w *writer) loop(ctx context.Context, accept func(*session) error, transaction func(*session) (ok bool)) {
	var s *session
	defer func() {
		if s != nil {
			s.close()
		}
	}()
	for ctx.Err() == nil {
		if s == nil {
			if s = w.connector().connect(ctx, accept); s == nil {
				return
			}
			w.m.serverSeen(s.identity)
		}
		s = w.write(ctx, s, accept, transaction)
		select {
		case <-time.After(w.m.cfg.Interval):
		case <-ctx.Done():
		}
	}
}

// write runs one transaction and returns the session to go on with, nil for none.
func (w *writer) write(ctx context.Context, s *session, accept func(*session) error, transaction func(*session) bool) *session {
	m := w.m
	s.warning.Store(nil)
	done := make(chan bool, 1)
	go func() { done <- transaction(s) }()

	hang := time.NewTimer(m.cfg.Hang)
	defer hang.Stop()
	limit := time.NewTimer(m.cfg.StatementTimeout)
	defer limit.Stop()
	look, stopLooking := context.WithCancel(ctx)
	defer stopLooking()
	other := make(chan *session, 1)
	looking := false
	giveUp := func() {
		s.abort()
		<-done
	}
	finish := func(ok bool) *session {
		stopLooking()
		if looking {
			if o := <-other; o != nil {
				if !ok {
					m.serverSeen(o.identity)
					return o
				}
				o.close()
			}
		}
		if !ok {
			s.abort()
			return nil
		}
		return s
	}
	for {
		select {
		case ok := <-done:
			return finish(ok)
		case <-hang.C:
			looking = true
			m.note("statement hangs on " + s.identity)
			go func() { other <- w.another(look, s.identity, accept) }()
		case o := <-other:
			looking = false
			if o == nil {
				continue // stopping
			}
			m.note("found " + o.identity + " while a statement hangs on " + s.identity)
			m.serverSeen(o.identity)
			giveUp()
			return o
		case <-limit.C:
			m.note("statement timeout on " + s.identity)
			giveUp()
			return finish(false)
		case <-ctx.Done():
			select {
			case ok := <-done:
				return finish(ok)
			case <-time.After(2 * time.Second):
				giveUp()
				return finish(false)
			}
		}
	}
}

// another looks for a primary that isn't the given one, until ctx ends.
func (w *writer) another(ctx context.Context, not string, accept func(*session) error) *session {
	errSame := errors.New("the same server answers: the commit is slow")
	for ctx.Err() == nil {
		round, cancel := context.WithCancel(ctx)
		c := w.connector()
		c.maxStarting = 2
		c.fail = func(err error) {
			w.m.note(err.Error())
			if errors.Is(err, errSame) {
				cancel()
			}
		}
		s := c.connect(round, func(s *session) error {
			if s.identity == not {
				return errSame
			}
			return accept(s)
		})
		cancel()
		if s != nil {
			return s
		}
		// The server lives: no need to ask it at every turn.
		select {
		case <-time.After(2 * w.m.cfg.Hang):
		case <-ctx.Done():
		}
	}
	return nil
}

// commit runs the transaction and books what came of it; ok says that the session can be used again.
func (m *Meter) commit(s *session, n int64, writer int) (ok bool) {
	began := time.Now()
	err := s.insert(m.run, n, writer)
	at := time.Since(m.start)
	m.mu.Lock()
	defer m.mu.Unlock()
	note := func(text string) {
		if len(m.errs) < maxEvents {
			m.errs = append(m.errs, event{m.start.Add(at), text})
		}
	}
	var pgErr *pgconn.PgError
	switch warning := s.warning.Load(); {
	case err == nil && warning == nil:
		m.acked = append(m.acked, ack{n, at, at - began.Sub(m.start)})
		for {
			last := m.last.Load()
			if int64(at) <= last || m.last.CompareAndSwap(last, int64(at)) {
				return true
			}
		}
	case err == nil:
		m.warned[n] = *warning
		note("WARNING: " + *warning)
		return true
	case errors.As(err, &pgErr) && pgErr.SeverityUnlocalized == "ERROR":
		m.failed[n] = err.Error()
		note(err.Error())
		return pgErr.Code != "25006" // read-only: not a primary any more
	case pgconn.SafeToRetry(err):
		m.failed[n] = err.Error()
		note(err.Error())
		return false
	default:
		m.unknown[n] = err.Error()
		note(err.Error())
		return false
	}
}

// Row is one row that a meter sent.
type Row struct {
	N       int64
	Outcome Outcome
}

// Outcome is what the client knows of a transaction.
type Outcome uint8

const (
	// Acked came back without a word.
	Acked Outcome = iota
	// Warned came back with a WARNING: committed here, on how many others is not known. It is no acknowledgement.
	Warned
	// Failed came back with an error, or was never sent: it must not be there.
	Failed
	// Indeterminate was lost with its connection.
	Indeterminate
)

// History returns every row so far, in no order.
func (m *Meter) History() []Row {
	m.mu.Lock()
	defer m.mu.Unlock()
	var rows []Row
	for _, a := range m.acked {
		rows = append(rows, Row{a.n, Acked})
	}
	for outcome, of := range map[Outcome]map[int64]string{Warned: m.warned, Failed: m.failed, Indeterminate: m.unknown} {
		for n := range of {
			rows = append(rows, Row{n, outcome})
		}
	}
	return rows
}

func (m *Meter) serverSeen(identity string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if n := len(m.servers); n == 0 || m.servers[n-1].text != identity {
		m.servers = append(m.servers, event{time.Now(), identity})
		m.cfg.Log.Debug("meter connected", "server", identity)
	}
}

// Outage is a stretch without an acknowledged commit by any writer.
type Outage struct {
	Start, End time.Time // the acknowledgements before and after, or the end of the run
	Duration   time.Duration
	// Open says that no acknowledgement followed.
	Open bool
	// Step is the first Mark within the stretch, else the last before it.
	Step string
	// Reasons are the distinct errors of the stretch, the most frequent first, at most five.
	Reasons []string
}

func (o Outage) String() string {
	s := fmt.Sprintf("%s %7.1f ms", o.Start.Format("15:04:05.000"), float64(o.Duration)/1e6)
	if o.Open {
		s += " (still out at the end)"
	}
	if o.Step != "" {
		s += " " + o.Step
	}
	if len(o.Reasons) > 0 {
		s += ": " + o.Reasons[0]
	}
	return s
}

// Outages returns the stretches so far that are longer than the threshold. While the meter runs, the present counts as
// the end.
func (m *Meter) Outages() []Outage {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.outages()
}

func (m *Meter) outages() []Outage {
	times := make([]time.Time, 0, len(m.acked)+1)
	for _, a := range m.acked {
		times = append(times, m.start.Add(a.at))
	}
	end := m.end
	if end.IsZero() {
		end = time.Now()
	}
	slices.SortFunc(times, time.Time.Compare)
	acks := len(times)
	if acks == 0 || times[acks-1].Before(end) {
		times = append(times, end)
	}
	var out []Outage
	for i := 1; i < len(times); i++ {
		o := Outage{Start: times[i-1], End: times[i], Duration: times[i].Sub(times[i-1]), Open: i == acks}
		if o.Duration <= m.cfg.Threshold {
			continue
		}
		for _, k := range m.marks {
			if k.at.After(o.End) {
				break
			}
			if k.at.After(o.Start) {
				o.Step = k.name
				break
			}
			o.Step = k.name
		}
		o.Reasons = m.reasons(o.Start, o.End)
		out = append(out, o)
	}
	return out
}

func (m *Meter) reasons(from, to time.Time) []string {
	count := map[string]int{}
	var texts []string
	for _, e := range m.errs {
		if e.at.Before(from) || e.at.After(to) {
			continue
		}
		if count[e.text]++; count[e.text] == 1 {
			texts = append(texts, e.text)
		}
	}
	slices.SortStableFunc(texts, func(a, b string) int { return count[b] - count[a] })
	return texts[:min(len(texts), 5)]
}

// Report is the result of a run.
type Report struct {
	Run        string
	Start, End time.Time
	// Acked commits came back without a word. Warned ones came with a WARNING (a wait for standbys that was canceled)
	// and are not acknowledged. Failed ones came back with an error, or were never sent. Indeterminate ones were lost
	// with their connection.
	Acked, Warned, Failed, Indeterminate int
	// Lost are acknowledged rows that are not there: there must be none.
	Lost []int64
	// WarnedFound and IndeterminateFound rows are there, which is allowed. FailedFound and Unknown (never written)
	// rows are there, which is not.
	WarnedFound, IndeterminateFound, FailedFound, Unknown int
	Outages                                               []Outage
	MaxOutage                                             time.Duration
	P50, P99, MaxLatency                                  time.Duration // of acknowledged commits
	// Server is where the rows were read back; Servers are those that writers were connected to, in order.
	Server  string
	Servers []string
}

// Report stops the meter, reads back every row from the service's primary, as soon as one answers, and sums up. It
// fails if that can't be done before ctx ends: rows that could not be read have not been proved safe.
func (m *Meter) Report(ctx context.Context) (Report, error) {
	return m.ReportFrom(ctx, m.cfg.Conninfo, m.cfg.Dial, false)
}

// ReportFrom is Report with the rows read elsewhere, from a standby too if that is allowed (it must have caught up).
func (m *Meter) ReportFrom(ctx context.Context, conninfo string, dial DialFunc, standby bool) (Report, error) {
	m.Stop(ctx)
	found, server, err := m.readBack(ctx, conninfo, dial, standby)
	if err != nil {
		return Report{}, fmt.Errorf("read back the meter's rows: %w", err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	r := Report{
		Run: m.run, Start: m.start, End: m.end, Acked: len(m.acked), Warned: len(m.warned), Failed: len(m.failed), Indeterminate: len(m.unknown),
		Outages: m.outages(), Server: server,
	}
	latencies := make([]time.Duration, 0, len(m.acked))
	for _, a := range m.acked {
		latencies = append(latencies, a.latency)
		if !found[a.n] {
			r.Lost = append(r.Lost, a.n)
		}
		delete(found, a.n)
	}
	for _, k := range []struct {
		rows  map[int64]string
		count *int
	}{{m.warned, &r.WarnedFound}, {m.unknown, &r.IndeterminateFound}, {m.failed, &r.FailedFound}} {
		for n := range k.rows {
			if found[n] {
				*k.count++
				delete(found, n)
			}
		}
	}
	r.Unknown = len(found)
	slices.Sort(r.Lost)
	slices.Sort(latencies)
	if n := len(latencies); n > 0 {
		r.P50, r.P99, r.MaxLatency = latencies[n/2], latencies[n*99/100], latencies[n-1]
	}
	for _, o := range r.Outages {
		r.MaxOutage = max(r.MaxOutage, o.Duration)
	}
	for _, s := range m.servers {
		r.Servers = append(r.Servers, s.text)
	}
	return r, nil
}

func (m *Meter) readBack(ctx context.Context, conninfo string, dial DialFunc, standby bool) (map[int64]bool, string, error) {
	cfg, err := pgconn.ParseConfig(conninfo)
	if err != nil {
		return nil, "", err
	}
	var last error
	for ctx.Err() == nil {
		c := &connector{cfg: cfg, dial: dial, userTimeout: m.cfg.UserTimeout, every: 10 * m.cfg.Attempt, maxStarting: 1, fail: func(err error) { last = err }}
		s := c.connect(ctx, func(s *session) error {
			if s.recovery && !standby {
				return errors.New("server is in recovery: " + s.identity)
			}
			return nil
		})
		if s == nil {
			break
		}
		stop := context.AfterFunc(ctx, s.abort)
		found, err := m.rows(s)
		stop()
		s.abort()
		if err == nil {
			return found, s.identity, nil
		}
		last = err
	}
	return nil, "", errors.Join(ctx.Err(), last)
}

func (m *Meter) rows(s *session) (map[int64]bool, error) {
	res := s.pg.ExecParams(context.Background(), "SELECT n FROM meter WHERE run = $1", [][]byte{[]byte(m.run)}, nil, nil, nil).Read()
	if res.Err != nil {
		return nil, res.Err
	}
	found := make(map[int64]bool, len(res.Rows))
	for _, row := range res.Rows {
		n, err := strconv.ParseInt(string(row[0]), 10, 64)
		if err != nil {
			return nil, err
		}
		found[n] = true
	}
	return found, nil
}

// String is a short text for people.
func (r Report) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "acknowledged %d, lost %d; with warning %d, failed %d, indeterminate %d (%d of them there); commit p50 %.1f ms, p99 %.1f ms; longest outage %.0f ms",
		r.Acked, len(r.Lost), r.Warned, r.Failed, r.Indeterminate, r.IndeterminateFound, float64(r.P50)/1e6, float64(r.P99)/1e6, float64(r.MaxOutage)/1e6)
	if r.FailedFound+r.Unknown > 0 {
		fmt.Fprintf(&b, "; there although failed %d, there although never written %d", r.FailedFound, r.Unknown)
	}
	for _, o := range r.Outages {
		fmt.Fprintf(&b, "\n  %s", o)
	}
	return b.String()
}
