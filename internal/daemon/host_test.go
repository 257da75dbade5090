package daemon

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"pgvrrp/internal/conf"
)

const instanceText = `vrrp_instance VI_1 {
    interface lo
    virtual_router_id 51
    virtual_ipaddress {
        192.0.2.1
    }
    %s
}
`

// load writes text to a file and checks it.
func load(t *testing.T, text string) (*conf.Config, []conf.Diagnostic, string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "vrrpd.conf")
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	config, found := Check(file, "n1", true)
	return config, found, file
}

// TestWhatOnlyTheHostCanTell: a program that cannot run and an interface that is not there are told before they are needed.
func TestWhatOnlyTheHostCanTell(t *testing.T) {
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	plain := filepath.Join(dir, "plain")
	if err := os.WriteFile(plain, []byte("#!/bin/sh\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name, line string
		want       []string // parts of the findings of this host, in order
	}{
		{"nothing", "", nil},
		{"hook fine", `notify_master "/bin/true x"`, nil},
		{"hook missing", `notify_master /nonexistent/hook`, []string{"notify_master: cannot be run, which counts as failed"}},
		{"hook not executable", "notify " + plain, []string{"notify: cannot be run, which counts as failed"}},
		{"hook without such a user", `notify_fault "/bin/true" no-such-user`, []string{"notify_fault: cannot be run, which counts as failed"}},
		{"interface missing", "track_interface {\n        nosuch0\n    }", []string{"track_interface: no such interface on this host; FAULT until it appears"}},
		{"interface that the file makes", "use_vmac vrrp.t77\n    track_interface {\n        vrrp.t77 weight 5\n    }", nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, found, _ := load(t, strings.Replace(fmt.Sprintf(instanceText, tc.line), "interface lo\n", "interface nosuch1\n", 1))
			var got []string
			for _, d := range found {
				if d.Severity == conf.Security {
					continue // keepalived's, of the text alone
				}
				text := d.String()
				if strings.Contains(text, "nosuch1") {
					if d.Severity != conf.Error || d.Line == 0 {
						t.Errorf("finding %q has severity %s, want error and a place", text, d.Severity)
					}
					continue // the instance's own, in every case
				}
				got = append(got, text)
			}
			if len(got) != len(tc.want) {
				t.Fatalf("findings %q, want %q", got, tc.want)
			}
			for k := range got {
				if !strings.Contains(got[k], tc.want[k]) {
					t.Errorf("finding %q, want %q in it", got[k], tc.want[k])
				}
			}
		})
	}
}

func TestInAFileOfOursAnErrorIsFatalAndInterfacesMayCome(t *testing.T) {
	_, found, _ := load(t, fmt.Sprintf(instanceText, "vip_after_notify 5\n    notify_master /nonexistent/hook"))
	if code := conf.ExitCode(found, false); code != conf.ExitCannot {
		t.Errorf("exit code %d, want %d: %v", code, conf.ExitCannot, found)
	}
	_, found, _ = load(t, strings.Replace(fmt.Sprintf(instanceText, "vip_after_notify 5\n    notify /bin/true"), "interface lo", "interface nosuch0", 1))
	if code := conf.ExitCode(found, false); code != conf.ExitSecurity {
		t.Errorf("exit code %d, want %d: %v", code, conf.ExitSecurity, found)
	}
}

func TestLeftoversSpareAnOwnersAddresses(t *testing.T) {
	config, _, _ := load(t, strings.Replace(fmt.Sprintf(instanceText, "priority 255"), "interface lo", "interface eth0", 1)+
		strings.NewReplacer("VI_1", "VI_2", "51", "52", "192.0.2.1", "192.0.2.2", "interface lo", "interface eth0").Replace(fmt.Sprintf(instanceText, "")))
	var got []string
	for _, a := range leftovers(config) {
		got = append(got, a.Prefix.String()+" "+a.Interface)
	}
	if diff := cmp.Diff([]string{"192.0.2.2/32 eth0"}, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// TestNoSuchNetNamespace: nothing runs anywhere else than the file says, and the interfaces of this namespace say nothing.
func TestNoSuchNetNamespace(t *testing.T) {
	for name, want := range map[string]string{"no-such-namespace": "no such file or directory", "..": "not a name"} {
		config, found, _ := load(t, "net_namespace "+name+"\n"+strings.Replace(fmt.Sprintf(instanceText, ""), "interface lo\n", "interface nosuch1\n", 1))
		if code := conf.ExitCode(found, false); code != conf.ExitCannot {
			t.Errorf("%s: exit code %d, want %d", name, code, conf.ExitCannot)
		}
		text := fmt.Sprint(found)
		if !strings.Contains(text, want) || !strings.Contains(text, "cannot be entered") || strings.Contains(text, "no such interface") {
			t.Errorf("%s: findings %s", name, text)
		}
		if err := enter(config); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: entered: %v", name, err)
		}
	}
}

// One file serves every node: that this host has no line or no key in it is told anywhere, and keeps vrrpd from starting here.
func TestAQuorumBlockThatIsNotThisHosts(t *testing.T) {
	dir := t.TempDir()
	good, line := quorumOf(t, dir, "w1", "resource vip plain"), "node w1\n"
	open := filepath.Join(dir, "open.key")
	if err := WriteKey(open); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(open, 0o644); err != nil {
		t.Fatal(err)
	}
	key := filepath.Join(dir, "quorum.key")
	for _, tt := range []struct{ name, text, want string }{
		{"fine", good, ""},
		{"no line", strings.Replace(good, line, "", 1), "node: cannot run on this host: find host " + hostName() + " in the quorum block: expected one of n1, n2, w1"},
		{"no key", strings.Replace(good, key, "/nonexistent/key", 1), "key_file: cannot run on this host: read key /nonexistent/key: file does not exist"},
		{"a key for all", strings.Replace(good, key, open, 1), "key_file: cannot run on this host: read key " + open + ": its mode 0644 lets others use it"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, found, file := load(t, "# a comment\n"+tt.text)
			_, elsewhere := Check(file, "n1", false)
			if tt.want == "" {
				if conf.ExitCode(found, true) != conf.ExitClean {
					t.Errorf("got %v, want nothing", found)
				}
				return
			}
			if got := fmt.Sprint(found); !strings.Contains(got, file+":2:1: "+tt.want) {
				t.Errorf("got %s, want %s at line 2", got, tt.want)
			}
			if conf.ExitCode(found, false) != conf.ExitCannot || conf.ExitCode(elsewhere, false) != conf.ExitClean || len(elsewhere) != len(found) {
				t.Errorf("here %v, elsewhere %v; want the same, fatal here and lint elsewhere", found, elsewhere)
			}
		})
	}
	_, found, _ := load(t, strings.Replace(good, "node w1", "node w9", 1))
	if n := strings.Count(fmt.Sprint(found), "node: "); n != 1 {
		t.Errorf("a node that has no line: told %d times in %v, want once", n, found)
	}
}
