//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"pgvrrp/test/lab"
)

// TestPGByHand is what an operator does on a live cluster: every command twice, every --dry-run, and what goes wrong.
func TestPGByHand(t *testing.T) {
	t.Parallel()
	s := newSite(t, siteOptions{daemon: vrrpd, more: busyBackup(t)})
	s.step("begin", func(t *testing.T) {
		s.begin("n1")
		s.measure()
	})
	s.step("status, explain, history", func(*testing.T) { s.showsAll() })
	s.step("check", func(t *testing.T) {
		s.pgnotify("n1", 0, "check", "--role", "primary")
		s.pgnotify("n1", 0, "check")
		s.says("n1", 1, "is a primary, want a standby", "check", "--role", "standby")
		s.pgnotify("n2", 0, "check", "--role", "standby", "--max-lag", "16MB")
		s.says("n2", 1, "is a standby, want a primary", "check", "--role", "primary")
		s.pgnotify("n2", 2, "check", "--role", "boss")
		s.pgnotify("n2", 2, "check", "--max-lag", "lots")
	})
	s.step("promote", func(t *testing.T) {
		before := s.allPromotes()
		for range 2 {
			s.says("n2", 1, "answers as a primary", "promote")
			s.says("n1", 0, "nothing to do", "promote")
		}
		if got := s.promotesSince(before); len(got) > 0 {
			t.Errorf("promote requests: %v", got)
		}
	})
	s.step("every --dry-run changes nothing", func(*testing.T) { s.dryRuns() })
	s.step("stop and start", func(t *testing.T) {
		s.says("n3", 0, "stop n3 fast", "stop")
		s.says("n3", 0, "nothing to do", "stop")
		s.says("n3", 1, "not running", "check")
		s.says("n3", 0, "start the server as a standby", "start")
		s.says("n3", 0, "nothing to do", "start")
		s.streaming("n1", "n3")
		s.pgnotify("n3", 0, "stop")
		s.says("n3", 0, "standby.signal is there", "start", "--as-is")
		s.says("n3", 0, "nothing to do", "start", "--as-is")
		s.streaming("n1", "n3")
	})
	s.step("demote, and promote again", func(t *testing.T) {
		s.m.Mark("demote by hand")
		s.says("n1", 0, "stop n1 fast", "demote")
		if s.role("n1") != "standby" {
			t.Errorf("n1 after demote: %s", s.role("n1"))
		}
		s.says("n1", 0, "nothing to do", "demote")
		s.says("n2", 0, "nothing to do", "demote")
		s.says("n1", 0, "promote n1", "promote")
		s.says("n1", 0, "nothing to do", "promote")
		s.ack(s.m.Mark("promoted by hand"))
		s.streaming("n1", "n2", "n3")
	})
	s.step("rejoin", func(t *testing.T) {
		for range 2 {
			s.says("n2", 0, "nothing to do", "rejoin")
			s.says("n1", 1, "is the primary at the VIP itself", "rejoin")
		}
		stop := s.checking("n2")
		for range 2 {
			s.pgnotify("n2", 0, "rejoin", "--rewind")
			s.streaming("n1", "n2")
		}
		stop("rejoin --rewind")
		stop = s.checking("n2")
		for i := range 2 {
			s.pgnotify("n2", 0, "rejoin", "--reclone")
			s.streaming("n1", "n2")
			if got := len(s.oldData("n2")); got != i+1 {
				t.Errorf("old data directories: %d, want %d", got, i+1)
			}
			s.nextSecond()
		}
		stop("rejoin --reclone")
		s.pgnotify("n2", 2, "rejoin", "--rewind", "--reclone")
	})
	s.step("check never fails during our own promotion", func(t *testing.T) {
		stop := s.checking("n2")
		s.m.Mark("switchover")
		s.says("n1", 0, "n2 is the primary at the VIP", "switchover", "--to", "n2")
		s.ack(s.m.Mark("switched"))
		stop("a switchover to it")
		s.streaming("n2", "n1", "n3")
		s.says("n1", 1, "run this on the primary", "switchover")
		s.pgnotify("n2", 2, "switchover", "--to", "n9")
		s.release("n1", 0) // it is kept off for a while after a switchover
		s.says("n2", 0, "n1 is the primary at the VIP", "switchover", "--to", "n1")
		s.streaming("n1", "n2", "n3")
	})
	s.step("clone to an empty host", func(t *testing.T) {
		s.pgnotify("n3", 0, "stop")
		run(t, s.host("n3"), "rm", "-rf", s.pg.DataDir)
		s.pgnotify("n3", 0, "clone", "--from", "n1")
		s.streaming("n1", "n3")
		if got := s.beside("n3"); !slices.Equal(got, []string{filepath.Base(s.pg.DataDir)}) {
			t.Errorf("beside the new data: %v", got)
		}
		stop := s.checking("n3")
		s.pgnotify("n3", 0, "clone", "--from", "n2")
		stop("clone")
		s.streaming("n1", "n3")
		if got := len(s.oldData("n3")); got != 1 {
			t.Errorf("old data directories: %d, want 1", got)
		}
		s.says("n1", 1, "primary", "clone", "--from", "n2")
		s.pgnotify("n3", 2, "clone", "--from", "n9")
		s.pgnotify("n3", 2, "clone")
	})
	s.step("full disk during a clone", func(*testing.T) { s.fullDisk() })
	s.step("bad settings and bad data", func(*testing.T) { s.badInput() })
	s.step("nothing is lost", func(t *testing.T) {
		s.lossless()
		s.noStandIns()
	})
}

