package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"os/user"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sync/errgroup"

	"pgvrrp/internal/child"
	"pgvrrp/internal/conf"
	"pgvrrp/internal/control"
	"pgvrrp/internal/gratarp"
	"pgvrrp/internal/quiet"
	"pgvrrp/internal/system"
)

// DefaultRunDir holds the list of addresses that a killed vrrpd may have left.
const DefaultRunDir = "/run/vrrpd"

const (
	stopInstances = 2 * time.Second // for giving every address away
	stopHooks     = time.Second     // more for the hooks of STOP
)

// Options say how to run.
type Options struct {
	File     string // the configuration
	ConfigID string // for @ID lines; "": the host name up to its first dot
	Socket   string // control socket
	RunDir   string
	Metrics  string // ADDRESS:PORT for GET /metrics by TCP; "": none
	Version  string
	Log      *slog.Logger
}

// Load reads a configuration file. Check also looks at what it asks of this host.
func Load(file, configID string) (*conf.Config, []conf.Diagnostic) {
	if configID == "" {
		configID, _, _ = strings.Cut(hostName(), ".")
	}
	config, found := conf.Load(file, conf.Options{ConfigID: configID})
	if _, err := user.Lookup(defaultScriptUser); err == nil {
		config.DefaultUser(conf.User{Name: defaultScriptUser})
	}
	return config, found
}

// defaultScriptUser runs programs, and owns FIFOs, that no line names a user for, if there is such an account; else it is our own user
// (keepalived.conf(5), script_user).
const defaultScriptUser = "keepalived_script"

func hostName() string {
	name, err := os.Hostname()
	if err != nil {
		return "localhost"
	}
	return name
}

// Run runs vrrpd until ctx ends. It refuses a file for which check says 4.
func Run(ctx context.Context, o Options) error {
	// The heap is a few megabytes; a collection costs more than the memory it would save while it is that small.
	debug.SetGCPercent(200)
	// One advert or vote after the other is no work for two processors, and to wake a second one costs as much as to send it. Whatever
	// waits in the kernel lets the others go on.
	runtime.GOMAXPROCS(1)
	log := o.Log
	config, found := Check(o.File, o.ConfigID, true)
	if conf.ExitCode(found, false) != conf.ExitCannot {
		if err := enter(config); err != nil { // as a rule it does not return, and then we start anew there
			return err
		}
	}
	report(log, found)
	if conf.ExitCode(found, false) == conf.ExitCannot {
		return fmt.Errorf("cannot run %s: see its errors above", o.File)
	}
	prioritize(log, config)
	d, err := open(o, config)
	if err != nil {
		return err
	}
	defer d.close()
	d.found = found
	if d.monitor == nil {
		return d.witness(ctx)
	}
	return d.run(ctx)
}

// quorumPriority is the real-time priority of a vrrpd that holds leases and has none in its file.
const quorumPriority = 50

// prioritize does what vrrp_rt_priority, vrrp_priority, vrrp_cpu_affinity and vrrp_no_swap ask; a lease needs the first and the last. Without the right to, vrrpd runs on as it is
// and says so.
func prioritize(log *slog.Logger, config *conf.Config) {
	g := &config.Globals
	priority, noSwap := g.RealTimePriority, g.NoSwap
	if config.Quorum != nil {
		noSwap = noSwap || !witnessOnly(config) // a witness stays small instead, and one late vote is no failure
		if priority == 0 && !system.IsRealTime() {
			priority = quorumPriority
		}
	}
	if priority > 0 {
		if err := system.RealTime(priority); err != nil {
			log.Warn("real-time priority not in force", "error", err)
		}
	}
	if g.ProcessPriority != 0 {
		if err := system.Nice(g.ProcessPriority); err != nil {
			log.Warn("nice value not in force", "error", err)
		}
	}
	if len(g.CPUAffinity) > 0 {
		if err := system.Affinity(g.CPUAffinity); err != nil {
			log.Warn("CPU affinity not in force", "error", err)
		}
	}
	if noSwap {
		if err := system.LockMemory(); err != nil {
			log.Warn("memory not locked", "error", err)
		}
	}
}

