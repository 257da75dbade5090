package cells

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"pgvrrp/test/lab"
	"pgvrrp/test/lab/meter"
)

// Options say where things are.
type Options struct {
	Bin  string // directory of vrrpd and pgnotify
	Etc  string // directory of the sample configurations
	Seed uint64
	Dir  string // of the hosts' disks; see lab.Options
	// Machine, if not nil, lets other labs of this process stand beside this one.
	Machine *lab.Machine
}

// Site is one topology on booted hosts, on which one cell after the other is run.
type Site struct {
	Topology Topology

	o          Options
	l          *lab.Lab
	q          *lab.Quorum
	priorities map[string]int
	witnesses  []string
	failed     []string // hosts that are out of order now, in the order in which they failed
	how        Fault
}

// setupTime bounds what happens before a cell.
const setupTime = 90 * time.Second

// Boot makes the hosts and a whole cluster. The caller closes it.
func Boot(ctx context.Context, t Topology, o Options) (_ *Site, err error) {
	s := newSite(t, o)
	lo := lab.Options{Dir: o.Dir, Machine: o.Machine, Hosts: t.Nodes, Programs: map[string]string{"/usr/sbin/vrrpd": filepath.Join(o.Bin, "vrrpd"), "/usr/bin/pgnotify": filepath.Join(o.Bin, "pgnotify")}}
	for k, w := range s.witnesses {
		lo.Extra = append(lo.Extra, lab.HostSpec{Name: w, Index: 21 + k})
	}
	if s.l, err = lab.New(context.WithoutCancel(ctx), lo); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.l.Close())
		}
	}()
	ctx, cancel := context.WithTimeout(ctx, setupTime)
	defer cancel()
	if s.q, err = s.l.NewQuorum(ctx, lab.QuorumOptions{Sample: filepath.Join(o.Etc, t.Sample), Priorities: s.priorities}); err != nil {
		return nil, err
	}
	holder, err := s.q.Init(ctx)
	if err != nil {
		return nil, err
	}
	// The prober is refused by every standby all the time: no use in logs.
	for _, sql := range []string{meter.RegisterSchema, probeSchema, "ALTER TABLE register OWNER TO app", "ALTER TABLE probe OWNER TO app", "ALTER ROLE app SET log_min_messages = fatal"} {
		if _, err := s.q.PG.SQL(ctx, holder, sql); err != nil {
			return nil, err
		}
	}
	return s, nil
}

func newSite(t Topology, o Options) *Site {
	s := &Site{Topology: t, o: o, priorities: map[string]int{}}
	for k := range t.Witnesses {
		s.witnesses = append(s.witnesses, fmt.Sprintf("w%d", k+1))
	}
	for k, p := range s.random("priorities").Perm(t.Nodes) {
		s.priorities[fmt.Sprintf("n%d", k+1)] = 100 + 10*p
	}
	return s
}

// Close removes the hosts.
func (s *Site) Close() error { return s.l.Close() }

// SaveLogs keeps the logs of all processes in a directory.
func (s *Site) SaveLogs(dir string) error { return s.l.SaveLogs(dir) }

// Version is the PostgreSQL that runs.
func (s *Site) Version(ctx context.Context) (string, error) {
	return s.q.PG.SQL(ctx, s.q.Nodes[0], "SHOW server_version")
}

// random is the same for the same seed and name.
func (s *Site) random(name string) *rand.Rand {
	h := fnv.New64a()
	_, _ = h.Write([]byte(name)) // never fails
	return rand.New(rand.NewPCG(s.o.Seed, h.Sum64()))
}

// placeTries is how often the primary is moved to where the seed wants it. On a busy machine a standby may be out of the rule for a moment,
// and a switchover is refused or aborted then, as it must be.
const placeTries = 3

