//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"pgvrrp/internal/control"
	"pgvrrp/test/lab"
)

const checkDir = "/etc/vrrpd/checks/"

// tracked is an instance with a vrrp_script, or what goes for one.
type tracked struct {
	name   string
	script string      // the file's content; "": there is none
	mode   os.FileMode // default 0755
	lines  []string    // more lines of vrrp_script
	file   string      // another path than checkDir + name
	track  string      // another line of track_script; "none": no vrrp_script is defined either
	state  string      // wanted in the end
	reason string      // wanted in status
	prio   int         // wanted effective priority, default 100
	first  string      // wanted first state, if it is another than state's way there
	ignore bool        // keepalived is master in spite of it
}

const shebang = "#!/bin/sh\n"

// Every way in which a check can fail to say that all is well, each in an instance of its own: what cannot be known is bad. Beside it
// keepalived with the same file, as the control: a check that cannot run is none.
func TestPain07CheckThatCannotRun(t *testing.T) {
	const fault, master = control.StateFault, control.StateMaster
	good, bad := shebang+"exit 0\n", shebang+"exit 1\n"
	tests := []tracked{
		{name: "good", script: good, state: master},
		{name: "bad", script: bad, state: fault, reason: "exit status 1"},
		{name: "missing", state: fault, reason: "no such file", ignore: true},
		{name: "not-executable", script: good, mode: 0o644, state: fault, reason: "permission denied", ignore: true},
		{name: "directory", file: "/etc/vrrpd", state: fault, reason: "directory", ignore: true},
		{name: "no-interpreter", script: "#!/nonexistent/sh\n", state: fault, reason: "/nonexistent/sh", ignore: true},
		{name: "no-program", script: "just text\n", state: fault, reason: "exec format", ignore: true},
		{name: "no-user", script: good, lines: []string{"user nosuchuser"}, state: fault, reason: "", ignore: true},
		{name: "no-group", script: good, lines: []string{"user nobody nosuchgroup"}, state: fault, reason: "", ignore: true},
		{name: "not-for-user", script: good, mode: 0o700, lines: []string{"user nobody"}, state: fault, reason: "permission denied", ignore: true},
		{name: "crashes", script: shebang + "kill -SEGV $$; sleep 9\n", state: fault, reason: "segmentation fault"},
		{name: "hangs", script: shebang + "sleep 60\n", lines: []string{"timeout 1"}, state: fault, reason: "1s"},
		{name: "is-deaf", script: shebang + "trap '' TERM; sleep 60\n", lines: []string{"timeout 1"}, state: fault, reason: "1s"},
		{name: "undefined", track: "none", state: fault, reason: "not defined", ignore: true},
		{name: "init-fail", script: good, lines: []string{"init_fail", "rise 2"}, state: master, first: fault},
		{name: "reverse-good", script: good, track: "reverse-good weight 0 reverse", state: fault, reason: "reverse"},
		{name: "plus-good", script: good, lines: []string{"weight 20"}, state: master, prio: 120},
		{name: "plus-bad", script: bad, lines: []string{"weight 20"}, state: master, prio: 100},
		{name: "plus-missing", lines: []string{"weight 20"}, state: master, prio: 100},
		{name: "minus-good", script: good, lines: []string{"weight -20"}, state: master, prio: 100},
		{name: "minus-bad", script: bad, lines: []string{"weight -20"}, state: master, prio: 80},
		{name: "minus-missing", lines: []string{"weight -20"}, state: master, prio: 80},
		{name: "minus-hangs", script: shebang + "sleep 60\n", lines: []string{"timeout 1", "weight -20"}, state: master, prio: 80},
		{name: "minus-undefined", track: "none", lines: []string{"weight -20"}, state: master, prio: 80},
		{name: "weight-of-the-line", script: bad, lines: []string{"weight 20"}, track: "weight-of-the-line weight -30", state: master, prio: 70},
		{name: "below-one", script: bad, lines: []string{"weight -253"}, state: master, prio: 1},
		{name: "above-254", script: good, lines: []string{"weight 253"}, state: master, prio: 254},
	}
	_, n1, n2 := apart(t)
	var blocks []fmt.Stringer
	for k, tt := range tests {
		path := tt.file
		if path == "" {
			path = checkDir + tt.name
		}
		if tt.script != "" {
			mode := tt.mode
			if mode == 0 {
				mode = 0o755
			}
			writeFile(t, n1, path, tt.script, mode)
			writeFile(t, n2, path, tt.script, mode)
		}
		track := tt.name
		if tt.track != "" && tt.track != "none" {
			track = tt.track
		}
		if tt.track == "none" {
			// The line's own weight stands for a definition that isn't there.
			if len(tt.lines) > 0 {
				track += " " + tt.lines[0]
			}
		} else {
			blocks = append(blocks, block(fmt.Sprintf("vrrp_script %s {\n  script %s\n  %s\n}\n", tt.name, path, strings.Join(tt.lines, "\n  "))))
		}
		blocks = append(blocks, router{Name: tt.name, VRID: k + 1, Priority: 100, Interval: "0.1", VIPs: []string{fmt.Sprintf("10.77.0.%d/24", 100+k)},
			Lines: []string{"track_script {", "  " + track, "}"}})
	}
	// A host of the lab is a container: the kernel tells it of no processes.
	more := append(slices.Clone(blocks), block("vrrp_track_process vrrpd {\n  process vrrpd\n}\n"),
		router{Name: "process", VRID: 200, Interval: "0.1", VIPs: []string{"10.77.0.250/24"}, Lines: []string{"track_process {", "  vrrpd", "}"}})
	startVrrpd(t, n1, file("script_user root", more...))
	startKeepalived(t, n2, file("script_user root", blocks...))
	t.Run("process", func(t *testing.T) {
		i := waitState(t, n1, "process", fault)
		if !strings.Contains(i.Reason, "process vrrpd: follow processes: no process connector: ") {
			t.Errorf("reason: %s", i.Reason)
		}
		for _, x := range i.Transitions {
			if x.To == master {
				t.Errorf("it was master at %s: %+v", x.At, i.Transitions)
			}
		}
	})
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if tt.ignore {
				eventually(t, patience, "the control: keepalived is master", func() (bool, string) {
					got := keepalivedStateOf(t, n2, tt.name)
					return got == master, got
				})
			}
			prio := tt.prio
			if prio == 0 {
				prio = 100
			}
			i := waitInstance(t, n1, tt.name, tt.state, func(i control.Instance) bool {
				// On a busy machine a program may not even fail within its time at first.
				return i.State == tt.state && (tt.state == fault && strings.Contains(strings.ToLower(i.Reason), tt.reason) || int(i.Priority) == prio)
			})
			if !strings.Contains(strings.ToLower(i.Reason), tt.reason) || tt.state == fault && !strings.Contains(i.Reason, tt.name) {
				t.Errorf("reason: got %q, want it to name %s and tell of %q", i.Reason, tt.name, tt.reason)
			}
			if len(i.Trackers) != 1 || i.Trackers[0].Name != tt.name {
				t.Errorf("trackers: got %+v", i.Trackers)
			}
			if tt.first != "" && i.Transitions[0].To != tt.first {
				t.Errorf("first state: got %s, want %s", i.Transitions[0].To, tt.first)
			}
			if tt.state == fault {
				if got := keepalivedStateOf(t, n2, tt.name); tt.name == "bad" && got == master {
					t.Errorf("the control: keepalived is %s", got)
				}
				for _, x := range i.Transitions {
					if x.To == master {
						t.Errorf("it was master at %s: %+v", x.At, i.Transitions)
					}
				}
			}
		})
	}
}

