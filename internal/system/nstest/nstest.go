package nstest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// inside marks the re-executed test binary, which runs in a network namespace of its own.
const inside = "PGVRRP_NSTEST"

// Main runs the tests of a package in a new, empty network namespace, so that every goroutine of theirs is away
// from the host's network. Call it from TestMain; it does not return. Without root it runs them as they are,
// and Require decides.
func Main(m *testing.M) {
	if os.Geteuid() != 0 || os.Getenv(inside) != "" {
		os.Exit(m.Run())
	}
	// Pdeathsig is the parent thread's death, so the thread must live as long as we do.
	runtime.LockOSThread()
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Args[0] = os.Args[0]
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case err == nil:
		os.Exit(0)
	case errors.As(err, &exit) && exit.ExitCode() >= 0:
		os.Exit(exit.ExitCode())
	default:
		fmt.Fprintf(os.Stderr, "run tests in a network namespace: %v\n", err)
		os.Exit(1)
	}
}

// MainOnLoopback is Main for a package whose tests need the loopback interface of their namespace.
func MainOnLoopback(m *testing.M) {
	if os.Getenv(inside) != "" {
		lo, err := netlink.LinkByName("lo")
		if err == nil {
			err = netlink.LinkSetUp(lo)
		}
		if err != nil {
			fmt.Fprintf(os.Stderr, "set lo up: %v\n", err)
			os.Exit(1)
		}
	}
	Main(m)
}

// Require ends the test unless it runs as root inside Main's namespace and finds the programs given. It skips,
// or fails if CI or PGVRRP_REQUIRE is set in the environment.
func Require(t testing.TB, programs ...string) {
	t.Helper()
	end := t.Skipf
	if os.Getenv("CI") != "" || os.Getenv("PGVRRP_REQUIRE") != "" {
		end = t.Fatalf
	}
	if os.Geteuid() != 0 {
		end("needs root for network namespaces")
	}
	if os.Getenv(inside) == "" {
		t.Fatal("TestMain does not call nstest.Main")
	}
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			end("needs %s", p)
		}
	}
}

// Host is one network namespace.
type Host struct{ ns netns.NsHandle }

// Self is the namespace that the whole test process runs in, with its loopback interface up.
func Self(t testing.TB) *Host {
	t.Helper()
	Require(t)
	ns, err := netns.GetFromPath("/proc/thread-self/ns/net")
	if err != nil {
		t.Fatalf("open our own network namespace: %v", err)
	}
	return newHost(t, ns)
}

// New makes a further namespace, another host, with its loopback interface up.
func New(t testing.TB) *Host {
	t.Helper()
	Require(t)
	back := lock(t)
	ns, err := netns.New()
	back()
	if err != nil {
		t.Fatalf("make a network namespace: %v", err)
	}
	return newHost(t, ns)
}

func newHost(t testing.TB, ns netns.NsHandle) *Host {
	t.Helper()
	h := &Host{ns}
	t.Cleanup(func() { _ = ns.Close() })
	h.Do(t, func() {
		lo, err := netlink.LinkByName("lo")
		if err == nil {
			err = netlink.LinkSetUp(lo)
		}
		if err != nil {
			t.Fatalf("set lo up: %v", err)
		}
	})
	return h
}

// lock ties the goroutine to its thread; the function returned brings the thread back to where it was.
func lock(t testing.TB) func() {
	t.Helper()
	runtime.LockOSThread()
	old, err := netns.Get()
	if err != nil {
		runtime.UnlockOSThread()
		t.Fatalf("open the thread's network namespace: %v", err)
	}
	return func() {
		// A thread that cannot go back must never serve another goroutine.
		if err := netns.Set(old); err != nil {
			panic(fmt.Sprintf("return to the first network namespace: %v", err))
		}
		_ = old.Close()
		runtime.UnlockOSThread()
	}
}

// Do runs fn on a thread inside the host. Sockets opened there stay there; goroutines started there do not.
func (h *Host) Do(t testing.TB, fn func()) {
	t.Helper()
	back := lock(t)
	defer back()
	if err := netns.Set(h.ns); err != nil {
		t.Fatalf("enter a network namespace: %v", err)
	}
	fn()
}

// Run runs a program inside the host and returns what it wrote to standard output. A failure ends the test.
func (h *Host) Run(t testing.TB, argv ...string) string {
	t.Helper()
	var out, errs strings.Builder
	h.Do(t, func() {
		cmd := exec.Command(argv[0], argv[1:]...)
		cmd.Stdout, cmd.Stderr = &out, &errs
		if err := cmd.Run(); err != nil {
			t.Fatalf("run %s: %v\n%s%s", strings.Join(argv, " "), err, out.String(), errs.String())
		}
	})
	return out.String()
}

