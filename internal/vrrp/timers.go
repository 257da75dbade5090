package vrrp

import (
	"fmt"
	"net/netip"
	"time"
)

// downTimer is Active_Down_Timer. It keeps what it was made of, so that a changed priority or interval moves its end.
type downTimer struct {
	from    time.Time // when it was set
	since   time.Time // gated: when what it waits for began; a Request sets the timer anew and not this
	adverts int       // Skew_Time and so many intervals of the Active router; 0: skew alone
	cause   cause
	peer    netip.Addr // the router that the cause is about
	prio    uint8      // preempting: its priority
}

// cause is why the timer runs; it becomes the reason of the takeover.
type cause uint8

const (
	silence    cause = iota // nothing but the Active router's adverts holds us back
	preempting              // adverts of a lower priority come in and are discarded
	left                    // the Active router said priority 0
	lost                    // we gave way because our own addresses were taken away
)

// skewTime is RFC 9568 section 6.1's, and in version 2 RFC 3768's, where it doesn't scale.
func skewTime(v Version, priority uint8, activeInterval time.Duration) time.Duration {
	unit := activeInterval
	if v == 2 {
		unit = time.Second
	}
	return time.Duration(256-int(priority)) * unit / 256
}

// activeDownInterval is Active_Down_Interval with keepalived's down_timer_adverts in the place of the RFC's 3.
func activeDownInterval(v Version, priority uint8, activeInterval time.Duration, adverts int) time.Duration {
	return time.Duration(adverts)*activeInterval + skewTime(v, priority, activeInterval)
}

// downAt is when Active_Down_Timer fires.
func (r *Router) downAt() time.Time {
	return r.down.from.Add(activeDownInterval(r.cfg.Version, r.priority, r.activeInterval, r.down.adverts))
}

// startDown sets Active_Down_Timer to so many adverts of the Active router and the skew.
func (r *Router) startDown(now time.Time, adverts int, why cause, peer netip.Addr) {
	r.probed = false
	r.down = downTimer{from: now, since: now, adverts: adverts, cause: why, peer: peer}
}

// takeoverReason tells what let Active_Down_Timer fire, or what a Request is about.
func (r *Router) takeoverReason(now time.Time) string {
	waited := short(now.Sub(r.down.since))
	switch r.down.cause {
	case preempting:
		return fmt.Sprintf("preempted %v: it has priority %d, ours is %d", r.down.peer, r.down.prio, r.priority)
	case left:
		return fmt.Sprintf("%v left (priority 0)", r.down.peer)
	case lost:
		return fmt.Sprintf("nobody took over for %s after a virtual address was lost", waited)
	default:
		return fmt.Sprintf("no advert for %s (Active_Down_Timer)", waited)
	}
}

// request asks for mastership, and sets Active_Down_Timer anew: nobody may be there to answer.
func (r *Router) request(now time.Time) {
	r.requestedAt, r.ready = now, r.cfg.Grouped
	r.add(Action{Kind: Request, Reason: r.takeoverReason(now)})
	r.down.from, r.down.adverts = now, r.cfg.DownTimerAdverts
}

// short is d as an operator reads it: milliseconds, and tenths of them below one second.
func short(d time.Duration) string {
	if d < time.Second {
		return d.Round(100 * time.Microsecond).String()
	}
	return d.Round(time.Millisecond).String()
}
