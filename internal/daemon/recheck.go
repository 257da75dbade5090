package daemon

import "time"

// recheck has the main task look once more after a while, however many instances ask for it. It belongs to the main task.
type recheck struct {
	wake  func() // called from any goroutine
	at    time.Time
	timer *time.Timer
}

// in asks for a look after d at the latest. One that is on its way and comes sooner will do: each look is at all instances.
func (r *recheck) in(d time.Duration) {
	now := time.Now()
	if r.at.After(now) && r.at.Before(now.Add(d)) {
		return
	}
	r.at = now.Add(d)
	if r.timer == nil {
		r.timer = time.AfterFunc(d, r.wake)
	} else {
		r.timer.Reset(d)
	}
}
