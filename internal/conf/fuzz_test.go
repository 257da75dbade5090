package conf

import (
	"encoding/json"
	"os"
	"testing"
)

func seeds(f *testing.F) {
	for _, file := range corpus(f) {
		text, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	for _, text := range []string{
		"$A=$A\n$A", "$A= \\\n$A\n$A", "~SEQ(i,1,99999999) ~SEQ(j,99999999) $i", "~SEQx(i,0x7fffffff) $i", "~LST({a,b},{1},{2}) $a$b",
		"@n1 @n1 @n1 {", "${", "${_RANDOM 1 2}", "$_ENV", "include f", "include {a,{b,c}}*[!x]", "\"", "{}{}{{{}", "a\x00b", "\\# \\! #",
		"notify 'a\nnotify \"a \\x\"", "global_defs {\ninclude_check -x +y read\n}\n", "vrrp_instance\n", "quorum {",
	} {
		f.Add([]byte(text))
	}
}

func fuzzOptions(text []byte) Options {
	opts := memory{"f": string(text), "a": "include f\n", "b": "$B=1\n"}.options()
	opts.MaxLines = 2000
	return opts
}

// FuzzLex: every input ends, in bounded time, with lines that are no longer than the limit.
func FuzzLex(f *testing.F) {
	seeds(f)
	f.Fuzz(func(t *testing.T, text []byte) {
		diags := newCollector()
		r := newReader(fuzzOptions(text), diags)
		r.openFile("f", func(string) {}, func(string) {})
		for range 200_000 {
			tok, ok := r.next()
			if !ok {
				return
			}
			if len(tok.line.text) > maxLineLen {
				t.Fatalf("line of %d bytes", len(tok.line.text))
			}
			for _, w := range tok.line.split() {
				if w.pos.Line < 0 || w.pos.Col < 0 {
					t.Fatalf("word at %v", w.pos)
				}
			}
		}
		t.Fatal("does not end")
	})
}

// FuzzLoad: every input gives a Config that can be printed, and what is not Fatal holds what the types promise.
func FuzzLoad(f *testing.F) {
	seeds(f)
	f.Fuzz(func(t *testing.T, text []byte) {
		c, diags := Load("f", fuzzOptions(text))
		for _, d := range diags {
			if d.Message == "" || d.File == "" {
				t.Errorf("empty finding %#v", d)
			}
			if d.Severity == Error && c.Extended {
				t.Errorf("error in a file of ours is not fatal: %s", d)
			}
		}
		if out, err := json.Marshal(c); err != nil || !json.Valid(out) {
			t.Errorf("JSON: %v", err)
		}
		for _, i := range c.Instances {
			if !i.Equal(&i) || !i.SameVirtualRouter(&i) {
				t.Error("an instance is not equal to itself")
			}
			if i.Priority == 0 || i.AdvertInterval <= 0 || i.Version != 2 && i.Version != 3 || i.IPv6 && i.Version != 3 ||
				i.DownTimerAdverts < 1 || len(i.Addresses) > maxAddresses || len(i.Password) > 8 || !i.Group.IsMulticast() {
				t.Errorf("got %+v", i)
			}
			if ExitCode(diags, false) != ExitCannot && (i.VRID == 0 || i.Interface == "" || i.Name == "") {
				t.Errorf("got %+v without a fatal finding", i)
			}
			for _, a := range i.Addresses {
				if a.Prefix.Addr().Is6() != i.IPv6 {
					t.Errorf("got %v in an instance of the other family", a.Prefix)
				}
			}
		}
	})
}
