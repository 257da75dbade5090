package daemon

import (
	"context"

	"pgvrrp/internal/system"
	"pgvrrp/internal/track"
)

// processHost is how vrrp_track_process sees this host.
func processHost() track.ProcessHost {
	return track.ProcessHost{
		Follow: func(ctx context.Context, h track.ProcessHandler) error { return system.FollowProcesses(ctx, h) },
		List:   system.Processes,
		Read: func(pid int) (string, []string, error) {
			p, err := system.ReadProcess(pid)
			return p.Name, p.Argv, err
		},
	}
}