// witnessOnly reports whether there is nothing to do but vote.
func witnessOnly(config *conf.Config) bool { return config.Quorum != nil && len(config.Instances) == 0 }

// report logs every finding about the file with its place.
func report(log *slog.Logger, found []conf.Diagnostic) {
	for _, f := range found {
		if f.Severity == conf.Lint {
			log.Warn("configuration", "finding", f.String())
		} else {
			log.Error("configuration", "finding", f.String())
		}
	}
}

// Daemon is a running vrrpd.
type Daemon struct {
	opt     Options
	log     *slog.Logger
	started time.Time

	monitor   *system.Monitor
	addresses *system.Addresses
	routes    *system.Routes
	premises  *premises
	wire      *wire
	packets   *gratarp.Conn
	announcer *gratarp.Announcer
	clock     *quiet.Clock
	claims    *gratarp.Watcher // nil: it could not be opened
	claimants atomic.Pointer[map[netip.Addr][]claimant]
	server    *control.Server
	metrics   *metricsPort // nil: none
	hub       hub
	checks    *checks
	groups    groups
	links     links
	recheck   recheck
	fifos     fifos
	grants    *grants // nil: no quorum block
	unclean   bool    // an address may be left
	unswept   bool    // one of a former run may

	wake       chan struct{}  // something changed that instances must hear of
	candidates chan candidate // configurations read for a reload
	reading    bool           // a file is being read for one; of the main task
	again      bool           // and another one was asked for
	leaving    []*unit        // whose last hooks may still run; the main task's
	lock       *os.File

	mu          sync.Mutex // guards what follows; only the main task writes
	units       []*unit
	config      *conf.Config
	found       []conf.Diagnostic // about config
	configError string
	reloads     control.Reloads
	ready       bool
}

func open(o Options, config *conf.Config) (_ *Daemon, err error) {
	now := time.Now()
	d := &Daemon{opt: o, log: o.Log, started: now, reloads: control.Reloads{Last: now}, config: config, wake: make(chan struct{}, 1), candidates: make(chan candidate, 1)}
	defer func() {
		if err != nil {
			d.close()
		}
	}()
	if err = os.MkdirAll(o.RunDir, 0o755); err != nil {
		return nil, fmt.Errorf("make run directory: %w", err)
	}
	if d.lock, err = lockRunDir(o.RunDir); err != nil {
		return nil, err
	}
	if err = d.writePID(); err != nil {
		return nil, err
	}
	if d.server, err = control.Listen(o.Socket, d, o.Log); err != nil {
		return nil, err
	}
	if d.metrics, err = listenMetrics(o.Metrics, d, o.Log); err != nil {
		return nil, err
	}
	if witnessOnly(config) {
		d.grants, err = openGrants(o, config) // a witness: no socket, address or link of the host is its business
		return d, err
	}
	if d.monitor, err = system.OpenMonitor(system.MonitorOptions{Log: o.Log}); err != nil {
		return nil, err
	}
	d.addresses, err = system.OpenAddresses(system.AddressesOptions{Log: o.Log, StateFile: filepath.Join(o.RunDir, "addresses.json")})
	if err != nil {
		return nil, err
	}
	if d.routes, err = system.OpenRoutes(system.RoutesOptions{Log: o.Log, StateFile: routesFile(o.RunDir)}); err != nil {
		return nil, err
	}
	if d.premises, err = openPremises(o.Log, o.RunDir); err != nil {
		return nil, err
	}
	d.wire = newWire(o.Log, d.poke)
	if d.packets, err = gratarp.Open(); err != nil {
		return nil, err
	}
	if d.claims, err = gratarp.OpenWatcher(); err != nil {
		o.Log.Warn("duplicate addresses are not noticed", "error", err)
	}
	d.announcer = gratarp.New(gratarp.Options{Sender: d.packets, Links: d.link, Log: o.Log, Now: quiet.BootTime})
	if d.clock, err = quiet.OpenClock(); err != nil {
		return nil, err
	}
	d.links.wake, d.recheck.wake = d.poke, d.poke
	d.checks = newChecks(o.Log, d.poke)
	if d.grants, err = openGrants(o, config); err != nil {
		return nil, err
	}
	return d, nil
}

