package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"pgvrrp/internal/agent/core"
	"pgvrrp/internal/control"
	"pgvrrp/internal/postgres"
)

// Status is what one agent knows.
type Status struct {
	Node      string           `json:"node"`
	At        time.Time        `json:"at"`
	Connected bool             `json:"connected"`         // to vrrpd
	Refused   string           `json:"refused,omitempty"` // why not
	Resource  control.Resource `json:"resource"`
	Open      bool             `json:"open"` // the rule of the present epoch is in force here
	SSN       string           `json:"synchronous_standby_names,omitempty"`
	Explain   []string         `json:"explain"`
	Nodes     []NodeStatus     `json:"nodes"`
	Doing     string           `json:"doing,omitempty"` // what the queue is at
}

// NodeStatus is one line of the cluster's table.
type NodeStatus struct {
	NodeState
	Heard     bool    `json:"heard"`                      // a moment ago
	Lag       *int64  `json:"lag_bytes,omitempty"`        // of a standby: not received yet; absent unless it and the holder are heard, on one timeline
	ReplayLag *int64  `json:"replay_lag_bytes,omitempty"` // the same of what is not replayed yet; of this agent's own node alone
	SyncState string  `json:"sync_state,omitempty"`       // sync: in the rule; async: streams, and is not
	Holder    bool    `json:"holder,omitempty"`
	InRule    bool    `json:"in_rule,omitempty"`
	Age       float64 `json:"said_seconds_ago,omitempty"`
}

// Status tells what the agent knows.
func (a *Agent) Status(ctx context.Context) (s Status, err error) {
	if err = a.ask(ctx, func() { s = a.status() }); err != nil || s.Resource.Phase == core.Active.String() || !s.Connected {
		return s, err
	}
	// What is missing, the leader of the quorum's log knows; vrrpd asks it.
	mctx, cancel := context.WithTimeout(ctx, missingTime)
	defer cancel()
	if v, verr := a.o.Vrrpd.Status(mctx); verr == nil && v.Quorum != nil {
		for _, r := range v.Quorum.Resources {
			if r.Name == s.Resource.Name && s.Resource.Missing == "" {
				s.Resource.Missing = r.Missing
			}
		}
	}
	return s, nil
}

// missingTime is how long a status waits for the sentence that says what is missing.
const missingTime = 500 * time.Millisecond

// present is the resource as vrrpd told it last; it is live no longer than its lease, whether vrrpd is there to say so or not.
func (a *Agent) present() control.Resource {
	r := a.resource
	r.Live = r.Live && time.Duration(r.Deadline) > a.o.Now()
	return r
}

func (a *Agent) status() Status {
	r := a.present()
	s := Status{
		Node: a.known.Self, At: time.Now(), Connected: a.connected, Refused: a.refused, Resource: r, Open: a.opened != 0 && a.opened == r.Epoch && r.Live,
		SSN: a.server.SSN, Explain: a.core.Explain(),
	}
	if act := a.queue.now(); act.ID != 0 {
		s.Doing = act.String()
	}
	now := a.o.Now()
	all := []NodeState{a.state()}
	all[0].At = now
	for _, p := range a.known.peers() {
		n, there := a.last[p]
		if !there {
			n = NodeState{Node: p, Role: "unknown", WhyNot: "its agent was not heard"}
		}
		all = append(all, n)
	}
	var holder NodeState
	for _, n := range all {
		if n.Node == r.Holder && n.Role == "primary" && n.heard(now) {
			holder = n
		}
	}
	for _, n := range all {
		x := NodeStatus{NodeState: n, Holder: n.Node == r.Holder && n.Node != "", InRule: n.Node == r.Rule.Holder || slices.Contains(r.Rule.S, n.Node)}
		x.Heard = n.heard(now)
		if n.At != 0 {
			x.Age = (now - n.At).Seconds()
		}
		if n.Role == "standby" && x.Heard {
			x.Lag = n.behind(holder, n.lsn())
			if d, ok := a.o.Database.(replayer); ok && n.Node == a.known.Self {
				x.ReplayLag = n.behind(holder, uint64(d.Facts().Replay))
			}
		}
		if n.Role == "standby" && n.Upstream != "" {
			x.SyncState = "async"
			if slices.Contains(r.Rule.S, n.Node) {
				x.SyncState = "sync"
			}
		}
		if !x.InRule && x.Promotable {
			x.Promotable, x.WhyNot = false, fmt.Sprintf("the rule {%s; %s} does not name it", r.Rule.Holder, strings.Join(r.Rule.S, ", "))
		}
		s.Nodes = append(s.Nodes, x)
	}
	slices.SortFunc(s.Nodes, func(x, y NodeStatus) int { return strings.Compare(x.Node, y.Node) })
	return s
}

