package instance

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"pgvrrp/internal/conf"
	"pgvrrp/internal/control"
	"pgvrrp/internal/vrrp"
)

var (
	self  = netip.MustParseAddr("192.0.2.1")
	peerA = netip.MustParseAddr("192.0.2.2")
	vip   = netip.MustParsePrefix("192.0.2.100/24")
)

// fine are surroundings in which nothing is wrong.
var fine = Surroundings{Link: Link{Present: true, Up: true}, Source: self, Verdict: Verdict{Priority: 100}}

// but changes one thing about them.
func but(change func(*Surroundings)) Surroundings {
	s := fine
	change(&s)
	return s
}

// host is a network and a hook queue that write down what they are asked, with the virtual time.
type host struct {
	mu         sync.Mutex
	start      time.Time
	lines      []string
	packets    [][]byte
	fail       error // of Send
	failSet    error // of SetAddresses
	failAdd    error // of SetAddresses, unless it is to take them all off
	failRoutes error // of SetRoutes
	set        []conf.Address
	stopped    time.Duration // for how long we are in Send
	trusted    time.Duration // what Trust was told last
	slept      time.Duration // how far BootTime is ahead
}

func (h *host) say(format string, args ...any) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.lines = append(h.lines, fmt.Sprintf("%6.3f ", time.Since(h.start).Seconds())+fmt.Sprintf(format, args...))
}

func (h *host) Send(payload []byte, source, destination netip.Addr, ttl int) error {
	h.say("send priority %d from %s to %s ttl %d", payload[2], source, destination, ttl)
	h.mu.Lock()
	h.packets = append(h.packets, append([]byte(nil), payload...))
	fail, stopped := h.fail, h.stopped
	h.mu.Unlock()
	time.Sleep(stopped)
	return fail
}

func (h *host) SetAddresses(want []conf.Address) error {
	var all []string
	for _, a := range want {
		all = append(all, a.Prefix.String())
	}
	h.say("addresses [%s]", strings.Join(all, " "))
	h.mu.Lock()
	defer h.mu.Unlock()
	h.set = want
	if h.failAdd != nil && len(want) > 0 {
		return h.failAdd
	}
	return h.failSet
}

func (h *host) Missing() ([]conf.Address, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.failSet != nil || h.failAdd != nil {
		return h.set, nil
	}
	return nil, nil
}

func (h *host) SetRoutes(routes []conf.Route, rules []conf.Rule) ([]string, error) {
	h.say("routes [%s]", strings.Join(routeNames(routes, rules), "; "))
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.failRoutes != nil {
		return routeNames(routes, rules), h.failRoutes
	}
	return nil, nil
}

func (h *host) RenewAddresses() error {
	h.say("renew")
	return nil
}

func (h *host) Announce(addrs []conf.Address) { h.say("announce %d", len(addrs)) }

// suspend is a machine that sleeps: no timer notices.
func (h *host) suspend(d time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.slept += d
}

func (h *host) bootTime() time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	return time.Since(h.start) + h.slept
}

func (h *host) Trust(until time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.trusted = until
}

func (h *host) AnnounceAgain() { h.say("announce again") }

func (h *host) StopAnnouncing() { h.say("stop announcing") }

func (h *host) Post(e HookEvent) {
	what := "hook"
	if e.LineOnly {
		what = "line"
	}
	h.say("%s %s %d seq=%d", what, e.State, e.Priority, e.Seq)
}

// take returns the lines so far but for the periodic adverts, and forgets them.
func (h *host) take() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	lines := h.lines
	h.lines = nil
	return lines
}

func config() conf.Instance {
	return conf.Instance{
		Name: "VI_1", Interface: "eth0", VRID: 51, Version: 3, Priority: 100, AdvertInterval: time.Second, DownTimerAdverts: 3,
		Preempt: true, Group: netip.MustParseAddr("224.0.0.18"), NotifyRetry: 10 * time.Second,
		Addresses: []conf.Address{{Prefix: vip}},
	}
}

// begin runs an instance inside a synctest bubble with its link up and its source known.
func begin(t *testing.T, c conf.Instance) (*Instance, *host, context.CancelFunc) {
	t.Helper()
	h := &host{start: time.Now()}
	i, err := New(Options{Config: c, Network: h, Hooks: h, Log: slog.New(slog.DiscardHandler), BootTime: h.bootTime})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	go i.Run(ctx)
	t.Cleanup(func() { cancel(); <-i.done })
	i.Surround(ctx, fine)
	synctest.Wait()
	return i, h, cancel
}

