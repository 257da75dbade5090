package lab

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// CaptureOptions choose what is kept.
type CaptureOptions struct {
	// Bridge is the network, "" for both.
	Bridge Bridge
	// All keeps TCP and UDP too; the default keeps everything else (VRRP, ARP, neighbour discovery, IGMP, ICMP).
	All bool
}

// Capture holds the frames that hosts sent since it was made: each once, as it entered the switch, with the kernel's
// time stamp. It sees also what a partition drops afterwards, but nothing of a host whose links are cut.
type Capture struct {
	// File is a pcap file with all frames, complete after Close. Close of the lab removes it.
	File string

	l      *Lab
	socket *os.File
	done   chan struct{}

	mu      sync.Mutex
	frames  []Frame
	changed chan struct{} // closed and replaced at each new frame
	err     error
	closing atomic.Bool
	closed  sync.Once
	result  error
}

// Capture starts to record. The caller closes it; Close of the lab does it too.
func (l *Lab) Capture(o CaptureOptions) (*Capture, error) {
	wrap := func(err error) error { return fmt.Errorf("start capture: %w", err) }
	var fd int
	err := l.sw.do(func() (err error) {
		// Bound to no protocol until the filter stands.
		fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		return err
	})
	if err != nil {
		return nil, wrap(err)
	}
	c := &Capture{l: l, socket: os.NewFile(uintptr(fd), "capture"), done: make(chan struct{}), changed: make(chan struct{})}
	fail := func(err error) (*Capture, error) {
		c.socket.Close()
		return nil, wrap(err)
	}
	prog, err := captureFilter(o.All)
	if err != nil {
		return fail(err)
	}
	if err := unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, prog); err != nil {
		return fail(err)
	}
	for opt, value := range map[int]int{unix.SO_TIMESTAMPNS: 1, unix.SO_RCVBUFFORCE: 32 << 20} {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, opt, value); err != nil {
			return fail(err)
		}
	}
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: htons(unix.ETH_P_ALL)}); err != nil {
		return fail(err)
	}
	l.mu.Lock()
	c.File = filepath.Join(l.dir, "captures", fmt.Sprintf("%d.pcap", len(l.captures)+1))
	l.captures = append(l.captures, c)
	l.mu.Unlock()
	file, err := os.Create(c.File)
	if err != nil {
		return fail(err)
	}
	go c.run(file, o.Bridge)
	return c, nil
}

func htons(v uint16) uint16 { return v<<8 | v>>8 }

// captureFilter drops what leaves the switch (each frame is kept where it came in) and, unless all is set, TCP and UDP.
func captureFilter(all bool) (*unix.SockFprog, error) {
	prog := []bpf.Instruction{
		bpf.LoadExtension{Num: bpf.ExtType},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.PACKET_OUTGOING, SkipTrue: 8},
	}
	if all {
		prog[1] = bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.PACKET_OUTGOING, SkipTrue: 1}
	} else {
		prog = append(prog,
			bpf.LoadAbsolute{Off: 12, Size: 2},
			bpf.JumpIf{Cond: bpf.JumpEqual, Val: etherIPv4, SkipFalse: 1},
			bpf.LoadAbsolute{Off: 23, Size: 1},
			bpf.JumpIf{Cond: bpf.JumpEqual, Val: etherIPv6, SkipFalse: 1},
			bpf.LoadAbsolute{Off: 20, Size: 1},
			// An ether type is never 6 or 17.
			bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.IPPROTO_TCP, SkipTrue: 2},
			bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.IPPROTO_UDP, SkipTrue: 1},
		)
	}
	prog = append(prog, bpf.RetConstant{Val: 1 << 18}, bpf.RetConstant{Val: 0})
	raw, err := bpf.Assemble(prog)
	if err != nil {
		return nil, err
	}
	filter := make([]unix.SockFilter, len(raw))
	for i, r := range raw {
		filter[i] = unix.SockFilter{Code: r.Op, Jt: r.Jt, Jf: r.Jf, K: r.K}
	}
	return &unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}, nil
}

func (c *Capture) run(file *os.File, only Bridge) {
	defer close(c.done)
	out := bufio.NewWriterSize(file, 1<<16)
	err := c.record(out, only)
	if c.closing.Load() {
		err = nil // the socket was closed under us
	}
	err = errors.Join(err, out.Flush(), file.Close())
	c.mu.Lock()
	c.err = err
	close(c.changed)
	c.changed = nil
	c.mu.Unlock()
}

