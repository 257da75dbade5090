package conf

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestTrackFile(t *testing.T) {
	tests := []struct {
		name, body, want string
		diags            []string
	}{
		{"defaults", "file /a", "/a 1 false false false 0 false", nil},
		{"all", "file \"/a b\"\nweight -254 reverse\ninit_file 7 overwrite", "/a b -254 true true true 7 false", nil},
		{"init without a value", "file /a\ninit_file", "/a 1 false true false 0 false", nil},
		{"init, the other way round", "file /a\ninit_file overwrite -5", "/a 1 false true true -5 false", nil},
		{"init, unknown", "file /a\ninit_file x", "/a 1 false true false 0 false", []string{"error f:3:11: init_file: unknown option, expected a whole number or overwrite; ignored"}},
		{"relative", "file a", "a 1 false false false 0 false", []string{"lint f:2:6: file: not an absolute path"}},
		{"ours", "file /a\nmissing fail\n", "/a 1 false false false 0 true", nil},
		{"no file", "weight 5", "", []string{"error f:1:12: track_file: no file in this track_file", "error f:11:1: track_file: no usable track_file of this name"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c, diags := load("track_file a {\n" + tt.body + "\n}\n" + instance("track_file {\na\n}"))
			got := ""
			for _, f := range c.TrackFiles {
				got = fmt.Sprint(f.Path, f.Weight, f.Reverse, f.Init, f.Overwrite, f.InitValue, f.MissingFails)
			}
			if strings.ReplaceAll(got, " ", "") != strings.ReplaceAll(tt.want, " ", "") {
				t.Errorf("got %s, want %s", got, tt.want)
			}
			wantDiags(t, diags, tt.diags...)
		})
	}
	_, diags := load("track_file a {\nfile /a\n}\ntrack_file a {\nfile /b\n}\n")
	wantDiags(t, diags, "lint f:1:1: track_file: no vrrp_instance tracks this file", "error f:4:12: track_file: track_file of this name exists already (at f:1:1)")
}

func TestTrackProcess(t *testing.T) {
	tests := []struct {
		name, body, want string
		diags            []string
	}{
		{"defaults", "process nginx", `["nginx"] "" false 0 false 1 -1 0s 0s`, nil},
		{"parameters", `process "/usr/bin/a b" c "d e"`, `["/usr/bin/a b" "c" "d e"] "exact" true 0 false 1 -1 0s 0s`, nil},
		{"no parameters at all", "param_match\nprocess nginx", `["nginx"] "exact" true 0 false 1 -1 0s 0s`, nil},
		{"initial", "process a b\nparam_match initial", `["a" "b"] "initial" true 0 false 1 -1 0s 0s`, nil},
		{"partial before", "param_match partial\nprocess a b", `["a" "b"] "partial" true 0 false 1 -1 0s 0s`, nil},
		{"numbers", "process a\nweight 10 reverse\nquorum 2\nquorum_max 5\ndelay 2\nfork_delay 0.5\nfull_command", `["a"] "" true 10 true 2 5 500ms 2s`, nil},
		{"none may run", "process a\nquorum_max 0", `["a"] "" false 0 false 0 0 0s 0s`, nil},
		{"long name", "process averyveryverylongname", `["averyveryverylongname"] "" false 0 false 1 -1 0s 0s`, []string{"lint f:1:1: vrrp_track_process: name is longer than 15 characters"}},
		{"long name with full_command", "process averyveryverylongname\nfull_command", `["averyveryverylongname"] "" true 0 false 1 -1 0s 0s`, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c, diags := load("vrrp_track_process a {\n" + tt.body + "\n}\n" + instance("track_process {\na\n}"))
			got := ""
			for _, p := range c.TrackProcesses {
				got = fmt.Sprintf("%q %q %v %d %v %d %d %v %v", p.Process, p.Match, p.FullCommand, p.Weight, p.Reverse, p.Quorum, p.QuorumMax, p.ForkDelay, p.TerminateDelay)
			}
			if got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
			wantDiags(t, diags, tt.diags...)
		})
	}
}

