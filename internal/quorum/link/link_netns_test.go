//go:build netns

package link

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"pgvrrp/internal/system/nstest"
)

func TestMain(m *testing.M) {
	// The untagged tests run in the namespace too, and need its loopback interface.
	nstest.MainOnLoopback(m)
}

// cut drops everything to a LAN, without a word, until the function returned is called.
func cut(t *testing.T, h *nstest.Host, l *lab, lan int) (heal func()) {
	t.Helper()
	table := fmt.Sprintf("cut%d", lan)
	h.Run(t, "nft", "add table ip "+table+"; add chain ip "+table+" out { type filter hook output priority 0; }; "+
		"add rule ip "+table+" out ip daddr "+netip.PrefixFrom(l.addr(0, lan), 16).Masked().String()+" drop")
	heal = func() { h.Run(t, "nft", "delete", "table", "ip", table) }
	return heal
}

// With one link, nobody but TCP can find out that it is dead.
func TestDeadConnectionFailsWithinASecondOrTwo(t *testing.T) {
	nstest.Require(t, "nft")
	h := nstest.Self(t)
	l := newLab(t)
	peers := l.peers(1, 1)
	a, b := l.start(0, peers, nil), l.start(1, peers, nil)
	b.Handle(echo)
	c, err := a.Dial(t.Context(), "n2")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	say(t, c, "x")
	eventually(t, "the link to be up", func() bool { return a.ups("n2") == 1 })
	heal := cut(t, h, l, 0)
	defer heal()
	start := time.Now()
	if err := c.SetDeadline(start.Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Write([]byte("y")); err != nil {
		t.Fatal(err)
	}
	_, err = c.Read(make([]byte, 1))
	took := time.Since(start)
	if !errors.Is(err, unix.ETIMEDOUT) {
		t.Errorf("read: got %v, want %v", err, unix.ETIMEDOUT)
	}
	if took < userTimeout/2 || took > 3*userTimeout {
		t.Errorf("failed after %v, want about %v", took, userTimeout)
	}
	t.Logf("failed after %v", took)
	if a.ups("n2") != 0 {
		t.Error("the link is up")
	}
	// Close must not wait for room in a buffer that nobody empties.
	start = time.Now()
	c.Close()
	if took := time.Since(start); took > time.Second {
		t.Errorf("closing took %v", took)
	}
}

// With two links, the pings tell, and the next dial goes by the other.
func TestConnectionMovesToTheOtherLink(t *testing.T) {
	nstest.Require(t, "nft")
	h := nstest.Self(t)
	l := newLab(t)
	peers := l.peers(2, 2)
	ping := func(o *Options) { o.Ping = DefaultPing }
	a, b := l.start(0, peers, ping), l.start(1, peers, ping)
	b.Handle(echo)
	eventually(t, "both links to be up", func() bool { return a.ups("n2") == 2 && b.ups("n1") == 2 })
	c, err := a.Dial(t.Context(), "n2")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	say(t, c, "x")
	start := time.Now()
	heal := cut(t, h, l, 0)
	if err := c.SetReadDeadline(start.Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("read: got %v", err)
	}
	gone := time.Since(start)
	if c, err = a.Dial(t.Context(), "n2"); err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	say(t, c, "y")
	took := time.Since(start)
	if gone < pingsLost*DefaultPing/2 || took > 3*time.Second {
		t.Errorf("gone after %v, back after %v", gone, took)
	}
	t.Logf("gone after %v, back after %v", gone, took)
	// Datagrams never noticed.
	a.Send("n2", []byte("z"))
	if got := b.take(t); got.payload != "z" {
		t.Errorf("got %+v", got)
	}
	heal()
	eventually(t, "both links to be up again", func() bool { return a.ups("n2") == 2 && b.ups("n1") == 2 })
}

// The interface gets its address after we have started, loses it, and gets it again.
func TestAddressComesAndGoes(t *testing.T) {
	nstest.Require(t)
	h := nstest.Self(t)
	h.Run(t, "ip", "link", "add", "lan0", "type", "bridge")
	t.Cleanup(func() { h.Run(t, "ip", "link", "del", "lan0") })
	h.Run(t, "ip", "link", "set", "lan0", "up")
	l := newLab(t)
	peers := l.peers(2, 2)
	for i := range peers {
		peers[i].Addrs[0] = netip.AddrFrom4([4]byte{192, 0, 2, byte(i + 1)})
	}
	h.Run(t, "ip", "addr", "add", "192.0.2.2/24", "dev", "lan0")
	a, b := l.start(0, peers, nil), l.start(1, peers, nil)
	eventually(t, "the second link to be up", func() bool { return a.ups("n2") == 1 && b.ups("n1") == 1 })
	if at := a.Addresses()[0]; at.Bound || at.Error == "" {
		t.Errorf("address %+v", at)
	}
	for range 2 {
		h.Run(t, "ip", "addr", "add", "192.0.2.1/24", "dev", "lan0")
		eventually(t, "both links to be up", func() bool { return a.ups("n2") == 2 && b.ups("n1") == 2 })
		h.Run(t, "ip", "addr", "del", "192.0.2.1/24", "dev", "lan0")
		eventually(t, "the link to be down", func() bool { return a.ups("n2") == 1 && b.ups("n1") == 1 })
		a.Send("n2", []byte("x"))
		b.take(t)
	}
}
