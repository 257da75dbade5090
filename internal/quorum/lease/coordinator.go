package lease

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"pgvrrp/internal/quorum/record"
)

// CoordinatorOptions are what a coordinator needs to know.
type CoordinatorOptions struct {
	Resource string
	Boot     record.Boot
	Params   Params
	Start    time.Duration
}

// patience is how long an election waits for a better candidate after the first.
const patience = 20 * time.Millisecond

// A grant that comes to nothing costs a timeline number for ever, and what made it fail may last for hours, as a full disk does. So from the
// third in a row on, an election waits: restFirst, twice that, and so on up to restMost, counted from the last grant.
const (
	restAfter = 3
	restFirst = 100 * time.Millisecond
	restMost  = 10 * time.Second
)

// Coordinator ends, beside the leader of the log, the epoch of a holder that is gone and grants the next. It holds no right: all
// that it does is asked of the voters and checked by the log. It takes Tick, Received (Renew, WouldSeal, Wait, Sealed, Refused,
// Report, Want), Known, Configured, Leading and Submitted.
type Coordinator struct {
	o   CoordinatorOptions
	cfg Configuration
	rec *record.Resource

	leading bool
	renewed time.Duration // when the last renewal of the record's epoch was seen here
	reports []report
	failed  []string      // who was granted an epoch since the last Active one, and did not become active
	vain    int           // grants in a row that came to nothing, or may yet
	granted time.Duration // when the last of them was seen here

	// one question at a time: first without effect, then with
	asking  bool
	sealing bool
	seq     uint64
	votes   []vote // by place in cfg.Voters
	askAt   time.Duration

	flight  bool
	stuck   bool // the record is awaited: nothing is submitted twice for one state
	retryAt time.Duration
	first   time.Duration // when the first good report of this election came
	wait    time.Duration // from then on, for a better one

	out actions
}

type report struct {
	at       time.Duration
	member   record.Member
	boot     record.Boot
	hold     time.Duration
	pledged  uint64
	ok       bool
	why      string
	priority uint8
	pledge   Pledge
}

type vote struct {
	would, sealed bool
	heard         bool
	refusal       Refusal
	at            time.Duration // not asked before
}

// NewCoordinator makes one that does not lead.
func NewCoordinator(o CoordinatorOptions) *Coordinator {
	return &Coordinator{o: o, renewed: o.Start}
}

// Wake is when the machine wants a Tick.
func (c *Coordinator) Wake() time.Duration {
	if !c.leading || c.rec == nil || c.rec.Paused || c.flight || c.stuck {
		return never
	}
	at := never
	switch c.rec.Phase {
	case record.Granted, record.Active:
		at = max(c.renewed+c.o.Params.Lease, c.settled())
		switch {
		case c.sealing:
			at = c.askAt
		case c.asking: // a lease that was renewed late is let run out first
			at = max(c.askAt, c.renewed+c.o.Params.Lease)
		}
	case record.Electing:
		if c.first != 0 {
			at = c.first + c.wait
		}
	}
	if c.retryAt != 0 && (at == never || at < c.retryAt) {
		at = c.retryAt
	}
	return at
}

// settled is when every lease of a former membership has run out.
func (c *Coordinator) settled() time.Duration {
	if !c.cfg.Committed {
		return never
	}
	return c.cfg.Since + c.o.Params.Wait(max(c.o.Params.Hold(), c.rec.Hold))
}

// Step takes one event. The actions are valid until the next Step.
func (c *Coordinator) Step(now time.Duration, ev Event) []Action {
	c.out = c.out[:0]
	switch ev.Kind {
	case Known:
		c.known(now, ev.Record)
	case Configured:
		if ev.Configuration.Config != c.cfg.Config {
			c.stop() // other voters, another majority
		}
		c.cfg = *ev.Configuration
	case Leading:
		if c.leading = ev.On; !c.leading {
			c.stop()
		}
		c.flight, c.stuck, c.retryAt = false, false, 0
		c.granted = 0 // whoever begins to lead tries at once: what failed may have been the way to the last leader
	case Submitted:
		c.flight = false
		if ev.Err != nil {
			c.stuck, c.retryAt = false, now+c.o.Params.Every()/2
		}
	case Received:
		c.received(now, ev.From, ev.Message)
	}
	if c.leading && c.rec != nil && !c.flight && !c.stuck && now >= c.retryAt {
		c.retryAt = 0
		c.act(now)
	}
	return c.out
}

