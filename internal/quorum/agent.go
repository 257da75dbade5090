package quorum

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"pgvrrp/internal/control"
	"pgvrrp/internal/quorum/lease"
	"pgvrrp/internal/quorum/record"
)

// Attach takes the connection of an agent: until detach, it speaks for what stands behind the resource. A second one is refused.
func (n *Node) Attach(h control.AgentHello, pid int32) (messages <-chan control.AgentMessage, detach func(), err error) {
	m, r, err := n.dataResource(h.Resource)
	if err != nil {
		return nil, nil, err
	}
	if h.Node != n.o.Self.Name {
		return nil, nil, fmt.Errorf("attach agent of node %s: this node is %s", h.Node, n.o.Self.Name)
	}
	if r.kind != record.PostgreSQL {
		return nil, nil, fmt.Errorf("attach agent: resource %s is %s, and needs none", r.name, r.kind)
	}
	a := &agent{messages: make(chan control.AgentMessage, messageQueue), ok: h.Eligible, why: h.Reason, hello: control.Agent{Node: h.Node, SystemID: h.SystemID, Version: h.Version, Port: h.Port, PID: pid, Since: time.Now()}}
	err = m.ask(func(now time.Duration) error {
		if r.agent != nil {
			return fmt.Errorf("attach agent: process %d speaks for resource %s already", r.agent.hello.PID, r.name)
		}
		if r.rec != nil && r.rec.SystemID != 0 && r.rec.SystemID != h.SystemID {
			a.ok, a.why = false, fmt.Sprintf("its data directory has system identifier %d, the cluster's is %d", h.SystemID, r.rec.SystemID)
		}
		r.agent = a
		if r.parked {
			m.park(now, r, false, nil) // for a stop of the agent before, which this one knows nothing of
		}
		m.judge(now, r)
		m.n.watch.notify()
		return nil
	})
	if err != nil {
		return nil, nil, err
	}
	m.listen(r, a)
	return a.messages, func() { m.post(func(now time.Duration) { m.detach(now, r, a, now) }) }, nil
}

// An agent speaks each half second, whatever its server does. One that has not so many times in a row is gone, though its connection stays: it was
// stopped, or hangs. It is counted, not timed, because we may have been stopped ourselves.
const (
	listenEvery = agentReturns / silences
	silences    = 4
)

// listen takes an agent that is silent for gone.
func (m *member) listen(r *machines, a *agent) {
	time.AfterFunc(listenEvery, func() {
		m.post(func(now time.Duration) {
			if r.agent == a && m.heard(now, r, a) {
				m.listen(r, a)
			}
		})
	})
}

// heard reports whether an agent may still be there.
func (m *member) heard(now time.Duration, r *machines, a *agent) bool {
	if a.silent++; a.spoke {
		a.spoke, a.silent = false, 0
	}
	if a.silent < silences {
		return true
	}
	m.lg.Warn("the agent is silent, and taken for gone", "resource", r.name, "pid", a.hello.PID)
	m.detach(now, r, a, now-agentReturns)
	close(a.messages) // it may come back, by a connection of its own
	return false
}

// detach lets go of an agent that is gone since then, unless that was done.
func (m *member) detach(now time.Duration, r *machines, a *agent, since time.Duration) {
	if r.agent != a {
		return
	}
	r.agent, r.gone = nil, since
	m.stand(now, r, lease.Event{Kind: lease.Pledged})
	m.judge(now, r)
	m.n.watch.notify()
	time.AfterFunc(agentReturns, func() {
		m.post(func(now time.Duration) {
			if r.agent == nil {
				m.judge(now, r)
			}
		})
	})
}

// spoke notes that our own agent has said something.
func (m *member) spoke(r *machines) {
	m.post(func(time.Duration) {
		if r.agent != nil {
			r.agent.spoke = true
		}
	})
}

// AgentEligible is the agent's newest verdict on its server.
func (n *Node) AgentEligible(resource string, ok bool, reason string) error {
	m, r, err := n.dataResource(resource)
	if err != nil {
		return err
	}
	return m.ask(func(now time.Duration) error {
		if r.agent == nil {
			return fmt.Errorf("report for resource %s: no agent is connected", resource)
		}
		r.agent.ok, r.agent.why, r.agent.spoke = ok, reason, true
		m.judge(now, r)
		return nil
	})
}

// Pledge takes an agent's pledge.
func (n *Node) Pledge(p control.PledgeReport) error {
	m, r, err := n.dataResource(p.Resource)
	if err != nil {
		return err
	}
	return m.ask(func(now time.Duration) error {
		switch {
		case r.agent == nil:
			return fmt.Errorf("pledge for resource %s: no agent is connected", p.Resource)
		case r.rec == nil || p.Epoch > r.rec.Epoch:
			return fmt.Errorf("pledge for resource %s: no epoch %d is known here", p.Resource, p.Epoch)
		}
		m.stand(now, r, lease.Event{Kind: lease.Pledged, Pledge: lease.Pledge{Epoch: p.Epoch, SystemID: p.SystemID, TLI: p.TLI, LSN: p.LSN}})
		return nil
	})
}

