package promote

import (
	"net/netip"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"pgvrrp/internal/postgres"
)

var (
	vipAddr = netip.MustParseAddr("10.0.0.100")
	n2Addr  = netip.MustParseAddr("10.0.0.2")
	n3Addr  = netip.MustParseAddr("10.0.0.3")
)

const cluster = 7301

func at(tli postgres.Timeline, lsn postgres.LSN) postgres.Position {
	return postgres.Position{Timeline: tli, LSN: lsn}
}

func unreachable(name string, addr netip.Addr) Answer {
	return Answer{Name: name, Addr: addr, Reach: Unreachable, Reason: "connection refused"}
}

func answers(name string, addr netip.Addr, r Reach, p postgres.Position) Answer {
	return Answer{Name: name, Addr: addr, Reach: r, SystemID: cluster, Position: p}
}

// alone is n1, a standby that may be promoted, with nobody else there.
func alone() Facts {
	return Facts{
		Node: "n1", VIPAddr: vipAddr, Settled: true,
		Local: Local{Role: RoleStandby, SystemID: cluster, Position: at(1, 100), Upstream: vipAddr.String(), Streaming: true},
		VIP:   unreachable("VIP", vipAddr),
		Peers: []Answer{unreachable("n2", n2Addr), unreachable("n3", n3Addr)},
	}
}

// with changes a copy of alone.
func with(changes ...func(*Facts)) Facts {
	f := alone()
	for _, c := range changes {
		c(&f)
	}
	return f
}

func role(r Role) func(*Facts) {
	return func(f *Facts) {
		f.Local.Role = r
		if r != RolePrimary && r != RoleStandby {
			f.Local.Streaming = false
			f.Local.Problem, f.Local.NotReady = "the server says so", r != RoleUnknown
		}
	}
}

func peer(a Answer) func(*Facts) {
	return func(f *Facts) {
		if a.Name == vipName {
			f.VIP = a
			return
		}
		for i := range f.Peers {
			if f.Peers[i].Name == a.Name {
				f.Peers[i] = a
			}
		}
	}
}

func local(change func(*Local)) func(*Facts) { return func(f *Facts) { change(&f.Local) } }

// short prints a plan as one line: its acts, or why it refuses.
func short(p Plan) string {
	if p.Refusal != "" {
		return "refused" + [...]string{"", " (handover)", " (start)", " (catch up)"}[p.Wait] + ": " + p.Refusal
	}
	if len(p.Steps) == 0 {
		return "nothing"
	}
	var acts []string
	for _, s := range p.Steps {
		acts = append(acts, string(s.Act))
	}
	if p.Again {
		acts = append(acts, "again")
	}
	return strings.Join(acts, ", ")
}

