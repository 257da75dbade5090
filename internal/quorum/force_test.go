package quorum

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"pgvrrp/internal/conf"
	"pgvrrp/internal/quorum/raftlog"
	"pgvrrp/internal/quorum/record"
	"pgvrrp/internal/quorum/store"
)

// self is a voter's line and its file, as Force and Reset take them.
func (c *cluster) self(name string) (*conf.Quorum, conf.Voter) {
	file := *c.file
	file.StateDir = filepath.Join(c.dir, name)
	k := slices.IndexFunc(file.Voters, func(v conf.Voter) bool { return v.Name == name })
	return &file, file.Voters[k]
}

// The majority is gone for good: an operator lets the last node go on, and the others come back as new voters.
func TestForce(t *testing.T) {
	c := newCluster(t, plain, "n1", "n2", "w1")
	for _, name := range []string{"n1", "n2", "w1"} {
		c.start(name)
	}
	c.await("n1 holds the resource, n2 is in the rule", func() bool {
		return c.holder("vip") == "n1" && slices.Equal(c.resource("n1", "vip").Rule.S, []string{"n2"})
	})
	epoch := c.resource("n1", "vip").Epoch
	for _, name := range []string{"w1", "n2", "n1"} {
		c.stop(name)
	}
	c.start("n1")
	file, self := c.self("n2")
	o := ForceOptions{File: file, Self: self, Resources: []string{"vip"}, Word: "pulled the plug of n1", Log: slog.New(slog.DiscardHandler)}
	if _, err := Force(context.Background(), o); err == nil || !strings.Contains(err.Error(), "n1 answers: it is not off") {
		t.Errorf("force beside a living data node: got %v, want a refusal", err)
	}
	o.DryRun = true
	if done, err := Force(context.Background(), o); err == nil || !strings.Contains(err.Error(), "n1 answers: it is not off") {
		t.Errorf("dry run beside a living data node: got %+v, %v, want the refusal of the real run", done, err)
	}
	c.stop("n1")
	before, err := os.ReadFile(filepath.Join(file.StateDir, "quorum.db"))
	if err != nil {
		t.Fatal(err)
	}
	if done, err := Force(context.Background(), o); err != nil || len(done.Steps) == 0 || len(done.Losses) != 1 || !strings.Contains(done.Losses[0], "names it") {
		t.Errorf("dry run: got %+v, %v", done, err)
	}
	if after, err := os.ReadFile(filepath.Join(file.StateDir, "quorum.db")); err != nil || !bytes.Equal(before, after) {
		t.Errorf("the dry run changed the log (%v)", err)
	}
	o.DryRun, o.Word = false, ""
	if _, err := Force(context.Background(), o); err == nil {
		t.Error("force without a word: got no error")
	}
	o.Word = "pulled the plug of n1"
	if _, err := Force(context.Background(), o); err != nil {
		t.Fatal(err)
	}
	c.start("n2")
	c.await("n2 goes on alone", func() bool { return c.holder("vip") == "n2" })
	r := c.resource("n2", "vip")
	if r.Epoch <= epoch || !strings.Contains(r.Why, "pulled the plug") {
		t.Errorf("record after a force: got epoch %d (before: %d), why %q", r.Epoch, epoch, r.Why)
	}

	// An old voter doesn't count, and a reset one does.
	for _, name := range []string{"w1", "n1"} {
		file, self := c.self(name)
		if _, err := Reset(file, self, true); err != nil {
			t.Fatal(err)
		}
		if _, err := Reset(file, self, false); err != nil {
			t.Fatal(err)
		}
		c.start(name)
	}
	c.await("all three count, and n1 is in the rule", func() bool {
		return c.nodes["n2"].node.Status(t.Context()).Votes == 3 && slices.Equal(c.resource("n2", "vip").Rule.S, []string{"n1"})
	})
	if got := c.holder("vip"); got != "n2" {
		t.Errorf("holder in the end: got %q, want n2", got)
	}
}

