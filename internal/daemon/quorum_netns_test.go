//go:build netns

package daemon

import (
	"errors"
	"os/exec"
	"strings"
	"testing"
	"time"

	"pgvrrp/internal/quiet"
	"pgvrrp/internal/system"
	"pgvrrp/internal/system/nstest"
)

func TestMain(m *testing.M) {
	nstest.MainOnLoopback(m)
}

// While a reload goes on, an address is guarded that was before, or will be: it may be up until its instance has stopped.
func TestGuardDuringAReload(t *testing.T) {
	nstest.Require(t, "nft")
	dir := t.TempDir()
	block := quorumOf(t, dir, "n1", "resource vip plain")
	former, next := vi(1, "192.0.2.1/24", "quorum vip")+vi(2, "192.0.2.2/24"), vi(1, "192.0.2.1/24")+vi(2, "192.0.2.2/24", "quorum vip")
	g := openQuorum(t, block+former)
	guards := func(when, want string) {
		t.Helper()
		out, err := exec.CommandContext(t.Context(), "nft", "list", "ruleset").CombinedOutput()
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		var got []string
		for _, a := range []string{"192.0.2.1", "192.0.2.2"} {
			if strings.Contains(string(out), a) {
				got = append(got, a)
			}
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%s: got %v guarded, want %s", when, got, want)
		}
	}
	guards("before", "192.0.2.1")
	config, _, _ := load(t, block+next)
	if err := g.reconfigure(config); err != nil {
		t.Fatal(err)
	}
	guards("while instances stop and start", "192.0.2.1 192.0.2.2")
	g.reconfigured()
	guards("after", "192.0.2.2")

	config, _, _ = load(t, strings.Replace(block, "resource vip plain", "resource vip plain\nno_quorum_policy ignore", 1)+next)
	if err := g.reconfigure(config); err == nil {
		t.Error("a reload without grants: got no refusal")
	}
	guards("after a refusal", "192.0.2.2")
}

// An address that a reload adds to a resource that is held here is opened by the next renewal, and is no reason to lose the lease.
func TestRenewalAfterAReload(t *testing.T) {
	nstest.Require(t, "nft")
	block := quorumOf(t, t.TempDir(), "n1", "resource vip plain")
	g := openQuorum(t, block+vi(1, "192.0.2.1/24", "quorum vip"))
	guard, deadline := kernelGuard{g}, quiet.BootTime()+time.Minute
	if err := guard.Refresh("vip", deadline); !errors.Is(err, system.ErrLapsed) {
		t.Errorf("renewed before it was opened: got %v, want %v", err, system.ErrLapsed)
	}
	if err := guard.Open("vip", deadline); err != nil {
		t.Fatal(err)
	}
	for _, vips := range []string{"192.0.2.1/24\n192.0.2.2/24", "192.0.2.2/24"} {
		config, _, _ := load(t, block+vi(1, vips, "quorum vip"))
		if err := g.reconfigure(config); err != nil {
			t.Fatal(err)
		}
		g.reconfigured()
		if err := guard.Refresh("vip", deadline); err != nil {
			t.Errorf("renewed with %q: %v", vips, err)
		}
	}
	out, err := exec.CommandContext(t.Context(), "nft", "list", "set", "inet", "vrrpd", "open4").CombinedOutput()
	if err != nil || !strings.Contains(string(out), "192.0.2.2 timeout") {
		t.Errorf("the further address is not open: %v\n%s", err, out)
	}
	if err := guard.Shut("vip"); err != nil {
		t.Fatal(err)
	}
	if err := guard.Refresh("vip", deadline); !errors.Is(err, system.ErrLapsed) {
		t.Errorf("renewed after it was shut: got %v, want %v", err, system.ErrLapsed)
	}
}
