package system

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"sync"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// SenderConfig says where a Sender sends.
type SenderConfig struct {
	Interface string // 1 to 15 bytes
	IPv6      bool   // the family
	// AnySource lets an IPv6 source be the address of another interface; an IPv4 source is free in any case. A VMAC sends from
	// the address of its parent.
	AnySource bool
}

// Sender sends VRRP packets out of one interface, multicast and unicast, and never receives. It is safe for
// concurrent use.
type Sender struct {
	config SenderConfig
	mu     sync.Mutex
	fd     int // -1: closed
	index  int

	// The memory of a send.
	hdr      unix.Msghdr
	iov      [2]unix.Iovec
	name     unix.RawSockaddrInet6 // large enough for both families
	ipHeader [20]byte
	control  [64]byte
}

// OpenSender opens the socket. The interface must exist, but need not be up.
func OpenSender(config SenderConfig) (*Sender, error) {
	fd, index, err := openSender(config)
	if err != nil {
		return nil, fmt.Errorf("send VRRP on %s: %w", config.Interface, err)
	}
	return &Sender{config: config, fd: fd, index: index}, nil
}

func openSender(config SenderConfig) (fd, index int, err error) {
	if fd, err = rawSocket(config.IPv6, vrrpProtocol); err != nil {
		return -1, 0, err
	}
	if index, err = setUpSender(fd, config); err != nil {
		_ = unix.Close(fd)
		return -1, 0, err
	}
	return fd, index, nil
}

func setUpSender(fd int, config SenderConfig) (index int, err error) {
	if index, err = bindToDevice(fd, config.Interface); err != nil {
		return 0, err
	}
	options := []option{
		// With our own IPv4 header the source is free: the kernel would refuse one that it does not hold yet.
		{unix.SOL_IP, unix.IP_HDRINCL, 1, "IP_HDRINCL"},
		{unix.SOL_IP, unix.IP_MULTICAST_LOOP, 0, "IP_MULTICAST_LOOP"},
	}
	if config.IPv6 {
		options = []option{
			{unix.SOL_IPV6, unix.IPV6_MULTICAST_LOOP, 0, "IPV6_MULTICAST_LOOP"},
			{unix.SOL_IPV6, unix.IPV6_MULTICAST_IF, index, "IPV6_MULTICAST_IF"},
			{unix.SOL_IPV6, unix.IPV6_TCLASS, controlClass, "IPV6_TCLASS"},
		}
		if config.AnySource {
			options = append(options, option{unix.SOL_IPV6, unix.IPV6_FREEBIND, 1, "IPV6_FREEBIND"})
		}
	} else if err := unix.SetsockoptIPMreqn(fd, unix.SOL_IP, unix.IP_MULTICAST_IF, &unix.IPMreqn{Ifindex: int32(index)}); err != nil {
		return 0, fmt.Errorf("set IP_MULTICAST_IF: %w", err)
	}
	options = append(options,
		option{unix.SOL_SOCKET, unix.SO_RCVBUF, 0, "SO_RCVBUF"}, // the kernel's minimum; the filter drops all anyway
		// In front of bulk traffic in the interface's queue. 6 is the highest that needs no privilege.
		option{unix.SOL_SOCKET, unix.SO_PRIORITY, 6, "SO_PRIORITY"},
	)
	if err := setSendBuffer(fd); err != nil {
		return 0, fmt.Errorf("set SO_SNDBUF: %w", err)
	}
	return index, setOptions(fd, options)
}

