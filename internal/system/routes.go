package system

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"pgvrrp/internal/conf"
	"pgvrrp/internal/files"
)

// RouteSet is the virtual routes and rules of one owner, a virtual router.
type RouteSet struct {
	Owner  string       `json:"owner"`
	Routes []conf.Route `json:"routes,omitempty"`
	Rules  []conf.Rule  `json:"rules,omitempty"`

	// Indexes are those of the interfaces that the routes name, for the list: an interface that is renamed keeps its routes.
	// Routes fills them in.
	Indexes map[string]int `json:"indexes,omitempty"`
}

func (s *RouteSet) empty() bool { return len(s.Routes)+len(s.Rules) == 0 }

// RoutesOptions are what Routes may be told.
type RoutesOptions struct {
	Log       *slog.Logger // nil: silent
	StateFile string       // lists what may have been added, for Cleanup after a kill; "": none
}

// Routes keeps the virtual routes and rules of several owners in the kernel. Ours are those with the protocol that their
// configuration says, AddressProtocol unless it names another one; rules always have AddressProtocol. What is there already
// and has another protocol is somebody else's: it is neither replaced nor removed, and an error. It is safe for concurrent use.
type Routes struct {
	log  *slog.Logger
	nl   *rtnl
	path string

	mu       sync.Mutex
	owners   map[string]RouteSet
	left     map[string][]RouteSet     // an owner's former sets of which something could not be removed yet
	placed   map[string]map[string]int // by route, the indexes of its interfaces when it was added
	declared []RouteSet                // of the file
	former   []RouteSet                // of the file, as a former run left it
	changed  chan struct{}
}

// OpenRoutes opens the socket in the network namespace of the calling thread. What a former run has listed stays listed until
// Cleanup.
func OpenRoutes(options RoutesOptions) (*Routes, error) {
	if options.Log == nil {
		options.Log = slog.New(slog.DiscardHandler)
	}
	nl, err := openRTNL()
	if err != nil {
		return nil, err
	}
	// So that a dump may ask for ours alone: a router may have a million of others. Kernels before 4.20 tell all.
	_ = unix.SetsockoptInt(nl.fd, unix.SOL_NETLINK, unix.NETLINK_GET_STRICT_CHK, 1)
	r := &Routes{log: options.Log, nl: nl, path: options.StateFile, owners: map[string]RouteSet{}, left: map[string][]RouteSet{}, placed: map[string]map[string]int{}, changed: make(chan struct{}, 1)}
	if r.path == "" {
		return r, nil
	}
	b, err := os.ReadFile(r.path)
	if err == nil {
		if err := json.Unmarshal(b, &r.former); err != nil {
			r.former = nil
			r.log.Warn("list of routes of a former run not read", "file", r.path, "error", err)
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		_ = nl.close()
		return nil, fmt.Errorf("read list of routes: %w", err)
	}
	return r, nil
}

// Close closes the socket and leaves all routes where they are. The list is removed if nothing is held.
func (r *Routes) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	var err error
	if len(r.owners) == 0 && len(r.former) == 0 && r.path != "" {
		if err = os.Remove(r.path); errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
	}
	return errors.Join(err, r.nl.close())
}

// Declare lists what may be added from now on; what is held, or listed by a former run, stays listed.
func (r *Routes) Declare(sets ...RouteSet) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	var all []RouteSet
	for _, s := range sets {
		if !s.empty() {
			all = append(all, r.located(s))
		}
	}
	for _, s := range r.owners {
		if !slices.ContainsFunc(all, func(o RouteSet) bool { return sameSet(&o, &s) }) {
			all = append(all, r.located(s))
		}
	}
	r.declared = all
	return r.write()
}

func sameSet(a, b *RouteSet) bool {
	return a.Owner == b.Owner && slices.EqualFunc(a.Routes, b.Routes, func(x, y conf.Route) bool { return x.String() == y.String() }) &&
		slices.EqualFunc(a.Rules, b.Rules, func(x, y conf.Rule) bool { return x.String() == y.String() })
}

// interfaces are the names of those that a route names.
func interfaces(route conf.Route) (names []string) {
	if route.Interface != "" {
		names = append(names, route.Interface)
	}
	for _, h := range route.NextHops {
		if h.Interface != "" {
			names = append(names, h.Interface)
		}
	}
	return names
}

