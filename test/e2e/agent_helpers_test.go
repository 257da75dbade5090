//go:build e2e

package e2e

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"pgvrrp/internal/agent"
	"pgvrrp/test/lab"
)

// trio is three PostgreSQL nodes and their witnesses as etc/quorum-3data-2witness has them. t is the subtest that runs.
type trio struct {
	t  *testing.T
	l  *lab.Lab
	q  *lab.Quorum
	pg *lab.Cluster
}

const trioSample = "quorum-3data-2witness"

// newTrio makes the hosts: a primary on n1 as somebody has it who begins, empty ones on n2 and n3, and starts vrrpd and the agents.
func newTrio(t *testing.T, settings map[string]string) *trio {
	t.Helper()
	lab.Require(t)
	s := &trio{t: t}
	s.l = lab.NewT(t, lab.Options{
		Machine: &machine, Hosts: 3, Extra: []lab.HostSpec{{Name: "w1", Index: 21}, {Name: "w2", Index: 22}},
		Programs: map[string]string{"/usr/sbin/vrrpd": program(t, "vrrpd"), "/usr/bin/pgnotify": program(t, "pgnotify")},
	})
	t.Cleanup(func() {
		if t.Failed() || os.Getenv("PGVRRP_DUMP") != "" {
			s.dump(t)
		}
	})
	var err error
	if s.q, err = s.l.NewQuorum(within(t, longPatience), lab.QuorumOptions{Sample: filepath.Join("..", "..", "etc", trioSample), Settings: settings}); err != nil {
		t.Fatal(err)
	}
	s.pg = s.q.PG
	return s
}

// start runs vrrpd and the agent on hosts that have just booted.
func (s *trio) start(hosts ...*lab.Host) {
	s.t.Helper()
	var names []string
	for _, h := range hosts {
		names = append(names, h.Name())
	}
	if err := s.q.Start(within(s.t, longPatience), names...); err != nil {
		s.t.Fatal(err)
	}
}

// step is a subtest. One that failed ends the story.
func (s *trio) step(name string, f func(t *testing.T)) {
	s.t.Helper()
	whole := s.t
	defer func() { s.t = whole }()
	if !whole.Run(name, func(t *testing.T) { s.t = t; f(t) }) {
		whole.FailNow()
	}
}

func (s *trio) startAgent(h *lab.Host) error {
	return s.q.StartAgent(within(s.t, longPatience), h.Name())
}

// status is what a node's agent says.
func (s *trio) status(name string) (agent.Status, error) { return s.q.Status(s.t.Context(), name) }

// whole waits until one node is the active holder and open, and all the others stream from it and are in the rule.
func (s *trio) whole(but ...string) string {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), 2*longPatience)
	defer cancel()
	holder, err := s.q.Whole(ctx, but...)
	if err != nil {
		s.t.Fatal(err)
	}
	return holder
}

func (s *trio) dump(t *testing.T) {
	for _, n := range []string{"n1", "n2", "n3", "w1", "w2"} {
		h := s.l.Host(n)
		for _, name := range []string{"agent", "vrrpd"} {
			if p := h.Proc(name); p != nil {
				t.Logf("---- %s %s\n%s", n, name, tail(logOf(t, p), 150))
			}
		}
	}
}
