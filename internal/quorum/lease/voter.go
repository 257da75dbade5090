package lease

import (
	"time"

	"pgvrrp/internal/quorum/record"
)

// VoterOptions are what a voter was at its start.
type VoterOptions struct {
	Resource string
	Params   Params
	Start    time.Duration // when this run began
	Sealed   uint64        // from disk
	Longest  time.Duration // from disk: the longest Hold ever acknowledged; 0: none but our own parameters'
}

// Voter acknowledges and seals the epochs of one resource. It takes Received (Renew, SealQuery, SealIt), Known, Configured and
// Stored.
type Voter struct {
	o   VoterOptions
	cfg Config // zero: our log is not known yet, and we answer nothing

	epoch   uint64 // of the log
	acked   uint64 // the highest epoch ever acknowledged in this run
	ackedAt time.Duration
	wait    time.Duration // from ackedAt on nothing up to acked is sealed
	sealed  uint64        // no renewal any more, whether that is on disk yet or not
	stored  uint64        // the part of it that is on disk, and may be told
	longest time.Duration // on disk
	storing bool          // longest is being stored
	askers  []asker       // who waits for stored

	out actions
}

type asker struct {
	id   string
	seq  uint64
	boot record.Boot
}

// NewVoter makes a voter that is silent for the time that a lease which it acknowledged before its start may still last.
func NewVoter(o VoterOptions) *Voter {
	return &Voter{o: o, sealed: o.Sealed, stored: o.Sealed, longest: max(o.Longest, o.Params.Hold())}
}

// Silent is how long from now the voter still answers nothing, because it does not know what it acknowledged before its start.
func (v *Voter) Silent(now time.Duration) time.Duration {
	return max(0, v.o.Start+v.o.Params.Wait(v.quarantine())-now)
}

// quarantine is by what was on disk at the start, not by what was learned since.
func (v *Voter) quarantine() time.Duration { return max(v.o.Longest, v.o.Params.Hold()) }

// Step takes one event. The actions are valid until the next Step.
func (v *Voter) Step(now time.Duration, ev Event) []Action {
	v.out = v.out[:0]
	switch ev.Kind {
	case Known:
		v.epoch = max(v.epoch, ev.Record.Epoch)
	case Configured:
		v.cfg = ev.Configuration.Config
	case Stored:
		v.onStored(ev)
	case Received:
		if v.cfg != (Config{}) && v.Silent(now) == 0 {
			v.received(now, ev.From, ev.Message)
		}
	}
	return v.out
}

func (v *Voter) onStored(ev Event) {
	switch ev.What {
	case Hold:
		v.storing = false
		if ev.Err == nil {
			v.longest = max(v.longest, ev.Hold)
		}
	case Seal:
		if ev.Err != nil {
			v.askers = v.askers[:0] // what we hold in memory is the stricter; who asked asks again
			return
		}
		v.stored = max(v.stored, ev.Epoch)
		for _, a := range v.askers {
			v.out.send(a.id, Message{Kind: Sealed, Resource: v.o.Resource, Epoch: v.stored, Seq: a.seq, Boot: a.boot, Config: v.cfg})
		}
		v.askers = v.askers[:0]
	}
}

func (v *Voter) received(now time.Duration, from string, m *Message) {
	switch m.Kind {
	case Renew, SealQuery, SealIt:
	default:
		return
	}
	answer := Message{Kind: Refused, Resource: v.o.Resource, Epoch: m.Epoch, Seq: m.Seq, Boot: m.Boot, Config: v.cfg}
	switch {
	case m.Config != v.cfg:
		// Another membership counts another majority; the asker's or our own log is behind.
		answer.Refusal = OtherConfig
	case m.Epoch < v.epoch || m.Epoch < v.acked:
		answer.Refusal, answer.Epoch = IsOld, max(v.epoch, v.acked)
	case m.Kind == Renew:
		v.renew(now, m, &answer)
	default:
		v.seal(now, from, m, &answer)
	}
	if answer.Kind != 0 {
		v.out.send(from, answer)
	}
}

func (v *Voter) renew(now time.Duration, m, answer *Message) {
	switch {
	case m.Epoch <= v.sealed:
		answer.Refusal, answer.Epoch = IsSealed, v.sealed
	case m.Hold > v.longest:
		// After a restart we shall be silent for so long; that must be on disk before it is needed.
		answer.Kind = 0
		if !v.storing {
			v.storing = true
			v.out = append(v.out, Action{Kind: Store, What: Hold, Hold: m.Hold})
		}
	default:
		wait := v.o.Params.Wait(m.Hold)
		if until := v.ackedAt + v.wait; until > now+wait {
			wait = until - now // a longer one was acknowledged before
		}
		v.acked, v.ackedAt, v.wait = m.Epoch, now, wait
		answer.Kind = Renewed
	}
}

func (v *Voter) seal(now time.Duration, from string, m, answer *Message) {
	switch left := v.ackedAt + v.wait - now; {
	case v.stored >= m.Epoch:
		answer.Kind, answer.Epoch = Sealed, v.stored
	case v.acked != 0 && left > 0:
		answer.Kind, answer.Hold = Wait, left
	case m.Kind == SealQuery:
		answer.Kind = WouldSeal
	default:
		answer.Kind = 0
		for k := range v.askers {
			if v.askers[k].id == from {
				v.askers[k] = asker{from, m.Seq, m.Boot}
				return
			}
		}
		v.askers = append(v.askers, asker{from, m.Seq, m.Boot})
		v.sealed = max(v.sealed, m.Epoch)
		v.out = append(v.out, Action{Kind: Store, What: Seal, Epoch: v.sealed})
	}
}
