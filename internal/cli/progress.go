package cli

import (
	"fmt"
	"io"
	"strings"
	"time"
)

// Progress shows long work: a bar on a terminal, elsewhere a plain line every 10 seconds. Use it from one goroutine.
type Progress struct {
	w        io.Writer
	what     string
	terminal bool
	now      func() time.Time
	last     time.Time
	drawn    bool
}

// NewProgress names the work. Nothing is printed before the first Set.
func NewProgress(w io.Writer, what string) *Progress {
	return &Progress{w: w, what: what, terminal: IsTerminal(w), now: time.Now}
}

// Set tells how many bytes are done; total is 0 if it is unknown.
func (p *Progress) Set(done, total int64) {
	now := p.now()
	least := 10 * time.Second
	if p.terminal {
		least = 100 * time.Millisecond
	}
	if complete := total > 0 && done >= total; !p.last.IsZero() && now.Sub(p.last) < least && !complete {
		return
	}
	p.last = now
	if !p.terminal {
		fmt.Fprintf(p.w, "%s: %s\n", p.what, amount(done, total))
		return
	}
	p.drawn = true
	const width = 30
	bar := strings.Repeat(" ", width)
	if total > 0 {
		n := int(min(done, total) * width / total)
		bar = strings.Repeat("#", n) + strings.Repeat(" ", width-n)
	}
	fmt.Fprintf(p.w, "\r%s [%s] %s\x1b[K", p.what, bar, amount(done, total))
}

// Close ends the bar's line.
func (p *Progress) Close() {
	if p.drawn {
		fmt.Fprintln(p.w)
		p.drawn = false
	}
}

func amount(done, total int64) string {
	if total <= 0 {
		return Size(done)
	}
	return fmt.Sprintf("%s of %s, %d%%", Size(done), Size(total), min(done, total)*100/total)
}

// Size prints bytes with a binary unit: 512 B, 16.0 MiB.
func Size(n int64) string {
	if n > -1024 && n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	v, unit := float64(n)/1024, 0
	for (v >= 1024 || v <= -1024) && unit < 4 {
		v, unit = v/1024, unit+1
	}
	return fmt.Sprintf("%.1f %s", v, [...]string{"KiB", "MiB", "GiB", "TiB", "PiB"}[unit])
}

// ParseSize reads bytes with an optional unit B, kB, MB, GB, TB, KiB, MiB, GiB or TiB; as in PostgreSQL kB, MB, GB and TB
// are powers of 1024.
func ParseSize(s string) (int64, error) {
	digits := strings.TrimRight(s, "BKMGTki ")
	unit := strings.ToLower(strings.TrimSpace(s[len(digits):]))
	shift, ok := map[string]uint{"": 0, "b": 0, "kb": 10, "mb": 20, "gb": 30, "tb": 40, "kib": 10, "mib": 20, "gib": 30, "tib": 40}[unit]
	var n int64
	if ok {
		_, err := fmt.Sscanf(digits, "%d", &n)
		ok = err == nil && fmt.Sprint(n) == digits && n >= 0 && n <= (1<<62)>>shift
	}
	if !ok {
		return 0, fmt.Errorf("size %q: want a number of bytes with an optional unit, as in 16MB", s)
	}
	return n << shift, nil
}
