// Package netio has connections that cost a Go program less: their reads and writes never wait in the kernel, and Go's scheduler is not told of them.
// It wakes its watchdog thread at each system call that it is told of when nothing else runs, and gives the work of one that takes longer than 20 µs, as
// a packet does that is received by the sender's call, to another thread. With a few small messages a second that costs more than the messages.
package netio
