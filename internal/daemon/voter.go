package daemon

import (
	"context"
	"fmt"
	"log/slog"
	"strings"

	"pgvrrp/internal/conf"
	"pgvrrp/internal/quorum"
	"pgvrrp/internal/quorum/trust"
)

// WriteKey makes a new key file of the quorum extension.
func WriteKey(path string) error { return trust.WriteKey(path) }

// ResetVoter makes the stopped voter of this host a new one. It returns what it renamed, or would rename.
func ResetVoter(file, configID string, dryRun bool) ([]string, error) {
	config, self, err := voterOf(file, configID)
	if err != nil {
		return nil, fmt.Errorf("reset the voter: %w", err)
	}
	return quorum.Reset(config.Quorum, self, dryRun)
}

// ForceOptions are what an operator says to Force.
type ForceOptions struct {
	File, ConfigID string
	Resources      []string
	Node           string // this node's name, as a check
	Word           string // how it is certain that the other data nodes are off
	DryRun         bool
	Log            *slog.Logger
}

// Force lets this node, whose vrrpd is stopped, go on alone although the quorum is lost.
func Force(ctx context.Context, o ForceOptions) (quorum.Forced, error) {
	names := strings.Join(o.Resources, ", ")
	config, self, err := voterOf(o.File, o.ConfigID)
	if err != nil {
		return quorum.Forced{}, fmt.Errorf("force %s: %w", names, err)
	}
	if !o.DryRun && o.Node != self.Name {
		return quorum.Forced{}, fmt.Errorf("force %s: this node is %s, not %q", names, self.Name, o.Node)
	}
	return quorum.Force(ctx, quorum.ForceOptions{File: config.Quorum, Self: self, Resources: o.Resources, Word: o.Word, DryRun: o.DryRun, Log: o.Log})
}

func voterOf(file, configID string) (*conf.Config, conf.Voter, error) {
	config, found := Load(file, configID)
	if conf.ExitCode(found, false) == conf.ExitCannot || config.Quorum == nil {
		return nil, conf.Voter{}, fmt.Errorf("%s has no quorum block that can be read; see vrrpd check -f %s", file, file)
	}
	self, err := config.Node(hostName())
	if err != nil {
		return nil, conf.Voter{}, fmt.Errorf("%s: %w", config.Quorum.At(), err)
	}
	return config, self, nil
}
