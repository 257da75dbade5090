package cells

import (
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"pgvrrp/test/lab"
	"pgvrrp/test/lab/meter"
	"pgvrrp/test/matrix/check"
)

// Verdict is what came of a cell.
type Verdict struct {
	Cell      Cell
	Placement string   // who played which role
	Failures  []string // what must not be; none: the cell holds
	Notes     []string // what happened on the way to the cell's beginning
	// Outages are the longest stretches without an acknowledged commit that began or went on after each failure, the last one up to
	// the repair. One that lasted until the repair is that long.
	Outages []time.Duration
	// Back is, of a cell that stops, how long after the first repair writes went on.
	Back time.Duration
	// Whole is how long after the last repair every node streamed and was in the rule, Rungs how each victim came back.
	Whole time.Duration
	Rungs []string
	Acked int
	Lost  int
	// Ready is how long it took until the roles were placed and the clients at work, Took all.
	Ready time.Duration
	Took  time.Duration
	Load  lab.Load
	// Stalled is the share of the cell's time in which some task waited for a processor, in percent; -1: not known.
	Stalled float64
}

const (
	clients   = 8
	keys      = 4
	resume    = 15 * time.Second        // writes resume within that, or the cell fails
	settle    = 1500 * time.Millisecond // after this long without a majority nothing is acknowledged
	stopped   = 3 * time.Second         // so long is looked whether nothing is
	steady    = time.Second             // writes must go on at the end
	wholeTime = 60 * time.Second
	cellTime  = 3 * time.Minute
)

// load is the clients of one cell.
type load struct {
	m       *meter.Meter
	regs    *meter.Registers
	prober  *prober
	readers map[string]*meter.Reader
}

// cell is one run of a cell.
type cell struct {
	s     *Site
	c     Cell
	v     *Verdict
	roles map[Role]string
	load  *load
	logs  map[string]int64 // length of the agents' logs before the first failure
	hit   []string         // all victims
	at    []time.Time      // of the failures
}

// Run runs one cell on a site and repairs the site afterwards. An error says that the cell could not be run; what it found is in the
// verdict.
func (s *Site) Run(ctx context.Context, c Cell) (v Verdict, err error) {
	began, before := time.Now(), lab.ReadLoad()
	ctx, cancel := context.WithTimeout(ctx, cellTime)
	defer cancel()
	r := &cell{s: s, c: c, v: &v, logs: map[string]int64{}}
	v.Cell = c
	defer func() {
		v.Took, v.Load = time.Since(began), lab.ReadLoad()
		v.Stalled = v.Load.StalledSince(before)
	}()
	if err := r.prepare(ctx); err != nil {
		return v, fmt.Errorf("prepare %s: %w", c.ID(), err)
	}
	v.Ready = time.Since(began)
	course := map[Kind]func(context.Context) error{Faulty: r.faulty, Everything: r.everything, Bench: r.bench}[c.Kind]
	if err := course(ctx); err != nil {
		r.wrong("%v", err)
	}
	r.heal(ctx)
	r.judge(ctx)
	return v, nil
}

func (r *cell) wrong(format string, args ...any) {
	r.v.Failures = append(r.v.Failures, fmt.Sprintf(format, args...))
}

// prepare places the roles, empties the tables and starts the clients.
func (r *cell) prepare(ctx context.Context) (err error) {
	s := r.s
	if r.roles, r.v.Notes, err = s.place(ctx, r.c); err != nil {
		return err
	}
	var who []string
	for _, role := range []Role{Primary, Standby, Second, Witness} {
		if n := r.roles[role]; n != "" {
			who = append(who, n)
		}
	}
	r.v.Placement = strings.Join(who, " ")
	if _, err := s.q.PG.SQL(ctx, r.roles[Primary], "TRUNCATE meter, register, probe; CHECKPOINT"); err != nil {
		return err
	}
	for _, n := range s.q.Nodes {
		r.logs[n] = size(s.l.Host(n).Proc("agent").LogFile)
	}
	if r.c.Kind == Bench {
		return nil
	}
	if r.load, err = s.startLoad(ctx); err != nil {
		return err
	}
	// The table speaks of failures in a cluster that is whole, which a busy machine can undo.
	wait, cancel := context.WithTimeout(ctx, resume)
	defer cancel()
	holder, err := s.q.Whole(wait)
	if err == nil && holder != r.roles[Primary] {
		err = fmt.Errorf("%s holds before anything has failed, %s was placed", holder, r.roles[Primary])
	}
	if err != nil {
		r.load.end(ctx)
	}
	return err
}

