package conf

import (
	"slices"
	"strings"
	"testing"
)

// tokens gives the logical lines of the file f, words joined with |.
func tokens(opts Options) ([]string, []Diagnostic) {
	c := newCollector()
	r := newReader(opts, c)
	fail := func(message string) { c.add(Diagnostic{Pos: Pos{File: "f"}, Severity: Fatal, Message: message}) }
	r.openFile("f", fail, fail)
	var out []string
	for {
		tok, ok := r.next()
		if !ok {
			return out, c.sorted()
		}
		switch tok.kind {
		case openToken:
			out = append(out, "{")
		case closeToken:
			out = append(out, "}")
		default:
			var words []string
			for _, w := range tok.line.split() {
				words = append(words, w.text)
			}
			out = append(out, strings.Join(words, "|"))
		}
	}
}

func TestReader(t *testing.T) {
	tests := []struct {
		name, text string
		want       []string // lines
		diags      []string
	}{
		// 1. lines
		{name: "CRLF and no final newline", text: "a b\r\nc\r\n{\r\n}", want: []string{"a|b", "c", "{", "}"}},
		{name: "blank lines", text: "\n \t\n\na\n\n", want: []string{"a"}},
		{name: "separators", text: "a\tb\fc\vd", want: []string{"a|b|c|d"}},
		{name: "longest line", text: strings.Repeat("x", 1022) + "\nb", want: []string{strings.Repeat("x", 1022), "b"}},
		{name: "line too long", text: "a\n" + strings.Repeat("x", 1023) + "\nb", want: []string{"a", "b"},
			diags: []string{`error f:2:1: line is too long and ignored, expected at most 1022 bytes (got "1023 bytes")`}},
		{name: "NUL", text: "a\nb\x00c\nd", want: []string{"a", "d"}, diags: []string{"error f:2:1: line holds a NUL byte"}},
		{name: "other bytes", text: "a \xff\xfe", want: []string{"a|\xff\xfe"}},
		{name: "empty file", text: ""},

		// comments
		{name: "comments", text: "# x\n! y\na # b\nc ! d", want: []string{"a", "c"}},
		{name: "comment within a word", text: "auth_pass a#b", want: []string{"auth_pass|a"}},
		{name: "escaped comment signs", text: `a \#b c\!d \x`, want: []string{`a|#b|c!d|\x`}},
		{name: "no comment in double quotes", text: `a "x#y !z" #b`, want: []string{"a|x#y !z"}},
		{name: "escape in double quotes is plain", text: `a "x\#y"`, want: []string{`a|x\#y`}},
		{name: "single quotes do not protect", text: "a 'x#y'", want: []string{"a|'x"}},
		{name: "unterminated quote", text: "a \"b c\nd", want: []string{"a|b c", "d"},
			diags: []string{`error f:1:3: unterminated quote, expected a second " on the line (got "\"b c")`}},
		{name: "quote within a comment", text: `a # "`, want: []string{"a"}},

		// 11. words
		{name: "quotes begin a word", text: `abc"d e"f`, want: []string{"abc|d e|f"}},
		{name: "empty word", text: `a "" b`, want: []string{"a||b"}},
		{name: "no escape in quotes", text: `a "b\" c`, want: []string{`a|b\|c`}},

		// 10. braces
		{name: "braces on one line", text: "a { b } c", want: []string{"a", "{", "b", "}", "c"}},
		{name: "braces without blanks", text: "a{b}c", want: []string{"a", "{", "b", "}", "c"}},
		{name: "brace on the next line", text: "a\n{\nb\n}", want: []string{"a", "{", "b", "}"}},
		{name: "brace in quotes", text: `a "{ }"`, want: []string{"a|{ }"}},
		{name: "unknown definition is no brace", text: "a ${X} {", want: []string{"a|${X}", "{"},
			diags: []string{`error f:1:3: definition is not known, expected $X=VALUE before its use; left as it is (got "${X}")`}},
		{name: "unknown definition in quotes", text: `a "${X} $Y"`, want: []string{"a|${X} $Y"}},

		// 3. definitions
		{name: "definition", text: "$A=1\na $A b\na${A}b", want: []string{"a|1|b", "a1b"}},
		{name: "what may follow $NAME", text: "$A=1\n$A,$A)$A\n$A.b \"$A\" $A", want: []string{"1,1)1", "$A.b|$A|1"}},
		{name: "redefinition", text: "$A=1\n$A=2\na $A", want: []string{"a|2"}},
		{name: "blanks after =", text: "$A=  b  c  \n$A", want: []string{"b|c"}},
		{name: "empty value", text: "$A=\na${A}b", want: []string{"ab"}},
		{name: "late binding", text: "$A=1.${B}\n$B=2\n$A\n$B=3\n$A", want: []string{"1.2", "1.3"}},
		{name: "in quotes with braces", text: "$A=b c\nx \"${A}\"", want: []string{"x|b c"}},
		{name: "unknown name stays", text: "a $UNDEF b", want: []string{"a|$UNDEF|b"}},
		{name: "blank before =", text: "$A =1", want: []string{"$A|=1"}},
		{name: "name with a digit first", text: "$9=1\n$9", want: []string{"$9=1", "$9"}},
		{name: "comment out of a definition", text: "$A=\"#\"\na ${A}", want: []string{"a|#"}},
		{name: "comment sign out of a definition", text: "$A=\\#b\na ${A} c", want: []string{"a"}},
		{name: "several lines", text: "$A= \\\n b 1 \\\n c 2\n$A\nd", want: []string{"b|1", "c|2", "d"}},
		{name: "several lines with a first piece", text: "$A=b { \\\n c \\\n }\nx $A\nd", want: []string{"x|b", "{", "c", "}", "d"}},
		{name: "a blank line ends it", text: "$A=b \\\n\nc\n$A", want: []string{"c", "b"}},
		{name: "several lines, comment and condition", text: "$A= \\\n b # x \\\n c\n@n1 $A", want: []string{"c", "b"}},
		{name: "conditions within", text: "$A= \\\n @n1 b \\\n @n2 c \\\n @^n1 d\n$A", want: []string{"b"}},
		{name: "definitions within", text: "$A= \\\n $N=1 \\\n b $N \\\n $N=2 \\\n b $N\n$A", want: []string{"b|1", "b|2"}},
		{name: "nested several lines", text: "$A= \\\n a1 \\\n $B \\\n a2\n$B=b1 \\\n b2\n$A", want: []string{"a1", "b1", "b2", "a2"}},
		{name: "text after several lines", text: "$A=b \\\n c\nx ${A}y", want: []string{"x|b", "c"},
			diags: []string{`error f:3:7: text after a multi-line definition, expected the end of the line (got "y")`}},
		{name: "ends with the file", text: "$A=b \\\n c \\", want: nil},
		{name: "itself", text: "$A=x$A\na\n$A\nb", want: []string{"a", "b"}, diags: []string{"fatal f:3:1: definitions refer to each other without end"}},
		{name: "itself over several lines", text: "$A= \\\n b \\\n $A\n$A", want: slices.Repeat([]string{"b"}, 160),
			diags: []string{"fatal f:3:2: definitions or sequences within each other without end"}},
		{name: "too long with definitions", text: "$B=${C}${C}${C}${C}${C}${C}\n$C=" + strings.Repeat("x", 200) + "\na $B b",
			want:  []string{"a|" + strings.Repeat("${C}", 6) + "|b"},
			diags: []string{"error f:3:1: line is too long with its definitions", "error f:3:3: definition is not known"}},
		{name: "predefined", text: "a ${_INSTANCE} $_INSTANCE ${_RANDOM} ${_RANDOM 5} ${_RANDOM 5 9} ${_ENV SET}",
			want: []string{"a|n1|n1|32767|32767|9|value|of|SET"}},
		{name: "_HASH and _BANG", text: `a "${_HASH}x${_BANG}"`, want: []string{"a|#x!"}},
		{name: "predefined, overridden", text: "$_INSTANCE=x\na $_INSTANCE", want: []string{"a|x"}},
		{name: "_RANDOM with bad limits", text: "a \"${_RANDOM 9 5} ${_RANDOM x}\"", want: []string{"a|${_RANDOM 9 5} ${_RANDOM x}"}},
		{name: "_ENV not set", text: "a \"${_ENV NOT}\"", want: []string{"a|${_ENV NOT}"},
			diags: []string{`error f:1:1: environment variable is not set (got "NOT")`}},

		// 4. conditionals
		{name: "conditions", text: "@n1 a\n@n2 b\n@^n1 c\n@^n2 d\n@n a", want: []string{"a", "d"}},
		{name: "condition on a brace", text: "x @n1 y\n@n1 {\n@n1 }", want: []string{"x|@n1|y", "{", "}"}},
		{name: "condition on a definition", text: "@n1 $A=1\n@n2 $A=2\na $A", want: []string{"a|1"}},
		{name: "condition out of a definition", text: "$A=@n1\n$B=@n2\n$A a\n$B b", want: []string{"a"}},
		{name: "condition and nothing", text: "@n1\n@n2", diags: []string{
			`lint f:1:1: nothing after the condition, expected @id and the text that it applies to (got "@n1")`, "lint f:2:1"}},

		// 5. sequences
		{name: "SEQ of one number", text: "~SEQ(i,3) a$i", want: []string{"a1", "a2", "a3"}},
		{name: "SEQ of one negative number", text: "~SEQ(i,-2) a$i", want: []string{"a-1", "a-2"}},
		{name: "SEQ of zero", text: "~SEQ(i,0) a$i", want: []string{"a1", "a0"}},
		{name: "SEQ from and to", text: "~SEQ( i , 2 , 4 )a${i}b", want: []string{"a2b", "a3b", "a4b"}},
		{name: "SEQ downwards", text: "~SEQ(i,3,1) a $i", want: []string{"a|3", "a|2", "a|1"}},
		{name: "SEQ with a step", text: "~SEQ(i,1,5,12) a$i", want: []string{"a1", "a6", "a11"}},
		{name: "SEQ with a negative step", text: "~SEQ(i,8,-3,1) a$i", want: []string{"a8", "a5", "a2"}},
		{name: "SEQ in hexadecimal and octal", text: "~SEQ(i,0x8,010) a$i", want: []string{"a8"}},
		{name: "SEQx", text: "~SEQx(i,8,12) a$i", want: []string{"a8", "a9", "aa", "ab", "ac"}},
		{name: "SEQ with definitions", text: "$N=2\n~SEQ(i,1,$N) a$i\n~SEQ(i,${N},3) b$i", want: []string{"a1", "a2", "b2", "b3"}},
		{name: "SEQ within SEQ", text: "~SEQ(i,2) ~SEQ(j,3,4) a${i}.$j", want: []string{"a1.3", "a1.4", "a2.3", "a2.4"}},
		{name: "SEQ of several lines", text: "$A=a$i { \\\n b$i \\\n }\n~SEQ(i,2) $A", want: []string{"a1", "{", "b1", "}", "a2", "{", "b2", "}"}},
		{name: "SEQ of definitions and conditions", text: "~SEQ(i,2) $A=$i\na $A\n~SEQ(i,2) @n2 b", want: []string{"a|$i"}},
		{name: "SEQ variable ends with it", text: "$i=x\n~SEQ(i,1) a$i\na$i", want: []string{"a1", "ax"}},
		{name: "SEQ out of a definition", text: "$S=~SEQ(i,2) a$i\n$S", want: []string{"a1", "a2"}},
		{name: "LST", text: "~LST(i,a,b c, d) x$i", want: []string{"xa", "xb|c", "xd"}},
		{name: "LST of tuples", text: "~LST({i, j}, {a,1},{b, 2}) x${i}$j", want: []string{"xa1", "xb2"}},
		{name: "LST with a short tuple", text: "~LST({i,j},{a,1},{b}) x${i}$j", want: []string{"xa1", "xb"}},
		{name: "LST and SEQ", text: "~LST(i,a,b) ~SEQ(j,2) x${i}$j", want: []string{"xa1", "xa2", "xb1", "xb2"}},
		{name: "SEQ not at the start", text: "x ~SEQ(i,2) y", want: []string{"x|~SEQ(i,2)|y"}},
		{name: "SEQ without a number", text: "~SEQ(i) a", diags: []string{"error f:1:1: ~SEQ: wrong number of parameters, expected (variable, [start, [step,]] end)"}},
		{name: "SEQ with too many numbers", text: "~SEQ(i,1,2,3,4) a", diags: []string{"error f:1:1: ~SEQ: wrong number"}},
		{name: "SEQ of a word", text: "~SEQ(i,a,3) b", diags: []string{`error f:1:1: ~SEQ: invalid number "a"`}},
		{name: "SEQ with step 0", text: "~SEQ(i,1,0,3) b", diags: []string{"error f:1:1: ~SEQ: step is 0"}},
		{name: "SEQ the wrong way", text: "~SEQ(i,1,-1,3) b", diags: []string{"error f:1:1: ~SEQ: step leads away"}},
		{name: "SEQx of a negative number", text: "~SEQx(i,-1,3) b", diags: []string{"error f:1:1: ~SEQx: negative number"}},
		{name: "SEQ not closed", text: "~SEQ(i,1,3 b", diags: []string{"error f:1:1: ~SEQ: no closing parenthesis"}},
		{name: "SEQ of nothing", text: "~SEQ(i,1,3)", diags: []string{"error f:1:1: ~SEQ: nothing to repeat"}},
		{name: "SEQ with a bad variable", text: "~SEQ(1,3) a", diags: []string{"error f:1:1: ~SEQ: invalid variable name"}},
		{name: "LST without a value", text: "~LST(i) a", diags: []string{"error f:1:1: ~LST: no value"}},
		{name: "LST with a long tuple", text: "~LST({i},{a,b}) a", diags: []string{"error f:1:1: ~LST: more values than variables"}},
		{name: "LST not closed", text: "~LST({i,{a) b", diags: []string{"error f:1:1: ~LST: no closing }"}},
		{name: "LST with text between", text: "~LST({i}x,{a}) b", diags: []string{"error f:1:1: ~LST: text after }"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, diags := tokens(memory{"f": tt.text}.options())
			if tt.name == "itself over several lines" {
				if len(got) < 100 || len(diags) != 1 || diags[0].Severity != Fatal {
					t.Fatalf("got %d lines, %v", len(got), lines(diags))
				}
				return
			}
			if !slices.Equal(got, tt.want) {
				t.Errorf("got %q, want %q", got, tt.want)
			}
			wantDiags(t, diags, tt.diags...)
		})
	}
}

