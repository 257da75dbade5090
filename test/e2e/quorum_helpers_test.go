//go:build e2e

package e2e

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"pgvrrp/internal/control"
	"pgvrrp/test/lab"
)

// The times that a quorum promises, with the default lease.
const (
	leaseTime = 400 * time.Millisecond
	kernelLag = 50 * time.Millisecond // by which the kernel may shut a lapsed lease late
	// takeover is a bound for sanity: test/bench measures.
	takeover = 3 * time.Second
	// hush is how long an address is silent before nobody is said to have it.
	hush = 300 * time.Millisecond
	// fewQuestions say nothing: the machine was too busy to ask.
	fewQuestions = 50
	// unnoticed is the longest silence of an address that did not move.
	unnoticed = 250 * time.Millisecond
)

// Files of the quorum extension inside hosts.
const (
	quorumKey   = "/etc/vrrpd/quorum.key"
	quorumState = "/var/lib/vrrpd"
	// badFile makes the check of the instances fail.
	badFile = "/run/bad"
)

// voterHost is one voter line.
type voterHost struct {
	name    string
	index   int
	witness bool
	votes   int // 0: one
}

// The topologies of docs/quorum.md.
func fiveVoters() []voterHost {
	return []voterHost{{name: "n1", index: 1}, {name: "n2", index: 2}, {name: "n3", index: 3}, {name: "w1", index: 21, witness: true}, {name: "w2", index: 22, witness: true}}
}

func witnessOfTwoVotes() []voterHost {
	return []voterHost{{name: "n1", index: 1}, {name: "n2", index: 2}, {name: "n3", index: 3}, {name: "w1", index: 21, witness: true, votes: 2}}
}

func threeVoters() []voterHost {
	return []voterHost{{name: "n1", index: 1}, {name: "n2", index: 2}, {name: "w1", index: 21, witness: true}}
}

// assembly is a lab whose hosts vote on who has the addresses. t is the subtest that runs.
type assembly struct {
	t       *testing.T
	l       *lab.Lab
	voters  []voterHost
	o       assemblyOptions
	vip     netip.Addr
	key     string
	probe   *lab.Probe // of vip, at each data node
	doubles int        // already told
}

// assemblyOptions say what the files are made of.
type assemblyOptions struct {
	resources []string // lines of the block; default: vip plain
	lines     []string // more lines of the quorum block
	// instances of a data node; default: twins.
	instances func(node string, priority int) []fmt.Stringer
}

// twins are two instances with one resource: an address moves only together with the other, whatever their advert_int.
func twins(lines ...string) func(string, int) []fmt.Stringer {
	return func(_ string, priority int) []fmt.Stringer {
		return []fmt.Stringer{
			block("vrrp_script good {\n  script \"/usr/bin/test ! -e " + badFile + "\"\n  interval 1\n  timeout 10\n  fall 1\n  rise 1\n  user root\n}\n"),
			router{VRID: 51, Interval: "0.1", VIPs: []string{lab.VIP(1).String() + "/24"}}.with(priority, append([]string{"quorum vip", "track_script {", "  good", "}"}, lines...)...),
			router{VRID: 52, Interval: "1", VIPs: []string{lab.VIP(2).String() + "/24"}}.with(priority, append([]string{"quorum vip"}, lines...)...),
		}
	}
}

// newAssembly makes the hosts and their key; nobody runs yet.
func newAssembly(t *testing.T, voters []voterHost, o assemblyOptions) *assembly {
	t.Helper()
	lab.Require(t)
	a := &assembly{t: t, voters: voters, o: o, vip: lab.VIP(1)}
	options := lab.Options{Machine: &machine, Programs: map[string]string{"/usr/sbin/vrrpd": program(t, "vrrpd")}}
	for _, v := range voters {
		options.Extra = append(options.Extra, lab.HostSpec{Name: v.name, Index: v.index})
	}
	a.l = lab.NewT(t, options)
	n1 := a.l.Host("n1")
	run(t, n1, "/usr/bin/mkdir", "-p", filepath.Dir(quorumKey))
	run(t, n1, "vrrpd", "quorum", "keygen", quorumKey)
	a.key = readFile(n1, quorumKey)
	for _, v := range voters {
		a.install(v.name)
	}
	a.watch()
	return a
}

