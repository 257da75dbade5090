package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	ufcli "github.com/urfave/cli/v2"

	"pgvrrp/internal/agent"
	"pgvrrp/internal/cli"
	"pgvrrp/internal/control"
	"pgvrrp/internal/postgres"
)

// quorum gives the agent of settings with a resource; nil in hook mode, where the command does its work itself.
func (h machine) quorum(c *ufcli.Context) (*session, *agent.Client, error) {
	s, err := h.settings(c)
	if err != nil {
		return nil, nil, err
	}
	if !s.settings.Quorum() {
		return s, nil, nil
	}
	return s, agent.NewClient(cli.String(c, "agent-socket")), nil
}

// onlyQuorum is quorum for the commands that hook mode does not have.
func (h machine) onlyQuorum(c *ufcli.Context) (*session, *agent.Client, error) {
	s, a, err := h.quorum(c)
	if err == nil && a == nil {
		err = fmt.Errorf("%s: %s has no resource: this is hook mode, in which no agent runs; the command belongs to quorum mode (docs/quorum.md)", c.Command.Name, s.settings.File)
	}
	return s, a, err
}

// refuseFlags says that flags of hook mode have no meaning here.
func refuseFlags(c *ufcli.Context, why string, names ...string) error {
	for _, n := range names {
		if c.IsSet(n) {
			return cli.Usagef("pgnotify %s: --%s belongs to hook mode: %s", c.Command.Name, n, why)
		}
	}
	return nil
}

// order gives an order, prints what became of it, and while it waits what the agent is at.
func (s *session) order(ctx context.Context, a *agent.Client, name string, q agent.Request) error {
	defer a.Close()
	done := make(chan struct{})
	shown := make(chan struct{})
	go func() {
		defer close(shown)
		last := ""
		for {
			t := time.NewTimer(time.Second)
			select {
			case <-done:
				t.Stop()
				return
			case <-ctx.Done():
				t.Stop()
				return
			case <-t.C:
			}
			st, err := a.Status(ctx)
			if err != nil {
				continue
			}
			if text := doing(st); text != last {
				fmt.Fprintln(s.stderr, text)
				last = text
			}
		}
	}()
	text, err := a.Order(ctx, name, q)
	close(done)
	<-shown
	if err != nil {
		return err
	}
	if text != "" {
		fmt.Fprintln(s.stdout, text)
	}
	return nil
}

// doing is what a node is at, in a line.
func doing(st agent.Status) string {
	for _, n := range st.Nodes {
		if n.Node == st.Node && n.Work != "" {
			return n.Work
		}
	}
	if st.Doing != "" {
		return st.Doing
	}
	return strings.Join(st.Explain, "; ")
}

func printQuorum(w io.Writer, st agent.Status) error {
	r := st.Resource
	var rows [][]string
	for _, n := range st.Nodes {
		name := n.Node
		if n.Holder {
			name += " *"
		}
		tli, lag, why := "", "", n.WhyNot
		if n.TLI != 0 {
			tli = fmt.Sprint(n.TLI)
		}
		if n.Lag != nil {
			lag = cli.Size(*n.Lag)
		}
		sync := n.SyncState
		if n.Holder {
			sync = "holder"
		}
		if n.Work != "" {
			why = n.Work
		}
		if n.Promotable && why == "" {
			why = "(promotable)"
		}
		role := n.Role
		if !n.Heard && n.Node != st.Node {
			role += ", not heard"
			if n.Age > 0 {
				role += " for " + (time.Duration(n.Age * float64(time.Second))).Round(time.Second).String()
			}
		}
		row := []string{name, role, tli, n.LSN, lag, sync, n.Upstream, why}
		for i := range row {
			if row[i] == "" {
				row[i] = "-"
			}
		}
		rows = append(rows, row)
	}
	if err := cli.Table(w, []string{"NODE", "ROLE", "TLI", "LSN", "LAG", "SYNC", "UPSTREAM", "NOT PROMOTABLE BECAUSE"}, rows); err != nil {
		return err
	}
	line := func(format string, args ...any) { fmt.Fprintf(w, format+"\n", args...) }
	line("")
	if !st.Connected {
		line("vrrpd: not connected: %s", st.Refused)
	}
	if r.Epoch == 0 {
		line("resource %s is not initialized: pgnotify init on the node whose data is the truth", r.Name)
		return nil
	}
	holder := r.Holder
	if holder == "" {
		holder = "nobody"
	}
	line("resource %s: epoch %d, %s, holder %s", r.Name, r.Epoch, r.Phase, holder)
	line("rule %d: {%s; %s}, sync_num %d, min_copies %d", r.Rule.Version, r.Rule.Holder, strings.Join(r.Rule.S, ", "), orDefault(r.SyncNum, 2), orDefault(r.MinCopies, 1))
	if r.Paused {
		line("paused: nobody is elected, and the rule only shrinks, until pgnotify resume")
	}
	if r.Missing != "" {
		line("missing: %s", r.Missing)
	}
	return nil
}

