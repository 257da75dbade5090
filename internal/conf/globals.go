package conf

import (
	"net/netip"
	"strconv"
	"strings"
	"time"
)

// globals is global_defs: what the Config keeps, and the defaults that an instance copies when it begins.
type globals struct {
	Globals
	version              uint8
	garp                 garpDraft
	minGarp              bool
	group4, group6       netip.Addr
	downTimerAdverts     int
	lowerPrioNoAdvert    bool
	higherPrioSendAdvert bool
	skipCheckAdvAddr     bool
	checksumPlain        bool
	checkUnicastSrc      bool

	strict                bool
	ownerIgnoreAdverts    bool
	notifyPriorityChanges bool
}

// garpDraft is Garp with what has not been given marked.
type garpDraft struct {
	masterDelay, masterRefresh, lowerPrioDelay         *time.Duration
	masterRepeat, masterRefreshRepeat, lowerPrioRepeat *int
	interval, gnaInterval                              time.Duration
}

func newGlobals() globals {
	return globals{
		Globals: Globals{
			RealTimeLimit: 10 * time.Millisecond, MinAutoPriorityDelay: time.Second,
			StartupTimeout: 10 * time.Second, ShutdownTimeout: 10 * time.Second,
			Umask: -1, JSONVersion: 1,
			VMACPrefix: "vrrp",
		},
		version:          2,
		group4:           netip.AddrFrom4([4]byte{224, 0, 0, 18}),
		group6:           netip.MustParseAddr("ff02::12"),
		downTimerAdverts: 3,
	}
}

// copied reports that a value comes too late for the instances above it.
func copied[T any](set func(s *statement, t *T)) func(s *statement, t *T) {
	return func(s *statement, t *T) {
		if n := len(s.p.instances); n > 0 {
			s.report(Lint, word{pos: s.words[0].pos},
				"does not reach the vrrp_instance blocks above it, expected global_defs before the first of them")
		}
		set(s, t)
	}
}

func plain[T any](set func(t *T)) func(s *statement, t *T) {
	return func(s *statement, t *T) { set(t) }
}

func boolean[T any](set func(t *T, v bool)) func(s *statement, t *T) {
	return func(s *statement, t *T) {
		if v, ok := s.boolean(0); ok {
			set(t, v)
		}
	}
}

// The announcement settings are the same in global_defs (with the prefix vrrp_) and vrrp_instance.
func garpKeywords[T any](prefix string, wrap func(func(*statement, *T)) func(*statement, *T), of func(*T) *garpDraft) []keyword[T] {
	seconds := func(set func(g *garpDraft, v *time.Duration), limit int64) func(s *statement, t *T) {
		return wrap(func(s *statement, t *T) {
			if v, ok := s.number(s.arg(0), 0, limit, "ignored"); ok {
				d := time.Duration(v) * time.Second
				set(of(t), &d)
			}
		})
	}
	// The batches of a takeover cannot be empty, those after contention can.
	repeat := func(set func(g *garpDraft, v *int), low int64) func(s *statement, t *T) {
		return wrap(func(s *statement, t *T) {
			w := s.arg(0)
			if low == 1 && w.text == "0" {
				s.bad(w, "out of range, expected a whole number from 1; using 1")
				w.text = "1"
			}
			if v, ok := s.number(w, low, maxRepeat, "ignored"); ok {
				n := int(v)
				set(of(t), &n)
			}
		})
	}
	return []keyword[T]{
		{name: prefix + "garp_master_delay", need: 1, max: 1, set: seconds(func(g *garpDraft, v *time.Duration) { g.masterDelay = v }, 4294)},
		{name: prefix + "garp_master_repeat", need: 1, max: 1, set: repeat(func(g *garpDraft, v *int) { g.masterRepeat = v }, 1)},
		{name: prefix + "garp_master_refresh", need: 1, max: 1, set: seconds(func(g *garpDraft, v *time.Duration) { g.masterRefresh = v }, maxRefresh)},
		{name: prefix + "garp_master_refresh_repeat", need: 1, max: 1, set: repeat(func(g *garpDraft, v *int) { g.masterRefreshRepeat = v }, 1)},
		{name: prefix + "garp_lower_prio_delay", need: 1, max: 1, set: seconds(func(g *garpDraft, v *time.Duration) { g.lowerPrioDelay = v }, 4294)},
		{name: prefix + "garp_lower_prio_repeat", need: 1, max: 1, set: repeat(func(g *garpDraft, v *int) { g.lowerPrioRepeat = v }, 0)},
	}
}

