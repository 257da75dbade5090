package instance

import (
	"bytes"
	"net/netip"
	"slices"
	"sync"
	"time"

	"pgvrrp/internal/conf"
	"pgvrrp/internal/vrrp"
)

// complainEvery is how often one kind of bad packet is logged at most.
const complainEvery = time.Minute

// receiver checks packets on the goroutine that read them, so that the loop gets only adverts that count.
type receiver struct {
	mu         sync.Mutex
	filter     vrrp.Filter
	advert     vrrp.Advert
	complained [vrrp.NumRejects]time.Time
	odd        time.Time // of the last odd advert that was complained about
	last       judged
}

// judged is the last packet that was accepted, which is most often the next one too.
type judged struct {
	payload  []byte
	src, dst netip.Addr
	ttl      int
	warnings vrrp.Warnings
}

// check is the filter's verdict. It hangs on the packet and the configuration alone, but with auth_hmac: there a packet that comes
// again is a replay.
func (r *receiver) check(p vrrp.Packet) (vrrp.Warnings, vrrp.Reject) {
	l := &r.last
	if len(l.payload) > 0 && p.TTL == l.ttl && p.Src == l.src && p.Dst == l.dst && bytes.Equal(p.Payload, l.payload) {
		return l.warnings, vrrp.Accepted // and advert is what it says
	}
	warnings, reject := r.filter.Check(&r.advert, p)
	l.payload = l.payload[:0]
	if reject == vrrp.Accepted && r.filter.HMAC == nil {
		l.payload = append(l.payload, p.Payload...)
		l.src, l.dst, l.ttl, l.warnings = p.Src, p.Dst, p.TTL, warnings
	}
	return warnings, reject
}

// configure takes what the file says; after an error nothing has changed.
func (r *receiver) configure(c *conf.Instance, source netip.Addr) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	f := vrrp.Filter{
		Version: vrrp.Version(c.Version), VRID: c.VRID, IPv6: c.IPv6, Interval: c.AdvertInterval,
		Source: source, Owner: c.Priority == vrrp.PriorityOwner, IgnoreAdverts: c.OwnerIgnoreAdverts,
		Unicast: c.Unicast, Group: c.Group, CheckSource: c.CheckUnicastSrc,
	}
	if !c.SkipCheckAdvAddr {
		f.Addrs = addresses(c)
	}
	if c.ChecksumPlain {
		f.Checksum = vrrp.ChecksumPlain
	}
	if c.HasPassword {
		f.AuthType, f.Auth = vrrp.AuthPassword, vrrp.Password(c.Password)
	}
	for _, p := range c.Peers {
		f.Peers = append(f.Peers, vrrp.Peer{Addr: p.Addr, MinTTL: p.MinTTL, MaxTTL: p.MaxTTL})
	}
	if len(c.HMAC.Keys) > 0 {
		f.HMAC = r.filter.HMAC // what it remembers of the senders stays
		var err error
		if f.HMAC == nil {
			f.HMAC, err = vrrp.NewVerifier(hmacConfig(c))
		} else {
			err = f.HMAC.Reconfigure(hmacConfig(c))
		}
		if err != nil {
			return err
		}
	}
	r.filter, r.last = f, judged{}
	return nil
}

// newSigner is what signs the adverts of c; nil without auth_hmac.
func newSigner(c *conf.Instance) (*vrrp.Signer, error) {
	if len(c.HMAC.Keys) == 0 {
		return nil, nil
	}
	return vrrp.NewSigner(hmacConfig(c))
}

func hmacConfig(c *conf.Instance) vrrp.HMACConfig {
	h := vrrp.HMACConfig{ActiveKey: c.HMAC.ActiveKey, Monotonic: c.HMAC.Monotonic, Window: c.HMAC.Window}
	switch c.HMAC.Mode {
	case conf.HMACPermissive:
		h.Mode = vrrp.HMACPermissive
	case conf.HMACReceiveOnly:
		h.Mode = vrrp.HMACReceiveOnly
	}
	for _, k := range c.HMAC.Keys {
		h.Keys = append(h.Keys, vrrp.HMACKey{ID: k.ID, Secret: k.Secret})
	}
	return h
}

// addresses are the virtual addresses that an advert of c carries.
func addresses(c *conf.Instance) []netip.Addr {
	all := make([]netip.Addr, len(c.Addresses))
	for k := range c.Addresses {
		all[k] = c.Addresses[k].Prefix.Addr()
	}
	return all
}

// Receive takes one packet for the instance's VRID. It may be called from any goroutine and never blocks for long: while
// the loop is busy adverts wait in a short queue, and what finds that full is counted as an overrun.
func (i *Instance) Receive(p vrrp.Packet, at time.Time) {
	r := &i.receive
	r.mu.Lock()
	defer r.mu.Unlock()
	warnings, reject := r.check(p)
	if reject != vrrp.Accepted {
		i.mu.Lock()
		i.status.rejected[reject]++
		i.noteRejected(p, reject, at)
		i.mu.Unlock()
		if last := r.complained[reject]; last.IsZero() || at.Sub(last) >= complainEvery {
			r.complained[reject] = at
			i.log.Warn("packet rejected", "peer", p.Src, "reason", reject.String(), "explanation", r.filter.Explain(p, reject))
		}
		return
	}
	i.mu.Lock()
	i.noteAccepted(p, warnings, at)
	peer := i.status.heard(p.Src, r.advert.Priority, r.advert.Interval, at, warnings)
	complain := ""
	if peer.stale && (warnings == 0 || r.odd.IsZero() || at.Sub(r.odd) >= complainEvery) {
		peer.stale, peer.warning = false, ""
		if warnings != 0 {
			r.odd = at
			peer.warning = r.filter.ExplainWarnings(&r.advert, p.Src, warnings)
			complain = peer.warning
		}
	}
	h := heard{p.Src, r.advert.Priority, r.advert.Interval}
	repeated := i.repeated(h, at)
	i.mu.Unlock()
	if complain != "" {
		i.log.Warn("odd advert", "peer", p.Src, "warning", complain)
	}
	if repeated {
		return
	}
	select {
	case i.adverts <- h:
	default:
		i.mu.Lock()
		i.status.counters.Overruns++
		i.mu.Unlock()
	}
}

// HasPeer reports whether an address is a unicast_peer.
func (i *Instance) HasPeer(a netip.Addr) bool {
	i.receive.mu.Lock()
	defer i.receive.mu.Unlock()
	return slices.ContainsFunc(i.receive.filter.Peers, func(p vrrp.Peer) bool { return p.Addr == a })
}
