// Package quiet has connections, timers, a clock and reads of /proc that cost a Go program less: their system calls never wait, and its scheduler is not told of them.
//
// It wakes its watchdog thread at each system call that it is told of when nothing else runs, and gives the work of one that takes longer than 20 µs, as
// a packet does that is received by the sender's call, to another thread. It also wakes that thread twice for each timer of package time. With a few
// small messages a second that costs more than the messages.
package quiet