// showsAll looks at what status, explain and history say, as root and as the owner of the data.
func (s *site) showsAll() {
	s.t.Helper()
	for _, h := range s.l.Hosts() {
		for _, user := range []string{"", "postgres"} {
			res, err := h.Do(within(s.t, patience), lab.Command{Argv: []string{"/usr/bin/pgnotify", "status", "--json"}, User: user})
			if err != nil {
				s.t.Fatal(err)
			}
			var st struct {
				Node  string `json:"node"`
				Nodes []struct {
					Node, Role, Address string
					Reachable           bool
					Timeline            int
				}
				Warnings []string
			}
			if err := json.Unmarshal([]byte(res.Stdout), &st); err != nil {
				s.t.Fatalf("status --json on %s: %v: %s", h.Name(), err, res.Stdout)
			}
			roles := map[string]string{}
			for _, n := range st.Nodes {
				roles[n.Node] = n.Role
				if !n.Reachable || n.Timeline == 0 {
					s.t.Errorf("status on %s by %q: %+v", h.Name(), user, n)
				}
			}
			if st.Node != h.Name() || len(roles) != 3 || roles["n1"] != "primary" || roles["n2"] != "standby" || roles["n3"] != "standby" || len(st.Warnings) > 0 {
				s.t.Errorf("status on %s by %q: %s", h.Name(), user, res.Stdout)
			}
		}
	}
	s.says("n1", 0, "n1", "status")
	s.says("n2", 0, "can't be promoted", "explain")
	s.says("n1", 0, "MASTER", "history")
}

// dryRuns compares a host before and after everything that --dry-run prints.
func (s *site) dryRuns() {
	s.t.Helper()
	snapshot := func(host string) string {
		hash := run(s.t, s.host(host), "sh", "-c", "cd "+s.pg.DataDir+" && ls -d ../* *.signal PG_VERSION 2>/dev/null; md5sum postgresql.conf pgnotify.conf pg_hba.conf")
		state := run(s.t, s.host(host), "sh", "-c", "cd "+pgnotifyState+" && find . -name '*.json*' | sort | xargs md5sum")
		return s.serverOf(host) + s.role(host) + s.streamsFrom(host) + hash + state
	}
	for host, commands := range map[string][][]string{
		"n1": {{"promote"}, {"demote"}, {"stop"}, {"start"}, {"switchover"}, {"switchover", "--to", "n2"}},
		"n2": {
			{"demote"}, {"stop"}, {"start"}, {"start", "--as-is"}, {"rejoin"}, {"rejoin", "--rewind"}, {"rejoin", "--reclone"}, {"clone", "--from", "n1"},
			{"notify", "INSTANCE", pgInstance, "FAULT", "0"}, {"notify", "INSTANCE", pgInstance, "BACKUP", "100"},
		},
	} {
		before := snapshot(host)
		for _, c := range commands {
			args := append([]string{c[0], "--dry-run"}, c[1:]...)
			if out := s.pgnotify(host, 0, args...); strings.TrimSpace(out) == "" {
				s.t.Errorf("%s: pgnotify %v says nothing", host, args)
			}
			if after := snapshot(host); after != before {
				s.t.Fatalf("%s: pgnotify %v changed something: before\n%s\nafter\n%s", host, args, before, after)
			}
		}
	}
	s.says("n2", 1, "answers as a primary", "promote", "--dry-run")
}

