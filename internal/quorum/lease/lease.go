package lease

import (
	"time"

	"pgvrrp/internal/quorum/record"
)

// Params are the times that the protocol rests on.
type Params struct {
	Lease  time.Duration // L: how long a renewal lasts, counted from its sending; 0.1 to 10 s
	Margin time.Duration // g: how late the kernel may shut the guard; 20 ms
	Drift  float64       // ρ: by how much a clock may run fast or slow; 0.01
}

// Defaults are the parameters with the lease of the configuration file.
func Defaults(lease time.Duration) Params {
	return Params{Lease: lease, Margin: 20 * time.Millisecond, Drift: 0.01}
}

// Every is h: how often a holder renews.
func (p Params) Every() time.Duration { return p.Lease / 4 }

// Hold is how long after its sending a renewal may still have effect at a holder whose kernel guard shuts on time.
func (p Params) Hold() time.Duration { return p.Lease + p.Margin }

// LifetimeHold is Hold for a holder without a kernel guard, whose addresses end with their kernel lifetime: 2 s counted in whole
// ones, renewed for the last time just before the deadline.
func (p Params) LifetimeHold() time.Duration { return p.Lease + 2300*time.Millisecond }

// Wait is W_t: how long a voter waits after an acknowledgement until the lease has run out even if the holder's clock is as
// slow, and its own as fast, as clocks may be.
func (p Params) Wait(hold time.Duration) time.Duration {
	return time.Duration(float64(hold) * (1 + p.Drift) / (1 - p.Drift))
}

// Config names one membership of the log: the index of its entry and a digest of its content. Two voters that name the same one
// count the same majority.
type Config struct{ Index, Digest uint64 }

// Configuration is the newest membership in a voter's log.
type Configuration struct {
	Config
	Voters    []string      // ids; a node with two votes has two
	Committed bool          // known to be committed
	Since     time.Duration // when that became known
}

// Majority is how many voters decide.
func (c *Configuration) Majority() int { return len(c.Voters)/2 + 1 }

func (c *Configuration) index(id string) int {
	for k, v := range c.Voters {
		if v == id {
			return k
		}
	}
	return -1
}

// EventKind says what happened to a machine.
type EventKind uint8

// The events. Which machine takes which is said there; one that makes no sense is harmless.
const (
	Tick       EventKind = iota // the deadline may have passed
	Received                    // Message came From a voter
	Known                       // Record is the newest known record of the resource
	Configured                  // Configuration is the newest membership in our log
	Stored                      // what a Store action asked for is on disk, or Err
	Leading                     // On: we lead the log and have all of it; off: no longer
	Eligible                    // On: this node may be granted the resource; else Reason says why not. Priority breaks ties
	Pledged                     // what stands behind the resource has pledged: Pledge
	Idle                        // On: nothing of the resource runs here: no address, guard shut
	Submitted                   // the command of the last Submit action has an outcome: Err, or none
	Ruling                      // a rule with Names is on its way into the log in the place of version Ver; its outcome is not known
	GiveUp                      // the addresses are off, and we don't want the epoch any more: Reason; Prefer may say who is to be next
)

// Event is one thing that happened. Which fields count depends on Kind.
type Event struct {
	Kind          EventKind
	From          string
	Message       *Message
	Record        *record.Resource
	Configuration *Configuration
	What          Stores
	Epoch         uint64
	Hold          time.Duration
	Err           error
	On            bool
	Priority      uint8
	Reason        string
	Prefer        string
	Pledge        Pledge
	Names         []string
	Ver           uint64
}

// Pledge is the word of a PostgreSQL server: it follows nobody of a lower epoch any more, and has the WAL up to LSN of TLI.
type Pledge struct {
	Epoch    uint64
	SystemID uint64
	TLI      uint32
	LSN      uint64
}

// Stores says what is to be on disk.
type Stores uint8

// What machines store. Nothing that follows from it is said before it is on disk.
const (
	Seal    Stores = iota // Epoch is never renewed again by this voter
	Hold                  // the longest Hold ever acknowledged: how long to be silent after a start
	Promise               // Epoch: no lease of a lower one is acknowledged again by this data node
)

// ActionKind is one thing the caller must do.
type ActionKind uint8

// The actions, carried out in the order given.
const (
	Send   ActionKind = iota // Message to the voter To, or to Everyone
	Store                    // What with Epoch or Hold goes to disk; then a Stored event
	Extend                   // we are live until Deadline in Epoch: set the guard
	Lapse                    // we are not live: shut the guard, take the addresses off, then an Idle event; Reason
	Submit                   // Command goes into the log; then a Submitted event
	Say                      // a line for the operator: Reason
)

// Everyone is every voter of the file, ourselves among them.
const Everyone = "*"

// Action is one thing to do. Which fields count depends on Kind.
type Action struct {
	Kind     ActionKind
	To       string
	Message  Message
	What     Stores
	Epoch    uint64
	Hold     time.Duration
	Deadline time.Duration
	Command  record.Command
	Reason   string
	Lost     bool // Lapse: the deadline passed while we were active
}

// never is a deadline that doesn't come.
const never = time.Duration(1<<63 - 1)

// actions collects what one Step asks for; the slice is used again by the next.
type actions []Action

func (a *actions) send(to string, m Message) { *a = append(*a, Action{Kind: Send, To: to, Message: m}) }
func (a *actions) say(reason string)         { *a = append(*a, Action{Kind: Say, Reason: reason}) }
func (a *actions) submit(c record.Command)   { *a = append(*a, Action{Kind: Submit, Command: c}) }
func (a *actions) lapse(epoch uint64, reason string) {
	*a = append(*a, Action{Kind: Lapse, Epoch: epoch, Reason: reason})
}
