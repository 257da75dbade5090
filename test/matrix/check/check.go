package check

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/anishathalye/porcupine"

	"pgvrrp/test/lab/meter"
)

// Set compares the rows that clients sent with those that are there at the end. An acknowledged row that is missing is lost; one that
// failed, or was never sent, must not be there. What was indeterminate or came with a warning may be either way.
func Set(sent []meter.Row, there []int64) error {
	left := map[int64]int{}
	for _, n := range there {
		left[n]++
	}
	var lost, resurrected, twice, unknown []int64
	seen := map[int64]bool{}
	for _, r := range sent {
		if seen[r.N] {
			return fmt.Errorf("row %d was sent twice: no history of a set", r.N)
		}
		seen[r.N] = true
		switch n := left[r.N]; {
		case n == 0 && r.Outcome == meter.Acked:
			lost = append(lost, r.N)
		case n > 0 && r.Outcome == meter.Failed:
			resurrected = append(resurrected, r.N)
		case n > 1:
			twice = append(twice, r.N)
		}
	}
	for n := range left {
		if !seen[n] {
			unknown = append(unknown, n)
		}
	}
	var wrong []string
	for _, k := range []struct {
		what string
		rows []int64
	}{{"acknowledged and lost", lost}, {"there although failed", resurrected}, {"there twice", twice}, {"there although never sent", unknown}} {
		if len(k.rows) > 0 {
			slices.Sort(k.rows)
			wrong = append(wrong, fmt.Sprintf("%d rows %s: %v", len(k.rows), k.what, k.rows[:min(len(k.rows), 10)]))
		}
	}
	if len(wrong) > 0 {
		return fmt.Errorf("set of rows: %s", strings.Join(wrong, "; "))
	}
	return nil
}

// registerTime bounds the search for a linearization of all registers.
const registerTime = 30 * time.Second

type registerInput struct {
	key  int
	read bool
}

// registers is the model: a number per key, from 0, to which one is added; whoever adds learns the new value, whoever reads the present
// one.
var registers = porcupine.Model{
	Partition: func(history []porcupine.Operation) [][]porcupine.Operation {
		byKey := map[int][]porcupine.Operation{}
		for _, op := range history {
			k := op.Input.(registerInput).key
			byKey[k] = append(byKey[k], op)
		}
		var parts [][]porcupine.Operation
		for _, part := range byKey {
			parts = append(parts, part)
		}
		return parts
	},
	Init: func() any { return int64(0) },
	Step: func(state, input, output any) (bool, any) {
		v := state.(int64)
		if !input.(registerInput).read {
			v++
		}
		return output.(int64) == v, v
	},
}

// Registers reports whether there is an order of all operations that fits their times and answers; values then only grow, and no
// acknowledged addition is lost.
func Registers(history []meter.RegisterOp) error {
	// A register that was never seen to move, or go back, is told without a search, with the operations.
	if err := monotonic(history); err != nil {
		return err
	}
	answered, err := supply(history)
	if err != nil {
		return err
	}
	ops := make([]porcupine.Operation, 0, len(answered))
	for k, op := range answered {
		o := porcupine.Operation{
			ClientId: op.Client, Input: registerInput{op.Key, op.Read}, Output: op.Value, Call: int64(op.Call), Return: int64(op.Return),
		}
		if !op.Known {
			o.ClientId, o.Return = 1_000_000+k, math.MaxInt64 // its client goes on while it may still come
		}
		ops = append(ops, o)
	}
	switch porcupine.CheckOperationsTimeout(registers, ops, registerTime) {
	case porcupine.Ok:
		return nil
	case porcupine.Unknown:
		return fmt.Errorf("registers: no order of %d operations was found within %s", len(ops), registerTime)
	default:
		return fmt.Errorf("registers: no order fits the answers and times of %d operations: they are not linearizable", len(ops))
	}
}

// Without leaves out the reads that were answered within d of from.
func Without(history []meter.RegisterOp, from, d time.Duration) []meter.RegisterOp {
	return slices.DeleteFunc(slices.Clone(history), func(op meter.RegisterOp) bool { return op.Read && op.Return >= from && op.Return < from+d })
}

