//go:build lab

package lab

import (
	"context"
	"strings"
	"testing"
	"time"

	"pgvrrp/test/lab/meter"
)

func stopped(t *testing.T, m *meter.Meter) meter.Report {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	r, err := m.Report(ctx)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%s (%s)", r, ReadLoad())
	return r
}

func startMeter(ctx context.Context, t *testing.T, l *Lab, c *Cluster, address string) *meter.Meter {
	t.Helper()
	m, err := meter.Start(ctx, meter.Config{Conninfo: c.MeterConninfo(address), Dial: l.Client().Dial})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestPostgres(t *testing.T) {
	ctx := testContext(t)
	tests := []struct {
		name string
		opts PostgresOptions
	}{
		{"trust", PostgresOptions{Synchronous: "ANY 1 (n1, n2, n3)"}},
		{"scram", PostgresOptions{Synchronous: "ANY 1 (n1, n2, n3)", Password: `pass'w:o\rd`}},
		{"debian", PostgresOptions{DebianLayout: true}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			start := time.Now()
			l := NewT(t, Options{Hosts: 3})
			c, err := l.InitPostgres(ctx, tt.opts)
			if err != nil {
				t.Fatal(err)
			}
			if err := c.WaitStreaming(ctx, "n1", "n2", "n3"); err != nil {
				t.Fatal(err)
			}
			took := time.Since(start)
			t.Logf("three hosts stream after %s (%s)", took, ReadLoad())
			if took > 8*time.Second {
				t.Errorf("took %s, want less than 8s", took)
			}
			for setting, want := range map[string]string{
				"wal_log_hints": "on", "restart_after_crash": "off", "fsync": "on", "wal_sender_timeout": "2s", "wal_receiver_timeout": "1s",
				"synchronous_standby_names": tt.opts.Synchronous, "config_file": c.ConfDir + "/postgresql.conf", "data_directory": c.DataDir,
			} {
				if got, err := c.SQL(ctx, "n1", "SHOW "+setting); err != nil || got != want {
					t.Errorf("%s: got %q, %v, want %q", setting, got, err, want)
				}
			}
			if got, err := c.SQL(ctx, "n2", "SELECT pg_is_in_recovery(), sender_host FROM pg_stat_wal_receiver"); err != nil || got != "t|10.78.0.1" {
				t.Errorf("n2: got %q, %v", got, err)
			}
			m := startMeter(ctx, t, l, c, l.Host("n1").Addr(LAN).String())
			reader, err := meter.StartReader(ctx, meter.ReaderConfig{Name: "n2", Conninfo: c.MeterConninfo(l.Host("n2").Addr(LAN).String()), Dial: l.Client().Dial})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := m.WaitAck(ctx, time.Now().Add(300*time.Millisecond)); err != nil {
				t.Fatal(err)
			}
			if rep := reader.Stop(); rep.Reads == 0 || len(rep.Failures)+len(rep.Reconnects) > 0 {
				t.Errorf("reader: %s", rep)
			}
			r := stopped(t, m)
			if r.Acked == 0 || len(r.Lost) > 0 || r.Warned+r.Failed+r.Unknown > 0 {
				t.Errorf("got %s", r)
			}
			// The same rows on a standby that has caught up.
			at, err := c.SQL(ctx, "n1", "SELECT pg_current_wal_flush_lsn()")
			if err != nil {
				t.Fatal(err)
			}
			err = Poll(ctx, 5*time.Millisecond, func() (bool, string, error) {
				got, err := c.SQL(ctx, "n3", "SELECT pg_last_wal_replay_lsn() >= '"+at+"'")
				return got == "t", "n3 is behind", err
			})
			if err != nil {
				t.Fatal(err)
			}
			if r, err := m.ReportFrom(ctx, c.MeterConninfo(l.Host("n3").Addr(LAN).String()), l.Client().Dial, true); err != nil || len(r.Lost) > 0 {
				t.Errorf("on n3: got %s, %v", r, err)
			}
		})
	}
}

