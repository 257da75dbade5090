package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"

	"pgvrrp/internal/agent"
	"pgvrrp/test/lab"
	"pgvrrp/test/lab/meter"
)

// disaster is a fault that the cluster must get over by itself. r decides on what is random in it.
type disaster struct {
	name string
	do   func(ctx context.Context, t *trio, r *rand.Rand, holder string) (mend func(context.Context) error, err error)
	// all: nobody is left, so that commits go on only once it is mended.
	all bool
}

// away is for how long what can be mended stays so: more than a lease, and than the silence that an agent is granted.
const away = 2500 * time.Millisecond

// disasters are all that the lab can do to a cluster that has to survive it.
var disasters = []disaster{
	{name: "power loss of the primary", do: func(ctx context.Context, t *trio, _ *rand.Rand, holder string) (func(context.Context) error, error) {
		return t.lose(ctx, holder)
	}},
	{name: "power loss of the primary and a standby at once", do: func(ctx context.Context, t *trio, r *rand.Rand, holder string) (func(context.Context) error, error) {
		return t.lose(ctx, holder, anyOf(r, standbys(holder)))
	}},
	{name: "power loss of both standbys at once", do: func(ctx context.Context, t *trio, _ *rand.Rand, holder string) (func(context.Context) error, error) {
		return t.lose(ctx, standbys(holder)...)
	}},
	{name: "power loss of the primary and a witness at once", do: func(ctx context.Context, t *trio, r *rand.Rand, holder string) (func(context.Context) error, error) {
		return t.lose(ctx, holder, anyOf(r, councilWitness))
	}},
	{name: "power loss of the primary, then of its successor", do: func(ctx context.Context, t *trio, r *rand.Rand, holder string) (func(context.Context) error, error) {
		first, err := t.lose(ctx, holder)
		if err != nil {
			return nil, err
		}
		next, err := t.successor(ctx, holder)
		if err != nil {
			return nil, err
		}
		if err := pause(ctx, time.Duration(r.IntN(2000))*time.Millisecond); err != nil {
			return nil, err
		}
		second, err := t.lose(ctx, next)
		return func(ctx context.Context) error { return errors.Join(first(ctx), second(ctx)) }, err
	}},
	{name: "power loss of everything, back in any order", all: true, do: func(ctx context.Context, t *trio, r *rand.Rand, _ string) (func(context.Context) error, error) {
		names := slices.Concat(councilData, councilWitness)
		r.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
		if _, err := t.l.PowerLoss(ctx, names...); err != nil {
			return nil, err
		}
		return func(ctx context.Context) error {
			for _, n := range names {
				if err := t.boot(ctx, n); err != nil {
					return err
				}
				if err := pause(ctx, 200*time.Millisecond); err != nil {
					return err
				}
			}
			return nil
		}, nil
	}},
	{name: "kill -9 of the postmaster", do: func(ctx context.Context, t *trio, _ *rand.Rand, holder string) (func(context.Context) error, error) {
		return killPostmaster(ctx, t, holder)
	}},
	{name: "kill -9 of the primary's checkpointer", do: func(ctx context.Context, t *trio, _ *rand.Rand, holder string) (func(context.Context) error, error) {
		text, err := t.pg.SQL(ctx, holder, "SELECT pid FROM pg_stat_activity WHERE backend_type = 'checkpointer'")
		if err != nil {
			return nil, err
		}
		var pid int
		if _, err := fmt.Sscan(text, &pid); err != nil {
			return nil, err
		}
		return nil, t.l.Host(holder).Signal(ctx, pid, syscall.SIGKILL)
	}},
	{name: "kill -9 of the primary's vrrpd", do: func(ctx context.Context, t *trio, _ *rand.Rand, holder string) (func(context.Context) error, error) {
		return t.killDaemons(ctx, holder, "vrrpd")
	}},
	{name: "kill -9 of the primary's agent", do: func(ctx context.Context, t *trio, _ *rand.Rand, holder string) (func(context.Context) error, error) {
		return t.killDaemons(ctx, holder, "agent")
	}},
	{name: "kill -9 of the primary's vrrpd, agent and postmaster", do: func(ctx context.Context, t *trio, _ *rand.Rand, holder string) (func(context.Context) error, error) {
		mend, err := t.killDaemons(ctx, holder, "vrrpd", "agent")
		if err != nil {
			return nil, err
		}
		_, err = killPostmaster(ctx, t, holder)
		return mend, err
	}},
	{name: "the primary's vrrpd stands still", do: func(ctx context.Context, t *trio, _ *rand.Rand, holder string) (func(context.Context) error, error) {
		h := t.l.Host(holder)
		return func(ctx context.Context) error { return h.Kill(ctx, "vrrpd", syscall.SIGCONT) }, h.Kill(ctx, "vrrpd", syscall.SIGSTOP)
	}},
	{name: "the primary's host stands still", do: func(ctx context.Context, t *trio, _ *rand.Rand, holder string) (func(context.Context) error, error) {
		h := t.l.Host(holder)
		return h.Resume, h.Pause(ctx)
	}},
	{name: "both cables of the primary pulled", do: func(_ context.Context, t *trio, _ *rand.Rand, holder string) (func(context.Context) error, error) {
		h := t.l.Host(holder)
		return func(context.Context) error { return h.HealLinks() }, h.CutLinks()
	}},
	{name: "the primary cut off in silence", do: func(_ context.Context, t *trio, _ *rand.Rand, holder string) (func(context.Context) error, error) {
		return func(context.Context) error { return t.l.Heal() }, t.l.Isolate([]string{holder})
	}},
	{name: "the primary and a witness cut off", do: func(_ context.Context, t *trio, r *rand.Rand, holder string) (func(context.Context) error, error) {
		return func(context.Context) error { return t.l.Heal() }, t.l.Isolate([]string{holder, anyOf(r, councilWitness)})
	}},
	{name: "nothing arrives that the primary sends", do: func(_ context.Context, t *trio, _ *rand.Rand, holder string) (func(context.Context) error, error) {
		return func(context.Context) error { return t.l.Heal() }, t.l.CutOneWay([]string{holder}, t.l.Names(holder))
	}},
	{name: "switchover", do: func(ctx context.Context, t *trio, r *rand.Rand, holder string) (func(context.Context) error, error) {
		return nil, t.order(ctx, holder, "switchover", agent.Request{To: anyOf(r, standbys(holder))})
	}},
	{name: "switchover while a standby loses its power", do: func(ctx context.Context, t *trio, r *rand.Rand, holder string) (func(context.Context) error, error) {
		done := make(chan struct{})
		go func() {
			defer close(done)
			_ = t.order(ctx, holder, "switchover", agent.Request{}) // it may be aborted; the commits tell what counts
		}()
		if err := pause(ctx, time.Duration(r.IntN(150))*time.Millisecond); err != nil {
			return nil, err
		}
		mend, err := t.lose(ctx, anyOf(r, standbys(holder)))
		<-done
		return mend, err
	}},
}

