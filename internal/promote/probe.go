package promote

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"syscall"
	"time"

	"pgvrrp/internal/postgres"
)

// Network asks other servers. Ask opens a physical replication connection, so that it needs no more than streaming does.
type Network interface {
	Dial(ctx context.Context, address string) error // can a connection to host:port be made?
	Ask(ctx context.Context, conninfo string) (postgres.Remote, error)
	History(ctx context.Context, conninfo string, tli postgres.Timeline) (postgres.History, error)
	Holds(addr netip.Addr) (bool, error) // is it an address of this host?
}

// RealNetwork is the network.
type RealNetwork struct{}

// Dial connects by TCP and hangs up.
func (RealNetwork) Dial(ctx context.Context, address string) error {
	c, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
	if err != nil {
		return err
	}
	return c.Close()
}

// Ask is postgres.Probe.
func (RealNetwork) Ask(ctx context.Context, conninfo string) (postgres.Remote, error) {
	return postgres.Probe(ctx, conninfo)
}

// History is postgres.FetchHistory.
func (RealNetwork) History(ctx context.Context, conninfo string, tli postgres.Timeline) (postgres.History, error) {
	return postgres.FetchHistory(ctx, conninfo, tli)
}

// Holds looks through the addresses of all interfaces.
func (RealNetwork) Holds(addr netip.Addr) (bool, error) {
	all, err := net.InterfaceAddrs()
	if err != nil {
		return false, fmt.Errorf("look for %s among our addresses: %w", addr, err)
	}
	return slices.ContainsFunc(all, func(a net.Addr) bool {
		p, err := netip.ParsePrefix(a.String())
		return err == nil && p.Addr().WithZone("") == addr
	}), nil
}

// dialed says what a failed connection attempt means. Only what the network itself answers, or its silence, counts as
// unreachable; a fault on our side (no permission, no free port, no file descriptor) is a check that could not run.
func dialed(err error) (Reach, string) {
	switch {
	case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH),
		errors.Is(err, syscall.EHOSTDOWN), errors.Is(err, syscall.ENETDOWN):
		return Unreachable, errors.Unwrap(err).Error()
	case errors.Is(err, syscall.ECONNRESET):
		return Undecided, "connection reset"
	case errors.Is(err, context.Canceled):
		return CantTell, "the question was cancelled"
	case isTimeout(err):
		return Unreachable, "no answer to the connection attempt"
	}
	return CantTell, err.Error()
}

// asked says what a question that failed after the connection stood means. A server that is there but starts, stops or is
// silent may be a primary in a moment: ask again. Whatever else it says (password, pg_hba.conf, too many clients, not
// PostgreSQL at all) leaves its role unknown.
func asked(err error) (Reach, string) {
	code := postgres.SQLState(err)
	switch {
	case postgres.StartsOrStops(code):
		return Undecided, "the server starts or stops: " + err.Error()
	case code != "":
		return CantTell, err.Error()
	case errors.Is(err, syscall.ECONNREFUSED):
		return Unreachable, "connection refused"
	case errors.Is(err, context.Canceled):
		return CantTell, "the question was cancelled"
	case postgres.HungUp(err):
		return Undecided, "the server hung up"
	case isTimeout(err):
		return Undecided, "connected, but the server does not answer"
	}
	return CantTell, err.Error()
}

func isTimeout(err error) bool {
	var n net.Error
	return errors.Is(err, context.DeadlineExceeded) || errors.As(err, &n) && n.Timeout()
}

