package cli

import (
	"errors"
	"fmt"
)

// Exit codes that every command shares; a command may document further ones.
const (
	CodeDone   = 0
	CodeFailed = 1
	CodeUsage  = 2
)

// UsageError is a mistake on the command line: nothing was touched, and the exit code is 2.
type UsageError struct{ Message string }

func (e *UsageError) Error() string { return e.Message }

// Usagef makes a UsageError.
func Usagef(format string, args ...any) error { return &UsageError{fmt.Sprintf(format, args...)} }

// ExitError carries an exit code of a command's own. Err may be nil: then nothing more is printed.
type ExitError struct {
	Code int
	Err  error
}

func (e *ExitError) Error() string {
	if e.Err == nil {
		return fmt.Sprintf("exit code %d", e.Code)
	}
	return e.Err.Error()
}

func (e *ExitError) Unwrap() error { return e.Err }

// Exit makes an ExitError. err may be nil when everything has been said.
func Exit(code int, err error) error { return &ExitError{code, err} }

// Code is the exit code that err stands for.
func Code(err error) int {
	if err == nil {
		return CodeDone
	}
	var exit *ExitError
	if errors.As(err, &exit) {
		return exit.Code
	}
	var usage *UsageError
	if errors.As(err, &usage) {
		return CodeUsage
	}
	return CodeFailed
}
