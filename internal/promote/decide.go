package promote

import (
	"fmt"
	"net/netip"
	"strings"

	"pgvrrp/internal/postgres"
)

// The states that a hook is told, in keepalived's words.
const (
	Master  = "MASTER"
	Backup  = "BACKUP"
	Fault   = "FAULT"
	Stop    = "STOP"
	Deleted = "DELETED"
)

// Event is what the hook was told, or the state that a command by hand asks for.
type Event struct {
	Type     string // INSTANCE or GROUP
	Name     string
	State    string // MASTER, BACKUP, FAULT, STOP, DELETED
	Priority int    // 0 to 255
	ByHand   bool   // asked for by an operator: there is no newest state and no settle time
}

func (ev Event) words() string { return strings.TrimSpace(ev.State + " " + ev.Name) }

// Role is what the local server is at this moment.
type Role string

// The roles.
const (
	RoleUnknown    Role = "unknown"    // could not be observed
	RoleDown       Role = "down"       // no postmaster
	RolePrimary    Role = "primary"    // answers, out of recovery
	RoleStandby    Role = "standby"    // answers, in recovery
	RoleStarting   Role = "starting"   // runs with standby.signal and does not answer yet
	RoleRecovering Role = "recovering" // runs without standby.signal and does not answer: a primary that starts, stops or hangs
)

// Phase is how far a rebuild of the data directory has come; it is kept on disk.
type Phase string

// The phases.
const (
	PhaseNone      Phase = ""
	PhaseDiverged  Phase = "diverged"  // holds WAL that the primary of the VIP does not have
	PhaseRewinding Phase = "rewinding" // pg_rewind, or a copy that takes their place, is at work or was broken off: the files fit no server
	PhaseRewound   Phase = "rewound"   // rewound or cloned, and nobody has seen it stream since
)

// Local is one look at our own server.
type Local struct {
	Problem   string // why it could not be observed or does not answer
	NotReady  bool   // Problem is one that passes: the server starts or stops
	Role      Role
	SystemID  uint64
	Position  postgres.Position // end of our WAL
	Upstream  string            // host that primary_conninfo names
	Streaming bool              // a walreceiver streams
	Diverged  bool              // our WAL is not part of the history of the VIP's primary
	Twin      bool              // it has diverged on a timeline that has the number of the primary's
	Agrees    bool              // our WAL is part of it; neither, if there is no primary or the two can't be compared
	Advancing bool              // while catching up: the position moved, or the attempt began, in the last moments
	Phase     Phase             // of a rebuild
	PhaseWhy  string
	Promoting bool // a promotion was asked for and its end was not seen
}

// Reach is what a question to another server came to.
type Reach string

// What a question can come to.
const (
	NotProbed   Reach = ""            // nobody asked: no basis for a promotion
	Unreachable Reach = "unreachable" // refused, no route, or no answer to the connection attempt in time: no server there that we could reach
	Primary     Reach = "primary"
	Standby     Reach = "standby"
	Undecided   Reach = "undecided"  // a server is there and starts, stops, or says nothing: ask again
	CantTell    Reach = "can't tell" // the question itself failed: password, pg_hba.conf, protocol, our own network
)

// Answer is what one node, or the VIP, answered.
type Answer struct {
	Name     string // of the node, or "VIP"
	Addr     netip.Addr
	Reach    Reach
	SystemID uint64
	Position postgres.Position
	Moves    bool   // a standby whose position was another one a moment ago
	Version  int    // server_version_num
	Reason   string // for Unreachable, Undecided and CantTell
}

func (a Answer) where() string {
	if !a.Addr.IsValid() { // our own server's, which was not asked by the network
		return a.Name
	}
	return fmt.Sprintf("%s at %s", a.Name, a.Addr)
}

// Facts is all that a decision rests on.
type Facts struct {
	Node      string
	VIPAddr   netip.Addr
	Overtaken string // why our event is not the newest; "" if it is
	Settled   bool   // the settle time has passed since the event was delivered
	Local     Local
	VIP       Answer
	VIPHere   bool     // this host holds the VIP: what answers there is our own server
	Peers     []Answer // every other node
}