func (c *Coordinator) known(now time.Duration, r *record.Resource) {
	if c.rec != nil && r.Index <= c.rec.Index {
		return
	}
	old := c.rec
	c.rec, c.stuck, c.retryAt = r, false, 0
	if old == nil || r.Epoch != old.Epoch {
		c.stop()
		c.first = 0
	}
	if r.Phase == record.Granted && (old == nil || old.Phase != record.Granted || old.Epoch != r.Epoch) {
		c.renewed = now // it has not had the time to renew
		c.vain++
		c.granted = now
		if !slices.Contains(c.failed, r.Holder.Node) {
			c.failed = append(c.failed, r.Holder.Node)
		}
	}
	// An override goes from any phase to the release of another epoch: an operator wants it now.
	if r.Phase == record.Active || r.Phase == record.Released && old != nil && r.Epoch != old.Epoch {
		c.failed, c.vain = c.failed[:0], 0
	}
}

// rest is until when the next election waits because the ones before came to nothing; one that somebody is preferred in does not.
func (c *Coordinator) rest() time.Duration {
	if c.vain < restAfter || c.granted == 0 || c.rec.Prefer != "" {
		return 0
	}
	return c.granted + min(restFirst<<min(c.vain-restAfter, 10), restMost)
}

// stop forgets what was asked.
func (c *Coordinator) stop() { c.asking, c.sealing, c.votes = false, false, c.votes[:0] }

func (c *Coordinator) received(now time.Duration, from string, m *Message) {
	switch m.Kind {
	case Renew:
		if c.rec != nil && m.Epoch == c.rec.Epoch {
			c.renewed = now
			if !slices.ContainsFunc(c.votes, func(v vote) bool { return v.sealed }) {
				c.stop() // it lives again, and nobody has sealed: what the voters said is out of date
			}
		}
	case Report:
		c.report(now, from, m)
	case Want:
		// A node misses its master: whether the lease has run out is asked at once, not believed.
		if c.leading && c.rec != nil && (c.rec.Phase == record.Granted || c.rec.Phase == record.Active) && !c.asking && !c.sealing &&
			now-c.renewed > c.o.Params.Every()*2 {
			c.renewed = min(c.renewed, now-c.o.Params.Lease)
		}
	case WouldSeal, Wait, Sealed, Refused:
		c.answered(now, from, m)
	}
}

func (c *Coordinator) report(now time.Duration, from string, m *Message) {
	x := report{at: now, member: record.Member{Node: from, Incarnation: m.Incarnation}, boot: m.Boot, hold: m.Hold, pledged: m.Epoch, ok: m.OK, why: m.Text,
		priority: m.Priority, pledge: Pledge{Epoch: m.Epoch, SystemID: m.SystemID, TLI: m.TLI, LSN: m.LSN}}
	for k := range c.reports {
		if c.reports[k].member.Node == from {
			c.reports[k] = x
			return
		}
	}
	c.reports = append(c.reports, x)
}

func (c *Coordinator) answered(now time.Duration, from string, m *Message) {
	k := c.cfg.index(from)
	if k < 0 || k >= len(c.votes) || m.Boot != c.o.Boot || m.Seq != c.seq || m.Config != c.cfg.Config {
		if m.Kind == Refused && k >= 0 && k < len(c.votes) && m.Seq == c.seq && m.Boot == c.o.Boot {
			c.votes[k].heard, c.votes[k].refusal = true, m.Refusal
		}
		return
	}
	v := &c.votes[k]
	v.heard, v.refusal = true, NotRefused
	switch m.Kind {
	case WouldSeal:
		v.would = true
	case Wait:
		v.would = false
		v.at = now + m.Hold + time.Millisecond
	case Sealed:
		if m.Epoch >= c.rec.Epoch {
			v.would, v.sealed = true, true
		}
	case Refused:
		v.would, v.refusal = false, m.Refusal
	}
	c.askAt = min(c.askAt, max(v.at, now))
}

// act does what the record asks for now.
func (c *Coordinator) act(now time.Duration) {
	r := c.rec
	if r.Paused {
		return
	}
	if at := c.rest(); now < at && r.Phase != record.Electing {
		c.retryAt = at
		return
	}
	switch r.Phase {
	case record.Released:
		if who := c.contact(now); who != "" {
			c.submit(record.Command{Op: record.Begin, Resource: c.o.Resource, Epoch: r.Epoch + 1, Cause: record.ByRelease, Why: r.Why})
		} else {
			c.retryAt = now + c.o.Params.Every()/4
		}
	case record.Electing:
		c.elect(now)
	case record.Granted, record.Active:
		c.expire(now)
	}
}