func TestDecide(t *testing.T) {
	primary2 := answers("n2", n2Addr, Primary, at(2, 300))
	vipPrimary := answers(vipName, vipAddr, Primary, at(2, 300))
	diverged := local(func(l *Local) { l.Diverged = true })
	agrees := local(func(l *Local) { l.Agrees = true })
	phase := func(p Phase) func(*Facts) {
		return local(func(l *Local) { l.Phase, l.PhaseWhy = p, "as the test wants" })
	}
	promoting := local(func(l *Local) { l.Promoting = true })
	elsewhere := local(func(l *Local) { l.Upstream, l.Streaming = "10.0.0.9", false })
	broken := local(func(l *Local) { l.Streaming = false })
	tests := []struct {
		name  string
		facts Facts
		state string
		want  string // prefix
	}{
		// The rows of hook mode's table.
		{"MASTER, primary", with(role(RolePrimary)), Master, "nothing"},
		{"MASTER, standby", with(), Master, "promote, after-promote"},
		{"MASTER, down", with(role(RoleDown)), Master, "start-standby, again"},
		{"BACKUP, primary", with(role(RolePrimary)), Backup, "stop, again"},
		{"BACKUP, standby of the VIP", with(agrees), Backup, "nothing"},
		{"BACKUP, standby of a VIP that may yet be promoted behind our end", with(), Backup, "follow"},
		{"BACKUP, standby of another", with(elsewhere), Backup, "set-upstream, follow"},
		{"BACKUP, down", with(role(RoleDown)), Backup, "set-upstream, start-standby, follow"},
		{"FAULT, primary", with(role(RolePrimary)), Fault, "stop, clear-upstream, start-standby"},
		{"FAULT, standby", with(), Fault, "nothing"},
		{"FAULT, down", with(role(RoleDown)), Fault, "nothing"},
		{"STOP, primary", with(role(RolePrimary)), Stop, "stop, clear-upstream, start-standby"},
		{"STOP, standby", with(), Stop, "nothing"},
		{"STOP, down", with(role(RoleDown)), Stop, "nothing"},
		{"DELETED, primary", with(role(RolePrimary)), Deleted, "nothing"},
		{"DELETED, standby", with(), Deleted, "nothing"},
		{"DELETED, down", with(role(RoleDown)), Deleted, "nothing"},
		// What lies between the table's columns.
		{"MASTER, standby that starts", with(role(RoleStarting)), Master, "refused (start): the server on n1 does not answer yet"},
		{"MASTER, primary that starts", with(role(RoleRecovering)), Master, "refused (start): the server on n1 does not answer yet"},
		{"MASTER, does not let us in", with(role(RoleStarting), local(func(l *Local) { l.NotReady = false })), Master, "refused: the server on n1 runs but can't be asked"},
		{"MASTER, unknown", with(role(RoleUnknown)), Master, "refused: the server on n1 can't be observed"},
		{"BACKUP, standby that starts", with(role(RoleStarting)), Backup, "set-upstream, follow"},
		{"BACKUP, primary that starts", with(role(RoleRecovering)), Backup, "stop, again"},
		{"BACKUP, unknown", with(role(RoleUnknown)), Backup, "refused: the server on n1 can't be observed"},
		{"FAULT, standby that starts", with(role(RoleStarting)), Fault, "nothing"},
		{"FAULT, primary that starts", with(role(RoleRecovering)), Fault, "stop, clear-upstream, start-standby"},
		{"FAULT, unknown", with(role(RoleUnknown)), Fault, "refused: the server on n1 can't be observed"},
		{"BACKUP, standby that does not stream", with(broken), Backup, "follow"},
		{"unknown state", with(), "LUNCH", "refused: unknown state"},
		// A promotion whose end nobody saw.
		{"BACKUP, promotion under way", with(promoting), Backup, "stop, again"},
		{"FAULT, promotion under way", with(promoting), Fault, "stop, clear-upstream, start-standby"},
		{"MASTER, promotion under way", with(promoting), Master, "promote, after-promote"},
		// Diverged and rebuilt data.
		{"BACKUP, diverged standby", with(peer(vipPrimary), diverged), Backup, "follow"},
		{"BACKUP, diverged, down", with(peer(vipPrimary), diverged, role(RoleDown)), Backup, "follow"},
		{"BACKUP, known to have diverged, down", with(role(RoleDown), phase(PhaseDiverged)), Backup, "follow"},
		{"BACKUP, half rewound", with(role(RoleDown), phase(PhaseRewinding)), Backup, "follow"},
		{"BACKUP, rewound, down", with(role(RoleDown), phase(PhaseRewound)), Backup, "set-upstream, start-standby, follow"},
		{"BACKUP, rewound, streams", with(phase(PhaseRewound)), Backup, "follow"},
		{"BACKUP, the VIP is another cluster's", with(peer(vipPrimary), local(func(l *Local) { l.SystemID = 1 })), Backup, "refused: VIP at 10.0.0.100 belongs to another cluster"},
		{"MASTER, half rewound, down", with(role(RoleDown), phase(PhaseRewinding)), Master, "refused: the data directory of n1 is being rewound"},
		{"MASTER, half rewound", with(phase(PhaseRewinding)), Master, "refused: the data directory of n1 is being rewound"},
		{"MASTER, rewound, has not streamed", with(broken, phase(PhaseRewound)), Master, "promote, after-promote"},
		{"MASTER, rewound, down", with(role(RoleDown), phase(PhaseRewound)), Master, "start-standby, again"},
		{"MASTER, rewound, takes no sessions", with(role(RoleStarting), phase(PhaseRewound)), Master, "refused (start): the server on n1 does not answer yet"},
		{"MASTER, rewound, streams", with(phase(PhaseRewound)), Master, "promote, after-promote"},
		{"MASTER, diverged", with(phase(PhaseDiverged)), Master, "refused: the data of n1 has diverged"},
		{"FAULT, half rewound", with(role(RoleDown), phase(PhaseRewinding)), Fault, "nothing"},
		// Condition 1.
		{"MASTER, overtaken", with(func(f *Facts) { f.Overtaken = "BACKUP came" }), Master, "refused: MASTER was overtaken: BACKUP came"},
		{"BACKUP, overtaken", with(role(RolePrimary), func(f *Facts) { f.Overtaken = "MASTER came" }), Backup, "refused: BACKUP was overtaken"},
		// Condition 2.
		{"MASTER, not settled", with(func(f *Facts) { f.Settled = false }), Master, "refused (handover): the settle time"},
		// Condition 3.
		{"MASTER, a peer is primary", with(peer(primary2)), Master, "refused (handover): n2 at 10.0.0.2 answers as a primary, timeline 2 at 0/12C"},
		{"MASTER, a primary with less WAL", with(peer(answers("n2", n2Addr, Primary, at(1, 1)))), Master, "refused (handover): n2 at 10.0.0.2 answers as a primary"},
		{"MASTER, the VIP is primary", with(peer(vipPrimary)), Master, "refused (handover): VIP at 10.0.0.100 answers as a primary"},
		{"MASTER, a peer can't be asked", with(peer(Answer{Name: "n2", Addr: n2Addr, Reach: CantTell, Reason: "password"})), Master, "refused: can't tell whether n2 at 10.0.0.2 is a primary: password"},
		{"MASTER, a peer was not asked", with(peer(Answer{Name: "n2", Addr: n2Addr})), Master, "refused: n2 at 10.0.0.2 was not asked"},
		{"MASTER, the VIP was not asked", with(func(f *Facts) { f.VIP = Answer{Name: vipName, Addr: vipAddr} }), Master, "refused: VIP at 10.0.0.100 was not asked"},
		{"MASTER, a peer starts", with(peer(Answer{Name: "n2", Addr: n2Addr, Reach: Undecided, Reason: "starting"})), Master, "refused (handover): can't tell yet whether n2 at 10.0.0.2 is a primary"},
		{"MASTER, a peer of another cluster", with(peer(Answer{Name: "n2", Addr: n2Addr, Reach: Standby, SystemID: 9, Position: at(1, 1)})), Master, "refused: n2 at 10.0.0.2 belongs to another cluster"},
		{"MASTER, what can't be known counts before what may pass", with(peer(primary2), peer(Answer{Name: "n3", Addr: n3Addr, Reach: CantTell, Reason: "x"})), Master, "refused: can't tell whether n3"},
		// Condition 4.
		{"MASTER, a standby with as much", with(peer(answers("n2", n2Addr, Standby, at(1, 100)))), Master, "promote"},
		{"MASTER, a standby with less", with(peer(answers("n2", n2Addr, Standby, at(1, 99)))), Master, "promote"},
		{"MASTER, a standby with more", with(peer(answers("n2", n2Addr, Standby, at(1, 101)))), Master, "catch-up, again"},
		{"MASTER, a standby on a later timeline", with(peer(answers("n2", n2Addr, Standby, at(2, 1)))), Master, "catch-up, again"},
		{"MASTER, a standby on an earlier timeline", with(local(func(l *Local) { l.Position = at(2, 1) }), peer(answers("n2", n2Addr, Standby, at(1, 999)))), Master, "promote"},
		{"MASTER, catching up", with(peer(answers("n2", n2Addr, Standby, at(1, 101))), local(func(l *Local) { l.Upstream, l.Advancing = n2Addr.String(), true })), Master, "refused (catch up): n2 at 10.0.0.2 holds more WAL"},
		{"MASTER, can't catch up", with(peer(answers("n2", n2Addr, Standby, at(1, 101))), local(func(l *Local) { l.Upstream = n2Addr.String() })), Master, "refused: n2 at 10.0.0.2 holds more WAL than n1, which can't get it"},
		{"MASTER, catches up from who has most", with(peer(answers("n2", n2Addr, Standby, at(1, 101))), peer(answers("n3", n3Addr, Standby, at(1, 102))), local(func(l *Local) { l.Upstream = n2Addr.String() })), Master, "catch-up, again"},
		{"MASTER, own position unknown", with(local(func(l *Local) { l.Position.LSN = 0 })), Master, "refused: the WAL position of n1 is not known"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := short(Decide(tt.facts, Event{State: tt.state})); !strings.HasPrefix(got, tt.want) {
				t.Errorf("got  %s\nwant %s", got, tt.want)
			}
		})
	}
}