// place makes the cluster whole and moves the primary to where the cell's seed wants it. It returns who plays which role, and what went
// wrong on the way.
func (s *Site) place(ctx context.Context, c Cell) (roles map[Role]string, notes []string, err error) {
	roles = s.cast(c)
	primary := roles[Primary]
	for range placeTries {
		if err := s.q.Voters(ctx); err != nil {
			return nil, notes, err
		}
		holder, err := s.q.Whole(ctx)
		if err != nil {
			return nil, notes, err
		}
		if holder == primary {
			return roles, notes, nil
		}
		_, err = s.l.Host(holder).Run(ctx, "pgnotify", "switchover", "--to", primary)
		if err == nil {
			if holder, err = s.q.Whole(ctx); err == nil && holder == primary {
				return roles, notes, nil
			}
			err = errors.Join(err, fmt.Errorf("switchover to %s: %s holds", primary, holder))
		}
		notes = append(notes, err.Error())
	}
	return nil, notes, fmt.Errorf("move the primary to %s: %s", primary, strings.Join(notes, "; "))
}

// cast says by the seed who plays which role.
func (s *Site) cast(c Cell) map[Role]string {
	r := s.random(c.ID())
	var nodes []string
	for k := range s.Topology.Nodes {
		nodes = append(nodes, fmt.Sprintf("n%d", k+1))
	}
	r.Shuffle(len(nodes), func(i, j int) { nodes[i], nodes[j] = nodes[j], nodes[i] })
	roles := map[Role]string{Primary: nodes[0], Standby: nodes[1]}
	if len(nodes) > 2 {
		roles[Second], roles[Better], roles[Lesser] = nodes[2], nodes[1], nodes[2]
		if s.priorities[nodes[2]] > s.priorities[nodes[1]] {
			roles[Better], roles[Lesser] = nodes[2], nodes[1]
		}
	}
	w := r.Perm(len(s.witnesses))
	roles[Witness] = s.witnesses[w[0]]
	if len(w) > 1 {
		roles[Witness2] = s.witnesses[w[1]]
	}
	return roles
}

// daemons are the programs of ours on a host.
func (s *Site) daemons(name string) []string {
	if s.isWitness(name) {
		return []string{"vrrpd"}
	}
	return []string{"vrrpd", "agent"}
}

func (s *Site) isWitness(name string) bool { return slices.Contains(s.witnesses, name) }

// fail lets hosts fail at the same instant.
func (s *Site) fail(ctx context.Context, f Fault, names ...string) error {
	before := slices.Clone(s.failed)
	s.how = f
	s.failed = append(s.failed, names...)
	if f == Power {
		_, err := s.l.PowerLoss(ctx, names...)
		return err
	}
	if f == Split {
		// On one side those that fail, on the other the rest with the clients.
		if err := s.l.Isolate(s.failed); err != nil {
			return err
		}
		if len(before) == 0 {
			return nil
		}
		return s.l.HealBetween(before, names)
	}
	var g errgroup.Group
	for _, name := range names {
		g.Go(func() error { return s.failOne(ctx, f, name) })
	}
	return g.Wait()
}

func (s *Site) failOne(ctx context.Context, f Fault, name string) error {
	h := s.l.Host(name)
	switch f {
	case Postmaster, Daemons:
		if f == Postmaster && !s.isWitness(name) {
			pid, err := s.q.PG.PID(name)
			if err != nil {
				return err
			}
			return h.Signal(ctx, pid, syscall.SIGKILL)
		}
		// Stopped first: neither sees the other die.
		for _, sig := range []syscall.Signal{syscall.SIGSTOP, syscall.SIGKILL} {
			for _, daemon := range s.daemons(name) {
				if err := h.Kill(ctx, daemon, sig); err != nil {
					return err
				}
			}
		}
		return nil
	case Cable:
		return h.CutLinks()
	case Pause:
		return h.Pause(ctx)
	}
	return fmt.Errorf("fault %q of one host is not known", f)
}

