package track

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"pgvrrp/internal/child"
	"pgvrrp/internal/conf"
)

// spread is within which time the first runs of all scripts are started, unless a script's interval is shorter.
const spread = time.Second

// checkGrace is what a check that took too long gets between SIGTERM and SIGKILL; its failure counts before.
const checkGrace = time.Second

// RunFunc is child.Run.
type RunFunc func(context.Context, child.Command) (child.Result, error)

// Status is what is known of one script.
type Status struct {
	Name         string
	State        State
	Reason       string    // why the state isn't OK; "" if it is
	Since        time.Time // when the state last changed; zero: never
	Runs         uint64    // how many have ended
	Failures     uint64    // how many of those were no success
	Code         int       // exit status of the last run; -1 if it had none
	LastError    string    // of the last run; "" if it succeeded
	LastRun      time.Time // when the last run began
	LastDuration time.Duration
	MaxDuration  time.Duration
	Hangs        bool // a run outlives SIGKILL; no other is started until it has gone
}

// Scripts runs the vrrp_scripts of a configuration.
type Scripts struct {
	log      *slog.Logger
	run      RunFunc
	secure   bool
	replaced chan struct{}

	mu          sync.Mutex
	checks      []*check
	subscribers map[int]func(Status)
	nextID      int
}

// check is one script, guarded by Scripts.mu but for the configuration, which stays.
type check struct {
	cfg   conf.Script
	fresh bool // the next result decides at once
	good  int  // successes in a row
	bad   int

	after  <-chan struct{} // the run of the check that this one replaces has gone
	cancel context.CancelFunc
	done   chan struct{}

	status Status
}

// NewScripts makes a runner; Run does its work. run is child.Run in production.
func NewScripts(cfg []conf.Script, log *slog.Logger, run RunFunc) *Scripts {
	s := &Scripts{log: log, run: run, replaced: make(chan struct{}, 1), subscribers: map[int]func(Status){}}
	s.Replace(cfg)
	return s
}

// SetSecurity is enable_script_security: a script that runs as root and that somebody else can change counts as failed, from the
// next run on.
func (s *Scripts) SetSecurity(on bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.secure = on
}

// Replace exchanges the set of scripts, as a reload does. A script that has not changed goes on undisturbed; one that has keeps
// its state until its first new result, which counts at once.
func (s *Scripts) Replace(cfg []conf.Script) {
	s.mu.Lock()
	defer s.mu.Unlock()
	old := map[string]*check{}
	for _, c := range s.checks {
		old[c.cfg.Name] = c
	}
	var checks []*check
	for _, sc := range cfg {
		was := old[sc.Name]
		delete(old, sc.Name)
		if was != nil && SameScript(was.cfg, sc) {
			checks = append(checks, was)
			continue
		}
		c := &check{cfg: sc, fresh: !sc.InitFail, done: make(chan struct{}), status: Status{Name: sc.Name, Code: -1}}
		if sc.InitFail {
			c.status.State, c.status.Reason = Failed, "init_fail: not proven yet"
		}
		if was != nil {
			c.fresh, c.status = true, was.status
			c.after = was.done
			s.end(was)
		}
		checks = append(checks, c)
	}
	for _, c := range old {
		s.end(c)
	}
	s.checks = checks
	select {
	case s.replaced <- struct{}{}:
	default:
	}
}

// end is called with mu held.
func (s *Scripts) end(c *check) {
	if c.cancel == nil { // never started
		if c.after == nil {
			close(c.done)
			return
		}
		go func() { // whoever comes next waits for the one before too
			<-c.after
			close(c.done)
		}()
		return
	}
	c.cancel()
}

// SameScript says whether two configurations run alike, so that Replace leaves the script alone; weights are the instances'
// affair.
func SameScript(a, b conf.Script) bool {
	if len(a.Command.Argv) != len(b.Command.Argv) {
		return false
	}
	for i := range a.Command.Argv {
		if a.Command.Argv[i] != b.Command.Argv[i] {
			return false
		}
	}
	return a.Command.User == b.Command.User && a.Interval == b.Interval && a.Timeout == b.Timeout &&
		a.Rise == b.Rise && a.Fall == b.Fall && a.InitFail == b.InitFail
}

// Subscribe has f called after each change of a script's state, by the goroutine of that script, which waits meanwhile: f hands
// the news on and returns. The result ends the subscription.
func (s *Scripts) Subscribe(f func(Status)) (cancel func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	id := s.nextID
	s.nextID++
	s.subscribers[id] = f
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.subscribers, id)
	}
}

// Status lists all scripts in the order of the configuration.
func (s *Scripts) Status() []Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []Status
	for _, c := range s.checks {
		list = append(list, c.status)
	}
	return list
}

// State is what Source.State wants: a name that no script has is unable.
func (s *Scripts) State(name string) (State, string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.checks {
		if c.cfg.Name == name {
			return c.status.State, c.status.Reason
		}
	}
	return Unable, "not defined"
}

