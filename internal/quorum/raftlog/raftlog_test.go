package raftlog

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"pgvrrp/internal/quorum/lease"
	"pgvrrp/internal/quorum/record"
	"pgvrrp/internal/quorum/store"
)

func TestFoundedWhenAllAreThere(t *testing.T) {
	inBubble(t, voters("n1", "n2", "w1", "w1/2", "n3"), func(t *testing.T, c *cluster) {
		c.start("n1", "n2", "w1", "w1/2")
		c.until("who waits says for whom", func() bool {
			return c.nodes["n1"].log.Waiting() == "a new quorum begins when all its voters are there; not heard: n3"
		})
		c.never("a log without n3", 3*time.Second, func() bool { return !c.nodes["n1"].store.Empty() || c.leader() != nil })
		if err := c.nodes["n1"].log.Apply(t.Context(), record.Command{}); !errors.As(err, new(*NotLeader)) {
			t.Errorf("apply before there is a log: %v", err)
		}
		if h := c.nodes["n2"].log.Hello(); !h.Empty || h.Configuration != nil || h.Leader != "" || h.ID != "n2" || h.Starts != 1 {
			t.Errorf("hello %+v", h)
		}
		c.start("n3")
		c.waitMembers("n1 n2 n3 w1 w1/2")
		want := lease.Configuration{Config: c.nodes["n1"].config().Config, Voters: []string{"n1", "n2", "n3", "w1", "w1/2"}, Committed: true}
		if want.Index != 1 || want.Digest == 0 {
			t.Errorf("configuration %+v", want)
		}
		cluster := c.nodes["n1"].store.Identity().Cluster
		for id, n := range c.nodes {
			got := n.config()
			if got.Since < time.Hour || got.Since > c.now() {
				t.Errorf("%s: committed since %v, now %v", id, got.Since, c.now())
			}
			if got.Since = 0; !equal(got, want) {
				t.Errorf("%s: %+v, want %+v", id, got, want)
			}
			if n.store.Identity().Cluster != cluster || len(cluster) != 32 || n.log.Waiting() != "" {
				t.Errorf("%s: cluster %q, want %q; waits for %q", id, n.store.Identity().Cluster, cluster, n.log.Waiting())
			}
			if leader, ours := n.log.Leader(); leader != c.leader().id || ours != (c.leader() == n) {
				t.Errorf("%s: leader %q, ours %v", id, leader, ours)
			}
		}
		l := c.leader()
		c.until("the members are heard", func() bool {
			return !slices.ContainsFunc(l.log.Members(), func(m Member) bool {
				return !m.Voter || m.Incarnation == "" || m.Heard != m.Incarnation || m.Contact < 0 || m.Contact > 200*time.Millisecond || m.Self != (m.ID == l.id)
			})
		})
		if got := len(l.log.Members()); got != 5 {
			t.Errorf("%d members", got)
		}
	})
}

func equal(a, b lease.Configuration) bool {
	return a.Config == b.Config && slices.Equal(a.Voters, b.Voters) && a.Committed == b.Committed && a.Since == b.Since
}

func TestOneVoterFoundsItsQuorumAlone(t *testing.T) {
	inBubble(t, voters("n1"), func(t *testing.T, c *cluster) {
		c.start("n1")
		c.waitMembers("n1")
		if err := c.initialize("pg", "n1"); err != nil {
			t.Fatal(err)
		}
		_ = c.stop("n1")
		n := c.startOne("n1")
		c.until("the record is back", func() bool { return n.log.Resource("pg") != nil && n.log.leading.Load() })
		if !n.config().Committed || n.log.Hello().Starts != 2 {
			t.Errorf("configuration %+v", n.config())
		}
	})
}