// What a line of a track_ block says goes over what its block says, and a block may stand further down.
func TestTrackedOfAllKinds(t *testing.T) {
	blocks := "track_file f {\nfile /f\nweight 3 reverse\n}\nvrrp_track_process p {\nprocess x\nweight -7\n}\n"
	lines := []string{"track_file {", "f", "g weight 5", "}", "track_process {", "p weight 254 noreverse", "}"}
	show := func(list []Tracked) (s []string) {
		for _, t := range list {
			s = append(s, fmt.Sprint(t.Name, t.Weight, t.Reverse, t.Undefined))
		}
		return s
	}
	for name, text := range map[string]string{"before": blocks + instance(lines...), "after": instance(lines...) + blocks} {
		c, diags := load(text)
		i := c.Instances[0]
		if got, want := fmt.Sprint(show(i.TrackFiles), show(i.TrackProcesses)), "[f3 true false g5 false true] [p254 false false]"; got != want {
			t.Errorf("%s: got %s, want %s", name, got, want)
		}
		undefined := "no usable track_file of this name, expected one in the file; it counts as failed, with weight 5"
		if name == "before" {
			wantDiags(t, diags, undefined)
		} else {
			wantDiags(t, diags, "lint f:8:1: track_file: track_file stands further down (at f:15:1): keepalived would ignore this check", undefined,
				"lint f:12:1: track_process: vrrp_track_process stands further down")
		}
	}
}

func TestSyncGroupTracking(t *testing.T) {
	script := func(name string) string { return "vrrp_script " + name + " {\nscript /bin/true\n}\n" }
	member := strings.Replace(instance("track_interface {", "eth1 weight 10", "}", "track_script {", "own weight -5", "both", "}"), "VI_1 {", "VI_2 {", 1)
	member = strings.Replace(strings.Replace(member, "51", "52", 1), "10.0.0.1", "10.0.0.2", 1)
	group := func(lines string) string {
		return "vrrp_sync_group G {\ngroup {\nVI_1\nVI_2\n}\ntrack_interface {\neth0\neth2 weight 20\n}\ntrack_script {\nboth\nshared weight 5\n}\n" + lines + "}\n"
	}
	show := func(i Instance) string {
		var s []string
		for _, list := range [][]Tracked{i.TrackInterfaces, i.TrackScripts} {
			for _, t := range list {
				s = append(s, fmt.Sprint(t.Name, t.Weight))
			}
		}
		return strings.Join(s, " ")
	}
	defs := script("own") + script("both") + script("shared")
	tests := []struct {
		name, text    string
		first, second string
		diags         []string
	}{
		{"own weights do not count", defs + instance() + member + group(""), "eth220 both0 shared5", "eth10 eth220 both0 shared5", []string{
			"error f:25:1: track_interface: a weight does not count in vrrp_sync_group G, expected sync_group_tracking_weight in it; failure means FAULT",
			"error f:28:1: track_script: a weight does not count in vrrp_sync_group G, expected sync_group_tracking_weight in it; ignored"}},
		{"own weights count", group("sync_group_tracking_weight\n") + defs + instance() + member, "eth220 both0 shared5", "eth110 eth220 own-5 both0 shared5", []string{
			"lint f:11:1: track_script: vrrp_script stands further down", "lint f:12:1: track_script: vrrp_script stands further down"}},
		{"no group", defs + instance() + member, "", "eth110 own-5 both0", []string{"lint f:7:1: vrrp_script: no vrrp_instance tracks this script"}},
		{"an owner", defs + strings.Replace(instance("priority 255"), "}\npri", "}\npri", 1) + member + group("sync_group_tracking_weight\n"), "both0", "eth110 eth220 own-5 both0 shared5", nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c, diags := load(tt.text)
			if got := show(c.Instances[0]); got != tt.first {
				t.Errorf("first: got %q, want %q", got, tt.first)
			}
			if got := show(c.Instances[1]); got != tt.second {
				t.Errorf("second: got %q, want %q", got, tt.second)
			}
			wantDiags(t, diags, tt.diags...)
			if strings.Contains(tt.text, "sync_group") && (c.Instances[0].SyncGroup != "G" || len(c.SyncGroups[0].TrackScripts) != 2) {
				t.Errorf("got group %q, %+v", c.Instances[0].SyncGroup, c.SyncGroups[0])
			}
		})
	}
	_, diags := load(quorum() + instance("quorum pg", "vip_after_notify 0.1", "notify /bin/a") + "vrrp_sync_group G {\ngroup {\nVI_1\n}\n}\n")
	if !strings.Contains(strings.Join(lines(diags), "\n"), "group: instance asks for a grant of pg, expected no group: all instances with one resource get its grant together") {
		t.Errorf("got %q", lines(diags))
	}
}

const testSecret = "0123456789abcdef0123456789abcdef"

