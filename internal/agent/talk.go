package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"pgvrrp/internal/agent/core"
	"pgvrrp/internal/control"
	"pgvrrp/internal/postgres"
)

// message is what one agent tells another.
type message struct {
	Kind  string     `json:"kind"`
	ID    uint64     `json:"id,omitempty"`  // of ask and answer
	On    bool       `json:"on,omitempty"`  // of leave
	Why   string     `json:"why,omitempty"` // of leave
	What  string     `json:"what,omitempty"`
	To    string     `json:"to,omitempty"`
	Error string     `json:"error,omitempty"`
	State *NodeState `json:"state,omitempty"`
	Want  bool       `json:"want,omitempty"` // of state: tell me yours
}

const (
	kindState  = "state"
	kindLeave  = "leave"
	kindLeft   = "left"
	kindAsk    = "ask"
	kindAnswer = "answer"
)

// NodeState is what an agent says of its node.
type NodeState struct {
	Node       string        `json:"node"`
	Role       string        `json:"role"` // primary, standby, starting, down, no data
	SystemID   uint64        `json:"system_id,omitempty"`
	TLI        uint32        `json:"timeline,omitempty"`
	LSN        string        `json:"lsn,omitempty"`
	Upstream   string        `json:"upstream,omitempty"` // that it streams from
	Promotable bool          `json:"promotable"`
	WhyNot     string        `json:"not_promotable_because,omitempty"`
	Explain    []string      `json:"explain,omitempty"`
	Work       string        `json:"work,omitempty"`
	Version    string        `json:"version,omitempty"`
	Port       int           `json:"port,omitempty"`
	At         time.Duration `json:"-"` // when it was said, by our clock
}

// heard reports whether the agent has said something lately; one that never did has not.
func (s NodeState) heard(now time.Duration) bool { return s.At != 0 && now < s.At+core.HeardFor }

func (s NodeState) lsn() uint64 {
	l, err := postgres.ParseLSN(s.LSN)
	if err != nil {
		return 0
	}
	return uint64(l)
}

// explainBytes bounds what of Explain goes to the others: a message has at most 4096 bytes.
const explainBytes = 1500

// state is what we say of this node.
func (a *Agent) state() NodeState {
	s := &a.server
	n := NodeState{
		Node: a.known.Self, Role: roleOf(s, a.looked), SystemID: s.SystemID, TLI: s.Pos.TLI, Upstream: s.Upstream, Promotable: a.verdict.On, WhyNot: a.verdict.Text,
		Work: a.o.Database.Work(), Version: a.o.Database.Version(),
	}
	_, n.Port = a.o.Family.at(a.known.Self)
	if s.Pos.LSN != 0 {
		n.LSN = postgres.LSN(s.Pos.LSN).String()
	}
	room := explainBytes
	for _, line := range a.core.Explain() {
		if room -= len(line); room < 0 {
			break
		}
		n.Explain = append(n.Explain, line)
	}
	if len(n.WhyNot) > explainBytes {
		n.WhyNot = n.WhyNot[:explainBytes]
	}
	return n
}

func roleOf(s *core.Server, looked bool) string {
	switch {
	case !looked:
		return "unknown"
	case s.NoData:
		return "no data"
	case !s.Running:
		return "down"
	case !s.Answering:
		return "starting"
	case s.InRecovery:
		return "standby"
	}
	return "primary"
}

// gossip tells the others of this node: each TellEvery, and at once when something has changed that they may act on.
func (a *Agent) gossip(now time.Duration) {
	if !a.connected {
		return
	}
	if !a.looked { // there is nothing to tell, but that we are here
		if now >= a.tellAt {
			a.tellAt = now + core.TellEvery
			a.tellVerdict()
		}
		return
	}
	changed := a.told.Role != roleOf(&a.server, true) || a.told.TLI != a.server.Pos.TLI || a.told.Upstream != a.server.Upstream ||
		a.told.Promotable != a.verdict.On || a.told.WhyNot != a.verdict.Text
	if !changed && now < a.tellAt {
		return
	}
	a.told, a.tellAt = a.state(), now+core.TellEvery
	state := a.told
	a.tellVerdict() // again: vrrpd takes an agent that says nothing for gone, and verdicts that waited while it stood still may have overtaken each other
	for _, p := range a.known.peers() {
		a.send(p, message{Kind: kindState, State: &state, Want: a.fresh})
	}
	a.fresh = false
}

// send hands a message to another node's agent. That it is lost is nothing to act on: what counts is said again.
func (a *Agent) send(to string, m message) {
	a.calls.Go(func() error {
		ctx, cancel := context.WithTimeout(a.ctx, time.Second)
		defer cancel()
		if err := a.tell(ctx, to, m); err != nil {
			a.o.Log.Debug("tell another agent", "node", to, "message", m.Kind, "reason", err)
		}
		return nil
	})
}

