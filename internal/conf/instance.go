package conf

import (
	"net/netip"
	"time"
)

// instanceDraft is a vrrp_instance on its way: what was given, and what the end of the block decides.
type instanceDraft struct {
	Instance
	at   origin
	seen map[string]origin // each keyword's last place

	family         int   // 4, 6 or 0 while nothing has told
	version        uint8 // 0: not given
	defaultVersion uint8
	group4, group6 netip.Addr
	garp           garpDraft
	globalGarp     garpDraft
	minGarp        bool

	state       string // MASTER, BACKUP or "" for not given
	priority    uint8  // 0: not given
	noPreempt   bool
	advert      time.Duration
	unicastWord bool // a keyword that only makes sense with unicast
	authType    string
	authPass    *word
	retryGiven  bool
	tracking

	// What was said, and nil what was not: then defaults and strict mode decide.
	strict, accept, ownerIgnores, lowerPrioNoAdvert, higherPrioSendAdvert *bool
	defaults                                                              instanceDefaults
}

// instanceDefaults are what global_defs said when the instance began.
type instanceDefaults struct {
	strict, ownerIgnores, lowerPrioNoAdvert, higherPrioSendAdvert bool
}

// isFamily settles the instance's address family with the first address, and says whether a fits it.
func (d *instanceDraft) isFamily(a netip.Addr) bool {
	f := 4
	if a.Is6() {
		f = 6
	}
	if d.family == 0 {
		d.family = f
	}
	return d.family == f
}

