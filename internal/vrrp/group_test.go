package vrrp

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
)

// groupLAN is two or more nodes with the same two virtual routers each, which are a sync group, each on a link of its own.
type groupLAN struct {
	t      *testing.T
	now    time.Time
	nodes  []*groupNode
	flying []groupFlight
	cut    map[[3]int]bool // link, from, to
	random *rand.Rand
	log    []string
}

type groupNode struct {
	name    string
	group   *Group
	routers []*Router
	fault   [2]bool
	seen    State
}

type groupFlight struct {
	at             time.Time
	link, from, to int
	priority       uint8
}

const groupLinks = 2

func newGroupLAN(t *testing.T, random *rand.Rand, configs ...[groupLinks]Config) *groupLAN {
	l := &groupLAN{t: t, now: epoch, cut: map[[3]int]bool{}, random: random}
	for n, c := range configs {
		node := &groupNode{name: fmt.Sprintf("n%d", n+1), group: NewGroup("VI_1", "VI_2")}
		for link, c := range c {
			c.Grouped, c.VRID = true, uint8(51+link)
			r, err := NewRouter(c)
			if err != nil {
				t.Fatal(err)
			}
			node.routers = append(node.routers, r)
		}
		l.nodes = append(l.nodes, node)
	}
	return l
}

// give has a router take an event, and its group do what follows.
func (l *groupLAN) give(n, link int, ev Event) {
	l.t.Helper()
	type order struct {
		link int
		ev   Event
	}
	node := l.nodes[n]
	queue := []order{{link, ev}}
	for steps := 0; len(queue) > 0; steps++ {
		if steps > 100 {
			l.t.Fatalf("%s: the orders never end: %v", node.name, queue)
		}
		o := queue[0]
		queue = queue[1:]
		r := node.routers[o.link]
		reason := ""
		for _, a := range r.Step(set(l.now), o.ev) {
			switch a.Kind {
			case SendAdvert:
				l.send(n, o.link, a.Priority)
			case Transition, Request:
				reason = a.Reason
			}
		}
		m := Member{State: r.State(), Ready: r.Ready(), Held: l.now.Before(r.HeldUntil()), OwnFault: r.OwnFault()}
		for _, more := range node.group.Update(o.link, m, reason) {
			queue = append(queue, order{more.Member, more.Event})
		}
	}
	states := []State{node.routers[0].State(), node.routers[1].State()}
	if slices.Contains(states, Active) && states[0] != states[1] {
		l.t.Errorf("%v %s: one member is Active and the other is not: %v", l.now.Sub(epoch), node.name, states)
	}
	if s := node.group.State(); s != node.seen {
		node.seen = s
		l.log = append(l.log, fmt.Sprintf("%.3f %s %v", l.now.Sub(epoch).Seconds(), node.name, s))
	}
}

func (l *groupLAN) send(n, link int, priority uint8) {
	for to := range l.nodes {
		if to != n && !l.cut[[3]int{link, n, to}] {
			l.flying = append(l.flying, groupFlight{l.now.Add(latency + time.Duration(l.random.IntN(1000))*time.Microsecond), link, n, to, priority})
		}
	}
}

func (l *groupLAN) run(d time.Duration) {
	l.t.Helper()
	for end := l.now.Add(d); ; {
		at, flight, tickNode, tickLink := end, -1, -1, -1
		for i, f := range l.flying {
			if f.at.Before(at) {
				at, flight = f.at, i
			}
		}
		for n, node := range l.nodes {
			for link, r := range node.routers {
				if d := r.Deadline(); !d.IsZero() && d.Before(at) {
					at, flight, tickNode, tickLink = d, -1, n, link
				}
			}
		}
		if at.After(l.now) {
			l.now = at
		}
		switch {
		case flight >= 0:
			f := l.flying[flight]
			l.flying = slices.Delete(l.flying, flight, flight+1)
			l.give(f.to, f.link, Event{Kind: Received, From: groupIP(f.from, f.link), Priority: f.priority, Interval: time.Second})
		case tickNode >= 0:
			l.give(tickNode, tickLink, Event{Kind: Tick})
		default:
			return
		}
	}
}

func (l *groupLAN) start() {
	for n := range l.nodes {
		for link := range groupLinks {
			l.give(n, link, Event{Kind: Startup})
		}
	}
}

func (l *groupLAN) fault(n, link int, on bool) {
	if l.nodes[n].fault[link] = on; on {
		l.give(n, link, Event{Kind: FaultRaised, Reason: "disk"})
	} else {
		l.give(n, link, Event{Kind: FaultCleared})
	}
}

func (l *groupLAN) wantLog(want ...string) {
	l.t.Helper()
	if !slices.Equal(l.log, want) {
		l.t.Errorf("got %q\nwant %q", l.log, want)
	}
	l.log = nil
}

func groupIP(n, link int) netip.Addr { return netip.AddrFrom4([4]byte{10, byte(link), 0, byte(n + 1)}) }

