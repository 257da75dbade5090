//go:build e2e

package e2e

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"pgvrrp/test/lab"
	"pgvrrp/test/lab/meter"
)

// Where pgnotify's files are inside hosts.
const (
	pgnotifyToml    = "/etc/pgnotify/pgnotify.toml"
	pgnotifyState   = "/var/lib/pgnotify"
	pgnotifyHistory = pgnotifyState + "/history.jsonl"
	pgnotifyLog     = "/var/log/postgresql/pgnotify.log"
	pgInstance      = "VI_PG"
)

// longPatience is for what copies data or waits for PostgreSQL's own timeouts.
const longPatience = 30 * time.Second

// serverStop is how long a fast stop may take: a walsender gives up on a dead standby after wal_sender_timeout.
const serverStop = 10 * time.Second

// site is a lab whose hosts run PostgreSQL, pgnotify and a VRRP daemon, all with the same files. t is the subtest that runs.
type site struct {
	t       *testing.T
	l       *lab.Lab
	pg      *lab.Cluster
	daemon  daemon
	conf    string // of the VRRP daemon
	vip     netip.Addr
	peer    bool // pg_hba.conf lets nobody but the system user postgres in as the superuser
	m       *meter.Meter
	readers map[string]*meter.Reader
}

// siteOptions say what a site is made of.
type siteOptions struct {
	daemon daemon
	hosts  int    // default 3
	sample string // directory below etc with vrrpd.conf and pgnotify.toml; default three-node-sync
	conf   func(string) string
	toml   func(string) string
	pg     lab.PostgresOptions // Upstream is the VIP
	more   map[string]string   // programs
}

const sync3 = "ANY 1 (n1, n2, n3)"

// newSite makes the hosts and a running PostgreSQL without a VRRP daemon.
func newSite(t *testing.T, o siteOptions) *site {
	t.Helper()
	if o.hosts == 0 {
		o.hosts = 3
	}
	if o.sample == "" {
		o.sample = "three-node-sync"
	}
	if o.pg.Synchronous == "" && o.hosts == 3 {
		o.pg.Synchronous = sync3
	}
	programs := map[string]string{"/usr/bin/pgnotify": program(t, "pgnotify")}
	maps.Copy(programs, o.more)
	s := &site{t: t, daemon: o.daemon, vip: lab.VIP(1), readers: map[string]*meter.Reader{}}
	s.l = newLab(t, o.hosts, programs)
	t.Cleanup(func() { // before the lab goes
		s.closeReaders()
		if s.m != nil {
			s.m.Stop(t.Context())
		}
		if t.Failed() {
			s.dump(t)
		}
	})
	o.pg.Upstream = s.vip.String()
	o.pg.Settings = withLogging(o.pg.Settings)
	var err error
	if s.pg, err = s.l.InitPostgres(within(t, longPatience), o.pg); err != nil {
		t.Fatal(err)
	}
	s.conf = sampleFile(t, o.sample, "vrrpd.conf")
	if o.conf != nil {
		s.conf = o.conf(s.conf)
	}
	if o.daemon == keepalived {
		s.conf = forKeepalived(s.conf)
	}
	toml := sampleFile(t, o.sample, "pgnotify.toml")
	if o.toml != nil {
		toml = o.toml(toml)
	}
	for _, h := range s.l.Hosts() {
		s.install(h, toml)
	}
	return s
}

// sampleData is the data directory that the samples name.
const sampleData = "/var/lib/postgresql/15/main"

// serverPrograms is where the machine has the programs of the server under test.
func serverPrograms(t *testing.T) string {
	t.Helper()
	version := envInt(t, "PG", 15)
	for _, dir := range []string{fmt.Sprintf("/usr/lib/postgresql/%d/bin", version), fmt.Sprintf("/usr/pgsql-%d/bin", version)} {
		if _, err := os.Stat(dir); err == nil {
			return dir
		}
	}
	t.Fatalf("the machine has no PostgreSQL %d server", version)
	return ""
}

// serverLog keeps all that a server says in one file outside of the data directory, whoever starts it: the one that lies inside
// without this is copied by rewinds and clones.
var serverLog = map[string]string{
	"logging_collector": "on", "log_directory": "/var/log/postgresql", "log_filename": "server.log", "log_rotation_age": "0", "log_rotation_size": "0",
}

func withLogging(settings map[string]string) map[string]string {
	all := maps.Clone(serverLog)
	maps.Copy(all, settings)
	return all
}

