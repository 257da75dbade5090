package agent

import (
	"context"
	"time"

	"golang.org/x/sys/unix"

	"pgvrrp/internal/agent/core"
	"pgvrrp/internal/control"
)

// How often the server is looked at. Its death needs no look: the kernel tells.
const (
	paceGrant   = 5 * time.Millisecond   // a grant waits for its first standby
	paceBusy    = 20 * time.Millisecond  // something is going on
	pacePrimary = 50 * time.Millisecond  // the active holder's: a lost standby holds up commits
	paceSteady  = 150 * time.Millisecond // a standby that streams
)

// setPace chooses how often to look.
func (a *Agent) setPace() {
	p := paceBusy
	switch s := &a.server; {
	case a.resource.Mine && a.resource.Phase == core.Granted.String():
		p = paceGrant
	case !a.looked || a.queue.now().ID != 0 || a.resource.Phase != core.Active.String():
	case a.resource.Mine && a.opened == a.resource.Epoch:
		p = pacePrimary
	case !a.resource.Mine && s.Answering && s.InRecovery && s.Upstream != "" && s.Upstream == a.resource.Holder:
		p = paceSteady
	}
	if old := time.Duration(a.pace.Swap(int64(p))); p < old {
		a.lookNow()
	}
}

// lookNow wants a look at once.
func (a *Agent) lookNow() {
	select {
	case a.kick <- struct{}{}:
	default:
	}
}

// watch looks at the server again and again, and at once when its postmaster dies.
func (a *Agent) watch(ctx context.Context) error {
	var postmaster uint64
	stop := func() {}
	defer func() { stop() }()
	next := a.o.NewTimer()
	defer next.Stop()
	for {
		began := time.Now()
		s, ok := a.o.Database.Look(ctx)
		if ok && ctx.Err() == nil {
			if s.Postmaster != postmaster {
				stop()
				if postmaster = s.Postmaster; postmaster != 0 {
					dctx, cancel := context.WithCancel(ctx)
					stop = cancel
					go awaitDeath(dctx, lifePID(postmaster), a.lookNow)
				}
			}
			a.post(func() {
				if s.At > a.server.At || !a.looked {
					a.server, a.looked = s, true
				}
				a.step(&s)
				a.rehello()
			})
		}
		next.Reset(max(time.Duration(a.pace.Load())-time.Since(began), 2*time.Millisecond))
		select {
		case <-ctx.Done():
			return nil
		case <-a.kick:
		case <-next.C():
		}
	}
}

// awaitDeath calls f when a process has ended, or ctx.
func awaitDeath(ctx context.Context, pid int, f func()) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		f() // it has gone already, or the kernel can't tell, and then the looks do
		return
	}
	defer unix.Close(fd)
	for ctx.Err() == nil {
		// A pidfd is readable when its process has ended (pidfd_open(2)).
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		if n, err := unix.Poll(fds, 500); err == nil && n > 0 {
			f()
			return
		}
	}
}

// How long to wait before vrrpd is tried again.
const (
	attachFirst = 10 * time.Millisecond
	attachLast  = 100 * time.Millisecond
)

// attach keeps the connection to vrrpd.
func (a *Agent) attach(ctx context.Context) error {
	wait := attachFirst
	last := ""
	for {
		// Before the first look there is nothing to say of the server.
		if err := a.until(ctx, func() (bool, error) { return a.looked && a.known.Self != "", nil }); err != nil {
			return nil //nolint:nilerr // the run has ended
		}
		var h control.AgentHello
		sctx, cancel := context.WithCancel(ctx)
		if err := a.ask(ctx, func() {
			a.hello = a.newHello()
			h, a.reattach = a.hello, cancel
		}); err != nil {
			cancel()
			return nil //nolint:nilerr // the run has ended
		}
		first := true
		err := a.o.Vrrpd.Agent(sctx, h, func(ev control.AgentEvent) error {
			attached := first
			first, wait = false, attachFirst
			a.post(func() { a.told1(attached, ev) })
			return nil
		})
		again := sctx.Err() != nil
		cancel()
		if ctx.Err() != nil {
			return nil //nolint:nilerr // the run has ended
		}
		a.post(func() {
			a.connected, a.refused = false, ""
			if err != nil && !again {
				a.refused = err.Error()
			}
		})
		if err != nil && !again && err.Error() != last {
			last = err.Error()
			a.o.Log.Warn("no connection to vrrpd", "reason", err)
		}
		if !first {
			last = ""
		}
		if again {
			continue
		}
		t := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			t.Stop()
			return nil
		case <-t.C:
		}
		wait = min(2*wait, attachLast)
	}
}

