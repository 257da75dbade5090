package sim

import (
	"flag"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

var (
	seeds   = flag.Int("sim.seeds", 100, "how many `seeds` TestSeeds plays")
	first   = flag.Uint64("sim.first", 1, "the first `seed`")
	one     = flag.Uint64("sim.seed", 0, "TestSeeds plays this `seed` alone, with a trace")
	faultsF = flag.String("sim.profile", "", "`profile` of the faults; default: by seed")
	planted = flag.Bool("sim.planted", false, "TestPlanted counts from seed 1 on how many seeds each bug takes")
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
	o := Options{Profile: *faultsF}
	if *one != 0 {
		o.Trace = os.Stdout
		if r := Run(*one, o); r.Err != nil {
			t.Error(r)
		}
		return
	}
	var sum Result
	failed := 0
	begin := time.Now()
	play(*first, *seeds, o, func(r Result) bool {
		sum.Grants += r.Grants
		sum.Held += r.Held
		sum.Frozen += r.Frozen
		sum.Excused += r.Excused
		sum.Changes += r.Changes
		sum.Events += r.Events
		if r.Err != nil {
			failed++
			t.Errorf("%v", r)
		}
		return failed < 30
	})
	took := time.Since(begin)
	t.Logf("%d seeds of a minute in %v (%.0f per second): %d events, %d grants, held %.0f %% of the time, %d renewals without a majority, %d memberships; %d times nobody of the rule was there",
		*seeds, took.Round(time.Millisecond), float64(*seeds)/took.Seconds(), sum.Events, sum.Grants, 100*sum.Held.Seconds()/(60*float64(*seeds)), sum.Frozen, sum.Changes, sum.Excused)
	if sum.Grants < 5**seeds || sum.Held < time.Duration(*seeds)*20*time.Second || *seeds >= 50 && (sum.Frozen == 0 || sum.Changes == 0) {
		t.Error("too little happened: the runs test nothing")
	}
}

// TestSameSeed: a seed that fails must fail again.
func TestSameSeed(t *testing.T) {
	for seed := range uint64(20) {
		if a, b := Run(seed, Options{}), Run(seed, Options{}); a != b {
			t.Errorf("seed %d: got %v, then %v", seed, a, b)
		}
	}
}

// TestRegressions plays the seeds that showed a bug. A change of the simulation gives a seed another course: find the bug again, with the
// fix taken out, before you change one here.
func TestRegressions(t *testing.T) {
	for _, tt := range []struct {
		name    string
		seed    uint64
		profile string
	}{
		{"a paused coordinator asked for ticks without end", 5, ""},
		{"so did one with reports at hand", 3, "all"},
		{"a candidate did after a promise that was not stored, once the epoch was released", 234, ""},
		{"and under many restarts", 116, "processes"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if r := Run(tt.seed, Options{Profile: tt.profile}); r.Err != nil {
				t.Error(r)
			}
		})
	}
}

// TestHeal: each topology by each policy under each kind of fault.
func TestHeal(t *testing.T) {
	for _, p := range profiles {
		for _, top := range []Topology{A, B, D} {
			t.Run(p+"/"+string(top), func(t *testing.T) {
				if r := Run(uint64(len(p)), Options{Profile: p, Topology: top, Length: 30 * time.Second}); r.Err != nil || r.Grants == 0 {
					t.Error(r)
				}
			})
		}
	}
}

// TestPlanted puts each bug in and lets the checks find it.
func TestPlanted(t *testing.T) {
	for _, tt := range []struct {
		name    string
		profile string
		plant   Plant
		from    uint64 // a seed not far before one that finds it, so that a short test need not look for long
	}{
		{"no drift factor", "clocks", Plant{NoDrift: true}, 1},
		{"counted from the receipt of acknowledgements", "leases", Plant{FromReceipt: true}, 1},
		{"seal not on disk, no quarantine", "leases", Plant{ForgetSeal: true, NoQuarantine: true}, 50},
		{"no quarantine", "leases", Plant{NoQuarantine: true}, 50},
		{"seal not on disk", "seals", Plant{ForgetSeal: true}, 110},
		{"enforced by the process alone", "all", Plant{InProcess: true}, 1},
		{"guard's call stopped twice", "processes", Plant{TwoPauses: true}, 100},
		{"any membership", "members", Plant{AnyConfig: true}, 1260},
		{"membership of any age", "members", Plant{ConfigAge: true}, 120},
		{"acknowledgements of older epochs count", "late", Plant{OldAcks: true}, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			from, budget := tt.from, 3000
			if *planted {
				from, budget = 1, 20000
			}
			var found Result
			begin := time.Now()
			play(from, budget, Options{Profile: tt.profile, Plant: tt.plant}, func(r Result) bool {
				if r.Err != nil && (found.Err == nil || r.Seed < found.Seed) {
					found = r
				}
				return found.Err == nil
			})
			if found.Err == nil || strings.HasPrefix(found.Err.Error(), "nobody answers") {
				t.Fatalf("got %v in %d seeds, want two hosts live", found.Err, budget)
			}
			t.Logf("found by seed %d, from %d on in %v: %v", found.Seed, from, time.Since(begin).Round(time.Millisecond), found.Err)
		})
	}
}

// TestHarmless: a question before sealing is for the life of a healthy lease alone; an epoch below the known ones is refused by its
// seals, and burnt where it was held, as well. No seed shows two hosts live without them.
func TestHarmless(t *testing.T) {
	n := 30
	if *planted {
		n = 5000
	}
	for _, tt := range []struct {
		name    string
		profile string
		plant   Plant
	}{
		{"seals without a question", "leases", Plant{NoQuery: true}},
		{"voters acknowledge older epochs", "members", Plant{OldEpochs: true}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			play(1, n, Options{Profile: tt.profile, Plant: tt.plant}, func(r Result) bool {
				if r.Err != nil && !strings.HasPrefix(r.Err.Error(), "nobody answers") {
					t.Error(r)
				}
				return !t.Failed()
			})
		})
	}
}
