package quiet

import (
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
	// The pointers become numbers in the calls themselves: anywhere else, what they point at may move.
	var fd uintptr
	at, errno := unix.AT_FDCWD, unix.EINTR
	for errno == unix.EINTR {
		fd, _, errno = unix.RawSyscall6(unix.SYS_OPENAT, uintptr(at), uintptr(unsafe.Pointer(name)), unix.O_RDONLY|unix.O_CLOEXEC, 0, 0, 0)
	}
	if errno != 0 {
		return 0, errno
	}
	defer func() { _, _, _ = unix.RawSyscall(unix.SYS_CLOSE, fd, 0, 0) }()
	for n := 0; n < len(b); {
		rest := b[n:]
		switch m, _, errno := unix.RawSyscall(unix.SYS_READ, fd, uintptr(unsafe.Pointer(unsafe.SliceData(rest))), uintptr(len(rest))); {
		case errno == unix.EINTR:
		case errno != 0:
			return n, errno
		case m == 0:
			return n, nil
		default:
			n += int(m)
		}
	}
	return len(b), nil
}