func TestReaderLimit(t *testing.T) {
	for _, text := range []string{
		"~SEQ(i,1,2000000000) a$i",
		"~SEQ(i,1,2000000000) @n2 a",
		"~SEQ(i,1,2000000000) $A=1",
		"~SEQ(i,1,99999) ~SEQ(j,1,99999) a",
		"$A= \\\n $B \\\n $B\n$B= \\\n $C \\\n $C\n$C=" + strings.Repeat("\\\n a ", 900) + "\n~SEQ(i,1000) $A",
	} {
		opts := memory{"f": text}.options()
		opts.MaxLines = 1000
		got, diags := tokens(opts)
		if len(got) > 1000 {
			t.Errorf("%q: got %d lines", text, len(got))
		}
		if last := diags[len(diags)-1]; last.Severity != Fatal || !strings.Contains(last.Message, "more than 1000 lines") {
			t.Errorf("%q: got %v", text, lines(diags))
		}
	}
}

// The columns that findings show must be those of an editor.
func TestColumns(t *testing.T) {
	tests := []struct {
		name, text, want string // the place of the first unknown keyword
	}{
		{"plain", "foobar", "f:1:1"},
		{"indented", "\n  foobar x", "f:2:3"},
		{"after a brace", "global_defs { foobar }", "f:1:15"},
		{"after an escape", `global_defs { } \#\# foobar`, "f:1:17"},
		{"after a condition", "@n1   foobar", "f:1:7"},
		{"after a substitution", "$A=}\nglobal_defs { ${A} foobar", "f:2:20"},
		{"from a substitution", "$A=foobar\nglobal_defs { ${A} }", "f:2:15"},
		{"in several lines", "$A= \\\n   foobar\n$A", "f:2:4"},
		{"in a sequence", "~SEQ(i,1)  foobar$i", "f:1:12"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, diags := load(tt.text)
			for _, d := range diags {
				if strings.Contains(d.Message, "unknown keyword") {
					if got := d.At(); got != tt.want {
						t.Errorf("got %s, want %s", got, tt.want)
					}
					return
				}
			}
			t.Errorf("got %v, want an unknown keyword", lines(diags))
		})
	}
}

