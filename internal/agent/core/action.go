package core

import (
	"fmt"
	"strings"
)

// Kind is what an action does.
type Kind uint8

// The actions of the queue. They are carried out strictly one after the other, in the order in which they came; each ends with a
// Done.
const (
	// PersistPromise fsyncs Epoch as the promise, PersistAttempt as the attempted one.
	PersistPromise Kind = iota + 1
	PersistAttempt
	// PersistMarker fsyncs Marker. With NoMarker the server streams: the mark becomes Pos, and a data directory that was kept may go.
	PersistMarker
	// PersistMark fsyncs Pos as the LSN mark.
	PersistMark
	// Hold writes the SSN that acknowledges nothing (include file: write, fsync, rename, fsync the directory; reload) and drops
	// whatever looser one was under way.
	Hold
	// Fence cuts a standby off from any upstream: the pass file goes, primary_conninfo and restore_command are cleared in the
	// include file, reload; then it waits, in one and the same postmaster, until no walreceiver is there and the startup process
	// has replayed what is on disk. Result: SystemID, Pos, Beyond.
	Fence
	// Reserve writes a comment-only history file for every number of Numbers that pg_wal lacks. It fails if PostgreSQL would
	// not choose TLI.
	Reserve
	// Unreserve removes comment-only history files above the highest real timeline.
	Unreserve
	// PromoteTo looks once more that PostgreSQL would choose TLI, calls pg_promote(false) and polls until the server is out of
	// recovery. Result: TLI, SwitchLSN, EndLSN.
	PromoteTo
	// WriteSSN writes SSN, reloads, and is done once a fresh session sees it.
	WriteSSN
	// ProveSSN waits, for 200 ms at most, until every walsender shows the sync_priority that SSN gives it, 0 if unlisted; then it
	// writes a little WAL, so that no standby can have reported the Barrier before, and reads the insert position. Result: Barrier.
	// With Probe it waits until a commit of its own is seen waiting in SyncRep instead, and cancels that.
	ProveSSN
	// Nudge writes a little WAL, so that waiting commits are looked at.
	Nudge
	// Follow writes the pass file, primary_conninfo and primary_slot_name for Node, and reloads. The slot is this node's own on every
	// server: without one, the walsender of a broken connection and its successor would count as two standbys in FIRST n.
	Follow
	// StartStandby removes comment-only history files above the highest real timeline, sets aside what there is of timelines that the
	// server never reached, writes standby.signal, the hold, and the connection to Node ("": none), then starts the server and waits
	// until it answers or, with a Node, lives. Like Rewind and Clone it ends an archiver that is left.
	StartStandby
	// Stop stops the server, Fast or immediately. With Handover it is fast and done when nobody but the archiver is left: what is seen of the server from then
	// on is that it does not run, and Archives. Result: Pos, Clean.
	Stop
	// Rewind runs pg_rewind from Node. Result, if it failed: Whole. So with Clone.
	Rewind
	// Clone copies Node's server into a new directory, which takes the old one's place; the old one is kept.
	Clone
	// DropVIP announces a planned stop, which takes the address off once the clients have been told.
	DropVIP
)

// The calls. They begin in their order, beside the queue; each ends with a Done, but for Say, Eligible, Left and Cancel.
const (
	// ReportPledge tells vrrpd {Epoch, SystemID, Pos}.
	ReportPledge Kind = iota + 64
	// SetRule proposes S=Names on version Ver of the rule as the holder of Epoch, with TLI and where it branched off (LSN).
	SetRule
	// Release gives Epoch back, for Text; Node is preferred next.
	Release
	// Look asks Node's server over a replication connection. Result: Source.
	Look
	// ReadLog has vrrpd read the log behind a barrier that begins now. Result: View.
	ReadLog
	// Checkpoint makes one.
	Checkpoint
	// AfterPromote does pg_switch_wal and CHECKPOINT; from then on the server is RewindReady.
	AfterPromote
	// Leave tells the holder Node that this standby is about to go (On), or is back, or has to be rebuilt for the reason Text; with
	// On it is done when the holder's SSN is without it.
	Leave
	// Advanced has vrrpd note that there is more WAL than a second ago, so that a copy of this host's disks from before is known for one.
	Advanced
	// Left answers the Leave of Node.
	Left
	// Open: the SSN of epoch Epoch's rule is in force. The hook may exit 0, the address may come up.
	Open
	// Eligible is the newest verdict: On, or Text says why not.
	Eligible
	// Cancel stops the Clone with the id Ref, and a Rewind that gets on no further.
	Cancel
	// Say is for the log file.
	Say
)

