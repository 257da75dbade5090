package link

import (
	"context"
	"errors"
	"sync"
	"time"

	"pgvrrp/internal/quorum/record"
)

// askAgain is how often the directory is asked about one and the same start of a voter that it refused: it may have
// changed its mind, when the log names a new incarnation.
const askAgain = time.Second

// maxAsked bounds the memory of questions asked; above it all are forgotten and may be asked again.
const maxAsked = 64

// sender is what we know of one voter's datagrams: which run of it is admitted, and the highest numbers seen.
type sender struct {
	mu sync.Mutex
	// now is the run whose datagrams are accepted, zero until the directory admitted one.
	now Self
	// runs are the newest run of each incarnation and its numbers. None is forgotten: else a replay of an old
	// incarnation could reopen the numbers of the present one.
	runs  map[string]*run
	asked map[Self]time.Duration
	given uint64 // the most words that the present run told

	heard   time.Duration // when something of it was accepted last, by any link; 0: never
	lost    bool          // too long ago
	hearing map[*hearing]bool
}

// news reports whether an accepted datagram tells of more words than any before.
func (s *sender) news(given uint64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if given <= s.given {
		return false
	}
	s.given = given
	return true
}

// hearing is something that is said to a voter.
type hearing struct{ end context.CancelCauseFunc }

// ErrLost is the end of what is said to a voter of which nothing is heard any more.
var ErrLost = errors.New("nothing is heard of it on any link")

// run is one start of one incarnation.
type run struct {
	starts uint64
	boot   record.Boot
	top    map[uint16]uint64 // the highest number accepted, by stream
	copies map[int]uint64    // the highest number of stream 0 seen, by own address
}

// present is the voter's present run, zero while none is admitted.
func (s *sender) present() Self {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.now
}

// check says whether to accept d, which is authentic and came to own address local at the given time. ask tells that the
// directory is to be asked about d's run; until it has answered, the datagrams of that run are lost. A copy of a datagram that
// came by another link already is no reject: fresh is false and the reason None.
func (s *sender) check(d *datagram, self record.Boot, local int, at time.Duration) (fresh bool, reason Reason, ask bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.runs[string(d.incarnation)]
	if r != nil {
		if d.starts < r.starts {
			return false, OldStart, false
		}
		if d.starts == r.starts && d.boot != r.boot {
			return false, TwoRuns, false
		}
	}
	if string(d.incarnation) != s.now.Incarnation || d.starts != s.now.Starts {
		if s.now != (Self{}) && string(d.incarnation) != s.now.Incarnation {
			// A later start tells by its number that it is later. Of two incarnations nothing tells which is, so the
			// sender must show that it lives now: it knows this run of ours, and goes on with its numbers.
			if d.toBoot != self {
				return false, OtherRun, false
			}
			if r != nil && d.starts == r.starts && d.seq <= r.top[d.stream] {
				return false, Replay, false
			}
		}
		who := Self{ID: string(d.from), Incarnation: string(d.incarnation), Starts: d.starts, Boot: d.boot, Words: d.words}
		if last, ok := s.asked[who]; ok && at-last < askAgain {
			return false, NotAdmitted, false
		}
		if s.asked == nil || len(s.asked) >= maxAsked {
			s.asked = map[Self]time.Duration{}
		}
		s.asked[who] = at
		return false, NotAdmitted, true
	}
	// A ping tells us the sender's run before it can know ours; anything else must be meant for this run, or our
	// restart would let old datagrams in again.
	if d.toBoot != self && d.kind != ping {
		return false, OtherRun, false
	}
	fresh = d.seq > r.top[d.stream]
	switch {
	case fresh:
		r.top[d.stream] = d.seq
	case d.kind != data || d.seq <= r.copies[local]:
		return false, Replay, false
	}
	if d.kind == data {
		r.copies[local] = d.seq
	}
	if d.toBoot == self {
		s.heard, s.lost = max(s.heard, at), false
	}
	return fresh, None, false
}

// expire makes the voter lost if nothing of it was accepted for limit, and ends what is said to it. It returns when to look again.
func (s *sender) expire(now, awake, limit time.Duration) (next time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.heard == 0 || s.lost {
		return 0
	}
	if next = max(s.heard, awake) + limit; now < next {
		return next
	}
	s.lost = true
	for h := range s.hearing {
		h.end(ErrLost)
	}
	clear(s.hearing)
	return 0
}

// hear is ctx for as long as the voter is not lost.
func (s *sender) hear(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, end := context.WithCancelCause(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lost {
		end(ErrLost)
		return ctx, func() {}
	}
	h := &hearing{end}
	if s.hearing == nil {
		s.hearing = map[*hearing]bool{}
	}
	s.hearing[h] = true
	return ctx, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.hearing, h)
		end(context.Canceled)
	}
}

// admit notes that the directory admitted who. It still refuses a run that is older than one seen here. changed tells
// that who is another run than the one before.
func (s *sender) admit(who Self) (changed bool, reason Reason) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.runs[who.Incarnation]
	switch {
	case r != nil && who.Starts < r.starts:
		return false, OldStart
	case r != nil && who.Starts == r.starts && who.Boot != r.boot:
		return false, TwoRuns
	case r == nil || who.Starts > r.starts:
		if s.runs == nil {
			s.runs = map[string]*run{}
		}
		s.runs[who.Incarnation] = &run{
			starts: who.Starts, boot: who.Boot, top: map[uint16]uint64{}, copies: map[int]uint64{},
		}
	}
	if changed = s.now != who; changed {
		s.given = 0
	}
	s.now = who
	return changed, None
}
