//go:build pg

package postgres

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// begin leaves in pg_wal what a walreceiver leaves that began on timeline tli and lost its primary before the switch point: the history, and the first
// half of what the segment has in common with the timeline before, up to the switch point. The rest are zeros.
func (d *driven) begin(tli Timeline, at Position) {
	d.t.Helper()
	c := must1(d.Control())(d.t)
	size := c.WALSegmentSize
	wal := filepath.Join(d.DataDir(), "pg_wal")
	old := must1(os.ReadFile(filepath.Join(wal, must1(segmentFile(at.Timeline, at.LSN, size))(d.t))))(d.t)
	half := make([]byte, size)
	copy(half, old[:uint32(at.LSN)%size/2])
	// The segment first: the running server goes by the history as soon as it sees it.
	for _, f := range []struct {
		name    string
		content []byte
	}{
		{must1(segmentFile(tli, at.LSN, size))(d.t), half},
		{historyFile(tli), fmt.Appendf(nil, "%d\t%s\tno recovery target specified\n", at.Timeline, at.LSN)},
	} {
		if err := d.createFile(filepath.Join(wal, f.name), f.content); err != nil {
			d.t.Fatal(err)
		}
	}
}

// adopted waits until the server goes by the history of tli.
func (d *driven) adopted(tli Timeline) {
	d.t.Helper()
	d.await("its target timeline", func() (bool, string) {
		tail := fileTail(d.cfg.StartLog, 0)
		return strings.Contains(tail, fmt.Sprintf("new target timeline is %d", tli)), tail
	})
}

// partials are the names of what was set aside.
func (d *driven) partials() string {
	d.t.Helper()
	all := must1(filepath.Glob(filepath.Join(d.DataDir(), "pg_wal", "*"+partial)))(d.t)
	for k := range all {
		all[k] = strings.TrimSuffix(filepath.Base(all[k]), partial)
	}
	return strings.Join(all, " ")
}

// TestTimelineNeverReached: a standby began to receive a new timeline whose primary went before it came to anything. The one that pg_wal begins with must
// neither become a parent nor hide what is there, in a running server and in one that crashed.
func TestTimelineNeverReached(t *testing.T) {
	t.Parallel()
	a, b, c := trio(t, "")
	a.sql("INSERT INTO t SELECT repeat('x', 100) FROM generate_series(1, 1000)")
	a.commit("last").acknowledged(t)
	if _, err := a.Barrier(a.ctx(), []string{"b", "c"}); err != nil {
		t.Fatal(err)
	}
	a.crash()
	for _, d := range []*driven{b, c} {
		at := d.fence().Position
		d.begin(2, at)
		d.adopted(2)
		r, err := d.Fence(d.ctx(), FenceOptions{})
		if err != nil || r.Beyond != 2 || r.Position != at {
			t.Fatalf("report: got %+v, %v, want %v and that 2 is beyond", r, err, at)
		}
		if _, err := d.Reserve([]Timeline{2}, 3); err != nil {
			t.Fatal(err)
		}
		if d == c {
			// What the report is for: PostgreSQL reads the half segment to find where the WAL ends.
			if p, err := c.PromoteTo(c.ctx(), 3); err == nil && p.Parent == 1 {
				t.Errorf("promoted in spite of it: got %+v", p)
			} else {
				t.Logf("promoted in spite of it: %+v, %v", p, err)
			}
			continue
		}
		d.stop()
		if err := d.StartStandby(d.ctx()); err != nil {
			t.Fatal(err)
		}
		if got, want := d.partials(), "00000002.history "+must1(segmentFile(2, at.LSN, 16<<20))(t); got != want {
			t.Errorf("set aside: got %q, want %q", got, want)
		}
		if r := d.fence(); r.Beyond != 0 || r.Position != at {
			t.Errorf("after a start: got %+v, want %v", r, at)
		}
		if p := d.grant([]Timeline{2, 3}, 3); p.Parent != 1 || p.SwitchLSN != at.LSN {
			t.Errorf("promote: got %+v, want to leave 1 at %s", p, at.LSN)
		}
		if got := d.query("SELECT count(*)::text FROM t WHERE v = 'last'"); got != "1" {
			t.Errorf("the last row: got %s", got)
		}
	}
}

