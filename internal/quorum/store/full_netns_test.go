//go:build netns

package store

import (
	"bytes"
	"os"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"pgvrrp/internal/system/nstest"
)

func TestMain(m *testing.M) { nstest.Main(m) }

// TestFullFileSystem fills a small file system. A voter that is there goes on within the room that it keeps, with votes and
// seals; a new one says why it can't begin, and begins once there is space.
func TestFullFileSystem(t *testing.T) {
	nstest.Require(t)
	if dir := os.Getenv(inChild); dir != "" {
		must(t, unix.Mount("none", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""))
		must(t, unix.Mount("tmpfs", dir, "tmpfs", 0, "size=6m,mode=0700"))
		s := open(t, dir+"/old", Options{})
		ballast, err := os.Create(dir + "/ballast")
		must(t, err)
		for err == nil {
			_, err = ballast.Write(make([]byte, 4096))
		}
		must(t, ballast.Close())
		must(t, s.PutSealed("r", 1))
		must(t, s.SetUint64(keyCurrentTerm, 7))
		for k := uint64(1); k < 200; k++ {
			must(t, s.StoreLogs(entries(k, k, 7)))
		}
		must(t, takeSnapshot(s, 199, 7, "state"))
		must(t, s.DeleteRange(1, 150))
		must(t, s.Check(t.Context()))
		want := fingerprint(t, s)
		closed(t, s)
		s = open(t, dir+"/old", Options{})
		if got := fingerprint(t, s); got != want {
			t.Errorf("it is\n%s, want\n%s", got, want)
		}
		for k := uint64(200); err == nil || k == 200; k++ {
			e := entries(k, k, 7)
			e[0].Data = make([]byte, 100<<10)
			err = s.StoreLogs(e)
		}
		wantError(t, err, "append log entries", "no space left on device")
		wantError(t, s.Trouble(), "no space left on device")

		_, err = Open(dir+"/new", Options{})
		wantError(t, err, dir+"/new", "no space left on device")
		must(t, os.Remove(dir+"/ballast"))
		closed(t, s)
		must(t, os.RemoveAll(dir+"/old"))
		s = open(t, dir+"/new", Options{})
		if s.Identity().Starts != 1 {
			t.Errorf("%+v", s.Identity())
		}
		return
	}
	c := child(t, t.TempDir())
	c.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	out, err := c.CombinedOutput()
	if err != nil || !bytes.Contains(out, []byte("--- PASS: "+t.Name())) {
		t.Fatalf("%v\n%s", err, out)
	}
}