func TestSplitCommand(t *testing.T) {
	tests := []struct {
		name, text string
		want       []string
		problem    string
	}{
		{"plain", "/bin/a b  c", []string{"/bin/a", "b", "c"}, ""},
		{"single quotes", "/bin/sh -c 'a b'", []string{"/bin/sh", "-c", "a b"}, ""},
		{"double quotes", `/bin/sh -c "a 'b'"`, []string{"/bin/sh", "-c", "a 'b'"}, ""},
		{"quotes within a word", `/bin/a b"c d"e`, []string{"/bin/a", "bc de"}, ""},
		{"empty argument", "/bin/a ''", []string{"/bin/a", ""}, ""},
		{"escapes", `/bin/a \a\b\E\f\n\r\t\v`, []string{"/bin/a", "\a\b\x1b\f\n\r\t\v"}, ""},
		{"numbers", `/bin/a \101\x42\x4\cA\7z\1234`, []string{"/bin/a", "AB\x04\x01\az\x534"}, ""},
		{"other escapes", `/bin/a \"b\ c\\ \xg \c`, []string{"/bin/a", `"b c\`, "xg", "c"}, ""},
		{"empty", " ", nil, "empty command, expected a program and its arguments"},
		{"empty program", "'' a", nil, "empty command, expected a program and its arguments"},
		{"open quote", "/bin/a 'b", nil, "unterminated quote in the command, expected a second '"},
		{"open escape", `/bin/a b\`, nil, "backslash at the end of the command, expected a character after it"},
		{"NUL", `/bin/a \0`, nil, "NUL character in the command, expected text"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, problem := splitCommand(tt.text)
			if !slices.Equal(got, tt.want) || problem != tt.problem {
				t.Errorf("got %q, %q, want %q, %q", got, problem, tt.want, tt.problem)
			}
		})
	}
}

func TestExpandBraces(t *testing.T) {
	tests := []struct {
		text string
		want []string
	}{
		{"a", []string{"a"}},
		{"a{b,c}d", []string{"abd", "acd"}},
		{"{foo/{,cat,dog},bar}", []string{"foo/", "foo/cat", "foo/dog", "bar"}},
		{"{a,b}{1,2}", []string{"a1", "a2", "b1", "b2"}},
		{"a{b", nil},
		{strings.Repeat("{a,b}", 20), nil},
	}
	for _, tt := range tests {
		got, ok := expandBraces(tt.text)
		if !slices.Equal(got, tt.want) || ok != (tt.want != nil) {
			t.Errorf("%s: got %q, %v, want %q", tt.text, got, ok, tt.want)
		}
	}
}
