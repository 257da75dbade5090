package store

import (
	"bufio"
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/hashicorp/raft"
	"golang.org/x/sys/unix"
)

func makePipe(t *testing.T, path string) {
	t.Helper()
	must(t, unix.Mkfifo(path, 0o600))
}

// fingerprint is all that a store says of itself.
func fingerprint(t testing.TB, s *Store) string {
	t.Helper()
	var b strings.Builder
	id := s.Identity()
	fmt.Fprintf(&b, "%s %s\n", id.Cluster, id.Incarnation)
	first, last := bounds(t, s)[0], bounds(t, s)[1]
	for k := first; k != 0 && k <= last; k++ {
		var l raft.Log
		must(t, s.GetLog(k, &l))
		fmt.Fprintf(&b, "%d %d %s\n", l.Index, l.Term, l.Data)
	}
	for _, key := range []string{"CurrentTerm", "LastVoteTerm"} {
		n, err := s.GetUint64([]byte(key))
		must(t, err)
		fmt.Fprintf(&b, "%s %d\n", key, n)
	}
	fmt.Fprintln(&b, s.Sealed("r"), s.Promised("r"), s.Longest(), list(t, s), s.seen)
	return b.String()
}

// TestPowerLoss goes through a run of writes, and cuts the power within each: before the write of the database's root any
// part of its other pages may be on disk, whole or in sectors, and the root itself may be torn. Then the store is what it
// was before the write; after the write it is what it was after. It never is anything else.
func TestPowerLoss(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	dir := t.TempDir()
	path := filepath.Join(dir, fileName)
	s := fast(t, dir)
	read := func() []byte {
		b, err := os.ReadFile(path)
		must(t, err)
		return b
	}
	crashed := t.TempDir()
	reopened := func(b []byte) string {
		t.Helper()
		must(t, os.WriteFile(filepath.Join(crashed, fileName), b, 0o600))
		s, err := Open(crashed, Options{NoSync: true})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		return fingerprint(t, s)
	}
	const page, sector = 4096, 512
	next, term := uint64(1), uint64(1)
	for step := range 150 {
		before, was := read(), fingerprint(t, s)
		var err error
		switch rng.IntN(9) { // each is one write
		case 0:
			term++
			err = s.SetUint64(keyCurrentTerm, term)
		case 1:
			err = s.PutSealed("r", uint64(step))
		case 2:
			err = s.Admit("n1", Seen{strconv.Itoa(rng.IntN(12)), uint64(step + 1), 1, uint64(step)})
		case 3:
			if next > 2 {
				n := uint64(rng.IntN(3))
				low := max(1, next-1-min(next-2, n))
				err = s.DeleteRange(low, next-1)
				if b := bounds(t, s); b[1] != 0 {
					next = b[1] + 1
				} else if all, _ := s.Snapshots().List(); len(all) > 0 {
					next = all[0].Index + 1
				} else {
					next = 1
				}
			}
		case 4:
			if next > 1 {
				err = takeSnapshot(s, next-1, term, "state at "+strconv.Itoa(step))
			}
		case 5:
			if all, _ := s.Snapshots().List(); len(all) > 0 {
				err = s.DeleteRange(0, min(all[0].Index, bounds(t, s)[1]))
				next = max(bounds(t, s)[1], all[0].Index) + 1
			}
		default:
			n := uint64(1 + rng.IntN(4))
			err = s.StoreLogs(entries(next, next+n-1, term))
			next += n
		}
		must(t, err)
		after, is := read(), fingerprint(t, s)
		if bytes.Equal(before, after) {
			continue
		}
		if got := reopened(after); got != is {
			t.Fatalf("step %d: after the write it is\n%s, want\n%s", step, got, is)
		}
		grown := append(bytes.Clone(before), make([]byte, max(0, len(after)-len(before)))...)
		for variant := range 4 {
			b := bytes.Clone(grown)
			for at := 2 * page; at+page <= len(after); at += page {
				switch rng.IntN(3) {
				case 0:
					copy(b[at:at+page], after[at:])
				case 1:
					n := sector * rng.IntN(page/sector)
					copy(b[at:at+n], after[at:])
				}
			}
			if variant > 1 {
				// All of it is there, and the root is torn.
				copy(b[2*page:], after[2*page:])
				for at := 0; at < 2*page; at += page {
					if !bytes.Equal(before[at:at+page], after[at:at+page]) {
						rng := rand.NewChaCha8([32]byte{byte(step)})
						_, _ = rng.Read(b[at : at+64])
					}
				}
			}
			if got := reopened(b); got != was {
				t.Fatalf("step %d, variant %d: it is\n%s, want\n%s", step, variant, got, was)
			}
		}
	}
}

