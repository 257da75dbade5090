package vrrp

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"pgvrrp/test/clock"
)

// epoch is when virtual time begins: no round number, so that nothing works by accident.
var epoch = clock.At(0, time.Date(2024, 2, 29, 23, 59, 58, 123456789, time.UTC))

// set is now as a router gets it in every test: somebody sets its wall clock back and forth by up to two hours. Only the monotonic
// reading may matter.
func set(now time.Time) time.Time { return walls.At(now.Sub(epoch)) }

var walls = clock.Steps{Seed: 3768, Every: 170 * time.Millisecond}

var (
	ip1 = netip.MustParseAddr("10.0.0.1")
	ip2 = netip.MustParseAddr("10.0.0.2") // our own in most tests
	ip3 = netip.MustParseAddr("10.0.0.3")
)

// config is a version 3 router with the RFC's defaults and a priority of 100.
func config(change ...func(*Config)) Config {
	c := Config{
		Version: 3, VRID: 51, Priority: 100, AdvertInterval: time.Second, DownTimerAdverts: 3,
		Preempt: true, Source: ip2, NotifyRetry: 10 * time.Second,
	}
	for _, f := range change {
		f(&c)
	}
	return c
}

func version2(c *Config)             { c.Version = 2 }
func owner(c *Config)                { c.Priority = PriorityOwner }
func noPreempt(c *Config)            { c.Preempt = false }
func afterNotify(c *Config)          { c.AddressesAfterNotify = true }
func lastAdvert(c *Config)           { c.HigherPrioSendAdvert = true }
func gated(c *Config)                { c.Gated = true }
func noAnswer(c *Config)             { c.LowerPrioNoAdvert = true }
func priority(p uint8) func(*Config) { return func(c *Config) { c.Priority = p } }
func every(d time.Duration) func(*Config) {
	return func(c *Config) { c.AdvertInterval = d }
}

// testingT is what machine needs of testing.T and rapid.T.
type testingT interface {
	Helper()
	Errorf(format string, args ...any)
	Fatalf(format string, args ...any)
}

// machine is a router under test in virtual time. Each step is checked against the invariants that hold for any
// sequence of events.
type machine struct {
	t     testingT
	r     *Router
	now   time.Time
	added bool // the addresses are on the interface
	grant bool // gated: mastership was granted, and neither revoked nor given up
	seq   uint64
	did   []Action // by the last step

	requests int
}

func newMachine(t testingT, c Config) *machine {
	t.Helper()
	r, err := NewRouter(c)
	if err != nil {
		t.Fatalf("NewRouter: %v", err)
	}
	return &machine{t: t, r: r, now: epoch}
}

// newBackup is a machine that has just started.
func newBackup(t testingT, change ...func(*Config)) *machine {
	t.Helper()
	m := newMachine(t, config(change...))
	m.step(Event{Kind: Startup})
	if m.r.State() != Backup {
		t.Fatalf("after Startup: got %v, want Backup", m.r.State())
	}
	return m
}

// newActive is a machine that has just taken over.
func newActive(t testingT, change ...func(*Config)) *machine {
	t.Helper()
	m := newMachine(t, config(change...))
	m.step(Event{Kind: Startup})
	if m.r.State() == Backup {
		m.tick()
	}
	if m.r.State() != Active {
		t.Fatalf("after the down timer: got %v, want Active", m.r.State())
	}
	return m
}

// wait lets time pass without telling the router.
func (m *machine) wait(d time.Duration) { m.now = m.now.Add(d) }

// tick goes to the deadline and ticks there.
func (m *machine) tick() []string {
	m.t.Helper()
	at := m.r.Deadline()
	if at.IsZero() {
		m.t.Fatalf("no deadline in %v", m.r.State())
	}
	if at.After(m.now) {
		m.now = at
	}
	return m.step(Event{Kind: Tick})
}

// hear is an advert from somebody who advertises each second.
func (m *machine) hear(from netip.Addr, priority uint8) []string {
	m.t.Helper()
	return m.step(Event{Kind: Received, From: from, Priority: priority, Interval: time.Second})
}

