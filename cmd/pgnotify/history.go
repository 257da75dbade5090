package main

import (
	"fmt"
	"strings"
	"time"

	ufcli "github.com/urfave/cli/v2"

	"pgvrrp/internal/cli"
)

func historyCommand(h machine) *ufcli.Command {
	return &ufcli.Command{
		Name:  "history",
		Usage: "Lists the last decisions of hooks and commands, with their reasons.",
		Flags: []ufcli.Flag{
			&ufcli.IntFlag{Name: "n", Value: 20, Usage: "list the last `NUMBER`"},
			jsonFlag(),
		},
		Action: cli.Args(func(c *ufcli.Context) error {
			if c.Int("n") < 1 {
				return cli.Usagef("pgnotify history: -n: want 1 or more (got %d)", c.Int("n"))
			}
			s, err := h.open(c)
			if err != nil {
				return err
			}
			if s.settings.Quorum() && !c.Bool("json") {
				if err := s.printLedger(c); err != nil {
					return err
				}
			}
			entries, err := s.store.History(c.Int("n"))
			if err != nil {
				return err
			}
			if c.Bool("json") {
				return cli.JSON(s.stdout, entries)
			}
			var rows [][]string
			for _, e := range entries {
				what := e.Command
				if e.State != "" {
					what = strings.TrimSpace(what + " " + e.Name + " " + e.State)
				}
				why := e.Reason
				if why == "" {
					why = strings.Join(e.Steps, "; ")
				}
				rows = append(rows, []string{
					e.At.Local().Format("2006-01-02 15:04:05.000"), what, e.Outcome,
					time.Duration(e.Took * float64(time.Second)).Round(time.Millisecond).String(), strings.ReplaceAll(why, "\n", " "),
				})
			}
			if len(rows) == 0 {
				fmt.Fprintln(s.stdout, "no decisions yet")
				return nil
			}
			return cli.Table(s.stdout, []string{"TIME", "WHAT", "OUTCOME", "TOOK", "WHY"}, rows)
		}),
	}
}
