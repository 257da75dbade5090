package system

import (
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// RealTime puts every thread of this process under SCHED_RR with the given priority, 1 to 99 (sched(7)), keepalived's
// vrrp_rt_priority. Threads that Go starts later inherit it from the one that starts them; programs that we run do not
// (package child). It needs CAP_SYS_NICE.
func RealTime(priority int) error {
	attr := unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_RR, Priority: uint32(priority)}
	done := map[int]bool{}
	for {
		tasks, err := os.ReadDir("/proc/self/task")
		if err != nil {
			return fmt.Errorf("set real-time priority %d: %w", priority, err)
		}
		news := false
		for _, t := range tasks {
			tid, err := strconv.Atoi(t.Name())
			if err != nil || done[tid] {
				continue
			}
			done[tid], news = true, true
			if err := unix.SchedSetAttr(tid, &attr, 0); err != nil && err != unix.ESRCH { // it has just ended
				return fmt.Errorf("set real-time priority %d: %w", priority, err)
			}
		}
		if !news {
			return nil
		}
	}
}

// IsRealTime reports whether this process was started under real-time scheduling, as by systemd's CPUSchedulingPolicy=.
func IsRealTime() bool {
	attr, err := unix.SchedGetAttr(0, 0)
	return err == nil && (attr.Policy == unix.SCHED_RR || attr.Policy == unix.SCHED_FIFO)
}

// LockMemory keeps the process out of swap, keepalived's vrrp_no_swap (mlockall(2)). It needs CAP_IPC_LOCK. Pages are locked
// once they are touched: Go maps its heap by 64 MiB, most of which is never used.
func LockMemory() error {
	if err := unix.Mlockall(unix.MCL_CURRENT | unix.MCL_FUTURE | unix.MCL_ONFAULT); err != nil {
		return fmt.Errorf("lock memory: %w", err)
	}
	return nil
}
