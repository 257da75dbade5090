package conf

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
)

// nodes is a quorum block of these lines and a resource pg, nothing else; the first line is line 2.
func nodes(lines ...string) string {
	return "quorum {\n" + strings.Join(lines, "\n") + "\nresource pg plain\n}\n"
}

func TestQuorumDefaults(t *testing.T) {
	c, diags := load(quorum())
	wantDiags(t, diags)
	if !c.Extended || len(c.Instances) != 0 {
		t.Errorf("extended %v, %d instances", c.Extended, len(c.Instances))
	}
	voter := func(line int, name, addr string, witness bool) Voter {
		return Voter{Pos: Pos{"f", line, 1}, Name: name, Addrs: []netip.Addr{netip.MustParseAddr(addr)}, Witness: witness, Votes: 1}
	}
	want := &Quorum{
		KeyFile: "/etc/vrrpd/quorum.key", StateDir: "/var/lib/vrrpd", Port: 3741, AgentUser: "postgres",
		Lease: 400 * time.Millisecond, Policy: PolicyFreeze, Guard: GuardNFTables,
		Voters:    []Voter{voter(2, "n1", "10.77.0.1", false), voter(3, "n2", "10.77.0.2", false), voter(4, "w1", "10.77.0.21", true)},
		Resources: []Resource{{Name: "pg", Kind: KindPlain}},
	}
	if !c.Quorum.Equal(want) {
		t.Errorf("got %+v, want %+v", c.Quorum, want)
	}
	for i, v := range c.Quorum.Voters {
		if v.Pos != want.Voters[i].Pos {
			t.Errorf("%s stands at %s, want %s", v.Name, v.At(), want.Voters[i].At())
		}
	}
}