func TestAuthHMAC(t *testing.T) {
	tests := []struct {
		name, body, want string
		diags            []string
	}{
		{"defaults", "key 1 " + testSecret + "\nactive_key 1", "1 enforce false 5s [1:" + testSecret + "]", nil},
		{"all", "key 1 " + testSecret + "\nkey 255 hex:" + strings.Repeat("41", 64) + "\nactive_key 255\nmode permissive\nanti_replay time\ntime_window 300",
			"255 permissive false 5m0s [1:" + testSecret + " 255:" + strings.Repeat("A", 64) + "]", nil},
		{"file", "key 3 file:/k\nactive_key 3\nmode receive-only\nanti_replay monotonic", "3 receive-only true 0s [3:" + testSecret + "]", nil},
		{"file beside the configuration", "key 3 file:sub/k\nactive_key 3", "3 enforce false 5s [3:" + testSecret + "]", nil},
		{"file with hex", "key 3 file:/h\nactive_key 3", "3 enforce false 5s [3:" + strings.Repeat("A", 32) + "]", nil},
		{"no file", "key 3 file:/none\nactive_key 3", "3 enforce false 5s []", []string{"fatal f:7:1: auth_hmac: there is no usable key", "error f:8:7: key: key file /none cannot be read: file does not exist; the key is ignored"}},
		{"short", "key 1 x\nkey 2 " + testSecret + "\nactive_key 1", "1 enforce false 5s [2:" + testSecret + "]",
			[]string{"fatal f:7:1: auth_hmac: active_key 1 has no usable key", "error f:8:7: key: key of 1 bytes, expected 32 to 64; ignored"}},
		{"long", "key 1 " + testSecret + testSecret + "x\nkey 2 " + testSecret + "\nactive_key 2", "2 enforce false 5s [2:" + testSecret + "]",
			[]string{"error f:8:7: key: key of 65 bytes, expected 32 to 64; ignored"}},
		{"no active key", "key 1 " + testSecret, "0 enforce false 5s [1:" + testSecret + "]", []string{"fatal f:7:1: auth_hmac: active_key is missing"}},
		{"twice", "key 1 " + testSecret + "\nkey 1 " + testSecret + "\nactive_key 1", "1 enforce false 5s [1:" + testSecret + "]",
			[]string{"error f:9:5: key: key of this id is given already (at f:8:1), expected an id of its own; ignored"}},
		{"no material", "key 1\nkey\nkey 0 " + testSecret + "\nkey 2 " + testSecret + "\nactive_key 2", "2 enforce false 5s [2:" + testSecret + "]",
			[]string{"error f:8:6: key: value is missing, expected key ID MATERIAL", "error f:9:4: key: value is missing", "error f:10:5: key: out of range, expected a whole number from 1 to 255"}},
		{"window without effect", "key 1 " + testSecret + "\nactive_key 1\nanti_replay monotonic\ntime_window 5", "1 enforce true 0s [1:" + testSecret + "]",
			[]string{"lint f:7:1: auth_hmac: time_window has no effect with anti_replay monotonic"}},
		{"window of slow adverts", "key 1 " + testSecret + "\nactive_key 1\n}\nadvert_int 20\nauthentication {\n", "1 enforce false 1m0s [1:" + testSecret + "]", nil},
		{"window too short", "key 1 " + testSecret + "\nactive_key 1\ntime_window 2\n}\nadvert_int 2\nauthentication {\n", "1 enforce false 2s [1:" + testSecret + "]",
			[]string{"lint f:7:1: auth_hmac: time_window (2 s) is not longer than advert_int (2 s)"}},
		{"with a password", "key 1 " + testSecret + "\nactive_key 1\n}\nauthentication {\nauth_type PASS\nauth_pass x\n", "1 enforce false 5s [1:" + testSecret + "]",
			[]string{"error f:11:1: authentication: auth_hmac takes its place, expected one of the two"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			files := memory{"f": instance("auth_hmac {\n" + tt.body + "\n}"), "/k": testSecret + "\r\n", "sub/k": testSecret, "/h": "hex:" + strings.Repeat("41", 32) + "\n"}
			c, diags := Load("f", files.options())
			h := c.Instances[0].HMAC
			var keys []string
			for _, k := range h.Keys {
				keys = append(keys, fmt.Sprintf("%d:%s", k.ID, k.Secret))
			}
			if got := fmt.Sprint(h.ActiveKey, " ", h.Mode, " ", h.Monotonic, " ", h.Window, " ", keys); got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
			if c.Instances[0].HasPassword {
				t.Error("the password is still there")
			}
			wantDiags(t, diags, tt.diags...)
			text, err := json.Marshal(c)
			if err != nil || strings.Contains(string(text), testSecret) || len(keys) > 0 && !strings.Contains(string(text), `"secret":"********"`) {
				t.Errorf("got %s, %v, want the key masked", text, err)
			}
		})
	}
}

