package conf

import (
	"strings"
	"testing"
)

// The two blocks as the design shows them, word for word but for the line "...", which stands for what every instance has,
// and without the comment about guard_port, which is not part of this version.
const (
	overviewInstance = `vrrp_instance VI_PG {
    ...
    quorum pg               # mastership of this instance needs a grant for the resource "pg"
    vip_after_notify 30     # run notify_master/notify to its end first; VIPs and GARP only if it exits 0 within 30 s (implied by a postgresql resource)
    notify_retry 10         # after a failed hook: priority 0, FAULT for so long
    vip_lifetime 2          # kernel lifetime of the VIPs in seconds, renewed while vrrpd lives; 0 = for ever (the default without quorum)
}
`
	overviewQuorum = `quorum {
    node n1
    key_file /etc/vrrpd/quorum.key      # one shared key, as corosync's authkey: mutual TLS 1.3 and datagram HMACs come from it
    state_dir /var/lib/vrrpd
    port 3741
    voter   n1 10.78.0.1 10.77.0.1      # several addresses = several links, all used (corosync's two rings)
    voter   n2 10.78.0.2 10.77.0.2
    voter   n3 10.78.0.3 10.77.0.3
    witness w1 10.77.0.21 votes 2       # or two witnesses with one vote each
    resource pg postgresql              # the kind is written, never inferred: postgresql (needs a connected agent) | plain (any data node)
    agent_user postgres                 # who may speak for PostgreSQL on the control socket
    lease 0.4
    no_quorum_policy freeze             # freeze | stop | ignore | suicide (suicide runs reboot_command)
    guard nftables                      # nftables | lifetime | none; guards the VIPs (packets, ARP, ND)
    fencing automatic                   # off | automatic | required
    fence n1 "/usr/sbin/fence_ipmilan" /etc/vrrpd/fence-n1.conf   # key=value lines, given on the agent's standard input
    watchdog /dev/watchdog timeout 2 mode automatic               # off | automatic | required
}
`
	everyInstance = `state BACKUP
    interface eth0
    virtual_router_id 51
    priority 100
    notify "/usr/bin/pgnotify notify" postgres
    virtual_ipaddress {
        10.77.0.100/24
    }`
)

// TestOverview: the design's own examples are clean by the strictest measure. What is not part of this version says so, and nothing else
// is wrong with it.
func TestOverview(t *testing.T) {
	// enable_script_security as in every sample of etc/: security is not what this is about
	text := "global_defs {\n    enable_script_security\n}\n" + strings.Replace(overviewInstance, "...", everyInstance, 1) + overviewQuorum
	_, found := load(text)
	wantDiags(t, found, "fencing: fencing is not part of this version", "fence: fencing is not part of this version", "watchdog: a watchdog is not part of this version")

	off := strings.NewReplacer("fencing automatic ", "fencing off ", "mode automatic ", "mode off ").Replace(text)
	off = strings.Join(deleteLines(off, "    fence n1 "), "")
	c, found := load(off)
	for _, d := range found {
		t.Errorf("without fencing and watchdog: %s", d)
	}
	if code := ExitCode(found, true); code != 0 {
		t.Errorf("check --strict: got exit code %d, want 0", code)
	}
	if c.Quorum == nil || len(c.Quorum.Voters) != 4 || len(c.Quorum.Voters[3].Addrs) != 1 || c.Quorum.Voters[3].Votes != 2 || c.Instances[0].Quorum != "pg" {
		t.Errorf("got %+v", c.Quorum)
	}

	// The same block alone is the witness's file.
	witness := strings.Join(deleteLines(strings.NewReplacer("fencing automatic ", "fencing off ", "mode automatic ", "mode off ", "node n1", "node w1").Replace(overviewQuorum), "    fence n1 "), "")
	c, found = load(witness)
	for _, d := range found {
		t.Errorf("witness: %s", d)
	}
	if !c.Witness("w1") {
		t.Errorf("witness: got %+v", c.Quorum)
	}
}

func deleteLines(text, prefix string) []string {
	var kept []string
	for line := range strings.Lines(text) {
		if !strings.HasPrefix(line, prefix) {
			kept = append(kept, line)
		}
	}
	return kept
}
