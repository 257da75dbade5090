//go:build e2e

package e2e

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgvrrp/internal/control"
	"pgvrrp/test/lab"
)

// Inside hosts: the program under notify, what it writes down, and the file that it waits for to go.
const (
	hookPath = "/etc/vrrpd/hook"
	hookDir  = "/run/hooks"
	hookHold = hookDir + "/hold"
)

// writeHook makes a shell script that stands at hookPath of the hosts it is given to. Before its body it writes down that it
// starts and its arguments, and it waits as long as hookHold is there; behind its body it writes that it ends.
func writeHook(body string) func(t *testing.T, h *lab.Host) {
	script := "#!/bin/sh\nIFS='|'\necho \"start|$*\" >>" + hookDir + "/log\nwhile [ -e " + hookHold + " ] || [ -e " + hookHold + ".$3 ]; do sleep 0.01; done\n" +
		body + "\necho \"end|$*\" >>" + hookDir + "/log\n"
	return func(t *testing.T, h *lab.Host) {
		t.Helper()
		writeFile(t, h, hookPath, script, 0o755)
		run(t, h, "sh", "-c", "mkdir -p "+hookDir+" && chmod 1777 "+hookDir+" && touch "+hookDir+"/log && chmod 666 "+hookDir+"/log")
	}
}

// hookLog is what hooks have written down so far.
func hookLog(h *lab.Host) []string {
	return strings.FieldsFunc(readFile(h, hookDir+"/log"), func(r rune) bool { return r == '\n' })
}

// started are the arguments of the hooks that were started.
func started(h *lab.Host) []string { return logged(h, "start|") }

// ended are those of the hooks that came to their end.
func ended(h *lab.Host) []string { return logged(h, "end|") }

func logged(h *lab.Host, prefix string) []string {
	var list []string
	for _, line := range hookLog(h) {
		if args, ok := strings.CutPrefix(line, prefix); ok {
			list = append(list, args)
		}
	}
	return list
}

func waitStarted(t *testing.T, h *lab.Host, want ...string) {
	t.Helper()
	waitLogged(t, h, "start|", want)
}

func waitEnded(t *testing.T, h *lab.Host, want ...string) {
	t.Helper()
	waitLogged(t, h, "end|", want)
}

func waitLogged(t *testing.T, h *lab.Host, prefix string, want []string) {
	t.Helper()
	eventually(t, patience, "hooks run", func() (bool, string) {
		got := logged(h, prefix)
		return slices.Equal(got, want), fmt.Sprintf("%s got %q, want %q", prefix, got, want)
	})
}

// oneAtATime fails if a hook started before another had ended.
func oneAtATime(t *testing.T, h *lab.Host) {
	t.Helper()
	running := ""
	for _, line := range hookLog(h) {
		what, args, _ := strings.Cut(line, "|")
		switch {
		case what == "start" && running != "":
			t.Errorf("%q was started while %q ran", args, running)
		case what == "start":
			running = args
		case what == "end":
			running = ""
		}
	}
}

