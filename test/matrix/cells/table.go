package cells

import (
	"fmt"
	"strings"
	"time"
)

// Topology is a set of voters, as docs/quorum.md and the directories of etc have them.
type Topology struct {
	Name      string // A, B, D
	Sample    string // directory below etc
	Nodes     int    // data nodes
	Witnesses int
	Text      string
}

// Topologies are those that survive failures without fencing.
func Topologies() []Topology {
	return []Topology{
		{"A", "quorum-3data-2witness", 3, 2, "3 data nodes and 2 witnesses"},
		{"B", "quorum-3data-1witness-2votes", 3, 1, "3 data nodes and 1 witness with 2 votes"},
		{"D", "quorum-2data-1witness", 2, 1, "2 data nodes and 1 witness"},
	}
}

// Role is what a host is when it fails.
type Role string

// Who is who is decided by the cell's seed, and for the last two by who took over.
const (
	Primary  Role = "primary"
	Standby  Role = "standby"        // one of the two, by seed; the only one of topology D
	Second   Role = "second standby" // the other one
	Better   Role = "standby with the higher priority"
	Lesser   Role = "standby with the lower priority"
	Witness  Role = "witness" // one of them, by seed
	Witness2 Role = "other witness"
	Next     Role = "new primary"   // whoever holds when the second failure comes
	Other    Role = "other standby" // the data node that is neither the first victim nor Next
)

// Fault is a way to fail.
type Fault string

// A witness has no postmaster and no agent: of it, Postmaster and Daemons kill vrrpd.
const (
	Power      Fault = "power"      // power loss
	Postmaster Fault = "postmaster" // kill -9 of the postmaster; nothing else fails, and nobody has to repair it
	Daemons    Fault = "daemons"    // kill -9 of vrrpd and pgnotify, which stay dead; PostgreSQL lives
	Cable      Fault = "cable"      // all cables pulled, of each host by itself
	Pause      Fault = "pause"      // every process stopped
	Split      Fault = "split"      // cut off from all but those that failed before, in silence: the victims hear each other
)

// Faults are all of them.
func Faults() []Fault { return []Fault{Power, Postmaster, Daemons, Cable, Pause, Split} }

// Want is what must happen to the clients' writes.
type Want string

const (
	// GoesOn says that writes resume without an operator, and nothing was repaired before.
	GoesOn Want = "goes on"
	// Stops says that no write is acknowledged until one of the two is back, and then they resume while the other is still away.
	Stops Want = "stops until one is back"
	// Away says that the two are the majority, on a side without clients: writes resume when the data node is back. The witness alone
	// would not do, for what was acknowledged meanwhile is on that node.
	Away Want = "stops until the data node is back"
)

// Kind is the course of a cell.
type Kind uint8

const (
	// Faulty is the usual course: the victims fail, one after the other or at once, and are repaired.
	Faulty Kind = iota
	// Everything says that all hosts lose their power, and come back one after the other in an order.
	Everything
	// Bench says that pgbench runs; a standby loses its power, and when it is out of the rule all witnesses fail. No transaction may fail.
	Bench
)

// Cell is one cell of the matrix.
type Cell struct {
	Topology Topology
	Kind     Kind
	Order    string // of the failures, or of the return, in words
	Victims  []Role // of Everything: all roles in the order of their return
	Gap      time.Duration
	Fault    Fault
	Want     Want
}

// ID names the cell: "A/power/primary, then the new primary/2s".
func (c Cell) ID() string {
	gap := "at once"
	if c.Gap > 0 {
		gap = c.Gap.String()
	}
	return strings.Join([]string{c.Topology.Name, string(c.Fault), c.Order, gap}, "/")
}

// line is one line of the table; a cell comes from it for each topology, gap and fault.
type line struct {
	topologies string
	order      string
	victims    []Role
	gaps       []time.Duration
	faults     []Fault
	want       Want
	kind       Kind
}

var (
	later  = []time.Duration{2 * time.Second, 20 * time.Second}
	atOnce = []time.Duration{0}
	// lasting are the faults that take votes away from everybody. Who kills a postmaster leaves vrrpd alone, and two that are split off together
	// have theirs.
	lasting = []Fault{Power, Daemons, Cable, Pause}
	split   = []Fault{Split}
	crash   = []Fault{Postmaster}
)