// serving runs an instance, as begin does, until it has been master for a moment.
func serving(t *testing.T, c conf.Instance) (*Instance, *host, context.CancelFunc) {
	t.Helper()
	i, h, stop := begin(t, c)
	time.Sleep(3700 * time.Millisecond)
	synctest.Wait()
	h.take()
	return i, h, stop
}

func want(t *testing.T, h *host, lines ...string) {
	t.Helper()
	synctest.Wait()
	if diff := cmp.Diff(lines, h.take()); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// advert is what peerA sends.
func advert(t *testing.T, c conf.Instance, priority uint8) vrrp.Packet {
	t.Helper()
	group := netip.MustParseAddr("224.0.0.18")
	b, err := vrrp.AppendAdvert(nil, &vrrp.Advert{Version: 3, VRID: c.VRID, Priority: priority, Interval: c.AdvertInterval, Addrs: []netip.Addr{vip.Addr()}},
		peerA, group, vrrp.ChecksumPseudoHeader)
	if err != nil {
		t.Fatal(err)
	}
	return vrrp.Packet{Payload: b, Src: peerA, Dst: group, TTL: 255}
}

func TestTakeoverAndStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i, h, stop := begin(t, config())
		want(t, h, " 0.000 hook BACKUP 100 seq=1")
		time.Sleep(3609375 * time.Microsecond)
		want(t, h,
			" 3.609 send priority 100 from 192.0.2.1 to 224.0.0.18 ttl 255",
			" 3.609 addresses [192.0.2.100/24]",
			" 3.609 announce 1",
			" 3.609 hook MASTER 100 seq=2")
		s := i.Status()
		if s.State != control.StateMaster || s.Seq != 2 || !s.Addresses[0].Held || s.Counters.BecameMaster != 1 {
			t.Errorf("status %+v", s)
		}
		stop()
		want(t, h,
			" 3.609 send priority 0 from 192.0.2.1 to 224.0.0.18 ttl 255",
			" 3.609 stop announcing",
			" 3.609 addresses []",
			" 3.609 hook STOP 100 seq=3")
	})
}

func TestAdvertsKeepABackup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := config()
		i, h, stop := begin(t, c)
		defer stop()
		h.take()
		for range 20 {
			i.Receive(advert(t, c, 150), time.Now())
			time.Sleep(c.AdvertInterval)
		}
		want(t, h)
		s := i.Status()
		if s.Master != peerA.String() || len(s.Peers) != 1 || s.Peers[0].Priority != 150 || s.Counters.AdvertsReceived != 20 {
			t.Errorf("status %+v", s)
		}
	})
}

func TestAddressesWaitForTheHook(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := config()
		c.VIPAfterNotify, c.AdvertInterval = 30*time.Second, 10*time.Second
		i, h, stop := begin(t, c)
		defer stop()
		h.take()
		time.Sleep(37 * time.Second)
		want(t, h, "36.094 send priority 100 from 192.0.2.1 to 224.0.0.18 ttl 255", "36.094 hook MASTER 100 seq=2")
		if s := i.Status(); s.Waiting == "" || s.Addresses[0].Held {
			t.Errorf("status of a waiting master: %+v", s)
		}
		i.HookDone(t.Context(), control.Hook{Seq: 1}, nil) // of an older state: harmless
		want(t, h)
		i.HookDone(t.Context(), control.Hook{Seq: 2}, nil)
		want(t, h, "37.000 addresses [192.0.2.100/24]", "37.000 announce 1")
	})
}

func TestAFailedHookGivesWay(t *testing.T) {
	for _, tc := range []struct {
		name   string
		fail   func(*Instance)
		at     string
		reason string
	}{
		{"exit code", func(i *Instance) {
			i.HookDone(context.Background(), control.Hook{Seq: 2}, errors.New("run /bin/false: exit code 1"))
		}, "37.000", "the hook failed: run /bin/false: exit code 1"},
		{"never ends", func(*Instance) { time.Sleep(5 * time.Second) }, "41.094", "the hook failed: not finished within 5s"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := config()
				c.VIPAfterNotify, c.AdvertInterval = 5*time.Second, 10*time.Second
				i, h, stop := begin(t, c)
				defer stop()
				time.Sleep(37 * time.Second)
				synctest.Wait()
				h.take()
				tc.fail(i)
				want(t, h,
					tc.at+" send priority 0 from 192.0.2.1 to 224.0.0.18 ttl 255",
					tc.at+" stop announcing",
					tc.at+" addresses []",
					tc.at+" hook FAULT 100 seq=3")
				if s := i.Status(); s.State != control.StateFault || s.Reason != tc.reason {
					t.Errorf("state %s reason %q, want FAULT %q", s.State, s.Reason, tc.reason)
				}
				time.Sleep(c.NotifyRetry)
				synctest.Wait()
				if s := i.Status(); s.State != control.StateBackup {
					t.Errorf("state %s after notify_retry, want BACKUP", s.State)
				}
			})
		})
	}
}