func TestFirstMembers(t *testing.T) {
	file := voters("n2", "n1", "w1")
	hello := func(id, incarnation string, empty bool) Hello {
		return Hello{ID: id, Incarnation: incarnation, Empty: empty}
	}
	for _, tc := range []struct {
		name    string
		answers []Hello
		want    string
		members string
	}{
		{"all empty", []Hello{hello("n2", "b", true), hello("w1", "c", true)}, "", "n1@a n2@b w1@c"},
		{"none heard", nil, "not heard: n2, w1", ""},
		{"one not heard", []Hello{hello("n2", "b", true)}, "not heard: w1", ""},
		{"one belongs", []Hello{hello("n2", "b", false), hello("w1", "c", true)}, "n2 is part of a quorum already", ""},
		{"two belong", []Hello{hello("n2", "b", false), hello("w1", "c", false)}, "n2, w1 are part of a quorum already", ""},
		{"one belongs, one is not heard", []Hello{hello("n2", "b", false)}, "has to add this voter; not heard: w1", ""},
		{"a copy", []Hello{hello("n2", "a", true), hello("w1", "c", true)}, "n2 and n1 have copies of one state directory", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			answers := map[string]Hello{}
			for _, h := range tc.answers {
				answers[h.ID] = h
			}
			got, why := firstMembers(file, hello("n1", "a", true), answers)
			if (why == "") != (tc.want == "") || !strings.Contains(why, tc.want) {
				t.Errorf("%q, want %q", why, tc.want)
			}
			if why != "" {
				return
			}
			var ids []string
			for _, s := range got.Servers {
				ids = append(ids, string(s.ID))
				if s.Suffrage != raft.Voter || string(s.Address) != string(s.ID) {
					t.Errorf("%+v", s)
				}
			}
			if strings.Join(ids, " ") != tc.members {
				t.Errorf("members %v, want %s", ids, tc.members)
			}
			other := slices.Clone(file)
			slices.Reverse(other)
			again, _ := firstMembers(other, hello("n1", "a", true), answers)
			if clusterID(again) != clusterID(got) {
				t.Error("another order is another cluster")
			}
		})
	}
}

func TestEmptiedDirectoryComesBackAsNew(t *testing.T) {
	inBubble(t, voters("n1", "n2", "n3"), func(t *testing.T, c *cluster) {
		c.start("n1", "n2", "n3")
		c.waitMembers("n1 n2 n3")
		if err := c.initialize("pg", "n1", "n2"); err != nil {
			t.Fatal(err)
		}
		old := c.nodes["n3"].self
		c.crash("n3")
		if err := store.Reset(c.path("n3"), "test"); err != nil {
			t.Fatal(err)
		}
		c.waitLeader()
		n := c.startOne("n3")
		var seen []string
		c.until("n3 has its vote again", func() bool {
			l := c.leader()
			if l == nil {
				return false
			}
			h := fmt.Sprint(l.members(), " ", slices.Contains(l.log.Hello().Configuration, string(old)))
			if len(seen) == 0 || seen[len(seen)-1] != h {
				seen = append(seen, h)
			}
			return l.members() == "n1 n2 n3" && slices.Contains(l.log.Hello().Configuration, string(n.self))
		})
		if want := []string{"n1 n2 n3 true", "n1 n2 false", "(n3) n1 n2 false", "n1 n2 n3 false"}; !slices.Equal(seen, want) {
			t.Errorf("went through %q, want %q", seen, want)
		}
		c.waitMembers("n1 n2 n3")
		if n.log.Resource("pg") == nil {
			t.Error("it has its vote without the log")
		}
		// It must not stand in for what it was: until a membership has it with a vote, it knows of none.
		n.mu.Lock()
		defer n.mu.Unlock()
		for _, cfg := range n.configs {
			if cfg.Index != 0 && cfg.Index < 4 {
				t.Errorf("it was told of %+v", cfg)
			}
		}
	})
}

func TestOlderCopyOfADirectoryIsKeptOut(t *testing.T) {
	inBubble(t, voters("n1", "n2", "n3"), func(t *testing.T, c *cluster) {
		c.start("n1", "n2", "n3")
		c.waitMembers("n1 n2 n3")
		_ = c.stop("n3")
		copyDir(t, c.path("n3"), c.dir+"/backup")
		c.start("n3")
		c.waitMembers("n1 n2 n3")
		_ = c.stop("n3")
		c.start("n3")
		c.waitMembers("n1 n2 n3")
		if err := c.initialize("pg", "n1", "n2"); err != nil {
			t.Fatal(err)
		}
		c.crash("n3")
		copyDir(t, c.dir+"/backup", c.path("n3"))
		n := c.startOne("n3")
		c.never("the old copy is heard", 5*time.Second, func() bool { id, _ := n.log.Leader(); return id != "" || n.log.leading.Load() })
		c.crash("n3")
		if err := store.Reset(c.path("n3"), "restored from a backup"); err != nil {
			t.Fatal(err)
		}
		n = c.startOne("n3")
		c.until("it is back as a new one", func() bool {
			return c.leader() != nil && slices.Contains(c.leader().log.Hello().Configuration, string(n.self))
		})
		c.waitMembers("n1 n2 n3")
	})
}

