package conf

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// keyword is one line of a block's table.
type keyword[T any] struct {
	name string
	need int // words that must follow; fewer and nothing can be run, as with keepalived
	max  int // words that may follow; further ones are reported as surplus; -1: the handler looks after that
	set  func(s *statement, t *T)
	kind keywordKind
	what string // unsupported: what happens instead; skipped: why it may be
	tree bool   // unsupported or skipped: a block may follow

	idle string // implemented, and without effect here: why, which one notice says
}

// keywordKind says what is done with a keyword.
type keywordKind uint8

const (
	implemented keywordKind = iota
	unsupported             // recognised, changes behaviour, and is an error
	refused                 // recognised, and nothing can be run
	skipped                 // recognised, and one notice says that it does nothing here
)

type table[T any] map[string]keyword[T]

// tableOf makes the table of a block.
func tableOf[T any](lists [][]keyword[T]) table[T] {
	t := table[T]{}
	for _, list := range lists {
		for _, k := range list {
			t[k.name] = k
		}
	}
	return t
}

// not makes keywords that are recognised and no more.
func not[T any](kind keywordKind, tree bool, what string, names ...string) []keyword[T] {
	var list []keyword[T]
	for _, name := range names {
		list = append(list, keyword[T]{name: name, max: -1, kind: kind, what: what, tree: tree})
	}
	return list
}

// parser turns logical lines into a Config.
type parser struct {
	r       *reader
	diags   *collector
	cfg     *Config
	noticed map[string]bool
	unknown int // unknown keywords so far: suggestions for the first ones only

	root      table[parser]
	globals   table[globals]
	script    table[scriptDraft]
	file      table[fileDraft]
	process   table[processDraft]
	garpGroup table[garpGroupDraft]
	instance  table[instanceDraft]
	auth      table[instanceDraft]
	hmac      table[instanceDraft]
	group     table[groupDraft]

	quorumWords table[quorumDraft]

	g         globals
	scripts   []*scriptDraft
	files     []*fileDraft
	processes []*processDraft
	instances []*instanceDraft
	groups    []*groupDraft
	quorum    *quorumDraft

	scriptNames   map[string]*scriptDraft
	fileNames     map[string]*fileDraft
	processNames  map[string]*processDraft
	instanceNames map[string]*instanceDraft
}

// Load reads a configuration file and all that it includes. It reports every mistake in one run, in the order of the
// text; the Config is what keepalived would make of the file, and must not be run if a Diagnostic is Fatal.
// It never returns nil.
func Load(path string, opts Options) (*Config, []Diagnostic) {
	diags := newCollector()
	p := &parser{r: newReader(opts, diags), diags: diags, cfg: &Config{File: path}, noticed: map[string]bool{},
		scriptNames: map[string]*scriptDraft{}, fileNames: map[string]*fileDraft{}, processNames: map[string]*processDraft{},
		instanceNames: map[string]*instanceDraft{}}
	p.root = tableOf(rootKeywords())
	p.globals = tableOf(globalKeywords())
	p.script = tableOf(scriptKeywords())
	p.file = tableOf(fileKeywords())
	p.process = tableOf(processKeywords())
	p.garpGroup = tableOf(garpGroupKeywords())
	p.instance = tableOf(instanceKeywords())
	p.auth = tableOf(authKeywords())
	p.hmac = tableOf(hmacKeywords())
	p.group = tableOf(groupKeywords())
	p.quorumWords = tableOf(quorumKeywords())
	p.g = newGlobals()

	fail := func(message string) { diags.add(Diagnostic{Pos: Pos{File: path}, Severity: Fatal, Message: message}) }
	p.r.openFile(path, fail, fail)
	parseBlock(p, nil, p.root, p)
	p.finish()

	found := diags.sorted()
	if p.cfg.Extended { // a file of ours: nobody else has to accept it, so every error counts
		for i := range found {
			if found[i].Severity == Error {
				found[i].Severity = Fatal
			}
		}
	}
	return p.cfg, found
}

func (p *parser) report(sev Severity, at origin, got, format string, args ...any) {
	message := fmt.Sprintf(format, args...)
	if at.keyword == "auth_pass" || at.keyword == "key" {
		got = "" // a password stays out of logs
	}
	if at.via != "" {
		message += ", in the text put in at " + at.via
	}
	p.diags.add(Diagnostic{Pos: at.Pos, Severity: sev, Keyword: at.keyword, Message: message, Got: got})
}

