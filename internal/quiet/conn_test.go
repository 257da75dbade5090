package quiet

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"
)

// pair is a quiet connection and its other end.
func pair(t *testing.T, network string) (q, peer net.Conn) {
	t.Helper()
	address := "127.0.0.1:0"
	if network == "unix" {
		address = filepath.Join(t.TempDir(), "socket")
	}
	l, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial(network, l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if peer, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { peer.Close() })
	q = Conn(c)
	if _, ok := q.(*conn); !ok {
		t.Fatalf("a connection by %s is not made quiet", network)
	}
	return q, peer
}

func each(t *testing.T, f func(t *testing.T, q, peer net.Conn)) {
	for _, network := range []string{"tcp", "unix"} {
		t.Run(network, func(t *testing.T) {
			q, peer := pair(t, network)
			f(t, q, peer)
		})
	}
}

// More than the socket's buffers hold goes both ways at once, whole and in order.
func TestConnBothWays(t *testing.T) {
	each(t, func(t *testing.T, q, peer net.Conn) {
		b := make([]byte, 20<<20+7)
		for k := range b {
			b[k] = byte(k * 7 >> 3)
		}
		var wg sync.WaitGroup
		for _, c := range []net.Conn{q, peer} {
			wg.Go(func() {
				if n, err := c.Write(b); n != len(b) || err != nil {
					t.Errorf("wrote %d of %d: %v", n, len(b), err)
				}
			})
			wg.Go(func() {
				got := make([]byte, len(b))
				if _, err := io.ReadFull(c, got); err != nil || sha256.Sum256(got) != sha256.Sum256(b) {
					t.Errorf("what was read is not what was written: %v", err)
				}
			})
		}
		wg.Wait()
	})
}

func TestConnEnds(t *testing.T) {
	t.Run("the other side says goodbye", func(t *testing.T) {
		each(t, func(t *testing.T, q, peer net.Conn) {
			if _, err := peer.Write([]byte("last words")); err != nil {
				t.Fatal(err)
			}
			peer.Close()
			got, err := io.ReadAll(q)
			if string(got) != "last words" || err != nil {
				t.Errorf("read %q, %v", got, err)
			}
		})
	})
	t.Run("deadline", func(t *testing.T) {
		each(t, func(t *testing.T, q, _ net.Conn) {
			if err := q.SetDeadline(time.Now().Add(10 * time.Millisecond)); err != nil {
				t.Fatal(err)
			}
			var timeout net.Error
			if n, err := q.Read(make([]byte, 1)); n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) || !errors.As(err, &timeout) || !timeout.Timeout() {
				t.Errorf("read %d, %v", n, err)
			}
			b := make([]byte, 64<<20)
			if n, err := q.Write(b); n == 0 && !errors.Is(err, os.ErrDeadlineExceeded) || n == len(b) {
				t.Errorf("wrote %d, %v", n, err)
			}
		})
	})
	t.Run("a deadline during a write", func(t *testing.T) {
		each(t, func(t *testing.T, q, _ net.Conn) {
			b := make([]byte, 64<<20)
			if err := q.SetWriteDeadline(time.Now().Add(200 * time.Millisecond)); err != nil {
				t.Fatal(err)
			}
			if n, err := q.Write(b); n <= 0 || n >= len(b) || !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("wrote %d of %d, %v", n, len(b), err)
			}
		})
	})
	t.Run("closed during a read", func(t *testing.T) {
		each(t, func(t *testing.T, q, _ net.Conn) {
			go q.Close()
			if n, err := q.Read(make([]byte, 1)); n != 0 || !errors.Is(err, net.ErrClosed) {
				t.Errorf("read %d, %v", n, err)
			}
			if n, err := q.Write([]byte("x")); n != 0 || !errors.Is(err, net.ErrClosed) {
				t.Errorf("wrote %d, %v", n, err)
			}
		})
	})
	t.Run("the other side is gone", func(t *testing.T) {
		q, peer := pair(t, "tcp")
		if err := peer.(*net.TCPConn).SetLinger(0); err != nil { // its end is a reset
			t.Fatal(err)
		}
		peer.Close()
		if n, err := q.Read(make([]byte, 1)); n != 0 || !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("read %d, %v", n, err)
		}
		if n, err := q.Write([]byte("x")); n != 0 || !errors.Is(err, syscall.EPIPE) {
			t.Errorf("wrote %d, %v", n, err)
		}
	})
}

func TestConnLeavesOthersAlone(t *testing.T) {
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	if Conn(a) != a {
		t.Error("a pipe has no system calls")
	}
}

// A call that waits for nothing allocates nothing.
func TestConnAllocates(t *testing.T) {
	q, peer := pair(t, "unix")
	b := bytes.Repeat([]byte("x"), 100)
	if n := testing.AllocsPerRun(100, func() {
		_, _ = peer.Write(b)
		_, _ = q.Read(b)
		_, _ = q.Write(b)
		_, _ = peer.Read(b)
	}); n > 0 {
		t.Errorf("%v allocations in a write and a read", n)
	}
}
