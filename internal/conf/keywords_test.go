package conf

import (
	"maps"
	"slices"
	"strings"
	"testing"
)

// badValues has, for each implemented keyword of each block, a line that is wrong and what must be said about it. A flag
// cannot have a bad value: its surplus word is it.
var badValues = map[string]map[string]struct{ line, want string }{
	"global_defs": {
		"router_id":                        {"router_id", "error f:2:10: router_id: name is missing, expected a string"},
		"vrrp_version":                     {"vrrp_version 4", `error f:2:14: vrrp_version: out of range, expected a whole number from 2 to 3; ignored (got "4")`},
		"vrrp_mcast_group4":                {"vrrp_mcast_group4 ff02::12", `error f:2:19: vrrp_mcast_group4: wrong address family, expected an IPv4 multicast address; ignored (got "ff02::12")`},
		"vrrp_mcast_group6":                {"vrrp_mcast_group6 fe80::12", `error f:2:19: vrrp_mcast_group6: not a multicast address, expected an IPv6 multicast address; ignored (got "fe80::12")`},
		"default_interface":                {"default_interface averyveryverylong", "error f:2:19: default_interface: invalid interface name, expected 1 to 15 characters; ignored"},
		"dynamic_interfaces":               {"dynamic_interfaces yes", `error f:2:20: dynamic_interfaces: unknown option, expected allow_if_changes or nothing; ignored (got "yes")`},
		"vrrp_garp_interval":               {"vrrp_garp_interval 0", `error f:2:20: vrrp_garp_interval: out of range, expected 0.000001 to 4294.967295 seconds; ignored (got "0")`},
		"vrrp_gna_interval":                {"vrrp_gna_interval 5000", "error f:2:19: vrrp_gna_interval: out of range"},
		"vrrp_min_garp":                    {"vrrp_min_garp 1", `error f:2:15: vrrp_min_garp: not a boolean, expected true, on, yes, false, off or no; ignored (got "1")`},
		"vrrp_down_timer_adverts":          {"vrrp_down_timer_adverts 101", "error f:2:25: vrrp_down_timer_adverts: out of range, expected a whole number from 1 to 100; ignored"},
		"vrrp_lower_prio_no_advert":        {"vrrp_lower_prio_no_advert True", "error f:2:27: vrrp_lower_prio_no_advert: not a boolean"},
		"vrrp_higher_prio_send_advert":     {"vrrp_higher_prio_send_advert x", "error f:2:30: vrrp_higher_prio_send_advert: not a boolean"},
		"vrrp_skip_check_adv_addr":         {"vrrp_skip_check_adv_addr x", "error f:2:26: vrrp_skip_check_adv_addr: not a boolean"},
		"v3_checksum_as_v2":                {"v3_checksum_as_v2 x", "error f:2:19: v3_checksum_as_v2: not a boolean"},
		"vrrp_check_unicast_src":           {"vrrp_check_unicast_src no", "lint f:2:24: vrrp_check_unicast_src: surplus word is ignored, expected the end of the line"},
		"vrrp_startup_delay":               {"vrrp_startup_delay 0.0001", "error f:2:20: vrrp_startup_delay: out of range, expected 0.001 to 4294.967295 seconds"},
		"script_user":                      {"script_user", "error f:2:12: script_user: user is missing, expected USER [GROUP]"},
		"enable_script_security":           {"enable_script_security no", "lint f:2:24: enable_script_security: surplus word"},
		"vrrp_rt_priority":                 {"vrrp_rt_priority 100", "error f:2:18: vrrp_rt_priority: out of range, expected a whole number from 1 to 99; using 99"},
		"vrrp_no_swap":                     {"vrrp_no_swap no", "lint f:2:14: vrrp_no_swap: surplus word"},
		"log_unknown_vrids":                {"log_unknown_vrids no", "lint f:2:19: log_unknown_vrids: surplus word"},
		"reload_check_config":              {"reload_check_config log more", "lint f:2:25: reload_check_config: surplus word"},
		"include_check":                    {"include_check some", "error f:2:15: include_check: unknown check, expected read, match, wildcard_match or brace_match"},
		"vrrp_garp_master_delay":           {"vrrp_garp_master_delay 4295", "error f:2:24: vrrp_garp_master_delay: out of range, expected a whole number from 0 to 4294; ignored"},
		"vrrp_garp_master_repeat":          {"vrrp_garp_master_repeat 0", "error f:2:25: vrrp_garp_master_repeat: out of range, expected a whole number from 1; using 1"},
		"vrrp_garp_master_refresh":         {"vrrp_garp_master_refresh -1", "error f:2:26: vrrp_garp_master_refresh: out of range"},
		"vrrp_garp_master_refresh_repeat":  {"vrrp_garp_master_refresh_repeat x", "error f:2:33: vrrp_garp_master_refresh_repeat: not a number"},
		"vrrp_garp_lower_prio_delay":       {"vrrp_garp_lower_prio_delay 0x5", "error f:2:28: vrrp_garp_lower_prio_delay: not a number"},
		"vrrp_garp_lower_prio_repeat":      {"vrrp_garp_lower_prio_repeat 5x", "error f:2:29: vrrp_garp_lower_prio_repeat: text after the number"},
		"vrrp_delay_after_boot":            {"vrrp_delay_after_boot 0", "error f:2:23: vrrp_delay_after_boot: out of range, expected 0.001 to 4294.967295 seconds; ignored"},
		"vrrp_strict":                      {"vrrp_strict no", "lint f:2:13: vrrp_strict: surplus word"},
		"vrrp_owner_ignore_adverts":        {"vrrp_owner_ignore_adverts no", "lint f:2:27: vrrp_owner_ignore_adverts: surplus word"},
		"vmac_prefix":                      {"vmac_prefix averyveryverylong", "error f:2:13: vmac_prefix: invalid interface name, expected 1 to 15 characters; ignored"},
		"vmac_addr_prefix":                 {"vmac_addr_prefix a/b", "error f:2:18: vmac_addr_prefix: invalid interface name, expected no blank, / or :; ignored"},
		"vrrp_rlimit_rttime":               {"vrrp_rlimit_rttime 0", "error f:2:20: vrrp_rlimit_rttime: out of range, expected a whole number from 1 to 4294967295; ignored"},
		"vrrp_rlimit_rtime":                {"vrrp_rlimit_rtime x", "error f:2:19: vrrp_rlimit_rtime: not a number"},
		"vrrp_priority":                    {"vrrp_priority 20", "error f:2:15: vrrp_priority: out of range, expected a whole number from -20 to 19; ignored"},
		"vrrp_cpu_affinity":                {"vrrp_cpu_affinity 0 x", "error f:2:21: vrrp_cpu_affinity: not a number, expected a whole number from 0 to 8191; the whole line is ignored"},
		"max_auto_priority":                {"max_auto_priority 100", "error f:2:19: max_auto_priority: out of range, expected a whole number from -1 to 99; using 99"},
		"min_auto_priority_delay":          {"min_auto_priority_delay 0", "error f:2:25: min_auto_priority_delay: out of range, expected a whole number from 1 to 10000000; ignored"},
		"umask":                            {"umask IRUSR|IRWXA", "error f:2:7: umask: unknown bit of a file mode"},
		"notify_fifo":                      {"notify_fifo /run/a\nnotify_fifo /run/b", "error f:3:13: notify_fifo: FIFO is given already (at f:2:1), expected it once; this one is ignored"},
		"vrrp_notify_fifo":                 {"vrrp_notify_fifo a", "lint f:2:18: vrrp_notify_fifo: not an absolute path"},
		"notify_fifo_script":               {"notify_fifo_script /bin/a", "lint f:2:1: notify_fifo_script: has no effect without notify_fifo"},
		"vrrp_notify_fifo_script":          {`vrrp_notify_fifo_script "/bin/a 'b"`, "error f:2:25: vrrp_notify_fifo_script: unterminated quote in the command, expected a second '; nothing reads the FIFO"},
		"vrrp_notify_priority_changes":     {"vrrp_notify_priority_changes 1", "error f:2:30: vrrp_notify_priority_changes: not a boolean"},
		"fifo_write_vrrp_states_on_reload": {"fifo_write_vrrp_states_on_reload no no", "lint f:2:34: fifo_write_vrrp_states_on_reload: surplus word"},
		"startup_script":                   {"startup_script /bin/a\nstartup_script /bin/b", "error f:3:16: startup_script: script is given already (at f:2:1), expected it once; this one is ignored"},
		"shutdown_script":                  {`shutdown_script ""`, "error f:2:17: shutdown_script: empty command, expected a program and its arguments; it is not run"},
		"startup_script_timeout":           {"startup_script_timeout 1001", "error f:2:24: startup_script_timeout: out of range, expected a whole number from 1 to 1000; ignored"},
		"shutdown_script_timeout":          {"shutdown_script_timeout 0", "error f:2:25: shutdown_script_timeout: out of range"},
		"state_dump_file":                  {`state_dump_file ""`, "error f:2:17: state_dump_file: empty file name"},
		"state_dump_file_location":         {"state_dump_file_location a b", "lint f:2:28: state_dump_file_location: surplus word"},
		"stats_dump_file":                  {`stats_dump_file ""`, "error f:2:17: stats_dump_file: empty file name"},
		"stats_dump_file_location":         {`stats_dump_file_location ""`, "error f:2:26: stats_dump_file_location: empty file name"},
		"json_dump_file":                   {`json_dump_file ""`, "error f:2:16: json_dump_file: empty file name"},
		"json_dump_file_location":          {`json_dump_file_location ""`, "error f:2:25: json_dump_file_location: empty file name"},
		"json_version":                     {"json_version 3", "error f:2:14: json_version: out of range, expected a whole number from 1 to 2; ignored"},
		"data_use_instance":                {"data_use_instance on on", "lint f:2:19: data_use_instance: surplus word"},
	},
	"vrrp_script": {
		"script":    {`script "/bin/a 'b"`, "error f:2:8: script: unterminated quote in the command, expected a second '"},
		"interval":  {"interval 0", "error f:2:10: interval: out of range, expected 0.001 to 4294 seconds; using 1"},
		"timeout":   {"timeout 5000", "error f:2:9: timeout: out of range, expected 0.001 to 4294 seconds; ignored"},
		"weight":    {"weight 254", "error f:2:8: weight: out of range, expected a whole number from -253 to 253; ignored"},
		"rise":      {"rise 0", "error f:2:6: rise: out of range, expected a whole number from 1 to 2147483647; using 1"},
		"fall":      {"fall x", "error f:2:6: fall: not a number, expected a whole number from 1 to 2147483647; using 1"},
		"user":      {`user ""`, "error f:2:6: user: empty user, expected USER [GROUP]; ignored"},
		"init_fail": {"init_fail no", "lint f:2:11: init_fail: surplus word"},
	},
	"vrrp_instance": {
		"state":                      {"state master", `error f:7:7: state: unknown state, expected MASTER or BACKUP in capitals; using BACKUP (got "master")`},
		"interface":                  {"interface lo", "error f:7:11: interface: loopback interface cannot carry VRRP, expected another; ignored"},
		"virtual_router_id":          {"virtual_router_id 256", "error f:7:19: virtual_router_id: out of range, expected a whole number from 1 to 255; ignored"},
		"priority":                   {"priority 0", `error f:7:10: priority: out of range, expected a whole number from 1 to 255; using 100 (got "0")`},
		"advert_int":                 {"advert_int 0.001", "error f:7:12: advert_int: out of range, expected 0.01 to 255 seconds; ignored"},
		"version":                    {"version 1", "error f:7:9: version: out of range, expected a whole number from 2 to 3; ignored"},
		"virtual_ipaddress":          {"virtual_ipaddress {\n10.0.0.256\n}", "error f:8:1: virtual_ipaddress: malformed address, expected ADDRESS[/PREFIX]; the address is dropped"},
		"virtual_ipaddress_excluded": {"virtual_ipaddress_excluded {\nx\n}", "error f:8:1: virtual_ipaddress_excluded: malformed address"},
		"no_virtual_ipaddress":       {"no_virtual_ipaddress", "lint f:7:1: no_virtual_ipaddress: instance has addresses"},
		"nopreempt":                  {"nopreempt true", "lint f:7:11: nopreempt: surplus word"},
		"preempt":                    {"preempt true", "lint f:7:9: preempt: surplus word"},
		"preempt_delay":              {"preempt_delay 1001", "error f:7:15: preempt_delay: out of range, expected 0 to 1000 seconds; ignored"},
		"mcast_src_ip":               {"mcast_src_ip fe80::1", "error f:7:14: mcast_src_ip: another address family"},
		"unicast_src_ip":             {"unicast_src_ip eth0\nunicast_peer {\n10.0.0.9\n}", "error f:7:16: unicast_src_ip: malformed address, expected an IPv4 or IPv6 address; ignored"},
		"track_src_ip":               {"track_src_ip yes", "lint f:7:14: track_src_ip: surplus word"},
		"mcast_dst_ip":               {"mcast_dst_ip 10.0.0.9", "error f:7:14: mcast_dst_ip: not a multicast address"},
		"unicast_peer":               {"unicast_peer {\n10.0.0.9 min_ttl 256\n}", "error f:8:18: unicast_peer: out of range, expected a whole number from 0 to 255; ignored"},
		"unicast_ttl":                {"unicast_ttl 256\nunicast_peer {\n10.0.0.9\n}", "error f:7:13: unicast_ttl: out of range, expected a whole number from 0 to 255; ignored"},
		"unicast_fault_no_peer":      {"unicast_fault_no_peer\n", "lint f:7:1: unicast_fault_no_peer: there is no usable peer: the instance stays in FAULT"},
		"check_unicast_src":          {"check_unicast_src no", "lint f:7:19: check_unicast_src: surplus word"},
		"v3_checksum_as_v2":          {"v3_checksum_as_v2 2", "error f:7:19: v3_checksum_as_v2: not a boolean"},
		"native_ipv6":                {"native_ipv6", "error f:7:1: native_ipv6: instance has IPv4 addresses already, expected IPv6 addresses; ignored"},
		"accept":                     {"accept no", "lint f:7:8: accept: surplus word"},
		"skip_check_adv_addr":        {"skip_check_adv_addr x", "error f:7:21: skip_check_adv_addr: not a boolean"},
		"down_timer_adverts":         {"down_timer_adverts 0", "error f:7:20: down_timer_adverts: out of range, expected a whole number from 1 to 100; ignored"},
		"lower_prio_no_advert":       {"lower_prio_no_advert x", "error f:7:22: lower_prio_no_advert: not a boolean"},
		"higher_prio_send_advert":    {"higher_prio_send_advert x", "error f:7:25: higher_prio_send_advert: not a boolean"},
		"track_interface":            {"track_interface {\neth1 weight 300\n}", "error f:8:13: track_interface: out of range, expected a whole number from -253 to 253; ignored, so that failure means FAULT"},
		"track_script":               {"track_script {\nnope\n}", "error f:8:1: track_script: no usable vrrp_script of this name, expected one in the file; the instance stays in FAULT"},
		"dont_track_primary":         {"dont_track_primary x", "lint f:7:20: dont_track_primary: surplus word"},
		"authentication":             {"authentication {\nauth_typ PASS\n}", "error f:8:1: unknown keyword in authentication, did you mean auth_type? ignored"},
		"notify":                     {`notify ""`, "error f:7:8: notify: empty command, expected a program and its arguments; the hook is not run"},
		"notify_master":              {"notify_master '/bin/a", "error f:7:15: notify_master: unterminated quote, expected COMMAND [USER [GROUP]]; the hook is not run"},
		"notify_backup":              {"notify_backup /bin/a b", "lint f:7:22: notify_backup: word after an unquoted command is taken as the user"},
		"notify_fault":               {`notify_fault "/bin/a 'b"`, "error f:7:14: notify_fault: unterminated quote in the command"},
		"notify_stop":                {`notify_stop "/bin/a" b c d`, "lint f:7:26: notify_stop: surplus word is ignored, expected COMMAND [USER [GROUP]]"},
		"notify_deleted":             {`notify_deleted ""`, "error f:7:16: notify_deleted: empty command"},
		"notify_master_rx_lower_pri": {`notify_master_rx_lower_pri ""`, "error f:7:28: notify_master_rx_lower_pri: empty command"},
		"garp_master_delay":          {"garp_master_delay 1.5", "error f:7:19: garp_master_delay: text after the number, expected a whole number from 0 to 4294; using 1"},
		"garp_master_repeat":         {"garp_master_repeat 0", "error f:7:20: garp_master_repeat: out of range, expected a whole number from 1; using 1"},
		"garp_master_refresh":        {"garp_master_refresh -1", "error f:7:21: garp_master_refresh: out of range"},
		"garp_master_refresh_repeat": {"garp_master_refresh_repeat 0", "error f:7:28: garp_master_refresh_repeat: out of range"},
		"garp_lower_prio_delay":      {"garp_lower_prio_delay x", "error f:7:23: garp_lower_prio_delay: not a number"},
		"garp_lower_prio_repeat":     {"garp_lower_prio_repeat -1", "error f:7:24: garp_lower_prio_repeat: out of range, expected a whole number from 0"},
		"no_accept":                  {"no_accept yes", "lint f:7:11: no_accept: surplus word"},
		"strict_mode":                {"strict_mode 1", "error f:7:13: strict_mode: not a boolean"},
		"owner_ignore_adverts":       {"owner_ignore_adverts", "error f:7:1: owner_ignore_adverts: has no effect without priority 255; ignored"},
		"timer_expired_backup":       {"timer_expired_backup 255", "error f:7:22: timer_expired_backup: out of range, expected a whole number from 1 to 254; ignored"},
		"thread_timer_expired":       {"thread_timer_expired 0", "error f:7:22: thread_timer_expired: out of range"},
		"virtual_routes":             {"virtual_routes {\n10.1.0.0/16\n}", "error f:8:1: virtual_routes: route goes nowhere, expected via, dev or nexthop; the line is dropped"},
		"virtual_rules":              {"virtual_rules {\nfrom 10.1.0.0/16\n}", "error f:8:1: virtual_rules: rule does nothing, expected table, goto, blackhole, unreachable, prohibit or nop; the line is dropped"},
		"promote_secondaries":        {"promote_secondaries on on", "lint f:7:21: promote_secondaries: surplus word"},
		"notify_priority_changes":    {"notify_priority_changes x", "error f:7:25: notify_priority_changes: not a boolean"},
		"auth_hmac":                  {"auth_hmac {\n}", "fatal f:7:1: auth_hmac: there is no usable key"},
		"use_vmac":                   {"use_vmac 01:02:03:04:05:06", "error f:7:10: use_vmac: a multicast MAC address"},
		"use_vmac_addr":              {"use_vmac_addr a", "lint f:7:15: use_vmac_addr: surplus word"},
		"vmac_xmit_base":             {"vmac_xmit_base", "lint f:7:1: vmac_xmit_base: has no effect without use_vmac"},
		"track_file":                 {"track_file {\nnope weight 255\n}", "error f:8:13: track_file: out of range, expected a whole number from -254 to 254; ignored, so that failure means FAULT"},
		"track_process":              {"track_process {\nnope\n}", "error f:8:1: track_process: no usable vrrp_track_process of this name, expected one in the file; the instance stays in FAULT"},
		"vip_after_notify":           {"notify_master \"/bin/a\"\nvip_after_notify 0.05", "fatal f:8:18: vip_after_notify: out of range, expected 0.1 to 3600 seconds"},
		"notify_retry":               {"notify_retry 0.5", "fatal f:7:14: notify_retry: out of range, expected 1 to 3600 seconds"},
		"vip_lifetime":               {"vip_lifetime 3601", "fatal f:7:14: vip_lifetime: out of range, expected a whole number from 0 to 3600"},
		"quorum":                     {"quorum a/b", "fatal f:7:8: quorum: invalid name, expected at most 63 letters, digits, . _ or -, the first a letter or digit"},
	},
	"authentication": {
		"auth_type": {"auth_type pass", "error f:8:11: auth_type: unknown authentication, expected PASS"},
		"auth_pass": {"auth_type PASS\nauth_pass 123456789", "lint f:9:11: auth_pass: password is longer than 8 bytes, expected at most 8; only the first 8 count"},
	},
	"auth_hmac": {
		"key":         {"key 1 hex:0", "error f:8:7: key: not hexadecimal, expected an even number of the digits 0 to 9 and a to f after hex:; the key is ignored"},
		"active_key":  {"active_key 256", "error f:8:12: active_key: out of range, expected a whole number from 1 to 255; ignored"},
		"mode":        {"mode off", "error f:8:6: mode: unknown mode, expected enforce, permissive or receive-only; ignored"},
		"anti_replay": {"anti_replay no", "error f:8:13: anti_replay: unknown value, expected time or monotonic; ignored"},
		"time_window": {"time_window 301", "error f:8:13: time_window: out of range, expected a whole number from 1 to 300; ignored"},
	},
	"track_file": {
		"file":      {"file /a\nfile /b", "error f:3:6: file: file is given already, expected one file line; ignored"},
		"weight":    {"weight 255", "error f:2:8: weight: out of range, expected a whole number from -254 to 254; ignored"},
		"init_file": {"init_file 255", "error f:2:11: init_file: out of range, expected a whole number from -254 to 254; using it all the same"},
		"missing":   {"missing ok", "fatal f:2:9: missing: unknown value, expected fail or zero"},
	},
	"vrrp_track_process": {
		"process":         {"process a\nprocess b", "error f:3:9: process: process is given already, expected one process line; ignored"},
		"param_match":     {"param_match exact", "error f:2:13: param_match: unknown way to match, expected initial, partial or nothing; ignored"},
		"weight":          {"weight 5 rev", "error f:2:10: weight: unknown option, expected reverse or nothing; ignored"},
		"quorum":          {"quorum_max 2\nquorum 3", "error f:3:8: quorum: more than quorum_max (2), expected at most that; ignored"},
		"quorum_max":      {"quorum 3\nquorum_max 2", "error f:3:12: quorum_max: less than quorum (3), expected at least that; ignored"},
		"delay":           {"delay 0", "error f:2:7: delay: out of range, expected 0.000001 to 3600 seconds; ignored"},
		"fork_delay":      {"fork_delay 3601", "error f:2:12: fork_delay: out of range"},
		"terminate_delay": {"terminate_delay x", "error f:2:17: terminate_delay: not a number"},
		"full_command":    {"full_command no", "lint f:2:14: full_command: surplus word"},
	},
	"garp_group": {
		"garp_interval": {"garp_interval 0", "error f:2:15: garp_interval: out of range, expected 0.000001 to 4294.967295 seconds; ignored"},
		"gna_interval":  {"gna_interval x", "error f:2:14: gna_interval: not a number"},
		"interface":     {"interface a/b", "error f:2:11: interface: invalid interface name"},
		"interfaces":    {"interfaces {\neth0 eth0\n}", "lint f:3:6: interfaces: interface is given twice"},
	},
	"vrrp_sync_group": {
		"track_interface":            {"track_interface {\neth1 weight\n}", "error f:3:6: track_interface: weight has no value"},
		"track_script":               {"track_script {\nnope\n}", "error f:3:1: track_script: no usable vrrp_script of this name, expected one in the file; the group stays in FAULT"},
		"track_file":                 {"track_file {\nnope\n}", "error f:3:1: track_file: no usable track_file of this name"},
		"track_process":              {"track_process {\nnope\n}", "error f:3:1: track_process: no usable vrrp_track_process of this name"},
		"sync_group_tracking_weight": {"sync_group_tracking_weight no no", "lint f:2:28: sync_group_tracking_weight: surplus word"},
		"global_tracking":            {"global_tracking", "lint f:2:1: global_tracking: it does nothing any more"},
		"notify_priority_changes":    {"notify_priority_changes x", "error f:2:25: notify_priority_changes: not a boolean"},
		"group":                      {"group {\nVI_9\n}", "error f:3:1: group: no vrrp_instance of this name, expected one in the file; ignored"},
		"notify":                     {`notify ""`, "error f:2:8: notify: empty command"},
		"notify_master":              {`notify_master "/bin/a" b c d`, "lint f:2:28: notify_master: surplus word"},
		"notify_backup":              {`notify_backup "/bin/a \"`, "error f:2:15: notify_backup: backslash at the end of the command"},
		"notify_fault":               {`notify_fault ""`, "error f:2:14: notify_fault: empty command"},
		"notify_stop":                {`notify_stop ""`, "error f:2:13: notify_stop: empty command"},
	},
	"": {
		"global_defs":              {"global_defs x {\n}", "lint f:1:13: global_defs: surplus word"},
		"vrrp_script":              {"vrrp_script {\n}", "fatal f:1:12: vrrp_script: value is missing, expected 1 after the keyword"},
		"vrrp_instance":            {"vrrp_instance {\nx\n}", "error f:1:14: vrrp_instance: name is missing, expected vrrp_instance NAME; the block is skipped"},
		"vrrp_sync_group":          {"vrrp_sync_group {\nx\n}", "error f:1:16: vrrp_sync_group: name is missing"},
		"track_file":               {"track_file a {\n}", "error f:1:12: track_file: no file in this track_file, expected the keyword file; what tracks it counts as failed"},
		"vrrp_track_file":          {"vrrp_track_file a {\n}", "lint f:1:1: vrrp_track_file: old name, expected track_file"},
		"vrrp_track_process":       {"vrrp_track_process a {\n}", "error f:1:20: vrrp_track_process: no process in this vrrp_track_process, expected the keyword process"},
		"garp_group":               {"garp_group {\n}", "error f:1:1: garp_group: group has no interface, expected interface or interfaces; it is ignored"},
		"interface_up_down_delays": {"interface_up_down_delays {\neth0 256\n}", "error f:2:6: interface_up_down_delays: out of range, expected 0 to 255 seconds; ignored"},
		"net_namespace":            {"net_namespace a/b", "error f:1:15: net_namespace: not a name, expected one of /run/netns; ignored"},
		"instance":                 {"instance a b", "lint f:1:12: instance: surplus word"},
		"quorum":                   {"quorum pg {\n}", "fatal f:1:8: quorum: surplus word, expected the end of the line"},
	},
	"quorum": {
		"node":             {"node n9", `fatal f:5:1: node: no voter or witness line of this name, expected one of n1, n2, w1 (got "n9")`},
		"key_file":         {"key_file quorum.key", `fatal f:5:10: key_file: not an absolute path, expected one that starts with / (got "quorum.key")`},
		"state_dir":        {"state_dir ./vrrpd", "fatal f:5:11: state_dir: not an absolute path"},
		"port":             {"port 65535", "fatal f:5:6: port: out of range, expected a whole number from 1 to 65534"},
		"voter":            {"voter n3 10.77.0.256", `fatal f:5:10: voter: malformed address, expected an IPv4 or IPv6 unicast address (got "10.77.0.256")`},
		"witness":          {"witness w2 10.77.0.22 votes 3", `fatal f:5:29: witness: out of range, expected a whole number from 1 to 2 (got "3")`},
		"resource":         {"resource db mysql", `fatal f:5:13: resource: unknown kind of resource, expected postgresql or plain (got "mysql")`},
		"agent_user":       {"agent_user postgres:postgres", "fatal f:5:12: agent_user: not a user's name, expected one without blank, : or /"},
		"lease":            {"lease 0.05", "fatal f:5:7: lease: out of range, expected 0.1 to 10 seconds"},
		"no_quorum_policy": {"no_quorum_policy halt", "fatal f:5:18: no_quorum_policy: unknown value, expected freeze, stop, ignore or suicide"},
		"reboot_command":   {`reboot_command "/sbin/reboot 'now"`, "fatal f:5:16: reboot_command: unterminated quote in the command, expected a second '; nothing is run"},
		"guard":            {"guard iptables", "fatal f:5:7: guard: unknown value, expected nftables, lifetime or none"},
		"fencing":          {"fencing automatic", `fatal f:5:9: fencing: fencing is not part of this version, expected off (got "automatic")`},
		"watchdog":         {"watchdog /dev/watchdog timeout 2", "fatal f:5:33: watchdog: a watchdog is not part of this version, expected mode off"},
	},
}

