//go:build netns

package system

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestRealTimeAndLockedMemory runs itself again, because there is no way back for a whole process.
func TestRealTimeAndLockedMemory(t *testing.T) {
	if os.Getenv("PGVRRP_PRIORITY_TEST") == "" {
		c := exec.CommandContext(t.Context(), os.Args[0], "-test.run", "^"+t.Name()+"$", "-test.v")
		c.Env = append(os.Environ(), "PGVRRP_PRIORITY_TEST=1")
		if out, err := c.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return
	}
	if err := RealTime(50); err != nil {
		t.Fatal(err)
	}
	if err := LockMemory(); err != nil {
		t.Fatal(err)
	}
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil || len(tasks) < 2 {
		t.Fatalf("%d threads, %v", len(tasks), err)
	}
	for _, task := range tasks {
		stat, err := os.ReadFile("/proc/self/task/" + task.Name() + "/stat")
		if err != nil {
			continue
		}
		_, rest, _ := strings.Cut(string(stat), ") ")
		f := strings.Fields(rest) // from field 3 of proc_pid_stat(5) on: 40 is rt_priority, 41 policy
		if f[37] != "50" || f[38] != "2" {
			t.Errorf("thread %s has rt_priority %s and policy %s, want 50 and %d (SCHED_RR)", task.Name(), f[37], f[38], unix.SCHED_RR)
		}
	}
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(status), "VmLck:\t       0 kB") {
		t.Error("no memory is locked")
	}
}
