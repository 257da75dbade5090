package instance

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"pgvrrp/internal/conf"
	"pgvrrp/internal/vrrp"
)

// held is every address that a master of this instance has.
func (i *Instance) held() []conf.Address {
	all := make([]conf.Address, 0, len(i.cfg.Addresses)+len(i.cfg.Excluded))
	return append(append(all, i.cfg.Addresses...), i.cfg.Excluded...)
}

// addressRetry is how soon addresses that could not be set are tried again; after so many tries in a row without a single
// address another node should serve.
const (
	addressRetry = time.Second
	addressTries = 3
)

// setAddresses has the kernel hold want, or nothing new for a gated instance whose lease has lapsed: then, and if it lapses
// meanwhile, the caller's next is lapse.
func (i *Instance) setAddresses(want []conf.Address) {
	if i.refused = i.lapsedFor(want); i.refused {
		return
	}
	i.want = want
	i.renewAt, i.againAt = time.Time{}, time.Time{}
	if i.cfg.VIPLifetime > 0 && len(want) > 0 {
		i.renewAt = time.Now().Add(i.cfg.VIPLifetime / renewals)
	}
	var missing []conf.Address
	err := i.opt.Network.SetAddresses(want)
	if err != nil {
		i.log.Error("set virtual addresses", "error", err)
		i.againAt = time.Now().Add(addressRetry)
		var unseen error
		if missing, unseen = i.opt.Network.Missing(); unseen != nil {
			missing = want // unable to look is no proof of presence
		}
	}
	if err == nil || len(want) == 0 || len(missing) < len(want) {
		i.holding.failures = 0
	} else if i.holding.failures++; i.holding.failures >= addressTries {
		i.holding.fault(err.Error())
	}
	if len(missing) < len(want) {
		i.holding.unproved = ""
	}
	i.mu.Lock()
	i.status.set(want, missing, err)
	i.mu.Unlock()
	i.refused = i.lapsedFor(want)
}

// lapsedFor reports whether there is no lease to hold addresses under. To hold none needs none.
func (i *Instance) lapsedFor(want []conf.Address) bool {
	return i.Gated() && len(want) > 0 && !i.opt.Grants.Live()
}

// announce tells the LAN of the addresses, and Grants that they are served if all of them are there.
func (i *Instance) announce() {
	if i.refused {
		return
	}
	i.opt.Network.Announce(i.want)
	if i.againAt.IsZero() {
		i.serve(true)
	}
}

// setAgain tries once more what failed.
func (i *Instance) setAgain(now time.Time) {
	i.setAddresses(i.want)
	switch {
	case i.lapse(now) || !i.againAt.IsZero():
	case len(i.want) > 0:
		i.log.Info("virtual addresses are set now")
		i.setRoutes(i.routing) // a route's source is one of them
		i.announce()
	case i.router.State() != vrrp.Active:
		i.cleared()
	}
}

// An instance that ends and whose addresses the kernel won't take off tries so often more, at such intervals.
const (
	lastTries = 5
	lastRetry = 100 * time.Millisecond
)

// removeLeft tries once more to take off what an ending instance could not: nobody does after it.
func (i *Instance) removeLeft() {
	for try := 0; try < lastTries && !i.free(); try++ {
		<-time.After(lastRetry) // the loop is over: there is nothing else to wait for
		if i.setAddresses(nil); i.free() {
			i.cleared()
		}
	}
}

// renewals is how often within one kernel lifetime it is restarted: two may be late or fail.
const renewals = 4

// renew restarts the lifetime of the addresses (vip_lifetime): while we live they stay, and no longer.
func (i *Instance) renew(now time.Time) {
	i.renewAt = time.Time{}
	if i.cfg.VIPLifetime == 0 || len(i.want) == 0 {
		return
	}
	if i.refused = i.lapsedFor(i.want); i.lapse(now) {
		return
	}
	i.renewAt = now.Add(i.cfg.VIPLifetime / renewals)
	if err := i.opt.Network.RenewAddresses(); err != nil {
		i.log.Error("renew virtual addresses", "error", err)
	}
}

// An address that was put back so often within so long is fought over: then we give way, and retake if nobody else takes over.
const (
	putBackLimit  = 5
	putBackWindow = 10 * time.Second
)

// AddressesLost says that somebody else took addresses of ours off the interface. They are put back at once and counted; if
// that happens again and again we give way, or put no_track addresses back more slowly. After a pause they may have expired
// (vip_lifetime), and another router have them: without a grant we listen first.
func (i *Instance) AddressesLost(ctx context.Context, missing []netip.Prefix) {
	i.call(ctx, func(now time.Time) {
		var lost []string
		tracked := false
		for _, w := range i.want {
			if slices.Contains(missing, w.Prefix) {
				lost = append(lost, w.Prefix.String())
				tracked = tracked || !w.NoTrack
			}
		}
		switch {
		case len(lost) == 0:
			return
		case !i.Gated() && i.listening(now):
			i.againAt = i.listenBy
			return
		case !tracked && i.putBacks > putBackLimit && !i.againAt.IsZero():
			return // they are put back in a moment
		}
		i.mu.Lock()
		i.status.counters.AddressesPutBack += uint64(len(lost))
		i.mu.Unlock()
		if i.fought(now, lost, tracked) {
			return
		}
		if i.putBacks > putBackLimit {
			i.log.Warn("another program removes virtual addresses again and again, they are put back a while later", "addresses", strings.Join(lost, " "), "after", addressRetry)
			i.againAt = now.Add(addressRetry)
			return
		}
		i.log.Warn("another program removed virtual addresses, putting them back", "addresses", strings.Join(lost, " "))
		if i.setAddresses(i.want); !i.lapse(now) {
			i.setRoutes(i.routing)
			i.opt.Network.AnnounceAgain()
		}
	})
}

// fought counts that others removed what is ours, and gives way when that happens again and again to something that is tracked.
func (i *Instance) fought(now time.Time, lost []string, tracked bool) bool {
	if now.Sub(i.putBackSince) > putBackWindow {
		i.putBackSince, i.putBacks = now, 0
	}
	if i.putBacks++; i.putBacks <= putBackLimit || !tracked {
		return false
	}
	i.step(now, vrrp.Event{Kind: vrrp.AddressLost, Reason: fmt.Sprintf("another program removed %s, %d times within %s", strings.Join(lost, ", "), i.putBacks, putBackWindow)})
	i.putBacks = 0
	return true
}
