package conf

import (
	"cmp"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// At gives the place as file:line:column, leaving out what is not known.
func (p Pos) At() string {
	switch {
	case p.Line == 0:
		return p.File
	case p.Col == 0:
		return p.File + ":" + strconv.Itoa(p.Line)
	}
	return p.File + ":" + strconv.Itoa(p.Line) + ":" + strconv.Itoa(p.Col)
}

// String gives the severity's word: lint, error, security or fatal.
func (s Severity) String() string {
	switch s {
	case Lint:
		return "lint"
	case Error:
		return "error"
	case Security:
		return "security"
	case Fatal:
		return "fatal"
	}
	return "severity " + strconv.Itoa(int(s))
}

// String gives the finding on one line: file:line:col: keyword: problem, expected … (got "x").
func (d Diagnostic) String() string {
	var b strings.Builder
	if at := d.At(); at != "" {
		b.WriteString(at)
		b.WriteString(": ")
	}
	if d.Keyword != "" {
		b.WriteString(d.Keyword)
		b.WriteString(": ")
	}
	b.WriteString(d.Message)
	if d.Got != "" {
		fmt.Fprintf(&b, " (got %q)", d.Got)
	}
	return b.String()
}

// places is what a message says of where something else stands.
var places = regexp.MustCompile(` \(at [^)]*\)|, in the text put in at .*`)

// Problem is what was found, wherever it stands: it is the same in two versions of a file that have it on different lines.
func (d Diagnostic) Problem() Diagnostic {
	return Diagnostic{Severity: d.Severity, Keyword: d.Keyword, Message: places.ReplaceAllString(d.Message, ""), Got: d.Got}
}

// MarshalJSON gives an object with file, line, col, severity, keyword, message and got.
func (d Diagnostic) MarshalJSON() ([]byte, error) {
	return json.Marshal(struct {
		File     string `json:"file"`
		Line     int    `json:"line"`
		Col      int    `json:"col"`
		Severity string `json:"severity"`
		Keyword  string `json:"keyword"`
		Message  string `json:"message"`
		Got      string `json:"got"`
	}{d.File, d.Line, d.Col, d.Severity.String(), d.Keyword, d.Message, d.Got})
}

// The exit codes of `vrrpd check`, those of `keepalived -t`.
const (
	ExitClean    = 0 // nothing to say, or only lint without strict
	ExitCannot   = 4 // the configuration cannot be run
	ExitErrors   = 5 // it would run, with errors
	ExitSecurity = 6 // it would run, with insecure scripts
)

// ExitCode turns findings into the exit code of `vrrpd check`. Where keepalived takes the numerically highest class, 6
// hides 5 here too; but 4 beats both, because then nothing runs at all. What keepalived reports as 2 (a word is missing,
// at which its parser gives up) is 4 here. Lint counts as an error with strict, else not at all.
func ExitCode(diags []Diagnostic, strict bool) int {
	code := ExitClean
	for _, d := range diags {
		switch d.Severity {
		case Fatal:
			return ExitCannot
		case Security:
			code = max(code, ExitSecurity)
		case Error:
			code = max(code, ExitErrors)
		case Lint:
			if strict {
				code = max(code, ExitErrors)
			}
		}
	}
	return code
}

// maxDiagnostics is how many findings of one severity are kept: a sequence can repeat one mistake a million times.
const maxDiagnostics = 1000

// collector gathers findings, each once.
type collector struct {
	diags []Diagnostic
	seen  map[Diagnostic]bool
	count [Fatal + 1]int
	files map[string]int // order of first appearance
}

func newCollector() *collector {
	return &collector{seen: map[Diagnostic]bool{}, files: map[string]int{}}
}

func (c *collector) file(name string) {
	if _, ok := c.files[name]; !ok {
		c.files[name] = len(c.files)
	}
}

func (c *collector) add(d Diagnostic) {
	c.file(d.File)
	if c.count[d.Severity] > maxDiagnostics || c.seen[d] {
		return
	}
	c.seen[d] = true
	c.count[d.Severity]++
	if c.count[d.Severity] > maxDiagnostics {
		d = Diagnostic{Pos: d.Pos, Severity: d.Severity,
			Message: fmt.Sprintf("more than %d findings of this kind (%s), the rest is not shown", maxDiagnostics, d.Severity)}
	}
	c.diags = append(c.diags, d)
}

// sorted gives the findings in the order of the text: main file first, then what it includes.
func (c *collector) sorted() []Diagnostic {
	slices.SortStableFunc(c.diags, func(a, b Diagnostic) int {
		return cmp.Or(cmp.Compare(c.files[a.File], c.files[b.File]), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Col, b.Col))
	})
	return c.diags
}
