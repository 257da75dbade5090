// Package seeded is what the simulations share: chance that is the same for the same seed, and what happens in the order of its time.
package seeded

import "time"

// Queue is a binary heap by time; of equal times the first one that was asked for comes first.
type Queue[T any] struct {
	e   []entry[T]
	seq uint64
}

type entry[T any] struct {
	at  int64
	seq uint64
	v   T
}

func (q *Queue[T]) less(a, b int) bool {
	if q.e[a].at != q.e[b].at {
		return q.e[a].at < q.e[b].at
	}
	return q.e[a].seq < q.e[b].seq
}

// Len is how many are to come.
func (q *Queue[T]) Len() int { return len(q.e) }

// Push has v come at a time, in nanoseconds.
func (q *Queue[T]) Push(at int64, v T) {
	q.seq++
	q.e = append(q.e, entry[T]{at, q.seq, v})
	for k := len(q.e) - 1; k > 0; {
		up := (k - 1) / 2
		if !q.less(k, up) {
			return
		}
		q.e[k], q.e[up] = q.e[up], q.e[k]
		k = up
	}
}

// Pop takes the next one out of a queue that is not empty.
func (q *Queue[T]) Pop() (at int64, v T) {
	first, last := q.e[0], len(q.e)-1
	q.e[0] = q.e[last]
	q.e[last] = entry[T]{}
	q.e = q.e[:last]
	for k := 0; ; {
		down := 2*k + 1
		if down >= last {
			return first.at, first.v
		}
		if down+1 < last && q.less(down+1, down) {
			down++
		}
		if !q.less(down, k) {
			return first.at, first.v
		}
		q.e[k], q.e[down] = q.e[down], q.e[k]
		k = down
	}
}

// Random is splitmix64: small, fast, and the same everywhere.
type Random uint64

// Next is any number.
func (r *Random) Next() uint64 {
	*r += 0x9e3779b97f4a7c15
	z := uint64(*r)
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

// Intn is below n.
func (r *Random) Intn(n int) int { return int(r.Next() >> 1 % uint64(n)) }

// Chance is true with probability p.
func (r *Random) Chance(p float64) bool { return float64(r.Next()>>11)/(1<<53) < p }

// Between is in [a, b).
func (r *Random) Between(a, b time.Duration) time.Duration {
	if b <= a {
		return a
	}
	return a + time.Duration(r.Next()%uint64(b-a))
}

// Soon is mostly in [a, b), and now and then up to long.
func (r *Random) Soon(a, b, long time.Duration) time.Duration {
	if r.Chance(0.02) {
		return r.Between(b, long)
	}
	return r.Between(a, b)
}

// Pick is one of list.
func Pick[T any](r *Random, list ...T) T { return list[r.Intn(len(list))] }
