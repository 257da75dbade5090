package postgres

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sys/unix"
)

// Severity is how bad a finding is.
type Severity string

// The severities.
const (
	Note    Severity = "note"    // works, and could work better
	Warning Severity = "warning" // works until something else goes wrong
	Fault   Severity = "fault"   // a promise can't be kept
)

// Finding is one thing that is not as the cluster needs it.
type Finding struct {
	Severity Severity
	Subject  string // a setting, a file, a role, a file system
	Problem  string
	Fix      string // what to do about it, a whole sentence
	Waits    bool   // it is put right in the files already, and a restart is all that is missing
}

func found(sev Severity, subject, problem, fix string) Finding {
	return Finding{Severity: sev, Subject: subject, Problem: problem, Fix: fix}
}

// String prints "fault: full_page_writes: it is off. Set full_page_writes = on."
func (f Finding) String() string {
	return fmt.Sprintf("%s: %s: %s. %s", f.Severity, f.Subject, f.Problem, f.Fix)
}

const (
	lowShare  = 10        // percent of a file system below which free space is worth a warning
	lowBytes  = 2 << 30   // and bytes
	noneShare = 2         // percent below which it is a fault
	noneBytes = 256 << 20 // and bytes
)

// Doctor examines the server as a member of a cluster of nodes servers: its settings, the users and databases with their own, what wins over our include
// file, the rights of our role, its standbys' names, and the room on its disks. What can't be looked at because the server does not answer is a finding
// of its own. Worst first.
func (d *Driver) Doctor(ctx context.Context, nodes int) []Finding {
	ctx, cancel := withDefaultTimeout(ctx, queryTimeout)
	defer cancel()
	all := d.s.examineFiles()
	err := d.look.use(ctx, func(q context.Context, conn *pgx.Conn) error {
		more, err := d.s.examineServer(q, conn, nodes, all)
		all = append(all, more...)
		return err
	})
	if err != nil {
		all = append(all, found(Fault, "server", "it does not answer: "+err.Error(), "Start PostgreSQL, or see its log, then ask again."))
	}
	rank := []Severity{Fault, Warning, Note}
	slices.SortStableFunc(all, func(a, b Finding) int { return slices.Index(rank, a.Severity) - slices.Index(rank, b.Severity) })
	return all
}

// examineFiles looks at what needs no server.
func (s *Server) examineFiles() []Finding {
	var all []Finding
	if err := s.winsError(); err != nil {
		f := found(Fault, includeName, err.Error(), "See the message.")
		var include *IncludeError
		var override *OverrideError
		switch {
		case errors.As(err, &include):
			f.Problem, f.Fix = include.Cause, fmt.Sprintf("Put this as the last line of %s: %s", include.ConfigFile, include.Line)
		case errors.As(err, &override):
			f.Problem = fmt.Sprintf("%s sets %s, which wins over ours", override.File, strings.Join(slices.Sorted(maps.Keys(override.Settings)), ", "))
			f.Fix = "Run: " + override.Fix
		}
		all = append(all, f)
	}
	if s.RewindIncomplete() {
		all = append(all, found(Fault, s.cfg.DataDir, ErrRewindIncomplete.Error(), "Let it be cloned; the data directory must not be started."))
	}
	c, err := s.Control()
	if err != nil {
		all = append(all, found(Fault, "global/pg_control", err.Error(), "Clone the data directory from the primary."))
	} else if !c.Rewindable() {
		all = append(all, found(Fault, "wal_log_hints", "it is off, and there are no data checksums, so that pg_rewind cannot work and every failover ends in a full copy",
			"Set wal_log_hints = on and restart, or turn on checksums by pg_checksums --enable with the server down."))
	}
	if mounted, err := MountPoint(s.real); err == nil && mounted {
		all = append(all, found(Warning, "data directory", s.real+" is a mount point, so that no new copy can take its place when one is needed",
			"Use a directory below the mount point as the data directory."))
	}
	if fi, err := os.Lstat(filepath.Join(s.cfg.DataDir, "pg_wal")); err == nil && fi.Mode()&fs.ModeSymlink != 0 {
		all = append(all, found(Warning, "pg_wal", "it is a symbolic link; a new copy of the data directory has its WAL in the data directory itself",
			"After a copy, move it back with the server down; see the runbook."))
	}
	if spaces, err := os.ReadDir(filepath.Join(s.cfg.DataDir, "pg_tblspc")); err == nil && len(spaces) > 0 {
		all = append(all, found(Warning, "tablespaces", fmt.Sprintf("there are %d, and no copy of a server that has some is made by itself", len(spaces)),
			"Clone by hand if a copy is needed: pg_basebackup with --tablespace-mapping."))
	}
	for _, place := range []struct{ name, dir string }{{"data directory", s.cfg.DataDir}, {"pg_wal", filepath.Join(s.cfg.DataDir, "pg_wal")}} {
		all = append(all, examineDisk(place.name, place.dir)...)
	}
	return all
}

