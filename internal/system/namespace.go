package system

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"

	"golang.org/x/sys/unix"
)

// netNamespaces is where ip-netns(8) keeps network namespaces by their names.
const netNamespaces = "/run/netns"

// InNetNamespace reports whether the process is in the network namespace of that name. One that does not exist is an error, by
// os.ErrNotExist.
func InNetNamespace(name string) (bool, error) {
	if name == "" || name == "." || name == ".." || name != filepath.Base(name) {
		return false, fmt.Errorf("network namespace %q: not a name", name)
	}
	var here, there unix.Stat_t
	if err := unix.Stat("/proc/self/ns/net", &here); err != nil {
		return false, fmt.Errorf("look at our network namespace: %w", err)
	}
	if err := unix.Stat(filepath.Join(netNamespaces, name), &there); err != nil {
		return false, fmt.Errorf("network namespace %s: %w", name, err)
	}
	return here.Dev == there.Dev && here.Ino == there.Ino, nil
}

// EnterNetNamespace has the process go on in the network namespace of that name with all its threads: it starts its own program
// anew, with the same arguments and process number, from a thread that is there. It returns when the process is there already, or
// with an error. It needs CAP_SYS_ADMIN, and is for the very beginning: everything that is open is closed.
func EnterNetNamespace(name string) error {
	inside, err := InNetNamespace(name)
	if err != nil || inside {
		return err
	}
	ns, err := os.Open(filepath.Join(netNamespaces, name))
	if err != nil {
		return fmt.Errorf("enter network namespace: %w", err)
	}
	defer ns.Close()
	runtime.LockOSThread() // after an error this thread is of no use any more, and neither is the process
	if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
		if errors.Is(err, unix.EPERM) {
			err = fmt.Errorf("%w: it needs CAP_SYS_ADMIN", err)
		}
		return fmt.Errorf("enter network namespace %s: %w", name, err)
	}
	if err := unix.Exec("/proc/self/exe", os.Args, os.Environ()); err != nil {
		return fmt.Errorf("start anew in network namespace %s: %w", name, err)
	}
	return nil
}

// inNetNamespace runs fn on a thread that is in the network namespace of that file, and that comes back. Sockets opened there stay
// there.
func inNetNamespace(file string, fn func() error) error {
	// Left locked where the way back fails, so that nobody else runs there. Letting the thread end instead would not do: the
	// process's first one never ends, and is what /proc/self/ns/net shows.
	runtime.LockOSThread()
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		runtime.UnlockOSThread()
		return err
	}
	defer home.Close()
	there, err := os.Open(file)
	if err == nil {
		err = unix.Setns(int(there.Fd()), unix.CLONE_NEWNET)
		_ = there.Close()
	}
	if err != nil {
		runtime.UnlockOSThread()
		return err
	}
	err = fn()
	if back := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); back != nil {
		return errors.Join(err, fmt.Errorf("come back from network namespace %s: %w", file, back))
	}
	runtime.UnlockOSThread()
	return err
}
