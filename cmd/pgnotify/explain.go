package main

import (
	"fmt"

	ufcli "github.com/urfave/cli/v2"

	"pgvrrp/internal/cli"
	"pgvrrp/internal/promote"
)

func explainCommand(h machine) *ufcli.Command {
	return &ufcli.Command{
		Name:  "explain",
		Usage: "Says in words, condition by condition, whether this node could be promoted now.",
		Action: cli.Args(func(c *ufcli.Context) error {
			if s, a, err := h.quorum(c); err != nil || a != nil {
				if err != nil {
					return err
				}
				return s.quorumExplain(c, a)
			}
			s, e, err := h.openEngine(c)
			if err != nil {
				return err
			}
			for _, line := range promote.Explain(e.Look(c.Context)) {
				fmt.Fprintln(s.stdout, line)
			}
			for _, warning := range e.Warnings() {
				fmt.Fprintln(s.stdout, "warning: "+warning)
			}
			return nil
		}),
	}
}
