package system

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ReceiverConfig says which VRRP packets a Receiver hears.
type ReceiverConfig struct {
	Interface string     // 1 to 15 bytes
	IPv6      bool       // the family
	Group     netip.Addr // the multicast group to join; the zero Addr: unicast
	// JoinOn is a further interface that joins the group: the parent of a VMAC, which must not say itself what it listens to.
	JoinOn string
	Source netip.Addr // unicast: our own address, the only destination that is heard; the zero Addr: any of ours
	Buffer int        // receive buffer in bytes; 0: 2 MiB, which is a second of 250 routers at 10 adverts/s and more
}

// Receiver hears the VRRP packets of one interface, family and destination. One goroutine reads; all else is
// safe for concurrent use.
type Receiver struct {
	config ReceiverConfig
	mu     sync.Mutex // orders Reopen and Close
	closed bool
	cur    atomic.Pointer[listener]
}

// listener is one socket of a Receiver, with the memory that its reads use.
type listener struct {
	file  *os.File
	raw   syscall.RawConn
	index int
	ipv6  bool

	read    func(fd uintptr) bool // a method value made once: a closure per read would allocate
	hdr     unix.Msghdr
	iov     unix.Iovec
	name    unix.RawSockaddrInet6 // large enough for both families
	control [128]byte
	n       int
	errno   syscall.Errno
}

// OpenReceiver opens the socket: bound to the interface and the destination, group joined, deaf to everything
// else. The interface must exist, but need not be up, and a unicast source need not be there yet.
func OpenReceiver(config ReceiverConfig) (*Receiver, error) {
	if config.Buffer == 0 {
		config.Buffer = 2 << 20
	}
	for _, a := range []netip.Addr{config.Group, config.Source} {
		if a.IsValid() && (a.Is6() != config.IPv6 || a.Is4In6()) {
			return nil, fmt.Errorf("receive VRRP on %s: %s is of the wrong family", config.Interface, a)
		}
	}
	if config.Group.IsValid() && !config.Group.IsMulticast() {
		return nil, fmt.Errorf("receive VRRP on %s: %s is not a multicast group", config.Interface, config.Group)
	}
	r := &Receiver{config: config}
	l, err := listen(config)
	if err != nil {
		return nil, fmt.Errorf("receive VRRP on %s: %w", config.Interface, err)
	}
	r.cur.Store(l)
	return r, nil
}

func listen(config ReceiverConfig) (*listener, error) {
	fd, err := rawSocket(config.IPv6, vrrpProtocol)
	if err != nil {
		return nil, err
	}
	index, err := setUpReceiver(fd, config)
	if err != nil {
		_ = unix.Close(fd)
		return nil, err
	}
	l := &listener{file: os.NewFile(uintptr(fd), "vrrp"), index: index, ipv6: config.IPv6}
	l.read = l.recvmsg
	if l.raw, err = l.file.SyscallConn(); err != nil {
		_ = l.file.Close()
		return nil, err
	}
	return l, nil
}

func setUpReceiver(fd int, config ReceiverConfig) (index int, err error) {
	if index, err = bindToDevice(fd, config.Interface); err != nil {
		return 0, err
	}
	if err := setReceiveBuffer(fd, config.Buffer); err != nil {
		return 0, err
	}
	options := []option{
		{unix.SOL_IP, unix.IP_MULTICAST_ALL, 0, "IP_MULTICAST_ALL"},
		{unix.SOL_IP, unix.IP_FREEBIND, 1, "IP_FREEBIND"},
		{unix.SOL_IP, unix.IP_PKTINFO, 1, "IP_PKTINFO"},
	}
	if config.IPv6 {
		options = []option{
			{unix.SOL_IPV6, unix.IPV6_MULTICAST_ALL, 0, "IPV6_MULTICAST_ALL"},
			{unix.SOL_IPV6, unix.IPV6_FREEBIND, 1, "IPV6_FREEBIND"},
			{unix.SOL_IPV6, unix.IPV6_RECVPKTINFO, 1, "IPV6_RECVPKTINFO"},
			{unix.SOL_IPV6, unix.IPV6_RECVHOPLIMIT, 1, "IPV6_RECVHOPLIMIT"},
		}
	}
	if err := setOptions(fd, options); err != nil {
		return 0, err
	}
	local := config.Source
	if config.Group.IsValid() {
		local = config.Group
		if err := joinGroup(fd, config.Group, index); err != nil {
			return 0, fmt.Errorf("join group %s: %w", config.Group, err)
		}
		if config.JoinOn != "" {
			other, err := interfaceIndex(fd, config.JoinOn)
			if err == nil {
				err = joinGroup(fd, config.Group, other)
			}
			if err != nil {
				return 0, fmt.Errorf("join group %s on %s: %w", config.Group, config.JoinOn, err)
			}
		}
	}
	if local.IsValid() {
		if err := unix.Bind(fd, sockaddr(local, index)); err != nil {
			return 0, fmt.Errorf("bind to %s: %w", local, err)
		}
	}
	return index, setFilter(fd, dropLooped())
}

func joinGroup(fd int, group netip.Addr, index int) error {
	if group.Is4() {
		return unix.SetsockoptIPMreqn(fd, unix.SOL_IP, unix.IP_ADD_MEMBERSHIP,
			&unix.IPMreqn{Multiaddr: group.As4(), Ifindex: int32(index)})
	}
	return unix.SetsockoptIPv6Mreq(fd, unix.SOL_IPV6, unix.IPV6_ADD_MEMBERSHIP,
		&unix.IPv6Mreq{Multiaddr: group.As16(), Interface: uint32(index)})
}

