package lease

import (
	"testing"
	"time"

	"pgvrrp/internal/quorum/record"
)

func renewal(epoch uint64) Message {
	return Message{Kind: Renew, Resource: "r", Epoch: epoch, Seq: epoch*100 + 1, Boot: 5, Config: five.Config, Hold: params.Hold()}
}

func asked(k MessageKind, epoch uint64) Message {
	return Message{Kind: k, Resource: "r", Epoch: epoch, Seq: 9, Boot: 8, Config: five.Config}
}

// newTestVoter has started at 0 and is out of its quarantine at a second.
func newTestVoter(change ...func(*VoterOptions)) *Voter {
	o := VoterOptions{Resource: "r", Params: params}
	for _, c := range change {
		c(&o)
	}
	v := NewVoter(o)
	v.Step(0, Event{Kind: Configured, Configuration: five})
	return v
}

func TestVoterAcknowledges(t *testing.T) {
	v := newTestVoter()
	m := sent(t, v.Step(time.Second, heardFrom("n1", renewal(3))), Renewed)
	if m.Epoch != 3 || m.Seq != 301 || m.Boot != 5 || m.Config != five.Config {
		t.Errorf("got %+v, want the renewal's epoch, seq, boot and membership", m)
	}
}

func TestVoterQuarantine(t *testing.T) {
	for _, tt := range []struct {
		name    string
		longest time.Duration
		want    time.Duration
	}{
		{"of its own parameters", 0, wait},
		{"of the longest hold ever acknowledged", 2200 * ms, params.Wait(2200 * ms)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			v := newTestVoter(func(o *VoterOptions) { o.Start, o.Longest = time.Second, tt.longest })
			for _, m := range []Message{renewal(3), asked(SealQuery, 3), asked(SealIt, 3)} {
				none(t, v.Step(time.Second+tt.want-1, heardFrom("n1", m)))
			}
			if v.Silent(time.Second+tt.want-1) != 1 || v.Silent(time.Second+tt.want) != 0 {
				t.Error("got another end of the quarantine")
			}
			sent(t, v.Step(time.Second+tt.want, heardFrom("n1", renewal(3))), Renewed)
		})
	}
}

func TestVoterKnowsNoMembershipYet(t *testing.T) {
	v := NewVoter(VoterOptions{Resource: "r", Params: params})
	m := renewal(3)
	m.Config = Config{}
	none(t, v.Step(time.Second, heardFrom("n1", m)))
}

func TestVoterRefuses(t *testing.T) {
	other := func(m Message) Message { m.Config.Digest++; return m }
	v := newTestVoter(func(o *VoterOptions) { o.Sealed = 4 })
	v.Step(time.Second, knows(active(1, 3, n1)))
	v.Step(time.Second, heardFrom("n1", renewal(6)))
	for _, tt := range []struct {
		name  string
		m     Message
		want  Refusal
		epoch uint64
	}{
		{"renewal of another membership", other(renewal(6)), OtherConfig, 6},
		{"seal of another membership", other(asked(SealIt, 6)), OtherConfig, 6},
		{"question of another membership", other(asked(SealQuery, 6)), OtherConfig, 6},
		{"renewal below one acknowledged", renewal(5), IsOld, 6},
		{"seal below one acknowledged", asked(SealIt, 5), IsOld, 6},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := sent(t, v.Step(time.Second, heardFrom("n1", tt.m)), Refused)
			if m.Refusal != tt.want || m.Epoch != tt.epoch || m.Seq != tt.m.Seq || m.Boot != tt.m.Boot {
				t.Errorf("got %v epoch %d, want %v epoch %d", m.Refusal, m.Epoch, tt.want, tt.epoch)
			}
		})
	}
	t.Run("renewal of a sealed epoch", func(t *testing.T) {
		v := newTestVoter(func(o *VoterOptions) { o.Sealed = 4 })
		if m := sent(t, v.Step(time.Second, heardFrom("n1", renewal(4))), Refused); m.Refusal != IsSealed || m.Epoch != 4 {
			t.Errorf("got %+v, want sealed", m)
		}
	})
	t.Run("renewal below the log's epoch", func(t *testing.T) {
		v := newTestVoter()
		v.Step(0, knows(active(1, 7, n1)))
		if m := sent(t, v.Step(time.Second, heardFrom("n1", renewal(6))), Refused); m.Refusal != IsOld || m.Epoch != 7 {
			t.Errorf("got %+v, want old", m)
		}
	})
	t.Run("the newest membership counts, committed or not", func(t *testing.T) {
		v := newTestVoter()
		newer := *five
		newer.Index, newer.Committed = 11, false
		v.Step(time.Second, Event{Kind: Configured, Configuration: &newer})
		if m := sent(t, v.Step(time.Second, heardFrom("n1", renewal(3))), Refused); m.Refusal != OtherConfig || m.Config != newer.Config {
			t.Errorf("got %+v, want another membership", m)
		}
		v.Step(time.Second, Event{Kind: Configured, Configuration: five}) // the entry was cut off
		sent(t, v.Step(time.Second, heardFrom("n1", renewal(3))), Renewed)
	})
}