func (c *Coordinator) submit(cmd record.Command) {
	c.flight, c.stuck = true, true
	c.out.submit(cmd)
}

// expire ends the epoch of a holder that no longer renews: it asks a majority whether it would seal, and only if so has it do it.
func (c *Coordinator) expire(now time.Duration) {
	if now < c.renewed+c.o.Params.Lease && !c.sealing {
		return
	}
	if now < c.settled() || c.contact(now) == "" {
		c.askAt = now + c.o.Params.Every()/2
		if now >= c.settled() {
			c.retryAt = c.askAt
		}
		return
	}
	if !c.asking && !c.sealing {
		c.question(now)
		c.asking = true
	}
	would, sealed := 0, 0
	for _, v := range c.votes {
		if v.would {
			would++
		}
		if v.sealed {
			sealed++
		}
	}
	if c.asking && would >= c.cfg.Majority() {
		seals := c.votes
		c.asking, c.sealing = false, true
		c.seq++
		for k := range seals {
			seals[k].at = 0
		}
		c.askAt = now
	}
	if sealed >= c.cfg.Majority() {
		c.submit(record.Command{Op: record.Begin, Resource: c.o.Resource, Epoch: c.rec.Epoch + 1, Cause: record.BySeals,
			Why: fmt.Sprintf("no renewal by %s for %v", c.rec.Holder, (now - c.renewed).Round(time.Millisecond))})
		return
	}
	if now >= c.askAt {
		c.ask(now)
	}
}

// question begins to ask anew.
func (c *Coordinator) question(now time.Duration) {
	c.seq++
	c.votes = append(c.votes[:0], make([]vote, len(c.cfg.Voters))...)
	c.askAt = now
}

// ask sends the question to every voter that has not answered it and may by now.
func (c *Coordinator) ask(now time.Duration) {
	m := Message{Kind: SealQuery, Resource: c.o.Resource, Epoch: c.rec.Epoch, Seq: c.seq, Boot: c.o.Boot, Config: c.cfg.Config}
	if c.sealing {
		m.Kind = SealIt
	}
	every := c.o.Params.Every() / 2
	c.askAt = now + every
	for k := range c.votes {
		v := &c.votes[k]
		if v.sealed || c.asking && v.would {
			continue
		}
		if v.at > now {
			c.askAt = min(c.askAt, v.at)
			continue
		}
		v.at = now + every
		c.out.send(c.cfg.Voters[k], m)
	}
}

// contact is a node that could be granted the next epoch and is there; "": none.
func (c *Coordinator) contact(now time.Duration) string {
	for k := range c.reports {
		x := &c.reports[k]
		if now-x.at < c.o.Params.Contact() && c.rec.Rule.Has(x.member) {
			return x.member.Node
		}
	}
	return ""
}

// good reports whether x can be granted the record's epoch.
func (c *Coordinator) good(now time.Duration, x *report) bool {
	return x.ok && x.pledged == c.rec.Epoch && now-x.at < c.o.Params.Contact() && c.rec.Rule.Has(x.member) && x.boot != 0 && x.hold > 0 &&
		(c.rec.SystemID == 0 || x.pledge.SystemID == c.rec.SystemID)
}

// elect grants the epoch to the best of those that pledged, after waiting a little for better ones.
func (c *Coordinator) elect(now time.Duration) {
	var best *report
	missing := false // somebody who is there has not pledged yet
	c.wait = patience
	for k := range c.reports {
		x := &c.reports[k]
		if !c.rec.Rule.Has(x.member) || now-x.at >= c.o.Params.Contact() {
			continue
		}
		if !c.good(now, x) {
			if x.ok && now-x.at < c.o.Params.Lease { // one that has just gone silent will not pledge
				missing = true
				if x.member.Node == c.rec.Prefer && !slices.Contains(c.failed, c.rec.Prefer) {
					c.wait = max(patience, c.o.Params.Lease/2) // whoever asked for it waits for it
				}
			}
			continue
		}
		if best == nil || c.better(x, best) {
			best = x
		}
	}
	if best == nil {
		c.first = 0
		return
	}
	if c.first == 0 {
		c.first = now
	}
	if now < c.first+c.wait && missing && best.member.Node != c.rec.Prefer {
		return
	}
	cmd := record.Command{Op: record.Grant, Resource: c.o.Resource, Epoch: c.rec.Epoch, Member: best.member, Boot: best.boot, Hold: best.hold, Why: c.rec.Why}
	if c.rec.Kind == record.PostgreSQL {
		cmd.TLI = max(c.rec.LastTimeline(), best.pledge.TLI) + 1
	}
	c.submit(cmd)
}