func instanceKeywords() [][]keyword[instanceDraft] {
	source := func(unicast bool) func(s *statement, d *instanceDraft) {
		return func(s *statement, d *instanceDraft) {
			d.unicastWord = d.unicastWord || unicast
			const instead = "ignored"
			w := s.arg(0)
			a, ok := s.address(w, instead)
			switch {
			case !ok:
			case !d.isFamily(a):
				s.bad(w, "another address family, expected that of the instance's other addresses; %s", instead)
			default:
				if a.IsMulticast() || a.IsUnspecified() {
					s.report(Lint, w, "no host can have this address, expected one of the interface's addresses")
				}
				d.Source = a
			}
		}
	}
	hook := func(of func(h *Hooks) *Command) func(s *statement, d *instanceDraft) {
		return func(s *statement, d *instanceDraft) { hookLine(s, of(&d.Hooks)) }
	}
	addresses := func(excluded bool) func(s *statement, d *instanceDraft) {
		return func(s *statement, d *instanceDraft) {
			s.p.values(s, func(s *statement) { addressOf(s, d, excluded) })
		}
	}
	given := func(of func(d *instanceDraft) **bool) func(s *statement, d *instanceDraft) {
		return boolean(func(d *instanceDraft, v bool) { *of(d) = &v })
	}
	own := []keyword[instanceDraft]{
		{name: "state", need: 1, max: 1, set: func(s *statement, d *instanceDraft) {
			switch w := s.arg(0); {
			case w.text == "MASTER":
				d.state = "MASTER"
			case w.text == "BACKUP" && d.state == "MASTER":
				s.bad(w, "state is MASTER already, expected one state line; ignored")
			case w.text == "BACKUP":
				d.state = "BACKUP"
			default:
				s.bad(w, "unknown state, expected MASTER or BACKUP in capitals; using BACKUP")
			}
		}},
		{name: "interface", need: 1, max: 1, set: func(s *statement, d *instanceDraft) {
			w := s.arg(0)
			if w.text == "lo" {
				s.bad(w, "loopback interface cannot carry VRRP, expected another; ignored")
				return
			}
			if name, ok := s.interfaceName(w, "ignored"); ok {
				d.Interface = name
			}
		}},
		{name: "virtual_router_id", need: 1, max: 1, set: func(s *statement, d *instanceDraft) {
			if v, ok := s.number(s.arg(0), 1, 255, "ignored"); ok {
				d.VRID = uint8(v)
			}
		}},
		{name: "priority", need: 1, max: 1, set: func(s *statement, d *instanceDraft) {
			v, ok := s.number(s.arg(0), 1, 255, "using 100")
			if !ok {
				v = 100
			}
			d.priority = uint8(v)
		}},
		{name: "advert_int", need: 1, max: 1, set: func(s *statement, d *instanceDraft) {
			if v, ok := s.seconds(s.arg(0), 10*time.Millisecond, 255*time.Second, "ignored"); ok {
				d.advert = v
			}
		}},
		{name: "version", need: 1, max: 1, set: func(s *statement, d *instanceDraft) {
			v, ok := s.number(s.arg(0), 2, 3, "ignored")
			switch {
			case !ok:
			case d.version != 0 && d.version != uint8(v):
				s.bad(s.arg(0), "version is %d already, expected one version line; ignored", d.version)
			default:
				d.version = uint8(v)
			}
		}},
		{name: "virtual_ipaddress", max: 0, set: addresses(false)},
		{name: "virtual_ipaddress_excluded", max: 0, set: addresses(true)},
		{name: "no_virtual_ipaddress", max: 0, set: plain(func(d *instanceDraft) { d.NoAddresses = true })},
		{name: "nopreempt", max: 0, set: plain(func(d *instanceDraft) { d.noPreempt = true })},
		{name: "preempt", max: 0, set: plain(func(d *instanceDraft) { d.noPreempt = false })},
		{name: "preempt_delay", need: 1, max: 1, set: func(s *statement, d *instanceDraft) {
			if v, ok := s.seconds(s.arg(0), 0, 1000*time.Second, "ignored"); ok {
				d.PreemptDelay = v
			}
		}},
		{name: "mcast_src_ip", need: 1, max: 1, set: source(false)},
		{name: "unicast_src_ip", need: 1, max: 1, set: source(true)},
		{name: "track_src_ip", max: 0, set: plain(func(d *instanceDraft) { d.TrackSource = true })},
		{name: "mcast_dst_ip", need: 1, max: 1, set: func(s *statement, d *instanceDraft) {
			w := s.arg(0)
			a, ok := s.address(w, "ignored")
			switch {
			case !ok:
			case !a.IsMulticast():
				s.bad(w, "not a multicast address, expected one; ignored")
			case !d.isFamily(a):
				s.bad(w, "another address family, expected that of the instance's other addresses; ignored")
			default:
				if a.Is6() && !a.IsLinkLocalMulticast() {
					s.bad(w, "not link-local, expected an address that starts with ff02:")
				}
				d.Group = a
			}
		}},
		{name: "unicast_peer", max: 0, set: func(s *statement, d *instanceDraft) {
			d.unicastWord = true
			s.p.values(s, func(s *statement) { peerLine(s, d) })
		}},
		{name: "unicast_ttl", need: 1, max: 1, set: func(s *statement, d *instanceDraft) {
			d.unicastWord = true
			if v, ok := s.number(s.arg(0), 0, 255, "ignored"); ok {
				d.UnicastTTL = int(v)
			}
		}},
		{name: "unicast_fault_no_peer", max: 0, set: plain(func(d *instanceDraft) { d.FaultNoPeer = true })},
		{name: "check_unicast_src", max: 0, set: plain(func(d *instanceDraft) { d.CheckUnicastSrc = true })},
		{name: "v3_checksum_as_v2", max: 1, set: boolean(func(d *instanceDraft, v bool) { d.ChecksumPlain = v })},
		{name: "native_ipv6", max: 0, set: func(s *statement, d *instanceDraft) {
			if d.family == 4 {
				s.bad(word{pos: s.words[0].pos}, "instance has IPv4 addresses already, expected IPv6 addresses; ignored")
				return
			}
			d.family = 6
		}},
		{name: "accept", max: 0, set: plain(func(d *instanceDraft) { yes := true; d.accept = &yes })},
		{name: "no_accept", max: 0, set: plain(func(d *instanceDraft) { no := false; d.accept = &no })},
		{name: "strict_mode", max: 1, set: func(s *statement, d *instanceDraft) {
			if v, ok := s.boolean(0); ok {
				if v {
					discourage(s)
				}
				d.strict = &v
			}
		}},
		{name: "owner_ignore_adverts", max: 0, set: plain(func(d *instanceDraft) { yes := true; d.ownerIgnores = &yes })},
		{name: "timer_expired_backup", max: 1, set: timerExpired},
		{name: "thread_timer_expired", max: 1, set: func(s *statement, d *instanceDraft) {
			s.report(Lint, word{pos: s.words[0].pos}, "old name, expected timer_expired_backup")
			timerExpired(s, d)
		}},
		{name: "skip_check_adv_addr", max: 1, set: func(s *statement, d *instanceDraft) {
			v, ok := s.boolean(0)
			if ok && !v { // keepalived's own slip, kept: the same file must mean the same
				s.report(Lint, s.arg(0), "keepalived turns this on with any boolean, and so does vrrpd; expected no such line")
			}
			d.SkipCheckAdvAddr = d.SkipCheckAdvAddr || ok
		}},
		{name: "down_timer_adverts", need: 1, max: 1, set: func(s *statement, d *instanceDraft) {
			if v, ok := s.number(s.arg(0), 1, 100, "ignored"); ok {
				d.DownTimerAdverts = int(v)
			}
		}},
		{name: "lower_prio_no_advert", max: 1, set: given(func(d *instanceDraft) **bool { return &d.lowerPrioNoAdvert })},
		{name: "higher_prio_send_advert", max: 1, set: given(func(d *instanceDraft) **bool { return &d.higherPrioSendAdvert })},
		{name: "virtual_routes", max: 0, set: func(s *statement, d *instanceDraft) {
			s.p.values(s, func(s *statement) { routeLine(s, d) })
		}},
		{name: "virtual_rules", max: 0, set: func(s *statement, d *instanceDraft) {
			s.p.values(s, func(s *statement) { ruleLine(s, d) })
		}},
		{name: "promote_secondaries", max: 0, set: plain(func(d *instanceDraft) { d.PromoteSecondaries = true })},
		{name: "notify_priority_changes", max: 1, set: noting(boolean(func(d *instanceDraft, v bool) { d.NotifyPriorityChanges = v }))},
		{name: "dont_track_primary", max: 0, set: plain(func(d *instanceDraft) { d.DontTrackPrimary = true })},
		{name: "authentication", max: 0, set: func(s *statement, d *instanceDraft) { parseBlock(s.p, s, s.p.auth, d) }},
		{name: "auth_hmac", max: 0, set: func(s *statement, d *instanceDraft) { parseBlock(s.p, s, s.p.hmac, d) }},
		{name: "notify", need: 1, max: -1, set: hook(func(h *Hooks) *Command { return &h.Notify })},
		{name: "notify_master", need: 1, max: -1, set: hook(func(h *Hooks) *Command { return &h.Master })},
		{name: "notify_backup", need: 1, max: -1, set: hook(func(h *Hooks) *Command { return &h.Backup })},
		{name: "notify_fault", need: 1, max: -1, set: hook(func(h *Hooks) *Command { return &h.Fault })},
		{name: "notify_stop", need: 1, max: -1, set: hook(func(h *Hooks) *Command { return &h.Stop })},
		{name: "notify_deleted", max: -1, set: func(s *statement, d *instanceDraft) {
			d.Hooks.SendDeleted = true
			if s.args() > 0 {
				hookLine(s, &d.Hooks.Deleted)
			}
		}},
		{name: "notify_master_rx_lower_pri", need: 1, max: -1, set: hook(func(h *Hooks) *Command { return &h.MasterRxLowerPri })},

		// What follows is ours.
		{name: "vip_after_notify", need: 1, max: 1, set: extension(func(s *statement, d *instanceDraft) {
			if v, ok := s.seconds(s.arg(0), 100*time.Millisecond, time.Hour, ""); ok {
				d.VIPAfterNotify = v
			}
		})},
		{name: "notify_retry", need: 1, max: 1, set: extension(func(s *statement, d *instanceDraft) {
			if v, ok := s.seconds(s.arg(0), time.Second, time.Hour, ""); ok {
				d.NotifyRetry = v
				d.retryGiven = true
			}
		})},
		{name: "vip_lifetime", need: 1, max: 1, set: extension(func(s *statement, d *instanceDraft) {
			if v, ok := s.number(s.arg(0), 0, 3600, ""); ok {
				d.VIPLifetime = time.Duration(v) * time.Second
			}
		})},
		{name: "quorum", need: 1, max: -1, set: extension(func(s *statement, d *instanceDraft) {
			if d.Quorum != "" {
				s.bad(s.arg(0), "resource is %s already, expected one quorum line", d.Quorum)
				return
			}
			s.nothingAfter(1)
			if s.nodeName(s.arg(0)) {
				d.Quorum = s.text(0)
			}
		})},
	}
	own = append(own, vmacKeywords()...)
	for i := range own {
		own[i].set = noting(own[i].set)
	}
	return append([][]keyword[instanceDraft]{
		own, garpKeywords("", noting, func(d *instanceDraft) *garpDraft { return &d.garp }),

		not[instanceDraft](unsupported, false, "the addresses stand on the interface itself", "use_ipvlan"),
		not[instanceDraft](unsupported, false, "the instance runs outside of the VRF", "vrf"),

		not[instanceDraft](skipped, false, "only keepalived up to 1.3.6 computes that checksum", "old_unicast_checksum"),
		not[instanceDraft](skipped, false, "vrrpd sends no e-mail; use notify", "smtp_alert"),
		not[instanceDraft](skipped, false, "announcements go out on the addresses' own interfaces only", "garp_extra_if", "vmac_garp_intvl"),
		not[instanceDraft](skipped, false, "vrrpd sizes its buffers itself", "kernel_rx_buf_size"),
		not[instanceDraft](skipped, false, "link state comes from the kernel's notices", "linkbeat_use_polling"),
		not[instanceDraft](skipped, false, "it does nothing in keepalived either; see --log-level", "debug"),
		not[instanceDraft](skipped, false, "it does not concern VRRP", "lvs_sync_daemon_interface"),
	}, trackKeywords(func(d *instanceDraft) *tracking { return &d.tracking })...)
}

