package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"pgvrrp/test/lab"
	"pgvrrp/test/lab/meter"
)

func main() {
	lab.Main()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

// show is what the demo works with.
type show struct {
	l     *lab.Lab
	pg    *lab.Cluster
	meter *meter.Meter
	began time.Time
	steps []string // names of the steps, as the meter knows them
}

// stepTimeout bounds every single wait.
const stepTimeout = 30 * time.Second

func run(ctx context.Context) (err error) {
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	bin := flag.String("bin", filepath.Dir(exe), "directory of vrrpd and pgnotify")
	etc := flag.String("etc", "etc/three-node-sync", "directory of vrrpd.conf and pgnotify.toml")
	flag.Parse()

	s := &show{began: time.Now()}
	s.say("three hosts n1, n2, n3 and a client, two networks, in namespaces of this machine; Ctrl-C ends it and leaves nothing")
	s.l, err = lab.New(ctx, lab.Options{Hosts: 3, Programs: map[string]string{
		"/usr/sbin/vrrpd": filepath.Join(*bin, "vrrpd"), "/usr/bin/pgnotify": filepath.Join(*bin, "pgnotify"),
	}})
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			s.logs()
		}
		err = errors.Join(err, s.l.Close())
	}()

	vip := lab.VIP(1).String()
	s.pg, err = s.l.InitPostgres(ctx, lab.PostgresOptions{Upstream: vip, Synchronous: "ANY 1 (n1, n2, n3)"})
	if err != nil {
		return err
	}
	s.say("PostgreSQL %d on each, n1 primary; synchronous_standby_names = 'ANY 1 (n1, n2, n3)'", s.pg.Version)
	for _, h := range s.l.Hosts() {
		for _, f := range []struct{ from, to string }{{"vrrpd.conf", "/etc/vrrpd/vrrpd.conf"}, {"pgnotify.toml", "/etc/pgnotify/pgnotify.toml"}} {
			b, err := os.ReadFile(filepath.Join(*etc, f.from))
			if err != nil {
				return err
			}
			if err := h.WriteFile(f.to, b, 0o644); err != nil {
				return err
			}
		}
	}
	for _, h := range s.l.Hosts() {
		// what the package's tmpfiles entry does
		if _, err := h.Run(ctx, "/usr/bin/install", "-d", "-o", "postgres", "-g", "postgres", "-m", "0700", "/var/lib/pgnotify"); err != nil {
			return err
		}
	}
	s.say("vrrpd on each with the same file, %s/vrrpd.conf; first on n1, because its data is the truth", *etc)
	for _, name := range []string{"n1", "n2", "n3"} {
		if err := s.startVrrpd(ctx, name); err != nil {
			return err
		}
		if name == "n1" {
			if err := s.waitMaster(ctx, "n1"); err != nil {
				return err
			}
		}
	}
	if err := s.waitStreaming(ctx, "n1", "n2", "n3"); err != nil {
		return err
	}
	if err := s.status(ctx, "n1"); err != nil {
		return err
	}

	s.meter, err = meter.Start(ctx, meter.Config{Conninfo: s.pg.MeterConninfo(vip), Dial: s.l.Client().Dial})
	if err != nil {
		return err
	}
	defer s.meter.Stop(context.WithoutCancel(ctx))
	s.say("a client commits numbered rows through %s, one transaction each", vip)

	// The node that has what was acknowledged wins, whichever that is.
	s.step("power loss of n1, the primary")
	at, err := s.l.Host("n1").PowerLoss(ctx)
	if err != nil {
		return err
	}
	if err := s.waitAck(ctx, at, underWay, "after it"); err != nil {
		return err
	}
	winner, err := s.primary(ctx, "n2", "n3")
	if err != nil {
		return err
	}
	s.say("%s is the primary now", winner)

	s.step("n1 comes back")
	if err := s.l.Host("n1").Boot(ctx); err != nil {
		return err
	}
	if err := s.startVrrpd(ctx, "n1"); err != nil {
		return err
	}
	others := without([]string{"n1", "n2", "n3"}, winner)
	if err := s.waitStreaming(ctx, winner, others...); err != nil {
		return err
	}
	s.say("n1 streams from %s as a standby", winner)
	if err := s.status(ctx, winner); err != nil {
		return err
	}

	s.step("planned move back to n1")
	res, err := s.l.Host(winner).Run(ctx, "/usr/bin/pgnotify", "switchover", "--to", "n1")
	fmt.Print(indent(res.Stdout + res.Stderr))
	if err != nil {
		return err
	}
	if err := s.waitAck(ctx, time.Now(), 0, "after the command has ended"); err != nil {
		return err
	}
	if err := s.waitStreaming(ctx, "n1", "n2", "n3"); err != nil {
		return err
	}
	s.say("n1 is the primary, n2 and n3 stream from it")
	if err := s.status(ctx, "n1"); err != nil {
		return err
	}
	return s.report(ctx)
}

func (s *show) say(format string, args ...any) {
	fmt.Printf("%6.1f s  %s\n", time.Since(s.began).Seconds(), fmt.Sprintf(format, args...))
}

// step names what follows for the meter and the reader.
func (s *show) step(name string) {
	fmt.Println()
	s.say("%s", name)
	s.meter.Mark(name)
	s.steps = append(s.steps, name)
}