// What works at first and fails later, and back.
func TestVRRPChecksChange(t *testing.T) {
	t.Parallel()
	const flag, ran = "/run/fails", "/run/ran"
	script := shebang + "[ -e " + flag + " ]; r=$?\necho $(date +%s%N) $r >>" + ran + "\n[ $r = 1 ]\n"
	check := func(lines ...string) block {
		return block("vrrp_script check {\n  script " + checkDir + "check\n  interval 0.2\n  timeout 5\n  " + strings.Join(lines, "\n  ") + "\n}\n")
	}
	follow := []string{"track_script {", "  check", "}"}
	setUp := func(t *testing.T, globals string, r router, lines ...string) (*lab.Lab, *lab.Host) {
		t.Helper()
		l := newLab(t, 2)
		n1, n2 := l.Host("n1"), l.Host("n2")
		writeFile(t, n1, checkDir+"check", script, 0o755)
		startVrrpd(t, n2, file("", fast(100)))
		startVrrpd(t, n1, file("script_user root\n  "+globals, check(lines...), r))
		waitHolder(t, l, lab.VIP(1), "n1")
		return l, n1
	}
	// runs are the starts of the check's failing runs.
	runs := func(h *lab.Host, result string) (times []time.Time) {
		for line := range strings.Lines(readFile(h, ran)) {
			if ns, r, _ := strings.Cut(strings.TrimSpace(line), " "); r == result {
				if n, err := strconv.ParseInt(ns, 10, 64); err == nil {
					times = append(times, time.Unix(0, n))
				}
			}
		}
		return times
	}
	t.Run("deleted", func(t *testing.T) {
		l, n1 := setUp(t, "", fast(150, follow...))
		run(t, n1, "rm", checkDir+"check")
		i := waitState(t, n1, "VI_51", control.StateFault)
		if !strings.Contains(i.Reason, "no such file") {
			t.Errorf("reason: got %q", i.Reason)
		}
		waitHolder(t, l, lab.VIP(1), "n2")
		writeFile(t, n1, checkDir+"check", script, 0o755)
		waitHolder(t, l, lab.VIP(1), "n1")
	})
	t.Run("no longer executable", func(t *testing.T) {
		l, n1 := setUp(t, "", fast(150, follow...))
		run(t, n1, "chmod", "0644", checkDir+"check")
		waitState(t, n1, "VI_51", control.StateFault)
		waitHolder(t, l, lab.VIP(1), "n2")
	})
	t.Run("fall and rise", func(t *testing.T) {
		l, n1 := setUp(t, "", fast(150, follow...), "fall 3", "rise 3")
		writeFile(t, n1, flag, "", 0o644)
		i := waitState(t, n1, "VI_51", control.StateFault)
		failing := runs(n1, "0")
		if len(failing) < 3 || failing[2].After(i.Since) {
			t.Errorf("FAULT at %s, the failing runs were at %s: want it after the third", i.Since, failing)
		}
		waitHolder(t, l, lab.VIP(1), "n2")
		passed := len(runs(n1, "1"))
		run(t, n1, "rm", flag)
		i = waitInstance(t, n1, "VI_51", "leaves FAULT", func(i control.Instance) bool { return i.State != control.StateFault })
		if passing := runs(n1, "1")[passed:]; len(passing) < 3 || passing[2].After(i.Since) {
			t.Errorf("BACKUP at %s, the passing runs were at %s: want it after the third", i.Since, passing)
		}
		waitHolder(t, l, lab.VIP(1), "n1")
	})
	t.Run("weight moves the address", func(t *testing.T) {
		l, n1 := setUp(t, "", fast(150, follow...), "weight -60")
		writeFile(t, n1, flag, "", 0o644)
		waitHolder(t, l, lab.VIP(1), "n2")
		i := waitInstance(t, n1, "VI_51", "backs up", func(i control.Instance) bool { return i.State == control.StateBackup && i.Priority == 90 })
		if i.ConfiguredPriority != 150 || i.Trackers[0].State == "ok" {
			t.Errorf("got %s, configured %d, trackers %+v", describe(i), i.ConfiguredPriority, i.Trackers)
		}
		run(t, n1, "rm", flag)
		waitHolder(t, l, lab.VIP(1), "n1")
	})
	t.Run("an owner is above weights", func(t *testing.T) {
		l, n1 := setUp(t, "", fast(255, follow...), "weight -60")
		writeFile(t, n1, flag, "", 0o644)
		constantly(t, time.Second, "it stays master", func() (bool, string) {
			i := instance(t, n1, "VI_51")
			return i.State == control.StateMaster && i.Priority == 255, describe(i)
		})
		waitHolder(t, l, lab.VIP(1), "n1")
	})
	t.Run("weight of an interface", func(t *testing.T) {
		l, n1 := setUp(t, "", fast(150, "track_interface {", "  eth1 weight -60", "}"))
		if err := n1.CutLinks(lab.Interconnect); err != nil {
			t.Fatal(err)
		}
		waitHolder(t, l, lab.VIP(1), "n2")
		waitInstance(t, n1, "VI_51", "backs up", func(i control.Instance) bool { return i.State == control.StateBackup && i.Priority == 90 })
		if err := n1.HealLinks(lab.Interconnect); err != nil {
			t.Fatal(err)
		}
		waitHolder(t, l, lab.VIP(1), "n1")
	})
	t.Run("writable by others", func(t *testing.T) {
		// enable_script_security: what others than root can change does not run as root, and so has failed.
		l, n1 := setUp(t, "enable_script_security", fast(150, follow...))
		run(t, n1, "chmod", "0777", checkDir+"check")
		i := waitState(t, n1, "VI_51", control.StateFault)
		if !strings.Contains(i.Reason, "writable") && !strings.Contains(i.Reason, "secur") {
			t.Errorf("reason: got %q", i.Reason)
		}
		waitHolder(t, l, lab.VIP(1), "n2")
		run(t, n1, "chmod", "0755", checkDir+"check")
		waitHolder(t, l, lab.VIP(1), "n1")
	})
}

