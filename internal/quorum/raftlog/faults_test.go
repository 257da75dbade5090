package raftlog

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"pgvrrp/internal/quorum/record"
	"pgvrrp/internal/quorum/store"
)

// TestRandomFaults has voters cut off, crash, start again and lose their disk, at random, while commands come. At no time have
// two voters another membership under one index once it is committed. In the end all are members again, and every command
// that was acknowledged is on all of them.
func TestRandomFaults(t *testing.T) {
	for seed := range uint64(24) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			inBubble(t, voters("n1", "n2", "n3", "w1", "w1/2"), func(t *testing.T, c *cluster) {
				rng := rand.New(rand.NewPCG(seed, 9))
				ids := []string{"n1", "n2", "n3", "w1", "w1/2"}
				const all = "n1 n2 n3 w1 w1/2"
				c.start(ids...)
				c.waitMembers(all)
				var acked []string
				digests := map[uint64]uint64{}
				check := func() {
					for _, n := range c.nodes {
						n.mu.Lock()
						for _, cfg := range n.configs {
							if d, ok := digests[cfg.Index]; cfg.Committed && ok && d != cfg.Digest {
								t.Fatalf("two memberships of entry %d\n%s", cfg.Index, c)
							}
							if cfg.Committed {
								digests[cfg.Index] = cfg.Digest
							}
						}
						n.mu.Unlock()
					}
				}
				// joined waits until all are members, and as what they are now: not with the disk that they lost.
				joined := func() {
					c.until("all have joined", func() bool {
						l := c.leader()
						return l != nil && !slices.ContainsFunc(ids, func(id string) bool {
							return !slices.Contains(l.log.Hello().Configuration, string(c.nodes[id].self))
						})
					})
					c.waitMembers(all)
				}
				var ended []*node
				for step := range 40 {
					id := ids[rng.IntN(len(ids))]
					n := c.nodes[id]
					switch op := rng.IntN(10); {
					case op < 3 && n != nil:
						c.isolate(id)
					case op < 5:
						c.heal()
					case op < 7 && n != nil && len(c.nodes) > 3:
						if op == 5 {
							c.crash(id)
						} else {
							_ = c.stop(id)
						}
						ended = append(ended, n)
					case op < 8 && n == nil:
						c.start(id)
					case op == 8 && n != nil && len(c.nodes) == len(ids):
						c.heal()
						joined()
						c.crash(id)
						ended = append(ended, n)
						if err := store.Reset(c.path(id), "lost"); err != nil {
							t.Fatal(err)
						}
						c.start(id)
					}
					time.Sleep(time.Duration(rng.IntN(1500)) * time.Millisecond)
					synctest.Wait()
					if l := c.leader(); l != nil {
						name := fmt.Sprint("r", step)
						ctx, cancel := context.WithTimeout(t.Context(), time.Second)
						err := l.log.Apply(ctx, record.Command{Op: record.Init, Resource: name, Kind: record.Plain, Rule: record.Rule{S: []record.Member{{Node: "n1"}}}})
						cancel()
						if err == nil {
							acked = append(acked, name)
						}
					}
					check()
				}
				for _, id := range ids {
					if c.nodes[id] == nil {
						c.start(id)
					}
				}
				c.heal()
				joined()
				if err := c.initialize("last", "n1"); err != nil {
					t.Fatal(err)
				}
				if len(acked) < 5 {
					t.Errorf("only %d commands went through", len(acked))
				}
				for _, n := range c.nodes {
					c.until(n.id+" has all", func() bool { return n.log.Resource("last") != nil })
					for _, name := range acked {
						if n.log.Resource(name) == nil {
							t.Errorf("%s lacks %s", n.id, name)
						}
					}
				}
				check()
				want := c.waitLeader().config()
				for _, n := range c.nodes {
					if got := n.config(); got.Config != want.Config || !slices.Equal(got.Voters, want.Voters) {
						t.Errorf("%s: %+v, want %+v", n.id, got, want)
					}
				}
				for _, n := range ended {
					if err := n.log.Trouble(); err != nil {
						t.Errorf("%s: %v", n.id, err)
					}
				}
			})
		})
	}
}
