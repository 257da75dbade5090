package system

import (
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// FuzzControl: control messages of any content are read within their bounds, and what is not there stays unknown.
func FuzzControl(f *testing.F) {
	pktinfo := unix.PktInfo4(&unix.Inet4Pktinfo{Ifindex: 7})
	f.Add(pktinfo, len(pktinfo))
	f.Add(pktinfo[:20], 20)
	f.Add(append(unix.PktInfo6(&unix.Inet6Pktinfo{Ifindex: 7}), pktinfo...), 200)
	f.Add([]byte{255, 255, 255, 255, 255, 255, 255, 127}, 128)
	f.Add([]byte{}, 16)
	f.Fuzz(func(t *testing.T, content []byte, size int) {
		var l listener
		copy(l.control[:], content)
		l.hdr.SetControllen(max(0, size))
		meta := Meta{TTL: -1, Index: 3}
		l.parseControl(&meta)
		if size < unix.SizeofCmsghdr && (meta.TTL != -1 || meta.Index != 3) {
			t.Errorf("got %+v from nothing", meta)
		}
	})
}

// FuzzStateFile: whatever a former run has left, we start, and what we write is read back.
func FuzzStateFile(f *testing.F) {
	f.Add([]byte(`{"version":1,"addresses":[{"owner":"VI_1","interface":"eth0","address":"10.0.0.1/24","existed":true}]}`))
	f.Add([]byte(`{"version":2}`))
	f.Add([]byte(`{"version":1,"addresses":[{"address":""}]}`))
	f.Add([]byte(`null`))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, content []byte) {
		path := filepath.Join(t.TempDir(), "addresses.json")
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := openStateFile(path, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		again, err := openStateFile(path, slog.New(slog.DiscardHandler))
		if err != nil || !s.lost && len(again.entries) != len(s.entries) {
			t.Errorf("read again: %v, %d entries, want %d", err, len(again.entries), len(s.entries))
		}
	})
}
