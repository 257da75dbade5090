package track

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"pgvrrp/internal/conf"
)

// ProcessHandler hears of processes; see package system, which has the same.
type ProcessHandler interface {
	Resync()
	Forked(parent, child int)
	Execed(pid int)
	Exited(pid int)
}

// ProcessHost is how Processes sees the host.
type ProcessHost struct {
	// Follow tells of every process until ctx ends. Its error says why it cannot.
	Follow func(ctx context.Context, h ProcessHandler) error
	// List gives the numbers of all processes.
	List func() ([]int, error)
	// Read gives a process's name and command line; an error: it is gone.
	Read func(pid int) (name string, argv []string, err error)
}

// followAgain is how soon it is tried again to follow the processes, or to look through them, when that failed.
const followAgain = 5 * time.Second

// Processes counts the instances of the vrrp_track_processes of a configuration.
type Processes struct {
	log     *slog.Logger
	host    ProcessHost
	changed func()
	again   chan struct{} // there is something new to follow, or to wait for

	mu        sync.Mutex
	all       []*instances
	following bool
	trouble   string    // why nothing is known; "" if all is well
	lookAt    time.Time // when to look again, as the last look failed; zero: it did not
}

// instances is one vrrp_track_process. Its methods are pure.
type instances struct {
	cfg  conf.TrackProcess
	pids map[int]bool

	known  bool // the processes were looked through
	counts bool // the quorum counts as reached
	grown  bool // the last change was one more, and not one less
	due    time.Time
}

// NewProcesses makes a counter; Run does its work. changed is called after a state has changed.
func NewProcesses(log *slog.Logger, host ProcessHost, changed func()) *Processes {
	return &Processes{log: log, host: host, changed: changed, again: make(chan struct{}, 1)}
}

// Replace has these processes counted in the place of the former ones; one that did not change keeps its state.
func (p *Processes) Replace(cfg []conf.TrackProcess) {
	p.mu.Lock()
	defer p.mu.Unlock()
	former := p.all
	p.all = nil
	fresh := false
	for _, c := range cfg {
		k := slices.IndexFunc(former, func(t *instances) bool { return t.cfg.Name == c.Name })
		switch {
		case k >= 0 && former[k].sameCount(&c):
			t := former[k]
			t.cfg = c
			p.all = append(p.all, t)
		default:
			p.all = append(p.all, &instances{cfg: c, pids: map[int]bool{}})
			fresh = true
		}
	}
	if fresh && p.following {
		p.look()
	}
	p.wake()
}

// sameCount reports whether c counts the same in the same way; a weight is the business of those who track it.
func (t *instances) sameCount(c *conf.TrackProcess) bool {
	other := *c
	other.Weight, other.Reverse = t.cfg.Weight, t.cfg.Reverse
	return t.cfg.Equal(&other)
}

func (p *Processes) wake() {
	select {
	case p.again <- struct{}{}:
	default:
	}
}

// State says whether as many instances run as are wanted. Unable: that cannot be known here. Unknown: it has not been looked
// yet.
func (p *Processes) State(name string) (State, string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	k := slices.IndexFunc(p.all, func(t *instances) bool { return t.cfg.Name == name })
	switch {
	case k < 0:
		return Unable, "not defined"
	case p.trouble != "":
		return Unable, p.trouble
	case !p.all[k].known:
		return Unknown, ""
	case !p.all[k].counts:
		return Failed, p.all[k].text()
	}
	return OK, p.all[k].text()
}

// text says how many there are and how many are wanted.
func (t *instances) text() string {
	wanted := fmt.Sprintf("%d or more", t.cfg.Quorum)
	switch {
	case t.cfg.QuorumMax == 0:
		wanted = "none"
	case t.cfg.QuorumMax == t.cfg.Quorum:
		wanted = fmt.Sprint(t.cfg.Quorum)
	case t.cfg.QuorumMax > 0:
		wanted = fmt.Sprintf("%d to %d", t.cfg.Quorum, t.cfg.QuorumMax)
	}
	text := fmt.Sprintf("%d of %s run, %s wanted", len(t.pids), strings.Join(t.cfg.Process, " "), wanted)
	if !t.due.IsZero() {
		text += ", within its delay"
	}
	return text
}

