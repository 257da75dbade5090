// Package child is the one place that starts other programs: as the user asked for, in a session of their own, with a clean
// environment, and with nothing of ours that survives execve(2): no descriptor, capability, scheduling, limit, oom score, signal.
// See execve(2) "Effect on process attributes", credentials(7), capabilities(7), setrlimit(2), sched(7), proc_pid_oom_score_adj(5).
package child
