package system

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"pgvrrp/internal/conf"
)

// AddressProtocol is the IFA_PROTO of every address that we add (kernel 5.18 and newer), by which anybody can
// tell whose it is: `ip -d address` shows it as "proto 212". The kernel uses 1 to 3, routing daemons numbers
// up to 192 (/etc/iproute2/rt_protos); 212 is VRRP's protocol number plus 100.
const AddressProtocol = 212

// Set is the virtual addresses of one owner.
type Set struct {
	Owner     string // the virtual router's name
	Addresses []conf.Address

	// Lifetime is how long the kernel keeps the addresses without Renew, in whole seconds rounded up; 0: for ever.
	Lifetime time.Duration

	// KeepExisting leaves an address alone that stood there before us: neither tagged nor removed. For the router
	// that owns its addresses (priority 255), whose own they are.
	KeepExisting bool
}

// AddResult says what Add found and did.
type AddResult struct {
	Added   []conf.Address // were missing
	Adopted []conf.Address // were there already, from a former run or somebody else
	Removed []conf.Address // were the owner's and are no longer in its set
}

// AddressesOptions are what Addresses may be told.
type AddressesOptions struct {
	Log       *slog.Logger // nil: silent
	StateFile string       // see StateFile; "": none
}

// Addresses keeps the virtual addresses of several owners in the kernel. It is safe for concurrent use.
type Addresses struct {
	log   *slog.Logger
	nl    *rtnl
	state *stateFile // nil: none

	mu     sync.Mutex
	owners map[string]*owned
	placed map[addressID]int  // the interface's index where each of ours was put: the name may stand for another one by now
	moving map[addressID]bool // these stay for now, whoever lets go of them
	parked []conf.Address     // those of them that were let go, and what could not be removed at the end of a Move
}

// owned is what one owner wants in the kernel.
type owned struct {
	set  Set
	keep map[addressID]bool // addresses of set that stood there before us and stay
	left []conf.Address     // of a former set, that could not be removed yet
}

// addressID tells two configured addresses apart. An interface is known by name: it may be made anew. If it is renamed its
// addresses go along, which is what Addresses.placed is for.
type addressID struct {
	iface  string
	prefix netip.Prefix
}

// idOf is a as the kernel will hold it: with a peer, the prefix length is that of the peer's network.
func idOf(a conf.Address) addressID {
	if a.Peer.IsValid() {
		return addressID{a.Interface, netip.PrefixFrom(a.Prefix.Addr(), a.Peer.Bits())}
	}
	return addressID{a.Interface, a.Prefix}
}

// OpenAddresses opens the socket in the network namespace of the calling thread. A state file of a former run
// is read, and stays in force until Cleanup.
func OpenAddresses(options AddressesOptions) (*Addresses, error) {
	if options.Log == nil {
		options.Log = slog.New(slog.DiscardHandler)
	}
	nl, err := openRTNL()
	if err != nil {
		return nil, err
	}
	a := &Addresses{log: options.Log, nl: nl, owners: map[string]*owned{}, placed: map[addressID]int{}}
	if options.StateFile != "" {
		if a.state, err = openStateFile(options.StateFile, options.Log); err != nil {
			_ = nl.close()
			return nil, err
		}
	}
	return a, nil
}

// Close closes the socket and leaves all addresses where they are. The state file is removed if it lists none.
func (a *Addresses) Close() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	var err error
	if a.state != nil {
		err = a.state.removeIfEmpty()
	}
	return errors.Join(err, a.nl.close())
}

