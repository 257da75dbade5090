package system

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"pgvrrp/internal/conf"
)

// Cleanup removes what a run that was killed has left: every address of want, and every one of the state file that carries
// our tag, also where the interface was renamed, or, where the kernel keeps none, that we added; addresses that an owner holds through this Addresses stay.
// The tag alone is not enough, because another vrrpd, with another state file, may run on this host.
// An address that stood there before us, and is not in want, is not touched. It returns what it removed. It is
// safe to repeat.
func (a *Addresses) Cleanup(ctx context.Context, want []conf.Address) (removed []KernelAddress, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	victims, err := a.leftovers(want)
	if err != nil {
		return nil, err
	}
	var errs []error
	for len(victims) > 0 && ctx.Err() == nil {
		n := min(len(victims), batchSize)
		requests := make([]message, n)
		for i, k := range victims[:n] {
			requests[i] = deleteRequest(k.Index, k.Prefix, k.Peer)
		}
		outcomes, err := a.nl.exchange(requests)
		if err != nil {
			errs = append(errs, err)
			break
		}
		for i, k := range victims[:n] {
			switch err := outcomes[i]; {
			case err == nil:
				removed = append(removed, k)
			case !isGone(err):
				errs = append(errs, fmt.Errorf("remove address %s on %s: %w", k.Prefix, k.Interface, err))
			}
		}
		victims = victims[n:]
	}
	errs = append(errs, ctx.Err())
	if err := errors.Join(errs...); err != nil {
		return removed, fmt.Errorf("clean up addresses: %w", err)
	}
	if a.state != nil {
		err = a.state.forgetFormer()
	}
	return removed, err
}

// Leftovers is what Cleanup with the same want would remove now.
func (a *Addresses) Leftovers(_ context.Context, want []conf.Address) ([]KernelAddress, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.leftovers(want)
}

func (a *Addresses) leftovers(want []conf.Address) (victims []KernelAddress, err error) {
	present, err := a.nl.dumpAddresses()
	if err != nil {
		return nil, fmt.Errorf("look for left addresses: %w", err)
	}
	names := a.names(present)
	held := a.held()
	for id, index := range a.placed {
		held[addressID{names[index], id.prefix}] = true
	}
	listed := map[addressID]bool{}
	for _, addr := range want {
		listed[idOf(addr)] = true
	}
	file, complete := map[addressID]bool{}, false
	if a.state != nil {
		file, complete = a.state.listed(names)
	}
	added := map[addressID]bool{}
	if a.state != nil && !tagsWork(present) {
		// Where the kernel keeps tags, they say it better than a file written in advance.
		added = a.state.added()
	}
	for _, k := range present {
		k.Interface = names[k.Index]
		id := addressID{k.Interface, k.Prefix}
		if !held[id] && (listed[id] || added[id] || k.Ours() && (file[id] || !complete)) {
			victims = append(victims, k)
		}
	}
	return victims, nil
}

// tagsWork reports whether this kernel keeps IFA_PROTO: its own loopback addresses carry one.
func tagsWork(present []KernelAddress) bool {
	return slices.ContainsFunc(present, func(k KernelAddress) bool { return k.Protocol != 0 })
}
