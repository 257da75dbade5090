package trust

import (
	"bytes"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"pgvrrp/internal/files"
)

const (
	keySize   = 32
	keyHeader = "vrrpd quorum key 1"
	redacted  = "trust.Key(redacted)"
	// maxKeyFile is far above what WriteKey writes; a larger file is something else.
	maxKeyFile = 4096
)

// Key is the secret that all voters share. It shows itself in no format, log or encoding. The zero value is no key:
// everything made from it fails.
type Key struct {
	// A function, because fmt prints what is in an unexported field, even behind a pointer, without asking its methods.
	secret func() []byte
}

var errNoKey = errors.New("no key was read")

// String tells nothing.
func (Key) String() string { return redacted }

// GoString tells nothing.
func (Key) GoString() string { return redacted }

// LogValue tells nothing.
func (Key) LogValue() slog.Value { return slog.StringValue(redacted) }

// Format tells nothing, whatever the verb: %d would bypass String.
func (Key) Format(s fmt.State, _ rune) { _, _ = io.WriteString(s, redacted) }

// MarshalText tells nothing.
func (Key) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// derive returns 32 bytes that belong to one use of the key (RFC 5869, without a salt).
func (k Key) derive(use string) ([]byte, error) {
	if k.secret == nil {
		return nil, errNoKey
	}
	return hkdf.Key(sha256.New, k.secret(), nil, "vrrpd quorum 1 "+use, keySize)
}

// WriteKey makes a new random key and writes it to path with mode 0600, durably. An existing file is an error and stays
// as it is: a second key would split the cluster.
func WriteKey(path string) (err error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, 0o600)
	if errors.Is(err, os.ErrExist) {
		return fmt.Errorf("write key %s: it exists already: remove it first if no voter uses it", path)
	}
	if err != nil {
		return fmt.Errorf("write key %s: %w", path, pathCause(err))
	}
	defer func() {
		if err != nil {
			_ = f.Close()
			_ = os.Remove(path)
			err = fmt.Errorf("write key %s: %w", path, pathCause(err))
		}
	}()
	var secret [keySize]byte
	if _, err := rand.Read(secret[:]); err != nil {
		return err
	}
	// The umask may have taken bits away.
	if err := f.Chmod(0o600); err != nil {
		return err
	}
	if _, err := f.WriteString(keyHeader + "\n" + base64.StdEncoding.EncodeToString(secret[:]) + "\n"); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return files.SyncDir(filepath.Dir(path))
}

// ReadKey reads the key that WriteKey wrote. It refuses a file that anybody but its owner may read or change, that
// belongs neither to root nor to this process's user, that is a symbolic link or no regular file, or whose text is not
// a key. The error says how to mend it.
func ReadKey(path string) (Key, error) {
	// Without O_NONBLOCK a named pipe would wait for its writer.
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if errors.Is(err, unix.ELOOP) {
		return Key{}, fmt.Errorf("read key %s: it is a symbolic link: name the file itself", path)
	}
	if errors.Is(err, os.ErrNotExist) {
		return Key{}, fmt.Errorf("read key %s: %w: make it once with `vrrpd quorum keygen`, then copy it to every node",
			path, os.ErrNotExist)
	}
	if err != nil {
		return Key{}, fmt.Errorf("read key %s: %w", path, pathCause(err))
	}
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return Key{}, fmt.Errorf("read key %s: %w", path, err)
	}
	if problem := checkFile(path, st.Mode, st.Uid, uint32(os.Geteuid())); problem != "" {
		return Key{}, fmt.Errorf("read key %s: %s", path, problem)
	}
	text, err := io.ReadAll(io.LimitReader(f, maxKeyFile+1))
	if err != nil {
		return Key{}, fmt.Errorf("read key %s: %w", path, pathCause(err))
	}
	k, problem := parseKey(text)
	if problem != "" {
		return Key{}, fmt.Errorf("read key %s: %s: copy the file again from a node where it works", path, problem)
	}
	return k, nil
}

// checkFile says what is wrong with a key file's mode and owner, and how to mend it; "" if nothing is.
func checkFile(path string, mode, owner, self uint32) string {
	switch {
	case mode&unix.S_IFMT != unix.S_IFREG:
		return "it is not a regular file: name a file that `vrrpd quorum keygen` made"
	case owner != 0 && owner != self:
		return fmt.Sprintf("it belongs to user %d, who could change it: chown %d %s", owner, self, path)
	case mode&0o077 != 0:
		return fmt.Sprintf("its mode %04o lets others use it: chmod 0600 %s", mode&0o7777, path)
	}
	return ""
}

// parseKey reads a key file's text or says what is wrong with it. It never repeats any of the text.
func parseKey(text []byte) (Key, string) {
	if len(text) > maxKeyFile {
		return Key{}, "it is too long for a key"
	}
	first, rest, found := bytes.Cut(text, []byte("\n"))
	if !found || string(first) != keyHeader {
		return Key{}, fmt.Sprintf("its first line is not %q", keyHeader)
	}
	line, rest, _ := bytes.Cut(rest, []byte("\n"))
	if len(rest) != 0 {
		return Key{}, "it has more than two lines"
	}
	secret, err := base64.StdEncoding.Strict().DecodeString(string(line))
	if err != nil || bytes.ContainsRune(line, '\r') {
		return Key{}, "its second line is not base64"
	}
	if len(secret) != keySize {
		return Key{}, fmt.Sprintf("its key has %d bytes, want %d", len(secret), keySize)
	}
	return Key{secret: func() []byte { return secret }}, ""
}

// pathCause is the cause within an *os.PathError: our messages name the path themselves.
func pathCause(err error) error {
	var p *os.PathError
	if errors.As(err, &p) {
		return p.Err
	}
	return err
}