// The words are those of keepalived: the program of one state gets its own arguments alone, the generic one four words more.
// The same file runs under keepalived first, so that this is its word and not ours.
func TestVRRPHookArguments(t *testing.T) {
	t.Parallel()
	r := fast(150,
		"notify_master \"/etc/vrrpd/hook to-master 'two words'\"",
		"notify_backup \"/etc/vrrpd/hook to-backup\"",
		"notify_fault \"/etc/vrrpd/hook to-fault\"",
		"notify_stop \"/etc/vrrpd/hook to-stop\"",
		"notify \"/etc/vrrpd/hook any\"",
	)
	r.Interval = "0.5" // both hooks of BACKUP run before it is MASTER
	want := []string{
		"to-backup", "any|INSTANCE|VI_51|BACKUP|150",
		"to-master|two words", "any|INSTANCE|VI_51|MASTER|150",
		"to-fault", "any|INSTANCE|VI_51|FAULT|150",
		"to-backup", "any|INSTANCE|VI_51|BACKUP|150",
		"to-master|two words", "any|INSTANCE|VI_51|MASTER|150",
		"to-stop", "any|INSTANCE|VI_51|STOP|150",
	}
	for _, d := range []daemon{keepalived, vrrpd} {
		t.Run(string(d), func(t *testing.T) {
			l := newLab(t, 1)
			n1 := l.Host("n1")
			writeHook("env >"+hookDir+"/env.$$")(t, n1)
			d.start(t, n1, file("script_user root", r))
			reached := func(n int) { // and has ended: a hook that runs at the end is stopped
				t.Helper()
				eventually(t, patience, "hooks run", func() (bool, string) {
					return len(ended(n1)) >= n, fmt.Sprintf("%q", hookLog(n1))
				})
			}
			reached(4)
			if err := n1.CutLinks(lab.LAN); err != nil {
				t.Fatal(err)
			}
			reached(6)
			if err := n1.HealLinks(lab.LAN); err != nil {
				t.Fatal(err)
			}
			reached(10)
			d.stop(t, n1)
			got, want := started(n1), slices.Clone(want)
			if d == keepalived {
				// It starts both at once, so either may be there first.
				for k := 0; k+1 < min(len(got), len(want)); k += 2 {
					slices.Sort(got[k : k+2])
					slices.Sort(want[k : k+2])
				}
			}
			if !slices.Equal(got, want) {
				t.Errorf("got  %q\nwant %q", got, want)
			}
			if d != vrrpd {
				return
			}
			oneAtATime(t, n1)
			env := run(t, n1, "sh", "-c", "cat "+hookDir+"/env.*")
			for _, v := range []string{"VRRPD_SOCKET=" + control.DefaultSocket, "VRRPD_INSTANCE=VI_51", "VRRPD_SEQ=1", "VRRPD_SEQ=6", "LANG=C\n"} {
				if !strings.Contains(env, v) {
					t.Errorf("environment: no %q in %q", v, env)
				}
			}
		})
	}
}

// A removed instance is told as FAULT, as keepalived has it, or as DELETED where notify_deleted asks for that.
func TestVRRPHookDeleted(t *testing.T) {
	l := newLab(t, 1)
	n1 := l.Host("n1")
	writeHook("")(t, n1)
	other := router{VRID: 52, Priority: 150, Interval: "0.1", VIPs: []string{"10.77.0.101/24"}, Lines: []string{
		"notify_deleted \"" + hookPath + " to-deleted\"", "notify \"" + hookPath + " any\""}}
	stays := router{VRID: 53, Priority: 150, Interval: "0.1", VIPs: []string{"10.77.0.102/24"}}
	startVrrpd(t, n1, file("", fast(150, "notify_fault \""+hookPath+" to-fault\""), other, stays))
	waitState(t, n1, "VI_51", control.StateMaster)
	waitState(t, n1, "VI_52", control.StateMaster)
	waitState(t, n1, "VI_53", control.StateMaster)
	waitEnded(t, n1, "any|INSTANCE|VI_52|BACKUP|150", "any|INSTANCE|VI_52|MASTER|150")
	reload(t, n1, file("", stays))
	eventually(t, patience, "hooks of the removed instances run", func() (bool, string) {
		got := started(n1)[2:]
		slices.Sort(got)
		return slices.Equal(got, []string{"any|INSTANCE|VI_52|DELETED|150", "to-deleted", "to-fault"}), fmt.Sprintf("%q", got)
	})
}

