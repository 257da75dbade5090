package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"pgvrrp/test/lab"
)

func main() {
	lab.Main()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// benches in the order in which they run.
var benches = []bench{
	{"takeover", takeover, false},
	{"cost", cost, false},
	{"mass", mass, false},
	{"reload", reload, false},
	{"spacing", spacing, false},
	{"quorum", quorum, false},
	{"agent", agents, false},
	{"overhead", overhead, false},
	{"soak", soak, true},
}

// bench is one of them; asked: it runs only when it is named.
type bench struct {
	name  string
	run   func(context.Context, settings) error
	asked bool
}

type settings struct {
	bin       string
	runs      int
	instances []int
	seconds   int
	load      time.Duration
	clients   int
	seed      uint64
	part      string
	etc, logs string
}

// wants reports whether a part of a bench is to run.
func (s settings) wants(name string) bool { return strings.Contains(name, s.part) }

func (s settings) orRuns(otherwise int) int    { return cmp.Or(s.runs, otherwise) }
func (s settings) orSeconds(otherwise int) int { return cmp.Or(s.seconds, otherwise) }

func run(ctx context.Context, args []string) error {
	var s settings
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.StringVar(&s.bin, "bin", lab.BinDir(), "directory of vrrpd and pgnotify")
	flags.IntVar(&s.runs, "runs", 0, "runs of each kind (default 20 beside keepalived, 3 of many instances, 50 by quorum, 30 with PostgreSQL, 7 pairs of overhead, 200 failovers of soak)")
	instances := flags.String("instances", "1,100,250,1000", "numbers of vrrp_instances for the cost, each at 1 and at 0.1 s")
	flags.IntVar(&s.seconds, "seconds", 0, "how long one thing is measured (default 10 for cost, 15 for spacing, 60 for load, 8 for overhead)")
	flags.DurationVar(&s.load, "load", 0, "how long leases are watched beside busy loops and pgbench (default as -seconds says, else 60s; 600s is the whole)")
	flags.IntVar(&s.clients, "clients", 0, "of pgbench in overhead (default: 1, then 8)")
	flags.Uint64Var(&s.seed, "seed", 0, "of soak (default: another one each time)")
	flags.StringVar(&s.part, "part", "", "of agent: only what has this text in its name")
	flags.StringVar(&s.etc, "etc", "etc", "directory of the sample configurations")
	flags.StringVar(&s.logs, "logs", "", "agent, overhead and soak leave all logs in this directory, the daemons' at level debug; without, those of a failure in a temporary one")
	var names []string
	for _, b := range benches {
		names = append(names, b.name)
	}
	only := flags.String("only", "", "names of benches, separated by commas: "+strings.Join(names, ", ")+" (default: all but soak)")
	if err := flags.Parse(args); err != nil {
		return err
	}
	for _, text := range strings.Split(*instances, ",") {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 || n > sides*255 {
			return fmt.Errorf("-instances %s: expected numbers from 1 to %d", *instances, sides*255)
		}
		s.instances = append(s.instances, n)
	}
	var want []string
	if *only != "" {
		want = strings.Split(*only, ",")
	}
	for _, w := range want {
		if !slices.Contains(names, w) {
			return fmt.Errorf("no bench named %q", w)
		}
	}
	var errs []error
	for _, b := range benches {
		if len(want) > 0 && !slices.Contains(want, b.name) || len(want) == 0 && b.asked {
			continue
		}
		fmt.Printf("\n%s\n", b.name)
		if err := b.run(ctx, s); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", b.name, err))
		}
		if ctx.Err() != nil {
			break
		}
	}
	return errors.Join(errs...)
}

// router is a VRRP daemon under test.
type router struct {
	name string
	argv func(file string) []string
}

func routers() []router {
	return []router{
		{"vrrpd", func(file string) []string { return []string{"/usr/sbin/vrrpd", "run", "-f", file} }},
		{"keepalived", func(file string) []string {
			return []string{"/usr/sbin/keepalived", "-n", "-l", "-P", "-f", file, "-p", "/run/ka.pid", "-r", "/run/ka-vrrp.pid"}
		}},
	}
}

// newLab makes a lab whose hosts have vrrpd.
func newLab(ctx context.Context, s settings, hosts int) (*lab.Lab, error) {
	return lab.New(ctx, lab.Options{Hosts: hosts, Programs: map[string]string{
		"/usr/sbin/vrrpd": filepath.Join(s.bin, "vrrpd"), "/usr/bin/pgnotify": filepath.Join(s.bin, "pgnotify"),
	}})
}

// benchConf is the configuration on each host.
const benchConf = "/etc/bench.conf"

// start runs r on h with this configuration.
func (r router) start(ctx context.Context, h *lab.Host, config string) (*lab.Proc, error) {
	if err := h.WriteFile(benchConf, []byte(config), 0o644); err != nil {
		return nil, err
	}
	return h.Spawn(ctx, r.name, r.argv(benchConf)...)
}

// kill ends every process of r on h at once.
func (r router) kill(ctx context.Context, h *lab.Host) error {
	p := h.Proc(r.name)
	processes, err := h.Processes()
	if err != nil {
		return err
	}
	// Stopped first, all of them: the death of keepalived's parent is a SIGTERM to its child, which would say goodbye.
	for _, sig := range []syscall.Signal{syscall.SIGSTOP, syscall.SIGKILL} {
		for _, q := range processes {
			if q.Name != r.name {
				continue
			}
			if err := h.Signal(ctx, q.PID, sig); err != nil && !errors.Is(err, syscall.ESRCH) {
				return err
			}
		}
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	_, err = p.Wait(ctx)
	var exit *lab.ExitError
	if err != nil && !errors.As(err, &exit) {
		return err
	}
	return nil
}

// series is a row of figures.
type series []float64

func (s series) at(q float64) float64 {
	sorted := slices.Clone(s)
	slices.Sort(sorted)
	return sorted[min(len(sorted)-1, int(q*float64(len(sorted))))]
}

func (s series) String() string {
	return fmt.Sprintf("min %.2f  p50 %.2f  p90 %.2f  max %.2f", s.at(0), s.at(0.5), s.at(0.9), s.at(1))
}
