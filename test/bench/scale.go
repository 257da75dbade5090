package main

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"syscall"
	"time"

	"pgvrrp/test/lab"
)

const (
	massInstances   = 1000
	reloadInstances = 500
)

// inTurn measures three times of each router, one router after the other, as often as runs says, on a bed with a capture of the LAN, and has
// them told.
func inTurn(ctx context.Context, s settings, measure func(*bed, context.Context, *lab.Capture, router) ([3]float64, error), tell func(runs int, got map[string]*[3]series)) error {
	b, err := newBed(ctx, s)
	if err != nil {
		return err
	}
	defer b.l.Close()
	capture, err := b.l.Capture(lab.CaptureOptions{})
	if err != nil {
		return err
	}
	before, runs := lab.ReadLoad(), s.orRuns(3)
	got := map[string]*[3]series{}
	for _, r := range routers() {
		got[r.name] = new([3]series)
	}
	for n := range runs {
		for _, r := range routers() {
			ms, err := measure(b, ctx, capture, r)
			if err != nil {
				return fmt.Errorf("%s, run %d: %w", r.name, n+1, err)
			}
			for k := range ms {
				got[r.name][k] = append(got[r.name][k], ms[k])
			}
		}
	}
	tell(runs, got)
	fmt.Printf("  %s\n", sinceLoad(before))
	return nil
}

// mass has a master of a thousand addresses die in silence, and measures when the backup has told the LAN of every one of them.
func mass(ctx context.Context, s settings) error {
	return inTurn(ctx, s, (*bed).massOf, func(runs int, got map[string]*[3]series) {
		fmt.Printf("  %d addresses over %d interfaces, five gratuitous ARPs each, %d runs, ms after the death of the master, of which its Master_Down_Interval is %.0f  (target: last <= keepalived's)\n",
			massInstances, sides, runs, massMasterDown.Seconds()*1000)
		for _, r := range routers() {
			fmt.Printf("  %-11s first address announced %s\n  %-11s every address once      %s\n  %-11s last gratuitous ARP     %s\n", r.name, got[r.name][0], "", got[r.name][1], "", got[r.name][2])
		}
	})
}

// massMasterDown is how long a backup of priority 100 waits at one advert a second.
const massMasterDown = 3*time.Second + time.Second*(256-100)/256

func (b *bed) massOf(ctx context.Context, capture *lab.Capture, r router) (ms [3]float64, err error) {
	config := func(priority int) string { return many(massInstances, priority, "1", "vrrp_garp_master_delay 0") }
	if err := b.pair(ctx, r, config, massInstances); err != nil {
		return ms, err
	}
	if err := pause(ctx, 2*time.Second); err != nil {
		return ms, err
	}
	died := time.Now()
	if err := r.kill(ctx, b.n1); err != nil {
		return ms, err
	}
	if err := holdsMany(ctx, b.n2, massInstances); err != nil {
		return ms, err
	}
	if err := pause(ctx, 2*time.Second); err != nil {
		return ms, err
	}
	times := map[netip.Addr]int{}
	var firstAt, everyAt, lastAt time.Time
	for _, f := range capture.Frames(func(f *lab.Frame) bool { return f.Host == "n2" && f.ARP != nil && !f.At.Before(died) }) {
		if !f.Announces(f.ARP.SenderIP) {
			continue
		}
		if firstAt.IsZero() {
			firstAt = f.At
		}
		if times[f.ARP.SenderIP]++; times[f.ARP.SenderIP] == 1 {
			everyAt = f.At
		}
		lastAt = f.At
	}
	for k := range massInstances {
		if n := times[manyVIP(k)]; n != 5 {
			return ms, fmt.Errorf("%s was announced %d times, want 5", manyVIP(k), n)
		}
	}
	for k, at := range []time.Time{firstAt, everyAt, lastAt} {
		ms[k] = float64(at.Sub(died)) / float64(time.Millisecond)
	}
	return ms, b.kill(ctx, r)
}

// reload changes the priority of 500 masters by a reload, and measures when the last of them says so on the wire, and how long any
// of them was silent meanwhile; and then reloads the same file.
func reload(ctx context.Context, s settings) error {
	return inTurn(ctx, s, (*bed).reloadOf, func(runs int, got map[string]*[3]series) {
		fmt.Printf("  %d instances at 0.1 s over %d interfaces, %d runs, in ms\n", reloadInstances, sides, runs)
		for _, r := range routers() {
			fmt.Printf("  %-11s SIGHUP -> every instance advertises its new priority %s\n  %-11s longest silence of an instance meanwhile              %s\n  %-11s the same at the reload of a file that did not change  %s\n",
				r.name, got[r.name][0], "", got[r.name][1], "", got[r.name][2])
		}
	})
}

