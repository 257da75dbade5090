package raftlog

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// helloTime bounds one question to another voter.
const helloTime = time.Second

// found returns once there is a log to be part of. A voter that was never part of one founds it only when every voter of the
// file says the same of itself: nothing that was ever agreed can be lost by that. All come to the same list, since an
// incarnation is on disk before its voter answers. Otherwise it waits until some voter's membership names it.
func (l *Log) found(ctx context.Context) error {
	tick := time.NewTicker(helloEvery)
	defer tick.Stop()
	defer l.waiting.Store(nil)
	for l.o.Store.Empty() {
		answers := l.askAll(ctx)
		if ctx.Err() != nil {
			return nil
		}
		for _, h := range answers {
			if slices.Contains(h.Configuration, string(l.self)) && h.Cluster != "" {
				l.log.Info("quorum joined", "cluster", h.Cluster, "from", h.ID)
				return l.o.Store.SetCluster(h.Cluster)
			}
		}
		file := l.file()
		c, why := firstMembers(file, l.Hello(), answers)
		if why == "" {
			cluster := clusterID(c)
			if err := l.o.Store.Bootstrap(cluster, c); err != nil {
				return err
			}
			l.log.Info("quorum founded", "cluster", cluster, "voters", len(c.Servers))
			return nil
		}
		if old := l.waiting.Load(); old == nil || *old != why {
			l.log.Info("the quorum waits", "reason", why)
		}
		l.waiting.Store(&why)
		select {
		case <-ctx.Done():
			return nil
		case <-l.failed:
			return l.Trouble()
		case <-tick.C:
		}
	}
	return nil
}

// askAll asks every other voter of the file. It returns early when one says that we are a member.
func (l *Log) askAll(ctx context.Context) map[string]Hello {
	ctx, cancel := context.WithTimeout(ctx, helloTime)
	defer cancel()
	var mu sync.Mutex
	answers := map[string]Hello{}
	var asks sync.WaitGroup
	for _, v := range l.file() {
		if v.ID == l.o.Self.ID {
			continue
		}
		asks.Go(func() {
			h, err := l.o.Peer.Hello(ctx, v.ID)
			if err != nil || h.ID != v.ID || h.Incarnation == "" {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			answers[v.ID] = h
			if slices.Contains(h.Configuration, string(l.self)) {
				cancel()
			}
		})
	}
	asks.Wait()
	return answers
}

// firstMembers are the members that a new log begins with, or why it can't begin yet.
func firstMembers(file []Voter, self Hello, answers map[string]Hello) (c raft.Configuration, why string) {
	var unheard, belong []string
	used := map[string]string{}
	for _, v := range file {
		h, ok := answers[v.ID]
		if v.ID == self.ID {
			h, ok = self, true
		}
		switch {
		case !ok:
			unheard = append(unheard, v.ID)
			continue
		case used[h.Incarnation] != "":
			return c, fmt.Sprintf("%s and %s have copies of one state directory: move one away", used[h.Incarnation], v.ID)
		case !h.Empty:
			belong = append(belong, v.ID)
		}
		used[h.Incarnation] = v.ID
		id := serverID(v.ID, h.Incarnation)
		c.Servers = append(c.Servers, raft.Server{Suffrage: raft.Voter, ID: id, Address: raft.ServerAddress(id)})
	}
	switch {
	case len(belong) > 0:
		why = fmt.Sprintf("%s %s part of a quorum already, whose leader has to add this voter", strings.Join(belong, ", "), be(belong))
		if len(unheard) > 0 {
			why += "; not heard: " + strings.Join(unheard, ", ")
		}
		return c, why
	case len(unheard) > 0:
		return c, fmt.Sprintf("a new quorum begins when all its voters are there; not heard: %s", strings.Join(unheard, ", "))
	}
	slices.SortFunc(c.Servers, func(a, b raft.Server) int { return strings.Compare(string(a.ID), string(b.ID)) })
	return c, ""
}

func be(of []string) string {
	if len(of) == 1 {
		return "is"
	}
	return "are"
}

// clusterID names the quorum that c founds.
func clusterID(c raft.Configuration) string {
	h := sha256.New()
	for _, s := range c.Servers {
		fmt.Fprintf(h, "%s\n", s.ID)
	}
	return hex.EncodeToString(h.Sum(nil)[:16])
}
