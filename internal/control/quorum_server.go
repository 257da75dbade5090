package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"
)

// QuorumCalls is the quorum extension as the control socket calls it.
type QuorumCalls interface {
	Resource(name string) (Resource, error)
	// Changes gets a value after each change of a resource, until cancel.
	Changes() (changed <-chan struct{}, cancel func())
	// AgentUser reports whether this user may speak for what stands behind a resource.
	AgentUser(uid uint32) bool
	// Attach holds an agent's connection until detach; other agents' messages come by messages, whose end is that of the connection.
	Attach(h AgentHello, pid int32) (messages <-chan AgentMessage, detach func(), err error)
	AgentEligible(resource string, ok bool, reason string) error
	Pledge(p PledgeReport) error
	Advanced(q AdvanceReport) error
	Init(ctx context.Context, q InitRequest) error
	SetRule(ctx context.Context, q RuleRequest) error
	GiveBack(q GiveBackRequest) error
	// Park returns when the addresses are off, or are let come back.
	Park(ctx context.Context, q ParkRequest) error
	Read(ctx context.Context, resource string) (Resource, error)
	Tell(ctx context.Context, m AgentMessage) error
	Pause(ctx context.Context, q PauseRequest) error
	Set(ctx context.Context, q SetRequest) error
	AddVoter(ctx context.Context, id string) error
	RemoveVoter(ctx context.Context, id string) error
}

var errNoQuorum = errors.New("this vrrpd runs without a quorum block")

// quorumCall wraps a call of the quorum extension: what it is called, whether the agent's user may make it, and what it does.
func quorumCall[Q, A any](s *Server, what string, agent bool, f func(context.Context, QuorumCalls, Q) (A, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		calls := s.daemon.Quorum()
		if calls == nil {
			fail(w, http.StatusNotFound, errNoQuorum)
			return
		}
		who, also := "only root may", (func(uint32) bool)(nil)
		if agent {
			who, also = "only root and agent_user may", calls.AgentUser
		}
		if _, ok := s.allowed(w, r, what, who, also); !ok {
			return
		}
		var q Q
		if !body(w, r, what, &q) {
			return
		}
		a, err := f(r.Context(), calls, q)
		if err != nil {
			fail(w, http.StatusConflict, err)
			return
		}
		reply(w, http.StatusOK, a)
	}
}

func (s *Server) quorumCalls(mux *http.ServeMux) {
	type none = struct{}
	mux.HandleFunc("GET /v1/resources/{name}", s.resource)
	mux.HandleFunc("GET /v1/resources/{name}/watch", s.watchResource)
	mux.HandleFunc("POST /v1/agent", s.agent)
	mux.HandleFunc("POST /v1/agent/eligible", quorumCall(s, "agent report", true, func(_ context.Context, c QuorumCalls, q EligibleRequest) (none, error) {
		return none{}, c.AgentEligible(q.Resource, q.Eligible, q.Reason)
	}))
	mux.HandleFunc("POST /v1/agent/pledge", quorumCall(s, "pledge", true, func(_ context.Context, c QuorumCalls, q PledgeReport) (none, error) {
		return none{}, c.Pledge(q)
	}))
	mux.HandleFunc("POST /v1/agent/advanced", quorumCall(s, "report of more WAL", true, func(_ context.Context, c QuorumCalls, q AdvanceReport) (none, error) {
		return none{}, c.Advanced(q)
	}))
	mux.HandleFunc("POST /v1/agent/init", quorumCall(s, "init", true, func(ctx context.Context, c QuorumCalls, q InitRequest) (none, error) {
		return none{}, c.Init(ctx, q)
	}))
	mux.HandleFunc("POST /v1/agent/rule", quorumCall(s, "set rule", true, func(ctx context.Context, c QuorumCalls, q RuleRequest) (none, error) {
		return none{}, c.SetRule(ctx, q)
	}))
	mux.HandleFunc("POST /v1/agent/release", quorumCall(s, "release epoch", true, func(_ context.Context, c QuorumCalls, q GiveBackRequest) (none, error) {
		return none{}, c.GiveBack(q)
	}))
	mux.HandleFunc("POST /v1/agent/park", quorumCall(s, "park", true, func(ctx context.Context, c QuorumCalls, q ParkRequest) (none, error) {
		return none{}, c.Park(ctx, q)
	}))
	mux.HandleFunc("POST /v1/agent/read", quorumCall(s, "read the log", true, func(ctx context.Context, c QuorumCalls, q ReadRequest) (Resource, error) {
		return c.Read(ctx, q.Resource)
	}))
	mux.HandleFunc("POST /v1/agent/tell", quorumCall(s, "tell", true, func(ctx context.Context, c QuorumCalls, q AgentMessage) (none, error) {
		return none{}, c.Tell(ctx, q)
	}))
	mux.HandleFunc("POST /v1/agent/pause", quorumCall(s, "pause", true, func(ctx context.Context, c QuorumCalls, q PauseRequest) (none, error) {
		return none{}, c.Pause(ctx, q)
	}))
	mux.HandleFunc("POST /v1/agent/set", quorumCall(s, "set", true, func(ctx context.Context, c QuorumCalls, q SetRequest) (none, error) {
		return none{}, c.Set(ctx, q)
	}))
	mux.HandleFunc("POST /v1/quorum/add", quorumCall(s, "quorum add", false, func(ctx context.Context, c QuorumCalls, q MemberRequest) (none, error) {
		return none{}, c.AddVoter(ctx, q.ID)
	}))
	mux.HandleFunc("POST /v1/quorum/remove", quorumCall(s, "quorum remove", false, func(ctx context.Context, c QuorumCalls, q MemberRequest) (none, error) {
		return none{}, c.RemoveVoter(ctx, q.ID)
	}))
}

