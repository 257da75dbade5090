package daemon

import (
	"context"
	"log/slog"
	"sync"

	"pgvrrp/internal/conf"
	"pgvrrp/internal/control"
	"pgvrrp/internal/instance"
	"pgvrrp/internal/notify"
)

// hooks carries the states of an instance or a sync group to its notify programs and their outcome back.
type hooks struct {
	kind   string // of package notify
	name   string
	queue  *notify.Queue
	cancel context.CancelFunc
	tasks  sync.WaitGroup

	fifos *fifos

	mu          sync.Mutex
	last        notify.Event // of STOP, run by finish
	sendDeleted bool
}

func newHooks(log *slog.Logger, d *Daemon, kind, name string, programs conf.Hooks, secure bool, done func(control.Hook, error)) *hooks {
	h := &hooks{kind: kind, name: name, fifos: &d.fifos, sendDeleted: programs.SendDeleted}
	h.queue = notify.New(programs, notify.Options{
		Log: log, Socket: d.opt.Socket, Secure: secure,
		OnResult: func(r notify.Result) {
			if r.Event.State == notify.RxLowerPri {
				return
			}
			out := control.Hook{State: r.Event.State, Seq: r.Event.Seq, At: r.Event.At, Duration: r.Duration.Seconds(), Code: r.Code, Superseded: r.Superseded}
			if r.Err != nil {
				out.Error = r.Err.Error()
			}
			done(out, r.Err)
		},
	})
	return h
}

// start runs the queue until finish.
func (h *hooks) start() {
	var ctx context.Context
	ctx, h.cancel = context.WithCancel(context.Background())
	h.tasks.Go(func() { _ = h.queue.Run(ctx) }) // Stop and cancel are its only ends
}

// configure has later states run other programs.
func (h *hooks) configure(c conf.Hooks, secure bool) {
	h.mu.Lock()
	h.sendDeleted = c.SendDeleted
	h.mu.Unlock()
	h.queue.Configure(c, secure)
}

// Post queues a state; the one of STOP waits for finish.
func (h *hooks) Post(e instance.HookEvent) {
	ev := notify.Event{Seq: e.Seq, Kind: h.kind, Name: h.name, State: e.State, Priority: e.Priority, At: e.At, Deadline: e.Deadline}
	if e.State == control.StateStop {
		h.mu.Lock()
		h.last = ev
		h.mu.Unlock()
		return
	}
	h.fifos.write(h.kind, h.name, ev.State, ev.Priority)
	if !e.LineOnly {
		h.queue.Post(ev)
	}
}

// finish runs the programs of STOP, or of DELETED for an instance that the file no longer has, within stopHooks. One that never
// left INIT was told of no state, so it is told of no end.
func (h *hooks) finish(deleted bool) {
	h.mu.Lock()
	ev, word := h.last, h.last.State
	if deleted {
		word = notify.Fault
		if h.sendDeleted {
			word = notify.Deleted
		}
	}
	h.mu.Unlock()
	if ev.State != "" {
		h.fifos.write(h.kind, h.name, word, ev.Priority)
		if deleted {
			ev.State = notify.Deleted
		}
		ctx, cancel := context.WithTimeout(context.Background(), stopHooks)
		defer cancel()
		h.queue.Stop(ctx, ev)
	}
	h.cancel()
	h.tasks.Wait()
}