func TestStrictMode(t *testing.T) {
	show := func(i Instance) string {
		return fmt.Sprint(i.StartMaster, i.Preempt, i.PreemptDelay, i.DownTimerAdverts, i.NoAccept, i.OwnerIgnoreAdverts, i.LowerPrioNoAdvert,
			i.HigherPrioSendAdvert, i.Garp.LowerPrioRepeat, i.HasPassword)
	}
	const lint = "strict mode forbids much of what makes a takeover quick and safe"
	tests := []struct {
		name, text, want string
		diags            []string
	}{
		{"off", instance(), "false true 0s 3 false false false false 5 false", nil},
		{"on", instance("strict_mode"), "false true 0s 3 true false true false 0 false", []string{lint}},
		{"off in spite of global_defs", "global_defs {\nvrrp_strict\n}\n" + instance("strict_mode off"), "false true 0s 3 false false false false 5 false", []string{lint}},
		{"owner", "global_defs {\nvrrp_strict\n}\n" + instance("priority 255"), "false true 0s 3 false true true false 0 false", []string{lint}},
		{"what it forbids", instance("strict_mode", "state MASTER", "preempt_delay 5", "down_timer_adverts 5", "accept", "lower_prio_no_advert off",
			"higher_prio_send_advert", "garp_lower_prio_repeat 2", "garp_lower_prio_delay 2", "authentication {", "auth_type PASS", "auth_pass x", "}", "priority 100"),
			"false true 0s 3 true false true false 0 false", []string{lint, "error f:8:1: state: strict mode has MASTER with priority 255", "error f:9:1: preempt_delay: strict mode has no delay",
				"error f:10:1: down_timer_adverts: strict mode has three adverts", "error f:11:1: accept: strict mode has no accept mode in version 2",
				"error f:12:1: lower_prio_no_advert: strict mode does not answer", "error f:13:1: higher_prio_send_advert: strict mode gives way without a word",
				"error f:14:1: garp_lower_prio_repeat: strict mode does not announce again", "error f:15:1: garp_lower_prio_delay: strict mode does not announce again",
				"error f:16:1: authentication: has no place in strict mode"}},
		{"version 3 may accept", instance("strict_mode", "version 3", "accept"), "false true 0s 3 false false true false 0 false", []string{lint}},
		{"unicast", instance("strict_mode", "unicast_peer {", "10.0.0.9", "}"), "false true 0s 3 true false true false 0 false", []string{lint, "fatal f:8:1: unicast_peer: strict mode has no unicast"}},
		{"no address", strings.Replace(instance("strict_mode", "no_virtual_ipaddress"), "10.0.0.1", "", 1), "false true 0s 3 true false true false 0 false",
			[]string{"fatal f:4:2: virtual_ipaddress: VI_1 has no address, expected at least one in strict mode", lint}},
		{"no_accept alone", instance("no_accept"), "false true 0s 3 true false false false 5 false", nil},
		{"the last one counts", instance("no_accept", "accept"), "false true 0s 3 false false false false 5 false", nil},
		{"owners accept", instance("no_accept", "priority 255"), "false true 0s 3 false false false false 5 false", nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c, diags := load(tt.text)
			if got := show(c.Instances[0]); got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
			wantDiags(t, diags, tt.diags...)
		})
	}
}

