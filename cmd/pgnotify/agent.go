package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	ufcli "github.com/urfave/cli/v2"
	"golang.org/x/sync/errgroup"

	"pgvrrp/internal/agent"
	"pgvrrp/internal/child"
	"pgvrrp/internal/cli"
	"pgvrrp/internal/control"
	"pgvrrp/internal/postgres"
	"pgvrrp/internal/promote"
	"pgvrrp/internal/quiet"
)

func agentCommand(h machine) *ufcli.Command {
	return &ufcli.Command{
		Name:  "agent",
		Usage: "Looks after one PostgreSQL server in quorum mode; pgnotify.service runs it.",
		Description: `It starts PostgreSQL as a standby, and promotes it under a grant of vrrpd's quorum alone. When it ends PostgreSQL runs on; while the
host shuts down it announces itself and stops the server.`,
		Action: cli.Args(func(c *ufcli.Context) error {
			s, err := h.settings(c)
			if err != nil {
				return err
			}
			if !s.settings.Quorum() {
				return fmt.Errorf("agent: %s has no resource: in hook mode hooks do the work, and no agent runs", s.settings.File)
			}
			return s.runAgent(c)
		}),
	}
}

// leaveTime is how long the end of a host waits for the server's.
const leaveTime = 40 * time.Second

// announceTime is how much of that the agent has for its way, which tells the others first.
const announceTime = 10 * time.Second

// leave stops the server as the host ends: the agent's way, or directly if the agent can't or is not done in time. It may never be while vrrpd does not
// answer, and a server that is not stopped is killed in the end.
func leave(ctx context.Context, log *slog.Logger, announced func(context.Context) (string, error), now func(context.Context) error) {
	ctx, cancel := context.WithTimeout(ctx, leaveTime)
	defer cancel()
	actx, acancel := context.WithTimeout(ctx, announceTime)
	defer acancel()
	_, err := announced(actx)
	if err == nil {
		return
	}
	log.Warn("stopping PostgreSQL directly", "reason", err)
	if err := now(ctx); err != nil {
		log.Warn("stop PostgreSQL", "reason", err)
	}
}

func (s *session) runAgent(c *ufcli.Context) error {
	set := s.settings
	dir := cli.String(c, "state-dir")
	place, err := promote.OwnersPlace(dir, set.DataDir)
	if err == nil {
		place, err = ownersPlace(place)
	}
	if err != nil {
		return err
	}
	if err := errors.Join(prepareStateDir(dir, place), s.becomeOwner(place)); err != nil {
		return err
	}
	if err := promote.FinishSwap(dir, set.DataDir); err != nil {
		return err
	}
	if err := s.ready(c, dir); err != nil {
		return err
	}
	lines := cli.NewBackground(s.sink())
	defer lines.Close()
	if s.log, err = cli.Logger(c, lines); err != nil {
		return err
	}
	unlock, err := s.store.Lock(withPatience(c.Context, time.Second), "agent", nil)
	if err != nil {
		return fmt.Errorf("agent: %w", err)
	}
	defer unlock()
	family := agent.NewFamily(set.Port)
	m := &agent.Machine{Settings: set, Store: s.store, Config: s.config(), Log: s.log, Now: quiet.BootTime, Copy: s.clone, BinDir: binDir}
	m.SetFamily(family)
	if err := m.Open(); err != nil {
		return err
	}
	defer m.Close()
	client := control.NewClient(cli.String(c, "socket"))
	defer client.Close()
	// Looks are short, frequent and mostly waiting. A second processor would make each one wake more threads than it has work for.
	runtime.GOMAXPROCS(1)
	clock, err := quiet.OpenClock()
	if err != nil {
		return fmt.Errorf("agent: %w", err)
	}
	defer func() { _ = clock.Close() }() // its task may have closed it
	a, err := agent.New(agent.Options{
		Settings: set, Keeper: s.store, Database: m, Vrrpd: client, Log: s.log, NewTimer: clock.NewTimer, Note: s.store.Append, Family: family,
		Ready: func() { s.tell(daemon.SdNotifyReady) },
	})
	if err != nil {
		return err
	}
	server, err := agent.Listen(cli.String(c, "agent-socket"), a, s.log)
	if err != nil {
		return err
	}
	// The agent outlives the order to end for as long as the end of the host needs it.
	run, cancel := context.WithCancel(context.WithoutCancel(c.Context))
	defer cancel()
	tasks, ctx := errgroup.WithContext(run)
	tasks.Go(func() error { return clock.Run(ctx) })
	tasks.Go(func() error { defer cancel(); return a.Run(ctx) })
	tasks.Go(func() error { return server.Run(ctx) })
	if set.Listen.IsValid() {
		rest := &agent.REST{Agent: a, Glance: m.Facts, Version: version, Scope: set.Resource, Log: s.log}
		tasks.Go(func() error { return rest.Run(ctx, set.Listen) })
	}
	tasks.Go(func() error {
		defer cancel()
		select {
		case <-ctx.Done():
			return nil
		case <-c.Context.Done():
		}
		s.tell(daemon.SdNotifyStopping)
		if hostEnds(ctx) {
			s.log.Info("the host shuts down: leaving, then stopping PostgreSQL")
			leave(ctx, s.log, a.Stop, m.StopNow)
		}
		return nil
	})
	s.log.Info("agent started", "resource", set.Resource, "data_dir", set.DataDir, "version", version)
	err = tasks.Wait()
	s.log.Info("agent ended")
	return err
}

