package main

import (
	ufcli "github.com/urfave/cli/v2"

	"pgvrrp/internal/agent"
	"pgvrrp/internal/cli"
	"pgvrrp/internal/promote"
)

func rejoinCommand(h machine) *ufcli.Command {
	return &ufcli.Command{
		Name:  "rejoin",
		Usage: "Brings this server back as a standby of the VIP: as it is, else rewound, else as a new copy, as the settings allow.",
		Flags: []ufcli.Flag{
			&ufcli.BoolFlag{Name: "rewind", Usage: "rewind by pg_rewind, and nothing else"},
			&ufcli.BoolFlag{Name: "reclone", Usage: "make a new copy by pg_basebackup, and nothing else"},
			dryRunFlag(),
		},
		Action: cli.Args(func(c *ufcli.Context) error {
			if s, a, err := h.quorum(c); err != nil || a != nil {
				if err == nil {
					err = refuseFlags(c, "the agent follows, rewinds or copies by itself, as the data needs it", "rewind", "reclone", "dry-run")
				}
				if err != nil {
					return err
				}
				return s.order(c.Context, a, "await", agent.Request{})
			}
			mode := promote.RejoinAuto
			switch {
			case c.Bool("rewind") && c.Bool("reclone"):
				return cli.Usagef("pgnotify rejoin: --rewind and --reclone exclude each other")
			case c.Bool("rewind"):
				mode = promote.RejoinRewind
			case c.Bool("reclone"):
				mode = promote.RejoinReclone
			}
			s, e, err := h.openEngine(c)
			if err != nil {
				return err
			}
			if c.Bool("dry-run") {
				return s.plan(promote.RejoinPlan(e.LookToRejoin(c.Context), mode, s.settings))
			}
			return s.report(e.Rejoin(c.Context, mode))
		}),
	}
}