// located is the set with the indexes of its interfaces: those of today, or else those that the list has.
func (r *Routes) located(s RouteSet) RouteSet {
	s.Indexes = nil
	if k := slices.IndexFunc(r.declared, func(o RouteSet) bool { return sameSet(&o, &s) }); k >= 0 {
		s.Indexes = maps.Clone(r.declared[k].Indexes)
	}
	for _, x := range s.Routes {
		for _, name := range interfaces(x) {
			if index, err := r.nl.index(name); err == nil {
				if s.Indexes == nil {
					s.Indexes = map[string]int{}
				}
				s.Indexes[name] = index
			}
		}
	}
	return s
}

// relocate has the list say where the set's interfaces are now: one was made anew since Declare, or came only then.
func (r *Routes) relocate(set RouteSet) error {
	k := slices.IndexFunc(r.declared, func(o RouteSet) bool { return sameSet(&o, &set) })
	if k < 0 {
		return nil
	}
	was, now := r.declared[k], r.located(r.declared[k])
	if maps.Equal(now.Indexes, was.Indexes) {
		return nil
	}
	r.declared[k] = now
	err := r.write()
	if err != nil {
		r.declared[k] = was
	}
	return err
}

// write replaces the list. The caller holds mu.
func (r *Routes) write() error {
	if r.path == "" {
		return nil
	}
	all := append(slices.Clone(r.former), r.declared...)
	if len(all) == 0 {
		if err := os.Remove(r.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove list of routes: %w", err)
		}
		return nil
	}
	b, err := json.MarshalIndent(all, "", "\t")
	if err == nil {
		err = files.Replace(r.path, append(b, '\n'), 0o600, files.Options{})
	}
	if err != nil {
		return fmt.Errorf("write list of routes %s: %w", r.path, err)
	}
	return nil
}

// Set makes the owner's routes and rules in the kernel be the set: missing ones are added, and those of its former set that
// are not in this one removed. An empty set removes all. It is safe to repeat and does as much as it can; missing names what
// the kernel does not hold now.
func (r *Routes) Set(set RouteSet) (missing []string, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var errs []error
	former := r.left[set.Owner]
	if before, ok := r.owners[set.Owner]; ok {
		former = append(former, before)
	}
	var left []RouteSet
	for _, before := range former {
		if err := r.remove(before, set); err != nil {
			left, errs = append(left, before), append(errs, err)
		}
	}
	if set.empty() {
		if err := errors.Join(errs...); err != nil {
			return nil, err // all stays as it was: the next try must know
		}
		delete(r.left, set.Owner)
		delete(r.owners, set.Owner)
		r.poke()
		return nil, nil
	}
	r.left[set.Owner] = left
	if err := r.relocate(set); err != nil {
		// As with addresses, a route without an entry is better than a takeover without a route.
		r.log.Warn("list of routes not written", "instance", set.Owner, "error", err)
	}
	r.owners[set.Owner] = set
	r.poke()
	// Rules last: what they point at is there then.
	for _, route := range set.Routes {
		if err := r.addRoute(route); err != nil {
			missing, errs = append(missing, route.String()), append(errs, fmt.Errorf("add route %s: %w", route, err))
		}
	}
	for _, rule := range set.Rules {
		if err := r.addRule(rule); err != nil {
			missing, errs = append(missing, rule.String()), append(errs, fmt.Errorf("add %s: %w", rule, err))
		}
	}
	return missing, errors.Join(errs...)
}

// poke says that there is something to watch, or nothing any more.
func (r *Routes) poke() {
	select {
	case r.changed <- struct{}{}:
	default:
	}
}

// remove removes what is in before, and neither in after nor held by another owner. Rules go first.
func (r *Routes) remove(before, after RouteSet) error {
	keepRoute, keepRule := map[string]bool{}, map[string]bool{}
	note := func(s RouteSet) {
		for _, x := range s.Routes {
			keepRoute[x.String()] = true
		}
		for _, x := range s.Rules {
			keepRule[x.String()] = true
		}
	}
	note(after)
	for owner, s := range r.owners {
		if owner != before.Owner {
			note(s)
		}
	}
	var errs []error
	for _, x := range before.Rules {
		if !keepRule[x.String()] {
			if _, err := r.deleteRule(x); err != nil {
				errs = append(errs, fmt.Errorf("remove %s: %w", x, err))
			}
		}
	}
	for _, x := range before.Routes {
		if !keepRoute[x.String()] {
			if _, err := r.deleteRoute(x, r.placed[x.String()]); err != nil {
				errs = append(errs, fmt.Errorf("remove route %s: %w", x, err))
			}
		}
	}
	return errors.Join(errs...)
}

// errForeign: the kernel holds one that looks the same and is not ours.
var errForeign = errors.New("somebody else's stands there")

