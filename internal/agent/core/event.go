package core

import (
	"slices"
	"time"
)

// Phase is how far a grant has come in the log.
type Phase uint8

// The phases, in their order.
const (
	Released Phase = iota
	Electing
	Granted
	Active
)

// String is the phase's name, as vrrpd writes it.
func (p Phase) String() string { return [...]string{"released", "electing", "granted", "active"}[p&3] }

// order is the phase's place within an epoch, which ends with its release.
func (p Phase) order() Phase { return (p + 3) & 3 }

// Rule names who has every acknowledged commit: Holder and all of S.
type Rule struct {
	Holder  string
	S       []string // as in the SSN: newest first
	Version uint64
	// Gone are those of S, and Holder, who are named with a state directory that they have lost since: what has their name now
	// does not count.
	Gone []string
}

// Has reports whether node may be granted the next epoch.
func (r Rule) Has(node string) bool {
	return node != "" && (r.Holder == node || slices.Contains(r.S, node))
}

// there are the members of S that still have what they were named for.
func (r Rule) there() []string {
	return slices.DeleteFunc(slices.Clone(r.S), func(n string) bool { return slices.Contains(r.Gone, n) })
}

// Event is something that happened: a View, Lease, *Server, Done, Wish, Leaving, Heard, Attached or Tick.
type Event interface{ event() }

// View is the resource as vrrpd on this node sees it. Views come in the order of the log; none goes back.
type View struct {
	SystemID  uint64 // of the cluster; 0: any
	Epoch     uint64 // 0: not initialized
	Phase     Phase
	Holder    string // of Granted and Active
	Mine      bool   // granted to this run of this node's vrrpd
	Live      bool   // and the lease runs
	Deadline  time.Duration
	Timeline  uint32 // granted with the epoch
	Rule      Rule
	Ledger    []Timeline
	Paused    bool
	SyncNum   int // how many standbys S is to have; 0 counts as 2
	MinCopies int // how many copies a commit needs, the holder's own included; 0 counts as 1
}

// Lease moves the deadline of a live epoch.
type Lease struct {
	Epoch    uint64
	Deadline time.Duration
}

// Standby is one that streams from this server.
type Standby struct {
	Name      string
	Streaming bool   // pg_stat_replication.state
	Sent      uint64 // by the walsender: on our timeline once it is beyond the switch point
	Flush     uint64 // as the standby says
	Priority  int    // sync_priority, as that walsender computes it
}

// has is the position up to which the standby has this server's WAL for sure. A walreceiver first reports where it replayed to,
// on whatever timeline; nothing that was not sent counts.
func (s Standby) has() uint64 { return min(s.Sent, s.Flush) }

// Server is one look at the local PostgreSQL.
type Server struct {
	At         time.Duration // when the look began
	NoData     bool          // there is no data directory
	Running    bool          // the postmaster lives, and not only to wait for its archiver
	Answering  bool          // and takes sessions
	Recovers   bool          // takes none, being in crash recovery: the postmaster restarts by itself what crashed (restart_after_crash)
	Idle       bool          // takes none, and its startup process does nothing
	Waits      bool          // takes none, and has long been waiting for WAL: what it has does not make it consistent
	Postmaster uint64        // which start of it; not 0 while Running
	InRecovery bool
	Clean      bool // stopped, by a clean shutdown
	Archives   bool // and the postmaster waits for its archiver, whom a start ends
	SystemID   uint64
	Pos        Position // primary: flushed, and so what a standby can have and a commit waits for; standby: the greatest of received and replayed; stopped: of the control file
	Whole      uint64   // where a record ends that is on this disk with all before it; 0: not known, as of a server that does not answer
	History    []Fork   // of Pos.TLI
	Upstream   string   // standby: node that the walreceiver streams from
	Conninfo   string   // node that primary_conninfo in force names; "": none
	Via        string   // at which of its addresses
	Standbys   []Standby
	SSN        string // in force for a fresh session
	// RewindReady: the newest checkpoint is of the running timeline, so that pg_rewind may use this server.
	RewindReady bool
}

