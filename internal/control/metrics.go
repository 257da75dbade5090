package control

import (
	"bytes"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// MetricsType is the Content-Type of Status.Metrics.
const MetricsType = "text/plain; version=0.0.4; charset=utf-8"

// exposition is Prometheus's text format, version 0.0.4: a family's samples stand together behind its HELP and TYPE.
type exposition struct{ b bytes.Buffer }

// The types of a family.
const (
	gauge   = "gauge"
	counter = "counter"
)

var (
	escapeHelp  = strings.NewReplacer(`\`, `\\`, "\n", `\n`)
	escapeLabel = strings.NewReplacer(`\`, `\\`, "\n", `\n`, `"`, `\"`)
)

// family writes one, if it has a sample. Labels are pairs of name and value.
func (x *exposition) family(name, kind, help string, samples func(add func(value float64, labels ...string))) {
	begun := false
	samples(func(value float64, labels ...string) {
		if !begun {
			begun = true
			x.b.WriteString("# HELP " + name + " " + escapeHelp.Replace(help) + "\n# TYPE " + name + " " + kind + "\n")
		}
		x.b.WriteString(name)
		for k := 0; k+1 < len(labels); k += 2 {
			if k == 0 {
				x.b.WriteByte('{')
			} else {
				x.b.WriteByte(',')
			}
			// A name of the file is bytes, the format is UTF-8.
			x.b.WriteString(labels[k] + `="` + escapeLabel.Replace(strings.ToValidUTF8(labels[k+1], "\uFFFD")) + `"`)
		}
		if len(labels) > 0 {
			x.b.WriteByte('}')
		}
		x.b.WriteString(" " + strconv.FormatFloat(value, 'g', -1, 64) + "\n")
	})
}

func flag(on bool) float64 {
	if on {
		return 1
	}
	return 0
}

func stamp(t time.Time) float64 {
	if t.IsZero() {
		return 0
	}
	return float64(t.UnixNano()) / float64(time.Second)
}

// Metrics is the status for Prometheus: nothing that Status does not say.
func (s *Status) Metrics() []byte {
	x := &exposition{}
	one := func(name, kind, help string, value float64, labels ...string) {
		x.family(name, kind, help, func(add func(float64, ...string)) { add(value, labels...) })
	}
	one("vrrpd_info", gauge, "Always 1; the version and the node's name are labels.", 1, "node", s.Node, "version", s.Version)
	one("vrrpd_start_time_seconds", gauge, "When vrrpd started, in seconds since 1970.", stamp(s.Started))
	one("vrrpd_reloads_total", counter, "Reloads that were put in force.", float64(s.Reloads.Done))
	one("vrrpd_reloads_refused_total", counter, "Reloads that were refused.", float64(s.Reloads.Refused))
	one("vrrpd_config_refused", gauge, "1 if the file differs from what runs because the last reload was refused.", flag(s.ConfigError != ""))
	one("vrrpd_config_loaded_timestamp_seconds", gauge, "When the configuration that runs was put in force.", stamp(s.Reloads.Last))
	s.instanceMetrics(x)
	s.hookMetrics(x)
	s.trackMetrics(x)
	for _, c := range []struct {
		name, help string
		value      uint64
	}{
		{"vrrpd_garp_sent_total", "Gratuitous ARP packets sent.", s.Announced.ARP},
		{"vrrpd_unsolicited_na_sent_total", "Unsolicited neighbour advertisements sent.", s.Announced.NA},
		{"vrrpd_announcements_failed_total", "Announcements of addresses that could not be sent.", s.Announced.Failed},
	} {
		one(c.name, counter, c.help, float64(c.value))
	}
	x.family("vrrpd_link_up", gauge, "1 if an interface that instances use is up.", func(add func(float64, ...string)) {
		for _, l := range s.Links {
			add(flag(l.Up), "interface", l.Name)
		}
	})
	x.family("vrrpd_link_packets_rejected_total", counter, "VRRP packets of an interface that belong to no instance.", func(add func(float64, ...string)) {
		for _, l := range s.Links {
			for _, reason := range slices.Sorted(maps.Keys(l.Rejected)) {
				add(float64(l.Rejected[reason]), "interface", l.Name, "reason", reason)
			}
		}
	})
	if s.Quorum != nil {
		s.Quorum.metrics(x)
	}
	return x.b.Bytes()
}

func (s *Status) instanceMetrics(x *exposition) {
	states := []string{StateInit, StateBackup, StateMaster, StateFault}
	x.family("vrrpd_instance_state", gauge, "1 for the state that an instance is in.", func(add func(float64, ...string)) {
		for _, i := range s.Instances {
			for _, state := range states {
				add(flag(i.State == state), "instance", i.Name, "state", state)
			}
		}
	})
	x.family("vrrpd_sync_group_state", gauge, "1 for the state that a sync group is in.", func(add func(float64, ...string)) {
		for _, g := range s.Groups {
			for _, state := range states {
				add(flag(g.State == state), "sync_group", g.Name, "state", state)
			}
		}
	})
	for _, f := range []struct {
		name, kind, help string
		of               func(*Instance) float64
	}{
		{"vrrpd_instance_state_since_timestamp_seconds", gauge, "Since when an instance is in its state.", func(i *Instance) float64 { return stamp(i.Since) }},
		{"vrrpd_instance_priority", gauge, "Effective priority.", func(i *Instance) float64 { return float64(i.Priority) }},
		{"vrrpd_instance_configured_priority", gauge, "Priority of the file.", func(i *Instance) float64 { return float64(i.ConfiguredPriority) }},
		{"vrrpd_instance_addresses", gauge, "Virtual addresses of an instance.", func(i *Instance) float64 { return float64(len(i.Addresses)) }},
		{"vrrpd_instance_addresses_held", gauge, "Those of them that this node holds.", func(i *Instance) (n float64) {
			for _, a := range i.Addresses {
				n += flag(a.Held)
			}
			return n
		}},
		{"vrrpd_instance_waiting", gauge, "1 while an INIT, or a MASTER without addresses, waits for something.", func(i *Instance) float64 { return flag(i.Waiting != "") }},
		{"vrrpd_transitions_total", counter, "Changes of state.", func(i *Instance) float64 { return float64(i.Seq) }},
		{"vrrpd_became_master_total", counter, "Changes to MASTER.", func(i *Instance) float64 { return float64(i.Counters.BecameMaster) }},
		{"vrrpd_left_master_total", counter, "Changes from MASTER.", func(i *Instance) float64 { return float64(i.Counters.LeftMaster) }},
		{"vrrpd_adverts_sent_total", counter, "Adverts sent.", func(i *Instance) float64 { return float64(i.Counters.AdvertsSent) }},
		{"vrrpd_adverts_received_total", counter, "Adverts taken.", func(i *Instance) float64 { return float64(i.Counters.AdvertsReceived) }},
		{"vrrpd_priority_zero_sent_total", counter, "Adverts sent with priority 0: the master goes.", func(i *Instance) float64 { return float64(i.Counters.PriorityZeroSent) }},
		{"vrrpd_priority_zero_received_total", counter, "Adverts taken with priority 0.", func(i *Instance) float64 { return float64(i.Counters.PriorityZeroReceived) }},
		{"vrrpd_address_list_mismatches_total", counter, "Adverts taken with another list of addresses.", func(i *Instance) float64 { return float64(i.Counters.AddressMismatches) }},
		{"vrrpd_advert_send_errors_total", counter, "Adverts that could not be sent.", func(i *Instance) float64 { return float64(i.Counters.SendErrors) }},
		{"vrrpd_advert_overruns_total", counter, "Adverts dropped because the instance was busy.", func(i *Instance) float64 { return float64(i.Counters.Overruns) }},
		{"vrrpd_addresses_put_back_total", counter, "Addresses that another program had removed.", func(i *Instance) float64 { return float64(i.Counters.AddressesPutBack) }},
		{"vrrpd_routes_put_back_total", counter, "Routes and rules that another program had removed.", func(i *Instance) float64 { return float64(i.Counters.RoutesPutBack) }},
	} {
		x.family(f.name, f.kind, f.help, func(add func(float64, ...string)) {
			for k := range s.Instances {
				add(f.of(&s.Instances[k]), "instance", s.Instances[k].Name)
			}
		})
	}
	x.family("vrrpd_packets_rejected_total", counter, "Packets for an instance that were not taken, by reason.", func(add func(float64, ...string)) {
		for _, i := range s.Instances {
			for _, reason := range slices.Sorted(maps.Keys(i.Counters.Rejected)) {
				add(float64(i.Counters.Rejected[reason]), "instance", i.Name, "reason", reason)
			}
		}
	})
	x.family("vrrpd_trouble", gauge, "1 while something is wrong on the wire; vrrpd status says what to do. never_heard may be as it should.", func(add func(float64, ...string)) {
		for _, i := range s.Instances {
			for _, t := range i.Troubles {
				add(flag(t.Now), "instance", i.Name, "kind", t.Kind)
			}
		}
	})
	x.family("vrrpd_trouble_packets_total", counter, "Packets that showed that something is wrong on the wire.", func(add func(float64, ...string)) {
		for _, i := range s.Instances {
			for _, t := range i.Troubles {
				if !t.Notice {
					add(float64(t.Count), "instance", i.Name, "kind", t.Kind)
				}
			}
		}
	})
	x.family("vrrpd_peer_priority", gauge, "Priority of another router in its last advert.", func(add func(float64, ...string)) {
		for _, i := range s.Instances {
			for _, p := range i.Peers {
				if !p.Heard.IsZero() {
					add(float64(p.Priority), "instance", i.Name, "peer", p.Address)
				}
			}
		}
	})
	x.family("vrrpd_peer_heard_timestamp_seconds", gauge, "When another router was last heard; 0: never.", func(add func(float64, ...string)) {
		for _, i := range s.Instances {
			for _, p := range i.Peers {
				add(stamp(p.Heard), "instance", i.Name, "peer", p.Address)
			}
		}
	})
}

// hookMetrics tell of the notify programs of instances and sync groups.
func (s *Status) hookMetrics(x *exposition) {
	type owner struct {
		kind, name string
		count      HookCounters
		last       *Hook
	}
	var owners []owner
	for _, i := range s.Instances {
		owners = append(owners, owner{"instance", i.Name, i.Hooks, i.LastHook})
	}
	for _, g := range s.Groups {
		owners = append(owners, owner{"sync_group", g.Name, g.Hooks, g.LastHook})
	}
	x.family("vrrpd_hook_events_total", counter, "States for which notify programs were to run, by what became of them.", func(add func(float64, ...string)) {
		for _, o := range owners {
			for _, r := range []struct {
				result string
				count  uint64
			}{{"succeeded", o.count.Succeeded}, {"failed", o.count.Failed}, {"superseded", o.count.Superseded}} {
				add(float64(r.count), "of", o.kind, "name", o.name, "result", r.result)
			}
		}
	})
	x.family("vrrpd_hook_seconds_total", counter, "Time that notify programs took.", func(add func(float64, ...string)) {
		for _, o := range owners {
			add(o.count.Seconds, "of", o.kind, "name", o.name)
		}
	})
	for _, f := range []struct {
		name, help string
		of         func(*Hook) float64
	}{
		{"vrrpd_hook_last_exit_code", "Exit code of the last notify program that failed for the last state, else 0; -1: not started, or killed.", func(h *Hook) float64 { return float64(h.Code) }},
		{"vrrpd_hook_last_duration_seconds", "Time that the notify programs of the last state took.", func(h *Hook) float64 { return h.Duration }},
		{"vrrpd_hook_last_timestamp_seconds", "When the last state was that they were run for.", func(h *Hook) float64 { return stamp(h.At) }},
	} {
		x.family(f.name, gauge, f.help, func(add func(float64, ...string)) {
			for _, o := range owners {
				if o.last != nil {
					add(f.of(o.last), "of", o.kind, "name", o.name)
				}
			}
		})
	}
}

func (s *Status) trackMetrics(x *exposition) {
	x.family("vrrpd_tracker_ok", gauge, "1 if what an instance tracks is well.", func(add func(float64, ...string)) {
		for _, i := range s.Instances {
			seen := map[[2]string]bool{}
			for _, t := range i.Trackers { // of its sync group and of itself
				if key := [2]string{t.Kind, t.Name}; !seen[key] {
					seen[key] = true
					add(flag(t.State == "ok"), "instance", i.Name, "kind", t.Kind, "name", t.Name)
				}
			}
		}
	})
	for _, f := range []struct {
		name, kind, help string
		of               func(*Script) float64
	}{
		{"vrrpd_script_ok", gauge, "1 if a vrrp_script counts as well.", func(c *Script) float64 { return flag(c.State == "ok") }},
		{"vrrpd_script_runs_total", counter, "Runs of a vrrp_script that have ended.", func(c *Script) float64 { return float64(c.Runs) }},
		{"vrrpd_script_failures_total", counter, "Those of them that were no success.", func(c *Script) float64 { return float64(c.Failures) }},
		{"vrrpd_script_last_exit_code", gauge, "Exit code of the last run; -1: it had none.", func(c *Script) float64 { return float64(c.Code) }},
		{"vrrpd_script_last_duration_seconds", gauge, "Time that the last run took.", func(c *Script) float64 { return c.Duration }},
		{"vrrpd_script_max_duration_seconds", gauge, "Time that the longest run took.", func(c *Script) float64 { return c.Longest }},
	} {
		x.family(f.name, f.kind, f.help, func(add func(float64, ...string)) {
			for k := range s.Scripts {
				add(f.of(&s.Scripts[k]), "script", s.Scripts[k].Name)
			}
		})
	}
}

func (q *Quorum) metrics(x *exposition) {
	for _, f := range []struct {
		name, help string
		value      float64
	}{
		{"vrrpd_quorum_witness", "1 if this node only votes.", flag(q.Witness)},
		{"vrrpd_quorum_leader_known", "1 if this node knows a leader of the log.", flag(q.Leader != "")},
		{"vrrpd_quorum_votes", "Votes in the membership.", float64(q.Votes)},
		{"vrrpd_quorum_votes_needed", "Votes that are a majority.", float64(q.Needed)},
		{"vrrpd_quorum_lease_seconds", "Length of a lease.", q.Lease},
		{"vrrpd_quorum_trouble", "How many things vrrpd quorum status names that an operator should know.", float64(len(q.Trouble))},
	} {
		x.family(f.name, gauge, f.help, func(add func(float64, ...string)) { add(f.value) })
	}
	for _, f := range []struct {
		name, kind, help string
		of               func(*Resource) float64
	}{
		{"vrrpd_resource_epoch", gauge, "Epoch: it grows with each grant.", func(r *Resource) float64 { return float64(r.Epoch) }},
		{"vrrpd_resource_mine", gauge, "1 if the resource is granted to this node.", func(r *Resource) float64 { return flag(r.Mine) }},
		{"vrrpd_resource_live", gauge, "1 if its lease runs here.", func(r *Resource) float64 { return flag(r.Live) }},
		{"vrrpd_resource_lease_left_seconds", gauge, "What is left of the lease here; 0: it does not run here.", func(r *Resource) float64 { return r.Left }},
		{"vrrpd_resource_lease_renewals_total", counter, "How often a majority has put the end of the lease off.", func(r *Resource) float64 { return float64(r.Renewals) }},
		{"vrrpd_resource_eligible", gauge, "1 if this node may be granted it.", func(r *Resource) float64 { return flag(r.Eligible) }},
		{"vrrpd_resource_paused", gauge, "1 if elections are paused.", func(r *Resource) float64 { return flag(r.Paused) }},
		{"vrrpd_resource_blocked", gauge, "1 if something stands between the resource and an active holder.", func(r *Resource) float64 { return flag(r.Missing != "") }},
		{"vrrpd_resource_agent_connected", gauge, "1 if the agent of a postgresql resource is connected here.", func(r *Resource) float64 { return flag(r.Agent != nil) }},
	} {
		x.family(f.name, f.kind, f.help, func(add func(float64, ...string)) {
			for k := range q.Resources {
				add(f.of(&q.Resources[k]), "resource", q.Resources[k].Name)
			}
		})
	}
	x.family("vrrpd_resource_phase", gauge, "1 for the phase that a resource is in.", func(add func(float64, ...string)) {
		for _, r := range q.Resources {
			for _, phase := range []string{"released", "electing", "granted", "active"} {
				add(flag(r.Phase == phase), "resource", r.Name, "phase", phase)
			}
		}
	})
	x.family("vrrpd_resource_holder", gauge, "1 for the node that a resource is granted to.", func(add func(float64, ...string)) {
		for _, r := range q.Resources {
			if r.Holder != "" {
				add(1, "resource", r.Name, "node", r.Holder)
			}
		}
	})
	for _, f := range []struct {
		name, help string
		of         func(*Voter) float64
	}{
		{"vrrpd_voter_member", "1 if a voter counts.", func(v *Voter) float64 { return flag(v.Member) }},
		{"vrrpd_voter_heard", "1 if a voter is heard over some link.", func(v *Voter) float64 { return flag(v.Heard) }},
	} {
		x.family(f.name, gauge, f.help, func(add func(float64, ...string)) {
			for k := range q.Voters {
				add(f.of(&q.Voters[k]), "voter", q.Voters[k].ID)
			}
		})
	}
	for _, f := range []struct {
		name, help string
		of         func(*VoterLink) float64
	}{
		{"vrrpd_voter_link_up", "1 if a link to a voter works.", func(l *VoterLink) float64 { return flag(l.Up) }},
		{"vrrpd_voter_link_rtt_seconds", "Round-trip time of a link to a voter.", func(l *VoterLink) float64 { return l.RTT }},
	} {
		x.family(f.name, gauge, f.help, func(add func(float64, ...string)) {
			for _, v := range q.Voters {
				for k := range v.Links {
					add(f.of(&v.Links[k]), "voter", v.ID, "local", v.Links[k].Local, "remote", v.Links[k].Remote)
				}
			}
		})
	}
}

func (s *Server) metrics(w http.ResponseWriter, r *http.Request) { ServeMetrics(w, r, s.daemon) }

// ServeMetrics answers one question of Prometheus.
func ServeMetrics(w http.ResponseWriter, r *http.Request, d Daemon) {
	status := d.Status(r.Context())
	w.Header().Set("Content-Type", MetricsType)
	// A scraper that hung up has no use for an error.
	_, _ = w.Write(status.Metrics())
}