func (b *bed) reloadOf(ctx context.Context, capture *lab.Capture, r router) (ms [3]float64, err error) {
	config := func(priority int) string { return many(reloadInstances, priority, "0.1", "vrrp_garp_master_delay 0") }
	if err := b.pair(ctx, r, config, reloadInstances); err != nil {
		return ms, err
	}
	if err := pause(ctx, 2*time.Second); err != nil {
		return ms, err
	}
	const settle = 2 * time.Second
	once := func(priority int) (last, silence time.Duration, err error) {
		if err := b.n1.WriteFile(benchConf, []byte(config(priority)), 0o644); err != nil {
			return 0, 0, err
		}
		at := time.Now()
		if err := b.n1.Kill(ctx, r.name, syscall.SIGHUP); err != nil {
			return 0, 0, err
		}
		if err := pause(ctx, settle); err != nil {
			return 0, 0, err
		}
		type key struct {
			src  netip.Addr
			vrid uint8
		}
		heard, changed := map[key]time.Time{}, map[key]bool{}
		for _, f := range capture.Frames(func(f *lab.Frame) bool { return f.VRRP != nil && !f.At.Before(at.Add(-time.Second)) }) {
			if f.Host != "n1" {
				return 0, 0, fmt.Errorf("the backup has sent an advert for VRID %d: somebody was silent for too long", f.VRRP.VRID)
			}
			k := key{f.Src, f.VRRP.VRID}
			if since, ok := heard[k]; ok && f.At.After(at) {
				silence = max(silence, f.At.Sub(since))
			}
			heard[k] = f.At
			if int(f.VRRP.Priority) == priority && !changed[k] && f.At.After(at) {
				changed[k], last = true, max(last, f.At.Sub(at))
			}
		}
		if len(changed) != reloadInstances {
			return 0, 0, fmt.Errorf("%d of %d instances have their new priority", len(changed), reloadInstances)
		}
		return last, silence, nil
	}
	last, silence, err := once(201)
	if err != nil {
		return ms, err
	}
	_, still, err := once(201)
	if err != nil {
		return ms, err
	}
	for k, d := range []time.Duration{last, silence, still} {
		ms[k] = float64(d) / float64(time.Millisecond)
	}
	return ms, b.kill(ctx, r)
}

// spacing measures how evenly adverts leave, idle and beside two busy loops.
func spacing(ctx context.Context, s settings) error {
	b, err := newBed(ctx, s)
	if err != nil {
		return err
	}
	defer b.l.Close()
	const instances, interval = 50, 100 * time.Millisecond
	seconds := s.orSeconds(15)
	fmt.Printf("  %d instances at %s for %d s: how far the time between two adverts is from that, in ms\n", instances, interval, seconds)
	for _, load := range []struct {
		name    string
		loops   int
		globals string
	}{
		{"idle", 0, ""},
		{"beside two busy loops", 2, ""},
		{"beside two busy loops, vrrp_rt_priority 50", 2, "vrrp_rt_priority 50"},
	} {
		for _, r := range routers() {
			off, before, after, err := b.spacingOf(ctx, r, instances, interval, time.Duration(seconds)*time.Second, load.loops, load.globals)
			if err != nil {
				return fmt.Errorf("%s, %s: %w", r.name, load.name, err)
			}
			fmt.Printf("  %-11s %-43s p50 %6.3f  p99 %6.3f  p99.9 %7.3f  max %7.3f  (%d intervals; %s, stalled %.1f %%)\n", r.name, load.name,
				off.at(0.5), off.at(0.99), off.at(0.999), off.at(1), len(off), after, after.StalledSince(before))
		}
	}
	return nil
}

func (b *bed) spacingOf(ctx context.Context, r router, instances int, interval, during time.Duration, loops int, globals string) (off series, before, after lab.Load, err error) {
	config := many(instances, 200, fmt.Sprint(interval.Seconds()), "vrrp_garp_master_delay 0", globals)
	if _, err = r.start(ctx, b.n1, config); err != nil {
		return
	}
	if err = holdsMany(ctx, b.n1, instances); err != nil {
		return
	}
	client := b.l.Client()
	for k := range loops {
		if _, err = client.Spawn(ctx, fmt.Sprintf("busy%d", k), "/bin/sh", "-c", "while :; do :; done"); err != nil {
			return
		}
	}
	if err = pause(ctx, time.Second); err != nil {
		return
	}
	capture, err := b.l.Capture(lab.CaptureOptions{})
	if err != nil {
		return
	}
	before = lab.ReadLoad()
	err = pause(ctx, during)
	after = lab.ReadLoad()
	if loops > 0 {
		if _, killErr := client.KillAll(context.WithoutCancel(ctx), "busy*", syscall.SIGKILL); err == nil {
			err = killErr
		}
	}
	if closeErr := capture.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return
	}
	last := map[netip.Addr]time.Time{}
	for _, f := range capture.Frames(func(f *lab.Frame) bool { return f.VRRP != nil && len(f.VRRP.Addrs) == 1 }) {
		vip := f.VRRP.Addrs[0]
		if at, ok := last[vip]; ok {
			off = append(off, (f.At.Sub(at)-interval).Abs().Seconds()*1000)
		}
		last[vip] = f.At
	}
	if len(last) != instances {
		err = fmt.Errorf("%d of %d instances advertise", len(last), instances)
		return
	}
	slices.Sort(off)
	err = b.kill(ctx, r)
	return
}
