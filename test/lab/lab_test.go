//go:build lab

package lab

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func testContext(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// traces is what one lab has on the machine while it stands.
type traces struct {
	dir        string
	namespaces []string
	links      []string // the machine's own, before
}

func machineLinks(t *testing.T) (names []string) {
	t.Helper()
	links, err := os.ReadDir("/sys/class/net")
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range links {
		names = append(names, l.Name())
	}
	return names
}

// namespacesOf adds the namespaces of a process or thread that aren't in list yet.
func namespacesOf(list []string, proc string) []string {
	for _, ns := range []string{"net", "mnt", "pid", "uts", "ipc"} {
		if l, err := os.Readlink(filepath.Join(proc, "ns", ns)); err == nil && !slices.Contains(list, l) {
			list = append(list, l)
		}
	}
	return list
}

// tracesOf collects the namespaces of the lab's first processes, which have its directory in their arguments.
func tracesOf(t *testing.T, dir string, links []string) traces {
	t.Helper()
	tr := traces{dir: dir, links: links}
	ours := namespacesOf(nil, "/proc/self")
	procs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range procs {
		if cmd, err := os.ReadFile(filepath.Join(p, "cmdline")); err == nil && strings.Contains(string(cmd), dir) {
			tr.namespaces = namespacesOf(tr.namespaces, p)
		}
	}
	tr.namespaces = slices.DeleteFunc(tr.namespaces, func(ns string) bool { return slices.Contains(ours, ns) })
	if len(tr.namespaces) < 5 {
		t.Fatalf("the lab has only the namespaces %v", tr.namespaces)
	}
	return tr
}

// left lists what is still there. Of processes it is enough to look at their namespaces: all of the lab's are in them.
func (tr traces) left(t *testing.T) (left []string) {
	t.Helper()
	procs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	threads, err := filepath.Glob("/proc/self/task/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range append(procs, threads...) {
		for _, ns := range namespacesOf(nil, p) {
			if slices.Contains(tr.namespaces, ns) {
				left = append(left, p+" is in "+ns)
			}
		}
	}
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(mounts), filepath.Base(tr.dir)) {
		left = append(left, string(mounts))
	}
	if links := machineLinks(t); !slices.Equal(links, tr.links) {
		left = append(left, fmt.Sprintf("links %v, before %v", links, tr.links))
	}
	if _, err := os.Lstat(tr.dir); err == nil {
		left = append(left, tr.dir)
	}
	return left
}

// wantGone waits until nothing is left. The kernel frees namespaces a little later.
func (tr traces) wantGone(t *testing.T, limit time.Duration) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	err := Poll(ctx, 10*time.Millisecond, func() (bool, string, error) {
		left := tr.left(t)
		return len(left) == 0, strings.Join(left, "\n"), nil
	})
	if err != nil {
		t.Errorf("left behind: %v", err)
	}
}

func TestCloseLeavesNothing(t *testing.T) {
	Require(t)
	links := machineLinks(t)
	start := time.Now()
	l, err := New(testContext(t), Options{Hosts: 3, Extra: []HostSpec{{"w1", 21}, {"w2", 22}}})
	if err != nil {
		t.Fatal(err)
	}
	up := time.Since(start)
	tr := tracesOf(t, l.Dir(), links)
	if len(tr.left(t)) == 0 {
		t.Error("a standing lab leaves no trace: the check can't fail")
	}
	if _, err := l.Host("n1").Spawn(testContext(t), "sleeper", "sleep", "1000"); err != nil {
		t.Error(err)
	}
	start = time.Now()
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	t.Logf("five hosts and a client up in %s, gone in %s (%s)", up, time.Since(start), ReadLoad())
	tr.wantGone(t, 2*time.Second)
}

// The parent is this test binary again, killed in the middle.
func TestParentKilledLeavesNothing(t *testing.T) {
	Require(t)
	if os.Getenv("LAB_TEST_VICTIM") != "" {
		t.Skip("for the parent only")
	}
	links := machineLinks(t)
	cmd := exec.Command("/proc/self/exe", "-test.run=^TestVictim$", "-test.v")
	cmd.Env = append(os.Environ(), "LAB_TEST_VICTIM=1")
	cmd.Env = slices.DeleteFunc(cmd.Env, func(s string) bool { return strings.HasPrefix(s, cacheEnv+"=") })
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	dir := ""
	for s := bufio.NewScanner(out); dir == "" && s.Scan(); {
		dir, _ = strings.CutPrefix(s.Text(), "victim ready ")
		if !filepath.IsAbs(dir) {
			dir = ""
		}
	}
	if dir == "" {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		t.Fatal("the victim did not come up")
	}
	tr := tracesOf(t, dir, links)
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	tr.wantGone(t, 30*time.Second)
}