func size(file string) int64 {
	st, err := os.Stat(file)
	if err != nil {
		return 0
	}
	return st.Size()
}

func (s *Site) startLoad(ctx context.Context) (_ *load, err error) {
	ctx, cancel := context.WithTimeout(ctx, resume)
	defer cancel()
	d := &load{readers: map[string]*meter.Reader{}}
	defer func() {
		if err != nil {
			d.end(ctx)
		}
	}()
	vip := meter.Config{Conninfo: s.q.PG.MeterConninfo(lab.VIP(1).String()), Dial: s.l.Client().Dial, Writers: clients, Interval: 10 * time.Millisecond}
	if d.m, err = meter.Start(ctx, vip); err != nil {
		return nil, err
	}
	vip.Interval = 20 * time.Millisecond
	if d.regs, err = meter.StartRegisters(ctx, vip, keys); err != nil {
		return nil, err
	}
	d.prober = startProber(context.WithoutCancel(ctx), s.l, s.q)
	for _, n := range s.q.Nodes {
		d.readers[n], err = meter.StartReader(ctx, meter.ReaderConfig{
			Name: n, Conninfo: s.q.PG.MeterConninfo(s.l.Host(n).Addr(lab.LAN).String()), Dial: s.l.Client().Dial, Interval: 20 * time.Millisecond,
		})
		if err != nil {
			delete(d.readers, n)
			return nil, err
		}
	}
	_, err = d.m.WaitAck(ctx, time.Now().Add(500*time.Millisecond))
	return d, err
}

// end stops every client that runs; for what could not be started.
func (d *load) end(ctx context.Context) {
	if d.m != nil {
		d.m.Stop(ctx)
	}
	if d.regs != nil {
		d.regs.Stop(ctx)
	}
	if d.prober != nil {
		d.prober.finish()
	}
	for _, r := range d.readers {
		r.Stop()
	}
}

// fail lets the players of roles fail at once.
func (r *cell) fail(ctx context.Context, roles ...Role) error {
	var names []string
	for _, role := range roles {
		n, err := r.player(ctx, role)
		if err != nil {
			return err
		}
		names = append(names, n)
	}
	r.hit = append(r.hit, names...)
	if r.load != nil {
		r.at = append(r.at, r.load.m.Mark(fmt.Sprintf("%s of %s", r.c.Fault, strings.Join(names, " and "))))
	}
	if err := r.s.fail(ctx, r.c.Fault, names...); err != nil {
		return fmt.Errorf("%s of %s: %w", r.c.Fault, strings.Join(names, " and "), err)
	}
	return nil
}

// player is the host that has a role now.
func (r *cell) player(ctx context.Context, role Role) (string, error) {
	if role != Next && role != Other {
		return r.roles[role], nil
	}
	var but []string
	if r.c.Fault != Postmaster {
		but = r.hit // a stopped or cut off one may still believe
	}
	ctx, cancel := context.WithTimeout(ctx, resume)
	defer cancel()
	next := ""
	err := lab.Poll(ctx, 10*time.Millisecond, func() (bool, string, error) {
		next = r.s.q.Open(ctx, but...)
		return next != "", "nobody is open", nil
	})
	if err != nil {
		return "", fmt.Errorf("wait for a new primary: %w", err)
	}
	r.roles[Next] = next
	if role == Next {
		return next, nil
	}
	for _, n := range []string{r.roles[Standby], r.roles[Second]} {
		if n != next {
			r.roles[Other] = n
		}
	}
	return r.roles[Other], nil
}

