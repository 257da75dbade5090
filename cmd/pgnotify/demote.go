package main

import (
	ufcli "github.com/urfave/cli/v2"

	"pgvrrp/internal/cli"
	"pgvrrp/internal/promote"
)

func demoteCommand(h machine) *ufcli.Command {
	return &ufcli.Command{
		Name:  "demote",
		Usage: "Makes this server, if it is a primary, a standby of the VIP.",
		Flags: []ufcli.Flag{dryRunFlag()},
		Action: cli.Args(func(c *ufcli.Context) error {
			if s, a, err := h.quorum(c); err != nil || a != nil {
				if err == nil {
					err = refuseFlags(c, "the agent moves the primary to the best standby", "dry-run")
				}
				if err != nil {
					return err
				}
				return s.demote(c, a)
			}
			s, e, err := h.openEngine(c)
			if err != nil {
				return err
			}
			if c.Bool("dry-run") {
				return s.plan(promote.DemotePlan(e.LookAtServer(c.Context)))
			}
			return s.report(e.Demote(c.Context))
		}),
	}
}
