package control

import "time"

// DefaultSocket is where vrrpd listens and its clients look.
const DefaultSocket = "/run/vrrpd/control.sock"

// Status is everything that vrrpd knows about itself at one moment.
type Status struct {
	Node        string     `json:"node"`
	Version     string     `json:"version"`
	PID         int        `json:"pid"`
	Started     time.Time  `json:"started"`
	Starting    bool       `json:"starting,omitempty"` // the startup script or the first configuration is under way
	ConfigFile  string     `json:"config_file"`
	ConfigError string     `json:"config_error,omitempty"` // why the last reload was refused
	Instances   []Instance `json:"instances"`
	Groups      []Group    `json:"sync_groups,omitempty"`
	Scripts     []Script   `json:"scripts,omitempty"`
	Announced   Announced  `json:"announced"`
	Reloads     Reloads    `json:"reloads"`
	Links       []Link     `json:"links,omitempty"`
	Quorum      *Quorum    `json:"quorum,omitempty"`
}

// The states as keepalived names them at its edge. INIT is before the first transition.
const (
	StateInit    = "INIT"
	StateBackup  = "BACKUP"
	StateMaster  = "MASTER"
	StateFault   = "FAULT"
	StateStop    = "STOP"
	StateDeleted = "DELETED"
)

// Instance is one vrrp_instance.
type Instance struct {
	Name               string       `json:"name"`
	State              string       `json:"state"`
	Seq                uint64       `json:"seq"` // number of its last transition, counted from 1 per run of vrrpd
	Since              time.Time    `json:"since"`
	Reason             string       `json:"reason,omitempty"`
	Interface          string       `json:"interface"`
	VRID               uint8        `json:"virtual_router_id"`
	Version            uint8        `json:"vrrp_version"`
	Family             string       `json:"family"` // IPv4 or IPv6
	Source             string       `json:"source,omitempty"`
	Priority           uint8        `json:"priority"` // effective
	ConfiguredPriority uint8        `json:"configured_priority"`
	AdvertInterval     float64      `json:"advert_interval_seconds"`
	Preempt            bool         `json:"preempt"`
	VMAC               string       `json:"vmac,omitempty"`            // interface with the virtual MAC address
	NoAccept           bool         `json:"no_accept,omitempty"`       // packets to the addresses are dropped
	Master             string       `json:"master,omitempty"`          // address of the master last heard, while we are BACKUP
	Resource           string       `json:"quorum_resource,omitempty"` // whose grant it needs
	Waiting            string       `json:"waiting,omitempty"`         // what a MASTER without addresses, or an INIT, waits for
	HeldUntil          *time.Time   `json:"held_until,omitempty"`
	Addresses          []Address    `json:"addresses"`
	Routes             []Route      `json:"routes,omitempty"` // virtual_routes and virtual_rules
	Peers              []Peer       `json:"peers"`
	Trackers           []Tracker    `json:"trackers,omitempty"`
	Troubles           []Trouble    `json:"troubles,omitempty"` // what is wrong on the wire, those of now first
	LastHook           *Hook        `json:"last_hook,omitempty"`
	Hooks              HookCounters `json:"hooks"`
	Transitions        []Transition `json:"transitions"` // newest last, at most 16
	Counters           Counters     `json:"counters"`
}

// Group is one vrrp_sync_group.
type Group struct {
	Name     string       `json:"name"`
	State    string       `json:"state"` // FAULT if any member is there, MASTER if all are, INIT if any is, else BACKUP
	Since    time.Time    `json:"since"`
	Members  []string     `json:"members"`
	LastHook *Hook        `json:"last_hook,omitempty"`
	Hooks    HookCounters `json:"hooks"`
}

// Address is one virtual address and whether we hold it.
type Address struct {
	Address   string `json:"address"` // with prefix length
	Interface string `json:"interface"`
	Held      bool   `json:"held"`
}

// Route is one virtual route or rule and whether the kernel holds it for us.
type Route struct {
	Route string `json:"route"` // in the words of ip-route(8), or of ip-rule(8) with "rule" before them
	Held  bool   `json:"held"`
}

// Peer is a router of the same VRID that was heard or is configured as a unicast peer.
type Peer struct {
	Address  string    `json:"address"`
	Priority uint8     `json:"priority"`
	Interval float64   `json:"advert_interval_seconds"`
	Heard    time.Time `json:"heard,omitzero"` // zero: never
	Warning  string    `json:"warning,omitempty"`
}

// The kinds of Trouble.
const (
	TroubleClash        = "vrid_clash"        // another group uses our VRID for other addresses
	TroubleInterval     = "advert_interval"   // another advert_int
	TroubleVersion      = "version"           // another version of VRRP
	TroubleChecksumForm = "checksum_form"     // version 3 on IPv4: with the pseudo header or without
	TroubleChecksum     = "checksum"          // wrong in every form
	TroubleAuth         = "authentication"    // another password, key or kind of authentication
	TroubleClock        = "clock"             // auth_hmac: the clocks drift apart
	TroubleAddresses    = "addresses"         // another list of virtual addresses
	TroublePriority     = "same_priority"     // the priority of another router is ours
	TroubleSecondOwner  = "second_owner"      // two routers say that they own the addresses
	TroubleDuplicate    = "duplicate_address" // somebody else claims a virtual address that we hold
	TroubleOwnAddress   = "own_address"       // somebody else sends from our address, or the network loops it back
	TroubleTTL          = "ttl"               // routed, or forged
	TroublePeer         = "unicast_peer"      // a sender that is not in unicast_peer
	TroubleDestination  = "destination"       // unicast where we use multicast, the other way round, or another group
	TroubleFamily       = "family"            // the other address family
	TroubleMalformed    = "malformed"         // no advert at all
	TroubleNeverHeard   = "never_heard"       // no other router was ever heard: a notice
)

