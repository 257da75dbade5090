package main

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pgvrrp/internal/cli"
)

// A witness does not run as root, and a key of root's is none for it: wherever the key is copied, that is said.
func TestTheKeyOfAWitness(t *testing.T) {
	const command = "install -o vrrpd -g vrrpd -m 600 quorum.key"
	var out strings.Builder
	if code := cli.Run(t.Context(), app(), []string{"vrrpd", "quorum", "keygen", filepath.Join(t.TempDir(), "quorum.key")}, &out, io.Discard); code != 0 || !strings.Contains(out.String(), command) {
		t.Errorf("keygen: got %d, %q, want %q in it", code, out.String(), command)
	}
	for file, want := range map[string]string{
		"README.md": command, "docs/quorum.md": command, "systemd/vrrpd-witness.service": command,
		"./README.md": "systemd-sysusers pgvrrp.conf", "scripts/install-data": "systemd-sysusers pgvrrp.conf", // which makes that user
	} {
		text, err := os.ReadFile(filepath.Join("../..", file))
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(text), want) {
			t.Errorf("%s: got no %q", file, want)
		}
	}
}
