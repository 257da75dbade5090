package conf

import (
	"net/netip"
	"time"
)

// Pos is a place in a configuration file; lines and columns count from 1.
type Pos struct {
	File      string
	Line, Col int
}

// Config is a whole configuration, typed, validated and with every default filled in.
type Config struct {
	File       string
	Extended   bool // a keyword of ours occurs: then every error is "cannot run"
	Globals    Globals
	Scripts    []Script
	SyncGroups []SyncGroup
	Instances  []Instance
	Quorum     *Quorum // nil: none
}

// Globals is global_defs.
type Globals struct {
	RouterID             string // "" : the host name
	DefaultInterface     string
	DynamicInterfaces    bool
	AllowInterfaceChange bool // dynamic_interfaces allow_if_changes
	ScriptUser           User // zero: the account keepalived_script if there is one, else the daemon's own user
	EnableScriptSecurity bool
	StartupDelay         time.Duration // vrrp_startup_delay
	LogUnknownVRIDs      bool
	RealTimePriority     int // vrrp_rt_priority, 0 = off
	NoSwap               bool
}

// User is who a program runs as; an empty Group is the user's own. The zero value means that nothing was said, not even
// by script_user: see Globals.ScriptUser.
type User struct{ Name, Group string }

// Command is a program to run: argv already split the way keepalived does it.
type Command struct {
	Pos
	Argv []string // empty: no command
	User User
}

// Script is one vrrp_script.
type Script struct {
	Pos
	Name       string
	Command    Command
	Interval   time.Duration
	Timeout    time.Duration
	Rise, Fall int
	Weight     int // 0: failure means Fault; -253 to 253
	Reverse    bool
	InitFail   bool
}

// Tracked is one line of track_interface or track_script.
type Tracked struct {
	Pos
	Name    string
	Weight  int // -253 to 253, 0 = Fault
	Reverse bool
	// Undefined: nothing can ever report on this, so that it counts as failed. Name has no vrrp_script (or one that is
	// unusable), or stands for a kind of tracking that is not supported ("track_file NAME").
	Undefined bool
}

// Peer is one line of unicast_peer.
type Peer struct {
	Pos
	Addr           netip.Addr
	MinTTL, MaxTTL int // -1: not checked
}

// Address is one line of virtual_ipaddress or virtual_ipaddress_excluded.
type Address struct {
	Pos
	Prefix                                                    netip.Prefix // with the host part kept, not masked
	Interface                                                 string       // dev, default the instance's interface
	Label                                                     string
	Scope                                                     uint8 // rtnetlink scope; 0 global
	Broadcast                                                 netip.Addr
	Peer                                                      netip.Prefix
	PreferredLft                                              int // seconds; -1 for ever; -2 not given (then an IPv6 /128 is added deprecated)
	Home, NoDAD, MngTmpAddr, NoPrefixRoute, AutoJoin, NoTrack bool
}

// Garp is the announcement timing of an instance.
type Garp struct {
	MasterDelay         time.Duration // second batch after this; 0 none; default 5 s
	MasterRepeat        int           // default 5
	MasterRefresh       time.Duration // 0 never
	MasterRefreshRepeat int           // default 1
	LowerPrioDelay      time.Duration // default MasterDelay
	LowerPrioRepeat     int           // default MasterRepeat
	Interval            time.Duration // between two GARP packets, 0 none
	GNAInterval         time.Duration // between two NA packets, 0 none
}

// Hooks are an instance's notify programs.
type Hooks struct {
	Notify, Master, Backup, Fault, Stop, Deleted, MasterRxLowerPri Command

	// SendDeleted: notify_deleted was given, so that removal by a reload is told as DELETED, not FAULT.
	SendDeleted bool
}

