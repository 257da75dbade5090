//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"pgvrrp/internal/control"
	"pgvrrp/test/lab"
)

// Limits of the tests' patience. They say when something is lost, not how fast it should be.
const (
	patience = 20 * time.Second       // for anything that does happen
	glance   = 5 * time.Millisecond   // between two looks
	endTime  = 3 * time.Second        // SIGTERM to exit: 2 s, and 1 s for hooks
	leaveEnd = 8 * time.Second        // the same under quorum: the log is left first, and a slow disk waited for
	slack    = 500 * time.Millisecond // for a busy machine, on top of a limit that is promised
)

// Where the daemons' files are inside hosts.
const (
	vrrpdConf      = "/etc/vrrpd/vrrpd.conf"
	keepalivedConf = "/etc/keepalived/keepalived.conf"
)

// newLab makes a lab of hosts n1 … nN with vrrpd installed, and more programs if they are given (path inside -> outside).
func newLab(t *testing.T, hosts int, more ...map[string]string) *lab.Lab {
	t.Helper()
	lab.Require(t)
	programs := map[string]string{"/usr/sbin/vrrpd": program(t, "vrrpd")}
	for _, m := range more {
		for inside, outside := range m {
			programs[inside] = outside
		}
	}
	return lab.NewT(t, lab.Options{Hosts: hosts, Programs: programs, Machine: &machine})
}

// within is a context for one wait of the test.
func within(t *testing.T, limit time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	t.Cleanup(cancel)
	return ctx
}

// eventually waits until cond holds; got says what was seen last.
func eventually(t *testing.T, limit time.Duration, what string, cond func() (ok bool, got string)) {
	t.Helper()
	start := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	err := lab.Poll(ctx, glance, func() (bool, string, error) {
		ok, got := cond()
		return ok, got, nil
	})
	if err != nil {
		t.Fatalf("%s: not within %s: %v", what, time.Since(start).Round(time.Millisecond), err)
	}
}

// constantly fails if cond stops to hold within a time: an assertion that nothing happens, for which time must pass.
func constantly(t *testing.T, during time.Duration, what string, cond func() (ok bool, got string)) {
	t.Helper()
	start := time.Now()
	var got string
	ctx, cancel := context.WithTimeout(t.Context(), during)
	defer cancel()
	err := lab.Poll(ctx, glance, func() (bool, string, error) {
		var ok bool
		ok, got = cond()
		return !ok, "", nil
	})
	if err == nil {
		t.Fatalf("%s: no longer after %s: %s", what, time.Since(start).Round(time.Millisecond), got)
	}
}

// daemon is a VRRP daemon under test or beside it.
type daemon string

const (
	vrrpd      daemon = "vrrpd"
	keepalived daemon = "keepalived"
)

func (d daemon) start(t *testing.T, h *lab.Host, config string) {
	t.Helper()
	if d == keepalived {
		startKeepalived(t, h, config)
	} else {
		startVrrpd(t, h, config)
	}
}

// stop ends it by SIGTERM. keepalived waits a second for its own sake.
func (d daemon) stop(t *testing.T, h *lab.Host) {
	t.Helper()
	stop(t, h, string(d), endTime)
}

// startVrrpd writes the file and runs vrrpd in a host, as process "vrrpd", until it answers. Arguments are added to run's.
func startVrrpd(t *testing.T, h *lab.Host, config string, args ...string) *lab.Proc {
	t.Helper()
	writeFile(t, h, vrrpdConf, config, 0o644)
	p := spawn(t, h, "vrrpd", lab.Command{Argv: vrrpdRun(args...)})
	waitAnswers(t, h, p)
	return p
}

func vrrpdRun(args ...string) []string {
	return append([]string{"vrrpd", "run", "-f", vrrpdConf, "--log-level", "debug"}, args...)
}

// waitAnswers waits until the vrrpd that runs as p answers on its socket, and its start is over.
func waitAnswers(t *testing.T, h *lab.Host, p *lab.Proc) {
	t.Helper()
	eventually(t, patience, "vrrpd on "+h.Name()+" answers", func() (bool, string) {
		if !p.Running() {
			t.Fatalf("vrrpd on %s has ended: %s", h.Name(), logOf(t, p))
		}
		s, err := tryStatus(t.Context(), h)
		return err == nil && !s.Starting, fmt.Sprint(err)
	})
}

