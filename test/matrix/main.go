package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"pgvrrp/test/lab"
	"pgvrrp/test/matrix/cells"
)

func main() {
	lab.Main()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "matrix:", err)
		os.Exit(1)
	}
}

// settings are the command line.
type settings struct {
	cells.Options
	topology, fault, order, gap, cell string
	list                              bool
	n                                 int
	limit                             time.Duration
	logs, doc, results                string
	again                             bool
}

func run(ctx context.Context, args []string) error {
	var s settings
	flags := flag.NewFlagSet("matrix", flag.ContinueOnError)
	flags.StringVar(&s.Bin, "bin", lab.BinDir(), "directory of vrrpd and pgnotify")
	flags.StringVar(&s.Etc, "etc", "etc", "directory of the sample configurations")
	flags.StringVar(&s.Dir, "dir", memory(), "directory of the hosts' disks; in memory a rewind takes a second, on a slow disk a minute")
	flags.Uint64Var(&s.Seed, "seed", 1, "places the roles")
	flags.StringVar(&s.topology, "topology", "", "only these, for instance AB")
	flags.StringVar(&s.fault, "fault", "", "only this fault: power, postmaster, daemons, cable, pause, split")
	flags.StringVar(&s.order, "order", "", "only orders that contain this text")
	flags.StringVar(&s.gap, "gap", "", "only this gap: 0s, 1s, 2s, 20s")
	flags.StringVar(&s.cell, "cell", "", "only the cell of this name")
	flags.BoolVar(&s.list, "list", false, "print the names of the cells and their count, run nothing")
	flags.IntVar(&s.n, "n", 0, "run the first so many (default: all)")
	flags.DurationVar(&s.limit, "time", 0, "begin no cell after so long (default: no limit)")
	flags.StringVar(&s.logs, "logs", "build/matrix", "directory for the logs of cells that fail")
	flags.StringVar(&s.doc, "doc", "", "write the table there (default: docs/double-failure-matrix.md if every cell has run, else result.md beside the logs)")
	flags.StringVar(&s.results, "results", "", "keep the verdicts in this file (default: results.json beside the logs)")
	flags.BoolVar(&s.again, "continue", false, "leave out the cells that have a verdict for this seed in the file of results")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	chosen, err := s.choose()
	if err != nil {
		return err
	}
	if s.list {
		for _, c := range chosen {
			fmt.Println(c.ID())
		}
		fmt.Printf("%d cells of %d\n", len(chosen), len(cells.All()))
		return nil
	}
	if s.results == "" {
		s.results = filepath.Join(s.logs, "results.json")
	}
	return s.all(ctx, chosen)
}

// memory is a file system in memory with enough room, "" for none: power loss as the lab has it loses no file, so that nothing is tested
// less there.
func memory() string {
	const dir, enough = "/dev/shm", 6 << 30
	var st unix.Statfs_t
	if os.Getenv("PGVRRP_LAB_DIR") != "" || unix.Statfs(dir, &st) != nil || st.Type != unix.TMPFS_MAGIC || st.Bavail*uint64(st.Bsize) < enough {
		return ""
	}
	return dir
}

// choose applies the filters.
func (s *settings) choose() ([]cells.Cell, error) {
	var chosen []cells.Cell
	for _, c := range cells.All() {
		if s.topology != "" && !strings.Contains(s.topology, c.Topology.Name) || s.fault != "" && string(c.Fault) != s.fault ||
			!strings.Contains(c.Order, s.order) || s.gap != "" && c.Gap.String() != s.gap || s.cell != "" && c.ID() != s.cell {
			continue
		}
		chosen = append(chosen, c)
	}
	if s.n > 0 && len(chosen) > s.n {
		chosen = chosen[:s.n]
	}
	if len(chosen) == 0 {
		return nil, errors.New("no cell fits (-list shows all)")
	}
	return chosen, nil
}

// all runs cells, one topology after the other on hosts that are booted once for each, and writes the table.
func (s *settings) all(ctx context.Context, chosen []cells.Cell) (err error) {
	b, err := s.read(len(chosen) == len(cells.All()))
	if err != nil {
		return err
	}
	begun, count := time.Now(), len(chosen)
	fmt.Printf("%d cells of %d, seed %d; %s\n", count, len(cells.All()), s.Seed, lab.ReadLoad())
	var site *cells.Site
	defer func() {
		if site != nil {
			err = errors.Join(err, site.Close())
		}
	}()
	failed := 0
	for k, c := range chosen {
		if ctx.Err() != nil || s.limit > 0 && time.Since(begun) > s.limit {
			fmt.Printf("%d cells were not run\n", count-k)
			break
		}
		if s.again && b.has(c) {
			continue
		}
		if site != nil && site.Topology != c.Topology {
			if err := site.Close(); err != nil {
				return err
			}
			site = nil
		}
		if site == nil {
			if site, err = cells.Boot(ctx, c.Topology, s.Options); err != nil {
				return fmt.Errorf("boot topology %s: %w", c.Topology.Name, err)
			}
			if b.PostgreSQL, err = site.Version(ctx); err != nil {
				return err
			}
		}
		v, err := site.Run(ctx, c)
		if ctx.Err() != nil {
			break
		}
		if err != nil {
			v.Failures = append(v.Failures, err.Error())
		}
		fmt.Printf("%3d/%d %s\n", k+1, count, line(v))
		for _, n := range v.Notes {
			fmt.Printf("        before: %s\n", n)
		}
		if len(v.Failures) > 0 {
			failed++
			s.failed(site, v)
			if err := site.Recover(ctx); err != nil {
				fmt.Printf("        the hosts are booted anew: %v\n", err)
				if err := site.Close(); err != nil {
					return err
				}
				site = nil
			}
		}
		b.add(v)
		if err := s.write(b); err != nil {
			return err
		}
	}
	fmt.Printf("%d cells failed, %s, in %s; %s\n", failed, b.summary(), time.Since(begun).Round(time.Second), lab.ReadLoad())
	if failed > 0 {
		return fmt.Errorf("%d cells failed", failed)
	}
	return nil
}