// Run counts until ctx ends. Without anything to count it sleeps, and the kernel is not asked.
func (p *Processes) Run(ctx context.Context) {
	var stop context.CancelFunc // nil: not following
	var ended chan struct{}
	var notBefore time.Time
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		p.mu.Lock()
		wanted := len(p.all) > 0
		p.mu.Unlock()
		now := time.Now()
		switch {
		case wanted && stop == nil && !now.Before(notBefore):
			stop, ended = p.follow(ctx)
		case !wanted && stop != nil:
			stop()
			<-ended
			stop, ended = nil, nil
		}
		again := p.lookAgain(now)
		next := p.settle(now)
		if !again.IsZero() && (next.IsZero() || again.Before(next)) {
			next = again
		}
		if wanted && stop == nil && (next.IsZero() || notBefore.Before(next)) {
			next = notBefore
		}
		if next.IsZero() {
			timer.Stop()
		} else {
			timer.Reset(time.Until(next))
		}
		select {
		case <-ctx.Done():
			if stop != nil {
				stop()
				<-ended
			}
			return
		case <-p.again:
		case <-timer.C:
		case <-ended:
			stop()
			stop, ended, notBefore = nil, nil, time.Now().Add(followAgain)
		}
	}
}

// follow follows the processes beside Run. The channel is closed when that has ended, by stop or because it is impossible.
func (p *Processes) follow(ctx context.Context) (stop context.CancelFunc, ended chan struct{}) {
	ctx, stop = context.WithCancel(ctx)
	ended = make(chan struct{})
	go func() {
		defer close(ended)
		p.lost(ctx, p.host.Follow(ctx, p))
	}()
	return stop, ended
}

// lost notes that the processes are not followed any more.
func (p *Processes) lost(ctx context.Context, err error) {
	p.mu.Lock()
	p.following, p.lookAt = false, time.Time{}
	for _, t := range p.all {
		t.known, t.due = false, time.Time{}
	}
	news := false
	if err != nil && ctx.Err() == nil {
		news = p.trouble != err.Error()
		p.trouble = err.Error()
	}
	p.mu.Unlock()
	if news {
		p.log.Error("processes cannot be tracked, what tracks one counts as failed", "error", err)
		p.changed()
	}
}

// settle lets delays that are over count, and returns when the next one is; zero: there is none.
func (p *Processes) settle(now time.Time) (next time.Time) {
	p.mu.Lock()
	news := false
	for _, t := range p.all {
		if t.settle(now) {
			news = true
			p.tell(t)
		}
		if !t.due.IsZero() && (next.IsZero() || t.due.Before(next)) {
			next = t.due
		}
	}
	p.mu.Unlock()
	if news {
		p.changed()
	}
	return next
}

func (p *Processes) tell(t *instances) {
	state := OK
	if !t.counts {
		state = Failed
	}
	p.log.Info("tracked process", "name", t.cfg.Name, "state", state.String(), "reason", t.text())
}

// enough reports whether the number of instances is a good one.
func (t *instances) enough() bool {
	n := len(t.pids)
	return n >= t.cfg.Quorum && (t.cfg.QuorumMax < 0 || n <= t.cfg.QuorumMax)
}

// settle brings what counts up to date, and reports whether it has changed. After one instance more fork_delay holds a change
// back, after one less terminate_delay: a change that is taken back within never was.
func (t *instances) settle(now time.Time) bool {
	if !t.known || t.enough() == t.counts {
		t.due = time.Time{}
		return false
	}
	if t.due.IsZero() {
		wait := t.cfg.TerminateDelay
		if t.grown {
			wait = t.cfg.ForkDelay
		}
		t.due = now.Add(wait)
	}
	if now.Before(t.due) {
		return false
	}
	t.counts, t.due = !t.counts, time.Time{}
	return true
}

