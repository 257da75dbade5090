//go:build e2e

package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"pgvrrp/internal/control"
	"pgvrrp/test/lab"
)

func TestVRRPRelease(t *testing.T) {
	l := newLab(t, 2)
	n1, n2 := l.Host("n1"), l.Host("n2")
	pair(t, l, fast(0))
	vip := lab.VIP(1)
	watch, c, begin := watchHoldings(t, l), capture(t, l), time.Now()
	refused := func(t *testing.T, code int, text string, argv ...string) {
		t.Helper()
		seq := instance(t, n1, "VI_51").Seq
		res := try(t, n1, argv...)
		if res.Code != code || !strings.Contains(res.Stderr, text) {
			t.Errorf("%s: got exit code %d, %q, want %d and %q", strings.Join(argv, " "), res.Code, res.Stderr, code, text)
		}
		if i := instance(t, n1, "VI_51"); i.Seq != seq {
			t.Errorf("it moved all the same: %s", describe(i))
		}
	}
	t.Run("for a while", func(t *testing.T) {
		at := time.Now()
		run(t, n1, "vrrpd", "release", "VI_51", "--for", "1500ms")
		waitFrame(t, c, at, "goodbye", goodbye("n1", 51))
		waitHolder(t, l, vip, "n2")
		i := instance(t, n1, "VI_51")
		if i.State != control.StateBackup || i.HeldUntil == nil || !strings.Contains(i.Reason, "released") {
			t.Errorf("got %s, held until %v", describe(i), i.HeldUntil)
		}
		if out := run(t, n1, "vrrpd", "status"); !strings.Contains(out, "released") {
			t.Errorf("the table does not say so: %s", out)
		}
		i = waitState(t, n1, "VI_51", control.StateMaster) // it preempts when the time is over
		if d := i.Since.Sub(at); d < 1500*time.Millisecond {
			t.Errorf("back after %s, want it to keep off for 1.5s", d)
		}
		waitHolder(t, l, vip, "n1")
	})
	t.Run("taken back", func(t *testing.T) {
		run(t, n1, "vrrpd", "release", "--for", "1h", "VI_51")
		waitHolder(t, l, vip, "n2")
		constantly(t, time.Second, "it keeps off", func() (bool, string) {
			got := holders(l, vip)
			return slices.Equal(got, []string{"n2"}), fmt.Sprint(got)
		})
		run(t, n1, "vrrpd", "release", "VI_51", "--for=0s")
		waitHolder(t, l, vip, "n1")
	})
	t.Run("a backup", func(t *testing.T) {
		seq := instance(t, n2, "VI_51").Seq
		run(t, n2, "vrrpd", "release", "VI_51", "--for", "1h")
		// It does not even take over from a dead master now.
		kill(t, n1, "vrrpd")
		run(t, n1, "vrrpd", "cleanup", "-f", vrrpdConf)
		constantly(t, time.Second, "it keeps off", func() (bool, string) {
			got := holders(l, vip)
			return len(got) == 0, fmt.Sprint(got)
		})
		if i := instance(t, n2, "VI_51"); i.Seq != seq {
			t.Errorf("got %s", describe(i))
		}
		run(t, n2, "vrrpd", "release", "VI_51", "--for", "0s")
		waitHolder(t, l, vip, "n2")
		startVrrpd(t, n1, file("", fast(150)))
		waitHolder(t, l, vip, "n1")
	})
	t.Run("refused", func(t *testing.T) {
		refused(t, 1, "VI_nowhere", "vrrpd", "release", "VI_nowhere")
		refused(t, 2, "INSTANCE", "vrrpd", "release")
		refused(t, 2, "surplus", "vrrpd", "release", "VI_51", "VI_52")
		refused(t, 2, "--for", "vrrpd", "release", "VI_51", "--for", "-5s")
		refused(t, 2, "soon", "vrrpd", "release", "--for", "soon", "VI_51")
		refused(t, 2, "--now", "vrrpd", "release", "VI_51", "--now")
		refused(t, 1, "only root", "runuser", "-u", "nobody", "--", "vrrpd", "release", "VI_51")
	})
	if two := watch.overlaps(t, []netip.Addr{vip}, begin, handOver); len(two) > 0 {
		t.Errorf("two holders: %v", two)
	}
}

