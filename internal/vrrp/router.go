package vrrp

import (
	"fmt"
	"net/netip"
	"time"
)

// Router is the state machine of one virtual router: RFC 9568 section 6.4 and, for version 2, RFC 3768 section 6.4, with
// what keepalived adds. It has no clock: Step is told the time, which must not run backwards, and Deadline says when
// it wants a Tick. It is not safe for concurrent use.
//
// The order of the actions of one Step is a contract:
//
//	takeover                     SendAdvert, AddAddresses, Announce, Transition
//	takeover, addresses wait     SendAdvert, Transition; then on HookSucceeded AddAddresses, Announce
//	leaving Active               [SendAdvert 0], RemoveAddresses, Transition
//	giving way to a higher one   [SendAdvert], RemoveAddresses, Transition
//	hearing a lower one          [SendAdvert], [AnnounceAgain], Contention; twice in an interval at most
//	hearing priority 0           SendAdvert; twice in an interval at most
//	Shutdown                     [SendAdvert 0], RemoveAddresses, Transition
//
// The advert goes first in a takeover, so that a peer whose timer is about to fire hears of it; the addresses are gone
// before a hook learns that they are.
//
// A gated router (Config.Gated) never takes mastership: it becomes Active by Granted alone, and asks with Request when
// Active_Down_Timer fires, again each time that it fires, or when it hears priority 0. Neither priority, Preempt nor
// PreemptDelay move it: adverts feed the timer in Backup and are answered in Active. Its orders are
//
//	Granted                      SendAdvert, AddAddresses, Announce, Transition, or as above when addresses wait
//	Granted, but not in Backup or held by a Release      GiveUp; nothing in Active
//	leaving Active on our own    RemoveAddresses, [SendAdvert 0], GiveUp, Transition
//	Revoked                      RemoveAddresses, SendAdvert 0, Transition
//	hearing another, any priority     [SendAdvert], [AnnounceAgain], [Contention if lower]; twice in an interval at most
//	Shutdown of a Backup         RemoveAddresses, Transition
//
// The addresses are gone before anybody, be it by an advert or by the grant given back, is told that they are free.
//
// A router that is Doubted for its sending does not take over when Active_Down_Timer fires: it sends one advert, and takes over
// in the Step that says that the doubt is over; otherwise it tries again an interval later. Doubted for its checks, it does the same
// without the advert. A gated router is granted nothing then: that is the caller's to see to.
//
// A grouped router (Config.Grouped) asks with Request too, once each time that Active_Down_Timer fires, and is Ready from
// then on until it hears an advert that it follows. In all else it is a plain one.
type Router struct {
	cfg      Config
	state    State
	priority uint8  // effective
	seq      uint64 // transitions so far

	activeInterval time.Duration // Active_Adver_Interval: learned by a version 3 Backup, else ours
	learned        bool          // Backup: an Active router said so; it can be the same as ours
	advertAt       time.Time     // Active: when Adver_Timer fires
	waiting        bool          // Active: the addresses wait for the hook
	contendedAt    time.Time     // Active: when we last answered another one's advert
	goodbyeAt      time.Time     // Active: when we last answered priority 0
	down           downTimer     // Backup: Active_Down_Timer
	preemptAt      time.Time     // Backup: end of the preempt delay; zero if it doesn't run
	holdUntil      time.Time     // no takeover before; zero if not released
	holdReason     string        // why not
	requestedAt    time.Time     // gated Backup: the last Request

	faulty    bool      // something tracked is failed
	fault     string    // what
	retryAt   time.Time // Fault: a failed hook keeps us there until then; zero if none did
	hookError string

	doubt  Doubt
	probed bool // Backup: it would have taken over but for a doubt

	ready      bool   // grouped Backup: it could be Active
	groupFault string // grouped: why another member is in Fault; "": none is

	heard   Heard
	actions [4]Action
	n       int
}

// Heard is the last advert that came in.
type Heard struct {
	From     netip.Addr
	Priority uint8
	Interval time.Duration
	At       time.Time // zero: none yet
}

// NewRouter makes a router in Initialize. The error names every field of c that is out of range.
func NewRouter(c Config) (*Router, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	c.Source = plain(c.Source)
	return &Router{cfg: c, priority: c.Priority, activeInterval: c.AdvertInterval}, nil
}