func TestMeterMeasuresOutage(t *testing.T) {
	ctx := testContext(t)
	l := NewT(t, Options{Hosts: 1})
	c, err := l.InitPostgres(ctx, PostgresOptions{})
	if err != nil {
		t.Fatal(err)
	}
	n1 := l.Host("n1")
	m := startMeter(ctx, t, l, c, n1.Addr(LAN).String())
	reader, err := meter.StartReader(ctx, meter.ReaderConfig{Name: "n1", Conninfo: c.MeterConninfo(n1.Addr(LAN).String()), Dial: l.Client().Dial})
	if err != nil {
		t.Fatal(err)
	}
	alive := func() time.Time {
		t.Helper()
		at, err := m.WaitAck(ctx, time.Now().Add(200*time.Millisecond))
		if err != nil {
			t.Fatal(err)
		}
		return at
	}
	// each step takes the service away and says for how long at least.
	hold := func(d time.Duration) {
		select {
		case <-time.After(d):
		case <-ctx.Done():
		}
	}
	type step struct {
		name string
		do   func() error
		min  time.Duration
	}
	steps := []step{
		{"stop and start", func() error {
			if err := c.Stop(ctx, "n1", "fast"); err != nil {
				return err
			}
			hold(400 * time.Millisecond)
			return c.Start(ctx, "n1")
		}, 400 * time.Millisecond},
		{"pause", func() error {
			if err := n1.Pause(ctx); err != nil {
				return err
			}
			hold(500 * time.Millisecond)
			return n1.Resume(ctx)
		}, 500 * time.Millisecond},
		{"partition", func() error {
			if err := l.Partition([]string{"n1"}, []string{"client"}); err != nil {
				return err
			}
			hold(300 * time.Millisecond)
			return l.Heal()
		}, 300 * time.Millisecond},
		{"power loss", func() error {
			if _, err := n1.PowerLoss(ctx); err != nil {
				return err
			}
			if err := n1.Boot(ctx); err != nil {
				return err
			}
			return c.Start(ctx, "n1")
		}, 60 * time.Millisecond},
	}
	took := map[string]time.Duration{}
	for _, s := range steps {
		alive()
		begin := m.Mark(s.name)
		if err := s.do(); err != nil {
			t.Fatalf("%s: %v", s.name, err)
		}
		at, err := m.WaitAck(ctx, time.Now())
		if err != nil {
			t.Fatalf("%s: %v", s.name, err)
		}
		took[s.name] = at.Sub(begin)
	}
	alive()
	rep := reader.Stop()
	t.Log(rep)
	r := stopped(t, m)
	if len(r.Lost) > 0 || r.Unknown > 0 || r.FailedFound > 0 {
		t.Errorf("got %s", r)
	}
	for _, s := range steps {
		var longest time.Duration
		for _, o := range r.Outages {
			if o.Step == s.name {
				longest = max(longest, o.Duration)
			}
		}
		if longest < s.min || longest > took[s.name]+100*time.Millisecond {
			t.Errorf("%s: longest outage %s, want between %s and %s", s.name, longest, s.min, took[s.name])
		}
	}
	if len(rep.Reconnects) == 0 {
		t.Error("reader: no reconnect, want the one of the restart")
	}
}

