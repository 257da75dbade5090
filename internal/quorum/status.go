package quorum

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"pgvrrp/internal/control"
	"pgvrrp/internal/quorum/record"
)

// missingTime bounds what status asks of the log's leader.
const missingTime = 300 * time.Millisecond

// Status is the quorum as this node sees it. It asks the leader of the log what a blocked resource waits for.
func (n *Node) Status(ctx context.Context) *control.Quorum {
	m := n.members[0]
	file := n.current()
	identity := m.store.Identity()
	s := &control.Quorum{Node: n.o.Self.Name, Witness: n.o.Self.Witness, Cluster: identity.Cluster, Incarnation: identity.Incarnation,
		Guard: n.o.Kind, GuardError: n.o.Trouble, Policy: file.Policy, Lease: file.Lease.Seconds()}
	s.Leader, _ = m.log.Leader()
	members := map[string]string{}
	for _, v := range m.log.Members() {
		if v.Voter {
			members[v.ID] = v.Incarnation
			s.Votes++
		}
	}
	s.Needed = s.Votes/2 + 1
	links := map[string][]control.VoterLink{}
	refused := map[string]string{}
	for _, l := range m.net.Status() {
		x := control.VoterLink{Local: addrText(l.Local), Remote: l.Remote.String(), Up: l.Up, RTT: l.RTT.Seconds(), Error: l.LastError}
		if x.Error == "" {
			x.Error = l.Refused // to send a ping is no success if the other side drops it
		}
		links[l.Peer] = append(links[l.Peer], x)
		refused[l.Peer] = l.Refused
	}
	var lately bool
	s.Rejected, lately = m.net.Rejected()
	for _, v := range file.Voters {
		for _, id := range voterIDs(v) {
			x := control.Voter{ID: id, Node: v.Name, Witness: v.Witness, Self: v.Name == n.o.Self.Name, Links: links[id]}
			for _, a := range v.Addrs {
				x.Addresses = append(x.Addresses, a.String())
			}
			x.Incarnation, x.Member = members[id]
			x.Heard = x.Self
			for _, l := range x.Links {
				x.Heard = x.Heard || l.Up
			}
			s.Voters = append(s.Voters, x)
		}
	}
	for _, m := range n.members {
		k := slices.IndexFunc(s.Voters, func(v control.Voter) bool { return v.ID == m.id })
		if k >= 0 {
			s.Voters[k].Silent = m.silent().Seconds()
		}
	}
	s.Trouble = n.trouble(m, s, refused)
	if lately {
		s.Trouble = append(s.Trouble, "refused since the start, the last within a minute: "+counts(s.Rejected))
	}
	lost := s.Leader == "" && len(heardMembers(s)) < s.Needed
	for _, r := range m.order {
		x, blocked := m.resource(r)
		// The record of a holder whose lease ran out stays as it was until there is a majority for another.
		blocked = blocked || !x.Live && (lost || x.Holder != "" && !hears(s, x.Holder))
		if blocked && x.Missing == "" {
			x.Missing = n.missing(ctx, m, s, r.name)
		}
		s.Resources = append(s.Resources, x)
	}
	return s
}

// heardMembers are the voters that count and are heard.
func heardMembers(s *control.Quorum) []string {
	var heard []string
	for _, v := range s.Voters {
		if v.Heard && v.Member {
			heard = append(heard, v.ID)
		}
	}
	return heard
}

// hears reports whether a voter of the node is heard.
func hears(s *control.Quorum, node string) bool {
	return slices.ContainsFunc(s.Voters, func(v control.Voter) bool { return v.Node == node && v.Heard })
}

// counts lists the reasons in order.
func counts(by map[string]uint64) string {
	var all []string
	for _, name := range slices.Sorted(maps.Keys(by)) {
		all = append(all, fmt.Sprintf("%s %d", name, by[name]))
	}
	return strings.Join(all, ", ")
}

// trouble is what an operator should know. refused says of a voter why it and this one do not talk to each other.
func (n *Node) trouble(m *member, s *control.Quorum, refused map[string]string) []string {
	var all []string
	switch waits := m.log.Waiting(); {
	case s.Cluster == "":
		all = append(all, "this voter is not part of the quorum yet: "+waits)
	case waits != "":
		all = append(all, "this voter takes no part in the quorum: "+waits)
	}
	for _, other := range n.members[1:] {
		if waits := other.log.Waiting(); waits != "" {
			all = append(all, fmt.Sprintf("voter %s takes no part in the quorum: %s", other.id, waits))
		}
	}
	if s.Guard != "nftables" && !s.Witness {
		all = append(all, fmt.Sprintf("guard %s: the kernel does not shut the virtual addresses at the lease's end", s.Guard))
	}
	for _, v := range s.Voters {
		switch why := refused[v.ID]; {
		case !v.Heard && why != "":
			all = append(all, fmt.Sprintf("voter %s is not heard: %s", v.ID, why))
		case !v.Heard:
			all = append(all, fmt.Sprintf("voter %s is not heard", v.ID))
		case why != "":
			all = append(all, fmt.Sprintf("voter %s: %s", v.ID, why))
		case !v.Member && s.Cluster != "":
			all = append(all, fmt.Sprintf("voter %s does not count: it is not in the membership", v.ID))
		}
		if v.Silent > 0 {
			all = append(all, fmt.Sprintf("voter %s does not vote on leases for another %.0f ms: it has started just now", v.ID, v.Silent*1000))
		}
		all = append(all, linkTrouble(v, len(n.o.Self.Addrs))...)
	}
	if err := m.log.Trouble(); err != nil {
		all = append(all, err.Error())
	}
	return all
}

