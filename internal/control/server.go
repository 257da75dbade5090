package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
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
	listener *net.UnixListener
	daemon   Daemon
	log      *slog.Logger
}

// Listen takes the socket at path: 0666, because each call is decided by the caller's credentials. The socket of a vrrpd
// that is no more is replaced; one that still answers is an error that says so.
func Listen(path string, d Daemon, log *slog.Logger) (*Server, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("listen on control socket %s: %w", path, err)
	}
	if c, err := net.DialTimeout("unix", path, time.Second); err == nil {
		c.Close()
		return nil, fmt.Errorf("listen on control socket %s: another vrrpd answers there; give this one its own --socket", path)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("remove stale control socket %s: %w", path, err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("listen on control socket: %w", err)
	}
	if err := os.Chmod(path, 0o666); err != nil {
		l.Close()
		return nil, fmt.Errorf("open control socket to callers: %w", err)
	}
	return &Server{listener: l, daemon: d, log: log}, nil
}

// Close gives up the socket of a server that was never run.
func (s *Server) Close() { s.listener.Close() }

// perUser is how many connections a user other than root may have: nobody shall use up the descriptors that hooks need.
const perUser = 32

// eventTimeout is how long a reader of the event stream may leave its socket full.
const eventTimeout = 5 * time.Second

// guests counts connections by user.
type guests struct {
	mu    sync.Mutex
	count map[uint32]int
	user  map[net.Conn]uint32
}

// come reports whether the user may have one more.
func (g *guests) come(c net.Conn, cred *unix.Ucred) bool {
	if cred == nil || cred.Uid == 0 {
		return true
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.count[cred.Uid] >= perUser {
		return false
	}
	g.count[cred.Uid]++
	g.user[c] = cred.Uid
	return true
}

func (g *guests) leave(c net.Conn) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if uid, ok := g.user[c]; ok {
		delete(g.user, c)
		if g.count[uid]--; g.count[uid] == 0 {
			delete(g.count, uid)
		}
	}
}

type credKey struct{}

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
	g := &guests{count: map[uint32]int{}, user: map[net.Conn]uint32{}}
	srv := &http.Server{
		Handler:        mux,
		ReadTimeout:    5 * time.Second,
		IdleTimeout:    time.Minute,
		MaxHeaderBytes: 16 << 10,
		ErrorLog:       slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
		BaseContext:    func(net.Listener) context.Context { return ctx },
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			cred := peerCred(c)
			if !g.come(c, cred) {
				s.log.Warn("control connection refused, the user has too many", "uid", cred.Uid, "pid", cred.Pid)
				c.Close()
			}
			return context.WithValue(ctx, credKey{}, cred)
		},
		ConnState: func(c net.Conn, state http.ConnState) {
			if state == http.StateClosed {
				g.leave(c)
			}
		},
	}
	stop := context.AfterFunc(ctx, func() { srv.Close() })
	defer stop()
	if err := srv.Serve(s.listener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve control socket: %w", err)
	}
	return nil
}

// peerCred reads who connected; nil when the kernel can't tell, which no privileged call accepts.
func peerCred(c net.Conn) *unix.Ucred {
	u, ok := c.(*net.UnixConn)
	if !ok {
		return nil
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return nil
	}
	var cred *unix.Ucred
	if err := raw.Control(func(fd uintptr) {
		cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil {
		return nil
	}
	return cred
}

// privileged lets root and the daemon's own user through and logs the call with its uid.
func (s *Server) privileged(w http.ResponseWriter, r *http.Request, what string) bool {
	_, ok := s.allowed(w, r, what, "only root may", nil)
	return ok
}

// allowed lets root, the daemon's own user and whom else accepts through, and logs the call with its uid: an operator's for operators,
// one of the agent, which talks all the time, for those who look closer.
func (s *Server) allowed(w http.ResponseWriter, r *http.Request, what, who string, also func(uid uint32) bool) (*unix.Ucred, bool) {
	cred, _ := r.Context().Value(credKey{}).(*unix.Ucred)
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
