package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"syscall"
	"time"

	"pgvrrp/internal/agent"
	"pgvrrp/test/lab"
	"pgvrrp/test/lab/meter"
)

// fault is what happens to the cluster while clients write.
type fault struct {
	name, target string
	// do makes it happen and returns how it is mended; nil: it mends itself.
	do func(ctx context.Context, t *trio, holder string) (mend func(context.Context) error, err error)
	// commit: the figure is the longest commit, not the longest stretch without any.
	commit bool
	// through: the figure goes on until the cluster is whole again.
	through bool
}

// outages in the order in which they are measured.
var outages = []fault{
	{name: "power loss of the primary: no commit for", target: "p50 <= 700, max <= 1200", do: losePrimary},
	{name: "kill -9 of the postmaster: no commit for", target: "p50 <= 200, max <= 500", do: killPostmaster},
	{name: "switchover: no commit for", target: "p50 <= 150", do: switchOver},
	{name: "power loss of a synchronous standby: longest commit", target: "max <= 400", do: loseStandby, commit: true},
}

func losePrimary(ctx context.Context, t *trio, holder string) (func(context.Context) error, error) {
	_, err := t.l.PowerLoss(ctx, holder)
	return func(ctx context.Context) error { return t.boot(ctx, holder) }, err
}

func killPostmaster(ctx context.Context, t *trio, holder string) (func(context.Context) error, error) {
	pid, err := t.pg.PID(holder)
	if err != nil {
		return nil, err
	}
	return nil, t.l.Host(holder).Signal(ctx, pid, syscall.SIGKILL)
}

func switchOver(ctx context.Context, t *trio, holder string) (func(context.Context) error, error) {
	return nil, t.order(ctx, holder, "switchover", agent.Request{})
}

func loseStandby(ctx context.Context, t *trio, holder string) (func(context.Context) error, error) {
	all := standbys(holder)
	gone := all[rand.N(len(all))]
	_, err := t.l.PowerLoss(ctx, gone)
	return func(ctx context.Context) error { return t.boot(ctx, gone) }, err
}

func stopStandby(ctx context.Context, t *trio, holder string) (func(context.Context) error, error) {
	all := standbys(holder)
	gone := all[rand.N(len(all))]
	err := t.order(ctx, gone, "stop", agent.Request{})
	return func(ctx context.Context) error {
		return t.order(ctx, gone, "start", agent.Request{})
	}, err
}

// agents measures what clients of the address notice when something happens to the cluster, each time from a cluster that is whole to one
// that has become so by itself with every acknowledged commit.
func agents(ctx context.Context, s settings) (err error) {
	t, err := newTrio(ctx, s)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, t.close(s, err)) }()
	runs := s.orRuns(30)
	for _, f := range outages {
		if !s.wants(f.name) {
			continue
		}
		var all series
		var slowest time.Time
		before, began := lab.ReadLoad(), time.Now()
		for n := range runs {
			o, err := t.once(ctx, f)
			if err != nil {
				return fmt.Errorf("%s, run %d: %w", f.name, n+1, err)
			}
			if len(all) == 0 || o.ms > all.at(1) {
				slowest = o.at
			}
			all = append(all, o.ms)
			if s.logs != "" {
				fmt.Printf("    %s %.0f ms %s\n", o.at.Format("15:04:05.000"), o.ms, strings.Join(o.why, "; "))
			}
		}
		fmt.Printf("  %s, %d runs, in ms\n    %s  (target: %s)\n    slowest at %s; %s; %.1f s each, lost 0\n", f.name, runs, all, f.target, slowest.Format("15:04:05.000"), sinceLoad(before),
			time.Since(began).Seconds()/float64(runs))
	}
	if s.wants("planned stop") {
		if err := t.planned(ctx, runs); err != nil {
			return fmt.Errorf("planned stop of a standby: %w", err)
		}
	}
	if s.wants("witnesses") {
		if err := t.witnesses(ctx, s.orSeconds(4)); err != nil {
			return fmt.Errorf("witnesses killed: %w", err)
		}
	}
	return nil
}

// sinceLoad says how busy the machine was.
func sinceLoad(before lab.Load) string {
	after := lab.ReadLoad()
	return fmt.Sprintf("%s, %.1f %% of the time some task waited for a processor", after, after.StalledSince(before))
}

// outage is one figure, and when it happened.
type outage struct {
	ms  float64
	at  time.Time
	why []string // what the clients were told
}

const (
	benchWriters  = 4
	benchInterval = 5 * time.Millisecond
	calm          = 500 * time.Millisecond  // of writing before the fault
	aftermath     = 1500 * time.Millisecond // of writing that is looked at after it
)

// once makes one fault happen. The commits of 0.5 s before and 1.5 s after it are looked at.
func (t *trio) once(ctx context.Context, f fault) (o outage, err error) {
	holder, err := t.whole(ctx)
	if err != nil {
		return o, err
	}
	m, err := t.meter(ctx, benchWriters, benchInterval)
	if err != nil {
		return o, err
	}
	defer m.Stop(ctx)
	// Leases, adverts and looks are in another phase each time.
	if err := pause(ctx, calm+rand.N(200*time.Millisecond)); err != nil {
		return o, err
	}
	o.at = m.Mark(f.name)
	mend, err := f.do(ctx, t, holder)
	if err != nil {
		return o, err
	}
	if err := waitAck(ctx, m, o.at.Add(aftermath)); err != nil {
		return o, err
	}
	if !f.through {
		m.Stop(ctx)
	}
	if mend != nil {
		if err := mend(ctx); err != nil {
			return o, err
		}
	}
	if _, err := t.whole(ctx); err != nil {
		return o, err
	}
	r, err := proved(ctx, m)
	if err != nil {
		return o, err
	}
	longest := r.MaxLatency
	if !f.commit {
		worst := longestOutage(r, o.at)
		longest, o.why = worst.Duration, worst.Reasons
	}
	o.ms = float64(longest) / float64(time.Millisecond)
	return o, nil
}

// longestOutage is the longest stretch without a commit that ended after a time.
func longestOutage(r meter.Report, since time.Time) (worst meter.Outage) {
	for _, o := range r.Outages {
		if o.End.After(since) && o.Duration > worst.Duration {
			worst = o
		}
	}
	return worst
}

// planned compares the longest commit while a standby is stopped and started by an operator with that of a run as long in which nothing
// happens. The two take turns.
func (t *trio) planned(ctx context.Context, runs int) error {
	f := fault{name: "planned stop and return of a standby", do: stopStandby, commit: true, through: true}
	var stops, quiet, above series
	before := lab.ReadLoad()
	for n := range runs {
		began := time.Now()
		o, err := t.once(ctx, f)
		if err != nil {
			return fmt.Errorf("run %d: %w", n+1, err)
		}
		length := time.Since(began)
		still := fault{name: "nothing", commit: true, do: func(ctx context.Context, _ *trio, _ string) (func(context.Context) error, error) {
			return nil, pause(ctx, max(length-calm-aftermath, 0))
		}}
		q, err := t.once(ctx, still)
		if err != nil {
			return fmt.Errorf("undisturbed run %d: %w", n+1, err)
		}
		stops, quiet, above = append(stops, o.ms), append(quiet, q.ms), append(above, o.ms-q.ms)
	}
	fmt.Printf("  %s: longest commit, %d pairs of runs, in ms\n    with      %s\n    without   %s\n    above     %s  (target: the longest of all with at most 30 above the longest of all without: %.2f)\n    %s; lost 0\n",
		f.name, runs, stops, quiet, above, stops.at(1)-quiet.at(1), sinceLoad(before))
	return nil
}