// implementedKeywords gives the names of a table that do something.
func implementedKeywords[T any](lists [][]keyword[T]) []string {
	var names []string
	for _, list := range lists {
		for _, k := range list {
			if k.kind == implemented {
				names = append(names, k.name)
			}
		}
	}
	slices.Sort(names)
	return names
}

func inBlock(block, line string) string {
	switch block {
	case "":
		return line + "\n"
	case "vrrp_instance":
		return instance(line)
	case "quorum":
		return quorum(line)
	case "authentication", "auth_hmac":
		return instance(block + " {\n" + line + "\n}")
	case "global_defs", "garp_group":
		return block + " {\n" + line + "\n}\n"
	}
	return block + " X {\n" + line + "\n}\n"
}

func TestEveryKeywordHasABadValue(t *testing.T) {
	for block, names := range map[string][]string{
		"":                   implementedKeywords(rootKeywords()),
		"global_defs":        implementedKeywords(globalKeywords()),
		"track_file":         implementedKeywords(fileKeywords()),
		"vrrp_track_process": implementedKeywords(processKeywords()),
		"garp_group":         implementedKeywords(garpGroupKeywords()),
		"auth_hmac":          implementedKeywords(hmacKeywords()),
		"vrrp_script":        implementedKeywords(scriptKeywords()),
		"vrrp_instance":      implementedKeywords(instanceKeywords()),
		"authentication":     implementedKeywords(authKeywords()),
		"vrrp_sync_group":    implementedKeywords(groupKeywords()),
		"quorum":             implementedKeywords(quorumKeywords()),
	} {
		if want := slices.Sorted(maps.Keys(badValues[block])); !slices.Equal(names, want) {
			t.Errorf("keywords of %q: got %q, the table of bad values has %q", block, names, want)
		}
	}
	for block, keywords := range badValues {
		for name, tt := range keywords {
			t.Run(block+"/"+name, func(t *testing.T) {
				_, diags := load(inBlock(block, tt.line))
				if !slices.ContainsFunc(lines(diags), func(s string) bool { return strings.Contains(s, tt.want) }) {
					t.Errorf("got\n  %s\nwant\n  %s", strings.Join(lines(diags), "\n  "), tt.want)
				}
			})
		}
	}
}

