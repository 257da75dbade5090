package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"pgvrrp/internal/conf"
	"pgvrrp/internal/system"
)

// CleanupOptions say what to clean up after.
type CleanupOptions struct {
	File, ConfigID, RunDir string
	DryRun                 bool
	Log                    *slog.Logger
}

// Cleanup removes the virtual addresses, routes, rules and VMACs that a killed vrrpd left, and puts settings of the kernel back:
// what carries our tag or stands in the run directory's lists or in the file; and the guard in front of them, if it is of this run
// directory. It refuses while a vrrpd runs there. It returns what it removed, or would remove.
func Cleanup(ctx context.Context, o CleanupOptions) ([]string, error) {
	if err := os.MkdirAll(o.RunDir, 0o755); err != nil {
		return nil, fmt.Errorf("clean up: %w", err)
	}
	config, found := Load(o.File, o.ConfigID)
	if err := enter(config); errors.Is(err, os.ErrNotExist) {
		return nil, nil // everything went with the network namespace
	} else if err != nil {
		return nil, fmt.Errorf("clean up: %w", err)
	}
	lock, err := lockRunDir(o.RunDir)
	if err != nil {
		return nil, fmt.Errorf("clean up: %w; stop it first", err)
	}
	defer lock.Close()
	var unread error
	if conf.ExitCode(found, false) == conf.ExitCannot {
		// What the list and the tags say is done all the same.
		unread = fmt.Errorf("clean up: %s cannot be read in full; addresses known only from it may be left", o.File)
	}
	a, err := system.OpenAddresses(system.AddressesOptions{Log: o.Log, StateFile: filepath.Join(o.RunDir, "addresses.json")})
	if err != nil {
		return nil, err
	}
	act := a.Cleanup
	if o.DryRun {
		act = a.Leftovers
	}
	removed, err := act(ctx, leftovers(config))
	var names []string
	for _, k := range removed {
		names = append(names, fmt.Sprintf("%s on %s", k.Prefix, k.Interface))
	}
	routes, unrouted := cleanupRoutes(&o, config)
	names = append(names, routes...)
	more, unfurnished := cleanupPremises(&o)
	names = append(names, more...)
	var guard error
	switch {
	case o.DryRun:
	case err != nil:
		guard = errors.New("clean up: the guard of the last run stays in front of what may be left")
	default:
		_, guard = system.CleanupGuard(guardOwner(o.RunDir))
	}
	return names, errors.Join(err, unrouted, unfurnished, guard, unread, a.Close())
}