func TestFaults(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i, h, stop := begin(t, config())
		defer stop()
		time.Sleep(3610 * time.Millisecond)
		h.take()
		for _, tc := range []struct {
			name string
			with func(*Surroundings)
			want string
		}{
			{"link", func(s *Surroundings) { s.Link.Up = false }, "interface eth0 is down"},
			{"gone", func(s *Surroundings) { s.Link = Link{} }, "interface eth0 does not exist"},
			{"deaf", func(s *Surroundings) { s.Link.Trouble = "receive VRRP on eth0: permission denied" }, "receive VRRP on eth0: permission denied"},
			{"source", func(s *Surroundings) { s.Source = netip.Addr{} }, "no IPv4 address on eth0 to send adverts from"},
			{"two", func(s *Surroundings) { s.Link.Up, s.Verdict.Fault = false, "script chk failed: exit code 1" },
				"interface eth0 is down; script chk failed: exit code 1"},
			{"check", func(s *Surroundings) { s.Verdict.Fault = "script chk failed: exit code 1" }, "script chk failed: exit code 1"},
			{"new check in its place", func(s *Surroundings) { s.Verdict.Pending = "the first result of script new" }, "the first result of script new is awaited"},
		} {
			i.Surround(t.Context(), but(tc.with))
			synctest.Wait()
			s := i.Status()
			if s.State != control.StateFault {
				t.Errorf("%s: state %s, want FAULT", tc.name, s.State)
			}
			if s.Waiting != tc.want && s.Reason != tc.want {
				t.Errorf("%s: reason %q, now %q, want %q", tc.name, s.Reason, s.Waiting, tc.want)
			}
		}
		i.Surround(t.Context(), but(func(s *Surroundings) { s.Verdict.Priority = 90 }))
		synctest.Wait()
		if s := i.Status(); s.State != control.StateBackup || s.Priority != 90 {
			t.Errorf("state %s priority %d, want BACKUP 90", s.State, s.Priority)
		}
	})
}

// A backup goes on with a check that a reload added, and takes over only once that has reported.
func TestACheckThatAReloadAdded(t *testing.T) {
	const first = "the first result of script new"
	waits := but(func(s *Surroundings) { s.Verdict.Pending = first })
	run := func(name string, f func(t *testing.T, i *Instance, h *host)) {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				i, h, stop := begin(t, config())
				defer stop()
				synctest.Wait()
				h.take()
				i.Surround(t.Context(), waits)
				f(t, i, h)
			})
		})
	}
	run("passes before the timer fires", func(t *testing.T, i *Instance, h *host) {
		want(t, h)
		if s := i.Status(); s.State != control.StateBackup || s.Waiting != first {
			t.Errorf("state %s waits for %q", s.State, s.Waiting)
		}
		i.Surround(t.Context(), fine)
		want(t, h)
		time.Sleep(3609375 * time.Microsecond)
		synctest.Wait()
		if s := i.Status(); s.State != control.StateMaster || s.Waiting != "" {
			t.Errorf("state %s waits for %q", s.State, s.Waiting)
		}
	})
	run("passes later", func(t *testing.T, i *Instance, h *host) {
		time.Sleep(20 * time.Second)
		want(t, h)
		i.Surround(t.Context(), fine)
		synctest.Wait()
		if s := i.Status(); s.State != control.StateMaster {
			t.Errorf("state %s", s.State)
		}
	})
	run("fails", func(t *testing.T, i *Instance, h *host) {
		time.Sleep(20 * time.Second)
		want(t, h)
		i.Surround(t.Context(), but(func(s *Surroundings) { s.Verdict.Fault, s.Verdict.Priority = "script new failed", 90 }))
		want(t, h, "20.000 hook FAULT 90 seq=2")
		i.Surround(t.Context(), fine)
		want(t, h, "20.000 hook BACKUP 100 seq=3")
		time.Sleep(4 * time.Second)
		synctest.Wait()
		if s := i.Status(); s.State != control.StateMaster {
			t.Errorf("state %s", s.State)
		}
	})
	run("the master stays", func(t *testing.T, i *Instance, h *host) {
		i.Surround(t.Context(), fine)
		time.Sleep(3610 * time.Millisecond)
		synctest.Wait()
		h.take()
		i.Surround(t.Context(), waits)
		want(t, h)
		if s := i.Status(); s.State != control.StateMaster {
			t.Errorf("state %s", s.State)
		}
	})
}

