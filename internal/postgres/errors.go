package postgres

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"syscall"
)

var (
	// ErrNotReady means that the postmaster runs but takes no sessions yet.
	ErrNotReady = errors.New("server does not accept connections yet")
	// ErrNotRunning means that the act needs a running server.
	ErrNotRunning = errors.New("server is not running")
	// ErrRunning means that the act needs a stopped server.
	ErrRunning = errors.New("server is running")
	// ErrNotCheckpointed means that the source of a rewind has not written a checkpoint on its timeline yet; ask again.
	ErrNotCheckpointed = errors.New("source has not checkpointed on its timeline yet")
	// ErrNotRewindable means that pg_rewind can't work here (no wal_log_hints or checksums, another cluster, a crashed standby); clone instead.
	ErrNotRewindable = errors.New("cannot be rewound")
	// ErrRewindIncomplete means that the data directory is a mixture and must be cloned anew.
	ErrRewindIncomplete = errors.New("an earlier pg_rewind failed half way, the data directory must be cloned anew")
)

// SQLState is the code of the answer by which a server refused; "" if it did not answer.
func SQLState(err error) string {
	var state interface{ SQLState() string }
	if errors.As(err, &state) {
		return state.SQLState()
	}
	return ""
}

// StartsOrStops reports whether a server that answers with this code will take sessions, or be gone, in a moment: admin_shutdown,
// crash_shutdown, cannot_connect_now (PostgreSQL's manual, appendix A).
func StartsOrStops(code string) bool { return code == "57P01" || code == "57P02" || code == "57P03" }

// HungUp reports whether a server ended a connection without a word.
func HungUp(err error) bool {
	return errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
}

// IncludeError says that the server does not take our settings from our include file, and what to do.
type IncludeError struct {
	ConfigFile string
	Line       string // the exact line that belongs at its end
	Cause      string
}

func (e *IncludeError) Error() string {
	return fmt.Sprintf("%s: %s; its last line must be: %s", e.ConfigFile, e.Cause, e.Line)
}

// OverrideError says that settings which we manage are set where they win over our include file.
type OverrideError struct {
	File     string
	Settings map[string]string
	Fix      string // the exact command, to be run with the server up
}

func (e *OverrideError) Error() string {
	return fmt.Sprintf("%s sets %s, which wins over %s; remove it with the server up: %s", e.File,
		strings.Join(slices.Sorted(maps.Keys(e.Settings)), ", "), includeName, e.Fix)
}

// shellQuote makes one word for sh.
func shellQuote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }
