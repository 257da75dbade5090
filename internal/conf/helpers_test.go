package conf

import (
	"flag"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "rewrite the .want files")

// memory is a set of files by name, for Options.
type memory map[string]string

func (m memory) options() Options {
	return Options{
		ConfigID: "n1",
		ReadFile: func(name string) ([]byte, error) {
			text, ok := m[name]
			if !ok {
				return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
			}
			return []byte(text), nil
		},
		Glob: func(pattern string) ([]string, error) {
			var names []string
			for name := range m {
				if ok, _ := path.Match(pattern, name); ok {
					names = append(names, name)
				}
			}
			slices.Sort(names)
			return names, nil
		},
		Getenv: func(name string) (string, bool) { return "value of " + name, name == "SET" },
		Random: func(low, high int) int { return high },
	}
}

// load parses text as the file f.
func load(text string) (*Config, []Diagnostic) { return Load("f", memory{"f": text}.options()) }

// lines gives findings as text, with their severity.
func lines(diags []Diagnostic) []string {
	var out []string
	for _, d := range diags {
		out = append(out, d.Severity.String()+" "+d.String())
	}
	return out
}

// wantDiags demands exactly one finding for each want, in order, that holds it. Security is left out of account: it is
// about nearly every file with a program in it.
func wantDiags(t *testing.T, diags []Diagnostic, want ...string) {
	t.Helper()
	diags = slices.DeleteFunc(slices.Clone(diags), func(d Diagnostic) bool { return d.Severity == Security })
	got := lines(diags)
	ok := len(got) == len(want)
	for i := 0; ok && i < len(got); i++ {
		ok = strings.Contains(got[i], want[i])
	}
	if !ok {
		t.Errorf("got\n  %s\nwant\n  %s", strings.Join(got, "\n  "), strings.Join(want, "\n  "))
	}
}

// quorum is a correct quorum block with further lines, the first of them line 5.
func quorum(lines ...string) string {
	return "quorum {\nvoter n1 10.77.0.1\nvoter n2 10.77.0.2\nwitness w1 10.77.0.21\n" + strings.Join(lines, "\n") + "\nresource pg plain\n}\n"
}

// instance is a correct vrrp_instance with further lines.
func instance(lines ...string) string {
	return fmt.Sprintf("vrrp_instance VI_1 {\n interface eth0\n virtual_router_id 51\n virtual_ipaddress {\n  10.0.0.1\n }\n%s\n}\n",
		strings.Join(lines, "\n"))
}