// A keyword that needs a word and has none stops everything, as keepalived gives up at once.
func TestEveryMissingWord(t *testing.T) {
	check := func(t *testing.T, block, name string) {
		t.Helper()
		_, diags := load(inBlock(block, name))
		if !slices.ContainsFunc(diags, func(d Diagnostic) bool {
			return d.Severity == Fatal && d.Keyword == name && strings.HasPrefix(d.Message, "value is missing")
		}) {
			t.Errorf("%s in %q: got %q, want a fatal finding", name, block, lines(diags))
		}
	}
	missing(t, check, "global_defs", globalKeywords())
	missing(t, check, "vrrp_script", scriptKeywords())
	missing(t, check, "vrrp_instance", instanceKeywords())
	missing(t, check, "authentication", authKeywords())
	missing(t, check, "auth_hmac", hmacKeywords())
	missing(t, check, "track_file", fileKeywords())
	missing(t, check, "vrrp_track_process", processKeywords())
	missing(t, check, "garp_group", garpGroupKeywords())
	missing(t, check, "vrrp_sync_group", groupKeywords())
	missing(t, check, "quorum", quorumKeywords())
}

func missing[T any](t *testing.T, check func(*testing.T, string, string), block string, lists [][]keyword[T]) {
	for _, list := range lists {
		for _, k := range list {
			if k.need > 0 {
				check(t, block, k.name)
			}
		}
	}
}

