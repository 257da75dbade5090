package quiet

import (
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ReadProc reads the beginning of a file of proc(5) into b, up to all of b. It is for those files alone whose text the kernel makes at once: while it
// reads, nothing else of this process may run. An error is a syscall.Errno.
func ReadProc(path string, b []byte) (int, error) {
	name, err := unix.BytePtrFromString(path)
	if err != nil {
		return 0, err
	}
	at := unix.AT_FDCWD
	fd, err := again(unix.SYS_OPENAT, uintptr(at), uintptr(unsafe.Pointer(name)), unix.O_RDONLY|unix.O_CLOEXEC)
	runtime.KeepAlive(name)
	if err != nil {
		return 0, err
	}
	defer func() { _, _, _ = unix.RawSyscall(unix.SYS_CLOSE, fd, 0, 0) }()
	for n := 0; ; {
		if n == len(b) {
			return n, nil
		}
		m, err := again(unix.SYS_READ, fd, uintptr(unsafe.Pointer(&b[n])), uintptr(len(b)-n))
		if err != nil || m == 0 {
			return n, err
		}
		n += int(m)
	}
}

// again makes a system call until no signal interrupts it.
func again(call, a, b, c uintptr) (uintptr, error) {
	for {
		switch n, _, err := unix.RawSyscall(call, a, b, c); err {
		case unix.EINTR:
		case 0:
			return n, nil
		default:
			return 0, err
		}
	}
}
