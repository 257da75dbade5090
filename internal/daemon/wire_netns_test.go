//go:build netns

package daemon

import (
	"log/slog"
	"net/netip"
	"sync"
	"testing"
	"time"

	"pgvrrp/internal/conf"
	"pgvrrp/internal/instance"
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