func TestStartsOnlyWhenAllIsKnown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &host{start: time.Now()}
		i, err := New(Options{Config: config(), Network: h, Hooks: h, Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		i.StartAfter(time.Now().Add(2 * time.Second))
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		go i.Run(ctx)
		synctest.Wait()
		if s := i.Status(); s.State != control.StateInit || s.Waiting != "the state of eth0" {
			t.Errorf("state %s waits for %q", s.State, s.Waiting)
		}
		i.Surround(ctx, but(func(s *Surroundings) { s.Verdict.Pending = "the first result of script chk" }))
		want(t, h)
		if s := i.Status(); s.Waiting != "the first result of script chk" {
			t.Errorf("waits for %q", s.Waiting)
		}
		i.Surround(ctx, fine)
		synctest.Wait()
		if s := i.Status(); s.Waiting != "vrrp_startup_delay or vrrp_delay_after_boot" {
			t.Errorf("waits for %q", s.Waiting)
		}
		time.Sleep(2 * time.Second)
		want(t, h, " 2.000 hook BACKUP 100 seq=1")
	})
}

func TestAForeignRemovalIsPutBackUntilItIsAFight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i, h, stop := begin(t, config())
		defer stop()
		time.Sleep(3610 * time.Millisecond)
		synctest.Wait()
		h.take()
		i.AddressesLost(t.Context(), []netip.Prefix{netip.MustParsePrefix("192.0.2.200/24")}) // not ours
		want(t, h)
		for range putBackLimit {
			i.AddressesLost(t.Context(), []netip.Prefix{vip})
			want(t, h, " 3.610 addresses [192.0.2.100/24]", " 3.610 announce again")
		}
		i.AddressesLost(t.Context(), []netip.Prefix{vip})
		want(t, h,
			" 3.610 send priority 0 from 192.0.2.1 to 224.0.0.18 ttl 255",
			" 3.610 stop announcing",
			" 3.610 addresses []",
			" 3.610 hook BACKUP 100 seq=3")
		if s := i.Status(); s.Counters.AddressesPutBack != putBackLimit+1 {
			t.Errorf("put back %d times", s.Counters.AddressesPutBack)
		}
	})
}

// Nobody gives way for a no_track address, so that only a pause keeps two programs from doing nothing else.
func TestAFightForAnAddressThatIsNotTracked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := config()
		c.Addresses[0].NoTrack, c.AdvertInterval = true, 40*time.Second
		i, h, stop := begin(t, c)
		defer stop()
		time.Sleep(145 * time.Second)
		synctest.Wait()
		h.take()
		for range putBackLimit {
			i.AddressesLost(t.Context(), []netip.Prefix{vip})
			want(t, h, "145.000 addresses [192.0.2.100/24]", "145.000 announce again")
		}
		for range 5 {
			i.AddressesLost(t.Context(), []netip.Prefix{vip})
			want(t, h)
			time.Sleep(addressRetry / 10)
		}
		time.Sleep(addressRetry)
		want(t, h, "146.000 addresses [192.0.2.100/24]", "146.000 announce 1")
		i.AddressesLost(t.Context(), []netip.Prefix{vip})
		want(t, h)
		time.Sleep(addressRetry)
		want(t, h, "147.500 addresses [192.0.2.100/24]", "147.500 announce 1")
		time.Sleep(putBackWindow)
		i.AddressesLost(t.Context(), []netip.Prefix{vip})
		want(t, h, "157.500 addresses [192.0.2.100/24]", "157.500 announce again")
		if s := i.Status(); s.State != control.StateMaster || s.Counters.AddressesPutBack != putBackLimit+3 {
			t.Errorf("state %s, put back %d times", s.State, s.Counters.AddressesPutBack)
		}
	})
}

func TestALifetimeIsRenewedWhileTheAddressesAreHeld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := config()
		c.VIPLifetime, c.AdvertInterval = 2*time.Second, 40*time.Second
		i, h, stop := begin(t, c)
		defer stop()
		time.Sleep(144375 * time.Millisecond)
		synctest.Wait()
		h.take()
		time.Sleep(1100 * time.Millisecond)
		want(t, h, "144.875 renew", "145.375 renew")
		if err := i.Release(t.Context(), time.Minute); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		h.take()
		time.Sleep(10 * time.Second)
		want(t, h)
	})
}

