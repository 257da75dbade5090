package postgres

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
	"path/filepath"
	"time"
)

// State is the cluster state in pg_control, in pg_controldata's words.
type State string

// The states of DBState in pg_control.h.
const (
	StateStarting           State = "starting up"
	StateShutDown           State = "shut down"
	StateShutDownInRecovery State = "shut down in recovery"
	StateShuttingDown       State = "shutting down"
	StateInCrashRecovery    State = "in crash recovery"
	StateInArchiveRecovery  State = "in archive recovery"
	StateInProduction       State = "in production"
)

// Clean reports whether the server was stopped in an orderly way, so that it can start without crash recovery.
func (s State) Clean() bool { return s == StateShutDown || s == StateShutDownInRecovery }

// WasStandby reports whether the server was last in recovery from an upstream or an archive.
func (s State) WasStandby() bool { return s == StateShutDownInRecovery || s == StateInArchiveRecovery }

// ControlData is what pg_control says. On a running server it is as old as the last checkpoint or restartpoint.
type ControlData struct {
	SystemID            uint64
	ControlVersion      uint32 // 1300 for PostgreSQL 13 to 16, 1700 for 17, 1800 for 18
	CatalogVersion      uint32
	State               State
	Modified            time.Time // last update of the file, in whole seconds
	CheckpointLSN       LSN       // start of the last checkpoint record
	RedoLSN             LSN       // where recovery from it starts
	Timeline            Timeline  // of the last checkpoint; a server promoted since then runs on a later one
	PrevTimeline        Timeline  // differs from Timeline if that checkpoint began a new timeline
	FullPageWrites      bool
	CheckpointTime      time.Time // in whole seconds
	MinRecoveryLSN      LSN       // 0 on a primary
	MinRecoveryTimeline Timeline
	BackupStartLSN      LSN // not 0: the end of a base backup has not been replayed yet
	BackupEndLSN        LSN
	BackupEndRequired   bool
	WALLevel            string // minimal, replica, logical
	WALLogHints         bool
	MaxConnections      int
	MaxWorkerProcesses  int
	MaxWALSenders       int
	MaxPreparedXacts    int
	MaxLocksPerXact     int
	BlockSize           uint32 // bytes
	WALBlockSize        uint32 // bytes
	WALSegmentSize      uint32 // bytes
	DataChecksums       bool
}

// Rewindable reports whether pg_rewind can work on the cluster: changes by hint bits are in the WAL.
func (c ControlData) Rewindable() bool { return c.WALLogHints || c.DataChecksums }

// Where things stand in ControlFileData with 8-byte alignment (amd64, arm64 …). The structure of 17 adds CheckPoint.wal_level, in what was padding
// (60), so that every other offset is the same from 13 on; 18 adds default_char_signedness (256), which moves the CRC.
const (
	offSystemID       = 0
	offVersion        = 8
	offCatalog        = 12
	offState          = 16
	offModified       = 24
	offCheckpoint     = 32
	offRedo           = 40
	offTimeline       = 48
	offPrevTimeline   = 52
	offFullPageWrites = 56
	offCheckpointTime = 104
	offMinRecovery    = 136
	offMinRecoveryTLI = 144
	offBackupStart    = 152
	offBackupEnd      = 160
	offBackupEndReq   = 168
	offWALLevel       = 172
	offWALLogHints    = 176
	offMaxConnections = 180
	offMaxWorkers     = 184
	offMaxWALSenders  = 188
	offMaxPrepared    = 192
	offMaxLocks       = 196
	offMaxAlign       = 204
	offFloatFormat    = 208
	offBlockSize      = 216
	offWALBlockSize   = 224
	offWALSegSize     = 228
	offChecksums      = 252
	offCRC13          = 288
	offCRC18          = 292
	controlSize       = 296 // what of the file we need
)

// crcOffset gives the place of the CRC, which is also the length that it covers, by pg_control_version.
var crcOffset = map[uint32]int{1300: offCRC13, 1700: offCRC13, 1800: offCRC18}

var (
	stateNames = []State{StateStarting, StateShutDown, StateShutDownInRecovery, StateShuttingDown, StateInCrashRecovery, StateInArchiveRecovery, StateInProduction}
	levelNames = []string{"minimal", "replica", "logical"}

	errControlCRC = errors.New("checksum does not match, the file is damaged")
)

