package control

import "time"

// Quorum is the quorum extension as one node sees it.
type Quorum struct {
	Node        string     `json:"node"`
	Witness     bool       `json:"witness"`
	Cluster     string     `json:"cluster,omitempty"` // identifier; empty: not formed or joined yet
	Incarnation string     `json:"incarnation"`
	Leader      string     `json:"leader,omitempty"` // voter that leads the log; empty: none is known
	Voters      []Voter    `json:"voters"`
	Votes       int        `json:"votes"`  // in the membership
	Needed      int        `json:"needed"` // a majority
	Guard       string     `json:"guard"`  // in force: nftables, lifetime, none
	GuardError  string     `json:"guard_error,omitempty"`
	Policy      string     `json:"no_quorum_policy"`
	Lease       float64    `json:"lease_seconds"`
	Resources   []Resource `json:"resources"`
	// Rejected counts the datagrams and connections that were refused since the start, from whoever, by reason.
	Rejected map[string]uint64 `json:"rejected,omitempty"`
	Trouble  []string          `json:"trouble,omitempty"` // what an operator should know
}

// Voter is one voter of the file.
type Voter struct {
	ID          string      `json:"id"`
	Node        string      `json:"node"`
	Addresses   []string    `json:"addresses,omitempty"` // one for each link, as the file has them
	Witness     bool        `json:"witness"`
	Self        bool        `json:"self,omitempty"`
	Member      bool        `json:"member"` // it counts
	Incarnation string      `json:"incarnation,omitempty"`
	Heard       bool        `json:"heard"`
	Silent      float64     `json:"silent_seconds,omitempty"` // of Self: so long it does not vote on leases yet, after its start
	Links       []VoterLink `json:"links,omitempty"`
}

// VoterLink is one way to a voter.
type VoterLink struct {
	Local  string  `json:"local"`
	Remote string  `json:"remote"`
	Up     bool    `json:"up"`
	RTT    float64 `json:"rtt_seconds"`
	Error  string  `json:"error,omitempty"` // of sending or dialing, or why one of the two voters refuses the other
}

// Resource is one thing that has at most one master.
type Resource struct {
	Name       string     `json:"name"`
	Kind       string     `json:"kind"` // plain or postgresql
	SystemID   uint64     `json:"system_id,omitempty"`
	Epoch      uint64     `json:"epoch"` // 0: not initialized
	Phase      string     `json:"phase"` // released, electing, granted, active
	Holder     string     `json:"holder,omitempty"`
	Mine       bool       `json:"mine"`                 // granted to this run of this node
	Live       bool       `json:"live"`                 // and its lease runs
	Left       float64    `json:"lease_left_seconds"`   // while Live
	Deadline   int64      `json:"lease_deadline"`       // while Live: nanoseconds since boot, by CLOCK_BOOTTIME
	Renewals   uint64     `json:"lease_renewals"`       // of the lease here, since the start
	Parked     bool       `json:"parked,omitempty"`     // the addresses are off at the agent's wish, the lease runs on
	By         string     `json:"by,omitempty"`         // by whose word
	Timeline   uint32     `json:"timeline,omitempty"`   // granted with this epoch
	Rule       Rule       `json:"rule"`                 // who has all the data
	Ledger     []Timeline `json:"ledger,omitempty"`     // timelines ever granted
	Eligible   bool       `json:"eligible"`             // this node may be granted it
	Ineligible string     `json:"ineligible,omitempty"` // why not
	Pledged    uint64     `json:"pledged,omitempty"`    // the epoch for which this node has pledged
	Missing    string     `json:"missing,omitempty"`    // what stands between this and an active holder
	Why        string     `json:"why,omitempty"`        // of the last change
	Paused     bool       `json:"paused,omitempty"`
	SyncNum    int        `json:"sync_num,omitempty"`
	MinCopies  int        `json:"min_copies,omitempty"`
	Agent      *Agent     `json:"agent,omitempty"` // the connected agent
}

// Rule names who has every acknowledged commit: the holder of it and every node of S.
type Rule struct {
	Holder  string   `json:"holder,omitempty"`
	S       []string `json:"s"`
	Version uint64   `json:"version"`
	// Gone are those of them who are named with a state directory that they have lost since: what has their name now does not count.
	Gone []string `json:"gone,omitempty"`
}

