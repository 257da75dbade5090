package quorum

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"pgvrrp/internal/conf"
	"pgvrrp/internal/quorum/raftlog"
	"pgvrrp/internal/quorum/record"
	"pgvrrp/internal/quorum/store"
)

// ForceOptions are an operator's word in the place of a vote.
type ForceOptions struct {
	File      *conf.Quorum
	Self      conf.Voter
	Resources []string // at least those whose rule does not have this node
	Word      string   // how it is certain that the other data nodes are off
	DryRun    bool     // nothing is changed, and what would be refused is refused
	Log       *slog.Logger
}

// Forced is what was, or would be, done.
type Forced struct {
	Steps  []string
	Losses []string // what may be lost, for each resource
}

// Force lets this stopped node go on alone although the quorum is lost. It makes a new log in which this voter is the only member,
// with another cluster id and another incarnation, so that no old voter can count in it by mistake; the old one is kept. A log is
// that of all resources, so that all of them are forced. It refuses while another data node answers.
func Force(ctx context.Context, o ForceOptions) (Forced, error) {
	fail := func(err error) (Forced, error) {
		return Forced{}, fmt.Errorf("force %s: %w", strings.Join(o.Resources, ", "), err)
	}
	if o.Self.Witness {
		return fail(errors.New("this node is a witness, and cannot hold a resource"))
	}
	if who := answering(ctx, o.File, o.Self.Name); who != "" {
		return fail(fmt.Errorf("%s answers: it is not off", who))
	}
	dir := o.File.StateDir
	old, err := store.Open(dir, store.Options{Log: o.Log, ReadOnly: true})
	if err != nil {
		return fail(err)
	}
	state, members, err := raftlog.Offline(old)
	self := record.Member{Node: o.Self.Name, Incarnation: old.Identity().Incarnation}
	longest, outlived := old.Longest(), old.Outlived()
	if err := errors.Join(err, old.Close()); err != nil {
		return fail(err)
	}
	for _, name := range o.Resources {
		if state.Get(name) == nil {
			return fail(fmt.Errorf("resource %s is not in this node's log", name))
		}
	}
	done := Forced{Steps: []string{
		fmt.Sprintf("the membership becomes %s alone; it was %s", o.Self.Name, strings.Join(members, ", ")),
		"the cluster gets another id; the other voters do not count until `vrrpd quorum reset` was run on each of them",
	}}
	names := slices.Sorted(maps.Keys(state.Resources))
	for _, name := range names {
		r := state.Resources[name]
		if !r.Rule.Has(self) && !slices.Contains(o.Resources, name) {
			return fail(fmt.Errorf("resource %s would be forced too, and the last rule that this node knows, %v, does not name it: name that resource too, or force a node of its rule", name, r.Rule))
		}
		done.Steps = append(done.Steps, fmt.Sprintf("epoch %d of %s ends, and its rule %v becomes {%s;}", r.Epoch, name, r.Rule, o.Self.Name))
		done.Losses = append(done.Losses, fmt.Sprintf("%s: %s", name, loss(r, self)))
	}
	done.Steps = append(done.Steps, "the former log is kept beside the new one in "+dir)
	if outlived != "" {
		done.Losses = append(done.Losses, "this node's log is an old copy: "+outlived)
	}
	if o.DryRun {
		return done, nil
	}
	if o.Word == "" {
		return fail(errors.New("wants the word that the other data nodes are off"))
	}
	for _, name := range names {
		r := state.Resources[name]
		o.Log.Warn("quorum force", "resource", name, "epoch", r.Epoch, "rule", r.Rule.String(), "word", o.Word, "loss", loss(r, self))
	}
	if outlived != "" {
		o.Log.Warn("quorum force", "loss", "this node's log is an old copy: "+outlived)
	}
	if err := refound(o, state, dir, longest); err != nil {
		return fail(err)
	}
	return done, nil
}

// refound puts a new database in the place of the old one. It is whole before the old one is moved.
func refound(o ForceOptions, state *record.State, dir string, longest time.Duration) error {
	fresh := filepath.Join(dir, "forced")
	if err := os.RemoveAll(fresh); err != nil {
		return fmt.Errorf("remove what a former attempt left: %w", err)
	}
	s, err := store.Open(fresh, store.Options{Log: o.Log})
	if err != nil {
		return err
	}
	self := record.Member{Node: o.Self.Name, Incarnation: s.Identity().Incarnation}
	for name, r := range state.Resources {
		why := fmt.Sprintf("forced on %s by an operator, whose word is: %s", o.Self.Name, o.Word)
		err = errors.Join(err, state.Apply(1, record.Command{Op: record.Override, Resource: name, Epoch: r.Epoch, Member: self, Why: why}))
	}
	if err == nil {
		_, err = raftlog.Found(s, o.Self.Name, state)
	}
	if err == nil && longest > 0 {
		err = s.PutLongest(longest)
	}
	if err = errors.Join(err, s.Close()); err != nil {
		return err
	}
	if err := store.Reset(dir, "vrrpd quorum force: "+o.Word); err != nil {
		return err
	}
	return store.Adopt(dir, fresh)
}

// answerTime bounds the question whether another data node is there.
const answerTime = time.Second

// answering is a data node, other than self, of which an address answers; "": none does.
func answering(ctx context.Context, q *conf.Quorum, self string) string {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	found := make(chan string)
	asked := 0
	for _, v := range q.Voters {
		if v.Witness || v.Name == self {
			continue
		}
		for _, a := range v.Addrs {
			asked++
			go func() {
				c, err := (&net.Dialer{}).DialContext(ctx, "tcp", net.JoinHostPort(a.String(), strconv.Itoa(q.Port)))
				who := ""
				if err == nil {
					c.Close()
					who = v.Name
				}
				found <- who
			}()
		}
	}
	who := ""
	for range asked {
		if w := <-found; w != "" && who == "" {
			who = w
			cancel()
		}
	}
	return who
}

// loss tells what may be lost if self goes on.
func loss(rec *record.Resource, self record.Member) string {
	if rec.Rule.Has(self) {
		return fmt.Sprintf("the last rule that this node knows, %v, names it: as far as its log goes, it has every acknowledged commit", rec.Rule)
	}
	return fmt.Sprintf("the last rule that this node knows, %v, does not name it: every commit since it left may be lost", rec.Rule)
}

// Reset makes a stopped voter a new one: its state is renamed. It returns what it renamed, or would.
func Reset(q *conf.Quorum, self conf.Voter, dryRun bool) ([]string, error) {
	var done []string
	for k := range voterIDs(self) {
		dir := q.StateDir
		if k > 0 {
			dir = filepath.Join(dir, strconv.Itoa(k+1))
		}
		if dryRun {
			done = append(done, dir+": quorum.db would be renamed")
			continue
		}
		if err := store.Reset(dir, "vrrpd quorum reset"); err != nil {
			return done, err
		}
		done = append(done, dir+": quorum.db is renamed; the next start makes a new voter")
	}
	return done, nil
}
