package lease

import (
	"errors"
	"slices"
	"testing"
	"time"

	"pgvrrp/internal/quorum/record"
)

const ms = time.Millisecond

var (
	params = Defaults(400 * ms)
	n1     = record.Member{Node: "n1", Incarnation: "a"}
	n2     = record.Member{Node: "n2", Incarnation: "b"}
	n3     = record.Member{Node: "n3", Incarnation: "c"}
	five   = &Configuration{Config: Config{10, 99}, Voters: []string{"n1", "n2", "n3", "w1", "w2"}, Committed: true, Since: 0}
	errIO  = errors.New("input/output error")
	wait   = params.Wait(params.Hold()) // W_t
)

func TestParams(t *testing.T) {
	if got := wait.Round(ms); got != 428*ms {
		t.Errorf("got W_t %v, want 428ms", got)
	}
	if got, want := params.LifetimeHold(), 2700*ms; got != want {
		t.Errorf("got a hold by lifetime of %v, want %v", got, want)
	}
}

// only are the actions of a kind.
func only(actions []Action, k ActionKind) []Action {
	var found []Action
	for _, a := range actions {
		if a.Kind == k {
			found = append(found, a)
		}
	}
	return found
}

// sent is the one message of that kind among the actions.
func sent(t *testing.T, actions []Action, k MessageKind) Message {
	t.Helper()
	var found []Message
	for _, a := range only(actions, Send) {
		if a.Message.Kind == k {
			found = append(found, a.Message)
		}
	}
	if len(found) != 1 {
		t.Fatalf("got %d messages %v in %+v, want one", len(found), k, actions)
	}
	return found[0]
}

func sends(actions []Action, k MessageKind) bool {
	return slices.ContainsFunc(actions, func(a Action) bool { return a.Kind == Send && a.Message.Kind == k })
}

func one(t *testing.T, actions []Action, k ActionKind) Action {
	t.Helper()
	found := only(actions, k)
	if len(found) != 1 {
		t.Fatalf("got %d actions of kind %d in %+v, want one", len(found), k, actions)
	}
	return found[0]
}

func none(t *testing.T, actions []Action, kinds ...ActionKind) {
	t.Helper()
	for _, a := range actions {
		if len(kinds) == 0 || slices.Contains(kinds, a.Kind) {
			t.Fatalf("got %+v, want no such action", a)
		}
	}
}

func heardFrom(from string, m Message) Event { return Event{Kind: Received, From: from, Message: &m} }

func knows(r record.Resource) Event { return Event{Kind: Known, Record: &r} }

// active is a record; the index makes it newer than others.
func active(index, epoch uint64, holder record.Member, s ...record.Member) record.Resource {
	return record.Resource{Name: "r", Index: index, Kind: record.Plain, Epoch: epoch, Phase: record.Active, Holder: holder, HolderBoot: 5, Hold: params.Hold(),
		Rule: record.Rule{Holder: holder, S: s}, RuleVer: index}
}

func in(r record.Resource, phase record.Phase) record.Resource {
	r.Phase = phase
	if phase == record.Electing {
		r.Holder, r.HolderBoot = record.Member{}, 0
	}
	return r
}
