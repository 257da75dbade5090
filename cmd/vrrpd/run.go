package main

import (
	ufcli "github.com/urfave/cli/v2"

	"pgvrrp/internal/cli"
	"pgvrrp/internal/daemon"
)

func runCommand() *ufcli.Command {
	return &ufcli.Command{
		Name:  "run",
		Usage: "Run in the foreground until SIGTERM; SIGHUP reloads the file.",
		Flags: []ufcli.Flag{
			&ufcli.StringFlag{Name: "run-dir", Value: daemon.DefaultRunDir, Usage: "`DIR` for what must not outlive a boot"},
			&ufcli.StringFlag{Name: "metrics-listen", Usage: "serve GET /metrics, and nothing else, at `ADDRESS:PORT`; default: on the control socket alone"},
		},
		Description: "Says READY=1 to systemd when NOTIFY_SOCKET is set. It starts on a file for which check says 0, 5 or 6, and not on 4.\n" +
			"SIGTERM gives every address away and ends it in at most 2 s plus 1 s for hooks.",
		Action: cli.Args(func(c *ufcli.Context) error {
			lines := cli.NewBackground(c.App.ErrWriter)
			defer lines.Close()
			log, err := cli.Logger(c, lines)
			if err != nil {
				return err
			}
			return daemon.Run(c.Context, daemon.Options{
				File: cli.String(c, "file"), ConfigID: cli.String(c, "config-id"), Socket: cli.String(c, "socket"),
				RunDir: c.String("run-dir"), Metrics: c.String("metrics-listen"), Version: version, Log: log,
			})
		}),
	}
}
