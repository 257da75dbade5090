// Package lease decides who may be master right now. Its machines (Voter, Holder, Candidate, Coordinator) are pure: Step takes
// the time and an event and gives actions. The holder of a grant is live only until a deadline counted from the sending of a
// renewal that a majority of voters acknowledged; a new epoch begins only after a majority promised to renew the old one no more.
// Neither the clocks of different machines nor the leader of the log is trusted for that, but for the rate of a clock.
package lease
