package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

var errNoProcess = errors.New(unix.ESRCH.Error())

// client speaks to one agent.
type client struct {
	wire *wire
	name string
	pid  int // of the agent, in our own pid namespace

	mu      sync.Mutex
	last    uint64
	pending map[uint64]*pendingCall
	running map[uint64]*running
	gone    bool
}

type pendingCall struct {
	answer  chan message
	started *running // for a spawn
}

// running is a process that an agent started for us.
type running struct {
	pid    int // as the agent sees it
	done   chan struct{}
	status syscall.WaitStatus // valid after done
	lost   bool               // the agent went first
}

// newClient waits for the agent's hello; it takes over w in any case.
func newClient(ctx context.Context, w *wire, name string) (*client, []string, error) {
	c := &client{wire: w, name: name, pending: map[uint64]*pendingCall{}, running: map[uint64]*running{}}
	stop := context.AfterFunc(ctx, func() { w.close() })
	var hello message
	pid, _, err := w.receive(&hello)
	switch {
	case !stop() && ctx.Err() != nil:
		err = ctx.Err()
	case err == nil && hello.Err != "":
		err = errors.New(hello.Err)
	case errors.Is(err, io.EOF):
		err = errors.New("it ended at once")
	}
	if err != nil {
		w.close()
		return nil, nil, err
	}
	c.pid = pid
	go c.read()
	return c, hello.Extra, nil
}

func (c *client) read() {
	for {
		var m message
		_, files, err := c.wire.receive(&m)
		closeAll(files)
		if err != nil {
			break
		}
		c.mu.Lock()
		if m.Exited {
			if r := c.running[m.ID]; r != nil {
				delete(c.running, m.ID)
				r.status = syscall.WaitStatus(m.Status)
				close(r.done)
			}
		} else if p := c.pending[m.ID]; p != nil {
			delete(c.pending, m.ID)
			if p.started != nil && m.Err == "" {
				p.started.pid = m.PID
				c.running[m.ID] = p.started // its end is told after this
			}
			p.answer <- m
		}
		c.mu.Unlock()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.gone = true
	for id, p := range c.pending {
		delete(c.pending, id)
		close(p.answer)
	}
	for id, r := range c.running {
		delete(c.running, id)
		r.lost = true
		close(r.done)
	}
}

func (c *client) close() { c.wire.close() }

func (c *client) call(ctx context.Context, r request, started *running, files ...*os.File) (message, error) {
	p := &pendingCall{answer: make(chan message, 1), started: started}
	c.mu.Lock()
	if c.gone {
		c.mu.Unlock()
		return message{}, errHostDown
	}
	c.last++
	r.ID = c.last
	c.pending[r.ID] = p
	c.mu.Unlock()
	forget := func() {
		c.mu.Lock()
		delete(c.pending, r.ID)
		c.mu.Unlock()
	}
	fds := make([]int, len(files))
	for i, f := range files {
		fds[i] = int(f.Fd())
	}
	if err := c.wire.send(r, fds...); err != nil {
		forget()
		return message{}, err
	}
	select {
	case m, ok := <-p.answer:
		if !ok {
			return message{}, errHostDown
		}
		if m.Err != "" {
			if m.Err == errNoProcess.Error() {
				return m, errNoProcess
			}
			return m, errors.New(m.Err)
		}
		return m, nil
	case <-ctx.Done():
		forget()
		return message{}, ctx.Err()
	}
}

func (c *client) spawn(ctx context.Context, s spawnRequest, files ...*os.File) (*running, error) {
	if len(s.Argv) == 0 {
		return nil, errors.New("no program is named")
	}
	// A process whose answer we gave up on would run unseen, so the answer, which is a matter of milliseconds, is
	// waited for in any case.
	r := &running{done: make(chan struct{})}
	if _, err := c.call(context.WithoutCancel(ctx), request{Spawn: &s}, r, files...); err != nil {
		return nil, err
	}
	return r, nil
}

func (c *client) kill(ctx context.Context, pid int, sig syscall.Signal) error {
	_, err := c.call(ctx, request{Kill: &killRequest{PID: pid, Signal: int(sig)}}, nil)
	return err
}

func (r *running) ended() bool {
	select {
	case <-r.done:
		return true
	default:
		return false
	}
}

func (r *running) wait(ctx context.Context) (syscall.WaitStatus, error) {
	select {
	case <-r.done:
		if r.lost {
			return 0, errHostDown
		}
		return r.status, nil
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

func resultOf(ws syscall.WaitStatus) Result {
	if ws.Signaled() {
		return Result{Code: -1, Signal: ws.Signal()}
	}
	return Result{Code: ws.ExitStatus()}
}

// run uses files in memory for the output rather than pipes, because a program's children may keep its output open
// long after it has ended.
func (c *client) run(ctx context.Context, cmd Command) (Result, error) {
	wrap := func(err error) error { return fmt.Errorf("run %s: %w", strings.Join(cmd.Argv, " "), err) }
	failed := Result{Code: -1}
	if err := ctx.Err(); err != nil {
		return failed, wrap(err)
	}
	var files []*os.File
	defer func() { closeAll(files) }()
	for _, s := range []struct{ name, content string }{{"stdin", cmd.Stdin}, {"stdout", ""}, {"stderr", ""}} {
		f, err := memFile(s.name, s.content)
		if err != nil {
			return failed, wrap(err)
		}
		files = append(files, f)
	}
	r, err := c.spawn(ctx, spawnRequest{Argv: cmd.Argv, Env: cmd.Env, Dir: cmd.Dir, User: cmd.User}, files...)
	if err != nil {
		return failed, wrap(err)
	}
	ws, err := r.wait(ctx)
	if err != nil {
		if ctx.Err() != nil {
			_ = c.kill(context.WithoutCancel(ctx), -r.pid, unix.SIGKILL)
		}
	}
	res := failed
	if err == nil {
		res = resultOf(ws)
	}
	for i, to := range map[int]*string{1: &res.Stdout, 2: &res.Stderr} {
		b, readErr := io.ReadAll(io.NewSectionReader(files[i], 0, 1<<40))
		if readErr != nil {
			err = errors.Join(err, readErr)
		}
		*to = string(b)
	}
	if err != nil {
		return res, wrap(err)
	}
	if res.Code != 0 {
		return res, &ExitError{Argv: cmd.Argv, Result: res}
	}
	return res, nil
}

func memFile(name, content string) (*os.File, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("make %s: %w", name, err)
	}
	f := os.NewFile(uintptr(fd), name)
	if content == "" {
		return f, nil
	}
	if _, err = f.WriteString(content); err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("make %s: %w", name, err)
	}
	return f, nil
}