func (s *Server) resource(w http.ResponseWriter, r *http.Request) {
	calls := s.daemon.Quorum()
	if calls == nil {
		fail(w, http.StatusNotFound, errNoQuorum)
		return
	}
	x, err := calls.Resource(r.PathValue("name"))
	if err != nil {
		fail(w, http.StatusNotFound, err)
		return
	}
	reply(w, http.StatusOK, x)
}

func (s *Server) watchResource(w http.ResponseWriter, r *http.Request) {
	calls := s.daemon.Quorum()
	if calls == nil {
		fail(w, http.StatusNotFound, errNoQuorum)
		return
	}
	name := r.PathValue("name")
	if _, err := calls.Resource(name); err != nil {
		fail(w, http.StatusNotFound, err)
		return
	}
	follow(r.Context(), w, calls, name, nil, func(x Resource, _ *AgentMessage) any { return x })
}

// agent holds an agent's connection: while it is open, the agent speaks for the resource, and hears of each change.
func (s *Server) agent(w http.ResponseWriter, r *http.Request) {
	calls := s.daemon.Quorum()
	if calls == nil {
		fail(w, http.StatusNotFound, errNoQuorum)
		return
	}
	cred, ok := s.allowed(w, r, "agent", "only root and agent_user may", calls.AgentUser)
	if !ok {
		return
	}
	var h AgentHello
	if !body(w, r, "agent", &h) {
		return
	}
	messages, detach, err := calls.Attach(h, cred.Pid)
	if err != nil {
		fail(w, http.StatusConflict, err)
		return
	}
	defer detach()
	follow(r.Context(), w, calls, h.Resource, messages, func(x Resource, m *AgentMessage) any {
		if m != nil {
			return AgentEvent{Message: m}
		}
		return AgentEvent{Resource: &x}
	})
	s.log.Info("agent gone", "resource", h.Resource, "uid", cred.Uid, "pid", cred.Pid)
}

// repeatEvery is how often a watcher hears of a resource that does not change, so that a dead connection is found.
const repeatEvery = time.Second

// follow sends a resource now, after each change, and each second, and messages as they come.
func follow(ctx context.Context, w http.ResponseWriter, calls QuorumCalls, name string, messages <-chan AgentMessage, line func(Resource, *AgentMessage) any) {
	changed, cancel := calls.Changes()
	defer cancel()
	again := time.NewTicker(repeatEvery)
	defer again.Stop()
	send, ok := stream(w)
	for ok {
		x, err := calls.Resource(name)
		if err != nil || !send(line(x, nil)) {
			return
		}
		select {
		case <-ctx.Done():
			return
		case m, open := <-messages:
			if !open || !send(line(x, &m)) {
				return
			}
		case <-changed:
		case <-again.C:
		}
	}
}

// EligibleRequest is the agent's newest verdict on its server.
type EligibleRequest struct {
	Resource string `json:"resource"`
	Eligible bool   `json:"eligible"`
	Reason   string `json:"reason,omitempty"`
}

