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
	const root, globals = "", "global_defs"

	add(Lint, "it is part of a dump file's name alone (data_use_instance)", root, "instance")

	add(Lint, "a Go program has many threads, and none of them is stopped for its use of CPU time", globals,
		"vrrp_rlimit_rttime", "vrrp_rlimit_rtime")
	add(Lint, "vrrpd does not raise its own priority; set vrrp_rt_priority", globals, "max_auto_priority", "min_auto_priority_delay")

	return table
}