// Reconfigure puts c in the place of the configuration without a change of state: timers that run keep their start and
// take the new durations. Effective priority and source become those of c until they are changed again. Another version or
// VRID would be another virtual router, and who decides on mastership can't change either: an error, as is a field out of
// range, and nothing changes.
func (r *Router) Reconfigure(c Config) error {
	if err := c.check(); err != nil {
		return err
	}
	if c.Version != r.cfg.Version || c.VRID != r.cfg.VRID {
		return fmt.Errorf("configure virtual router %d: version %d and virtual router id %d: can't change while it runs", r.cfg.VRID, c.Version, c.VRID)
	}
	if c.Grouped != r.cfg.Grouped {
		return fmt.Errorf("configure virtual router %d: whether it is in a sync group: can't change while it runs", r.cfg.VRID)
	}
	if c.Gated != r.cfg.Gated {
		return fmt.Errorf("configure virtual router %d: whether it needs a grant: can't change while it runs", r.cfg.VRID)
	}
	c.Source = plain(c.Source)
	if r.state == Active {
		r.advertAt = r.advertAt.Add(c.AdvertInterval - r.cfg.AdvertInterval)
	}
	if !r.learned {
		r.activeInterval = c.AdvertInterval
	}
	if r.down.adverts > 0 {
		r.down.adverts = c.DownTimerAdverts
	}
	r.cfg, r.priority = c, c.Priority
	return nil
}

// Step takes one event at the time now and gives what is to be done about it, in this order. The slice and its
// contents are valid until the next Step. Adverts that are waiting to be read should come before a Tick, so that a
// machine that was stopped for a while hears of a new Active router before its own timer speaks.
func (r *Router) Step(now time.Time, ev Event) []Action {
	r.n = 0
	switch ev.Kind {
	case Tick:
		r.tick(now)
	case Startup:
		r.startup(now, ev.Reason)
	case Shutdown:
		r.shutdown(ev.Reason)
	case Received:
		r.received(now, ev)
	case PriorityChanged:
		if r.cfg.Priority != PriorityOwner && ev.Priority != PriorityLeaving && ev.Priority != PriorityOwner {
			r.priority = ev.Priority
		}
	case FaultRaised:
		r.faultRaised(ev.Reason)
	case FaultCleared:
		r.faultCleared(now, ev.Reason)
	case SourceChanged:
		r.cfg.Source = plain(ev.From)
	case AddressLost:
		r.addressLost(now, ev.Reason)
	case HookSucceeded:
		if r.waiting && ev.Seq == r.seq {
			r.waiting = false
			r.do(AddAddresses)
			r.do(Announce)
		}
	case HookFailed:
		if r.waiting && ev.Seq == r.seq {
			r.hookFailed(now, ev.Reason)
		}
	case Release:
		r.release(now, ev)
	case Stalled:
		r.stalled(now, ev.Reason)
	case Granted:
		if r.cfg.Gated {
			r.granted(now, ev.Reason)
		}
	case Revoked:
		if r.cfg.Gated && r.state == Active {
			r.revoked(now, ev.Reason)
		}
	case GroupActive:
		if r.cfg.Grouped && r.state == Backup && !r.held(now) {
			r.becomeActive(now, or(ev.Reason, "its sync group takes over"))
		}
	case GroupBackup:
		if r.cfg.Grouped {
			r.groupBackup(now, ev.Reason)
		}
	case GroupFault:
		if r.cfg.Grouped {
			r.groupFaulted(now, ev.Reason)
		}
	case Doubted:
		r.doubted(now, ev.Doubt)
	}
	return r.actions[:r.n]
}

// Deadline is when the router wants a Tick; it can lie in the past. Zero: it waits for another event.
func (r *Router) Deadline() time.Time {
	switch r.state {
	case Active:
		return r.advertAt
	case Backup:
		if at := r.downAt(); at.After(r.holdUntil) {
			return at
		}
		return r.holdUntil
	case Fault:
		if !r.faulty && r.groupFault == "" {
			return r.retryAt
		}
	}
	return time.Time{}
}

// State is the state after the last Step.
func (r *Router) State() State { return r.state }

// Seq is the number of the last transition, 0 before the first.
func (r *Router) Seq() uint64 { return r.seq }

// EffectivePriority is the priority in our adverts: the configured one as the trackers changed it.
func (r *Router) EffectivePriority() uint8 { return r.priority }

