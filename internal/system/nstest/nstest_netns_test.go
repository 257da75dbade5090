//go:build netns

package nstest

import (
	"strings"
	"testing"
	"time"
)

func TestMain(m *testing.M) { Main(m) }

func TestHosts(t *testing.T) {
	self, a, b := Self(t), New(t), New(t)
	sw := LAN(t, "eth0", self, a, b)
	a.Run(t, "ip", "addr", "add", "192.0.2.1/24", "dev", "eth0")
	b.Run(t, "ip", "addr", "add", "192.0.2.2/24", "dev", "eth0")
	b.Sysctl(t, "0", "ipv4", "icmp_echo_ignore_all")
	capture, atSwitch := self.Capture(t, "eth0"), sw.Capture(t, "port1")
	a.Run(t, "ping", "-c", "1", "-W", "2", "192.0.2.2")
	isARP := func(f []byte) bool { return f[12] == 0x08 && f[13] == 0x06 }
	// The bridge floods the broadcast to all, and the answer to the asker alone.
	frames := capture.Take(t, 1, 2*time.Second, isARP)
	if got := strings.TrimSpace(Dissect(t, frames, "arp.src.proto_ipv4", "arp.dst.proto_ipv4")); got != "192.0.2.1\t192.0.2.2" {
		t.Errorf("got %q, want the question for 192.0.2.2", got)
	}
	if frames := atSwitch.Take(t, 2, 2*time.Second, isARP); len(frames) != 2 {
		t.Errorf("got %d frames at the switch, want question and answer", len(frames))
	}
	if out := self.Run(t, "ip", "-br", "link"); strings.Count(out, "\n") != 2 {
		t.Errorf("got links %q, want lo and eth0 alone", out)
	}
}