func TestRelease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i, h, stop := begin(t, config())
		defer stop()
		time.Sleep(3610 * time.Millisecond)
		if err := i.Release(t.Context(), 30*time.Second); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		h.take()
		if s := i.Status(); s.State != control.StateBackup || s.HeldUntil == nil {
			t.Errorf("state %s held until %v", s.State, s.HeldUntil)
		}
		time.Sleep(29 * time.Second)
		want(t, h)
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if s := i.Status(); s.State != control.StateMaster {
			t.Errorf("state %s after the hold, want MASTER", s.State)
		}
		stop()
		synctest.Wait()
		if err := i.Release(t.Context(), time.Second); err == nil {
			t.Error("release of a stopped instance succeeded")
		}
	})
}

func TestReconfigureKeepsTheState(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := config()
		i, h, stop := serving(t, c)
		defer stop()
		c.Priority = 120
		c.Addresses = append(c.Addresses, conf.Address{Prefix: netip.MustParsePrefix("192.0.2.101/24")})
		if err := i.Configure(t.Context(), c); err != nil {
			t.Fatal(err)
		}
		i.Surround(t.Context(), but(func(s *Surroundings) { s.Verdict.Priority = 120 }))
		want(t, h, " 3.700 addresses [192.0.2.100/24 192.0.2.101/24]", " 3.700 announce 2")
		time.Sleep(time.Second)
		want(t, h, " 4.609 send priority 120 from 192.0.2.1 to 224.0.0.18 ttl 255")
		c.VRID = 52
		if err := i.Configure(t.Context(), c); err == nil {
			t.Error("another virtual_router_id was accepted")
		}
	})
}

func TestBadPacketsAreCountedByReason(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := config()
		i, h, stop := begin(t, c)
		defer stop()
		h.take()
		good := advert(t, c, 200)
		for _, spoil := range []func(*vrrp.Packet){
			func(p *vrrp.Packet) { p.TTL = 64 },
			func(p *vrrp.Packet) { p.Payload = p.Payload[:10] },
			func(p *vrrp.Packet) { p.Payload[6] ^= 0xff },
			func(p *vrrp.Packet) { p.Payload[0] = 0x21 },
		} {
			p := good
			p.Payload = append([]byte(nil), good.Payload...)
			spoil(&p)
			i.Receive(p, time.Now())
			i.Receive(p, time.Now())
		}
		synctest.Wait()
		got := i.Status().Counters
		wantRejected := map[string]uint64{"ttl": 2, "length": 2, "checksum": 2, "version": 2}
		if diff := cmp.Diff(wantRejected, got.Rejected); diff != "" || got.AdvertsReceived != 0 {
			t.Errorf("received %d, rejected -want +got:\n%s", got.AdvertsReceived, diff)
		}
	})
}

func TestUnicastSendsToEveryPeer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := config()
		c.Unicast, c.UnicastTTL = true, 64
		c.Peers = []conf.Peer{{Addr: peerA, MinTTL: -1, MaxTTL: -1}, {Addr: netip.MustParseAddr("192.0.2.3"), MinTTL: -1, MaxTTL: -1}}
		_, h, stop := begin(t, c)
		defer stop()
		h.take()
		h.mu.Lock()
		h.fail = errors.New("no route")
		h.mu.Unlock()
		time.Sleep(3610 * time.Millisecond)
		synctest.Wait()
		lines := h.take()
		wantLines := []string{" 3.609 send priority 100 from 192.0.2.1 to 192.0.2.2 ttl 64", " 3.609 send priority 100 from 192.0.2.1 to 192.0.2.3 ttl 64"}
		if diff := cmp.Diff(wantLines, lines[:2]); diff != "" {
			t.Errorf("-want +got:\n%s", diff)
		}
	})
}

// pause stops the loop for d, as a frozen machine would.
func pause(t *testing.T, i *Instance, d time.Duration) {
	t.Helper()
	i.call(t.Context(), func(time.Time) { time.Sleep(d) })
	time.Sleep(d)
}

// TestAPausedStandbyListensFirst: its timer fires late, and adverts still wait in the socket.
func TestAPausedStandbyListensFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := config()
		i, h, stop := begin(t, c)
		defer stop()
		h.take()
		pause(t, i, 10*time.Second)
		time.Sleep(listenTime / 2) // the reader gets to them
		i.Receive(advert(t, c, 150), time.Now())
		time.Sleep(3 * time.Second)
		want(t, h)
		if s := i.Status(); s.State != control.StateBackup {
			t.Errorf("state %s, want BACKUP", s.State)
		}
		time.Sleep(time.Second) // and if nothing comes any more, it takes over as ever
		synctest.Wait()
		if s := i.Status(); s.State != control.StateMaster {
			t.Errorf("state %s, want MASTER", s.State)
		}
	})
}