// linkTrouble names the links to a voter that are down while another is up. A voter with fewer addresses than this one, which has so
// many, or with more, need not reach all of the other's: of such links only one that has worked is missed.
func linkTrouble(v control.Voter, own int) (all []string) {
	for _, l := range v.Links {
		if v.Heard && !l.Up && (l.RTT > 0 || len(v.Addresses) == own) {
			all = append(all, fmt.Sprintf("link %s - %s to voter %s is down", l.Local, l.Remote, v.ID))
		}
	}
	return all
}

// silent is how long this voter still keeps quiet after its start.
func (m *member) silent() (left time.Duration) {
	stopped := m.ask(func(now time.Duration) error {
		for _, r := range m.order {
			left = max(left, r.voter.Silent(now))
		}
		return nil
	})
	if stopped != nil {
		return 0
	}
	return left
}

// resource is one of them as its loop sees it; blocked means that nobody is known to be its active holder.
func (m *member) resource(r *machines) (x control.Resource, blocked bool) {
	stopped := m.ask(func(now time.Duration) error {
		x, blocked = m.view(now, r)
		return nil
	})
	if stopped != nil {
		return control.Resource{Name: r.name, Kind: string(r.kind)}, false
	}
	return x, blocked
}

func (m *member) view(now time.Duration, r *machines) (control.Resource, bool) {
	x := control.Resource{Name: r.name, Kind: string(r.kind), Rule: control.Rule{S: []string{}}}
	if rec := r.rec; rec != nil {
		x.SystemID, x.Epoch, x.Phase, x.Timeline, x.Why, x.Paused = rec.SystemID, rec.Epoch, rec.Phase.String(), rec.TLI, rec.Why, rec.Paused
		x.SyncNum, x.MinCopies = rec.SyncNum, rec.MinCopies
		if rec.Phase == record.Granted || rec.Phase == record.Active {
			x.Holder = rec.Holder.Node
		}
		x.Rule.Holder, x.Rule.Version = rec.Rule.Holder.Node, rec.RuleVer
		for _, s := range rec.Rule.S {
			x.Rule.S = append(x.Rule.S, s.Node)
		}
		x.Rule.Gone = m.gone(rec.Rule)
		for _, t := range rec.Ledger {
			x.Ledger = append(x.Ledger, control.Timeline(t))
		}
		x.Mine = rec.Holds(m.n.o.Self.Name, m.n.boot)
	}
	if r.holder != nil {
		_, deadline, by := r.holder.Deadline()
		if x.Live = r.holder.Live(now); x.Live {
			x.Left, x.Deadline, x.By = (deadline - now).Seconds(), int64(deadline), by.String()
		}
		x.Eligible, x.Ineligible = r.told.On, r.told.Reason
		x.Pledged, x.Parked, x.Renewals = r.candidate.Promised(), r.parked, r.renewals
		if r.agent != nil {
			a := r.agent.hello
			x.Agent = &a
		}
	}
	if m.leading {
		x.Missing = r.coordinator.Missing(now)
	}
	return x, x.Phase != record.Active.String() || x.Mine && !x.Live
}

// gone are the nodes of a rule that are in the membership with another state directory than the rule means.
func (m *member) gone(r record.Rule) (nodes []string) {
	incarnations := m.incarnations()
	for _, x := range r.Members() {
		if is := incarnations[x.Node]; is != "" && is != x.Incarnation {
			nodes = append(nodes, x.Node)
		}
	}
	return nodes
}

// incarnations are the state directories of the membership, by the voter.
func (m *member) incarnations() map[string]string {
	all := map[string]string{}
	for _, v := range m.log.Members() {
		if v.Incarnation != "" {
			all[v.ID] = v.Incarnation
		}
	}
	return all
}

// missing asks the leader what a resource waits for, or says what the log itself does.
func (n *Node) missing(ctx context.Context, m *member, s *control.Quorum, resource string) string {
	if waits := m.log.Waiting(); waits != "" || s.Cluster == "" {
		return waits
	}
	if s.Leader == "" {
		heard := heardMembers(s)
		return fmt.Sprintf("no leader of the log: %d of %d votes are needed, heard %s", s.Needed, s.Votes, strings.Join(heard, ", "))
	}
	ctx, cancel := context.WithTimeout(ctx, missingTime)
	defer cancel()
	return m.missing(ctx, resource)
}

// missing is the coordinator's word, here or at the leader.
func (m *member) missing(ctx context.Context, resource string) string {
	r := m.machines[resource]
	if r == nil {
		return "no such resource in the file of " + m.id
	}
	id, ours := m.log.Leader()
	if !ours {
		if id == "" {
			return "the log has no leader"
		}
		a, err := m.rpc.callHeard(ctx, id, call{Missing: resource})
		if err != nil {
			return fmt.Sprintf("the log's leader %s does not answer: %v", id, err)
		}
		return a.Text
	}
	text := make(chan string, 1)
	m.post(func(now time.Duration) { text <- r.coordinator.Missing(now) })
	select {
	case t := <-text:
		return t
	case <-ctx.Done():
		return ""
	case <-m.done:
		return ""
	}
}

// Resource is one resource as this node sees it, without asking anybody.
func (n *Node) Resource(name string) (control.Resource, error) {
	m := n.members[0]
	r := m.machines[name]
	if r == nil {
		return control.Resource{}, fmt.Errorf("resource %s: not in the quorum block of the file", name)
	}
	x, _ := m.resource(r)
	return x, nil
}

func addrText(a netip.Addr) string {
	if !a.IsValid() {
		return "" // the routing table chooses
	}
	return a.String()
}
