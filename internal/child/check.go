package child

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// ErrCannotTell is in the error of a Check that needs root: whether another user may run a program is for the kernel to say.
var ErrCannotTell = errors.New("cannot tell")

const checkTimeout = 5 * time.Second

// Check says whether Run could start the command: its user and group exist, and as that user every directory on the way can be
// entered, the program can be executed, and so can the interpreter that a script names. The error names the first that is
// wrong. It goes all the way of Run but for the last step, so that the kernel itself decides, access lists and mount options
// included.
func Check(c Command) error {
	err := check(c)
	if err != nil {
		return &StartError{c, err}
	}
	return nil
}

func check(c Command) error {
	if err := validate(c); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), checkTimeout)
	defer cancel()
	id, err := identify(ctx, c)
	if err != nil {
		return err
	}
	_, err = run(ctx, c, id, "check")
	var exit *ExitError
	if errors.As(err, &exit) {
		return fmt.Errorf("no answer from the file system within %v", checkTimeout)
	}
	var start *StartError
	if errors.As(err, &start) {
		return start.Err
	}
	return err
}

func validate(c Command) error {
	switch {
	case len(c.Argv) == 0 || c.Argv[0] == "":
		return errors.New("no program given")
	case strings.Contains(c.Argv[0], "/") && !filepath.IsAbs(c.Argv[0]):
		return fmt.Errorf("%q is neither an absolute path nor a plain name", c.Argv[0])
	case c.Dir != "" && !filepath.IsAbs(c.Dir):
		return fmt.Errorf("working directory %q is not an absolute path", c.Dir)
	}
	for _, s := range append(c.Argv[:len(c.Argv):len(c.Argv)], c.Env...) {
		if strings.IndexByte(s, 0) >= 0 {
			return fmt.Errorf("%q has a NUL byte", s)
		}
	}
	return nil
}

// findProgram looks a plain name up in the standard directories, as the process that asks.
func findProgram(name string) (string, error) {
	if strings.Contains(name, "/") {
		return name, nil
	}
	denied := ""
	for _, dir := range filepath.SplitList(searchPath) {
		path := filepath.Join(dir, name)
		if fi, err := os.Stat(path); err != nil || !fi.Mode().IsRegular() {
			continue
		}
		if unix.Access(path, unix.X_OK) == nil {
			return path, nil
		}
		if denied == "" {
			denied = path
		}
	}
	if denied != "" {
		return denied, nil // the exec or inspect says what is wrong with it
	}
	return "", fmt.Errorf("%s is in none of %s: %w", name, searchPath, syscall.ENOENT)
}

// inspector says why the process that it runs in can't execute a file.
type inspector struct {
	who   string
	blind bool   // we are not that user: report only what is wrong for everyone
	head  []byte // the first bytes of the file if already read
	depth int    // of interpreters
	links int
}

// inspect returns nil if it sees nothing wrong with executing path.
func inspect(path string, in *inspector) error {
	if !strings.Contains(path, "/") {
		if !in.blind {
			return fmt.Errorf("%s is in none of %s: %w", path, searchPath, syscall.ENOENT)
		}
		found, err := findProgram(path)
		if err != nil {
			return err
		}
		path = found
	}
	file, err := in.walk(path)
	if err != nil || file == "" {
		return err
	}
	head := in.head
	if head == nil {
		head, _ = readHead(file)
	}
	if head == nil {
		return nil // a program need not be readable; a script must, but then we can't see that it is one
	}
	if bytes.HasPrefix(head, []byte("#!")) {
		if !in.blind && unix.Access(file, unix.R_OK) != nil {
			return fmt.Errorf("%s is a script and not readable by %s (%s): %w", file, in.who, describe(file), syscall.EACCES)
		}
		return in.interpreter(file, head)
	}
	if !bytes.HasPrefix(head, []byte("\x7fELF")) && !otherFormats() {
		return fmt.Errorf("%s is neither a program nor a script with a #! line: %w", file, syscall.ENOEXEC)
	}
	return nil
}