// Read waits for the next packet. The payload lies in buf, behind the IP header; 4 KiB take every VRRP packet
// of up to 255 IPv6 addresses. ErrTruncated and ErrHeader concern one packet, of which the meta tells the source
// if it can; os.ErrClosed follows Close; any other error is the socket's, which Reopen may cure.
func (r *Receiver) Read(buf []byte) (payload []byte, meta Meta, err error) {
	if len(buf) == 0 {
		return nil, meta, fmt.Errorf("receive VRRP on %s: empty buffer", r.config.Interface)
	}
	for {
		l := r.cur.Load()
		if l == nil {
			return nil, meta, os.ErrClosed
		}
		payload, meta, err = l.receive(buf)
		if err == nil || errors.Is(err, ErrTruncated) || errors.Is(err, ErrHeader) {
			return payload, meta, err
		}
		if r.cur.Load() == l {
			return nil, meta, fmt.Errorf("receive VRRP on %s: %w", r.config.Interface, err)
		}
		// Reopened or closed under us.
	}
}

// Index is the interface's index at the last opening. If the interface now has another one, it was made anew,
// and the receiver is deaf until Reopen.
func (r *Receiver) Index() int {
	if l := r.cur.Load(); l != nil {
		return l.index
	}
	return 0
}

// Reopen replaces the socket; a waiting Read goes on with the new one. After an error the old socket stays.
func (r *Receiver) Reopen() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return os.ErrClosed
	}
	l, err := listen(r.config)
	if err != nil {
		return fmt.Errorf("receive VRRP on %s: %w", r.config.Interface, err)
	}
	_ = r.cur.Swap(l).file.Close()
	return nil
}

// Close leaves the group and ends a waiting Read with os.ErrClosed.
func (r *Receiver) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return nil
	}
	r.closed = true
	return r.cur.Swap(nil).file.Close()
}

func (l *listener) receive(buf []byte) (payload []byte, meta Meta, err error) {
	l.iov.Base = &buf[0]
	l.iov.SetLen(len(buf))
	err = l.raw.Read(l.read)
	meta.At = time.Now()
	l.iov.Base = nil
	if err == nil && l.errno != 0 {
		err = l.errno
	}
	if err != nil {
		return nil, meta, err
	}
	at := meta.At
	if l.ipv6 {
		payload, meta = buf[:l.n], Meta{TTL: -1, Index: l.index}
		if l.name.Family == unix.AF_INET6 {
			meta.Src = netip.AddrFrom16(l.name.Addr)
		}
	} else {
		payload, meta, err = splitIPv4(buf[:l.n])
		meta.Index = l.index
	}
	meta.At = at
	l.parseControl(&meta)
	if err == nil && l.hdr.Flags&unix.MSG_TRUNC != 0 {
		err = ErrTruncated
	}
	if err != nil {
		payload = nil
	}
	return payload, meta, err
}

// recvmsg is one try to receive; false waits until there is something. As sendmsg, it is a call that Go's scheduler is not told of.
func (l *listener) recvmsg(fd uintptr) bool {
	l.hdr = unix.Msghdr{
		Name: (*byte)(unsafe.Pointer(&l.name)), Namelen: uint32(unsafe.Sizeof(l.name)),
		Iov: &l.iov, Control: &l.control[0],
	}
	l.hdr.SetIovlen(1)
	l.hdr.SetControllen(len(l.control))
	n, _, errno := unix.RawSyscall(unix.SYS_RECVMSG, fd, uintptr(unsafe.Pointer(&l.hdr)), unix.MSG_DONTWAIT)
	runtime.KeepAlive(l)
	if errno == unix.EAGAIN || errno == unix.EINTR {
		return false
	}
	l.n, l.errno = int(n), errno
	return true
}

// parseControl reads the control messages: the receiving interface, and for IPv6 destination and hop limit.
func (l *listener) parseControl(meta *Meta) {
	rest := l.control[:min(int(l.hdr.Controllen), len(l.control))]
	for len(rest) >= unix.SizeofCmsghdr {
		h := (*unix.Cmsghdr)(unsafe.Pointer(&rest[0]))
		size := int(h.Len)
		if size < unix.SizeofCmsghdr || size > len(rest) {
			return
		}
		data := rest[unix.CmsgLen(0):size]
		switch {
		case h.Level == unix.SOL_IP && h.Type == unix.IP_PKTINFO && len(data) >= unix.SizeofInet4Pktinfo:
			meta.Index = int((*unix.Inet4Pktinfo)(unsafe.Pointer(&data[0])).Ifindex)
		case h.Level == unix.SOL_IPV6 && h.Type == unix.IPV6_PKTINFO && len(data) >= unix.SizeofInet6Pktinfo:
			p := (*unix.Inet6Pktinfo)(unsafe.Pointer(&data[0]))
			meta.Index, meta.Dst = int(p.Ifindex), netip.AddrFrom16(p.Addr)
		case h.Level == unix.SOL_IPV6 && h.Type == unix.IPV6_HOPLIMIT && len(data) >= 4:
			meta.TTL = int(*(*int32)(unsafe.Pointer(&data[0])))
		}
		next := unix.CmsgSpace(size - unix.CmsgLen(0))
		if next > len(rest) {
			return
		}
		rest = rest[next:]
	}
}