// TestDamagedFileIsRefused damages a file at random. It is refused with advice, or the damage is where nothing is.
func TestDamagedFileIsRefused(t *testing.T) {
	dir := t.TempDir()
	s := fast(t, dir)
	must(t, s.Bootstrap("c", conf("a@1", "b@2")))
	must(t, s.StoreLogs(entries(2, 200, 1)))
	must(t, takeSnapshot(s, 100, 1, "state"))
	must(t, s.PutSealed("r", 7))
	before := fingerprint(t, s)
	must(t, s.Admit("n1", Seen{"x", 1, 1, 0}))
	want := fingerprint(t, s)
	closed(t, s)
	good, err := os.ReadFile(filepath.Join(dir, fileName))
	must(t, err)
	rng := rand.New(rand.NewPCG(3, 4))
	refused := 0
	for k := range 300 {
		b := bytes.Clone(good)
		switch k % 5 {
		case 0:
			b = b[:rng.IntN(len(b)/2)]
		case 1:
			at := rng.IntN(len(b)/4096) * 4096
			clear(b[at : at+4096])
		case 2:
			at := rng.IntN(len(b) - 4096)
			for i := range 512 {
				b[at+i] = byte(rng.Uint32())
			}
		case 3:
			b[rng.IntN(len(b)/2)] ^= 1 << rng.IntN(8)
		case 4:
			// A page of an earlier time in the place of another.
			from, to := rng.IntN(len(b)/4096)*4096, rng.IntN(len(b)/4096)*4096
			copy(b[to:to+4096], good[from:from+4096])
		}
		dir := t.TempDir()
		must(t, os.WriteFile(filepath.Join(dir, fileName), b, 0o600))
		s, err := Open(dir, Options{NoSync: true})
		if err != nil {
			refused++
			if len(b) > 0 && !strings.Contains(err.Error(), "move the file away") || !strings.Contains(err.Error(), filepath.Join(dir, fileName)) {
				t.Fatalf("damage %d: %v", k, err)
			}
			// Nothing of it holds a lock.
			must(t, Reset(dir, "damaged"))
			continue
		}
		// A root that can't be read looks like the write that was under way when the power went.
		root := !bytes.Equal(b[:2*4096], good[:2*4096])
		if got := fingerprint(t, s); got != want && (got != before || !root) {
			t.Errorf("damage %d passes:\n%s", k, got)
		}
		closed(t, s)
	}
	t.Logf("%d of 300 refused", refused)
	if refused < 50 {
		t.Errorf("only %d of 300 were refused", refused)
	}
}

func TestOtherFormatIsRefused(t *testing.T) {
	dir := t.TempDir()
	closed(t, fast(t, dir))
	db, err := openDB(filepath.Join(dir, fileName), Options{NoSync: true})
	must(t, err)
	tx, err := db.Begin(true)
	must(t, err)
	must(t, putUint(tx.Bucket(metaBucket), formatKey, format+1))
	must(t, tx.Commit())
	must(t, db.Close())
	_, err = Open(dir, Options{})
	wantError(t, err, "another version")
	if strings.Contains(err.Error(), "damaged") {
		t.Errorf("%v", err)
	}
}

// inChild is set in a test that was started again as another process.
const inChild = "STORE_TEST_DIR"

