package system

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"pgvrrp/internal/quiet"
)

const (
	// guardSlow is how long a call may take that opens something: half of the allowance for it in the lease's waiting time (20 ms).
	guardSlow = 10 * time.Millisecond

	// guardTries is how often a slow call is made in all.
	guardTries = 3

	// guardShortest is the shortest time that anything is opened for. Before 6.12 the kernel reads a timeout below one tick, at most
	// 10 ms, as for ever.
	guardShortest = 10 * time.Millisecond
)

// ErrLapsed means that a lease was over before it could be renewed: its addresses are shut, and only Open opens them again.
var ErrLapsed = errors.New("the lease has lapsed")

var errGuardSlow = fmt.Errorf("the kernel took longer than %s, %d times", guardSlow, guardTries)

// Guard shuts virtual addresses in the kernel when a lease lapses, whether this process runs or not. A shut address gets and sends no
// packet, not even from this host, answers neither ARP nor neighbour discovery, and hides nothing: a host whose address is shut
// reaches the same address on another host, and forwards to it.
//
// The kernel counts in ticks of 1 to 10 ms, always down. It counts from when it gets the call, so that a pause of this process
// just before the call opens an address for longer by the pause: at most by what the lease had left, and until this process runs again.
// The kernel's ticks stop while the machine is suspended.
//
// An address that the host itself translates (DNAT, REDIRECT) has another name when it gets to the guard, and is not shut.
// Frames that a program writes to the wire itself (packet(7)) do not pass it.
//
// A Guard is safe for concurrent use.
type Guard struct {
	log   *slog.Logger
	now   func() time.Duration
	mark  string
	claim *guardClaim

	mu        sync.Mutex
	kernel    guardKernel
	addresses []netip.Addr                 // guarded, sorted
	deadlines map[netip.Addr]time.Duration // of what we opened until then
	torn      map[netip.Addr]bool          // of these, what was shut with its table and not by the lease
}

// GuardOptions are what a Guard needs.
type GuardOptions struct {
	Log *slog.Logger // default: nothing is logged

	// Addresses are all guarded virtual addresses of this host, of both families.
	Addresses []netip.Addr

	// Owner tells the runs of one vrrpd from those of others: its run directory, as an absolute path. It marks the tables for CleanupGuard.
	// OpenGuard fails with ErrGuardTaken while another process runs with a guard that has an owner. "": nobody is told, nor asked.
	Owner string

	// Now is the clock of all deadlines. Default: quiet.BootTime.
	Now func() time.Duration
}

// guardKernel is the kernel's half of a Guard.
type guardKernel interface {
	// build makes everything in one transaction, in place of what is there.
	build(l guardLayout) error
	// change makes a change wholly or not at all. The error is ENOENT if there is nothing to change.
	change(c guardChange) error
	// remove removes everything. It may be gone already.
	remove() error
	close() error
}

// guardLayout is what a new guard looks like: shut.
type guardLayout struct {
	mark      string // guardMark
	addresses []netip.Addr
}

// guardChange is carried out in the order of its fields.
type guardChange struct {
	guard   []netip.Addr // guarded from now on
	shut    []netip.Addr // shut, whether it is open or not
	renew   []netip.Addr // shut; ENOENT if it is shut already
	open    []netip.Addr
	timeout time.Duration // of all that are opened
	unguard []netip.Addr  // no longer guarded
}

// OpenGuard makes a guard in the network namespace of the calling thread, with everything shut. It replaces in one
// transaction what an earlier run left. It needs CAP_NET_ADMIN and nf_tables for the families inet and arp.
func OpenGuard(o GuardOptions) (_ *Guard, err error) {
	var claim *guardClaim
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Owner != "" {
		if claim, err = claimGuard(o.Log); err != nil {
			return nil, fmt.Errorf("open guard: %w", err)
		}
	}
	kernel, err := openGuardTables()
	if err != nil {
		_ = claim.close()
		return nil, fmt.Errorf("open guard: %w", err)
	}
	g, err := newGuard(o, kernel)
	if err != nil {
		_ = errors.Join(kernel.close(), claim.close())
		return nil, fmt.Errorf("open guard: %w", err)
	}
	g.claim = claim
	return g, nil
}

