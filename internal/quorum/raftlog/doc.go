// Package raftlog runs one voter's part of the log with hashicorp/raft: how a quorum is founded and joined, who is a member,
// commands, and which voter had better lead. It knows no sockets: it gets a raft.Transport, and asks other voters through
// Peers. A voter is "id@incarnation" to raft, so that an emptied state directory never counts as the voter that it was.
package raftlog
