package record

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"time"
)

// Op is what a command does.
type Op string

// The commands. Each names what it expects to find; if that isn't so, nothing happens and Apply returns a *Conflict.
const (
	// Init makes a resource: Epoch 1, Released, with Rule. Once.
	Init Op = "init"
	// Begin opens the election of Epoch, after Epoch-1 ended for Cause.
	Begin Op = "begin"
	// Grant gives Epoch to Member in its run Boot. For PostgreSQL it reserves timeline TLI for ever. It does not touch Rule.
	Grant Op = "grant"
	// SetRule replaces the rule: by the holder of Epoch alone, if it still has version Ver. The first one of an epoch makes
	// it Active.
	SetRule Op = "set-rule"
	// Release ends Epoch: by its holder alone, which has nothing of it running any more. Prefer may name who is to be next.
	Release Op = "release"
	// Pause and Resume stop and let go elections.
	Pause  Op = "pause"
	Resume Op = "resume"
	// Override lets Member be the only one who may be granted the next epoch, by an operator's word that Why repeats.
	Override Op = "override"
	// Set changes SyncNum and MinCopies.
	Set Op = "set"
)

// Cause is why an epoch ended.
type Cause string

// The causes.
const (
	BySeals   Cause = "seals"    // a majority of voters promised to renew it no more
	ByRelease Cause = "released" // its holder gave it up
)

// Command is one entry of the log. Which fields count depends on Op.
type Command struct {
	Op        Op            `json:"op"`
	Resource  string        `json:"resource"`
	Epoch     uint64        `json:"epoch,omitempty"`
	Member    Member        `json:"member,omitzero"` // Grant: the winner; SetRule, Release: the sender
	Boot      Boot          `json:"boot,omitempty"`  // Grant, SetRule: the run that holds it
	Hold      time.Duration `json:"hold,omitempty"`  // Grant: for how long after its sending a renewal may have effect at the winner
	Cause     Cause         `json:"cause,omitempty"`
	Kind      Kind          `json:"kind,omitempty"`
	SystemID  uint64        `json:"system_id,omitempty"`
	Rule      Rule          `json:"rule,omitzero"` // Init
	Ver       uint64        `json:"ver,omitempty"`
	S         []Member      `json:"s,omitempty"`
	TLI       uint32        `json:"tli,omitempty"`
	SwitchLSN uint64        `json:"switch_lsn,omitempty"`
	Parent    uint32        `json:"parent,omitempty"` // SetRule: the timeline that TLI left at SwitchLSN; 0: the last one of the ledger
	Prefer    string        `json:"prefer,omitempty"`
	Why       string        `json:"why,omitempty"` // for people
	SyncNum   int           `json:"sync_num,omitempty"`
	MinCopies int           `json:"min_copies,omitempty"`
}

// String is the command in a line of a log file or a failed test.
func (c Command) String() string {
	switch c.Op {
	case Begin:
		return fmt.Sprintf("begin %s epoch %d (%s)", c.Resource, c.Epoch, c.Cause)
	case Grant:
		return fmt.Sprintf("grant %s epoch %d to %s", c.Resource, c.Epoch, c.Member)
	case SetRule:
		return fmt.Sprintf("set the rule of %s epoch %d version %d to %v", c.Resource, c.Epoch, c.Ver+1, Rule{c.Member, c.S})
	case Release:
		return fmt.Sprintf("release %s epoch %d by %s", c.Resource, c.Epoch, c.Member)
	default:
		return fmt.Sprintf("%s %s", c.Op, c.Resource)
	}
}

// Encode is c as an entry of the log.
func (c Command) Encode() ([]byte, error) {
	b, err := json.Marshal(c)
	if err != nil {
		return nil, fmt.Errorf("encode command: %w", err)
	}
	return b, nil
}

// DecodeCommand reads what Encode wrote.
func DecodeCommand(b []byte) (Command, error) {
	var c Command
	if err := json.Unmarshal(b, &c); err != nil {
		return Command{}, fmt.Errorf("decode command: %w", err)
	}
	return c, nil
}

// Conflict says that a command expected something else than what is.
type Conflict struct {
	Command Command
	Reason  string
}