func (r *Routes) addRoute(route conf.Route) error {
	flags := uint16(unix.NLM_F_CREATE | unix.NLM_F_EXCL)
	if route.Append {
		flags = unix.NLM_F_CREATE | unix.NLM_F_APPEND
	}
	if was := r.placed[route.String()]; r.renamed(was) {
		if _, err := r.deleteRouteOn(route, formerly(was)); err != nil {
			return err
		}
	}
	place := r.located(RouteSet{Routes: []conf.Route{route}}).Indexes
	err := r.do(func() (message, error) { return routeRequest(unix.RTM_NEWROUTE, flags, route, r.nl.index) })
	if err == nil {
		r.placed[route.String()] = place
		return nil
	}
	// Whatever the kernel does not like about it: it may be there already.
	present, unseen := r.dumpRoutes(route)
	switch {
	case unseen == nil && holdsRoute(present, route, r.nl.index):
		r.placed[route.String()] = place
		return nil
	case errors.Is(err, unix.EEXIST):
		return errForeign
	}
	return err
}

func (r *Routes) addRule(rule conf.Rule) error {
	if rule.Preference == 0 { // the kernel chooses one, and then no two are alike
		present, err := r.dumpRules()
		if _, ok := findRule(present, rule); ok || err != nil {
			return err
		}
	}
	err := r.do(func() (message, error) {
		return ruleRequest(unix.RTM_NEWRULE, unix.NLM_F_CREATE|unix.NLM_F_EXCL, rule), nil
	})
	if !errors.Is(err, unix.EEXIST) {
		return err
	}
	present, err := r.dumpRules()
	if err != nil {
		return err
	}
	if _, ok := findRule(present, rule); ok {
		return nil
	}
	return errForeign
}

// indexer tells the index of an interface by name.
type indexer func(name string) (int, error)

// formerly knows the interfaces as they were.
func formerly(indexes map[string]int) indexer {
	return func(name string) (int, error) {
		if index, ok := indexes[name]; ok {
			return index, nil
		}
		return 0, unix.ENODEV
	}
}

// renamed reports whether one of the names stands for another interface now, or for none.
func (r *Routes) renamed(was map[string]int) bool {
	for name, index := range was {
		if now, err := r.nl.index(name); err != nil || now != index {
			return true
		}
	}
	return false
}

// deleteRoute removes a route of ours, also where its interfaces were when it was added; one that is gone, or whose interface
// is, is no error.
func (r *Routes) deleteRoute(route conf.Route, placed map[string]int) (was bool, err error) {
	was, err = r.deleteRouteOn(route, r.nl.index)
	if err == nil && r.renamed(placed) {
		var there bool
		there, err = r.deleteRouteOn(route, formerly(placed))
		was = was || there
	}
	if err == nil {
		delete(r.placed, route.String())
	}
	return was, err
}

func (r *Routes) deleteRouteOn(route conf.Route, index indexer) (was bool, err error) {
	err = r.do(func() (message, error) { return routeRequest(unix.RTM_DELROUTE, 0, route, index) })
	if errors.Is(err, unix.ESRCH) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENXIO) {
		return false, nil
	}
	return err == nil, err
}

// deleteRule removes a rule of ours. To the kernel what is not said fits any rule, so it is said which preference it chose.
func (r *Routes) deleteRule(rule conf.Rule) (was bool, err error) {
	present, err := r.dumpRules()
	if err != nil {
		return false, err
	}
	k, ok := findRule(present, rule)
	if !ok {
		return false, nil
	}
	rule.Preference = k.Preference
	err = r.do(func() (message, error) { return ruleRequest(unix.RTM_DELRULE, 0, rule), nil })
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ESRCH) {
		return false, nil
	}
	return err == nil, err
}

func (r *Routes) do(request func() (message, error)) error {
	m, err := request()
	if err != nil {
		return err
	}
	outcomes, err := r.nl.exchange([]message{m})
	if err != nil {
		return err
	}
	return outcomes[0]
}

// Missing names what the owner holds by Set and the kernel does not.
func (r *Routes) Missing(owner string) ([]string, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	set, ok := r.owners[owner]
	if !ok {
		return nil, nil
	}
	all, err := r.missing([]RouteSet{set})
	return all[owner], err
}

// missing gives, by owner, what the kernel does not hold. The caller holds mu.
func (r *Routes) missing(sets []RouteSet) (map[string][]string, error) {
	routes, rules, err := r.dump(sets)
	if err != nil {
		return nil, err
	}
	all := map[string][]string{}
	for _, s := range sets {
		for _, x := range s.Routes {
			if !holdsRoute(routes, x, r.nl.index) {
				all[s.Owner] = append(all[s.Owner], x.String())
			}
		}
		for _, x := range s.Rules {
			if _, ok := findRule(rules, x); !ok {
				all[s.Owner] = append(all[s.Owner], x.String())
			}
		}
	}
	return all, nil
}