// timerExpired reads timer_expired_backup [PRIORITY]: the highest that the others can have, so that the shortest time after
// which one of them can have taken over follows.
func timerExpired(s *statement, d *instanceDraft) {
	v := int64(254)
	if s.args() > 0 {
		var ok bool
		if v, ok = s.number(s.arg(0), 1, 254, "ignored"); !ok {
			return
		}
	}
	d.TimerExpiredBackup = int(v)
}

func authKeywords() [][]keyword[instanceDraft] {
	return [][]keyword[instanceDraft]{{
		{name: "auth_type", need: 1, max: 1, set: noting(func(s *statement, d *instanceDraft) {
			switch w := s.arg(0); w.text {
			case "PASS":
				d.authType = w.text
			case "AH":
				s.report(Fatal, w, "IPsec AH is not supported, and without it adverts would go out and be accepted unauthenticated, expected PASS, or auth_hmac")
			default:
				s.bad(w, "unknown authentication, expected PASS; adverts go out without authentication")
			}
		})},
		{name: "auth_pass", need: 1, max: 1, set: noting(func(s *statement, d *instanceDraft) {
			w := s.arg(0)
			if len(w.text) > 8 {
				s.report(Lint, w, "password is longer than 8 bytes, expected at most 8; only the first 8 count")
				w.text = w.text[:8]
			}
			d.authPass = &w
		})},
	}}
}

// noting keeps each keyword's place for the checks at the end of the block.
func noting(set func(*statement, *instanceDraft)) func(*statement, *instanceDraft) {
	return func(s *statement, d *instanceDraft) {
		d.seen[s.name()] = s.origin()
		set(s, d)
	}
}

// extension marks the file as ours.
func extension(set func(*statement, *instanceDraft)) func(*statement, *instanceDraft) {
	return func(s *statement, d *instanceDraft) {
		s.p.cfg.Extended = true
		set(s, d)
	}
}

// hookLine reads a notify line; of several the first counts.
func hookLine(s *statement, c *Command) {
	cmd := s.command("the hook is not run")
	switch {
	case len(cmd.Argv) == 0:
	case len(c.Argv) > 0:
		s.bad(s.arg(0), "hook is given already (at %s), expected it once; this one is ignored", c.At())
	default:
		*c = cmd
	}
}

// addressOf reads a line of virtual_ipaddress or virtual_ipaddress_excluded.
func addressOf(s *statement, d *instanceDraft, excluded bool) {
	a, ok := s.addressLine()
	if !ok {
		return
	}
	w := s.arg(0)
	if !excluded {
		if !d.isFamily(a.Prefix.Addr()) {
			s.bad(w, "another address family, expected that of the instance's other addresses; ignored: virtual_ipaddress_excluded takes both")
			return
		}
		if len(d.Addresses) == maxAddresses {
			s.bad(w, "more than %d addresses, expected the rest in virtual_ipaddress_excluded; ignored", maxAddresses)
			return
		}
	}
	for _, list := range [][]Address{d.Addresses, d.Excluded} {
		for _, other := range list {
			if other.Prefix == a.Prefix && other.Interface == a.Interface {
				s.bad(w, "address is given twice (at %s), expected it once; ignored", other.At())
				return
			}
		}
	}
	if excluded {
		d.Excluded = append(d.Excluded, a)
		return
	}
	if len(d.Addresses) == 0 && a.Prefix.Addr().Is6() && !a.Prefix.Addr().IsLinkLocalUnicast() {
		s.report(Lint, w, "first IPv6 address is not link-local, expected one of fe80::/10 (RFC 9568 section 5.2.9)")
	}
	d.Addresses = append(d.Addresses, a)
}