// set notes whether a process is an instance, and reports whether that is news.
func (t *instances) set(pid int, is bool) bool {
	if t.pids[pid] == is {
		return false
	}
	if t.grown = is; is {
		t.pids[pid] = true
	} else {
		delete(t.pids, pid)
	}
	return true
}

// matches compares a process with what the file wants.
func (t *instances) matches(name string, argv []string) bool {
	want := t.cfg.Process
	if !t.cfg.FullCommand {
		return name == want[0]
	}
	if len(argv) == 0 || argv[0] != want[0] {
		return false
	}
	got, want := argv[1:], want[1:]
	switch t.cfg.Match {
	case conf.MatchName:
		return true
	case conf.MatchPartial:
		return len(got) >= len(want) && slices.Equal(got[:len(want)], want)
	case conf.MatchInitial:
		last := len(want) - 1
		return len(got) == len(want) && (last < 0 || slices.Equal(got[:last], want[:last]) && strings.HasPrefix(got[last], want[last]))
	}
	return slices.Equal(got, want)
}

// look goes through all processes. The caller holds mu.
func (p *Processes) look() {
	pids, err := p.host.List()
	if err != nil {
		p.trouble, p.lookAt = err.Error(), time.Now().Add(followAgain)
		return
	}
	p.trouble, p.lookAt = "", time.Time{}
	found := make([]map[int]bool, len(p.all))
	for k := range found {
		found[k] = map[int]bool{}
	}
	for _, pid := range pids {
		name, argv, err := p.host.Read(pid)
		if err != nil {
			continue // gone meanwhile
		}
		for k, t := range p.all {
			if t.matches(name, argv) {
				found[k][pid] = true
			}
		}
	}
	for k, t := range p.all {
		t.grown = len(found[k]) >= len(t.pids)
		t.pids = found[k]
		if !t.known {
			t.known, t.counts = true, t.enough() // the first look decides at once
			p.tell(t)
		}
	}
}

// lookAgain looks once more if that failed and it is time to, and returns when it is; zero: it did not fail.
func (p *Processes) lookAgain(now time.Time) time.Time {
	p.mu.Lock()
	was := p.trouble
	if !p.lookAt.IsZero() && !now.Before(p.lookAt) {
		p.look()
	}
	at, news := p.lookAt, p.trouble != was
	p.mu.Unlock()
	if news {
		p.changed()
	}
	return at
}

// Resync implements ProcessHandler.
func (p *Processes) Resync() {
	p.mu.Lock()
	p.following = true
	p.look()
	p.mu.Unlock()
	p.changed()
	p.wake()
}

// Forked implements ProcessHandler: a child is what its parent is until it says otherwise.
func (p *Processes) Forked(parent, child int) {
	p.each(func(t *instances) bool { return t.pids[parent] && t.set(child, true) })
}

// Execed implements ProcessHandler.
func (p *Processes) Execed(pid int) {
	name, argv, err := p.host.Read(pid)
	p.each(func(t *instances) bool { return t.set(pid, err == nil && t.matches(name, argv)) })
}

// Exited implements ProcessHandler.
func (p *Processes) Exited(pid int) {
	p.each(func(t *instances) bool { return t.set(pid, false) })
}

// each changes all, and has what changed looked at.
func (p *Processes) each(change func(*instances) bool) {
	p.mu.Lock()
	news := false
	for _, t := range p.all {
		if change(t) {
			news = true
		}
	}
	p.mu.Unlock()
	if news {
		p.settleNow()
	}
}

// settleNow lets what needs no delay count at once, on the reader's goroutine, and has Run wait for the rest.
func (p *Processes) settleNow() {
	if next := p.settle(time.Now()); !next.IsZero() {
		p.wake()
	}
}