func TestTheDeadAreRemovedOnlyIfThatLowersTheMajority(t *testing.T) {
	for _, tc := range []struct {
		name string
		file []string
		kill []string
		want string
	}{
		{"two of five", []string{"n1", "n2", "n3", "w1", "w2"}, []string{"n1", "w1"}, "n2 n3 w2"},
		{"one of five", []string{"n1", "n2", "n3", "w1", "w2"}, []string{"n1"}, "n1 n2 n3 w1 w2"},
		{"one of four", []string{"n1", "n2", "n3", "w1"}, []string{"n2"}, "n1 n3 w1"},
		{"one of three", []string{"n1", "n2", "n3"}, []string{"n3"}, "n1 n2 n3"},
		{"a witness with two votes", []string{"n1", "n2", "n3", "w1", "w1/2"}, []string{"w1", "w1/2"}, "n1 n2 n3"},
		{"two of seven", []string{"n1", "n2", "n3", "n4", "n5", "w1", "w2"}, []string{"n1", "n2"}, "n3 n4 n5 w1 w2"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			inBubble(t, voters(tc.file...), func(t *testing.T, c *cluster) {
				c.start(tc.file...)
				all := slices.Clone(tc.file)
				slices.Sort(all)
				c.waitMembers(strings.Join(all, " "))
				c.isolate(tc.kill...)
				time.Sleep(8 * time.Second)
				c.waitMembers(tc.want)
				// They come back, one at a time, and the membership is what it was.
				c.heal()
				c.waitMembers(strings.Join(all, " "))
				for _, n := range c.nodes {
					if got := n.config(); !got.Committed {
						t.Errorf("%s: %+v", n.id, got)
					}
				}
			})
		})
	}
}

func TestRemovedVoterComesBackAfterARestart(t *testing.T) {
	inBubble(t, voters("n1", "n2", "n3", "w1"), func(t *testing.T, c *cluster) {
		c.start("n1", "n2", "n3", "w1")
		c.waitMembers("n1 n2 n3 w1")
		was := c.nodes["w1"].self
		c.crash("w1")
		c.waitMembers("n1 n2 n3")
		if err := c.initialize("pg", "n1"); err != nil {
			t.Fatal(err)
		}
		n := c.startOne("w1")
		if n.self != was {
			t.Errorf("it is %s, and was %s", n.self, was)
		}
		c.waitMembers("n1 n2 n3 w1")
		c.until("it has the log", func() bool { return n.log.Resource("pg") != nil })
	})
}

func TestVoterOfAHolderIsNotRemoved(t *testing.T) {
	inBubble(t, voters("n1", "n2", "n3", "w1"), func(t *testing.T, c *cluster) {
		c.start("n1", "n2", "n3", "w1")
		c.waitMembers("n1 n2 n3 w1")
		if err := c.initialize("pg", "n1", "n2"); err != nil {
			t.Fatal(err)
		}
		c.activate("pg", "n1")
		c.isolate("n1")
		time.Sleep(3 * time.Second)
		c.never("n1 is removed", 5*time.Second, func() bool { return c.leader() != nil && c.leader().members() != "n1 n2 n3 w1" })
		c.activate("pg", "n2")
		c.waitMembers("n2 n3 w1")
	})
}

func TestLeadershipLeavesAHolder(t *testing.T) {
	for _, tc := range []struct {
		name string
		file []string
		down []string
		want []string // who may lead then
	}{
		{"to a witness", []string{"n1", "n2", "n3", "w1", "w1/2"}, nil, []string{"w1", "w1/2"}},
		{"to the standby with the lowest priority", []string{"n1", "n2", "n3"}, nil, []string{"n3"}},
		{"to a standby, as the witness is down", []string{"w1", "n1", "n2"}, []string{"w1"}, []string{"n2"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			inBubble(t, voters(tc.file...), func(t *testing.T, c *cluster) {
				c.start(tc.file...)
				all := slices.Clone(tc.file)
				slices.Sort(all)
				c.waitMembers(strings.Join(all, " "))
				if err := c.initialize("pg", "n1", "n2"); err != nil {
					t.Fatal(err)
				}
				c.isolate(tc.down...)
				time.Sleep(2 * time.Second)
				// n1 is to lead, and then to hold.
				c.lead("n1")
				c.activate("pg", "n1")
				c.until("another leads", func() bool { return c.leader() != nil && c.leader().id != "n1" })
				if got := c.leader().id; !slices.Contains(tc.want, got) {
					t.Errorf("%s leads, want one of %v", got, tc.want)
				}
			})
		})
	}
}