// startKeepalived writes the file and runs keepalived in a host, as process "keepalived", until it takes part.
func startKeepalived(t *testing.T, h *lab.Host, config string) *lab.Proc {
	t.Helper()
	writeFile(t, h, keepalivedConf, config, 0o644)
	// Counted before it starts: the log of a host goes on over restarts, and keepalived may have said it before spawn returns.
	before := 0
	if b, err := os.ReadFile(filepath.Join(h.LogDir(), "keepalived.log")); err == nil {
		before = strings.Count(string(b), keepalivedRuns)
	} else if !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	// -P: VRRP only; its log goes to standard error.
	p := spawn(t, h, "keepalived", lab.Command{Argv: []string{
		"/usr/sbin/keepalived", "-n", "-l", "-D", "-P", "-f", keepalivedConf, "-p", "/run/k.pid", "-r", "/run/kv.pid",
	}})
	eventually(t, patience, "keepalived on "+h.Name()+" runs", func() (bool, string) {
		if !p.Running() {
			t.Fatalf("keepalived on %s has ended: %s", h.Name(), logOf(t, p))
		}
		return strings.Count(logOf(t, p), keepalivedRuns) > before, logOf(t, p)
	})
	return p
}

// keepalivedRuns is what it logs when its sockets stand.
const keepalivedRuns = "VRRP sockpool"

var keepalivedState = regexp.MustCompile(`\((\S+)\) Entering (\w+) STATE`)

// keepalivedStateOf is the last state that keepalived has logged for an instance, "" for none.
func keepalivedStateOf(t *testing.T, h *lab.Host, instance string) string {
	t.Helper()
	state := ""
	for _, m := range keepalivedState.FindAllStringSubmatch(logOf(t, h.Proc("keepalived")), -1) {
		if m[1] == instance {
			state = m[2]
		}
	}
	return state
}

