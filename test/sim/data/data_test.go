package data

import (
	"flag"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

var (
	seeds = flag.Int("data.seeds", 60, "how many `seeds` TestSeeds plays")
	first = flag.Uint64("data.first", 1, "the first `seed`")
	one   = flag.Uint64("data.seed", 0, "play this `seed` alone, with a trace")
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
