package raftlog

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/hashicorp/raft"

	"pgvrrp/internal/quorum/record"
)

// transferAgain is how long after a try the leadership is not moved again; unheardAgain is that for the sake of a holder that we don't hear: nobody may.
const (
	transferAgain = 2 * time.Second
	unheardAgain  = 10 * time.Second
)

// transferTime is more than a transfer of the leadership takes, however it ends. While we don't lead with all of the log none is begun.
const transferTime = 5 * time.Second

// watch takes raft's word of each change of leadership, for which raft waits, and passes the newest on.
func (l *Log) watch(ctx context.Context, r *raft.Raft, led <-chan bool, states chan bool) {
	seen := make(chan raft.Observation, 16)
	o := raft.NewObserver(seen, false, func(o *raft.Observation) bool { _, ok := o.Data.(raft.LeaderObservation); return ok })
	r.RegisterObserver(o)
	defer r.DeregisterObserver(o)
	leader := ""
	for {
		select {
		case <-ctx.Done():
			return
		case on := <-led:
			l.leading.Store(false) // until the barrier
			select {
			case <-states:
			default:
			}
			states <- on
			l.turned()
		case <-seen:
			l.turned()
			if id, _ := l.Leader(); id != leader && id != "" {
				l.log.Info("leader of the log", "leader", id)
				leader = id
			}
		}
	}
}

// lead says that we lead once we have all of the log, and that we don't as soon as we know.
func (l *Log) lead(ctx context.Context, r *raft.Raft, states <-chan bool) {
	told := false
	tell := func(on bool) {
		if on != told {
			told = on
			l.o.OnLeading(on)
		}
	}
	defer tell(false)
	defer l.leading.Store(false)
	var again <-chan time.Time
	var since time.Duration // that raft leads, or does not
	on := false
	for {
		select {
		case <-ctx.Done():
			return
		case on = <-states:
			since = l.o.Now()
			l.leading.Store(false)
			tell(false)
		case <-again:
		}
		again = nil
		if !on {
			continue
		}
		switch err := l.await(ctx, func() error { return r.Barrier(0).Error() }); {
		case err == nil && len(states) == 0:
			l.mu.Lock()
			clear(l.added)
			l.mu.Unlock()
			l.leadFrom.Store(int64(l.o.Now()))
			l.leading.Store(true)
			tell(true)
		case l.transferring(err):
			if l.o.Now()-since > transferTime {
				l.fail(fmt.Errorf("raft has led for %v and takes no command, as a transfer of an earlier leadership never ended", transferTime))
				return
			}
			again = time.After(l.o.Timeout / 4)
		}
	}
}

