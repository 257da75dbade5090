package raftlog

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"pgvrrp/internal/quorum/record"
)

const (
	// near is how many entries behind the leader's log a voter still counts as having it.
	near = 16

	// addEvery is how far apart additions are: after each change of the membership, leases can change hands only when it
	// is committed for a while.
	addEvery = time.Second

	// addTime is how long an added voter may take to read the log, and addAgain after which time it is tried again.
	addTime  = 10 * time.Second
	addAgain = 5 * time.Second

	// electionTime is how long an election may keep the membership as it is. Who has to come back for it to end must be
	// let in.
	electionTime = 2 * time.Second

	changeTime = time.Second
)

// Member is one voter as this voter sees it.
type Member struct {
	ID          string
	Incarnation string        // of the member; "" if it is none
	Voter       bool          // a member whose vote counts; one that still reads the log has none
	Self        bool          // this voter
	Heard       string        // the incarnation that answers us now, if we lead; "": none does
	Contact     time.Duration // since its log last answered ours; -1: not known, as we don't lead
	Priority    int           // of its node's instances, as it told us; 0: not known, or it has none
}

// Members are the members of the newest membership in our log, and the voters of the file that are none.
func (l *Log) Members() []Member {
	m := l.members.newest()
	now, leading := l.o.Now(), l.leading.Load()
	fresh := l.fresh()
	var all []Member
	for _, s := range m.c.Servers {
		id, incarnation := splitID(s.ID)
		v := Member{ID: id, Incarnation: incarnation, Voter: s.Suffrage == raft.Voter, Self: s.ID == l.self, Heard: fresh[id].Incarnation, Contact: -1,
			Priority: fresh[id].Priority}
		switch at, ok := l.transport.answered(s.ID); {
		case v.Self:
			v.Contact, v.Heard = 0, incarnation
		case leading && ok:
			v.Contact = now - at
		}
		all = append(all, v)
	}
	for _, v := range l.file() {
		if !slices.ContainsFunc(all, func(m Member) bool { return m.ID == v.ID }) {
			all = append(all, Member{ID: v.ID, Self: v.ID == l.o.Self.ID, Heard: fresh[v.ID].Incarnation, Contact: -1})
		}
	}
	return all
}

// alive reports whether a member's log was in contact with ours within deadAfter, as long as we lead. One that has come back has as
// long for it: until raft's next heartbeat to it is answered, its log is silent.
func (l *Log) alive(s raft.ServerID) bool {
	return l.o.Now()-l.contact(s) < deadAfter
}

// contact is when a member's log was in contact with ours last, or could be again.
func (l *Log) contact(s raft.ServerID) time.Duration {
	if s == l.self {
		return l.o.Now()
	}
	id, _ := splitID(s)
	at := max(time.Duration(l.leadFrom.Load()), l.o.UpSince(id))
	if t, ok := l.transport.answered(s); ok {
		at = max(at, t)
	}
	l.mu.Lock()
	at = max(at, l.added[s])
	l.mu.Unlock()
	return at
}

// caughtUp reports whether a member told lately that it has our log up to last, nearly.
func (l *Log) caughtUp(s raft.ServerID, last uint64) bool {
	h, ok := l.heard(s)
	return ok && h.Last+near >= last
}

// heard is the last answer of that very server, if it is fresh.
func (l *Log) heard(s raft.ServerID) (Hello, bool) {
	id, incarnation := splitID(s)
	h, ok := l.fresh()[id]
	return h, ok && h.Incarnation == incarnation
}

// fresh are the last answers that are not older than deadAfter.
func (l *Log) fresh() map[string]Hello {
	now := l.o.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	all := map[string]Hello{}
	for id, h := range l.hellos {
		if now-h.at < deadAfter {
			all[id] = h.Hello
		}
	}
	return all
}

// reconcile keeps the membership, and the place of the leader, as they should be while we lead.
func (l *Log) reconcile(ctx context.Context, r *raft.Raft) {
	var asks sync.WaitGroup
	defer asks.Wait()
	tick := time.NewTicker(helloEvery)
	defer tick.Stop()
	for turn := 0; ; turn++ {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if !l.leading.Load() {
			continue
		}
		m, since, ok := l.members.settled()
		if turn%calm == 0 || !ok || !l.complete(m) {
			l.ask(ctx, &asks)
		}
		if !ok {
			continue
		}
		l.strayed(m)
		l.leave(ctx, r, m)
		if l.leading.Load() {
			l.change(ctx, r, m, since)
		}
	}
}

