package postgres

import (
	"bytes"
	"testing"
)

func FuzzParseControl(f *testing.F) {
	f.Add(bytes.Repeat([]byte{0}, 8192))
	f.Add([]byte("short"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if c, err := parseControl(b); err == nil && (c.State == "" || c.WALLevel == "") {
			t.Errorf("accepted, but got %+v", c)
		}
	})
}

func FuzzParseHistory(f *testing.F) {
	f.Add([]byte("1\t0/3000060\tno recovery target specified\n\n2\t0/40000A0\tx\n"))
	f.Add([]byte("# only a comment"))
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := ParseHistory(bytes.NewReader(b))
		if err != nil {
			return
		}
		for i, e := range h {
			if e.Timeline == 0 || i > 0 && h[i-1].Timeline >= e.Timeline {
				t.Errorf("accepted, but got %+v", h)
			}
		}
	})
}

func FuzzParseConfLine(f *testing.F) {
	f.Add("primary_conninfo = 'host=a user=''r''' # c")
	f.Add(`x 'a\'b\\c\101'`)
	f.Fuzz(func(t *testing.T, line string) {
		name, value, err := parseConfLine(line)
		if err != nil || name == "" {
			return
		}
		q, err := quoteConf(value)
		if err != nil {
			return
		}
		n, v, err := parseConfLine(name + " = " + q)
		if n != name || v != value || err != nil {
			t.Errorf("%q: got %q, %q, %v, want %q, %q", line, n, v, err, name, value)
		}
	})
}

func FuzzParsePIDFile(f *testing.F) {
	f.Add([]byte("4711\n/data\n1700000000\n5433\n/tmp\nlocalhost\n  5433001     65538\nready   \n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if p, err := parsePIDFile(b); err == nil && p.pid == 0 {
			t.Errorf("accepted, but got %+v", p)
		}
	})
}
