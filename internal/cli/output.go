package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"time"
	"unicode/utf8"

	"golang.org/x/term"
)

// JSON prints v indented and with a newline.
func JSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return fmt.Errorf("print as JSON: %w", err)
	}
	return nil
}

// Table prints rows under header in columns two spaces apart, without trailing spaces. Short rows are filled up.
func Table(w io.Writer, header []string, rows [][]string) error {
	width := make([]int, len(header))
	all := append([][]string{header}, rows...)
	for _, row := range all {
		for i, cell := range row {
			if i < len(width) {
				width[i] = max(width[i], utf8.RuneCountInString(cell))
			}
		}
	}
	var b strings.Builder
	for _, row := range all {
		var line strings.Builder
		for i := range header {
			cell := ""
			if i < len(row) {
				cell = row[i]
			}
			line.WriteString(cell)
			if i < len(header)-1 {
				line.WriteString(strings.Repeat(" ", width[i]-utf8.RuneCountInString(cell)+2))
			}
		}
		b.WriteString(strings.TrimRight(line.String(), " "))
		b.WriteByte('\n')
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// IsTerminal reports whether w is a terminal.
func IsTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// Watch renders at once and then every interval until ctx ends or render fails. On a terminal each picture replaces the
// one before; elsewhere they follow each other with an empty line between. A picture appears whole or not at all.
func Watch(ctx context.Context, w io.Writer, every time.Duration, render func(context.Context, io.Writer) error) error {
	terminal := IsTerminal(w)
	tick := time.NewTicker(every)
	defer tick.Stop()
	for first := true; ; first = false {
		var b bytes.Buffer
		switch {
		case terminal:
			b.WriteString("\x1b[H\x1b[2J")
		case !first:
			b.WriteByte('\n')
		}
		if err := render(ctx, &b); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		if _, err := w.Write(b.Bytes()); err != nil {
			return fmt.Errorf("print: %w", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}