func TestQuorum(t *testing.T) {
	three := []string{"voter n1 10.0.0.1", "voter n2 10.0.0.2", "voter n3 10.0.0.3"}
	with := func(more ...string) string { return nodes(append(slices.Clone(three), more...)...) }
	tests := []struct {
		name, text, want string                 // want: what value gives
		value            func(q *Quorum) string // nil: only the findings count
		diags            []string
	}{
		{"three data nodes", with(), "n1:10.0.0.1 n2:10.0.0.2 n3:10.0.0.3", votersOf, nil},
		{"a second vote", nodes("voter n1 10.0.0.1", "witness w1 10.0.0.21 votes 2"), "n1:10.0.0.1 w1(2):10.0.0.21", votersOf, nil},
		{"votes 1", nodes("voter n1 10.0.0.1", "voter n2 10.0.0.2", "witness w1 10.0.0.21 votes 1"), "n1:10.0.0.1 n2:10.0.0.2 w1(1):10.0.0.21", votersOf, nil},
		{"lines mixed, order kept", nodes("witness w1 10.0.0.21", "voter n2 10.0.0.2", "voter n1 10.0.0.1"), "w1(1):10.0.0.21 n2:10.0.0.2 n1:10.0.0.1", votersOf, nil},
		{"both families", with("witness w1 2001:db8::21", "witness w2 10.0.0.22"), "n1:10.0.0.1 n2:10.0.0.2 n3:10.0.0.3 w1(1):2001:db8::21 w2(1):10.0.0.22", votersOf, nil},
		{"several links", nodes("voter n1 10.0.0.1 10.1.0.1", "voter n2 10.0.0.2 10.1.0.2", "witness w1 10.0.0.3 2001:db8::3"),
			"n1:10.0.0.1,10.1.0.1 n2:10.0.0.2,10.1.0.2 w1(1):10.0.0.3,2001:db8::3", votersOf, nil},
		{"all on loopback", nodes("voter n1 127.0.0.1", "voter n2 127.0.0.2", "witness w1 ::1"), "n1:127.0.0.1 n2:127.0.0.2 w1(1):::1", votersOf, nil},
		{"names", nodes("voter a.b_c-9 10.0.0.1", "voter 2 10.0.0.2", "witness votes 10.0.0.3"), "a.b_c-9:10.0.0.1 2:10.0.0.2 votes(1):10.0.0.3", votersOf, nil},

		{"name of 63 letters", nodes("voter " + strings.Repeat("x", 63) + " 10.0.0.1"), "63", nameLengthOf,
			[]string{"lint f:1:1: quorum: one vote alone survives no failure, expected more voters or witnesses"}},
		{"name of 64 letters", with("witness " + strings.Repeat("x", 64) + " 10.0.0.9 votes 2"), "", nil, []string{"fatal f:5:9: witness: invalid name"}},
		{"name with a slash", with("witness w/2 10.0.0.9 votes 2"), "", nil, []string{`fatal f:5:9: witness: invalid name, expected at most 63 letters, digits, . _ or -, the first a letter or digit (got "w/2")`}},
		{"name that looks like a flag", with("witness -w 10.0.0.9 votes 2"), "", nil, []string{"fatal f:5:9: witness: invalid name"}},
		{"empty name", with(`witness "" 10.0.0.9 votes 2`), "", nil, []string{"fatal f:5:9: witness: invalid name"}},
		{"name of another alphabet", with("witness wä 10.0.0.9 votes 2"), "", nil, []string{"fatal f:5:9: witness: invalid name"}},
		{"name twice", with("witness n3 10.0.0.9"), "n1:10.0.0.1 n2:10.0.0.2 n3:10.0.0.3", votersOf, []string{`fatal f:5:9: witness: name is taken (at f:4:1), expected a name of its own (got "n3")`}},
		{"name twice but for the case", with("voter N3 10.0.0.9"), "n1:10.0.0.1 n2:10.0.0.2 n3:10.0.0.3", votersOf, []string{"fatal f:5:7: voter: name is taken (at f:4:1)"}},
		{"name that is reserved", nodes("voter pgnotify_hold 10.0.0.1", "voter n2 10.0.0.2", "witness w1 10.0.0.3"), "", nil,
			[]string{"fatal f:2:7: voter: name has a meaning for pgnotify, expected another"}},

		{"no data node", nodes("witness w1 10.0.0.1"), "", nil, []string{"fatal f:1:1: quorum: there is no data node, expected 1 to 3 voter lines"}},
		{"empty block", "quorum {\n}\n", "", votersOf, []string{"fatal f:1:1: quorum: there is no data node", "fatal f:1:1: quorum: there is nothing to decide on, expected resource NAME postgresql or plain"}},
		{"four data nodes", with("voter n4 10.0.0.4", "witness w1 10.0.0.21"), "", nil,
			[]string{`fatal f:5:1: voter: a fourth data node, expected two or three data nodes; a host that only votes is a witness (got "n4")`}},
		{"seven nodes", with("witness w1 10.0.0.21", "witness w2 10.0.0.22", "witness w3 10.0.0.23", "witness w4 10.0.0.24"), "freeze", policyOf, nil},
		{"eight nodes", with("witness w1 10.0.0.21", "witness w2 10.0.0.22", "witness w3 10.0.0.23", "witness w4 10.0.0.24", "witness w5 10.0.0.25 votes 2"), "", nil,
			[]string{`fatal f:9:1: witness: an eighth line, expected at most 7 voters and witnesses together (got "w5")`}},
		{"even number of votes", with("witness w1 10.0.0.21"), "freeze", policyOf,
			[]string{"lint f:1:1: quorum: 4 votes: an even number of votes survives no more failures than one less, expected an odd number"}},

		{"no address", nodes("voter n1", "voter n2 10.0.0.2"), "", nil, []string{"lint f:1:1: quorum: one vote alone", "fatal f:2:9: voter: value is missing, expected 2 after the keyword"}},
		{"votes in place of the address", with("witness w1 votes 2"), "", nil, []string{"fatal f:5:12: witness: address is missing, expected NAME ADDRESS…"}},
		{"votes of a data node", nodes("voter n1 10.0.0.1 votes 2"), "n1:10.0.0.1", votersOf,
			[]string{"lint f:1:1: quorum: one vote alone", "fatal f:2:19: voter: a data node has one vote, expected votes on a witness line only"}},
		{"votes without a number", nodes("voter n1 10.0.0.1", "voter n2 10.0.0.2", "witness w1 10.0.0.3 votes"), "", nil, []string{"fatal f:4:21: witness: value is missing, expected votes 1 or votes 2"}},
		{"votes 0", nodes("voter n1 10.0.0.1", "voter n2 10.0.0.2", "witness w1 10.0.0.3 votes 0"), "", nil, []string{"fatal f:4:27: witness: out of range, expected a whole number from 1 to 2"}},
		{"address after votes", with("witness w1 10.0.0.21 votes 2 10.1.0.21"), "", nil, []string{`fatal f:5:30: witness: surplus word, expected the end of the line (got "10.1.0.21")`}},
		{"address twice on one line", nodes("voter n1 10.0.0.1 10.0.0.1"), "n1:10.0.0.1", votersOf, []string{"lint f:1:1: quorum: one vote", "fatal f:2:19: voter: address of n1 already (at f:2:10)"}},
		{"address twice", with("witness w1 10.0.0.3 votes 2"), "", nil, []string{`fatal f:5:12: witness: address of n3 already (at f:4:10), expected one of its own (got "10.0.0.3")`}},
		{"unspecified", with("witness w1 :: votes 2"), "", nil, []string{"fatal f:5:12: witness: no host can have this address"}},
		{"multicast", with("witness w1 ff02::1 votes 2"), "", nil, []string{"fatal f:5:12: witness: no host can have this address"}},
		{"broadcast", with("witness w1 255.255.255.255 votes 2"), "", nil, []string{"fatal f:5:12: witness: no host can have this address"}},
		{"link-local", with("witness w1 fe80::1%eth0 votes 2"), "", nil, []string{"fatal f:5:12: witness: link-local address means another host on each interface"}},
		{"mapped", with("witness w1 ::ffff:10.0.0.3 votes 2"), "", nil, []string{"fatal f:5:12: witness: IPv4 address in the form of IPv6"}},
		{"prefix", with("witness w1 10.0.0.21/24 votes 2"), "", nil, []string{"fatal f:5:12: witness: malformed address, expected an IPv4 or IPv6 unicast address"}},
		{"one on loopback", with("witness w1 127.0.0.1 votes 2"), "", nil, []string{`fatal f:5:12: witness: loopback address beside others, expected one that the other nodes reach (got "127.0.0.1")`}},
		{"a witness on one of two links", nodes("voter n1 10.0.0.1 10.1.0.1", "voter n2 10.0.0.2 10.1.0.2", "witness w1 10.0.0.3"), "freeze", policyOf, nil},
		{"a witness on more links", nodes("witness w1 10.0.0.3 10.1.0.3", "voter n1 10.0.0.1", "voter n2 10.0.0.2"), "freeze", policyOf,
			[]string{`lint f:2:1: witness: addresses: 2, but 1 of n1; expected no more than a data node has (got "w1")`}},
		{"links differ", nodes("witness w1 10.0.0.4", "voter n1 10.0.0.1 10.1.0.1", "voter n2 10.0.0.2"), "freeze", policyOf,
			[]string{`lint f:4:1: voter: addresses: 1, but 2 of n1; expected one on each link for every data node (got "n2")`}},

		{"resources", with("resource web plain", "resource db postgresql"), "web plain, db postgresql, pg plain", resourcesOf, nil},
		{"resource twice", with("resource pg postgresql"), "pg postgresql", resourcesOf, []string{"fatal f:6:10: resource: name is taken (at f:5:1)"}},
		{"resources that differ in case", with("resource PG plain"), "PG plain, pg plain", resourcesOf, nil},
		{"resource without a kind", with("resource db"), "", nil, []string{"fatal f:5:12: resource: value is missing, expected 2 after the keyword"}},
		{"resource with more", with("resource db plain x"), "", nil, []string{"fatal f:5:19: resource: surplus word"}},

		{"paths", with("key_file /a//b", "state_dir /a/b/"), "/a/b /a/b", pathsOf, nil},
		{"lease", with("lease 0.25"), "250ms", leaseOf, nil},
		{"longest lease", with("lease 10"), "10s", leaseOf, nil},
		{"lease with a unit", with("lease 400ms"), "400ms", leaseOf, []string{"fatal f:5:7: lease: not a number, expected 0.1 to 10 seconds"}},
		{"twice", with("port 4000", "lease 1", "port 4001"), "1s", leaseOf, []string{"fatal f:7:1: port: given already (at f:5:1), expected it once"}},
		{"surplus", with("port 4000 4001"), "", nil, []string{"fatal f:5:11: port: surplus word, expected the end of the line"}},

		{"ignore", with("no_quorum_policy ignore"), "ignore", policyOf, []string{"lint f:5:1: no_quorum_policy: two nodes can be master at once"}},
		{"suicide", with("no_quorum_policy suicide", `reboot_command "/sbin/reboot -f"`), "suicide [/sbin/reboot -f] root", policyOf, nil},
		{"suicide by somebody", with(`reboot_command "/bin/sudo /sbin/reboot" op staff`, "no_quorum_policy suicide"), "suicide [/bin/sudo /sbin/reboot] op", policyOf, nil},
		{"suicide with nothing to run", with("no_quorum_policy suicide"), "", nil, []string{`fatal f:5:1: no_quorum_policy: there is nothing to run, expected reboot_command "…" too`}},
		{"suicide with an unusable command", with("no_quorum_policy suicide", `reboot_command ""`), "", nil, []string{"fatal f:6:16: reboot_command: empty command, expected a program and its arguments; nothing is run"}},
		{"reboot_command alone", with(`reboot_command "/sbin/reboot -f"`), "", nil, []string{"lint f:5:1: reboot_command: has no effect without no_quorum_policy suicide"}},

		{"guard", with("guard lifetime"), "lifetime", guardOf, nil},
		{"guard_port", with("guard_port 5432"), "", nil, []string{"fatal f:5:1: guard_port: a guard of ports is not part of this version, expected no such line"}},

		{"node", with("node n3"), "n3", nodeOf, nil},
		{"node before its line", nodes("node n1", "voter n1 10.0.0.1", "voter n2 10.0.0.2", "voter n3 10.0.0.3"), "n1", nodeOf, nil},
		{"node for each host", with("@n1 node n1", "@n2 node n2", "@^n1 node n3"), "n1", nodeOf, nil},
		{"voters for each host", with("@n1 witness w1 10.0.0.21 votes 2", "@^n1 witness w1 10.1.0.21"), "n1:10.0.0.1 n2:10.0.0.2 n3:10.0.0.3 w1(2):10.0.0.21", votersOf, nil},
		{"the block for one host", "@n2 quorum {\n@n2 }\n" + with(), "", nodeOf, nil},
		{"node that is not there", with("node N3"), "", nil, []string{`fatal f:5:1: node: no voter or witness line of this name, expected one of n1, n2, n3 (got "N3")`}},

		{"fencing off", with("fencing off"), "freeze", policyOf, nil},
		{"fencing", with("fencing required"), "", nil, []string{"fatal f:5:9: fencing: fencing is not part of this version, expected off"}},
		{"fencing, unknown", with("fencing no"), "", nil, []string{"fatal f:5:9: fencing: unknown value, expected off"}},
		{"fence", with(`fence n1 "/usr/sbin/fence_ipmilan" /etc/vrrpd/fence-n1.conf`), "", nil, []string{"fatal f:5:1: fence: fencing is not part of this version"}},
		{"watchdog off", with("watchdog /dev/watchdog timeout 2 mode off"), "freeze", policyOf, nil},
		{"watchdog off alone", with("watchdog /dev/watchdog mode off"), "freeze", policyOf, nil},
		{"watchdog", with("watchdog /dev/watchdog"), "", nil, []string{"fatal f:5:23: watchdog: a watchdog is not part of this version, expected mode off"}},
		{"watchdog required", with("watchdog /dev/watchdog mode required"), "", nil, []string{`fatal f:5:29: watchdog: a watchdog is not part of this version, expected mode off (got "required")`}},
		{"watchdog, malformed", with("watchdog /dev/watchdog mode off timeout 0 x y timeout"), "", nil, []string{
			"fatal f:5:41: watchdog: out of range", "fatal f:5:43: watchdog: unknown option, expected timeout or mode", "fatal f:5:47: watchdog: value is missing, expected one after timeout"}},

		{"second block", with() + "quorum {\nnode n9\n}\n", "", nodeOf, []string{"fatal f:7:1: quorum: quorum block exists already (at f:1:1), expected one"}},
		{"unknown keyword", with("reource db plain"), "", nil, []string{"fatal f:5:1: unknown keyword in quorum, did you mean resource? ignored"}},
		{"keyword of another block", with("priority 5"), "", nil, []string{"fatal f:5:1: unknown keyword in quorum, expected it in vrrp_instance; ignored"}},
		{"not closed", "quorum {\nvoter n1 10.0.0.1\nvoter n2 10.0.0.2\nvoter n3 10.0.0.3\nresource pg plain\n", "freeze", policyOf, []string{"fatal f:1:1: quorum: block is not closed"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c, diags := load(tt.text)
			wantDiags(t, diags, tt.diags...)
			if tt.value != nil {
				if got := tt.value(c.Quorum); got != tt.want {
					t.Errorf("got %q, want %q", got, tt.want)
				}
			}
		})
	}
}

