package gratarp

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"

	"github.com/mdlayher/arp"
	"github.com/mdlayher/packet"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// The parts of an ARP packet for IPv4 on Ethernet (RFC 826), from the Ethernet header on.
const (
	arpLength    = etherHeader + 28
	arpKindsAt   = etherHeader     // hardware type, protocol type and their lengths
	arpSenderMAC = etherHeader + 8 // 6 bytes
	arpSenderIP  = etherHeader + 14
	arpKinds     = "\x00\x01\x08\x00\x06\x04"
)

// maxFiltered is how many addresses the kernel's filter tells apart: two instructions each, of 4096. With more of them every ARP
// packet is looked at here.
const maxFiltered = 2000

// Watcher listens for other stations that claim addresses by ARP (RFC 5227 section 2.4). It sends nothing.
type Watcher struct {
	conn *packet.Conn
}

// OpenWatcher opens its socket, which hears every interface of the network namespace and is deaf until Watch.
func OpenWatcher() (*Watcher, error) {
	raw, err := claimFilter(nil)
	if err != nil {
		return nil, err
	}
	conn, err := packet.Listen(&net.Interface{}, packet.Raw, etherTypeARP, &packet.Config{Filter: raw})
	if err != nil {
		return nil, fmt.Errorf("open socket for ARP: %w", err)
	}
	return &Watcher{conn}, nil
}

// Watch replaces the addresses that are listened for; those of IPv6 are left out.
func (w *Watcher) Watch(addrs []netip.Addr) error {
	raw, err := claimFilter(addrs)
	if err == nil {
		err = w.conn.SetBPF(raw)
	}
	if err != nil {
		return fmt.Errorf("listen for ARP of %d addresses: %w", len(addrs), err)
	}
	return nil
}

// Run calls claimed, on its own goroutine, for each ARP packet that came in with an address as its sender, until ctx ends, which is no
// error. With very many addresses there may be others among them.
func (w *Watcher) Run(ctx context.Context, claimed func(addr netip.Addr, by net.HardwareAddr)) error {
	defer context.AfterFunc(ctx, func() { w.conn.Close() })()
	b := make([]byte, arpLength)
	for {
		n, _, err := w.conn.ReadFrom(b)
		switch {
		case ctx.Err() != nil || errors.Is(err, os.ErrClosed) || errors.Is(err, net.ErrClosed):
			return nil
		case errors.Is(err, unix.ENETDOWN):
			continue // of one interface (packet(7)); the others are heard on
		case err != nil:
			return fmt.Errorf("listen for ARP: %w", err)
		}
		if addr, by, ok := claim(b[:n]); ok {
			claimed(addr, by)
		}
	}
}

// Close ends a watcher that was never run.
func (w *Watcher) Close() error { return w.conn.Close() }

// claim is who says in an ARP packet that it has an address.
func claim(frame []byte) (addr netip.Addr, by net.HardwareAddr, ok bool) {
	if len(frame) < arpLength || binary.BigEndian.Uint16(frame[12:]) != etherTypeARP || string(frame[arpKindsAt:][:len(arpKinds)]) != arpKinds {
		return netip.Addr{}, nil, false
	}
	addr = netip.AddrFrom4([4]byte(frame[arpSenderIP:]))
	by = slices.Clone(net.HardwareAddr(frame[arpSenderMAC:][:6]))
	return addr, by, !addr.IsUnspecified() // a probe claims nothing
}

// claimFilter lets in ARP packets with one of the addresses as their sender.
func claimFilter(addrs []netip.Addr) ([]bpf.RawInstruction, error) {
	const all = 1<<32 - 1
	program := []bpf.Instruction{
		bpf.LoadAbsolute{Off: 12, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: etherTypeARP, SkipTrue: 1},
		bpf.RetConstant{Val: 0},
		bpf.LoadAbsolute{Off: arpSenderIP, Size: 4},
	}
	var four []netip.Addr
	for _, a := range addrs {
		if a.Is4() {
			four = append(four, a)
		}
	}
	if len(four) > maxFiltered {
		program, four = append(program, bpf.RetConstant{Val: all}), nil
	}
	for _, a := range four {
		b := a.As4()
		program = append(program, bpf.JumpIf{Cond: bpf.JumpEqual, Val: binary.BigEndian.Uint32(b[:]), SkipFalse: 1}, bpf.RetConstant{Val: all})
	}
	raw, err := bpf.Assemble(append(program, bpf.RetConstant{Val: 0}))
	if err != nil {
		return nil, fmt.Errorf("assemble filter for ARP: %w", err)
	}
	return raw, nil
}

// Probe is the Ethernet frame of an ARP probe (RFC 5227 section 2.1.1): a broadcast request from mac for the address, with the
// sender address 0.0.0.0, so that nobody's table changes by it. Who has the address answers to mac.
func Probe(mac net.HardwareAddr, addr netip.Addr) ([]byte, error) {
	if len(mac) != 6 || !addr.Is4() {
		return nil, fmt.Errorf("build ARP probe for %s: it is no IPv4 address, or %q is not an Ethernet address", addr, mac.String())
	}
	p, err := arp.NewPacket(arp.OperationRequest, mac, netip.IPv4Unspecified(), make(net.HardwareAddr, 6), addr)
	if err != nil {
		return nil, fmt.Errorf("build ARP probe for %s: %w", addr, err)
	}
	payload, err := p.MarshalBinary()
	if err != nil {
		return nil, fmt.Errorf("build ARP probe for %s: %w", addr, err)
	}
	b := make([]byte, 0, etherHeader+len(payload))
	return append(appendEther(b, broadcast, mac, etherTypeARP), payload...), nil
}