// Declare writes the sets into the state file, before any of them is added, so that Cleanup knows of them
// however we end. It is called at start and reload: Add declares what is not declared yet, but then writes a file
// on the way to a takeover.
func (a *Addresses) Declare(sets ...Set) error {
	for _, set := range sets {
		if err := check(set); err != nil {
			return err
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.declare(sets...)
}

func (a *Addresses) declare(sets ...Set) error {
	if a.state == nil {
		return nil
	}
	indexes := a.indexes(sets)
	if a.state.covers(sets, indexes) {
		return nil
	}
	present, err := a.nl.dumpAddresses()
	if err != nil {
		return fmt.Errorf("declare addresses: %w", err)
	}
	held := a.held()
	return a.state.declare(sets, indexes, func(addr conf.Address) bool {
		k := a.find(present, addr)
		return k != nil && !k.Ours() && !held[idOf(addr)]
	})
}

// indexes are those of the interfaces that the sets name, as far as they are there.
func (a *Addresses) indexes(sets []Set) map[string]int {
	indexes := map[string]int{}
	for _, set := range sets {
		for _, addr := range set.Addresses {
			if _, known := indexes[addr.Interface]; !known {
				indexes[addr.Interface], _ = a.nl.index(addr.Interface) // 0: it is not there
			}
		}
	}
	return indexes
}

// Forget takes owners that are no more out of the state file, in one write. Their addresses must have been removed; those
// of an owner whose removal failed stay listed.
func (a *Addresses) Forget(owners ...string) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.state == nil {
		return nil
	}
	return a.state.forget(slices.DeleteFunc(slices.Clone(owners), func(o string) bool { return a.owners[o] != nil }))
}

// Add makes the owner's addresses in the kernel be the set: missing ones are added, present ones adopted, and
// those of the owner's former set that are not in this one removed. It is safe to repeat and does as much as it
// can: the error joins what failed, and Check tells what is missing.
func (a *Addresses) Add(set Set) (AddResult, error) {
	var result AddResult
	if err := check(set); err != nil {
		return result, err
	}
	set.Addresses = slices.Clone(set.Addresses)
	a.mu.Lock()
	defer a.mu.Unlock()

	// What another interface took along with its name goes first: the state file then names the new one.
	_, moved := a.deleteRenamed(set.Addresses)
	errs := []error{moved}
	if err := a.declare(set); err != nil {
		// An address without an entry in the file is better than a takeover without an address.
		a.log.Warn("state file not written", "instance", set.Owner, "error", err)
	}
	before := a.owners[set.Owner]
	now := &owned{set: set, keep: map[addressID]bool{}}
	a.owners[set.Owner] = now
	if before != nil {
		gone := slices.Clone(before.left)
		for _, addr := range before.set.Addresses {
			if !now.has(addr) && !before.keep[idOf(addr)] {
				gone = append(gone, addr)
			}
		}
		var err error
		result.Removed, now.left, err = a.delete(a.notHeld(gone)) // the next try must know what is left
		errs = append(errs, err)
	}

	outcomes, err := a.put(set.Addresses, set.Lifetime, unix.NLM_F_CREATE|unix.NLM_F_EXCL)
	if err != nil {
		return result, fmt.Errorf("add addresses of %s: %w", set.Owner, errors.Join(append(errs, err)...))
	}
	var existing []conf.Address
	for i, addr := range set.Addresses {
		switch {
		case outcomes[i] == nil:
			result.Added = append(result.Added, addr)
		case errors.Is(outcomes[i], unix.EEXIST):
			existing = append(existing, addr)
		default:
			errs = append(errs, fmt.Errorf("add address %s on %s: %w", addr.Prefix, addr.Interface, outcomes[i]))
		}
	}
	if len(existing) > 0 {
		errs = append(errs, a.adopt(now, before, existing, &result))
	}
	return result, errors.Join(errs...)
}

// adopt takes over addresses that were there already: they get our tag, flags and lifetime.
func (a *Addresses) adopt(now, before *owned, existing []conf.Address, result *AddResult) error {
	var errs []error
	if now.set.KeepExisting {
		present, err := a.nl.dumpAddresses()
		if err != nil {
			return fmt.Errorf("add addresses of %s: %w", now.set.Owner, err)
		}
		existing = slices.DeleteFunc(existing, func(addr conf.Address) bool {
			if !a.foreign(present, addr) || before != nil && !before.keep[idOf(addr)] && before.has(addr) {
				return false
			}
			now.keep[idOf(addr)] = true
			if before == nil {
				result.Adopted = append(result.Adopted, addr)
			}
			return true
		})
	}
	outcomes, err := a.put(existing, now.set.Lifetime, unix.NLM_F_CREATE|unix.NLM_F_REPLACE)
	if err != nil {
		return fmt.Errorf("adopt addresses of %s: %w", now.set.Owner, err)
	}
	for i, addr := range existing {
		switch {
		case outcomes[i] != nil:
			errs = append(errs, fmt.Errorf("adopt address %s on %s: %w", addr.Prefix, addr.Interface, outcomes[i]))
		case before == nil || !before.has(addr):
			result.Adopted = append(result.Adopted, addr)
		}
	}
	return errors.Join(errs...)
}

func (o *owned) has(addr conf.Address) bool {
	return slices.ContainsFunc(o.set.Addresses, func(x conf.Address) bool { return idOf(x) == idOf(addr) })
}

// Remove takes the owner's addresses, those it holds and those of the set, out of the kernel; an address that
// another owner holds as well stays. Those that are gone already, or whose interface is, are no error.
func (a *Addresses) Remove(set Set) error {
	if err := check(set); err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	list := slices.Clone(set.Addresses)
	keep := map[addressID]bool{}
	o := a.owners[set.Owner]
	if o != nil {
		list, keep = slices.Concat(list, o.set.Addresses, o.left), o.keep
		delete(a.owners, set.Owner)
	} else if set.KeepExisting && len(list) > 0 {
		present, err := a.nl.dumpAddresses()
		if err != nil {
			return fmt.Errorf("remove addresses of %s: %w", set.Owner, err)
		}
		for _, addr := range list {
			keep[idOf(addr)] = a.foreign(present, addr)
		}
	}
	seen := map[addressID]bool{}
	list = slices.DeleteFunc(list, func(addr conf.Address) bool {
		dup := seen[idOf(addr)]
		seen[idOf(addr)] = true
		return dup || keep[idOf(addr)]
	})
	_, _, err := a.delete(a.notHeld(list))
	if err != nil && o != nil {
		a.owners[set.Owner] = o // it still holds what could not be removed: the next try must know
	}
	return err
}

// Check returns the addresses that the owner holds by Add and that the kernel does not, or not on that interface.
func (a *Addresses) Check(owner string) (missing []conf.Address, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	o := a.owners[owner]
	if o == nil {
		return nil, nil
	}
	present, err := a.nl.dumpAddresses()
	if err != nil {
		return nil, fmt.Errorf("check addresses of %s: %w", owner, err)
	}
	return a.missing(o, present), nil
}

func (a *Addresses) missing(o *owned, present []KernelAddress) (missing []conf.Address) {
	for _, addr := range o.set.Addresses {
		if a.find(present, addr) == nil {
			missing = append(missing, addr)
		}
	}
	return missing
}

// Renew restarts the lifetime of the owner's addresses; without a lifetime it does nothing. An address that is
// gone meanwhile is an error and does not come back by it: somebody else may hold it now.
func (a *Addresses) Renew(owner string) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	o := a.owners[owner]
	if o == nil || o.set.Lifetime == 0 {
		return nil
	}
	// The kernel knows no change without creation, so we look first.
	present, err := a.nl.dumpAddresses()
	if err != nil {
		return fmt.Errorf("renew addresses of %s: %w", owner, err)
	}
	var list []conf.Address
	var errs []error
	for _, addr := range o.set.Addresses {
		switch {
		case o.keep[idOf(addr)]:
		case a.find(present, addr) == nil:
			errs = append(errs, fmt.Errorf("renew address %s on %s: %w", addr.Prefix, addr.Interface, unix.EADDRNOTAVAIL))
		default:
			list = append(list, addr)
		}
	}
	outcomes, err := a.put(list, o.set.Lifetime, unix.NLM_F_REPLACE)
	if err != nil {
		return fmt.Errorf("renew addresses of %s: %w", owner, err)
	}
	for i, addr := range list {
		if outcomes[i] != nil {
			errs = append(errs, fmt.Errorf("renew address %s on %s: %w", addr.Prefix, addr.Interface, outcomes[i]))
		}
	}
	return errors.Join(errs...)
}

