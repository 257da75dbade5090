package conf

import (
	"bytes"
	"fmt"
	"io/fs"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Options say where a configuration comes from. The zero value reads the host's files.
type Options struct {
	// ConfigID decides @id lines and is ${_INSTANCE}; keepalived takes the host name up to the first dot.
	ConfigID string

	// ReadFile reads a file; nil: os.ReadFile. If it is set, a nil Stat takes every file for a plain one,
	// and a nil Glob leaves wildcards without a match.
	ReadFile func(name string) ([]byte, error)
	Stat     func(name string) (fs.FileInfo, error)    // nil: os.Stat
	Glob     func(pattern string) ([]string, error)    // nil: filepath.Glob
	Getenv   func(name string) (value string, ok bool) // for ${_ENV NAME}; nil: os.LookupEnv

	// Random gives a number from min to max, both included, for ${_RANDOM}; nil: math/rand/v2.
	Random func(min, max int) int

	// MaxLines bounds what includes, definitions and sequences may expand to; 0: 2,000,000 lines.
	MaxLines int
}

func (o Options) filled() Options {
	if o.ReadFile == nil {
		o.ReadFile = os.ReadFile
		if o.Stat == nil {
			o.Stat = os.Stat
		}
		if o.Glob == nil {
			o.Glob = filepath.Glob
		}
	}
	if o.Getenv == nil {
		o.Getenv = os.LookupEnv
	}
	if o.Random == nil {
		o.Random = func(low, high int) int { return low + rand.IntN(high-low+1) }
	}
	if o.MaxLines <= 0 {
		o.MaxLines = 2_000_000
	}
	return o
}

const (
	maxLineLen  = 1022 // keepalived's buffer holds 1024 bytes with newline and NUL
	maxIncludes = 32   // files open at once
	maxDepth    = 128  // definitions within definitions, sequences within sequences

	tooLongExpanded = "line is too long with its definitions and left as it is, expected at most 1022 bytes"
)

// tokenKind says what a logical line is.
type tokenKind uint8

const (
	textToken  tokenKind = iota
	openToken            // {
	closeToken           // }
)

type token struct {
	kind tokenKind
	line line
}

// definition is $NAME=…: one line, or several of a multi-line definition.
type definition struct{ body []line }

// source is where lines come from; next gives one, or false at its end.
type source interface {
	next(r *reader) (line, bool)
	close(r *reader)
}

// reader turns files into logical lines: it does the steps from the physical line up to the splitting at braces.
type reader struct {
	opts    Options
	diags   *collector
	defs    map[string]definition
	stack   []source
	files   []string // the files open now, to see a file include itself
	checks  includeCheck
	ahead   []token
	open    string // name of a multi-line definition whose lines are being read
	openAt  int    // depth of the stack where it began
	left    int
	stopped bool
}

func newReader(opts Options, diags *collector) *reader {
	opts = opts.filled()
	return &reader{opts: opts, diags: diags, defs: map[string]definition{}, left: opts.MaxLines}
}

func (r *reader) report(sev Severity, at Pos, via, message, got string) {
	if via != "" {
		message += ", in the text put in at " + via
	}
	r.diags.add(Diagnostic{Pos: at, Severity: sev, Message: message, Got: got})
}

func (r *reader) reportLine(sev Severity, l line, message, got string) {
	r.report(sev, l.pos, l.via, message, got)
}

// next gives the next logical line, or false at the end.
func (r *reader) next() (token, bool) {
	for {
		if n := len(r.ahead); n > 0 {
			t := r.ahead[n-1]
			r.ahead = r.ahead[:n-1]
			return t, true
		}
		l, ok := r.raw()
		if !ok {
			return token{}, false
		}
		if l, ok = r.expand(l); ok {
			r.splitBraces(l)
		}
	}
}

// unread puts a token back.
func (r *reader) unread(t token) { r.ahead = append(r.ahead, t) }

// raw gives the next line of the innermost source.
func (r *reader) raw() (line, bool) {
	for len(r.stack) > 0 {
		if r.open != "" && len(r.stack) < r.openAt {
			r.open = ""
		}
		if r.left == 0 {
			if !r.stopped {
				r.stopped = true
				r.report(Fatal, r.place(), "", fmt.Sprintf(
					"includes, definitions and sequences expand to more than %d lines, the rest is not read", r.opts.MaxLines), "")
			}
			r.stack = nil
			return line{}, false
		}
		top := r.stack[len(r.stack)-1]
		l, ok := top.next(r)
		if !ok {
			top.close(r)
			r.stack = r.stack[:len(r.stack)-1]
			continue
		}
		r.left--
		if r.open != "" && len(r.stack) == r.openAt {
			r.extend(l)
			continue
		}
		return l, true
	}
	return line{}, false
}

// place is where reading is now, for findings without a line.
func (r *reader) place() Pos {
	for i := len(r.stack) - 1; i >= 0; i-- {
		if f, ok := r.stack[i].(*fileSource); ok {
			return Pos{File: f.name, Line: f.lineNo}
		}
	}
	return Pos{}
}

// push makes s the innermost source, unless that nests too deep.
func (r *reader) push(s source, l line) bool {
	if len(r.stack) >= maxDepth+maxIncludes {
		r.reportLine(Fatal, l, "definitions or sequences within each other without end", l.text)
		return false
	}
	r.stack = append(r.stack, s)
	return true
}

// fileSource gives the lines of a file, without comments and surrounding blanks.
type fileSource struct {
	name   string
	data   []byte
	lineNo int
	saved  includeCheck // what applies again when the file ends
}

func (f *fileSource) next(r *reader) (line, bool) {
	for len(f.data) > 0 {
		text, rest, _ := bytes.Cut(f.data, []byte{'\n'})
		f.data = rest
		f.lineNo++
		l := line{pos: Pos{File: f.name, Line: f.lineNo, Col: 1}}
		switch {
		case len(text) > maxLineLen:
			r.reportLine(Error, l, fmt.Sprintf("line is too long and ignored, expected at most %d bytes", maxLineLen),
				strconv.Itoa(len(text))+" bytes")
			continue
		case bytes.IndexByte(text, 0) >= 0:
			r.reportLine(Error, l, "line holds a NUL byte and is ignored", "")
			continue
		}
		l.text = string(text)
		return r.uncomment(l.trim()), true
	}
	return line{}, false
}

func (f *fileSource) close(r *reader) {
	r.checks = f.saved
	r.files = r.files[:len(r.files)-1]
}

// pieces gives the further lines of a multi-line definition.
type pieces struct {
	lines []line
	via   string
}

func (p *pieces) next(*reader) (line, bool) {
	if len(p.lines) == 0 {
		return line{}, false
	}
	l := p.lines[0]
	l.via = p.via
	p.lines = p.lines[1:]
	return l, true
}

func (*pieces) close(*reader) {}

// loop repeats a line with its variables set to one tuple of values after the other.
type loop struct {
	text   line
	names  []string
	values func() ([]string, bool) // the next tuple
	saved  []definition            // what the names meant before
	had    []bool
}

func (s *loop) next(r *reader) (line, bool) {
	values, ok := s.values()
	if !ok {
		return line{}, false
	}
	for i, name := range s.names {
		value := ""
		if i < len(values) {
			value = values[i]
		}
		r.defs[name] = definition{[]line{{text: value, pos: s.text.pos}}}
	}
	return s.text, true
}

func (s *loop) close(r *reader) {
	for i, name := range s.names {
		if s.had[i] {
			r.defs[name] = s.saved[i]
		} else {
			delete(r.defs, name)
		}
	}
}

// uncomment cuts a comment off: # or ! anywhere outside double quotes. \# and \! outside quotes give the plain character.
func (r *reader) uncomment(l line) line {
	quote := -1
	escaped := false
	end := len(l.text)
scan:
	for i := 0; i < len(l.text); i++ {
		switch c := l.text[i]; {
		case c == '"':
			if quote < 0 {
				quote = i
			} else {
				quote = -1
			}
		case quote >= 0:
		case c == '\\' && i+1 < len(l.text) && (l.text[i+1] == '#' || l.text[i+1] == '!'):
			escaped = true
			i++
		case c == '#' || c == '!':
			end = i
			break scan
		}
	}
	if quote >= 0 {
		got := l.text[quote:]
		if before := l.text[:quote]; strings.Contains(before, "auth_pass") || strings.Contains(before, "key") {
			got = "" // a password stays out of logs
		}
		r.report(Error, l.at(quote), l.via, `unterminated quote, expected a second " on the line`, got)
	}
	if escaped {
		var b builder
		quoted := false
		for i := 0; i < end; i++ {
			c := l.text[i]
			if c == '"' {
				quoted = !quoted
			}
			if !quoted && c == '\\' && i+1 < end && (l.text[i+1] == '#' || l.text[i+1] == '!') {
				i++
				b.put(l.text[i:i+1], l.col(i-1))
				continue
			}
			b.keep(l, i, i+1)
		}
		return b.line(l).trim()
	}
	return l.slice(0, end).trim()
}

// expand does conditionals, definitions, sequences, substitution and includes. It gives false if nothing is left.
func (r *reader) expand(l line) (line, bool) {
	for range maxDepth {
		l = l.trim()
		if l.text == "" {
			return l, false
		}
		if l.text[0] == '@' {
			var ok bool
			if l, ok = r.condition(l); !ok {
				return l, false
			}
		}
		if l.text[0] == '$' {
			if n := nameLen(l.text[1:]); n > 0 && n+1 < len(l.text) && l.text[n+1] == '=' {
				r.define(l.text[1:n+1], l.slice(n+2, len(l.text)))
				return l, false
			}
		}
		if strings.HasPrefix(l.text, "~SEQ(") || strings.HasPrefix(l.text, "~SEQx(") || strings.HasPrefix(l.text, "~LST(") {
			r.sequence(l)
			return l, false
		}
		next, changed, ok := r.substitute(l)
		if !ok {
			return l, false
		}
		if !changed {
			if r.include(l) {
				return l, false
			}
			return l, true
		}
		l = r.uncomment(next.trim())
	}
	r.reportLine(Fatal, l, "definitions refer to each other without end", l.text)
	return l, false
}

// condition tests an @id or @^id prefix and takes it off.
func (r *reader) condition(l line) (line, bool) {
	end := strings.IndexAny(l.text, " \t")
	if end < 0 {
		r.reportLine(Lint, l, "nothing after the condition, expected @id and the text that it applies to", l.text)
		return l, false
	}
	id, negated := strings.CutPrefix(l.text[1:end], "^")
	if (id == r.opts.ConfigID && id != "") == negated {
		return l, false
	}
	return l.slice(end, len(l.text)).trim(), true
}

// define records $name=value. A value that ends in a backslash goes on with the next line.
func (r *reader) define(name string, value line) {
	value = value.trim()
	delete(r.defs, name)
	r.open, r.openAt = name, len(r.stack)
	r.extend(value)
}

// extend adds one line to the definition that is being read.
func (r *reader) extend(l line) {
	l = l.trim()
	text, more := strings.CutSuffix(l.text, `\`)
	d := r.defs[r.open]
	if l.text != "" || len(d.body) == 0 {
		d.body = append(d.body[:len(d.body):len(d.body)], l.slice(0, len(text)).trim())
	}
	r.defs[r.open] = d
	if !more {
		r.open = ""
	}
}

// substitute replaces the references of a line once. It gives false for ok if the line must be dropped.
func (r *reader) substitute(l line) (out line, changed, ok bool) {
	if strings.IndexByte(l.text, '$') < 0 {
		return l, false, true
	}
	var b builder
	var whole *line // the definition's own line, if the reference is all that there is
	last := 0
	for i := 0; i < len(l.text); i++ {
		if l.text[i] != '$' {
			continue
		}
		n, name, args := reference(l.text[i:])
		if n == 0 {
			continue
		}
		d, found := r.defs[name]
		if !found {
			text, builtin := r.builtin(name, args, l)
			if !builtin {
				continue
			}
			d = definition{[]line{{text: text}}}
		} else if args != "" {
			continue
		}
		if len(d.body) > 1 {
			if strings.Trim(l.text[i+n:], blanks) != "" {
				r.report(Error, l.at(i+n), l.via, "text after a multi-line definition, expected the end of the line", l.text[i+n:])
			}
			if len(b.text)+i-last+len(d.body[0].text) > maxLineLen {
				r.reportLine(Error, l, tooLongExpanded, "")
				return l, false, true
			}
			via := l.via
			if via == "" {
				via = l.at(i).At()
			}
			if !r.push(&pieces{d.body[1:], via}, l) {
				return l, false, false
			}
			if strings.Trim(l.text[:i], blanks) == "" {
				whole = &line{}
				*whole = d.body[0]
				whole.via = via
			}
			b.keep(l, last, i)
			b.put(d.body[0].text, l.col(i))
			last = len(l.text)
			changed = true
			break
		}
		b.keep(l, last, i)
		b.put(d.body[0].text, l.col(i))
		i += n - 1
		last = i + 1
		changed = true
		if len(b.text) > maxLineLen {
			r.reportLine(Error, l, tooLongExpanded, "")
			return l, false, true
		}
	}
	if !changed {
		return l, false, true
	}
	if whole != nil {
		return *whole, true, true
	}
	b.keep(l, last, len(l.text))
	if len(b.text) > maxLineLen {
		r.reportLine(Error, l, tooLongExpanded, "")
		return l, false, true
	}
	return b.line(l), true, true
}

// reference reads $NAME (before a blank, comma, closing parenthesis or the end) or ${NAME arguments} at the start of s.
func reference(s string) (n int, name, args string) {
	if n := referenceLen(s); n > 0 {
		end := 2 + nameLen(s[2:])
		return n, s[2:end], strings.Trim(s[end:n-1], blanks)
	}
	n = nameLen(s[1:])
	if n == 0 || n+1 < len(s) && strings.IndexByte(" \t,)", s[n+1]) < 0 {
		return 0, "", ""
	}
	return n + 1, s[1 : n+1], ""
}

// builtin gives the value of a predefined name.
func (r *reader) builtin(name, args string, l line) (string, bool) {
	if args != "" && name != "_RANDOM" && name != "_ENV" {
		return "", false
	}
	switch name {
	case "_PWD":
		dir, err := filepath.Abs(filepath.Dir(r.place().File))
		return dir, err == nil
	case "_INSTANCE":
		return r.opts.ConfigID, true
	case "_HASH":
		return "#", true
	case "_BANG":
		return "!", true
	case "_ENV":
		value, ok := r.opts.Getenv(args)
		if !ok || strings.ContainsAny(value, "\x00\n") {
			r.reportLine(Error, l, "environment variable is not set", args)
		}
		return value, ok && !strings.ContainsAny(value, "\x00\n")
	case "_RANDOM":
		limits := []int{0, 32767}
		words := strings.Fields(args)
		if len(words) > 2 {
			return "", false
		}
		for i, w := range words {
			v, err := strconv.ParseUint(w, 10, 31)
			if err != nil {
				return "", false
			}
			limits[i] = int(v)
		}
		if limits[0] > limits[1] {
			return "", false
		}
		return strconv.Itoa(r.opts.Random(limits[0], limits[1])), true
	}
	return "", false
}

// parameters substitutes definitions in the parameters of a sequence until nothing changes.
func (r *reader) parameters(l line) (string, bool) {
	for range maxDepth {
		next, changed := r.substituteFlat(l)
		if !changed {
			return l.text, true
		}
		if len(next.text) > maxLineLen {
			break
		}
		l = next
	}
	r.reportLine(Error, l, "definitions in the parameters refer to each other without end", l.text)
	return "", false
}

// substituteFlat is substitute for definitions of one line only.
func (r *reader) substituteFlat(l line) (line, bool) {
	var b builder
	last := 0
	for i := 0; i < len(l.text) && len(b.text) <= maxLineLen; i++ {
		if l.text[i] != '$' {
			continue
		}
		n, name, args := reference(l.text[i:])
		if n == 0 || args != "" || len(r.defs[name].body) != 1 {
			continue
		}
		b.keep(l, last, i)
		b.put(r.defs[name].body[0].text, l.col(i))
		i += n - 1
		last = i + 1
	}
	if last == 0 {
		return l, false
	}
	b.keep(l, last, len(l.text))
	return b.line(l), true
}

// sequence starts ~SEQ(var, [start, [step,]] end), ~SEQx(…) or ~LST(var, value, …), ~LST({vars}, {values}, …).
func (r *reader) sequence(l line) {
	open := strings.IndexByte(l.text, '(')
	kind := l.text[1:open]
	bad := func(message string) {
		r.diags.add(Diagnostic{Pos: l.pos, Severity: Error, Keyword: "~" + kind, Message: message, Got: l.text})
	}
	end := strings.IndexByte(l.text, ')')
	if end < 0 {
		bad("no closing parenthesis, the line is ignored")
		return
	}
	params, ok := r.parameters(l.slice(open+1, end))
	if !ok {
		return
	}
	s := &loop{text: l.slice(end+1, len(l.text)).trim()}
	if s.text.text == "" {
		bad("nothing to repeat, expected text after the closing parenthesis")
		return
	}
	if s.text.via == "" {
		s.text.via = l.pos.At()
	}
	var problem string
	if kind == "LST" {
		problem = s.list(params)
	} else {
		problem = s.numbers(params, kind == "SEQx")
	}
	if problem != "" {
		bad(problem)
		return
	}
	for _, name := range s.names {
		if name == "" || nameLen(name) != len(name) {
			bad("invalid variable name, expected a letter or _, then letters, digits or _")
			return
		}
		d, had := r.defs[name]
		s.saved = append(s.saved, d)
		s.had = append(s.had, had)
	}
	r.push(s, l)
}

// numbers reads the parameters of ~SEQ and gives what is wrong with them.
func (s *loop) numbers(params string, hex bool) string {
	words := strings.Split(params, ",")
	if len(words) < 2 || len(words) > 4 {
		return "wrong number of parameters, expected (variable, [start, [step,]] end)"
	}
	s.names = []string{strings.Trim(words[0], blanks)}
	var n []int64
	for _, w := range words[1:] {
		w = strings.Trim(w, blanks)
		v, err := strconv.ParseInt(w, 0, 32)
		if err != nil || strings.ContainsAny(w, "_bBoO") && !strings.HasPrefix(strings.ToLower(strings.TrimLeft(w, "+-")), "0x") {
			return "invalid number " + strconv.Quote(w) + ", expected (variable, [start, [step,]] end)"
		}
		n = append(n, v)
	}
	var start, step, end int64
	switch len(n) {
	case 1:
		start, end = 1, n[0]
		if end < 0 {
			start = -1
		}
	case 2:
		start, end = n[0], n[1]
	case 3:
		start, step, end = n[0], n[1], n[2]
		if step == 0 {
			return "step is 0, expected a number that leads from start to end"
		}
	}
	if len(n) < 3 {
		step = 1
		if end < start {
			step = -1
		}
	}
	if step > 0 && start > end || step < 0 && start < end {
		return "step leads away from the end"
	}
	if hex && (start < 0 || end < 0) {
		return "negative number, expected numbers from 0 for ~SEQx"
	}
	v, base := start, 10
	if hex {
		base = 16
	}
	s.values = func() ([]string, bool) {
		if step > 0 && v > end || step < 0 && v < end || v == math.MaxInt64 {
			return nil, false
		}
		text := strconv.FormatInt(v, base)
		v += step
		return []string{text}, true
	}
	return ""
}

// list reads the parameters of ~LST and gives what is wrong with them.
func (s *loop) list(params string) string {
	const want = ", expected (variable, value, …) or ({variables}, {values}, …)"
	var tuples [][]string
	rest := strings.Trim(params, blanks)
	for {
		var tuple []string
		if body, ok := strings.CutPrefix(rest, "{"); ok {
			body, after, ok := strings.Cut(body, "}")
			if !ok {
				return "no closing }" + want
			}
			for w := range strings.SplitSeq(body, ",") {
				tuple = append(tuple, strings.Trim(w, blanks))
			}
			rest = strings.Trim(after, blanks)
			if rest != "" && rest[0] != ',' {
				return "text after }" + want
			}
		} else {
			value, _, _ := strings.Cut(rest, ",")
			tuple = []string{strings.Trim(value, blanks)}
			rest = rest[len(value):]
		}
		tuples = append(tuples, tuple)
		if rest == "" {
			break
		}
		rest = strings.TrimLeft(rest[1:], blanks)
	}
	if len(tuples) < 2 {
		return "no value" + want
	}
	s.names = tuples[0]
	for _, tuple := range tuples[1:] {
		if len(tuple) > len(s.names) {
			return "more values than variables" + want
		}
	}
	tuples = tuples[1:]
	s.values = func() ([]string, bool) {
		if len(tuples) == 0 {
			return nil, false
		}
		t := tuples[0]
		tuples = tuples[1:]
		return t, true
	}
	return ""
}

// splitBraces makes a token of each brace and of the text between them.
func (r *reader) splitBraces(l line) {
	var tokens []token
	for {
		l = l.trim()
		if l.text == "" {
			break
		}
		at, undefined := l.brace()
		if undefined >= 0 {
			_, name, _ := reference(l.text[undefined:])
			r.report(Error, l.at(undefined), l.via, "definition is not known, expected $"+name+"=VALUE before its use; left as it is", "${"+name+"}")
		}
		switch {
		case at < 0:
			tokens = append(tokens, token{textToken, l})
			l.text = ""
		case at > 0:
			tokens = append(tokens, token{textToken, l.slice(0, at).trim()})
			l = l.slice(at, len(l.text))
		default:
			kind := openToken
			if l.text[0] == '}' {
				kind = closeToken
			}
			tokens = append(tokens, token{kind, l.slice(0, 1)})
			l = l.slice(1, len(l.text))
		}
	}
	for i := len(tokens) - 1; i >= 0; i-- {
		r.ahead = append(r.ahead, tokens[i])
	}
}