// replayer knows how far its standby has replayed.
type replayer interface {
	Facts() postgres.Glance
}

// behind is how far a position of this node is behind the holder's; nil if that can't be told: positions compare on one timeline alone.
func (s NodeState) behind(holder NodeState, at uint64) *int64 {
	if holder.lsn() == 0 || at == 0 || holder.TLI != s.TLI {
		return nil
	}
	lag := max(0, int64(holder.lsn())-int64(at))
	return &lag
}

// Switchover moves the primary to a node ("": the best standby) and waits until another one is the active holder.
func (a *Agent) Switchover(ctx context.Context, to string) (string, error) {
	var holder, self string
	var epoch uint64
	var from int
	if err := a.ask(ctx, func() { holder, self, epoch, from = a.resource.Holder, a.known.Self, a.resource.Epoch, a.saidNext }); err != nil {
		return "", err
	}
	switch {
	case holder == "":
		return "", errors.New("no switchover: nobody is the holder; pgnotify explain says what is missing")
	case to == holder:
		return "", fmt.Errorf("no switchover: %s is the holder already", to)
	case holder == self:
		var err error
		if aerr := a.ask(ctx, func() { err = a.order("switchover", to) }); aerr != nil || err != nil {
			return "", errors.Join(aerr, err)
		}
	default:
		if err := a.askNode(ctx, holder, "switchover", to); err != nil {
			return "", err
		}
	}
	began := time.Now()
	now := ""
	err := a.until(ctx, func() (bool, error) {
		if text, ok := a.heard(from, func(s string) bool { return strings.Contains(s, "switchover to ") && strings.Contains(s, " aborted") }); ok {
			return true, errors.New(text)
		}
		r := a.resource
		if r.Epoch > epoch && r.Phase == core.Active.String() {
			if now = r.Holder; now == holder {
				return true, fmt.Errorf("the switchover was aborted: %s is the holder again (%s)", holder, r.Why)
			}
			return true, nil
		}
		return false, nil
	})
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%s is the primary now, %s after the order", now, time.Since(began).Round(time.Millisecond)), nil
}

// Maintenance takes this standby out of the synchronous set and leaves its server alone, or ends that. A restart of the agent, or of the host, does
// not end it.
func (a *Agent) Maintenance(ctx context.Context, on bool) (string, error) {
	if !on {
		if err := a.endMaintenance(ctx); err != nil {
			return "", err
		}
		return "the agent looks after the server again", nil
	}
	if err := a.beginMaintenance(ctx); err != nil {
		return "", err
	}
	wctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if err := a.until(wctx, func() (bool, error) { return !slices.Contains(a.resource.Rule.S, a.known.Self), nil }); err != nil {
		if ctx.Err() != nil {
			return "", err
		}
		return "in maintenance; the rule still names this node: a commit may wait for it until the holder notices that it is gone", nil
	}
	return "in maintenance: no commit waits for this node, and its server is left alone until pgnotify maintenance off", nil
}

// beginMaintenance writes it down once it is not refused, and before the order is answered.
func (a *Agent) beginMaintenance(ctx context.Context) error {
	a.orders.Lock()
	defer a.orders.Unlock()
	var refused string
	var before core.Away
	err := a.ask(ctx, func() {
		n := a.saidNext
		before = a.core.Away()
		a.step(core.Wish{Kind: core.MaintenanceOn})
		refused, _ = a.heard(n, func(s string) bool { return hasPrefix(s, "no maintenance") })
	})
	switch {
	case err != nil:
		return err
	case refused != "":
		return errors.New(refused)
	}
	if err = a.o.Keeper.Keep(maintenanceName, keptMaintenance{On: true}); err != nil && !before.On {
		err = errors.Join(err, a.ask(ctx, func() { a.step(core.Wish{Kind: core.MaintenanceOff}) }))
	}
	return err
}

