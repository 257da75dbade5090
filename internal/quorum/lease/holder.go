package lease

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"pgvrrp/internal/quorum/record"
)

// Policy is what a holder does that has lost its majority (no_quorum_policy).
type Policy string

// The policies. What is beyond the lease itself (a reboot) is done by who carries out Lapse.
const (
	Freeze  Policy = "freeze"  // stay while every node that could be granted the next epoch acknowledges, or there is none
	Stop    Policy = "stop"    // end with the lease
	Suicide Policy = "suicide" // and reboot
)

// HolderOptions are what a holder is.
type HolderOptions struct {
	Resource string
	Self     record.Member
	Boot     record.Boot
	Params   Params
	Hold     time.Duration // how long after its sending a renewal may have effect here: Params.Hold or LifetimeHold
	Policy   Policy
	Peers    []string      // the other data nodes of the file
	Activate time.Duration // T_promote: an epoch that is not Active within this, and perTimeline for each number below its own, is given back
}

// Contact is for how long a node that was not heard counts as there.
func (p Params) Contact() time.Duration { return 2*p.Lease + p.Lease/2 }

// Holder keeps the lease of one resource while the record grants it to this run of this node. It takes Tick, Received (Renewed,
// Refused, PeerOK, Report), Known, Configured, Eligible, Idle, Submitted, Ruling and GiveUp.
type Holder struct {
	o   HolderOptions
	cfg Configuration
	rec *record.Resource

	epoch    uint64 // being held; 0: none
	burnt    uint64 // never held again
	since    time.Duration
	live     bool
	deadline time.Duration
	by       Mode

	seq      uint64
	next     time.Duration // when the next round begins
	rounds   [8]round
	majority time.Duration // when the newest round that a majority acknowledged was sent
	idle     bool
	eligible bool
	why      string // not eligible
	prefer   string
	ended    string // why the newest epoch of ours ended; "": not one of this run

	flight  record.Command // in the log or on its way to it; Op "" none
	retryAt time.Duration
	unknown []string // nodes named by rules that may have replaced version
	version uint64   // that version
	heard   []heard

	out actions
}

// Mode is by whose word a lease lives.
type Mode uint8

// The modes.
const (
	ByNobody   Mode = iota
	ByMajority      // of the voters
	ByPeers         // frozen: by every node that could be granted the next epoch
	ByNone          // frozen: there is no such node
)

// String tells the mode.
func (m Mode) String() string {
	names := [...]string{"not live", "by a majority of the voters", "frozen: by every node of the rule", "frozen: alone, nobody else is eligible"}
	return names[m]
}

// round is one sending of renewals.
type round struct {
	seq    uint64
	sent   time.Duration
	cfg    Configuration
	acks   uint64 // bits of cfg.Voters
	count  int
	peers  []string // who said PeerOK
	asked  bool     // PeerRenew went out
	closed bool     // a majority acknowledged
}

type heard struct {
	member record.Member
	at     time.Duration
}

// NewHolder makes a holder of nothing.
func NewHolder(o HolderOptions) *Holder {
	return &Holder{o: o, idle: true, heard: make([]heard, 0, len(o.Peers))}
}

// Configure replaces the policy and the other data nodes of the file, from the next round on. Who has to agree to a frozen lease is
// the record's to say, not the file's.
func (h *Holder) Configure(policy Policy, peers []string) { h.o.Policy, h.o.Peers = policy, peers }

// Live reports whether the lease runs at now. The guard in the kernel says the same without us.
func (h *Holder) Live(now time.Duration) bool { return h.live && now < h.deadline }

// Deadline is until when the lease runs, in which epoch, and by whose word; 0 when it doesn't.
func (h *Holder) Deadline() (epoch uint64, deadline time.Duration, by Mode) {
	if !h.live {
		return 0, 0, ByNobody
	}
	return h.epoch, h.deadline, h.by
}

// Wake is when the machine wants a Tick.
func (h *Holder) Wake() time.Duration {
	at := never
	if h.epoch != 0 {
		if len(h.cfg.Voters) > 0 {
			at = min(at, h.next)
		}
		if h.live {
			at = min(at, h.deadline)
		}
	}
	if h.retryAt != 0 {
		at = min(at, h.retryAt)
	}
	return at
}