// TestCrashWithTimelineNeverReached is the same for a server that crashed: it is consistent by what it has of its own timeline.
func TestCrashWithTimelineNeverReached(t *testing.T) {
	t.Parallel()
	a, b, c := trio(t, "")
	a.sql("INSERT INTO t SELECT repeat('x', 100) FROM generate_series(1, 1000)")
	if _, err := a.Barrier(a.ctx(), []string{"b", "c"}); err != nil {
		t.Fatal(err)
	}
	a.crash()
	at := b.fence().Position
	b.crash()
	b.begin(2, at)
	if err := b.StartStandby(b.ctx()); err != nil {
		t.Fatal(err)
	}
	if r := b.fence(); r.Position != at || r.Beyond != 0 {
		t.Errorf("got %+v, want %v", r, at)
	}
	// A promotion makes the segment first, then the history, and was killed before or after that; the numbers below it are reserved.
	segment := must1(segmentFile(4, at.LSN, 16<<20))(t)
	for _, history := range []bool{false, true} {
		b.crash()
		if _, err := b.Reserve([]Timeline{2, 3}, 4); err != nil {
			t.Fatal(err)
		}
		if history {
			b.begin(4, at)
		} else if err := b.createFile(filepath.Join(b.DataDir(), "pg_wal", segment), make([]byte, 16<<20)); err != nil {
			t.Fatal(err)
		}
		if err := b.StartStandby(b.ctx()); err != nil {
			t.Fatalf("with a history %v: %v", history, err)
		}
		if got := b.partials(); !strings.HasSuffix(got, segment) || strings.Contains(got, "00000004.history") != history {
			t.Errorf("set aside: got %q, want %s as the last and a history %v", got, segment, history)
		}
	}
	b.grant([]Timeline{2, 3, 4, 5}, 5)

	// What was reached stays, though the control file does not know of it.
	c.follow(b)
	b.setSync("c")
	b.commit("on 5").acknowledged(t)
	at = c.fence().Position
	c.crash()
	if k := must1(c.Control())(t); k.Timeline != 1 || at.Timeline != 5 {
		t.Fatalf("want timeline 1 in the control file and to be on 5: got %d, %v", k.Timeline, at)
	}
	if err := c.StartStandby(c.ctx()); err != nil {
		t.Fatal(err)
	}
	if r := c.fence(); r.Position != at || c.partials() != "" {
		t.Errorf("got %+v and %q set aside, want %v", r, c.partials(), at)
	}
}

// TestRewindOfShortTimeline: one that was promoted, and died before its first checkpoint, came back as a standby on its own timeline.
func TestRewindOfShortTimeline(t *testing.T) {
	t.Parallel()
	for _, more := range []bool{false, true} { // nothing but the end of recovery, or another segment, too
		a, b, c := trio(t, "")
		a.commit("kept").acknowledged(t)
		if _, err := a.Barrier(a.ctx(), []string{"b", "c"}); err != nil {
			t.Fatal(err)
		}
		a.crash()
		b.freeze(b.pidOf("checkpointer"))
		b.grant(nil, 2)
		if more {
			b.sql("SET synchronous_commit = local; INSERT INTO t VALUES ('one')")
			b.sql("SELECT pg_switch_wal()")
			b.sql("SET synchronous_commit = local; INSERT INTO t VALUES ('two')")
		}
		b.crash()
		c.grant([]Timeline{2}, 3)
		if err := c.Checkpoint(c.ctx()); err != nil {
			t.Fatal(err)
		}
		if err := b.StartStandby(b.ctx()); err != nil {
			t.Fatal(err)
		}
		if r := b.fence(); r.Timeline != 2 {
			t.Fatalf("got %+v, want timeline 2", r)
		}
		b.stop()
		if k := must1(b.Control())(t); k.Timeline != 1 || k.MinRecoveryTimeline != 2 {
			t.Fatalf("the last checkpoint is on timeline %d, the end on %d, want 1 and 2", k.Timeline, k.MinRecoveryTimeline)
		}
		if err := b.Rewind(b.ctx(), c.upstream(), nil); err != nil {
			t.Fatalf("more %v: %v", more, err)
		}
		if err := b.WriteFollow(c.target("b")); err != nil {
			t.Fatal(err)
		}
		if err := b.StartStandby(b.ctx()); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Barrier(c.ctx(), []string{"b"}); err != nil {
			t.Fatal(err)
		}
		if got := b.query("SELECT string_agg(v, ',') FROM t"); got != "kept" {
			t.Errorf("more %v: got %q", more, got)
		}
		for _, d := range []*driven{b, c} {
			d.stop()
		}
	}
}

// TestLastWALAmongEmptySegments: segments that were made for later, and are all zeros, say nothing about the size of segments.
func TestLastWALAmongEmptySegments(t *testing.T) {
	t.Parallel()
	n := newNode(t, "").start()
	n.sql("CREATE TABLE t (v text)")
	end := n.facts().LSN
	n.crash()
	for k := range LSN(8) {
		name := must1(segmentFile(1, end+(k+1)<<24, 16<<20))(t)
		if err := n.createFile(filepath.Join(n.DataDir(), "pg_wal", name), make([]byte, 16<<20)); err != nil {
			t.Fatal(err)
		}
	}
	if last, err := n.LastWAL(n.ctx()); err != nil || last.Timeline != 1 || last.LSN < end {
		t.Errorf("got %v, %v, want at least %s", last, err, end)
	}
}