// TestAPausedMasterGoesQuietlyIfItWasReplaced: even if its priority is the higher one.
func TestAPausedMasterGoesQuietlyIfItWasReplaced(t *testing.T) {
	c := config()
	for _, tc := range []struct {
		name     string
		pause    time.Duration
		asleep   time.Duration // instead: the machine is suspended
		after    time.Duration // from then to the advert that is heard
		priority uint8         // of that; 0: none comes
		want     []string
	}{
		{"replaced", 10 * time.Second, 0, listenTime / 2, 50, []string{"13.705 stop announcing", "13.705 addresses []", "13.705 hook BACKUP 100 seq=3"}},
		{"replaced, and the socket has lost it", 10 * time.Second, 0, c.AdvertInterval, 50,
			[]string{"14.700 stop announcing", "14.700 addresses []", "14.700 hook BACKUP 100 seq=3"}},
		{"nobody else", 10 * time.Second, 0, c.AdvertInterval + listenMost, 0, []string{"14.750 send priority 100 from 192.0.2.1 to 224.0.0.18 ttl 255"}},
		{"not yet", 3500 * time.Millisecond, 0, listenMost, 0, []string{" 7.250 send priority 100 from 192.0.2.1 to 224.0.0.18 ttl 255"}},
		{"suspended and replaced", 0, 4 * time.Second, c.AdvertInterval - listenTime, 50,
			[]string{" 4.690 stop announcing", " 4.690 addresses []", " 4.690 hook BACKUP 100 seq=3"}},
		{"suspended, and heard late", 0, 4 * time.Second, c.AdvertInterval + c.AdvertInterval/2, 50,
			[]string{" 5.200 stop announcing", " 5.200 addresses []", " 5.200 hook BACKUP 100 seq=3"}},
		{"suspended, and nobody else", 0, 4 * time.Second, 2*c.AdvertInterval + listenMost, 0,
			[]string{" 5.659 send priority 100 from 192.0.2.1 to 224.0.0.18 ttl 255"}},
		{"a short pause", 2 * time.Second, 0, listenTime / 2, 50, []string{ // nobody can have waited long enough: this is somebody who contends
			" 5.705 send priority 100 from 192.0.2.1 to 224.0.0.18 ttl 255", " 5.705 announce again", " 5.705 hook MASTER_RX_LOWER_PRI 100 seq=2",
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				i, h, stop := serving(t, c)
				defer stop()
				if tc.asleep > 0 {
					h.suspend(tc.asleep)
				} else {
					pause(t, i, tc.pause)
				}
				time.Sleep(tc.after)
				if tc.priority > 0 {
					i.Receive(advert(t, c, tc.priority), time.Now())
				}
				want(t, h, tc.want...)
			})
		})
	}
}

// TestAMasterThatIsStoppedWhileItListens: a busy machine has it listen for a moment, and in that it is stopped for long.
func TestAMasterThatIsStoppedWhileItListens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := config()
		i, h, stop := serving(t, c)
		defer stop()
		pause(t, i, 1100*time.Millisecond)
		pause(t, i, 10*time.Second)
		time.Sleep(listenTime / 2)
		i.Receive(advert(t, c, 50), time.Now())
		synctest.Wait()
		for _, line := range h.take() {
			if strings.Contains(line, "send ") {
				t.Errorf("%s: it had not listened", line)
			}
		}
	})
}

// TestAPausedMasterMayHearOfItFirst: what was heard and the timer are both there when it goes on; either may be looked at first.
func TestAPausedMasterMayHearOfItFirst(t *testing.T) {
	for range 20 {
		synctest.Test(t, func(t *testing.T) {
			c := config()
			i, h, stop := serving(t, c)
			defer stop()
			i.call(t.Context(), func(time.Time) { time.Sleep(10 * time.Second) })
			time.Sleep(5 * time.Second)
			i.Receive(advert(t, c, 50), time.Now())
			time.Sleep(5 * time.Second)
			want(t, h, "13.700 stop announcing", "13.700 addresses []", "13.700 hook BACKUP 100 seq=3")
		})
	}
}