func TestVMAC(t *testing.T) {
	show := func(i Instance) string {
		s := fmt.Sprint(i.VMAC.Use, i.VMAC.Name, " ", i.VMAC.MAC, i.VMAC.NetlinkNotify, i.VMAC.LinkGroup, i.VMAC.XmitBase)
		for _, list := range [][]Address{i.Addresses, i.Excluded} {
			for _, a := range list {
				s += fmt.Sprint(" ", a.Interface, a.VMAC)
			}
		}
		return s
	}
	more := []string{"virtual_ipaddress_excluded {", "10.0.0.2 dev eth0", "10.0.0.3 dev eth1", "10.0.0.4 dev eth1 use_vmac", "fe80::4", "}"}
	tests := []struct {
		name  string
		lines []string
		want  string
		diags []string
	}{
		{"off", more, "false false -1 false eth0false eth0false eth1false eth1true eth0false", nil},
		{"defaults", []string{"use_vmac"}, "truevrrp.51 00:00:5e:00:01:33 false -1 false eth0true", nil},
		{"all", []string{"use_vmac name vrrp9 02:00:00:00:00:07 netlink_notify_msg group 5", "vmac_xmit_base"}, "truevrrp9 02:00:00:00:00:07true 5 true eth0true", nil},
		{"five bytes", []string{"use_vmac 2:0:0:0:7"}, "truevrrp.51 02:00:00:00:07:33 false -1 false eth0true", nil},
		{"other interfaces and families", append([]string{"use_vmac", "use_vmac_addr"}, more...), "truevrrp.51 00:00:5e:00:01:33 false -1 false eth0true eth0false eth1true eth1true eth0true", nil},
		{"unicast", []string{"use_vmac", "unicast_peer {", "10.0.0.9", "}"}, "truevrrp.51 00:00:5e:00:01:33 false -1 true eth0true", []string{"error f:7:1: use_vmac: with unicast_peer adverts go out on the interface itself"}},
		{"two names", []string{"use_vmac a b"}, "truea 00:00:5e:00:01:33 false -1 false eth0true", []string{"error f:7:12: use_vmac: name is a already, expected one; ignored"}},
		{"bad addresses", []string{"use_vmac 00:00:5e:00:01:07 1:2:3 x:y 02:0:0:0:0:1 02:0:0:0:0:2"}, "truevrrp.51 02:00:00:00:00:01 false -1 false eth0true", []string{
			"error f:7:10: use_vmac: RFC 9568's own MAC addresses follow from the VRID", "error f:7:28: use_vmac: malformed MAC address", "error f:7:34: use_vmac: malformed MAC address", "error f:7:51: use_vmac: MAC address is 02:00:00:00:00:01 already"}},
		{"strict", []string{"strict_mode", "use_vmac 02:0:0:0:0:1", "vmac_xmit_base"}, "truevrrp.51 00:00:5e:00:01:33 false -1 false eth0true", []string{"strict mode forbids", "error f:8:1: use_vmac: strict mode wants the MAC address of the VRID", "error f:9:1: vmac_xmit_base: has no place in strict mode"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c, diags := load(instance(tt.lines...))
			if got := show(c.Instances[0]); strings.ReplaceAll(got, " ", "") != strings.ReplaceAll(tt.want, " ", "") {
				t.Errorf("got %s, want %s", got, tt.want)
			}
			wantDiags(t, diags, tt.diags...)
		})
	}
	// Two of one VRID on two interfaces get two names, and the prefix can be another.
	two := strings.NewReplacer("VI_1", "VI_2", "eth0", "eth1", "10.0.0.1", "10.0.0.2").Replace(instance("use_vmac"))
	c, diags := load("global_defs {\nvmac_prefix averylongprefix\n}\n" + instance("use_vmac") + two)
	wantDiags(t, diags)
	if a, b := c.Instances[0].VMAC.Name, c.Instances[1].VMAC.Name; a != "averylongpre.51" || b != "averylongp.51.1" {
		t.Errorf("got %q and %q", a, b)
	}
}

// A VMAC without a name in the file keeps the one under which its virtual router runs, whatever comes, goes or stands elsewhere.
func TestKeepVMACNames(t *testing.T) {
	on := func(n, vmac string) string {
		return strings.NewReplacer("VI_1", "VI_"+n, "eth0", "eth"+n, "10.0.0.1", "10.0.0.1"+n).Replace(instance(vmac))
	}
	one, two, three := on("1", "use_vmac"), on("2", "use_vmac"), on("3", "use_vmac")
	prefix := "global_defs {\nvmac_prefix v\n}\n"
	for _, tt := range []struct{ name, former, next, want string }{
		{"the first goes", one + two, two, "VI_2 vrrp.51.1"},
		{"another order", one + two, two + one, "VI_2 vrrp.51.1, VI_1 vrrp.51"},
		{"one comes before", one, two + one, "VI_2 vrrp.51.1, VI_1 vrrp.51"},
		{"one goes and one comes", one + two, three + two, "VI_3 vrrp.51, VI_2 vrrp.51.1"},
		{"the file gives the name away", one + two, on("3", "use_vmac vrrp.51.1") + two, "VI_3 vrrp.51.1, VI_2 vrrp.51"},
		{"the file gives it a name", one + two, on("2", "use_vmac x"), "VI_2 x"},
		{"the file takes its name", on("1", "use_vmac x"), one, "VI_1 vrrp.51"},
		{"another virtual router", one + two, strings.Replace(two, "eth2", "eth9", 1), "VI_2 vrrp.51"},
		{"another prefix", one + two, prefix + two, "VI_2 v.51"},
		{"without a VMAC", one + two, on("1", "") + two, "VI_1 , VI_2 vrrp.51.1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			former, _ := load(tt.former)
			next, _ := load(tt.next)
			for range 2 {
				next.KeepVMACNames(former)
			}
			var got []string
			for _, i := range next.Instances {
				got = append(got, i.Name+" "+i.VMAC.Name)
			}
			if got := strings.Join(got, ", "); got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
		})
	}
}

