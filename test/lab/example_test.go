package lab_test

import (
	"context"
	"fmt"
	"log"
	"time"

	"pgvrrp/test/lab"
	"pgvrrp/test/lab/meter"
)

// Three hosts with PostgreSQL, a daemon in each, a meter outside, and the power loss of one. A program calls lab.Main
// first thing in main; a test package calls lab.RunTests in TestMain and lab.NewT in its tests.
func Example() {
	lab.Main()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := run(ctx); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context) error {
	l, err := lab.New(ctx, lab.Options{Hosts: 3, Programs: map[string]string{"/usr/sbin/vrrpd": "bin/vrrpd", "/usr/bin/pgnotify": "bin/pgnotify"}})
	if err != nil {
		return err
	}
	defer l.Close()
	vip := lab.VIP(1) // 10.77.0.100
	pg, err := l.InitPostgres(ctx, lab.PostgresOptions{Upstream: vip.String(), Synchronous: "ANY 1 (n1, n2, n3)"})
	if err != nil {
		return err
	}
	capture, err := l.Capture(lab.CaptureOptions{Bridge: lab.LAN})
	if err != nil {
		return err
	}
	for _, h := range l.Hosts() {
		if err := h.WriteFile("/etc/vrrpd/vrrpd.conf", []byte("…"), 0o644); err != nil {
			return err
		}
		if _, err := h.Spawn(ctx, "vrrpd", "vrrpd", "run", "-f", "/etc/vrrpd/vrrpd.conf"); err != nil {
			return err
		}
	}
	m, err := meter.Start(ctx, meter.Config{Conninfo: pg.MeterConninfo(vip.String()), Dial: l.Client().Dial})
	if err != nil {
		return err
	}
	m.Mark("power loss of n1")
	at, err := l.Host("n1").PowerLoss(ctx)
	if err != nil {
		return err
	}
	garp, err := capture.Wait(ctx, at, lab.Announcement("", vip))
	if err != nil {
		return err
	}
	if _, err := m.WaitAck(ctx, garp.At); err != nil {
		return err
	}
	r, err := m.Report(ctx)
	if err != nil {
		return err
	}
	fmt.Printf("%s has the address %s after the power loss; %s; %s\n", garp.Host, garp.At.Sub(at), r, lab.ReadLoad())
	if len(r.Lost) > 0 {
		return fmt.Errorf("lost %d acknowledged rows", len(r.Lost))
	}
	return nil
}
