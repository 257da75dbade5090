//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"pgvrrp/internal/agent"
	"pgvrrp/test/lab"
)

// trio is three PostgreSQL nodes and their witnesses as etc/quorum-3data-2witness has them. t is the subtest that runs.
type trio struct {
	t  *testing.T
	l  *lab.Lab
	pg *lab.Cluster
}

const trioSample = "quorum-3data-2witness"

// newTrio makes the hosts: a primary on n1 as somebody has it who begins, empty ones on n2 and n3, and starts vrrpd and the agents.
func newTrio(t *testing.T) *trio {
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
	settings := withLogging(map[string]string{"max_slot_wal_keep_size": "256MB", "wal_receiver_timeout": "2s"})
	if s.pg, err = s.l.InitPostgres(within(t, longPatience), lab.PostgresOptions{Standbys: []string{}, Settings: settings}); err != nil {
		t.Fatal(err)
	}
	n1 := s.l.Host("n1")
	run(t, n1, "/usr/bin/mkdir", "-p", "/etc/vrrpd")
	run(t, n1, "vrrpd", "quorum", "keygen", quorumKey)
	key := readFile(n1, quorumKey)
	for _, h := range s.l.Hosts() {
		conf := sampleFile(t, trioSample, "vrrpd.conf")
		if strings.HasPrefix(h.Name(), "w") {
			conf = sampleFile(t, trioSample, "witness.conf")
		}
		writeFile(t, h, vrrpdConf, conf, 0o644)
		writeFile(t, h, quorumKey, key, 0o600)
		run(t, h, "/usr/bin/install", "-d", "-m", "0700", quorumState)
		if strings.HasPrefix(h.Name(), "w") {
			continue
		}
		toml := strings.ReplaceAll(sampleFile(t, trioSample, "pgnotify.toml"), sampleData, s.pg.DataDir)
		writeFile(t, h, pgnotifyToml, toml+"\n[http]\nlisten = \"[::]:8008\"\n", 0o644)
		run(t, h, "/usr/bin/install", "-d", "-o", "postgres", "-g", "postgres", "-m", "0700", pgnotifyState)
		run(t, h, "/usr/bin/install", "-d", "-o", "postgres", "-g", "postgres", s.pg.DataDir[:strings.LastIndexByte(s.pg.DataDir, '/')])
		run(t, h, "/usr/bin/install", "-d", "-o", "postgres", "-g", "postgres", "-m", "0700", s.pg.DataDir)
	}
	s.start(s.l.Hosts()...)
	eventually(t, patience, "the agents answer", func() (bool, string) {
		for _, n := range []string{"n1", "n2", "n3"} {
			if _, err := s.status(n); err != nil {
				return false, err.Error()
			}
		}
		return true, ""
	})
	return s
}

// start runs vrrpd and the agent on hosts that have just booted.
func (s *trio) start(hosts ...*lab.Host) {
	s.t.Helper()
	var g errgroup.Group
	for _, h := range hosts {
		g.Go(func() error {
			ctx := within(s.t, longPatience)
			if _, err := h.Run(ctx, "/usr/bin/install", "-d", "-m", "0755", "/run/vrrpd"); err != nil {
				return err
			}
			if _, err := h.SpawnCommand(ctx, "vrrpd", lab.Command{Argv: vrrpdRun()}); err != nil {
				return err
			}
			if strings.HasPrefix(h.Name(), "w") {
				return nil
			}
			return s.startAgent(h)
		})
	}
	if err := g.Wait(); err != nil {
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
	ctx := within(s.t, longPatience)
	for _, dir := range []string{"/run/pgnotify", "/run/postgresql"} {
		if _, err := h.Run(ctx, "/usr/bin/install", "-d", "-o", "postgres", "-g", "postgres", "-m", "0755", dir); err != nil {
			return err
		}
	}
	_, err := h.SpawnCommand(ctx, "agent", lab.Command{Argv: []string{"pgnotify", "--log-level", "debug", "agent"}, User: "postgres"})
	return err
}

// status is what a node's agent says.
func (s *trio) status(name string) (agent.Status, error) {
	var st agent.Status
	res, err := s.l.Host(name).Run(within(s.t, 5*time.Second), "pgnotify", "status", "--json")
	if err == nil {
		err = json.Unmarshal([]byte(res.Stdout), &st)
	}
	return st, err
}

// whole waits until one node is the active holder and open, and all the others stream from it and are in the rule.
func (s *trio) whole(but ...string) string {
	s.t.Helper()
	holder := ""
	eventually(s.t, 2*longPatience, "the cluster is whole", func() (bool, string) {
		var names []string
		for _, n := range []string{"n1", "n2", "n3"} {
			if !slices.Contains(but, n) {
				names = append(names, n)
			}
		}
		st, err := s.status(names[0])
		if err != nil {
			return false, err.Error()
		}
		r := st.Resource
		if holder = r.Holder; holder == "" || r.Phase != "active" {
			return false, fmt.Sprintf("epoch %d is %s; %s", r.Epoch, r.Phase, strings.Join(st.Explain, "; "))
		}
		if h, err := s.status(holder); err != nil || !h.Open {
			return false, fmt.Sprintf("%s is not open: %v %s", holder, err, strings.Join(h.Explain, "; "))
		}
		if len(r.Rule.S) != len(names)-1 {
			return false, fmt.Sprintf("the rule is %+v; %s", r.Rule, strings.Join(st.Explain, "; "))
		}
		return true, ""
	})
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