const (
	maxRepeat  = 1<<31 - 1
	maxRefresh = 1<<32 - 1 // seconds
	maxSeconds = 4294967295 * time.Microsecond
)

func globalKeywords() [][]keyword[globals] {
	interval := func(set func(g *globals, d time.Duration)) func(s *statement, g *globals) {
		return copied(func(s *statement, g *globals) {
			if d, ok := s.seconds(s.arg(0), time.Microsecond, maxSeconds, "ignored"); ok {
				set(g, d)
			}
		})
	}
	group := func(is func(netip.Addr) bool, family string, set func(g *globals, a netip.Addr)) func(s *statement, g *globals) {
		return copied(func(s *statement, g *globals) {
			w := s.arg(0)
			a, ok := s.address(w, "ignored")
			switch {
			case !ok:
			case !is(a):
				s.bad(w, "wrong address family, expected an %s multicast address; ignored", family)
			case !a.IsMulticast():
				s.bad(w, "not a multicast address, expected an %s multicast address; ignored", family)
			default:
				if a.Is6() && !a.IsLinkLocalMulticast() {
					s.bad(w, "not link-local, expected an address that starts with ff02:")
				}
				set(g, a)
			}
		})
	}
	prefix := func(of func(g *globals) *string) func(s *statement, g *globals) {
		return copied(func(s *statement, g *globals) {
			if name, ok := s.interfaceName(s.arg(0), "ignored"); ok {
				*of(g) = name
			}
		})
	}
	own := []keyword[globals]{
		{name: "router_id", max: 1, set: func(s *statement, g *globals) {
			if s.text(0) == "" {
				s.bad(s.arg(0), "name is missing, expected a string; the host name is used")
				return
			}
			g.RouterID = s.text(0)
		}},
		{name: "vrrp_version", need: 1, max: 1, set: copied(func(s *statement, g *globals) {
			if v, ok := s.number(s.arg(0), 2, 3, "ignored"); ok {
				g.version = uint8(v)
			}
		})},
		{name: "vrrp_mcast_group4", need: 1, max: 1, set: group(netip.Addr.Is4, "IPv4", func(g *globals, a netip.Addr) { g.group4 = a })},
		{name: "vrrp_mcast_group6", need: 1, max: 1, set: group(netip.Addr.Is6, "IPv6", func(g *globals, a netip.Addr) { g.group6 = a })},
		{name: "default_interface", max: 1, set: copied(func(s *statement, g *globals) {
			if name, ok := s.interfaceName(s.arg(0), "ignored"); ok {
				g.DefaultInterface = name
			}
		})},
		{name: "dynamic_interfaces", max: 1, set: func(s *statement, g *globals) {
			g.DynamicInterfaces = true
			switch w := s.arg(0); w.text {
			case "":
			case "allow_if_changes":
				g.AllowInterfaceChange = true
			default:
				s.bad(w, "unknown option, expected allow_if_changes or nothing; ignored")
			}
		}},
		{name: "vrrp_garp_interval", need: 1, max: 1, set: interval(func(g *globals, d time.Duration) { g.garp.interval = d })},
		{name: "vrrp_gna_interval", need: 1, max: 1, set: interval(func(g *globals, d time.Duration) { g.garp.gnaInterval = d })},
		{name: "vrrp_min_garp", max: 1, set: copied(boolean(func(g *globals, v bool) { g.minGarp = v }))},
		{name: "vrrp_down_timer_adverts", need: 1, max: 1, set: copied(func(s *statement, g *globals) {
			if v, ok := s.number(s.arg(0), 1, 100, "ignored"); ok {
				g.downTimerAdverts = int(v)
			}
		})},
		{name: "vrrp_lower_prio_no_advert", max: 1, set: copied(boolean(func(g *globals, v bool) { g.lowerPrioNoAdvert = v }))},
		{name: "vrrp_higher_prio_send_advert", max: 1, set: copied(boolean(func(g *globals, v bool) { g.higherPrioSendAdvert = v }))},
		{name: "vrrp_skip_check_adv_addr", max: 1, set: copied(boolean(func(g *globals, v bool) { g.skipCheckAdvAddr = v }))},
		{name: "v3_checksum_as_v2", max: 1, set: copied(boolean(func(g *globals, v bool) { g.checksumPlain = v }))},
		{name: "vrrp_check_unicast_src", max: 0, set: copied(plain(func(g *globals) { g.checkUnicastSrc = true }))},
		{name: "vrrp_startup_delay", need: 1, max: 1, set: func(s *statement, g *globals) {
			if d, ok := s.seconds(s.arg(0), time.Millisecond, maxSeconds, "ignored"); ok {
				g.StartupDelay = d
			}
		}},
		{name: "vrrp_delay_after_boot", need: 1, max: 1, set: func(s *statement, g *globals) {
			if d, ok := s.seconds(s.arg(0), time.Millisecond, maxSeconds, "ignored"); ok {
				g.DelayAfterBoot = d
			}
		}},
		{name: "vrrp_strict", max: 0, set: copied(func(s *statement, g *globals) {
			discourage(s)
			g.strict = true
		})},
		{name: "vrrp_owner_ignore_adverts", max: 0, set: copied(plain(func(g *globals) { g.ownerIgnoreAdverts = true }))},
		{name: "vmac_prefix", need: 1, max: 1, set: prefix(func(g *globals) *string { return &g.VMACPrefix })},
		{name: "vmac_addr_prefix", need: 1, max: 1, set: prefix(func(g *globals) *string { return &g.VMACAddrPrefix })},
		{name: "script_user", max: 2, set: func(s *statement, g *globals) {
			if s.text(0) == "" {
				s.bad(s.arg(0), "user is missing, expected USER [GROUP]; ignored")
				return
			}
			g.ScriptUser = User{Name: s.text(0), Group: s.text(1)}
		}},
		{name: "enable_script_security", max: 0, set: plain(func(g *globals) { g.EnableScriptSecurity = true })},
		{name: "log_unknown_vrids", max: 0, set: plain(func(g *globals) { g.LogUnknownVRIDs = true })},
		{name: "reload_check_config", max: 1, set: plain(func(g *globals) { g.ReloadCheckConfig = true })},
		{name: "include_check", max: -1, set: func(s *statement, g *globals) {
			for _, w := range s.p.r.setChecks(s.words[1:]) {
				s.bad(w, "unknown check, expected read, match, wildcard_match or brace_match, with + or - before it if wanted; ignored")
			}
		}},
	}
	return [][]keyword[globals]{
		own, schedulingKeywords(), hookKeywords(), dumpKeywords(),
		garpKeywords("vrrp_", copied, func(g *globals) *garpDraft { return &g.garp }),

		not[globals](skipped, false, "a reload is done at once, on SIGHUP only", "reload_time_file", "reload_repeat", "reload_file"),
		not[globals](skipped, false, "announcements go out on the addresses' own interfaces only", "vrrp_garp_extra_if"),
		not[globals](skipped, true, "vrrpd sends no e-mail; use notify",
			"notification_email", "notification_email_from", "email_faults", "no_email_faults", "no_checker_emails"),
		not[globals](skipped, false, "vrrpd has no SNMP and no D-Bus; ask it with vrrpd status",
			"enable_traps", "enable_dbus", "dbus_service_name", "dbus_no_interface_name"),
		not[globals](skipped, false, "vrrpd sets up no packet filter for this", "nftables", "vrrp_iptables", "vrrp_ipsets"),
		not[globals](skipped, false, "it does not concern VRRP as vrrpd does it",
			"process_names", "process_name", "vrrp_process_name", "tmp_config_directory", "config_save_dir",
			"use_symlink_paths", "set_supplementary_groups", "random_seed", "disable_local_igmp", "rs_init_notifies"),
	}
}

