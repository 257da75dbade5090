package daemon

import (
	"context"
	"fmt"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"pgvrrp/internal/conf"
	"pgvrrp/internal/instance"
	"pgvrrp/internal/system"
)

// TestTroubledUnitsAreSeenOnceAPeriod: many instances with a lasting trouble do not make the main task look more often than one does.
func TestTroubledUnitsAreSeenOnceAPeriod(t *testing.T) {
	monitor, err := system.OpenMonitor(system.MonitorOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer monitor.Close()
	synctest.Test(t, func(t *testing.T) {
		log := slog.New(slog.DiscardHandler)
		d := &Daemon{log: log, monitor: monitor, premises: &premises{unclosed: "for a test"}, wake: make(chan struct{}, 1)}
		d.checks = newChecks(log, d.poke)
		d.recheck.wake = d.poke
		for n := range 20 {
			c := conf.Instance{Name: fmt.Sprintf("VI_%d", n), Interface: "lo", VRID: uint8(n + 1), Version: 3, Priority: 100, AdvertInterval: time.Second,
				DownTimerAdverts: 3, NotifyRetry: time.Second, NoAccept: true}
			i, err := instance.New(instance.Options{Config: c, Log: log})
			if err != nil {
				t.Fatal(err)
			}
			d.units = append(d.units, &unit{d: d, log: log, config: c, instance: i})
		}
		ended, cancel := context.WithCancel(t.Context())
		cancel() // nobody runs the instances
		const periods = 10
		end := time.After(periods*furnishAgain + furnishAgain/2)
		d.poke()
		for passes := 0; ; {
			select {
			case <-d.wake:
				passes++
				for _, u := range d.units {
					u.refresh(ended)
					time.Sleep(time.Millisecond)
				}
				continue
			case <-end:
			}
			if passes != 1+periods {
				t.Errorf("%d units: %d passes in %d periods, want %d", len(d.units), passes, periods, 1+periods)
			}
			return
		}
	})
}
