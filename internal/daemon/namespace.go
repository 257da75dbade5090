package daemon

import (
	"pgvrrp/internal/conf"
	"pgvrrp/internal/system"
)

// enter has vrrpd go on in the network namespace that its file names, before anything is open. It returns when it is there, or
// with an error.
func enter(config *conf.Config) error {
	if config.Globals.NetNamespace == "" {
		return nil
	}
	return system.EnterNetNamespace(config.Globals.NetNamespace)
}

// elsewhere says whether this host's interfaces are others than those that vrrpd will see, and reports why nothing can run there.
func (h *hostCheck) elsewhere() bool {
	name := h.config.Globals.NetNamespace
	if name == "" {
		return false
	}
	inside, err := system.InNetNamespace(name)
	switch at := (conf.Pos{File: h.config.File, Line: 1, Col: 1}); {
	case err != nil:
		h.report(at, conf.Fatal, "net_namespace", name, "cannot be entered: %v", err)
	case !inside:
		h.report(at, conf.Lint, "net_namespace", name, "interfaces are not checked from outside of the network namespace")
	}
	return err != nil || !inside
}