// schedulingKeywords are the global keywords about the process itself.
func schedulingKeywords() []keyword[globals] {
	rttime := func(s *statement, g *globals) {
		if v, ok := s.number(s.arg(0), 1, maxRefresh, "ignored"); ok {
			g.RealTimeLimit = time.Duration(v) * time.Microsecond
		}
	}
	const (
		noLimit = "a Go program has many threads, and none of them is stopped for its use of CPU time"
		noAuto  = "vrrpd does not raise its own priority; set vrrp_rt_priority"
	)
	return []keyword[globals]{
		{name: "vrrp_rt_priority", need: 1, max: 1, set: func(s *statement, g *globals) {
			if v, ok := s.clamped(s.arg(0), 1, 99, "ignored"); ok {
				g.RealTimePriority = int(v)
			}
		}},
		{name: "vrrp_rlimit_rttime", need: 1, max: 1, idle: noLimit, set: rttime},
		{name: "vrrp_rlimit_rtime", need: 1, max: 1, idle: noLimit, set: rttime},
		{name: "vrrp_no_swap", max: 0, set: plain(func(g *globals) { g.NoSwap = true })},
		{name: "vrrp_priority", need: 1, max: 1, set: func(s *statement, g *globals) {
			if v, ok := s.number(s.arg(0), -20, 19, "ignored"); ok {
				g.ProcessPriority = int(v)
			}
		}},
		{name: "vrrp_cpu_affinity", need: 1, max: -1, set: func(s *statement, g *globals) {
			g.CPUAffinity = nil
			for _, w := range s.words[1:] {
				v, ok := s.number(w, 0, 8191, "the whole line is ignored") // that many CPUs Linux can have
				if !ok {
					g.CPUAffinity = nil
					return
				}
				g.CPUAffinity = append(g.CPUAffinity, int(v))
			}
		}},
		{name: "max_auto_priority", max: 1, idle: noAuto, set: func(s *statement, g *globals) {
			if s.args() == 0 {
				g.MaxAutoPriority = 99
				return
			}
			if v, ok := s.clamped(s.arg(0), -1, 99, "ignored"); ok {
				g.MaxAutoPriority = int(max(v, 0))
			}
		}},
		{name: "min_auto_priority_delay", need: 1, max: 1, idle: noAuto, set: func(s *statement, g *globals) {
			if v, ok := s.number(s.arg(0), 1, 10_000_000, "ignored"); ok {
				g.MinAutoPriorityDelay = time.Duration(v) * time.Microsecond
			}
		}},
		{name: "umask", need: 1, max: -1, set: umask},
	}
}

