package system

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"pgvrrp/internal/conf"
)

// Macvlan is an interface on another one, with a MAC address of its own: the virtual router's (RFC 9568 section 7.3).
type Macvlan struct {
	Name, Parent string
	MAC          conf.MAC
	Group        int // of interfaces; -1: that of the parent
}

// Macvlans makes and removes macvlans. All that it made carry its tag as their alias (ip-link(8)), by which they are known
// after a kill; an interface without it is somebody else's. It is safe for concurrent use.
type Macvlans struct {
	tag string
	nl  *rtnl
}

// OpenMacvlans opens the socket in the network namespace of the calling thread. The tag is unique to a running vrrpd.
func OpenMacvlans(tag string) (*Macvlans, error) {
	nl, err := openRTNL()
	if err != nil {
		return nil, err
	}
	return &Macvlans{tag: tag, nl: nl}, nil
}

// Close closes the socket and leaves all interfaces where they are.
func (m *Macvlans) Close() error { return m.nl.close() }

const (
	macvlanKind    = "macvlan"
	macvlanPrivate = 1 // MACVLAN_MODE_PRIVATE: nothing goes between two of one parent
)

// kernelMacvlan is a link as far as it tells whether it is one of ours.
type kernelMacvlan struct {
	Link
	kind, alias string
	parent      int
	mode        uint32
}

func parseMacvlan(b []byte) (k kernelMacvlan, ok bool) {
	var err error
	if k.Link, ok, err = parseLink(b); !ok || err != nil {
		return k, false
	}
	number := func(v []byte) uint32 {
		if len(v) < 4 {
			return 0
		}
		return binary.NativeEndian.Uint32(v)
	}
	forAttributes(b[unix.SizeofIfInfomsg:], func(kind uint16, v []byte) {
		switch kind {
		case unix.IFLA_LINK:
			k.parent = int(number(v))
		case unix.IFLA_IFALIAS:
			k.alias = unix.ByteSliceToString(v)
		case unix.IFLA_LINKINFO:
			forAttributes(v, func(kind uint16, v []byte) {
				switch kind {
				case unix.IFLA_INFO_KIND:
					k.kind = unix.ByteSliceToString(v)
				case unix.IFLA_INFO_DATA:
					forAttributes(v, func(kind uint16, v []byte) {
						if kind == unix.IFLA_MACVLAN_MODE {
							k.mode = number(v)
						}
					})
				}
			})
		}
	})
	return k, true
}

// list gives all interfaces.
func (m *Macvlans) list() (all []kernelMacvlan, err error) {
	err = m.nl.dump(message{kind: unix.RTM_GETLINK, body: make([]byte, unix.SizeofIfInfomsg)}, func(kind uint16, body []byte) {
		if k, ok := parseMacvlan(body); ok && kind == unix.RTM_NEWLINK {
			all = append(all, k)
		}
	})
	if err != nil {
		return nil, fmt.Errorf("list links: %w", err)
	}
	return all, nil
}

// Ensure makes the interface be there and up, with its settings. One of ours that is different is made anew; its addresses go with
// it. Safe to repeat.
func (m *Macvlans) Ensure(v Macvlan) error {
	if err := m.ensure(v); err != nil {
		return fmt.Errorf("make VMAC %s on %s: %w", v.Name, v.Parent, err)
	}
	return nil
}

