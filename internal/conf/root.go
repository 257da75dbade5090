package conf

import (
	"net/netip"
	"slices"
	"strings"
)

func rootKeywords() [][]keyword[parser] {
	return [][]keyword[parser]{{
		{name: "global_defs", max: 0, set: func(s *statement, p *parser) { parseBlock(p, s, p.globals, &p.g) }},
		{name: "vrrp_script", need: 1, max: 1, set: beginScript},
		{name: "vrrp_instance", max: 1, set: beginInstance},
		{name: "vrrp_sync_group", max: 1, set: beginGroup},
		{name: "track_file", need: 1, max: 1, set: beginFile},
		{name: "vrrp_track_file", need: 1, max: 1, set: beginFile},
		{name: "vrrp_track_process", need: 1, max: 1, set: beginProcess},
		{name: "garp_group", max: 0, set: beginGarpGroup},
		{name: "interface_up_down_delays", max: 0, set: linkDelays},
		{name: "net_namespace", need: 1, max: 1, set: func(s *statement, p *parser) {
			if w := s.arg(0); w.text == "" || strings.ContainsAny(w.text, "/"+blanks) {
				s.bad(w, "not a name, expected one of /run/netns; ignored")
				return
			}
			p.g.NetNamespace = s.text(0)
		}},
		{name: "instance", need: 1, max: 1, idle: "it is part of a dump file's name alone (data_use_instance)", set: func(s *statement, p *parser) { p.g.InstanceName = s.text(0) }},
		{name: "quorum", max: -1, set: beginQuorum},
	},
		not[parser](unsupported, true, "no such address, route or rule is set; set it with the system's network configuration",
			"static_ipaddress", "static_routes", "static_rules", "track_group"),
		not[parser](skipped, true, "it does not concern VRRP", "virtual_server", "virtual_server_group", "real_server", "SSL"),
		not[parser](skipped, true, "vrrpd has no BFD", "bfd_instance"),
		not[parser](skipped, true, "link state comes from the kernel's notices", "linkbeat_interfaces", "linkbeat_use_polling"),
		not[parser](skipped, false, "it does not concern VRRP as vrrpd does it",
			"use_pid_dir", "child_wait_time", "namespace_with_ipsets", "net_namespace_ipvs"),
	}
}

// finish does what only the whole file tells.
func (p *parser) finish() {
	p.finishGlobals()
	p.finishQuorum()
	group := p.finishGroups()
	for _, d := range p.instances {
		d.finish(p, group[d.Name])
	}
	p.finishGrants()
	p.duplicates()
	p.checkLinkDelays()
	p.security()

	for _, s := range p.scripts {
		if !s.used {
			p.report(Lint, s.at, s.Name, "no vrrp_instance tracks this script, so that it is not run")
		}
		p.cfg.Scripts = append(p.cfg.Scripts, s.Script)
	}
	for _, f := range p.files {
		if !f.used {
			p.report(Lint, f.at, f.Name, "no vrrp_instance tracks this file, so that it is not read")
		}
		p.cfg.TrackFiles = append(p.cfg.TrackFiles, f.TrackFile)
	}
	for _, t := range p.processes {
		if !t.used {
			p.report(Lint, t.at, t.Name, "no vrrp_instance tracks this process, so that nobody looks for it")
		}
		p.cfg.TrackProcesses = append(p.cfg.TrackProcesses, t.TrackProcess)
	}
	for _, d := range p.instances {
		p.cfg.Instances = append(p.cfg.Instances, d.Instance)
	}
	p.cfg.DefaultUser(p.cfg.Globals.ScriptUser)
}

// duplicates finds instances that would hear each other as one virtual router, and addresses claimed twice.
func (p *parser) duplicates() {
	type key struct {
		vrid    uint8
		name    string
		ipv6    bool
		unicast bool
	}
	routers := map[key][]*instanceDraft{}
	type place struct {
		prefix netip.Prefix
		name   string
	}
	addresses := map[place]*instanceDraft{}
	for _, d := range p.instances {
		for _, list := range [][]Address{d.Addresses, d.Excluded} {
			for _, a := range list {
				k := place{netip.PrefixFrom(a.Prefix.Addr(), a.Prefix.Addr().BitLen()), a.Interface}
				if other := addresses[k]; other != nil && other != d {
					p.report(Lint, origin{Pos: a.Pos, keyword: "virtual_ipaddress"}, a.Prefix.String(), "vrrp_instance %s has this address too", other.Name)
				}
				addresses[k] = d
			}
		}
		if d.VRID == 0 || d.Interface == "" {
			continue
		}
		k := key{d.VRID, d.Interface, d.IPv6, d.Unicast}
		for _, other := range routers[k] {
			if d.Unicast && !sharePeer(d.Peers, other.Peers) || !d.Unicast && d.Group != other.Group {
				continue
			}
			at := d.place("virtual_router_id")
			at.keyword = "virtual_router_id"
			p.report(Fatal, at, "", "VRID %d on %s is that of %s already (at %s), expected a VRID of its own",
				d.VRID, d.Interface, other.Name, other.place("virtual_router_id").At())
			break
		}
		routers[k] = append(routers[k], d)
	}
}

func sharePeer(a, b []Peer) bool {
	return slices.ContainsFunc(a, func(p Peer) bool {
		return slices.ContainsFunc(b, func(q Peer) bool { return p.Addr == q.Addr })
	})
}

// security reports, once, that programs are run without enable_script_security, as keepalived does.
func (p *parser) security() {
	if p.cfg.Globals.EnableScriptSecurity {
		return
	}
	var at *Pos
	consider := func(pos Pos) {
		if at == nil {
			at = &pos
		}
	}
	g := &p.cfg.Globals
	for _, c := range []*Command{&g.StartupScript, &g.ShutdownScript, &g.NotifyFIFO.Script, &g.VRRPNotifyFIFO.Script} {
		if len(c.Argv) > 0 {
			consider(c.Pos)
		}
	}
	for _, s := range p.scripts {
		if s.used {
			consider(s.Command.Pos)
		}
	}
	for _, d := range p.instances {
		for _, c := range d.Hooks.programs() {
			consider(c.Pos)
		}
	}
	for i := range p.cfg.SyncGroups {
		for _, c := range p.cfg.SyncGroups[i].Hooks.programs() {
			consider(c.Pos)
		}
	}
	if q := p.quorum; q != nil && len(p.instances) > 0 && len(q.RebootCommand.Argv) > 0 {
		consider(q.RebootCommand.Pos)
	}
	if at != nil {
		p.report(Security, origin{Pos: *at, keyword: "enable_script_security"}, "",
			"programs are configured without it, expected it in global_defs: it refuses programs that others than root could change")
	}
}