func TestRoutes(t *testing.T) {
	tests := []struct{ line, want, diag string }{
		{"10.1.0.0/16 via 10.0.0.254 dev eth0", "unicast 10.1.0.0/16 via 10.0.0.254 dev eth0 table 254 scope -1 proto 0", ""},
		{"default via 10.0.0.254", "unicast 0.0.0.0/0 via 10.0.0.254 table 254 scope -1 proto 0 no_track", "error f:8:1: virtual_routes: route has no dev, expected one, or no_track: its loss is not noticed"},
		{"src 10.0.0.1 to 0.0.0.0/0 via 10.0.0.254 table 100 metric 5 scope link protocol static onlink mtu lock 1400 advmss 1360 no_track append", "unicast 0.0.0.0/0 via 10.0.0.254 src 10.0.0.1 table 100 scope 253 proto 4 metric 5 mtu 1400 true advmss 1360 onlink no_track append", ""},
		{"10.1.0.0/16 gw 10.0.0.254 dev eth0", "unicast 10.1.0.0/16 via 10.0.0.254 dev eth0 table 254 scope -1 proto 0", "lint f:8:13: virtual_routes: old word, expected via"},
		{"blackhole 10.2.0.0/16", "blackhole 10.2.0.0/16 table 254 scope -1 proto 0", ""},
		{"2001:db8::/32 via inet6 fe80::1 dev eth0", "unicast 2001:db8::/32 via fe80::1 dev eth0 table 254 scope -1 proto 0", ""},
		{"inet6 default dev eth0", "unicast ::/0 dev eth0 table 254 scope -1 proto 0", ""},
		{"10.1.0.0/16 via 10.0.0.1 or 10.0.0.2", "unicast 10.1.0.0/16 table 254 scope -1 proto 0 [10.0.0.1 1 false] [10.0.0.2 1 false]", ""},
		{"10.1.0.0/16 nexthop via 10.0.0.1 dev eth0 weight 2 onlink nexthop via 10.0.0.2", "unicast 10.1.0.0/16 table 254 scope -1 proto 0 [10.0.0.1 eth0 2 true] [10.0.0.2 1 false]", ""},
		{"10.1.2.3/16 dev eth0", "unicast 10.1.0.0/16 dev eth0 table 254 scope -1 proto 0", "lint f:8:1: virtual_routes: host part is not zero, expected 10.1.0.0/16"},
		{"10.1.0.0/16 dev eth0 rtt 5", "unicast 10.1.0.0/16 dev eth0 table 254 scope -1 proto 0", "error f:8:22: virtual_routes: recognised but not supported by this version: the route is set without it"},
		{"10.1.0.0/16 dev eth0 tos 5", "", "error f:8:22: virtual_routes: recognised but not supported by this version; the line is dropped"},
		{"10.1.0.0/16 dev eth0 foo", "", "error f:8:22: virtual_routes: unknown option of a route; the line is dropped"},
		{"10.1.0.0/33 dev eth0", "", "error f:8:1: virtual_routes: malformed network"},
		{"dev eth0", "", "error f:8:1: virtual_routes: destination is missing"},
		{"10.1.0.0/16 via fe80::1", "", "error f:8:1: virtual_routes: addresses of two families"},
		{"blackhole 10.1.0.0/16 via 10.0.0.1", "", "error f:8:1: virtual_routes: a route of type blackhole has no gateway"},
		{"10.1.0.0/16 dev eth0 table small", "", "error f:8:28: virtual_routes: unknown table"},
		{"10.1.0.0/16 dev eth0 metric", "", "error f:8:22: virtual_routes: value is missing"},
		{"10.1.0.0/16 dev eth0 metric x", "", "error f:8:29: virtual_routes: not a number of the range"},
		{"10.1.0.0/16 nexthop weight 257 dev eth0", "", "error f:8:28: virtual_routes: not a number of the range, expected 1 to 256"},
		{"10.1.0.0/16 nexthop foo", "", "error f:8:21: virtual_routes: unknown option of a nexthop"},
	}
	for _, tt := range tests {
		t.Run(tt.line, func(t *testing.T) {
			c, diags := load(instance("virtual_routes {\n" + tt.line + "\n}"))
			got := ""
			for _, r := range c.Instances[0].Routes {
				got = r.Type + " " + r.To.String()
				add := func(yes bool, args ...any) {
					if yes {
						got += " " + strings.TrimSuffix(fmt.Sprintln(args...), "\n")
					}
				}
				add(r.Via.IsValid(), "via", r.Via)
				add(r.Interface != "", "dev", r.Interface)
				add(r.Source.IsValid(), "src", r.Source)
				add(true, "table", r.Table, "scope", r.Scope, "proto", r.Protocol)
				add(r.Metric != 0, "metric", r.Metric)
				add(r.MTU != 0, "mtu", r.MTU, r.MTULock)
				add(r.AdvMSS != 0, "advmss", r.AdvMSS)
				add(r.OnLink, "onlink")
				add(r.NoTrack, "no_track")
				add(r.Append, "append")
				for _, h := range r.NextHops {
					add(true, strings.ReplaceAll(fmt.Sprint("[", h.Via, " ", h.Interface, " ", h.Weight, " ", h.OnLink, "]"), "  ", " "))
				}
			}
			if got != tt.want {
				t.Errorf("got  %s\nwant %s", got, tt.want)
			}
			if tt.diag == "" {
				wantDiags(t, diags)
			} else {
				wantDiags(t, diags, tt.diag)
			}
		})
	}
}