// endMaintenance ends a stop, too.
func (a *Agent) endMaintenance(ctx context.Context) error {
	a.orders.Lock()
	defer a.orders.Unlock()
	var was keptMaintenance
	_, err := a.o.Keeper.Kept(maintenanceName, &was)
	if err != nil || was.On {
		if err := a.o.Keeper.Keep(maintenanceName, keptMaintenance{}); err != nil {
			return err
		}
	}
	return a.ask(ctx, func() { a.step(core.Wish{Kind: core.MaintenanceOff}) })
}

// Stop announces this node, then stops its server; the agent starts it again with Start, or when it is itself started again.
func (a *Agent) Stop(ctx context.Context) (string, error) {
	undo := core.Wish{Kind: core.MaintenanceOff} // of an order that would be carried out after an init some day
	began := a.o.Now()
	if err := a.ask(ctx, func() {
		if away := a.core.Away(); away.On && !away.Shut {
			undo.Kind = core.MaintenanceOn
		}
		a.step(core.Wish{Kind: core.Shutdown})
	}); err != nil {
		return "", err
	}
	err := a.until(ctx, func() (bool, error) {
		if a.uninitialized() && a.o.Now() > began+initPatience {
			a.step(undo)
			return true, errors.New("the resource is not initialized, and the agent leaves the server alone: stop it as you always did")
		}
		return a.looked && !a.server.Running && !a.server.Archives, nil
	})
	switch {
	case err != nil && ctx.Err() != nil:
		return "", fmt.Errorf("stop PostgreSQL: %w; pgnotify explain says what the agent waits for", err)
	case err != nil:
		return "", fmt.Errorf("stop PostgreSQL: %w", err)
	}
	return "PostgreSQL is stopped; pgnotify start has the agent start it again", nil
}

// initPatience is how long a vrrpd that has just started may take to know of the log what others know.
const initPatience = 5 * time.Second

// uninitialized reports whether vrrpd says so; before its first word nothing is known.
func (a *Agent) uninitialized() bool { return a.resource.Name != "" && a.resource.Epoch == 0 }

// Start ends Stop and maintenance, and waits until the server answers.
func (a *Agent) Start(ctx context.Context) (string, error) {
	if err := a.endMaintenance(ctx); err != nil {
		return "", err
	}
	err := a.until(ctx, func() (bool, error) {
		if a.resource.Epoch == 0 {
			return true, errors.New("start PostgreSQL: the resource is not initialized, and the agent leaves the server alone: pgnotify init on the node whose data is the truth, or start it as you always did")
		}
		return a.looked && a.server.Answering, nil
	})
	if err != nil {
		return "", err
	}
	return "PostgreSQL runs", nil
}

// Await waits until this node's server is where it belongs: the active holder's primary, or a standby that streams from it.
func (a *Agent) Await(ctx context.Context, say func(string)) (string, error) {
	last, text := "", ""
	err := a.until(ctx, func() (bool, error) {
		r, s := a.present(), &a.server
		switch {
		case !a.looked:
			return false, nil
		case r.Mine && r.Live && a.opened == r.Epoch:
			text = "this node is the active holder"
			return true, nil
		case s.Answering && s.InRecovery && s.Upstream != "" && s.Upstream == r.Holder && a.marks.get().Marker == core.NoMarker:
			text = "streams from " + r.Holder
			return true, nil
		}
		now := strings.Join(a.core.Explain(), "; ")
		if w := a.o.Database.Work(); w != "" {
			now = w
		}
		if now != last && say != nil {
			say(now)
			last = now
		}
		return false, nil
	})
	return text, err
}

// InitRequest makes the resource from this node's data.
type InitRequest struct {
	SyncNum   int  `json:"sync_num"`
	MinCopies int  `json:"min_copies"`
	Restart   bool `json:"restart"` // the server may be restarted for settings that wait for it
}

// restarter starts a primary anew for settings that wait for that.
type restarter interface {
	Restart(ctx context.Context) error
}

