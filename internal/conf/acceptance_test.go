package conf

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

func codeOf(diags []Diagnostic) int {
	return ExitCode(slices.DeleteFunc(slices.Clone(diags), func(d Diagnostic) bool { return d.Severity == Security }), false)
}

// The behaviours of keepalived that a parser must share, each once seen with keepalived -t.
func TestAcceptance(t *testing.T) {
	tests := []struct {
		number int
		name   string
		text   string
		code   int
		check  func(c *Config) string // "" or what is wrong
	}{
		{1, "CRLF, no final newline, brace on the next line, block on one line",
			"vrrp_instance VI_1\r\n{\r\n interface eth0\r\n virtual_router_id 51\r\n virtual_ipaddress { 10.0.0.5 }\r\n}", ExitClean,
			func(c *Config) string { return expect(c.Instances[0].Addresses[0].Prefix, "10.0.0.5/32") }},
		{2, "whole instance on one line",
			"vrrp_instance VI_1 { state MASTER interface eth0 virtual_router_id 51 virtual_ipaddress { 10.0.0.5 } }", ExitCannot, nil},
		{3, "unknown keyword, rest kept", instance("foo 1", "priority 7"), ExitErrors,
			func(c *Config) string { return expect(c.Instances[0].Priority, "7") }},
		{4, "unknown block does not close its parent", instance("foo {", "a {", "b", "}", "}", "priority 7"), ExitErrors,
			func(c *Config) string { return expect(c.Instances[0].Priority, "7") }},
		{5, "state in lower case", instance("state master"), ExitErrors,
			func(c *Config) string { return expect(c.Instances[0].StartMaster, "false") }},
		{6, "nopreempt with MASTER", instance("state MASTER", "priority 100", "nopreempt"), ExitErrors,
			func(c *Config) string { return expect(c.Instances[0].Preempt, "true") }},
		{7, "VRID twice on one interface", instance() + strings.ReplaceAll(strings.ReplaceAll(instance(), "VI_1", "VI_2"), "0.0.1", "0.0.2"), ExitCannot, nil},
		{8, "no VRID", strings.Replace(instance(), "virtual_router_id 51", "", 1), ExitCannot, nil},
		{9, "comment within a password", instance("authentication {", "auth_type PASS", "auth_pass a#b", "}"), ExitClean,
			func(c *Config) string { return expect(c.Instances[0].Password, "a") }},
		{10, "long password", instance("authentication {", "auth_type PASS", "auth_pass 123456789", "}"), ExitClean,
			func(c *Config) string { return expect(c.Instances[0].Password, "12345678") }},
		{11, "priority 0", instance("priority 0"), ExitErrors,
			func(c *Config) string { return expect(c.Instances[0].Priority, "100") }},
		{12, "missing word", instance("priority"), ExitCannot, nil},
		{13, "extra word", instance("priority 7 8"), ExitClean,
			func(c *Config) string { return expect(c.Instances[0].Priority, "7") }},
		{14, "track_script before its vrrp_script works", // keepalived ignores the check
			instance("track_script {", "chk", "}") + "vrrp_script chk {\nscript \"/bin/true\"\nweight -5\n}\n", ExitClean,
			func(c *Config) string {
				tr := c.Instances[0].TrackScripts[0]
				return expect(fmt.Sprint(tr.Name, tr.Weight, tr.Undefined), "chk-5 false")
			}},
		{15, "include without a match", "include nothing.conf\ninclude /none/*.conf\n" + instance(), ExitClean, nil},
		{17, "sequence of instances",
			"$I= \\\nvrrp_instance VI_$i { \\\ninterface eth0 \\\nvirtual_router_id $i \\\nvirtual_ipaddress { \\\n10.0.0.$i \\\n} \\\n}\n~SEQ(i,1,3) $I\n",
			ExitClean, func(c *Config) string {
				var names []string
				for _, i := range c.Instances {
					names = append(names, fmt.Sprintf("%s %d %v", i.Name, i.VRID, i.Addresses[0].Prefix))
				}
				return expect(strings.Join(names, " "), "VI_1 1 10.0.0.1/32 VI_2 2 10.0.0.2/32 VI_3 3 10.0.0.3/32")
			}},
		{18, "conditions", instance("@n1 priority 7", "@^n1 priority 8", "@n2 priority 9"), ExitClean,
			func(c *Config) string { return expect(c.Instances[0].Priority, "7") }},
		{19, "unknown definition stays", "global_defs {\nrouter_id $UNDEF\n}\n", ExitClean,
			func(c *Config) string { return expect(c.Globals.RouterID, "$UNDEF") }},
		{20, "no interface", strings.Replace(instance(), "interface eth0", "", 1), ExitCannot, nil}, // keepalived -t has 5, and then does not start
		{22, "fractional interval in version 2", instance("advert_int 1.5"), ExitErrors,
			func(c *Config) string { return expect(c.Instances[0].AdvertInterval, "2s") }},
	}
	for _, tt := range tests {
		t.Run(fmt.Sprintf("%02d %s", tt.number, tt.name), func(t *testing.T) {
			c, diags := load(tt.text)
			if got := codeOf(diags); got != tt.code {
				t.Errorf("got code %d, want %d:\n  %s", got, tt.code, strings.Join(lines(diags), "\n  "))
			}
			if tt.check != nil {
				if problem := tt.check(c); problem != "" {
					t.Error(problem)
				}
			}
		})
	}
}

func expect(got any, want string) string {
	if fmt.Sprint(got) != want {
		return fmt.Sprintf("got %v, want %s", got, want)
	}
	return ""
}

// Acceptance 16: what real files look like. The files under testdata/ stand for them, see TestGolden.

// addressLine is a line of virtual_ipaddress and what becomes of it.
type addressLine struct {
	line string
	want string // prefix and what is set, "" if dropped
	diag string // "" for none
}

// file is an instance with that line alone.
func (a addressLine) file() string {
	return "vrrp_instance VI_1 {\ninterface eth0\nvirtual_router_id 51\nvirtual_ipaddress {\n" + a.line + "\n}\n}\n"
}

