package system

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// ifaProto is IFA_PROTO of linux/if_addr.h (kernel 5.18): who put an address there.
const ifaProto = 11

// message is one rtnetlink request or answer, without its header.
type message struct {
	kind  uint16 // RTM_*
	flags uint16 // NLM_F_*
	body  []byte
}

// ackError is the kernel's refusal of one request, with its own words if it gave any.
type ackError struct {
	errno syscall.Errno
	text  string
}

func (e *ackError) Error() string {
	if e.text == "" {
		return e.errno.Error()
	}
	return e.errno.Error() + ": " + e.text
}

func (e *ackError) Unwrap() error { return e.errno }

// rtnl is a socket for requests. It is safe for concurrent use.
type rtnl struct {
	mu  sync.Mutex
	fd  int // -1: closed
	seq uint32
	buf []byte
}

// openRTNL opens a request socket in the network namespace of the calling thread.
func openRTNL() (*rtnl, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open rtnetlink socket: %w", err)
	}
	err = setOptions(fd, []option{
		{unix.SOL_NETLINK, unix.NETLINK_EXT_ACK, 1, "NETLINK_EXT_ACK"},
		{unix.SOL_NETLINK, unix.NETLINK_CAP_ACK, 1, "NETLINK_CAP_ACK"},
	})
	if err == nil {
		err = setReceiveBuffer(fd, 1<<20)
	}
	if err == nil {
		// The kernel answers while we send; only a fault makes us wait.
		err = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 5})
	}
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
	}
	if err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("open rtnetlink socket: %w", err)
	}
	return &rtnl{fd: fd, buf: make([]byte, 1<<16)}, nil
}

func (c *rtnl) close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.fd < 0 {
		return nil
	}
	fd := c.fd
	c.fd = -1
	return unix.Close(fd)
}

// index is the index of an interface by name, in the socket's namespace.
func (c *rtnl) index(name string) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return interfaceIndex(c.fd, name)
}

// batchSize is how many requests go in one send: their acknowledgements must fit the receive buffer.
const batchSize = 64

// exchange sends the requests in order, many in one system call, and returns the outcome of each. The kernel
// goes on behind a refused one.
func (c *rtnl) exchange(requests []message) ([]error, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	outcomes := make([]error, 0, len(requests))
	for len(requests) > 0 {
		n := min(len(requests), batchSize)
		first := c.seq + 1
		var out []byte
		for _, m := range requests[:n] {
			c.seq++
			out = appendMessage(out, m, unix.NLM_F_REQUEST|unix.NLM_F_ACK, c.seq)
		}
		if err := c.send(out); err != nil {
			return nil, err
		}
		got := make([]error, n)
		for left := n; left > 0; {
			answers, err := c.receive()
			if err != nil {
				return nil, err
			}
			for _, a := range answers {
				// An older number is the late answer to a request that was given up.
				if i := a.Header.Seq - first; a.Header.Type == unix.NLMSG_ERROR && i < uint32(n) {
					got[i] = parseAck(a)
					left--
				}
			}
		}
		outcomes = append(outcomes, got...)
		requests = requests[n:]
	}
	return outcomes, nil
}

// errChanged: the kernel could not give a consistent list, because what it lists was changed all the time.
var errChanged = errors.New("changed under us")

// A change during a dump makes it inconsistent, and the kernel says so. Changes come in crowds, so the next try waits a little.
const (
	dumpTries = 10
	dumpPause = 5 * time.Millisecond
)

// dump asks for all objects of a kind and calls fn with each answer's type and body.
func (c *rtnl) dump(request message, fn func(kind uint16, body []byte)) error {
	return tryDump(func() (again bool, err error) {
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.dumpOnce(request, fn)
	})
}

func tryDump(once func() (again bool, err error)) error {
	for n := range dumpTries {
		if n > 0 {
			<-time.After(dumpPause)
		}
		again, err := once()
		if err != nil || !again {
			return err
		}
	}
	return fmt.Errorf("dump: %w %d times", errChanged, dumpTries)
}