// Step takes one event. The actions are valid until the next Step.
func (h *Holder) Step(now time.Duration, ev Event) []Action {
	h.out = h.out[:0]
	h.expire(now) // whatever comes: a lease that ran out while we were stopped is over first
	switch ev.Kind {
	case Known:
		h.known(ev.Record)
	case Configured:
		h.cfg = *ev.Configuration
		if h.epoch != 0 {
			h.next = now // rounds of the old membership are refused by now
		}
	case Eligible:
		h.eligible, h.why = ev.On, ev.Reason
	case Idle:
		h.idle = ev.On
	case GiveUp:
		if h.epoch != 0 {
			h.prefer = ev.Prefer
			h.lapse(ev.Reason)
		}
	case Submitted:
		h.submitted(now, ev.Err)
	case Ruling:
		h.ruling(ev.Ver, ev.Names)
	case Received:
		h.received(now, ev.From, ev.Message)
	}
	h.adopt(now)
	h.renew(now)
	h.plan(now)
	return h.out
}

// expire ends a lease at its deadline.
func (h *Holder) expire(now time.Duration) {
	if h.live && now >= h.deadline {
		active := h.rec != nil && h.rec.Epoch == h.epoch && h.rec.Phase == record.Active
		h.lapse(h.lost(now))
		h.out[len(h.out)-1].Lost = active
	}
}

// lost tells why there was no renewal.
func (h *Holder) lost(now time.Duration) string {
	if late := now - h.deadline; late > h.o.Params.Every() {
		return fmt.Sprintf("the lease ran out %v ago, while this process did not run", late.Round(time.Millisecond))
	}
	var from []string
	for _, r := range h.rounds {
		if r.seq != 0 && r.seq+1 >= h.seq && r.count > 0 {
			for k, id := range r.cfg.Voters {
				if r.acks&(1<<k) != 0 && !slices.Contains(from, id) {
					from = append(from, id)
				}
			}
		}
	}
	slices.Sort(from)
	who := "none"
	if len(from) > 0 {
		who = strings.Join(from, ", ")
	}
	text := fmt.Sprintf("the lease ran out: %d of %d votes are needed, heard %s", h.cfg.Majority(), len(h.cfg.Voters), who)
	if h.o.Policy == Freeze && h.rec != nil && h.rec.Phase == record.Active {
		text += fmt.Sprintf("; and not every node that could take over agreed (%s)", strings.Join(h.required(), ", "))
	}
	return text
}

// lapse burns the epoch.
func (h *Holder) lapse(reason string) {
	if h.epoch == 0 {
		return
	}
	h.out.lapse(h.epoch, reason)
	h.burnt, h.ended = max(h.burnt, h.epoch), reason
	h.epoch, h.live, h.deadline, h.by, h.idle = 0, false, 0, ByNobody, false
}

func (h *Holder) known(r *record.Resource) {
	if h.rec != nil && r.Index <= h.rec.Index {
		return
	}
	h.rec = r
	if r.Epoch != h.epoch || r.RuleVer > h.version {
		// Decided: by the command itself, or by the one that took its version.
		h.unknown = h.unknown[:0]
		if h.flight.Op == record.SetRule {
			h.flight = record.Command{}
		}
	}
	if h.epoch != 0 && (r.Epoch != h.epoch || !r.Holds(h.o.Self.Node, h.o.Boot)) {
		h.lapse(fmt.Sprintf("epoch %d is over: the record says epoch %d, %v", h.epoch, r.Epoch, r.Phase))
	}
}

// adopt takes on an epoch that the record grants us, once nothing of a former one is left here.
func (h *Holder) adopt(now time.Duration) {
	r := h.rec
	if r == nil || h.epoch != 0 || !h.idle || r.Epoch <= h.burnt || r.Holder != h.o.Self || !r.Holds(h.o.Self.Node, h.o.Boot) {
		return
	}
	h.epoch, h.since, h.next, h.majority = r.Epoch, now, now, 0
	h.flight, h.retryAt, h.prefer = record.Command{}, 0, ""
	h.unknown, h.version = h.unknown[:0], 0
	h.rounds = [8]round{}
}

