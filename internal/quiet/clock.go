package quiet

import (
	"container/heap"
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Clock wakes any number of timers by one timerfd (timerfd_create(2)) of CLOCK_MONOTONIC, the clock of package time.
type Clock struct {
	file  *os.File
	raw   syscall.RawConn
	began time.Time

	mu     sync.Mutex
	timers timers
	wakes  time.Time // when the kernel wakes us; zero: it does not
}

// OpenClock makes a clock, which goes while Run does.
func OpenClock() (*Clock, error) {
	fd, err := unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_NONBLOCK|unix.TFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("create a timerfd: %w", err)
	}
	c := &Clock{file: os.NewFile(uintptr(fd), "timerfd"), began: time.Now()}
	if c.raw, err = c.file.SyscallConn(); err != nil {
		return nil, errors.Join(fmt.Errorf("use a timerfd: %w", err), c.file.Close())
	}
	return c, nil
}

// Run wakes the timers until ctx ends, then closes the clock. It runs once. An error means that timers may fire no more.
func (c *Clock) Run(ctx context.Context) error {
	defer context.AfterFunc(ctx, func() { _ = c.file.Close() })()
	err := c.raw.Read(c.tick)
	if ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("wait for a timerfd: %w", err)
}

// Close closes a clock that does not run.
func (c *Clock) Close() error { return c.file.Close() }

// tick is called when the timerfd may have expired; there is always a next time.
func (c *Clock) tick(fd uintptr) bool {
	var times uint64
	err := unix.EINTR
	for err == unix.EINTR {
		_, _, err = unix.RawSyscall(unix.SYS_READ, fd, uintptr(unsafe.Pointer(&times)), unsafe.Sizeof(times))
	}
	if err != 0 && err != unix.EAGAIN { // EAGAIN: it was set anew in this moment
		panic(fmt.Sprintf("read a timerfd: %v", err)) // timerfd_create(2) knows of none
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	c.wakes = time.Time{}
	for len(c.timers) > 0 && !c.timers[0].at.After(now) {
		t := heap.Pop(&c.timers).(*timer)
		select {
		case t.c <- now:
		default: // it has not been asked since it fired last
		}
	}
	c.set(fd, now)
	return false
}

// together is the longest that a timer waits for others that fire with it.
const together = time.Millisecond

// set has the kernel wake us for the first timer, if it would not by itself. The caller holds mu.
func (c *Clock) set(fd uintptr, now time.Time) {
	if len(c.timers) == 0 || !c.wakes.IsZero() && c.wakes.Sub(c.timers[0].at) < together {
		return
	}
	// Timers that are due within a millisecond fire together, as those of package time do.
	from := c.timers[0].at.Sub(c.began)
	c.wakes = c.began.Add((from + together - 1).Truncate(together))
	spec := unix.ItimerSpec{Value: unix.NsecToTimespec(int64(max(c.wakes.Sub(now), 1)))} // 0 would stop it
	if _, _, err := unix.RawSyscall6(unix.SYS_TIMERFD_SETTIME, fd, 0, uintptr(unsafe.Pointer(&spec)), 0, 0, 0); err != 0 {
		panic(fmt.Sprintf("set a timerfd: %v", err)) // timerfd_create(2) knows of none for a valid time
	}
}

// timer is one timer of a clock.
type timer struct {
	clock *Clock
	c     chan time.Time
	at    time.Time
	index int // in the heap, -1: not set

	reset func(fd uintptr) // a method value made once: a closure for each call would be allocated
	in    time.Duration    // from when that is called
}

// NewTimer makes a timer that is not set.
func (c *Clock) NewTimer() Timer {
	t := &timer{clock: c, c: make(chan time.Time, 1), index: -1}
	t.reset = t.enter
	return t
}

// C implements Timer.
func (t *timer) C() <-chan time.Time { return t.c }

// Reset implements Timer.
func (t *timer) Reset(d time.Duration) {
	t.in = d
	_ = t.clock.raw.Control(t.reset) // an error means that the clock is closed
}

func (t *timer) enter(fd uintptr) {
	c := t.clock
	c.mu.Lock()
	defer c.mu.Unlock()
	t.forget()
	now := time.Now()
	if t.in <= 0 {
		t.c <- now // nobody need be woken for it
		return
	}
	t.at = now.Add(t.in)
	heap.Push(&c.timers, t)
	c.set(fd, now)
}

// Stop implements Timer.
func (t *timer) Stop() {
	t.clock.mu.Lock()
	defer t.clock.mu.Unlock()
	t.forget()
}

// forget takes it out of the heap, and back what it has fired and nobody has seen. The caller holds the clock's mu.
func (t *timer) forget() {
	if t.index >= 0 {
		heap.Remove(&t.clock.timers, t.index)
	}
	select {
	case <-t.c:
	default:
	}
}

// timers is a heap, the next one first.
type timers []*timer

func (h timers) Len() int           { return len(h) }
func (h timers) Less(i, j int) bool { return h[i].at.Before(h[j].at) }
func (h timers) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}

// Push implements heap.Interface.
func (h *timers) Push(x any) {
	t := x.(*timer)
	t.index = len(*h)
	*h = append(*h, t)
}

// Pop implements heap.Interface.
func (h *timers) Pop() any {
	last := len(*h) - 1
	t := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	t.index = -1
	return t
}