// dump reads what the kernel holds of the kinds that the sets speak of. The caller holds mu.
func (r *Routes) dump(sets []RouteSet) (routes []kernelRoute, rules []kernelRule, err error) {
	var wanted []conf.Route
	for _, s := range sets {
		wanted = append(wanted, s.Routes...)
	}
	if routes, err = r.dumpRoutes(wanted...); err == nil {
		rules, err = r.dumpRules()
	}
	return routes, rules, err
}

// Cleanup removes what a former run has left: what its list names and the sets given, as far as it is ours and nobody holds it.
// It returns what it removed, and is safe to repeat.
func (r *Routes) Cleanup(sets []RouteSet) (removed []string, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	held := RouteSet{}
	for _, s := range r.owners {
		held.Routes, held.Rules = append(held.Routes, s.Routes...), append(held.Rules, s.Rules...)
	}
	var errs []error
	for _, s := range append(slices.Clone(r.former), sets...) {
		for _, x := range s.Rules {
			if !slices.ContainsFunc(held.Rules, func(h conf.Rule) bool { return h.String() == x.String() }) {
				was, err := r.deleteRule(x)
				if was {
					removed = append(removed, x.String())
				}
				errs = append(errs, err)
			}
		}
		for _, x := range s.Routes {
			if !slices.ContainsFunc(held.Routes, func(h conf.Route) bool { return h.String() == x.String() }) {
				was, err := r.deleteRoute(x, s.Indexes)
				if was {
					removed = append(removed, "route "+x.String())
				}
				errs = append(errs, err)
			}
		}
	}
	if err := errors.Join(errs...); err != nil {
		return removed, fmt.Errorf("clean up routes: %w", err)
	}
	r.former = nil
	return removed, r.write()
}

// Leftovers is what Cleanup with the same sets would remove now.
func (r *Routes) Leftovers(sets []RouteSet) (left []string, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	sets = append(slices.Clone(r.former), sets...)
	routes, rules, err := r.dump(sets)
	if err != nil {
		return nil, err
	}
	add := func(name string) {
		if !slices.Contains(left, name) {
			left = append(left, name)
		}
	}
	for _, s := range sets {
		for _, x := range s.Rules {
			if _, ok := findRule(rules, x); ok {
				add(x.String())
			}
		}
		for _, x := range s.Routes {
			if holdsRoute(routes, x, r.nl.index) || r.renamed(s.Indexes) && holdsRoute(routes, x, formerly(s.Indexes)) {
				add("route " + x.String())
			}
		}
	}
	return left, nil
}

// lookEvery is how often held routes are looked for without news: the kernel drops IPv4 routes with their interface or source
// address and tells nobody.
const lookEvery = 2 * time.Second

// lookAgain is how long after a loss the next one is looked for. `ip route flush` deletes round after round until nothing is left:
// were each put back at once, it would look like somebody who fights for them.
const lookAgain = 100 * time.Millisecond

// Watch calls lost when routes or rules that an owner holds are missing, until ctx ends, which is no error. Putting them back is
// Set. While nobody holds any it does nothing.
func (r *Routes) Watch(ctx context.Context, lost func(owner string, missing []string)) error {
	file, err := openRouteEvents()
	if err != nil {
		return fmt.Errorf("watch routes: %w", err)
	}
	defer file.Close()
	raw, err := file.SyscallConn()
	if err != nil {
		return fmt.Errorf("watch routes: %w", err)
	}
	defer context.AfterFunc(ctx, func() { _ = file.SetReadDeadline(time.Unix(1, 0)) })()
	news := make(chan struct{}, 1)
	var reader sync.WaitGroup
	defer reader.Wait()
	reader.Go(func() {
		buf := make([]byte, 1<<16)
		for ctx.Err() == nil {
			var n int
			var failed error
			err := raw.Read(func(fd uintptr) bool {
				n, _, failed = unix.Recvfrom(int(fd), buf, unix.MSG_DONTWAIT)
				return !errors.Is(failed, unix.EAGAIN) && !errors.Is(failed, unix.EINTR)
			})
			if err != nil {
				return // closed, or the end
			}
			if errors.Is(failed, unix.ENOBUFS) || failed == nil && r.concerns(buf[:n]) {
				select {
				case news <- struct{}{}:
				default:
				}
			}
		}
	})
	look := time.NewTicker(lookEvery)
	defer look.Stop()
	for {
		tick := look.C
		r.mu.Lock()
		if len(r.owners) == 0 {
			tick = nil
		}
		r.mu.Unlock()
		select {
		case <-ctx.Done():
			return nil
		case <-r.changed:
			continue
		case <-news:
		case <-tick:
		}
		gone := r.gone()
		for owner, missing := range gone {
			lost(owner, missing)
		}
		if len(gone) > 0 {
			select {
			case <-ctx.Done():
			case <-time.After(lookAgain):
			}
		}
	}
}

