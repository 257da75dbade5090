// Package gratarp announces virtual addresses to a LAN: gratuitous ARP (RFC 826, RFC 5227 section 3) and
// unsolicited neighbour advertisements (RFC 4861 section 7.2.6), repeated for as long as the address is held.
package gratarp
