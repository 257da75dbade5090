//go:build e2e

// Package e2e runs whole hosts on real kernels: vrrpd and keepalived beside each other, their packets, addresses, hooks and
// ends. It needs root, keepalived, nft and tshark; PGVRRP_BIN names the directory of the programs under test, which are
// built for the run if it is not set.
package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"pgvrrp/test/lab"
)

func TestMain(m *testing.M) { lab.RunTests(suite{m}) }

// suite removes at the end what was built for it.
type suite struct{ m *testing.M }

func (s suite) Run() int {
	defer built.remove()
	return s.m.Run()
}

// builder finds the programs under test, or builds each once.
type builder struct {
	mu   sync.Mutex
	dir  string
	made map[string]error
}

var built = builder{made: map[string]error{}}

// machine is shared by all labs: those that stand at the same time belong to tests that run in parallel, because they wait most of
// their time.
var machine lab.Machine

func (b *builder) program(name string) (string, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if dir := os.Getenv("PGVRRP_BIN"); dir != "" {
		path := filepath.Join(dir, name)
		_, err := os.Stat(path)
		return path, err
	}
	if b.dir == "" {
		dir, err := os.MkdirTemp("", "pgvrrp-e2e-*")
		if err != nil {
			return "", fmt.Errorf("build %s: %w", name, err)
		}
		b.dir = dir
	}
	path := filepath.Join(b.dir, name)
	if _, ok := b.made[name]; !ok {
		b.made[name] = nil
		out, err := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-o", path, "pgvrrp/cmd/"+name).CombinedOutput()
		if err != nil {
			b.made[name] = fmt.Errorf("build %s: %w: %s", name, err, out)
		}
	}
	return path, b.made[name]
}

func (b *builder) remove() {
	if b.dir != "" {
		_ = os.RemoveAll(b.dir)
	}
}

// program is the path of a program under test.
func program(t *testing.T, name string) string {
	t.Helper()
	path, err := built.program(name)
	if err != nil {
		t.Fatal(err)
	}
	return path
}