// Acceptance 21: each way in which a line of virtual_ipaddress can be wrong.
func addressLines() []addressLine {
	return []addressLine{
		{"10.0.0.1", "10.0.0.1/32", ""},
		{"10.0.0.1/24", "10.0.0.1/24", ""},
		{"10.0.0.1/0", "10.0.0.1/0", ""},
		{"fe80::1", "fe80::1/128", ""},
		{"fe80::1/64", "fe80::1/64", ""},
		{`"10.0.0.1/24"`, "10.0.0.1/24", ""},
		{"10.0.0.1 foo", "10.0.0.1/32", "error f:5:10: virtual_ipaddress: unknown option of an address; the address is kept without it"},
		{"10.0.0.1 hom", "10.0.0.1/32", "did you mean home?"},
		{"10.0.0.1 dev", "", "error f:5:10: virtual_ipaddress: value is missing"},
		{"10.0.0.1 brd", "", "value is missing"},
		{"10.0.0.1 scope", "", "value is missing"},
		{"10.0.0.1 label", "", "value is missing"},
		{"10.0.0.1 peer", "", "value is missing"},
		{"10.0.0.1 preferred_lft", "", "value is missing"},
		{"10.0.0.1 brd foo", "", "error f:5:14: virtual_ipaddress: malformed broadcast address, expected an IPv4 address, + or -; the address is dropped"},
		{"10.0.0.1 brd fe80::1", "", "malformed broadcast address"},
		{"10.0.0.1/24 brd 10.0.0.255", "10.0.0.1/24 brd 10.0.0.255", ""},
		{"10.0.0.1/24 broadcast +", "10.0.0.1/24 brd 10.0.0.255", ""},
		{"10.0.0.1/24 brd -", "10.0.0.1/24 brd 10.0.0.0", ""},
		{"10.0.0.1/30 brd +", "10.0.0.1/30 brd 10.0.0.3", ""},
		{"10.0.0.1/0 brd +", "10.0.0.1/0 brd 255.255.255.255", ""},
		{"10.0.0.1/31 brd +", "10.0.0.1/31", "prefix is too long for a broadcast address, expected at most /30"},
		{"fe80::1/64 brd +", "", "IPv6 has no broadcast address; the address is dropped"},
		{"10.0.0.1 label averyveryverylong", "", "label is too long, expected at most 15 characters"},
		{"10.0.0.1 label eth0:1", "10.0.0.1/32 label eth0:1", ""},
		{"10.0.0.1 dev eth1", "10.0.0.1/32 dev eth1", ""},
		{"10.0.0.1 dev eth1 dev eth2", "", "dev is given twice"},
		{"10.0.0.1 dev averyveryverylong", "", "invalid interface name"},
		{"10.0.0.1/44", "10.0.0.1/32", "error f:5:1: virtual_ipaddress: invalid prefix length, expected 0 to 32; using /32"},
		{"10.0.0.1/24x", "10.0.0.1/32", "invalid prefix length"},
		{"10.0.0.1/-1", "10.0.0.1/32", "invalid prefix length"},
		{"10.0.0.1/", "10.0.0.1/32", "invalid prefix length"},
		{"fe80::1/129", "fe80::1/128", "invalid prefix length, expected 0 to 128; using /128"},
		{"10.0.0.1 scope foo", "10.0.0.1/32", "unknown scope"},
		{"10.0.0.1 scope 256", "10.0.0.1/32", "unknown scope"},
		{"10.0.0.1 scope link", "10.0.0.1/32 scope 253", ""},
		{"10.0.0.1 scope site", "10.0.0.1/32 scope 200", ""},
		{"10.0.0.1 scope host", "10.0.0.1/32 scope 254", ""},
		{"10.0.0.1 scope nowhere", "10.0.0.1/32 scope 255", ""},
		{"10.0.0.1 scope global", "10.0.0.1/32", ""},
		{"10.0.0.1 scope 7", "10.0.0.1/32 scope 7", ""},
		{"fe80::1 scope link", "fe80::1/128", "expected no scope; ignored"},
		{"10.0.0.1 peer 10.0.0.2", "10.0.0.1/32 peer 10.0.0.2/32", ""},
		{"10.0.0.1 peer 10.0.0.2/24", "10.0.0.1/32 peer 10.0.0.2/24", ""},
		{"10.0.0.1/24 peer 10.0.0.2/25", "10.0.0.1/32 peer 10.0.0.2/25", "lint f:5:1: virtual_ipaddress: prefix of an address with a peer is ignored"},
		{"10.0.0.1 peer 10.0.0.2 peer 10.0.0.3", "10.0.0.1/32 peer 10.0.0.2/32", "peer is given twice"},
		{"10.0.0.1 peer fe80::1", "10.0.0.1/32", "peer has another address family"},
		{"10.0.0.1 peer x", "10.0.0.1/32", "malformed peer address"},
		{"10.0.0.1 brd 10.0.0.255 peer 10.0.0.2", "10.0.0.1/32 peer 10.0.0.2/32", "broadcast and peer exclude each other; the broadcast address is ignored"},
		{"fe80::1 preferred_lft 0", "fe80::1/128 lft 0", ""},
		{"fe80::1 preferred_lft forever", "fe80::1/128 lft -1", ""},
		{"fe80::1 preferred_lft -1", "fe80::1/128", "invalid lifetime"},
		{"fe80::1 home -nodad mngtmpaddr noprefixroute autojoin no_track", "fe80::1/128 home nodad mng noprefix autojoin notrack", ""},
		{"10.0.0.1 dev eth9 use_vmac", "10.0.0.1/32 dev eth9", ""},
		{"10.0.0.300", "", "malformed address"},
		{"10.0.0.1-3", "", "malformed address"},
		{"010.0.0.1", "", "malformed address"},
		{"10.0.1", "", "malformed address"},
		{"fe80::1%eth0", "", "malformed address"},
		{"224.0.0.1", "224.0.0.1/32", "lint f:5:1: virtual_ipaddress: address that no host can share"},
		{"0.0.0.0", "0.0.0.0/32", "address that no host can share"},
	}
}