// walk goes from the root to the file, through symbolic links, and returns where it ends; "" if that can't be told.
func (in *inspector) walk(path string) (string, error) {
	rest := strings.Split(filepath.Clean(path), "/")
	cur := "/"
	for i := 0; len(rest) > 0; i++ {
		next := filepath.Join(cur, rest[0])
		rest = rest[1:]
		if next == cur {
			continue
		}
		if unix.Access(cur, unix.X_OK) != nil {
			if in.blind {
				return "", nil
			}
			return "", fmt.Errorf("directory %s cannot be entered by %s (%s): %w", cur, in.who, describe(cur), syscall.EACCES)
		}
		fi, err := os.Lstat(next)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return "", fmt.Errorf("%s: %w", next, syscall.ENOENT)
		case err != nil:
			var errno syscall.Errno
			if errors.As(err, &errno) {
				return "", fmt.Errorf("%s: %w", next, errno)
			}
			return "", err
		}
		if fi.Mode()&fs.ModeSymlink != 0 {
			if in.links++; in.links > 40 {
				return "", fmt.Errorf("%s: %w", next, syscall.ELOOP)
			}
			target, err := os.Readlink(next)
			if err != nil {
				return "", err
			}
			if filepath.IsAbs(target) {
				cur = "/"
			}
			rest = append(strings.Split(filepath.Clean(target), "/"), rest...)
			continue
		}
		if len(rest) > 0 && !fi.IsDir() {
			return "", fmt.Errorf("%s is not a directory: %w", next, syscall.ENOTDIR)
		}
		cur = next
		if len(rest) > 0 {
			continue
		}
		switch {
		case fi.IsDir():
			return "", fmt.Errorf("%s is a directory: %w", next, syscall.EACCES)
		case !fi.Mode().IsRegular():
			return "", fmt.Errorf("%s is not a regular file: %w", next, syscall.EACCES)
		case fi.Mode()&0o111 == 0:
			return "", fmt.Errorf("%s is not executable (%s): %w", next, describe(next), syscall.EACCES)
		case !in.blind && unix.Access(next, unix.X_OK) != nil:
			var st unix.Statfs_t
			if unix.Statfs(next, &st) == nil && st.Flags&unix.ST_NOEXEC != 0 {
				return "", fmt.Errorf("%s is on a file system mounted noexec: %w", next, syscall.EACCES)
			}
			return "", fmt.Errorf("%s is not executable by %s (%s): %w", next, in.who, describe(next), syscall.EACCES)
		}
	}
	return cur, nil
}

// interpreter checks what the #! line of a script names; execve(2), "Interpreter scripts".
func (in *inspector) interpreter(script string, head []byte) error {
	line, _, _ := bytes.Cut(head[2:], []byte("\n"))
	name, arg, _ := strings.Cut(strings.TrimLeft(string(line), " \t"), " ")
	name, tabbed, found := strings.Cut(name, "\t")
	if found {
		arg = tabbed + " " + arg
	}
	if name == "" {
		return fmt.Errorf("%s has an empty #! line: %w", script, syscall.ENOEXEC)
	}
	if in.depth++; in.depth > 4 {
		return fmt.Errorf("%s: too many interpreters: %w", script, syscall.ELOOP)
	}
	if !filepath.IsAbs(name) {
		return fmt.Errorf("%s names the interpreter %q, which is not an absolute path: %w", script, name, syscall.ENOENT)
	}
	in.head = nil
	if err := inspect(name, in); err != nil {
		// Quoted, because a carriage return at its end is the classic.
		return fmt.Errorf("%s names the interpreter %q: %w", script, name, err)
	}
	if filepath.Base(name) == "env" {
		words := strings.Fields(arg)
		if len(words) > 0 && words[0] == "-S" {
			words = words[1:]
		}
		if len(words) > 0 && !strings.HasPrefix(words[0], "-") && !strings.ContainsAny(words[0], "=/") {
			if _, err := findProgram(words[0]); err != nil {
				return fmt.Errorf("%s runs by env: %w", script, err)
			}
		}
	}
	return nil
}