// faulty is the usual course: the victims fail one after the other or at once, and what must happen is looked for.
func (r *cell) faulty(ctx context.Context) error {
	if r.c.Gap == 0 {
		if err := r.fail(ctx, r.c.Victims...); err != nil {
			return err
		}
	} else {
		for k, role := range r.c.Victims {
			if k > 0 {
				pause(ctx, time.Until(r.at[k-1].Add(r.c.Gap)))
			}
			if err := r.fail(ctx, role); err != nil {
				return err
			}
		}
	}
	last := r.at[len(r.at)-1]
	if r.c.Want == GoesOn {
		return r.writes(ctx, last)
	}
	pause(ctx, settle)
	quiet := time.Now()
	acked := r.load.m.Acked()
	pause(ctx, stopped)
	if n := r.load.m.Acked() - acked; n > 0 {
		r.wrong("%d commits were acknowledged %s after the last failure: nobody has a majority", n, time.Since(last).Round(time.Millisecond))
	}
	names := slices.Clone(r.s.failed)
	if r.c.Want == Away {
		names = slices.DeleteFunc(names, func(n string) bool { return n == r.roles[Witness] })
	}
	first := names[r.s.random(r.c.ID()+" repair").IntN(len(names))]
	repaired := r.load.m.Mark("repair of " + first)
	r.outages(repaired)
	if err := r.s.repair(ctx, first); err != nil {
		return err
	}
	wait, cancel := context.WithTimeout(ctx, resume)
	defer cancel()
	// The first one, that is: WaitAck returns the last.
	if err := lab.Poll(wait, time.Millisecond, func() (bool, string, error) { return r.load.m.Acked() > acked, "no commit", nil }); err != nil {
		return fmt.Errorf("%s is back, and writes do not go on within %s (stopped since %s)", first, resume, quiet.Format("15:04:05.000"))
	}
	r.v.Back = time.Since(repaired)
	return r.writes(ctx, repaired)
}

// writes waits until writes go on after a failure or repair and a while longer.
func (r *cell) writes(ctx context.Context, since time.Time) error {
	wait, cancel := context.WithTimeout(ctx, resume)
	defer cancel()
	_, err := r.load.m.WaitAck(wait, since.Add(steady))
	if err == nil && r.c.Want == GoesOn {
		pause(ctx, steady)
		_, err = r.load.m.WaitAck(wait, since.Add(2*steady))
	}
	if r.c.Want == GoesOn {
		r.outages(time.Now())
	}
	if err != nil {
		return fmt.Errorf("writes do not resume within %s of %s: %w", resume, since.Format("15:04:05.000"), err)
	}
	return nil
}

// outages books the longest stretch without a commit after each failure.
func (r *cell) outages(until time.Time) {
	all := r.load.m.Outages()
	for k, at := range r.at {
		end := until
		if k+1 < len(r.at) {
			end = r.at[k+1]
		}
		longest := time.Duration(0)
		for _, o := range all {
			if from, to := laterOf(o.Start, at), earlierOf(o.End, end); to.Sub(from) > longest {
				longest = to.Sub(from)
			}
		}
		r.v.Outages = append(r.v.Outages, longest)
	}
}

