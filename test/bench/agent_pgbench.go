package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"pgvrrp/test/lab"
)

// pgbench's load: short transactions that update a row of their own, so that what is measured is commits and not a queue for one row. All pages are
// written within the time to warm up: after a checkpoint the first change of each goes to the WAL as the whole page (full_page_writes), whoever is
// slower has those in fewer transactions, and would look slower still.
const (
	overheadClients = 8
	overheadScale   = 2
	overheadWarm    = 3 // seconds
)

// pgbench runs PostgreSQL's benchmark on the client, through the address.
func (t *trio) pgbench(ctx context.Context, args ...string) (string, error) {
	argv := append([]string{filepath.Join(t.pg.BinDir, "pgbench"), "-h", lab.VIP(1).String(), "-p", strconv.Itoa(t.pg.Port), "-U", "app"}, args...)
	res, err := t.l.Client().Run(ctx, append(argv, "meter")...)
	return res.Stdout + res.Stderr, err
}

func (t *trio) pgbenchInit(ctx context.Context) error {
	_, err := t.pgbench(ctx, "-i", "-q", "-s", strconv.Itoa(overheadScale))
	return err
}

var (
	pgbenchTPS    = regexp.MustCompile(`(?m)^tps = ([0-9.]+) \(without`)
	pgbenchFailed = regexp.MustCompile(`(?m)^number of failed transactions: ([0-9]+)`)
	pgbenchDone   = regexp.MustCompile(`(?m)^number of transactions actually processed: ([0-9]+)`)
)

// load runs pgbench for some seconds and returns transactions in all and per second. One that failed is an error.
func (t *trio) load(ctx context.Context, clients, seconds int) (done int, tps float64, err error) {
	ctx, cancel := context.WithTimeout(ctx, time.Duration(seconds)*time.Second+healTime)
	defer cancel()
	out, err := t.pgbench(ctx, "-n", "-N", "-M", "prepared", "-c", strconv.Itoa(clients), "-j", strconv.Itoa(min(clients, 2)), "-T", strconv.Itoa(seconds))
	if err != nil {
		return 0, 0, err
	}
	a, b, c := pgbenchTPS.FindStringSubmatch(out), pgbenchFailed.FindStringSubmatch(out), pgbenchDone.FindStringSubmatch(out)
	if a == nil || c == nil || b == nil && t.pg.Version >= 15 {
		return 0, 0, fmt.Errorf("read what pgbench says: %s", out)
	}
	if b != nil && b[1] != "0" || strings.Contains(out, "aborted") {
		return 0, 0, fmt.Errorf("pgbench: transactions failed: %s", out)
	}
	if done, err = strconv.Atoi(c[1]); err == nil {
		tps, err = strconv.ParseFloat(a[1], 64)
	}
	return done, tps, err
}

// witnesses: a standby is dead and out of the rule, then every witness goes while pgbench runs. No transaction may fail.
func (t *trio) witnesses(ctx context.Context, seconds int) error {
	holder, err := t.whole(ctx)
	if err != nil {
		return err
	}
	if err := t.pgbenchInit(ctx); err != nil {
		return err
	}
	gone := standbys(holder)[1]
	if _, err := t.l.PowerLoss(ctx, gone); err != nil {
		return err
	}
	if now, err := t.whole(ctx, gone); err != nil || now != holder {
		return errors.Join(fmt.Errorf("%s lost its power: the holder was %s and is %q", gone, holder, now), err)
	}
	before, err := t.Status(ctx, holder)
	if err != nil {
		return err
	}
	done := 0
	var g errgroup.Group
	g.Go(func() error {
		var err error
		done, _, err = t.load(ctx, overheadClients, seconds)
		return err
	})
	lossErr := pause(ctx, time.Second)
	if lossErr == nil {
		_, lossErr = t.l.PowerLoss(ctx, councilWitness...)
	}
	if err := errors.Join(lossErr, g.Wait()); err != nil {
		return err
	}
	after, err := t.Status(ctx, holder)
	if err != nil {
		return err
	}
	if after.Resource.Epoch != before.Resource.Epoch || !after.Open {
		return fmt.Errorf("epoch %d by %s became %d by %q, open %t: %s", before.Resource.Epoch, holder, after.Resource.Epoch, after.Resource.Holder, after.Open, strings.Join(after.Explain, "; "))
	}
	fmt.Printf("  %s dead and out of the rule, then %s lose their power while pgbench runs: %d transactions, 0 failed, epoch %d goes on\n",
		gone, strings.Join(councilWitness, " and "), done, after.Resource.Epoch)
	if err := t.boot(ctx, append([]string{gone}, councilWitness...)...); err != nil {
		return err
	}
	_, err = t.whole(ctx)
	return err
}