func TestDecideByHand(t *testing.T) {
	f := with(local(func(l *Local) { l.Phase = PhaseDiverged }), func(f *Facts) { f.Settled = false })
	if got := short(Decide(f, Event{State: Master, ByHand: true})); got != "promote, after-promote" {
		t.Errorf("an operator may promote diverged data: got %s", got)
	}
	f = with(local(func(l *Local) { l.Phase = PhaseRewinding }))
	if got := short(Decide(f, Event{State: Master, ByHand: true})); !strings.HasPrefix(got, "refused: the data directory of n1 is being rewound") {
		t.Errorf("nobody may promote half rewound data: got %s", got)
	}
}

func TestPlanString(t *testing.T) {
	got := Decide(with(role(RoleDown)), Event{State: Master}).String()
	want := "1. write standby.signal and start the server as a standby, to be promoted if the conditions hold\n2. look again and decide anew\n"
	if got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got, want := Decide(with(role(RolePrimary)), Event{State: Master}).String(), "nothing to do: n1 is primary already, on timeline 1 at 0/64\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func drawFacts(t *rapid.T) Facts {
	position := func(name string) postgres.Position {
		return at(postgres.Timeline(rapid.IntRange(0, 3).Draw(t, name+" tli")), postgres.LSN(rapid.IntRange(0, 4).Draw(t, name+" lsn")))
	}
	answer := func(name string, addr netip.Addr) Answer {
		return Answer{
			Name: name, Addr: addr,
			Reach:    rapid.SampledFrom([]Reach{NotProbed, Unreachable, Primary, Standby, Undecided, CantTell}).Draw(t, name),
			SystemID: rapid.SampledFrom([]uint64{cluster, cluster, cluster, 9}).Draw(t, name+" id"),
			Position: position(name),
		}
	}
	return Facts{
		Node: "n1", VIPAddr: vipAddr,
		Overtaken: rapid.SampledFrom([]string{"", "", "", "BACKUP came"}).Draw(t, "overtaken"),
		Settled:   rapid.Bool().Draw(t, "settled"),
		Local: Local{
			Role:      rapid.SampledFrom([]Role{RoleUnknown, RoleDown, RolePrimary, RoleStandby, RoleStandby, RoleStarting, RoleRecovering}).Draw(t, "role"),
			NotReady:  rapid.Bool().Draw(t, "not ready"),
			SystemID:  cluster,
			Position:  position("own"),
			Upstream:  rapid.SampledFrom([]string{vipAddr.String(), n2Addr.String(), ""}).Draw(t, "upstream"),
			Streaming: rapid.Bool().Draw(t, "streaming"),
			Diverged:  rapid.Bool().Draw(t, "diverged"),
			Advancing: rapid.Bool().Draw(t, "advancing"),
			Phase:     rapid.SampledFrom([]Phase{PhaseNone, PhaseNone, PhaseDiverged, PhaseRewinding, PhaseRewound}).Draw(t, "phase"),
			Promoting: rapid.Bool().Draw(t, "promoting"),
		},
		VIP:   answer(vipName, vipAddr),
		Peers: []Answer{answer("n2", n2Addr), answer("n3", n3Addr)},
	}
}