func (d *Daemon) close() {
	if d.grants != nil {
		d.grants.close(d.unclean || d.unswept)
	}
	if d.wire != nil {
		d.wire.close()
	}
	if d.packets != nil {
		if err := d.packets.Close(); err != nil {
			d.log.Warn("close packet socket", "error", err)
		}
	}
	if d.premises != nil && !d.unclean {
		if err := d.premises.close(); err != nil {
			d.log.Warn("put the host's settings back", "error", err)
		}
	}
	if d.routes != nil {
		if err := d.routes.Close(); err != nil {
			d.log.Warn("close route keeper", "error", err)
		}
	}
	if d.clock != nil {
		_ = d.clock.Close() // its task may have closed it
	}
	if d.claims != nil {
		_ = d.claims.Close() // its task may have closed it
	}
	if d.addresses != nil {
		if err := d.addresses.Close(); err != nil {
			d.log.Warn("close address keeper", "error", err)
		}
	}
	if d.monitor != nil {
		if err := d.monitor.Close(); err != nil {
			d.log.Warn("close monitor", "error", err)
		}
	}
	if d.server != nil {
		d.server.Close()
	}
	if d.metrics != nil {
		d.metrics.listener.Close()
	}
	if d.lock != nil {
		d.lock.Close()
	}
}

// lockRunDir keeps two vrrpd from using one run directory, and cleanup from working while one runs.
func lockRunDir(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock run directory: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("lock run directory %s: another vrrpd runs there; give this one its own --run-dir and --socket", dir)
		}
		return nil, fmt.Errorf("lock run directory %s: %w", dir, err)
	}
	return f, nil
}

// writePID puts our process id into the lock file, for who sends us signals.
func (d *Daemon) writePID() error {
	err := d.lock.Truncate(0)
	if err == nil {
		_, err = fmt.Fprintln(d.lock, os.Getpid())
	}
	if err != nil {
		return fmt.Errorf("write process id: %w", err)
	}
	return nil
}

// poke wakes the main task; it never blocks.
func (d *Daemon) poke() {
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

// guardEvery is how often it is looked whether the guard still stands: a firewall's reload may flush all tables. Without one, and when
// nothing has happened lately, restEvery is enough.
const (
	guardEvery = time.Second
	restEvery  = 5 * time.Second
)

// trimEvery is how often a witness gives back what it used once.
const trimEvery = 10 * time.Second

// runs says that the start is over.
func (d *Daemon) runs() {
	d.mu.Lock()
	d.ready = true
	d.mu.Unlock()
	d.tell(daemon.SdNotifyReady)
}

// witness runs without instances.
func (d *Daemon) witness(ctx context.Context) error {
	base, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	tasks, base := errgroup.WithContext(base)
	tasks.Go(func() error { return d.server.Run(base) })
	if d.metrics != nil {
		tasks.Go(func() error { return d.metrics.run(base) })
	}
	tasks.Go(func() error { d.dumps(base); return nil })
	voting, leave := context.WithCancel(base)
	defer leave()
	tasks.Go(func() error { return d.grants.Run(voting) })
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)
	d.log.Info("vrrpd runs as a witness", "version", d.opt.Version, "file", d.opt.File)
	d.runs()
	watchdog := d.watchdog()
	defer watchdog.Stop()
	debug.SetGCPercent(50) // some megabytes less for some collections more
	trim := time.NewTicker(trimEvery)
	defer trim.Stop()
	for {
		select {
		case <-trim.C:
			if err := system.Trim(); err != nil {
				d.log.Debug("memory not trimmed", "error", err)
			}
		case <-ctx.Done():
			d.log.Info("vrrpd stops")
			d.tell(daemon.SdNotifyStopping)
			leave()
			d.grants.Ended()
			stop()
			return tasks.Wait()
		case <-base.Done():
			return fmt.Errorf("vrrpd cannot go on: %w", tasks.Wait())
		case <-hup:
			d.reload()
		case c := <-d.candidates:
			d.reloaded(base, c)
		case <-watchdog.C:
			if late := d.grants.Late(); late > stuckAfter {
				d.log.Error("the quorum's loop is stuck, the watchdog is not fed", "late", late)
				continue
			}
			d.tell(daemon.SdNotifyWatchdog)
		}
	}
}