// parseControl decodes the content of global/pg_control.
func parseControl(b []byte) (ControlData, error) {
	if len(b) < controlSize {
		return ControlData{}, fmt.Errorf("file is %d bytes long, want at least %d", len(b), controlSize)
	}
	u32 := func(off int) uint32 { return binary.NativeEndian.Uint32(b[off:]) }
	u64 := func(off int) uint64 { return binary.NativeEndian.Uint64(b[off:]) }
	version := u32(offVersion)
	end, ok := crcOffset[version]
	if !ok {
		if swapped := version>>24 | version>>8&0xff00 | version<<8&0xff0000 | version<<24; crcOffset[swapped] != 0 {
			return ControlData{}, errors.New("file was written on a machine of the other byte order")
		}
		return ControlData{}, fmt.Errorf("pg_control version %d is not one of PostgreSQL 13 to 18 (1300, 1700, 1800)", version)
	}
	if got, want := crc32.Checksum(b[:end], crc32.MakeTable(crc32.Castagnoli)), u32(end); got != want {
		return ControlData{}, errControlCRC
	}
	if align, f := u32(offMaxAlign), math.Float64frombits(u64(offFloatFormat)); align != 8 || f != 1234567 {
		return ControlData{}, fmt.Errorf("file was written on another architecture (alignment %d, float check %v)", align, f)
	}
	state, level := u32(offState), u32(offWALLevel)
	if int(state) >= len(stateNames) {
		return ControlData{}, fmt.Errorf("unknown cluster state %d", state)
	}
	if int(level) >= len(levelNames) {
		return ControlData{}, fmt.Errorf("unknown wal_level %d", level)
	}
	return ControlData{
		SystemID:            u64(offSystemID),
		ControlVersion:      version,
		CatalogVersion:      u32(offCatalog),
		State:               stateNames[state],
		Modified:            time.Unix(int64(u64(offModified)), 0).UTC(),
		CheckpointLSN:       LSN(u64(offCheckpoint)),
		RedoLSN:             LSN(u64(offRedo)),
		Timeline:            u32(offTimeline),
		PrevTimeline:        u32(offPrevTimeline),
		FullPageWrites:      b[offFullPageWrites] != 0,
		CheckpointTime:      time.Unix(int64(u64(offCheckpointTime)), 0).UTC(),
		MinRecoveryLSN:      LSN(u64(offMinRecovery)),
		MinRecoveryTimeline: u32(offMinRecoveryTLI),
		BackupStartLSN:      LSN(u64(offBackupStart)),
		BackupEndLSN:        LSN(u64(offBackupEnd)),
		BackupEndRequired:   b[offBackupEndReq] != 0,
		WALLevel:            levelNames[level],
		WALLogHints:         b[offWALLogHints] != 0,
		MaxConnections:      int(int32(u32(offMaxConnections))),
		MaxWorkerProcesses:  int(int32(u32(offMaxWorkers))),
		MaxWALSenders:       int(int32(u32(offMaxWALSenders))),
		MaxPreparedXacts:    int(int32(u32(offMaxPrepared))),
		MaxLocksPerXact:     int(int32(u32(offMaxLocks))),
		BlockSize:           u32(offBlockSize),
		WALBlockSize:        u32(offWALBlockSize),
		WALSegmentSize:      u32(offWALSegSize),
		DataChecksums:       u32(offChecksums) != 0,
	}, nil
}

// readControl reads and checks the control file of a data directory.
func readControl(dataDir string) (ControlData, error) {
	path := filepath.Join(dataDir, "global", "pg_control")
	var err error
	// The server overwrites the file in place and without a lock that we could take; a torn read shows as a wrong CRC and is gone at the next look.
	for range 5 {
		var b []byte
		if b, err = readFile(path); err != nil {
			return ControlData{}, fmt.Errorf("read control file: %w", err)
		}
		var c ControlData
		if c, err = parseControl(b); err == nil {
			return c, nil
		}
		if !errors.Is(err, errControlCRC) {
			break
		}
		<-time.After(2 * time.Millisecond)
	}
	return ControlData{}, fmt.Errorf("read control file %s: %w", path, err)
}

// Control reads pg_control without the server, checks its CRC and its format. See ControlData for how old the answer may be.
func (s *Server) Control() (ControlData, error) { return readControl(s.cfg.DataDir) }

// shutdownRecordLen is the aligned length of a checkpoint record: XLogRecord (24), the short data header (2) and CheckPoint (88).
const shutdownRecordLen = 120

// EndLSN is the end of the WAL of a primary that was shut down cleanly (behind its shutdown checkpoint), the minimum recovery point of a standby, and 0
// where pg_control alone cannot say: after a crash, or while the server runs.
func (c ControlData) EndLSN() LSN {
	switch c.State {
	case StateShutDown:
		return recordEnd(c.CheckpointLSN, shutdownRecordLen, c.WALBlockSize, c.WALSegmentSize)
	case StateShutDownInRecovery:
		return max(c.MinRecoveryLSN, c.CheckpointLSN)
	}
	return 0
}

// EndTimeline is the timeline of EndLSN.
func (c ControlData) EndTimeline() Timeline {
	if c.State.WasStandby() {
		return max(c.Timeline, c.MinRecoveryTimeline)
	}
	return c.Timeline
}

// recordEnd says where the next record can begin behind one that starts at lsn and has length bytes, page headers (24 bytes, 40 on a segment's first
// page) being in between.
func recordEnd(lsn LSN, length, block, segment uint32) LSN {
	length = (length + 7) &^ 7
	if block == 0 || segment == 0 {
		return lsn + LSN(length)
	}
	page := LSN(block)
	for left := LSN(length); ; {
		room := page - lsn%page
		if left <= room {
			return lsn + left
		}
		left -= room
		lsn += room
		if lsn%LSN(segment) == 0 {
			lsn += 40
		} else {
			lsn += 24
		}
	}
}
