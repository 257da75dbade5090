package lab

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// Load is how busy the machine is; figures that are measured without it mean little.
type Load struct {
	Avg1, Avg5 float64
	// CPUStalled is the share of the last 10 s in which some task waited for a processor, in percent; -1 if the
	// kernel doesn't say (no /proc/pressure).
	CPUStalled float64
	// Stalled is the total of such time since boot, for differences between two readings.
	Stalled time.Duration
	At      time.Time
}

// ReadLoad reads /proc/loadavg and /proc/pressure/cpu.
func ReadLoad() Load {
	l := Load{CPUStalled: -1, At: time.Now()}
	if b, err := os.ReadFile("/proc/loadavg"); err == nil {
		if f := strings.Fields(string(b)); len(f) > 1 {
			l.Avg1, _ = strconv.ParseFloat(f[0], 64)
			l.Avg5, _ = strconv.ParseFloat(f[1], 64)
		}
	}
	b, err := os.ReadFile("/proc/pressure/cpu")
	if err != nil {
		return l
	}
	line, _, _ := strings.Cut(string(b), "\n")
	for _, f := range strings.Fields(line) {
		key, value, _ := strings.Cut(f, "=")
		switch key {
		case "avg10":
			l.CPUStalled, _ = strconv.ParseFloat(value, 64)
		case "total":
			us, _ := strconv.ParseInt(value, 10, 64)
			l.Stalled = time.Duration(us) * time.Microsecond
		}
	}
	return l
}

// String fits beside a figure: "load 1.20, cpu stalled 3.5 %".
func (l Load) String() string {
	if l.CPUStalled < 0 {
		return fmt.Sprintf("load %.2f", l.Avg1)
	}
	return fmt.Sprintf("load %.2f, cpu stalled %.1f %%", l.Avg1, l.CPUStalled)
}

// StalledSince returns the share of the time since an earlier reading in which some task waited for a processor, in
// percent, -1 if it's not known.
func (l Load) StalledSince(earlier Load) float64 {
	if l.CPUStalled < 0 || earlier.CPUStalled < 0 || !l.At.After(earlier.At) {
		return -1
	}
	return 100 * float64(l.Stalled-earlier.Stalled) / float64(l.At.Sub(earlier.At))
}
