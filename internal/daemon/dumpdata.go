package daemon

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"time"

	"pgvrrp/internal/conf"
	"pgvrrp/internal/control"
)

// page collects lines as keepalived's file has them.
type page struct{ bytes.Buffer }

func (p *page) line(format string, args ...any) { fmt.Fprintf(p, format+"\n", args...) }

func onOff(on bool) string { return word2(on, "enabled", "disabled") }

func trueFalse(on bool) string { return word2(on, "true", "false") }

func word2(on bool, yes, no string) string {
	if on {
		return yes
	}
	return no
}

// data is keepalived.data: of the sections those about VRRP, of their lines those that are known here.
func (v *dumpView) data() []byte {
	p := &page{}
	g := &v.config.Globals
	p.line("------< Global definitions >------")
	p.line(" Router ID = %s", v.router)
	if g.InstanceName != "" {
		p.line(" Instance name = %s", g.InstanceName)
	}
	p.line(" Dynamic interfaces = %s", trueFalse(g.DynamicInterfaces))
	p.line(" FIFO write vrrp states on reload = %s", trueFalse(g.FIFOStatesOnReload))
	p.line(" Script security %s", onOff(g.EnableScriptSecurity))
	p.line("------< VRRP Topology >------")
	for k := range v.instances {
		v.instances[k].data(p)
	}
	if len(v.groups) > 0 {
		p.line("------< VRRP Sync groups >------")
	}
	for _, s := range v.groups {
		p.line(" VRRP Sync Group = %s, %s", s.Name, s.State)
		p.line("   VRRP member instances :")
		for _, m := range s.Members {
			p.line("     %s", m)
		}
	}
	if len(v.config.Scripts) > 0 {
		p.line("------< VRRP Scripts >------")
	}
	for k := range v.config.Scripts {
		v.script(p, &v.config.Scripts[k])
	}
	return p.Bytes()
}

func (v *dumpView) script(p *page, s *conf.Script) {
	seconds := func(d time.Duration) string { return fmt.Sprintf("%g sec", d.Seconds()) }
	p.line(" VRRP Script = %s", s.Name)
	p.line("   Command = %s", quoted(s.Command.Argv))
	p.line("   Interval = %s", seconds(s.Interval))
	p.line("   Timeout = %s", seconds(s.Timeout))
	p.line("   Weight = %d%s", s.Weight, word2(s.Reverse, " reverse", ""))
	p.line("   Rise = %d", s.Rise)
	p.line("   Fall = %d", s.Fall)
	status := "BAD" // also before its first result
	for _, c := range v.scripts {
		if c.Name == s.Name && c.State == "ok" {
			status = "GOOD"
		}
	}
	p.line("   Status = %s", status)
	p.line("   Tracking instances :")
	for k := range v.instances {
		for _, t := range v.instances[k].config.TrackScripts {
			if t.Name == s.Name {
				p.line("     %s, weight %d%s", v.instances[k].config.Name, t.Weight, word2(t.Reverse, " reverse", ""))
			}
		}
	}
	p.line("   State = idle")
}