// MasterInterval is Active_Adver_Interval: how often the Active router advertises, as far as we know.
func (r *Router) MasterInterval() time.Duration { return r.activeInterval }

// LastHeard is the last advert received in any state.
func (r *Router) LastHeard() Heard { return r.heard }

// HeldUntil is the end of a Release, or of the time for which a gated router that lost an address lets others have the
// grant; it may have passed. Zero: none.
func (r *Router) HeldUntil() time.Time { return r.holdUntil }

// HoldReason is why there is a HeldUntil.
func (r *Router) HoldReason() string { return r.holdReason }

// AddressesWait reports whether we are Active and the addresses wait for the hook.
func (r *Router) AddressesWait() bool { return r.waiting }

// Ready reports whether a grouped router in Backup could be Active: no advert that it follows has come since its timer fired.
func (r *Router) Ready() bool { return r.ready }

// FaultReason is all that keeps us in Fault, or would put us there after a Startup; empty: nothing.
func (r *Router) FaultReason() string { return or(r.OwnFault(), r.groupFault) }

// OwnFault is FaultReason without what other members of the sync group have.
func (r *Router) OwnFault() string {
	switch {
	case r.faulty && !r.retryAt.IsZero():
		return r.fault + "; " + r.hookError
	case r.faulty:
		return r.fault
	case !r.retryAt.IsZero():
		return r.hookError
	default:
		return ""
	}
}

func (r *Router) do(k ActionKind) { r.add(Action{Kind: k}) }

func (r *Router) add(a Action) {
	r.actions[r.n] = a
	r.n++
}

func (r *Router) advertise(priority uint8) { r.add(Action{Kind: SendAdvert, Priority: priority}) }

func (r *Router) transition(to State, reason string) {
	r.seq++
	r.add(Action{Kind: Transition, Priority: r.priority, From: r.state, To: to, Seq: r.seq, Reason: reason})
	r.state = to
}

func (r *Router) owner() bool { return r.cfg.Priority == PriorityOwner }

func (r *Router) tick(now time.Time) {
	if at := r.Deadline(); at.IsZero() || now.Before(at) {
		return
	}
	switch r.state {
	case Active:
		if late, expired := r.expired(now); expired {
			r.stalled(now, fmt.Sprintf("our timer fired %s late: a router of priority %d can have taken over (timer_expired_backup)",
				short(late), r.cfg.TimerExpiredBackup))
			return
		}
		r.advertise(r.priority)
		// from the deadline, not from now: no drift. After a stall one advert says as much as all that are missing.
		if r.advertAt = r.advertAt.Add(r.cfg.AdvertInterval); !r.advertAt.After(now) {
			r.advertAt = now.Add(r.cfg.AdvertInterval)
		}
	case Backup:
		if r.doubt&holding != 0 && !r.cfg.Gated {
			r.probed = true
			if r.doubt&DoubtSending != 0 {
				r.advertise(r.priority)
			}
			r.down.from, r.down.adverts = now, 1
		} else {
			r.takeOver(now)
		}
	case Fault:
		r.begin(now, fmt.Sprintf("tries again %s after the hook failed", short(r.cfg.NotifyRetry)))
	}
}

// takeOver is the end of Active_Down_Timer.
func (r *Router) takeOver(now time.Time) {
	if r.cfg.Gated || r.cfg.Grouped {
		r.request(now)
	} else {
		r.becomeActive(now, r.takeoverReason(now))
	}
}

// holding are the doubts that put a takeover off.
const holding = DoubtSending | DoubtChecks

// doubted takes over if the end of the doubt is all that a Backup has waited for.
func (r *Router) doubted(now time.Time, d Doubt) {
	ended := r.doubt&holding != 0 && d&holding == 0
	r.doubt = d
	switch {
	case r.state != Backup:
	case ended && r.probed && !r.held(now):
		r.takeOver(now)
	case r.ready && d&DoubtChecks != 0:
		r.ready, r.probed = false, true // its group must not count on it
	}
}

// expired reports whether our advert is so late that another router, of the highest priority that we are told to expect,
// has waited long enough to take over, and how late it is.
func (r *Router) expired(now time.Time) (late time.Duration, yes bool) {
	if r.cfg.TimerExpiredBackup == 0 {
		return 0, false
	}
	late = now.Sub(r.advertAt)
	patience := activeDownInterval(r.cfg.Version, r.cfg.TimerExpiredBackup, r.cfg.AdvertInterval, min(r.cfg.DownTimerAdverts, 3))
	return late, late+r.cfg.AdvertInterval >= patience
}