// Instance is one vrrp_instance.
type Instance struct {
	Pos
	Name                                    string
	StartMaster                             bool // state MASTER (a hint: it only clears nopreempt and preempt_delay)
	NoAddresses                             bool // no_virtual_ipaddress: having none is intended
	Interface                               string
	VRID                                    uint8
	Version                                 uint8 // 2 or 3
	IPv6                                    bool  // the family of the adverts
	Priority                                uint8
	AdvertInterval                          time.Duration
	DownTimerAdverts                        int
	Preempt                                 bool
	PreemptDelay                            time.Duration
	HigherPrioSendAdvert, LowerPrioNoAdvert bool

	Source           netip.Addr // mcast_src_ip or unicast_src_ip; zero: the interface's primary address
	TrackSource      bool
	Group            netip.Addr // multicast destination
	Unicast          bool
	Peers            []Peer
	UnicastTTL       int
	CheckUnicastSrc  bool
	FaultNoPeer      bool
	ChecksumPlain    bool // v3_checksum_as_v2
	SkipCheckAdvAddr bool
	DontTrackPrimary bool
	Password         string // auth_pass of auth_type PASS, at most 8 bytes; version 2
	HasPassword      bool

	Addresses []Address
	Excluded  []Address
	Garp      Garp
	Hooks     Hooks

	TrackInterfaces []Tracked
	TrackScripts    []Tracked

	// our extensions
	VIPAfterNotify time.Duration // 0: off; default 0, but 30 s with a resource of kind postgresql
	NotifyRetry    time.Duration // default 10 s
	VIPLifetime    time.Duration // kernel lifetime of the VIPs, renewed; 0 for ever; default 0, but 2 s with Quorum
	Quorum         string        // the resource that mastership needs a grant for; "" none
}

// SyncGroup is one vrrp_sync_group: parsed and checked, but its instances do not move together yet.
type SyncGroup struct {
	Pos
	Name    string
	Members []string
	Hooks   Hooks
}

// Quorum is the quorum block.
type Quorum struct {
	Pos
	Node              string        // which voter this host is; "": the one of the host's name, see Self
	KeyFile, StateDir string        // absolute; default /etc/vrrpd/quorum.key and /var/lib/vrrpd
	Port              int           // TCP and UDP, 1 to 65534, default 3741; a second vote uses Port+1
	Voters            []Voter       // voter and witness lines, in their order
	Resources         []Resource    // in their order
	AgentUser         string        // who may speak for PostgreSQL on the control socket; default postgres
	Lease             time.Duration // 0.1 to 10 s, default 0.4 s
	Policy            string        // no_quorum_policy: freeze, stop, ignore or suicide; default freeze
	RebootCommand     Command       // what suicide runs; empty Argv: none; without a user it is root's
	Guard             string        // nftables, lifetime or none; default nftables
	GuardPort         int           // 1 to 65535; 0: none
}

// Voter is a voter or witness line of the quorum block.
type Voter struct {
	Pos
	Name    string       // at most 63 letters, digits, . _ - ; unique, also without regard to case
	Addrs   []netip.Addr // at least one; each is a link of its own
	Witness bool         // it votes and holds nothing
	Votes   int          // 1, or 2 of a witness
}

// Kinds of a Resource.
const (
	KindPostgreSQL = "postgresql" // needs a connected agent
	KindPlain      = "plain"      // any data node may hold it
)

// Resource is a resource line of the quorum block.
type Resource struct {
	Pos
	Name, Kind string
}

// Values of Quorum.Policy: what a holder does that has lost its majority.
const (
	PolicyFreeze  = "freeze"
	PolicyStop    = "stop"
	PolicyIgnore  = "ignore"
	PolicySuicide = "suicide"
)

// Values of Quorum.Guard: what keeps the VIPs shut when the lease has lapsed.
const (
	GuardNFTables = "nftables"
	GuardLifetime = "lifetime"
	GuardNone     = "none"
)

// Severity of a Diagnostic. Exit codes of check: Fatal 4, Error 5, Security 6; Lint counts only with --strict.
type Severity uint8

// The severities.
const (
	Lint Severity = iota
	Error
	Security
	Fatal
)

// Diagnostic is one finding about a configuration file.
type Diagnostic struct {
	Pos
	Severity Severity
	Keyword  string // the keyword concerned, "" for the lexer's findings
	Message  string // problem, expected …; consequence
	Got      string // what stood there, "" if nothing did
}
