package raftlog

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// forcedPrefix begins the id of a cluster that an operator's word has founded. Such a one goes on beside the remains of the old.
const forcedPrefix = "forced-"

// otherCluster is an error of Peers.Hello that names the cluster of who was asked.
type otherCluster interface {
	error
	OtherCluster() string // "": that was not the reason
}

// foreign says why the state directory seems to be from elsewhere: at least as many voters of the file are part of one other cluster,
// and none of its members, as are part of this one. A log whose only member is this voter needs nobody else's vote, so nothing
// else would keep it from going on beside the others.
func foreign(self Hello, members []raft.Server, answers map[string]Hello, others map[string]string) string {
	if self.Cluster == "" || strings.HasPrefix(self.Cluster, forcedPrefix) {
		return ""
	}
	member := func(id string) bool {
		return slices.ContainsFunc(members, func(s raft.Server) bool { is, _ := splitID(s.ID); return is == id })
	}
	ours := 1
	for id, h := range answers {
		if id != self.ID && h.Cluster == self.Cluster {
			ours++
		}
	}
	by := map[string][]string{}
	for id, cluster := range others {
		if !member(id) && cluster != self.Cluster {
			by[cluster] = append(by[cluster], id)
		}
	}
	most := ""
	for cluster, ids := range by {
		if n := len(by[most]); len(ids) > n || len(ids) == n && cluster < most {
			most = cluster
		}
	}
	theirs := by[most]
	if len(theirs) == 0 || len(theirs) < ours {
		return ""
	}
	slices.Sort(theirs)
	return fmt.Sprintf("the state directory of this voter is of cluster %s, and %s %s part of cluster %s: if the directory was put here from elsewhere, stop vrrpd, run vrrpd quorum reset and start it again; the voter then joins as a new one",
		self.Cluster, strings.Join(theirs, ", "), be(theirs), most)
}

// atHome returns once nothing says that the state directory is from elsewhere. Only a log that leaves voters of the file out can go on
// without them, so that nobody else has to ask them first.
func (l *Log) atHome(ctx context.Context) {
	members := l.members.newest().c.Servers
	all := true
	for _, v := range l.file() {
		all = all && slices.ContainsFunc(members, func(s raft.Server) bool { id, _ := splitID(s.ID); return id == v.ID })
	}
	if all {
		return
	}
	tick := time.NewTicker(helloEvery)
	defer tick.Stop()
	defer l.waiting.Store(nil)
	for {
		answers, others := l.askClusters(ctx)
		why := foreign(l.Hello(), members, answers, others)
		if why == "" || ctx.Err() != nil {
			return
		}
		if old := l.waiting.Load(); old == nil || *old != why {
			l.log.Error("the voter takes no part", "reason", why)
		}
		l.waiting.Store(&why)
		select {
		case <-ctx.Done():
			return
		case <-l.failed: // the start of raft says why
			return
		case <-tick.C:
		}
	}
}

// askClusters asks every other voter of the file, and notes which are part of another cluster.
func (l *Log) askClusters(ctx context.Context) (answers map[string]Hello, others map[string]string) {
	ctx, cancel := context.WithTimeout(ctx, helloTime)
	defer cancel()
	var mu sync.Mutex
	answers, others = map[string]Hello{}, map[string]string{}
	var asks sync.WaitGroup
	for _, v := range l.file() {
		if v.ID == l.o.Self.ID {
			continue
		}
		asks.Go(func() {
			h, err := l.o.Peer.Hello(ctx, v.ID)
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				answers[v.ID] = h
			} else if cluster := clusterOf(err); cluster != "" {
				others[v.ID] = cluster
			}
		})
	}
	asks.Wait()
	return answers, others
}

func clusterOf(err error) string {
	var other otherCluster
	if errors.As(err, &other) {
		return other.OtherCluster()
	}
	return ""
}

// strayed ends the log if what the others answered while we lead says that its directory is from elsewhere.
func (l *Log) strayed(m membership) {
	answers := l.fresh()
	now := l.o.Now()
	others := map[string]string{}
	l.mu.Lock()
	for id, o := range l.elsewhere {
		if now-o.at < deadAfter {
			others[id] = o.cluster
		}
	}
	l.mu.Unlock()
	if why := foreign(l.Hello(), m.c.Servers, answers, others); why != "" {
		l.fail(errors.New(why))
	}
}