// newHello is who speaks for what.
func (a *Agent) newHello() control.AgentHello {
	_, port := a.o.Family.at(a.known.Self)
	return control.AgentHello{
		Node: a.known.Self, Resource: a.o.Settings.Resource, SystemID: a.server.SystemID, Version: a.o.Database.Version(), Port: port,
		Eligible: a.verdict.On, Reason: a.verdict.Text,
	}
}

// rehello connects anew when the server is another than the one that vrrpd was told of.
func (a *Agent) rehello() {
	if a.reattach == nil || !a.connected {
		return
	}
	h := a.newHello()
	if h.SystemID != 0 && h.SystemID != a.hello.SystemID || h.Version != a.hello.Version {
		a.reattach()
		a.reattach = nil
	}
}

// told1 takes one line of vrrpd's stream.
func (a *Agent) told1(attached bool, ev control.AgentEvent) {
	if attached {
		a.connected, a.refused = true, ""
		a.o.Log.Info("connected to vrrpd", "resource", a.o.Settings.Resource)
		a.step(core.Attached{})
		a.tellAt, a.fresh = 0, true
	}
	if r := ev.Resource; r != nil {
		a.changed(*r)
	}
	if m := ev.Message; m != nil {
		a.receive(m.From, m.Text)
	}
}

// changed takes the newest of the resource.
func (a *Agent) changed(r control.Resource) {
	old := a.resource
	a.resource = r
	if r.Epoch != old.Epoch || r.Phase != old.Phase || r.Holder != old.Holder {
		a.o.Log.Info("resource", "epoch", r.Epoch, "phase", r.Phase, "holder", r.Holder, "rule", r.Rule, "reason", r.Why)
		if r.Epoch != 0 {
			a.note("quorum", describeChange(r))
		}
	}
	if r.Epoch > old.Epoch {
		a.queue.overtake(r.Epoch)
	}
	a.step(viewOf(r))
}

func describeChange(r control.Resource) string {
	text := "epoch " + itoa(r.Epoch) + " is " + r.Phase
	if r.Holder != "" {
		text += ", holder " + r.Holder
	}
	if r.Timeline != 0 {
		text += ", timeline " + itoa(uint64(r.Timeline))
	}
	if r.Why != "" {
		text += ": " + r.Why
	}
	return text
}

// nodesEvery is how often vrrpd is asked who the nodes are: a reload may have changed them.
const nodesEvery = 5 * time.Second

func (a *Agent) nodes(ctx context.Context) error {
	for {
		every := nodesEvery
		sctx, cancel := context.WithTimeout(ctx, orderTime)
		k, err := a.family(sctx)
		cancel()
		if err == nil {
			var again bool
			var rerr error
			if aerr := a.ask(ctx, func() {
				again = a.known.Self != k.Self || !equal(a.known.peers(), k.peers())
				rerr = a.remember(k)
			}); aerr != nil {
				return nil //nolint:nilerr // the run has ended
			}
			if rerr != nil {
				a.o.Log.Warn("keep who the nodes are", "reason", rerr)
			}
			if again {
				return errAgain
			}
		} else {
			every = attachLast
			a.post(func() {
				if a.known.Self == "" {
					a.refused = err.Error()
				}
			})
		}
		t := time.NewTimer(every)
		select {
		case <-ctx.Done():
			t.Stop()
			return nil
		case <-t.C:
		}
	}
}