// renew sends what is due: a round to every voter, and to every data node if the majority does not answer.
func (h *Holder) renew(now time.Duration) {
	if h.epoch == 0 || len(h.cfg.Voters) == 0 || now < h.next {
		return
	}
	h.seq++
	r := &h.rounds[h.seq%uint64(len(h.rounds))]
	*r = round{seq: h.seq, sent: now, cfg: h.cfg, peers: r.peers[:0]}
	m := Message{Kind: Renew, Resource: h.o.Resource, Epoch: h.epoch, Seq: h.seq, Boot: h.o.Boot, Config: h.cfg.Config, Hold: h.o.Hold}
	h.out.send(Everyone, m)
	if h.frozen(now) {
		r.asked = true
		if len(h.required()) > 0 {
			m.Kind, m.Config = PeerRenew, Config{}
			h.out.send(Everyone, m)
		} else {
			h.extend(now, r.sent, ByNone)
		}
	}
	every := h.o.Params.Every()
	if h.next += every; h.next <= now {
		h.next = now + every
	}
}

// frozen reports whether the word of the nodes of the rule may stand in for the majority's: the policy says so, the epoch is
// Active, so that the record names everybody who could be next, and the majority has missed a round.
func (h *Holder) frozen(now time.Duration) bool {
	return h.o.Policy == Freeze && h.live && h.rec != nil && h.rec.Phase == record.Active && h.rec.Epoch == h.epoch &&
		now-h.majority >= h.o.Params.Every()*3/2
}

// required are the nodes, without us, that the log, as it is or as it may be, would let be granted the next epoch.
func (h *Holder) required() []string {
	var all []string
	for _, m := range h.rec.Rule.S {
		all = append(all, m.Node)
	}
	for _, n := range h.unknown {
		if !slices.Contains(all, n) {
			all = append(all, n)
		}
	}
	return all
}

func (h *Holder) received(now time.Duration, from string, m *Message) {
	if m.Kind == Report {
		h.report(now, from, m)
		return
	}
	if h.epoch == 0 || m.Boot != h.o.Boot {
		return
	}
	switch m.Kind {
	case Refused:
		// Somebody collects seals, or has them: another epoch is what gets us a lease that lasts.
		if m.Refusal == IsSealed && m.Epoch >= h.epoch {
			h.prefer = h.o.Self.Node
			h.lapse(fmt.Sprintf("%s sealed epoch %d", from, h.epoch))
		}
		if m.Refusal == IsOld && m.Epoch > h.epoch {
			h.lapse(fmt.Sprintf("%s knows of epoch %d", from, m.Epoch))
		}
	case Renewed:
		if m.Epoch != h.epoch {
			return
		}
		r := h.round(m.Seq)
		k := -1
		if r != nil && m.Config == r.cfg.Config {
			k = r.cfg.index(from)
		}
		if k < 0 || r.acks&(1<<k) != 0 {
			return
		}
		r.acks |= 1 << k
		if r.count++; r.count >= r.cfg.Majority() && !r.closed {
			r.closed = true
			h.majority = max(h.majority, r.sent)
			h.extend(now, r.sent, ByMajority)
		}
	case PeerOK:
		r := h.round(m.Seq)
		if m.Epoch != h.epoch || r == nil || !r.asked || !h.frozen(now) || slices.Contains(r.peers, from) {
			return
		}
		r.peers = append(r.peers, from)
		for _, n := range h.required() {
			if !slices.Contains(r.peers, n) {
				return
			}
		}
		h.extend(now, r.sent, ByPeers)
	}
}

func (h *Holder) round(seq uint64) *round {
	if r := &h.rounds[seq%uint64(len(h.rounds))]; seq != 0 && r.seq == seq {
		return r
	}
	return nil
}

// extend moves the deadline: counted from when the renewal was sent, never from when its answer came.
func (h *Holder) extend(now, sent time.Duration, by Mode) {
	deadline := sent + h.o.Params.Lease
	if deadline <= now || deadline <= h.deadline {
		return
	}
	if h.by != by && h.live {
		h.out.say("the lease lives " + by.String())
	}
	h.live, h.deadline, h.by = true, deadline, by
	h.out = append(h.out, Action{Kind: Extend, Epoch: h.epoch, Deadline: deadline})
}

func (h *Holder) report(now time.Duration, from string, m *Message) {
	if from == h.o.Self.Node || !slices.Contains(h.o.Peers, from) {
		return
	}
	who := record.Member{Node: from, Incarnation: m.Incarnation}
	for k := range h.heard {
		if h.heard[k].member.Node == from {
			h.heard[k] = heard{who, now}
			return
		}
	}
	h.heard = append(h.heard, heard{who, now})
}