// peerLine reads a line of unicast_peer: ADDRESS [min_ttl N] [max_ttl N].
func peerLine(s *statement, d *instanceDraft) {
	w := s.arg(0)
	a, ok := s.address(w, "the peer is ignored")
	if !ok {
		return
	}
	if !d.isFamily(a) {
		s.bad(w, "another address family, expected that of the instance's other addresses; the peer is ignored")
		return
	}
	if a.IsMulticast() || a.IsUnspecified() {
		s.report(Lint, w, "no peer can have this address, expected a unicast address")
	}
	p := Peer{Pos: w.pos, Addr: a, MinTTL: -1, MaxTTL: -1}
	for i := 1; i < s.args(); i++ {
		option := s.arg(i)
		var limit *int
		switch option.text {
		case "min_ttl":
			limit = &p.MinTTL
		case "max_ttl":
			limit = &p.MaxTTL
		default:
			s.bad(option, "unknown option of a peer, expected min_ttl or max_ttl; ignored")
			continue
		}
		if i++; i >= s.args() {
			s.bad(option, "value is missing, expected a whole number from 0 to 255; ignored")
			break
		}
		if v, ok := s.number(s.arg(i), 0, 255, "ignored"); ok {
			*limit = int(v)
			d.CheckUnicastSrc = true
		}
	}
	if p.MaxTTL >= 0 && p.MinTTL > p.MaxTTL {
		s.bad(w, "min_ttl is greater than max_ttl: every packet of this peer is discarded")
	}
	for _, other := range d.Peers {
		if other.Addr == a {
			s.report(Lint, w, "peer is given twice (at %s), expected it once; ignored", other.At())
			return
		}
	}
	d.Peers = append(d.Peers, p)
}

// beginInstance parses a vrrp_instance block.
func beginInstance(s *statement, p *parser) {
	if s.text(0) == "" {
		s.bad(s.arg(0), "name is missing, expected vrrp_instance NAME; the block is skipped")
		p.skipBlock()
		return
	}
	d := &instanceDraft{
		at:   s.origin(),
		seen: map[string]origin{},
		Instance: Instance{
			Pos: s.words[0].pos, Name: s.text(0), Interface: p.g.DefaultInterface,
			DownTimerAdverts: p.g.downTimerAdverts, SkipCheckAdvAddr: p.g.skipCheckAdvAddr,
			ChecksumPlain: p.g.checksumPlain, CheckUnicastSrc: p.g.checkUnicastSrc, UnicastTTL: 255,
			NotifyPriorityChanges: p.g.notifyPriorityChanges,
			NotifyRetry:           10 * time.Second,
			VMAC:                  VMAC{LinkGroup: -1},
			HMAC:                  HMAC{Mode: HMACEnforce},
		},
		defaults: instanceDefaults{
			strict: p.g.strict, ownerIgnores: p.g.ownerIgnoreAdverts,
			lowerPrioNoAdvert: p.g.lowerPrioNoAdvert, higherPrioSendAdvert: p.g.higherPrioSendAdvert,
		},
		defaultVersion: p.g.version, group4: p.g.group4, group6: p.g.group6, globalGarp: p.g.garp, minGarp: p.g.minGarp,
		advert: time.Second,
	}
	if other := p.instanceNames[d.Name]; other != nil {
		s.bad(s.arg(0), "vrrp_instance of this name exists already (at %s), expected a name of its own; this one is ignored", other.At())
		p.skipBlock()
		return
	}
	p.instances = append(p.instances, d)
	p.instanceNames[d.Name] = d
	parseBlock(p, s, p.instance, d)
}

