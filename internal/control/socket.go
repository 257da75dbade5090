package control

import (
	"context"
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

	"pgvrrp/internal/quiet"
)

// SocketOptions describe a Socket.
type SocketOptions struct {
	Path   string
	Name   string // for errors: "control socket"
	Owner  string // the program that listens there
	Option string // which has it listen elsewhere
	// PerUser is how many connections a user other than root may have; 0: any number.
	PerUser int
	Log     *slog.Logger
}

// Socket serves HTTP on a Unix socket, and knows its callers.
type Socket struct {
	o        SocketOptions
	listener *net.UnixListener
}

// ListenSocket takes the socket: 0666, because each call is decided by the caller's credentials. The one of an owner that is no more
// is replaced; one that still answers is an error that says so.
func ListenSocket(o SocketOptions) (*Socket, error) {
	if err := os.MkdirAll(filepath.Dir(o.Path), 0o755); err != nil {
		return nil, fmt.Errorf("listen on %s %s: %w", o.Name, o.Path, err)
	}
	if c, err := net.DialTimeout("unix", o.Path, time.Second); err == nil {
		c.Close()
		return nil, fmt.Errorf("listen on %s %s: another %s answers there; give this one its own %s", o.Name, o.Path, o.Owner, o.Option)
	}
	if err := os.Remove(o.Path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("remove stale %s %s: %w", o.Name, o.Path, err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: o.Path, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", o.Name, err)
	}
	if err := os.Chmod(o.Path, 0o666); err != nil {
		l.Close()
		return nil, fmt.Errorf("open %s to callers: %w", o.Name, err)
	}
	return &Socket{o, l}, nil
}

// Close gives up a socket that was never served.
func (s *Socket) Close() { s.listener.Close() }

// Serve serves until ctx ends, then closes every connection and removes the socket.
func (s *Socket) Serve(ctx context.Context, h http.Handler) error {
	g := &guests{most: s.o.PerUser, count: map[uint32]int{}, user: map[net.Conn]uint32{}}
	srv := &http.Server{
		Handler:        h,
		ReadTimeout:    5 * time.Second,
		IdleTimeout:    time.Minute,
		MaxHeaderBytes: 16 << 10,
		ErrorLog:       slog.NewLogLogger(s.o.Log.Handler(), slog.LevelDebug),
		BaseContext:    func(net.Listener) context.Context { return ctx },
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			cred := peerCred(c)
			if !g.come(c, cred) {
				s.o.Log.Warn("connection refused, the user has too many", "socket", s.o.Name, "uid", cred.Uid, "pid", cred.Pid)
				c.Close()
			}
			return WithCaller(ctx, cred)
		},
		ConnState: func(c net.Conn, state http.ConnState) {
			if state == http.StateClosed {
				g.leave(c)
			}
		},
	}
	stop := context.AfterFunc(ctx, func() { srv.Close() })
	defer stop()
	if err := srv.Serve(quietListener{s.listener}); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve %s: %w", s.o.Name, err)
	}
	return nil
}

// quietListener has the connections of agents, which say something all the time, cost less.
type quietListener struct{ net.Listener }

func (l quietListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return quiet.Conn(c), nil
}

type credKey struct{}

// WithCaller is ctx of a call by somebody.
func WithCaller(ctx context.Context, cred *unix.Ucred) context.Context {
	return context.WithValue(ctx, credKey{}, cred)
}

// Caller is who made the call that came with ctx; nil when the kernel can't tell, which no privileged call accepts.
func Caller(ctx context.Context) *unix.Ucred {
	cred, _ := ctx.Value(credKey{}).(*unix.Ucred)
	return cred
}

// peerCred reads who connected; nil when the kernel can't tell.
func peerCred(c net.Conn) *unix.Ucred {
	u, ok := c.(syscall.Conn)
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

// guests counts connections by user.
type guests struct {
	most  int
	mu    sync.Mutex
	count map[uint32]int
	user  map[net.Conn]uint32
}

// come reports whether the user may have one more.
func (g *guests) come(c net.Conn, cred *unix.Ucred) bool {
	if g.most == 0 || cred == nil || cred.Uid == 0 {
		return true
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.count[cred.Uid] >= g.most {
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
