//go:build e2e

package e2e

import (
	"encoding/json"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"pgvrrp/internal/control"
)

// keepalived's own files, of the same configuration on the same host, are the pattern for ours: exporters read them.
func TestVRRPDumps(t *testing.T) {
	t.Parallel()
	l := newLab(t, 1)
	n1 := l.Host("n1")
	// Exit codes and users are of the host, which both see alike.
	writeFile(t, n1, "/etc/ok.sh", "#!/bin/sh\nexit 0\n", 0o755)
	config := func(globals string) string {
		return "global_defs {\n  script_user root\n  enable_script_security\n  " + globals + "\n}\n" + `
vrrp_script chk {
  script "/etc/ok.sh a b"
  interval 1
  timeout 1
  weight 2
}
vrrp_instance VI_1 {
  state BACKUP
  interface eth0
  virtual_router_id 51
  nopreempt
  authentication {
    auth_type PASS
    auth_pass secret
  }
  virtual_ipaddress {
    10.77.0.100/24 label eth0:v
    10.77.0.101
  }
  virtual_ipaddress_excluded {
    10.77.0.102/24 dev eth1 scope link
  }
  track_script {
    chk
  }
  track_interface {
    eth1 weight -3
  }
  notify_master "/etc/ok.sh master"
  notify /etc/ok.sh
}
vrrp_instance VI_2 {
  interface eth0
  virtual_router_id 52
  priority 90
  version 3
  advert_int 0.5
  virtual_ipaddress {
    fe80::99
    fd77::99/64
  }
}
`
	}
	type files struct{ data, stats, json string }
	names := func(dir string) map[syscall.Signal]string {
		return map[syscall.Signal]string{syscall.SIGUSR1: dir + "/keepalived.data", syscall.SIGUSR2: dir + "/keepalived.stats", 36: dir + "/keepalived.json"}
	}
	ask := func(program, dir string) files {
		t.Helper()
		got := map[syscall.Signal]string{}
		for sig, name := range names(dir) {
			try(t, n1, "rm", "-f", name)
			signal(t, n1, program, sig)
			var since time.Time // it is the same; keepalived writes it piece by piece
			eventually(t, patience, program+" writes "+name, func() (bool, string) {
				if text := readFile(n1, name); text != got[sig] {
					got[sig], since = text, time.Now()
				}
				return got[sig] != "" && time.Since(since) > slack, "no file, or it grows"
			})
		}
		return files{got[syscall.SIGUSR1], got[syscall.SIGUSR2], got[36]}
	}
	p := startKeepalived(t, n1, config(""))
	eventually(t, patience, "keepalived is MASTER of both", func() (bool, string) {
		log := logOf(t, p)
		return strings.Contains(log, "(VI_1) Entering MASTER") && strings.Contains(log, "(VI_2) Entering MASTER"), log
	})
	want := ask("keepalived", "/tmp")
	signal(t, n1, "keepalived", syscall.SIGTERM)
	eventually(t, patience, "keepalived has ended", func() (bool, string) { return !p.Running(), "it runs" })

	startVrrpd(t, n1, config("state_dump_file /tmp/\n  stats_dump_file /tmp/\n  json_dump_file /tmp/"))
	waitState(t, n1, "VI_1", control.StateMaster)
	waitState(t, n1, "VI_2", control.StateMaster)
	got := ask("vrrpd", "/tmp")

	shape := func(stats string) string { return regexp.MustCompile(`\d+\n`).ReplaceAllString(stats, "N\n") }
	if diff := cmp.Diff(shape(want.stats), shape(got.stats)); diff != "" {
		t.Errorf("stats: -keepalived +ours:\n%s", diff)
	}
	if diff := cmp.Diff(comparable(t, want.json), comparable(t, got.json)); diff != "" {
		t.Errorf("JSON: -keepalived +ours:\n%s", diff)
	}
	theirs := lines(want.data)
	for _, line := range lines(got.data) {
		if !slices.Contains(theirs, line) {
			t.Errorf("data: keepalived has no line %q", line)
		}
	}
	for _, line := range []string{"   Virtual IP (2):", "     10.77.0.100/24 dev eth0 scope global label eth0:v set", "     10.77.0.102/24 dev eth1 scope link set",
		" VRRP Script = chk", "   Status = GOOD", "   Effective priority = 102", "   State = MASTER"} {
		if !strings.Contains(got.data, line+"\n") {
			t.Errorf("data: no line %q in ours\n%s", line, got.data)
		}
	}
	if strings.Contains(got.data+got.json, "secret") {
		t.Error("a file tells the password")
	}

	// Without the keywords they are written where nobody else can plant anything; a link under the name is replaced.
	mustReload(t, n1, config(""))
	run(t, n1, "sh", "-c", "echo precious >/etc/victim; ln -s /etc/victim /run/vrrpd/keepalived.data")
	signal(t, n1, "vrrpd", syscall.SIGUSR1)
	eventually(t, patience, "it is written", func() (bool, string) {
		return strings.Contains(readFile(n1, "/run/vrrpd/keepalived.data"), "VRRP Topology"), readFile(n1, "/run/vrrpd/keepalived.data")
	})
	if out := run(t, n1, "stat", "-c", "%F %a", "/run/vrrpd/keepalived.data"); strings.TrimSpace(out) != "regular file 640" {
		t.Errorf("got %s", out)
	}
	if readFile(n1, "/etc/victim") != "precious\n" {
		t.Error("the link was followed")
	}
	// SIGRTMAX-1 writes the counters and begins them anew, for this file alone.
	sent := instance(t, n1, "VI_1").Counters.AdvertsSent
	signal(t, n1, "vrrpd", 63)
	eventually(t, patience, "it is written", func() (bool, string) { return readFile(n1, "/run/vrrpd/keepalived.stats") != "", "no file" })
	try(t, n1, "rm", "/run/vrrpd/keepalived.stats")
	signal(t, n1, "vrrpd", syscall.SIGUSR2)
	eventually(t, patience, "it is written", func() (bool, string) {
		return strings.Contains(readFile(n1, "/run/vrrpd/keepalived.stats"), "  Became master: 0\n"), readFile(n1, "/run/vrrpd/keepalived.stats")
	})
	if i := instance(t, n1, "VI_1"); i.Counters.AdvertsSent < sent || i.Counters.BecameMaster != 1 {
		t.Errorf("status was cleared too: %+v", i.Counters)
	}
	if pid := strings.TrimSpace(readFile(n1, "/run/vrrpd/lock")); pid == "" || !strings.Contains(run(t, n1, "cat", "/proc/"+pid+"/cmdline"), "vrrpd") {
		t.Errorf("/run/vrrpd/lock has %q, want vrrpd's process id", pid)
	}
}

