package child

import (
	"errors"
	"io"
	"os"
	"testing"
)

func TestDetachReturnsWhileTheProgramRuns(t *testing.T) {
	inR, inW, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	outR, outW, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer outR.Close()
	// It answers only after Detach has returned, and is the leader of its own session.
	const script = `read line; echo "$line $(($(cut -d' ' -f6 /proc/$$/stat) == $$)) $WHO"`
	err = Detach(t.Context(), Command{Argv: []string{"/bin/sh", "-c", script}, Env: []string{"WHO=me"}, Stdin: inR, Stdout: outW})
	inR.Close()
	outW.Close()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(inW, "hello\n"); err != nil {
		t.Fatal(err)
	}
	inW.Close()
	got, err := io.ReadAll(outR)
	if want := "hello 1 me\n"; err != nil || string(got) != want {
		t.Errorf("got %q, %v, want %q", got, err, want)
	}
}

func TestDetachSaysWhyAProgramDidNotStart(t *testing.T) {
	for _, argv := range [][]string{nil, {"/nonexistent/program"}, {"/etc/passwd"}} {
		var start *StartError
		if err := Detach(t.Context(), Command{Argv: argv}); !errors.As(err, &start) {
			t.Errorf("%q: got %v, want a StartError", argv, err)
		}
	}
}