// Advanced notes that the server behind a resource has more WAL than before. The voters remember how many words each directory has given: who comes
// back with fewer has a disk of before, and what its server had acknowledged since is not there either.
func (n *Node) Advanced(q control.AdvanceReport) error {
	m, r, err := n.dataResource(q.Resource)
	if err != nil {
		return err
	}
	if m.full.Load() { // no word is worth a voter: where files are copied on write there may be no room for it
		return nil
	}
	return m.store.PutWord("note more WAL of " + r.name)
}

// Init makes the resource of a PostgreSQL cluster with this node's data as the truth.
func (n *Node) Init(ctx context.Context, q control.InitRequest) error {
	m, r, err := n.dataResource(q.Resource)
	if err != nil {
		return err
	}
	if r.kind != record.PostgreSQL {
		return fmt.Errorf("init resource %s: it is %s, and makes itself", q.Resource, r.kind)
	}
	return m.apply(ctx, record.Command{Op: record.Init, Resource: q.Resource, Kind: record.PostgreSQL, SystemID: q.SystemID,
		Rule: record.Rule{Holder: m.self()}, SyncNum: q.SyncNum, MinCopies: q.MinCopies, Why: "made from the data of " + n.o.Self.Name})
}

// SetRule replaces the rule, as the holder of the epoch. Until the outcome is known, every node that either rule names counts.
func (n *Node) SetRule(ctx context.Context, q control.RuleRequest) error {
	m, r, err := n.dataResource(q.Resource)
	if err != nil {
		return err
	}
	c := record.Command{Op: record.SetRule, Resource: q.Resource, Epoch: q.Epoch, Member: m.self(), Boot: n.boot, Ver: q.Version, TLI: q.TLI, SwitchLSN: q.SwitchLSN, Parent: q.Parent}
	if err := m.ask(func(now time.Duration) error {
		if !r.holder.Live(now) {
			return fmt.Errorf("set the rule of %s: this node's lease does not run", q.Resource)
		}
		incarnations := m.incarnations()
		for _, name := range q.S {
			x := record.Member{Node: name, Incarnation: incarnations[name]}
			if x.Incarnation == "" {
				return fmt.Errorf("set the rule of %s: %s is not a member of the quorum", q.Resource, name)
			}
			if r.rec != nil && r.rec.RuleVer == q.Version && replaced(r.rec.Rule, x) {
				return fmt.Errorf("set the rule of %s: %s has lost the state directory with which the rule names it", q.Resource, name)
			}
			c.S = append(c.S, x)
		}
		m.hold(now, r, lease.Event{Kind: lease.Ruling, Names: q.S, Ver: q.Version})
		return nil
	}); err != nil {
		return err
	}
	return m.apply(ctx, c)
}

// replaced reports whether a rule names x's node with another state directory. Who stays was proved with that, and has nothing of it in another.
func replaced(r record.Rule, x record.Member) bool {
	return slices.ContainsFunc(r.Members(), func(was record.Member) bool { return was.Node == x.Node && was != x })
}

// GiveBack ends the epoch that this node holds.
func (n *Node) GiveBack(q control.GiveBackRequest) error {
	m, r, err := n.dataResource(q.Resource)
	if err != nil {
		return err
	}
	return m.ask(func(now time.Duration) error {
		if r.rec == nil || r.rec.Epoch != q.Epoch || !r.rec.Holds(n.o.Self.Name, n.boot) {
			return fmt.Errorf("release resource %s: this node does not hold epoch %d", q.Resource, q.Epoch)
		}
		m.hold(now, r, lease.Event{Kind: lease.GiveUp, Reason: q.Reason, Prefer: q.Prefer})
		return nil
	})
}

// Pause stops elections of a resource, or lets them go on.
func (n *Node) Pause(ctx context.Context, q control.PauseRequest) error {
	m, r, err := n.dataResource(q.Resource)
	if err != nil {
		return err
	}
	op := record.Resume
	if q.On {
		op = record.Pause
	}
	return m.apply(ctx, record.Command{Op: op, Resource: r.name, Why: q.Reason})
}

// Set changes how many standbys a commit waits for, and how many copies it needs.
func (n *Node) Set(ctx context.Context, q control.SetRequest) error {
	m, _, err := n.dataResource(q.Resource)
	if err != nil {
		return err
	}
	now, err := n.Read(ctx, q.Resource)
	if err != nil {
		return err
	}
	c := record.Command{Op: record.Set, Resource: q.Resource, SyncNum: now.SyncNum, MinCopies: now.MinCopies}
	if q.SyncNum != nil {
		c.SyncNum = *q.SyncNum
	}
	if q.MinCopies != nil {
		c.MinCopies = *q.MinCopies
	}
	return m.apply(ctx, c)
}

