package conf

import (
	"errors"
	"path/filepath"
	"slices"
	"strings"
)

// includeCheck is what an include must fulfil; where it does not, nothing can be run.
type includeCheck uint8

const (
	checkRead     includeCheck = 1 << iota // what matches is a readable file
	checkMatch                             // any pattern matches
	checkWildcard                          // a pattern with wildcards matches
	checkBrace                             // each element of a brace expression matches

	checkAll = checkRead | checkMatch | checkWildcard | checkBrace
)

// checkWords are the words of include_check.
var checkWords = map[string]includeCheck{
	"read": checkRead, "match": checkRead | checkMatch,
	"wildcard_match": checkRead | checkWildcard, "brace_match": checkRead | checkBrace,
	"readable": checkRead, // as the manual page has it
}

// includeDirective gives what an include keyword demands besides the include_check in force.
func includeDirective(keyword string) (includeCheck, bool) {
	switch keyword {
	case "include":
		return 0, true
	case "includer":
		return checkRead, true
	case "includem":
		return checkRead | checkMatch, true
	case "includew":
		return checkRead | checkWildcard, true
	case "includeb":
		return checkRead | checkBrace, true
	case "includea":
		return checkAll, true
	}
	return 0, false
}

// include opens the files that a line asks for, and says whether it was an include line.
func (r *reader) include(l line) bool {
	end := strings.IndexAny(l.text, " \t")
	if end < 0 {
		return false
	}
	keyword := l.text[:end]
	checks, ok := includeDirective(keyword)
	if !ok {
		return false
	}
	checks |= r.checks
	pattern := l.slice(end, len(l.text)).trim()
	report := func(sev Severity, message, got string) {
		if pattern.via != "" {
			message += ", in the text put in at " + pattern.via
		}
		r.diags.add(Diagnostic{Pos: pattern.pos, Severity: sev, Keyword: keyword, Message: message, Got: got})
	}
	if strings.ContainsAny(pattern.text, `"`) {
		report(Error, "quoted file name, expected it without quotes; nothing is included", pattern.text)
		return true
	}
	dir := filepath.Dir(r.place().File)
	elements, ok := expandBraces(pattern.text)
	if !ok {
		report(Error, "brace expression too large or not closed; nothing is included", pattern.text)
		return true
	}
	var names []string
	for _, e := range elements {
		wild := strings.ContainsAny(e, "*?[")
		if !filepath.IsAbs(e) {
			e = filepath.Join(escapeGlob(dir), e)
		}
		found := r.match(e, wild)
		if len(found) == 0 {
			strict := checks&checkMatch != 0 || wild && checks&checkWildcard != 0 ||
				len(elements) > 1 && checks&checkBrace != 0
			if strict {
				report(Fatal, "no file matches, expected at least one", e)
			} else if !wild || len(elements) == 1 {
				report(Lint, "no file matches, nothing is included", e)
			}
		}
		names = append(names, found...)
	}
	r.push(&included{names: names, checks: checks, report: report}, l)
	return true
}

// match gives the files of a pattern without braces, sorted; as with glob(3), a wildcard does not match a leading dot.
func (r *reader) match(pattern string, wild bool) []string {
	if !wild {
		pattern = unescapeGlob(pattern)
		if r.opts.Stat == nil {
			if _, err := r.opts.ReadFile(pattern); err != nil {
				return nil
			}
		} else if _, err := r.opts.Stat(pattern); err != nil {
			return nil
		}
		return []string{pattern}
	}
	if r.opts.Glob == nil {
		return nil
	}
	found, err := r.opts.Glob(strings.ReplaceAll(pattern, "[!", "[^"))
	if err != nil {
		return nil
	}
	if !strings.HasPrefix(filepath.Base(pattern), ".") {
		found = slices.DeleteFunc(found, func(name string) bool { return strings.HasPrefix(filepath.Base(name), ".") })
	}
	slices.Sort(found)
	return found
}

// included opens the files of one include, each when its turn comes.
type included struct {
	names  []string
	checks includeCheck
	report func(sev Severity, message, got string)
}

func (in *included) next(r *reader) (line, bool) {
	if len(in.names) == 0 {
		return line{}, false
	}
	name := in.names[0]
	in.names = in.names[1:]
	in.openFile(r, name)
	return line{}, true // nothing by itself; the file's lines come next
}

