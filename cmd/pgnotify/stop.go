package main

import (
	ufcli "github.com/urfave/cli/v2"

	"pgvrrp/internal/agent"
	"pgvrrp/internal/cli"
	"pgvrrp/internal/promote"
)

func stopCommand(h machine) *ufcli.Command {
	return &ufcli.Command{
		Name:  "stop",
		Usage: "Stops the server, fast.",
		Flags: []ufcli.Flag{dryRunFlag()},
		Action: cli.Args(func(c *ufcli.Context) error {
			if s, a, err := h.quorum(c); err != nil || a != nil {
				if err == nil {
					err = refuseFlags(c, "the agent announces the stop first", "dry-run")
				}
				if err != nil {
					return err
				}
				return s.order(c.Context, a, "stop", agent.Request{})
			}
			s, e, err := h.openEngine(c)
			if err != nil {
				return err
			}
			if c.Bool("dry-run") {
				return s.plan(promote.StopPlan(e.LookAtServer(c.Context)))
			}
			return s.report(e.Stop(c.Context))
		}),
	}
}
