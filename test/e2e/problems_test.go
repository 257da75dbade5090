package e2e

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestProblems: every problem of docs/problems.md has a row with tests, every test that is named there exists, with the subtest behind a
// slash, and every test that bears a problem's number stands in that row.
func TestProblems(t *testing.T) {
	text, err := os.ReadFile("../../docs/problems.md")
	if err != nil {
		t.Fatal(err)
	}
	declared := regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)\w+)\(`)
	files := map[string]string{} // by test, the file that declares it
	err = filepath.WalkDir("../..", func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for _, m := range declared.FindAllStringSubmatch(string(content), -1) {
			files[m[1]] += string(content)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	named := regexp.MustCompile("`((?:Test|Fuzz)[^`]+)`")
	rows := map[int]string{}
	for line := range strings.Lines(string(text)) {
		var number int
		if n, _ := fmt.Sscanf(line, "| %d |", &number); n == 1 {
			cells := strings.Split(line, "|")
			rows[number] = cells[len(cells)-2]
		}
		for _, m := range named.FindAllStringSubmatch(line, -1) {
			test, sub, _ := strings.Cut(m[1], "/")
			content, ok := files[test]
			if !ok {
				t.Errorf("%s: no such test", test)
			}
			if !strings.Contains(content, fmt.Sprintf("%q", sub)) && sub != "" {
				t.Errorf("%s: no subtest %q", test, sub)
			}
		}
	}
	for number := 1; number <= 26; number++ {
		if !named.MatchString(rows[number]) {
			t.Errorf("problem %d has no test", number)
		}
	}
	numbered := regexp.MustCompile(`^TestPain(\d\d)`)
	for test := range files {
		if m := numbered.FindStringSubmatch(test); m != nil {
			var number int
			if _, err := fmt.Sscanf(m[1], "%02d", &number); err != nil || !strings.Contains(rows[number], "`"+test+"`") && !strings.Contains(rows[number], "`"+test+"/") {
				t.Errorf("%s does not stand in row %s", test, m[1])
			}
		}
	}
}