func (m *Macvlans) ensure(v Macvlan) error {
	if err := CheckInterfaceName(v.Name); err != nil {
		return err
	}
	parent, err := m.nl.index(v.Parent)
	if err != nil {
		return fmt.Errorf("interface %s: %w", v.Parent, err)
	}
	err = m.create(parent, v)
	if errors.Is(err, unix.EEXIST) {
		old, unknown := m.former(parent, v)
		switch {
		case unknown != nil:
			return unknown
		case old.same:
			return m.raise(old.index, v)
		}
		if err := m.delete(old.index); err != nil {
			return err
		}
		err = m.create(parent, v)
	}
	if errors.Is(err, unix.EOPNOTSUPP) {
		return fmt.Errorf("%w: this kernel has no macvlan", err)
	}
	if err != nil {
		return err
	}
	index, err := m.nl.index(v.Name)
	if err != nil {
		return err
	}
	alias := appendAttribute(appendIfinfomsg(index, 0, 0), unix.IFLA_IFALIAS, []byte(m.tag))
	if err := m.do(message{kind: unix.RTM_SETLINK, body: alias}); err != nil {
		return errors.Join(fmt.Errorf("set alias: %w", err), m.delete(index))
	}
	if err := m.raise(index, v); err != nil {
		return errors.Join(err, m.delete(index))
	}
	return nil
}

// create makes the interface, down.
func (m *Macvlans) create(parent int, v Macvlan) error {
	ne := binary.NativeEndian
	body := appendIfinfomsg(0, 0, 0)
	body = appendAttribute(body, unix.IFLA_IFNAME, append([]byte(v.Name), 0))
	body = appendAttribute(body, unix.IFLA_ADDRESS, v.MAC)
	body = appendAttribute(body, unix.IFLA_LINK, ne.AppendUint32(nil, uint32(parent)))
	if v.Group >= 0 {
		body = appendAttribute(body, unix.IFLA_GROUP, ne.AppendUint32(nil, uint32(v.Group)))
	}
	info := appendAttribute(nil, unix.IFLA_INFO_KIND, append([]byte(macvlanKind), 0))
	info = appendAttribute(info, unix.IFLA_INFO_DATA, appendAttribute(nil, unix.IFLA_MACVLAN_MODE, ne.AppendUint32(nil, macvlanPrivate)))
	body = appendAttribute(body, unix.IFLA_LINKINFO, info)
	return m.do(message{kind: unix.RTM_NEWLINK, flags: unix.NLM_F_CREATE | unix.NLM_F_EXCL, body: body})
}

// formerLink is an interface of ours that has the name already.
type formerLink struct {
	index int
	same  bool // it is as wanted
}

// former finds what has the name already; an error if that is not ours.
func (m *Macvlans) former(parent int, v Macvlan) (formerLink, error) {
	all, err := m.list()
	if err != nil {
		return formerLink{}, err
	}
	for _, k := range all {
		if k.Name != v.Name {
			continue
		}
		same := k.kind == macvlanKind && k.parent == parent && bytes.Equal(k.MAC, v.MAC) && k.mode == macvlanPrivate
		switch {
		case k.alias == m.tag:
			return formerLink{k.Index, same}, nil
		case k.alias == "" && same && !k.Admin: // a former run was killed before it could set the alias
			return formerLink{k.Index, false}, nil
		}
		return formerLink{}, errors.New("an interface of this name is there already and not ours: remove it, or give use_vmac another name")
	}
	return formerLink{}, errors.New("another interface has its MAC address there")
}

// raise puts the settings in force that a virtual MAC address needs, and then sets the interface up. The host's own address is on
// the parent, so that answers to what comes in here may leave there: neither that nor a packet of ours that a switch sends back
// may be dropped.
func (m *Macvlans) raise(index int, v Macvlan) error {
	ipv4 := filepath.Join("net/ipv4/conf", v.Name)
	for _, s := range [][2]string{{"accept_local", "1"}, {"arp_ignore", "1"}, {"rp_filter", "0"}, {"promote_secondaries", "1"}} {
		if err := setSysctl(filepath.Join(ipv4, s[0]), s[1]); err != nil {
			return err
		}
	}
	// No address of its own: neighbours must hear of the virtual ones alone.
	ipv6 := filepath.Join("net/ipv6/conf", v.Name)
	if _, err := ReadSysctl(filepath.Join(ipv6, "addr_gen_mode")); err == nil { // a kernel with IPv6
		for _, s := range [][2]string{{"addr_gen_mode", "1"}, {"accept_ra", "0"}, {"autoconf", "0"}, {"dad_transmits", "0"}} {
			if err := setSysctl(filepath.Join(ipv6, s[0]), s[1]); err != nil {
				return err
			}
		}
	}
	if err := m.do(message{kind: unix.RTM_SETLINK, body: appendIfinfomsg(index, unix.IFF_UP, unix.IFF_UP)}); err != nil {
		return fmt.Errorf("set up: %w", err)
	}
	return nil
}