// failed says what was wrong, where the logs are, and how to run the cell again.
func (s *settings) failed(site *cells.Site, v cells.Verdict) {
	for _, f := range v.Failures {
		fmt.Printf("        %s\n", strings.ReplaceAll(f, "\n", "\n        "))
	}
	name := strings.NewReplacer("/", "-", " ", "_", ",", "", ";", "", ":", "").Replace(v.Cell.ID())
	dir := filepath.Join(s.logs, fmt.Sprintf("%s-%s", name, time.Now().UTC().Format("20060102T150405")))
	if err := site.SaveLogs(dir); err != nil {
		fmt.Printf("        %v\n", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "verdict.txt"), []byte(line(v)+"\n"+strings.Join(v.Failures, "\n")+"\n"), 0o644); err != nil {
		fmt.Printf("        %v\n", err)
	}
	fmt.Printf("        logs: %s\n        again: bin/matrix -seed %d -cell '%s'\n", dir, s.Seed, v.Cell.ID())
}

// book is what is kept of runs.
type book struct {
	Seed       uint64
	Version    string
	Memory     bool // the hosts' disks are in memory
	PostgreSQL string
	Kernel     string
	Results    []result
}

type result struct {
	Cell      string
	At        time.Time
	Verdict   cells.Verdict
	Placement string
}

func (b *book) has(c cells.Cell) bool {
	for _, r := range b.Results {
		if r.Cell == c.ID() {
			return true
		}
	}
	return false
}

// add keeps the newest verdict of each cell.
func (b *book) add(v cells.Verdict) {
	id := v.Cell.ID()
	r := result{Cell: id, At: time.Now(), Verdict: v, Placement: v.Placement}
	for k := range b.Results {
		if b.Results[k].Cell == id {
			b.Results[k] = r
			return
		}
	}
	b.Results = append(b.Results, r)
}

// read takes up a file of results of the same seed and version, or begins one. A run of every cell begins one unless it continues; a run of
// some cells leaves the verdicts of the others.
func (s *settings) read(every bool) (*book, error) {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return nil, fmt.Errorf("ask for the kernel's version: %w", err)
	}
	b := &book{Seed: s.Seed, Memory: s.Dir != "" && s.Dir == memory(), Version: version(s.Bin), Kernel: unix.ByteSliceToString(u.Release[:])}
	if every && !s.again {
		return b, nil
	}
	text, err := os.ReadFile(s.results)
	if errors.Is(err, os.ErrNotExist) {
		return b, nil
	}
	var old book
	if err == nil {
		err = json.Unmarshal(text, &old)
	}
	if err != nil {
		return nil, fmt.Errorf("read results: %w", err)
	}
	if old.Seed != b.Seed || old.Version != b.Version || old.Memory != b.Memory {
		if !s.again {
			return b, nil
		}
		return nil, fmt.Errorf("read results: %s is of seed %d, version %s, disks in memory %t, this is seed %d, version %s, disks in memory %t", s.results, old.Seed, old.Version, old.Memory, b.Seed, b.Version, b.Memory)
	}
	return &old, nil
}

func version(bin string) string {
	out, err := exec.Command(filepath.Join(bin, "vrrpd"), "version").Output()
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(out))
}

// write keeps the results and writes the table.
func (s *settings) write(b *book) error {
	if err := os.MkdirAll(s.logs, 0o755); err != nil {
		return err
	}
	text, err := json.MarshalIndent(b, "", " ")
	if err != nil {
		return fmt.Errorf("keep results: %w", err)
	}
	if err := os.WriteFile(s.results, text, 0o644); err != nil {
		return fmt.Errorf("keep results: %w", err)
	}
	doc := s.doc
	if doc == "" {
		doc = filepath.Join(s.logs, "result.md")
		if len(b.Results) == len(cells.All()) {
			doc = "docs/double-failure-matrix.md"
		}
	}
	if err := os.WriteFile(doc, []byte(b.markdown()), 0o644); err != nil {
		return fmt.Errorf("write the table: %w", err)
	}
	return nil
}
