// Package system is the kernel as a virtual router needs it: raw sockets for IP protocol 112 (raw(7), ipv6(7)),
// links and addresses by rtnetlink(7).
package system
