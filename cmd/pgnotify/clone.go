package main

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"

	ufcli "github.com/urfave/cli/v2"

	"pgvrrp/internal/cli"
	"pgvrrp/internal/promote"
)

func cloneCommand(h machine) *ufcli.Command {
	return &ufcli.Command{
		Name:  "clone",
		Usage: "Makes this node a new standby by copying another server: into an empty data directory, or beside an existing one and then swapped.",
		Flags: []ufcli.Flag{
			&ufcli.StringFlag{Name: "from", Usage: "copy from `NODE`, one of [hook] peers, or from an address (no default)"},
			dryRunFlag(),
		},
		Action: cli.Args(func(c *ufcli.Context) error {
			s, a, err := h.quorum(c)
			if err != nil {
				return err
			}
			if a != nil {
				if err := refuseFlags(c, "the agent copies the holder's server, whoever that is", "from", "dry-run"); err != nil {
					return err
				}
				return s.cloneByAgent(c, a)
			}
			if c.String("from") == "" {
				return cli.Usagef("pgnotify clone: --from is missing")
			}
			from, err := s.settings.CloneSource(c.String("from"))
			if err != nil {
				return cli.Usagef("pgnotify clone: --from: %v", err)
			}
			empty, err := isEmpty(s.settings.DataDir)
			if err != nil {
				return err
			}
			if empty {
				return s.cloneFresh(c, from)
			}
			s, e, err := h.openEngine(c)
			if err != nil {
				return err
			}
			if c.Bool("dry-run") {
				return s.plan(promote.ClonePlan(e.LookToClone(c.Context, from)))
			}
			return s.report(e.CloneFrom(c.Context, from))
		}),
	}
}

func isEmpty(dir string) (bool, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return true, nil
	}
	if err != nil {
		return false, fmt.Errorf("look into data directory: %w", err)
	}
	return len(entries) == 0, nil
}

// cloneFresh makes a standby of a host without data. The data goes to who owns the directory, or the one above it.
func (s *session) cloneFresh(c *ufcli.Context, from netip.Addr) error {
	dataDir := s.settings.DataDir
	place := dataDir
	if _, err := os.Stat(place); errors.Is(err, fs.ErrNotExist) {
		place = filepath.Dir(dataDir)
	}
	dir := cli.String(c, "state-dir")
	if err := errors.Join(prepareStateDir(dir, place), s.becomeOwner(place)); err != nil {
		return s.failed(fmt.Errorf("%w; make %s as its future owner first", err, dataDir))
	}
	if err := s.ready(c, dir); err != nil {
		return s.failed(err)
	}
	fresh := promote.Fresh{
		Settings: s.settings, Network: s.network, Store: s.store, Clone: s.clone, BinDir: binDir, Progress: s.progress,
		Open: s.engine,
	}
	if c.Bool("dry-run") {
		return s.plan(fresh.Plan(fresh.Look(c.Context, from)))
	}
	return s.report(fresh.Run(c.Context, from))
}

// binDir is where distributions put the programs of a server_version_num.
func binDir(versionNum int) string {
	major := versionNum / 10000
	for _, dir := range []string{fmt.Sprintf("/usr/lib/postgresql/%d/bin", major), fmt.Sprintf("/usr/pgsql-%d/bin", major)} {
		if info, err := os.Stat(filepath.Join(dir, "pg_basebackup")); err == nil && info.Mode().IsRegular() {
			return dir
		}
	}
	return "/usr/bin"
}
