package main

import (
	ufcli "github.com/urfave/cli/v2"

	"pgvrrp/internal/cli"
	"pgvrrp/internal/promote"
)

func promoteCommand(h machine) *ufcli.Command {
	return &ufcli.Command{
		Name:  "promote",
		Usage: "Makes this server the primary; refuses while another primary answers or another standby has more WAL.",
		Flags: []ufcli.Flag{dryRunFlag()},
		Action: cli.Args(func(c *ufcli.Context) error {
			if s, a, err := h.quorum(c); err != nil || a != nil {
				if err == nil {
					err = refuseFlags(c, "the agent asks the holder for the grant", "dry-run")
				}
				if err != nil {
					return err
				}
				return s.promoteByGrant(c, a)
			}
			s, e, err := h.openEngine(c)
			if err != nil {
				return err
			}
			if c.Bool("dry-run") {
				_, p := e.Preview(c.Context, promote.Event{State: promote.Master, ByHand: true})
				return s.plan(p)
			}
			return s.report(e.Promote(c.Context))
		}),
	}
}