func laterOf(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func earlierOf(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// everything takes all power away and gives it back in the cell's order.
func (r *cell) everything(ctx context.Context) error {
	if err := r.fail(ctx, r.c.Victims...); err != nil {
		return err
	}
	pause(ctx, r.c.Gap)
	for k, role := range r.c.Victims {
		if k > 0 {
			pause(ctx, r.c.Gap)
		}
		if err := r.s.repair(ctx, r.roles[role]); err != nil {
			return err
		}
	}
	last := r.load.m.Mark("all have their power again")
	err := r.writes(ctx, last)
	wrote := r.load.m.Outages()
	for _, o := range slices.Backward(wrote) {
		if o.Start.Before(last) && o.End.After(r.at[0]) {
			r.v.Back = max(0, o.End.Sub(last))
			break
		}
	}
	return err
}

var failedTransactions = regexp.MustCompile(`number of failed transactions: (\d+)`)

// bench is the course of Bench.
func (r *cell) bench(ctx context.Context) error {
	client := r.s.l.Client()
	argv := func(more ...string) lab.Command {
		return lab.Command{Argv: append([]string{r.s.q.PG.BinDir + "/pgbench", "-h", lab.VIP(1).String(), "-p", strconv.Itoa(r.s.q.PG.Port), "-U", "app", "-d", "meter"}, more...), User: "postgres"}
	}
	if _, err := client.Do(ctx, argv("-i", "-q")); err != nil {
		return err
	}
	type result struct {
		lab.Result
		err error
	}
	done := make(chan result, 1)
	go func() {
		res, err := client.Do(ctx, argv("-n", "-c", strconv.Itoa(clients), "-j", "2", "-T", "12"))
		done <- result{res, err}
	}()
	finish := func() error {
		res := <-done
		if res.err != nil {
			return res.err
		}
		m := failedTransactions.FindStringSubmatch(res.Stdout)
		if m == nil || m[1] != "0" || strings.Contains(res.Stderr, "aborted") {
			return fmt.Errorf("transactions of pgbench failed:\n%s\n%s", res.Stdout, res.Stderr)
		}
		return nil
	}
	pause(ctx, r.c.Gap)
	if err := r.fail(ctx, r.c.Victims[0]); err != nil {
		return errors.Join(err, finish())
	}
	out, cancel := context.WithTimeout(ctx, resume)
	defer cancel()
	if _, err := r.s.q.Whole(out, r.hit...); err != nil {
		return errors.Join(err, finish())
	}
	pause(ctx, r.c.Gap)
	return errors.Join(r.fail(ctx, r.c.Victims[1:]...), finish())
}

// heal repairs everything and waits until the cluster is whole.
func (r *cell) heal(ctx context.Context) {
	if err := r.s.repairAll(ctx); err != nil {
		r.wrong("repair: %v", err)
		return
	}
	began := time.Now()
	if r.load != nil {
		r.load.m.Mark("repaired")
	}
	wait, cancel := context.WithTimeout(ctx, wholeTime)
	defer cancel()
	if _, err := r.s.q.Whole(wait); err != nil {
		r.wrong("not every node streams again by itself within %s: %v", wholeTime, err)
		return
	}
	r.v.Whole = time.Since(began)
	if err := r.s.q.Voters(wait); err != nil {
		r.wrong("not every voter is back within %s: %v", wholeTime, err)
	}
	for _, n := range r.s.q.Nodes {
		rung := r.rung(n)
		if rung != "stream" || slices.Contains(r.hit, n) {
			r.v.Rungs = append(r.v.Rungs, n+" "+rung)
		}
	}
}

// rung is how a node came back, by its agent's log.
func (r *cell) rung(node string) string {
	b, err := os.ReadFile(r.s.l.Host(node).Proc("agent").LogFile)
	if err != nil {
		return err.Error()
	}
	text := string(b[min(int64(len(b)), r.logs[node]):])
	for _, rung := range []string{"clone", "rewind"} {
		if strings.Contains(text, `act="`+rung+` `) {
			return rung
		}
	}
	return "stream"
}

// judge stops the clients and looks at what they saw.
func (r *cell) judge(ctx context.Context) {
	if r.load == nil {
		if err := r.s.equal(ctx); err != nil {
			r.wrong("%v", err)
		}
		return
	}
	d := r.load
	for n, reader := range d.readers {
		rep := reader.Stop()
		if slices.Contains(r.hit, n) || r.c.Want != GoesOn && n == r.roles[Primary] {
			continue // the primary without the majority restarts as a standby, unless the next epoch is its own
		}
		for _, f := range rep.Failures {
			r.wrong("SELECT on %s failed at %s until %s: %s", n, f.At.Format("15:04:05.000"), f.Back.Format("15:04:05.000"), f.Err)
		}
	}
	var report meter.Report
	var ops []meter.RegisterOp
	var writes []check.Write
	var rows []meter.Row
	wait, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	var g errgroup.Group
	g.Go(func() (err error) { report, err = d.m.Report(wait); return err })
	g.Go(func() error { ops = d.regs.Stop(wait); return nil })
	g.Go(func() error { writes, rows = d.prober.finish(); return nil })
	if err := g.Wait(); err != nil {
		r.wrong("%v", err)
		return
	}
	r.v.Acked, r.v.Lost = report.Acked, len(report.Lost)
	if len(report.Lost) > 0 || report.Unknown > 0 || report.FailedFound > 0 || report.Acked == 0 {
		r.wrong("the meter: %s", report)
	}
	if err := r.s.equal(wait); err != nil {
		r.wrong("replica equality: %v", err)
		return
	}
	holder := r.s.q.Open(wait)
	if holder == "" {
		r.wrong("nobody is open after all")
		return
	}
	for _, k := range []struct {
		what string
		rows []meter.Row
		sql  string
	}{
		{"the writers' rows", d.m.History(), "SELECT n FROM meter WHERE run = '" + d.m.Run() + "'"},
		{"the prober's rows", rows, "SELECT n FROM probe"},
	} {
		there, err := r.numbers(wait, holder, k.sql)
		if err == nil {
			err = check.Set(k.rows, there)
		}
		if err != nil {
			r.wrong("%s: %v", k.what, err)
		}
	}
	if r.c.Fault == Postmaster {
		for _, at := range r.at {
			ops = check.Without(ops, d.regs.Since(at), dying)
		}
	}
	r.last(wait, holder, &ops)
	for _, err := range []error{check.Registers(ops), check.OneWriter(writes)} {
		if err != nil {
			r.wrong("%v", err)
		}
	}
}

// dying is longer than backends take to notice that their postmaster was killed. One that waits for its standbys then waits no longer, which its client is
// never told: for that moment the others read a commit that may not come again (SyncRepWaitForLSN and its WL_POSTMASTER_DEATH).
const dying = 500 * time.Millisecond

func (r *cell) numbers(ctx context.Context, node, sql string) ([]int64, error) {
	out, err := r.s.q.PG.SQL(ctx, node, sql)
	if err != nil {
		return nil, err
	}
	var all []int64
	for _, f := range strings.Fields(out) {
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			return nil, err
		}
		all = append(all, n)
	}
	return all, nil
}

// last adds a reading of every register at the very end: an acknowledged addition must still be in it.
func (r *cell) last(ctx context.Context, node string, ops *[]meter.RegisterOp) {
	end := time.Duration(0)
	for _, op := range *ops {
		end = max(end, op.Return)
	}
	for k := range keys {
		v, err := r.numbers(ctx, node, fmt.Sprintf("SELECT v FROM register WHERE run = '%s' AND k = %d", r.load.regs.Run(), k))
		if err != nil || len(v) != 1 {
			r.wrong("read register %d: %v %v", k, v, err)
			continue
		}
		*ops = append(*ops, meter.RegisterOp{Client: clients, Key: k, Read: true, Call: end + 1, Return: end + 2, Value: v[0], Known: true})
	}
}

// Recover makes a site usable after a cell that failed; an error says that it is not.
func (s *Site) Recover(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, wholeTime)
	defer cancel()
	if err := s.repairAll(ctx); err != nil {
		return err
	}
	if err := s.q.Voters(ctx); err != nil {
		return err
	}
	_, err := s.q.Whole(ctx)
	return err
}
