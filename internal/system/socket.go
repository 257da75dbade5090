package system

import (
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// vrrpProtocol is the IP protocol number of VRRP (RFC 9568 section 5.1.1.4).
const vrrpProtocol = 112

// controlClass is the TOS byte or traffic class of every advertisement: internetwork control.
const controlClass = 0xc0

// CheckInterfaceName says why name cannot be a network interface: the kernel takes 1 to 15 bytes without
// slashes, colons or white space.
func CheckInterfaceName(name string) error {
	switch {
	case name == "":
		return errors.New("interface name is empty")
	case len(name) >= unix.IFNAMSIZ:
		return fmt.Errorf("interface name %q is longer than %d bytes", name, unix.IFNAMSIZ-1)
	case name == "." || name == "..":
		return fmt.Errorf("interface name %q is not possible", name)
	}
	for _, c := range []byte(name) {
		if c == '/' || c == ':' || c <= ' ' || c == 0x7f {
			return fmt.Errorf("interface name %q has an impossible character", name)
		}
	}
	return nil
}

// interfaceIndex asks the kernel for the index of an interface; any socket of the right namespace serves as fd.
func interfaceIndex(fd int, name string) (int, error) {
	if err := CheckInterfaceName(name); err != nil {
		return 0, err
	}
	ifr, err := unix.NewIfreq(name)
	if err != nil {
		return 0, err
	}
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFINDEX, ifr); err != nil {
		return 0, err
	}
	return int(ifr.Uint32()), nil
}

// rawSocket opens a socket that receives nothing yet: between socket(2) and the last option it would hear
// packets of every interface.
func rawSocket(ipv6 bool, protocol int) (int, error) {
	family := unix.AF_INET
	if ipv6 {
		family = unix.AF_INET6
	}
	fd, err := unix.Socket(family, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, protocol)
	if err != nil {
		return -1, err
	}
	if err := setFilter(fd, dropAll()); err != nil {
		_ = unix.Close(fd)
		return -1, err
	}
	// What came before the filter.
	var b [1]byte
	for {
		if _, _, err := unix.Recvfrom(fd, b[:], unix.MSG_DONTWAIT); err != nil {
			if errors.Is(err, unix.EINTR) {
				continue
			}
			return fd, nil
		}
	}
}

// dropAll is a socket filter that lets nothing in.
func dropAll() []bpf.Instruction {
	return []bpf.Instruction{bpf.RetConstant{Val: 0}}
}

// dropLooped is a socket filter that lets everything in but copies of what this host sent itself.
func dropLooped() []bpf.Instruction {
	return []bpf.Instruction{
		bpf.LoadExtension{Num: bpf.ExtType},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.PACKET_LOOPBACK, SkipTrue: 1},
		bpf.RetConstant{Val: 1<<32 - 1},
		bpf.RetConstant{Val: 0},
	}
}

// setFilter attaches a socket filter, in place of the former one.
func setFilter(fd int, program []bpf.Instruction) error {
	raw, err := bpf.Assemble(program)
	if err != nil {
		return fmt.Errorf("assemble socket filter: %w", err)
	}
	filter := make([]unix.SockFilter, len(raw))
	for i, in := range raw {
		filter[i] = unix.SockFilter{Code: in.Op, Jt: in.Jt, Jf: in.Jf, K: in.K}
	}
	err = unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER,
		&unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]})
	if err != nil {
		return fmt.Errorf("attach socket filter: %w", err)
	}
	return nil
}

// bindToDevice ties a socket to an interface and returns the interface's index.
func bindToDevice(fd int, name string) (int, error) {
	index, err := interfaceIndex(fd, name)
	if err != nil {
		return 0, err
	}
	return index, unix.BindToDevice(fd, name)
}

// setReceiveBuffer asks for a receive buffer of size bytes; without CAP_NET_ADMIN net.core.rmem_max caps it.
func setReceiveBuffer(fd, size int) error {
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, size); err == nil {
		return nil
	}
	return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, size)
}

// sendBuffer has room for what waits until a unicast peer that does not answer ARP is given up: the kernel keeps 208 KiB for each
// (unres_qlen_bytes in its ip-sysctl), which is all that a socket has by default.
const sendBuffer = 4 << 20

// setSendBuffer asks for it; without CAP_NET_ADMIN net.core.wmem_max caps it.
func setSendBuffer(fd int) error {
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, sendBuffer); err == nil {
		return nil
	}
	return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, sendBuffer)
}

// option is one integer socket option and its name for the error text.
type option struct {
	level, name, value int
	text               string
}

// setOptions sets them in order.
func setOptions(fd int, options []option) error {
	for _, o := range options {
		if err := unix.SetsockoptInt(fd, o.level, o.name, o.value); err != nil {
			return fmt.Errorf("set %s: %w", o.text, err)
		}
	}
	return nil
}

// sockaddr is addr for bind(2). scope is the interface index for IPv6 addresses that need one.
func sockaddr(addr netip.Addr, scope int) unix.Sockaddr {
	if addr.Is4() {
		return &unix.SockaddrInet4{Addr: addr.As4()}
	}
	sa := &unix.SockaddrInet6{Addr: addr.As16()}
	if needsScope(addr) {
		sa.ZoneId = uint32(scope)
	}
	return sa
}

// needsScope reports whether addr means something only on one link (RFC 4007).
func needsScope(addr netip.Addr) bool {
	return addr.IsLinkLocalUnicast() || addr.IsLinkLocalMulticast() || addr.IsInterfaceLocalMulticast()
}