// run is the main task: the others hang below it. Instances stop first, while sockets and hooks still work.
func (d *Daemon) run(ctx context.Context) error {
	base, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	tasks, base := errgroup.WithContext(base)
	tasks.Go(func() error { return d.monitor.Run(base) })
	tasks.Go(func() error { return d.server.Run(base) })
	if d.metrics != nil {
		tasks.Go(func() error { return d.metrics.run(base) })
	}
	tasks.Go(func() error { d.dumps(base); return nil })
	tasks.Go(func() error { return d.announcer.Run(base) })
	tasks.Go(func() error { return d.clock.Run(base) })
	tasks.Go(func() error { d.hearClaims(base); return nil })
	tasks.Go(func() error { return d.routes.Watch(base, d.routesLost) })
	// The scripts stop together with the instances: one that ignores SIGTERM must not add to the time that stopping takes.
	checking, stopChecks := context.WithCancel(base)
	defer stopChecks()
	defer context.AfterFunc(ctx, stopChecks)()
	tasks.Go(func() error { return d.checks.run(checking) })
	defer d.monitor.Subscribe(func(events []system.Event) {
		if slices.ContainsFunc(events, concernsUs) {
			d.poke()
		}
	})()
	defer d.addresses.Watch(d.monitor, d.addressLost)()

	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)

	if err := d.sweep(ctx); err != nil && d.grants != nil && d.grants.guard == nil && !d.grants.witness {
		// A grant of a former run is given back in the log at once, and nothing but us keeps what is left from answering.
		stop()
		return errors.Join(fmt.Errorf("remove addresses of a former run: %w", err), tasks.Wait())
	}
	voting, leave := context.WithCancel(base)
	defer leave()
	if d.grants != nil {
		tasks.Go(func() error { return d.grants.Run(voting) })
	}
	d.program(ctx, "startup_script", &d.config.Globals.StartupScript, d.config.Globals.StartupTimeout)
	d.checks.files.Init(d.config.TrackFiles)
	d.apply(base, d.config)
	d.log.Info("vrrpd runs", "version", d.opt.Version, "file", d.opt.File, "instances", len(d.units))
	d.runs()
	watchdog := d.watchdog()
	defer watchdog.Stop()
	look := time.NewTicker(guardEvery)
	defer look.Stop()
	var tidy tidy
	for {
		select {
		case <-ctx.Done():
			d.log.Info("vrrpd stops")
			d.tell(daemon.SdNotifyStopping)
			err := d.stopAll()
			leave()
			if d.grants != nil {
				d.grants.Ended()
			}
			stop()
			return errors.Join(err, tasks.Wait())
		case <-base.Done():
			// A task failed: without monitor or socket we would be blind. Leave as cleanly as on SIGTERM.
			err := d.stopAll()
			return errors.Join(fmt.Errorf("vrrpd cannot go on: %w", tasks.Wait()), err)
		case <-hup:
			d.reload()
		case c := <-d.candidates:
			d.reloaded(base, c)
			look.Reset(guardEvery)
		case <-d.wake:
			d.refresh(base)
		case now := <-look.C:
			if tidy.due(now, d.hub.events()) && !d.config.Globals.NoSwap && d.grants == nil { // what is locked cannot be given back
				if err := system.Trim(); err != nil {
					d.log.Debug("memory not trimmed", "error", err)
				}
			}
			if d.premises.look() {
				d.refresh(base)
			}
			if d.grants != nil {
				d.grants.look()
			}
			if d.grants != nil || d.premises.guarded() || !tidy.done() {
				look.Reset(guardEvery)
			} else {
				look.Reset(restEvery)
			}
		case <-watchdog.C:
			d.feed()
		}
	}
}