// A master that is told so slowly that it is none any more: what is out of date when its turn comes is not run.
func TestVRRPHookNewestWins(t *testing.T) {
	l := newLab(t, 2)
	n1, n2 := l.Host("n1"), l.Host("n2")
	writeHook("")(t, n1)
	writeFile(t, n1, hookHold, "", 0o644)
	startVrrpd(t, n1, file("", fast(150, "notify "+hookPath)))
	waitState(t, n1, "VI_51", control.StateMaster)
	waitStarted(t, n1, "INSTANCE|VI_51|BACKUP|150")
	// The hook of BACKUP hangs. A flap: somebody better speaks up and falls silent again, three times.
	higher := packet{VRID: 51, Priority: ptr(200)}
	for range 3 {
		seq := instance(t, n1, "VI_51").Seq
		higher.send(t, n2, 1)
		waitInstance(t, n1, "VI_51", "flapped", func(i control.Instance) bool { return i.State == control.StateMaster && i.Seq == seq+2 })
	}
	i := instance(t, n1, "VI_51")
	if i.Seq != 8 {
		t.Errorf("got %d transitions, want 8", i.Seq)
	}
	waitStarted(t, n1, "INSTANCE|VI_51|BACKUP|150")
	run(t, n1, "rm", hookHold)
	waitStarted(t, n1, "INSTANCE|VI_51|BACKUP|150", "INSTANCE|VI_51|MASTER|150")
	waitInstance(t, n1, "VI_51", "the hook of the newest state is reported", func(i control.Instance) bool {
		return i.LastHook != nil && i.LastHook.Seq == 8 && i.LastHook.State == control.StateMaster && i.LastHook.Code == 0 && !i.LastHook.Superseded
	})
	stop(t, n1, "vrrpd", endTime)
	if got, want := started(n1), []string{"INSTANCE|VI_51|BACKUP|150", "INSTANCE|VI_51|MASTER|150", "INSTANCE|VI_51|STOP|150"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	oneAtATime(t, n1)
}

func TestVRRPVIPAfterNotify(t *testing.T) {
	t.Parallel()
	vip := lab.VIP(1)
	text := file("", fast(150, "notify "+hookPath, "vip_after_notify 30"))
	silent := func(t *testing.T, l *lab.Lab, c *lab.Capture) {
		t.Helper()
		if holds(l.Host("n1"), vip) {
			t.Error("the address is there")
		}
		if n := len(c.Frames(lab.Announcement("n1", vip))); n > 0 {
			t.Errorf("%d announcements", n)
		}
	}
	t.Run("waits for the exit code", func(t *testing.T) {
		l := newLab(t, 1)
		n1 := l.Host("n1")
		writeHook("")(t, n1)
		c := capture(t, l)
		writeFile(t, n1, hookHold+".MASTER", "", 0o644)
		startVrrpd(t, n1, text)
		waitState(t, n1, "VI_51", control.StateMaster)
		waitStarted(t, n1, "INSTANCE|VI_51|BACKUP|150", "INSTANCE|VI_51|MASTER|150")
		// Adverts go on meanwhile, so that nobody else takes over.
		waitClaims(t, c, time.Now(), "n1", 51, 5)
		silent(t, l, c)
		i := instance(t, n1, "VI_51")
		if !strings.Contains(i.Waiting, "vip_after_notify") || i.Addresses[0].Held {
			t.Errorf("status: got %s, held %t, want it to tell what it waits for", describe(i), i.Addresses[0].Held)
		}
		released := time.Now()
		run(t, n1, "rm", hookHold+".MASTER")
		waitHolder(t, l, vip, "n1")
		waitFrame(t, c, released, "announcement", lab.Announcement("n1", vip))
		i = waitInstance(t, n1, "VI_51", "says so", func(i control.Instance) bool { return i.Waiting == "" && i.Addresses[0].Held })
		if i.LastHook == nil || i.LastHook.State != control.StateMaster || i.LastHook.Duration <= 0 || i.LastHook.Code != 0 {
			t.Errorf("last hook: got %+v", i.LastHook)
		}
	})
	t.Run("fails", vipAfterNotifyFails)
	t.Run("overtaken", func(t *testing.T) {
		l := newLab(t, 2)
		n1, n2 := l.Host("n1"), l.Host("n2")
		writeHook("")(t, n1)
		c := capture(t, l)
		writeFile(t, n1, hookHold+".MASTER", "", 0o644)
		startVrrpd(t, n1, text)
		waitState(t, n1, "VI_51", control.StateMaster)
		waitStarted(t, n1, "INSTANCE|VI_51|BACKUP|150", "INSTANCE|VI_51|MASTER|150")
		// A better one speaks up and goes on: the hook of MASTER succeeds too late.
		higher := packet{VRID: 51, Priority: ptr(200), Interval: 100}
		higher.send(t, n2, 1)
		waitState(t, n1, "VI_51", control.StateBackup)
		run(t, n1, "rm", hookHold+".MASTER")
		waitStarted(t, n1, "INSTANCE|VI_51|BACKUP|150", "INSTANCE|VI_51|MASTER|150", "INSTANCE|VI_51|BACKUP|150")
		silent(t, l, c)
		// It falls silent after a last word: with its own turn the address comes, once.
		packet{VRID: 51, Priority: ptr(0)}.send(t, n2, 1)
		waitHolder(t, l, vip, "n1")
	})
}

// Each way to fail is an instance of its own, all at once: n1 gives up, a peer takes over, n1 tries again after notify_retry, and
// its hook is mended at last.
func vipAfterNotifyFails(t *testing.T) {
	tests := []struct {
		name, body, reason string // body: what the hook does on MASTER
	}{
		{"exit-code", "exit 3", "exit status 3"},
		{"signal", "kill -SEGV $$; sleep 9", "segmentation fault"},
		{"timeout", "sleep 60", "1s"},
		{"deaf", "trap '' TERM; sleep 60", "1s"},
		{"missing", "", "no such file"}, // removed behind the check at the start
	}
	l := newLab(t, 2)
	n1, n2 := l.Host("n1"), l.Host("n2")
	script := func(name string) string { return "/etc/vrrpd/hook-" + name }
	mend := func(h *lab.Host, name string) { writeFile(t, h, script(name), "#!/bin/sh\n", 0o755) }
	vrid := func(k int) uint8 { return uint8(51 + k) }
	name := func(k int) string { return fmt.Sprintf("VI_%d", vrid(k)) }
	text := func(priority int, lines ...string) string {
		var blocks []fmt.Stringer
		for k, tt := range tests {
			r := router{VRID: int(vrid(k)), Interval: "0.1", VIPs: []string{lab.VIP(1+k).String() + "/24"}, Lines: []string{
				"notify " + script(tt.name), "vip_after_notify 1", "notify_retry 1"}}
			blocks = append(blocks, r.with(priority, lines...))
		}
		return file("", blocks...)
	}
	for _, tt := range tests {
		writeFile(t, n1, script(tt.name), "#!/bin/sh\nif [ $3 = MASTER ]; then "+tt.body+"\nfi\n", 0o755)
		mend(n2, tt.name)
	}
	writeFile(t, n1, script("missing"), "#!/bin/sh\n", 0o755)
	c := capture(t, l)
	startVrrpd(t, n1, strings.Replace(text(150), "vrrp_version 3", "vrrp_version 3\n  vrrp_startup_delay 2", 1)) // the script is removed first
	run(t, n1, "rm", script("missing"))
	faults := map[int]control.Instance{}
	for k := range tests {
		faults[k] = waitState(t, n1, name(k), control.StateFault)
	}
	// A peer takes over meanwhile and keeps the address, whatever n1 tries.
	startVrrpd(t, n2, text(100, "nopreempt"))
	for k := range tests {
		waitInstance(t, n1, name(k), "tries again", func(i control.Instance) bool { return i.Counters.BecameMaster >= 2 })
	}
	for k, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			reason := strings.ToLower(faults[k].Reason)
			if !strings.Contains(reason, tt.reason) && (tt.reason != "1s" || !strings.Contains(reason, "timed out after 1.")) {
				t.Errorf("reason: got %q, want it to tell of %q", faults[k].Reason, tt.reason)
			}
			first := waitFrame(t, c, time.Time{}, "advert", claim("n1", vrid(k)))
			bye := waitFrame(t, c, first.At, "goodbye", goodbye("n1", vrid(k)))
			if f, ok := c.First(bye.At.Add(time.Nanosecond), claim("n1", vrid(k))); ok && f.At.Before(bye.At.Add(time.Second)) {
				t.Errorf("advertises %s after it gave up", f.At.Sub(bye.At))
			}
			if d := bye.At.Sub(first.At); tt.reason == "1s" && (d < time.Second-5*time.Millisecond || d > time.Second+2*slack) {
				t.Errorf("gave up after %s, want 1s", d)
			}
			waitState(t, n2, name(k), control.StateMaster)
			waitHolder(t, l, lab.VIP(1+k), "n2")
			i := instance(t, n1, name(k))
			var failed time.Time
			for _, x := range i.Transitions {
				switch {
				case x.To == control.StateFault:
					failed = x.At
				case x.From == control.StateFault && x.At.Sub(failed) < time.Second:
					t.Errorf("tried again after %s, notify_retry is 1 s", x.At.Sub(failed))
				}
			}
			if n := len(c.Frames(lab.Announcement("n1", lab.VIP(1+k)))); n > 0 {
				t.Errorf("n1 has announced the address %d times", n)
			}
			mend(n1, tt.name)
			waitState(t, n1, name(k), control.StateMaster)
			waitHolder(t, l, lab.VIP(1+k), "n1")
		})
	}
}

