package postgres

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	// HoldName is the application_name that no standby has: who waits for it waits for ever.
	HoldName = "pgnotify_hold"

	holdNames = "FIRST 1 (" + HoldName + ")"

	// probeRetry is how long to wait before another probe when one was not held back: the checkpointer has not read its settings yet.
	probeRetry = time.Millisecond

	maxNameLen = 63 // NAMEDATALEN - 1: the server cuts an application_name
)

var (
	// ErrNotHeld means that commits do not wait for standbys although the settings say so.
	ErrNotHeld = errors.New("commits do not wait for standbys")
	// ErrDuplicate means that two walsenders serve one name, so that one standby could count twice.
	ErrDuplicate = errors.New("two standbys have one name")
)

// SyncNames makes the value of synchronous_standby_names that has every commit wait for all the names: FIRST n (all n), in the order given; of none the
// empty string. HoldName may be among them. A name is an application_name: 1 to 63 printable ASCII characters, not "*", and no two the same but for
// upper and lower case, which the server does not tell apart ("20.6.2 Primary Server" in the manual).
func SyncNames(names []string) (string, error) {
	var quoted []string
	for i, n := range names {
		bad := strings.IndexFunc(n, func(r rune) bool { return r < ' ' || r > '~' }) >= 0
		if n == "" || len(n) > maxNameLen || n == "*" || bad {
			return "", fmt.Errorf("name a synchronous standby %q: want 1 to %d printable ASCII characters, not *", n, maxNameLen)
		}
		if slices.ContainsFunc(names[:i], func(m string) bool { return strings.EqualFold(m, n) }) {
			return "", fmt.Errorf("name a synchronous standby %q: named twice", n)
		}
		if n != HoldName {
			n = `"` + strings.ReplaceAll(n, `"`, `""`) + `"`
		}
		quoted = append(quoted, n)
	}
	if len(quoted) == 0 {
		return "", nil
	}
	return fmt.Sprintf("FIRST %d (%s)", len(quoted), strings.Join(quoted, ", ")), nil
}

// SetSync has every commit wait for all the named standbys, newest first; of none, for nobody. It returns once the value is durable in our include
// file and a session has read it after the reload. The walsenders and the checkpointer read it by themselves, a moment before or after: AwaitSync and
// ProveHeld look at those. On a stopped server the file is just written.
func (d *Driver) SetSync(ctx context.Context, names []string) error {
	value, err := SyncNames(names)
	if err != nil {
		return err
	}
	if err := d.apply(ctx, change{set: map[string]string{"synchronous_standby_names": value}}); err != nil {
		return fmt.Errorf("set the synchronous standbys to %q: %w", value, err)
	}
	return nil
}

// Hold has every commit wait for a standby that does not exist. As SetSync.
func (d *Driver) Hold(ctx context.Context) error { return d.SetSync(ctx, []string{HoldName}) }

// apply makes a change durable, reloads a running server, and waits until a session has read its settings after that and shows what was set.
func (d *Driver) apply(ctx context.Context, c change) error {
	ctx, cancel := withDefaultTimeout(ctx, applyTimeout)
	defer cancel()
	life, err := d.s.Life()
	if err != nil {
		return err
	}
	if life == (Life{}) {
		if err := d.s.writeManaged(c); err != nil {
			return err
		}
		return d.s.winsError()
	}
	return d.act.use(ctx, func(q context.Context, conn *pgx.Conn) error {
		before, err := look(q, conn)
		if err != nil {
			return err
		}
		if err := d.s.writeManaged(c); err != nil {
			return err
		}
		if err := d.s.winsError(); err != nil {
			return err
		}
		if err := d.s.Reload(ctx); err != nil {
			return err
		}
		var last standing
		err = poll(ctx, func() (bool, string, error) {
			v, err := look(q, conn)
			if err != nil {
				return false, "", err
			}
			last = v
			return v.loaded.After(before.loaded) && d.s.shows(v, c.set), "the reload is not seen yet" + d.whyNotShown(v, c.set), nil
		})
		if err != nil && ctx.Err() != nil {
			err = fmt.Errorf("%w%s", err, d.s.fileErrors(conn))
		}
		if err == nil && last.pid != before.pid {
			err = errors.New("the session is another")
		}
		return err
	})
}