// Call reports whether k runs beside the queue.
func (k Kind) Call() bool { return k >= ReportPledge }

// String is the kind in words.
func (k Kind) String() string {
	names := [...]string{
		PersistPromise: "promise", PersistAttempt: "attempt", PersistMarker: "marker", PersistMark: "mark", Hold: "hold", Fence: "fence", Reserve: "reserve",
		Unreserve: "unreserve", PromoteTo: "promote", WriteSSN: "write SSN", ProveSSN: "prove SSN", Nudge: "nudge", Follow: "follow",
		StartStandby: "start", Stop: "stop", Rewind: "rewind", Clone: "clone", DropVIP: "drop VIP", ReportPledge: "report pledge", SetRule: "set rule",
		Release: "release", Look: "look at", ReadLog: "read the log", Checkpoint: "checkpoint", AfterPromote: "after promote", Leave: "leave", Advanced: "advanced", Left: "left", Open: "open",
		Eligible: "eligible", Cancel: "cancel", Say: "say",
	}
	if int(k) < len(names) && names[k] != "" {
		return names[k]
	}
	return fmt.Sprintf("action %d", uint8(k))
}

// Action is one thing that the agent must do. Which fields count depends on Kind.
type Action struct {
	ID       uint64
	Kind     Kind
	Epoch    uint64
	Node     string
	SystemID uint64
	TLI      uint32
	LSN      uint64
	Parent   uint32 // SetRule: the timeline that TLI branched off from
	Pos      Position
	Ver      uint64
	Names    []string
	Numbers  []uint32
	SSN      SSN
	Marker   Marker
	Fast     bool
	Handover bool
	Probe    bool
	Fresh    bool // Clone: there are no data that it replaces, and it fails if there are
	On       bool
	Ref      uint64
	Text     string
}

// String is the action in a line of a trace.
func (a Action) String() string {
	var b strings.Builder
	b.WriteString(a.Kind.String())
	switch a.Kind {
	case PersistPromise, PersistAttempt, Open:
		fmt.Fprintf(&b, " %d", a.Epoch)
	case PersistMarker:
		fmt.Fprintf(&b, " %q", string(a.Marker))
	case PersistMark:
		fmt.Fprintf(&b, " %v", a.Pos)
	case ReportPledge:
		fmt.Fprintf(&b, " %d: %v", a.Epoch, a.Pos)
	case Reserve, PromoteTo:
		fmt.Fprintf(&b, " to timeline %d", a.TLI)
	case WriteSSN, ProveSSN:
		fmt.Fprintf(&b, " %q", a.SSN.String())
		if a.Probe {
			b.WriteString(" by a write")
		}
	case SetRule:
		fmt.Fprintf(&b, " epoch %d version %d S=%v", a.Epoch, a.Ver, a.Names)
	case Release:
		fmt.Fprintf(&b, " %d: %s", a.Epoch, a.Text)
	case Stop:
		switch {
		case a.Handover:
			b.WriteString(" for a handover")
		case a.Fast:
			b.WriteString(" fast")
		}
	case Eligible:
		fmt.Fprintf(&b, " %t %s", a.On, a.Text)
	case Say:
		b.WriteString(": " + a.Text)
	}
	if a.Node != "" {
		b.WriteString(" " + a.Node)
	}
	return b.String()
}
