package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	ufcli "github.com/urfave/cli/v2"

	"pgvrrp/internal/cli"
	"pgvrrp/internal/control"
)

// version is set by the linker.
var version = "devel"

func main() {
	// SIGHUP belongs to run, which reloads on it; the other commands keep its default meaning.
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	os.Exit(cli.Run(ctx, app(), forFirst(os.Args), os.Stdout, os.Stderr))
}

func app() *ufcli.App {
	a := &ufcli.App{
		Name:     "vrrpd",
		HelpName: "vrrpd",
		Usage:    "Vrrpd keeps virtual IP addresses alive on a LAN by VRRP, as keepalived.conf says.",
		Commands: []*ufcli.Command{
			runCommand(), checkCommand(), planCommand(), statusCommand(), releaseCommand(), cleanupCommand(), quorumCommand(), versionCommand(),
		},
		Description: "Exit codes: 0 done, 1 failed with a reason, 2 usage; check has its own.",
	}
	return cli.Prepare(a, globals)
}

func globals() []ufcli.Flag {
	return append([]ufcli.Flag{
		&ufcli.StringFlag{Name: "file", Aliases: []string{"f", "config", "c"}, Value: "/etc/vrrpd/vrrpd.conf", Usage: "configuration `FILE`, as keepalived.conf"},
		&ufcli.StringFlag{Name: "config-id", Aliases: []string{"i"}, Usage: "`ID` for lines that begin with @ID; default: the host name up to its first dot"},
		&ufcli.StringFlag{Name: "socket", Value: control.DefaultSocket, Usage: "control socket `PATH`"},
	}, cli.LogFlags()...)
}
