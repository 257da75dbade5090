package postgres

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

const (
	slotPrefix = "pgnotify_"

	// sqlStateInUse is object_in_use: a slot that a walsender holds.
	sqlStateInUse = "55006"
)

// SlotName is the physical replication slot that node streams by, on whichever server: pgnotify_ and the node's name. A name with other characters than
// a slot may have (lower-case letters, digits and underscores), or too long a one, gets a hash at its end, so that no two nodes share a slot.
func SlotName(node string) string {
	plain := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '_' {
			return r
		}
		return '_'
	}, strings.ToLower(node))
	const room = maxNameLen - len(slotPrefix)
	if plain == node && len(node) <= room {
		return slotPrefix + node
	}
	h := fnv.New32a()
	h.Write([]byte(node)) // never fails
	return fmt.Sprintf("%s%s_%08x", slotPrefix, plain[:min(len(plain), room-9)], h.Sum32())
}

// Slot is one of our physical slots.
type Slot struct {
	Name       string
	Node       string // of the peers given; "" for a slot that belongs to none of them
	Active     bool   // a walsender uses it
	RestartLSN LSN    // what must be kept; 0 if nothing
	Status     string // wal_status: reserved, extended, unreserved, lost; "" if it keeps nothing
	Kept       int64  // bytes of WAL between RestartLSN and the end of what the server has written or replayed
	end        LSN    // that end
}

// SlotChanges is what Slots did.
type SlotChanges struct {
	Created, Recreated, Dropped []string
	Unbounded                   bool // max_slot_wal_keep_size is -1: an absent standby can fill the disk
}

// Slots makes the physical slots of our peers as they must be on every node, primary or standby: one that is missing is made, one that lost its WAL is
// made anew, and one of a node that is no peer any more is dropped unless a walsender uses it. It returns them as they are then.
func (d *Driver) Slots(ctx context.Context, peers []string) ([]Slot, SlotChanges, error) {
	ctx, cancel := withDefaultTimeout(ctx, queryTimeout)
	defer cancel()
	var all []Slot
	var c SlotChanges
	err := d.act.use(ctx, func(q context.Context, conn *pgx.Conn) error {
		var bound string
		if err := conn.QueryRow(q, "SELECT setting FROM pg_settings WHERE name = 'max_slot_wal_keep_size'").Scan(&bound); err != nil {
			return err
		}
		c.Unbounded = bound == "-1"
		now, err := readSlots(q, conn, peers)
		if err != nil {
			return err
		}
		missing := map[string]bool{}
		for _, p := range peers {
			missing[SlotName(p)] = true
		}
		for _, v := range now {
			delete(missing, v.Name)
			switch lost := v.Status == "lost"; {
			case v.Active || v.Node != "" && !lost:
				continue
			case lost && v.Node != "":
				if err := dropSlot(q, conn, v.Name); err != nil {
					return err
				}
				if err := createSlot(q, conn, v.Name); err != nil {
					return err
				}
				c.Recreated = append(c.Recreated, v.Name)
			default:
				if err := dropSlot(q, conn, v.Name); err != nil {
					return err
				}
				c.Dropped = append(c.Dropped, v.Name)
			}
		}
		for _, p := range peers {
			if name := SlotName(p); missing[name] {
				if err := createSlot(q, conn, name); err != nil {
					return err
				}
				delete(missing, name)
				c.Created = append(c.Created, name)
			}
		}
		all, err = readSlots(q, conn, peers)
		return err
	})
	if err != nil {
		return nil, c, fmt.Errorf("keep replication slots: %w", err)
	}
	if len(c.Created)+len(c.Recreated)+len(c.Dropped) > 0 {
		d.s.log.Info("replication slots changed", "created", c.Created, "recreated", c.Recreated, "dropped", c.Dropped)
	}
	return all, c, nil
}

func createSlot(ctx context.Context, conn *pgx.Conn, name string) error {
	_, err := conn.Exec(ctx, "SELECT pg_create_physical_replication_slot($1, true)", name)
	if err != nil {
		return fmt.Errorf("create slot %s: %w", name, err)
	}
	return nil
}

// dropSlot drops a slot; one that has just come into use stays.
func dropSlot(ctx context.Context, conn *pgx.Conn, name string) error {
	_, err := conn.Exec(ctx, "SELECT pg_drop_replication_slot($1)", name)
	var pe *pgconn.PgError
	if err != nil && (!errors.As(err, &pe) || pe.Code != sqlStateInUse) {
		return fmt.Errorf("drop slot %s: %w", name, err)
	}
	return nil
}

func readSlots(ctx context.Context, conn *pgx.Conn, peers []string) ([]Slot, error) {
	rows, err := conn.Query(ctx, `
SELECT slot_name::text, active, restart_lsn::text, coalesce(wal_status, ''),
       (CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_flush_lsn() END)::text
FROM pg_replication_slots WHERE slot_type = 'physical' AND NOT temporary AND starts_with(slot_name::text, $1) ORDER BY slot_name`, slotPrefix)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var all []Slot
	for rows.Next() {
		var v Slot
		var lsn, end *string
		if err := rows.Scan(&v.Name, &v.Active, &lsn, &v.Status, &end); err != nil {
			return nil, err
		}
		if v.end, err = optionalLSN(end); err != nil {
			return nil, err
		}
		if v.RestartLSN, err = optionalLSN(lsn); err != nil {
			return nil, err
		}
		if i := slices.IndexFunc(peers, func(p string) bool { return SlotName(p) == v.Name }); i >= 0 {
			v.Node = peers[i]
		}
		if v.RestartLSN > 0 && v.end > v.RestartLSN {
			v.Kept = int64(v.end - v.RestartLSN)
		}
		all = append(all, v)
	}
	return all, rows.Err()
}

// AdvanceSlots lets go of WAL that a peer has flushed, for slots that no walsender moves: all of a standby's, and on a primary those of peers that
// stream without one. Positions that the server has not replayed yet count up to where it is; unknown peers, and slots in use, are left alone.
func (d *Driver) AdvanceSlots(ctx context.Context, flushed map[string]LSN) error {
	ctx, cancel := withDefaultTimeout(ctx, queryTimeout)
	defer cancel()
	peers := make([]string, 0, len(flushed))
	for p := range flushed {
		peers = append(peers, p)
	}
	slices.Sort(peers)
	err := d.act.use(ctx, func(q context.Context, conn *pgx.Conn) error {
		all, err := readSlots(q, conn, peers)
		if err != nil {
			return err
		}
		for _, v := range all {
			to := min(flushed[v.Node], v.end)
			if v.Node == "" || v.Active || v.RestartLSN == 0 || to <= v.RestartLSN || v.Status == "lost" {
				continue
			}
			_, err := conn.Exec(q, "SELECT pg_replication_slot_advance($1, $2::pg_lsn)", v.Name, to.String())
			var pe *pgconn.PgError
			if err != nil && (!errors.As(err, &pe) || pe.Code != sqlStateInUse) {
				return fmt.Errorf("slot %s to %s: %w", v.Name, to, err)
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("advance replication slots: %w", err)
	}
	return nil
}
