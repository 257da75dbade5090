package seeded

import (
	"testing"
	"time"
)

func TestRandom(t *testing.T) {
	r := Random(0)
	for k, want := range []uint64{0xe220a8397b1dcdaf, 0x6e789e6aa1b965f4, 0x06c45d188009454f} { // of the reference program, prng.di.unimi.it
		if got := r.Next(); got != want {
			t.Errorf("number %d: got %#x, want %#x", k, got, want)
		}
	}
	for range 1000 {
		if d := r.Between(3, 7); d < 3 || d >= 7 {
			t.Errorf("between 3 and 7: got %d", d)
		}
		if d := r.Soon(3, 7, 9); d < 3 || d >= 9 {
			t.Errorf("soon: got %d", d)
		}
		if n := r.Intn(2); n < 0 || n > 1 {
			t.Errorf("below 2: got %d", n)
		}
		if s := Pick(&r, "a", "b"); s != "a" && s != "b" {
			t.Errorf("got %q", s)
		}
		if r.Chance(0) || !r.Chance(1) {
			t.Error("what cannot be was, or what must be was not")
		}
	}
	if d := r.Between(time.Second, time.Second); d != time.Second {
		t.Errorf("nothing to choose from: got %v", d)
	}
}

// TestQueue: by time, and of equal times in the order in which they were asked for.
func TestQueue(t *testing.T) {
	r := Random(1)
	var q Queue[int]
	for k := range 2000 {
		q.Push(int64(r.Intn(50)), k)
	}
	lastAt, last := int64(-1), -1
	for n := 2000; q.Len() > 0; n-- {
		if q.Len() != n {
			t.Fatalf("%d are left, want %d", q.Len(), n)
		}
		at, v := q.Pop()
		if at < lastAt || at == lastAt && v < last {
			t.Fatalf("%d of %d after %d of %d", v, at, last, lastAt)
		}
		lastAt, last = at, v
	}
}