// startup is section 6.4.1. The fault of a tracker that reported before us stands.
func (r *Router) startup(now time.Time, reason string) {
	switch {
	case r.state != Initialize:
	case r.faulty:
		r.transition(Fault, r.fault)
	case r.groupFault != "":
		r.transition(Fault, r.groupFault)
	case reason != "":
		r.begin(now, reason)
	case r.owner():
		r.begin(now, "started as the address owner (priority 255)")
	default:
		r.begin(now, "started")
	}
}

// begin takes part from now on: an owner as Active at once, anybody else as a Backup that listens first for as long as
// a Backup would.
func (r *Router) begin(now time.Time, reason string) {
	r.retryAt, r.hookError = time.Time{}, ""
	r.activeInterval, r.learned = r.cfg.AdvertInterval, false
	atOnce := r.owner() && !r.held(now) && r.doubt == 0
	if atOnce && !r.cfg.Grouped {
		r.becomeActive(now, reason)
		return
	}
	r.becomeBackup(now, r.cfg.DownTimerAdverts, silence, reason)
	if atOnce {
		r.request(now)
	}
}

func (r *Router) becomeActive(now time.Time, reason string) {
	r.waiting = r.cfg.AddressesAfterNotify
	r.ready = false
	r.activeInterval, r.learned = r.cfg.AdvertInterval, false
	r.hold(time.Time{}, "")
	r.contendedAt, r.goodbyeAt = time.Time{}, time.Time{}
	r.advertAt = now.Add(r.cfg.AdvertInterval)

	r.advertise(r.priority)
	if !r.waiting {
		r.do(AddAddresses)
		r.do(Announce)
	}
	r.transition(Active, reason)
}

// becomeBackup enters Backup; a router that was Active has called leaveActive.
func (r *Router) becomeBackup(now time.Time, adverts int, why cause, reason string) {
	r.preemptAt = time.Time{}
	r.ready = false
	r.startDown(now, adverts, why, netip.Addr{})
	r.transition(Backup, reason)
}

// leaveActive takes the addresses off, whether the hook has let them on yet or not: a removal too many is harmless.
func (r *Router) leaveActive() {
	r.waiting = false
	r.do(RemoveAddresses)
}

// goodbye leaves Active on our own, with priority 0. Under a grant the addresses are off before anybody hears of it.
func (r *Router) goodbye(reason string) {
	if !r.cfg.Gated {
		r.advertise(PriorityLeaving)
		r.leaveActive()
		return
	}
	r.leaveActive()
	r.advertise(PriorityLeaving)
	r.giveUp(reason)
}

func (r *Router) giveUp(reason string) { r.add(Action{Kind: GiveUp, Reason: reason}) }

func (r *Router) shutdown(reason string) {
	if r.state == Initialize {
		return
	}
	reason = or(reason, "shut down")
	if r.state == Active {
		r.goodbye(reason)
	} else {
		r.leaveActive() // in every state: nothing may stay behind, whatever we believe
	}
	r.retryAt, r.hookError = time.Time{}, ""
	r.ready = false
	r.hold(time.Time{}, "")
	r.transition(Initialize, reason)
}

// granted takes over if we can. A grant that we can't use goes back at once, for somebody else.
func (r *Router) granted(now time.Time, reason string) {
	switch {
	case r.state == Active:
	case r.state == Initialize:
		r.giveUp("not started")
	case r.state == Fault:
		r.giveUp(r.FaultReason())
	case r.held(now):
		r.giveUp(r.holdReason)
	default:
		r.becomeActive(now, or(reason, "mastership was granted"))
	}
}

// revoked leaves Active because mastership is gone already. Whether somebody else has it, the adverts will show.
func (r *Router) revoked(now time.Time, reason string) {
	r.leaveActive()
	r.advertise(PriorityLeaving)
	r.becomeBackup(now, r.cfg.DownTimerAdverts, silence, or(reason, "mastership was revoked"))
}