// statement makes words of a line. It is nil if there are none, as for a lone empty quote.
func (p *parser) statement(l line) *statement {
	s := &statement{p: p, line: l, words: l.split()}
	if n := len(s.words); n > 1 {
		if w := s.words[n-1]; !w.quoted && strings.HasSuffix(w.text, `\`) {
			s.words[n-1].text = strings.TrimSuffix(w.text, `\`)
			s.report(Error, w, "backslash at the end of the line, expected it in a definition $NAME=… only; it is ignored")
			if s.words[n-1].text == "" {
				s.words = s.words[:n-1]
			}
		}
	}
	return s
}

// parseBlock reads keywords until the block's closing brace; opener is nil at the top.
func parseBlock[T any](p *parser, opener *statement, words table[T], t *T) {
	if opener != nil && !p.open(opener) {
		return
	}
	explained := false // the line before said that its block is not read
	for {
		tok, ok := p.r.next()
		if !ok {
			if opener != nil {
				p.unclosed(opener)
			}
			return
		}
		switch tok.kind {
		case openToken:
			if !explained {
				p.report(Error, origin{Pos: tok.line.pos, via: tok.line.via}, "{", "unexpected brace, the block is skipped")
			}
			p.skip(tok.line)
			explained = false
		case closeToken:
			if opener != nil {
				return
			}
			p.report(Error, origin{Pos: tok.line.pos, via: tok.line.via}, "}", "closing brace without an opening one, ignored")
			explained = false
		case textToken:
			s := p.statement(tok.line)
			k, known := words[s.name()]
			if !known && opener != nil && opener.name() == "global_defs" {
				k, known = wildcardKeyword[T](s.name())
			}
			if !known {
				p.unknownKeyword(s, opener, suggestions(words))
				explained = true
				continue
			}
			explained = run(s, k, t)
		}
	}
}

// run does one statement. It says whether a block that follows has been spoken for.
func run[T any](s *statement, k keyword[T], t *T) bool {
	switch k.kind {
	case skipped:
		if !s.p.noticed[k.name] {
			s.p.noticed[k.name] = true
			s.report(Lint, word{pos: s.words[0].pos}, "recognised and skipped: %s", k.what)
		}
		return k.tree
	case unsupported:
		if w := s.text(0); s.args() == 1 && (w == "false" || w == "off" || w == "no") {
			return false
		}
		if k.set != nil {
			s.report(Error, word{pos: s.words[0].pos}, "recognised but not supported by this version: %s", k.what)
			k.set(s, t)
			return false
		}
		if !s.p.noticed[k.name] {
			s.p.noticed[k.name] = true
			s.report(Error, word{pos: s.words[0].pos}, "recognised but not supported by this version: %s", k.what)
		}
		return k.tree
	case refused:
		s.report(Fatal, word{pos: s.words[0].pos}, "%s", k.what)
		return k.tree
	}
	if s.args() < k.need {
		s.report(Fatal, s.arg(s.args()), "value is missing, expected %d after the keyword", k.need)
		return true
	}
	if k.max >= 0 {
		s.surplus(k.max)
	}
	if k.idle != "" && !s.p.noticed[k.name] {
		s.p.noticed[k.name] = true
		s.report(Lint, word{pos: s.words[0].pos}, "recognised and skipped: %s", k.idle)
	}
	k.set(s, t)
	return false
}

// open expects the opening brace of a block. Without one the block is read as if it were there.
func (p *parser) open(s *statement) bool {
	tok, ok := p.r.next()
	switch {
	case !ok:
		p.report(Error, s.origin(), "", "block is missing, expected { after the keyword")
		return false
	case tok.kind != openToken:
		p.report(Error, s.origin(), "", "brace is missing, expected { after the keyword; reading on as if it stood there")
		p.r.unread(tok)
	}
	return true
}

func (p *parser) unclosed(s *statement) {
	p.report(Error, s.origin(), "", "block is not closed, expected } before the end of the file")
}

// skip passes over a block whose opening brace has been read.
func (p *parser) skip(open line) {
	for depth := 1; depth > 0; {
		tok, ok := p.r.next()
		if !ok {
			p.report(Error, origin{Pos: open.pos, via: open.via}, "", "block is not closed, expected } before the end of the file")
			return
		}
		switch tok.kind {
		case openToken:
			depth++
		case closeToken:
			depth--
		}
	}
}

// skipBlock passes over a block that may follow the statement.
func (p *parser) skipBlock() {
	tok, ok := p.r.next()
	switch {
	case !ok:
	case tok.kind == openToken:
		p.skip(tok.line)
	default:
		p.r.unread(tok)
	}
}

// values reads the lines of a block of values.
func (p *parser) values(opener *statement, each func(s *statement)) {
	if !p.open(opener) {
		return
	}
	for {
		tok, ok := p.r.next()
		if !ok {
			p.unclosed(opener)
			return
		}
		switch tok.kind {
		case openToken:
			p.report(Error, origin{Pos: tok.line.pos, via: tok.line.via, keyword: opener.name()}, "{", "unexpected brace, the block is skipped")
			p.skip(tok.line)
		case closeToken:
			return
		case textToken:
			// The line has no keyword of its own: findings carry the block's.
			s := p.statement(tok.line)
			head := word{text: opener.name(), pos: s.words[0].pos}
			s.words = append([]word{head}, s.words...)
			each(s)
		}
	}
}

// unknownKeyword reports a word that is not in the table, with what was probably meant.
func (p *parser) unknownKeyword(s *statement, opener *statement, here []string) {
	w := s.words[0]
	s.words[0].text = "" // it is no keyword: it stands behind "got"
	block, expected := "at the top of the file", "expected a block such as global_defs, vrrp_script, vrrp_instance, vrrp_sync_group or quorum"
	if opener != nil {
		block, expected = "in "+opener.name(), "expected one of that block's"
	}
	p.unknown++
	hint := ""
	if p.unknown <= 200 {
		hint = p.hint(w.text, here)
	}
	s.report(Error, w, "unknown keyword %s, %s", block, cmp.Or(hint, expected+"; ignored"))
}

// hint says what an unknown word was probably meant to be.
func (p *parser) hint(got string, here []string) string {
	if strings.HasPrefix(got, "$") {
		return "expected $NAME=VALUE without a blank before the =; ignored"
	}
	blocks := []struct {
		where string
		names []string
	}{
		{"in vrrp_instance", suggestions(p.instance)},
		{"in global_defs", suggestions(p.globals)},
		{"in vrrp_script", suggestions(p.script)},
		{"in track_file", suggestions(p.file)},
		{"in vrrp_track_process", suggestions(p.process)},
		{"in garp_group", suggestions(p.garpGroup)},
		{"in authentication", suggestions(p.auth)},
		{"in auth_hmac", suggestions(p.hmac)},
		{"in vrrp_sync_group", suggestions(p.group)},
		{"in quorum", suggestions(p.quorumWords)},
		{"at the top of the file (is a } missing above?)", suggestions(p.root)},
	}
	for _, b := range blocks {
		if slices.Contains(b.names, got) {
			return fmt.Sprintf("expected it %s; ignored", b.where)
		}
	}
	if name := nearest(got, here); name != "" {
		return fmt.Sprintf("did you mean %s? ignored", name)
	}
	return ""
}

// suggestions gives the words of a table.
func suggestions[T any](words table[T]) []string {
	names := make([]string, 0, len(words))
	for name := range words {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// nearest gives the name that got is most probably a slip of, or "".
func nearest(got string, names []string) string {
	if len(got) < 3 || len(got) > 60 {
		return ""
	}
	limit := 1 + len(got)/6
	best := ""
	for _, name := range names {
		if abs(len(name)-len(got)) > limit {
			continue
		}
		if d := distance(got, name); d <= limit && (best == "" || d < distance(got, best)) {
			best = name
		}
	}
	return best
}

func abs(n int) int { return max(n, -n) }

// distance is how many letters must be put in, taken out, changed or swapped with their neighbour to make b of a.
func distance(a, b string) int {
	var before []int
	last, row := make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			row[j] = min(last[j]+1, row[j-1]+1, last[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, last, row = last, row, make([]int, len(b)+1)
	}
	return last[len(b)]
}