// repair brings a failed host back.
func (s *Site) repair(ctx context.Context, name string) error {
	if !slices.Contains(s.failed, name) {
		return fmt.Errorf("repair %s: it has not failed", name)
	}
	s.failed = slices.DeleteFunc(s.failed, func(n string) bool { return n == name })
	h := s.l.Host(name)
	switch s.how {
	case Power:
		if err := h.Boot(ctx); err != nil {
			return err
		}
		return s.q.Start(ctx, name)
	case Postmaster, Daemons:
		if s.how == Postmaster && !s.isWitness(name) {
			return nil // the agent does it
		}
		for _, daemon := range s.daemons(name) {
			if _, err := h.Proc(daemon).Wait(ctx); err != nil {
				return err
			}
		}
		return s.q.Start(ctx, name)
	case Cable:
		return h.HealLinks()
	case Pause:
		return h.Resume(ctx)
	case Split:
		if len(s.failed) == 0 {
			return s.l.Heal()
		}
		if err := s.l.HealBetween([]string{name}, s.l.Names(s.failed...)); err != nil {
			return err
		}
		return s.l.Partition([]string{name}, s.failed)
	}
	return fmt.Errorf("fault %q can't be repaired", s.how)
}

// repairAll brings back whatever is out of order.
func (s *Site) repairAll(ctx context.Context) error {
	var errs []error
	for len(s.failed) > 0 {
		errs = append(errs, s.repair(ctx, s.failed[0]))
	}
	return errors.Join(errs...)
}

// equal waits until every standby has replayed all, and compares the rows of all tables on all nodes with where they stand (ctid) and
// who wrote them (xmin): a server that went astray on the same timeline differs in those.
func (s *Site) equal(ctx context.Context) error {
	holder, err := s.q.Whole(ctx)
	if err != nil {
		return err
	}
	// A session whose client has gone may still be about to commit.
	err = lab.Poll(ctx, 5*time.Millisecond, func() (bool, string, error) {
		got, err := s.q.PG.SQL(ctx, holder, "SELECT count(*) FROM pg_stat_activity WHERE application_name IN ('meter', 'probe')")
		return got == "0", fmt.Sprintf("%s of the clients' sessions on %s have not ended: %v", got, holder, err), nil
	})
	if err != nil {
		return fmt.Errorf("wait for the end of the clients: %w", err)
	}
	end, err := s.q.PG.SQL(ctx, holder, "SELECT pg_current_wal_insert_lsn()")
	if err != nil {
		return err
	}
	var parts []string
	for _, t := range []string{"meter", "register", "probe", "pg_class", "pg_attribute"} {
		columns := "t::text"
		if strings.HasPrefix(t, "pg_") {
			columns = "''" // some of their columns are hints
		}
		parts = append(parts, fmt.Sprintf("SELECT '%s', count(*), coalesce(sum(hashtextextended(t.ctid::text || ' ' || t.xmin::text || ' ' || %s, 0)::numeric), 0) FROM %s t", t, columns, t))
	}
	sql := strings.Join(parts, " UNION ALL ") + " ORDER BY 1"
	first := ""
	for _, n := range append([]string{holder}, slices.DeleteFunc(slices.Clone(s.q.Nodes), func(n string) bool { return n == holder })...) {
		if n != holder {
			err := lab.Poll(ctx, 5*time.Millisecond, func() (bool, string, error) {
				got, err := s.q.PG.SQL(ctx, n, "SELECT pg_last_wal_replay_lsn() >= '"+end+"'::pg_lsn")
				return got == "t", fmt.Sprintf("%s has not replayed %s: %q %v", n, end, got, err), nil
			})
			if err != nil {
				return fmt.Errorf("wait for replay: %w", err)
			}
		}
		got, err := s.q.PG.SQL(ctx, n, sql)
		if err != nil {
			return err
		}
		if first == "" {
			first = got
		} else if got != first {
			return fmt.Errorf("%s and %s differ:\n%s\n%s", holder, n, first, got)
		}
	}
	return nil
}