func (r *Router) received(now time.Time, ev Event) {
	ev.From = plain(ev.From)
	if ev.From.IsValid() && ev.From == r.cfg.Source {
		return // our own echo: answering it would never end
	}
	r.heard = Heard{From: ev.From, Priority: ev.Priority, Interval: ev.Interval, At: now}
	switch r.state {
	case Backup:
		r.receivedBackup(now, ev)
	case Active:
		r.receivedActive(now, ev)
	}
}

// receivedBackup is section 6.4.2.
func (r *Router) receivedBackup(now time.Time, ev Event) {
	switch {
	case ev.Priority == PriorityLeaving:
		r.startDown(now, 0, left, ev.From)
		// Who comes next isn't for timers to decide, so there is no skew to wait for; but one who repeats it is answered
		// no more than twice in an interval, and after the skew.
		if r.cfg.Gated && !r.held(now) && (r.requestedAt.IsZero() || now.Sub(r.requestedAt) >= r.cfg.AdvertInterval/2) {
			r.request(now)
		}
	case r.follows(now, ev.Priority):
		r.ready = false
		r.learn(ev.Interval)
		r.startDown(now, r.cfg.DownTimerAdverts, silence, netip.Addr{})
	default: // discarded: the timer runs on, and this is whom we shall preempt
		r.down.cause, r.down.peer, r.down.prio = preempting, ev.From, ev.Priority
	}
}

// follows reports whether a Backup takes a sender of this priority for the Active router, rather than wait for the
// timer to fire and preempt it.
func (r *Router) follows(now time.Time, priority uint8) bool {
	switch {
	case priority >= r.priority || r.held(now) || r.cfg.Gated || r.doubt&DoubtAddresses != 0:
		r.preemptAt = time.Time{}
		return true
	case r.owner():
		return false
	case !r.cfg.Preempt:
		return true
	case r.cfg.PreemptDelay == 0:
		return false
	case r.preemptAt.IsZero():
		r.preemptAt = now.Add(r.cfg.PreemptDelay)
	}
	return now.Before(r.preemptAt)
}

// learn takes over the Active router's interval: version 3 alone, in version 2 another than ours doesn't get here.
func (r *Router) learn(interval time.Duration) {
	if r.cfg.Version == 3 && interval > 0 {
		r.activeInterval, r.learned = interval, true
	}
}

// receivedActive is section 6.4.3.
func (r *Router) receivedActive(now time.Time, ev Event) {
	greater := ev.Priority == r.priority && ev.From.Compare(r.cfg.Source) > 0
	switch {
	case ev.Priority == PriorityLeaving:
		// It has a limit of its own: what was said before it does not keep a Backup from taking over after its skew.
		if r.mayAnswer(now, r.goodbyeAt) {
			r.goodbyeAt = now
			r.advertiseNow(now)
		}
	case r.cfg.Gated && (ev.Priority > r.priority || greater):
		// The grant decides, not the priority: this is one whose mastership is over, or who knows nothing of grants.
		if r.mayAnswer(now, r.contendedAt) {
			r.contendedAt = now
			r.advertiseNow(now)
			r.announceAgain()
		}
	case ev.Priority > r.priority || greater:
		reason := ""
		if greater {
			reason = fmt.Sprintf("%v has priority %d as we have, and the greater address", ev.From, ev.Priority)
		} else {
			reason = fmt.Sprintf("%v has priority %d, ours is %d", ev.From, ev.Priority, r.priority)
		}
		if r.cfg.HigherPrioSendAdvert {
			r.advertise(r.priority)
		}
		r.leaveActive()
		r.learn(ev.Interval)
		r.becomeBackup(now, r.cfg.DownTimerAdverts, silence, reason)
	case r.mayAnswer(now, r.contendedAt):
		r.contend(now)
	}
}

// mayAnswer lets us answer at once, but a flood (a socket full after a stall) no more than twice in an interval: the one
// answer reaches all. last is when we answered the like; zero: never.
func (r *Router) mayAnswer(now, last time.Time) bool {
	return last.IsZero() || now.Sub(last) >= r.cfg.AdvertInterval/2
}

// contend answers a lower priority.
func (r *Router) contend(now time.Time) {
	r.contendedAt = now
	if !r.cfg.LowerPrioNoAdvert {
		r.advertiseNow(now)
	}
	r.announceAgain()
	r.add(Action{Kind: Contention, Seq: r.seq})
}

func (r *Router) announceAgain() {
	if !r.waiting {
		r.do(AnnounceAgain)
	}
}

