package notify

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// fifoQueue is how many lines wait at most for a reader. A line more drops the oldest, which is told.
const fifoQueue = 1 << 16

// fifoFlush is how long the end waits for lines that the pipe does not take.
const fifoFlush = 500 * time.Millisecond

// FIFO writes lines to a named pipe. What nobody reads waits, in the pipe and then here.
type FIFO struct {
	path string
	log  *slog.Logger
	file *os.File
	made bool // by us, so that it goes with us
	wake chan struct{}

	mu      sync.Mutex
	lines   []string
	dropped uint64
}

// OpenFIFO opens the pipe at path, and makes it for its owner alone if it isn't there; uid and gid as chown(2). Anything but
// a pipe is refused.
func OpenFIFO(path string, uid, gid int, log *slog.Logger) (*FIFO, error) {
	f := &FIFO{path: path, log: log.With("fifo", path), wake: make(chan struct{}, 1)}
	switch err := unix.Mkfifo(path, 0o600); {
	case err == nil:
		f.made = true
		if err := os.Lchown(path, uid, gid); err != nil {
			return nil, errors.Join(fmt.Errorf("open fifo: %w", err), os.Remove(path))
		}
	case !errors.Is(err, unix.EEXIST):
		return nil, fmt.Errorf("make fifo %s: %w", path, err)
	}
	// For reading too: then the pipe keeps lines while no reader is there (fifo(7)).
	file, err := os.OpenFile(path, os.O_RDWR|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, fmt.Errorf("open fifo: %w", err)
	}
	if info, err := file.Stat(); err != nil || info.Mode()&os.ModeNamedPipe == 0 {
		return nil, errors.Join(fmt.Errorf("open fifo %s: it is no named pipe", path), err, file.Close())
	}
	f.file = file
	return f, nil
}

// Write queues a line, to which it adds the end; it never blocks.
func (f *FIFO) Write(line string) {
	f.mu.Lock()
	if len(f.lines) == fifoQueue {
		f.lines = f.lines[1:]
		if f.dropped++; f.dropped&(f.dropped-1) == 0 {
			f.log.Error("nobody reads the fifo, lines are lost", "lost", f.dropped)
		}
	}
	f.lines = append(f.lines, line+"\n")
	f.mu.Unlock()
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

func (f *FIFO) next() (string, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.lines) == 0 {
		return "", false
	}
	line := f.lines[0]
	f.lines = f.lines[1:]
	return line, true
}

// Run writes what is queued until ctx ends, then what it can within half a second more, closes the pipe, and removes it if we
// had made it. What is left then is counted in the log.
func (f *FIFO) Run(ctx context.Context) {
	defer context.AfterFunc(ctx, func() { _ = f.file.SetWriteDeadline(time.Now().Add(fifoFlush)) })()
	for {
		line, ok := f.next()
		if !ok {
			select {
			case <-f.wake:
				continue
			case <-ctx.Done():
				f.close(0)
				return
			}
		}
		if _, err := f.file.WriteString(line); err != nil {
			if ctx.Err() == nil {
				f.log.Error("write to the fifo", "error", err, "line", line)
				continue
			}
			f.mu.Lock()
			left := len(f.lines) + 1
			f.mu.Unlock()
			f.close(left)
			return
		}
	}
}

func (f *FIFO) close(left int) {
	if left > 0 {
		f.log.Error("the fifo was not read to the end, lines are lost", "lost", left)
	}
	err := f.file.Close()
	if f.made {
		err = errors.Join(err, os.Remove(f.path))
	}
	if err != nil {
		f.log.Warn("close fifo", "error", err)
	}
}