func TestVictim(t *testing.T) {
	if os.Getenv("LAB_TEST_VICTIM") == "" {
		t.Skip("part of TestParentKilledLeavesNothing")
	}
	l, err := New(t.Context(), Options{Hosts: 2})
	if err != nil {
		t.Fatal(err)
	}
	// A process that would outlive a polite end.
	if _, err := l.Host("n1").Spawn(t.Context(), "deaf", "sh", "-c", "trap '' TERM HUP; sleep 1000"); err != nil {
		t.Fatal(err)
	}
	if _, err := l.InitPostgres(t.Context(), PostgresOptions{}); err != nil {
		t.Fatal(err)
	}
	fmt.Println("victim ready", l.Dir())
	select {} // until we are killed
}

func TestContextEndCloses(t *testing.T) {
	Require(t)
	links := machineLinks(t)
	ctx, cancel := context.WithCancel(t.Context())
	l, err := New(ctx, Options{Hosts: 1})
	if err != nil {
		t.Fatal(err)
	}
	tr := tracesOf(t, l.Dir(), links)
	cancel()
	tr.wantGone(t, 5*time.Second)
	if err := l.Close(); err != nil {
		t.Error(err)
	}
}

func TestHost(t *testing.T) {
	ctx := testContext(t)
	program := filepath.Join(t.TempDir(), "hello")
	if err := os.WriteFile(program, []byte("#!/bin/sh\necho hello from $(hostname)\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	l := NewT(t, Options{Hosts: 2, Programs: map[string]string{"/usr/bin/hello": program}})
	n1 := l.Host("n1")

	tests := []struct {
		name, user string
		script     string
		want       string
	}{
		{"host name", "", "hostname; cat /etc/hostname", "n1\nn1\n"},
		{"own pid namespace", "", "tr '\\0' ' ' < /proc/1/cmdline | cut -d' ' -f1; grep -l '^PPid:.0' /proc/[0-9]*/status", "pgvrrp-lab-init\n/proc/1/status\n"},
		{"program of ours", "", "hello", "hello from n1\n"},
		{"user", "postgres", "id -un; echo $HOME; touch /run/postgresql/x /var/lib/postgresql/x /dev/shm/x /tmp/x && echo ok", "postgres\n/var/lib/postgresql\nok\n"},
		{"etc is own", "", "echo mine > /etc/lab-was-here; cat /etc/lab-was-here; grep -c ^postgres: /etc/passwd", "mine\n1\n"},
		{"the machine's clusters are hidden", "", "ls /etc/postgresql 2>&1 | head -1; ls -A /var/lib/postgresql", "ls: cannot access '/etc/postgresql': No such file or directory\nx\n"},
		{"the rest is read-only", "", "for f in /root/x /usr/bin/x /proc/sys/kernel/sysrq /sys/class/net/eth0/mtu; do (echo 1 > $f) 2>/dev/null && echo $f; done; echo b > /proc/sysrq-trigger; echo alive", "/usr/bin/x\nalive\n"},
		{"own sysctl", "", "echo 1 > /proc/sys/net/ipv4/ip_nonlocal_bind && echo ok", "ok\n"},
		{"interfaces", "", "ls /sys/class/net | tr '\\n' ' '", "eth0 eth1 lo "},
		{"no machine devices", "", "ls /dev | tr '\\n' ' '", "fd full net null ptmx pts random shm stderr stdin stdout tty urandom zero "},
		{"addresses", "", "ip -br -o addr show eth0 | tr -s ' ' | cut -d' ' -f3", "10.77.0.1/24\n"},
		{"v6", "", "ip -6 -o addr show eth1 scope global | tr -s ' ' | cut -d' ' -f4", "fd78::1/64\n"},
		{"peer v4", "", "ping -c1 -W1 -q n2 | grep -c ' 0% packet loss'", "1\n"},
		{"peer interconnect", "", "ping -c1 -W1 -q n2-ic | grep -c ' 0% packet loss'", "1\n"},
		{"peer v6", "", "ping -6 -c1 -W1 -q fd77::200 | grep -c ' 0% packet loss'", "1\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			res, err := n1.RunAs(ctx, tt.user, "sh", "-c", tt.script)
			if err != nil {
				t.Fatal(err)
			}
			if res.Stdout != tt.want {
				t.Errorf("got %q, want %q", res.Stdout, tt.want)
			}
		})
	}
	if _, err := os.Stat("/etc/lab-was-here"); err == nil {
		t.Error("a write to a host's /etc reached the machine")
	}

	t.Run("exit code and standard error", func(t *testing.T) {
		res, err := n1.Run(ctx, "sh", "-c", "echo out; echo err >&2; exit 3")
		var exit *ExitError
		if !errors.As(err, &exit) || exit.Code != 3 || res.Stdout != "out\n" || res.Stderr != "err\n" {
			t.Errorf("got %+v, %v", res, err)
		}
	})
	t.Run("missing program", func(t *testing.T) {
		if _, err := n1.Run(ctx, "no-such-program"); !strings.Contains(fmt.Sprint(err), "not found") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("standard input and environment", func(t *testing.T) {
		res, err := n1.Do(ctx, Command{Argv: []string{"sh", "-c", "cat; echo $X"}, Stdin: "in\n", Env: []string{"X=y"}})
		if err != nil || res.Stdout != "in\ny\n" {
			t.Errorf("got %q, %v", res.Stdout, err)
		}
	})
	t.Run("a child that keeps the output open holds nobody up", func(t *testing.T) {
		start := time.Now()
		if res, err := n1.Run(ctx, "sh", "-c", "sleep 30 & echo done"); err != nil || res.Stdout != "done\n" || time.Since(start) > 5*time.Second {
			t.Errorf("got %q, %v after %s", res.Stdout, err, time.Since(start))
		}
	})
	t.Run("deadline kills the group", func(t *testing.T) {
		short, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
		defer cancel()
		_, err := n1.Run(short, "sh", "-c", "exec 3>&1; sleep 777 & wait")
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		err = Poll(ctx, 5*time.Millisecond, func() (bool, string, error) {
			list, err := n1.Processes()
			return !slices.ContainsFunc(list, func(p Process) bool { return slices.Contains(p.Args, "777") }), "sleep lives", err
		})
		if err != nil {
			t.Error(err)
		}
	})
	t.Run("files", func(t *testing.T) {
		// /var/run is a link to /run: it must not lead out of the host.
		if err := n1.WriteFile("/var/run/some/dir/file", []byte("content"), 0o640); err != nil {
			t.Fatal(err)
		}
		res, err := n1.Run(ctx, "sh", "-c", "cat /run/some/dir/file; stat -c %a /run/some/dir/file")
		if err != nil || res.Stdout != "content640\n" {
			t.Errorf("got %q, %v", res.Stdout, err)
		}
		if b, err := n1.ReadFile("/run/some/dir/file"); err != nil || string(b) != "content" {
			t.Errorf("got %q, %v", b, err)
		}
	})
	t.Run("shared directory", func(t *testing.T) {
		if err := os.WriteFile(filepath.Join(l.SharedDir(), "x"), []byte("shared"), 0o644); err != nil {
			t.Fatal(err)
		}
		if res, err := l.Host("n2").Run(ctx, "cat", "/run/shared/x"); err != nil || res.Stdout != "shared" {
			t.Errorf("got %q, %v", res.Stdout, err)
		}
	})
	t.Run("spawn, log, kill", func(t *testing.T) {
		p, err := n1.Spawn(ctx, "worker-1", "sh", "-c", "echo started; sleep 1000")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := n1.Spawn(ctx, "worker-1", "true"); err == nil {
			t.Error("a second process of that name: got nil, want an error")
		}
		err = Poll(ctx, time.Millisecond, func() (bool, string, error) {
			b, err := os.ReadFile(p.LogFile)
			return string(b) == "started\n", string(b), err
		})
		if err != nil {
			t.Error(err)
		}
		names, err := n1.KillAll(ctx, "worker-*", unix.SIGKILL)
		if err != nil || !slices.Equal(names, []string{"worker-1"}) {
			t.Errorf("got %v, %v", names, err)
		}
		if res, err := p.Wait(ctx); err != nil || res.Signal != unix.SIGKILL {
			t.Errorf("got %+v, %v", res, err)
		}
	})
	t.Run("dial", func(t *testing.T) {
		if _, err := l.Host("n2").Spawn(ctx, "listener", "perl", "-MIO::Socket::INET", "-e",
			`$s=IO::Socket::INET->new(LocalAddr=>"10.77.0.2",LocalPort=>7777,Listen=>5,ReuseAddr=>1) or die; while($c=$s->accept){print $c "hi"; close $c}`); err != nil {
			t.Fatal(err)
		}
		var got string
		err := Poll(ctx, 5*time.Millisecond, func() (bool, string, error) {
			c, err := l.Client().Dial(ctx, "tcp", "10.77.0.2:7777")
			if err != nil {
				return false, err.Error(), nil
			}
			defer c.Close()
			b := make([]byte, 10)
			n, _ := c.Read(b)
			got = string(b[:n])
			return true, "", nil
		})
		if err != nil || got != "hi" {
			t.Errorf("got %q, %v", got, err)
		}
	})
	t.Run("reaps orphans", func(t *testing.T) {
		if _, err := n1.Run(ctx, "sh", "-c", "(sleep 0.01 &) ; true"); err != nil {
			t.Fatal(err)
		}
		err := Poll(ctx, 5*time.Millisecond, func() (bool, string, error) {
			res, err := n1.Run(ctx, "sh", "-c", "grep -l '^State:.Z' /proc/[0-9]*/status 2>/dev/null | wc -l")
			return res.Stdout == "0\n", res.Stdout, err
		})
		if err != nil {
			t.Error(err)
		}
	})
}

func TestPowerLossKeepsDisks(t *testing.T) {
	ctx := testContext(t)
	l := NewT(t, Options{Hosts: 2})
	n1 := l.Host("n1")
	for _, f := range []string{"/etc/keep", "/var/lib/keep", "/var/log/keep", "/run/lose", "/tmp/lose", "/dev/shm/lose"} {
		if err := n1.WriteFile(f, []byte(f), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	sleeper, err := n1.Spawn(ctx, "sleeper", "sleep", "1000")
	if err != nil {
		t.Fatal(err)
	}
	for round := range 3 {
		start := time.Now()
		if _, err := n1.PowerLoss(ctx); err != nil {
			t.Fatal(err)
		}
		down := time.Since(start)
		if n1.Up() || sleeper.Running() {
			t.Fatalf("up %t, running %t", n1.Up(), sleeper.Running())
		}
		if _, err := n1.Run(ctx, "true"); !errors.Is(err, errHostDown) {
			t.Errorf("run without power: got %v", err)
		}
		if b, err := n1.ReadFile("/etc/keep"); err != nil || string(b) != "/etc/keep" {
			t.Errorf("read without power: %q, %v", b, err)
		}
		start = time.Now()
		if err := n1.Boot(ctx); err != nil {
			t.Fatal(err)
		}
		t.Logf("round %d: power lost in %s, booted in %s", round, down, time.Since(start))
		for _, f := range []string{"/etc/keep", "/var/lib/keep", "/var/log/keep"} {
			if b, err := n1.ReadFile(f); err != nil || string(b) != f {
				t.Errorf("%s: got %q, %v", f, b, err)
			}
		}
		res, err := n1.Run(ctx, "sh", "-c", "ls /run/lose /tmp/lose /dev/shm/lose 2>/dev/null | wc -l")
		if err != nil || res.Stdout != "0\n" {
			t.Errorf("volatile files left: got %q, %v", res.Stdout, err)
		}
		if _, err := n1.Run(ctx, "ping", "-c1", "-W1", "-q", "10.77.0.2"); err != nil {
			t.Error(err)
		}
	}
	t.Run("reboot from inside", func(t *testing.T) {
		// reboot(2) in a pid namespace ends its first process.
		_, _ = n1.Run(ctx, "perl", "-e", "syscall(169, 0xfee1dead, 672274793, 0x1234567)")
		if err := Poll(ctx, time.Millisecond, func() (bool, string, error) { return !n1.Up(), "still up", nil }); err != nil {
			t.Fatal(err)
		}
		if err := n1.Boot(ctx); err != nil {
			t.Fatal(err)
		}
	})
}

func TestPowerLossSendsNothing(t *testing.T) {
	ctx := testContext(t)
	l := NewT(t, Options{Hosts: 2})
	n1 := l.Host("n1")
	// A connection whose end would be told by a FIN or RST.
	if _, err := n1.Spawn(ctx, "server", "perl", "-MIO::Socket::INET", "-e",
		`$s=IO::Socket::INET->new(LocalAddr=>"10.77.0.1",LocalPort=>7777,Listen=>5) or die; while($c=$s->accept){push @c,$c; print $c "hi"}`); err != nil {
		t.Fatal(err)
	}
	var conn interface {
		SetReadDeadline(time.Time) error
		Read([]byte) (int, error)
	}
	err := Poll(ctx, 5*time.Millisecond, func() (bool, string, error) {
		c, err := l.Client().Dial(ctx, "tcp", "10.77.0.1:7777")
		if err != nil {
			return false, err.Error(), nil //nolint:nilerr // not yet
		}
		t.Cleanup(func() { c.Close() })
		conn = c
		_, err = c.Read(make([]byte, 2))
		return true, "", err
	})
	if err != nil {
		t.Fatal(err)
	}
	capture, err := l.Capture(CaptureOptions{All: true})
	if err != nil {
		t.Fatal(err)
	}
	at, err := n1.PowerLoss(ctx)
	if err != nil {
		t.Fatal(err)
	}
	_ = conn.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
	if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the client heard of it: %v", err)
	}
	// Frames that die at the silenced port are still seen entering it; none may be passed on, which the read proves.
	t.Logf("%d frames at the dead port after %s", len(capture.Frames(func(f *Frame) bool { return f.Host == "n1" && f.At.After(at) })), at.Format("15:04:05.000000"))
}

// reaches sends one UDP datagram, so that one direction is enough.
func reaches(ctx context.Context, t *testing.T, l *Lab, from, to string, b Bridge) bool {
	t.Helper()
	token := fmt.Sprintf("%s-%s-%d", from, to, time.Now().UnixNano())
	_, err := l.Host(from).Run(ctx, "perl", "-MIO::Socket::INET", "-e",
		`$s=IO::Socket::INET->new(Proto=>"udp",PeerAddr=>$ARGV[0],PeerPort=>7000) or die; $s->send($ARGV[1])`, l.Host(to).Addr(b).String(), token)
	if err != nil {
		t.Fatal(err)
	}
	short, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
	defer cancel()
	return Poll(short, 2*time.Millisecond, func() (bool, string, error) {
		log, err := os.ReadFile(filepath.Join(l.Host(to).LogDir(), "udp.log"))
		return strings.Contains(string(log), token), "", err
	}) == nil
}

func TestPartition(t *testing.T) {
	ctx := testContext(t)
	l := NewT(t, Options{Hosts: 3})
	for _, h := range append(l.Hosts(), l.Client()) {
		if _, err := h.Spawn(ctx, "udp", "perl", "-MIO::Socket::INET", "-e",
			`$|=1; $s=IO::Socket::INET->new(Proto=>"udp",LocalPort=>7000) or die; while(defined $s->recv($b,999)){print "$b\n"}`); err != nil {
			t.Fatal(err)
		}
		// Neighbours known to each other: a cut of one way would otherwise stop ARP too.
		for _, p := range append(l.Hosts(), l.Client()) {
			for _, b := range Bridges() {
				if p != h && slices.Contains(p.bridges(), b) && slices.Contains(h.bridges(), b) {
					if _, err := h.Run(ctx, "ip", "neigh", "replace", p.Addr(b).String(), "lladdr", p.MAC(b).String(), "dev", b.Interface(), "nud", "permanent"); err != nil {
						t.Fatal(err)
					}
				}
			}
		}
	}
	err := Poll(ctx, 10*time.Millisecond, func() (bool, string, error) {
		return reaches(ctx, t, l, "n1", "n2", LAN) && reaches(ctx, t, l, "n2", "n1", LAN) && reaches(ctx, t, l, "n1", "n3", LAN), "not all listeners are up", nil
	})
	if err != nil {
		t.Fatal(err)
	}
	type path struct {
		from, to string
		on       Bridge
	}
	tests := []struct {
		name string
		do   func() error
		cut  []path
		open []path
	}{
		{"both ways, all networks", func() error { return l.Partition([]string{"n1"}, []string{"n2"}) },
			[]path{{"n1", "n2", LAN}, {"n2", "n1", LAN}, {"n1", "n2", Interconnect}, {"n2", "n1", Interconnect}},
			[]path{{"n1", "n3", LAN}, {"n3", "n2", Interconnect}, {"client", "n1", LAN}}},
		{"one way", func() error { return l.CutOneWay([]string{"n1"}, []string{"n2", "n3"}) },
			[]path{{"n1", "n2", LAN}, {"n1", "n3", Interconnect}}, []path{{"n2", "n1", LAN}, {"n3", "n1", Interconnect}}},
		{"one network", func() error { return l.Partition([]string{"n1", "n2"}, []string{"n3"}, Interconnect) },
			[]path{{"n1", "n3", Interconnect}, {"n3", "n2", Interconnect}}, []path{{"n1", "n3", LAN}, {"n1", "n2", Interconnect}}},
		{"isolated", func() error { return l.Isolate([]string{"n1"}) },
			[]path{{"n1", "n2", LAN}, {"client", "n1", LAN}}, []path{{"client", "n2", LAN}, {"n2", "n3", Interconnect}}},
		{"healed between two", func() error {
			return errors.Join(l.Isolate([]string{"n1"}), l.HealBetween([]string{"n1"}, []string{"n2"}))
		}, []path{{"n1", "n3", LAN}}, []path{{"n1", "n2", LAN}, {"n2", "n1", Interconnect}}},
		{"cable pulled", func() error { return l.Host("n2").CutLinks(LAN) },
			[]path{{"client", "n2", LAN}}, []path{{"n1", "n2", Interconnect}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if err := tt.do(); err != nil {
				t.Fatal(err)
			}
			for _, p := range tt.cut {
				if reaches(ctx, t, l, p.from, p.to, p.on) {
					t.Errorf("%v: got through", p)
				}
			}
			for _, p := range tt.open {
				if !reaches(ctx, t, l, p.from, p.to, p.on) {
					t.Errorf("%v: did not get through", p)
				}
			}
			if tt.name == "cable pulled" {
				if b, err := l.Host("n2").Run(ctx, "cat", "/sys/class/net/eth0/carrier"); err != nil || b.Stdout != "0\n" {
					t.Errorf("carrier: got %q, %v", b.Stdout, err)
				}
			}
			if err := errors.Join(l.Heal(), l.Host("n2").HealLinks()); err != nil {
				t.Fatal(err)
			}
			for _, p := range tt.cut {
				if !reaches(ctx, t, l, p.from, p.to, p.on) {
					t.Errorf("healed, %v: did not get through", p)
				}
			}
		})
	}
}

func TestPauseResume(t *testing.T) {
	ctx := testContext(t)
	l := NewT(t, Options{Hosts: 1})
	n1 := l.Host("n1")
	ticker, err := n1.Spawn(ctx, "ticker", "sh", "-c", "while :; do echo x; sleep 0.01; done")
	if err != nil {
		t.Fatal(err)
	}
	size := func() int64 {
		fi, err := os.Stat(ticker.LogFile)
		if err != nil {
			t.Fatal(err)
		}
		return fi.Size()
	}
	grows := func(limit time.Duration) bool {
		from := size()
		short, cancel := context.WithTimeout(ctx, limit)
		defer cancel()
		return Poll(short, 5*time.Millisecond, func() (bool, string, error) { return size() > from, "", nil }) == nil
	}
	if !grows(2 * time.Second) {
		t.Fatal("the ticker does not tick")
	}
	if err := n1.Pause(ctx); err != nil {
		t.Fatal(err)
	}
	_ = grows(20 * time.Millisecond) // what was under way
	if grows(200 * time.Millisecond) {
		t.Error("paused: it ticks")
	}
	if res, err := n1.Run(ctx, "echo", "alive"); err != nil || res.Stdout != "alive\n" {
		t.Errorf("run in a paused host: got %q, %v", res.Stdout, err)
	}
	if err := n1.Resume(ctx); err != nil {
		t.Fatal(err)
	}
	if !grows(2 * time.Second) {
		t.Error("resumed: it does not tick")
	}
}

// Two hosts on two sides of a partition have one address: a client sees one of them, a probe at each host sees both.
func TestProbeEach(t *testing.T) {
	ctx := testContext(t)
	l := NewT(t, Options{Hosts: 3})
	vip := VIP(1)
	if err := l.Isolate([]string{"n2"}); err != nil {
		t.Fatal(err)
	}
	outside, err := l.Client().ProbeARP(vip, time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	each, err := l.ProbeEach(vip, time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	take := func(name string) {
		t.Helper()
		if err := l.Host(name).TakeAddress(vip); err != nil {
			t.Fatal(err)
		}
	}
	take("n1")
	if a, err := each.WaitForOther(ctx, []string{"n2", "n3"}, time.Time{}); err != nil || a.Host != "n1" {
		t.Fatalf("got %+v, %v, want an answer by n1", a, err)
	}
	if r, err := each.Report(); err != nil || len(r.Double) != 0 {
		t.Fatalf("one holder: got %+v, %v, want nothing double", r.Double, err)
	}
	take("n2")
	both, err := each.WaitFor(ctx, "n2", time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := each.WaitFor(ctx, "n2", both.At.Add(20*time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	r, err := each.Report()
	if err != nil || len(r.Double) < 4 {
		t.Fatalf("got %+v, %v, want several questions that two hosts answered", r.Double, err)
	}
	at, err := l.PowerLoss(ctx, "n1", "n2")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"n1", "n2"} {
		if l.Host(name).Up() {
			t.Errorf("%s is up after its power loss", name)
		}
	}
	if a, ok := each.Last(time.Time{}, ""); !ok || a.At.After(at.Add(20*time.Millisecond)) {
		t.Errorf("the last answer: got %+v, want it before the power loss at %s", a, at)
	}
	if r, err := outside.Report(); err != nil || len(r.Double) != 0 || len(r.Holdings) != 1 || r.Holdings[0].Who != "n1" {
		t.Errorf("from one side: got %+v, %v, want n1 alone", r, err)
	}
}

func TestCaptureAndProbe(t *testing.T) {
	ctx := testContext(t)
	l := NewT(t, Options{Hosts: 2})
	capture, err := l.Capture(CaptureOptions{Bridge: LAN})
	if err != nil {
		t.Fatal(err)
	}
	vip := VIP(1)
	probe, err := l.Client().ProbeARP(vip, time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	take := func(h string) {
		t.Helper()
		if err := l.Host(h).TakeAddress(vip); err != nil {
			t.Fatal(err)
		}
	}
	take("n1")
	if _, err := probe.WaitFor(ctx, "n1", start); err != nil {
		t.Fatal(err)
	}
	// A VRRP version 3 advertisement, built here byte by byte.
	advert := []byte{0x31, 51, 100, 1, 0, 10, 0, 0, 10, 77, 0, 100}
	err = l.Host("n1").NetDo(func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, protoVRRP)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_MULTICAST_TTL, 255); err != nil {
			return err
		}
		if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{10, 77, 0, 1}}); err != nil {
			return err
		}
		if err := unix.SetsockoptInet4Addr(fd, unix.IPPROTO_IP, unix.IP_MULTICAST_IF, [4]byte{10, 77, 0, 1}); err != nil {
			return err
		}
		return unix.Sendto(fd, advert, 0, &unix.SockaddrInet4{Addr: [4]byte{224, 0, 0, 18}})
	})
	if err != nil {
		t.Fatal(err)
	}
	f, err := capture.Wait(ctx, start, AdvertFrom("n1", 51))
	if err != nil {
		t.Fatal(err)
	}
	if a := f.VRRP; a.Version != 3 || a.Priority != 100 || a.Interval != 100*time.Millisecond || !slices.Equal(a.Addrs, []netip.Addr{vip}) || f.TTL != 255 {
		t.Errorf("got %+v, ttl %d", a, f.TTL)
	}
	if d := time.Since(f.At); d < 0 || d > 5*time.Second {
		t.Errorf("time stamp is %s off", d)
	}
	if _, err := capture.Wait(ctx, start, Announcement("n1", vip)); err != nil {
		t.Error(err)
	}
	if _, ok := capture.Last(time.Time{}, AdvertFrom("n2", 0)); ok {
		t.Error("an advertisement of n2: got one, want none")
	}

	// Two hosts with the address: two answers to one question.
	if r, err := probe.Report(); err != nil || len(r.Double) != 0 {
		t.Errorf("one holder: got %+v, %v", r, err)
	}
	both := time.Now()
	take("n2")
	if _, err := probe.WaitFor(ctx, "n2", both); err != nil {
		t.Fatal(err)
	}
	if _, err := probe.WaitFor(ctx, "n2", time.Now()); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Host("n1").PowerLoss(ctx); err != nil {
		t.Fatal(err)
	}
	after := time.Now()
	if _, err := probe.WaitFor(ctx, "n2", after); err != nil {
		t.Fatal(err)
	}
	probe.Stop()
	r, err := probe.Report()
	if err != nil || len(r.Double) < 2 {
		t.Errorf("two holders: got %d double answers, %v", len(r.Double), err)
	}
	last := r.Holdings[len(r.Holdings)-1]
	t.Logf("%d questions, %d unanswered, %d double answers, %d changes, at last %s", r.Questions, r.Unanswered, len(r.Double), len(r.Holdings), last.Who)
	if last.Who != "n2" || r.Holdings[0].Who != "n1" {
		t.Errorf("got %+v", r.Holdings)
	}

	if err := capture.Close(); err != nil {
		t.Fatal(err)
	}
	if path, err := exec.LookPath("tshark"); err == nil {
		out, err := exec.Command(path, "-r", capture.File, "-Y", "vrrp").CombinedOutput()
		if err != nil || !strings.Contains(string(out), "224.0.0.18") {
			t.Errorf("tshark: %v: %s", err, out)
		}
	}
}

func TestOneLabAtATime(t *testing.T) {
	l := NewT(t, Options{Hosts: 1})
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if second, err := New(ctx, Options{Hosts: 1}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, want a deadline", err)
		if second != nil {
			second.Close()
		}
	}
	// The lock must not have been inherited by what the lab started: all of that is in pid namespaces of its own.
	if _, err := l.Host("n1").Spawn(t.Context(), "sleeper", "sleep", "1000"); err != nil {
		t.Fatal(err)
	}
	ours, err := os.Readlink("/proc/self/ns/pid")
	if err != nil {
		t.Fatal(err)
	}
	pids, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	inside := 0
	for _, p := range pids {
		if ns, err := os.Readlink(filepath.Join(p, "ns", "pid")); err != nil || ns == ours {
			continue
		}
		inside++
		fds, _ := os.ReadDir(filepath.Join(p, "fd"))
		for _, fd := range fds {
			if target, _ := os.Readlink(filepath.Join(p, "fd", fd.Name())); target == l.lock.file.Name() {
				t.Errorf("%s has the lock open", p)
			}
		}
	}
	if inside < 4 { // keeper, client, n1, sleeper
		t.Errorf("processes inside: got %d, want at least 4", inside)
	}
}

// A lab on an overlay, which can't carry another one as its upper layer: that's how containers look. It stands inside
// a host of a lab, so that the machine need not have one.
func TestOnOverlay(t *testing.T) {
	ctx := testContext(t)
	l := NewT(t, Options{Hosts: 1, Programs: map[string]string{"/usr/local/bin/labtest": "/proc/self/exe"}})
	res, err := l.Host("n1").Do(ctx, Command{
		Argv: []string{"sh", "-c", "mkdir /etc/nested && exec labtest -test.v -test.run '^(TestPowerLossKeepsDisks|TestPostgres)$/^(trust|reboot.*)$'"},
		Env:  []string{"PGVRRP_LAB_DIR=/etc/nested", "PGVRRP_REQUIRE=1"},
	})
	if err != nil || strings.Count(res.Stdout, "--- PASS: TestPowerLossKeepsDisks (") != 1 || strings.Count(res.Stdout, "--- PASS: TestPostgres (") != 1 {
		t.Errorf("got code %d, %v\n%s", res.Code, err, res.Stdout)
	}
}

// Without overlayfs a directory is copied. The child has a mount namespace of its own.
func TestCopyInsteadOfOverlay(t *testing.T) {
	Require(t)
	if os.Getenv("LAB_TEST_COPY") == "" {
		cmd := exec.Command("/proc/self/exe", "-test.run=^TestCopyInsteadOfOverlay$", "-test.v")
		cmd.Env = append(os.Environ(), "LAB_TEST_COPY=1")
		cmd.SysProcAttr = &unix.SysProcAttr{Unshareflags: unix.CLONE_NEWNS}
		if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "--- PASS") {
			t.Errorf("%v\n%s", err, out)
		}
		return
	}
	dir := t.TempDir()
	cfg := hostConfig{Disk: filepath.Join(dir, "disk"), RAM: filepath.Join(dir, "ram"), Lower: filepath.Join(dir, "over")}
	machine, target, over := filepath.Join(dir, "machine"), filepath.Join(dir, "target"), filepath.Join(dir, "over", dir, "machine")
	for _, d := range []string{machine, target, over} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, content := range map[string]string{machine + "/a": "machine", machine + "/b": "machine", over + "/b": "ours"} {
		if err := os.WriteFile(name, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	none := func(string, string) error { return unix.ENODEV }
	for round, want := range []map[string]string{{"a": "machine", "b": "ours"}, {"a": "changed", "b": "ours"}} {
		warning, err := overlay(cfg, machine, target, none)
		if err != nil || !strings.Contains(warning, "copied") {
			t.Fatalf("round %d: got %q, %v", round, warning, err)
		}
		for name, content := range want {
			if b, err := os.ReadFile(filepath.Join(target, name)); err != nil || string(b) != content {
				t.Errorf("round %d: %s: got %q, %v, want %q", round, name, b, err, content)
			}
		}
		if err := os.WriteFile(filepath.Join(target, "a"), []byte("changed"), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := unix.Unmount(target, 0); err != nil {
			t.Fatal(err)
		}
	}
	if b, err := os.ReadFile(machine + "/a"); err != nil || string(b) != "machine" {
		t.Errorf("the machine's file: got %q, %v", b, err)
	}
}

// failedT is a failed test.
type failedT struct {
	*testing.T
	cleanup []func()
	log     strings.Builder
}

func (f *failedT) Failed() bool      { return true }
func (f *failedT) Cleanup(fn func()) { f.cleanup = append(f.cleanup, fn) }
func (f *failedT) Log(args ...any)   { fmt.Fprintln(&f.log, args...) }
func (f *failedT) end() {
	for _, fn := range slices.Backward(f.cleanup) {
		fn()
	}
}

func TestFailureKeepsLogs(t *testing.T) {
	for _, dir := range []string{"", t.TempDir()} {
		t.Run(fmt.Sprintf("directory %t", dir != ""), func(t *testing.T) {
			t.Setenv(logsEnv, dir)
			f := &failedT{T: t}
			l := NewT(f, Options{Hosts: 1})
			p, err := l.Host("n1").Spawn(t.Context(), "talker", "echo", "the last words")
			if err != nil {
				t.Fatal(err)
			}
			if _, err := p.Wait(testContext(t)); err != nil {
				t.Fatal(err)
			}
			if err := l.Host("n1").WriteFile("/var/log/some.log", []byte("a service's words"), 0o644); err != nil {
				t.Fatal(err)
			}
			if _, err := l.Capture(CaptureOptions{}); err != nil {
				t.Fatal(err)
			}
			f.end()
			if dir == "" {
				for _, want := range []string{"the last words", "a service's words"} {
					if !strings.Contains(f.log.String(), want) {
						t.Errorf("%q is not in the log:\n%s", want, f.log.String())
					}
				}
				return
			}
			for _, want := range []string{"n1/talker.log", "n1/var/log/some.log", "captures/1.pcap", "keeper.log"} {
				if got, _ := filepath.Glob(filepath.Join(dir, "*", want)); len(got) != 1 {
					t.Errorf("%s: got %v", want, got)
				}
			}
		})
	}
}

// The lab carries a real VRRP daemon, with what tests ask of it: takeover seen by capture and probe.
func TestKeepalived(t *testing.T) {
	if _, err := exec.LookPath("keepalived"); err != nil {
		if os.Getenv("CI") != "" || os.Getenv("PGVRRP_REQUIRE") != "" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	ctx := testContext(t)
	l := NewT(t, Options{Hosts: 2})
	capture, err := l.Capture(CaptureOptions{Bridge: LAN})
	if err != nil {
		t.Fatal(err)
	}
	probe, err := l.Client().ProbeARP(VIP(1), 5*time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	for i, h := range l.Hosts() {
		conf := fmt.Sprintf(`global_defs {
  vrrp_version 3
}
vrrp_instance VI_1 {
  state BACKUP
  interface eth0
  virtual_router_id 51
  priority %d
  advert_int 0.1
  virtual_ipaddress {
    10.77.0.100/24
  }
}
`, 100-10*i)
		if err := h.WriteFile("/etc/keepalived/keepalived.conf", []byte(conf), 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := h.Spawn(ctx, "keepalived", "keepalived", "-n", "-l", "-f", "/etc/keepalived/keepalived.conf"); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := probe.WaitFor(ctx, "n1", time.Time{}); err != nil {
		t.Fatal(err)
	}
	if _, err := capture.Wait(ctx, time.Time{}, AdvertFrom("n1", 51)); err != nil {
		t.Fatal(err)
	}
	at, err := l.Host("n1").PowerLoss(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := probe.WaitFor(ctx, "n2", at); err != nil {
		t.Fatal(err)
	}
	last, ok := capture.Last(at, AdvertFrom("n1", 51))
	if !ok {
		t.Fatal("no advertisement of n1 before the power loss")
	}
	first, err := capture.Wait(ctx, at, Announcement("n2", VIP(1)))
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("from n1's last advertisement to n2's first announcement: %s (%s)", first.At.Sub(last.At), ReadLoad())
	if d := first.At.Sub(last.At); d < 300*time.Millisecond || d > 2*time.Second {
		t.Errorf("takeover after %s", d)
	}
}

func TestOptions(t *testing.T) {
	tests := []struct {
		name string
		opts Options
		want string
	}{
		{"bad name", Options{Extra: []HostSpec{{"Bad Name", 5}}}, "small letters"},
		{"long name", Options{Extra: []HostSpec{{"much-too-long", 5}}}, "1 to 10"},
		{"index", Options{Extra: []HostSpec{{"w1", 200}}}, "not in 1..199"},
		{"twice", Options{Hosts: 2, Extra: []HostSpec{{"w1", 2}}}, "is taken"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := tt.opts.specs(); !strings.Contains(fmt.Sprint(err), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}
