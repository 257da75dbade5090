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
		"quorum {\nno_quorum_policy suicide\nreboot_command '/sbin/reboot\nguard lifetime\nguard_port 3742\n}\n" + instance("quorum pg", "vip_lifetime 0", "priority 255"),
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
		for _, i := range c.Instances {
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

func fuzzQuorum(t *testing.T, c *Config, code int) {
	q := c.Quorum
	if !c.Extended || !q.Equal(q) || len(q.NeedsRestart(q)) > 0 {
		t.Errorf("got %+v, not equal to itself or not ours", q)
	}
	if q.Port < 1 || q.Port > 65534 || q.Lease < 100*time.Millisecond || q.Lease > 10*time.Second || q.GuardPort < 0 || q.GuardPort > 65535 ||
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