// Watch calls lost, from the monitor's goroutine, when somebody removed addresses that an owner holds. Putting
// them back is Add. The function returned ends that.
func (a *Addresses) Watch(m *Monitor, lost func(owner string, missing []conf.Address)) (cancel func()) {
	return m.Subscribe(func(events []Event) {
		gone, all := map[addressID]bool{}, false
		for _, e := range events {
			switch e.Kind {
			case AddressRemoved:
				gone[addressID{e.Address.Interface, e.Address.Prefix}] = true
			case Resynced:
				all = true // it may have come and gone in what the kernel dropped
			}
		}
		if len(gone) == 0 && !all {
			return
		}
		for owner, missing := range a.lost(gone, all) {
			lost(owner, missing)
		}
	})
}

// lost are those of the removed addresses, or of all that were put there, that are held by an owner and truly missing: the news may be of a
// removal of ours, with the address long back.
func (a *Addresses) lost(gone map[addressID]bool, all bool) map[string][]conf.Address {
	a.mu.Lock()
	defer a.mu.Unlock()
	concerned := func(addr conf.Address) bool {
		_, put := a.placed[idOf(addr)] // one that never could be is not lost
		return all && put || gone[idOf(addr)]
	}
	concerns := func(o *owned) bool { return slices.ContainsFunc(o.set.Addresses, concerned) }
	if !slices.ContainsFunc(slices.Collect(maps.Values(a.owners)), concerns) {
		return nil
	}
	present, err := a.nl.dumpAddresses()
	if err != nil {
		a.log.Warn("address removal not verified", "error", err)
		// Unable to look is not a proof of presence, for those that were removed; for the others it is no proof of anything.
		all = false
	}
	lost := map[string][]conf.Address{}
	for owner, o := range a.owners {
		if !concerns(o) {
			continue
		}
		if missing := a.missing(o, present); slices.ContainsFunc(missing, concerned) {
			lost[owner] = missing
		}
	}
	return lost
}

