package daemon

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"

	"pgvrrp/internal/conf"
)

// reload reads the file again and puts it in force whole, or says why not and changes nothing.
func (d *Daemon) reload(ctx context.Context) {
	d.tell(daemon.SdNotifyReloading)
	defer d.tell(daemon.SdNotifyReady)
	config, found := Check(d.opt.File, d.opt.ConfigID)
	report(d.log, found)
	if conf.ExitCode(found, false) == conf.ExitCannot {
		first := slices.IndexFunc(found, func(f conf.Diagnostic) bool { return f.Severity == conf.Fatal })
		text := fmt.Sprintf("%s: %s", d.opt.File, found[first])
		d.log.Error("reload refused, the former configuration runs on", "reason", text)
		d.mu.Lock()
		d.configError = text
		d.mu.Unlock()
		return
	}
	d.apply(ctx, config)
	d.mu.Lock()
	d.configError = ""
	d.mu.Unlock()
	d.log.Info("reloaded", "file", d.opt.File, "instances", len(d.units))
}

// apply makes config the one that runs. Instances that stay the same virtual router keep their state; those that go give
// their addresses away before new ones start.
func (d *Daemon) apply(ctx context.Context, config *conf.Config) {
	d.wire.logVRIDs.Store(config.Globals.LogUnknownVRIDs)
	d.checks.configure(config)
	var keep, gone []*unit
	fresh := slices.Clone(config.Instances)
	for _, u := range d.units {
		k := slices.IndexFunc(fresh, func(c conf.Instance) bool { return u.becomes(&c) })
		if k < 0 {
			gone = append(gone, u)
			continue
		}
		keep = append(keep, u)
		if err := u.configure(ctx, fresh[k], config.Globals.EnableScriptSecurity); err != nil {
			d.log.Error("reconfigure", "instance", u.config.Name, "error", err)
		}
		fresh = slices.Delete(fresh, k, k+1)
	}
	for _, u := range gone {
		u.deleted = true
	}
	if err := stopUnits(gone); err != nil {
		d.log.Error("stop instances that are no more", "error", err)
	}
	var startAt time.Time
	if d.config == config && config.Globals.StartupDelay > 0 { // the first configuration of this run
		startAt = time.Now().Add(config.Globals.StartupDelay)
	}
	for _, c := range fresh {
		u, err := d.newUnit(c, startAt)
		if err != nil {
			d.log.Error("start instance", "instance", c.Name, "error", err)
			continue
		}
		u.start(ctx)
		keep = append(keep, u)
	}
	slices.SortStableFunc(keep, func(a, b *unit) int { return order(config, a) - order(config, b) })
	d.mu.Lock()
	d.units, d.config = keep, config
	d.mu.Unlock()
	d.refresh(ctx)
}

// order is where a unit stands in the file.
func order(config *conf.Config, u *unit) int {
	return slices.IndexFunc(config.Instances, func(c conf.Instance) bool { return c.Name == u.config.Name })
}