// An unweighted check that has not answered yet holds the instance in INIT: it must not be master before it is known to be well.
func TestVRRPCheckHoldsInit(t *testing.T) {
	l := newLab(t, 1)
	n1 := l.Host("n1")
	writeHook("")(t, n1)
	writeFile(t, n1, hookHold, "", 0o644)
	slow := block("vrrp_script slow {\n  script " + hookPath + "\n  timeout 60\n}\n")
	waits := fast(255, "track_script {", "  slow", "}")
	other := router{VRID: 52, Priority: 150, Interval: "0.1", VIPs: []string{"10.77.0.101/24"}, Lines: append(slices.Clone(waits.Lines), "notify "+checkDir+"never")}
	startVrrpd(t, n1, file("script_user root", slow, waits, other))
	eventually(t, patience, "the check runs", func() (bool, string) { return len(started(n1)) > 0, "" })
	constantly(t, 500*time.Millisecond, "it waits", func() (bool, string) {
		i := instance(t, n1, "VI_51")
		return i.State == control.StateInit && i.Seq == 0 && strings.Contains(i.Waiting, "slow") && !holds(n1, lab.VIP(1)), describe(i)
	})
	// One that never took part goes without a word.
	start := time.Now()
	mustReload(t, n1, file("script_user root", slow, waits))
	if _, ok := find(status(t, n1), "VI_52"); ok || time.Since(start) > time.Second+2*slack {
		t.Errorf("reload took %s, the removed instance is there: %t", time.Since(start), ok)
	}
	if i := instance(t, n1, "VI_51"); i.State != control.StateInit {
		t.Errorf("the reload started the other: %s", describe(i))
	}
	run(t, n1, "rm", hookHold)
	waitHolder(t, l, lab.VIP(1), "n1")
}

