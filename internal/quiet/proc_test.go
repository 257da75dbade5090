package quiet

import (
	"errors"
	"io/fs"
	"os"
	"testing"
)

func TestReadProc(t *testing.T) {
	want, err := os.ReadFile("/proc/self/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, room := range []int{0, 1, len(want), len(want) + 100} {
		b := make([]byte, room)
		n, err := ReadProc("/proc/self/cmdline", b)
		if got := string(b[:n]); err != nil || got != string(want[:min(room, len(want))]) {
			t.Errorf("room for %d: got %q, %v, want the beginning of %q", room, got, err, want)
		}
	}
	if _, err := ReadProc("/proc/4194305/stat", make([]byte, 1)); !errors.Is(err, fs.ErrNotExist) { // above the largest process number
		t.Errorf("no such process: got %v", err)
	}
	if _, err := ReadProc("/proc/self\x00", nil); err == nil {
		t.Error("a name with a zero byte is read")
	}
}
