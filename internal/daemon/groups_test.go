package daemon

import (
	"context"
	"log/slog"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"pgvrrp/internal/conf"
	"pgvrrp/internal/control"
	"pgvrrp/internal/instance"
	"pgvrrp/internal/vrrp"
)

// idle is a network and a hook queue to which nothing happens.
type idle struct{}

func (idle) Send([]byte, netip.Addr, netip.Addr, int) error        { return nil }
func (idle) SetRoutes([]conf.Route, []conf.Rule) ([]string, error) { return nil, nil }
func (idle) SetAddresses([]conf.Address) error                     { return nil }
func (idle) Missing() ([]conf.Address, error)                      { return nil, nil }
func (idle) RenewAddresses() error                                 { return nil }
func (idle) Announce([]conf.Address)                               {}
func (idle) Trust(time.Duration)                                   {}
func (idle) AnnounceAgain()                                        {}
func (idle) StopAnnouncing()                                       {}
func (idle) Post(instance.HookEvent)                               {}

var (
	groupSelf = netip.MustParseAddr("192.0.2.1")
	groupPeer = netip.MustParseAddr("192.0.2.2")
	groupVIP  = netip.MustParsePrefix("192.0.2.100/24")
	groupAll  = netip.MustParseAddr("224.0.0.18")
)

// groupBench is a daemon without a host: groups and the loops of their members.
type groupBench struct {
	t     *testing.T
	d     *Daemon
	units []*unit
	stops map[string]context.CancelFunc
}

func newGroupBench(t *testing.T, names ...string) *groupBench {
	b := &groupBench{t: t, d: &Daemon{log: slog.New(slog.DiscardHandler)}, stops: map[string]context.CancelFunc{}}
	for _, name := range names {
		b.start(name)
	}
	return b
}

func (b *groupBench) start(name string) {
	b.t.Helper()
	c := conf.Instance{
		Name: name, Interface: "eth0", VRID: uint8(51 + len(b.units)), Version: 3, Priority: 100, AdvertInterval: time.Second,
		DownTimerAdverts: 3, Preempt: true, Group: groupAll, NotifyRetry: 10 * time.Second,
		Addresses: []conf.Address{{Prefix: groupVIP}}, SyncGroup: "VG",
	}
	u := &unit{config: c, member: &member{groups: &b.d.groups}}
	i, err := instance.New(instance.Options{Config: c, Network: idle{}, Hooks: idle{}, Log: b.d.log, Group: u.member})
	if err != nil {
		b.t.Fatal(err)
	}
	u.instance, u.member.instance = i, i
	ctx, stop := context.WithCancel(b.t.Context())
	b.stops[name] = stop
	go i.Run(ctx)
	b.units = append(b.units, u)
}

func (b *groupBench) configure(names ...string) {
	b.d.groups.configure(b.d, &conf.Config{SyncGroups: []conf.SyncGroup{{Name: "VG", Members: names}}}, b.units)
}

func (b *groupBench) unit(name string) *unit {
	for _, u := range b.units {
		if u.config.Name == name {
			return u
		}
	}
	b.t.Fatalf("no unit %s", name)
	return nil
}

// link tells a member that its link is up or down.
func (b *groupBench) link(name string, up bool) {
	b.unit(name).instance.Surround(b.t.Context(), instance.Surroundings{
		Link: instance.Link{Present: true, Up: up}, Source: groupSelf, Verdict: instance.Verdict{Priority: 100}})
}

// hear has a member hear an advert of a priority.
func (b *groupBench) hear(name string, priority uint8) {
	b.t.Helper()
	u := b.unit(name)
	p, err := vrrp.AppendAdvert(nil, &vrrp.Advert{Version: 3, VRID: u.config.VRID, Priority: priority, Interval: time.Second, Addrs: []netip.Addr{groupVIP.Addr()}},
		groupPeer, groupAll, vrrp.ChecksumPseudoHeader)
	if err != nil {
		b.t.Fatal(err)
	}
	u.instance.Receive(vrrp.Packet{Payload: p, Src: groupPeer, Dst: groupAll, TTL: 255}, time.Now())
}

