package conf

import (
	"reflect"
	"slices"
)

// Changes gives the keywords of an instance that stand in another way in next, in the order of the documentation; what is the
// same by other words or elsewhere in the file is no change.
func (a *Instance) Changes(next *Instance) []string {
	return changes(instanceWords, reflect.ValueOf(*a), reflect.ValueOf(*next))
}

// Changes gives the keywords of global_defs, and those of the root that are kept with them, that stand in another way in next.
func (g *Globals) Changes(next *Globals) []string {
	return changes(globalWords, reflect.ValueOf(*g), reflect.ValueOf(*next))
}

// changes compares field by field; a struct whose fields have words of their own is looked into.
func changes(words map[string]string, a, b reflect.Value) (all []string) {
	for i := range a.NumField() {
		field := a.Type().Field(i)
		if alike(a.Field(i), b.Field(i)) {
			continue
		}
		found := []string{words[field.Name]}
		if found[0] == "" {
			found = changes(words, a.Field(i), b.Field(i))
		}
		for _, word := range found {
			if !slices.Contains(all, word) {
				all = append(all, word)
			}
		}
	}
	return all
}

// instanceWords are the keywords behind the fields of Instance, Garp and Hooks, whose names are all different.
var instanceWords = map[string]string{
	"Name": "vrrp_instance", "StartMaster": "state", "NoAddresses": "no_virtual_ipaddress", "Interface": "interface",
	"VRID": "virtual_router_id", "Version": "version", "IPv6": "native_ipv6", "Priority": "priority", "AdvertInterval": "advert_int",
	"DownTimerAdverts": "down_timer_adverts", "Preempt": "nopreempt", "PreemptDelay": "preempt_delay",
	"HigherPrioSendAdvert": "higher_prio_send_advert", "LowerPrioNoAdvert": "lower_prio_no_advert",
	"Source": "mcast_src_ip", "TrackSource": "track_src_ip", "Group": "mcast_dst_ip", "Unicast": "unicast_peer", "Peers": "unicast_peer",
	"UnicastTTL": "unicast_ttl", "CheckUnicastSrc": "check_unicast_src", "FaultNoPeer": "unicast_fault_no_peer",
	"ChecksumPlain": "v3_checksum_as_v2", "SkipCheckAdvAddr": "skip_check_adv_addr", "DontTrackPrimary": "dont_track_primary",
	"Password": "authentication", "HasPassword": "authentication", "HMAC": "auth_hmac", "VMAC": "use_vmac",
	"StrictMode": "strict_mode", "NoAccept": "no_accept", "OwnerIgnoreAdverts": "owner_ignore_adverts",
	"TimerExpiredBackup": "timer_expired_backup", "NotifyPriorityChanges": "notify_priority_changes",
	"PromoteSecondaries": "promote_secondaries", "Addresses": "virtual_ipaddress", "Excluded": "virtual_ipaddress_excluded",
	"Routes": "virtual_routes", "Rules": "virtual_rules",
	"MasterDelay": "garp_master_delay", "MasterRepeat": "garp_master_repeat", "MasterRefresh": "garp_master_refresh",
	"MasterRefreshRepeat": "garp_master_refresh_repeat", "LowerPrioDelay": "garp_lower_prio_delay",
	"LowerPrioRepeat": "garp_lower_prio_repeat", "Interval": "vrrp_garp_interval", "GNAInterval": "vrrp_gna_interval",
	"Notify": "notify", "Master": "notify_master", "Backup": "notify_backup", "Fault": "notify_fault", "Stop": "notify_stop",
	"Deleted": "notify_deleted", "MasterRxLowerPri": "notify_master_rx_lower_pri", "SendDeleted": "notify_deleted",
	"SyncGroup": "vrrp_sync_group", "TrackInterfaces": "track_interface", "TrackScripts": "track_script", "TrackFiles": "track_file",
	"TrackProcesses": "track_process",
	"VIPAfterNotify": "vip_after_notify", "NotifyRetry": "notify_retry", "VIPLifetime": "vip_lifetime", "Quorum": "quorum",
}

// globalWords are the keywords behind the fields of Globals.
var globalWords = map[string]string{
	"RouterID": "router_id", "DefaultInterface": "default_interface", "DynamicInterfaces": "dynamic_interfaces",
	"AllowInterfaceChange": "dynamic_interfaces", "ScriptUser": "script_user", "EnableScriptSecurity": "enable_script_security",
	"StartupDelay": "vrrp_startup_delay", "DelayAfterBoot": "vrrp_delay_after_boot", "LogUnknownVRIDs": "log_unknown_vrids",
	"ReloadCheckConfig": "reload_check_config", "NetNamespace": "net_namespace", "InstanceName": "instance",
	"RealTimePriority": "vrrp_rt_priority", "RealTimeLimit": "vrrp_rlimit_rttime", "MaxAutoPriority": "max_auto_priority",
	"MinAutoPriorityDelay": "min_auto_priority_delay", "ProcessPriority": "vrrp_priority", "NoSwap": "vrrp_no_swap",
	"CPUAffinity": "vrrp_cpu_affinity", "StartupScript": "startup_script", "ShutdownScript": "shutdown_script",
	"StartupTimeout": "startup_script_timeout", "ShutdownTimeout": "shutdown_script_timeout",
	"NotifyFIFO": "notify_fifo", "VRRPNotifyFIFO": "vrrp_notify_fifo", "FIFOStatesOnReload": "fifo_write_vrrp_states_on_reload",
	"Umask": "umask", "StateDumpFile": "state_dump_file", "StatsDumpFile": "stats_dump_file", "JSONDumpFile": "json_dump_file",
	"JSONVersion": "json_version", "DataUseInstance": "data_use_instance", "VMACPrefix": "vmac_prefix", "VMACAddrPrefix": "vmac_addr_prefix",
}