// step gives the actions as text.
func (m *machine) step(ev Event) []string {
	m.t.Helper()
	before := m.r.State()
	m.did = append(m.did[:0], m.r.Step(set(m.now), ev)...)
	var lines []string
	for _, a := range m.did {
		lines = append(lines, a.String())
	}
	m.check(before, ev, m.did)
	return lines
}

// in is how long it is until the deadline.
func (m *machine) in() time.Duration { return m.r.Deadline().Sub(m.now) }

func (m *machine) want(got []string, want ...string) {
	m.t.Helper()
	if !slices.Equal(got, want) {
		m.t.Errorf("got:\n  %s\nwant:\n  %s", strings.Join(got, "\n  "), strings.Join(want, "\n  "))
	}
}

func (m *machine) wantState(want State) {
	m.t.Helper()
	if got := m.r.State(); got != want {
		m.t.Errorf("got state %v, want %v", got, want)
	}
}

func (m *machine) wantIn(want time.Duration) {
	m.t.Helper()
	if got := m.in(); got != want {
		m.t.Errorf("got deadline in %v, want in %v", got, want)
	}
}

// newGranted is a gated machine that has just been granted mastership.
func newGranted(t testingT, change ...func(*Config)) *machine {
	t.Helper()
	m := newBackup(t, append(change, gated)...)
	m.step(Event{Kind: Granted})
	if m.r.State() != Active {
		t.Fatalf("after Granted: got %v, want Active", m.r.State())
	}
	return m
}

// orders are all sequences of actions that one step may give: s SendAdvert, 0 the same with priority 0, a AddAddresses,
// r RemoveAddresses, n Announce, N AnnounceAgain, t Transition, c Contention, q Request, g GiveUp.
var orders = map[string]string{
	"":     "nothing to do",
	"s":    "Adver_Timer, or an answer to priority 0",
	"sant": "takeover",
	"st":   "takeover, the addresses wait for the hook",
	"an":   "the hook succeeded",
	"0rt":  "leaves Active and says so",
	"rt":   "gives way to a higher priority, or Shutdown of a Backup",
	"srt":  "gives way to a higher priority with one last advert",
	"sNc":  "hears a lower priority",
	"sc":   "the same while the addresses wait",
	"Nc":   "the same without an answer",
	"c":    "the same with neither",
	"t":    "between Initialize, Backup and Fault",
}

// gatedOrders are those of a gated router.
var gatedOrders = map[string]string{
	"":     "nothing to do",
	"s":    "Adver_Timer, or an answer to priority 0, or to a higher one while the addresses wait",
	"sant": "Granted",
	"st":   "Granted, the addresses wait for the hook",
	"an":   "the hook succeeded",
	"g":    "Granted, and no use for it",
	"q":    "asks for mastership",
	"r0gt": "leaves Active on its own and says so",
	"rgt":  "Stalled",
	"r0t":  "Revoked",
	"rt":   "Shutdown of a Backup",
	"sN":   "hears a higher priority",
	"sNc":  "hears a lower priority",
	"sc":   "the same while the addresses wait",
	"Nc":   "the same without an answer",
	"c":    "the same with neither",
	"t":    "between Initialize, Backup and Fault",
}

// letters are those of the orders, by ActionKind.
const letters = "sarnNtcqg"

func order(actions []Action) string {
	var s strings.Builder
	for _, a := range actions {
		switch {
		case a.Kind == SendAdvert && a.Priority == PriorityLeaving:
			s.WriteByte('0')
		case int(a.Kind) < len(letters):
			s.WriteByte(letters[a.Kind])
		default:
			s.WriteByte('?')
		}
	}
	return s.String()
}