// TestLeadershipGoesToWhoHearsTheHolder: the lease of a holder that the leader does not hear is renewed by the others, and what it has to say must get
// into the log.
func TestLeadershipGoesToWhoHearsTheHolder(t *testing.T) {
	for _, tc := range []struct {
		name    string
		file    []string
		leader  string
		unheard []string // by n1, the holder
		want    []string
	}{
		{"a standby leads", []string{"n1", "n2", "w1"}, "n2", []string{"n2"}, []string{"w1"}},
		{"both votes of a witness", []string{"n1", "n2", "n3", "w1", "w1/2"}, "w1", []string{"w1", "w1/2"}, []string{"n2", "n3"}},
		{"one witness", []string{"n1", "n2", "n3", "w1", "w2"}, "w1", []string{"w1"}, []string{"w2"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			inBubble(t, voters(tc.file...), func(t *testing.T, c *cluster) {
				c.start(tc.file...)
				all := slices.Clone(tc.file)
				slices.Sort(all)
				c.waitMembers(strings.Join(all, " "))
				if err := c.initialize("pg", "n1", "n2"); err != nil {
					t.Fatal(err)
				}
				time.Sleep(2 * time.Second)
				c.lead(tc.leader)
				c.activate("pg", "n1")
				time.Sleep(3 * time.Second)
				if l := c.leader(); l == nil || l.id != tc.leader {
					t.Fatalf("%v leads, want %s as long as it hears the holder", l, tc.leader)
				}
				for _, id := range tc.unheard {
					c.part("n1", id)
				}
				at := time.Now()
				c.until("another leads", func() bool { return c.leader() != nil && slices.Contains(tc.want, c.leader().id) })
				if took := time.Since(at); took > 5*time.Second {
					t.Errorf("after %v", took)
				}
			})
		})
	}
}

func TestHolderThatNobodyCanRelieveGoesOnLeading(t *testing.T) {
	inBubble(t, voters("n1", "n2"), func(t *testing.T, c *cluster) {
		c.start("n1", "n2")
		c.waitMembers("n1 n2")
		for _, r := range []string{"a", "b"} {
			if err := c.initialize(r, "n1", "n2"); err != nil {
				t.Fatal(err)
			}
		}
		c.activate("a", "n1")
		c.activate("b", "n2")
		time.Sleep(5 * time.Second)
		was := c.waitLeader()
		c.never("the leadership moves between holders", 10*time.Second, func() bool { return c.leader() != was })
	})
}

func TestOutcomes(t *testing.T) {
	inBubble(t, voters("n1", "n2", "n3"), func(t *testing.T, c *cluster) {
		c.start("n1", "n2", "n3")
		c.waitMembers("n1 n2 n3")
		if err := c.initialize("pg", "n1"); err != nil {
			t.Fatal(err)
		}
		l := c.leader()
		var conflict *record.Conflict
		if err := c.initialize("pg", "n1"); !errors.As(err, &conflict) || !strings.Contains(err.Error(), "already") {
			t.Errorf("twice: %v", err)
		}
		var not *NotLeader
		for _, n := range c.nodes {
			if n == l {
				continue
			}
			if err := n.log.Apply(t.Context(), record.Command{Op: record.Pause, Resource: "pg"}); !errors.As(err, &not) || not.Leader != l.id || !strings.Contains(err.Error(), l.id) {
				t.Errorf("%s: %v", n.id, err)
			}
		}
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		if err := l.log.Apply(ended, record.Command{Op: record.Pause, Resource: "pg"}); !errors.Is(err, context.Canceled) || errors.As(err, new(*Unknown)) {
			t.Errorf("after its time: %v", err)
		}
		// Cut off, a leader takes a command and can't say what becomes of it.
		c.isolate(l.id)
		var unknown *Unknown
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		if err := l.log.Apply(ctx, record.Command{Op: record.Pause, Resource: "pg"}); !errors.As(err, &unknown) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("cut off, in a hurry: %v", err)
		}
		if err := l.log.Apply(t.Context(), record.Command{Op: record.Resume, Resource: "pg"}); !errors.As(err, &unknown) || !errors.Is(err, raft.ErrLeadershipLost) {
			t.Errorf("cut off: %v", err)
		}
		c.until("it knows", func() bool { return !l.log.leading.Load() })
		if err := l.log.Apply(t.Context(), record.Command{Op: record.Pause, Resource: "pg"}); !errors.As(err, &not) || not.Leader != "" {
			t.Errorf("after the loss: %v", err)
		}
		c.until("another leads", func() bool { return c.leader() != nil })
		c.heal()
		c.until("what was not committed is gone", func() bool { id, _ := l.log.Leader(); return id == c.leader().id })
		c.waitMembers("n1 n2 n3")
		if l.log.Resource("pg").Paused {
			t.Error("it is paused")
		}
		l.mu.Lock()
		defer l.mu.Unlock()
		if want := []bool{true, false}; !slices.Equal(l.leading[len(l.leading)-2:], want) {
			t.Errorf("leading: %v", l.leading)
		}
	})
}

