package cli

import (
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
)

// Background is a log's way to a writer that may stand still, as a disk, a pipe or journald can: Write takes a line and never waits.
// Lines that the writer does not take in time are lost, and counted in a line of their own once it takes some again.
type Background struct {
	w     io.Writer
	tell  *slog.Logger // straight to w
	lines chan []byte
	lost  atomic.Int64
	once  sync.Once
	quit  chan struct{}
	done  chan struct{}
}

const (
	backgroundLines = 4096        // that wait
	backgroundEnd   = time.Second // for what waits at the end
)

// NewBackground makes one, which owns a goroutine until Close.
func NewBackground(w io.Writer) *Background {
	b := &Background{w: w, tell: slog.New(slog.DiscardHandler), lines: make(chan []byte, backgroundLines), quit: make(chan struct{}), done: make(chan struct{})}
	go b.run()
	return b
}

func (b *Background) run() {
	defer close(b.done)
	for {
		select {
		case line := <-b.lines:
			b.write(line)
		case <-b.quit:
			for {
				select {
				case line := <-b.lines:
					b.write(line)
				default:
					return
				}
			}
		}
	}
}

func (b *Background) write(line []byte) {
	_, _ = b.w.Write(line) // as with any log, nobody is there to be told
	if n := b.lost.Swap(0); n != 0 {
		b.tell.Warn("lines of this log are lost: nobody took them", "lines", n)
	}
}

// Write takes one line.
func (b *Background) Write(line []byte) (int, error) {
	select {
	case b.lines <- append([]byte(nil), line...):
	default:
		b.lost.Add(1)
	}
	return len(line), nil
}

// Close waits until what was taken is written, for a second at most. What is written to b later is lost.
func (b *Background) Close() {
	b.once.Do(func() { close(b.quit) })
	late := time.NewTimer(backgroundEnd)
	defer late.Stop()
	select {
	case <-b.done:
	case <-late.C:
	}
}