// complete reports whether every voter of the file counts and has told lately that it is the one that does: nothing is to be
// done but to see that it stays so.
func (l *Log) complete(m membership) bool {
	fresh := l.fresh()
	for _, v := range l.file() {
		ok := slices.ContainsFunc(m.c.Servers, func(s raft.Server) bool {
			id, incarnation := splitID(s.ID)
			return id == v.ID && s.Suffrage == raft.Voter && (s.ID == l.self || fresh[id].Incarnation == incarnation)
		})
		if !ok {
			return false
		}
	}
	return true
}

// ask asks every voter that has answered the last question.
func (l *Log) ask(ctx context.Context, asks *sync.WaitGroup) {
	for _, v := range l.file() {
		l.mu.Lock()
		busy := l.asking[v.ID] || v.ID == l.o.Self.ID
		if !busy {
			l.asking[v.ID] = true
		}
		l.mu.Unlock()
		if busy {
			continue
		}
		asks.Go(func() { _, _ = l.askOne(ctx, v.ID) }) // who does not answer is not heard
	}
}

func (l *Log) askOne(ctx context.Context, id string) (Hello, error) {
	ctx, cancel := context.WithTimeout(ctx, helloTime)
	defer cancel()
	h, err := l.o.Peer.Hello(ctx, id)
	if err == nil && (h.ID != id || h.Incarnation == "") {
		err = fmt.Errorf("%q answers in the place of %q", h.ID, id)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.asking, id)
	delete(l.elsewhere, id)
	if err == nil {
		l.hellos[id] = heard{h, l.o.Now()}
	} else if cluster := clusterOf(err); cluster != "" {
		l.elsewhere[id] = elsewhere{cluster, l.o.Now()}
	}
	return h, err
}

// view is what a change of the membership is decided from.
type view struct {
	self    raft.ServerID
	file    []Voter
	members []raft.Server
	cluster string
	last    uint64
	alive   map[raft.ServerID]bool // ourselves among them
	stuck   map[raft.ServerID]bool // added long ago, and the log is not read
	hellos  map[string]Hello       // by voter id, fresh ones
	later   map[string]bool        // by voter id: was tried lately
	holders map[string]bool        // nodes; who was granted a resource and is not active yet has a lease, too
	settled bool                   // additions may be made
}

type changeKind uint8

const (
	noChange changeKind = iota
	add                 // as a member without a vote
	promote             // give it its vote
	remove
)

func (k changeKind) String() string {
	return [...]string{"no change", "add", "promote", "remove"}[k]
}

type change struct {
	kind changeKind
	id   raft.ServerID
	why  string
}

func majority(n int) int { return n/2 + 1 }

// node is the node of a voter.
func (v *view) node(id string) string {
	for _, f := range v.file {
		if f.ID == id {
			return f.Node
		}
	}
	return id
}

// voters counts the members with a vote, and those of them that are alive.
func (v *view) voters() (n, alive int) {
	for _, s := range v.members {
		if s.Suffrage == raft.Voter {
			n++
			if v.alive[s.ID] {
				alive++
			}
		}
	}
	return n, alive
}

// joins reports whether what a voter answers may become a member: it was never part of a log, or of this one.
func (v *view) joins(h Hello) bool { return h.Cluster == v.cluster || h.Empty }

// next is the one change that should be made now.
func (v *view) next() change {
	for _, rule := range []func() change{v.dead, v.replaced, v.ready, v.useless, v.absent} {
		if c := rule(); c.kind != noChange {
			return c
		}
	}
	return change{}
}

// dead removes one of the dead voters if the removal of all of them makes the majority smaller. At least three stay: two
// need each other, and fencing to do with less. The voter of a holder stays: its word that a lease is over is worth more
// than a smaller majority.
func (v *view) dead() change {
	var dead []raft.ServerID
	for _, s := range v.members {
		id, _ := splitID(s.ID)
		if s.Suffrage == raft.Voter && !v.alive[s.ID] && !v.holders[v.node(id)] {
			dead = append(dead, s.ID)
		}
	}
	n, alive := v.voters()
	left := n - len(dead)
	if len(dead) == 0 || left < 3 || majority(left) >= majority(n) || alive < majority(n) {
		return change{}
	}
	return change{remove, dead[0], fmt.Sprintf("it is dead, and without the dead a majority is %d voters instead of %d", majority(left), majority(n))}
}

// replaced removes the member whose voter answers with another state directory: what it said is lost, so it must not count.
func (v *view) replaced() change {
	n, alive := v.voters()
	for _, s := range v.members {
		id, incarnation := splitID(s.ID)
		h, ok := v.hellos[id]
		if !ok || h.Incarnation == incarnation || !v.joins(h) || s.ID == v.self {
			continue
		}
		if s.Suffrage == raft.Voter {
			if v.alive[s.ID] {
				continue // both answer: that passes, or it is a fault that the links tell
			}
			if v.holders[v.node(id)] || alive < majority(n-1) || alive < majority(n) {
				continue
			}
		}
		return change{remove, s.ID, "its state directory is another one"}
	}
	return change{}
}