func newGuard(o GuardOptions, kernel guardKernel) (*Guard, error) {
	g := &Guard{
		log: o.Log, now: o.Now,
		mark: guardMark(o.Owner), kernel: kernel, addresses: plainAddresses(o.Addresses),
		deadlines: map[netip.Addr]time.Duration{}, torn: map[netip.Addr]bool{},
	}
	if g.log == nil {
		g.log = slog.New(slog.DiscardHandler)
	}
	if g.now == nil {
		g.now = quiet.BootTime
	}
	if err := kernel.build(g.layout()); err != nil {
		return nil, err
	}
	return g, nil
}

// Open lets the addresses pass until the deadline, whatever they were before. It is for the start of an epoch. The error is
// ErrLapsed if the deadline is less than 10 ms away. After any error they are shut, unless it says that they could not be or are
// not guarded.
func (g *Guard) Open(addresses []netip.Addr, deadline time.Duration) error {
	return g.openUntil("open", addresses, deadline, false)
}

// Refresh sets a later deadline for addresses that are open. The error is ErrLapsed if one of them is shut, or the deadline less than
// 10 ms away; the kernel alone decides the former, so that a process that slept cannot open what has lapsed. After any
// error all of them are shut, unless it says that they could not be or are not guarded.
func (g *Guard) Refresh(addresses []netip.Addr, deadline time.Duration) error {
	return g.openUntil("refresh", addresses, deadline, true)
}

func (g *Guard) openUntil(act string, addresses []netip.Addr, deadline time.Duration, renew bool) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	gates, err := g.gates(addresses)
	if err == nil {
		err = g.set(gates, deadline, renew)
	}
	if err != nil {
		return fmt.Errorf("%s guarded addresses %v: %w", act, addresses, err)
	}
	return nil
}

// Shut shuts the addresses at once. It is harmless if they are shut.
func (g *Guard) Shut(addresses []netip.Addr) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	gates, err := g.gates(addresses)
	if err == nil {
		err = g.shut(gates)
	}
	if err != nil {
		return fmt.Errorf("shut guarded addresses %v: %w", addresses, err)
	}
	return nil
}

// Configure replaces the list of guarded addresses. New ones are shut, those that stay keep what they have, the others pass for ever.
func (g *Guard) Configure(addresses []netip.Addr) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	want := plainAddresses(addresses)
	without := func(list, other []netip.Addr) []netip.Addr {
		return slices.DeleteFunc(slices.Clone(list), func(a netip.Addr) bool { return slices.Contains(other, a) })
	}
	added, removed := without(want, g.addresses), without(g.addresses, want)
	if len(added)+len(removed) == 0 {
		return nil
	}
	err := g.kernel.change(guardChange{guard: added, shut: slices.Concat(added, removed), unguard: removed})
	gone := errors.Is(err, unix.ENOENT)
	if err != nil && !gone {
		return fmt.Errorf("guard addresses %v: %w", want, err)
	}
	g.addresses = want
	g.forget(removed)
	if gone {
		if err := g.rebuild(); err != nil {
			return fmt.Errorf("guard addresses %v: %w", want, err)
		}
	}
	return nil
}

// Check makes the guard again if another program has removed it, as a reload of the host's firewall does that starts with `nft
// flush ruleset`. What has to be shut is shut then; what has to be open, the next Refresh opens.
func (g *Guard) Check() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	var shut []netip.Addr
	for _, a := range g.addresses {
		if _, open := g.deadlines[a]; !open {
			shut = append(shut, a)
		}
	}
	err := g.kernel.change(guardChange{shut: shut})
	if errors.Is(err, unix.ENOENT) {
		err = g.rebuild()
	}
	if err != nil {
		return fmt.Errorf("check guard: %w", err)
	}
	return nil
}