func TestVRRPStatus(t *testing.T) {
	l := newLab(t, 2)
	n1, n2 := l.Host("n1"), l.Host("n2")
	if res := try(t, n1, "vrrpd", "status"); res.Code != 1 || !strings.Contains(res.Stderr, control.DefaultSocket) {
		t.Errorf("without a vrrpd: got exit code %d, %q, want 1 and the socket's name", res.Code, res.Stderr)
	}
	pair(t, l, fast(0))
	t.Run("table", func(t *testing.T) {
		out := run(t, n1, "vrrpd", "status")
		for _, want := range []string{"VI_51", "MASTER", "150", "eth0", "51", "10.77.0.100/24", "BACKUP -> MASTER"} {
			if !strings.Contains(out, want) {
				t.Errorf("no %q in\n%s", want, out)
			}
		}
		out = run(t, n2, "vrrpd", "status")
		for _, want := range []string{"BACKUP", "(10.77.0.100/24)", "10.77.0.1"} {
			if !strings.Contains(out, want) {
				t.Errorf("no %q in\n%s", want, out)
			}
		}
	})
	t.Run("JSON, and by anybody", func(t *testing.T) {
		res, err := n1.RunAs(within(t, patience), "nobody", "vrrpd", "status", "--json")
		if err != nil {
			t.Fatal(err)
		}
		var s control.Status
		if err := json.Unmarshal([]byte(res.Stdout), &s); err != nil {
			t.Fatalf("%v: %s", err, res.Stdout)
		}
		i, ok := find(s, "VI_51")
		if !ok || s.Node != "n1" || s.PID != n1.Proc("vrrpd").PID() || s.ConfigFile != vrrpdConf || i.State != control.StateMaster || i.Seq != 2 ||
			i.Interface != "eth0" || i.VRID != 51 || i.Version != 3 || i.Source != "10.77.0.1" || i.AdvertInterval != 0.1 || !i.Preempt ||
			len(i.Addresses) != 1 || !i.Addresses[0].Held || len(i.Transitions) != 2 || i.Counters.BecameMaster != 1 || i.Counters.AdvertsSent == 0 {
			t.Errorf("got %+v", s)
		}
	})
	t.Run("watch", func(t *testing.T) {
		w := spawn(t, n1, "watch", lab.Command{Argv: []string{"vrrpd", "status", "--watch", "--json"}})
		pictures := func() (list []control.Status) {
			for d := json.NewDecoder(strings.NewReader(logOf(t, w))); ; {
				var s control.Status
				if d.Decode(&s) != nil {
					return list
				}
				list = append(list, s)
			}
		}
		eventually(t, patience, "two pictures", func() (bool, string) { return len(pictures()) >= 2, logOf(t, w) })
		run(t, n1, "vrrpd", "release", "VI_51", "--for", "1h")
		eventually(t, patience, "the change is seen", func() (bool, string) {
			list := pictures()
			i, _ := find(list[len(list)-1], "VI_51")
			return i.State == control.StateBackup, describe(i)
		})
		start := time.Now()
		signal(t, n1, "watch", syscall.SIGINT)
		waitEnd(t, n1, "watch", start, endTime)
		run(t, n1, "vrrpd", "release", "VI_51", "--for", "0s")
	})
	t.Run("usage", func(t *testing.T) {
		for _, argv := range [][]string{{"status", "VI_51"}, {"status", "--nonsense"}, {"stat"}, {"run", "now"}, {"cleanup", "all"}, {"check", "file"}, {}} {
			if res := try(t, n1, append([]string{"vrrpd"}, argv...)...); res.Code != 2 || res.Stderr == "" {
				t.Errorf("vrrpd %s: got exit code %d, %q, want 2 and why", strings.Join(argv, " "), res.Code, res.Stderr)
			}
		}
	})
}

