package postgres

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// cControl mirrors struct ControlFileData field by field, with its padding written out, so that the offsets in control.go are checked against another
// account of the layout.
type cControl struct {
	SystemID            uint64
	Version, Catalog    uint32
	State               int32
	_                   [4]byte
	Time                int64
	Checkpoint          uint64
	Redo                uint64
	TLI, PrevTLI        uint32
	FullPageWrites      bool
	_                   [3]byte
	CheckpointWALLevel  int32 // from 17 on; padding before
	NextXID             uint64
	NextOID             uint32
	NextMulti           uint32
	NextMultiOffset     uint32
	OldestXID           uint32
	OldestXIDDB         uint32
	OldestMulti         uint32
	OldestMultiDB       uint32
	_                   [4]byte
	CheckpointTime      int64
	OldestCommitTS      uint32
	NewestCommitTS      uint32
	OldestActive        uint32
	_                   [4]byte
	UnloggedLSN         uint64
	MinRecovery         uint64
	MinRecoveryTLI      uint32
	_                   [4]byte
	BackupStart         uint64
	BackupEnd           uint64
	BackupEndRequired   bool
	_                   [3]byte
	WALLevel            int32
	WALLogHints         bool
	_                   [3]byte
	MaxConnections      int32
	MaxWorkers          int32
	MaxWALSenders       int32
	MaxPrepared         int32
	MaxLocks            int32
	TrackCommitTS       bool
	_                   [3]byte
	MaxAlign            uint32
	FloatFormat         float64
	BlockSize           uint32
	RelSegSize          uint32
	WALBlockSize        uint32
	WALSegSize          uint32
	NameDataLen         uint32
	IndexMaxKeys        uint32
	ToastMaxChunk       uint32
	LargeObjectBlock    uint32
	Float8ByVal         bool
	_                   [3]byte
	DataChecksumVersion uint32
}

func sampleControl(version uint32) cControl {
	return cControl{
		SystemID: 7121739110011544578, Version: version, Catalog: 202007201, State: 6, Time: 1659618367, Checkpoint: 0x1_0277_7C58, Redo: 0x1_0277_7C20,
		TLI: 3, PrevTLI: 2, FullPageWrites: true, NextXID: 12507, CheckpointTime: 1659618366, MinRecovery: 0x277_8000, MinRecoveryTLI: 4,
		BackupStart: 0x28, BackupEnd: 0x60, BackupEndRequired: true, WALLevel: 1, WALLogHints: true, MaxConnections: 101, MaxWorkers: 9, MaxWALSenders: 11,
		MaxPrepared: 2, MaxLocks: 65, MaxAlign: 8, FloatFormat: 1234567, BlockSize: 8192, RelSegSize: 131072, WALBlockSize: 8192, WALSegSize: 16 << 20,
		NameDataLen: 64, IndexMaxKeys: 32, Float8ByVal: true, DataChecksumVersion: 1,
	}
}

// encode writes the file as PostgreSQL does: 8 KiB, the CRC behind the nonce.
func (c cControl) encode(t *testing.T) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := binary.Write(&b, binary.NativeEndian, c); err != nil {
		t.Fatal(err)
	}
	if c.Version >= 1800 {
		b.WriteByte(1) // default_char_signedness
	}
	b.Write(bytes.Repeat([]byte{0xa5}, 32)) // mock_authentication_nonce
	for b.Len()%4 != 0 {
		b.WriteByte(0)
	}
	if err := binary.Write(&b, binary.NativeEndian, crc32.Checksum(b.Bytes(), crc32.MakeTable(crc32.Castagnoli))); err != nil {
		t.Fatal(err)
	}
	return append(b.Bytes(), make([]byte, 8192-b.Len())...)
}

func TestParseControlLayouts(t *testing.T) {
	for _, version := range []uint32{1300, 1700, 1800} {
		got, err := parseControl(sampleControl(version).encode(t))
		if err != nil {
			t.Errorf("version %d: %v", version, err)
			continue
		}
		want := ControlData{
			SystemID: 7121739110011544578, ControlVersion: version, CatalogVersion: 202007201, State: StateInProduction, Modified: time.Unix(1659618367, 0).UTC(),
			CheckpointLSN: 0x1_0277_7C58, RedoLSN: 0x1_0277_7C20, Timeline: 3, PrevTimeline: 2, FullPageWrites: true, CheckpointTime: time.Unix(1659618366, 0).UTC(),
			MinRecoveryLSN: 0x277_8000, MinRecoveryTimeline: 4, BackupStartLSN: 0x28, BackupEndLSN: 0x60, BackupEndRequired: true, WALLevel: "replica",
			WALLogHints: true, MaxConnections: 101, MaxWorkerProcesses: 9, MaxWALSenders: 11, MaxPreparedXacts: 2, MaxLocksPerXact: 65,
			BlockSize: 8192, WALBlockSize: 8192, WALSegmentSize: 16 << 20, DataChecksums: true,
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("version %d (-want +got):\n%s", version, diff)
		}
	}
}