func anyOf(r *rand.Rand, all []string) string { return all[r.IntN(len(all))] }

// lose takes the power of hosts away; mending gives it back.
func (t *trio) lose(ctx context.Context, names ...string) (func(context.Context) error, error) {
	_, err := t.l.PowerLoss(ctx, names...)
	return func(ctx context.Context) error { return t.boot(ctx, names...) }, err
}

// killDaemons kills programs of a host; mending starts them again, as their units would.
func (t *trio) killDaemons(ctx context.Context, host string, names ...string) (func(context.Context) error, error) {
	h := t.l.Host(host)
	for _, n := range names {
		if err := h.Kill(ctx, n, syscall.SIGKILL); err != nil {
			return nil, err
		}
	}
	return func(ctx context.Context) error {
		for _, n := range names {
			var exit *lab.ExitError
			if _, err := h.Proc(n).Wait(ctx); err != nil && !errors.As(err, &exit) {
				return err
			}
		}
		return t.Start(ctx, host)
	}, nil
}

// successor waits until another node is the active holder and open.
func (t *trio) successor(ctx context.Context, old string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, healTime)
	defer cancel()
	next := ""
	err := lab.Poll(ctx, 20*time.Millisecond, func() (bool, string, error) {
		last := "nobody is open"
		for _, n := range standbys(old) {
			s, err := t.Status(ctx, n)
			if err != nil {
				last = err.Error()
			} else if s.Open {
				next = n
				return true, "", nil
			}
		}
		return false, last, nil
	})
	return next, err
}

