package system

import (
	"bufio"
	"fmt"
	"os"
	"runtime/debug"
	"strings"

	"golang.org/x/sys/unix"
)

// Trim gives the kernel back what only the start needed: free heap, and the pages of the program's own file (madvise(2),
// MADV_DONTNEED: what is used again is read again, from the page cache). Not for a process whose memory is locked.
func Trim() error {
	debug.FreeOSMemory()
	exe, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return fmt.Errorf("trim memory: %w", err)
	}
	f, err := os.Open("/proc/self/maps")
	if err != nil {
		return fmt.Errorf("trim memory: %w", err)
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		var from, to uintptr
		var mode string
		text := lines.Text()
		if !strings.HasSuffix(text, " "+exe) {
			continue
		}
		if _, err := fmt.Sscanf(text, "%x-%x %s", &from, &to, &mode); err != nil || strings.Contains(mode, "w") {
			continue // what was written to would be lost
		}
		if _, _, errno := unix.Syscall(unix.SYS_MADVISE, from, to-from, unix.MADV_DONTNEED); errno != 0 {
			return fmt.Errorf("trim memory: madvise: %w", errno)
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("trim memory: %w", err)
	}
	return nil
}