func TestParseControlRefuses(t *testing.T) {
	change := func(f func(*cControl)) []byte {
		c := sampleControl(1300)
		f(&c)
		return c.encode(t)
	}
	flip := sampleControl(1300).encode(t)
	flip[40] ^= 1
	swapped := sampleControl(1300).encode(t)
	swapped[8], swapped[9], swapped[10], swapped[11] = swapped[11], swapped[10], swapped[9], swapped[8]
	for _, tt := range []struct {
		name string
		in   []byte
		want string
	}{
		{"empty", nil, "0 bytes long"},
		{"truncated", sampleControl(1300).encode(t)[:290], "290 bytes long"},
		{"one bit", flip, "checksum does not match"},
		{"zeros", make([]byte, 8192), "pg_control version 0"},
		{"too old", change(func(c *cControl) { c.Version = 1201 }), "pg_control version 1201"},
		{"too new", change(func(c *cControl) { c.Version = 1902 }), "pg_control version 1902"},
		{"other byte order", swapped, "other byte order"},
		{"other alignment", change(func(c *cControl) { c.MaxAlign = 4 }), "another architecture"},
		{"unknown state", change(func(c *cControl) { c.State = 7 }), "unknown cluster state 7"},
		{"unknown wal_level", change(func(c *cControl) { c.WALLevel = -1 }), "unknown wal_level"},
	} {
		if _, err := parseControl(tt.in); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want an error with %q", tt.name, err, tt.want)
		}
	}
}

func TestReadControlNamesTheFile(t *testing.T) {
	dir := t.TempDir()
	if _, err := readControl(dir); err == nil || !strings.Contains(err.Error(), "pg_control") {
		t.Errorf("missing: got %v", err)
	}
	path := filepath.Join(dir, "global", "pg_control")
	if err := os.Mkdir(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, bytes.Repeat([]byte("garbage!"), 1024), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := readControl(dir); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("garbled: got %v, want an error that names %s", err, path)
	}
}

func TestRecordEnd(t *testing.T) {
	const block, segment = 8192, 16 << 20
	for _, tt := range []struct {
		name   string
		at     LSN
		length uint32
		want   LSN
	}{
		{"within a page", 0x3000028, 114, 0x30000a0},
		{"ends at the page's end", 0x3002000 - 120, 120, 0x3002000},
		{"over a page", 0x3002000 - 8, 120, 0x3002000 + 24 + 112},
		{"over a segment", 0x4000000 - 8, 120, 0x4000000 + 40 + 112},
		{"over two pages", 0x3002000 - 8, 8 + 8168 + 8, 0x3004000 + 24 + 8},
	} {
		if got := recordEnd(tt.at, tt.length, block, segment); got != tt.want {
			t.Errorf("%s: got %s, want %s", tt.name, got, tt.want)
		}
	}
}

func TestEnd(t *testing.T) {
	for _, tt := range []struct {
		name string
		in   ControlData
		lsn  LSN
		tli  Timeline
	}{
		{"shut down", ControlData{State: StateShutDown, Timeline: 2, CheckpointLSN: 0x3000028, WALBlockSize: 8192, WALSegmentSize: 16 << 20}, 0x30000a0, 2},
		{"standby", ControlData{State: StateShutDownInRecovery, Timeline: 2, CheckpointLSN: 0x3000028, MinRecoveryLSN: 0x5000000, MinRecoveryTimeline: 3}, 0x5000000, 3},
		{"crashed", ControlData{State: StateInProduction, Timeline: 2, CheckpointLSN: 0x3000028}, 0, 2},
	} {
		if lsn, tli := tt.in.EndLSN(), tt.in.EndTimeline(); lsn != tt.lsn || tli != tt.tli {
			t.Errorf("%s: got %s on %d, want %s on %d", tt.name, lsn, tli, tt.lsn, tt.tli)
		}
	}
}
