package child

import (
	"bytes"
	"context"
	"io"
	"os"
)

// Detach starts a program in a session of its own and does not wait for it: it lives on when we end. Timeout, Grace and the
// tail of standard error are not for it; Stdin, Stdout and Stderr are files or nil. The error is a *StartError; nil says
// that the program itself runs.
func Detach(ctx context.Context, c Command) error {
	cannot := func(err error) error { return &StartError{c, err} }
	if err := validate(c); err != nil {
		return cannot(err)
	}
	id, err := identify(ctx, c)
	if err != nil {
		return cannot(err)
	}
	if c.Stderr == nil {
		null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
		if err != nil {
			return cannot(err)
		}
		defer null.Close()
		c.Stderr = null
	}
	stdio, err := newStdio(c)
	if err != nil {
		return cannot(err)
	}
	defer stdio.close()
	p, reportR, err := launch(c, id, "run", stdio)
	if err != nil {
		return cannot(err)
	}
	defer reportR.Close()
	// The pipe closes when the shim becomes the program, so this is over in milliseconds.
	report, _ := io.ReadAll(io.LimitReader(reportR, 8<<10))
	if text, ready := bytes.CutPrefix(report, []byte(saidReady)); !ready || len(text) > 0 {
		_, _ = p.Wait()
		return cannot(startFailure(text, Result{Code: -1}))
	}
	go func() { _, _ = p.Wait() }() // for as long as we live it must not stay a zombie
	return nil
}
