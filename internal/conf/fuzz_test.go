package conf

import (
	"encoding/json"
	"net/netip"
	"os"
	"path"
	"strings"
	"testing"
	"time"
)

func seeds(f *testing.F) {
	for _, file := range corpus(f) {
		text, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	for _, text := range []string{
		"$A=$A\n$A", "$A= \\\n$A\n$A", "~SEQ(i,1,99999999) ~SEQ(j,99999999) $i", "~SEQx(i,0x7fffffff) $i", "~LST({a,b},{1},{2}) $a$b",
		"@n1 @n1 @n1 {", "${", "${_RANDOM 1 2}", "$_ENV", "include f", "include {a,{b,c}}*[!x]", "\"", "{}{}{{{}", "a\x00b", "\\# \\! #",
		"notify 'a\nnotify \"a \\x\"", "global_defs {\ninclude_check -x +y read\n}\n", "vrrp_instance\n", "quorum {",
		quorum("@n1 node n1", "port 3741", "lease 0.4", "witness w2 2001:db8::1 10.0.0.1 votes 2") + instance("quorum pg"),
		quorum("voter n1 10.77.0.1", "voter n2 fe80::1%eth0 ::ffff:10.0.0.1 votes", "watchdog a timeout b mode", "fencing") + "quorum {\n}\n",
		"quorum {\nno_quorum_policy suicide\nreboot_command '/sbin/reboot\nguard lifetime\n}\n" + instance("quorum pg", "vip_lifetime 0", "priority 255"),
		"track_file f {\nfile /f\nmissing fail\ninit_file 1 overwrite\n}\nvrrp_track_process p {\nprocess a b\nparam_match partial\nquorum_max 0\n}\n" +
			instance("priority 255", "track_file {\nf weight -254 reverse\n}", "track_process {\np\n}") + "vrrp_sync_group G {\ngroup {\nVI_1\n}\ntrack_file {\nf\n}\n}\n",
		instance("auth_hmac {\nkey 1 hex:"+strings.Repeat("00", 32)+"\nkey 2 file:a\nactive_key 1\n}", "use_vmac name a 1:2:3:4:5 group 5", "use_vmac_addr", "strict_mode", "owner_ignore_adverts"),
		"interface_up_down_delays {\neth0 1 2\n}\ngarp_group {\ngarp_interval 1\ninterface eth0\n}\nglobal_defs {\numask 0x1f\nvrrp_cpu_affinity 0 1\nnotify_fifo a b c\nvmac_prefix v\n}\n",
	} {
		f.Add([]byte(text))
	}
}

func fuzzOptions(text []byte) Options {
	opts := memory{"f": string(text), "a": "include f\n", "b": "$B=1\n"}.options()
	opts.MaxLines = 2000
	return opts
}

// FuzzLex: every input ends, in bounded time, with lines that are no longer than the limit.
func FuzzLex(f *testing.F) {
	seeds(f)
	f.Fuzz(func(t *testing.T, text []byte) {
		diags := newCollector()
		r := newReader(fuzzOptions(text), diags)
		r.openFile("f", func(string) {}, func(string) {})
		for range 200_000 {
			tok, ok := r.next()
			if !ok {
				return
			}
			if len(tok.line.text) > maxLineLen {
				t.Fatalf("line of %d bytes", len(tok.line.text))
			}
			for _, w := range tok.line.split() {
				if w.pos.Line < 0 || w.pos.Col < 0 {
					t.Fatalf("word at %v", w.pos)
				}
			}
		}
		t.Fatal("does not end")
	})
}

// FuzzLoad: every input gives a Config that can be printed, and what is not Fatal holds what the types promise.
func FuzzLoad(f *testing.F) {
	seeds(f)
	f.Fuzz(func(t *testing.T, text []byte) {
		c, diags := Load("f", fuzzOptions(text))
		for _, d := range diags {
			if d.Message == "" || d.File == "" {
				t.Errorf("empty finding %#v", d)
			}
			if d.Severity == Error && c.Extended {
				t.Errorf("error in a file of ours is not fatal: %s", d)
			}
		}
		if out, err := json.Marshal(c); err != nil || !json.Valid(out) {
			t.Errorf("JSON: %v", err)
		}
		if c.Quorum != nil {
			fuzzQuorum(t, c, ExitCode(diags, false))
		}
		fuzzTracking(t, c)
		for _, i := range c.Instances {
			if h := i.HMAC; ExitCode(diags, false) != ExitCannot && len(h.Keys) > 0 && (h.ActiveKey == 0 || h.Window == 0 != h.Monotonic) {
				t.Errorf("got auth_hmac %+v", h)
			}
			if v := i.VMAC; v.Use && (len(v.MAC) != 6 || v.Name == "" || len(v.Name) > 15 || i.Unicast && !v.XmitBase) {
				t.Errorf("got use_vmac %+v", v)
			}
			if i.TimerExpiredBackup > 0 && i.Preempt || i.OwnerIgnoreAdverts && i.Priority != 255 || i.NoAccept && i.Priority == 255 {
				t.Errorf("got %+v", i)
			}
			for _, r := range i.Routes {
				if !r.To.IsValid() || r.Table <= 0 || r.Type == "unicast" && !r.Via.IsValid() && r.Interface == "" && len(r.NextHops) == 0 {
					t.Errorf("got route %+v", r)
				}
			}
			for _, r := range i.Rules {
				if r.Action == "" || r.Action == "table" && r.Table <= 0 || r.Action == "goto" && r.Goto <= r.Preference {
					t.Errorf("got rule %+v", r)
				}
			}
			if ExitCode(diags, false) != ExitCannot && i.Quorum != "" && (c.Quorum == nil || i.VIPLifetime == 0 && c.Quorum.Guard == GuardLifetime || i.Priority == 255) {
				t.Errorf("got %+v with %+v", i, c.Quorum)
			}
			if !i.Equal(&i) || !i.SameVirtualRouter(&i) {
				t.Error("an instance is not equal to itself")
			}
			if i.Priority == 0 || i.AdvertInterval <= 0 || i.Version != 2 && i.Version != 3 || i.IPv6 && i.Version != 3 ||
				i.DownTimerAdverts < 1 || len(i.Addresses) > maxAddresses || len(i.Password) > 8 || !i.Group.IsMulticast() {
				t.Errorf("got %+v", i)
			}
			if ExitCode(diags, false) != ExitCannot && (i.VRID == 0 || i.Interface == "" || i.Name == "") {
				t.Errorf("got %+v without a fatal finding", i)
			}
			for _, a := range i.Addresses {
				if a.Prefix.Addr().Is6() != i.IPv6 {
					t.Errorf("got %v in an instance of the other family", a.Prefix)
				}
			}
		}
	})
}

// fuzzTracking: what is tracked has its block or is undefined, with a weight of its range; members are instances of one group.
func fuzzTracking(t *testing.T, c *Config) {
	defined := map[string]bool{}
	for _, s := range c.Scripts {
		defined["script "+s.Name] = true
	}
	for _, f := range c.TrackFiles {
		defined["file "+f.Name] = f.Path != ""
	}
	for _, p := range c.TrackProcesses {
		defined["process "+p.Name] = len(p.Process) > 0
	}
	for _, i := range c.Instances {
		for kind, list := range map[string][]Tracked{"interface": i.TrackInterfaces, "script": i.TrackScripts, "file": i.TrackFiles, "process": i.TrackProcesses} {
			for _, tracked := range list {
				if w := tracked.Weight; w < -254 || w > 254 || w != 0 && i.Priority == 255 || kind != "interface" && !tracked.Undefined && !defined[kind+" "+tracked.Name] {
					t.Errorf("got %s %+v", kind, tracked)
				}
			}
		}
	}
	member := map[string]string{}
	for _, g := range c.SyncGroups {
		if len(g.Members) == 0 || !g.Equal(&g) {
			t.Errorf("got %+v", g)
		}
		for _, name := range g.Members {
			if member[name] != "" {
				t.Errorf("%s is in two groups", name)
			}
			member[name] = g.Name
		}
	}
	for _, i := range c.Instances {
		if i.SyncGroup != member[i.Name] {
			t.Errorf("%s is in %q and thinks that it is in %q", i.Name, member[i.Name], i.SyncGroup)
		}
	}
}

func fuzzQuorum(t *testing.T, c *Config, code int) {
	q := c.Quorum
	if !c.Extended || !q.Equal(q) || len(q.NeedsRestart(q)) > 0 {
		t.Errorf("got %+v, not equal to itself or not ours", q)
	}
	if q.Port < 1 || q.Port > 65534 || q.Lease < 100*time.Millisecond || q.Lease > 10*time.Second ||
		!path.IsAbs(q.KeyFile) || !path.IsAbs(q.StateDir) || q.AgentUser == "" || q.Policy == "" || q.Guard == "" {
		t.Errorf("got %+v", q)
	}
	if code == ExitCannot {
		return
	}
	names, addrs, data := map[string]bool{}, map[netip.Addr]bool{}, 0
	for _, v := range q.Voters {
		if names[strings.ToLower(v.Name)] || !isNodeName(v.Name) || len(v.Addrs) == 0 || v.Votes < 1 || v.Votes > 2 || v.Votes == 2 && !v.Witness {
			t.Errorf("got %+v without a fatal finding", v)
		}
		names[strings.ToLower(v.Name)] = true
		for _, a := range v.Addrs {
			if addrs[a] || !a.IsValid() || a.IsUnspecified() || a.IsMulticast() || a.Zone() != "" {
				t.Errorf("got address %v without a fatal finding", a)
			}
			addrs[a] = true
		}
		if !v.Witness {
			data++
		}
		if self, err := q.Self(v.Name); q.Node == "" && (err != nil || self.Name != v.Name) {
			t.Errorf("host %s: got %+v, %v", v.Name, self, err)
		}
	}
	if data < 1 || data > 3 || len(q.Voters) > 7 || len(q.Resources) == 0 || q.Policy == PolicySuicide && len(q.RebootCommand.Argv) == 0 {
		t.Errorf("got %+v without a fatal finding", q)
	}
	for _, i := range c.Instances {
		if _, ok := q.Resource(i.Quorum); i.Quorum != "" && !ok {
			t.Errorf("%s asks for %s, which is no resource, without a fatal finding", i.Name, i.Quorum)
		}
	}
}

// FuzzCommand: every command line gives words without NUL bytes, or a problem, and never both.
func FuzzCommand(f *testing.F) {
	for _, text := range []string{"", `\`, `/bin/sh -c 'a "b" c'`, `/bin/a \x41\101\cA\q "b\"c"`, "'", `a\x`, `a\0`, "\x00", `"" a`, `a''b`} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		argv, problem := splitCommand(text)
		if (problem == "") != (len(argv) > 0 && argv[0] != "") {
			t.Fatalf("got %q and problem %q", argv, problem)
		}
		for _, a := range argv {
			if strings.IndexByte(a, 0) >= 0 {
				t.Errorf("NUL byte in %q", a)
			}
		}
	})
}

// FuzzBraces: alternatives are bounded, however they nest, and a pattern without braces stays as it is.
func FuzzBraces(f *testing.F) {
	for _, text := range []string{"", "{", "}", "{}", "{,}", "a{b,c{d,e}}f", "{a,b}{a,b}{a,b}{a,b}{a,b}{a,b}{a,b}{a,b}{a,b}{a,b}{a,b}", "{{{{", "}}{"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if len(text) > maxLineLen {
			return
		}
		all, ok := expandBraces(text)
		if len(all) > 1000+maxLineLen {
			t.Errorf("%d alternatives", len(all))
		}
		if !strings.Contains(text, "{") && (!ok || len(all) != 1 || all[0] != text) {
			t.Errorf("got %q, %t", all, ok)
		}
	})
}
