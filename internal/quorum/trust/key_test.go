package trust

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// newKey makes a key in a file of its own.
func newKey(t *testing.T) Key {
	t.Helper()
	path := filepath.Join(t.TempDir(), "key")
	if err := WriteKey(path); err != nil {
		t.Fatal(err)
	}
	k, err := ReadKey(path)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestWriteKey(t *testing.T) {
	path := filepath.Join(t.TempDir(), "quorum.key")
	// A umask that takes everything away must not leave a file that its owner cannot read.
	old := unix.Umask(0o777)
	err := WriteKey(path)
	unix.Umask(old)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := info.Mode(), os.FileMode(0o600); got != want {
		t.Errorf("mode: got %v, want %v", got, want)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(string(text), "\n")
	if len(lines) != 3 || lines[0] != keyHeader || lines[2] != "" {
		t.Fatalf("got %d lines, the first %q", len(lines), lines[0])
	}
	secret, err := base64.StdEncoding.DecodeString(lines[1])
	if err != nil || len(secret) != 32 {
		t.Fatalf("second line: %d bytes, %v", len(secret), err)
	}
	k, err := ReadKey(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(k.secret(), secret) {
		t.Error("read another key than was written")
	}
	if other := newKey(t); bytes.Equal(other.secret(), k.secret()) {
		t.Error("two keys are the same")
	}

	err = WriteKey(path)
	if err == nil || !strings.Contains(err.Error(), "exists already") {
		t.Errorf("write over a key: got %v", err)
	}
	if again, _ := os.ReadFile(path); !bytes.Equal(again, text) {
		t.Error("the refused write changed the file")
	}
	dangling := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(filepath.Join(t.TempDir(), "elsewhere"), dangling); err != nil {
		t.Fatal(err)
	}
	if err := WriteKey(dangling); err == nil {
		t.Error("wrote a key through a symbolic link")
	}
	if err := WriteKey(filepath.Join(path, "below")); err == nil {
		t.Error("wrote a key below a file")
	}
}

func TestReadKeyRefuses(t *testing.T) {
	good := keyHeader + "\n" + base64.StdEncoding.EncodeToString(make([]byte, 32)) + "\n"
	for _, tc := range []struct {
		name string
		text string
		mode os.FileMode
		want string
	}{
		{"group may read", good, 0o640, "its mode 0640 lets others use it: chmod 0600 "},
		{"others may read", good, 0o604, "chmod 0600"},
		{"group may write", good, 0o620, "chmod 0600"},
		{"others may execute", good, 0o601, "chmod 0600"},
		{"empty", "", 0o600, "its first line is not"},
		{"header alone", keyHeader, 0o600, "its first line is not"},
		{"other header", "-----BEGIN KEY-----\nAAAA\n", 0o600, "its first line is not"},
		{"no base64", keyHeader + "\n" + strings.Repeat("?", 44) + "\n", 0o600, "not base64"},
		{"dos line ends", strings.ReplaceAll(good, "\n", "\r\n"), 0o600, "its first line is not"},
		{"dos end of the key", strings.TrimSuffix(good, "\n") + "\r\n", 0o600, "not base64"},
		{"short", keyHeader + "\n" + base64.StdEncoding.EncodeToString(make([]byte, 31)) + "\n", 0o600, "has 31 bytes, want 32"},
		{"long", keyHeader + "\n" + base64.StdEncoding.EncodeToString(make([]byte, 33)) + "\n", 0o600, "has 33 bytes, want 32"},
		{"no key", keyHeader + "\n\n", 0o600, "has 0 bytes, want 32"},
		{"trailing line", good + "more\n", 0o600, "more than two lines"},
		{"huge", good + strings.Repeat("x", maxKeyFile), 0o600, "too long"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "key")
			if err := os.WriteFile(path, []byte(tc.text), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(path, tc.mode); err != nil {
				t.Fatal(err)
			}
			_, err := ReadKey(path)
			if err == nil {
				t.Fatal("read it")
			}
			if !strings.Contains(err.Error(), tc.want) || !strings.HasPrefix(err.Error(), "read key "+path+": ") {
				t.Errorf("got %q, want it to say %q", err, tc.want)
			}
		})
	}
	t.Run("without its last newline", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "key")
		if err := os.WriteFile(path, []byte(strings.TrimSuffix(good, "\n")), 0o400); err != nil {
			t.Fatal(err)
		}
		if _, err := ReadKey(path); err != nil {
			t.Errorf("got %v", err)
		}
	})
}

