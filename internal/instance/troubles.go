package instance

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"pgvrrp/internal/conf"
	"pgvrrp/internal/control"
	"pgvrrp/internal/vrrp"
)

// explainEvery is how often one kind of trouble is put into words at most, whoever sends how much.
const explainEvery = time.Second

// goesOn is for how long trouble counts as going on after it was last seen; or three intervals, if that is longer.
const goesOn = 10 * time.Second

// trouble is one kind of it, as it was seen on the wire.
type trouble struct {
	count       uint64
	first, last time.Time
	peer        string
	text        string
	explained   time.Time
}

// settings are what mends each kind.
var settings = map[string]string{
	control.TroubleClash: "virtual_router_id", control.TroubleInterval: "advert_int", control.TroubleVersion: "version",
	control.TroubleChecksumForm: "v3_checksum_as_v2", control.TroubleChecksum: "v3_checksum_as_v2", control.TroubleAuth: "authentication",
	control.TroubleClock: "auth_hmac", control.TroubleAddresses: "virtual_ipaddress", control.TroublePriority: "priority",
	control.TroubleSecondOwner: "priority", control.TroubleDuplicate: "virtual_ipaddress", control.TroubleOwnAddress: "mcast_src_ip",
	control.TroubleTTL: "unicast_ttl", control.TroublePeer: "unicast_peer", control.TroubleDestination: "unicast_peer",
	control.TroubleFamily: "native_ipv6", control.TroubleMalformed: "virtual_router_id", control.TroubleNeverHeard: "interface",
}

// kindOf is the trouble behind a rejected packet.
func kindOf(r vrrp.Reject) string {
	switch r {
	case vrrp.RejectVersion:
		return control.TroubleVersion
	case vrrp.RejectAuthMissing, vrrp.RejectAuthMalformed, vrrp.RejectAuthStale, vrrp.RejectAuthKey, vrrp.RejectAuthHMAC, vrrp.RejectAuthReplay,
		vrrp.RejectAuthType, vrrp.RejectAuth:
		return control.TroubleAuth
	case vrrp.RejectInterval:
		return control.TroubleInterval
	case vrrp.RejectChecksum:
		return control.TroubleChecksum
	case vrrp.RejectChecksumForm:
		return control.TroubleChecksumForm
	case vrrp.RejectTTL:
		return control.TroubleTTL
	case vrrp.RejectPeer:
		return control.TroublePeer
	case vrrp.RejectDestination:
		return control.TroubleDestination
	case vrrp.RejectOwnAddress:
		return control.TroubleOwnAddress
	case vrrp.RejectFamily:
		return control.TroubleFamily
	case vrrp.RejectOwner:
		return control.TroubleSecondOwner
	}
	return control.TroubleMalformed
}

// mayBeAnotherGroup are the kinds of which a foreign group with our VRID is the likelier cause.
func mayBeAnotherGroup(kind string) bool {
	return slices.Contains([]string{control.TroubleVersion, control.TroubleAuth, control.TroubleInterval, control.TroubleChecksumForm, control.TroublePeer}, kind)
}

// warnings are the kinds of what is odd about an advert that was taken.
var warnings = []struct {
	bit  vrrp.Warnings
	kind string
}{
	{vrrp.WarnInterval, control.TroubleInterval}, {vrrp.WarnForeign, control.TroubleClash}, {vrrp.WarnAddresses, control.TroubleAddresses},
	{vrrp.WarnSecondOwner, control.TroubleSecondOwner}, {vrrp.WarnClock, control.TroubleClock}, {vrrp.WarnStranger, control.TroublePeer},
}

// note counts trouble; explain puts it into words if that is due.
func (s *status) note(kind string, peer string, at time.Time, explain func() string) {
	if s.troubles == nil {
		s.troubles = map[string]*trouble{}
	}
	t := s.troubles[kind]
	if t == nil {
		t = &trouble{first: at}
		s.troubles[kind] = t
	}
	t.count, t.last = t.count+1, at
	if t.explained.IsZero() || at.Sub(t.explained) >= explainEvery {
		t.explained, t.peer, t.text = at, peer, explain()
	}
}

// noteRejected counts a packet that was not taken. The caller holds the receiver's lock and Instance.mu.
func (i *Instance) noteRejected(p vrrp.Packet, reject vrrp.Reject, at time.Time) {
	f := &i.receive.filter
	kind := kindOf(reject)
	explain := func() string { return f.Explain(p, reject) }
	if mayBeAnotherGroup(kind) && f.Foreign(p) {
		explain = func() string {
			return fmt.Sprintf("%s, with other virtual addresses: it may be another group with our virtual_router_id %d; give one of the two another one", f.Explain(p, reject), f.VRID)
		}
		kind = control.TroubleClash
	}
	i.status.note(kind, p.Src.String(), at, explain)
}