// watch asks every data node for the address each millisecond from now on.
func (a *assembly) watch() {
	a.t.Helper()
	var err error
	if a.probe, err = a.l.ProbeEach(a.vip, time.Millisecond, a.dataNodes()...); err != nil {
		a.t.Fatal(err)
	}
}

func (a *assembly) host(name string) *lab.Host { return a.l.Host(name) }

func (a *assembly) voter(name string) voterHost {
	return a.voters[slices.IndexFunc(a.voters, func(v voterHost) bool { return v.name == name })]
}

func (a *assembly) names() []string {
	var all []string
	for _, v := range a.voters {
		all = append(all, v.name)
	}
	return all
}

func (a *assembly) dataNodes() []string {
	return slices.DeleteFunc(a.names(), func(n string) bool { return a.voter(n).witness })
}

func (a *assembly) witnesses() []string {
	return slices.DeleteFunc(a.names(), func(n string) bool { return !a.voter(n).witness })
}

func (a *assembly) votes() int {
	n := 0
	for _, v := range a.voters {
		n += max(1, v.votes)
	}
	return n
}

// quorumBlock is the same on every host.
func (a *assembly) quorumBlock() block {
	var b strings.Builder
	b.WriteString("quorum {\n")
	for _, v := range a.voters {
		kind, votes := "voter", ""
		if v.witness {
			kind = "witness"
		}
		if v.votes > 1 {
			votes = fmt.Sprintf(" votes %d", v.votes)
		}
		h := a.host(v.name)
		fmt.Fprintf(&b, "  %s %s %s %s%s\n", kind, v.name, h.Addr(lab.Interconnect), h.Addr(lab.LAN), votes)
	}
	resources := a.o.resources
	if len(resources) == 0 {
		resources = []string{"vip plain"}
	}
	for _, r := range resources {
		fmt.Fprintf(&b, "  resource %s\n", r)
	}
	for _, line := range a.o.lines {
		fmt.Fprintf(&b, "  %s\n", line)
	}
	b.WriteString("}\n")
	return block(b.String())
}

// config is the file of a host.
func (a *assembly) config(name string) string {
	v := a.voter(name)
	if v.witness {
		return a.quorumBlock().String()
	}
	instances := a.o.instances
	if instances == nil {
		instances = twins("nopreempt")
	}
	return file("enable_script_security", append(instances(name, 200-20*v.index), a.quorumBlock())...)
}

// user runs vrrpd on a host.
func (a *assembly) user(name string) string {
	if a.voter(name).witness {
		return "nobody"
	}
	return "root"
}

// install writes the files of a host, and makes its state directory.
func (a *assembly) install(name string) {
	a.t.Helper()
	h := a.host(name)
	writeFile(a.t, h, vrrpdConf, a.config(name), 0o644)
	writeFile(a.t, h, quorumKey, a.key, 0o600)
	run(a.t, h, "/usr/bin/chown", a.user(name), quorumKey)
	run(a.t, h, "/usr/bin/install", "-d", "-o", a.user(name), "-m", "0700", quorumState)
}

// start runs vrrpd on hosts, and doesn't wait for more than that it runs.
func (a *assembly) start(names ...string) {
	a.t.Helper()
	a.each(names, func(name string) error {
		h := a.host(name)
		ctx := within(a.t, patience)
		// What systemd's RuntimeDirectory= does.
		if _, err := h.Run(ctx, "/usr/bin/install", "-d", "-o", a.user(name), "-m", "0755", filepath.Dir(control.DefaultSocket)); err != nil {
			return err
		}
		argv := vrrpdRun()
		if a.voter(name).witness {
			// Real-time scheduling without a privilege, as a unit can give it.
			argv = append([]string{"/usr/bin/chrt", "--rr", "50", "/usr/bin/setpriv", "--reuid=nobody", "--regid=65534", "--clear-groups", "--inh-caps=-all", "--no-new-privs"}, argv...)
		}
		_, err := h.Spawn(ctx, "vrrpd", argv...)
		return err
	})
}

// each does something for several hosts at once.
func (a *assembly) each(names []string, f func(name string) error) {
	a.t.Helper()
	var wait errgroup.Group
	for _, name := range names {
		wait.Go(func() error {
			if err := f(name); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			return nil
		})
	}
	if err := wait.Wait(); err != nil {
		a.t.Fatal(err)
	}
}

// running are the hosts whose vrrpd runs.
func (a *assembly) running() []string {
	return slices.DeleteFunc(a.names(), func(n string) bool {
		p := a.host(n).Proc("vrrpd")
		return p == nil || !p.Running()
	})
}