func TestVoterSealsOnlyAfterWait(t *testing.T) {
	v := newTestVoter()
	v.Step(time.Second, heardFrom("n1", renewal(3)))
	for _, k := range []MessageKind{SealQuery, SealIt} {
		for _, epoch := range []uint64{3, 4} {
			m := sent(t, v.Step(time.Second+wait-7*ms, heardFrom("w1", asked(k, epoch))), Wait)
			if m.Hold != 7*ms || m.Seq != 9 || m.Boot != 8 {
				t.Errorf("%v %d: got wait for %v, want 7ms", k, epoch, m.Hold)
			}
		}
	}
	sent(t, v.Step(time.Second+wait, heardFrom("w1", asked(SealQuery, 3))), WouldSeal)
	sent(t, v.Step(time.Second+wait, heardFrom("n1", renewal(3))), Renewed) // a question has no effect
	none(t, v.Step(time.Second+wait, heardFrom("w1", asked(SealIt, 3))), Store)
}

func TestVoterWaitsForTheLongestAcknowledged(t *testing.T) {
	v := newTestVoter(func(o *VoterOptions) { o.Longest = 2200 * ms })
	long := renewal(3)
	long.Hold = 2200 * ms
	const at = 5 * time.Second
	sent(t, v.Step(at, heardFrom("n1", long)), Renewed)
	sent(t, v.Step(at+ms, heardFrom("n2", renewal(4))), Renewed)
	m := sent(t, v.Step(at+time.Second, heardFrom("w1", asked(SealIt, 4))), Wait)
	if want := params.Wait(2200*ms) - time.Second; m.Hold != want {
		t.Errorf("got wait for %v, want %v: the longer lease is not over", m.Hold, want)
	}
}

func TestVoterSealPersistedBeforeTold(t *testing.T) {
	v := newTestVoter()
	a := v.Step(time.Second, heardFrom("w1", asked(SealIt, 3)))
	if s := one(t, a, Store); s.What != Seal || s.Epoch != 3 {
		t.Errorf("got %+v, want the seal of 3 stored", s)
	}
	none(t, a, Send)
	if m := sent(t, v.Step(time.Second, heardFrom("n1", renewal(3))), Refused); m.Refusal != IsSealed {
		t.Errorf("got %v before the seal is on disk, want sealed already", m.Refusal)
	}
	none(t, v.Step(time.Second, heardFrom("w1", asked(SealIt, 3)))) // asked again: once is enough
	none(t, v.Step(time.Second, heardFrom("w2", asked(SealIt, 3))), Send)
	a = v.Step(time.Second+ms, Event{Kind: Stored, What: Seal, Epoch: 3})
	if len(a) != 2 || a[0].To != "w1" || a[1].To != "w2" || a[0].Message.Kind != Sealed || a[0].Message.Epoch != 3 || a[0].Message.Seq != 9 {
		t.Errorf("got %+v, want Sealed told to w1 and w2", a)
	}
	sent(t, v.Step(time.Second+2*ms, heardFrom("w1", asked(SealIt, 3))), Sealed)
	sent(t, v.Step(time.Second+2*ms, heardFrom("w1", asked(SealQuery, 2))), Sealed)
}

func TestVoterSealThatIsNotStored(t *testing.T) {
	v := newTestVoter()
	v.Step(time.Second, heardFrom("w1", asked(SealIt, 3)))
	none(t, v.Step(time.Second, Event{Kind: Stored, What: Seal, Epoch: 3, Err: errIO}))
	sent(t, v.Step(time.Second, heardFrom("n1", renewal(3))), Refused)
	one(t, v.Step(time.Second, heardFrom("w1", asked(SealIt, 3))), Store)
	sent(t, v.Step(time.Second, Event{Kind: Stored, What: Seal, Epoch: 3}), Sealed)
}

func TestVoterStoresALongerHoldFirst(t *testing.T) {
	v := newTestVoter()
	long := renewal(3)
	long.Hold = 2200 * ms
	a := v.Step(time.Second, heardFrom("n1", long))
	if s := one(t, a, Store); s.What != Hold || s.Hold != 2200*ms {
		t.Errorf("got %+v, want the hold stored", s)
	}
	none(t, a, Send)
	none(t, v.Step(time.Second, heardFrom("n1", long)))
	v.Step(time.Second, Event{Kind: Stored, What: Hold, Hold: 2200 * ms, Err: errIO})
	one(t, v.Step(time.Second, heardFrom("n1", long)), Store)
	v.Step(time.Second, Event{Kind: Stored, What: Hold, Hold: 2200 * ms})
	sent(t, v.Step(time.Second, heardFrom("n1", long)), Renewed)
	if v.Silent(time.Second) != 0 {
		t.Error("got a quarantine for what was learned since the start")
	}
}

func TestVoterIgnoresWhatIsNotForIt(t *testing.T) {
	v := newTestVoter()
	for k := Renewed; k <= lastKind; k++ {
		if k != SealQuery && k != SealIt {
			none(t, v.Step(time.Second, heardFrom("n1", asked(k, 3))))
		}
	}
	none(t, v.Step(time.Second, Event{Kind: Tick}))
	none(t, v.Step(time.Second, knows(record.Resource{Epoch: 1})))
}