// foreign reports whether addr stands in the kernel and is not of our making. The caller holds mu.
func (a *Addresses) foreign(present []KernelAddress, addr conf.Address) bool {
	k := a.find(present, addr)
	if k == nil || k.Ours() {
		return false
	}
	return tagsWork(present) || a.state == nil || !a.state.added()[idOf(addr)]
}

// find is addr among what the kernel holds, or nil.
func (a *Addresses) find(present []KernelAddress, addr conf.Address) *KernelAddress {
	index, err := a.nl.index(addr.Interface)
	if err != nil {
		return nil
	}
	return findOn(index, present, addr)
}

// findOn is find on the interface of that index. IPv6 has an address once on an interface, whatever the prefix.
func findOn(index int, present []KernelAddress, addr conf.Address) *KernelAddress {
	for i, k := range present {
		same := k.Prefix == idOf(addr).prefix && (!addr.Peer.IsValid() || k.Peer == addr.Peer.Addr())
		if addr.Prefix.Addr().Is6() {
			same = k.Prefix.Addr() == addr.Prefix.Addr()
		}
		if same && k.Index == index {
			return &present[i]
		}
	}
	return nil
}

// names are the names of the interfaces that hold the addresses.
func (a *Addresses) names(present []KernelAddress) map[int]string {
	names := map[int]string{}
	links, err := a.nl.dumpLinks()
	if err != nil {
		a.log.Warn("interface names not known", "error", err)
		return names
	}
	for _, l := range links {
		names[l.Index] = l.Name
	}
	return names
}