// off takes the power of hosts at the same instant.
func (a *assembly) off(names ...string) time.Time {
	a.t.Helper()
	at, err := a.l.PowerLoss(within(a.t, patience), names...)
	if err != nil {
		a.t.Fatal(err)
	}
	return at
}

// back gives hosts their power again and starts vrrpd.
func (a *assembly) back(names ...string) {
	a.t.Helper()
	a.each(names, func(name string) error { return a.host(name).Boot(within(a.t, patience)) })
	a.start(names...)
}

// killed ends the vrrpd of hosts by SIGKILL.
func (a *assembly) killed(names ...string) time.Time {
	a.t.Helper()
	for _, name := range names {
		signal(a.t, a.host(name), "vrrpd", syscall.SIGKILL)
	}
	for _, name := range names {
		if _, err := a.host(name).Proc("vrrpd").Wait(within(a.t, patience)); err != nil {
			a.t.Fatal(err)
		}
	}
	return time.Now()
}

// ask is the status of a host's quorum, nil if it doesn't answer.
func (a *assembly) ask(name string) *control.Quorum {
	s, err := tryStatus(within(a.t, 2*time.Second), a.host(name))
	if err != nil {
		return nil
	}
	return s.Quorum
}

// resource is what a host says of one.
func (a *assembly) resource(name, resource string) control.Resource {
	a.t.Helper()
	q := a.ask(name)
	if q == nil {
		a.t.Fatalf("%s: no status", name)
	}
	k := slices.IndexFunc(q.Resources, func(r control.Resource) bool { return r.Name == resource })
	if k < 0 {
		a.t.Fatalf("%s: no resource %s", name, resource)
	}
	return q.Resources[k]
}

// answering is who answers for the address now, "" for nobody.
func (a *assembly) answering() string {
	last, ok := a.probe.Last(time.Time{}, "")
	if !ok || time.Since(last.At) > hush && a.probe.Unanswered(time.Now().Add(-hush/2)) > fewQuestions {
		return ""
	}
	return last.Who()
}

// begin starts every voter and waits until all is well.
func (a *assembly) begin() string {
	a.t.Helper()
	began := time.Now()
	a.start(a.names()...)
	holder := a.whole()
	a.t.Logf("all voters started and whole after %d ms", time.Since(began).Milliseconds())
	return holder
}

// lapsed checks that a host answered no longer than a lease after it was cut off, stopped or killed.
func (a *assembly) lapsed(host string, at time.Time) {
	a.t.Helper()
	last, ok := a.probe.Last(time.Time{}, host)
	if !ok {
		a.t.Fatalf("%s never answered", host)
	}
	late := last.At.Sub(at)
	a.t.Logf("%s answered for %d ms more", host, late.Milliseconds())
	if late > leaseTime+kernelLag {
		a.t.Errorf("%s answered for %s more, want at most %s", host, late, leaseTime+kernelLag)
	}
}

// witnessLeads has a witness lead the log: a stopped leader gives it to one.
func (a *assembly) witnessLeads() roles {
	a.t.Helper()
	r := a.roles()
	for range 5 {
		if a.voter(r.leader).witness {
			return r
		}
		stop(a.t, a.host(r.leader), "vrrpd", leaveEnd)
		a.start(r.leader)
		r = a.roles()
	}
	a.t.Fatalf("no witness leads the log: %+v", r)
	return r
}

// whole waits until every voter of the file runs and counts, one node holds the resource, and all others are in its rule. It
// returns the holder.
func (a *assembly) whole() string {
	a.t.Helper()
	return a.wholeBut()
}

// wholeBut is whole without some hosts, which are down.
func (a *assembly) wholeBut(down ...string) string {
	a.t.Helper()
	holder := ""
	eventually(a.t, patience, "the quorum is whole", func() (bool, string) {
		if holder = a.answering(); holder == "" {
			return false, "nobody answers for the address"
		}
		if why := a.lacks(holder, down); why != "" {
			return false, why
		}
		return true, ""
	})
	a.single()
	return holder
}