// saidBy is a server's whole log.
func (s *site) saidBy(host string) string {
	return readFile(s.host(host), filepath.Join(serverLog["log_directory"], serverLog["log_filename"]))
}

// install puts pgnotify's settings on a host, with a log of its own because keepalived throws away what hooks print.
func (s *site) install(h *lab.Host, toml string) {
	s.t.Helper()
	writeFile(s.t, h, pgnotifyToml, strings.ReplaceAll(withLog(toml), sampleData, s.pg.DataDir), 0o644)
	// What the package's tmpfiles entry does.
	run(s.t, h, "/usr/bin/install", "-d", "-o", "postgres", "-g", "postgres", "-m", "0700", pgnotifyState)
}

func withLog(toml string) string { return toml + "\n[log]\nfile = \"" + pgnotifyLog + "\"\n" }

// sampleFile is a file of etc as it stands in the repository.
func sampleFile(t *testing.T, dir, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("..", "..", "etc", dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

var vipAfterNotify = regexp.MustCompile(`(?m)^\s*vip_after_notify\b.*\n`)

// forKeepalived leaves out our extension, as the samples say.
func forKeepalived(conf string) string { return vipAfterNotify.ReplaceAllString(conf, "") }

// step runs a part of a story as a subtest; the story ends with its first failure, because the rest stands on it.
func (s *site) step(name string, f func(t *testing.T)) {
	outer := s.t
	outer.Helper()
	began := time.Now()
	ok := outer.Run(name, func(t *testing.T) {
		s.t = t
		f(t)
		t.Logf("took %.1f s; %s", time.Since(began).Seconds(), lab.ReadLoad())
	})
	if s.t = outer; !ok {
		outer.FailNow()
	}
}

func (s *site) host(name string) *lab.Host { return s.l.Host(name) }

// names of all hosts but some.
func (s *site) names(except ...string) []string {
	var list []string
	for _, h := range s.l.Hosts() {
		if !slices.Contains(except, h.Name()) {
			list = append(list, h.Name())
		}
	}
	return list
}

// start starts the VRRP daemon of a host.
func (s *site) start(host string) {
	s.t.Helper()
	s.daemon.start(s.t, s.host(host), s.conf)
}

// stop ends it and returns how long that took.
func (s *site) stop(host string) time.Duration {
	s.t.Helper()
	limit := endTime + slack
	if s.daemon == keepalived {
		limit = patience // not ours
	}
	return stop(s.t, s.host(host), string(s.daemon), limit)
}

// reload gives the daemon of a host another file and waits until it is in force.
func (s *site) reload(host, conf string) {
	s.t.Helper()
	h := s.host(host)
	p := h.Proc(string(s.daemon))
	if s.daemon == keepalived {
		writeFile(s.t, h, keepalivedConf, conf, 0o644)
		before := strings.Count(logOf(s.t, p), keepalivedRuns)
		signal(s.t, h, string(s.daemon), syscall.SIGHUP)
		eventually(s.t, patience, "keepalived on "+host+" has reloaded", func() (bool, string) {
			return strings.Count(logOf(s.t, p), keepalivedRuns) > before, tail(logOf(s.t, p), 10)
		})
		return
	}
	writeFile(s.t, h, vrrpdConf, conf, 0o644)
	const reloaded = "reload"
	before := strings.Count(logOf(s.t, p), reloaded)
	signal(s.t, h, string(s.daemon), syscall.SIGHUP)
	eventually(s.t, patience, "vrrpd on "+host+" has reloaded", func() (bool, string) {
		return strings.Count(logOf(s.t, p), reloaded) > before, tail(logOf(s.t, p), 10)
	})
	if st := status(s.t, h); st.ConfigError != "" {
		s.t.Fatalf("reload on %s: %s", host, st.ConfigError)
	}
}

// state is what the daemon of a host says of the instance, "" if nothing.
func (s *site) state(host string) string {
	h := s.host(host)
	p := h.Proc(string(s.daemon))
	if p == nil || !p.Running() {
		return ""
	}
	if s.daemon == keepalived {
		return keepalivedStateOf(s.t, h, pgInstance)
	}
	st, err := tryStatus(s.t.Context(), h)
	if err != nil {
		return ""
	}
	i, _ := find(st, pgInstance)
	return i.State
}

func (s *site) waitState(host, want string) {
	s.t.Helper()
	eventually(s.t, patience, fmt.Sprintf("%s on %s is %s", pgInstance, host, want), func() (bool, string) {
		got := s.state(host)
		return got == want, got
	})
}

// begin brings the service up: first on the host whose data is the truth.
func (s *site) begin(first string) {
	s.t.Helper()
	skip := len(s.history(first))
	s.start(first)
	// It was demoted before; keepalived runs the hooks beside each other, and BACKUP may have come too late.
	s.decided(first, skip, "MASTER", func(e entry) bool {
		return hook("MASTER")(e) && (e.Outcome == "done" || s.daemon == keepalived && e.Outcome == "nothing")
	})
	s.waitPrimary(first)
	waitHolder(s.t, s.l, s.vip, first)
	for _, name := range s.names(first) {
		s.start(name)
	}
	s.streaming(first, s.names(first)...)
}

// sql runs statements on a host's server over its socket, as superuser.
func (s *site) sql(host, statements string) string {
	s.t.Helper()
	out, err := s.query(host, statements)
	if err != nil {
		s.t.Fatal(err)
	}
	return out
}

func (s *site) query(host, statements string) (string, error) {
	if s.peer {
		return s.psql(host, "meter", statements)
	}
	ctx, cancel := context.WithTimeout(s.t.Context(), 5*time.Second)
	defer cancel()
	return s.pg.SQL(ctx, host, statements)
}

// psql runs statements as the server's owner does by hand.
func (s *site) psql(host, database, statements string) (string, error) {
	ctx, cancel := context.WithTimeout(s.t.Context(), 5*time.Second)
	defer cancel()
	res, err := s.host(host).RunAs(ctx, "postgres", "psql", "-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-h", "/run/postgresql", "-d", database, "-c", statements)
	return strings.TrimSpace(res.Stdout), err
}

// role is primary, standby or down.
func (s *site) role(host string) string {
	if !s.host(host).Up() {
		return "down"
	}
	switch out, err := s.query(host, "SELECT pg_is_in_recovery()"); {
	case err != nil:
		return "down"
	case out == "t":
		return "standby"
	}
	return "primary"
}

// primaries are the hosts whose servers are out of recovery.
func (s *site) primaries() []string {
	list := []string{}
	for _, name := range s.names() {
		if s.role(name) == "primary" {
			list = append(list, name)
		}
	}
	return list
}

// waitPrimary waits until one of the hosts is a primary, alone of all, and returns it.
func (s *site) waitPrimary(among ...string) string {
	s.t.Helper()
	found := ""
	eventually(s.t, longPatience, fmt.Sprintf("one of %v is the primary", among), func() (bool, string) {
		list := s.primaries()
		if len(list) == 1 && slices.Contains(among, list[0]) {
			found = list[0]
			return true, ""
		}
		return false, fmt.Sprintf("primaries: %v", list)
	})
	return found
}

// streaming waits until standbys stream what the primary writes now. One that has diverged streams too, for moments: up to
// where the timelines part.
func (s *site) streaming(primary string, standbys ...string) {
	s.t.Helper()
	eventually(s.t, longPatience, fmt.Sprintf("%v stream from %s", standbys, primary), func() (bool, string) {
		got, err := s.query(primary, "SELECT application_name FROM pg_stat_replication WHERE state = 'streaming'")
		names := strings.Fields(got)
		return !slices.ContainsFunc(standbys, func(n string) bool { return !slices.Contains(names, n) }), fmt.Sprint(names, err)
	})
	at := s.sql(primary, "SELECT pg_current_wal_flush_lsn(), ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int")
	lsn, timeline, _ := strings.Cut(at, "|")
	for _, name := range standbys {
		eventually(s.t, longPatience, fmt.Sprintf("%s streams timeline %s of %s from %s on", name, timeline, primary, lsn), func() (bool, string) {
			got, err := s.query(name, "SELECT status = 'streaming' AND received_tli = "+timeline+" AND pg_last_wal_replay_lsn() >= '"+lsn+
				"', status, received_tli, pg_last_wal_replay_lsn() FROM pg_stat_wal_receiver")
			return strings.HasPrefix(got, "t|"), fmt.Sprint(got, " ", err)
		})
	}
}

// caughtUp waits until standbys have replayed what the primary has now.
func (s *site) caughtUp(primary string, standbys ...string) {
	s.t.Helper()
	lsn := s.sql(primary, "SELECT pg_current_wal_flush_lsn()")
	for _, name := range standbys {
		eventually(s.t, patience, fmt.Sprintf("%s has replayed %s", name, lsn), func() (bool, string) {
			got, err := s.query(name, "SELECT pg_last_wal_replay_lsn() >= '"+lsn+"', pg_last_wal_replay_lsn()")
			return strings.HasPrefix(got, "t"), fmt.Sprint(got, err)
		})
	}
}

// measure starts a client that commits through the VIP.
func (s *site) measure() {
	s.t.Helper()
	m, err := meter.Start(within(s.t, patience), meter.Config{
		Conninfo: s.pg.MeterConninfo(s.vip.String()), Dial: s.l.Client().Dial, Writers: 2, Interval: 5 * time.Millisecond,
	})
	if err != nil {
		s.t.Fatal(err)
	}
	s.m = m
}

// ack waits for a commit after a time.
func (s *site) ack(after time.Time) {
	s.t.Helper()
	if _, err := s.m.WaitAck(within(s.t, longPatience), after); err != nil {
		s.t.Fatal(err)
	}
}

// acked waits until the client has some more commits.
func (s *site) acked(more int) {
	s.t.Helper()
	want := s.m.Acked() + more
	eventually(s.t, patience, fmt.Sprintf("%d commits", want), func() (bool, string) {
		got := s.m.Acked()
		return got >= want, strconv.Itoa(got)
	})
}

// outage is the longest stretch without a commit that touches the time since then.
func (s *site) outage(since time.Time) time.Duration {
	var longest time.Duration
	for _, o := range s.m.Outages() {
		if o.End.After(since) {
			longest = max(longest, o.Duration)
		}
	}
	return longest
}

// lossless ends the client: each acknowledged row is there, and none that failed.
func (s *site) lossless() meter.Report {
	s.t.Helper()
	r, err := s.m.Report(within(s.t, patience))
	if err != nil {
		s.t.Fatal(err)
	}
	s.m = nil
	s.t.Log(r)
	if len(r.Lost) > 0 || r.FailedFound > 0 || r.Unknown > 0 || r.Acked == 0 {
		s.t.Errorf("acknowledged %d, lost %d, there although failed %d, never written %d; want none but the first", r.Acked, len(r.Lost), r.FailedFound, r.Unknown)
	}
	return r
}

// read starts to select on a host's server, from outside.
func (s *site) read(hosts ...string) {
	s.t.Helper()
	for _, host := range hosts {
		r, err := meter.StartReader(within(s.t, patience), meter.ReaderConfig{
			Name: host, Conninfo: s.pg.MeterConninfo(s.host(host).Addr(lab.LAN).String()), Dial: s.l.Client().Dial, Interval: 20 * time.Millisecond,
		})
		if err != nil {
			s.t.Fatal(err)
		}
		s.readers[host] = r
	}
}

// unread ends that; there must have been no failure but a server's own restart.
func (s *site) unread(hosts ...string) {
	s.t.Helper()
	for _, host := range hosts {
		r := s.readers[host]
		if r == nil {
			continue
		}
		delete(s.readers, host)
		rep := r.Stop()
		s.t.Log(rep)
		if len(rep.Failures) > 0 {
			s.t.Errorf("SELECT on %s failed %d times", host, len(rep.Failures))
		}
	}
}

func (s *site) closeReaders() {
	for _, r := range s.readers {
		r.Stop()
	}
	clear(s.readers)
}

// powerLoss takes a host away.
func (s *site) powerLoss(host string) time.Time {
	s.t.Helper()
	s.unread(host)
	if s.m != nil {
		s.m.Mark("power loss of " + host)
	}
	return powerLoss(s.t, s.host(host))
}

// comesBack boots a host, with nothing but its daemon started, and waits until it streams.
func (s *site) comesBack(host, primary string) {
	s.t.Helper()
	boot(s.t, s.host(host))
	s.start(host)
	s.streaming(primary, host)
}

// promotes counts the promotions that a host's server was ever asked for.
func (s *site) promotes(host string) int {
	return strings.Count(s.saidBy(host), "received promote request")
}

func (s *site) allPromotes() map[string]int {
	all := map[string]int{}
	for _, name := range s.names() {
		all[name] = s.promotes(name)
	}
	return all
}

// promotesSince is how many there were since an earlier count.
func (s *site) promotesSince(before map[string]int) map[string]int {
	since := map[string]int{}
	for name, n := range s.allPromotes() {
		if n -= before[name]; n > 0 {
			since[name] = n
		}
	}
	return since
}

// entry is a line of pgnotify's history.
type entry struct {
	At      time.Time `json:"at"`
	Command string    `json:"command"`
	Name    string    `json:"name"`
	State   string    `json:"state"`
	Steps   []string  `json:"steps"`
	Outcome string    `json:"outcome"`
	Reason  string    `json:"reason"`
	Took    float64   `json:"took_seconds"`
}

func (e entry) String() string {
	return fmt.Sprintf("%s %s %s %s: %s (%s) %q %.3f s", e.At.Format("15:04:05.000"), e.Command, e.Name, e.State, e.Outcome, e.Reason, e.Steps, e.Took)
}

func (e entry) did(what string) bool {
	return slices.ContainsFunc(e.Steps, func(step string) bool { return strings.Contains(step, what) })
}

// How pgnotify's steps of a rebuild begin.
const (
	rewound = "rewound to "
	cloned  = "cloned anew "
)

func (e entry) rebuilt() bool { return e.did(rewound) || e.did(cloned) }

// history is what pgnotify decided on a host so far.
func (s *site) history(host string) []entry {
	var list []entry
	sc := bufio.NewScanner(strings.NewReader(readFile(s.host(host), pgnotifyHistory)))
	sc.Buffer(nil, 1<<20)
	for sc.Scan() {
		var e entry
		if json.Unmarshal(sc.Bytes(), &e) == nil {
			list = append(list, e)
		}
	}
	return list
}

// decided waits for a decision on a host after the first skip ones.
func (s *site) decided(host string, skip int, what string, match func(entry) bool) entry {
	s.t.Helper()
	var found entry
	eventually(s.t, longPatience, fmt.Sprintf("pgnotify on %s: %s", host, what), func() (bool, string) {
		list := s.history(host)
		list = list[min(skip, len(list)):]
		if i := slices.IndexFunc(list, match); i >= 0 {
			found = list[i]
			return true, ""
		}
		return false, fmt.Sprint(list)
	})
	return found
}

// hook matches the decision for a state.
func hook(state string) func(entry) bool {
	return func(e entry) bool { return e.Command == "notify" && e.State == state }
}

// refusedHook matches a hook that was refused, or overtaken.
func refusedHook(state string) func(entry) bool {
	return func(e entry) bool { return hook(state)(e) && (e.Outcome == "refused" || e.Outcome == "overtaken") }
}

// pgnotify runs pgnotify in a host as root and expects an exit code; it returns all that was printed.
func (s *site) pgnotify(host string, code int, args ...string) string {
	s.t.Helper()
	res, _ := s.host(host).Run(within(s.t, longPatience), append([]string{"/usr/bin/pgnotify"}, args...)...)
	if res.Code != code {
		s.t.Fatalf("%s# pgnotify %s: got exit code %d, want %d: %s%s", host, strings.Join(args, " "), res.Code, code, res.Stdout, res.Stderr)
	}
	return res.Stdout + res.Stderr
}

// says runs pgnotify as above and expects some words in what it prints.
func (s *site) says(host string, code int, words string, args ...string) string {
	s.t.Helper()
	out := s.pgnotify(host, code, args...)
	if !strings.Contains(out, words) {
		s.t.Errorf("%s# pgnotify %s: got %q, want %q in it", host, strings.Join(args, " "), out, words)
	}
	return out
}

// release keeps a host off mastership, under vrrpd; 0 ends that.
func (s *site) release(host string, hold time.Duration) {
	s.t.Helper()
	run(s.t, s.host(host), "/usr/sbin/vrrpd", "release", pgInstance, "--for", hold.String())
}

// oldData lists the directories that were kept when a clone took their place.
func (s *site) oldData(host string) []string {
	list, _ := filepath.Glob(s.host(host).DiskPath(s.pg.DataDir) + ".old-*")
	return list
}

// beside lists everything next to a host's data directory.
func (s *site) beside(host string) []string {
	var names []string
	entries, err := os.ReadDir(filepath.Dir(s.host(host).DiskPath(s.pg.DataDir)))
	if err != nil {
		s.t.Fatal(err)
	}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// ghost commits a row on a primary that nobody else will ever have, and then takes its power away.
func (s *site) ghost(host string) (name string, at time.Time) {
	s.t.Helper()
	s.unread(host)
	name = "ghost of " + host + " " + strconv.Itoa(len(s.history(host)))
	if err := s.l.Isolate([]string{host}); err != nil {
		s.t.Fatal(err)
	}
	s.sql(host, "SET synchronous_commit = local; INSERT INTO meter (run, n, writer) VALUES ('"+name+"', 1, 0)")
	at = s.powerLoss(host)
	if err := s.l.Heal(); err != nil {
		s.t.Fatal(err)
	}
	return name, at
}

// gone checks that a row that was never acknowledged to a client of the service is nowhere.
func (s *site) gone(ghost string, hosts ...string) {
	s.t.Helper()
	for _, host := range hosts {
		if n := s.sql(host, "SELECT count(*) FROM meter WHERE run = '"+ghost+"'"); n != "0" {
			s.t.Errorf("%s has %s rows of %s, want none", host, n, ghost)
		}
	}
}

// streamsFrom is what a standby's primary_conninfo says, "" for nothing.
func (s *site) streamsFrom(host string) string {
	return s.sql(host, "SHOW primary_conninfo")
}

// pidOf is the postmaster's number and start, to see whether it was restarted.
func (s *site) serverOf(host string) string {
	return s.sql(host, "SELECT pg_postmaster_start_time()")
}

// processes are the command lines of a host's processes that have a name.
func (s *site) processes(host, name string) []string {
	s.t.Helper()
	list, err := s.host(host).Processes()
	if err != nil {
		s.t.Fatal(err)
	}
	var found []string
	for _, p := range list {
		if p.Name == name {
			found = append(found, fmt.Sprintf("%d %s", p.PID, strings.Join(p.Args, " ")))
		}
	}
	return found
}

// ended waits until no process of these names runs in a host.
func (s *site) ended(host string, names ...string) {
	s.t.Helper()
	eventually(s.t, patience, fmt.Sprintf("%v on %s have ended", names, host), func() (bool, string) {
		var left []string
		for _, name := range names {
			left = append(left, s.processes(host, name)...)
		}
		return len(left) == 0, fmt.Sprintf("%q", left)
	})
}

// dump shows the decisions of every node; the lab adds its own logs.
func (s *site) dump(t *testing.T) {
	for _, h := range s.l.Hosts() {
		var b bytes.Buffer
		for _, e := range s.history(h.Name()) {
			fmt.Fprintf(&b, "%s\n", e)
		}
		t.Logf("---- %s, history of pgnotify\n%s", h.Name(), tail(b.String(), 60))
		for _, name := range []string{"log/pgnotify-start.log", "postmaster.pid", "pgnotify.conf"} {
			if text := readFile(h, filepath.Join(s.pg.DataDir, name)); text != "" {
				t.Logf("---- %s, %s\n%s", h.Name(), name, tail(text, 30))
			}
		}
		if p := h.Proc(string(vrrpd)); p != nil && p.Running() {
			if st, err := tryStatus(t.Context(), h); err == nil {
				for _, i := range st.Instances {
					t.Logf("---- %s, vrrpd: %s, hook %+v, transitions %+v", h.Name(), describe(i), i.LastHook, i.Transitions)
				}
			}
		}
	}
}

// tail is the last lines of a text.
func tail(text string, n int) string {
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

// replace changes a text that must be there.
func replace(t *testing.T, text, old, new string) string {
	t.Helper()
	if !strings.Contains(text, old) {
		t.Fatalf("%q is not in\n%s", old, text)
	}
	return strings.ReplaceAll(text, old, new)
}

// envInt is a number from the environment.
func envInt(t *testing.T, name string, otherwise int) int {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("environment variable %s: want a number of 1 or more (got %q)", name, text)
	}
	return n
}

// bothDaemons runs a story under vrrpd and under keepalived.
func bothDaemons(t *testing.T, story func(t *testing.T, d daemon)) {
	for _, d := range []daemon{vrrpd, keepalived} {
		t.Run(string(d), func(t *testing.T) { story(t, d) })
	}
}

// starvedAbove is the share of time with a task waiting for a processor, in percent, above which a time says nothing.
const starvedAbove = 30

// inTime fails if a measured time is above its bound, unless the machine was starved meanwhile.
func (s *site) inTime(what string, got, bound time.Duration, since lab.Load) {
	s.t.Helper()
	now := lab.ReadLoad()
	stalled := now.StalledSince(since)
	s.t.Logf("%s: %d ms (bound %d ms); %s, stalled %.0f %% of the time measured", what, got.Milliseconds(), bound.Milliseconds(), now, stalled)
	if got > bound && stalled <= starvedAbove {
		s.t.Errorf("%s: got %s, want at most %s", what, got, bound)
	}
}

func readHostFile(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// lateHook is the machine's path of slowHook.
func lateHook(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "late-hook")
	if err := os.WriteFile(path, []byte(slowHook), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}