// place gives the last place of a keyword in the block, else that of the block.
func (d *instanceDraft) place(keyword string) origin {
	if at, ok := d.seen[keyword]; ok {
		return at
	}
	return d.at
}

// finish does what the end of the block decides, in keepalived's order. The group is the instance's, nil without one.
func (d *instanceDraft) finish(p *parser, g *groupDraft) {
	report := func(sev Severity, keyword, got, format string, args ...any) {
		at := d.place(keyword)
		at.keyword = keyword
		p.report(sev, at, got, format, args...)
	}
	d.IPv6 = d.family == 6
	d.Version = d.defaultVersion
	if d.version != 0 {
		d.Version = d.version
	}
	if d.IPv6 && d.Version == 2 {
		if d.version == 2 {
			report(Error, "version", "2", "version 2 knows IPv4 only, expected 3 with IPv6 addresses; using 3")
		}
		d.Version = 3
	}

	if d.VRID == 0 {
		report(Fatal, "virtual_router_id", "", "%s has no VRID, expected virtual_router_id 1 to 255", d.Name)
	}
	if d.Interface == "" {
		report(Fatal, "interface", "", "%s has no interface, expected interface NAME, or default_interface before it", d.Name)
	}

	d.Priority = d.priority
	if d.priority == 0 {
		d.Priority = 100
		if d.state == "MASTER" {
			d.Priority = 255
			report(Lint, "state", "", "state MASTER without a priority makes this an address owner, expected a priority; using 255")
		}
	}
	d.StartMaster = d.state == "MASTER"
	d.strictState(report)
	d.Preempt = !d.noPreempt
	if d.noPreempt && (d.StartMaster || d.Priority == 255) {
		report(Error, "nopreempt", "", "has no effect with state MASTER or priority 255, expected state BACKUP and a lower priority; ignored")
		d.Preempt = true
	}
	if d.PreemptDelay > 0 && (d.StartMaster || d.Priority == 255) {
		report(Error, "preempt_delay", secondsText(d.PreemptDelay), "has no effect with state MASTER or priority 255, expected state BACKUP; ignored")
		d.PreemptDelay = 0
	}
	if d.PreemptDelay > 0 && !d.Preempt {
		report(Error, "preempt_delay", secondsText(d.PreemptDelay), "has no effect with nopreempt, expected one of the two; ignored")
		d.PreemptDelay = 0
	}

	if d.TimerExpiredBackup > 0 && d.Preempt {
		report(Error, "timer_expired_backup", "", "has no effect without nopreempt, expected it too; ignored")
		d.TimerExpiredBackup = 0
	}

	d.AdvertInterval = d.interval(report)

	switch {
	case len(d.Addresses) > 0:
		if d.NoAddresses {
			report(Lint, "no_virtual_ipaddress", "", "instance has addresses, expected none with this keyword")
		}
	case d.NoAddresses && d.Version == 2 && !d.StrictMode:
	case d.StrictMode:
		report(Fatal, "virtual_ipaddress", "", "%s has no address, expected at least one in strict mode", d.Name)
	case d.Version == 3:
		report(Fatal, "virtual_ipaddress", "", "%s has no address, expected at least one: adverts of version 3 carry them (RFC 9568 section 5.2.5), those of version 2 may do without (no_virtual_ipaddress)", d.Name)
	default:
		report(Error, "virtual_ipaddress", "", "%s has no address, expected at least one, or no_virtual_ipaddress", d.Name)
	}
	d.Unicast = len(d.Peers) > 0 || d.FaultNoPeer
	switch {
	case d.Unicast && len(d.Peers) == 0:
		report(Lint, "unicast_fault_no_peer", "", "there is no usable peer: the instance stays in FAULT")
	case d.unicastWord && !d.Unicast:
		keyword := "unicast_peer"
		for _, k := range []string{"unicast_peer", "unicast_src_ip", "unicast_ttl"} {
			if _, ok := d.seen[k]; ok {
				keyword = k
				break
			}
		}
		report(Error, keyword, "", "%s has no usable peer, expected at least one in unicast_peer; using multicast", d.Name)
	}
	if d.Unicast && d.Group.IsValid() {
		report(Lint, "mcast_dst_ip", d.Group.String(), "has no effect with unicast_peer")
	}
	if !d.Group.IsValid() {
		d.Group = d.group4
		if d.IPv6 {
			d.Group = d.group6
		}
	}

	d.authenticate(report)
	d.finishHMAC(report)
	d.Garp = d.timing()
	d.strictMode(p, report)
	d.finishVMAC(p, report)
	for _, list := range [][]Address{d.Addresses, d.Excluded} {
		for i := range list {
			if list[i].Interface == "" {
				list[i].Interface = d.Interface
			}
		}
	}

	d.granted(p, report)
	if _, given := d.seen["vip_after_notify"]; given && d.VIPAfterNotify > 0 && !d.Hooks.tellsMaster() {
		report(Error, "vip_after_notify", "", "there is no hook to wait for, expected notify_master or notify")
	}
	if d.retryGiven && d.VIPAfterNotify == 0 {
		report(Lint, "notify_retry", "", "has no effect without vip_after_notify")
	}
	p.track(d, g)
}