// check is what holds for any event in any state.
func (m *machine) check(before State, ev Event, actions []Action) {
	m.t.Helper()
	after := m.r.State()
	fail := func(format string, args ...any) {
		m.t.Helper()
		m.t.Errorf("%v in %v gave %q and %v: "+format, append([]any{ev.Kind, before, order(actions), after}, args...)...)
	}
	contract := orders
	if m.r.cfg.Gated {
		contract = gatedOrders
		m.checkGrant(before, ev, actions, fail)
	}
	if _, ok := contract[order(actions)]; !ok {
		fail("not an order of the contract")
	}
	refusal := m.r.cfg.Gated && ev.Kind == Granted && order(actions) == "g"
	if before == Initialize && ev.Kind != Startup && len(actions) > 0 && !refusal {
		fail("actions before Startup")
	}
	moved := false
	for _, a := range actions {
		switch a.Kind {
		case SendAdvert:
			if a.Priority == PriorityLeaving && (before != Active || after == Active) {
				fail("says that it leaves and doesn't")
			}
			if a.Priority != PriorityLeaving && a.Priority != m.r.EffectivePriority() {
				fail("advertises %d, effective is %d", a.Priority, m.r.EffectivePriority())
			}
			if before != Active && after != Active && !m.r.probed {
				fail("advertises without being Active")
			}
		case AddAddresses:
			if m.added {
				fail("adds the addresses twice")
			}
			if after != Active {
				fail("adds addresses without being Active")
			}
			m.added = true
		case RemoveAddresses:
			m.added = false
		case AnnounceAgain:
			if !m.added {
				fail("announces addresses that it doesn't have")
			}
		case Transition:
			m.seq++
			moved = true
			if a.From != before || a.To != after || a.From == a.To {
				fail("transition %v -> %v", a.From, a.To)
			}
			if a.Seq != m.seq || m.r.Seq() != m.seq {
				fail("transition has number %d, want %d", a.Seq, m.seq)
			}
			if a.Reason == "" {
				fail("transition without a reason")
			}
		}
	}
	if before != after && !moved {
		fail("changed state without a transition")
	}
	if want := after == Active && !m.r.AddressesWait(); m.added != want {
		fail("addresses on the interface: got %v, want %v", m.added, want)
	}
	deadline := m.r.Deadline()
	switch after {
	case Active, Backup:
		if deadline.IsZero() {
			fail("no deadline")
		}
	case Initialize:
		if !deadline.IsZero() {
			fail("deadline %v", deadline)
		}
	case Fault:
		if m.r.FaultReason() == "" {
			fail("Fault without a reason")
		}
	}
	if ev.Kind == Tick && !deadline.IsZero() && !deadline.After(m.now) {
		fail("wants another Tick at once: %v after %v", m.now.Sub(deadline), deadline)
	}
	if p := m.r.EffectivePriority(); p == 0 {
		fail("effective priority 0")
	}
	if deadline.IsZero() || deadline.After(m.now) {
		if again := m.r.Step(set(m.now), Event{Kind: Tick}); len(again) > 0 || m.r.State() != after {
			fail("a Tick before the deadline did %q", order(again))
		}
	}
}

// checkGrant is what holds for a gated router besides: Active only between a grant and its end, each grant has one end, and
// the addresses are the first to go.
func (m *machine) checkGrant(before State, ev Event, actions []Action, fail func(string, ...any)) {
	m.t.Helper()
	after := m.r.State()
	switch ev.Kind {
	case Granted:
		m.grant = true
	case Revoked:
		m.grant = false
	}
	for _, a := range actions {
		switch a.Kind {
		case GiveUp:
			if !m.grant {
				fail("gives up what it wasn't granted")
			}
			m.grant = false
		case Request:
			m.requests++
			if before != Backup || after != Backup {
				fail("asks for mastership")
			}
			if m.now.Before(m.r.HeldUntil()) {
				fail("asks for mastership while it is held")
			}
		default:
			continue
		}
		if a.Reason == "" {
			fail("%v without a reason", a.Kind)
		}
	}
	if (after == Active) != m.grant {
		fail("mastership is granted: %v", m.grant)
	}
	if before != Active && after == Active && ev.Kind != Granted {
		fail("took mastership without a grant")
	}
	if before == Active && after != Active && actions[0].Kind != RemoveAddresses {
		fail("leaves, and the addresses don't go first")
	}
}

// vip is the virtual address of most tests.
var vip = netip.MustParseAddr("10.0.0.100")

var _ testingT = (*testing.T)(nil)