// offline is the state directory of a voter n1 that does not run, whose log has these resources. As a member of a rule it is self.
func offline(t *testing.T, dir string, resources func(self record.Member) []record.Resource) {
	t.Helper()
	s, err := store.Open(dir, store.Options{NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	state := &record.State{Resources: map[string]*record.Resource{}}
	for _, r := range resources(record.Member{Node: "n1", Incarnation: s.Identity().Incarnation}) {
		state.Resources[r.Name] = &r
	}
	_, err = raftlog.Found(s, "n1", state)
	if err := errors.Join(err, s.Close()); err != nil {
		t.Fatal(err)
	}
}

// A log is that of all resources: what becomes of each is told, and none is overridden unnamed whose commits may not be here.
func TestForceTellsOfEveryResource(t *testing.T) {
	dir := t.TempDir()
	offline(t, dir, func(self record.Member) []record.Resource {
		n2 := record.Member{Node: "n2", Incarnation: "0123456789abcdef"}
		return []record.Resource{
			{Name: "a", Kind: record.Plain, Epoch: 3, Rule: record.Rule{Holder: n2, S: []record.Member{self}}},
			{Name: "b", Kind: record.Plain, Epoch: 5, Rule: record.Rule{Holder: n2}},
		}
	})
	o := ForceOptions{File: &conf.Quorum{StateDir: dir}, Self: conf.Voter{Name: "n1"}, Resources: []string{"a"}, DryRun: true, Log: slog.New(slog.DiscardHandler)}
	if done, err := Force(t.Context(), o); err == nil || !strings.Contains(err.Error(), "force a: resource b would be forced too, and the last rule that this node knows, {n2;}, does not name it") {
		t.Errorf("b not named: got %+v, %v, want a refusal", done, err)
	}
	o.Resources = []string{"b"} // of a nothing can be lost
	done, err := Force(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"epoch 3 of a ends, and its rule {n2; n1} becomes {n1;}",
		"epoch 5 of b ends, and its rule {n2;} becomes {n1;}",
		"a: the last rule that this node knows, {n2; n1}, names it: as far as its log goes, it has every acknowledged commit",
		"b: the last rule that this node knows, {n2;}, does not name it: every commit since it left may be lost",
	}
	if got := append(done.Steps[2:4:4], done.Losses...); !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	o.Resources = []string{"b", "c"}
	if _, err := Force(t.Context(), o); err == nil || !strings.Contains(err.Error(), "resource c is not in this node's log") {
		t.Errorf("a resource that is none: got %v", err)
	}
	o.File = &conf.Quorum{StateDir: filepath.Join(dir, "none")}
	if _, err := Force(t.Context(), o); err == nil {
		t.Error("without a state directory: got no error")
	}
	if _, err := os.Stat(o.File.StateDir); err == nil {
		t.Error("the dry run made a state directory")
	}
}

// A second vote is a second voter: with it a witness outvotes two dead data nodes.
func TestTwoVotes(t *testing.T) {
	c := newCluster(t, plain, "n1", "n2", "n3", "w1*2")
	for _, name := range []string{"n1", "n2", "n3", "w1"} {
		c.start(name)
	}
	// n1 has the highest priority, but an election waits only so long for its disk.
	c.await("somebody holds the resource", func() bool {
		h := c.holder("vip")
		return h != "" && len(c.resource(h, "vip").Rule.S) == 2
	})
	if got := c.nodes["w1"].node.Status(t.Context()).Votes; got != 5 {
		t.Errorf("votes: got %d, want 5", got)
	}
	dead := c.holder("vip")
	last := c.resource(dead, "vip").Rule.S[0]
	for _, name := range []string{"n1", "n2", "n3"} {
		if name != last {
			c.stop(name)
		}
	}
	c.await("the last one goes on with the witness", func() bool { return c.holder("vip") == last })
}