// overhead measures what pgbench does through the address with and without vrrpd and the agents. Without means: the same servers, which
// run on with the same sessions' settings and the same synchronous_standby_names, on the same hosts; every vrrpd and every agent is
// killed, the witnesses' too, the guard is opened and the address is put on the primary's interface by hand.
func overhead(ctx context.Context, s settings) (err error) {
	t, err := newTrio(ctx, s)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, t.close(s, err)) }()
	if err := t.pgbenchInit(ctx); err != nil {
		return err
	}
	counts := []int{1, overheadClients} // one leaves the processors idle while it waits for a commit, eight don't
	if s.clients != 0 {
		counts = []int{s.clients}
	}
	for _, clients := range counts {
		if err := t.overheadOf(ctx, s, clients); err != nil {
			return fmt.Errorf("%d clients: %w", clients, err)
		}
	}
	fmt.Println("    all five hosts and pgbench share this machine's processors: on machines of their own, only the primary's own daemons take from it")
	return nil
}

func (t *trio) overheadOf(ctx context.Context, s settings, clients int) error {
	seconds, pairs := s.orSeconds(8), s.orRuns(7)
	if _, _, err := t.load(ctx, clients, overheadWarm); err != nil { // what is read for the first time
		return err
	}
	before := lab.ReadLoad()
	var with, without, ratio series
	var names string
	used := costs{}
	measure := func(daemons bool) error {
		holder, err := t.whole(ctx)
		if err != nil {
			return err
		}
		if err := t.steady(ctx, holder); err != nil {
			return err
		}
		if !daemons {
			if err := t.alone(ctx, holder); err != nil {
				return err
			}
		}
		// Both begin with as much left to do for the next checkpoint.
		text, err := t.pg.SQL(ctx, holder, "CHECKPOINT; SHOW synchronous_standby_names")
		if err != nil {
			return err
		}
		if names = text; strings.Count(text, "n") < 2 || strings.Contains(text, "pgnotify_hold") {
			return fmt.Errorf("%s: synchronous_standby_names is %q, want both standbys", holder, text)
		}
		if _, _, err := t.load(ctx, clients, overheadWarm); err != nil {
			return err
		}
		var before costs
		if daemons {
			if before, err = t.costs(ctx, holder); err != nil {
				return err
			}
		}
		_, tps, err := t.load(ctx, clients, seconds)
		if err != nil {
			return err
		}
		if daemons {
			after, err := t.costs(ctx, holder)
			if err != nil {
				return err
			}
			used.add(before, after)
			with = append(with, tps)
			return nil
		}
		without = append(without, tps)
		return t.Start(ctx, t.l.Names("client")...)
	}
	for n := range pairs {
		// Which one is first changes, so that a machine that gets faster or slower favours neither.
		for _, daemons := range []bool{n%2 == 0, n%2 != 0} {
			if err := measure(daemons); err != nil {
				return fmt.Errorf("pair %d: %w", n+1, err)
			}
		}
		ratio = append(ratio, 100*with[n]/without[n])
	}
	low, high, level := medianInterval(ratio)
	fmt.Printf("  pgbench -N, %d clients, scale %d, %d s each, %d interleaved pairs; %s; transactions per second\n    with      %s\n    without   %s\n",
		clients, overheadScale, seconds, pairs, names, with, without)
	fmt.Printf("    with/without: median %.1f %%, %.1f %% confidence %.1f to %.1f %%  (target: median >= 98)\n    %s\n", ratio.at(0.5), level, low, high, sinceLoad(before))
	fmt.Printf("    processor time while pgbench ran, in %% of one processor:")
	for _, what := range slices.Sorted(maps.Keys(used)) {
		fmt.Printf(" %s %.1f", what, 100*used[what].Seconds()/float64(seconds*pairs))
	}
	fmt.Println()
	return nil
}

