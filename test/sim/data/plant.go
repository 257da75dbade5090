package data

import (
	"pgvrrp/internal/agent/core"
	"pgvrrp/internal/quorum/record"
)

// Plant is a bug put into a run, to see that the checks find it. Each changes how an action is carried out or what the machine is told,
// never the machine.
type Plant struct {
	VolatilePromise bool // the promise is not fsynced
	StaleRead       bool // the log is read without a barrier
	EarlySSN        bool // the SSN is loosened before the log has the rule
	NoBarrier       bool // a Grow neither proves the SSN nor takes a barrier
	NoHold          bool // a server that is not active runs without the hold
	GrantRules      bool // a grant changes the rule
	EarlyActive     bool // a holder that is only granted is shown as active: rewinds go toward it
	NoProbe         bool // nobody looks whether commits wait at all
	NoReserve       bool // timelines are not reserved
	NoSlots         bool // standbys connect without a slot: two walsenders may have one name
	AnyFlush        bool // a standby's word counts without regard to what was sent to it
	BlindFence      bool // a fence does not see that the standby goes by a timeline that it has no WAL of
	NoLeave         bool // a standby takes itself for let go by a holder that did not answer
	HalfRecords     bool // what a standby has received of a record counts as if it had it whole
	NeverWaits      bool // a server that waits for WAL in vain is taken for a busy one
}

func (p *Plant) hold(n *node) core.SSN {
	n.held = true
	if p.NoHold {
		return core.SSN{}
	}
	return core.SSN{Hold: true}
}

// shown is the SSN that a fresh session sees.
func (p *Plant) shown(n *node) core.SSN {
	if p.NoHold && n.held {
		return core.SSN{Hold: true}
	}
	return n.pg.conf.ssn
}

// ready reports whether the server may be rewound to.
func (p *Plant) ready(n *node) bool { return n.pg.ready || p.EarlyActive }

func (p *Plant) sent(c *conn) int {
	if p.AnyFlush {
		return max(c.sent, c.flush)
	}
	return c.sent
}

// view changes what vrrpd shows.
func (p *Plant) view(n *node, v core.View) core.View {
	if p.EarlyActive && v.Phase == core.Granted && !v.Mine {
		v.Phase = core.Active
		v.Rule = core.Rule{Holder: v.Holder, Version: v.Rule.Version}
	}
	return v
}

// setRule sees a proposal before it goes out.
func (p *Plant) setRule(n *node, a core.Action) {
	if p.EarlySSN && n.pg.primary && n.activated == a.Epoch {
		n.disk.file.ssn = core.SSN{Names: a.Names}
		n.disk.synced = n.disk.file
		n.reload()
	}
}

// applied changes the record after a command.
func (p *Plant) applied(s *Sim, c record.Command) {
	if !p.GrantRules || c.Op != record.Grant {
		return
	}
	r := *s.state.Get(resource)
	r.Rule = record.Rule{Holder: c.Member}
	for _, n := range s.nodes {
		if n.report.epoch == c.Epoch && n.name != c.Member.Node {
			r.Rule.S = append(r.Rule.S, n.self())
		}
	}
	s.state.Resources[resource] = &r
}