// Trouble is something wrong on the wire, with the setting that mends it.
type Trouble struct {
	Kind    string    `json:"kind"`
	Now     bool      `json:"now"`              // it still goes on
	Notice  bool      `json:"notice,omitempty"` // it may well be as it should
	Setting string    `json:"setting"`          // the keyword to look at
	Peer    string    `json:"peer,omitempty"`   // who was the last
	Count   uint64    `json:"count"`            // packets
	First   time.Time `json:"first"`
	Last    time.Time `json:"last"`
	Text    string    `json:"text"` // what was seen, and what to do
}

// Tracker is one thing that may change the priority or forbid taking part.
type Tracker struct {
	Kind   string `json:"kind"` // interface, script, file, process
	Name   string `json:"name"`
	State  string `json:"state"` // ok, failed, unknown
	Weight int    `json:"weight"`
	Reason string `json:"reason,omitempty"`
}

// Hook is the result of one notify program.
type Hook struct {
	State      string    `json:"state"`
	Seq        uint64    `json:"seq"`
	At         time.Time `json:"at"`
	Duration   float64   `json:"duration_seconds"`
	Code       int       `json:"exit_code"`
	Error      string    `json:"error,omitempty"`
	Superseded bool      `json:"superseded,omitempty"`
}

// HookCounters count the states for which notify programs were to run.
type HookCounters struct {
	Succeeded  uint64  `json:"succeeded"` // every program exited with 0
	Failed     uint64  `json:"failed"`
	Superseded uint64  `json:"superseded"`    // a newer state came first
	Seconds    float64 `json:"total_seconds"` // that programs took
}

// Transition is one change of state with its reason.
type Transition struct {
	Seq      uint64    `json:"seq"`
	At       time.Time `json:"at"`
	From     string    `json:"from"`
	To       string    `json:"to"`
	Priority uint8     `json:"priority"`
	Reason   string    `json:"reason"`
}

// Counters count since the start of vrrpd.
type Counters struct {
	AdvertsSent          uint64            `json:"adverts_sent"`
	AdvertsReceived      uint64            `json:"adverts_received"`
	SendErrors           uint64            `json:"send_errors"`
	Overruns             uint64            `json:"overruns"` // adverts dropped because the instance was busy
	BecameMaster         uint64            `json:"became_master"`
	LeftMaster           uint64            `json:"left_master"`
	AddressesPutBack     uint64            `json:"addresses_put_back"`
	RoutesPutBack        uint64            `json:"routes_put_back,omitempty"`
	PriorityZeroSent     uint64            `json:"priority_zero_sent"`
	AddressMismatches    uint64            `json:"address_list_mismatches"` // adverts taken with another list of addresses than ours
	PriorityZeroReceived uint64            `json:"priority_zero_received"`
	Rejected             map[string]uint64 `json:"rejected,omitempty"` // by reason
}

// Script is one vrrp_script.
type Script struct {
	Name     string  `json:"name"`
	State    string  `json:"state"` // ok, failed, unknown
	Reason   string  `json:"reason,omitempty"`
	Code     int     `json:"exit_code"`
	Duration float64 `json:"duration_seconds"`
	Runs     uint64  `json:"runs"`
	Failures uint64  `json:"failures"`
	Longest  float64 `json:"max_duration_seconds"`
}

// Announced counts what told the LAN of addresses, since the start.
type Announced struct {
	ARP    uint64 `json:"arp"`
	NA     uint64 `json:"na"`
	Failed uint64 `json:"failed"` // not sent
}

// Reloads counts since the start.
type Reloads struct {
	Done    uint64    `json:"done"`
	Refused uint64    `json:"refused"`
	Last    time.Time `json:"last"` // when the configuration that runs was put in force
}

// Link counts packets of one interface that belong to no instance.
type Link struct {
	Name     string            `json:"name"`
	Up       bool              `json:"up"`
	Rejected map[string]uint64 `json:"rejected,omitempty"`
}

// Event is one line of the event stream.
type Event struct {
	Instance string `json:"instance"`
	Transition
}

// ReleaseRequest asks for an instance's mastership to be given away.
type ReleaseRequest struct {
	Instance string        `json:"instance"`
	Hold     time.Duration `json:"hold_nanoseconds"` // keep off it for so long; 0 ends a running hold
	// Ask gives nothing away: the answer says whether the caller may.
	Ask bool `json:"ask,omitempty"`
}

// errorBody is what every refused or failed call answers.
type errorBody struct {
	Error string `json:"error"`
}
