package promote

import (
	"context"
	"errors"
	"fmt"
	"time"

	"pgvrrp/internal/postgres"
)

// NodeStatus is one line of the cluster's table.
type NodeStatus struct {
	Node      string            `json:"node"`
	Address   string            `json:"address"`
	Role      string            `json:"role"`
	Timeline  postgres.Timeline `json:"timeline,omitempty"`
	LSN       string            `json:"lsn,omitempty"`
	Lag       *int64            `json:"lag_bytes,omitempty"` // behind the primary; absent without a primary
	SyncState string            `json:"sync_state,omitempty"`
	Reachable bool              `json:"reachable"`
	WhyNot    string            `json:"not_promotable_because,omitempty"`
}

// ClusterStatus is what status prints.
type ClusterStatus struct {
	Node     string       `json:"node"`
	At       time.Time    `json:"at"`
	VIP      string       `json:"vip"`
	AtVIP    string       `json:"at_vip"` // who answers there
	Nodes    []NodeStatus `json:"nodes"`
	Busy     string       `json:"busy,omitempty"`
	Warnings []string     `json:"warnings,omitempty"`
}

// Look asks everybody, for status and explain.
func (e *Engine) Look(ctx context.Context) Facts {
	f := e.facts()
	f.Settled = true
	f.Local = e.local(ctx)
	e.askAll(ctx, e.targets()).into(&f)
	e.compare(ctx, &f)
	later := e.local(ctx) // what a peer has more than we must not be what came meanwhile
	later.Diverged, later.Twin, later.Agrees = f.Local.Diverged, f.Local.Twin, f.Local.Agrees
	f.Local = later
	return f
}

// Status is the whole cluster as seen from here.
func (e *Engine) Status(ctx context.Context) ClusterStatus {
	f := e.Look(ctx)
	s := ClusterView(f)
	s.At = time.Now()
	s.Busy = e.Store.Busy()
	own := NodeStatus{}
	for i, n := range s.Nodes {
		if n.Node == f.Node {
			s.Nodes[i].Address = "local"
			own = s.Nodes[i]
		}
	}
	if own.Role == string(RolePrimary) {
		if pf, err := e.Server.Facts(ctx); err == nil {
			for _, r := range pf.ReplicationState {
				for i, n := range s.Nodes {
					if n.Node == r.Name && r.State == "streaming" {
						s.Nodes[i].SyncState = r.SyncState
					}
				}
			}
		}
	}
	s.Warnings = append(s.Warnings, e.Warnings()...)
	return s
}

// Configured is what a server's files say about who may set where it streams from; *postgres.Server knows.
type Configured interface {
	IncludeError() error
	AutoOverrides() (map[string]string, error)
}

// Warnings are mistakes in the configuration that show only when it is too late.
func (e *Engine) Warnings() []string {
	c, ok := e.Server.(Configured)
	if !ok {
		return nil
	}
	var all []string
	if err := c.IncludeError(); err != nil {
		all = append(all, err.Error())
	}
	over, err := c.AutoOverrides()
	if err != nil {
		all = append(all, err.Error())
	}
	if len(over) > 0 {
		all = append(all, fmt.Sprintf("postgresql.auto.conf (ALTER SYSTEM) sets what pgnotify manages: %v", over))
	}
	return all
}

// asAnswer is how our own server looks to the others.
func (f Facts) asAnswer() Answer {
	a := Answer{Name: f.Node, SystemID: f.Local.SystemID, Position: f.Local.Position, Reason: f.Local.Problem}
	switch f.Local.Role {
	case RolePrimary:
		a.Reach = Primary
	case RoleStandby:
		a.Reach = Standby
	case RoleDown:
		a.Reach, a.Reason = Unreachable, "not running"
	case RoleStarting, RoleRecovering:
		a.Reach = Undecided
	case RoleUnknown:
		a.Reach = CantTell
	}
	return a
}

