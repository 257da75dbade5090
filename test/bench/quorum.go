package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"pgvrrp/internal/control"
	"pgvrrp/test/lab"
)

// council is three data nodes and two witnesses with one plain resource: what a takeover costs without what stands behind it.
type council struct {
	l     *lab.Lab
	probe *lab.Probe
}

const (
	councilConf = "/etc/vrrpd/vrrpd.conf"
	councilKey  = "/etc/vrrpd/quorum.key"
	councilVRID = 51
	resource    = "vip"
)

var (
	councilData    = []string{"n1", "n2", "n3"}
	councilWitness = []string{"w1", "w2"}
)

// quorum measures how long an address is away when its holder loses power, alone and together with the leader of the log, and
// when it stops; what a witness costs; and what four busy loops and pgbench do to the leases.
func quorum(ctx context.Context, s settings) error {
	c, err := newCouncil(ctx, s)
	if err != nil {
		return err
	}
	defer c.l.Close()
	runs := s.orRuns(50)
	for _, b := range []struct {
		name, target string
		one          func(context.Context) (float64, error)
	}{
		{"power loss of the holder -> the next answers", "p50 <= 650, max <= 1100", c.powerLoss},
		{"power loss of the holder and of the leader of the log -> the next answers", "max <= 1300", c.powerLossOfBoth},
		{"SIGTERM to the holder -> the next answers", "p50 <= 100", c.cleanStop},
	} {
		var all series
		before := lab.ReadLoad()
		for n := range runs {
			ms, err := b.one(ctx)
			if err != nil {
				return fmt.Errorf("%s, run %d: %w", b.name, n+1, err)
			}
			all = append(all, ms)
		}
		fmt.Printf("  %s, %d runs, in ms\n    %s  (target: %s); %s\n", b.name, runs, all, b.target, sinceLoad(before))
	}
	if err := c.witnessCost(ctx, s.orSeconds(20)); err != nil {
		return fmt.Errorf("cost of a witness: %w", err)
	}
	if err := c.underLoad(ctx, cmp.Or(s.load, time.Duration(s.orSeconds(60))*time.Second)); err != nil {
		return fmt.Errorf("under load: %w", err)
	}
	r, err := c.probe.Report()
	if err != nil {
		return err
	}
	fmt.Printf("  two hosts answered at once: %d times, of %d questions to each\n", len(r.Double), r.Questions)
	if len(r.Double) > 0 {
		return fmt.Errorf("two hosts answered at once: %+v", r.Double[:2])
	}
	return nil
}

func newCouncil(ctx context.Context, s settings) (_ *council, err error) {
	l, err := lab.New(ctx, lab.Options{Hosts: len(councilData), Extra: []lab.HostSpec{{Name: "w1", Index: 21}, {Name: "w2", Index: 22}},
		Programs: map[string]string{"/usr/sbin/vrrpd": filepath.Join(s.bin, "vrrpd")}})
	if err != nil {
		return nil, err
	}
	c := &council{l: l}
	defer func() {
		if err != nil {
			err = errors.Join(err, l.Close())
		}
	}()
	n1 := l.Host("n1")
	if err := n1.WriteFile(councilConf, []byte(c.config("n1")), 0o644); err != nil {
		return nil, err
	}
	if _, err := n1.Run(ctx, "/usr/sbin/vrrpd", "quorum", "keygen", councilKey); err != nil {
		return nil, err
	}
	key, err := n1.ReadFile(councilKey)
	if err != nil {
		return nil, err
	}
	for _, h := range l.Hosts() {
		if err := h.WriteFile(councilConf, []byte(c.config(h.Name())), 0o644); err != nil {
			return nil, err
		}
		if err := h.WriteFile(councilKey, key, 0o600); err != nil {
			return nil, err
		}
		if isWitness(h.Name()) {
			if _, err := h.Run(ctx, "/usr/bin/chown", "nobody", councilKey); err != nil {
				return nil, err
			}
		}
	}
	if c.probe, err = l.ProbeEach(lab.VIP(1), time.Millisecond, councilData...); err != nil {
		return nil, err
	}
	if err := c.start(ctx, c.all()...); err != nil {
		return nil, err
	}
	_, _, err = c.whole(ctx)
	return c, err
}

func isWitness(name string) bool { return slices.Contains(councilWitness, name) }

func (c *council) all() []string { return slices.Concat(councilData, councilWitness) }