// Load and bookkeeping of the soak.
const (
	soakWriters  = 8
	soakInterval = 10 * time.Millisecond
	soakBlock    = 10 // failovers that one meter sees
)

// soak makes random failovers one after the other, under load, and fails when one needs a hand, when an acknowledged commit is lost, or
// when a data directory is copied that a rewind would have brought back.
func soak(ctx context.Context, s settings) (err error) {
	seed := s.seed
	if seed == 0 {
		seed = rand.Uint64()>>1 + 1
	}
	runs := s.orRuns(200)
	fmt.Printf("  %d failovers, seed %d (-seed makes the same ones again)\n", runs, seed)
	r := rand.New(rand.NewPCG(seed, 0))
	t, err := newTrio(ctx, s)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, t.close(s, err)) }()
	k := &keeper{t: t, read: map[string]int64{}}
	if _, err := k.news(); err != nil {
		return err
	}
	k.copies = 0 // two empty hosts have joined
	var readers []*meter.Reader
	for _, n := range councilData {
		x, err := meter.StartReader(ctx, meter.ReaderConfig{Name: n, Conninfo: t.pg.MeterConninfo(t.l.Host(n).Addr(lab.LAN).String()), Dial: t.l.Client().Dial})
		if err != nil {
			return err
		}
		defer x.Stop()
		readers = append(readers, x)
	}
	before, began := lab.ReadLoad(), time.Now()
	var meters []*meter.Meter
	var out, healed series
	for n := range runs {
		if n%soakBlock == 0 {
			if err := t.checked(ctx, meters); err != nil {
				return fmt.Errorf("seed %d, before failover %d: %w", seed, n+1, err)
			}
			m, err := t.meter(ctx, soakWriters, soakInterval)
			if err != nil {
				return err
			}
			defer m.Stop(ctx)
			meters = append(meters, m)
		}
		// A bag that is emptied before anything comes twice: short runs see much, long ones everything.
		if n%len(disasters) == 0 {
			r.Shuffle(len(disasters), func(i, j int) { disasters[i], disasters[j] = disasters[j], disasters[i] })
		}
		d := disasters[n%len(disasters)]
		x, err := t.fail(ctx, meters[len(meters)-1], d, r)
		news, newsErr := k.news()
		if err = errors.Join(err, newsErr); err != nil {
			return fmt.Errorf("seed %d, failover %d, %s: %w; %s", seed, n+1, d.name, err, strings.Join(news, "; "))
		}
		fmt.Printf("  %3d %s: %s, no commit for %.0f ms, whole %.1f s after it was mended%s\n", n+1, d.name, x.holders, x.out, x.healed, strings.Join(append([]string{""}, news...), "; "))
		out, healed = append(out, x.out), append(healed, x.healed)
	}
	if err := t.checked(ctx, meters); err != nil {
		return fmt.Errorf("seed %d: %w", seed, err)
	}
	acked := 0
	for _, m := range meters {
		acked += m.Acked()
	}
	fmt.Printf("  no commit for, in ms: %s; whole again after, in s: %s\n", out, healed)
	for _, x := range readers {
		rep := x.Stop()
		fmt.Printf("  SELECT on %s: %d reads, %d times away\n", rep.Name, rep.Reads, len(rep.Reconnects)+len(rep.Failures))
		if rep.Reads == 0 {
			return fmt.Errorf("seed %d: nothing was read on %s", seed, rep.Name)
		}
	}
	fmt.Printf("  %d failovers in %.0f s, seed %d: 0 manual steps, %d acknowledged and 0 lost, %d rewinds, %d copies after a rewind that could not be finished, %d where one sufficed; %s\n",
		runs, time.Since(began).Seconds(), seed, acked, k.rewinds, k.copies-k.needless, k.needless, sinceLoad(before))
	if k.needless > 0 {
		return fmt.Errorf("seed %d: %d data directories were copied where a rewind sufficed", seed, k.needless)
	}
	return nil
}

