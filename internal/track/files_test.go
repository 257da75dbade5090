package track

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgvrrp/internal/conf"
)

func TestNumber(t *testing.T) {
	for _, tc := range []struct {
		text           string
		value          int
		found, inRange bool
	}{
		{"", 0, false, true}, {"7\n", 7, true, true}, {" -12 rest", -12, true, true}, {"+3", 3, true, true}, {"0x1F", 31, true, true},
		{"010", 8, true, true}, {"08", 0, true, true}, {"0x", 0, true, true}, {"abc", 0, false, true}, {"-", 0, false, true},
		{"2147483647", 2147483647, true, true}, {"2147483648", 0, true, false}, {"99999999999999999999", 0, true, false},
	} {
		if v, found, ok := number(tc.text); v != tc.value || found != tc.found || ok != tc.inRange {
			t.Errorf("%q: %d %t %t, want %d %t %t", tc.text, v, found, ok, tc.value, tc.found, tc.inRange)
		}
	}
}

func TestFiles(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "plain")
	cfg := []conf.TrackFile{
		{Name: "plain", Path: path},
		{Name: "strict", Path: path, MissingFails: true},
		{Name: "below", Path: filepath.Join(path, "below")},
		{Name: "unreadable", Path: filepath.Join(dir, "loop")},
		{Name: "directory", Path: dir},
		{Name: "made", Path: filepath.Join(dir, "made"), Init: true, InitValue: -4},
	}
	if err := os.Symlink("loop", filepath.Join(dir, "loop")); err != nil {
		t.Fatal(err)
	}
	f := NewFiles(slog.New(slog.DiscardHandler), func() {})
	f.Replace(cfg)
	want := func(when, name string, value int, state State) {
		t.Helper()
		if v, s, reason := f.Value(name); v != value || s != state {
			t.Errorf("%s: %s is %d %s (%s), want %d %s", when, name, v, s, reason, value, state)
		}
	}
	look := func() {
		for _, t := range f.files {
			f.read(t)
		}
	}
	want("before", "plain", 0, Unknown)
	f.Init(cfg)
	look()
	want("missing", "plain", 0, OK)
	want("missing", "strict", 0, Unable)
	want("there, and not to be read", "unreadable", 0, Unable)
	want("no file", "directory", 0, Unable)
	want("init_file", "made", -4, OK)
	for _, tc := range []struct {
		content string
		value   int
		state   State
	}{{"5\n", 5, OK}, {"99999999999\n", 5, OK}, {"6", 6, OK}} {
		if err := os.WriteFile(path, []byte(tc.content), 0o600); err != nil {
			t.Fatal(err)
		}
		look()
		want(tc.content, "plain", tc.value, OK)
		want(tc.content, "strict", tc.value, tc.state)
		want("missing in another way", "below", 0, OK)
	}
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	look()
	want("empty", "plain", 0, OK)
	if _, s, _ := f.Value("strict"); s != Unable {
		t.Errorf("empty: strict is %s, want UNABLE", s)
	}
	f.Replace(cfg[:1])
	want("a reload keeps it", "plain", 0, OK)
	want("and forgets what is gone", "made", 0, Unable)
}

