// Package record is what the voters agree on: for each resource who may be master, in which epoch, and who has all the data.
// Apply is a pure and deterministic function of the state and a command; every command is a compare-and-set. It knows no
// clock, no network and no log.
package record
