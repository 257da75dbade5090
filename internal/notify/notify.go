package notify

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"sync"
	"time"

	"pgvrrp/internal/child"
	"pgvrrp/internal/conf"
)

// Kinds of an Event.
const (
	Instance = "INSTANCE"
	Group    = "GROUP"
)

// States of an Event, as the programs are told them.
const (
	Master  = "MASTER"
	Backup  = "BACKUP"
	Fault   = "FAULT"
	Stop    = "STOP"
	Deleted = "DELETED"
	// RxLowerPri is no state: a master has heard an advert of lower priority. Only notify_master_rx_lower_pri is run for it.
	RxLowerPri = "MASTER_RX_LOWER_PRI"
)

// The defaults of Options.
const (
	DefaultStopGrace = 500 * time.Millisecond
	DefaultStopTime  = time.Second
)

// slowHook is when a hook that keeps a newer state waiting is first complained about.
const slowHook = 10 * time.Second

// stopMargin is for a killed program to be seen to end.
const stopMargin = 50 * time.Millisecond

// Event is a state that programs are told.
type Event struct {
	Seq      uint64 // number of the transition
	Kind     string // Instance or Group
	Name     string
	State    string
	Priority uint8 // the effective one; 0 for a group
	At       time.Time
	// Deadline is how long after Post its programs may end at the latest, 0 for Options.Timeout. It covers waiting for its turn.
	Deadline time.Duration
}

// Result is what became of an Event.
type Result struct {
	Event Event
	// Err is nil if every program exited with 0, or there was none. It names the program otherwise.
	Err        error
	Code       int           // the first exit status that isn't 0; -1 if a program did not start or was killed
	Duration   time.Duration // of all its programs
	Superseded bool          // a newer state came before its programs were run, or before the last of them was
}

// RunFunc is child.Run.
type RunFunc func(context.Context, child.Command) (child.Result, error)

// Options of a Queue. The zero value has no log, no timeout and no environment.
type Options struct {
	Log *slog.Logger
	// Timeout bounds each program, 0: it may run for ever, and keeps newer states waiting, with a warning.
	Timeout time.Duration
	// StopGrace is what a program that has to stop gets between SIGTERM and SIGKILL.
	StopGrace time.Duration
	// Socket is the control socket, given to the programs as VRRPD_SOCKET.
	Socket string
	// Env is added to the environment, after VRRPD_SOCKET, VRRPD_SEQ and VRRPD_INSTANCE or VRRPD_GROUP.
	Env []string
	// Secure refuses a program that runs as root and that somebody else can change (enable_script_security).
	Secure bool
	// OnResult gets the result of every event posted, in one goroutine at a time. It may block, but then the next hook waits.
	OnResult func(Result)
	// Run starts programs; nil is child.Run.
	Run RunFunc
}

// Queue runs the hooks of one instance or group.
type Queue struct {
	hooks conf.Hooks
	opt   Options
	log   *slog.Logger

	turn chan struct{} // holds one token, held while hooks run
	wake chan struct{}
	stop chan struct{} // closed by Stop

	mu      sync.Mutex
	stopped bool
	state   *posted // waiting
	rx      *posted // waiting, behind any state
	dropped []Event // to be reported
}

type posted struct {
	Event
	by    time.Time     // zero: no deadline
	grace time.Duration // between SIGTERM and SIGKILL
	last  bool          // nothing overtakes it
}

// New makes a queue; Run does its work.
func New(hooks conf.Hooks, opt Options) *Queue {
	if opt.Log == nil {
		opt.Log = slog.New(slog.DiscardHandler)
	}
	if opt.StopGrace <= 0 {
		opt.StopGrace = DefaultStopGrace
	}
	if opt.Run == nil {
		opt.Run = child.Run
	}
	if opt.OnResult == nil {
		opt.OnResult = func(Result) {}
	}
	q := &Queue{
		hooks: hooks, opt: opt, log: opt.Log,
		turn: make(chan struct{}, 1), wake: make(chan struct{}, 1), stop: make(chan struct{}),
	}
	q.turn <- struct{}{}
	return q
}

// Configure has later events run other programs; those of an event that is under way go on.
func (q *Queue) Configure(hooks conf.Hooks, secure bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.hooks, q.opt.Secure = hooks, secure
}

