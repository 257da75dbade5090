package lab

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	pgagent "pgvrrp/internal/agent"
	"pgvrrp/internal/control"
)

// Files of vrrpd and pgnotify inside hosts.
const (
	vrrpdConf     = "/etc/vrrpd/vrrpd.conf"
	quorumKey     = "/etc/vrrpd/quorum.key"
	quorumState   = "/var/lib/vrrpd"
	pgnotifyToml  = "/etc/pgnotify/pgnotify.toml"
	pgnotifyState = "/var/lib/pgnotify"
	// sampleData is the data directory that the samples name.
	sampleData = "/var/lib/postgresql/15/main"
)

// QuorumOptions describe PostgreSQL under quorum.
type QuorumOptions struct {
	// Sample is a directory with vrrpd.conf, witness.conf and pgnotify.toml of a topology. Its data nodes are the lab's n1 … nN,
	// its witnesses the hosts whose names begin with w.
	Sample string
	// Priorities are the VRRP priorities by host; a host that is not named has the sample's.
	Priorities map[string]int
	// Settings are added to postgresql.conf.
	Settings map[string]string
	// LogLevel is that of the daemons; default debug.
	LogLevel string
}

// Quorum is vrrpd on every host, and PostgreSQL and pgnotify's agent on the data nodes.
type Quorum struct {
	PG    *Cluster
	Nodes []string // the data nodes

	l     *Lab
	level string
}

// samplePriority is the line that Priorities change.
const samplePriority = "    priority 100 "

// NewQuorum installs a topology's files, makes a server on the first host as somebody has it who begins, leaves the others empty, and
// starts vrrpd and the agents. Init makes a cluster of it.
func (l *Lab) NewQuorum(ctx context.Context, o QuorumOptions) (*Quorum, error) {
	q := &Quorum{l: l, level: cmp.Or(o.LogLevel, "debug")}
	for _, h := range l.hosts {
		if !isWitness(h.name) {
			q.Nodes = append(q.Nodes, h.name)
		}
	}
	if err := q.install(ctx, o); err != nil {
		return nil, fmt.Errorf("set up quorum: %w", err)
	}
	if err := q.Start(ctx, l.Names(l.client.name)...); err != nil {
		return nil, fmt.Errorf("set up quorum: %w", err)
	}
	err := Poll(ctx, 20*time.Millisecond, func() (bool, string, error) {
		for _, n := range q.Nodes {
			if _, err := q.Status(ctx, n); err != nil {
				return false, err.Error(), nil //nolint:nilerr // it has just been started
			}
		}
		return true, "", nil
	})
	if err != nil {
		return nil, fmt.Errorf("set up quorum: wait for the agents: %w", err)
	}
	return q, nil
}

func isWitness(name string) bool { return strings.HasPrefix(name, "w") }

func (q *Quorum) install(ctx context.Context, o QuorumOptions) error {
	files := map[string]string{}
	for _, name := range []string{"vrrpd.conf", "witness.conf", "pgnotify.toml"} {
		b, err := os.ReadFile(filepath.Join(o.Sample, name))
		if err != nil {
			return err
		}
		files[name] = string(b)
	}
	settings := map[string]string{
		// One file outside of the data directory, whoever starts the server: rewinds and clones copy what lies inside.
		"logging_collector": "on", "log_directory": "/var/log/postgresql", "log_filename": "server.log", "log_rotation_age": "0", "log_rotation_size": "0",
		"max_slot_wal_keep_size": "256MB", "wal_receiver_timeout": "2s",
	}
	for key, value := range o.Settings {
		settings[key] = value
	}
	var err error
	if q.PG, err = q.l.InitPostgres(ctx, PostgresOptions{Primary: q.Nodes[0], Standbys: []string{}, Settings: settings}); err != nil {
		return err
	}
	first := q.l.Host(q.Nodes[0])
	for _, argv := range [][]string{{"/usr/bin/mkdir", "-p", filepath.Dir(quorumKey)}, {"vrrpd", "quorum", "keygen", quorumKey}} {
		if _, err := first.Run(ctx, argv...); err != nil {
			return err
		}
	}
	key, err := first.ReadFile(quorumKey)
	if err != nil {
		return err
	}
	toml := strings.ReplaceAll(files["pgnotify.toml"], sampleData, q.PG.DataDir) + "\n[http]\nlisten = \"[::]:8008\"\n"
	for _, h := range q.l.hosts {
		conf := files["vrrpd.conf"]
		if isWitness(h.name) {
			conf = files["witness.conf"]
		}
		if p := o.Priorities[h.name]; p != 0 {
			if !strings.Contains(conf, samplePriority) {
				return fmt.Errorf("%s has no line %q", o.Sample, samplePriority)
			}
			conf = strings.Replace(conf, samplePriority, fmt.Sprintf("    priority %d ", p), 1)
		}
		if err := h.WriteFile(vrrpdConf, []byte(conf), 0o644); err != nil {
			return err
		}
		if err := h.WriteFile(quorumKey, key, 0o600); err != nil {
			return err
		}
		if _, err := h.Run(ctx, "/usr/bin/install", "-d", "-m", "0700", quorumState); err != nil {
			return err
		}
		if isWitness(h.name) {
			continue
		}
		if err := h.WriteFile(pgnotifyToml, []byte(toml), 0o644); err != nil {
			return err
		}
		for _, d := range [][2]string{{"0755", filepath.Dir(q.PG.DataDir)}, {"0700", q.PG.DataDir}, {"0700", pgnotifyState}} {
			if _, err := h.Run(ctx, "/usr/bin/install", "-d", "-o", "postgres", "-g", "postgres", "-m", d[0], d[1]); err != nil {
				return err
			}
		}
	}
	return nil
}

