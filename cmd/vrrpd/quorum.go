package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	ufcli "github.com/urfave/cli/v2"

	"pgvrrp/internal/cli"
	"pgvrrp/internal/control"
	"pgvrrp/internal/daemon"
)

func quorumCommand() *ufcli.Command {
	return &ufcli.Command{
		Name:  "quorum",
		Usage: "The quorum extension: status, keygen, add, remove, force, reset.",
		Subcommands: []*ufcli.Command{
			quorumStatusCommand(), keygenCommand(), memberCommand("add", "Add a voter of the file to the membership.", (*control.Client).AddVoter),
			memberCommand("remove", "Take a voter out of the membership.", (*control.Client).RemoveVoter), forceCommand(), resetCommand(),
		},
	}
}

func quorumStatusCommand() *ufcli.Command {
	return &ufcli.Command{
		Name:  "status",
		Usage: "Show voters, links, who leads, and for each resource its epoch, holder, lease and what is missing.",
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
				if s.Quorum == nil {
					return fmt.Errorf("ask vrrpd about its quorum: %s has no quorum block", s.ConfigFile)
				}
				if c.Bool("json") {
					return cli.JSON(w, s.Quorum)
				}
				return printQuorum(w, s.Quorum)
			}
			if c.Bool("watch") {
				return cli.Watch(c.Context, c.App.Writer, time.Second, render)
			}
			return render(c.Context, c.App.Writer)
		}),
	}
}

// printQuorum is the picture for people: a line, the voters, the resources, and what an operator should know.
func printQuorum(w io.Writer, q *control.Quorum) error {
	role := "data node"
	if q.Witness {
		role = "witness"
	}
	leader := q.Leader
	if leader == "" {
		leader = "none"
	}
	fmt.Fprintf(w, "quorum: %s (%s), %d of %d votes needed, leader of the log %s, guard %s, lease %gs, no_quorum_policy %s\n\n",
		q.Node, role, q.Needed, q.Votes, leader, q.Guard, q.Lease, q.Policy)
	rows := [][]string{}
	for _, v := range q.Voters {
		state := "counts"
		switch {
		case v.Self && v.Member:
			state = "counts, this one"
		case v.Self:
			state = "this one, does not count"
		case !v.Member && v.Heard:
			state = "heard, does not count"
		case !v.Member:
			state = "removed"
		case !v.Heard:
			state = "not heard"
		}
		kind := "data"
		if v.Witness {
			kind = "witness"
		}
		links := []string{}
		for _, l := range v.Links {
			if l.Up {
				links = append(links, fmt.Sprintf("%s %.1fms", l.Remote, l.RTT*1000))
			} else {
				links = append(links, l.Remote+" down")
			}
		}
		rows = append(rows, []string{v.ID, kind, state, strings.Join(links, ", ")})
	}
	if err := cli.Table(w, []string{"VOTER", "KIND", "STATE", "LINKS"}, rows); err != nil {
		return err
	}
	fmt.Fprintln(w)
	rows = [][]string{}
	for _, r := range q.Resources {
		lease := "-"
		if r.Live {
			lease = fmt.Sprintf("%.0fms", r.Left*1000)
		}
		holder := r.Holder
		if holder == "" {
			holder = "-"
		}
		rows = append(rows, []string{r.Name, r.Kind, fmt.Sprint(r.Epoch), r.Phase, holder, lease, fmt.Sprintf("{%s; %s}", r.Rule.Holder, strings.Join(r.Rule.S, ", "))})
	}
	if err := cli.Table(w, []string{"RESOURCE", "KIND", "EPOCH", "PHASE", "HOLDER", "LEASE HERE", "RULE"}, rows); err != nil {
		return err
	}
	for _, r := range q.Resources {
		if r.Live && r.By != "" && !strings.HasPrefix(r.By, "by a majority") {
			fmt.Fprintf(w, "%s: the lease lives %s\n", r.Name, r.By)
		}
		if r.Missing != "" {
			fmt.Fprintf(w, "%s waits: %s\n", r.Name, r.Missing)
		}
		if !q.Witness && !r.Eligible && r.Ineligible != "" {
			fmt.Fprintf(w, "%s cannot come here: %s\n", r.Name, r.Ineligible)
		}
		if r.Paused {
			fmt.Fprintf(w, "%s is paused\n", r.Name)
		}
	}
	for _, t := range q.Trouble {
		fmt.Fprintf(w, "! %s\n", t)
	}
	if q.GuardError != "" {
		fmt.Fprintf(w, "! %s\n", q.GuardError)
	}
	return nil
}

