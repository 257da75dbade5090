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
	one    = flag.Uint64("data.seed", 0, "TestSeeds plays this `seed` alone, with a trace")
	plants = flag.Bool("data.planted", false, "TestPlanted counts from seed 1 on how many seeds each bug takes")
)

// play runs seeds on all processors, until each returns false.
func play(first uint64, n int, o Options, each func(Result) bool) {
	var next atomic.Uint64
	var stop atomic.Bool
	next.Store(first - 1)
	var mu sync.Mutex
	var wg sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for !stop.Load() {
				seed := next.Add(1)
				if seed >= first+uint64(n) {
					return
				}
				r := Run(seed, o)
				mu.Lock()
				if !each(r) {
					stop.Store(true)
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
}

func TestSeeds(t *testing.T) {
	if *one != 0 {
		if r := Run(*one, Options{Trace: os.Stdout}); r.Err != nil {
			t.Error(r)
		}
		return
	}
	var sum Result
	failed := 0
	begin := time.Now()
	play(*first, *seeds, Options{}, func(r Result) bool {
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
	if n := *seeds; sum.Epochs < 5*uint64(n) || sum.Acked < 100*n || n >= 50 && (sum.Grown < n || sum.Rewinds < n/4 || sum.Clones < n/2 || sum.Kept < n/2) {
		t.Error("too little happened: the runs test nothing")
	}
}

// TestSameSeed: a seed that fails must fail again.
func TestSameSeed(t *testing.T) {
	for seed := range uint64(10) {
		if a, b := Run(seed, Options{}), Run(seed, Options{}); a != b {
			t.Errorf("seed %d: got %v, then %v", seed, a, b)
		}
	}
}

// TestRegressions plays the seeds that showed a bug. A change of the simulation or the agent gives a seed another course: find the bug
// again, with the fix taken out, before you change one here. What a changed agent has moved away stays, and core_test.go has it by hand.
func TestRegressions(t *testing.T) {
	for _, tt := range []struct {
		name  string
		seeds []uint64
	}{
		{"an epoch was given up, and what was reserved removed, with a promotion still to come, here or of a former run of the agent",
			[]uint64{20, 120, 305, 371, 377, 579, 718, 824, 1138, 1176, 1233, 2103, 2280, 2283, 2549, 3035, 3183, 3257, 3323, 4035}},
		{"the same, before the address was opened ahead of the nudge", []uint64{22, 95, 211, 288, 308, 313, 345, 490, 749, 9257}},
		{"a standby had told another holder that it was back, and was never taken into the rule again", []uint64{11785, 13848}},
		{"what failed while the agent and the simulation were written, by either's fault",
			[]uint64{1, 2, 3, 10, 25, 73, 92, 223, 236, 265, 403, 914, 2317, 2839, 4314, 5981, 6798, 9310, 13044, 17259, 18072, 18828}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, seed := range tt.seeds {
				if r := Run(seed, Options{}); r.Err != nil {
					t.Error(r)
				}
			}
		})
	}
}

// TestPlanted puts bugs into what is around the machine, and lets the checks find them.
func TestPlanted(t *testing.T) {
	for _, tt := range []struct {
		name    string
		profile string
		plant   Plant
		from    uint64   // a seed not far before one that finds it, so that a short test need not look for long
		want    []string // of the broken invariant
	}{
		// Each alone is harmless: a node that forgot its promise reads the log before it changes its data, one that did not read the log
		// knows by its promise that what it sees is old, and only an active holder lets it go.
		{"the promise is not fsynced, the log is read without a barrier, and the holder is not asked", "power",
			Plant{VolatilePromise: true, StaleRead: true, NoLeave: true}, 1, []string{"I3", "I4", "I8"}},
		{"SSN before the log", "", Plant{EarlySSN: true}, 1, []string{"I5"}},
		{"grow without barrier", "", Plant{NoBarrier: true}, 1, []string{"I8"}},
		{"no hold", "", Plant{NoHold: true}, 1, []string{"I3", "I4", "I8"}},
		{"a grant changes the rule", "", Plant{GrantRules: true}, 1, []string{"I3", "I8"}},
		{"rewind toward a holder that is not active and was not asked", "grants", Plant{EarlyActive: true, NoLeave: true}, 1, []string{"I3", "I8"}},
		{"no look whether commits wait at all", "", Plant{NoProbe: true}, 1, []string{"I8"}},
		{"timelines are not reserved", "", Plant{NoReserve: true}, 1, []string{"I6"}},
		{"a promotion by a timeline that there is no WAL of", "", Plant{BlindFence: true}, 1, []string{"I7"}},
		{"a server that is never consistent is waited for", "", Plant{NeverWaits: true}, 1, []string{"I7"}},
		{"half a record is taken for a whole one", "power", Plant{HalfRecords: true}, 1, []string{"I7"}},
		{"no slots: two walsenders of one name", "network", Plant{NoSlots: true}, 1000, []string{"I3", "I8"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			from, budget := tt.from, 3000
			if *plants {
				from, budget = 1, 20000
			}
			var found Result
			begin := time.Now()
			heal := time.Second
			if slices.Contains(tt.want, "I7") {
				heal = 0 // the usual
			}
			play(from, budget, Options{Plant: tt.plant, Profile: tt.profile, Heal: heal}, func(r Result) bool {
				if r.Err != nil && slices.ContainsFunc(tt.want, func(i string) bool { return strings.HasPrefix(r.Err.Error(), i+":") }) && (found.Err == nil || r.Seed < found.Seed) {
					found = r
				}
				return found.Err == nil
			})
			if found.Err == nil {
				t.Fatalf("not found in %d seeds, want a broken %v", budget, tt.want)
			}
			t.Logf("found by seed %d, from %d on in %v: %v", found.Seed, from, time.Since(begin).Round(time.Millisecond), found.Err)
		})
	}
}
