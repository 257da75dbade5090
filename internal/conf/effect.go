package conf

// effect says what happens in the place of a keyword that is read and checked and that the daemon doesn't act on.
type effect struct {
	severity Severity // Error; Fatal if nothing may run without it; Lint if it is as good as it is, said once
	what     string
}

// text is the finding's message.
func (e effect) text() string {
	switch e.severity {
	case Fatal:
		return e.what
	case Lint:
		return "recognised and skipped: " + e.what
	default:
		return "recognised but not supported by this version: " + e.what
	}
}

// unwired are the keywords that are read and checked, are part of the Config, and that the daemon doesn't act on, by
// block/keyword. Whoever makes the daemon act on one deletes its line.
func unwired() map[string]effect {
	table := map[string]effect{}
	add := func(severity Severity, what, block string, names ...string) {
		for _, name := range names {
			table[block+"/"+name] = effect{severity, what}
		}
	}
	const root, globals, instance, group = "", "global_defs", "vrrp_instance", "vrrp_sync_group"

	add(Error, "what tracks it counts as failed, because it cannot be checked", root, "vrrp_track_process")
	add(Lint, "vrrpd has no pid file, and writes no other file that would bear the name", root, "instance")
	add(Error, "vrrpd stays in the network namespace that it is started in", root, "net_namespace")

	add(Error, "only states are written to a FIFO, when they change", globals,
		"vrrp_notify_priority_changes", "fifo_write_vrrp_states_on_reload")
	add(Lint, "a Go program has many threads, and none of them is stopped for its use of CPU time", globals,
		"vrrp_rlimit_rttime", "vrrp_rlimit_rtime")
	add(Lint, "vrrpd does not raise its own priority; set vrrp_rt_priority", globals, "max_auto_priority", "min_auto_priority_delay")
	add(Lint, "vrrpd writes no such file; ask it with vrrpd status", globals,
		"state_dump_file", "stats_dump_file", "json_dump_file", "state_dump_file_location", "stats_dump_file_location",
		"json_dump_file_location", "json_version", "data_use_instance")
	add(Lint, "vrrpd creates no file that others than its user may read", globals, "umask")

	add(Error, "what it tracks counts as failed, because it cannot be checked", instance, "track_process")
	add(Error, "no such route or rule is set", instance, "virtual_routes", "virtual_rules")
	add(Error, "the addresses stand on the interface itself, with its own MAC address", instance, "use_vmac", "use_vmac_addr", "vmac_xmit_base")
	add(Error, "packets to the addresses are accepted", instance, "no_accept")
	add(Error, "only states are written to a FIFO, when they change", instance, "notify_priority_changes")
	add(Error, "the interface's setting stays as it is", instance, "promote_secondaries")

	add(Error, "what it tracks counts as failed, because it cannot be checked", group, "track_process")
	add(Error, "only states are written to a FIFO, when they change", group, "notify_priority_changes")
	return table
}
