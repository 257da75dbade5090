// Package cells has the table of double failures of PostgreSQL under quorum, and runs one cell of it after the other on booted hosts:
// faults by role, with clients at work all the while, and then judges what the clients saw. docs/quorum.md says what must come out.
package cells
