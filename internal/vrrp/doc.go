// Package vrrp is the protocol core of VRRP without I/O: RFC 3768 (version 2, with the simple text password of
// RFC 2338), RFC 5798 and RFC 9568 (version 3), and keepalived's auth_hmac. AppendAdvert, Signer and Decode are the wire,
// Filter is what a virtual router lets in, Router is its state machine, an event and the time in, actions out, and Group
// keeps several routers together. It knows no clock, socket or log.
package vrrp
