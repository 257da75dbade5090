package core

import "fmt"

// Position is the end of a server's WAL, with the timeline that owns it by real history files.
type Position struct {
	TLI uint32
	LSN uint64
}

// String is "timeline 3 at 0/16B3740".
func (p Position) String() string {
	return fmt.Sprintf("timeline %d at %X/%X", p.TLI, p.LSN>>32, uint32(p.LSN))
}

// Fork is one line of a history file: the WAL of timeline TLI ends at LSN, where its successor branches off.
type Fork struct {
	TLI uint32
	LSN uint64
}

// Timeline is one line of the log's ledger. SwitchLSN is 0 as long as it was not used.
type Timeline struct {
	TLI       uint32
	Parent    uint32
	SwitchLSN uint64
	Epoch     uint64
	Node      string
}

// before reports whether a server that ends here has lost something of what it had when its records ended at mark.
func (p Position) before(mark Position) bool { return p.TLI < mark.TLI || p.LSN < mark.LSN }

func forkOf(history []Fork, tli uint32) (lsn uint64, ok bool) {
	for _, f := range history {
		if f.TLI == tli {
			return f.LSN, true
		}
	}
	return 0, false
}

// diverged says why a server at mine, whose own timeline has the ancestors own, can't stream from src; "" if it can. Histories
// are compared line by line, and src's with the ledger: a number that was used twice is found by where it branched off.
func diverged(mine Position, own []Fork, src *Source, ledger []Timeline) string {
	if mine.TLI == 0 || mine.LSN == 0 {
		return "its own position is not known"
	}
	for k, f := range src.History {
		child := src.TLI
		if k+1 < len(src.History) {
			child = src.History[k+1].TLI
		}
		for _, t := range ledger {
			if t.TLI == child && t.SwitchLSN != 0 && t.SwitchLSN != f.LSN {
				return fmt.Sprintf("%s has timeline %d from %X, the ledger from %X", src.Node, child, f.LSN, t.SwitchLSN)
			}
		}
	}
	for _, f := range own {
		at, ok := forkOf(src.History, f.TLI)
		if !ok {
			return fmt.Sprintf("it left timeline %d, %s did not", f.TLI, src.Node)
		}
		if at != f.LSN {
			return fmt.Sprintf("it left timeline %d at %X, %s at %X", f.TLI, f.LSN, src.Node, at)
		}
	}
	if mine.TLI == src.TLI {
		if mine.LSN > src.LSN {
			return fmt.Sprintf("it is at %X of timeline %d, %s only at %X", mine.LSN, mine.TLI, src.Node, src.LSN)
		}
		return ""
	}
	at, ok := forkOf(src.History, mine.TLI)
	if !ok {
		return fmt.Sprintf("timeline %d is no ancestor of %d, where %s is", mine.TLI, src.TLI, src.Node)
	}
	if mine.LSN > at {
		return fmt.Sprintf("it is at %X of timeline %d, which %s left at %X", mine.LSN, mine.TLI, src.Node, at)
	}
	return ""
}