// checking runs pgnotify check again and again as vrrp_script does, until the returned function is called, which fails the
// test if one of them failed.
func (s *site) checking(host string) (stop func(what string)) {
	s.t.Helper()
	const script = `rm -f /run/checks /run/failed
while [ ! -e /run/enough ]; do
  if out=$(/usr/bin/pgnotify check 2>&1); then echo "$out" >>/run/checks; else date "+%T.%N $out" >>/run/failed; fi
done
rm -f /run/enough`
	h := s.host(host)
	name := "checks-" + strconv.Itoa(len(s.history(host)))
	spawn(s.t, h, name, lab.Command{Argv: []string{"/bin/sh", "-c", script}})
	eventually(s.t, patience, "the first check on "+host, func() (bool, string) {
		return readFile(h, "/run/checks") != "", readFile(h, "/run/failed")
	})
	t := s.t
	return func(what string) {
		t.Helper()
		writeFile(t, h, "/run/enough", "", 0o644)
		if _, err := h.Proc(name).Wait(within(t, patience)); err != nil {
			t.Fatal(err)
		}
		checks := strings.Count(readFile(h, "/run/checks"), "\n")
		t.Logf("%d checks on %s during %s", checks, host, what)
		if failed := readFile(h, "/run/failed"); failed != "" || checks < 3 {
			t.Errorf("check on %s failed during %s:\n%s", host, what, failed)
		}
	}
}

// nextSecond waits until the clock shows another second: kept data is named after the one in which it was replaced.
func (s *site) nextSecond() {
	s.t.Helper()
	now := run(s.t, s.l.Client(), "date", "+%s")
	eventually(s.t, patience, "the next second", func() (bool, string) {
		return run(s.t, s.l.Client(), "date", "+%s") != now, now
	})
}