// spawn starts a program in the background.
func spawn(t *testing.T, h *lab.Host, name string, c lab.Command) *lab.Proc {
	t.Helper()
	p, err := h.SpawnCommand(t.Context(), name, c)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// signal sends a signal to a process that spawn started.
func signal(t *testing.T, h *lab.Host, name string, sig syscall.Signal) {
	t.Helper()
	if err := h.Kill(t.Context(), name, sig); err != nil {
		t.Fatal(err)
	}
}

// stop ends a process by SIGTERM and fails if that takes longer than limit or leaves another exit code than 0.
func stop(t *testing.T, h *lab.Host, name string, limit time.Duration) time.Duration {
	t.Helper()
	start := time.Now()
	signal(t, h, name, syscall.SIGTERM)
	return waitEnd(t, h, name, start, limit)
}

// waitEnd waits for a process that was told to end at start.
func waitEnd(t *testing.T, h *lab.Host, name string, start time.Time, limit time.Duration) time.Duration {
	t.Helper()
	p := h.Proc(name)
	res, err := p.Wait(within(t, patience))
	took := time.Since(start)
	if err != nil {
		t.Fatalf("%s on %s: %v", name, h.Name(), err)
	}
	if res.Code != 0 || took > limit {
		t.Errorf("%s on %s: got exit code %d (%s) after %s, want 0 within %s", name, h.Name(), res.Code, res.Signal, took.Round(time.Millisecond), limit)
	}
	return took
}

// kill ends a process by SIGKILL.
func kill(t *testing.T, h *lab.Host, name string) {
	t.Helper()
	signal(t, h, name, syscall.SIGKILL)
	if _, err := h.Proc(name).Wait(within(t, patience)); err != nil {
		t.Fatal(err)
	}
}

// powerLoss takes a host away at once and returns when.
func powerLoss(t *testing.T, h *lab.Host) time.Time {
	t.Helper()
	at, err := h.PowerLoss(within(t, patience))
	if err != nil {
		t.Fatal(err)
	}
	return at
}

func boot(t *testing.T, h *lab.Host) {
	t.Helper()
	if err := h.Boot(within(t, patience)); err != nil {
		t.Fatal(err)
	}
}

// run runs a program in a host and returns its standard output; a failure ends the test.
func run(t *testing.T, h *lab.Host, argv ...string) string {
	t.Helper()
	res, err := h.Run(within(t, patience), argv...)
	if err != nil {
		t.Fatal(err)
	}
	return res.Stdout
}

// try runs a program that may fail.
func try(t *testing.T, h *lab.Host, argv ...string) lab.Result {
	t.Helper()
	res, _ := h.Run(within(t, patience), argv...)
	return res
}

func writeFile(t *testing.T, h *lab.Host, name, content string, mode os.FileMode) {
	t.Helper()
	if err := h.WriteFile(name, []byte(content), mode); err != nil {
		t.Fatal(err)
	}
}

// readFile is a file's content in a host, "" if there is none.
func readFile(h *lab.Host, name string) string {
	b, err := h.ReadFile(name)
	if err != nil {
		return ""
	}
	return string(b)
}

// logOf is what a process has written so far.
func logOf(t *testing.T, p *lab.Proc) string {
	t.Helper()
	b, err := os.ReadFile(p.LogFile)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// tryStatus asks the vrrpd of a host for its status.
func tryStatus(ctx context.Context, h *lab.Host) (control.Status, error) {
	var s control.Status
	c := http.Client{
		Timeout: 5 * time.Second,
		Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return h.Dial(ctx, "unix", control.DefaultSocket)
		}},
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://vrrpd/v1/status", nil)
	if err != nil {
		return s, err
	}
	res, err := c.Do(req)
	if err != nil {
		return s, err
	}
	defer res.Body.Close()
	return s, json.NewDecoder(res.Body).Decode(&s)
}

func status(t *testing.T, h *lab.Host) control.Status {
	t.Helper()
	s, err := tryStatus(t.Context(), h)
	if err != nil {
		t.Fatalf("status of %s: %v", h.Name(), err)
	}
	return s
}

// find is one instance of a status.
func find(s control.Status, name string) (control.Instance, bool) {
	k := slices.IndexFunc(s.Instances, func(i control.Instance) bool { return i.Name == name })
	if k < 0 {
		return control.Instance{}, false
	}
	return s.Instances[k], true
}

// instance is one instance of a host's vrrpd now.
func instance(t *testing.T, h *lab.Host, name string) control.Instance {
	t.Helper()
	i, ok := find(status(t, h), name)
	if !ok {
		t.Fatalf("status of %s: no instance %s", h.Name(), name)
	}
	return i
}

// waitInstance waits until an instance is there and as wanted, and returns it.
func waitInstance(t *testing.T, h *lab.Host, name, what string, want func(control.Instance) bool) control.Instance {
	t.Helper()
	var i control.Instance
	eventually(t, patience, fmt.Sprintf("%s on %s: %s", name, h.Name(), what), func() (bool, string) {
		var ok bool
		i, ok = find(status(t, h), name)
		return ok && want(i), describe(i)
	})
	return i
}

func waitState(t *testing.T, h *lab.Host, name, state string) control.Instance {
	t.Helper()
	return waitInstance(t, h, name, state, func(i control.Instance) bool { return i.State == state })
}

// describe is an instance on one line.
func describe(i control.Instance) string {
	return fmt.Sprintf("%s %s seq %d priority %d reason %q waiting %q", i.Name, i.State, i.Seq, i.Priority, i.Reason, i.Waiting)
}

// steady asks the kernel again as long as what it lists changes meanwhile: some of it may be missing.
func steady[T any](list func() ([]T, error)) ([]T, error) {
	for {
		if all, err := list(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			return all, err
		}
	}
}

// kernelAddresses are all addresses in a host's kernel, with their prefix length, by interface.
func kernelAddresses(h *lab.Host) (map[string][]netip.Prefix, error) {
	all := map[string][]netip.Prefix{}
	err := h.NetDo(func() error {
		links, err := steady(netlink.LinkList)
		if err != nil {
			return err
		}
		names := map[int]string{}
		for _, l := range links {
			names[l.Attrs().Index] = l.Attrs().Name
		}
		list, err := steady(func() ([]netlink.Addr, error) { return netlink.AddrList(nil, netlink.FAMILY_ALL) })
		if err != nil {
			return err
		}
		for _, a := range list {
			addr, _ := netip.AddrFromSlice(a.IP)
			bits, _ := a.Mask.Size()
			name := names[a.LinkIndex]
			all[name] = append(all[name], netip.PrefixFrom(addr.Unmap(), bits))
		}
		return nil
	})
	return all, err
}

// holds reports whether a host's kernel has an address; a host without power has none.
func holds(h *lab.Host, addr netip.Addr) bool {
	all, err := kernelAddresses(h)
	if err != nil {
		return false
	}
	for _, list := range all {
		for _, p := range list {
			if p.Addr() == addr {
				return true
			}
		}
	}
	return false
}

// holders are the hosts whose kernels have an address.
func holders(l *lab.Lab, addr netip.Addr) []string {
	names := []string{}
	for _, h := range l.Hosts() {
		if holds(h, addr) {
			names = append(names, h.Name())
		}
	}
	return names
}

// waitHolder waits until exactly one host's kernel has the address ("": none), and then asks the LAN, which must agree.
func waitHolder(t *testing.T, l *lab.Lab, addr netip.Addr, want string) {
	t.Helper()
	wants := []string{}
	if want != "" {
		wants = []string{want}
	}
	eventually(t, patience, fmt.Sprintf("%s is on %v alone", addr, wants), func() (bool, string) {
		got := holders(l, addr)
		return slices.Equal(got, wants), fmt.Sprint(got)
	})
	if want == "" {
		return
	}
	if got := whoAnswers(t, l, addr); got != want {
		t.Fatalf("%s: %s answers, want %s", addr, got, want)
	}
}

// whoAnswers asks the LAN from outside who has an address, several times; two that answer end the test.
func whoAnswers(t *testing.T, l *lab.Lab, addr netip.Addr) string {
	t.Helper()
	if addr.Is6() {
		return whoAnswers6(t, l, addr)
	}
	probe, err := l.Client().ProbeARP(addr, time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	defer probe.Stop()
	eventually(t, patience, fmt.Sprintf("somebody answers for %s", addr), func() (bool, string) {
		n := len(probe.Answers())
		return n >= 3, fmt.Sprintf("%d answers", n)
	})
	report, err := probe.Report()
	if err != nil {
		t.Fatal(err)
	}
	if len(report.Double) > 0 {
		t.Fatalf("%s: two hosts answer: %+v", addr, report.Double)
	}
	return report.Holdings[len(report.Holdings)-1].Who
}

func whoAnswers6(t *testing.T, l *lab.Lab, addr netip.Addr) string {
	t.Helper()
	client, to := l.Client(), addr.String()
	run(t, client, "ip", "-6", "neigh", "flush", "dev", "eth0")
	if addr.IsLinkLocalUnicast() {
		to += "%eth0"
	}
	// Its answer doesn't matter, the neighbour's does.
	try(t, client, "ping", "-6", "-n", "-c", "1", "-W", "1", to)
	out := run(t, client, "ip", "-6", "neigh", "show", "to", addr.String(), "dev", "eth0")
	for _, h := range l.Hosts() {
		if strings.Contains(out, h.MAC(lab.LAN).String()) {
			return h.Name()
		}
	}
	t.Fatalf("%s: nobody answers: %q", addr, out)
	return ""
}

// capture records what hosts send on the service LAN from now on.
func capture(t *testing.T, l *lab.Lab) *lab.Capture {
	t.Helper()
	c, err := l.Capture(lab.CaptureOptions{Bridge: lab.LAN})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// waitFrame waits for the first frame at or after a time that matches.
func waitFrame(t *testing.T, c *lab.Capture, after time.Time, what string, match func(*lab.Frame) bool) lab.Frame {
	t.Helper()
	f, err := c.Wait(within(t, patience), after, match)
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	return f
}

// both joins two conditions on a frame.
func both(a, b func(*lab.Frame) bool) func(*lab.Frame) bool {
	return func(f *lab.Frame) bool { return a(f) && b(f) }
}

// goodbye matches an advert of priority 0.
func goodbye(host string, vrid uint8) func(*lab.Frame) bool {
	return both(lab.AdvertFrom(host, vrid), func(f *lab.Frame) bool { return f.VRRP.Priority == 0 })
}

// claim matches an advert of a priority that is not 0.
func claim(host string, vrid uint8) func(*lab.Frame) bool {
	return both(lab.AdvertFrom(host, vrid), func(f *lab.Frame) bool { return f.VRRP.Priority != 0 })
}

// waitClaims waits for n of a host's adverts after a time, and is the moment behind the last one.
func waitClaims(t *testing.T, c *lab.Capture, after time.Time, host string, vrid uint8, n int) time.Time {
	t.Helper()
	for range n {
		after = waitFrame(t, c, after, "advert", claim(host, vrid)).At.Add(time.Nanosecond)
	}
	return after
}
