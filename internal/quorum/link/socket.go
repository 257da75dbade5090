package link

import (
	"encoding/binary"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// socket is what a local has bound. It is replaced as a whole.
//
// Datagrams go in and out by system calls that never wait, and of which Go's scheduler is not told: each call that it is told of
// wakes its watchdog, which costs an idle voter more than the call.
type socket struct {
	udp  *net.UDPConn
	raw  syscall.RawConn
	tcp  *net.TCPListener // nil for a routed one
	gone atomic.Bool

	pong []byte // owned by the receiver

	tx   sync.Mutex
	out  func(fd uintptr) // a method value made once: a closure for each datagram would be allocated
	b    []byte           // to send
	name unix.RawSockaddrInet6
	size uintptr
	sent syscall.Errno
}

// open takes the socket over.
func (s *socket) open(udp *net.UDPConn) (err error) {
	s.udp = udp
	s.out = s.sendto
	s.raw, err = udp.SyscallConn()
	return err
}

// send sends b and never waits: a full socket buffer is an error.
func (s *socket) send(b []byte, to netip.AddrPort) error {
	if len(b) == 0 {
		return unix.EINVAL
	}
	s.tx.Lock()
	defer s.tx.Unlock()
	s.b, s.size = b, encodeAddr(&s.name, to)
	if err := s.raw.Control(s.out); err != nil {
		return err
	}
	if s.sent != 0 {
		return s.sent
	}
	return nil
}

func (s *socket) sendto(fd uintptr) {
	for {
		_, _, s.sent = unix.RawSyscall6(unix.SYS_SENDTO, fd, uintptr(unsafe.Pointer(unsafe.SliceData(s.b))), uintptr(len(s.b)),
			unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, uintptr(unsafe.Pointer(&s.name)), s.size)
		if s.sent != unix.EINTR {
			return
		}
	}
}

// encodeAddr writes to, which has no zone, in the kernel's form into sa, which has room for both families, and returns its size
// (ip(7), ipv6(7)).
func encodeAddr(sa *unix.RawSockaddrInet6, to netip.AddrPort) uintptr {
	*sa = unix.RawSockaddrInet6{}
	binary.BigEndian.PutUint16((*[2]byte)(unsafe.Pointer(&sa.Port))[:], to.Port())
	if to.Addr().Is4() {
		in := (*unix.RawSockaddrInet4)(unsafe.Pointer(sa))
		in.Family, in.Addr = unix.AF_INET, to.Addr().As4()
		return unix.SizeofSockaddrInet4
	}
	sa.Family, sa.Addr = unix.AF_INET6, to.Addr().As16()
	return unix.SizeofSockaddrInet6
}

// decodeAddr is the address that the kernel wrote into sa.
func decodeAddr(sa *unix.RawSockaddrInet6) netip.AddrPort {
	port := binary.BigEndian.Uint16((*[2]byte)(unsafe.Pointer(&sa.Port))[:])
	switch sa.Family {
	case unix.AF_INET:
		return netip.AddrPortFrom(netip.AddrFrom4((*unix.RawSockaddrInet4)(unsafe.Pointer(sa)).Addr), port)
	case unix.AF_INET6:
		return netip.AddrPortFrom(netip.AddrFrom16(sa.Addr).Unmap(), port)
	}
	return netip.AddrPort{}
}

// atOnce is how many datagrams one system call takes: as a rule one, more when we were late.
const atOnce = 4

// mmsghdr is struct mmsghdr of recvmmsg(2).
type mmsghdr struct {
	hdr  unix.Msghdr
	size uint32
}

// inbox is the memory of one socket's receiver.
type inbox struct {
	take func(from netip.AddrPort, b []byte) // b is valid during the call
	hdrs [atOnce]mmsghdr
	iovs [atOnce]unix.Iovec
	from [atOnce]unix.RawSockaddrInet6
	bufs [atOnce][maxDatagram + 1]byte
	err  syscall.Errno
}

// receive takes datagrams until the socket is closed or fails.
func (s *socket) receive(take func(from netip.AddrPort, b []byte)) error {
	x := &inbox{take: take}
	for k := range x.hdrs {
		x.iovs[k].Base = &x.bufs[k][0]
		x.iovs[k].SetLen(len(x.bufs[k]))
		h := &x.hdrs[k].hdr
		h.Name, h.Iov = (*byte)(unsafe.Pointer(&x.from[k])), &x.iovs[k]
		h.SetIovlen(1)
	}
	for x.err == 0 {
		if err := s.raw.Read(x.drain); err != nil {
			return err
		}
	}
	return x.err
}

// drain takes what one system call gives, and says whether to ask again at once, unless the socket is closed by then; else it is called again when there
// is more.
func (x *inbox) drain(fd uintptr) bool {
	for {
		for k := range x.hdrs {
			x.hdrs[k].hdr.Namelen = uint32(unsafe.Sizeof(x.from[k]))
		}
		n, _, err := unix.RawSyscall6(unix.SYS_RECVMMSG, fd, uintptr(unsafe.Pointer(&x.hdrs[0])), atOnce, unix.MSG_DONTWAIT, 0, 0)
		switch err {
		case 0:
		case unix.EINTR:
			continue
		case unix.EAGAIN:
			return false
		default:
			x.err = err
			return true
		}
		for k := range int(n) {
			x.take(decodeAddr(&x.from[k]), x.bufs[k][:x.hdrs[k].size])
		}
		return n == atOnce // with fewer the queue is empty, and what comes from now on is told
	}
}
