package instance

import (
	"context"
	"errors"
	"fmt"
	"time"

	"pgvrrp/internal/vrrp"
)

// Grants decides mastership of a gated instance. Its methods are called on the instance's loop: none blocks or waits for the
// instance, but each may post to it.
//
// Leaving mastership tells, in this order: Serving(false), Eligible(false) if we may not be granted again, GiveUp unless it
// was revoked. If the kernel refuses to take the addresses off, Serving(false) comes only when they are off, and the others at
// once: whoever takes a GiveUp revokes, and knows by that when they are.
type Grants interface {
	// Request says that the master seems gone. It is a hint, and may come again and again.
	Request(reason string)
	// GiveUp says that we were granted mastership and go. PostRevoke tells when the addresses are off.
	GiveUp(reason string)
	// Eligible says whether we may be granted mastership, why not, and our effective priority: once before anything else, and
	// when one of them changes. Not eligible are INIT, FAULT, a release that holds, addresses that won't go, a check that a reload
	// added and that has not reported, and the end.
	Eligible(ok bool, reason string, priority uint8)
	// Serving says that the addresses are up and announced, or off again. Only changes are told.
	Serving(on bool)
	// Live says whether the lease of the last Grant still runs. From before a Grant is posted it is true; once false, it stays
	// false until just before the next. An instance that finds it false acts as if it had been revoked, and does not GiveUp.
	Live() bool
}

// lapsed is the reason of a revocation that we find out ourselves.
const lapsed = "the lease has lapsed"

// Gated reports whether mastership needs a grant.
func (i *Instance) Gated() bool { return i.opt.Grants != nil }

// order is a Grant, a Revoke or an order of the sync group on its way to the loop.
type order struct {
	group  *vrrp.Event // the group's; then the rest is empty
	grant  bool
	reason string
	done   chan error // has room for the outcome
}

// PostGrant makes a gated instance master, or has it GiveUp at once if it can't be. It doesn't wait, and what is posted is
// obeyed in its order. The channel tells when the loop has obeyed; an error says that it ended before: then nothing happened
// and no GiveUp comes. An instance without Options.Grants takes no notice.
func (i *Instance) PostGrant(reason string) <-chan error { return i.post(true, reason) }

// PostRevoke ends mastership that is not ours any more. It doesn't wait; the channel tells when the addresses are off, and
// an error that the loop ended and the kernel had refused to take them off. Safe to repeat.
func (i *Instance) PostRevoke(reason string) <-chan error { return i.post(false, reason) }

// Grant is PostGrant, and waits.
func (i *Instance) Grant(ctx context.Context, reason string) error {
	return i.await(ctx, "grant", i.PostGrant(reason))
}

// Revoke is PostRevoke, and waits until the addresses are off.
func (i *Instance) Revoke(ctx context.Context, reason string) error {
	return i.await(ctx, "revoke", i.PostRevoke(reason))
}

func (i *Instance) await(ctx context.Context, verb string, done <-chan error) error {
	var err error
	select {
	case err = <-done:
	case <-ctx.Done():
		err = ctx.Err()
	}
	if err != nil {
		return fmt.Errorf("%s %s: %w", verb, i.Name(), err)
	}
	return nil
}

var (
	errStopped = errors.New("the instance has stopped")
	errHeld    = errors.New("the instance has stopped, and its addresses could not be removed")
)

func (i *Instance) post(grant bool, reason string) <-chan error {
	o := order{grant: grant, reason: reason, done: make(chan error, 1)}
	i.ordersMu.Lock()
	defer i.ordersMu.Unlock()
	if i.ended {
		o.done <- i.end(o)
		return o.done
	}
	i.orders = append(i.orders, o)
	select {
	case i.ordered <- struct{}{}:
	default: // the loop has been woken already
	}
	return o.done
}

// end is the outcome of an order after the end of the loop.
func (i *Instance) end(o order) error {
	switch {
	case o.grant:
		return errStopped
	case !i.free():
		return errHeld
	default:
		return nil
	}
}

// free reports whether the kernel holds none of our addresses, as far as we know.
func (i *Instance) free() bool { return len(i.want) == 0 && i.againAt.IsZero() }