func (a *Agent) tell(ctx context.Context, to string, m message) error {
	text, err := json.Marshal(m)
	if err != nil {
		return err
	}
	return a.o.Vrrpd.Tell(ctx, control.AgentMessage{Resource: a.o.Settings.Resource, To: to, Text: string(text)})
}

// receive takes what another node's agent says.
func (a *Agent) receive(from, text string) {
	var m message
	if err := json.Unmarshal([]byte(text), &m); err != nil {
		a.o.Log.Debug("message of another agent", "node", from, "reason", err)
		return
	}
	switch m.Kind {
	case kindState:
		if m.State != nil {
			m.State.Node, m.State.At = from, a.o.Now()
			a.last[from] = *m.State
			a.o.Family.tell(from, m.State.Port)
			a.step(core.Heard{Node: from})
		}
		if m.Want && a.looked {
			state := a.state()
			a.send(from, message{Kind: kindState, State: &state})
		}
	case kindLeave:
		a.o.Log.Info("a standby announces itself", "node", from, "leaves", m.On, "reason", m.Why)
		a.step(core.Leaving{Node: from, On: m.On, Why: m.Why})
	case kindLeft:
		for _, c := range a.lefts[from] {
			close(c)
		}
		delete(a.lefts, from)
	case kindAsk:
		why := ""
		if err := a.order(m.What, m.To); err != nil {
			why = err.Error()
		}
		a.send(from, message{Kind: kindAnswer, ID: m.ID, Error: why})
	case kindAnswer:
		if c := a.asks[m.ID]; c != nil {
			delete(a.asks, m.ID)
			c <- m
		}
	}
}

// wordTime is how long a look at a holder that is being promoted waits for its agent to say that it is the primary now.
const wordTime = 60 * time.Millisecond

// awaitWord waits until there is something to see at a node: whoever has just been granted the epoch says so as soon as it is the primary,
// and until then each look at it would only take processor time from its promotion. One that says nothing is looked at all the same.
func (a *Agent) awaitWord(ctx context.Context, node string) {
	wctx, cancel := context.WithTimeout(ctx, wordTime)
	defer cancel()
	began := a.o.Now()
	_ = a.until(wctx, func() (bool, error) { // in time or not, it is looked at now
		s, there := a.last[node]
		return !there || !s.heard(began) || s.Role != "standby" || a.resource.Holder != node || a.resource.Phase != core.Granted.String(), nil
	})
}

// leave tells the holder that this standby goes, and waits until nothing waits for it; or that it is back.
func (a *Agent) leave(ctx context.Context, act core.Action) error {
	left := make(chan struct{})
	if act.On {
		if err := a.ask(ctx, func() { a.lefts[act.Node] = append(a.lefts[act.Node], left) }); err != nil {
			return err
		}
	}
	err := a.tell(ctx, act.Node, message{Kind: kindLeave, On: act.On, Why: act.Text})
	if err != nil || !act.On {
		if act.On {
			a.post(func() {
				a.lefts[act.Node] = slices.DeleteFunc(a.lefts[act.Node], func(c chan struct{}) bool { return c == left })
			})
		}
		return err
	}
	select {
	case <-left:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("leave the synchronous set of %s: %w", act.Node, context.Cause(ctx))
	}
}

// order is what an operator wants of the holder; the error says at once that it can't be.
func (a *Agent) order(what, to string) error {
	if what != "switchover" {
		return fmt.Errorf("no such order: %q", what)
	}
	n := a.saidNext
	a.step(core.Wish{Kind: core.Switchover, Node: to})
	if text, refused := a.heard(n, func(s string) bool { return hasPrefix(s, "no switchover: ") }); refused {
		return errors.New(text)
	}
	return nil
}

// askNode has another node's agent carry out an order.
func (a *Agent) askNode(ctx context.Context, node, what, to string) error {
	ctx, cancel := context.WithTimeout(ctx, 2*orderTime)
	defer cancel()
	got := make(chan message, 1)
	var id uint64
	if err := a.ask(ctx, func() {
		a.askNext++
		id = a.askNext
		a.asks[id] = got
	}); err != nil {
		return err
	}
	if err := a.tell(ctx, node, message{Kind: kindAsk, ID: id, What: what, To: to}); err != nil {
		return err
	}
	select {
	case m := <-got:
		if m.Error != "" {
			return errors.New(m.Error)
		}
		return nil
	case <-ctx.Done():
		return fmt.Errorf("ask the agent of %s for a %s: no answer: %w", node, what, context.Cause(ctx))
	}
}

func hasPrefix(s, prefix string) bool { return len(s) >= len(prefix) && s[:len(prefix)] == prefix }

func itoa(n uint64) string { return strconv.FormatUint(n, 10) }

func equal(a, b []string) bool { return slices.Equal(a, b) }