func (i *viewed) data(p *page) {
	c, s := &i.config, &i.status
	p.line(" VRRP Instance = %s", c.Name)
	p.line("   VRRP Version = %d", c.Version)
	if c.IPv6 {
		p.line("   Using Native IPv6")
	}
	if c.SyncGroup != "" {
		p.line("   Sync group = %s", c.SyncGroup)
	}
	p.line("   State = %s", s.State)
	p.line("   Wantstate = %s", s.State)
	p.line("   Last transition = %s", dumpTime(s.Since))
	p.line("   Interface = %s", c.Interface)
	p.line("   Using src_ip = %s", word2(s.Source != "", s.Source, "(none)"))
	if !c.Unicast && !c.IPv6 {
		p.line("   Multicast address %s", c.Group)
	}
	g := &c.Garp
	p.line("   Gratuitous ARP delay = %d", int(g.MasterDelay.Seconds()))
	p.line("   Gratuitous ARP repeat = %d", g.MasterRepeat)
	p.line("   Gratuitous ARP refresh = %d", int(g.MasterRefresh.Seconds()))
	p.line("   Gratuitous ARP refresh repeat = %d", g.MasterRefreshRepeat)
	p.line("   Gratuitous ARP lower priority delay = %d", int(g.LowerPrioDelay.Seconds()))
	p.line("   Gratuitous ARP lower priority repeat = %d", g.LowerPrioRepeat)
	p.line("   Down timer adverts = %d", c.DownTimerAdverts)
	p.line("   Send advert after receive lower priority advert = %s", trueFalse(!c.LowerPrioNoAdvert))
	p.line("   Send advert after receive higher priority advert = %s", trueFalse(c.HigherPrioSendAdvert))
	p.line("   Virtual Router ID = %d", c.VRID)
	p.line("   Priority = %d", c.Priority)
	p.line("   Effective priority = %d", s.Priority)
	p.line("   Total priority = %d", s.Priority)
	if c.Version == 2 {
		p.line("   Advert interval = %d sec", int(c.AdvertInterval.Seconds()))
	} else {
		p.line("   Advert interval = %d milli-sec", c.AdvertInterval.Milliseconds())
	}
	p.line("   Accept = %s", onOff(!c.NoAccept))
	p.line("   Preempt = %s", onOff(c.Preempt))
	if c.PreemptDelay > 0 {
		p.line("   Preempt delay = %g secs", c.PreemptDelay.Seconds())
	}
	p.line("   Promote_secondaries = %s", onOff(c.PromoteSecondaries))
	switch {
	case c.HasPassword:
		p.line("   Authentication type = SIMPLE_PASSWORD")
		p.line("   Password = ********")
	case c.Version == 2:
		p.line("   Authentication type = none")
	}
	vips, excluded, _ := i.addresses()
	list := func(head string, lines []string) {
		if len(lines) > 0 {
			p.line("   %s", head)
		}
		for _, l := range lines {
			p.line("     %s", l)
		}
	}
	list(fmt.Sprintf("Virtual IP (%d):", len(vips)), vips)
	list("Virtual IP Excluded :", excluded)
	var peers []string
	for _, q := range c.Peers {
		peers = append(peers, fmt.Sprintf("%s min_ttl %d max_ttl %d", q.Addr, max(q.MinTTL, 0), limitTTL(q.MaxTTL)))
	}
	if c.Unicast {
		p.line("   Unicast TTL = %d", c.UnicastTTL)
		p.line("   Check unicast src : %s", word2(c.CheckUnicastSrc, "yes", "no"))
	}
	list("Unicast Peer :", peers)
	tracked := func(head, comma string, all []conf.Tracked) {
		var lines []string
		for _, t := range all {
			lines = append(lines, fmt.Sprintf("%s%s weight %d%s", t.Name, comma, t.Weight, word2(t.Reverse, " reverse", "")))
		}
		list(head, lines)
	}
	tracked("Tracked interfaces :", "", c.TrackInterfaces)
	tracked("Tracked scripts :", "", c.TrackScripts)
	tracked("Tracked files :", ",", c.TrackFiles)
	tracked("Tracked processes :", ",", c.TrackProcesses)
	p.line("   Notify deleted = %s", word2(c.Hooks.SendDeleted, "Deleted", "Fault"))
	for _, h := range []struct {
		what    string
		command conf.Command
	}{{"Backup state", c.Hooks.Backup}, {"Master state", c.Hooks.Master}, {"Fault state", c.Hooks.Fault}, {"Stop state", c.Hooks.Stop},
		{"Deleted state", c.Hooks.Deleted}, {"Generic state", c.Hooks.Notify}, {"Master rx lower pri", c.Hooks.MasterRxLowerPri}} {
		if len(h.command.Argv) > 0 {
			p.line("   %s transition script = %s%s", h.what, quoted(h.command.Argv), accountText(h.command.User))
		}
	}
	p.line("   Notify priority changes = %s", trueFalse(c.NotifyPriorityChanges))
}

// accountText is who a program runs as; empty for a user that does not exist.
func accountText(u conf.User) string {
	uid, gid, err := owner(u)
	if err != nil {
		return ""
	}
	if uid < 0 {
		uid = os.Geteuid()
	}
	if gid < 0 {
		gid = os.Getegid()
	}
	return fmt.Sprintf(", uid:gid %d:%d", uid, gid)
}

// limitTTL is a max_ttl that is not given.
func limitTTL(ttl int) int {
	if ttl < 0 {
		return 255
	}
	return ttl
}

// seconds is a time in keepalived's JSON.
type seconds time.Time

// MarshalJSON implements json.Marshaler.
func (s seconds) MarshalJSON() ([]byte, error) {
	t := time.Time(s)
	return fmt.Appendf(nil, "%d.%06d", t.Unix(), t.Nanosecond()/1000), nil
}

