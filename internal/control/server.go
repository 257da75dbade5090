package control

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Daemon is what the server shows to its callers.
type Daemon interface {
	Status(ctx context.Context) Status
	// Quorum is the quorum extension; nil: the file has no quorum block.
	Quorum() QuorumCalls
	Release(ctx context.Context, instance string, hold time.Duration) error
	// Plan tells what a reload with the file would do.
	Plan(ctx context.Context, file string) (Plan, error)
	// Subscribe returns the events from now on; the channel is closed when the reader is too slow or cancel is called.
	Subscribe() (events <-chan Event, cancel func())
}

// Server answers on one Unix socket.
type Server struct {
	socket *Socket
	daemon Daemon
	log    *slog.Logger
}

// Listen takes the socket at path.
func Listen(path string, d Daemon, log *slog.Logger) (*Server, error) {
	s, err := ListenSocket(SocketOptions{Path: path, Name: "control socket", Owner: "vrrpd", Option: "--socket", PerUser: perUser, Log: log})
	if err != nil {
		return nil, err
	}
	return &Server{s, d, log}, nil
}

// Close gives up the socket of a server that was never run.
func (s *Server) Close() { s.socket.Close() }

// perUser is how many connections a user other than root may have: nobody shall use up the descriptors that hooks need.
const perUser = 32

// eventTimeout is how long a reader of the event stream may leave its socket full.
const eventTimeout = 5 * time.Second

// Run serves until ctx ends, then closes every connection and removes the socket.
func (s *Server) Run(ctx context.Context) error {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/status", s.status)
	mux.HandleFunc("GET /v1/events", s.events)
	mux.HandleFunc("GET /metrics", s.metrics)
	mux.HandleFunc("POST /v1/release", s.release)
	mux.HandleFunc("POST /v1/plan", s.plan)
	s.quorumCalls(mux)
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		fail(w, http.StatusNotFound, fmt.Errorf("no such call: %s %s", r.Method, r.URL.Path))
	})
	return s.socket.Serve(ctx, mux)
}

// privileged lets root and the daemon's own user through and logs the call with its uid.
func (s *Server) privileged(w http.ResponseWriter, r *http.Request, what string) bool {
	_, ok := s.allowed(w, r, what, "only root may", nil)
	return ok
}

// allowed lets root, the daemon's own user and whom else accepts through, and logs the call with its uid: an operator's for operators,
// one of the agent, which talks all the time, for those who look closer.
func (s *Server) allowed(w http.ResponseWriter, r *http.Request, what, who string, also func(uid uint32) bool) (*unix.Ucred, bool) {
	cred := Caller(r.Context())
	if cred == nil {
		fail(w, http.StatusForbidden, fmt.Errorf("%s: caller's credentials unknown", what))
		return nil, false
	}
	if cred.Uid != 0 && int(cred.Uid) != syscall.Geteuid() && (also == nil || !also(cred.Uid)) {
		s.log.Warn("control call refused", "call", what, "uid", cred.Uid, "pid", cred.Pid)
		fail(w, http.StatusForbidden, fmt.Errorf("%s: permission denied for uid %d, %s", what, cred.Uid, who))
		return nil, false
	}
	level := slog.LevelInfo
	if also != nil {
		level = slog.LevelDebug
	}
	s.log.Log(r.Context(), level, "control call", "call", what, "uid", cred.Uid, "pid", cred.Pid)
	return cred, true
}

func (s *Server) status(w http.ResponseWriter, r *http.Request) {
	reply(w, http.StatusOK, s.daemon.Status(r.Context()))
}

// body reads the request's JSON; an unknown key is an error.
func body(w http.ResponseWriter, r *http.Request, what string, into any) bool {
	dec := json.NewDecoder(http.MaxBytesReader(w, r.Body, 64<<10))
	dec.DisallowUnknownFields()
	if err := dec.Decode(into); err != nil {
		fail(w, http.StatusBadRequest, fmt.Errorf("read %s request: %w", what, err))
		return false
	}
	return true
}

func (s *Server) release(w http.ResponseWriter, r *http.Request) {
	if !s.privileged(w, r, "release") {
		return
	}
	var q ReleaseRequest
	if !body(w, r, "release", &q) {
		return
	}
	if q.Hold < 0 {
		fail(w, http.StatusBadRequest, fmt.Errorf("release %s: hold must not be negative (got %s)", q.Instance, q.Hold))
		return
	}
	if q.Ask {
		reply(w, http.StatusOK, struct{}{})
		return
	}
	s.log.Info("release asked for", "instance", q.Instance, "for", q.Hold)
	if err := s.daemon.Release(r.Context(), q.Instance, q.Hold); err != nil {
		fail(w, http.StatusConflict, err)
		return
	}
	reply(w, http.StatusOK, struct{}{})
}

func (s *Server) events(w http.ResponseWriter, r *http.Request) {
	events, cancel := s.daemon.Subscribe()
	defer cancel()
	send, ok := stream(w)
	if !ok {
		return
	}
	for {
		select {
		case <-r.Context().Done():
			return
		case e, open := <-events:
			if !open || !send(e) {
				return
			}
		}
	}
}

// stream begins an answer of one line of JSON for each thing that happens; send is false once the reader is gone or too slow.
func stream(w http.ResponseWriter) (send func(any) bool, ok bool) {
	rc := http.NewResponseController(w)
	// The request has been read; its deadline would end the stream.
	if err := rc.SetReadDeadline(time.Time{}); err != nil {
		fail(w, http.StatusInternalServerError, fmt.Errorf("open event stream: %w", err))
		return nil, false
	}
	w.Header().Set("Content-Type", "application/x-ndjson")
	w.WriteHeader(http.StatusOK)
	if rc.Flush() != nil {
		return nil, false
	}
	enc := json.NewEncoder(w)
	return func(v any) bool {
		return rc.SetWriteDeadline(time.Now().Add(eventTimeout)) == nil && enc.Encode(v) == nil && rc.Flush() == nil
	}, true
}

func reply(w http.ResponseWriter, code int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	// A caller that hung up in the middle has no use for an error.
	_ = json.NewEncoder(w).Encode(v)
}

func fail(w http.ResponseWriter, code int, err error) { reply(w, code, errorBody{Error: err.Error()}) }
