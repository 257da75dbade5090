// Package quorum puts the quorum extension together for one process: the log of records (raftlog), the leases (lease), the links to
// the other voters (link) and what is on disk (store). The daemon asks it one thing, "may I be master?", and tells it how the
// instances are; it delays no packet.
package quorum
