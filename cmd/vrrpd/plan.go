package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	ufcli "github.com/urfave/cli/v2"

	"pgvrrp/internal/cli"
	"pgvrrp/internal/control"
)

// planTimeout bounds the reading of a file, which asks of each program whether its user can run it.
const planTimeout = time.Minute

func planCommand() *ufcli.Command {
	return &ufcli.Command{
		Name:  "plan",
		Usage: "Show what a reload with a file would change, and change nothing.",
		Flags: []ufcli.Flag{
			&ufcli.BoolFlag{Name: "json", Usage: "print the plan as JSON"},
		},
		Description: "The vrrpd that runs reads the file, as vrrpd plan -f FILE names it, and compares it with what it runs. Needs root.\n" +
			"Exit codes: 0 a reload would be done, 1 it would be refused or vrrpd does not answer.",
		Action: cli.Args(func(c *ufcli.Context) error {
			client := control.NewClient(cli.String(c, "socket"))
			defer client.Close()
			ctx, cancel := context.WithTimeout(c.Context, planTimeout)
			defer cancel()
			p, err := client.Plan(ctx, cli.String(c, "file"))
			if err != nil {
				return err
			}
			if c.Bool("json") {
				err = cli.JSON(c.App.Writer, p)
			} else {
				err = printPlan(c.App.Writer, p)
			}
			if err == nil && p.Refused != "" {
				err = cli.Exit(1, errors.New("a reload would be refused: "+p.Refused))
			}
			return err
		}),
	}
}

func printPlan(w io.Writer, p control.Plan) error {
	for _, f := range p.Findings {
		fmt.Fprintln(w, f)
	}
	if p.Refused != "" {
		return nil
	}
	if len(p.Steps) == 0 {
		fmt.Fprintln(w, "nothing would change")
	}
	rows := make([][]string, 0, len(p.Steps))
	for _, s := range p.Steps {
		what := strings.TrimSpace(strings.ReplaceAll(s.Kind, "_", " ") + " " + s.Name)
		text := strings.Join(s.Keywords, ", ")
		if s.Text != "" && text != "" {
			text += "; "
		}
		rows = append(rows, []string{s.Action, what, text + s.Text})
	}
	if len(rows) > 0 {
		if err := cli.Table(w, []string{"STEP", "WHAT", ""}, rows); err != nil {
			return err
		}
	}
	if len(p.Unchanged) > 0 {
		fmt.Fprintf(w, "\nunchanged, without an advert or a hook: %s\n", strings.Join(p.Unchanged, ", "))
	}
	if len(p.NeedsRestart) > 0 {
		fmt.Fprintf(w, "\nneeds a restart of vrrpd, a reload leaves it as it is: %s\n", strings.Join(p.NeedsRestart, ", "))
	}
	return nil
}