// dumpData is an instance by the names and in the order of keepalived's JSON.
type dumpData struct {
	Name                 string   `json:"iname"`
	DontTrackPrimary     int      `json:"dont_track_primary"`
	SkipCheckAdvAddr     int      `json:"skip_check_adv_addr"`
	StrictMode           int      `json:"strict_mode"`
	VMAC                 string   `json:"vmac_ifname"`
	Interface            string   `json:"ifp_ifname"`
	MasterPriority       uint8    `json:"master_priority"`
	LastTransition       seconds  `json:"last_transition"`
	GarpDelay            float64  `json:"garp_delay"`
	GarpRefresh          int      `json:"garp_refresh"`
	GarpRep              int      `json:"garp_rep"`
	GarpRefreshRep       int      `json:"garp_refresh_rep"`
	GarpLowerPrioDelay   int      `json:"garp_lower_prio_delay"`
	GarpLowerPrioRep     int      `json:"garp_lower_prio_rep"`
	LowerPrioNoAdvert    int      `json:"lower_prio_no_advert"`
	HigherPrioSendAdvert int      `json:"higher_prio_send_advert"`
	VRID                 uint8    `json:"vrid"`
	BasePriority         uint8    `json:"base_priority"`
	EffectivePriority    uint8    `json:"effective_priority"`
	VIPSet               bool     `json:"vipset"`
	PromoteSecondaries   bool     `json:"promote_secondaries"`
	AdverInt             float64  `json:"adver_int"`
	MasterAdverInt       float64  `json:"master_adver_int"`
	Accept               int      `json:"accept"`
	NoPreempt            bool     `json:"nopreempt"`
	PreemptDelay         int      `json:"preempt_delay"`
	State                int      `json:"state"`
	WantState            int      `json:"wantstate"`
	Version              uint8    `json:"version"`
	SMTPAlert            bool     `json:"smtp_alert"`
	NotifyDeleted        bool     `json:"notify_deleted"`
	ScriptBackup         string   `json:"script_backup,omitempty"`
	ScriptMaster         string   `json:"script_master,omitempty"`
	ScriptFault          string   `json:"script_fault,omitempty"`
	ScriptStop           string   `json:"script_stop,omitempty"`
	ScriptDeleted        string   `json:"script_deleted,omitempty"`
	Script               string   `json:"script,omitempty"`
	ScriptRxLowerPri     string   `json:"script_master_rx_lower_pri,omitempty"`
	VIPs                 []string `json:"vips,omitempty"`
	EVIPs                []string `json:"evips,omitempty"`
	VRoutes              []string `json:"vroutes,omitempty"`
	VRules               []string `json:"vrules,omitempty"`
	TrackIfp             []string `json:"track_ifp,omitempty"`
	TrackScript          []string `json:"track_script,omitempty"`
	TrackProcess         []string `json:"track_process,omitempty"`
	AuthType             int      `json:"auth_type"`
	AuthData             string   `json:"auth_data,omitempty"`
}

// dumpProcess is a vrrp_track_process in json_version 2.
type dumpProcess struct {
	Process        string  `json:"process"`
	Parameters     string  `json:"parameters,omitempty"`
	ParamMatch     string  `json:"param_match"`
	MinProcesses   int     `json:"min_processes"`
	MaxProcesses   *int    `json:"max_processes,omitempty"`
	HaveQuorum     bool    `json:"have_quorum"`
	Weight         int     `json:"weight"`
	TerminateDelay float64 `json:"terminate_delay"`
	ForkDelay      float64 `json:"fork_delay"`
	FullCommand    bool    `json:"full_command"`
}

// json is keepalived.json: version 1 is the list of instances, version 2 an object with it.
func (v *dumpView) json(cleared map[string]dumpStats) ([]byte, error) {
	type entry struct {
		Data  dumpData  `json:"data"`
		Stats dumpStats `json:"stats"`
	}
	all := []entry{}
	for k := range v.instances {
		i := &v.instances[k]
		all = append(all, entry{v.jsonData(i), statsOf(&i.status).since(cleared[i.config.Name])})
	}
	var out any = all
	if v.config.Globals.JSONVersion == 2 {
		var processes []dumpProcess
		for k := range v.config.TrackProcesses {
			processes = append(processes, v.jsonProcess(&v.config.TrackProcesses[k]))
		}
		out = struct {
			VRRP         []entry       `json:"vrrp"`
			TrackProcess []dumpProcess `json:"track_process,omitempty"`
		}{all, processes}
	}
	return json.Marshal(out)
}

