// Package data runs three of pgnotify's agents (internal/agent/core) in virtual time, each beside an abstract PostgreSQL, over the
// real record and with faults drawn from a seed. After every step it checks that no acknowledged commit can be lost. One seed is one
// run, and gives the same run each time.
package data