// Init makes the resource: this node's data is the truth. Everything that would keep the promise from being kept is refused first.
func (a *Agent) Init(ctx context.Context, q InitRequest) (string, error) {
	var r control.Resource
	var s core.Server
	refused := ""
	cctx, cancel := context.WithTimeout(ctx, initTime)
	defer cancel()
	err := a.until(cctx, func() (bool, error) {
		r, s, refused = a.resource, a.server, a.refused
		return a.connected && r.Name != "" && a.looked, nil
	})
	if err != nil {
		return "", fmt.Errorf("init: vrrpd is not connected: %s", refused)
	}
	switch {
	case r.Epoch != 0:
		return "", fmt.Errorf("init: resource %s is initialized already: epoch %d, the rule's holder is %s; other nodes join by themselves", r.Name, r.Epoch, r.Rule.Holder)
	case s.NoData:
		return "", errors.New("init: there is no data here: run it on the node whose data is the truth")
	case !s.Answering:
		return "", errors.New("init: PostgreSQL does not answer: start it first")
	case s.InRecovery:
		return "", errors.New("init: PostgreSQL is a standby here: run it on the primary, or promote this one first if it shall be the truth (pg_ctl promote)")
	}
	bad, restart := a.unready(ctx)
	if len(restart) > 0 && len(bad) == 0 && q.Restart {
		rs, ok := a.o.Database.(restarter)
		if !ok {
			return "", errors.New("init: the server can't be restarted from here")
		}
		a.o.Log.Warn("restarting PostgreSQL for settings that wait for it", "settings", restart)
		if err := rs.Restart(ctx); err != nil {
			return "", fmt.Errorf("init: restart PostgreSQL: %w", err)
		}
		if bad, restart = a.unready(ctx); len(restart) > 0 {
			bad = append(bad, restart...)
			restart = nil
		}
	}
	if len(bad) > 0 {
		return "", fmt.Errorf("init: what must be put right first:\n%s", strings.Join(bad, "\n"))
	}
	if len(restart) > 0 {
		return "", fmt.Errorf("init: settings wait for a restart, which ends every session; pgnotify init --restart does it now:\n%s", strings.Join(restart, "\n"))
	}
	if err := a.initialize(ctx, s.SystemID, q); err != nil {
		return "", err
	}
	return a.Await(ctx, nil)
}

// initTime is how long init waits for vrrpd, and for the quorum to form.
const initTime = 10 * time.Second

// initialize writes the resource into the log. A quorum that is only forming has no leader yet: it is asked again.
func (a *Agent) initialize(ctx context.Context, systemID uint64, q InitRequest) error {
	ictx, cancel := context.WithTimeout(ctx, initTime)
	defer cancel()
	for {
		err := a.o.Vrrpd.Init(ictx, control.InitRequest{Resource: a.o.Settings.Resource, SystemID: systemID, SyncNum: q.SyncNum, MinCopies: q.MinCopies})
		if err == nil {
			return nil
		}
		there := false
		if aerr := a.ask(ctx, func() { there = a.resource.Epoch != 0 }); aerr != nil || there {
			return fmt.Errorf("init: %w", err)
		}
		t := time.NewTimer(200 * time.Millisecond)
		select {
		case <-ictx.Done():
			t.Stop()
			return fmt.Errorf("init: %w", err)
		case <-t.C:
		}
	}
}

// unready is what keeps a server from being a member, and what only waits for a restart.
func (a *Agent) unready(ctx context.Context) (bad, restart []string) {
	for _, f := range a.findings(ctx) {
		switch {
		case f.Severity != postgres.Fault:
		case f.Waits:
			restart = append(restart, f.String())
		default:
			bad = append(bad, f.String())
		}
	}
	return bad, restart
}

// Pause stops elections, or lets them go on.
func (a *Agent) Pause(ctx context.Context, on bool, why string) (string, error) {
	err := insist(ctx, func() error {
		return a.o.Vrrpd.Pause(ctx, control.PauseRequest{Resource: a.o.Settings.Resource, On: on, Reason: why})
	})
	if err != nil {
		return "", err
	}
	if on {
		return "paused: nobody is elected, and the rule only shrinks, until pgnotify resume", nil
	}
	return "resumed", nil
}

// insist does again what may be done twice: the log's leader may be changing at this moment.
func insist(ctx context.Context, f func() error) error {
	ctx, cancel := context.WithTimeout(ctx, orderTime)
	defer cancel()
	for {
		err := f()
		if err == nil {
			return nil
		}
		t := time.NewTimer(100 * time.Millisecond)
		select {
		case <-ctx.Done():
			t.Stop()
			return err
		case <-t.C:
		}
	}
}