// ready gives a vote to a member that has read the log.
func (v *view) ready() change {
	if !v.settled {
		return change{}
	}
	n, alive := v.voters()
	for _, s := range v.members {
		id, incarnation := splitID(s.ID)
		h, ok := v.hellos[id]
		if s.Suffrage == raft.Voter || !ok || h.Incarnation != incarnation || !v.alive[s.ID] || h.Last+near < v.last || alive+1 < majority(n+1) {
			continue
		}
		return change{promote, s.ID, "it has read the log"}
	}
	return change{}
}

// useless removes a member without a vote that is gone, or never gets ready, or is no voter of the file any more.
func (v *view) useless() change {
	for _, s := range v.members {
		id, _ := splitID(s.ID)
		if s.Suffrage == raft.Voter {
			continue
		}
		switch {
		case !v.alive[s.ID]:
			return change{remove, s.ID, "it is dead and has no vote yet"}
		case v.stuck[s.ID]:
			return change{remove, s.ID, "it does not read the log"}
		case !slices.ContainsFunc(v.file, func(f Voter) bool { return f.ID == id }):
			return change{remove, s.ID, "it is not in the file, and has no vote"}
		}
	}
	return change{}
}

// absent adds a voter of the file that answers and is no member; one at a time.
func (v *view) absent() change {
	if !v.settled || slices.ContainsFunc(v.members, func(s raft.Server) bool { return s.Suffrage != raft.Voter }) {
		return change{}
	}
	for _, f := range v.file {
		h, ok := v.hellos[f.ID]
		if !ok || v.later[f.ID] || !v.joins(h) {
			continue
		}
		if !slices.ContainsFunc(v.members, func(s raft.Server) bool { id, _ := splitID(s.ID); return id == f.ID }) {
			return change{add, serverID(f.ID, h.Incarnation), "it is in the file and answers"}
		}
	}
	return change{}
}

