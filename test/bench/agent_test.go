package main

import (
	"math"
	"slices"
	"testing"
)

// TestRebuilt: soak notices how a data directory was made anew, and whether a copy was needed.
func TestRebuilt(t *testing.T) {
	const (
		rewound = `time=2026-11-22T04:05:31.482Z level=INFO msg="the data directory is rewound to n3: timeline 5 is no ancestor of 6, where n3 is"` + "\n"
		failed  = `time=2026-11-22T04:05:31.529Z level=WARN msg=failed act="rewind n3" reason="rewind to n3: exit status 1: could not find previous WAL record" took=24ms` + "\n"
		copied  = `time=2026-11-22T04:05:31.601Z level=INFO msg="the data directory is copied from n3: the WAL that it needs is gone"` + "\n"
		cut     = `time=2026-11-22T04:05:31.601Z level=INFO msg="the data directory is copied from n3: a rewind or a copy was not finished"` + "\n"
		empty   = `time=2026-11-22T04:05:31.601Z level=INFO msg="the data directory is copied from n1: there is no data directory"` + "\n"
		other   = `time=2026-11-22T04:05:31.601Z level=INFO msg="n2 is lost: out of the rule"` + "\n"
	)
	for _, tt := range []struct {
		name, log                 string
		rewinds, copies, needless int
		last                      string
	}{
		{name: "nothing", log: other},
		{name: "a rewind", log: other + rewound + other, rewinds: 1, last: "n1 rewound to n3 (timeline 5 is no ancestor of 6, where n3 is)"},
		{name: "a copy after a rewind that failed", log: rewound + failed + copied, rewinds: 1, copies: 1, last: "n1 copied from n3 (the WAL that it needs is gone)"},
		{name: "a copy after a rewind that was cut short", log: cut, copies: 1, last: "n1 copied from n3 (a rewind or a copy was not finished)"},
		{name: "an empty host", log: empty, copies: 1, last: "n1 copied from n1 (there is no data directory)"},
		{name: "a copy where a rewind was not even tried", log: copied, copies: 1, needless: 1, last: "a rewind sufficed"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var k keeper
			news := k.rebuilt("n1", tt.log)
			if k.rewinds != tt.rewinds || k.copies != tt.copies || k.needless != tt.needless {
				t.Errorf("rewinds, copies, needless: got %d, %d, %d, want %d, %d, %d", k.rewinds, k.copies, k.needless, tt.rewinds, tt.copies, tt.needless)
			}
			if got := slices.Concat([]string{""}, news)[len(news)]; got != tt.last {
				t.Errorf("last: got %q, want %q", got, tt.last)
			}
		})
	}
}

// TestMedianInterval: the levels are those of tables of the sign test's confidence interval for a median.
func TestMedianInterval(t *testing.T) {
	for _, tt := range []struct {
		name             string
		s                series
		low, high, level float64
	}{
		{name: "one", s: series{5}, low: 5, high: 5},
		{name: "too few for 95 %", s: series{3, 1, 2}, low: 1, high: 3, level: 75},
		{name: "seven: from the least to the greatest", s: series{7, 1, 6, 2, 5, 3, 4}, low: 1, high: 7, level: 98.4375},
		{name: "nine: the second to the eighth", s: series{9, 8, 7, 6, 5, 4, 3, 2, 1}, low: 2, high: 8, level: 96.09375},
	} {
		t.Run(tt.name, func(t *testing.T) {
			low, high, level := medianInterval(tt.s)
			if low != tt.low || high != tt.high || math.Abs(level-tt.level) > 1e-9 {
				t.Errorf("got %v to %v with %v, want %v to %v with %v", low, high, level, tt.low, tt.high, tt.level)
			}
		})
	}
}