func TestAddressLines(t *testing.T) {
	for _, tt := range addressLines() {
		t.Run(tt.line, func(t *testing.T) {
			c, diags := load(tt.file())
			got := ""
			for _, a := range c.Instances[0].Addresses {
				got = a.Prefix.String()
				if a.Broadcast.IsValid() {
					got += " brd " + a.Broadcast.String()
				}
				if a.Interface != "eth0" {
					got += " dev " + a.Interface
				}
				if a.Label != "" {
					got += " label " + a.Label
				}
				if a.Scope != 0 {
					got += fmt.Sprint(" scope ", a.Scope)
				}
				if a.Peer.IsValid() {
					got += " peer " + a.Peer.String()
				}
				if a.PreferredLft != -2 {
					got += fmt.Sprint(" lft ", a.PreferredLft)
				}
				for _, o := range []struct {
					on   bool
					name string
				}{{a.Home, "home"}, {a.NoDAD, "nodad"}, {a.MngTmpAddr, "mng"}, {a.NoPrefixRoute, "noprefix"}, {a.AutoJoin, "autojoin"}, {a.NoTrack, "notrack"}} {
					if o.on {
						got += " " + o.name
					}
				}
			}
			if got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
			var want []string
			if tt.diag != "" {
				want = []string{tt.diag}
			}
			if tt.want == "" {
				want = append([]string{"VI_1 has no address"}, want...)
			}
			wantDiags(t, diags, want...)
		})
	}
}

func TestExitCode(t *testing.T) {
	tests := []struct {
		name   string
		sev    []Severity
		strict bool
		want   int
	}{
		{"nothing", nil, true, 0},
		{"lint", []Severity{Lint}, false, 0},
		{"lint, strict", []Severity{Lint}, true, 5},
		{"error", []Severity{Lint, Error}, false, 5},
		{"security hides errors", []Severity{Security, Error}, false, 6},
		{"fatal beats all", []Severity{Security, Error, Fatal, Lint}, false, 4},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var diags []Diagnostic
			for _, s := range tt.sev {
				diags = append(diags, Diagnostic{Severity: s})
			}
			if got := ExitCode(diags, tt.strict); got != tt.want {
				t.Errorf("got %d, want %d", got, tt.want)
			}
		})
	}
}

func TestDiagnosticString(t *testing.T) {
	tests := []struct{ name, got, want string }{
		{"all", Diagnostic{Pos: Pos{"f", 1, 2}, Keyword: "k", Message: "m, expected x", Got: "g"}.String(), `f:1:2: k: m, expected x (got "g")`},
		{"no keyword", Diagnostic{Pos: Pos{"f", 1, 2}, Message: "m"}.String(), "f:1:2: m"},
		{"no column", Diagnostic{Pos: Pos{File: "f", Line: 1}, Message: "m"}.String(), "f:1: m"},
		{"no line", Diagnostic{Pos: Pos{File: "f"}, Message: "m"}.String(), "f: m"},
		{"no place", Diagnostic{Message: "m", Got: "\x00"}.String(), `m (got "\x00")`},
		{"severities", fmt.Sprint(Lint, Error, Security, Fatal, Severity(9)), "lint error security fatal severity 9"},
	}
	for _, tt := range tests {
		if tt.got != tt.want {
			t.Errorf("%s: got %s, want %s", tt.name, tt.got, tt.want)
		}
	}
}

