package vrrp

// Reject says why a packet was not taken for an advert of a virtual router. The zero value is Accepted.
type Reject uint8

// The reasons, in the order in which Filter looks for them.
const (
	Accepted            Reject = iota
	RejectTooShort             // no whole VRRP header
	RejectVRID                 // not ours, or 0
	RejectOwnAddress           // from our own address: looped back, or a duplicate address on the link
	RejectFamily               // IPv4 where we speak IPv6, the other way round, or version 2 on IPv6
	RejectTTL                  // multicast: not 255, so routed or forged; unicast: outside the peer's min_ttl and max_ttl
	RejectVersion              // not our version of VRRP
	RejectAuthMissing          // auth_hmac: no trailer
	RejectAuthMalformed        // auth_hmac: a trailer of another kind
	RejectAuthStale            // auth_hmac: stamped outside the window
	RejectAuthKey              // auth_hmac: signed with a key that we don't have
	RejectAuthHMAC             // auth_hmac: wrong signature
	RejectAuthReplay           // auth_hmac: not newer than the sender's last one
	RejectAuthType             // version 2: another authentication type than ours
	RejectAuth                 // version 2: wrong password
	RejectInterval             // version 2: another advert_int than ours; version 3: an interval of 0
	RejectType                 // not an ADVERTISEMENT, the only type there is
	RejectLength               // shorter than its address count needs
	RejectNoAddresses          // version 3: count 0
	RejectChecksum             // wrong in every form
	RejectChecksumForm         // version 3 on IPv4: right in the form that is not configured
	RejectDestination          // multicast to a unicast virtual router, the other way round, or another group
	RejectOwner                // owner_ignore_adverts: we own the addresses and listen to nobody
	RejectPeer                 // check_unicast_src: the sender is not a unicast_peer

	NumRejects // how many there are, Accepted included: the size of a table of counters
)

var rejectNames = [NumRejects]string{
	Accepted:            "accepted",
	RejectTooShort:      "too_short",
	RejectVRID:          "vrid",
	RejectOwnAddress:    "own_address",
	RejectFamily:        "family",
	RejectTTL:           "ttl",
	RejectVersion:       "version",
	RejectAuthMissing:   "auth_missing",
	RejectAuthMalformed: "auth_malformed",
	RejectAuthStale:     "auth_stale",
	RejectAuthKey:       "auth_key",
	RejectAuthHMAC:      "auth_hmac",
	RejectAuthReplay:    "auth_replay",
	RejectAuthType:      "auth_type",
	RejectAuth:          "auth",
	RejectInterval:      "interval",
	RejectType:          "type",
	RejectLength:        "length",
	RejectNoAddresses:   "no_addresses",
	RejectChecksum:      "checksum",
	RejectChecksumForm:  "checksum_form",
	RejectDestination:   "destination",
	RejectOwner:         "owner",
	RejectPeer:          "peer",
}

// String is the reason in one word, fit for a metric's label.
func (r Reject) String() string {
	if r >= NumRejects {
		return "unknown"
	}
	return rejectNames[r]
}

// Warnings are what is odd about an advert that was taken all the same, as keepalived does.
type Warnings uint8

// The warnings.
const (
	WarnInterval    Warnings = 1 << iota // version 3: another interval than ours; a Backup follows it
	WarnAddresses                        // another list of virtual addresses than ours
	WarnSecondOwner                      // we own the addresses, and the sender says that it does
	WarnClock                            // auth_hmac: the sender's clock and ours are half a window apart
	WarnForeign                          // beside WarnAddresses: not one of its addresses is ours
	WarnStranger                         // unicast: the sender is not a unicast_peer, and check_unicast_src is off
)
