package main

import (
	"context"

	ufcli "github.com/urfave/cli/v2"

	"pgvrrp/internal/cli"
	"pgvrrp/internal/promote"
)

// behindCommand is what a hook starts to do its long work; it is not for people.
func behindCommand(h machine) *ufcli.Command {
	return &ufcli.Command{
		Name:      "behind",
		Hidden:    true,
		Usage:     "Does the long work behind a hook; hooks start it themselves.",
		ArgsUsage: "WORK",
		Flags:     []ufcli.Flag{&ufcli.StringFlag{Name: "instance", Usage: "`NAME` of the virtual router whose newer state ends the work (default: none)"}},
		Action: cli.Args(func(c *ufcli.Context) error {
			work := c.Args().First()
			run := map[string]func(*promote.Engine, context.Context, string) promote.Outcome{
				"follow": (*promote.Engine).Follow, "after-promote": (*promote.Engine).AfterPromote, "retry": (*promote.Engine).Retry,
			}[work]
			if run == nil {
				return cli.Usagef("pgnotify behind: WORK: want follow, after-promote or retry (got %q)", work)
			}
			h.behind = true
			s, err := h.open(c)
			if err != nil {
				return err
			}
			e, err := s.engine()
			if err != nil {
				return s.failed(err)
			}
			if o := run(e, c.Context, c.String("instance")); o.Err != nil {
				return cli.Exit(cli.CodeFailed, nil) // the log has the reason
			}
			return nil
		}, "WORK"),
	}
}
