package main

import (
	"fmt"
	"runtime"

	ufcli "github.com/urfave/cli/v2"

	"pgvrrp/internal/cli"
)

func versionCommand(h machine) *ufcli.Command {
	return &ufcli.Command{
		Name:  "version",
		Usage: "Prints the version.",
		Action: cli.Args(func(*ufcli.Context) error {
			_, err := fmt.Fprintf(h.stdout, "pgnotify %s (%s %s/%s)\n", version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
			return err
		}),
	}
}
