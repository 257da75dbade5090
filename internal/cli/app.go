package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	ufcli "github.com/urfave/cli/v2"
)

const appHelp = `{{.Usage}}

Usage:
   {{.HelpName}} [FLAGS] VERB [FLAGS] [ARGUMENTS]

Verbs:{{$cv := offsetCommands .VisibleCommands 5}}{{range .VisibleCommands}}
   {{.Name}}{{$sp := subtract $cv (offset .Name 3)}}{{indent $sp ""}}{{wrap .Usage $cv}}{{end}}

Flags, before or after the verb:{{range .VisibleFlags}}
   {{wrap .String 6}}{{end}}
{{if .Description}}
{{.Description}}
{{end}}`

const commandHelp = `{{.Usage}}

Usage:
   {{.HelpName}}{{if .VisibleFlags}} [FLAGS]{{end}}{{if .ArgsUsage}} {{.ArgsUsage}}{{end}}
{{if .VisibleFlags}}
Flags:{{range .VisibleFlags}}
   {{wrap .String 6}}{{end}}
{{end}}{{if .Description}}
{{.Description}}
{{end}}`

const groupHelp = `{{.Usage}}

Usage:
   {{.HelpName}} VERB [FLAGS] [ARGUMENTS]

Verbs:{{$cv := offsetCommands .VisibleCommands 5}}{{range .VisibleCommands}}
   {{.Name}}{{$sp := subtract $cv (offset .Name 3)}}{{indent $sp ""}}{{wrap .Usage $cv}}{{end}}
`

// Prepare puts the house rules on app and all its commands: help that opens with one sentence, unknown verbs and wrong
// flags as usage errors, no os.Exit inside the library, and the flags that globals makes both before and after each verb
// (read them with String, Bool or Duration). Every command with an Action should have wrapped it in Args.
func Prepare(app *ufcli.App, globals func() []ufcli.Flag) *ufcli.App {
	app.CustomAppHelpTemplate = appHelp
	app.HideHelpCommand = true
	app.HideVersion = true
	app.OnUsageError = onUsageError
	app.ExitErrHandler = func(*ufcli.Context, error) {}
	app.Flags = append(app.Flags, globals()...)
	if app.Action == nil {
		app.Action = unknownVerb
	}
	prepareCommands(app.Commands, globals)
	return app
}

func prepareCommands(commands []*ufcli.Command, globals func() []ufcli.Flag) {
	for _, c := range commands {
		c.HideHelpCommand = true
		c.OnUsageError = onUsageError
		c.CustomHelpTemplate = commandHelp
		if len(c.Subcommands) > 0 {
			c.CustomHelpTemplate = groupHelp
			if c.Action == nil {
				c.Action = unknownVerb
			}
			prepareCommands(c.Subcommands, globals)
			continue
		}
		for _, f := range globals() {
			if taken(c.Flags, f) {
				continue
			}
			hide(f)
			c.Flags = append(c.Flags, f)
		}
	}
}

func taken(flags []ufcli.Flag, f ufcli.Flag) bool {
	for _, g := range flags {
		for _, n := range g.Names() {
			for _, m := range f.Names() {
				if n == m {
					return true
				}
			}
		}
	}
	return false
}

// hide keeps the global flags out of each verb's help: they stand in the program's.
func hide(f ufcli.Flag) {
	switch f := f.(type) {
	case *ufcli.StringFlag:
		f.Hidden = true
	case *ufcli.BoolFlag:
		f.Hidden = true
	case *ufcli.DurationFlag:
		f.Hidden = true
	case *ufcli.IntFlag:
		f.Hidden = true
	}
}

func onUsageError(c *ufcli.Context, err error, _ bool) error {
	return Usagef("%s: %s", name(c), strings.TrimPrefix(err.Error(), "flag "))
}

func name(c *ufcli.Context) string {
	if c.Command != nil && c.Command.HelpName != "" {
		return c.Command.HelpName
	}
	return c.App.HelpName
}

func unknownVerb(c *ufcli.Context) error {
	if c.NArg() == 0 {
		return Usagef("%s: no verb given; see %s --help", name(c), c.App.HelpName)
	}
	return Usagef("%s: unknown verb %q; see %s --help", name(c), c.Args().First(), c.App.HelpName)
}

// Args declares a command's arguments and makes everything else a usage error before action runs. Words name the
// arguments in order; one in brackets may be left out, and only such ones may follow it; one that ends in …] may be given often. A
// word on the command line that starts with "-" after the flags is always refused: flag parsing has ended there and would ignore it.
func Args(action ufcli.ActionFunc, words ...string) ufcli.ActionFunc {
	required, open := 0, len(words) > 0 && strings.HasSuffix(words[len(words)-1], "…]")
	for _, w := range words {
		if !strings.HasPrefix(w, "[") {
			required++
		}
	}
	return func(c *ufcli.Context) error {
		got := c.Args().Slice()
		for _, a := range got {
			if strings.HasPrefix(a, "-") {
				return Usagef("%s: %q after the arguments began: flags stand before the words", name(c), a)
			}
		}
		switch {
		case len(got) > len(words) && len(words) == 0:
			return Usagef("%s: takes no arguments (got %q)", name(c), got[0])
		case len(got) > len(words) && !open:
			return Usagef("%s: surplus argument %q, wants only %s", name(c), got[len(words)], strings.Join(words, " "))
		case len(got) < required:
			return Usagef("%s: %s is missing, wants %s", name(c), words[len(got)], strings.Join(words, " "))
		}
		return action(c)
	}
}

// String is the value of a flag that may stand before or after the verb; the place nearest to the verb's end wins.
func String(c *ufcli.Context, flag string) string {
	for _, ctx := range c.Lineage() {
		if ctx.Command != nil && ctx.IsSet(flag) {
			return ctx.String(flag)
		}
	}
	return c.String(flag)
}

// Bool is String for a switch.
func Bool(c *ufcli.Context, flag string) bool {
	for _, ctx := range c.Lineage() {
		if ctx.Command != nil && ctx.IsSet(flag) {
			return ctx.Bool(flag)
		}
	}
	return c.Bool(flag)
}

// Run runs the app and prints an error as "program: what went wrong" on stderr. It returns the exit code.
func Run(ctx context.Context, app *ufcli.App, args []string, stdout, stderr io.Writer) int {
	app.Writer, app.ErrWriter = stdout, stderr
	err := app.RunContext(ctx, args)
	var exit *ExitError
	if err != nil && (!errors.As(err, &exit) || exit.Err != nil) {
		message := err.Error()
		if !strings.HasPrefix(message, app.Name+" ") && !strings.HasPrefix(message, app.Name+":") {
			message = app.Name + ": " + message
		}
		fmt.Fprintln(stderr, message)
	}
	return Code(err)
}
