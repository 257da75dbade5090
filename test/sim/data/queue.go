package data

import "time"

// event is something that happens at a virtual time.
type event struct {
	at  int64  // ns
	seq uint64 // of equal times the first one that was asked for
	fn  func()
}

// queue is a binary heap by time.
type queue struct {
	e   []event
	seq uint64
}

func (q *queue) less(a, b int) bool {
	if q.e[a].at != q.e[b].at {
		return q.e[a].at < q.e[b].at
	}
	return q.e[a].seq < q.e[b].seq
}

func (q *queue) push(at int64, fn func()) {
	q.seq++
	q.e = append(q.e, event{at, q.seq, fn})
	for k := len(q.e) - 1; k > 0; {
		up := (k - 1) / 2
		if !q.less(k, up) {
			return
		}
		q.e[k], q.e[up] = q.e[up], q.e[k]
		k = up
	}
}

func (q *queue) pop() event {
	first, last := q.e[0], len(q.e)-1
	q.e[0] = q.e[last]
	q.e[last] = event{}
	q.e = q.e[:last]
	for k := 0; ; {
		down := 2*k + 1
		if down >= last {
			return first
		}
		if down+1 < last && q.less(down+1, down) {
			down++
		}
		if !q.less(down, k) {
			return first
		}
		q.e[k], q.e[down] = q.e[down], q.e[k]
		k = down
	}
}

// random is splitmix64: small, fast, and the same everywhere.
type random uint64

func (r *random) next() uint64 {
	*r += 0x9e3779b97f4a7c15
	z := uint64(*r)
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

// intn is below n.
func (r *random) intn(n int) int { return int(r.next() >> 1 % uint64(n)) }

// chance is true with probability p.
func (r *random) chance(p float64) bool { return float64(r.next()>>11)/(1<<53) < p }

// between is in [a, b).
func (r *random) between(a, b time.Duration) time.Duration {
	if b <= a {
		return a
	}
	return a + time.Duration(r.next()%uint64(b-a))
}

// soon is mostly in [a, b), and now and then up to long.
func (r *random) soon(a, b, long time.Duration) time.Duration {
	if r.chance(0.02) {
		return r.between(b, long)
	}
	return r.between(a, b)
}

// pick is one of list.
func pick[T any](r *random, list ...T) T { return list[r.intn(len(list))] }
