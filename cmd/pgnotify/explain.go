package main

import (
	"fmt"

	ufcli "github.com/urfave/cli/v2"

	"pgvrrp/internal/cli"
	"pgvrrp/internal/promote"
)

// explanation is what explain prints as JSON: the same words.
type explanation struct {
	Nodes    []nodeWords `json:"nodes"` // in hook mode this one alone
	Warnings []string    `json:"warnings"`
	Vrrpd    string      `json:"vrrpd,omitempty"`   // quorum mode: not connected, and why
	Missing  string      `json:"missing,omitempty"` // quorum mode: what an active holder needs
}

type nodeWords struct {
	Node  string   `json:"node"`
	Lines []string `json:"lines"`
}

func explainCommand(h machine) *ufcli.Command {
	return &ufcli.Command{
		Name:  "explain",
		Usage: "Says in words, condition by condition, whether this node could be promoted now.",
		Flags: []ufcli.Flag{jsonFlag()},
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
			f := e.Look(c.Context)
			x := explanation{Nodes: []nodeWords{{f.Node, promote.Explain(f)}}, Warnings: append([]string{}, e.Warnings()...)}
			if c.Bool("json") {
				return cli.JSON(s.stdout, x)
			}
			for _, line := range x.Nodes[0].Lines {
				fmt.Fprintln(s.stdout, line)
			}
			for _, warning := range x.Warnings {
				fmt.Fprintln(s.stdout, "warning: "+warning)
			}
			return nil
		}),
	}
}