func child(t *testing.T, dir string) *exec.Cmd {
	t.Helper()
	c := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
	c.Env = append(os.Environ(), inChild+"="+dir)
	return c
}

// TestKilledWhileWriting kills a process that writes: what it said to have written is there when it is opened again.
func TestKilledWhileWriting(t *testing.T) {
	if dir := os.Getenv(inChild); dir != "" {
		s, err := Open(dir, Options{})
		must(t, err)
		fmt.Printf("open %d\n", s.Identity().Starts)
		for k := s.Sealed("r") + 1; ; k++ {
			last, err := s.LastIndex()
			must(t, err)
			must(t, s.StoreLogs(entries(last+1, last+3, 1)))
			must(t, s.PutSealed("r", k))
			fmt.Printf("wrote %d %d\n", k, last+3)
		}
	}
	dir := t.TempDir()
	var sealed, last uint64
	for round := range 5 {
		c := child(t, dir)
		out, err := c.StdoutPipe()
		must(t, err)
		must(t, c.Start())
		lines := bufio.NewScanner(out)
		for n := 0; lines.Scan(); {
			if strings.HasPrefix(lines.Text(), "open ") && lines.Text() != fmt.Sprintf("open %d", 2*round+1) {
				t.Errorf("round %d: %s", round, lines.Text())
			}
			if _, err := fmt.Sscanf(lines.Text(), "wrote %d %d", &sealed, &last); err == nil {
				if n++; n == 10+round {
					must(t, c.Process.Kill())
				}
			}
		}
		_ = c.Wait() // it was killed
		s := open(t, dir, Options{})
		if got := s.Sealed("r"); got < sealed || got > sealed+1 {
			t.Errorf("round %d: sealed %d, and %d was told", round, got, sealed)
		}
		if b := bounds(t, s); b[1] < last || b[1] > last+3 || b[1]%3 != 0 {
			t.Errorf("round %d: log ends at %d, and %d was told", round, b[1], last)
		}
		closed(t, s)
	}
}

// TestFullDisk has the file grow to a limit. What fails is an error that says so, nothing is written after it, what was
// written is there, and within the room that the file had from the first day the voter goes on after a start.
func TestFullDisk(t *testing.T) {
	const limit = room + 2<<20
	if dir := os.Getenv(inChild); dir != "" {
		signal.Ignore(syscall.SIGXFSZ)
		s, err := Open(dir, Options{})
		must(t, err)
		must(t, unix.Setrlimit(unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: limit, Max: limit}))
		var last uint64
		for k := uint64(1); ; k++ {
			if err = s.StoreLog(&raft.Log{Index: k, Term: 1, Data: make([]byte, 100<<10)}); err != nil {
				break
			}
			if last = k; k > 1000 {
				t.Fatal("no limit")
			}
		}
		wantError(t, err, "append log entries", fileName, "file too large")
		wantError(t, s.PutSealed("r", 1), "not after a failed write", "file too large")
		wantError(t, s.Check(t.Context()), "file too large")
		var l raft.Log
		must(t, s.GetLog(last, &l))
		must(t, s.Close())

		// The disk is still full. The log is cut, as raft does, and there is room again.
		s, err = Open(dir, Options{})
		must(t, err)
		must(t, s.PutSealed("r", 1))
		must(t, takeSnapshot(s, last, 1, "state"))
		must(t, s.DeleteRange(1, last))
		for k := last + 1; k < last+40; k++ {
			must(t, s.StoreLog(&raft.Log{Index: k, Term: 1, Data: make([]byte, 100<<10)}))
			must(t, takeSnapshot(s, k-5, 1, "state"))
			must(t, s.DeleteRange(0, k-5))
		}
		must(t, s.Close())
		fmt.Println("went on")
		return
	}
	dir := t.TempDir()
	out, err := child(t, dir).CombinedOutput()
	if err != nil || !bytes.Contains(out, []byte("went on\n")) {
		t.Fatalf("%v\n%s", err, out)
	}
	s := open(t, dir, Options{})
	if s.Sealed("r") != 1 {
		t.Error("the seal is lost")
	}
}