func (s *show) startVrrpd(ctx context.Context, name string) error {
	_, err := s.l.Host(name).Spawn(ctx, "vrrpd", "/usr/sbin/vrrpd", "run")
	return err
}

// wait polls what cannot be waited for otherwise.
func wait(ctx context.Context, what string, f func(context.Context) (bool, string, error)) error {
	ctx, cancel := context.WithTimeout(ctx, stepTimeout)
	defer cancel()
	if err := lab.Poll(ctx, 10*time.Millisecond, func() (bool, string, error) { return f(ctx) }); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

func (s *show) waitMaster(ctx context.Context, name string) error {
	return wait(ctx, "wait for "+name+" to hold the address", func(ctx context.Context) (bool, string, error) {
		res, err := s.l.Host(name).Run(ctx, "/usr/sbin/ip", "-o", "address", "show", "to", lab.VIP(1).String())
		return err == nil && strings.TrimSpace(res.Stdout) != "", "not yet", nil
	})
}

func (s *show) waitStreaming(ctx context.Context, primary string, standbys ...string) error {
	ctx, cancel := context.WithTimeout(ctx, stepTimeout)
	defer cancel()
	return s.pg.WaitStreaming(ctx, primary, standbys...)
}

// underWay is how long an answer that left a host before its power did may take to be noticed; nobody takes over sooner.
const underWay = 50 * time.Millisecond

// waitAck waits for the first commit that comes at least so long after an event.
func (s *show) waitAck(ctx context.Context, after time.Time, least time.Duration, event string) error {
	ctx, cancel := context.WithTimeout(ctx, stepTimeout)
	defer cancel()
	at, err := s.meter.WaitAck(ctx, after.Add(least))
	if err != nil {
		return fmt.Errorf("no commit since: %w", err)
	}
	s.say("the client commits again, %.0f ms %s", float64(at.Sub(after))/float64(time.Millisecond), event)
	return nil
}

// primary is the host among names whose server is no standby.
func (s *show) primary(ctx context.Context, names ...string) (found string, err error) {
	err = wait(ctx, "find the primary", func(ctx context.Context) (bool, string, error) {
		for _, n := range names {
			if got, err := s.pg.SQL(ctx, n, "SELECT pg_is_in_recovery()"); err == nil && got == "f" {
				found = n
				return true, "", nil
			}
		}
		return false, "none of " + strings.Join(names, ", "), nil
	})
	return found, err
}

// status prints what an operator would look at.
func (s *show) status(ctx context.Context, on string) error {
	for _, argv := range [][]string{{"/usr/sbin/vrrpd", "status"}, {"/usr/bin/pgnotify", "status"}} {
		res, err := s.l.Host(on).Run(ctx, argv...)
		if err != nil {
			return err
		}
		fmt.Printf("\n          %s# %s\n%s\n", on, strings.Join(argv, " "), indent(res.Stdout))
	}
	return nil
}

// report prints the timeline and fails if a single acknowledged commit is missing.
func (s *show) report(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, stepTimeout)
	defer cancel()
	r, err := s.meter.Report(ctx)
	if err != nil {
		return err
	}
	fmt.Printf("\nwhat the client saw (no commit for longer than 50 ms); %s\n", lab.ReadLoad())
	worst := map[string]time.Duration{}
	for _, o := range r.Outages {
		worst[o.Step] = max(worst[o.Step], o.Duration)
		fmt.Printf("  %6.1f s  %7.1f ms  %s\n", o.Start.Sub(s.began).Seconds(), float64(o.Duration)/float64(time.Millisecond), o.Step)
	}
	fmt.Println()
	for _, name := range s.steps {
		text := "none"
		if d := worst[name]; d > 0 {
			text = fmt.Sprintf("%.0f ms", float64(d)/float64(time.Millisecond))
		}
		fmt.Printf("  outage of %-32s %s\n", name+":", text)
	}
	fmt.Printf("\n  %d commits acknowledged, commit p50 %.1f ms, lost = %d\n", r.Acked, float64(r.P50)/float64(time.Millisecond), len(r.Lost))
	if len(r.Lost) > 0 {
		return fmt.Errorf("%d acknowledged commits are lost", len(r.Lost))
	}
	return nil
}

// logs prints the end of what vrrpd wrote on each host.
func (s *show) logs() {
	for _, h := range s.l.Hosts() {
		b, err := os.ReadFile(filepath.Join(h.LogDir(), "vrrpd.log"))
		if err != nil {
			continue
		}
		lines := strings.Split(strings.TrimSpace(string(b)), "\n")
		fmt.Fprintf(os.Stderr, "\n%s, end of vrrpd's log:\n%s\n", h.Name(), indent(strings.Join(lines[max(0, len(lines)-20):], "\n")))
	}
}

func indent(text string) string {
	text = strings.TrimRight(text, "\n")
	if text == "" {
		return ""
	}
	return "          " + strings.ReplaceAll(text, "\n", "\n          ") + "\n"
}

func without(names []string, one string) []string {
	var rest []string
	for _, n := range names {
		if n != one {
			rest = append(rest, n)
		}
	}
	return rest
}
