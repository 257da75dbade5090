package raftlog

import (
	"context"
	"fmt"
	"io"
	"log"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
)

// Logger has raft's lines go to lg. What raft calls an error is a peer that can't be reached, as a rule: it is a warning
// here, its warnings are information, and the rest is for debugging. The same line comes at most once in ten seconds;
// what is left out is for debugging too.
func Logger(lg *slog.Logger) hclog.Logger {
	return &hclogger{log: lg.With("component", "raft"), quiet: &quiet{last: map[string]time.Time{}}}
}

const quietTime = 10 * time.Second

type quiet struct {
	mu   sync.Mutex
	last map[string]time.Time
}

func (q *quiet) allow(line string) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	now := time.Now()
	if at, ok := q.last[line]; ok && now.Sub(at) < quietTime {
		return false
	}
	if len(q.last) >= 256 {
		clear(q.last)
	}
	q.last[line] = now
	return true
}

type hclogger struct {
	log   *slog.Logger
	quiet *quiet
	name  string
	args  []any
}

var _ hclog.Logger = (*hclogger)(nil)

func (h *hclogger) Log(level hclog.Level, msg string, args ...any) {
	to := slog.LevelDebug
	switch {
	case level >= hclog.Error:
		to = slog.LevelWarn
	case level == hclog.Warn:
		to = slog.LevelInfo
	}
	ctx := context.Background()
	if !h.log.Enabled(ctx, slog.LevelDebug) && to == slog.LevelDebug {
		return
	}
	shown := make([]any, len(args))
	who := ""
	for k, a := range args {
		if f, ok := a.(hclog.Format); ok && len(f) > 0 {
			a = fmt.Sprintf(fmt.Sprint(f[0]), f[1:]...)
		}
		if err, ok := a.(error); ok {
			a = err.Error()
		}
		shown[k] = a
		if k > 0 && (args[k-1] == "peer" || args[k-1] == "target" || args[k-1] == "server-id" || args[k-1] == "from") {
			who = fmt.Sprint(a)
		}
	}
	if to != slog.LevelDebug && !h.quiet.allow(msg+" "+who) {
		to = slog.LevelDebug
	}
	h.log.Log(ctx, to, msg, shown...)
}

func (h *hclogger) Trace(msg string, args ...any) { h.Log(hclog.Trace, msg, args...) }
func (h *hclogger) Debug(msg string, args ...any) { h.Log(hclog.Debug, msg, args...) }
func (h *hclogger) Info(msg string, args ...any)  { h.Log(hclog.Info, msg, args...) }
func (h *hclogger) Warn(msg string, args ...any)  { h.Log(hclog.Warn, msg, args...) }
func (h *hclogger) Error(msg string, args ...any) { h.Log(hclog.Error, msg, args...) }

func (h *hclogger) IsTrace() bool { return false }
func (h *hclogger) IsDebug() bool { return h.log.Enabled(context.Background(), slog.LevelDebug) }
func (h *hclogger) IsInfo() bool  { return h.IsDebug() }
func (h *hclogger) IsWarn() bool  { return h.log.Enabled(context.Background(), slog.LevelInfo) }
func (h *hclogger) IsError() bool { return h.log.Enabled(context.Background(), slog.LevelWarn) }

func (h *hclogger) ImpliedArgs() []any { return h.args }
func (h *hclogger) Name() string       { return h.name }

func (h *hclogger) With(args ...any) hclog.Logger {
	c := *h
	c.log, c.args = h.log.With(args...), append(append([]any{}, h.args...), args...)
	return &c
}

func (h *hclogger) Named(name string) hclog.Logger {
	if h.name != "" {
		name = h.name + "." + name
	}
	return h.ResetNamed(name)
}

func (h *hclogger) ResetNamed(name string) hclog.Logger {
	c := *h
	c.name = name
	return &c
}

func (h *hclogger) SetLevel(hclog.Level) {}

func (h *hclogger) GetLevel() hclog.Level {
	if h.IsDebug() {
		return hclog.Debug
	}
	return hclog.Warn
}

func (h *hclogger) StandardLogger(o *hclog.StandardLoggerOptions) *log.Logger {
	return log.New(h.StandardWriter(o), "", 0)
}

func (h *hclogger) StandardWriter(*hclog.StandardLoggerOptions) io.Writer { return lines{h} }

// lines is for what is logged as text.
type lines struct{ h *hclogger }

func (w lines) Write(b []byte) (int, error) {
	w.h.Info(strings.TrimSpace(string(b)))
	return len(b), nil
}