func TestVRRPHookStopIsBounded(t *testing.T) {
	l := newLab(t, 1)
	n1 := l.Host("n1")
	writeHook("trap '' TERM; sleep 60")(t, n1)
	startVrrpd(t, n1, file("", fast(150, "notify_stop \""+hookPath+" stop\"")))
	waitState(t, n1, "VI_51", control.StateMaster)
	took := stop(t, n1, "vrrpd", endTime)
	if got := started(n1); !slices.Equal(got, []string{"stop"}) {
		t.Errorf("hooks: got %q, want stop", got)
	}
	if took < 500*time.Millisecond {
		t.Errorf("ended after %s: the hook had no time", took)
	}
	if took > time.Second+2*slack {
		t.Errorf("ended after %s, want 1s", took)
	}
	if holds(n1, lab.VIP(1)) {
		t.Error("the address is still there")
	}
}

// What a hook or check inherits of a vrrpd that runs with real-time scheduling, locked memory, a protected oom score, raised
// limits and ambient capabilities: nothing.
func TestVRRPHookInheritsNothing(t *testing.T) {
	l := newLab(t, 1)
	n1 := l.Host("n1")
	const look = `cat /proc/self/status >%[1]s/$1.status; cat /proc/self/oom_score_adj >%[1]s/$1.oom; cat /proc/self/limits >%[1]s/$1.limits
chrt -p $$ >%[1]s/$1.sched; ls -l /proc/$$/fd >%[1]s/$1.fd; cut -d' ' -f19 /proc/self/stat >%[1]s/$1.nice; env >%[1]s/$1.env; cat /proc/$$/cgroup >%[1]s/$1.cgroup; id -G >%[1]s/$1.groups; ulimit -a >/dev/null`
	writeHook(fmt.Sprintf(look, hookDir))(t, n1)
	// What a hook finds that nobody's vrrpd started: the machine's own defaults.
	run(t, n1, "runuser", "-u", "nobody", "--", hookPath, "plain")
	text := file("script_user nobody\n  vrrp_rt_priority 20\n  vrrp_no_swap",
		block("vrrp_script look {\n  script \""+hookPath+" check\"\n  interval 1000\n  timeout 20\n}\n"),
		fast(150, "notify_master \""+hookPath+" master\"", "track_script {", "  look", "}"))
	writeFile(t, n1, vrrpdConf, text, 0o644)
	spawn(t, n1, "vrrpd", lab.Command{Env: []string{"LD_LIBRARY_PATH=/nowhere", "SECRET=x", "NOTIFY_SOCKET=/run/nobody-listens"}, Argv: append([]string{
		"sh", "-c", `echo 500 >/proc/self/oom_score_adj; ulimit -S -c 0; ulimit -S -n 777; ulimit -S -s 4096; trap '' HUP PIPE; exec 9>/run/held; exec "$@"`, "sh",
		"chrt", "-r", "10", "nice", "-n", "-5", "setpriv", "--inh-caps", "+net_admin,+net_raw,+net_broadcast", "--ambient-caps", "+net_admin,+net_raw,+net_broadcast",
	}, vrrpdRun()...)})
	waitAnswers(t, n1, n1.Proc("vrrpd"))
	waitState(t, n1, "VI_51", control.StateMaster)
	waitInstance(t, n1, "VI_51", "the hook is done", func(i control.Instance) bool {
		return i.LastHook != nil && i.LastHook.State == control.StateMaster && i.LastHook.Code == 0
	})
	field := func(who, file, key string) string {
		for line := range strings.Lines(readFile(n1, hookDir+"/"+who+"."+file)) {
			if rest, ok := strings.CutPrefix(line, key); ok {
				return strings.Join(strings.Fields(rest), " ")
			}
		}
		return "missing"
	}
	// The control: vrrpd itself has all of it.
	self := readFile(n1, fmt.Sprintf("/proc/%d/status", n1.Proc("vrrpd").PID()))
	if strings.Contains(self, "CapAmb:\t0000000000000000") || readFile(n1, fmt.Sprintf("/proc/%d/oom_score_adj", n1.Proc("vrrpd").PID())) != "500\n" {
		t.Fatalf("vrrpd was not started as meant: %s, oom score %q", self, readFile(n1, fmt.Sprintf("/proc/%d/oom_score_adj", n1.Proc("vrrpd").PID())))
	}
	for _, who := range []string{"master", "check"} {
		t.Run(who, func(t *testing.T) {
			// Signals too are compared with nothing: whoever starts the tests may ignore some, and the plain program inherits that.
			for _, key := range []string{"CapInh:", "CapPrm:", "CapEff:", "CapAmb:", "SigBlk:", "SigIgn:"} {
				if got := field(who, "status", key); strings.Trim(got, "0") != "" {
					t.Errorf("%s got %s, want none", key, got)
				}
			}
			for _, key := range []string{"Uid:", "Gid:", "Groups:", "SigCgt:", "NoNewPrivs:", "VmLck:"} {
				if got, want := field(who, "status", key), field("plain", "status", key); got != want {
					t.Errorf("%s got %s, want %s", key, got, want)
				}
			}
			if got := readFile(n1, hookDir+"/"+who+".oom"); got != "0\n" {
				t.Errorf("oom score: got %q, want 0", got)
			}
			// Limits are those of process 1, but for two that a service manager raises for itself.
			want := readFile(n1, "/proc/1/limits")
			for line := range strings.Lines(readFile(n1, hookDir+"/"+who+".limits")) {
				if strings.HasPrefix(line, "Max open files") || strings.HasPrefix(line, "Max locked memory") {
					if strings.Fields(line)[3] == "777" {
						t.Errorf("limit of ours: %s", line)
					}
				} else if !strings.Contains(want, line) {
					t.Errorf("limit: got %q, want one of %s", line, want)
				}
			}
			if got := readFile(n1, hookDir+"/"+who+".sched"); !strings.Contains(got, "policy: SCHED_OTHER\n") || !strings.Contains(got, "priority: 0\n") {
				t.Errorf("scheduling: got %q, want the normal one", got)
			}
			if got := readFile(n1, hookDir+"/"+who+".nice"); got != "0\n" {
				t.Errorf("nice: got %q, want 0", got)
			}
			if got := readFile(n1, hookDir+"/"+who+".fd"); strings.Contains(got, "/run/held") || strings.Contains(got, "socket:") || strings.Contains(got, "anon_inode") {
				t.Errorf("descriptors: %s", got)
			}
			env := readFile(n1, hookDir+"/"+who+".env")
			for _, v := range []string{"SECRET", "NOTIFY_SOCKET", "LD_LIBRARY_PATH"} {
				if strings.Contains(env, v+"=") {
					t.Errorf("environment: %s is in it: %s", v, env)
				}
			}
		})
	}
}

