package postgres

import (
	"context"
	"errors"
	"io"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"
)

// plainServer takes replication connections without TLS and counts them.
type plainServer struct {
	net.Listener
	accepted, requests atomic.Int64
	refuse             bool // the startup, too
}

func newPlainServer(t *testing.T, refuse bool) *plainServer {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &plainServer{Listener: l, refuse: refuse}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			s.accepted.Add(1)
			go s.serve(c)
		}
	}()
	return s
}

func (s *plainServer) serve(c net.Conn) {
	defer c.Close()
	b := pgproto3.NewBackend(c, c)
	for {
		m, err := b.ReceiveStartupMessage()
		if err != nil {
			return
		}
		if _, ok := m.(*pgproto3.SSLRequest); ok {
			s.requests.Add(1)
			if _, err := c.Write([]byte{'N'}); err != nil {
				return
			}
			continue
		}
		if s.refuse {
			b.Send(&pgproto3.ErrorResponse{Severity: "FATAL", Code: "57P03", Message: "the database system is starting up"})
			_ = b.Flush() // who has hung up needs no answer
			return
		}
		b.Send(&pgproto3.AuthenticationOk{})
		b.Send(&pgproto3.ReadyForQuery{TxStatus: 'I'})
		if b.Flush() == nil {
			_, _ = io.Copy(io.Discard, c) // until the goodbye
		}
		return
	}
}

// TestRefusedTLS: a server without TLS is connected to once, whatever becomes of the connection.
func TestRefusedTLS(t *testing.T) {
	for _, tt := range []struct {
		name     string
		refuse   bool
		sslmode  string
		accepted int64
		requests int64
		fails    bool
	}{
		{name: "by default", accepted: 1, requests: 1},
		{name: "prefer", sslmode: " sslmode=prefer", accepted: 1, requests: 1},
		{name: "prefer, and it refuses", sslmode: " sslmode=prefer", refuse: true, accepted: 1, requests: 1, fails: true},
		{name: "disable", sslmode: " sslmode=disable", accepted: 1},
		{name: "require", sslmode: " sslmode=require", accepted: 1, requests: 1, fails: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newPlainServer(t, tt.refuse)
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			_, port, err := net.SplitHostPort(s.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			c, err := dialReplication(ctx, "host=127.0.0.1 user=x port="+port+tt.sslmode)
			if (err != nil) != tt.fails {
				t.Errorf("got %v, want an error: %t", err, tt.fails)
			}
			if err == nil {
				closeConn(c)
			}
			if got := s.accepted.Load(); got != tt.accepted {
				t.Errorf("connections: got %d, want %d", got, tt.accepted)
			}
			if got := s.requests.Load(); got != tt.requests {
				t.Errorf("requests for TLS: got %d, want %d", got, tt.requests)
			}
		})
	}
}

// TestRefusalEnds: what is kept goes to the same address alone, and not beyond the attempt.
func TestRefusalEnds(t *testing.T) {
	var closed []string
	r := &refusal{dial: func(context.Context, string, string) (net.Conn, error) { return nil, errors.New("dialled anew") }}
	keep := func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.conn, r.addr = named{&closed, "kept"}, "a:1"
	}
	keep()
	if c, err := r.connect(t.Context(), "tcp", "a:1"); err != nil || c == nil || len(closed) != 0 {
		t.Errorf("same address: got %v, %v, closed %v", c, err, closed)
	}
	keep()
	if _, err := r.connect(t.Context(), "tcp", "b:1"); err == nil || len(closed) != 1 {
		t.Errorf("another address: got %v, closed %v, want a new connection", err, closed)
	}
	keep()
	r.end()
	if _, err := r.connect(t.Context(), "tcp", "a:1"); err == nil || len(closed) != 2 {
		t.Errorf("after the attempt: got %v, closed %v, want a new connection", err, closed)
	}
}

type named struct {
	closed *[]string
	name   string
}

func (n named) Close() error                     { *n.closed = append(*n.closed, n.name); return nil }
func (named) Read([]byte) (int, error)           { return 0, io.EOF }
func (named) Write(b []byte) (int, error)        { return len(b), nil }
func (named) LocalAddr() net.Addr                { return nil }
func (named) RemoteAddr() net.Addr               { return nil }
func (named) SetDeadline(time.Time) error        { return nil }
func (named) SetReadDeadline(time.Time) error    { return nil }
func (named) SetWriteDeadline(_ time.Time) error { return nil }