func orDefault(n, def int) int {
	if n == 0 {
		return def
	}
	return n
}

// quorumStatus is status in quorum mode.
func (s *session) quorumStatus(c *ufcli.Context, a *agent.Client) error {
	defer a.Close()
	show := func(ctx context.Context, w io.Writer) error {
		st, err := a.Status(ctx)
		if err != nil {
			return err
		}
		if c.Bool("json") {
			return cli.JSON(w, st)
		}
		return printQuorum(w, st)
	}
	if c.Bool("watch") {
		return cli.Watch(c.Context, s.stdout, c.Duration("every"), show)
	}
	return show(c.Context, s.stdout)
}

// quorumExplain is explain in quorum mode: every node's own word.
func (s *session) quorumExplain(c *ufcli.Context, a *agent.Client) error {
	defer a.Close()
	st, err := a.Status(c.Context)
	if err != nil {
		return err
	}
	x := explainQuorum(st)
	if c.Bool("json") {
		return cli.JSON(s.stdout, x)
	}
	if x.Vrrpd != "" {
		fmt.Fprintf(s.stdout, "vrrpd is %s\n", x.Vrrpd)
	}
	for _, n := range x.Nodes {
		for _, l := range n.Lines {
			fmt.Fprintf(s.stdout, "%s: %s\n", n.Node, l)
		}
	}
	if x.Missing != "" {
		fmt.Fprintf(s.stdout, "quorum: %s\n", x.Missing)
	}
	return nil
}

func explainQuorum(st agent.Status) explanation {
	x := explanation{Nodes: []nodeWords{}, Warnings: []string{}, Missing: st.Resource.Missing}
	if !st.Connected {
		x.Vrrpd = "not connected: " + st.Refused
	}
	for _, n := range st.Nodes {
		lines := n.Explain
		if n.Node == st.Node {
			lines = st.Explain
		} else if !n.Heard {
			lines = append([]string{"its agent is not heard; what it said last:"}, lines...)
		}
		x.Nodes = append(x.Nodes, nodeWords{n.Node, append([]string{}, lines...)})
	}
	return x
}

// quorumCheck is check in quorum mode: it never fails while the agent is at something.
func (s *session) quorumCheck(c *ufcli.Context, a *agent.Client, role string, lag int64) error {
	defer a.Close()
	ctx, cancel := context.WithTimeout(c.Context, c.Duration("timeout"))
	defer cancel()
	st, err := a.Status(ctx)
	if err != nil {
		return err
	}
	words, err := judge(st, role, lag)
	if err != nil {
		return err
	}
	fmt.Fprintln(s.stdout, words)
	return nil
}

// judge says in words how a node is healthy, or why it is not; a lag below 0 is not looked at.
func judge(st agent.Status, role string, lag int64) (string, error) {
	i := slices.IndexFunc(st.Nodes, func(n agent.NodeStatus) bool { return n.Node == st.Node })
	if i < 0 {
		return "", errors.New("the agent does not know its own node yet")
	}
	n := st.Nodes[i]
	switch {
	case n.Work != "" || n.Role == "starting":
		return strings.TrimSpace("the agent is at work: " + n.Work), nil
	case n.Role != "primary" && n.Role != "standby":
		return "", fmt.Errorf("PostgreSQL is %s", n.Role)
	case role != "any" && role != n.Role && st.Doing == "":
		return "", fmt.Errorf("PostgreSQL is a %s, want a %s", n.Role, role)
	case lag < 0 || n.Role == "primary" || st.Resource.Mine && st.Resource.Live: // with the grant it is being promoted
	case n.Upstream == "":
		return "", errors.New("the standby does not stream")
	case n.ReplayLag == nil:
		return "", fmt.Errorf("the lag can't be told: %s", whyNoLag(st, n))
	case *n.ReplayLag > lag:
		return "", fmt.Errorf("the standby lags %d bytes behind, want at most %d", *n.ReplayLag, lag)
	}
	return "PostgreSQL is a " + n.Role, nil
}