func (c *council) config(name string) string {
	var b strings.Builder
	if k := slices.Index(councilData, name); k >= 0 {
		fmt.Fprintf(&b, `global_defs {
    vrrp_version 3
}
vrrp_instance VI_1 {
    state BACKUP
    nopreempt
    interface eth0
    virtual_router_id %d
    priority %d
    advert_int 0.1
    quorum %s
    virtual_ipaddress {
        %s/24
    }
}
`, councilVRID, 200-20*k, resource, lab.VIP(1))
	}
	b.WriteString("quorum {\n")
	for _, n := range c.all() {
		kind := "voter"
		if isWitness(n) {
			kind = "witness"
		}
		h := c.l.Host(n)
		fmt.Fprintf(&b, "    %s %s %s %s\n", kind, n, h.Addr(lab.Interconnect), h.Addr(lab.LAN))
	}
	fmt.Fprintf(&b, "    resource %s plain\n}\n", resource)
	return b.String()
}

// start runs vrrpd on hosts as units do: a witness has no privileges, but real-time scheduling, as a unit can give it.
func (c *council) start(ctx context.Context, names ...string) error {
	var g errgroup.Group
	for _, name := range names {
		g.Go(func() error {
			h, user := c.l.Host(name), "root"
			argv := []string{"/usr/sbin/vrrpd", "run", "-f", councilConf}
			if isWitness(name) {
				user = "nobody"
				argv = append([]string{"/usr/bin/chrt", "--rr", "50", "/usr/bin/setpriv", "--reuid=nobody", "--regid=65534", "--clear-groups", "--inh-caps=-all", "--no-new-privs"}, argv...)
			}
			for dir, mode := range map[string]string{filepath.Dir(control.DefaultSocket): "0755", "/var/lib/vrrpd": "0700"} {
				if _, err := h.Run(ctx, "/usr/bin/install", "-d", "-o", user, "-m", mode, dir); err != nil {
					return err
				}
			}
			_, err := h.Spawn(ctx, "vrrpd", argv...)
			return err
		})
	}
	return g.Wait()
}

func (c *council) status(ctx context.Context, name string) (control.Status, error) {
	var s control.Status
	client := http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return c.l.Host(name).Dial(ctx, "unix", control.DefaultSocket)
	}}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://vrrpd/v1/status", nil)
	if err != nil {
		return s, err
	}
	res, err := client.Do(req)
	if err != nil {
		return s, err
	}
	defer res.Body.Close()
	if err := json.NewDecoder(res.Body).Decode(&s); err != nil {
		return s, err
	}
	if s.Quorum == nil || len(s.Quorum.Resources) != 1 {
		return s, fmt.Errorf("%s says nothing of its quorum", name)
	}
	return s, nil
}

// whole waits until every voter counts and one node, which does not lead the log, holds the resource with the others in its rule.
func (c *council) whole(ctx context.Context) (holder, leader string, err error) {
	ctx, cancel := context.WithTimeout(ctx, 60*time.Second)
	defer cancel()
	err = lab.Poll(ctx, 10*time.Millisecond, func() (bool, string, error) {
		holder = ""
		for _, name := range c.all() {
			s, err := c.status(ctx, name)
			if err != nil {
				return false, err.Error(), nil //nolint:nilerr // it is asked again
			}
			q, r := s.Quorum, s.Quorum.Resources[0]
			for _, v := range q.Voters {
				if !v.Heard || !v.Member {
					return false, fmt.Sprintf("%s: voter %s heard %t, member %t", name, v.ID, v.Heard, v.Member), nil
				}
			}
			if r.Phase != "active" || len(r.Rule.S) != len(councilData)-1 || q.Leader == "" || q.Leader == r.Holder {
				return false, fmt.Sprintf("%s: %s by %s, rule %v, leader %q", name, r.Phase, r.Holder, r.Rule, q.Leader), nil
			}
			if name == r.Holder && r.Live {
				holder, leader = name, q.Leader
			}
		}
		last, ok := c.probe.Last(time.Time{}, "")
		return holder != "" && ok && last.Who() == holder, "nobody is live", nil
	})
	return holder, leader, err
}

// takeover waits for the first answer by another than the old holder, brings everything back, and returns how long it took.
func (c *council) takeover(ctx context.Context, at time.Time, old string, back func() error) (float64, error) {
	wait, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	a, err := c.probe.WaitForOther(wait, []string{old}, at)
	if err != nil {
		return 0, err
	}
	if err := back(); err != nil {
		return 0, err
	}
	holder, _, err := c.whole(ctx)
	if err == nil && holder != a.Who() {
		err = fmt.Errorf("%s answered first, %s holds", a.Who(), holder)
	}
	return float64(a.At.Sub(at)) / float64(time.Millisecond), err
}