// ClusterView judges every node by the rules of a promotion, each from its own place.
func ClusterView(f Facts) ClusterStatus {
	s := ClusterStatus{Node: f.Node, VIP: f.VIPAddr.String(), AtVIP: string(f.VIP.Reach)}
	all := append([]Answer{f.asAnswer()}, f.Peers...)
	var primary *Answer
	for i := range all {
		if all[i].Reach == Primary && (primary == nil || all[i].Position.Compare(primary.Position) > 0) {
			primary = &all[i]
		}
	}
	for i, a := range all {
		n := NodeStatus{Node: a.Name, Role: string(a.Reach), Timeline: a.Position.Timeline, Reachable: a.Reach == Primary || a.Reach == Standby || a.Reach == Undecided}
		if a.Addr.IsValid() {
			n.Address = a.Addr.String()
		}
		if i == 0 {
			n.Role, n.Reachable = string(f.Local.Role), true
		}
		if a.Position.LSN != 0 {
			n.LSN = a.Position.LSN.String()
		}
		if primary != nil && a.Reach == Standby && a.SystemID == primary.SystemID {
			lag := max(0, int64(primary.Position.LSN)-int64(a.Position.LSN))
			n.Lag = &lag
		}
		n.WhyNot = whyNot(f, all, i)
		s.Nodes = append(s.Nodes, n)
	}
	if f.VIP.Reach == Primary || f.VIP.Reach == Standby {
		for _, a := range all {
			if a.Reach == f.VIP.Reach && a.SystemID == f.VIP.SystemID && (a.Reach == Primary || a.Position == f.VIP.Position) {
				s.AtVIP = fmt.Sprintf("%s, probably %s", f.VIP.Reach, a.Name)
			}
		}
	} else if f.VIP.Reason != "" {
		s.AtVIP += ": " + f.VIP.Reason
	}
	return s
}

// whyNot says why node i of all could not be promoted now, "" if it could.
func whyNot(f Facts, all []Answer, i int) string {
	a := all[i]
	if i > 0 && a.Reach != Standby && a.Reach != Primary {
		return a.Reason
	}
	g := Facts{Node: a.Name, VIPAddr: f.VIPAddr, VIP: f.VIP, Settled: true}
	if i == 0 {
		g.Local = f.Local
	} else {
		g.Local = Local{Role: Role(a.Reach), SystemID: a.SystemID, Position: a.Position}
	}
	for j, other := range all {
		if j != i {
			g.Peers = append(g.Peers, other)
		}
	}
	if g.Local.Role == RolePrimary {
		return "is a primary already"
	}
	if g.Local.Role == RoleDown {
		return "not running"
	}
	if g.VIP.Reach == Standby && g.VIP.Position.Compare(g.Local.Position) > 0 {
		g.VIP.Reach = Unreachable // one of all, which is judged under its own name
	}
	p := Decide(g, Event{State: Master})
	if words := p.catchUp(); words != "" {
		return "must first " + words
	}
	return p.Refusal
}

// Explain says in words, condition by condition, whether this node could be promoted.
func Explain(f Facts) []string {
	var lines []string
	verdict := "can be promoted now"
	p := Decide(f, Event{State: Master})
	switch {
	case p.Refusal != "":
		verdict = "can't be promoted: " + p.Refusal
	case f.Local.Role == RolePrimary:
		verdict = "is a primary already"
	case p.catchUp() != "":
		verdict = "can't be promoted yet: it must first " + p.catchUp()
	case p.Again:
		verdict = "would be started as a standby first, then judged again"
	}
	lines = append(lines, fmt.Sprintf("%s %s", f.Node, verdict), fmt.Sprintf("server: %s", describe(f.Local)))
	if f.Local.Phase != PhaseNone {
		lines = append(lines, fmt.Sprintf("data: %s: %s", f.Local.Phase, f.Local.PhaseWhy))
	}
	if f.Local.Diverged {
		lines = append(lines, fmt.Sprintf("data: diverged from %s, %s", f.VIP.where(), f.VIP.Position))
	}
	if f.Local.Role == RoleStandby {
		streams := "does not stream"
		if f.Local.Streaming {
			streams = "streams"
		}
		lines = append(lines, fmt.Sprintf("upstream: %s, %s", f.Local.Upstream, streams))
	}
	lines = append(lines, "condition 1, newest state: checked for a hook, at the last moment", "condition 2, settle time: counted from a hook's delivery")
	for _, a := range append([]Answer{f.VIP}, f.Peers...) {
		switch a.Reach {
		case Primary:
			lines = append(lines, fmt.Sprintf("condition 3, no other primary: FAILS, %s answers as a primary, %s", a.where(), a.Position))
		case Standby:
			holds := fmt.Sprintf("condition 4, no standby with more WAL: holds for %s, %s", a.where(), a.Position)
			if a.SystemID != f.Local.SystemID {
				holds = fmt.Sprintf("condition 3, no other primary: FAILS, %s is of another cluster (%d)", a.where(), a.SystemID)
			} else if a.Position.Compare(f.Local.Position) > 0 {
				holds = fmt.Sprintf("condition 4, no standby with more WAL: FAILS, %s has %s, ours %s", a.where(), a.Position, f.Local.Position)
			}
			lines = append(lines, holds)
		case Unreachable:
			lines = append(lines, fmt.Sprintf("condition 3, no other primary: holds for %s, unreachable: %s", a.where(), a.Reason))
		case Undecided, CantTell, NotProbed:
			lines = append(lines, fmt.Sprintf("condition 3, no other primary: FAILS, can't tell about %s: %s", a.where(), a.Reason))
		}
	}
	return lines
}