// TestAPausedMasterWhoseAddressesExpired: whether it hears first that they are gone, or that its timer is late.
func TestAPausedMasterWhoseAddressesExpired(t *testing.T) {
	for _, tc := range []struct {
		name     string
		priority uint8 // of the advert that is heard; 0: none comes
		want     []string
	}{
		{"replaced", 50, []string{"13.705 stop announcing", "13.705 addresses []", "13.705 hook BACKUP 100 seq=3"}},
		{"nobody else", 0, []string{"14.750 addresses [192.0.2.100/24]", "14.750 announce 1", "14.750 send priority 100 from 192.0.2.1 to 224.0.0.18 ttl 255"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			for range 20 {
				synctest.Test(t, func(t *testing.T) {
					c := config()
					i, h, stop := serving(t, c)
					defer stop()
					i.call(t.Context(), func(time.Time) { time.Sleep(10 * time.Second) })
					i.AddressesLost(t.Context(), []netip.Prefix{vip})
					time.Sleep(10*time.Second + listenTime/2)
					i.AddressesLost(t.Context(), []netip.Prefix{vip})
					if tc.priority > 0 {
						i.Receive(advert(t, c, tc.priority), time.Now())
					}
					time.Sleep(c.AdvertInterval + listenMost)
					want(t, h, tc.want...)
				})
			}
		})
	}
}

// TestAnAdvertProvesNothingForLonger: who was stopped while it sent one has not been master for sure since.
func TestAnAdvertProvesNothingForLonger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, h, stop := serving(t, config())
		defer stop()
		h.mu.Lock()
		sent := h.trusted - 3*time.Second
		h.stopped = time.Hour
		h.mu.Unlock()
		time.Sleep(time.Hour + time.Second)
		synctest.Wait()
		h.mu.Lock()
		defer h.mu.Unlock()
		if want := sent + 4*time.Second; h.trusted != want {
			t.Errorf("trusted until %s, want %s", h.trusted, want)
		}
		h.stopped = 0
	})
}

// TestAStoppedMasterDoesNotGoOnSending: it is stopped behind the advert to the first of two peers, and has been replaced when it goes on.
func TestAStoppedMasterDoesNotGoOnSending(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := config()
		c.Unicast, c.UnicastTTL, c.Peers = true, 255, []conf.Peer{{Addr: peerA}, {Addr: netip.MustParseAddr("192.0.2.3")}}
		_, h, stop := serving(t, c)
		defer stop()
		h.mu.Lock()
		h.stopped = 10 * time.Second
		h.mu.Unlock()
		time.Sleep(5 * time.Second)
		want(t, h, " 4.609 send priority 100 from 192.0.2.1 to 192.0.2.2 ttl 255")
		h.mu.Lock()
		h.stopped = 0
		h.mu.Unlock()
		time.Sleep(6 * time.Second)
		want(t, h) // it listens
	})
}

func TestAMasterThatCannotSendGivesWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i, h, stop := begin(t, config())
		defer stop()
		time.Sleep(3700 * time.Millisecond)
		h.mu.Lock()
		h.fail = errors.New("operation not permitted")
		h.mu.Unlock()
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if s := i.Status(); s.State != control.StateMaster || !strings.Contains(s.Waiting, "adverts cannot be sent") {
			t.Errorf("after two failures state %s, waits for %q", s.State, s.Waiting)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if s := i.Status(); s.State != control.StateFault || !strings.Contains(s.Reason, "operation not permitted") {
			t.Errorf("after three failures state %s: %s", s.State, s.Reason)
		}
		time.Sleep(setbackPause)
		synctest.Wait()
		if s := i.Status(); s.State != control.StateBackup {
			t.Errorf("after the pause state %s, want BACKUP", s.State)
		}
	})
}

func TestAddressesThatCannotBeSetAreTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i, h, stop := begin(t, config())
		defer stop()
		h.mu.Lock()
		h.failSet = errors.New("no buffer space available")
		h.mu.Unlock()
		time.Sleep(3700 * time.Millisecond)
		synctest.Wait()
		if s := i.Status(); s.State != control.StateMaster || s.Addresses[0].Held || s.Waiting != "no buffer space available" {
			t.Errorf("state %s, held %t, waits for %q", s.State, s.Addresses[0].Held, s.Waiting)
		}
		h.mu.Lock()
		h.failSet = nil
		h.mu.Unlock()
		h.take()
		time.Sleep(950 * time.Millisecond)
		want(t, h, " 4.609 addresses [192.0.2.100/24]", " 4.609 announce 1", " 4.609 send priority 100 from 192.0.2.1 to 224.0.0.18 ttl 255")
		if s := i.Status(); !s.Addresses[0].Held || s.Waiting != "" {
			t.Errorf("held %t, waits for %q", s.Addresses[0].Held, s.Waiting)
		}
	})
}