// Post queues an event and never blocks. A waiting event that it overtakes is dropped and reported as superseded: a state by any
// newer state, RxLowerPri by anything newer.
func (q *Queue) Post(ev Event) {
	p := &posted{Event: ev, grace: q.opt.StopGrace}
	if ev.Deadline > 0 {
		p.by = time.Now().Add(ev.Deadline)
	}
	q.mu.Lock()
	switch {
	case q.stopped:
		q.log.Info("hooks not run, the queue has ended", "event", ev.State, "seq", ev.Seq)
	case ev.State == RxLowerPri:
		q.drop(q.rx)
		q.rx = p
	default:
		q.drop(q.state)
		q.drop(q.rx)
		q.state, q.rx = p, nil
	}
	q.mu.Unlock()
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// drop is called with mu held.
func (q *Queue) drop(p *posted) {
	if p != nil {
		q.dropped = append(q.dropped, p.Event)
	}
}

// next takes what is to be run next, nil for nothing.
func (q *Queue) next() *posted {
	q.mu.Lock()
	defer q.mu.Unlock()
	if p := q.state; p != nil {
		q.state = nil
		return p
	}
	p := q.rx
	q.rx = nil
	return p
}

// newer says whether a state waits that has overtaken what runs.
func (q *Queue) newer() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.state != nil || q.stopped
}

func (q *Queue) reportDropped() {
	q.mu.Lock()
	dropped := q.dropped
	q.dropped = nil
	q.mu.Unlock()
	for _, ev := range dropped {
		q.report(Result{Event: ev, Superseded: true})
	}
}

func (q *Queue) report(r Result) {
	log := q.log.With("event", r.Event.State, "seq", r.Event.Seq)
	switch {
	case r.Superseded && r.Err != nil:
		log.Warn("hooks given up, a newer state has come", "error", r.Err, "duration", r.Duration)
	case r.Superseded:
		log.Info("hooks not run, a newer state has come")
	case r.Err != nil:
		log.Error("hook failed", "error", r.Err, "code", r.Code, "duration", r.Duration)
	default:
		log.Debug("hooks done", "duration", r.Duration)
	}
	q.opt.OnResult(r)
}

// Run runs hooks until the context ends or Stop is called; a hook that runs then gets SIGTERM, and SIGKILL after StopGrace.
func (q *Queue) Run(ctx context.Context) error {
	for {
		q.reportDropped()
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-q.stop:
			return nil
		case <-q.wake:
			continue
		case <-q.turn:
		}
		if err := ctx.Err(); err != nil {
			q.turn <- struct{}{}
			return err
		}
		p := q.next()
		if p == nil {
			q.turn <- struct{}{}
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-q.stop:
				return nil
			case <-q.wake:
			}
			continue
		}
		q.work(ctx, p)
		q.turn <- struct{}{}
	}
}

// work runs the hooks of p, and reports meanwhile what they keep out.
func (q *Queue) work(ctx context.Context, p *posted) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	done := make(chan Result, 1)
	go func() { done <- q.runAll(ctx, p, q.hooksFor(p.State)) }()
	slow := time.NewTimer(slowHook)
	defer slow.Stop()
	stop := q.stop
	for {
		select {
		case r := <-done:
			q.reportDropped() // they were overtaken before this one ended
			q.report(r)
			return
		case <-stop:
			stop = nil
			cancel()
		case <-q.wake:
			q.reportDropped()
			if p.State == RxLowerPri && q.newer() {
				cancel() // nothing depends on it
			}
		case <-slow.C:
			if q.newer() {
				q.log.Warn("a hook keeps a newer state waiting", "event", p.State, "seq", p.Seq)
			}
			slow.Reset(slowHook)
		}
	}
}

// Hook is one program of an event.
type Hook struct {
	Keyword string
	Command conf.Command
	Words   bool // keepalived's four words are appended
}

// HooksFor lists the programs for a state: the specific one, which gets its own arguments only, then the generic one. An empty
// Argv is none.
func HooksFor(hooks conf.Hooks, state string) []Hook {
	if state == Deleted && !hooks.SendDeleted {
		state = Fault
	}
	var list []Hook
	switch state {
	case Master:
		list = append(list, Hook{"notify_master", hooks.Master, false})
	case Backup:
		list = append(list, Hook{"notify_backup", hooks.Backup, false})
	case Fault:
		list = append(list, Hook{"notify_fault", hooks.Fault, false})
	case Stop:
		list = append(list, Hook{"notify_stop", hooks.Stop, false})
	case Deleted:
		list = append(list, Hook{"notify_deleted", hooks.Deleted, false})
	case RxLowerPri:
		return []Hook{{"notify_master_rx_lower_pri", hooks.MasterRxLowerPri, false}}
	}
	return append(list, Hook{"notify", hooks.Notify, true})
}

func (q *Queue) hooksFor(state string) []Hook {
	q.mu.Lock()
	defer q.mu.Unlock()
	return HooksFor(q.hooks, state)
}

// word is what the generic hook is told: without notify_deleted a removed instance is said to be in FAULT.
func (q *Queue) word(state string) string {
	q.mu.Lock()
	defer q.mu.Unlock()
	if state == Deleted && !q.hooks.SendDeleted {
		return Fault
	}
	return state
}

