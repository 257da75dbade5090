package main

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"pgvrrp/test/matrix/cells"
)

// line is a verdict for people who watch.
func line(v cells.Verdict) string {
	word := "ok  "
	if len(v.Failures) > 0 {
		word = "FAIL"
	}
	return fmt.Sprintf("%s %s [%s] %s; %s; whole %s %s; acknowledged %d, lost %d; ready after %.0f of %.0f s, stalled %.0f %%",
		word, v.Cell.ID(), v.Placement, v.Cell.Want, resumed(v), seconds(v.Whole), strings.Join(v.Rungs, ", "), v.Acked, v.Lost, v.Ready.Seconds(), v.Took.Seconds(), v.Stalled)
}

// resumed is when writes went on.
func resumed(v cells.Verdict) string {
	var parts []string
	switch {
	case v.Cell.Kind == cells.Bench:
		return "no failed transaction"
	case v.Cell.Kind == cells.Everything:
		return seconds(v.Back) + " after the last is back"
	case v.Cell.Want != cells.GoesOn:
		return seconds(v.Back) + " after the first is back"
	}
	for _, o := range v.Outages {
		parts = append(parts, seconds(o))
	}
	return "out " + strings.Join(parts, ", ")
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.2f s", d.Seconds()) }

// summary counts.
func (b *book) summary() string {
	ok, acked, lost := 0, 0, 0
	for _, r := range b.Results {
		if len(r.Verdict.Failures) == 0 {
			ok++
		}
		acked += r.Verdict.Acked
		lost += r.Verdict.Lost
	}
	return fmt.Sprintf("%d of %d cells hold; %d commits acknowledged, %d lost", ok, len(b.Results), acked, lost)
}

const preface = `# The double-failure matrix

Written by ` + "`make matrix`" + `, which boots the hosts of each topology once and then runs cell after cell: a fault by role, then a second
one, with eight writers, eight clients of registers and a prober on every data node at work, until everything is repaired and whole.
docs/quorum.md says what must come out.

A cell holds if: writes resume without an operator (or stop, where the table says so, and resume when one of the two is back); no
acknowledged commit is lost; no two servers accept and acknowledge writes at one time; SELECT works on every node that did not
fail, but for a primary that lost the majority; every node streams again by itself; all nodes have the same rows then; and the clients' histories pass a set checker and a
linearizability checker. A commit that comes with a WARNING is no acknowledgement.

*Out* is the longest stretch without a commit after each failure, until the next one. *Whole* is from the last repair until every node
streams and is in the rule; behind it is how each node came back. The roles are placed by the seed; priorities differ. Faults:
power loss; kill -9 of the postmaster; kill -9 of vrrpd and pgnotify, which then stay dead; all cables pulled; every process stopped; cut
off in silence, the victims together. Of a witness, the second and third kill its vrrpd.

`

// markdown is the table.
func (b *book) markdown() string {
	var t strings.Builder
	t.WriteString(preface)
	results := slices.Clone(b.Results)
	order := map[string]int{}
	for k, c := range cells.All() {
		order[c.ID()] = k
	}
	slices.SortFunc(results, func(x, y result) int { return order[x.Cell] - order[y.Cell] })
	var from, to time.Time
	low, high := 0.0, 0.0
	for k, r := range results {
		if k == 0 || r.At.Before(from) {
			from = r.At
		}
		if r.At.After(to) {
			to = r.At
		}
		if s := r.Verdict.Stalled; k == 0 {
			low, high = s, s
		} else {
			low, high = min(low, s), max(high, s)
		}
	}
	fmt.Fprintf(&t, "%s; %d cells in the table.\n\n", b.summary(), len(cells.All()))
	fmt.Fprintf(&t, "%s; PostgreSQL %s; Linux %s; seed %d; %s to %s; in a cell some task waited for a processor for %.0f to %.0f %% of the time.\n",
		b.Version, b.PostgreSQL, b.Kernel, b.Seed, from.UTC().Format("2006-01-02 15:04"), to.UTC().Format("15:04 MST"), low, high)
	if b.Memory {
		t.WriteString("The hosts' disks were in memory: on real ones a rewind or a copy takes longer.\n")
	}
	for _, topology := range cells.Topologies() {
		var rows []string
		for _, r := range results {
			v := r.Verdict
			if v.Cell.Topology.Name != topology.Name {
				continue
			}
			verdict := "holds"
			if len(v.Failures) > 0 {
				text, _, _ := strings.Cut(v.Failures[0], "\n")
				verdict = "**FAILS**: " + strings.ReplaceAll(text, "|", `\|`)
			}
			gap := "at once"
			if v.Cell.Gap > 0 {
				gap = v.Cell.Gap.String()
			}
			rows = append(rows, fmt.Sprintf("| %s | %s | %s | %s | %s | %s | %s | %s | %s | %d | %d |", v.Cell.Order, gap, v.Cell.Fault, r.Placement,
				v.Cell.Want, verdict, resumed(v), seconds(v.Whole), strings.Join(v.Rungs, ", "), v.Acked, v.Lost))
		}
		if len(rows) == 0 {
			continue
		}
		fmt.Fprintf(&t, "\n## %s: %s\n\n| failures | gap | fault | placed | expected | result | writes | whole | back by | acknowledged | lost |\n|---|---|---|---|---|---|---|---|---|---|---|\n%s\n",
			topology.Name, topology.Text, strings.Join(rows, "\n"))
	}
	return t.String()
}
