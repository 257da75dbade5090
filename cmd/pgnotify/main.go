package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	ufcli "github.com/urfave/cli/v2"

	"pgvrrp/internal/agent"
	"pgvrrp/internal/cli"
	"pgvrrp/internal/control"
	"pgvrrp/internal/promote"
)

// version is set by the linker.
var version = "devel"

func main() {
	syscall.Umask(0o027) // keepalived gives its hooks 0177: a directory made with that is of no use
	// SIGHUP: the terminal went, perhaps in the middle of a switchover.
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	os.Exit(run(ctx, os.Args, host()))
}

// run is the program on the host h.
func run(ctx context.Context, args []string, h machine) int {
	return cli.Run(ctx, app(h), args, h.stdout, h.stderr)
}

func app(h machine) *ufcli.App {
	return cli.Prepare(&ufcli.App{
		Name:     "pgnotify",
		HelpName: "pgnotify",
		Usage:    "Promotes, demotes and rejoins one PostgreSQL server: as the hook of vrrpd or keepalived, as the agent beside vrrpd's quorum, or by hand.",
		Commands: []*ufcli.Command{
			notifyCommand(h), initCommand(h), agentCommand(h), statusCommand(h), explainCommand(h), historyCommand(h), checkCommand(h),
			switchoverCommand(h), promoteCommand(h), demoteCommand(h), rejoinCommand(h), cloneCommand(h), startCommand(h), stopCommand(h),
			pauseCommand(h, true), pauseCommand(h, false), maintenanceCommand(h), setCommand(h), doctorCommand(h), versionCommand(h), behindCommand(h),
		},
		Description: "Exit codes: 0 done, 1 failed with a reason, 2 usage. Flags stand before the words of a verb.",
	}, globals)
}

func globals() []ufcli.Flag {
	return append([]ufcli.Flag{
		&ufcli.StringFlag{Name: "config", Aliases: []string{"c"}, Value: promote.DefaultFile, Usage: "read settings from `FILE`"},
		&ufcli.StringFlag{Name: "socket", Value: control.DefaultSocket, Usage: "`SOCKET` of vrrpd's control interface"},
		&ufcli.StringFlag{Name: "agent-socket", Value: agent.DefaultSocket, Usage: "`SOCKET` of the agent, in quorum mode"},
		&ufcli.StringFlag{Name: "state-dir", Value: promote.DefaultStateDir, Usage: "keep states, locks and the history in `DIR`"},
	}, cli.LogFlags()...)
}

func dryRunFlag() ufcli.Flag {
	return &ufcli.BoolFlag{Name: "dry-run", Usage: "print the plan and change nothing"}
}

func jsonFlag() ufcli.Flag {
	return &ufcli.BoolFlag{Name: "json", Usage: "print JSON"}
}
