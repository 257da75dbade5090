// Package control is vrrpd's local API: HTTP and JSON on a Unix socket, the one status model behind the command line,
// the hooks and the metrics. Each call is decided by the caller's credentials (SO_PEERCRED, unix(7)).
package control