// noteAccepted counts what is odd about an advert that was taken. The caller holds the receiver's lock and Instance.mu.
func (i *Instance) noteAccepted(p vrrp.Packet, odd vrrp.Warnings, at time.Time) {
	f, a := &i.receive.filter, &i.receive.advert
	if odd&(vrrp.WarnForeign|vrrp.WarnAddresses) != 0 {
		i.status.addressMismatches++
	}
	if odd&vrrp.WarnForeign != 0 {
		odd &^= vrrp.WarnAddresses // it is in the words of the other already
	}
	for _, w := range warnings {
		if odd&w.bit == 0 {
			continue
		}
		bit := w.bit
		if bit == vrrp.WarnForeign {
			bit |= vrrp.WarnAddresses
		}
		i.status.note(w.kind, p.Src.String(), at, func() string { return f.ExplainWarnings(a, p.Src, bit) })
	}
	// Under a grant it is not the priority that decides.
	if a.Priority == i.status.priority && a.Priority != vrrp.PriorityOwner && a.Priority != vrrp.PriorityLeaving && !i.Gated() {
		i.status.note(control.TroublePriority, p.Src.String(), at, func() string {
			return fmt.Sprintf("%s has priority %d as we have: the greater address wins; set another priority on each node", p.Src, a.Priority)
		})
	}
}

// Claimed says that another station claims an address by ARP. It counts while we hold the address.
func (i *Instance) Claimed(addr netip.Addr, by net.HardwareAddr, at time.Time) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.status.state != control.StateMaster {
		return
	}
	held := slices.ContainsFunc(i.status.base.Addresses, func(a control.Address) bool {
		p, err := netip.ParsePrefix(a.Address)
		return err == nil && p.Addr() == addr && i.status.held[a.Address]
	})
	if !held {
		return
	}
	i.status.note(control.TroubleDuplicate, by.String(), at, func() string {
		return fmt.Sprintf("%s claims %s by ARP while we hold it; take it off there, or find out why that node is MASTER too", by, addr)
	})
}

// listTroubles is what Status shows: what goes on before what is over, each in the order of its last time.
func (s *status) listTroubles(now time.Time) []control.Trouble {
	fresh := max(goesOn, time.Duration(3*s.base.AdvertInterval*float64(time.Second)))
	var all []control.Trouble
	for kind, t := range s.troubles {
		all = append(all, control.Trouble{Kind: kind, Now: now.Sub(t.last) < fresh, Setting: settings[kind], Peer: t.peer, Count: t.count,
			First: t.first, Last: t.last, Text: t.text})
	}
	if t, alone := s.neverHeard(now); alone {
		all = append(all, t)
	}
	slices.SortFunc(all, func(a, b control.Trouble) int {
		switch {
		case a.Now != b.Now:
			return map[bool]int{true: -1, false: 1}[a.Now]
		case a.Notice != b.Notice:
			return map[bool]int{true: 1, false: -1}[a.Notice]
		case !a.Last.Equal(b.Last):
			return b.Last.Compare(a.Last)
		}
		return strings.Compare(a.Kind, b.Kind)
	})
	return all
}

// neverHeard is a notice: a master hears nobody while the others are well, but also if nobody could hear it.
func (s *status) neverHeard(now time.Time) (control.Trouble, bool) {
	patience := time.Duration(5 * s.base.AdvertInterval * float64(time.Second))
	if s.begun.IsZero() || now.Sub(s.begun) < patience || s.state != control.StateMaster && s.state != control.StateBackup ||
		slices.ContainsFunc(s.peers, func(p peer) bool { return !p.heard.IsZero() }) {
		return control.Trouble{}, false
	}
	who := "no other router"
	if s.unicast {
		var names []string
		for _, p := range s.peers {
			names = append(names, p.addr.String())
		}
		who = "none of unicast_peer " + strings.Join(names, ", ")
	}
	return control.Trouble{Kind: control.TroubleNeverHeard, Now: true, Notice: true, Setting: settings[control.TroubleNeverHeard], First: s.begun, Last: now,
		Text: fmt.Sprintf("%s of virtual_router_id %d was ever heard on %s, for %s, %s for %s; that is so if all others are BACKUP since before us. "+
			"vrrpd status there must name this node as its master: if not, let IP protocol 112 through, and compare interface and virtual_router_id",
			who, s.base.VRID, s.base.Interface, now.Sub(s.begun).Round(time.Second), s.state, now.Sub(s.since).Round(time.Second))}, true
}

// transport notes what only the file knows.
func (s *status) transport(c *conf.Instance) { s.unicast = c.Unicast }