func (*included) close(*reader) {}

func (in *included) openFile(r *reader, name string) {
	unreadable := Error
	if in.checks&checkRead != 0 {
		unreadable = Fatal
	}
	if r.opts.Stat != nil {
		info, err := r.opts.Stat(name)
		switch {
		case err != nil:
			in.report(unreadable, "cannot be read: "+cause(err), name)
			return
		case info.IsDir():
			if in.checks&checkRead != 0 {
				in.report(Fatal, "directory, expected a readable file", name)
			}
			return
		case info.Mode()&0o111 != 0:
			in.report(Lint, "file is executable and skipped, expected a plain file", name)
			return
		}
	}
	r.openFile(name,
		func(message string) { in.report(unreadable, message, name) },
		func(message string) { in.report(Fatal, message, name) })
}

// openFile makes a file the innermost source.
func (r *reader) openFile(name string, unreadable, endless func(message string)) {
	abs, err := filepath.Abs(name)
	if err != nil {
		abs = name
	}
	switch {
	case slices.Contains(r.files, abs):
		endless("file includes itself")
		return
	case len(r.files) >= maxIncludes:
		endless("includes nest too deep")
		return
	}
	data, err := r.opts.ReadFile(name)
	if err != nil {
		unreadable("cannot be read: " + cause(err))
		return
	}
	r.diags.file(name)
	r.files = append(r.files, abs)
	r.stack = append(r.stack, &fileSource{name: name, data: data, saved: r.checks})
}

// cause gives the innermost error's text: the name stands elsewhere in the message.
func cause(err error) string {
	for inner := errors.Unwrap(err); inner != nil; inner = errors.Unwrap(err) {
		err = inner
	}
	return err.Error()
}

// setChecks does include_check: no word means all, a word with + or - adds or takes away.
func (r *reader) setChecks(words []word) (bad []word) {
	if len(words) == 0 {
		r.checks = checkAll
		return nil
	}
	var set includeCheck
	if c := words[0].text; strings.HasPrefix(c, "+") || strings.HasPrefix(c, "-") {
		set = r.checks
	}
	for _, w := range words {
		name, remove := strings.CutPrefix(w.text, "-")
		check, ok := checkWords[strings.TrimPrefix(name, "+")]
		switch {
		case !ok:
			bad = append(bad, w)
		case remove && check == checkRead:
			set &^= checkRead
		case remove:
			set &^= check &^ checkRead // the others keep on implying it
		default:
			set |= check
		}
	}
	if set&^checkRead != 0 {
		set |= checkRead
	}
	r.checks = set
	return bad
}

// expandBraces does csh-style alternatives: {foo/{,cat,dog},bar}.
func expandBraces(pattern string) ([]string, bool) {
	const limit = 1000
	done := []string{""}
	for pattern != "" {
		open := strings.IndexByte(pattern, '{')
		if open < 0 {
			open = len(pattern)
		}
		for i := range done {
			done[i] += pattern[:open]
		}
		if pattern = pattern[open:]; pattern == "" {
			break
		}
		depth, start, end := 0, 1, -1
		var alternatives []string
		for i := 0; i < len(pattern) && end < 0; i++ {
			switch pattern[i] {
			case '{':
				depth++
			case '}':
				if depth--; depth == 0 {
					alternatives = append(alternatives, pattern[start:i])
					end = i
				}
			case ',':
				if depth == 1 {
					alternatives = append(alternatives, pattern[start:i])
					start = i + 1
				}
			}
		}
		if end < 0 {
			return nil, false
		}
		var all []string
		for _, before := range done {
			for _, alternative := range alternatives {
				inner, ok := expandBraces(alternative)
				if !ok {
					return nil, false
				}
				for _, text := range inner {
					all = append(all, before+text)
				}
				if len(all) > limit {
					return nil, false
				}
			}
		}
		done = all
		pattern = pattern[end+1:]
	}
	return done, true
}

func escapeGlob(s string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(s)
}

func unescapeGlob(s string) string {
	return strings.NewReplacer(`\\`, `\`, `\*`, `*`, `\?`, `?`, `\[`, `[`).Replace(s)
}
