package system

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// ProcessHandler hears of processes, by their number (tgid) in the first PID namespace; threads are left out. Its methods are
// called from FollowProcesses' goroutine, one at a time.
type ProcessHandler interface {
	// Resync says that from now on every change is told, and that anything may have happened before.
	Resync()
	Forked(parent, child int)
	// Execed says that a process runs another program, or has given itself another name.
	Execed(pid int)
	Exited(pid int)
}

// Process is one as /proc shows it (proc(5)).
type Process struct {
	Name string   // /proc/PID/comm: at most 15 bytes of the program's name, or what the process calls itself
	Argv []string // /proc/PID/cmdline; empty for a thread of the kernel
}

// ErrNoProcessEvents says that the process connector does not serve us, and trying again helps only if we are given other rights or
// another place.
var ErrNoProcessEvents = errors.New("no process connector")

// What the process connector speaks (linux/connector.h and linux/cn_proc.h).
const (
	cnProc        = 1 // CN_IDX_PROC and CN_VAL_PROC; the multicast group, too
	cnHead        = 20
	cnListen      = 1 // PROC_CN_MCAST_LISTEN
	procEventHead = 16

	procNone = 0 // the answer to cnListen
	procFork = 1
	procExec = 2
	procComm = 0x200
	procExit = 0x80000000
)

// answerTime is how long the kernel may take to answer cnListen. It does so within the system call, or never.
const answerTime = time.Second

// FollowProcesses tells h of forks, execs and exits until ctx ends, which is no error. It uses the kernel's process connector,
// which is there in the first network namespace alone, and answers only to CAP_NET_ADMIN in the first user and PID
// namespaces: everywhere else the error is ErrNoProcessEvents, with the reason. In another network namespace it needs
// CAP_SYS_ADMIN, to open a socket in that of process 1.
func FollowProcesses(ctx context.Context, h ProcessHandler) error {
	file, err := openConnector()
	if err != nil {
		return fmt.Errorf("follow processes: %w", err)
	}
	defer file.Close()
	defer context.AfterFunc(ctx, func() { _ = file.SetReadDeadline(time.Unix(1, 0)) })()
	err = (&connector{file: file, buf: make([]byte, 1<<16)}).follow(ctx, h)
	if ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("follow processes: %w", err)
}

// connector is a socket of the process connector.
type connector struct {
	file *os.File
	raw  syscall.RawConn
	buf  []byte
}

// openConnector opens a socket that can reach the connector, and asks it to speak.
func openConnector() (*os.File, error) {
	fd, err := connectorSocket()
	if errors.Is(err, unix.ECONNREFUSED) {
		fd, err = connectorElsewhere()
	}
	switch {
	case errors.Is(err, unix.EPERM):
		return nil, fmt.Errorf("%w: it needs CAP_NET_ADMIN in the first user namespace", ErrNoProcessEvents)
	case errors.Is(err, unix.EPROTONOSUPPORT):
		return nil, fmt.Errorf("%w: this kernel has none (CONFIG_PROC_EVENTS)", ErrNoProcessEvents)
	case err != nil:
		return nil, err
	}
	return os.NewFile(uintptr(fd), "process connector"), nil
}

// connectorElsewhere opens the socket in the network namespace of process 1.
func connectorElsewhere() (int, error) {
	fd := -1
	err := inNetNamespace("/proc/1/ns/net", func() (err error) {
		fd, err = connectorSocket()
		return err
	})
	if err != nil {
		return -1, fmt.Errorf("%w: it is in the first network namespace alone, which cannot be reached from here: %w", ErrNoProcessEvents, err)
	}
	return fd, nil
}

// connectorSocket opens a socket in the thread's network namespace; ECONNREFUSED: there is no connector.
func connectorSocket() (int, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_CONNECTOR)
	if err != nil {
		return -1, err
	}
	if err = setReceiveBuffer(fd, 4<<20); err == nil {
		err = setFilter(fd, processesOnly())
	}
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: cnProc})
	}
	if err == nil {
		err = unix.Sendto(fd, listenRequest(uint32(os.Getpid())), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
	}
	if err != nil {
		_ = unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// listenRequest asks the connector to speak. Its answer, which every listener gets, acknowledges seq+1.
func listenRequest(seq uint32) []byte {
	ne := binary.NativeEndian
	b := ne.AppendUint32(nil, cnProc)
	b = ne.AppendUint32(b, cnProc)
	b = ne.AppendUint32(b, seq)
	b = ne.AppendUint32(b, seq)
	b = ne.AppendUint16(b, 4)
	b = ne.AppendUint16(b, 0)
	b = ne.AppendUint32(b, cnListen)
	return appendMessage(nil, message{kind: unix.NLMSG_DONE, body: b}, 0, seq)
}

// processesOnly is a socket filter that lets nothing of threads in, and nothing that nobody waits for. A filter reads in
// network byte order, and the connector writes in the host's.
func processesOnly() []bpf.Instruction {
	const what = unix.SizeofNlMsghdr + cnHead
	const data = what + procEventHead
	host := func(v uint32) uint32 { return binary.NativeEndian.Uint32(binary.BigEndian.AppendUint32(nil, v)) }
	word := func(offset uint32) bpf.Instruction { return bpf.LoadAbsolute{Off: offset, Size: 4} }
	return []bpf.Instruction{
		word(what),
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: host(procNone), SkipTrue: 13},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: host(procFork), SkipTrue: 4},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: host(procExec), SkipTrue: 7},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: host(procComm), SkipTrue: 6},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: host(procExit), SkipTrue: 5},
		bpf.RetConstant{Val: 0},
		word(data + 8), // the child's pid and tgid, behind the parent's
		bpf.TAX{},
		word(data + 12),
		bpf.Jump{Skip: 3},
		word(data), // pid and tgid
		bpf.TAX{},
		word(data + 4),
		bpf.JumpIfX{Cond: bpf.JumpEqual, SkipFalse: 1},
		bpf.RetConstant{Val: 1<<32 - 1},
		bpf.RetConstant{Val: 0},
	}
}