// want fails unless the group and each member are in a state.
func (b *groupBench) want(when, state string, names ...string) {
	b.t.Helper()
	synctest.Wait()
	for _, name := range names {
		if s := b.unit(name).instance.Status(); s.State != state {
			b.t.Errorf("%s: %s is in %s (%s), want %s", when, name, s.State, s.Reason, state)
		}
	}
	if s := b.d.groups.status(); len(s) != 1 || s[0].State != state {
		b.t.Errorf("%s: group %+v, want %s", when, s, state)
	}
}

func (b *groupBench) end() {
	b.d.groups.detach(b.units)
	for _, stop := range b.stops {
		stop()
	}
	<-b.d.groups.finish()
}

func TestGroupMembersMoveTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newGroupBench(t, "VI_1", "VI_2")
		defer b.end()
		b.configure("VI_1", "VI_2")
		b.link("VI_1", true)
		synctest.Wait()
		if s := b.d.groups.status(); s[0].State != control.StateInit {
			t.Errorf("with one member started: %+v, want INIT", s)
		}
		time.Sleep(2 * time.Second)
		b.link("VI_2", true)
		b.want("both started", control.StateBackup, "VI_1", "VI_2")
		time.Sleep(3 * time.Second) // VI_1's timer has fired, VI_2's not
		b.want("one can take over", control.StateBackup, "VI_1", "VI_2")
		time.Sleep(time.Second)
		b.want("both can", control.StateMaster, "VI_1", "VI_2")

		b.link("VI_2", false)
		b.want("one link is down", control.StateFault, "VI_1", "VI_2")
		b.link("VI_2", true)
		b.want("it is up again", control.StateBackup, "VI_1", "VI_2")
		time.Sleep(4 * time.Second)
		b.want("nobody is heard", control.StateMaster, "VI_1", "VI_2")

		b.hear("VI_1", 200)
		b.want("one hears a higher priority", control.StateBackup, "VI_1", "VI_2")
		for range 10 {
			b.hear("VI_1", 200)
			time.Sleep(time.Second)
			b.want("one follows a master", control.StateBackup, "VI_1", "VI_2")
		}
		time.Sleep(8 * time.Second)
		b.want("that is silent", control.StateMaster, "VI_1", "VI_2")

		for _, i := range b.unit("VI_2").fellows() {
			if err := i.Release(t.Context(), 30*time.Second); err != nil {
				t.Error(err)
			}
		}
		b.want("released", control.StateBackup, "VI_1", "VI_2")
		time.Sleep(29 * time.Second)
		b.want("still released", control.StateBackup, "VI_1", "VI_2")
		time.Sleep(10 * time.Second)
		b.want("the hold is over", control.StateMaster, "VI_1", "VI_2")
	})
}

func TestGroupReload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newGroupBench(t, "VI_1", "VI_2", "VI_3")
		defer b.end()
		b.configure("VI_1", "VI_2", "VI_3")
		for _, u := range b.units {
			b.link(u.config.Name, true)
		}
		time.Sleep(4 * time.Second)
		b.want("begin", control.StateMaster, "VI_1", "VI_2", "VI_3")
		seq := b.unit("VI_1").instance.Status().Seq

		b.configure("VI_1", "VI_2", "VI_3")
		b.want("nothing changed", control.StateMaster, "VI_1", "VI_2", "VI_3")
		gone := b.unit("VI_3")
		b.d.groups.detach([]*unit{gone})
		b.stops["VI_3"]()
		b.units = b.units[:2]
		synctest.Wait()
		b.configure("VI_1", "VI_2")
		b.want("a member is no more", control.StateMaster, "VI_1", "VI_2")
		if s := b.unit("VI_1").instance.Status(); s.Seq != seq {
			t.Errorf("a reload moved VI_1: %+v", s.Transitions)
		}

		b.start("VI_4")
		b.configure("VI_1", "VI_2", "VI_4")
		synctest.Wait()
		if s := b.unit("VI_1").instance.Status(); s.State != control.StateBackup {
			t.Errorf("a member that is not started: VI_1 is in %s, want BACKUP", s.State)
		}
		b.link("VI_4", false)
		b.want("the new member's link is down", control.StateFault, "VI_1", "VI_2", "VI_4")
		b.d.groups.detach([]*unit{b.unit("VI_4")})
		b.stops["VI_4"]()
		b.units = b.units[:2]
		b.configure("VI_2", "VI_1")
		b.want("without it", control.StateBackup, "VI_1", "VI_2")
		time.Sleep(4 * time.Second)
		b.want("in the end", control.StateMaster, "VI_1", "VI_2")
	})
}