// fileErrors says what the server dislikes in its configuration files: one mistake anywhere and a reload changes nothing.
func (s *Server) fileErrors(conn *pgx.Conn) string {
	if conn.IsClosed() {
		return ""
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	rows, err := conn.Query(ctx, "SELECT sourcefile, sourceline, error FROM pg_file_settings AS f WHERE error IS NOT NULL AND NOT EXISTS (SELECT FROM pg_settings AS s WHERE s.name = f.name AND s.pending_restart)")
	if err != nil {
		return ""
	}
	defer rows.Close()
	var b strings.Builder
	for rows.Next() {
		var file, why *string
		var line *int
		if err := rows.Scan(&file, &line, &why); err != nil || file == nil || line == nil || why == nil {
			return b.String()
		}
		fmt.Fprintf(&b, "; %s:%d: %s", *file, *line, *why)
	}
	return b.String()
}

// Walsender is one standby of ours as its walsender has it.
type Walsender struct {
	Standby
	reply time.Time // of its last reply, by its own clock
	// ReplyAge is how long this driver has seen no new reply, by our own clock; 0 when it is seen for the first time.
	ReplyAge time.Duration
}

// reply is the time in a walsender's last reply, by the standby's clock, and when we saw it first, by ours.
type reply struct {
	at   time.Time
	seen time.Time
}

// PrimaryView is one look at a server and its standbys.
type PrimaryView struct {
	InRecovery bool
	Timeline   Timeline // of the WAL being written; 0 in recovery
	InsertLSN  LSN      // 0 in recovery
	FlushLSN   LSN      // 0 in recovery
	SyncNames  string   // synchronous_standby_names as our session has it
	Waiting    int      // backends that wait for standbys, our own probe not among them
	Walsenders []Walsender
}

// Named finds the walsenders of one standby; more than one while an old connection has not been noticed to be dead.
func (v PrimaryView) Named(name string) []Walsender {
	var all []Walsender
	for _, w := range v.Walsenders {
		if strings.EqualFold(w.Name, name) {
			all = append(all, w)
		}
	}
	return all
}

// View looks at the server and its standbys, in one round trip.
func (d *Driver) View(ctx context.Context) (PrimaryView, error) {
	ctx, cancel := withDefaultTimeout(ctx, queryTimeout)
	defer cancel()
	v, err := d.see(ctx)
	return v.PrimaryView, err
}

// see looks at the server in either role, in one round trip, and keeps when each standby has last replied.
func (d *Driver) see(ctx context.Context) (sight, error) {
	var v sight
	err := d.look.use(ctx, func(q context.Context, conn *pgx.Conn) error {
		var err error
		if v, err = see(q, conn); err != nil {
			return err
		}
		now := time.Now()
		replies := make(map[int]reply, len(v.Walsenders))
		for i := range v.Walsenders {
			w := &v.Walsenders[i]
			r, known := d.replies[w.PID]
			if !known || !r.at.Equal(w.reply) {
				r = reply{w.reply, now}
			}
			replies[w.PID] = r
			w.ReplyAge = now.Sub(r.seen)
		}
		d.replies = replies
		return nil
	})
	if err != nil {
		return sight{}, fmt.Errorf("look at the server: %w", err)
	}
	return v, nil
}

func view(ctx context.Context, conn *pgx.Conn) (PrimaryView, error) {
	v, err := see(ctx, conn)
	return v.PrimaryView, err
}

// sight is one look at a server in either role.
type sight struct {
	PrimaryView
	// Of a standby alone.
	conninfo        string // primary_conninfo in force
	receive, replay LSN    // flushed by walreceivers in this life, 0 if none ran; replayed
	paused          bool   // a pause of replay is asked for or in effect
	upstream        Upstream
	flushed         LSN // by the walreceiver that runs, on upstream.Timeline: both were read at once
}

// see reads what is replayed before what is flushed, so that it shows no replay of what is not there yet.
func see(ctx context.Context, conn *pgx.Conn) (sight, error) {
	rows, err := conn.Query(ctx, `
SELECT r, CASE WHEN r THEN NULL ELSE pg_walfile_name(pg_current_wal_lsn()) END, CASE WHEN r THEN NULL ELSE pg_current_wal_insert_lsn()::text END,
       CASE WHEN r THEN NULL ELSE pg_current_wal_flush_lsn()::text END, current_setting('synchronous_standby_names'),
       (SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND wait_event_type = 'IPC' AND application_name <> $1)::int,
       CASE WHEN r THEN current_setting('primary_conninfo') ELSE '' END, CASE WHEN r THEN pg_last_wal_receive_lsn()::text END, replayed,
       CASE WHEN r AND pg_is_in_recovery() THEN pg_is_wal_replay_paused() ELSE false END,
       coalesce(`+receiverStatus+`, ''), coalesce(u.sender_host, ''), coalesce(u.sender_port, 0), coalesce(u.slot_name, ''), coalesce(u.received_tli, 0), u.flushed_lsn::text,
       w.pid, coalesce(w.application_name, ''), coalesce(host(w.client_addr), ''), coalesce(w.state, ''), coalesce(w.sync_state, ''), coalesce(w.sync_priority, 0),
       w.sent_lsn::text, w.write_lsn::text, w.flush_lsn::text, w.replay_lsn::text, coalesce(extract(epoch FROM w.replay_lag), 0)::float8, w.reply_time
FROM (SELECT r, CASE WHEN r THEN pg_last_wal_replay_lsn()::text END AS replayed FROM (SELECT pg_is_in_recovery() AS r OFFSET 0) AS p OFFSET 0) AS q
     LEFT JOIN pg_stat_wal_receiver AS u ON r
     LEFT JOIN pg_stat_replication AS w ON w.application_name <> $1
ORDER BY w.application_name, w.pid`, applicationName)
	if err != nil {
		return sight{}, err
	}
	defer rows.Close()
	var v sight
	for rows.Next() {
		var w Walsender
		var file *string
		var own [5]*string
		var lsn [4]*string
		var pid *int
		var lag float64
		var replied *time.Time
		u := &v.upstream
		if err := rows.Scan(&v.InRecovery, &file, &own[0], &own[1], &v.SyncNames, &v.Waiting, &v.conninfo, &own[2], &own[3], &v.paused,
			&u.Status, &u.Host, &u.Port, &u.Slot, &u.Timeline, &own[4],
			&pid, &w.Name, &w.Addr, &w.State, &w.SyncState, &w.SyncPriority, &lsn[0], &lsn[1], &lsn[2], &lsn[3], &lag, &replied); err != nil {
			return sight{}, err
		}
		if file != nil {
			if v.Timeline, err = segmentTimeline(*file); err != nil {
				return sight{}, err
			}
		}
		for i, to := range []*LSN{&v.InsertLSN, &v.FlushLSN, &v.receive, &v.replay, &v.flushed} {
			if *to, err = optionalLSN(own[i]); err != nil {
				return sight{}, err
			}
		}
		if pid == nil {
			continue
		}
		w.PID, w.ReplayLag = *pid, time.Duration(lag*float64(time.Second))
		if replied != nil {
			w.reply = *replied
		}
		for i, to := range []*LSN{&w.SentLSN, &w.WriteLSN, &w.FlushLSN, &w.ReplayLSN} {
			if *to, err = optionalLSN(lsn[i]); err != nil {
				return sight{}, err
			}
		}
		v.Walsenders = append(v.Walsenders, w)
	}
	return v, rows.Err()
}

// AwaitSync waits until every walsender that streams has read names as SetSync wrote them: those of the names show their place in the list as
// sync_priority, and all others 0. A walsender that has not read the list yet releases waiters by the older one. Names without a walsender are
// not waited for. When nothing tells the two lists apart, as after dropping the last name, an old walsender is stricter, and not waited for either.
//
// Two walsenders of one name would both count, so that ctx ending with two is ErrDuplicate.
func (d *Driver) AwaitSync(ctx context.Context, names []string) error {
	if _, err := SyncNames(names); err != nil {
		return err
	}
	ctx, cancel := withDefaultTimeout(ctx, applyTimeout)
	defer cancel()
	duplicate := false
	err := d.act.use(ctx, func(q context.Context, conn *pgx.Conn) error {
		return poll(ctx, func() (bool, string, error) {
			v, err := view(q, conn)
			if err != nil {
				return false, "", err
			}
			var state string
			state, duplicate = syncState(v, names)
			return state == "", state, nil
		})
	})
	if err != nil {
		if duplicate {
			err = fmt.Errorf("%w: %w", ErrDuplicate, err)
		}
		return fmt.Errorf("wait until the walsenders have read the list: %w", err)
	}
	return nil
}

// syncState says which walsender does not show its place yet, "" if all do.
func syncState(v PrimaryView, names []string) (state string, duplicate bool) {
	seen := map[string]int{}
	for _, w := range v.Walsenders {
		at := slices.IndexFunc(names, func(n string) bool { return strings.EqualFold(n, w.Name) })
		switch {
		case w.State != "streaming" && w.State != "catchup":
			continue
		case strings.EqualFold(w.Name, HoldName):
			return fmt.Sprintf("walsender %d serves a standby that calls itself %s", w.PID, w.Name), true
		case at >= 0 && seen[names[at]] != 0:
			return fmt.Sprintf("walsenders %d and %d serve %s", seen[names[at]], w.PID, w.Name), true
		case w.SyncPriority != at+1 && w.FlushLSN != 0:
			return fmt.Sprintf("walsender %d of %s has priority %d, want %d", w.PID, w.Name, w.SyncPriority, at+1), false
		}
		if at >= 0 {
			seen[names[at]] = w.PID
		}
	}
	return "", false
}

// ProveHeld proves that commits wait, that is that the checkpointer has told all backends that there are synchronous standbys: a commit of ours that
// changes nothing is seen waiting, and then taken out of the queue. The list must hold HoldName, or there would be nothing to see. Of all processes only
// our own is ever cancelled. ErrNotHeld comes when ctx ends first.
func (d *Driver) ProveHeld(ctx context.Context) error {
	ctx, cancel := withDefaultTimeout(ctx, applyTimeout)
	defer cancel()
	err := d.probe.use(ctx, func(q context.Context, conn *pgx.Conn) error {
		pid := int(conn.PgConn().PID())
		for n := 1; ; n++ {
			held, err := d.heldOnce(ctx, q, conn, pid)
			if err != nil {
				if ctx.Err() != nil {
					err = fmt.Errorf("%w: %w", ErrNotHeld, err)
				}
				return err
			}
			if held {
				d.s.log.Debug("a commit of ours was held back", "probes", n)
				return nil
			}
			t := time.NewTimer(probeRetry)
			select {
			case <-ctx.Done():
				t.Stop()
				return fmt.Errorf("%w: %d probes were not held back: %w", ErrNotHeld, n, context.Cause(ctx))
			case <-t.C:
			}
		}
	})
	if err != nil {
		return fmt.Errorf("prove that commits wait: %w", err)
	}
	return nil
}

// heldOnce commits once and watches. The commit has ended when it returns.
func (d *Driver) heldOnce(ctx, q context.Context, conn *pgx.Conn, pid int) (held bool, err error) {
	done := make(chan error, 1)
	commit, stop := context.WithCancel(q)
	defer stop()
	go func() {
		_, err := conn.Exec(commit, "SELECT pg_logical_emit_message(true, 'pgnotify', 'probe')")
		done <- err
	}()
	err = d.act.use(ctx, func(w context.Context, watch *pgx.Conn) error {
		return poll(ctx, func() (bool, string, error) {
			select {
			case err := <-done:
				done <- err
				return true, "", nil
			default:
			}
			var names string
			var waits bool
			// Only a backend of ours that waits is cancelled; the number is ours for as long as the connection is.
			err := watch.QueryRow(w, `SELECT current_setting('synchronous_standby_names'), coalesce((SELECT pg_cancel_backend(pid) FROM pg_stat_activity
WHERE pid = $1 AND application_name = $2 AND wait_event = 'SyncRep' AND wait_event_type = 'IPC'), false)`, pid, applicationName).Scan(&names, &waits)
			if err != nil {
				return false, "", err
			}
			if !strings.Contains(names, HoldName) {
				return false, "", fmt.Errorf("synchronous_standby_names is %q, want one with %s", names, HoldName)
			}
			held = held || waits
			return held, "the probe has not ended", nil
		})
	})
	if err != nil {
		stop() // pgx asks the server to cancel, and gives the connection up
	}
	return held, errors.Join(err, <-done)
}

// Nudge writes and flushes a few bytes of WAL, so that every walsender sends and every standby answers: waiters that a shorter list has set free are
// released by the next answer. It waits for our own disk alone.
func (d *Driver) Nudge(ctx context.Context) error {
	ctx, cancel := withDefaultTimeout(ctx, queryTimeout)
	defer cancel()
	if err := d.act.use(ctx, func(q context.Context, conn *pgx.Conn) error { return nudge(q, conn) }); err != nil {
		return fmt.Errorf("nudge the standbys: %w", err)
	}
	return nil
}

// nudge commits with an own transaction number, since only such a commit is flushed at once.
func nudge(ctx context.Context, conn *pgx.Conn) error {
	_, err := conn.Exec(ctx, "SELECT pg_logical_emit_message(true, 'pgnotify', 'nudge')")
	return err
}

// Barrier takes the end of the WAL and waits until every named standby streams and has flushed up to there. It returns that place.
func (d *Driver) Barrier(ctx context.Context, names []string) (LSN, error) {
	ctx, cancel := withDefaultTimeout(ctx, applyTimeout)
	defer cancel()
	var at LSN
	err := d.act.use(ctx, func(q context.Context, conn *pgx.Conn) error {
		var text string
		if err := conn.QueryRow(q, "SELECT pg_current_wal_insert_lsn()::text").Scan(&text); err != nil {
			return err
		}
		var err error
		if at, err = ParseLSN(text); err != nil {
			return err
		}
		if err := nudge(q, conn); err != nil { // or nobody might flush what was inserted last
			return err
		}
		return awaitFlushed(ctx, q, conn, names, at)
	})
	if err != nil {
		return 0, fmt.Errorf("barrier at %s: %w", at, err)
	}
	return at, nil
}

// AwaitFlushed waits until every named standby streams and has flushed the WAL up to lsn.
func (d *Driver) AwaitFlushed(ctx context.Context, names []string, lsn LSN) error {
	ctx, cancel := withDefaultTimeout(ctx, applyTimeout)
	defer cancel()
	if err := d.act.use(ctx, func(q context.Context, conn *pgx.Conn) error { return awaitFlushed(ctx, q, conn, names, lsn) }); err != nil {
		return fmt.Errorf("wait for standbys to have %s: %w", lsn, err)
	}
	return nil
}

func awaitFlushed(ctx, q context.Context, conn *pgx.Conn, names []string, lsn LSN) error {
	return poll(ctx, func() (bool, string, error) {
		v, err := view(q, conn)
		if err != nil {
			return false, "", err
		}
		for _, n := range names {
			all := v.Named(n)
			if len(all) == 0 {
				return false, n + " is not connected", nil
			}
			for _, w := range all {
				if w.State != "streaming" || w.FlushLSN < lsn {
					return false, fmt.Sprintf("%s is %s and has flushed %s", n, w.State, w.FlushLSN), nil
				}
			}
		}
		return true, "", nil
	})
}
