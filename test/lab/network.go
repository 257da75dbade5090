package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Bridge names one of the two networks, or one of those that Options.Networks adds.
type Bridge string

const (
	// LAN is the service network, 10.77.0.0/24 and fd77::/64, eth0 in the hosts.
	LAN Bridge = "lan"
	// Interconnect is the hosts' own network, 10.78.0.0/24 and fd78::/64, eth1 in the hosts. The client isn't on it.
	Interconnect Bridge = "ic"
)

// Bridges returns both networks that every lab has.
func Bridges() []Bridge { return []Bridge{LAN, Interconnect} }

// Network is the n-th network of a lab, from 0: LAN, Interconnect, and then those of Options.Networks, 10.79.0.0/24 and fd79::/64
// with eth2 in the hosts, and so on.
func Network(n int) Bridge {
	if n < len(Bridges()) {
		return Bridges()[n]
	}
	return Bridge(fmt.Sprintf("net%d", n))
}

// ordinal is the reverse of Network.
func (b Bridge) ordinal() int {
	for n := range mostNetworks {
		if Network(n) == b {
			return n
		}
	}
	panic(fmt.Sprintf("lab: no network is called %q", b))
}

// mostNetworks is how many networks a lab may have; the numbers of ports hang on it.
const mostNetworks = 9

// bridges returns the lab's networks.
func (l *Lab) bridges() []Bridge {
	all := Bridges()
	for n := range l.opts.Networks {
		all = append(all, Network(len(Bridges())+n))
	}
	return all
}

const clientIndex = 200

// Interface returns the name that an interface on this network has in the hosts.
func (b Bridge) Interface() string { return fmt.Sprintf("eth%d", b.ordinal()) }

func (b Bridge) number() byte { return byte(77 + b.ordinal()) }

// Addr returns the host's IPv4 address on a network, 10.77.0.I on the first one.
func (h *Host) Addr(b Bridge) netip.Addr {
	return netip.AddrFrom4([4]byte{10, b.number(), 0, byte(h.index)})
}

// Addr6 returns the host's IPv6 address on a network, fd77::I on the first one, with the decimal digits of I.
func (h *Host) Addr6(b Bridge) netip.Addr {
	return netip.MustParseAddr(fmt.Sprintf("fd%d::%d", b.number(), h.index))
}

func (h *Host) mac(b Bridge) [6]byte { return [6]byte{2, b.number(), 0, 0, 0, byte(h.index)} }

// MAC returns the host's hardware address on a network; it is the same after each boot.
func (h *Host) MAC(b Bridge) net.HardwareAddr { m := h.mac(b); return m[:] }

// bridges returns the networks that the host is on.
func (h *Host) bridges() []Bridge {
	if h.index == clientIndex {
		return []Bridge{LAN}
	}
	return h.l.bridges()
}

// port is the name of the switch's end of a cable, and its number. The number is far from those inside the hosts: the
// kernel reports a lost carrier at once only if both ends of a veth pair have different numbers.
func (h *Host) port(b Bridge) (string, int) {
	return h.name + "-" + string(b), 10000 + 10*h.index + int(b.number()-76)
}

// portOwner is the reverse of port.
func (l *Lab) portOwner(index int) (*Host, Bridge) {
	for _, h := range append(l.Hosts(), l.client) {
		for _, b := range h.bridges() {
			if _, i := h.port(b); i == index {
				return h, b
			}
		}
	}
	return nil, ""
}

func (l *Lab) makeSwitch() error {
	var err error
	if l.sw, err = openNamespace(fmt.Sprintf("/proc/%d/ns/net", l.ctl.pid)); err != nil {
		return err
	}
	return l.sw.do(func() error {
		for i, b := range l.bridges() {
			attrs := netlink.NewLinkAttrs()
			attrs.Name, attrs.Index = string(b), 9000+i
			off := false
			br := &netlink.Bridge{LinkAttrs: attrs, MulticastSnooping: &off}
			if err := netlink.LinkAdd(br); err != nil {
				return fmt.Errorf("add bridge %s: %w", b, err)
			}
			if err := netlink.LinkSetUp(br); err != nil {
				return fmt.Errorf("set up bridge %s: %w", b, err)
			}
		}
		return nil
	})
}