func TestRules(t *testing.T) {
	tests := []struct{ line, want, diag string }{
		{"from 10.1.0.0/16 table 100 preference 5", "v4 10.1.0.0/16 invalid Prefix  table 100 0 5", ""},
		{"not from 10.1.0.0/16 to 10.2.0.0/16 iif eth0 oif eth1 tos 0x10 fwmark 24/12 lookup main pref 6 no_track", "not v4 10.1.0.0/16 10.2.0.0/16 eth0 eth1 tos 16 mark 24/12 no_track table 254 0 6", ""},
		{"inet6 from all blackhole priority 7", "v6 ::/0 invalid Prefix  blackhole 0 0 7", ""},
		{"from 10.1.0.0/16 goto 40 preference 30", "v4 10.1.0.0/16 invalid Prefix  goto 0 40 30", ""},
		{"from 10.1.0.0/16 table 100", "v4 10.1.0.0/16 invalid Prefix  table 100 0 0", "lint f:8:1: virtual_rules: rule has no preference"},
		{"from 10.1.0.0/16 goto 20 preference 30", "", "error f:8:1: virtual_rules: goto 20 goes back"},
		{"from 10.1.0.0/16 table 1 unreachable preference 1", "", "error f:8:26: virtual_rules: rule does table already"},
		{"from 10.1.0.0/16 uidrange 1-2 table 1", "", "error f:8:18: virtual_rules: recognised but not supported by this version; the line is dropped"},
		{"from 10.1.0.0/16 foo", "", "error f:8:18: virtual_rules: unknown option of a rule"},
		{"fwmark x table 1", "", "error f:8:8: virtual_rules: malformed mark, expected MARK[/MASK]"},
	}
	for _, tt := range tests {
		t.Run(tt.line, func(t *testing.T) {
			c, diags := load(instance("virtual_rules {\n" + tt.line + "\n}"))
			got := ""
			for _, r := range c.Instances[0].Rules {
				if r.Not {
					got += "not "
				}
				got += map[bool]string{false: "v4", true: "v6"}[r.IPv6] + fmt.Sprint(" ", r.From, " ", r.To, " ", r.IIF)
				if r.OIF != "" {
					got += " " + r.OIF
				}
				if r.TOS != 0 {
					got += fmt.Sprint(" tos ", r.TOS)
				}
				if r.HasFWMark {
					got += fmt.Sprintf(" mark %d/%d", r.FWMark, r.FWMask)
				}
				if r.NoTrack {
					got += " no_track"
				}
				got += fmt.Sprint(" ", r.Action, " ", r.Table, r.Goto, r.Preference)
			}
			if got != tt.want {
				t.Errorf("got  %q\nwant %q", got, tt.want)
			}
			if tt.diag == "" {
				wantDiags(t, diags)
			} else {
				wantDiags(t, diags, tt.diag)
			}
		})
	}
}