// Start runs vrrpd and the agent, each if it does not run, on hosts that have power.
func (q *Quorum) Start(ctx context.Context, names ...string) error {
	var g errgroup.Group
	for _, name := range names {
		g.Go(func() error {
			if err := q.StartVrrpd(ctx, name); err != nil || isWitness(name) {
				return err
			}
			return q.StartAgent(ctx, name)
		})
	}
	return g.Wait()
}

// StartVrrpd runs vrrpd if it does not run.
func (q *Quorum) StartVrrpd(ctx context.Context, name string) error {
	h := q.l.Host(name)
	if p := h.Proc("vrrpd"); p != nil && p.Running() {
		return nil
	}
	if _, err := h.Run(ctx, "/usr/bin/install", "-d", "-m", "0755", filepath.Dir(control.DefaultSocket)); err != nil {
		return err
	}
	_, err := h.SpawnCommand(ctx, "vrrpd", Command{Argv: []string{"vrrpd", "run", "-f", vrrpdConf, "--log-level", q.level}})
	return err
}

// StartAgent runs pgnotify's agent if it does not run.
func (q *Quorum) StartAgent(ctx context.Context, name string) error {
	h := q.l.Host(name)
	if p := h.Proc("agent"); p != nil && p.Running() {
		return nil
	}
	for _, dir := range []string{filepath.Dir(pgagent.DefaultSocket), "/run/postgresql"} {
		if _, err := h.Run(ctx, "/usr/bin/install", "-d", "-o", "postgres", "-g", "postgres", "-m", "0755", dir); err != nil {
			return err
		}
	}
	_, err := h.SpawnCommand(ctx, "agent", Command{Argv: []string{"pgnotify", "--log-level", q.level, "agent"}, User: "postgres"})
	return err
}

// Init makes the first host's data the truth and waits until the cluster is whole.
func (q *Quorum) Init(ctx context.Context) (holder string, err error) {
	if _, err := q.l.Host(q.Nodes[0]).Run(ctx, "pgnotify", "init"); err != nil {
		return "", err
	}
	return q.Whole(ctx)
}

// askTime bounds a question to a daemon: one that is stopped never answers.
const askTime = 2 * time.Second

// ask reads a JSON document from a daemon's Unix socket inside a host.
func (q *Quorum) ask(ctx context.Context, name, socket string, out any) error {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return q.l.Host(name).Dial(ctx, "unix", socket)
	}}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+name+"/v1/status", nil)
	if err != nil {
		return err
	}
	res, err := client.Do(req)
	if err != nil {
		return fmt.Errorf("ask %s at %s: %w", name, socket, err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("ask %s at %s: %s", name, socket, res.Status)
	}
	if err := json.NewDecoder(res.Body).Decode(out); err != nil {
		return fmt.Errorf("ask %s at %s: %w", name, socket, err)
	}
	return nil
}

