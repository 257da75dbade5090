//go:build netns

package daemon

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"pgvrrp/internal/conf"
	"pgvrrp/internal/instance"
	"pgvrrp/internal/system"
	"pgvrrp/internal/system/nstest"
)

// Who begins to listen while the last one who did stops is heard.
func TestListenWhileOthersForget(t *testing.T) {
	nstest.Require(t)
	w := newWire(slog.New(slog.DiscardHandler), func() {})
	defer w.close()
	c := conf.Instance{Name: "VI_1", Interface: "lo", VRID: 1, Unicast: true}
	last, next := new(instance.Instance), new(instance.Instance)
	for range 10 {
		if err := w.listen(&c, last); err != nil {
			t.Fatal(err)
		}
		// Both wait for the lock for so long that it goes from one to the other (sync.Mutex, starvation mode).
		w.mu.Lock()
		var both sync.WaitGroup
		both.Go(func() {
			if err := w.listen(&c, next); err != nil {
				t.Error(err)
			}
		})
		<-time.After(5 * time.Millisecond)
		both.Go(func() { w.forget(&c, last) })
		<-time.After(5 * time.Millisecond)
		w.mu.Unlock()
		w.mu.Lock()
		<-time.After(5 * time.Millisecond)
		w.mu.Unlock()
		both.Wait()
		if e := w.ears[placeOf(&c)]; e == nil || e.hears(1, netip.Addr{}) != next {
			t.Fatal("the new one is deaf")
		}
		w.forget(&c, next)
	}
}

// A failure to open a socket anew doesn't stand after it was opened by another.
func TestReopenedByTwo(t *testing.T) {
	for k := range 5 { // who is first is chance
		t.Run(fmt.Sprint(k), reopenedByTwo)
	}
}

func reopenedByTwo(t *testing.T) {
	self, other := nstest.Self(t), nstest.New(t)
	log := slog.New(slog.DiscardHandler)
	w := newWire(log, func() {})
	defer w.close()
	c := conf.Instance{Name: "VI_1", Interface: "ear0", VRID: 1, Unicast: true}
	nstest.Veth(t, self, "ear0", other, "eth0")
	r, err := system.OpenReceiver(system.ReceiverConfig{Interface: "ear0"})
	if err != nil {
		t.Fatal(err)
	}
	e := &ear{receiver: r, stop: make(chan struct{}), done: make(chan struct{})}
	close(e.done)
	w.ears[placeOf(&c)] = e
	self.Run(t, "ip", "link", "del", "ear0")
	nstest.Veth(t, self, "ear0", other, "eth0")
	m, err := system.OpenMonitor(system.MonitorOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	defer self.Run(t, "ip", "link", "del", "ear0")
	recovered := make(chan bool, 1)
	go func() { recovered <- e.recover(log, errors.New("for a test"), func() {}) }()
	var follower sync.WaitGroup
	follower.Go(func() {
		nstest.Without(t, unix.CAP_NET_RAW, func() {
			for len(recovered) == 0 {
				w.follow(m)
			}
		})
	})
	follower.Wait()
	if !<-recovered {
		t.Error("not opened anew")
	}
	if got := w.trouble(&c); got != "" {
		t.Errorf("got trouble %q, want none", got)
	}
}