// ask puts one question to one address.
func (e *Engine) ask(ctx context.Context, name string, addr netip.Addr) Answer {
	a := Answer{Name: name, Addr: addr}
	dctx, cancel := context.WithTimeout(ctx, e.Settings.Timeouts.Connect)
	defer cancel()
	if err := e.Network.Dial(dctx, net.JoinHostPort(addr.String(), fmt.Sprint(e.Settings.Port))); err != nil {
		a.Reach, a.Reason = dialed(err)
		return a
	}
	qctx, cancel := context.WithTimeout(ctx, e.Settings.Timeouts.Probe)
	defer cancel()
	r, err := e.Network.Ask(qctx, e.Settings.Question(addr.String()))
	switch {
	case err != nil:
		a.Reach, a.Reason = asked(err)
		return a
	case r.SystemID == 0 || r.Timeline == 0 || r.LSN == 0:
		a.Reach, a.Reason = CantTell, "its answer has no position"
		return a
	case r.InRecovery:
		a.Reach = Standby
	default:
		a.Reach = Primary
	}
	a.SystemID, a.Position, a.Version = r.SystemID, r.Position(), r.Version
	return a
}

// combine makes one answer of a node's several links: what any of them knows counts, and the node is unreachable only if
// each of them says so.
func combine(answers []Answer) Answer {
	rank := map[Reach]int{Primary: 0, Standby: 1, Undecided: 2, CantTell: 3, NotProbed: 4, Unreachable: 5}
	return slices.MinFunc(answers, func(a, b Answer) int { return rank[a.Reach] - rank[b.Reach] })
}

// survey is what was heard of the VIP and of every other node, with the time of each question.
type survey struct {
	answers map[string]Answer // by node name; the VIP under vipName
	asked   map[string]time.Time
	since   map[string]time.Time // when the same answer was first given
}

// standstill is how long a standby's position must have been the same to be the end of its WAL: one that has just been started names how far it has
// replayed what it has. The time to settle is longer, so that this costs nothing.
const standstill = 40 * time.Millisecond

const vipName = "VIP"

// targets are the VIP and all other nodes.
func (e *Engine) targets() map[string][]netip.Addr {
	t := map[string][]netip.Addr{vipName: {e.Settings.VIP}}
	for name, addrs := range e.Settings.Peers {
		if name != e.Settings.Node {
			t[name] = addrs
		}
	}
	return t
}

// askAll asks the named targets in parallel and waits for each.
func (e *Engine) askAll(ctx context.Context, targets map[string][]netip.Addr) survey {
	s := survey{map[string]Answer{}, map[string]time.Time{}, map[string]time.Time{}}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for name, addrs := range targets {
		wg.Go(func() {
			at := time.Now()
			answers := make([]Answer, len(addrs))
			var links sync.WaitGroup
			for i, addr := range addrs {
				links.Go(func() { answers[i] = e.ask(ctx, name, addr) })
			}
			links.Wait()
			mu.Lock()
			defer mu.Unlock()
			s.answers[name], s.asked[name], s.since[name] = combine(answers), at, at
		})
	}
	wg.Wait()
	return s
}

// refresh asks again whoever was not simply unreachable a moment ago, so that a node without power costs its full
// deadline only once.
func (e *Engine) refresh(ctx context.Context, s survey, stale time.Duration) survey {
	again := map[string][]netip.Addr{}
	for name, addrs := range e.targets() {
		if s.answers[name].Reach != Unreachable || time.Since(s.asked[name]) > stale {
			again[name] = addrs
		}
	}
	fresh := e.askAll(ctx, again)
	out := survey{maps.Clone(s.answers), maps.Clone(s.asked), maps.Clone(s.since)}
	for name, a := range fresh.answers {
		before := s.answers[name]
		if a.Reach != before.Reach || a.Position != before.Position {
			out.since[name] = fresh.asked[name]
		}
		a.Moves = a.Reach == Standby && fresh.asked[name].Sub(out.since[name]) < standstill
		out.answers[name], out.asked[name] = a, fresh.asked[name]
	}
	return out
}

func (s survey) into(f *Facts) {
	for _, name := range slices.Sorted(maps.Keys(s.answers)) {
		if name == vipName {
			f.VIP = s.answers[name]
		} else {
			f.Peers = append(f.Peers, s.answers[name])
		}
	}
}