func keygenCommand() *ufcli.Command {
	return &ufcli.Command{
		Name:        "keygen",
		Usage:       "Write a new key file; copy it to every node by a safe way.",
		ArgsUsage:   "[FILE]",
		Description: "FILE is /etc/vrrpd/quorum.key if not given. It is made with mode 0600; a file that exists is never touched.",
		Action: cli.Args(func(c *ufcli.Context) error {
			path := c.Args().First()
			if path == "" {
				path = "/etc/vrrpd/quorum.key"
			}
			if err := daemon.WriteKey(path); err != nil {
				return err
			}
			fmt.Fprintf(c.App.Writer, "%s written; copy it to every voter, mode 0600; on a witness, which runs as the user vrrpd:\n"+
				"install -o vrrpd -g vrrpd -m 600 quorum.key %[1]s\n", path)
			return nil
		}, "[FILE]"),
	}
}

func memberCommand(verb, usage string, call func(*control.Client, context.Context, string) error) *ufcli.Command {
	return &ufcli.Command{
		Name: verb, Usage: usage, ArgsUsage: "VOTER",
		Action: cli.Args(func(c *ufcli.Context) error {
			client := control.NewClient(cli.String(c, "socket"))
			defer client.Close()
			ctx, cancel := context.WithTimeout(c.Context, callTimeout)
			defer cancel()
			id := c.Args().First()
			if err := call(client, ctx, id); err != nil {
				return err
			}
			fmt.Fprintf(c.App.Writer, "quorum %s %s: done\n", verb, id)
			return nil
		}, "VOTER"),
	}
}

func forceCommand() *ufcli.Command {
	return &ufcli.Command{
		Name:      "force",
		Usage:     "Let this node go on alone although the quorum is lost: an operator's word replaces the vote.",
		ArgsUsage: "RESOURCE [RESOURCE…]",
		Flags: []ufcli.Flag{
			&ufcli.BoolFlag{Name: "accept-data-loss", Usage: "commits that other nodes acknowledged may be lost, and I know which"},
			&ufcli.StringFlag{Name: "node", Usage: "this node's `NAME`, as a check that this is the right machine"},
			&ufcli.StringFlag{Name: "others-are-off", Usage: "`HOW` it is certain that every other data node is off and stays off, for the record"},
			&ufcli.BoolFlag{Name: "dry-run", Usage: "say what would be done, and what may be lost"},
		},
		Description: "vrrpd must be stopped on this node, and is started again afterwards. Nobody but you keeps an old master from running on: make\n" +
			"sure that it is off first. There is one log for all resources: each of them is forced, and one whose rule does not name this node\n" +
			"only if you name it. The other voters come back one by one after `vrrpd quorum reset` on each, as new ones; nothing of theirs is\n" +
			"deleted.",
		Action: cli.Args(func(c *ufcli.Context) error {
			o := daemon.ForceOptions{File: cli.String(c, "file"), ConfigID: cli.String(c, "config-id"), Resources: c.Args().Slice(),
				Node: c.String("node"), Word: c.String("others-are-off"), DryRun: c.Bool("dry-run")}
			if !o.DryRun && (o.Node == "" || o.Word == "" || !c.Bool("accept-data-loss")) {
				return cli.Usagef("vrrpd quorum force: wants --node NAME, --others-are-off HOW and --accept-data-loss; --dry-run says what it would do")
			}
			var err error
			if o.Log, err = cli.Logger(c, c.App.ErrWriter); err != nil {
				return err
			}
			done, err := daemon.Force(c.Context, o)
			if err != nil {
				return err
			}
			for _, s := range append(done.Steps, done.Losses...) {
				fmt.Fprintln(c.App.Writer, s)
			}
			return nil
		}, "RESOURCE", "[RESOURCE…]"),
	}
}

func resetCommand() *ufcli.Command {
	return &ufcli.Command{
		Name:  "reset",
		Usage: "Make this stopped voter a new one: after a force elsewhere, or when its directory came from a backup.",
		Flags: []ufcli.Flag{
			&ufcli.BoolFlag{Name: "dry-run", Usage: "say what would be renamed"},
		},
		Description: "Its state is renamed, not deleted. It counts again once the others have taken it in, and has no vote until then.",
		Action: cli.Args(func(c *ufcli.Context) error {
			done, err := daemon.ResetVoter(cli.String(c, "file"), cli.String(c, "config-id"), c.Bool("dry-run"))
			for _, d := range done {
				fmt.Fprintln(c.App.Writer, d)
			}
			return err
		}),
	}
}