// Close removes the guard, so that every packet passes.
func (g *Guard) Close() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	err := errors.Join(g.kernel.remove(), g.kernel.close(), g.claim.close())
	g.claim = nil
	if err != nil {
		return fmt.Errorf("remove guard: %w", err)
	}
	return nil
}

// gates are the addresses in order and once each. All of them must be guarded.
func (g *Guard) gates(addresses []netip.Addr) ([]netip.Addr, error) {
	gates := plainAddresses(addresses)
	for _, a := range gates {
		if _, ok := slices.BinarySearchFunc(g.addresses, a, netip.Addr.Compare); !ok {
			return nil, fmt.Errorf("%s is not guarded", a)
		}
	}
	return gates, nil
}

// set opens the gates until the deadline. With renew, only those that are still open.
func (g *Guard) set(gates []netip.Addr, deadline time.Duration, renew bool) error {
	if len(gates) == 0 {
		return nil
	}
	for range guardTries {
		start := g.now()
		// The kernel rounds down further, to its ticks.
		timeout := (deadline - start).Truncate(time.Millisecond)
		if timeout < guardShortest {
			return errors.Join(ErrLapsed, g.shut(gates))
		}
		c := guardChange{open: gates, timeout: timeout, shut: gates}
		if renew {
			c.shut, c.renew = nil, nil
			for _, a := range gates {
				switch {
				case !g.torn[a]:
					c.renew = append(c.renew, a)
				case g.deadlines[a] > start:
					c.shut = append(c.shut, a)
				default:
					return errors.Join(ErrLapsed, g.shut(gates))
				}
			}
		}
		err := g.kernel.change(c)
		if errors.Is(err, unix.ENOENT) {
			// Either a lease lapsed, or the tables are gone; shutting tells which.
			err = g.kernel.change(guardChange{shut: gates})
			if err == nil {
				g.forget(gates)
				return ErrLapsed
			}
			if errors.Is(err, unix.ENOENT) {
				if err := g.rebuild(); err != nil {
					return fmt.Errorf("not shut: %w", err)
				}
				continue
			}
		}
		if err != nil {
			return errors.Join(err, g.shut(gates))
		}
		g.forget(gates)
		for _, a := range gates {
			g.deadlines[a] = deadline
		}
		// Had we slept between reading the clock and the call, the gates would be open for too long.
		took := g.now() - start
		if took <= guardSlow {
			return nil
		}
		g.log.Warn("the guard was slow", "took", took)
	}
	return errors.Join(errGuardSlow, g.shut(gates))
}

// shut shuts the gates.
func (g *Guard) shut(gates []netip.Addr) error {
	g.forget(gates)
	err := g.kernel.change(guardChange{shut: gates})
	if errors.Is(err, unix.ENOENT) {
		err = g.rebuild()
	}
	if err != nil {
		return fmt.Errorf("not shut: %w", err)
	}
	return nil
}

// forget takes the gates for shut.
func (g *Guard) forget(gates []netip.Addr) {
	for _, a := range gates {
		delete(g.deadlines, a)
		delete(g.torn, a)
	}
}

// rebuild makes the tables again that another program has removed.
func (g *Guard) rebuild() error {
	if err := g.kernel.build(g.layout()); err != nil {
		return fmt.Errorf("make the removed guard again: %w", err)
	}
	// A Refresh may open them: it was not their leases that shut them.
	for a := range maps.Keys(g.deadlines) {
		g.torn[a] = true
	}
	g.log.Warn("another program had removed the guard: made it again")
	return nil
}

func (g *Guard) layout() guardLayout {
	return guardLayout{mark: g.mark, addresses: g.addresses}
}

// plainAddresses are the addresses sorted, once each, as the kernel has them in packets.
func plainAddresses(list []netip.Addr) []netip.Addr {
	plain := make([]netip.Addr, 0, len(list))
	for _, a := range list {
		if a.IsValid() {
			plain = append(plain, a.Unmap().WithZone(""))
		}
	}
	slices.SortFunc(plain, netip.Addr.Compare)
	return slices.Compact(plain)
}