// Timeline is one line of a resource's ledger.
type Timeline struct {
	TLI       uint32 `json:"tli"`
	Parent    uint32 `json:"parent,omitempty"`
	SwitchLSN uint64 `json:"switch_lsn,omitempty"` // 0: not used
	Epoch     uint64 `json:"epoch"`
	Node      string `json:"node"`
}

// Agent is who speaks for what stands behind a resource.
type Agent struct {
	Node     string    `json:"node"`
	SystemID uint64    `json:"system_id"`
	Version  string    `json:"version"` // of the server
	Port     int       `json:"port"`
	PID      int32     `json:"pid"`
	Since    time.Time `json:"since"`
}

// AgentHello opens the connection of an agent: while it lasts, the node may be granted the resource.
type AgentHello struct {
	Node     string `json:"node"`
	Resource string `json:"resource"`
	SystemID uint64 `json:"system_id"`
	Version  string `json:"version"`
	Port     int    `json:"port"`
	// Eligible and Reason are the agent's own verdict.
	Eligible bool   `json:"eligible"`
	Reason   string `json:"reason,omitempty"`
}

// PledgeReport is an agent's word that its server follows nobody of a lower epoch any more.
type PledgeReport struct {
	Resource string `json:"resource"`
	Epoch    uint64 `json:"epoch"`
	SystemID uint64 `json:"system_id"`
	TLI      uint32 `json:"tli"`
	LSN      uint64 `json:"lsn"`
}

// AdvanceReport is an agent's word that its server has more WAL than when it said so last, a second ago or more.
type AdvanceReport struct {
	Resource string `json:"resource"`
}

// InitRequest makes a resource of a PostgreSQL cluster, with this node's data as the truth. Once.
type InitRequest struct {
	Resource  string `json:"resource"`
	SystemID  uint64 `json:"system_id"`
	SyncNum   int    `json:"sync_num"`
	MinCopies int    `json:"min_copies"`
}

// RuleRequest replaces the rule: by the holder of Epoch alone, if the rule still has version Version. The first one of an epoch
// makes it active.
type RuleRequest struct {
	Resource  string   `json:"resource"`
	Epoch     uint64   `json:"epoch"`
	Version   uint64   `json:"version"`
	S         []string `json:"s"`
	TLI       uint32   `json:"tli"`
	SwitchLSN uint64   `json:"switch_lsn"`
	Parent    uint32   `json:"parent,omitempty"` // the timeline that TLI branched off from; 0: the last one of the ledger
}

// GiveBackRequest ends this node's epoch. Prefer may name who is to be next.
type GiveBackRequest struct {
	Resource string `json:"resource"`
	Epoch    uint64 `json:"epoch"`
	Prefer   string `json:"prefer,omitempty"`
	Reason   string `json:"reason"`
}

// AgentEvent is one line of an agent's stream: the resource, or a message of another node's agent.
type AgentEvent struct {
	Resource *Resource     `json:"resource,omitempty"`
	Message  *AgentMessage `json:"message,omitempty"`
}

// AgentMessage is what one agent tells another, by way of their vrrpds. It is delivered once or, with an error, perhaps not.
type AgentMessage struct {
	Resource string `json:"resource"`
	From     string `json:"from"` // filled in on the way
	To       string `json:"to"`   // a data node
	Text     string `json:"text"` // at most 4096 bytes
}

// ParkRequest takes the addresses of a resource that this node holds off for a planned stop, or lets them come back.
type ParkRequest struct {
	Resource string `json:"resource"`
	Epoch    uint64 `json:"epoch"`
	On       bool   `json:"on"`
}

// ReadRequest asks for a resource as the log has it behind a barrier that begins with the call.
type ReadRequest struct {
	Resource string `json:"resource"`
}

// PauseRequest stops elections of a resource, or lets them go on.
type PauseRequest struct {
	Resource string `json:"resource"`
	On       bool   `json:"on"`
	Reason   string `json:"reason,omitempty"`
}

// SetRequest changes what the log keeps of a resource's settings; nil leaves a setting as it is.
type SetRequest struct {
	Resource  string `json:"resource"`
	SyncNum   *int   `json:"sync_num,omitempty"`
	MinCopies *int   `json:"min_copies,omitempty"`
}

// MemberRequest adds or removes a voter.
type MemberRequest struct {
	ID string `json:"id"`
}
