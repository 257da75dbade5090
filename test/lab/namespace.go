package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// errHostDown is the cause of whatever a host without power can't do.
var errHostDown = errors.New("host is down")

// namespace is an operating system thread that lives in a network namespace and runs what is given to it, one piece
// after the other. A socket stays in the namespace it was made in, so only its creation needs the thread.
type namespace struct {
	work chan func()
	done chan struct{}
	once sync.Once
}

func openNamespace(path string) (*namespace, error) {
	n := &namespace{work: make(chan func()), done: make(chan struct{})}
	ready := make(chan error, 1)
	go n.run(path, ready)
	if err := <-ready; err != nil {
		return nil, fmt.Errorf("enter network namespace %s: %w", path, err)
	}
	return n, nil
}

func (n *namespace) run(path string, ready chan<- error) {
	// Unlocked only if the way back worked: nobody else ever runs in the namespace. Letting the thread end instead
	// would not do, because it may be the process's first, which never ends and would keep the namespace.
	runtime.LockOSThread()
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		ready <- err
		return
	}
	defer home.Close()
	f, err := os.Open(path)
	if err == nil {
		err = unix.Setns(int(f.Fd()), unix.CLONE_NEWNET)
		f.Close()
	}
	ready <- err
	for err == nil {
		select {
		case fn := <-n.work:
			fn()
			continue
		case <-n.done:
		}
		break
	}
	if unix.Setns(int(home.Fd()), unix.CLONE_NEWNET) == nil {
		runtime.UnlockOSThread()
	}
}

// do runs fn on the thread. fn must not start goroutines that expect the namespace.
func (n *namespace) do(fn func() error) error {
	if n == nil {
		return errHostDown
	}
	result := make(chan error, 1)
	select {
	case n.work <- func() { result <- fn() }:
		return <-result
	case <-n.done:
		return errHostDown
	}
}

func (n *namespace) close() {
	if n != nil {
		n.once.Do(func() { close(n.done) })
	}
}

// forgetOrphans makes the kernel of the calling thread's namespace drop connections whose process is gone after one
// more try: a closed socket that waits for its last acknowledgement keeps the namespace for minutes otherwise.
func forgetOrphans() error {
	return os.WriteFile("/proc/sys/net/ipv4/tcp_orphan_retries", []byte("1"), 0)
}

// dial connects a TCP socket made in the namespace. address is a literal address and a number.
func (n *namespace) dial(ctx context.Context, address string) (net.Conn, error) {
	ap, err := netip.ParseAddrPort(address)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", address, err)
	}
	family, sa := unix.AF_INET6, unix.Sockaddr(&unix.SockaddrInet6{Addr: ap.Addr().As16(), Port: int(ap.Port())})
	if ap.Addr().Is4() {
		family, sa = unix.AF_INET, &unix.SockaddrInet4{Addr: ap.Addr().As4(), Port: int(ap.Port())}
	}
	var fd int
	err = n.do(func() (err error) {
		fd, err = unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", address, err)
	}
	f := os.NewFile(uintptr(fd), "tcp "+address)
	defer f.Close()
	_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
	if err := connect(ctx, f, fd, sa); err != nil {
		return nil, fmt.Errorf("connect to %s: %w", address, err)
	}
	c, err := net.FileConn(f)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", address, err)
	}
	return c, nil
}

func connect(ctx context.Context, f *os.File, fd int, sa unix.Sockaddr) error {
	err := unix.Connect(fd, sa)
	if err == nil || !errors.Is(err, unix.EINPROGRESS) {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = f.SetWriteDeadline(time.Unix(1, 0)) })
	defer stop()
	rc, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var connErr error
	err = rc.Write(func(uintptr) bool {
		code, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
		if err != nil {
			connErr = err
			return true
		}
		if code != 0 {
			connErr = unix.Errno(code)
			return true
		}
		_, err = unix.Getpeername(fd)
		return err == nil
	})
	if err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return err
	}
	return connErr
}
