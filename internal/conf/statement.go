package conf

import (
	"fmt"
	"math"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

// statement is one logical line as its words: a keyword and what follows, or a line of values.
type statement struct {
	p     *parser
	line  line
	words []word
}

func (s *statement) name() string { return s.words[0].text }

// args is how many words follow the keyword.
func (s *statement) args() int { return len(s.words) - 1 }

// arg gives the word number i after the keyword; past the end it is empty, at the end of the line.
func (s *statement) arg(i int) word {
	if i+1 < len(s.words) {
		return s.words[i+1]
	}
	return word{pos: s.line.at(len(s.line.text))}
}

func (s *statement) text(i int) string { return s.arg(i).text }

// origin is where a statement stood, for findings that need the whole file.
type origin struct {
	Pos
	via, keyword string
}

func (s *statement) origin() origin { return origin{s.words[0].pos, s.line.via, s.name()} }

// report adds a finding about this statement, at one of its words.
func (s *statement) report(sev Severity, w word, format string, args ...any) {
	s.p.report(sev, origin{w.pos, s.line.via, s.name()}, w.text, format, args...)
}

// bad is the usual finding: the word w is not what was expected.
func (s *statement) bad(w word, format string, args ...any) { s.report(Error, w, format, args...) }

// number reads a whole number from min to max. What follows the digits is an error, but they count, as keepalived has it.
// If there is no usable number it says what happens instead (instead may be "") and gives false.
func (s *statement) number(w word, low, high int64, instead string) (int64, bool) {
	expected := fmt.Sprintf("expected a whole number from %d to %d", low, high)
	if instead != "" {
		instead = "; " + instead
	}
	sign, digits := "", w.text
	if strings.HasPrefix(digits, "-") || strings.HasPrefix(digits, "+") {
		sign, digits = digits[:1], digits[1:]
	}
	end := 0
	for end < len(digits) && '0' <= digits[end] && digits[end] <= '9' {
		end++
	}
	if end == 0 || digits[:end] == "0" && strings.HasPrefix(strings.ToLower(digits[end:]), "x") {
		s.bad(w, "not a number, %s%s", expected, instead)
		return 0, false
	}
	v, err := strconv.ParseInt(sign+digits[:end], 10, 64)
	if err != nil || v < low || v > high {
		s.bad(w, "out of range, %s%s", expected, instead)
		return 0, false
	}
	if end < len(digits) {
		s.bad(w, "text after the number, %s; using %d", expected, v)
	}
	return v, true
}

// clamped reads a whole number that, outside its range, is taken to the nearest end with an error.
func (s *statement) clamped(w word, low, high int64, instead string) (int64, bool) {
	v, err := strconv.ParseInt(w.text, 10, 64)
	if err == nil && (v < low || v > high) {
		near := min(max(v, low), high)
		s.bad(w, "out of range, expected a whole number from %d to %d; using %d", low, high, near)
		return near, true
	}
	return s.number(w, low, high, instead)
}

// seconds reads a decimal number of seconds, exact to the microsecond.
func (s *statement) seconds(w word, low, high time.Duration, instead string) (time.Duration, bool) {
	expected := fmt.Sprintf("expected %s to %s seconds", secondsText(low), secondsText(high))
	if instead != "" {
		instead = "; " + instead
	}
	text := strings.TrimPrefix(w.text, "+")
	if n, negative := strings.CutPrefix(text, "-"); negative && isDecimal(n) {
		s.bad(w, "out of range, %s%s", expected, instead)
		return 0, false
	}
	if !isDecimal(text) {
		s.bad(w, "not a number, %s%s", expected, instead)
		return 0, false
	}
	v, err := strconv.ParseFloat(text, 64)
	if err != nil || v > high.Seconds()+1 {
		s.bad(w, "out of range, %s%s", expected, instead)
		return 0, false
	}
	d := time.Duration(math.Round(v*1e6)) * time.Microsecond
	if d < low || d > high {
		s.bad(w, "out of range, %s%s", expected, instead)
		return 0, false
	}
	if _, fraction, _ := strings.Cut(text, "."); len(fraction) > 6 {
		s.bad(w, "more than 6 decimals, %s; using %s", expected, secondsText(d))
	}
	return d, true
}

// isDecimal says whether s is digits with at most one point among them.
func isDecimal(s string) bool {
	whole, fraction, _ := strings.Cut(s, ".")
	all := whole + fraction
	return all != "" && strings.Trim(all, "0123456789") == ""
}

func secondsText(d time.Duration) string { return strconv.FormatFloat(d.Seconds(), 'f', -1, 64) }

// boolean reads true on yes or false off no; without a word it is true.
func (s *statement) boolean(i int) (value, ok bool) {
	if i >= s.args() {
		return true, true
	}
	switch w := s.arg(i); w.text {
	case "true", "on", "yes":
		return true, true
	case "false", "off", "no":
		return false, true
	default:
		s.bad(w, "not a boolean, expected true, on, yes, false, off or no; ignored")
		return false, false
	}
}

// address reads an IP address without a zone.
func (s *statement) address(w word, instead string) (netip.Addr, bool) {
	a, err := netip.ParseAddr(w.text)
	if err != nil || a.Zone() != "" {
		s.bad(w, "malformed address, expected an IPv4 or IPv6 address; %s", instead)
		return netip.Addr{}, false
	}
	return a, true
}

// interfaceName reads the name of an interface.
func (s *statement) interfaceName(w word, instead string) (string, bool) {
	switch {
	case len(w.text) == 0 || len(w.text) > 15:
		s.bad(w, "invalid interface name, expected 1 to 15 characters; %s", instead)
		return "", false
	case w.text == "." || w.text == ".." || strings.ContainsAny(w.text, "/:"+blanks):
		s.bad(w, "invalid interface name, expected no blank, / or :; %s", instead)
		return "", false
	}
	return w.text, true
}

// surplus reports words that keepalived ignores without a sound.
func (s *statement) surplus(from int) {
	if from < s.args() {
		s.report(Lint, s.arg(from), "surplus word is ignored, expected the end of the line")
	}
}
