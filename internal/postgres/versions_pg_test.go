//go:build pg

package postgres

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestEveryVersion goes over what differs by version, on each that is installed: the control file against what the server itself says of it, probing,
// promotion, history, the survey before a clone.
func TestEveryVersion(t *testing.T) {
	t.Parallel()
	dirs := binDirs(t)
	if len(dirs) == 0 {
		must(t, "no PostgreSQL is installed")
	}
	for _, bin := range dirs {
		name := strings.Fields(run(t, filepath.Join(bin, "postgres"), "--version"))[2]
		t.Run(name, func(t *testing.T) {
			root := place(t)
			initdb(t, bin, filepath.Join(root, "d"))
			a := adopt(t, bin, root, "").start()
			if want := versionNum(name); a.facts().Version != want || a.Version() != want/10000 {
				t.Errorf("version: got %d, %d, want %d", a.facts().Version, a.Version(), want)
			}
			a.sql("CREATE TABLE t AS SELECT 1")
			a.sql("CHECKPOINT")
			a.compareControlSQL()
			v, err := surveySource(a.ctx(), a.upstream())
			if err != nil || v.size < 5<<20 || len(v.tablespaces) > 0 {
				t.Errorf("survey: got %+v, %v", v, err)
			}
			a.stop()

			broot := place(t)
			run(t, "cp", "-a", a.DataDir(), filepath.Join(broot, "d"))
			b := adopt(t, bin, broot, "")
			a.start()
			if err := b.SetUpstream(b.ctx(), a.upstream()); err != nil {
				t.Fatal(err)
			}
			if err := b.StartStandby(b.ctx()); err != nil {
				t.Fatal(err)
			}
			b.awaitStreaming(a)
			b.sql("CHECKPOINT")
			b.compareControlSQL()
			if ra, rb := a.probe(), b.probe(); ra.InRecovery || !rb.InRecovery || ra.SystemID != rb.SystemID || ra.Version/10000 != a.Version() {
				t.Errorf("probes: got %+v and %+v", ra, rb)
			}
			// A primary that is read-only by its settings is still one.
			a.sql("ALTER SYSTEM SET default_transaction_read_only = on")
			if err := a.Reload(a.ctx()); err != nil {
				t.Fatal(err)
			}
			a.await("the reload", func() (bool, string) { return a.query("SHOW default_transaction_read_only") == "on", "off" })
			if r := a.probe(); r.InRecovery {
				t.Errorf("read-only primary: got %+v", r)
			}
			a.stop()
			if tli, _, err := b.Promote(b.ctx()); err != nil || tli != 2 {
				t.Fatalf("promote: got %d, %v", tli, err)
			}
			if r := b.probe(); r.InRecovery || r.Timeline != 2 {
				t.Errorf("promoted: got %+v", r)
			}
			file, err := b.History(2)
			if err != nil {
				t.Fatal(err)
			}
			fetched, err := FetchHistory(b.ctx(), b.upstream(), 2)
			if diff := cmp.Diff(file, fetched); diff != "" || err != nil || len(file) != 1 {
				t.Errorf("history: %v (-file +fetched):\n%s", err, diff)
			}
			c, err := a.Control()
			if err != nil || c.State != StateShutDown || c.EndLSN() != file[0].SwitchLSN || Diverged(Position{1, c.EndLSN()}, file, 2) {
				t.Errorf("clean shutdown: got %+v ending at %s, %v; the fork is at %s", c, c.EndLSN(), err, file[0].SwitchLSN)
			}
		})
	}
}

// compareControlSQL compares the control file with the server's own account of it.
func (n *node) compareControlSQL() {
	n.t.Helper()
	c, err := n.Control()
	if err != nil {
		n.t.Fatal(err)
	}
	state := StateInProduction
	if n.facts().InRecovery {
		state = StateInArchiveRecovery
	}
	if c.State != state {
		n.t.Errorf("state: got %q, want %q", c.State, state)
	}
	for q, got := range map[string]string{
		"SELECT pg_control_version::text FROM pg_control_system()":                                   fmt.Sprint(c.ControlVersion),
		"SELECT catalog_version_no::text FROM pg_control_system()":                                   fmt.Sprint(c.CatalogVersion),
		"SELECT system_identifier::text FROM pg_control_system()":                                    fmt.Sprint(c.SystemID),
		"SELECT extract(epoch FROM pg_control_last_modified)::bigint::text FROM pg_control_system()": fmt.Sprint(c.Modified.Unix()),
		"SELECT checkpoint_lsn::text FROM pg_control_checkpoint()":                                   c.CheckpointLSN.String(),
		"SELECT redo_lsn::text FROM pg_control_checkpoint()":                                         c.RedoLSN.String(),
		"SELECT timeline_id::text FROM pg_control_checkpoint()":                                      fmt.Sprint(c.Timeline),
		"SELECT prev_timeline_id::text FROM pg_control_checkpoint()":                                 fmt.Sprint(c.PrevTimeline),
		"SELECT full_page_writes::text FROM pg_control_checkpoint()":                                 fmt.Sprint(c.FullPageWrites),
		"SELECT extract(epoch FROM checkpoint_time)::bigint::text FROM pg_control_checkpoint()":      fmt.Sprint(c.CheckpointTime.Unix()),
		"SELECT min_recovery_end_lsn::text FROM pg_control_recovery()":                               c.MinRecoveryLSN.String(),
		"SELECT min_recovery_end_timeline::text FROM pg_control_recovery()":                          fmt.Sprint(c.MinRecoveryTimeline),
		"SELECT backup_start_lsn::text FROM pg_control_recovery()":                                   c.BackupStartLSN.String(),
		"SELECT backup_end_lsn::text FROM pg_control_recovery()":                                     c.BackupEndLSN.String(),
		"SELECT end_of_backup_record_required::text FROM pg_control_recovery()":                      fmt.Sprint(c.BackupEndRequired),
		"SELECT database_block_size::text FROM pg_control_init()":                                    fmt.Sprint(c.BlockSize),
		"SELECT wal_block_size::text FROM pg_control_init()":                                         fmt.Sprint(c.WALBlockSize),
		"SELECT bytes_per_wal_segment::text FROM pg_control_init()":                                  fmt.Sprint(c.WALSegmentSize),
		"SELECT (data_page_checksum_version > 0)::text FROM pg_control_init()":                       fmt.Sprint(c.DataChecksums),
		"SHOW wal_level":                 c.WALLevel,
		"SHOW wal_log_hints":             onOff(c.WALLogHints),
		"SHOW max_connections":           fmt.Sprint(c.MaxConnections),
		"SHOW max_worker_processes":      fmt.Sprint(c.MaxWorkerProcesses),
		"SHOW max_wal_senders":           fmt.Sprint(c.MaxWALSenders),
		"SHOW max_prepared_transactions": fmt.Sprint(c.MaxPreparedXacts),
		"SHOW max_locks_per_transaction": fmt.Sprint(c.MaxLocksPerXact),
	} {
		if want := n.query(q); got != want {
			n.t.Errorf("%s: got %q, want %q", q, got, want)
		}
	}
}
