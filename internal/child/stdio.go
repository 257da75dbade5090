package child

import (
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	tailSize     = 4 << 10
	trimSize     = 1 << 20                // how much standard error may take in memory
	trimInterval = 250 * time.Millisecond // how often we look
	ioWait       = time.Second            // how long a writer or reader of the caller may block us after the end
)

// stdio is a program's standard input, output and error.
type stdio struct {
	files   [3]*os.File // the program's
	theirs  []*os.File  // ours to close once it is started
	ours    []*os.File  // ours to close at the end
	start   []func()
	stop    []func() error
	capture *os.File
	trimmed int64
}

func newStdio(c Command) (*stdio, error) {
	s := &stdio{}
	if err := s.open(c); err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

func (s *stdio) open(c Command) error {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	s.theirs = append(s.theirs, null)
	s.files = [3]*os.File{null, null, null}
	switch in := c.Stdin.(type) {
	case nil:
	case *os.File:
		s.files[0] = in
	default:
		if err := s.feed(in); err != nil {
			return err
		}
	}
	if c.Stdout != nil {
		if s.files[1], err = s.writer(c.Stdout); err != nil {
			return err
		}
	}
	switch {
	case c.Stderr == nil:
		if s.capture, err = newCapture(); err != nil {
			return err
		}
		s.ours = append(s.ours, s.capture)
		s.files[2] = s.capture
	case sameWriter(c.Stdout, c.Stderr):
		s.files[2] = s.files[1] // one pipe keeps the order, and one goroutine writes
	default:
		if s.files[2], err = s.writer(c.Stderr); err != nil {
			return err
		}
	}
	return nil
}

func sameWriter(a, b io.Writer) (same bool) {
	defer func() { _ = recover() }() // types that can't be compared are not the same
	return a == b
}

// newCapture makes the file that a program's standard error goes to. It isn't a pipe, for a daemon that the program leaves
// behind would get SIGPIPE from one as soon as we stop reading; and not a socket, for `echo >/dev/stderr` fails on those.
func newCapture() (*os.File, error) {
	const flags = unix.MFD_CLOEXEC | unix.MFD_ALLOW_SEALING
	fd, err := unix.MemfdCreate("stderr", flags|unix.MFD_NOEXEC_SEAL)
	if errors.Is(err, syscall.EINVAL) { // before Linux 6.3
		fd, err = unix.MemfdCreate("stderr", flags)
	}
	if err == nil {
		if _, err = unix.FcntlInt(uintptr(fd), unix.F_SETFL, unix.O_APPEND); err != nil {
			_ = unix.Close(fd)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("create a file for standard error: %w", err)
	}
	return os.NewFile(uintptr(fd), "stderr"), nil
}

// trim gives the memory of what nobody will read back.
func (s *stdio) trim() {
	if s.capture == nil {
		return
	}
	fi, err := s.capture.Stat()
	if err != nil || fi.Size()-s.trimmed < trimSize {
		return
	}
	upTo := fi.Size() - tailSize
	if unix.Fallocate(int(s.capture.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 0, upTo) == nil {
		s.trimmed = upTo
	}
}

// tail seals the captured standard error, so that whoever still has it open can't fill our memory, and returns its end.
func (s *stdio) tail() string {
	if s.capture == nil {
		return ""
	}
	_, _ = unix.FcntlInt(s.capture.Fd(), unix.F_ADD_SEALS, unix.F_SEAL_WRITE)
	fi, err := s.capture.Stat()
	if err != nil {
		return ""
	}
	b := make([]byte, min(fi.Size(), tailSize))
	n, _ := s.capture.ReadAt(b, fi.Size()-int64(len(b)))
	return string(b[:n])
}

// writer returns the program's end of what goes to w.
func (s *stdio) writer(w io.Writer) (*os.File, error) {
	if f, ok := w.(*os.File); ok {
		return f, nil
	}
	pr, pw, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	s.theirs = append(s.theirs, pw)
	s.ours = append(s.ours, pr)
	_ = pw.Chmod(0o622) // a program of another user may open /dev/stdout
	done := make(chan error, 1)
	s.start = append(s.start, func() { go func() { done <- drain(w, pr) }() })
	s.stop = append(s.stop, func() error {
		_ = pr.SetReadDeadline(time.Now())
		select {
		case err := <-done:
			return err
		case <-time.After(ioWait):
			return errors.New("its output could not be delivered")
		}
	})
	return pw, nil
}

// drain copies until the end of the file or, if the read deadline is over, what the pipe holds then. What can't be delivered is
// thrown away, so that the program doesn't hang on us.
func drain(w io.Writer, r *os.File) error {
	var failed error
	write := func(b []byte) {
		if failed != nil || len(b) == 0 {
			return
		}
		if _, err := w.Write(b); err != nil {
			failed = fmt.Errorf("deliver its output: %w", err)
		}
	}
	buf := make([]byte, 32<<10)
	for {
		n, err := r.Read(buf)
		write(buf[:n])
		if errors.Is(err, os.ErrDeadlineExceeded) {
			break
		}
		if err != nil {
			return failed
		}
	}
	// The program has ended. Others may hold the pipe open and go on writing, so there is an end to this only if we set one.
	raw, err := r.SyscallConn()
	if err != nil {
		return errors.Join(failed, err)
	}
	var rest []byte
	_ = raw.Control(func(fd uintptr) { // not for long: it keeps others from closing the file
		left, err := unix.IoctlGetInt(int(fd), unix.TIOCINQ) // FIONREAD by its other name
		if err != nil || left <= 0 {
			return
		}
		rest = make([]byte, left) // a pipe holds a megabyte at most
		n, _ := unix.Read(int(fd), rest)
		rest = rest[:max(n, 0)]
	})
	write(rest)
	return failed
}

// feed makes a pipe for the program to read what in has.
func (s *stdio) feed(in io.Reader) error {
	pr, pw, err := os.Pipe()
	if err != nil {
		return err
	}
	s.theirs = append(s.theirs, pr)
	s.ours = append(s.ours, pw)
	_ = pr.Chmod(0o644)
	s.files[0] = pr
	done := make(chan error, 1)
	s.start = append(s.start, func() {
		go func() {
			_, err := io.Copy(pw, in)
			pw.Close()
			done <- err
		}()
	})
	s.stop = append(s.stop, func() error {
		_ = pw.SetWriteDeadline(time.Now())
		select {
		case err := <-done:
			if err == nil || errors.Is(err, syscall.EPIPE) || errors.Is(err, os.ErrDeadlineExceeded) {
				return nil // a program need not read it all
			}
			return fmt.Errorf("feed its input: %w", err)
		case <-time.After(ioWait):
			return errors.New("its input could not be read")
		}
	})
	return nil
}

// started closes the program's ends on our side and starts to copy.
func (s *stdio) started() {
	for _, f := range s.theirs {
		f.Close()
	}
	s.theirs = nil
	for _, f := range s.start {
		f()
	}
}

// finish ends the copying once the program has ended.
func (s *stdio) finish() error {
	var errs []error
	for _, f := range s.stop {
		errs = append(errs, f())
	}
	s.stop = nil
	return errors.Join(errs...)
}

func (s *stdio) close() {
	for _, f := range append(s.theirs, s.ours...) {
		f.Close()
	}
}