// Resource asks for one resource of the quorum.
func (c *Client) Resource(ctx context.Context, name string) (Resource, error) {
	var x Resource
	err := c.call(ctx, http.MethodGet, "/v1/resources/"+name, nil, &x)
	return x, err
}

// Watch calls f with the resource now, after each change and each second, until f fails, ctx ends or vrrpd stops (io.EOF).
func (c *Client) Watch(ctx context.Context, name string, f func(Resource) error) error {
	resp, err := c.do(ctx, http.MethodGet, "/v1/resources/"+name+"/watch", nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	return lines(ctx, c.socket, resp.Body, f)
}

// Agent speaks for a resource until f fails, ctx ends or vrrpd stops (io.EOF); f is called as by Watch, and for each message.
func (c *Client) Agent(ctx context.Context, h AgentHello, f func(AgentEvent) error) error {
	resp, err := c.do(ctx, http.MethodPost, "/v1/agent", h)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	return lines(ctx, c.socket, resp.Body, f)
}

// AgentEligible reports the agent's newest verdict on its server.
func (c *Client) AgentEligible(ctx context.Context, q EligibleRequest) error {
	return c.call(ctx, http.MethodPost, "/v1/agent/eligible", q, nil)
}

// Pledge reports that the server follows nobody of a lower epoch any more.
func (c *Client) Pledge(ctx context.Context, q PledgeReport) error {
	return c.call(ctx, http.MethodPost, "/v1/agent/pledge", q, nil)
}

// Advanced reports that the server has more WAL than when this was called last.
func (c *Client) Advanced(ctx context.Context, q AdvanceReport) error {
	return c.call(ctx, http.MethodPost, "/v1/agent/advanced", q, nil)
}

// Init makes the resource of a PostgreSQL cluster.
func (c *Client) Init(ctx context.Context, q InitRequest) error {
	return c.call(ctx, http.MethodPost, "/v1/agent/init", q, nil)
}

// SetRule replaces the rule. After an error that is no refusal its outcome is not known.
func (c *Client) SetRule(ctx context.Context, q RuleRequest) error {
	return c.call(ctx, http.MethodPost, "/v1/agent/rule", q, nil)
}

// GiveBack ends the epoch that this node holds.
func (c *Client) GiveBack(ctx context.Context, q GiveBackRequest) error {
	return c.call(ctx, http.MethodPost, "/v1/agent/release", q, nil)
}

// Park takes the addresses of a resource that this node holds off, or lets them come back.
func (c *Client) Park(ctx context.Context, q ParkRequest) error {
	return c.call(ctx, http.MethodPost, "/v1/agent/park", q, nil)
}

// ReadLog gives a resource as the log has it behind a barrier that begins now.
func (c *Client) ReadLog(ctx context.Context, resource string) (Resource, error) {
	var x Resource
	err := c.call(ctx, http.MethodPost, "/v1/agent/read", ReadRequest{Resource: resource}, &x)
	return x, err
}

// Tell hands a message to another node's agent.
func (c *Client) Tell(ctx context.Context, m AgentMessage) error {
	return c.call(ctx, http.MethodPost, "/v1/agent/tell", m, nil)
}

// Pause stops elections of a resource, or lets them go on.
func (c *Client) Pause(ctx context.Context, q PauseRequest) error {
	return c.call(ctx, http.MethodPost, "/v1/agent/pause", q, nil)
}

// Set changes what the log keeps of a resource's settings.
func (c *Client) Set(ctx context.Context, q SetRequest) error {
	return c.call(ctx, http.MethodPost, "/v1/agent/set", q, nil)
}

// AddVoter adds a voter of the file to the membership, RemoveVoter takes one out.
func (c *Client) AddVoter(ctx context.Context, id string) error {
	return c.call(ctx, http.MethodPost, "/v1/quorum/add", MemberRequest{ID: id}, nil)
}

// RemoveVoter takes a voter out of the membership.
func (c *Client) RemoveVoter(ctx context.Context, id string) error {
	return c.call(ctx, http.MethodPost, "/v1/quorum/remove", MemberRequest{ID: id}, nil)
}

// lines reads a stream.
func lines[T any](ctx context.Context, socket string, body io.Reader, f func(T) error) error {
	dec := json.NewDecoder(body)
	for {
		var x T
		if err := dec.Decode(&x); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if errors.Is(err, io.EOF) {
				return io.EOF
			}
			return fmt.Errorf("read events from vrrpd at %s: %w", socket, err)
		}
		if err := f(x); err != nil {
			return err
		}
	}
}
