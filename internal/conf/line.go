package conf

import "strings"

// blanks are what separates words: keepalived's isspace in the C locale.
const blanks = " \t\f\n\r\v"

// line is a piece of text that knows where each of its bytes stood, through escapes, definitions and sequences.
type line struct {
	text string
	pos  Pos     // of the first byte
	cols []int32 // column of each byte; nil: they follow pos.Col one by one
	via  string  // where the definition or sequence that gave this line was used, "" for plain lines
}

func (l line) col(i int) int {
	switch {
	case l.cols == nil:
		return l.pos.Col + i
	case i < len(l.cols):
		return int(l.cols[i])
	case len(l.cols) > 0:
		return int(l.cols[len(l.cols)-1]) + 1
	}
	return l.pos.Col
}

func (l line) at(i int) Pos { return Pos{File: l.pos.File, Line: l.pos.Line, Col: l.col(i)} }

// slice gives the bytes from i up to j.
func (l line) slice(i, j int) line {
	l.pos.Col = l.col(i)
	l.text = l.text[i:j]
	if l.cols != nil {
		l.cols = l.cols[i:j]
	}
	return l
}

// trim takes leading and trailing blanks away.
func (l line) trim() line {
	end := len(strings.TrimRight(l.text, blanks))
	start := len(l.text) - len(strings.TrimLeft(l.text, blanks))
	if start >= end {
		return l.slice(end, end)
	}
	return l.slice(start, end)
}

// builder puts a line together from pieces of others.
type builder struct {
	text []byte
	cols []int32
}

func (b *builder) keep(l line, i, j int) {
	for ; i < j; i++ {
		b.text = append(b.text, l.text[i])
		b.cols = append(b.cols, int32(l.col(i)))
	}
}

// put adds text that stands at column col as a whole.
func (b *builder) put(text string, col int) {
	b.text = append(b.text, text...)
	for range len(text) {
		b.cols = append(b.cols, int32(col))
	}
}

func (b *builder) line(from line) line {
	from.text, from.cols = string(b.text), b.cols
	if len(b.cols) > 0 {
		from.pos.Col = int(b.cols[0])
	}
	return from
}

// word is one word of a line, quotes removed.
type word struct {
	text   string
	pos    Pos
	quoted bool
}

// split gives the words of a line. A double quote begins a word wherever it stands and runs to the next one, without
// escapes; an unterminated one (reported before) runs to the end.
func (l line) split() []word {
	var words []word
	for i := 0; i < len(l.text); {
		switch c := l.text[i]; {
		case strings.IndexByte(blanks, c) >= 0:
			i++
		case c == '"':
			end := strings.IndexByte(l.text[i+1:], '"')
			if end < 0 {
				end = len(l.text) - i - 1
			}
			words = append(words, word{l.text[i+1 : i+1+end], l.at(i), true})
			i += end + 2
		default:
			end := strings.IndexAny(l.text[i:], blanks+`"`)
			if end < 0 {
				end = len(l.text) - i
			}
			words = append(words, word{l.text[i : i+end], l.at(i), false})
			i += end
		}
	}
	return words
}

// brace finds the first brace outside double quotes, or -1. A reference to a definition that does not exist is text, not
// a brace: its place comes back as undefined, else -1.
func (l line) brace() (at, undefined int) {
	undefined = -1
	quoted := false
	for i := 0; i < len(l.text); i++ {
		switch c := l.text[i]; {
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '$':
			if n := referenceLen(l.text[i:]); n > 0 {
				if undefined < 0 {
					undefined = i
				}
				i += n - 1
			}
		case c == '{' || c == '}':
			return i, undefined
		}
	}
	return -1, undefined
}

// referenceLen gives the length of a ${NAME…} at the start of s, or 0.
func referenceLen(s string) int {
	if !strings.HasPrefix(s, "${") {
		return 0
	}
	n := 2 + nameLen(s[2:])
	if n == 2 {
		return 0
	}
	end := strings.IndexByte(s, '}')
	if end < 0 || end > n && s[n] != ' ' || strings.IndexByte(s[n:end], '{') >= 0 {
		return 0
	}
	return end + 1
}

// nameLen gives the length of the definition's name at the start of s: a letter or _, then letters, digits or _.
func nameLen(s string) int {
	for i := range len(s) {
		switch c := s[i]; {
		case c == '_', 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', i > 0 && '0' <= c && c <= '9':
		default:
			return i
		}
	}
	return len(s)
}
