package system

import (
	"os"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"
)

// TestEveryThread needs no right: a higher nice value, and the CPUs that we have, are open to everybody.
func TestEveryThread(t *testing.T) {
	var had unix.CPUSet
	if err := unix.SchedGetaffinity(0, &had); err != nil {
		t.Fatal(err)
	}
	first := -1
	for cpu := range 1024 {
		if had.IsSet(cpu) {
			first = cpu
			break
		}
	}
	if err := Affinity([]int{first}); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := eachThread(func(tid int) error { return unix.SchedSetaffinity(tid, &had) }); err != nil {
			t.Error(err)
		}
	}()
	before, err := unix.Getpriority(unix.PRIO_PROCESS, 0)
	if err != nil {
		t.Fatal(err)
	}
	want := min(20-before+1, 19) // the system call says 20 less the nice value
	if err := Nice(want); err != nil {
		t.Fatal(err)
	}
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		t.Fatal(err)
	}
	for _, task := range tasks {
		tid, err := strconv.Atoi(task.Name())
		if err != nil {
			t.Fatal(err)
		}
		var set unix.CPUSet
		if err := unix.SchedGetaffinity(tid, &set); err == nil && (set.Count() != 1 || !set.IsSet(first)) {
			t.Errorf("thread %d may run on %d CPUs, want CPU %d alone", tid, set.Count(), first)
		}
		if got, err := unix.Getpriority(unix.PRIO_PROCESS, tid); err == nil && 20-got != want {
			t.Errorf("thread %d has nice value %d, want %d", tid, 20-got, want)
		}
	}
	if err := Affinity([]int{1023}); err == nil && !had.IsSet(1023) {
		t.Error("a CPU that is not there was taken")
	}
}
