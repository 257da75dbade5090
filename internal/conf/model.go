package conf

import (
	"fmt"
	"net/netip"
	"strings"
	"time"
)

// Pos is a place in a configuration file; lines and columns count from 1.
type Pos struct {
	File      string
	Line, Col int
}

// Config is a whole configuration, typed, validated and with every default filled in.
type Config struct {
	File           string
	Extended       bool // a keyword of ours occurs: then every error is "cannot run"
	Globals        Globals
	Scripts        []Script
	TrackFiles     []TrackFile
	TrackProcesses []TrackProcess
	GarpGroups     []GarpGroup
	LinkDelays     []LinkDelay
	SyncGroups     []SyncGroup
	Instances      []Instance
	Quorum         *Quorum // nil: none
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
	DelayAfterBoot       time.Duration // vrrp_delay_after_boot: no instance starts earlier after the boot; the longer of the two counts
	LogUnknownVRIDs      bool
	ReloadCheckConfig    bool   // an error that runs already refuses a reload, too
	NetNamespace         string // net_namespace; "": the one that we are started in
	InstanceName         string // instance; "" none

	RealTimePriority     int           // vrrp_rt_priority, 1 to 99; 0 = off
	RealTimeLimit        time.Duration // vrrp_rlimit_rttime, default 10 ms
	MaxAutoPriority      int           // max_auto_priority, 0 to 99; 0 = off
	MinAutoPriorityDelay time.Duration // default 1 s
	ProcessPriority      int           // vrrp_priority, -20 to 19; 0 = as started
	NoSwap               bool
	CPUAffinity          []int // vrrp_cpu_affinity; empty: all

	StartupScript, ShutdownScript   Command
	StartupTimeout, ShutdownTimeout time.Duration // 1 to 1000 s, default 10 s
	NotifyFIFO, VRRPNotifyFIFO      FIFO          // both get every line
	FIFOStatesOnReload              bool          // fifo_write_vrrp_states_on_reload

	Umask                                      int    // of the dump files; -1: not given, then they are 0640
	StateDumpFile, StatsDumpFile, JSONDumpFile string // "": keepalived.data, .stats and .json in the run directory, and not in /tmp as keepalived's
	JSONVersion                                int    // 1 or 2
	DataUseInstance                            bool   // InstanceName is part of the name of the file of StateDumpFile
	VMACPrefix, VMACAddrPrefix                 string // default vrrp
}