// groupConfig is a node's pair of virtual routers.
func groupConfig(n int, first, second uint8, change ...func(*Config)) (c [groupLinks]Config) {
	for link, p := range []uint8{first, second} {
		c[link] = config(append(change, priority(p))...)
		c[link].Source = groupIP(n, link)
	}
	return c
}

func seeded(seed uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, 0)) }

// Painful problem 23 of keepalived's users: a group that is stuck between its members' states.
func TestGroupMovesTogether(t *testing.T) {
	l := newGroupLAN(t, seeded(1), groupConfig(0, 100, 100), groupConfig(1, 50, 50))
	l.start()
	l.run(10 * time.Second)
	l.wantLog("0.000 n1 Backup", "0.000 n2 Backup", "3.609 n1 Active")

	// one member's fault is the other's, and the peer's group takes over as a whole, after the skew
	l.fault(0, 1, true)
	l.run(5 * time.Second)
	l.wantLog("10.000 n1 Fault", "10.807 n2 Active")
	if got, want := l.nodes[0].routers[0].FaultReason(), "sync group, by VI_2: disk"; got != want {
		t.Errorf("got fault %q, want %q", got, want)
	}
	if got := l.nodes[0].routers[0].OwnFault(); got != "" {
		t.Errorf("got own fault %q, want none", got)
	}
	l.fault(0, 0, true)
	l.fault(0, 1, false)
	l.run(5 * time.Second)
	l.wantLog()
	l.fault(0, 0, false)
	l.run(10 * time.Second)
	l.wantLog("20.000 n1 Backup", "23.609 n1 Active", "23.611 n2 Backup")

	// one link is cut: nobody can take both, so that nobody moves
	l.cut[[3]int{1, 0, 1}], l.cut[[3]int{1, 1, 0}] = true, true
	l.run(30 * time.Second)
	l.wantLog()
}

// Different priorities per member: nobody wins both elections, so that who is Active stays.
func TestGroupOfTwoMinds(t *testing.T) {
	l := newGroupLAN(t, seeded(1), groupConfig(0, 150, 50), groupConfig(1, 100, 100))
	l.start()
	l.run(20 * time.Second)
	if got := []State{l.nodes[0].group.State(), l.nodes[1].group.State()}; !slices.Equal(got, []State{Backup, Active}) {
		t.Errorf("got %v, want [Backup Active]: n2's slower member is ready before n1's; %q", got, l.log)
	}
}

func TestGroupOfOwners(t *testing.T) {
	l := newGroupLAN(t, seeded(1), groupConfig(0, 255, 255), groupConfig(1, 100, 100))
	l.start()
	l.run(10 * time.Second)
	l.wantLog("0.000 n1 Active", "0.000 n2 Backup")
}

func TestGroupReleased(t *testing.T) {
	l := newGroupLAN(t, seeded(1), groupConfig(0, 100, 100), groupConfig(1, 50, 50))
	l.start()
	l.run(10 * time.Second)
	l.log = nil
	l.give(0, 0, Event{Kind: Release, Hold: 10 * time.Second}) // one member alone keeps all of them off
	l.run(9 * time.Second)
	l.wantLog("10.000 n1 Backup", "10.807 n2 Active")
	l.run(10 * time.Second)
	if got := l.nodes[0].group.State(); got != Active {
		t.Errorf("got %v after the hold, want Active: %q", got, l.log)
	}
}

// TestGroupOrders: who is told what when a member reports. The one that reports is no exception: one that says that it is
// Active while another can't be, as after a reload that added a member, must go like the rest.
func TestGroupOrders(t *testing.T) {
	active, ready, waits := Member{State: Active}, Member{State: Backup, Ready: true}, Member{State: Backup}
	held, faulty := Member{State: Backup, Ready: true, Held: true}, Member{State: Fault, OwnFault: "disk"}
	for _, tt := range []struct {
		name    string
		others  []Member // VI_2 and on, which have reported before
		reports Member   // VI_1
		want    []string
	}{
		{"all could", []Member{ready, ready}, ready, []string{"0 GroupActive", "1 GroupActive", "2 GroupActive"}},
		{"one is Active already", []Member{active}, ready, []string{"0 GroupActive"}},
		{"all are Active", []Member{active}, active, nil},
		{"one waits", []Member{waits}, ready, nil},
		{"one is held", []Member{held}, ready, nil},
		{"Active while a new member has not started", []Member{{}}, active, []string{"0 GroupBackup"}},
		{"Active while another waits", []Member{waits, active}, active, []string{"0 GroupBackup", "2 GroupBackup"}},
		{"Active while another is held", []Member{held}, active, []string{"0 GroupBackup"}},
		{"no longer Active", []Member{active, active}, waits, []string{"1 GroupBackup", "2 GroupBackup"}},
		{"a fault", []Member{active, waits}, faulty, []string{"1 GroupFault", "2 GroupFault", "1 GroupBackup"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			g := NewGroup("VI_1", "VI_2", "VI_3")
			if len(tt.others) == 1 {
				g = NewGroup("VI_1", "VI_2")
			}
			for k, m := range tt.others {
				g.Update(k+1, m, "before")
			}
			var got []string
			for _, o := range g.Update(0, tt.reports, "now") {
				got = append(got, fmt.Sprintf("%d %v", o.Member, o.Event.Kind))
				if !strings.HasPrefix(o.Event.Reason, "sync group, by VI_1: ") {
					t.Errorf("%d %v: got reason %q, want VI_1's", o.Member, o.Event.Kind, o.Event.Reason)
				}
			}
			if !slices.Equal(got, tt.want) {
				t.Errorf("got %q\nwant %q", got, tt.want)
			}
		})
	}
}