// obey takes the orders that wait, in their order.
func (i *Instance) obey(now time.Time) {
	i.ordersMu.Lock()
	orders := i.orders
	i.orders = nil
	i.ordersMu.Unlock()
	for _, o := range orders {
		if o.group != nil {
			// Ready is not any more if an advert was followed meanwhile: the group does not know yet.
			if o.group.Kind != vrrp.GroupActive || i.router.Ready() {
				i.step(now, *o.group)
			}
			continue
		}
		if o.grant {
			i.granted(now, o.reason)
			o.done <- nil
			continue
		}
		i.revoked(now, o.reason)
		if i.free() || !i.Gated() {
			o.done <- nil
		} else {
			i.freed = append(i.freed, o.done)
		}
	}
}

func (i *Instance) granted(now time.Time, reason string) {
	switch {
	case !i.Gated():
	case !i.opt.Grants.Live():
		i.log.Warn("a grant came when its lease had lapsed", "grant", reason)
	case i.router.State() != vrrp.Active && !i.free():
		i.giveUp(now, i.notFree())
	case i.router.State() == vrrp.Backup && i.awaited() != "":
		i.giveUp(now, "waits for "+i.awaited())
	default:
		i.step(now, vrrp.Event{Kind: vrrp.Granted, Reason: reason})
	}
}

func (i *Instance) revoked(now time.Time, reason string) {
	i.step(now, vrrp.Event{Kind: vrrp.Revoked, Reason: reason})
}

// lapse looks at the lease of a gated master, and revokes what has lapsed. It reports whether it did.
func (i *Instance) lapse(now time.Time) bool {
	if !i.Gated() || i.router.State() != vrrp.Active || !i.refused && i.opt.Grants.Live() {
		return false
	}
	i.revoked(now, lapsed)
	return true
}

// giveUp gives the grant back.
func (i *Instance) giveUp(now time.Time, reason string) {
	i.report(now) // first, so that it isn't granted to us again
	i.opt.Grants.GiveUp(reason)
}

// cleared tells everybody who waits for it that the addresses are off.
func (i *Instance) cleared() {
	i.serve(false)
	for _, done := range i.freed {
		done <- nil
	}
	i.freed = nil
}

// serve tells that the addresses are up or off, if that is news.
func (i *Instance) serve(on bool) {
	if i.Gated() && i.serving != on {
		i.serving = on
		i.opt.Grants.Serving(on)
	}
}

// eligible is whether mastership may be granted to us, and why not.
func (i *Instance) eligible(now time.Time) (ok bool, reason string) {
	switch i.router.State() {
	case vrrp.Active:
		return true, ""
	case vrrp.Fault:
		return false, i.router.FaultReason()
	case vrrp.Initialize:
		if i.started {
			return false, "stopped"
		}
		if fault := i.faults(); fault != "" {
			return false, fault
		}
		i.mu.Lock()
		defer i.mu.Unlock()
		return false, "waits for " + i.status.waiting
	}
	switch {
	case !i.free():
		return false, i.notFree()
	case now.Before(i.router.HeldUntil()):
		return false, i.router.HoldReason()
	case i.awaited() != "":
		return false, "waits for " + i.awaited()
	}
	return true, ""
}

func (i *Instance) notFree() string {
	i.mu.Lock()
	defer i.mu.Unlock()
	return fmt.Sprintf("the virtual addresses can't be removed: %v", i.status.addressErr)
}

// report tells our eligibility if it is news, and when it changes by itself.
func (i *Instance) report(now time.Time) {
	if !i.Gated() {
		return
	}
	i.heldUntil = time.Time{}
	if until := i.router.HeldUntil(); now.Before(until) {
		i.heldUntil = until
	}
	r := eligibility{told: true, priority: i.router.EffectivePriority()}
	if r.ok, r.reason = i.eligible(now); r != i.reported {
		i.reported = r
		i.opt.Grants.Eligible(r.ok, r.reason, r.priority)
	}
}

// eligibility is what Grants was told last.
type eligibility struct {
	told, ok bool
	reason   string
	priority uint8
}

// finish ends what waits for a loop that is over.
func (i *Instance) finish() {
	i.ordersMu.Lock()
	defer i.ordersMu.Unlock()
	i.ended = true
	for _, o := range i.orders {
		if o.group == nil {
			o.done <- i.end(o)
		}
	}
	for _, done := range i.freed {
		done <- errHeld
	}
	i.orders, i.freed = nil, nil
}