func votersOf(q *Quorum) string {
	var all []string
	for _, v := range q.Voters {
		kind := ""
		if v.Witness {
			kind = fmt.Sprintf("(%d)", v.Votes)
		}
		var addrs []string
		for _, a := range v.Addrs {
			addrs = append(addrs, a.String())
		}
		all = append(all, v.Name+kind+":"+strings.Join(addrs, ","))
	}
	return strings.Join(all, " ")
}

func nameLengthOf(q *Quorum) string { return fmt.Sprint(len(q.Voters[0].Name)) }

func resourcesOf(q *Quorum) string {
	var all []string
	for _, r := range q.Resources {
		all = append(all, r.Name+" "+r.Kind)
	}
	return strings.Join(all, ", ")
}

func pathsOf(q *Quorum) string { return q.KeyFile + " " + q.StateDir }
func leaseOf(q *Quorum) string { return q.Lease.String() }
func guardOf(q *Quorum) string { return q.Guard }
func nodeOf(q *Quorum) string  { return q.Node }

func policyOf(q *Quorum) string {
	if len(q.RebootCommand.Argv) == 0 {
		return q.Policy
	}
	return fmt.Sprint(q.Policy, " ", q.RebootCommand.Argv, " ", q.RebootCommand.User.Name)
}

// An instance that asks for a grant, in a file with a block: pg is of kind postgresql, web is plain.
func TestQuorumOfInstance(t *testing.T) {
	block := func(lines ...string) string {
		return "quorum {\nvoter n1 10.0.0.11\nvoter n2 10.0.0.12\nwitness w1 10.0.0.21\nresource pg postgresql\n" + strings.Join(lines, "\n") + "\n}\n"
	}
	withBoth := func(of []string, lines ...string) string { return block(of...) + instance(lines...) }
	const web = "resource web plain"
	lintWeb := "lint f:6:1: resource: no vrrp_instance asks for this resource, expected quorum web in one"
	lintPG := "lint f:5:1: resource: no vrrp_instance asks for this resource, expected quorum pg in one"
	tests := []struct {
		name, text, want string
		diags            []string
	}{
		{"defaults", withBoth(nil, "quorum pg", "notify /bin/n"), "pg 30s 2s", nil},
		{"notify_master is a hook too", withBoth(nil, "quorum pg", "notify_master /bin/n"), "pg 30s 2s", nil},
		{"given", withBoth(nil, "quorum pg", "notify /bin/n", "vip_after_notify 5", "vip_lifetime 4"), "pg 5s 4s", nil},
		{"notify_retry", withBoth(nil, "quorum pg", "notify /bin/n", "notify_retry 5"), "pg 30s 2s", nil},
		{"for ever", withBoth(nil, "quorum pg", "notify /bin/n", "vip_lifetime 0"), "pg 30s 0s", nil},
		{"instance before the block", instance("quorum pg", "notify /bin/n") + block(), "pg 30s 2s", nil},
		{"plain waits for no hook", withBoth([]string{web}, "quorum web"), "web 0s 2s", []string{lintPG}},
		{"plain with a hook", withBoth([]string{web}, "quorum web", "notify /bin/n", "vip_after_notify 3"), "web 3s 2s", []string{lintPG}},
		{"an instance without quorum keeps its defaults", withBoth(nil), " 0s 0s", []string{lintPG}},
		{"no addresses", block() + "vrrp_instance VI_1 {\ninterface eth0\nvirtual_router_id 51\nno_virtual_ipaddress\nquorum pg\nnotify /bin/n\n}\n", "pg 30s 2s", nil},
		{"resources used by nobody", withBoth([]string{web}, "quorum pg", "notify /bin/n"), "pg 30s 2s", []string{lintWeb}},
		{"one resource for two instances", withBoth(nil, "quorum pg", "notify /bin/n") +
			"vrrp_instance VI_2 {\ninterface eth0\nvirtual_router_id 52\nvirtual_ipaddress {\n10.0.0.2\n}\nquorum pg\nnotify /bin/n\n}\n", "pg 30s 2s", nil},

		{"no hook", withBoth(nil, "quorum pg"), "pg 30s 2s",
			[]string{`fatal f:14:1: quorum: resource is of kind postgresql, and no hook waits for the promotion, expected notify_master or notify (got "pg")`}},
		{"no hook, and the keyword", withBoth(nil, "quorum pg", "vip_after_notify 5"), "pg 5s 2s", []string{"fatal f:15:1: vip_after_notify: there is no hook to wait for"}},
		{"no such resource", withBoth(nil, "quorum db"), "db 0s 2s", []string{lintPG, `fatal f:14:1: quorum: no resource of this name, expected one of the quorum block (f:1:1) (got "db")`}},
		{"no block", instance("quorum pg"), "pg 0s 2s", []string{"fatal f:7:1: quorum: there is no quorum block, expected one in the file"}},
		{"twice", withBoth([]string{web}, "quorum pg", "quorum web", "notify /bin/n"), "pg 30s 2s", []string{lintWeb, "fatal f:15:8: quorum: resource is pg already, expected one quorum line"}},
		{"surplus", withBoth(nil, "quorum pg web", "notify /bin/n"), "pg 30s 2s", []string{"fatal f:14:11: quorum: surplus word"}},
		{"owner", withBoth(nil, "quorum pg", "notify /bin/n", "priority 255"), "pg 30s 2s", []string{"fatal f:16:1: priority: an address owner (255) is master without asking anybody, expected 1 to 254 with quorum"}},
		{"owner by state", withBoth(nil, "quorum pg", "notify /bin/n", "state MASTER"), "pg 30s 2s", []string{"lint f:16:1: state: state MASTER without a priority", "fatal f:16:1: state: an address owner (255)"}},
		{"guard lifetime", withBoth([]string{"guard lifetime"}, "quorum pg", "notify /bin/n"), "pg 30s 2s", nil},
		{"guard lifetime, for ever", withBoth([]string{"guard lifetime"}, "quorum pg", "notify /bin/n", "vip_lifetime 0"), "pg 30s 0s",
			[]string{`fatal f:16:1: vip_lifetime: with guard lifetime the voters wait for 2 s and no longer, expected 1 or 2 (got "0")`}},
		{"guard lifetime, longer than the voters wait", withBoth([]string{"guard lifetime"}, "quorum pg", "notify /bin/n", "vip_lifetime 3"), "pg 30s 3s", []string{"fatal f:16:1: vip_lifetime: with guard lifetime"}},
		{"guard none", withBoth([]string{"guard none"}, "quorum pg", "notify /bin/n"), "pg 30s 2s", nil},
		{"guard none, for ever", withBoth([]string{"guard none"}, "quorum pg", "notify /bin/n", "vip_lifetime 0"), "pg 30s 0s", []string{"lint f:16:1: vip_lifetime: with guard none nothing takes the addresses"}},
		{"node is a witness", withBoth([]string{"node w1"}, "quorum pg", "notify /bin/n"), "pg 30s 2s", []string{"fatal f:14:1: quorum: this host (node w1) is a witness, which is never granted anything"}},
		{"a node's own address", withBoth(nil, "quorum pg", "notify /bin/n", "virtual_ipaddress_excluded {", "10.0.0.12/24", "}"), "pg 30s 2s",
			[]string{`fatal f:17:1: virtual_ipaddress: address of the node n2 itself (at f:3:10), expected one that can move (got "10.0.0.12/24")`}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c, diags := load(tt.text)
			wantDiags(t, diags, tt.diags...)
			i := c.Instances[0]
			if got := fmt.Sprint(i.Quorum, " ", i.VIPAfterNotify, " ", i.VIPLifetime); got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
		})
	}
}

