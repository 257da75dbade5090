package instance

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"pgvrrp/internal/control"
	"pgvrrp/internal/vrrp"
)

// Surroundings are all that an instance must know of its host.
type Surroundings struct {
	Link    Link
	Source  netip.Addr // where adverts are sent from; zero: there is no such address
	Verdict Verdict
}

// Link is the state of the instance's own interface.
type Link struct {
	Present, Up bool
	Trouble     string // why adverts cannot be sent or heard there; "" if they can
}

// Verdict is what everything tracked adds up to.
type Verdict struct {
	Priority uint8  // effective, before faults
	Fault    string // names all that failed with weight 0; "" if nothing did
	Pending  string // names the checks that have not reported yet; the instance does not start before
	Trackers []control.Tracker
}

// setback is something that we do ourselves and that keeps failing: then another node should serve.
type setback struct {
	failures int
	reason   string    // "" unless it is a fault
	until    time.Time // when it is tried again
	unproved string    // the reason of the last fault, until what failed has been done again; "": there is none
}

// fault has another node serve for a while.
func (s *setback) fault(reason string) {
	s.reason, s.unproved, s.until = reason, reason, time.Now().Add(setbackPause)
}

// setbackPause is how long a setback lasts before we take part again and see.
const setbackPause = 10 * time.Second

// Surround tells all that the instance must know of its host, in one step, so that it never sees a state that never was.
func (i *Instance) Surround(ctx context.Context, s Surroundings) {
	i.call(ctx, func(now time.Time) {
		moved := s.Source != i.around.Source
		i.known, i.around = true, s
		if moved {
			if s.Source.IsValid() {
				i.source = s.Source
			}
			if err := i.receive.configure(&i.cfg, s.Source); err != nil {
				i.log.Error("configure what is received", "error", err) // it was good before: only the source is new
			}
			i.step(now, vrrp.Event{Kind: vrrp.SourceChanged, From: s.Source})
		}
		i.evaluate(now)
	})
}

// faults are all reasons why this instance must not take part.
func (i *Instance) faults() string {
	var all []string
	link := i.around.Link
	switch {
	case !i.known:
		return ""
	case !link.Present:
		all = append(all, "interface "+i.cfg.Interface+" does not exist")
	case !link.Up && !i.cfg.DontTrackPrimary:
		all = append(all, "interface "+i.cfg.Interface+" is down")
	case link.Trouble != "":
		all = append(all, link.Trouble)
	case !i.around.Source.IsValid():
		all = append(all, fmt.Sprintf("no %s address on %s to send adverts from", family(&i.cfg), i.cfg.Interface))
	}
	if len(i.destinations) == 0 {
		all = append(all, "there is no unicast_peer")
	}
	for _, s := range []string{i.sending.reason, i.holding.reason, i.around.Verdict.Fault} {
		if s != "" {
			all = append(all, s)
		}
	}
	// A check that a reload added has not proved anything yet. A master stays: it was proved before; a backup waits, see awaited.
	if p := i.around.Verdict.Pending; p != "" && i.started && i.router.State() != vrrp.Active && i.router.State() != vrrp.Backup {
		all = append(all, p+" is awaited")
	}
	return strings.Join(all, "; ")
}

// awaited is what a running instance must hear of its checks before it takes over: that of one which a reload added, and until it is
// acted upon, what that one says.
func (i *Instance) awaited() string {
	switch {
	case !i.started:
		return ""
	case i.around.Verdict.Pending == "" && i.doubt&vrrp.DoubtChecks != 0 && i.router.State() == vrrp.Backup:
		return i.faults()
	}
	return i.around.Verdict.Pending
}

// tellDoubt tells the router of what we have failed at and not done since: otherwise a node that cannot serve would take mastership
// from one that does, each time that a setback has lasted for its pause.
func (i *Instance) tellDoubt(now time.Time) {
	if i.doubt == 0 && i.sending.unproved == "" && i.holding.unproved == "" && i.around.Verdict.Pending == "" {
		return // as with nearly every step
	}
	var d vrrp.Doubt
	text := i.awaited()
	if text != "" {
		d |= vrrp.DoubtChecks
	}
	if i.sending.unproved != "" {
		d |= vrrp.DoubtSending
		text = "an advert that can be sent: " + i.sending.unproved
	}
	if i.holding.unproved != "" {
		d |= vrrp.DoubtAddresses
		text = "the master to leave: its own addresses could not be set: " + i.holding.unproved
	}
	i.mu.Lock()
	i.status.doubt = text
	i.mu.Unlock()
	if d != i.doubt {
		i.doubt = d
		i.step(now, vrrp.Event{Kind: vrrp.Doubted, Doubt: d})
	}
}

// evaluate tells the router of its faults and priority, and starts it when all is known.
func (i *Instance) evaluate(now time.Time) {
	fault, waiting := i.faults(), ""
	switch {
	case !i.known:
		waiting = "the state of " + i.cfg.Interface
	case i.around.Verdict.Pending != "" && fault == "":
		waiting = i.around.Verdict.Pending
	case !i.startAt.IsZero():
		waiting = "vrrp_startup_delay or vrrp_delay_after_boot"
	}
	i.mu.Lock()
	i.status.trackers, i.status.source = i.around.Verdict.Trackers, i.around.Source
	i.status.waiting = ""
	if !i.started {
		i.status.waiting = waiting
	}
	i.mu.Unlock()
	if !i.started && waiting != "" {
		return
	}
	if p := i.around.Verdict.Priority; p != i.priority && p != 0 {
		i.priority = p
		i.step(now, vrrp.Event{Kind: vrrp.PriorityChanged, Priority: p})
	}
	i.tellPriority(now)
	i.tellDoubt(now)
	if fault != i.fault {
		i.fault = fault
		if fault != "" {
			i.step(now, vrrp.Event{Kind: vrrp.FaultRaised, Reason: fault})
		} else {
			i.step(now, vrrp.Event{Kind: vrrp.FaultCleared, Reason: "nothing tracked is failed any more"})
		}
	}
	if !i.started {
		i.started = true
		i.step(now, vrrp.Event{Kind: vrrp.Startup})
	}
}
