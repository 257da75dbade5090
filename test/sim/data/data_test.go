package data

import (
	"flag"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

var (
	seeds  = flag.Int("data.seeds", 60, "how many `seeds` TestSeeds plays")
	first  = flag.Uint64("data.first", 1, "the first `seed`")
	plants = flag.Int("data.plants", 3000, "how many `seeds` TestPlanted plays at most for each bug")
	one    = flag.Uint64("data.seed", 0, "play this `seed` alone, with a trace")
)

// play runs seeds on all processors.
func play(first uint64, n int, o Options, each func(Result) bool) {
	var next atomic.Uint64
	var stop atomic.Bool
	next.Store(first - 1)
	var wg sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for !stop.Load() {
				seed := next.Add(1)
				if seed >= first+uint64(n) {
					return
				}
				if !each(Run(seed, o)) {
					stop.Store(true)
				}
			}
		})
	}
	wg.Wait()
}

func TestSeeds(t *testing.T) {
	if *one != 0 {
		t.Log(Run(*one, Options{Trace: os.Stdout}))
		return
	}
	var mu sync.Mutex
	var sum Result
	failed := 0
	begin := time.Now()
	play(*first, *seeds, Options{}, func(r Result) bool {
		mu.Lock()
		defer mu.Unlock()
		sum.Events += r.Events
		sum.Epochs += r.Epochs
		sum.Acked += r.Acked
		sum.Grown += r.Grown
		sum.Rewinds += r.Rewinds
		sum.Clones += r.Clones
		sum.Kept += r.Kept
		sum.Healed = max(sum.Healed, r.Healed)
		if r.Err != nil {
			failed++
			t.Errorf("%v", r)
		}
		return failed < 20
	})
	took := time.Since(begin)
	t.Logf("%d seeds in %v (%.1f per second), %d events; %d epochs, %d commits, %d grown, %d rewinds, %d clones, %d kept, healed in %v at most", *seeds, took.Round(time.Millisecond),
		float64(*seeds)/took.Seconds(), sum.Events, sum.Epochs, sum.Acked, sum.Grown, sum.Rewinds, sum.Clones, sum.Kept, sum.Healed)
}

// planted are bugs in what is around the machine. Each must be found.
var planted = []struct {
	name    string
	plant   Plant
	profile string
	want    []string // of the broken invariant
}{
	// Either alone is harmless: a node that forgot its promise reads the log before it changes its data, one that did not read the log
	// knows by its promise that what it sees is old.
	{"the promise is not fsynced, and the log is read without a barrier", Plant{VolatilePromise: true, StaleRead: true}, "power", []string{"I3", "I4", "I8"}},
	{"SSN before the log", Plant{EarlySSN: true}, "", []string{"I5"}},
	{"grow without barrier", Plant{NoBarrier: true}, "", []string{"I8"}},
	{"no hold", Plant{NoHold: true}, "", []string{"I3", "I4", "I8"}},
	{"a grant changes the rule", Plant{GrantRules: true}, "", []string{"I3", "I8"}},
	{"rewind toward a holder that is not active", Plant{EarlyActive: true}, "grants", []string{"I3", "I8"}},
	{"no look whether commits wait at all", Plant{NoProbe: true}, "", []string{"I8"}},
	{"timelines are not reserved", Plant{NoReserve: true}, "", []string{"I6"}},
	{"no slots: two walsenders of one name", Plant{NoSlots: true}, "network", []string{"I3", "I8"}},
}

func TestPlanted(t *testing.T) {
	for _, c := range planted {
		t.Run(c.name, func(t *testing.T) {
			var mu sync.Mutex
			played, found, seed := 0, "", uint64(0)
			begin := time.Now()
			play(*first, *plants, Options{Plant: c.plant, Profile: c.profile, Heal: time.Second}, func(r Result) bool {
				mu.Lock()
				defer mu.Unlock()
				played++
				if r.Err != nil && found == "" && slices.ContainsFunc(c.want, func(i string) bool { return strings.HasPrefix(r.Err.Error(), i+":") }) {
					found, seed = r.Err.Error(), r.Seed
				}
				return found == ""
			})
			t.Logf("%d seeds in %v: seed %d: %s", played, time.Since(begin).Round(time.Millisecond), seed, found)
			if found == "" {
				t.Errorf("not found in %d seeds, want a broken %v", played, c.want)
			}
		})
	}
}
