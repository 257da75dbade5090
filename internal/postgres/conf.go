package postgres

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"pgvrrp/internal/files"
)

// confEntry is one setting of a configuration file.
type confEntry struct {
	name, value string
	file        string
	line        int
}

// conf is a postgresql.conf with what it includes, in the order in which the server reads it; of two lines for one setting the last counts.
type conf struct {
	entries  []confEntry
	includes map[string]int // each file that is read or would be if it were there -> how many entries came before it
	files    []string       // those that are there
}

const maxIncludeDepth = 10 // the server's CONF_FILE_MAX_DEPTH

// readConf reads a configuration file as the manual's "20.1.2 Parameter Interaction via the Configuration File" has it.
func readConf(path string) (conf, error) {
	c := conf{includes: map[string]int{}}
	err := c.read(path, true, 0)
	return c, err
}

func (c *conf) read(path string, strict bool, depth int) error {
	path = filepath.Clean(path)
	c.includes[path] = len(c.entries)
	if depth > maxIncludeDepth {
		return fmt.Errorf("read %s: nested too deeply", path)
	}
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) && !strict {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read configuration: %w", err)
	}
	c.files = append(c.files, path)
	for n, line := range strings.Split(string(b), "\n") {
		name, value, err := parseConfLine(line)
		if err != nil {
			return fmt.Errorf("%s:%d: %w", path, n+1, err)
		}
		target := value
		if !filepath.IsAbs(target) {
			target = filepath.Join(filepath.Dir(path), target)
		}
		switch name {
		case "":
		case "include", "include_if_exists":
			if err := c.read(target, name == "include", depth+1); err != nil {
				return err
			}
		case "include_dir":
			names, err := os.ReadDir(target)
			if err != nil {
				return fmt.Errorf("%s:%d: include_dir: %w", path, n+1, err)
			}
			for _, e := range names {
				if strings.HasPrefix(e.Name(), ".") || !strings.HasSuffix(e.Name(), ".conf") || e.IsDir() {
					continue
				}
				if err := c.read(filepath.Join(target, e.Name()), true, depth+1); err != nil {
					return err
				}
			}
		default:
			c.entries = append(c.entries, confEntry{name, value, path, n + 1})
		}
	}
	return nil
}

// last finds the line that counts.
func (c conf) last(name string) (confEntry, bool) {
	for _, e := range slices.Backward(c.entries) {
		if e.name == name {
			return e, true
		}
	}
	return confEntry{}, false
}

func (c conf) value(name string) (string, bool) {
	e, ok := c.last(name)
	return e.value, ok
}

// parseConfLine reads "name = value", "name value", or nothing. Names come back in lower case.
func parseConfLine(line string) (name, value string, err error) {
	line = strings.TrimLeft(strings.TrimRight(line, " \t\r"), " \t")
	if line == "" || line[0] == '#' {
		return "", "", nil
	}
	i := strings.IndexFunc(line, func(r rune) bool { return !isNameRune(r) })
	if i < 0 {
		i = len(line)
	}
	if name = strings.ToLower(line[:i]); name == "" {
		return "", "", fmt.Errorf("want a setting's name (got %q)", line)
	}
	rest := strings.TrimLeft(line[i:], " \t")
	rest = strings.TrimLeft(strings.TrimPrefix(rest, "="), " \t")
	if strings.HasPrefix(rest, "'") {
		if value, rest, err = unquoteConf(rest); err != nil {
			return "", "", fmt.Errorf("%s: %w", name, err)
		}
	} else {
		j := strings.IndexAny(rest, " \t#")
		if j < 0 {
			j = len(rest)
		}
		value, rest = rest[:j], rest[j:]
		if value == "" {
			return "", "", fmt.Errorf("%s: want a value", name)
		}
	}
	if rest = strings.TrimLeft(rest, " \t"); rest != "" && rest[0] != '#' {
		return "", "", fmt.Errorf("%s: want the end of the line (got %q)", name, rest)
	}
	return name, value, nil
}

func isNameRune(r rune) bool {
	return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '_' || r == '.' || r == '$' || r >= 0x80
}

// unquoteConf reads a string in single quotes, in which ” and backslashes escape, and returns what follows it.
func unquoteConf(s string) (value, rest string, err error) {
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		switch c := s[i]; {
		case c == '\'' && i+1 < len(s) && s[i+1] == '\'':
			b.WriteByte('\'')
			i++
		case c == '\'':
			return b.String(), s[i+1:], nil
		case c == '\\' && i+1 < len(s):
			i++
			if n := octal(s[i:]); n > 0 {
				var v byte
				for _, d := range []byte(s[i : i+n]) {
					v = v<<3 | (d - '0')
				}
				b.WriteByte(v)
				i += n - 1
				continue
			}
			if j := strings.IndexByte("bfnrt", s[i]); j >= 0 {
				b.WriteByte("\b\f\n\r\t"[j])
				continue
			}
			b.WriteByte(s[i])
		default:
			b.WriteByte(c)
		}
	}
	return "", "", errors.New("string without its closing quote")
}

// octal counts the leading octal digits, three at most.
func octal(s string) int {
	n := 0
	for n < len(s) && n < 3 && s[n] >= '0' && s[n] <= '7' {
		n++
	}
	return n
}

// quoteConf makes a value for a configuration file.
func quoteConf(v string) (string, error) {
	if strings.ContainsAny(v, "\n\r\x00") {
		return "", fmt.Errorf("value %q holds a line break or a zero byte", v)
	}
	return "'" + strings.NewReplacer(`\`, `\\`, `'`, `''`).Replace(v) + "'", nil
}

// writeFile is writeFile with the owner of the data directory.
func (s *Server) writeFile(path string, content []byte, mode fs.FileMode) error {
	return writeFile(path, content, mode, s.owner.uid, s.owner.gid)
}

// writeFile replaces path by content so that after a crash either the old or the new file is there; if we are root it is given to its owner.
func writeFile(path string, content []byte, mode fs.FileMode, uid, gid int) error {
	return replaceFile(path, content, mode, uid, gid, nil)
}

// replaceFile is writeFile that runs before, once the content is on disk and only its name is missing.
func replaceFile(path string, content []byte, mode fs.FileMode, uid, gid int, before func() error) error {
	o := files.Options{Durable: true, Before: before}
	if os.Geteuid() == 0 {
		o.Owner = &files.Owner{UID: uid, GID: gid}
	}
	if err := files.Replace(path, content, mode, o); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

// syncFile makes a file and its name durable.
func syncFile(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Sync(); err != nil {
		return err
	}
	return files.SyncDir(filepath.Dir(path))
}

// renderConf writes settings in the order of their names.
func renderConf(settings map[string]string) ([]byte, error) {
	var b bytes.Buffer
	b.WriteString("# Written by pgnotify, which overwrites it: make changes elsewhere.\n")
	names := make([]string, 0, len(settings))
	for n := range settings {
		names = append(names, n)
	}
	slices.Sort(names)
	for _, n := range names {
		q, err := quoteConf(settings[n])
		if err != nil {
			return nil, fmt.Errorf("set %s: %w", n, err)
		}
		fmt.Fprintf(&b, "%s = %s\n", n, q)
	}
	return b.Bytes(), nil
}