func (c *Capture) record(out *bufio.Writer, only Bridge) error {
	// Nanosecond pcap, Ethernet.
	head := binary.LittleEndian.AppendUint32(nil, 0xa1b23c4d)
	head = binary.LittleEndian.AppendUint16(head, 2)
	head = binary.LittleEndian.AppendUint16(head, 4)
	for _, v := range []uint32{0, 0, 1 << 18, 1} {
		head = binary.LittleEndian.AppendUint32(head, v)
	}
	if _, err := out.Write(head); err != nil {
		return err
	}
	rc, err := c.socket.SyscallConn()
	if err != nil {
		return err
	}
	buf, oob := make([]byte, 1<<18), make([]byte, 256)
	for {
		var n, oobn int
		var from unix.Sockaddr
		var recvErr error
		err := rc.Read(func(fd uintptr) bool {
			n, oobn, _, from, recvErr = unix.Recvmsg(int(fd), buf, oob, 0)
			return !errors.Is(recvErr, unix.EAGAIN)
		})
		if err == nil {
			err = recvErr
		}
		if errors.Is(err, unix.EINTR) || errors.Is(err, unix.ENETDOWN) {
			continue // a cable was removed
		}
		if err != nil {
			return err
		}
		ll, ok := from.(*unix.SockaddrLinklayer)
		if !ok {
			continue
		}
		host, bridge := c.l.portOwner(ll.Ifindex)
		if host == nil || (only != "" && only != bridge) {
			continue // a bridge's own copy, or the other network
		}
		at, err := timestamp(oob[:oobn])
		if err != nil {
			return err
		}
		f := Frame{At: at, Bridge: bridge, Host: host.name, Raw: slices.Clone(buf[:n])}
		f.parse()
		rec := binary.LittleEndian.AppendUint32(nil, uint32(at.Unix()))
		for _, v := range []uint32{uint32(at.Nanosecond()), uint32(n), uint32(n)} {
			rec = binary.LittleEndian.AppendUint32(rec, v)
		}
		if _, err := out.Write(append(rec, f.Raw...)); err != nil {
			return err
		}
		c.mu.Lock()
		c.frames = append(c.frames, f)
		close(c.changed)
		c.changed = make(chan struct{})
		c.mu.Unlock()
	}
}

func timestamp(oob []byte) (time.Time, error) {
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return time.Time{}, fmt.Errorf("read time stamp: %w", err)
	}
	for _, m := range msgs {
		if m.Header.Level == unix.SOL_SOCKET && m.Header.Type == unix.SCM_TIMESTAMPNS && len(m.Data) >= 16 {
			return time.Unix(int64(binary.NativeEndian.Uint64(m.Data)), int64(binary.NativeEndian.Uint64(m.Data[8:]))), nil
		}
	}
	return time.Time{}, errors.New("read time stamp: the kernel gave none")
}

// Close ends the recording and completes the file. Frames stay readable.
func (c *Capture) Close() error {
	c.closed.Do(func() {
		c.closing.Store(true)
		c.socket.Close()
		<-c.done
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.err != nil {
			c.result = fmt.Errorf("capture: %w", c.err)
		}
	})
	return c.result
}

// Frames returns what was recorded so far, in the order of arrival, for which match (nil: all) holds.
func (c *Capture) Frames(match func(*Frame) bool) []Frame {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []Frame
	for i := range c.frames {
		if match == nil || match(&c.frames[i]) {
			out = append(out, c.frames[i])
		}
	}
	return out
}

// First returns the first frame at or after a time for which match holds.
func (c *Capture) First(after time.Time, match func(*Frame) bool) (Frame, bool) {
	f, _, ok := c.first(after, match)
	return f, ok
}

func (c *Capture) first(after time.Time, match func(*Frame) bool) (Frame, <-chan struct{}, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := range c.frames {
		if !c.frames[i].At.Before(after) && match(&c.frames[i]) {
			return c.frames[i], nil, true
		}
	}
	return Frame{}, c.changed, false
}

// Last returns the last frame before a time (zero: now) for which match holds.
func (c *Capture) Last(before time.Time, match func(*Frame) bool) (Frame, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := len(c.frames) - 1; i >= 0; i-- {
		if (before.IsZero() || c.frames[i].At.Before(before)) && match(&c.frames[i]) {
			return c.frames[i], true
		}
	}
	return Frame{}, false
}

// Wait returns the first frame at or after a time for which match holds, and waits for it if need be.
func (c *Capture) Wait(ctx context.Context, after time.Time, match func(*Frame) bool) (Frame, error) {
	for {
		f, changed, ok := c.first(after, match)
		if ok {
			return f, nil
		}
		if changed == nil {
			return Frame{}, errors.New("wait for a frame: the capture has ended")
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return Frame{}, fmt.Errorf("wait for a frame: %w", ctx.Err())
		}
	}
}

// AdvertFrom matches VRRP advertisements of a host ("" any) for a VRID (0 any).
func AdvertFrom(host string, vrid uint8) func(*Frame) bool {
	return func(f *Frame) bool {
		return f.VRRP != nil && (host == "" || f.Host == host) && (vrid == 0 || f.VRRP.VRID == vrid)
	}
}

// Announcement matches gratuitous ARP and unsolicited neighbour advertisements for an address by a host ("" any).
func Announcement(host string, vip netip.Addr) func(*Frame) bool {
	return func(f *Frame) bool { return (host == "" || f.Host == host) && f.Announces(vip) }
}
