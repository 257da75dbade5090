package gratarp

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"runtime"
	"syscall"
	"time"
	"unsafe"

	"github.com/mdlayher/packet"
	"golang.org/x/sys/unix"
)

// Frame is one Ethernet frame to send out of an interface.
type Frame struct {
	Index int    // of the interface
	Data  []byte // from the Ethernet header on, without checksum
}

// Conn sends frames out of any interface of its network namespace, also of one that is made later. It receives
// nothing. It is safe for concurrent use.
type Conn struct {
	conn *packet.Conn
	raw  syscall.RawConn
}

// Open opens the one socket that all announcements go through.
func Open() (*Conn, error) {
	// Index 0 is every interface, and protocol 0 none: the socket receives nothing (packet(7)).
	conn, err := packet.Listen(&net.Interface{}, packet.Raw, 0, nil)
	if err != nil {
		return nil, fmt.Errorf("open packet socket: %w", err)
	}
	c := &Conn{conn: conn}
	if c.raw, err = conn.SyscallConn(); err == nil {
		err = c.setSendBuffer()
	}
	if err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("open packet socket: %w", err)
	}
	return c, nil
}

// setSendBuffer makes room for the first batch of hundreds of addresses.
func (c *Conn) setSendBuffer() error {
	const size = 4 << 20
	var err error
	controlErr := c.raw.Control(func(fd uintptr) {
		if err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, size); err != nil {
			err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_SNDBUF, size)
		}
	})
	return errors.Join(controlErr, err)
}

// Close closes the socket.
func (c *Conn) Close() error { return c.conn.Close() }

// maxWait is how long a Send waits in all for room in a full send buffer.
const maxWait = 20 * time.Millisecond

// maxMessages is the kernel's limit for one sendmmsg(2).
const maxMessages = 1024

// Send sends the frames in order with as few system calls as it can, and returns how many went out. It does not
// give up at a frame that could not be sent: the error joins one error for each interface that failed.
func (c *Conn) Send(frames []Frame) (sent int, err error) {
	controlErr := c.raw.Control(func(fd uintptr) { sent, err = sendFrames(int(fd), frames) })
	return sent, errors.Join(controlErr, err)
}

func sendFrames(fd int, frames []Frame) (sent int, err error) {
	headers := make([]unix.Mmsghdr, len(frames))
	vectors := make([]unix.Iovec, len(frames))
	names := make([]unix.RawSockaddrLinklayer, len(frames))
	for i, f := range frames {
		if len(f.Data) < etherHeader {
			return 0, fmt.Errorf("send frame: %d bytes are no Ethernet frame", len(f.Data))
		}
		names[i] = unix.RawSockaddrLinklayer{
			Family: unix.AF_PACKET, Ifindex: int32(f.Index), Halen: 6,
			Protocol: binary.NativeEndian.Uint16(f.Data[12:]),
		}
		copy(names[i].Addr[:], f.Data[:6])
		vectors[i].Base = &f.Data[0]
		vectors[i].SetLen(len(f.Data))
		headers[i].Hdr = unix.Msghdr{
			Name: (*byte)(unsafe.Pointer(&names[i])), Namelen: unix.SizeofSockaddrLinklayer, Iov: &vectors[i],
		}
		headers[i].Hdr.SetIovlen(1)
	}
	failed := map[int]error{}
	waited := time.Duration(0)
	for at := 0; at < len(frames); {
		n, _, errno := unix.Syscall6(unix.SYS_SENDMMSG, uintptr(fd), uintptr(unsafe.Pointer(&headers[at])),
			uintptr(min(len(frames)-at, maxMessages)), unix.MSG_DONTWAIT, 0, 0)
		switch {
		case errno == 0:
			sent += int(n)
			at += int(n)
			continue
		case errno == unix.EINTR:
			continue
		case errno == unix.EAGAIN && waited < maxWait:
			start := time.Now()
			_, _ = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}, 1)
			waited += time.Since(start)
			continue
		}
		// The first of the rest could not be sent. Of a dead interface none can.
		index := frames[at].Index
		failed[index] = errno
		at++
		for dead(errno) && at < len(frames) && frames[at].Index == index {
			at++
		}
	}
	runtime.KeepAlive(frames)
	runtime.KeepAlive(names)
	runtime.KeepAlive(vectors)
	var errs []error
	for index, err := range failed {
		errs = append(errs, fmt.Errorf("send on interface %d: %w", index, err))
	}
	return sent, errors.Join(errs...)
}

// dead reports whether an error concerns the interface and not one frame.
func dead(errno syscall.Errno) bool {
	return errno == unix.ENETDOWN || errno == unix.ENXIO || errno == unix.ENODEV || errno == unix.EAGAIN
}