// steady lets the phase of renewals be another one in each run.
func (c *council) steady(ctx context.Context) (holder, leader string, err error) {
	if err := pause(ctx, 300*time.Millisecond+rand.N(200*time.Millisecond)); err != nil {
		return "", "", err
	}
	return c.whole(ctx)
}

func (c *council) lose(ctx context.Context, old string, names ...string) (float64, error) {
	at, err := c.l.PowerLoss(ctx, names...)
	if err != nil {
		return 0, err
	}
	return c.takeover(ctx, at, old, func() error {
		var g errgroup.Group
		for _, name := range names {
			g.Go(func() error { return c.l.Host(name).Boot(ctx) })
		}
		if err := g.Wait(); err != nil {
			return err
		}
		return c.start(ctx, names...)
	})
}

func (c *council) powerLoss(ctx context.Context) (float64, error) {
	holder, _, err := c.steady(ctx)
	if err != nil {
		return 0, err
	}
	return c.lose(ctx, holder, holder)
}

func (c *council) powerLossOfBoth(ctx context.Context) (float64, error) {
	holder, leader, err := c.steady(ctx)
	if err != nil {
		return 0, err
	}
	return c.lose(ctx, holder, holder, leader)
}

func (c *council) cleanStop(ctx context.Context) (float64, error) {
	holder, _, err := c.steady(ctx)
	if err != nil {
		return 0, err
	}
	h := c.l.Host(holder)
	at := time.Now()
	if err := h.Kill(ctx, "vrrpd", syscall.SIGTERM); err != nil {
		return 0, err
	}
	return c.takeover(ctx, at, holder, func() error {
		if _, err := h.Proc("vrrpd").Wait(ctx); err != nil {
			return err
		}
		return c.start(ctx, holder)
	})
}

// witnessLeads has a witness lead the log: another that leads it is stopped, and gives it to one.
func (c *council) witnessLeads(ctx context.Context) error {
	for {
		_, leader, err := c.whole(ctx)
		if err != nil || isWitness(leader) {
			return err
		}
		h := c.l.Host(leader)
		if err := h.Kill(ctx, "vrrpd", syscall.SIGTERM); err != nil {
			return err
		}
		if _, err := h.Proc("vrrpd").Wait(ctx); err != nil {
			return err
		}
		if err := c.start(ctx, leader); err != nil {
			return err
		}
	}
}

// witnessCost is what the witnesses use while nothing happens: the one that leads the log, and the other.
func (c *council) witnessCost(ctx context.Context, seconds int) error {
	if err := c.witnessLeads(ctx); err != nil {
		return err
	}
	if err := pause(ctx, 2*time.Second); err != nil { // the start of the last is no part of it
		return err
	}
	before := lab.ReadLoad()
	from := map[string]time.Duration{}
	for _, name := range councilWitness {
		cpu, _, err := c.used(ctx, name)
		if err != nil {
			return err
		}
		from[name] = cpu
	}
	if err := pause(ctx, time.Duration(seconds)*time.Second); err != nil {
		return err
	}
	fmt.Printf("  a witness over %d s  (target: RSS <= 16 MiB, cpu <= 1 %%)\n", seconds)
	for _, name := range councilWitness {
		cpu, rss, err := c.used(ctx, name)
		if err != nil {
			return err
		}
		s, err := c.status(ctx, name)
		if err != nil {
			return err
		}
		role := "follows"
		if s.Quorum.Leader == name {
			role = "leads the log"
		}
		fmt.Printf("    %s, %s: RSS %.1f MiB, cpu %.2f %%\n", name, role, float64(rss)/1024, 100*(cpu-from[name]).Seconds()/float64(seconds))
	}
	fmt.Printf("    %s\n", sinceLoad(before))
	return nil
}

// used is the processor time and the resident memory, in KiB, of a host's vrrpd.
func (c *council) used(ctx context.Context, name string) (time.Duration, int, error) {
	h := c.l.Host(name)
	pid := h.Proc("vrrpd").PID()
	cpu, _, err := readProcess(ctx, h, pid)
	if err != nil {
		return 0, 0, err
	}
	text, err := h.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, 0, err
	}
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "VmRSS:" {
			rss, err := strconv.Atoi(f[1])
			return cpu, rss, err
		}
	}
	return 0, 0, fmt.Errorf("process %d on %s: no VmRSS", pid, name)
}

// busyLoops is how many run while leases must last, on however few processors.
const busyLoops = 4

// pgbench's part of the load: a small database, so that the processors are what is short.
const (
	pgbenchScale   = 2
	pgbenchClients = 4
)

