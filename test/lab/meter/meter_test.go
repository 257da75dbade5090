package meter

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
)

func TestOutages(t *testing.T) {
	start := time.Unix(1000, 0)
	ms := func(n int) time.Time { return start.Add(time.Duration(n) * time.Millisecond) }
	tests := []struct {
		name  string
		acks  []int // ms
		end   int
		marks []mark
		errs  []event
		want  []string
	}{
		{name: "none", acks: []int{1, 20, 60, 100}, end: 120},
		{name: "exactly the threshold", acks: []int{0, 50}, end: 60},
		{name: "one, out of order", acks: []int{200, 10, 240}, end: 250, want: []string{"10-200  []"}},
		{name: "open at the end", acks: []int{10}, end: 300, want: []string{"10-300 open  []"}},
		{name: "no acknowledgement", end: 300},
		{
			name: "step inside wins over the one before", acks: []int{10, 200, 400}, end: 410,
			marks: []mark{{"a", ms(5)}, {"b", ms(20)}, {"c", ms(30)}, {"d", ms(500)}}, want: []string{"10-200 b []", "200-400 c []"},
		},
		{
			name: "reasons by frequency, of that stretch", acks: []int{10, 200}, end: 210,
			errs: []event{{ms(5), "before"}, {ms(20), "x"}, {ms(30), "y"}, {ms(40), "y"}, {ms(205), "after"}}, want: []string{"10-200  [y x]"},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m := &Meter{cfg: Config{Threshold: 50 * time.Millisecond}, start: start, end: ms(tt.end), marks: tt.marks, errs: tt.errs}
			for i, a := range tt.acks {
				m.acked = append(m.acked, ack{int64(i), time.Duration(a) * time.Millisecond, time.Millisecond})
			}
			var got []string
			for _, o := range m.Outages() {
				open := ""
				if o.Open {
					open = " open"
				}
				got = append(got, fmt.Sprintf("%d-%d%s %s %v", o.Start.Sub(start).Milliseconds(), o.End.Sub(start).Milliseconds(), open, o.Step, o.Reasons))
			}
			if !slices.Equal(got, tt.want) {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

// server is a PostgreSQL server as far as a session needs one, over a pipe.
type server struct {
	identity string
	recovery bool
	// reply answers an INSERT; nil is success.
	reply func(b *pgproto3.Backend)
}

func (s *server) dial(context.Context, string, string) (net.Conn, error) {
	c, sc := net.Pipe()
	go s.serve(sc)
	return c, nil
}

func (s *server) serve(c net.Conn) {
	defer c.Close()
	b := pgproto3.NewBackend(c, c)
	if _, err := b.ReceiveStartupMessage(); err != nil {
		return
	}
	b.Send(&pgproto3.AuthenticationOk{})
	b.Send(&pgproto3.ReadyForQuery{TxStatus: 'I'})
	for b.Flush() == nil {
		msg, err := b.Receive()
		if err != nil {
			return
		}
		switch msg.(type) {
		case *pgproto3.Query:
			b.Send(&pgproto3.RowDescription{Fields: []pgproto3.FieldDescription{{Name: []byte("a")}, {Name: []byte("b")}}})
			b.Send(&pgproto3.DataRow{Values: [][]byte{[]byte(s.identity), fmt.Append(nil, s.recovery)}})
			b.Send(&pgproto3.CommandComplete{CommandTag: []byte("SELECT 1")})
			b.Send(&pgproto3.ReadyForQuery{TxStatus: 'I'})
		case *pgproto3.Parse:
			b.Send(&pgproto3.ParseComplete{})
		case *pgproto3.Describe:
			b.Send(&pgproto3.ParameterDescription{ParameterOIDs: []uint32{25, 20, 23}})
			b.Send(&pgproto3.NoData{})
		case *pgproto3.Bind:
			if s.reply != nil {
				s.reply(b)
				continue
			}
			b.Send(&pgproto3.BindComplete{})
			b.Send(&pgproto3.NoData{})
			b.Send(&pgproto3.CommandComplete{CommandTag: []byte("INSERT 0 1")})
		case *pgproto3.Sync:
			b.Send(&pgproto3.ReadyForQuery{TxStatus: 'I'})
		case *pgproto3.Terminate:
			return
		}
	}
}

func testConfig(t *testing.T) *pgconn.Config {
	t.Helper()
	cfg, err := pgconn.ParseConfig("host=10.0.0.1 user=app dbname=meter sslmode=disable")
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

func TestCommitOutcome(t *testing.T) {
	complete := func(b *pgproto3.Backend) {
		b.Send(&pgproto3.BindComplete{})
		b.Send(&pgproto3.NoData{})
		b.Send(&pgproto3.CommandComplete{CommandTag: []byte("INSERT 0 1")})
	}
	refuse := func(severity, code string) func(*pgproto3.Backend) {
		return func(b *pgproto3.Backend) {
			b.Send(&pgproto3.ErrorResponse{Severity: severity, SeverityUnlocalized: severity, Code: code, Message: "no"})
		}
	}
	tests := []struct {
		name  string
		reply func(*pgproto3.Backend)
		want  string // acked warned failed unknown
		again bool
	}{
		{"success", nil, "1 0 0 0", true},
		{"success with a notice", func(b *pgproto3.Backend) {
			b.Send(&pgproto3.NoticeResponse{Severity: "NOTICE", SeverityUnlocalized: "NOTICE", Message: "by the way"})
			complete(b)
		}, "1 0 0 0", true},
		{"success with a warning", func(b *pgproto3.Backend) {
			b.Send(&pgproto3.NoticeResponse{Severity: "WARNUNG", SeverityUnlocalized: "WARNING", Message: "canceling wait for synchronous replication"})
			complete(b)
		}, "0 1 0 0", true},
		{"error", refuse("ERROR", "23505"), "0 0 1 0", true},
		{"read-only", refuse("ERROR", "25006"), "0 0 1 0", false},
		{"fatal", refuse("FATAL", "57P01"), "0 0 0 1", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			srv := &server{identity: "n1", reply: tt.reply}
			s, err := open(t.Context(), testConfig(t), srv.dial, time.Second, nil)
			if err != nil {
				t.Fatal(err)
			}
			defer s.abort()
			if err := usable(s); err != nil {
				t.Fatal(err)
			}
			m := &Meter{start: time.Now(), warned: map[int64]string{}, failed: map[int64]string{}, unknown: map[int64]string{}}
			again := m.commit(s, 1, 0)
			got := fmt.Sprintf("%d %d %d %d", len(m.acked), len(m.warned), len(m.failed), len(m.unknown))
			if got != tt.want || again != tt.again {
				t.Errorf("got %s, again %t, want %s, %t", got, again, tt.want, tt.again)
			}
		})
	}
	t.Run("connection lost in the middle", func(t *testing.T) {
		var s *session
		srv := &server{identity: "n1", reply: func(*pgproto3.Backend) { s.abort() }}
		s, err := open(t.Context(), testConfig(t), srv.dial, time.Second, nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := usable(s); err != nil {
			t.Fatal(err)
		}
		m := &Meter{start: time.Now(), unknown: map[int64]string{}}
		if again := m.commit(s, 1, 0); again || len(m.unknown) != 1 {
			t.Errorf("again %t, indeterminate %d", again, len(m.unknown))
		}
	})
}

func TestConnectorOverlaps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		good := &server{identity: "n2"}
		var dials atomic.Int64
		c := &connector{cfg: testConfig(t), userTimeout: time.Second, every: 20 * time.Millisecond, maxStarting: 4, fail: func(error) {}}
		c.dial = func(ctx context.Context, network, address string) (net.Conn, error) {
			// The address answers only to those who ask after 100 ms; earlier ones hang, as a lost SYN does.
			if n := dials.Add(1); n <= 5 {
				<-ctx.Done()
				return nil, ctx.Err()
			}
			return good.dial(ctx, network, address)
		}
		start := time.Now()
		s := c.connect(t.Context(), usable)
		if s == nil {
			t.Fatal("got no session")
		}
		defer s.abort()
		if d := time.Since(start); d != 100*time.Millisecond {
			t.Errorf("connected after %s, want 100ms", d)
		}
	})
}

// A server that accepts connections but starts no session gets no more than a few at a time.
func TestConnectorSparesSlowServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var now, most atomic.Int64
		c := &connector{cfg: testConfig(t), userTimeout: time.Second, every: 20 * time.Millisecond, maxStarting: 2, fail: func(error) {}}
		c.dial = func(context.Context, string, string) (net.Conn, error) {
			time.Sleep(time.Microsecond) // what ends at this very moment has ended then
			conn, remote := net.Pipe()
			if n := now.Add(1); n > most.Load() {
				most.Store(n)
			}
			go func() {
				for b := make([]byte, 100); ; {
					if _, err := remote.Read(b); err != nil {
						now.Add(-1)
						return
					}
				}
			}()
			return conn, nil
		}
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		if s := c.connect(ctx, usable); s != nil {
			t.Error("got a session")
		}
		if most.Load() != 2 {
			t.Errorf("most at a time: got %d, want 2", most.Load())
		}
		time.Sleep(time.Second) // the last attempts end
	})
}

