package files

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Probe asks a disk, as often as it is told to, whether it still takes writes. It is safe for concurrent use.
type Probe struct {
	path  string
	mu    sync.Mutex
	since time.Time // of the write that runs; zero: none does
}

// NewProbe is a probe that writes 4 KiB to path, a file of its own.
func NewProbe(path string) *Probe { return &Probe{path: path} }

// Write writes once and waits until it is on disk (open(2), O_DSYNC), or for ctx. A write that hangs is left behind, and while it does every other one
// fails at once.
func (p *Probe) Write(ctx context.Context) error {
	p.mu.Lock()
	if since := p.since; !since.IsZero() {
		p.mu.Unlock()
		return fmt.Errorf("an earlier write waits since %v", time.Since(since).Round(time.Millisecond))
	}
	p.since = time.Now()
	p.mu.Unlock()
	done := make(chan error, 1)
	go func() {
		err := p.write()
		p.mu.Lock()
		p.since = time.Time{}
		p.mu.Unlock()
		done <- err
	}()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return fmt.Errorf("the disk did not answer: %w", ctx.Err())
	}
}

func (p *Probe) write() (err error) {
	f, err := os.OpenFile(p.path, os.O_WRONLY|os.O_CREATE|unix.O_DSYNC, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	block := make([]byte, 4096)
	binary.BigEndian.PutUint64(block, uint64(time.Now().UnixNano()))
	_, err = f.WriteAt(block, 0)
	return err
}
