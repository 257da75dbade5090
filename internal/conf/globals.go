package conf

import (
	"net/netip"
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
}

// garpDraft is Garp with what has not been given marked.
type garpDraft struct {
	masterDelay, masterRefresh, lowerPrioDelay         *time.Duration
	masterRepeat, masterRefreshRepeat, lowerPrioRepeat *int
	interval, gnaInterval                              time.Duration
}

func newGlobals() globals {
	return globals{
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
		{name: "script_user", max: 2, set: func(s *statement, g *globals) {
			if s.text(0) == "" {
				s.bad(s.arg(0), "user is missing, expected USER [GROUP]; ignored")
				return
			}
			g.ScriptUser = User{Name: s.text(0), Group: s.text(1)}
		}},
		{name: "enable_script_security", max: 0, set: plain(func(g *globals) { g.EnableScriptSecurity = true })},
		{name: "vrrp_rt_priority", need: 1, max: 1, set: func(s *statement, g *globals) {
			if v, ok := s.clamped(s.arg(0), 1, 99, "ignored"); ok {
				g.RealTimePriority = int(v)
			}
		}},
		{name: "vrrp_no_swap", max: 0, set: plain(func(g *globals) { g.NoSwap = true })},
		{name: "log_unknown_vrids", max: 0, set: plain(func(g *globals) { g.LogUnknownVRIDs = true })},
		{name: "include_check", max: -1, set: func(s *statement, g *globals) {
			for _, w := range s.p.r.setChecks(s.words[1:]) {
				s.bad(w, "unknown check, expected read, match, wildcard_match or brace_match, with + or - before it if wanted; ignored")
			}
		}},
	}
	return [][]keyword[globals]{
		own,
		garpKeywords("vrrp_", copied, func(g *globals) *garpDraft { return &g.garp }),

		not[globals](unsupported, false, "the rules of strict mode are not enforced", "vrrp_strict"),
		not[globals](unsupported, false, "instances start without that delay", "vrrp_delay_after_boot"),
		not[globals](unsupported, false, "an owner heeds the adverts of others", "vrrp_owner_ignore_adverts"),
		not[globals](unsupported, false, "nothing is written to a FIFO; use notify",
			"notify_fifo", "notify_fifo_script", "vrrp_notify_fifo", "vrrp_notify_fifo_script",
			"vrrp_notify_priority_changes", "fifo_write_vrrp_states_on_reload"),
		not[globals](unsupported, false, "the script is not run",
			"startup_script", "startup_script_timeout", "shutdown_script", "shutdown_script_timeout"),
		not[globals](unsupported, false, "the process keeps its priority and CPUs; set them in the service's unit",
			"vrrp_priority", "vrrp_cpu_affinity"),
		not[globals](unsupported, false, "a reload is done at once, on SIGHUP only",
			"reload_time_file", "reload_repeat", "reload_file"),

		not[globals](skipped, false, "a file is always checked as a whole before a reload", "reload_check_config"),
		not[globals](skipped, false, "announcements go out on the addresses' own interfaces only", "vrrp_garp_extra_if"),
		not[globals](skipped, false, "vrrpd looks after its own scheduling",
			"vrrp_rlimit_rttime", "vrrp_rlimit_rtime", "max_auto_priority", "min_auto_priority_delay"),
		not[globals](skipped, false, "vrrpd writes no such file; ask it with vrrpd status",
			"state_dump_file", "stats_dump_file", "json_dump_file", "state_dump_file_location", "stats_dump_file_location",
			"json_dump_file_location", "json_version", "data_use_instance", "umask"),
		not[globals](skipped, true, "vrrpd sends no e-mail; use notify",
			"notification_email", "notification_email_from", "email_faults", "no_email_faults", "no_checker_emails"),
		not[globals](skipped, false, "vrrpd has no SNMP and no D-Bus; ask it with vrrpd status",
			"enable_traps", "enable_dbus", "dbus_service_name", "dbus_no_interface_name"),
		not[globals](skipped, false, "vrrpd sets up no packet filter for this", "nftables", "vrrp_iptables", "vrrp_ipsets"),
		not[globals](skipped, false, "it does not concern VRRP as vrrpd does it",
			"process_names", "process_name", "vrrp_process_name", "tmp_config_directory", "config_save_dir",
			"use_symlink_paths", "set_supplementary_groups", "random_seed", "disable_local_igmp", "vmac_prefix", "vmac_addr_prefix",
			"rs_init_notifies"),
	}
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