// Status is what a node's agent says.
func (q *Quorum) Status(ctx context.Context, name string) (s pgagent.Status, err error) {
	err = q.ask(ctx, name, pgagent.DefaultSocket, &s)
	return s, err
}

// Vrrpd is what a host's vrrpd says.
func (q *Quorum) Vrrpd(ctx context.Context, name string) (s control.Status, err error) {
	err = q.ask(ctx, name, control.DefaultSocket, &s)
	return s, err
}

// Open is the node that says of itself that the rule of the present epoch is in force there and its lease runs, "" for none.
func (q *Quorum) Open(ctx context.Context, but ...string) string {
	found := make(chan string, len(q.Nodes))
	var g errgroup.Group
	for _, n := range q.Nodes {
		if slices.Contains(but, n) {
			continue
		}
		g.Go(func() error {
			if s, err := q.Status(ctx, n); err == nil && s.Open {
				found <- n
			}
			return nil
		})
	}
	_ = g.Wait()
	select {
	case n := <-found:
		return n
	default:
		return ""
	}
}

// Whole waits until one node is the active holder and open, and every other data node but the named ones streams from it and is in the
// rule.
func (q *Quorum) Whole(ctx context.Context, but ...string) (holder string, err error) {
	err = Poll(ctx, 10*time.Millisecond, func() (bool, string, error) {
		var last string
		holder, last = q.whole(ctx, but)
		return holder != "", last, nil
	})
	if err != nil {
		return "", fmt.Errorf("wait until the cluster is whole: %w", err)
	}
	return holder, nil
}

// whole returns the holder, or what is missing.
func (q *Quorum) whole(ctx context.Context, but []string) (holder, missing string) {
	var names []string
	for _, n := range q.Nodes {
		if !slices.Contains(but, n) {
			names = append(names, n)
		}
	}
	// Anyone will do to learn who it is.
	st, err := q.Status(ctx, names[0])
	if err != nil {
		return "", err.Error()
	}
	r := st.Resource
	if r.Holder == "" || r.Phase != "active" {
		return "", fmt.Sprintf("%s: epoch %d is %s; %s; %s", names[0], r.Epoch, r.Phase, r.Missing, strings.Join(st.Explain, "; "))
	}
	if !slices.Contains(names, r.Holder) {
		return "", fmt.Sprintf("%s: the holder is %s", names[0], r.Holder)
	}
	h := st
	if r.Holder != names[0] {
		if h, err = q.Status(ctx, r.Holder); err != nil {
			return "", err.Error()
		}
	}
	if !h.Open {
		return "", fmt.Sprintf("%s is not open: %s", r.Holder, strings.Join(h.Explain, "; "))
	}
	if len(h.Resource.Rule.S) != len(names)-1 {
		return "", fmt.Sprintf("the rule is {%s; %s}; %s", h.Resource.Rule.Holder, strings.Join(h.Resource.Rule.S, ", "), strings.Join(h.Explain, "; "))
	}
	for _, n := range h.Nodes {
		if n.Node != r.Holder && slices.Contains(names, n.Node) && (!n.Heard || n.Upstream != r.Holder) {
			return "", fmt.Sprintf("%s: heard %t, streams from %q: %s", n.Node, n.Heard, n.Upstream, strings.Join(n.Explain, "; "))
		}
	}
	return r.Holder, ""
}

// Voters waits until every voter counts, votes, and hears every other one.
func (q *Quorum) Voters(ctx context.Context) error {
	err := Poll(ctx, 20*time.Millisecond, func() (bool, string, error) {
		for _, host := range q.l.hosts {
			v, err := q.Vrrpd(ctx, host.name)
			if err != nil {
				return false, err.Error(), nil //nolint:nilerr // it may be starting
			}
			if v.Quorum.Leader == "" {
				return false, host.name + " knows no leader of the log", nil
			}
			for _, voter := range v.Quorum.Voters {
				if !voter.Heard || !voter.Member || voter.Silent > 0 {
					return false, fmt.Sprintf("%s: voter %s: heard %t, member %t, silent for %.1f s", host.name, voter.ID, voter.Heard, voter.Member, voter.Silent), nil
				}
			}
		}
		return true, "", nil
	})
	if err != nil {
		return fmt.Errorf("wait for the voters: %w", err)
	}
	return nil
}
