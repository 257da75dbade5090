package daemon

import (
	"context"
	"path/filepath"

	"pgvrrp/internal/conf"
	"pgvrrp/internal/system"
)

// routesFile lists the routes and rules that a killed vrrpd may have left.
func routesFile(runDir string) string { return filepath.Join(runDir, "routes.json") }

// routeSets are all virtual routes and rules of a configuration.
func routeSets(config *conf.Config) (sets []system.RouteSet) {
	for k := range config.Instances {
		c := &config.Instances[k]
		sets = append(sets, system.RouteSet{Owner: c.Name, Routes: c.Routes, Rules: c.Rules})
	}
	return sets
}

// sweepRoutes removes what a former run left.
func (d *Daemon) sweepRoutes() {
	removed, err := d.routes.Cleanup(routeSets(d.config))
	if err != nil {
		d.log.Error("remove routes of a former run", "error", err)
	}
	for _, r := range removed {
		d.log.Warn("removed what a former run left", "route", r)
	}
}

// declareRoutes lists all routes for cleanup before any of them is added.
func (d *Daemon) declareRoutes(config *conf.Config) {
	if err := d.routes.Declare(routeSets(config)...); err != nil {
		d.log.Warn("list of routes for cleanup not written", "error", err)
	}
}

// routesLost passes on that routes are gone.
func (d *Daemon) routesLost(owner string, missing []string) {
	d.mu.Lock()
	units := d.units
	d.mu.Unlock()
	for _, u := range units {
		if u.instance.Name() == owner {
			u.instance.RoutesLost(context.Background(), missing)
		}
	}
}

// cleanupRoutes removes what a killed vrrpd left, or only names it.
func cleanupRoutes(o *CleanupOptions, config *conf.Config) (removed []string, err error) {
	r, err := system.OpenRoutes(system.RoutesOptions{Log: o.Log, StateFile: routesFile(o.RunDir)})
	if err != nil {
		return nil, err
	}
	if o.DryRun {
		removed, err = r.Leftovers(routeSets(config))
	} else {
		removed, err = r.Cleanup(routeSets(config))
	}
	if closed := r.Close(); err == nil {
		err = closed
	}
	return removed, err
}
