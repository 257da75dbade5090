package conf

import (
	"net/netip"
	"reflect"
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
