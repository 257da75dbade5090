package system

import (
	"errors"
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
	if err := eachThread(func(tid int) error { return unix.SchedSetAttr(tid, &attr, 0) }); err != nil {
		return fmt.Errorf("set real-time priority %d: %w", priority, err)
	}
	return nil
}

// Nice gives every thread of this process a nice value, -20 to 19 (setpriority(2)), keepalived's vrrp_priority. A value below
// ours needs CAP_SYS_NICE.
func Nice(value int) error {
	if err := eachThread(func(tid int) error { return unix.Setpriority(unix.PRIO_PROCESS, tid, value) }); err != nil {
		return fmt.Errorf("set nice value %d: %w", value, err)
	}
	return nil
}

// Affinity keeps every thread of this process on these CPUs (sched_setaffinity(2)), keepalived's vrrp_cpu_affinity.
func Affinity(cpus []int) error {
	var set unix.CPUSet
	for _, cpu := range cpus {
		set.Set(cpu)
	}
	if err := eachThread(func(tid int) error { return unix.SchedSetaffinity(tid, &set) }); err != nil {
		return fmt.Errorf("set CPU affinity %v: %w", cpus, err)
	}
	return nil
}

// eachThread does something to all threads, those too that start meanwhile.
func eachThread(f func(tid int) error) error {
	done := map[int]bool{}
	for {
		tasks, err := os.ReadDir("/proc/self/task")
		if err != nil {
			return err
		}
		news := false
		for _, t := range tasks {
			tid, err := strconv.Atoi(t.Name())
			if err != nil || done[tid] {
				continue
			}
			done[tid], news = true, true
			if err := f(tid); err != nil && !errors.Is(err, unix.ESRCH) { // it has just ended
				return err
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
