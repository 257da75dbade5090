package vrrp

import (
	"fmt"
	"net/netip"
	"time"
)

// State is one of the three states of RFC 9568 section 6.3, and Fault, which keepalived adds to Initialize:
// a router that must not take part because something that it tracks failed.
type State uint8

// The states.
const (
	Initialize State = iota
	Backup
	Active
	Fault
)

// String is the state's name in RFC 9568.
func (s State) String() string { return name(uint8(s), "Initialize", "Backup", "Active", "Fault") }

// EventKind says what happened to a router.
type EventKind uint8

// The events. Every one may carry a Reason for the log. One that makes no sense in a state is harmless there.
const (
	Tick            EventKind = iota // the deadline may have passed; late or repeated ticks are harmless
	Startup                          // Initialize -> Backup, or Active at once for an owner, or Fault if one stands
	Shutdown                         // leave: priority 0, remove addresses, Initialize
	Received                         // a valid advert arrived: From, Priority, Interval
	PriorityChanged                  // effective priority is now Priority (1 to 254); an owner's never changes
	FaultRaised                      // something tracked failed; Reason names all that is failed
	FaultCleared                     // nothing tracked is failed any more
	SourceChanged                    // our primary address is now From; the zero Addr: we have none
	AddressLost                      // somebody removes our VIPs again and again: give way, retake if nobody else takes over
	HookSucceeded                    // AddressesAfterNotify: the hook of transition Seq exited 0
	HookFailed                       // AddressesAfterNotify: it failed or timed out; Reason says how
	Release                          // give mastership away and stay off it for Hold; Hold 0 ends that
	Stalled                          // we were stopped for so long that another has become Active: go without a word
	Granted                          // gated: mastership is ours now; Reason says under what
	Revoked                          // gated: it is ours no more; Reason says why
	GroupActive                      // grouped: all members can; Reason says who was the last
	GroupBackup                      // grouped: another member is Active no more; Reason says which and why
	GroupFault                       // grouped: another member is in Fault for a reason of its own; Reason "": none is
	Doubted                          // what we failed at and have not done since, or were not asked yet, is now Doubt
)

// String is the event's name.
func (k EventKind) String() string {
	return name(uint8(k), "Tick", "Startup", "Shutdown", "Received", "PriorityChanged", "FaultRaised", "FaultCleared",
		"SourceChanged", "AddressLost", "HookSucceeded", "HookFailed", "Release", "Stalled",
		"Granted", "Revoked", "GroupActive", "GroupBackup", "GroupFault", "Doubted")
}

// Doubt is all that a router has failed at by itself and not done since, and what it has not been asked yet. A Backup with one
// would take mastership from a router that serves, and fail.
type Doubt uint8

// The doubts.
const (
	DoubtAddresses Doubt = 1 << iota // holding the VIPs: any Active router is followed, whatever its priority
	DoubtSending                     // sending adverts: one must have left before we become Active
	DoubtChecks                      // checks that have not reported yet: they must have before we become Active
)

// Event is one thing that happened. Which fields count depends on Kind.
type Event struct {
	Kind     EventKind
	From     netip.Addr    // Received: the sender; SourceChanged: our new address
	Priority uint8         // Received, PriorityChanged
	Interval time.Duration // Received
	Hold     time.Duration // Release
	Seq      uint64        // HookSucceeded, HookFailed: Seq of the Transition action that started the hook
	Doubt    Doubt         // Doubted
	Reason   string
}

// ActionKind is one thing the caller must do.
type ActionKind uint8

// The actions, carried out in the order given.
const (
	SendAdvert      ActionKind = iota // with Priority (0 when leaving)
	AddAddresses                      // put the VIPs on the interface
	RemoveAddresses                   // take them off, and stop announcing
	Announce                          // gratuitous ARP / unsolicited NA for every VIP (takeover)
	AnnounceAgain                     // the same after a lower-priority advert was heard while Active (contention)
	Transition                        // From -> To with Reason: log, status and notify hooks
	Contention                        // Active heard a lower priority: notify_master_rx_lower_pri
	Request                           // gated, grouped: the Active router seems gone, for Reason; whoever decides on mastership may look
	GiveUp                            // gated: give the grant back, for Reason; the VIPs are off
)

// String is the action's name.
func (k ActionKind) String() string {
	return name(uint8(k), "SendAdvert", "AddAddresses", "RemoveAddresses", "Announce", "AnnounceAgain", "Transition", "Contention",
		"Request", "GiveUp")
}

// Action is one thing to do. Which fields count depends on Kind.
type Action struct {
	Kind     ActionKind
	Priority uint8 // SendAdvert: the priority to send; Transition: the effective priority
	From, To State
	Seq      uint64 // Transition: its number, counted from 1; the result of the hook that it starts comes back with it. Contention: that of the last one
	Reason   string
}

// String is the action as a line of a transcript.
func (a Action) String() string {
	switch a.Kind {
	case SendAdvert:
		return fmt.Sprintf("SendAdvert %d", a.Priority)
	case Transition:
		return fmt.Sprintf("%v -> %v (%s)", a.From, a.To, a.Reason)
	case Request, GiveUp:
		return fmt.Sprintf("%v (%s)", a.Kind, a.Reason)
	default:
		return a.Kind.String()
	}
}

func name(i uint8, names ...string) string {
	if int(i) >= len(names) {
		return fmt.Sprintf("unknown(%d)", i)
	}
	return names[i]
}
