package postgres

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"
)

// Glance is one look at a server in either role.
type Glance struct {
	Life     Life // of the postmaster; the zero value: none runs, and nothing below but Control is known
	Control  ControlData
	Answered bool // the server took our session and answered
	PrimaryView
	Position Position // primary: flushed; standby: the end of what it received or replayed, and the timeline that owns it
	// Whole is where a record ends that is on this disk with all before it: the newest that is known, 0 if none is. What a server has flushed or received
	// may end in the middle of a record, which is nobody's after a crash.
	Whole    LSN
	Receive  LSN      // standby: flushed by walreceivers in this life, 0 if none ran
	Replay   LSN      // standby
	Paused   bool     // standby: replay is paused
	Conninfo string   // standby: primary_conninfo in force
	Upstream Upstream // standby
}

// onDisk is what the server's files said. While it goes on and answers they tell nothing new, but what a checkpoint writes.
type onDisk struct {
	at      time.Time
	life    Life
	control ControlData
}

// filesEvery is how often the files of a server that answers are read.
const filesEvery = time.Second

// Glance looks at the server over sessions that stay: one round trip on a primary and on a standby that streams, three on another standby. Of a server
// that is down, or does not answer within ctx, it tells what the files say; the error then is why it did not answer, and ErrNotRunning if it is down.
func (d *Driver) Glance(ctx context.Context) (Glance, error) {
	ctx, cancel := withDefaultTimeout(ctx, queryTimeout)
	defer cancel()
	var err error
	if f := d.onDisk.Load(); f != nil && time.Since(f.at) < filesEvery && f.life.goesOn() {
		g := Glance{Life: f.life, Control: f.control}
		if err = d.glance(ctx, &g); err == nil && g.agree() {
			return g, nil
		}
	}
	d.onDisk.Store(nil)
	silent := err // the server has had its time, and is not given it twice
	var g Glance
	now := time.Now()
	if g.Life, err = d.s.Life(); err != nil {
		return g, fmt.Errorf("look at the server: %w", err)
	}
	if g.Control, err = d.s.Control(); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return g, fmt.Errorf("look at the server: %w", err)
	}
	if g.Life == (Life{}) {
		return g, fmt.Errorf("look at the server: %w", ErrNotRunning)
	}
	if silent != nil && ctx.Err() != nil {
		return g, silent
	}
	if err = d.glance(ctx, &g); err == nil && g.agree() {
		d.onDisk.Store(&onDisk{now, g.Life, g.Control})
	}
	return g, err
}

// agree reports whether nothing is waited for that the files would tell: the first checkpoint of a primary's timeline.
func (g *Glance) agree() bool { return g.InRecovery || g.Control.Timeline == g.Position.Timeline }

// replaying is the timeline that a standby was seen to replay, and in which life of the server.
type replaying struct {
	life     Life
	timeline Timeline
}

// written is how far a primary was seen to have whole records on its disk. What was inserted ends with a record; at one look it is
// noted, and at a later one it is on the disk.
type written struct {
	life        Life
	next, whole LSN
}

// flushed is w after a look.
func (w written) flushed(life Life, insert, flush LSN, block uint32) written {
	if w.life != life {
		w = written{life: life}
	}
	if w.next == 0 || insert < w.next { // the postmaster has restarted its processes, and what was not on the disk is gone
		w.next = insert
	}
	if flush >= w.next {
		w.whole, w.next = w.next, insert
		// Behind a page's end is told where the next record begins (PostgreSQL's XLogBytePosToRecPtr): after the page header of 24 or 40 bytes.
		if in := w.whole % LSN(max(block, 1)); in == 24 || in == 40 {
			w.whole -= in
		}
	}
	return w
}

// glance asks a server that runs.
//
// Where a standby's WAL ends, and on which timeline, is told by a replication session. It is kept only as long as it is needed: up to version 15, all
// WAL that arrives wakes every such session, before the primary is told of it. A standby whose walreceiver streams the timeline that is replayed needs
// none. Replay never goes back to an older timeline, and to a newer one only after the walreceiver has ended.
func (d *Driver) glance(ctx context.Context, g *Glance) error {
	v, err := d.see(ctx)
	if err != nil {
		return err
	}
	streams := v.upstream.Status == "streaming" && v.flushed != 0 && v.flushed >= v.replay
	switch known := d.replays.Load(); {
	case !v.InRecovery:
		g.Position = Position{v.Timeline, v.FlushLSN}
		d.ident.rest()
	case streams && known != nil && *known == (replaying{g.Life, v.upstream.Timeline}):
		g.Position = Position{known.timeline, v.flushed}
		d.ident.rest()
	default:
		id, err := d.ident.identify(ctx)
		if err != nil {
			return fmt.Errorf("look at the standby: %w", err)
		}
		g.Position = Position{id.Timeline, id.LSN}
		d.replays.Store(&replaying{g.Life, id.Timeline})
		if v, err = d.see(ctx); err != nil {
			return err
		}
		if !v.InRecovery { // it has been promoted in this moment
			g.Position = Position{v.Timeline, v.FlushLSN}
		}
	}
	g.PrimaryView, g.Conninfo, g.Receive, g.Replay, g.Paused, g.Upstream = v.PrimaryView, v.conninfo, v.receive, v.replay, v.paused, v.upstream
	g.Whole = v.replay
	if !v.InRecovery {
		var w written
		if known := d.written.Load(); known != nil {
			w = *known
		}
		w = w.flushed(g.Life, v.InsertLSN, v.FlushLSN, g.Control.WALBlockSize)
		d.written.Store(&w)
		g.Whole = w.whole
	}
	g.Answered = true
	return nil
}
