package postgres

import "time"

// Facts is one look at the server.
type Facts struct {
	Running   bool  // the postmaster lives
	PID       int   // of the postmaster
	Answering bool  // it took an SQL session and answered
	Problem   error // why not, if Running and not Answering

	InRecovery    bool // standby; for a stopped server: was one or would start as one (standby.signal or recovery.signal)
	StandbySignal bool // standby.signal is there
	Version       int  // server_version_num, 0 unless Answering
	SystemID      uint64

	Timeline           Timeline // running: see Position; stopped: of the last checkpoint or, for a standby, of the minimum recovery point if later
	CheckpointTimeline Timeline // of the last checkpoint: != Timeline until a promoted server has checkpointed
	LSN                LSN      // primary: flushed; standby: greatest of received and replayed; stopped: last checkpoint or minimum recovery point
	ReceiveLSN         LSN      // standby: flushed by the walreceiver, 0 if none ever ran
	ReplayLSN          LSN      // standby
	ReplayPaused       bool
	LastReplay         time.Time // commit time of the last replayed transaction, zero if none

	Upstream         Upstream
	ReplicationState []Standby

	SynchronousStandbyNames string
	SynchronousCommit       string
	PrimaryConninfo         string
	Settings                map[string]Setting // of the settings that we manage, by name

	Control    ControlData
	ControlErr error // pg_control could not be read
}

// Position is the end of the WAL that the server holds.
func (f Facts) Position() Position { return Position{f.Timeline, f.LSN} }

// Primary reports whether the server answers and is not in recovery.
func (f Facts) Primary() bool { return f.Answering && !f.InRecovery }

// Upstream is what a standby's walreceiver is connected to; the zero value means no walreceiver.
type Upstream struct {
	Status   string // pg_stat_wal_receiver.status: streaming, starting, waiting …; connecting: and gets nothing yet
	Host     string
	Port     int
	Slot     string
	Timeline Timeline // received_tli
}

// Standby is one row of pg_stat_replication.
type Standby struct {
	Name         string // application_name
	Addr         string // "" for a Unix socket
	PID          int
	State        string // startup, catchup, streaming, backup, stopping
	SyncState    string // async, potential, sync, quorum
	SyncPriority int
	SentLSN      LSN
	WriteLSN     LSN
	FlushLSN     LSN
	ReplayLSN    LSN
	ReplayLag    time.Duration // 0 = none measured
}

// Setting is a row of pg_settings.
type Setting struct {
	Value          string
	Source         string // default, configuration file, command line …
	File           string // "" if not from a file or not visible to our role
	Line           int
	PendingRestart bool
}

// Remote is what another server says of itself over a physical replication connection.
type Remote struct {
	Addr       string // host:port that answered
	InRecovery bool
	SystemID   uint64
	Timeline   Timeline
	LSN        LSN // primary: flushed; standby: the end of what it received or replayed on Timeline
	Version    int // server_version_num
}

// Position is the end of the WAL that the server holds.
func (r Remote) Position() Position { return Position{r.Timeline, r.LSN} }

// Progress is told of bytes done and in total, 0 if the total is unknown; it is called from one goroutine.
type Progress func(done, total int64)

// CloneOptions says what to copy and where to.
type CloneOptions struct {
	BinDir      string
	Conninfo    string            // of the source; the role needs REPLICATION
	Dir         string            // absent or empty; on the file system where it will live
	User        string            // who owns the copy and runs pg_basebackup; "" = ourselves
	MaxRate     int64             // bytes per second, 0 = no limit
	Hold        bool              // the copy starts on hold; see WriteFence
	Tablespaces map[string]string // source's tablespace directory -> ours; every user tablespace needs one
	Progress    Progress
}