// Run runs the scripts until the context ends, and returns when the last run has ended.
func (s *Scripts) Run(ctx context.Context) error {
	var running sync.WaitGroup
	defer running.Wait()
	for {
		s.startNew(ctx, &running)
		select {
		case <-s.replaced:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (s *Scripts) startNew(ctx context.Context, running *sync.WaitGroup) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, c := range s.checks {
		if c.cancel != nil {
			continue
		}
		checkCtx, cancel := context.WithCancel(ctx)
		c.cancel = cancel
		delay := min(spread, c.interval()) * time.Duration(i) / time.Duration(len(s.checks))
		running.Go(func() {
			defer cancel()
			defer close(c.done)
			if c.after != nil {
				<-c.after // never two at once
			}
			s.loop(checkCtx, c, delay)
		})
	}
}

// interval guards against a configuration that nobody has validated.
func (c *check) interval() time.Duration { return max(c.cfg.Interval, time.Millisecond) }

func (c *check) timeout() time.Duration {
	if c.cfg.Timeout > 0 {
		return c.cfg.Timeout
	}
	return c.interval()
}

// loop runs one script each interval, counted from start to start; a run that takes longer is followed by the next at once.
func (s *Scripts) loop(ctx context.Context, c *check, delay time.Duration) {
	timer := time.NewTimer(delay)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		if ctx.Err() != nil {
			return
		}
		started := time.Now()
		s.once(ctx, c)
		timer.Reset(max(0, c.interval()-time.Since(started)))
	}
}

// once runs a script and waits until it has gone, in which the failure of one that does not end counts right away.
func (s *Scripts) once(ctx context.Context, c *check) {
	type outcome struct {
		res child.Result
		err error
	}
	started := time.Now()
	runCtx, cancel := context.WithTimeout(ctx, c.timeout())
	defer cancel()
	done := make(chan outcome, 1)
	go func() {
		var o outcome
		o.res, o.err = s.start(runCtx, c)
		done <- o
	}()
	var o outcome
	counted := false
	select {
	case o = <-done:
	case <-runCtx.Done():
		if ctx.Err() == nil {
			counted = true
			s.result(c, Unable, fmt.Sprintf("timed out after %v", c.timeout()), -1, started)
		}
		o = <-done
	}
	var exit *child.ExitError
	isExit := errors.As(o.err, &exit)
	switch {
	case ctx.Err() != nil:
		// we are leaving, or replaced: what it says is due to our signal
	case counted:
	case o.err == nil:
		s.result(c, OK, "", 0, started)
	case isExit && exit.Err == nil && exit.Result.Signal == 0 && exit.Result.Code != 126 && exit.Result.Code != 127:
		s.result(c, Failed, o.err.Error(), o.res.Code, started)
	default:
		s.result(c, Unable, o.err.Error(), o.res.Code, started)
	}
	if isExit && exit.Gone != nil {
		s.await(ctx, c, exit)
	}
}

// start runs the program of a check.
func (s *Scripts) start(ctx context.Context, c *check) (child.Result, error) {
	cmd := child.Command{
		Argv: c.cfg.Command.Argv, User: c.cfg.Command.User.Name, Group: c.cfg.Command.User.Group, Grace: checkGrace,
	}
	s.mu.Lock()
	secure := s.secure
	s.mu.Unlock()
	if secure {
		if err := child.Secure(cmd); err != nil {
			return child.Result{Code: -1}, err
		}
	}
	return s.run(ctx, cmd)
}

// await waits for a run that hangs in the kernel; each interval that it takes is one more failure.
func (s *Scripts) await(ctx context.Context, c *check, exit *child.ExitError) {
	s.setHangs(c, true)
	defer s.setHangs(c, false)
	tick := time.NewTicker(c.interval())
	defer tick.Stop()
	for {
		select {
		case <-exit.Gone:
			return
		case <-ctx.Done():
			return
		case <-tick.C:
			s.result(c, Unable, exit.Error(), -1, time.Now())
		}
	}
}

func (s *Scripts) setHangs(c *check, hangs bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c.status.Hangs = hangs
}

// result counts the outcome of a run and tells everyone if it changes the state.
//
// One success in a state not known yet is enough, one failure too; else rise successes or fall failures in a row are needed.
func (s *Scripts) result(c *check, outcome State, reason string, code int, started time.Time) {
	s.mu.Lock()
	st := &c.status
	before := *st
	st.Runs++
	st.Code, st.LastError, st.LastRun, st.LastDuration = code, reason, started, time.Since(started)
	st.MaxDuration = max(st.MaxDuration, st.LastDuration)
	if outcome == OK {
		c.good, c.bad = c.good+1, 0
	} else {
		st.Failures++
		c.good, c.bad = 0, c.bad+1
	}
	decided := c.fresh
	switch st.State {
	case OK:
		decided = decided || outcome != OK && c.bad >= max(c.cfg.Fall, 1)
	default:
		// Which kind of failure it is may change at once.
		decided = decided || outcome != OK || c.good >= max(c.cfg.Rise, 1)
	}
	c.fresh = false
	if decided {
		st.State, st.Reason = outcome, reason
	}
	if st.State != before.State {
		st.Since = time.Now()
	}
	now := *st
	var tell []func(Status)
	if now.State != before.State {
		for _, f := range s.subscribers {
			tell = append(tell, f)
		}
	}
	s.mu.Unlock()

	log := s.log.With("script", now.Name)
	switch {
	case now.State != before.State && now.State == OK:
		log.Info("check succeeds", "from", before.State.String(), "duration", now.LastDuration)
	case now.State != before.State:
		log.Warn("check fails", "from", before.State.String(), "to", now.State.String(), "reason", now.Reason, "duration", now.LastDuration)
	case outcome != OK && reason != before.LastError:
		log.Warn("check run failed", "state", now.State.String(), "reason", reason, "in_a_row", c.bad, "fall", c.cfg.Fall)
	}
	for _, f := range tell {
		f(now)
	}
}
