package daemon

import (
	"time"

	"pgvrrp/internal/conf"
)

// links holds back changes of links, as interface_up_down_delays asks. It belongs to the main task.
type links struct {
	wake   func() // a delay is over; called from any goroutine
	delays map[string]conf.LinkDelay
	seen   map[string]linkSeen
}

// linkSeen is a link as it was at the last look.
type linkSeen struct {
	up, counts bool      // what it is, and what it counts as
	since      time.Time // of up
	wakes      time.Time // when the last wake that was planned comes
}

func (l *links) configure(delays []conf.LinkDelay) {
	l.delays = map[string]conf.LinkDelay{}
	for _, d := range delays {
		l.delays[d.Interface] = d
	}
}

// up says whether a link that is up or down now counts as up. One that is not there, or is seen for the first time, counts
// as what it is.
func (l *links) up(name string, up, present bool) bool {
	d, delayed := l.delays[name]
	if !delayed || !present {
		delete(l.seen, name)
		return up && present
	}
	now := time.Now()
	s, known := l.seen[name]
	if !known {
		s = linkSeen{up: up, counts: up, since: now}
	}
	wait := d.Down
	if up {
		wait = d.Up
	}
	if s.up != up {
		s.up, s.since = up, now
	}
	switch over := s.since.Add(wait); {
	case !now.Before(over):
		s.counts = up
	case up != s.counts && !over.Equal(s.wakes): // a reload may have moved it
		s.wakes = over
		time.AfterFunc(over.Sub(now), l.wake)
	}
	if l.seen == nil {
		l.seen = map[string]linkSeen{}
	}
	l.seen[name] = s
	return s.counts
}
