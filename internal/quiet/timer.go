package quiet

import "time"

// Timer fires once, some time after it was set last. One goroutine uses it.
type Timer interface {
	C() <-chan time.Time   // gets the time when it fires
	Reset(d time.Duration) // has it fire once, d from now, and not at the time that was set before
	Stop()                 // has it fire no more
}

// NewTimer makes a timer of package time that is not set: for a test with a clock of its own, and where no Clock runs.
func NewTimer() Timer {
	t := time.NewTimer(time.Hour)
	t.Stop()
	return plain{t}
}

type plain struct{ t *time.Timer }

func (p plain) C() <-chan time.Time   { return p.t.C }
func (p plain) Reset(d time.Duration) { p.t.Reset(d) }
func (p plain) Stop()                 { p.t.Stop() }