func (s *session) tell(state string) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		s.log.Warn("tell systemd", "reason", err)
	}
}

// ownersPlace is the data directory, or what it will be made in.
func ownersPlace(dataDir string) (string, error) {
	for place := dataDir; ; {
		empty, err := isEmpty(place)
		if err != nil {
			return "", err
		}
		if !empty || place == "/" {
			return place, nil
		}
		if exists(place) {
			return place, nil
		}
		place = parent(place)
	}
}

func withPatience(ctx context.Context, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeoutCause(ctx, d, errors.New("another pgnotify is at work on the same data directory"))
	context.AfterFunc(ctx, cancel)
	return ctx
}

// hostEnds reports whether systemd shuts the host down.
func hostEnds(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	var out strings.Builder
	// Any state but running is a failure of the command.
	_, _ = child.Run(ctx, child.Command{Argv: []string{"systemctl", "is-system-running"}, Stdout: &out, Dir: "/"})
	return strings.TrimSpace(out.String()) == "stopping"
}

func initCommand(h machine) *ufcli.Command {
	return &ufcli.Command{
		Name:  "init",
		Usage: "Begins quorum mode, once, on the node whose data is the truth; the others join by themselves.",
		Description: `A majority of voters must run, and the agent here. A running primary is taken over as it is, without a restart where its settings
allow. It is refused if the resource is initialized already.`,
		Flags: []ufcli.Flag{
			&ufcli.IntFlag{Name: "sync-num", Value: 2, Usage: "so many standbys shall have each commit before it is acknowledged, a `NUMBER`"},
			&ufcli.IntFlag{Name: "min-copies", Value: 1, Usage: "commits wait while fewer nodes than `NUMBER` have them; 1: the last node goes on alone"},
			&ufcli.BoolFlag{Name: "restart", Usage: "restart PostgreSQL if settings wait for that; it ends every session"},
			&ufcli.DurationFlag{Name: "wait", Value: time.Minute, Usage: "give up waiting for the first grant after a `TIME` with its unit"},
		},
		Action: cli.Args(func(c *ufcli.Context) error {
			if c.Int("sync-num") < 1 || c.Int("min-copies") < 1 || c.Int("min-copies") > c.Int("sync-num")+1 || c.Duration("wait") <= 0 {
				return cli.Usagef("pgnotify init: want --sync-num 1 or more, --min-copies from 1 to sync-num + 1, --wait above 0")
			}
			s, a, err := h.onlyQuorum(c)
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeoutCause(c.Context, c.Duration("wait"), errors.New("no grant yet: pgnotify explain says what is missing"))
			defer cancel()
			return s.order(ctx, a, "init", agent.Request{Init: agent.InitRequest{SyncNum: c.Int("sync-num"), MinCopies: c.Int("min-copies"), Restart: c.Bool("restart")}})
		}),
	}
}