// fullDisk has the file system of n3's data be too small for a copy, and fill up while one is made: nothing changes, and one
// error says why.
func (s *site) fullDisk() {
	s.t.Helper()
	h, parent := s.host("n3"), filepath.Dir(s.pg.DataDir)
	s.pgnotify("n3", 0, "stop")
	run(s.t, h, "sh", "-c", "rm -rf "+s.pg.DataDir+".old-*")
	used, err := strconv.Atoi(strings.Fields(run(s.t, h, "du", "-sm", s.pg.DataDir))[0])
	if err != nil {
		s.t.Fatal(err)
	}
	aside := "/var/lib/postgresql/aside"
	run(s.t, h, "sh", "-c", fmt.Sprintf("mv %[1]s %[2]s && mkdir %[1]s && mount -t tmpfs -o size=%[3]dm tmpfs %[1]s && chown postgres: %[1]s && cp -a %[2]s/. %[1]s/", parent, aside, 2*used+200))
	s.pgnotify("n3", 0, "start")
	s.streaming("n1", "n3")
	server, listing := s.serverOf("n3"), run(s.t, h, "ls", "-A", parent)
	// fill leaves so many MB free. The server works on the same file system: a WAL segment that it makes between df and fallocate leaves too little for
	// that, which then takes nothing, so it looks again.
	fill := func(free int) string {
		return fmt.Sprintf("cd %s && until a=$(df --output=avail -B1M . | tail -1) && { [ $a -le %[2]d ] || fallocate -l $((a - %[2]d))M filler; }; do :; done; [ -s filler ]",
			parent, free)
	}
	for _, args := range [][]string{{"rejoin", "--reclone"}, {"clone", "--from", "n1"}} {
		for _, when := range []string{"before", "while"} {
			if when == "before" {
				run(s.t, h, "sh", "-c", fill(40)) // for WAL
			} else {
				writeFile(s.t, h, beforeBackup, fill(3), 0o644)
			}
			out := s.pgnotify("n3", 1, args...)
			if !strings.Contains(strings.ToLower(out), "no space left on device") {
				s.t.Errorf("pgnotify %v on a disk that is full %s: %q, want the reason", args, when, out)
			}
			s.oneError(out)
			run(s.t, h, "rm", "-f", beforeBackup)
			run(s.t, h, "rm", parent+"/filler")
			s.asItWas(parent, listing, fmt.Sprintf("%v on a disk that is full %s", args, when))
		}
	}
	if s.serverOf("n3") != server {
		s.t.Errorf("a copy that failed restarted the server")
	}
	// A mount point can't be renamed, which the last step finds out.
	run(s.t, h, "mount", "--bind", s.pg.DataDir, s.pg.DataDir)
	out := s.pgnotify("n3", 1, "rejoin", "--reclone")
	if !strings.Contains(out, "mount point") {
		s.t.Errorf("rejoin --reclone of a mount point: %q, want the reason", out)
	}
	s.oneError(out)
	s.asItWas(parent, listing, "rejoin --reclone of a mount point")
	s.pgnotify("n3", 0, "stop")
	s.ended("n3", "postgres")
	run(s.t, h, "sh", "-c", fmt.Sprintf("umount -l %[1]s && rmdir %[1]s && mv %[2]s %[1]s", parent, aside))
	s.pgnotify("n3", 0, "start")
	s.streaming("n1", "n3")
}

// beforeBackup is a script in a host that is run, if it is there, between the look at the room for a copy and the copy.
const beforeBackup = "/run/before-backup"