// concerns reports whether a notice of the kernel's may be about something that is held.
func (r *Routes) concerns(b []byte) bool {
	messages, err := syscall.ParseNetlinkMessage(b)
	if err != nil {
		return true // to look is always right
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, m := range messages {
		k, ok := parseRoute(m.Data)
		if m.Header.Type != unix.RTM_DELROUTE || !ok {
			if len(r.owners) > 0 {
				return true
			}
			continue
		}
		for _, s := range r.owners {
			if slices.ContainsFunc(s.Routes, func(x conf.Route) bool { return k.To == x.To && k.Table == x.Table }) {
				return true
			}
		}
	}
	return false
}

// gone is what is missing of all owners.
func (r *Routes) gone() map[string][]string {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.owners) == 0 {
		return nil
	}
	var sets []RouteSet
	for _, s := range r.owners {
		sets = append(sets, s)
	}
	all, err := r.missing(sets)
	if err != nil {
		r.log.Warn("routes not looked for", "error", err)
	}
	return all
}

// openRouteEvents subscribes to what is said of routes and rules that were removed.
func openRouteEvents() (*os.File, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, err
	}
	host := func(v uint16) uint32 {
		return uint32(binary.BigEndian.Uint16(binary.NativeEndian.AppendUint16(nil, v)))
	}
	err = setFilter(fd, []bpf.Instruction{
		bpf.LoadAbsolute{Off: 4, Size: 2}, // nlmsg_type
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: host(unix.RTM_DELROUTE), SkipTrue: 2},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: host(unix.RTM_DELRULE), SkipTrue: 1},
		bpf.RetConstant{Val: 0},
		bpf.RetConstant{Val: 1<<32 - 1},
	})
	if err == nil {
		const groups = unix.RTMGRP_IPV4_ROUTE | unix.RTMGRP_IPV4_RULE | unix.RTMGRP_IPV6_ROUTE | 1<<(unix.RTNLGRP_IPV6_RULE-1)
		err = unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: groups})
	}
	if err != nil {
		_ = unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), "route events"), nil
}

var routeTypes = map[string]uint8{
	"unicast": unix.RTN_UNICAST, "blackhole": unix.RTN_BLACKHOLE, "unreachable": unix.RTN_UNREACHABLE,
	"prohibit": unix.RTN_PROHIBIT, "throw": unix.RTN_THROW,
}

func family(ipv6 bool) byte {
	if ipv6 {
		return unix.AF_INET6
	}
	return unix.AF_INET
}

// routeProtocol is by what we know a route as ours.
func routeProtocol(route conf.Route) uint8 {
	if route.Protocol == 0 {
		return AddressProtocol
	}
	return uint8(route.Protocol)
}

// defaultMetric is the metric of an IPv6 route that was given none (IP6_RT_PRIO_USER of linux/ipv6_route.h).
const defaultMetric = 1024