// TestGroupConverges: whatever happened, once the links and the disks are whole exactly one node has all, and no node ever
// has one member Active and the other not (see give).
func TestGroupConverges(t *testing.T) {
	for seed := range uint64(300) {
		random := seeded(seed)
		configs := [][groupLinks]Config{}
		for n := range 2 + random.IntN(2) {
			p := uint8(1 + random.IntN(254))
			var change []func(*Config)
			if random.IntN(2) == 0 {
				change = append(change, noPreempt)
			}
			if random.IntN(2) == 0 {
				change = append(change, afterNotify)
			}
			configs = append(configs, groupConfig(n, p, p, change...))
		}
		l := newGroupLAN(t, random, configs...)
		l.start()
		for range 30 {
			l.run(time.Duration(random.IntN(4000)) * time.Millisecond)
			n, link := random.IntN(len(l.nodes)), random.IntN(groupLinks)
			switch random.IntN(6) {
			case 0:
				l.fault(n, link, !l.nodes[n].fault[link])
			case 1:
				l.cut[[3]int{link, n, (n + 1) % len(l.nodes)}] = true
			case 2:
				clear(l.cut)
			case 3:
				l.give(n, link, Event{Kind: Release, Hold: time.Duration(random.IntN(5)) * time.Second})
			case 4:
				l.give(n, link, Event{Kind: AddressLost})
			case 5:
				l.give(n, link, Event{Kind: Stalled})
			}
		}
		clear(l.cut)
		for n := range l.nodes {
			for link := range groupLinks {
				l.fault(n, link, false)
			}
		}
		l.run(60 * time.Second)
		active := 0
		for _, n := range l.nodes {
			switch n.group.State() {
			case Active:
				active++
			case Backup:
			default:
				t.Errorf("seed %d: %s is in %v", seed, n.name, n.group.State())
			}
		}
		if active != 1 {
			t.Errorf("seed %d: %d nodes are Active: %q", seed, active, l.log[max(0, len(l.log)-20):])
		}
		if t.Failed() {
			return
		}
	}
}

// timer_expired_backup: an Active router that wakes so late that another can have taken over goes without a word.
func TestTimerExpiredBackup(t *testing.T) {
	expired := func(p uint8) func(*Config) {
		return func(c *Config) { c.Preempt, c.TimerExpiredBackup = false, p }
	}
	for _, tt := range []struct {
		name     string
		change   []func(*Config)
		patience time.Duration // of a router of that priority
	}{
		{"version 3", []func(*Config){expired(254)}, 3*time.Second + time.Second*2/256},
		{"version 2", []func(*Config){expired(254), version2}, 3*time.Second + time.Second*2/256},
		{"the others have less", []func(*Config){expired(50)}, 3*time.Second + time.Second*206/256},
		{"short interval", []func(*Config){expired(254), every(100 * time.Millisecond)}, 300*time.Millisecond + 100*time.Millisecond*2/256},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := newActive(t, tt.change...)
			m.now = m.r.Deadline() // one advert after the first
			m.step(Event{Kind: Tick})
			m.wait(tt.patience - time.Nanosecond)
			m.want(m.step(Event{Kind: Tick}), "SendAdvert 100")
			m.wait(tt.patience)
			got := m.step(Event{Kind: Tick})
			if len(got) != 2 || got[0] != "RemoveAddresses" {
				t.Fatalf("got %q, want the addresses off and no advert", got)
			}
			m.wantState(Backup)
		})
	}
	m := newActive(t, noPreempt) // off: one advert, whatever the delay
	m.wait(time.Hour)
	m.want(m.step(Event{Kind: Tick}), "SendAdvert 100")

	for name, c := range map[string]Config{
		"255":       config(noPreempt, func(c *Config) { c.TimerExpiredBackup = 255 }),
		"preempt":   config(func(c *Config) { c.TimerExpiredBackup = 254 }),
		"two kinds": config(func(c *Config) { c.Gated, c.Grouped = true, true }),
	} {
		if _, err := NewRouter(c); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