// umask reads a number in C's notation, or bits as IRUSR | IRWXG.
func umask(s *statement, g *globals) {
	if first := s.text(0); first != "" && '0' <= first[0] && first[0] <= '9' {
		v, err := strconv.ParseUint(first, 0, 32)
		if err != nil || v > 0o777 {
			s.bad(s.arg(0), "not a file mode, expected a number from 0 to 0777, or bits as IRUSR | IRWXG; ignored")
			return
		}
		s.surplus(1)
		g.Umask = int(v)
		return
	}
	bits := 0
	for _, w := range s.words[1:] {
		for bit := range strings.SplitSeq(w.text, "|") {
			v, known := modeBit(bit)
			if !known {
				s.bad(w, "unknown bit of a file mode, expected IRUSR, IRWXG and the like with | between them; ignored")
				return
			}
			bits |= v
		}
	}
	g.Umask = bits
}

// modeBit reads I{R|W|X}{USR|GRP|OTH} or IRWX{U|G|O}.
func modeBit(name string) (bits int, ok bool) {
	if name == "" {
		return 0, true // between two bars
	}
	shift := map[string]int{"U": 6, "G": 3, "O": 0, "USR": 6, "GRP": 3, "OTH": 0}
	if who, all := strings.CutPrefix(name, "IRWX"); all {
		n, ok := shift[who]
		return 7 << n, ok && len(who) == 1
	}
	if len(name) != 5 || name[0] != 'I' {
		return 0, false
	}
	bit, known := map[byte]int{'R': 4, 'W': 2, 'X': 1}[name[1]]
	n, ok := shift[name[2:]]
	return bit << n, known && ok
}

