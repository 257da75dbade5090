package track

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"math"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"pgvrrp/internal/conf"
)

// filesEvery is how often tracked files are read.
const filesEvery = 200 * time.Millisecond

// fileLate is how long one reading may take: what was read before proves nothing then.
const fileLate = 2 * time.Second

// fileHead is how much of a file is looked at: a number is at its beginning.
const fileHead = 128

// Files reads the track_files of a configuration.
type Files struct {
	log     *slog.Logger
	changed func()
	again   chan struct{}
	head    func(path string) ([]byte, error)

	mu    sync.Mutex
	files map[string]*file
}

// file is one track_file as it was read last.
type file struct {
	cfg    conf.TrackFile
	state  State
	value  int
	reason string

	reading time.Time // since when; zero: it is not being read
	late    bool      // for too long
}

// NewFiles makes a reader; Run does its work. changed is called after a value has changed.
func NewFiles(log *slog.Logger, changed func()) *Files {
	return &Files{log: log, changed: changed, again: make(chan struct{}, 1), head: head, files: map[string]*file{}}
}

// Init makes the files that want to be made (init_file). It is for the start.
func (f *Files) Init(cfg []conf.TrackFile) {
	for _, c := range cfg {
		if !c.Init {
			continue
		}
		flags := os.O_WRONLY | os.O_CREATE | unix.O_NOFOLLOW
		if c.Overwrite {
			flags |= os.O_TRUNC
		} else {
			flags |= os.O_EXCL
		}
		out, err := os.OpenFile(c.Path, flags, 0o644)
		if err == nil {
			_, err = fmt.Fprintln(out, c.InitValue)
			err = errors.Join(err, out.Close())
		}
		if err != nil && !errors.Is(err, os.ErrExist) {
			f.log.Error("make tracked file", "name", c.Name, "error", err)
		}
	}
}

// Replace has these files read in the place of the former ones; one that did not change keeps its value.
func (f *Files) Replace(cfg []conf.TrackFile) {
	f.mu.Lock()
	defer f.mu.Unlock()
	former := f.files
	f.files = map[string]*file{}
	for _, c := range cfg {
		if old := former[c.Name]; old != nil && old.cfg.Path == c.Path && old.cfg.MissingFails == c.MissingFails {
			f.files[c.Name] = old
			continue
		}
		f.files[c.Name] = &file{cfg: c}
	}
	select {
	case f.again <- struct{}{}:
	default:
	}
}

// Value is what a file says: a number with OK, or why there is none. Unknown: it has not been read yet.
func (f *Files) Value(name string) (value int, state State, reason string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	t := f.files[name]
	if t == nil {
		return 0, Unable, "not defined"
	}
	if t.late {
		return 0, Unable, fmt.Sprintf("not read for %s: reading %s hangs", fileLate, t.cfg.Path)
	}
	return t.value, t.state, t.reason
}

// Run reads until ctx ends, each file beside the others: a system call that hangs cannot be ended, and is left behind.
func (f *Files) Run(ctx context.Context) {
	tick := time.NewTicker(filesEvery)
	defer tick.Stop()
	for {
		now, news := time.Now(), false
		f.mu.Lock()
		some := len(f.files) > 0
		for _, t := range f.files {
			switch {
			case t.reading.IsZero():
				t.reading = now
				go func() {
					if f.read(t) {
						f.changed()
					}
				}()
			case !t.late && now.Sub(t.reading) > fileLate:
				t.late, news = true, true
				f.log.Error("reading a tracked file hangs", "name", t.cfg.Name, "path", t.cfg.Path)
			}
		}
		f.mu.Unlock()
		if news {
			f.changed()
		}
		next := tick.C
		if !some {
			next = nil // nothing to wake up for
		}
		select {
		case <-ctx.Done():
			return
		case <-f.again:
		case <-next:
		}
	}
}

// read looks at one file, and reports whether it says something new.
func (f *Files) read(t *file) bool {
	content, err := f.head(t.cfg.Path)
	value, found, inRange := number(string(content))
	state, reason := OK, ""
	switch {
	case err != nil && (t.cfg.MissingFails || !missing(err)):
		state, reason = Unable, err.Error()
	case !found && t.cfg.MissingFails:
		state, reason = Unable, "no number in "+t.cfg.Path
	case err != nil:
		value, reason = 0, err.Error()
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	news := t.late
	t.reading, t.late = time.Time{}, false
	if !inRange {
		// keepalived keeps the value before; without one nothing is proved.
		value, state, reason = t.value, t.state, "a number beyond 32 bits is ignored"
		if state == Unknown {
			state = Unable
		}
	}
	if value == t.value && state == t.state && reason == t.reason {
		return news
	}
	f.log.Info("tracked file", "name", t.cfg.Name, "value", value, "state", state.String(), "reason", reason)
	t.value, t.state, t.reason = value, state, reason
	return true
}

// missing tells a file that is not there from one that may say anything.
func missing(err error) bool { return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) }

// head is the beginning of a plain file. A pipe is not waited for.
func head(path string) ([]byte, error) {
	in, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer in.Close()
	if info, err := in.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil, errors.Join(fmt.Errorf("read %s: it is no plain file", path), err)
	}
	return io.ReadAll(io.LimitReader(in, fileHead))
}

// number is the number at the beginning of a text as strtol(3) reads it with base 0; what follows does not matter.
func number(text string) (value int, found, inRange bool) {
	text = strings.TrimLeft(text, " \t\n\v\f\r")
	sign, digits := "", text
	if digits != "" && (digits[0] == '-' || digits[0] == '+') {
		sign, digits = digits[:1], digits[1:]
	}
	base, valid := 10, "0123456789"
	switch {
	case len(digits) > 2 && (digits[:2] == "0x" || digits[:2] == "0X") && strings.ContainsRune("0123456789abcdefABCDEF", rune(digits[2])):
		base, valid, digits = 16, "0123456789abcdefABCDEF", digits[2:]
	case strings.HasPrefix(digits, "0"):
		base, valid = 8, "01234567"
	}
	end := 0
	for end < len(digits) && strings.IndexByte(valid, digits[end]) >= 0 {
		end++
	}
	if end == 0 {
		return 0, false, true
	}
	v, err := strconv.ParseInt(sign+digits[:end], base, 64)
	if err != nil || v < math.MinInt32 || v > math.MaxInt32 {
		return 0, true, false
	}
	return int(v), true, true
}