// table is the matrix. The outcomes are those of the table in docs/quorum.md.
var table = []line{
	{"AB", "primary, then the new primary", []Role{Primary, Next}, later, Faults(), GoesOn, Faulty},
	{"AB", "primary, then the other standby", []Role{Primary, Other}, later, Faults(), GoesOn, Faulty},
	{"AB", "standby, then the primary", []Role{Standby, Primary}, later, Faults(), GoesOn, Faulty},
	{"AB", "standby, then the other standby", []Role{Standby, Second}, later, Faults(), GoesOn, Faulty},
	{"ABD", "standby, then a witness", []Role{Standby, Witness}, later, Faults(), GoesOn, Faulty},
	{"D", "primary, then the witness", []Role{Primary, Witness}, later, Faults(), GoesOn, Faulty},

	{"AB", "primary and better standby", []Role{Primary, Better}, atOnce, Faults(), GoesOn, Faulty},
	{"AB", "primary and lesser standby", []Role{Primary, Lesser}, atOnce, Faults(), GoesOn, Faulty},
	{"AB", "both standbys", []Role{Standby, Second}, atOnce, Faults(), GoesOn, Faulty},
	{"A", "a witness and the primary", []Role{Witness, Primary}, atOnce, Faults(), GoesOn, Faulty},
	{"A", "a witness and a standby", []Role{Witness, Standby}, atOnce, Faults(), GoesOn, Faulty},
	{"A", "both witnesses", []Role{Witness, Witness2}, atOnce, Faults(), GoesOn, Faulty},
	{"BD", "the witness and the primary", []Role{Witness, Primary}, atOnce, lasting, Stops, Faulty},
	{"BD", "the witness and the primary", []Role{Witness, Primary}, atOnce, split, Away, Faulty},
	{"BD", "the witness and the primary", []Role{Witness, Primary}, atOnce, crash, GoesOn, Faulty},
	{"BD", "the witness and a standby", []Role{Witness, Standby}, atOnce, lasting, Stops, Faulty},
	{"BD", "the witness and a standby", []Role{Witness, Standby}, atOnce, split, Away, Faulty},
	{"BD", "the witness and a standby", []Role{Witness, Standby}, atOnce, crash, GoesOn, Faulty},

	{"D", "the primary alone", []Role{Primary}, atOnce, Faults(), GoesOn, Faulty},
	{"D", "the standby alone", []Role{Standby}, atOnce, Faults(), GoesOn, Faulty},
	{"D", "the witness alone", []Role{Witness}, atOnce, Faults(), GoesOn, Faulty},

	{"AB", "all; back: witnesses, primary, standby, standby", []Role{Witness, Witness2, Primary, Standby, Second}, back, dark, GoesOn, Everything},
	{"AB", "all; back: witnesses, standby, primary, standby", []Role{Witness, Witness2, Standby, Primary, Second}, back, dark, GoesOn, Everything},
	{"AB", "all; back: witnesses, standby, standby, primary", []Role{Witness, Witness2, Standby, Second, Primary}, back, dark, GoesOn, Everything},
	{"AB", "all; back: primary, standby, standby, witnesses", []Role{Primary, Standby, Second, Witness, Witness2}, back, dark, GoesOn, Everything},
	{"AB", "all; back: standby, primary, standby, witnesses", []Role{Standby, Primary, Second, Witness, Witness2}, back, dark, GoesOn, Everything},
	{"AB", "all; back: standby, standby, primary, witnesses", []Role{Standby, Second, Primary, Witness, Witness2}, back, dark, GoesOn, Everything},
	{"A", "all; back: a witness, primary, standby, standby, a witness", []Role{Witness, Primary, Standby, Second, Witness2}, back, dark, GoesOn, Everything},
	{"A", "all; back: a witness, standby, standby, primary, a witness", []Role{Witness, Standby, Second, Primary, Witness2}, back, dark, GoesOn, Everything},
	{"AB", "all; back: primary, a witness, standby, the rest", []Role{Primary, Witness, Standby, Witness2, Second}, back, dark, GoesOn, Everything},
	{"AB", "all; back: standby, a witness, standby, the rest", []Role{Standby, Witness, Second, Witness2, Primary}, back, dark, GoesOn, Everything},
	{"D", "all; back: witness, primary, standby", []Role{Witness, Primary, Standby}, back, dark, GoesOn, Everything},
	{"D", "all; back: witness, standby, primary", []Role{Witness, Standby, Primary}, back, dark, GoesOn, Everything},
	{"D", "all; back: primary, witness, standby", []Role{Primary, Witness, Standby}, back, dark, GoesOn, Everything},
	{"D", "all; back: standby, witness, primary", []Role{Standby, Witness, Primary}, back, dark, GoesOn, Everything},
	{"D", "all; back: primary, standby, witness", []Role{Primary, Standby, Witness}, back, dark, GoesOn, Everything},
	{"D", "all; back: standby, primary, witness", []Role{Standby, Primary, Witness}, back, dark, GoesOn, Everything},

	{"ABD", "standby, then every witness, while pgbench runs", []Role{Standby, Witness, Witness2}, []time.Duration{2 * time.Second}, []Fault{Power, Daemons}, GoesOn, Bench},
}

var (
	back = []time.Duration{time.Second}
	dark = []Fault{Power}
)

// All returns every cell, topology by topology.
func All() []Cell {
	var cells []Cell
	for _, t := range Topologies() {
		for _, l := range table {
			if !strings.Contains(l.topologies, t.Name) {
				continue
			}
			var victims []Role
			for _, r := range l.victims {
				if r != Witness2 || t.Witnesses > 1 {
					victims = append(victims, r)
				}
			}
			for _, gap := range l.gaps {
				for _, f := range l.faults {
					cells = append(cells, Cell{Topology: t, Kind: l.kind, Order: l.order, Victims: victims, Gap: gap, Fault: f, Want: l.want})
				}
			}
		}
	}
	return cells
}

// Find returns the cell of this ID.
func Find(id string) (Cell, error) {
	for _, c := range All() {
		if c.ID() == id {
			return c, nil
		}
	}
	return Cell{}, fmt.Errorf("no cell %q", id)
}