// What the end of a block and of the file decide.
func TestInstance(t *testing.T) {
	second := func(lines ...string) string {
		return strings.ReplaceAll(strings.ReplaceAll(instance(lines...), "VI_1", "VI_2"), "10.0.0.1\n", "10.0.0.2\n")
	}
	bare := func(lines ...string) string {
		return "vrrp_instance VI_1 {\ninterface eth0\nvirtual_router_id 51\n" + strings.Join(lines, "\n") + "\n}\n"
	}
	tests := []struct {
		name, text string
		want       string // of the first instance, picked by get
		get        func(i Instance) string
		diags      []string
	}{
		{"defaults", instance(), "2 false 100 1s 3 true 0s false 224.0.0.18 255 10s 0s 0s", func(i Instance) string {
			return fmt.Sprint(i.Version, i.IPv6, i.Priority, i.AdvertInterval, i.DownTimerAdverts, i.Preempt, i.PreemptDelay, i.Unicast, i.Group,
				i.UnicastTTL, i.NotifyRetry, i.VIPAfterNotify, i.VIPLifetime)
		}, nil},
		{"announcement defaults", instance(), "{5s 5 0s 1 5s 5 0s 0s}", garpOf, nil},
		{"announcements after contention follow", instance("garp_master_delay 7", "garp_master_repeat 8"), "{7s 8 0s 1 7s 8 0s 0s}", garpOf, nil},
		{"announcements from global_defs", "global_defs {\nvrrp_garp_master_delay 2\nvrrp_garp_lower_prio_repeat 3\nvrrp_garp_master_refresh 60\n" +
			"vrrp_garp_master_refresh_repeat 2\nvrrp_garp_interval 0.001\nvrrp_gna_interval 0.5\n}\n" + instance("garp_master_repeat 9", "garp_lower_prio_delay 0"),
			"{2s 9 1m0s 2 0s 3 1ms 500ms}", garpOf, nil},
		{"vrrp_min_garp", "global_defs {\nvrrp_min_garp\nvrrp_garp_master_delay 1\n}\n" + instance(), "{1s 1 0s 1 1s 1 0s 0s}", garpOf, nil},
		{"global defaults", "global_defs {\nvrrp_version 3\ndefault_interface eth7\nvrrp_mcast_group4 224.0.0.99\nvrrp_down_timer_adverts 4\nvrrp_lower_prio_no_advert\n" +
			"vrrp_higher_prio_send_advert on\nvrrp_skip_check_adv_addr yes\nv3_checksum_as_v2 true\nvrrp_check_unicast_src\n}\n" +
			strings.Replace(instance(), "interface eth0", "", 1), "3 eth7 224.0.0.99 4 true true true true true eth7",
			func(i Instance) string {
				return fmt.Sprint(i.Version, " ", i.Interface, " ", i.Group, i.DownTimerAdverts, i.LowerPrioNoAdvert, i.HigherPrioSendAdvert,
					i.SkipCheckAdvAddr, i.ChecksumPlain, i.CheckUnicastSrc, " ", i.Addresses[0].Interface)
			}, nil},
		{"global_defs after an instance", instance() + "global_defs {\nvrrp_version 3\nrouter_id x\n}\n", "2",
			func(i Instance) string { return fmt.Sprint(i.Version) },
			[]string{"lint f:10:1: vrrp_version: does not reach the vrrp_instance blocks above it"}},
		{"priority of a MASTER", instance("state MASTER"), "255 true", priorityOf, []string{"lint f:7:1: state: state MASTER without a priority makes this an address owner"}},
		{"state twice", instance("state MASTER", "state BACKUP", "priority 5"), "5 true", priorityOf, []string{"error f:8:7: state: state is MASTER already"}},
		{"MASTER after BACKUP", instance("state BACKUP", "state MASTER", "priority 5"), "5 true", priorityOf, nil},
		{"last priority wins", instance("priority 5", "priority 6"), "6 false", priorityOf, nil},
		{"priority with text", instance("priority 20abc"), "20 false", priorityOf, []string{`error f:7:10: priority: text after the number, expected a whole number from 1 to 255; using 20 (got "20abc")`}},
		{"priority with a fraction", instance("priority 20.5"), "20 false", priorityOf, []string{"error f:7:10: priority: text after the number"}},
		{"priority in hexadecimal", instance("priority 0x10"), "100 false", priorityOf, []string{"error f:7:10: priority: not a number"}},
		{"priority with a plus", instance("priority +5"), "5 false", priorityOf, nil},
		{"priority quoted", instance(`priority "5"`), "5 false", priorityOf, nil},
		{"backslash at the end", instance(`priority 5 \`), "5 false", priorityOf, []string{"error f:7:12: priority: backslash at the end of the line"}},

		{"nopreempt", instance("nopreempt"), "false 0s", preemptOf, nil},
		{"nopreempt, then preempt", instance("nopreempt", "preempt"), "true 0s", preemptOf, nil},
		{"nopreempt and priority 255", instance("nopreempt", "priority 255"), "true 0s", preemptOf, []string{"error f:7:1: nopreempt: has no effect with"}},
		{"nopreempt and MASTER and delay", instance("state MASTER", "priority 9", "nopreempt", "preempt_delay 5"), "true 0s", preemptOf,
			[]string{"error f:9:1: nopreempt: has no effect with", "error f:10:1: preempt_delay: has no effect with state MASTER"}},
		{"nopreempt and delay", instance("nopreempt", "preempt_delay 5"), "false 0s", preemptOf, []string{"error f:8:1: preempt_delay: has no effect with nopreempt"}},
		{"delay with a fraction", instance("preempt_delay 1.5"), "true 1.5s", preemptOf, nil},
		{"delay with many decimals", instance("preempt_delay 1.12345678"), "true 1.123457s", preemptOf, []string{"error f:7:15: preempt_delay: more than 6 decimals, expected 0 to 1000 seconds; using 1.123457"}},

		{"interval, version 2, half", instance("advert_int 1.5"), "2s", intervalOf, []string{`error f:7:1: advert_int: version 2 has whole seconds only, expected 1 to 255; using 2 (got "1.5")`}},
		{"interval, version 2, below one", instance("advert_int 0.3"), "1s", intervalOf, []string{"error f:7:1: advert_int: version 2"}},
		{"interval, version 2, longest", instance("advert_int 255"), "4m15s", intervalOf, nil},
		{"interval, version 3", instance("version 3", "advert_int 0.01"), "10ms", intervalOf, nil},
		{"interval, version 3, before the version", instance("advert_int 0.25", "version 3"), "250ms", intervalOf, nil},
		{"interval, version 3, between steps", instance("version 3", "advert_int 0.015"), "20ms", intervalOf, []string{"error f:8:1: advert_int: version 3 has steps of 0.01 seconds, expected 0.01 to 40.95; using 0.02"}},
		{"interval, version 3, too long", instance("version 3", "advert_int 41"), "40.95s", intervalOf, []string{"error f:8:1: advert_int: too long for version 3"}},
		{"interval, longer than all", instance("advert_int 256"), "1s", intervalOf, []string{"error f:7:12: advert_int: out of range, expected 0.01 to 255 seconds; ignored"}},
		{"interval with a unit", instance("advert_int 100ms"), "1s", intervalOf, []string{"error f:7:12: advert_int: not a number"}},
		{"interval, negative", instance("advert_int -1"), "1s", intervalOf, []string{"error f:7:12: advert_int: out of range"}},
		{"interval of points", instance("advert_int 1.2.3"), "1s", intervalOf, []string{"error f:7:12: advert_int: not a number"}},

		{"IPv6", bare("virtual_ipaddress {", "fe80::1", "2001:db8::1/64", "}"), "3 true ff02::12 2", familyOf, nil},
		{"IPv6, first not link-local", bare("virtual_ipaddress {", "2001:db8::1/64", "}"), "3 true ff02::12 1", familyOf, []string{"lint f:5:1: virtual_ipaddress: first IPv6 address is not link-local"}},
		{"IPv6 with version 2", bare("version 2", "virtual_ipaddress {", "fe80::1", "}"), "3 true ff02::12 1", familyOf, []string{`error f:4:1: version: version 2 knows IPv4 only, expected 3 with IPv6 addresses; using 3 (got "2")`}},
		{"version twice", instance("version 2", "version 3"), "2 false 224.0.0.18 1", familyOf, []string{"error f:8:9: version: version is 2 already"}},
		{"other family among the addresses", instance("virtual_ipaddress {", "fe80::1", "10.0.0.2", "}"), "2 false 224.0.0.18 2", familyOf, []string{"error f:8:1: virtual_ipaddress: another address family"}},
		{"both families excluded", instance("virtual_ipaddress_excluded {", "fe80::1", "10.0.0.2", "}"), "2 false 224.0.0.18 1", familyOf, nil},
		{"family by native_ipv6", bare("native_ipv6", "virtual_ipaddress {", "10.0.0.1", "}", "no_virtual_ipaddress"), "3 true ff02::12 0", familyOf, []string{"fatal f:5:1: virtual_ipaddress: VI_1 has no address", "error f:6:1: virtual_ipaddress: another address family"}},
		{"family by the source", bare("mcast_src_ip fe80::9", "no_virtual_ipaddress"), "3 true ff02::12 0", familyOf, []string{"fatal f:1:1: virtual_ipaddress: VI_1 has no address"}},
		{"no address, version 2", bare(), "2 false 224.0.0.18 0", familyOf, []string{"error f:1:1: virtual_ipaddress: VI_1 has no address"}},
		{"no address, version 3", bare("version 3"), "3 false 224.0.0.18 0", familyOf, []string{"fatal f:1:1: virtual_ipaddress: VI_1 has no address"}},
		{"no address, excluded only", bare("version 3", "virtual_ipaddress_excluded {", "10.0.0.1", "}"), "3 false 224.0.0.18 0", familyOf, []string{"fatal f:1:1: virtual_ipaddress: VI_1 has no address"}},
		{"no_virtual_ipaddress", bare("no_virtual_ipaddress"), "2 false 224.0.0.18 0", familyOf, nil},
		{"no_virtual_ipaddress, version 3", bare("version 3", "no_virtual_ipaddress"), "3 false 224.0.0.18 0", familyOf, []string{"fatal f:1:1: virtual_ipaddress: VI_1 has no address"}},
		{"address twice", instance("virtual_ipaddress_excluded {", "10.0.0.1", "}"), "2 false 224.0.0.18 1", familyOf, []string{"error f:8:1: virtual_ipaddress_excluded: address is given twice (at f:5:3), expected it once; ignored"}},
		{"255 addresses", bare("virtual_ipaddress {", "~SEQ(i,0,255) 10.0.0.$i", "}"), "2 false 224.0.0.18 255", familyOf, []string{"more than 255 addresses"}},

		{"multicast group", instance("mcast_dst_ip 224.0.0.99"), "false 224.0.0.99 0", transportOf, nil},
		{"multicast group, other family", instance("mcast_dst_ip ff02::1"), "false 224.0.0.18 0", transportOf, []string{"mcast_dst_ip: another address family"}},
		{"unicast", instance("unicast_src_ip 10.0.0.9", "unicast_peer {", "10.0.0.8", "10.0.0.7", "}"), "true 224.0.0.18 2", transportOf, nil},
		{"unicast without peers", instance("unicast_src_ip 10.0.0.9"), "false 224.0.0.18 0", transportOf, []string{"error f:7:1: unicast_src_ip: VI_1 has no usable peer, expected at least one in unicast_peer; using multicast"}},
		{"unicast without peers, fault", instance("unicast_fault_no_peer", "unicast_peer {", "}"), "true 224.0.0.18 0", transportOf, []string{"lint f:7:1: unicast_fault_no_peer: there is no usable peer"}},
		{"unicast and group", instance("mcast_dst_ip 224.0.0.99", "unicast_peer {", "10.0.0.8", "}"), "true 224.0.0.99 1", transportOf, []string{"lint f:7:1: mcast_dst_ip: has no effect with unicast_peer"}},
		{"peers", instance("unicast_peer {", "10.0.0.8 min_ttl 3 max_ttl 250", "10.0.0.7 max_ttl 0", "}"), "true [10.0.0.8 3 250] [10.0.0.7 -1 0]", peersOf, nil},
		{"bad peers", instance("unicast_peer {", "x", "fe80::1", "10.0.0.8 min_ttl 3 max_ttl 2", "10.0.0.8", "10.0.0.7 min_ttl", "10.0.0.6 foo", "224.0.0.1", "}"),
			"true [10.0.0.8 3 2] [10.0.0.7 -1 -1] [10.0.0.6 -1 -1] [224.0.0.1 -1 -1]", peersOf, []string{
				"error f:8:1: unicast_peer: malformed address", "error f:9:1: unicast_peer: another address family", "error f:10:1: unicast_peer: min_ttl is greater than max_ttl",
				"lint f:11:1: unicast_peer: peer is given twice", "error f:12:10: unicast_peer: value is missing", "error f:13:10: unicast_peer: unknown option of a peer",
				"lint f:14:1: unicast_peer: no peer can have this address"}},

		{"password", instance("authentication {", "auth_type PASS", "auth_pass abc", "}"), "true abc", passwordOf, nil},
		{"password without a type", instance("authentication {", "auth_pass abc", "}"), "false ", passwordOf, []string{"lint f:8:1: auth_pass: has no effect without auth_type"}},
		{"type without a password", instance("authentication {", "auth_type PASS", "}"), "false ", passwordOf, []string{"error f:8:1: auth_type: password is missing"}},
		{"empty password", instance("authentication {", "auth_type PASS", `auth_pass ""`, "}"), "false ", passwordOf, []string{"error f:8:1: auth_type: password is missing"}},
		{"unknown type", instance("authentication {", "auth_type NONE", "auth_pass abc", "}"), "false ", passwordOf, []string{"error f:8:11: auth_type: unknown authentication"}},
		{"AH", instance("authentication {", "auth_type AH", "auth_pass abc", "}"), "false ", passwordOf, []string{"fatal f:8:11: auth_type: IPsec AH is not supported"}},
		{"password with version 3", instance("version 3", "authentication {", "auth_type PASS", "auth_pass abc", "}"), "false ", passwordOf, []string{"error f:8:1: authentication: version 3 has no authentication"}},

		{"skip_check_adv_addr off", instance("skip_check_adv_addr off"), "true", func(i Instance) string { return fmt.Sprint(i.SkipCheckAdvAddr) },
			[]string{"lint f:7:21: skip_check_adv_addr: keepalived turns this on with any boolean"}},

		{"tracked interfaces", instance("track_interface {", "eth1", "eth2 weight -10", "eth3 weight 10 reverse", "}"), "[eth1 0 false] [eth2 -10 false] [eth3 10 true]", interfacesOf, nil},
		{"bad tracked interfaces", instance("track_interface {", "eth0", "eth1 wait 5", "eth2 weight", "eth3 weight 254", "eth4 weight 9 noreverse", "eth4", "et/5", "}"),
			"[eth1 0 false] [eth2 0 false] [eth3 253 false] [eth4 9 false]", interfacesOf, []string{
				"error f:8:1: track_interface: the instance's own interface is tracked anyway; ignored", "error f:9:6: track_interface: unknown option, expected weight",
				"error f:10:6: track_interface: weight has no value", "error f:11:13: track_interface: out of range, expected a whole number from -253 to 253; using 253 of that sign",
				"error f:12:15: track_interface: unknown option, expected reverse", "error f:13:1: track_interface: interface is tracked twice", "error f:14:1: track_interface: invalid interface name"}},
		{"weights of an owner", instance("priority 255", "track_interface {", "eth1", "eth2 weight 5", "}"), "[eth1 0 false]", interfacesOf,
			[]string{"error f:10:1: track_interface: a weight cannot change the priority of an address owner (255); ignored"}},
		{"tracked scripts", "vrrp_script a {\nscript /bin/a\nweight 5 reverse\n}\nvrrp_script b {\nscript /bin/b\nweight 7 reverse\n}\n" +
			instance("track_script {", "a", "b weight 9 noreverse", "}"), "[a 5 true false] [b 9 false false]", scriptsOf, nil},
		{"undefined scripts", instance("track_script {", "a", "b weight 9", "b", "}"), "[a 0 false true] [b 9 false true]", scriptsOf, []string{
			"error f:8:1: track_script: no usable vrrp_script of this name, expected one in the file; the instance stays in FAULT", "it counts as failed, with weight 9", "script is tracked twice"}},
		{"unusable script", "vrrp_script a {\nscript \"'x\"\n}\n" + instance("track_script {", "a", "}"), "[a 0 false true]", scriptsOf,
			[]string{"error f:2:8: script: unterminated quote in the command", "error f:11:1: track_script: no usable vrrp_script"}},
		{"tracking that is not supported has failed", instance("track_bfd {", "b", "}", "track_file {", "f weight 10", "}", "track_process {", "p", "}"),
			"[track_bfd b 0 false true]", scriptsOf,
			[]string{"error f:7:1: track_bfd: recognised but not supported by this version: what it tracks counts as failed",
				"error f:11:1: track_file: no usable track_file of this name, expected one in the file; it counts as failed, with weight 10",
				"error f:14:1: track_process: no usable vrrp_track_process of this name, expected one in the file; the instance stays in FAULT"}},

		{"hooks", instance(`notify "/bin/a 'b c' d" u g`, "notify_master /bin/m", "notify_deleted"), "[/bin/a b c d]{u g} [/bin/m]{ } true", hooksOf, nil},
		{"first hook wins", instance("notify_master /bin/m", "notify_master /bin/n"), "[]{ } [/bin/m]{ } false", hooksOf, []string{"error f:8:15: notify_master: hook is given already (at f:7:1)"}},
		{"user of hooks", "global_defs {\nscript_user u g\n}\n" + instance("notify_master /bin/m"), "[]{ } [/bin/m]{u g} false", hooksOf, nil},

		{"VRID on another interface", instance() + strings.Replace(second(), "eth0", "eth1", 1), "51", vridOf, nil},
		{"VRID of both families", instance() + strings.Replace(second(), "10.0.0.2", "fe80::1", 1), "51", vridOf, nil},
		{"VRID of both transports", instance() + second("unicast_peer {", "10.0.0.9", "}"), "51", vridOf, nil},
		{"VRID of two groups", instance() + second("mcast_dst_ip 224.0.0.99"), "51", vridOf, nil},
		{"VRID of different peers", instance("unicast_peer {", "10.0.0.8", "}") + second("unicast_peer {", "10.0.0.9", "}"), "51", vridOf, nil},
		{"VRID of the same peer", instance("unicast_peer {", "10.0.0.9", "}") + second("unicast_peer {", "10.0.0.9", "}"), "51", vridOf,
			[]string{"fatal f:13:2: virtual_router_id: VRID 51 on eth0 is that of VI_1 already (at f:3:2), expected a VRID of its own"}},
		{"instance twice", instance("priority 5") + instance("priority 6"), "5 false", priorityOf, []string{"error f:9:15: vrrp_instance: vrrp_instance of this name exists already (at f:1:1)"}},
		{"address in two instances", instance() + strings.ReplaceAll(strings.Replace(instance(), "VI_1", "VI_2", 1), "51", "52"), "51", vridOf,
			[]string{"lint f:13:3: virtual_ipaddress: vrrp_instance VI_1 has this address too"}},

		{"vip_after_notify", instance("notify_master /bin/m", "vip_after_notify 30", "notify_retry 5", "vip_lifetime 2"), "30s 5s 2s", extensionsOf, nil},
		{"vip_after_notify without a hook", instance("vip_after_notify 30"), "30s 10s 0s", extensionsOf, []string{"fatal f:7:1: vip_after_notify: there is no hook to wait for, expected notify_master or notify"}},
		{"notify_retry alone", instance("notify_retry 5"), "0s 5s 0s", extensionsOf, []string{"lint f:7:1: notify_retry: has no effect without vip_after_notify"}},
		{"every error of our own file counts", instance("vip_lifetime 0", "priority 0"), "0s 10s 0s", extensionsOf, []string{"fatal f:8:10: priority: out of range"}},
		{"quorum without its block", instance("quorum pg"), "0s 10s 2s", extensionsOf, []string{`fatal f:7:1: quorum: there is no quorum block, expected one in the file (got "pg")`}},
		{"auth_hmac", instance("auth_hmac {", "key 1 x", "}", "priority 5"), "5 false", priorityOf, []string{"fatal f:7:1: auth_hmac: there is no usable key, expected key ID MATERIAL", "error f:8:7: key: key of 1 bytes, expected 32 to 64; ignored"}},
		{"what is off needs no support", instance("strict_mode off", "notify_priority_changes no"), "51", vridOf, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c, diags := load(tt.text)
			if got := tt.get(c.Instances[0]); got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
			wantDiags(t, diags, tt.diags...)
		})
	}
}

func garpOf(i Instance) string     { return fmt.Sprint(i.Garp) }
func priorityOf(i Instance) string { return fmt.Sprint(i.Priority, i.StartMaster) }
func preemptOf(i Instance) string  { return fmt.Sprint(i.Preempt, i.PreemptDelay) }
func intervalOf(i Instance) string { return fmt.Sprint(i.AdvertInterval) }
func familyOf(i Instance) string   { return fmt.Sprint(i.Version, i.IPv6, i.Group, len(i.Addresses)) }
func transportOf(i Instance) string {
	return fmt.Sprint(i.Unicast, i.Group, len(i.Peers))
}
func passwordOf(i Instance) string { return fmt.Sprint(i.HasPassword, " ", i.Password) }
func vridOf(i Instance) string     { return fmt.Sprint(i.VRID) }
func extensionsOf(i Instance) string {
	return fmt.Sprint(i.VIPAfterNotify, i.NotifyRetry, i.VIPLifetime)
}
func hooksOf(i Instance) string {
	h := i.Hooks
	return fmt.Sprintf("%v%v %v%v %v", h.Notify.Argv, h.Notify.User, h.Master.Argv, h.Master.User, h.SendDeleted)
}
func peersOf(i Instance) string {
	out := fmt.Sprint(i.Unicast)
	for _, p := range i.Peers {
		out += fmt.Sprintf(" [%v %d %d]", p.Addr, p.MinTTL, p.MaxTTL)
	}
	return out
}
func interfacesOf(i Instance) string {
	var out []string
	for _, t := range i.TrackInterfaces {
		out = append(out, fmt.Sprintf("[%s %d %v]", t.Name, t.Weight, t.Reverse))
	}
	return strings.Join(out, " ")
}
func scriptsOf(i Instance) string {
	var out []string
	for _, t := range i.TrackScripts {
		out = append(out, fmt.Sprintf("[%s %d %v %v]", t.Name, t.Weight, t.Reverse, t.Undefined))
	}
	return strings.Join(out, " ")
}

func TestScript(t *testing.T) {
	tests := []struct {
		name, body, want string
		diags            []string
	}{
		{"defaults", "script /bin/a", "[/bin/a] { } 1s 1s 1 1 0 false false", nil},
		{"all", "script \"/bin/sh -c 'a b'\"\ninterval 5\ntimeout 2.5\nrise 2\nfall 3\nweight -10 reverse\nuser u g\ninit_fail",
			"[/bin/sh -c a b] {u g} 5s 2.5s 2 3 -10 true true", nil},
		{"user with the script", `script "/bin/a" v`, "[/bin/a] {v } 1s 1s 1 1 0 false false", nil},
		{"user before the script", "user u\nscript /bin/a", "[/bin/a] {u } 1s 1s 1 1 0 false false", nil},
		{"fraction", "script /bin/a\ninterval 0.5", "[/bin/a] { } 500ms 500ms 1 1 0 false false", nil},
		{"long timeout", "script /bin/a\ninterval 2\ntimeout 3", "[/bin/a] { } 2s 3s 1 1 0 false false", []string{"lint f:1:1: vrrp_script: timeout (3 s) is greater than interval (2 s)"}},
		{"bad option", "script /bin/a\nweight 5 foo", "[/bin/a] { } 1s 1s 1 1 5 false false", []string{"error f:3:10: weight: unknown option, expected reverse or nothing; ignored"}},
		{"last script wins", "script /bin/a\nscript /bin/b", "[/bin/b] { } 1s 1s 1 1 0 false false", nil},
		{"no script", "interval 5", "", []string{"error f:1:13: vrrp_script: no script in this vrrp_script", "no usable vrrp_script of this name"}},
		{"no words", "script", "", []string{"error f:2:1: script: command is missing, expected COMMAND [USER [GROUP]]; what tracks the script counts as failed", "no usable vrrp_script"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c, diags := load("vrrp_script chk {\n" + tt.body + "\n}\n" + instance("track_script {\nchk\n}"))
			got := ""
			for _, s := range c.Scripts {
				got = fmt.Sprint(s.Command.Argv, s.Command.User, s.Interval, s.Timeout, s.Rise, s.Fall, s.Weight, s.Reverse, s.InitFail)
			}
			if got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
			wantDiags(t, diags, tt.diags...)
		})
	}
}

func TestGlobals(t *testing.T) {
	c, diags := load("global_defs {\nrouter_id r1\ndynamic_interfaces allow_if_changes\nscript_user u\nenable_script_security\nvrrp_startup_delay 2.5\n" +
		"log_unknown_vrids\nvrrp_rt_priority 50\nvrrp_no_swap\n}\nglobal_defs {\ndefault_interface eth1\n}\n")
	wantDiags(t, diags)
	want := newGlobals().Globals
	want.RouterID, want.DefaultInterface, want.DynamicInterfaces, want.AllowInterfaceChange = "r1", "eth1", true, true
	want.ScriptUser, want.EnableScriptSecurity, want.StartupDelay = User{Name: "u"}, true, 2500*time.Millisecond
	want.LogUnknownVRIDs, want.RealTimePriority, want.NoSwap, want.VMACAddrPrefix = true, 50, true, "vrrp"
	if !reflect.DeepEqual(c.Globals, want) {
		t.Errorf("got %+v, want %+v", c.Globals, want)
	}
}

func TestBlocks(t *testing.T) {
	tests := []struct {
		name, text string
		diags      []string
	}{
		{"not closed", "global_defs {\nrouter_id x\n", []string{"error f:1:1: global_defs: block is not closed, expected } before the end of the file"}},
		{"two not closed", "vrrp_instance VI_1 {\ninterface eth0\nvirtual_router_id 1\nvirtual_ipaddress {\n10.0.0.1\n",
			[]string{"error f:1:1: vrrp_instance: block is not closed", "error f:4:1: virtual_ipaddress: block is not closed"}},
		{"not opened", "global_defs\nrouter_id x\n}\n", []string{"error f:1:1: global_defs: brace is missing, expected { after the keyword; reading on as if it stood there"}},
		{"values not opened", strings.Replace(instance(), "virtual_ipaddress {", "virtual_ipaddress", 1), []string{"error f:4:2: virtual_ipaddress: brace is missing"}},
		{"nothing after a keyword", "global_defs", []string{"error f:1:1: global_defs: block is missing, expected { after the keyword"}},
		{"one too many", instance() + "}\n", []string{`error f:9:1: closing brace without an opening one, ignored (got "}")`}},
		{"opening brace alone", instance() + "{\nx\n}\n", []string{`error f:9:1: unexpected brace, the block is skipped (got "{")`}},
		{"block after a plain keyword", instance("priority 5 {", "x", "}"), []string{"error f:7:12: unexpected brace"}},
		{"block among values", instance("virtual_ipaddress_excluded {", "10.0.0.3 {", "x", "}", "}"), []string{"error f:8:10: virtual_ipaddress_excluded: unexpected brace"}},
		{"skipped block not closed", "foo {\n{\n}\n", []string{"error f:1:1: unknown keyword", "error f:1:5: block is not closed"}},
		{"unknown words", "prority 5\nglobal_defs {\nstate MASTER\nrouter_idx 5\n$A =5\nqwertyuiop\nvrrp_script x\n}\n", []string{
			`error f:1:1: unknown keyword at the top of the file, expected a block such as global_defs, vrrp_script, vrrp_instance, vrrp_sync_group or quorum; ignored (got "prority")`,
			`error f:3:1: unknown keyword in global_defs, expected it in vrrp_instance; ignored (got "state")`,
			`error f:4:1: unknown keyword in global_defs, did you mean router_id? ignored (got "router_idx")`,
			`error f:5:1: unknown keyword in global_defs, expected $NAME=VALUE without a blank before the =; ignored (got "$A")`,
			`error f:6:1: unknown keyword in global_defs, expected one of that block's; ignored (got "qwertyuiop")`,
			`error f:7:1: unknown keyword in global_defs, expected it at the top of the file (is a } missing above?); ignored (got "vrrp_script")`}},
		{"suggestion", instance("virtual_ipadress_exluded {", "x", "}", "prioirty 5", "intreface eth0"), []string{
			"did you mean virtual_ipaddress_excluded?", "did you mean priority?", "did you mean interface?"}},
		{"sync groups", instance() + "vrrp_sync_group G {\ngroup {\nVI_1 VI_1\nVI_2\n}\ngroup {\nVI_1\n}\nfoo\n}\nvrrp_sync_group H {\ngroup {\nVI_1\n}\n}\nvrrp_sync_group G {\n}\n", []string{
			"error f:9:1: vrrp_sync_group: group has one member only", "lint f:11:6: group: member is given twice", "error f:12:1: group: no vrrp_instance of this name",
			"error f:14:1: group: members are given already", "error f:17:1: unknown keyword in vrrp_sync_group",
			"error f:19:1: vrrp_sync_group: group has no member", "error f:21:1: group: instance is in vrrp_sync_group G already",
			"error f:24:17: vrrp_sync_group: vrrp_sync_group of this name exists already"}},
		{"script twice", "vrrp_script a {\nscript /bin/a\n}\nvrrp_script a {\nx\n}\n", []string{
			"lint f:1:1: vrrp_script: no vrrp_instance tracks this script", "error f:4:13: vrrp_script: vrrp_script of this name exists already (at f:1:1)"}},
		{"a finding for each use of a definition", "$A= \\\nglobal_defs { \\\nfoo \\\n}\n$A\n$A\n", []string{
			"error f:3:1: unknown keyword in global_defs, expected one of that block's; ignored, in the text put in at f:5:1", "in the text put in at f:6:1"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, diags := load(tt.text)
			wantDiags(t, diags, tt.diags...)
		})
	}
}

