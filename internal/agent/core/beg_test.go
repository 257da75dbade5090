package core

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"
)

// A standby without data, whose agent was restarted, asks the holder for a newer rule instead of waiting for one, and once only.
func TestCopyAsksForANewerRule(t *testing.T) {
	r := newRig(t, Marks{Promise: 5})
	r.srv = Server{NoData: true}
	r.view = View{Epoch: 5, Phase: Active, Holder: "n2", Timeline: 3, Rule: Rule{Holder: "n2", S: []string{"n3"}, Version: 9}, SyncNum: 2, MinCopies: 1}
	r.look()
	r.show()
	if x := r.want(Leave); x.On {
		t.Fatalf("got %v, want that it is back", x)
	}
	r.end(Leave, Result{}, nil)
	source := &Source{Node: "n2", SystemID: 7, TLI: 3, RewindReady: true}
	r.end(Look, Result{Source: source}, nil)
	ask := func() {
		for range 5 {
			r.pass(r.a.t.Ask)
			if r.under(Look) != nil {
				r.end(Look, Result{Source: source}, nil)
			}
		}
	}
	view := r.view
	view.SystemID = 7
	r.end(ReadLog, Result{View: &view}, nil)
	ask()
	if x := r.want(Leave); x.Node != "n2" || x.Text == "" {
		t.Errorf("got %v, want the holder to be told why", x)
	}
	if got := r.a.Explain(); !slices.ContainsFunc(got, func(s string) bool { return strings.Contains(s, "waiting for a rule after version 9") }) {
		t.Errorf("got %q", got)
	}
	r.end(Leave, Result{}, nil)
	ask()
	r.wantNot(Leave)
	r.wantNot(PersistMarker)
	r.view.Rule.Version = 10
	r.show()
	ask()
	if x := r.want(PersistMarker); x.Marker != Cloning {
		t.Errorf("got %v", x)
	}
}

// A holder that can't be used for a rewind, for another reason than a checkpoint to come, is asked less often, and the reason is told.
func TestUnreadyHolderIsNamed(t *testing.T) {
	r := newRig(t, Marks{Promise: 5, Mark: Position{3, 300}})
	r.srv = Server{SystemID: 7, Running: true, Answering: true, InRecovery: true, Postmaster: 1, SSN: SSN{Hold: true}.String(), Pos: Position{3, 300}, History: []Fork{{1, 50}, {2, 150}}}
	r.view = View{Epoch: 5, Phase: Active, Holder: "n2", Timeline: 4, Rule: Rule{Holder: "n2", S: []string{"n3"}, Version: 9}, SyncNum: 2, MinCopies: 1}
	r.look()
	r.show()
	source := &Source{Node: "n2", SystemID: 7, TLI: 4, LSN: 400, History: []Fork{{1, 50}, {2, 150}, {3, 250}}, Unready: "remaining connection slots are reserved"}
	looks := 0
	step := func(d time.Duration) {
		for end := r.now + d; r.now < end; {
			r.pass(10 * time.Millisecond)
			if r.under(Look) != nil {
				looks++
				r.end(Look, Result{Source: source}, nil)
			}
			if r.under(Leave) != nil {
				r.end(Leave, Result{}, nil)
			}
			if r.under(ReadLog) != nil {
				view := r.view
				view.SystemID = 7
				r.end(ReadLog, Result{View: &view}, nil)
				r.view.Rule.Version++ // the holder's next one, without this node
				r.show()
			}
			for _, k := range []Kind{Fence, PersistMark} {
				if r.under(k) != nil {
					r.end(k, Result{SystemID: 7, Pos: r.srv.Pos}, nil)
				}
			}
		}
	}
	step(2 * time.Second)
	if got := strings.Join(r.a.Explain(), "; "); !strings.Contains(got, "n2's server can't be used for a rewind: remaining connection slots are reserved") {
		t.Errorf("got %q", got)
	}
	looks = 0
	step(5 * time.Second)
	if looks == 0 || looks > 6 {
		t.Errorf("asked %d times in 5 s, want about once a second", looks)
	}
	r.wantNot(PersistMarker)
	source.Unready, source.RewindReady = "", true
	step(2 * time.Second)
	if x := r.want(PersistMarker); x.Marker != Rewinding {
		t.Errorf("got %v, want that it is rewound", x)
	}
}

// A holder writes its rule again at once for a node that asks, and for no other reason before its time.
func TestHolderRenewsWhenAsked(t *testing.T) {
	r := holder(t, "n2")
	r.pass(r.a.t.Renew / 2)
	r.end(PersistMark, Result{}, nil)
	r.wantNot(SetRule)
	r.give(Leaving{Node: "n3", On: true, Why: "there is no data directory"})
	if x := r.want(SetRule); !slices.Equal(x.Names, []string{"n2"}) || x.Ver != 10 {
		t.Errorf("got %v, want the same rule on version 10", x)
	}
	r.end(SetRule, Result{}, nil)
	r.view.Rule.Version = 11
	r.show()
	r.pass(r.a.t.Renew / 2)
	r.wantNot(SetRule)
}

