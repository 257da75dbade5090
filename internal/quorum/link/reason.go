package link

import "fmt"

// Reason is why a datagram was dropped or a connection refused. Status counts them by name.
type Reason uint8

// The reasons.
const (
	None             Reason = iota
	Malformed               // no datagram or hello of ours, cut short, or with bytes too many
	TooLarge                // above MaxPayload
	OtherVersion            // of the protocol
	BadMAC                  // forged, damaged, or sealed with another key
	OtherKey                // the TLS handshake failed: another key file, or no voter at all
	OtherCluster            // the cluster ids differ
	NoCluster               // one side has not bootstrapped
	UnknownVoter            // the sender is not in our configuration
	OtherVoter              // addressed to another voter than this one, or a name that the certificate denies
	OtherIncarnation        // addressed to another state directory of this voter
	OtherRun                // addressed to an earlier run of this voter
	Replay                  // its number is not above the last one: repeated, or overtaken on the way
	OldStart                // from before the sender's newest start
	TwoRuns                 // two runs claim to be the same start: a copied state directory
	NotAdmitted             // the directory refuses this incarnation or start, or has not answered yet
	Outlived                // the directory knows this incarnation as an old copy, which has forgotten what its voter said
	NoPart                  // this voter's own directory is one
	NotReady                // nothing here takes such connections yet
	Busy                    // too many connections that have not said who they are
	Silent                  // no hello in time
	numReasons
)

// String is the reason's name.
func (r Reason) String() string {
	names := [numReasons]string{
		"none", "malformed", "too large", "other protocol version", "bad mac", "other key", "other cluster", "no cluster",
		"unknown voter", "other voter", "other incarnation", "other run", "replay", "older start", "two runs of one start",
		"not admitted", "outlived", "takes no part", "not ready", "busy", "silent",
	}
	if r < numReasons {
		return names[r]
	}
	return fmt.Sprintf("reason %d", uint8(r))
}

// RefusedError says that a voter was reached and one of the two sides does not talk to the other.
type RefusedError struct {
	Peer   string // "" if it could not say
	ByPeer bool   // the peer refused us; else we refused it
	Reason Reason
	Detail string // a sentence for the operator

	Cluster string // the peer's, if that is the reason
}

// OtherCluster is the cluster that the peer is part of, if that is why one refuses the other; "" if it isn't.
func (e *RefusedError) OtherCluster() string {
	if e.Reason != OtherCluster {
		return ""
	}
	return e.Cluster
}

// Error says who refused whom, and why.
func (e *RefusedError) Error() string {
	peer := "voter " + e.Peer
	if e.Peer == "" {
		peer = "voter of unknown name"
	}
	if e.ByPeer {
		return fmt.Sprintf("%s refuses this one: %s: %s", peer, e.Reason, e.Detail)
	}
	return fmt.Sprintf("refuse %s: %s: %s", peer, e.Reason, e.Detail)
}

// outlived reports whether the peer has shown that our state directory is an old copy: it knows more of what we said than we do, or
// of another run than this one.
func (e *RefusedError) outlived() bool {
	return e.ByPeer && (e.Reason == Outlived || e.Reason == OldStart || e.Reason == TwoRuns)
}

// words are the same for who knows which voter it is about.
func (e *RefusedError) words() string {
	if e.ByPeer {
		return fmt.Sprintf("it refuses this one (%s): %s", e.Reason, e.Detail)
	}
	return fmt.Sprintf("it is refused (%s): %s", e.Reason, e.Detail)
}