func TestSecurity(t *testing.T) {
	script := "vrrp_script a {\nscript /bin/a\n}\n"
	tests := []struct {
		name, text string
		want       int
	}{
		{"no program", instance(), 0},
		{"script that nobody tracks", script + instance(), 0},
		{"script", script + instance("track_script {\na\n}"), 6},
		{"hook", instance("notify /bin/a"), 6},
		{"script and error", script + instance("track_script {\na\n}", "priority 0"), 6},
		{"script and fatal", script + instance("track_script {\na\n}", "priority"), 4},
		{"enabled", "global_defs {\nenable_script_security\n}\n" + script + instance("track_script {\na\n}"), 0},
		{"enabled later", script + instance("track_script {\na\n}") + "global_defs {\nenable_script_security\n}\n", 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, diags := load(tt.text)
			if got := ExitCode(diags, false); got != tt.want {
				t.Errorf("got %d, want %d: %v", got, tt.want, lines(diags))
			}
		})
	}
}

func TestFindingsAreBounded(t *testing.T) {
	_, diags := load("~SEQ(i,1,100000) foo$i\n")
	if len(diags) != maxDiagnostics+1 {
		t.Errorf("got %d findings", len(diags))
	}
	if last := diags[len(diags)-1]; !strings.Contains(last.Message, "the rest is not shown") && !slices.ContainsFunc(diags, func(d Diagnostic) bool {
		return strings.Contains(d.Message, "the rest is not shown")
	}) {
		t.Errorf("got no last word, but %v", last)
	}
}

func TestPasswordsStayOutOfFindings(t *testing.T) {
	for _, line := range []string{"auth_pass s3cr3t-and-long", "auth_pass s3cr3t s3cr3t", `auth_pass "s3cr3t`, `auth_pass s3cr3t \`} {
		_, diags := load(instance("authentication {", "auth_type PASS", line, "}"))
		if len(diags) == 0 || strings.Contains(strings.Join(lines(diags), "\n"), "s3cr3t") {
			t.Errorf("%s: got %q", line, lines(diags))
		}
	}
	for _, line := range []string{"key 1 s3cr3t", "key 1 hex:s3cr3t", "key 300 s3cr3t", `key 1 "s3cr3t`, `key 1 s3cr3t \`, "key 1 0123456789012345678901234567890 s3cr3t"} {
		_, diags := load(instance("auth_hmac {", line, "}"))
		if len(diags) == 0 || strings.Contains(strings.Join(lines(diags), "\n"), "s3cr3t") {
			t.Errorf("%s: got %q", line, lines(diags))
		}
	}
}
