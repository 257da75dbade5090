package main

import (
	"fmt"
	"strings"
	"time"

	ufcli "github.com/urfave/cli/v2"

	"pgvrrp/internal/cli"
	"pgvrrp/internal/control"
	"pgvrrp/internal/promote"
)

// decisions is what history prints as JSON.
type decisions struct {
	Ledger  []control.Timeline `json:"ledger"` // the timelines ever granted in quorum mode; null while no agent is there to tell
	Entries []promote.Entry    `json:"entries"`
}

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
			all := decisions{Ledger: []control.Timeline{}}
			if s.settings.Quorum() {
				all.Ledger = s.ledger(c)
			}
			if all.Entries, err = s.store.History(c.Int("n")); err != nil {
				return err
			}
			if c.Bool("json") {
				return cli.JSON(s.stdout, all)
			}
			if err := s.printLedger(all.Ledger); err != nil {
				return err
			}
			var rows [][]string
			for _, e := range all.Entries {
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
