package main

import (
	"fmt"

	ufcli "github.com/urfave/cli/v2"

	"pgvrrp/internal/agent"
	"pgvrrp/internal/cli"
	"pgvrrp/internal/promote"
)

func notifyCommand(h machine) *ufcli.Command {
	return &ufcli.Command{
		Name:      "notify",
		Usage:     "Takes a change of state, as the notify hook: promotes on MASTER, follows the VIP on BACKUP, steps down on FAULT and STOP.",
		ArgsUsage: "TYPE NAME STATE PRIORITY",
		Description: `TYPE is INSTANCE or GROUP, NAME the vrrp_instance or vrrp_sync_group, STATE is MASTER, BACKUP, FAULT, STOP or DELETED, PRIORITY 0 to 255.
In quorum mode MASTER waits until the agent has the new rule in force, and all else is the agent's business.
A hook that a newer state overtakes is dropped. pg_switch_wal, CHECKPOINT, pg_rewind and copies run behind the hook.
It logs to stderr, to syslog if that is /dev/null, and to [log] file if that is set.`,
		Flags: []ufcli.Flag{dryRunFlag()},
		Action: cli.Args(func(c *ufcli.Context) error {
			ev, err := parseEvent(c.Args().Slice())
			if err != nil {
				return err
			}
			if s, a, err := h.quorum(c); err != nil || a != nil {
				if err != nil {
					return err
				}
				return s.failed(s.notifyAgent(c, a, ev))
			}
			s, err := h.open(c)
			if err != nil {
				return err
			}
			if ev.State == lowerPriority {
				s.log.Info("event", "instance", ev.Name, "to", ev.State, "outcome", promote.Nothing)
				return nil
			}
			e, err := s.engine()
			if err != nil {
				return s.failed(s.deliverAnyway(c, ev, err))
			}
			if c.Bool("dry-run") {
				_, p := e.Preview(c.Context, ev)
				return s.plan(p)
			}
			// The log has it too. vrrpd shows the last line that a hook wrote: that shall begin with the reason.
			return e.Deliver(c.Context, ev).Err
		}, "TYPE", "NAME", "STATE", "PRIORITY"),
	}
}

// notifyAgent waits for what the agent makes of a grant. It acts on vrrpd's stream of events, not on hooks: the others need no waiting.
func (s *session) notifyAgent(c *ufcli.Context, a *agent.Client, ev promote.Event) error {
	defer a.Close()
	if c.Bool("dry-run") {
		fmt.Fprintln(s.stdout, "the agent acts by the quorum's log; MASTER waits until its rule is in force")
		return nil
	}
	if ev.State != promote.Master {
		return nil
	}
	text, err := a.Order(c.Context, "hook", agent.Request{State: ev.State})
	s.log.Info("event", "instance", ev.Name, "to", ev.State, "outcome", text, "reason", err)
	return err
}

// lowerPriority is keepalived's word for a master that heard a lower priority: no change of state, and it must not overtake one.
const lowerPriority = "MASTER_RX_LOWER_PRI"

func parseEvent(words []string) (promote.Event, error) {
	ev := promote.Event{Type: words[0], Name: words[1], State: words[2]}
	switch ev.Type {
	case "INSTANCE", "GROUP":
	default:
		return ev, cli.Usagef("pgnotify notify: TYPE: want INSTANCE or GROUP (got %q)", ev.Type)
	}
	if ev.Name == "" || len(ev.Name) > 200 {
		return ev, cli.Usagef("pgnotify notify: NAME: want a name of 1 to 200 characters (got %q)", ev.Name)
	}
	switch ev.State {
	case promote.Master, promote.Backup, promote.Fault, promote.Stop, promote.Deleted, lowerPriority:
	default:
		return ev, cli.Usagef("pgnotify notify: STATE: want MASTER, BACKUP, FAULT, STOP or DELETED (got %q)", ev.State)
	}
	var err error
	if ev.Priority, err = atoiByte(words[3]); err != nil {
		return ev, cli.Usagef("pgnotify notify: PRIORITY: want a number from 0 to 255 (got %q)", words[3])
	}
	return ev, nil
}

// deliverAnyway makes the event the newest state though the server can't be opened: a hook that still waits must not act
// on an older one. A MASTER is tried again behind the hook.
func (s *session) deliverAnyway(c *ufcli.Context, ev promote.Event, why error) error {
	if c.Bool("dry-run") {
		return why
	}
	me, err := promote.ThisProcess()
	if err == nil {
		_, err = s.store.Deliver(c.Context, ev, me)
	}
	if err != nil {
		s.log.Error("event not noted", "instance", ev.Name, "to", ev.State, "reason", err)
	} else if ev.State == promote.Master {
		if err := s.detach(promote.Behind("retry", ev.Name)...); err != nil {
			s.log.Error("it will not be tried again", "reason", err)
		}
	}
	return why
}
