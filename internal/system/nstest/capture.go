package nstest

import (
	"encoding/binary"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Frame is one captured Ethernet frame.
type Frame struct {
	At   time.Time // the kernel's receive time, wall clock
	Data []byte
}

// Capture reads all frames that pass an interface.
type Capture struct{ fd int }

// Capture starts to capture on an interface of the host.
func (h *Host) Capture(t testing.TB, name string) *Capture {
	t.Helper()
	c := &Capture{fd: -1}
	h.Do(t, func() {
		var ifr *unix.Ifreq
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		if err == nil {
			c.fd = fd
			t.Cleanup(func() { _ = unix.Close(fd) })
			ifr, err = unix.NewIfreq(name)
		}
		if err == nil {
			err = unix.IoctlIfreq(fd, unix.SIOCGIFINDEX, ifr)
		}
		if err == nil {
			err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1)
		}
		if err == nil {
			err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 16<<20)
		}
		if err == nil {
			err = unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: htons(unix.ETH_P_ALL), Ifindex: int(ifr.Uint32())})
		}
		if err != nil {
			t.Fatalf("capture on %s: %v", name, err)
		}
	})
	return c
}

// Take returns the next n frames that match, or fewer if the time is over.
func (c *Capture) Take(t testing.TB, n int, within time.Duration, match func(frame []byte) bool) []Frame {
	t.Helper()
	var frames []Frame
	buf, oob := make([]byte, 1<<16), make([]byte, 256)
	for deadline := time.Now().Add(within); len(frames) < n; {
		left := time.Until(deadline)
		if left <= 0 {
			break
		}
		// A zero timeout would mean for ever.
		tv := unix.NsecToTimeval(max(left, time.Millisecond).Nanoseconds())
		if err := unix.SetsockoptTimeval(c.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv); err != nil {
			t.Fatalf("set receive timeout: %v", err)
		}
		size, oobn, _, _, err := unix.Recvmsg(c.fd, buf, oob, 0)
		if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) || errors.Is(err, unix.ENETDOWN) {
			continue
		}
		if err != nil {
			t.Fatalf("read captured frame: %v", err)
		}
		if !match(buf[:size]) {
			continue
		}
		f := Frame{At: time.Now(), Data: append([]byte(nil), buf[:size]...)}
		if msgs, err := unix.ParseSocketControlMessage(oob[:oobn]); err == nil {
			for _, m := range msgs {
				if m.Header.Level == unix.SOL_SOCKET && m.Header.Type == unix.SCM_TIMESTAMPNS && len(m.Data) >= 16 {
					f.At = time.Unix(int64(binary.NativeEndian.Uint64(m.Data)), int64(binary.NativeEndian.Uint64(m.Data[8:])))
				}
			}
		}
		frames = append(frames, f)
	}
	return frames
}

// Dissect returns what tshark says of the frames: the fields given (tshark -T fields -e), one line a frame,
// separated by tabs; without fields the whole tree. Any expert warning, error or malformed packet ends the test.
func Dissect(t testing.TB, frames []Frame, fields ...string) string {
	t.Helper()
	Require(t, "tshark")
	file := filepath.Join(t.TempDir(), "capture.pcap")
	if err := os.WriteFile(file, pcap(frames), 0o600); err != nil {
		t.Fatal(err)
	}
	// 0x00600000 is the severity Warning, 0x00800000 Error.
	if bad := tshark(t, file, "-V", "-Y", "_ws.malformed || _ws.expert.severity >= 0x00600000"); bad != "" {
		t.Fatalf("tshark complains:\n%s", bad)
	}
	if len(fields) == 0 {
		return tshark(t, file, "-V")
	}
	args := []string{"-T", "fields"}
	for _, f := range fields {
		args = append(args, "-e", f)
	}
	return tshark(t, file, args...)
}

func tshark(t testing.TB, file string, args ...string) string {
	t.Helper()
	// Checksums are checked for the protocols where it is off by default.
	cmd := exec.Command("tshark", append([]string{"-n", "-r", file, "-o", "ip.check_checksum:TRUE"}, args...)...)
	var out, errs strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		t.Fatalf("run tshark: %v\n%s", err, errs.String())
	}
	return out.String()
}

// pcap is a capture file (draft-ietf-opsawg-pcap) with nanoseconds.
func pcap(frames []Frame) []byte {
	const linkEthernet = 1
	le := binary.LittleEndian
	b := le.AppendUint32(nil, 0xa1b23c4d)
	b = le.AppendUint16(b, 2)
	b = le.AppendUint16(b, 4)
	b = le.AppendUint64(b, 0)
	b = le.AppendUint32(b, 1<<16)
	b = le.AppendUint32(b, linkEthernet)
	for _, f := range frames {
		b = le.AppendUint32(b, uint32(f.At.Unix()))
		b = le.AppendUint32(b, uint32(f.At.Nanosecond()))
		b = le.AppendUint32(b, uint32(len(f.Data)))
		b = le.AppendUint32(b, uint32(len(f.Data)))
		b = append(b, f.Data...)
	}
	return b
}

// htons is v in network byte order, as a number of this host.
func htons(v uint16) uint16 {
	return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, v))
}