// In a file with an extension of ours every mistake keeps vrrpd from running; keepalived's files run with what is left.
func TestVRRPOursIsStrict(t *testing.T) {
	l := newLab(t, 1)
	n1 := l.Host("n1")
	plain := file("script_user root\n  enable_script_security", block("vrrp_script gone {\n  script /nonexistent/check\n}\n"), fast(100, "track_script {", "  gone", "}"))
	ours := strings.Replace(plain, "  priority", "  vip_after_notify 5\n  notify /bin/true\n  priority", 1)
	writeFile(t, n1, vrrpdConf, plain, 0o644)
	if res := try(t, n1, "vrrpd", "check", "-f", vrrpdConf); res.Code != 5 || !strings.Contains(res.Stdout, vrrpdConf+":") || !strings.Contains(res.Stdout, "/nonexistent/check") {
		t.Errorf("check: got %d, %q, want 5 and the script's name", res.Code, res.Stdout)
	}
	if res := try(t, n1, "vrrpd", "check", "-f", vrrpdConf, "--startup"); res.Code != 0 {
		t.Errorf("check --startup: got %d, %s", res.Code, res.Stdout)
	}
	startVrrpd(t, n1, plain)
	waitState(t, n1, "VI_51", control.StateFault)
	stop(t, n1, "vrrpd", endTime)
	writeFile(t, n1, vrrpdConf, ours, 0o644)
	if res := try(t, n1, "vrrpd", "check", "-f", vrrpdConf, "--startup"); res.Code != 4 {
		t.Errorf("check --startup: got %d, %q, want 4", res.Code, res.Stdout)
	}
	if res := try(t, n1, "vrrpd", "run", "-f", vrrpdConf); res.Code != 1 || !strings.Contains(res.Stderr, "/nonexistent/check") {
		t.Errorf("run: got %d, %q, want 1 and the script's name", res.Code, res.Stderr)
	}
}