// busyBackup has pg_basebackup run that script first.
func busyBackup(t *testing.T) map[string]string {
	t.Helper()
	path := filepath.Join(serverPrograms(t), "pg_basebackup")
	wrapper := filepath.Join(t.TempDir(), "pg_basebackup")
	script := fmt.Sprintf("#!/bin/sh\nif [ -e %s ]; then . %[1]s; fi\nexec %s.real \"$@\"\n", beforeBackup, path)
	if err := os.WriteFile(wrapper, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	program, err := filepath.EvalSymlinks(path)
	if err != nil {
		t.Fatal(err)
	}
	return map[string]string{path: wrapper, path + ".real": program}
}

// asItWas checks that n3 has what it had, and runs.
func (s *site) asItWas(parent, listing, after string) {
	s.t.Helper()
	if got := run(s.t, s.host("n3"), "ls", "-A", parent); got != listing {
		s.t.Errorf("pgnotify %s left %q, want %q", after, got, listing)
	}
	s.streaming("n1", "n3")
}

// oneError wants exactly one error, at the end, and no stack; progress and log lines may come before.
func (s *site) oneError(out string) {
	s.t.Helper()
	lines := strings.Split(strings.TrimSpace(out), "\n")
	last := lines[len(lines)-1]
	for _, line := range lines[:len(lines)-1] {
		if !strings.HasPrefix(line, "clone: ") && !strings.HasPrefix(line, "time=") {
			s.t.Errorf("got %q before the error, want progress and log only: %q", line, out)
		}
	}
	if !strings.HasPrefix(last, "pgnotify: ") || len(last) > 2000 {
		s.t.Errorf("got %q, want one error", last)
	}
}

// badInput has pgnotify work with settings and data that it can't work with.
func (s *site) badInput() {
	s.t.Helper()
	const host = "n2"
	h := s.host(host)
	good := readFile(h, pgnotifyToml)
	server := s.serverOf(host)
	commands := [][]string{{"status"}, {"check"}, {"promote"}, {"stop"}, {"rejoin"}, {"notify", "INSTANCE", pgInstance, "MASTER", "100"}}
	before := s.allPromotes()
	for _, tt := range []struct{ name, toml, want string }{
		{"garbled", "[postgres\ndata_dir = \x01", ":1:"},
		{"empty", "", "data_dir"},
		{"unknown key", strings.Replace(good, "[postgres]", "[postgres]\ndatadir = \"/x\"", 1), "unknown key"},
		{"missing data directory", strings.Replace(good, s.pg.DataDir, s.pg.DataDir+"-missing", 1), "no such file or directory"},
		{"not a data directory", strings.Replace(good, s.pg.DataDir, "/var/lib/postgresql", 1), "PG_VERSION"},
	} {
		writeFile(s.t, h, pgnotifyToml, tt.toml, 0o644)
		for _, args := range commands {
			res := try(s.t, h, append([]string{"/usr/bin/pgnotify"}, args...)...)
			if res.Code != 1 || !strings.Contains(res.Stderr, tt.want) || strings.Contains(res.Stderr, "goroutine ") || res.Stdout != "" {
				s.t.Errorf("%s: pgnotify %v: got exit code %d, %q, %q; want 1 and %q", tt.name, args, res.Code, res.Stdout, res.Stderr, tt.want)
			}
			if lines := strings.Count(strings.TrimSpace(res.Stderr), "\n") + 1; lines > 1 && tt.name != "empty" {
				s.t.Errorf("%s: pgnotify %v: got %d lines, want one error: %q", tt.name, args, lines, res.Stderr)
			}
		}
	}
	writeFile(s.t, h, pgnotifyToml, good, 0o644)
	// The server that runs does not care about the file.
	version := h.DiskPath(s.pg.DataDir + "/PG_VERSION")
	for _, text := range []string{"9.6\n", "99\n", "fifteen\n", ""} {
		s.overwrite(version, text)
		for _, args := range commands {
			res := try(s.t, h, append([]string{"/usr/bin/pgnotify"}, args...)...)
			if res.Code != 1 || !strings.Contains(res.Stderr, "unsupported PostgreSQL version") || strings.Count(strings.TrimSpace(res.Stderr), "\n") > 0 {
				s.t.Errorf("PG_VERSION %q: pgnotify %v: got exit code %d, %q", text, args, res.Code, res.Stderr)
			}
		}
	}
	s.overwrite(version, fmt.Sprintf("%d\n", s.pg.Version))
	for _, args := range [][]string{
		{"promote", "now"}, {"promote", "now", "--dry-run"}, {"demote", "n1"}, {"rejoin", "n1", "--rewind"}, {"clone", "n1"}, {"start", "x"}, {"stop", "x"},
		{"status", "x"}, {"check", "x"}, {"history", "x", "y"}, {"explain", "x"}, {"switchover", "n2"}, {"notify", "INSTANCE", pgInstance, "MASTER"},
		{"notify", "INSTANCE", pgInstance, "MASTER", "100", "x"}, {"notify", "INSTANCE", pgInstance, "BOSS", "100"}, {"notify", "INSTANCE", pgInstance, "MASTER", "300"},
		{"restart"}, {"--frobnicate"}, {"promote", "--frobnicate"},
	} {
		res := try(s.t, h, append([]string{"/usr/bin/pgnotify"}, args...)...)
		if res.Code != 2 || res.Stderr == "" {
			s.t.Errorf("pgnotify %v: got exit code %d, %q; want 2 and why", args, res.Code, res.Stderr)
		}
	}
	if got := s.promotesSince(before); len(got) > 0 || s.serverOf(host) != server {
		s.t.Errorf("bad input has changed something: promote requests %v, server of %s restarted: %t", got, host, s.serverOf(host) != server)
	}
	s.pgnotify(host, 0, "check", "--role", "standby")
}

// overwrite changes a file's content and nothing else of it.
func (s *site) overwrite(path, text string) {
	s.t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_TRUNC|syscall.O_NOFOLLOW, 0)
	if err != nil {
		s.t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString(text); err != nil {
		s.t.Fatal(err)
	}
}