// Error names the command and what stands against it.
func (c *Conflict) Error() string { return fmt.Sprintf("%v: %s", c.Command, c.Reason) }

// Apply carries out c, the entry of the log at index, if what it expects is so; else the state stays and the error is a *Conflict.
// Every voter comes to the same state from the same entries.
func (s *State) Apply(index uint64, c Command) error {
	old := s.Resources[c.Resource]
	no := func(format string, args ...any) error {
		return &Conflict{Command: c, Reason: fmt.Sprintf(format, args...)}
	}
	if c.Op == Init {
		return s.init(index, c, old, no)
	}
	if old == nil {
		return no("no such resource yet")
	}
	r := old.clone()
	switch c.Op {
	case Begin:
		switch {
		case c.Epoch != r.Epoch+1:
			return no("the epoch is %d", r.Epoch)
		case r.Paused:
			return no("paused")
		case c.Cause == ByRelease && r.Phase != Released:
			return no("epoch %d is %v, not released", r.Epoch, r.Phase)
		case c.Cause != ByRelease && c.Cause != BySeals:
			return no("unknown cause %q", c.Cause)
		}
		r.Epoch, r.Phase, r.Holder, r.HolderBoot, r.TLI, r.Why = c.Epoch, Electing, Member{}, 0, 0, c.Why
	case Grant:
		switch {
		case c.Epoch != r.Epoch:
			return no("the epoch is %d", r.Epoch)
		case r.Phase != Electing:
			return no("it is %v already", r.Phase)
		case r.Paused:
			return no("paused")
		case c.Boot == 0 || c.Hold <= 0:
			return no("the run of %s or its hold is not named", c.Member)
		case !r.Rule.Has(c.Member):
			return no("%s is not in the rule %v with this state directory", c.Member, r.Rule)
		case r.Kind == PostgreSQL && c.TLI == 0:
			return no("a grant for PostgreSQL reserves a timeline")
		case c.TLI != 0 && c.TLI <= r.LastTimeline():
			return no("timeline %d is not above %d, the last one granted", c.TLI, r.LastTimeline())
		}
		r.Phase, r.Holder, r.HolderBoot, r.Hold, r.TLI, r.Prefer, r.Why = Granted, c.Member, c.Boot, c.Hold, c.TLI, "", c.Why
		if c.TLI != 0 {
			r.Ledger = append(r.Ledger, Timeline{TLI: c.TLI, Epoch: c.Epoch, Node: c.Member.Node})
		}
	case SetRule:
		if err := setRule(r, c, no); err != nil {
			return err
		}
	case Release:
		switch {
		case c.Epoch != r.Epoch:
			return no("the epoch is %d", r.Epoch)
		case r.Phase != Granted && r.Phase != Active:
			return no("it is %v", r.Phase)
		case c.Member.Node != r.Holder.Node:
			return no("%s holds it", r.Holder)
		}
		r.Phase, r.Prefer, r.Why = Released, c.Prefer, c.Why
	case Pause, Resume:
		r.Paused = c.Op == Pause
	case Override:
		if c.Epoch != r.Epoch {
			return no("the epoch is %d", r.Epoch)
		}
		r.Epoch, r.Phase, r.Holder, r.HolderBoot, r.TLI, r.Prefer, r.Why = r.Epoch+1, Released, Member{}, 0, 0, "", c.Why
		r.Rule, r.RuleVer, r.Paused = Rule{Holder: c.Member}, r.RuleVer+1, false
	case Set:
		if err := copies(c, no); err != nil {
			return err
		}
		r.SyncNum, r.MinCopies = c.SyncNum, c.MinCopies
	default:
		return no("unknown command")
	}
	r.Index = index
	s.Resources[c.Resource] = r
	return nil
}

