package main

import (
	ufcli "github.com/urfave/cli/v2"

	"pgvrrp/internal/agent"
	"pgvrrp/internal/cli"
	"pgvrrp/internal/promote"
)

func startCommand(h machine) *ufcli.Command {
	return &ufcli.Command{
		Name:  "start",
		Usage: "Starts the server as a standby.",
		Flags: []ufcli.Flag{
			&ufcli.BoolFlag{Name: "as-is", Usage: "do not write standby.signal: a former primary starts as a primary, unless another one answers"},
			dryRunFlag(),
		},
		Action: cli.Args(func(c *ufcli.Context) error {
			if s, a, err := h.quorum(c); err != nil || a != nil {
				if err == nil {
					err = refuseFlags(c, "the agent starts the server as a standby, and promotes it under a grant alone", "as-is", "dry-run")
				}
				if err != nil {
					return err
				}
				return s.order(c.Context, a, "start", agent.Request{})
			}
			s, e, err := h.openEngine(c)
			if err != nil {
				return err
			}
			if c.Bool("dry-run") {
				f, signal, err := e.LookToStart(c.Context, c.Bool("as-is"))
				if err != nil {
					return err
				}
				return s.plan(promote.StartPlan(f, c.Bool("as-is"), signal))
			}
			return s.report(e.Start(c.Context, c.Bool("as-is")))
		}),
	}
}