// Act is one kind of step.
type Act string

// The acts, each safe to repeat.
const (
	ActSetUpstream   Act = "set-upstream"
	ActClearUpstream Act = "clear-upstream"
	ActStop          Act = "stop"
	ActStartStandby  Act = "start-standby"
	ActStartAsIs     Act = "start-as-is"
	ActPromote       Act = "promote"
	ActAfterPromote  Act = "after-promote"
	ActFollow        Act = "follow"
	ActCatchUp       Act = "catch-up"
)

// Step is one thing to do, with words for people.
type Step struct {
	Act   Act
	Words string
	From  netip.Addr // of ActCatchUp
}

// Wait says whether a refusal may pass by itself.
type Wait int

// What a refusal may wait for.
const (
	WaitNone     Wait = iota
	WaitHandover      // another server is about to change: ask again for Timeouts.Handover
	WaitStart         // our own server starts or stops: look again for Timeouts.Start
	WaitCatchUp       // we receive what another standby has more: look again for Timeouts.Handover
)

// Plan is what to do. Either it refuses, or its steps are carried out in order; with none there is nothing to do.
type Plan struct {
	Refusal string
	Wait    Wait
	Note    string // why there is nothing to do, or what goes with the steps
	Steps   []Step
	Again   bool // then look again and decide anew
}

// String is what --dry-run prints.
func (p Plan) String() string {
	var b strings.Builder
	if p.Refusal != "" {
		return "refused: " + p.Refusal + "\n"
	}
	if len(p.Steps) == 0 {
		b.WriteString("nothing to do")
		if p.Note != "" {
			b.WriteString(": " + p.Note)
		}
		return b.String() + "\n"
	}
	if p.Note != "" {
		b.WriteString(p.Note + "\n")
	}
	n := 0
	for _, s := range p.Steps {
		n++
		fmt.Fprintf(&b, "%d. %s\n", n, s.Words)
	}
	if p.Again {
		fmt.Fprintf(&b, "%d. look again and decide anew\n", n+1)
	}
	return b.String()
}

// catchUp is what has to be received before anything else, in words; "" if that is nothing.
func (p Plan) catchUp() string {
	if len(p.Steps) > 0 && p.Steps[0].Act == ActCatchUp {
		return p.Steps[0].Words
	}
	return ""
}

func refuse(w Wait, format string, args ...any) Plan {
	return Plan{Refusal: fmt.Sprintf(format, args...), Wait: w}
}

func nothing(format string, args ...any) Plan { return Plan{Note: fmt.Sprintf(format, args...)} }

func do(again bool, steps ...Step) Plan { return Plan{Steps: steps, Again: again} }

// Decide is the state table of hook mode. It looks at nothing but its arguments.
func Decide(f Facts, ev Event) Plan {
	if f.Overtaken != "" {
		return refuse(WaitNone, "%s was overtaken: %s", ev.words(), f.Overtaken)
	}
	switch ev.State {
	case Master:
		return f.master(ev)
	case Backup:
		return f.backup()
	case Fault, Stop:
		return f.fault()
	case Deleted:
		return nothing("DELETED is only logged")
	}
	return refuse(WaitNone, "unknown state %q", ev.State)
}

func (f Facts) master(ev Event) Plan {
	l := f.Local
	if l.Role == RolePrimary {
		return nothing("%s is primary already, on %s", f.Node, l.Position)
	}
	if p, refused := f.unusable(ev); refused {
		return p
	}
	switch l.Role {
	case RoleDown:
		return do(true, f.startStandby("start the server as a standby, to be promoted if the conditions hold"))
	case RoleStarting, RoleRecovering:
		if l.NotReady {
			return refuse(WaitStart, "the server on %s does not answer yet: %s", f.Node, l.Problem)
		}
		return refuse(WaitNone, "the server on %s runs but can't be asked: %s", f.Node, l.Problem)
	case RoleStandby:
		if p, ok := f.conditions(ev); !ok {
			return p
		}
		return do(false,
			Step{Act: ActPromote, Words: fmt.Sprintf("promote %s (%s)", f.Node, l.Position)},
			Step{Act: ActAfterPromote, Words: "behind it: pg_switch_wal and CHECKPOINT"})
	default:
		return refuse(WaitNone, "the server on %s can't be observed: %s", f.Node, l.Problem)
	}
}