// setSysctl writes a setting that goes with its interface, unless it has the value.
func setSysctl(key, value string) error {
	if now, err := ReadSysctl(key); err != nil || now == value {
		return err
	}
	return WriteSysctl(key, value)
}

// Remove removes those of our interfaces that keep does not name, and returns their names.
func (m *Macvlans) Remove(keep func(name string) bool) (removed []string, err error) {
	all, err := m.list()
	if err != nil {
		return nil, fmt.Errorf("remove VMACs: %w", err)
	}
	var errs []error
	for _, k := range all {
		if k.kind != macvlanKind || k.alias != m.tag || keep(k.Name) {
			continue
		}
		if err := m.delete(k.Index); err != nil {
			errs = append(errs, fmt.Errorf("remove VMAC %s: %w", k.Name, err))
			continue
		}
		removed = append(removed, k.Name)
	}
	return removed, errors.Join(errs...)
}

// Names are those of all our interfaces.
func (m *Macvlans) Names() (names []string, err error) {
	all, err := m.list()
	for _, k := range all {
		if k.kind == macvlanKind && k.alias == m.tag {
			names = append(names, k.Name)
		}
	}
	return names, err
}

func (m *Macvlans) delete(index int) error {
	err := m.do(message{kind: unix.RTM_DELLINK, body: appendIfinfomsg(index, 0, 0)})
	if errors.Is(err, unix.ENODEV) {
		return nil
	}
	return err
}

func (m *Macvlans) do(request message) error {
	outcomes, err := m.nl.exchange([]message{request})
	if err != nil {
		return err
	}
	return outcomes[0]
}

// appendIfinfomsg is struct ifinfomsg: family, a gap, type, index, flags, and which of them to change.
func appendIfinfomsg(index int, flags, change uint32) []byte {
	ne := binary.NativeEndian
	b := ne.AppendUint32(make([]byte, 4), uint32(index))
	return ne.AppendUint32(ne.AppendUint32(b, flags), change)
}

// ReverseFilters has every interface check its packets' way back as it does now, but each for itself: the kernel takes the
// stricter of an interface's setting and that of all (net.ipv4.conf.all.rp_filter), and a VMAC can have none. The
// interfaces of the names given are VMACs, which stay as they are. It is safe to repeat, and undone by Release of the last owner.
func (s *Sysctls) ReverseFilters(owner string, vmacs ...string) error {
	const dir = "net/ipv4/conf"
	s.join(owner, func(key string) bool { return strings.HasPrefix(key, dir+"/") && path.Base(key) == "rp_filter" })
	all, err := ReadSysctl(dir + "/all/rp_filter")
	if err != nil || all == "0" {
		return err
	}
	keys, err := filepath.Glob(filepath.Join(sysctlDir, dir, "*/rp_filter"))
	if err != nil {
		return err
	}
	for _, key := range keys {
		key = strings.TrimPrefix(key, sysctlDir+"/")
		if slices.Contains(vmacs, path.Base(path.Dir(key))) {
			continue
		}
		if now, err := ReadSysctl(key); err == nil && now < all && key != dir+"/all/rp_filter" { // one digit each
			if err := s.Set(owner, key, all); err != nil {
				return err
			}
		}
	}
	return s.Set(owner, dir+"/all/rp_filter", "0")
}