// sweepTries is how often it is tried to remove what a former run left: others may change the same interfaces.
const sweepTries = 3

// sweep removes what a former run left: nobody is master yet.
func (d *Daemon) sweep(ctx context.Context) (err error) {
	for try := 1; ; try++ {
		var removed []system.KernelAddress
		removed, err = d.addresses.Cleanup(ctx, leftovers(d.config))
		for _, a := range removed {
			d.log.Warn("removed an address that a former run left", "address", a.Prefix.String(), "interface", a.Interface)
		}
		if err == nil || try == sweepTries || ctx.Err() != nil {
			break
		}
	}
	d.sweepRoutes()
	d.sweepPremises()
	if err != nil {
		d.log.Error("remove addresses of a former run", "error", err)
		d.unswept = true
		return err // the guard that it may have left stays in front of them
	}
	if d.grants != nil && d.grants.guard != nil {
		return nil // it is ours, and new
	}
	// The addresses of a former run are off, so that nothing needs the guard that it may have left, and without one of our own nothing
	// would ever open that.
	gone, err := system.CleanupGuard(guardOwner(d.opt.RunDir))
	if err != nil {
		d.log.Error("remove the guard of a former run", "error", err)
	}
	if gone {
		d.log.Warn("removed the guard that a former run left")
	}
	return nil
}

// leftovers are the addresses that nobody but a former run of ours can have put there: an owner's are its own.
func leftovers(config *conf.Config) []conf.Address {
	var all []conf.Address
	for k := range config.Instances {
		if c := &config.Instances[k]; c.Priority != 255 {
			all = append(all, held(c)...)
		}
	}
	return all
}

// stopAll stops every instance at once and waits for them, then for their last hooks.
func (d *Daemon) stopAll() error {
	d.groups.detach(d.units)
	err := d.stop(d.units)
	d.unclean = err != nil || !d.grants.clean()
	done := d.groups.finish()
	err = errors.Join(err, finish(append(d.leaving, d.units...)))
	<-done
	d.fifos.close()
	g := &d.config.Globals
	d.program(context.Background(), "shutdown_script", &g.ShutdownScript, g.ShutdownTimeout)
	return err
}

// program runs startup_script before any instance is there, or shutdown_script when none is any more. Its failure is told
// and holds nothing up: what must be there for a takeover is a vrrp_script's business.
func (d *Daemon) program(ctx context.Context, keyword string, c *conf.Command, timeout time.Duration) {
	if len(c.Argv) == 0 {
		return
	}
	run := child.Command{Argv: c.Argv, User: c.User.Name, Group: c.User.Group, Timeout: timeout}
	err := error(nil)
	if d.config.Globals.EnableScriptSecurity {
		err = child.Secure(run)
	}
	var res child.Result
	if err == nil {
		res, err = child.Run(ctx, run)
	}
	if err != nil {
		d.log.Error(keyword+" failed", "error", err)
		return
	}
	d.log.Info(keyword+" done", "duration", res.Duration)
}

// concernsUs leaves out the news of our own virtual addresses.
func concernsUs(e system.Event) bool { return e.Kind <= system.LinkRemoved || !e.Address.Ours() }

// stuckAfter is how late a loop may be before systemd must not hear of us any more.
const stuckAfter = 2 * time.Second