func (q *Queue) runAll(ctx context.Context, p *posted, hooks []Hook) Result {
	r := Result{Event: p.Event}
	start := time.Now()
	if !p.by.IsZero() {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, p.by)
		defer cancel()
	}
	var errs []error
	for _, h := range hooks {
		if len(h.Command.Argv) == 0 {
			continue
		}
		if !p.last && q.newer() {
			r.Superseded = true // also between the two: the generic hook of an old state would be run late
			break
		}
		var res child.Result
		var err error
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			res, err = child.Result{Code: -1}, errors.New("no time was left to start it")
		} else {
			res, err = q.run(ctx, p, h)
		}
		r.Duration = time.Since(start)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", h.Keyword, err))
			if r.Code == 0 {
				r.Code = res.Code
			}
			if r.Code == 0 {
				r.Code = -1 // it exited with 0, but only because it was told to stop
			}
		}
	}
	if p.State == RxLowerPri && errors.Is(ctx.Err(), context.Canceled) {
		r.Superseded = true
	}
	if len(errs) > 0 {
		r.Err = &hookError{errs}
	}
	return r
}

// hookError joins the errors of two hooks on one line.
type hookError struct{ errs []error }

func (e *hookError) Error() string {
	text := e.errs[0].Error()
	for _, err := range e.errs[1:] {
		text += "; " + err.Error()
	}
	return text
}

func (e *hookError) Unwrap() []error { return e.errs }

func (q *Queue) run(ctx context.Context, p *posted, h Hook) (child.Result, error) {
	c := child.Command{
		Argv: h.Command.Argv, User: h.Command.User.Name, Group: h.Command.User.Group,
		Timeout: q.opt.Timeout, Grace: p.grace,
	}
	if !p.by.IsZero() {
		c.Timeout = 0
	}
	if h.Words {
		c.Argv = append(c.Argv[:len(c.Argv):len(c.Argv)], p.Kind, p.Name, q.word(p.State), strconv.Itoa(int(p.Priority)))
	}
	if q.opt.Socket != "" {
		c.Env = append(c.Env, "VRRPD_SOCKET="+q.opt.Socket)
	}
	if p.Kind == Group {
		c.Env = append(c.Env, "VRRPD_GROUP="+p.Name)
	} else {
		c.Env = append(c.Env, "VRRPD_INSTANCE="+p.Name)
	}
	c.Env = append(c.Env, "VRRPD_SEQ="+strconv.FormatUint(p.Seq, 10))
	c.Env = append(c.Env, q.opt.Env...)
	q.mu.Lock()
	secure := q.opt.Secure
	q.mu.Unlock()
	if secure {
		if err := child.Secure(c); err != nil {
			return child.Result{Code: -1}, err
		}
	}
	log := q.log.With("hook", h.Keyword, "event", p.State, "seq", p.Seq)
	log.Debug("hook starts", "command", c.String())
	res, err := q.opt.Run(ctx, c)
	var exit *child.ExitError
	if errors.As(err, &exit) && exit.Gone != nil {
		log.Error("hook can't be stopped", "error", err)
	}
	if err == nil {
		log.Info("hook done", "code", res.Code, "duration", res.Duration)
	}
	return res, err
}

// Stop is the end: a hook that runs gets SIGTERM, what waits is dropped, then the hooks of ev are run, and Stop returns when they
// are done, at the latest when the context ends (after DefaultStopTime, if it has no deadline). Run returns, or has returned: Stop
// works without it. Events posted later are dropped.
func (q *Queue) Stop(ctx context.Context, ev Event) Result {
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, DefaultStopTime)
		defer cancel()
	}
	q.mu.Lock()
	again := q.stopped
	q.stopped = true
	q.drop(q.state)
	q.drop(q.rx)
	q.state, q.rx = nil, nil
	q.mu.Unlock()
	if !again {
		close(q.stop)
	}
	select {
	case <-q.turn:
	case <-ctx.Done():
		r := Result{Event: ev, Code: -1, Err: fmt.Errorf("hooks for %s not run: the one before has not ended: %w", ev.State, ctx.Err())}
		q.report(r)
		return r
	}
	q.reportDropped()
	deadline, _ := ctx.Deadline()
	grace := min(q.opt.StopGrace, time.Until(deadline)/4) // SIGKILL must have come by the deadline, not SIGTERM
	p := &posted{Event: ev, by: deadline.Add(-grace), grace: grace, last: true}
	done := make(chan Result, 1)
	go func() {
		r := q.runAll(ctx, p, q.hooksFor(ev.State))
		q.turn <- struct{}{}
		done <- r
	}()
	r := Result{Event: ev}
	select {
	case r = <-done:
	case <-ctx.Done():
		select {
		case r = <-done:
		case <-time.After(stopMargin):
			r.Code, r.Err = -1, fmt.Errorf("hooks for %s have not ended: %w", ev.State, ctx.Err())
		}
	}
	q.report(r)
	return r
}
