// Package store is what one voter has on disk, in one database file: who it is, its part of the log (raft.LogStore, raft.StableStore,
// raft.SnapshotStore), and the words that it gave and must keep. What a method wrote is on disk when it returns. After a failed
// write nothing is written any more until the store is opened again: what is on disk then is not known.
package store