// hookKeywords are the global keywords about what is told to others.
func hookKeywords() []keyword[globals] {
	fifo := func(of func(g *globals) *FIFO) func(s *statement, g *globals) {
		return func(s *statement, g *globals) {
			f := of(g)
			switch {
			case f.Path != "":
				s.bad(s.arg(0), "FIFO is given already (at %s), expected it once; this one is ignored", f.At())
			case s.text(0) == "":
				s.bad(s.arg(0), "empty file name, expected one; ignored")
			default:
				if !strings.HasPrefix(s.text(0), "/") {
					s.report(Lint, s.arg(0), "not an absolute path, expected one that starts with /; it is taken from the daemon's working directory")
				}
				f.Pos, f.Path, f.User = s.words[0].pos, s.text(0), User{Name: s.text(1), Group: s.text(2)}
			}
		}
	}
	script := func(of func(g *globals) *Command, consequence string) func(s *statement, g *globals) {
		return func(s *statement, g *globals) {
			c := of(g)
			cmd := s.command(consequence)
			switch {
			case len(cmd.Argv) == 0:
			case len(c.Argv) > 0:
				s.bad(s.arg(0), "script is given already (at %s), expected it once; this one is ignored", c.At())
			default:
				*c = cmd
			}
		}
	}
	timeout := func(of func(g *globals) *time.Duration) func(s *statement, g *globals) {
		return func(s *statement, g *globals) {
			if v, ok := s.number(s.arg(0), 1, 1000, "ignored"); ok {
				*of(g) = time.Duration(v) * time.Second
			}
		}
	}
	return []keyword[globals]{
		{name: "notify_fifo", need: 1, max: 3, set: fifo(func(g *globals) *FIFO { return &g.NotifyFIFO })},
		{name: "vrrp_notify_fifo", need: 1, max: 3, set: fifo(func(g *globals) *FIFO { return &g.VRRPNotifyFIFO })},
		{name: "notify_fifo_script", need: 1, max: -1, set: script(func(g *globals) *Command { return &g.NotifyFIFO.Script }, "nothing reads the FIFO")},
		{name: "vrrp_notify_fifo_script", need: 1, max: -1, set: script(func(g *globals) *Command { return &g.VRRPNotifyFIFO.Script }, "nothing reads the FIFO")},
		{name: "vrrp_notify_priority_changes", max: 1, set: copied(boolean(func(g *globals, v bool) { g.notifyPriorityChanges = v }))},
		{name: "fifo_write_vrrp_states_on_reload", max: 0, set: plain(func(g *globals) { g.FIFOStatesOnReload = true })},
		{name: "startup_script", need: 1, max: -1, set: script(func(g *globals) *Command { return &g.StartupScript }, "it is not run")},
		{name: "shutdown_script", need: 1, max: -1, set: script(func(g *globals) *Command { return &g.ShutdownScript }, "it is not run")},
		{name: "startup_script_timeout", need: 1, max: 1, set: timeout(func(g *globals) *time.Duration { return &g.StartupTimeout })},
		{name: "shutdown_script_timeout", need: 1, max: 1, set: timeout(func(g *globals) *time.Duration { return &g.ShutdownTimeout })},
	}
}

