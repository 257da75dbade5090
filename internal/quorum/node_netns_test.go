//go:build netns

package quorum

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"pgvrrp/internal/conf"
	"pgvrrp/internal/control"
	"pgvrrp/internal/quorum/link"
	"pgvrrp/internal/system/nstest"
)

func TestMain(m *testing.M) {
	// The untagged tests take long, and have no need of a namespace.
	flag.Parse()
	if f := flag.Lookup("test.run"); f.Value.String() == "" {
		if err := f.Value.Set("^TestCallsLeaveADeadLeader$"); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	nstest.MainOnLoopback(m)
}

// deadLeader is a cluster with a holder whose leader of the log is cut off without a word.
type deadLeader struct {
	*cluster
	h      *nstest.Host
	holder string
	old    string
	cut    time.Time
	next   chan time.Time // when the holder knows of another leader; closed without if it never does
}

// cutOff waits for a leader that is not the holder, and drops whatever is to it or from it.
func cutOff(t *testing.T, h *nstest.Host, c *cluster, needs int) *deadLeader {
	t.Helper()
	d := &deadLeader{cluster: c, h: h, next: make(chan time.Time, 1)}
	c.await("a holder that does not lead, and a whole rule", func() bool {
		d.holder = c.holder("vip")
		if d.holder == "" || len(c.resource(d.holder, "vip").Rule.S) < needs {
			return false
		}
		d.old, _ = c.nodes[d.holder].node.members[0].log.Leader()
		return d.old != "" && d.old != d.holder
	})
	look, enough := context.WithTimeout(t.Context(), 10*time.Second)
	log := c.nodes[d.holder].node.members[0].log
	go func() {
		defer enough()
		defer close(d.next)
		for look.Err() == nil {
			turn := log.Turn()
			if id, _ := log.Leader(); id != "" && id != d.old {
				d.next <- time.Now()
				return
			}
			select {
			case <-turn:
			case <-look.Done():
			}
		}
	}()
	k := slices.IndexFunc(c.file.Voters, func(v conf.Voter) bool { return v.Name == d.old })
	var addrs []string
	for _, a := range c.file.Voters[k].Addrs {
		addrs = append(addrs, a.String())
	}
	set, table := "{ "+strings.Join(addrs, ", ")+" }", "dead_"+d.old
	h.Run(t, "nft", "add table ip "+table+"; add chain ip "+table+" out { type filter hook output priority 0; }; "+
		"add rule ip "+table+" out ip daddr "+set+" drop; add rule ip "+table+" out ip saddr "+set+" drop")
	t.Cleanup(func() { h.Run(t, "nft", "delete", "table", "ip", table) })
	d.cut = time.Now()
	return d
}

// late is how long after the next leader was known something happened.
func (d *deadLeader) late(t *testing.T, what string, at time.Time) {
	t.Helper()
	known, ok := <-d.next
	if !ok || at.IsZero() {
		t.Fatalf("another leader known: %t; %s at %v", ok, what, at)
	}
	t.Logf("cut off %s; another leader known after %v, %s %v later", d.old, known.Sub(d.cut), what, at.Sub(known))
	if late := at.Sub(known); late > 1500*time.Millisecond {
		t.Errorf("%s %v after the next leader was known", what, late)
	}
}

// The leader of the log is cut off without a word, and then the next one. Nobody waits for an answer longer than the links take to miss
// the leader, what has not been said to it goes to the next one as soon as that is known, and what the holder gives back meanwhile is
// given back.
func TestCallsLeaveADeadLeader(t *testing.T) {
	nstest.Require(t, "nft")
	h := nstest.Self(t)
	c := newCluster(t, plain, "n1", "n2", "n3", "w1", "w2")
	for _, v := range c.file.Voters {
		c.start(v.Name)
	}
	d := cutOff(t, h, c, 2)
	node := c.nodes[d.holder].node
	rpc := node.members[0].rpc
	asked := make(chan error, 1)
	go func() {
		_, err := rpc.callHeard(t.Context(), d.old, call{Read: "vip"})
		asked <- err
	}()
	// As an agent does that must have its rule in the log before commits can go on.
	var said time.Time
	for said.IsZero() && time.Since(d.cut) < 10*time.Second {
		if err := node.Pause(t.Context(), control.PauseRequest{Resource: "vip", On: true, Reason: "a test"}); err == nil {
			said = time.Now()
		}
	}
	d.late(t, "the command is in its log", said)
	select {
	case err := <-asked:
		if !errors.Is(err, link.ErrLost) {
			t.Errorf("the question to the leader ended with %v, want %v", err, link.ErrLost)
		}
	case <-time.After(time.Second):
		t.Error("the question to the leader that is gone still waits")
	}
	began := time.Now()
	if _, err := rpc.callHeard(t.Context(), d.old, call{Read: "vip"}); !errors.Is(err, link.ErrLost) || time.Since(began) > time.Second {
		t.Errorf("another question: %v after %v, want %v at once", err, time.Since(began), link.ErrLost)
	}

	if err := node.Pause(t.Context(), control.PauseRequest{Resource: "vip"}); err != nil {
		t.Fatal(err)
	}
	d = cutOff(t, h, c, 1)
	epoch := c.resource(d.holder, "vip").Epoch
	c.nodes[d.holder].node.GiveUp("vip", "a test", "")
	c.await("the epoch is given back, and another begins", func() bool { return c.resource(d.holder, "vip").Epoch > epoch })
	d.late(t, "the epoch is over", time.Now())
}
