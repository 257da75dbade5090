package track

import (
	"fmt"
	"strings"

	"pgvrrp/internal/conf"
)

// State is what is known of a tracked thing.
type State uint8

// The states.
const (
	Unknown State = iota // not reported yet
	OK
	Failed
	Unable // the check gave no answer: it could not be run, was killed, or took too long
)

func (s State) String() string {
	switch s {
	case OK:
		return "OK"
	case Failed:
		return "FAILED"
	case Unable:
		return "UNABLE"
	}
	return "UNKNOWN"
}

// Source is a list of tracked things of one kind.
type Source struct {
	Kind    string // "script", "interface": how reasons call them
	Tracked []conf.Tracked
	// State gives the state of one of them and, if it isn't OK, why. It isn't asked for those that are undefined.
	State func(name string) (State, string)
	// Value takes the place of State for what has a number: its number times the weight is added, and without a weight
	// another number than 0 is a fault (reverse: 0 is).
	Value func(name string) (value int, state State, reason string)
}

// Verdict is what tracking means for an instance.
type Verdict struct {
	// Priority is the effective priority: 1 to 254, or 255 for an address owner, which no weight changes.
	Priority uint8
	// Fault is "" or names all that is down and has no weight.
	Fault string
	// Pending names what has no weight and has not reported yet, "" if there is none: the instance stays in Initialize.
	Pending string
}

// owner is the priority of an address owner (RFC 9568, section 5.2.4).
const owner = 255

// Evaluate combines an instance's configured priority with what it tracks. It is pure.
//
// As in keepalived a thing without weight causes a fault when down; a positive weight is added while it is up, a negative one
// while it is down; reverse turns the sign of a weight, and what is up and down of a thing without one. What is unknown, unable
// or undefined has no such side: it counts as whichever is worse.
func Evaluate(priority uint8, sources ...Source) Verdict {
	sum := int(priority)
	var faults, pending []string
	for _, src := range sources {
		for _, t := range src.Tracked {
			state, reason := Unable, "not defined"
			if !t.Undefined && src.Value != nil {
				change, fault, waits := valued(t, src.Value)
				sum += change
				if fault != "" {
					faults = append(faults, src.Kind+" "+t.Name+": "+fault)
				}
				if waits {
					pending = append(pending, src.Kind+" "+t.Name)
				}
				continue
			}
			if !t.Undefined {
				state, reason = src.State(t.Name)
			}
			if t.Weight != 0 {
				sum += contribution(t, state)
				continue
			}
			name := src.Kind + " " + t.Name
			switch {
			case state == Unknown:
				pending = append(pending, name)
			case state == Unable, state == Failed && !t.Reverse, state == OK && t.Reverse:
				if state == OK {
					reason = "up, and tracked in reverse"
				} else if reason == "" {
					reason = "failed"
				}
				faults = append(faults, name+": "+reason)
			}
		}
	}
	v := Verdict{Priority: priority, Fault: strings.Join(faults, "; "), Pending: strings.Join(pending, ", ")}
	if priority != owner {
		v.Priority = uint8(min(max(sum, 1), owner-1))
	}
	return v
}

// valued is what a thing with a number does to the priority, or why it is a fault. What has no number is a fault in any case:
// there is no telling how much it would take off.
func valued(t conf.Tracked, of func(string) (int, State, string)) (change int, fault string, waits bool) {
	value, state, reason := of(t.Name)
	switch {
	case state == Unknown:
		return 0, "", t.Weight == 0 // it is read in a moment: a Backup need not leave for that
	case state != OK:
		return 0, reason, false
	case t.Weight == 0 && (value != 0) != t.Reverse:
		return 0, fmt.Sprintf("its value is %d", value), false
	}
	product := int64(value) * int64(t.Weight)
	if t.Reverse {
		product = -product
	}
	if product < -(owner - 2) {
		return 0, fmt.Sprintf("its value %d with weight %d is -254 or less", value, t.Weight), false
	}
	return int(min(product, owner-2)), "", false
}

func contribution(t conf.Tracked, state State) int {
	up, down := t.Weight, 0
	if t.Weight < 0 {
		up, down = 0, t.Weight
	}
	if t.Reverse {
		up, down = -up, -down
	}
	switch state {
	case OK:
		return up
	case Failed:
		return down
	}
	return min(up, down)
}