// held are the addresses that some owner holds. The caller holds mu.
func (a *Addresses) held() map[addressID]bool {
	held := map[addressID]bool{}
	for _, o := range a.owners {
		for _, addr := range o.set.Addresses {
			held[idOf(addr)] = true
		}
	}
	return held
}

// notHeld leaves out what an owner holds.
func (a *Addresses) notHeld(list []conf.Address) []conf.Address {
	if len(list) == 0 {
		return nil
	}
	held := a.held()
	return slices.DeleteFunc(list, func(addr conf.Address) bool {
		if a.moving[idOf(addr)] && !held[idOf(addr)] {
			a.parked = append(a.parked, addr)
			return true
		}
		return held[idOf(addr)]
	})
}

// Move lets addresses go from one owner to another without a moment in which the kernel lacks them, whichever of the two is
// told first: until end is called they stay although their owner removes them. Then those go that nobody has taken; after an error
// end can be called again. Not for addresses whose removal somebody relies on before.
func (a *Addresses) Move(list []conf.Address) (end func() error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.moving = map[addressID]bool{}
	for _, addr := range list {
		a.moving[idOf(addr)] = true
	}
	return func() error {
		a.mu.Lock()
		defer a.mu.Unlock()
		left := a.parked
		a.moving, a.parked = nil, nil
		if left = a.notHeld(left); len(left) == 0 {
			return nil
		}
		_, left, err := a.delete(left)
		a.parked = left
		return err
	}
}

// put sends RTM_NEWADDR for each address and returns each outcome.
func (a *Addresses) put(list []conf.Address, lifetime time.Duration, flags uint16) ([]error, error) {
	at := make(map[addressID]int, len(list))
	outcomes, err := a.each(list, func(index int, addr conf.Address) message {
		at[idOf(addr)] = index
		return addRequest(index, addr, lifetime, flags)
	})
	if err != nil {
		return nil, err
	}
	for i, addr := range list {
		if outcomes[i] == nil {
			a.placed[idOf(addr)] = at[idOf(addr)]
		}
	}
	return outcomes, nil
}

// delete sends RTM_DELADDR for each address and returns those that were there, and those that may still be.
func (a *Addresses) delete(list []conf.Address) (removed, left []conf.Address, err error) {
	outcomes, err := a.each(list, func(index int, addr conf.Address) message {
		var peer netip.Addr
		if addr.Peer.IsValid() {
			peer = addr.Peer.Addr()
		}
		return deleteRequest(index, idOf(addr).prefix, peer)
	})
	if err == nil {
		err = a.deleteOtherPrefix(list, outcomes)
	}
	if err != nil {
		return nil, list, fmt.Errorf("remove addresses: %w", err)
	}
	renamed, err := a.deleteRenamed(list)
	errs := []error{err}
	for i, addr := range list {
		err := outcomes[i]
		switch {
		case err == nil, renamed[idOf(addr)]:
			removed = append(removed, addr)
		case !isGone(err):
			left, errs = append(left, addr), append(errs, fmt.Errorf("remove address %s on %s: %w", addr.Prefix, addr.Interface, err))
			continue
		}
		if index, err := a.nl.index(addr.Interface); err == nil && index == a.placed[idOf(addr)] {
			delete(a.placed, idOf(addr))
		}
	}
	return removed, left, errors.Join(errs...)
}