// Send sends payload as one VRRP packet with TTL or hop limit ttl (1 to 255). It never waits: a full queue is an
// error, and the errors unwrap to the system call's errno. An IPv4 source need not be ours, an IPv6 source must
// be an address of this host, no longer tentative. Zones of addresses are ignored. After ENODEV or ENXIO the
// interface was removed, and Reopen helps once it is back.
func (s *Sender) Send(payload []byte, src, dst netip.Addr, ttl int) error {
	if err := s.check(payload, src, dst, ttl); err != nil {
		return fmt.Errorf("send VRRP to %s on %s: %w", dst, s.config.Interface, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fd < 0 {
		return fmt.Errorf("send VRRP to %s on %s: %w", dst, s.config.Interface, os.ErrClosed)
	}
	if s.config.IPv6 {
		s.fillIPv6(payload, src, dst, ttl)
	} else {
		s.fillIPv4(payload, src, dst, ttl)
	}
	errno := s.sendmsg()
	s.iov = [2]unix.Iovec{}
	if errno != 0 {
		return fmt.Errorf("send VRRP to %s on %s: %w", dst, s.config.Interface, errno)
	}
	return nil
}

func (s *Sender) check(payload []byte, src, dst netip.Addr, ttl int) error {
	switch {
	case len(payload) == 0 || len(payload) > 1<<16-1-len(s.ipHeader):
		return fmt.Errorf("%d bytes of payload", len(payload))
	case !dst.IsValid() || dst.Is6() != s.config.IPv6 || dst.Is4In6():
		return fmt.Errorf("destination is of the wrong family")
	case !src.IsValid() || src.Is6() != s.config.IPv6 || src.Is4In6():
		return fmt.Errorf("source %s is of the wrong family", src)
	case ttl < 1 || ttl > 255:
		return fmt.Errorf("TTL %d is out of range", ttl)
	}
	return nil
}

// fillIPv4 prepares the message: IP header and payload. The kernel fills in identification, total length and
// checksum (raw(7)).
func (s *Sender) fillIPv4(payload []byte, src, dst netip.Addr, ttl int) {
	h := &s.ipHeader
	*h = [20]byte{0: 0x45, 1: controlClass, 8: byte(ttl), 9: vrrpProtocol}
	binary.BigEndian.PutUint16(h[2:], uint16(len(h)+len(payload)))
	from, to := src.As4(), dst.As4()
	copy(h[12:], from[:])
	copy(h[16:], to[:])
	sa := (*unix.RawSockaddrInet4)(unsafe.Pointer(&s.name))
	*sa = unix.RawSockaddrInet4{Family: unix.AF_INET, Addr: to}

	s.iov[0].Base = &h[0]
	s.iov[0].SetLen(len(h))
	s.iov[1].Base = &payload[0]
	s.iov[1].SetLen(len(payload))
	s.hdr = unix.Msghdr{Name: (*byte)(unsafe.Pointer(&s.name)), Namelen: unix.SizeofSockaddrInet4, Iov: &s.iov[0]}
	s.hdr.SetIovlen(2)
}

// fillIPv6 prepares the message: source and hop limit are control messages (RFC 3542 section 6).
func (s *Sender) fillIPv6(payload []byte, src, dst netip.Addr, ttl int) {
	s.name = unix.RawSockaddrInet6{Family: unix.AF_INET6, Addr: dst.As16()}
	if needsScope(dst) {
		s.name.Scope_id = uint32(s.index)
	}
	info := s.control[:unix.CmsgSpace(unix.SizeofInet6Pktinfo)]
	h := (*unix.Cmsghdr)(unsafe.Pointer(&info[0]))
	h.Level, h.Type = unix.SOL_IPV6, unix.IPV6_PKTINFO
	h.SetLen(unix.CmsgLen(unix.SizeofInet6Pktinfo))
	p := (*unix.Inet6Pktinfo)(unsafe.Pointer(&info[unix.CmsgLen(0)]))
	*p = unix.Inet6Pktinfo{Addr: src.As16(), Ifindex: uint32(s.index)}

	hop := s.control[len(info):][:unix.CmsgSpace(4)]
	h = (*unix.Cmsghdr)(unsafe.Pointer(&hop[0]))
	h.Level, h.Type = unix.SOL_IPV6, unix.IPV6_HOPLIMIT
	h.SetLen(unix.CmsgLen(4))
	*(*int32)(unsafe.Pointer(&hop[unix.CmsgLen(0)])) = int32(ttl)

	s.iov[0].Base = &payload[0]
	s.iov[0].SetLen(len(payload))
	s.hdr = unix.Msghdr{
		Name: (*byte)(unsafe.Pointer(&s.name)), Namelen: unix.SizeofSockaddrInet6,
		Iov: &s.iov[0], Control: &s.control[0],
	}
	s.hdr.SetIovlen(1)
	s.hdr.SetControllen(len(info) + len(hop))
}

// sendmsg never waits, so Go's scheduler is not told of the call: each that it is told of wakes its watchdog, which costs more than an
// advert.
func (s *Sender) sendmsg() syscall.Errno {
	for {
		_, _, errno := unix.RawSyscall(unix.SYS_SENDMSG, uintptr(s.fd), uintptr(unsafe.Pointer(&s.hdr)), unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
		runtime.KeepAlive(s)
		if errno != unix.EINTR {
			return errno
		}
	}
}

// Index is the interface's index at the last opening. If the interface now has another one, Reopen is due.
func (s *Sender) Index() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.index
}

// Reopen replaces the socket, for an interface that was made anew. After an error the old socket stays.
func (s *Sender) Reopen() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fd < 0 {
		return os.ErrClosed
	}
	fd, index, err := openSender(s.config)
	if err != nil {
		return fmt.Errorf("send VRRP on %s: %w", s.config.Interface, err)
	}
	_ = unix.Close(s.fd)
	s.fd, s.index = fd, index
	return nil
}

// Close closes the socket; a later Send fails with os.ErrClosed.
func (s *Sender) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fd < 0 {
		return nil
	}
	fd := s.fd
	s.fd = -1
	return unix.Close(fd)
}
