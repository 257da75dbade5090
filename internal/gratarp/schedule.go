package gratarp

import (
	"net/netip"
	"time"
)

// Timing says how often and when to announce. The fields are those of keepalived's garp_ and gna_ keywords.
type Timing struct {
	MasterDelay         time.Duration // second batch so long after taking over; 0: none
	MasterRepeat        int           // packets for each address in either batch
	MasterRefresh       time.Duration // a batch so often while active; 0: never
	MasterRefreshRepeat int           // packets for each address in it
	LowerPrioDelay      time.Duration // second batch so long after contention; 0: none
	LowerPrioRepeat     int           // packets for each address in either batch
	Interval            time.Duration // between two ARP packets on an interface; 0: none
	GNAInterval         time.Duration // between two neighbour advertisements on an interface; 0: none
}

// Target is one address to announce.
type Target struct {
	Addr      netip.Addr
	Interface string
}

// contentionPause is the least time between two batches that contention causes. A peer that advertises a lower
// priority every 10 ms must not make us flood the LAN: it is told ten times a second.
const contentionPause = 100 * time.Millisecond

// schedule is the pure part of an instance's announcing: which target is due when.
type schedule struct {
	timing  Timing
	active  bool
	targets []Target

	// What is due and was not sent yet, as indices of targets: by family, because the intervals differ.
	arp, na []int

	second       time.Time // of the second batch; zero: none
	secondRepeat int
	refresh      time.Time // of the next refresh; zero: never
	again        time.Time // earliest next batch for contention
}

// announce starts over with these targets.
func (s *schedule) announce(now time.Time, targets []Target) {
	*s = schedule{timing: s.timing, active: true, targets: targets, arp: s.arp[:0], na: s.na[:0]}
	s.batch(s.timing.MasterRepeat)
	s.later(now, s.timing.MasterDelay, s.timing.MasterRepeat)
	if s.timing.MasterRefresh > 0 {
		s.refresh = now.Add(s.timing.MasterRefresh)
	}
}

// announceAgain answers contention; it does nothing unless active.
func (s *schedule) announceAgain(now time.Time) {
	if !s.active || now.Before(s.again) {
		return
	}
	s.again = now.Add(contentionPause)
	// A batch under way is as good: one begun anew at each advert would never get to the last address.
	if len(s.arp)+len(s.na) == 0 {
		s.batch(s.timing.LowerPrioRepeat)
	}
	s.later(now, s.timing.LowerPrioDelay, s.timing.LowerPrioRepeat)
}

// later plans a second batch, in place of one that is planned.
func (s *schedule) later(now time.Time, delay time.Duration, repeat int) {
	if delay > 0 && repeat > 0 {
		s.second, s.secondRepeat = now.Add(delay), repeat
	}
}

// stop forgets all that is due or planned.
func (s *schedule) stop() {
	*s = schedule{timing: s.timing, arp: s.arp[:0], na: s.na[:0]}
}

// batch makes every target due repeat times, in place of what was still due: each address is on the wire once
// before the first is a second time. The first is the one whose turn it was.
func (s *schedule) batch(repeat int) {
	s.arp, s.na = s.family(s.arp, false, repeat), s.family(s.na, true, repeat)
}

func (s *schedule) family(queue []int, ipv6 bool, repeat int) []int {
	first := 0
	if len(queue) > 0 {
		first = queue[0]
	}
	queue = queue[:0]
	for range repeat {
		for k := range s.targets {
			if i := (first + k) % len(s.targets); s.targets[i].Addr.Is4() != ipv6 {
				queue = append(queue, i)
			}
		}
	}
	return queue
}

// putBack makes due first what step gave and was not sent.
func (s *schedule) putBack(left []int) {
	var arp, na []int
	for _, i := range left {
		if s.targets[i].Addr.Is4() {
			arp = append(arp, i)
		} else {
			na = append(na, i)
		}
	}
	s.arp, s.na = append(arp, s.arp...), append(na, s.na...)
}

// take asks whether a packet may go out of an interface now, and if not, when. It remembers a yes.
type take func(iface string, ipv6 bool, interval time.Duration, now time.Time) (ok bool, at time.Time)

// step appends to due what must be sent now, as indices of targets, and returns when to ask again; zero: never.
// To ask late or again is harmless.
func (s *schedule) step(now time.Time, may take, due []int) (send []int, next time.Time) {
	if !s.second.IsZero() && !now.Before(s.second) {
		s.second = time.Time{}
		s.batch(s.secondRepeat)
	}
	if !s.refresh.IsZero() && !now.Before(s.refresh) {
		// A batch under way is as good as a refresh.
		if len(s.arp)+len(s.na) == 0 {
			s.batch(s.timing.MasterRefreshRepeat)
		}
		s.refresh = now.Add(s.timing.MasterRefresh)
	}
	next = earliest(s.second, s.refresh)
	for _, family := range []struct {
		queue    *[]int
		ipv6     bool
		interval time.Duration
	}{{&s.arp, false, s.timing.Interval}, {&s.na, true, s.timing.GNAInterval}} {
		queue := *family.queue
		for len(queue) > 0 {
			ok, at := may(s.targets[queue[0]].Interface, family.ipv6, family.interval, now)
			if !ok {
				next = earliest(next, at)
				break
			}
			due, queue = append(due, queue[0]), queue[1:]
		}
		*family.queue = queue
	}
	return due, next
}

// earliest of two times, of which zero is never.
func earliest(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}