// messageQueue is how many messages may wait for an agent to read them.
const messageQueue = 16

// Park takes the addresses of a resource that this node holds off, as before a planned stop, while the lease runs on; or lets
// them come back.
func (n *Node) Park(ctx context.Context, q control.ParkRequest) error {
	m, r, err := n.dataResource(q.Resource)
	if err != nil {
		return err
	}
	off := make(chan struct{})
	if err := m.ask(func(now time.Duration) error {
		if r.rec == nil || r.rec.Epoch != q.Epoch || !r.rec.Holds(n.o.Self.Name, n.boot) {
			return fmt.Errorf("park resource %s: this node does not hold epoch %d", q.Resource, q.Epoch)
		}
		m.park(now, r, q.On, func() { close(off) })
		return nil
	}); err != nil || !q.On {
		return err
	}
	select {
	case <-off:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("park resource %s: the addresses are not off yet: %w", q.Resource, ctx.Err())
	}
}

// Read gives a resource as the log has it behind a barrier that begins with the call.
func (n *Node) Read(ctx context.Context, resource string) (control.Resource, error) {
	m, r, err := n.dataResource(resource)
	if err != nil {
		return control.Resource{}, err
	}
	a, err := m.lead(ctx, call{Read: resource}, nil)
	if err == nil && a.Error != "" {
		err = errors.New(a.Error)
	}
	if err != nil {
		return control.Resource{}, fmt.Errorf("read resource %s: %w", resource, err)
	}
	var x control.Resource
	err = m.ask(func(now time.Duration) error {
		if a.Record != nil {
			m.known(now, a.Record)
		}
		x, _ = m.view(now, r)
		return nil
	})
	return x, err
}

// Tell hands a message to the agent of another node.
func (n *Node) Tell(ctx context.Context, msg control.AgentMessage) error {
	m, r, err := n.dataResource(msg.Resource)
	if err != nil {
		return err
	}
	m.spoke(r)
	if len(msg.Text) > 4096 {
		return fmt.Errorf("tell %s: %d bytes are more than 4096", msg.To, len(msg.Text))
	}
	if !slices.Contains(dataNodes(n.current()), msg.To) {
		return fmt.Errorf("tell %s: it is no data node", msg.To)
	}
	msg.From = n.o.Self.Name
	if msg.To == msg.From {
		return m.deliver(msg)
	}
	a, err := m.rpc.call(ctx, msg.To, call{Tell: &msg})
	if err == nil && a.Error != "" {
		err = errors.New(a.Error)
	}
	if err != nil {
		return fmt.Errorf("tell %s: %w", msg.To, err)
	}
	return nil
}

// deliver hands a message to our own agent.
func (m *member) deliver(msg control.AgentMessage) error {
	r := m.machines[msg.Resource]
	if r == nil {
		return fmt.Errorf("no resource %s on %s", msg.Resource, m.id)
	}
	return m.ask(func(time.Duration) error {
		if r.agent == nil {
			return fmt.Errorf("no agent is connected on %s", m.id)
		}
		select {
		case r.agent.messages <- msg:
			return nil
		default:
			return fmt.Errorf("the agent on %s does not read its messages", m.id)
		}
	})
}

// AddVoter and RemoveVoter change the membership, at the log's leader.
func (n *Node) AddVoter(ctx context.Context, id string) error { return n.change(ctx, call{Add: id}) }

// RemoveVoter takes a voter out.
func (n *Node) RemoveVoter(ctx context.Context, id string) error {
	return n.change(ctx, call{Remove: id})
}

func (n *Node) change(ctx context.Context, q call) error {
	m := n.members[0]
	a, err := m.lead(ctx, q, func(ctx context.Context) error {
		if q.Add != "" {
			return m.log.Add(ctx, q.Add)
		}
		return m.log.Remove(ctx, q.Remove)
	})
	if err != nil {
		return err
	}
	if text := a.Error + a.Conflict; text != "" {
		return errors.New(text)
	}
	return nil
}

func (n *Node) dataResource(name string) (*member, *machines, error) {
	m := n.data()
	if m == nil {
		return nil, nil, fmt.Errorf("resource %s: this node is a witness", name)
	}
	r := m.machines[name]
	if r == nil {
		return nil, nil, fmt.Errorf("resource %s: not in the quorum block of the file", name)
	}
	return m, r, nil
}

func (m *member) self() record.Member {
	return record.Member{Node: m.n.o.Self.Name, Incarnation: m.store.Identity().Incarnation}
}

// ask has f run on the loop and waits for its answer.
func (m *member) ask(f func(now time.Duration) error) error {
	got := make(chan error, 1)
	m.post(func(now time.Duration) { got <- f(now) })
	select {
	case err := <-got:
		return err
	case <-m.done:
		return errors.New("the quorum extension has stopped")
	}
}