// unusable refuses data that must not become primary whatever the others say.
func (f Facts) unusable(ev Event) (Plan, bool) {
	switch f.Local.Phase {
	case PhaseRewinding:
		return refuse(WaitNone, "the data directory of %s is being rewound or was left half rewound, it is not usable: %s", f.Node, f.Local.PhaseWhy), true
	case PhaseDiverged:
		if !ev.ByHand { // whose data is the truth is then the operator's to say
			return refuse(WaitNone, "the data of %s has diverged from the last primary's: %s", f.Node, f.Local.PhaseWhy), true
		}
	case PhaseNone, PhaseRewound:
		// Rebuilt data is consistent from where the source's WAL had ended. A standby that has not come there takes no sessions, so it is not
		// judged, and its position is compared with the others' as any (manual, 27.4.3 Hot Standby, and pg_rewind, How It Works).
	}
	return Plan{}, false
}

// conditions are the four of hook mode, for a local standby, the first of which, newest state, was looked at before. Not ok: the
// plan refuses, or says what to do so that they may hold.
func (f Facts) conditions(ev Event) (p Plan, ok bool) {
	l := f.Local
	if !ev.ByHand && !f.Settled {
		return refuse(WaitHandover, "the settle time has not passed"), false
	}
	if l.SystemID == 0 || l.Position.Timeline == 0 || l.Position.LSN == 0 {
		return refuse(WaitNone, "the WAL position of %s is not known", f.Node), false
	}
	all := append([]Answer{f.VIP}, f.Peers...)
	for _, a := range all { // what can't be known comes first: no later answer makes up for it
		switch a.Reach {
		case Unreachable, Undecided, Primary, Standby:
		case CantTell:
			return refuse(WaitNone, "can't tell whether %s is a primary: %s", a.where(), a.Reason), false
		case NotProbed:
			return refuse(WaitNone, "%s was not asked whether it is a primary", a.where()), false
		}
		if (a.Reach == Primary || a.Reach == Standby) && a.SystemID != l.SystemID {
			return refuse(WaitNone, "%s belongs to another cluster: its system identifier is %d, ours %d", a.where(), a.SystemID, l.SystemID), false
		}
	}
	for _, a := range all {
		if a.Reach == Primary {
			return refuse(WaitHandover, "%s answers as a primary, %s", a.where(), a.Position), false
		}
	}
	for _, a := range all {
		if a.Reach == Undecided {
			return refuse(WaitHandover, "can't tell yet whether %s is a primary: %s", a.where(), a.Reason), false
		}
	}
	var most *Answer
	for i, a := range all {
		if a.Reach == Standby && a.Position.Compare(l.Position) > 0 && (most == nil || a.Position.Compare(most.Position) > 0) {
			most = &all[i]
		}
	}
	for _, a := range all {
		if a.Moves && most == nil {
			return refuse(WaitCatchUp, "%s still comes by WAL, or replays what it has: it is at %s, and may end behind ours, %s", a.where(), a.Position, l.Position), false
		}
	}
	switch {
	case most == nil:
		return Plan{}, true
	case l.Upstream != most.Addr.String():
		return do(true, Step{
			Act: ActCatchUp, From: most.Addr,
			Words: fmt.Sprintf("receive from %s what it has more: %s, ours %s", most.where(), most.Position, l.Position),
		}), false
	case l.Advancing:
		return refuse(WaitCatchUp, "%s holds more WAL than %s and sends it: %s, ours %s", most.where(), f.Node, most.Position, l.Position), false
	}
	return refuse(WaitNone, "%s holds more WAL than %s, which can't get it from there: %s, ours %s", most.where(), f.Node, most.Position, l.Position), false
}

