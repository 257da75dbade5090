package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	ufcli "github.com/urfave/cli/v2"
)

func globals() []ufcli.Flag {
	return append([]ufcli.Flag{&ufcli.StringFlag{Name: "config", Aliases: []string{"c"}, Value: "/etc/x", Usage: "read `FILE`"}}, LogFlags()...)
}

// testApp records what ran.
func testApp(ran *string) *ufcli.App {
	act := func(c *ufcli.Context) error {
		*ran = fmt.Sprintf("%s %s dry=%t config=%s", c.Command.Name, strings.Join(c.Args().Slice(), ","), c.Bool("dry-run"), String(c, "config"))
		return nil
	}
	dry := func() []ufcli.Flag {
		return []ufcli.Flag{&ufcli.BoolFlag{Name: "dry-run", Usage: "print what would be done"}, &ufcli.DurationFlag{Name: "for", Value: time.Second, Usage: "hold for `TIME`"}}
	}
	return Prepare(&ufcli.App{
		Name: "prog", Usage: "Does things.", Commands: []*ufcli.Command{
			{Name: "none", Usage: "Takes nothing.", Flags: dry(), Action: Args(act)},
			{Name: "one", Usage: "Takes one.", ArgsUsage: "NAME", Flags: dry(), Action: Args(act, "NAME")},
			{Name: "maybe", Usage: "Takes one or none.", ArgsUsage: "[NAME]", Flags: dry(), Action: Args(act, "[NAME]")},
			{Name: "many", Usage: "Takes one or more.", ArgsUsage: "NAME [NAME…]", Flags: dry(), Action: Args(act, "NAME", "[NAME…]")},
			{Name: "fail", Usage: "Fails.", Action: Args(func(*ufcli.Context) error { return errors.New("disk on fire") })},
			{Name: "five", Usage: "Exits with 5.", Action: Args(func(*ufcli.Context) error { return Exit(5, nil) })},
			{Name: "group", Usage: "Has verbs.", Subcommands: []*ufcli.Command{{Name: "sub", Usage: "Is one.", Action: Args(act)}}},
		},
	}, globals)
}

func TestArguments(t *testing.T) {
	tests := []struct {
		name, args string
		code       int
		ran        string
		stderr     string
	}{
		{"no verb", "", 2, "", "prog: no verb given; see prog --help\n"},
		{"unknown verb", "nonsense", 2, "", "prog: unknown verb \"nonsense\"; see prog --help\n"},
		{"unknown verb of a group", "group nonsense", 2, "", "prog group: unknown verb \"nonsense\"; see prog --help\n"},
		{"verb of a group", "group sub", 0, "sub  dry=false config=/etc/x", ""},
		{"none", "none", 0, "none  dry=false config=/etc/x", ""},
		{"surplus where none is wanted", "none a", 2, "", "prog none: takes no arguments (got \"a\")\n"},
		{"flag before the word", "one --dry-run a", 0, "one a dry=true config=/etc/x", ""},
		{"flag after the word", "one a --dry-run", 2, "", "prog one: \"--dry-run\" after the arguments began: flags stand before the words\n"},
		{"dash after a double dash", "one -- -a", 2, "", "prog one: \"-a\" after the arguments began: flags stand before the words\n"},
		{"missing word", "one", 2, "", "prog one: NAME is missing, wants NAME\n"},
		{"surplus word", "one a b", 2, "", "prog one: surplus argument \"b\", wants only NAME\n"},
		{"optional word left out", "maybe", 0, "maybe  dry=false config=/etc/x", ""},
		{"optional word", "maybe a", 0, "maybe a dry=false config=/etc/x", ""},
		{"many words", "many a b c", 0, "many a,b,c dry=false config=/etc/x", ""},
		{"one of many", "many a", 0, "many a dry=false config=/etc/x", ""},
		{"none of many", "many", 2, "", "prog many: NAME is missing, wants NAME [NAME…]\n"},
		{"flag after many words", "many a b --dry-run", 2, "", "prog many: \"--dry-run\" after the arguments began: flags stand before the words\n"},
		{"unknown flag", "none --nonsense", 2, "", "prog none: provided but not defined: -nonsense\n"},
		{"unknown flag of the program", "--nonsense none", 2, "", "prog: provided but not defined: -nonsense\n"},
		{"flag without its value", "none --for", 2, "", "prog none: needs an argument: -for\n"},
		{"time without unit", "none --for 30", 2, "", "prog none: invalid value \"30\" for flag -for: parse error\n"},
		{"global flag before the verb", "-c /a none", 0, "none  dry=false config=/a", ""},
		{"global flag after the verb", "none -c /b", 0, "none  dry=false config=/b", ""},
		{"global flag twice, the later wins", "-c /a none --config /b", 0, "none  dry=false config=/b", ""},
		{"global flag before a group", "-c /a group sub", 0, "sub  dry=false config=/a", ""},
		{"failure", "fail", 1, "", "prog: disk on fire\n"},
		{"own exit code, nothing more to say", "five", 5, "", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var ran string
			var out, errs bytes.Buffer
			code := Run(t.Context(), testApp(&ran), append([]string{"prog"}, strings.Fields(tt.args)...), &out, &errs)
			got := fmt.Sprintf("%d %q %q", code, ran, errs.String())
			want := fmt.Sprintf("%d %q %q", tt.code, tt.ran, tt.stderr)
			if got != want {
				t.Errorf("got  %s\nwant %s\nstdout %s", got, want, out.String())
			}
		})
	}
}

