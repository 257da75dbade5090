package cli

import (
	"bytes"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// gated is a writer that stands still until its gate is closed.
type gated struct {
	gate chan struct{}
	bytes.Buffer
}

func (g *gated) Write(b []byte) (int, error) {
	<-g.gate
	return g.Buffer.Write(b)
}

// TestBackground: no line is waited for, none is lost while there is room, and what is lost is told.
func TestBackground(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &gated{gate: make(chan struct{})}
		b := NewBackground(w)
		log, err := NewLogger(b, "info", "text")
		if err != nil {
			t.Fatal(err)
		}
		log.Info("first")
		synctest.Wait() // it is being written
		for range backgroundLines {
			log.Info("more")
		}
		log.Info("lost")
		log.Info("lost")
		began := time.Now()
		b.Close()
		if took := time.Since(began); took != backgroundEnd {
			t.Errorf("the end took %v, want %v", took, backgroundEnd)
		}
		close(w.gate)
		b.Close()
		lines := strings.Split(strings.TrimSpace(w.String()), "\n")
		if len(lines) != backgroundLines+2 || !strings.Contains(lines[0], "msg=first") || !strings.Contains(lines[1], "lines=2") || !strings.Contains(lines[2], "msg=more") {
			t.Errorf("got %d lines: %q", len(lines), lines[:3])
		}
		log.Info("after the end")
	})
	b := NewBackground(io.Discard)
	defer b.Close()
	if _, err := NewLogger(b, "info", "xml"); err == nil {
		t.Error("got a logger of an unknown format")
	}
}