func pauseCommand(h machine, on bool) *ufcli.Command {
	name, usage := "resume", "Lets elections go on after pgnotify pause."
	var flags []ufcli.Flag
	if on {
		name, usage = "pause", "Stops elections: no failover until pgnotify resume."
		flags = append(flags, &ufcli.StringFlag{Name: "reason", Usage: "a `TEXT` for the record (default: none)"})
	}
	return &ufcli.Command{
		Name: name, Usage: usage, Flags: flags,
		Action: cli.Args(func(c *ufcli.Context) error {
			s, a, err := h.onlyQuorum(c)
			if err != nil {
				return err
			}
			q := agent.Request{On: on}
			if on {
				q.Reason = c.String("reason")
			}
			return s.order(c.Context, a, "pause", q)
		}),
	}
}

func maintenanceCommand(h machine) *ufcli.Command {
	return &ufcli.Command{
		Name:        "maintenance",
		Usage:       "Takes this standby out of the synchronous set and leaves its server to you (on), or ends that (off).",
		ArgsUsage:   "on|off",
		Description: "It lasts over a restart of the agent or the host. `pgnotify start` ends it, too.",
		Action: cli.Args(func(c *ufcli.Context) error {
			word := c.Args().First()
			if word != "on" && word != "off" {
				return cli.Usagef("pgnotify maintenance: want on or off (got %q)", word)
			}
			s, a, err := h.onlyQuorum(c)
			if err != nil {
				return err
			}
			return s.order(c.Context, a, "maintenance", agent.Request{On: word == "on"})
		}, "on|off"),
	}
}

func setCommand(h machine) *ufcli.Command {
	return &ufcli.Command{
		Name:      "set",
		Usage:     "Changes sync_num or min_copies, on every node, in the quorum's log.",
		ArgsUsage: "KEY VALUE",
		Description: `KEY is sync_num (so many standbys shall have each commit before it is acknowledged) or min_copies (commits wait while fewer nodes have
them), VALUE 1 to 7. min_copies above sync_num + 1 is refused, whichever of the two is changed: every commit would wait for ever.`,
		Action: cli.Args(func(c *ufcli.Context) error {
			key := c.Args().Get(0)
			n, err := atoiByte(c.Args().Get(1))
			if key != "sync_num" && key != "min_copies" {
				return cli.Usagef("pgnotify set: KEY: want sync_num or min_copies (got %q)", key)
			}
			if err != nil || n < 1 || n > 7 {
				return cli.Usagef("pgnotify set: VALUE: want a number from 1 to 7 (got %q)", c.Args().Get(1))
			}
			s, a, err := h.onlyQuorum(c)
			if err != nil {
				return err
			}
			return s.order(c.Context, a, "set", agent.Request{Key: key, Value: n})
		}, "KEY", "VALUE"),
	}
}

func doctorCommand(h machine) *ufcli.Command {
	return &ufcli.Command{
		Name:  "doctor",
		Usage: "Checks every requirement of quorum mode on this node; exits 1 if a promise can't be kept.",
		Flags: []ufcli.Flag{jsonFlag()},
		Action: cli.Args(func(c *ufcli.Context) error {
			s, a, err := h.onlyQuorum(c)
			if err != nil {
				return err
			}
			defer a.Close()
			found, err := a.Doctor(c.Context)
			if err != nil {
				return err
			}
			faults := 0
			for _, f := range found {
				if f.Severity == postgres.Fault {
					faults++
				}
			}
			if c.Bool("json") {
				err = cli.JSON(s.stdout, found)
			} else {
				for _, f := range found {
					fmt.Fprintln(s.stdout, f)
				}
				if len(found) == 0 {
					fmt.Fprintln(s.stdout, "all is as it should be")
				}
			}
			if err == nil && faults > 0 {
				return fmt.Errorf("doctor: %d faults", faults)
			}
			return err
		}),
	}
}