// supply gives additions of unknown outcome the answers that nobody got. An addition takes exactly one value, so that those up to the
// highest that anybody saw are known: what is missing was added by them. They differ only in when they were called, and may come at any
// time after; the one that was called first takes the lowest, which fits if anything does. The rest never came, or after all that was seen.
// A search that had to guess would take twice as long for each of them.
func supply(history []meter.RegisterOp) ([]meter.RegisterOp, error) {
	taken, highest, unknown := map[int]map[int64]bool{}, map[int]int64{}, map[int][]meter.RegisterOp{}
	var all []meter.RegisterOp
	for _, op := range history {
		if !op.Known {
			unknown[op.Key] = append(unknown[op.Key], op)
			continue
		}
		all = append(all, op)
		highest[op.Key] = max(highest[op.Key], op.Value)
		if taken[op.Key] == nil {
			taken[op.Key] = map[int64]bool{}
		}
		if !op.Read {
			taken[op.Key][op.Value] = true
		}
	}
	for key, top := range highest {
		left := unknown[key]
		slices.SortFunc(left, func(a, b meter.RegisterOp) int { return cmp.Compare(a.Call, b.Call) })
		for v := int64(1); v <= top; v++ {
			if taken[key][v] {
				continue
			}
			if len(left) == 0 {
				return nil, fmt.Errorf("register %d: nobody can have added the %d that was seen: not linearizable", key, v)
			}
			left[0].Value = v
			all, left = append(all, left[0]), left[1:]
		}
	}
	return all, nil
}

func kind(op meter.RegisterOp) string {
	if op.Read {
		return "read"
	}
	return "added"
}

// monotonic finds an answer that is lower than one which had come before the question, or an addition that is answered twice alike.
func monotonic(history []meter.RegisterOp) error {
	byKey := map[int][]meter.RegisterOp{}
	for _, op := range history {
		if op.Known {
			byKey[op.Key] = append(byKey[op.Key], op)
		}
	}
	for key, ops := range byKey {
		added := map[int64]meter.RegisterOp{}
		for _, op := range ops {
			if before, twice := added[op.Value]; twice && !op.Read {
				return fmt.Errorf("register %d: two additions were answered by %d, at %s and at %s: one is lost", key, op.Value, before.Return, op.Return)
			} else if !op.Read {
				added[op.Value] = op
			}
		}
		asked, answered := slices.Clone(ops), slices.Clone(ops)
		slices.SortFunc(asked, func(a, b meter.RegisterOp) int { return cmp.Compare(a.Call, b.Call) })
		slices.SortFunc(answered, func(a, b meter.RegisterOp) int { return cmp.Compare(a.Return, b.Return) })
		var highest meter.RegisterOp
		for _, op := range asked {
			for len(answered) > 0 && answered[0].Return < op.Call {
				if answered[0].Value > highest.Value {
					highest = answered[0]
				}
				answered = answered[1:]
			}
			if op.Value < highest.Value {
				return fmt.Errorf("register %d: %d at %s, and %d at %s, asked later: it went back (%s, %s)", key, highest.Value, highest.Return, op.Value, op.Return, kind(highest), kind(op))
			}
		}
	}
	return nil
}

// Write is an acknowledged write of a prober: who acknowledged it, on which timeline, and when it was sent and acknowledged.
type Write struct {
	N           int64
	Node        string
	Timeline    uint32
	Sent, Acked time.Duration
}

// OneWriter reports two servers that accepted and acknowledged writes at one time: a timeline that two servers wrote on, or a write that
// was sent after another server's newer timeline had acknowledged one, and was acknowledged all the same. An acknowledgement that is
// merely late (its process was stopped) is none: it was sent before.
func OneWriter(writes []Write) error {
	owner := map[uint32]string{}
	for _, w := range writes {
		if o, ok := owner[w.Timeline]; ok && o != w.Node {
			return fmt.Errorf("timeline %d: %s and %s acknowledged writes on it", w.Timeline, o, w.Node)
		}
		owner[w.Timeline] = w.Node
	}
	sent, acked := slices.Clone(writes), slices.Clone(writes)
	slices.SortFunc(sent, func(a, b Write) int { return cmp.Compare(a.Sent, b.Sent) })
	slices.SortFunc(acked, func(a, b Write) int { return cmp.Compare(a.Acked, b.Acked) })
	var newest Write
	for _, w := range sent {
		for len(acked) > 0 && acked[0].Acked < w.Sent {
			if acked[0].Timeline > newest.Timeline {
				newest = acked[0]
			}
			acked = acked[1:]
		}
		if w.Timeline < newest.Timeline {
			return fmt.Errorf("%s acknowledged a write on timeline %d at %s, and %s one on timeline %d that was sent at %s and acknowledged at %s",
				newest.Node, newest.Timeline, newest.Acked, w.Node, w.Timeline, w.Sent, w.Acked)
		}
	}
	return nil
}