func TestOfTheWholeFile(t *testing.T) {
	c, diags := load(`global_defs {
vrrp_delay_after_boot 30
vrrp_priority -20
vrrp_cpu_affinity 0 2
vrrp_rlimit_rttime 20000
max_auto_priority
min_auto_priority_delay 5
umask IRWXG | IRWXO|IXUSR
notify_fifo /run/a u g
notify_fifo_script "/bin/reader x" u
vrrp_notify_fifo /run/b
startup_script /bin/up
startup_script_timeout 20
shutdown_script "/bin/down now"
vrrp_notify_priority_changes
fifo_write_vrrp_states_on_reload
state_dump_file /run/state
json_version 2
data_use_instance
vrrp_owner_ignore_adverts
script_user w
}
instance blue
net_namespace red
interface_up_down_delays {
eth0 1.5 0.5
eth1 1
}
garp_group {
garp_interval 0.01
gna_interval 0.000001
interface eth0
interfaces {
eth1
eth2
}
}
` + instance("nopreempt", "timer_expired_backup", "promote_secondaries", "priority 254"))
	wantDiags(t, diags, "lint f:5:1: vrrp_rlimit_rttime: recognised and skipped", "lint f:6:1: max_auto_priority: recognised and skipped",
		"lint f:7:1: min_auto_priority_delay: recognised and skipped", "lint f:23:1: instance: recognised and skipped",
		"lint f:27:6: interface_up_down_delays: up delay is not given and 0")
	g := c.Globals
	got := fmt.Sprint(g.DelayAfterBoot, g.ProcessPriority, g.CPUAffinity, g.RealTimeLimit, g.MaxAutoPriority, g.MinAutoPriorityDelay, g.NotifyFIFO.Path,
		g.NotifyFIFO.User, g.NotifyFIFO.Script.Argv, g.NotifyFIFO.Script.User, g.VRRPNotifyFIFO.Path, g.StartupScript.Argv, g.StartupScript.User, g.StartupTimeout,
		g.ShutdownScript.Argv, g.ShutdownTimeout, g.FIFOStatesOnReload, g.StateDumpFile, g.StatsDumpFile, g.JSONVersion, g.DataUseInstance, g.InstanceName, g.NetNamespace)
	want := "30s -20 [0 2] 20ms 99 5µs /run/a{u g} [/bin/reader x] {u } /run/b [/bin/up] {w } 20s [/bin/down now] 10s true /run/state  2 true blue red"
	if strings.ReplaceAll(got, " ", "") != strings.ReplaceAll(want, " ", "") {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if g.Umask != 0o177 {
		t.Errorf("got umask %o", g.Umask)
	}
	if len(c.LinkDelays) != 2 || c.LinkDelays[0].Down != 1500*time.Millisecond || c.LinkDelays[0].Up != 500*time.Millisecond || c.LinkDelays[1].Up != 0 {
		t.Errorf("got %+v", c.LinkDelays)
	}
	if len(c.GarpGroups) != 1 || c.GarpGroups[0].Interval != 10*time.Millisecond || c.GarpGroups[0].GNAInterval != time.Microsecond ||
		!slices.Equal(c.GarpGroups[0].Interfaces, []string{"eth0", "eth1", "eth2"}) {
		t.Errorf("got %+v", c.GarpGroups)
	}
	i := c.Instances[0]
	if i.TimerExpiredBackup != 254 || !i.PromoteSecondaries || !i.NotifyPriorityChanges || i.OwnerIgnoreAdverts {
		t.Errorf("got %+v", i)
	}
}

func TestFindingsOfTheWholeFile(t *testing.T) {
	tests := []struct {
		name, text string
		want       []string
	}{
		{"a link that may be down too long", "interface_up_down_delays {\neth0 2 2\neth1 60 60\n}\n" + instance(), []string{"lint f:2:1: interface_up_down_delays: vrrp_instance VI_1 would become MASTER before its link counts as down, expected a down delay below 2"}},
		{"a link twice", "interface_up_down_delays {\neth0 1 1\neth0 1 0\n}\n", []string{"lint f:3:1: interface_up_down_delays: interface is given already (at f:2:1), expected it once; the last one counts"}},
		{"a link without a delay", "interface_up_down_delays {\neth0\n}\n", []string{"error f:2:5: interface_up_down_delays: delay is missing"}},
		{"an interface in two groups", "garp_group {\ngarp_interval 1\ninterface eth0\n}\ngarp_group {\ngarp_interval 1\ninterface eth0\n}\n", []string{
			"error f:5:1: garp_group: group has no interface", "error f:7:11: interface: interface is in another garp_group already"}},
		{"a group without an interval", "garp_group {\ninterface eth0\n}\n", []string{"error f:1:1: garp_group: group has no interval"}},
		{"two FIFOs of one name", "global_defs {\nnotify_fifo /a\nvrrp_notify_fifo /a\n}\n", []string{"error f:3:1: vrrp_notify_fifo: notify_fifo has this name already"}},
		{"timer_expired_backup without nopreempt", instance("timer_expired_backup"), []string{"error f:7:1: timer_expired_backup: has no effect without nopreempt, expected it too; ignored"}},
		{"an old name", instance("nopreempt", "thread_timer_expired 100"), []string{"lint f:8:1: thread_timer_expired: old name, expected timer_expired_backup"}},
		{"named once", instance("vrf red", "use_ipvlan", "vrf red", "smtp_alert", "smtp_alert"), []string{
			"error f:7:1: vrf: recognised but not supported by this version", "error f:8:1: use_ipvlan: recognised but not supported", "lint f:10:1: smtp_alert: recognised and skipped"}},
		{"umask too large", "global_defs {\numask 01000\n}\n", []string{"error f:2:7: umask: not a file mode"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, diags := load(tt.text)
			wantDiags(t, diags, tt.want...)
		})
	}
}