// A file whose reading hangs says nothing any more, and keeps no other from being read.
func TestFilesThatHang(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk := map[string]string{"good": "1", "bad": "2"}
		var mu sync.Mutex
		hang, told := make(chan struct{}), 0
		write := func(name, text string) {
			mu.Lock()
			defer mu.Unlock()
			disk[name] = text
		}
		f := NewFiles(slog.New(slog.DiscardHandler), func() { mu.Lock(); told++; mu.Unlock() })
		f.head = func(path string) ([]byte, error) {
			mu.Lock()
			text := disk[path]
			mu.Unlock()
			if text == "" {
				<-hang
			}
			return []byte(text), nil
		}
		f.Replace([]conf.TrackFile{{Name: "good", Path: "good"}, {Name: "bad", Path: "bad"}, {Name: "never", Path: "never"}})
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		go f.Run(ctx)
		want := func(name string, value int, state State, reason string) {
			t.Helper()
			synctest.Wait()
			if v, s, r := f.Value(name); v != value || s != state || r != reason {
				t.Errorf("%s: %s is %d %s (%s), want %d %s (%s)", time.Now(), name, v, s, r, value, state, reason)
			}
		}
		want("good", 1, OK, "")
		want("bad", 2, OK, "")
		want("never", 0, Unknown, "")
		write("bad", "")
		time.Sleep(time.Second)
		want("bad", 2, OK, "")
		write("good", "3")
		time.Sleep(2 * time.Second)
		want("good", 3, OK, "")
		want("bad", 0, Unable, "not read for 2s: reading bad hangs")
		want("never", 0, Unable, "not read for 2s: reading never hangs")
		mu.Lock()
		before := told
		disk["bad"], disk["never"] = "2", "0"
		mu.Unlock()
		close(hang)
		time.Sleep(filesEvery)
		want("bad", 2, OK, "")
		want("never", 0, OK, "")
		if told == before {
			t.Error("nobody was told that they are read again")
		}
	})
}

func TestEvaluateFiles(t *testing.T) {
	for _, tc := range []struct {
		name     string
		tracked  conf.Tracked
		value    int
		state    State
		priority uint8
		fault    string
		pending  string
	}{
		{"added", conf.Tracked{Weight: 2}, 10, OK, 120, "", ""},
		{"taken off", conf.Tracked{Weight: 2}, -10, OK, 80, "", ""},
		{"reverse", conf.Tracked{Weight: 2, Reverse: true}, 10, OK, 80, "", ""},
		{"bounded", conf.Tracked{Weight: 254}, 2147483647, OK, 254, "", ""},
		{"so low is a fault", conf.Tracked{Weight: -254}, 1, OK, 100, "file f: its value 1 with weight -254 is -254 or less", ""},
		{"just not", conf.Tracked{Weight: -253}, 1, OK, 1, "", ""},
		{"without weight", conf.Tracked{}, 1, OK, 100, "file f: its value is 1", ""},
		{"without weight, 0", conf.Tracked{}, 0, OK, 100, "", ""},
		{"without weight, reverse", conf.Tracked{Reverse: true}, 0, OK, 100, "file f: its value is 0", ""},
		{"missing fail", conf.Tracked{Weight: 5}, 0, Unable, 100, "file f: gone", ""},
		{"not read yet", conf.Tracked{}, 0, Unknown, 100, "", "file f"},
		{"not read yet, with weight", conf.Tracked{Weight: 5}, 0, Unknown, 100, "", ""},
		{"undefined", conf.Tracked{Weight: -5, Undefined: true}, 7, OK, 95, "", ""},
		{"undefined without weight", conf.Tracked{Undefined: true}, 0, OK, 100, "file f: not defined", ""},
	} {
		tc.tracked.Name = "f"
		v := Evaluate(100, Source{Kind: "file", Tracked: []conf.Tracked{tc.tracked}, Value: func(string) (int, State, string) { return tc.value, tc.state, "gone" }})
		if want := (Verdict{Priority: tc.priority, Fault: tc.fault, Pending: tc.pending}); v != want {
			t.Errorf("%s: %+v, want %+v", tc.name, v, want)
		}
	}
}

// FuzzNumber: a number is within 32 bits, and what stands behind it changes nothing.
func FuzzNumber(f *testing.F) {
	for _, text := range []string{"", "0", "-1", "+7 x", "0x7fffffff", "0x", "-0x80000000", "010", "08", "99999999999999999999", " \n-12\n", "--1"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		value, found, inRange := number(text)
		if value != int(int32(value)) || value != 0 && (!found || !inRange) {
			t.Errorf("got %d, found %t, in range %t", value, found, inRange)
		}
		if v, ok, in := number(text + " 1"); found && (v != value || ok != found || in != inRange) {
			t.Errorf("with more text behind it: got %d, %t, %t, want %d, %t, %t", v, ok, in, value, found, inRange)
		}
	})
}
