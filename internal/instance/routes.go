package instance

import (
	"context"
	"slices"
	"strings"
	"time"

	"pgvrrp/internal/conf"
	"pgvrrp/internal/control"
)

// setRoutes has the kernel hold the routes and rules of a master, or none. They come after the addresses, which may be their
// source, and go before them. One that cannot be set is tried again and costs no mastership: the addresses serve without it.
func (i *Instance) setRoutes(up bool) {
	i.routing, i.routesAgain = up, time.Time{}
	var routes []conf.Route
	var rules []conf.Rule
	if up {
		routes, rules = i.cfg.Routes, i.cfg.Rules
	}
	some := len(routes)+len(rules) > 0
	if !some && !i.routed {
		return
	}
	missing, err := i.opt.Network.SetRoutes(routes, rules)
	if i.routed = some || err != nil; err != nil {
		i.routesAgain = time.Now().Add(addressRetry)
	}
	i.mu.Lock()
	s := &i.status
	news := err != nil && (s.routeErr == nil || s.routeErr.Error() != err.Error())
	s.routeErr = err
	if some || err == nil {
		s.setRoutes(routes, rules, missing)
	}
	i.mu.Unlock()
	if news {
		i.log.Error("set virtual routes", "error", err)
	}
}

// setRoutes notes what became of an attempt to hold routes and rules.
func (s *status) setRoutes(routes []conf.Route, rules []conf.Rule, missing []string) {
	s.routesHeld = map[string]bool{}
	for _, name := range routeNames(routes, rules) {
		s.routesHeld[name] = !slices.Contains(missing, name)
	}
}

func routeNames(routes []conf.Route, rules []conf.Rule) (names []string) {
	for _, r := range routes {
		names = append(names, r.String())
	}
	for _, r := range rules {
		names = append(names, r.String())
	}
	return names
}

// routes are those of the file and whether they are held. The caller holds Instance.mu.
func (s *status) routes() []control.Route {
	all := slices.Clone(s.base.Routes)
	for k := range all {
		all[k].Held = s.routesHeld[all[k].Route]
	}
	return all
}

// RoutesLost says that routes or rules of ours, by their names, are not in the kernel any more: others removed them, or they
// went with an interface. They are put back at once and counted; if that happens again and again we give way, unless they
// are all no_track. It returns when that is done, so that who looks again sees it.
func (i *Instance) RoutesLost(ctx context.Context, missing []string) {
	done := make(chan struct{})
	called := i.call(ctx, func(now time.Time) {
		defer close(done)
		var lost []string
		tracked := false
		for _, r := range i.cfg.Routes {
			if slices.Contains(missing, r.String()) {
				lost, tracked = append(lost, r.String()), tracked || !r.NoTrack
			}
		}
		for _, r := range i.cfg.Rules {
			if slices.Contains(missing, r.String()) {
				lost, tracked = append(lost, r.String()), tracked || !r.NoTrack
			}
		}
		// What could not be set is missing, and no news.
		if len(lost) == 0 || !i.routing || !i.routesAgain.IsZero() {
			return
		}
		i.mu.Lock()
		i.status.counters.RoutesPutBack += uint64(len(lost))
		i.mu.Unlock()
		if i.fought(now, lost, tracked) {
			return
		}
		i.log.Warn("virtual routes are gone, putting them back", "routes", strings.Join(lost, "; "))
		i.setRoutes(true)
	})
	if !called {
		return
	}
	select {
	case <-done:
	case <-i.done:
	case <-ctx.Done():
	}
}
