package conf

import (
	"net/netip"
	"reflect"
	"slices"
)

// SameVirtualRouter says whether a and b are the same virtual router on the wire: VRID, address family, interface and
// transport. This, and not the name, is what a reload matches instances by.
func (a *Instance) SameVirtualRouter(b *Instance) bool {
	return a.VRID == b.VRID && a.IPv6 == b.IPv6 && a.Interface == b.Interface && a.Unicast == b.Unicast
}

// Equal says whether two instances are configured alike; where they stand in their files does not count.
func (a *Instance) Equal(b *Instance) bool { return alike(reflect.ValueOf(*a), reflect.ValueOf(*b)) }

// Equal says whether two scripts are configured alike; where they stand in their files does not count.
func (s *Script) Equal(other *Script) bool {
	return alike(reflect.ValueOf(*s), reflect.ValueOf(*other))
}

// Equal says whether two sync groups are configured alike; where they stand in their files does not count.
func (g *SyncGroup) Equal(other *SyncGroup) bool {
	return alike(reflect.ValueOf(*g), reflect.ValueOf(*other))
}

// Equal says whether two tracked files are configured alike; where they stand in their files does not count.
func (f *TrackFile) Equal(other *TrackFile) bool {
	return alike(reflect.ValueOf(*f), reflect.ValueOf(*other))
}

// Equal says whether two tracked processes are configured alike; where they stand in their files does not count.
func (t *TrackProcess) Equal(other *TrackProcess) bool {
	return alike(reflect.ValueOf(*t), reflect.ValueOf(*other))
}

// Equal says whether two FIFOs are configured alike; where they stand in their files does not count.
func (f *FIFO) Equal(other *FIFO) bool { return alike(reflect.ValueOf(*f), reflect.ValueOf(*other)) }

// Equal says whether two quorum blocks are alike, or both missing; where they stand in their files does not count.
func (q *Quorum) Equal(other *Quorum) bool {
	if q == nil || other == nil {
		return q == other
	}
	return alike(reflect.ValueOf(*q), reflect.ValueOf(*other))
}

// NeedsRestart gives the keywords of what differs in next and cannot change while the daemon runs, in the order of the
// documentation: quorum if only one of the two is there, witness if a name votes in another way, resource if one comes, goes or
// changes its kind, no_quorum_policy if it becomes ignore or no longer is, because then nobody or everybody needs a grant.
// Everything else can be applied by a reload: further or fewer voters, addresses of the others (only the daemon knows which are its
// own, on which it listens), agent_user, the other policies, reboot_command.
func (q *Quorum) NeedsRestart(next *Quorum) (keys []string) {
	if q == nil || next == nil {
		if q != next {
			keys = append(keys, "quorum")
		}
		return keys
	}
	differs := func(key string, yes bool) {
		if yes {
			keys = append(keys, key)
		}
	}
	differs("node", q.Node != next.Node)
	differs("key_file", q.KeyFile != next.KeyFile)
	differs("state_dir", q.StateDir != next.StateDir)
	differs("port", q.Port != next.Port)
	differs("witness", slices.ContainsFunc(q.Voters, func(v Voter) bool {
		other, ok := next.find(v.Name)
		return ok && (v.Witness != other.Witness || v.Votes != other.Votes)
	}))
	differs("resource", len(q.Resources) != len(next.Resources) || slices.ContainsFunc(q.Resources, func(r Resource) bool {
		other, ok := next.Resource(r.Name)
		return !ok || r.Kind != other.Kind
	}))
	differs("lease", q.Lease != next.Lease)
	differs("no_quorum_policy", (q.Policy == PolicyIgnore) != (next.Policy == PolicyIgnore))
	differs("guard", q.Guard != next.Guard)
	return keys
}

var posType = reflect.TypeFor[Pos]()

// alike compares what the types of a Config are made of, without the places.
func alike(a, b reflect.Value) bool {
	switch a.Type() {
	case posType:
		return true
	case reflect.TypeFor[netip.Addr](), reflect.TypeFor[netip.Prefix]():
		return a.Interface() == b.Interface()
	}
	switch a.Kind() {
	case reflect.Struct:
		for i := range a.NumField() {
			if !alike(a.Field(i), b.Field(i)) {
				return false
			}
		}
		return true
	case reflect.Slice:
		if a.Len() != b.Len() {
			return false
		}
		for i := range a.Len() {
			if !alike(a.Index(i), b.Index(i)) {
				return false
			}
		}
		return true
	}
	return a.Interface() == b.Interface()
}
