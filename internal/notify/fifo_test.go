package notify

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestFIFOKeepsLinesForALateReader(t *testing.T) {
	path := filepath.Join(t.TempDir(), "fifo")
	f, err := OpenFIFO(path, -1, -1, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode() != os.ModeNamedPipe|0o600 {
		t.Errorf("made %v, %v, want a pipe of mode 0600", info, err)
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	done := make(chan struct{})
	go func() { defer close(done); f.Run(ctx) }()
	const lines = 20000 // far more than a pipe holds
	for n := range lines {
		f.Write(fmt.Sprintf("line %d", n))
	}
	r, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	in := bufio.NewReader(r)
	for n := range lines {
		if n == lines-100 {
			stop() // what fits is still written
		}
		got, err := in.ReadString('\n')
		if want := fmt.Sprintf("line %d\n", n); err != nil || got != want {
			t.Fatalf("read %q, %v, want %q", got, err, want)
		}
	}
	if rest, err := io.ReadAll(in); err != nil || len(rest) > 0 {
		t.Errorf("at the end: %q, %v", rest, err)
	}
	<-done
	if _, err := os.Stat(path); !os.IsNotExist(err) {
		t.Errorf("it is still there: %v", err)
	}
}

func TestFIFOEndsWithoutAReader(t *testing.T) {
	path := filepath.Join(t.TempDir(), "fifo")
	f, err := OpenFIFO(path, -1, -1, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	for n := range fifoQueue + 10 {
		f.Write(fmt.Sprintf("line %d", n))
	}
	if f.dropped != 10 || f.lines[0] != "line 10\n" {
		t.Errorf("dropped %d, first %q, want the 10 oldest", f.dropped, f.lines[0])
	}
	ctx, stop := context.WithCancel(t.Context())
	stop()
	start := time.Now()
	f.Run(ctx)
	if took := time.Since(start); took > 10*fifoFlush {
		t.Errorf("the end took %s", took)
	}
}

func TestFIFORefusesAFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenFIFO(path, -1, -1, slog.New(slog.DiscardHandler)); err == nil {
		t.Error("a plain file was taken")
	}
	if content, err := os.ReadFile(path); err != nil || string(content) != "mine" {
		t.Errorf("the file is %q, %v", content, err)
	}
}
