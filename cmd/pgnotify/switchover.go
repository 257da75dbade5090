package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	ufcli "github.com/urfave/cli/v2"

	"pgvrrp/internal/agent"
	"pgvrrp/internal/cli"
	"pgvrrp/internal/control"
	"pgvrrp/internal/promote"
)

func switchoverCommand(h machine) *ufcli.Command {
	return &ufcli.Command{
		Name:  "switchover",
		Usage: "Moves the primary and the VIP away from this node, and waits until another one has taken over.",
		Description: `In quorum mode it runs on any node: the holder's server makes a checkpoint, gives the address away and is stopped, and --to (default: the
standby that has most) is granted the next epoch once it has all of the WAL; if it is not to be, the old primary goes on.
In hook mode run it on the primary, as root, to whom alone vrrpd gives the VIP away; it is refused before anything is stopped if vrrpd would not.
It stops the server, so that the standbys have all of its WAL, and asks vrrpd to release the instance that holds the VIP; the hooks do the rest.
If the VIP can't be given away after all, this server is made the primary again.
VRRP decides by priority who takes over: with --to the move is refused if that node could not, and fails if another one did.
Under keepalived it says what to do instead.`,
		Flags: []ufcli.Flag{
			&ufcli.StringFlag{Name: "to", Usage: "move to `NODE` (default: whoever has the highest priority)"},
			&ufcli.StringFlag{Name: "instance", Usage: "`NAME` of the vrrp_instance (default: the one that has the VIP)"},
			&ufcli.DurationFlag{Name: "for", Value: 30 * time.Second, Usage: "keep this node off mastership for a `TIME` with its unit"},
			&ufcli.DurationFlag{Name: "wait", Value: time.Minute, Usage: "give up waiting for the new primary after a `TIME` with its unit"},
			dryRunFlag(),
		},
		Action: cli.Args(func(c *ufcli.Context) error {
			if c.Duration("for") <= 0 || c.Duration("wait") <= 0 {
				return cli.Usagef("pgnotify switchover: --for and --wait: want more than 0")
			}
			s, a, err := h.quorum(c)
			if err != nil || a != nil {
				if err == nil {
					err = refuseFlags(c, "the quorum's log decides who takes over", "instance", "for", "dry-run")
				}
				if err != nil {
					return err
				}
				ctx, cancel := context.WithTimeoutCause(c.Context, c.Duration("wait"), errors.New("nobody took over in time: pgnotify status and explain tell more"))
				defer cancel()
				return s.order(ctx, a, "switchover", agent.Request{To: c.String("to")})
			}
			to := c.String("to")
			if to != "" && (to == s.settings.Node || s.settings.Peers[to] == nil) {
				return cli.Usagef("pgnotify switchover: --to: want another node of [hook] peers (got %q)", to)
			}
			vip := &mastership{client: control.NewClient(cli.String(c, "socket")), hold: c.Duration("for")}
			defer vip.client.Close()
			if err := vip.client.Connect(c.Context); err != nil {
				return fmt.Errorf("%w\n%s", err, byPriority(s.settings))
			}
			mayNot := vip.find(c.Context, c.String("instance"), s.settings)
			keep, stop := context.WithCancel(context.WithoutCancel(c.Context))
			defer stop()
			go vip.keep(keep, keepEvery)
			s, e, err := h.openEngine(c)
			if err != nil {
				return err
			}
			plan := e.SwitchoverPlan(c.Context, to)
			if plan.Refusal == "" && mayNot != nil {
				return mayNot
			}
			if plan.Refusal != "" || c.Bool("dry-run") {
				return s.plan(plan)
			}
			who, o := e.Switchover(c.Context, to, vip, c.Duration("wait"))
			if err := s.report(o); err != nil {
				return fmt.Errorf("%w; \"pgnotify history\", here and on the other nodes, tells more", err)
			}
			fmt.Fprintf(s.stdout, "%s is the primary at the VIP %s, %s after the stop began\n", who, s.settings.VIP, o.Took.Round(time.Millisecond))
			return nil
		}),
	}
}

// mastership is that of the instance with the VIP. vrrpd lets root give it away, and sees who called when the connection was made: before we
// became the owner of the data. So it must be this one to the end.
type mastership struct {
	client   *control.Client
	instance string
	hold     time.Duration
	one      sync.Mutex // a second call beside another one would be a second connection
}

// find finds the instance and makes sure that it could be given away. It is the first call, at once: vrrpd does not wait long for that.
func (m *mastership) find(ctx context.Context, name string, s promote.Settings) (err error) {
	if m.instance, err = findInstance(ctx, m.client, name, s); err != nil {
		return err
	}
	if err := m.MayRelease(ctx); err != nil {
		return fmt.Errorf("refused: vrrpd does not give the VIP %s away: %w", s.VIP, err)
	}
	return nil
}

func (m *mastership) MayRelease(ctx context.Context) error {
	m.one.Lock()
	defer m.one.Unlock()
	return m.client.MayRelease(ctx, m.instance)
}

func (m *mastership) Release(ctx context.Context) error {
	m.one.Lock()
	defer m.one.Unlock()
	return m.client.Release(ctx, m.instance, m.hold)
}

// keepEvery is well below the minute after which both ends close a connection that nobody uses.
const keepEvery = 10 * time.Second

// keep has the connection used until ctx ends: locks, CHECKPOINT and the stop may take longer than it would live.
func (m *mastership) keep(ctx context.Context, every time.Duration) {
	for {
		pause(ctx, every)
		if ctx.Err() != nil {
			return
		}
		_ = m.MayRelease(ctx) // whoever needs the right asks for himself
	}
}

// byPriority says how to move under keepalived, which has no way to be asked.
func byPriority(s promote.Settings) string {
	return fmt.Sprintf(`Under keepalived the priority moves the VIP %s: on this node set the priority of its vrrp_instance below the others' and
run "systemctl reload keepalived" (with nopreempt on the others: "systemctl stop keepalived" until they have taken over).
The hooks promote the new primary and bring this server back as its standby; "pgnotify status --watch" shows it.`, s.VIP)
}

// findInstance is the instance that holds the VIP here.
func findInstance(ctx context.Context, client *control.Client, name string, s promote.Settings) (string, error) {
	st, err := client.Status(ctx)
	if err != nil {
		return "", err
	}
	var found []control.Instance
	for _, i := range st.Instances {
		if name == i.Name || name == "" && holds(i, s.VIP) {
			found = append(found, i)
		}
	}
	switch {
	case len(found) == 0 && name != "":
		return "", fmt.Errorf("vrrpd has no instance %q", name)
	case len(found) == 0:
		return "", fmt.Errorf("no instance of vrrpd has the VIP %s", s.VIP)
	case len(found) > 1:
		return "", fmt.Errorf("several instances of vrrpd have the VIP %s: name one by --instance", s.VIP)
	case found[0].State != control.StateMaster:
		return "", fmt.Errorf("instance %s is %s here, not MASTER: run this on the node that holds the VIP", found[0].Name, found[0].State)
	}
	return found[0].Name, nil
}

func holds(i control.Instance, vip netip.Addr) bool {
	for _, a := range i.Addresses {
		p, err := netip.ParsePrefix(a.Address)
		if err == nil && p.Addr() == vip {
			return true
		}
		if plain, err := netip.ParseAddr(a.Address); err == nil && plain == vip {
			return true
		}
	}
	return false
}
