package vrrp

import (
	"fmt"
	"slices"
)

// Member is what a Group sees of one of its routers.
type Member struct {
	State    State
	Ready    bool   // Router.Ready
	Held     bool   // a Release keeps it off
	OwnFault string // Router.OwnFault while State is Fault, else ""
}

// Order is an event that a Group wants one of its members to take.
type Order struct {
	Member int
	Event  Event
}

// Group keeps the routers of a sync group in one state: they become Active together, when each of them could; none stays
// Active when another isn't any more; and the Fault of one is the Fault of all. As Router it has no clock and does no I/O,
// and isn't safe for concurrent use.
//
// Whoever runs it tells it after each Step of a member what has become of that one, by Update, and has the members take the
// orders in their turn, which are Steps with an Update each again. Orders that a member can't follow are harmless.
type Group struct {
	names   []string
	members []Member
	told    []string // the GroupFault that each was given last
}

// NewGroup makes the group of the routers of these names, all in Initialize.
func NewGroup(names ...string) *Group {
	return &Group{names: names, members: make([]Member, len(names)), told: make([]string, len(names))}
}

// State is the group's: Fault if any member is there, Active if all are, Initialize if any has not started, else Backup.
func (g *Group) State() State {
	in := func(s State) func(Member) bool { return func(m Member) bool { return m.State == s } }
	switch {
	case slices.ContainsFunc(g.members, in(Fault)):
		return Fault
	case slices.ContainsFunc(g.members, in(Initialize)):
		return Initialize
	case slices.ContainsFunc(g.members, in(Backup)):
		return Backup
	default:
		return Active
	}
}

// Update takes what has become of member i, and why, and gives the orders that follow from it.
func (g *Group) Update(i int, m Member, reason string) []Order {
	if m.State != Fault {
		m.OwnFault = ""
	}
	g.members[i] = m
	orders := g.faults()
	kind, to := GroupActive, Backup
	if slices.ContainsFunc(g.members, func(m Member) bool { return !m.can() }) {
		kind, to = GroupBackup, Active
	}
	for k, other := range g.members {
		if other.State == to {
			orders = append(orders, Order{k, Event{Kind: kind, Reason: g.says(i, reason)}})
		}
	}
	return orders
}

// can reports whether a member is Active or could be.
func (m Member) can() bool { return m.State == Active || m.State == Backup && m.Ready && !m.Held }

// faults tells each member of the first other one that is in Fault for a reason of its own, if that is news.
func (g *Group) faults() (orders []Order) {
	for k := range g.members {
		reason := ""
		for i, m := range g.members {
			if i != k && m.OwnFault != "" {
				reason = g.says(i, m.OwnFault)
				break
			}
		}
		if reason != g.told[k] {
			g.told[k] = reason
			orders = append(orders, Order{k, Event{Kind: GroupFault, Reason: reason}})
		}
	}
	return orders
}

func (g *Group) says(i int, reason string) string {
	return fmt.Sprintf("sync group, by %s: %s", g.names[i], reason)
}