func (f Facts) backup() Plan {
	l := f.Local
	follow := Step{Act: ActFollow, Words: fmt.Sprintf("behind it: see that %s streams from the VIP %s; if its WAL has diverged rewind it, else clone it", f.Node, f.VIPAddr)}
	upstream := Step{Act: ActSetUpstream, Words: fmt.Sprintf("stream from the VIP %s", f.VIPAddr)}
	if f.VIP.Reach == Primary && l.SystemID != 0 && f.VIP.SystemID != l.SystemID && l.Role != RolePrimary && l.Role != RoleRecovering {
		return refuse(WaitNone, "%s belongs to another cluster: its system identifier is %d, ours %d", f.VIP.where(), f.VIP.SystemID, l.SystemID)
	}
	switch {
	case l.Role == RolePrimary || l.Role == RoleRecovering:
		return do(true, Step{Act: ActStop, Words: fmt.Sprintf("stop %s fast: it is %s", f.Node, describe(l))})
	case l.Promoting && (l.Role == RoleStandby || l.Role == RoleStarting):
		return do(true, Step{Act: ActStop, Words: fmt.Sprintf("stop %s fast: a promotion may still be under way", f.Node)})
	case l.Role == RoleUnknown:
		return refuse(WaitNone, "the server on %s can't be observed: %s", f.Node, l.Problem)
	case l.Phase == PhaseRewinding || l.Diverged || (l.Phase == PhaseDiverged && l.Role == RoleDown):
		return do(false, follow)
	case l.Role == RoleDown:
		return do(false, upstream, f.startStandby("start the server as a standby"), follow)
	case l.Role == RoleStarting && !l.NotReady:
		return refuse(WaitNone, "the server on %s runs but can't be asked: %s", f.Node, l.Problem)
	case l.Role == RoleStarting:
		return do(false, upstream, follow)
	case l.Upstream != f.VIPAddr.String():
		return do(false, upstream, follow)
	case !l.Streaming || !l.Agrees || l.Phase != PhaseNone:
		return do(false, follow)
	}
	return nothing("%s is a standby and streams from the VIP %s", f.Node, f.VIPAddr)
}

func (f Facts) fault() Plan {
	l := f.Local
	alone := []Step{
		{Act: ActStop, Words: fmt.Sprintf("stop %s fast: it is %s", f.Node, describe(l))},
		{Act: ActClearUpstream, Words: "stream from nowhere"},
		f.startStandby("start the server as a standby without upstream"),
	}
	switch {
	case l.Role == RolePrimary || l.Role == RoleRecovering:
		return do(false, alone...)
	case l.Promoting && (l.Role == RoleStandby || l.Role == RoleStarting):
		alone[0].Words = fmt.Sprintf("stop %s fast: a promotion may still be under way", f.Node)
		return do(false, alone...)
	case l.Role == RoleUnknown:
		return refuse(WaitNone, "the server on %s can't be observed: %s", f.Node, l.Problem)
	}
	return nothing("the server on %s is %s", f.Node, describe(l))
}

func (f Facts) startStandby(words string) Step {
	return Step{Act: ActStartStandby, Words: "write standby.signal and " + words}
}

// leads reports whether the server is a primary, or may be one in a moment.
func (l Local) leads() bool { return l.Role == RolePrimary || l.Role == RoleRecovering || l.Promoting }

func describe(l Local) string {
	switch l.Role {
	case RolePrimary:
		return "a primary, " + l.Position.String()
	case RoleStandby:
		return "a standby, " + l.Position.String()
	case RoleDown:
		return "not running"
	case RoleStarting:
		return "a standby that does not answer yet (" + l.Problem + ")"
	case RoleRecovering:
		return "no standby and does not answer (" + l.Problem + ")"
	}
	return "unknown (" + l.Problem + ")"
}