// perTimeline is what one file of a number that came to nothing may take a promotion.
const perTimeline = time.Millisecond

// plan puts into the log what is due: the release of an epoch that is over, and the rule of a plain resource.
func (h *Holder) plan(now time.Duration) {
	if h.rec == nil || now < h.retryAt {
		return
	}
	h.retryAt = 0
	r := h.rec
	switch {
	case h.epoch == 0:
		h.release(now)
	case r.Phase == record.Granted && h.live && !h.eligible:
		h.lapse("granted, but not eligible: " + h.why)
	case r.Phase == record.Granted && h.o.Activate > 0 && now-h.since > h.o.Activate+time.Duration(r.TLI)*perTimeline:
		h.lapse(fmt.Sprintf("not active within %v of the grant", h.o.Activate+time.Duration(r.TLI)*perTimeline))
	case r.Kind == record.Plain && h.live && h.by == ByMajority && now-h.majority < h.o.Params.Every()*3/2:
		h.rule(now)
	}
}

// maxWhy is how many bytes of a reason the record takes, which is sent in one datagram.
const maxWhy = 200

// release gives back an epoch of ours that is over here, so that the next need not wait: also one of a former run, whose
// addresses and guard our start has cleared.
func (h *Holder) release(now time.Duration) {
	r := h.rec
	if !h.idle || r.Holder.Node != h.o.Self.Node || r.Phase != record.Granted && r.Phase != record.Active {
		return
	}
	if r.Epoch > h.burnt && r.HolderBoot == h.o.Boot {
		return // just granted; taken on when it is known
	}
	if h.flight.Op == record.Release && h.flight.Epoch == r.Epoch {
		return
	}
	why := "released by " + h.o.Self.Node
	if h.ended != "" {
		why += ": " + strings.ToValidUTF8(h.ended[:min(len(h.ended), maxWhy)], "")
	}
	h.flight = record.Command{Op: record.Release, Resource: h.o.Resource, Epoch: r.Epoch, Member: h.o.Self, Boot: h.o.Boot, Prefer: h.prefer, Why: why}
	h.out.submit(h.flight)
}

// rule keeps the rule of a plain resource: who may be granted it next. Under freeze these are the nodes that are there, so
// that those which are not need not agree to our staying; else all data nodes.
func (h *Holder) rule(now time.Duration) {
	if h.flight.Op != "" {
		return
	}
	var s []record.Member
	for _, n := range h.o.Peers {
		k := slices.IndexFunc(h.heard, func(x heard) bool { return x.member.Node == n })
		old := slices.IndexFunc(h.rec.Rule.Members(), func(m record.Member) bool { return m.Node == n })
		switch {
		case k >= 0 && (h.o.Policy != Freeze || now-h.heard[k].at < h.o.Params.Contact()):
			s = append(s, h.heard[k].member)
		case old >= 0 && h.o.Policy != Freeze:
			s = append(s, h.rec.Rule.Members()[old])
		}
	}
	if h.rec.Phase == record.Active && sameMembers(s, h.rec.Rule.S) {
		return
	}
	h.flight = record.Command{Op: record.SetRule, Resource: h.o.Resource, Epoch: h.epoch, Member: h.o.Self, Boot: h.o.Boot, Ver: h.rec.RuleVer, S: s}
	names := make([]string, len(s))
	for k, m := range s {
		names[k] = m.Node
	}
	h.ruling(h.rec.RuleVer, names)
	h.out.submit(h.flight)
}

// ruling notes that the rule may name further nodes from now on.
func (h *Holder) ruling(version uint64, names []string) {
	h.version = version
	for _, n := range names {
		if !slices.Contains(h.unknown, n) {
			h.unknown = append(h.unknown, n)
		}
	}
}

// submitted takes the outcome of the command in flight. Of a failure nothing is concluded: the record alone, or another command
// on the same version, tells whether the command was carried out.
func (h *Holder) submitted(now time.Duration, err error) {
	if h.flight.Op == "" {
		return
	}
	if err == nil {
		return // the record follows
	}
	h.flight = record.Command{}
	h.retryAt = now + h.o.Params.Every()/2
}

func sameMembers(a, b []record.Member) bool {
	if len(a) != len(b) {
		return false
	}
	for _, m := range a {
		if !slices.Contains(b, m) {
			return false
		}
	}
	return true
}