// A command that reboots the host is a program like others, but where there is no instance nothing is ever run.
func TestQuorumSecurity(t *testing.T) {
	block := quorum("no_quorum_policy suicide", "reboot_command /sbin/reboot")
	_, diags := load(block)
	if got := ExitCode(diags, true); got != ExitClean {
		t.Errorf("on a witness: exit %d, want %d\n%s", got, ExitClean, strings.Join(lines(diags), "\n"))
	}
	c, diags := load(block + instance("quorum pg"))
	if len(diags) != 1 || !strings.HasPrefix(diags[0].String(), "f:6:1: enable_script_security: programs are configured without it") {
		t.Errorf("got\n%s", strings.Join(lines(diags), "\n"))
	}
	if p := c.Programs(); len(p) != 1 || p[0].Keyword != "reboot_command" || p[0].User.Name != "root" {
		t.Errorf("got %+v", p)
	}
	c, _ = load("global_defs {\nscript_user nobody\n}\n" + block + instance("quorum pg"))
	if got := c.Quorum.RebootCommand.User.Name; got != "root" {
		t.Errorf("it runs as %s, want root whatever script_user says", got)
	}
}

func TestSelf(t *testing.T) {
	const names = "n1, n2.lan, w1"
	tests := []struct{ name, node, hostname, want, problem string }{
		{"host name", "", "n1", "n1", ""},
		{"whole host name", "", "n2.lan", "n2.lan", ""},
		{"host name with a domain", "", "w1.example.org", "w1", ""},
		{"another case", "", "N1.Example.ORG", "n1", ""},
		{"node beats the host name", "w1", "n1", "w1", ""},
		{"unknown host", "", "db.example.org", "", "find host db.example.org in the quorum block: expected one of " + names + "; give this host's name there with node"},
		{"not by a part of the name", "", "n2", "", "find host n2 in the quorum block: expected one of " + names + "; give this host's name there with node"},
		{"unknown node", "n9", "n1", "", "find node n9 in the quorum block: expected one of " + names},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c, _ := load(nodes("voter n1 10.0.0.1", "voter n2.lan 10.0.0.2", "witness w1 10.0.0.3"))
			c.Quorum.Node = tt.node
			v, err := c.Quorum.Self(tt.hostname)
			if v.Name != tt.want || tt.problem != "" && (err == nil || err.Error() != tt.problem) || tt.problem == "" && err != nil {
				t.Errorf("got %q, %v, want %q, %q", v.Name, err, tt.want, tt.problem)
			}
			if tt.want != "" && len(v.Addrs) != 1 {
				t.Errorf("got %+v", v)
			}
		})
	}
}