// routeRequest is RTM_NEWROUTE or RTM_DELROUTE for exactly this route.
func routeRequest(kind, flags uint16, route conf.Route, indexOf indexer) (message, error) {
	ne := binary.NativeEndian
	ipv6 := route.To.Addr().Is6()
	scope := uint8(unix.RT_SCOPE_UNIVERSE)
	switch {
	case route.Scope >= 0:
		scope = uint8(route.Scope)
	case !ipv6 && route.Type == "unicast" && !route.Via.IsValid() && len(route.NextHops) == 0:
		scope = unix.RT_SCOPE_LINK
	}
	table := uint8(unix.RT_TABLE_COMPAT)
	if route.Table < 256 {
		table = uint8(route.Table)
	}
	var onlink uint32
	if route.OnLink {
		onlink = unix.RTNH_F_ONLINK
	}
	// struct rtmsg: family, destination and source length, TOS, table, protocol, scope, type, flags.
	b := []byte{family(ipv6), byte(route.To.Bits()), 0, 0, table, routeProtocol(route), scope, routeTypes[route.Type]}
	b = ne.AppendUint32(b, onlink)
	number := func(b []byte, kind uint16, v uint32) []byte { return appendAttribute(b, kind, ne.AppendUint32(nil, v)) }
	b = number(b, unix.RTA_TABLE, uint32(route.Table))
	if route.To.Bits() > 0 {
		b = appendAttribute(b, unix.RTA_DST, route.To.Addr().AsSlice())
	}
	if route.Via.IsValid() {
		b = appendAttribute(b, unix.RTA_GATEWAY, route.Via.AsSlice())
	}
	if route.Interface != "" {
		index, err := indexOf(route.Interface)
		if err != nil {
			return message{}, fmt.Errorf("interface %s: %w", route.Interface, err)
		}
		b = number(b, unix.RTA_OIF, uint32(index))
	}
	if route.Source.IsValid() {
		b = appendAttribute(b, unix.RTA_PREFSRC, route.Source.AsSlice())
	}
	if route.Metric != 0 {
		b = number(b, unix.RTA_PRIORITY, uint32(route.Metric))
	}
	var metrics []byte
	if route.MTULock {
		metrics = number(metrics, unix.RTAX_LOCK, 1<<unix.RTAX_MTU)
	}
	if route.MTU != 0 {
		metrics = number(metrics, unix.RTAX_MTU, uint32(route.MTU))
	}
	if route.AdvMSS != 0 {
		metrics = number(metrics, unix.RTAX_ADVMSS, uint32(route.AdvMSS))
	}
	if len(metrics) > 0 {
		b = appendAttribute(b, unix.RTA_METRICS, metrics)
	}
	var hops []byte
	for _, h := range route.NextHops {
		var attrs []byte
		index := 0
		if h.Via.IsValid() {
			attrs = appendAttribute(nil, unix.RTA_GATEWAY, h.Via.AsSlice())
		}
		if h.Interface != "" {
			var err error
			if index, err = indexOf(h.Interface); err != nil {
				return message{}, fmt.Errorf("interface %s: %w", h.Interface, err)
			}
		}
		onlink := byte(0)
		if h.OnLink {
			onlink = unix.RTNH_F_ONLINK
		}
		// struct rtnexthop: length, flags, weight less one, interface.
		hops = ne.AppendUint16(hops, uint16(unix.SizeofRtNexthop+len(attrs)))
		hops = append(hops, onlink, byte(h.Weight-1))
		hops = append(ne.AppendUint32(hops, uint32(index)), attrs...)
	}
	if len(hops) > 0 {
		b = appendAttribute(b, unix.RTA_MULTIPATH, hops)
	}
	return message{kind: kind, flags: flags, body: b}, nil
}

// kernelRoute is a route as the kernel holds it, as far as it tells ours.
type kernelRoute struct {
	conf.Route
	kind  uint8
	index int   // of the interface; 0: none, or several
	hops  []int // interfaces of the next hops
}

// parseRoute reads the body of a route message.
func parseRoute(b []byte) (k kernelRoute, ok bool) {
	ne := binary.NativeEndian
	if len(b) < unix.SizeofRtMsg || b[0] != unix.AF_INET && b[0] != unix.AF_INET6 {
		return k, false
	}
	to := netip.IPv4Unspecified()
	if b[0] == unix.AF_INET6 {
		to = netip.IPv6Unspecified()
	}
	k.Table, k.Protocol, k.kind = int(b[4]), int(b[5]), b[7]
	number := func(v []byte) int {
		if len(v) < 4 {
			return 0
		}
		return int(ne.Uint32(v))
	}
	ok = forAttributes(b[unix.SizeofRtMsg:], func(kind uint16, v []byte) {
		switch kind {
		case unix.RTA_DST:
			to, _ = netip.AddrFromSlice(v)
		case unix.RTA_TABLE:
			k.Table = number(v)
		case unix.RTA_GATEWAY:
			k.Via, _ = netip.AddrFromSlice(v)
		case unix.RTA_OIF:
			k.index = number(v)
		case unix.RTA_PREFSRC:
			k.Source, _ = netip.AddrFromSlice(v)
		case unix.RTA_PRIORITY:
			k.Metric = number(v)
		case unix.RTA_MULTIPATH:
			for len(v) >= unix.SizeofRtNexthop {
				size := int(ne.Uint16(v))
				if size < unix.SizeofRtNexthop || size > len(v) {
					return
				}
				h := conf.NextHop{Weight: int(v[3]) + 1}
				k.hops = append(k.hops, number(v[4:]))
				forAttributes(v[unix.SizeofRtNexthop:size], func(kind uint16, v []byte) {
					if kind == unix.RTA_GATEWAY {
						h.Via, _ = netip.AddrFromSlice(v)
					}
				})
				k.NextHops = append(k.NextHops, h)
				v = v[min((size+3)&^3, len(v)):]
			}
		}
	})
	if !ok || !to.IsValid() || int(b[1]) > to.BitLen() {
		return k, false
	}
	k.To = netip.PrefixFrom(to, int(b[1]))
	return k, true
}

