package main

import (
	"fmt"
	"runtime"

	ufcli "github.com/urfave/cli/v2"

	"pgvrrp/internal/cli"
)

func versionCommand() *ufcli.Command {
	return &ufcli.Command{
		Name:  "version",
		Usage: "Print the version.",
		Action: cli.Args(func(c *ufcli.Context) error {
			_, err := fmt.Fprintf(c.App.Writer, "vrrpd %s (%s)\n", version, runtime.Version())
			return err
		}),
	}
}