func examineDisk(name, dir string) []Finding {
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return []Finding{found(Fault, name, fmt.Sprintf("ask for free space of %s: %v", dir, err), "Make it readable to the agent.")}
	}
	if fs.Blocks == 0 || fs.Bsize <= 0 {
		return nil
	}
	return judgeDisk(name, dir, fs.Bavail*uint64(fs.Bsize), fs.Blocks*uint64(fs.Bsize))
}

func judgeDisk(name, dir string, free, total uint64) []Finding {
	share := free * 100 / total
	f := Finding{Subject: name, Problem: fmt.Sprintf("%d MB are free where %s lives, %d %% of its file system", free>>20, dir, share),
		Fix: "Make room or enlarge the file system: a full one stops the server, and no setting can be changed on it."}
	switch {
	case free < noneBytes || share < noneShare && free < lowBytes:
		f.Severity = Fault
	case share < lowShare && free < 10*lowBytes || free < lowBytes:
		f.Severity = Warning
	default:
		return nil
	}
	return []Finding{f}
}

// examineServer asks a server that answers, and marks what of the files' findings waits for a restart alone.
func (s *Server) examineServer(ctx context.Context, conn *pgx.Conn, nodes int, files []Finding) ([]Finding, error) {
	settings, next := map[string]string{}, map[string]string{} // now, and after a restart
	var waiting []string
	rows, err := conn.Query(ctx, `
SELECT name, CASE WHEN source = 'client' THEN coalesce((SELECT f.setting FROM pg_file_settings AS f WHERE f.name = s.name AND f.applied ORDER BY seqno DESC LIMIT 1), boot_val)
                  ELSE setting END, pending_restart,
       CASE WHEN pending_restart THEN coalesce((SELECT f.setting FROM pg_file_settings AS f WHERE f.name = s.name ORDER BY seqno DESC LIMIT 1), boot_val) END
FROM pg_settings AS s WHERE setting IS NOT NULL ORDER BY name`)
	if err != nil {
		return nil, err
	}
	var name, value string
	var later *string
	var restart bool
	if _, err := pgx.ForEachRow(rows, []any{&name, &value, &restart, &later}, func() error {
		settings[name], next[name] = value, value
		if restart {
			waiting = append(waiting, name)
		}
		if later != nil {
			next[name] = *later
		}
		return nil
	}); err != nil {
		return nil, err
	}
	all := judgeSettings(settings, nodes)
	stays := judgeSettings(next, nodes)
	for k := range all {
		all[k].Waits = !slices.ContainsFunc(stays, func(f Finding) bool { return f.Subject == all[k].Subject })
	}
	for k := range files {
		files[k].Waits = files[k].Subject == "wal_log_hints" && next["wal_log_hints"] == "on"
	}
	if len(waiting) > 0 {
		all = append(all, found(Note, strings.Join(waiting, ", "), "changed, and in effect only after a restart", "Restart the server by a planned switchover when it suits."))
	}
	if text := s.fileErrors(conn); text != "" {
		all = append(all, found(Fault, "configuration files", "they hold mistakes, so that no reload changes anything"+text, "Mend the lines named."))
	}
	var super bool
	if err := conn.QueryRow(ctx, "SELECT current_setting('is_superuser') = 'on'").Scan(&super); err != nil {
		return all, err
	}
	if !super {
		all = append(all, found(Fault, "role of the agent", "it is no superuser", "Let the agent log in as the bootstrap superuser over the Unix socket (peer authentication)."))
	}
	more, err := overriders(ctx, conn)
	all = append(all, more...)
	if err != nil {
		return all, err
	}
	v, err := view(ctx, conn)
	if err != nil {
		return all, err
	}
	return append(all, judgeNames(v)...), nil
}