// advertiseNow answers somebody, and starts the interval anew.
func (r *Router) advertiseNow(now time.Time) {
	r.advertise(r.priority)
	r.advertAt = now.Add(r.cfg.AdvertInterval)
}

func (r *Router) faultRaised(reason string) {
	r.faulty, r.fault = true, or(reason, "a tracked object failed")
	switch r.state {
	case Active:
		r.goodbye(r.fault)
		r.transition(Fault, r.fault)
	case Backup:
		r.ready = false
		r.transition(Fault, r.fault)
	}
}

// faultCleared leaves Fault unless a failed hook keeps us there for a while longer.
func (r *Router) faultCleared(now time.Time, reason string) {
	if !r.faulty {
		return
	}
	r.faulty, r.fault = false, ""
	if r.state == Fault && !now.Before(r.retryAt) && r.groupFault == "" {
		r.begin(now, or(reason, "nothing tracked is failed any more"))
	}
}

// groupBackup follows a member that is Active no more, and waits anew with those that are not yet.
func (r *Router) groupBackup(now time.Time, reason string) {
	reason = or(reason, "another member of its sync group is Active no more")
	switch r.state {
	case Active:
		r.goodbye(reason)
		r.becomeBackup(now, r.cfg.DownTimerAdverts, silence, reason)
	case Backup:
		r.ready = false
		r.startDown(now, r.cfg.DownTimerAdverts, silence, netip.Addr{})
	}
}

// groupFaulted follows a member into Fault and out of it.
func (r *Router) groupFaulted(now time.Time, reason string) {
	before := r.groupFault
	r.groupFault = reason
	switch {
	case reason != "" && r.state == Active:
		r.goodbye(reason)
		r.transition(Fault, reason)
	case reason != "" && r.state == Backup:
		r.ready = false
		r.transition(Fault, reason)
	case reason == "" && before != "" && r.state == Fault && !r.faulty && !now.Before(r.retryAt):
		r.begin(now, "no other member of its sync group is in Fault any more")
	}
}

// addressLost gives way to a peer that may be able to hold the addresses. If none comes, we retake them.
func (r *Router) addressLost(now time.Time, reason string) {
	if r.state != Active || r.waiting {
		return
	}
	reason = or(reason, "a virtual address was lost")
	r.goodbye(reason)
	// As long as for a release: with the skew alone we would be back before any peer of a lower priority.
	r.becomeBackup(now, r.cfg.DownTimerAdverts, lost, reason)
	if r.cfg.Gated { // otherwise the grant that we gave back would come back to us before any other has looked
		r.hold(r.downAt(), reason)
	}
}

// stalled steps back without an advert: one of ours would be news to a peer that is Active by now, and by priority or
// address could win against it.
func (r *Router) stalled(now time.Time, reason string) {
	if r.state != Active {
		return
	}
	reason = or(reason, "stopped for a while")
	r.leaveActive()
	if r.cfg.Gated {
		r.giveUp(reason)
	}
	r.becomeBackup(now, r.cfg.DownTimerAdverts, silence, reason)
}

func (r *Router) hookFailed(now time.Time, reason string) {
	r.hookError = "the hook failed"
	if reason != "" {
		r.hookError += ": " + reason
	}
	r.retryAt = now.Add(r.cfg.NotifyRetry)
	r.goodbye(r.hookError)
	r.transition(Fault, r.hookError)
}

// release keeps us off until Hold is over. A Backup or Fault router is held in the same way, without a transition.
func (r *Router) release(now time.Time, ev Event) {
	if ev.Hold <= 0 {
		r.hold(time.Time{}, "")
		return
	}
	reason := "released for " + short(ev.Hold)
	if ev.Reason != "" {
		reason += ": " + ev.Reason
	}
	r.hold(now.Add(ev.Hold), reason)
	if r.state != Active {
		return
	}
	r.goodbye(reason)
	r.becomeBackup(now, r.cfg.DownTimerAdverts, silence, reason)
}

func (r *Router) hold(until time.Time, reason string) { r.holdUntil, r.holdReason = until, reason }

func (r *Router) held(now time.Time) bool { return now.Before(r.holdUntil) }

// or is reason, or what to say without one.
func or(reason, otherwise string) string {
	if reason != "" {
		return reason
	}
	return otherwise
}