// lacks says what is not yet as it should be.
func (a *assembly) lacks(holder string, down []string) string {
	for _, name := range a.names() {
		if slices.Contains(down, name) {
			continue
		}
		q := a.ask(name)
		if q == nil {
			p := a.host(name).Proc("vrrpd")
			if p != nil && !p.Running() {
				return name + ": vrrpd has ended: " + tail(logOf(a.t, p), 3)
			}
			return name + " gives no status"
		}
		for _, v := range q.Voters {
			gone := slices.Contains(down, v.Node)
			if gone != !v.Heard || !gone && !v.Member || v.Silent > 0 {
				return fmt.Sprintf("%s: voter %s heard %t, member %t, silent for %gs", name, v.ID, v.Heard, v.Member, v.Silent)
			}
		}
		if len(down) == 0 && q.Votes != a.votes() || q.Leader == "" || q.Leader == holder && len(a.names())-len(down) > 1 {
			return fmt.Sprintf("%s: %d votes, leader %q", name, q.Votes, q.Leader)
		}
		k := slices.IndexFunc(q.Resources, func(r control.Resource) bool { return r.Name == "vip" })
		if k < 0 {
			return name + ": no resource vip"
		}
		r := q.Resources[k]
		want := slices.DeleteFunc(a.dataNodes(), func(n string) bool { return n == holder || slices.Contains(down, n) })
		slices.Sort(r.Rule.S)
		if r.Phase != "active" || r.Holder != holder || r.Rule.Holder != holder || !slices.Equal(r.Rule.S, want) && len(r.Rule.S)+len(want) > 0 {
			return fmt.Sprintf("%s: %s by %q, rule %+v, want holder %s with %v; %s", name, r.Phase, r.Holder, r.Rule, holder, want, r.Missing)
		}
		if !a.voter(name).witness && (!r.Eligible || r.Live != (name == holder)) {
			return fmt.Sprintf("%s: eligible %t %s, live %t", name, r.Eligible, r.Ineligible, r.Live)
		}
	}
	return ""
}

// roles are who is what, once all is well.
type roles struct {
	holder, leader     string   // hosts
	standbys, watchers []string // data nodes that don't hold; witnesses that don't lead
}

func (a *assembly) roles() roles {
	a.t.Helper()
	r := roles{holder: a.whole()}
	q := a.ask(r.holder)
	r.leader, _, _ = strings.Cut(q.Leader, "/")
	for _, name := range a.names() {
		switch {
		case name == r.holder:
		case !a.voter(name).witness:
			r.standbys = append(r.standbys, name)
		case name != r.leader:
			r.watchers = append(r.watchers, name)
		}
	}
	return r
}

// next waits for the next holder after something happened to those that are gone, and logs the outage.
func (a *assembly) next(at time.Time, since lab.Load, gone ...string) string {
	a.t.Helper()
	first, err := a.probe.WaitForOther(within(a.t, patience), gone, at)
	if err != nil {
		for _, name := range a.running() {
			a.t.Logf("%s: %+v", name, a.ask(name))
		}
		a.t.Fatal(err)
	}
	now := lab.ReadLoad()
	stalled := now.StalledSince(since)
	outage := first.At.Sub(at)
	silence := ""
	if old, ok := a.probe.Last(first.At, ""); ok {
		silence = fmt.Sprintf(", %d ms after the last answer by %s", first.At.Sub(old.At).Milliseconds(), old.Who())
	}
	a.t.Logf("%s answers %d ms after%s; %s, stalled %.0f %%", first.Who(), outage.Milliseconds(), silence, now, stalled)
	if outage > takeover && stalled <= starvedAbove {
		a.t.Errorf("takeover: got %s, want at most %s", outage, takeover)
	}
	a.single()
	return first.Who()
}

// stays checks that the holder has answered all the time since at, and does so for longer.
func (a *assembly) stays(holder string, at time.Time, during time.Duration) {
	a.t.Helper()
	constantly(a.t, during, holder+" stays", func() (bool, string) {
		who := a.answering()
		return who == holder, who
	})
	for _, g := range a.probe.Gaps(unnoticed) {
		if g.Last.After(at) && g.Unanswered > fewQuestions {
			a.t.Errorf("nobody answered for %d ms: %s", g.Last.Sub(g.First).Milliseconds(), g.Who)
		}
	}
	a.single()
}