// overriders finds the users and databases with settings of their own that take commits out of the promise or slow a failover.
func overriders(ctx context.Context, conn *pgx.Conn) ([]Finding, error) {
	rows, err := conn.Query(ctx, `
SELECT coalesce(r.rolname::text, ''), coalesce(d.datname::text, ''), c.setting
FROM pg_db_role_setting AS s LEFT JOIN pg_roles AS r ON r.oid = s.setrole LEFT JOIN pg_database AS d ON d.oid = s.setdatabase, unnest(s.setconfig) AS c(setting)
WHERE c.setting LIKE 'synchronous\_commit=%' ORDER BY 1, 2`)
	if err != nil {
		return nil, err
	}
	var all []Finding
	var role, db, setting string
	_, err = pgx.ForEachRow(rows, []any{&role, &db, &setting}, func() error {
		_, value, _ := strings.Cut(setting, "=")
		if waitsForFlush(value) {
			return nil
		}
		var who, fix string
		role, db := pgx.Identifier{role}.Sanitize(), pgx.Identifier{db}.Sanitize()
		switch {
		case db == `""`:
			who, fix = "role "+role, "ALTER ROLE "+role
		case role == `""`:
			who, fix = "database "+db, "ALTER DATABASE "+db
		default:
			who, fix = "role "+role+" in database "+db, "ALTER ROLE "+role+" IN DATABASE "+db
		}
		all = append(all, found(Warning, who, "its synchronous_commit is "+value+", so that its acknowledged commits can be lost by a failover",
			"Run: "+fix+" RESET synchronous_commit, or take the loss."))
		return nil
	})
	return all, err
}

// waitsForFlush reports whether a synchronous_commit has the flush of standbys waited for, in all spellings of a boolean.
func waitsForFlush(value string) bool {
	return slices.Contains([]string{"on", "remote_apply", "true", "yes", "1"}, strings.ToLower(value))
}

// judgeNames finds standbys that could count for another.
func judgeNames(v PrimaryView) []Finding {
	var all []Finding
	seen := map[string]int{}
	for _, w := range v.Walsenders {
		key := strings.ToLower(w.Name)
		switch {
		case w.State != "streaming" && w.State != "catchup":
			continue
		case strings.EqualFold(w.Name, HoldName):
			all = append(all, found(Fault, "walsender "+strconv.Itoa(w.PID), "its standby calls itself "+w.Name+", the name that nobody may have",
				"Give that standby its node's name as application_name."))
		case seen[key] != 0:
			all = append(all, found(Fault, "standby "+w.Name, fmt.Sprintf("walsenders %d and %d serve this one name, so that one standby could count as two", seen[key], w.PID),
				"Give each node its own application_name, and end the other program that streams under it."))
		}
		seen[key] = w.PID
	}
	return all
}