// What must hold whatever the facts are.
func TestDecideProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f := drawFacts(t)
		ev := Event{State: rapid.SampledFrom([]string{Master, Backup, Fault, Stop, Deleted}).Draw(t, "state"), ByHand: rapid.Bool().Draw(t, "by hand")}
		p := Decide(f, ev)
		if p.Refusal != "" && len(p.Steps) > 0 {
			t.Fatalf("refuses and acts: %+v", p)
		}
		if p.Wait != WaitNone && p.Refusal == "" {
			t.Fatalf("waits without a refusal: %+v", p)
		}
		for i, s := range p.Steps {
			if f.Overtaken != "" {
				t.Fatalf("acts though overtaken: %s", short(p))
			}
			if s.Words == "" {
				t.Fatalf("a step without words: %s", short(p))
			}
			switch s.Act {
			case ActPromote:
				if ev.State != Master || f.Local.Role != RoleStandby || i != 0 {
					t.Fatalf("promotes %s on %s", f.Local.Role, ev.State)
				}
				if !ev.ByHand && !f.Settled {
					t.Fatal("promotes before it has settled")
				}
				if f.Local.Phase == PhaseRewinding {
					t.Fatalf("promotes %s data", f.Local.Phase)
				}
				for _, a := range append([]Answer{f.VIP}, f.Peers...) {
					if a.Reach != Unreachable && a.Reach != Standby {
						t.Fatalf("promotes while %s is %q", a.Name, a.Reach)
					}
					if a.Reach == Standby && (a.SystemID != cluster || a.Position.Compare(f.Local.Position) > 0) {
						t.Fatalf("promotes behind %s", a.Name)
					}
				}
			case ActStop:
				if ev.State == Master || ev.State == Deleted {
					t.Fatalf("stops on %s", ev.State)
				}
				if f.Local.Role == RoleStandby && !f.Local.Promoting {
					t.Fatal("stops a standby")
				}
			case ActStartStandby:
				if f.Local.Phase == PhaseRewinding && f.Local.Role == RoleDown {
					t.Fatal("starts half rewound data")
				}
			case ActStartAsIs:
				t.Fatal("a hook starts as is")
			case ActSetUpstream, ActFollow:
				if ev.State != Backup {
					t.Fatalf("follows on %s", ev.State)
				}
			case ActCatchUp, ActAfterPromote:
				if ev.State != Master {
					t.Fatalf("%s on %s", s.Act, ev.State)
				}
			case ActClearUpstream:
			}
		}
		if ev.State == Fault || ev.State == Stop {
			if primary := f.Local.Role == RolePrimary || f.Local.Role == RoleRecovering; primary && f.Overtaken == "" && (len(p.Steps) == 0 || p.Steps[0].Act != ActStop) {
				t.Fatalf("a primary stays on %s: %s", ev.State, short(p))
			}
		}
	})
}