func TestRecordsComeInOrder(t *testing.T) {
	inBubble(t, voters("n1", "n2", "n3"), func(t *testing.T, c *cluster) {
		c.start("n1", "n2", "n3")
		c.waitMembers("n1 n2 n3")
		if err := c.initialize("pg", "n1", "n2"); err != nil {
			t.Fatal(err)
		}
		for range 5 {
			c.activate("pg", "n1")
			c.activate("pg", "n2")
		}
		want := c.leader().log.Resource("pg").Index
		for _, n := range c.nodes {
			c.until(n.id+" has all", func() bool { r := n.log.Resource("pg"); return r != nil && r.Index == want })
			n.mu.Lock()
			if len(n.records) != 31 {
				t.Errorf("%s: %d changes, want 31", n.id, len(n.records))
			}
			for k := 1; k < len(n.records); k++ {
				if n.records[k].Index <= n.records[k-1].Index {
					t.Errorf("%s: %d after %d", n.id, n.records[k].Index, n.records[k-1].Index)
				}
			}
			n.mu.Unlock()
		}
	})
}

func TestSnapshotGivesALaggingVoterTheSameMembership(t *testing.T) {
	inBubble(t, voters("n1", "n2", "n3", "n4", "n5"), func(t *testing.T, c *cluster) {
		c.tune = func(rc *raft.Config) {
			rc.SnapshotThreshold, rc.TrailingLogs, rc.SnapshotInterval = 8, 4, 50*time.Millisecond
		}
		c.start("n1", "n2", "n3", "n4", "n5")
		c.waitMembers("n1 n2 n3 n4 n5")
		if err := c.initialize("pg", "n1", "n2"); err != nil {
			t.Fatal(err)
		}
		c.isolate("n4", "n5")
		c.waitMembers("n1 n2 n3")
		for range 10 {
			c.activate("pg", "n1")
			c.activate("pg", "n2")
		}
		c.until("the log is cut", func() bool { first, err := c.leader().store.FirstIndex(); return err == nil && first > 20 })
		c.heal()
		c.waitMembers("n1 n2 n3 n4 n5")
		want := c.leader().config()
		for _, n := range c.nodes {
			if got := n.config(); got.Config != want.Config || !slices.Equal(got.Voters, want.Voters) || !got.Committed {
				t.Errorf("%s: %+v, want %+v", n.id, got, want)
			}
			if n.log.Resource("pg").Epoch != 21 {
				t.Errorf("%s: %+v", n.id, n.log.Resource("pg"))
			}
		}
		// From the disk it is the same, at once for what a snapshot stands for.
		for range 10 {
			c.activate("pg", "n1")
			c.activate("pg", "n2")
		}
		for _, id := range []string{"n1", "n2", "n3", "n4", "n5"} {
			n := c.nodes[id]
			c.until(id+" took a snapshot of it", func() bool {
				all, err := n.store.Snapshots().List()
				return err == nil && len(all) > 0 && all[0].ConfigurationIndex == want.Index
			})
			_ = c.stop(id)
			c.waitLeader()
			n = c.startOne(id)
			c.until(id+" is back", func() bool { return n.config().Committed })
			n.mu.Lock()
			if got := n.configs[0]; got.Config != want.Config || !got.Committed {
				t.Errorf("%s after a start: %+v, want %+v", id, got, want)
			}
			n.mu.Unlock()
			c.waitMembers("n1 n2 n3 n4 n5")
		}
	})
}

