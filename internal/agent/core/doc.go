// Package core decides what pgnotify's agent does with one PostgreSQL server in quorum mode: pledges, grants, the synchronous
// set, rejoining and switchover. Agent.Step is a function of the time, an event and the state; it knows no clock, no server and
// no socket. design/quorum.md, section 3, is its specification; chapters 26 and 27 of PostgreSQL's manual the ground under it.
package core
