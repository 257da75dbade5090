package conf

import (
	"strconv"
	"strings"
	"time"
)

// scriptDraft is a vrrp_script on its way.
type scriptDraft struct {
	Script
	at    origin
	given bool // the keyword script stood there
	used  bool
}

func scriptKeywords() [][]keyword[scriptDraft] {
	// interval and timeout: 0 is taken as 1 s.
	interval := func(set func(d *scriptDraft, v time.Duration)) func(s *statement, d *scriptDraft) {
		return func(s *statement, d *scriptDraft) {
			w := s.arg(0)
			if strings.Trim(w.text, "0.") == "" && strings.Contains(w.text, "0") {
				s.bad(w, "out of range, expected 0.001 to 4294 seconds; using 1")
				set(d, time.Second)
				return
			}
			if v, ok := s.seconds(w, time.Millisecond, 4294*time.Second, "ignored"); ok {
				set(d, v)
			}
		}
	}
	count := func(set func(d *scriptDraft, v int)) func(s *statement, d *scriptDraft) {
		return func(s *statement, d *scriptDraft) {
			v, ok := s.number(s.arg(0), 1, 1<<31-1, "using 1")
			if !ok {
				v = 1
			}
			set(d, int(v))
		}
	}
	return [][]keyword[scriptDraft]{{
		{name: "script", max: -1, set: func(s *statement, d *scriptDraft) {
			d.given = true
			before := d.Command.User
			d.Command = s.command("what tracks the script counts as failed")
			if d.Command.User == (User{}) {
				d.Command.User = before
			}
		}},
		{name: "interval", need: 1, max: 1, set: interval(func(d *scriptDraft, v time.Duration) { d.Interval = v })},
		{name: "timeout", need: 1, max: 1, set: interval(func(d *scriptDraft, v time.Duration) { d.Timeout = v })},
		{name: "weight", need: 1, max: 2, set: func(s *statement, d *scriptDraft) {
			if v, ok := s.number(s.arg(0), -253, 253, "ignored"); ok {
				d.Weight = int(v)
			}
			switch w := s.arg(1); w.text {
			case "":
			case "reverse":
				d.Reverse = true
			default:
				s.bad(w, "unknown option, expected reverse or nothing; ignored")
			}
		}},
		{name: "rise", need: 1, max: 1, set: count(func(d *scriptDraft, v int) { d.Rise = v })},
		{name: "fall", need: 1, max: 1, set: count(func(d *scriptDraft, v int) { d.Fall = v })},
		{name: "user", need: 1, max: 2, set: func(s *statement, d *scriptDraft) {
			if s.text(0) == "" {
				s.bad(s.arg(0), "empty user, expected USER [GROUP]; ignored")
				return
			}
			d.Command.User = User{Name: s.text(0), Group: s.text(1)}
		}},
		{name: "init_fail", max: 0, set: plain(func(d *scriptDraft) { d.InitFail = true })},
	}}
}

// beginScript parses a vrrp_script block.
func beginScript(s *statement, p *parser) {
	d := &scriptDraft{at: s.origin(), Script: Script{Pos: s.words[0].pos, Name: s.text(0), Interval: time.Second, Rise: 1, Fall: 1}}
	if other := p.scriptNames[d.Name]; other != nil {
		s.bad(s.arg(0), "vrrp_script of this name exists already (at %s), expected a name of its own; this one is ignored", other.At())
		p.skipBlock()
		return
	}
	parseBlock(p, s, p.script, d)
	if len(d.Command.Argv) == 0 {
		if !d.given {
			s.bad(s.arg(0), "no script in this vrrp_script, expected the keyword script; what tracks it counts as failed")
		}
		return
	}
	if d.Timeout == 0 {
		d.Timeout = d.Interval
	}
	if d.Timeout > d.Interval {
		p.report(Lint, d.at, d.Name, "timeout (%s s) is greater than interval (%s s): a hung run delays the next",
			secondsText(d.Timeout), secondsText(d.Interval))
	}
	p.scripts = append(p.scripts, d)
	p.scriptNames[d.Name] = d
}

