package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"syscall"
	"time"

	"pgvrrp/internal/control"
	"pgvrrp/internal/postgres"
)

// DefaultSocket is where an agent listens.
const DefaultSocket = "/run/pgnotify/agent.sock"

// Request is an order over the agent's socket. Which fields count depends on the call.
type Request struct {
	To     string      `json:"to,omitempty"`     // switchover
	On     bool        `json:"on,omitempty"`     // maintenance, pause
	Reason string      `json:"reason,omitempty"` // pause
	Key    string      `json:"key,omitempty"`    // set
	Value  int         `json:"value,omitempty"`  // set
	State  string      `json:"state,omitempty"`  // hook
	Init   InitRequest `json:"init,omitzero"`
}

// answer is what became of it.
type answer struct {
	Text     string             `json:"text,omitempty"`
	Findings []postgres.Finding `json:"findings,omitempty"`
	Error    string             `json:"error,omitempty"`
}

// Server answers on the agent's Unix socket: status for everybody, orders for root and the agent's own user.
type Server struct {
	socket *control.Socket
	agent  *Agent
	log    *slog.Logger
}

// Listen takes the socket at path.
func Listen(path string, a *Agent, log *slog.Logger) (*Server, error) {
	s, err := control.ListenSocket(control.SocketOptions{Path: path, Name: "agent socket", Owner: "agent", Option: "--agent-socket", Log: log})
	if err != nil {
		return nil, err
	}
	return &Server{s, a, log}, nil
}

// Close gives up the socket of a server that was never run.
func (s *Server) Close() { s.socket.Close() }

// callers is how many calls may wait at a time: whoever floods the socket keeps nobody's hook from being heard for ever.
const callers = 128

// Run serves until ctx ends.
func (s *Server) Run(ctx context.Context) error {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/status", func(w http.ResponseWriter, r *http.Request) {
		st, err := s.agent.Status(r.Context())
		if err != nil {
			reply(w, http.StatusServiceUnavailable, answer{Error: err.Error()})
			return
		}
		reply(w, http.StatusOK, st)
	})
	a := s.agent
	for name, f := range map[string]func(context.Context, Request) (string, error){
		"switchover":  func(ctx context.Context, q Request) (string, error) { return a.Switchover(ctx, q.To) },
		"maintenance": func(ctx context.Context, q Request) (string, error) { return a.Maintenance(ctx, q.On) },
		"pause":       func(ctx context.Context, q Request) (string, error) { return a.Pause(ctx, q.On, q.Reason) },
		"set":         func(ctx context.Context, q Request) (string, error) { return a.Set(ctx, q.Key, q.Value) },
		"hook":        func(ctx context.Context, q Request) (string, error) { return a.Hook(ctx, q.State) },
		"stop":        func(ctx context.Context, _ Request) (string, error) { return a.Stop(ctx) },
		"start":       func(ctx context.Context, _ Request) (string, error) { return a.Start(ctx) },
		"await":       func(ctx context.Context, _ Request) (string, error) { return a.Await(ctx, nil) },
		"init":        func(ctx context.Context, q Request) (string, error) { return a.Init(ctx, q.Init) },
	} {
		mux.HandleFunc("POST /v1/"+name, s.order(name, func(ctx context.Context, q Request) (answer, error) {
			text, err := f(ctx, q)
			return answer{Text: text}, err
		}))
	}
	mux.HandleFunc("POST /v1/doctor", s.order("doctor", func(ctx context.Context, _ Request) (answer, error) {
		found, err := a.Doctor(ctx)
		return answer{Findings: found}, err
	}))
	slots := make(chan struct{}, callers)
	return s.socket.Serve(ctx, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case slots <- struct{}{}:
			defer func() { <-slots }()
			mux.ServeHTTP(w, r)
		default:
			reply(w, http.StatusServiceUnavailable, answer{Error: "too many calls at once"})
		}
	}))
}

// order lets root and the agent's own user through, and logs who asked.
func (s *Server) order(name string, f func(context.Context, Request) (answer, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		cred := control.Caller(r.Context())
		if cred == nil || cred.Uid != 0 && int(cred.Uid) != syscall.Geteuid() {
			s.log.Warn("order refused", "order", name, "caller", cred)
			reply(w, http.StatusForbidden, answer{Error: name + ": permission denied, only root and the owner of the data directory may"})
			return
		}
		var q Request
		dec := json.NewDecoder(http.MaxBytesReader(w, r.Body, 64<<10))
		dec.DisallowUnknownFields()
		if err := dec.Decode(&q); err != nil {
			reply(w, http.StatusBadRequest, answer{Error: fmt.Sprintf("read %s request: %v", name, err)})
			return
		}
		// The request has been read; its deadline would end the waiting for what becomes of it.
		if err := http.NewResponseController(w).SetReadDeadline(time.Time{}); err != nil {
			reply(w, http.StatusInternalServerError, answer{Error: fmt.Sprintf("wait for %s: %v", name, err)})
			return
		}
		s.log.Info("order", "order", name, "uid", cred.Uid, "pid", cred.Pid)
		ans, err := f(r.Context(), q)
		if err != nil {
			s.log.Info("order failed", "order", name, "reason", err)
			reply(w, http.StatusConflict, answer{Error: err.Error()})
			return
		}
		reply(w, http.StatusOK, ans)
	}
}

func reply(w http.ResponseWriter, code int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(v) // a caller that hung up has no use for an error
}

// Client calls the agent behind a socket.
type Client struct {
	socket string
	http   *http.Client
}

// NewClient makes a client of the agent at socket, "" for DefaultSocket.
func NewClient(socket string) *Client {
	if socket == "" {
		socket = DefaultSocket
	}
	return &Client{socket, &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}}}}
}

// Close gives up every connection.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// NotRunningError says that nobody answers on the agent's socket.
type NotRunningError struct {
	Socket string
	Cause  error
}

// Error names the socket and what to look at.
func (e *NotRunningError) Error() string {
	return fmt.Sprintf("ask the agent at %s: %v (is pgnotify.service running?)", e.Socket, e.Cause)
}

// Unwrap is the cause.
func (e *NotRunningError) Unwrap() error { return e.Cause }

// Status asks what the agent knows.
func (c *Client) Status(ctx context.Context) (Status, error) {
	var s Status
	err := c.call(ctx, http.MethodGet, "status", nil, &s)
	return s, err
}

// Order gives an order and waits for what became of it.
func (c *Client) Order(ctx context.Context, name string, q Request) (string, error) {
	var a answer
	err := c.call(ctx, http.MethodPost, name, q, &a)
	return a.Text, err
}

// Doctor asks what is not as it should be.
func (c *Client) Doctor(ctx context.Context) ([]postgres.Finding, error) {
	var a answer
	err := c.call(ctx, http.MethodPost, "doctor", Request{}, &a)
	return a.Findings, err
}

func (c *Client) call(ctx context.Context, method, name string, in, out any) error {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return fmt.Errorf("encode call to the agent: %w", err)
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://agent/v1/"+name, body)
	if err != nil {
		return fmt.Errorf("make call to the agent: %w", err)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return &NotRunningError{c.socket, errors.Unwrap(err)}
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		var a answer
		if err := json.NewDecoder(io.LimitReader(resp.Body, 64<<10)).Decode(&a); err != nil || a.Error == "" {
			return fmt.Errorf("ask the agent at %s: %s", c.socket, resp.Status)
		}
		return errors.New(a.Error)
	}
	if err := json.NewDecoder(resp.Body).Decode(out); err != nil {
		return fmt.Errorf("read the answer of the agent at %s: %w", c.socket, err)
	}
	return nil
}
