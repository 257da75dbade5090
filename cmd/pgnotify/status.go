package main

import (
	"context"
	"fmt"
	"io"
	"time"

	ufcli "github.com/urfave/cli/v2"

	"pgvrrp/internal/cli"
	"pgvrrp/internal/promote"
)

func statusCommand(h machine) *ufcli.Command {
	return &ufcli.Command{
		Name:  "status",
		Usage: "Shows every node: role, timeline, LSN, lag, and why it is not promotable.",
		Flags: []ufcli.Flag{
			jsonFlag(),
			&ufcli.BoolFlag{Name: "watch", Usage: "show it again and again"},
			&ufcli.DurationFlag{Name: "every", Value: 2 * time.Second, Usage: "with --watch, a `TIME` with its unit"},
		},
		Action: cli.Args(func(c *ufcli.Context) error {
			if c.Duration("every") < 100*time.Millisecond {
				return cli.Usagef("pgnotify status: --every: want 100ms or more (got %s)", c.Duration("every"))
			}
			if s, a, err := h.quorum(c); err != nil || a != nil {
				if err != nil {
					return err
				}
				return s.quorumStatus(c, a)
			}
			s, e, err := h.openEngine(c)
			if err != nil {
				return err
			}
			show := func(ctx context.Context, w io.Writer) error {
				st := e.Status(ctx)
				if c.Bool("json") {
					return cli.JSON(w, st)
				}
				return printStatus(w, st)
			}
			if c.Bool("watch") {
				return cli.Watch(c.Context, s.stdout, c.Duration("every"), show)
			}
			return show(c.Context, s.stdout)
		}),
	}
}

func printStatus(w io.Writer, st promote.ClusterStatus) error {
	var rows [][]string
	for _, n := range st.Nodes {
		row := []string{n.Node, n.Address, n.Role, "", n.LSN, "", n.SyncState, "no", n.WhyNot}
		if n.Timeline != 0 {
			row[3] = fmt.Sprint(n.Timeline)
		}
		if n.Lag != nil {
			row[5] = cli.Size(*n.Lag)
		}
		if n.Reachable {
			row[7] = "yes"
		}
		if n.WhyNot == "" {
			row[8] = "(promotable)"
		}
		for i := range row {
			if row[i] == "" {
				row[i] = "-"
			}
		}
		rows = append(rows, row)
	}
	if err := cli.Table(w, []string{"NODE", "ADDRESS", "ROLE", "TLI", "LSN", "LAG", "SYNC", "REACHABLE", "NOT PROMOTABLE BECAUSE"}, rows); err != nil {
		return err
	}
	fmt.Fprintf(w, "VIP %s: %s\n", st.VIP, st.AtVIP)
	if st.Busy != "" {
		fmt.Fprintf(w, "at work on %s: %s\n", st.Node, st.Busy)
	}
	for _, warning := range st.Warnings {
		fmt.Fprintf(w, "warning: %s\n", warning)
	}
	return nil
}