// feed tells systemd that we live, if every loop does.
func (d *Daemon) feed() {
	for _, u := range d.units {
		if late := u.instance.Late(); late > stuckAfter {
			d.log.Error("an instance's loop is stuck, the watchdog is not fed", "instance", u.config.Name, "late", late)
			return
		}
	}
	if d.grants != nil {
		if late := d.grants.Late(); late > stuckAfter {
			d.log.Error("the quorum's loop is stuck, the watchdog is not fed", "late", late)
			return
		}
	}
	d.tell(daemon.SdNotifyWatchdog)
}

func (d *Daemon) tell(state string) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		d.log.Debug("notify systemd", "state", state, "error", err)
	}
}

// watchdog ticks twice as often as systemd wants to hear of us, or never.
func (d *Daemon) watchdog() *time.Ticker {
	every, err := daemon.SdWatchdogEnabled(false)
	if err != nil || every <= 0 {
		t := time.NewTicker(time.Hour)
		t.Stop()
		return t
	}
	return time.NewTicker(every / 2)
}

// refresh tells every instance how its surroundings are.
func (d *Daemon) refresh(ctx context.Context) {
	d.premises.promote(d.config)
	d.wire.follow(d.monitor)
	for _, u := range d.units {
		u.refresh(ctx)
	}
}

// link is what announcements need to know of an interface.
func (d *Daemon) link(name string) (gratarp.Link, bool) {
	l, ok := d.monitor.Link(name)
	if !ok {
		i, err := net.InterfaceByName(name) // a VMAC of a moment ago
		if err != nil {
			return gratarp.Link{}, false
		}
		l = system.Link{Index: i.Index, MAC: i.HardwareAddr}
	}
	router, err := system.Forwarding(name)
	if err != nil {
		d.log.Debug("router flag of neighbour advertisements unknown, left out", "interface", name, "error", err)
	}
	return gratarp.Link{Index: l.Index, MAC: l.MAC, NoARP: l.NoARP || l.Loopback, Router: router}, true
}

func (d *Daemon) addressLost(owner string, missing []conf.Address) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, u := range d.units {
		if u.config.Name == owner {
			u.lost(missing)
		}
	}
}

// Status is the whole daemon for the control socket.
func (d *Daemon) Status(ctx context.Context) control.Status {
	s := control.Status{Node: hostName(), Version: d.opt.Version, PID: os.Getpid(), Started: d.started, ConfigFile: d.opt.File}
	if d.grants != nil {
		s.Quorum = d.grants.Node.Status(ctx)
		s.Node = s.Quorum.Node
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	s.ConfigError, s.Starting = d.configError, !d.ready
	s.Instances = make([]control.Instance, 0, len(d.units))
	if d.monitor != nil {
		s.Scripts, s.Links = d.checks.status(), d.wire.status(d.monitor)
		n := d.announcer.Stats()
		s.Announced = control.Announced{ARP: n.ARP, NA: n.NA, Failed: n.Failed}
	}
	s.Reloads = d.reloads
	for _, u := range d.units {
		i := u.instance.Status()
		i.Resource = u.config.Quorum
		s.Instances = append(s.Instances, i)
	}
	s.Groups = d.groups.status()
	return s
}

// Release gives an instance's mastership away, and that of all members of its sync group.
func (d *Daemon) Release(ctx context.Context, name string, hold time.Duration) error {
	d.mu.Lock()
	units := d.units
	d.mu.Unlock()
	for _, u := range units {
		if u.instance.Name() == name {
			var errs []error
			for _, i := range u.fellows() {
				errs = append(errs, i.Release(ctx, hold))
			}
			return errors.Join(errs...)
		}
	}
	return fmt.Errorf("release %s: no such vrrp_instance", name)
}

// Subscribe is the event stream.
func (d *Daemon) Subscribe() (<-chan control.Event, func()) { return d.hub.subscribe() }
