package main

import (
	"fmt"
	"slices"
	"strings"
	"time"

	ufcli "github.com/urfave/cli/v2"

	"pgvrrp/internal/cli"
	"pgvrrp/internal/control"
)

func releaseCommand() *ufcli.Command {
	return &ufcli.Command{
		Name:      "release",
		Usage:     "Give an instance's mastership away and keep off it for a while.",
		ArgsUsage: "INSTANCE",
		Flags: []ufcli.Flag{
			&ufcli.DurationFlag{Name: "for", Value: 30 * time.Second, Usage: "keep off it for so `LONG`; 0s ends a running release"},
		},
		Action: cli.Args(func(c *ufcli.Context) error {
			name, hold := c.Args().First(), c.Duration("for")
			if hold < 0 {
				return cli.Usagef("vrrpd release: --for: want 0s or more (got %s)", hold)
			}
			client := control.NewClient(cli.String(c, "socket"))
			defer client.Close()
			if err := client.Release(c.Context, name, hold); err != nil {
				return err
			}
			if hold == 0 {
				fmt.Fprintf(c.App.Writer, "%s takes part again\n", name)
			} else {
				fmt.Fprintf(c.App.Writer, "%s released for %s\n", name, hold)
			}
			return nil
		}, "INSTANCE"),
	}
}

// forFirst lets --for stand behind the instance, as `vrrpd release INSTANCE --for 30s` reads best: the only flag that may.
func forFirst(args []string) []string {
	k := slices.Index(args, "release")
	if k < 0 || len(args) < k+3 || strings.HasPrefix(args[k+1], "-") {
		return args
	}
	name, rest := args[k+1], args[k+2:]
	if len(rest) == 1 && strings.HasPrefix(rest[0], "--for=") || len(rest) == 2 && rest[0] == "--for" {
		return slices.Concat(args[:k+1], rest, []string{name})
	}
	return args
}
