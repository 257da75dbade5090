// Package trust is what one shared key file gives to the voters of a cluster: certificates for mutual TLS 1.3 and
// authenticated datagrams. Wall-clock time is no part of it (RFC 5869 for the derivation, RFC 8446 for TLS).
package trust
