package instance

import (
	"testing"
	"testing/synctest"
	"time"
)

// Words and order are those of keepalived 2.2.7's FIFO, but that ours tells of FAULT as of BACKUP in one word, as it does.
func TestPriorityChangesAreLines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := config()
		c.NotifyPriorityChanges = true
		i, h, stop := begin(t, c)
		defer stop()
		with := func(priority uint8, fault string) {
			t.Helper()
			i.Surround(t.Context(), but(func(s *Surroundings) { s.Verdict = Verdict{Priority: priority, Fault: fault} }))
			synctest.Wait()
		}
		want(t, h, " 0.000 hook BACKUP 100 seq=1")
		with(107, "")
		want(t, h, " 0.000 line BACKUP_PRIORITY 107 seq=1")
		with(107, "")
		want(t, h)
		time.Sleep(3700 * time.Millisecond)
		synctest.Wait()
		h.take()
		with(116, "")
		want(t, h, " 3.700 line MASTER_PRIORITY 116 seq=2")
		with(108, "disk")
		want(t, h, " 3.700 line MASTER_PRIORITY 108 seq=2", " 3.700 send priority 0 from 192.0.2.1 to 224.0.0.18 ttl 255",
			" 3.700 stop announcing", " 3.700 addresses []", " 3.700 hook FAULT 108 seq=3")
		with(109, "disk")
		want(t, h, " 3.700 line BACKUP_PRIORITY 109 seq=3")

		// A reload that changes the priority is no different; one that does not is silent.
		c.Priority = 120
		if err := i.Configure(t.Context(), c); err != nil {
			t.Fatal(err)
		}
		with(129, "disk")
		want(t, h, " 3.700 line BACKUP_PRIORITY 129 seq=3")
		c.NotifyPriorityChanges = false
		if err := i.Configure(t.Context(), c); err != nil {
			t.Fatal(err)
		}
		with(130, "disk")
		want(t, h)
	})
}

func TestRestate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i, h, stop := begin(t, config())
		defer stop()
		h.take()
		i.Restate(t.Context(), 1)
		want(t, h, " 0.000 line BACKUP 100 seq=1")
		time.Sleep(3700 * time.Millisecond)
		synctest.Wait()
		h.take()
		i.Restate(t.Context(), 1) // the transition since has written its own line
		want(t, h)
		i.Restate(t.Context(), 2)
		want(t, h, " 3.700 line MASTER 100 seq=2")
	})
}
