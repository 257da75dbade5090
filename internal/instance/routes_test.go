package instance

import (
	"errors"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"pgvrrp/internal/conf"
	"pgvrrp/internal/control"
)

// routed is an instance with a route from its address, and a rule that leads there.
func routed() conf.Instance {
	c := config()
	c.Routes = []conf.Route{{Type: "unicast", To: netip.MustParsePrefix("10.0.0.0/8"), Interface: "eth0", Source: vip.Addr(), Table: 100, Scope: -1}}
	c.Rules = []conf.Rule{{From: netip.PrefixFrom(vip.Addr(), 32), Preference: 10, Action: "table", Table: 100, NoTrack: true}}
	return c
}

const (
	route = "10.0.0.0/8 dev eth0 src 192.0.2.100 table 100"
	rule  = "rule from 192.0.2.100/32 preference 10 table 100"
)

func TestRoutesComeAfterAddresses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i, h, stop := begin(t, routed())
		h.take()
		time.Sleep(3700 * time.Millisecond)
		want(t, h,
			" 3.609 send priority 100 from 192.0.2.1 to 224.0.0.18 ttl 255",
			" 3.609 addresses [192.0.2.100/24]",
			" 3.609 routes ["+route+"; "+rule+"]",
			" 3.609 announce 1",
			" 3.609 hook MASTER 100 seq=2")
		if s := i.Status(); len(s.Routes) != 2 || s.Routes[0] != (control.Route{Route: route, Held: true}) || !s.Routes[1].Held {
			t.Errorf("status %+v", s.Routes)
		}
		i.RoutesLost(t.Context(), []string{rule})
		want(t, h, " 3.700 routes ["+route+"; "+rule+"]")
		i.RoutesLost(t.Context(), []string{"not ours"})
		want(t, h)
		if got := i.Status().Counters.RoutesPutBack; got != 1 {
			t.Errorf("%d put back, want 1", got)
		}

		// A reload without the rule, and then without any.
		c := routed()
		c.Rules = nil
		if err := i.Configure(t.Context(), c); err != nil {
			t.Fatal(err)
		}
		want(t, h, " 3.700 addresses [192.0.2.100/24]", " 3.700 routes ["+route+"]", " 3.700 announce 1")
		if err := i.Configure(t.Context(), config()); err != nil {
			t.Fatal(err)
		}
		want(t, h, " 3.700 addresses [192.0.2.100/24]", " 3.700 routes []", " 3.700 announce 1")
		if err := i.Configure(t.Context(), routed()); err != nil {
			t.Fatal(err)
		}
		h.take()
		stop()
		want(t, h,
			" 3.700 send priority 0 from 192.0.2.1 to 224.0.0.18 ttl 255",
			" 3.700 stop announcing",
			" 3.700 routes []",
			" 3.700 addresses []",
			" 3.700 hook STOP 100 seq=3")
	})
}

// TestRoutesThatFail: a route that cannot be set is tried again each second, and costs no mastership.
func TestRoutesThatFail(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := routed()
		c.AdvertInterval = 40 * time.Second
		i, h, stop := begin(t, c)
		defer stop()
		h.mu.Lock()
		h.failRoutes = errors.New("no such device")
		h.mu.Unlock()
		time.Sleep(145 * time.Second)
		s := i.Status()
		if s.State != control.StateMaster || s.Waiting != "no such device" || s.Routes[0].Held {
			t.Errorf("status %+v", s)
		}
		h.take()
		time.Sleep(time.Second)
		want(t, h, "145.375 routes ["+route+"; "+rule+"]")
		i.RoutesLost(t.Context(), []string{rule}) // known
		want(t, h)
		h.mu.Lock()
		h.failRoutes = nil
		h.mu.Unlock()
		time.Sleep(time.Second)
		want(t, h, "146.375 routes ["+route+"; "+rule+"]")
		if s := i.Status(); s.Waiting != "" || !s.Routes[0].Held {
			t.Errorf("status %+v", s)
		}
		time.Sleep(2 * time.Second)
		want(t, h)
	})
}

// TestRoutesFoughtOver: another program that removes a route again and again gets the upper hand, unless it is no_track.
func TestRoutesFoughtOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i, _, stop := begin(t, routed())
		defer stop()
		time.Sleep(4 * time.Second)
		for range 2 * putBackLimit {
			i.RoutesLost(t.Context(), []string{rule})
		}
		synctest.Wait()
		if s := i.Status(); s.State != control.StateMaster {
			t.Errorf("no_track: %s, %s", s.State, s.Reason)
		}
		time.Sleep(2 * putBackWindow)
		for range putBackLimit + 1 {
			i.RoutesLost(t.Context(), []string{route})
		}
		synctest.Wait()
		if s := i.Status(); s.State != control.StateBackup || s.Reason != "another program removed "+route+", 6 times within 10s" {
			t.Errorf("%s, %s", s.State, s.Reason)
		}
	})
}
