package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	ufcli "github.com/urfave/cli/v2"

	"pgvrrp/internal/cli"
	"pgvrrp/internal/control"
)

// callTimeout bounds one question to a vrrpd on this machine.
const callTimeout = 5 * time.Second

func statusCommand() *ufcli.Command {
	return &ufcli.Command{
		Name:  "status",
		Usage: "Show instances, states, addresses, peers, trackers and the last transitions with their reasons.",
		Flags: []ufcli.Flag{
			&ufcli.BoolFlag{Name: "json", Usage: "print everything as JSON; with --watch one object a picture"},
			&ufcli.BoolFlag{Name: "watch", Usage: "show it anew every second until interrupted"},
		},
		Action: cli.Args(func(c *ufcli.Context) error {
			client := control.NewClient(cli.String(c, "socket"))
			defer client.Close()
			render := func(ctx context.Context, w io.Writer) error {
				ctx, cancel := context.WithTimeout(ctx, callTimeout)
				defer cancel()
				s, err := client.Status(ctx)
				if err != nil {
					return err
				}
				if c.Bool("json") {
					return cli.JSON(w, s)
				}
				return printStatus(w, s, time.Now())
			}
			if c.Bool("watch") {
				return cli.Watch(c.Context, c.App.Writer, time.Second, render)
			}
			return render(c.Context, c.App.Writer)
		}),
	}
}

// printStatus is the picture for people: a table, and below it what deserves a line.
func printStatus(w io.Writer, s control.Status, now time.Time) error {
	fmt.Fprintf(w, "%s: vrrpd %s, pid %d, up %s, %s\n", s.Node, s.Version, s.PID, age(now, s.Started), s.ConfigFile)
	if s.Starting {
		fmt.Fprintln(w, "it is starting: the startup script or the first configuration is under way")
	}
	if s.ConfigError != "" {
		fmt.Fprintf(w, "the last reload was refused, the former configuration runs on: %s\n", s.ConfigError)
	}
	fmt.Fprintln(w)
	rows := make([][]string, 0, len(s.Instances))
	for _, i := range s.Instances {
		priority := fmt.Sprint(i.Priority)
		if i.Priority != i.ConfiguredPriority {
			priority = fmt.Sprintf("%d (%d)", i.Priority, i.ConfiguredPriority)
		}
		var addresses []string
		for _, a := range i.Addresses {
			if a.Held {
				addresses = append(addresses, a.Address)
			} else {
				addresses = append(addresses, "("+a.Address+")")
			}
		}
		rows = append(rows, []string{i.Name, i.State, priority, i.Interface, fmt.Sprint(i.VRID), age(now, i.Since), i.Master, strings.Join(addresses, " ")})
	}
	if err := cli.Table(w, []string{"INSTANCE", "STATE", "PRIORITY", "INTERFACE", "VRID", "SINCE", "MASTER", "ADDRESSES (NOT HELD)"}, rows); err != nil {
		return err
	}
	for _, i := range s.Instances {
		printInstance(w, i, now)
	}
	for _, g := range s.Groups {
		printGroup(w, g, now)
	}
	if s.Quorum != nil {
		fmt.Fprintln(w)
		return printQuorum(w, s.Quorum)
	}
	return nil
}

func printInstance(w io.Writer, i control.Instance, now time.Time) {
	fmt.Fprintf(w, "\n%s\n", i.Name)
	line := func(label, format string, args ...any) {
		fmt.Fprintf(w, "  %-12s %s\n", label, fmt.Sprintf(format, args...))
	}
	if i.Waiting != "" {
		line("waits for", "%s", i.Waiting)
	}
	if i.HeldUntil != nil {
		line("released", "for another %s", i.HeldUntil.Sub(now).Round(time.Second))
	}
	if i.VMAC != "" {
		line("VMAC", "%s", i.VMAC)
	}
	if i.NoAccept {
		line("no_accept", "packets to the addresses are dropped")
	}
	for _, t := range i.Trackers {
		text := t.State
		if t.Weight != 0 {
			text += fmt.Sprintf(", weight %d", t.Weight)
		}
		if t.Reason != "" {
			text += ": " + t.Reason
		}
		line(t.Kind, "%s %s", t.Name, text)
	}
	for _, r := range i.Routes {
		if r.Held {
			line("route", "%s", r.Route)
		} else {
			line("route", "(%s)", r.Route)
		}
	}
	for _, t := range i.Troubles {
		label, seen := "trouble", fmt.Sprintf("%d packets, the last one %s ago", t.Count, age(now, t.Last))
		switch {
		case t.Notice:
			line("notice", "%s: %s", t.Kind, t.Text)
			continue
		case !t.Now:
			label = "was"
		}
		line(label, "%s: %s (%s)", t.Kind, t.Text, seen)
	}
	for _, p := range i.Peers {
		text := "never heard"
		if !p.Heard.IsZero() {
			text = fmt.Sprintf("priority %d, every %gs, heard %s ago", p.Priority, p.Interval, age(now, p.Heard))
		}
		if p.Warning != "" {
			text += "; " + p.Warning
		}
		line("peer", "%s %s", p.Address, text)
	}
	if len(i.Peers) == 0 {
		line("peer", "none was ever heard")
	}
	if i.LastHook != nil {
		line("hook", "%s", hookText(i.LastHook, now))
	}
	for _, reason := range slices.Sorted(maps.Keys(i.Counters.Rejected)) {
		line("rejected", "%d packets: %s", i.Counters.Rejected[reason], reason)
	}
	for _, t := range slices.Backward(i.Transitions) {
		line(t.At.Format("15:04:05.000"), "%s -> %s: %s", t.From, t.To, t.Reason)
	}
}

// printGroup is the line of a sync group, and one for its hook.
func printGroup(w io.Writer, g control.Group, now time.Time) {
	fmt.Fprintf(w, "\nsync group %s: %s for %s, of %s\n", g.Name, g.State, age(now, g.Since), strings.Join(g.Members, ", "))
	if g.LastHook != nil {
		fmt.Fprintf(w, "  %-12s %s\n", "hook", hookText(g.LastHook, now))
	}
}

// hookText is what became of a notify program.
func hookText(h *control.Hook, now time.Time) string {
	text := fmt.Sprintf("%s exit code %d after %.3fs, %s ago", h.State, h.Code, h.Duration, age(now, h.At))
	if h.Error != "" {
		text += ": " + h.Error
	}
	return text
}

// age is how long ago t was, short.
func age(now, t time.Time) string {
	d := now.Sub(t)
	switch {
	case d < 10*time.Second:
		return d.Round(100 * time.Millisecond).String()
	case d < time.Hour:
		return d.Round(time.Second).String()
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh%dm", int(d.Hours()), int(d.Minutes())%60)
	}
	return fmt.Sprintf("%dd%dh", int(d.Hours())/24, int(d.Hours())%24)
}
