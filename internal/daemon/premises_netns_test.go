//go:build netns

package daemon

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"pgvrrp/internal/conf"
	"pgvrrp/internal/control"
	"pgvrrp/internal/system"
	"pgvrrp/internal/system/nstest"
)

// Two VMACs need the same settings of the host: they stay as long as either of them does, and are put back with the last one.
func TestVMACsShareSettings(t *testing.T) {
	for _, stays := range []string{"vrrp.51", "vrrp.52"} {
		t.Run(stays, func(t *testing.T) {
			h, other := nstest.New(t), nstest.New(t)
			nstest.Veth(t, h, "eth0", other, "eth0")
			h.Sysctl(t, "1", "ipv4", "conf", "all", "rp_filter")
			h.Sysctl(t, "0", "ipv4", "conf", "eth0", "rp_filter")
			config := func(names ...string) *conf.Config {
				c := &conf.Config{}
				for _, name := range names {
					mac := conf.MAC{0, 0, 0x5e, 0, 1, name[6]}
					c.Instances = append(c.Instances, conf.Instance{Name: name, Interface: "eth0", VMAC: conf.VMAC{Use: true, Name: name, MAC: mac, LinkGroup: -1}})
				}
				return c
			}
			read := func(vmacs ...string) map[string]string {
				got := map[string]string{}
				for _, key := range append([]string{"all/rp_filter", "eth0/rp_filter", "eth0/arp_ignore", "eth0/arp_filter"}, vmacs...) {
					var err error
					if got[key], err = system.ReadSysctl("net/ipv4/conf/" + key); err != nil {
						t.Error(err)
					}
				}
				return got
			}
			was := map[string]string{"all/rp_filter": "1", "eth0/rp_filter": "0", "eth0/arp_ignore": "0", "eth0/arp_filter": "0"}
			set := map[string]string{"all/rp_filter": "0", "eth0/rp_filter": "1", "eth0/arp_ignore": "1", "eth0/arp_filter": "1"}
			h.Do(t, func() {
				p, err := openPremises(slog.New(slog.DiscardHandler), t.TempDir())
				if err != nil {
					t.Fatal(err)
				}
				p.furnish(config("vrrp.51", "vrrp.52"))
				if got := read(); !maps.Equal(got, set) {
					t.Errorf("with both: %v", got)
				}
				if err := p.clear(config(stays)); err != nil {
					t.Error(err)
				}
				if got := read(); !maps.Equal(got, set) {
					t.Errorf("with %s alone: %v", stays, got)
				}
				// Somebody sets it again, and a new VMAC comes: one that is there checks nothing, nevertheless.
				if err := system.WriteSysctl("net/ipv4/conf/all/rp_filter", "1"); err != nil {
					t.Error(err)
				}
				p.furnish(config(stays, "vrrp.53"))
				set[stays+"/rp_filter"], set["vrrp.53/rp_filter"] = "0", "0"
				if got := read(stays+"/rp_filter", "vrrp.53/rp_filter"); !maps.Equal(got, set) {
					t.Errorf("with a new one: %v", got)
				}
				if err := errors.Join(p.clear(&conf.Config{}), p.close()); err != nil {
					t.Error(err)
				}
				if got := read(); !maps.Equal(got, was) {
					t.Errorf("with none: %v", got)
				}
			})
		})
	}
}

// A look at the packet filter that fails counts until one succeeds, and no longer.
func TestFilterNotSeenForAWhile(t *testing.T) {
	nstest.Require(t)
	config, _, _ := load(t, vi(1, "192.0.2.1/24", "no_accept"))
	p, err := openPremises(slog.New(slog.DiscardHandler), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	p.furnish(config)
	defer func() {
		if err := p.close(); err != nil {
			t.Error(err)
		}
	}()
	look := func(changed bool, want string) {
		t.Helper()
		if got := p.look(); got != changed {
			t.Errorf("changed: got %v, want %v", got, changed)
		}
		if got := p.trouble(&config.Instances[0], nil); !strings.Contains(got, want) || (got == "") != (want == "") {
			t.Errorf("got trouble %q, want %q", got, want)
		}
	}
	look(false, "")
	nstest.Without(t, unix.CAP_NET_ADMIN, func() { // so that there is no answer
		look(false, "") // once is no reason to give way
		look(true, "no_accept is not in force: look for table")
		look(false, "no_accept is not in force: look for table")
	})
	look(true, "")
	look(false, "")
}

// A master whose packet filter is gone and can't be made again steps back, and is master again once it can.
func TestMasterWithoutItsFilter(t *testing.T) {
	nstest.Require(t, "nft")
	self, dir := nstest.Self(t), t.TempDir()
	nstest.Veth(t, self, "filter0", nstest.New(t), "eth0")
	self.WaitUp(t, "filter0")
	self.Run(t, "ip", "addr", "add", "192.0.2.11/24", "dev", "filter0")
	config, _, file := load(t, strings.Replace(vi(1, "192.0.2.1/24", "no_accept\nversion 3\nadvert_int 0.1"), "eth0", "filter0", 1))
	d, err := open(Options{File: file, Socket: filepath.Join(dir, "socket"), RunDir: dir, Log: slog.New(slog.DiscardHandler)}, config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.close)
	ctx := runs(t, d.run)
	becomes := func(want, reason string) {
		t.Helper()
		late := time.After(10 * time.Second)
		for {
			s := d.Status(ctx)
			if len(s.Instances) > 0 && s.Instances[0].State == want && strings.Contains(s.Instances[0].Reason, reason) {
				return
			}
			select {
			case <-late:
				t.Fatalf("want %s %q, got %+v", want, reason, s.Instances)
			case <-time.After(10 * time.Millisecond):
			}
		}
	}
	becomes(control.StateMaster, "")
	// The kernel takes no more than 1024 chains for a hook.
	full := "table inet full {\n"
	for k := range 1024 {
		full += fmt.Sprintf("chain c%d { type filter hook input priority 0; }\n", k)
	}
	rules := filepath.Join(dir, "full.nft")
	if err := os.WriteFile(rules, []byte(full+"}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	// It's all done again if ours came back in between.
	self.Run(t, "sh", "-c", "until nft flush ruleset && nft -f "+rules+" 2>/dev/null; do :; done")
	becomes(control.StateFault, "no_accept is not in force")
	self.Run(t, "nft", "flush", "ruleset")
	becomes(control.StateMaster, "")
}