func TestFailingDiskEndsAVoterAndNotTheProcess(t *testing.T) {
	for _, who := range []string{"leader", "follower", "elector"} {
		t.Run(who, func(t *testing.T) {
			inBubble(t, voters("n1", "n2", "n3"), func(t *testing.T, c *cluster) {
				c.start("n1", "n2", "n3")
				c.waitMembers("n1 n2 n3")
				n := c.leader()
				if who != "leader" {
					for _, o := range c.nodes {
						if o != n {
							n = o
							break
						}
					}
				}
				n.disk.fail.Store(true)
				if who == "elector" {
					c.isolate(c.leader().id) // it has to write a term, its own or another's
				} else if err := c.initialize("pg", "n1"); who == "leader" && !errors.As(err, new(*Unknown)) {
					t.Errorf("command of a leader whose disk fails: %v", err)
				}
				err := <-n.done
				if err == nil || !errors.Is(err, errDisk) || !strings.Contains(err.Error(), "log of voter "+n.id) {
					t.Errorf("ends with %v", err)
				}
				if !errors.Is(n.log.Trouble(), errDisk) {
					t.Errorf("trouble %v", n.log.Trouble())
				}
				if _, ours := n.log.Leader(); ours || n.log.leading.Load() {
					t.Error("it still leads")
				}
				n.done <- nil // for the end
				n.mu.Lock()
				if k := len(n.leading); k > 0 && n.leading[k-1] {
					t.Errorf("leading: %v", n.leading)
				}
				n.mu.Unlock()
				c.heal()
				c.until("another leads", func() bool { return c.leader() != nil && c.leader() != n })
				_ = c.stop(n.id)
				c.start(n.id)
				c.waitMembers("n1 n2 n3")
			})
		})
	}
}

func TestStopGivesTheLeadershipAway(t *testing.T) {
	inBubble(t, voters("n1", "n2", "n3"), func(t *testing.T, c *cluster) {
		c.start("n1", "n2", "n3")
		c.waitMembers("n1 n2 n3")
		l := c.leader()
		time.Sleep(time.Second) // the others are heard
		at := time.Now()
		if err := c.stop(l.id); err != nil {
			t.Error(err)
		}
		c.waitLeader()
		if took := time.Since(at); took > 250*time.Millisecond {
			t.Errorf("the next one leads after %v", took)
		}
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.leading[len(l.leading)-1] {
			t.Error("it was not told that it leads no more")
		}
	})
}

// TestStepDownWaitsForNoWrite: the membership is locked during a write, which a disk that hangs never ends.
func TestStepDownWaitsForNoWrite(t *testing.T) {
	inBubble(t, voters("n1", "n2", "n3"), func(t *testing.T, c *cluster) {
		c.start("n1", "n2", "n3")
		c.waitMembers("n1 n2 n3")
		l := c.leader()
		time.Sleep(time.Second) // the others are heard
		l.log.members.mu.Lock()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		l.log.StepDown(ctx)
		l.log.members.mu.Unlock()
	})
}

// TestEndWaitsForAnswers: what raft was asked is answered before it is shut down. What its state machine has not come to then, it forgets, and who waits for
// it would do so for ever; the bubble would tell.
func TestEndWaitsForAnswers(t *testing.T) {
	inBubble(t, voters("n1"), func(t *testing.T, c *cluster) {
		c.start("n1")
		c.waitMembers("n1")
		n := c.nodes["n1"]
		c.until("it leads", n.log.leading.Load)
		gate := make(chan struct{})
		n.gate.Store(&gate)
		answers := make(chan error, 20)
		for k := range cap(answers) {
			time.Sleep(time.Millisecond) // a batch each
			go func() { answers <- c.initialize(fmt.Sprint("r", k), "n1") }()
		}
		time.Sleep(10 * time.Millisecond)
		n.cancel()
		time.Sleep(100 * time.Millisecond)
		close(gate)
		for range cap(answers) {
			if err := <-answers; err != nil {
				t.Error(err)
			}
		}
	})
}

func TestNewVoterOfTheFileIsAdded(t *testing.T) {
	inBubble(t, voters("n1", "n2", "n3", "n4"), func(t *testing.T, c *cluster) {
		file := c.file
		c.file = file[:3]
		c.start("n1", "n2", "n3")
		c.waitMembers("n1 n2 n3")
		c.file = file
		c.start("n4")
		c.never("it is added before the others know of it", 3*time.Second, func() bool { return c.leader().members() != "n1 n2 n3" })
		if got := c.nodes["n4"].log.Waiting(); !strings.Contains(got, "part of a quorum already") {
			t.Errorf("waits for %q", got)
		}
		for _, id := range []string{"n1", "n2", "n3"} {
			if err := c.nodes[id].log.SetVoters(file); err != nil {
				t.Fatal(err)
			}
		}
		c.waitMembers("n1 n2 n3 n4")
		if a, b := c.nodes["n4"].store.Identity().Cluster, c.nodes["n1"].store.Identity().Cluster; a != b {
			t.Errorf("cluster %q, want %q", a, b)
		}
	})
}