// plugIn makes the host's cables and gives it its addresses.
func (h *Host) plugIn(ns *namespace, pid int) error {
	target, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", pid))
	if err != nil {
		return err
	}
	defer target.Close()
	err = ns.do(func() error {
		for key, value := range map[string]string{
			// An IPv6 address is usable at once: nobody else in the lab has it.
			"ipv6/conf/all/accept_dad": "0", "ipv6/conf/default/accept_dad": "0",
			"ipv6/conf/default/router_solicitations": "0",
			"ipv4/ping_group_range":                  "0 2147483647",
		} {
			if err := os.WriteFile("/proc/sys/net/"+key, []byte(value), 0); err != nil {
				return fmt.Errorf("set %s: %w", key, err)
			}
		}
		return setUp("lo")
	})
	if err != nil {
		return err
	}
	for _, b := range h.bridges() {
		if err := h.l.sw.do(func() error { return h.addCable(b, target) }); err != nil {
			return err
		}
		err := ns.do(func() error {
			link, err := netlink.LinkByName(b.Interface())
			if err != nil {
				return fmt.Errorf("find %s: %w", b.Interface(), err)
			}
			for _, a := range []netip.Prefix{netip.PrefixFrom(h.Addr(b), 24), netip.PrefixFrom(h.Addr6(b), 64)} {
				addr := &netlink.Addr{IPNet: &net.IPNet{IP: a.Addr().AsSlice(), Mask: net.CIDRMask(a.Bits(), a.Addr().BitLen())}}
				if a.Addr().Is6() {
					addr.Flags = unix.IFA_F_NODAD
				}
				if err := netlink.AddrAdd(link, addr); err != nil {
					return fmt.Errorf("add address %s on %s: %w", a, b.Interface(), err)
				}
			}
			return setUp(b.Interface())
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func setUp(name string) error {
	link, err := netlink.LinkByName(name)
	if err == nil {
		err = netlink.LinkSetUp(link)
	}
	if err != nil {
		return fmt.Errorf("set up %s: %w", name, err)
	}
	return nil
}

func (h *Host) addCable(b Bridge, target *os.File) error {
	name, index := h.port(b)
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.Index, attrs.MasterIndex = name, index, 9000+b.ordinal()
	veth := &netlink.Veth{LinkAttrs: attrs, PeerName: b.Interface(), PeerHardwareAddr: h.MAC(b), PeerNamespace: netlink.NsFd(int(target.Fd()))}
	if err := netlink.LinkAdd(veth); err != nil {
		return fmt.Errorf("add cable %s: %w", name, err)
	}
	return setUp(name)
}

// unplug removes the host's cables, from the switch's side.
func (h *Host) unplug() error {
	return h.l.sw.do(func() error {
		for _, b := range h.bridges() {
			name, _ := h.port(b)
			link, err := netlink.LinkByName(name)
			if err != nil {
				continue // gone with its other end
			}
			// The kernel may be faster: it removes both ends with the host's namespace.
			if err := netlink.LinkDel(link); err != nil && !errors.Is(err, unix.ENODEV) {
				return fmt.Errorf("remove cable %s: %w", name, err)
			}
		}
		return nil
	})
}

// silence stops the bridges from passing a frame of the host in either direction, without a trace inside it: what a
// switch's port does when the machine behind it loses power, seen from the others.
func (h *Host) silence() error {
	h.mute.Store(true)
	return h.l.sw.do(func() error {
		for _, b := range h.bridges() {
			_, index := h.port(b)
			req := nl.NewNetlinkRequest(unix.RTM_SETLINK, unix.NLM_F_ACK)
			msg := nl.NewIfInfomsg(unix.AF_BRIDGE)
			msg.Index = int32(index)
			req.AddData(msg)
			info := nl.NewRtAttr(unix.IFLA_PROTINFO|unix.NLA_F_NESTED, nil)
			info.AddRtAttr(nl.IFLA_BRPORT_STATE, []byte{0}) // BR_STATE_DISABLED
			req.AddData(info)
			if _, err := req.Execute(unix.NETLINK_ROUTE, 0); err != nil {
				return fmt.Errorf("silence %s on %s: %w", h.name, b, err)
			}
		}
		return nil
	})
}

// CutLinks pulls the host's cables, on all networks if none is named: the host sees its carrier go.
func (h *Host) CutLinks(on ...Bridge) error { return h.setPorts(false, on) }

// HealLinks plugs the host's cables in again.
func (h *Host) HealLinks(on ...Bridge) error { return h.setPorts(true, on) }

func (h *Host) setPorts(up bool, on []Bridge) error {
	return h.l.sw.do(func() error {
		for _, b := range h.bridges() {
			if len(on) > 0 && !slices.Contains(on, b) {
				continue
			}
			name, _ := h.port(b)
			link, err := netlink.LinkByName(name)
			if err == nil && up {
				err = netlink.LinkSetUp(link)
			} else if err == nil {
				err = netlink.LinkSetDown(link)
			}
			if err != nil {
				return fmt.Errorf("switch cable %s: %w", name, err)
			}
		}
		return nil
	})
}

// cut is one direction on one network that the switch drops in silence.
type cut struct {
	from, to string
	on       Bridge
}

// Partition drops every frame between the hosts of a and those of b, both ways, on all networks if none is named.
// Nobody sees a carrier go. Cuts add up until they are healed, and outlive a host's power loss.
func (l *Lab) Partition(a, b []string, on ...Bridge) error {
	return l.changeCuts(true, append(l.pairs(a, b, on), l.pairs(b, a, on)...))
}

// CutOneWay drops every frame from the hosts of from to those of to; the other direction stays.
func (l *Lab) CutOneWay(from, to []string, on ...Bridge) error {
	return l.changeCuts(true, l.pairs(from, to, on))
}

// Isolate partitions the named hosts, together, from all others and from the client.
func (l *Lab) Isolate(names []string, on ...Bridge) error {
	return l.Partition(names, l.Names(names...), on...)
}

// HealBetween takes back what Partition and CutOneWay did between the hosts of a and those of b, both ways.
func (l *Lab) HealBetween(a, b []string, on ...Bridge) error {
	return l.changeCuts(false, append(l.pairs(a, b, on), l.pairs(b, a, on)...))
}

// Heal takes back every partition and one-way cut. Pulled cables stay pulled.
func (l *Lab) Heal() error {
	l.mu.Lock()
	all := []cut{}
	for c := range l.cuts {
		all = append(all, c)
	}
	l.mu.Unlock()
	return l.changeCuts(false, all)
}

func (l *Lab) pairs(from, to []string, on []Bridge) []cut {
	if len(on) == 0 {
		on = l.bridges()
	}
	var cuts []cut
	for _, b := range on {
		for _, f := range from {
			for _, t := range to {
				if f != t {
					cuts = append(cuts, cut{f, t, b})
				}
			}
		}
	}
	return cuts
}

// changeCuts replaces the switch's ruleset in one transaction.
func (l *Lab) changeCuts(add bool, cuts []cut) error {
	for _, c := range cuts {
		l.Host(c.from)
		l.Host(c.to)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	next := map[cut]bool{}
	for c := range l.cuts {
		next[c] = true
	}
	for _, c := range cuts {
		if add {
			next[c] = true
		} else {
			delete(next, c)
		}
	}
	elements := []string{}
	for c := range next {
		elements = append(elements, fmt.Sprintf("%q . %q", c.from+"-"+string(c.on), c.to+"-"+string(c.on)))
	}
	slices.Sort(elements)
	var rules bytes.Buffer
	rules.WriteString("table bridge lab\ndelete table bridge lab\n")
	if len(elements) > 0 {
		fmt.Fprintf(&rules, `table bridge lab {
	set cuts {
		type ifname . ifname
		elements = { %s }
	}
	chain forward {
		type filter hook forward priority 0; policy accept;
		meta iifname . meta oifname @cuts drop
	}
}
`, strings.Join(elements, ", "))
	}
	res, err := l.ctl.run(context.Background(), Command{Argv: []string{"nft", "-f", "-"}, Stdin: rules.String()})
	if err != nil {
		return fmt.Errorf("change partitions: %w: %s", err, res.Stderr)
	}
	l.cuts = next
	return nil
}

// TakeAddress adds an IPv4 address to the host's eth0 and tells the network by one gratuitous ARP, as if somebody in
// the host did it by hand.
func (h *Host) TakeAddress(vip netip.Addr) error {
	err := h.NetDo(func() error {
		link, err := netlink.LinkByName(LAN.Interface())
		if err != nil {
			return err
		}
		if err := netlink.AddrReplace(link, &netlink.Addr{IPNet: &net.IPNet{IP: vip.AsSlice(), Mask: net.CIDRMask(24, 32)}}); err != nil {
			return err
		}
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		b := append([]byte{0, 1, 8, 0, 6, 4, 0, 1}, h.MAC(LAN)...)
		b = append(b, vip.AsSlice()...)
		b = append(append(b, 0, 0, 0, 0, 0, 0), vip.AsSlice()...)
		return unix.Sendto(fd, b, 0, &unix.SockaddrLinklayer{Protocol: htons(etherARP), Ifindex: link.Attrs().Index, Halen: 6, Addr: [8]byte{255, 255, 255, 255, 255, 255}})
	})
	if err != nil {
		return fmt.Errorf("host %s: take %s: %w", h.name, vip, err)
	}
	return nil
}
