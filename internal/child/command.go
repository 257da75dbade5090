package child

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/user"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// DefaultGrace is how long a program may take over a SIGTERM before it gets SIGKILL.
const DefaultGrace = 2 * time.Second

// searchPath is PATH of every program and where a name without a slash is looked for.
const searchPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// Command says what to run and how.
type Command struct {
	// Argv is the program and its arguments. The program is an absolute path, or a name without a slash, looked for in the
	// standard directories.
	Argv []string
	// User and Group are who runs it, by name or number; "" means our own user, and the user's own group. The supplementary
	// groups are those that the user database gives the user.
	User, Group string
	// Dir is the working directory, "/" if empty.
	Dir string
	// Env is added to the clean environment, which has PATH, LANG=C and, if the user database knows them, HOME, USER and LOGNAME.
	Env []string
	// Stdin, Stdout and Stderr are /dev/null if nil, except that what is written to a nil Stderr is kept for Result.Stderr.
	// A program that leaves a daemon behind must get nil or an *os.File here: any other writer is fed by a pipe, which closes
	// when Run returns.
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	// Timeout bounds the run, the start included; 0 means that only the context does.
	Timeout time.Duration
	// Grace is the time between SIGTERM and SIGKILL to the whole process group; 0 means DefaultGrace.
	Grace time.Duration
}

// String is the command as a shell would take it.
func (c Command) String() string {
	var b strings.Builder
	for i, a := range c.Argv {
		if i > 0 {
			b.WriteByte(' ')
		}
		if a == "" || strings.ContainsFunc(a, func(r rune) bool {
			return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("%+,-./:=@_", r))
		}) {
			a = "'" + strings.ReplaceAll(a, "'", `'\''`) + "'"
		}
		b.WriteString(a)
	}
	return b.String()
}

// title is how messages call the command: its program and, if that isn't ours, its user.
func (c Command) title() string {
	name := `""`
	if len(c.Argv) > 0 && c.Argv[0] != "" {
		name = c.Argv[0]
	}
	switch {
	case c.User != "" && c.Group != "":
		return name + " as " + c.User + ":" + c.Group
	case c.User != "":
		return name + " as " + c.User
	case c.Group != "":
		return name + " as group " + c.Group
	}
	return name
}

// Result is how a run went.
type Result struct {
	Code     int            // exit status 0..255; -1 if it didn't start, was killed by a signal or did not end
	Signal   syscall.Signal // the signal that ended it, 0 if none
	Started  time.Time
	Duration time.Duration
	TimedOut bool   // its Timeout or the context's deadline passed and it was killed
	Stderr   string // the last 4 KiB of its standard error, if Command.Stderr is nil
}

// StartError says why a program could not be started.
type StartError struct {
	Command Command
	Err     error // wraps the system's error where there is one, as fs.ErrNotExist
}

func (e *StartError) Error() string { return "run " + e.Command.title() + ": " + e.Err.Error() }

// Unwrap gives the cause.
func (e *StartError) Unwrap() error { return e.Err }

// ExitError says how a program that was started failed.
type ExitError struct {
	Command Command
	Result  Result
	// Err is the context's error if we killed the program, an I/O error if its output could not be delivered, or nil.
	Err error
	// Gone is nil unless the program outlived SIGKILL, as one that hangs in the kernel does: then it is closed when the
	// program has ended at last.
	Gone <-chan struct{}
	pid  int
}

func (e *ExitError) Error() string {
	var how string
	r := e.Result
	switch {
	case e.Gone != nil:
		how = fmt.Sprintf("%s and it does not die: process %d hangs in the kernel", e.ended(), e.pid)
	case e.Err != nil && (errors.Is(e.Err, context.Canceled) || errors.Is(e.Err, context.DeadlineExceeded)):
		how = e.ended()
	case e.Err != nil:
		how = e.Err.Error()
	case r.Signal != 0:
		how = fmt.Sprintf("killed by signal %d (%s)", int(r.Signal), r.Signal)
	case r.Code == 126:
		how = "exit status 126 (a command was found but could not be run)"
	case r.Code == 127:
		how = "exit status 127 (a command was not found)"
	default:
		how = "exit status " + strconv.Itoa(r.Code)
	}
	if line := lastLine(r.Stderr); line != "" {
		how += ": " + line
	}
	return "run " + e.Command.title() + ": " + how
}

func (e *ExitError) ended() string {
	if e.Result.TimedOut {
		return "timed out after " + e.Result.Duration.Round(time.Millisecond).String()
	}
	return "stopped after " + e.Result.Duration.Round(time.Millisecond).String()
}

