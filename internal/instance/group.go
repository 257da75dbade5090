package instance

import "pgvrrp/internal/vrrp"

// Group is the sync group of an instance. Report is called on the instance's loop when what the group must know of it has
// changed, and why. It neither blocks nor waits for the instance, but may PostGroup to it.
type Group interface {
	Report(m vrrp.Member, reason string)
}

// PostGroup hands an order of the sync group to the loop and doesn't wait. Orders are obeyed as they come; one to become
// Active that still waits is void when another one comes.
func (i *Instance) PostGroup(ev vrrp.Event) {
	i.ordersMu.Lock()
	defer i.ordersMu.Unlock()
	if i.ended || i.opt.Group == nil {
		return
	}
	kept := i.orders[:0]
	for _, o := range i.orders {
		if o.group == nil || o.group.Kind != vrrp.GroupActive {
			kept = append(kept, o)
		}
	}
	i.orders = append(kept, order{group: &ev})
	select {
	case i.ordered <- struct{}{}:
	default: // the loop has been woken already
	}
}

// reportToGroup tells the group what a step has made of us: always when our timer has fired, else if it is news.
func (i *Instance) reportToGroup(actions stepped) {
	if i.opt.Group == nil {
		return
	}
	m := vrrp.Member{State: i.router.State(), Ready: i.router.Ready(), Held: actions.now.Before(i.router.HeldUntil())}
	if m.State == vrrp.Fault {
		m.OwnFault = i.router.OwnFault()
	}
	if m == i.member && !actions.asked {
		return
	}
	i.member = m
	i.opt.Group.Report(m, actions.reason)
}
