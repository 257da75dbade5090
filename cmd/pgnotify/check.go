package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	ufcli "github.com/urfave/cli/v2"

	"pgvrrp/internal/cli"
)

func checkCommand(h machine) *ufcli.Command {
	return &ufcli.Command{
		Name:  "check",
		Usage: "Exits 0 if the server is healthy in its role, for a vrrp_script; never fails during a promotion, rewind or copy of ours.",
		Flags: []ufcli.Flag{
			&ufcli.StringFlag{Name: "role", Value: "any", Usage: "want the `ROLE` primary, standby or any"},
			&ufcli.StringFlag{Name: "max-lag", Usage: "of a standby: it must stream, with at most a `SIZE` as 16MB of WAL not replayed yet (default: not looked at)"},
			&ufcli.DurationFlag{Name: "timeout", Value: 5 * time.Second, Usage: "give up after a `TIME` with its unit"},
		},
		Action: cli.Args(func(c *ufcli.Context) error {
			role, lag := c.String("role"), int64(-1)
			if role != "primary" && role != "standby" && role != "any" {
				return cli.Usagef("pgnotify check: --role: want primary, standby or any (got %q)", role)
			}
			if text := c.String("max-lag"); text != "" || c.IsSet("max-lag") {
				var err error
				if lag, err = cli.ParseSize(text); err != nil {
					return cli.Usagef("pgnotify check: --max-lag: %v", err)
				}
			}
			if c.Duration("timeout") <= 0 {
				return cli.Usagef("pgnotify check: --timeout: want more than 0 (got %s)", c.Duration("timeout"))
			}
			if s, a, err := h.quorum(c); err != nil || a != nil {
				if err != nil {
					return err
				}
				return s.quorumCheck(c, a, role, lag)
			}
			s, e, err := h.openEngine(c)
			for i := 0; i < 10 && errors.Is(err, fs.ErrNotExist); i++ {
				// Between the two renames that put a clone in place there is no data directory.
				pause(c.Context, 10*time.Millisecond)
				s, e, err = h.openEngine(c)
			}
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(c.Context, c.Duration("timeout"))
			defer cancel()
			words, err := e.Check(ctx, role, lag)
			if err != nil {
				return err
			}
			fmt.Fprintln(s.stdout, words)
			return nil
		}),
	}
}

func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}
