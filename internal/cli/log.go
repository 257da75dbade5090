package cli

import (
	"io"
	"log/slog"

	ufcli "github.com/urfave/cli/v2"
)

// LogFlags are --log-level and --log-format.
func LogFlags() []ufcli.Flag {
	return []ufcli.Flag{
		&ufcli.StringFlag{Name: "log-level", Value: "info", Usage: "least `LEVEL` to log: debug, info, warn or error"},
		&ufcli.StringFlag{Name: "log-format", Value: "text", Usage: "`FORMAT` of log lines: text or json"},
	}
}

// NewLogger makes the logger that level (debug, info, warn, error) and format (text, json) ask for; other words are usage
// errors. A Background must not have been written to.
func NewLogger(w io.Writer, level, format string) (*slog.Logger, error) {
	var l slog.Level
	switch level {
	case "debug":
		l = slog.LevelDebug
	case "info":
		l = slog.LevelInfo
	case "warn":
		l = slog.LevelWarn
	case "error":
		l = slog.LevelError
	default:
		return nil, Usagef("--log-level: want debug, info, warn or error (got %q)", level)
	}
	opts := &slog.HandlerOptions{Level: l}
	var handler func(io.Writer) slog.Handler
	switch format {
	case "text":
		handler = func(w io.Writer) slog.Handler { return slog.NewTextHandler(w, opts) }
	case "json":
		handler = func(w io.Writer) slog.Handler { return slog.NewJSONHandler(w, opts) }
	default:
		return nil, Usagef("--log-format: want text or json (got %q)", format)
	}
	if b, ok := w.(*Background); ok {
		b.tell = slog.New(handler(b.w))
	}
	return slog.New(handler(w)), nil
}

// Logger makes the logger that the flags of LogFlags ask for.
func Logger(c *ufcli.Context, w io.Writer) (*slog.Logger, error) {
	return NewLogger(w, String(c, "log-level"), String(c, "log-format"))
}
