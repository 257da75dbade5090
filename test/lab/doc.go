// Package lab makes whole hosts out of Linux namespaces (network, mount, pid, uts and ipc: namespaces(7)) on one
// machine, joins them by two bridges, and breaks them: power loss, pulled cables, silent partitions, pauses.
// It needs root and Linux 5.12 or newer, and it never touches the machine's own network, PostgreSQL clusters or files.
// A program that uses it calls Main (or RunTests) first thing, because the hosts' first processes are that program again.
package lab