func TestExplainHolderThatCannotBeAsked(t *testing.T) {
	r := newRig(t, Marks{Promise: 5})
	r.srv = Server{NoData: true}
	r.view = View{Epoch: 5, Phase: Active, Holder: "n2", Timeline: 3, Rule: Rule{Holder: "n2", Version: 9}}
	r.look()
	r.show()
	r.end(Look, Result{}, errors.New("password authentication failed"))
	if got := r.a.Explain(); !slices.Contains(got, "n2's server can't be asked: password authentication failed") {
		t.Errorf("got %q", got)
	}
}

// Data that come later than the agent, by a late mount, are not replaced by a copy that was decided on before.
func TestLateDataEndAFreshCopy(t *testing.T) {
	for _, tt := range []struct {
		name   string
		during Kind // what is under way when they come
		clones bool
	}{{"before the copy", PersistMarker, false}, {"while it is made", Clone, true}} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t, Marks{Promise: 5})
			r.srv = Server{NoData: true}
			r.view = View{Epoch: 5, Phase: Active, Holder: "n2", Timeline: 3, Rule: Rule{Holder: "n2", S: []string{"n3"}, Version: 9}, SyncNum: 2, MinCopies: 1}
			r.look()
			r.show()
			src := &Source{Node: "n2", SystemID: 7, TLI: 3, LSN: 500, History: []Fork{{1, 50}, {2, 150}}, RewindReady: true}
			for range 200 {
				if x := r.under(tt.during); x != nil && (x.Kind == Clone || x.Marker == Cloning) {
					break
				}
				r.pass(20 * time.Millisecond)
				r.routine(src)
				if r.under(PersistMarker) != nil && tt.clones {
					r.end(PersistMarker, Result{}, nil)
				}
				if r.view.Rule.Version == 9 && r.a.read.done {
					r.view.Rule.Version = 10
					r.show()
				}
			}
			r.want(tt.during)
			r.srv = Server{SystemID: 7, Clean: true, Pos: Position{3, 300}, History: []Fork{{1, 50}, {2, 150}}}
			if tt.clones {
				if x := r.want(Clone); !x.Fresh {
					t.Errorf("got %+v, want a copy that replaces nothing", x)
				}
				r.end(Clone, Result{Whole: true}, errors.New("/data has data by now"))
			} else {
				r.end(PersistMarker, Result{}, nil)
			}
			if x := r.want(PersistMarker); x.Marker != NoMarker {
				t.Fatalf("got %v, want that the data count as they are", x)
			}
			r.end(PersistMarker, Result{}, nil)
			r.pass(time.Second)
			r.wantNot(Clone)
			r.want(StartStandby)
		})
	}
}

// What a rebuild that was not begun leaves is the marker from before it: none where nothing was changed, and that of garbage where there is some.
func TestMarkerOfARebuildThatWasNotBegun(t *testing.T) {
	for _, tt := range []struct {
		name  string
		srv   Server
		was   Marker
		fails bool // to write the marker of the copy
		want  Marker
	}{
		{"half rewound, and the disk is full", Server{SystemID: 7, Pos: Position{1, 100}}, Rewinding, true, Rewinding},
		{"no data", Server{NoData: true}, NoMarker, false, NoMarker},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t, Marks{Promise: 5, Marker: tt.was})
			r.srv = tt.srv
			r.view = View{Epoch: 5, Phase: Active, Holder: "n2", Timeline: 3, Rule: Rule{Holder: "n2", S: []string{"n3"}, Version: 9}, SyncNum: 2, MinCopies: 1}
			r.look()
			r.show()
			src := &Source{Node: "n2", SystemID: 7, TLI: 3, LSN: 500, History: []Fork{{1, 50}, {2, 150}}, RewindReady: true}
			for range 200 {
				if r.under(PersistMarker) != nil {
					break
				}
				r.pass(20 * time.Millisecond)
				r.routine(src)
				if r.view.Rule.Version == 9 && r.a.read.done {
					r.view.Rule.Version = 10
					r.show()
				}
			}
			if x := r.want(PersistMarker); x.Marker != Cloning {
				t.Fatalf("got %v", x)
			}
			r.view.Epoch, r.view.Phase, r.view.Holder = 6, Electing, ""
			r.show()
			var err error
			if tt.fails {
				err = errors.New("no space left on device")
			}
			r.end(PersistMarker, Result{}, err)
			for range 50 {
				r.pass(20 * time.Millisecond)
				for _, k := range []Kind{PersistPromise, PersistMarker} {
					if r.under(k) != nil {
						r.end(k, Result{}, nil)
					}
				}
			}
			if r.a.marker != tt.want {
				t.Errorf("marker %q, want %q: %s", r.a.marker, tt.want, strings.Join(r.log, " | "))
			}
		})
	}
}