func (c *rtnl) dumpOnce(request message, fn func(kind uint16, body []byte)) (again bool, err error) {
	c.seq++
	if err := c.send(appendMessage(nil, request, unix.NLM_F_REQUEST|unix.NLM_F_DUMP, c.seq)); err != nil {
		return false, err
	}
	var got []message
	for {
		answers, err := c.receive()
		if err != nil {
			return false, err
		}
		for _, a := range answers {
			if a.Header.Seq != c.seq {
				continue
			}
			if a.Header.Flags&unix.NLM_F_DUMP_INTR != 0 {
				again = true
			}
			switch a.Header.Type {
			case unix.NLMSG_ERROR:
				return false, parseAck(a)
			case unix.NLMSG_DONE:
				// A dump that broke off ends with its error number.
				if err := parseAck(a); err != nil && len(a.Data) >= 4 {
					return false, err
				}
				if again {
					return true, nil
				}
				for _, m := range got {
					fn(m.kind, m.body)
				}
				return false, nil
			default:
				got = append(got, message{kind: a.Header.Type, body: append([]byte(nil), a.Data...)})
			}
		}
	}
}

func (c *rtnl) send(b []byte) error {
	for {
		err := unix.Sendto(c.fd, b, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// receive reads one datagram of the kernel's.
func (c *rtnl) receive() ([]syscall.NetlinkMessage, error) {
	for {
		n, from, err := unix.Recvfrom(c.fd, c.buf, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read the kernel's answer: %w", err)
		}
		if !fromKernel(from) {
			continue
		}
		return syscall.ParseNetlinkMessage(c.buf[:n])
	}
}

// readNews reads one datagram of the kernel's into buf; without wait it returns EAGAIN if there is none.
func readNews(raw syscall.RawConn, buf []byte, wait bool) ([]byte, error) {
	for {
		var n int
		var from unix.Sockaddr
		var err error
		waitErr := raw.Read(func(fd uintptr) bool {
			n, from, err = unix.Recvfrom(int(fd), buf, unix.MSG_DONTWAIT)
			return !errors.Is(err, unix.EINTR) && (!wait || !errors.Is(err, unix.EAGAIN))
		})
		switch {
		case waitErr != nil:
			return nil, waitErr
		case err != nil:
			return nil, err
		case fromKernel(from):
			return buf[:n], nil
		}
	}
}

// dropNews empties a socket that has overflowed: the kernel drops all news from then on until its queue is empty (NETLINK_S_CONGESTED).
// What is in it is older than the look at everything that must follow.
func dropNews(raw syscall.RawConn, buf []byte) error {
	for {
		switch _, err := readNews(raw, buf, false); {
		case errors.Is(err, unix.EAGAIN):
			return nil
		case err != nil && !errors.Is(err, unix.ENOBUFS):
			return err
		}
	}
}

// fromKernel reports whether a datagram is the kernel's: any process may send to a netlink socket.
func fromKernel(sa unix.Sockaddr) bool {
	a, ok := sa.(*unix.SockaddrNetlink)
	return ok && a.Pid == 0
}

func appendMessage(b []byte, m message, flags uint16, seq uint32) []byte {
	ne := binary.NativeEndian
	b = ne.AppendUint32(b, uint32(unix.SizeofNlMsghdr+len(m.body)))
	b = ne.AppendUint16(b, m.kind)
	b = ne.AppendUint16(b, m.flags|flags)
	b = ne.AppendUint32(b, seq)
	b = ne.AppendUint32(b, 0)
	b = append(b, m.body...)
	for len(b)%unix.NLMSG_ALIGNTO != 0 {
		b = append(b, 0)
	}
	return b
}

// parseAck reads an NLMSG_ERROR; number 0 is an acknowledgement.
func parseAck(m syscall.NetlinkMessage) error {
	if len(m.Data) < 4 {
		return &ackError{errno: unix.EBADMSG}
	}
	errno := int32(binary.NativeEndian.Uint32(m.Data))
	if errno == 0 {
		return nil
	}
	e := &ackError{errno: syscall.Errno(-errno)}
	// struct nlmsgerr: the number and the header of the request, then attributes (NETLINK_CAP_ACK leaves the body out).
	const head = 4 + unix.SizeofNlMsghdr
	if m.Header.Flags&unix.NLM_F_ACK_TLVS != 0 && len(m.Data) > head {
		forAttributes(m.Data[head:], func(kind uint16, value []byte) {
			if kind == unix.NLMSGERR_ATTR_MSG {
				e.text = unix.ByteSliceToString(value)
			}
		})
	}
	return e
}

// KernelAddress is an address as the kernel holds it.
type KernelAddress struct {
	Index        int          // of the interface
	Interface    string       // its name, "" if unknown
	Prefix       netip.Prefix // with the host part kept
	Peer         netip.Addr   // the other end of a point-to-point address, else the zero Addr
	Broadcast    netip.Addr
	Label        string
	Scope        uint8  // rtnetlink scope; 0 global
	Flags        uint32 // IFA_F_*
	Protocol     uint8  // IFA_PROTO; 0 on kernels before 5.18
	ValidLft     uint32 // seconds; 1<<32-1 for ever
	PreferredLft uint32 // seconds; 1<<32-1 for ever
}

// Secondary reports whether an IPv4 address is a further one of its subnet.
func (a KernelAddress) Secondary() bool {
	return a.Prefix.Addr().Is4() && a.Flags&unix.IFA_F_SECONDARY != 0
}

// Usable reports whether duplicate address detection is over and found nothing (RFC 4862 section 5.4).
func (a KernelAddress) Usable() bool {
	return a.Flags&(unix.IFA_F_TENTATIVE|unix.IFA_F_DADFAILED) == 0 || a.Flags&unix.IFA_F_OPTIMISTIC != 0
}

// Ours reports whether the address carries AddressProtocol.
func (a KernelAddress) Ours() bool { return a.Protocol == AddressProtocol }

// addressKey is what tells two addresses apart in the kernel.
type addressKey struct {
	index  int
	prefix netip.Prefix
	peer   netip.Addr
}

func (a KernelAddress) key() addressKey { return addressKey{a.Index, a.Prefix, a.Peer} }

var errMessage = errors.New("malformed rtnetlink message")

// forAttributes calls fn with each attribute of b, and reports whether b is well formed.
func forAttributes(b []byte, fn func(kind uint16, value []byte)) bool {
	for len(b) >= unix.SizeofRtAttr {
		size := int(binary.NativeEndian.Uint16(b))
		if size < unix.SizeofRtAttr || size > len(b) {
			return false
		}
		// The two highest bits say how the value is written, not what it is.
		fn(binary.NativeEndian.Uint16(b[2:])&^(unix.NLA_F_NESTED|unix.NLA_F_NET_BYTEORDER), b[unix.SizeofRtAttr:size])
		b = b[min((size+unix.RTA_ALIGNTO-1)&^(unix.RTA_ALIGNTO-1), len(b)):]
	}
	return true
}

// appendAttribute appends an attribute and its padding.
func appendAttribute(b []byte, kind uint16, value []byte) []byte {
	b = binary.NativeEndian.AppendUint16(b, uint16(unix.SizeofRtAttr+len(value)))
	b = binary.NativeEndian.AppendUint16(b, kind)
	b = append(b, value...)
	for len(b)%unix.RTA_ALIGNTO != 0 {
		b = append(b, 0)
	}
	return b
}

// parseAddress reads the body of RTM_NEWADDR or RTM_DELADDR.
func parseAddress(b []byte) (KernelAddress, error) {
	var a KernelAddress
	if len(b) < unix.SizeofIfAddrmsg {
		return a, errMessage
	}
	// struct ifaddrmsg: family, prefix length, flags, scope, index.
	family, bits := b[0], int(b[1])
	a.Flags, a.Scope = uint32(b[2]), b[3]
	a.Index = int(binary.NativeEndian.Uint32(b[4:]))
	a.ValidLft, a.PreferredLft = 1<<32-1, 1<<32-1
	var local, address netip.Addr
	ok := forAttributes(b[unix.SizeofIfAddrmsg:], func(kind uint16, v []byte) {
		switch kind {
		case unix.IFA_LOCAL:
			local, _ = netip.AddrFromSlice(v)
		case unix.IFA_ADDRESS:
			address, _ = netip.AddrFromSlice(v)
		case unix.IFA_BROADCAST:
			a.Broadcast, _ = netip.AddrFromSlice(v)
		case unix.IFA_LABEL:
			a.Label = unix.ByteSliceToString(v)
		case unix.IFA_FLAGS:
			if len(v) >= 4 {
				a.Flags = binary.NativeEndian.Uint32(v)
			}
		case unix.IFA_CACHEINFO:
			if len(v) >= unix.SizeofIfaCacheinfo {
				a.PreferredLft, a.ValidLft = binary.NativeEndian.Uint32(v), binary.NativeEndian.Uint32(v[4:])
			}
		case ifaProto:
			if len(v) >= 1 {
				a.Protocol = v[0]
			}
		}
	})
	if !ok {
		return a, errMessage
	}
	// IFA_LOCAL is ours and IFA_ADDRESS the peer's if they differ; IPv6 has IFA_LOCAL only with a peer.
	if !local.IsValid() {
		local = address
	}
	if address.IsValid() && address != local {
		a.Peer = address
	}
	if !local.IsValid() || local.Is4() != (family == unix.AF_INET) || bits > local.BitLen() {
		return a, errMessage
	}
	a.Prefix = netip.PrefixFrom(local, bits)
	return a, nil
}

// parseLink reads the body of RTM_NEWLINK or RTM_DELLINK. ok is false for a message about something else, such
// as a bridge's view of its port, which leaves a bridge by RTM_DELLINK and lives on.
func parseLink(b []byte) (l Link, ok bool, err error) {
	if len(b) < unix.SizeofIfInfomsg {
		return l, false, errMessage
	}
	// struct ifinfomsg: family, a gap, type, index, flags, change mask.
	if b[0] != unix.AF_UNSPEC {
		return l, false, nil
	}
	flags := binary.NativeEndian.Uint32(b[8:])
	l = Link{
		Index:    int(int32(binary.NativeEndian.Uint32(b[4:]))),
		Admin:    flags&unix.IFF_UP != 0,
		Up:       flags&unix.IFF_UP != 0 && flags&unix.IFF_RUNNING != 0,
		Carrier:  flags&unix.IFF_LOWER_UP != 0,
		NoARP:    flags&unix.IFF_NOARP != 0,
		Loopback: flags&unix.IFF_LOOPBACK != 0,
	}
	if !forAttributes(b[unix.SizeofIfInfomsg:], func(kind uint16, v []byte) {
		switch kind {
		case unix.IFLA_IFNAME:
			l.Name = unix.ByteSliceToString(v)
		case unix.IFLA_ADDRESS:
			l.MAC = net.HardwareAddr(append([]byte(nil), v...))
		case unix.IFLA_MTU:
			if len(v) >= 4 {
				l.MTU = int(binary.NativeEndian.Uint32(v))
			}
		}
	}) {
		return l, false, errMessage
	}
	if l.Name == "" || l.Index <= 0 {
		return l, false, errMessage
	}
	return l, true, nil
}

// dumpAddresses lists the addresses of both families in the kernel's order.
func (c *rtnl) dumpAddresses() ([]KernelAddress, error) {
	var list []KernelAddress
	var bad error
	err := c.dump(message{kind: unix.RTM_GETADDR, body: make([]byte, unix.SizeofIfAddrmsg)}, func(kind uint16, body []byte) {
		if kind != unix.RTM_NEWADDR || len(body) == 0 || body[0] != unix.AF_INET && body[0] != unix.AF_INET6 {
			return
		}
		a, err := parseAddress(body)
		if err != nil {
			bad = err
			return
		}
		list = append(list, a)
	})
	if err == nil {
		err = bad
	}
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	return list, nil
}

// dumpLinks lists the interfaces.
func (c *rtnl) dumpLinks() ([]Link, error) {
	var list []Link
	var bad error
	err := c.dump(message{kind: unix.RTM_GETLINK, body: make([]byte, unix.SizeofIfInfomsg)}, func(kind uint16, body []byte) {
		if kind != unix.RTM_NEWLINK {
			return
		}
		l, ok, err := parseLink(body)
		if err != nil {
			bad = err
		}
		if ok {
			list = append(list, l)
		}
	})
	if err == nil {
		err = bad
	}
	if err != nil {
		return nil, fmt.Errorf("list links: %w", err)
	}
	return list, nil
}