// deleteRenamed deletes those of the list that stand where they were put but not where their names point: the interface was
// renamed under them, and its name stands for none or for another one now.
func (a *Addresses) deleteRenamed(list []conf.Address) (removed map[addressID]bool, err error) {
	var present []KernelAddress
	var errs []error
	removed = map[addressID]bool{}
	for _, addr := range list {
		id := idOf(addr)
		index, ok := a.placed[id]
		if !ok {
			continue
		}
		if now, err := a.nl.index(addr.Interface); err == nil && now == index {
			continue
		}
		if present == nil {
			if present, err = a.nl.dumpAddresses(); err != nil {
				return removed, fmt.Errorf("remove address %s on what was %s: %w", addr.Prefix, addr.Interface, err)
			}
		}
		k := findOn(index, present, addr)
		if k != nil && (k.Ours() || !tagsWork(present)) && !a.placedAs(id, k) {
			outcomes, err := a.nl.exchange([]message{deleteRequest(k.Index, k.Prefix, k.Peer)})
			if err == nil {
				err = outcomes[0]
			}
			if err != nil && !isGone(err) {
				errs = append(errs, fmt.Errorf("remove address %s on what was %s: %w", k.Prefix, addr.Interface, err))
				continue
			}
			removed[id] = true
		}
		delete(a.placed, id)
	}
	return removed, errors.Join(errs...)
}

// placedAs reports whether k is also the place of another address than id, which is the same one by the interface's new name.
func (a *Addresses) placedAs(id addressID, k *KernelAddress) bool {
	for other, index := range a.placed {
		if other != id && index == k.Index && other.prefix == k.Prefix {
			return true
		}
	}
	return false
}

// deleteOtherPrefix deletes what the first try did not find because it stands with another prefix length. An
// IPv6 address can be on an interface only once, so one that we adopted kept its own.
func (a *Addresses) deleteOtherPrefix(list []conf.Address, outcomes []error) error {
	var present []KernelAddress
	for i, addr := range list {
		if !addr.Prefix.Addr().Is6() || !errors.Is(outcomes[i], unix.EADDRNOTAVAIL) {
			continue
		}
		if present == nil {
			var err error
			if present, err = a.nl.dumpAddresses(); err != nil {
				return err
			}
		}
		if k := a.find(present, addr); k != nil {
			got, err := a.nl.exchange([]message{deleteRequest(k.Index, k.Prefix, k.Peer)})
			if err != nil {
				return err
			}
			outcomes[i] = got[0]
		}
	}
	return nil
}

// each sends one request for each address in batches. An address without an interface fails alone.
func (a *Addresses) each(list []conf.Address, request func(int, conf.Address) message) ([]error, error) {
	outcomes := make([]error, len(list))
	requests, place := make([]message, 0, len(list)), make([]int, 0, len(list))
	for i, addr := range list {
		index, err := a.nl.index(addr.Interface)
		if err != nil {
			outcomes[i] = err
			continue
		}
		requests, place = append(requests, request(index, addr)), append(place, i)
	}
	got, err := a.nl.exchange(requests)
	if err != nil {
		return nil, err
	}
	for i, err := range got {
		outcomes[place[i]] = err
	}
	return outcomes, nil
}

// isGone reports whether a removal failed because there is nothing to remove.
func isGone(err error) bool {
	return errors.Is(err, unix.EADDRNOTAVAIL) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENXIO)
}

// check refuses a set that could not be told to the kernel.
func check(set Set) error {
	for _, addr := range set.Addresses {
		err := CheckInterfaceName(addr.Interface)
		switch ip := addr.Prefix.Addr(); {
		case err != nil:
		case !addr.Prefix.IsValid() || ip.Is4In6() || ip.Zone() != "":
			err = errors.New("not an address with a prefix length")
		case addr.Peer.IsValid() && addr.Peer.Addr().Is4() != ip.Is4():
			err = fmt.Errorf("peer %s is of the other family", addr.Peer)
		case addr.Broadcast.IsValid() && (!addr.Broadcast.Is4() || !ip.Is4()):
			err = fmt.Errorf("broadcast address %s does not go with it", addr.Broadcast)
		case len(addr.Label) >= unix.IFNAMSIZ || strings.ContainsRune(addr.Label, 0):
			err = fmt.Errorf("label %q is not possible", addr.Label)
		}
		if err != nil {
			return fmt.Errorf("address %s of %s: %w", addr.Prefix, set.Owner, err)
		}
	}
	return nil
}