func TestAMasterThatCannotHoldAnAddressGivesWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i, h, stop := begin(t, config())
		defer stop()
		h.mu.Lock()
		h.failSet = errors.New("no such device")
		h.mu.Unlock()
		time.Sleep(3700*time.Millisecond + addressTries*addressRetry)
		synctest.Wait()
		if s := i.Status(); s.State != control.StateFault || !strings.Contains(s.Reason, "no such device") {
			t.Errorf("state %s: %s", s.State, s.Reason)
		}
	})
}

// What cannot serve does not take mastership from a node that does, however often its pauses end.
func TestAfterASetbackAMasterThatServesIsLeftAlone(t *testing.T) {
	for _, tt := range []struct {
		name    string
		fail    func(h *host, err error)
		returns bool // by itself, when it can again
		waits   string
	}{
		{"sending", func(h *host, err error) { h.fail = err }, true, "an advert that can be sent: adverts cannot be sent"},
		{"addresses", func(h *host, err error) { h.failAdd = err }, false, "the master to leave: its own addresses could not be set: broken"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := config()
				i, h, stop := begin(t, c)
				defer stop()
				fail := func(err error) {
					h.mu.Lock()
					defer h.mu.Unlock()
					tt.fail(h, err)
				}
				time.Sleep(3500 * time.Millisecond)
				fail(errors.New("broken"))
				time.Sleep(4 * time.Second)
				synctest.Wait()
				if s := i.Status(); s.State != control.StateFault {
					t.Fatalf("after its setback state %s", s.State)
				}
				serves := func(seconds int) {
					for range seconds {
						i.Receive(advert(t, c, 50), time.Now())
						time.Sleep(time.Second)
					}
					synctest.Wait()
				}
				serves(12)
				if s := i.Status(); s.State != control.StateBackup || !strings.HasPrefix(s.Waiting, tt.waits) {
					t.Errorf("after the pause state %s, waits for %q", s.State, s.Waiting)
				}
				h.take()
				serves(100)
				if s := i.Status(); s.Counters.BecameMaster != 1 {
					t.Errorf("it became master %d times, want 1", s.Counters.BecameMaster)
				}
				for _, l := range h.take() {
					if strings.Contains(l, "MASTER") || strings.Contains(l, "addresses [1") || strings.Contains(l, "announce ") {
						t.Error(l)
					}
				}
				fail(nil)
				serves(20)
				if s := i.Status(); (s.State == control.StateMaster) != tt.returns {
					t.Errorf("when it can again, and another serves: state %s", s.State)
				}
				time.Sleep(10 * time.Second) // that one is silent
				synctest.Wait()
				if s := i.Status(); s.State != control.StateMaster || s.Waiting != "" {
					t.Errorf("at the end state %s, waits for %q", s.State, s.Waiting)
				}
			})
		})
	}
}

func TestAReloadMayGiveAMasterItsFirstAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := config()
		c.Version, c.Addresses = 2, nil
		i, h, stop := serving(t, c)
		defer stop()
		c.Addresses = []conf.Address{{Prefix: vip}}
		if err := i.Configure(t.Context(), c); err != nil {
			t.Fatal(err)
		}
		want(t, h, " 3.700 addresses [192.0.2.100/24]", " 3.700 announce 1")
		c.Addresses = nil
		if err := i.Configure(t.Context(), c); err != nil {
			t.Fatal(err)
		}
		want(t, h, " 3.700 addresses []", " 3.700 stop announcing")
	})
}

func TestOneFlushOfManyAddressesIsOneOccasion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := config()
		var all []netip.Prefix
		c.Addresses = nil
		for n := range 8 {
			p := netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(100 + n)}), 24)
			all = append(all, p)
			c.Addresses = append(c.Addresses, conf.Address{Prefix: p})
		}
		i, _, stop := begin(t, c)
		defer stop()
		time.Sleep(3700 * time.Millisecond)
		i.AddressesLost(t.Context(), all)
		synctest.Wait()
		if s := i.Status(); s.State != control.StateMaster || s.Counters.AddressesPutBack != 8 {
			t.Errorf("state %s, put back %d", s.State, s.Counters.AddressesPutBack)
		}
	})
}

func TestTheLastAdvertLeavesFromTheAddressThatIsGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i, h, stop := begin(t, config())
		defer stop()
		time.Sleep(3700 * time.Millisecond)
		synctest.Wait()
		h.take()
		i.Surround(t.Context(), but(func(s *Surroundings) { s.Source = netip.Addr{} }))
		synctest.Wait()
		if got, want := h.take()[0], " 3.700 send priority 0 from 192.0.2.1 to 224.0.0.18 ttl 255"; got != want {
			t.Errorf("first %q, want %q", got, want)
		}
	})
}