// reporter adds a finding at the place of a keyword.
type reporter func(sev Severity, keyword, got, format string, args ...any)

// interval fits advert_int to what the version can say: whole seconds, or steps of 10 ms up to 40.95 s.
func (d *instanceDraft) interval(report reporter) time.Duration {
	v := d.advert
	if d.Version == 2 {
		rounded := max(time.Second, v.Round(time.Second))
		if rounded != v {
			report(Error, "advert_int", secondsText(v), "version 2 has whole seconds only, expected 1 to 255; using %s", secondsText(rounded))
		}
		return rounded
	}
	const step, limit = 10 * time.Millisecond, 40950 * time.Millisecond
	if v > limit {
		report(Error, "advert_int", secondsText(v), "too long for version 3, expected at most 40.95; using 40.95")
		return limit
	}
	rounded := v.Round(step)
	if rounded != v {
		report(Error, "advert_int", secondsText(v), "version 3 has steps of 0.01 seconds, expected 0.01 to 40.95; using %s", secondsText(rounded))
	}
	return rounded
}

func (d *instanceDraft) authenticate(report reporter) {
	if _, ok := d.seen["authentication"]; !ok {
		return
	}
	switch {
	case d.StrictMode && d.authType != "":
		report(Error, "authentication", "", "has no place in strict mode (RFC 3768 section 10), expected none; adverts go out without it")
	case d.Version == 3 && (d.authType != "" || d.authPass != nil):
		report(Error, "authentication", "", "version 3 has no authentication, expected none, or version 2; adverts go out without it")
	case d.authType == "" && d.authPass != nil:
		if _, told := d.seen["auth_type"]; !told {
			report(Lint, "auth_pass", "", "has no effect without auth_type, expected auth_type PASS; adverts go out without authentication")
		}
	case d.authType != "" && (d.authPass == nil || d.authPass.text == ""):
		report(Error, "auth_type", d.authType, "password is missing, expected auth_pass; adverts go out without authentication")
	case d.authType != "":
		d.Password, d.HasPassword = d.authPass.text, true
	}
}

// timing fills the announcement settings: the instance's, else global_defs', else the default; contention follows takeover.
func (d *instanceDraft) timing() Garp {
	delay, repeat := 5*time.Second, 5
	if d.minGarp {
		delay, repeat = 0, 1
	}
	g := Garp{
		MasterDelay:         first(delay, d.garp.masterDelay, d.globalGarp.masterDelay),
		MasterRepeat:        first(repeat, d.garp.masterRepeat, d.globalGarp.masterRepeat),
		MasterRefresh:       first(0, d.garp.masterRefresh, d.globalGarp.masterRefresh),
		MasterRefreshRepeat: first(1, d.garp.masterRefreshRepeat, d.globalGarp.masterRefreshRepeat),
		Interval:            d.globalGarp.interval,
		GNAInterval:         d.globalGarp.gnaInterval,
	}
	g.LowerPrioDelay = first(g.MasterDelay, d.garp.lowerPrioDelay, d.globalGarp.lowerPrioDelay)
	g.LowerPrioRepeat = first(g.MasterRepeat, d.garp.lowerPrioRepeat, d.globalGarp.lowerPrioRepeat)
	return g
}

// first gives the first value that was given, else the default.
func first[V any](value V, given ...*V) V {
	for _, v := range given {
		if v != nil {
			return *v
		}
	}
	return value
}
