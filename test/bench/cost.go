package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"pgvrrp/test/lab"
)

// clockTick is what /proc counts processor time in (USER_HZ, proc_pid_stat(5)).
const clockTick = 10 * time.Millisecond

func costConfig(instances, priority int) string {
	var b strings.Builder
	b.WriteString("global_defs {\n    vrrp_version 3\n}\n")
	for n := 1; n <= instances; n++ {
		fmt.Fprintf(&b, `vrrp_instance VI_%d {
    state BACKUP
    interface eth0
    virtual_router_id %d
    priority %d
    advert_int 1
    virtual_ipaddress {
        10.77.%d.%d/32
    }
}
`, n, n, priority, 100+n/250, n%250+1)
	}
	return b.String()
}

// usage is what the processes of one daemon on one host have used.
type usage struct {
	cpu time.Duration
	pss int // KiB
}

// cost runs as many instances on one interface as one master and one backup, and compares processor time and memory (PSS: each
// shared page counted in parts).
func cost(ctx context.Context, s settings) error {
	type figures struct{ master, backup usage }
	all := map[string]figures{}
	before := lab.ReadLoad()
	for _, r := range routers() {
		f, err := costOf(ctx, s, r)
		if err != nil {
			return fmt.Errorf("%s: %w", r.name, err)
		}
		all[r.name] = figures{f[0], f[1]}
	}
	fmt.Printf("  %d instances, advert_int 1, %d s\n", s.instances, s.orSeconds(20))
	fmt.Printf("  %-11s %14s %14s %14s %14s\n", "", "master cpu %", "backup cpu %", "master PSS MiB", "backup PSS MiB")
	percent := func(d time.Duration) float64 { return 100 * d.Seconds() / float64(s.orSeconds(20)) }
	for _, r := range routers() {
		f := all[r.name]
		fmt.Printf("  %-11s %14.2f %14.2f %14.1f %14.1f\n", r.name, percent(f.master.cpu), percent(f.backup.cpu), float64(f.master.pss)/1024, float64(f.backup.pss)/1024)
	}
	a, b := all["vrrpd"], all["keepalived"]
	ratio := func(x, y float64) string {
		if y == 0 {
			return "-"
		}
		return fmt.Sprintf("%.2f", x/y)
	}
	fmt.Printf("  %-11s %14s %14s %14s %14s\n", "ratio", ratio(percent(a.master.cpu), percent(b.master.cpu)), ratio(percent(a.backup.cpu), percent(b.backup.cpu)),
		ratio(float64(a.master.pss), float64(b.master.pss)), ratio(float64(a.backup.pss), float64(b.backup.pss)))
	after := lab.ReadLoad()
	fmt.Printf("  %s, %.1f %% of the time some task waited for a processor\n", after, after.StalledSince(before))
	return nil
}

func costOf(ctx context.Context, s settings, r router) (out [2]usage, err error) {
	l, err := newLab(ctx, s, 2)
	if err != nil {
		return out, err
	}
	defer l.Close()
	capture, err := l.Capture(lab.CaptureOptions{Bridge: lab.LAN})
	if err != nil {
		return out, err
	}
	hosts := []*lab.Host{l.Host("n1"), l.Host("n2")}
	start := time.Now()
	for k, h := range hosts {
		if _, err := r.start(ctx, h, costConfig(s.instances, 200-50*k)); err != nil {
			return out, err
		}
	}
	wait, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	heard, err := capture.Wait(wait, start, lab.AdvertFrom("n1", uint8(s.instances)))
	if err != nil {
		return out, err
	}
	// The second batch of announcements, 5 s after the takeover, is no part of the steady state.
	if err := pause(ctx, time.Until(heard.At.Add(8*time.Second))); err != nil {
		return out, err
	}
	var from [2]usage
	for k, h := range hosts {
		if from[k], err = measure(h, r.name); err != nil {
			return out, err
		}
	}
	if err := pause(ctx, time.Duration(s.orSeconds(20))*time.Second); err != nil {
		return out, err
	}
	for k, h := range hosts {
		to, err := measure(h, r.name)
		if err != nil {
			return out, err
		}
		out[k] = usage{cpu: to.cpu - from[k].cpu, pss: to.pss}
	}
	if other, ok := capture.First(heard.At.Add(8*time.Second), lab.AdvertFrom("n2", 0)); ok {
		return out, fmt.Errorf("the backup sent an advert for VRID %d: this was no steady state", other.VRRP.VRID)
	}
	return out, nil
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
func measure(h *lab.Host, name string) (usage, error) {
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
		cpu, pss, err := readProcess(h, p.PID)
		if err != nil {
			return u, err
		}
		u.cpu += cpu
		u.pss += pss
	}
	if !found {
		return u, fmt.Errorf("no process named %s on %s", name, h.Name())
	}
	return u, nil
}

func readProcess(h *lab.Host, pid int) (time.Duration, int, error) {
	stat, err := h.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, 0, err
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	f := strings.Fields(rest)
	if len(f) < 13 {
		return 0, 0, fmt.Errorf("process %d: short stat file", pid)
	}
	user, err1 := strconv.Atoi(f[11])
	system, err2 := strconv.Atoi(f[12])
	if err1 != nil || err2 != nil {
		return 0, 0, fmt.Errorf("process %d: garbled stat file", pid)
	}
	rollup, err := h.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		return 0, 0, err
	}
	for line := range strings.Lines(string(rollup)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "Pss:" {
			pss, err := strconv.Atoi(f[1])
			return time.Duration(user+system) * clockTick, pss, err
		}
	}
	return 0, 0, fmt.Errorf("process %d: no PSS", pid)
}