// The check must be able to fail: acknowledged rows of an asynchronous primary that is replaced by an older copy.
func TestMeterFindsLostRows(t *testing.T) {
	ctx := testContext(t)
	l := NewT(t, Options{Hosts: 2})
	c, err := l.InitPostgres(ctx, PostgresOptions{})
	if err != nil {
		t.Fatal(err)
	}
	vip := VIP(1).String()
	if err := l.Host("n1").TakeAddress(VIP(1)); err != nil {
		t.Fatal(err)
	}
	m := startMeter(ctx, t, l, c, vip)
	if err := c.WaitStreaming(ctx, "n1", "n2"); err != nil {
		t.Fatal(err)
	}
	m.Mark("standby cut off")
	if err := l.Partition([]string{"n1"}, []string{"n2"}); err != nil {
		t.Fatal(err)
	}
	if _, err := m.WaitAck(ctx, time.Now().Add(300*time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	m.Mark("failover to the older copy")
	if _, err := l.Host("n1").PowerLoss(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := c.SQL(ctx, "n2", "SELECT pg_promote()"); err != nil {
		t.Fatal(err)
	}
	if err := l.Host("n2").TakeAddress(VIP(1)); err != nil {
		t.Fatal(err)
	}
	if _, err := m.WaitAck(ctx, time.Now()); err != nil {
		t.Fatal(err)
	}
	r := stopped(t, m)
	if len(r.Lost) == 0 {
		t.Error("no row is lost: the check can't fail")
	}
	if !strings.HasPrefix(r.Server, "n2 ") || len(r.Servers) < 2 {
		t.Errorf("servers: got %q, %q", r.Server, r.Servers)
	}
}

// A commit whose wait for the standby was canceled comes back as success with a WARNING: no acknowledgement.
func TestMeterWarningIsNoAck(t *testing.T) {
	ctx := testContext(t)
	l := NewT(t, Options{Hosts: 2})
	c, err := l.InitPostgres(ctx, PostgresOptions{Synchronous: "ANY 1 (n2)"})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.WaitStreaming(ctx, "n1", "n2"); err != nil {
		t.Fatal(err)
	}
	m := startMeter(ctx, t, l, c, l.Host("n1").Addr(LAN).String())
	if err := l.Host("n2").Pause(ctx); err != nil {
		t.Fatal(err)
	}
	canceled := m.Mark("cancel")
	err = Poll(ctx, 10*time.Millisecond, func() (bool, string, error) {
		return len(m.Outages()) > 0, "commits go on without the standby", nil
	})
	if err != nil {
		t.Fatal(err)
	}
	err = Poll(ctx, 10*time.Millisecond, func() (bool, string, error) {
		// The writers must have had the answer before the standby is back, and confirms what they wait for.
		if strings.Contains(strings.Join(reasonsOf(m.Outages()), "\n"), "WARNING") {
			return true, "", nil
		}
		got, err := c.SQL(ctx, "n1", "SELECT count(pg_cancel_backend(pid)) FROM pg_stat_activity WHERE application_name = 'meter' AND wait_event = 'SyncRep'")
		return false, "no writer was told of its canceled wait; waiting: " + got, err
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Host("n2").Resume(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := m.WaitAck(ctx, canceled.Add(200*time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	r := stopped(t, m)
	if r.Warned == 0 || r.WarnedFound != r.Warned || len(r.Lost) > 0 {
		t.Errorf("got %s; %d with warning are there", r, r.WarnedFound)
	}
}

func reasonsOf(outages []meter.Outage) (all []string) {
	for _, o := range outages {
		all = append(all, o.Reasons...)
	}
	return all
}

// Power loss of the holder must not be measured longer than it is: the client notices by a second connection.
func TestMeterTakeover(t *testing.T) {
	ctx := testContext(t)
	l := NewT(t, Options{Hosts: 2})
	c, err := l.InitPostgres(ctx, PostgresOptions{})
	if err != nil {
		t.Fatal(err)
	}
	vip := VIP(1).String()
	if err := l.Host("n1").TakeAddress(VIP(1)); err != nil {
		t.Fatal(err)
	}
	m := startMeter(ctx, t, l, c, vip)
	if err := c.WaitStreaming(ctx, "n1", "n2"); err != nil {
		t.Fatal(err)
	}
	m.Mark("power loss")
	if _, err := l.Host("n1").PowerLoss(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := c.SQL(ctx, "n2", "SELECT pg_promote()"); err != nil {
		t.Fatal(err)
	}
	if err := l.Host("n2").TakeAddress(VIP(1)); err != nil {
		t.Fatal(err)
	}
	taken := time.Now()
	back, err := m.WaitAck(ctx, taken)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("first commit %s after the address moved (%s)", back.Sub(taken), ReadLoad())
	if d := back.Sub(taken); d > 300*time.Millisecond {
		t.Errorf("the meter needed %s to find the new server", d)
	}
	stopped(t, m)
}
