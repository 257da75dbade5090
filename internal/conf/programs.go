package conf

// Program is a command of the configuration and the keyword that gives it.
type Program struct {
	Keyword string
	*Command
}

// Programs are all commands of the configuration that are given: scripts, then the hooks of groups and instances. They may be
// changed through the pointers.
func (c *Config) Programs() []Program {
	var all []Program
	add := func(keyword string, command *Command) {
		if len(command.Argv) > 0 {
			all = append(all, Program{keyword, command})
		}
	}
	for k := range c.Scripts {
		add("script", &c.Scripts[k].Command)
	}
	hooks := func(h *Hooks) {
		add("notify", &h.Notify)
		add("notify_master", &h.Master)
		add("notify_backup", &h.Backup)
		add("notify_fault", &h.Fault)
		add("notify_stop", &h.Stop)
		add("notify_deleted", &h.Deleted)
		add("notify_master_rx_lower_pri", &h.MasterRxLowerPri)
	}
	for k := range c.SyncGroups {
		hooks(&c.SyncGroups[k].Hooks)
	}
	for k := range c.Instances {
		hooks(&c.Instances[k].Hooks)
	}
	return all
}
