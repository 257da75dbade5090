package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/vishvananda/netlink"

	"pgvrrp/test/lab"
)

// sides is how many interfaces many instances are spread over: an interface has 255 VRIDs.
const sides = 4

// bed is two hosts that are joined by several LANs.
type bed struct {
	l      *lab.Lab
	n1, n2 *lab.Host
}

func newBed(ctx context.Context, s settings) (*bed, error) {
	l, err := lab.New(ctx, lab.Options{Hosts: 2, Networks: sides - len(lab.Bridges()), Programs: map[string]string{"/usr/sbin/vrrpd": filepath.Join(s.bin, "vrrpd")}})
	if err != nil {
		return nil, err
	}
	return &bed{l: l, n1: l.Host("n1"), n2: l.Host("n2")}, nil
}

// manyVIP is the address of the n-th instance, from 0.
func manyVIP(n int) netip.Addr {
	return netip.AddrFrom4([4]byte{10, byte(77 + n%sides), 1, byte(n/sides + 1)})
}

// many is a configuration of version 3 with n instances, spread over the LANs, each with one address.
func many(n, priority int, interval string, globals ...string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "global_defs {\n    vrrp_version 3\n    %s\n}\n", strings.Join(globals, "\n    "))
	for k := range n {
		fmt.Fprintf(&b, `vrrp_instance VI_%d {
    state BACKUP
    interface eth%d
    virtual_router_id %d
    priority %d
    advert_int %s
    virtual_ipaddress {
        %s/32
    }
}
`, k+1, k%sides, k/sides+1, priority, interval, manyVIP(k))
	}
	return b.String()
}

// holdsMany waits until a host's kernel has the addresses of n instances.
func holdsMany(ctx context.Context, h *lab.Host, n int) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	return lab.Poll(ctx, 100*time.Millisecond, func() (bool, string, error) {
		got := 0
		err := h.NetDo(func() error {
			list, err := netlink.AddrList(nil, netlink.FAMILY_V4)
			if errors.Is(err, netlink.ErrDumpInterrupted) {
				err = nil // addresses came or went meanwhile: it is asked again
			}
			for _, a := range list {
				if ones, _ := a.Mask.Size(); ones == 32 && a.IP[len(a.IP)-2] == 1 {
					got++
				}
			}
			return err
		})
		return got == n, fmt.Sprintf("%s has %d of %d addresses", h.Name(), got, n), err
	})
}

// clear takes the addresses off that killed daemons have left.
func (b *bed) clear(ctx context.Context) error {
	for _, h := range b.l.Hosts() {
		for k := range sides {
			if _, err := h.Run(ctx, "/usr/sbin/ip", "address", "flush", "dev", fmt.Sprintf("eth%d", k), "to", fmt.Sprintf("10.%d.1.0/24", 77+k)); err != nil {
				return err
			}
		}
	}
	return nil
}

// pair runs r on both hosts, n1 preferred, until n1 has every address.
func (b *bed) pair(ctx context.Context, r router, config func(priority int) string, n int) error {
	if _, err := r.start(ctx, b.n1, config(200)); err != nil {
		return err
	}
	if _, err := r.start(ctx, b.n2, config(100)); err != nil {
		return err
	}
	return holdsMany(ctx, b.n1, n)
}

// kill ends r on both hosts and removes what it left.
func (b *bed) kill(ctx context.Context, r router) error {
	for _, h := range b.l.Hosts() {
		if p := h.Proc(r.name); p == nil || !p.Running() {
			continue
		}
		if err := r.kill(ctx, h); err != nil {
			return err
		}
	}
	return b.clear(ctx)
}

// usage is what the processes of one daemon on one host have used.
type usage struct {
	cpu  time.Duration
	pss  int // KiB
	sent int // packets
}

// costTargets are what vrrpd must keep to: processor time beside keepalived's, and memory with a thousand instances.
const (
	mostRatio = 2.0
	mostPSS   = 40 << 10 // KiB
)