// silent waits until nobody answers, and checks that it stays so.
func (a *assembly) silent(at time.Time, during time.Duration) {
	a.t.Helper()
	eventually(a.t, patience, "nobody answers", func() (bool, string) {
		who := a.answering()
		return who == "", who
	})
	constantly(a.t, during, "nobody answers", func() (bool, string) {
		who := a.answering()
		return who == "", who
	})
	if last, ok := a.probe.Last(time.Time{}, ""); ok && last.At.After(at) {
		late := last.At.Sub(at)
		a.t.Logf("%s answered for %d ms more", last.Who(), late.Milliseconds())
		if late > leaseTime+kernelLag {
			a.t.Errorf("%s answered for %s more, want at most %s", last.Who(), late, leaseTime+kernelLag)
		}
	}
	a.single()
}

// single checks that never two hosts answered at once.
func (a *assembly) single() {
	a.t.Helper()
	r, err := a.probe.Report()
	if err != nil {
		a.t.Fatal(err)
	}
	if n := len(r.Double); n > a.doubles {
		list := []string{}
		for _, d := range r.Double[a.doubles:min(n, a.doubles+6)] {
			list = append(list, fmt.Sprintf("%s at %s", d.Who(), d.At.Format("15:04:05.000000")))
		}
		a.t.Errorf("two hosts answered at once, %d answers: %s", n-a.doubles, strings.Join(list, ", "))
		a.doubles = n
	}
}

// blocked checks that a node says what a resource without a holder waits for.
func (a *assembly) blocked(name, words string) {
	a.t.Helper()
	eventually(a.t, patience, name+" says what is missing", func() (bool, string) {
		if a.ask(name) == nil {
			return false, "no status"
		}
		r := a.resource(name, "vip")
		return r.Missing != "" && strings.Contains(r.Missing, words), fmt.Sprintf("%+v", r)
	})
	a.t.Logf("%s: %s", name, a.resource(name, "vip").Missing)
}

// step runs a scenario as a subtest. After a failure everything is made anew, so that the next one can tell something.
func (a *assembly) step(name string, f func(t *testing.T)) {
	outer := a.t
	outer.Helper()
	if only := os.Getenv("PGVRRP_STEP"); only != "" && !strings.Contains(name, only) {
		return
	}
	began := time.Now()
	ok := outer.Run(name, func(t *testing.T) {
		a.t = t
		defer func() {
			if t.Failed() {
				a.dump()
			}
		}()
		f(t)
		a.single()
		t.Logf("took %.1f s from %s; %s", time.Since(began).Seconds(), began.Format("15:04:05.000"), lab.ReadLoad())
	})
	if a.t = outer; !ok {
		a.renew()
	}
}

// dump shows what every voter says.
func (a *assembly) dump() {
	for _, name := range a.running() {
		if q := a.ask(name); q != nil {
			a.t.Logf("---- %s: leader %q, %d votes, trouble %q", name, q.Leader, q.Votes, q.Trouble)
			for _, r := range q.Resources {
				a.t.Logf("---- %s: %+v", name, r)
			}
		}
		a.t.Logf("---- %s\n%s", name, tail(logOf(a.t, a.host(name).Proc("vrrpd")), 40))
	}
	if r, err := a.probe.Report(); err == nil {
		for _, h := range r.Holdings[max(0, len(r.Holdings)-12):] {
			a.t.Logf("---- %s answered %d times from %s to %s", h.Who, h.Answers, h.First.Format("15:04:05.000"), h.Last.Format("15:04:05.000"))
		}
	}
}

// renew begins anew: no partition, new state directories.
func (a *assembly) renew() {
	a.t.Helper()
	if err := a.l.Heal(); err != nil {
		a.t.Fatal(err)
	}
	var up []string
	for _, name := range a.names() {
		if a.host(name).Up() {
			up = append(up, name)
		}
	}
	if len(up) > 0 {
		a.off(up...)
	}
	a.each(a.names(), func(name string) error {
		if err := a.host(name).Boot(within(a.t, patience)); err != nil {
			return err
		}
		_, err := a.host(name).Run(within(a.t, patience), "/usr/bin/rm", "-rf", quorumState)
		return err
	})
	for _, name := range a.names() {
		a.install(name)
	}
	a.begin()
}

// reconfigure begins anew with other files.
func (a *assembly) reconfigure(o assemblyOptions) string {
	a.t.Helper()
	a.o = o
	if running := a.running(); len(running) > 0 {
		a.killed(running...)
	}
	for _, name := range a.names() {
		run(a.t, a.host(name), "/usr/bin/rm", "-rf", quorumState)
		a.install(name)
	}
	return a.begin()
}