// Sysctl sets a kernel parameter of the host, for example Sysctl(t, "1", "ipv6", "conf", "eth0", "forwarding")
// for net.ipv6.conf.eth0.forwarding.
func (h *Host) Sysctl(t testing.TB, value string, path ...string) {
	t.Helper()
	name := filepath.Join(append([]string{"/proc/sys/net"}, path...)...)
	h.Do(t, func() {
		if err := os.WriteFile(name, []byte(value), 0); err != nil {
			t.Fatalf("set %s: %v", name, err)
		}
	})
}

// Veth joins two hosts by a cable. Both ends are up and use IPv6 addresses without duplicate address detection.
func Veth(t testing.TB, a *Host, nameA string, b *Host, nameB string) {
	t.Helper()
	a.Do(t, func() {
		link := &netlink.Veth{LinkAttrs: netlink.NewLinkAttrs(), PeerName: nameB, PeerNamespace: netlink.NsFd(b.ns)}
		link.Name = nameA
		if err := netlink.LinkAdd(link); err != nil {
			t.Fatalf("add veth %s: %v", nameA, err)
		}
	})
	t.Cleanup(func() {
		a.Do(t, func() {
			// A test may have removed it already.
			if l, err := netlink.LinkByName(nameA); err == nil {
				_ = netlink.LinkDel(l)
			}
		})
	})
	a.up(t, nameA)
	b.up(t, nameB)
	a.WaitUp(t, nameA)
	b.WaitUp(t, nameB)
}

// WaitUp waits until an interface runs. Before that, the kernel takes packets and silently drops them.
func (h *Host) WaitUp(t testing.TB, name string) {
	t.Helper()
	h.wait(t, name+" to be up", func() bool {
		l, err := netlink.LinkByName(name)
		return err == nil && l.Attrs().OperState == netlink.OperUp
	})
}

// wait asks done, inside the host, until it is true, for two seconds at most.
func (h *Host) wait(t testing.TB, what string, done func() bool) {
	t.Helper()
	h.Do(t, func() {
		tick, timeout := time.NewTicker(time.Millisecond), time.After(2*time.Second)
		defer tick.Stop()
		for !done() {
			select {
			case <-tick.C:
			case <-timeout:
				t.Fatalf("waited in vain for %s", what)
			}
		}
	})
}

// up sets an interface up. Without duplicate address detection its link-local address can be used at once.
func (h *Host) up(t testing.TB, name string) {
	t.Helper()
	h.Sysctl(t, "0", "ipv6", "conf", name, "accept_dad")
	h.Sysctl(t, "0", "ipv6", "conf", name, "router_solicitations")
	h.Run(t, "ip", "link", "set", name, "up")
}

// LAN joins hosts by a bridge in a namespace of its own, and returns that one. Each host's interface is called
// name; the bridge's port to hosts[i] is called porti. Multicast is flooded.
func LAN(t testing.TB, name string, hosts ...*Host) *Host {
	t.Helper()
	sw := New(t)
	sw.Run(t, "ip", "link", "add", "br0", "type", "bridge", "mcast_snooping", "0")
	sw.up(t, "br0")
	for i, h := range hosts {
		port := fmt.Sprintf("port%d", i)
		Veth(t, sw, port, h, name)
		sw.Run(t, "ip", "link", "set", port, "master", "br0")
		sw.wait(t, port+" to forward", func() bool {
			return strings.Contains(sw.Run(t, "ip", "-d", "-j", "link", "show", port), `"state":"forwarding"`)
		})
	}
	return sw
}

// Without runs fn on a thread that lacks a capability.
func Without(t testing.TB, capability int, fn func()) {
	t.Helper()
	runtime.LockOSThread()
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var all [2]unix.CapUserData
	if err := unix.Capget(&header, &all[0]); err != nil {
		t.Error(err)
		return
	}
	fewer := all
	fewer[0].Effective &^= 1 << capability
	if err := unix.Capset(&header, &fewer[0]); err != nil {
		t.Error(err)
		return
	}
	fn()
	if err := unix.Capset(&header, &all[0]); err != nil {
		t.Error(err)
		return // the thread ends with its goroutine
	}
	runtime.UnlockOSThread()
}
