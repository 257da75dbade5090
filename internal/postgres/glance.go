package postgres

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/jackc/pgx/v5"
)

// Glance is one look at a server in either role.
type Glance struct {
	Life     Life // of the postmaster; the zero value: none runs, and nothing below but Control is known
	Control  ControlData
	Answered bool // the server took our session and answered
	PrimaryView
	Position Position // primary: flushed; standby: the end of what it received or replayed, and the timeline that owns it
	Receive  LSN      // standby: flushed by walreceivers in this life, 0 if none ran
	Replay   LSN      // standby
	Paused   bool     // standby: replay is paused
	Conninfo string   // standby: primary_conninfo in force
	Upstream Upstream // standby
}

// errPromoted says that recovery ended between two questions.
var errPromoted = errors.New("it has just been promoted")

// Glance looks at the server over sessions that stay: one round trip on a primary, four on a standby. Of a server that is down, or does not answer
// within ctx, it tells what the files say; the error then is why it did not answer, and ErrNotRunning if it is down.
func (d *Driver) Glance(ctx context.Context) (Glance, error) {
	ctx, cancel := withDefaultTimeout(ctx, queryTimeout)
	defer cancel()
	var g Glance
	var err error
	if g.Life, err = d.s.Life(); err != nil {
		return g, fmt.Errorf("look at the server: %w", err)
	}
	if g.Control, err = d.s.Control(); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return g, fmt.Errorf("look at the server: %w", err)
	}
	if g.Life == (Life{}) {
		return g, fmt.Errorf("look at the server: %w", ErrNotRunning)
	}
	err = d.glance(ctx, &g)
	if errors.Is(err, errPromoted) {
		// It answers, as a primary now, and must not seem dead in the moment in which it is granted its epoch.
		err = d.glance(ctx, &g)
	}
	return g, err
}

// glance asks a server that runs.
func (d *Driver) glance(ctx context.Context, g *Glance) error {
	view, err := d.View(ctx)
	if err != nil {
		return err
	}
	g.PrimaryView = view
	if !g.InRecovery {
		g.Position = Position{g.Timeline, g.FlushLSN}
		g.Answered = true
		return nil
	}
	id, err := d.ident.identify(ctx)
	if err != nil {
		return fmt.Errorf("look at the standby: %w", err)
	}
	g.Position = Position{id.Timeline, id.LSN}
	err = d.look.use(ctx, func(q context.Context, conn *pgx.Conn) error {
		v, err := look(q, conn)
		if err != nil {
			return err
		}
		if !v.recovery {
			return errPromoted
		}
		g.Conninfo, g.Receive, g.Replay, g.Paused = v.settings["primary_conninfo"], v.receive, v.replay, v.paused
		g.SyncNames = v.settings["synchronous_standby_names"]
		g.Upstream, err = upstream(q, conn)
		return err
	})
	if err != nil {
		return fmt.Errorf("look at the standby: %w", err)
	}
	g.Answered = true
	return nil
}
