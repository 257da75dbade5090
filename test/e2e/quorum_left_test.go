//go:build e2e

package e2e

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"pgvrrp/internal/control"
	"pgvrrp/test/lab"
)

// TestQuorumGuardLeft: without the quorum block nothing opens the guard of a run that was killed, so the next run takes it away; but never
// that of another vrrpd on the host.
func TestQuorumGuardLeft(t *testing.T) {
	l := newLab(t, 1)
	n1 := l.Host("n1")
	tables := func() string { return run(t, n1, "nft", "list", "tables") }
	guarded := func(what string, want bool) {
		t.Helper()
		if got := strings.Contains(tables(), "inet vrrpd"); got != want {
			t.Fatalf("%s: got the guard there %t, want %t", what, got, want)
		}
	}
	run(t, n1, "/usr/bin/mkdir", "-p", filepath.Dir(quorumKey), quorumState)
	run(t, n1, "vrrpd", "quorum", "keygen", quorumKey)
	quorum := block(fmt.Sprintf("quorum {\n  voter n1 %s\n  resource vip plain\n}\n", n1.Addr(lab.LAN)))
	first := startVrrpd(t, n1, file("", fast(150, "quorum vip"), quorum))
	waitState(t, n1, "VI_51", control.StateMaster)
	if got := whoAnswers(t, l, lab.VIP(1)); got != "n1" {
		t.Fatalf("%s: got an answer from %q, want n1", lab.VIP(1), got)
	}
	guarded("under quorum", true)

	// Another vrrpd without a quorum comes, and goes: by SIGTERM, and by SIGKILL with a cleanup behind it.
	const otherDir, otherFile = "/run/other", "/etc/vrrpd/other.conf"
	writeFile(t, n1, otherFile, file("", router{VRID: 52, Priority: 150, Interval: "0.1", VIPs: []string{lab.VIP(2).String() + "/24"}}), 0o644)
	for _, end := range []func(){
		func() { stop(t, n1, "other", endTime) },
		func() {
			kill(t, n1, "other")
			run(t, n1, "vrrpd", "cleanup", "-f", otherFile, "--run-dir", otherDir)
		},
	} {
		spawn(t, n1, "other", lab.Command{Argv: []string{"vrrpd", "run", "-f", otherFile, "--run-dir", otherDir, "--socket", otherDir + "/control.sock"}})
		waitHolder(t, l, lab.VIP(2), "n1")
		guarded("beside another vrrpd", true)
		end()
		guarded("after another vrrpd", true)
	}
	if !first.Running() {
		t.Fatal("the first vrrpd has ended")
	}

	kill(t, n1, "vrrpd")
	guarded("after SIGKILL", true)
	// The other one is not its owner.
	spawn(t, n1, "other", lab.Command{Argv: []string{"vrrpd", "run", "-f", otherFile, "--run-dir", otherDir, "--socket", otherDir + "/control.sock"}})
	waitHolder(t, l, lab.VIP(2), "n1")
	guarded("once the other one has started", true)
	p := startVrrpd(t, n1, file("", fast(150)))
	waitState(t, n1, "VI_51", control.StateMaster)
	guarded("without the block", false)
	if got := whoAnswers(t, l, lab.VIP(1)); got != "n1" {
		t.Errorf("%s without the block: got an answer from %q, want n1", lab.VIP(1), got)
	}
	if log := logOf(t, p); !strings.Contains(log, "removed the guard that a former run left") {
		t.Errorf("the log does not say so: %s", tail(log, 20))
	}
	if n := len(holders(l, lab.VIP(2))); n != 1 {
		t.Errorf("%s: got %d holders, want the other vrrpd's", lab.VIP(2), n)
	}
}