// Hooks of nobody's business: a crash of the hook's own children, or a hook that leaves a daemon behind, holds nobody up.
func TestVRRPHookLeavesDaemon(t *testing.T) {
	l := newLab(t, 1)
	n1 := l.Host("n1")
	writeHook("setsid sleep 1000 &")(t, n1)
	startVrrpd(t, n1, file("", fast(150, "notify "+hookPath, "vip_after_notify 5")))
	waitHolder(t, l, lab.VIP(1), "n1")
	stop(t, n1, "vrrpd", endTime)
	list, err := n1.Processes()
	if err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(list, func(p lab.Process) bool { return slices.Contains(p.Args, "1000") }) {
		t.Error("what the hook left behind was killed with vrrpd")
	}
}

// notify_master_rx_lower_pri: the only sign of a split brain that VRRP gives.
func TestVRRPContentionHook(t *testing.T) {
	l := newLab(t, 2)
	n1, n2 := l.Host("n1"), l.Host("n2")
	writeHook("")(t, n1)
	c := capture(t, l)
	startVrrpd(t, n1, file("", fast(150, "notify_master_rx_lower_pri \""+hookPath+" contention\"", "garp_lower_prio_repeat 2", "garp_lower_prio_delay 0")))
	waitState(t, n1, "VI_51", control.StateMaster)
	waitHolder(t, l, lab.VIP(1), "n1")
	eventually(t, patience, "the first batch is out", func() (bool, string) {
		n := len(c.Frames(lab.Announcement("n1", lab.VIP(1))))
		return n >= 5, fmt.Sprint(n)
	})
	at := time.Now()
	packet{VRID: 51, Priority: ptr(100)}.send(t, n2, 1)
	waitStarted(t, n1, "contention")
	waitFrame(t, c, at, "answer", claim("n1", 51))
	waitFrame(t, c, at, "announcement", lab.Announcement("n1", lab.VIP(1)))
	if i := instance(t, n1, "VI_51"); i.State != control.StateMaster || i.Seq != 2 {
		t.Errorf("got %s, want the master as before", describe(i))
	}
}
