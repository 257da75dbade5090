package record

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Boot is one run of one daemon: random, never 0. A lease ends with the run that got it.
type Boot uint64

// Member is a node together with its state directory. A node whose directory was lost keeps its name and gets another
// incarnation.
type Member struct {
	Node        string `json:"node"`
	Incarnation string `json:"incarnation"`
}

// String is the node's name.
func (m Member) String() string { return m.Node }

// Kind is what a resource stands for. It is written in the configuration file, never inferred.
type Kind string

// The kinds.
const (
	Plain      Kind = "plain"      // any data node that the rule names may hold it
	PostgreSQL Kind = "postgresql" // and only one with a connected agent
)

// Phase is how far a grant has come.
type Phase uint8

// The phases, in their order: Released → Electing → Granted → Active.
const (
	Released Phase = iota
	Electing
	Granted
	Active
)

// String is the phase's name.
func (p Phase) String() string {
	switch p {
	case Released:
		return "released"
	case Electing:
		return "electing"
	case Granted:
		return "granted"
	case Active:
		return "active"
	default:
		return fmt.Sprintf("phase %d", uint8(p))
	}
}

// MarshalText is the phase's name.
func (p Phase) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText reads what MarshalText wrote.
func (p *Phase) UnmarshalText(text []byte) error {
	for q := Released; q <= Active; q++ {
		if q.String() == string(text) {
			*p = q
			return nil
		}
	}
	return fmt.Errorf("read phase: unknown (got %q)", text)
}

// Rule says who has the data: Holder and every member of S have every acknowledged commit, at all times. For a plain
// resource it says who may be granted it.
type Rule struct {
	Holder Member   `json:"holder"`
	S      []Member `json:"s"` // without Holder
}

// Has reports whether m may be granted the next epoch.
func (r Rule) Has(m Member) bool {
	return m.Node != "" && (r.Holder == m || slices.Contains(r.S, m))
}

// Members are Holder and S; a rule of a plain resource that nobody has held yet has no holder.
func (r Rule) Members() []Member {
	all := make([]Member, 0, 1+len(r.S))
	if r.Holder.Node != "" {
		all = append(all, r.Holder)
	}
	return append(all, r.S...)
}

// String is "{n1; n2, n3}".
func (r Rule) String() string {
	var b strings.Builder
	b.WriteString("{" + r.Holder.Node + ";")
	for k, m := range r.S {
		if k > 0 {
			b.WriteString(",")
		}
		b.WriteString(" " + m.Node)
	}
	b.WriteString("}")
	return b.String()
}

// Timeline is one line of the ledger: a granted number is never granted again.
type Timeline struct {
	TLI       uint32 `json:"tli"`
	Parent    uint32 `json:"parent"`
	SwitchLSN uint64 `json:"switch_lsn"` // 0: granted, not used yet or never
	Epoch     uint64 `json:"epoch"`
	Node      string `json:"node"`
}

// Resource is one thing that has at most one master: a PostgreSQL cluster, or the instances that name it.
type Resource struct {
	Name       string        `json:"name"`
	Index      uint64        `json:"index"` // of the entry of the log that made it so
	Kind       Kind          `json:"kind"`
	SystemID   uint64        `json:"system_id,omitempty"` // of the PostgreSQL cluster
	Epoch      uint64        `json:"epoch"`               // fencing token, only grows; 0: not initialized
	Phase      Phase         `json:"phase"`
	Holder     Member        `json:"holder"` // of Granted and Active
	HolderBoot Boot          `json:"holder_boot"`
	Hold       time.Duration `json:"hold"`          // for how long a renewal may have effect at the holder, counted from its sending
	TLI        uint32        `json:"tli,omitempty"` // the timeline granted in this epoch
	Rule       Rule          `json:"rule"`          // the last that can have acknowledged anything
	RuleVer    uint64        `json:"rule_ver"`
	Ledger     []Timeline    `json:"ledger,omitempty"`
	Prefer     string        `json:"prefer,omitempty"` // whom the last Release wants to be next
	Why        string        `json:"why,omitempty"`    // of the last change of phase
	Paused     bool          `json:"paused,omitempty"`
	SyncNum    int           `json:"sync_num,omitempty"`
	MinCopies  int           `json:"min_copies,omitempty"`
}

// Holds reports whether the record names this run of this node as the holder.
func (r *Resource) Holds(node string, boot Boot) bool {
	return (r.Phase == Granted || r.Phase == Active) && r.Holder.Node == node && r.HolderBoot == boot
}

// LastTimeline is the highest number in the ledger; 0 if it is empty.
func (r *Resource) LastTimeline() uint32 {
	last := uint32(0)
	for _, t := range r.Ledger {
		last = max(last, t.TLI)
	}
	return last
}

func (r *Resource) clone() *Resource {
	c := *r
	c.Rule.S = slices.Clone(r.Rule.S)
	c.Ledger = slices.Clone(r.Ledger)
	return &c
}

// State is everything that the log holds. The zero value is empty. A *Resource in it is never changed: Apply replaces it,
// so that readers may keep one.
type State struct {
	Resources map[string]*Resource `json:"resources"`
}

// Get is the resource's record; nil if there is none.
func (s *State) Get(name string) *Resource { return s.Resources[name] }

// Encode is s for a snapshot.
func (s *State) Encode() ([]byte, error) {
	b, err := json.Marshal(s)
	if err != nil {
		return nil, fmt.Errorf("encode the state of the log: %w", err)
	}
	return b, nil
}

// Decode reads what Encode wrote.
func Decode(b []byte) (*State, error) {
	s := &State{}
	if err := json.Unmarshal(b, s); err != nil {
		return nil, fmt.Errorf("decode the state of the log: %w", err)
	}
	for name, r := range s.Resources {
		if r == nil || r.Name != name {
			return nil, fmt.Errorf("decode the state of the log: resource %q is damaged", name)
		}
	}
	return s, nil
}
