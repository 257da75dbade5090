package daemon

import (
	"context"
	"slices"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"

	"pgvrrp/internal/conf"
	"pgvrrp/internal/gratarp"
	"pgvrrp/internal/quiet"
	"pgvrrp/internal/system"
)

// candidate is a configuration that was read for a reload.
type candidate struct {
	config *conf.Config
	found  []conf.Diagnostic
	known  map[conf.Diagnostic]bool // the problems that what runs has, too
	strict bool                     // reload_check_config: these refuse it as well
}

// consider reads a file as a reload does. What the host lacks by now for what runs, a reload makes no worse.
func (d *Daemon) consider(file string) candidate {
	d.mu.Lock()
	running, before := d.config, d.found
	d.mu.Unlock()
	c := candidate{known: map[conf.Diagnostic]bool{}}
	c.config, c.found = Check(file, d.opt.ConfigID, true)
	c.strict = c.config.Globals.ReloadCheckConfig || running.Globals.ReloadCheckConfig // a torn file may have lost the word
	for _, f := range slices.Concat(before, onHost(running).found) {
		c.known[f.Problem()] = true
	}
	return c
}

// reload reads the file again, beside the main task: to ask whether each program can be run may take a while.
// What is asked for meanwhile is read after it: the file may have changed.
func (d *Daemon) reload() {
	if d.again = d.reading; d.again {
		return
	}
	d.reading = true
	d.tell(daemon.SdNotifyReloading)
	go func() { d.candidates <- d.consider(d.opt.File) }()
}

// reloaded puts what was read in force whole, or says why not and changes nothing.
func (d *Daemon) reloaded(ctx context.Context, c candidate) {
	if d.reading = false; d.again {
		d.reload()
		return
	}
	defer d.tell(daemon.SdNotifyReady)
	report(d.log, c.found)
	text := d.refusal(c)
	if text == "" {
		c.config.KeepVMACNames(d.config)
	}
	if text == "" && d.grants != nil {
		if err := d.grants.reconfigure(c.config); err != nil {
			text = err.Error()
		}
	}
	if text != "" {
		d.log.Error("reload refused, the former configuration runs on", "reason", text)
		d.mu.Lock()
		d.configError = text
		d.reloads.Refused++
		d.mu.Unlock()
		return
	}
	if d.monitor == nil {
		d.mu.Lock()
		d.config = c.config
		d.inForce(c.found)
		d.mu.Unlock()
		d.log.Info("reloaded", "file", d.opt.File)
		return
	}
	var before map[string]uint64
	if c.config.Globals.FIFOStatesOnReload {
		before = d.seqs()
	}
	d.apply(ctx, c.config)
	if d.grants != nil {
		d.grants.reconfigured()
	}
	if before != nil {
		d.restate(ctx, before)
	}
	d.mu.Lock()
	d.inForce(c.found)
	d.mu.Unlock()
	d.log.Info("reloaded", "file", d.opt.File, "instances", len(d.units))
}

// inForce notes that a reload is done. The caller holds mu.
func (d *Daemon) inForce(found []conf.Diagnostic) {
	d.found = found
	d.configError = ""
	d.reloads.Done++
	d.reloads.Last = time.Now()
}

// apply makes config the one that runs. Instances that stay the same virtual router keep their state; those that go give
// their addresses away before new ones start.
func (d *Daemon) apply(ctx context.Context, config *conf.Config) {
	d.wire.logVRIDs.Store(config.Globals.LogUnknownVRIDs)
	d.checks.configure(config)
	d.links.configure(config.LinkDelays)
	// Each of these may take seconds, and the watchdog has two.
	fed := func() {
		if d.config != config { // not before it is told that we are ready
			d.feed()
		}
	}
	d.fifos.configure(d, &config.Globals)
	fed()
	d.announcer.SetGroups(paceGroups(config.GarpGroups))
	d.premises.furnish(config)
	units, running := map[string]*unit{}, make([]conf.Instance, len(d.units))
	for k, u := range d.units {
		units[u.config.Name], running[k] = u, u.config
	}
	change := differ(d.config, running, config, d.complete(config))
	moved := d.addresses.Move(change.moving())
	var keep, gone []*unit
	for _, k := range change.keep {
		u := units[k.was.Name]
		keep = append(keep, u)
		if err := u.configure(ctx, k.is, config.Globals.EnableScriptSecurity); err != nil {
			d.log.Error("reconfigure", "instance", u.config.Name, "error", err)
		}
	}
	for _, c := range change.gone {
		gone = append(gone, units[c.Name])
	}
	for _, u := range gone {
		u.deleted = true
	}
	d.groups.detach(gone)
	if err := d.stop(gone); err != nil {
		d.log.Error("stop instances that are no more", "error", err)
	}
	fed()
	for range sweepTries {
		err := moved()
		if err == nil {
			break
		}
		d.log.Error("remove addresses that nobody took over", "error", err)
	}
	if err := d.premises.clear(config); err != nil {
		d.log.Error("put back what nobody needs any more", "error", err)
	}
	// Their last hooks go on beside us; only those of an instance of the same name and the end of vrrpd wait for them.
	d.leaving = append(slices.DeleteFunc(d.leaving, (*unit).gone), gone...)
	var startAt time.Time
	if d.config == config { // the first configuration of this run
		if delay := startDelay(&config.Globals, quiet.BootTime()); delay > 0 {
			startAt = time.Now().Add(delay)
		}
	}
	d.declare(config)
	d.declareRoutes(config)
	for _, c := range change.fresh {
		u, err := d.newUnit(c, startAt, config.Globals.EnableScriptSecurity)
		if err != nil {
			d.log.Error("start instance", "instance", c.Name, "error", err)
			continue
		}
		u.start(ctx, lastHooks(d.leaving, c.Name))
		keep = append(keep, u)
	}
	d.groups.configure(d, config, keep)
	place := placesOf(config.Instances)
	slices.SortStableFunc(keep, func(a, b *unit) int { return place[a.config.Name] - place[b.config.Name] })
	d.mu.Lock()
	d.units, d.config = keep, config
	d.mu.Unlock()
	d.listenForClaims()
	d.refresh(ctx)
}

// startDelay is how long instances wait: vrrp_startup_delay from now on, and vrrp_delay_after_boot since the boot.
func startDelay(g *conf.Globals, sinceBoot time.Duration) time.Duration {
	return max(g.StartupDelay, g.DelayAfterBoot-sinceBoot)
}

func paceGroups(groups []conf.GarpGroup) []gratarp.Group {
	var all []gratarp.Group
	for _, g := range groups {
		all = append(all, gratarp.Group{Interfaces: g.Interfaces, Interval: g.Interval, GNAInterval: g.GNAInterval})
	}
	return all
}

// declare lists all addresses for cleanup before any of them is added, in one write.
func (d *Daemon) declare(config *conf.Config) {
	var sets []system.Set
	for k := range config.Instances {
		c := &config.Instances[k]
		sets = append(sets, system.Set{Owner: c.Name, Addresses: held(c)})
	}
	if err := d.addresses.Declare(sets...); err != nil {
		d.log.Warn("list of addresses for cleanup not written", "error", err)
	}
}
