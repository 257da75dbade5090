package daemon

import "time"

// tidyAfter is how long nothing must have happened before memory is given back.
const tidyAfter = 3 * time.Second

// tidy says when to give the kernel back what a start, a reload or a takeover of many instances needed: once, when it has been quiet
// for a while.
type tidy struct {
	events uint64
	since  time.Time // of the last event; zero: it is tidy
}

// done reports whether nothing has happened since memory was given back.
func (t *tidy) done() bool { return t.since.IsZero() }

// due is asked now and then, with the number of events so far.
func (t *tidy) due(now time.Time, events uint64) bool {
	if events != t.events {
		t.events, t.since = events, now
		return false
	}
	if t.since.IsZero() || now.Sub(t.since) < tidyAfter {
		return false
	}
	t.since = time.Time{}
	return true
}