// Set changes sync_num or min_copies.
func (a *Agent) Set(ctx context.Context, key string, value int) (string, error) {
	q := control.SetRequest{Resource: a.o.Settings.Resource}
	switch key {
	case "sync_num":
		q.SyncNum = &value
	case "min_copies":
		q.MinCopies = &value
	default:
		return "", fmt.Errorf("set %s: no such key, want sync_num or min_copies", key)
	}
	if err := insist(ctx, func() error { return a.o.Vrrpd.Set(ctx, q) }); err != nil {
		return "", err
	}
	return fmt.Sprintf("%s is %d", key, value), nil
}

// Hook waits for what a change of state means for the server: MASTER until the rule is in force. vrrpd tells its instance of a grant
// only when the epoch is active, so that it is not long.
func (a *Agent) Hook(ctx context.Context, state string) (string, error) {
	if state != "MASTER" {
		return "the agent acts by the quorum's log", nil
	}
	epoch := uint64(0)
	err := a.until(ctx, func() (bool, error) {
		r := a.present()
		if epoch == 0 {
			if !r.Mine || !r.Live {
				return false, nil
			}
			epoch = r.Epoch
		}
		switch {
		case r.Epoch != epoch || !r.Mine:
			return true, fmt.Errorf("epoch %d is over", epoch)
		case !r.Live:
			return true, fmt.Errorf("the lease of epoch %d does not run", epoch)
		}
		return a.opened == epoch, nil
	})
	if err != nil {
		return "", fmt.Errorf("open epoch %d: %w", epoch, err)
	}
	return fmt.Sprintf("epoch %d is open", epoch), nil
}

// Doctor is what is not as it should be: of the server, and of what the agent sees of the others.
func (a *Agent) Doctor(ctx context.Context) ([]postgres.Finding, error) {
	all := a.findings(ctx)
	var peers []string
	add := func(s postgres.Severity, subject, problem, fix string) {
		all = append(all, postgres.Finding{Severity: s, Subject: subject, Problem: problem, Fix: fix})
	}
	q, qerr := a.o.Vrrpd.Status(ctx)
	err := a.ask(ctx, func() {
		if !a.connected {
			add(postgres.Fault, "vrrpd", "no connection: "+a.refused, "See systemctl status vrrpd, and agent_user in vrrpd.conf.")
		}
		own, now := a.o.Database.Version(), a.o.Now()
		peers = a.known.peers()
		for _, p := range peers {
			s, there := a.last[p]
			switch {
			case !there || !s.heard(now):
				add(postgres.Warning, p, fmt.Sprintf("its agent was not heard for %v", core.HeardFor), "See systemctl status pgnotify there.")
				continue
			case s.Version != "" && own != "" && s.Version != own:
				add(postgres.Fault, p, fmt.Sprintf("it has PostgreSQL %s, this node %s", s.Version, own), "One cluster has one major version.")
			case a.resource.SystemID != 0 && s.SystemID != 0 && s.SystemID != a.resource.SystemID:
				add(postgres.Fault, p, fmt.Sprintf("its data has system identifier %d, the cluster's is %d", s.SystemID, a.resource.SystemID), "Empty its data directory; the agent copies the holder's.")
			}
		}
		if r := a.resource; r.Phase == core.Active.String() && len(r.Rule.S) == 0 && len(peers) > 0 {
			add(postgres.Warning, "rule", "no standby is synchronous: the holder has the only copy of what is committed now", "pgnotify explain on the holder says why.")
		}
	})
	switch {
	case qerr != nil:
		add(postgres.Fault, "vrrpd", qerr.Error(), "See systemctl status vrrpd.")
	case q.Quorum != nil:
		for _, t := range q.Quorum.Trouble {
			add(postgres.Warning, "quorum", t, "vrrpd status and vrrpd quorum status tell more.")
		}
	}
	for _, p := range peers {
		lctx, cancel := context.WithTimeout(ctx, orderTime)
		_, lerr := a.o.Database.Call(lctx, core.Action{Kind: core.Look, Node: p})
		cancel()
		if lerr != nil {
			add(postgres.Warning, p, "its server can't be asked from here: "+lerr.Error(), "It may be down; else pg_hba.conf there, and the password here.")
		}
	}
	rank := []postgres.Severity{postgres.Fault, postgres.Warning, postgres.Note}
	slices.SortStableFunc(all, func(x, y postgres.Finding) int {
		return slices.Index(rank, x.Severity) - slices.Index(rank, y.Severity)
	})
	return all, err
}
