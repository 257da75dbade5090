package main

import (
	"fmt"

	ufcli "github.com/urfave/cli/v2"

	"pgvrrp/internal/cli"
	"pgvrrp/internal/conf"
	"pgvrrp/internal/daemon"
)

func checkCommand() *ufcli.Command {
	return &ufcli.Command{
		Name:  "check",
		Usage: "Check a configuration file without running it.",
		Flags: []ufcli.Flag{
			&ufcli.BoolFlag{Name: "strict", Usage: "let lint warnings count as errors (default: they only inform)"},
			&ufcli.BoolFlag{Name: "startup", Usage: "fail only for what keeps vrrpd from running (for ExecStartPre)"},
			&ufcli.BoolFlag{Name: "json", Usage: "print the parsed model and all findings as JSON"},
		},
		Description: "Exit codes: 0 clean, 4 cannot run, 5 would run with errors, 6 script security (as keepalived -t).\n" +
			"In a file with an extension of ours every error is 4. Whether this host has a line and the key of a quorum block only informs\n" +
			"without --startup, so that the file of other nodes can be checked.",
		Action: cli.Args(check),
	}
}

func check(c *ufcli.Context) error {
	config, found := daemon.Check(cli.String(c, "file"), cli.String(c, "config-id"), c.Bool("startup"))
	if c.Bool("json") {
		if err := cli.JSON(c.App.Writer, conf.NewReport(config, found, c.Bool("strict"))); err != nil {
			return err
		}
	} else {
		for _, d := range found {
			fmt.Fprintln(c.App.Writer, d)
		}
	}
	code := conf.ExitCode(found, c.Bool("strict"))
	if c.Bool("startup") && code != conf.ExitCannot {
		code = 0
	}
	if code == 0 {
		return nil
	}
	return cli.Exit(code, nil)
}
