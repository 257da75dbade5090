package daemon

import (
	"context"
	"log/slog"
	"sync"
	"time"

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
	after  <-chan struct{} // closed when the last programs of a former one of this name are done; nil: there is none

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

// start runs the queue until finish, after what a former one of this name has to end: a program that is told of a MASTER must not
// find another beside or behind it that is told of its end. States only wait.
func (h *hooks) start(after <-chan struct{}) {
	h.after = after
	var ctx context.Context
	ctx, h.cancel = context.WithCancel(context.Background())
	h.tasks.Go(func() {
		h.await(ctx)
		_ = h.queue.Run(ctx) // Stop and cancel are its only ends
	})
}

// waits reports whether a former one has to end yet.
func (h *hooks) waits() bool {
	select {
	case <-h.after:
		return false
	default:
		return h.after != nil
	}
}

func (h *hooks) await(ctx context.Context) {
	if !h.waits() {
		return
	}
	late := time.NewTimer(stopHooks + stopHooks/4) // they bound themselves; this is for one that does not
	defer late.Stop()
	select {
	case <-h.after:
	case <-late.C:
	case <-ctx.Done():
	}
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

// end tells the FIFOs of STOP, or of DELETED for an instance that the file no longer has. One that never left INIT was told of no
// state, so it is told of no end.
func (h *hooks) end(deleted bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.last.State == "" {
		return
	}
	word := h.last.State
	if deleted {
		word, h.last.State = notify.Fault, notify.Deleted
		if h.sendDeleted {
			word = notify.Deleted
		}
	}
	h.fifos.write(h.kind, h.name, word, h.last.Priority)
}

// finish runs the programs of what end has told, within stopHooks.
func (h *hooks) finish() {
	h.mu.Lock()
	ev := h.last
	h.mu.Unlock()
	if ev.State != "" {
		ctx, cancel := context.WithTimeout(context.Background(), stopHooks)
		defer cancel()
		if h.waits() {
			h.cancel() // nothing but the end is worth telling any more
			h.await(ctx)
		}
		h.queue.Stop(ctx, ev)
	}
	h.cancel()
	h.tasks.Wait()
}