// whyNoLag says why it can't be told how far our node is behind.
func whyNoLag(st agent.Status, own agent.NodeStatus) string {
	for _, n := range st.Nodes {
		switch {
		case !n.Holder:
		case !n.Heard:
			return fmt.Sprintf("the holder, %s, is not heard", n.Node)
		case n.Role != "primary":
			return fmt.Sprintf("the holder, %s, is %s", n.Node, n.Role)
		default:
			return fmt.Sprintf("the standby is on timeline %d, the holder, %s, on %d", own.TLI, n.Node, n.TLI)
		}
	}
	return "nobody is the holder"
}

// demote moves the primary away from this node.
func (s *session) demote(c *ufcli.Context, a *agent.Client) error {
	st, err := a.Status(c.Context)
	if err != nil {
		return err
	}
	if st.Resource.Holder != st.Node {
		fmt.Fprintf(s.stdout, "nothing to do: this node is not the holder (%s is)\n", orNobody(st.Resource.Holder))
		return nil
	}
	return s.order(c.Context, a, "switchover", agent.Request{})
}

func orNobody(name string) string {
	if name == "" {
		return "nobody"
	}
	return name
}

// promoteByGrant has the holder give the epoch to this node.
func (s *session) promoteByGrant(c *ufcli.Context, a *agent.Client) error {
	st, err := a.Status(c.Context)
	if err != nil {
		return err
	}
	switch {
	case st.Resource.Holder == st.Node:
		fmt.Fprintln(s.stdout, "nothing to do: this node is the holder")
		return nil
	case st.Resource.Holder == "":
		return fmt.Errorf("promote: nobody holds the resource who could give it; a grant needs proof, and not an order. What is missing: %s",
			strings.Join(append(st.Explain, st.Resource.Missing), "; "))
	}
	return s.order(c.Context, a, "switchover", agent.Request{To: st.Node})
}

// cloneByAgent waits for the copy that the agent makes of an empty host.
func (s *session) cloneByAgent(c *ufcli.Context, a *agent.Client) error {
	st, err := a.Status(c.Context)
	if err != nil {
		return err
	}
	for _, n := range st.Nodes {
		if n.Node == st.Node && n.Role != "no data" && n.Work == "" {
			return fmt.Errorf("clone: %s has data (PostgreSQL is %s); the agent rewinds or copies by itself what can't follow: pgnotify rejoin waits for that. To have it copied in any case, stop pgnotify.service and PostgreSQL, and move the data directory away",
				s.settings.DataDir, n.Role)
		}
	}
	return s.order(c.Context, a, "await", agent.Request{})
}

// ledger is the timelines that were ever granted; nil, with a word on stderr, when the agent does not run: then there is only the history.
func (s *session) ledger(c *ufcli.Context) []control.Timeline {
	a := agent.NewClient(cli.String(c, "agent-socket"))
	defer a.Close()
	st, err := a.Status(c.Context)
	if err != nil {
		fmt.Fprintln(s.stderr, err)
		return nil
	}
	return append([]control.Timeline{}, st.Resource.Ledger...)
}

func (s *session) printLedger(ledger []control.Timeline) error {
	var rows [][]string
	for _, t := range ledger {
		row := []string{fmt.Sprint(t.TLI), "-", "not used", fmt.Sprint(t.Epoch), t.Node}
		if t.SwitchLSN != 0 {
			row[1], row[2] = fmt.Sprint(t.Parent), postgres.LSN(t.SwitchLSN).String()
		}
		rows = append(rows, row)
	}
	if len(rows) == 0 {
		return nil
	}
	if err := cli.Table(s.stdout, []string{"TIMELINE", "PARENT", "BRANCHED OFF AT", "EPOCH", "NODE"}, rows); err != nil {
		return err
	}
	fmt.Fprintln(s.stdout)
	return nil
}
