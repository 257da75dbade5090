//go:build interop

package conf

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// deliberate names each file of the corpus on which vrrpd check and keepalived -t (2.2.7) differ, and why.
var deliberate = map[string]struct {
	ours, theirs int
	why          string
}{
	"address-twice":      {5, 0, "later versions of keepalived report it too"},
	"auth-hmac":          {0, 5, "later than 2.2.7"},
	"bad-auth-hmac":      {4, 5, "later than 2.2.7, and refused: without it adverts would be unauthenticated"},
	"bad-script-lines":   {5, -1, "keepalived crashes on the missing quote"},
	"bad-strict-unicast": {4, 0, "later versions of keepalived do not start"},
	"later-timers":       {0, 5, "later than 2.2.7"},
	"auth-ah":            {4, 0, "AH is refused: without it adverts would be unauthenticated"},
	"bad-no-interface":   {4, 5, notStarted},
	"bad-one-line":       {4, 5, notStarted},
	"bad-unicast":        {4, 5, notStarted},
	"bad-v3-no-vip":      {4, 5, notStarted},
	"bad-vrid-missing":   {4, 5, notStarted},
	"bad-vrid-range":     {4, 5, notStarted},
	"bad-vrid-twice":     {4, 5, notStarted},
	"extensions":         {0, 5, "keywords of ours"},
	"extensions-bad":     {4, 5, "keywords of ours, with which every error counts"},
	"head-only":          {6, 6, "later than 2.2.7; each for its own reason"},
	"include-strict":     {4, 6, "nothing can be run, and keepalived's 6 (no configuration) is also its code for script security"},
	"pair-lvs":           {0, 6, "the program is a check of the load balancer's, which vrrpd runs none of"},
	"quorum":             {0, 5, "keywords of ours"},
	"quorum-bad":         {4, 5, "keywords of ours, with which every error counts"},
	"quorum-witness":     {0, 5, "keywords of ours"},
	"long-password":      {0, 5, "lint: the password is cut on every node alike"},
	"surplus-words":      {6, 0, "the hook's program does not exist, which check does not look at"},
	"v2-ipv6":            {5, 0, "keepalived goes to version 3 without a word"},
}

// keepalived -t has a lower class than what it does when it runs.
const notStarted = "keepalived -t has 5, and then does not start"

// TestKeepalived runs keepalived -t over the corpus, in a network namespace with the interfaces that the files name.
func TestKeepalived(t *testing.T) {
	program, err := exec.LookPath("keepalived")
	if err != nil {
		missingHere(t, "keepalived is not installed")
	}
	if os.Getuid() != 0 {
		missingHere(t, "not root: cannot make a network namespace")
	}
	used := map[string]bool{}
	for _, file := range corpus(t) {
		name := strings.TrimSuffix(filepath.Base(file), ".conf")
		t.Run(name, func(t *testing.T) {
			_, diags := Load(file, testdataOptions())
			ours := ExitCode(diags, false)
			theirs, output := keepalived(t, program, file)
			want, known := deliberate[name]
			used[name] = known
			switch {
			case known && (ours != want.ours || theirs != want.theirs):
				t.Errorf("got %d, keepalived %d, want %d and %d (%s)\n%s", ours, theirs, want.ours, want.theirs, want.why, output)
			case !known && ours != theirs:
				t.Errorf("got %d, keepalived %d\n  %s\n%s", ours, theirs, strings.Join(lines(diags), "\n  "), output)
			}
		})
	}
	for name := range deliberate {
		if !used[name] {
			t.Errorf("difference %q is not needed", name)
		}
	}
}

// deliberateLines are the lines of virtual_ipaddress that only one of the two finds fault with, and why.
var deliberateLines = map[string]string{
	"10.0.0.1/":                    "keepalived overlooks that the prefix length is missing",
	"10.0.0.1 peer 10.0.0.2/24":    laterPeer,
	"10.0.0.1/24 peer 10.0.0.2/25": laterPeer,
	"10.0.0.1 dev eth9 use_vmac":   "the host's interfaces are looked at by the program, not by the parser",
}

const laterPeer = "later versions of keepalived take a prefix length at the peer"

// TestKeepalivedAddressLines runs keepalived -t over each line that TestAddressLines reads.
func TestKeepalivedAddressLines(t *testing.T) {
	program, err := exec.LookPath("keepalived")
	if err != nil || os.Getuid() != 0 {
		missingHere(t, "needs keepalived and root")
	}
	used := map[string]bool{}
	for _, tt := range addressLines() {
		t.Run(tt.line, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "f")
			if err := os.WriteFile(file, []byte(tt.file()), 0o644); err != nil {
				t.Fatal(err)
			}
			_, diags := Load(file, testdataOptions())
			ours := ExitCode(diags, false)
			theirs, output := keepalived(t, program, file)
			why, known := deliberateLines[tt.line]
			used[tt.line] = known
			if (ours == theirs) == known {
				t.Errorf("got %d, keepalived %d (%s)\n  %s\n%s", ours, theirs, why, strings.Join(lines(diags), "\n  "), output)
			}
		})
	}
	for line := range deliberateLines {
		if !used[line] {
			t.Errorf("difference %q is not needed", line)
		}
	}
}

func missingHere(t *testing.T, why string) {
	t.Helper()
	if os.Getenv("CI") != "" || os.Getenv("PGVRRP_REQUIRE") != "" {
		t.Fatal(why)
	}
	t.Skip(why)
}

// keepalived checks a file, and gives the exit code (2 as 4, see ExitCode) and what it said.
func keepalived(t *testing.T, program, file string) (int, string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	abs, err := filepath.Abs(file)
	if err != nil {
		t.Fatal(err)
	}
	const script = `
set -e
for i in 0 1 2; do
	ip link add eth$i type bridge
	ip addr add 10.9.$i.1/24 dev eth$i
	ip link set eth$i up
done
shift
exec "$@"`
	cmd := exec.CommandContext(ctx, "sh", "-c", script, "sh", "--", program, "-t", "-i", "n1", "-f", abs)
	cmd.Dir = t.TempDir()
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS}
	output, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("%v\n%s", err, output)
	}
	code := cmd.ProcessState.ExitCode()
	if code == 2 {
		code = ExitCannot
	}
	return code, string(output)
}

// TestKeepalivedSamples reads the samples that come with keepalived: where it has nothing to say, we know every word.
func TestKeepalivedSamples(t *testing.T) {
	program, err := exec.LookPath("keepalived")
	if err != nil || os.Getuid() != 0 {
		missingHere(t, "needs keepalived and root")
	}
	samples, err := filepath.Glob("/usr/share/doc/keepalived/samples/keepalived.conf.*")
	if err != nil || len(samples) == 0 {
		t.Skip("keepalived's samples are not installed")
	}
	for _, file := range samples {
		t.Run(filepath.Base(file), func(t *testing.T) {
			_, diags := Load(file, testdataOptions())
			theirs, output := keepalived(t, program, file)
			if theirs != ExitClean && theirs != ExitSecurity {
				return
			}
			if ExitCode(diags, false) == ExitCannot || strings.Contains(strings.Join(lines(diags), "\n"), "unknown keyword") {
				t.Errorf("got\n  %s\nkeepalived %d\n%s", strings.Join(lines(diags), "\n  "), theirs, output)
			}
		})
	}
}
