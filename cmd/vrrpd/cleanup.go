package main

import (
	"fmt"

	ufcli "github.com/urfave/cli/v2"

	"pgvrrp/internal/cli"
	"pgvrrp/internal/daemon"
)

func cleanupCommand() *ufcli.Command {
	return &ufcli.Command{
		Name:  "cleanup",
		Usage: "Remove what a killed vrrpd left: addresses, routes, rules, VMACs; and put settings back (for ExecStopPost).",
		Flags: []ufcli.Flag{
			&ufcli.StringFlag{Name: "run-dir", Value: daemon.DefaultRunDir, Usage: "`DIR` given to run"},
			&ufcli.BoolFlag{Name: "dry-run", Usage: "only say what would be removed"},
		},
		Action: cli.Args(func(c *ufcli.Context) error {
			log, err := cli.Logger(c, c.App.ErrWriter)
			if err != nil {
				return err
			}
			removed, err := daemon.Cleanup(c.Context, daemon.CleanupOptions{
				File: cli.String(c, "file"), ConfigID: cli.String(c, "config-id"),
				RunDir: c.String("run-dir"), DryRun: c.Bool("dry-run"), Log: log,
			})
			verb := "removed"
			if c.Bool("dry-run") {
				verb = "would remove"
			}
			for _, a := range removed {
				fmt.Fprintln(c.App.Writer, verb, a)
			}
			return err
		}),
	}
}
