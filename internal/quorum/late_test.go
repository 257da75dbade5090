package quorum

import (
	"strings"
	"testing"
	"time"

	"pgvrrp/internal/conf"
)

// TestARenewalThatIsTooLateIsNone: the instances have taken the addresses off, and take them back by a grant alone. A lease that went on would have
// nobody with the addresses.
func TestARenewalThatIsTooLateIsNone(t *testing.T) {
	c := newCluster(t, plain, "n1")
	n := c.start("n1").node
	c.await("n1 holds it", func() bool { return c.holder("vip") == "n1" && n.Live("vip") })
	epoch := c.resource("n1", "vip").Epoch
	m := n.members[0]
	if err := m.ask(func(now time.Duration) error {
		m.machines["vip"].liveUntil.Store(int64(now))
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if n.Live("vip") {
		t.Fatal("it is live after its time")
	}
	c.await("it is held in another epoch", func() bool { return c.resource("n1", "vip").Epoch > epoch && n.Live("vip") })
}

// TestAShorterLeaseIsSilentAsLong: the voter may have acknowledged the longer one a moment before it was stopped.
func TestAShorterLeaseIsSilentAsLong(t *testing.T) {
	c := newCluster(t, plain, "n1")
	c.startWith("n1", func(file *conf.Quorum) { file.Lease = 10 * time.Second })
	c.stop("n1")
	n := c.start("n1").node
	m := n.members[0]
	if err := m.ask(func(now time.Duration) error {
		if silent := m.machines["vip"].voter.Silent(now); silent < 9*time.Second {
			t.Errorf("after a start with a lease of 0.4 s: silent for %v, want the 10 s of the lease before", silent)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

// TestADiskThatHangsDoesNotHoldUpTheEnd: a write that never returns.
func TestADiskThatHangsDoesNotHoldUpTheEnd(t *testing.T) {
	c := newCluster(t, plain, "n1")
	r := c.start("n1")
	c.await("n1 holds it", func() bool { return c.holder("vip") == "n1" })
	delete(c.nodes, "n1")
	hang := make(chan struct{})
	m := r.node.members[0]
	hangs := make(chan struct{})
	r.node.tasks.Go(func() error { close(hangs); <-hang; return nil })
	<-hangs
	r.stop()
	select {
	case err := <-r.done:
		if err == nil || !strings.Contains(err.Error(), "may hang") || !strings.Contains(err.Error(), r.node.o.File.StateDir) {
			t.Errorf("got %v, want an error that names the directory", err)
		}
	case <-time.After(4 * endTime):
		t.Fatal("it does not end")
	}
	r.node.Close() // must not wait for it either
	close(hang)
	m.close()
}