func TestElectionKeepsTheMembership(t *testing.T) {
	inBubble(t, voters("n1", "n2", "n3", "w1"), func(t *testing.T, c *cluster) {
		c.start("n1", "n2", "n3", "w1")
		c.waitMembers("n1 n2 n3 w1")
		if err := c.initialize("pg", "n1"); err != nil {
			t.Fatal(err)
		}
		c.until("w1 does not lead", func() bool {
			if l := c.leader(); l != nil && l.id == "w1" {
				_ = l.log.move(t.Context(), l.log.raft.Load(), raft.Server{ID: c.nodes["n1"].self, Address: raft.ServerAddress(c.nodes["n1"].self)})
				return false
			}
			return c.leader() != nil
		})
		c.isolate("w1")
		time.Sleep(900 * time.Millisecond)
		c.apply(record.Command{Op: record.Begin, Resource: "pg", Epoch: 2, Cause: record.ByRelease})
		c.never("a change in an election", time.Second, func() bool { return c.leader() != nil && c.leader().members() != "n1 n2 n3 w1" })
		// But not for ever: who ends it may have to be let in.
		c.waitMembers("n1 n2 n3")
	})
}

func TestOperatorAddsAndRemoves(t *testing.T) {
	inBubble(t, voters("n1", "n2", "n3", "w1"), func(t *testing.T, c *cluster) {
		c.start("n1", "n2", "n3", "w1")
		c.waitMembers("n1 n2 n3 w1")
		if err := c.initialize("pg", "n1", "n2"); err != nil {
			t.Fatal(err)
		}
		c.activate("pg", "n1")
		c.until("a leader that is not n1 and hears all", func() bool {
			l := c.leader()
			return l != nil && l.id != "n1" && len(l.log.fresh()) == 3
		})
		l := c.leader()
		other := "n2"
		if l.id == "n2" {
			other = "n3"
		}
		refused := func(err error, want string) {
			t.Helper()
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%v, want %q", err, want)
			}
		}
		ctx := t.Context()
		refused(l.log.Remove(ctx, "n9"), "no member")
		refused(l.log.Remove(ctx, l.id), "leads the log")
		refused(l.log.Remove(ctx, other), "in the configuration file and answers")
		refused(l.log.Add(ctx, "n9"), "not in the leader's configuration file")
		refused(l.log.Add(ctx, other), "is a member already")
		if err := c.nodes["n1"].log.Remove(ctx, other); !errors.As(err, new(*NotLeader)) {
			t.Errorf("at a follower: %v", err)
		}
		file := c.file
		without := func(id string) []Voter {
			return slices.DeleteFunc(slices.Clone(file), func(v Voter) bool { return v.ID == id })
		}
		if err := l.log.SetVoters(without("n1")); err != nil {
			t.Fatal(err)
		}
		refused(l.log.Remove(ctx, "n1"), "holds an active resource")
		refused(l.log.SetVoters(without(l.id)), "itself is not among them")
		if err := l.log.SetVoters(without(other)); err != nil {
			t.Fatal(err)
		}
		c.never("a voter that lives is removed because it is not in the file", 3*time.Second, func() bool { return c.leader().members() != "n1 n2 n3 w1" })
		c.until("nothing else changes", func() bool { return l.log.Remove(ctx, other) == nil })
		c.never("it is added again", 3*time.Second, func() bool { return strings.Contains(c.leader().members(), other) })
		if err := l.log.SetVoters(file); err != nil {
			t.Fatal(err)
		}
		if err := l.log.Add(ctx, other); err != nil {
			t.Error(err)
		}
		refused(l.log.Add(ctx, other), "a member already, and gets its vote")
		c.waitMembers("n1 n2 n3 w1")
		// Three of four are needed: with one dead no other may go.
		gone := slices.DeleteFunc([]string{"n2", "n3", "w1"}, func(id string) bool { return id == l.id || id == other })[0]
		for _, n := range c.nodes {
			n.holder.Store(gone) // so that it stays a member
		}
		c.isolate(gone)
		time.Sleep(2 * time.Second)
		if err := l.log.SetVoters(without(other)); err != nil {
			t.Fatal(err)
		}
		if l == c.leader() {
			if err := l.log.Remove(ctx, other); err != nil {
				t.Errorf("two of three are enough: %v", err)
			}
			if err := l.log.SetVoters(slices.DeleteFunc(without(other), func(v Voter) bool { return v.ID == "n1" })); err != nil {
				t.Fatal(err)
			}
		}
	})
}

