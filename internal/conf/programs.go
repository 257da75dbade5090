package conf

import "slices"

// Program is a command of the configuration and the keyword that gives it.
type Program struct {
	Keyword string
	*Command
}

// Programs are all commands of the configuration that are given: those of global_defs, scripts, then the hooks of groups
// and instances, then reboot_command, which a host without instances never runs. They may be changed through the pointers.
func (c *Config) Programs() []Program {
	g := &c.Globals
	all := given(Program{"startup_script", &g.StartupScript}, Program{"shutdown_script", &g.ShutdownScript},
		Program{"notify_fifo_script", &g.NotifyFIFO.Script}, Program{"vrrp_notify_fifo_script", &g.VRRPNotifyFIFO.Script})
	for k := range c.Scripts {
		all = append(all, given(Program{"script", &c.Scripts[k].Command})...)
	}
	for k := range c.SyncGroups {
		all = append(all, c.SyncGroups[k].Hooks.programs()...)
	}
	for k := range c.Instances {
		all = append(all, c.Instances[k].Hooks.programs()...)
	}
	if c.Quorum != nil && len(c.Instances) > 0 {
		all = append(all, given(Program{"reboot_command", &c.Quorum.RebootCommand})...)
	}
	return all
}

// DefaultUser gives each program, and each FIFO, the user u if no line names one.
func (c *Config) DefaultUser(u User) {
	for _, p := range c.Programs() {
		if p.User == (User{}) {
			p.User = u
		}
	}
	for _, f := range []*FIFO{&c.Globals.NotifyFIFO, &c.Globals.VRRPNotifyFIFO} {
		if f.Path != "" && f.User == (User{}) {
			f.User = u
		}
	}
}

func (h *Hooks) programs() []Program {
	return given(Program{"notify", &h.Notify}, Program{"notify_master", &h.Master}, Program{"notify_backup", &h.Backup},
		Program{"notify_fault", &h.Fault}, Program{"notify_stop", &h.Stop}, Program{"notify_deleted", &h.Deleted},
		Program{"notify_master_rx_lower_pri", &h.MasterRxLowerPri})
}

func given(all ...Program) []Program {
	return slices.DeleteFunc(all, func(p Program) bool { return len(p.Argv) == 0 })
}
