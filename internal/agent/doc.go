// Package agent is pgnotify's long-running part in quorum mode, beside one PostgreSQL server: a loop that owns the machine of
// package core, a queue that carries out what that wants done with the server, and the connections to vrrpd, to the other
// nodes' agents and to people. design/quorum.md, section 3, is what it keeps to.
package agent