// What systemd hears of a Type=notify service.
func TestVRRPSystemd(t *testing.T) {
	l := newLab(t, 1)
	n1 := l.Host("n1")
	socket, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(l.SharedDir(), "notify"), Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { socket.Close() })
	type message struct {
		text string
		at   time.Time
	}
	messages := make(chan message, 1024)
	go func() {
		defer close(messages)
		b := make([]byte, 4096)
		for {
			n, err := socket.Read(b)
			if err != nil {
				return
			}
			messages <- message{string(b[:n]), time.Now()}
		}
	}()
	// next skips what the watchdog hears, unless that is what is wanted.
	next := func(want string) message {
		t.Helper()
		ctx := within(t, patience)
		for {
			select {
			case m := <-messages:
				if strings.Contains(m.text, want) {
					return m
				}
				if !strings.Contains(m.text, "WATCHDOG=1") {
					t.Fatalf("got %q, want %q", m.text, want)
				}
			case <-ctx.Done():
				t.Fatalf("%q was not said", want)
			}
		}
	}
	writeHook("env >"+hookDir+"/env")(t, n1)
	writeFile(t, n1, vrrpdConf, file("", fast(150, "notify_master "+hookPath, "notify_stop \"/bin/sleep 0.3\"")), 0o644)
	spawn(t, n1, "vrrpd", lab.Command{Argv: vrrpdRun(), Env: []string{"NOTIFY_SOCKET=/run/shared/notify", "WATCHDOG_USEC=2000000"}})
	next("READY=1")
	if _, err := tryStatus(t.Context(), n1); err != nil {
		t.Errorf("ready, but it does not answer: %v", err)
	}
	first := next("WATCHDOG=1")
	for range 3 {
		m := next("WATCHDOG=1")
		if d := m.at.Sub(first.at); d > 2*time.Second {
			t.Errorf("the watchdog heard nothing for %s, want 1s", d)
		}
		first = m
	}
	waitState(t, n1, "VI_51", control.StateMaster)
	eventually(t, patience, "the hook runs", func() (bool, string) { return readFile(n1, hookDir+"/env") != "" && len(hookLog(n1)) == 2, "" })
	if env := readFile(n1, hookDir+"/env"); strings.Contains(env, "NOTIFY_SOCKET") || strings.Contains(env, "WATCHDOG") {
		t.Errorf("the hook could speak for vrrpd: %s", env)
	}
	signal(t, n1, "vrrpd", syscall.SIGHUP)
	next("RELOADING=1")
	next("READY=1")
	start := time.Now()
	signal(t, n1, "vrrpd", syscall.SIGTERM)
	if m := next("STOPPING=1"); m.at.Sub(start) > 2*slack {
		t.Errorf("said that it stops after %s", m.at.Sub(start))
	}
	waitEnd(t, n1, "vrrpd", start, endTime)

	// A socket that nobody reads must not stop it, and a vrrpd that can't start is never ready.
	writeFile(t, n1, vrrpdConf, "vrrp_instance VI_51 {\n  virtual_router_id\n}\n", 0o644)
	p := spawn(t, n1, "vrrpd", lab.Command{Argv: vrrpdRun(), Env: []string{"NOTIFY_SOCKET=/run/shared/notify"}})
	res, err := p.Wait(within(t, patience))
	if err != nil || res.Code != 1 {
		t.Errorf("a bad file: got exit code %d, %v, want 1", res.Code, err)
	}
	select {
	case m := <-messages:
		t.Errorf("it said %q", m.text)
	default:
	}
	socket.Close()
	if err := os.Remove(filepath.Join(l.SharedDir(), "notify")); err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	writeFile(t, n1, vrrpdConf, file("", fast(150)), 0o644)
	p = spawn(t, n1, "vrrpd", lab.Command{Argv: vrrpdRun(), Env: []string{"NOTIFY_SOCKET=/run/shared/notify", "WATCHDOG_USEC=200000"}})
	waitAnswers(t, n1, p)
	waitHolder(t, l, lab.VIP(1), "n1")
}