// dumpRoutes lists the kernel's routes of the protocols that the wanted ones have.
func (r *Routes) dumpRoutes(wanted ...conf.Route) (all []kernelRoute, err error) {
	if len(wanted) == 0 {
		return nil, nil
	}
	protocol := routeProtocol(wanted[0])
	if slices.ContainsFunc(wanted, func(x conf.Route) bool { return routeProtocol(x) != protocol }) {
		protocol = unix.RTPROT_UNSPEC // of any
	}
	for _, ipv6 := range []bool{false, true} {
		body := make([]byte, unix.SizeofRtMsg)
		body[0], body[5] = family(ipv6), protocol
		err := r.nl.dump(message{kind: unix.RTM_GETROUTE, body: body}, func(kind uint16, b []byte) {
			// A cached route is no route that anybody set.
			if len(b) < unix.SizeofRtMsg || kind != unix.RTM_NEWROUTE || binary.NativeEndian.Uint32(b[8:])&unix.RTM_F_CLONED != 0 {
				return
			}
			if k, ok := parseRoute(b); ok {
				all = append(all, k)
			}
		})
		if err != nil && !errors.Is(err, unix.EAFNOSUPPORT) && !errors.Is(err, unix.EOPNOTSUPP) {
			return nil, fmt.Errorf("list routes: %w", err)
		}
	}
	return all, nil
}

// holdsRoute reports whether the route is among what the kernel holds, as ours.
func holdsRoute(present []kernelRoute, route conf.Route, indexOf indexer) bool {
	metric := route.Metric
	if metric == 0 && route.To.Addr().Is6() {
		metric = defaultMetric
	}
	on := func(name string, index int) bool {
		if name == "" {
			return true
		}
		got, err := indexOf(name)
		return err == nil && got == index
	}
	return slices.ContainsFunc(present, func(k kernelRoute) bool {
		if k.To != route.To || k.Table != route.Table || uint8(k.Protocol) != routeProtocol(route) || k.kind != routeTypes[route.Type] || k.Metric != metric ||
			k.Via != route.Via || route.Source.IsValid() && k.Source != route.Source || !on(route.Interface, k.index) || len(k.NextHops) != len(route.NextHops) {
			return false
		}
		for i, h := range route.NextHops {
			if k.NextHops[i].Via != h.Via || k.NextHops[i].Weight != h.Weight || !on(h.Interface, k.hops[i]) {
				return false
			}
		}
		return true
	})
}

var ruleActions = map[string]uint8{
	"table": unix.FR_ACT_TO_TBL, "goto": unix.FR_ACT_GOTO, "nop": unix.FR_ACT_NOP, "blackhole": unix.FR_ACT_BLACKHOLE,
	"unreachable": unix.FR_ACT_UNREACHABLE, "prohibit": unix.FR_ACT_PROHIBIT,
}

// ruleRequest is RTM_NEWRULE or RTM_DELRULE.
func ruleRequest(kind, flags uint16, rule conf.Rule) message {
	ne := binary.NativeEndian
	bits := func(p netip.Prefix) byte {
		if !p.IsValid() {
			return 0
		}
		return byte(p.Bits())
	}
	table := uint8(unix.RT_TABLE_UNSPEC)
	if rule.Action == "table" {
		if table = unix.RT_TABLE_COMPAT; rule.Table < 256 {
			table = uint8(rule.Table)
		}
	}
	var invert uint32
	if rule.Not {
		invert = unix.FIB_RULE_INVERT
	}
	// struct fib_rule_hdr: family, destination and source length, TOS, table, two reserved, action, flags.
	b := []byte{family(rule.IPv6), bits(rule.To), bits(rule.From), byte(rule.TOS), table, 0, 0, ruleActions[rule.Action]}
	b = ne.AppendUint32(b, invert)
	number := func(kind uint16, v uint32) { b = appendAttribute(b, kind, ne.AppendUint32(nil, v)) }
	text := func(kind uint16, v string) {
		if v != "" {
			b = appendAttribute(b, kind, append([]byte(v), 0))
		}
	}
	for _, p := range []struct {
		kind uint16
		p    netip.Prefix
	}{{unix.FRA_DST, rule.To}, {unix.FRA_SRC, rule.From}} {
		if bits(p.p) > 0 {
			b = appendAttribute(b, p.kind, p.p.Addr().AsSlice())
		}
	}
	text(unix.FRA_IIFNAME, rule.IIF)
	text(unix.FRA_OIFNAME, rule.OIF)
	if rule.Preference != 0 {
		number(unix.FRA_PRIORITY, uint32(rule.Preference))
	}
	if rule.HasFWMark {
		number(unix.FRA_FWMARK, rule.FWMark)
		number(unix.FRA_FWMASK, rule.FWMask)
	}
	switch rule.Action {
	case "table":
		number(unix.FRA_TABLE, uint32(rule.Table))
	case "goto":
		number(unix.FRA_GOTO, uint32(rule.Goto))
	}
	b = appendAttribute(b, unix.FRA_PROTOCOL, []byte{AddressProtocol})
	return message{kind: kind, flags: flags, body: b}
}

