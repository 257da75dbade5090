package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"pgvrrp/test/lab"
)

// Of the two routers the backup's priority is what Master_Down_Interval hangs on.
const (
	takeoverAdvert     = 100 * time.Millisecond
	takeoverPriority   = 100
	takeoverVRID       = 51
	takeoverMasterDown = 3*takeoverAdvert + (256-takeoverPriority)*takeoverAdvert/256
)

func takeoverConfig(priority int) string {
	return fmt.Sprintf(`global_defs {
    vrrp_version 3
}
vrrp_instance VI_1 {
    state BACKUP
    interface eth0
    virtual_router_id %d
    priority %d
    advert_int 0.1
    virtual_ipaddress {
        %s/24
    }
}
`, takeoverVRID, priority, lab.VIP(1))
}

// takeover measures how long after the last advert of a master that dies silently the backup's first gratuitous ARP is on the
// wire, less Master_Down_Interval. The daemons take turns, so that a busy moment hits both.
func takeover(ctx context.Context, s settings) error {
	l, err := newLab(ctx, s, 2)
	if err != nil {
		return err
	}
	defer l.Close()
	capture, err := l.Capture(lab.CaptureOptions{Bridge: lab.LAN})
	if err != nil {
		return err
	}
	late := map[string]series{}
	before := lab.ReadLoad()
	runs := s.orRuns(20)
	for n := range runs {
		for _, r := range routers() {
			ms, err := oneTakeover(ctx, l, capture, r)
			if err != nil {
				return fmt.Errorf("run %d of %s: %w", n+1, r.name, err)
			}
			late[r.name] = append(late[r.name], ms)
		}
	}
	fmt.Printf("  last advert -> first gratuitous ARP, less Master_Down_Interval (%.2f ms), %d runs each, in ms\n",
		float64(takeoverMasterDown)/float64(time.Millisecond), runs)
	for _, r := range routers() {
		fmt.Printf("  %-11s %s\n", r.name, late[r.name])
	}
	ours, theirs := late["vrrpd"].at(0.5), late["keepalived"].at(0.5)
	fmt.Printf("  median vrrpd/keepalived %.2f; %s\n", ours/theirs, sinceLoad(before))
	return nil
}

func oneTakeover(ctx context.Context, l *lab.Lab, capture *lab.Capture, r router) (float64, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	n1, n2 := l.Host("n1"), l.Host("n2")
	start := time.Now()
	if _, err := r.start(ctx, n1, takeoverConfig(200)); err != nil {
		return 0, err
	}
	if _, err := r.start(ctx, n2, takeoverConfig(takeoverPriority)); err != nil {
		return 0, err
	}
	// n1 is master, and n2 has heard it for a while that is different each time, so that the kill hits any phase.
	heard, err := capture.Wait(ctx, start, lab.AdvertFrom("n1", takeoverVRID))
	if err != nil {
		return 0, fmt.Errorf("%s on n1 never became master: %w", r.name, err)
	}
	settle := heard.At.Add(time.Second + rand.N(takeoverAdvert))
	if _, err := capture.Wait(ctx, settle, lab.AdvertFrom("n1", takeoverVRID)); err != nil {
		return 0, err
	}
	select {
	case <-time.After(rand.N(takeoverAdvert)):
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	killed := time.Now()
	if err := r.kill(ctx, n1); err != nil {
		return 0, err
	}
	garp, err := capture.Wait(ctx, killed, lab.Announcement("n2", lab.VIP(1)))
	if err != nil {
		return 0, fmt.Errorf("%s on n2 never took over: %w", r.name, err)
	}
	last, ok := capture.Last(garp.At, lab.AdvertFrom("n1", takeoverVRID))
	if !ok {
		return 0, fmt.Errorf("no advert of n1 recorded")
	}
	if err := r.kill(ctx, n2); err != nil {
		return 0, err
	}
	for _, h := range []*lab.Host{n1, n2} {
		// Both daemons leave the address behind when they are killed.
		if _, err := h.Run(ctx, "/usr/sbin/ip", "address", "flush", "dev", "eth0", "to", lab.VIP(1).String()); err != nil {
			return 0, err
		}
	}
	return float64(garp.At.Sub(last.At)-takeoverMasterDown) / float64(time.Millisecond), nil
}