// better reports whether a goes before b: whoever was wanted, then who has not just failed, then the most data, then the VRRP
// priority, then the name.
func (c *Coordinator) better(a, b *report) bool {
	rank := func(x *report) int {
		switch {
		case slices.Contains(c.failed, x.member.Node):
			return 0
		case x.member.Node == c.rec.Prefer:
			return 2
		default:
			return 1
		}
	}
	return cmp.Or(
		cmp.Compare(rank(a), rank(b)),
		cmp.Compare(a.pledge.TLI, b.pledge.TLI),
		cmp.Compare(a.pledge.LSN, b.pledge.LSN),
		cmp.Compare(a.priority, b.priority),
		cmp.Compare(b.member.Node, a.member.Node),
	) > 0
}

// Missing says what stands between the record and an active holder; "" when nothing does, or nothing that is known here.
func (c *Coordinator) Missing(now time.Duration) string {
	r := c.rec
	switch {
	case r == nil:
		return "the resource is not in the log yet"
	case r.Paused:
		return "paused by an operator"
	case r.Phase == record.Active && now-c.renewed < c.o.Params.Lease:
		return ""
	case !c.leading:
		return ""
	case r.Phase == record.Granted && c.granted != 0 && now-c.granted > time.Second && now-c.renewed < c.o.Params.Lease:
		return fmt.Sprintf("granted to %s %v ago, which is not active yet", r.Holder.Node, (now - c.granted).Round(100*time.Millisecond))
	case r.Phase == record.Released && now < c.rest():
		return fmt.Sprintf("%d grants in a row came to nothing (the last: %s): the next election is in %v", c.vain, r.Why, (c.rest() - now).Round(100*time.Millisecond))
	}
	if r.Phase == record.Granted || r.Phase == record.Active {
		if text := c.missingVotes(now); text != "" {
			return text
		}
	}
	return c.missingNode(now)
}

func (c *Coordinator) missingVotes(now time.Duration) string {
	if now < c.settled() {
		return "the membership of the voters has just changed"
	}
	if !c.asking && !c.sealing {
		return ""
	}
	var heard, against []string
	for k, v := range c.votes {
		switch {
		case v.would:
			heard = append(heard, c.cfg.Voters[k])
		case v.refusal != NotRefused:
			against = append(against, fmt.Sprintf("%s refuses: %v", c.cfg.Voters[k], v.refusal))
		case v.heard:
			against = append(against, c.cfg.Voters[k]+" waits for the old lease to run out")
		}
	}
	if len(heard) >= c.cfg.Majority() {
		return ""
	}
	return strings.Join(append([]string{fmt.Sprintf("%d of %d votes are needed, have %d (%s)", c.cfg.Majority(), len(c.cfg.Voters), len(heard),
		strings.Join(heard, ", "))}, against...), "; ")
}

// missingNode says why none of the nodes of the rule is granted the epoch.
func (c *Coordinator) missingNode(now time.Duration) string {
	var parts []string
	for _, m := range c.rec.Rule.Members() {
		k := slices.IndexFunc(c.reports, func(x report) bool { return x.member.Node == m.Node })
		switch {
		case k < 0 || now-c.reports[k].at >= c.o.Params.Contact():
			parts = append(parts, m.Node+" is not heard")
		case c.reports[k].member != m:
			parts = append(parts, m.Node+" has lost its state directory")
		case !c.reports[k].ok:
			parts = append(parts, m.Node+" is not eligible: "+c.reports[k].why)
		case c.rec.Phase == record.Electing && c.reports[k].pledged != c.rec.Epoch:
			parts = append(parts, m.Node+" has not pledged yet")
		default:
			return ""
		}
	}
	return fmt.Sprintf("the rule is %v and needs one of them: %s", c.rec.Rule, strings.Join(parts, "; "))
}