// judgeSettings compares pg_settings, in its own units, with what a cluster of so many nodes needs.
func judgeSettings(set map[string]string, nodes int) []Finding {
	var all []Finding
	add := func(sev Severity, name, problem, fix string) {
		if _, ok := set[name]; ok {
			all = append(all, found(sev, name, problem, fix))
		}
	}
	num := func(name string) int64 {
		n, _ := strconv.ParseInt(set[name], 10, 64) // 0 for a setting that this version lacks
		return n
	}
	ms := func(name string) time.Duration { return time.Duration(num(name)) * time.Millisecond }
	restart := func(name, value string) string { return fmt.Sprintf("Set %s = %s and restart.", name, value) }
	reload := func(name, value string) string { return fmt.Sprintf("Set %s = %s and reload.", name, value) }

	for _, name := range []string{"fsync", "full_page_writes"} {
		if set[name] == "off" {
			add(Fault, name, "it is off, so that a crash of the machine can destroy the data", reload(name, "on"))
		}
	}
	if set["wal_level"] == "minimal" {
		add(Fault, "wal_level", "it is minimal, so that no standby can follow", restart("wal_level", "replica"))
	}
	if set["hot_standby"] == "off" {
		add(Fault, "hot_standby", "it is off, so that a standby can't be asked anything", restart("hot_standby", "on"))
	}
	// A walsender for each peer, one for a clone (two connections), one for our own session.
	if need := int64(max(nodes-1, 1) + 3); num("max_wal_senders") < need {
		add(Fault, "max_wal_senders", fmt.Sprintf("it is %d", num("max_wal_senders")), restart("max_wal_senders", "10"))
	}
	if need := int64(max(nodes-1, 1) + 1); num("max_replication_slots") < need {
		add(Fault, "max_replication_slots", fmt.Sprintf("it is %d", num("max_replication_slots")), restart("max_replication_slots", "10"))
	}
	if v := set["synchronous_commit"]; !waitsForFlush(v) {
		add(Fault, "synchronous_commit", "it is "+v+", so that acknowledged commits can be lost by a failover", reload("synchronous_commit", "on"))
	}
	if num("recovery_min_apply_delay") > 0 {
		add(Fault, "recovery_min_apply_delay", "a promotion would wait for it", reload("recovery_min_apply_delay", "0"))
	}
	for _, name := range []string{"recovery_target", "recovery_target_lsn", "recovery_target_name", "recovery_target_time", "recovery_target_xid"} {
		if set[name] != "" {
			add(Fault, name, "it is set, so that a standby stops following there", "Remove it and restart.")
		}
	}
	for _, name := range []string{"wal_sender_timeout", "wal_receiver_timeout"} {
		switch t := ms(name); {
		case t == 0:
			add(Fault, name, "it is 0, so that a dead connection is never noticed", reload(name, "2s"))
		case t > 10*time.Second:
			add(Warning, name, fmt.Sprintf("it is %v, and so long a frozen peer holds up a shutdown or a reconnect", t), reload(name, "2s"))
		}
	}
	switch t := num("wal_receiver_status_interval"); {
	case t == 0:
		add(Warning, "wal_receiver_status_interval", "it is 0, so that an idle standby says nothing", reload("wal_receiver_status_interval", "1s"))
	case t > 1:
		add(Note, "wal_receiver_status_interval", fmt.Sprintf("it is %d s; commits that were set free may wait for the next message", t), reload("wal_receiver_status_interval", "1s"))
	}
	if t := ms("wal_retrieve_retry_interval"); t > time.Second {
		add(Note, "wal_retrieve_retry_interval", fmt.Sprintf("it is %v; so long may a standby wait before it connects again", t), reload("wal_retrieve_retry_interval", "100ms"))
	}
	for _, name := range []string{"max_standby_streaming_delay", "max_standby_archive_delay"} {
		if t := ms(name); t < 0 || t > 5*time.Second {
			add(Warning, name, "a query on a standby may hold up replay for so long, and with it a promotion", reload(name, "5s"))
		}
	}
	if set["hot_standby_feedback"] == "off" {
		add(Note, "hot_standby_feedback", "it is off; vacuum on the primary may cancel queries on the standbys", reload("hot_standby_feedback", "on"))
	}
	if num("max_slot_wal_keep_size") < 0 {
		add(Warning, "max_slot_wal_keep_size", "it is not set, so that the slot of an absent standby can fill the disk", "Set max_slot_wal_keep_size to about a quarter of the file system of pg_wal and reload.")
	}
	if num("wal_keep_size") == 0 {
		add(Note, "wal_keep_size", "it is 0; a standby whose slot was lost must be cloned", reload("wal_keep_size", "1GB"))
	}
	if set["restart_after_crash"] == "on" {
		// The agent starts servers, as standbys and on hold. What the postmaster starts by itself is a primary, with the address on, and of
		// minor versions before May 2025 one that for a moment acknowledges commits without any standby (release notes of 17.5, 15.13, ...).
		add(Warning, "restart_after_crash", "it is on: after the crash of one process the server comes back as a primary by itself, and nobody takes over meanwhile",
			reload("restart_after_crash", "off"))
	}
	if v := num("server_version_num"); v < 140000 && set["restore_command"] != "" {
		add(Warning, "restore_command", "before version 14 it is read at the start alone, so that a fenced standby still takes WAL from the archive",
			"Remove it and restart; standbys catch up by their slots.")
	}
	if num("superuser_reserved_connections") < 2 {
		add(Warning, "superuser_reserved_connections", "clients can take every connection before the agent has its own", restart("superuser_reserved_connections", "3"))
	}
	if set["log_min_duration_statement"] == "0" || set["log_statement"] == "all" {
		add(Note, "log_statement", "every statement is logged, the agent's looks too, hundreds a second during a failover",
			"For the agent's role run: ALTER ROLE … SET log_statement = none, and SET log_min_duration_statement = -1.")
	}
	if v := num("server_version_num"); v != 0 && (v/10000 < MinVersion || v/10000 > MaxVersion) {
		add(Fault, "server_version_num", fmt.Sprintf("version %d is not known to us", v/10000), fmt.Sprintf("Use PostgreSQL %d to %d.", MinVersion, MaxVersion))
	}
	return all
}