// Nothing that keepalived knows is called unknown, and nothing is dropped in silence.
func TestEveryOtherKeywordIsRecognised(t *testing.T) {
	other(t, "", rootKeywords())
	other(t, "global_defs", globalKeywords())
	other(t, "vrrp_instance", instanceKeywords())
	other(t, "vrrp_sync_group", groupKeywords())
	other(t, "quorum", quorumKeywords())

	for _, name := range []string{"smtp_server", "snmp_socket", "enable_snmp_vrrp", "nftables_priority", "lvs_flush", "checker_priority",
		"bfd_rt_priority", "vrrp_netlink_cmd_rcv_bufs", "process_monitor_rcv_bufs", "vrrp_rx_bufs_policy", "iproute_etc_dir"} {
		_, diags := load("global_defs {\n" + name + " x\n" + name + " y\n}\n")
		wantDiags(t, diags, "lint f:2:1: "+name+": recognised and skipped: ")
	}
}

func other[T any](t *testing.T, block string, lists [][]keyword[T]) {
	for _, list := range lists {
		for _, k := range list {
			if k.kind == implemented {
				continue
			}
			line := k.name + " x"
			if k.set != nil { // a block of values
				line = k.name + " {\n}"
			} else if k.tree {
				line = k.name + " {\nx {\ny\n}\n}"
			}
			text := line + "\n"
			switch block {
			case "vrrp_instance":
				text = instance(line)
			case "quorum":
				text = quorum(line)
			case "global_defs":
				text = block + " {\n" + line + "\n}\n"
			case "vrrp_sync_group":
				text = instance() + "vrrp_sync_group G {\n" + line + "\n}\n"
			}
			_, diags := load(text)
			want := map[keywordKind]Severity{unsupported: Error, skipped: Lint, refused: Fatal}[k.kind]
			found := 0
			for _, d := range diags {
				if d.Keyword == k.name && d.Severity == want && k.what != "" && strings.HasSuffix(d.Message, k.what) {
					found++
				} else if d.Keyword != "vrrp_sync_group" {
					t.Errorf("%s in %q: got also %s", k.name, block, d)
				}
			}
			if found != 1 {
				t.Errorf("%s in %q: got %q, want one %s", k.name, block, lines(diags), want)
			}
		}
	}
}

// idleKeywords are those without effect, and why.
func idleKeywords[T any](lists [][]keyword[T]) map[string]string {
	all := map[string]string{}
	for _, list := range lists {
		for _, k := range list {
			if k.idle != "" {
				all[k.name] = k.idle
			}
		}
	}
	return all
}

// What is read and has no effect says so once, and why.
func TestIdleKeywords(t *testing.T) {
	check := func(block string, idle map[string]string, read []string) {
		if len(idle) == 0 {
			t.Errorf("no keyword of %q is without effect", block)
		}
		for name, why := range idle {
			if !slices.Contains(read, name) {
				t.Errorf("%s says why it has no effect, and is not read", name)
			}
			line := badValues[block][name].line
			_, diags := load(inBlock(block, line+"\n"+line))
			n := 0
			for _, d := range diags {
				if d.Keyword == name && d.Severity == Lint && d.Message == "recognised and skipped: "+why {
					n++
				}
			}
			if n != 1 {
				t.Errorf("%s: got %q, want one notice that it has no effect", name, lines(diags))
			}
		}
	}
	check("", idleKeywords(rootKeywords()), implementedKeywords(rootKeywords()))
	check("global_defs", idleKeywords(globalKeywords()), implementedKeywords(globalKeywords()))
}
