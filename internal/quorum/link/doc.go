// Package link is the network of one voter: datagrams on every link at once, and mutually authenticated TLS streams for
// the log (hashicorp/raft's StreamLayer) and for calls. It knows who is at the other end: which voter, which state
// directory, which start; it does not know what they say.
package link
