//go:build pg

package postgres

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
)

// subscribe has a client read logical changes that never confirms any.
func (n *node) subscribe() {
	n.t.Helper()
	n.sql("CREATE PUBLICATION p FOR ALL TABLES")
	conn, err := pgconn.Connect(n.ctx(), fmt.Sprintf("host=127.0.0.1 port=%d user=postgres dbname=postgres replication=database", n.port))
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() { closeConn(conn) })
	if _, err := conn.Exec(n.ctx(), "CREATE_REPLICATION_SLOT s LOGICAL pgoutput").ReadAll(); err != nil {
		n.t.Fatal(err)
	}
	// It answers with CopyBoth, which pgconn does not know.
	conn.Frontend().Send(&pgproto3.Query{String: "START_REPLICATION SLOT s LOGICAL 0/0 (proto_version '1', publication_names 'p')"})
	if err := conn.Frontend().Flush(); err != nil {
		n.t.Fatal(err)
	}
}

// TestStuckWalsenderHoldsUpNoStop: the checkpointer waits for each walsender before it writes the shutdown checkpoint. One that serves a subscriber which
// confirms nothing, or a standby that takes nothing, would hold it up for wal_sender_timeout. A standby that takes everything still gets everything.
func TestStuckWalsenderHoldsUpNoStop(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, conf string
		hold       func(a *driven)
	}{
		{"logical subscriber", "wal_level = logical\n", func(a *driven) {
			a.subscribe()
			a.sql("INSERT INTO t VALUES ('changed')")
			a.await("the subscriber's walsender", func() (bool, string) {
				s := a.query("SELECT string_agg(state || ' ' || coalesce(sent_lsn, '0/0') || ' ' || coalesce(flush_lsn, '0/0'), ', ') FROM pg_stat_replication WHERE application_name = ''")
				return strings.HasPrefix(s, "streaming"), s
			})
		}},
		{"frozen standby", "", func(a *driven) {
			b := a.standbyNamed("b", "")
			b.freeze(b.pidOf("walreceiver"))
			before := ""
			a.await("a full socket", func() (bool, string) {
				a.sql("INSERT INTO t SELECT repeat('x', 1000) FROM generate_series(1, 20000)")
				now := a.query("SELECT sent_lsn::text FROM pg_stat_replication WHERE application_name = 'b'")
				full := now == before
				before = now
				return full, now
			})
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			a := drive(newNode(t, tt.conf).start(), "a")
			a.sql("CREATE TABLE t (v text)")
			c := a.standbyNamed("c", "")
			tt.hold(a)
			began := time.Now()
			if err := a.Stop(a.ctx(), Handover); err != nil {
				t.Fatal(err)
			}
			t.Logf("stopped after %v", time.Since(began))
			a.compareControl(StateShutDown)
			control, err := a.Control()
			if err != nil {
				t.Fatal(err)
			}
			if r := c.fence(); r.LSN != control.EndLSN() {
				t.Errorf("the other standby: got %s, want all, %s", r.LSN, control.EndLSN())
			}
		})
	}
}