func TestReadKeyFileTypes(t *testing.T) {
	dir := t.TempDir()
	real := filepath.Join(dir, "real")
	if err := WriteKey(real); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(dir, "link")
	if err := os.Symlink(real, link); err != nil {
		t.Fatal(err)
	}
	fifo := filepath.Join(dir, "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct{ name, path, want string }{
		{"symbolic link", link, "it is a symbolic link: name the file itself"},
		{"named pipe without a writer", fifo, "it is not a regular file"},
		{"directory", dir, "it is not a regular file"},
		{"missing", filepath.Join(dir, "none"), "vrrpd quorum keygen"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := ReadKey(tc.path)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want it to say %q", err, tc.want)
			}
			if tc.name == "missing" && !errors.Is(err, os.ErrNotExist) {
				t.Errorf("%v is not ErrNotExist", err)
			}
		})
	}
}

func TestCheckFile(t *testing.T) {
	const regular = unix.S_IFREG
	for _, tc := range []struct {
		name              string
		mode, owner, self uint32
		want              string
	}{
		{"root's, we are root", regular | 0o600, 0, 0, ""},
		{"root's, we are not", regular | 0o400, 0, 1000, ""},
		{"ours", regular | 0o600, 1000, 1000, ""},
		{"another user's", regular | 0o600, 1001, 1000, "it belongs to user 1001, who could change it: chown 1000 /k"},
		{"another user's, we are root", regular | 0o600, 1001, 0, "it belongs to user 1001, who could change it: chown 0 /k"},
		{"set-uid bit", regular | 0o4640, 0, 0, "its mode 4640 lets others use it: chmod 0600 /k"},
		{"device", unix.S_IFCHR | 0o600, 0, 0, "it is not a regular file: name a file that `vrrpd quorum keygen` made"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := checkFile("/k", tc.mode, tc.owner, tc.self); got != tc.want {
				t.Errorf("got %q, want %q", got, tc.want)
			}
		})
	}
}

func TestKeyIsNeverShown(t *testing.T) {
	k := newKey(t)
	text := base64.StdEncoding.EncodeToString(k.secret())
	shown := map[string]string{}
	for _, f := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%o", "%b", "%U"} {
		shown[f] = fmt.Sprintf(f, k)
		shown[f+" of a pointer"] = fmt.Sprintf(f, &k)
		shown[f+" in an exported field"] = fmt.Sprintf(f, struct{ Key Key }{k})
		shown[f+" in an unexported field"] = fmt.Sprintf(f, struct{ key Key }{k})
	}
	j, err := json.Marshal(struct{ Key Key }{k})
	if err != nil {
		t.Fatal(err)
	}
	shown["json"] = string(j)
	var log bytes.Buffer
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "key", k, "options", struct{ Key Key }{k})
	shown["slog text"] = log.String()
	log.Reset()
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "key", k, "options", struct{ Key Key }{k})
	shown["slog json"] = log.String()
	shown["String"], shown["GoString"] = k.String(), k.GoString()
	for how, s := range shown {
		for what, secret := range map[string]string{
			"base64":  text,
			"hex":     fmt.Sprintf("%x", k.secret()[:4]),
			"HEX":     fmt.Sprintf("%X", k.secret()[:4]),
			"decimal": strings.Trim(fmt.Sprint(k.secret()[:4]), "[]"),
			"bytes":   string(k.secret()[:4]),
		} {
			if strings.Contains(s, secret) {
				t.Errorf("%s shows the key as %s", how, what)
			}
		}
	}
	if got, want := fmt.Sprint(k), redacted; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestNoKey(t *testing.T) {
	if _, err := (Key{}).Sealer(); !errors.Is(err, errNoKey) {
		t.Errorf("Sealer: got %v", err)
	}
	if _, err := (Key{}).Server("n1"); !errors.Is(err, errNoKey) {
		t.Errorf("Server: got %v", err)
	}
	if _, err := (Key{}).Client("n1", "n2"); !errors.Is(err, errNoKey) {
		t.Errorf("Client: got %v", err)
	}
}