// FIFO is a named pipe that gets a line for each change of state.
type FIFO struct {
	Pos
	Path   string  // "": none
	User   User    // whose it is; as a program's
	Script Command // started with Path as a further argument, to read it; empty Argv: none
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

// TrackFile is one track_file: a file with one whole number, whose value times the weight is added to the priority.
type TrackFile struct {
	Pos
	Name    string
	Path    string
	Weight  int // -254 to 254, default 1; 0: another content than 0 means Fault
	Reverse bool
	// Init: the file is made with InitValue at the start if it doesn't exist, and with Overwrite in any case.
	Init, Overwrite bool
	InitValue       int
	// MissingFails (ours, "missing fail"): a file that is missing, empty or unreadable has failed. Otherwise its value is 0.
	MissingFails bool
}

// Values of TrackProcess.Match: how the parameters of a process are compared with those wanted.
const (
	MatchName    = ""        // by the name alone
	MatchExact   = "exact"   // all alike
	MatchInitial = "initial" // the last one may be longer than wanted
	MatchPartial = "partial" // further ones may follow
)

// TrackProcess is one vrrp_track_process: it is up while Quorum to QuorumMax such processes run.
type TrackProcess struct {
	Pos
	Name                      string
	Process                   []string // the name, then the parameters
	Match                     string
	FullCommand               bool // the name is that of the command line, /proc/PID/cmdline, and not that of /proc/PID/comm
	Weight                    int  // -254 to 254, default 0: Fault
	Reverse                   bool
	Quorum                    int           // 0 (QuorumMax 0) to 65535, default 1
	QuorumMax                 int           // 0 to 65535; -1: no limit
	ForkDelay, TerminateDelay time.Duration // before it counts as up or down, 0 to 3600 s
}

// Tracked is one line of track_interface, track_script, track_file or track_process.
type Tracked struct {
	Pos
	Name    string
	Weight  int // -253 to 253 of an interface or script, -254 to 254 of a file or process; 0 = Fault
	Reverse bool
	// Undefined: nothing can ever report on this, so that it counts as failed. Name has no block of its kind (or one that
	// is unusable), or stands for a kind of tracking that is not supported ("track_bfd NAME").
	Undefined bool
}

// GarpGroup is one garp_group: announcements on all of its interfaces together are paced by its intervals.
type GarpGroup struct {
	Pos
	Interval    time.Duration // between two GARP packets, 0 none
	GNAInterval time.Duration // between two NA packets, 0 none
	Interfaces  []string      // at least one; each is in one group only
}

// LinkDelay is one line of interface_up_down_delays: for so long a link must have been down or up before it counts.
type LinkDelay struct {
	Pos
	Interface string
	Down, Up  time.Duration // 0 to 255 s
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

	// VMAC: it stands on a macvlan over Interface with the virtual MAC address, that of Instance.VMAC if Interface and
	// family are the instance's, else one of its own.
	VMAC bool
}

// VMAC is use_vmac and what belongs to it.
type VMAC struct {
	Use           bool
	Name          string // of the macvlan; default vrrp.VRID, or vrrp.VRID.N if that is taken
	DefaultName   bool   // the file gives no name
	MAC           MAC    // default 00:00:5e:00:01:VRID, with IPv6 00:00:5e:00:02:VRID (RFC 9568 section 7.3)
	NetlinkNotify bool   // netlink_notify_msg
	LinkGroup     int    // -1: that of the interface
	XmitBase      bool   // vmac_xmit_base: adverts go out and come in on the interface itself
	ForAddresses  bool   // use_vmac_addr: see Address.VMAC
	AddrPrefix    string // vmac_addr_prefix: of the names of VMACs that are there for addresses alone
}

// MAC is the address of a station, six bytes; net.HardwareAddr can be made of it.
type MAC []byte

// String gives the bytes in hexadecimal with colons.
func (m MAC) String() string {
	var b strings.Builder
	for i, c := range m {
		if i > 0 {
			b.WriteByte(':')
		}
		fmt.Fprintf(&b, "%02x", c)
	}
	return b.String()
}

// Values of HMAC.Mode.
const (
	HMACEnforce     = "enforce"      // sign, and take nothing unsigned
	HMACPermissive  = "permissive"   // sign, and take unsigned adverts too
	HMACReceiveOnly = "receive-only" // don't sign; take unsigned adverts too
)

// HMAC is auth_hmac. A signature that is there must be right in each mode.
type HMAC struct {
	Keys      []HMACKey     // empty: auth_hmac is not used
	ActiveKey uint8         // which one signs
	Mode      string        // default enforce
	Monotonic bool          // anti_replay monotonic: clocks don't matter, a captured advert stays good until its sender speaks again
	Window    time.Duration // 1 to 300 s, default max(3 advert_int, 5 s): how far clocks may be apart; 0 with Monotonic
}

// HMACKey is a key of auth_hmac.
type HMACKey struct {
	Pos
	ID     uint8  // 1 to 255
	Secret []byte // 32 to 64 bytes
}

// Route is one line of virtual_routes.
type Route struct {
	Pos
	Type      string       // unicast, blackhole, unreachable, prohibit or throw
	To        netip.Prefix // masked; /0: the default route
	Via       netip.Addr   // zero: none; of NextHops if there are some
	Interface string       // "": the kernel chooses
	Source    netip.Addr   // src, the preferred source; zero: none
	Table     int          // default 254, main
	Metric    int          // 0: not given
	Scope     int          // rtnetlink scope; -1: not given
	Protocol  int          // 0: not given, which marks it as ours
	MTU       int          // 0: not given
	MTULock   bool
	AdvMSS    int // 0: not given
	OnLink    bool
	Append    bool
	NoTrack   bool
	NextHops  []NextHop // several: a multipath route
}

// NextHop is one nexthop of a Route.
type NextHop struct {
	Via       netip.Addr
	Interface string
	Weight    int // 1 to 256
	OnLink    bool
}

// Rule is one line of virtual_rules.
type Rule struct {
	Pos
	IPv6           bool
	Not            bool
	From, To       netip.Prefix // masked; zero: any
	IIF, OIF       string
	TOS            int // 0: any
	FWMark, FWMask uint32
	HasFWMark      bool
	Preference     int    // 0: not given
	Action         string // table, goto, blackhole, unreachable, prohibit or nop
	Table          int    // of action table
	Goto           int    // of action goto: the preference of another rule
	NoTrack        bool
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
	HMAC             HMAC
	VMAC             VMAC

	StrictMode            bool // vrrp_strict, strict_mode: what it forbids is off already
	NoAccept              bool // packets to the addresses are dropped, but for neighbour discovery
	OwnerIgnoreAdverts    bool // priority 255 alone: it listens to nobody
	TimerExpiredBackup    int  // the highest priority of the others, 1 to 254; 0: off; needs nopreempt
	NotifyPriorityChanges bool
	PromoteSecondaries    bool

	Addresses []Address
	Excluded  []Address
	Routes    []Route
	Rules     []Rule
	Garp      Garp
	Hooks     Hooks

	SyncGroup string // "": none
	// With those of the sync group, which count for every member; without the weighted ones of a member that its group
	// ignores.
	TrackInterfaces []Tracked
	TrackScripts    []Tracked
	TrackFiles      []Tracked
	TrackProcesses  []Tracked

	// our extensions
	VIPAfterNotify time.Duration // 0: off; default 0, but 30 s with a resource of kind postgresql
	NotifyRetry    time.Duration // default 10 s
	VIPLifetime    time.Duration // kernel lifetime of the VIPs, renewed; 0 for ever; default 0, but 2 s with Quorum
	Quorum         string        // the resource that mastership needs a grant for; "" none
}

// SyncGroup is one vrrp_sync_group: its members change their state together.
type SyncGroup struct {
	Pos
	Name                  string
	Members               []string
	Hooks                 Hooks // without Deleted and MasterRxLowerPri
	TrackingWeight        bool  // sync_group_tracking_weight: the members' own weights count
	GlobalTracking        bool
	NotifyPriorityChanges bool

	// What the group itself tracks; it is part of its members' lists too.
	TrackInterfaces, TrackScripts, TrackFiles, TrackProcesses []Tracked
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