func TestHelp(t *testing.T) {
	tests := []struct{ name, args, want string }{
		{"program", "--help", `Does things.

Usage:
   prog [FLAGS] VERB [FLAGS] [ARGUMENTS]

Verbs:
   none   Takes nothing.
   one    Takes one.
   maybe  Takes one or none.
   many   Takes one or more.
   fail   Fails.
   five   Exits with 5.
   group  Has verbs.

Flags, before or after the verb:
   --config FILE, -c FILE  read FILE (default: "/etc/x")
   --log-level LEVEL       least LEVEL to log: debug, info, warn or error (default: "info")
   --log-format FORMAT     FORMAT of log lines: text or json (default: "text")
   --help, -h              show help
`},
		{"verb", "one --help", `Takes one.

Usage:
   prog one [FLAGS] NAME

Flags:
   --dry-run   print what would be done (default: false)
   --for TIME  hold for TIME (default: 1s)
   --help, -h  show help
`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var ran string
			var out bytes.Buffer
			if code := Run(t.Context(), testApp(&ran), append([]string{"prog"}, strings.Fields(tt.args)...), &out, io.Discard); code != 0 {
				t.Errorf("exit code %d", code)
			}
			if d := cmp.Diff(tt.want, out.String()); d != "" {
				t.Errorf("-want +got\n%s", d)
			}
		})
	}
}

func TestTable(t *testing.T) {
	var b strings.Builder
	err := Table(&b, []string{"NODE", "ROLE", "WHY"}, [][]string{{"n1", "primary"}, {"näme", "standby", "behind"}})
	want := "NODE  ROLE     WHY\nn1    primary\nnäme  standby  behind\n"
	if err != nil || b.String() != want {
		t.Errorf("got %q, %v, want %q", b.String(), err, want)
	}
}

func TestWatchRedrawsUntilTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 2500*time.Millisecond)
		defer cancel()
		n := 0
		var b bytes.Buffer
		err := Watch(ctx, &b, time.Second, func(_ context.Context, w io.Writer) error {
			n++
			_, err := fmt.Fprintf(w, "picture %d\n", n)
			return err
		})
		want := "picture 1\n\npicture 2\n\npicture 3\n"
		if err != nil || b.String() != want {
			t.Errorf("got %q, %v, want %q", b.String(), err, want)
		}
	})
}

func TestProgressIsRareWithoutATerminal(t *testing.T) {
	var b bytes.Buffer
	p := NewProgress(&b, "clone")
	now := time.Now()
	p.now = func() time.Time { return now }
	for i := range 25 {
		p.Set(int64(i)<<20, 25<<20)
		now = now.Add(time.Second)
	}
	p.Set(25<<20, 25<<20)
	p.Close()
	want := "clone: 0 B of 25.0 MiB, 0%\nclone: 10.0 MiB of 25.0 MiB, 40%\nclone: 20.0 MiB of 25.0 MiB, 80%\nclone: 25.0 MiB of 25.0 MiB, 100%\n"
	if b.String() != want {
		t.Errorf("got %q, want %q", b.String(), want)
	}
}

func TestParseSize(t *testing.T) {
	tests := []struct {
		in   string
		want int64
		ok   bool
	}{
		{"0", 0, true}, {"512", 512, true}, {"512B", 512, true}, {"16MB", 16 << 20, true}, {"16 MiB", 16 << 20, true}, {"8kB", 8 << 10, true}, {"1GB", 1 << 30, true},
		{"", 0, false}, {"MB", 0, false}, {"-1MB", 0, false}, {"1.5MB", 0, false}, {"16XB", 0, false}, {"99999999999TB", 0, false}, {"1 2", 0, false},
	}
	for _, tt := range tests {
		got, err := ParseSize(tt.in)
		if got != tt.want || (err == nil) != tt.ok {
			t.Errorf("ParseSize(%q) = %d, %v, want %d, ok %t", tt.in, got, err, tt.want, tt.ok)
		}
	}
	for n, want := range map[int64]string{0: "0 B", 1023: "1023 B", 1536: "1.5 KiB", 16 << 20: "16.0 MiB", -2048: "-2.0 KiB"} {
		if got := Size(n); got != want {
			t.Errorf("Size(%d) = %q, want %q", n, got, want)
		}
	}
}

func TestLogger(t *testing.T) {
	var b bytes.Buffer
	l, err := NewLogger(&b, "warn", "json")
	if err != nil {
		t.Fatal(err)
	}
	l.Info("hidden")
	l.Warn("shown", "reason", "x")
	if got := b.String(); strings.Contains(got, "hidden") || !strings.Contains(got, `"msg":"shown","reason":"x"`) {
		t.Errorf("got %q", got)
	}
	for _, bad := range [][2]string{{"loud", "text"}, {"info", "xml"}} {
		if _, err := NewLogger(&b, bad[0], bad[1]); Code(err) != CodeUsage {
			t.Errorf("%v: got %v, want a usage error", bad, err)
		}
	}
}