func TestDerivedKeysDiffer(t *testing.T) {
	a, b := newKey(t), newKey(t)
	seen := map[string]string{}
	for name, k := range map[string]Key{"a": a, "b": b} {
		for _, use := range []string{"ca", "datagram"} {
			d, err := k.derive(use)
			if err != nil {
				t.Fatal(err)
			}
			if again, _ := k.derive(use); !bytes.Equal(again, d) {
				t.Errorf("%s/%s: derived twice, got two keys", name, use)
			}
			if other, ok := seen[string(d)]; ok {
				t.Errorf("%s/%s is the same key as %s", name, use, other)
			}
			seen[string(d)] = name + "/" + use
			if bytes.Equal(d, k.secret()) {
				t.Errorf("%s/%s is the key itself", name, use)
			}
		}
	}
}

func TestSealer(t *testing.T) {
	k := newKey(t)
	s, err := k.Sealer()
	if err != nil {
		t.Fatal(err)
	}
	other, err := newKey(t).Sealer()
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"", "x", strings.Repeat("payload ", 1000)} {
		b := s.Seal([]byte(text))
		if got, want := len(b), len(text)+MACSize; got != want {
			t.Fatalf("size: got %d, want %d", got, want)
		}
		if got, ok := s.Open(b); !ok || string(got) != text {
			t.Errorf("open what was sealed: got %d bytes, %v", len(got), ok)
		}
		if _, ok := other.Open(b); ok {
			t.Error("another key opens it")
		}
		for _, i := range []int{0, len(b) / 2, len(b) - 1} {
			c := bytes.Clone(b)
			c[i] ^= 1
			if _, ok := s.Open(c); ok {
				t.Errorf("opens with byte %d changed", i)
			}
		}
		if _, ok := s.Open(b[:len(b)-1]); ok {
			t.Error("opens without its last byte")
		}
		if _, ok := s.Open(append(bytes.Clone(b), 0)); ok {
			t.Error("opens with a byte more")
		}
	}
	for n := range MACSize {
		if _, ok := s.Open(make([]byte, n)); ok {
			t.Errorf("opens %d bytes", n)
		}
	}
}

func TestSealerConcurrent(t *testing.T) {
	s, err := newKey(t).Sealer()
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan bool)
	for g := range 4 {
		go func() {
			ok := true
			for i := range 200 {
				text := fmt.Sprintf("%d/%d", g, i)
				got, opened := s.Open(s.Seal([]byte(text)))
				ok = ok && opened && string(got) == text
			}
			done <- ok
		}()
	}
	for range 4 {
		if !<-done {
			t.Error("a datagram was sealed or opened wrongly")
		}
	}
}

func TestCheckName(t *testing.T) {
	for _, tc := range []struct {
		name string
		want bool
	}{
		{"n1", true}, {"w1/2", true}, {"db-1.example_A", true}, {strings.Repeat("n", MaxName), true},
		{"", false}, {strings.Repeat("n", MaxName+1), false}, {"n 1", false}, {"n1@x", false}, {"nü", false}, {"n\x00", false},
	} {
		if err := CheckName(tc.name); (err == nil) != tc.want {
			t.Errorf("CheckName(%q): got %v", tc.name, err)
		}
	}
}