// checked looks whether every row that a meter was told to be committed is there now: those of meters of long ago, too.
func (t *trio) checked(ctx context.Context, meters []*meter.Meter) error {
	for _, m := range meters {
		if _, err := proved(ctx, m); err != nil {
			return err
		}
	}
	return nil
}

// survived is what one failover came to.
type survived struct {
	holders     string
	out, healed float64 // ms without a commit; s from the mending until the cluster was whole
}

// fail makes one disaster happen to a cluster that is whole, and waits until it is so again.
func (t *trio) fail(ctx context.Context, m *meter.Meter, d disaster, r *rand.Rand) (x survived, err error) {
	holder, err := t.whole(ctx)
	if err != nil {
		return x, err
	}
	if err := pause(ctx, time.Duration(100+r.IntN(200))*time.Millisecond); err != nil {
		return x, err
	}
	at := m.Mark(d.name)
	mend, err := d.do(ctx, t, r, holder)
	if err != nil {
		return x, err
	}
	fault := time.Now()
	if !d.all {
		if err := waitAck(ctx, m, fault.Add(time.Second)); err != nil {
			return x, err
		}
	}
	if mend != nil {
		if err := pause(ctx, time.Until(fault.Add(away))); err != nil {
			return x, err
		}
		if err := mend(ctx); err != nil {
			return x, err
		}
	}
	mended := time.Now()
	next, err := t.whole(ctx)
	if err != nil {
		return x, err
	}
	x.healed = time.Since(mended).Seconds()
	if err := waitAck(ctx, m, time.Now()); err != nil {
		return x, err
	}
	for _, o := range m.Outages() {
		if o.End.After(at) {
			x.out = max(x.out, float64(o.Duration)/float64(time.Millisecond))
		}
	}
	s, err := t.Status(ctx, next)
	x.holders = fmt.Sprintf("%s -> %s, epoch %d", holder, next, s.Resource.Epoch)
	return x, err
}

// keeper reads in the agents' logs how each server came back.
type keeper struct {
	t                         *trio
	read                      map[string]int64 // of each log
	rewinds, copies, needless int
}

var (
	rebuiltLine = regexp.MustCompile(`msg="the data directory is (rewound to|copied from) (\w+): (.*)"$`)
	failedLine  = regexp.MustCompile(`msg=failed act="rewind \w+" reason="?(.*?)"? took=`)
)

// unfinished is the ladder's reason for a copy after a rewind or a copy that something ended, and missing that for an empty place.
const (
	unfinished = "a rewind or a copy was not finished"
	missing    = "there is no data directory"
)

// news tells what data directories were made anew since the last call, and why.
func (k *keeper) news() (all []string, err error) {
	for _, n := range councilData {
		text, err := os.ReadFile(k.t.l.Host(n).Proc("agent").LogFile)
		if err != nil {
			return all, err
		}
		from := k.read[n]
		k.read[n] = int64(len(text))
		all = append(all, k.rebuilt(n, string(text[from:]))...)
	}
	return all, nil
}

// rebuilt counts in an agent's log. A copy is needless unless a rewind was tried before it and failed, or was cut short.
func (k *keeper) rebuilt(node, log string) (all []string) {
	failed := ""
	for line := range strings.Lines(log) {
		line = strings.TrimSpace(line)
		if f := failedLine.FindStringSubmatch(line); f != nil {
			failed = f[1]
			all = append(all, fmt.Sprintf("%s: rewind failed: %s", node, failed))
		}
		f := rebuiltLine.FindStringSubmatch(line)
		if f == nil {
			continue
		}
		all = append(all, fmt.Sprintf("%s %s %s (%s)", node, f[1], f[2], f[3]))
		switch {
		case f[1] == "rewound to":
			k.rewinds++
			continue
		case failed == "" && !strings.Contains(f[3], unfinished) && !strings.Contains(f[3], missing):
			k.needless++
			all = append(all, "a rewind sufficed")
		}
		k.copies++
	}
	return all
}
