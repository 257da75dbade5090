package system

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"

	"golang.org/x/sys/unix"
)

// guardName is where the vrrpd that runs with a guard listens, in the namespace of abstract names (unix(7)). A network namespace has one
// of each name, as it has one table of each; the kernel takes the name back when the process ends, however it ends.
const guardName = "@vrrpd-guard"

// ErrGuardTaken means that another vrrpd runs with the guard of this network namespace.
var ErrGuardTaken = errors.New("another vrrpd in this network namespace runs with its guard")

// guardClaim keeps other processes from replacing or removing the guard.
type guardClaim struct{ fd int }

// claimGuard claims the guard of the network namespace of the calling thread. The claim is nil if somebody without our rights
// sits on the name: the tables are ours all the same.
func claimGuard(log *slog.Logger) (*guardClaim, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("claim it: %w", err)
	}
	err = unix.Bind(fd, &unix.SockaddrUnix{Name: guardName})
	if err == nil {
		err = unix.Listen(fd, 16)
	}
	if err == nil {
		return &guardClaim{fd}, nil
	}
	_ = unix.Close(fd)
	if !errors.Is(err, unix.EADDRINUSE) {
		return nil, fmt.Errorf("claim it: %w", err)
	}
	taken, err := guardTaken()
	switch {
	case err != nil:
		return nil, err
	case taken:
		return nil, ErrGuardTaken
	}
	log.Warn("a process without privileges has the guard's name: another vrrpd here would not know of this one", "name", guardName)
	return nil, nil
}

// guardTaken reports whether a process with our rights, or root's, has claimed the guard of the calling thread's network namespace.
func guardTaken() (bool, error) {
	fail := func(err error) (bool, error) { return false, fmt.Errorf("ask who has claimed it: %w", err) }
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return fail(err)
	}
	defer func() { _ = unix.Close(fd) }()
	switch err := unix.Connect(fd, &unix.SockaddrUnix{Name: guardName}); {
	case errors.Is(err, unix.ECONNREFUSED):
		return false, nil
	case errors.Is(err, unix.EAGAIN):
		return true, nil // so many have asked that none is answered any more
	case err != nil:
		return fail(err)
	}
	owner, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil {
		return fail(err)
	}
	return owner.Uid == 0 || int(owner.Uid) == unix.Geteuid(), nil
}

func (c *guardClaim) close() error {
	if c == nil {
		return nil
	}
	return unix.Close(c.fd)
}

// guardMark is the name of the empty set that tells whose a table is. "": of nobody in particular.
func guardMark(owner string) string {
	if owner == "" {
		return ""
	}
	sum := sha256.Sum256([]byte(owner))
	return "owner_" + hex.EncodeToString(sum[:8])
}