// Check says whether the server is healthy in its role (primary, standby, any); maxLag in bytes, negative: not looked at.
// While a pgnotify promotes, rewinds or clones it is not judged.
func (e *Engine) Check(ctx context.Context, role string, maxLag int64) (string, error) {
	if at, err := e.atWork(); at != "" || err != nil {
		return at, err
	}
	healthy, why := e.judge(ctx, role, maxLag)
	if why != nil {
		// It may have begun since.
		if at, err := e.atWork(); at != "" && err == nil {
			return at, nil
		}
	}
	return healthy, why
}

// atWork says in words what a pgnotify does that keeps the server from being judged, "" if there is none.
func (e *Engine) atWork() (string, error) {
	if at := e.Store.activity(activityWork); at != "" {
		return "pgnotify is at work: " + at, nil
	}
	rebuild, err := e.Store.Rebuild()
	if err != nil {
		return "", err
	}
	a, alive := e.Store.living(activityRejoin)
	switch {
	case !alive:
		return "", nil
	case rebuild.Phase != PhaseNone:
		return fmt.Sprintf("pgnotify is at work: %s (%s)", a, rebuild.Phase), nil
	case a.behind(): // it merely waits
		return "", nil
	}
	return fmt.Sprintf("pgnotify is at work: %s", a), nil
}

func (e *Engine) judge(ctx context.Context, role string, maxLag int64) (string, error) {
	f, err := e.Server.Facts(ctx)
	if err != nil {
		return "", err
	}
	is := "primary"
	if f.InRecovery {
		is = "standby"
	}
	switch {
	case !f.Running:
		return "", errors.New("the server is not running")
	case !f.Answering:
		return "", fmt.Errorf("the server does not answer: %w", f.Problem)
	case role != "any" && role != is:
		return "", fmt.Errorf("the server is a %s, want a %s", is, role)
	case is == "primary" || maxLag < 0:
		return fmt.Sprintf("a %s, %s", is, f.Position()), nil
	}
	vip := e.ask(ctx, vipName, e.Settings.VIP)
	if vip.Reach != Primary {
		return "", fmt.Errorf("the lag can't be told: no primary answers at the VIP %s (%s %s)", e.Settings.VIP, vip.Reach, vip.Reason)
	}
	// Positions compare within one history alone: a former primary that wrote on for itself is ahead of all, and must not pass.
	switch lag := int64(vip.Position.LSN) - int64(f.ReplayLSN); {
	case f.SystemID != vip.SystemID:
		return "", fmt.Errorf("%s belongs to another cluster: its system identifier is %d, ours %d", vip.where(), vip.SystemID, f.SystemID)
	case f.Upstream.Status != "streaming":
		return "", fmt.Errorf("the standby does not stream, and %s goes on from %s", vip.where(), vip.Position)
	case f.Timeline != vip.Position.Timeline:
		return "", fmt.Errorf("the standby is on timeline %d, %s on %d", f.Timeline, vip.where(), vip.Position.Timeline)
	case lag > maxLag:
		return "", fmt.Errorf("the standby lags %d bytes behind, want at most %d", lag, maxLag)
	}
	return fmt.Sprintf("a standby, %s", f.Position()), nil
}

// AwaitMove waits until another node than ours answers as a primary at the VIP, and returns who it is.
func (e *Engine) AwaitMove(ctx context.Context) (string, error) {
	for {
		f := e.facts()
		e.askAll(ctx, e.targets()).into(&f)
		if f.VIP.Reach == Primary {
			for _, a := range f.Peers {
				if a.Reach == Primary && a.SystemID == f.VIP.SystemID && a.Position.Timeline == f.VIP.Position.Timeline {
					return a.Name, nil
				}
			}
		}
		if ctx.Err() != nil {
			return "", fmt.Errorf("no other node answers as a primary at the VIP %s: %w", e.Settings.VIP, context.Cause(ctx))
		}
		pause(ctx, 100*time.Millisecond)
	}
}