func (s *State) init(index uint64, c Command, old *Resource, no func(string, ...any) error) error {
	switch {
	case old != nil:
		return no("it is initialized already, with epoch %d", old.Epoch)
	case c.Resource == "":
		return no("a resource needs a name")
	case c.Kind != Plain && c.Kind != PostgreSQL:
		return no("unknown kind %q", c.Kind)
	case len(c.Rule.Members()) == 0:
		return no("nobody would ever be eligible")
	case c.Kind == PostgreSQL && (c.SystemID == 0 || c.Rule.Holder.Node == "" || len(c.Rule.S) > 0):
		return no("a PostgreSQL cluster begins with its system identifier and the one node whose data is the truth")
	}
	if err := copies(c, no); err != nil {
		return err
	}
	if s.Resources == nil {
		s.Resources = map[string]*Resource{}
	}
	s.Resources[c.Resource] = &Resource{
		Name: c.Resource, Index: index, Kind: c.Kind, SystemID: c.SystemID, Epoch: 1, Phase: Released, Rule: Rule{c.Rule.Holder, slices.Clone(c.Rule.S)},
		RuleVer: 1, Why: c.Why, SyncNum: c.SyncNum, MinCopies: c.MinCopies,
	}
	return nil
}

// copies refuses settings with which no commit would ever be acknowledged: the rule names no more than sync_num standbys and the holder.
func copies(c Command, no func(string, ...any) error) error {
	if c.SyncNum < 0 || c.MinCopies < 0 {
		return no("sync_num and min_copies must not be negative")
	}
	// As the agents read them: 0 counts as 2 and 1.
	sync, least := cmp.Or(c.SyncNum, 2), cmp.Or(c.MinCopies, 1)
	if least > sync+1 {
		return no("with sync_num %d a commit has at most %d copies, and min_copies %d would have each one wait for ever: want min_copies of at most sync_num + 1", sync, sync+1, least)
	}
	return nil
}

func setRule(r *Resource, c Command, no func(string, ...any) error) error {
	switch {
	case c.Epoch != r.Epoch:
		return no("the epoch is %d", r.Epoch)
	case r.Phase != Granted && r.Phase != Active:
		return no("it is %v", r.Phase)
	case c.Member != r.Holder || c.Boot != r.HolderBoot:
		return no("%s holds it, in another run or with another state directory", r.Holder)
	case c.Ver != r.RuleVer:
		return no("the rule has version %d", r.RuleVer)
	case slices.ContainsFunc(c.S, func(m Member) bool { return m.Node == c.Member.Node || m.Node == "" }):
		return no("the synchronous set must name other nodes than the holder")
	case twice(c.S):
		return no("the synchronous set names a node twice")
	}
	if r.Phase == Granted && r.TLI != 0 {
		if err := recordSwitch(r, c, no); err != nil {
			return err
		}
	}
	r.Rule = Rule{Holder: c.Member, S: slices.Clone(c.S)}
	r.RuleVer++
	r.Phase = Active
	if c.Why != "" {
		r.Why = c.Why
	}
	return nil
}

func twice(s []Member) bool {
	for k, m := range s {
		if slices.ContainsFunc(s[:k], func(o Member) bool { return o.Node == m.Node }) {
			return true
		}
	}
	return false
}

// recordSwitch writes where the reserved timeline branched off. A holder that was Rule.Holder and whose PostgreSQL never
// stopped goes on with the timeline that it has: the last one of the ledger that was used, or one older than the ledger.
func recordSwitch(r *Resource, c Command, no func(string, ...any) error) error {
	k := len(r.Ledger) - 1
	used := uint32(0)
	for _, t := range r.Ledger[:k] {
		if t.SwitchLSN != 0 {
			used = t.TLI
		}
	}
	switch {
	case c.TLI == r.TLI && c.SwitchLSN == 0:
		return no("where timeline %d begins is not named", c.TLI) // it would look like one that was never used
	case c.TLI == r.TLI:
		r.Ledger[k].SwitchLSN, r.Ledger[k].Parent = c.SwitchLSN, used
		if c.Parent != 0 {
			r.Ledger[k].Parent = c.Parent // the ledger knows none of the timelines before init
		}
	case c.Member == r.Rule.Holder && c.TLI != 0 && (c.TLI == used || used == 0 && c.TLI < r.Ledger[0].TLI):
		r.TLI = c.TLI // the one that was granted stays in the ledger: nobody gets it again
	default:
		return no("timeline %d was granted, not %d", r.TLI, c.TLI)
	}
	return nil
}