func TestStartPlan(t *testing.T) {
	down := func(changes ...func(*Facts)) Facts { return with(append(changes, role(RoleDown))...) }
	tests := []struct {
		name         string
		facts        Facts
		asIs, signal bool
		want         string
	}{
		{"runs", with(), false, false, "nothing"},
		{"down", down(), false, false, "start-standby"},
		{"as is, standby", down(peer(answers("n2", n2Addr, Primary, at(1, 1)))), true, true, "start-as-is"},
		{"as is, primary, alone", down(), true, false, "start-as-is"},
		{"as is, primary, another answers", down(peer(answers("n2", n2Addr, Primary, at(1, 1)))), true, false, "refused: n2 at 10.0.0.2 answers as a primary"},
		{"as is, primary, can't tell", down(peer(Answer{Name: "n2", Addr: n2Addr, Reach: CantTell})), true, false, "refused: can't tell"},
		{"as is, primary, half rewound", down(local(func(l *Local) { l.Phase = PhaseRewinding })), true, false, "refused: the data directory of n1 was left half rewound"},
		{"as is, primary, rebuilt", down(local(func(l *Local) { l.Phase = PhaseRewound })), true, false, "refused: the data directory of n1 was rebuilt"},
		{"unknown", with(role(RoleUnknown)), false, false, "refused"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := short(StartPlan(tt.facts, tt.asIs, tt.signal)); !strings.HasPrefix(got, tt.want) {
				t.Errorf("got %s, want %s", got, tt.want)
			}
		})
	}
}