// view gathers what is known.
func (l *Log) view(r *raft.Raft, m membership, since time.Duration) *view {
	now := l.o.Now()
	v := &view{
		self: l.self, file: l.file(), members: m.c.Servers, cluster: l.o.Store.Identity().Cluster, last: r.LastIndex(), hellos: l.fresh(),
		alive: map[raft.ServerID]bool{}, stuck: map[raft.ServerID]bool{}, later: map[string]bool{}, holders: l.holders(record.Granted, record.Active), settled: now-since >= addEvery,
	}
	for _, s := range m.c.Servers {
		v.alive[s.ID] = l.alive(s.ID)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, s := range m.c.Servers {
		v.stuck[s.ID] = now-max(l.added[s.ID], time.Duration(l.leadFrom.Load())) > addTime
	}
	for id, at := range l.tried {
		v.later[id] = now < at
	}
	return v
}

// elections reports whether an election of a resource keeps the membership as it is.
func (l *Log) elections(now time.Duration) bool {
	busy := false
	seen := map[string]electing{}
	for name, r := range l.State().Resources {
		if r.Phase != record.Electing {
			continue
		}
		e := l.electing[name]
		if e.epoch != r.Epoch {
			e = electing{r.Epoch, now}
		}
		seen[name] = e
		busy = busy || now-e.since < electionTime
	}
	l.electing = seen
	return busy
}

// leads is raft, if we lead with all of the log and no change of the membership is under way.
func (l *Log) leads() (*raft.Raft, membership, error) {
	r := l.raft.Load()
	leader, ours := l.Leader()
	if r == nil || !ours {
		return nil, membership{}, &NotLeader{leader}
	}
	m, _, ok := l.members.settled()
	if !ok || !l.leading.Load() {
		return nil, membership{}, errors.New("a change of the membership or of the leader is under way; try again")
	}
	return r, m, nil
}

// Add has a voter of the file be a member, at once and not only when its turn comes. It gets its vote, without being asked
// for, once it has read the log. Only the leader can do that; else the error is a *NotLeader.
func (l *Log) Add(ctx context.Context, id string) error {
	fail := func(err error) error { return fmt.Errorf("add voter %s: %w", id, err) }
	r, m, err := l.leads()
	if err != nil {
		return fail(err)
	}
	if !slices.ContainsFunc(l.file(), func(v Voter) bool { return v.ID == id }) {
		return fail(errors.New("it is not in the leader's configuration file"))
	}
	h, err := l.askOne(ctx, id)
	if err != nil {
		return fail(fmt.Errorf("it does not answer: %w", err))
	}
	l.mu.Lock()
	delete(l.tried, id)
	l.mu.Unlock()
	v := l.view(r, m, 0)
	if !v.joins(h) {
		return fail(fmt.Errorf("it is part of another quorum, %s", h.Cluster))
	}
	for _, s := range m.c.Servers {
		switch is, incarnation := splitID(s.ID); {
		case is == id && incarnation == h.Incarnation && s.Suffrage == raft.Voter:
			return fail(errors.New("it is a member already"))
		case is == id && incarnation == h.Incarnation:
			return fail(errors.New("it is a member already, and gets its vote once it has read the log"))
		case is == id:
			return fail(errors.New("its former state directory is still a member, and is removed as soon as a majority is there without it"))
		case s.Suffrage != raft.Voter:
			return fail(fmt.Errorf("%s comes first, and has not read the log yet", s.ID))
		}
	}
	if err := l.carryOut(ctx, r, m, change{add, serverID(id, h.Incarnation), "an operator wants it"}); err != nil {
		return fail(err)
	}
	return nil
}

// Remove takes a voter out of the membership. What is in the file and answers would only be added again, so that is refused,
// as is the voter of a node that holds an active resource, and what would leave no majority that is alive. Only the leader
// can do that; else the error is a *NotLeader.
func (l *Log) Remove(ctx context.Context, id string) error {
	fail := func(err error) error { return fmt.Errorf("remove voter %s: %w", id, err) }
	r, m, err := l.leads()
	if err != nil {
		return fail(err)
	}
	for _, rec := range l.State().Resources {
		if rec.Phase == record.Electing {
			return fail(fmt.Errorf("an election of %s is under way; try again", rec.Name))
		}
	}
	k := slices.IndexFunc(m.c.Servers, func(s raft.Server) bool { is, _ := splitID(s.ID); return is == id })
	if k < 0 {
		return fail(errors.New("it is no member"))
	}
	s := m.c.Servers[k]
	v := l.view(r, m, 0)
	_, answers := v.hellos[id]
	n, alive := v.voters()
	if v.alive[s.ID] {
		alive--
	}
	switch {
	case s.ID == l.self:
		return fail(errors.New("it leads the log: have another voter lead it first, by a restart of this one"))
	case answers && slices.ContainsFunc(v.file, func(f Voter) bool { return f.ID == id }):
		return fail(errors.New("it is in the configuration file and answers, so it would be added again: take it out of the file first"))
	case s.Suffrage == raft.Voter && v.holders[v.node(id)]:
		return fail(errors.New("its node holds an active resource"))
	case s.Suffrage == raft.Voter && alive < majority(n-1):
		return fail(fmt.Errorf("of the %d voters that are left only %d are alive", n-1, alive))
	}
	if err := l.carryOut(ctx, r, m, change{remove, s.ID, "an operator wants it"}); err != nil {
		return fail(err)
	}
	return nil
}

// change makes the change that is due, if there is one.
func (l *Log) change(ctx context.Context, r *raft.Raft, m membership, since time.Duration) {
	if l.elections(l.o.Now()) {
		return
	}
	v := l.view(r, m, since)
	if c := v.next(); c.kind != noChange {
		if err := l.carryOut(ctx, r, m, c); err != nil {
			l.log.Warn("change the membership", "change", c.kind.String(), "member", string(c.id), "reason", c.why, "error", err)
		}
	}
}

// carryOut puts a change into the log, if m is still the newest membership, and waits until it is committed.
func (l *Log) carryOut(ctx context.Context, r *raft.Raft, m membership, c change) error {
	l.changing.Lock()
	defer l.changing.Unlock()
	if c.kind == add {
		l.mu.Lock()
		l.added[c.id] = l.o.Now() // it counts as alive until it had the time to answer
		l.mu.Unlock()
	}
	err := l.await(ctx, func() error {
		var f raft.IndexFuture
		switch c.kind {
		case add:
			f = r.AddNonvoter(c.id, raft.ServerAddress(c.id), m.index, changeTime)
		case promote:
			f = r.AddVoter(c.id, raft.ServerAddress(c.id), m.index, changeTime)
		default:
			f = r.RemoveServer(c.id, m.index, changeTime)
		}
		return f.Error()
	})
	if err != nil {
		return l.outcome(err)
	}
	if c.kind == remove && !votes(m.c, c.id) {
		id, _ := splitID(c.id)
		l.mu.Lock()
		l.tried[id] = l.o.Now() + addAgain
		l.mu.Unlock()
	}
	l.log.Info("membership changed", "change", c.kind.String(), "member", string(c.id), "reason", c.why)
	return nil
}
