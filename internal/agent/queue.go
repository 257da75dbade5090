package agent

import (
	"context"
	"errors"
	"sync"

	"pgvrrp/internal/agent/core"
)

// queue carries actions out strictly one after the other, in the order in which they came.
type queue struct {
	do   func(context.Context, core.Action) core.Done
	done func(core.Done)

	in      chan core.Action
	mu      sync.Mutex
	running core.Action // ID 0: none
	cancel  context.CancelCauseFunc
	holds   int    // that wait for their turn
	over    uint64 // the last that was to end: it may not have begun
}

var (
	errHeld = errors.New("dropped: the server is put on hold")
	errOver = errors.New("the epoch that it was for is over")
)

// loosens reports whether an action can make commits wait for less.
func loosens(k core.Kind) bool {
	return k == core.WriteSSN || k == core.ProveSSN || k == core.Nudge
}

// queueLen is more than the machine ever has on its way: one action, and a hold behind it.
const queueLen = 16

func newQueue(do func(context.Context, core.Action) core.Done, done func(core.Done)) *queue {
	return &queue{do: do, done: done, in: make(chan core.Action, queueLen)}
}

// push never waits. A hold drops what would loosen the setting before its turn comes.
func (q *queue) push(a core.Action) {
	if a.Kind == core.Hold {
		q.mu.Lock()
		q.holds++
		if q.cancel != nil && loosens(q.running.Kind) {
			q.cancel(nil)
		}
		q.mu.Unlock()
	}
	q.in <- a
}

// stop ends the action with that id, or has it not begin.
func (q *queue) stop(id uint64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.over = id
	if q.running.ID == id && id != 0 {
		q.cancel(errOver)
	}
}

// overtake ends what only waits for another node, for an epoch that is over.
func (q *queue) overtake(epoch uint64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.running.Kind == core.Follow && q.running.Epoch < epoch {
		q.cancel(nil)
	}
}

// now is the action that runs; its ID is 0 if none does.
func (q *queue) now() core.Action {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.running
}

func (q *queue) run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case a := <-q.in:
			actx, cancel := context.WithCancelCause(ctx)
			q.mu.Lock()
			q.running, q.cancel = a, cancel
			held, over := q.holds > 0 && loosens(a.Kind), a.ID != 0 && a.ID == q.over
			if a.Kind == core.Hold {
				q.holds--
			}
			q.mu.Unlock()
			d := core.Done{ID: a.ID}
			switch {
			case held:
				d.Err = errHeld
			case over:
				d.Err, d.Result.Whole = errOver, true
			default:
				d = q.do(actx, a)
			}
			q.mu.Lock()
			q.running, q.cancel = core.Action{}, nil
			q.mu.Unlock()
			cancel(nil)
			q.done(d)
		}
	}
}