func TestRejoinPlan(t *testing.T) {
	vip := peer(answers(vipName, vipAddr, Primary, at(2, 300)))
	div := local(func(l *Local) { l.Diverged = true })
	both := Settings{Rewind: true, Reclone: true}
	tests := []struct {
		name  string
		facts Facts
		mode  RejoinMode
		s     Settings
		want  string // in the plan's text
	}{
		{"streams already", with(vip, local(func(l *Local) { l.Agrees = true })), RejoinAuto, both, "nothing to do: n1 is a standby and streams"},
		{"no primary", with(local(func(l *Local) { l.Streaming = false })), RejoinAuto, both, "refused: no primary answers at the VIP"},
		{"another cluster", with(vip, local(func(l *Local) { l.SystemID = 1; l.Streaming = false })), RejoinAuto, both, "refused: VIP at 10.0.0.100 belongs to another cluster"},
		{"we are it", with(vip, role(RolePrimary), local(func(l *Local) { l.Position = at(2, 300) })), RejoinAuto, both, "refused: n1 is the primary at the VIP itself"},
		{"we are it, and are written to meanwhile", with(vip, role(RolePrimary), func(f *Facts) { f.VIPHere = true }), RejoinAuto, both, "refused: n1 is the primary at the VIP itself"},
		{"we are it, reclone", with(vip, role(RolePrimary), func(f *Facts) { f.VIPHere = true }), RejoinReclone, both, "refused: n1 is the primary at the VIP itself"},
		{"old primary", with(vip, role(RolePrimary)), RejoinAuto, both, "1. stop n1 fast: it is a primary, timeline 1 at 0/64\n2. stream from the VIP 10.0.0.100, as a standby; if its WAL has diverged then, rewind n1 by pg_rewind"},
		{"old primary that wrote alone", with(vip, role(RolePrimary), div), RejoinAuto, both, "\n2. rewind n1 by pg_rewind once VIP at 10.0.0.100 has checkpointed, start it as a standby of the VIP; if that fails, clone it\n"},
		{"old primary that wrote alone, no rewind", with(vip, role(RolePrimary), div), RejoinAuto, Settings{Reclone: true}, "\n2. copy VIP"},
		{"old primary that wrote alone, neither", with(vip, role(RolePrimary), div), RejoinAuto, Settings{}, "refused: the WAL of n1 has diverged, and the settings allow neither"},
		{"old primary, neither", with(vip, role(RolePrimary)), RejoinAuto, Settings{}, "if its WAL has diverged then, leave it stopped: the WAL of n1 has diverged, and the settings allow neither"},
		{"down, not diverged", with(vip, role(RoleDown)), RejoinAuto, both, "1. stream from the VIP 10.0.0.100, as a standby"},
		{"down, diverged", with(vip, role(RoleDown), div), RejoinAuto, both, "pg_rewind once VIP at 10.0.0.100 has checkpointed, start it as a standby of the VIP; if that fails, clone it"},
		{"diverged, no rewind", with(vip, role(RoleDown), div), RejoinAuto, Settings{Reclone: true}, "1. copy VIP"},
		{"diverged, neither", with(vip, role(RoleDown), div), RejoinAuto, Settings{}, "refused: the WAL of n1 has diverged, and the settings allow neither"},
		{"half rewound", with(vip, role(RoleDown), local(func(l *Local) { l.Phase = PhaseRewinding })), RejoinAuto, both, "1. copy VIP"},
		{"half rewound, rewind asked for", with(vip, role(RoleDown), local(func(l *Local) { l.Phase = PhaseRewinding })), RejoinRewind, both, "refused: an earlier rewind was broken off"},
		{"reclone", with(vip), RejoinReclone, Settings{}, "1. copy VIP"},
		{"rewind", with(vip), RejoinRewind, Settings{}, "1. stop n1, rewind it"},
		{"unknown", with(vip, role(RoleUnknown)), RejoinAuto, both, "refused"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := RejoinPlan(tt.facts, tt.mode, tt.s).String(); !strings.Contains(got, tt.want) {
				t.Errorf("got %s, want %s", got, tt.want)
			}
		})
	}
}

func TestClusterView(t *testing.T) {
	f := with(peer(answers("n2", n2Addr, Primary, at(1, 164))), peer(answers(vipName, vipAddr, Primary, at(1, 164))), peer(Answer{Name: "n3", Addr: n3Addr, Reach: CantTell, Reason: "password"}))
	v := ClusterView(f)
	if v.AtVIP != "primary, probably n2" {
		t.Errorf("at the VIP: %q", v.AtVIP)
	}
	want := []string{"can't tell whether n3", "is a primary already", "password"}
	for i, n := range v.Nodes {
		if !strings.HasPrefix(n.WhyNot, want[i]) {
			t.Errorf("%s: got %q, want %q", n.Node, n.WhyNot, want[i])
		}
	}
	if lag := v.Nodes[0].Lag; lag == nil || *lag != 64 {
		t.Errorf("lag: got %v, want 64", lag)
	}
	// n2 has more than n1, and n1 more than n3.
	v = ClusterView(with(peer(answers("n2", n2Addr, Standby, at(1, 164))), peer(answers("n3", n3Addr, Standby, at(1, 36)))))
	want = []string{"must first receive from n2 at 10.0.0.2 what it has more: timeline 1 at 0/A4, ours timeline 1 at 0/64", "", "must first receive from n2 at 10.0.0.2"}
	for i, n := range v.Nodes {
		if !strings.HasPrefix(n.WhyNot, want[i]) || want[i] == "" && n.WhyNot != "" {
			t.Errorf("%s: got %q, want %q", n.Node, n.WhyNot, want[i])
		}
	}
	v = ClusterView(with(role(RolePrimary), peer(answers("n2", n2Addr, Standby, at(1, 100)))))
	if got, want := v.Nodes[1].WhyNot, "n1 answers as a primary, timeline 1 at 0/64"; got != want {
		t.Errorf("beside our own primary: got %q, want %q", got, want)
	}
	if got := ClusterView(alone()).Nodes[0].WhyNot; got != "" {
		t.Errorf("alone: got %q, want promotable", got)
	}
}