// lines are those of the sections about instances and scripts, without what differs from moment to moment or on purpose.
func lines(data string) []string {
	var all []string
	of := ""
	for line := range strings.SplitSeq(data, "\n") {
		if strings.HasPrefix(line, "------<") {
			of = line
		}
		if line != "" && (strings.Contains(of, "Topology") || strings.Contains(of, "Scripts")) && !strings.HasPrefix(line, "   Last transition") && !strings.HasPrefix(line, "   Password") {
			all = append(all, line)
		}
	}
	return all
}

// comparable is keepalived's JSON without what differs from moment to moment or on purpose; what must be there is replaced.
func comparable(t *testing.T, text string) any {
	t.Helper()
	var all []struct{ Data, Stats map[string]any }
	if err := json.Unmarshal([]byte(text), &all); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	for _, i := range all {
		if n, ok := i.Data["last_transition"].(float64); !ok || n < 1e9 {
			t.Errorf("last_transition: got %v", i.Data["last_transition"])
		}
		if n, ok := i.Stats["advert_sent"].(float64); !ok || n == 0 {
			t.Errorf("advert_sent: got %v", i.Stats["advert_sent"])
		}
		i.Data["last_transition"], i.Stats["advert_sent"] = 0, 0
		if i.Data["auth_data"] != nil {
			i.Data["auth_data"] = "masked"
		}
	}
	return all
}
