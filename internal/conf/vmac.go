package conf

import (
	"bytes"
	"slices"
	"strconv"
	"strings"
)

// vmacKeywords are use_vmac and what belongs to it.
func vmacKeywords() []keyword[instanceDraft] {
	return []keyword[instanceDraft]{
		{name: "use_vmac", max: -1, set: useVMAC},
		{name: "use_vmac_addr", max: 0, set: plain(func(d *instanceDraft) { d.VMAC.ForAddresses = true })},
		{name: "vmac_xmit_base", max: 0, set: plain(func(d *instanceDraft) { d.VMAC.XmitBase = true })},
	}
}

// useVMAC reads use_vmac [[name] NAME] [MAC] [netlink_notify_msg] [group N].
func useVMAC(s *statement, d *instanceDraft) {
	d.VMAC.Use = true
	for i := 0; i < s.args(); i++ {
		w := s.arg(i)
		switch {
		case strings.Contains(w.text, ":"):
			d.vmacAddress(s, w)
		case w.text == "netlink_notify_msg":
			d.VMAC.NetlinkNotify = true
		case w.text == "group":
			if i++; i >= s.args() {
				s.bad(w, "group is missing, expected its number; ignored")
				return
			}
			if v, ok := s.number(s.arg(i), 0, 1<<31-1, "ignored: vrrpd reads no iproute2 tables, so that names are not known"); ok {
				d.VMAC.LinkGroup = int(v)
			}
		default:
			if w.text == "name" {
				i++
				w = s.arg(i)
			}
			if d.VMAC.Name != "" {
				s.bad(w, "name is %s already, expected one; ignored", d.VMAC.Name)
				continue
			}
			name, ok := s.interfaceName(w, "ignored")
			if !ok {
				continue
			}
			if slices.ContainsFunc(s.p.instances, func(other *instanceDraft) bool { return other.VMAC.Name == name }) {
				s.bad(w, "another vrrp_instance has this VMAC already, expected a name of its own; ignored")
				continue
			}
			d.VMAC.Name = name
		}
	}
}

// vmacAddress reads a MAC address; one with five bytes is completed by the VRID.
func (d *instanceDraft) vmacAddress(s *statement, w word) {
	parts := strings.Split(strings.TrimSuffix(w.text, ":"), ":")
	var mac MAC
	for _, p := range parts {
		v, err := strconv.ParseUint(p, 16, 8)
		if err != nil || len(p) > 2 {
			mac = nil
			break
		}
		mac = append(mac, byte(v))
	}
	switch {
	case d.VMAC.MAC != nil:
		s.bad(w, "MAC address is %s already, expected one; ignored", d.VMAC.MAC)
	case len(mac) != 5 && len(mac) != 6:
		s.bad(w, "malformed MAC address, expected six bytes, or five before the VRID, as 02:00:00:00:00:01; ignored")
	case mac[0]&1 != 0:
		s.bad(w, "a multicast MAC address, expected that of a station: an even first byte; ignored")
	case bytes.HasPrefix(mac, virtualMAC(false)[:5]) || bytes.HasPrefix(mac, virtualMAC(true)[:5]):
		s.bad(w, "RFC 9568's own MAC addresses follow from the VRID, expected none of them; ignored")
	default:
		d.VMAC.MAC = mac
	}
}

// virtualMAC is that of RFC 9568 section 7.3, with VRID 0.
func virtualMAC(ipv6 bool) MAC {
	mac := MAC{0, 0, 0x5e, 0, 1, 0}
	if ipv6 {
		mac[4] = 2
	}
	return mac
}

// finishVMAC settles use_vmac, and which addresses stand on a VMAC.
func (d *instanceDraft) finishVMAC(p *parser, report reporter) {
	v := &d.VMAC
	v.AddrPrefix = p.g.VMACAddrPrefix
	if !v.Use {
		if v.XmitBase {
			report(Lint, "vmac_xmit_base", "", "has no effect without use_vmac")
			v.XmitBase = false
		}
		v.LinkGroup = -1
	} else {
		if d.StrictMode && v.MAC != nil {
			report(Error, "use_vmac", v.MAC.String(), "strict mode wants the MAC address of the VRID (RFC 9568 section 7.3), expected none; ignored")
			v.MAC = nil
		}
		if v.MAC == nil {
			v.MAC = virtualMAC(d.IPv6)[:5]
		}
		if len(v.MAC) == 5 {
			v.MAC = append(slices.Clone(v.MAC), d.VRID)
		}
		switch {
		case d.Unicast && !v.XmitBase:
			report(Error, "use_vmac", "", "with unicast_peer adverts go out on the interface itself, expected vmac_xmit_base too; using it")
			v.XmitBase = true
		case d.StrictMode && v.XmitBase && !d.Unicast:
			report(Error, "vmac_xmit_base", "", "has no place in strict mode (RFC 9568 section 7.3), expected none; ignored")
			v.XmitBase = false
		}
		if v.Name == "" {
			v.DefaultName = true
			v.Name = vmacName(p.g.VMACPrefix, d.VRID, func(name string) bool {
				return slices.ContainsFunc(p.instances, func(other *instanceDraft) bool { return other != d && other.VMAC.Name == name })
			})
		}
	}
	for _, list := range [][]Address{d.Addresses, d.Excluded} {
		for i := range list {
			a := &list[i]
			alone := a.Interface != "" && a.Interface != d.Interface || a.Prefix.Addr().Is6() != d.IPv6
			switch {
			case a.VMAC && a.Interface == "":
				p.report(Lint, origin{Pos: a.Pos, keyword: "virtual_ipaddress"}, a.Prefix.String(), "use_vmac has no effect without dev")
				a.VMAC = v.Use
			case a.Interface == "":
				a.VMAC = v.Use || v.ForAddresses && alone
			case v.ForAddresses && alone:
				a.VMAC = true
			}
		}
	}
}

// vmacName is the name that keepalived would find: vrrp.VRID, and numbers behind it while it is taken.
func vmacName(prefix string, vrid uint8, taken func(name string) bool) string {
	for n := 0; ; n++ {
		suffix := "." + strconv.Itoa(int(vrid))
		if n > 0 {
			suffix += "." + strconv.Itoa(n)
		}
		if name := prefix[:min(len(prefix), 15-len(suffix))] + suffix; !taken(name) {
			return name
		}
	}
}

// KeepVMACNames has each virtual router that the former configuration has, too, keep the name of its VMAC if no file gives one: the
// default depends on what else a file has, and by another name it would be stopped and started anew. Those that are left get
// names that are free then.
func (c *Config) KeepVMACNames(former *Config) {
	if former.Globals.VMACPrefix != c.Globals.VMACPrefix {
		return
	}
	taken := map[string]bool{}
	var unnamed, left []*Instance
	for k := range c.Instances {
		if v := &c.Instances[k].VMAC; v.DefaultName {
			unnamed = append(unnamed, &c.Instances[k])
		} else {
			taken[v.Name] = true
		}
	}
	for _, i := range unnamed {
		k := slices.IndexFunc(former.Instances, func(was Instance) bool {
			return was.Name == i.Name && was.SameVirtualRouter(i) && was.VMAC.DefaultName && !taken[was.VMAC.Name]
		})
		if k < 0 {
			left = append(left, i)
			continue
		}
		i.VMAC.Name = former.Instances[k].VMAC.Name
		taken[i.VMAC.Name] = true
	}
	for _, i := range left {
		i.VMAC.Name = vmacName(c.Globals.VMACPrefix, i.VRID, func(name string) bool { return taken[name] })
		taken[i.VMAC.Name] = true
	}
}
