package quorum

import (
	"slices"

	"pgvrrp/internal/quorum/record"
)

// pushed is a record on its way in a datagram. A ledger only grows, and only its last line is ever changed: the newest lines are enough for
// whoever has the others.
type pushed struct {
	record.Resource
	Left int `json:"left,omitempty"` // so many lines of the ledger are left out, the oldest
}

// pushedLines is how many lines of the ledger are sent.
const pushedLines = 4

func shorten(r *record.Resource) pushed {
	p := pushed{Resource: *r, Left: max(0, len(r.Ledger)-pushedLines)}
	p.Ledger = r.Ledger[p.Left:]
	return p
}

// whole puts together what was pushed and what own, an older record, has of the ledger. Not ok: the log has to bring it.
func (p pushed) whole(own *record.Resource) (*record.Resource, bool) {
	r := p.Resource
	if p.Left == 0 {
		return &r, true
	}
	// The last line of an older record may have changed since, so it must be among those that were sent.
	if p.Left < 0 || own == nil || own.Index > r.Index || len(own.Ledger) <= p.Left {
		return nil, false
	}
	r.Ledger = append(slices.Clone(own.Ledger[:p.Left]), p.Ledger...)
	return &r, true
}