func (v *dumpView) jsonData(i *viewed) dumpData {
	c, s := &i.config, &i.status
	number := func(on bool) int {
		if on {
			return 1
		}
		return 0
	}
	d := dumpData{
		Name: c.Name, DontTrackPrimary: number(c.DontTrackPrimary), SkipCheckAdvAddr: number(c.SkipCheckAdvAddr), StrictMode: number(c.StrictMode),
		Interface: c.Interface, LastTransition: seconds(s.Since), GarpDelay: c.Garp.MasterDelay.Seconds(), GarpRefresh: int(c.Garp.MasterRefresh.Seconds()),
		GarpRep: c.Garp.MasterRepeat, GarpRefreshRep: c.Garp.MasterRefreshRepeat, GarpLowerPrioDelay: int(c.Garp.LowerPrioDelay.Seconds()),
		GarpLowerPrioRep: c.Garp.LowerPrioRepeat, LowerPrioNoAdvert: number(c.LowerPrioNoAdvert), HigherPrioSendAdvert: number(c.HigherPrioSendAdvert),
		VRID: c.VRID, BasePriority: c.Priority, EffectivePriority: s.Priority, PromoteSecondaries: c.PromoteSecondaries,
		AdverInt: c.AdvertInterval.Seconds(), MasterAdverInt: c.AdvertInterval.Seconds(), Accept: number(!c.NoAccept), NoPreempt: !c.Preempt,
		PreemptDelay: int(c.PreemptDelay.Seconds()), State: dumpStates[s.State], WantState: dumpStates[s.State], Version: c.Version,
		NotifyDeleted: c.Hooks.SendDeleted, ScriptBackup: quoted(c.Hooks.Backup.Argv), ScriptMaster: quoted(c.Hooks.Master.Argv),
		ScriptFault: quoted(c.Hooks.Fault.Argv), ScriptStop: quoted(c.Hooks.Stop.Argv), ScriptDeleted: quoted(c.Hooks.Deleted.Argv),
		Script: quoted(c.Hooks.Notify.Argv), ScriptRxLowerPri: quoted(c.Hooks.MasterRxLowerPri.Argv),
	}
	if c.VMAC.Use {
		d.VMAC = c.VMAC.Name
	}
	d.VIPs, d.EVIPs, d.VIPSet = i.addresses()
	for _, p := range s.Peers {
		if s.State == control.StateBackup && p.Address == s.Master {
			d.MasterPriority, d.MasterAdverInt = p.Priority, p.Interval
		}
	}
	for _, r := range c.Routes {
		d.VRoutes = append(d.VRoutes, r.String())
	}
	for _, r := range c.Rules {
		d.VRules = append(d.VRules, r.String())
	}
	for _, t := range c.TrackInterfaces {
		d.TrackIfp = append(d.TrackIfp, t.Name)
	}
	for _, t := range c.TrackScripts {
		for k := range v.config.Scripts {
			if x := &v.config.Scripts[k]; x.Name == t.Name {
				d.TrackScript = append(d.TrackScript, quoted(x.Command.Argv))
			}
		}
	}
	for _, t := range c.TrackProcesses {
		for k := range v.config.TrackProcesses {
			if x := &v.config.TrackProcesses[k]; x.Name == t.Name && len(x.Process) > 0 {
				d.TrackProcess = append(d.TrackProcess, x.Process[0])
			}
		}
	}
	if c.HasPassword {
		d.AuthType, d.AuthData = 1, "********" // as keepalived since 2.3: the file is no place for it
	}
	return d
}

// jsonProcess leaves out how many processes there are at the moment: what counts is whether they are enough.
func (v *dumpView) jsonProcess(t *conf.TrackProcess) dumpProcess {
	d := dumpProcess{ParamMatch: t.Match, MinProcesses: t.Quorum, Weight: t.Weight, TerminateDelay: t.TerminateDelay.Seconds(), ForkDelay: t.ForkDelay.Seconds(),
		FullCommand: t.FullCommand}
	if d.ParamMatch == conf.MatchName {
		d.ParamMatch = "none"
	}
	if t.Reverse {
		d.Weight = -d.Weight
	}
	if t.QuorumMax >= 0 {
		d.MaxProcesses = &t.QuorumMax
	}
	if len(t.Process) > 0 {
		d.Process, d.Parameters = t.Process[0], strings.Join(t.Process[1:], " ")
	}
	for k := range v.instances {
		for _, x := range v.instances[k].status.Trackers {
			d.HaveQuorum = d.HaveQuorum || x.Kind == "process" && x.Name == t.Name && x.State == "ok"
		}
	}
	return d
}