// StepDown has another voter lead if we do, and returns when we don't any more, or ctx ends.
func (l *Log) StepDown(ctx context.Context) {
	r := l.raft.Load()
	if r == nil {
		return
	}
	tick := time.NewTicker(l.o.Timeout / 4)
	defer tick.Stop()
	for r.State() == raft.Leader {
		m := l.members.newest() // settled would wait for a write, which a disk that hangs never ends
		for _, s := range l.heirs(m.c, r.LastIndex()) {
			if err := l.move(ctx, r, s); err == nil || ctx.Err() != nil || r.State() != raft.Leader {
				break
			}
		}
		others := slices.ContainsFunc(m.c.Servers, func(s raft.Server) bool {
			return s.Suffrage == raft.Voter && s.ID != l.self && l.alive(s.ID)
		})
		if r.State() != raft.Leader || !others {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (l *Log) move(ctx context.Context, r *raft.Raft, to raft.Server) error {
	err := l.await(ctx, func() error { return r.LeadershipTransferToServer(to.ID, to.Address).Error() })
	l.transferring(err)
	return err
}

// holders are the nodes that hold a resource which has come to one of these phases.
func (l *Log) holders(phases ...record.Phase) map[string]bool {
	nodes := map[string]bool{}
	if h := l.o.Holder(); h != "" {
		nodes[h] = true
	}
	for _, r := range l.State().Resources {
		if slices.Contains(phases, r.Phase) {
			nodes[r.Holder.Node] = true
		}
	}
	return nodes
}

// heirs are the voters that may lead in our place, the best first: a witness, then the standby with the lowest priority;
// never a holder, if there is another. Nor one whose last request had no answer: raft would try for as long as Timeout, and take no command.
func (l *Log) heirs(c raft.Configuration, last uint64) []raft.Server {
	file, holders := l.file(), l.holders(record.Active)
	at := func(s raft.Server) int {
		id, _ := splitID(s.ID)
		return slices.IndexFunc(file, func(v Voter) bool { return v.ID == id })
	}
	var all []raft.Server
	for _, s := range c.Servers {
		if s.Suffrage == raft.Voter && s.ID != l.self && at(s) >= 0 && l.alive(s.ID) && !l.transport.silent(s.ID) && l.caughtUp(s.ID, last) {
			all = append(all, s)
		}
	}
	rank := func(s raft.Server) (int, int, int) {
		v := file[at(s)]
		kind := 1
		switch {
		case v.Witness:
			kind = 0
		case holders[v.Node]:
			kind = 2
		}
		h, _ := l.heard(s.ID)
		return kind, h.Priority, at(s)
	}
	slices.SortFunc(all, func(a, b raft.Server) int {
		ak, ap, ai := rank(a)
		bk, bp, bi := rank(b)
		return cmp.Or(cmp.Compare(ak, bk), cmp.Compare(ap, bp), cmp.Compare(ai, bi))
	})
	return all
}

// leave moves the leadership off a node that holds an active resource: with it the node would take both away at once. And off one that does not hear a
// holder whose lease others renew: nothing of what that has to say gets into the log, and commits wait for it.
func (l *Log) leave(ctx context.Context, r *raft.Raft, m membership) {
	holders := l.holders(record.Active)
	now := l.o.Now()
	if now < l.transfer {
		return
	}
	reason, again := "this node holds a resource", transferAgain
	if !holders[l.o.Self.Node] {
		unheard := l.unheard(m.c)
		if unheard == "" {
			return
		}
		reason, again = unheard+", which holds a resource, is not heard here", unheardAgain
	}
	if now-time.Duration(l.leadFrom.Load()) < deadAfter {
		for _, s := range m.c.Servers {
			if _, ok := l.heard(s.ID); !ok && s.ID != l.self {
				return // it may be the best
			}
		}
	}
	heirs := slices.DeleteFunc(l.heirs(m.c, r.LastIndex()), func(s raft.Server) bool {
		node := l.nodeOf(s.ID)
		return node == l.o.Self.Node || holders[node] // one of the same host hears no more; a holder is no better
	})
	if len(heirs) == 0 {
		return
	}
	id, _ := splitID(heirs[0].ID)
	err := l.move(ctx, r, heirs[0])
	l.transfer = l.o.Now() + again
	if err != nil {
		l.log.Warn("give the leadership of the log away", "to", id, "error", err)
		return
	}
	l.log.Info("leadership of the log given away", "to", id, "reason", reason)
}

// unheard is a node that holds a resource and that we have not heard for longer than it takes to replace a dead one: other voters hear it, for else the
// record would not name it any more, unless nobody can take over. "" if there is none.
func (l *Log) unheard(c raft.Configuration) string {
	holders := l.holders(record.Granted, record.Active)
	for _, s := range c.Servers {
		if node := l.nodeOf(s.ID); holders[node] && l.o.Now()-l.contact(s.ID) > deadAfter+l.o.Lapse {
			return node
		}
	}
	return ""
}

// nodeOf is the node of a member, "" if the file does not have it any more.
func (l *Log) nodeOf(s raft.ServerID) string {
	id, _ := splitID(s)
	for _, v := range l.file() {
		if v.ID == id {
			return v.Node
		}
	}
	return ""
}