// dumpKeywords are the global keywords about the files that keepalived writes on a signal.
func dumpKeywords() []keyword[globals] {
	var all []keyword[globals]
	path := func(of func(g *globals) *string, names ...string) {
		for _, name := range names {
			all = append(all, keyword[globals]{name: name, need: 1, max: 1, set: func(s *statement, g *globals) {
				if s.text(0) == "" {
					s.bad(s.arg(0), "empty file name, expected one; ignored")
					return
				}
				*of(g) = s.text(0)
			}})
		}
	}
	path(func(g *globals) *string { return &g.StateDumpFile }, "state_dump_file", "state_dump_file_location")
	path(func(g *globals) *string { return &g.StatsDumpFile }, "stats_dump_file", "stats_dump_file_location")
	path(func(g *globals) *string { return &g.JSONDumpFile }, "json_dump_file", "json_dump_file_location")
	return append(all,
		keyword[globals]{name: "json_version", need: 1, max: 1, set: func(s *statement, g *globals) {
			if v, ok := s.number(s.arg(0), 1, 2, "ignored"); ok {
				g.JSONVersion = int(v)
			}
		}},
		keyword[globals]{name: "data_use_instance", max: 0, set: plain(func(g *globals) { g.DataUseInstance = true })})
}

// finishGlobals does what only the whole block tells.
func (p *parser) finishGlobals() {
	g := &p.g.Globals
	if g.VMACAddrPrefix == "" {
		g.VMACAddrPrefix = g.VMACPrefix
	}
	for _, f := range []struct {
		keyword string
		*FIFO
	}{{"notify_fifo", &g.NotifyFIFO}, {"vrrp_notify_fifo", &g.VRRPNotifyFIFO}} {
		if len(f.Script.Argv) > 0 && f.Path == "" {
			p.report(Lint, origin{Pos: f.Script.Pos, keyword: f.keyword + "_script"}, "", "has no effect without %s", f.keyword)
		}
	}
	if a, b := g.NotifyFIFO.Path, g.VRRPNotifyFIFO.Path; a != "" && a == b {
		p.report(Error, origin{Pos: g.VRRPNotifyFIFO.Pos, keyword: "vrrp_notify_fifo"}, b, "notify_fifo has this name already, expected another; ignored")
		g.VRRPNotifyFIFO = FIFO{}
	}
	p.cfg.Globals = *g
}

// wildcardKeyword recognises the families of global keywords that have nothing to do with VRRP as vrrpd does it.
func wildcardKeyword[T any](name string) (keyword[T], bool) {
	for prefix, what := range map[string]string{
		"smtp_": "vrrpd sends no e-mail; use notify", "snmp_": "vrrpd has no SNMP", "enable_snmp_": "vrrpd has no SNMP",
		"nftables_": "vrrpd sets up no packet filter for this", "lvs_": "it does not concern VRRP",
		"checker_": "it does not concern VRRP", "bfd_": "vrrpd has no BFD",
		"vrrp_netlink_": "vrrpd sizes its buffers itself", "process_monitor_": "vrrpd sizes its buffers itself",
		"vrrp_rx_bufs_": "vrrpd sizes its buffers itself",
	} {
		if strings.HasPrefix(name, prefix) && len(name) > len(prefix) {
			return keyword[T]{name: name, max: -1, kind: skipped, what: what, tree: true}, true
		}
	}
	if strings.HasPrefix(name, "iproute_") && strings.HasSuffix(name, "_dir") {
		return keyword[T]{name: name, max: -1, kind: skipped, what: "vrrpd reads no iproute2 tables"}, true
	}
	return keyword[T]{}, false
}