// whole is what no crash takes from the server's disk.
func (s *Server) whole() Position { return Position{TLI: s.Pos.TLI, LSN: s.Whole} }

func (s *Server) standby(name string) (Standby, bool) {
	for _, x := range s.Standbys {
		if x.Name == name {
			return x, true
		}
	}
	return Standby{}, false
}

// Source is another node's server as seen from here.
type Source struct {
	Node        string
	Via         string // the address that answered
	InRecovery  bool
	SystemID    uint64
	TLI         uint32
	LSN         uint64 // primary: flushed; standby: the greatest of received and replayed
	History     []Fork
	RewindReady bool
	Unready     string // why not, unless it only has to make its checkpoint or was not asked yet
}

// Done is the outcome of an action.
type Done struct {
	ID  uint64
	Err error
	// Unknown: of SetRule and Release, nothing is known of the outcome.
	Unknown bool
	Result  Result
	// Server is a look that began after the action; nil: none yet, and one will come.
	Server *Server
}

// Result is what an action found. Which fields count depends on its kind.
type Result struct {
	SystemID  uint64   // Fence
	Pos       Position // Fence: after the drain; Stop: the shutdown checkpoint's end
	Clean     bool     // Stop
	TLI       uint32   // PromoteTo: the timeline that it has got
	SwitchLSN uint64   // PromoteTo: where that branched off
	EndLSN    uint64   // PromoteTo: the end of the end-of-recovery record
	Barrier   uint64   // ProveSSN: the insert position, read after the proof
	Source    *Source  // Look
	Beyond    uint32   // Fence: a later timeline that the standby goes by and has no WAL of to replay; 0: none
	Whole     bool     // Rewind, Clone: it failed before the first byte changed, the data directory is what it was
	View      *View    // ReadLog
}

// WishKind is what an operator wants.
type WishKind uint8

// The wishes.
const (
	Switchover     WishKind = iota // to Node; "": the best standby
	MaintenanceOn                  // leave the synchronous set, and don't touch the server but for pledges
	MaintenanceOff                 //
	Shutdown                       // leave the synchronous set, then stop the server; nothing is started again
	GiveBack                       // the epoch, as the server can't be looked at, for Why; nobody's wish but the agent's
	Disk                           // takes no writes, for Why: the epoch is given back once that is of use, and none is taken until it does again, with Why ""; the agent's, too
)

// Wish is an operator's.
type Wish struct {
	Kind WishKind
	Node string
	Why  string
}

// Leaving is a standby's word, at the holder: it is about to go (On), or was and is back. With Why it can't stream as it is, and
// must be out of the rule to be rebuilt.
type Leaving struct {
	Node string
	On   bool
	Why  string
}

// Heard says that another node's agent has said something, as it does at least each TellEvery.
type Heard struct {
	Node string
}

// Attached says that the connection to vrrpd is new, and that it has forgotten what we reported.
type Attached struct{}

// Tick says that Wake has passed, or that nothing has happened.
type Tick struct{}

func (View) event()     {}
func (Lease) event()    {}
func (*Server) event()  {}
func (Done) event()     {}
func (Wish) event()     {}
func (Leaving) event()  {}
func (Heard) event()    {}
func (Attached) event() {}
func (Tick) event()     {}

// Marker says what is being done to the data directory. A node with one is never recruited.
type Marker string

// The markers.
const (
	NoMarker  Marker = ""
	Rewinding Marker = "rewinding" // pg_rewind may have changed it: garbage unless Rewound follows
	Cloning   Marker = "cloning"   // a copy is being made beside it
	Rewound   Marker = "rewound"   // rewound or copied, and not consistent before it has streamed
)

// Marks are what the state directory holds at the start.
type Marks struct {
	Promise   uint64
	Attempted uint64
	Marker    Marker
	Mark      Position // the WAL once reached here
	Away      Away
}

// Away says how far an operator has the server: what a machine that is made anew must know of the one before.
type Away struct {
	On   bool // the operator has it
	Shut bool // and wants it stopped
	Gone bool // which was done
}