func TestNewRefuses(t *testing.T) {
	s, err := store.Open(t.TempDir(), store.Options{NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	_, trans := raft.NewInmemTransport(raft.ServerAddress("n1@" + s.Identity().Incarnation))
	_, wrong := raft.NewInmemTransport("n1")
	o := Options{Store: s, Transport: trans, Self: voters("n1")[0], Voters: voters("n1"), Now: func() time.Duration { return 0 }, Peer: &node{}}
	for _, tc := range []struct {
		name   string
		change func(*Options)
		want   string
	}{
		{"good", func(*Options) {}, ""},
		{"no store", func(o *Options) { o.Store = nil }, "no store"},
		{"another address", func(o *Options) { o.Transport = wrong }, "transport is at"},
		{"not in the file", func(o *Options) { o.Voters = voters("n2") }, "itself is not among them"},
		{"twice in the file", func(o *Options) { o.Voters = voters("n1", "n1") }, "given twice"},
		{"an impossible id", func(o *Options) { o.Voters = voters("n1", "n2@x") }, "no voter's id"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			o := o
			tc.change(&o)
			_, err := New(o)
			if (err == nil) != (tc.want == "") || err != nil && !strings.Contains(err.Error(), tc.want) {
				t.Errorf("%v, want %q", err, tc.want)
			}
		})
	}
}

// TestAVoterThatIsBackGetsTheLog at once, however long it was away: the next failure must not wait until raft tries it again.
func TestAVoterThatIsBackGetsTheLog(t *testing.T) {
	for _, tc := range []struct {
		name string
		tune func(*raft.Config)
	}{
		{"entries", nil},
		{"a snapshot", func(rc *raft.Config) {
			rc.SnapshotThreshold, rc.TrailingLogs, rc.SnapshotInterval = 4, 1, time.Second
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			inBubble(t, voters("n1", "n2", "w1"), func(t *testing.T, c *cluster) {
				c.tune = tc.tune
				c.start("n1", "n2", "w1")
				c.waitMembers("n1 n2 w1")
				c.lead("w1")
				c.isolate("n1")
				for k := range 60 {
					if err := c.initialize(fmt.Sprint("away", k), "n2"); err != nil {
						t.Fatal(err)
					}
					time.Sleep(time.Second)
				}
				c.heal()
				time.Sleep(500 * time.Millisecond) // heartbeats go on, so that w1 leads on alone with n1
				c.isolate("n2")
				back := time.Now()
				if err := c.initialize("back", "n1"); err != nil {
					t.Fatal(err)
				}
				c.until("n1 has it", func() bool { return c.nodes["n1"].log.Resource("back") != nil })
				if d := time.Since(back); d > time.Second {
					t.Errorf("n1 has the next entry after %v, want at most a second", d)
				}
			})
		})
	}
}

// TestATransferToASilentVoterEnds, and commands are taken again: raft does not end a second one before its try with entries there ends.
func TestATransferToASilentVoterEnds(t *testing.T) {
	inBubble(t, voters("n1", "n2", "w1"), func(t *testing.T, c *cluster) {
		c.start("n1", "n2", "w1")
		c.waitMembers("n1 n2 w1")
		c.lead("w1")
		c.isolate("n1")
		if err := c.initialize("away", "n2"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		l, gone := c.nodes["w1"].log, c.nodes["n1"]
		for k := range 3 {
			if err := l.move(t.Context(), l.raft.Load(), raft.Server{ID: gone.self, Address: raft.ServerAddress(gone.self)}); err == nil {
				t.Errorf("transfer %d to a silent voter succeeded", k)
			}
			began := time.Now()
			c.until("a command is taken", func() bool { return c.initialize(fmt.Sprint("taken", k), "n2") == nil })
			if d := time.Since(began); d > 2*time.Second {
				t.Errorf("the next command was taken after %v, want at most two seconds", d)
			}
			if l := c.leader(); l == nil || l.id != "w1" {
				t.Fatalf("the leader changed\n%s", c)
			}
		}
	})
}
