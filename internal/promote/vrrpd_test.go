package promote

import (
	"context"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"pgvrrp/internal/control"
)

// fakeDaemon is a vrrpd with one instance.
type fakeDaemon struct {
	state string
	seq   uint64
}

func (d fakeDaemon) Status(context.Context) control.Status {
	return control.Status{Instances: []control.Instance{{Name: "VI_PG", State: d.state, Seq: d.seq}}}
}

func (fakeDaemon) Plan(context.Context, string) (control.Plan, error)   { return control.Plan{}, nil }
func (fakeDaemon) Release(context.Context, string, time.Duration) error { return nil }

func (fakeDaemon) Subscribe() (<-chan control.Event, func()) { return nil, func() {} }

func TestAskVrrpd(t *testing.T) {
	dir := t.TempDir()
	socket := filepath.Join(dir, "control.sock")
	srv, err := control.Listen(socket, fakeDaemon{control.StateMaster, 7}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var served sync.WaitGroup
	served.Go(func() { _ = srv.Run(ctx) })
	defer served.Wait()
	defer cancel()
	tests := []struct {
		name  string
		env   VrrpdEnv
		state string
		want  string // "" = may go on
	}{
		{"still so", VrrpdEnv{socket, "VI_PG", "7"}, Master, ""},
		{"name from the event", VrrpdEnv{socket, "", "7"}, Master, ""},
		{"another state", VrrpdEnv{socket, "VI_PG", "7"}, Backup, "VI_PG is MASTER (transition 7), this hook is for BACKUP"},
		{"the same state again", VrrpdEnv{socket, "VI_PG", "5"}, Master, "vrrpd has moved on: VI_PG is MASTER (transition 7), this hook is for MASTER (transition 5)"},
		{"unknown instance", VrrpdEnv{socket, "VI_X", "7"}, Master, "can't ask vrrpd"},
		{"no number", VrrpdEnv{socket, "VI_PG", ""}, Master, "can't ask vrrpd"},
		{"no socket", VrrpdEnv{"", "VI_PG", "7"}, Master, "can't ask vrrpd"},
		{"nobody at the socket", VrrpdEnv{filepath.Join(dir, "none"), "VI_PG", "7"}, Master, "can't ask vrrpd"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := tt.env.Ask()(t.Context(), Event{Name: "VI_PG", State: tt.state})
			if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
	if FromEnv(func(string) string { return "" }).Ask() != nil {
		t.Error("without vrrpd's environment there is nobody to ask")
	}
}

func (fakeDaemon) Quorum() control.QuorumCalls { return nil }
