package main

import (
	"context"
	"errors"
	"fmt"
	"time"

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
			if err != nil && work == "retry" {
				e, err = s.await(c.Context, c.String("instance"), err)
			}
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

// openPause is how long a server that can't be opened is left before the next try.
const openPause = 5 * time.Second

// await opens a server that could not be opened, say because its file system is not mounted yet, as soon as it can be: a MASTER waits for it. It ends
// with a newer state.
func (s *session) await(ctx context.Context, instance string, why error) (*promote.Engine, error) {
	rec, err := s.store.Newest(instance)
	if err != nil || rec.State != promote.Master {
		return nil, errors.Join(why, err)
	}
	unlock, err := s.store.LockRetry(ctx, rec) // a command by hand ends it there
	if err != nil {
		return nil, errors.Join(why, err)
	}
	defer unlock()
	s.log.Warn("MASTER, but the server can't be opened; trying again", "instance", instance, "every", openPause, "reason", why)
	for {
		pause(ctx, openPause)
		if err := errors.Join(context.Cause(ctx), s.store.StillNewest(rec)); err != nil {
			return nil, fmt.Errorf("%w; it is not tried again: %w", why, err)
		}
		if why = promote.FinishSwap(s.store.Dir(), s.settings.DataDir); why != nil {
			continue
		}
		var e *promote.Engine
		if e, why = s.engine(); why == nil {
			return e, nil
		}
	}
}
