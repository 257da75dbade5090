package lab

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// request is what the lab asks of an agent (the first process of the lab or of a host); exactly one field besides ID is set.
type request struct {
	ID    uint64        `json:"id"`
	Spawn *spawnRequest `json:"spawn,omitempty"`
	Kill  *killRequest  `json:"kill,omitempty"`
}

// spawnRequest starts a program. The first three descriptors that come with it are its standard input, output and
// error; further ones become 3, 4 and so on.
type spawnRequest struct {
	Argv []string `json:"argv"`
	Env  []string `json:"env,omitempty"`
	Dir  string   `json:"dir,omitempty"`
	User string   `json:"user,omitempty"`
	// Boot starts the lab's own program as the first process of a new host.
	Boot bool `json:"boot,omitempty"`
}

// killRequest is kill(2) as the agent would call it: a negative pid is a process group, -1 is everything but the agent.
type killRequest struct {
	PID    int `json:"pid"`
	Signal int `json:"signal"`
}

// message is what an agent says: hello (ID 0) once it is set up, an answer to a request, or the end of a process that
// the request with that ID started.
type message struct {
	ID     uint64 `json:"id"`
	PID    int    `json:"pid,omitempty"`
	Err    string `json:"err,omitempty"`
	Exited bool   `json:"exited,omitempty"`
	Status uint32 `json:"status,omitempty"` // wait status as of wait(2)
	// Extra holds warnings of the set-up, in the hello.
	Extra []string `json:"extra,omitempty"`
}

// maxMessage bounds one datagram on the control socket.
const maxMessage = 1 << 20

// maxFDs bounds the descriptors that one request carries.
const maxFDs = 16

// wire is one end of a control socket: a SOCK_SEQPACKET pair that carries JSON and descriptors.
type wire struct {
	c   *net.UnixConn
	wmu sync.Mutex
	buf []byte
	oob []byte
}

// socketPair returns the lab's end, which learns the sender's process id from the kernel, and the agent's end.
func socketPair() (*wire, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make control socket: %w", err)
	}
	theirs := os.NewFile(uintptr(fds[1]), "agent")
	if err := unix.SetsockoptInt(fds[0], unix.SOL_SOCKET, unix.SO_PASSCRED, 1); err != nil {
		unix.Close(fds[0])
		theirs.Close()
		return nil, nil, fmt.Errorf("make control socket: %w", err)
	}
	for _, fd := range fds {
		// Long argument lists need more than the default; root may ask for it.
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, 2*maxMessage)
	}
	w, err := newWire(os.NewFile(uintptr(fds[0]), "lab"))
	if err != nil {
		theirs.Close()
		return nil, nil, err
	}
	return w, theirs, nil
}

// newWire takes over f.
func newWire(f *os.File) (*wire, error) {
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		return nil, fmt.Errorf("open control socket: %w", err)
	}
	u, ok := c.(*net.UnixConn)
	if !ok {
		c.Close()
		return nil, errors.New("open control socket: not a unix socket")
	}
	return &wire{c: u, buf: make([]byte, maxMessage), oob: make([]byte, unix.CmsgSpace(4*maxFDs)+unix.CmsgSpace(unix.SizeofUcred))}, nil
}

func (w *wire) close() error { return w.c.Close() }

// send writes one value with descriptors; safe for several goroutines.
func (w *wire) send(v any, fds ...int) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode control message: %w", err)
	}
	if len(b) > maxMessage {
		return fmt.Errorf("send control message: %d bytes are too many", len(b))
	}
	var oob []byte
	if len(fds) > 0 {
		oob = unix.UnixRights(fds...)
	}
	w.wmu.Lock()
	defer w.wmu.Unlock()
	if _, _, err := w.c.WriteMsgUnix(b, oob, nil); err != nil {
		return fmt.Errorf("send control message: %w", err)
	}
	return nil
}

// receive reads one value; pid is the sender's as seen from our pid namespace, 0 if credentials are not passed. Only
// one goroutine may receive. The caller owns the files.
func (w *wire) receive(v any) (pid int, files []*os.File, err error) {
	n, oobn, flags, _, err := w.c.ReadMsgUnix(w.buf, w.oob)
	if err != nil {
		return 0, nil, fmt.Errorf("receive control message: %w", err)
	}
	if n == 0 {
		return 0, nil, io.EOF
	}
	msgs, err := unix.ParseSocketControlMessage(w.oob[:oobn])
	if err != nil {
		return 0, nil, fmt.Errorf("receive control message: %w", err)
	}
	for i := range msgs {
		switch msgs[i].Header.Type {
		case unix.SCM_RIGHTS:
			fds, err := unix.ParseUnixRights(&msgs[i])
			if err != nil {
				return 0, nil, fmt.Errorf("receive control message: %w", err)
			}
			for _, fd := range fds {
				files = append(files, os.NewFile(uintptr(fd), "passed"))
			}
		case unix.SCM_CREDENTIALS:
			cred, err := unix.ParseUnixCredentials(&msgs[i])
			if err != nil {
				return 0, nil, fmt.Errorf("receive control message: %w", err)
			}
			pid = int(cred.Pid)
		}
	}
	if flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0 {
		closeAll(files)
		return 0, nil, errors.New("receive control message: truncated")
	}
	if err := json.Unmarshal(w.buf[:n], v); err != nil {
		closeAll(files)
		return 0, nil, fmt.Errorf("decode control message: %w", err)
	}
	return pid, files, nil
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}
