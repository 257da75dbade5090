package daemon

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"slices"

	"pgvrrp/internal/child"
	"pgvrrp/internal/conf"
	"pgvrrp/internal/quorum/trust"
	"pgvrrp/internal/system"
)

// Check is Load and what only this host can tell: whether the interfaces exist, whether each program can be run by its
// user, and whether this host has a line and the key of the quorum block. A finding here is as bad as the same finding about the
// text, but for the last: one file serves every node, and may be looked at elsewhere, so that it is fatal only if the file is to run here.
func Check(file, configID string, here bool) (*conf.Config, []conf.Diagnostic) {
	config, found := Load(file, configID)
	h := onHost(config)
	if config.Quorum != nil {
		severity := conf.Lint
		if here {
			severity = conf.Fatal
		}
		h.voter(severity, conf.ExitCode(found, false) != conf.ExitCannot)
	}
	return config, append(found, h.found...)
}

// onHost looks at this host's interfaces and programs.
func onHost(config *conf.Config) *hostCheck {
	h := &hostCheck{config: config, severity: conf.Error}
	if config.Extended {
		h.severity = conf.Fatal
	}
	if !h.elsewhere() {
		for k := range config.Instances {
			h.instance(&config.Instances[k])
		}
	}
	for _, p := range config.Programs() {
		h.program(p)
	}
	return h
}

type hostCheck struct {
	config   *conf.Config
	severity conf.Severity
	found    []conf.Diagnostic
}

func (h *hostCheck) report(at conf.Pos, severity conf.Severity, keyword, got, format string, args ...any) {
	h.found = append(h.found, conf.Diagnostic{Pos: at, Severity: severity, Keyword: keyword, Got: got, Message: fmt.Sprintf(format, args...)})
}

func (h *hostCheck) instance(c *conf.Instance) {
	h.device(c.Pos, "interface", c.Interface)
	for _, list := range [][]conf.Address{c.Addresses, c.Excluded} {
		for _, a := range list {
			if a.Interface != c.Interface {
				h.device(a.Pos, "virtual_ipaddress", a.Interface)
			}
		}
	}
	for _, t := range c.TrackInterfaces {
		h.device(t.Pos, "track_interface", t.Name)
	}
}

// device: an interface that is missing keeps its instance in FAULT until it appears. With dynamic_interfaces, and in a file of
// ours, that is as it should be.
func (h *hostCheck) device(at conf.Pos, keyword, name string) {
	if name == "" {
		return // said by conf already
	}
	if _, err := net.InterfaceByName(name); err == nil {
		return
	}
	if slices.ContainsFunc(macvlansOf(h.config), func(v system.Macvlan) bool { return v.Name == name }) {
		return // the file makes it
	}
	severity := conf.Error
	if h.config.Globals.DynamicInterfaces || h.config.Extended {
		severity = conf.Lint
	}
	h.report(at, severity, keyword, name, "no such interface on this host; FAULT until it appears")
}

func (h *hostCheck) program(c conf.Program) {
	command := child.Command{Argv: c.Argv, User: c.User.Name, Group: c.User.Group}
	switch err := child.Check(command); {
	case err == nil:
	case errors.Is(err, child.ErrCannotTell):
		h.report(c.Pos, conf.Lint, c.Keyword, c.Argv[0], "not checked: %v", err)
	default:
		h.report(c.Pos, h.severity, c.Keyword, c.Argv[0], "cannot be run, which counts as failed: %v", err)
		return
	}
	if h.config.Globals.EnableScriptSecurity {
		if err := child.Secure(command); err != nil {
			h.report(c.Pos, conf.Security, c.Keyword, c.Argv[0], "not secure, so it does not run, which counts as failed: %v", err)
		}
	}
}

// voter asks whether this host can be the voter that the quorum block makes it. Of a text with mistakes nobody knows who that is.
func (h *hostCheck) voter(severity conf.Severity, sound bool) {
	q := h.config.Quorum
	if sound {
		if _, err := h.config.Node(hostName()); err != nil {
			h.report(q.Pos, severity, "node", "", "cannot run on this host: %v", err)
		}
	}
	switch _, err := trust.ReadKey(q.KeyFile); {
	case err == nil:
	case severity == conf.Lint && errors.Is(err, fs.ErrPermission):
		h.report(q.Pos, severity, "key_file", "", "not checked: %v", err) // vrrpd may be another user
	default:
		h.report(q.Pos, severity, "key_file", "", "cannot run on this host: %v", err)
	}
}