// readHead reads as much of a file as the kernel looks at to tell its kind (BINPRM_BUF_SIZE).
func readHead(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b := make([]byte, 256)
	n, err := io.ReadFull(f, b)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
		return nil, err
	}
	return b[:n], nil
}

// otherFormats says whether binfmt_misc knows formats besides the kernel's own.
func otherFormats() bool {
	entries, err := os.ReadDir("/proc/sys/fs/binfmt_misc")
	return err == nil && len(entries) > 2 // register, status
}

// describe is a file's mode and owner, as numbers: the names may need a directory service.
func describe(path string) string {
	fi, err := os.Stat(path)
	if err != nil {
		return err.Error()
	}
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok {
		return fi.Mode().String()
	}
	return fmt.Sprintf("%v, owner %d:%d", fi.Mode(), st.Uid, st.Gid)
}

// Secure says whether only root can change what the command runs, which keepalived's enable_script_security asks of programs
// that run as root: every directory and symbolic link on the way, the program, and a script's interpreter belong to root, and
// neither group nor others may write to them. A command of another user is always fine. Our own user is taken to be root, so
// that a check by hand says what the daemon will. A command that does not exist is not secure.
func Secure(c Command) error {
	if err := validate(c); err != nil {
		return &StartError{c, err}
	}
	if c.User != "" {
		ctx, cancel := context.WithTimeout(context.Background(), checkTimeout)
		defer cancel()
		id, err := identify(ctx, c)
		if err != nil {
			return &StartError{c, err}
		}
		if id.uid != 0 {
			return nil
		}
	}
	path, err := findProgram(c.Argv[0])
	for depth := 0; err == nil && path != "" && depth <= 4; depth++ {
		path, err = secureFile(path)
	}
	if err != nil {
		return fmt.Errorf("%s runs as root and is not secure: %w", c.Argv[0], err)
	}
	return nil
}

// secureFile checks one file and returns its interpreter, "" if it isn't a script.
func secureFile(path string) (interpreter string, err error) {
	rest := strings.Split(filepath.Clean(path), "/")
	cur, links := "/", 0
	if err := secureNode(cur); err != nil {
		return "", err
	}
	for len(rest) > 0 {
		next := filepath.Join(cur, rest[0])
		rest = rest[1:]
		if next == cur {
			continue
		}
		if err := secureNode(next); err != nil {
			return "", err
		}
		target, err := os.Readlink(next)
		if err != nil {
			cur = next // no link
			continue
		}
		if links++; links > 40 {
			return "", fmt.Errorf("%s: %w", next, syscall.ELOOP)
		}
		if filepath.IsAbs(target) {
			cur = "/"
		}
		rest = append(strings.Split(filepath.Clean(target), "/"), rest...)
	}
	head, err := readHead(cur)
	if err != nil {
		return "", err
	}
	if line, ok := bytes.CutPrefix(head, []byte("#!")); ok {
		if f := bytes.Fields(bytes.SplitN(line, []byte("\n"), 2)[0]); len(f) > 0 {
			return string(f[0]), nil
		}
	}
	return "", nil
}

func secureNode(path string) error {
	fi, err := os.Lstat(path)
	if err != nil {
		return err
	}
	st, ok := fi.Sys().(*syscall.Stat_t)
	switch {
	case !ok:
		return fmt.Errorf("%s: owner unknown", path)
	case st.Uid != 0:
		return fmt.Errorf("%s is owned by user %d, not root", path, st.Uid)
	case fi.Mode()&fs.ModeSymlink != 0:
		return nil // the mode of a link means nothing, its directory decides
	case fi.Mode()&0o002 != 0:
		return fmt.Errorf("%s can be written by anyone (%v)", path, fi.Mode())
	case fi.Mode()&0o020 != 0:
		return fmt.Errorf("%s can be written by group %d (%v)", path, st.Gid, fi.Mode())
	}
	return nil
}