func TestUsableRefusesStandby(t *testing.T) {
	srv := &server{identity: "n1", recovery: true}
	s, err := open(t.Context(), testConfig(t), srv.dial, time.Second, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer s.abort()
	if err := usable(s); err == nil || !strings.Contains(err.Error(), "in recovery") {
		t.Errorf("got %v", err)
	}
}

func TestNoCancelRequest(t *testing.T) {
	var dials atomic.Int64
	srv := &server{identity: "n1"}
	s, err := open(t.Context(), testConfig(t), func(ctx context.Context, n, a string) (net.Conn, error) {
		dials.Add(1)
		return srv.dial(ctx, n, a)
	}, time.Second, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer s.abort()
	if err := s.pg.CancelRequest(t.Context()); err == nil || dials.Load() != 1 {
		t.Errorf("got %v after %d connections, want an error and 1", err, dials.Load())
	}
}

// A meter against a service whose address moves to another server while the first one hangs.
func TestMeterLeavesHangingServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var moved atomic.Bool
		first := &server{identity: "n1"}
		hang := make(chan struct{})
		first.reply = func(b *pgproto3.Backend) {
			if moved.Load() {
				<-hang
			}
			b.Send(&pgproto3.BindComplete{})
			b.Send(&pgproto3.NoData{})
			b.Send(&pgproto3.CommandComplete{CommandTag: []byte("INSERT 0 1")})
		}
		second := &server{identity: "n2"}
		dial := func(ctx context.Context, network, address string) (net.Conn, error) {
			if moved.Load() {
				return second.dial(ctx, network, address)
			}
			return first.dial(ctx, network, address)
		}
		m, err := Start(t.Context(), Config{Conninfo: "host=10.0.0.1 user=app dbname=meter sslmode=disable", Dial: dial, Writers: 2})
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(200 * time.Millisecond)
		at := m.Mark("moved")
		moved.Store(true)
		if _, err := m.WaitAck(t.Context(), at.Add(20*time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		m.Stop(t.Context())
		close(hang)
		out := m.Outages()
		if len(out) != 1 || out[0].Step != "moved" || out[0].Duration < 100*time.Millisecond || out[0].Duration > 130*time.Millisecond {
			t.Errorf("got %v, want one of little more than 100ms", out)
		}
		if len(m.unknown) != 2 {
			t.Errorf("indeterminate: got %d, want 2", len(m.unknown))
		}
	})
}

// A slow commit on a server that lives must be waited for.
func TestMeterWaitsForSlowCommit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var slow atomic.Bool
		srv := &server{identity: "n1"}
		srv.reply = func(b *pgproto3.Backend) {
			if slow.CompareAndSwap(true, false) {
				time.Sleep(2 * time.Second)
			}
			b.Send(&pgproto3.BindComplete{})
			b.Send(&pgproto3.NoData{})
			b.Send(&pgproto3.CommandComplete{CommandTag: []byte("INSERT 0 1")})
		}
		m, err := Start(t.Context(), Config{Conninfo: "host=10.0.0.1 user=app dbname=meter sslmode=disable", Dial: srv.dial, Writers: 1})
		if err != nil {
			t.Fatal(err)
		}
		at := m.Mark("slow")
		slow.Store(true)
		if _, err := m.WaitAck(t.Context(), at.Add(time.Second)); err != nil {
			t.Fatal(err)
		}
		m.Stop(t.Context())
		if len(m.unknown)+len(m.failed) != 0 {
			t.Errorf("indeterminate %v, failed %v, want none", m.unknown, m.failed)
		}
		if out := m.Outages(); len(out) != 1 || out[0].Duration < 2*time.Second || out[0].Duration > 2100*time.Millisecond {
			t.Errorf("got %v, want one of 2s", out)
		}
	})
}

func TestReportFailsClosed(t *testing.T) {
	m := &Meter{cfg: Config{Attempt: time.Millisecond}, stopped: true, cancel: func() {}}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	refused := errors.New("connection refused")
	_, err := m.ReportFrom(ctx, "host=10.0.0.1 sslmode=disable", func(context.Context, string, string) (net.Conn, error) { return nil, refused }, false)
	if !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, refused) {
		t.Errorf("got %v", err)
	}
}
