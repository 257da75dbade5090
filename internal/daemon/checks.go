package daemon

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"

	"pgvrrp/internal/child"
	"pgvrrp/internal/conf"
	"pgvrrp/internal/control"
	"pgvrrp/internal/instance"
	"pgvrrp/internal/system"
	"pgvrrp/internal/track"
)

// checks runs the vrrp_scripts and sums up, for each instance, what everything it tracks means.
type checks struct {
	scripts   *track.Scripts
	files     *track.Files
	processes *track.Processes
	changed   func()
}

func newChecks(log *slog.Logger, changed func()) *checks {
	return &checks{
		scripts: track.NewScripts(nil, log, child.Run), files: track.NewFiles(log, changed),
		processes: track.NewProcesses(log, processHost(), changed), changed: changed,
	}
}

// run runs the scripts until ctx ends, which is no error.
func (c *checks) run(ctx context.Context) error {
	defer c.scripts.Subscribe(func(track.Status) { c.changed() })()
	var reading sync.WaitGroup
	reading.Go(func() { c.files.Run(ctx) })
	reading.Go(func() { c.processes.Run(ctx) })
	defer reading.Wait()
	if err := c.scripts.Run(ctx); ctx.Err() == nil {
		return err
	}
	return nil
}

func (c *checks) configure(config *conf.Config) {
	c.scripts.SetSecurity(config.Globals.EnableScriptSecurity)
	c.scripts.Replace(config.Scripts)
	c.files.Replace(config.TrackFiles)
	c.processes.Replace(config.TrackProcesses)
}

// verdict sums up what i tracks.
func (c *checks) verdict(i *conf.Instance, m *system.Monitor, delays *links) instance.Verdict {
	links := func(name string) (track.State, string) {
		link, ok := m.Link(name)
		up := delays.up(name, link.Up, ok)
		switch {
		case !ok:
			return track.Failed, "does not exist"
		case !up && link.Up:
			return track.Failed, "is up again for too short a time (interface_up_down_delays)"
		case !up:
			return track.Failed, link.Reason()
		}
		return track.OK, ""
	}
	sources := []track.Source{
		{Kind: "script", Tracked: i.TrackScripts, State: c.scripts.State},
		{Kind: "interface", Tracked: i.TrackInterfaces, State: links},
		{Kind: "file", Tracked: i.TrackFiles, Value: c.files.Value},
		{Kind: "process", Tracked: i.TrackProcesses, State: c.processes.State},
	}
	v := track.Evaluate(i.Priority, sources...)
	out := instance.Verdict{Priority: v.Priority, Fault: v.Fault}
	if v.Pending != "" {
		out.Pending = "the first result of " + v.Pending
	}
	for _, s := range sources {
		for _, t := range s.Tracked {
			state, reason := track.Unable, "not defined"
			if !t.Undefined {
				if s.Value == nil {
					state, reason = s.State(t.Name)
				} else {
					var value int
					if value, state, reason = s.Value(t.Name); state == track.OK {
						reason = strings.TrimSuffix(fmt.Sprintf("value %d; %s", value, reason), "; ")
					}
				}
			}
			out.Trackers = append(out.Trackers, control.Tracker{Kind: s.Kind, Name: t.Name, State: word(state), Weight: t.Weight, Reason: reason})
		}
	}
	return out
}

func (c *checks) status() []control.Script {
	var all []control.Script
	for _, s := range c.scripts.Status() {
		all = append(all, control.Script{Name: s.Name, State: word(s.State), Reason: s.Reason, Code: s.Code, Duration: s.LastDuration.Seconds(),
			Runs: s.Runs, Failures: s.Failures, Longest: s.MaxDuration.Seconds()})
	}
	return all
}

func word(s track.State) string { return strings.ToLower(s.String()) }