// pgbench has the holder's host run a server and fills it through the virtual address. It returns the command line of the load.
func (c *council) pgbench(ctx context.Context, holder string, during time.Duration) ([]string, error) {
	pg, err := c.l.InitPostgres(ctx, lab.PostgresOptions{Primary: holder, Standbys: []string{},
		Settings: map[string]string{"wal_keep_size": "0", "max_wal_size": "128MB"}})
	if err != nil {
		return nil, err
	}
	to := []string{filepath.Join(pg.BinDir, "pgbench"), "-h", lab.VIP(1).String(), "-p", strconv.Itoa(pg.Port), "-U", "postgres"}
	if _, err := c.l.Client().Run(ctx, slices.Concat(to, []string{"-i", "-q", "-s", strconv.Itoa(pgbenchScale), "postgres"})...); err != nil {
		return nil, err
	}
	return slices.Concat(to, []string{"-n", "-c", strconv.Itoa(pgbenchClients), "-T", strconv.Itoa(int(during.Round(time.Second).Seconds())), "postgres"}), nil
}

// pgbenchSays are the lines of pgbench's report that matter.
func pgbenchSays(report string) string {
	var all []string
	for line := range strings.Lines(report) {
		for _, key := range []string{"number of transactions actually processed", "number of failed transactions", "latency average", "tps"} {
			if strings.HasPrefix(line, key) {
				all = append(all, strings.TrimSpace(line))
			}
		}
	}
	return strings.Join(all, ", ")
}

// underLoad counts what happens to leases and instances beside busy loops and a pgbench that goes to the virtual address: nothing should.
func (c *council) underLoad(ctx context.Context, during time.Duration) error {
	holder, _, err := c.whole(ctx)
	if err != nil {
		return err
	}
	argv, err := c.pgbench(ctx, holder, during)
	if err != nil {
		return err
	}
	if _, _, err := c.whole(ctx); err != nil {
		return err
	}
	count := func() (epoch uint64, transitions uint64, lost int, err error) {
		for _, name := range councilData {
			s, err := c.status(ctx, name)
			if err != nil {
				return 0, 0, 0, err
			}
			epoch = max(epoch, s.Quorum.Resources[0].Epoch)
			for _, i := range s.Instances {
				transitions += i.Seq
			}
			log, err := os.ReadFile(c.l.Host(name).Proc("vrrpd").LogFile)
			if err != nil {
				return 0, 0, 0, err
			}
			lost += strings.Count(string(log), `msg="lease over"`)
		}
		return epoch, transitions, lost, nil
	}
	epoch, transitions, lost, err := count()
	if err != nil {
		return err
	}
	client := c.l.Client()
	for k := range busyLoops {
		if _, err := client.Spawn(ctx, fmt.Sprintf("busy%d", k), "/bin/sh", "-c", "while :; do :; done"); err != nil {
			return err
		}
	}
	before := lab.ReadLoad()
	p, err := client.Spawn(ctx, "pgbench", argv...)
	if err == nil {
		// It ends by itself; a server that stops answering must not hold us for ever.
		wait, cancel := context.WithTimeout(ctx, during+30*time.Second)
		_, err = p.Wait(wait)
		cancel()
	}
	after := lab.ReadLoad()
	_, killErr := client.KillAll(context.WithoutCancel(ctx), "busy*", syscall.SIGKILL)
	if p != nil {
		report, readErr := os.ReadFile(p.LogFile)
		if err = errors.Join(err, readErr); err != nil {
			err = fmt.Errorf("pgbench: %w: %s", err, report[max(0, len(report)-1000):])
		}
		defer fmt.Printf("    pgbench with %d clients through the address: %s\n", pgbenchClients, pgbenchSays(string(report)))
	}
	if err = errors.Join(err, killErr); err != nil {
		return err
	}
	epoch2, transitions2, lost2, err := count()
	if err != nil {
		return err
	}
	longest := time.Duration(0)
	for _, g := range c.probe.Gaps(50 * time.Millisecond) {
		if g.First.After(before.At) {
			longest = max(longest, g.Last.Sub(g.First))
		}
	}
	fmt.Printf("  %d busy loops and pgbench for %s, advert_int 0.1: %d lost leases, %d grants, %d transitions  (target: 0, 0, 0)\n    longest silence of the address %d ms; %s, %.1f %% of the time some task waited for a processor\n",
		busyLoops, during, lost2-lost, epoch2-epoch, transitions2-transitions, longest.Milliseconds(), after, after.StalledSince(before))
	return nil
}