func TestWitness(t *testing.T) {
	asking, plain := instance("quorum pg"), instance()
	tests := []struct {
		name, text, hostname string
		witness              bool
		problem              string // of Node; "" none
	}{
		{"witness", quorum(), "w1", true, ""},
		{"voter without an instance", quorum(), "n1", true, ""},
		{"host that is not there", quorum(), "x", true, "find host x"},
		{"voter", quorum() + asking, "n1", false, ""},
		{"witness with an instance that needs no grant", quorum() + plain, "w1", true, ""},
		{"witness with an instance that asks", quorum() + asking, "w1", true, "run vrrp_instance VI_1 (f:8:1) on witness w1: a witness is never granted anything"},
		{"no block", plain, "w1", false, "find this host in the quorum block: there is none"},
		{"empty file", "", "w1", false, "find this host in the quorum block: there is none"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c, _ := load(tt.text)
			if got := c.Witness(tt.hostname); got != tt.witness {
				t.Errorf("got %v, want %v", got, tt.witness)
			}
			v, err := c.Node(tt.hostname)
			switch {
			case tt.problem == "" && (err != nil || v.Name != tt.hostname):
				t.Errorf("got %+v, %v", v, err)
			case tt.problem != "" && (err == nil || !strings.HasPrefix(err.Error(), tt.problem)):
				t.Errorf("got %v, want %s…", err, tt.problem)
			}
		})
	}
}