// Unwrap gives the cause.
func (e *ExitError) Unwrap() error { return e.Err }

// lastLine is the last line that isn't blank, cut to what fits a log line.
func lastLine(s string) string {
	s = strings.TrimSpace(s)
	s = strings.TrimSpace(s[strings.LastIndexByte(s, '\n')+1:])
	if len(s) > 200 {
		s = s[:200] + "…"
	}
	return strings.ToValidUTF8(s, "?")
}

// identity is who a program runs as, numbers resolved.
type identity struct {
	name, home string
	uid, gid   int
	groups     []int // nil: leave ours
	change     bool  // it isn't what we are
}

// identify looks a command's user and group up. A user database that hangs, as a directory service may, does not hang us.
func identify(ctx context.Context, c Command) (identity, error) {
	type answer struct {
		id  identity
		err error
	}
	ch := make(chan answer, 1)
	go func() {
		id, err := lookup(c.User, c.Group)
		ch <- answer{id, err}
	}()
	select {
	case a := <-ch:
		return a.id, a.err
	case <-ctx.Done():
		select {
		case a := <-ch:
			return a.id, a.err
		default:
			return identity{}, fmt.Errorf("look up user %q: %w", c.User, ctx.Err())
		}
	}
}

func lookup(name, group string) (identity, error) {
	id := identity{uid: os.Geteuid(), gid: os.Getegid()}
	if name == "" {
		// Our own user need not be in the database: in a container it often is not.
		if u, err := user.LookupId(strconv.Itoa(id.uid)); err == nil {
			id.name, id.home = u.Username, u.HomeDir
		}
	} else {
		u, err := user.Lookup(name)
		if isNumber(name) && err != nil {
			u, err = user.LookupId(name)
		}
		if err != nil {
			var unknown user.UnknownUserError
			var unknownID user.UnknownUserIdError
			if errors.As(err, &unknown) || errors.As(err, &unknownID) {
				return id, fmt.Errorf("no such user %q", name)
			}
			return id, fmt.Errorf("look up user %q: %w", name, err)
		}
		uid, err1 := strconv.Atoi(u.Uid)
		gid, err2 := strconv.Atoi(u.Gid)
		if err := errors.Join(err1, err2); err != nil {
			return id, fmt.Errorf("look up user %q: %w", name, err)
		}
		id.name, id.home, id.uid, id.gid = u.Username, u.HomeDir, uid, gid
		gids, err := u.GroupIds()
		if err != nil {
			return id, fmt.Errorf("look up the groups of user %q: %w", name, err)
		}
		id.groups = []int{}
		for _, g := range gids {
			n, err := strconv.Atoi(g)
			if err != nil {
				return id, fmt.Errorf("look up the groups of user %q: %w", name, err)
			}
			id.groups = append(id.groups, n)
		}
	}
	if group != "" {
		g, err := user.LookupGroup(group)
		if isNumber(group) && err != nil {
			g, err = user.LookupGroupId(group)
		}
		if err != nil {
			var unknown user.UnknownGroupError
			var unknownID user.UnknownGroupIdError
			if errors.As(err, &unknown) || errors.As(err, &unknownID) {
				return id, fmt.Errorf("no such group %q", group)
			}
			return id, fmt.Errorf("look up group %q: %w", group, err)
		}
		if id.gid, err = strconv.Atoi(g.Gid); err != nil {
			return id, fmt.Errorf("look up group %q: %w", group, err)
		}
	}
	if id.groups != nil && !slices.Contains(id.groups, id.gid) {
		id.groups = append(id.groups, id.gid)
	}
	// Only root may set groups; a program that asks for the user we already are must not fail on that.
	id.change = id.uid != os.Geteuid() || id.gid != os.Getegid()
	return id, nil
}

func isNumber(s string) bool {
	_, err := strconv.ParseUint(s, 10, 32)
	return err == nil
}

// environment is the clean environment of a program that runs as id; an extra variable replaces ours of the same name, because
// programs differ in which of two they see.
func environment(id identity, extra []string) []string {
	env := []string{"PATH=" + searchPath, "LANG=C"}
	if id.name != "" {
		env = append(env, "USER="+id.name, "LOGNAME="+id.name)
	}
	if id.home != "" {
		env = append(env, "HOME="+id.home)
	}
	for _, kv := range extra {
		key, _, _ := strings.Cut(kv, "=")
		env = slices.DeleteFunc(env, func(s string) bool { return strings.HasPrefix(s, key+"=") })
		env = append(env, kv)
	}
	return env
}