// command reads a program to run: COMMAND [USER [GROUP]]. The line's own text is read again, because here single quotes
// count too: the first word is the whole command line, to be split a second time.
func (s *statement) command(instead string) Command {
	cmd := Command{Pos: s.words[0].pos}
	skip := len(s.words[0].text)
	if s.words[0].quoted {
		skip += 2
	}
	rest := s.line.slice(min(skip, len(s.line.text)), len(s.line.text)).trim()
	words, ok := group(rest.text)
	if !ok {
		s.bad(word{text: rest.text, pos: rest.pos}, "unterminated quote, expected COMMAND [USER [GROUP]]; %s", instead)
		return cmd
	}
	pos := func(i int) Pos { return rest.at(words[i].at) }
	if len(words) == 0 {
		s.bad(word{pos: cmd.Pos}, "command is missing, expected COMMAND [USER [GROUP]]; %s", instead)
		return cmd
	}
	argv, problem := splitCommand(words[0].text)
	if problem != "" {
		s.bad(word{text: words[0].text, pos: pos(0)}, "%s; %s", problem, instead)
		return cmd
	}
	cmd.Argv = argv
	if len(words) > 1 {
		cmd.User.Name = words[1].text
		if !words[0].quoted {
			what := "user"
			if len(words) > 2 {
				what = "user, the next as the group"
			}
			s.report(Lint, word{text: words[1].text, pos: pos(1)},
				"word after an unquoted command is taken as the %s, expected quotes around the command and its arguments", what)
		}
	}
	if len(words) > 2 {
		cmd.User.Group = words[2].text
	}
	if len(words) > 3 {
		s.report(Lint, word{text: words[3].text, pos: pos(3)}, "surplus word is ignored, expected COMMAND [USER [GROUP]]")
	}
	return cmd
}

// scriptWord is one word of a script's line.
type scriptWord struct {
	text   string
	at     int // where it begins
	quoted bool
}

// group is the first reading of a script's line: words in which '…' and "…" hold text together; a backslash is plain.
func group(text string) (words []scriptWord, ok bool) {
	for i := 0; i < len(text); {
		if strings.IndexByte(blanks, text[i]) >= 0 {
			i++
			continue
		}
		w := scriptWord{at: i}
		for i < len(text) && strings.IndexByte(blanks, text[i]) < 0 {
			if q := text[i]; q == '"' || q == '\'' {
				end := strings.IndexByte(text[i+1:], q)
				if end < 0 {
					return nil, false
				}
				w.text += text[i+1 : i+1+end]
				w.quoted = true
				i += end + 2
				continue
			}
			w.text += text[i : i+1]
			i++
		}
		words = append(words, w)
	}
	return words, true
}

// splitCommand is the second reading: the command line becomes argv, with both kinds of quotes and with escapes.
func splitCommand(text string) (argv []string, problem string) {
	var w strings.Builder
	in := false // within a word
	var quote byte
	for i := 0; i < len(text); i++ {
		c := text[i]
		switch {
		case c == '\\':
			if i+1 == len(text) {
				return nil, "backslash at the end of the command, expected a character after it"
			}
			n, value := unescape(text[i+1:])
			w.WriteByte(value)
			in = true
			i += n
		case quote != 0:
			if c == quote {
				quote = 0
			} else {
				w.WriteByte(c)
			}
		case c == '"' || c == '\'':
			quote = c
			in = true
		case strings.IndexByte(blanks, c) >= 0:
			if in {
				argv = append(argv, w.String())
				w.Reset()
				in = false
			}
		default:
			w.WriteByte(c)
			in = true
		}
	}
	if in {
		argv = append(argv, w.String())
	}
	switch {
	case quote != 0:
		return nil, "unterminated quote in the command, expected a second " + string(quote)
	case len(argv) == 0 || argv[0] == "":
		return nil, "empty command, expected a program and its arguments"
	}
	for _, a := range argv {
		if strings.IndexByte(a, 0) >= 0 {
			return nil, "NUL character in the command, expected text"
		}
	}
	return argv, ""
}

// unescape gives what a backslash and the start of s stand for, and how many bytes of s that takes.
func unescape(s string) (n int, value byte) {
	switch c := s[0]; c {
	case 'a':
		return 1, '\a'
	case 'b':
		return 1, '\b'
	case 'E':
		return 1, 0x1b
	case 'f':
		return 1, '\f'
	case 'n':
		return 1, '\n'
	case 'r':
		return 1, '\r'
	case 't':
		return 1, '\t'
	case 'v':
		return 1, '\v'
	case 'c':
		if len(s) > 1 {
			return 2, s[1] & 0x1f
		}
	case 'x':
		end := 1
		for end < len(s) && end < 3 && strings.IndexByte("0123456789abcdefABCDEF", s[end]) >= 0 {
			end++
		}
		if v, err := strconv.ParseUint(s[1:end], 16, 8); err == nil {
			return end, byte(v)
		}
	case '0', '1', '2', '3', '4', '5', '6', '7':
		end := 1
		for end < len(s) && end < 3 && '0' <= s[end] && s[end] <= '7' {
			end++
		}
		v, _ := strconv.ParseUint(s[:end], 8, 16)
		return end, byte(v)
	}
	return 1, s[0]
}