// errNoAnswer: cnListen was not answered in time.
var errNoAnswer = fmt.Errorf("%w: it does not answer, as always outside of the first user and PID namespaces", ErrNoProcessEvents)

// follow waits for the connector's answer and then passes everything on; its only end is an error.
func (c *connector) follow(ctx context.Context, h ProcessHandler) (err error) {
	if c.raw, err = c.file.SyscallConn(); err != nil {
		return err
	}
	late := time.AfterFunc(answerTime, func() { _ = c.file.SetReadDeadline(time.Unix(1, 0)) })
	defer late.Stop()
	answered, behind := false, false
	for {
		if behind {
			if err := dropNews(c.raw, c.buf); err != nil {
				return err
			}
			h.Resync()
			behind = false
		}
		b, err := readNews(c.raw, c.buf, true)
		switch {
		case !answered && errors.Is(err, os.ErrDeadlineExceeded) && ctx.Err() == nil:
			return errNoAnswer
		case errors.Is(err, unix.ENOBUFS):
			behind = answered // else the answer may be among what is thrown away, and after it everything is looked at
			continue
		case err != nil:
			return err
		}
		messages, err := syscall.ParseNetlinkMessage(b)
		if err != nil {
			return err
		}
		for _, m := range messages {
			e, ok := parseProcEvent(m.Data)
			switch {
			case !ok:
			case e.what == procNone && !answered && e.ack == uint32(os.Getpid())+1:
				if e.refused != 0 {
					return fmt.Errorf("%w: %w", ErrNoProcessEvents, e.refused)
				}
				answered, behind = true, true
				if !late.Stop() && ctx.Err() == nil {
					_ = c.file.SetReadDeadline(time.Time{}) // it came at the last moment
				}
			case !answered: // what was before is looked for in a moment
			case e.what == procFork:
				h.Forked(e.parent, e.pid)
			case e.what == procExec || e.what == procComm:
				h.Execed(e.pid)
			case e.what == procExit:
				h.Exited(e.pid)
			}
		}
	}
}

// procEvent is struct proc_event, of a process.
type procEvent struct {
	what        uint32
	ack         uint32        // of an answer: one more than that of the question
	refused     syscall.Errno // of an answer
	parent, pid int
}

// parseProcEvent reads the body of a netlink message; false if it is of no interest, or malformed.
func parseProcEvent(b []byte) (e procEvent, ok bool) {
	ne := binary.NativeEndian
	if len(b) < cnHead+procEventHead+4 || ne.Uint32(b) != cnProc || ne.Uint32(b[4:]) != cnProc {
		return e, false
	}
	e.ack = ne.Uint32(b[12:])
	b = b[cnHead:]
	e.what = ne.Uint32(b)
	b = b[procEventHead:]
	number := func(at int) int { return int(int32(ne.Uint32(b[at:]))) }
	switch e.what {
	case procNone:
		e.refused = syscall.Errno(ne.Uint32(b))
		return e, true
	case procFork:
		if len(b) < 16 {
			return e, false
		}
		e.parent, e.pid = number(4), number(12)
		return e, number(8) == e.pid
	case procExec, procComm, procExit:
		if len(b) < 8 {
			return e, false
		}
		e.pid = number(4)
		return e, number(0) == e.pid
	}
	return e, false
}

// Processes are the numbers of all processes in /proc but for zombies.
func Processes() ([]int, error) {
	names, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	var all []int
	for _, name := range names {
		pid, err := strconv.Atoi(filepath.Base(name))
		if err != nil {
			continue
		}
		// pid (comm) state …: a comm may have brackets of its own.
		stat, err := os.ReadFile(filepath.Join(name, "stat"))
		if err != nil {
			continue // gone meanwhile
		}
		if k := bytes.LastIndexByte(stat, ')'); k >= 0 && k+2 < len(stat) && stat[k+2] != 'Z' && stat[k+2] != 'X' {
			all = append(all, pid)
		}
	}
	if len(all) == 0 {
		return nil, errors.New("list processes: there are none in /proc")
	}
	return all, nil
}

// ReadProcess reads what /proc says of a process. One that is gone is an error.
func ReadProcess(pid int) (Process, error) {
	dir := filepath.Join("/proc", strconv.Itoa(pid))
	comm, err := os.ReadFile(filepath.Join(dir, "comm"))
	if err != nil {
		return Process{}, fmt.Errorf("read process %d: %w", pid, err)
	}
	line, err := os.ReadFile(filepath.Join(dir, "cmdline"))
	if err != nil {
		return Process{}, fmt.Errorf("read process %d: %w", pid, err)
	}
	p := Process{Name: strings.TrimSuffix(string(comm), "\n")}
	// One that has written over its arguments may have left any number of zero bytes behind them.
	if text := strings.TrimRight(string(line), "\x00"); text != "" {
		p.Argv = strings.Split(text, "\x00")
	}
	return p, nil
}
