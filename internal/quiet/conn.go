package quiet

import (
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Conn makes a TCP or Unix connection one whose reads and writes are system calls of which Go's scheduler is not told. It is the same connection in all
// else: deadlines, Close, errors. Any other kind of connection is returned as it is.
func Conn(loud net.Conn) net.Conn {
	s, ok := loud.(syscall.Conn)
	if !ok {
		return loud
	}
	raw, err := s.SyscallConn()
	if err != nil {
		return loud // closed already: its first use says so
	}
	c := &conn{Conn: loud, raw: raw}
	c.in.step, c.out.step = c.in.receive, c.out.send // made once: a method value for each call would be allocated
	return c
}

type conn struct {
	net.Conn
	raw     syscall.RawConn
	in, out direction
}

// direction is one way of a connection, and the one call that is under way there.
type direction struct {
	mu   sync.Mutex
	step func(fd uintptr) bool // says whether the call is done; else it is made again when there is more, or room
	b    []byte
	n    int
	err  syscall.Errno
}

// atMost is how much one system call takes, in bytes: meanwhile nothing else of this process may run.
const atMost = 64 << 10

func (d *direction) receive(fd uintptr) bool {
	for {
		b := d.b[:min(len(d.b), atMost)]
		n, _, err := unix.RawSyscall6(unix.SYS_RECVFROM, fd, uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)), unix.MSG_DONTWAIT, 0, 0)
		switch err {
		case unix.EINTR:
			continue
		case unix.EAGAIN:
			return false
		case 0:
			d.n = int(n)
		}
		d.err = err
		return true
	}
}

func (d *direction) send(fd uintptr) bool {
	for d.n < len(d.b) {
		b := d.b[d.n:min(len(d.b), d.n+atMost)]
		n, _, err := unix.RawSyscall6(unix.SYS_SENDTO, fd, uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)), unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, 0, 0)
		switch err {
		case unix.EINTR:
		case unix.EAGAIN:
			return false
		case 0:
			d.n += int(n)
		default:
			d.err = err
			return true
		}
	}
	return true
}

// do makes one call; wait is the connection's, which waits for more or for room. An error of the system call itself is a syscall.Errno.
func (d *direction) do(b []byte, wait func(func(fd uintptr) bool) error) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.b, d.n, d.err = b, 0, 0
	err := wait(d.step)
	if d.b = nil; err == nil && d.err != 0 {
		err = d.err
	}
	return d.n, err
}

// Read implements net.Conn.
func (c *conn) Read(b []byte) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	n, err := c.in.do(b, c.raw.Read)
	if err == nil && n == 0 {
		err = io.EOF
	}
	return n, c.named("read", err)
}

// Write implements net.Conn.
func (c *conn) Write(b []byte) (int, error) {
	n, err := c.out.do(b, c.raw.Write)
	return n, c.named("write", err)
}

// named has an error of a system call say which one it was, and on what.
func (c *conn) named(op string, err error) error {
	errno, ok := err.(syscall.Errno) //nolint:errorlint // what do made of it, and not what the connection wrapped
	if !ok {
		return err
	}
	return &net.OpError{Op: op, Net: c.LocalAddr().Network(), Source: c.LocalAddr(), Addr: c.RemoteAddr(), Err: os.NewSyscallError(op, errno)}
}

// SyscallConn implements syscall.Conn.
func (c *conn) SyscallConn() (syscall.RawConn, error) { return c.raw, nil }
