package quorum

import (
	"bufio"
	"encoding/json"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"pgvrrp/internal/quorum/lease"
	"pgvrrp/internal/quorum/record"
)

// A pushed record is the committed one or nothing, whichever older record the receiver has; who has the one before gets it.
func TestPushedRecord(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		history := []*record.Resource{{Name: "pg", Index: 1, Kind: record.PostgreSQL, Epoch: 1, Rule: record.Rule{Holder: record.Member{Node: "n1"}}}}
		for k := range rapid.IntRange(0, 60).Draw(t, "commands") {
			next := *history[k]
			next.Index, next.Ledger = next.Index+1, slices.Clone(next.Ledger)
			if last := len(next.Ledger) - 1; last >= 0 && rapid.Bool().Draw(t, "used") {
				next.Ledger[last].SwitchLSN, next.Ledger[last].Parent = uint64(k)+1, uint32(last)
			} else {
				next.Epoch++
				next.Ledger = append(next.Ledger, record.Timeline{TLI: uint32(last) + 3, Epoch: next.Epoch, Node: "n1"})
			}
			history = append(history, &next)
		}
		j := rapid.IntRange(0, len(history)-1).Draw(t, "pushed")
		i := rapid.IntRange(-1, len(history)-1).Draw(t, "known")
		var own *record.Resource
		if i >= 0 {
			own = history[i]
		}
		b, err := json.Marshal(shorten(history[j]))
		if err != nil {
			t.Fatal(err)
		}
		var p pushed
		if err := json.Unmarshal(b, &p); err != nil {
			t.Fatal(err)
		}
		got, ok := p.whole(own)
		if !ok {
			if i == j-1 || i == j && i >= 0 {
				t.Errorf("record %d is not taken by who has record %d", j, i)
			}
			return
		}
		if diff := cmp.Diff(history[j], got); diff != "" {
			t.Errorf("record %d at who has record %d: -want +got:\n%s", j, i, diff)
		}
	})
}

// However many promotions there were, a push fits into one frame of a LAN.
func TestPushFitsAFrame(t *testing.T) {
	const incarnation = "457a7096a0fec728457a7096a0fec728"
	member := func(name string) record.Member { return record.Member{Node: name, Incarnation: incarnation} }
	r := &record.Resource{Name: "postgresql", Index: 1 << 40, Kind: record.PostgreSQL, SystemID: 1<<64 - 1, Epoch: 1 << 20, Phase: record.Active,
		Holder: member("database-1"), Rule: record.Rule{Holder: member("database-1"), S: []record.Member{member("database-2"), member("database-3")}},
		Why: strings.Repeat("x", 200)}
	for k := range uint32(10000) {
		r.Ledger = append(r.Ledger, record.Timeline{TLI: k + 1<<20, Parent: k + 1<<20, SwitchLSN: 1 << 50, Epoch: 1 << 20, Node: "database-1"})
	}
	b, err := json.Marshal(shorten(r))
	if err != nil {
		t.Fatal(err)
	}
	msg := lease.Message{Kind: lease.Push, Resource: r.Name, Epoch: r.Epoch, Record: b}
	if b, err = msg.Append(nil); err != nil || len(b) > 1300 {
		t.Errorf("%d bytes: %v", len(b), err)
	}
}

func TestReadLine(t *testing.T) {
	long := strings.Repeat("x", 100000)
	in := bufio.NewReader(strings.NewReader("short\n" + long + "\n" + long + "\nrest"))
	for _, want := range []string{"short\n", long + "\n"} {
		if got, err := readLine(in, 1<<20); err != nil || string(got) != want {
			t.Errorf("got %d bytes, %v; want %d", len(got), err, len(want))
		}
	}
	if _, err := readLine(in, 50000); err == nil || errors.Is(err, io.EOF) {
		t.Errorf("a line that is too long: got %v", err)
	}
	in = bufio.NewReader(strings.NewReader("rest"))
	if _, err := readLine(in, 10); !errors.Is(err, io.EOF) {
		t.Errorf("half a line: got %v, want %v", err, io.EOF)
	}
}
