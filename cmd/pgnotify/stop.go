package main

import (
	ufcli "github.com/urfave/cli/v2"

	"pgvrrp/internal/cli"
	"pgvrrp/internal/promote"
)

func stopCommand(h machine) *ufcli.Command {
	return &ufcli.Command{
		Name:  "stop",
		Usage: "Stops the server, fast.",
		Flags: []ufcli.Flag{dryRunFlag()},
		Action: cli.Args(func(c *ufcli.Context) error {
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