// cost runs many instances on two hosts, one master of all and one backup, and compares processor time and memory (PSS: each
// shared page counted in parts).
func cost(ctx context.Context, s settings) error {
	b, err := newBed(ctx, s)
	if err != nil {
		return err
	}
	defer b.l.Close()
	seconds := s.orSeconds(10)
	fmt.Printf("  over %d interfaces, for %d s; cpu in %% of one processor, PSS in MiB  (target: cpu ratio <= %.0f, aim 1; PSS <= %d with 1000)\n", sides, seconds, mostRatio, mostPSS>>10)
	fmt.Printf("  %9s %8s  %-11s %10s %10s %10s %10s\n", "instances", "interval", "", "master cpu", "backup cpu", "master PSS", "backup PSS")
	before := lab.ReadLoad()
	percent := func(d time.Duration) float64 { return 100 * d.Seconds() / float64(seconds) }
	for _, n := range s.instances {
		for _, interval := range []string{"1", "0.1"} {
			var all [2][2]usage
			for k, r := range routers() {
				if all[k], err = b.costOf(ctx, r, n, interval, seconds); err != nil {
					return fmt.Errorf("%s, %d instances each %s s: %w", r.name, n, interval, err)
				}
				m, o := all[k][0], all[k][1]
				fmt.Printf("  %9d %8s  %-11s %10.2f %10.2f %10.1f %10.1f\n", n, interval, r.name, percent(m.cpu), percent(o.cpu), float64(m.pss)/1024, float64(o.pss)/1024)
			}
			ratio := func(k int) float64 { return float64(all[0][k].cpu) / float64(all[1][k].cpu) }
			fmt.Printf("  %9s %8s  %-11s %10.2f %10.2f\n", "", "", "ratio", ratio(0), ratio(1))
		}
	}
	fmt.Printf("  %s\n", sinceLoad(before))
	return nil
}

func (b *bed) costOf(ctx context.Context, r router, n int, interval string, seconds int) (out [2]usage, err error) {
	config := func(priority int) string { return many(n, priority, interval, "vrrp_garp_master_delay 1") }
	if err := b.pair(ctx, r, config, n); err != nil {
		return out, err
	}
	// The second batch of announcements, 1 s after the takeover, is no part of the steady state.
	if err := pause(ctx, 3*time.Second); err != nil {
		return out, err
	}
	var from [2]usage
	for k, h := range b.l.Hosts() {
		if from[k], err = measure(ctx, h, r.name); err != nil {
			return out, err
		}
	}
	if err := pause(ctx, time.Duration(seconds)*time.Second); err != nil {
		return out, err
	}
	for k, h := range b.l.Hosts() {
		to, err := measure(ctx, h, r.name)
		if err != nil {
			return out, err
		}
		out[k] = usage{cpu: to.cpu - from[k].cpu, pss: to.pss, sent: to.sent - from[k].sent}
	}
	every, err := strconv.ParseFloat(interval, 64)
	if err != nil {
		return out, err
	}
	// What keeps a daemon's cost down must not be that it does less.
	if want := float64(n*seconds) / every; float64(out[0].sent) < 0.97*want-1 {
		return out, fmt.Errorf("the master sent %d adverts in %d s, want %.0f", out[0].sent, seconds, want)
	}
	if out[1].sent > 2*sides {
		return out, fmt.Errorf("the backup sent %d packets: this was no steady state", out[1].sent)
	}
	return out, b.kill(ctx, r)
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// measure adds up every process of that name on the host.
func measure(ctx context.Context, h *lab.Host, name string) (usage, error) {
	var u usage
	processes, err := h.Processes()
	if err != nil {
		return u, err
	}
	found := false
	for _, p := range processes {
		if p.Name != name {
			continue
		}
		found = true
		cpu, pss, err := readProcess(ctx, h, p.PID)
		if err != nil {
			return u, err
		}
		u.cpu += cpu
		u.pss += pss
	}
	if !found {
		return u, fmt.Errorf("no process named %s on %s", name, h.Name())
	}
	res, err := h.Run(ctx, "/bin/cat", "/proc/net/dev")
	if err != nil {
		return u, err
	}
	for line := range strings.Lines(res.Stdout) {
		name, counters, _ := strings.Cut(line, ":")
		if f := strings.Fields(counters); strings.HasPrefix(strings.TrimSpace(name), "eth") && len(f) > 9 {
			sent, err := strconv.Atoi(f[9])
			if err != nil {
				return u, err
			}
			u.sent += sent
		}
	}
	return u, nil
}

// readProcess returns the processor time and the memory (PSS in KiB) of a process. The time is the scheduler's own sum over its
// threads: the ticks of stat(5) are too coarse for one instance.
func readProcess(ctx context.Context, h *lab.Host, pid int) (time.Duration, int, error) {
	res, err := h.Run(ctx, "/bin/sh", "-c", fmt.Sprintf("cat /proc/%d/task/*/schedstat", pid))
	if err != nil {
		return 0, 0, err
	}
	var cpu time.Duration
	for line := range strings.Lines(res.Stdout) {
		first, _, _ := strings.Cut(line, " ")
		ns, err := strconv.ParseInt(first, 10, 64)
		if err != nil {
			return 0, 0, fmt.Errorf("process %d: garbled schedstat: %w", pid, err)
		}
		cpu += time.Duration(ns)
	}
	rollup, err := h.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		return 0, 0, err
	}
	for line := range strings.Lines(string(rollup)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "Pss:" {
			pss, err := strconv.Atoi(f[1])
			return cpu, pss, err
		}
	}
	return 0, 0, fmt.Errorf("process %d: no PSS", pid)
}
