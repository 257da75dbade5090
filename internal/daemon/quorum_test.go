package daemon

import (
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pgvrrp/internal/conf"
)

// quorumOf is a quorum block on the loopback interface with further lines, of which this host is node. The key and the state
// directory are in dir.
func quorumOf(t *testing.T, dir, node string, lines ...string) string {
	t.Helper()
	key := filepath.Join(dir, "quorum.key")
	if _, err := os.Stat(key); err != nil {
		if err := WriteKey(key); err != nil {
			t.Fatal(err)
		}
	}
	return fmt.Sprintf("quorum {\nnode %s\nkey_file %s\nstate_dir %s\nvoter n1 127.3.7.1\nvoter n2 127.3.7.2\nwitness w1 127.3.7.3\n%s\n}\n", node, key, dir, strings.Join(lines, "\n"))
}

// openQuorum opens the quorum extension of a file, and does not run it.
func openQuorum(t *testing.T, text string) *grants {
	t.Helper()
	config, found, _ := load(t, text)
	if conf.ExitCode(found, false) == conf.ExitCannot {
		t.Fatal(found)
	}
	g, err := openGrants(Options{Log: slog.New(slog.DiscardHandler), RunDir: t.TempDir()}, config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { g.close(false) })
	return g
}

// freePort is a line with a port that no voter of quorumOf uses.
func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.3.7.3:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return fmt.Sprintf("port %d", l.Addr().(*net.TCPAddr).Port)
}

// What a reload cannot put in force it refuses, and plan says the same.
func TestReloadOfTheQuorumBlock(t *testing.T) {
	dir, port := t.TempDir(), freePort(t)
	block := func(lines ...string) string {
		return quorumOf(t, dir, "w1", append([]string{port, "resource vip plain"}, lines...)...)
	}
	d := &Daemon{grants: openQuorum(t, block()), config: &conf.Config{}}
	for _, tt := range []struct{ name, text, want string }{
		{"nothing", block(), ""},
		{"another policy", block("no_quorum_policy stop"), ""},
		{"another user of the agent", block("agent_user pg"), ""},
		{"a witness more", block("witness w2 127.3.7.4"), ""},
		{"a data node more", block("voter n3 127.3.7.4"), ""},
		{"another address elsewhere", strings.Replace(block(), "127.3.7.2", "127.3.7.5", 1), ""},
		{"another address here", strings.Replace(block(), "127.3.7.3", "127.3.7.5", 1), "changes of witness in the quorum block need a restart of vrrpd"},
		{"no grants any more", block("no_quorum_policy ignore"), "changes of no_quorum_policy in the quorum block need a restart of vrrpd"},
		{"a resource more", block("resource other plain"), "changes of resource in the quorum block need a restart of vrrpd"},
		{"another lease", block("lease 1"), "changes of lease in the quorum block need a restart of vrrpd"},
		{"no block", "", "the quorum block cannot be removed without a restart of vrrpd"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			config, found, file := load(t, tt.text)
			if got := d.refusal(candidate{config: config, found: found}); got != tt.want {
				t.Errorf("reload: got %q, want %q", got, tt.want)
			}
			if tt.want == "" {
				return
			}
			if p, err := d.Plan(t.Context(), file); err != nil || p.Refused != tt.want {
				t.Errorf("plan: got %q, %v, want %q", p.Refused, err, tt.want)
			}
		})
	}
}