func TestNeedsRestart(t *testing.T) {
	load := func(text string) *Quorum {
		c, _ := load(text)
		return c.Quorum
	}
	base := quorum("voter n3 10.77.0.3", "witness w2 10.77.0.22")
	tests := []struct {
		name, next string
		equal      bool
		want       []string
	}{
		{"nothing", base, true, nil},
		{"another place in the file", "\n\n" + base, true, nil},
		{"written default", quorum("voter n3 10.77.0.3", "witness w2 10.77.0.22", "port 3741", "lease 0.400"), true, nil},
		{"address", quorum("voter n3 10.77.0.33", "witness w2 10.77.0.22"), false, nil},
		{"another link", quorum("voter n3 10.77.0.3 10.78.0.3", "witness w2 10.77.0.22"), false, nil},
		{"voter less", quorum("voter n3 10.77.0.3"), false, nil},
		{"voter more", quorum("voter n3 10.77.0.3", "witness w2 10.77.0.22", "witness w3 10.77.0.23"), false, nil},
		{"resource more", quorum("voter n3 10.77.0.3", "witness w2 10.77.0.22", "resource db postgresql"), false, []string{"resource"}},
		{"policy", quorum("voter n3 10.77.0.3", "witness w2 10.77.0.22", "no_quorum_policy stop"), false, nil},
		{"policy ignore", quorum("voter n3 10.77.0.3", "witness w2 10.77.0.22", "no_quorum_policy ignore"), false, []string{"no_quorum_policy"}},
		{"reboot_command", quorum("voter n3 10.77.0.3", "witness w2 10.77.0.22", "reboot_command /bin/a"), false, nil},
		{"agent_user", quorum("voter n3 10.77.0.3", "witness w2 10.77.0.22", "agent_user pg"), false, nil},
		{"all that needs one", "quorum {\nvoter n1 10.77.0.1\nvoter n2 10.77.0.2\nwitness w1 10.77.0.21 votes 2\nvoter w2 10.77.0.22\nresource pg postgresql\n" +
			"guard none\nlease 1\nport 4000\nstate_dir /s\nkey_file /k\nnode n1\n}\n", false,
			[]string{"node", "key_file", "state_dir", "port", "witness", "resource", "lease", "guard"}},
		{"votes", quorum("voter n3 10.77.0.3", "witness w2 10.77.0.22 votes 2"), false, []string{"witness"}},
		{"witness becomes a voter", quorum("voter n3 10.77.0.3", "voter w2 10.77.0.22"), false, []string{"witness"}},
		{"node", quorum("voter n3 10.77.0.3", "witness w2 10.77.0.22", "node n1"), false, []string{"node"}},
		{"block goes", "", false, []string{"quorum"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			q, next := load(base), load(tt.next)
			if got := q.NeedsRestart(next); !slices.Equal(got, tt.want) {
				t.Errorf("got %q, want %q", got, tt.want)
			}
			if got := next.NeedsRestart(q); !slices.Equal(got, tt.want) {
				t.Errorf("the other way round: got %q, want %q", got, tt.want)
			}
			if got := q.Equal(next); got != tt.equal {
				t.Errorf("Equal: got %v, want %v", got, tt.equal)
			}
			if got := next.Equal(q); got != tt.equal {
				t.Errorf("Equal, the other way round: got %v, want %v", got, tt.equal)
			}
		})
	}
	var none *Quorum
	if !none.Equal(nil) || none.NeedsRestart(nil) != nil {
		t.Error("no block differs from no block")
	}
}