// costs is processor time by what used it.
type costs map[string]time.Duration

func (c costs) add(before, after costs) {
	for what, d := range after {
		c[what] += d - before[what]
	}
}

// costs reads what the daemons have used, and what the agent's sessions have on the primary.
func (t *trio) costs(ctx context.Context, holder string) (costs, error) {
	c := costs{}
	add := func(what, host string, pid int) error {
		cpu, _, err := readProcess(ctx, t.l.Host(host), pid)
		c[what] += cpu
		return err
	}
	for _, h := range t.l.Hosts() {
		role := "standby's"
		switch {
		case h.Name() == holder:
			role = "primary's"
		case isWitness(h.Name()):
			role = "witness's"
		}
		for _, name := range []string{"vrrpd", "agent"} {
			if p := h.Proc(name); p != nil {
				if err := add(role+" "+name, h.Name(), p.PID()); err != nil {
					return nil, err
				}
			}
		}
	}
	text, err := t.pg.SQL(ctx, holder, "SELECT pid FROM pg_stat_activity WHERE application_name = 'pgnotify'")
	if err != nil {
		return nil, err
	}
	for _, f := range strings.Fields(text) {
		pid, err := strconv.Atoi(f)
		if err == nil {
			err = add("primary's sessions of the agent", holder, pid)
		}
		if err != nil {
			return nil, err
		}
	}
	return c, nil
}

// steady waits until both standbys are in synchronous_standby_names and stay: what was started a moment ago takes them out and in again.
func (t *trio) steady(ctx context.Context, holder string) error {
	ctx, cancel := context.WithTimeout(ctx, healTime)
	defer cancel()
	inARow := 0
	return lab.Poll(ctx, 100*time.Millisecond, func() (bool, string, error) {
		names, err := t.pg.SQL(ctx, holder, "SHOW synchronous_standby_names")
		if inARow++; strings.Count(names, "n") != 2 {
			inARow = 0
		}
		return inARow == 5, fmt.Sprintf("%s: synchronous_standby_names is %q, want both standbys", holder, names), err
	})
}

// alone takes every daemon away and leaves PostgreSQL and the address where they are.
func (t *trio) alone(ctx context.Context, holder string) error {
	for _, h := range t.l.Hosts() {
		for _, name := range []string{"agent", "vrrpd"} {
			p := h.Proc(name)
			if p == nil || !p.Running() {
				continue
			}
			if err := h.Kill(ctx, name, syscall.SIGKILL); err != nil {
				return err
			}
			var exit *lab.ExitError
			if _, err := p.Wait(ctx); err != nil && !errors.As(err, &exit) {
				return err
			}
		}
	}
	h := t.l.Host(holder)
	if _, err := h.Run(ctx, "/usr/sbin/vrrpd", "cleanup", "-f", councilConf); err != nil {
		return err
	}
	_, err := h.Run(ctx, "/usr/sbin/ip", "address", "replace", lab.VIP(1).String()+"/24", "dev", "eth0")
	return err
}

// medianInterval is the narrowest interval between two of the figures that has the median in it with 95 %, and with how much it has;
// no distribution is assumed. Fewer than six figures have none: then it is from the least to the greatest.
func medianInterval(s series) (low, high, level float64) {
	sorted := slices.Clone(s)
	slices.Sort(sorted)
	n := len(sorted)
	// Below the k-th figure (from 0) lies the median if at most k of n fair coins show heads.
	tail, term := 0.0, 1.0
	for range n {
		term /= 2
	}
	best := 0
	for k := range n / 2 {
		tail += term
		term *= float64(n-k) / float64(k+1)
		if k == 0 || 1-2*tail >= 0.95 {
			best, level = k, 100*(1-2*tail)
		}
	}
	return sorted[best], sorted[n-1-best], level
}
