package link

import (
	"sync"
	"time"
)

// refusedFor is for how long a refusal is told after it happened last. Pings come ten times a second and streams are tried again at
// least each second, so that what lasts is told without a gap.
const refusedFor = 5 * time.Second

// strangeFor is for how long a single refused datagram or connection is worth a word.
const strangeFor = time.Minute

// refusals are the last ones between a voter and this one.
type refusals struct {
	mu    sync.Mutex
	words told   // of a stream or an admission: a sentence
	bare  Reason // of a datagram
	at    time.Duration
}

type told struct {
	text string
	at   time.Duration
}

// refusalsOf is made once for each voter, and outlives reloads.
func (n *Network) refusalsOf(id string) *refusals {
	if r, ok := n.refused.Load(id); ok {
		return r.(*refusals)
	}
	r, _ := n.refused.LoadOrStore(id, &refusals{})
	return r.(*refusals)
}

// say notes a refusal that has a sentence. What passes by itself after a start is none.
func (r *refusals) say(now time.Duration, why Reason, text string) {
	switch why {
	case NoCluster, NotReady, OtherRun, Busy, Silent:
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.words = told{text, now}
}

// clear is for a voter that is admitted again.
func (r *refusals) clear() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.words, r.bare, r.at = told{}, None, 0
}

// drop notes a datagram that was dropped. What is normal after a start, or the network's doing, is no refusal.
func (r *refusals) drop(now time.Duration, why Reason) {
	if why.words() == "" {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.bare, r.at = why, now
}

// Rejected counts what was refused since the start, from whoever it came, by Reason; nil if nothing was. What is normal after a start is
// left out. lately tells that the last one is less than a minute ago.
func (n *Network) Rejected() (all map[string]uint64, lately bool) {
	add := func(c *counters) {
		for r := range c {
			if count := c[r].Load(); count > 0 && Reason(r).strange() {
				if all == nil {
					all = map[string]uint64{}
				}
				all[Reason(r).String()] += count
			}
		}
	}
	for _, l := range n.locals {
		add(&l.rejected)
	}
	for _, p := range n.view.Load().order {
		for _, l := range p.links {
			add(&l.rejected)
		}
	}
	at := time.Duration(n.strangeAt.Load())
	return all, at != 0 && n.o.Now()-at < strangeFor
}

// strange reports whether r is neither what a start brings, nor the network's doing.
func (r Reason) strange() bool {
	switch r {
	case None, NoCluster, NotReady, OtherRun, NotAdmitted, Outlived, NoPart, OldStart, Replay:
		return false
	}
	return true
}

// text is why one of the two sides does not talk to the other; "" if nothing was refused lately.
func (r *refusals) text(now time.Duration) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.words.text != "" && now-r.words.at < refusedFor:
		return r.words.text
	case r.bare != None && now-r.at < refusedFor:
		return "its datagrams are refused: " + r.bare.words()
	}
	return ""
}

// words say what a dropped datagram means to an operator; "" if nothing.
func (r Reason) words() string {
	switch r {
	case Malformed, TooLarge:
		return "they are none of this program's"
	case OtherVersion:
		return "they have another version of the protocol: the same version of vrrpd is needed everywhere"
	case BadMAC:
		return "they are sealed with another key, forged or damaged: every voter needs the same key file"
	case OtherCluster:
		return "they are of another cluster"
	case UnknownVoter:
		return "their sender is not in the configuration here"
	case OtherVoter:
		return "they are for another voter: the addresses in the two files differ"
	case TwoRuns:
		return "two runs say that they are the same start of one state directory: it was copied"
	}
	return ""
}
