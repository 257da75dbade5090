package quiet

import (
	"fmt"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// BootTime is CLOCK_BOOTTIME, which leases are told in: the time since this machine's start, the time that it was suspended included.
func BootTime() time.Duration {
	var ts unix.Timespec
	if _, _, err := unix.RawSyscall(unix.SYS_CLOCK_GETTIME, unix.CLOCK_BOOTTIME, uintptr(unsafe.Pointer(&ts)), 0); err != 0 {
		panic(fmt.Sprintf("read CLOCK_BOOTTIME: %v", err)) // every kernel that Go runs on has it
	}
	return time.Duration(ts.Nano())
}