// kernelRule is a rule as the kernel holds it.
type kernelRule struct {
	conf.Rule
	protocol uint8
}

func parseRule(b []byte) (k kernelRule, ok bool) {
	ne := binary.NativeEndian
	if len(b) < unix.SizeofRtMsg || b[0] != unix.AF_INET && b[0] != unix.AF_INET6 {
		return k, false
	}
	k.IPv6 = b[0] == unix.AF_INET6
	k.TOS, k.Table = int(b[3]), int(b[4])
	k.Not = ne.Uint32(b[8:])&unix.FIB_RULE_INVERT != 0
	for name, action := range ruleActions {
		if action == b[7] {
			k.Action = name
		}
	}
	number := func(v []byte) uint32 {
		if len(v) < 4 {
			return 0
		}
		return ne.Uint32(v)
	}
	prefix := func(v []byte, bits byte) netip.Prefix {
		a, _ := netip.AddrFromSlice(v)
		return netip.PrefixFrom(a, int(bits))
	}
	ok = forAttributes(b[unix.SizeofRtMsg:], func(kind uint16, v []byte) {
		switch kind {
		case unix.FRA_DST:
			k.To = prefix(v, b[1])
		case unix.FRA_SRC:
			k.From = prefix(v, b[2])
		case unix.FRA_IIFNAME:
			k.IIF = unix.ByteSliceToString(v)
		case unix.FRA_OIFNAME:
			k.OIF = unix.ByteSliceToString(v)
		case unix.FRA_PRIORITY:
			k.Preference = int(number(v))
		case unix.FRA_FWMARK:
			k.FWMark = number(v)
		case unix.FRA_FWMASK:
			k.FWMask = number(v)
		case unix.FRA_TABLE:
			k.Table = int(number(v))
		case unix.FRA_GOTO:
			k.Goto = int(number(v))
		case unix.FRA_PROTOCOL:
			if len(v) > 0 {
				k.protocol = v[0]
			}
		}
	})
	return k, ok
}

func (r *Routes) dumpRules() (all []kernelRule, err error) {
	for _, ipv6 := range []bool{false, true} {
		body := make([]byte, unix.SizeofRtMsg)
		body[0] = family(ipv6)
		err := r.nl.dump(message{kind: unix.RTM_GETRULE, body: body}, func(kind uint16, b []byte) {
			if k, ok := parseRule(b); ok && kind == unix.RTM_NEWRULE {
				all = append(all, k)
			}
		})
		if err != nil && !errors.Is(err, unix.EAFNOSUPPORT) && !errors.Is(err, unix.EOPNOTSUPP) {
			return nil, fmt.Errorf("list rules: %w", err)
		}
	}
	return all, nil
}

// findRule finds the rule among what the kernel holds, as ours.
func findRule(present []kernelRule, rule conf.Rule) (kernelRule, bool) {
	anything := func(p netip.Prefix) bool { return !p.IsValid() || p.Bits() == 0 }
	same := func(a, b netip.Prefix) bool { return a == b || anything(a) && anything(b) }
	mask := rule.FWMask
	if !rule.HasFWMark || rule.FWMark == 0 && mask == 1<<32-1 {
		mask = 0
	}
	i := slices.IndexFunc(present, func(k kernelRule) bool {
		got := k.FWMask
		if k.FWMark == 0 && got == 1<<32-1 {
			got = 0
		}
		return k.protocol == AddressProtocol && k.IPv6 == rule.IPv6 && k.Not == rule.Not && same(k.From, rule.From) && same(k.To, rule.To) &&
			k.IIF == rule.IIF && k.OIF == rule.OIF && k.TOS == rule.TOS && k.FWMark == rule.FWMark && got == mask &&
			(rule.Preference == 0 || k.Preference == rule.Preference) && k.Action == rule.Action &&
			(rule.Action != "table" || k.Table == rule.Table) && (rule.Action != "goto" || k.Goto == rule.Goto)
	})
	if i < 0 {
		return kernelRule{}, false
	}
	return present[i], true
}
